//! CloudWatch Logs on the AWS door: groups, streams, events in and out.
//!
//! What comes by `PutLogEvents` is a record like any other, found by every way of reading; its resource names the group and the
//! stream by OpenTelemetry's names, and by ids that no other group or stream has ever had. So the events of a group that was
//! deleted are not those of a later one with its name, and they are not read through this door any more, though they stay in
//! their windows until those go. What came by other ways is read here as well: see [`source`].
//!
//! Absent on purpose: metric and subscription filters, export tasks, data protection, destinations, anomaly detection.

mod api_events;
mod api_groups;
mod event;
mod fault;
mod fields;
mod filter;
mod groups;
mod put;
mod refused;
mod rows;
mod source;

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Response;
use serde_json::Value;

use self::fields::read;
use self::refused::Refused;
use self::source::Source;
use super::Logs;
use crate::edge::aws::{AwsError, Call, Dialect, Protocol};
use crate::identity::Role;

pub(super) use self::event::{INGESTED, ORIGINAL};
pub use self::filter::fuzz_filter;
pub use self::groups::Groups;
pub use self::rows::fuzz_journal;

/// CloudWatch Logs on the AWS door. Cheap to clone.
#[derive(Clone)]
pub struct CloudWatch {
    groups: Groups,
    source: Source,
    refused: Refused,
}

impl CloudWatch {
    #[must_use]
    pub fn build(logs: Logs, groups: Groups) -> Self {
        Self { groups: groups.clone(), source: Source::new(logs, groups), refused: Refused::default() }
    }

    async fn answer(&self, call: &Call) -> Result<Value, AwsError> {
        if !matches!(call.protocol, Protocol::Json10 | Protocol::Json11) {
            return Err(fault::invalid("CloudWatch Logs speaks AWS JSON 1.1."));
        }
        if !may(call.principal.role, &call.operation) {
            return Err(fault::access_denied(&call.operation));
        }
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
            other => Err(fault::unknown_operation(other)),
        }
    }
}

impl Dialect for CloudWatch {
    fn call(&self, call: Call) -> BoxFuture<'static, Response<Body>> {
        let cloud_watch = self.clone();
        async move {
            let answer = cloud_watch.answer(&call).await;
            match answer {
                Ok(answer) => respond(&answer, &call.request_id),
                Err(error) => {
                    cloud_watch.refused.count_error(&call.operation, &error);
                    error.respond(call.protocol, &call.request_id).map(Body::from)
                }
            }
        }
        .boxed()
    }
}

fn respond(answer: &Value, request_id: &str) -> Response<Body> {
    let body = if answer.is_null() { Bytes::from_static(b"{}") } else { Bytes::from(answer.to_string()) };
    let response = Response::builder()
        .header("content-type", "application/x-amz-json-1.1")
        .header("x-amzn-requestid", request_id)
        .body(Body::from(body));
    response.unwrap_or_else(|error| {
        tracing::error!(%error, "could not write an answer");
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
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
