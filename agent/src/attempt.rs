//! One attempt, from receive to its end: fetch, compute, upload, report.
//!
//! The seat that came with the delivery is given up when the job has left its slot and its outputs are on their way up, so
//! that the next job is fetched while this one computes. Whatever happens, exactly one end is reported; the message is
//! deleted only after the appliance has taken the result, because deleting it first would be a result without outputs.

mod checkpoint;
pub mod company;
mod models;
mod shown;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use backlot_wire::{EventKind, FailureClass, JobSpec, Output, cause, job::split_s3_uri};
use futures::FutureExt;
use futures::future::BoxFuture;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{SpanContext, Status, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::JoinHandle;
use tracing::{Instrument, Span, error, info, info_span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use self::company::{Coming, Ended, Ready};
use self::models::of_versions;
use crate::events::Reporter;
use crate::lease::Lease;
use crate::library::wanted::without_versions;
use crate::output;
use crate::queue::Delivery;
use crate::service::{Agent, Drain};
use crate::store::{StoreError, Upload};
use crate::worker::process::{Orders, Stop, Verdict};
use crate::worker::protocol::{self, Announced, Task, TaskInput};
use crate::worker::stopped;

/// How long an end is reported again when the agent ends, before it is left to the spool.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// How an attempt ended.
enum End {
    Result(Vec<Output>),
    Failed { class: FailureClass, message: String, details: Map<String, Value> },
    GivenBack(String),
    Stopped(Stop),
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        let details = match error.class {
            FailureClass::Transient => Map::from_iter([(cause::KEY.to_owned(), cause::NETWORK.into())]),
            FailureClass::Permanent => Map::new(),
        };
        Self::Failed { class: error.class, message: error.message, details }
    }
}

fn permanent(message: impl Into<String>) -> End {
    End::Failed { class: FailureClass::Permanent, message: message.into(), details: Map::new() }
}

/// Leads one delivery to its end.
pub fn lead(agent: Arc<Agent>, delivery: Delivery, seat: OwnedSemaphorePermit) -> BoxFuture<'static, ()> {
    let spec = JobSpec::parse(&delivery.body);
    let job = spec.as_ref().ok().and_then(|spec| spec.job_id.clone()).unwrap_or_else(|| delivery.message_id.clone());
    let id = delivery.attempt.clone().unwrap_or_else(|| format!("{job}.{}", delivery.receive_count));
    let kind = spec.as_ref().map_or("unknown", |spec| &spec.kind).to_owned();
    let span = info_span!(
        target: "backlot_agent",
        "attempt",
        otel.kind = "consumer",
        job.id = job,
        job.attempt = id,
        job.type = kind,
        agent = agent.config.name,
    );
    // The queue tells the attempt's own place in the trace; the specification only the job's.
    let of_job = spec.as_ref().ok().and_then(|spec| spec.traceparent.clone());
    let traceparent = delivery.traceparent.clone().or(of_job);
    if let Some(parent) = traceparent.as_deref().and_then(parse_traceparent) {
        let _ = span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent));
    }
    let number = id.rsplit_once('.').and_then(|(_, number)| number.parse().ok()).unwrap_or(delivery.receive_count);
    // At once, so that one which waits for those of its kind knows of this one.
    let coming = spec.as_ref().ok().and_then(|spec| Coming::announce(&agent, spec, number));
    let attempt = Attempt {
        agent,
        delivery,
        job,
        id,
        number,
        kept: AtomicBool::new(false),
        coming: Mutex::new(coming),
        more: Mutex::default(),
    };
    async move {
        attempt.agent.sample.notify_one();
        match spec {
            Ok(spec) => attempt.lead(spec, seat).await,
            Err(error) => attempt.refuse(error.to_string()).await,
        }
        attempt.agent.sample.notify_one();
        // Those that it has had received are led under its name: this agent ends after them.
        let more = attempt.more.lock().take();
        if let Some(more) = more {
            let _ = more.await;
        }
    }
    .instrument(span)
    .boxed()
}

struct Attempt {
    agent: Arc<Agent>,
    delivery: Delivery,
    job: String,
    id: String,
    number: u32,
    /// There is a checkpoint of the job.
    kept: AtomicBool,
    /// Until it has all that it needs.
    coming: Mutex<Option<Coming>>,
    /// Leads the jobs that were received to be computed with this one.
    more: Mutex<Option<JoinHandle<()>>>,
}

impl Attempt {
    fn reporter(&self) -> Arc<Reporter> {
        Arc::new(Reporter::new(Arc::clone(&self.agent.outbox), self.delivery.attempt.clone()))
    }

    async fn refuse(&self, problem: String) {
        self.conclude(&self.reporter(), permanent(problem)).await;
    }

    async fn lead(&self, spec: JobSpec, seat: OwnedSemaphorePermit) {
        let agent = &self.agent;
        let reporter = self.reporter();
        let lease = Lease::keep(
            Arc::clone(&agent.queue),
            self.delivery.receipt.clone(),
            agent.config.visibility_s,
            Arc::clone(&reporter),
            agent.drain.clone(),
            Arc::clone(&agent.drain_asked),
        );
        let folder = agent.scratch.join("jobs").join(folder_name(&self.id));
        let end = self.work(&spec, &reporter, lease.orders.clone(), &folder, seat).await;
        // Whoever waits for it waits in vain.
        drop(self.coming.lock().take());
        self.conclude(&reporter, end).await;
        drop(lease);
        if let Err(problem) = tokio::fs::remove_dir_all(&folder).await
            && problem.kind() != std::io::ErrorKind::NotFound
        {
            warn!(%problem, folder = %folder.display(), "remove the job's folder");
        }
    }

    async fn work(
        &self,
        spec: &JobSpec,
        reporter: &Arc<Reporter>,
        mut orders: watch::Receiver<Orders>,
        folder: &Path,
        seat: OwnedSemaphorePermit,
    ) -> End {
        let agent = &self.agent;
        let Some(program) = agent.programs.iter().find(|program| program.types.contains(&spec.kind)) else {
            return End::GivenBack(format!("this agent runs no `{}`", spec.kind));
        };
        info!(attempt = self.number, "an attempt begins");
        let mut phase = Phase::enter("fetch", reporter);
        let fetched = tokio::select! {
            fetched = self.fetch(spec, folder) => fetched,
            end = self.unstarted(&mut orders) => return end,
        };
        let inputs = match fetched {
            Ok(inputs) => inputs,
            Err(end) => return end,
        };
        let provided = tokio::select! {
            provided = self.models(spec, program, reporter, &mut phase) => provided,
            end = self.unstarted(&mut orders) => return end,
        };
        let provided = match provided {
            Ok(provided) => provided,
            Err(error) => return error.into(),
        };
        let output_dir = folder.join("out");
        let mut parameters = spec.parameters.clone();
        if provided.folder.is_some() {
            without_versions(&mut parameters);
        }
        let task = Task {
            id: self.job.clone(),
            attempt: self.id.clone(),
            kind: spec.kind.clone(),
            parameters,
            labels: spec.labels.clone(),
            inputs,
            output_dir: output_dir.clone(),
            models_dir: provided.folder.clone(),
            soft_limit_s: spec.limits.soft_s,
            traceparent: traceparent_of(&Span::current()).or_else(|| spec.traceparent.clone()),
        };
        let phase = Arc::new(Mutex::new(phase));
        let (heard, shown) = shown::ear(reporter, &phase);
        let alike = self.coming.lock().as_ref().and_then(|coming| coming.alike(program, &provided));
        let ready = Ready { task, limits: spec.limits.clone(), orders: orders.clone(), heard, alike };
        // In a box: an attempt that waits need not hold the room of one that computes.
        let computed = Box::pin(async {
            tokio::select! {
                ended = self.have_computed(program, &provided.names, ready) => ended,
                () = self.show(spec, shown, &output_dir, reporter) => Err(End::Stopped(Stop::LeaseLost)),
            }
        });
        let Ended { verdict, part } = match computed.await {
            Ok(ended) => ended,
            Err(end) => return end,
        };
        let announced = match verdict {
            Verdict::Done(announced) => of_versions(announced, &provided.names),
            Verdict::Failed { class, message, details } => return End::Failed { class, message, details },
            Verdict::Stopped(stop) => return End::Stopped(stop),
            Verdict::Returned(reason) => return End::GivenBack(reason),
        };
        // Before the slot goes, so that results waiting for a slow network stop the host from taking ever more jobs.
        let Ok(_uploading) = agent.uploads.acquire().await else { return End::GivenBack("the agent is ending".into()) };
        drop(part);
        drop(provided);
        drop(seat);
        phase.lock().next("upload");
        tokio::select! {
            outputs = self.upload(spec, &announced, &output_dir) => match outputs {
                Ok(outputs) => {
                    self.drop_checkpoint(spec).await;
                    End::Result(outputs)
                }
                Err(end) => end,
            },
            stop = stopped(&mut orders) => End::Stopped(stop),
        }
    }

    /// Resolves when a job that is not computing yet is not to begin: nothing is lost by giving it back at once.
    async fn unstarted(&self, orders: &mut watch::Receiver<Orders>) -> End {
        let mut drain = self.agent.drain.clone();
        tokio::select! {
            stop = stopped(orders) => End::Stopped(stop),
            _ = drain.wait_for(|drain| *drain != Drain::Working) => End::GivenBack("the agent drains".into()),
        }
    }

    async fn fetch(&self, spec: &JobSpec, folder: &Path) -> Result<Vec<TaskInput>, End> {
        let local = |error: std::io::Error| End::Failed {
            class: FailureClass::Transient,
            message: format!("make the job's folder {}: {error}", folder.display()),
            details: Map::new(),
        };
        let _ = tokio::fs::remove_dir_all(folder).await;
        tokio::fs::create_dir_all(folder.join("out")).await.map_err(local)?;
        let mut left = self.agent.config.input_bytes_max;
        let mut inputs = Vec::with_capacity(spec.inputs.len());
        for (number, input) in spec.inputs.iter().enumerate() {
            let Some((bucket, key)) = split_s3_uri(&input.uri) else {
                return Err(permanent(format!("the input `{}` is not s3://bucket/key", input.uri)));
            };
            // A folder each: outputs are often named after inputs, and two inputs may have the same name.
            let own = folder.join("in").join(number.to_string());
            tokio::fs::create_dir_all(&own).await.map_err(local)?;
            let path = own.join(file_name(key));
            left -= self.agent.store.fetch(bucket, key, &path, left).await?;
            inputs.push(TaskInput { uri: input.uri.clone(), path });
        }
        self.take_checkpoint(spec, &folder.join("out")).await;
        Ok(inputs)
    }

    async fn upload(&self, spec: &JobSpec, announced: &[Announced], folder: &Path) -> Result<Vec<Output>, End> {
        let mut outputs = Vec::with_capacity(announced.len());
        let mut left = self.agent.config.output_bytes_max;
        for output in announced {
            let (path, _) =
                protocol::locate(folder, &output.name).map_err(|problem| permanent(self.of_worker(&problem)))?;
            let bytes = std::fs::metadata(&path).map_or(0, |data| data.len());
            left = left.checked_sub(bytes).ok_or_else(|| {
                let max = self.agent.config.output_bytes_max;
                permanent(format!("the outputs are more than {max} bytes together (`output_bytes_max`)"))
            })?;
            outputs.push(self.store_one(spec, output, folder, "").await?);
        }
        Ok(outputs)
    }

    async fn store_one(&self, spec: &JobSpec, announced: &Announced, folder: &Path, sub: &str) -> Result<Output, End> {
        let (file, name) =
            protocol::locate(folder, &announced.name).map_err(|problem| permanent(self.of_worker(&problem)))?;
        let prefix = output::prefix(spec, &self.agent.config.output_prefix);
        let (bucket, prefix) =
            split_s3_uri(&prefix).ok_or_else(|| permanent("the output prefix is no s3://bucket/"))?;
        // The attempt is part of the key: a late attempt must not overwrite what a newer one made.
        let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
        let key = format!("{prefix}{slash}{}/{}/{sub}{name}", self.job, self.number);
        let content_type = announced.content_type.clone();
        let content_type = content_type.unwrap_or_else(|| output::content_type_of(&file).to_owned());
        let facts = output::facts(&file, &content_type).await;
        let metadata = output::metadata(spec, (&self.job, &self.id), announced, facts);
        let upload = Upload { file: &file, bucket, key: &key, content_type: &content_type, metadata: &metadata };
        let stored = self.agent.store.put(&upload).await?;
        info!(key, bytes = stored.bytes, "an output is stored");
        Ok(Output {
            uri: format!("s3://{bucket}/{key}"),
            version_id: stored.version_id,
            content_type: Some(content_type),
            bytes: Some(stored.bytes),
            width: announced.width,
            height: announced.height,
            extra: announced.extra.clone(),
        })
    }

    fn of_worker(&self, problem: &str) -> String {
        format!("the worker {problem}")
    }

    /// Reports the end, and settles what becomes of the message.
    async fn conclude(&self, reporter: &Reporter, end: End) {
        let queue = &self.agent.queue;
        let heard = reporter.is_heard();
        let receipt = &self.delivery.receipt;
        let settled = match end {
            End::Result(outputs) => {
                info!(outputs = outputs.len(), "the attempt succeeded");
                reporter.report(EventKind::Result { outputs });
                // The appliance deletes the message with the result; a plain SQS waits for us to do it.
                if self.settle(reporter).await { queue.delete(receipt).await } else { Ok(()) }
            }
            End::Failed { class, message, details } => {
                let shown = Value::Object(details.clone());
                error!(class = ?class, details = %shown, "the attempt failed: {message}");
                Span::current().set_status(Status::error(message.clone()));
                reporter.report(EventKind::Failure { class, message, details });
                self.settle(reporter).await;
                // The appliance decides when it comes again, and whether.
                if heard { Ok(()) } else { queue.release(receipt, self.backoff_s(class)).await }
            }
            End::GivenBack(reason) => self.give_back(reporter, reason).await,
            End::Stopped(Stop::Drained) => self.give_back(reporter, "the agent's grace is over".into()).await,
            End::Stopped(Stop::Cancelled) => {
                info!("the attempt was cancelled");
                reporter.report(EventKind::Cancelled);
                self.settle(reporter).await;
                Ok(())
            }
            End::Stopped(Stop::Superseded | Stop::LeaseLost) => {
                info!("the attempt is left: another one has the job");
                Ok(())
            }
        };
        if let Err(error) = settled {
            info!(%error, "the message was not settled; its visibility timeout does it");
        }
    }

    /// Has the appliance take the end, while the lease is kept: a result that waits must not be computed a second time.
    async fn settle(&self, reporter: &Reporter) -> bool {
        let patience = Duration::from_secs(self.agent.config.patience_s).max(LAST_WORDS);
        let mut drain = self.agent.drain.clone();
        let settled = tokio::select! {
            settled = reporter.settle(patience) => Some(settled),
            _ = drain.wait_for(|drain| *drain != Drain::Working) => None,
        };
        match settled {
            Some(settled) => settled,
            None => reporter.settle(LAST_WORDS).await,
        }
    }

    async fn give_back(&self, reporter: &Reporter, reason: String) -> Result<(), crate::queue::QueueError> {
        info!(reason, "the attempt is given back");
        reporter.report(EventKind::GivenBack { reason });
        reporter.settle(LAST_WORDS).await;
        self.agent.queue.release(&self.delivery.receipt, 0).await
    }

    /// On a plain SQS: a permanent failure returns at once, so that the redrive policy takes it away soonest.
    fn backoff_s(&self, class: FailureClass) -> u32 {
        match class {
            FailureClass::Permanent => 0,
            FailureClass::Transient => 10 << self.delivery.receive_count.min(6),
        }
    }
}

/// The phase under way: an event for the appliance and a span of the trace.
struct Phase {
    reporter: Arc<Reporter>,
    attempt: Span,
    /// Kept open until the next phase begins or the attempt ends.
    span: Option<Span>,
    name: String,
}

impl Phase {
    fn enter(name: &str, reporter: &Arc<Reporter>) -> Self {
        let mut phase =
            Self { reporter: Arc::clone(reporter), attempt: Span::current(), span: None, name: String::new() };
        phase.next(name);
        phase
    }

    fn next(&mut self, name: &str) {
        if self.name == name {
            return;
        }
        name.clone_into(&mut self.name);
        self.span = None;
        self.span =
            Some(info_span!(target: "backlot_agent", parent: &self.attempt, "phase", otel.name = name, phase = name));
        self.reporter.report(EventKind::Phase { phase: name.to_owned() });
    }
}

fn parse_traceparent(text: &str) -> Option<SpanContext> {
    let carrier = std::collections::HashMap::from([("traceparent".to_owned(), text.to_owned())]);
    let context = TraceContextPropagator::new().extract(&carrier);
    let parent = context.span().span_context().clone();
    parent.is_valid().then_some(parent)
}

pub(crate) fn traceparent_of(span: &Span) -> Option<String> {
    let context = span.context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8()))
}

/// The last part of a key as a file name of this host.
fn file_name(key: &str) -> String {
    let last = key.rsplit('/').find(|part| !part.is_empty()).unwrap_or("input");
    let safe = |c: char| if c.is_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let name: String = last.chars().rev().take(100).map(safe).collect();
    if name.bytes().all(|byte| byte == b'.') { "input".into() } else { name.chars().rev().collect() }
}

fn folder_name(attempt: &str) -> PathBuf {
    // An id of a stranger's queue may be anything; this host's folders are named by what is harmless.
    PathBuf::from(format!("a-{}", file_name(&attempt.replace('/', "_"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_name_of_a_key_is_harmless_and_keeps_its_ending() {
        assert_eq!(file_name("users/U/projects/P/raw/in put.png"), "in_put.png");
        assert_eq!(file_name("a/../.."), "input");
        assert_eq!(file_name("///"), "input");
        let long = format!("{}.exr", "ä".repeat(400));
        assert!(file_name(&long).len() <= 200 && file_name(&long).ends_with(".exr"));
        assert_eq!(folder_name("../x.1"), PathBuf::from("a-.._x.1"));
    }

    #[test]
    fn the_trace_of_the_submitter_is_read_and_nonsense_is_not() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert_eq!(parse_traceparent(good).unwrap().trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(parse_traceparent("00-00000000000000000000000000000000-b7ad6b7169203331-01").is_none());
        assert!(parse_traceparent("tomorrow").is_none());
    }
}
