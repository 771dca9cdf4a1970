//! Answers, as JSON for the newer protocol and as XML for the older.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Response;
use serde_json::{Map, Value, json};

use super::super::model::{AttributeValue, MessageAttribute};
use super::super::move_task::MoveTask;
use super::request::TaskHandle;
use crate::edge::aws::{AwsError, Protocol};

/// What a call is answered, errors of the whole call aside.
#[derive(Debug)]
pub(super) enum Answer {
    Nothing,
    QueueUrl(String),
    QueueUrls {
        urls: Vec<String>,
        next: Option<String>,
        sources: bool,
    },
    Attributes(BTreeMap<&'static str, String>),
    Tags(BTreeMap<String, String>),
    TaskHandle(String),
    Tasks(Vec<MoveTask>),
    /// How many messages a cancelled task has moved.
    Moved(u64),
    Sent(Receipted),
    Messages(Vec<Message>),
    Batch {
        done: Vec<(String, Option<Receipted>)>,
        failed: Vec<(String, AwsError)>,
    },
}

/// What the sender of a message gets.
#[derive(Debug)]
pub(super) struct Receipted {
    pub message_id: String,
    pub md5_of_body: String,
    pub md5_of_attributes: Option<String>,
    pub md5_of_system_attributes: Option<String>,
    /// On FIFO queues.
    pub sequence_number: Option<String>,
}

#[derive(Debug)]
pub(super) struct Message {
    pub message_id: String,
    pub receipt: String,
    pub md5_of_body: String,
    pub body: String,
    pub system: BTreeMap<&'static str, String>,
    pub md5_of_attributes: Option<String>,
    pub attributes: Vec<MessageAttribute>,
}

const NAMESPACE: &str = "http://queue.amazonaws.com/doc/2012-11-05/";

impl Answer {
    /// The answer to `operation` in the caller's protocol.
    pub(super) fn respond(&self, operation: &str, protocol: Protocol, request_id: &str) -> Response<Bytes> {
        let (kind, body) = match protocol {
            Protocol::Query => ("text/xml", self.xml(operation, request_id)),
            Protocol::Json11 => ("application/x-amz-json-1.1", self.json().to_string()),
            Protocol::Json10 | Protocol::Cbor => ("application/x-amz-json-1.0", self.json().to_string()),
        };
        let mut response = Response::new(Bytes::from(body));
        let headers = response.headers_mut();
        headers.insert("content-type", http::HeaderValue::from_static(kind));
        if let Ok(id) = http::HeaderValue::from_str(request_id) {
            headers.insert("x-amzn-requestid", id);
        }
        response
    }

    fn json(&self) -> Value {
        match self {
            Self::Nothing => json!({}),
            Self::QueueUrl(url) => json!({"QueueUrl": url}),
            Self::QueueUrls { urls, next, sources } => {
                let mut object = Map::new();
                if *sources {
                    object.insert("queueUrls".to_owned(), json!(urls)); // SQS spells it so here
                } else if !urls.is_empty() {
                    object.insert("QueueUrls".to_owned(), json!(urls));
                }
                put(&mut object, "NextToken", next.as_ref());
                object.into()
            }
            Self::Attributes(attributes) if attributes.is_empty() => json!({}),
            Self::Attributes(attributes) => json!({"Attributes": attributes}),
            Self::Tags(tags) if tags.is_empty() => json!({}),
            Self::Tags(tags) => json!({"Tags": tags}),
            Self::TaskHandle(handle) => json!({"TaskHandle": handle}),
            Self::Tasks(tasks) => {
                let fields = |task: &MoveTask| -> Map<String, Value> {
                    task_fields(task).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
                };
                json!({"Results": tasks.iter().map(fields).collect::<Vec<_>>()})
            }
            Self::Moved(count) => json!({"ApproximateNumberOfMessagesMoved": count}),
            Self::Sent(receipted) => receipted.json(None),
            Self::Messages(messages) if messages.is_empty() => json!({}),
            Self::Messages(messages) => json!({"Messages": messages.iter().map(Message::json).collect::<Vec<_>>()}),
            Self::Batch { done, failed } => {
                let done: Vec<_> = done
                    .iter()
                    .map(|(id, receipted)| match receipted {
                        Some(receipted) => receipted.json(Some(id)),
                        None => json!({"Id": id}),
                    })
                    .collect();
                let failed: Vec<_> = failed
                    .iter()
                    .map(|(id, error)| {
                        json!({
                            "Id": id, "Code": error.query_code, "Message": error.message,
                            "SenderFault": error.status.is_client_error(),
                        })
                    })
                    .collect();
                let mut object = Map::new();
                put(&mut object, "Successful", (!done.is_empty()).then_some(&done));
                put(&mut object, "Failed", (!failed.is_empty()).then_some(&failed));
                object.into()
            }
        }
    }

    fn xml(&self, operation: &str, request_id: &str) -> String {
        let mut xml = Xml::default();
        xml.text.push_str("<?xml version=\"1.0\"?>");
        xml.text.push_str(&format!("<{operation}Response xmlns=\"{NAMESPACE}\">"));
        if !matches!(self, Self::Nothing) {
            let result = format!("{operation}Result");
            xml.element(&result, |xml| self.xml_result(operation, xml));
        }
        xml.element("ResponseMetadata", |xml| xml.leaf("RequestId", request_id));
        xml.text.push_str(&format!("</{operation}Response>"));
        xml.text
    }

    fn xml_result(&self, operation: &str, xml: &mut Xml) {
        match self {
            Self::Nothing => {}
            Self::QueueUrl(url) => xml.leaf("QueueUrl", url),
            Self::QueueUrls { urls, next, .. } => {
                urls.iter().for_each(|url| xml.leaf("QueueUrl", url));
                xml.leaf_if("NextToken", next.as_ref());
            }
            Self::Attributes(attributes) => xml.pairs(attributes),
            Self::Tags(tags) => {
                for (key, value) in tags {
                    xml.element("Tag", |xml| {
                        xml.leaf("Key", key);
                        xml.leaf("Value", value);
                    });
                }
            }
            Self::TaskHandle(handle) => xml.leaf("TaskHandle", handle),
            Self::Tasks(tasks) => {
                for task in tasks {
                    xml.element("ListMessageMoveTasksResultEntry", |xml| {
                        for (name, value) in task_fields(task) {
                            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                            xml.leaf(name, &text);
                        }
                    });
                }
            }
            Self::Moved(count) => xml.leaf("ApproximateNumberOfMessagesMoved", &count.to_string()),
            Self::Sent(receipted) => receipted.xml(xml),
            Self::Messages(messages) => messages.iter().for_each(|message| message.xml(xml)),
            Self::Batch { done, failed } => {
                for (id, receipted) in done {
                    xml.element(&format!("{operation}ResultEntry"), |xml| {
                        xml.leaf("Id", id);
                        if let Some(receipted) = receipted {
                            receipted.xml(xml);
                        }
                    });
                }
                for (id, error) in failed {
                    xml.element("BatchResultErrorEntry", |xml| {
                        xml.leaf("Id", id);
                        xml.leaf("Code", error.query_code);
                        xml.leaf("Message", &error.message);
                        xml.leaf("SenderFault", if error.status.is_client_error() { "true" } else { "false" });
                    });
                }
            }
        }
    }
}

impl Receipted {
    fn json(&self, id: Option<&String>) -> Value {
        let mut object = Map::new();
        put(&mut object, "Id", id);
        put(&mut object, "MessageId", Some(&self.message_id));
        put(&mut object, "MD5OfMessageBody", Some(&self.md5_of_body));
        put(&mut object, "MD5OfMessageAttributes", self.md5_of_attributes.as_ref());
        put(&mut object, "MD5OfMessageSystemAttributes", self.md5_of_system_attributes.as_ref());
        put(&mut object, "SequenceNumber", self.sequence_number.as_ref());
        object.into()
    }

    fn xml(&self, xml: &mut Xml) {
        xml.leaf("MessageId", &self.message_id);
        xml.leaf("MD5OfMessageBody", &self.md5_of_body);
        xml.leaf_if("MD5OfMessageAttributes", self.md5_of_attributes.as_ref());
        xml.leaf_if("MD5OfMessageSystemAttributes", self.md5_of_system_attributes.as_ref());
        xml.leaf_if("SequenceNumber", self.sequence_number.as_ref());
    }
}

impl Message {
    fn json(&self) -> Value {
        let mut object = Map::new();
        put(&mut object, "MessageId", Some(&self.message_id));
        put(&mut object, "ReceiptHandle", Some(&self.receipt));
        put(&mut object, "MD5OfBody", Some(&self.md5_of_body));
        put(&mut object, "Body", Some(&self.body));
        put(&mut object, "Attributes", (!self.system.is_empty()).then_some(&self.system));
        put(&mut object, "MD5OfMessageAttributes", self.md5_of_attributes.as_ref());
        let attributes: Map<String, Value> = self
            .attributes
            .iter()
            .map(|attribute| {
                let (name, value) = value_of(attribute);
                (attribute.name.clone(), json!({name: value, "DataType": attribute.data_type}))
            })
            .collect();
        put(&mut object, "MessageAttributes", (!attributes.is_empty()).then_some(&attributes));
        object.into()
    }

    fn xml(&self, xml: &mut Xml) {
        xml.element("Message", |xml| {
            xml.leaf("MessageId", &self.message_id);
            xml.leaf("ReceiptHandle", &self.receipt);
            xml.leaf("MD5OfBody", &self.md5_of_body);
            xml.leaf("Body", &self.body);
            xml.pairs(&self.system);
            xml.leaf_if("MD5OfMessageAttributes", self.md5_of_attributes.as_ref());
            for attribute in &self.attributes {
                xml.element("MessageAttribute", |xml| {
                    xml.leaf("Name", &attribute.name);
                    xml.element("Value", |xml| {
                        let (name, value) = value_of(attribute);
                        xml.leaf(name, &value);
                        xml.leaf("DataType", &attribute.data_type);
                    });
                });
            }
        });
    }
}

/// A move task as it is listed. Only one that runs has a handle: there is nothing else to do with it.
fn task_fields(task: &MoveTask) -> Vec<(&'static str, Value)> {
    let handle = TaskHandle { task_id: task.id.clone(), source_arn: task.source_arn.clone() };
    let fields = [
        ("TaskHandle", task.is_running().then(|| json!(handle.encode()))),
        ("Status", Some(json!(task.status.as_str()))),
        ("SourceArn", Some(json!(task.source_arn))),
        ("DestinationArn", task.destination.as_ref().map(|destination| json!(destination.arn))),
        ("MaxNumberOfMessagesPerSecond", task.per_second.map(|rate| json!(rate))),
        ("ApproximateNumberOfMessagesMoved", Some(json!(task.moved))),
        ("ApproximateNumberOfMessagesToMove", Some(json!(task.to_move))),
        ("FailureReason", task.failure.as_ref().map(|reason| json!(reason))),
        ("StartedTimestamp", Some(json!(task.started_at_ms))),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn value_of(attribute: &MessageAttribute) -> (&'static str, String) {
    match &attribute.value {
        AttributeValue::Text(text) => ("StringValue", text.clone()),
        AttributeValue::Binary(bytes) => ("BinaryValue", STANDARD.encode(bytes)),
    }
}

fn put<T: serde::Serialize>(object: &mut Map<String, Value>, name: &str, value: Option<&T>) {
    if let Some(value) = value {
        object.insert(name.to_owned(), json!(value));
    }
}

#[derive(Default)]
struct Xml {
    text: String,
}

impl Xml {
    fn element(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.text.push_str(&format!("<{name}>"));
        inside(self);
        self.text.push_str(&format!("</{name}>"));
    }

    fn leaf(&mut self, name: &str, value: &str) {
        // A bare carriage return would be read as a line feed, and the body's MD5 would be wrong.
        let escaped = quick_xml::escape::escape(value).replace('\r', "&#13;");
        self.element(name, |xml| xml.text.push_str(&escaped));
    }

    fn leaf_if(&mut self, name: &str, value: Option<&String>) {
        if let Some(value) = value {
            self.leaf(name, value);
        }
    }

    fn pairs(&mut self, pairs: &BTreeMap<&'static str, String>) {
        for (name, value) in pairs {
            self.element("Attribute", |xml| {
                xml.leaf("Name", name);
                xml.leaf("Value", value);
            });
        }
    }
}
