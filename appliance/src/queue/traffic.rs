//! Messages out: receive, delete, visibility, and what an overseer decides.

use std::sync::Arc;
use std::time::Duration;

use backlot_journal::{Class as RecordClass, JournalError};
use backlot_wire::Timestamp;
use tokio::sync::oneshot;

use super::engine::{Asked, Context, Deletion, Queue, Taken};
use super::model::{
    AttributeValue, BATCH_MAX, Decision, Delivery, MessageAttribute, MessageId, QueueError, QueueId, Receipt,
    ReceiveRequest, Standing, VISIBILITY_S_MAX, WAIT_S_MAX, sequence_number,
};
use super::overseer::{Action, CHANGE_RECORDS_BYTES_MAX, Class};
use super::record::{Content, Entry, SMALL_BYTES_MAX, content_of};
use super::sending::{WRONG_TYPE, check_mark, invalid};
use super::{Queues, Shared, State, Ticket, acknowledged, store_error};
use crate::clock::Now;
use crate::control::{ControlError, Record};

/// How often a body is looked for again when compaction moved it between the receive and the read.
const READS_MAX: usize = 5;

impl Shared {
    /// Room for `changes` changes on any queue that write no content.
    pub(super) fn room(&self, changes: usize) -> usize {
        changes * change_bytes_max(self.overseer.is_some())
    }

    /// The same on `queue`.
    fn room_on(&self, queue: &Queue, changes: usize) -> usize {
        changes * change_bytes_max(self.overseer.is_some() && queue.settings.job_queue)
    }

    /// How many changes one journal group can surely hold: `wanted`, unless segments are small.
    pub(super) fn changes_max(&self, wanted: usize) -> usize {
        (self.control.permit_bytes_max() / self.room(1)).min(wanted).max(2)
    }
}

/// Most bytes of records that a change writes which writes no content.
fn change_bytes_max(told: bool) -> usize {
    // It is told once or twice (timed out, then dead-lettered), and whoever is told writes records of their own.
    3 * SMALL_BYTES_MAX + if told { 2 * CHANGE_RECORDS_BYTES_MAX } else { 0 }
}

impl Queues {
    /// Receives up to `messages_max` messages, waiting as long as asked while there is none. Dropping the future while
    /// it waits leaves the line.
    ///
    /// # Errors
    /// [`QueueError::OverLimit`]; [`QueueError::Store`]: the receive was not made durable.
    pub async fn receive(&self, queue: &str, request: ReceiveRequest) -> Result<Vec<Delivery>, QueueError> {
        let shared = &self.shared;
        let found = shared.find(queue)?;
        let mut wait_s = request.wait_s.unwrap_or(found.settings.wait_s).min(WAIT_S_MAX);
        let mut class = None;
        if let Some(job) = &request.alike {
            let alike = shared.overseer().filter(|_| found.settings.job_queue).and_then(|overseer| overseer.alike(job));
            let Some(alike) = alike else { return Ok(Vec::new()) };
            // One that waited would be given what an idle host could have.
            (class, wait_s) = (Some(alike), 0);
        }
        let deadline_ms = shared.clock.now().mono_ms + u64::from(wait_s) * 1000;
        check_attempt(&found, request.attempt_id.as_deref())?;
        let wish = Wish {
            messages_max: request.messages_max.clamp(1, BATCH_MAX),
            visibility_s: request.visibility_s.unwrap_or(found.settings.visibility_s).min(VISIBILITY_S_MAX),
            agent: request.agent.map(Arc::from),
            class,
            attempt_id: request.attempt_id,
        };
        let mut in_line = InLine { shared: Arc::clone(shared), queue: found.id, ticket: None };
        loop {
            let room = shared.room_on(&found, wish.changes_max());
            let permit = shared.control.reserve(room, RecordClass::Shrinking).await.map_err(store_error(queue))?;
            let (step, commit) =
                shared.decide(permit, |state, ctx| wish.step(shared, state, ctx, &found, &mut in_line, deadline_ms));
            match step? {
                Step::Taken(taken) => {
                    drop(in_line);
                    acknowledged(queue, commit).await?;
                    return Ok(taken.into_iter().filter_map(|taken| self.deliver(&found, taken)).collect());
                }
                // Messages were moved away; they are on their way to the disk, and nobody waits for that.
                Step::Again => {}
                Step::Nothing => return Ok(Vec::new()),
                Step::Wait { woken, left } => {
                    let closing = async {
                        match shared.closing.get() {
                            Some(closing) => closing.cancelled().await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        _ = woken => {}
                        () = tokio::time::sleep(left) => {}
                        () = closing => return Ok(Vec::new()),
                    }
                }
            }
        }
    }

    /// Reads the content of a received message. `None` when the message has gone meanwhile, or its record is damaged,
    /// which the log says: it then comes back by its timeout.
    fn deliver(&self, queue: &Queue, taken: Taken) -> Option<Delivery> {
        let message_id = taken.receipt.message.to_string();
        let mut lsn = taken.lsn;
        let mut payload = self.shared.control.read(lsn);
        for _ in 0..READS_MAX {
            if !matches!(payload, Err(ControlError::Journal(JournalError::NoRecord(_)))) {
                break;
            }
            lsn = self.shared.state.lock().engine.locate(queue.id, taken.receipt.message)?;
            payload = self.shared.control.read(lsn);
        }
        let read = payload.map_err(|error| error.to_string()).and_then(|payload| {
            let Entry::Sent(head) = Entry::decode(&payload)? else {
                return Err("the record is no send".to_owned());
            };
            Ok((head, Content::decode(content_of(&payload))?))
        });
        let (head, content) = read
            .inspect_err(|problem| {
                tracing::error!(queue = queue.name.as_str(), message_id, ?lsn, problem, "read a message's body");
            })
            .ok()?;
        // What was let go before the end of a long delay was received before it ages.
        let aged_from_ms = head.sent_at_ms + u64::from(head.held_s) * 1000;
        let latest_ms = if head.held_s > 0 { self.shared.clock.now().wall_ms } else { u64::MAX };
        let first_received_ms = (aged_from_ms + u64::from(taken.first_received_after_ms)).min(latest_ms);
        let (mut attributes, mut body) = (content.attributes, content.body);
        if let Some(overseer) = self.shared.overseer().filter(|_| taken.admitted) {
            let added = overseer.attributes(queue.name.as_str(), &message_id);
            if let Some(amended) = overseer.body(&message_id) {
                body = amended;
            }
            // A name stands once in a message: the overseer's wins over the sender's.
            attributes.retain(|attribute| added.iter().all(|(name, _)| *name != attribute.name));
            attributes.extend(added.into_iter().map(|(name, value)| MessageAttribute {
                name,
                data_type: "String".to_owned(),
                value: AttributeValue::Text(value),
            }));
        }
        Some(Delivery {
            message_id,
            receipt: taken.receipt.encode(),
            body,
            attributes,
            trace_header: content.trace_header,
            sender_id: content.sender_id,
            sent_at: Timestamp(head.sent_at_ms),
            receive_count: taken.receive_count,
            first_received_at: Timestamp(first_received_ms),
            source: taken.source.map(|source| source.to_string()),
            group_id: content.group_id,
            deduplication_id: content.deduplication_id,
            sequence_number: taken.sequence.map(sequence_number),
        })
    }

    /// Deletes up to ten messages by their receipts, in one journal group. A message that has gone already, or was
    /// received again by somebody else, is answered like one that was deleted: so does SQS on standard queues.
    ///
    /// # Errors
    /// Outside [`QueueError::NoSuchQueue`] and [`QueueError::Store`]; for one entry [`QueueError::ForeignReceipt`], and on a FIFO
    /// queue [`QueueError::ReceiptExpired`].
    pub async fn delete(&self, queue: &str, receipts: &[String]) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let found = self.shared.find(queue)?;
        let receipts: Vec<_> = receipts.iter().take(BATCH_MAX).map(|text| Receipt::decode(text)).collect();
        let room = self.shared.room_on(&found, receipts.len());
        let permit = self.shared.control.reserve(room, RecordClass::Shrinking).await.map_err(store_error(queue))?;
        let (answers, commit) = self.shared.decide(permit, |state, ctx| {
            let delete = |receipt: Option<Receipt>| {
                let receipt = receipt.ok_or(QueueError::ForeignReceipt)?;
                let deletion = state.engine.delete(ctx, &found, &receipt)?;
                if deletion == Deletion::Stale {
                    tracing::debug!(queue = found.name.as_str(), message = %receipt.message, "delete with an old receipt");
                }
                Ok(())
            };
            receipts.into_iter().map(delete).collect::<Vec<_>>()
        });
        acknowledged(queue, commit).await?;
        Ok(answers)
    }

    /// Sets the visibility timeout of up to ten messages, counted from now, in one journal group. 0 ends it at once.
    ///
    /// # Errors
    /// Outside [`QueueError::NoSuchQueue`] and [`QueueError::Store`]; for one entry [`QueueError::ForeignReceipt`],
    /// [`QueueError::NotInFlight`], [`QueueError::NoSuchMessage`].
    pub async fn change_visibility(
        &self,
        queue: &str,
        changes: &[(String, u32)],
    ) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let found = self.shared.find(queue)?;
        let room = self.shared.room_on(&found, changes.len().min(BATCH_MAX));
        let permit = self.shared.control.reserve(room, RecordClass::Shrinking).await.map_err(store_error(queue))?;
        let (answers, commit) = self.shared.decide(permit, |state, ctx| {
            let change = |(text, visibility_s): &(String, u32)| {
                let receipt = Receipt::decode(text).ok_or(QueueError::ForeignReceipt)?;
                state.engine.change_visibility(ctx, &found, &receipt, (*visibility_s).min(VISIBILITY_S_MAX))
            };
            changes.iter().take(BATCH_MAX).map(change).collect::<Vec<_>>()
        });
        acknowledged(queue, commit).await?;
        Ok(answers)
    }

    /// Does `action` to a message and makes `records` durable in the same journal group. The overseer is not told of it.
    ///
    /// # Errors
    /// [`QueueError::NoSuchMessage`]: nothing was done and nothing recorded.
    pub async fn act(
        &self,
        queue: &str,
        message_id: &str,
        action: Action,
        records: Vec<Record>,
    ) -> Result<(), QueueError> {
        let bytes = records.iter().map(|record| record.payload.len()).sum();
        let decide = |_, standing: Option<Standing>| match standing {
            Some(_) => Decision { action: Some(action), records, answer: true },
            None => Decision { action: None, records: Vec::new(), answer: false },
        };
        if self.decide(queue, message_id, bytes, decide).await? {
            return Ok(());
        }
        Err(QueueError::NoSuchMessage { queue: queue.to_owned(), message_id: message_id.to_owned() })
    }

    /// Calls `decide` under the queue's lock with where the message stands (`None`: it is not on this queue), and does
    /// what it answered, in one journal group. This is how a decision about a job and its message cannot race a timeout
    /// or a receive: those are observed by the overseer under the same lock. `decide` may take the overseer's own lock, so
    /// nobody may call this while holding that lock. `records_bytes_max` bounds the records that it answers.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`], before `decide` is called; [`QueueError::Store`].
    pub async fn decide<T: Send>(
        &self,
        queue: &str,
        message_id: &str,
        records_bytes_max: usize,
        decide: impl FnOnce(Now, Option<Standing>) -> Decision<T> + Send,
    ) -> Result<T, QueueError> {
        let found = self.shared.find(queue)?;
        let message = MessageId::parse(message_id);
        let room = records_bytes_max + self.shared.room_on(&found, 1);
        let permit = self.shared.control.reserve(room, RecordClass::Shrinking).await.map_err(store_error(queue))?;
        let (answer, commit) = self.shared.decide(permit, |state, ctx| {
            let standing = message.and_then(|message| state.engine.standing(found.id, message));
            let decision = decide(ctx.now, standing);
            ctx.group.records.extend(decision.records);
            if let (Some(action), Some(message)) = (decision.action, message) {
                state.engine.act(ctx, found.id, message, action);
            }
            decision.answer
        });
        acknowledged(queue, commit).await?;
        Ok(answer)
    }

    /// Hides a message that is in flight for `visibility_s` more seconds from now: a heartbeat. False when it is not in flight.
    ///
    /// # Errors
    /// [`QueueError::Store`].
    pub async fn extend(&self, queue: &str, message_id: &str, visibility_s: u32) -> Result<bool, QueueError> {
        let found = self.shared.find(queue)?;
        let Some(message) = MessageId::parse(message_id) else { return Ok(false) };
        let room = self.shared.room_on(&found, 1);
        let permit = self.shared.control.reserve(room, RecordClass::Shrinking).await.map_err(store_error(queue))?;
        let (extended, commit) = self.shared.decide(permit, |state, ctx| {
            state.engine.extend(ctx, found.id, message, visibility_s.min(VISIBILITY_S_MAX))
        });
        acknowledged(queue, commit).await?;
        Ok(extended)
    }
}

/// A receive names itself on FIFO queues alone.
fn check_attempt(queue: &Queue, attempt_id: Option<&str>) -> Result<(), QueueError> {
    const NAME: &str = "ReceiveRequestAttemptId";
    match attempt_id {
        Some(id) if queue.settings.fifo.is_none() => Err(invalid(NAME, id, WRONG_TYPE)),
        id => check_mark(NAME, id),
    }
}

/// What a receive asks, for as long as it waits.
struct Wish {
    messages_max: usize,
    visibility_s: u32,
    agent: Option<Arc<str>>,
    class: Option<Class>,
    attempt_id: Option<String>,
}

enum Step {
    Taken(Vec<Taken>),
    Again,
    Nothing,
    Wait { woken: oneshot::Receiver<()>, left: Duration },
}

impl Wish {
    /// Changes one turn may make: what it takes, and some that must be moved away before.
    fn changes_max(&self) -> usize {
        self.messages_max + 4
    }

    fn step(
        &self,
        shared: &Shared,
        state: &mut State,
        ctx: &mut Context<'_>,
        queue: &Queue,
        in_line: &mut InLine,
        deadline_ms: u64,
    ) -> Result<Step, QueueError> {
        let messages_max = match in_line.ticket {
            Some(_) => self.messages_max,
            // What can be received belongs to those who were woken for it.
            None => state.engine.share(queue.id, state.waiting.woken(queue.id), self.messages_max),
        };
        let asked = Asked {
            agent: self.agent.as_deref(),
            class: self.class,
            messages_max,
            visibility_s: self.visibility_s,
            changes_max: self.changes_max(),
            attempt_id: self.attempt_id.as_deref(),
        };
        let taken = state.engine.receive(ctx, queue, &asked)?;
        if !taken.is_empty() {
            return Ok(Step::Taken(taken));
        }
        if ctx.group.changes > 0 {
            return Ok(Step::Again);
        }
        let left_ms = deadline_ms.saturating_sub(ctx.now.mono_ms);
        if left_ms == 0 {
            return Ok(Step::Nothing);
        }
        let (ticket, woken) = state.waiting.sleep(queue.id, in_line.ticket, self.agent.clone());
        in_line.ticket = Some(ticket);
        shared.pass_on(state, queue.id);
        Ok(Step::Wait { woken, left: Duration::from_millis(left_ms) })
    }
}

/// A place in the line of a queue, left when dropped.
struct InLine {
    shared: Arc<Shared>,
    queue: QueueId,
    ticket: Option<Ticket>,
}

impl Drop for InLine {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket {
            let mut state = self.shared.state.lock();
            state.waiting.leave(self.queue, ticket);
            self.shared.pass_on(&mut state, self.queue);
        }
    }
}
