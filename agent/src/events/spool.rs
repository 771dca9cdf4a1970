//! Events that the appliance has not taken yet, on disk, so that they outlast the agent.
//!
//! A record of the journal is either an event or the word that events up to a number were taken; what has not been
//! taken is held in memory as well, within the same bound. Past the bound the oldest progress ticks go first, then
//! the oldest events, and each that goes is counted. A spool whose disk fails goes on in memory and says so once:
//! a job must not fail because its log of progress could not be kept.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use backlot_journal::{Class, Journal, JournalError, Lsn, OpenError, Options};
use backlot_wire::attempt::EVENTS_PER_POST_MAX;
use backlot_wire::{AttemptEvent, EventKind};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

/// Most bytes that are written as one group.
const WRITE_BYTES: usize = 256 << 10;
/// First byte of each record.
const VERSION: u8 = 1;

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Record {
    Event { attempt: String, event: AttemptEvent },
    Taken { attempt: String, taken: u64 },
}

struct Waiting {
    attempt: String,
    event: AttemptEvent,
    bytes: u64,
}

#[derive(Default)]
struct Index {
    waiting: BTreeMap<Lsn, Waiting>,
    ticks: BTreeSet<Lsn>,
    bytes: u64,
    /// Positions for what the journal could not take: above every real one.
    unwritten: u64,
}

impl Index {
    fn insert(&mut self, lsn: Lsn, waiting: Waiting) {
        if is_tick(&waiting.event) {
            self.ticks.insert(lsn);
        }
        self.bytes += waiting.bytes;
        self.waiting.insert(lsn, waiting);
    }

    fn remove(&mut self, lsn: Lsn) -> Option<Waiting> {
        let waiting = self.waiting.remove(&lsn)?;
        self.ticks.remove(&lsn);
        self.bytes -= waiting.bytes;
        Some(waiting)
    }

    fn take(&mut self, attempt: &str, up_to: u64) -> bool {
        let taken: Vec<Lsn> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.attempt == attempt && waiting.event.seq <= up_to)
            .map(|(lsn, _)| *lsn)
            .collect();
        for lsn in &taken {
            self.remove(*lsn);
        }
        !taken.is_empty()
    }
}

fn is_tick(event: &AttemptEvent) -> bool {
    matches!(event.kind, EventKind::Percent { .. } | EventKind::Usage { .. } | EventKind::Preview { .. })
}

/// The spool. One process may have it open.
pub struct Spool {
    journal: Journal,
    index: Mutex<Index>,
    bytes_max: u64,
    dropped: AtomicU64,
    in_memory_alone: AtomicBool,
}

impl Spool {
    /// Opens the spool in `dir`, made where absent, with what a process before this one has left.
    ///
    /// # Errors
    /// [`OpenError`]: another agent has it, or it is damaged.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Self, OpenError> {
        let mut options = Options::new(dir);
        options.segment_bytes = 1 << 20;
        options.record_bytes_max = 256 << 10;
        options.pending_bytes_max = 1 << 20;
        options.disk_bytes_max = bytes_max.saturating_mul(4).max(8 << 20);
        options.reserve_bytes = 0;
        options.on_fatal = Arc::new(|error| error!(%error, "write of the event spool failed"));
        let (journal, _) = Journal::open(options)?;
        let mut index = Index::default();
        let mut unreadable = 0_u64;
        let scanned = journal.scan(Lsn(0), &mut |lsn, bytes| {
            match decode(bytes) {
                Some(Record::Event { attempt, event }) => {
                    index.insert(lsn, Waiting { attempt, event, bytes: bytes.len() as u64 });
                }
                Some(Record::Taken { attempt, taken }) => {
                    index.take(&attempt, taken);
                }
                None => unreadable += 1,
            }
            true
        });
        if let Err(error) = scanned {
            warn!(%error, "read of the event spool stopped early");
        }
        if unreadable > 0 {
            warn!(unreadable, "records of another version in the event spool were left out");
        }
        Ok(Self {
            journal,
            index: Mutex::new(index),
            bytes_max,
            dropped: AtomicU64::new(0),
            in_memory_alone: AtomicBool::new(false),
        })
    }

    /// Keeps events of one attempt until they are taken. Returns when they are durable, all in one group.
    pub async fn put(&self, attempt: &str, events: &[AttemptEvent]) {
        let records: Vec<Vec<u8>> = events
            .iter()
            .map(|event| encode(&Record::Event { attempt: attempt.to_owned(), event: event.clone() }))
            .collect();
        let lsns = self.write(&records).await;
        let dropped_before = self.dropped();
        for ((event, record), lsn) in events.iter().zip(&records).zip(lsns) {
            let bytes = record.len() as u64;
            if self.make_room(bytes, is_tick(event)) {
                self.index.lock().insert(lsn, Waiting { attempt: attempt.to_owned(), event: event.clone(), bytes });
            } else {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
        let dropped = self.dropped();
        if dropped > dropped_before {
            warn!(dropped, "the event spool is full: what counts least was dropped");
        }
        self.compact().await;
    }

    /// The appliance has these: events of `attempt` up to `up_to`.
    pub async fn taken(&self, attempt: &str, up_to: u64) {
        if !self.index.lock().take(attempt, up_to) {
            return;
        }
        self.write(&[encode(&Record::Taken { attempt: attempt.to_owned(), taken: up_to })]).await;
        self.release();
    }

    /// The oldest events of one attempt, in their order, of an attempt for which `skip` does not hold.
    #[must_use]
    pub fn oldest(&self, skip: impl Fn(&str) -> bool) -> Option<(String, Vec<AttemptEvent>)> {
        let index = self.index.lock();
        let attempt = index.waiting.values().find(|waiting| !skip(&waiting.attempt))?.attempt.clone();
        let mut events: Vec<AttemptEvent> =
            index.waiting.values().filter(|waiting| waiting.attempt == attempt).map(|w| w.event.clone()).collect();
        events.sort_by_key(|event| event.seq);
        events.truncate(EVENTS_PER_POST_MAX);
        Some((attempt, events))
    }

    /// Bytes of events that wait.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.index.lock().bytes
    }

    /// Events that were given up for want of room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn make_room(&self, bytes: u64, tick: bool) -> bool {
        let mut index = self.index.lock();
        while index.bytes + bytes > self.bytes_max {
            let oldest_tick = index.ticks.first().copied();
            let victim = if tick { oldest_tick } else { oldest_tick.or(index.waiting.keys().next().copied()) };
            let Some(victim) = victim else { return false };
            index.remove(victim);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// Makes records durable, in one group for each [`WRITE_BYTES`]. Each has a position, even when the disk has failed.
    async fn write(&self, records: &[Vec<u8>]) -> Vec<Lsn> {
        let mut lsns = Vec::with_capacity(records.len());
        let mut rest = records;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest.iter().take_while(|record| {
                bytes += record.len();
                bytes <= WRITE_BYTES
            });
            let (group, later) = rest.split_at(fitting.count().max(1));
            rest = later;
            lsns.extend(self.write_group(group).await);
        }
        lsns
    }

    async fn write_group(&self, group: &[Vec<u8>]) -> Vec<Lsn> {
        let written: Result<Vec<Lsn>, JournalError> = async {
            let bytes = group.iter().map(Vec::len).sum();
            let slices: Vec<&[u8]> = group.iter().map(Vec::as_slice).collect();
            let submitted = self.journal.reserve(bytes, Class::Growing).await?.submit(&slices);
            submitted.durable().await?;
            Ok(submitted.lsns.clone())
        }
        .await;
        written.unwrap_or_else(|error| {
            if !self.in_memory_alone.swap(true, Ordering::Relaxed) {
                error!(%error, "events are kept in memory alone from now on");
            }
            let mut index = self.index.lock();
            let first = u64::MAX / 2 + index.unwritten + 1;
            index.unwritten += group.len() as u64;
            (first..).map(Lsn).take(group.len()).collect()
        })
    }

    /// Writes what still waits again, at the end, when the journal holds much that is not needed any more.
    async fn compact(&self) {
        if self.journal.stats().disk_bytes <= self.bytes_max.saturating_mul(2).max(4 << 20) {
            return;
        }
        self.journal.roll();
        let (old, records): (Vec<Lsn>, Vec<Vec<u8>>) = {
            let index = self.index.lock();
            let encode = |waiting: &Waiting| {
                encode(&Record::Event { attempt: waiting.attempt.clone(), event: waiting.event.clone() })
            };
            index.waiting.iter().map(|(lsn, waiting)| (*lsn, encode(waiting))).unzip()
        };
        for (old, new) in old.into_iter().zip(self.write(&records).await) {
            let mut index = self.index.lock();
            if let Some(waiting) = index.remove(old) {
                index.insert(new, waiting);
            }
        }
        self.release();
    }

    fn release(&self) {
        let oldest = self.index.lock().waiting.keys().next().copied();
        if oldest.is_none() {
            self.journal.roll();
        }
        let before = oldest.unwrap_or_else(|| self.journal.durable());
        if let Err(error) = self.journal.release_before(before) {
            warn!(%error, "release of old segments of the event spool");
        }
    }
}

fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    if let Err(error) = serde_json::to_writer(&mut bytes, record) {
        error!(%error, "an event could not be written as JSON");
    }
    bytes
}

fn decode(bytes: &[u8]) -> Option<Record> {
    let (version, json) = bytes.split_first()?;
    (*version == VERSION).then(|| serde_json::from_slice(json).ok())?
}

#[cfg(test)]
mod tests {
    use backlot_wire::Timestamp;

    use super::*;

    fn tick(seq: u64) -> AttemptEvent {
        AttemptEvent { seq, at: Timestamp(seq), kind: EventKind::Percent { percent: 1.0 } }
    }

    fn phase(seq: u64) -> AttemptEvent {
        AttemptEvent { seq, at: Timestamp(seq), kind: EventKind::Phase { phase: "infer".into() } }
    }

    fn seqs(spool: &Spool) -> Vec<u64> {
        spool.oldest(|_| false).map_or_else(Vec::new, |(_, events)| events.iter().map(|event| event.seq).collect())
    }

    #[tokio::test]
    async fn what_was_not_taken_is_there_after_a_restart_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        {
            let spool = Spool::open(dir.path(), 1 << 20).unwrap();
            spool.put("a.1", &[phase(1), tick(2), phase(3)]).await;
            spool.put("b.1", &[phase(1)]).await;
            spool.taken("a.1", 2).await;
        }
        let spool = Spool::open(dir.path(), 1 << 20).unwrap();
        assert_eq!(seqs(&spool), [3]);
        assert_eq!(spool.oldest(|attempt| attempt == "a.1").unwrap().0, "b.1");
        spool.taken("a.1", 3).await;
        spool.taken("b.1", 1).await;
        assert_eq!(spool.bytes(), 0);
    }

    #[tokio::test]
    async fn progress_ticks_go_first_and_each_that_goes_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 2_000).unwrap();
        spool.put("a.1", &[phase(1)]).await;
        for seq in 2..100 {
            spool.put("a.1", &[tick(seq)]).await;
        }
        spool.put("a.1", &[phase(100)]).await;
        assert!(spool.bytes() <= 2_000);
        let kept = seqs(&spool);
        assert_eq!((kept.first(), kept.last()), (Some(&1), Some(&100)));
        assert!(kept.contains(&99) && !kept.contains(&2), "{kept:?}");
        assert_eq!(spool.dropped(), 100 - kept.len() as u64);
    }

    #[tokio::test]
    async fn a_second_agent_on_the_same_folder_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Spool::open(dir.path(), 1 << 20).unwrap();
        assert!(matches!(Spool::open(dir.path(), 1 << 20), Err(OpenError::Locked(_))));
    }

    #[tokio::test]
    async fn the_disk_in_use_stays_bounded_while_ticks_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 64 << 10).unwrap();
        let long = "x".repeat(1_000);
        spool.put("a.1", &[phase(1)]).await;
        for round in 0..12_u64 {
            let events: Vec<_> = (0..1_000)
                .map(|n| AttemptEvent {
                    seq: 2 + round * 1_000 + n,
                    at: Timestamp(0),
                    kind: EventKind::Preview { uri: long.clone() },
                })
                .collect();
            for chunk in events.chunks(250) {
                spool.put("a.1", chunk).await;
            }
        }
        assert!(spool.bytes() <= 64 << 10);
        assert!(spool.journal.stats().disk_bytes <= 8 << 20, "{:?}", spool.journal.stats());
        assert_eq!(seqs(&spool)[0], 1);
    }
}
