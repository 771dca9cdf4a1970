//! Decides where every message is, from a `now` that it is handed. Pure: it writes no disk, waits for nobody, asks no clock.
//!
//! One engine holds all queues, behind one lock: a redrive moves between two of them, and every decision ends in one
//! journal, whose order must be the order of the decisions. What is decided goes into a [`Group`] as records; the
//! caller submits it under the same lock and tells the engine the positions ([`Engine::placed`]).
//!
//! Invariants: a message in flight is handed to nobody until its timeout ends; only the newest receipt deletes; a message
//! is received only after its send is durable ([`Engine::publish`]); what was received as often as its queue
//! allows goes to the dead-letter queue when it would become ready again, or at the next receive at the latest.

mod messages;
mod moves;
mod replay;
mod shelf;
mod timers;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use backlot_journal::Lsn;

pub(super) use self::shelf::{Counts, Place};
use self::shelf::{Shelf, Slot, State};
use super::model::{MessageId, QUEUES_MAX, QueueError, QueueId, QueueName, Receipt};
use super::overseer::{Action, Change, Class, Overseer, Tenant};
use super::record::{Definition, Entry};
use super::settings::Settings;
use crate::clock::Now;
use crate::control::Record;

/// What a caller needs to know of a queue before it asks the engine for something.
#[derive(Clone, Debug)]
pub(super) struct Queue {
    pub id: QueueId,
    pub name: QueueName,
    pub settings: Arc<Settings>,
    pub created_at_s: u64,
    pub modified_at_s: u64,
}

struct Kept {
    queue: Queue,
    /// Where its definition is.
    lsn: Lsn,
    shelf: Shelf,
    tally: Tally,
    /// How far the retention sweep has come.
    swept: Place,
    /// It is being deleted.
    closed: bool,
}

/// What a purged queue held.
pub(super) struct Emptied {
    _shelf: Shelf,
}

/// What has happened on a queue since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub sent: u64,
    pub received: u64,
    pub deleted: u64,
    /// Deletes with a receipt that was not the newest.
    pub deleted_stale: u64,
    pub redriven: u64,
    pub expired: u64,
}

/// What one call decided, to be made durable as one.
#[derive(Default)]
pub(super) struct Group {
    pub records: Vec<Record>,
    /// Which of the records have a position that the engine keeps.
    placements: Vec<(usize, Placed)>,
    /// Messages that became ready, for those who wait.
    pub ready: Vec<(QueueId, Class)>,
    /// Changes made, as the caller budgets them.
    pub changes: usize,
    /// The earliest timer that was set.
    pub due_ms: Option<u64>,
}

#[derive(Clone, Copy)]
enum Placed {
    Message(QueueId, MessageId),
    Queue(QueueId),
}

impl Group {
    fn write(&mut self, entry: &Entry) {
        self.records.push(entry.encode());
    }

    fn timer(&mut self, due_ms: u64) {
        self.due_ms = Some(self.due_ms.map_or(due_ms, |earliest| earliest.min(due_ms)));
    }
}

/// What every deciding call is handed.
pub(super) struct Context<'a> {
    pub now: Now,
    pub overseer: Option<&'a dyn Overseer>,
    pub group: &'a mut Group,
}

/// A message on its way in, encoded by the caller.
pub(super) struct Incoming<'a> {
    pub id: MessageId,
    /// As [`super::record::Content::encode`] wrote it.
    pub content: &'a [u8],
    pub body: &'a str,
    pub delay_s: u32,
    /// Priority, class and tenant from the overseer.
    pub admitted: Option<(u8, Class, Tenant)>,
}

/// A message that was received, but for its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub lsn: Lsn,
    pub receipt: Receipt,
    /// Over all queues.
    pub receive_count: u32,
    /// After its send.
    pub first_received_after_ms: u32,
    pub source: Option<QueueName>,
    pub admitted: bool,
}

/// What a delete came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deletion {
    Done,
    /// The receipt is not the newest; nothing was deleted.
    Stale,
    /// The message was gone already.
    Absent,
}

#[derive(Default)]
pub(super) struct Engine {
    kept: BTreeMap<QueueId, Kept>,
    names: BTreeMap<QueueName, QueueId>,
    last_id: u32,
    /// Sends in journal order that are not known to be durable.
    pending: VecDeque<(Lsn, QueueId, Place, u64)>,
    /// Numbers of queues whose definition has not been replayed yet.
    undefined: HashSet<QueueId>,
}

impl Engine {
    pub(super) fn queue(&self, name: &str) -> Option<&Queue> {
        let id = self.names.get(name)?;
        self.kept.get(id).filter(|kept| !kept.closed).map(|kept| &kept.queue)
    }

    /// Bytes of the records that compaction would write again.
    pub(super) fn live_bytes(&self) -> u64 {
        self.kept.values().map(|kept| kept.shelf.record_bytes()).sum()
    }

    /// Every queue, by name.
    pub(super) fn queues(&self) -> impl Iterator<Item = (&Queue, Counts, Tally)> {
        let kept = self.names.values().filter_map(|id| self.kept.get(id));
        kept.map(|kept| (&kept.queue, kept.shelf.counts(), kept.tally))
    }

    /// Up to `limit` names after `after` that begin with `prefix`.
    pub(super) fn names(&self, prefix: &str, after: &str, limit: usize) -> Vec<QueueName> {
        let from = after.max(prefix).to_owned();
        let rest = self.names.range::<str, _>((std::ops::Bound::Included(from.as_str()), std::ops::Bound::Unbounded));
        let begins = rest.map(|(name, _)| name).take_while(|name| name.as_str().starts_with(prefix));
        begins.filter(|name| name.as_str() > after).take(limit).cloned().collect()
    }

    /// Whether an overseer owns the messages of the queue.
    pub(super) fn is_overseen(&self, queue: QueueId) -> bool {
        self.kept.get(&queue).is_some_and(|kept| kept.queue.settings.job_queue)
    }

    /// The classes of the messages that are ready, each once.
    pub(super) fn ready_classes(&self, queue: QueueId) -> std::collections::BTreeSet<Class> {
        self.kept.get(&queue).map(|kept| kept.shelf.ready_classes().collect()).unwrap_or_default()
    }

    pub(super) fn counts(&self, queue: QueueId) -> Counts {
        self.kept.get(&queue).map(|kept| kept.shelf.counts()).unwrap_or_default()
    }

    /// Age of the oldest ready message in milliseconds, 0 where none is.
    pub(super) fn oldest_age_ms(&self, now: Now, queue: QueueId) -> u64 {
        let oldest = self.kept.get(&queue).and_then(|kept| kept.shelf.oldest_ready_sent_ms());
        oldest.map_or(0, |sent_ms| age_ms(now, sent_ms))
    }

    /// Makes the queue `name`.
    ///
    /// # Errors
    /// [`QueueError::Exists`], [`QueueError::Full`], [`QueueError::InvalidParameter`] where the
    /// dead-letter queue does not exist.
    pub(super) fn create(
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
        self.check_target(&settings)?;
        self.last_id += 1;
        let at_s = ctx.now.wall_ms / 1000;
        let id = QueueId(self.last_id);
        let queue =
            Queue { id, name: name.clone(), settings: Arc::new(settings), created_at_s: at_s, modified_at_s: at_s };
        self.names.insert(name.clone(), id);
        let kept = Kept {
            queue: queue.clone(),
            lsn: Lsn(0),
            shelf: Shelf::default(),
            tally: Tally::default(),
            swept: 0,
            closed: false,
        };
        self.kept.insert(id, kept);
        define(&queue, ctx.group);
        Ok(queue)
    }

    /// # Errors
    /// [`QueueError::InvalidParameter`] where the dead-letter queue does not exist.
    pub(super) fn set(&mut self, ctx: &mut Context<'_>, queue: &Queue, settings: Settings) -> Result<(), QueueError> {
        self.check_target(&settings)?;
        let kept = self.kept.get_mut(&queue.id).ok_or_else(|| no_queue(queue))?;
        kept.queue.settings = Arc::new(settings);
        kept.queue.modified_at_s = ctx.now.wall_ms / 1000;
        define(&kept.queue, ctx.group);
        Ok(())
    }

    fn check_target(&self, settings: &Settings) -> Result<(), QueueError> {
        match &settings.redrive {
            Some(redrive) if !self.names.contains_key(redrive.target()) => Err(QueueError::InvalidParameter {
                name: "RedrivePolicy",
                problem: format!(
                    "Value {} for parameter RedrivePolicy is invalid. Reason: Dead letter target does not exist.",
                    redrive.target_arn
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Takes the messages off a queue that nobody oversees, at once. What it held is for the caller to drop outside of the lock.
    /// `None`: the queue is overseen, and [`Engine::purge_some`] does it piece by piece.
    pub(super) fn purge(&mut self, ctx: &mut Context<'_>, queue: QueueId) -> Option<Emptied> {
        let kept = self.kept.get_mut(&queue)?;
        if overseer_of(kept, ctx.overseer).is_some() {
            return None;
        }
        ctx.group.write(&Entry::Purged { queue });
        Some(Emptied { _shelf: kept.shelf.take() })
    }

    /// Takes messages off that arrived before `before`, as long as fewer than `changes_max` changes were made, from the place
    /// `walk` on. True: ask again.
    pub(super) fn purge_some(
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
    pub(super) fn next_arrival(&self, queue: QueueId) -> u64 {
        self.kept.get(&queue).map_or(0, |kept| kept.shelf.next_arrival())
    }

    /// From now on the queue is found by nobody; [`Engine::undefine`] ends it.
    pub(super) fn close(&mut self, queue: QueueId) {
        if let Some(kept) = self.kept.get_mut(&queue) {
            kept.closed = true;
        }
    }

    /// Takes the queue away with what is left on it.
    pub(super) fn undefine(&mut self, ctx: &mut Context<'_>, queue: QueueId) -> Option<Emptied> {
        let mut kept = self.kept.remove(&queue)?;
        self.names.remove(&kept.queue.name);
        ctx.group.write(&Entry::Undefined { queue });
        Some(Emptied { _shelf: kept.shelf.take() })
    }
    /// The group was submitted and its records stand at `lsns`.
    pub(super) fn placed(&mut self, group: &Group, lsns: &[Lsn]) {
        for (index, placed) in &group.placements {
            let Some(lsn) = lsns.get(*index).copied() else { continue };
            match placed {
                Placed::Queue(queue) => {
                    if let Some(kept) = self.kept.get_mut(queue) {
                        kept.lsn = lsn;
                    }
                }
                Placed::Message(queue, message) => {
                    let Some(kept) = self.kept.get_mut(queue) else { continue };
                    let Some(place) = kept.shelf.find(*message) else { continue };
                    let slot = kept.shelf.slot_mut(place);
                    slot.lsn = lsn;
                    if slot.state == State::Pending {
                        self.pending.push_back((lsn, *queue, place, slot.arrival()));
                    }
                }
            }
        }
    }

    /// Everything before `durable` is on the disk: sends among it become ready, or begin their delay.
    pub(super) fn publish(&mut self, now: Now, durable: Lsn, group: &mut Group) {
        while let Some((_, queue, place, arrival)) = self.pending.pop_front_if(|(lsn, ..)| *lsn < durable) {
            let Some(kept) = self.kept.get_mut(&queue) else { continue };
            let Some(slot) = kept.shelf.slot_of(place, arrival).filter(|slot| slot.state == State::Pending) else {
                continue; // purged, or ended by its overseer, in the meantime
            };
            let (class, due_ms) = (slot.class, slot.due_ms);
            if due_ms > now.mono_ms {
                kept.shelf.put(place, State::Delayed, due_ms);
                group.timer(due_ms);
            } else {
                kept.shelf.put(place, State::Ready, 0);
                group.ready.push((queue, class));
            }
        }
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

fn define(queue: &Queue, group: &mut Group) {
    group.placements.push((group.records.len(), Placed::Queue(queue.id)));
    group.changes += 1;
    let definition = Definition {
        name: queue.name.to_string(),
        settings: (*queue.settings).clone(),
        created_at_s: queue.created_at_s,
        modified_at_s: queue.modified_at_s,
    };
    group.write(&Entry::Defined { queue: queue.id, definition });
}

fn no_queue(queue: &Queue) -> QueueError {
    QueueError::NoSuchQueue(queue.name.to_string())
}

fn age_ms(now: Now, sent_ms: i64) -> u64 {
    let mono_ms = i64::try_from(now.mono_ms).unwrap_or(i64::MAX);
    u64::try_from(mono_ms.saturating_sub(sent_ms)).unwrap_or(0)
}

fn expired(kept: &Kept, now: Now, slot: &Slot) -> bool {
    age_ms(now, slot.sent_ms) >= u64::from(kept.queue.settings.retention_s) * 1000
}

/// Received as often as its queue allows.
fn worn_out(queue: &Queue, slot: &Slot) -> bool {
    queue.settings.redrive.as_ref().is_some_and(|redrive| slot.receives_here() >= redrive.receives_max)
}

fn overseer_of<'a>(kept: &Kept, overseer: Option<&'a dyn Overseer>) -> Option<&'a dyn Overseer> {
    overseer.filter(|_| kept.queue.settings.job_queue)
}

/// The message's id as the overseer is told it; empty, and free, where there is none.
fn id_text(kept: &Kept, ctx: &Context<'_>, message: MessageId) -> String {
    overseer_of(kept, ctx.overseer).map(|_| message.to_string()).unwrap_or_default()
}

fn observe(kept: &Kept, ctx: &mut Context<'_>, change: Change<'_>) -> Option<Action> {
    let overseer = overseer_of(kept, ctx.overseer)?;
    overseer.observe(ctx.now, kept.queue.name.as_str(), change, &mut ctx.group.records)
}

fn remove(kept: &mut Kept, group: &mut Group, place: Place) {
    let (slot, _) = kept.shelf.remove(place);
    group.write(&Entry::Gone { queue: kept.queue.id, message: slot.id });
    group.changes += 1;
}

fn drop_message(kept: &mut Kept, ctx: &mut Context<'_>, place: Place, reason: &'static str) {
    let message_id = id_text(kept, ctx, kept.shelf.slot(place).id);
    remove(kept, ctx.group, place);
    let _ = observe(kept, ctx, Change::Dropped { message_id: &message_id, reason });
}

#[cfg(test)]
mod tests;
