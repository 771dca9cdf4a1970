//! Messages that change their place other than by a consumer's delete: back to ready, to a dead-letter queue, and from it.

use super::super::model::{MessageId, QueueId};
use super::super::overseer::{Action, Change};
use super::super::record::Entry;
use super::shelf::{Place, Slot, State};
use super::{Context, Engine, id_text, observe, remove, worn_out};

impl Engine {
    /// Does what the overseer wants done with one of its messages. Nothing where it is not on the queue.
    pub(in crate::queue) fn act(&mut self, ctx: &mut Context<'_>, queue: QueueId, message: MessageId, action: Action) {
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
    pub(super) fn come_back(&mut self, ctx: &mut Context<'_>, queue: QueueId, place: Place) {
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
