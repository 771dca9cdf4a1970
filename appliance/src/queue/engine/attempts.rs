//! Receives from a FIFO queue that named themselves, so that they can be tried again: for five minutes the same name gets the same
//! messages with the same receipts, hidden anew, as long as nobody has touched one of them since.
//!
//! What is absent on purpose: durability. After a restart a name means nothing, and what it got comes back by its timeout.

use std::collections::{HashMap, VecDeque};

use super::super::model::{DeduplicationKey, FIFO_IN_FLIGHT_MAX, MessageId};

/// How long a name counts (AWS).
const WINDOW_MS: u64 = 300_000;
/// Most names of one queue: no more receives than messages can be in flight. Beyond it the oldest is forgotten.
const NAMES_MAX: usize = FIFO_IN_FLIGHT_MAX;

/// One message as the receive left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Handed {
    pub message: MessageId,
    pub receives: u32,
    /// When its visibility timeout ends: another moment means that somebody changed it.
    pub due_ms: u64,
}

#[derive(Default)]
pub(super) struct Attempts {
    by_name: HashMap<[u8; 16], Attempt>,
    /// Names by time, those that were given again included.
    in_order: VecDeque<(u64, [u8; 16])>,
}

struct Attempt {
    at_ms: u64,
    handed: Vec<Handed>,
}

fn short(name: &str) -> [u8; 16] {
    DeduplicationKey::of(name, None).0
}

impl Attempts {
    /// What the receive called `name` got.
    pub(super) fn find(&mut self, now_ms: u64, name: &str) -> Option<&mut Vec<Handed>> {
        self.forget(now_ms);
        self.by_name.get_mut(&short(name)).map(|attempt| &mut attempt.handed)
    }

    /// Remembers what the receive called `name` got. The window of a name begins with the first receive that got something.
    pub(super) fn remember(&mut self, now_ms: u64, name: &str, handed: Vec<Handed>) {
        self.forget(now_ms);
        let name = short(name);
        self.by_name.insert(name, Attempt { at_ms: now_ms, handed });
        self.in_order.push_back((now_ms, name));
        if self.in_order.len() > NAMES_MAX {
            self.forget_first();
        }
    }

    fn forget(&mut self, now_ms: u64) {
        while self.in_order.front().is_some_and(|(at_ms, _)| now_ms.saturating_sub(*at_ms) >= WINDOW_MS) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((at_ms, name)) = self.in_order.pop_front() else { return };
        if self.by_name.get(&name).is_some_and(|attempt| attempt.at_ms == at_ms) {
            self.by_name.remove(&name);
        }
    }
}
