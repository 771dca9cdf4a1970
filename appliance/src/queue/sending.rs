//! Messages on their way in: what is checked before the queue's lock is taken, and the send itself.

use std::collections::VecDeque;
use std::time::Duration;

use backlot_journal::Class as RecordClass;
use rand::RngCore;
use sha2::{Digest, Sha256};

use super::engine::{Accepted, Context, Incoming, Queue};
use super::model::{
    BATCH_MAX, DeduplicationKey, HELD_S_MAX, MARK_CHARS_MAX, MESSAGE_BYTES_MAX, MessageId, QueueError, SendRequest,
    Sent, sequence_number,
};
use super::overseer::{Admission, CHANGE_RECORDS_BYTES_MAX};
use super::record::Content;
use super::settings::Flow;
use super::{Queues, Shared, State, acknowledged, store_error};
use crate::control::{Commit, Record};

/// The pause before an overseer is asked again about a message that may repeat one on its way, and how often.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
const BUSY_MAX: usize = 1_500;

impl Shared {
    pub(super) fn next_id(&self) -> MessageId {
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
        let found = self.shared.find(queue)?;
        let (mut request, mut busy) = (request, 0);
        let prepared = loop {
            match self.prepare_send(&found, request)? {
                Prepared::Busy(_) if busy == BUSY_MAX => return Err(too_busy()),
                Prepared::Busy(again) => {
                    busy += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                    request = *again;
                }
                ready => break ready,
            }
        };
        let permit = self.shared.control.reserve(prepared.record_bytes(), RecordClass::Growing).await;
        let permit = permit.map_err(store_error(queue))?;
        let (answer, commit) = self.shared.decide(permit, |state, ctx| send_prepared(state, ctx, &found, prepared));
        self.acknowledge_sends(queue, commit).await?;
        answer
    }

    /// Sends up to ten messages, in one journal group unless one may repeat another of them. Each is taken or refused for
    /// itself, in the order of `requests`.
    ///
    /// # Errors
    /// [`QueueError::NoSuchQueue`], [`QueueError::Store`]: nothing was sent.
    pub async fn send_batch(
        &self,
        queue: &str,
        requests: Vec<SendRequest>,
    ) -> Result<Vec<Result<Sent, QueueError>>, QueueError> {
        let found = self.shared.find(queue)?;
        let mut rest: VecDeque<SendRequest> = requests.into_iter().take(BATCH_MAX).collect();
        let (mut answers, mut busy) = (Vec::with_capacity(rest.len()), 0);
        while !rest.is_empty() {
            let prepared = self.judge(&found, &mut rest);
            if !prepared.is_empty() {
                answers.extend(self.send_group(&found, prepared).await?);
            } else if busy < BUSY_MAX {
                busy += 1;
                tokio::time::sleep(BUSY_PAUSE).await;
            } else {
                rest.pop_front();
                answers.push(Err(too_busy()));
            }
        }
        Ok(answers)
    }

    /// Takes requests from `rest` up to one that the overseer cannot judge yet: those before it may have to be sent first.
    fn judge(&self, queue: &Queue, rest: &mut VecDeque<SendRequest>) -> Vec<Result<Prepared, QueueError>> {
        let mut prepared = Vec::with_capacity(rest.len());
        while let Some(request) = rest.pop_front() {
            match self.prepare_send(queue, request) {
                Ok(Prepared::Busy(request)) => {
                    rest.push_front(*request);
                    break;
                }
                other => prepared.push(other),
            }
        }
        prepared
    }

    async fn send_group(
        &self,
        queue: &Queue,
        prepared: Vec<Result<Prepared, QueueError>>,
    ) -> Result<Vec<Result<Sent, QueueError>>, QueueError> {
        let name = queue.name.as_str();
        let room: usize = prepared.iter().flatten().map(Prepared::record_bytes).sum();
        if room == 0 {
            return Ok(prepared.into_iter().filter_map(Result::err).map(Err).collect()); // none can be tried
        }
        let permit = self.shared.control.reserve(room, RecordClass::Growing).await.map_err(store_error(name))?;
        let (answers, commit) = self.shared.decide(permit, |state, ctx| {
            let mut send = |prepared| send_prepared(state, ctx, queue, prepared);
            prepared.into_iter().map(|prepared| prepared.and_then(&mut send)).collect::<Vec<_>>()
        });
        self.acknowledge_sends(name, commit).await?;
        Ok(answers)
    }

    /// Waits until sends are durable, and lets them out.
    async fn acknowledge_sends(&self, queue: &str, commit: Option<Commit>) -> Result<(), QueueError> {
        let last = commit.as_ref().and_then(|commit| commit.lsns.last().copied());
        acknowledged(queue, commit).await?;
        if last.is_some_and(|last| !self.shared.is_published(last)) {
            self.shared.publish();
        }
        Ok(())
    }

    /// Everything about a send that needs no lock.
    fn prepare_send(&self, queue: &Queue, request: SendRequest) -> Result<Prepared, QueueError> {
        if queue.settings.flow == Flow::Draining {
            return Err(QueueError::Draining(queue.name.to_string()));
        }
        let mut delay_s = check_delay(queue, request.delay_s)?;
        let deduplication = check_marks(queue, &request)?;
        let attributes: usize =
            request.attributes.iter().map(|a| a.name.len() + a.data_type.len() + a.value.bytes().len()).sum();
        let bytes_max = queue.settings.message_bytes_max as usize;
        if request.body.len() + attributes > bytes_max {
            let problem =
                format!("One or more parameters are invalid. Reason: Message must be shorter than {bytes_max} bytes.");
            return Err(bad_body(problem));
        }
        if request.body.is_empty() {
            return Err(QueueError::Missing("MessageBody"));
        }
        if !is_writable(&request.body) {
            let problem = "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | \
                           #xE000 to #xFFFD | #x10000 to #x10FFFF";
            return Err(QueueError::NotAdmitted(problem.to_owned()));
        }
        let (mut admitted, mut filled_in) = (None, None);
        if let Some(overseer) = self.shared.overseer().filter(|_| queue.settings.job_queue) {
            let now = self.shared.clock.now();
            let answer = match overseer.admit(now, queue.name.as_str(), &request).map_err(QueueError::NotAdmitted)? {
                Admission::Send(answer) => answer,
                Admission::Duplicate { message_id, body, record } => {
                    let sent = Sent { message_id, body, sequence_number: None, repeated: true };
                    return Ok(Prepared::Repeated { sent, record });
                }
                Admission::Busy => return Ok(Prepared::Busy(Box::new(request))),
            };
            if answer.body.len() > 2 * MESSAGE_BYTES_MAX {
                return Err(QueueError::NotAdmitted("the job is too large once its defaults are filled in".to_owned()));
            }
            filled_in = Some(answer.body);
            // Jobs come in no order: a FIFO queue is no job queue.
            delay_s = delay_s.max(answer.delay_s).min(HELD_S_MAX);
            admitted = Some((answer.priority, answer.class, answer.tenant));
        }
        let body = filled_in.unwrap_or(request.body);
        let told = if admitted.is_some() { 2 * body.len() + CHANGE_RECORDS_BYTES_MAX } else { 0 };
        let content = Content {
            body,
            attributes: request.attributes,
            trace_header: request.trace_header,
            sender_id: request.sender_id,
            group_id: request.group_id,
            deduplication_id: deduplication.as_ref().map(|(id, _)| id.clone()),
        };
        let record_bytes = content.record_bytes() + told;
        let encoded = content.encode();
        Ok(Prepared::Send(Box::new(Outgoing {
            id: self.shared.next_id(),
            body: content.body,
            encoded,
            delay_s,
            admitted,
            group_id: content.group_id,
            deduplication: deduplication.map(|(_, key)| key),
            per_group: queue.settings.fifo.is_some_and(|fifo| fifo.per_group),
            record_bytes,
        })))
    }
}

/// Sends what was prepared, under the lock that `state` stands for.
fn send_prepared(
    state: &mut State,
    ctx: &mut Context<'_>,
    queue: &Queue,
    prepared: Prepared,
) -> Result<Sent, QueueError> {
    match prepared {
        Prepared::Send(mut outgoing) => {
            let accepted = state.engine.send(ctx, queue, outgoing.incoming())?;
            Ok(outgoing.into_sent(accepted))
        }
        Prepared::Repeated { sent, record } => {
            ctx.group.records.push(record);
            Ok(sent)
        }
        Prepared::Busy(_) => unreachable!("a request that the overseer has not judged is not sent"),
    }
}

fn too_busy() -> QueueError {
    QueueError::NotAdmitted("the same is being sent by another call".to_owned())
}

/// How long the message is delayed.
fn check_delay(queue: &Queue, asked_s: Option<u32>) -> Result<u32, QueueError> {
    match asked_s {
        // On a FIFO queue a message that waits longer than others would hold up its group.
        Some(delay_s) if delay_s > 0 && queue.settings.fifo.is_some() => {
            Err(invalid("DelaySeconds", &delay_s.to_string(), WRONG_TYPE))
        }
        Some(delay_s) if delay_s > HELD_S_MAX => {
            Err(invalid("DelaySeconds", &delay_s.to_string(), &format!("It is at most {HELD_S_MAX}.")))
        }
        Some(delay_s) if delay_s > 0 => Ok(delay_s),
        Some(_) if queue.settings.fifo.is_none() => Ok(0),
        _ => Ok(queue.settings.delay_s),
    }
}

/// The id that tells this send from others, and its key: on FIFO queues alone.
fn check_marks(queue: &Queue, request: &SendRequest) -> Result<Option<(String, DeduplicationKey)>, QueueError> {
    check_mark("MessageGroupId", request.group_id.as_deref())?;
    check_mark("MessageDeduplicationId", request.deduplication_id.as_deref())?;
    let Some(fifo) = queue.settings.fifo else {
        return match &request.deduplication_id {
            Some(id) => Err(invalid("MessageDeduplicationId", id, WRONG_TYPE)),
            None => Ok(None),
        };
    };
    let group_id = request.group_id.as_deref().ok_or(QueueError::Missing("MessageGroupId"))?;
    let id = match &request.deduplication_id {
        Some(id) => id.clone(),
        None if fifo.content_based => hex::encode(Sha256::digest(request.body.as_bytes())),
        None => {
            let problem = "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId \
                           provided explicitly";
            return Err(QueueError::InvalidParameter { name: "MessageDeduplicationId", problem: problem.to_owned() });
        }
    };
    let key = DeduplicationKey::of(&id, Some(group_id).filter(|_| fifo.per_group));
    Ok(Some((id, key)))
}

/// Group ids, deduplication ids and attempt ids are written alike.
pub(super) fn check_mark(name: &'static str, mark: Option<&str>) -> Result<(), QueueError> {
    let Some(mark) = mark else { return Ok(()) };
    if (1..=MARK_CHARS_MAX).contains(&mark.len()) && mark.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let reason =
        format!("{name} can only include alphanumeric and punctuation characters. 1 to {MARK_CHARS_MAX} in length.");
    Err(invalid(name, mark, &reason))
}

/// Why a parameter of the other type of queue is refused.
pub(super) const WRONG_TYPE: &str = "The request include parameter that is not valid for this queue type.";

pub(super) fn invalid(name: &'static str, value: &str, reason: &str) -> QueueError {
    let shown: String = value.chars().take(200).collect();
    QueueError::InvalidParameter {
        name,
        problem: format!("Value {shown} for parameter {name} is invalid. Reason: {reason}"),
    }
}

fn bad_body(problem: String) -> QueueError {
    QueueError::InvalidParameter { name: "MessageBody", problem }
}

/// Whether XML 1.0 can write it: SQS takes nothing else in a body. By bytes, since it is done for every one that comes in.
fn is_writable(text: &str) -> bool {
    let is_control = |byte: u8| byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r');
    // Without a short cut, so that the compiler takes many bytes at once.
    let (controls, tails) = text
        .bytes()
        .fold((false, false), |(controls, tails), byte| (controls | is_control(byte), tails | (byte == 0xef)));
    // U+FFFE and U+FFFF are the other two; a `str` holds no surrogates.
    !(controls || tails && text.contains(['\u{fffe}', '\u{ffff}']))
}

/// What is to be done about one request to send.
enum Prepared {
    Send(Box<Outgoing>),
    /// The overseer has it already; the answer waits until `record` is durable.
    Repeated {
        sent: Sent,
        record: Record,
    },
    /// The overseer is to be asked again.
    Busy(Box<SendRequest>),
}

impl Prepared {
    fn record_bytes(&self) -> usize {
        match self {
            Self::Send(outgoing) => outgoing.record_bytes,
            Self::Repeated { record, .. } => record.payload.len(),
            Self::Busy(_) => 0,
        }
    }
}

/// A message that may be sent.
struct Outgoing {
    id: MessageId,
    body: String,
    encoded: Vec<u8>,
    delay_s: u32,
    admitted: Option<(u8, super::Class, super::Tenant)>,
    group_id: Option<String>,
    deduplication: Option<DeduplicationKey>,
    per_group: bool,
    record_bytes: usize,
}

impl Outgoing {
    fn incoming(&mut self) -> Incoming<'_> {
        Incoming {
            id: self.id,
            record: std::mem::take(&mut self.encoded),
            body: &self.body,
            delay_s: self.delay_s,
            admitted: self.admitted,
            group_id: self.group_id.as_deref(),
            deduplication: self.deduplication,
            per_group: self.per_group,
        }
    }

    fn into_sent(self, accepted: Accepted) -> Sent {
        let sequence_number = accepted.sequence.map(sequence_number);
        Sent { message_id: accepted.message.to_string(), body: self.body, sequence_number, repeated: false }
    }
}

#[cfg(test)]
mod tests {
    use super::is_writable;

    #[test]
    fn a_body_holds_what_xml_can_write() {
        for code in (0..0x30000).chain(0x10_fff0..=0x10_ffff) {
            let Some(character) = char::from_u32(code) else { continue };
            let expected = matches!(
                character,
                '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..
            );
            assert_eq!(is_writable(&format!("a{character}é")), expected, "U+{code:04X}");
        }
    }
}
