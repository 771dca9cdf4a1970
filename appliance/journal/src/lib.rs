//! The segment log: what was acknowledged is in here, everything else is derived from it.
//!
//! Records are opaque bytes. [`Permit::submit`] puts records into the current group, in one order for all
//! callers, without waiting; [`Submitted::durable`] resolves when one `fdatasync` has made that group durable.
//! All records of one submit stand in one group: after a crash either all of them are there or none.
//!
//! An [`Lsn`] is a byte position in the endless log; the segment that holds it is found by its base.
//! Segments go oldest first, whole ([`Journal::release_before`]); whoever owns a record that is still
//! needed submits it again before that.
//!
//! Invariant: a failed `fdatasync` ends the process. The kernel may have dropped the pages, and
//! nothing that we could answer afterwards would be true.

mod folder;
mod format;
mod group;
mod keeper;
mod log;
mod read;
mod recovery;
mod segment;
mod writer;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::folder::Folder;
use crate::format::SEGMENT_HEADER_BYTES;
use crate::group::Done;
use crate::log::{Layout, Prepared, Shared, State};
pub use crate::segment::{Inspection, inspect};

/// Position of a record: bytes from the beginning of the log's life. Never reused; rises with each record.
/// No record stands at 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// How a journal is laid out and bounded. All sizes in bytes.
#[derive(Clone)]
pub struct Options {
    pub dir: PathBuf,
    /// A segment is closed when the next group would take it past this. 64 MiB by default.
    pub segment_bytes: u64,
    /// Largest single record that is surely taken, if a segment can hold it. 4 MiB by default.
    pub record_bytes_max: usize,
    /// Most bytes that may be permitted and not yet durable; a further [`Journal::reserve`] waits. 16 MiB by default,
    /// at least what one record needs, at most one segment.
    pub pending_bytes_max: usize,
    /// Most bytes on disk. Past it, `reserve` of [`Class::Growing`] answers [`JournalError::Full`]. 64 GiB by default.
    pub disk_bytes_max: u64,
    /// Preallocated file that keeps room for [`Class::Shrinking`] records when the disk is full: it becomes a segment of
    /// this size. Comes on top of `disk_bytes_max`, and so does another of about one segment, in which alone
    /// [`Class::Collecting`] goes on. 16 MiB by default, at most one segment; 0 for neither.
    pub reserve_bytes: u64,
    /// Called, from the writer thread, when a write or sync has failed. The default writes the error to
    /// standard error and aborts the process; a test may do otherwise.
    pub on_fatal: Arc<dyn Fn(&std::io::Error) + Send + Sync>,
    /// Called, from the writer thread, after each sync. Must be quick, and must not hold the journal.
    pub on_sync: Option<Arc<dyn Fn(Synced) + Send + Sync>>,
}

impl Options {
    /// Defaults for a journal in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: 64 << 20,
            record_bytes_max: 4 << 20,
            pending_bytes_max: 16 << 20,
            disk_bytes_max: 64 << 30,
            reserve_bytes: 16 << 20,
            on_fatal: Arc::new(|error| {
                use std::io::Write;
                let _ = writeln!(std::io::stderr(), "backlot: the journal could not be written: {error}");
                std::process::abort();
            }),
            on_sync: None,
        }
    }

    /// A segment in which everything lives fits into so many, in other groups than before.
    fn collect_bytes(&self) -> u64 {
        self.segment_bytes + self.segment_bytes / 16
    }

    /// Brings the bounds into an order in which they can hold.
    fn settle(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.clamp(4096, u64::from(u32::MAX / 17 * 16));
        let groups = self.segment_bytes as usize - SEGMENT_HEADER_BYTES;
        self.pending_bytes_max = self.pending_bytes_max.max(log::room_for(self.record_bytes_max)).min(groups);
        self.reserve_bytes = self.reserve_bytes.min(self.segment_bytes);
        self
    }
}

/// One sync that made a group durable.
#[derive(Clone, Copy, Debug)]
pub struct Synced {
    /// Time of the `fdatasync`.
    pub took: Duration,
    pub records: u64,
    /// With headers.
    pub bytes: u64,
}

/// What the journal did since it was opened, and what it takes on disk now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Records made durable.
    pub records: u64,
    pub groups: u64,
    pub written_bytes: u64,
    /// Length of all segment files, without spare and reserve.
    pub disk_bytes: u64,
    pub segments: usize,
    /// The next segment could not be allocated: disk or budget are full.
    pub full: bool,
}

/// What a record does to the space that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Adds something: refused when the disk or the budget is full.
    Growing,
    /// Takes something away or moves it (deletes, receives): may use the reserve.
    Shrinking,
    /// Submits again what lives in an old segment, so that the segment can go: finds room when nobody else does. Only for
    /// what [`Journal::release_before`] follows.
    Collecting,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal's disk is full")]
    Full,
    #[error("record of {bytes} bytes is over the limit of {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("the journal is closed")]
    Closed,
    #[error("no record at {0:?}")]
    NoRecord(Lsn),
    #[error("what stands at {0:?} in the journal does not match its checksum")]
    Damaged(Lsn),
    #[error("read of the journal: {0}")]
    Io(Arc<std::io::Error>),
}

/// Why a journal does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{segment} is damaged at byte {offset}: {problem}. `backlot doctor` looks at the whole folder; what was durable here can only come back from a backup"
    )]
    Damaged { segment: PathBuf, offset: u64, problem: String },
    #[error("{0} was written by a later version")]
    LaterVersion(PathBuf),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0} is in use by another process")]
    Locked(PathBuf),
}

/// What was found at the start.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    pub segments: usize,
    pub bytes: u64,
    /// Bytes of a torn tail that were cut: never acknowledged, so nothing is lost.
    pub torn_bytes: u64,
    pub oldest: Lsn,
    pub end: Lsn,
}

/// One segment file.
#[derive(Clone, Debug)]
pub struct Segment {
    pub base: Lsn,
    /// Position after its last record.
    pub end: Lsn,
    pub bytes: u64,
}

/// The log. Cheap to clone; the last clone that goes closes it.
#[derive(Clone)]
pub struct Journal {
    running: Arc<Running>,
}

struct Running {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Journal {
    /// Opens or makes the journal in `options.dir`, cuts a torn tail, and starts its writer thread.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] when a group that had been durable is not whole.
    pub fn open(options: Options) -> Result<(Self, Opened), OpenError> {
        let options = options.settle();
        let dir = options.dir.clone();
        let folder = Folder::open(&dir)?;
        let found = recovery::recover(&folder, &options)?;
        let Some(last) = found.segments.back() else { unreachable!("recovery makes a first segment") };
        let layout = Layout { base: last.base, limit: last.base + last.bytes.max(last.end - last.base), end: last.end };
        let state = State {
            layout,
            segments: found.segments,
            open_files: VecDeque::new(),
            pending: VecDeque::new(),
            pending_submits: 0,
            wake_at: 1,
            in_flight: None,
            permitted: 0,
            pending_bytes: 0,
            spare: Prepared::Wanted,
            reserve: Prepared::Wanted,
            collect: if options.reserve_bytes > 0 { Prepared::Wanted } else { Prepared::Absent },
            collect_bytes_min: options.segment_bytes / 8 * 7,
            full: false,
            to_trim: Vec::new(),
            begun: false,
            roll_wanted: false,
            closing: false,
            recycled: Vec::new(),
            counts: Stats::default(),
        };
        let shared = Arc::new(Shared::new(options, folder, found.id, state));
        let spawn = |name: &str, run: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared))
        };
        let started = || {
            Ok(vec![
                spawn("journal-write", Box::new(move |shared| writer::run(shared, found.last)))?,
                spawn("journal-keep", Box::new(keeper::run))?,
            ])
        };
        let threads = started().map_err(|source| OpenError::Io { path: dir, source })?;
        Ok((Self { running: Arc::new(Running { shared, threads: Mutex::new(threads) }) }, found.opened))
    }

    /// Waits until `bytes` more may be pending. Cancel-safe.
    ///
    /// A permit covers 32 records and one more for each 32 bytes.
    ///
    /// # Errors
    /// [`JournalError::Full`] and [`JournalError::TooLarge`] at once, [`JournalError::Closed`] after close.
    pub async fn reserve(&self, bytes: usize, class: Class) -> Result<Permit, JournalError> {
        self.running.shared.reserve(bytes, class).await
    }

    /// The same for threads outside of tokio.
    ///
    /// # Errors
    /// As [`Journal::reserve`].
    pub fn reserve_blocking(&self, bytes: usize, class: Class) -> Result<Permit, JournalError> {
        self.running.shared.reserve_blocking(bytes, class)
    }

    /// Most bytes that one permit can be for.
    #[must_use]
    pub fn permit_bytes_max(&self) -> usize {
        log::permit_bytes_max(self.running.shared.options.pending_bytes_max)
    }

    /// Reads one record back: from memory if it is not yet written, else from its file, checked.
    ///
    /// # Errors
    /// [`JournalError::NoRecord`] when there is none at `lsn` or its segment is gone, [`JournalError::Damaged`] when what
    /// stands there is not what was written there.
    pub fn read(&self, lsn: Lsn) -> Result<Vec<u8>, JournalError> {
        read::record(&self.running.shared, lsn)
    }

    /// Each durable record from `from` on, oldest first, up to what is durable when the call is made.
    /// `visit` returns false to stop. Returns the position after the last record visited, from which a later scan goes on.
    ///
    /// A `from` before the oldest segment begins with the oldest; whoever needs to know compares [`Journal::segments`].
    ///
    /// # Errors
    /// [`JournalError::Io`], [`JournalError::Damaged`].
    pub fn scan(&self, from: Lsn, visit: &mut dyn FnMut(Lsn, &[u8]) -> bool) -> Result<Lsn, JournalError> {
        read::scan(&self.running.shared, from, visit)
    }

    /// Position up to which everything is durable.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        Lsn(self.running.shared.durable.load(Ordering::Acquire))
    }

    /// Oldest first; the last one is being written.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        let state = self.running.shared.state.lock();
        let segment = |segment: &log::SegmentFile| Segment {
            base: Lsn(segment.base),
            end: Lsn(segment.end),
            bytes: segment.bytes,
        };
        state.segments.iter().map(segment).collect()
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        let state = self.running.shared.state.lock();
        Stats { disk_bytes: state.disk_bytes(), segments: state.segments.len(), full: state.full, ..state.counts }
    }

    /// Deletes each closed segment that ends at or before `lsn`, oldest first. Returns how many.
    ///
    /// On a full disk the room of a segment goes to collection and to the reserve first, before others can take it.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn release_before(&self, lsn: Lsn) -> Result<usize, JournalError> {
        let shared = &self.running.shared;
        let _order = shared.releasing.lock();
        let mut released = 0;
        loop {
            let (oldest, lacking) = {
                let mut state = shared.state.lock();
                if state.segments.len() < 2 || state.segments.front().is_none_or(|first| first.end > lsn.0) {
                    break;
                }
                let Some(mut oldest) = state.segments.pop_front() else { break };
                state.open_files.retain(|&base| base != oldest.base);
                oldest.file = None; // an open file keeps its room on the disk
                let lacking = state.lacking(oldest.bytes);
                (oldest, lacking)
            };
            let gone = match lacking {
                Some(supply) => shared.recycle(oldest.base, supply),
                None => shared.folder.remove_segment(oldest.base),
            };
            if let Err(error) = gone {
                shared.state.lock().segments.push_front(oldest);
                return Err(JournalError::Io(Arc::new(error)));
            }
            released += 1;
        }
        if released > 0 {
            shared.want_files(&mut shared.state.lock());
        }
        Ok(released)
    }

    /// Closes the current segment, if it holds anything, so that it can be released; the next group starts a new one.
    /// Happens as soon as a new segment could be allocated.
    pub fn roll(&self) {
        let shared = &self.running.shared;
        let mut state = shared.state.lock();
        if !state.layout.is_empty() {
            state.roll_wanted = true;
            shared.want_files(&mut state);
            shared.writer.notify_one();
        }
    }

    /// Refuses new permits, makes everything pending durable and stops the writer. Blocks until then.
    pub fn close(&self) {
        self.running.close();
    }
}

impl Running {
    fn close(&self) {
        let shared = &self.shared;
        shared.state.lock().closing = true;
        shared.writer.notify_all();
        shared.keeper.notify_all();
        shared.room_changed();
        for thread in self.threads.lock().drain(..) {
            if thread.thread().id() != std::thread::current().id() {
                let _ = thread.join(); // a panic has been reported by the thread itself
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.close();
    }
}

/// Room for some bytes. Dropped unused, it gives them back.
pub struct Permit {
    shared: Arc<Shared>,
    cost: usize,
}

impl Permit {
    /// Puts `records` into the current group, as one, in the order of the calls. Does not wait.
    ///
    /// The position of each record is known at once, and [`Journal::read`] finds it at once.
    /// Records over the permitted bytes are a fault of the caller and panic in debug builds.
    pub fn submit(self, records: &[&[u8]]) -> Submitted {
        self.submit_parts(records.iter().map(|record| [*record, &[]]))
    }

    /// The same with records that come in two parts, which saves whoever puts a tag before a payload a copy.
    pub fn submit_parts<'a>(mut self, records: impl Iterator<Item = [&'a [u8]; 2]> + Clone) -> Submitted {
        let cost = std::mem::take(&mut self.cost);
        self.shared.submit(cost, records)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.cost > 0 {
            self.shared.give_back(self.cost);
        }
    }
}

/// Records that are in order but not yet durable.
#[must_use = "nothing may be acknowledged before `durable` has resolved"]
pub struct Submitted {
    /// Position of each record.
    pub lsns: Vec<Lsn>,
    /// Position after the last of them.
    pub end: Lsn,
    done: Arc<Done>,
}

impl Submitted {
    /// Resolves when the group is durable. Dropping the future does not undo the submit.
    ///
    /// # Errors
    /// [`JournalError::Closed`] when the journal ended first.
    pub async fn durable(&self) -> Result<(), JournalError> {
        if self.done.wait().await { Ok(()) } else { Err(JournalError::Closed) }
    }

    /// The same for threads outside of tokio.
    ///
    /// # Errors
    /// As [`Submitted::durable`].
    pub fn durable_blocking(&self) -> Result<(), JournalError> {
        if self.done.wait_blocking() { Ok(()) } else { Err(JournalError::Closed) }
    }
}
