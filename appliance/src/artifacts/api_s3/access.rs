//! Who may do what over S3, and which signatures are taken.
//!
//! s3s has verified the signature when it asks here. What it does not check is checked here: that a signature was made
//! for S3, that a presigned URL lives at most seven days, and that SigV2 comes as a presigned URL or a form only.

use std::sync::Arc;

use s3s::access::{S3Access, S3AccessContext};
use s3s::{S3Error, S3ErrorCode, S3Result, s3_error};

use super::XML_BYTES_MAX;
use crate::clock::Clock;
use crate::edge::OperationCell;
use crate::identity::{Identity, Role};

/// Longest life of a presigned URL, in seconds (S3).
const PRESIGNED_MAX_S: u64 = 7 * 24 * 3600;

/// What a key may do.
pub trait Roles: Send + Sync + 'static {
    /// `None` when there is no such key any more.
    fn role(&self, access_key: &str) -> Option<Role>;
}

impl Roles for Identity {
    fn role(&self, access_key: &str) -> Option<Role> {
        Self::role(self, access_key)
    }
}

pub(super) struct Access<R> {
    roles: R,
    clock: Arc<dyn Clock>,
}

impl<R> Access<R> {
    pub(super) fn new(roles: R, clock: Arc<dyn Clock>) -> Self {
        Self { roles, clock }
    }
}

#[async_trait::async_trait]
impl<R: Roles> S3Access for Access<R> {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = context.s3_op().name().to_owned();
        if let Some(cell) = context.extensions_mut().get::<OperationCell>() {
            cell.set(&operation);
        }
        let Some(credentials) = context.credentials() else {
            return Err(s3_error!(AccessDenied, "this needs a signature"));
        };
        if reads_xml(&operation) && announced(context.headers()) > XML_BYTES_MAX as u64 {
            return Err(s3_error!(MaxMessageLengthExceeded, "Your request was too big."));
        }
        let authorization = context.headers().get("authorization").and_then(|value| value.to_str().ok());
        let query = context.uri().query().unwrap_or_default();
        check_signature(authorization, query, self.clock.now().wall_ms / 1000)?;
        let Some(role) = self.roles.role(&credentials.access_key) else {
            return Err(s3_error!(InvalidAccessKeyId, "the access key does not exist"));
        };
        context.extensions_mut().insert(role); // operations ask who may bypass a retention
        if is_read(&operation) || role.works() {
            return Ok(());
        }
        Err(S3Error::with_message(
            S3ErrorCode::AccessDenied,
            format!("the key has the role {role:?}; {operation} needs agent, operator or admin"),
        ))
    }
}

/// Operations whose body is an object's bytes are bounded elsewhere; the body of any other is read whole.
pub(super) fn reads_xml(operation: &str) -> bool {
    !matches!(operation, "PutObject" | "PostObject" | "UploadPart")
}

fn announced(headers: &http::HeaderMap) -> u64 {
    let length = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    length("content-length").max(length("x-amz-decoded-content-length"))
}

fn is_read(operation: &str) -> bool {
    ["Get", "Head", "List"].iter().any(|verb| operation.starts_with(verb))
}

fn check_signature(authorization: Option<&str>, query: &str, now_s: u64) -> S3Result<()> {
    let parameter = |name: &str| {
        query
            .split('&')
            .find_map(|pair| pair.split_once('=').filter(|(found, _)| *found == name).map(|(_, value)| value))
    };
    let scope = |scope: &str| match scope.contains("/s3/aws4_request") {
        true => Ok(()),
        false => Err(s3_error!(AuthorizationHeaderMalformed, "the signature was made for another service than s3")),
    };
    let long = || s3_error!(AuthorizationQueryParametersError, "a presigned URL lives at most 7 days");
    if let Some(credential) = parameter("X-Amz-Credential") {
        scope(&credential.replace("%2F", "/").replace("%2f", "/"))?;
        let expires = parameter("X-Amz-Expires").and_then(|seconds| seconds.parse::<u64>().ok());
        return if expires.is_some_and(|seconds| seconds <= PRESIGNED_MAX_S) { Ok(()) } else { Err(long()) };
    }
    if parameter("Signature").is_some() {
        let expires = parameter("Expires").and_then(|moment| moment.parse::<u64>().ok());
        return if expires.is_some_and(|moment| moment <= now_s.saturating_add(PRESIGNED_MAX_S)) {
            Ok(())
        } else {
            Err(long())
        };
    }
    match authorization {
        Some(header) if header.starts_with("AWS4-HMAC-SHA256") => scope(header),
        Some(_) => Err(s3_error!(
            InvalidRequest,
            "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
        )),
        None => Ok(()), // a form, whose signature is in its fields
    }
}

/// For fuzzing.
pub(super) fn fuzz_signature(text: &str) {
    let _ = check_signature(Some(text), text, 0);
    let _ = check_signature(None, text, u64::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_signatures_for_s3_that_do_not_live_too_long_are_taken() {
        let v4 = "AWS4-HMAC-SHA256 Credential=test/20261122/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0";
        let now = 1_000_000_000;
        assert!(check_signature(Some(v4), "", now).is_ok());
        assert!(check_signature(Some(&v4.replace("/s3/", "/sts/")), "", now).is_err());
        assert!(check_signature(Some("AWS test:abcdef="), "", now).is_err(), "SigV2 in a header");
        let presigned = |seconds: u64| {
            format!("X-Amz-Credential=test%2F20261122%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Expires={seconds}")
        };
        assert!(check_signature(None, &presigned(604_800), now).is_ok());
        assert!(check_signature(None, &presigned(604_801), now).is_err());
        assert!(check_signature(None, &presigned(60).replace("%2Fs3", "%2Fsts"), now).is_err());
        let second = |expires: u64| format!("AWSAccessKeyId=test&Signature=x&Expires={expires}");
        assert!(check_signature(None, &second(now + 604_800), now).is_ok());
        assert!(check_signature(None, &second(now + 604_801), now).is_err());
        assert!(check_signature(None, "AWSAccessKeyId=test&Signature=x", now).is_err());
    }

    #[test]
    fn reading_is_for_every_role_and_writing_is_not() {
        for read in ["GetObject", "HeadBucket", "ListParts", "ListObjectsV2", "GetObjectAttributes"] {
            assert!(is_read(read), "{read}");
        }
        for write in [
            "PutObject",
            "PostObject",
            "DeleteObjects",
            "CopyObject",
            "CreateMultipartUpload",
            "AbortMultipartUpload",
            "RestoreObject",
        ] {
            assert!(!is_read(write), "{write}");
        }
    }
}
