//! Message move tasks, as far as they are decisions: which may begin, what is moved next, when one has ended.

use std::collections::HashMap;

use backlot_journal::Lsn;

use super::super::model::{MessageId, QueueError, QueueId};
use super::super::move_task::{MoveTask, RUNNING_MAX, Status, Tasks};
use super::super::overseer::{Action, Change};
use super::super::record::Entry;
use super::shelf::Place;
use super::{Context, Engine, Group, Kept, Placed, Queue, drop_message, expired, no_queue, remove};

/// A task that is to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::queue) struct Running {
    pub queue: QueueId,
    pub task: String,
    pub per_second: Option<u32>,
}

/// Bodies of messages that an overseer must be told of, by the place of their record.
pub(in crate::queue) type Bodies = HashMap<MessageId, String>;

/// What becomes of the next message of a task.
enum Next {
    Move {
        place: Place,
        to: QueueId,
    },
    /// It is past its retention.
    Expired(Place),
    /// Its overseer does not want it back.
    Superseded(Place),
    /// Its body has to be read first.
    Unread,
    Completed,
    Failed(&'static str),
}

impl Engine {
    /// Begins `task` on the dead-letter queue `queue`; how much there is to move is counted here.
    ///
    /// # Errors
    /// [`QueueError::InvalidParameter`] where `queue` is nobody's dead-letter queue or has a task that runs,
    /// [`QueueError::Full`], [`QueueError::NoSuchQueue`].
    pub(in crate::queue) fn begin_task(
        &mut self,
        ctx: &mut Context<'_>,
        queue: &Queue,
        mut task: MoveTask,
    ) -> Result<(), QueueError> {
        let refused = |problem: &str| QueueError::InvalidParameter { name: "SourceArn", problem: problem.to_owned() };
        let name = queue.name.as_str();
        let names_it =
            |kept: &Kept| kept.queue.settings.redrive.as_ref().is_some_and(|redrive| redrive.target() == name);
        if !self.kept.values().any(names_it) {
            return Err(refused("Source queue must be configured as a Dead Letter Queue."));
        }
        if self.running_tasks().count() >= RUNNING_MAX {
            return Err(QueueError::Full(format!("{RUNNING_MAX} message move tasks are running")));
        }
        let kept = self.kept.get_mut(&queue.id).filter(|kept| !kept.closed).ok_or_else(|| no_queue(queue))?;
        if kept.tasks.running().is_some() {
            let problem = "There is already a task running. Only one active task is allowed for a source queue arn at \
                           a given time.";
            return Err(refused(problem));
        }
        task.to_move = kept.shelf.counts().ready as u64;
        kept.tasks.begin(task);
        note_tasks(kept, ctx.group);
        Ok(())
    }

    /// Ends a task that runs, and answers how much it has moved.
    ///
    /// # Errors
    /// [`QueueError::NotFound`] where there is none of this id, [`QueueError::InvalidParameter`] where it has ended.
    pub(in crate::queue) fn cancel_task(
        &mut self,
        ctx: &mut Context<'_>,
        queue: &Queue,
        id: &str,
    ) -> Result<u64, QueueError> {
        let kept = self.kept.get_mut(&queue.id).ok_or_else(|| no_queue(queue))?;
        let task = kept.tasks.list.iter_mut().find(|task| task.id == id);
        let task = task.ok_or_else(|| QueueError::NotFound("Task does not exist.".to_owned()))?;
        if !task.is_running() {
            let problem = "Only active tasks can be cancelled.".to_owned();
            return Err(QueueError::InvalidParameter { name: "TaskHandle", problem });
        }
        task.status = Status::Cancelled;
        let moved = task.moved;
        note_tasks(kept, ctx.group);
        Ok(moved)
    }

    /// The tasks of a queue, newest first.
    pub(in crate::queue) fn tasks(&self, queue: QueueId) -> &[MoveTask] {
        self.kept.get(&queue).map_or(&[], |kept| &kept.tasks.list)
    }

    pub(in crate::queue) fn running_tasks(&self) -> impl Iterator<Item = Running> {
        self.kept.iter().filter_map(|(queue, kept)| {
            let task = kept.tasks.list.iter().find(|task| task.is_running())?;
            Some(Running { queue: *queue, task: task.id.clone(), per_second: task.per_second })
        })
    }

    /// Whether the messages that a task moves from `queue` go to an overseer, which wants to see their bodies.
    pub(in crate::queue) fn task_needs_bodies(&self, queue: QueueId) -> bool {
        let Some(kept) = self.kept.get(&queue) else { return false };
        let Some(task) = kept.tasks.list.iter().find(|task| task.is_running()) else { return false };
        match &task.destination {
            Some(destination) => self.is_overseen(destination.queue()),
            None => self.kept.values().any(|other| {
                let redrive = other.queue.settings.redrive.as_ref();
                other.queue.settings.job_queue
                    && redrive.is_some_and(|redrive| redrive.target() == kept.queue.name.as_str())
            }),
        }
    }

    /// Up to `count` messages that are moved next from `queue`, and where their records are.
    pub(in crate::queue) fn next_ready(&self, queue: QueueId, count: usize) -> Vec<(MessageId, Lsn)> {
        let Some(kept) = self.kept.get(&queue) else { return Vec::new() };
        let slots = kept.shelf.ready_places().take(count).map(|place| kept.shelf.slot(place));
        slots.map(|slot| (slot.id, slot.lsn)).collect()
    }

    /// Moves up to `count` messages of the task that runs on `queue`. `bodies` are those that an overseer is told of; what is
    /// not among them waits for another call.
    pub(in crate::queue) fn go_on(&mut self, ctx: &mut Context<'_>, queue: QueueId, count: usize, bodies: &Bodies) {
        let before = ctx.group.changes;
        let mut status_changed = false;
        for _ in 0..count {
            let next = self.next_of_task(ctx, queue, bodies);
            match next {
                Next::Move { place, to } => {
                    self.transfer(ctx, queue, place, to, true);
                    self.with_running(queue, |task| task.moved += 1);
                }
                Next::Expired(place) => {
                    let Some(kept) = self.kept.get_mut(&queue) else { return };
                    drop_message(kept, ctx, place, "retention");
                    kept.tally.expired += 1;
                    self.with_running(queue, |task| task.moved += 1);
                }
                Next::Superseded(place) => {
                    let Some(kept) = self.kept.get_mut(&queue) else { return };
                    remove(kept, ctx.now, ctx.group, place);
                    self.with_running(queue, |task| task.moved += 1);
                }
                Next::Unread => break,
                Next::Completed => {
                    self.with_running(queue, |task| task.status = Status::Completed);
                    status_changed = true;
                    break;
                }
                Next::Failed(reason) => {
                    self.with_running(queue, |task| task.fail(reason));
                    status_changed = true;
                    break;
                }
            }
        }
        if let Some(kept) = self.kept.get_mut(&queue).filter(|_| status_changed || ctx.group.changes > before) {
            note_tasks(kept, ctx.group);
        }
    }

    fn with_running(&mut self, queue: QueueId, change: impl FnOnce(&mut MoveTask)) {
        if let Some(task) = self.kept.get_mut(&queue).and_then(|kept| kept.tasks.running()) {
            change(task);
        }
    }

    fn next_of_task(&self, ctx: &mut Context<'_>, queue: QueueId, bodies: &Bodies) -> Next {
        let Some(kept) = self.kept.get(&queue) else { return Next::Completed };
        let Some(task) = kept.tasks.list.iter().find(|task| task.is_running()) else { return Next::Completed };
        let Some(place) = kept.shelf.ready_places().next().filter(|_| task.left() > 0) else { return Next::Completed };
        let slot = kept.shelf.slot(place);
        if expired(kept, ctx.now, slot) {
            return Next::Expired(place);
        }
        let source = kept.shelf.source(slot.id);
        let to = match (&task.destination, source) {
            (Some(destination), _) => destination.queue(),
            (None, Some(source)) => source,
            (None, None) => return Next::Failed("CouldNotDetermineMessageSource"),
        };
        let Some(target) = self.kept.get(&to).filter(|target| !target.closed) else {
            return Next::Failed("AWS.SimpleQueueService.NonExistentQueue");
        };
        if target.shelf.is_full() {
            return Next::Failed("OverLimit");
        }
        let Some(overseer) = super::overseer_of(target, ctx.overseer) else { return Next::Move { place, to } };
        if !slot.admitted || source != Some(to) {
            // What an overseer has not admitted to this very queue is not its message.
            return Next::Failed("InvalidMessageContents");
        }
        let Some(body) = bodies.get(&slot.id) else { return Next::Unread };
        let change = Change::Returned { message_id: &slot.id.to_string(), body };
        match overseer.observe(ctx.now, target.queue.name.as_str(), change, &mut ctx.group.records) {
            Some(Action::Delete) => Next::Superseded(place),
            _ => Next::Move { place, to },
        }
    }
}

/// Writes down how the tasks of a queue stand.
pub(super) fn note_tasks(kept: &Kept, group: &mut Group) {
    group.placements.push((group.records.len(), Placed::Tasks(kept.queue.id)));
    group.changes += 1;
    group.write(&Entry::Tasks { queue: kept.queue.id, tasks: kept.tasks.list.clone() });
}

impl Kept {
    /// How the tasks stood when their record was written.
    pub(super) fn put_tasks(&mut self, lsn: Lsn, list: Vec<MoveTask>) {
        self.tasks = Tasks { list, lsn };
    }
}
