//! Elasticsearch's reading calls, as far as Grafana's data source and simple clients send them.
//!
//! [`question`] makes a query of Elasticsearch's DSL into one to the windows and a range of time, [`fields`] says what its names are here,
//! [`search`] reads a request and runs it, [`sorted`] orders hits by other fields than time, [`aggregations`] reads and evaluates what is to be counted, [`lucene`]
//! reads query strings, [`dates`] writes dates, [`indexes`] says which records are of which index, [`scrolls`] remembers where searches go on; `api` speaks HTTP. A record is of the index that its resource's attribute `index` names, and of `logs` without one.
//!
//! What is not known is answered with Elasticsearch's error, never left out: a query, aggregation, parameter or key that changes the answer.
//! Only what changes nothing but its looks is accepted and not acted on: highlights, preferences, timeouts.
//! Absent on purpose: scores, scripts but for arithmetic between buckets, points in time, everything that writes but `_bulk`.

mod aggregations;
mod api;
mod dates;
mod fields;
mod indexes;
mod looks;
mod lucene;
mod question;
mod scrolls;
mod search;
mod sorted;
mod sources;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};

pub(super) use api::routes;

use super::pages::PagesError;
use crate::edge::ApiError;

/// Reads bytes as a search and throws the outcome away: for fuzzing.
pub fn fuzz_search(body: &[u8]) {
    if let Ok(body) = serde_json::from_slice(body) {
        let _ = search::Request::read(&body, crate::clock::Now::default());
    }
}

/// An error of Elasticsearch.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    status: StatusCode,
    kind: &'static str,
    reason: String,
    retry_after_s: Option<u32>,
}

impl Refused {
    fn new(kind: &'static str, reason: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind, reason: reason.into(), retry_after_s: None }
    }

    /// A request that does not read.
    fn parsing(reason: impl Into<String>) -> Self {
        Self::new("parsing_exception", reason)
    }

    /// A value that cannot be.
    fn illegal(reason: impl Into<String>) -> Self {
        Self::new("illegal_argument_exception", reason)
    }

    /// The body of the error, as it also stands among the answers of `_msearch`.
    fn body(&self) -> Value {
        let cause = json!({"type": self.kind, "reason": self.reason});
        json!({"error": {"root_cause": [cause], "type": self.kind, "reason": self.reason}, "status": self.status.as_u16()})
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        let kind = match error.status {
            StatusCode::SERVICE_UNAVAILABLE => {
                let (status, kind) = (StatusCode::TOO_MANY_REQUESTS, "es_rejected_execution_exception");
                return Self { status, kind, reason: error.message, retry_after_s: error.retry_after_s };
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "security_exception",
            StatusCode::INTERNAL_SERVER_ERROR => "exception",
            _ => "illegal_argument_exception",
        };
        Self { status: error.status, kind, reason: error.message, retry_after_s: None }
    }
}

impl From<PagesError> for Refused {
    fn from(error: PagesError) -> Self {
        match error {
            PagesError::Refused(error) => error.into(),
            PagesError::TooLong | PagesError::TooMany => Self::illegal(error.to_string()),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut response = answer(self.status, &self.body());
        if let Some(retry_after_s) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
        }
        response
    }
}

fn answer(status: StatusCode, body: &Value) -> Response {
    // Clients look for it before they believe that this is Elasticsearch.
    let product = (HeaderName::from_static("x-elastic-product"), HeaderValue::from_static("Elasticsearch"));
    (status, [product], Json(body)).into_response()
}
