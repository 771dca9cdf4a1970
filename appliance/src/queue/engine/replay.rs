//! The engine as its records tell it, and the records of what is live, for compaction. Until [`Engine::replayed`], `sent_ms` and `due_ms` of a slot are wall milliseconds.
//!
//! A message may come before the definition of its queue: compaction has written the definition again. Its queue is
//! kept under its number until the definition comes; what has none at the end had been deleted.

use std::sync::Arc;

use backlot_journal::Lsn;

use super::super::model::{HELD_S_MAX, QueueId, QueueName, VISIBILITY_S_MAX};
use super::super::overseer::Overseer;
use super::super::record::{Content, Entry, Head, Stance, content_of};
use super::super::settings::Settings;
use super::moves::moved;
use super::shelf::{Shelf, Slot, State};
use super::{Engine, Group, Kept, Placed, Queue, Tally, define};
use crate::clock::Now;

impl Engine {
    /// One record, oldest first.
    ///
    /// # Errors
    /// A sentence when it cannot be understood.
    pub(in crate::queue) fn replay(
        &mut self,
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
            Entry::Purged { queue } => {
                self.kept_or_new(queue).shelf.take();
            }
            Entry::Sent(head) => self.replay_sent(lsn, &head, payload, overseer),
            Entry::Received { queue, message, receives, first_received, due_at_ms } => {
                self.change(queue, message, |slot| {
                    (slot.receives, slot.first_received) = (receives, first_received);
                    slot.receipt_void = false;
                    (State::InFlight, due_at_ms)
                });
            }
            Entry::Gone { queue, message } => {
                if let Some(kept) = self.kept.get_mut(&queue)
                    && let Some(place) = kept.shelf.find(message)
                {
                    kept.shelf.remove(place);
                }
            }
            Entry::Hidden { queue, message, due_at_ms } => {
                self.change(queue, message, |_| match due_at_ms {
                    0 => (State::Ready, 0),
                    due_at_ms => (State::InFlight, due_at_ms),
                });
            }
            Entry::Released { queue, message, due_at_ms } => {
                self.change(queue, message, |slot| {
                    slot.receipt_void = true;
                    (State::Delayed, due_at_ms)
                });
            }
            Entry::Moved { queue, message, to, back } => {
                let Some(kept) = self.kept.get_mut(&queue) else { return Ok(()) };
                let Some(place) = kept.shelf.find(message) else { return Ok(()) };
                let (mut slot, _) = kept.shelf.remove(place);
                moved(&mut slot, back);
                slot.state = State::Ready;
                let target = self.kept_or_new(to);
                target.shelf.insert(slot);
                if !back {
                    target.shelf.set_source(message, queue);
                }
            }
        }
        Ok(())
    }

    fn replay_sent(&mut self, lsn: Lsn, head: &Head, payload: &[u8], overseer: Option<&dyn Overseer>) {
        let sent_ms = i64::try_from(head.sent_at_ms).unwrap_or(i64::MAX);
        let mut slot = Slot::new(head.message, sent_ms, payload.len());
        slot.lsn = lsn;
        slot.receives = head.receives;
        slot.receives_elsewhere = head.receives_elsewhere;
        slot.first_received = head.first_received;
        slot.admitted = head.admitted;
        slot.receipt_void = head.receipt_void;
        slot.due_ms = head.due_at_ms;
        slot.state = match head.stance {
            Stance::Ready => State::Ready,
            Stance::InFlight => State::InFlight,
            Stance::Delayed => State::Delayed,
        };
        if let Some(overseer) = overseer.filter(|_| head.admitted)
            && let Ok(content) = Content::decode(content_of(payload))
        {
            (slot.priority, slot.class, _) = overseer.classify(&content.body);
        }
        let kept = self.kept_or_new(head.queue);
        if let Some(place) = kept.shelf.find(head.message) {
            kept.shelf.remove(place); // written again by compaction: this is the newer one
        }
        kept.shelf.insert(slot);
        if let Some(source) = head.source {
            kept.shelf.set_source(head.message, source);
        }
    }

    fn change(&mut self, queue: QueueId, message: super::MessageId, change: impl FnOnce(&mut Slot) -> (State, u64)) {
        let Some(kept) = self.kept.get_mut(&queue) else { return };
        let Some(place) = kept.shelf.find(message) else { return };
        let (state, due_ms) = change(kept.shelf.slot_mut(place));
        kept.shelf.put(place, state, due_ms);
    }

    fn kept_or_new(&mut self, queue: QueueId) -> &mut Kept {
        self.last_id = self.last_id.max(queue.0);
        let undefined = &mut self.undefined;
        self.kept.entry(queue).or_insert_with(|| {
            undefined.insert(queue);
            let settings = Arc::new(Settings::default());
            // The name is not valid on purpose: nobody finds a queue that has not been defined.
            let queue = Queue { id: queue, name: QueueName::unnamed(), settings, created_at_s: 0, modified_at_s: 0 };
            Kept { queue, lsn: Lsn(0), shelf: Shelf::default(), tally: Tally::default(), swept: 0, closed: false }
        })
    }

    /// All records have been replayed: deadlines become monotonic ones, and order is by the moment of the send.
    pub(in crate::queue) fn replayed(&mut self, now: Now) {
        for queue in std::mem::take(&mut self.undefined) {
            self.kept.remove(&queue);
        }
        for kept in self.kept.values_mut() {
            let mut all = kept.shelf.drain();
            all.sort_by_key(|(slot, _)| slot.sent_ms);
            for (mut slot, source) in all {
                let sent_at_ms = u64::try_from(slot.sent_ms).unwrap_or(0);
                // A clock that went back makes a message young, never older than it can be.
                let age_ms = now.wall_ms.saturating_sub(sent_at_ms);
                let mono_ms = i64::try_from(now.mono_ms).unwrap_or(i64::MAX);
                slot.sent_ms = mono_ms.saturating_sub(i64::try_from(age_ms).unwrap_or(i64::MAX));
                let longest_s = if slot.state == State::InFlight { VISIBILITY_S_MAX } else { HELD_S_MAX };
                let left_ms = slot.due_ms.saturating_sub(now.wall_ms).min(u64::from(longest_s) * 1000);
                slot.due_ms = now.mono_ms + left_ms;
                let id = slot.id;
                kept.shelf.insert(slot);
                if let Some(source) = source {
                    kept.shelf.set_source(id, source);
                }
            }
        }
    }

    /// A live record of an old segment is to be written again: the sent record or definition as it stands now, or `None` where it is not needed.
    pub(in crate::queue) fn relocate(&self, now: Now, lsn: Lsn, entry: &Entry, content: &[u8]) -> Option<Group> {
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
