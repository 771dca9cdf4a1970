//! Searches of windows on threads that may block, a few at a time, ended when nobody waits any more.
//!
//! A search that asks for cold windows leaves its turn to others and goes on in a turn of another kind: however long the other S3 takes,
//! searches of what is here are not held up. It has so much patience with the other S3 in all; then it answers with what it has.

use std::sync::Arc;
use std::time::Duration;

use backlot_windows::{
    Cancel, Counts, Found, FoundGreatest, Greatest, Query, Reach, Search, Unreached, Want, Windows, WindowsError,
};
use backlot_wire::metrics::WINDOWS_COLD_UNREACHED;
use opentelemetry::KeyValue;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::clock::Clock;
use crate::edge::ApiError;
use crate::telemetry::counter;
use crate::telemetry_journal::Kind;

/// Searches of one kind at once.
const AT_ONCE: usize = 4;
/// Those of them that wait for cold windows come on top.
const COLD_AT_ONCE: usize = 8;
/// Longest wait for a turn.
const WAIT: Duration = Duration::from_secs(5);
/// How long one search asks for cold windows.
const PATIENCE_MS: u64 = 30_000;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Searches {
    windows: Windows,
    kind: Kind,
    turns: Arc<Semaphore>,
    cold_turns: Arc<Semaphore>,
    clock: Arc<dyn Clock>,
}

/// Ends the search when the future that waits for it is dropped.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// What a search holds on to until it has really ended.
enum Turn {
    Here(#[allow(dead_code, reason = "held for its drop")] OwnedSemaphorePermit),
    /// It asks for cold windows since then.
    Cold {
        since_ms: u64,
        _permit: OwnedSemaphorePermit,
    },
    /// There was no turn for cold windows.
    Refused,
}

impl Searches {
    #[must_use]
    pub(super) fn new(windows: Windows, kind: Kind, clock: Arc<dyn Clock>) -> Self {
        let (turns, cold_turns) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Semaphore::new(COLD_AT_ONCE)));
        Self { windows, kind, turns, cold_turns, clock }
    }

    /// # Errors
    /// 503 when too many search, 500 when a window that is being written does not read.
    pub(super) async fn run(&self, search: Search) -> Result<Found, ApiError> {
        let found = self.take_turn(move |windows, cancel| windows.search(&search, cancel)).await?;
        self.told(&found.unreached);
        Ok(found)
    }

    /// # Errors
    /// As [`Searches::run`].
    pub(super) async fn greatest(&self, search: Greatest) -> Result<FoundGreatest, ApiError> {
        let found = self.take_turn(move |windows, cancel| windows.greatest(&search, cancel)).await?;
        self.told(&found.unreached);
        Ok(found)
    }

    /// # Errors
    /// As [`Searches::run`]; 400 when what is wanted is too much.
    pub(super) async fn tally(
        &self,
        query: Query,
        range: (i64, i64),
        wants: Vec<Want>,
        reach: Reach,
    ) -> Result<Counts, ApiError> {
        let counts = self.take_turn(move |windows, cancel| windows.tally(&query, range, &wants, reach, cancel)).await?;
        self.told(&counts.unreached);
        Ok(counts)
    }

    fn told(&self, unreached: &[Unreached]) {
        if !unreached.is_empty() {
            counter(&WINDOWS_COLD_UNREACHED).add(1, &[KeyValue::new("signal", self.kind.as_str())]);
        }
    }

    async fn take_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Windows, &Cancel) -> Result<T, WindowsError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = tokio::time::timeout(WAIT, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(ApiError::unavailable("too_many_searches", "too many searches are under way", 2));
        };
        let turn = Arc::new(Mutex::new(Turn::Here(turn)));
        let (held, searches, runtime) = (Arc::clone(&turn), self.clone(), Handle::current());
        let cancel = CancelOnDrop(Cancel::asking(move || searches.ask(&held, &runtime)));
        let (windows, flag) = (self.windows.clone(), cancel.0.clone());
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn; // held until the search has really ended
            work(&windows, &flag)
        });
        match done.await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(WindowsError::Cancelled)) => Err(ApiError::unavailable("cancelled", "the search was cancelled", 1)),
            Ok(Err(WindowsError::Wanted(problem))) => Err(ApiError::bad_request(problem)),
            Ok(Err(error)) => Err(ApiError::internal(&error)),
            Err(error) => Err(ApiError::internal(&error)),
        }
    }

    /// Before a search asks the other S3, on its thread.
    fn ask(&self, turn: &Mutex<Turn>, runtime: &Handle) -> Result<(), String> {
        let mut turn = turn.lock();
        if matches!(*turn, Turn::Here(_)) {
            *turn = Turn::Refused; // lets go of the one it had
            let waited = async { tokio::time::timeout(WAIT, Arc::clone(&self.cold_turns).acquire_owned()).await };
            if let Ok(Ok(permit)) = runtime.block_on(waited) {
                *turn = Turn::Cold { since_ms: self.clock.now().mono_ms, _permit: permit };
            }
        }
        match &*turn {
            Turn::Cold { since_ms, .. } if self.clock.now().mono_ms < since_ms + PATIENCE_MS => Ok(()),
            Turn::Cold { .. } => Err(format!("the search has asked for cold windows for {} s", PATIENCE_MS / 1000)),
            Turn::Here(_) | Turn::Refused => Err("too many searches ask for cold windows".to_owned()),
        }
    }
}
