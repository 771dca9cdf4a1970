//! The doors: listeners, authentication, limits, and which capability answers.
//!
//! Capabilities see a request after it was authenticated, bounded and counted. Those on the http door hand in an
//! [`axum::Router`] whose handlers ask for [`Viewer`], [`Operator`], [`Worker`] or [`Admin`]; the AWS dialects implement
//! [`aws::Dialect`], S3 is a service of its own.
//!
//! Every door has the same stack ([`stack::around`]); what differs is the dialect of a refusal ([`Door::refuse`]).

mod admit;
pub mod aws;
mod aws_door;
mod basic;
mod dashboard;
mod error;
mod expected;
mod http_door;
mod limit;
mod listen;
mod metered;
pub mod otlp;
mod paced;
mod roles;
mod sigv4;
mod stack;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::response::IntoResponse;
use http::StatusCode;
use parking_lot::Mutex;

pub use aws_door::{AwsDoor, S3Door, public_routes};
pub use error::ApiError;
pub use http_door::{Endpoints, Troubles, routes as http_routes};
pub use listen::{ListenError, Listener};
pub(crate) use paced::Paced;
pub use roles::{Admin, Operator, Viewer, Worker};
pub use sigv4::S3Keys;
pub(crate) use sigv4::{Scope, parse_amz_date};
pub use stack::{Gate, around};

/// Reads `text` as a request's head (`METHOD target`, then a header a line, then after an empty line the body) as far
/// as the doors read one before they know who calls, and throws the outcome away: for fuzzing.
pub fn fuzz_head(text: &str) {
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let (method, target) = lines.next().and_then(|line| line.split_once(' ')).unwrap_or(("GET", "/"));
    let mut builder = http::Request::builder().method(method).uri(target);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        builder = builder.header(name, value);
    }
    let Ok(request) = builder.body(Body::empty()) else { return };
    let _ = aws_door::Shape::of(&request);
    let _ = aws_door::form_field(body.as_bytes(), "Action");
    let _ = basic::session_token(&request);
    let _ = basic::is_same_origin(&request);
    let (parts, _) = request.into_parts();
    if let Some(header) = parts.headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        let _ = basic::key_and_secret(header);
    }
    if let Some(authorization) = sigv4::Authorization::of(&parts.headers) {
        let date = parts.headers.get("x-amz-date").and_then(|value| value.to_str().ok());
        let signed_at = date.and_then(parse_amz_date).unwrap_or_default();
        let _ = sigv4::recompute("secret", &parts, &authorization, body.as_bytes(), signed_at);
    }
}

pub type Request = http::Request<Body>;
pub type Response = http::Response<Body>;

/// One of the listening addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Door {
    Aws,
    Http,
    OtlpGrpc,
    OtlpHttp,
    /// Off unless it has an address.
    Public,
}

impl Door {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aws => "aws",
            Self::Http => "http",
            Self::OtlpGrpc => "otlp_grpc",
            Self::OtlpHttp => "otlp_http",
            Self::Public => "public",
        }
    }

    /// A refusal by the stack, in the dialect of this door. `request_id` is echoed where the dialect has a place for it.
    #[must_use]
    fn refuse(self, refusal: Refusal, request: &RequestInfo) -> Response {
        let (status, code, message) = refusal.words();
        match self {
            Self::Aws | Self::Public => aws_door::refusal(status, code, message, request),
            Self::Http => {
                let mut error = ApiError::new(status, code.1, message);
                error.retry_after_s = refusal.retry_after_s();
                error.into_response()
            }
            Self::OtlpHttp | Self::OtlpGrpc => otlp_refusal(self, refusal, status, message, request),
        }
    }
}

/// Why the stack did not let a request through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    Overloaded,
    TooFast,
    BodyTooLarge,
    Unauthenticated,
    Forbidden,
    Fault,
}

impl Refusal {
    /// Label of the counter.
    fn reason(self) -> &'static str {
        self.words().1.1
    }

    /// Status, (AWS code, native code), message.
    fn words(self) -> (StatusCode, (&'static str, &'static str), &'static str) {
        match self {
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                ("ServiceUnavailable", "overloaded"),
                "too many requests are being answered; try again in a second",
            ),
            Self::TooFast => (
                StatusCode::TOO_MANY_REQUESTS,
                ("ThrottlingException", "too_fast"),
                "more requests a second than this address or key may send",
            ),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                ("RequestEntityTooLarge", "body_too_large"),
                "the body is over this door's limit; see `backlot config reference`, section edge",
            ),
            Self::Unauthenticated => (
                StatusCode::UNAUTHORIZED,
                ("MissingAuthenticationToken", "unauthenticated"),
                "this needs a key: HTTP Basic with an access key id and its secret",
            ),
            Self::Forbidden => {
                (StatusCode::FORBIDDEN, ("AccessDenied", "forbidden"), "the role of this key may not do this")
            }
            Self::Fault => (
                StatusCode::INTERNAL_SERVER_ERROR,
                ("InternalError", "internal"),
                "the appliance could not do this; its log says why",
            ),
        }
    }

    fn retry_after_s(self) -> Option<u32> {
        matches!(self, Self::Overloaded | Self::TooFast).then_some(1)
    }
}

/// OTLP: a `google.rpc.Status`; gRPC says it in headers of a 200.
fn otlp_refusal(door: Door, refusal: Refusal, status: StatusCode, message: &str, request: &RequestInfo) -> Response {
    let code: u8 = match refusal {
        Refusal::Overloaded | Refusal::TooFast => 14, // UNAVAILABLE: exporters retry it
        Refusal::BodyTooLarge => 8,                   // RESOURCE_EXHAUSTED
        Refusal::Unauthenticated => 16,
        Refusal::Forbidden => 7,
        Refusal::Fault => 13,
    };
    // Older exporters drop on 429 and retry on 503.
    let status = if refusal == Refusal::TooFast { StatusCode::SERVICE_UNAVAILABLE } else { status };
    let mut builder = http::Response::builder();
    if let Some(retry_after_s) = refusal.retry_after_s() {
        builder = builder.header("retry-after", retry_after_s);
    }
    let built = if door == Door::OtlpGrpc {
        builder
            .header("content-type", "application/grpc")
            .header("grpc-status", u16::from(code))
            .header("grpc-message", message)
            .body(Body::empty())
    } else if request.wants_json {
        let body = serde_json::json!({"code": code, "message": message}).to_string();
        builder.status(status).header("content-type", "application/json").body(Body::from(body))
    } else {
        // google.rpc.Status: field 1 varint code, field 2 text message; the messages are all under 128 bytes.
        let mut body = vec![0x08, code, 0x12, u8::try_from(message.len()).unwrap_or(127)];
        body.extend(message.bytes().take(127));
        builder.status(status).header("content-type", "application/x-protobuf").body(Body::from(body))
    };
    built.unwrap_or_else(|_| status.into_response())
}

/// Address of the caller, put into each request by the listener.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What the stack remembers of a request for its refusal and its count.
#[derive(Clone, Debug, Default)]
struct RequestInfo {
    request_id: String,
    wants_json: bool,
    aws: aws_door::Shape,
}

/// The id that a request's answer has in `x-amz-request-id`.
pub(crate) fn request_id(request: &Request) -> String {
    stack::info_of(request).request_id
}

/// Where a handler writes the name of its operation, so that the count above it knows it.
#[derive(Clone, Debug, Default)]
pub struct OperationCell(Arc<Mutex<Option<String>>>);

impl OperationCell {
    /// Operation names come from a fixed set (route patterns, service models): they are metric labels.
    pub fn set(&self, operation: &str) {
        *self.0.lock() = Some(operation.to_owned());
    }

    pub(crate) fn get(&self) -> String {
        self.0.lock().clone().unwrap_or_else(|| "unknown".into())
    }
}
