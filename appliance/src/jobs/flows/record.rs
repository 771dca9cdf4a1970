//! A flow in the journal and in the catalogue: one record, whole with each change. It changes a handful of times.
//!
//! While its jobs are being made the record holds their specifications, so that a crash in the middle loses none of them.

use std::collections::BTreeMap;

use backlot_wire::{FlowStatus, JobSpec, OnFailure, Timestamp};
use serde::{Deserialize, Serialize};

use super::super::record::Entry;
use super::super::store::{self, Part, StoreError};
use super::Member;
use crate::catalogue::{Batch, Catalogue, Pair, Table};
use crate::control::Record;

/// Flows that have not ended.
const OPEN: u8 = 5;
/// All of them, by time of creation.
const BY_TIME: u8 = 6;
/// Flows loaded at once at the start.
const LOAD_PAGE: usize = 1_000;

/// A flow as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::jobs) struct Stored {
    pub id: String,
    /// Rises with each change; a record that is not newer changes nothing.
    pub revision: u64,
    /// Of the order, to know the same one again.
    pub digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub queue: String,
    pub on_failure: OnFailure,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    pub status: FlowStatus,
    #[serde(default)]
    pub cancel_requested: bool,
    /// It has ended once; a job that was queued again has opened it anew.
    #[serde(default)]
    pub had_ended: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How many of its jobs had ended how.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, usize>,
    pub sender_id: String,
    /// Those that are waited for before those that wait.
    pub members: Vec<Member>,
    /// Specifications of all jobs, in the same order, until the last of them is made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub to_make: Vec<JobSpec>,
}

impl Stored {
    pub(super) fn encode(&self) -> Record {
        Entry::Flow(Box::new(self.clone())).encode()
    }

    fn time_key(&self) -> Vec<u8> {
        [&[BY_TIME], &self.created_at.unix_ms().to_be_bytes()[..], self.id.as_bytes()].concat()
    }
}

/// What a record changes in the catalogue.
pub(in crate::jobs) fn project(flow: &Stored, catalogue: &Catalogue, batch: &mut Batch) -> Result<(), String> {
    let known = store::revision_after(catalogue, batch, &flow.id, Part::Flow).map_err(|error| error.to_string())?;
    if known.is_some_and(|known| known >= flow.revision) {
        return Ok(());
    }
    let bytes = serde_json::to_vec(flow).map_err(|error| format!("flow `{}`: {error}", flow.id))?;
    store::put_part(catalogue, batch, &flow.id, Part::Flow, flow.revision, &bytes, known.is_some())?;
    let open = [&[OPEN], flow.id.as_bytes()].concat();
    if flow.ended_at.is_some() {
        batch.delete(Table::Jobs, open);
    } else {
        batch.put(Table::Jobs, open, Vec::new());
    }
    batch.put(Table::Jobs, flow.time_key(), Vec::new());
    Ok(())
}

/// Flow `id`, as far as the catalogue has it.
pub(super) fn read(catalogue: &Catalogue, id: &str) -> Result<Option<Stored>, StoreError> {
    let Some(bytes) = store::read_part(catalogue, id, Part::Flow)? else { return Ok(None) };
    let damaged = |error: serde_json::Error| StoreError::Damaged { id: id.to_owned(), problem: error.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Calls `visit` with each flow that has not ended.
pub(super) fn open(catalogue: &Catalogue, visit: &mut dyn FnMut(Stored)) -> Result<(), StoreError> {
    let mut from = Vec::new();
    loop {
        let page: Vec<Pair> = catalogue.range(Table::Jobs, &[OPEN], &from, LOAD_PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        from = [last.as_slice(), &[0]].concat();
        for (key, _) in &page {
            if let Some(flow) = read(catalogue, &String::from_utf8_lossy(key.get(1..).unwrap_or_default()))? {
                visit(flow);
            }
        }
    }
}

/// A page of flows before the key `before` (empty: the newest), with their keys.
pub(super) fn ids_back(
    catalogue: &Catalogue,
    before: &[u8],
    limit: usize,
) -> Result<Vec<(Vec<u8>, String)>, StoreError> {
    let page = catalogue.range_back(Table::Jobs, &[BY_TIME], before, limit)?;
    let id = |key: &[u8]| String::from_utf8_lossy(key.get(9..).unwrap_or_default()).into_owned();
    Ok(page.into_iter().map(|(key, _)| (key.clone(), id(&key))).collect())
}
