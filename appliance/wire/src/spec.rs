//! A job specification: what a client sends.

mod check;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

use crate::Timestamp;
use crate::job::canonical_type;

pub use check::nests_deeper;

/// Most inputs a job may name.
pub const INPUTS_MAX: usize = 1_000;
/// Most labels a job may carry.
pub const LABELS_MAX: usize = 64;
/// Most levels of arrays and objects in a value that is free in its form. A job is kept and shown inside of other JSON, and
/// readers of JSON end at 128 levels: what is taken must be readable wherever it stands later.
pub const NESTING_MAX: usize = 64;
/// Most jobs that one job may wait for.
pub const AFTER_MAX: usize = 1_000;
/// Farthest that a job may be put off, in seconds: a leap year.
pub const DELAY_S_MAX: u64 = 366 * 86_400;
/// Longest time for which a key is held for one job, in seconds (30 days).
pub const UNIQUE_S_MAX: u64 = 30 * 86_400;
/// Most memory that a job may require of a GPU, in GB.
pub const VRAM_GB_MAX: f64 = 4096.0;
/// Most causes that `retry.causes` may name.
pub const CAUSES_MAX: usize = 16;

/// A job specification: the body of a message on a job queue, and of `POST /v1/jobs`.
///
/// Only `type` is required. The studio's older form (`priority: low|normal|high`, types such as
/// `image_generation`) is read as well. Fields that this version does not know are kept in `extra`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// Chosen by the client or, where absent, by the appliance (a UUID).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<String>,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_id: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Input>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputTarget>,
    /// 0 (last) to 9 (first).
    #[serde(default = "default_priority", deserialize_with = "priority")]
    pub priority: u8,
    #[serde(default, skip_serializing_if = "Requirements::is_empty")]
    pub requirements: Requirements,
    #[serde(default, skip_serializing_if = "Limits::is_empty")]
    pub limits: Limits,
    #[serde(default)]
    pub retry: Retry,
    /// Not delivered before this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// The same in seconds from the submit; the appliance fills in `run_at`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique: Option<Unique>,
    /// What it counts against beside its queue, where rates are limited by key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Jobs that must have ended before this one is queued. An input that names a job is one of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
    /// The flow that the job belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flow_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// W3C trace context: as sent, the submitter's; as delivered, that of the job's own span in the same trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a job reads: an artifact, `s3://bucket/key`, or what another job has made, which becomes artifacts
/// before the job is delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Empty where `job` is named.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uri: String,
    /// A job whose outputs are read. It is waited for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Which of its outputs, from 0; all of them where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<usize>,
    /// `end`: it need not succeed, and what it has not made is left out.
    #[serde(default, skip_serializing_if = "On::is_success")]
    pub on: On,
}

impl Input {
    /// The artifact at `uri`.
    #[must_use]
    pub fn artifact(uri: impl Into<String>) -> Self {
        Self { uri: uri.into(), ..Self::default() }
    }
}

/// A job that is waited for. Written as its id alone, or as `{"job": id, "on": "end"}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "AfterForm")]
pub struct After {
    pub job: String,
    #[serde(default, skip_serializing_if = "On::is_success")]
    pub on: On,
}

/// What of another job is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum On {
    /// Its success. Where it ends otherwise, who waits for it fails.
    #[default]
    Success,
    /// Its end, whatever it is.
    End,
}

impl On {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
    fn is_success(&self) -> bool {
        *self == Self::Success
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AfterForm {
    Id(String),
    Whole {
        job: String,
        #[serde(default)]
        on: On,
    },
}

impl From<AfterForm> for After {
    fn from(form: AfterForm) -> Self {
        match form {
            AfterForm::Id(job) => Self { job, on: On::Success },
            AfterForm::Whole { job, on } => Self { job, on },
        }
    }
}

/// Jobs with one key begin no faster than the key's rate allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    pub key: String,
}

/// Of several jobs with one key on one queue, one is taken; the others are answered with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unique {
    pub key: String,
    /// The key is held for so long after the job was created, unless the job fails or is cancelled; and in any case until
    /// it has ended. Absent: until it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub period_s: Option<u64>,
}

/// Where a job's outputs go: `s3://bucket/prefix/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputTarget {
    pub prefix: String,
}

/// What a host must have to run the job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Requirements {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vram_gb: Option<f64>,
    /// A CUDA architecture such as `sm_80`, or `sm_80+` for it and every later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl Requirements {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How long one attempt may take, in seconds. Past `soft_s` the worker is asked to end, past `hard_s` it is ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub soft_s: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hard_s: Option<u64>,
}

impl Limits {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How often a job may fail before it is failed for good, and how long it rests in between.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// Failures (not attempts that were given back or lost) after which the job goes to the DLQ.
    pub failures: u32,
    /// First pause, in seconds; doubled with each failure, with jitter.
    pub backoff_s: u64,
    /// Other rules for failures of one [cause](crate::cause).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub causes: BTreeMap<String, CauseRetry>,
}

impl Default for Retry {
    fn default() -> Self {
        Self { failures: 3, backoff_s: 10, causes: BTreeMap::new() }
    }
}

/// What is different after a failure of one cause.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CauseRetry {
    /// Failures of this cause after which the job has failed. They are then not among those that [`Retry::failures`] bounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failures: Option<u32>,
    /// First pause, doubled with each failure of this cause.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_s: Option<u64>,
    /// The next attempt requires so many times the memory: `requirements.vram_gb` is multiplied.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vram_factor: Option<f64>,
    /// The next attempt requires at least so much memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vram_gb: Option<f64>,
}

fn default_priority() -> u8 {
    5
}

fn priority<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(word) => match word.as_str() {
            "low" => Ok(2),
            "normal" => Ok(5),
            "high" => Ok(8),
            other => Err(de::Error::custom(format!("priority `{other}` is none of low, normal, high, 0 to 9"))),
        },
        Value::Number(number) => number
            .as_u64()
            .filter(|n| *n <= 9)
            .and_then(|n| u8::try_from(n).ok())
            .ok_or_else(|| de::Error::custom(format!("priority {number} is not a whole number from 0 to 9"))),
        _ => Err(de::Error::custom("priority is a number from 0 to 9 or one of low, normal, high")),
    }
}

/// Why a text is no job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    #[error("the body is no job specification: {0}")]
    Json(String),
    #[error("`{field}` {problem}")]
    Field { field: &'static str, problem: String },
}

impl JobSpec {
    /// A job of `kind` with everything else at its default.
    #[must_use]
    pub fn new(kind: impl Into<String>) -> Self {
        Self {
            job_id: None,
            kind: kind.into(),
            user_id: None,
            project_id: None,
            labels: BTreeMap::new(),
            parameters: Map::new(),
            inputs: Vec::new(),
            output: None,
            priority: default_priority(),
            requirements: Requirements::default(),
            limits: Limits::default(),
            retry: Retry::default(),
            run_at: None,
            delay_s: None,
            unique: None,
            rate: None,
            after: Vec::new(),
            flow_id: None,
            created_at: None,
            traceparent: None,
            extra: Map::new(),
        }
    }

    /// Reads a message body (JSON, at most what a message may carry) and checks every field.
    ///
    /// # Errors
    /// [`SpecError`] names the field and what it should have been.
    pub fn parse(body: &str) -> Result<Self, SpecError> {
        let mut spec: Self = serde_json::from_str(body).map_err(|error| SpecError::Json(error.to_string()))?;
        spec.kind = canonical_type(&spec.kind).to_owned();
        spec.check()?;
        Ok(spec)
    }

    /// The jobs that this one waits for, by `after` and by its inputs. One may come twice.
    pub fn waits_for(&self) -> impl Iterator<Item = (&str, On)> {
        let after = self.after.iter().map(|after| (after.job.as_str(), after.on));
        after.chain(self.inputs.iter().filter_map(|input| Some((input.job.as_deref()?, input.on))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_type_is_required_and_unknown_fields_are_kept() {
        let spec = JobSpec::parse(r#"{"type":"image.upscale","colour_space":"rec709"}"#).unwrap();
        assert_eq!((spec.priority, spec.retry.failures), (5, 3));
        assert!(serde_json::to_string(&spec).unwrap().contains("rec709"));
    }

    #[test]
    fn values_nest_as_deep_as_every_later_reader_can_follow() {
        let nested = |levels: usize| {
            let value = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            [format!(r#"{{"type":"x","parameters":{{"a":{value}}}}}"#), format!(r#"{{"type":"x","other":{value}}}"#)]
        };
        for body in nested(NESTING_MAX) {
            assert!(JobSpec::parse(&body).is_ok());
        }
        for body in [nested(NESTING_MAX + 1), nested(125)].concat() {
            assert!(JobSpec::parse(&body).unwrap_err().to_string().contains("nests deeper"));
        }
    }

    #[test]
    fn the_studios_older_form_is_read() {
        let spec = JobSpec::parse(
            r#"{"job_id":"j-1","user_id":"u","project_id":"p","type":"image_generation","parameters":{"prompt":"x"},
                "priority":"high","created_at":"2026-11-22T12:00:00Z"}"#,
        )
        .unwrap();
        assert_eq!((spec.kind.as_str(), spec.priority), ("image.generate", 8));
    }

    #[test]
    fn jobs_that_are_waited_for_come_from_after_and_from_inputs() {
        let spec = JobSpec::parse(
            r#"{"type":"x","after":["a",{"job":"b","on":"end"}],"inputs":[{"uri":"s3://abc/x"},{"job":"c","output":0}]}"#,
        )
        .unwrap();
        let waits: Vec<_> = spec.waits_for().collect();
        assert_eq!(waits, [("a", On::Success), ("b", On::End), ("c", On::Success)]);
        let again: JobSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        for (body, word) in [
            ("", "no job specification"),
            ("[]", "no job specification"),
            (r#"{"parameters":{}}"#, "type"),
            (r#"{"type":""}"#, "`type`"),
            (r#"{"type":"a b"}"#, "`type`"),
            (r#"{"type":"x","priority":10}"#, "0 to 9"),
            (r#"{"type":"x","priority":"urgent"}"#, "urgent"),
            (r#"{"type":"x","inputs":[{"uri":"/etc/passwd"}]}"#, "/etc/passwd"),
            (r#"{"type":"x","inputs":[{"uri":"s3://abc/x","job":"y"}]}"#, "neither"),
            (r#"{"type":"x","inputs":[{"uri":"s3://abc/x","output":1}]}"#, "neither"),
            (r#"{"type":"x","inputs":[{}]}"#, "neither"),
            (r#"{"type":"x","after":["a b"]}"#, "no job's id"),
            (r#"{"type":"x","job_id":"a","after":["a"]}"#, "itself"),
            (r#"{"type":"x","job_id":"a","inputs":[{"job":"a"}]}"#, "itself"),
            (r#"{"type":"x","delay_s":400000000}"#, "366 days"),
            (r#"{"type":"x","unique":{"key":""}}"#, "unique.key"),
            (r#"{"type":"x","unique":{"key":"k","period_s":0}}"#, "unique.period_s"),
            (r#"{"type":"x","rate":{"key":""}}"#, "rate.key"),
            (r#"{"type":"x","retry":{"causes":{"out_of_memory":{"vram_factor":2}}}}"#, "requirements.vram_gb"),
            (r#"{"type":"x","retry":{"causes":{"timeout":{"failures":0}}}}"#, "`timeout`"),
            (r#"{"type":"x","requirements":{"arch":"ampere"}}"#, "sm_NN"),
            (r#"{"type":"x","limits":{"soft_s":9,"hard_s":3}}"#, "hard_s"),
            (r#"{"type":"x","retry":{"failures":0}}"#, "failures"),
            (r#"{"type":"x","traceparent":"00-1-2-3"}"#, "traceparent"),
        ] {
            let error = JobSpec::parse(body).unwrap_err().to_string();
            assert!(error.contains(word), "{body}: {error}");
        }
    }
}
