//! What the appliance fills in before a job is queued: its id, the time, its place in a trace.
//!
//! A submitter's `traceparent` is replaced by that of the job's own span in the same trace, so that whatever the
//! workers do hangs under the job, and the job under its submitter.

use backlot_wire::JobSpec;
use rand::RngCore;

use crate::clock::Now;

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
    let submitter = spec.traceparent.as_deref().and_then(TraceParent::parse);
    let own = TraceParent {
        trace: submitter.as_ref().map_or_else(|| random_hex::<16>(chance), |parent| parent.trace.clone()),
        span: random_hex::<8>(chance),
        flags: submitter.as_ref().map_or_else(|| "01".to_owned(), |parent| parent.flags.clone()),
    };
    spec.traceparent = Some(own.text());
    (spec, submitter.map(|parent| parent.span))
}

/// Whether a client asks for what `stored` already is. What the appliance fills in does not count.
pub(super) fn same_order(asked: &JobSpec, stored: &JobSpec) -> bool {
    let bare = |spec: &JobSpec| JobSpec {
        traceparent: None,
        created_at: asked.created_at.and(spec.created_at),
        ..spec.clone()
    };
    bare(asked) == bare(stored)
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
        assert!(same_order(&JobSpec { job_id: first.job_id.clone(), ..JobSpec::new("x") }, &first));
        assert!(!same_order(&JobSpec { job_id: first.job_id.clone(), ..JobSpec::new("y") }, &first));
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
}
