//! Messages in and out: send, receive, delete, visibility, and what an overseer decides.

use std::sync::Arc;
use std::time::Duration;

use backlot_journal::{Class as RecordClass, JournalError};
use backlot_wire::Timestamp;
use rand::RngCore;
use tokio::sync::oneshot;

use super::engine::{Context, Deletion, Incoming, Queue, Taken};
use super::model::{
    AttributeValue, BATCH_MAX, Decision, Delivery, HELD_S_MAX, MESSAGE_BYTES_MAX, MessageAttribute, MessageId,
    QueueError, QueueId, Receipt, ReceiveRequest, SendRequest, Sent, Standing, VISIBILITY_S_MAX, WAIT_S_MAX,
};
use super::overseer::{Action, CHANGE_RECORDS_BYTES_MAX};
use super::record::{Content, Entry, SMALL_BYTES_MAX, content_of};
use super::{Queues, Shared, State, Ticket, acknowledged, store_error};
use crate::clock::Now;
use crate::control::{ControlError, Record};

/// How often a body is looked for again when compaction moved it between the receive and the read.
const READS_MAX: usize = 5;

impl Shared {
    /// Room for `changes` changes that write no content.
    pub(super) fn room(&self, changes: usize) -> usize {
        // A change is told once or twice (timed out, then dead-lettered) and writes as many records of its own.
        let told = if self.overseer.is_some() { 2 * CHANGE_RECORDS_BYTES_MAX } else { 0 };
        changes * (3 * SMALL_BYTES_MAX + told)
    }

    fn next_id(&self) -> MessageId {
        let mut bytes = [0; 16];
        self.ids.lock().fill_bytes(&mut bytes);
        MessageId::from_random(bytes)
    }
}

impl Queues {
    /// Sends one message to `queue`; on a job queue the overseer admits it first.
    ///
    /// # Errors
    /// [`QueueError::NotAdmitted`] with the overseer's sentence; [`QueueError::Store`]: nothing was sent.
    pub async fn send(&self, queue: &str, request: SendRequest) -> Result<Sent, QueueError> {
        let mut sent = self.send_batch(queue, vec![request]).await?;
        sent.pop().unwrap_or_else(|| Err(QueueError::NoSuchQueue(queue.to_owned())))
    }

    /// Sends up to ten messages in one journal group. Each is taken or refused for itself, in the order of `requests`.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`], [`QueueError::Store`]: nothing was sent.
    pub async fn send_batch(
        &self,
        queue: &str,
        requests: Vec<SendRequest>,
    ) -> Result<Vec<Result<Sent, QueueError>>, QueueError> {
        let found = self.shared.find(queue)?;
        let mut room = 0;
        let mut prepared = Vec::with_capacity(requests.len());
        for request in requests.into_iter().take(BATCH_MAX) {
            let outgoing = self.prepare_send(&found, request);
            if let Ok(outgoing) = &outgoing {
                room += outgoing.record_bytes;
            }
            prepared.push(outgoing);
        }
        if room == 0 {
            return Ok(prepared.into_iter().map(|outgoing| outgoing.map(Outgoing::into_sent)).collect());
        }
        let permit = self.shared.control.reserve(room, RecordClass::Growing).await.map_err(store_error(queue))?;
        let (answers, commit) = self.shared.decide(permit, |state, ctx| {
            let mut send = |outgoing: Outgoing| {
                state.engine.send(ctx, &found, &outgoing.incoming()).map(|()| outgoing.into_sent())
            };
            prepared.into_iter().map(|outgoing| outgoing.and_then(&mut send)).collect::<Vec<_>>()
        });
        acknowledged(queue, commit).await?;
        self.shared.publish();
        Ok(answers)
    }

    /// Everything about a send that needs no lock.
    fn prepare_send(&self, queue: &Queue, request: SendRequest) -> Result<Outgoing, QueueError> {
        let delay_s = request.delay_s.unwrap_or(queue.settings.delay_s);
        if delay_s > HELD_S_MAX {
            return Err(invalid("DelaySeconds", format!("Value {delay_s} for parameter DelaySeconds is invalid.")));
        }
        let attributes: usize =
            request.attributes.iter().map(|a| a.name.len() + a.data_type.len() + a.value.bytes().len()).sum();
        let bytes_max = queue.settings.message_bytes_max as usize;
        if request.body.len() + attributes > bytes_max {
            let problem =
                format!("One or more parameters are invalid. Reason: Message must be shorter than {bytes_max} bytes.");
            return Err(invalid("MessageBody", problem));
        }
        if request.body.is_empty() {
            return Err(invalid("MessageBody", "The request must contain the parameter MessageBody.".to_owned()));
        }
        if !request.body.chars().all(is_writable) {
            let problem = "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | \
                           #xE000 to #xFFFD | #x10000 to #x10FFFF";
            return Err(QueueError::NotAdmitted(problem.to_owned()));
        }
        let mut body = request.body;
        let mut admitted = None;
        if let Some(overseer) = self.shared.overseer().filter(|_| queue.settings.job_queue) {
            let now = self.shared.clock.now();
            let answer = overseer.admit(now, queue.name.as_str(), &body).map_err(QueueError::NotAdmitted)?;
            if answer.body.len() > 2 * MESSAGE_BYTES_MAX {
                return Err(QueueError::NotAdmitted("the job is too large once its defaults are filled in".to_owned()));
            }
            body = answer.body;
            admitted = Some((answer.priority, answer.class, answer.tenant));
        }
        let told = if admitted.is_some() { 2 * body.len() + CHANGE_RECORDS_BYTES_MAX } else { 0 };
        let content = Content {
            body,
            attributes: request.attributes,
            trace_header: request.trace_header,
            sender_id: request.sender_id,
        };
        let record_bytes = content.record_bytes() + told;
        let encoded = content.encode();
        Ok(Outgoing { id: self.shared.next_id(), body: content.body, encoded, delay_s, admitted, record_bytes })
    }

    /// Receives up to `messages_max` messages, waiting as long as asked while there is none. Dropping the future while
    /// it waits leaves the line.
    ///
    /// # Errors
    /// [`QueueError::OverLimit`]; [`QueueError::Store`]: the receive was not made durable.
    pub async fn receive(&self, queue: &str, request: ReceiveRequest) -> Result<Vec<Delivery>, QueueError> {
        let shared = &self.shared;
        let found = shared.find(queue)?;
        let wait_s = request.wait_s.unwrap_or(found.settings.wait_s).min(WAIT_S_MAX);
        let deadline_ms = shared.clock.now().mono_ms + u64::from(wait_s) * 1000;
        let asked = Asked {
            messages_max: request.messages_max.clamp(1, BATCH_MAX),
            visibility_s: request.visibility_s.unwrap_or(found.settings.visibility_s).min(VISIBILITY_S_MAX),
            agent: request.agent.map(Arc::from),
        };
        let mut in_line = InLine { shared: Arc::clone(shared), queue: found.id, ticket: None };
        loop {
            let room = shared.room(asked.changes_max());
            let permit = shared.control.reserve(room, RecordClass::Shrinking).await.map_err(store_error(queue))?;
            let (turn, commit) =
                shared.decide(permit, |state, ctx| asked.turn(shared, state, ctx, &found, &mut in_line, deadline_ms));
            match turn? {
                Turn::Taken(taken) => {
                    drop(in_line);
                    acknowledged(queue, commit).await?;
                    return Ok(taken.into_iter().filter_map(|taken| self.deliver(&found, taken)).collect());
                }
                // Messages were moved away; they are on their way to the disk, and nobody waits for that.
                Turn::Again => {}
                Turn::Nothing => return Ok(Vec::new()),
                Turn::Wait { woken, left } => {
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
        let mut attributes = content.attributes;
        if let Some(overseer) = self.shared.overseer().filter(|_| taken.admitted) {
            let added = overseer.attributes(queue.name.as_str(), &message_id);
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
            body: content.body,
            attributes,
            trace_header: content.trace_header,
            sender_id: content.sender_id,
            sent_at: Timestamp(head.sent_at_ms),
            receive_count: taken.receive_count,
            first_received_at: Timestamp(head.sent_at_ms + u64::from(taken.first_received_after_ms)),
            source: taken.source.map(|source| source.to_string()),
        })
    }

    /// Deletes up to ten messages by their receipts, in one journal group. A message that has gone already, or was
    /// received again by somebody else, is answered like one that was deleted: so does SQS.
    ///
    /// # Errors
    /// Outside [`QueueError::NoSuchQueue`] and [`QueueError::Store`]; for one entry [`QueueError::ForeignReceipt`].
    pub async fn delete(&self, queue: &str, receipts: &[String]) -> Result<Vec<Result<(), QueueError>>, QueueError> {
        let found = self.shared.find(queue)?;
        let receipts: Vec<_> = receipts.iter().take(BATCH_MAX).map(|text| Receipt::decode(text)).collect();
        let room = self.shared.room(receipts.len());
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
        let room = self.shared.room(changes.len().min(BATCH_MAX));
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
        let room = records_bytes_max + self.shared.room(1);
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
        let room = self.shared.room(1);
        let permit = self.shared.control.reserve(room, RecordClass::Shrinking).await.map_err(store_error(queue))?;
        let (extended, commit) = self.shared.decide(permit, |state, ctx| {
            state.engine.extend(ctx, found.id, message, visibility_s.min(VISIBILITY_S_MAX))
        });
        acknowledged(queue, commit).await?;
        Ok(extended)
    }
}

fn invalid(name: &'static str, problem: String) -> QueueError {
    QueueError::InvalidParameter { name, problem }
}

/// What XML 1.0 can write: SQS takes nothing else in a body.
fn is_writable(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// A message that may be sent.
struct Outgoing {
    id: MessageId,
    body: String,
    encoded: Vec<u8>,
    delay_s: u32,
    admitted: Option<(u8, super::Class, super::Tenant)>,
    record_bytes: usize,
}

impl Outgoing {
    fn incoming(&self) -> Incoming<'_> {
        Incoming {
            id: self.id,
            content: &self.encoded,
            body: &self.body,
            delay_s: self.delay_s,
            admitted: self.admitted,
        }
    }

    fn into_sent(self) -> Sent {
        Sent { message_id: self.id.to_string(), body: self.body }
    }
}

struct Asked {
    messages_max: usize,
    visibility_s: u32,
    agent: Option<Arc<str>>,
}

enum Turn {
    Taken(Vec<Taken>),
    Again,
    Nothing,
    Wait { woken: oneshot::Receiver<()>, left: Duration },
}

impl Asked {
    /// Changes one turn may make: what it takes, and some that must be moved away before.
    fn changes_max(&self) -> usize {
        self.messages_max + 4
    }

    fn turn(
        &self,
        shared: &Shared,
        state: &mut State,
        ctx: &mut Context<'_>,
        queue: &Queue,
        in_line: &mut InLine,
        deadline_ms: u64,
    ) -> Result<Turn, QueueError> {
        let mut messages_max = self.messages_max;
        if in_line.ticket.is_none() {
            // What is ready belongs to those who were woken for it.
            let ready = state.engine.counts(queue.id).ready;
            messages_max = messages_max.min(ready.saturating_sub(state.waiting.woken(queue.id)));
        }
        let agent = self.agent.as_deref();
        let taken = state.engine.receive(ctx, queue, agent, messages_max, self.visibility_s, self.changes_max())?;
        if !taken.is_empty() {
            return Ok(Turn::Taken(taken));
        }
        if ctx.group.changes > 0 {
            return Ok(Turn::Again);
        }
        let left_ms = deadline_ms.saturating_sub(ctx.now.mono_ms);
        if left_ms == 0 {
            return Ok(Turn::Nothing);
        }
        let (ticket, woken) = state.waiting.sleep(queue.id, in_line.ticket, self.agent.clone());
        in_line.ticket = Some(ticket);
        shared.pass_on(state, queue.id);
        Ok(Turn::Wait { woken, left: Duration::from_millis(left_ms) })
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
