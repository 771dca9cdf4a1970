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

use std::path::PathBuf;
use std::sync::Arc;

/// Position of a record: bytes from the beginning of the log's life. Never reused; rises with each record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// How a journal is laid out and bounded. All sizes in bytes.
#[derive(Clone)]
pub struct Options {
    pub dir: PathBuf,
    /// A segment is closed when the next group would take it past this. 64 MiB by default.
    pub segment_bytes: u64,
    /// Largest single record.
    pub record_bytes_max: usize,
    /// Most bytes that may be permitted and not yet durable; a further [`Journal::reserve`] waits.
    pub pending_bytes_max: usize,
    /// Most bytes on disk. Past it, `reserve` of [`Class::Growing`] answers [`JournalError::Full`].
    pub disk_bytes_max: u64,
    /// Preallocated file that keeps room for [`Class::Shrinking`] records when the disk is full.
    pub reserve_bytes: u64,
    /// Called, from the writer thread, when a write or sync has failed. The default writes the error to
    /// standard error and aborts the process; a test may do otherwise.
    pub on_fatal: Arc<dyn Fn(&std::io::Error) + Send + Sync>,
}

impl Options {
    /// Defaults for a journal in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let _ = dir.into();
        unimplemented!()
    }
}

/// What a record does to the space that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Adds something: refused when the disk or the budget is full.
    Growing,
    /// Takes something away or moves it (deletes, receives, collection): may use the reserve.
    Shrinking,
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
    #[error("read of the journal: {0}")]
    Io(Arc<std::io::Error>),
}

/// Why a journal does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "{segment} is damaged at byte {offset}: {problem}. Run `backlot doctor --repair` after a copy of the folder is made"
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
pub struct Journal {}

impl Journal {
    /// Opens or makes the journal in `options.dir`, cuts a torn tail, and starts its writer thread.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] when a group that had been durable is not whole.
    pub fn open(options: Options) -> Result<(Self, Opened), OpenError> {
        let _ = options;
        unimplemented!()
    }

    /// Waits until `bytes` more may be pending. Cancel-safe.
    ///
    /// # Errors
    /// [`JournalError::Full`] and [`JournalError::TooLarge`] at once, [`JournalError::Closed`] after close.
    pub async fn reserve(&self, bytes: usize, class: Class) -> Result<Permit, JournalError> {
        let _ = (bytes, class);
        unimplemented!()
    }

    /// The same for threads outside of tokio.
    ///
    /// # Errors
    /// As [`Journal::reserve`].
    pub fn reserve_blocking(&self, bytes: usize, class: Class) -> Result<Permit, JournalError> {
        let _ = (bytes, class);
        unimplemented!()
    }

    /// Reads one record back: from memory if it is not yet written, else one `pread`, checked.
    ///
    /// # Errors
    /// [`JournalError::NoRecord`] when there is none at `lsn` or its segment is gone.
    pub fn read(&self, lsn: Lsn) -> Result<Vec<u8>, JournalError> {
        let _ = lsn;
        unimplemented!()
    }

    /// Each durable record from `from` on, oldest first, up to what is durable when the call is made.
    /// `visit` returns false to stop. Returns the position after the last record visited.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn scan(&self, from: Lsn, visit: &mut dyn FnMut(Lsn, &[u8]) -> bool) -> Result<Lsn, JournalError> {
        let _ = (from, visit);
        unimplemented!()
    }

    /// Position up to which everything is durable.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        unimplemented!()
    }

    /// Oldest first; the last one is being written.
    #[must_use]
    pub fn segments(&self) -> Vec<Segment> {
        unimplemented!()
    }

    /// Deletes each closed segment that ends at or before `lsn`, oldest first. Returns how many.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn release_before(&self, lsn: Lsn) -> Result<usize, JournalError> {
        let _ = lsn;
        unimplemented!()
    }

    /// Closes the current segment so that it can be released; the next group starts a new one.
    pub fn roll(&self) {
        unimplemented!()
    }

    /// Refuses new permits, makes everything pending durable and stops the writer.
    pub fn close(&self) {
        unimplemented!()
    }
}

/// Room for some bytes. Dropped unused, it gives them back.
pub struct Permit {}

impl Permit {
    /// Puts `records` into the current group, as one, in the order of the calls. Does not wait.
    ///
    /// The position of each record is known at once, and [`Journal::read`] finds it at once.
    /// Records over the permitted bytes are a fault of the caller and panic in debug builds.
    pub fn submit(self, records: &[&[u8]]) -> Submitted {
        let _ = records;
        unimplemented!()
    }
}

/// Records that are in order but not yet durable.
#[must_use = "nothing may be acknowledged before `durable` has resolved"]
pub struct Submitted {
    /// Position of each record.
    pub lsns: Vec<Lsn>,
    /// Position after the last of them.
    pub end: Lsn,
}

impl Submitted {
    /// Resolves when the group is durable. Dropping the future does not undo the submit.
    ///
    /// # Errors
    /// [`JournalError::Closed`] when the journal ended first.
    pub async fn durable(&self) -> Result<(), JournalError> {
        unimplemented!()
    }

    /// The same for threads outside of tokio.
    ///
    /// # Errors
    /// As [`Submitted::durable`].
    pub fn durable_blocking(&self) -> Result<(), JournalError> {
        unimplemented!()
    }
}
