//! Shares, limits and rates on the http door: `/v1/limits`.

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use http::StatusCode;
use serde_json::{Value, json};

use super::Jobs;
use super::api::{Body, parse, refused_body};
use super::limits::{Scope, Setting};
use crate::edge::{ApiError, Operator, Viewer};

/// Most projects that are shown with what they have running.
const PROJECTS_MAX: usize = 200;

pub(super) fn routes() -> Router<Jobs> {
    Router::new().route("/v1/limits", get(list)).route("/v1/limits/{scope}/{name}", put(set).delete(unset))
}

async fn list(State(jobs): State<Jobs>, _: Viewer) -> Response {
    Json(overview(&jobs)).into_response()
}

fn overview(jobs: &Jobs) -> Value {
    jobs.book.shares.look(|shares| {
        let entry = |(scope, name, setting, is_set): (Scope, &str, &Setting, bool)| {
            let mut entry = serde_json::to_value(setting).unwrap_or_default();
            entry["scope"] = json!(scope.as_str());
            entry["name"] = json!(name);
            entry["from"] = json!(if is_set { "api" } else { "configuration" });
            if matches!(scope, Scope::Project | Scope::User | Scope::Type) && name != "*" {
                entry["running"] = json!(shares.usage(scope, name).0);
            }
            entry
        };
        let limits: Vec<Value> = shares.limits().all().map(entry).collect();
        let project = |(name, running, waiting): (String, usize, usize)| {
            let share = shares.limits().share(&name);
            json!({"project": name, "share": share, "running": running, "waiting": waiting})
        };
        let projects: Vec<Value> = shares.projects(PROJECTS_MAX).into_iter().map(project).collect();
        json!({"limits": limits, "projects": projects, "folded": shares.folded()})
    })
}

fn scope(text: &str) -> Result<Scope, ApiError> {
    Scope::parse(text).ok_or_else(|| {
        ApiError::not_found("no_such_scope", format!("`{text}` is no scope"))
            .hint("there are project, user, type, queue and key")
    })
}

async fn set(
    State(jobs): State<Jobs>,
    _: Operator,
    Path((scope_name, name)): Path<(String, String)>,
    body: Body,
) -> Result<Response, ApiError> {
    let scope = scope(&scope_name)?;
    let setting: Setting = parse(&body.map_err(refused_body)?)?;
    jobs.limit(scope, &name, Some(setting.clone())).await?;
    let mut answer = serde_json::to_value(&setting).map_err(|error| ApiError::internal(&error))?;
    answer["scope"] = json!(scope.as_str());
    answer["name"] = json!(name);
    Ok(Json(answer).into_response())
}

async fn unset(
    State(jobs): State<Jobs>,
    _: Operator,
    Path((scope_name, name)): Path<(String, String)>,
) -> Result<StatusCode, ApiError> {
    jobs.limit(scope(&scope_name)?, &name, None).await?;
    Ok(StatusCode::NO_CONTENT)
}
