//! Dead-letter queues: where a queue sends what was received too often, and whom a dead-letter queue takes it from.
//!
//! An ARN names a queue by its last part. Region and account are taken as they come: there is one account here, and
//! code that was written for Amazon's carries its own.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::model::QueueName;

/// Most queues that a [`RedriveAllow`] may name (AWS).
const SOURCES_MAX: usize = 10;
/// Longest ARN that is looked at.
const ARN_BYTES_MAX: usize = 256;

/// Where a message goes that was received too often.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Redrive {
    /// As the caller wrote it.
    pub target_arn: String,
    pub receives_max: u32,
}

impl Redrive {
    pub(super) fn target(&self) -> &str {
        self.target_arn.rsplit(':').next().unwrap_or_default()
    }

    /// Reads a `RedrivePolicy` of the queue `own`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(own: &QueueName, text: &str) -> Result<Self, String> {
        /// AWS takes the count as a number or as a text.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields)]
        struct Policy {
            dead_letter_target_arn: String,
            max_receive_count: Value,
        }
        let policy: Policy = serde_json::from_str(text)
            .map_err(|error| format!("it is JSON with deadLetterTargetArn and maxReceiveCount ({error})"))?;
        let receives_max = match &policy.max_receive_count {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        };
        let receives_max = receives_max
            .filter(|count| (1..=1000).contains(count))
            .and_then(|count| u32::try_from(count).ok())
            .ok_or("maxReceiveCount is a whole number from 1 to 1000")?;
        let target = name_in(&policy.dead_letter_target_arn)
            .ok_or("deadLetterTargetArn is arn:aws:sqs:<region>:<account>:<queue>")?;
        let Some(named) = QueueName::parse(target).filter(|target| target != own) else {
            return Err("deadLetterTargetArn names another queue".to_owned());
        };
        if named.is_fifo() != own.is_fifo() {
            return Err(
                "the dead-letter queue of a FIFO queue is a FIFO queue, and that of a standard queue a standard queue"
                    .to_owned(),
            );
        }
        Ok(Self { target_arn: policy.dead_letter_target_arn, receives_max })
    }

    pub(super) fn text(&self) -> String {
        serde_json::json!({"deadLetterTargetArn": self.target_arn, "maxReceiveCount": self.receives_max}).to_string()
    }
}

/// Which queues may name this one as their dead-letter queue. A queue without one may be named by all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct RedriveAllow {
    redrive_permission: Permission,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    source_queue_arns: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Permission {
    AllowAll,
    DenyAll,
    ByQueue,
}

impl RedriveAllow {
    /// Reads a `RedriveAllowPolicy`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = serde_json::from_str(text)
            .map_err(|error| format!("it is JSON with redrivePermission and sourceQueueArns ({error})"))?;
        let by_queue = policy.redrive_permission == Permission::ByQueue;
        match policy.source_queue_arns.len() {
            0 if by_queue => Err("byQueue needs sourceQueueArns".to_owned()),
            1.. if !by_queue => Err("sourceQueueArns goes with byQueue alone".to_owned()),
            count if count > SOURCES_MAX => Err(format!("sourceQueueArns has at most {SOURCES_MAX} queues")),
            _ if policy.source_queue_arns.iter().any(|arn| name_in(arn).is_none()) => {
                Err("sourceQueueArns are arn:aws:sqs:<region>:<account>:<queue>".to_owned())
            }
            _ => Ok(policy),
        }
    }

    /// Whether the queue `source` may send its dead letters here.
    pub(super) fn admits(&self, source: &str) -> bool {
        match self.redrive_permission {
            Permission::AllowAll => true,
            Permission::DenyAll => false,
            Permission::ByQueue => self.source_queue_arns.iter().any(|arn| name_in(arn) == Some(source)),
        }
    }

    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default() // plain data: cannot fail
    }
}

/// The queue's name in an ARN of SQS. `None` for what is no such ARN.
pub(super) fn name_in(arn: &str) -> Option<&str> {
    if arn.len() > ARN_BYTES_MAX {
        return None;
    }
    let parts: Vec<&str> = arn.split(':').collect();
    let ["arn", _, "sqs", _, account, name] = parts[..] else { return None };
    (is_account(account) && QueueName::parse(name).is_some()).then_some(name)
}

/// Twelve digits: any of them is the account that every queue belongs to.
pub(super) fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arn_names_a_queue_in_whatever_region_and_account() {
        assert_eq!(name_in("arn:aws:sqs:eu-west-1:000000000000:shots"), Some("shots"));
        assert_eq!(name_in("arn:aws-cn:sqs:cn-north-1:123456789012:shots"), Some("shots"));
        for bad in
            ["shots", "arn:aws:sns:r:000000000000:shots", "arn:aws:sqs:r:1:shots", "arn:aws:sqs:r:000000000000:a b"]
        {
            assert_eq!(name_in(bad), None, "{bad}");
        }
        assert_eq!(name_in(&format!("arn:aws:sqs:{}:000000000000:q", "r".repeat(300))), None);
    }

    #[test]
    fn an_allow_policy_admits_whom_it_names() {
        let admits = |text: &str| RedriveAllow::parse(text).map(|policy| policy.admits("shots"));
        assert_eq!(admits(r#"{"redrivePermission":"allowAll"}"#), Ok(true));
        assert_eq!(admits(r#"{"redrivePermission":"denyAll"}"#), Ok(false));
        let by = |arns: &str| format!(r#"{{"redrivePermission":"byQueue","sourceQueueArns":[{arns}]}}"#);
        assert_eq!(admits(&by(r#""arn:aws:sqs:r:000000000000:shots""#)), Ok(true));
        assert_eq!(admits(&by(r#""arn:aws:sqs:r:000000000000:other""#)), Ok(false));
        let eleven = [r#""arn:aws:sqs:r:000000000000:shots""#; 11].join(",");
        for bad in [
            "{",
            "{}",
            r#"{"redrivePermission":"byQueue"}"#,
            r#"{"redrivePermission":"some"}"#,
            r#"{"redrivePermission":"allowAll","colour":"red"}"#,
            r#"{"redrivePermission":"denyAll","sourceQueueArns":["arn:aws:sqs:r:000000000000:a"]}"#,
            &by(r#""shots""#),
            &by(&eleven),
        ] {
            assert!(RedriveAllow::parse(bad).is_err(), "{bad}");
        }
        let text = by(r#""arn:aws:sqs:r:000000000000:shots""#);
        assert_eq!(RedriveAllow::parse(&text).unwrap().text(), text);
    }
}
