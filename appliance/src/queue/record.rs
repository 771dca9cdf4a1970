//! The queue's records in the journal: one byte of version, one byte of what happened, and fixed fields.
//!
//! A sent record holds the message's whole state beside its content, so that compaction can append a live message
//! again as it stands now, and records before that are needed no more. Times are wall milliseconds.

use super::model::{AttributeValue, MessageAttribute, MessageId, QueueId, QueueName};
use super::settings::Settings;
use crate::control::{Kind, Record};

const VERSION: u8 = 1;

/// How a message stood when its record was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stance {
    Ready,
    InFlight,
    Delayed,
}

/// The fixed part of a sent record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub queue: QueueId,
    pub message: MessageId,
    pub sent_at_ms: u64,
    /// End of the visibility timeout or the delay.
    pub due_at_ms: u64,
    pub receives: u32,
    pub receives_elsewhere: u32,
    /// Milliseconds from the send to the first receive, plus one; 0 before that.
    pub first_received: u32,
    pub source: Option<QueueId>,
    pub stance: Stance,
    pub admitted: bool,
    pub receipt_void: bool,
}

/// What a sender wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub body: String,
    pub attributes: Vec<MessageAttribute>,
    pub trace_header: Option<String>,
    pub sender_id: String,
}

/// Name and settings of a queue.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Definition {
    pub name: String,
    pub settings: Settings,
    pub created_at_s: u64,
    pub modified_at_s: u64,
}

/// One record, but for the content of a sent one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Defined {
        queue: QueueId,
        definition: Definition,
    },
    Undefined {
        queue: QueueId,
    },
    Purged {
        queue: QueueId,
    },
    Sent(Head),
    /// `receives` and `first_received` over all queues.
    Received {
        queue: QueueId,
        message: MessageId,
        receives: u32,
        first_received: u32,
        due_at_ms: u64,
    },
    /// Deleted, or dropped by retention.
    Gone {
        queue: QueueId,
        message: MessageId,
    },
    /// A new end of the visibility timeout; 0: it has ended.
    Hidden {
        queue: QueueId,
        message: MessageId,
        due_at_ms: u64,
    },
    /// Taken from its consumer; ready at `due_at_ms`.
    Released {
        queue: QueueId,
        message: MessageId,
        due_at_ms: u64,
    },
    /// To the dead-letter queue `to`, or, where `back`, from it to `to` with its receives forgotten.
    Moved {
        queue: QueueId,
        message: MessageId,
        to: QueueId,
        back: bool,
    },
}

const DEFINED: u8 = 1;
const UNDEFINED: u8 = 2;
const PURGED: u8 = 3;
const SENT: u8 = 4;
const RECEIVED: u8 = 5;
const GONE: u8 = 6;
const HIDDEN: u8 = 7;
const RELEASED: u8 = 8;
const MOVED: u8 = 9;

/// Bytes of the largest record that is neither a definition nor sent.
pub(super) const SMALL_BYTES_MAX: usize = 64;
/// Bytes of the largest definition.
pub(super) const DEFINITION_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a sent record beside its content.
pub(super) const HEAD_BYTES: usize = 2 + 4 + 16 + 8 + 8 + 4 + 4 + 4 + 4 + 1;

fn record(payload: Vec<u8>) -> Record {
    Record { kind: Kind::Queue, payload }
}

fn small(tag: u8, queue: QueueId, message: Option<MessageId>) -> Vec<u8> {
    let mut out = Vec::with_capacity(SMALL_BYTES_MAX);
    out.extend([VERSION, tag]);
    out.extend(queue.0.to_le_bytes());
    if let Some(message) = message {
        out.extend(message.0);
    }
    out
}

impl Entry {
    pub(super) fn encode(&self) -> Record {
        record(match self {
            Self::Defined { queue, definition } => {
                let mut out = small(DEFINED, *queue, None);
                let json = serde_json::to_vec(definition).unwrap_or_default(); // plain data: cannot fail
                out.extend(json);
                out
            }
            Self::Undefined { queue } => small(UNDEFINED, *queue, None),
            Self::Purged { queue } => small(PURGED, *queue, None),
            Self::Sent(head) => head.encode(&[]).payload,
            Self::Received { queue, message, receives, first_received, due_at_ms } => {
                let mut out = small(RECEIVED, *queue, Some(*message));
                out.extend(receives.to_le_bytes());
                out.extend(first_received.to_le_bytes());
                out.extend(due_at_ms.to_le_bytes());
                out
            }
            Self::Gone { queue, message } => small(GONE, *queue, Some(*message)),
            Self::Hidden { queue, message, due_at_ms } => {
                let mut out = small(HIDDEN, *queue, Some(*message));
                out.extend(due_at_ms.to_le_bytes());
                out
            }
            Self::Released { queue, message, due_at_ms } => {
                let mut out = small(RELEASED, *queue, Some(*message));
                out.extend(due_at_ms.to_le_bytes());
                out
            }
            Self::Moved { queue, message, to, back } => {
                let mut out = small(MOVED, *queue, Some(*message));
                out.extend(to.0.to_le_bytes());
                out.push(u8::from(*back));
                out
            }
        })
    }

    /// Reads a record; of a sent one, its head.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub(super) fn decode(payload: &[u8]) -> Result<Self, String> {
        let mut from = Reader(payload);
        let version = from.u8()?;
        if version != VERSION {
            return Err(format!("queue record of version {version}; this program reads version {VERSION}"));
        }
        let tag = from.u8()?;
        let queue = QueueId(from.u32()?);
        Ok(match tag {
            DEFINED => {
                let definition: Definition = serde_json::from_slice(from.0)
                    .map_err(|error| format!("definition of queue {}: {error}", queue.0))?;
                if QueueName::parse(&definition.name).is_none() {
                    return Err(format!("definition of queue {} has no valid name", queue.0));
                }
                Self::Defined { queue, definition }
            }
            UNDEFINED => Self::Undefined { queue },
            PURGED => Self::Purged { queue },
            SENT => Self::Sent(Head::decode(queue, &mut from)?),
            RECEIVED => Self::Received {
                queue,
                message: from.message()?,
                receives: from.u32()?,
                first_received: from.u32()?,
                due_at_ms: from.u64()?,
            },
            GONE => Self::Gone { queue, message: from.message()? },
            HIDDEN => Self::Hidden { queue, message: from.message()?, due_at_ms: from.u64()? },
            RELEASED => Self::Released { queue, message: from.message()?, due_at_ms: from.u64()? },
            MOVED => Self::Moved { queue, message: from.message()?, to: QueueId(from.u32()?), back: from.u8()? != 0 },
            other => return Err(format!("queue record of unknown kind {other}")),
        })
    }
}

impl Head {
    /// The sent record with `content` as [`Content::encode`] wrote it.
    pub(super) fn encode(&self, content: &[u8]) -> Record {
        let mut out = Vec::with_capacity(HEAD_BYTES + content.len());
        out.extend([VERSION, SENT]);
        out.extend(self.queue.0.to_le_bytes());
        out.extend(self.message.0);
        out.extend(self.sent_at_ms.to_le_bytes());
        out.extend(self.due_at_ms.to_le_bytes());
        out.extend(self.receives.to_le_bytes());
        out.extend(self.receives_elsewhere.to_le_bytes());
        out.extend(self.first_received.to_le_bytes());
        out.extend(self.source.map_or(0, |source| source.0).to_le_bytes());
        let stance = match self.stance {
            Stance::Ready => 0,
            Stance::InFlight => 1,
            Stance::Delayed => 2,
        };
        out.push(stance | u8::from(self.admitted) << 4 | u8::from(self.receipt_void) << 5);
        out.extend(content);
        record(out)
    }

    fn decode(queue: QueueId, from: &mut Reader<'_>) -> Result<Self, String> {
        let message = from.message()?;
        let (sent_at_ms, due_at_ms) = (from.u64()?, from.u64()?);
        let (receives, receives_elsewhere, first_received) = (from.u32()?, from.u32()?, from.u32()?);
        let source = Some(from.u32()?).filter(|source| *source != 0).map(QueueId);
        let flags = from.u8()?;
        let stance = match flags & 0x0f {
            0 => Stance::Ready,
            1 => Stance::InFlight,
            2 => Stance::Delayed,
            other => return Err(format!("sent record of unknown stance {other}")),
        };
        let (admitted, receipt_void) = (flags & 0x10 != 0, flags & 0x20 != 0);
        Ok(Self {
            queue,
            message,
            sent_at_ms,
            due_at_ms,
            receives,
            receives_elsewhere,
            first_received,
            source,
            stance,
            admitted,
            receipt_void,
        })
    }
}

/// The content part of a sent record.
pub(super) fn content_of(payload: &[u8]) -> &[u8] {
    payload.get(HEAD_BYTES..).unwrap_or_default()
}

impl Content {
    /// Bytes of the sent record that holds this.
    pub(super) fn record_bytes(&self) -> usize {
        let attributes: usize =
            self.attributes.iter().map(|a| 13 + a.name.len() + a.data_type.len() + a.value.bytes().len()).sum();
        let trace_header = self.trace_header.as_ref().map_or(0, String::len);
        HEAD_BYTES + 1 + 4 + self.sender_id.len() + 4 + trace_header + 1 + attributes + self.body.len()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.record_bytes());
        put(&mut out, self.sender_id.as_bytes());
        out.push(u8::from(self.trace_header.is_some()));
        put(&mut out, self.trace_header.as_deref().unwrap_or_default().as_bytes());
        out.push(u8::try_from(self.attributes.len()).unwrap_or(u8::MAX)); // at most ten, checked at the edge
        for attribute in self.attributes.iter().take(usize::from(u8::MAX)) {
            put(&mut out, attribute.name.as_bytes());
            put(&mut out, attribute.data_type.as_bytes());
            out.push(u8::from(matches!(attribute.value, AttributeValue::Binary(_))));
            put(&mut out, attribute.value.bytes());
        }
        out.extend(self.body.as_bytes());
        out
    }

    /// # Errors
    /// A sentence that says what was expected.
    pub(super) fn decode(content: &[u8]) -> Result<Self, String> {
        let mut from = Reader(content);
        let sender_id = from.text()?;
        let has_trace_header = from.u8()? != 0;
        let trace_header = Some(from.text()?).filter(|_| has_trace_header);
        let mut attributes = Vec::new();
        for _ in 0..from.u8()? {
            let (name, data_type) = (from.text()?, from.text()?);
            let binary = from.u8()? != 0;
            let value = if binary {
                AttributeValue::Binary(from.bytes()?.to_vec())
            } else {
                AttributeValue::Text(from.text()?)
            };
            attributes.push(MessageAttribute { name, data_type, value });
        }
        let body = utf8(from.0)?;
        Ok(Self { body, attributes, trace_header, sender_id })
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()); // messages end at 1 MiB
    out.extend(bytes);
}

fn utf8(bytes: &[u8]) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| "text of a queue record is not UTF-8".to_owned())
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("queue record ends early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        self.take(N)?.try_into().map_err(|_| "queue record ends early".to_owned())
    }

    fn u8(&mut self) -> Result<u8, String> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn message(&mut self) -> Result<MessageId, String> {
        Ok(MessageId(self.array()?))
    }

    fn bytes(&mut self) -> Result<&'a [u8], String> {
        let count = self.u32()?;
        self.take(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn text(&mut self) -> Result<String, String> {
        utf8(self.bytes()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> Vec<Entry> {
        let (queue, to) = (QueueId(3), QueueId(4));
        let message = MessageId::from_random([5; 16]);
        let definition =
            Definition { name: "jobs".into(), settings: Settings::default(), created_at_s: 1, modified_at_s: 2 };
        vec![
            Entry::Defined { queue, definition },
            Entry::Undefined { queue },
            Entry::Purged { queue },
            Entry::Sent(Head {
                queue,
                message,
                sent_at_ms: 1,
                due_at_ms: 2,
                receives: 3,
                receives_elsewhere: 1,
                first_received: 9,
                source: Some(to),
                stance: Stance::InFlight,
                admitted: true,
                receipt_void: true,
            }),
            Entry::Received { queue, message, receives: 7, first_received: 8, due_at_ms: 9 },
            Entry::Gone { queue, message },
            Entry::Hidden { queue, message, due_at_ms: 1 },
            Entry::Released { queue, message, due_at_ms: 1 },
            Entry::Moved { queue, message, to, back: true },
        ]
    }

    #[test]
    fn every_entry_survives_and_every_shortened_one_is_refused() {
        for entry in entries() {
            let payload = entry.encode().payload;
            assert_eq!(Entry::decode(&payload), Ok(entry.clone()));
            for end in 0..payload.len() {
                assert!(Entry::decode(&payload[..end]).is_err(), "{entry:?} cut at {end}");
            }
            if !matches!(entry, Entry::Defined { .. } | Entry::Sent(_)) {
                assert!(payload.len() <= SMALL_BYTES_MAX);
            }
        }
        assert!(Entry::decode(&[VERSION + 1, SENT]).unwrap_err().contains("version"));
    }

    proptest! {
        #[test]
        fn content_survives(body in ".{0,200}", sender in "[A-Z0-9]{0,20}", trace in proptest::option::of(".{0,40}"),
            attributes in proptest::collection::vec((".{1,9}", "[a-z]{1,9}", proptest::option::of(".{0,9}"), proptest::collection::vec(any::<u8>(), 0..9)), 0..10)) {
            let attributes = attributes.into_iter().map(|(name, data_type, text, bytes)| MessageAttribute {
                name, data_type, value: text.map_or(AttributeValue::Binary(bytes), AttributeValue::Text),
            }).collect();
            let content = Content { body, attributes, trace_header: trace, sender_id: sender };
            let encoded = content.encode();
            prop_assert!(HEAD_BYTES + encoded.len() <= content.record_bytes());
            prop_assert_eq!(Content::decode(&encoded), Ok(content));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Entry::decode(&bytes);
            let _ = Content::decode(&bytes);
        }
    }
}
