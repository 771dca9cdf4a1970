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

#[cfg(test)]
mod tests {
    use backlot_journal::Lsn;
    use backlot_wire::JobSpec;

    use super::super::super::model::Tracked;
    use super::*;
    use crate::clock::Now;

    struct Desk {
        _dir: tempfile::TempDir,
        catalogue: Catalogue,
        outbox: Outbox,
        lsn: u64,
    }

    impl Desk {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let catalogue = Catalogue::open(&dir.path().join("catalogue")).unwrap();
            Self { _dir: dir, catalogue, outbox: Outbox::default(), lsn: 0 }
        }

        fn apply(&mut self, act: impl FnOnce(&Outbox, u64, &Catalogue, &mut Batch)) {
            self.lsn += 10;
            let mut batch = Batch::default();
            act(&self.outbox, self.lsn, &self.catalogue, &mut batch);
            self.catalogue.apply(batch, Lsn(self.lsn + 1)).unwrap();
        }

        fn set<T: serde::Serialize>(&mut self, key: &str, value: Option<&T>) {
            let record = settings::record(key, value).unwrap();
            self.apply(|outbox, _, catalogue, batch| {
                settings::project(&record.payload, batch).unwrap();
                outbox.set(key, &record.payload, catalogue, batch).unwrap();
            });
        }

        fn define(&mut self, name: &str, events: &[Event]) {
            let definition = serde_json::json!({
                "sealed": "", "target": "http://x/…", "events": events, "query": "", "created_at": 0, "updated_at": 0,
            });
            let at = self.lsn;
            self.set(&format!("{AT_PREFIX}{name}"), Some(&at));
            self.set(&format!("{PREFIX}{name}"), Some(&definition));
        }

        fn queued(&mut self, job: &str) -> u64 {
            let now = Now { mono_ms: 0, wall_ms: 1_000 };
            let after = Tracked::sent(now, "jobs", "m", job.into(), JobSpec::new("x"), 0);
            let applied = Applied { before: None, after };
            self.apply(|outbox, lsn, catalogue, batch| {
                outbox.applied(lsn, &applied, catalogue, batch).unwrap();
            });
            self.lsn
        }

        fn waiting(&self) -> Vec<String> {
            after(&self.catalogue, 0, 1_000).unwrap().into_iter().map(|(_, entry)| entry.job).collect()
        }
    }

    #[test]
    fn events_wait_until_all_webhooks_have_been_told_and_a_restart_knows_them() {
        let mut desk = Desk::new();
        desk.queued("before");
        desk.define("a", &[Event::Queued]);
        let first = desk.queued("j1");
        desk.define("b", &[Event::Queued]);
        let second = desk.queued("j2");
        desk.set(&format!("{AT_PREFIX}b"), Some(&second));
        assert_eq!(desk.waiting(), ["j1", "j2"], "a was told nothing yet; what was before it is nobody's");
        desk.outbox = Outbox::default(); // the process began again
        desk.set(&format!("{AT_PREFIX}a"), Some(&first));
        assert_eq!((desk.waiting(), desk.outbox.counts()), (vec!["j2".to_owned()], (1, 0)));
        desk.set(&format!("{AT_PREFIX}a"), None::<&u64>);
        desk.set(&format!("{PREFIX}a"), None::<&u64>);
        assert_eq!((desk.waiting(), desk.outbox.counts().0), (Vec::<String>::new(), 0), "b has been told all");
        desk.define("c", &[Event::Failed]);
        desk.set(&format!("{PREFIX}b"), None::<&u64>);
        desk.queued("j3");
        assert_eq!(desk.waiting(), Vec::<String>::new(), "nobody wants it");
    }

    #[test]
    fn too_many_events_push_the_oldest_out() {
        let mut desk = Desk::new();
        desk.define("a", &[Event::Queued]);
        for n in 0..3 {
            desk.queued(&format!("j{n}"));
        }
        desk.outbox.with(&desk.catalogue, |mirror| mirror.entries = ENTRIES_MAX).unwrap();
        desk.queued("newest");
        assert_eq!((desk.waiting(), desk.outbox.counts().1), (vec!["newest".to_owned()], 3));
    }
}
