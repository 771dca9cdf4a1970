//! Where the head, the blocks and the journal meet.
//!
//! A sample is durable once its record stands in the telemetry journal. The head follows that journal; every few minutes
//! it is written down whole (the snapshot), which is what lets the journal's old segments go; every two hours its oldest two
//! hours become a block. After a crash: the snapshot, then the journal from the position that it names.
//!
//! Invariant: a block's end is the head's beginning. A block that was written just before a crash, with the snapshot still
//! from before it, is recognised by its end: the head drops what the block has.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backlot_journal::{JournalError, Lsn};
use parking_lot::{Mutex, RwLock};

use super::block::{self, Block, BlockError};
use super::exemplars::{Exemplar, Exemplars};
use super::files;
use super::head::{Head, Refusal};
use super::model::{Labels, Selector, SeriesSamples};
use super::promql::{Budget, QueryError, Source};
use super::record::{Batch, Metadata, Point};
use super::snapshot::{self, SnapshotError};
use crate::telemetry_journal::{Kind, TelemetryJournal};

/// Span of a block, in milliseconds.
pub(super) const BLOCK_MS: i64 = 2 * 60 * 60 * 1000;
/// How far ahead of our clock a sample may be, in milliseconds.
const AHEAD_MS_MAX: i64 = 10 * 60 * 1000;
/// How fast snapshots may be written, in bytes a second on average: a large head is written less often.
const SNAPSHOT_BYTES_S_MAX: u64 = 512 * 1024;
const EXEMPLARS_FILE: &str = "exemplars.snapshot";
const BLOCK_EXTENSION: &str = "blk";
const DAMAGED_EXTENSION: &str = "damaged";

/// How the store is bounded.
#[derive(Clone, Debug)]
pub(super) struct Bounds {
    pub(super) series_max: usize,
    pub(super) retention_ms: i64,
    pub(super) disk_bytes_max: u64,
    /// How long a series may lag behind the clock and still be taken.
    pub(super) late_ms_max: i64,
}

/// Why the store does not open, or could not do its upkeep.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("metrics folder {}: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("write the metrics snapshot: {0}")]
    Snapshot(#[source] std::io::Error),
    #[error("{0}")]
    Block(String),
    #[error("read the telemetry journal: {0}")]
    Journal(#[from] JournalError),
}

impl From<BlockError> for StoreError {
    fn from(error: BlockError) -> Self {
        Self::Block(error.to_string())
    }
}

/// What upkeep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Upkeep {
    pub(super) blocks_written: usize,
    pub(super) blocks_dropped: usize,
}

pub(super) struct Store {
    folder: PathBuf,
    bounds: Bounds,
    journal: TelemetryJournal,
    pub(super) head: RwLock<Head>,
    exemplars: RwLock<Exemplars>,
    /// Oldest first; they do not overlap.
    blocks: RwLock<Vec<Arc<Block>>>,
    /// Position up to which the journal has gone into the head. Held while records are applied and while a snapshot is encoded.
    applied: Mutex<Lsn>,
    /// Samples applied since the last snapshot.
    unsaved: AtomicU64,
    /// When the last snapshot was written, on the wall clock, and how large it was.
    saved: Mutex<(i64, u64)>,
}

impl Store {
    /// Opens the folder `metrics` of the data folder and replays the journal into the head.
    pub(super) fn open(data_dir: &Path, bounds: Bounds, journal: TelemetryJournal) -> Result<Self, StoreError> {
        let folder = data_dir.join("metrics");
        let in_folder = |source| StoreError::Folder { path: folder.clone(), source };
        std::fs::create_dir_all(&folder).map_err(in_folder)?;
        let blocks = open_blocks(&folder).map_err(in_folder)?;
        let snapshot = folder.join("head.snapshot");
        let (mut head, lsn) = match snapshot::read(&snapshot, bounds.series_max) {
            Ok(Some(found)) => found,
            Ok(None) => (Head::new(bounds.series_max), Lsn::default()),
            Err(SnapshotError::Io(source)) => return Err(in_folder(source)),
            Err(SnapshotError::Damaged(problem)) => {
                let aside = snapshot.with_extension(DAMAGED_EXTENSION);
                tracing::error!(
                    %problem, path = %snapshot.display(), aside = %aside.display(),
                    "the metrics snapshot is set aside; samples of up to three hours that the journal no longer has are lost"
                );
                std::fs::rename(&snapshot, &aside).map_err(in_folder)?;
                (Head::new(bounds.series_max), Lsn::default())
            }
        };
        if let Some(last) = blocks.last() {
            // Blocks end at whole spans, whatever their last sample is.
            head.cut((last.max_ms.div_euclid(BLOCK_MS) + 1) * BLOCK_MS);
        }
        let exemplars = RwLock::new(Exemplars::open(&folder.join(EXEMPLARS_FILE)));
        let store = Self {
            folder,
            exemplars,
            bounds,
            journal,
            head: RwLock::new(head),
            blocks: RwLock::new(blocks),
            applied: Mutex::new(lsn),
            unsaved: AtomicU64::new(0),
            saved: Mutex::new((0, 0)),
        };
        store.journal.checkpoint(Kind::Metrics, lsn);
        store.follow(|_| {})?;
        Ok(store)
    }

    /// Applies what is durable in the journal and not yet in the head; calls `refused` for each sample that does not fit.
    pub(super) fn follow(&self, mut refused: impl FnMut(Refusal)) -> Result<(), StoreError> {
        let mut applied = self.applied.lock();
        let mut taken = 0;
        *applied = self.journal.scan(Kind::Metrics, *applied, &mut |lsn, payload| {
            match Batch::decode(payload) {
                Ok(batch) => {
                    taken += self.head.write().apply(&batch, &mut refused);
                    self.apply_exemplars(batch.exemplars);
                }
                Err(problem) => tracing::error!(lsn = lsn.0, %problem, "skipped a record of metrics"),
            }
            true
        })?;
        self.unsaved.fetch_add(taken as u64, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps the exemplars of series that there are.
    fn apply_exemplars(&self, exemplars: Vec<(Labels, Exemplar)>) {
        if exemplars.is_empty() {
            return;
        }
        let head = self.head.read();
        let mut kept = self.exemplars.write();
        for (series, exemplar) in exemplars {
            if head.holds(&series) {
                kept.add(&series, exemplar);
            }
        }
    }

    /// Those of the series that `selector` means between two moments.
    pub(super) fn exemplars(&self, selector: &Selector, from_ms: i64, to_ms: i64) -> Vec<(Labels, Vec<Exemplar>)> {
        self.exemplars.read().select(selector, from_ms, to_ms)
    }

    /// Takes those points out of `batch` that the head will not have, and says why.
    pub(super) fn admit(&self, batch: &mut Batch, now_ms: i64, mut refused: impl FnMut(Refusal)) {
        let head = self.head.read();
        let (oldest_ms, newest_ms) = (now_ms - self.bounds.late_ms_max, now_ms + AHEAD_MS_MAX);
        let mut room = self.bounds.series_max.saturating_sub(head.len());
        batch.exemplars.retain(|(_, exemplar)| (oldest_ms..=newest_ms).contains(&exemplar.t_ms));
        let verdict = |labels: &Labels, point: Point| {
            if point.t_ms > newest_ms {
                return Err(Refusal::TooNew);
            }
            if point.t_ms < oldest_ms {
                return Err(Refusal::TooOld);
            }
            head.would_take(labels, point)
        };
        batch.series.retain_mut(|(labels, points)| {
            points.retain(|point| match verdict(labels, *point) {
                Ok(()) => true,
                Err(refusal) => {
                    refused(refusal);
                    false
                }
            });
            if points.is_empty() {
                return false;
            }
            if !head.holds(labels) {
                if room == 0 {
                    points.iter().for_each(|_| refused(Refusal::SeriesLimit));
                    return false;
                }
                room -= 1;
            }
            true
        });
    }

    /// Cuts blocks that are due, lets old ones go, and writes the snapshot when there is something new and the last one has rested.
    pub(super) fn upkeep(&self, now_ms: i64) -> Result<Upkeep, StoreError> {
        let mut done = Upkeep::default();
        while self.cut_block(now_ms)? {
            done.blocks_written += 1;
        }
        let (saved_at_ms, saved_bytes) = *self.saved.lock();
        let rested_ms = (now_ms - saved_at_ms).unsigned_abs();
        if done.blocks_written > 0 {
            self.save(now_ms)?; // at once: until then a restart reads the span twice
        } else if self.unsaved.load(Ordering::Relaxed) > 0 {
            if rested_ms >= saved_bytes * 1000 / SNAPSHOT_BYTES_S_MAX {
                self.save(now_ms)?;
            }
        } else {
            // Nothing of ours since the snapshot: what others wrote in the meantime is not needed by us.
            let applied = self.applied.lock();
            self.journal.checkpoint(Kind::Metrics, *applied);
        }
        done.blocks_dropped = self.drop_old(now_ms);
        self.blocks.read().iter().for_each(|block| block.rest());
        Ok(done)
    }

    /// Writes the head's oldest span to a block if that span has ended and nothing late may come for it any more.
    fn cut_block(&self, now_ms: i64) -> Result<bool, StoreError> {
        let Some(min_ms) = self.head.read().min_ms() else { return Ok(false) };
        let start_ms = min_ms.div_euclid(BLOCK_MS) * BLOCK_MS;
        let end_ms = start_ms + BLOCK_MS;
        if now_ms < end_ms + self.bounds.late_ms_max {
            return Ok(false);
        }
        // What is late from here on is refused, so that the block is all there is of its span.
        let taken = {
            let mut head = self.head.write();
            head.valid_from_ms = head.valid_from_ms.max(end_ms);
            head.take(&everything(), start_ms, end_ms - 1)
        };
        let mut taken: Vec<_> = taken.into_iter().collect();
        taken.sort_by(|a, b| a.labels.cmp(&b.labels));
        let path = self.folder.join(format!("{start_ms:015}.{BLOCK_EXTENSION}"));
        let series = taken.into_iter().map(|one| (one.labels.clone(), one.samples(start_ms, end_ms - 1)));
        let written = block::write(&path, series)?;
        let block = written.then(|| Block::open(&path)).transpose()?;
        // Both at once, so that no reader finds the span twice or not at all.
        let mut blocks = self.blocks.write();
        self.head.write().cut(end_ms);
        blocks.extend(block.map(Arc::new));
        Ok(written)
    }

    /// Writes the snapshot and lets the journal know.
    pub(super) fn save(&self, now_ms: i64) -> Result<(), StoreError> {
        let (bytes, exemplars, lsn) = {
            let applied = self.applied.lock();
            self.unsaved.store(0, Ordering::Relaxed);
            (snapshot::encode(&self.head.read(), *applied), self.exemplars.read().encode(), *applied)
        };
        // First: those that come again with the journal are known then.
        Exemplars::save(&self.folder.join(EXEMPLARS_FILE), &exemplars).map_err(StoreError::Snapshot)?;
        snapshot::write(&self.folder.join("head.snapshot"), &bytes).map_err(StoreError::Snapshot)?;
        self.journal.checkpoint(Kind::Metrics, lsn);
        *self.saved.lock() = (now_ms, bytes.len() as u64);
        Ok(())
    }

    fn drop_old(&self, now_ms: i64) -> usize {
        let mut blocks = self.blocks.write();
        let mut bytes: u64 = blocks.iter().map(|block| block.bytes).sum();
        let mut dropped = 0;
        while let Some(oldest) = blocks.first() {
            let expired = oldest.max_ms < now_ms - self.bounds.retention_ms;
            if !expired && bytes <= self.bounds.disk_bytes_max {
                break;
            }
            if let Err(error) = std::fs::remove_file(&oldest.path) {
                tracing::error!(%error, path = %oldest.path.display(), "could not remove an old metrics block");
                break;
            }
            bytes -= oldest.bytes;
            blocks.remove(0);
            dropped += 1;
        }
        dropped
    }

    /// Calls `visit` with the labels of each series that matches between two moments; a series may come more than once.
    pub(super) fn labels(
        &self,
        selector: &Selector,
        from_ms: i64,
        to_ms: i64,
        mut visit: impl FnMut(&Labels),
    ) -> Result<(), QueryError> {
        for block in self.overlapping(from_ms, to_ms) {
            block.labels(selector, &mut visit).map_err(|error| QueryError::Storage(error.to_string()))?;
        }
        self.head.read().take(selector, from_ms, to_ms).iter().for_each(|taken| visit(&taken.labels));
        Ok(())
    }

    pub(super) fn metadata(&self, metric: Option<&str>, limit: usize) -> Vec<(Arc<str>, Metadata)> {
        let head = self.head.read();
        let wanted = head.metadata.iter().filter(|(name, _)| metric.is_none_or(|metric| metric == name.as_ref()));
        wanted.take(limit).map(|(name, metadata)| (name.clone(), metadata.clone())).collect()
    }

    fn overlapping(&self, from_ms: i64, to_ms: i64) -> Vec<Arc<Block>> {
        let blocks = self.blocks.read();
        blocks.iter().filter(|block| block.max_ms >= from_ms && block.min_ms <= to_ms).cloned().collect()
    }
}

impl Source for Store {
    fn select(
        &self,
        selector: &Selector,
        from_ms: i64,
        to_ms: i64,
        budget: &Budget,
    ) -> Result<Vec<SeriesSamples>, QueryError> {
        // The blocks' lock is held while the head is asked: a span is in one of them, never in both.
        let (blocks, taken) = {
            let guard = self.blocks.read();
            let blocks: Vec<_> =
                guard.iter().filter(|block| block.max_ms >= from_ms && block.min_ms <= to_ms).cloned().collect();
            (blocks, self.head.read().take(selector, from_ms, to_ms))
        };
        let mut found = Vec::new();
        for block in blocks {
            found.extend(block.select(selector, from_ms, to_ms, budget)?);
        }
        for one in taken {
            let room = one.samples_max();
            budget.charge(room)?;
            let samples = one.samples(from_ms, to_ms);
            budget.refund(room - samples.len());
            if !samples.is_empty() {
                found.push(SeriesSamples { labels: one.labels, samples });
            }
        }
        found.sort_by(|a, b| a.labels.cmp(&b.labels)); // stable: the parts of a series stay in time order
        found.dedup_by(|next, series| {
            let same = next.labels == series.labels;
            if same {
                series.samples.append(&mut next.samples);
            }
            same
        });
        Ok(found)
    }
}

/// Every series.
pub(super) fn everything() -> Selector {
    Selector { alternatives: vec![Vec::new()] }
}

/// Opens all blocks of a folder, oldest first. A damaged one is set aside, loudly; a file that was never finished goes.
fn open_blocks(folder: &Path) -> std::io::Result<Vec<Arc<Block>>> {
    let mut blocks = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some(files::UNFINISHED) => std::fs::remove_file(&path)?,
            Some(BLOCK_EXTENSION) => match Block::open(&path) {
                Ok(block) => blocks.push(Arc::new(block)),
                Err(BlockError::Io { source, .. }) => return Err(source),
                Err(problem @ BlockError::Damaged { .. }) => {
                    let aside = path.with_extension(DAMAGED_EXTENSION);
                    tracing::error!(%problem, aside = %aside.display(), "a metrics block is set aside; its two hours are lost");
                    std::fs::rename(&path, &aside)?;
                }
            },
            _ => {}
        }
    }
    blocks.sort_by_key(|block| block.min_ms);
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use backlot_journal::Options;

    use super::*;
    use crate::metrics::record::Step;
    use crate::metrics::testing::budget;

    const HOUR_MS: i64 = 3_600_000;

    fn bounds() -> Bounds {
        Bounds { series_max: 1000, retention_ms: 24 * HOUR_MS, disk_bytes_max: u64::MAX, late_ms_max: HOUR_MS }
    }

    fn open(dir: &Path) -> (Store, TelemetryJournal) {
        let (journal, _) = TelemetryJournal::open(dir, Options::new(dir)).unwrap();
        (Store::open(dir, bounds(), journal.clone()).unwrap(), journal)
    }

    /// Two series with a sample each minute from `from_ms`.
    fn minutes(from_ms: i64, minutes: i64) -> Batch {
        let points = |add: f64| {
            (0..minutes)
                .map(|at| Point { t_ms: from_ms + at * 60_000, value: at as f64 + add, step: Step::Value })
                .collect()
        };
        let labels = |host: &str| Labels::from_texts(&[("__name__", "load"), ("host", host)]);
        let series = vec![(labels("a"), points(0.0)), (labels("b"), points(0.5))];
        Batch { series, ..Batch::default() }
    }

    async fn ingest(journal: &TelemetryJournal, store: &Store, batch: &Batch) {
        journal.append(Kind::Metrics, &batch.encode()).await.unwrap();
        store.follow(|refusal| panic!("{refusal:?}")).unwrap();
    }

    fn read(store: &Store) -> Vec<(String, Vec<i64>)> {
        let found = store.select(&everything(), i64::MIN, i64::MAX, &budget()).unwrap();
        found
            .iter()
            .map(|one| (one.labels.get("host").to_owned(), one.samples.iter().map(|sample| sample.t_ms).collect()))
            .collect()
    }

    fn expected(from_ms: i64, minutes: i64) -> Vec<(String, Vec<i64>)> {
        let times: Vec<i64> = (0..minutes).map(|at| from_ms + at * 60_000).collect();
        vec![("a".into(), times.clone()), ("b".into(), times)]
    }

    #[tokio::test]
    async fn a_crash_at_any_point_of_the_upkeep_loses_and_doubles_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let start_ms = 1_700_000_000_000 / BLOCK_MS * BLOCK_MS;
        let (store, journal) = open(dir.path());
        ingest(&journal, &store, &minutes(start_ms, 200)).await;
        assert_eq!(read(&store), expected(start_ms, 200));
        drop((store, journal)); // no goodbye: the journal alone has it

        let (store, journal) = open(dir.path());
        assert_eq!(read(&store), expected(start_ms, 200));
        store.save(start_ms).unwrap();
        ingest(&journal, &store, &minutes(start_ms + 200 * 60_000, 10)).await;
        let snapshot = dir.path().join("metrics/head.snapshot");
        let before_the_block = std::fs::read(&snapshot).unwrap();
        drop((store, journal));

        let (store, journal) = open(dir.path());
        assert_eq!(read(&store), expected(start_ms, 210), "snapshot and the journal after it");
        let done = store.upkeep(start_ms + BLOCK_MS + HOUR_MS).unwrap();
        assert_eq!(done, Upkeep { blocks_written: 1, blocks_dropped: 0 });
        assert_eq!(read(&store), expected(start_ms, 210), "head and block");
        assert_eq!(store.head.read().min_ms(), Some(start_ms + BLOCK_MS));
        drop((store, journal));
        std::fs::write(&snapshot, before_the_block).unwrap(); // as if the power had gone between block and snapshot

        let (store, _journal) = open(dir.path());
        assert_eq!(read(&store), expected(start_ms, 210), "the head drops what the block has");
        assert_eq!(store.upkeep(start_ms + BLOCK_MS + HOUR_MS).unwrap().blocks_written, 0);
    }

    #[tokio::test]
    async fn old_blocks_go_and_late_samples_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let start_ms = 1_700_000_000_000 / BLOCK_MS * BLOCK_MS;
        let (store, journal) = open(dir.path());
        ingest(&journal, &store, &minutes(start_ms, 600)).await;
        let now_ms = start_ms + 5 * BLOCK_MS;
        assert_eq!(store.upkeep(now_ms).unwrap(), Upkeep { blocks_written: 4, blocks_dropped: 0 });
        assert_eq!(read(&store), expected(start_ms, 600));
        assert_eq!(journal.release().unwrap(), 0, "others have not spoken");

        let mut late = minutes(start_ms, 2);
        let mut refused = Vec::new();
        store.admit(&mut late, now_ms, |refusal| refused.push(refusal));
        assert_eq!((late.series.len(), refused), (0, vec![Refusal::TooOld; 4]));
        let mut early = minutes(now_ms + HOUR_MS, 1);
        let mut refused = Vec::new();
        store.admit(&mut early, now_ms, |refusal| refused.push(refusal));
        assert_eq!((early.series.len(), refused), (0, vec![Refusal::TooNew; 2]));

        let done = store.upkeep(start_ms + 2 * BLOCK_MS + 24 * HOUR_MS).unwrap();
        assert_eq!(done.blocks_dropped, 2);
        let kept = read(&store);
        assert_eq!(kept[0].1.first(), Some(&(start_ms + 2 * BLOCK_MS)));
    }

    #[tokio::test]
    async fn damage_is_set_aside_and_the_rest_is_served() {
        let dir = tempfile::tempdir().unwrap();
        let start_ms = 1_700_000_000_000 / BLOCK_MS * BLOCK_MS;
        let (store, journal) = open(dir.path());
        ingest(&journal, &store, &minutes(start_ms, 130)).await;
        store.upkeep(start_ms + 10 * HOUR_MS).unwrap();
        ingest(&journal, &store, &minutes(start_ms + 2 * BLOCK_MS, 5)).await;
        drop((store, journal));
        let folder = dir.path().join("metrics");
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            let at = bytes.len().saturating_sub(20); // the file of exemplars is empty and short
            bytes[at] ^= 0xff;
            std::fs::write(&path, bytes).unwrap();
        }
        std::fs::write(folder.join("000.tmp"), "half").unwrap();
        let (store, _journal) = open(dir.path());
        assert!(!read(&store).is_empty(), "what the journal still has");
        assert!(!folder.join("000.tmp").exists());
        let aside = std::fs::read_dir(&folder)
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|extension| extension == "damaged"));
        assert!(aside.count() >= 2);
    }
}
