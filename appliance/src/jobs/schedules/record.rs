//! A schedule in the journal and in the catalogue: one record, whole with each change.

use backlot_wire::{ScheduleOrder, Timestamp};
use serde::{Deserialize, Serialize};

use super::super::record::Entry;
use super::super::store::{self, Part, StoreError};
use crate::catalogue::{Batch, Catalogue, Table};
use crate::control::Record;

/// Names of all schedules.
const NAMES: u8 = 7;

/// A schedule as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::jobs) struct Stored {
    pub name: String,
    pub order: ScheduleOrder,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Who its jobs are from.
    pub sender_id: String,
    /// Times up to this one have been looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_job_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

impl Stored {
    pub(super) fn new(name: &str, order: ScheduleOrder, at: Timestamp) -> Self {
        Self {
            name: name.to_owned(),
            order,
            created_at: at,
            updated_at: at,
            sender_id: String::new(),
            seen_at: Some(at),
            last_at: None,
            last_job_id: None,
            last_error: None,
            deleted: false,
        }
    }

    pub(super) fn encode(&self) -> Record {
        Entry::Schedule(Box::new(self.clone())).encode()
    }
}

fn name_key(name: &str) -> Vec<u8> {
    [&[NAMES], name.as_bytes()].concat()
}

/// What a record changes in the catalogue.
pub(in crate::jobs) fn project(schedule: &Stored, catalogue: &Catalogue, batch: &mut Batch) -> Result<(), String> {
    let name = &schedule.name;
    if schedule.deleted {
        store::delete_part(catalogue, batch, name, Part::Schedule)?;
        batch.delete(Table::Jobs, name_key(name));
        return Ok(());
    }
    let bytes = serde_json::to_vec(schedule).map_err(|error| format!("schedule `{name}`: {error}"))?;
    // Nobody reads one while it is written: the revision tells nothing apart.
    store::put_part(catalogue, batch, name, Part::Schedule, 1, &bytes, true)?;
    batch.put(Table::Jobs, name_key(name), Vec::new());
    Ok(())
}

/// Up to `limit` schedules, by name.
pub(super) fn all(catalogue: &Catalogue, limit: usize) -> Result<Vec<Stored>, StoreError> {
    let mut found = Vec::new();
    for (key, _) in catalogue.range(Table::Jobs, &[NAMES], &[], limit)? {
        let name = String::from_utf8_lossy(key.get(1..).unwrap_or_default()).into_owned();
        if let Some(bytes) = store::read_part(catalogue, &name, Part::Schedule)? {
            let damaged =
                |error: serde_json::Error| StoreError::Damaged { id: name.clone(), problem: error.to_string() };
            found.push(serde_json::from_slice(&bytes).map_err(damaged)?);
        }
    }
    Ok(found)
}
