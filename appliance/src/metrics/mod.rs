//! Metrics: OTLP in, PromQL and Prometheus's HTTP API out.
//!
//! [`Metrics`] takes export requests, answers when their samples are durable in the telemetry journal, keeps the newest hours in a
//! compressed head and the rest in two-hour blocks, and answers queries over both. Every dimension is bounded: series,
//! labels, late samples, samples and time of a query, queries at once, days and bytes on disk.
//!
//! Absent on purpose: scraping (agents and SDKs push), remote write, native histograms.

mod api_otlp;
mod api_prometheus;
mod block;
mod chunk;
mod codec;
mod exemplars;
mod files;
mod head;
pub mod model;
mod naming;
mod params;
pub mod promql;
mod record;
mod snapshot;
mod store;
#[cfg(test)]
mod testing;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backlot_wire::metrics::{SERIES, TELEMETRY_REFUSED};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use tokio::sync::Semaphore;

pub use api_otlp::fuzz_export;
pub use api_prometheus::routes;
pub use params::fuzz_values;
pub use store::StoreError;

use crate::clock::Clock;
use crate::config::MetricsConfig;
use crate::edge::otlp::{OtlpError, Partial, Sink};
use crate::tasks::Stage;
use crate::telemetry::{counter, gauge};
use crate::telemetry_journal::{Kind, TelemetryJournal};
use head::Refusal;
use promql::{Answer, Budget, Limits, Notes, QueryError, Range};
use record::Batch;
use store::{Bounds, Store};

/// How often blocks, retention and the snapshot are looked after.
const UPKEEP_EVERY: Duration = Duration::from_secs(60);
/// Largest payload of one journal record, in bytes of samples as they are estimated before encoding.
const RECORD_POINTS_MAX: usize = 20_000;
/// Longest wait for a place among the queries.
const QUERY_WAIT: Duration = Duration::from_secs(10);

/// Reads `bytes` as what is kept in the journal, in blocks and in snapshots, without their checksums, and throws the
/// outcome away: for fuzzing.
pub fn fuzz_stored(bytes: &[u8]) {
    let _ = Batch::decode(bytes);
    block::fuzz_index(bytes);
    snapshot::fuzz_body(bytes);
    exemplars::fuzz_body(bytes);
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    journal: TelemetryJournal,
    clock: Arc<dyn Clock>,
    config: MetricsConfig,
    queries: Semaphore,
}

/// One element of an instant vector, for those who only want numbers.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Metrics {
    /// Opens the store below `data_dir` and replays the journal.
    ///
    /// # Errors
    /// [`StoreError`] names the folder or file.
    pub fn build(
        journal: TelemetryJournal,
        clock: Arc<dyn Clock>,
        data_dir: &Path,
        config: &MetricsConfig,
    ) -> Result<Self, StoreError> {
        let bounds = Bounds {
            series_max: config.series_max,
            retention_ms: i64::from(config.retention_days) * 86_400_000,
            disk_bytes_max: config.disk_bytes_max,
            late_ms_max: i64::from(config.late_s_max) * 1000,
        };
        let store = Store::open(data_dir, bounds, journal.clone())?;
        let queries = Semaphore::new(config.queries_max.max(1));
        Ok(Self { shared: Arc::new(Shared { store, journal, clock, config: config.clone(), queries }) })
    }

    /// Starts the task that follows the journal and looks after blocks and retention. It saves the head when it stops.
    pub fn start(&self, stage: &Stage) {
        let (metrics, stop) = (self.clone(), stage.stopping());
        let mut more = self.shared.journal.subscribe();
        stage.spawn("metrics head", async move {
            let mut every = tokio::time::interval(UPKEEP_EVERY);
            every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut announced = true;
            loop {
                let upkeep = tokio::select! {
                    () = stop.cancelled() => break,
                    _ = every.tick() => true,
                    changed = more.changed(), if announced => {
                        announced = changed.is_ok(); // an ended journal leaves the timer
                        false
                    }
                };
                metrics.off_thread(move |shared| shared.turn(upkeep)).await;
            }
            metrics
                .off_thread(|shared| {
                    shared.turn(false);
                    if let Err(error) = shared.store.save(shared.now_ms()) {
                        tracing::error!(%error, "could not save the metrics head; the journal still has it");
                    }
                })
                .await;
        });
    }

    async fn off_thread(&self, work: impl FnOnce(&Shared) + Send + 'static) {
        let shared = self.shared.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || work(&shared)).await {
            tracing::error!(%error, "upkeep of metrics failed");
        }
    }

    /// Evaluates `expression` now; dropped, it stops soon. For alert rules.
    ///
    /// # Errors
    /// [`QueryError`].
    pub async fn query(&self, expression: &str) -> Result<Vec<Element>, QueryError> {
        let expr = promql::parse(expression)?;
        let now_ms = self.now_ms();
        let (answer, _) = self.evaluate(expr, Range::instant(now_ms), true, None).await?;
        let element = |labels: &model::Labels, value: f64| Element {
            labels: labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
            value,
        };
        match answer {
            Answer::Scalar(sample) => Ok(vec![element(&model::Labels::default(), sample.value)]),
            Answer::Vector(series) => {
                let last = |one: &promql::SeriesAnswer| Some(element(&one.labels, one.samples.last()?.value));
                Ok(series.iter().filter_map(last).collect())
            }
            _ => Err(QueryError::Parse("expected an instant vector or a scalar".into())),
        }
    }

    fn now_ms(&self) -> i64 {
        self.shared.now_ms()
    }

    /// Evaluates an expression on a thread of its own, one of a bounded number. When this future is dropped, because the
    /// client has gone, the evaluation ends at its next look.
    async fn evaluate(
        &self,
        expr: promql_parser::parser::Expr,
        range: Range,
        instant: bool,
        timeout_ms: Option<u64>,
    ) -> Result<(Answer, Notes), QueryError> {
        let place = tokio::time::timeout(QUERY_WAIT, self.shared.queries.acquire());
        let Ok(Ok(_place)) = place.await else { return Err(QueryError::Timeout) };
        let config = &self.shared.config;
        let longest_ms = u64::from(config.query_timeout_s) * 1000;
        let limits = Limits {
            samples_max: config.query_samples_max,
            timeout_ms: timeout_ms.unwrap_or(longest_ms).min(longest_ms),
        };
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let (shared, stopped) = (self.shared.clone(), stop.0.clone());
        let work = tokio::task::spawn_blocking(move || {
            let budget = Budget::new(&limits, shared.clock.clone(), stopped);
            let answer = if instant {
                promql::instant(&shared.store, &expr, range.start_ms, &budget)
            } else {
                promql::range(&shared.store, &expr, range, &budget)
            };
            answer.map(|answer| (answer, budget.into_notes()))
        });
        work.await.map_err(|error| QueryError::Storage(format!("evaluation ended early: {error}")))?
    }

    async fn export(&self, request: ExportMetricsServiceRequest) -> Result<Partial, OtlpError> {
        let shared = &self.shared;
        let mut translated = api_otlp::translate(&request, &shared.config.promote_resource_attributes);
        drop(request);
        let mut reasons: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut partial = Partial::default();
        for (reason, (count, message)) in &translated.rejected {
            partial.rejected += count;
            *reasons.entry(reason).or_default() += count;
            append(&mut partial.message, message);
        }
        let mut dropped: BTreeMap<Refusal, u64> = BTreeMap::new();
        let had = translated.batch.points();
        shared.store.admit(&mut translated.batch, self.now_ms(), |refusal| *dropped.entry(refusal).or_default() += 1);
        for (refusal, count) in &dropped {
            *reasons.entry(refusal.as_str()).or_default() += count;
            append(&mut partial.message, &format!("{count} samples refused: {}", refusal.as_str()));
        }
        let kept = translated.batch.points();
        for batch in parts(translated.batch) {
            shared.journal.append(Kind::Metrics, &batch.encode()).await?;
        }
        // OTLP counts data points, and a histogram's becomes many samples: a refused sample counts as its share of them.
        let refused_points = if had == 0 { 0 } else { translated.points * (had - kept) as u64 / had as u64 };
        partial.rejected += refused_points;
        partial.accepted = translated.points - refused_points;
        for (reason, count) in reasons {
            refuse(reason, count);
        }
        Ok(partial)
    }
}

impl Shared {
    fn now_ms(&self) -> i64 {
        i64::try_from(self.clock.now().wall_ms).unwrap_or(i64::MAX)
    }

    fn turn(&self, upkeep: bool) {
        let mut refused: BTreeMap<Refusal, u64> = BTreeMap::new();
        if let Err(error) = self.store.follow(|refusal| *refused.entry(refusal).or_default() += 1) {
            tracing::error!(%error, "could not follow the telemetry journal");
        }
        for (refusal, count) in refused {
            refuse(refusal.as_str(), count);
        }
        gauge(&SERIES).record(self.store.head.read().len() as f64, &[]);
        if upkeep {
            match self.store.upkeep(self.now_ms()) {
                Ok(done) if done != store::Upkeep::default() => {
                    tracing::info!(written = done.blocks_written, dropped = done.blocks_dropped, "metrics blocks");
                }
                Ok(_) => {}
                Err(error) => tracing::error!(%error, "upkeep of metrics failed; the journal still has the samples"),
            }
        }
    }
}

impl Sink<ExportMetricsServiceRequest> for Metrics {
    fn export(&self, request: ExportMetricsServiceRequest) -> BoxFuture<'_, Result<Partial, OtlpError>> {
        Metrics::export(self, request).boxed()
    }
}

/// Tells an evaluation that nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Counts samples, which are more than the data points that the door counts: a histogram's point is many samples.
fn refuse(reason: &'static str, samples: u64) {
    let labels = [KeyValue::new("signal", "samples"), KeyValue::new("reason", reason)];
    counter(&TELEMETRY_REFUSED).add(samples, &labels);
}

fn append(message: &mut String, more: &str) {
    if !message.is_empty() {
        message.push_str("; ");
    }
    message.push_str(more);
}

/// Splits a batch so that no record grows past what a journal takes.
fn parts(batch: Batch) -> Vec<Batch> {
    let mut parts = Vec::new();
    let mut part = Batch { metadata: batch.metadata, ..Batch::default() };
    let mut points = 0;
    for (labels, of_series) in batch.series {
        for few in of_series.chunks(RECORD_POINTS_MAX) {
            if points + few.len() > RECORD_POINTS_MAX {
                parts.push(std::mem::take(&mut part));
                points = 0;
            }
            points += few.len();
            part.series.push((labels.clone(), few.to_vec()));
        }
    }
    if !part.series.is_empty() {
        parts.push(part);
    }
    // After their series, which the head then has.
    let few = batch.exemplars.chunks(RECORD_POINTS_MAX);
    parts.extend(few.map(|few| Batch { exemplars: few.to_vec(), ..Batch::default() }));
    parts
}
