//! HTTP Basic with a key, and the dashboard's session cookie.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{Method, header};

use super::{Peer, Refusal, Request};
use crate::identity::{Identity, Principal};

/// Name of the session's cookie.
pub(super) const COOKIE: &str = "backlot_session";

/// Who calls the http door. `None` is nobody in particular; wrong credentials are refused, also where none are needed.
pub(super) fn on_http(identity: &Identity, request: &Request) -> Result<Option<Principal>, Refusal> {
    if let Some(result) = password(identity, request) {
        return result.map(Some);
    }
    let Some(token) = session_token(request) else { return Ok(None) };
    // A cookie travels with whatever a page of another site makes the browser send; its changes are not for us.
    if !matches!(*request.method(), Method::GET | Method::HEAD) && !is_same_origin(request) {
        return Err(Refusal::Forbidden);
    }
    Ok(identity.session(token))
}

/// Who ships signals. Under `--dev` a caller on this machine needs no key.
pub(super) fn on_otlp(identity: &Identity, request: &Request, dev: bool) -> Result<Option<Principal>, Refusal> {
    match password(identity, request) {
        Some(Ok(principal)) if principal.role.works() => Ok(Some(principal)),
        Some(Ok(_)) => Err(Refusal::Forbidden),
        Some(Err(refusal)) => Err(refusal),
        None if dev && request.extensions().get::<Peer>().is_some_and(|peer| peer.0.ip().is_loopback()) => Ok(None),
        None => Err(Refusal::Unauthenticated),
    }
}

fn password(identity: &Identity, request: &Request) -> Option<Result<Principal, Refusal>> {
    let value = request.headers().get(header::AUTHORIZATION)?;
    let checked = value.to_str().ok().and_then(key_and_secret).and_then(|(id, secret)| identity.check(&id, &secret));
    Some(checked.ok_or(Refusal::Unauthenticated))
}

/// What stands in a header of the Basic scheme.
pub(super) fn key_and_secret(header: &str) -> Option<(String, String)> {
    let decoded = String::from_utf8(BASE64.decode(header.strip_prefix("Basic ")?.trim()).ok()?).ok()?;
    let (key_id, secret) = decoded.split_once(':')?;
    Some((key_id.to_owned(), secret.to_owned()))
}

/// The token in the session's cookie.
pub(super) fn session_token(request: &Request) -> Option<&str> {
    let cookies = request.headers().get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies.flat_map(|line| line.split(';')).find_map(|cookie| cookie.trim().strip_prefix(COOKIE)?.strip_prefix('='))
}

pub(super) fn is_same_origin(request: &Request) -> bool {
    if let Some(site) = request.headers().get("sec-fetch-site") {
        return site == "same-origin";
    }
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = request.headers().get(header::ORIGIN).and_then(|origin| origin.to_str().ok());
    match (origin.and_then(|origin| origin.split_once("://")), host) {
        (Some((_, from)), Some(host)) => from == host,
        _ => false,
    }
}
