//! SQS, over AWS JSON and over the older Query protocol with XML.
//!
//! A call becomes one [`Request`] before anybody thinks, is answered with one [`Answer`], and each of them
//! is written in the caller's protocol at the end. `docs/sqs.md` lists what is served and where it differs from Amazon's.

mod address;
mod answer;
mod attributes;
mod fault;
mod fields;
mod form;
mod request;

use std::collections::BTreeMap;

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::Response;

use self::answer::{Answer, Message, Receipted};
use self::attributes::{is_asked_for, md5_of, md5_of_attributes, md5_of_trace_header};
use self::fields::Addressed;
use self::request::{Entry, Receive, Request, TaskHandle};
use super::admin::url;
use super::model::{Delivery, QueueError, ReceiveRequest, SendRequest, Sent};
use super::redrive::name_in;
use super::{Queues, settings};
use crate::edge::aws::{AwsError, Call, Dialect, Protocol};
use crate::identity::Role;

/// Most URLs of one listing (AWS).
const LIST_MAX: usize = 1_000;

/// SQS on the AWS door.
#[derive(Clone)]
pub struct Sqs {
    queues: Queues,
}

impl Sqs {
    #[must_use]
    pub fn new(queues: Queues) -> Self {
        Self { queues }
    }

    async fn answer(&self, call: &mut Call) -> Result<Answer, AwsError> {
        if call.protocol == Protocol::Cbor {
            return Err(fault::unsupported("SQS speaks AWS JSON 1.0 and Query."));
        }
        let body = std::mem::take(&mut call.body); // the connection's buffer, which a long poll need not keep
        let host = call.base_url.split_once("://").map_or("", |(_, host)| host);
        let at = Addressed { protocol: call.protocol, host, path: &call.path };
        let request = Request::parse(&call.operation, &at, &body, &call.principal.key_id)?;
        drop(body);
        if !may(call.principal.role, &request) {
            return Err(fault::access_denied(&call.operation));
        }
        self.serve(call, request).await
    }

    async fn serve(&self, call: &Call, request: Request) -> Result<Answer, AwsError> {
        let queues = &self.queues;
        match request {
            Request::CreateQueue { name, attributes, tags } => {
                queues.create_tagged(&name, &attributes, &tags).await.map_err(fault::of)?;
                Ok(Answer::QueueUrl(url(&call.base_url, &name)))
            }
            Request::GetQueueUrl { name } => match queues.exists(&name) {
                true => Ok(Answer::QueueUrl(url(&call.base_url, &name))),
                false => Err(fault::no_such_queue()),
            },
            Request::ListQueues { prefix, after, results_max } => {
                let limit = results_max.unwrap_or(LIST_MAX);
                let names = queues.names(&prefix, &after, limit + 1);
                Ok(listing(call, names, limit, results_max.is_some(), false))
            }
            Request::ListDeadLetterSourceQueues { queue, after, results_max } => {
                if !queues.exists(&queue) {
                    return Err(fault::no_such_queue());
                }
                let limit = results_max.unwrap_or(LIST_MAX);
                let overview = queues.overview(&call.base_url).into_iter();
                let sources = overview.filter(|other| other.dlq.as_deref() == Some(&queue) && other.name > after);
                let names = sources.map(|other| other.name).take(limit + 1).collect();
                Ok(listing(call, names, limit, results_max.is_some(), true))
            }
            Request::DeleteQueue { queue } => done(queues.delete_queue(&queue).await),
            Request::PurgeQueue { queue } => done(queues.purge(&queue).await),
            Request::GetQueueAttributes { queue, names } => {
                let mut attributes = queues.attributes(&queue, &call.region).map_err(fault::of)?;
                let all = names.iter().any(|name| name == "All");
                attributes.retain(|name, _| all || names.iter().any(|asked| asked == name));
                Ok(Answer::Attributes(attributes))
            }
            Request::SetQueueAttributes { queue, attributes } => done(queues.set_attributes(&queue, &attributes).await),
            Request::SendMessage { queue, message } => {
                let sums = Sums::of(&message);
                let sent = queues.send(&queue, message).await.map_err(fault::of)?;
                Ok(Answer::Sent(sums.receipted(sent)))
            }
            Request::SendMessageBatch { queue, entries } => self.send_batch(&queue, entries).await,
            Request::ReceiveMessage(receive) => self.receive(call, receive).await,
            Request::DeleteMessage { queue, receipt } => one(queues.delete(&queue, &[receipt]).await),
            Request::DeleteMessageBatch { queue, entries } => {
                let (ids, receipts, failed) = split(entries);
                batch(ids, failed, queues.delete(&queue, &receipts).await)
            }
            Request::ChangeMessageVisibility { queue, receipt, visibility_s } => {
                one(queues.change_visibility(&queue, &[(receipt, visibility_s)]).await)
            }
            Request::ChangeMessageVisibilityBatch { queue, entries } => {
                let (ids, changes, failed) = split(entries);
                batch(ids, failed, queues.change_visibility(&queue, &changes).await)
            }
            Request::TagQueue { queue, tags } => done(queues.tag(&queue, &tags).await),
            Request::UntagQueue { queue, keys } => done(queues.untag(&queue, &keys).await),
            Request::ListQueueTags { queue } => queues.tags(&queue).map(Answer::Tags).map_err(fault::of),
            Request::AddPermission { queue, permission } => {
                done(queues.grant(&queue, &settings::arn(&call.region, &queue), &permission).await)
            }
            Request::RemovePermission { queue, label } => done(queues.revoke(&queue, &label).await),
            Request::StartMessageMoveTask { source_arn, destination_arn, per_second } => {
                let begun = queues.begin_move(&source_arn, destination_arn.as_deref(), per_second).await;
                let task_id = begun.map_err(fault::of)?;
                Ok(Answer::TaskHandle(TaskHandle { task_id, source_arn }.encode()))
            }
            Request::ListMessageMoveTasks { source_arn, results_max } => {
                let tasks = queues.moves(source_name(&source_arn)?, results_max).map_err(of_source)?;
                Ok(Answer::Tasks(tasks))
            }
            Request::CancelMessageMoveTask { task } => {
                let name = source_name(&task.source_arn)?;
                queues.cancel_move(name, &task.task_id).await.map(Answer::Moved).map_err(of_source)
            }
        }
    }

    async fn send_batch(&self, queue: &str, entries: Vec<Entry<SendRequest>>) -> Result<Answer, AwsError> {
        let (ids, messages, mut failed) = split(entries);
        let sums: Vec<Sums> = messages.iter().map(Sums::of).collect();
        let answers = self.queues.send_batch(queue, messages).await.map_err(fault::of)?;
        let mut done = Vec::new();
        for ((id, sums), answer) in ids.into_iter().zip(sums).zip(answers) {
            match answer {
                Ok(sent) => done.push((id, Some(sums.receipted(sent)))),
                Err(error) => failed.push((id, fault::of(error))),
            }
        }
        Ok(Answer::Batch { done, failed })
    }

    async fn receive(&self, call: &Call, receive: Receive) -> Result<Answer, AwsError> {
        let asked = ReceiveRequest {
            messages_max: receive.messages_max,
            visibility_s: receive.visibility_s,
            wait_s: receive.wait_s,
            agent: call.agent.clone(),
            alike: call.alike.clone(),
            attempt_id: receive.attempt_id.clone(),
        };
        let deliveries = self.queues.receive(&receive.queue, asked).await.map_err(fault::of)?;
        let message = |delivery| message(delivery, &call.region, &receive);
        Ok(Answer::Messages(deliveries.into_iter().map(message).collect()))
    }
}

impl Dialect for Sqs {
    fn call(&self, mut call: Call) -> BoxFuture<'static, Response<Body>> {
        let sqs = self.clone();
        async move {
            let response = match sqs.answer(&mut call).await {
                Ok(answer) => answer.respond(&call.operation, call.protocol, &call.request_id),
                Err(error) => error.respond(call.protocol, &call.request_id),
            };
            response.map(Body::from)
        }
        .boxed()
    }
}

/// Everybody may look, agents may also take messages, operators may all.
fn may(role: Role, request: &Request) -> bool {
    role.operates() || request.reads() || (role.works() && request.works())
}

/// The MD5 sums of what the caller sent: on a job queue something else is stored.
struct Sums {
    body: String,
    attributes: Option<String>,
    system: Option<String>,
}

impl Sums {
    fn of(message: &SendRequest) -> Self {
        Self {
            body: md5_of(&message.body),
            attributes: md5_of_attributes(message.attributes.iter()),
            system: message.trace_header.as_deref().and_then(md5_of_trace_header),
        }
    }

    fn receipted(self, sent: Sent) -> Receipted {
        Receipted {
            message_id: sent.message_id,
            md5_of_body: self.body,
            md5_of_attributes: self.attributes,
            md5_of_system_attributes: self.system,
            sequence_number: sent.sequence_number,
        }
    }
}

fn message(delivery: Delivery, region: &str, asked: &Receive) -> Message {
    let system = [
        ("SenderId", Some(delivery.sender_id)),
        ("SentTimestamp", Some(delivery.sent_at.unix_ms().to_string())),
        ("ApproximateReceiveCount", Some(delivery.receive_count.to_string())),
        ("ApproximateFirstReceiveTimestamp", Some(delivery.first_received_at.unix_ms().to_string())),
        ("AWSTraceHeader", delivery.trace_header),
        ("MessageGroupId", delivery.group_id),
        ("MessageDeduplicationId", delivery.deduplication_id),
        ("SequenceNumber", delivery.sequence_number),
        ("DeadLetterQueueSourceArn", delivery.source.map(|source| settings::arn(region, &source))),
    ];
    let wanted = |name: &str| asked.system.iter().any(|asked| asked == "All" || asked == name);
    let system: BTreeMap<_, _> =
        system.into_iter().filter(|(name, _)| wanted(name)).filter_map(|(name, value)| Some((name, value?))).collect();
    let mut attributes = delivery.attributes;
    attributes.retain(|attribute| is_asked_for(&attribute.name, &asked.message));
    Message {
        message_id: delivery.message_id,
        receipt: delivery.receipt,
        md5_of_body: md5_of(&delivery.body),
        body: delivery.body,
        system,
        md5_of_attributes: md5_of_attributes(attributes.iter()),
        attributes,
    }
}

/// A page of `names`, of which one more than `limit` was looked for.
fn listing(call: &Call, mut names: Vec<String>, limit: usize, paged: bool, sources: bool) -> Answer {
    let more = names.len() > limit;
    names.truncate(limit);
    let next = names.last().filter(|_| more && paged).map(|last| request::token(last));
    Answer::QueueUrls { urls: names.iter().map(|name| url(&call.base_url, name)).collect(), next, sources }
}

fn source_name(arn: &str) -> Result<&str, AwsError> {
    name_in(arn).ok_or_else(no_source)
}

fn no_source() -> AwsError {
    fault::not_found("The resource that you specified for the SourceArn parameter doesn't exist.")
}

/// Move tasks name their queues by ARN, and have a word of their own for one that does not exist.
fn of_source(error: QueueError) -> AwsError {
    match error {
        QueueError::NoSuchQueue(_) => no_source(),
        error => fault::of(error),
    }
}

fn done(result: Result<(), QueueError>) -> Result<Answer, AwsError> {
    result.map(|()| Answer::Nothing).map_err(fault::of)
}

/// The answer to a batch of one, as if there were no batch.
fn one(result: Result<Vec<Result<(), QueueError>>, QueueError>) -> Result<Answer, AwsError> {
    done(result.and_then(|answers| answers.into_iter().collect()))
}

/// Ids and asks of the entries that can be tried, and those that can't be.
fn split<T>(entries: Vec<Entry<T>>) -> (Vec<String>, Vec<T>, Vec<(String, AwsError)>) {
    let (mut ids, mut asks, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for entry in entries {
        match entry.asks {
            Ok(ask) => {
                ids.push(entry.id);
                asks.push(ask);
            }
            Err(error) => failed.push((entry.id, error)),
        }
    }
    (ids, asks, failed)
}

fn batch(
    ids: Vec<String>,
    mut failed: Vec<(String, AwsError)>,
    answers: Result<Vec<Result<(), QueueError>>, QueueError>,
) -> Result<Answer, AwsError> {
    let mut done = Vec::new();
    for (id, answer) in ids.into_iter().zip(answers.map_err(fault::of)?) {
        match answer {
            Ok(()) => done.push((id, None)),
            Err(error) => failed.push((id, fault::of(error))),
        }
    }
    Ok(Answer::Batch { done, failed })
}

/// Reads `bytes` as the body of each operation in each protocol and throws the outcome away: for fuzzing.
pub fn fuzz_parse(bytes: &[u8]) {
    const OPERATIONS: &[&str] = &[
        "CreateQueue",
        "ListQueues",
        "SetQueueAttributes",
        "GetQueueAttributes",
        "SendMessage",
        "SendMessageBatch",
        "ReceiveMessage",
        "DeleteMessageBatch",
        "ChangeMessageVisibilityBatch",
        "TagQueue",
        "UntagQueue",
        "AddPermission",
        "StartMessageMoveTask",
        "CancelMessageMoveTask",
    ];
    let body = Bytes::copy_from_slice(bytes);
    for operation in OPERATIONS {
        for protocol in [Protocol::Json10, Protocol::Query] {
            let at = Addressed { protocol, host: "q.queue.localhost", path: "/000000000000/q" };
            let _ = Request::parse(operation, &at, &body, "key");
        }
    }
}

#[cfg(test)]
mod tests;
