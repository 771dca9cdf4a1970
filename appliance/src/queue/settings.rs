//! A queue's attributes: read from what a caller wrote, checked, and written back as SQS does.
//!
//! What is kept without effect (policies, encryption) is listed in `docs/sqs.md`. `backlot.JobQueue` and `backlot.Flow` are
//! our own; the first is decided when the queue is made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::encryption::Encryption;
use super::model::{ACCOUNT, DELAY_S_MAX, MESSAGE_BYTES_MAX, QueueError, QueueName, VISIBILITY_S_MAX, WAIT_S_MAX};
use super::policy::Policy;
use super::redrive::{Redrive, RedriveAllow};
use super::tags::Tags;

/// Attribute that marks a job queue.
pub(super) const JOB_QUEUE: &str = "backlot.JobQueue";
/// Attribute that says whether messages come in and go out.
pub(super) const FLOW: &str = "backlot.Flow";

/// Attributes that [`Settings`] holds.
pub(super) const SETTABLE: &[&str] = &[
    "ContentBasedDeduplication",
    "DeduplicationScope",
    "DelaySeconds",
    "FifoQueue",
    "FifoThroughputLimit",
    "KmsDataKeyReusePeriodSeconds",
    "KmsMasterKeyId",
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "Policy",
    "ReceiveMessageWaitTimeSeconds",
    "RedriveAllowPolicy",
    "RedrivePolicy",
    "SqsManagedSseEnabled",
    "VisibilityTimeout",
    FLOW,
    JOB_QUEUE,
];

const RETENTION_S: (u32, u32) = (60, 1_209_600);
const KEY_REUSE_S: (u32, u32) = (60, 86_400);

/// How a queue treats its messages. Stands in the journal as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub delay_s: u32,
    pub message_bytes_max: u32,
    pub retention_s: u32,
    pub wait_s: u32,
    pub visibility_s: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive: Option<Redrive>,
    #[serde(default)]
    pub job_queue: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fifo: Option<Fifo>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redrive_allow: Option<RedriveAllow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    #[serde(default, skip_serializing_if = "Encryption::is_off")]
    pub encryption: Encryption,
    #[serde(default, skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    #[serde(default)]
    pub flow: Flow,
}

/// What a FIFO queue is asked beside order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Fifo {
    /// A message without a deduplication id has the SHA-256 of its body for one.
    pub content_based: bool,
    /// A deduplication id counts within its message group alone.
    pub per_group: bool,
    /// `FifoThroughputLimit` is `perMessageGroupId`. Kept and given back: no queue is throttled here.
    pub throughput_per_group: bool,
}

/// Whether messages come in and go out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Flow {
    #[default]
    Open,
    /// Nothing is received.
    Paused,
    /// Nothing is sent.
    Draining,
}

impl Flow {
    pub(super) fn parse(text: &str) -> Option<Self> {
        [Self::Open, Self::Paused, Self::Draining].into_iter().find(|flow| flow.as_str() == text)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Draining => "draining",
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            delay_s: 0,
            message_bytes_max: MESSAGE_BYTES_MAX as u32,
            retention_s: 345_600,
            wait_s: 0,
            visibility_s: 30,
            redrive: None,
            job_queue: false,
            fifo: None,
            redrive_allow: None,
            policy: None,
            encryption: Encryption::default(),
            tags: Tags::default(),
            flow: Flow::Open,
        }
    }
}

/// The ARN of a queue as this region writes it.
pub(super) fn arn(region: &str, name: &str) -> String {
    format!("arn:aws:sqs:{region}:{ACCOUNT}:{name}")
}

impl Settings {
    /// These settings with `attributes` laid over them. `creating`: attributes that can't change later may be given.
    ///
    /// # Errors
    /// [`QueueError::InvalidAttribute`], [`QueueError::UnknownAttribute`], [`QueueError::MisplacedAttribute`].
    pub(super) fn with(
        mut self,
        own: &QueueName,
        attributes: &BTreeMap<String, String>,
        creating: bool,
    ) -> Result<Self, QueueError> {
        let mut fifo = self.fifo.unwrap_or_default();
        let given = |name: &str| attributes.get(name).is_some_and(|value| !value.is_empty() && value != "false");
        if given("KmsMasterKeyId") && given("SqsManagedSseEnabled") {
            let problem = "You can use one type of server-side encryption (SSE) at one time: KMS SSE or SQS SSE.";
            return Err(QueueError::MisplacedAttribute(problem.to_owned()));
        }
        for (name, value) in attributes {
            match name.as_str() {
                "DelaySeconds" => self.delay_s = number(name, value, 0, DELAY_S_MAX)?,
                "MaximumMessageSize" => {
                    self.message_bytes_max = number(name, value, 1024, MESSAGE_BYTES_MAX as u32)?;
                }
                "MessageRetentionPeriod" => self.retention_s = number(name, value, RETENTION_S.0, RETENTION_S.1)?,
                "ReceiveMessageWaitTimeSeconds" => self.wait_s = number(name, value, 0, WAIT_S_MAX)?,
                "VisibilityTimeout" => self.visibility_s = number(name, value, 0, VISIBILITY_S_MAX)?,
                "RedrivePolicy" => self.redrive = unless_empty(name, value, |text| Redrive::parse(own, text))?,
                "RedriveAllowPolicy" => self.redrive_allow = unless_empty(name, value, RedriveAllow::parse)?,
                "Policy" => self.policy = unless_empty(name, value, Policy::parse)?,
                "SqsManagedSseEnabled" => self.encryption.set_managed(flag(name, value)?),
                "KmsMasterKeyId" => self.encryption.set_key(value).map_err(|reason| invalid(name, value, reason))?,
                "KmsDataKeyReusePeriodSeconds" => {
                    let reuse_s = (!value.is_empty()).then(|| number(name, value, KEY_REUSE_S.0, KEY_REUSE_S.1));
                    self.encryption.key_reuse_s = reuse_s.transpose()?;
                }
                FLOW => {
                    let flow = Flow::parse(value);
                    self.flow = flow.ok_or_else(|| invalid(name, value, "it is open, paused or draining"))?;
                }
                JOB_QUEUE => {
                    let wanted = flag(name, value)?;
                    if !creating && wanted != self.job_queue {
                        return Err(invalid(name, value, "it is decided when the queue is made"));
                    }
                    self.job_queue = wanted;
                }
                "FifoQueue" => {
                    let wanted = flag(name, value)?;
                    if wanted != own.is_fifo() {
                        return Err(match wanted {
                            true => bad_fifo_name(),
                            false => invalid(name, value, "the name of the queue ends with .fifo"),
                        });
                    }
                    if creating && wanted {
                        self.fifo = Some(fifo);
                    }
                }
                "ContentBasedDeduplication" if own.is_fifo() => fifo.content_based = flag(name, value)?,
                "DeduplicationScope" if own.is_fifo() => {
                    fifo.per_group = choice(name, value, ["queue", "messageGroup"])?;
                }
                "FifoThroughputLimit" if own.is_fifo() => {
                    fifo.throughput_per_group = choice(name, value, ["perQueue", "perMessageGroupId"])?;
                }
                "ContentBasedDeduplication" if value == "false" => {}
                "DeduplicationScope" | "FifoThroughputLimit" => {
                    let problem = format!("You can specify the {name} only when FifoQueue is set to true.");
                    return Err(QueueError::MisplacedAttribute(problem));
                }
                _ => {
                    return Err(QueueError::UnknownAttribute(name.clone()));
                }
            }
        }
        if own.is_fifo() {
            if self.fifo.is_none() {
                return Err(bad_fifo_name()); // the name says so, and `FifoQueue` does not
            }
            if fifo.throughput_per_group && !fifo.per_group {
                let reason = "DeduplicationScope must be messageGroup with it";
                return Err(invalid("FifoThroughputLimit", "perMessageGroupId", reason));
            }
            if self.job_queue {
                return Err(invalid(JOB_QUEUE, "true", "a FIFO queue has an order of its own"));
            }
            self.fifo = Some(fifo);
        }
        Ok(self)
    }

    /// The value of the settable attribute `name`, `None` where it isn't one or isn't set.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        Some(match name {
            "DelaySeconds" => self.delay_s.to_string(),
            "MaximumMessageSize" => self.message_bytes_max.to_string(),
            "MessageRetentionPeriod" => self.retention_s.to_string(),
            "ReceiveMessageWaitTimeSeconds" => self.wait_s.to_string(),
            "VisibilityTimeout" => self.visibility_s.to_string(),
            "SqsManagedSseEnabled" => self.encryption.managed.to_string(),
            "KmsMasterKeyId" => self.encryption.key.clone()?,
            "KmsDataKeyReusePeriodSeconds" => self.encryption.key_reuse_s()?.to_string(),
            "Policy" => self.policy.as_ref()?.text().to_owned(),
            "RedriveAllowPolicy" => self.redrive_allow.as_ref()?.text(),
            "RedrivePolicy" => self.redrive.as_ref()?.text(),
            "FifoQueue" => self.fifo.map(|_| "true".to_owned())?,
            "ContentBasedDeduplication" => self.fifo?.content_based.to_string(),
            "DeduplicationScope" => if self.fifo?.per_group { "messageGroup" } else { "queue" }.to_owned(),
            "FifoThroughputLimit" => {
                if self.fifo?.throughput_per_group { "perMessageGroupId" } else { "perQueue" }.to_owned()
            }
            FLOW => self.flow.as_str().to_owned(),
            JOB_QUEUE if self.job_queue => "true".to_owned(),
            _ => return None,
        })
    }
}

fn invalid(name: &str, value: &str, reason: &str) -> QueueError {
    let shown: String = value.chars().take(200).collect();
    QueueError::InvalidAttribute {
        name: name.to_owned(),
        problem: format!("Invalid value `{shown}` for the parameter {name}: {reason}."),
    }
}

fn bad_fifo_name() -> QueueError {
    let problem = "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with \
                   .fifo suffix and be 1 to 80 in length; FifoQueue is true for it and for no other.";
    QueueError::InvalidParameter { name: "QueueName", problem: problem.to_owned() }
}

fn flag(name: &str, value: &str) -> Result<bool, QueueError> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(invalid(name, value, "it is true or false")),
    }
}

/// Whether it is the second of two words.
fn choice(name: &str, value: &str, words: [&str; 2]) -> Result<bool, QueueError> {
    let [first, second] = words;
    match value {
        value if value == first => Ok(false),
        value if value == second => Ok(true),
        _ => Err(invalid(name, value, &format!("it is {first} or {second}"))),
    }
}

fn number(name: &str, value: &str, least: u32, most: u32) -> Result<u32, QueueError> {
    let parsed = value.parse().ok().filter(|number| (least..=most).contains(number));
    parsed.ok_or_else(|| invalid(name, value, &format!("it is a whole number from {least} to {most}")))
}

/// An empty text is how SQS takes a policy away.
fn unless_empty<T>(
    name: &str,
    value: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, QueueError> {
    match value {
        "" => Ok(None),
        text => parse(text).map(Some).map_err(|reason| invalid(name, text, &reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Result<Settings, QueueError> {
        let own = QueueName::parse("own").unwrap();
        Settings::default().with(&own, &BTreeMap::from([(name.to_owned(), value.to_owned())]), true)
    }

    #[test]
    fn what_sqs_takes_is_taken_and_given_back() {
        for (name, value) in [
            ("DelaySeconds", "900"),
            ("MaximumMessageSize", "1048576"),
            ("MessageRetentionPeriod", "60"),
            ("ReceiveMessageWaitTimeSeconds", "20"),
            ("VisibilityTimeout", "43200"),
            ("backlot.JobQueue", "true"),
            ("backlot.Flow", "draining"),
            ("SqsManagedSseEnabled", "true"),
            ("KmsMasterKeyId", "alias/x"),
            ("RedriveAllowPolicy", r#"{"redrivePermission":"denyAll"}"#),
            ("Policy", r#"{"Statement":[{"Effect":"Deny","Principal":"*","Action":"*"}]}"#),
        ] {
            assert_eq!(with(name, value).unwrap().get(name).as_deref(), Some(value), "{name}");
        }
        let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:eu-west-1:000000000000:dead","maxReceiveCount":"3"}"#;
        let settings = with("RedrivePolicy", policy).unwrap();
        let redrive = settings.redrive.as_ref().unwrap();
        assert_eq!((redrive.target(), redrive.receives_max), ("dead", 3));
        assert_eq!(with("RedrivePolicy", "").unwrap().redrive, None);
    }

    #[test]
    fn what_is_out_of_bounds_or_not_served_is_refused_by_name() {
        for (name, value) in [
            ("DelaySeconds", "901"),
            ("DelaySeconds", "-1"),
            ("DelaySeconds", ""),
            ("MaximumMessageSize", "1023"),
            ("MessageRetentionPeriod", "59"),
            ("VisibilityTimeout", "43201"),
            ("RedrivePolicy", r#"{"deadLetterTargetArn":"arn:aws:sqs:r:000000000000:d.fifo","maxReceiveCount":3}"#),
            ("KmsMasterKeyId", "a\nb"),
            ("KmsDataKeyReusePeriodSeconds", "59"),
            ("SqsManagedSseEnabled", "yes"),
            ("Policy", "{}"),
            ("RedriveAllowPolicy", "{}"),
            ("backlot.Flow", "sideways"),
            ("backlot.JobQueue", "yes"),
            ("RedrivePolicy", "{"),
            ("RedrivePolicy", r#"{"deadLetterTargetArn":"arn:aws:sqs:r:000000000000:own","maxReceiveCount":3}"#),
            ("RedrivePolicy", r#"{"deadLetterTargetArn":"arn:aws:sqs:r:000000000000:d","maxReceiveCount":0}"#),
            ("RedrivePolicy", r#"{"deadLetterTargetArn":"arn:aws:sns:r:000000000000:d","maxReceiveCount":3}"#),
        ] {
            let Err(QueueError::InvalidAttribute { name: named, problem }) = with(name, value) else {
                panic!("{name}={value}")
            };
            assert_eq!(named, name);
            assert!(problem.contains(name), "{problem}");
        }
        assert!(matches!(with("Colour", "red"), Err(QueueError::UnknownAttribute(name)) if name == "Colour"));
        assert!(matches!(with("ContentBasedDeduplication", "true"), Err(QueueError::UnknownAttribute(_))));
        assert!(matches!(with("DeduplicationScope", "queue"), Err(QueueError::MisplacedAttribute(_))));
    }

    #[test]
    fn a_fifo_queue_is_one_by_name_and_by_attribute_and_stays_one() {
        let own = QueueName::parse("own.fifo").unwrap();
        let given = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let made = |pairs: &[(&str, &str)]| Settings::default().with(&own, &given(pairs), true);
        let settings = made(&[("FifoQueue", "true"), ("ContentBasedDeduplication", "true")]).unwrap();
        for (name, value) in [
            ("FifoQueue", "true"),
            ("ContentBasedDeduplication", "true"),
            ("DeduplicationScope", "queue"),
            ("FifoThroughputLimit", "perQueue"),
        ] {
            assert_eq!(settings.get(name).as_deref(), Some(value), "{name}");
        }
        let faster = [("DeduplicationScope", "messageGroup"), ("FifoThroughputLimit", "perMessageGroupId")];
        let faster = settings.clone().with(&own, &given(&faster), false).unwrap();
        assert_eq!(faster.get("FifoThroughputLimit").as_deref(), Some("perMessageGroupId"));
        assert_eq!(faster.get("ContentBasedDeduplication").as_deref(), Some("true"));
        let text = serde_json::to_string(&faster).unwrap();
        assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), faster);

        assert!(made(&[]).is_err(), "the name alone makes none");
        assert!(with("FifoQueue", "true").is_err(), "and neither does the attribute");
        assert!(made(&[("FifoQueue", "true"), ("FifoThroughputLimit", "perMessageGroupId")]).is_err());
        assert!(made(&[("FifoQueue", "true"), (JOB_QUEUE, "true")]).is_err());
        assert!(settings.with(&own, &given(&[("FifoQueue", "false")]), false).is_err());
    }

    #[test]
    fn one_kind_of_encryption_is_named_at_a_time() {
        let own = QueueName::parse("own").unwrap();
        let laid = |settings: Settings, pairs: &[(&str, &str)]| {
            let given = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            settings.with(&own, &given, false)
        };
        let keyed =
            laid(Settings::default(), &[("KmsMasterKeyId", "k"), ("KmsDataKeyReusePeriodSeconds", "6000")]).unwrap();
        assert_eq!(keyed.get("KmsDataKeyReusePeriodSeconds").as_deref(), Some("6000"));
        let managed = laid(keyed.clone(), &[("SqsManagedSseEnabled", "true")]).unwrap();
        assert_eq!((managed.get("KmsMasterKeyId"), managed.get("KmsDataKeyReusePeriodSeconds")), (None, None));
        let back = laid(managed, &[("KmsMasterKeyId", "k")]).unwrap();
        assert_eq!(back.get("SqsManagedSseEnabled").as_deref(), Some("false"));
        assert_eq!(back.get("KmsDataKeyReusePeriodSeconds").as_deref(), Some("300"));
        let plain = laid(keyed, &[("KmsMasterKeyId", ""), ("KmsDataKeyReusePeriodSeconds", "")]).unwrap();
        assert_eq!(plain, Settings::default());
        let both = laid(Settings::default(), &[("KmsMasterKeyId", "k"), ("SqsManagedSseEnabled", "true")]);
        assert!(matches!(both, Err(QueueError::MisplacedAttribute(_))));
    }
}
