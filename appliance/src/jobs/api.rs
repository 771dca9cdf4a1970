//! Jobs on the http door: `/v1/jobs`, `/v1/attempts`, `/v1/agents`.

use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use backlot_wire::attempt::EVENTS_PER_POST_MAX;
use backlot_wire::{AgentRegistration, AttemptEvents, EventsAnswer, Job, JobSpec, RegistrationAnswer};

use super::admission::{TraceParent, id_of_key};
use super::list::{Filter, Page};
use super::phases::Phases;
use super::why::Why;
use super::{Counts, Jobs, JobsError, SearchError, api_bulk, api_limits, api_webhooks};
use crate::edge::{ApiError, Operator, Viewer, Worker};
use crate::queue::QueueError;

/// Where a job goes that names no queue.
const DEFAULT_QUEUE: &str = "jobs";
/// Largest specification: what a message may carry.
const SPEC_BYTES_MAX: usize = 1024 * 1024;
/// Largest batch of events and largest registration.
const REPORT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Longest delay.
const DELAY_S_MAX: u32 = 366 * 86_400;
/// Longest `Idempotency-Key`.
const KEY_BYTES_MAX: usize = 256;

pub(super) type Body = Result<Bytes, BytesRejection>;

/// The routes of this room.
pub fn routes(jobs: Jobs) -> Router {
    let specs = Router::new().route("/v1/jobs", post(submit).get(list)).layer(DefaultBodyLimit::max(SPEC_BYTES_MAX));
    Router::new()
        .route("/v1/jobs/events", get(all_news))
        .route("/v1/jobs/counts", get(counts))
        .route("/v1/jobs/{id}", get(show))
        .route("/v1/jobs/{id}/why-waiting", get(why))
        .route("/v1/jobs/{id}/phases", get(phases))
        .route("/v1/jobs/{id}/cancel", post(cancel))
        .route("/v1/jobs/{id}/retry", post(retry))
        .route("/v1/jobs/{id}/events", get(news))
        .route("/v1/attempts/{id}/events", post(report))
        .route("/v1/agents", get(agents))
        .route("/v1/agents/{name}", put(register).delete(forget))
        .route("/v1/agents/{name}/drain", post(drain))
        .merge(api_limits::routes())
        .merge(api_bulk::routes())
        .merge(api_webhooks::routes())
        .layer(DefaultBodyLimit::max(REPORT_BYTES_MAX))
        .merge(specs)
        .merge(super::flows::api::routes())
        .merge(super::schedules::api::routes())
        .with_state(jobs)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubmitQuery {
    queue: Option<String>,
    delay_s: Option<u32>,
}

async fn submit(
    State(jobs): State<Jobs>,
    Operator(caller): Operator,
    query: Result<Query<SubmitQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    if query.delay_s.is_some_and(|delay_s| delay_s > DELAY_S_MAX) {
        return Err(ApiError::bad_request(format!("`delay_s` is at most {DELAY_S_MAX}")));
    }
    let bytes = body.map_err(refused_body)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
    let mut spec = JobSpec::parse(text).map_err(JobsError::Spec)?;
    if spec.traceparent.is_none() {
        let header = headers.get("traceparent").and_then(|value| value.to_str().ok());
        spec.traceparent = header.filter(|text| TraceParent::parse(text).is_some()).map(str::to_owned);
    }
    if let Some(key) = idempotency_key(&headers)?.filter(|_| spec.job_id.is_none()) {
        spec.job_id = Some(id_of_key(&caller.key_id, key));
    }
    let queue = query.queue.as_deref().unwrap_or(DEFAULT_QUEUE);
    let (job, created) = jobs.submit(queue, spec, query.delay_s, &caller.key_id).await?;
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(job)).into_response())
}

async fn list(
    State(jobs): State<Jobs>,
    _: Viewer,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Page>, ApiError> {
    let Query(parameters) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let filter = Filter::parse(&parameters).map_err(ApiError::bad_request)?;
    if filter.query.is_some() {
        return Ok(Json(jobs.search(&filter).await?));
    }
    let page = tokio::task::spawn_blocking(move || jobs.list(&filter)).await;
    Ok(Json(page.map_err(|error| ApiError::internal(&error))??))
}

/// How many jobs a filter finds, by what they are.
async fn counts(
    State(jobs): State<Jobs>,
    _: Viewer,
    query: Result<Query<Vec<(String, String)>>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Counts>, ApiError> {
    let Query(parameters) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    let filter = Filter::parse(&parameters).map_err(ApiError::bad_request)?;
    if filter.text.is_some() {
        return Err(ApiError::bad_request("`q` cannot be counted; write it as a `query`"));
    }
    Ok(Json(jobs.counts(&filter).await?))
}

async fn show(State(jobs): State<Jobs>, _: Viewer, Path(id): Path<String>) -> Result<Json<Job>, ApiError> {
    Ok(Json(jobs.get(&id)?))
}

async fn why(State(jobs): State<Jobs>, _: Viewer, Path(id): Path<String>) -> Result<Json<Why>, ApiError> {
    Ok(Json(jobs.why(&id)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PhasesQuery {
    attempt: Option<u32>,
}

async fn phases(
    State(jobs): State<Jobs>,
    _: Viewer,
    Path(id): Path<String>,
    query: Result<Query<PhasesQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Phases>, ApiError> {
    let Query(query) = query.map_err(|error| ApiError::bad_request(error.body_text()))?;
    Ok(Json(jobs.phases(&id, query.attempt).await?))
}

async fn cancel(State(jobs): State<Jobs>, _: Operator, Path(id): Path<String>) -> Result<Json<Job>, ApiError> {
    Ok(Json(jobs.cancel(&id).await?))
}

/// A body, if there is one, says what is to be different.
async fn retry(
    State(jobs): State<Jobs>,
    _: Operator,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<Job>, ApiError> {
    let bytes = body.map_err(refused_body)?;
    let changes = if bytes.is_empty() { None } else { Some(parse::<Map<String, Value>>(&bytes)?) };
    Ok(Json(jobs.retry(&id, changes.as_ref()).await?))
}

async fn all_news(State(jobs): State<Jobs>, _: Viewer) -> Result<Response, ApiError> {
    let listener = jobs.streams().listen(None, jobs.stopping()).ok_or_else(too_many_streams)?;
    Ok(listener.stream(None).into_response())
}

/// News of one job: first as it is now, then at each change.
async fn news(State(jobs): State<Jobs>, _: Viewer, Path(id): Path<String>) -> Result<Response, ApiError> {
    // First listen, then look: a change in between is sent twice rather than never.
    let listener = jobs.streams().listen(Some(id.clone()), jobs.stopping()).ok_or_else(too_many_streams)?;
    let job = jobs.get(&id)?;
    let json = serde_json::to_string(&job).map_err(|error| ApiError::internal(&error))?;
    Ok(listener.stream(Some(json)).into_response())
}

async fn report(
    State(jobs): State<Jobs>,
    _: Worker,
    Path(id): Path<String>,
    body: Body,
) -> Result<Json<EventsAnswer>, ApiError> {
    let bytes = body.map_err(refused_body)?;
    let AttemptEvents { events } = parse(&bytes)?;
    if events.len() > EVENTS_PER_POST_MAX {
        return Err(ApiError::bad_request(format!("`events` has more than {EVENTS_PER_POST_MAX} entries")));
    }
    if events.iter().any(|event| event.seq == 0) {
        return Err(ApiError::bad_request("`seq` of an event begins at 1"));
    }
    Ok(Json(jobs.report(&id, &events, bytes.len()).await?))
}

async fn register(
    State(jobs): State<Jobs>,
    _: Worker,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<RegistrationAnswer>, ApiError> {
    let registration: AgentRegistration = parse(&body.map_err(refused_body)?)?;
    Ok(Json(jobs.register(&name, registration).await?))
}

async fn agents(State(jobs): State<Jobs>, _: Viewer) -> Response {
    Json(json!({"agents": jobs.agents()})).into_response()
}

async fn forget(State(jobs): State<Jobs>, _: Worker, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    jobs.forget(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    /// False takes an earlier drain back.
    #[serde(default = "yes")]
    drain: bool,
}

fn yes() -> bool {
    true
}

async fn drain(
    State(jobs): State<Jobs>,
    _: Operator,
    Path(name): Path<String>,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = body.map_err(refused_body)?;
    let body = if bytes.is_empty() { DrainBody { drain: true } } else { parse(&bytes)? };
    Ok(Json(jobs.drain(&name, body.drain).await?).into_response())
}

/// The header by which a client says that two requests are one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
    let bounds = || ApiError::bad_request(format!("`Idempotency-Key` is 1 to {KEY_BYTES_MAX} visible characters"));
    Ok(Some(key.ok_or_else(bounds)?))
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|error| ApiError::bad_request(format!("the body is not understood: {error}")))
}

pub(super) fn refused_body(rejection: BytesRejection) -> ApiError {
    ApiError::new(rejection.status(), "body_refused", rejection.body_text())
}

fn too_many_streams() -> ApiError {
    ApiError::unavailable("too_many_streams", "as many streams of news as jobs.streams_max allows are open", 5)
}

impl From<JobsError> for ApiError {
    fn from(error: JobsError) -> Self {
        let sentence = error.to_string();
        match error {
            JobsError::Spec(_) | JobsError::Invalid(_) => Self::new(StatusCode::BAD_REQUEST, "invalid", sentence),
            JobsError::NotAJobQueue(_) => {
                Self::new(StatusCode::BAD_REQUEST, "not_a_job_queue", sentence).hint("`jobs` exists from the start")
            }
            JobsError::NoSuchJob(_) => Self::not_found("no_such_job", sentence),
            JobsError::NoSuchAttempt(_) => Self::not_found("no_such_attempt", sentence),
            JobsError::NoSuchTask(_) => Self::not_found("no_such_task", sentence),
            JobsError::NoSuchWebhook(_) => Self::not_found("no_such_webhook", sentence),
            JobsError::NoSuchLimit { .. } => Self::not_found("no_such_limit", sentence),
            JobsError::NoSuchFlow(_) => Self::not_found("no_such_flow", sentence),
            JobsError::FlowEnded { .. } => Self::conflict("flow_ended", sentence),
            JobsError::NoSuchSchedule(_) => Self::not_found("no_such_schedule", sentence),
            JobsError::NoSuchAgent(_) => Self::not_found("no_such_agent", sentence),
            JobsError::Exists(_) => Self::conflict("job_exists", sentence).hint("leave the id out to get a new one"),
            JobsError::Ended { .. } => Self::conflict("job_ended", sentence),
            JobsError::NotRetryable { .. } => Self::conflict("not_retryable", sentence),
            JobsError::NotDeadLettered(_) => Self::conflict("not_dead_lettered", sentence),
            JobsError::Busy(_) => Self::conflict("busy", sentence),
            JobsError::Full(_) => Self::unavailable("full", sentence, 30),
            JobsError::Queue(QueueError::NotAdmitted(_)) => Self::new(StatusCode::BAD_REQUEST, "invalid", sentence),
            JobsError::Queue(error) => error.into(),
            JobsError::Query { text, at, .. } => Self::new(StatusCode::BAD_REQUEST, "bad_query", sentence)
                .hint(format!("{text}\n{}^ docs/operating-jobs.md describes the language", " ".repeat(at))),
            JobsError::Search(SearchError::TooMany) => Self::unavailable("too_many_searches", sentence, 2),
            JobsError::Search(_) | JobsError::Control(_) | JobsError::Store(_) => Self::internal(&sentence),
        }
    }
}
