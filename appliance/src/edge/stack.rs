//! What stands around the routes of every door, outermost first, each with its reason.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{MatchedPath, State};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use futures::FutureExt;
use http::header;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::admit::Admission;
use super::limit::Buckets;
use super::metered::Metered;
use super::paced::Paced;
use super::{Door, OperationCell, Peer, Refusal, Request, RequestInfo, Response, aws_door, basic};
use crate::clock::Clock;
use crate::config;
use crate::identity::{Identity, Principal};
use crate::telemetry;
use backlot_wire::metrics;

/// What the doors share: limits, counters, keys.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

struct Shared {
    identity: Identity,
    clock: Arc<dyn Clock>,
    config: config::Edge,
    /// OTLP from loopback needs no key under `--dev`.
    dev: bool,
    permits: Arc<Semaphore>,
    per_address: Buckets<std::net::IpAddr>,
    per_key: Buckets<String>,
    requests: Counter<u64>,
    durations: Histogram<f64>,
    refused: Counter<u64>,
    bytes_in: Counter<u64>,
    bytes_out: Counter<u64>,
}

impl Gate {
    #[must_use]
    pub fn new(identity: Identity, clock: Arc<dyn Clock>, config: config::Edge, dev: bool) -> Self {
        let shared = Shared {
            identity,
            clock,
            dev,
            permits: Arc::new(Semaphore::new(config.in_flight_max)),
            per_address: Buckets::new(config.requests_per_address_s),
            per_key: Buckets::new(config.requests_per_key_s),
            config,
            requests: telemetry::counter(&metrics::DOOR_REQUESTS),
            durations: telemetry::histogram(&metrics::DOOR_DURATION),
            refused: telemetry::counter(&metrics::DOOR_REFUSED),
            bytes_in: telemetry::counter(&metrics::DOOR_BYTES_IN),
            bytes_out: telemetry::counter(&metrics::DOOR_BYTES_OUT),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.shared.identity
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.shared.clock
    }

    pub(super) fn config(&self) -> &config::Edge {
        &self.shared.config
    }

    fn refuse(&self, door: Door, refusal: Refusal, info: &RequestInfo) -> Response {
        self.shared.refused.add(1, &[KeyValue::new("door", door.name()), KeyValue::new("reason", refusal.reason())]);
        door.refuse(refusal, info)
    }
}

#[derive(Clone)]
struct At {
    gate: Gate,
    door: Door,
    admission: Admission,
}

/// Puts the stack around `routes`.
pub fn around(gate: &Gate, door: Door, routes: Router) -> Router {
    let gauge = telemetry::gauge(&metrics::DOOR_IN_FLIGHT);
    let admission = Admission::new(Arc::clone(&gate.shared.permits), gauge);
    let at = At { gate: gate.clone(), door, admission };
    let named = if routes.has_routes() { routes.route_layer(from_fn(name_route)) } else { routes };
    named.layer(from_fn_with_state(at, attend))
}

/// What is done around one request, outermost first. One future for all of it: a layer of its own for each would cost every
/// waiting long poll more than a kilobyte.
async fn attend(State(at): State<At>, mut request: Request, next: Next) -> Response {
    let traced = Traced::begin(&at, &mut request); // a shed request still has its span and its id
    let counted = Counted::begin(&at, &mut request); // and is counted, its 503 included
    let info = info_of(&request);
    let response = AssertUnwindSafe(admit(&at, request, next)).catch_unwind().instrument(traced.span.clone()).await;
    let response = response.unwrap_or_else(|_| {
        // A panic below becomes an error in the dialect.
        tracing::error!(request_id = info.request_id, "a handler panicked; the panic's own message stands above");
        at.gate.refuse(at.door, Refusal::Fault, &info)
    });
    counted.end(&at, &response);
    traced.end(&at, response)
}

/// Refuses early, not late: before anything costs CPU. Then the checks, then the routes.
async fn admit(at: &At, request: Request, next: Next) -> Response {
    let Some(in_flight) = at.admission.enter(at.door.name()) else {
        return at.gate.refuse(at.door, Refusal::Overloaded, &info_of(&request));
    };
    let response = match CHECKS.iter().try_fold(request, |request, check| check(at, request)) {
        Ok(request) => next.run(request).await,
        Err(refusal) => *refusal,
    };
    let counter = at.gate.shared.bytes_out.clone();
    response.map(|body| Metered::wrap(body, counter, at.door.name(), in_flight))
}

/// Passes a request on, or answers it.
type Check = fn(&At, Request) -> Result<Request, Box<Response>>;

/// What an admitted request passes before its route, in this order. They wait for nothing.
const CHECKS: [Check; 4] = [
    limit_address, // before bodies are read and signatures checked
    bound_body,    // before anybody collects one
    authenticate,  // the AWS door verifies inside: it needs the body
    limit_key,     // needs to know whose key it is
];

/// The request's id, and its span where the caller traces: polls and heartbeats would bury everything else.
struct Traced {
    request_id: String,
    span: tracing::Span,
    cell: OperationCell,
}

impl Traced {
    fn begin(at: &At, request: &mut Request) -> Self {
        let request_id = uuid::Uuid::new_v4().to_string();
        let wants_json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
        let info = RequestInfo { request_id: request_id.clone(), wants_json, aws: aws_door::Shape::of(request) };
        let cell = OperationCell::default();
        request.extensions_mut().insert(info);
        request.extensions_mut().insert(cell.clone());
        let parent = matches!(at.door, Door::Aws | Door::Http).then(|| remote_parent(request)).flatten();
        let span = parent.map_or_else(tracing::Span::none, |parent| {
            let door = at.door.name();
            let span = tracing::info_span!("request", otel.kind = "server", door, otel.name = tracing::field::Empty);
            let _ = tracing_opentelemetry::OpenTelemetrySpanExt::set_parent(&span, parent);
            span
        });
        Self { request_id, span, cell }
    }

    fn end(self, at: &At, mut response: Response) -> Response {
        self.span.record("otel.name", self.cell.get().as_str());
        if at.door == Door::Http
            && let Ok(value) = http::HeaderValue::from_str(&self.request_id)
        {
            response.headers_mut().insert("x-request-id", value);
        }
        response
    }
}

/// The caller's span, from its `traceparent` header.
fn remote_parent(request: &Request) -> Option<opentelemetry::Context> {
    use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
    let header = request.headers().get("traceparent")?.to_str().ok()?;
    let mut parts = header.split('-');
    let (_, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()?),
        true,
        TraceState::default(),
    );
    context.is_valid().then(|| opentelemetry::Context::new().with_remote_span_context(context))
}

/// What is measured of every request.
struct Counted {
    cell: OperationCell,
    began_ms: u64,
}

impl Counted {
    fn begin(at: &At, request: &mut Request) -> Self {
        let cell = request.extensions().get::<OperationCell>().cloned().unwrap_or_default();
        let body = std::mem::take(request.body_mut());
        *request.body_mut() = Metered::wrap(body, at.gate.shared.bytes_in.clone(), at.door.name(), ());
        Self { cell, began_ms: at.gate.shared.clock.now().mono_ms }
    }

    fn end(self, at: &At, response: &Response) {
        let (shared, door) = (&at.gate.shared, at.door.name());
        let operation = self.cell.get();
        let took_s = shared.clock.now().mono_ms.saturating_sub(self.began_ms) as f64 / 1000.0;
        shared.durations.record(took_s, &[KeyValue::new("door", door), KeyValue::new("operation", operation.clone())]);
        let code = KeyValue::new("code", i64::from(response.status().as_u16()));
        shared.requests.add(1, &[KeyValue::new("door", door), KeyValue::new("operation", operation), code]);
    }
}

fn limit_address(at: &At, request: Request) -> Result<Request, Box<Response>> {
    let shared = &at.gate.shared;
    let address = request.extensions().get::<Peer>().map(|peer| peer.0.ip()).filter(|ip| !ip.is_loopback());
    if let Some(address) = address
        && !shared.per_address.take(address, shared.clock.now().mono_ms)
    {
        return Err(at.refuse(Refusal::TooFast, &request));
    }
    Ok(request)
}

fn bound_body(at: &At, request: Request) -> Result<Request, Box<Response>> {
    let config = &at.gate.shared.config;
    let idle = Duration::from_secs(config.body_timeout_s);
    let limit = match at.door {
        Door::Public => Some(0), // it is only read from
        Door::Aws => None,       // S3 streams; the other dialects bound theirs where they collect it
        Door::Http => Some(config.http_body_bytes_max),
        Door::OtlpGrpc | Door::OtlpHttp => Some(config.otlp_body_bytes_max),
    };
    if let Some(limit) = limit
        && announced_bytes(&request).is_some_and(|bytes| bytes > limit as u64)
    {
        return Err(at.refuse(Refusal::BodyTooLarge, &request));
    }
    // A gRPC connection's stream may rest between messages; its calls are unary and short, so the same pause holds.
    Ok(request.map(|body| {
        let paced = Paced::new(body, idle);
        match limit {
            Some(limit) => Body::new(http_body_util::Limited::new(paced, limit)),
            None => Body::new(paced),
        }
    }))
}

fn announced_bytes(request: &Request) -> Option<u64> {
    request.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn authenticate(at: &At, mut request: Request) -> Result<Request, Box<Response>> {
    let shared = &at.gate.shared;
    let known = match at.door {
        Door::Aws | Door::Public => return Ok(request),
        Door::Http => basic::on_http(&shared.identity, &request),
        Door::OtlpGrpc | Door::OtlpHttp => basic::on_otlp(&shared.identity, &request, shared.dev),
    };
    match known {
        Ok(principal) => {
            // Without one, the role extractors refuse what is not public.
            if let Some(principal) = principal {
                request.extensions_mut().insert(principal);
            }
            Ok(request)
        }
        Err(refusal) => Err(at.refuse(refusal, &request)),
    }
}

fn limit_key(at: &At, request: Request) -> Result<Request, Box<Response>> {
    if let Some(principal) = request.extensions().get::<Principal>()
        && !at.gate.allows_key(&principal.key_id)
    {
        return Err(at.refuse(Refusal::TooFast, &request));
    }
    Ok(request)
}

impl At {
    fn refuse(&self, refusal: Refusal, request: &Request) -> Box<Response> {
        Box::new(self.gate.refuse(self.door, refusal, &info_of(request)))
    }
}

impl Gate {
    /// Takes one request from the key's bucket.
    pub(super) fn allows_key(&self, key_id: &str) -> bool {
        self.shared.config.requests_per_key_s == 0
            || self.shared.per_key.take(key_id.to_owned(), self.shared.clock.now().mono_ms)
    }

    /// A refusal of the AWS door, whose authentication happens inside its routes.
    pub(super) fn refuse_aws_too_fast(&self, request: &Request) -> Response {
        self.refuse(Door::Aws, Refusal::TooFast, &info_of(request))
    }
}

async fn name_route(request: Request, next: Next) -> Response {
    if let (Some(cell), Some(path)) =
        (request.extensions().get::<OperationCell>(), request.extensions().get::<MatchedPath>())
    {
        cell.set(&format!("{} {}", request.method(), path.as_str()));
    }
    next.run(request).await
}

pub(super) fn info_of(request: &Request) -> RequestInfo {
    request.extensions().get().cloned().unwrap_or_default()
}
