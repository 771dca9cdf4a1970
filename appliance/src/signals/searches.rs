//! Searches of windows on threads that may block, a few at a time, ended when nobody waits any more.

use std::sync::Arc;
use std::time::Duration;

use backlot_windows::{Cancel, Counts, Found, FoundGreatest, Greatest, Query, Search, Want, Windows, WindowsError};
use tokio::sync::Semaphore;

use crate::edge::ApiError;

/// Searches of one kind at once.
const AT_ONCE: usize = 4;
/// Longest wait for a turn.
const WAIT: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Searches {
    windows: Windows,
    turns: Arc<Semaphore>,
}

/// Ends the search when the future that waits for it is dropped.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Searches {
    #[must_use]
    pub(super) fn new(windows: Windows) -> Self {
        Self { windows, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// # Errors
    /// 503 when too many search, 500 when a window that is being written does not read.
    pub(super) async fn run(&self, search: Search) -> Result<Found, ApiError> {
        self.take_turn(move |windows, cancel| windows.search(&search, cancel)).await
    }

    /// # Errors
    /// As [`Searches::run`].
    pub(super) async fn greatest(&self, search: Greatest) -> Result<FoundGreatest, ApiError> {
        self.take_turn(move |windows, cancel| windows.greatest(&search, cancel)).await
    }

    /// # Errors
    /// As [`Searches::run`]; 400 when what is wanted is too much.
    pub(super) async fn tally(&self, query: Query, range: (i64, i64), wants: Vec<Want>) -> Result<Counts, ApiError> {
        self.take_turn(move |windows, cancel| windows.tally(&query, range, &wants, cancel)).await
    }

    async fn take_turn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Windows, &Cancel) -> Result<T, WindowsError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = tokio::time::timeout(WAIT, Arc::clone(&self.turns).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(ApiError::unavailable("too_many_searches", "too many searches are under way", 2));
        };
        let cancel = CancelOnDrop(Cancel::default());
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
}
