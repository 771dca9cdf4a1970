//! Logs, spans and metrics of the agent: to people on standard error, to the appliance by OTLP.
//!
//! Log records of an attempt carry `job.id` and `job.attempt`, and its trace. What the exporters and the HTTP client do
//! is never shipped: they would feed themselves. What does not fit the exporters' queues while the appliance is away is
//! dropped by them; nothing of a job depends on it.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use backlot_wire::metrics::{self, Metric};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Meter, MeterProvider as _};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_appender_tracing::layer::{OpenTelemetryTracingBridge, TracingSpanAttributes};
use opentelemetry_otlp::{Compression, LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::config::Config;
use crate::events::Outbox;
use crate::host::{CpuMeter, Gpus, memory_bytes};
use crate::http_client::{ExporterClient, HttpClient};
use crate::library::Library;

const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// The exporters. Without an OTLP address there are none.
pub struct Signals {
    exporters: Option<Exporters>,
    meter: Meter,
}

struct Exporters {
    traces: SdkTracerProvider,
    logs: SdkLoggerProvider,
    metrics: SdkMeterProvider,
}

impl Signals {
    /// Installs the log on standard error and, where the configuration names an address, the exporters. Once a process.
    ///
    /// # Errors
    /// A sentence that names the key that is wrong.
    pub fn start(config: &Config, http: &HttpClient, authorization: &str) -> Result<Self, String> {
        // The SDK tells of each export that fails; our client tells it once. A directive of the configuration still wins.
        let directives = format!("opentelemetry=off,{}", config.log);
        let filter = EnvFilter::try_new(directives).map_err(|error| format!("`log`: {error}"))?;
        let people = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .with_filter(filter);
        if config.otlp.is_empty() {
            Registry::default().with(people).try_init().map_err(|error| error.to_string())?;
            // Without a provider behind it, this meter measures nothing and costs nothing.
            return Ok(Self { exporters: None, meter: opentelemetry::global::meter("backlot-agent") });
        }
        let exporters = Exporters::new(config, http, authorization).map_err(|error| format!("`otlp`: {error}"))?;
        let spans = tracing_opentelemetry::layer()
            .with_tracer(exporters.traces.tracer("backlot-agent"))
            .with_location(false)
            .with_threads(false)
            .with_filter(shipped());
        let records = OpenTelemetryTracingBridge::builder(&exporters.logs)
            .with_tracing_span_attributes(TracingSpanAttributes::allowlist(["job.id", "job.attempt"]))
            .build()
            .with_filter(shipped());
        Registry::default().with(people).with(spans).with(records).try_init().map_err(|error| error.to_string())?;
        let meter = exporters.metrics.meter("backlot-agent");
        Ok(Self { exporters: Some(exporters), meter })
    }

    /// Ships the metrics whenever the answer is notified, at most once a second: an attempt that is shorter than
    /// `metrics_s` is to have its curves too. Runs until `background` ends.
    pub fn sampler(&self, background: &mut JoinSet<()>) -> Arc<Notify> {
        let asked = Arc::new(Notify::new());
        if let Some(exporters) = &self.exporters {
            let (metrics, wanted) = (exporters.metrics.clone(), Arc::clone(&asked));
            background.spawn(async move {
                loop {
                    wanted.notified().await;
                    let metrics = metrics.clone();
                    let _ = tokio::task::spawn_blocking(move || metrics.force_flush()).await;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
        }
        asked
    }

    #[must_use]
    pub fn counter(&self, metric: &Metric) -> Counter<u64> {
        self.meter.u64_counter(metric.name).with_unit(metric.unit).with_description(metric.help).build()
    }

    #[must_use]
    pub fn counter_of_seconds(&self, metric: &Metric) -> Counter<f64> {
        self.meter.f64_counter(metric.name).with_unit(metric.unit).with_description(metric.help).build()
    }

    /// Has the cache of models looked at whenever metrics are collected.
    pub fn observe_library(&self, agent: &str, library: Arc<Library>) {
        let labels = [KeyValue::new("agent", agent.to_owned())];
        self.gauge(&metrics::AGENT_MODEL_CACHE_BYTES, move |observe| observe(as_f64(library.bytes()), &labels));
    }

    /// Has the host looked at whenever metrics are collected.
    pub fn observe_host(&self, agent: &str, gpus: Gpus, outbox: Arc<Outbox>) {
        let label = KeyValue::new("agent", agent.to_owned());
        let cpu = CpuMeter::default();
        let labels = [label.clone()];
        self.gauge(&metrics::AGENT_CPU, move |observe| {
            if let Some(share) = cpu.utilisation() {
                observe(share, &labels);
            }
        });
        let labels = [label.clone()];
        self.gauge(&metrics::AGENT_MEMORY, move |observe| {
            if let Some((used, _)) = memory_bytes() {
                observe(as_f64(used), &labels);
            }
        });
        let labels = [label.clone()];
        self.gauge(&metrics::AGENT_SPOOL_BYTES, move |observe| observe(as_f64(outbox.spool().bytes()), &labels));
        let of_gpu = move |index: u32| [label.clone(), KeyValue::new("gpu", index.to_string())];
        let (again, labels) = (gpus.clone(), of_gpu.clone());
        self.gauge(&metrics::AGENT_GPU_UTILISATION, move |observe| {
            again.sample().iter().for_each(|gpu| observe(gpu.utilisation, &labels(gpu.index)));
        });
        self.gauge(&metrics::AGENT_GPU_MEMORY, move |observe| {
            gpus.sample().iter().for_each(|gpu| observe(as_f64(gpu.memory_used_bytes), &of_gpu(gpu.index)));
        });
    }

    fn gauge(&self, metric: &Metric, look: impl Fn(&dyn Fn(f64, &[KeyValue])) + Send + Sync + 'static) {
        self.meter
            .f64_observable_gauge(metric.name)
            .with_unit(metric.unit)
            .with_description(metric.help)
            .with_callback(move |observer| look(&|value, labels| observer.observe(value, labels)))
            .build();
    }

    /// Ships what is waiting, for a few seconds at most. Blocks.
    pub fn end(self) {
        let Some(exporters) = self.exporters else { return };
        // Each has its own thread; an appliance that is away must not cost its timeout three times.
        std::thread::scope(|scope| {
            scope.spawn(|| exporters.traces.shutdown_with_timeout(EXPORT_TIMEOUT));
            scope.spawn(|| exporters.logs.shutdown_with_timeout(EXPORT_TIMEOUT));
            scope.spawn(|| exporters.metrics.shutdown_with_timeout(EXPORT_TIMEOUT));
        });
    }
}

#[allow(clippy::cast_precision_loss, reason = "a gauge is a float; sizes of hosts fit")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

/// What goes to the appliance: the agent's own words, and warnings of its libraries.
fn shipped() -> Targets {
    let silent =
        ["hyper", "hyper_util", "h2", "rustls", "tower", "opentelemetry", "opentelemetry_sdk", "opentelemetry_otlp"];
    Targets::new()
        .with_default(tracing::Level::WARN)
        .with_target("backlot_agent", tracing::Level::INFO)
        .with_targets(silent.map(|target| (target, tracing_subscriber::filter::LevelFilter::OFF)))
}

impl Exporters {
    fn new(
        config: &Config,
        http: &HttpClient,
        authorization: &str,
    ) -> Result<Self, opentelemetry_otlp::ExporterBuildError> {
        let base = config.otlp.trim_end_matches('/');
        let client: Arc<dyn opentelemetry_http::HttpClient> =
            Arc::new(ExporterClient::new(http.clone(), EXPORT_TIMEOUT));
        let headers = HashMap::from([("authorization".to_owned(), authorization.to_owned())]);
        let resource = Resource::builder()
            .with_service_name("backlot-agent")
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", config.name.clone()),
                KeyValue::new("host.name", crate::config::host_name()),
            ])
            .build();
        let traces = SpanExporter::builder()
            .with_http()
            .with_shared_http_client(Arc::clone(&client))
            .with_endpoint(format!("{base}/v1/traces"))
            .with_headers(headers.clone())
            .with_compression(Compression::Gzip)
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let logs = LogExporter::builder()
            .with_http()
            .with_shared_http_client(Arc::clone(&client))
            .with_endpoint(format!("{base}/v1/logs"))
            .with_headers(headers.clone())
            .with_compression(Compression::Gzip)
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let metrics = MetricExporter::builder()
            .with_http()
            .with_shared_http_client(client)
            .with_endpoint(format!("{base}/v1/metrics"))
            .with_headers(headers)
            .with_compression(Compression::Gzip)
            .with_timeout(EXPORT_TIMEOUT)
            .build()?;
        let reader = PeriodicReader::builder(metrics).with_interval(Duration::from_secs(config.metrics_s)).build();
        Ok(Self {
            traces: SdkTracerProvider::builder().with_batch_exporter(traces).with_resource(resource.clone()).build(),
            logs: SdkLoggerProvider::builder().with_batch_exporter(logs).with_resource(resource.clone()).build(),
            metrics: SdkMeterProvider::builder().with_reader(reader).with_resource(resource).build(),
        })
    }
}
