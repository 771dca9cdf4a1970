//! Webhook: a POST in the envelope in which SNS posts to HTTP subscribers, so that code written for SNS reads it.
//!
//! Nothing is signed: a signature that SNS's verifiers accept needs a certificate of Amazon's. `Signature` and `SigningCertURL` are
//! empty, and a receiver that must know who speaks uses HTTPS with userinfo in the URL, which is sent as HTTP Basic.

use backlot_wire::Timestamp;
use bytes::Bytes;
use serde_json::json;

use super::receiver::Message;
use crate::outgoing::{Courier, Target};

pub(super) struct Webhook {
    target: Target,
    topic: String,
    courier: Courier,
}

impl Webhook {
    pub(super) fn new(url: &str, topic: &str) -> Result<Self, String> {
        Ok(Self { target: Target::parse(url)?, topic: topic.to_owned(), courier: Courier::new(1)? })
    }

    /// Scheme and host alone.
    pub(super) fn target(&self) -> String {
        self.target.shown()
    }

    fn envelope(&self, message: &Message) -> String {
        json!({
            "Type": "Notification",
            "MessageId": message.id,
            "TopicArn": self.topic,
            "Subject": message.subject,
            "Message": message.text,
            "Timestamp": Timestamp(message.made_at_ms).to_rfc3339(),
            "SignatureVersion": "1",
            "Signature": "",
            "SigningCertURL": "",
            "UnsubscribeURL": "",
        })
        .to_string()
    }

    /// One attempt; any answer of 2xx is success.
    pub(super) async fn send(&self, message: &Message) -> Result<(), String> {
        let headers = [
            ("content-type", "text/plain; charset=UTF-8".to_owned()),
            ("x-amz-sns-message-type", "Notification".to_owned()),
            ("x-amz-sns-message-id", message.id.clone()),
            ("x-amz-sns-topic-arn", self.topic.clone()),
            ("x-amz-sns-subscription-arn", format!("{}:backlot", self.topic)),
        ];
        self.courier.post(&self.target, &headers, Bytes::from(self.envelope(message))).await
    }
}
