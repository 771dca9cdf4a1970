//! Message move tasks at work: begun, listed and cancelled here, and gone on with until they end.
//!
//! The loop is idempotent and needs no signal to be right: it asks the engine which tasks run, also those that an earlier
//! run of the process began. It holds the lock for [`AT_ONCE_MAX`] messages at a time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use backlot_journal::Class as RecordClass;
use tokio_util::sync::CancellationToken;

use super::engine::{Bodies, Running};
use super::model::{QueueError, QueueId};
use super::move_task::{Destination, MoveTask, PER_SECOND_MAX, Status, TASKS_BYTES_MAX};
use super::record::{Content, content_of};
use super::redrive::name_in;
use super::{Queues, Shared, acknowledged, store_error};
use crate::control::ControlError;

/// Messages that are moved under one lock, in one journal group.
const AT_ONCE_MAX: usize = 64;
/// Shortest pause of a task with a rate: faster ones move several messages after each.
const PAUSE_MS_MIN: u64 = 20;
/// Pause after a fault, and between two looks for tasks that nobody told of: they wake it by themselves.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Queues {
    /// Begins to move what is ready on the dead-letter queue `source_arn`: to `destination_arn`, or each message back to the queue
    /// that it came from. Answers the task's id.
    ///
    /// # Errors
    /// [`QueueError::NotFound`] where a queue does not exist, [`QueueError::InvalidParameter`], [`QueueError::Full`],
    /// [`QueueError::Store`].
    pub(super) async fn begin_move(
        &self,
        source_arn: &str,
        destination_arn: Option<&str>,
        per_second: Option<u32>,
    ) -> Result<String, QueueError> {
        let missing = |parameter: &str| {
            QueueError::NotFound(format!(
                "The resource that you specified for the {parameter} parameter doesn't exist."
            ))
        };
        let find = |arn: &str, parameter: &str| {
            let name = name_in(arn).ok_or_else(|| missing(parameter))?;
            self.shared.find(name).map_err(|_| missing(parameter))
        };
        let source = find(source_arn, "SourceArn")?;
        let destination = destination_arn.map(|arn| find(arn, "DestinationArn")).transpose()?;
        if destination.as_ref().is_some_and(|destination| destination.id == source.id) {
            return Err(invalid("DestinationArn", "Source and destination are one queue.".to_owned()));
        }
        if destination.as_ref().is_some_and(|destination| destination.name.is_fifo() != source.name.is_fifo()) {
            let problem = "A FIFO queue's messages move to a FIFO queue, and a standard queue's to a standard queue.";
            return Err(invalid("DestinationArn", problem.to_owned()));
        }
        if let Some(rate) = per_second.filter(|rate| !(1..=PER_SECOND_MAX).contains(rate)) {
            let problem = format!(
                "Value {rate} for parameter MaxNumberOfMessagesPerSecond is invalid. Reason: Must be between 1 and \
                 {PER_SECOND_MAX}, if provided."
            );
            return Err(invalid("MaxNumberOfMessagesPerSecond", problem));
        }
        let id = self.shared.next_id().to_string();
        let task = MoveTask {
            id: id.clone(),
            source_arn: source_arn.to_owned(),
            destination: destination
                .zip(destination_arn)
                .map(|(queue, arn)| Destination::new(arn.to_owned(), queue.id)),
            per_second,
            started_at_ms: self.shared.clock.now().wall_ms,
            to_move: 0, // counted under the lock
            moved: 0,
            status: Status::Running,
            failure: None,
        };
        let name = source.name.as_str();
        let permit = self.shared.control.reserve(TASKS_BYTES_MAX, RecordClass::Shrinking);
        let permit = permit.await.map_err(store_error(name))?;
        let (begun, commit) = self.shared.decide(permit, |state, ctx| state.engine.begin_task(ctx, &source, task));
        acknowledged(name, commit).await?;
        begun?;
        self.shared.mover.notify_one();
        Ok(id)
    }

    /// The newest tasks of the queue `name`, up to `limit`.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`].
    pub(super) fn moves(&self, name: &str, limit: usize) -> Result<Vec<MoveTask>, QueueError> {
        let state = self.shared.state.lock();
        let queue = state.engine.queue(name).ok_or_else(|| QueueError::NoSuchQueue(name.to_owned()))?;
        Ok(state.engine.tasks(queue.id).iter().take(limit).cloned().collect())
    }

    /// Ends a task of the queue `name`. What it has moved stays where it is; answers how much that is.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`], [`QueueError::NotFound`], [`QueueError::InvalidParameter`] where it has ended,
    /// [`QueueError::Store`].
    pub(super) async fn cancel_move(&self, name: &str, id: &str) -> Result<u64, QueueError> {
        let queue = self.shared.find(name)?;
        let permit = self.shared.control.reserve(TASKS_BYTES_MAX, RecordClass::Shrinking);
        let permit = permit.await.map_err(store_error(name))?;
        let (cancelled, commit) = self.shared.decide(permit, |state, ctx| state.engine.cancel_task(ctx, &queue, id));
        acknowledged(name, commit).await?;
        cancelled
    }
}

fn invalid(name: &'static str, problem: String) -> QueueError {
    QueueError::InvalidParameter { name, problem }
}

/// How fast a task goes: it earns a thousandth of a message for each millisecond and message a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pace {
    per_second: u64,
    earned_milli: u64,
    at_ms: u64,
}

impl Pace {
    /// The first message may go at once.
    fn new(per_second: u32, now_ms: u64) -> Self {
        Self { per_second: u64::from(per_second.max(1)), earned_milli: 1000, at_ms: now_ms }
    }

    /// Takes up to `most` messages that may go by `now_ms`. What was not used is kept for one second.
    fn take(&mut self, now_ms: u64, most: usize) -> usize {
        let earned = now_ms.saturating_sub(self.at_ms) * self.per_second;
        self.earned_milli = (self.earned_milli + earned).min(self.per_second.max(1) * 1000);
        self.at_ms = now_ms;
        let whole = usize::try_from(self.earned_milli / 1000).unwrap_or(usize::MAX).min(most);
        self.earned_milli -= whole as u64 * 1000;
        whole
    }

    /// How long until the next message may go.
    fn pause_ms(&self) -> u64 {
        1000_u64.saturating_sub(self.earned_milli).div_ceil(self.per_second).max(PAUSE_MS_MIN)
    }
}

pub(super) async fn run(shared: Arc<Shared>, stopping: CancellationToken) {
    let mut paces: HashMap<String, Pace> = HashMap::new();
    while !stopping.is_cancelled() {
        let running: Vec<Running> = shared.state.lock().engine.running_tasks().collect();
        paces.retain(|id, _| running.iter().any(|task| task.task == *id));
        let mut pause = LOOK_EVERY;
        for task in running {
            let now_ms = shared.clock.now().mono_ms;
            let (count, next_ms) = match task.per_second {
                None => (AT_ONCE_MAX, 0),
                Some(rate) => {
                    let pace = paces.entry(task.task.clone()).or_insert_with(|| Pace::new(rate, now_ms));
                    (pace.take(now_ms, AT_ONCE_MAX), pace.pause_ms())
                }
            };
            let next = match go_on(&shared, task.queue, count).await {
                Ok(()) => Duration::from_millis(next_ms),
                Err(error) => {
                    tracing::warn!(%error, "move messages back from a dead-letter queue; trying again");
                    LOOK_EVERY
                }
            };
            pause = pause.min(next);
        }
        if pause.is_zero() {
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = stopping.cancelled() => {}
            () = shared.mover.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Moves up to `count` messages of the task that runs on `queue`.
async fn go_on(shared: &Shared, queue: QueueId, count: usize) -> Result<(), ControlError> {
    if count == 0 {
        return Ok(());
    }
    let bodies = read_bodies(shared, queue, count);
    let room = shared.room(count) + TASKS_BYTES_MAX;
    let permit = shared.control.reserve(room, RecordClass::Shrinking).await?;
    let ((), commit) = shared.decide(permit, |state, ctx| state.engine.go_on(ctx, queue, count, &bodies));
    match commit {
        Some(commit) => commit.acknowledged().await,
        None => Ok(()),
    }
}

/// The bodies of the next messages, where an overseer is to be told of them. One that cannot be read now is tried again with
/// the next step: compaction may have moved it in between.
fn read_bodies(shared: &Shared, queue: QueueId, count: usize) -> Bodies {
    let found = {
        let state = shared.state.lock();
        match state.engine.task_needs_bodies(queue) {
            true => state.engine.next_ready(queue, count),
            false => Vec::new(),
        }
    };
    let read = |(message, lsn)| {
        let payload = shared.control.read(lsn).map_err(|error| error.to_string());
        let content = payload.and_then(|payload| Content::decode(content_of(&payload)));
        content
            .inspect_err(|problem| tracing::warn!(%message, problem, "read a dead letter; trying again"))
            .ok()
            .map(|content| (message, content.body))
    };
    found.into_iter().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pace_is_kept_whenever_one_looks(rate in 1_u32..=500, looks in prop::collection::vec(1_u64..700, 1..200)) {
            let mut pace = Pace::new(rate, 0);
            let (mut now_ms, mut moved) = (0, 0);
            for look in looks {
                now_ms += look;
                moved += pace.take(now_ms, usize::MAX);
                let allowed = 1 + now_ms * u64::from(rate) / 1000;
                prop_assert!(moved as u64 <= allowed, "{moved} of {allowed} after {now_ms} ms");
                if look < 500 {
                    prop_assert!(pace.pause_ms() <= 1000, "{pace:?}");
                }
            }
        }
    }

    #[test]
    fn a_steady_look_reaches_the_rate_and_a_pause_earns_one_second() {
        let mut pace = Pace::new(500, 0);
        let moved: usize = (1..=1000).map(|tenth| pace.take(tenth * 20, AT_ONCE_MAX)).sum();
        assert_eq!(moved, 10_000 + 1, "twenty seconds");
        assert_eq!(pace.take(1_000_000, usize::MAX), 500);
        assert_eq!(Pace::new(1, 0).take(0, 5), 1);
    }
}
