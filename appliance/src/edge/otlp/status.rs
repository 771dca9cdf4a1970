//! Errors as OTLP senders read them: `google.rpc.Status` in their own encoding.

use axum::body::Body;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use prost::Message as _;

use super::OtlpError;

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.RetryInfo`.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// How the sender writes, and so reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Protobuf,
    Json,
    Grpc,
}

impl Wire {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if kind.starts_with(b"application/json") {
            Self::Json
        } else if kind.starts_with(b"application/grpc") {
            Self::Grpc
        } else {
            Self::Protobuf
        }
    }
}

impl OtlpError {
    /// Status of HTTP, code of gRPC, label of the counter.
    fn codes(&self) -> (StatusCode, tonic::Code, &'static str) {
        match self {
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, tonic::Code::InvalidArgument, "invalid"),
            Self::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, tonic::Code::InvalidArgument, "too_large"),
            Self::Unsupported(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, tonic::Code::InvalidArgument, "unsupported"),
            Self::Busy { .. } => (StatusCode::SERVICE_UNAVAILABLE, tonic::Code::Unavailable, "busy"),
            Self::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, tonic::Code::Internal, "internal"),
        }
    }

    pub(super) fn reason(&self) -> &'static str {
        self.codes().2
    }

    fn retry_after_s(&self) -> Option<u32> {
        match self {
            Self::Busy { retry_after_s, .. } => Some(*retry_after_s),
            _ => None,
        }
    }

    fn to_status(&self) -> Status {
        let retry = |seconds: u32| Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: RetryInfo { retry_delay: Some(Delay { seconds: i64::from(seconds) }) }.encode_to_vec(),
        };
        Status {
            code: self.codes().1 as i32,
            message: self.to_string(),
            details: self.retry_after_s().map(retry).into_iter().collect(),
        }
    }

    /// For a handler of tonic.
    pub(super) fn to_tonic(&self) -> tonic::Status {
        tonic::Status::with_details(self.codes().1, self.to_string(), self.to_status().encode_to_vec().into())
    }
}

/// The error as a response.
pub(super) fn respond(error: &OtlpError, wire: Wire) -> Response {
    let (status, code, _) = error.codes();
    let mut response = Response::new(Body::empty());
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    if let Some(seconds) = error.retry_after_s() {
        set("retry-after", &seconds.to_string());
    }
    let body = match wire {
        Wire::Grpc => {
            set("content-type", "application/grpc");
            set("grpc-status", &(code as i32).to_string());
            set("grpc-message", &error.to_string());
            set("grpc-status-details-bin", &STANDARD_NO_PAD.encode(error.to_status().encode_to_vec()));
            return response; // gRPC says it in headers of a 200
        }
        Wire::Json => {
            set("content-type", "application/json");
            serde_json::json!({"code": code as i32, "message": error.to_string()}).to_string().into_bytes()
        }
        Wire::Protobuf => {
            set("content-type", "application/x-protobuf");
            error.to_status().encode_to_vec()
        }
    };
    *response.status_mut() = status;
    *response.body_mut() = Body::from(body);
    response
}
