//! The control plane's one write path: journal first, the rest is derived.
//!
//! A capability decides under its own lock, submits its records while it holds that lock (so that the
//! journal's order is the order of its decisions), lets go, and waits for [`Commit::acknowledged`].
//! Records whose kind has a projection are then applied to the catalogue in journal order, by one committer;
//! the acknowledgement waits for that apply (read-your-writes), never for the catalogue's flush. Kinds without one,
//! the queue's above all, wait for the journal alone.
//!
//! At the start each [`Follower`] is handed the records of its kinds, oldest first, and then the end of them.
//! When an old segment is to go, its follower is asked for each record; a live one is submitted again.
//!
//! In the data folder: `journal/control/`, `catalogue/` and `catalogue.snapshot`.

mod committer;
mod compaction;
mod rebuild;
mod replay;
mod signals;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use backlot_journal::{Class, Journal, JournalError, Lsn, OpenError, Options, Submitted};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use self::committer::Committer;
pub use self::compaction::Compaction;
pub use self::rebuild::{RebuildError, Rebuilt, rebuild};
pub use self::replay::{Replay, Replayed};
pub use self::signals::{instrument_journal, report_journal};
use crate::catalogue::{Batch, Catalogue, CatalogueError};
use crate::clock::Now;
use crate::config::JournalConfig;

/// One more than the largest byte of a kind.
const KINDS: usize = 9;

/// How often, and how long in all (5 s), what makes room is tried again on a full disk.
const FULL_TRIES: u32 = 100;
const FULL_PAUSE: Duration = Duration::from_millis(50);

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
    /// What an operator has set: one key, one value.
    Setting = 7,
    /// Groups and streams of CloudWatch Logs.
    LogGroup = 8,
}

impl Kind {
    const ALL: [Self; 8] =
        [Self::Queue, Self::Job, Self::Object, Self::Key, Self::Agent, Self::Alert, Self::Setting, Self::LogGroup];

    fn of(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// The byte before each of its records.
    fn tag(self) -> &'static [u8] {
        static TAGS: [u8; KINDS] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
        std::slice::from_ref(&TAGS[self as usize])
    }
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

/// Why the control plane does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("control journal: {0}")]
    Journal(#[from] OpenError),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(
        "the catalogue has applied the journal up to {applied:?}, but the journal begins at {oldest:?}. `backlot rebuild` makes the catalogue again from its snapshot and the journal"
    )]
    CatalogueBehind { applied: Lsn, oldest: Lsn },
    #[error(
        "the catalogue has applied the journal up to {applied:?}, but the journal ends at {end:?}: the journal has lost records, or belongs to another catalogue"
    )]
    JournalBehind { applied: Lsn, end: Lsn },
    #[error("two parts of the program take records of kind {0:?}")]
    TwoFollowers(Kind),
    #[error("start the committer's thread: {0}")]
    Thread(std::io::Error),
    #[error("replay: {0}")]
    Replay(#[from] ControlError),
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

    /// An old segment is to go. Where the record at `lsn` is still needed in the journal, submit it again with `permit`, under
    /// the same lock that decides, and keep its new position; else return `None`. What only the catalogue needs
    /// is not needed in the journal: the catalogue's checkpoint covers it. The permit has room for twice the payload.
    fn relocate(&self, kind: Kind, lsn: Lsn, payload: &[u8], permit: Permit) -> Option<Commit>;

    /// About how many bytes of records `relocate` would submit again if all segments went. The journal is kept under twice
    /// this and 1 GiB; who does not know answers 0, and its records are then found alive by being copied.
    fn live_bytes(&self) -> u64 {
        0
    }
}

/// The control journal and the catalogue behind it. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    journal: Journal,
    catalogue: Catalogue,
    committer: Committer,
    /// Which kinds are projected, by their byte; known from the replay on.
    projected: OnceLock<[bool; KINDS]>,
    /// Taken away by [`Control::close`]: followers hold a control themselves.
    routes: Mutex<Option<Arc<Routes>>>,
    /// Position up to which the catalogue has been exported in this run.
    exported: AtomicU64,
    compaction: Compaction,
    snapshot: PathBuf,
    /// Wakes the compaction before its timer.
    nudge: tokio::sync::Notify,
}

/// Who takes which kind, by its byte.
#[derive(Default)]
struct Routes {
    by_kind: [Option<Route>; KINDS],
    followers: Vec<Arc<dyn Follower>>,
}

struct Route {
    follower: Arc<dyn Follower>,
    projects: bool,
}

impl Routes {
    fn of(&self, kind: Kind) -> Option<&Route> {
        self.by_kind[kind as usize].as_ref()
    }
}

impl Control {
    /// Opens or makes journal and catalogue in the folder `data`. Nothing may be submitted before [`Replay::run`].
    ///
    /// # Errors
    /// [`StartError`], whose text names the command that helps.
    pub fn open(data: &Path, config: &JournalConfig) -> Result<(Self, Replay), StartError> {
        let mut options = Options {
            segment_bytes: config.segment_bytes,
            reserve_bytes: config.reserve_bytes,
            disk_bytes_max: config.control_disk_bytes_max,
            ..Options::new(journal_dir(data))
        };
        instrument_journal(&mut options, "control");
        let every = Duration::from_secs(config.collect_every_s);
        Self::open_with(data, options, Compaction { slack_bytes: config.slack_bytes, every })
    }

    /// The same with every bound given.
    ///
    /// # Errors
    /// As [`Control::open`].
    pub fn open_with(data: &Path, options: Options, compaction: Compaction) -> Result<(Self, Replay), StartError> {
        let (journal, opened) = Journal::open(options)?;
        let catalogue = Catalogue::open(&data.join("catalogue"))?;
        let applied = catalogue.applied();
        if applied < opened.oldest {
            return Err(StartError::CatalogueBehind { applied, oldest: opened.oldest });
        }
        if applied > opened.end {
            return Err(StartError::JournalBehind { applied, end: opened.end });
        }
        if opened.torn_bytes > 0 {
            tracing::info!(
                bytes = opened.torn_bytes,
                "cut a torn tail of the control journal; none of it was acknowledged"
            );
        }
        let committer = Committer::new();
        let shared = Arc::new(Shared {
            journal,
            catalogue,
            committer,
            projected: OnceLock::new(),
            routes: Mutex::new(None),
            exported: AtomicU64::new(0),
            compaction,
            snapshot: snapshot_path(data),
            nudge: tokio::sync::Notify::new(),
        });
        let control = Self { shared };
        Ok((control.clone(), Replay { control, opened }))
    }

    #[must_use]
    pub fn catalogue(&self) -> &Catalogue {
        &self.shared.catalogue
    }

    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.shared.journal
    }

    /// Room for records of `bytes` payload bytes in all. Wait for it before taking the lock that decides.
    ///
    /// What makes room on a full disk waits a moment where it finds none: collection is on its way.
    ///
    /// # Errors
    /// As [`Journal::reserve`].
    pub async fn reserve(&self, bytes: usize, class: Class) -> Result<Permit, ControlError> {
        for _ in 0..FULL_TRIES {
            match self.reserve_at_once(bytes, class).await {
                Err(ControlError::Journal(JournalError::Full)) if class == Class::Shrinking => {
                    tokio::time::sleep(FULL_PAUSE).await;
                }
                answer => return answer,
            }
        }
        self.reserve_at_once(bytes, class).await
    }

    /// The same without that patience, for collection itself.
    async fn reserve_at_once(&self, bytes: usize, class: Class) -> Result<Permit, ControlError> {
        self.shared.committer.has_room().await;
        let reserved = self.shared.journal.reserve(with_kinds(bytes), class).await;
        if matches!(reserved, Err(JournalError::Full)) {
            self.shared.nudge.notify_one();
        }
        Ok(Permit { inner: reserved?, shared: Arc::clone(&self.shared) })
    }

    /// Most payload bytes that one permit can be for.
    #[must_use]
    pub fn permit_bytes_max(&self) -> usize {
        self.shared.journal.permit_bytes_max().saturating_sub(with_kinds(0)) / 33 * 32
    }

    /// Reads the payload of one record back.
    ///
    /// # Errors
    /// As [`Journal::read`].
    pub fn read(&self, lsn: Lsn) -> Result<Vec<u8>, ControlError> {
        let mut payload = self.shared.journal.read(lsn)?;
        if payload.is_empty() {
            return Err(JournalError::Damaged(lsn).into());
        }
        payload.drain(..1);
        Ok(payload)
    }

    /// The end: refuses new permits, makes durable and applies what was submitted, flushes the catalogue. Blocks until
    /// then. Call it when everything that submits has stopped.
    pub fn close(&self) {
        self.shared.journal.close();
        self.shared.committer.close();
        *self.shared.routes.lock() = None;
        if let Err(error) = self.shared.catalogue.flush() {
            tracing::warn!(%error, "flush the catalogue at the end; it will be replayed from the journal");
        }
    }
}

/// Each record has a byte for its kind before it.
fn with_kinds(bytes: usize) -> usize {
    bytes + 32 + bytes / 32
}

/// Folder of the control journal within the data folder.
#[must_use]
pub fn journal_dir(data: &Path) -> PathBuf {
    data.join("journal").join("control")
}

fn snapshot_path(data: &Path) -> PathBuf {
    data.join("catalogue.snapshot")
}

/// Room for some records.
pub struct Permit {
    inner: backlot_journal::Permit,
    shared: Arc<Shared>,
}

impl Permit {
    /// Puts the records into the journal as one, in the order of the calls. Does not wait: call it under the lock that decided.
    pub fn submit(self, records: &[Record]) -> Commit {
        let Self { inner, shared } = self;
        let parts = records.iter().map(|record| [record.kind.tag(), record.payload.as_slice()]);
        let projected = shared.projected.get();
        debug_assert!(projected.is_some(), "submitted before the replay");
        let projects = |record: &Record| projected.is_some_and(|projected| projected[record.kind as usize]);
        if records.iter().any(projects) {
            return shared.committer.submit(|| inner.submit_parts(parts), records);
        }
        let mut submitted = inner.submit_parts(parts);
        Commit { lsns: std::mem::take(&mut submitted.lsns), end: Ending::Durable(submitted) }
    }
}

/// Records on their way.
#[must_use = "nothing may be acknowledged before `acknowledged` has resolved"]
pub struct Commit {
    /// Position of each record.
    pub lsns: Vec<Lsn>,
    end: Ending,
}

enum Ending {
    Durable(Submitted),
    Applied(oneshot::Receiver<Result<(), ControlError>>),
}

impl Commit {
    /// Resolves when the records are durable and, where their kind is projected, applied to the catalogue.
    ///
    /// # Errors
    /// [`ControlError::Journal`] when the journal ended first.
    pub async fn acknowledged(self) -> Result<(), ControlError> {
        match self.end {
            Ending::Durable(submitted) => Ok(submitted.durable().await?),
            Ending::Applied(applied) => applied.await.unwrap_or(Err(JournalError::Closed.into())),
        }
    }
}

#[cfg(test)]
mod tests;
