//! Messages in and out of one queue.

use backlot_journal::Lsn;

use super::super::model::{IN_FLIGHT_MAX, MessageId, QueueError, QueueId, Receipt, Standing};
use super::super::overseer::Change;
use super::super::record::{Entry, HEAD_BYTES, Head, Stance};
use super::shelf::{Place, Slot, State};
use super::{
    Context, Deletion, Engine, Incoming, Kept, Placed, Queue, Taken, age_ms, drop_message, expired, id_text, no_queue,
    observe, overseer_of, remove, worn_out,
};

impl Engine {
    /// Lays a message on the queue. It is received by nobody before [`Engine::publish`].
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`] when it was deleted meanwhile, [`QueueError::Full`].
    pub(in crate::queue) fn send(
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
        let sent_ms = i64::try_from(ctx.now.mono_ms).unwrap_or(i64::MAX);
        let mut slot = Slot::new(incoming.id, sent_ms, HEAD_BYTES + incoming.content.len());
        slot.due_ms = ctx.now.mono_ms + delay_ms;
        if let Some((priority, class, _)) = incoming.admitted {
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

    /// Takes up to `messages_max` ready messages that fit `agent` and hides them for `visibility_s`. What was received too often,
    /// or is past its retention, is moved away instead; `changes_max` bounds all of it. Nothing taken and the bound
    /// reached means: ask again.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`], [`QueueError::OverLimit`].
    pub(in crate::queue) fn receive(
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
    pub(in crate::queue) fn locate(&self, queue: QueueId, message: MessageId) -> Option<Lsn> {
        let shelf = &self.kept.get(&queue)?.shelf;
        shelf.find(message).map(|place| shelf.slot(place).lsn)
    }

    pub(in crate::queue) fn standing(&self, queue: QueueId, message: MessageId) -> Option<Standing> {
        let shelf = &self.kept.get(&queue)?.shelf;
        let slot = shelf.slot(shelf.find(message)?);
        Some(Standing { in_flight: slot.state == State::InFlight, receive_count: slot.receives })
    }

    /// Deletes by receipt. A message whose timeout has ended is deleted too, as long as nobody has received it again.
    ///
    /// # Errors
    /// [`QueueError::ForeignReceipt`] for another queue's receipt.
    pub(in crate::queue) fn delete(
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
    pub(in crate::queue) fn change_visibility(
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
    pub(in crate::queue) fn extend(
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
}

fn is_newest(slot: &Slot, receipt: &Receipt) -> bool {
    slot.receives == receipt.receives && slot.receives > 0 && !slot.receipt_void
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
    let first_received = slot.first_received;
    let receipt = Receipt { queue, message: slot.id, receives: slot.receives };
    let taken = Taken {
        lsn: slot.lsn,
        receipt,
        receive_count: slot.receives,
        first_received_after_ms: first_received - 1,
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
        first_received,
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
