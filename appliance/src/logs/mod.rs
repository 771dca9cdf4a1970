//! Logs: records in by OTLP, durable in the telemetry journal, found by words, names and time, followed live.
//!
//! A record is acknowledged when the journal has it; a search waits until what was acknowledged before it can be found.

mod api;
mod api_otlp;
mod model;
mod query;
mod schema;
mod tail;

use std::path::Path;
use std::sync::Arc;

use backlot_windows::{Batch, Found, Opened, Options, Search, Stats, Windows, WindowsError};
use tokio::sync::{Semaphore, broadcast};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Now};
use crate::config;
use crate::edge::ApiError;
use crate::signals::{Follower, Searches};
use crate::tasks::Stage;
use crate::telemetry_journal::{Kind, TelemetryJournal};

pub use api::fuzz_values;
pub use model::{BODY_BYTES_MAX, LogRecord, Placed, records};
pub use query::{QueryError, parse};
pub use schema::fuzz_export;

/// Readers of the live tail at once.
const TAILS_MAX: usize = 64;

/// The log store. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    shared: Arc<Shared>,
}

struct Shared {
    journal: TelemetryJournal,
    windows: Windows,
    follower: Follower,
    searches: Searches,
    clock: Arc<dyn Clock>,
    tails: Arc<Semaphore>,
}

impl Logs {
    /// Opens the windows below `data_dir`.
    ///
    /// # Errors
    /// [`WindowsError`] when the folder cannot be read or written.
    pub fn build(
        data_dir: &Path,
        config: &config::Logs,
        journal: TelemetryJournal,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Opened), WindowsError> {
        let options = Options {
            retention_ms: config.retention_days.saturating_mul(86_400_000),
            disk_bytes_max: config.disk_bytes_max,
            ..Options::new(data_dir.join("logs"))
        };
        let (windows, opened) = Windows::open(options)?;
        let follower =
            Follower::new(journal.clone(), Kind::Logs, windows.clone(), Arc::clone(&clock), schema::documents);
        let searches = Searches::new(windows.clone());
        let tails = Arc::new(Semaphore::new(TAILS_MAX));
        let shared = Shared { journal, windows, follower, searches, clock, tails };
        Ok((Self { shared: Arc::new(shared) }, opened))
    }

    /// Starts indexing. `stage` is that of the stores.
    pub fn start(&self, stage: &Stage) {
        self.shared.follower.start(stage);
    }

    /// Routes of the http door. Tails end when `stopping` is cancelled.
    pub fn routes(&self, stopping: CancellationToken) -> axum::Router {
        api::routes(self.clone(), stopping)
    }

    /// Finds records; everything that was acknowledged before the call is looked at.
    ///
    /// # Errors
    /// 503 when too many search at once.
    pub async fn search(&self, search: Search) -> Result<Found, ApiError> {
        self.shared.follower.caught_up().await;
        self.shared.searches.run(search).await
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.windows.stats()
    }

    fn journal(&self) -> &TelemetryJournal {
        &self.shared.journal
    }

    fn now(&self) -> Now {
        self.shared.clock.now()
    }

    fn subscribe(&self) -> broadcast::Receiver<Arc<Batch>> {
        self.shared.windows.subscribe()
    }
}

#[cfg(test)]
mod tests;
