//! A call as one typed value, whichever protocol it came in.

use std::collections::{BTreeMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::model::{BATCH_MAX, MESSAGE_BYTES_MAX, QueueName, SendRequest, VISIBILITY_S_MAX, WAIT_S_MAX};
use super::super::move_task::REMEMBERED_MAX;
use super::super::policy::Permission;
use super::super::redrive::is_account;
use super::fields::{Addressed, EntryFields, Fields, read};
use super::{address, fault};
use crate::edge::aws::AwsError;

/// What a caller wants.
#[derive(Debug)]
pub(super) enum Request {
    CreateQueue { name: String, attributes: BTreeMap<String, String>, tags: BTreeMap<String, String> },
    GetQueueUrl { name: String },
    ListQueues { prefix: String, after: String, results_max: Option<usize> },
    ListDeadLetterSourceQueues { queue: String, after: String, results_max: Option<usize> },
    DeleteQueue { queue: String },
    PurgeQueue { queue: String },
    GetQueueAttributes { queue: String, names: Vec<String> },
    SetQueueAttributes { queue: String, attributes: BTreeMap<String, String> },
    SendMessage { queue: String, message: SendRequest },
    SendMessageBatch { queue: String, entries: Vec<Entry<SendRequest>> },
    ReceiveMessage(Receive),
    DeleteMessage { queue: String, receipt: String },
    DeleteMessageBatch { queue: String, entries: Vec<Entry<String>> },
    ChangeMessageVisibility { queue: String, receipt: String, visibility_s: u32 },
    ChangeMessageVisibilityBatch { queue: String, entries: Vec<Entry<(String, u32)>> },
    TagQueue { queue: String, tags: BTreeMap<String, String> },
    UntagQueue { queue: String, keys: Vec<String> },
    ListQueueTags { queue: String },
    AddPermission { queue: String, permission: Permission },
    RemovePermission { queue: String, label: String },
    StartMessageMoveTask { source_arn: String, destination_arn: Option<String>, per_second: Option<u32> },
    ListMessageMoveTasks { source_arn: String, results_max: usize },
    CancelMessageMoveTask { task: TaskHandle },
}

/// What names a move task: its id and the queue that it empties.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TaskHandle {
    pub task_id: String,
    pub source_arn: String,
}

impl TaskHandle {
    pub(super) fn encode(&self) -> String {
        STANDARD.encode(serde_json::to_vec(self).unwrap_or_default()) // plain data: cannot fail
    }

    /// `None` for what is no handle.
    fn decode(text: &str) -> Option<Self> {
        if text.len() > HANDLE_BYTES_MAX {
            return None;
        }
        serde_json::from_slice(&STANDARD.decode(text).ok()?).ok()
    }
}

/// Longest task handle that is looked at.
const HANDLE_BYTES_MAX: usize = 2_048;

#[derive(Debug)]
pub(super) struct Receive {
    pub queue: String,
    pub messages_max: usize,
    pub visibility_s: Option<u32>,
    pub wait_s: Option<u32>,
    /// System attributes to answer with.
    pub system: Vec<String>,
    /// Message attributes to answer with.
    pub message: Vec<String>,
    /// `ReceiveRequestAttemptId`.
    pub attempt_id: Option<String>,
}

/// One entry of a batch: what it asks, or why it is refused by itself.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub id: String,
    pub asks: Result<T, AwsError>,
}

/// Attributes of a queue that may be asked for.
const QUEUE_ATTRIBUTES: &[&str] = &[
    "All",
    "Policy",
    "VisibilityTimeout",
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "CreatedTimestamp",
    "LastModifiedTimestamp",
    "QueueArn",
    "ApproximateNumberOfMessagesDelayed",
    "DelaySeconds",
    "ReceiveMessageWaitTimeSeconds",
    "RedrivePolicy",
    "FifoQueue",
    "ContentBasedDeduplication",
    "KmsMasterKeyId",
    "KmsDataKeyReusePeriodSeconds",
    "DeduplicationScope",
    "FifoThroughputLimit",
    "RedriveAllowPolicy",
    "SqsManagedSseEnabled",
    super::super::settings::FLOW,
    super::super::settings::JOB_QUEUE,
];

/// System attributes of a message that may be asked for.
const SYSTEM_ATTRIBUTES: &[&str] = &[
    "All",
    "SenderId",
    "SentTimestamp",
    "ApproximateReceiveCount",
    "ApproximateFirstReceiveTimestamp",
    "SequenceNumber",
    "MessageDeduplicationId",
    "MessageGroupId",
    "AWSTraceHeader",
    "DeadLetterQueueSourceArn",
];

/// Makes a request of an operation's fields and the sender's id.
type Parser = fn(Fields, &str) -> Result<Request, AwsError>;

impl Request {
    /// Reads one call. `sender_id` goes into what it sends.
    ///
    /// # Errors
    /// The SQS error that the caller is answered.
    pub(super) fn parse(operation: &str, at: &Addressed<'_>, body: &Bytes, sender_id: &str) -> Result<Self, AwsError> {
        let parse = Self::parser(operation).ok_or_else(|| fault::unknown_operation(operation))?;
        parse(read(at, body)?, sender_id)
    }

    fn parser(operation: &str) -> Option<Parser> {
        Some(match operation {
            "CreateQueue" => |fields, _| {
                let (attributes, tags) = (texts(fields.attributes), texts(fields.tags));
                Ok(Self::CreateQueue { name: required(fields.queue_name, "QueueName")?, attributes, tags })
            },
            "GetQueueUrl" => |fields, _| {
                if let Some(owner) = fields.queue_owner.filter(|owner| !is_account(owner)) {
                    let reason = "It is an account of twelve digits.";
                    return Err(fault::invalid_value(&owner, "QueueOwnerAWSAccountId", reason));
                }
                Ok(Self::GetQueueUrl { name: required(fields.queue_name, "QueueName")? })
            },
            "ListQueues" => |fields, _| {
                let (after, results_max) = page(fields.next_token, fields.max_results)?;
                Ok(Self::ListQueues { prefix: fields.queue_name_prefix.unwrap_or_default(), after, results_max })
            },
            "ListDeadLetterSourceQueues" => |fields, _| {
                let (after, results_max) = page(fields.next_token, fields.max_results)?;
                Ok(Self::ListDeadLetterSourceQueues { queue: queue(fields.queue_url)?, after, results_max })
            },
            "DeleteQueue" => |fields, _| Ok(Self::DeleteQueue { queue: queue(fields.queue_url)? }),
            "PurgeQueue" => |fields, _| Ok(Self::PurgeQueue { queue: queue(fields.queue_url)? }),
            "GetQueueAttributes" => |fields, _| {
                let names = known(fields.attribute_names, QUEUE_ATTRIBUTES)?;
                Ok(Self::GetQueueAttributes { queue: queue(fields.queue_url)?, names })
            },
            "SetQueueAttributes" => |fields, _| {
                let attributes = texts(fields.attributes);
                if attributes.is_empty() {
                    return Err(fault::missing("Attributes"));
                }
                Ok(Self::SetQueueAttributes { queue: queue(fields.queue_url)?, attributes })
            },
            "SendMessage" => |fields, sender_id| {
                let queue = queue(fields.queue_url)?;
                Ok(Self::SendMessage { queue, message: fields.entry.message(sender_id)? })
            },
            "SendMessageBatch" => |fields, sender_id| {
                let queue = queue(fields.queue_url)?;
                let entries = batch(fields.entries, |entry| entry.message(sender_id))?;
                let bytes: usize = entries.iter().filter_map(|entry| entry.asks.as_ref().ok()).map(bytes_of).sum();
                if bytes > MESSAGE_BYTES_MAX {
                    return Err(fault::batch_too_long(bytes, MESSAGE_BYTES_MAX));
                }
                Ok(Self::SendMessageBatch { queue, entries })
            },
            "ReceiveMessage" => |fields, _| receive(fields).map(Self::ReceiveMessage),
            "DeleteMessage" => |fields, _| {
                let queue = queue(fields.queue_url)?;
                Ok(Self::DeleteMessage { queue, receipt: fields.entry.receipt()? })
            },
            "DeleteMessageBatch" => |fields, _| {
                let queue = queue(fields.queue_url)?;
                Ok(Self::DeleteMessageBatch { queue, entries: batch(fields.entries, |entry| entry.receipt())? })
            },
            "ChangeMessageVisibility" => |fields, _| {
                let queue = queue(fields.queue_url)?;
                let (receipt, visibility_s) = fields.entry.visibility()?;
                Ok(Self::ChangeMessageVisibility { queue, receipt, visibility_s })
            },
            "ChangeMessageVisibilityBatch" => |fields, _| {
                let queue = queue(fields.queue_url)?;
                let entries = batch(fields.entries, EntryFields::visibility)?;
                Ok(Self::ChangeMessageVisibilityBatch { queue, entries })
            },
            "TagQueue" => |fields, _| {
                let (queue, tags) = (queue(fields.queue_url)?, texts(fields.tags));
                match tags.is_empty() {
                    true => Err(fault::missing("Tags")),
                    false => Ok(Self::TagQueue { queue, tags }),
                }
            },
            "UntagQueue" => |fields, _| {
                let queue = queue(fields.queue_url)?;
                Ok(Self::UntagQueue { queue, keys: some(fields.tag_keys, "TagKeys")? })
            },
            "ListQueueTags" => |fields, _| Ok(Self::ListQueueTags { queue: queue(fields.queue_url)? }),
            "AddPermission" => |fields, _| {
                let queue = queue(fields.queue_url)?;
                let label = required(fields.label, "Label")?;
                let accounts = some(fields.account_ids, "AWSAccountIds")?;
                let actions = some(fields.actions, "Actions")?;
                Ok(Self::AddPermission { queue, permission: Permission { label, accounts, actions } })
            },
            "RemovePermission" => |fields, _| {
                let queue = queue(fields.queue_url)?;
                Ok(Self::RemovePermission { queue, label: required(fields.label, "Label")? })
            },
            "StartMessageMoveTask" => |fields, _| {
                let most = super::super::move_task::PER_SECOND_MAX;
                let rate = fields.max_number_of_messages_per_second;
                let per_second = bounded(rate, "MaxNumberOfMessagesPerSecond", 1, most)?;
                let source_arn = required(fields.source_arn, "SourceArn")?;
                Ok(Self::StartMessageMoveTask { source_arn, destination_arn: fields.destination_arn, per_second })
            },
            "ListMessageMoveTasks" => |fields, _| {
                let most = u32::try_from(REMEMBERED_MAX).unwrap_or(u32::MAX); // ten
                let results_max = bounded(fields.max_results, "MaxResults", 1, most)?.unwrap_or(1) as usize;
                Ok(Self::ListMessageMoveTasks { source_arn: required(fields.source_arn, "SourceArn")?, results_max })
            },
            "CancelMessageMoveTask" => |fields, _| {
                let handle = required(fields.task_handle, "TaskHandle")?;
                let task = TaskHandle::decode(&handle);
                let task =
                    task.ok_or_else(|| fault::invalid_parameter("Value for parameter TaskHandle is invalid."))?;
                Ok(Self::CancelMessageMoveTask { task })
            },
            _ => return None,
        })
    }

    /// Only looks.
    pub(super) fn reads(&self) -> bool {
        matches!(
            self,
            Self::GetQueueUrl { .. }
                | Self::ListQueues { .. }
                | Self::ListDeadLetterSourceQueues { .. }
                | Self::GetQueueAttributes { .. }
                | Self::ListQueueTags { .. }
                | Self::ListMessageMoveTasks { .. }
        )
    }

    /// Takes messages and is done with them: what a worker does.
    pub(super) fn works(&self) -> bool {
        matches!(
            self,
            Self::ReceiveMessage(_)
                | Self::DeleteMessage { .. }
                | Self::DeleteMessageBatch { .. }
                | Self::ChangeMessageVisibility { .. }
                | Self::ChangeMessageVisibilityBatch { .. }
        )
    }
}

fn receive(fields: Fields) -> Result<Receive, AwsError> {
    let most = u32::try_from(BATCH_MAX).unwrap_or(u32::MAX); // ten
    let messages_max = bounded(fields.max_number_of_messages, "MaxNumberOfMessages", 1, most)?;
    let mut system = known(fields.attribute_names, SYSTEM_ATTRIBUTES)?;
    system.extend(known(fields.message_system_attribute_names, SYSTEM_ATTRIBUTES)?);
    let visibility_s = match fields.entry.visibility_timeout {
        None => None,
        Some(value) => Some(
            u32::try_from(value)
                .ok()
                .filter(|value| *value <= VISIBILITY_S_MAX)
                .ok_or_else(|| fault::visibility_out_of_range(value))?,
        ),
    };
    Ok(Receive {
        queue: queue(fields.queue_url)?,
        messages_max: messages_max.map_or(1, |count| count as usize),
        visibility_s,
        wait_s: wait_s(fields.wait_time_seconds)?,
        system,
        message: fields.message_attribute_names.unwrap_or_default(),
        attempt_id: fields.receive_request_attempt_id,
    })
}

pub(super) fn required<T>(value: Option<T>, name: &str) -> Result<T, AwsError> {
    value.ok_or_else(|| fault::missing(name))
}

pub(super) fn bounded(value: Option<i64>, name: &str, least: u32, most: u32) -> Result<Option<u32>, AwsError> {
    let Some(value) = value else { return Ok(None) };
    let in_range = u32::try_from(value).ok().filter(|value| (least..=most).contains(value));
    let reason = format!("Must be between {least} and {most}, if provided.");
    in_range.map(Some).ok_or_else(|| fault::invalid_value(&value.to_string(), name, &reason))
}

fn wait_s(value: Option<i64>) -> Result<Option<u32>, AwsError> {
    let Some(value) = value else { return Ok(None) };
    let in_range = u32::try_from(value).ok().filter(|value| *value <= WAIT_S_MAX);
    let reason = format!("Must be >= 0 and <= {WAIT_S_MAX}, if provided.");
    in_range.map(Some).ok_or_else(|| fault::invalid_value(&value.to_string(), "WaitTimeSeconds", &reason))
}

fn texts(pairs: Option<BTreeMap<String, Option<String>>>) -> BTreeMap<String, String> {
    pairs.unwrap_or_default().into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect()
}

/// A list that must not be empty.
fn some(list: Option<Vec<String>>, name: &str) -> Result<Vec<String>, AwsError> {
    required(list.filter(|list| !list.is_empty()), name)
}

fn known(names: Option<Vec<String>>, all: &[&str]) -> Result<Vec<String>, AwsError> {
    let names = names.unwrap_or_default();
    match names.iter().find(|name| !all.contains(&name.as_str())) {
        Some(unknown) => Err(fault::unknown_attribute(unknown)),
        None => Ok(names),
    }
}

fn queue(url: Option<String>) -> Result<String, AwsError> {
    address::queue_of(&required(url, "QueueUrl")?)
}

/// Where a listing goes on, and how much of it is wanted.
fn page(token: Option<String>, results_max: Option<i64>) -> Result<(String, Option<usize>), AwsError> {
    let results_max = bounded(results_max, "MaxResults", 1, 1000)?;
    let after = match token {
        None => String::new(),
        Some(token) => {
            let name = STANDARD.decode(token.as_bytes()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            name.ok_or_else(|| fault::invalid_value(&token, "NextToken", "It was not issued by this service."))?
        }
    };
    Ok((after, results_max.map(|count| count as usize)))
}

/// The token with which a listing goes on after `name`.
pub(super) fn token(name: &str) -> String {
    STANDARD.encode(name)
}

fn batch<T>(
    entries: Option<Vec<EntryFields>>,
    read: impl Fn(EntryFields) -> Result<T, AwsError>,
) -> Result<Vec<Entry<T>>, AwsError> {
    let entries = entries.unwrap_or_default();
    match entries.len() {
        0 => return Err(fault::empty_batch()),
        count if count > BATCH_MAX => return Err(fault::too_many_entries(count)),
        _ => {}
    }
    let mut ids = HashSet::new();
    let mut asked = Vec::with_capacity(entries.len());
    for mut entry in entries {
        let id = required(entry.id.take(), "Id")?;
        if QueueName::parse(&id).is_none_or(|id| id.is_fifo()) {
            return Err(fault::invalid_entry_id()); // the same letters and length as a standard queue's name
        }
        if !ids.insert(id.clone()) {
            return Err(fault::entry_ids_not_distinct(&id));
        }
        asked.push(Entry { id, asks: read(entry) });
    }
    Ok(asked)
}

/// What a message counts against a batch's bound.
fn bytes_of(message: &SendRequest) -> usize {
    let attributes = message.attributes.iter().map(|a| a.name.len() + a.data_type.len() + a.value.bytes().len());
    message.body.len() + attributes.sum::<usize>()
}
