//! The appliance's part of a job's trace: the job from submit to end, each wait, each attempt.
//!
//! They are written when they have ended, with the times that the job kept, because a job outlives the process. The job's own span
//! has the id that stands in the delivered `traceparent`, so that what workers do hangs under it; an attempt's has one
//! that is computed from the attempt's id and is told to its worker. [`JobIds`] lets the tracer take these ids; a
//! provider without it makes spans with other ids, and Jaeger shows the worker's spans without their parent.

use std::cell::Cell;
use std::time::{Duration, SystemTime};

use backlot_wire::{Attempt, JobStatus, Outcome, Timestamp};
use opentelemetry::trace::{
    Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, KeyValue, global};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use sha2::{Digest, Sha256};

use super::admission::TraceParent;
use super::herald::outcome_name;
use super::model::Tracked;

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
        KeyValue::new("job.queue", head.queue.clone()),
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
    write(Ended { name: "job", trace: own.trace, flags: own.flags, id, parent, from, until, attributes, error });
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
        });
    }
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
    });
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
