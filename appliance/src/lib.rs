//! The appliance: where its parts are wired together, and nothing else.
//!
//! No part knows another one but through what is handed to it here. The order of [`Appliance::build`] is the order of
//! dependence: sockets first (a taken port fails before anything is opened), then signals, journals, capabilities, replay.

// It panics when whoever reads has had enough.
#![warn(clippy::print_stdout)]

pub mod alerting;
pub mod artifacts;
pub mod bucket_events;
pub mod catalogue;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
#[cfg(test)]
mod crash_testing;
pub mod edge;
pub mod folder;
pub mod identity;
pub mod jobs;
pub mod logs;
pub mod master;
pub mod metrics;
pub mod other_s3;
pub mod outgoing;
pub mod policy;
pub mod queue;
mod reached;
pub mod signals;
pub mod tasks;
pub mod telemetry;
pub mod telemetry_journal;
pub mod traces;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures::future::BoxFuture;
use serde::Serialize;

use crate::alerting::{Alerting, MetricsReader};
use crate::artifacts::media::{Library, Media};
use crate::artifacts::{Artifacts, AtRest, Upstream};
use crate::bucket_events::BucketEvents;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Engine};
use crate::control::{Control, Follower};
use crate::edge::aws::Dialect;
use crate::edge::otlp::Sinks;
use crate::edge::{AwsDoor, Door, Endpoints, Gate, Listener, S3Door, S3Keys};
use crate::identity::{Credential, Identity};
use crate::jobs::{Book, JobIds, Jobs};
use crate::logs::cloudwatch::{CloudWatch, Groups};
use crate::logs::{Logs, SyslogError, SyslogSockets};
use crate::master::MasterKeys;
use crate::metrics::Metrics;
use crate::queue::{Overseer, Queues};
use crate::signals::Common;
use crate::signals::budget::Budget;
use crate::signals::cold::ColdWindows;
use crate::signals::redact::Redactor;
use crate::tasks::{Stage, Stages};
use crate::telemetry::{OwnDoor, Telemetry};
use crate::telemetry_journal::TelemetryJournal;
use crate::traces::Traces;

/// Buckets that exist from the start: what the command line uploads to, and what agents load models from.
pub(crate) const BUCKETS: [&str; 2] = ["studio", "models"];

/// Where a capability's random numbers begin. Chance enters here; a test hands in its own.
fn seed() -> u64 {
    rand::random()
}

/// Why the appliance does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "--dev is for this machine alone, and the {0} door's address is not loopback; leave --dev away or use 127.0.0.1"
    )]
    DevIsOpen(&'static str),
    #[error(transparent)]
    Folder(#[from] folder::FolderError),
    #[error(transparent)]
    Master(#[from] master::MasterError),
    #[error(transparent)]
    Listen(#[from] edge::ListenError),
    #[error(transparent)]
    Syslog(#[from] SyslogError),
    #[error(transparent)]
    Control(#[from] control::StartError),
    #[error(transparent)]
    Telemetry(#[from] telemetry::TelemetryError),
    #[error(transparent)]
    Windows(#[from] backlot_windows::WindowsError),
    #[error(transparent)]
    Metrics(#[from] metrics::StoreError),
    #[error("telemetry journal: {0}")]
    TelemetryJournal(#[from] backlot_journal::OpenError),
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    #[error(transparent)]
    Queue(#[from] queue::QueueError),
    #[error(transparent)]
    Alerting(#[from] alerting::AlertingError),
    #[error("artifact store: {0}")]
    Artifacts(#[from] std::io::Error),
    #[error("cold.{0}: {1}")]
    Cold(&'static str, String),
    #[error(transparent)]
    ColdWindows(#[from] signals::cold::ColdError),
    #[error("redaction: {0}")]
    Redaction(String),
    #[error("upstream.{0}: {1}")]
    Upstream(&'static str, String),
    #[error("seal the secrets of webhooks with the new master key: {0}")]
    Webhooks(String),
    #[error("make the bucket {0}: {1}")]
    Bucket(&'static str, String),
    #[error("the task `{0}` ended, and nothing works without it; the log says why")]
    TaskEnded(&'static str),
}

/// What `--print-addresses` prints.
#[derive(Clone, Debug, Serialize)]
pub struct Ready {
    ready: bool,
    #[serde(flatten)]
    pub endpoints: Endpoints,
}

/// A running appliance.
pub struct Appliance {
    stages: Stages,
    endpoints: Endpoints,
    control: Control,
    journal: TelemetryJournal,
    telemetry: Telemetry,
}

impl Appliance {
    /// Opens everything and starts it; when this returns, all doors answer.
    ///
    /// # Errors
    /// [`StartError`] says what is wrong and what to do; nothing keeps running then.
    pub async fn build(config: Config, dev: bool) -> Result<Self, StartError> {
        let data = config.data.dir.clone();
        folder::prepare(&data)?;
        let listeners = Listeners::bind(&config, dev).await?;
        let endpoints = listeners.endpoints();
        let internal = Credential::internal()?;
        let own_door = OwnDoor {
            otlp_http: endpoints.otlp_http.clone(),
            credential: (internal.key_id.clone(), internal.secret.clone()),
        };
        let telemetry = telemetry::init(&config.telemetry, Some(&own_door), JobIds::default())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let stages = Stages::new(&[
            ("alerting", Duration::from_secs(5)),
            ("doors", Duration::from_secs(3)),
            ("workers", Duration::from_secs(10)),
            ("stores", Duration::from_secs(10)),
        ]);

        let cold = ColdWindows::open(&config.cold_windows, &data, Arc::clone(&clock)).await?;
        let Signals { journal, logs, traces, metrics, budget } = Signals::build(&config, &clock, &stages, cold)?;
        let (control, replay) = Control::open(&data, &config.journal)?;
        let master = MasterKeys::open(&data, &config.encryption)?; // behind the journal's lock: it writes
        let identity = Identity::build(control.clone(), Arc::clone(&clock), master.clone(), internal, dev);
        let store = Store::build(&config, &control, &clock, &master).await?;
        let book = Book::build(control.clone(), Arc::clone(&clock), seed(), config.jobs.clone());
        book.open_index(&data)?;
        book.seal_with(Arc::new(WebhookSecrets(identity.clone())));
        let queues =
            Queues::build(control.clone(), Arc::clone(&clock), seed(), Some(Arc::clone(&book) as Arc<dyn Overseer>));
        let jobs = Jobs::build(Arc::clone(&book), queues.clone());
        let reader = Arc::new(RuleQueries(metrics.clone()));
        let alerting = Alerting::build(control.clone(), Arc::clone(&clock), &config.alerting, reader)?;
        let log_groups = Groups::build(control.clone(), Arc::clone(&clock));
        let followers: Vec<Arc<dyn Follower>> = vec![
            Arc::new(log_groups.clone()),
            Arc::new(identity.clone()),
            store.follower(),
            book,
            Arc::new(queues.clone()),
            Arc::new(alerting.clone()),
        ];
        let replayed = replay.run(&followers, clock.now())?;
        tracing::info!(
            records = replayed.records,
            torn_bytes = replayed.journal.torn_bytes,
            "replayed the control journal"
        );
        control.start(&stages.stage("stores"));
        identity.rewrap().await?;
        if !master.old_in_use().is_empty() {
            jobs.reseal_webhooks().await.map_err(|error| StartError::Webhooks(error.to_string()))?;
        }
        queues.prepare().await?;
        store.prepare(&data).await?;
        if identity.ensure_admin(&data).await? {
            tracing::info!(file = %data.join("admin.key").display(), "made the first admin key");
        }

        let (doors, workers) = (stages.stage("doors"), stages.stage("workers"));
        queues.start(&workers, doors.stopping());
        jobs.start(&workers, doors.stopping());
        let media = store.start(&config, &workers, BucketEvents::new(queues.clone(), jobs.clone()))?;
        alerting.start(&stages.stage("alerting"));

        let gate = Gate::new(identity.clone(), clock, config.edge.clone(), dev);
        let (s3, public) = store.dialects(&config, identity);
        let sqs: Arc<dyn Dialect> = Arc::new(queue::Sqs::new(queues.clone()));
        let cloud_watch: Arc<dyn Dialect> =
            Arc::new(CloudWatch::build(logs.clone(), log_groups, &workers, doors.stopping()));
        let dialects = HashMap::from([("sqs", sqs), ("logs", cloud_watch)]);
        let aws = AwsDoor { gate: gate.clone(), s3, dialects }.routes();
        let is_loopback = listeners.http.address().ip().is_loopback();
        let troubles = troubles(&control, &store);
        let http = edge::http_routes(&gate, endpoints.clone(), is_loopback, telemetry::prometheus_text, troubles)
            .merge(queue::routes(queues, &endpoints.aws))
            .merge(jobs::routes(jobs))
            .merge(store.routes())
            .merge(artifacts::media::routes(media))
            .merge(logs.routes(doors.stopping()))
            .merge(traces.routes())
            .merge(budget.routes())
            .merge(metrics::routes(metrics.clone()))
            .merge(alerting::routes(alerting));
        listeners.syslog.serve(&doors, logs.clone());
        let sinks = Sinks { logs: Arc::new(logs), traces: Arc::new(traces), metrics: Arc::new(metrics) };
        let otlp_bytes_max = config.edge.otlp_body_bytes_max;
        let otlp_http = edge::otlp::http_routes(&sinks, otlp_bytes_max);
        let otlp_grpc = edge::otlp::grpc_routes(&sinks, otlp_bytes_max);
        listeners.aws.serve(&doors, &config.edge, edge::around(&gate, Door::Aws, aws));
        if let Some(listener) = listeners.public {
            let routes = edge::public_routes(public);
            listener.serve(&doors, &config.edge, edge::around(&gate, Door::Public, routes));
        }
        listeners.http.serve(&doors, &config.edge, edge::around(&gate, Door::Http, http));
        listeners.otlp_http.serve(&doors, &config.edge, edge::around(&gate, Door::OtlpHttp, otlp_http));
        listeners.otlp_grpc.serve(&doors, &config.edge, edge::around(&gate, Door::OtlpGrpc, otlp_grpc));
        Ok(Self { stages, endpoints, control, journal, telemetry })
    }

    /// What tells a client where to go.
    #[must_use]
    pub fn ready(&self) -> Ready {
        Ready { ready: true, endpoints: self.endpoints.clone() }
    }

    /// Runs until `asked` resolves or a supervised task ends, then stops in order.
    ///
    /// # Errors
    /// [`StartError::TaskEnded`] with the task's name.
    pub async fn run(mut self, asked: impl Future<Output = ()>) -> Result<(), StartError> {
        let fallen = tokio::select! {
            () = asked => None,
            name = self.stages.first_to_end() => Some(name),
        };
        tracing::info!(task = fallen, "stopping");
        let telemetry = Arc::new(self.telemetry);
        let last_words = Arc::clone(&telemetry);
        let flushed = tokio::task::spawn_blocking(move || last_words.flush()); // while the own door still answers
        let _ = tokio::time::timeout(Duration::from_secs(3), flushed).await;
        self.stages.stop().await;
        let (control, journal) = (self.control, self.journal);
        // Both block until all is on disk.
        let closed = tokio::task::spawn_blocking(move || {
            telemetry.shutdown();
            journal.close();
            control.close();
        });
        let _ = closed.await;
        fallen.map_or(Ok(()), |name| Err(StartError::TaskEnded(name)))
    }
}

/// What `/readyz` tells beside `ok`.
fn troubles(control: &Control, store: &Store) -> edge::Troubles {
    let (journal, store) = (control.journal().clone(), store.clone());
    Arc::new(move || {
        let full = "the disk is full: what adds something is refused, receives and deletes go on";
        journal.stats().full.then(|| full.to_owned()).into_iter().chain(store.trouble()).collect()
    })
}

/// Where artifacts are, and what answers for them.
#[derive(Clone)]
enum Store {
    Own(Artifacts),
    Other(Upstream),
}

impl Store {
    async fn build(
        config: &Config,
        control: &Control,
        clock: &Arc<dyn Clock>,
        master: &MasterKeys,
    ) -> Result<Self, StartError> {
        if config.artifacts.engine == Engine::S3 {
            let upstream = Upstream::build(&config.upstream, Arc::clone(clock)).await;
            return upstream.map(Self::Other).map_err(|(key, problem)| StartError::Upstream(key, problem));
        }
        let (keys, data) = ((master.clone(), config.encryption.clone()), &config.data.dir);
        let artifacts = Artifacts::build(control.clone(), Arc::clone(clock), data, config.artifacts.clone(), keys)?;
        artifacts.open_cold(&config.cold).await.map_err(|(key, problem)| StartError::Cold(key, problem))?;
        Ok(Self::Own(artifacts))
    }

    fn follower(&self) -> Arc<dyn Follower> {
        match self {
            Self::Own(artifacts) => Arc::new(artifacts.clone()),
            Self::Other(_) => Arc::new(AtRest),
        }
    }

    /// Makes the buckets that everybody counts on, where they are ours to make.
    async fn prepare(&self, data: &Path) -> Result<(), StartError> {
        match self {
            Self::Own(artifacts) => {
                for bucket in BUCKETS {
                    let made = artifacts.ensure_bucket(bucket).await;
                    made.map_err(|error| StartError::Bucket(bucket, error.to_string()))?;
                }
            }
            Self::Other(_) if data.join("blobs").is_dir() => {
                tracing::warn!("artifacts.engine is `s3`: what lies in this data folder is kept, and not served");
            }
            Self::Other(_) => {}
        }
        Ok(())
    }

    fn start(&self, config: &Config, workers: &Stage, events: BucketEvents) -> Result<Media, StartError> {
        let library = match self {
            Self::Own(artifacts) => {
                events.start(workers);
                artifacts.notify_with(Arc::new(events));
                artifacts.tell_rules_with(artifacts::api_s3::TELL_RULE);
                artifacts.start(workers); // what its rules do first is told already
                Library::Own(artifacts.clone())
            }
            Self::Other(upstream) => {
                upstream.start(workers);
                Library::Other(upstream.clone())
            }
        };
        let media = Media::build(library, &config.data.dir, config.artifacts.clone())?;
        media.start(workers);
        Ok(media)
    }

    /// S3 on the AWS door, and on the public one.
    fn dialects(&self, config: &Config, identity: Identity) -> (Arc<dyn S3Door>, Arc<dyn S3Door>) {
        let auth = S3Keys(identity.clone());
        match self {
            Self::Own(artifacts) => {
                let (s3, public) = artifacts::api_s3::service(artifacts.clone(), auth, identity);
                (Arc::new(s3), Arc::new(public))
            }
            Self::Other(upstream) => {
                let s3 = artifacts::door::service(upstream.clone(), &config.artifacts.domains, auth, identity);
                (Arc::new(s3), Arc::new(artifacts::door::Closed))
            }
        }
    }

    fn routes(&self) -> Router {
        match self {
            Self::Own(artifacts) => artifacts::api_upkeep::routes(artifacts.clone())
                .merge(artifacts::quota::routes(artifacts.clone()))
                .merge(artifacts::api_http::routes(artifacts.clone())),
            Self::Other(upstream) => artifacts::door::api_http::routes(upstream.clone()),
        }
    }

    fn trouble(&self) -> Option<String> {
        match self {
            Self::Own(_) => None,
            Self::Other(upstream) => upstream.trouble(),
        }
    }
}

/// What is kept of everybody's logs, traces and metrics.
struct Signals {
    journal: TelemetryJournal,
    logs: Logs,
    traces: Traces,
    metrics: Metrics,
    budget: Budget,
}

impl Signals {
    fn build(
        config: &Config,
        clock: &Arc<dyn Clock>,
        stages: &Stages,
        cold: Option<ColdWindows>,
    ) -> Result<Self, StartError> {
        let data = &config.data.dir;
        let mut options = backlot_journal::Options::new(data);
        options.segment_bytes = config.journal.segment_bytes;
        options.disk_bytes_max = config.journal.telemetry_disk_bytes_max;
        options.reserve_bytes = 0; // nothing in it shrinks: it is let go by segments
        let (journal, opened) = TelemetryJournal::open(data, options)?;
        let redactor = Redactor::new(&config.redaction).map_err(StartError::Redaction)?;
        let limits = config.signals.clone();
        let (clock_of, journal_of) = (Arc::clone(clock), journal.clone());
        let common = Common { journal: journal_of, redactor, limits, clock: clock_of, cold: cold.clone() };
        let (logs, log_windows) = Logs::build(data, &config.logs, &common)?;
        let (traces, span_windows) = Traces::build(data, &config.traces, &common)?;
        let metrics = Metrics::build(journal.clone(), Arc::clone(clock), data, &config.metrics)?;
        let stores = stages.stage("stores");
        journal.start(&stores);
        logs.start(&stores);
        traces.start(&stores);
        let room = [logs.store(), traces.store()].map(Clone::clone).to_vec();
        let budget = Budget::new(room, config.signals.disk_bytes_max, cold);
        budget.start(&stores);
        metrics.start(&stores);
        tracing::info!(
            log_records = log_windows.documents,
            spans = span_windows.documents,
            torn_bytes = opened.torn_bytes,
            "opened logs, traces and metrics"
        );
        Ok(Self { journal, logs, traces, metrics, budget })
    }
}

/// The alert rules' view of the metrics.
struct RuleQueries(Metrics);

impl MetricsReader for RuleQueries {
    fn check(&self, expression: &str) -> Result<(), String> {
        metrics::promql::parse(expression).map(drop).map_err(|error| error.to_string())
    }

    fn query<'a>(&'a self, expression: &'a str) -> BoxFuture<'a, Result<Vec<backlot_alerts::Element>, String>> {
        Box::pin(async move {
            let found = self.0.query(expression).await.map_err(|error| error.to_string())?;
            let element =
                |found: metrics::Element| backlot_alerts::Element { labels: found.labels, value: found.value };
            Ok(found.into_iter().map(element).collect())
        })
    }
}

/// Where the secrets of webhooks are kept.
struct WebhookSecrets(Identity);

impl jobs::Seal for WebhookSecrets {
    fn seal(&self, name: &str, secret: &[u8]) -> Result<String, String> {
        self.0.seal(name, secret).map_err(|error| error.to_string())
    }

    fn open(&self, name: &str, sealed: &str) -> Option<Vec<u8>> {
        self.0.unseal(name, sealed)
    }
}

/// The doors, bound and silent.
struct Listeners {
    aws: Listener,
    http: Listener,
    otlp_grpc: Listener,
    otlp_http: Listener,
    public: Option<Listener>,
    syslog: SyslogSockets,
}

impl Listeners {
    async fn bind(config: &Config, dev: bool) -> Result<Self, StartError> {
        let edge = &config.edge;
        let listeners = Self {
            aws: Listener::bind(Door::Aws, &edge.aws, edge).await?,
            http: Listener::bind(Door::Http, &edge.http, edge).await?,
            otlp_grpc: Listener::bind(Door::OtlpGrpc, &edge.otlp_grpc, edge).await?,
            otlp_http: Listener::bind(Door::OtlpHttp, &edge.otlp_http, edge).await?,
            public: match edge.public.as_str() {
                "" => None,
                address => Some(Listener::bind(Door::Public, address, edge).await?),
            },
            syslog: SyslogSockets::bind(&config.syslog, edge).await?,
        };
        let all = [&listeners.aws, &listeners.http, &listeners.otlp_grpc, &listeners.otlp_http];
        let open = all.into_iter().chain(&listeners.public).find(|listener| !listener.address().ip().is_loopback());
        match open.map(Listener::door) {
            Some(door) if dev => Err(StartError::DevIsOpen(door.name())),
            None if dev && listeners.syslog.addresses().iter().flatten().any(|address| !address.ip().is_loopback()) => {
                Err(StartError::DevIsOpen("syslog"))
            }
            _ => Ok(listeners),
        }
    }

    fn endpoints(&self) -> Endpoints {
        let url = |listener: &Listener| format!("http://{}", listener.address());
        let [syslog_tcp, syslog_tls, syslog_udp] =
            self.syslog.addresses().map(|address| address.map(|address| address.to_string()));
        Endpoints {
            aws: url(&self.aws),
            http: url(&self.http),
            otlp_grpc: url(&self.otlp_grpc),
            otlp_http: url(&self.otlp_http),
            public: self.public.as_ref().map(url),
            syslog_tcp,
            syslog_tls,
            syslog_udp,
        }
    }
}
