//! Artifacts of the other S3 on the http door: the calls of [`crate::artifacts::api_http`], answered from there.
//!
//! Lists have neither types nor metadata, for S3's have none; buckets have no counts. What is about bytes that
//! lie on this machine (scrubber, keys of encryption, quotas) says that it is not done here.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use axum::routing::{any, get};
use axum::{Json, Router};
use http::{HeaderMap, Method, StatusCode, header};

use super::Upstream;
use super::reader::{Entry, ReadError, text};
use crate::artifacts::api_http::{
    BucketJson, BucketsJson, Listing, ObjectJson, ObjectsJson, Told, describe, sandbox, set,
};
use crate::edge::{ApiError, Response, Viewer};

/// Headers of a read that go on.
const PASSED: [header::HeaderName; 5] =
    [header::IF_MATCH, header::IF_NONE_MATCH, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE, header::RANGE];

/// Routes of the http door.
pub fn routes(upstream: Upstream) -> Router {
    Router::new()
        .route("/v1/artifacts", get(buckets))
        .route("/v1/artifacts/{bucket}", get(objects))
        .route("/v1/artifacts/{bucket}/{*key}", get(object))
        .route("/v1/cold", any(theirs))
        .route("/v1/cold/warm", any(theirs))
        .route("/v1/scrub", any(theirs))
        .route("/v1/encryption", any(theirs))
        .route("/v1/buckets/{bucket}/quota", any(theirs))
        .with_state(upstream)
}

async fn theirs() -> ApiError {
    let text = "the artifacts lie in another S3, which looks after them itself";
    ApiError::new(StatusCode::NOT_IMPLEMENTED, "not_with_this_engine", text).hint("artifacts.engine is `s3`")
}

/// Only keys of the house read what is the operator's.
pub(in crate::artifacts) fn house(Viewer(principal): &Viewer) -> Result<(), ApiError> {
    if principal.account.is_house() {
        return Ok(());
    }
    let text = "the key belongs to an account, and accounts own nothing in the other S3";
    Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", text).hint("use a key of the house"))
}

async fn buckets(State(upstream): State<Upstream>, viewer: Viewer) -> Result<Json<BucketsJson>, ApiError> {
    house(&viewer)?;
    let found = upstream.buckets().await.map_err(refused)?;
    let buckets = found.into_iter().map(|(name, created)| BucketJson::uncounted(name, created)).collect();
    Ok(Json(BucketsJson { buckets }))
}

async fn objects(
    State(upstream): State<Upstream>,
    viewer: Viewer,
    Path(bucket): Path<String>,
    listing: Result<Query<Listing>, QueryRejection>,
) -> Result<Json<ObjectsJson>, ApiError> {
    house(&viewer)?;
    let Query(asked) = listing.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let max = asked.max()?;
    let page = upstream.list(&bucket, &asked.prefix, asked.delimiter.as_deref(), asked.cursor.as_deref(), max).await;
    let page = page.map_err(refused)?;
    let object = |entry: Entry| ObjectJson {
        uri: format!("s3://{bucket}/{}", entry.key),
        key: entry.key,
        size: entry.size,
        etag: entry.etag,
        modified: entry.modified,
        content_type: None,
        storage_class: entry.storage_class,
        metadata: std::collections::BTreeMap::new(),
    };
    Ok(Json(ObjectsJson {
        objects: page.entries.into_iter().map(object).collect(),
        prefix: asked.prefix,
        prefixes: page.prefixes,
        cursor: page.next,
        bucket: bucket.clone(),
    }))
}

async fn object(
    State(upstream): State<Upstream>,
    viewer: Viewer,
    Path((bucket, key)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    house(&viewer)?;
    let mut asked: HeaderMap =
        PASSED.into_iter().filter_map(|name| Some((name.clone(), headers.get(name)?.clone()))).collect();
    // A range that was asked for of other bytes than these is ignored (RFC 9110 §14.2).
    if let Some(tag) = headers.get(header::IF_RANGE).filter(|_| asked.contains_key(header::RANGE)) {
        let head = upstream.object(Method::HEAD, &bucket, &key, HeaderMap::new()).await.map_err(refused)?;
        if head.headers().get(header::ETAG) != Some(tag) {
            asked.remove(header::RANGE);
        }
    }
    let mut response = match upstream.object(method, &bucket, &key, asked).await {
        Ok(answer) => {
            let (head, body) = answer.into_parts();
            let mut response = Response::new(body);
            *response.status_mut() = head.status;
            for name in [header::CONTENT_LENGTH, header::CONTENT_RANGE] {
                if let Some(value) = head.headers.get(&name) {
                    response.headers_mut().insert(name, value.clone());
                }
            }
            describe(&mut response, &told(&head.headers), &key);
            response
        }
        Err(ReadError::Refused { status: StatusCode::NOT_MODIFIED, headers, .. }) => {
            let mut response = StatusCode::NOT_MODIFIED.into_response();
            describe(&mut response, &told(&headers), &key);
            response
        }
        Err(error @ ReadError::Refused { status: StatusCode::RANGE_NOT_SATISFIABLE, .. }) => {
            let ReadError::Refused { headers, .. } = &error else { return Err(refused(error)) };
            let range = text(headers, header::CONTENT_RANGE).map(str::to_owned);
            let mut response = refused(error).into_response();
            if let Some(range) = range {
                set(&mut response, header::CONTENT_RANGE, &range);
            }
            response
        }
        Err(error) => return Err(refused(error)),
    };
    sandbox(&mut response);
    Ok(response)
}

/// What the other S3 says of an object.
fn told(headers: &HeaderMap) -> Told<'_> {
    Told {
        content_type: text(headers, header::CONTENT_TYPE),
        etag: text(headers, header::ETAG).unwrap_or_default().trim_matches('"'),
        encoding: text(headers, header::CONTENT_ENCODING),
        modified: text(headers, header::LAST_MODIFIED).map(str::to_owned),
    }
}

pub(in crate::artifacts) fn refused(error: ReadError) -> ApiError {
    let text = error.to_string();
    match error {
        ReadError::Trouble(trouble) => trouble.to_api(),
        ReadError::Unreadable(_) => ApiError::new(StatusCode::BAD_GATEWAY, "upstream_unreadable", text),
        ReadError::Refused { status, code, .. } => match (status, code.as_deref()) {
            (_, Some("NoSuchBucket")) => ApiError::not_found("no_such_bucket", "the other S3 has no such bucket")
                .hint("GET /v1/artifacts lists the buckets"),
            // A HEAD has no body that says what is missing.
            (StatusCode::NOT_FOUND, _) => ApiError::not_found("no_such_key", "the other S3 has no such object"),
            (StatusCode::FORBIDDEN, _) => ApiError::new(StatusCode::FORBIDDEN, "forbidden", text)
                .hint("the credentials of section `upstream` may not read it"),
            (StatusCode::PRECONDITION_FAILED, _) => ApiError::new(status, "precondition_failed", text),
            (StatusCode::RANGE_NOT_SATISFIABLE, _) => ApiError::new(status, "invalid_range", text),
            _ if status.is_client_error() => ApiError::bad_request(text),
            _ => ApiError::unavailable("upstream_error", text, 5),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_other_s3_says_no_to_is_told_by_kind() {
        let status = |status: u16, code: Option<&str>| {
            let headers = Box::default();
            let status = StatusCode::from_u16(status).unwrap();
            let error = refused(ReadError::Refused { status, code: code.map(str::to_owned), headers });
            (error.status.as_u16(), error.code)
        };
        assert_eq!(status(404, Some("NoSuchBucket")), (404, "no_such_bucket"));
        assert_eq!(status(404, None), (404, "no_such_key"));
        assert_eq!(status(403, Some("AccessDenied")), (403, "forbidden"));
        assert_eq!(status(400, Some("KeyTooLongError")), (400, "bad_request"));
        assert_eq!(status(503, Some("SlowDown")), (503, "upstream_error"));
        assert_eq!(status(300, None), (503, "upstream_error"));
    }
}
