//! The control plane's one write path: journal first, the rest is derived.
//!
//! A capability decides under its own lock, submits its records while it holds that lock (so that the
//! journal's order is the order of its decisions), lets go, and waits for [`Commit::acknowledged`].
//! Records whose kind has a projection are then applied to the catalogue in journal order, by one committer;
//! the acknowledgement waits for that apply (read-your-writes), never for the catalogue's flush.
//!
//! At the start each [`Follower`] is handed the records of its kinds, oldest first, and then the end of them.
//! When an old segment is to go, its follower is asked for each record; a live one is submitted again.

use std::sync::Arc;

use backlot_journal::{Class, Journal, JournalError, Lsn};

use crate::catalogue::{Batch, Catalogue, CatalogueError};
use crate::clock::Now;

/// First byte of each control record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Queue = 1,
    Job = 2,
    Object = 3,
    Key = 4,
    Agent = 5,
    Alert = 6,
}

/// One change, encoded by its owner. `payload` begins with the owner's own version byte.
#[derive(Clone, Debug)]
pub struct Record {
    pub kind: Kind,
    pub payload: Vec<u8>,
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error("record at {lsn:?} of kind {kind}: {problem}")]
    Record { lsn: Lsn, kind: u8, problem: String },
}

/// Owner of some kinds of records.
pub trait Follower: Send + Sync + 'static {
    /// The kinds whose records this follower is handed.
    fn kinds(&self) -> &'static [Kind];

    /// A record found at the start, in journal order. Called before the doors open.
    ///
    /// # Errors
    /// A sentence when the record cannot be understood; the start then stops with it.
    fn replay(&self, kind: Kind, lsn: Lsn, payload: &[u8]) -> Result<(), String>;

    /// All records have been replayed, and the catalogue has applied each of those with a projection: a follower whose
    /// state is all in the catalogue (jobs) reads it from there now.
    fn replayed(&self, now: Now);

    /// Whether records of these kinds are applied to the catalogue by [`Follower::project`].
    fn projects(&self, kind: Kind) -> bool {
        let _ = kind;
        false
    }

    /// What the record changes in the catalogue. Depends on the record and the catalogue alone; doing it twice is doing it once.
    ///
    /// # Errors
    /// A sentence when the record cannot be understood.
    fn project(
        &self,
        kind: Kind,
        lsn: Lsn,
        payload: &[u8],
        catalogue: &Catalogue,
        batch: &mut Batch,
    ) -> Result<(), String> {
        let _ = (kind, lsn, payload, catalogue, batch);
        Ok(())
    }

    /// An old segment is to go. Where the record at `lsn` is still needed, submit it again with `permit`, under
    /// the same lock that decides, and keep its new position; else return `None`. Records that
    /// only the catalogue needs are not asked for: its checkpoint covers them.
    fn relocate(&self, kind: Kind, lsn: Lsn, payload: &[u8], permit: Permit) -> Option<Commit>;
}

/// The control journal and the catalogue behind it. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    _shared: Arc<()>,
}

impl Control {
    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        unimplemented!()
    }

    #[must_use]
    pub fn journal(&self) -> &Journal {
        unimplemented!()
    }

    /// Room for records of `bytes` payload bytes in all. Wait for it before taking the lock that decides.
    ///
    /// # Errors
    /// As [`Journal::reserve`].
    pub async fn reserve(&self, bytes: usize, class: Class) -> Result<Permit, ControlError> {
        let _ = (bytes, class);
        unimplemented!()
    }

    /// Reads the payload of one record back.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub fn read(&self, lsn: Lsn) -> Result<Vec<u8>, ControlError> {
        let _ = lsn;
        unimplemented!()
    }
}

/// Room for some records.
pub struct Permit {}

impl Permit {
    /// Puts the records into the journal as one, in the order of the calls. Does not wait: call it under the lock that decided.
    pub fn submit(self, records: &[Record]) -> Commit {
        let _ = records;
        unimplemented!()
    }
}

/// Records on their way.
#[must_use = "nothing may be acknowledged before `acknowledged` has resolved"]
pub struct Commit {
    /// Position of each record.
    pub lsns: Vec<Lsn>,
}

impl Commit {
    /// Resolves when the records are durable and, where their kind is projected, applied to the catalogue.
    ///
    /// # Errors
    /// [`ControlError::Journal`] when the journal ended first.
    pub async fn acknowledged(self) -> Result<(), ControlError> {
        unimplemented!()
    }
}
