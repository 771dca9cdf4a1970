//! CloudWatch Logs on the AWS door: groups, streams, events in and out, Insights' queries, the live tail.
//!
//! What comes by `PutLogEvents` is a record like any other, found by every way of reading; its resource names the group and the
//! stream by OpenTelemetry's names, and by ids that no other group or stream has ever had. So the events of a group that was
//! deleted are not those of a later one with its name, and they are not read through this door any more, though they stay in
//! their windows until those go. What came by other ways is read here as well: see [`source`].
//!
//! Absent on purpose: metric and subscription filters, export tasks, data protection, destinations, anomaly detection.

mod api_events;
mod api_groups;
mod api_insights;
mod event;
mod fault;
mod fields;
mod filter;
mod frames;
mod groups;
mod insights;
mod live;
mod put;
mod queries;
mod refused;
mod rows;
mod source;

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::fields::read;
use self::queries::Queries;
use self::refused::Refused;
use self::source::Source;
use super::Logs;
use crate::edge::aws::{AwsError, Call, Dialect, Protocol};
use crate::identity::Role;
use crate::tasks::Stage;

pub(super) use self::event::{INGESTED, ORIGINAL};
pub use self::filter::fuzz_filter;
pub use self::groups::Groups;
pub use self::insights::fuzz_insights;
pub use self::rows::fuzz_journal;

/// CloudWatch Logs on the AWS door. Cheap to clone.
#[derive(Clone)]
pub struct CloudWatch {
    groups: Groups,
    source: Source,
    queries: Queries,
    /// Live tail sessions that may still begin.
    sessions: Arc<Semaphore>,
    stopping: CancellationToken,
    refused: Refused,
}

impl CloudWatch {
    /// Queries are work of the stage `workers`; live tails end when `stopping` is cancelled.
    #[must_use]
    pub fn build(logs: Logs, groups: Groups, workers: &Stage, stopping: CancellationToken) -> Self {
        let source = Source::new(logs, groups.clone());
        let queries = Queries::new(source.clone(), workers.clone());
        let sessions = Arc::new(Semaphore::new(live::SESSIONS_MAX));
        Self { groups, source, queries, sessions, stopping, refused: Refused::default() }
    }

    fn check(&self, call: &Call) -> Result<(), AwsError> {
        if !matches!(call.protocol, Protocol::Json10 | Protocol::Json11) {
            return Err(fault::invalid("CloudWatch Logs speaks AWS JSON 1.1."));
        }
        if !may(call.principal.role, &call.operation) {
            return Err(fault::access_denied(&call.operation));
        }
        Ok(())
    }

    async fn follow(&self, call: &Call) -> Result<Response<Body>, AwsError> {
        self.check(call)?;
        self.start_live_tail(read(&call.body)?, call).await
    }

    async fn answer(&self, call: &Call) -> Result<Value, AwsError> {
        self.check(call)?;
        let (body, region) = (&call.body, call.region.as_str());
        match call.operation.as_str() {
            "CreateLogGroup" => self.create_log_group(read(body)?).await,
            "DeleteLogGroup" => self.delete_log_group(read(body)?).await,
            "CreateLogStream" => self.create_log_stream(read(body)?).await,
            "DeleteLogStream" => self.delete_log_stream(read(body)?).await,
            "PutRetentionPolicy" => self.put_retention(read(body)?).await,
            "DeleteRetentionPolicy" => self.delete_retention(read(body)?).await,
            "TagLogGroup" => self.tag_log_group(read(body)?).await,
            "UntagLogGroup" => self.untag_log_group(read(body)?).await,
            "ListTagsLogGroup" => self.list_tags_log_group(read(body)?),
            "TagResource" => self.tag_resource(read(body)?).await,
            "UntagResource" => self.untag_resource(read(body)?).await,
            "ListTagsForResource" => self.list_tags_for_resource(read(body)?),
            "PutLogEvents" => self.put_log_events(read(body)?).await,
            "DescribeLogGroups" => self.describe_log_groups(read(body)?, region).await,
            "DescribeLogStreams" => self.describe_log_streams(read(body)?, region).await,
            "GetLogEvents" => self.get_log_events(read(body)?).await,
            "FilterLogEvents" => self.filter_log_events(read(body)?).await,
            "GetLogRecord" => self.get_log_record(read(body)?).await,
            "StartQuery" => self.start_query(read(body)?).await,
            "GetQueryResults" => self.get_query_results(read(body)?),
            "StopQuery" => self.stop_query(read(body)?),
            "DescribeQueries" => self.describe_queries(read(body)?),
            "GetLogGroupFields" => self.get_log_group_fields(read(body)?).await,
            other => Err(fault::unknown_operation(other)),
        }
    }
}

impl Dialect for CloudWatch {
    fn call(&self, call: Call) -> BoxFuture<'static, Response<Body>> {
        let cloud_watch = self.clone();
        async move {
            let answer = match call.operation.as_str() {
                "StartLiveTail" => cloud_watch.follow(&call).await,
                _ => cloud_watch.answer(&call).await.map(|answer| respond(&answer, &call.request_id)),
            };
            match answer {
                Ok(response) => response,
                Err(error) => {
                    cloud_watch.refused.count_error(&call.operation, &error);
                    refuse(&error, &call.request_id)
                }
            }
        }
        .boxed()
    }
}

fn respond(answer: &Value, request_id: &str) -> Response<Body> {
    let body = if answer.is_null() { Bytes::from_static(b"{}") } else { Bytes::from(answer.to_string()) };
    written(StatusCode::OK, body, request_id)
}

/// Shippers compare the type letter for letter, so that it stands alone.
fn refuse(error: &AwsError, request_id: &str) -> Response<Body> {
    let body = json!({"__type": error.shape, "message": error.message});
    written(error.status, body.to_string().into(), request_id)
}

fn written(status: StatusCode, body: Bytes, request_id: &str) -> Response<Body> {
    let response = Response::builder()
        .status(status)
        .header("content-type", "application/x-amz-json-1.1")
        .header("x-amzn-requestid", request_id)
        .body(Body::from(body));
    response.unwrap_or_else(|error| {
        tracing::error!(%error, "could not write an answer");
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
}

/// Everybody may look, agents may also send and make what they send to, operators may all.
fn may(role: Role, operation: &str) -> bool {
    match operation {
        "CreateLogGroup" | "CreateLogStream" | "PutLogEvents" => role.works(),
        "DeleteLogGroup"
        | "DeleteLogStream"
        | "PutRetentionPolicy"
        | "DeleteRetentionPolicy"
        | "TagLogGroup"
        | "UntagLogGroup"
        | "TagResource"
        | "UntagResource" => role.operates(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_their_bare_type() {
        let response = refuse(&fault::not_found("The specified log group does not exist."), "r-1");
        assert_eq!(response.status(), 400);
        let body = futures::executor::block_on(axum::body::to_bytes(response.into_body(), 1000)).unwrap();
        let expected =
            json!({"__type": "ResourceNotFoundException", "message": "The specified log group does not exist."});
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), expected);
    }

    #[test]
    fn viewers_read_agents_send_operators_may_all() {
        for (operation, viewer, agent, operator) in [
            ("FilterLogEvents", true, true, true),
            ("PutLogEvents", false, true, true),
            ("CreateLogStream", false, true, true),
            ("DeleteLogGroup", false, false, true),
            ("PutRetentionPolicy", false, false, true),
        ] {
            let may = |role| may(role, operation);
            assert_eq!((may(Role::Viewer), may(Role::Agent), may(Role::Operator)), (viewer, agent, operator));
        }
    }
}
