//! What the rooms of the queue say to each other: names, ids, receipts, requests, answers, errors.
//!
//! A name, an id or a receipt that exists has been checked; what a caller wrote is parsed here once.

use std::fmt;

use backlot_wire::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::overseer::Action;
use crate::control::{ControlError, Record};

/// Most messages in flight on one queue (AWS, standard queues).
pub(super) const IN_FLIGHT_MAX: usize = 120_000;
/// Most messages in flight on one FIFO queue.
pub(super) const FIFO_IN_FLIGHT_MAX: usize = 20_000;
/// Most messages one queue holds, in whatever state.
pub(super) const MESSAGES_MAX: usize = (1 << 24) - 1;
/// Most queues.
pub(super) const QUEUES_MAX: usize = 10_000;
/// Largest message, attributes included, and largest sum of a batch.
pub(super) const MESSAGE_BYTES_MAX: usize = 1_048_576;
/// Longest visibility timeout, in seconds.
pub(super) const VISIBILITY_S_MAX: u32 = 43_200;
/// Longest delay that SQS knows, in seconds.
pub(super) const DELAY_S_MAX: u32 = 900;
/// Longest delay of a message whose sender speaks no SQS, in seconds: a leap year.
pub(super) const HELD_S_MAX: u32 = 366 * 86_400;
/// Longest wait of a receive, in seconds.
pub(super) const WAIT_S_MAX: u32 = 20;
/// Most entries of a batch and most messages of a receive.
pub(super) const BATCH_MAX: usize = 10;
/// Most characters of a message group id, a deduplication id or a receive's attempt id.
pub(super) const MARK_CHARS_MAX: usize = 128;
/// The account that every queue belongs to.
pub(super) const ACCOUNT: &str = "000000000000";

/// What FIFO queues' names end with.
const FIFO_SUFFIX: &str = ".fifo";

/// 1 to 80 letters, digits, `-`, `_`; on FIFO queues `.fifo` behind them, which counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct QueueName(String);

impl QueueName {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let stem = text.strip_suffix(FIFO_SUFFIX).unwrap_or(text);
        (!stem.is_empty() && text.len() <= 80 && stem.bytes().all(plain)).then(|| Self(text.to_owned()))
    }

    /// Whether it is a FIFO queue's.
    pub(super) fn is_fifo(&self) -> bool {
        self.0.ends_with(FIFO_SUFFIX)
    }

    /// For what has a number and no name yet. No text parses to it.
    pub(super) fn unnamed() -> Self {
        Self(String::new())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for QueueName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the journal calls a queue: a name may be given again, its number is not while a record of it is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct QueueId(pub u32);

/// A random UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MessageId(pub [u8; 16]);

impl MessageId {
    pub(super) fn from_random(bytes: [u8; 16]) -> Self {
        Self(*uuid::Builder::from_random_bytes(bytes).as_uuid().as_bytes())
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        (text.len() == 36).then(|| uuid::Uuid::parse_str(text).ok()).flatten().map(|id| Self(*id.as_bytes()))
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).hyphenated().fmt(f)
    }
}

/// Two sends of one key within five minutes are one message: 16 bytes of SHA-256 over the deduplication id and its scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DeduplicationKey(pub [u8; 16]);

/// What a receive hands out to delete by. `receives` numbers the message's receives, so it names exactly one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    pub queue: QueueId,
    pub message: MessageId,
    pub receives: u32,
}

const RECEIPT_VERSION: u8 = 1;
const RECEIPT_BYTES: usize = 1 + 4 + 16 + 4 + 4;

impl Receipt {
    pub(super) fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(RECEIPT_BYTES);
        bytes.push(RECEIPT_VERSION);
        bytes.extend(self.queue.0.to_le_bytes());
        bytes.extend(self.message.0);
        bytes.extend(self.receives.to_le_bytes());
        bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
        STANDARD.encode(bytes)
    }

    /// `None` for what this appliance never wrote.
    pub(super) fn decode(text: &str) -> Option<Self> {
        if text.len() > 2 * RECEIPT_BYTES {
            return None;
        }
        let bytes = STANDARD.decode(text).ok()?;
        let bytes: [u8; RECEIPT_BYTES] = bytes.try_into().ok()?;
        let (content, sum) = bytes.split_at(RECEIPT_BYTES - 4);
        if content[0] != RECEIPT_VERSION || crc32c::crc32c(content).to_le_bytes() != sum {
            return None;
        }
        let number = |at: usize| Some(u32::from_le_bytes(content.get(at..at + 4)?.try_into().ok()?));
        Some(Self {
            queue: QueueId(number(1)?),
            message: MessageId(content.get(5..21)?.try_into().ok()?),
            receives: number(21)?,
        })
    }
}

/// A place in the order of a FIFO queue as SQS writes it: 20 digits, so that they sort as text too.
pub(super) fn sequence_number(sequence: u64) -> String {
    const FIRST: u64 = 10_000_000_000_000_000_000;
    FIRST.saturating_add(sequence).to_string()
}

/// A message on its way in. What is `None` is taken from the queue.
#[derive(Clone, Debug, Default)]
pub struct SendRequest {
    pub body: String,
    /// Up to 366 days; what is longer than the 900 s of SQS counts no retention.
    pub delay_s: Option<u32>,
    /// In the order of the caller; the MD5 sorts for itself.
    pub attributes: Vec<MessageAttribute>,
    /// The system attribute `AWSTraceHeader`.
    pub trace_header: Option<String>,
    /// Access key id of the sender.
    pub sender_id: String,
    /// `MessageGroupId`: order on FIFO queues, fairness on others.
    pub group_id: Option<String>,
    /// `MessageDeduplicationId`, on FIFO queues alone.
    pub deduplication_id: Option<String>,
}

/// One message attribute: `data_type` is `String`, `Number` or `Binary`, perhaps with `.custom` behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageAttribute {
    pub name: String,
    pub data_type: String,
    pub value: AttributeValue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeValue {
    Text(String),
    Binary(Vec<u8>),
}

impl AttributeValue {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

/// A message that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub message_id: String,
    /// What was stored: on a job queue the specification as it was filled in.
    pub body: String,
    /// On FIFO queues: 20 digits.
    pub sequence_number: Option<String>,
    /// The overseer had it already: this is the message that it was.
    pub repeated: bool,
}

/// What a consumer asks for.
#[derive(Clone, Debug, Default)]
pub struct ReceiveRequest {
    /// 1 to 10 messages.
    pub messages_max: usize,
    /// Absent: the queue's.
    pub visibility_s: Option<u32>,
    /// Absent: the queue's. At most 20.
    pub wait_s: Option<u32>,
    /// Registered name of the agent that asks; absent for a plain consumer.
    pub agent: Option<String>,
    /// Only messages that the overseer calls alike to this job of its own, and only such as are ready: it waits for nothing.
    pub alike: Option<String>,
    /// `ReceiveRequestAttemptId`, on FIFO queues alone.
    pub attempt_id: Option<String>,
}

/// A message that was received, hidden from others until its visibility timeout ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    pub message_id: String,
    pub receipt: String,
    pub body: String,
    /// The sender's, then the overseer's.
    pub attributes: Vec<MessageAttribute>,
    pub trace_header: Option<String>,
    pub sender_id: String,
    pub sent_at: Timestamp,
    /// This receive included, over all queues the message has been on.
    pub receive_count: u32,
    pub first_received_at: Timestamp,
    /// Name of the queue that dead-lettered it.
    pub source: Option<String>,
    pub group_id: Option<String>,
    /// On FIFO queues.
    pub deduplication_id: Option<String>,
    /// On FIFO queues: 20 digits.
    pub sequence_number: Option<String>,
}

/// Where a message stands, for a [`super::Queues::decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Held by a consumer whose visibility timeout has not ended.
    pub in_flight: bool,
    /// Over all queues.
    pub receive_count: u32,
}

/// What was decided about one message under the queue's lock.
#[derive(Debug)]
pub struct Decision<T> {
    /// Done to the message; ignored when it is not on the queue.
    pub action: Option<Action>,
    /// Durable in the same journal group, whether the message is there or not.
    pub records: Vec<Record>,
    pub answer: T,
}

/// One queue, as `GET /v1/queues` shows it.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct QueueOverview {
    pub name: String,
    pub url: String,
    pub ready: u64,
    pub in_flight: u64,
    pub delayed: u64,
    /// Age of the oldest message that is ready, in seconds; 0 where none is.
    pub oldest_age_s: f64,
    pub is_job_queue: bool,
    /// `open`, `paused` (nothing is received) or `draining` (nothing is sent).
    pub flow: &'static str,
    pub dlq: Option<String>,
    /// Another queue redrives to it.
    pub is_dlq: bool,
}

/// Why a queue did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    #[error("queue `{0}` does not exist")]
    NoSuchQueue(String),
    #[error("message `{message_id}` is not on queue `{queue}`")]
    NoSuchMessage { queue: String, message_id: String },
    #[error("a queue `{0}` exists with other attributes")]
    Exists(String),
    #[error("{0}")]
    NotAdmitted(String),
    #[error("a queue `{name}` exists with another {attribute}")]
    Differs { name: String, attribute: String },
    #[error("queue `{0}` was deleted less than a minute ago")]
    DeletedRecently(String),
    #[error("queue `{0}` was purged less than a minute ago")]
    PurgeInProgress(String),
    #[error("unknown attribute {0}")]
    UnknownAttribute(String),
    #[error("{0}")]
    MisplacedAttribute(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{problem}")]
    InvalidAttribute { name: String, problem: String },
    #[error("{problem}")]
    InvalidParameter { name: &'static str, problem: String },
    #[error("receipt handle was not issued by this queue")]
    ForeignReceipt,
    #[error("message is not in flight")]
    NotInFlight,
    #[error("the visibility timeout of the receipt has ended")]
    ReceiptExpired,
    #[error("the request must contain the parameter {0}")]
    Missing(&'static str),
    #[error("queue `{0}` is draining and takes no messages")]
    Draining(String),
    #[error("queue `{0}` has {IN_FLIGHT_MAX} messages in flight")]
    OverLimit(String),
    #[error("{0}")]
    Full(String),
    #[error("write to queue `{queue}`")]
    Store { queue: String, source: ControlError },
}

/// Reads `text` as a receipt handle and throws the outcome away: for fuzzing.
pub fn fuzz_receipt(text: &str) {
    let _ = Receipt::decode(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_survives_text_and_a_changed_one_is_refused() {
        let receipt = Receipt { queue: QueueId(7), message: MessageId::from_random([9; 16]), receives: 3 };
        let text = receipt.encode();
        assert_eq!(Receipt::decode(&text), Some(receipt));
        for at in 0..text.len() {
            let mut other = text.clone().into_bytes();
            other[at] = if other[at] == b'A' { b'B' } else { b'A' };
            assert_ne!(Receipt::decode(std::str::from_utf8(&other).unwrap()), Some(receipt));
        }
        assert_eq!(Receipt::decode("not-a-receipt"), None);
        assert_eq!(Receipt::decode(&"A".repeat(10_000)), None);
    }

    #[test]
    fn names_are_1_to_80_letters_digits_dashes_and_underscores_and_perhaps_a_suffix() {
        for good in ["a", "jobs-dlq", "A_1", "a.fifo", &"x".repeat(80)] {
            assert!(QueueName::parse(good).is_some(), "{good}");
        }
        let long = format!("{}.fifo", "x".repeat(76));
        for bad in ["", "a b", "a.b", ".fifo", "a.fifo.fifo", "ä", "a/b", &long, &"x".repeat(81)] {
            assert!(QueueName::parse(bad).is_none(), "{bad}");
        }
    }
}
