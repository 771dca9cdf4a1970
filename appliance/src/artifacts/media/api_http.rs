//! Previews and facts on the http door.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::IntoResponse;
use axum::routing::get;
use http::{HeaderValue, StatusCode, header};
use serde::Deserialize;

use super::{Library, Media, MediaError};
use crate::artifacts::door;
use crate::artifacts::error::ArtifactError;
use crate::edge::{ApiError, Response, Viewer};

/// Longer side of a preview for which nothing else was asked.
const SIDE: u32 = 320;

pub fn routes(media: Media) -> Router {
    Router::new()
        .route("/v1/previews/{bucket}/{*key}", get(preview))
        .route("/v1/facts/{bucket}/{*key}", get(facts))
        .with_state(media)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    side: Option<u32>,
}

impl Media {
    fn permit(&self, viewer: &Viewer) -> Result<(), ApiError> {
        match &self.0.library {
            Library::Own(_) => Ok(()),
            Library::Other(_) => door::api_http::house(viewer),
        }
    }
}

async fn preview(
    State(media): State<Media>,
    viewer: Viewer,
    Path((bucket, key)): Path<(String, String)>,
    asked: Result<Query<Asked>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    media.permit(&viewer)?;
    let Query(asked) = asked.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let jpeg = media.picture(&bucket, &key, asked.side.unwrap_or(SIDE)).await.map_err(refused)?;
    let mut response = Response::new(Body::from(jpeg));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/jpeg"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // What is behind a key may change, and is for the signed-in alone.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=60"));
    Ok(response)
}

async fn facts(
    State(media): State<Media>,
    viewer: Viewer,
    Path((bucket, key)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    media.permit(&viewer)?;
    let facts = media.facts(&bucket, &key).await.map_err(refused)?;
    Ok(axum::Json(facts).into_response())
}

fn refused(error: MediaError) -> ApiError {
    let text = error.to_string();
    match error {
        MediaError::Artifact(error) => match &*error {
            ArtifactError::NoSuchBucket(_) => ApiError::not_found("no_such_bucket", text),
            ArtifactError::NoSuchKey { .. } => ApiError::not_found("no_such_key", text),
            other => ApiError::internal(other),
        },
        MediaError::Other(error) => door::api_http::refused((*error).clone()),
        MediaError::NotMedia | MediaError::NoPicture | MediaError::CustomersKey => {
            ApiError::not_found("no_preview", text)
        }
        MediaError::TooLarge { .. } => ApiError::not_found("no_preview", text)
            .hint("`artifacts.preview_source_bytes_max` says how large a clip is looked at"),
        MediaError::Unreadable(_) => ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "unreadable", text),
        MediaError::NoProgram { .. } => ApiError::new(StatusCode::NOT_IMPLEMENTED, "no_program", text)
            .hint("install ffmpeg, or set `artifacts.ffmpeg` and `artifacts.ffprobe`"),
        MediaError::NoRoom { .. } => ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "no_room", text)
            .hint("free some of the disk that holds the data folder; what was put is not touched"),
        MediaError::Busy => ApiError::unavailable("busy", text, 2),
        MediaError::Fault(_) => ApiError::internal(&text),
    }
}
