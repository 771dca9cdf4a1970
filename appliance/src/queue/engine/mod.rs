//! Decides where every message is, from a `now` that it is handed. Pure: it writes no disk, waits for nobody, asks no clock.
//!
//! One engine holds all queues, behind one lock: a redrive moves between two of them, and every decision ends in one
//! journal, whose order must be the order of the decisions. What is decided goes into a [`Group`] as records; the
//! caller submits it under the same lock and tells the engine the positions ([`Engine::placed`]).
//!
//! Invariants: a message in flight is handed to nobody until its timeout ends; only the newest receipt deletes; a message
//! is received only after its send is durable ([`Engine::publish`]); what was received as often as its queue
//! allows goes to the dead-letter queue when it would become ready again, or at the next receive at the latest; on a FIFO
//! queue no message is received while one before it in its group is there, and none is sent twice within five minutes.

mod attempts;
mod deduplication;
mod messages;
mod moves;
mod order;
mod queues;
mod replay;
mod shelf;
mod tasks;
mod timers;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use backlot_journal::Lsn;

use self::attempts::Attempts;
use self::deduplication::Deduplication;
use self::order::Discipline;
pub(super) use self::order::Offer;
pub(super) use self::shelf::{Counts, Place};
use self::shelf::{Removed, Shelf, Slot, State};
pub(super) use self::tasks::{Bodies, Running};
use super::model::{
    DeduplicationKey, FIFO_IN_FLIGHT_MAX, IN_FLIGHT_MAX, MessageId, QueueError, QueueId, QueueName, Receipt,
};
use super::move_task::Tasks;
use super::overseer::{Action, Change, Class, Overseer, Tenant, Turn};
use super::record::Entry;
use super::settings::{Flow, Settings};
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
    deduplication: Deduplication,
    attempts: Attempts,
    /// When somebody who waits may receive what nobody may now, by time alone.
    not_before_ms: Option<u64>,
    /// Tasks that move messages away from it.
    tasks: Tasks,
}

impl Kept {
    fn new(queue: Queue, discipline: Discipline) -> Self {
        Self {
            queue,
            lsn: Lsn(0),
            shelf: Shelf::new(discipline),
            tally: Tally::default(),
            swept: 0,
            closed: false,
            deduplication: Deduplication::default(),
            attempts: Attempts::default(),
            not_before_ms: None,
            tasks: Tasks::default(),
        }
    }

    fn is_fifo(&self) -> bool {
        self.queue.settings.fifo.is_some()
    }

    fn in_flight_max(&self) -> usize {
        if self.is_fifo() { FIFO_IN_FLIGHT_MAX } else { IN_FLIGHT_MAX }
    }
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
    /// Messages that can be received as of now, for those who wait.
    pub ready: Vec<(QueueId, Offer)>,
    /// Messages of job queues left flight, or time came on: limits of the overseer may be free again.
    pub freed: bool,
    /// Changes made, as the caller budgets them.
    pub changes: usize,
    /// The earliest timer that was set.
    pub due_ms: Option<u64>,
}

#[derive(Clone, Copy)]
enum Placed {
    /// With where it was laid.
    Message(QueueId, MessageId, Place),
    Queue(QueueId),
    Tasks(QueueId),
}

impl Group {
    /// Nothing was decided but that limits of the overseer may be free again.
    pub(super) fn of_freed_limits() -> Self {
        Self { freed: true, ..Self::default() }
    }

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
    /// As [`super::record::Content::encode`] began it.
    pub record: Vec<u8>,
    pub body: &'a str,
    pub delay_s: u32,
    pub group_id: Option<&'a str>,
    /// On FIFO queues.
    pub deduplication: Option<DeduplicationKey>,
    /// Whether that is within the group alone.
    pub per_group: bool,
    /// Priority, class and tenant from the overseer.
    pub admitted: Option<(u8, Class, Tenant)>,
}

/// What a send came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    /// That of the first send where this is a duplicate.
    pub message: MessageId,
    /// On FIFO queues.
    pub sequence: Option<u64>,
}

/// What a receive asks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked<'a> {
    pub agent: Option<&'a str>,
    /// Messages of this class alone.
    pub class: Option<Class>,
    pub messages_max: usize,
    pub visibility_s: u32,
    /// Of whatever kind: messages that must be moved away first count too.
    pub changes_max: usize,
    /// On FIFO queues.
    pub attempt_id: Option<&'a str>,
}

/// A message that was received, but for its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub lsn: Lsn,
    pub receipt: Receipt,
    /// Over all queues.
    pub receive_count: u32,
    /// After what its retention counts from.
    pub first_received_after_ms: u32,
    /// On FIFO queues.
    pub sequence: Option<u64>,
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

    /// Whether an overseer owns the messages of the queue.
    pub(super) fn is_overseen(&self, queue: QueueId) -> bool {
        self.kept.get(&queue).is_some_and(|kept| kept.queue.settings.job_queue)
    }

    /// How much can be received now, as far as the queue itself goes: messages, or groups of them on a FIFO queue.
    pub(super) fn offers(&self, queue: QueueId) -> usize {
        let Some(kept) = self.kept.get(&queue).filter(|kept| kept.queue.settings.flow != Flow::Paused) else {
            return 0;
        };
        match kept.shelf.order().open_groups() {
            Some(_) if kept.shelf.counts().in_flight >= kept.in_flight_max() => 0,
            Some(groups) => groups,
            None => kept.shelf.counts().ready,
        }
    }

    /// How many of `messages_max` somebody may take who comes while others were promised `promised` offers.
    pub(super) fn share(&self, queue: QueueId, promised: usize, messages_max: usize) -> usize {
        let left = self.offers(queue).saturating_sub(promised);
        let grouped = self.kept.get(&queue).is_some_and(Kept::is_fifo);
        if grouped && left > 0 { messages_max } else { left.min(messages_max) }
    }

    /// The classes of which a message may be received now by somebody who fits. Where time alone holds others back, the engine
    /// remembers when to look again, and answers with it.
    pub(super) fn open_classes(
        &mut self,
        now: Now,
        queue: QueueId,
        overseer: Option<&dyn Overseer>,
    ) -> (BTreeSet<Class>, Option<u64>) {
        let Some(kept) = self.kept.get_mut(&queue) else { return Default::default() };
        let name = kept.queue.name.as_str();
        let turn = |tenant| overseer.map_or(Turn::May { rank: 0 }, |overseer| overseer.turn(now, name, tenant));
        let (classes, not_before_ms) = kept.shelf.order().open_classes(&turn);
        (classes, not_before_ms.map(|mono_ms| look_again(kept, now, mono_ms)))
    }

    /// Whether what was offered may be received now, as [`Engine::open_classes`] says it.
    pub(super) fn is_open(
        &mut self,
        now: Now,
        queue: QueueId,
        offer: Offer,
        overseer: &dyn Overseer,
    ) -> Result<(), Option<u64>> {
        let Some(kept) = self.kept.get_mut(&queue) else { return Err(None) };
        match overseer.turn(now, kept.queue.name.as_str(), offer.tenant) {
            Turn::May { .. } => Ok(()),
            Turn::NotBefore { mono_ms } => Err(Some(look_again(kept, now, mono_ms))),
            Turn::AtLimit => Err(None),
        }
    }

    pub(super) fn counts(&self, queue: QueueId) -> Counts {
        self.kept.get(&queue).map(|kept| kept.shelf.counts()).unwrap_or_default()
    }

    /// Age of the oldest ready message in milliseconds, 0 where none is.
    pub(super) fn oldest_age_ms(&self, now: Now, queue: QueueId) -> u64 {
        let oldest = self.kept.get(&queue).and_then(|kept| kept.shelf.oldest_ready_ms());
        oldest.map_or(0, |aged_from_ms| age_ms(now, aged_from_ms))
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
                Placed::Tasks(queue) => {
                    if let Some(kept) = self.kept.get_mut(queue) {
                        kept.tasks.lsn = lsn;
                    }
                }
                Placed::Message(queue, message, laid) => {
                    let Some(kept) = self.kept.get_mut(queue) else { continue };
                    let still = kept.shelf.any(*laid).is_some_and(|slot| slot.id == *message).then_some(*laid);
                    let Some(place) = still.or_else(|| kept.shelf.find(*message)) else { continue };
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
            let due_ms = slot.due_ms;
            if due_ms > now.mono_ms {
                put(kept, now, group, place, State::Delayed, due_ms);
                group.timer(due_ms);
            } else {
                put(kept, now, group, place, State::Ready, 0);
            }
        }
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }
}

fn no_queue(queue: &Queue) -> QueueError {
    QueueError::NoSuchQueue(queue.name.to_string())
}

fn age_ms(now: Now, from_ms: i64) -> u64 {
    let mono_ms = i64::try_from(now.mono_ms).unwrap_or(i64::MAX);
    u64::try_from(mono_ms.saturating_sub(from_ms)).unwrap_or(0)
}

/// Notes when to look again for those who wait, at the earliest in a moment: a moment that has passed would be looked at for ever.
fn look_again(kept: &mut Kept, now: Now, mono_ms: u64) -> u64 {
    let at_ms = kept.not_before_ms.map_or(mono_ms, |other_ms| other_ms.min(mono_ms)).max(now.mono_ms + 1);
    kept.not_before_ms = Some(at_ms);
    at_ms
}

/// Moves a message into `state` and notes for whom that matters.
fn put(kept: &mut Kept, now: Now, group: &mut Group, place: Place, state: State, due_ms: u64) {
    let before = kept.shelf.counts().in_flight;
    let offer = kept.shelf.put(place, state, due_ms, now.mono_ms);
    note(kept, group, before, offer);
}

/// Takes a message off its shelf and notes for whom that matters.
fn take_off(kept: &mut Kept, now: Now, group: &mut Group, place: Place) -> Removed {
    let before = kept.shelf.counts().in_flight;
    let removed = kept.shelf.remove(place, now.mono_ms);
    note(kept, group, before, removed.offer);
    removed
}

fn note(kept: &Kept, group: &mut Group, in_flight_before: usize, offer: Option<Offer>) {
    let left = kept.shelf.counts().in_flight < in_flight_before;
    group.freed |= left && kept.queue.settings.job_queue;
    // Those who found as much in flight as may be can try again.
    let again = (left && in_flight_before == kept.in_flight_max()).then(Offer::default);
    group.ready.extend(offer.or(again).map(|offer| (kept.queue.id, offer)));
}

fn expired(kept: &Kept, now: Now, slot: &Slot) -> bool {
    age_ms(now, slot.aged_from_ms) >= u64::from(kept.queue.settings.retention_s) * 1000
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

fn remove(kept: &mut Kept, now: Now, group: &mut Group, place: Place) {
    let removed = take_off(kept, now, group, place);
    group.write(&Entry::Gone { queue: kept.queue.id, message: removed.slot.id });
    group.changes += 1;
}

fn drop_message(kept: &mut Kept, ctx: &mut Context<'_>, place: Place, reason: &'static str) {
    let message_id = id_text(kept, ctx, kept.shelf.slot(place).id);
    remove(kept, ctx.now, ctx.group, place);
    let _ = observe(kept, ctx, Change::Dropped { message_id: &message_id, reason });
}

#[cfg(test)]
mod tests;
