//! What the http door itself answers: health, sessions, keys, addresses.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::{delete, get};
use axum::{Json, Router};
use http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::basic::{COOKIE, session_token};
use super::dashboard;
use super::{Admin, ApiError, Gate, Request, Response, Viewer};
use crate::identity::{Account, IdentityError, KeyInfo, Role, SESSION_LIFE_S};

/// Where the doors are, as a client on this machine reaches them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    pub aws: String,
    pub http: String,
    pub otlp_grpc: String,
    pub otlp_http: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syslog_tcp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syslog_tls: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syslog_udp: Option<String>,
}

struct Own {
    gate: Gate,
    endpoints: Endpoints,
    /// The Prometheus text of the appliance's own metrics.
    metrics_text: fn() -> String,
    /// Sentences about what does not work at the moment; empty when all does.
    troubles: Troubles,
    /// Whether only this machine can reach the door: then `/metrics` needs no key, as scrapers expect.
    is_loopback: bool,
}

/// Asks the rest of the appliance what does not work at the moment.
pub type Troubles = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// Routes of the door itself.
pub fn routes(
    gate: &Gate,
    endpoints: Endpoints,
    is_loopback: bool,
    metrics_text: fn() -> String,
    troubles: Troubles,
) -> Router {
    let own = Own { gate: gate.clone(), endpoints, metrics_text, troubles, is_loopback };
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(own_metrics))
        .route("/v1/endpoints", get(own_endpoints))
        .route("/v1/session", get(who).post(sign_in).delete(sign_out))
        .route("/v1/keys", get(list_keys).post(create_key))
        .route("/v1/keys/{key_id}", delete(revoke_key))
        .route("/v1/{*rest}", axum::routing::any(no_such_path))
        .fallback(dashboard::serve)
        .with_state(Arc::new(own))
}

async fn no_such_path() -> ApiError {
    ApiError::not_found("no_such_path", "the native API has no such path").hint("docs/api.md lists them")
}

/// Always 200, for the door opens after the replay: whoever takes an appliance with a full disk out of service keeps away those
/// whose deletes would make room.
async fn ready(State(own): State<Arc<Own>>) -> String {
    let troubles = (own.troubles)();
    if troubles.is_empty() { "ok\n".to_owned() } else { format!("ok, but {}\n", troubles.join("; ")) }
}

async fn own_metrics(State(own): State<Arc<Own>>, viewer: Result<Viewer, ApiError>) -> Result<Response, ApiError> {
    if !own.is_loopback {
        viewer?;
    }
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], (own.metrics_text)()).into_response())
}

async fn own_endpoints(State(own): State<Arc<Own>>, _: Viewer) -> Json<Endpoints> {
    Json(own.endpoints.clone())
}

/// Who is signed in; `null` for nobody, which is no error: the dashboard asks this first.
async fn who(viewer: Result<Viewer, ApiError>) -> Json<serde_json::Value> {
    match viewer {
        Ok(Viewer(principal)) => Json(json!({"key_id": principal.key_id, "role": principal.role})),
        Err(_) => Json(serde_json::Value::Null),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SignIn {
    key_id: String,
    secret: String,
}

async fn sign_in(
    State(own): State<Arc<Own>>,
    body: Result<Json<SignIn>, axum::extract::rejection::JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(given) = body.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let identity = own.gate.identity();
    let Some(principal) = identity.check(&given.key_id, &given.secret) else {
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "wrong_key",
            "there is no such key, or its secret is another one",
        )
        .hint("the first key is in admin.key in the data folder; `backlot key create` makes more"));
    };
    let token = identity.sign_in(&principal).map_err(|error| ApiError::internal(&error))?;
    let cookie = format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={SESSION_LIFE_S}");
    let body = Json(json!({"key_id": principal.key_id, "role": principal.role}));
    Ok(([(header::SET_COOKIE, cookie)], body).into_response())
}

async fn sign_out(State(own): State<Arc<Own>>, request: Request) -> Response {
    if let Some(token) = session_token(&request) {
        own.gate.identity().sign_out(token);
    }
    let cookie = format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie)]).into_response()
}

async fn list_keys(State(own): State<Arc<Own>>, _: Admin) -> Json<serde_json::Value> {
    let shown = |key: KeyInfo| {
        let (number, canonical_id) = (key.account.number(), key.account.canonical_id());
        json!({"key_id": key.key_id, "role": key.role, "note": key.note, "created_at": key.created_at,
            "account": key.account.name(), "account_number": number, "canonical_id": canonical_id})
    };
    let keys: Vec<_> = own.gate.identity().list().into_iter().map(shown).collect();
    Json(json!({"keys": keys}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateKey {
    role: Role,
    #[serde(default)]
    note: String,
    /// Absent: the house.
    #[serde(default)]
    account: Option<String>,
}

async fn create_key(
    State(own): State<Arc<Own>>,
    _: Admin,
    body: Result<Json<CreateKey>, axum::extract::rejection::JsonRejection>,
) -> Result<Response, ApiError> {
    let Json(wanted) = body.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    let account = match &wanted.account {
        None => Account::house(),
        Some(name) => Account::parse(name).ok_or_else(|| {
            ApiError::bad_request(
                "an account's name is 1 to 32 of a-z, 0-9 and -; it owns the buckets that its keys make",
            )
        })?,
    };
    let (name, number, canonical_id) = (account.name().to_owned(), account.number(), account.canonical_id());
    let made = own.gate.identity().create(wanted.role, &wanted.note, account).await;
    let made = made.map_err(|error| of_identity(&error))?;
    let body = json!({"key_id": made.key_id, "secret": made.secret, "role": made.role,
        "account": name, "account_number": number, "canonical_id": canonical_id});
    Ok((StatusCode::CREATED, Json(body)).into_response())
}

async fn revoke_key(State(own): State<Arc<Own>>, _: Admin, Path(key_id): Path<String>) -> Result<StatusCode, ApiError> {
    own.gate.identity().revoke(&key_id).await.map_err(|error| of_identity(&error))?;
    Ok(StatusCode::NO_CONTENT)
}

fn of_identity(error: &IdentityError) -> ApiError {
    match error {
        IdentityError::NoSuchKey(_) => {
            ApiError::not_found("no_such_key", error.to_string()).hint("`backlot key list` shows them")
        }
        IdentityError::AdminOfAccount => ApiError::bad_request(error.to_string()),
        IdentityError::LastAdmin(_) => ApiError::conflict("last_admin", error.to_string()),
        IdentityError::TooMany => ApiError::conflict("too_many_keys", error.to_string()),
        other => ApiError::internal(other),
    }
}
