//! Log lines of other protocols: Elasticsearch's bulk, Loki's push, lines over HTTP, syslog.
//!
//! Each is read into [`Entries`], which become one request of OTLP and go its way: one format in the journal, one set of names that
//! are recognised. An answer of success means that the lines are durable.

mod elastic;
mod lines;
mod loki;
mod stacks;
pub(super) mod syslog;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use opentelemetry_proto::tonic::common::v1::AnyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use serde_json::{Map, Value};
use std::io::Read as _;

use super::Logs;
use super::model::{take_message, take_moment};
use crate::edge::otlp::{ExportLogsServiceRequest, OtlpError, Sink as _};
use crate::signals::ITEMS_MAX;
use crate::signals::attributes::pairs;

pub use elastic::fuzz as fuzz_bulk;
pub use lines::fuzz as fuzz_lines;
pub use loki::fuzz as fuzz_push;
pub use syslog::fuzz as fuzz_syslog;

/// Most bytes of a body after decompression.
const UNPACKED_BYTES_MAX: usize = 12 << 20;
/// Routes of the http door.
pub(super) fn routes(logs: Logs) -> Router {
    Router::new()
        .route("/v1/logs", post(lines::take))
        .route("/es", get(elastic::about))
        .route("/es/", get(elastic::about))
        .route("/es/_bulk", post(elastic::bulk).put(elastic::bulk))
        .route("/es/{index}/_bulk", post(elastic::bulk_into).put(elastic::bulk_into))
        .route("/es/{index}/_doc", post(elastic::one))
        .route("/es/{index}/_doc/{id}", post(elastic::one_named).put(elastic::one_named))
        .route("/es/{index}/_create/{id}", post(elastic::one_named).put(elastic::one_named))
        .route("/loki/api/v1/push", post(loki::push))
        .layer(DefaultBodyLimit::disable()) // the door bounds bodies
        .with_state(logs)
}

/// One line of a log.
#[derive(Clone, Debug, Default, PartialEq)]
struct Entry {
    /// Nanoseconds since 1970; when it arrives if the sender says nothing.
    time_ns: Option<u64>,
    body: String,
    attributes: Map<String, Value>,
}

/// Lines of one source, in their order.
#[derive(Clone, Debug, Default, PartialEq)]
struct Entries {
    resource: Map<String, Value>,
    entries: Vec<Entry>,
}

/// Why lines were not taken, before a dialect puts it into words.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    status: StatusCode,
    message: String,
    retry_after_s: Option<u32>,
}

impl Refused {
    fn bad(message: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), retry_after_s: None }
    }

    fn too_large(message: impl Into<String>) -> Self {
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, message: message.into(), retry_after_s: None }
    }
}

impl From<OtlpError> for Refused {
    fn from(error: OtlpError) -> Self {
        let message = error.to_string();
        match error {
            OtlpError::Invalid(_) => Self::bad(message),
            OtlpError::TooLarge(_) => Self::too_large(message),
            OtlpError::Unsupported(_) => {
                Self { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, message, retry_after_s: None }
            }
            OtlpError::Busy { retry_after_s, .. } => {
                Self { status: StatusCode::SERVICE_UNAVAILABLE, message, retry_after_s: Some(retry_after_s) }
            }
            OtlpError::Internal(cause) => {
                tracing::error!(cause, "log lines were not taken");
                Self { status: StatusCode::INTERNAL_SERVER_ERROR, message, retry_after_s: None }
            }
        }
    }
}

/// A body as it was before its sender packed it.
fn unpacked(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Refused> {
    match headers.get(header::CONTENT_ENCODING).map(|value| value.as_bytes().to_ascii_lowercase()).as_deref() {
        None | Some(b"" | b"identity") => Ok(body),
        Some(b"gzip" | b"x-gzip") => {
            let mut whole = Vec::new();
            let mut reader = flate2::read::MultiGzDecoder::new(body.as_ref()).take(UNPACKED_BYTES_MAX as u64 + 1);
            match reader.read_to_end(&mut whole) {
                Ok(bytes) if bytes > UNPACKED_BYTES_MAX => Err(Refused::too_large(format!(
                    "the body has more than {UNPACKED_BYTES_MAX} bytes when it is unpacked"
                ))),
                Ok(_) => Ok(whole.into()),
                Err(error) => Err(Refused::bad(format!("the body is not gzip: {error}"))),
            }
        }
        Some(_) => Err(Refused {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            message: "the content encoding is neither gzip nor identity".to_owned(),
            retry_after_s: None,
        }),
    }
}

/// Makes lines durable. Those that belong to one stack trace become one record.
async fn keep(logs: &Logs, groups: Vec<Entries>) -> Result<(), Refused> {
    let request = request(groups);
    logs.export(request).await.map(drop).map_err(Refused::from)
}

fn request(groups: Vec<Entries>) -> ExportLogsServiceRequest {
    let resource_logs = groups.into_iter().filter(|group| !group.entries.is_empty()).map(|group| {
        let records = stacks::join(group.entries).into_iter().map(record).collect();
        let scope = ScopeLogs { log_records: records, ..ScopeLogs::default() };
        let resource = Resource { attributes: pairs(group.resource), ..Resource::default() };
        ResourceLogs { resource: Some(resource), scope_logs: vec![scope], ..ResourceLogs::default() }
    });
    ExportLogsServiceRequest { resource_logs: resource_logs.collect() }
}

fn record(entry: Entry) -> LogRecord {
    LogRecord {
        time_unix_nano: entry.time_ns.unwrap_or(0),
        body: Some(AnyValue { value: Some(Any::StringValue(entry.body)) }),
        attributes: pairs(entry.attributes),
        ..LogRecord::default()
    }
}

/// A logger's object as a line: its text and moment are taken out of it, the rest is its attributes.
fn of_object(mut object: Map<String, Value>) -> Entry {
    let time_ns = take_moment(&mut object);
    let body = take_message(&mut object).unwrap_or_else(|| Value::Object(object.clone()).to_string());
    Entry { time_ns, body, attributes: object }
}

/// Refuses more lines than one request may have.
fn check_count(lines: usize) -> Result<(), Refused> {
    if lines > ITEMS_MAX {
        return Err(Refused::too_large(format!("a request holds at most {ITEMS_MAX} lines")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            _ => panic!("no object"),
        }
    }

    #[test]
    fn an_objects_text_and_moment_are_taken_out_of_it() {
        let entry =
            of_object(object(json!({"ts": 1_763_812_800, "level": "warn", "msg": "slow", "gpu": {"index": 2}})));
        assert_eq!((entry.time_ns, entry.body.as_str()), (Some(1_763_812_800_000_000_000), "slow"));
        assert_eq!(entry.attributes, object(json!({"level": "warn", "gpu": {"index": 2}})));
        let entry = of_object(object(json!({"time": "lunch", "a": 1})));
        assert_eq!((entry.time_ns, entry.body.as_str()), (None, r#"{"a":1,"time":"lunch"}"#));
    }

    #[test]
    fn bodies_that_unpack_to_too_much_are_refused() {
        use std::io::Write as _;
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        for _ in 0..UNPACKED_BYTES_MAX / 1000 + 1 {
            packer.write_all(&[b'a'; 1000]).unwrap();
        }
        let packed = Bytes::from(packer.finish().unwrap());
        let headers =
            |encoding| HeaderMap::from_iter([(header::CONTENT_ENCODING, http::HeaderValue::from_static(encoding))]);
        assert_eq!(unpacked(&headers("gzip"), packed.clone()).unwrap_err().status, 413);
        assert_eq!(unpacked(&headers("br"), packed.clone()).unwrap_err().status, 415);
        assert_eq!(unpacked(&headers("gzip"), Bytes::from_static(b"no")).unwrap_err().status, 400);
        assert_eq!(unpacked(&HeaderMap::new(), packed.clone()).unwrap(), packed);
    }
}
