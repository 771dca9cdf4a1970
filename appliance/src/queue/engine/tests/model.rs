//! What SQS documents, as plainly as it can be written down: lists that are walked from end to end.

use std::collections::BTreeMap;

use crate::queue::model::MessageId;

pub(super) const MAX_RECEIVES: u32 = 3;
pub(super) const RETENTION_S: u64 = 3_600;
const WINDOW_MS: u64 = 300_000;

/// The queues of the model: two with their dead-letter queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    Main,
    Dlq,
    Fifo,
    FifoDlq,
}

impl Which {
    pub(super) const ALL: [Self; 4] = [Self::Main, Self::Dlq, Self::Fifo, Self::FifoDlq];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Dlq => "dlq",
            Self::Fifo => "line.fifo",
            Self::FifoDlq => "dead.fifo",
        }
    }

    pub(super) fn is_fifo(self) -> bool {
        matches!(self, Self::Fifo | Self::FifoDlq)
    }

    pub(super) fn dlq(self) -> Option<Self> {
        match self {
            Self::Main => Some(Self::Dlq),
            Self::Fifo => Some(Self::FifoDlq),
            Self::Dlq | Self::FifoDlq => None,
        }
    }

    fn source(self) -> Option<Self> {
        Self::ALL.into_iter().find(|other| other.dlq() == Some(self))
    }
}

/// One message.
#[derive(Clone, Debug)]
pub(super) struct Expected {
    pub id: MessageId,
    pub on: Which,
    /// Its place on its queue, which a FIFO queue shows as its sequence number.
    pub sequence: u64,
    pub group: Option<u8>,
    pub came_by_dlq: bool,
    pub published: bool,
    pub aged_from_ms: u64,
    /// In flight or delayed until then.
    pub due_ms: u64,
    pub in_flight: bool,
    pub receives: u32,
    pub elsewhere: u32,
    pub void: bool,
}

impl Expected {
    pub(super) fn is_ready(&self, now_ms: u64) -> bool {
        self.published && !self.in_flight && self.due_ms <= now_ms
    }

    pub(super) fn is_worn(&self) -> bool {
        self.on.dlq().is_some() && self.receives - self.elsewhere >= MAX_RECEIVES
    }
}

/// A first send.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    pub id: MessageId,
    pub sequence: u64,
    pub at_ms: u64,
}

/// What a receive that named itself got: which messages, at which receive, hidden until when.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub at_ms: u64,
    pub handed: Vec<(MessageId, u32, u64)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub messages: Vec<Expected>,
    /// By deduplication id, and by group where that is its scope.
    pub remembered: BTreeMap<(u8, Option<u8>), Remembered>,
    pub attempts: BTreeMap<u8, Attempt>,
    /// The last sequence numbers given.
    sequences: BTreeMap<Which, u64>,
}

impl Model {
    pub(super) fn next_sequence(&mut self, on: Which) -> u64 {
        let last = self.sequences.entry(on).or_default();
        *last += 1;
        *last
    }

    pub(super) fn find(&mut self, on: Which, id: MessageId) -> Option<&mut Expected> {
        self.messages.iter_mut().find(|message| message.on == on && message.id == id)
    }

    /// The first send that one with these marks repeats.
    pub(super) fn first_send(&self, now_ms: u64, id: u8, scope: Option<u8>) -> Option<&Remembered> {
        self.remembered.get(&(id, scope)).filter(|first| now_ms - first.at_ms < WINDOW_MS)
    }

    /// The messages of `on`, first in line first.
    fn line(&self, on: Which) -> Vec<usize> {
        let mut line: Vec<usize> = (0..self.messages.len()).filter(|at| self.messages[*at].on == on).collect();
        line.sort_by_key(|at| self.messages[*at].sequence);
        line
    }

    /// What a receive of `count` messages from the FIFO queue `on` gets, in order: as many as possible of one group, then of the next.
    pub(super) fn receivable(&self, on: Which, now_ms: u64, count: usize) -> Vec<MessageId> {
        let line = self.line(on);
        let mut taken: Vec<usize> = Vec::new();
        while taken.len() < count {
            let first_of = |group| line.iter().copied().find(|at| self.messages[*at].group == group);
            let is_locked = |group| {
                line.iter().any(|at| {
                    let message = &self.messages[*at];
                    message.group == group && (message.in_flight || taken.contains(at))
                })
            };
            let follower = taken.last().and_then(|last| {
                let mut behind = line.iter().copied().skip_while(|at| at != last).skip(1);
                behind.find(|at| self.messages[*at].group == self.messages[*last].group)
            });
            let next = follower.filter(|at| self.messages[*at].is_ready(now_ms)).or_else(|| {
                line.iter().copied().find(|at| {
                    let message = &self.messages[*at];
                    message.is_ready(now_ms) && first_of(message.group) == Some(*at) && !is_locked(message.group)
                })
            });
            match next {
                Some(next) => taken.push(next),
                None => break,
            }
        }
        taken.into_iter().map(|at| self.messages[at].id).collect()
    }

    /// What the attempt `name` gets once more; `None` where it is a receive like any other.
    pub(super) fn again(&self, now_ms: u64, name: u8) -> Option<Vec<MessageId>> {
        let attempt = self.attempts.get(&name).filter(|attempt| now_ms - attempt.at_ms < WINDOW_MS)?;
        let untouched = |(id, receives, due_ms): &(MessageId, u32, u64)| {
            self.messages.iter().any(|message| {
                message.on == Which::Fifo
                    && message.id == *id
                    && message.in_flight
                    && !message.void
                    && *due_ms > now_ms
                    && (message.receives, message.due_ms) == (*receives, *due_ms)
            })
        };
        attempt.handed.iter().all(untouched).then(|| attempt.handed.iter().map(|(id, ..)| *id).collect())
    }

    pub(super) fn dead_letter(&mut self, id: MessageId) {
        let Some(at) = self.messages.iter().position(|message| message.id == id) else { return };
        let Some(dlq) = self.messages[at].on.dlq() else { return };
        let sequence = self.next_sequence(dlq);
        let message = &mut self.messages[at];
        (message.on, message.sequence) = (dlq, sequence);
        (message.came_by_dlq, message.in_flight, message.void) = (true, false, true);
        (message.due_ms, message.elsewhere) = (0, message.receives);
    }

    /// From a dead-letter queue to where it came from, its receives forgotten.
    pub(super) fn bring_back(&mut self, id: MessageId) {
        let Some(at) = self.messages.iter().position(|message| message.id == id) else { return };
        let Some(source) = self.messages[at].on.source().filter(|_| self.messages[at].came_by_dlq) else { return };
        let sequence = self.next_sequence(source);
        let message = &mut self.messages[at];
        (message.on, message.sequence) = (source, sequence);
        (message.came_by_dlq, message.in_flight, message.due_ms) = (false, false, 0);
        (message.receives, message.elsewhere, message.void) = (0, 0, true);
    }

    /// A consumer is done with a message without deleting it.
    pub(super) fn come_back(&mut self, id: MessageId) {
        let Some(message) = self.messages.iter_mut().find(|message| message.id == id) else { return };
        (message.in_flight, message.due_ms) = (false, 0);
        if message.is_worn() {
            self.dead_letter(id);
        }
    }

    /// Ends what is due, then drops what is too old.
    pub(super) fn advance(&mut self, now_ms: u64) {
        for on in Which::ALL {
            let ended = |at: &usize| self.messages[*at].in_flight && self.messages[*at].due_ms <= now_ms;
            let mut ended: Vec<_> = self.line(on).into_iter().filter(ended).map(|at| &self.messages[at]).collect();
            ended.sort_by_key(|message| (message.due_ms, message.sequence));
            let ended: Vec<MessageId> = ended.into_iter().map(|message| message.id).collect();
            ended.into_iter().for_each(|id| self.come_back(id));
        }
        self.messages.retain(|message| now_ms < message.aged_from_ms + RETENTION_S * 1000);
    }
}
