//! The handle: one writer, many searches, a ring of what is not committed.

mod greatest;
mod kept;
mod moving;
mod search;
mod tally;
mod upkeep;
mod writing;

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tokio::sync::broadcast;

pub use self::greatest::{FoundGreatest, Greatest, Ranked};
pub use self::kept::{Dropped, Kept, Reason};
pub use self::moving::{ColdFault, MovedWindow};
pub use self::search::{Cancel, Found, Hit, Search, Unreached};
pub use self::tally::{Counts, Reach};
use self::writing::Writing;
use crate::chain::{self, Aside, CommitAt, Entry, Found as Listed, Open, lock};
use crate::class::Chain;
use crate::cold::Loose;
use crate::document::Document;
use crate::summary::Summary;
use crate::{Options, WindowsError};

/// Batches that a slow reader of the tail may be behind before it loses some.
const TAIL_BATCHES: usize = 256;
/// When nothing of its own arrives for this many bytes of journal, a commit says that they were looked at.
const IDLE_COMMIT_BYTES: u64 = 64 << 20;
/// A writer that nothing comes to for so long is let go; its window stays open for what comes later.
const IDLE_MS: u64 = 10 * 60_000;
/// Most writers at once, unless what arrives together needs more.
const WRITERS_MAX: usize = 16;

/// Documents that arrived together.
#[derive(Debug)]
pub struct Batch {
    pub documents: Vec<Document>,
    /// How many documents came through the tail before these: a gap is what a slow reader has lost.
    pub first: u64,
}

/// What was found at the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub windows: usize,
    pub documents: u64,
    pub set_aside: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub windows: usize,
    pub documents: u64,
    /// Bytes of sources before compression.
    pub bytes: u64,
    /// Not committed yet.
    pub waiting: usize,
    /// Windows that a writer stands by for.
    pub writers: usize,
    pub set_aside: Vec<String>,
}

/// Windows of one kind of document. Cheap to clone.
#[derive(Clone)]
pub struct Windows {
    shared: Arc<Shared>,
}

struct Shared {
    options: Options,
    /// One at a time writes; held over commits. Taken before `state`, never after.
    writing: Mutex<Writing>,
    /// What searches see; held for moments only.
    state: Mutex<State>,
    /// What is to move, and what is to go far away. Taken after `state`, never before.
    moves: Mutex<Moves>,
    tail: broadcast::Sender<Arc<Batch>>,
    searches: AtomicU64,
    /// As of the last round of housekeeping.
    searches_before: AtomicU64,
    #[cfg(test)]
    ends_at: Mutex<Option<moving::Step>>,
}

#[derive(Default)]
struct Moves {
    /// Windows that are asked for before their time.
    early: HashSet<String>,
    /// Names far away that no window has.
    loose: Vec<Loose>,
    /// The last move went wrong.
    fail: bool,
}

struct State {
    entries: Vec<Entry>,
    asides: Vec<Aside>,
    ring: Vec<Arc<Batch>>,
}

impl Windows {
    /// Opens the windows in the folder, or makes the folder.
    ///
    /// # Errors
    /// [`WindowsError::Io`] when the folder cannot be read or written. A window that does not read is no error: it is set aside.
    pub fn open(options: Options) -> Result<(Self, Opened), WindowsError> {
        let (found, writing) = restored(&options)?;
        let opened = Opened {
            windows: found.entries.len(),
            documents: found.entries.iter().map(|entry| entry.summary.documents).sum(),
            set_aside: found.asides.iter().map(|aside| aside.name.clone()).collect(),
        };
        let state = State { entries: found.entries, asides: found.asides, ring: Vec::new() };
        let moves = Moves { loose: found.loose, ..Moves::default() };
        let shared = Shared {
            options,
            writing: Mutex::new(writing),
            state: Mutex::new(state),
            moves: Mutex::new(moves),
            tail: broadcast::channel(TAIL_BATCHES).0,
            searches: AtomicU64::new(0),
            searches_before: AtomicU64::new(0),
            #[cfg(test)]
            ends_at: Mutex::default(),
        };
        Ok((Self { shared: Arc::new(shared) }, opened))
    }

    /// The journal position to go on from: everything before it is committed.
    #[must_use]
    pub fn applied(&self) -> u64 {
        lock(&self.shared.writing).committed
    }

    /// Adds documents that arrived together and stand in the journal before `end`. Those that are there already are left out. To be called in
    /// journal order by one follower.
    ///
    /// # Errors
    /// After an error, call [`Windows::recover`] and go on from [`Windows::applied`].
    pub fn add(&self, documents: Vec<Document>, arrived_ms: u64, end: u64, now_ms: u64) -> Result<(), WindowsError> {
        let mut writing = lock(&self.shared.writing);
        let writing = &mut *writing;
        let slot_of = |document: &Document| self.slot_of(document, arrived_ms);
        let slots: Vec<usize> = documents.iter().map(slot_of).collect();
        self.make_ready(writing, &slots, arrived_ms)?;
        let mut fresh = Vec::with_capacity(documents.len());
        for (document, slot) in documents.into_iter().zip(slots) {
            if writing.has(slot, document.seq) {
                continue;
            }
            let of = &mut writing.slots[slot];
            of.added_ms = arrived_ms;
            let open = match &mut of.open {
                Some(open) => open,
                none => none.insert(self.open_window(&of.chain, arrived_ms, document.seq)?),
            };
            open.add(&document, arrived_ms)?;
            writing.waiting_bytes += document.source.len() as u64;
            fresh.push(document);
        }
        writing.end = writing.end.max(end);
        if fresh.is_empty() {
            return Ok(());
        }
        writing.waiting_since_ms.get_or_insert(now_ms);
        let batch = Arc::new(Batch { first: writing.sent, documents: fresh });
        writing.sent += batch.documents.len() as u64;
        lock(&self.shared.state).ring.push(Arc::clone(&batch));
        let _ = self.shared.tail.send(batch); // nobody may be listening
        Ok(())
    }

    /// Whether enough waits, or has waited long enough, for a [`Windows::commit`].
    #[must_use]
    pub fn commit_is_due(&self, now_ms: u64) -> bool {
        let (writing, options) = (lock(&self.shared.writing), &self.shared.options);
        let old = writing.waiting_since_ms.is_some_and(|since| now_ms >= since.saturating_add(options.commit_every_ms));
        let is_open = writing.slots.iter().any(|slot| slot.open.is_some());
        let idle = is_open && writing.end - writing.committed > IDLE_COMMIT_BYTES;
        old || writing.waiting_bytes >= options.commit_bytes || idle
    }

    /// Whether documents wait for a commit.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        lock(&self.shared.writing).waiting_since_ms.is_some()
    }

    /// Makes everything durable that was added, and returns the position up to which the journal is no longer needed.
    ///
    /// # Errors
    /// As [`Windows::add`].
    pub fn commit(&self) -> Result<u64, WindowsError> {
        let mut writing = lock(&self.shared.writing);
        self.commit_locked(&mut writing, &[])?;
        Ok(writing.end)
    }

    /// Forgets what is not committed and opens the writers anew, after an error such as a full disk.
    ///
    /// # Errors
    /// When the folder does not read.
    pub fn recover(&self) -> Result<(), WindowsError> {
        let mut writing = lock(&self.shared.writing);
        let sent = writing.sent;
        writing.slots.iter_mut().for_each(|slot| slot.open = None);
        let mut state = lock(&self.shared.state);
        state.ring.clear();
        for entry in &state.entries {
            entry.folder.shut();
        }
        let (found, restored) = restored(&self.shared.options)?;
        (state.entries, state.asides) = (found.entries, found.asides);
        *writing = Writing { sent, ..restored };
        Ok(())
    }

    /// Begins again with a journal that is not the one that was followed so far: its positions start anew.
    pub fn rewind(&self) {
        lock(&self.shared.writing).rewind();
    }

    /// The newest documents as they arrive. A reader that is too slow loses whole batches, see [`Batch::first`].
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Batch>> {
        self.shared.tail.subscribe()
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        let writers = lock(&self.shared.writing).slots.iter().filter(|slot| slot.open.is_some()).count();
        let state = lock(&self.shared.state);
        let waiting = state.ring.iter().map(|batch| batch.documents.len()).sum();
        Stats {
            windows: state.entries.len(),
            documents: state.entries.iter().map(|entry| entry.summary.documents).sum::<u64>() + waiting as u64,
            bytes: state.entries.iter().map(|entry| entry.summary.bytes).sum(),
            waiting,
            writers,
            set_aside: state.asides.iter().map(|aside| aside.name.clone()).collect(),
        }
    }

    /// The slot of the chain that a document belongs to.
    fn slot_of(&self, document: &Document, arrived_ms: u64) -> usize {
        let options = &self.shared.options;
        let arrived_ns = i64::try_from(u128::from(arrived_ms) * 1_000_000).unwrap_or(i64::MAX);
        let is_stray = arrived_ns.abs_diff(document.time_ns) / 1_000_000 > options.stray_ms;
        options.class_of(document) * 2 + usize::from(is_stray)
    }

    fn is_full(&self, chain: &Chain, summary: &Summary, now_ms: u64) -> bool {
        let options = &self.shared.options;
        let is_over = summary.bytes >= options.window_bytes(chain)
            || now_ms >= summary.first_arrival_ms.saturating_add(options.span_ms);
        summary.documents > 0 && (is_over || options.limits(chain).is_none())
    }

    /// Closes what is full and makes room for the writers of `slots`: at a boundary of batches, so that the commits' position holds.
    fn make_ready(&self, writing: &mut Writing, slots: &[usize], now_ms: u64) -> Result<(), WindowsError> {
        let is_full = |slot: &writing::Slot| {
            slot.open.as_ref().is_some_and(|open| self.is_full(&slot.chain, &open.summary, now_ms))
        };
        let full: Vec<_> = (0..writing.slots.len()).filter(|at| is_full(&writing.slots[*at])).collect();
        if !full.is_empty() {
            self.commit_locked(writing, &full)?;
        }
        let is_open = |writing: &Writing, at: usize| writing.slots[at].open.is_some();
        let all = writing.slots.len();
        let needed = (0..all).filter(|at| slots.contains(at) || is_open(writing, *at)).count();
        for _ in WRITERS_MAX..needed {
            let others = (0..all).filter(|at| is_open(writing, *at) && !slots.contains(at));
            let Some(slot) = others.min_by_key(|at| writing.slots[*at].added_ms) else { break };
            self.rest(writing, slot)?;
        }
        Ok(())
    }

    /// Lets go of a writer. Its window is gone on with when something comes.
    fn rest(&self, writing: &mut Writing, slot: usize) -> Result<(), WindowsError> {
        if writing.slots[slot].open.as_ref().is_some_and(|open| open.dirty) {
            self.commit_locked(writing, &[])?;
        }
        writing.slots[slot].open.take().map_or(Ok(()), Open::finish)
    }

    fn open_window(&self, chain: &Chain, arrived_ms: u64, seq: u64) -> Result<Open, WindowsError> {
        let options = &self.shared.options;
        if let Some(entry) = self.left_open(chain) {
            match Open::resume(options, &entry) {
                Ok(open) => return Ok(open),
                Err(WindowsError::Index { problem, .. })
                    if !entry.folder.path.join(".tantivy-writer.lock").exists() =>
                {
                    self.set_aside(&entry.folder, problem)?;
                }
                // Only what cannot be read is damage; a writer may fail for want of memory or disk.
                Err(error) => match entry.folder.window() {
                    Err(fault) if fault.is_damage => self.set_aside(&entry.folder, fault.problem)?,
                    _ => return Err(error),
                },
            }
        }
        let open = Open::create(options, chain, arrived_ms, seq)?;
        lock(&self.shared.state).entries.push(open.entry());
        Ok(open)
    }

    fn left_open(&self, chain: &Chain) -> Option<Entry> {
        let state = lock(&self.shared.state);
        state.entries.iter().rfind(|entry| entry.folder.chain == *chain && !entry.summary.closed).cloned()
    }

    /// Commits all chains at one position, and closes the windows of those in `close`.
    fn commit_locked(&self, writing: &mut Writing, close: &[usize]) -> Result<(), WindowsError> {
        let options = &self.shared.options;
        let (end, classes) = (writing.end, options.classes_mark());
        let is_due = |at: usize| {
            let open = writing.slots[at].open.as_ref();
            open.is_some_and(|open| open.dirty || close.contains(&at))
        };
        // The default class last, as before there were others.
        let mut due: Vec<_> = (0..writing.slots.len()).rev().filter(|at| is_due(*at)).collect();
        if due.is_empty() && end > writing.committed {
            due.extend((0..writing.slots.len()).find(|at| writing.slots[*at].open.is_some()));
        }
        let mut committed = writing.committed;
        for (number, at) in due.iter().enumerate() {
            if number + 1 == due.len() {
                committed = end; // with this one, everything is in
            }
            let slot = &mut writing.slots[*at];
            let Some(open) = &mut slot.open else { continue };
            let retention_ms = options.limits(&slot.chain).map(|(retention_ms, _)| retention_ms);
            let (journal, closed) = (writing.journal, close.contains(at));
            open.commit(CommitAt { journal, applied: end, whole: committed, classes, retention_ms, closed })?;
            slot.applied = end;
        }
        {
            // Searches see the new commits and the emptied ring at the same moment.
            let mut state = lock(&self.shared.state);
            for open in writing.slots.iter().filter_map(|slot| slot.open.as_ref()) {
                open.refresh()?;
                if let Some(entry) = state.entries.iter_mut().find(|entry| Arc::ptr_eq(&entry.folder, &open.folder)) {
                    entry.summary = open.summary.clone();
                }
            }
            state.ring.clear();
        }
        writing.committed = end;
        writing.waiting_bytes = 0;
        writing.waiting_since_ms = None;
        for at in close {
            if let Some(open) = writing.slots[*at].open.take() {
                open.finish()?;
            }
        }
        Ok(())
    }
}

/// What is in the folder, and where its commits stand.
fn restored(options: &Options) -> Result<(Listed, Writing), WindowsError> {
    let mut found = chain::list(options)?;
    loop {
        match Writing::at(options, &found.entries, &found.damaged) {
            Ok(writing) => return Ok((found, writing)),
            // Each round sets one window aside, so the rounds end.
            Err((folder, fault)) if fault.is_damage => {
                let at = found.entries.iter().position(|entry| Arc::ptr_eq(&entry.folder, &folder));
                let summary = at.map(|at| found.entries.remove(at).summary);
                found.set_aside(&options.dir, &folder, summary, fault.problem)?;
            }
            Err((folder, fault)) => return Err(folder.error("open", fault)),
        }
    }
}
