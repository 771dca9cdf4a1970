//! What an AWS dialect is handed, and what it gives back.

use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Response, StatusCode};

use crate::identity::Principal;

/// How the call was written, which is how the answer must be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `X-Amz-Target` with JSON 1.0.
    Json10,
    /// `X-Amz-Target` with JSON 1.1.
    Json11,
    /// Form fields in the body or the query string, XML in the answer.
    Query,
    /// Smithy RPC v2 with CBOR.
    Cbor,
}

/// One verified call of an AWS service other than S3.
#[derive(Clone, Debug)]
pub struct Call {
    /// `sqs`, `sns`, `monitoring`, `logs`.
    pub service: &'static str,
    /// Name of the operation as the service model writes it: `SendMessage`.
    pub operation: String,
    pub protocol: Protocol,
    /// Path of the request: `/` or, for a Query call, perhaps a queue's.
    pub path: String,
    /// At most the door's body limit. For a Query call sent by GET, the query string.
    pub body: Bytes,
    pub principal: Principal,
    pub request_id: String,
    /// `http://host:port` as the caller wrote it, for URLs in the answer.
    pub base_url: String,
    /// From the scope of the signature; `us-east-1` where none was given.
    pub region: String,
    /// The registered name in the signed `x-backlot-agent` header.
    pub agent: Option<String>,
    /// The job's id in the signed `x-backlot-alike` header.
    pub alike: Option<String>,
}

/// A service that answers AWS calls.
pub trait Dialect: Send + Sync + 'static {
    /// Answers one call, errors included: the answer is in the caller's protocol.
    fn call(&self, call: Call) -> BoxFuture<'static, Response<Body>>;
}

/// An error as every AWS protocol of the caller writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsError {
    pub status: StatusCode,
    /// Shape name in the service's model: `QueueDoesNotExist`.
    pub shape: &'static str,
    /// The code of the older Query protocol where it differs: `AWS.SimpleQueueService.NonExistentQueue`.
    pub query_code: &'static str,
    pub message: String,
}

impl AwsError {
    /// The caller's mistake, with one code in all protocols.
    #[must_use]
    pub fn client(shape: &'static str, message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, shape, query_code: shape, message: message.into() }
    }

    #[must_use]
    pub fn with_query_code(mut self, query_code: &'static str) -> Self {
        self.query_code = query_code;
        self
    }

    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The error as a response in `protocol`, with the headers that SDKs read.
    #[must_use]
    pub fn respond(&self, protocol: Protocol, request_id: &str) -> Response<Bytes> {
        let sender = self.status.is_client_error();
        let fault = if sender { "Sender" } else { "Receiver" };
        let builder = Response::builder().status(self.status).header("x-amzn-requestid", request_id);
        let built = match protocol {
            Protocol::Json10 | Protocol::Json11 => {
                let version = if protocol == Protocol::Json10 { "1.0" } else { "1.1" };
                let body =
                    serde_json::json!({"__type": format!("com.amazonaws.{}", self.shape), "message": self.message});
                builder
                    .header("content-type", format!("application/x-amz-json-{version}"))
                    .header("x-amzn-query-error", format!("{};{fault}", self.query_code))
                    .body(Bytes::from(body.to_string()))
            }
            Protocol::Cbor => {
                let mut body = Vec::new();
                let text = |text: &str| ciborium::Value::Text(text.to_owned());
                let shape = format!("com.amazonaws.{}", self.shape);
                let map = vec![(text("__type"), text(&shape)), (text("message"), text(&self.message))];
                if ciborium::into_writer(&ciborium::Value::Map(map), &mut body).is_err() {
                    body.clear();
                }
                builder
                    .header("content-type", "application/cbor")
                    .header("smithy-protocol", "rpc-v2-cbor")
                    .header("x-amzn-query-error", format!("{};{fault}", self.query_code))
                    .body(Bytes::from(body))
            }
            Protocol::Query => {
                let message = quick_xml::escape::escape(&self.message);
                builder.header("content-type", "text/xml").body(Bytes::from(format!(
                    "<?xml version=\"1.0\"?><ErrorResponse><Error><Type>{fault}</Type><Code>{}</Code><Message>{message}</Message><Detail/></Error><RequestId>{request_id}</RequestId></ErrorResponse>",
                    self.query_code
                )))
            }
        };
        built.unwrap_or_else(|error| {
            tracing::error!(%error, "could not write an error");
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        })
    }
}
