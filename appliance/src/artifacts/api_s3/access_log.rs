//! The server access log: a record in log search for each request to a bucket that asks for it.
//!
//! The records are the appliance's own log records, target `backlot::s3_access`, found like all others and kept as long. They are made
//! when the answer begins, as well as the export of logs goes: one may be missing, as S3 says of its own. A target bucket is kept
//! with the configuration and gets no objects.

use std::sync::{Arc, OnceLock};

use http::header;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::convert::{self, error};
use super::stored;
use crate::artifacts::Artifacts;
use crate::artifacts::documents::DocumentKind;
use crate::edge::{OperationCell, Peer, Request, Response};

/// Longest text of a caller in a record, in bytes.
const TEXT_BYTES_MAX: usize = 1024;

pub(super) async fn put(
    artifacts: &Artifacts,
    request: S3Request<PutBucketLoggingInput>,
) -> S3Result<S3Response<PutBucketLoggingOutput>> {
    let (bucket, status) = (request.input.bucket, request.input.bucket_logging_status);
    artifacts.bucket(&bucket).map_err(error)?;
    match &status.logging_enabled {
        None => stored::forget(artifacts, &bucket, DocumentKind::Logging).await?,
        Some(enabled) => {
            if enabled.target_grants.as_ref().is_some_and(|grants| !grants.is_empty()) {
                return Err(s3_error!(NotImplemented, "records go to log search; TargetGrants have no meaning there"));
            }
            if artifacts.bucket(&enabled.target_bucket).is_err() {
                let text = "The target bucket for logging does not exist";
                let status = http::StatusCode::BAD_REQUEST;
                return Err(convert::custom("InvalidTargetBucketForLogging", status, text.into()));
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
}

/// A request to a bucket that is logged.
pub(super) struct Logged {
    bucket: String,
    method: http::Method,
    path: String,
    agent: String,
    address: String,
    operation: OperationCell,
    requester: Requester,
    began_ms: u64,
}

impl Logged {
    /// `None` where the bucket is not logged.
    pub(super) fn of(artifacts: &Artifacts, bucket: Option<&str>, request: &mut Request) -> Option<Self> {
        let bucket = bucket?;
        artifacts.document(bucket, DocumentKind::Logging).ok()??;
        let text = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-");
        let requester = Requester::default();
        let logged = Self {
            bucket: bucket.to_owned(),
            method: request.method().clone(),
            // Not the query: a presigned URL's signature is in it.
            path: cut(request.uri().path()),
            agent: cut(text(header::USER_AGENT)),
            address: request.extensions().get::<Peer>().map_or_else(|| "-".to_owned(), |peer| peer.0.ip().to_string()),
            operation: request.extensions().get::<OperationCell>().cloned().unwrap_or_default(),
            requester: requester.clone(),
            began_ms: artifacts.now().mono_ms,
        };
        request.extensions_mut().insert(requester);
        Some(logged)
    }

    pub(super) fn answered(&self, artifacts: &Artifacts, response: &Response) {
        let length = response.headers().get(header::CONTENT_LENGTH);
        let bytes = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
        tracing::info!(
            target: "backlot::s3_access",
            bucket = self.bucket,
            operation = self.operation.get(),
            method = self.method.as_str(),
            path = self.path,
            status = response.status().as_u16(),
            bytes,
            took_ms = artifacts.now().mono_ms.saturating_sub(self.began_ms),
            requester = self.requester.0.get().map_or("-", String::as_str),
            address = self.address,
            user_agent = self.agent,
            "{} {} {}",
            self.method,
            self.path,
            response.status().as_u16()
        );
    }
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_BYTES_MAX / 4).collect()
}
