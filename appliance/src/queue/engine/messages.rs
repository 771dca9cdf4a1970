//! Messages in and out of one queue.

use backlot_journal::Lsn;

use super::super::model::{DELAY_S_MAX, MessageId, QueueError, QueueId, Receipt, Standing};
use super::super::overseer::{Change, Nearness, Turn};
use super::super::record::{Due, Entry, Head, Stance};
use super::super::settings::Flow;
use super::attempts::Handed;
use super::deduplication::Seen;
use super::order::{Chooser, Lane};
use super::replay::remember;
use super::shelf::{Place, Slot, State};
use super::{
    Accepted, Asked, Context, Deletion, Engine, Incoming, Kept, Placed, Queue, Taken, age_ms, drop_message, expired,
    id_text, look_again, no_queue, observe, overseer_of, put, remove, worn_out,
};

impl Engine {
    /// Lays a message on the queue. It is received by nobody before [`Engine::publish`]. On a FIFO queue a second send of one
    /// deduplication key within five minutes lays nothing down and is answered like the first.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`] when it was deleted meanwhile, [`QueueError::Draining`], [`QueueError::Full`].
    pub(in crate::queue) fn send(
        &mut self,
        ctx: &mut Context<'_>,
        queue: &Queue,
        incoming: Incoming<'_>,
    ) -> Result<Accepted, QueueError> {
        let kept = self.kept.get_mut(&queue.id).filter(|kept| !kept.closed).ok_or_else(|| no_queue(queue))?;
        if kept.queue.settings.flow == Flow::Draining {
            return Err(QueueError::Draining(queue.name.to_string()));
        }
        if let Some(seen) = incoming.deduplication.and_then(|key| kept.deduplication.find(ctx.now, key)) {
            duplicate(kept, ctx, &seen);
            return Ok(Accepted { message: seen.message, sequence: Some(seen.sequence) });
        }
        if incoming.deduplication.is_some() && kept.deduplication.is_full() {
            let reason = "remembers as many sends of the last five minutes as it can";
            return Err(QueueError::Full(format!("queue `{}` {reason}", queue.name)));
        }
        if kept.shelf.is_full() {
            return Err(QueueError::Full(format!("queue `{}` holds {} messages", queue.name, kept.shelf.len())));
        }
        let delay_ms = u64::from(incoming.delay_s) * 1000;
        let held_s = if incoming.delay_s > DELAY_S_MAX { incoming.delay_s } else { 0 };
        let now_ms = i64::try_from(ctx.now.mono_ms).unwrap_or(i64::MAX);
        let aged_from_ms = now_ms.saturating_add(i64::from(held_s) * 1000);
        let mut slot = Slot::new(incoming.id, aged_from_ms, incoming.record.len());
        slot.due_ms = ctx.now.mono_ms + delay_ms;
        slot.held = held_s > 0;
        slot.admitted = incoming.admitted.is_some();
        let lane = match (incoming.admitted, incoming.group_id) {
            (Some((priority, class, tenant)), _) => Lane::Job { priority, class, tenant },
            (None, Some(group)) => Lane::Group(group.into()),
            (None, None) => Lane::Plain,
        };
        let sequence = kept.is_fifo().then(|| kept.shelf.next_arrival());
        let head = Head {
            queue: queue.id,
            message: incoming.id,
            sent_at_ms: ctx.now.wall_ms,
            due: Due::after(ctx.now, delay_ms),
            receives: 0,
            receives_elsewhere: 0,
            first_received: 0,
            source: None,
            stance: if delay_ms == 0 { Stance::Ready } else { Stance::Delayed },
            admitted: slot.admitted,
            receipt_void: false,
            held_s,
            sequence: sequence.unwrap_or(0),
            moved: false,
            per_group: incoming.per_group,
        };
        let (place, _) = kept.shelf.insert(slot, &lane, ctx.now.mono_ms); // pending: nobody can receive it yet
        ctx.group.placements.push((ctx.group.records.len(), Placed::Message(queue.id, incoming.id, place)));
        ctx.group.records.push(head.fill(incoming.record));
        ctx.group.changes += 1;
        if let (Some(key), Some(sequence)) = (incoming.deduplication, sequence) {
            kept.deduplication.remember(Seen { key, message: incoming.id, sequence, at_ms: now_ms });
        }
        kept.tally.sent += 1;
        let message_id = id_text(kept, ctx, incoming.id);
        let change = Change::Sent { message_id: &message_id, body: incoming.body, delay_s: incoming.delay_s };
        let _ = observe(kept, ctx, change);
        Ok(Accepted { message: incoming.id, sequence })
    }

    /// Takes up to `messages_max` ready messages that fit the agent and hides them for `visibility_s`. What was received too
    /// often, or is past its retention, is moved away instead; `changes_max` bounds all of it. Nothing taken and the bound
    /// reached means: ask again. A paused queue gives nothing.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`]; [`QueueError::OverLimit`], which a FIFO queue answers with nothing instead (AWS).
    pub(in crate::queue) fn receive(
        &mut self,
        ctx: &mut Context<'_>,
        queue: &Queue,
        asked: &Asked<'_>,
    ) -> Result<Vec<Taken>, QueueError> {
        let kept = self.kept.get_mut(&queue.id).ok_or_else(|| no_queue(queue))?;
        if kept.queue.settings.flow == Flow::Paused {
            return Ok(Vec::new());
        }
        let attempt_id = asked.attempt_id.filter(|_| kept.is_fifo());
        let again = attempt_id.and_then(|attempt_id| take_again(kept, ctx, attempt_id, asked.visibility_s));
        let mut taken = match again {
            Some(taken) => taken,
            None => self.take_next(ctx, queue, asked, attempt_id)?,
        };
        for message in &mut taken {
            let kept = self.kept.get(&queue.id);
            let source = kept.and_then(|kept| kept.shelf.source(message.receipt.message));
            message.source = source.and_then(|source| self.kept.get(&source)).map(|kept| kept.queue.name.clone());
        }
        Ok(taken)
    }

    fn take_next(
        &mut self,
        ctx: &mut Context<'_>,
        queue: &Queue,
        asked: &Asked<'_>,
        attempt_id: Option<&str>,
    ) -> Result<Vec<Taken>, QueueError> {
        let (mut taken, mut last) = (Vec::new(), None);
        let ageing_ms = ctx.overseer.map_or(0, |overseer| overseer.ageing_ms());
        let patience_ms = ctx.overseer.map_or(0, |overseer| overseer.patience_ms());
        while taken.len() < asked.messages_max && ctx.group.changes < asked.changes_max {
            let kept = self.kept.get_mut(&queue.id).ok_or_else(|| no_queue(queue))?;
            if kept.queue.settings.flow == Flow::Paused {
                break;
            }
            let overseer = overseer_of(kept, ctx.overseer);
            let (now, name) = (ctx.now, kept.queue.name.as_str());
            let chooser = Chooser {
                now_ms: now.mono_ms,
                ageing_ms,
                fits: &|class| {
                    asked.class.is_none_or(|asked| asked == class)
                        && overseer.is_none_or(|overseer| overseer.fits(asked.agent, class))
                },
                nearness: &|class| {
                    overseer.map_or(Nearness::Elsewhere, |overseer| overseer.nearness(asked.agent, class))
                },
                patience_ms,
                turn: &|tenant| overseer.map_or(Turn::May { rank: 0 }, |overseer| overseer.turn(now, name, tenant)),
            };
            let choice = kept.shelf.next(&chooser, last);
            let Some(place) = choice.place else {
                if let Some(mono_ms) = choice.not_before_ms {
                    ctx.group.timer(look_again(kept, now, mono_ms));
                }
                break;
            };
            let slot = kept.shelf.slot(place);
            if expired(kept, now, slot) {
                drop_message(kept, ctx, place, "retention");
                kept.tally.expired += 1;
                continue;
            }
            if worn_out(&kept.queue, slot) && self.dead_letter(ctx, queue.id, place, true) {
                continue;
            }
            let Some(kept) = self.kept.get_mut(&queue.id) else { break };
            if kept.shelf.counts().in_flight >= kept.in_flight_max() {
                if taken.is_empty() && ctx.group.changes == 0 && !kept.is_fifo() {
                    return Err(QueueError::OverLimit(queue.name.to_string()));
                }
                break;
            }
            taken.push(take(kept, ctx, place, asked));
            last = Some(place);
        }
        if let Some(attempt_id) = attempt_id.filter(|_| !taken.is_empty())
            && let Some(kept) = self.kept.get_mut(&queue.id)
        {
            let due_ms = ctx.now.mono_ms + u64::from(asked.visibility_s) * 1000;
            let handed = taken.iter().map(|taken: &Taken| Handed {
                message: taken.receipt.message,
                receives: taken.receipt.receives,
                due_ms,
            });
            kept.attempts.remember(ctx.now.mono_ms, attempt_id, handed.collect());
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

    /// Deletes by receipt. A message whose timeout has ended is deleted too, as long as nobody has received it again; not so
    /// on a FIFO queue, where others may have overtaken its consumer.
    ///
    /// # Errors
    /// [`QueueError::ForeignReceipt`] for another queue's receipt; [`QueueError::ReceiptExpired`] on a FIFO queue.
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
        let slot = kept.shelf.slot(place);
        let newest = is_newest(slot, receipt);
        if kept.is_fifo() && !(newest && slot.state == State::InFlight) {
            kept.tally.deleted_stale += 1;
            return Err(QueueError::ReceiptExpired);
        }
        if !newest {
            kept.tally.deleted_stale += 1;
            return Ok(Deletion::Stale);
        }
        remove(kept, ctx.now, ctx.group, place);
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
        ctx.group.write(&Entry::Hidden { queue: queue.id, message: receipt.message, due: Due::OVER });
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
    ctx.group.write(&Entry::Hidden { queue, message, due: Due::after(ctx.now, visibility_ms) });
    ctx.group.changes += 1;
    put(kept, ctx.now, ctx.group, place, State::InFlight, ctx.now.mono_ms + visibility_ms);
    ctx.group.timer(ctx.now.mono_ms + visibility_ms);
}

/// The first send may be on its way to the disk still; this record is durable after it, and so is the answer.
fn duplicate(kept: &Kept, ctx: &mut Context<'_>, seen: &Seen) {
    let first = kept.shelf.find(seen.message).map(|place| kept.shelf.slot(place).state);
    if first == Some(State::Pending) {
        remember(kept, ctx.now, seen, ctx.group);
    }
    ctx.group.changes += 1;
}

/// What the receive called `attempt_id` took, hidden anew. `None` where it took nothing or one of its messages was touched since.
fn take_again(kept: &mut Kept, ctx: &mut Context<'_>, attempt_id: &str, visibility_s: u32) -> Option<Vec<Taken>> {
    let handed = kept.attempts.find(ctx.now.mono_ms, attempt_id)?.clone();
    let untouched = |handed: &Handed| {
        kept.shelf.find(handed.message).filter(|place| {
            let slot = kept.shelf.slot(*place);
            let as_handed = (slot.receives, slot.due_ms) == (handed.receives, handed.due_ms);
            slot.state == State::InFlight && as_handed && !slot.receipt_void && slot.due_ms > ctx.now.mono_ms
        })
    };
    let places: Vec<Place> = handed.iter().map(untouched).collect::<Option<_>>()?;
    places.iter().for_each(|place| hide(kept, ctx, *place, visibility_s));
    let due_ms = ctx.now.mono_ms + u64::from(visibility_s) * 1000;
    kept.attempts.find(ctx.now.mono_ms, attempt_id)?.iter_mut().for_each(|handed| handed.due_ms = due_ms);
    Some(places.into_iter().map(|place| taken(kept, place)).collect())
}

fn taken(kept: &Kept, place: Place) -> Taken {
    let slot = kept.shelf.slot(place);
    Taken {
        lsn: slot.lsn,
        receipt: Receipt { queue: kept.queue.id, message: slot.id, receives: slot.receives },
        receive_count: slot.receives,
        first_received_after_ms: slot.first_received.saturating_sub(1),
        sequence: kept.is_fifo().then(|| slot.arrival()),
        source: None,
        admitted: slot.admitted,
    }
}

fn take(kept: &mut Kept, ctx: &mut Context<'_>, place: Place, asked: &Asked<'_>) -> Taken {
    let queue = kept.queue.id;
    let visibility_ms = u64::from(asked.visibility_s) * 1000;
    let slot = kept.shelf.slot_mut(place);
    slot.receives = slot.receives.saturating_add(1);
    slot.receipt_void = false;
    if slot.first_received == 0 {
        let after_ms = age_ms(ctx.now, slot.aged_from_ms);
        slot.first_received = u32::try_from(after_ms).unwrap_or(u32::MAX).saturating_add(1);
    }
    let first_received = slot.first_received;
    let taken = taken(kept, place);
    let receipt = taken.receipt;
    put(kept, ctx.now, ctx.group, place, State::InFlight, ctx.now.mono_ms + visibility_ms);
    ctx.group.timer(ctx.now.mono_ms + visibility_ms);
    kept.tally.received += 1;
    ctx.group.changes += 1;
    ctx.group.write(&Entry::Received {
        queue,
        message: receipt.message,
        receives: receipt.receives,
        first_received,
        due: Due::after(ctx.now, visibility_ms),
    });
    let message_id = id_text(kept, ctx, receipt.message);
    if !message_id.is_empty() {
        let change = Change::Received {
            message_id: &message_id,
            receipt: &receipt.encode(),
            receive_count: receipt.receives,
            agent: asked.agent,
        };
        let _ = observe(kept, ctx, change);
    }
    taken
}
