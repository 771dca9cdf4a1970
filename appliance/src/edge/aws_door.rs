//! The AWS door: tells the services apart, verifies the signature, and hands the call to its dialect.
//!
//! The service is the one in the signature's credential scope; only a request without one is judged by its
//! `X-Amz-Target`, Smithy path or `Action`, and then only to refuse it in the right dialect. So
//! the service that is called is always the one that was signed for.

use std::collections::HashMap;
use std::io::Read as _;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, StatusCode, header};
use http_body_util::BodyExt;

use super::aws::{AwsError, Call, Dialect, Protocol};
use super::sigv4::{self, Authorization};
use super::stack::info_of;
use super::{Gate, OperationCell, Request, RequestInfo, Response};
use backlot_wire::{AGENT_HEADER, ALIKE_HEADER};

/// S3, which reads and verifies its requests by itself.
pub trait S3Door: Send + Sync + 'static {
    fn call(&self, request: Request) -> BoxFuture<'static, Response>;
}

/// What answers behind the AWS door.
#[derive(Clone)]
pub struct AwsDoor {
    pub gate: Gate,
    pub s3: Arc<dyn S3Door>,
    /// By the name of their service as signatures write it.
    pub dialects: HashMap<&'static str, Arc<dyn Dialect>>,
}

impl AwsDoor {
    pub fn routes(self) -> Router {
        Router::new().fallback(answer).with_state(Arc::new(self))
    }
}

/// Routes of the public door, all of which `s3` answers.
pub fn public_routes(s3: Arc<dyn S3Door>) -> Router {
    Router::new().fallback(|State(s3): State<Arc<dyn S3Door>>, request: Request| s3.call(request)).with_state(s3)
}

/// Service and protocol of a request, as far as its head tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shape {
    #[default]
    S3,
    Rpc(Service, Protocol),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Sqs,
    Sns,
    Monitoring,
    Logs,
    /// Signed for a service that is not one of ours.
    Other,
}

impl Service {
    fn named(name: &str) -> Self {
        match name {
            "sqs" => Self::Sqs,
            "sns" => Self::Sns,
            "monitoring" => Self::Monitoring,
            "logs" => Self::Logs,
            _ => Self::Other,
        }
    }

    fn of_target(target: &str) -> Self {
        match target.split_once('.').map_or(target, |(prefix, _)| prefix) {
            "AmazonSQS" => Self::Sqs,
            "GraniteServiceVersion20100801" => Self::Monitoring,
            "Logs_20140328" => Self::Logs,
            _ => Self::Other,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Sqs => "sqs",
            Self::Sns => "sns",
            Self::Monitoring => "monitoring",
            Self::Logs => "logs",
            Self::Other => "this service",
        }
    }
}

impl Shape {
    pub(super) fn of(request: &Request) -> Self {
        let headers = request.headers();
        let service = signed_service(headers, request.uri().query());
        if service == Some("s3") {
            return Self::S3;
        }
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let path = request.uri().path();
        let query = request.uri().query().unwrap_or_default();
        let form = text("content-type").is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"));
        if let Some(target) = text("x-amz-target") {
            let protocol = match text("content-type") {
                Some(kind) if kind.starts_with("application/x-amz-json-1.1") => Protocol::Json11,
                _ => Protocol::Json10,
            };
            return Self::Rpc(service.map_or_else(|| Service::of_target(target), Service::named), protocol);
        }
        if text("smithy-protocol").is_some_and(|protocol| protocol.starts_with("rpc-v2-cbor"))
            && path.starts_with("/service/")
        {
            let target = path.split('/').nth(2).unwrap_or_default();
            return Self::Rpc(service.map_or_else(|| Service::of_target(target), Service::named), Protocol::Cbor);
        }
        match service {
            Some(service) => Self::Rpc(Service::named(service), Protocol::Query),
            // An unsigned form or `?Action=`: SQS is what people try with curl.
            None if form && request.method() == Method::POST && path_is_queue(path) => {
                Self::Rpc(Service::Sqs, Protocol::Query)
            }
            None if query.split('&').any(|pair| pair.starts_with("Action=")) => {
                Self::Rpc(Service::Sqs, Protocol::Query)
            }
            None => Self::S3,
        }
    }
}

/// `/` or `/000000000000/name`: a form to any other path is an S3 POST object.
fn path_is_queue(path: &str) -> bool {
    path == "/"
        || path
            .split('/')
            .nth(1)
            .is_some_and(|account| account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()))
}

/// The service in the credential scope of the header or of a presigned URL. A SigV2 header is S3's.
fn signed_service<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> Option<&'a str> {
    if let Some(value) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        return match Authorization::parse(value) {
            Some(authorization) => Some(authorization.service),
            None if value.starts_with("AWS ") => Some("s3"),
            None => None,
        };
    }
    let credential = query?.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Credential="))?;
    credential.split("%2F").flat_map(|part| part.split('/')).nth(3)
}

async fn answer(State(door): State<Arc<AwsDoor>>, request: Request) -> Response {
    let info = info_of(&request);
    match info.aws {
        Shape::S3 => door.s3.call(request).await,
        // What was read of the request is let go of before the call, which may be a long poll of twenty seconds.
        Shape::Rpc(service, protocol) => match rpc(&door, service, protocol, request, &info).await {
            Ok(Verified::Call(dialect, call)) => dialect.call(*call).await,
            Ok(Verified::TooFast(response)) => *response,
            Err(error) => error.respond(protocol, &info.request_id).map(Body::from),
        },
    }
}

enum Verified {
    Call(Arc<dyn Dialect>, Box<Call>),
    TooFast(Box<Response>),
}

async fn rpc(
    door: &AwsDoor,
    service: Service,
    protocol: Protocol,
    request: Request,
    info: &RequestInfo,
) -> Result<Verified, AwsError> {
    let limit = door.gate.config().aws_body_bytes_max;
    let cell = request.extensions().get::<OperationCell>().cloned().unwrap_or_default();
    let (parts, body) = request.into_parts();
    let body = collect(body, limit, &parts.headers).await?;
    let Some(authorization) = Authorization::of(&parts.headers) else {
        return Err(AwsError::client(
            "MissingAuthenticationToken",
            "Request is missing Authentication Token: sign it with SigV4 in its headers",
        )
        .with_status(StatusCode::FORBIDDEN));
    };
    let wall_ms = door.gate.clock().now().wall_ms;
    let principal = sigv4::verify(door.gate.identity(), &parts, &authorization, &body, wall_ms)?;
    if !door.gate.allows_key(&principal.key_id) {
        let refusal = door.gate.refuse_aws_too_fast(&Request::from_parts(parts, Body::empty()));
        return Ok(Verified::TooFast(Box::new(refusal)));
    }
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let body = if protocol == Protocol::Query && parts.method == Method::GET {
        Bytes::copy_from_slice(parts.uri.query().unwrap_or_default().as_bytes())
    } else {
        unpacked(body, limit, text("content-encoding"))?
    };
    let operation = match protocol {
        Protocol::Json10 | Protocol::Json11 => {
            let target = text("x-amz-target").unwrap_or_default();
            if Service::of_target(target) != service {
                return Err(AwsError::client(
                    "UnknownOperationException",
                    "the operation is of another service than the signature",
                ));
            }
            target.rsplit('.').next().unwrap_or_default().to_owned()
        }
        Protocol::Cbor => parts.uri.path().rsplit('/').next().unwrap_or_default().to_owned(),
        Protocol::Query => form_field(&body, "Action").ok_or_else(|| {
            AwsError::client("MissingAction", "Could not find operation to perform: the field Action is absent")
        })?,
    };
    let Some(dialect) = door.dialects.get(service.name()) else {
        let message =
            format!("{} is not served by this version; the README's status table says what is", service.name());
        return Err(AwsError::client("UnknownOperationException", message).with_query_code("InvalidAction"));
    };
    let host = text("host").unwrap_or("localhost");
    // These headers count only when they were signed: they decide what the caller receives.
    let signed = |name: &str| text(name).filter(|_| authorization.signed_headers.contains(&name)).map(str::to_owned);
    let (agent, alike) = (signed(AGENT_HEADER), signed(ALIKE_HEADER));
    let call = Call {
        service: service.name(),
        operation,
        protocol,
        path: parts.uri.path().to_owned(),
        base_url: format!("http://{host}"),
        region: authorization.region.to_owned(),
        agent,
        alike,
        body,
        principal,
        request_id: info.request_id.clone(),
    };
    cell.set(known_operation(&call.operation));
    Ok(Verified::Call(Arc::clone(dialect), Box::new(call)))
}

/// Operation names are metric labels: one that no service has must not become one.
fn known_operation(operation: &str) -> &str {
    let known =
        operation.len() <= 40 && operation.bytes().all(|b| b.is_ascii_alphabetic()) && OPERATIONS.contains(&operation);
    if known { operation } else { "unknown" }
}

const OPERATIONS: &[&str] = &[
    "AddPermission",
    "CancelMessageMoveTask",
    "ChangeMessageVisibility",
    "ChangeMessageVisibilityBatch",
    "CreateLogGroup",
    "CreateLogStream",
    "CreateQueue",
    "DeleteLogGroup",
    "DeleteLogStream",
    "DeleteMessage",
    "DeleteMessageBatch",
    "DeleteQueue",
    "DeleteRetentionPolicy",
    "DescribeLogGroups",
    "DescribeLogStreams",
    "DescribeQueries",
    "FilterLogEvents",
    "GetLogEvents",
    "GetLogGroupFields",
    "GetLogRecord",
    "GetQueryResults",
    "GetQueueAttributes",
    "GetQueueUrl",
    "ListDeadLetterSourceQueues",
    "ListMessageMoveTasks",
    "ListQueueTags",
    "ListQueues",
    "ListTagsForResource",
    "ListTagsLogGroup",
    "PurgeQueue",
    "PutLogEvents",
    "PutRetentionPolicy",
    "ReceiveMessage",
    "RemovePermission",
    "SendMessage",
    "SendMessageBatch",
    "SetQueueAttributes",
    "StartLiveTail",
    "StartMessageMoveTask",
    "StartQuery",
    "StopQuery",
    "TagLogGroup",
    "TagQueue",
    "TagResource",
    "UntagLogGroup",
    "UntagQueue",
    "UntagResource",
];

async fn collect(body: Body, limit: usize, headers: &HeaderMap) -> Result<Bytes, AwsError> {
    let too_large = || {
        AwsError::client("RequestEntityTooLarge", format!("the body is over {limit} bytes"))
            .with_status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > limit as u64) {
        return Err(too_large());
    }
    match http_body_util::Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Err(error) => {
            tracing::debug!(%error, "a body did not arrive");
            Err(AwsError::client("RequestTimeout", "the body did not arrive whole"))
        }
    }
}

/// A body as it was before its sender packed it, which the CloudWatch agent does. What was signed for is the packed one.
fn unpacked(body: Bytes, limit: usize, encoding: Option<&str>) -> Result<Bytes, AwsError> {
    if encoding.is_none_or(|encoding| !encoding.eq_ignore_ascii_case("gzip")) {
        return Ok(body);
    }
    let mut whole = Vec::new();
    let mut reader = flate2::read::MultiGzDecoder::new(body.as_ref()).take(limit as u64 + 1);
    match reader.read_to_end(&mut whole) {
        Ok(bytes) if bytes > limit => {
            let message = format!("the body is over {limit} bytes when it is unpacked");
            Err(AwsError::client("RequestEntityTooLarge", message).with_status(StatusCode::PAYLOAD_TOO_LARGE))
        }
        Ok(_) => Ok(whole.into()),
        Err(error) => Err(AwsError::client("SerializationException", format!("the body is not gzip: {error}"))),
    }
}

/// First value of a field in a form body.
pub(super) fn form_field(body: &[u8], name: &str) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let value = text.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let plain = value.replace('+', " ");
    Some(percent_encoding::percent_decode_str(&plain).decode_utf8().ok()?.into_owned())
}

/// A refusal by the stack, before anything was verified.
pub(super) fn refusal(
    status: StatusCode,
    code: (&'static str, &'static str),
    message: &'static str,
    request: &RequestInfo,
) -> Response {
    match request.aws {
        Shape::Rpc(_, protocol) => {
            AwsError::client(code.0, message).with_status(status).respond(protocol, &request.request_id).map(Body::from)
        }
        Shape::S3 => {
            let code = if status == StatusCode::SERVICE_UNAVAILABLE { "SlowDown" } else { code.0 };
            let body = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>{message}</Message><RequestId>{}</RequestId></Error>",
                request.request_id
            );
            let mut response = Response::new(Body::from(body));
            *response.status_mut() = status;
            response.headers_mut().insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/xml"));
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(method: &str, uri: &str, headers: &[(&str, &str)]) -> Shape {
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Shape::of(&request.body(Body::empty()).unwrap())
    }

    #[test]
    fn the_service_that_was_signed_for_decides() {
        let signed = |service: &str| {
            format!("AWS4-HMAC-SHA256 Credential=A/20261122/r/{service}/aws4_request, SignedHeaders=host, Signature=x")
        };
        let (sqs, s3) = (signed("sqs"), signed("s3"));
        let json = ("x-amz-target", "AmazonSQS.SendMessage");
        assert_eq!(shape("POST", "/", &[("authorization", &sqs), json]), Shape::Rpc(Service::Sqs, Protocol::Json10));
        assert_eq!(shape("POST", "/", &[("authorization", &s3), json]), Shape::S3);
        assert_eq!(shape("POST", "/", &[("authorization", &sqs)]), Shape::Rpc(Service::Sqs, Protocol::Query));
        assert_eq!(shape("GET", "/bucket/key", &[]), Shape::S3);
        assert_eq!(shape("GET", "/b/k?X-Amz-Credential=A%2F20261122%2Fr%2Fs3%2Faws4_request", &[]), Shape::S3);
        assert_eq!(
            shape("POST", "/", &[("content-type", "application/x-www-form-urlencoded")]),
            Shape::Rpc(Service::Sqs, Protocol::Query)
        );
        assert_eq!(shape("POST", "/bucket", &[("content-type", "multipart/form-data")]), Shape::S3);
        assert_eq!(shape("GET", "/?Action=ListQueues", &[]), Shape::Rpc(Service::Sqs, Protocol::Query));
        assert_eq!(
            shape("POST", "/", &[("authorization", &signed("iam"))]),
            Shape::Rpc(Service::Other, Protocol::Query)
        );
        assert_eq!(
            shape(
                "POST",
                "/service/GraniteServiceVersion20100801/operation/PutMetricData",
                &[("smithy-protocol", "rpc-v2-cbor")]
            ),
            Shape::Rpc(Service::Monitoring, Protocol::Cbor)
        );
    }
}
