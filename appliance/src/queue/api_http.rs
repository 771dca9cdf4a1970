//! The queues on the http door: `GET /v1/queues`.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};

use super::{QueueOverview, Queues};
use crate::edge::Viewer;

/// Routes of the queues. `aws_url` is where the AWS door is, for the queues' URLs.
pub fn routes(queues: Queues, aws_url: &str) -> Router {
    Router::new().route("/v1/queues", get(list)).with_state((queues, Arc::from(aws_url)))
}

#[derive(serde::Serialize)]
struct List {
    queues: Vec<QueueOverview>,
}

async fn list(State((queues, aws_url)): State<(Queues, Arc<str>)>, _: Viewer) -> Json<List> {
    Json(List { queues: queues.overview(&aws_url) })
}
