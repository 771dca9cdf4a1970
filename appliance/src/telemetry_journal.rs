//! The telemetry journal: what an OTLP door answered 200 for stands here, whatever becomes of the indexes.
//!
//! One [`Journal`] of its own, so that a flood of telemetry never delays a job, shared by logs, spans and metrics.
//! A record is one byte of [`Kind`], one byte of version, and a payload that belongs to the follower of its kind.
//!
//! A follower reads the records of its kind in journal order, live as well as after a restart, by one and the same
//! way: [`TelemetryJournal::scan`] from where it stopped, again whenever [`TelemetryJournal::subscribe`] says that
//! there is more. How far it has come is its own to remember, together with what it made of the records.
//! [`TelemetryJournal::checkpoint`] tells what it no longer needs; segments go once all kinds need them no more.
//!
//! What is absent on purpose: no queue in memory between door and follower. A follower that lags has its records on disk,
//! and a journal that fills up refuses new ones with [`AppendError::Busy`], which each door says in its dialect.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backlot_journal::{Class, Journal, JournalError, Lsn, OpenError, Opened, Options, Submitted};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::tasks::Stage;

/// Folder of the telemetry journal within the data folder.
pub const FOLDER: &str = "journal/telemetry";
/// Version of the record's head.
const VERSION: u8 = 1;
/// One request of an OTLP door is one record; this is over the largest of the default limits.
const RECORD_BYTES_MAX: usize = 17 << 20;
/// Kind and version.
const HEAD_BYTES: usize = 2;
/// Longest wait for room among the bytes that are not yet durable.
const ROOM_WAIT: Duration = Duration::from_secs(5);
/// What a caller is told to wait when it was refused.
const RETRY_AFTER_S: u32 = 2;
/// How often old segments are looked for when no checkpoint says so.
const RELEASE_EVERY: Duration = Duration::from_secs(15);

/// Whose record it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Logs = 1,
    Spans = 2,
    Metrics = 3,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Logs, Self::Spans, Self::Metrics];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Spans => "spans",
            Self::Metrics => "metrics",
        }
    }

    fn index(self) -> usize {
        self as usize - 1
    }
}

/// Why a record was not taken. Nothing of it was kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    /// Too much at once, or the disk budget is used up: the same record may pass later.
    #[error("the telemetry journal has no room: {reason}")]
    Busy { reason: &'static str, retry_after_s: u32 },
    #[error("record of {bytes} bytes is over the limit of {max}")]
    TooLarge { bytes: usize, max: usize },
    #[error("write to the telemetry journal: {0}")]
    Journal(JournalError),
}

impl From<JournalError> for AppendError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Full => {
                Self::Busy { reason: "its disk or disk budget is full", retry_after_s: RETRY_AFTER_S * 5 }
            }
            JournalError::TooLarge { bytes, max } => Self::TooLarge { bytes, max },
            other => Self::Journal(other),
        }
    }
}

/// The journal with its followers' checkpoints. Cheap to clone.
#[derive(Clone)]
pub struct TelemetryJournal {
    shared: Arc<Shared>,
}

struct Shared {
    journal: Journal,
    /// What each kind no longer needs; `None` until its follower has said so once.
    checkpoints: Mutex<[Option<Lsn>; 3]>,
    /// Position after the newest durable record that went through [`TelemetryJournal::append`].
    durable: watch::Sender<Lsn>,
    disk_bytes_max: u64,
}

impl TelemetryJournal {
    /// Opens or makes the journal below `data_dir`; the folder in `options` is replaced.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open(data_dir: &Path, mut options: Options) -> Result<(Self, Opened), OpenError> {
        options.dir = data_dir.join(FOLDER);
        options.record_bytes_max = options.record_bytes_max.max(RECORD_BYTES_MAX);
        let disk_bytes_max = options.disk_bytes_max;
        let (journal, opened) = Journal::open(options)?;
        let (durable, _) = watch::channel(opened.end);
        let shared = Shared { journal, checkpoints: Mutex::new([None; 3]), durable, disk_bytes_max };
        Ok((Self { shared: Arc::new(shared) }, opened))
    }

    /// Starts the task that lets old segments go.
    pub fn start(&self, stage: &Stage) {
        let (journal, stop) = (self.clone(), stage.stopping());
        stage.spawn("telemetry journal release", async move {
            let mut every = tokio::time::interval(RELEASE_EVERY);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = every.tick() => {}
                }
                if let Err(error) = journal.release() {
                    tracing::error!(%error, "could not let old telemetry segments go");
                }
            }
        });
    }

    /// Appends one record and waits until it is durable.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was kept.
    pub async fn append(&self, kind: Kind, payload: &[u8]) -> Result<Lsn, AppendError> {
        let submitted = self.reserve(payload.len()).await?.submit(kind, payload);
        submitted.durable().await?;
        self.announce(submitted.end);
        Ok(submitted.lsns.first().copied().unwrap_or(submitted.end))
    }

    /// Waits, for a few seconds at most, until a record of `payload_bytes` may be submitted: for a follower that has to
    /// submit under its own lock.
    ///
    /// # Errors
    /// As [`TelemetryJournal::append`].
    pub async fn reserve(&self, payload_bytes: usize) -> Result<Permit, AppendError> {
        let room = self.shared.journal.reserve(payload_bytes + HEAD_BYTES, Class::Growing);
        match tokio::time::timeout(ROOM_WAIT, room).await {
            Ok(permit) => Ok(Permit(permit?)),
            Err(_) => {
                Err(AppendError::Busy { reason: "its disk is slower than what arrives", retry_after_s: RETRY_AFTER_S })
            }
        }
    }

    /// Wakes those who wait for records up to `end`, which must be durable. [`TelemetryJournal::append`] does so itself.
    pub fn announce(&self, end: Lsn) {
        self.shared.durable.send_if_modified(|durable| {
            let newer = end > *durable;
            *durable = end.max(*durable);
            newer
        });
    }

    /// Changes whenever there is more to read; holds the position after the newest durable record.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Lsn> {
        self.shared.durable.subscribe()
    }

    /// Position up to which everything is durable.
    #[must_use]
    pub fn durable(&self) -> Lsn {
        self.shared.journal.durable()
    }

    /// Position of the oldest record that is still there.
    #[must_use]
    pub fn oldest(&self) -> Lsn {
        self.shared.journal.segments().first().map_or(Lsn::default(), |segment| segment.base)
    }

    /// Bytes of all segments on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.shared.journal.segments().iter().map(|segment| segment.bytes).sum()
    }

    /// Each durable record of `kind` at or after `from`, oldest first; `visit` is handed its position and payload and
    /// returns false to stop. Begins at the oldest record when `from` is gone already. Returns the position after the
    /// last record looked at, of whatever kind, which is where to go on. Blocks on disk reads.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn scan(&self, kind: Kind, from: Lsn, visit: &mut dyn FnMut(Lsn, &[u8]) -> bool) -> Result<Lsn, JournalError> {
        let from = from.max(self.oldest());
        self.shared.journal.scan(from, &mut |lsn, record| match record {
            [of, VERSION, payload @ ..] if *of == kind as u8 => visit(lsn, payload),
            [of, version, ..] if *of == kind as u8 => {
                tracing::error!(kind = kind.as_str(), version, lsn = lsn.0, "skipped a record of a later version");
                true
            }
            _ => true,
        })
    }

    /// The follower of `kind` needs nothing before `lsn` any more: what it made of it is durable elsewhere.
    pub fn checkpoint(&self, kind: Kind, lsn: Lsn) {
        self.shared.checkpoints.lock()[kind.index()] = Some(lsn);
    }

    /// Lets each segment go that no kind needs. Returns how many went.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn release(&self) -> Result<usize, JournalError> {
        let needed_from = {
            let checkpoints = self.shared.checkpoints.lock();
            match checkpoints.iter().copied().collect::<Option<Vec<_>>>().and_then(|all| all.into_iter().min()) {
                Some(lsn) => lsn,
                None => return Ok(0), // a follower that has not spoken may need everything
            }
        };
        let journal = &self.shared.journal;
        let segments = journal.segments();
        let consumed = segments.last().is_some_and(|open| needed_from >= open.end && open.end > open.base);
        if consumed && self.disk_bytes() > self.shared.disk_bytes_max / 2 {
            journal.roll(); // a small budget: the open segment alone may fill it
        }
        journal.release_before(needed_from)
    }

    /// Makes everything pending durable and takes no more.
    pub fn close(&self) {
        self.shared.journal.close();
    }
}

/// Room for one record.
pub struct Permit(backlot_journal::Permit);

impl Permit {
    /// Puts the record into the journal, in the order of the calls, without waiting. After [`Submitted::durable`], call
    /// [`TelemetryJournal::announce`] with its `end` if anybody follows this kind by [`TelemetryJournal::subscribe`].
    pub fn submit(self, kind: Kind, payload: &[u8]) -> Submitted {
        let mut record = Vec::with_capacity(HEAD_BYTES + payload.len());
        record.extend([kind as u8, VERSION]);
        record.extend(payload);
        self.0.submit(&[&record])
    }
}
