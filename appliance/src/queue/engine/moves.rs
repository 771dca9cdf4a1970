//! Messages that change their place other than by a consumer's delete: back to ready, to a dead-letter queue, and from it.

use super::super::model::{MessageId, QueueId};
use super::super::overseer::{Action, Change};
use super::super::record::{Due, Entry};
use super::order::Lane;
use super::shelf::{Place, Removed, Slot, State};
use super::{Context, Engine, Kept, id_text, observe, overseer_of, put, remove, take_off, worn_out};

impl Engine {
    /// Does what the overseer wants done with one of its messages. Nothing where it is not on the queue.
    pub(in crate::queue) fn act(&mut self, ctx: &mut Context<'_>, queue: QueueId, message: MessageId, action: Action) {
        let Some(kept) = self.kept.get_mut(&queue) else { return };
        let Some(place) = kept.shelf.find(message) else { return };
        match action {
            Action::Delete => {
                remove(kept, ctx.now, ctx.group, place);
                kept.tally.deleted += 1;
            }
            Action::Release { delay_s } => {
                if worn_out(&kept.queue, kept.shelf.slot(place)) && self.dead_letter(ctx, queue, place, true) {
                    return;
                }
                let Some(kept) = self.kept.get_mut(&queue) else { return };
                reclass(kept, ctx, place);
                let delay_ms = u64::from(delay_s) * 1000;
                ctx.group.write(&Entry::Released { queue, message, due: Due::after(ctx.now, delay_ms) });
                let slot = kept.shelf.slot_mut(place);
                slot.receipt_void = true;
                if slot.state == State::Pending {
                    slot.due_ms = ctx.now.mono_ms + delay_ms; // it comes out by `publish`
                } else if delay_s > 0 {
                    put(kept, ctx.now, ctx.group, place, State::Delayed, ctx.now.mono_ms + delay_ms);
                    ctx.group.timer(ctx.now.mono_ms + delay_ms);
                } else {
                    put(kept, ctx.now, ctx.group, place, State::Ready, 0);
                }
            }
            Action::DeadLetter => {
                if !self.dead_letter(ctx, queue, place, false)
                    && let Some(kept) = self.kept.get_mut(&queue)
                {
                    remove(kept, ctx.now, ctx.group, place);
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
    pub(super) fn come_back(&mut self, ctx: &mut Context<'_>, queue: QueueId, place: Place) {
        let Some(kept) = self.kept.get_mut(&queue) else { return };
        if worn_out(&kept.queue, kept.shelf.slot(place)) && self.dead_letter(ctx, queue, place, true) {
            return;
        }
        let Some(kept) = self.kept.get_mut(&queue) else { return };
        put(kept, ctx.now, ctx.group, place, State::Ready, 0);
        ctx.group.changes += 1;
    }

    /// Moves a message to its queue's dead-letter queue. False where there is none, or it is full.
    pub(super) fn dead_letter(&mut self, ctx: &mut Context<'_>, queue: QueueId, place: Place, tell: bool) -> bool {
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

    pub(super) fn transfer(&mut self, ctx: &mut Context<'_>, queue: QueueId, place: Place, to: QueueId, back: bool) {
        let Some(kept) = self.kept.get_mut(&queue) else { return };
        let Removed { mut slot, lane, .. } = take_off(kept, ctx.now, ctx.group, place);
        let Some(target) = self.kept.get_mut(&to) else { return };
        let sequence = if target.is_fifo() { target.shelf.next_arrival() } else { 0 };
        ctx.group.write(&Entry::Moved { queue, message: slot.id, to, back, sequence });
        ctx.group.changes += 1;
        moved(&mut slot, back);
        slot.due_ms = 0; // a delay ends with the move
        if slot.state != State::Pending {
            slot.state = State::Ready;
        }
        let (place, offer) = target.shelf.insert(slot, &lane, ctx.now.mono_ms);
        ctx.group.ready.extend(offer.map(|offer| (to, offer)));
        if back {
            reclass(target, ctx, place);
        } else {
            target.shelf.set_source(slot.id, queue);
        }
        if slot.state == State::Pending {
            self.pending.push_back((slot.lsn, to, place, target.shelf.slot(place).arrival()));
        }
    }
}

/// The overseer may have changed what its message needs.
fn reclass(kept: &mut Kept, ctx: &mut Context<'_>, place: Place) {
    let Some(overseer) = overseer_of(kept, ctx.overseer) else { return };
    if let Some((priority, class, tenant)) = overseer.amended(&kept.shelf.slot(place).id.to_string()) {
        let offer = kept.shelf.change_lane(place, &Lane::Job { priority, class, tenant }, ctx.now.mono_ms);
        let queue = kept.queue.id;
        ctx.group.ready.extend(offer.map(|offer| (queue, offer)));
    }
}

/// What a move changes in the message itself.
pub(super) fn moved(slot: &mut Slot, back: bool) {
    slot.receipt_void = true;
    slot.guest = true;
    if back {
        (slot.receives, slot.receives_elsewhere, slot.first_received) = (0, 0, 0);
    } else {
        slot.receives_elsewhere = slot.receives;
    }
}
