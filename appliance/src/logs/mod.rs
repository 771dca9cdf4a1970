//! Logs: records in by OTLP, durable in the telemetry journal, found by words, names and time, followed live.
//!
//! A record is acknowledged when the journal has it; a search waits until what was acknowledged before it can be found.

mod api;
mod api_otlp;
mod around;
mod counts;
mod export;
mod inlets;
mod model;
mod pattern;
mod query;
mod schema;
mod streams;
mod tail;

use std::path::Path;
use std::sync::Arc;

use backlot_windows::{Found, Opened, Options, Search, WindowsError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config;
use crate::edge::ApiError;
use crate::signals::Store;
use crate::signals::redact::Redactor;
use crate::tasks::Stage;
use crate::telemetry_journal::{Kind, TelemetryJournal};

pub use api::fuzz_values;
pub use inlets::{fuzz_bulk, fuzz_lines, fuzz_push};
pub use model::{BODY_BYTES_MAX, LogRecord, Placed, records};
use query::field;
pub use query::{QueryError, parse};
pub use schema::fuzz_export;
use streams::Resources;
pub use streams::Stream;

/// Readers of the live tail at once.
const TAILS_MAX: usize = 64;

/// The log store. Cheap to clone.
#[derive(Clone)]
pub struct Logs {
    store: Store,
    tails: Arc<Semaphore>,
    resources: Resources,
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
        redactor: Redactor,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Opened), WindowsError> {
        let options = Options {
            retention_ms: config.retention_days.saturating_mul(86_400_000),
            disk_bytes_max: config.disk_bytes_max,
            ..Options::new(data_dir.join("logs"), schema::read)
        };
        let (store, opened) = Store::open(options, Kind::Logs, schema::documents, journal, redactor, clock)?;
        let tails = Arc::new(Semaphore::new(TAILS_MAX));
        Ok((Self { store, tails, resources: Resources::default() }, opened))
    }

    /// Starts indexing. `stage` is that of the stores.
    pub fn start(&self, stage: &Stage) {
        self.store.start(stage);
    }

    /// Routes of the http door. Tails end when `stopping` is cancelled.
    pub fn routes(&self, stopping: CancellationToken) -> axum::Router {
        api::routes(self.clone(), stopping).merge(inlets::routes(self.clone()))
    }

    /// As [`Store::search`].
    ///
    /// # Errors
    /// 503 when too many search at once.
    pub async fn search(&self, search: Search) -> Result<Found, ApiError> {
        self.store.search(search).await
    }
}

#[cfg(test)]
mod tests;
