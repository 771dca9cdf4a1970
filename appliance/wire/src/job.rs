//! What a job is: the specification that a client sends, and the job as the appliance shows it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

use crate::{Attempt, Timestamp};

/// Longest `job_id` and `type` that are taken, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// Most inputs a job may name.
pub const INPUTS_MAX: usize = 1_000;
/// Most labels a job may carry.
pub const LABELS_MAX: usize = 64;

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// W3C trace context: as sent, the submitter's; as delivered, that of the job's own span in the same trace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// An artifact that a job reads: `s3://bucket/key`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    pub uri: String,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// Failures (not attempts that were given back or lost) after which the job goes to the DLQ.
    pub failures: u32,
    /// First pause, in seconds; doubled with each failure, with jitter.
    pub backoff_s: u64,
}

impl Default for Retry {
    fn default() -> Self {
        Self { failures: 3, backoff_s: 10 }
    }
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

    /// Checks the bounds that the types do not express.
    ///
    /// # Errors
    /// The first field that is out of its bounds.
    pub fn check(&self) -> Result<(), SpecError> {
        let field = |field, problem: &str| Err(SpecError::Field { field, problem: problem.to_owned() });
        if !is_name(&self.kind) {
            return field("type", "is 1 to 128 letters, digits, `.`, `_`, `-`");
        }
        if self.job_id.as_deref().is_some_and(|id| !is_name(id)) {
            return field("job_id", "is 1 to 128 letters, digits, `.`, `_`, `-`");
        }
        for (name, value) in [("user_id", &self.user_id), ("project_id", &self.project_id)] {
            if value.as_ref().is_some_and(|id| id.is_empty() || id.len() > 256 || id.chars().any(char::is_control)) {
                return field(name, "is 1 to 256 bytes without control characters");
            }
        }
        if self.labels.len() > LABELS_MAX {
            return field("labels", "has more than 64 entries");
        }
        if self.labels.iter().any(|(k, v)| !is_name(k) || v.len() > 256) {
            return field(
                "labels",
                "has a name that is not 1 to 128 letters, digits, `.`, `_`, `-`, or a value over 256 bytes",
            );
        }
        if self.inputs.len() > INPUTS_MAX {
            return field("inputs", "has more than 1,000 entries");
        }
        if let Some(input) =
            self.inputs.iter().find(|input| split_s3_uri(&input.uri).is_none_or(|(_, key)| key.is_empty()))
        {
            return Err(SpecError::Field {
                field: "inputs",
                problem: format!(
                    "has `{}`, which is not s3://bucket/key",
                    input.uri.chars().take(200).collect::<String>()
                ),
            });
        }
        if self.output.as_ref().is_some_and(|output| split_s3_uri(&output.prefix).is_none()) {
            return field("output.prefix", "is not s3://bucket/prefix/");
        }
        if self.requirements.vram_gb.is_some_and(|gb| !gb.is_finite() || !(0.0..=4096.0).contains(&gb)) {
            return field("requirements.vram_gb", "is a number of GB from 0 to 4096");
        }
        if self.requirements.arch.as_ref().is_some_and(|arch| parse_arch(arch).is_none()) {
            return field("requirements.arch", "is `sm_NN` or `sm_NN+`");
        }
        for (name, value) in [("limits.soft_s", self.limits.soft_s), ("limits.hard_s", self.limits.hard_s)] {
            if value.is_some_and(|s| s == 0 || s > 30 * 86_400) {
                return field(name, "is 1 second to 30 days");
            }
        }
        if let (Some(soft), Some(hard)) = (self.limits.soft_s, self.limits.hard_s)
            && soft > hard
        {
            return field("limits.soft_s", "is more than limits.hard_s");
        }
        if self.retry.failures == 0 || self.retry.failures > 100 {
            return field("retry.failures", "is 1 to 100");
        }
        if self.retry.backoff_s > 86_400 {
            return field("retry.backoff_s", "is at most 86,400 seconds");
        }
        if self.traceparent.as_deref().is_some_and(|text| !is_traceparent(text)) {
            return field("traceparent", "is not a W3C trace context (00-<32 hex>-<16 hex>-<2 hex>)");
        }
        Ok(())
    }
}

/// The name of a job type in today's words; the studio's older names are aliases.
#[must_use]
pub fn canonical_type(kind: &str) -> &str {
    match kind {
        "image_generation" => "image.generate",
        "video_generation" => "video.generate",
        "audio_generation" => "audio.generate",
        other => other,
    }
}

/// Whether `text` may name a job, a type, a label or an agent.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn is_traceparent(text: &str) -> bool {
    let mut parts = text.split('-');
    let hex = |part: Option<&str>, digits: usize| {
        part.is_some_and(|p| p.len() == digits && p.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
    };
    hex(parts.next(), 2)
        && hex(parts.next(), 32)
        && hex(parts.next(), 16)
        && hex(parts.next(), 2)
        && parts.next().is_none()
}

/// `sm_80` is (80, false), `sm_80+` is (80, true).
#[must_use]
pub fn parse_arch(text: &str) -> Option<(u32, bool)> {
    let rest = text.strip_prefix("sm_")?;
    let (digits, or_later) = rest.strip_suffix('+').map_or((rest, false), |digits| (digits, true));
    (digits.len() <= 4 && digits.bytes().all(|b| b.is_ascii_digit())).then_some(())?;
    Some((digits.parse().ok()?, or_later))
}

/// `s3://bucket/key` as (bucket, key); the key may be empty.
#[must_use]
pub fn split_s3_uri(uri: &str) -> Option<(&str, &str)> {
    let rest = uri.strip_prefix("s3://")?;
    let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
    (bucket.len() >= 3 && bucket.len() <= 63 && key.len() <= 1024).then_some((bucket, key))
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobStatus {
    Scheduled,
    Waiting,
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl JobStatus {
    /// Succeeded, failed and cancelled jobs change no more (but for a retry by hand, which queues them again).
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A job as the appliance keeps and shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub id: String,
    pub queue: String,
    pub status: JobStatus,
    /// The specification with `job_id`, `created_at` and `traceparent` filled in.
    pub spec: JobSpec,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Of a scheduled job: not delivered before this, by its sender's delay or to rest after a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs_after: Option<Timestamp>,
    /// 0 to 100, of the newest attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<f32>,
    /// Failures counted against `retry.failures`.
    #[serde(default)]
    pub failures: u32,
    #[serde(default)]
    pub cancel_requested: bool,
    /// Oldest first.
    #[serde(default)]
    pub attempts: Vec<Attempt>,
    /// What the newest successful attempt made.
    #[serde(default)]
    pub outputs: Vec<Output>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<JobError>,
    /// 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// An artifact that an attempt made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Output {
    pub uri: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub width: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub height: Option<u32>,
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobError {
    pub message: String,
    /// The same input would fail again: it is not retried.
    pub permanent: bool,
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
    fn the_studios_older_form_is_read() {
        let spec = JobSpec::parse(
            r#"{"job_id":"j-1","user_id":"u","project_id":"p","type":"image_generation","parameters":{"prompt":"x"},
                "priority":"high","created_at":"2026-11-22T12:00:00Z"}"#,
        )
        .unwrap();
        assert_eq!((spec.kind.as_str(), spec.priority), ("image.generate", 8));
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
