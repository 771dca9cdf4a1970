//! Log groups and their streams as the control journal keeps them: a record for each, the newest of which counts, and one
//! that says that it is gone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::control::{Kind, Record};

const VERSION: u8 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Row {
    Group(GroupRow),
    GroupGone { id: String },
    Stream(StreamRow),
    StreamGone { group: String, name: String },
}

/// A log group. A group that was deleted and made again has another id, by which the old one's events are not its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GroupRow {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) created_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) retention_days: Option<u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) tags: BTreeMap<String, String>,
    /// As it was asked for; it changes nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) class: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StreamRow {
    pub(super) id: String,
    /// Id of its group.
    pub(super) group: String,
    pub(super) name: String,
    pub(super) created_ms: u64,
}

impl Row {
    pub(super) fn encode(&self) -> Record {
        let mut payload = vec![VERSION];
        // Texts and numbers always become JSON.
        payload.extend(serde_json::to_vec(self).unwrap_or_default());
        Record { kind: Kind::LogGroup, payload }
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, String> {
        match payload {
            [VERSION, json @ ..] => {
                serde_json::from_slice(json).map_err(|error| format!("record of a log group: {error}"))
            }
            [version, ..] => Err(format!("record of a log group of the later version {version}")),
            [] => Err("empty record of a log group".into()),
        }
    }
}

/// Reads `payload` as a record of log groups and throws the outcome away: for fuzzing.
pub fn fuzz_journal(payload: &[u8]) {
    let _ = Row::decode(payload);
}
