//! By what a job is found.
//!
//! | name | how |
//! | --- | --- |
//! | id, type, status, user, project, queue, agent, trace, flow, cause | as a whole, or by its beginning |
//! | priority, failures, attempts, cost | number |
//! | duration, wait, gpu | number of seconds |
//! | created, updated, started, ended, runs_after | moment |
//! | `parameters.…`, `labels.…` | words and phrases; numbers by range |
//! | error, reason, input, output | words and phrases |
//! | text | bare words: all parameters and labels, errors and reasons, the id |

use backlot_windows::{Document, Value as Indexed, clip};
use backlot_wire::Timestamp;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::super::model::Tracked;
use super::language::{HOUR_MS, TEXT, hours};

/// Most names that a job's parameters are found by.
const PARAMETERS_MAX: usize = 256;
/// Names within names go so deep.
const DEPTH_MAX: usize = 8;
/// Longest name.
const NAME_BYTES_MAX: usize = 200;
/// A text is found by so many of its first bytes: a prompt fits, a film script does not.
const TEXT_BYTES_MAX: usize = 16 * 1024;
/// All texts of a job together.
const ALL_TEXTS_BYTES_MAX: usize = 64 * 1024;
/// Most artifacts that a job is found by, of its inputs and of its outputs.
const ARTIFACTS_MAX: usize = 32;

/// The document of a job as it is now. Its moment and its number never change.
pub(in crate::jobs) fn document(tracked: &Tracked) -> Document {
    let (head, spec) = (&tracked.head, &tracked.spec);
    let time_ns = i64::try_from(head.created_at.unix_ms()).unwrap_or(0).saturating_mul(1_000_000);
    let mut writer = Writer { document: Document::new(time_ns, number_of(&head.id)), texts_bytes: 0, names: 0 };
    for (name, value) in [
        ("id", Some(head.id.as_str())),
        ("type", Some(spec.kind.as_str())),
        ("status", Some(head.status.as_str())),
        ("user", spec.user_id.as_deref()),
        ("project", spec.project_id.as_deref()),
        ("queue", Some(head.queue.as_str())),
        ("trace", head.trace_id.as_deref()),
        ("flow", spec.flow_id.as_deref()),
        ("cause", tracked.error.as_ref().and_then(|error| error.cause.as_deref())),
    ] {
        if let Some(value) = value {
            writer.document.add(name, Indexed::Keyword(value.to_owned()));
        }
    }
    writer.number("priority", f64::from(spec.priority));
    writer.number("failures", f64::from(head.failures));
    writer.number("attempts", f64::from(tracked.newest().map_or(0, |attempt| attempt.number)));
    for (name, at) in [
        ("created", Some(head.created_at)),
        ("updated", Some(head.updated_at)),
        ("started", head.started_at),
        ("ended", head.ended_at),
        ("runs_after", head.runs_after),
    ] {
        if let Some(at) = at {
            writer.moment(name, at);
        }
    }
    let seconds = |from: Timestamp, to: Timestamp| to.unix_ms().saturating_sub(from.unix_ms()) as f64 / 1_000.0;
    if let Some(started) = head.started_at {
        writer.seconds("wait", seconds(head.created_at, started));
        if let Some(ended) = head.ended_at {
            writer.seconds("duration", seconds(started, ended));
        }
    }
    writer.text(TEXT, &head.id);
    for (name, value) in &spec.labels {
        writer.value(&format!("labels.{name}"), &Value::String(value.clone()), DEPTH_MAX);
        if let Ok(number) = value.parse::<f64>() {
            writer.number(format!("labels.{name}"), number);
        }
    }
    if let Some(error) = &tracked.error {
        writer.text("error", &error.message);
        writer.text(TEXT, &error.message);
    }
    let (mut gpu_s, mut cost_usd, mut agents) = (0.0, 0.0, std::collections::BTreeSet::new());
    for attempt in &tracked.attempts {
        gpu_s += attempt.gpu_s.unwrap_or(0.0);
        cost_usd += attempt.cost_usd.unwrap_or(0.0);
        agents.extend(attempt.agent.as_deref());
        if let Some(reason) = &attempt.reason {
            writer.text("reason", reason);
            writer.text(TEXT, reason);
        }
    }
    for agent in agents {
        writer.document.add("agent", Indexed::Keyword(agent.to_owned()));
    }
    if gpu_s > 0.0 {
        writer.seconds("gpu", gpu_s);
    }
    if cost_usd > 0.0 {
        writer.number("cost", cost_usd);
    }
    for (name, value) in &spec.parameters {
        writer.value(&format!("parameters.{name}"), value, DEPTH_MAX);
    }
    for input in spec.inputs.iter().take(ARTIFACTS_MAX) {
        writer.text("input", &input.uri);
    }
    for output in tracked.outputs.iter().take(ARTIFACTS_MAX) {
        writer.text("output", &output.uri);
    }
    writer.document.source = head.id.as_bytes().to_vec();
    writer.document
}

/// A job's number among those of one millisecond: from its id alone, so that it stays.
fn number_of(id: &str) -> u64 {
    let digest = Sha256::digest(id.as_bytes());
    digest.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

struct Writer {
    document: Document,
    texts_bytes: usize,
    names: usize,
}

impl Writer {
    fn number(&mut self, name: impl Into<std::borrow::Cow<'static, str>>, number: f64) {
        self.document.add(name, Indexed::Number(number));
    }

    /// To a tenth, and past a hundred to the second: there are not so many different ones then.
    fn seconds(&mut self, name: &'static str, s: f64) {
        self.number(name, if s < 100.0 { (s * 10.0).round() / 10.0 } else { s.round() });
    }

    fn moment(&mut self, name: &'static str, at: Timestamp) {
        let ms = at.unix_ms() as f64;
        self.number(name, ms);
        self.number(hours(name), (ms / HOUR_MS).floor());
    }

    fn text(&mut self, name: &str, text: &str) {
        let room = ALL_TEXTS_BYTES_MAX.saturating_sub(self.texts_bytes).min(TEXT_BYTES_MAX);
        let kept = clip(text, room.min(text.len()));
        self.texts_bytes += kept.len();
        if !kept.is_empty() {
            self.document.add(name.to_owned(), Indexed::Text(kept.to_owned()));
        }
    }

    fn value(&mut self, name: &str, value: &Value, depth: usize) {
        if self.names >= PARAMETERS_MAX || name.len() > NAME_BYTES_MAX {
            return;
        }
        match value {
            Value::Null => {}
            Value::Bool(value) => {
                self.names += 1;
                self.text(name, if *value { "true" } else { "false" });
            }
            Value::Number(number) => {
                self.names += 1;
                if let Some(number) = number.as_f64() {
                    self.number(name.to_owned(), number);
                }
                self.text(TEXT, &number.to_string());
            }
            Value::String(text) => {
                self.names += 1;
                self.text(name, text);
                self.text(TEXT, text);
            }
            Value::Array(elements) if depth > 0 => {
                elements.iter().for_each(|element| self.value(name, element, depth - 1));
            }
            Value::Object(entries) if depth > 0 => {
                entries.iter().for_each(|(key, value)| self.value(&format!("{name}.{key}"), value, depth - 1));
            }
            Value::Array(_) | Value::Object(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use backlot_wire::{JobError, JobSpec, JobStatus};

    use super::super::language::parse;
    use super::*;
    use crate::clock::Now;

    const NOW: Now = Now { mono_ms: 0, wall_ms: 1_795_348_800_000 };

    fn failed(spec: &str) -> Tracked {
        let spec = JobSpec::parse(spec).unwrap();
        let mut tracked = Tracked::sent(NOW, "jobs", "m", "shot-12".into(), spec, 0);
        tracked.received(Now { wall_ms: NOW.wall_ms + 5_000, ..NOW }, Some("gpu-7"));
        let error = JobError { message: "CUDA: out of memory".into(), permanent: false, cause: None };
        tracked.finish(Now { wall_ms: NOW.wall_ms + 95_000, ..NOW }, JobStatus::Failed, Some(error));
        tracked
    }

    #[test]
    fn a_job_is_found_by_what_it_says_and_by_what_became_of_it() {
        let tracked = failed(
            r#"{"type":"image.generate","user_id":"anna","project_id":"film","priority":7,"labels":{"shot":"42","scene":"night"},
                "parameters":{"prompt":"a red fox in snow","steps":30,"size":{"w":1024},"loras":["ink","film grain"],"tiled":true},
                "inputs":[{"uri":"s3://studio/raw/in.png"}]}"#,
        );
        let document = document(&tracked);
        for (text, found) in [
            ("", true),
            ("status:failed user:anna \"out of memory\" parameters.steps:[20 TO 50] created:>1h", true),
            ("status:failed user:bob", false),
            ("fox snow", true),
            ("\"fox snow\"", false),
            ("prompt:\"red fox\"", true),
            ("error:cuda -error:disk", true),
            ("labels.shot:42 labels.shot:>40 labels.scene:night", true),
            ("parameters.size.w:1024 parameters.loras:\"film grain\" parameters.tiled:true", true),
            ("priority:>=7 failures:0 attempts:1", true),
            ("duration:>89s duration:<91 wait:5", true),
            ("duration:>2m", false),
            ("agent:gpu-7 id:shot* project:film queue:jobs", true),
            ("ended:2026-11-22 started:<now", true),
            ("ended:>2026-11-22", false),
            ("input:in.png", true),
            ("_exists_:error -_exists_:cost", true),
            ("shot", true),
        ] {
            let asked = parse(text, Now { wall_ms: NOW.wall_ms + 60_000, ..NOW }).unwrap();
            let within = document.time_ns >= asked.from_ns && document.time_ns <= asked.to_ns;
            assert_eq!(within && asked.query.matches(&document), found, "{text}");
        }
        assert_eq!(document.source, b"shot-12");
    }

    #[test]
    fn however_much_a_job_says_its_document_is_bounded() {
        let many: serde_json::Map<_, _> =
            (0..2_000).map(|n| (format!("p{n}"), Value::String("word ".repeat(100)))).collect();
        let spec = serde_json::json!({"type": "x", "parameters": {"many": many, "script": "scene ".repeat(50_000)}});
        let document = document(&failed(&spec.to_string()));
        let asked = parse("scene", NOW).unwrap();
        assert!(asked.query.matches(&document) || parse("word", NOW).unwrap().query.matches(&document));
        assert!(format!("{document:?}").len() < 2 * ALL_TEXTS_BYTES_MAX + 100_000);
    }

    #[test]
    fn the_moment_and_the_number_stay() {
        let before = Tracked::sent(NOW, "jobs", "m", "shot-12".into(), JobSpec::new("x"), 0);
        let (before, after) = (document(&before), document(&failed(r#"{"type":"x"}"#)));
        assert_eq!((before.time_ns, before.seq), (after.time_ns, after.seq));
    }
}
