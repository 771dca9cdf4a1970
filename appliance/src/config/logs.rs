//! How log records are told apart.

use serde::{Deserialize, Serialize};

/// Records that are kept for a time of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogClass {
    pub name: String,
    /// A query as in log search.
    #[serde(rename = "match")]
    pub query: String,
    /// As `logs.retention_days`, and that when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<u64>,
    /// Most bytes on disk; no limit of its own when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// As `logs.cold_days`; its windows stay here when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_days: Option<u64>,
}
