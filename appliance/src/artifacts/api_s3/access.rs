//! Who calls over S3, whether they may, and which signatures are taken.
//!
//! s3s has verified the signature when it asks here. What it does not check is checked here: that a signature was made
//! for S3, that a presigned URL lives at most seven days, and that SigV2 comes as a presigned URL or a form only. A key's
//! role bounds what it may do at all; the rest is the bucket's to say ([`crate::artifacts::access`]).
//!
//! What an operation needs beside its own object (the source of a copy, the keys of a batch, tags that a body brings) is known
//! when its input was read, and is asked for then. Forms, which are read elsewhere, ask here too.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use http::Extensions;
use s3s::access::{S3Access, S3AccessContext};
use s3s::dto::*;
use s3s::path::S3Path;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Result, s3_error};

use super::XML_BYTES_MAX;
use super::access_log::Requester;
use super::convert::error;
use super::signed_headers::check_presigned;
use super::tagging;
use crate::artifacts::Artifacts;
use crate::artifacts::access::{Action, Ask, Caller, Facts, Holder, Named, On, Permissions, parameter};
use crate::clock::Clock;
use crate::edge::{OperationCell, Peer};
use crate::identity::{Account, Identity, Role};

/// Longest life of a presigned URL, in seconds (S3).
const PRESIGNED_MAX_S: u64 = 7 * 24 * 3600;

/// Whose keys there are.
pub trait Keys: Send + Sync + 'static {
    /// `None` when there is no such key any more.
    fn holder(&self, access_key: &str) -> Option<(Role, Account)>;

    /// The account with this canonical id, if somebody has a key of it.
    fn account(&self, canonical_id: &str) -> Option<Account>;
}

impl Keys for Identity {
    fn holder(&self, access_key: &str) -> Option<(Role, Account)> {
        Self::holder(self, access_key)
    }

    fn account(&self, canonical_id: &str) -> Option<Account> {
        self.account_of(canonical_id)
    }
}

/// Who calls, as operations find it in a request's extensions.
#[derive(Clone)]
pub(super) struct Asking {
    pub(super) caller: Caller,
    pub(super) keys: Arc<dyn Keys>,
    pub(super) address: Option<IpAddr>,
    pub(super) now_ms: u64,
}

impl Asking {
    /// # Errors
    /// When no check has put it there, which is a fault of ours.
    pub(super) fn of(extensions: &Extensions) -> S3Result<&Self> {
        extensions.get().ok_or_else(|| s3_error!(InternalError, "nobody knows who calls"))
    }

    pub(super) fn facts<'a>(&'a self, headers: &'a http::HeaderMap, query: &'a str) -> Facts<'a> {
        Facts { headers, query, caller: &self.caller, address: self.address, now_ms: self.now_ms }
    }

    /// Who is the owner of what the caller makes.
    pub(super) fn account(&self) -> Account {
        self.caller.account().cloned().unwrap_or_default()
    }
}

fn facts_of<T>(request: &S3Request<T>) -> S3Result<Facts<'_>> {
    let query = request.uri.query().unwrap_or_default();
    Ok(Asking::of(&request.extensions)?.facts(&request.headers, query))
}

/// Keys of a batch that the caller may not delete, with their versions.
#[derive(Clone, Default)]
pub(super) struct Refused(HashSet<(String, Option<String>)>);

impl Refused {
    pub(super) fn has(&self, object: &ObjectIdentifier) -> bool {
        !self.0.is_empty() && self.0.contains(&(object.key.clone(), object.version_id.clone()))
    }
}

#[derive(Clone)]
pub(super) struct Access {
    artifacts: Artifacts,
    keys: Arc<dyn Keys>,
    clock: Arc<dyn Clock>,
}

impl Access {
    pub(super) fn new(artifacts: Artifacts, keys: impl Keys) -> Self {
        let clock = artifacts.0.clock.clone();
        Self { artifacts, keys: Arc::new(keys), clock }
    }

    /// Who calls, by the key whose signature was verified. Others find it in `extensions` from here on.
    ///
    /// # Errors
    /// The key is no more, or its role does not go as far as `operation`.
    pub(super) fn admit(&self, operation: &str, key_id: Option<&str>, extensions: &mut Extensions) -> S3Result<Asking> {
        let address = extensions.get::<Peer>().map(|peer| peer.0.ip());
        let now_ms = self.clock.now().wall_ms;
        let mut caller = Caller::default();
        if let Some(key_id) = key_id {
            let Some((role, account)) = self.keys.holder(key_id) else {
                return Err(s3_error!(InvalidAccessKeyId, "the access key does not exist"));
            };
            if !is_read(operation) && !role.works() {
                let text = format!("the key has the role {role:?}; {operation} needs agent, operator or admin");
                return Err(S3Error::with_message(S3ErrorCode::AccessDenied, text));
            }
            caller.holder = Some(Holder { key_id: key_id.to_owned(), role, account });
            extensions.insert(role); // operations ask who may bypass a retention
        }
        if let Some(requester) = extensions.get::<Requester>() {
            requester.set(caller.arn());
        }
        let asking = Asking { caller, keys: Arc::clone(&self.keys), address, now_ms };
        extensions.insert(asking.clone());
        Ok(asking)
    }

    /// Asks for `action` on `bucket` and perhaps `key`.
    pub(super) fn permit(
        &self,
        facts: &Facts<'_>,
        action: Action,
        bucket: &str,
        key: Option<&str>,
        version: Option<&str>,
    ) -> S3Result<()> {
        let action = if version.is_some() { action.of_version() } else { action };
        let object = Named { artifacts: &self.artifacts, bucket, key, version };
        let values = |name: &str| facts.values(name, &object);
        let ask = Ask { caller: facts.caller, action, bucket, key, version, values: &values };
        self.artifacts.permit(&ask).map_err(error)
    }

    /// Refuses a caller who means the bucket of somebody else.
    pub(super) fn check_owner(&self, facts: &Facts<'_>, bucket: &str) -> S3Result<()> {
        let expected = facts.header("x-amz-expected-bucket-owner");
        let is_other = |expected| self.artifacts.access_of(bucket).is_ok_and(|rules| rules.owner.number() != expected);
        if expected.is_some_and(is_other) {
            return Err(s3_error!(AccessDenied, "the bucket has another owner"));
        }
        Ok(())
    }

    /// What a write asks for beside writing: lists, tags and locks that its headers set.
    pub(super) fn permit_also(&self, facts: &Facts<'_>, bucket: &str, key: &str) -> S3Result<()> {
        const ALSO: [(&str, &str); 5] = [
            ("x-amz-acl", "s3:PutObjectAcl"),
            ("x-amz-grant-", "s3:PutObjectAcl"),
            ("x-amz-tagging", "s3:PutObjectTagging"),
            ("x-amz-object-lock-mode", "s3:PutObjectRetention"),
            ("x-amz-object-lock-legal-hold", "s3:PutObjectLegalHold"),
        ];
        for (header, name) in ALSO {
            if facts.has_header(header) {
                let action = Action { name, on: On::ObjectOfBucket(Permissions::WRITE) };
                self.permit(facts, action, bucket, Some(key), None)?;
            }
        }
        Ok(())
    }

    fn permit_source<T>(&self, request: &S3Request<T>, source: &CopySource) -> S3Result<()> {
        let CopySource::Bucket { bucket, key, version_id } = source else { return Ok(()) };
        let facts = facts_of(request)?;
        let get = Action { name: "s3:GetObject", on: On::Object(Some(Permissions::READ)) };
        self.permit(&facts, get, bucket, Some(key), version_id.as_deref())
    }
}

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = context.s3_op().name().to_owned();
        if let Some(cell) = context.extensions_mut().get::<OperationCell>() {
            cell.set(&operation);
        }
        if reads_xml(&operation) && announced(context.headers()) > XML_BYTES_MAX as u64 {
            return Err(s3_error!(MaxMessageLengthExceeded, "Your request was too big."));
        }
        let authorization = context.headers().get("authorization").and_then(|value| value.to_str().ok());
        let query = context.uri().query().unwrap_or_default().to_owned();
        check_signature(authorization, &query, self.clock.now().wall_ms / 1000)?;
        check_presigned(context.headers(), &query)?;
        let key_id = context.credentials().map(|credentials| credentials.access_key.clone());
        let asking = self.admit(&operation, key_id.as_deref(), context.extensions_mut())?;
        let (bucket, key) = match context.s3_path() {
            S3Path::Root => (None, None),
            S3Path::Bucket { bucket } => (Some(&**bucket), None),
            S3Path::Object { bucket, key } => (Some(&**bucket), Some(&**key)),
        };
        let Some(bucket) = bucket.filter(|_| operation != "CreateBucket") else {
            let anonymous = asking.caller.holder.is_none();
            return if anonymous { Err(s3_error!(AccessDenied, "Access Denied")) } else { Ok(()) };
        };
        let facts = asking.facts(context.headers(), &query);
        self.check_owner(&facts, bucket)?;
        if matches!(operation.as_str(), "DeleteObjects" | "PutObjectTagging") {
            return Ok(()); // each key for itself, and the tags with their object, when the body is known
        }
        let action = Action::of(&operation).unwrap_or(Action { name: "s3:*", on: On::Bucket(None) });
        let version = parameter(&query, "versionId");
        self.permit(&facts, action, bucket, key, version.as_deref())?;
        match key {
            Some(key) if action.name == "s3:PutObject" => self.permit_also(&facts, bucket, key),
            Some(key) if facts.header("x-amz-bypass-governance-retention").is_some_and(|bypass| bypass == "true") => {
                let bypass = Action { name: "s3:BypassGovernanceRetention", on: On::Object(None) };
                self.permit(&facts, bypass, bucket, Some(key), None)
            }
            _ => Ok(()),
        }
    }

    async fn copy_object(&self, request: &mut S3Request<CopyObjectInput>) -> S3Result<()> {
        self.permit_source(request, &request.input.copy_source)
    }

    async fn upload_part_copy(&self, request: &mut S3Request<UploadPartCopyInput>) -> S3Result<()> {
        self.permit_source(request, &request.input.copy_source)
    }

    async fn put_object_tagging(&self, request: &mut S3Request<PutObjectTaggingInput>) -> S3Result<()> {
        let input = &request.input;
        // As a put would bring them, for conditions about them.
        let mut headers = request.headers.clone();
        let tags = http::HeaderValue::try_from(tagging::as_header(&input.tagging));
        headers.insert("x-amz-tagging", tags.map_err(|_| s3_error!(MalformedXML, "tags are text"))?);
        let facts = Asking::of(&request.extensions)?.facts(&headers, request.uri.query().unwrap_or_default());
        let action = Action { name: "s3:PutObjectTagging", on: On::Object(None) };
        self.permit(&facts, action, &input.bucket, Some(&input.key), input.version_id.as_deref())
    }

    async fn delete_objects(&self, request: &mut S3Request<DeleteObjectsInput>) -> S3Result<()> {
        let delete = Action { name: "s3:DeleteObject", on: On::ObjectOfBucket(Permissions::WRITE) };
        let facts = facts_of(request)?;
        let refused = |object: &&ObjectIdentifier| {
            let version = object.version_id.as_deref();
            self.permit(&facts, delete, &request.input.bucket, Some(&object.key), version).is_err()
        };
        let named = request.input.delete.objects.iter().filter(refused);
        let refused = Refused(named.map(|object| (object.key.clone(), object.version_id.clone())).collect());
        request.extensions.insert(refused);
        Ok(())
    }
}

/// Operations whose body is an object's bytes are bounded elsewhere; the body of any other is read whole.
pub(super) fn reads_xml(operation: &str) -> bool {
    !matches!(operation, "PutObject" | "UploadPart")
}

fn announced(headers: &http::HeaderMap) -> u64 {
    let length = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    length("content-length").max(length("x-amz-decoded-content-length"))
}

fn is_read(operation: &str) -> bool {
    ["Get", "Head", "List"].iter().any(|verb| operation.starts_with(verb))
}

pub(in crate::artifacts) fn check_signature(authorization: Option<&str>, query: &str, now_s: u64) -> S3Result<()> {
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
        None => Ok(()),
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
