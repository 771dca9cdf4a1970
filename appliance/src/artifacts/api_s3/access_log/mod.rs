//! The server access log: for each request to a bucket that asks for it a record in log search, and a line in its target bucket.
//!
//! The records are the appliance's own log records, target `backlot::s3_access`, found like all others and kept as long; they are made
//! when the answer begins. The lines are S3's ([`line`]), made when the answer has ended, with what was really sent, and delivered as objects
//! every few minutes ([`crate::artifacts::logbook`]). Either may be missing, as S3 says of its own.
//!
//! Absent on purpose: a line for each key of a batch; permissions on the objects (`TargetGrants`), which belong to the target's owner.

mod line;

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http::header;
use http_body::{Frame, SizeHint};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::convert::{self, error};
use super::stored::{self, Stored};
use crate::artifacts::Artifacts;
use crate::artifacts::access::parameter;
use crate::artifacts::documents::DocumentKind;
use crate::artifacts::logbook::Destination;
use crate::edge::{OperationCell, Peer, Request, Response, request_id};
use line::Line;

/// Longest text of a caller in a record, in bytes.
const TEXT_BYTES_MAX: usize = 1024;
/// Bytes of an error's body in which its code is looked for.
const ERROR_BYTES_MAX: usize = 512;

fn no_target(text: &str) -> s3s::S3Error {
    convert::custom("InvalidTargetBucketForLogging", http::StatusCode::BAD_REQUEST, text.to_owned())
}

pub(super) async fn put(
    artifacts: &Artifacts,
    request: S3Request<PutBucketLoggingInput>,
) -> S3Result<S3Response<PutBucketLoggingOutput>> {
    let (bucket, status) = (request.input.bucket, request.input.bucket_logging_status);
    let source = artifacts.bucket(&bucket).map_err(error)?;
    match &status.logging_enabled {
        None => stored::forget(artifacts, &bucket, DocumentKind::Logging).await?,
        Some(enabled) => {
            if enabled.target_grants.as_ref().is_some_and(|grants| !grants.is_empty()) {
                return Err(s3_error!(
                    NotImplemented,
                    "the objects are the target's owner's; TargetGrants are not served"
                ));
            }
            let target = artifacts.bucket(&enabled.target_bucket);
            let target = target.map_err(|_| no_target("The target bucket for logging does not exist"))?;
            if target.owner != source.owner {
                return Err(no_target("The owner for the bucket to be logged and the target bucket must be the same."));
            }
            stored::keep(artifacts, &bucket, DocumentKind::Logging, &status).await?;
        }
    }
    Ok(S3Response::new(PutBucketLoggingOutput::default()))
}

pub(super) async fn get(
    artifacts: &Artifacts,
    request: S3Request<GetBucketLoggingInput>,
) -> S3Result<S3Response<GetBucketLoggingOutput>> {
    let held = stored::held::<BucketLoggingStatus>(artifacts, &request.input.bucket, DocumentKind::Logging)?;
    let logging_enabled = held.and_then(|held| held.logging_enabled);
    Ok(S3Response::new(GetBucketLoggingOutput { logging_enabled }))
}

/// Where the check of a request writes who called.
#[derive(Clone, Default)]
pub(super) struct Requester(Arc<OnceLock<String>>);

impl Requester {
    pub(super) fn set(&self, arn: Option<String>) {
        let _ = self.0.set(arn.unwrap_or_else(|| "-".to_owned())); // a request is checked once
    }

    fn name(&self) -> &str {
        self.0.get().map_or("-", String::as_str)
    }
}

/// A request to a bucket that is logged.
pub(super) struct Logged {
    to: Destination,
    operation: OperationCell,
    requester: Requester,
    began_ms: u64,
    line: Line,
}

impl Logged {
    /// `None` where the bucket is not logged.
    pub(super) fn of(
        artifacts: &Artifacts,
        bucket: Option<&str>,
        key: Option<&str>,
        request: &mut Request,
    ) -> Option<Self> {
        let bucket = bucket?;
        let stored = Stored::of(artifacts, bucket, DocumentKind::Logging).ok()??;
        let enabled = stored.value::<BucketLoggingStatus>().ok()?.logging_enabled.as_ref()?;
        let source = artifacts.bucket(bucket).ok()?;
        let (now, query) = (artifacts.now(), request.uri().query().unwrap_or_default());
        let text = |name| request.headers().get(name).map(|value| cut(&String::from_utf8_lossy(value.as_bytes())));
        let address = request.extensions().get::<Peer>().map_or_else(|| "-".to_owned(), |peer| peer.0.ip().to_string());
        let has = |name| parameter(query, name).is_some();
        let signed = match () {
            () if request.headers().contains_key(header::AUTHORIZATION) => Some(("SigV4", "AuthHeader")),
            () if has("X-Amz-Signature") => Some(("SigV4", "QueryString")),
            () if has("Signature") => Some(("SigV2", "QueryString")),
            () => None,
        };
        let line = Line {
            owner: source.owner.canonical_id(),
            bucket: bucket.to_owned(),
            wall_ms: now.wall_ms,
            address,
            request_id: request_id(request),
            key: key.filter(|key| !key.is_empty()).map(str::to_owned),
            method: request.method().as_str().to_owned(),
            target: request.uri().path_and_query().map(|target| target.as_str().to_owned()).unwrap_or_default(),
            referer: text(header::REFERER),
            agent: text(header::USER_AGENT),
            host: text(header::HOST),
            version: parameter(query, "versionId"),
            object_bytes: announced(request),
            signed,
            ..Line::default()
        };
        let prefix = prefix(enabled, &source.owner.number(), &source.region, bucket, now.wall_ms);
        let requester = Requester::default();
        let logged = Self {
            to: Destination::new(enabled.target_bucket.clone(), prefix, &source.owner),
            operation: request.extensions().get::<OperationCell>().cloned().unwrap_or_default(),
            requester: requester.clone(),
            began_ms: now.mono_ms,
            line,
        };
        request.extensions_mut().insert(requester);
        Some(logged)
    }

    /// The same of a page of the bucket's website.
    pub(super) fn website(mut self) -> Self {
        self.line.is_website = true;
        self
    }

    /// Makes the record, and the line when the answer's body has gone.
    pub(super) fn answered(self, artifacts: &Artifacts, response: Response) -> Response {
        let Self { to, operation, requester, began_ms, mut line } = self;
        let number = |name: header::HeaderName| {
            response.headers().get(name).and_then(|value| value.to_str().ok()?.rsplit('/').next()?.parse::<u64>().ok())
        };
        let bytes = number(header::CONTENT_LENGTH);
        let took_ms = artifacts.now().mono_ms.saturating_sub(began_ms);
        let path = line.target.split('?').next().unwrap_or_default();
        tracing::info!(
            target: "backlot::s3_access",
            bucket = line.bucket,
            operation = operation.get(),
            method = line.method,
            path = cut(path), // not the query: a presigned URL's signature is in it
            status = response.status().as_u16(),
            bytes = bytes.unwrap_or(0),
            took_ms,
            requester = requester.name(),
            address = line.address,
            user_agent = line.agent.as_deref().unwrap_or("-"),
            "{} {} {}",
            line.method,
            path,
            response.status().as_u16()
        );
        line.operation = operation.get();
        line.requester = requester.name().to_owned();
        line.status = response.status().as_u16();
        line.turned_ms = took_ms;
        if response.status().is_success() && matches!(line.method.as_str(), "GET" | "HEAD") && line.key.is_some() {
            line.object_bytes = number(header::CONTENT_RANGE).or(bytes); // of a part its whole
        }
        if let Some(version) = response.headers().get("x-amz-version-id").and_then(|version| version.to_str().ok()) {
            line.version = Some(version.to_owned());
        }
        let is_error = response.status().is_client_error() || response.status().is_server_error();
        let begun = is_error.then(Vec::new);
        let artifacts = artifacts.clone();
        response.map(|inner| Body::new(Watched { inner, artifacts, to: Some(to), line, began_ms, begun }))
    }
}

/// Where the objects of a bucket's lines are, up to the time in their names.
fn prefix(enabled: &LoggingEnabled, account: &str, region: &str, bucket: &str, wall_ms: u64) -> String {
    let begin = &enabled.target_prefix;
    if enabled.target_object_key_format.as_ref().is_none_or(|format| format.partitioned_prefix.is_none()) {
        return begin.clone();
    }
    let format = time::macros::format_description!("[year]/[month]/[day]");
    let seconds = i64::try_from(wall_ms / 1000).unwrap_or_default();
    let day = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    format!("{begin}{account}/{region}/{bucket}/{}/", day.format(format).unwrap_or_default())
}

/// Bytes of an object that a request brings.
fn announced(request: &Request) -> Option<u64> {
    let length = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()?.parse().ok());
    length("x-amz-decoded-content-length").or_else(|| length("content-length"))
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_BYTES_MAX / 4).collect()
}

/// The body of an answer, which is counted as it goes. Dropped, it writes its line.
struct Watched {
    inner: Body,
    artifacts: Artifacts,
    to: Option<Destination>,
    line: Line,
    began_ms: u64,
    /// The beginning of an error's body.
    begun: Option<Vec<u8>>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref()) {
            self.line.sent_bytes += data.len() as u64;
            if let Some(begun) = &mut self.begun {
                let room = ERROR_BYTES_MAX.saturating_sub(begun.len()).min(data.len());
                begun.extend_from_slice(&data[..room]);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Some(to) = self.to.take() else { return };
        self.line.error = self.begun.as_deref().and_then(code);
        self.line.took_ms = self.artifacts.now().mono_ms.saturating_sub(self.began_ms);
        self.artifacts.0.logbook.write(to, &self.line.write());
    }
}

/// The code of an error in XML, or of a website's page.
fn code(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let between = |begin: &str, end: &str| Some(text.split_once(begin)?.1.split_once(end)?.0.to_owned());
    between("<Code>", "</Code>").or_else(|| between("<li>Code: ", "</li>"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_stand_under_their_prefix_or_in_folders_by_source_and_day() {
        let mut enabled = LoggingEnabled {
            target_bucket: "logs".into(),
            target_grants: None,
            target_object_key_format: None,
            target_prefix: "s3/".into(),
        };
        let of = |enabled: &LoggingEnabled| prefix(enabled, "000000000000", "us-east-1", "dailies", 1_795_348_801_000);
        assert_eq!(of(&enabled), "s3/");
        let partitioned = Some(PartitionedPrefix::default());
        enabled.target_object_key_format =
            Some(TargetObjectKeyFormat { partitioned_prefix: partitioned, simple_prefix: None });
        assert_eq!(of(&enabled), "s3/000000000000/us-east-1/dailies/2026/11/22/");
    }

    #[test]
    fn the_code_of_an_error_is_found_in_what_it_says() {
        assert_eq!(code(b"<?xml?><Error><Code>NoSuchKey</Code><Me"), Some("NoSuchKey".into()));
        assert_eq!(code(b"<ul><li>Code: AccessDenied</li>"), Some("AccessDenied".into()));
        assert_eq!(code(b""), None);
    }
}
