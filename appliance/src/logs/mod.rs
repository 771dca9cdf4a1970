//! Logs: records in by OTLP, durable in the telemetry journal, found by words, names and time, followed live.
//!
//! A record is acknowledged when the journal has it; a search waits until what was acknowledged before it can be found.

mod api;
mod api_otlp;
mod around;
mod classes;
pub mod cloudwatch;
mod counts;
mod elastic;
mod export;
mod inlets;
mod loki;
mod model;
mod moments;
mod pages;
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

use crate::config;
use crate::edge::ApiError;
use crate::signals::{Common, Nature, Store};
use crate::tasks::Stage;
use crate::telemetry_journal::Kind;

pub use api::fuzz_values;
pub use classes::classes;
pub use elastic::fuzz_search as fuzz_elastic;
pub use inlets::syslog::{Sockets as SyslogSockets, SyslogError, check as check_syslog};
pub use inlets::{fuzz_bulk, fuzz_lines, fuzz_push, fuzz_syslog};
pub use loki::fuzz_query as fuzz_logql;
pub use model::{BODY_BYTES_MAX, LogRecord, Said, records};
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
    pub fn build(data_dir: &Path, config: &config::Logs, common: &Common) -> Result<(Self, Opened), WindowsError> {
        let options = options(data_dir, config).map_err(WindowsError::Wanted)?;
        let nature = Nature { kind: Kind::Logs, convert: schema::documents, fixed: schema::RESERVED };
        let (store, opened) = Store::open(options, nature, common)?;
        let tails = Arc::new(Semaphore::new(TAILS_MAX));
        Ok((Self { store, tails, resources: Resources::default() }, opened))
    }

    /// Starts indexing. `stage` is that of the stores.
    pub fn start(&self, stage: &Stage) {
        self.store.start(stage);
    }

    /// Routes of the http door. Tails end when `stopping` is cancelled.
    pub fn routes(&self, stopping: CancellationToken) -> axum::Router {
        api::routes(self.clone(), stopping.clone())
            .merge(inlets::routes(self.clone()))
            .merge(loki::routes(self.clone(), stopping))
            .merge(elastic::routes(self.clone()))
    }

    /// What is kept, and what goes when there is no room.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// As [`Store::search`].
    ///
    /// # Errors
    /// 503 when too many search at once.
    pub async fn search(&self, search: Search) -> Result<Found, ApiError> {
        self.store.search(search).await
    }
}

/// How log windows are cut and bounded.
///
/// # Errors
/// As [`classes`].
pub fn options(data_dir: &Path, config: &config::Logs) -> Result<Options, String> {
    Ok(Options {
        retention_ms: config.retention_days.saturating_mul(86_400_000),
        disk_bytes_max: config.disk_bytes_max,
        cold_after_ms: (config.cold_days > 0).then(|| config.cold_days.saturating_mul(86_400_000)),
        classes: classes(config).map_err(|problem| format!("logs.class: {problem}"))?,
        filtered: schema::FILTERED,
        ..Options::new(data_dir.join("logs"), schema::read)
    })
}

#[cfg(test)]
mod tests;
