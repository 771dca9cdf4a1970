//! A store of one kind of record: durable in the telemetry journal when it is acknowledged, found in windows from then on.

use std::sync::Arc;

use backlot_windows::{
    Batch, Counts, Found, FoundGreatest, Greatest, Opened, Options, Query, Reach, Search, Unreached, Want, Windows,
    WindowsError,
};
use tokio::sync::broadcast;

use super::cold::ColdWindows;
use super::follower::{Convert, Follower, encode};
use super::names::Names;
use super::redact::{Redact, Redactor};
use super::searches::Searches;
use crate::clock::{Clock, Now};
use crate::config;
use crate::edge::ApiError;
use crate::tasks::Stage;
use crate::telemetry_journal::{AppendError, Kind, TelemetryJournal};

/// A larger request is searched for what must not be kept on a thread that may block.
const INLINE_BYTES_MAX: usize = 256 * 1024;

/// Cheap to clone.
#[derive(Clone)]
pub struct Store {
    kind: Kind,
    journal: TelemetryJournal,
    windows: Windows,
    follower: Follower,
    searches: Searches,
    redactor: Redactor,
    clock: Arc<dyn Clock>,
}

/// What one kind of record is like.
pub struct Nature {
    pub kind: Kind,
    /// Makes documents of a record as [`Store::keep`] has put it into the journal.
    pub convert: Convert,
    /// Names that fields of every record have.
    pub fixed: &'static [&'static str],
}

/// What all stores have in common. Cheap to clone.
#[derive(Clone)]
pub struct Common {
    pub journal: TelemetryJournal,
    pub redactor: Redactor,
    pub limits: config::SignalsConfig,
    pub clock: Arc<dyn Clock>,
    /// Where old windows go, if anywhere.
    pub cold: Option<ColdWindows>,
}

impl Store {
    /// Opens the windows.
    ///
    /// # Errors
    /// [`WindowsError`] when the folder cannot be read or written.
    pub fn open(options: Options, nature: Nature, common: &Common) -> Result<(Self, Opened), WindowsError> {
        let Nature { kind, convert, fixed } = nature;
        let Common { journal, redactor, clock, limits, cold } = common.clone();
        let options = Options { cold: cold.map(|cold| cold.of(kind.as_str())), ..options };
        let names = Names::open(kind.as_str(), &options, &limits, fixed);
        let (windows, opened) = Windows::open(options)?;
        let follower = Follower::new(journal.clone(), kind, windows.clone(), Arc::clone(&clock), convert, names);
        let searches = Searches::new(windows.clone(), kind, Arc::clone(&clock));
        Ok((Self { kind, journal, windows, follower, searches, redactor, clock }, opened))
    }

    /// Starts indexing. `stage` is that of the stores.
    pub fn start(&self, stage: &Stage) {
        self.follower.start(stage);
    }

    /// Makes a request durable, without what must not be kept.
    ///
    /// # Errors
    /// [`AppendError`]; nothing was kept.
    pub async fn keep(&self, request: impl prost::Message + Redact + 'static) -> Result<(), AppendError> {
        let (redactor, signal, arrived_ms) = (self.redactor.clone(), self.kind.as_str(), self.now().wall_ms);
        let is_slow = redactor.has_patterns() && request.encoded_len() > INLINE_BYTES_MAX;
        let mut request = request;
        let mut work = move || {
            redactor.apply(&mut request, signal);
            encode(arrived_ms, &request)
        };
        let payload = if is_slow {
            // Fails only where the work panicked, and then nothing may be kept.
            let done = tokio::task::spawn_blocking(work).await;
            done.map_err(|_| AppendError::Busy { reason: "redaction failed", retry_after_s: 10 })?
        } else {
            work()
        };
        self.journal.append(self.kind, &payload).await.map(drop)
    }

    /// Finds records; everything that was acknowledged before the call is looked at.
    ///
    /// # Errors
    /// 503 when too many search at once, or when windows could not be reached: who answers in a form that cannot say so is not to answer a part.
    pub async fn search(&self, search: Search) -> Result<Found, ApiError> {
        let found = self.search_within_reach(search).await?;
        whole(&found.unreached).map(|()| found)
    }

    /// The same, without the windows that cannot be reached; the answer names them.
    ///
    /// # Errors
    /// 503 when too many search at once.
    pub async fn search_within_reach(&self, search: Search) -> Result<Found, ApiError> {
        self.follower.caught_up().await;
        self.searches.run(search).await
    }

    /// Finds the records with the greatest numbers of a name, without the windows that cannot be reached; everything that was acknowledged
    /// before the call is looked at.
    ///
    /// # Errors
    /// 503 when too many search at once.
    pub async fn greatest(&self, search: Greatest) -> Result<FoundGreatest, ApiError> {
        self.follower.caught_up().await;
        self.searches.greatest(search).await
    }

    /// The moments of the earliest and the latest record in a range, or a little outside of them; `None` when there is none. Everything that
    /// was acknowledged before the call is looked at.
    pub async fn extent_now(&self, from_ns: i64, to_ns: i64) -> Option<(i64, i64)> {
        self.follower.caught_up().await;
        self.windows.extent(from_ns, to_ns)
    }

    /// Counts records; everything that was acknowledged before the call is looked at.
    ///
    /// # Errors
    /// As [`Store::search`]; 400 when a histogram would be too fine.
    pub async fn tally(&self, query: Query, range: (i64, i64), wants: Vec<Want>) -> Result<Counts, ApiError> {
        let counts = self.tally_within_reach(query, range, wants, Reach::Everywhere).await?;
        whole(&counts.unreached).map(|()| counts)
    }

    /// The same, without the windows that cannot be reached; the answer names them. Lists of names ask for those that are here alone.
    ///
    /// # Errors
    /// 503 when too many search at once; 400 when a histogram would be too fine.
    pub async fn tally_within_reach(
        &self,
        query: Query,
        range: (i64, i64),
        wants: Vec<Want>,
        reach: Reach,
    ) -> Result<Counts, ApiError> {
        self.follower.caught_up().await;
        self.searches.tally(query, range, wants, reach).await
    }

    /// The newest records as they arrive.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Batch>> {
        self.windows.subscribe()
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    pub(super) fn windows(&self) -> &Windows {
        &self.windows
    }

    #[must_use]
    pub fn now(&self) -> Now {
        self.clock.now()
    }
}

/// # Errors
/// 503 that names the windows that an answer lacks.
pub fn whole(unreached: &[Unreached]) -> Result<(), ApiError> {
    let Some(first) = unreached.first() else { return Ok(()) };
    let problem = format!(
        "{} windows of this time lie in the other S3 and cannot be searched now, {} among them: {}",
        unreached.len(),
        first.window,
        first.reason
    );
    Err(ApiError::unavailable("cold_windows_away", problem, 10).hint(
        "ask for a later time, or again when `cold_windows` answers; `backlot logs kept` shows where windows are",
    ))
}
