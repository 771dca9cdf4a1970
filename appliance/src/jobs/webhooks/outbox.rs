//! The outbox in the catalogue: events that some webhook may still have to be told.
//!
//! It is changed where records are applied, and only there: an event's record puts it in, and what all webhooks have been told goes with the
//! record that says so. Past [`ENTRIES_MAX`] the oldest go untold, and are counted.

use std::collections::BTreeMap;

use backlot_wire::metrics::JOB_WEBHOOKS;
use opentelemetry::KeyValue;
use parking_lot::Mutex;

use super::super::settings;
use super::super::store::Applied;
use super::event::{self, Entry, Event, event_of};
use super::{AT_PREFIX, Definition, PREFIX};
use crate::catalogue::{Batch, Catalogue, CatalogueError, Table};
use crate::telemetry;

/// Most events that wait.
pub(super) const ENTRIES_MAX: usize = 100_000;
/// Events that go at once when there are too many.
const DROPPED_AT_ONCE: usize = 1_000;
/// Most events that one record takes away.
const TRIMMED_MAX: usize = 2_000;

/// What the catalogue says of webhooks, mirrored for its one writer.
#[derive(Default)]
pub(super) struct Outbox {
    mirror: Mutex<Option<Mirror>>,
}

struct Mirror {
    /// Events that each webhook wants.
    wanted: BTreeMap<String, Vec<Event>>,
    /// Up to where each has been told.
    told: BTreeMap<String, u64>,
    entries: usize,
    dropped: u64,
}

impl Mirror {
    fn read(catalogue: &Catalogue) -> Result<Self, CatalogueError> {
        let definitions = settings::load::<Definition>(catalogue, PREFIX)?;
        let mut entries = 0;
        let mut from = Vec::new();
        loop {
            let page = catalogue.range(Table::Outbox, &[], &from, 10_000)?;
            let Some((last, _)) = page.last() else { break };
            from = [last.as_slice(), &[0]].concat();
            entries += page.len();
        }
        Ok(Self {
            wanted: definitions.into_iter().map(|(name, definition)| (name, definition.events)).collect(),
            told: settings::load::<u64>(catalogue, AT_PREFIX)?.into_iter().collect(),
            entries,
            dropped: 0,
        })
    }
}

impl Outbox {
    fn with<T>(&self, catalogue: &Catalogue, act: impl FnOnce(&mut Mirror) -> T) -> Result<T, String> {
        let mut mirror = self.mirror.lock();
        if mirror.is_none() {
            *mirror = Some(Mirror::read(catalogue).map_err(|error| error.to_string())?);
        }
        match &mut *mirror {
            Some(mirror) => Ok(act(mirror)),
            None => unreachable!("was filled just above"),
        }
    }

    /// A job's record is applied. True: somebody is to be told.
    pub(super) fn applied(
        &self,
        lsn: u64,
        applied: &Applied,
        catalogue: &Catalogue,
        batch: &mut Batch,
    ) -> Result<bool, String> {
        let Some(event) = event_of(applied.before.as_ref(), &applied.after) else { return Ok(false) };
        self.with(catalogue, |mirror| {
            if !mirror.wanted.values().any(|events| events.contains(&event)) {
                return Ok(false);
            }
            if mirror.entries >= ENTRIES_MAX {
                let oldest = catalogue.range(Table::Outbox, &[], &[], DROPPED_AT_ONCE).map_err(|e| e.to_string())?;
                mirror.entries = mirror.entries.saturating_sub(oldest.len());
                mirror.dropped += oldest.len() as u64;
                let labels = [KeyValue::new("webhook", "all"), KeyValue::new("outcome", "dropped")];
                telemetry::counter(&JOB_WEBHOOKS).add(oldest.len() as u64, &labels);
                tracing::error!(dropped = oldest.len(), "too many events wait for webhooks; the oldest are not told");
                oldest.into_iter().for_each(|(key, _)| batch.delete(Table::Outbox, key));
            }
            Entry::of(event, &applied.after).put(lsn, batch)?;
            mirror.entries += 1;
            Ok(true)
        })?
    }

    /// A setting's record is applied: `key` with its prefix.
    pub(super) fn set(
        &self,
        key: &str,
        payload: &[u8],
        catalogue: &Catalogue,
        batch: &mut Batch,
    ) -> Result<(), String> {
        self.with(catalogue, |mirror| {
            if let Some(name) = key.strip_prefix(PREFIX) {
                match settings::value_of::<Definition>(payload)? {
                    Some(definition) => drop(mirror.wanted.insert(name.to_owned(), definition.events)),
                    None => drop(mirror.wanted.remove(name)),
                }
            } else if let Some(name) = key.strip_prefix(AT_PREFIX) {
                match settings::value_of::<u64>(payload)? {
                    Some(at) => drop(mirror.told.insert(name.to_owned(), at)),
                    None => drop(mirror.told.remove(name)),
                }
            }
            // What all have been told goes; without a webhook, all of it.
            let told = mirror.wanted.keys().map(|name| mirror.told.get(name).copied().unwrap_or(0)).min();
            let told = told.unwrap_or(u64::MAX);
            let oldest = catalogue.range(Table::Outbox, &[], &[], TRIMMED_MAX).map_err(|error| error.to_string())?;
            for (key, _) in oldest.into_iter().take_while(|(key, _)| event::lsn_of(key).is_none_or(|lsn| lsn <= told)) {
                batch.delete(Table::Outbox, key);
                mirror.entries = mirror.entries.saturating_sub(1);
            }
            Ok(())
        })?
    }

    /// Events that wait, and those that went untold because there were too many.
    pub(super) fn counts(&self) -> (usize, u64) {
        self.mirror.lock().as_ref().map_or((0, 0), |mirror| (mirror.entries, mirror.dropped))
    }
}

/// Up to `limit` events after `at`, in order.
pub(super) fn after(catalogue: &Catalogue, at: u64, limit: usize) -> Result<Vec<(u64, Entry)>, CatalogueError> {
    let from = event::key(at.saturating_add(1));
    let page = catalogue.range(Table::Outbox, &[], &from, limit)?;
    let entry = |(key, value): (Vec<u8>, Vec<u8>)| {
        let lsn = event::lsn_of(&key)?;
        match Entry::read(&value) {
            Ok(entry) => Some((lsn, entry)),
            Err(problem) => {
                tracing::error!(lsn, problem, "an event in the outbox is not understood, and not told");
                None
            }
        }
    };
    Ok(page.into_iter().filter_map(entry).collect())
}
