//! Jobs: messages on a job queue whose bodies are job specifications, and what has become of them.
//!
//! The queue delivers, this room remembers: an attempt per delivery, phases, failures, results, cancels, the history.
//! [`Book`] is told by the queue of each change of a message (it is the queue's overseer) and answers with records that
//! stand in the same journal group; [`Jobs`] is the handle for everybody else, and asks the queue to decide under its
//! lock, so that a job and its message never disagree.
//!
//! Invariants:
//! - Each change of a job is decided under the lock of its queue, and journalled in that order.
//! - All that a job is stands in the catalogue; memory holds those that have not ended and a bounded number of those that
//!   ended last. No record of the journal is needed once the catalogue has it.
//! - Only the newest attempt's result counts; it and the message's deletion are one journal group.
//!
//! Absent on purpose: no scheduling. Who gets which message next is the queue's business; this room only says
//! which class of jobs fits which agent, and whose turn it is.

mod admission;
mod agents;
mod amend;
mod api;
mod api_bulk;
mod api_limits;
mod api_webhooks;
mod book;
mod bulk;
mod classes;
mod desk;
mod engine;
#[cfg(test)]
mod engine_stories;
#[cfg(test)]
mod engine_tests;
mod flows;
mod herald;
mod limits;
mod list;
mod model;
mod phases;
mod record;
mod report;
mod retry;
mod schedules;
mod search;
mod settings;
mod shares;
mod spans;
mod store;
mod stream;
mod table;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_of_time;
mod turns;
mod waits;
mod webhooks;
mod why;

use std::sync::Arc;

use backlot_wire::{FlowStatus, JobStatus, SpecError};

use crate::control::ControlError;
use crate::queue::{QueueError, Queues};

pub use api::routes;
pub use book::Book;
pub use bulk::{Action as BulkAction, DryRun, Order as BulkOrder, TaskStatus};
pub use limits::{Scope, Setting, check_limits};
pub use list::{Filter, Page};
pub use phases::{Phase, Phases};
pub use record::{fuzz_journal, fuzz_spec};
pub use search::{Counts, Remaking, SearchError, forget_index};
pub use spans::JobIds;
pub use webhooks::{Event, Seal};

/// The jobs. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    book: Arc<Book>,
    queues: Queues,
    streams: stream::Streams,
}

/// Why a job did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum JobsError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("job `{0}` does not exist")]
    NoSuchJob(String),
    #[error("bulk action `{0}` does not exist")]
    NoSuchTask(String),
    #[error("webhook `{0}` does not exist")]
    NoSuchWebhook(String),
    #[error("attempt `{0}` does not exist")]
    NoSuchAttempt(String),
    #[error("nothing is set for the {scope} `{name}`")]
    NoSuchLimit { scope: &'static str, name: String },
    #[error("agent `{0}` is not registered")]
    NoSuchAgent(String),
    #[error("`{0}` exists already and is another one")]
    Exists(String),
    #[error("flow `{0}` does not exist")]
    NoSuchFlow(String),
    #[error("flow `{id}` has {} already", .status.as_str())]
    FlowEnded { id: String, status: FlowStatus },
    #[error("schedule `{0}` does not exist")]
    NoSuchSchedule(String),
    #[error("queue `{0}` is no job queue")]
    NotAJobQueue(String),
    #[error("job `{id}` has {} already", .status.as_str())]
    Ended { id: String, status: JobStatus },
    #[error("job `{id}` is {}; only a failed or cancelled one is queued again", .status.as_str())]
    NotRetryable { id: String, status: JobStatus },
    #[error("job `{0}` lies on no dead-letter queue")]
    NotDeadLettered(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Busy(String),
    #[error("{0}")]
    Full(String),
    #[error(transparent)]
    Queue(#[from] QueueError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("query: {problem}")]
    Query { text: String, at: usize, problem: String },
    #[error(transparent)]
    Search(#[from] SearchError),
    #[error("{0}")]
    Store(String),
}

impl From<store::StoreError> for JobsError {
    fn from(error: store::StoreError) -> Self {
        Self::Store(error.to_string())
    }
}
