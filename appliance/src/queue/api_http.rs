//! The queues on the http door: `/v1/queues`, and what an operator does to one of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use backlot_journal::JournalError;
use bytes::Bytes;
use http::StatusCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::move_task::{MoveTask, REMEMBERED_MAX};
use super::settings::{self, Flow};
use super::{QueueError, QueueOverview, Queues};
use crate::control::ControlError;
use crate::edge::{ApiError, Operator, Viewer};

/// Largest body: a policy and fifty tags.
const BODY_BYTES_MAX: usize = 256 * 1024;
/// The region that ARNs are written with where no signature names one.
const REGION: &str = "us-east-1";

#[derive(Clone)]
struct Door {
    queues: Queues,
    /// What queues' URLs begin with.
    aws_url: Arc<str>,
}

type Body = Result<Bytes, BytesRejection>;

/// Routes of the queues. `aws_url` is where the AWS door is, for the queues' URLs.
pub fn routes(queues: Queues, aws_url: &str) -> Router {
    Router::new()
        .route("/v1/queues", get(list).post(create))
        .route("/v1/queues/{name}", get(show).delete(remove))
        .route("/v1/queues/{name}/pause", post(pause))
        .route("/v1/queues/{name}/resume", post(resume))
        .route("/v1/queues/{name}/drain", post(drain))
        .route("/v1/queues/{name}/purge", post(purge))
        .route("/v1/queues/{name}/redrive", get(tasks).post(redrive))
        .route("/v1/queues/{name}/redrive/{id}", delete(cancel))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Door { queues, aws_url: Arc::from(aws_url) })
}

impl Door {
    fn overview(&self, name: &str) -> Result<Json<QueueOverview>, ApiError> {
        let found = self.queues.overview(&self.aws_url).into_iter().find(|queue| queue.name == name);
        found.map(Json).ok_or_else(|| QueueError::NoSuchQueue(name.to_owned()).into())
    }

    async fn flow(&self, name: &str, flow: Flow) -> Result<Json<QueueOverview>, ApiError> {
        self.queues.set_flow(name, flow).await?;
        self.overview(name)
    }
}

#[derive(Serialize)]
struct List {
    queues: Vec<QueueOverview>,
}

async fn list(State(door): State<Door>, _: Viewer) -> Json<List> {
    Json(List { queues: door.queues.overview(&door.aws_url) })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewQueue {
    name: String,
    #[serde(default)]
    attributes: BTreeMap<String, String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

async fn create(State(door): State<Door>, _: Operator, body: Body) -> Result<Json<QueueOverview>, ApiError> {
    let new: NewQueue = read(body)?;
    door.queues.create_tagged(&new.name, &new.attributes, &new.tags).await?;
    door.overview(&new.name)
}

async fn show(State(door): State<Door>, _: Viewer, Path(name): Path<String>) -> Result<Json<QueueOverview>, ApiError> {
    door.overview(&name)
}

async fn remove(State(door): State<Door>, _: Operator, Path(name): Path<String>) -> Result<StatusCode, ApiError> {
    door.queues.delete_queue(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn pause(
    State(door): State<Door>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Json<QueueOverview>, ApiError> {
    door.flow(&name, Flow::Paused).await
}

async fn resume(
    State(door): State<Door>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Json<QueueOverview>, ApiError> {
    door.flow(&name, Flow::Open).await
}

async fn drain(
    State(door): State<Door>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Json<QueueOverview>, ApiError> {
    door.flow(&name, Flow::Draining).await
}

async fn purge(
    State(door): State<Door>,
    _: Operator,
    Path(name): Path<String>,
) -> Result<Json<QueueOverview>, ApiError> {
    door.queues.purge(&name).await?;
    door.overview(&name)
}

/// A move task as it is shown.
#[derive(Serialize)]
struct Task {
    id: String,
    status: &'static str,
    /// Absent: each message goes back to the queue that it came from.
    destination: Option<String>,
    per_second: Option<u32>,
    started_at: backlot_wire::Timestamp,
    moved: u64,
    to_move: u64,
    failure: Option<String>,
}

impl From<MoveTask> for Task {
    fn from(task: MoveTask) -> Self {
        let name = |arn: String| arn.rsplit(':').next().unwrap_or_default().to_owned();
        Self {
            id: task.id,
            status: task.status.as_str(),
            destination: task.destination.map(|destination| name(destination.arn)),
            per_second: task.per_second,
            started_at: backlot_wire::Timestamp(task.started_at_ms),
            moved: task.moved,
            to_move: task.to_move,
            failure: task.failure,
        }
    }
}

#[derive(Serialize)]
struct Tasks {
    tasks: Vec<Task>,
}

async fn tasks(State(door): State<Door>, _: Viewer, Path(name): Path<String>) -> Result<Json<Tasks>, ApiError> {
    let tasks = door.queues.moves(&name, REMEMBERED_MAX)?;
    Ok(Json(Tasks { tasks: tasks.into_iter().map(Task::from).collect() }))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTask {
    destination: Option<String>,
    per_second: Option<u32>,
}

async fn redrive(
    State(door): State<Door>,
    _: Operator,
    Path(name): Path<String>,
    body: Body,
) -> Result<Json<Task>, ApiError> {
    let new: NewTask = read(body)?;
    let destination = new.destination.map(|name| settings::arn(REGION, &name));
    let id = door.queues.begin_move(&settings::arn(REGION, &name), destination.as_deref(), new.per_second).await?;
    door.task(&name, &id)
}

async fn cancel(
    State(door): State<Door>,
    _: Operator,
    Path((name, id)): Path<(String, String)>,
) -> Result<Json<Task>, ApiError> {
    door.queues.cancel_move(&name, &id).await?;
    door.task(&name, &id)
}

impl Door {
    fn task(&self, name: &str, id: &str) -> Result<Json<Task>, ApiError> {
        let task = self.queues.moves(name, REMEMBERED_MAX)?.into_iter().find(|task| task.id == id);
        task.map(|task| Json(task.into())).ok_or_else(|| QueueError::NotFound(format!("task `{id}` is gone")).into())
    }
}

/// A JSON body; none is one without fields.
fn read<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    let bytes = body.map_err(|error| ApiError::new(error.status(), "bad_body", error.body_text()))?;
    let json = if bytes.is_empty() { &b"{}"[..] } else { &bytes };
    serde_json::from_slice(json).map_err(|error| ApiError::bad_request(format!("the body cannot be read: {error}")))
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        let sentence = error.to_string();
        match error {
            QueueError::NoSuchQueue(_) => Self::not_found("no_such_queue", sentence),
            QueueError::NotFound(_) => Self::not_found("not_found", sentence),
            QueueError::Exists(_) | QueueError::Differs { .. } => Self::conflict("exists", sentence),
            QueueError::DeletedRecently(_) => {
                Self::conflict("deleted_recently", sentence).hint("a name is given again after a minute")
            }
            QueueError::PurgeInProgress(_) => {
                Self::conflict("purged_recently", sentence).hint("a queue is purged once a minute")
            }
            QueueError::Draining(_) => {
                Self::conflict("draining", sentence).hint("`backlot queue resume` lets messages in again")
            }
            QueueError::Full(_) | QueueError::OverLimit(_) => Self::conflict("over_limit", sentence),
            QueueError::Store { source: ControlError::Journal(JournalError::Full), .. } => {
                Self::unavailable("full", "the disk of the appliance is full; deletes are still taken", 30)
            }
            QueueError::Store { source, queue } => Self::internal(&format!("write to queue `{queue}`: {source}")),
            _ => Self::bad_request(sentence),
        }
    }
}
