//! The appliance's own signals: the log on standard error, instruments of the metric catalogue, and logs, traces and
//! metrics kept in the appliance itself through its own OTLP door, as any other sender's are.
//!
//! Nothing traces itself to death: exporters run with telemetry suppressed, what the doors do for an export is suppressed
//! too ([`unobserved`]), and what the modules on that way say goes to standard error alone.

mod client;
mod prometheus;

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use backlot_wire::metrics::Metric;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use opentelemetry::metrics::{Counter, Gauge, Histogram};
use opentelemetry::trace::{FutureExt as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, SpanExporter, WithExportConfig, WithHttpConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, IdGenerator, SdkTracerProvider};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

use crate::config;
use prometheus::SharedReader;

const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a span waits for others before it is sent.
const SPAN_DELAY: Duration = Duration::from_secs(1);
/// Libraries that say what only their authors want to know. The SDK tells of each export that fails, which `client` tells once; s3s
/// calls each refusal an error, and what is one is told where S3 is answered.
const QUIET: &str = "opentelemetry=off,s3s=off,tantivy=warn,backlot::s3_access=off";
/// What may be logged and must not be exported: it is said while an export is under way.
const UNEXPORTED: &[&str] = &[
    "backlot::edge::otlp",
    "backlot::signals",
    "backlot::telemetry_journal",
    "h2",
    "hyper",
    "hyper_util",
    "opentelemetry",
    "opentelemetry_otlp",
    "opentelemetry_sdk",
    "rustls",
    "s3s",
    "tantivy",
    "tonic",
    "tower",
];

static READER: OnceLock<SharedReader> = OnceLock::new();

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("`telemetry.log`: {0}")]
    Filter(String),
    #[error("`telemetry.log_format` is `text` or `json`, not `{0}`")]
    Format(String),
    #[error("telemetry was set up already")]
    Twice,
    #[error("exporters of the appliance's own signals: {0}")]
    Exporters(#[from] ExporterBuildError),
}

/// The appliance's own OTLP door, as its exporters see it.
#[derive(Clone, Debug)]
pub struct OwnDoor {
    /// `http://host:port` of the OTLP HTTP door.
    pub otlp_http: String,
    /// Key id and secret of the internal credential.
    pub credential: (String, String),
}

/// Ends the exporters in an orderly way.
pub struct Telemetry {
    meters: SdkMeterProvider,
    exporters: Option<(SdkTracerProvider, SdkLoggerProvider)>,
    client: Option<Arc<client::Loopback>>,
}

/// Sets up logging and instruments for this process, and exports to `own_door` if there is one, with span ids from `ids`. To be called once, within a
/// tokio runtime, before the first instrument is made; the door need not answer yet.
///
/// # Errors
/// [`TelemetryError`] says which key is wrong.
pub fn init(
    config: &config::Telemetry,
    own_door: Option<&OwnDoor>,
    ids: impl IdGenerator + 'static,
) -> Result<Telemetry, TelemetryError> {
    let directives = std::env::var("BACKLOT_LOG").ok().filter(|text| !text.is_empty());
    // What the operator writes comes later and wins.
    let directives = format!("{QUIET},{}", directives.as_ref().unwrap_or(&config.log));
    let filter = EnvFilter::try_new(directives).map_err(|error| TelemetryError::Filter(error.to_string()))?;
    let in_colour = std::io::stderr().is_terminal();
    let people = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(in_colour);
    let people: Box<dyn Layer<Registry> + Send + Sync> = match config.log_format.as_str() {
        "text" => people.with_filter(filter).boxed(),
        "json" => people.json().with_filter(filter).boxed(),
        other => return Err(TelemetryError::Format(other.to_owned())),
    };
    let reader = SharedReader::default();
    let resource = resource();
    let meters = SdkMeterProvider::builder().with_reader(reader.clone()).with_resource(resource.clone());
    let own_door = own_door.filter(|_| config.export);
    let (meters, exporters, client) = match own_door {
        None => {
            Registry::default().with(people).try_init().map_err(|_| TelemetryError::Twice)?;
            (meters.build(), None, None)
        }
        Some(door) => {
            let client = Arc::new(client::Loopback::new(EXPORT_TIMEOUT));
            let exporters = Exporters::build(door, &client)?;
            let every = Duration::from_secs(config.metrics_every_s.max(1));
            let meters = meters.with_reader(PeriodicReader::builder(exporters.metrics).with_interval(every).build());
            let batch = BatchConfigBuilder::default().with_scheduled_delay(SPAN_DELAY).build();
            let spans = BatchSpanProcessor::builder(exporters.spans).with_batch_config(batch).build();
            let tracers = SdkTracerProvider::builder()
                .with_span_processor(spans)
                .with_id_generator(ids)
                .with_resource(resource.clone())
                .build();
            let loggers =
                SdkLoggerProvider::builder().with_batch_exporter(exporters.logs).with_resource(resource).build();
            let own_spans = tracing_opentelemetry::layer()
                .with_tracer(tracers.tracer("backlot"))
                .with_location(false)
                .with_threads(false)
                .with_filter(exported());
            let own_logs = OpenTelemetryTracingBridge::new(&loggers).with_filter(exported());
            let registry = Registry::default().with(people).with(own_spans).with(own_logs);
            registry.try_init().map_err(|_| TelemetryError::Twice)?;
            opentelemetry::global::set_tracer_provider(tracers.clone());
            (meters.build(), Some((tracers, loggers)), Some(client))
        }
    };
    opentelemetry::global::set_meter_provider(meters.clone());
    let _ = READER.set(reader); // the first one stays, as the subscriber does
    Ok(Telemetry { meters, exporters, client })
}

impl Telemetry {
    /// Sends what is waiting, for some seconds at most: to be called while the doors still answer. Blocks.
    pub fn flush(&self) {
        let Some((tracers, loggers)) = &self.exporters else { return };
        std::thread::scope(|scope| {
            scope.spawn(|| tracers.force_flush());
            scope.spawn(|| loggers.force_flush());
            scope.spawn(|| self.meters.force_flush());
        });
    }

    /// Ends the exporters, for a second at most. Blocks.
    pub fn shutdown(&self) {
        let within = Duration::from_secs(1);
        if let Some(client) = &self.client {
            client.end();
        }
        std::thread::scope(|scope| {
            if let Some((tracers, loggers)) = &self.exporters {
                scope.spawn(move || tracers.shutdown_with_timeout(within));
                scope.spawn(move || loggers.shutdown_with_timeout(within));
            }
            scope.spawn(|| self.meters.shutdown_with_timeout(within));
        });
    }
}

struct Exporters {
    spans: SpanExporter,
    logs: LogExporter,
    metrics: MetricExporter,
}

impl Exporters {
    fn build(door: &OwnDoor, client: &Arc<client::Loopback>) -> Result<Self, ExporterBuildError> {
        let client: Arc<dyn opentelemetry_http::HttpClient> = Arc::<client::Loopback>::clone(client);
        let (id, secret) = &door.credential;
        let basic = format!("Basic {}", STANDARD.encode(format!("{id}:{secret}")));
        let headers = HashMap::from([("authorization".to_owned(), basic)]);
        macro_rules! exporter {
            ($builder:expr, $path:literal) => {
                $builder
                    .with_http()
                    .with_shared_http_client(Arc::clone(&client))
                    .with_endpoint(format!("{}{}", door.otlp_http, $path))
                    .with_headers(headers.clone())
                    .with_timeout(EXPORT_TIMEOUT)
                    .build()?
            };
        }
        Ok(Self {
            spans: exporter!(SpanExporter::builder(), "/v1/traces"),
            logs: exporter!(LogExporter::builder(), "/v1/logs"),
            metrics: exporter!(MetricExporter::builder(), "/v1/metrics"),
        })
    }
}

fn resource() -> Resource {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Resource::builder()
        .with_service_name("backlot")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("host.name", host.trim().to_owned()),
        ])
        .build()
}

/// What is exported: our own words, and warnings of libraries that have no part in exporting.
fn exported() -> Targets {
    Targets::new()
        .with_default(tracing::Level::WARN)
        .with_target("backlot", tracing::Level::INFO)
        .with_targets(UNEXPORTED.iter().map(|target| (*target, LevelFilter::OFF)))
}

/// Runs `work` without any of it being exported: for what takes telemetry in.
pub fn unobserved<F: Future>(work: F) -> impl Future<Output = F::Output> {
    work.with_context(Context::current().with_telemetry_suppressed())
}

/// The appliance's own metrics as Prometheus's text exposition, collected now.
#[must_use]
pub fn prometheus_text() -> String {
    READER.get().map(SharedReader::text).unwrap_or_default()
}

/// The counter of `metric`. The meter must have been installed before the first call.
#[must_use]
pub fn counter(metric: &Metric) -> Counter<u64> {
    opentelemetry::global::meter("backlot")
        .u64_counter(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .build()
}

/// The gauge of `metric`.
#[must_use]
pub fn gauge(metric: &Metric) -> Gauge<f64> {
    opentelemetry::global::meter("backlot")
        .f64_gauge(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .build()
}

/// The histogram of `metric`, with its buckets.
#[must_use]
pub fn histogram(metric: &Metric) -> Histogram<f64> {
    let meter = opentelemetry::global::meter("backlot");
    let builder = meter.f64_histogram(metric.name).with_unit(metric.unit).with_description(metric.help);
    match metric.kind {
        backlot_wire::metrics::Kind::Histogram(bounds) => builder.with_boundaries(bounds.to_vec()).build(),
        _ => builder.build(),
    }
}
