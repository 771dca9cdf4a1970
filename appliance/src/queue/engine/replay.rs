//! The engine as its records tell it, and the records of what is live, for compaction. Until [`Engine::replayed`], `aged_from_ms` and
//! `due_ms` of a slot are wall milliseconds, and no queue has an order.
//!
//! A message may come before the definition of its queue: compaction has written the definition again. Its queue is
//! kept under its number until the definition comes; what has none at the end had been deleted.

use std::sync::Arc;

use backlot_journal::Lsn;

use super::super::model::{DeduplicationKey, HELD_S_MAX, QueueId, QueueName, VISIBILITY_S_MAX};
use super::super::overseer::Overseer;
use super::super::record::{Content, Due, Entry, Head, Stance, content_of};
use super::super::settings::Settings;
use super::deduplication::Seen;
use super::moves::moved;
use super::order::{Discipline, Lane};
use super::queues::define;
use super::shelf::{Removed, Shelf, Slot, State};
use super::tasks::note_tasks;
use super::{Engine, Group, Kept, Placed, Queue, age_ms};
use crate::clock::Now;

impl Engine {
    /// One record, oldest first.
    ///
    /// # Errors
    /// A sentence when it cannot be understood.
    pub(in crate::queue) fn replay(
        &mut self,
        now: Now,
        lsn: Lsn,
        payload: &[u8],
        overseer: Option<&dyn Overseer>,
    ) -> Result<(), String> {
        match Entry::decode(payload)? {
            Entry::Defined { queue, definition } => {
                let name = QueueName::parse(&definition.name).ok_or("definition of a queue has no valid name")?;
                let kept = self.kept_or_new(queue);
                kept.lsn = lsn;
                kept.queue = Queue {
                    id: queue,
                    name: name.clone(),
                    settings: Arc::new(definition.settings),
                    created_at_s: definition.created_at_s,
                    modified_at_s: definition.modified_at_s,
                };
                kept.shelf.arrive_from(definition.sequence);
                self.names.insert(name, queue);
                self.undefined.remove(&queue);
            }
            Entry::Undefined { queue } => {
                self.undefined.remove(&queue);
                if let Some(kept) = self.kept.remove(&queue)
                    && self.names.get(&kept.queue.name) == Some(&queue)
                {
                    self.names.remove(&kept.queue.name);
                }
            }
            Entry::Tasks { queue, tasks } => self.kept_or_new(queue).put_tasks(lsn, tasks),
            Entry::Purged { queue } => {
                self.kept_or_new(queue).shelf.take();
            }
            Entry::Sent(head) => self.replay_sent(now, lsn, &head, payload, overseer),
            Entry::Received { queue, message, receives, first_received, due } => {
                self.change(queue, message, |slot| {
                    (slot.receives, slot.first_received) = (receives, first_received);
                    slot.receipt_void = false;
                    (State::InFlight, due.seen(now))
                });
            }
            Entry::Gone { queue, message } => {
                if let Some(kept) = self.kept.get_mut(&queue)
                    && let Some(place) = kept.shelf.find(message)
                {
                    kept.shelf.remove(place, 0);
                }
            }
            Entry::Hidden { queue, message, due } => {
                self.change(queue, message, |_| match due {
                    Due::OVER => (State::Ready, 0),
                    due => (State::InFlight, due.seen(now)),
                });
            }
            Entry::Released { queue, message, due } => {
                self.change(queue, message, |slot| {
                    slot.receipt_void = true;
                    (State::Delayed, due.seen(now))
                });
            }
            Entry::Moved { queue, message, to, back, sequence } => {
                if sequence != 0 {
                    // The message may be gone, and its place was given all the same.
                    self.kept_or_new(to).shelf.arrive_from(sequence.saturating_add(1));
                }
                let Some(kept) = self.kept.get_mut(&queue) else { return Ok(()) };
                let Some(place) = kept.shelf.find(message) else { return Ok(()) };
                let Removed { mut slot, lane, .. } = kept.shelf.remove(place, 0);
                moved(&mut slot, back);
                (slot.state, slot.due_ms) = (State::Ready, 0);
                let target = self.kept_or_new(to);
                lay(&mut target.shelf, slot, &lane, sequence);
                if !back {
                    target.shelf.set_source(message, queue);
                }
            }
            Entry::Seen { queue, message, key, sequence, at_ms } => {
                let at_ms = i64::try_from(at_ms).unwrap_or(i64::MAX);
                self.kept_or_new(queue).deduplication.replay(Seen { key, message, sequence, at_ms });
            }
        }
        Ok(())
    }

    fn replay_sent(&mut self, now: Now, lsn: Lsn, head: &Head, payload: &[u8], overseer: Option<&dyn Overseer>) {
        let sent_ms = i64::try_from(head.sent_at_ms).unwrap_or(i64::MAX);
        let aged_from_ms = sent_ms.saturating_add(i64::from(head.held_s) * 1000);
        let mut slot = Slot::new(head.message, aged_from_ms, payload.len());
        slot.lsn = lsn;
        slot.receives = head.receives;
        slot.receives_elsewhere = head.receives_elsewhere;
        slot.first_received = head.first_received;
        slot.admitted = head.admitted;
        slot.receipt_void = head.receipt_void;
        slot.due_ms = head.due.seen(now);
        slot.state = match head.stance {
            Stance::Ready => State::Ready,
            Stance::InFlight => State::InFlight,
            Stance::Delayed => State::Delayed,
        };
        slot.guest = head.moved;
        slot.held = head.held_s > 0;
        let content = content_of(payload);
        let marks = Content::marks(content);
        let mut lane = marks.group_id.map_or(Lane::Plain, |group| Lane::Group(group.into()));
        if let Some(overseer) = overseer.filter(|_| head.admitted)
            && let Ok(content) = Content::decode(content)
        {
            let (priority, class, tenant) = overseer.classify(&content.body);
            lane = Lane::Job { priority, class, tenant };
        }
        let kept = self.kept_or_new(head.queue);
        if let Some(place) = kept.shelf.find(head.message) {
            kept.shelf.remove(place, 0); // written again by compaction: this is the newer one
        }
        lay(&mut kept.shelf, slot, &lane, head.sequence);
        if let Some(source) = head.source {
            kept.shelf.set_source(head.message, source);
        }
        if let Some(key) = key_of(head, content) {
            kept.deduplication.replay(Seen { key, message: head.message, sequence: head.sequence, at_ms: sent_ms });
        }
    }

    fn change(&mut self, queue: QueueId, message: super::MessageId, change: impl FnOnce(&mut Slot) -> (State, u64)) {
        let Some(kept) = self.kept.get_mut(&queue) else { return };
        let Some(place) = kept.shelf.find(message) else { return };
        let (state, due_ms) = change(kept.shelf.slot_mut(place));
        kept.shelf.put(place, state, due_ms, 0);
    }

    fn kept_or_new(&mut self, queue: QueueId) -> &mut Kept {
        self.last_id = self.last_id.max(queue.0);
        let undefined = &mut self.undefined;
        self.kept.entry(queue).or_insert_with(|| {
            undefined.insert(queue);
            let settings = Arc::new(Settings::default());
            // The name is not valid on purpose: nobody finds a queue that has not been defined.
            let queue = Queue { id: queue, name: QueueName::unnamed(), settings, created_at_s: 0, modified_at_s: 0 };
            Kept::new(queue, Discipline::Fair) // until it is defined
        })
    }

    /// All records have been replayed: deadlines become monotonic ones, and order is by the moment of the send.
    pub(in crate::queue) fn replayed(&mut self, now: Now, overseer: Option<&dyn Overseer>) {
        for queue in std::mem::take(&mut self.undefined) {
            self.kept.remove(&queue);
        }
        for kept in self.kept.values_mut() {
            let discipline = Discipline::of(&kept.queue.settings);
            let mut all = kept.shelf.drain(discipline);
            if discipline != Discipline::Groups {
                all.sort_by_key(|(slot, ..)| slot.aged_from_ms);
            }
            for (mut slot, mut lane, source) in all {
                let longest_s = if slot.state == State::InFlight { VISIBILITY_S_MAX } else { HELD_S_MAX };
                let left_ms = slot.due_ms.saturating_sub(now.wall_ms).min(u64::from(longest_s) * 1000);
                slot.due_ms = now.mono_ms + left_ms;
                let [wall_ms, mono_ms] = [now.wall_ms, now.mono_ms].map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
                // A clock that went back makes a message young, never older than it can be.
                let young_ms = if slot.held { i64::from(HELD_S_MAX) * 1000 } else { 0 };
                let age_ms = wall_ms.saturating_sub(slot.aged_from_ms).max(-young_ms);
                slot.aged_from_ms = mono_ms.saturating_sub(age_ms);
                let (id, arrival) = (slot.id, slot.arrival());
                if let Some(overseer) = overseer.filter(|_| slot.admitted)
                    && let Some((priority, class, tenant)) = overseer.amended(&id.to_string())
                {
                    lane = Lane::Job { priority, class, tenant };
                }
                match discipline {
                    Discipline::Groups => kept.shelf.insert_at(slot, &lane, arrival, now.mono_ms),
                    Discipline::Fair | Discipline::Levels => kept.shelf.insert(slot, &lane, now.mono_ms),
                };
                if let Some(source) = source {
                    kept.shelf.set_source(id, source);
                }
            }
            kept.deduplication.replayed(now);
        }
    }

    /// A live record of an old segment is to be written again: the sent record or definition as it stands now, or `None` where it is not needed.
    pub(in crate::queue) fn relocate(&self, now: Now, lsn: Lsn, entry: &Entry, content: &[u8]) -> Option<Group> {
        let mut group = Group::default();
        match entry {
            Entry::Defined { queue, .. } => {
                let kept = self.kept.get(queue).filter(|kept| kept.lsn == lsn)?;
                define(kept, &mut group);
            }
            Entry::Tasks { queue, .. } => {
                note_tasks(self.kept.get(queue).filter(|kept| kept.tasks.lsn == lsn)?, &mut group)
            }
            Entry::Sent(head) => {
                self.keep_seen(now, head, content, lsn, &mut group);
                // It may have been moved to another queue since.
                let here = self.kept.get_key_value(&head.queue);
                let elsewhere = self.kept.iter().filter(|(_, kept)| kept.shelf.has_guests());
                let found = here.into_iter().chain(elsewhere).find_map(|(queue, kept)| {
                    let place = kept.shelf.find(head.message)?;
                    (kept.shelf.slot(place).lsn == lsn).then_some((*queue, kept, place))
                });
                let Some((queue, kept, place)) = found else { return (!group.records.is_empty()).then_some(group) };
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
                    due: Due::after(now, left_ms),
                    receives: slot.receives,
                    receives_elsewhere: slot.receives_elsewhere,
                    first_received: slot.first_received,
                    source: kept.shelf.source(slot.id),
                    stance,
                    admitted: slot.admitted,
                    receipt_void: slot.receipt_void,
                    held_s: head.held_s,
                    sequence: if kept.is_fifo() { slot.arrival() } else { 0 },
                    moved: slot.guest,
                    per_group: head.per_group,
                };
                group.placements.push((group.records.len(), Placed::Message(queue, slot.id, place)));
                group.records.push(current.encode(content));
            }
            Entry::Seen { queue, message, key, .. } => {
                let kept = self.kept.get(queue)?;
                let seen = kept.deduplication.of(now, *key, *message)?;
                remember(kept, now, &seen, &mut group);
            }
            _ => return None,
        }
        Some(group)
    }

    /// A send record goes that its queue's deduplication may need longer than the message does.
    fn keep_seen(&self, now: Now, head: &Head, content: &[u8], lsn: Lsn, group: &mut Group) {
        let Some(key) = key_of(head, content) else { return };
        let Some(kept) = self.kept.get(&head.queue) else { return };
        let sent_here = kept.shelf.find(head.message).is_some_and(|place| {
            let slot = kept.shelf.slot(place);
            slot.lsn == lsn && !slot.guest // one that went and came back is written as moved
        });
        if !sent_here && let Some(seen) = kept.deduplication.of(now, key, head.message) {
            remember(kept, now, &seen, group);
        }
    }
}

/// Writes down what is remembered of a message, apart from its send record.
pub(super) fn remember(kept: &Kept, now: Now, seen: &Seen, group: &mut Group) {
    let at_ms = now.wall_ms.saturating_sub(age_ms(now, seen.at_ms));
    let (queue, message) = (kept.queue.id, seen.message);
    group.write(&Entry::Seen { queue, message, key: seen.key, sequence: seen.sequence, at_ms });
}

/// The deduplication key under which a message was sent to the queue that its record names.
fn key_of(head: &Head, content: &[u8]) -> Option<DeduplicationKey> {
    if head.sequence == 0 || head.moved {
        return None;
    }
    let marks = Content::marks(content);
    Some(DeduplicationKey::of(marks.deduplication_id?, marks.group_id.filter(|_| head.per_group)))
}

/// Lays a message down at its place, where its queue has places.
fn lay(shelf: &mut Shelf, slot: Slot, lane: &Lane, sequence: u64) {
    if sequence == 0 {
        shelf.insert(slot, lane, 0);
    } else {
        shelf.insert_at(slot, lane, sequence, 0);
    }
}
