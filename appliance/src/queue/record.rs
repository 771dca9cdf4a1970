//! The queue's records in the journal: one byte of version, one byte of what happened, and fixed fields.
//!
//! A sent record holds the message's whole state beside its content, so that compaction can append a live message
//! again as it stands now, and records before that are needed no more. Times are wall milliseconds.
//!
//! Version 1 knew no FIFO queues and no delay beyond 900 s: its heads and moves end earlier. Version 2 did not say how long a timer
//! was. They are read, and no longer written.

mod content;
mod due;
mod reader;

pub(super) use self::content::Content;
use self::due::DUE_BYTES;
pub(super) use self::due::Due;
use self::reader::Reader;
use super::model::{DeduplicationKey, MessageId, QueueId, QueueName};
use super::move_task::MoveTask;
use super::settings::Settings;
use crate::control::{Kind, Record};

const VERSION: u8 = 3;

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
    pub due: Due,
    pub receives: u32,
    pub receives_elsewhere: u32,
    /// Milliseconds from the send to the first receive, plus one; 0 before that.
    pub first_received: u32,
    pub source: Option<QueueId>,
    pub stance: Stance,
    pub admitted: bool,
    pub receipt_void: bool,
    /// Seconds of delay before which its retention does not begin.
    pub held_s: u32,
    /// Its place in the order of a FIFO queue; 0 on others.
    pub sequence: u64,
    /// It came to `queue` by a move, so it was not sent there.
    pub moved: bool,
    /// Its deduplication id counts within its group alone.
    pub per_group: bool,
}

/// Name and settings of a queue.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Definition {
    pub name: String,
    pub settings: Settings,
    pub created_at_s: u64,
    pub modified_at_s: u64,
    /// On FIFO queues, what the next message's sequence number was when this was written.
    #[serde(default)]
    pub sequence: u64,
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
    /// How the tasks stand that move messages away from the queue.
    Tasks {
        queue: QueueId,
        tasks: Vec<MoveTask>,
    },
    Sent(Head),
    /// `receives` and `first_received` over all queues.
    Received {
        queue: QueueId,
        message: MessageId,
        receives: u32,
        first_received: u32,
        due: Due,
    },
    /// Deleted, or dropped by retention.
    Gone {
        queue: QueueId,
        message: MessageId,
    },
    /// A new end of the visibility timeout, or [`Due::OVER`].
    Hidden {
        queue: QueueId,
        message: MessageId,
        due: Due,
    },
    /// Taken from its consumer; ready when `due` ends.
    Released {
        queue: QueueId,
        message: MessageId,
        due: Due,
    },
    /// To the dead-letter queue `to`, or, where `back`, from it to `to` with its receives forgotten. `sequence` is its new
    /// place where `to` is a FIFO queue.
    Moved {
        queue: QueueId,
        message: MessageId,
        to: QueueId,
        back: bool,
        sequence: u64,
    },
    /// A message with `key` was sent at `at_ms`, and its send record is gone, moved or perhaps not durable.
    Seen {
        queue: QueueId,
        message: MessageId,
        key: DeduplicationKey,
        sequence: u64,
        at_ms: u64,
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
const SEEN: u8 = 10;
const TASKS: u8 = 20;

/// Bytes of the largest record that is neither a definition nor sent.
pub(super) const SMALL_BYTES_MAX: usize = 64;
/// Bytes of the largest definition.
pub(super) const DEFINITION_BYTES_MAX: usize = 4 * 1024;
/// Bytes of a sent record beside its content.
pub(super) const HEAD_BYTES: usize = 2 + 4 + 16 + 8 + DUE_BYTES + 4 + 4 + 4 + 4 + 1 + 4 + 8;
const HEAD_BYTES_V2: usize = HEAD_BYTES - 4;
const HEAD_BYTES_V1: usize = HEAD_BYTES_V2 - 4 - 8;

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
            Self::Tasks { queue, tasks } => {
                let mut out = small(TASKS, *queue, None);
                out.extend(serde_json::to_vec(tasks).unwrap_or_default()); // plain data: cannot fail
                out
            }
            Self::Sent(head) => head.encode(&[]).payload,
            Self::Received { queue, message, receives, first_received, due } => {
                let mut out = small(RECEIVED, *queue, Some(*message));
                out.extend(receives.to_le_bytes());
                out.extend(first_received.to_le_bytes());
                due.put(&mut out);
                out
            }
            Self::Gone { queue, message } => small(GONE, *queue, Some(*message)),
            Self::Hidden { queue, message, due } => {
                let mut out = small(HIDDEN, *queue, Some(*message));
                due.put(&mut out);
                out
            }
            Self::Released { queue, message, due } => {
                let mut out = small(RELEASED, *queue, Some(*message));
                due.put(&mut out);
                out
            }
            Self::Moved { queue, message, to, back, sequence } => {
                let mut out = small(MOVED, *queue, Some(*message));
                out.extend(to.0.to_le_bytes());
                out.push(u8::from(*back));
                out.extend(sequence.to_le_bytes());
                out
            }
            Self::Seen { queue, message, key, sequence, at_ms } => {
                let mut out = small(SEEN, *queue, Some(*message));
                out.extend(key.0);
                out.extend(sequence.to_le_bytes());
                out.extend(at_ms.to_le_bytes());
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
        if !(1..=VERSION).contains(&version) {
            return Err(format!("queue record of version {version}; this program reads versions 1 to {VERSION}"));
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
            TASKS => Self::Tasks {
                queue,
                tasks: serde_json::from_slice(from.0)
                    .map_err(|error| format!("tasks of queue {}: {error}", queue.0))?,
            },
            SENT => Self::Sent(Head::decode(version, queue, &mut from)?),
            RECEIVED => Self::Received {
                queue,
                message: from.message()?,
                receives: from.u32()?,
                first_received: from.u32()?,
                due: Due::read(version, &mut from)?,
            },
            GONE => Self::Gone { queue, message: from.message()? },
            HIDDEN => Self::Hidden { queue, message: from.message()?, due: Due::read(version, &mut from)? },
            RELEASED => Self::Released { queue, message: from.message()?, due: Due::read(version, &mut from)? },
            MOVED => Self::Moved {
                queue,
                message: from.message()?,
                to: QueueId(from.u32()?),
                back: from.u8()? != 0,
                sequence: if version >= 2 { from.u64()? } else { 0 },
            },
            SEEN => Self::Seen {
                queue,
                message: from.message()?,
                key: DeduplicationKey(from.array()?),
                sequence: from.u64()?,
                at_ms: from.u64()?,
            },
            other => return Err(format!("queue record of unknown kind {other}")),
        })
    }
}

impl Head {
    /// The sent record with `content` as it stood behind another head.
    pub(super) fn encode(&self, content: &[u8]) -> Record {
        let mut out = Vec::with_capacity(HEAD_BYTES + content.len());
        self.put(&mut out);
        out.extend(content);
        record(out)
    }

    /// The sent record that [`Content::encode`] began.
    pub(super) fn fill(&self, mut begun: Vec<u8>) -> Record {
        let mut head = Vec::with_capacity(HEAD_BYTES);
        self.put(&mut head);
        begun[..HEAD_BYTES].copy_from_slice(&head);
        record(begun)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend([VERSION, SENT]);
        out.extend(self.queue.0.to_le_bytes());
        out.extend(self.message.0);
        out.extend(self.sent_at_ms.to_le_bytes());
        self.due.put(out);
        out.extend(self.receives.to_le_bytes());
        out.extend(self.receives_elsewhere.to_le_bytes());
        out.extend(self.first_received.to_le_bytes());
        out.extend(self.source.map_or(0, |source| source.0).to_le_bytes());
        let stance = match self.stance {
            Stance::Ready => 0,
            Stance::InFlight => 1,
            Stance::Delayed => 2,
        };
        let flags =
            [(self.admitted, ADMITTED), (self.receipt_void, VOID), (self.moved, IS_MOVED), (self.per_group, PER_GROUP)];
        out.push(flags.iter().filter(|(is_set, _)| *is_set).fold(stance, |byte, (_, flag)| byte | flag));
        out.extend(self.held_s.to_le_bytes());
        out.extend(self.sequence.to_le_bytes());
    }

    fn decode(version: u8, queue: QueueId, from: &mut Reader<'_>) -> Result<Self, String> {
        let message = from.message()?;
        let (sent_at_ms, due) = (from.u64()?, Due::read(version, from)?);
        let (receives, receives_elsewhere, first_received) = (from.u32()?, from.u32()?, from.u32()?);
        let source = Some(from.u32()?).filter(|source| *source != 0).map(QueueId);
        let flags = from.u8()?;
        let stance = match flags & 0x0f {
            0 => Stance::Ready,
            1 => Stance::InFlight,
            2 => Stance::Delayed,
            other => return Err(format!("sent record of unknown stance {other}")),
        };
        let (held_s, sequence) = if version >= 2 { (from.u32()?, from.u64()?) } else { (0, 0) };
        Ok(Self {
            queue,
            message,
            sent_at_ms,
            due,
            receives,
            receives_elsewhere,
            first_received,
            source,
            stance,
            admitted: flags & ADMITTED != 0,
            receipt_void: flags & VOID != 0,
            held_s,
            sequence,
            moved: flags & IS_MOVED != 0,
            per_group: flags & PER_GROUP != 0,
        })
    }
}

const ADMITTED: u8 = 0x10;
const VOID: u8 = 0x20;
const IS_MOVED: u8 = 0x40;
const PER_GROUP: u8 = 0x80;

/// The content part of a sent record.
pub(super) fn content_of(payload: &[u8]) -> &[u8] {
    let head_bytes = match payload.first() {
        Some(1) => HEAD_BYTES_V1,
        Some(2) => HEAD_BYTES_V2,
        _ => HEAD_BYTES,
    };
    payload.get(head_bytes..).unwrap_or_default()
}

/// Replays `bytes` as records, each behind two bytes of length, and reads what they hold: for fuzzing.
pub fn fuzz_journal(mut bytes: &[u8]) {
    let mut engine = super::engine::Engine::default();
    let mut lsn = 0;
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (record, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        bytes = rest;
        lsn += 1;
        if let Ok(Entry::Sent(_)) = Entry::decode(record) {
            let _ = Content::decode(content_of(record));
        }
        let _ = engine.replay(crate::clock::Now::default(), backlot_journal::Lsn(lsn), record, None);
    }
    engine.replayed(crate::clock::Now { mono_ms: 5, wall_ms: 1_700_000_000_000 }, None);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task() -> MoveTask {
        MoveTask {
            id: "id".into(),
            source_arn: "arn".into(),
            destination: None,
            per_second: Some(5),
            started_at_ms: 1,
            to_move: 2,
            moved: 1,
            status: super::super::move_task::Status::Running,
            failure: None,
        }
    }

    fn entries() -> Vec<Entry> {
        let (queue, to) = (QueueId(3), QueueId(4));
        let message = MessageId::from_random([5; 16]);
        let due = Due::after(crate::clock::Now { mono_ms: 1, wall_ms: 2 }, 1_500);
        let definition = Definition {
            name: "jobs".into(),
            settings: Settings::default(),
            created_at_s: 1,
            modified_at_s: 2,
            sequence: 3,
        };
        vec![
            Entry::Defined { queue, definition },
            Entry::Undefined { queue },
            Entry::Purged { queue },
            Entry::Tasks { queue, tasks: vec![task()] },
            Entry::Sent(Head {
                queue,
                message,
                sent_at_ms: 1,
                due,
                receives: 3,
                receives_elsewhere: 1,
                first_received: 9,
                source: Some(to),
                stance: Stance::InFlight,
                admitted: true,
                receipt_void: true,
                held_s: 31_622_400,
                sequence: 7,
                moved: true,
                per_group: true,
            }),
            Entry::Received { queue, message, receives: 7, first_received: 8, due },
            Entry::Gone { queue, message },
            Entry::Hidden { queue, message, due },
            Entry::Released { queue, message, due },
            Entry::Moved { queue, message, to, back: true, sequence: 5 },
            Entry::Seen { queue, message, key: DeduplicationKey([6; 16]), sequence: 5, at_ms: 1 },
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
            if !matches!(entry, Entry::Defined { .. } | Entry::Tasks { .. } | Entry::Sent(_)) {
                assert!(payload.len() <= SMALL_BYTES_MAX);
            }
        }
        assert!(Entry::decode(&[VERSION + 1, SENT]).unwrap_err().contains("version"));
    }

    #[test]
    fn records_of_the_first_version_are_read() {
        let mut sent = vec![1, SENT, 3, 0, 0, 0];
        let message = MessageId::from_random([5; 16]);
        sent.extend(message.0);
        sent.extend(1_u64.to_le_bytes()); // sent
        sent.extend(2_u64.to_le_bytes()); // due
        sent.extend([7_u32, 1, 9, 4].iter().flat_map(|number| number.to_le_bytes()));
        sent.push(0x31); // in flight, admitted, void
        sent.extend([2, 0, 0, 0, b'A', b'K', 1, 3, 0, 0, 0, b'R', b'=', b'1', 0]);
        sent.extend(b"body");
        let Ok(Entry::Sent(head)) = Entry::decode(&sent) else { panic!("{:?}", Entry::decode(&sent)) };
        assert_eq!((head.receives, head.receives_elsewhere, head.first_received), (7, 1, 9));
        assert_eq!((head.source, head.stance), (Some(QueueId(4)), Stance::InFlight));
        assert!(head.admitted && head.receipt_void && !head.moved && !head.per_group);
        assert_eq!((head.held_s, head.sequence), (0, 0));
        let content = Content::decode(content_of(&sent)).unwrap();
        assert_eq!((content.body.as_str(), content.sender_id.as_str()), ("body", "AK"));
        assert_eq!((content.trace_header.as_deref(), content.group_id), (Some("R=1"), None));

        let mut moved = vec![1, MOVED, 3, 0, 0, 0];
        moved.extend(message.0);
        moved.extend([4, 0, 0, 0, 1]);
        let expected = Entry::Moved { queue: QueueId(3), message, to: QueueId(4), back: true, sequence: 0 };
        assert_eq!(Entry::decode(&moved), Ok(expected));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Entry::decode(&bytes);
        }
    }
}
