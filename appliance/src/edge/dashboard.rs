//! Serves the dashboard: files by their path, the page for everything else that a browser may ask for.

use axum::body::Body;
use axum::response::IntoResponse;
use backlot_dashboards::{Asset, asset, index};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::{ApiError, Request, Response};

/// Scripts, styles and pictures are ours alone; nothing is inline; nobody may frame the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; \
    font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Answers what no route has taken.
pub(super) async fn serve(request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "pages are read with GET")
            .into_response();
    }
    let path = request.uri().path().trim_start_matches('/');
    if ["api/", "v1/", "loki/", "es/", "jaeger/", "alertmanager/"].iter().any(|api| path.starts_with(api)) {
        return ApiError::not_found("no_such_path", "this door has no such path").into_response(); // a program asked, not a person
    }
    match asset(path) {
        Some(asset) => file(asset, request.headers(), path.starts_with("assets/")),
        // A missing file is an error; any other address is a view of the page, which reads it from the address bar.
        None if path.rsplit('/').next().is_some_and(|name| name.contains('.')) && path.starts_with("assets/") => {
            ApiError::not_found("no_such_file", "the dashboard has no such file").into_response()
        }
        None => file(index(), request.headers(), false),
    }
}

fn file(asset: Asset, asked: &HeaderMap, is_named_by_its_hash: bool) -> Response {
    let text = |name| asked.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
    let is_known =
        text(header::IF_NONE_MATCH).split(',').any(|etag| etag.trim().trim_start_matches("W/") == asset.etag);
    let packs = text(header::ACCEPT_ENCODING).split(',').any(|coding| coding.trim().split(';').next() == Some("br"));
    let packed = packs && !asset.brotli.is_empty();
    let body = match (is_known, packed) {
        (true, _) => Body::empty(),
        (false, true) => Body::from(asset.brotli),
        (false, false) => Body::from(asset.plain),
    };
    let mut response = Response::new(body);
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, asset.content_type);
    set(header::ETAG, asset.etag);
    set(header::CACHE_CONTROL, if is_named_by_its_hash { "public, max-age=31536000, immutable" } else { "no-cache" });
    set(header::CONTENT_SECURITY_POLICY, POLICY);
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "same-origin");
    set(header::VARY, "accept-encoding");
    if packed && !is_known {
        set(header::CONTENT_ENCODING, "br");
    }
    response
}
