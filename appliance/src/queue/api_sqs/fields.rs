//! The fields of a call, as both protocols write them: what is there, checked one by one.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::super::model::{AttributeValue, DELAY_S_MAX, MessageAttribute, SendRequest, VISIBILITY_S_MAX};
use super::attributes::{self, TRACE_HEADER};
use super::request::{bounded, required};
use super::{address, fault, form};
use crate::edge::aws::{AwsError, Protocol};

/// Fields of every operation but the batches' entries: each operation takes what is its own.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Fields {
    pub queue_url: Option<String>,
    pub queue_name: Option<String>,
    pub queue_name_prefix: Option<String>,
    #[serde(rename = "QueueOwnerAWSAccountId")]
    pub queue_owner: Option<String>,
    #[serde(deserialize_with = "number")]
    pub max_results: Option<i64>,
    pub next_token: Option<String>,
    pub attributes: Option<BTreeMap<String, Option<String>>>,
    #[serde(rename = "tags", alias = "Tags")]
    pub tags: Option<BTreeMap<String, Option<String>>>,
    pub tag_keys: Option<Vec<String>>,
    pub label: Option<String>,
    #[serde(rename = "AWSAccountIds")]
    pub account_ids: Option<Vec<String>>,
    pub actions: Option<Vec<String>>,
    pub source_arn: Option<String>,
    pub destination_arn: Option<String>,
    #[serde(deserialize_with = "number")]
    pub max_number_of_messages_per_second: Option<i64>,
    pub task_handle: Option<String>,
    pub attribute_names: Option<Vec<String>>,
    pub message_system_attribute_names: Option<Vec<String>>,
    pub message_attribute_names: Option<Vec<String>>,
    #[serde(deserialize_with = "number")]
    pub max_number_of_messages: Option<i64>,
    #[serde(deserialize_with = "number")]
    pub wait_time_seconds: Option<i64>,
    pub receive_request_attempt_id: Option<String>,
    pub entries: Option<Vec<EntryFields>>,
    #[serde(flatten)]
    pub entry: EntryFields,
}

/// Fields of a single message, on their own or as one entry of a batch.
#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct EntryFields {
    pub id: Option<String>,
    pub message_body: Option<String>,
    #[serde(deserialize_with = "number")]
    pub delay_seconds: Option<i64>,
    message_attributes: Option<BTreeMap<String, AttributeFields>>,
    message_system_attributes: Option<BTreeMap<String, AttributeFields>>,
    pub message_deduplication_id: Option<String>,
    pub message_group_id: Option<String>,
    pub receipt_handle: Option<String>,
    #[serde(deserialize_with = "number")]
    pub visibility_timeout: Option<i64>,
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

pub(super) fn read(at: &Addressed<'_>, body: &Bytes) -> Result<Fields, AwsError> {
    let malformed = |error: serde_json::Error| fault::malformed(format!("The request cannot be read: {error}."));
    let mut fields: Fields = match at.protocol {
        Protocol::Query => serde_json::from_value(form::parse(body)?),
        _ if body.is_empty() => Ok(Fields::default()),
        _ => serde_json::from_slice(body),
    }
    .map_err(malformed)?;
    // A call to a queue's own URL needs no field for it.
    if fields.queue_url.is_none() && (at.path.len() > 1 || address::queue_of_host(at.host).is_some()) {
        fields.queue_url = Some(format!("http://{}{}", at.host, at.path));
    }
    Ok(fields)
}

/// How and whither a call came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addressed<'a> {
    pub protocol: Protocol,
    /// The `Host` header.
    pub host: &'a str,
    pub path: &'a str,
}

impl EntryFields {
    pub(super) fn message(self, sender_id: &str) -> Result<SendRequest, AwsError> {
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

    pub(super) fn receipt(self) -> Result<String, AwsError> {
        required(self.receipt_handle, "ReceiptHandle")
    }

    pub(super) fn visibility(self) -> Result<(String, u32), AwsError> {
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
