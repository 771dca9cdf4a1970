//! Traces: spans in by OTLP, durable in the telemetry journal, put together when somebody asks.
//!
//! A trace is not a thing that is kept: its spans are, in windows of their own, and a trace is what they make together at
//! the moment of the question. A parent that is not there is named, not invented.

mod api;
mod api_otlp;
mod model;
mod store;

use std::path::Path;
use std::sync::Arc;

use backlot_windows::{Found, Opened, Options, Search, Stats, Windows, WindowsError};

use crate::clock::{Clock, Now};
use crate::config;
use crate::edge::ApiError;
use crate::signals::{Follower, Searches};
use crate::tasks::Stage;
use crate::telemetry_journal::{Kind, TelemetryJournal};

pub use model::{Span, SpanEvent, SpanLink, SpanStatus, Summary, Trace, fuzz_export};
pub use store::Narrow;

/// The trace store. Cheap to clone.
#[derive(Clone)]
pub struct Traces {
    shared: Arc<Shared>,
}

struct Shared {
    journal: TelemetryJournal,
    windows: Windows,
    follower: Follower,
    searches: Searches,
    clock: Arc<dyn Clock>,
}

impl Traces {
    /// Opens the windows below `data_dir`.
    ///
    /// # Errors
    /// [`WindowsError`] when the folder cannot be read or written.
    pub fn build(
        data_dir: &Path,
        config: &config::Traces,
        journal: TelemetryJournal,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Opened), WindowsError> {
        let options = Options {
            retention_ms: config.retention_days.saturating_mul(86_400_000),
            disk_bytes_max: config.disk_bytes_max,
            ..Options::new(data_dir.join("traces"))
        };
        let (windows, opened) = Windows::open(options)?;
        let follower =
            Follower::new(journal.clone(), Kind::Spans, windows.clone(), Arc::clone(&clock), model::documents);
        let searches = Searches::new(windows.clone());
        Ok((Self { shared: Arc::new(Shared { journal, windows, follower, searches, clock }) }, opened))
    }

    /// Starts indexing. `stage` is that of the stores.
    pub fn start(&self, stage: &Stage) {
        self.shared.follower.start(stage);
    }

    /// Routes of the http door.
    pub fn routes(&self) -> axum::Router {
        api::routes(self.clone())
    }

    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.windows.stats()
    }

    async fn search(&self, search: Search) -> Result<Found, ApiError> {
        self.shared.follower.caught_up().await;
        self.shared.searches.run(search).await
    }

    fn journal(&self) -> &TelemetryJournal {
        &self.shared.journal
    }

    fn now(&self) -> Now {
        self.shared.clock.now()
    }
}
