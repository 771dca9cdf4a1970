//! Message queues: at-least-once delivery under visibility timeouts, SQS semantics.

mod overseer;

use std::sync::Arc;

use backlot_wire::Timestamp;

use crate::clock::{Clock, Now};
use crate::control::{Control, ControlError, Record};
use crate::tasks::Stage;

pub use overseer::{Action, Admitted, CHANGE_RECORDS_BYTES_MAX, Change, Class, Overseer};

/// A message on its way in. What is `None` is taken from the queue.
#[derive(Clone, Debug, Default)]
pub struct SendRequest {
    pub body: String,
    pub delay_s: Option<u32>,
    /// In the order of the caller; the MD5 sorts for itself.
    pub attributes: Vec<MessageAttribute>,
    /// The system attribute `AWSTraceHeader`.
    pub trace_header: Option<String>,
    /// Access key id of the sender.
    pub sender_id: String,
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

/// A message that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    pub message_id: String,
    /// What was stored: on a job queue the specification as it was filled in.
    pub body: String,
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
}

/// Where a message stands, for a [`Queues::decide`].
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
    #[error("{0}")]
    NotAdmitted(String),
    #[error("queue `{0}` has 120,000 messages in flight")]
    OverLimit(String),
    #[error("write to queue `{queue}`: {source}")]
    Store { queue: String, source: ControlError },
}

/// The queues. Cheap to clone.
#[derive(Clone)]
pub struct Queues {
    _control: Control,
}

impl Queues {
    /// Queues that write through `control`. They know nothing until `control` has replayed its records into [`Queues::follower`].
    #[must_use]
    pub fn build(control: Control, clock: Arc<dyn Clock>, seed: u64, overseer: Option<Arc<dyn Overseer>>) -> Self {
        let _ = (clock, seed, overseer);
        Self { _control: control }
    }

    /// Makes the queues that exist from the start, `jobs` and `jobs-dlq`, where they do not. After the replay, before the doors.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    pub async fn prepare(&self) -> Result<(), QueueError> {
        unimplemented!()
    }

    /// Starts the timers (visibility, delay, retention) and the gauges.
    pub fn start(&self, stage: &Stage) {
        let _ = stage;
        unimplemented!()
    }

    /// Sends one message to `queue`; on a job queue the overseer admits it first.
    ///
    /// # Errors
    /// [`QueueError::NotAdmitted`] with the overseer's sentence; [`QueueError::Store`]: nothing was sent.
    pub async fn send(&self, queue: &str, request: SendRequest) -> Result<Sent, QueueError> {
        let _ = (queue, request);
        unimplemented!()
    }

    /// Receives up to `messages_max` messages, waiting as long as asked while there is none.
    ///
    /// # Errors
    /// [`QueueError::OverLimit`]; [`QueueError::Store`]: the receive was not made durable.
    pub async fn receive(&self, queue: &str, request: ReceiveRequest) -> Result<Vec<Delivery>, QueueError> {
        let _ = (queue, request);
        unimplemented!()
    }

    /// Does `action` to a message and makes `records` durable in the same journal group. The overseer is not told of it.
    ///
    /// # Errors
    /// [`QueueError::NoSuchMessage`]: nothing was done and nothing recorded.
    pub async fn act(
        &self,
        queue: &str,
        message_id: &str,
        action: Action,
        records: Vec<Record>,
    ) -> Result<(), QueueError> {
        let _ = (queue, message_id, action, records);
        unimplemented!()
    }

    /// Calls `decide` under the queue's lock with where the message stands (`None`: it is not on this queue), and does
    /// what it answered, in one journal group. This is how a decision about a job and its message cannot race a timeout
    /// or a receive: those are [`Overseer::observe`]d under the same lock. `decide` may take the overseer's own lock, so
    /// nobody may call this while holding that lock. `records_bytes_max` bounds the records that it answers.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`], before `decide` is called; [`QueueError::Store`].
    pub async fn decide<T: Send>(
        &self,
        queue: &str,
        message_id: &str,
        records_bytes_max: usize,
        decide: impl FnOnce(Now, Option<Standing>) -> Decision<T> + Send,
    ) -> Result<T, QueueError> {
        let _ = (queue, message_id, records_bytes_max, decide);
        unimplemented!()
    }

    /// Hides a message that is in flight for `visibility_s` more seconds from now: a heartbeat. False when it is not in flight.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    pub async fn extend(&self, queue: &str, message_id: &str, visibility_s: u32) -> Result<bool, QueueError> {
        let _ = (queue, message_id, visibility_s);
        unimplemented!()
    }

    /// Every queue with its counts, by name. `base_url` is what URLs begin with.
    #[must_use]
    pub fn overview(&self, base_url: &str) -> Vec<QueueOverview> {
        let _ = base_url;
        unimplemented!()
    }
}
