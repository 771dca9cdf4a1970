//! Keeps the control journal small: old segments go, what lives in them is submitted again.
//!
//! The journal stays under twice its live bytes and some slack. Live is what followers say; where they do not know, what
//! has been found alive by being copied counts, so that a journal full of live records is copied once and not for ever.
//! A segment may go when its live records are durable elsewhere and the catalogue no longer needs it: flushed, and
//! exported up to its end. An export costs as much as the catalogue is large, so the slack grows with it.

use std::collections::VecDeque;
use std::time::Duration;

use backlot_journal::{Class, JournalError, Lsn, Segment};

use super::{Commit, Control, ControlError, Kind, Permit, Shared, report_journal};
use crate::catalogue::CatalogueError;
use crate::tasks::Stage;

/// When old segments are collected, and how often the catalogue is flushed.
#[derive(Clone, Copy, Debug)]
pub struct Compaction {
    /// Bytes that the journal may be larger than twice what lives.
    pub slack_bytes: u64,
    /// Time between two looks.
    pub every: Duration,
}

impl Default for Compaction {
    fn default() -> Self {
        Self { slack_bytes: 1 << 30, every: Duration::from_secs(10) }
    }
}

/// Records handled between two waits for the disk.
const CHUNK_RECORDS: usize = 512;
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

/// What one look did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Collected {
    pub(super) segments: usize,
    /// Bytes of records that were submitted again.
    moved_bytes: u64,
}

/// Records that were moved, by the position from which they stand now.
#[derive(Default)]
pub(super) struct Survivors {
    moved: VecDeque<(Lsn, u64)>,
}

impl Survivors {
    fn add(&mut self, at: Lsn, bytes: u64) {
        if bytes > 0 {
            self.moved.push_back((at, bytes));
        }
    }

    /// Bytes of those that were moved and not yet looked at again.
    fn bytes(&mut self, oldest: Lsn) -> u64 {
        while self.moved.front().is_some_and(|(at, _)| *at < oldest) {
            self.moved.pop_front();
        }
        self.moved.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Control {
    /// Starts the background tasks: collection of old segments, the catalogue's flush, and the watch over the committer.
    pub fn start(&self, stage: &Stage) {
        let (control, stopping) = (self.clone(), stage.stopping());
        stage.spawn("control-compaction", async move {
            let mut survivors = Survivors::default();
            loop {
                tokio::select! {
                    () = stopping.cancelled() => return,
                    () = tokio::time::sleep(control.shared.compaction.every) => {}
                    () = control.shared.nudge.notified() => {}
                }
                match control.look_after(&mut survivors).await {
                    Ok(Collected { segments: 0, .. }) => {}
                    Ok(done) => tracing::info!(
                        segments = done.segments,
                        moved_bytes = done.moved_bytes,
                        "collected old segments"
                    ),
                    Err(ControlError::Journal(JournalError::Closed)) => {}
                    Err(error) => tracing::warn!(%error, "collect old segments; tried again later"),
                }
                report_journal(control.journal(), "control");
            }
        });
        let (control, stopping) = (self.clone(), stage.stopping());
        stage.spawn("catalogue-committer", async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = control.shared.committer.ended() => {}
            }
        });
    }

    /// Notes, flushes, and collects while the journal is too large.
    pub(super) async fn look_after(&self, survivors: &mut Survivors) -> Result<Collected, ControlError> {
        self.checkpoint().await?;
        let mut collected = Collected::default();
        // At most one round through what is there now: whoever keeps sending cannot keep this busy for ever.
        let end = self.journal().durable();
        while let Some(oldest) = self.too_large(survivors).filter(|oldest| oldest.end <= end) {
            let moved_bytes = self.collect(&oldest, survivors).await?;
            collected.segments += 1;
            collected.moved_bytes += moved_bytes;
            if self.journal().stats().full && moved_bytes * 10 > oldest.bytes * 9 {
                break; // a full disk of live records: nothing is won by copying
            }
        }
        Ok(collected)
    }

    /// The oldest closed segment, when one should go.
    fn too_large(&self, survivors: &mut Survivors) -> Option<Segment> {
        let segments = self.journal().segments();
        let [oldest, _, ..] = segments.as_slice() else { return None };
        let stats = self.journal().stats();
        let live = self.shared.live_bytes().max(survivors.bytes(oldest.base));
        let snapshot_bytes = std::fs::metadata(&self.shared.snapshot).map_or(0, |file| file.len());
        let bound = live * 2 + snapshot_bytes + self.shared.compaction.slack_bytes;
        (stats.disk_bytes > bound || stats.full).then(|| oldest.clone())
    }

    /// Moves what lives in the oldest segment and lets the segment go.
    async fn collect(&self, oldest: &Segment, survivors: &mut Survivors) -> Result<u64, ControlError> {
        let at = self.journal().durable();
        let mut moved_bytes = 0;
        let mut from = oldest.base;
        while from < oldest.end {
            let (chunk, next) = self.chunk(from, oldest.end).await?;
            if next <= from {
                break;
            }
            let mut commits: Vec<Commit> = Vec::new();
            for (lsn, record) in &chunk {
                let permit = self.reserve_at_once(record.len() * 2 + 512, Class::Collecting).await?;
                if let Some(commit) = self.shared.relocate(*lsn, record, permit)? {
                    moved_bytes += record.len() as u64;
                    commits.push(commit);
                }
            }
            for commit in commits {
                commit.acknowledged().await?;
            }
            from = next;
        }
        survivors.add(at, moved_bytes);
        self.cover(oldest.end).await?;
        let journal = self.journal().clone();
        let end = oldest.end;
        blocking(move || Ok(journal.release_before(end)?)).await?;
        Ok(moved_bytes)
    }

    /// Some records from `from` on, and the position after them.
    async fn chunk(&self, from: Lsn, end: Lsn) -> Result<(Vec<(Lsn, Vec<u8>)>, Lsn), ControlError> {
        let journal = self.journal().clone();
        blocking(move || {
            let (mut chunk, mut bytes) = (Vec::new(), 0);
            let next = journal.scan(from, &mut |lsn, record| {
                if lsn >= end {
                    return false;
                }
                bytes += record.len();
                chunk.push((lsn, record.to_vec()));
                chunk.len() < CHUNK_RECORDS && bytes < CHUNK_BYTES
            })?;
            Ok((chunk, next.min(end)))
        })
        .await
    }

    /// Makes durable what the catalogue has applied, up to what is durable in the journal now.
    async fn checkpoint(&self) -> Result<(), ControlError> {
        let journal = self.journal();
        if self.catalogue().flushed() >= journal.durable() {
            return Ok(());
        }
        self.shared.committer.note(|| journal.durable()).await?;
        let catalogue = self.catalogue().clone();
        blocking(move || Ok(catalogue.flush().map(|_| ())?)).await
    }

    /// Sees to it that a rebuilt catalogue would not need the journal before `end`.
    async fn cover(&self, end: Lsn) -> Result<(), ControlError> {
        if self.shared.exported() >= end {
            return Ok(());
        }
        self.checkpoint().await?;
        let (catalogue, path) = (self.catalogue().clone(), self.shared.snapshot.clone());
        let head = match blocking(move || Ok(catalogue.export(&path)?)).await {
            Ok(head) => head,
            // What is flushed survives a crash. On a full disk that must do: the segment's room is needed more than the
            // means to rebuild a catalogue that is whole.
            Err(error) if self.journal().stats().full => {
                tracing::warn!(%error, "export the catalogue to a full disk; `backlot rebuild` is not possible until it succeeds");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        tracing::info!(applied = head.applied.0, pairs = head.pairs, "exported the catalogue");
        self.shared.exported.store(head.applied.0, std::sync::atomic::Ordering::Release);
        if head.applied < end {
            let problem = format!("the export reached {:?} and not {end:?}", head.applied);
            return Err(CatalogueError::Engine { verb: "export", problem }.into());
        }
        Ok(())
    }
}

impl Shared {
    fn exported(&self) -> Lsn {
        Lsn(self.exported.load(std::sync::atomic::Ordering::Acquire))
    }

    fn live_bytes(&self) -> u64 {
        let routes = self.routes.lock().clone();
        routes.map_or(0, |routes| routes.followers.iter().map(|follower| follower.live_bytes()).sum())
    }

    fn relocate(&self, lsn: Lsn, record: &[u8], permit: Permit) -> Result<Option<Commit>, ControlError> {
        let Some((&byte, payload)) = record.split_first() else { return Err(JournalError::Damaged(lsn).into()) };
        let unknown = || ControlError::Record { lsn, kind: byte, problem: "nobody takes this kind".into() };
        let kind = Kind::of(byte).ok_or_else(unknown)?;
        let routes = self.routes.lock().clone().ok_or(JournalError::Closed)?;
        let route = routes.of(kind).ok_or_else(unknown)?;
        Ok(route.follower.relocate(kind, lsn, payload, permit))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ControlError> + Send + 'static,
) -> Result<T, ControlError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(JournalError::Closed.into()))
}
