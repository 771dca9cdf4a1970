//! What the appliance fills in before a job is queued: its id, the time, its place in a trace, and what an SQS client said
//! by message attributes.
//!
//! A submitter's `traceparent` is replaced by that of the job's own span in the same trace, so that whatever the
//! workers do hangs under the job, and the job under its submitter.

use backlot_wire::{After, JobSpec, On, Timestamp, Unique, attribute};
use rand::RngCore;
use sha2::{Digest, Sha256};

use crate::clock::Now;
use crate::queue::{AttributeValue, MessageAttribute};

/// A `traceparent` in its parts, each in lower-case hex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TraceParent {
    pub trace: String,
    pub span: String,
    pub flags: String,
}

impl TraceParent {
    /// Reads the W3C form. `None`: it is not that, or says that there is no trace.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('-').collect();
        let hex = |part: &str, digits: usize| {
            part.len() == digits && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let some = |part: &str| part.bytes().any(|b| b != b'0');
        match parts[..] {
            [version, trace, span, flags]
                if hex(version, 2)
                    && version != "ff"
                    && hex(trace, 32)
                    && hex(span, 16)
                    && hex(flags, 2)
                    && some(trace)
                    && some(span) =>
            {
                Some(Self { trace: trace.to_owned(), span: span.to_owned(), flags: flags.to_owned() })
            }
            _ => None,
        }
    }

    fn text(&self) -> String {
        format!("00-{}-{}-{}", self.trace, self.span, self.flags)
    }
}

/// Fills in what is absent. The second value is the submitter's span, if it named one.
pub(super) fn fill_in(mut spec: JobSpec, now: Now, chance: &mut dyn RngCore) -> (JobSpec, Option<String>) {
    if spec.job_id.is_none() {
        let mut random = [0; 10];
        chance.fill_bytes(&mut random);
        spec.job_id = Some(uuid::Builder::from_unix_timestamp_millis(now.wall_ms, &random).into_uuid().to_string());
    }
    spec.created_at.get_or_insert(now.timestamp());
    if let Some(delay_s) = spec.delay_s {
        spec.run_at.get_or_insert(Timestamp(now.wall_ms.saturating_add(delay_s.saturating_mul(1_000))));
    }
    let submitter = spec.traceparent.as_deref().and_then(TraceParent::parse);
    let own = TraceParent {
        trace: submitter.as_ref().map_or_else(|| random_hex::<16>(chance), |parent| parent.trace.clone()),
        span: random_hex::<8>(chance),
        flags: submitter.as_ref().map_or_else(|| "01".to_owned(), |parent| parent.flags.clone()),
    };
    spec.traceparent = Some(own.text());
    (spec, submitter.map(|parent| parent.span))
}

/// Takes over what the attributes of a message say and the body does not.
///
/// # Errors
/// A sentence that names the attribute.
pub(super) fn take_attributes(spec: &mut JobSpec, attributes: &[MessageAttribute]) -> Result<(), String> {
    let mut period_s = None;
    for MessageAttribute { name, value, .. } in attributes {
        let name = name.as_str();
        let known = [
            attribute::PRIORITY,
            attribute::RUN_AT,
            attribute::UNIQUE_KEY,
            attribute::UNIQUE_PERIOD_S,
            attribute::AFTER,
            attribute::TRACEPARENT,
        ];
        let AttributeValue::Text(text) = value else {
            if known.contains(&name) {
                return Err(format!("the message attribute `{name}` is binary; it is a String or a Number"));
            }
            continue;
        };
        let wrong = |should: &str| format!("the message attribute `{name}` is `{text}` and should be {should}");
        match name {
            attribute::PRIORITY => {
                spec.priority = text.parse().ok().filter(|n| *n <= 9).ok_or_else(|| wrong("0 to 9"))?;
            }
            attribute::RUN_AT if spec.run_at.is_none() => spec.run_at = Some(Timestamp::parse_rfc3339(text)?),
            attribute::UNIQUE_KEY if spec.unique.is_none() => {
                spec.unique = Some(Unique { key: text.clone(), period_s: None });
            }
            attribute::UNIQUE_PERIOD_S => {
                period_s = Some(text.parse::<u64>().map_err(|_| wrong("a number of seconds"))?);
            }
            attribute::AFTER if spec.after.is_empty() => {
                let ids = text.split(',').map(|id| After { job: id.trim().to_owned(), on: On::Success });
                spec.after = ids.collect();
            }
            // A trace that is none is no reason to refuse a job.
            attribute::TRACEPARENT if spec.traceparent.is_none() => {
                spec.traceparent = TraceParent::parse(text).map(|_| text.clone());
            }
            _ => {}
        }
    }
    match (&mut spec.unique, period_s) {
        (Some(unique), Some(period_s)) => unique.period_s = unique.period_s.or(Some(period_s)),
        (None, Some(_)) => {
            let (period, key) = (attribute::UNIQUE_PERIOD_S, attribute::UNIQUE_KEY);
            return Err(format!("the message attribute `{period}` needs `{key}`"));
        }
        _ => {}
    }
    spec.check().map_err(|error| error.to_string())
}

/// The id of what client `key_id` asked for with `Idempotency-Key: key`: the same each time, and nobody else's.
pub(super) fn id_of_key(key_id: &str, key: &str) -> String {
    let digest = Sha256::new().chain_update(key_id).chain_update([0]).chain_update(key).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

fn random_hex<const BYTES: usize>(chance: &mut dyn RngCore) -> String {
    let mut bytes = [0; BYTES];
    while bytes.iter().all(|byte| *byte == 0) {
        chance.fill_bytes(&mut bytes);
    }
    hex::encode(bytes)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    const NOW: Now = Now { mono_ms: 5, wall_ms: 1_763_812_800_000 };

    #[test]
    fn a_bare_job_gets_an_id_a_time_and_a_trace_of_its_own() {
        let mut chance = ChaCha8Rng::seed_from_u64(1);
        let (first, parent) = fill_in(JobSpec::new("x"), NOW, &mut chance);
        let (second, _) = fill_in(JobSpec::new("x"), NOW, &mut chance);
        assert_eq!(parent, None);
        assert_eq!(first.created_at, Some(NOW.timestamp()));
        assert_ne!(first.job_id, second.job_id);
        assert!(first.job_id.as_deref().unwrap().len() == 36 && first.check().is_ok());
        let trace = |spec: &JobSpec| TraceParent::parse(spec.traceparent.as_deref().unwrap()).unwrap().trace;
        assert_ne!(trace(&first), trace(&second));
    }

    #[test]
    fn a_submitters_trace_goes_on_under_a_span_of_the_jobs_own() {
        let sent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        let spec = JobSpec { traceparent: Some(sent.into()), ..JobSpec::new("x") };
        let (filled, parent) = fill_in(spec, NOW, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(parent.as_deref(), Some("00f067aa0ba902b7"));
        let own = TraceParent::parse(filled.traceparent.as_deref().unwrap()).unwrap();
        assert_eq!((own.trace.as_str(), own.flags.as_str()), ("4bf92f3577b34da6a3ce929d0e0e4736", "00"));
        assert_ne!(own.span, "00f067aa0ba902b7");
    }

    #[test]
    fn a_trace_of_zeros_is_none() {
        for bad in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn attributes_say_what_the_body_does_not() {
        let text = |name: &str, value: &str| MessageAttribute {
            name: name.into(),
            data_type: "String".into(),
            value: AttributeValue::Text(value.into()),
        };
        let mut spec = JobSpec::new("x");
        let all = [
            text("backlot.priority", "8"),
            text("backlot.run_at", "2026-11-23T03:00:00+01:00"),
            text("backlot.unique_period_s", "60"),
            text("backlot.unique_key", "shot-42"),
            text("backlot.after", "a, b"),
            text("someone.elses", "1"),
        ];
        take_attributes(&mut spec, &all).unwrap();
        assert_eq!((spec.priority, spec.run_at), (8, Some(Timestamp::parse_rfc3339("2026-11-23T02:00:00Z").unwrap())));
        assert_eq!(spec.unique, Some(Unique { key: "shot-42".into(), period_s: Some(60) }));
        assert_eq!(spec.after.iter().map(|after| after.job.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        for bad in [
            text("backlot.priority", "10"),
            text("backlot.run_at", "tomorrow"),
            text("backlot.unique_period_s", "60"),
            text("backlot.after", "a,,b"),
            MessageAttribute { value: AttributeValue::Binary(vec![1]), ..text("backlot.run_at", "") },
        ] {
            assert!(take_attributes(&mut JobSpec::new("x"), std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_idempotency_key_is_one_id_for_its_client_alone() {
        assert_eq!(id_of_key("AK", "k"), id_of_key("AK", "k"));
        assert_ne!(id_of_key("AK", "k"), id_of_key("AL", "k"));
        assert_ne!(id_of_key("AK", "k"), id_of_key("A", "Kk"));
    }
}
