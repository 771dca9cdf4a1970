//! The appliance's part of a job's trace: the job from submit to end, each wait, each attempt.
//!
//! They are written when they have ended, with the times that the job kept, because a job outlives the process. The job's own span
//! has the id that stands in the delivered `traceparent`, so that what workers do hangs under it; an attempt's has one
//! that is computed from the attempt's id and is told to its worker. [`JobIds`] lets the tracer take these ids; a
//! provider without it makes spans with other ids, and Jaeger shows the worker's spans without their parent.
//!
//! An attempt links to the one before it, and a job's wait for others to the jobs that it waited for: their traces are others.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use backlot_wire::{Attempt, JobStatus, Outcome, Timestamp};
use opentelemetry::trace::{
    Link, Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use sha2::{Digest, Sha256};

use super::admission::TraceParent;
use super::herald::outcome_name;
use super::model::Tracked;

/// Most jobs that a wait links to: what a tracer takes for one span.
pub(super) const LINKS_MAX: usize = 128;

thread_local! {
    static NEXT: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

/// Gives jobs' spans the ids that their workers were told, and all others random ones. For the tracer provider.
#[derive(Debug, Default)]
pub struct JobIds(RandomIdGenerator);

impl IdGenerator for JobIds {
    fn new_trace_id(&self) -> TraceId {
        // The span's id is asked for first; only the trace's is left when a root is made.
        NEXT.get().map_or_else(|| self.0.new_trace_id(), |(trace, _)| trace)
    }

    fn new_span_id(&self) -> SpanId {
        NEXT.get().map_or_else(|| self.0.new_span_id(), |(_, span)| span)
    }
}

/// `traceparent` for the worker of attempt `id`: its spans hang under the attempt's.
pub(super) fn attempt_traceparent(tracked: &Tracked, id: &str) -> Option<String> {
    let own = TraceParent::parse(tracked.spec.traceparent.as_deref()?)?;
    Some(format!("00-{}-{}-{}", own.trace, attempt_span_id(id), own.flags))
}

fn attempt_span_id(id: &str) -> SpanId {
    let digest = Sha256::digest(id.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    bytes[7] |= 1; // never all zeros
    SpanId::from_bytes(bytes)
}

/// The span of a job that has ended, or of its last round, where it had been queued again.
pub(super) fn job(tracked: &Tracked) {
    let Some(own) = parsed(tracked) else { return };
    let head = &tracked.head;
    let mut attributes = vec![
        KeyValue::new("job.id", head.id.clone()),
        KeyValue::new("job.type", tracked.spec.kind.clone()),
        KeyValue::new("queue", head.queue.clone()),
        KeyValue::new("job.status", head.status.as_str()),
        KeyValue::new("job.attempts", i64::try_from(tracked.attempts.len()).unwrap_or(i64::MAX)),
    ];
    for (name, value) in [("user.id", &tracked.spec.user_id), ("project.id", &tracked.spec.project_id)] {
        attributes.extend(value.clone().map(|value| KeyValue::new(name, value)));
    }
    let error = (head.status == JobStatus::Failed)
        .then(|| tracked.error.as_ref().map_or_else(String::new, |error| error.message.clone()));
    let (from, until) = (head.queued_again_at.unwrap_or(head.created_at), head.ended_at.unwrap_or(head.updated_at));
    let parent = match (head.queued_again_at, &head.parent_span) {
        (Some(_), _) => Some(own.span),
        (None, parent) => parent.as_deref().and_then(|text| SpanId::from_hex(text).ok()),
    };
    let id = head.queued_again_at.is_none().then_some(own.span);
    write(Ended {
        name: "job",
        trace: own.trace,
        flags: own.flags,
        id,
        parent,
        from,
        until,
        attributes,
        error,
        links: Vec::new(),
    });
}

/// A link to the span of a job.
pub(super) fn link_to(other: &Tracked) -> Option<Link> {
    let of = parsed(other)?;
    Some(link(of.trace, of.span, of.flags, vec![KeyValue::new("job.id", other.head.id.clone())]))
}

/// The span of a job's wait for others, to which there are `links`; it is over at `until`.
pub(super) fn waited(tracked: &Tracked, links: Vec<Link>, until: Timestamp) {
    let Some(own) = parsed(tracked) else { return };
    let head = &tracked.head;
    write(Ended {
        name: "waiting",
        trace: own.trace,
        flags: own.flags,
        id: None,
        parent: Some(own.span),
        from: head.queued_again_at.unwrap_or(head.created_at),
        until,
        attributes: vec![
            KeyValue::new("job.id", head.id.clone()),
            KeyValue::new("job.type", tracked.spec.kind.clone()),
            KeyValue::new("queue", head.queue.clone()),
        ],
        error: None,
        links,
    });
}

/// The spans of an attempt that has ended: the wait before it, and itself.
pub(super) fn attempt(tracked: &Tracked, attempt: &Attempt) {
    let Some(own) = parsed(tracked) else { return };
    let attributes = vec![
        KeyValue::new("job.id", tracked.head.id.clone()),
        KeyValue::new("job.type", tracked.spec.kind.clone()),
        KeyValue::new("attempt.id", attempt.id.clone()),
        KeyValue::new("attempt.number", i64::from(attempt.number)),
        KeyValue::new("attempt.outcome", attempt.outcome.map_or("none", outcome_name)),
        KeyValue::new("agent", attempt.agent.clone().unwrap_or_default()),
    ];
    let parent = Some(own.span);
    if let Some(queued) = attempt.phases.first().filter(|phase| phase.name == "queued") {
        write(Ended {
            name: "queued",
            trace: own.trace,
            flags: own.flags,
            id: None,
            parent,
            from: queued.started_at,
            until: queued.ended_at.unwrap_or(queued.started_at),
            attributes: attributes.clone(),
            error: None,
            links: Vec::new(),
        });
    }
    let before = tracked.attempts.iter().rev().find(|before| before.number < attempt.number);
    let before = before.map(|before| {
        let attributes = vec![KeyValue::new("attempt.id", before.id.clone())];
        link(own.trace, attempt_span_id(&before.id), own.flags, attributes)
    });
    let failed = matches!(attempt.outcome, Some(Outcome::Failed | Outcome::Lost));
    write(Ended {
        name: "attempt",
        trace: own.trace,
        flags: own.flags,
        id: Some(attempt_span_id(&attempt.id)),
        parent,
        from: attempt.started_at,
        until: attempt.ended_at.unwrap_or(attempt.started_at),
        attributes,
        error: failed.then(|| attempt.reason.clone().unwrap_or_default()),
        links: before.into_iter().collect(),
    });
}

fn link(trace: TraceId, span: SpanId, flags: TraceFlags, attributes: Vec<KeyValue>) -> Link {
    Link::new(SpanContext::new(trace, span, flags, true, TraceState::default()), attributes, 0)
}

struct Own {
    trace: TraceId,
    span: SpanId,
    flags: TraceFlags,
}

fn parsed(tracked: &Tracked) -> Option<Own> {
    let own = TraceParent::parse(tracked.spec.traceparent.as_deref()?)?;
    Some(Own {
        trace: TraceId::from_hex(&own.trace).ok()?,
        span: SpanId::from_hex(&own.span).ok()?,
        flags: TraceFlags::new(u8::from_str_radix(&own.flags, 16).ok()?),
    })
}

struct Ended {
    name: &'static str,
    trace: TraceId,
    flags: TraceFlags,
    /// Any, where none is asked for.
    id: Option<SpanId>,
    parent: Option<SpanId>,
    from: Timestamp,
    until: Timestamp,
    attributes: Vec<KeyValue>,
    error: Option<String>,
    links: Vec<Link>,
}

fn write(ended: Ended) {
    let context = match ended.parent {
        Some(parent) => {
            let parent = SpanContext::new(ended.trace, parent, ended.flags, true, TraceState::default());
            Context::new().with_remote_span_context(parent)
        }
        None => Context::new(),
    };
    let tracer = global::tracer("backlot");
    let builder = tracer
        .span_builder(ended.name)
        .with_kind(SpanKind::Internal)
        .with_start_time(system_time(ended.from))
        .with_links(ended.links)
        .with_attributes(ended.attributes);
    NEXT.set(ended.id.map(|id| (ended.trace, id)));
    let mut span = tracer.build_with_context(builder, &context);
    NEXT.set(None);
    if let Some(error) = ended.error {
        span.set_status(Status::error(error));
    }
    span.end_with_timestamp(system_time(ended.until));
}

fn system_time(at: Timestamp) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(at.unix_ms())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use backlot_wire::{AttemptEvent, EventKind, FailureClass, JobSpec};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
    use parking_lot::Mutex;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;
    use serde_json::Map;

    use super::super::admission::fill_in;
    use super::super::herald::Herald;
    use super::super::table::Table;
    use super::*;
    use crate::clock::Now;

    #[derive(Clone, Debug, Default)]
    struct Caught(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Caught {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().extend(batch);
            Ok(())
        }
    }

    fn at(s: u64) -> Now {
        Now { mono_ms: s * 1_000, wall_ms: s * 1_000 }
    }

    #[test]
    fn a_jobs_trace_hangs_together_from_its_submitter_to_each_attempt() {
        let caught = Caught::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(caught.clone())
            .with_id_generator(JobIds::default())
            .build();
        global::set_tracer_provider(provider);

        let mut chance = ChaCha8Rng::seed_from_u64(99);
        let submitter = "00-5bf92f3577b34da6a3ce929d0e0e4737-10f067aa0ba902b8-01";
        let spec = JobSpec { traceparent: Some(submitter.into()), job_id: Some("traced".into()), ..JobSpec::new("x") };
        let (spec, parent_span) = fill_in(spec, at(0), &mut chance);
        let own = TraceParent::parse(spec.traceparent.as_deref().unwrap()).unwrap();
        let mut table = Table::new(chance, Herald::new());
        let mut tracked = Tracked::sent(at(0), "jobs", "m", "traced".into(), spec, 0);
        tracked.head.parent_span = parent_span;
        table.add(tracked);
        table.change("traced", |job, _| job.received(at(5), None));
        let told = attempt_traceparent(table.get("traced").unwrap(), "traced.1").unwrap();
        let failed =
            EventKind::Failure { class: FailureClass::Permanent, message: "no such model".into(), details: Map::new() };
        let events = [AttemptEvent { seq: 1, at: at(9).timestamp(), kind: failed }];
        table.change("traced", |job, chance| job.report(at(9), 1, &events, chance));
        table.change("traced", |job, _| job.sent_again(at(20), "m", 0));
        table.change("traced", |job, _| job.received(at(21), None));
        table.change("traced", |job, _| job.deleted(at(23)));

        let trace = TraceId::from_hex("5bf92f3577b34da6a3ce929d0e0e4737").unwrap();
        let spans = caught.0.lock();
        let spans: Vec<_> = spans.iter().filter(|span| span.span_context.trace_id() == trace).collect();
        let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
        assert_eq!(names, ["queued", "attempt", "job", "queued", "attempt", "job"]);
        let seconds = |span: &SpanData| {
            let since = |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
            (since(span.start_time), since(span.end_time))
        };
        assert_eq!(
            spans.iter().map(|span| seconds(span)).collect::<Vec<_>>(),
            [(0, 5), (5, 9), (0, 9), (20, 21), (21, 23), (20, 23)]
        );
        let id = |span: &SpanData| span.span_context.span_id().to_string();
        assert_eq!((id(spans[2]), spans[2].parent_span_id.to_string()), (own.span.clone(), "10f067aa0ba902b8".into()));
        assert!(told.contains(&id(spans[1])), "the worker was told the attempt's span");
        for child in [0, 1, 3, 4, 5] {
            assert_eq!(spans[child].parent_span_id.to_string(), own.span, "{}", spans[child].name);
        }
        assert_ne!(id(spans[5]), own.span, "the second round has a span of its own");
        let links = |span: &SpanData| span.links.iter().map(|link| link.span_context.span_id()).collect::<Vec<_>>();
        assert_eq!((links(spans[1]), links(spans[4])), (vec![], vec![spans[1].span_context.span_id()]));
        assert_eq!(spans[2].status, Status::error("no such model"));
    }

    #[test]
    fn a_job_without_a_submitter_is_the_root_of_its_trace() {
        let ids = JobIds::default();
        let (trace, span) = (TraceId::from(7), SpanId::from(9));
        NEXT.set(Some((trace, span)));
        assert_eq!((ids.new_span_id(), ids.new_trace_id()), (span, trace));
        NEXT.set(None);
        assert_ne!(ids.new_span_id(), span);
    }
}
