//! A schedule: a job that is queued again and again, at the times of a cron expression.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Timestamp;

/// Body of `PUT /v1/schedules/{name}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleOrder {
    /// Five fields (minute, hour, day of month, month, day of week), or `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`.
    pub cron: String,
    /// A name of the IANA time zone database.
    #[serde(default = "utc")]
    pub timezone: String,
    #[serde(default = "default_queue")]
    pub queue: String,
    #[serde(default)]
    pub missed: Missed,
    #[serde(default)]
    pub paused: bool,
    /// The job's specification, without an id and without a time of its own.
    pub job: Map<String, Value>,
    /// Fields that this version does not know; refused in an order.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What becomes of times at which the appliance was not running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// Nothing.
    #[default]
    Skip,
    /// The last of them is caught up with.
    Last,
    /// All are, the last hundred at most.
    All,
}

/// A schedule as it is shown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    pub name: String,
    #[serde(flatten)]
    pub order: ScheduleOrder,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// The next times, soonest first. None while it is paused.
    #[serde(default)]
    pub next: Vec<Timestamp>,
    /// The newest time that has come, whether a job was queued then or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_job_id: Option<String>,
    /// Why no job could be queued the last time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn default_queue() -> String {
    "jobs".to_owned()
}
