//! Message move tasks: dead letters on their way back, a few at a time.
//!
//! A task belongs to the dead-letter queue that it empties. Its state stands in the journal in the same group as the moves that it
//! made, so after a restart it goes on where it was, and no message is moved twice.

use backlot_journal::Lsn;
use serde::{Deserialize, Serialize};

use super::model::QueueId;

/// Tasks of one queue that are remembered, the newest ones (AWS lists as many).
pub(super) const REMEMBERED_MAX: usize = 10;
/// Tasks that run at once, over all queues (AWS).
pub(super) const RUNNING_MAX: usize = 100;
/// Highest rate of a task (AWS).
pub(super) const PER_SECOND_MAX: u32 = 500;
/// Bytes of the largest record of a queue's tasks: of each, two ARNs of at most 256 bytes, which JSON may write with twice as many.
pub(super) const TASKS_BYTES_MAX: usize = REMEMBERED_MAX * 2 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MoveTask {
    /// A UUID.
    pub id: String,
    /// As the caller wrote it.
    pub source_arn: String,
    /// `None`: each message goes back to the queue that it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<u32>,
    pub started_at_ms: u64,
    /// Messages that were ready when it began; it moves no more than these.
    pub to_move: u64,
    pub moved: u64,
    pub status: Status,
    /// Why it failed, in a word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Destination {
    /// As the caller wrote it.
    pub arn: String,
    /// Number of the queue: one that is made again under the same name is another.
    queue: u32,
}

impl Destination {
    pub(super) fn new(arn: String, queue: QueueId) -> Self {
        Self { arn, queue: queue.0 }
    }

    pub(super) fn queue(&self) -> QueueId {
        QueueId(self.queue)
    }
}

/// `CANCELLING`, which SQS has, does not occur: a task is cancelled between two moves, at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Status {
    Running,
    Completed,
    Cancelled,
    Failed,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Completed => "COMPLETED",
            Self::Cancelled => "CANCELLED",
            Self::Failed => "FAILED",
        }
    }
}

impl MoveTask {
    pub(super) fn is_running(&self) -> bool {
        self.status == Status::Running
    }

    pub(super) fn left(&self) -> u64 {
        self.to_move.saturating_sub(self.moved)
    }

    pub(super) fn fail(&mut self, reason: &str) {
        self.status = Status::Failed;
        self.failure = Some(reason.to_owned());
    }
}

/// The tasks of one queue, newest first.
#[derive(Default)]
pub(super) struct Tasks {
    pub list: Vec<MoveTask>,
    /// Where their record is.
    pub lsn: Lsn,
}

impl Tasks {
    pub(super) fn running(&mut self) -> Option<&mut MoveTask> {
        self.list.iter_mut().find(|task| task.is_running())
    }

    /// Remembers `task`, and forgets the oldest one beyond what is remembered.
    pub(super) fn begin(&mut self, task: MoveTask) {
        self.list.insert(0, task);
        self.list.truncate(REMEMBERED_MAX);
    }
}
