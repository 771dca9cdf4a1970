//! Artifacts on the http door: objects for browsers and players, listings for the dashboard and the command line.
//!
//! What somebody uploaded must not run in the dashboard's origin: every object comes with `nosniff` and a sandboxing
//! policy, keeps its content type only when that is on a short list, and is a download otherwise. Reading
//! needs any key; nothing is written here.

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::Artifacts;
use super::access::Reader;
use super::byteranges::ByteRanges;
use super::conditions::{ReadConditions, Tags};
use super::engine::{Got, Wanted};
use super::error::ArtifactError;
use super::listing;
use super::model::{ObjectRow, RangeAsked};
use crate::edge::{ApiError, Response};
use backlot_wire::Timestamp;

/// Entries of one listing, unless fewer are asked for.
const LIMIT: usize = 1000;

/// Types that browsers show and that cannot run anything.
const SHOWN: &[&str] = &[
    "image/png",
    "image/jpeg",
    "image/webp",
    "image/gif",
    "image/avif",
    "video/mp4",
    "video/webm",
    "video/quicktime",
    "video/x-matroska",
    "audio/mpeg",
    "audio/mp4",
    "audio/ogg",
    "audio/wav",
    "audio/flac",
    "text/plain",
    "application/json",
];

/// Routes of the http door.
pub fn routes(artifacts: Artifacts) -> Router {
    Router::new()
        .route("/v1/artifacts", get(buckets))
        .route("/v1/artifacts/{bucket}", get(objects))
        .route("/v1/artifacts/{bucket}/{*key}", get(object))
        .with_state(artifacts)
}

/// A bucket, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct BucketJson {
    pub name: String,
    pub created: Timestamp,
    /// What is current. Nobody counts what lies in another S3.
    pub objects: Option<u64>,
    pub bytes: Option<u64>,
    /// Versions behind that.
    #[serde(default)]
    pub noncurrent: u64,
    #[serde(default)]
    pub noncurrent_bytes: u64,
    #[serde(default)]
    pub markers: u64,
    /// How much of all that is in the cold tier.
    #[serde(default)]
    pub cold: u64,
    #[serde(default)]
    pub cold_bytes: u64,
}

impl BucketJson {
    /// One that lies in another S3.
    #[must_use]
    pub fn uncounted(name: String, created: Timestamp) -> Self {
        let (noncurrent, noncurrent_bytes, markers, cold, cold_bytes) = Default::default();
        Self { name, created, objects: None, bytes: None, noncurrent, noncurrent_bytes, markers, cold, cold_bytes }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct BucketsJson {
    pub buckets: Vec<BucketJson>,
}

/// An object, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct ObjectJson {
    pub key: String,
    pub uri: String,
    pub size: u64,
    pub etag: String,
    pub modified: Timestamp,
    pub content_type: Option<String>,
    /// `STANDARD`, or the class under which it is in the cold tier.
    #[serde(default)]
    pub storage_class: String,
    /// User metadata, `x-amz-meta-…` without the prefix.
    pub metadata: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ObjectsJson {
    pub bucket: String,
    pub prefix: String,
    pub objects: Vec<ObjectJson>,
    /// Common prefixes, where a delimiter was given.
    pub prefixes: Vec<String>,
    /// Asks for the next page; null after the last.
    pub cursor: Option<String>,
}

async fn buckets(State(artifacts): State<Artifacts>, reader: Reader) -> Json<BucketsJson> {
    let bucket = |bucket: super::BucketInfo| BucketJson {
        name: bucket.name,
        created: Timestamp(bucket.created_ms),
        objects: Some(bucket.objects),
        bytes: Some(bucket.bytes),
        noncurrent: bucket.noncurrent,
        noncurrent_bytes: bucket.noncurrent_bytes,
        markers: bucket.markers,
        cold: bucket.cold,
        cold_bytes: bucket.cold_bytes,
    };
    let owned = artifacts.buckets().into_iter().filter(|bucket| reader.owns(bucket));
    Json(BucketsJson { buckets: owned.map(bucket).collect() })
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    #[serde(default)]
    pub(super) prefix: String,
    pub(super) delimiter: Option<String>,
    limit: Option<usize>,
    pub(super) cursor: Option<String>,
}

impl Listing {
    /// Entries of a page.
    pub(super) fn max(&self) -> Result<usize, ApiError> {
        let max = self.limit.unwrap_or(LIMIT);
        match (1..=LIMIT).contains(&max) {
            true => Ok(max),
            false => Err(ApiError::bad_request(format!("limit is 1 to {LIMIT}"))),
        }
    }
}

async fn objects(
    State(artifacts): State<Artifacts>,
    reader: Reader,
    Path(bucket): Path<String>,
    listing: Result<Query<Listing>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<ObjectsJson>, ApiError> {
    let Query(asked) = listing.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let max = asked.max()?;
    let query = listing::Query { prefix: asked.prefix.clone(), delimiter: asked.delimiter, after: asked.cursor, max };
    reader.permit(&artifacts, "ListObjectsV2", &bucket, None).map_err(refused)?;
    let page = artifacts.list(&bucket, query).await.map_err(refused)?;
    let object = |(key, row): (String, ObjectRow)| ObjectJson {
        uri: format!("s3://{bucket}/{key}"),
        key,
        size: row.size,
        etag: row.etag.to_string(),
        modified: Timestamp(row.modified_ms),
        storage_class: row.class().to_owned(),
        content_type: row.description.headers.content_type,
        metadata: row.description.metadata.into_iter().collect(),
    };
    let objects = page.entries.into_iter().map(object).collect();
    Ok(Json(ObjectsJson {
        objects,
        prefix: asked.prefix,
        prefixes: page.common_prefixes,
        cursor: page.next,
        bucket: bucket.clone(),
    }))
}

async fn object(
    State(artifacts): State<Artifacts>,
    reader: Reader,
    Path((bucket, key)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let conditions = ReadConditions {
        if_match: text(header::IF_MATCH).map(Tags::parse),
        if_none_match: text(header::IF_NONE_MATCH).map(Tags::parse),
        if_modified_since_s: text(header::IF_MODIFIED_SINCE).and_then(parse_date),
        if_unmodified_since_s: text(header::IF_UNMODIFIED_SINCE).and_then(parse_date),
    };
    reader.permit(&artifacts, "GetObject", &bucket, Some(&key)).map_err(refused)?;
    let row = artifacts.head(&bucket, &key).map_err(refused)?;
    // A range that was asked for of other bytes than these is ignored, and so is one that is not understood (RFC 9110 §14.2).
    let current = text(header::IF_RANGE).is_none_or(|tag| tag.trim_matches('"') == row.etag.to_string());
    let asked = text(header::RANGE).filter(|_| current).and_then(RangeAsked::parse);
    let wanted = match asked {
        Some(ranges) if ranges.len() == 1 => Wanted::Range(ranges[0]),
        Some(ranges) if method == Method::GET => Wanted::Ranges(ranges),
        _ => Wanted::All,
    };
    let got = artifacts.get(&bucket, &key, wanted, &conditions).await;
    let mut response = match got {
        Ok(Got { row, several, stream, .. }) if !several.is_empty() => {
            let mut response = StatusCode::PARTIAL_CONTENT.into_response();
            describe_row(&mut response, &row, &key);
            let kind = response.headers().get(header::CONTENT_TYPE);
            let body = ByteRanges::new(stream, &several, row.size, kind, uuid::Uuid::new_v4());
            set(&mut response, header::CONTENT_TYPE, &body.content_type());
            set(&mut response, header::CONTENT_LENGTH, &body.remaining().to_string());
            *response.body_mut() = Body::from_stream(body);
            response
        }
        Ok(Got { row, range, stream, .. }) => {
            let length = stream.remaining();
            // The body of a HEAD is dropped unread.
            let body = if method == Method::HEAD { Body::empty() } else { Body::from_stream(stream) };
            let mut response = Response::new(body);
            if let Some((first, length)) = range {
                *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                set(
                    &mut response,
                    header::CONTENT_RANGE,
                    &format!("bytes {first}-{}/{}", first + length - 1, row.size),
                );
            }
            set(&mut response, header::CONTENT_LENGTH, &length.to_string());
            describe_row(&mut response, &row, &key);
            response
        }
        Err(ArtifactError::NotModified) => {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            describe_row(&mut response, &row, &key);
            response
        }
        Err(ArtifactError::InvalidRange { size }) => {
            let mut response = refused(ArtifactError::InvalidRange { size }).into_response();
            set(&mut response, header::CONTENT_RANGE, &format!("bytes */{size}"));
            response
        }
        Err(error) => return Err(refused(error)),
    };
    sandbox(&mut response);
    Ok(response)
}

/// What somebody uploaded must not run in the dashboard's origin.
pub(super) fn sandbox(response: &mut Response) {
    set(response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    let policy = "sandbox; default-src 'none'; media-src 'self'; img-src 'self'";
    set(response, header::CONTENT_SECURITY_POLICY, policy);
}

/// What an object says of itself.
pub(super) struct Told<'a> {
    pub(super) content_type: Option<&'a str>,
    pub(super) etag: &'a str,
    pub(super) encoding: Option<&'a str>,
    /// As HTTP writes dates.
    pub(super) modified: Option<String>,
}

fn describe_row(response: &mut Response, row: &ObjectRow, key: &str) {
    let (kept, etag) = (&row.description.headers, row.etag.to_string());
    let (content_type, encoding) = (kept.content_type.as_deref(), kept.encoding.as_deref());
    let told = Told { content_type, etag: &etag, encoding, modified: write_date(row.modified_ms) };
    describe(response, &told, key);
}

/// Headers that say what an object is.
pub(super) fn describe(response: &mut Response, told: &Told<'_>, key: &str) {
    let declared = told.content_type.unwrap_or_default();
    let essence = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if SHOWN.contains(&essence.as_str()) {
        // Text without a declared charset is read as UTF-8, not guessed.
        let charset = if essence == "text/plain" { "; charset=utf-8" } else { "" };
        set(response, header::CONTENT_TYPE, &format!("{essence}{charset}"));
    } else {
        set(response, header::CONTENT_TYPE, "application/octet-stream");
        let name = key.rsplit('/').next().unwrap_or(key);
        let name = percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC);
        set(response, header::CONTENT_DISPOSITION, &format!("attachment; filename*=UTF-8''{name}"));
    }
    set(response, header::ETAG, &format!("\"{}\"", told.etag));
    set(response, header::ACCEPT_RANGES, "bytes");
    // What is behind a key may change, and is for the signed-in alone.
    set(response, header::CACHE_CONTROL, "private, no-cache");
    if let Some(encoding) = told.encoding {
        set(response, header::CONTENT_ENCODING, encoding);
    }
    if let Some(date) = &told.modified {
        set(response, header::LAST_MODIFIED, date);
    }
}

/// A value that is no header value is left out.
pub(super) fn set(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

pub(super) fn parse_date(text: &str) -> Option<i64> {
    let date = s3s::dto::Timestamp::parse(s3s::dto::TimestampFormat::HttpDate, text).ok()?;
    Some(time::OffsetDateTime::from(date).unix_timestamp())
}

fn write_date(unix_ms: u64) -> Option<String> {
    let moment = time::OffsetDateTime::from_unix_timestamp(i64::try_from(unix_ms / 1000).ok()?).ok()?;
    let mut text = Vec::new();
    s3s::dto::Timestamp::from(moment).format(s3s::dto::TimestampFormat::HttpDate, &mut text).ok()?;
    String::from_utf8(text).ok()
}

pub(super) fn refused(error: ArtifactError) -> ApiError {
    use ArtifactError as E;
    let text = error.to_string();
    match error {
        E::NoSuchBucket(_) => ApiError::not_found("no_such_bucket", text).hint("GET /v1/artifacts lists the buckets"),
        E::NoSuchKey { .. } => ApiError::not_found("no_such_key", text),
        E::AccessDenied => {
            ApiError::new(StatusCode::FORBIDDEN, "forbidden", "the bucket does not let this key read it")
                .hint("its owner's keys may, and whom its policy or its ACL allows")
        }
        E::PreconditionFailed(_) => ApiError::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", text),
        E::InvalidRange { .. } => ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, "invalid_range", text),
        E::InvalidArgument(_) | E::InvalidRequest(_) | E::KeyTooLong => ApiError::bad_request(text),
        E::ColdAway(_) | E::ColdBusy => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "cold_tier_away", text)
            .hint("the object is in the cold tier; try again in a moment, and look at `backlot artifact cold`"),
        E::Damaged { .. } => ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "damaged", text)
            .hint("the bytes on the disk are not those that were stored; restore the object from a copy"),
        other => ApiError::internal(&other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::model::Description;

    fn described(content_type: Option<&str>, key: &str) -> HeaderMap {
        let mut description = Description::default();
        description.headers.content_type = content_type.map(str::to_owned);
        let row = ObjectRow { description, ..ObjectRow::sample() };
        let mut response = Response::new(Body::empty());
        describe_row(&mut response, &row, key);
        response.headers().clone()
    }

    #[test]
    fn only_types_that_cannot_run_are_shown() {
        for shown in ["image/png", "video/mp4", "VIDEO/MP4; codecs=x"] {
            assert!(!described(Some(shown), "k").contains_key(header::CONTENT_DISPOSITION), "{shown}");
        }
        assert_eq!(
            described(Some("text/plain; charset=utf-7"), "k")[header::CONTENT_TYPE],
            "text/plain; charset=utf-8"
        );
        for active in [Some("text/html"), Some("image/svg+xml"), Some("application/xhtml+xml"), None, Some("")] {
            let headers = described(active, "a/\"evil\"\r\nx: y.html");
            assert_eq!(headers[header::CONTENT_TYPE], "application/octet-stream", "{active:?}");
            let disposition = headers[header::CONTENT_DISPOSITION].to_str().unwrap();
            assert!(disposition.starts_with("attachment; filename*=UTF-8''%22evil%22%0D%0A"), "{disposition}");
        }
    }

    #[test]
    fn dates_are_those_of_http() {
        assert_eq!(write_date(784_111_777_000).as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(parse_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse_date("yesterday"), None);
    }
}
