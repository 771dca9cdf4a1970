//! Traces: spans in by OTLP, durable in the telemetry journal, put together when somebody asks.
//!
//! A trace is not a thing that is kept: its spans are, in windows of their own, and a trace is what they make together at
//! the moment of the question. A parent that is not there is named, not invented.

mod api;
mod api_jaeger;
mod api_otlp;
mod dependencies;
mod jaeger;
mod list;
mod model;
mod params;
mod path;
mod query;
mod schema;
mod store;
mod tags;
#[cfg(test)]
mod testing;
mod trace;
mod tree;

use std::path::Path;

use backlot_windows::{Opened, Options, WindowsError};

use crate::config;
use crate::signals;
use crate::signals::{Common, Nature};
use crate::tasks::Stage;
use crate::telemetry_journal::Kind;

pub use list::{Asked, Page};
pub use model::{Span, SpanEvent, SpanLink, SpanStatus};
pub use params::fuzz_values;
pub use path::CriticalPath;
pub use query::{QueryError, parse};
pub use schema::{Operation, fuzz_export};
pub use store::ListOrder;
pub use trace::{LinkedFrom, Summary, Trace};

/// The trace store. Cheap to clone.
#[derive(Clone)]
pub struct Traces {
    store: signals::Store,
}

impl Traces {
    /// Opens the windows below `data_dir`.
    ///
    /// # Errors
    /// [`WindowsError`] when the folder cannot be read or written.
    pub fn build(data_dir: &Path, config: &config::Traces, common: &Common) -> Result<(Self, Opened), WindowsError> {
        let nature = Nature { kind: Kind::Spans, convert: schema::documents, fixed: schema::RESERVED };
        let (store, opened) = signals::Store::open(options(data_dir, config), nature, common)?;
        Ok((Self { store }, opened))
    }

    /// Starts indexing. `stage` is that of the stores.
    pub fn start(&self, stage: &Stage) {
        self.store.start(stage);
    }

    /// What is kept, and what goes when there is no room.
    #[must_use]
    pub fn store(&self) -> &signals::Store {
        &self.store
    }

    /// Routes of the http door.
    pub fn routes(&self) -> axum::Router {
        api::routes(self.clone()).merge(api_jaeger::routes(self.clone()))
    }
}

/// How span windows are cut and bounded.
#[must_use]
pub fn options(data_dir: &Path, config: &config::Traces) -> Options {
    Options {
        retention_ms: config.retention_days.saturating_mul(86_400_000),
        disk_bytes_max: config.disk_bytes_max,
        cold_after_ms: (config.cold_days > 0).then(|| config.cold_days.saturating_mul(86_400_000)),
        filtered: schema::FILTERED,
        ..Options::new(data_dir.join("traces"), schema::read)
    }
}
