//! Between the store's words and S3's.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD as BASE64_URL};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::{ChecksumType, ETag as S3ETag, EncodingType, Owner, StreamingBlob, Timestamp};
use s3s::{S3Error, S3ErrorCode, S3Result, TrailingHeaders, s3_error};
use uuid::Uuid;

use crate::artifacts::checksums::{Algorithm, Checksum, Digest, parse_value};
use crate::artifacts::conditions::{ReadConditions, Tags, WriteConditions};
use crate::artifacts::error::ArtifactError;
use crate::artifacts::model::{ContentHeaders, Description, ETag, ObjectRow, RangeAsked};
use crate::artifacts::{Artifacts, VersionName, Versioning};
use crate::identity::Account;

/// Headers that ask for what is not done here, and values of them that ask for nothing.
const UNSERVED: &[(&str, &[&str])] = &[("x-amz-server-side-encryption-context", &[]), ("x-amz-mfa", &[])];

/// Refuses a request whose headers ask for something that would silently not be done.
pub(super) fn refuse_unserved(headers: &HeaderMap) -> S3Result<()> {
    for (name, harmless) in UNSERVED {
        if headers.get(*name).is_some_and(|value| !harmless.iter().any(|harmless| value == harmless)) {
            return Err(s3_error!(NotImplemented, "{name} is not served"));
        }
    }
    if headers.get("x-amz-storage-class").is_some_and(|class| class != "STANDARD") {
        return Err(s3_error!(InvalidStorageClass, "The storage class you specified is not valid: this is STANDARD"));
    }
    Ok(())
}

pub(super) fn error(error: ArtifactError) -> S3Error {
    use ArtifactError as E;
    let text = error.to_string();
    let code = match &error {
        E::NoSuchBucket(_) => S3ErrorCode::NoSuchBucket,
        E::NoSuchKey { .. } => S3ErrorCode::NoSuchKey,
        E::NoSuchUpload => S3ErrorCode::NoSuchUpload,
        E::NoSuchVersion(_) => S3ErrorCode::NoSuchVersion,
        E::Deleted { version, .. } => return of_marker(S3ErrorCode::NoSuchKey, text, *version, None),
        E::IsMarker { version, modified_ms } => {
            return of_marker(S3ErrorCode::MethodNotAllowed, text, *version, Some(*modified_ms));
        }
        E::Locked(_) => S3ErrorCode::AccessDenied,
        E::InvalidTag(_) => S3ErrorCode::InvalidTag,
        E::InvalidBucketState(_) => S3ErrorCode::InvalidBucketState,
        E::BucketExists(_) => S3ErrorCode::BucketAlreadyOwnedByYou,
        E::BucketNotEmpty(_) => S3ErrorCode::BucketNotEmpty,
        E::TooManyBuckets => S3ErrorCode::TooManyBuckets,
        E::InvalidBucketName(_) => S3ErrorCode::InvalidBucketName,
        E::InvalidArgument(_) => S3ErrorCode::InvalidArgument,
        E::InvalidRequest(_) => S3ErrorCode::InvalidRequest,
        E::KeyTooLong => S3ErrorCode::KeyTooLongError,
        E::MetadataTooLarge => S3ErrorCode::MetadataTooLarge,
        E::EntityTooLarge { .. } => S3ErrorCode::EntityTooLarge,
        E::EntityTooSmall { .. } => S3ErrorCode::EntityTooSmall,
        E::InvalidPart(_) => S3ErrorCode::InvalidPart,
        E::InvalidPartOrder => S3ErrorCode::InvalidPartOrder,
        E::InvalidRange { .. } => S3ErrorCode::InvalidRange,
        E::QuotaExceeded { .. } => return custom("QuotaExceeded", http::StatusCode::FORBIDDEN, text),
        E::AccessDenied => S3ErrorCode::AccessDenied,
        E::PreconditionFailed(_) => S3ErrorCode::PreconditionFailed,
        E::NotModified => S3ErrorCode::NotModified,
        E::BadDigest(_) => S3ErrorCode::BadDigest,
        E::IncompleteBody => S3ErrorCode::IncompleteBody,
        E::Body(_) => return body_error(&text),
        E::ColdAway(_) => return later("ServiceUnavailable", text),
        E::ColdBusy => return later("SlowDown", text),
        E::ReadOnly => return custom("ServiceUnavailable", http::StatusCode::SERVICE_UNAVAILABLE, text),
        E::Full => return custom("InsufficientStorage", http::StatusCode::INSUFFICIENT_STORAGE, text),
        E::Damaged { .. } => S3ErrorCode::InternalError,
        E::Io { .. } | E::Fault { .. } | E::Control(_) => {
            // The cause is for the log; the caller learns only that there was one.
            tracing::error!(%error, "S3 call failed");
            return s3_error!(InternalError, "the appliance could not do this; its log says why");
        }
    };
    S3Error::with_message(code, text)
}

/// An error whose headers say that a delete marker is why.
fn of_marker(code: S3ErrorCode, text: String, version: VersionName, modified_ms: Option<u64>) -> S3Error {
    let mut error = S3Error::with_message(code, text);
    let mut headers = HeaderMap::new();
    headers.insert("x-amz-delete-marker", http::HeaderValue::from_static("true"));
    if let Ok(version) = version.to_string().parse() {
        headers.insert("x-amz-version-id", version);
    }
    if let Some(Ok(date)) = expires(modified_ms.map(timestamp)).map(|date| date.parse()) {
        headers.insert(http::header::LAST_MODIFIED, date);
        headers.insert(http::header::ALLOW, http::HeaderValue::from_static("DELETE"));
    }
    error.set_headers(headers);
    error
}

pub(in crate::artifacts) fn custom(code: &'static str, status: http::StatusCode, message: String) -> S3Error {
    let code = S3ErrorCode::from_bytes(code.as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    let mut error = S3Error::with_message(code, message);
    error.set_status_code(status);
    error
}

/// What passes: a 503 that says when to come again.
fn later(code: &'static str, message: String) -> S3Error {
    let mut error = custom(code, http::StatusCode::SERVICE_UNAVAILABLE, message);
    let mut headers = HeaderMap::new();
    headers.insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("5"));
    error.set_headers(headers);
    error
}

/// s3s keeps the types of its body errors to itself; their texts tell them apart.
pub(in crate::artifacts) fn body_error(text: &str) -> S3Error {
    if text.contains("Sha256Mismatch") {
        return other_bytes_than_signed();
    }
    if text.contains("SignatureMismatch") {
        return s3_error!(SignatureDoesNotMatch, "the signature of a chunk does not match");
    }
    if text.contains("timeout") || text.contains("timed out") {
        return s3_error!(RequestTimeout, "the body came too slowly");
    }
    if text.contains(super::chunks::TOO_LARGE) {
        return s3_error!(
            InvalidRequest,
            "a signed chunk has at most 16 MiB: none of it is taken before all of it is checked"
        );
    }
    if text.contains("FormatError") || text.contains("TooLarge") || text.contains("TooMany") {
        return s3_error!(InvalidRequest, "the body is not well-formed aws-chunked");
    }
    s3_error!(IncompleteBody, "the body ended before its announced length, or a form before its last boundary")
}

pub(super) fn other_bytes_than_signed() -> S3Error {
    let message = "x-amz-content-sha256 does not match the bytes received";
    custom("XAmzContentSHA256Mismatch", http::StatusCode::BAD_REQUEST, message.into())
}

pub(super) fn etag(etag: &ETag) -> S3ETag {
    S3ETag::Strong(etag.to_string())
}

pub(super) fn timestamp(unix_ms: u64) -> Timestamp {
    let moment = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000);
    Timestamp::from(moment.unwrap_or(time::OffsetDateTime::UNIX_EPOCH))
}

pub(super) fn seconds(timestamp: Option<Timestamp>) -> Option<i64> {
    timestamp.map(|timestamp| time::OffsetDateTime::from(timestamp).unix_timestamp())
}

pub(super) fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

pub(super) fn owner(account: &Account) -> Owner {
    Owner { display_name: Some(account.name().to_owned()), id: Some(account.canonical_id()) }
}

/// The owner of a bucket and of all its objects.
pub(super) fn owner_of(artifacts: &Artifacts, bucket: &str) -> Owner {
    owner(&artifacts.bucket(bucket).map(|bucket| bucket.owner).unwrap_or_default())
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

pub(super) fn write_conditions(headers: &HeaderMap) -> WriteConditions {
    WriteConditions {
        if_match: text(headers, "if-match").map(Tags::parse),
        if_none_match: text(headers, "if-none-match").map(Tags::parse),
        ..WriteConditions::default()
    }
}

/// Conditions of a read; `prefix` is empty, or `x-amz-copy-source-` for those of a copy's source.
pub(super) fn read_conditions(
    headers: &HeaderMap,
    prefix: &str,
    modified_since: Option<Timestamp>,
    unmodified_since: Option<Timestamp>,
) -> ReadConditions {
    ReadConditions {
        if_match: text(headers, &format!("{prefix}if-match")).map(Tags::parse),
        if_none_match: text(headers, &format!("{prefix}if-none-match")).map(Tags::parse),
        if_modified_since_s: seconds(modified_since),
        if_unmodified_since_s: seconds(unmodified_since),
    }
}

pub(super) fn range(range: s3s::dto::Range) -> RangeAsked {
    match range {
        s3s::dto::Range::Int { first, last } => RangeAsked::From { first, last },
        s3s::dto::Range::Suffix { length } => RangeAsked::Last(length),
    }
}

/// Content headers and user metadata of a put, copy or upload.
pub(super) fn description(
    headers: ContentHeaders,
    metadata: Option<std::collections::HashMap<String, String>>,
) -> Description {
    let mut metadata: Vec<_> = metadata.unwrap_or_default().into_iter().collect();
    metadata.sort_unstable();
    Description { headers, metadata, acl: None }
}

/// `aws-chunked` is how the body travelled, not what it is.
pub(super) fn content_encoding(header: Option<String>) -> Option<String> {
    let header = header?;
    let kept: Vec<_> = header.split(',').map(str::trim).filter(|coding| *coding != "aws-chunked").collect();
    (!kept.is_empty()).then(|| kept.join(", "))
}

pub(super) fn expires(expires: Option<Timestamp>) -> Option<String> {
    let mut text = Vec::new();
    expires?.format(s3s::dto::TimestampFormat::HttpDate, &mut text).ok()?;
    String::from_utf8(text).ok()
}

/// Where a website sends who asks for an object.
pub(super) fn redirect(to: Option<String>) -> S3Result<Option<String>> {
    let Some(to) = to.filter(|to| !to.is_empty()) else { return Ok(None) };
    let is_place = ["/", "http://", "https://"].iter().any(|begin| to.starts_with(begin));
    if is_place && to.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(Some(to));
    }
    let text = "The website redirect location must begin with 'http://', 'https://' or '/', and have no spaces";
    Err(custom("InvalidRedirectLocation", http::StatusCode::BAD_REQUEST, text.into()))
}

pub(super) fn parse_expires(text: Option<&str>) -> Option<Timestamp> {
    Timestamp::parse(s3s::dto::TimestampFormat::HttpDate, text?).ok()
}

pub(super) fn content_md5(header: Option<String>) -> S3Result<Option<Digest>> {
    let Some(header) = header else { return Ok(None) };
    match BASE64.decode(header.trim()) {
        Ok(bytes) if bytes.len() == 16 => Ok(Some(Digest(bytes))),
        _ => Err(s3_error!(InvalidDigest, "Content-MD5 is not the base64 of 16 bytes")),
    }
}

/// The checksum among the five that a request names, as its header's text.
pub(super) fn sent_checksum(values: [Option<String>; 5]) -> S3Result<Option<(Algorithm, String)>> {
    let mut sent = Algorithm::ALL.into_iter().zip(values).filter_map(|(algorithm, text)| Some((algorithm, text?)));
    let first = sent.next();
    if sent.next().is_some() {
        return Err(s3_error!(InvalidRequest, "Expecting a single x-amz-checksum- header"));
    }
    Ok(first)
}

/// What is to be computed of a body, and how its value is learnt.
pub(super) struct BodyChecksum {
    pub(super) algorithm: Option<Algorithm>,
    sent: Option<(Algorithm, Digest)>,
    trailer: Option<Algorithm>,
}

impl BodyChecksum {
    pub(super) fn read(headers: &HeaderMap, values: [Option<String>; 5]) -> S3Result<Self> {
        let sent = match sent_checksum(values)? {
            Some((algorithm, text)) => Some((algorithm, checksum_value(algorithm, &text)?)),
            None => None,
        };
        let trailer = text(headers, "x-amz-trailer").and_then(|names| {
            let named = |algorithm: &Algorithm| names.split(',').any(|name| name.trim() == algorithm.header());
            Algorithm::ALL.into_iter().find(named)
        });
        let asked = match text(headers, "x-amz-sdk-checksum-algorithm") {
            Some(name) => Some(algorithm(name)?),
            None => None,
        };
        let named = sent.as_ref().map(|(algorithm, _)| *algorithm).or(trailer);
        if asked.is_some_and(|asked| named.is_some_and(|named| named != asked)) {
            return Err(s3_error!(InvalidRequest, "x-amz-sdk-checksum-algorithm names another algorithm"));
        }
        Ok(Self { algorithm: named.or(asked), sent, trailer })
    }

    /// The value that the body must have; trailers are known when it has been read.
    pub(super) fn expected(self, trailers: Option<&TrailingHeaders>) -> S3Result<Option<(Algorithm, Digest)>> {
        let Some(algorithm) = self.trailer else { return Ok(self.sent) };
        let trailers = trailers.and_then(TrailingHeaders::take).unwrap_or_default();
        match text(&trailers, algorithm.header()) {
            Some(value) => Ok(Some((algorithm, checksum_value(algorithm, value)?))),
            None => Err(s3_error!(InvalidRequest, "the trailer {} did not come", algorithm.header())),
        }
    }
}

pub(super) fn algorithm(name: &str) -> S3Result<Algorithm> {
    Algorithm::parse(name).ok_or_else(|| s3_error!(InvalidRequest, "`{name}` is no checksum algorithm"))
}

fn checksum_value(algorithm: Algorithm, text: &str) -> S3Result<Digest> {
    parse_value(algorithm, text)
        .ok_or_else(|| s3_error!(BadDigest, "Value for {} header is invalid.", algorithm.header()))
}

pub(super) fn checksum_type(checksum: &Checksum) -> ChecksumType {
    ChecksumType::from_static(if checksum.parts > 0 { ChecksumType::COMPOSITE } else { ChecksumType::FULL_OBJECT })
}

/// Sets the one of an output's five checksum fields that `checksum` belongs to.
macro_rules! set_checksum {
    ($output:expr, $checksum:expr) => {{
        let checksum: &$crate::artifacts::checksums::Checksum = $checksum;
        let text = Some(checksum.text());
        match checksum.algorithm {
            $crate::artifacts::checksums::Algorithm::Crc32 => $output.checksum_crc32 = text,
            $crate::artifacts::checksums::Algorithm::Crc32c => $output.checksum_crc32c = text,
            $crate::artifacts::checksums::Algorithm::Crc64Nvme => $output.checksum_crc64nvme = text,
            $crate::artifacts::checksums::Algorithm::Sha1 => $output.checksum_sha1 = text,
            $crate::artifacts::checksums::Algorithm::Sha256 => $output.checksum_sha256 = text,
        }
    }};
}
pub(super) use set_checksum;

/// The five checksum fields of an input, in the order of [`Algorithm::ALL`].
macro_rules! checksum_fields {
    ($input:expr) => {
        [
            $input.checksum_crc32.take(),
            $input.checksum_crc32c.take(),
            $input.checksum_crc64nvme.take(),
            $input.checksum_sha1.take(),
            $input.checksum_sha256.take(),
        ]
    };
}
pub(super) use checksum_fields;

/// A request's body as the store takes it.
pub(super) fn body(body: Option<StreamingBlob>) -> impl Stream<Item = Result<Bytes, ArtifactError>> + Send + Unpin {
    let body = futures::stream::iter(body).flatten();
    body.map(|bytes| bytes.map_err(|error| ArtifactError::Body(error.to_string())))
}

pub(super) fn upload_id(id: Uuid) -> String {
    id.simple().to_string()
}

pub(super) fn parse_upload_id(text: &str) -> S3Result<Uuid> {
    // Only as we write them: 32 hex digits.
    let id = (text.len() == 32).then(|| Uuid::parse_str(text).ok()).flatten();
    id.ok_or_else(|| s3_error!(NoSuchUpload, "the upload does not exist; it may have been completed or aborted"))
}

/// The version that a request names, if it names one.
pub(super) fn version(version: Option<&str>) -> S3Result<Option<VersionName>> {
    match version {
        None | Some("") => Ok(None),
        Some(text) => match VersionName::parse(text) {
            Some(name) => Ok(Some(name)),
            None => Err(s3_error!(InvalidArgument, "Invalid version id specified")),
        },
    }
}

/// `x-amz-expiration`: when an object expires, and the rule that says so.
pub(super) fn expiration(expiry: Option<(u64, String)>) -> Option<String> {
    let (due_ms, rule) = expiry?;
    let (date, rule) = (expires(Some(timestamp(due_ms)))?, utf8_percent_encode(&rule, PLAIN));
    Some(format!("expiry-date=\"{date}\", rule-id=\"{rule}\""))
}

/// The id that goes with an object's answer, where its bucket keeps versions or has kept them.
pub(super) fn told_version(artifacts: &Artifacts, bucket: &str, row: &ObjectRow) -> Option<String> {
    let keeps = artifacts.versioning(bucket).is_ok_and(|versioning| versioning != Versioning::Never);
    keeps.then(|| row.name().to_string())
}

pub(super) fn token(key: &str) -> String {
    BASE64_URL.encode(key)
}

pub(super) fn parse_token(token: &str) -> S3Result<String> {
    let key = BASE64_URL.decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    key.ok_or_else(|| s3_error!(InvalidArgument, "The continuation token provided is incorrect"))
}

/// What `encoding-type=url` leaves as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// A key as the path of a URL.
pub(super) fn plain_path(key: &str) -> String {
    utf8_percent_encode(key, PLAIN).to_string()
}

/// How names are written into a listing.
pub(super) struct Names {
    url: bool,
}

impl Names {
    pub(super) fn read(encoding: Option<&EncodingType>) -> S3Result<Self> {
        match encoding.map(EncodingType::as_str) {
            None => Ok(Self { url: false }),
            Some(EncodingType::URL) => Ok(Self { url: true }),
            Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
        }
    }

    pub(super) fn write(&self, name: &str) -> String {
        if self.url { Cow::from(utf8_percent_encode(name, PLAIN)).into_owned() } else { name.to_owned() }
    }

    pub(super) fn maybe(&self, name: Option<&String>) -> Option<String> {
        name.map(|name| self.write(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_that_asks_for_what_is_not_done_is_refused_unless_it_asks_for_nothing() {
        let check = |name: &'static str, value: &'static str| {
            refuse_unserved(&HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())]))
        };
        assert!(check("x-amz-server-side-encryption-context", "e30=").is_err());
        assert!(check("x-amz-storage-class", "STANDARD").is_ok());
        assert_eq!(*check("x-amz-storage-class", "GLACIER").unwrap_err().code(), S3ErrorCode::InvalidStorageClass);
        assert!(check("x-amz-meta-anything", "x").is_ok());
    }

    #[test]
    fn a_redirect_leads_to_a_path_or_an_address_and_to_nothing_else() {
        let read = |to: &str| redirect(Some(to.into()));
        assert_eq!(read("").unwrap(), None);
        for good in ["/a/b?c", "http://x.example/", "https://x.example"] {
            assert_eq!(read(good).unwrap().as_deref(), Some(good));
        }
        for bad in ["a/b", "javascript:alert(1)", "/a b", "/a\r\nset-cookie: x", "ftp://x"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_coding_of_the_journey_is_not_kept() {
        let coding = |text: &str| content_encoding(Some(text.into()));
        assert_eq!(coding("aws-chunked"), None);
        assert_eq!(coding("gzip,aws-chunked"), Some("gzip".into()));
        assert_eq!(coding("aws-chunked, br"), Some("br".into()));
        assert_eq!(content_encoding(None), None);
    }

    #[test]
    fn tokens_and_upload_ids_are_read_back_and_nothing_else_is() {
        assert_eq!(parse_token(&token("a/\0é")).unwrap(), "a/\0é");
        assert!(parse_token("%%%").is_err());
        let id = Uuid::from_u128(u128::MAX / 3);
        assert_eq!(parse_upload_id(&upload_id(id)).unwrap(), id);
        for bad in ["", "../../etc/passwd", "{00000000-0000-0000-0000-000000000000}", "x"] {
            assert!(parse_upload_id(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_written_for_xml_that_cannot_hold_them() {
        let url = EncodingType::from_static(EncodingType::URL);
        assert_eq!(Names::read(Some(&url)).unwrap().write("a b/\u{1}+é"), "a%20b/%01%2B%C3%A9");
        assert_eq!(Names::read(None).unwrap().write("a b"), "a b");
        assert!(Names::read(Some(&EncodingType::from_static("xml"))).is_err());
    }
}
