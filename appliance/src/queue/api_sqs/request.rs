//! A call as one typed value, whichever protocol it came in.
//!
//! What SQS has and this appliance does not serve (tags, policies, move tasks) is refused here by name, so
//! that no caller believes it was done.

use std::collections::{BTreeMap, HashSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::model::{
    ACCOUNT, AttributeValue, BATCH_MAX, DELAY_S_MAX, MESSAGE_BYTES_MAX, MessageAttribute, QueueName, SendRequest,
    VISIBILITY_S_MAX, WAIT_S_MAX,
};
use super::attributes::{self, TRACE_HEADER};
use super::{fault, form};
use crate::edge::aws::{AwsError, Protocol};

/// What a caller wants.
#[derive(Debug)]
pub(super) enum Request {
    CreateQueue { name: String, attributes: BTreeMap<String, String> },
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
}

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

/// Operations of SQS that come later.
const NOT_YET: &[&str] = &[
    "AddPermission",
    "RemovePermission",
    "TagQueue",
    "UntagQueue",
    "ListQueueTags",
    "StartMessageMoveTask",
    "CancelMessageMoveTask",
    "ListMessageMoveTasks",
];

/// Fields of every operation but the batches' entries: each operation takes what is its own.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Fields {
    queue_url: Option<String>,
    queue_name: Option<String>,
    queue_name_prefix: Option<String>,
    #[serde(rename = "QueueOwnerAWSAccountId")]
    queue_owner: Option<String>,
    #[serde(deserialize_with = "number")]
    max_results: Option<i64>,
    next_token: Option<String>,
    attributes: Option<BTreeMap<String, Option<String>>>,
    #[serde(rename = "tags")]
    tags: Option<BTreeMap<String, Value>>,
    attribute_names: Option<Vec<String>>,
    message_system_attribute_names: Option<Vec<String>>,
    message_attribute_names: Option<Vec<String>>,
    #[serde(deserialize_with = "number")]
    max_number_of_messages: Option<i64>,
    #[serde(deserialize_with = "number")]
    wait_time_seconds: Option<i64>,
    receive_request_attempt_id: Option<String>,
    entries: Option<Vec<EntryFields>>,
    #[serde(flatten)]
    entry: EntryFields,
}

/// Fields of a single message, on their own or as one entry of a batch.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct EntryFields {
    id: Option<String>,
    message_body: Option<String>,
    #[serde(deserialize_with = "number")]
    delay_seconds: Option<i64>,
    message_attributes: Option<BTreeMap<String, AttributeFields>>,
    message_system_attributes: Option<BTreeMap<String, AttributeFields>>,
    message_deduplication_id: Option<String>,
    message_group_id: Option<String>,
    receipt_handle: Option<String>,
    #[serde(deserialize_with = "number")]
    visibility_timeout: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct AttributeFields {
    data_type: Option<String>,
    string_value: Option<String>,
    binary_value: Option<String>,
}

/// A number, or, as a form writes it, a text that is one.
fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::Number(number) if number.is_i64() => Ok(number.as_i64()),
        Value::String(text) if text.len() <= 20 => {
            text.parse().map(Some).map_err(|_| serde::de::Error::custom(format!("`{text}` is not an integer")))
        }
        _ => Err(serde::de::Error::custom("expected an integer")),
    }
}

fn read<T: DeserializeOwned>(protocol: Protocol, path: &str, body: &Bytes) -> Result<T, AwsError> {
    let malformed = |error: serde_json::Error| fault::malformed(format!("The request cannot be read: {error}."));
    if protocol != Protocol::Query {
        return match body.is_empty() {
            true => serde_json::from_str("{}").map_err(malformed),
            false => serde_json::from_slice(body).map_err(malformed),
        };
    }
    let mut tree = form::parse(body)?;
    if let Some(fields) = tree.as_object_mut()
        && !fields.contains_key("QueueUrl")
        && path.len() > 1
    {
        fields.insert("QueueUrl".to_owned(), Value::String(path.to_owned()));
    }
    serde_json::from_value(tree).map_err(malformed)
}

/// Makes a request of an operation's fields and the sender's id.
type Parser = fn(Fields, &str) -> Result<Request, AwsError>;

impl Request {
    /// Reads one call. `sender_id` goes into what it sends.
    ///
    /// # Errors
    /// The SQS error that the caller is answered.
    pub(super) fn parse(
        operation: &str,
        protocol: Protocol,
        path: &str,
        body: &Bytes,
        sender_id: &str,
    ) -> Result<Self, AwsError> {
        if NOT_YET.contains(&operation) {
            return Err(fault::unsupported(format!("{operation} is not served yet.")));
        }
        let parse = Self::parser(operation).ok_or_else(|| fault::unknown_operation(operation))?;
        parse(read(protocol, path, body)?, sender_id)
    }

    fn parser(operation: &str) -> Option<Parser> {
        Some(match operation {
            "CreateQueue" => |fields, _| {
                if fields.tags.as_ref().is_some_and(|tags| !tags.is_empty()) {
                    return Err(fault::unsupported("Tags are not served yet."));
                }
                let attributes = attributes_of(fields.attributes);
                Ok(Self::CreateQueue { name: required(fields.queue_name, "QueueName")?, attributes })
            },
            "GetQueueUrl" => |fields, _| {
                if fields.queue_owner.is_some_and(|owner| owner != ACCOUNT) {
                    return Err(fault::no_such_queue());
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
                let attributes = attributes_of(fields.attributes);
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

impl EntryFields {
    fn message(self, sender_id: &str) -> Result<SendRequest, AwsError> {
        let delay_s = bounded(self.delay_seconds, "DelaySeconds", 0, DELAY_S_MAX)?;
        let mut attributes = Vec::new();
        for (name, fields) in self.message_attributes.unwrap_or_default() {
            attributes.push(fields.attribute(name)?);
        }
        attributes::check(&attributes)?;
        let mut trace_header = None;
        for (name, fields) in self.message_system_attributes.unwrap_or_default() {
            let attribute = fields.attribute(name)?;
            match (attribute.name.as_str(), attribute.data_type.as_str(), attribute.value) {
                (TRACE_HEADER, "String", AttributeValue::Text(text)) if !text.is_empty() => trace_header = Some(text),
                _ => {
                    return Err(fault::invalid_value(
                        &attribute.name,
                        "MessageSystemAttributes",
                        "AWSTraceHeader of type String is the only one.",
                    ));
                }
            }
        }
        let body = required(self.message_body.filter(|body| !body.is_empty()), "MessageBody")?;
        Ok(SendRequest {
            body,
            delay_s,
            attributes,
            trace_header,
            sender_id: sender_id.to_owned(),
            group_id: self.message_group_id,
            deduplication_id: self.message_deduplication_id,
        })
    }

    fn receipt(self) -> Result<String, AwsError> {
        required(self.receipt_handle, "ReceiptHandle")
    }

    fn visibility(self) -> Result<(String, u32), AwsError> {
        let value = required(self.visibility_timeout, "VisibilityTimeout")?;
        let in_range = u32::try_from(value).ok().filter(|value| *value <= VISIBILITY_S_MAX);
        let visibility_s = in_range.ok_or_else(|| fault::visibility_out_of_range(value))?;
        Ok((self.receipt()?, visibility_s))
    }
}

impl AttributeFields {
    fn attribute(self, name: String) -> Result<MessageAttribute, AwsError> {
        let data_type = required(self.data_type, "MessageAttribute.Value.DataType")?;
        let value = match (self.string_value, self.binary_value) {
            (Some(text), None) => AttributeValue::Text(text),
            (None, Some(base64)) => {
                let decoded = STANDARD.decode(base64.as_bytes());
                AttributeValue::Binary(decoded.map_err(|_| {
                    fault::invalid_parameter(format!("The message attribute '{name}' has a value that is no base64."))
                })?)
            }
            _ => {
                return Err(fault::invalid_parameter(format!(
                    "The message attribute '{name}' must contain one value, a StringValue or a BinaryValue."
                )));
            }
        };
        Ok(MessageAttribute { name, data_type, value })
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
        wait_s: bounded(fields.wait_time_seconds, "WaitTimeSeconds", 0, WAIT_S_MAX)?,
        system,
        message: fields.message_attribute_names.unwrap_or_default(),
        attempt_id: fields.receive_request_attempt_id,
    })
}

fn required<T>(value: Option<T>, name: &str) -> Result<T, AwsError> {
    value.ok_or_else(|| fault::missing(name))
}

fn bounded(value: Option<i64>, name: &str, least: u32, most: u32) -> Result<Option<u32>, AwsError> {
    let Some(value) = value else { return Ok(None) };
    let in_range = u32::try_from(value).ok().filter(|value| (least..=most).contains(value));
    let reason = format!("Must be between {least} and {most}, if provided.");
    in_range.map(Some).ok_or_else(|| fault::invalid_value(&value.to_string(), name, &reason))
}

fn attributes_of(attributes: Option<BTreeMap<String, Option<String>>>) -> BTreeMap<String, String> {
    attributes.unwrap_or_default().into_iter().map(|(name, value)| (name, value.unwrap_or_default())).collect()
}

fn known(names: Option<Vec<String>>, all: &[&str]) -> Result<Vec<String>, AwsError> {
    let names = names.unwrap_or_default();
    match names.iter().find(|name| !all.contains(&name.as_str())) {
        Some(unknown) => Err(fault::unknown_attribute(unknown)),
        None => Ok(names),
    }
}

/// The name in a queue's URL, or in its path alone: the last part, after the account.
fn queue(url: Option<String>) -> Result<String, AwsError> {
    let url = required(url, "QueueUrl")?;
    let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    let mut parts = rest.trim_end_matches('/').rsplit('/');
    let (name, account) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if account != ACCOUNT || QueueName::parse(name).is_none() {
        return Err(fault::no_such_queue());
    }
    Ok(name.to_owned())
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
