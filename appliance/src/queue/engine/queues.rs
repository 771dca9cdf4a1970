//! Queues made, changed, emptied, deleted.

use std::sync::Arc;

use super::super::model::{QUEUES_MAX, QueueError, QueueId, QueueName};
use super::super::record::{Definition, Entry};
use super::super::settings::{Flow, Settings};
use super::order::{Discipline, Offer};
use super::shelf::Place;
use super::{Context, Emptied, Engine, Group, Kept, Placed, Queue, drop_message, no_queue, overseer_of};

impl Engine {
    /// Up to `limit` names after `after` that begin with `prefix`.
    pub(in crate::queue) fn names(&self, prefix: &str, after: &str, limit: usize) -> Vec<QueueName> {
        let from = after.max(prefix).to_owned();
        let rest = self.names.range::<str, _>((std::ops::Bound::Included(from.as_str()), std::ops::Bound::Unbounded));
        let begins = rest.map(|(name, _)| name).take_while(|name| name.as_str().starts_with(prefix));
        begins.filter(|name| name.as_str() > after).take(limit).cloned().collect()
    }

    /// Makes the queue `name`.
    ///
    /// # Errors
    /// [`QueueError::Exists`], [`QueueError::Full`], [`QueueError::InvalidParameter`] where the
    /// dead-letter queue does not exist or does not admit the queue.
    pub(in crate::queue) fn create(
        &mut self,
        ctx: &mut Context<'_>,
        name: &QueueName,
        settings: Settings,
    ) -> Result<Queue, QueueError> {
        if self.names.contains_key(name) {
            return Err(QueueError::Exists(name.to_string())); // perhaps it is being deleted
        }
        if self.names.len() >= QUEUES_MAX {
            return Err(QueueError::Full(format!("there are {QUEUES_MAX} queues")));
        }
        self.check_target(name, None, &settings)?;
        self.last_id += 1;
        let at_s = ctx.now.wall_ms / 1000;
        let id = QueueId(self.last_id);
        let queue =
            Queue { id, name: name.clone(), settings: Arc::new(settings), created_at_s: at_s, modified_at_s: at_s };
        self.names.insert(name.clone(), id);
        let kept = Kept::new(queue.clone(), Discipline::of(&queue.settings));
        define(&kept, ctx.group);
        self.kept.insert(id, kept);
        Ok(queue)
    }

    /// # Errors
    /// [`QueueError::InvalidParameter`] where the dead-letter queue does not exist or does not admit the queue.
    pub(in crate::queue) fn set(
        &mut self,
        ctx: &mut Context<'_>,
        queue: &Queue,
        settings: Settings,
    ) -> Result<(), QueueError> {
        self.check_target(&queue.name, Some(&queue.settings), &settings)?;
        let kept = self.kept.get_mut(&queue.id).ok_or_else(|| no_queue(queue))?;
        let opens = kept.queue.settings.flow == Flow::Paused && settings.flow != Flow::Paused;
        let is_tagging = settings.tags != kept.queue.settings.tags;
        kept.queue.settings = Arc::new(settings);
        if !is_tagging {
            kept.queue.modified_at_s = ctx.now.wall_ms / 1000;
        }
        define(kept, ctx.group);
        if opens {
            ctx.group.freed |= kept.queue.settings.job_queue;
            ctx.group.ready.push((queue.id, Offer::default())); // the first who waits passes it on
        }
        Ok(())
    }

    /// Asks the dead-letter queue that `settings` name, where they did not name it `before`.
    fn check_target(&self, own: &QueueName, before: Option<&Settings>, settings: &Settings) -> Result<(), QueueError> {
        let Some(redrive) = &settings.redrive else { return Ok(()) };
        if before.is_some_and(|before| before.redrive.as_ref() == Some(redrive)) {
            return Ok(());
        }
        let refused = |reason: &str| {
            let problem = format!("Value {} for parameter RedrivePolicy is invalid. Reason: {reason}.", redrive.text());
            Err(QueueError::InvalidParameter { name: "RedrivePolicy", problem })
        };
        let target = self.names.get(redrive.target()).and_then(|id| self.kept.get(id));
        let Some(target) = target else { return refused("Dead letter target does not exist") };
        match &target.queue.settings.redrive_allow {
            Some(allow) if !allow.admits(own.as_str()) => {
                refused("The dead letter target's RedriveAllowPolicy does not allow this queue")
            }
            _ => Ok(()),
        }
    }

    /// Takes the messages off a queue that nobody oversees, at once. What it held is for the caller to drop outside of the lock.
    /// `None`: the queue is overseen, and [`Engine::purge_some`] does it piece by piece.
    pub(in crate::queue) fn purge(&mut self, ctx: &mut Context<'_>, queue: QueueId) -> Option<Emptied> {
        let kept = self.kept.get_mut(&queue)?;
        if overseer_of(kept, ctx.overseer).is_some() {
            return None;
        }
        ctx.group.write(&Entry::Purged { queue });
        Some(Emptied { _shelf: kept.shelf.take() })
    }

    /// Takes messages off that arrived before `before`, as long as fewer than `changes_max` changes were made, from the place
    /// `walk` on. True: ask again.
    pub(in crate::queue) fn purge_some(
        &mut self,
        ctx: &mut Context<'_>,
        queue: QueueId,
        walk: &mut Place,
        before: u64,
        changes_max: usize,
    ) -> bool {
        let Some(kept) = self.kept.get_mut(&queue) else { return false };
        while *walk < kept.shelf.places() {
            if ctx.group.changes >= changes_max {
                return true;
            }
            if kept.shelf.any(*walk).is_some_and(|slot| slot.arrival() < before) {
                drop_message(kept, ctx, *walk, "purged");
            }
            *walk += 1;
        }
        false
    }

    /// What the next message's arrival will be.
    pub(in crate::queue) fn next_arrival(&self, queue: QueueId) -> u64 {
        self.kept.get(&queue).map_or(0, |kept| kept.shelf.next_arrival())
    }

    /// From now on the queue is found by nobody; [`Engine::undefine`] ends it.
    pub(in crate::queue) fn close(&mut self, queue: QueueId) {
        if let Some(kept) = self.kept.get_mut(&queue) {
            kept.closed = true;
        }
    }

    /// Takes the queue away with what is left on it.
    pub(in crate::queue) fn undefine(&mut self, ctx: &mut Context<'_>, queue: QueueId) -> Option<Emptied> {
        let mut kept = self.kept.remove(&queue)?;
        self.names.remove(&kept.queue.name);
        ctx.group.write(&Entry::Undefined { queue });
        Some(Emptied { _shelf: kept.shelf.take() })
    }
}

pub(super) fn define(kept: &Kept, group: &mut Group) {
    let queue = &kept.queue;
    group.placements.push((group.records.len(), Placed::Queue(queue.id)));
    group.changes += 1;
    let definition = Definition {
        name: queue.name.to_string(),
        settings: (*queue.settings).clone(),
        created_at_s: queue.created_at_s,
        modified_at_s: queue.modified_at_s,
        // Compaction drops the oldest first, so what it drops was sent before this was written.
        sequence: if kept.is_fifo() { kept.shelf.next_arrival() } else { 0 },
    };
    group.write(&Entry::Defined { queue: queue.id, definition });
}
