//! The job as the appliance shows it, and the names that it is made of.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{Attempt, JobSpec, Timestamp};

/// Longest `job_id` and `type` that are taken, in bytes.
pub const NAME_BYTES_MAX: usize = 128;

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
    /// What the attempt under way has made so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partial: Vec<Output>,
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
    /// What kind of failure it was, where that is known; see [`crate::cause`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}
