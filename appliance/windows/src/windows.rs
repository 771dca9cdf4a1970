//! The handle: one writer, many searches, a ring of what is not committed.

mod search;
mod tally;
mod upkeep;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use tokio::sync::broadcast;

pub use self::search::{Cancel, Found, Hit, Search};
pub use self::tally::Counts;
use crate::chain::{self, Aside, Chain, Entry, Open, lock};
use crate::document::Document;
use crate::index::Summary;
use crate::{Options, WindowsError};

/// Batches that a slow reader of the tail may be behind before it loses some.
const TAIL_BATCHES: usize = 256;
/// When nothing of its own arrives for this many bytes of journal, a commit says that they were looked at.
const IDLE_COMMIT_BYTES: u64 = 64 << 20;

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
    tail: broadcast::Sender<Arc<Batch>>,
    searches: AtomicU64,
}

#[derive(Default)]
struct Writing {
    regular: Slot,
    stray: Slot,
    /// Position after the last batch that was added.
    end: u64,
    /// Position that was last written into a commit.
    committed: u64,
    waiting_bytes: u64,
    /// When the oldest of what waits was added.
    waiting_since_ms: Option<u64>,
    /// Documents sent to the tail so far.
    sent: u64,
}

#[derive(Default)]
struct Slot {
    open: Option<Open>,
    /// Everything of this chain before this position is committed.
    applied: u64,
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
        let found = chain::list(&options)?;
        let opened = Opened {
            windows: found.entries.len(),
            documents: found.entries.iter().map(|entry| entry.summary.documents).sum(),
            set_aside: found.asides.iter().map(|aside| aside.name.clone()).collect(),
        };
        let writing = Writing::at(&found.entries);
        let state = State { entries: found.entries, asides: found.asides, ring: Vec::new() };
        let shared = Shared {
            options,
            writing: Mutex::new(writing),
            state: Mutex::new(state),
            tail: broadcast::channel(TAIL_BATCHES).0,
            searches: AtomicU64::new(0),
        };
        Ok((Self { shared: Arc::new(shared) }, opened))
    }

    /// The journal position to go on from: everything before it is committed.
    #[must_use]
    pub fn applied(&self) -> u64 {
        lock(&self.shared.writing).regular.applied
    }

    /// Adds documents that arrived together and stand in the journal before `end`. Those that are there already are left out. To be called in
    /// journal order by one follower.
    ///
    /// # Errors
    /// After an error, call [`Windows::recover`] and go on from [`Windows::applied`].
    pub fn add(&self, documents: Vec<Document>, arrived_ms: u64, end: u64, now_ms: u64) -> Result<(), WindowsError> {
        let mut writing = lock(&self.shared.writing);
        let writing = &mut *writing;
        let mut fresh = Vec::with_capacity(documents.len());
        for document in documents {
            let chain = self.chain_of(&document, arrived_ms);
            let full = writing.slot(chain).open.as_ref().is_some_and(|open| self.is_full(&open.summary, arrived_ms));
            if full && fresh.is_empty() {
                // At a boundary of batches, so that the commit's position holds for all of it.
                self.commit_locked(writing, Some(chain))?;
            }
            if document.seq < writing.slot(chain).applied {
                continue;
            }
            self.open_slot(writing.slot(chain), chain, arrived_ms, document.seq)?.add(&document, arrived_ms)?;
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
        let idle = writing.regular.open.is_some() && writing.end - writing.committed > IDLE_COMMIT_BYTES;
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
        self.commit_locked(&mut writing, None)?;
        Ok(writing.end)
    }

    /// Forgets what is not committed and opens the writers anew, after an error such as a full disk.
    ///
    /// # Errors
    /// When the folder does not read.
    pub fn recover(&self) -> Result<(), WindowsError> {
        let mut writing = lock(&self.shared.writing);
        let sent = writing.sent;
        writing.regular.open = None;
        writing.stray.open = None;
        let mut state = lock(&self.shared.state);
        state.ring.clear();
        for entry in &state.entries {
            entry.folder.shut();
        }
        let found = chain::list(&self.shared.options)?;
        (state.entries, state.asides) = (found.entries, found.asides);
        *writing = Writing { sent, ..Writing::at(&state.entries) };
        Ok(())
    }

    /// Begins again with a journal that is not the one that was followed so far: its positions start anew.
    pub fn rewind(&self) {
        let mut writing = lock(&self.shared.writing);
        (writing.regular.applied, writing.stray.applied) = (0, 0);
        (writing.end, writing.committed) = (0, 0);
    }

    /// The newest documents as they arrive. A reader that is too slow loses whole batches, see [`Batch::first`].
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Batch>> {
        self.shared.tail.subscribe()
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = lock(&self.shared.state);
        let waiting = state.ring.iter().map(|batch| batch.documents.len()).sum();
        Stats {
            windows: state.entries.len(),
            documents: state.entries.iter().map(|entry| entry.summary.documents).sum::<u64>() + waiting as u64,
            bytes: state.entries.iter().map(|entry| entry.summary.bytes).sum(),
            waiting,
            set_aside: state.asides.iter().map(|aside| aside.name.clone()).collect(),
        }
    }

    fn chain_of(&self, document: &Document, arrived_ms: u64) -> Chain {
        let arrived_ns = i64::try_from(u128::from(arrived_ms) * 1_000_000).unwrap_or(i64::MAX);
        let off_ns = arrived_ns.abs_diff(document.time_ns);
        if off_ns / 1_000_000 > self.shared.options.stray_ms { Chain::Stray } else { Chain::Regular }
    }

    fn is_full(&self, summary: &Summary, now_ms: u64) -> bool {
        let options = &self.shared.options;
        summary.documents > 0
            && (summary.bytes >= options.window_bytes_max
                || now_ms >= summary.first_arrival_ms.saturating_add(options.span_ms))
    }

    /// The open window of a chain: the one at hand, the one that was left open, or a new one.
    fn open_slot<'a>(
        &self,
        slot: &'a mut Slot,
        chain: Chain,
        arrived_ms: u64,
        seq: u64,
    ) -> Result<&'a mut Open, WindowsError> {
        if slot.open.is_none() {
            slot.open = Some(self.open_window(chain, arrived_ms, seq)?);
        }
        match &mut slot.open {
            Some(open) => Ok(open),
            None => unreachable!("was filled just above"),
        }
    }

    fn open_window(&self, chain: Chain, arrived_ms: u64, seq: u64) -> Result<Open, WindowsError> {
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

    fn left_open(&self, chain: Chain) -> Option<Entry> {
        let state = lock(&self.shared.state);
        state.entries.iter().rfind(|entry| entry.folder.chain == chain && !entry.summary.closed).cloned()
    }

    /// Commits both chains at one position, strays first: what the regular chain's position says then holds for both.
    fn commit_locked(&self, writing: &mut Writing, close: Option<Chain>) -> Result<(), WindowsError> {
        let end = writing.end;
        for chain in [Chain::Stray, Chain::Regular] {
            let closing = close == Some(chain);
            let slot = writing.slot(chain);
            if let Some(open) = &mut slot.open
                && (open.dirty || closing || (chain == Chain::Regular && end > slot.applied))
            {
                open.commit(end, closing)?;
                slot.applied = end;
            }
        }
        {
            // Searches see the new commits and the emptied ring at the same moment.
            let mut state = lock(&self.shared.state);
            for open in [&writing.regular.open, &writing.stray.open].into_iter().flatten() {
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
        if let Some(chain) = close
            && let Some(open) = writing.slot(chain).open.take()
        {
            open.finish()?;
        }
        Ok(())
    }
}

impl Writing {
    /// Where the commits of the windows found stand.
    fn at(entries: &[Entry]) -> Self {
        let applied = |chain| {
            // The newest says it, once it has a commit. Older ones may know a journal that is no more: see `rewind`.
            let mut of_chain = entries.iter().rev().filter(|entry| entry.folder.chain == chain);
            of_chain.find(|entry| entry.summary.applied > 0).map_or(0, |entry| entry.summary.applied)
        };
        let (regular, stray) = (applied(Chain::Regular), applied(Chain::Stray));
        Self {
            regular: Slot { open: None, applied: regular },
            stray: Slot { open: None, applied: stray },
            end: regular,
            committed: regular,
            ..Self::default()
        }
    }

    fn slot(&mut self, chain: Chain) -> &mut Slot {
        match chain {
            Chain::Regular => &mut self.regular,
            Chain::Stray => &mut self.stray,
        }
    }
}
