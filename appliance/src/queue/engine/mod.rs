//! Decides where every message is, from a `now` that it is handed. Pure: it writes no disk, waits for nobody, asks no clock.
//!
//! One engine holds all queues, behind one lock: a redrive moves between two of them, and every decision ends in one
//! journal, whose order must be the order of the decisions. What is decided goes into a [`Group`] as records; the
//! caller submits it under the same lock and tells the engine the positions ([`Engine::placed`]).
//!
//! Invariants: a message in flight is handed to nobody until its timeout ends; only the newest receipt deletes; a message
//! is received only after its send is durable ([`Engine::publish`]); what was received as often as its queue
//! allows goes to the dead-letter queue when it would become ready again, or at the next receive at the latest.

mod replay;
mod shelf;
mod timers;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use backlot_journal::Lsn;

pub(super) use self::shelf::{Counts, Place};
use self::shelf::{Shelf, Slot, State};
use super::model::{IN_FLIGHT_MAX, MessageId, QUEUES_MAX, QueueError, QueueId, QueueName, Receipt, Standing};
use super::overseer::{Action, Change, Class, Overseer};
use super::record::{Definition, Entry, Head, Stance};
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
    /// Priority and class from the overseer.
    pub admitted: Option<(u8, Class)>,
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

    /// Lays a message on the queue. It is received by nobody before [`Engine::publish`].
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`] when it was deleted meanwhile, [`QueueError::Full`].
    pub(super) fn send(
        &mut self,
        ctx: &mut Context<'_>,
        queue: &Queue,
        incoming: &Incoming<'_>,
    ) -> Result<(), QueueError> {
        let kept = self.kept.get_mut(&queue.id).filter(|kept| !kept.closed).ok_or_else(|| no_queue(queue))?;
        if kept.shelf.is_full() {
            return Err(QueueError::Full(format!("queue `{}` holds {} messages", queue.name, kept.shelf.len())));
        }
        let delay_ms = u64::from(incoming.delay_s) * 1000;
        let mut slot = Slot::new(incoming.id, i64::try_from(ctx.now.mono_ms).unwrap_or(i64::MAX));
        slot.due_ms = ctx.now.mono_ms + delay_ms;
        if let Some((priority, class)) = incoming.admitted {
            (slot.admitted, slot.priority, slot.class) = (true, priority, class);
        }
        let head = Head {
            queue: queue.id,
            message: incoming.id,
            sent_at_ms: ctx.now.wall_ms,
            due_at_ms: ctx.now.wall_ms + delay_ms,
            receives: 0,
            receives_elsewhere: 0,
            first_received: 0,
            source: None,
            stance: if delay_ms == 0 { Stance::Ready } else { Stance::Delayed },
            admitted: slot.admitted,
            receipt_void: false,
        };
        ctx.group.placements.push((ctx.group.records.len(), Placed::Message(queue.id, incoming.id)));
        ctx.group.records.push(head.encode(incoming.content));
        ctx.group.changes += 1;
        kept.shelf.insert(slot);
        kept.tally.sent += 1;
        let message_id = id_text(kept, ctx, incoming.id);
        let change = Change::Sent { message_id: &message_id, body: incoming.body, delay_s: incoming.delay_s };
        let _ = observe(kept, ctx, change);
        Ok(())
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

    /// Takes up to `messages_max` ready messages that fit `agent` and hides them for `visibility_s`. What was received too often,
    /// or is past its retention, is moved away instead; `changes_max` bounds all of it. Nothing taken and the bound
    /// reached means: ask again.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`], [`QueueError::OverLimit`].
    pub(super) fn receive(
        &mut self,
        ctx: &mut Context<'_>,
        queue: &Queue,
        agent: Option<&str>,
        messages_max: usize,
        visibility_s: u32,
        changes_max: usize,
    ) -> Result<Vec<Taken>, QueueError> {
        let mut taken = Vec::new();
        while taken.len() < messages_max && ctx.group.changes < changes_max {
            let kept = self.kept.get_mut(&queue.id).ok_or_else(|| no_queue(queue))?;
            let overseer = overseer_of(kept, ctx.overseer);
            let fits = |class| overseer.is_none_or(|overseer| overseer.fits(agent, class));
            let Some(place) = kept.shelf.first_ready(fits) else { break };
            let slot = kept.shelf.slot(place);
            if expired(kept, ctx.now, slot) {
                drop_message(kept, ctx, place, "retention");
                kept.tally.expired += 1;
                continue;
            }
            if worn_out(&kept.queue, slot) && self.dead_letter(ctx, queue.id, place, true) {
                continue;
            }
            let Some(kept) = self.kept.get_mut(&queue.id) else { break };
            if kept.shelf.counts().in_flight >= IN_FLIGHT_MAX {
                if taken.is_empty() && ctx.group.changes == 0 {
                    return Err(QueueError::OverLimit(queue.name.to_string()));
                }
                break;
            }
            taken.push(take(kept, ctx, place, agent, visibility_s));
        }
        for message in &mut taken {
            let kept = self.kept.get(&queue.id);
            let source = kept.and_then(|kept| kept.shelf.source(message.receipt.message));
            message.source = source.and_then(|source| self.kept.get(&source)).map(|kept| kept.queue.name.clone());
        }
        Ok(taken)
    }

    /// Where the send record of a message is now; `None` when the message has left the queue.
    pub(super) fn locate(&self, queue: QueueId, message: MessageId) -> Option<Lsn> {
        let shelf = &self.kept.get(&queue)?.shelf;
        shelf.find(message).map(|place| shelf.slot(place).lsn)
    }

    pub(super) fn standing(&self, queue: QueueId, message: MessageId) -> Option<Standing> {
        let shelf = &self.kept.get(&queue)?.shelf;
        let slot = shelf.slot(shelf.find(message)?);
        Some(Standing { in_flight: slot.state == State::InFlight, receive_count: slot.receives })
    }

    /// Deletes by receipt. A message whose timeout has ended is deleted too, as long as nobody has received it again.
    ///
    /// # Errors
    /// [`QueueError::ForeignReceipt`] for another queue's receipt.
    pub(super) fn delete(
        &mut self,
        ctx: &mut Context<'_>,
        queue: &Queue,
        receipt: &Receipt,
    ) -> Result<Deletion, QueueError> {
        if receipt.queue != queue.id {
            return Err(QueueError::ForeignReceipt);
        }
        let kept = self.kept.get_mut(&queue.id).ok_or_else(|| no_queue(queue))?;
        let Some(place) = kept.shelf.find(receipt.message) else { return Ok(Deletion::Absent) };
        if !is_newest(kept.shelf.slot(place), receipt) {
            kept.tally.deleted_stale += 1;
            return Ok(Deletion::Stale);
        }
        remove(kept, ctx.group, place);
        kept.tally.deleted += 1;
        let message_id = id_text(kept, ctx, receipt.message);
        let _ = observe(kept, ctx, Change::Deleted { message_id: &message_id });
        Ok(Deletion::Done)
    }

    /// Hides a message for `visibility_s` from now on; with 0 it comes back at once.
    ///
    /// # Errors
    /// [`QueueError::ForeignReceipt`], [`QueueError::NotInFlight`], [`QueueError::NoSuchMessage`] when it has gone or was received again.
    pub(super) fn change_visibility(
        &mut self,
        ctx: &mut Context<'_>,
        queue: &Queue,
        receipt: &Receipt,
        visibility_s: u32,
    ) -> Result<(), QueueError> {
        if receipt.queue != queue.id {
            return Err(QueueError::ForeignReceipt);
        }
        let kept = self.kept.get_mut(&queue.id).ok_or_else(|| no_queue(queue))?;
        let place = kept.shelf.find(receipt.message).filter(|place| is_newest(kept.shelf.slot(*place), receipt));
        let Some(place) = place else {
            return Err(QueueError::NoSuchMessage {
                queue: queue.name.to_string(),
                message_id: receipt.message.to_string(),
            });
        };
        if kept.shelf.slot(place).state != State::InFlight {
            return Err(QueueError::NotInFlight);
        }
        if visibility_s > 0 {
            hide(kept, ctx, place, visibility_s);
            return Ok(());
        }
        ctx.group.write(&Entry::Hidden { queue: queue.id, message: receipt.message, due_at_ms: 0 });
        let message_id = id_text(kept, ctx, receipt.message);
        match observe(kept, ctx, Change::Released { message_id: &message_id }) {
            Some(action) => self.act(ctx, queue.id, receipt.message, action),
            None => self.come_back(ctx, queue.id, place),
        }
        Ok(())
    }

    /// Hides a message that is in flight, whoever holds it. False when it is not in flight.
    pub(super) fn extend(
        &mut self,
        ctx: &mut Context<'_>,
        queue: QueueId,
        message: MessageId,
        visibility_s: u32,
    ) -> bool {
        let Some(kept) = self.kept.get_mut(&queue) else { return false };
        let place = kept.shelf.find(message).filter(|place| kept.shelf.slot(*place).state == State::InFlight);
        if let Some(place) = place {
            hide(kept, ctx, place, visibility_s);
        }
        place.is_some()
    }

    /// Does what the overseer wants done with one of its messages. Nothing where it is not on the queue.
    pub(super) fn act(&mut self, ctx: &mut Context<'_>, queue: QueueId, message: MessageId, action: Action) {
        let Some(kept) = self.kept.get_mut(&queue) else { return };
        let Some(place) = kept.shelf.find(message) else { return };
        match action {
            Action::Delete => {
                remove(kept, ctx.group, place);
                kept.tally.deleted += 1;
            }
            Action::Release { delay_s } => {
                if worn_out(&kept.queue, kept.shelf.slot(place)) && self.dead_letter(ctx, queue, place, true) {
                    return;
                }
                let Some(kept) = self.kept.get_mut(&queue) else { return };
                let delay_ms = u64::from(delay_s) * 1000;
                ctx.group.write(&Entry::Released { queue, message, due_at_ms: ctx.now.wall_ms + delay_ms });
                let slot = kept.shelf.slot_mut(place);
                slot.receipt_void = true;
                let class = slot.class;
                if slot.state == State::Pending {
                    slot.due_ms = slot.due_ms.max(ctx.now.mono_ms + delay_ms); // it comes out by `publish`
                } else if delay_s > 0 {
                    kept.shelf.put(place, State::Delayed, ctx.now.mono_ms + delay_ms);
                    ctx.group.timer(ctx.now.mono_ms + delay_ms);
                } else {
                    kept.shelf.put(place, State::Ready, 0);
                    ctx.group.ready.push((queue, class));
                }
            }
            Action::DeadLetter => {
                if !self.dead_letter(ctx, queue, place, false)
                    && let Some(kept) = self.kept.get_mut(&queue)
                {
                    remove(kept, ctx.group, place);
                }
            }
            Action::Return => {
                let Some(source) = kept.shelf.source(message) else { return };
                if self.kept.get(&source).is_some_and(|target| !target.shelf.is_full()) {
                    self.transfer(ctx, queue, place, source, true);
                }
            }
        }
        ctx.group.changes += 1;
    }

    /// A message whose consumer is done with it without deleting it: ready again, or dead-lettered when it was received often enough.
    fn come_back(&mut self, ctx: &mut Context<'_>, queue: QueueId, place: Place) {
        let Some(kept) = self.kept.get_mut(&queue) else { return };
        if worn_out(&kept.queue, kept.shelf.slot(place)) && self.dead_letter(ctx, queue, place, true) {
            return;
        }
        let Some(kept) = self.kept.get_mut(&queue) else { return };
        let class = kept.shelf.slot(place).class;
        kept.shelf.put(place, State::Ready, 0);
        ctx.group.ready.push((queue, class));
        ctx.group.changes += 1;
    }

    /// Moves a message to its queue's dead-letter queue. False where there is none, or it is full.
    fn dead_letter(&mut self, ctx: &mut Context<'_>, queue: QueueId, place: Place, tell: bool) -> bool {
        let Some(kept) = self.kept.get(&queue) else { return false };
        let Some(redrive) = &kept.queue.settings.redrive else { return false };
        let Some(target) = self.names.get(redrive.target()).copied() else { return false };
        if target == queue || self.kept.get(&target).is_none_or(|kept| kept.shelf.is_full()) {
            return false;
        }
        let (message, dlq) = (kept.shelf.slot(place).id, redrive.target().to_owned());
        self.transfer(ctx, queue, place, target, false);
        let Some(kept) = self.kept.get_mut(&queue) else { return true };
        kept.tally.redriven += 1;
        if tell {
            let message_id = id_text(kept, ctx, message);
            let _ = observe(kept, ctx, Change::DeadLettered { message_id: &message_id, dlq: &dlq });
        }
        true
    }

    fn transfer(&mut self, ctx: &mut Context<'_>, queue: QueueId, place: Place, to: QueueId, back: bool) {
        let Some(kept) = self.kept.get_mut(&queue) else { return };
        let (mut slot, _) = kept.shelf.remove(place);
        let Some(target) = self.kept.get_mut(&to) else { return };
        ctx.group.write(&Entry::Moved { queue, message: slot.id, to, back });
        ctx.group.changes += 1;
        moved(&mut slot, back);
        let (id, lsn, class) = (slot.id, slot.lsn, slot.class);
        if slot.state != State::Pending {
            slot.state = State::Ready;
            ctx.group.ready.push((to, class));
        }
        let place = target.shelf.insert(slot);
        if !back {
            target.shelf.set_source(id, queue);
        }
        if slot.state == State::Pending {
            self.pending.push_back((lsn, to, place, target.shelf.slot(place).arrival()));
        }
    }

    /// A live record of an old segment is to be written again: the sent record or definition as it stands now, or `None` where it is not needed.
    pub(super) fn relocate(&self, now: Now, lsn: Lsn, entry: &Entry, content: &[u8]) -> Option<Group> {
        let mut group = Group::default();
        match entry {
            Entry::Defined { queue, .. } => {
                let kept = self.kept.get(queue).filter(|kept| kept.lsn == lsn)?;
                define(&kept.queue, &mut group);
            }
            Entry::Sent(head) => {
                // It may have been moved to another queue since.
                let here = self.kept.get_key_value(&head.queue);
                let elsewhere = self.kept.iter().filter(|(_, kept)| kept.shelf.has_guests());
                let (queue, kept, place) = here.into_iter().chain(elsewhere).find_map(|(queue, kept)| {
                    let place = kept.shelf.find(head.message)?;
                    (kept.shelf.slot(place).lsn == lsn).then_some((*queue, kept, place))
                })?;
                let slot = kept.shelf.slot(place);
                let left_ms = slot.due_ms.saturating_sub(now.mono_ms);
                let stance = match slot.state {
                    State::InFlight => Stance::InFlight,
                    State::Delayed => Stance::Delayed,
                    State::Pending if left_ms > 0 => Stance::Delayed,
                    State::Pending | State::Ready | State::Vacant => Stance::Ready,
                };
                let current = Head {
                    queue,
                    message: slot.id,
                    sent_at_ms: head.sent_at_ms,
                    due_at_ms: now.wall_ms + left_ms,
                    receives: slot.receives,
                    receives_elsewhere: slot.receives_elsewhere,
                    first_received: slot.first_received,
                    source: kept.shelf.source(slot.id),
                    stance,
                    admitted: slot.admitted,
                    receipt_void: slot.receipt_void,
                };
                group.placements.push((0, Placed::Message(queue, slot.id)));
                group.records.push(current.encode(content));
            }
            _ => return None,
        }
        Some(group)
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

fn is_newest(slot: &Slot, receipt: &Receipt) -> bool {
    slot.receives == receipt.receives && slot.receives > 0 && !slot.receipt_void
}

/// What a move changes in the message itself.
fn moved(slot: &mut Slot, back: bool) {
    slot.receipt_void = true;
    slot.guest = true;
    if back {
        (slot.receives, slot.receives_elsewhere, slot.first_received) = (0, 0, 0);
    } else {
        slot.receives_elsewhere = slot.receives;
    }
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

fn hide(kept: &mut Kept, ctx: &mut Context<'_>, place: Place, visibility_s: u32) {
    let visibility_ms = u64::from(visibility_s) * 1000;
    let (queue, message) = (kept.queue.id, kept.shelf.slot(place).id);
    ctx.group.write(&Entry::Hidden { queue, message, due_at_ms: ctx.now.wall_ms + visibility_ms });
    ctx.group.changes += 1;
    kept.shelf.put(place, State::InFlight, ctx.now.mono_ms + visibility_ms);
    ctx.group.timer(ctx.now.mono_ms + visibility_ms);
}

fn take(kept: &mut Kept, ctx: &mut Context<'_>, place: Place, agent: Option<&str>, visibility_s: u32) -> Taken {
    let queue = kept.queue.id;
    let visibility_ms = u64::from(visibility_s) * 1000;
    let slot = kept.shelf.slot_mut(place);
    slot.receives = slot.receives.saturating_add(1);
    slot.receipt_void = false;
    if slot.first_received == 0 {
        slot.first_received = u32::try_from(age_ms(ctx.now, slot.sent_ms)).unwrap_or(u32::MAX).saturating_add(1);
    }
    let receipt = Receipt { queue, message: slot.id, receives: slot.receives };
    let taken = Taken {
        lsn: slot.lsn,
        receipt,
        receive_count: slot.receives,
        first_received_after_ms: slot.first_received - 1,
        source: None,
        admitted: slot.admitted,
    };
    kept.shelf.put(place, State::InFlight, ctx.now.mono_ms + visibility_ms);
    ctx.group.timer(ctx.now.mono_ms + visibility_ms);
    kept.tally.received += 1;
    ctx.group.changes += 1;
    ctx.group.write(&Entry::Received {
        queue,
        message: receipt.message,
        receives: receipt.receives,
        at_ms: ctx.now.wall_ms,
        due_at_ms: ctx.now.wall_ms + visibility_ms,
    });
    let message_id = id_text(kept, ctx, receipt.message);
    if !message_id.is_empty() {
        let change = Change::Received {
            message_id: &message_id,
            receipt: &receipt.encode(),
            receive_count: receipt.receives,
            agent,
        };
        let _ = observe(kept, ctx, change);
    }
    taken
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
