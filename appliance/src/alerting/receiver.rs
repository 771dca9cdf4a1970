//! Who is told: what all receivers share, and their secrets kept out of logs.

use std::time::Duration;

use backlot_alerts::{Notification, alertmanager_json, subject};
use backlot_wire::metrics::ALERT_DELIVERIES;
use opentelemetry::KeyValue;

use super::AlertingError;
use super::outbox::{Entry, Outcome};
use super::sns::Sns;
use super::webhook::Webhook;
use crate::config::AlertingConfig;
use crate::telemetry::counter;

/// Longest attempt.
pub(super) const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest message, in bytes: SNS takes 256 KiB in all.
const MESSAGE_BYTES_MAX: usize = 240 * 1024;
/// Most receivers.
const RECEIVERS_MAX: usize = 20;
/// Topic in a webhook's envelope when no real one is configured.
const TOPIC_ARN_DEFAULT: &str = "arn:aws:sns:us-east-1:000000000000:backlot-alerts";

/// One receiver.
pub(super) struct Receiver {
    /// Stable over restarts and without secrets: it names the receiver's state.
    pub(super) name: String,
    /// Where it is, for people; without userinfo, path and query, which may be secrets.
    pub(super) target: String,
    way: Way,
}

enum Way {
    Webhook(Box<Webhook>),
    Sns(Box<Sns>),
}

/// What is told.
pub(super) struct Message {
    pub(super) id: String,
    pub(super) subject: String,
    /// Alertmanager's JSON.
    pub(super) text: String,
    pub(super) made_at_ms: u64,
}

/// All that are configured.
pub(super) fn all(config: &AlertingConfig) -> Result<Vec<Receiver>, AlertingError> {
    let mut receivers = Vec::new();
    let topic = if config.sns_topic_arn.is_empty() { TOPIC_ARN_DEFAULT } else { &config.sns_topic_arn };
    for url in &config.webhook_urls {
        let problem = |problem| AlertingError::Receiver { key: "webhook_urls", problem };
        let webhook = Webhook::new(url, topic).map_err(problem)?;
        let name = format!("webhook-{:08x}", crc32c::crc32c(url.as_bytes()));
        receivers.push(Receiver { name, target: webhook.target(), way: Way::Webhook(Box::new(webhook)) });
    }
    if !config.sns_topic_arn.is_empty() {
        let sns = Sns::new(config).map_err(|(key, problem)| AlertingError::Receiver { key, problem })?;
        let name = format!("sns-{:08x}", crc32c::crc32c(config.sns_topic_arn.as_bytes()));
        receivers.push(Receiver { name, target: config.sns_topic_arn.clone(), way: Way::Sns(Box::new(sns)) });
    }
    receivers.sort_by(|a, b| a.name.cmp(&b.name));
    receivers.dedup_by(|a, b| a.name == b.name);
    if receivers.len() > RECEIVERS_MAX {
        let problem = format!("{} receivers are more than {RECEIVERS_MAX}", receivers.len());
        return Err(AlertingError::Receiver { key: "webhook_urls", problem });
    }
    Ok(receivers)
}

impl Receiver {
    /// One attempt, within its time.
    pub(super) async fn send(&self, entry: &Entry, external_url: &str) -> Result<(), String> {
        let message = message(entry, external_url);
        let attempt = async {
            match &self.way {
                Way::Webhook(webhook) => webhook.send(&message).await,
                Way::Sns(sns) => sns.send(&message).await,
            }
        };
        match tokio::time::timeout(ATTEMPT_TIMEOUT, attempt).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs())),
        }
    }

    pub(super) fn count(&self, outcome: Outcome) {
        let outcome = match outcome {
            Outcome::Delivered => "sent",
            Outcome::Retried => "retried",
            Outcome::GivenUp => "given_up",
        };
        let labels = [KeyValue::new("receiver", self.name.clone()), KeyValue::new("outcome", outcome)];
        counter(&ALERT_DELIVERIES).add(1, &labels);
    }
}

/// Puts a message together that fits, leaving alerts out where it would not.
fn message(entry: &Entry, external_url: &str) -> Message {
    let Entry { id, notification } = entry;
    let mut shown: Notification = notification.clone();
    let mut text = alertmanager_json(&shown, external_url).to_string();
    while text.len() > MESSAGE_BYTES_MAX && shown.alerts.len() > 1 {
        let kept = shown.alerts.len() / 2;
        shown.left_out += shown.alerts.len() - kept;
        shown.alerts.truncate(kept);
        text = alertmanager_json(&shown, external_url).to_string();
    }
    Message { id: id.clone(), subject: subject(&shown), text, made_at_ms: notification.made_at_ms }
}
