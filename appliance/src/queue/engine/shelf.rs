//! The messages of one queue, in memory: about 100 bytes each. Bodies stay in the journal.
//!
//! A message is *pending* (its send is not durable yet), *ready*, *in flight* or *delayed*. Every
//! change goes through [`Shelf::put`], which keeps the ready set, the timers and the counts in step: there are no
//! stale entries to skip, and the ready set never holds what cannot be received.
//!
//! What is absent on purpose: wall time. Deadlines and ages are monotonic milliseconds; the moment a message was sent stands in its record.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use backlot_journal::Lsn;
use hashbrown::HashTable;

use super::super::model::{MESSAGES_MAX, MessageId, QueueId};
use super::super::overseer::Class;

/// Where a message lies on its shelf. Given again when the message has gone.
pub(in crate::queue) type Place = u32;

const PLACE_BITS: u32 = 24;
const BLOCK_BYTES: usize = 64;
const ARRIVAL_MAX: u64 = (1 << (64 - PLACE_BITS)) - 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::queue) enum State {
    /// No message lies here.
    Vacant,
    /// Its send is on the way to the disk. `due_ms` is when its delay ends.
    Pending,
    Ready,
    /// Hidden until `due_ms`.
    InFlight,
    /// Not to be received before `due_ms`.
    Delayed,
}

/// One message.
#[derive(Clone, Copy, Debug)]
pub(in crate::queue) struct Slot {
    pub id: MessageId,
    /// Where its send record is now.
    pub lsn: Lsn,
    /// When it was sent, on the monotonic clock; negative for an earlier run.
    pub sent_ms: i64,
    /// When its timer ends, while it is in flight or delayed.
    pub due_ms: u64,
    /// Rises with each message of the shelf.
    arrival: u64,
    /// Milliseconds from its send to its first receive, plus one; 0 before that.
    pub first_received: u32,
    /// Over all queues.
    pub receives: u32,
    /// Those of them on other queues.
    pub receives_elsewhere: u32,
    pub class: Class,
    /// Size of its send record in blocks of 64 bytes.
    blocks: u16,
    pub priority: u8,
    pub state: State,
    /// The overseer admitted it.
    pub admitted: bool,
    /// It was taken from the consumer that holds the newest receipt.
    pub receipt_void: bool,
    /// It came by a move, so its send record names another queue.
    pub guest: bool,
}

impl Slot {
    pub(in crate::queue) fn new(id: MessageId, sent_ms: i64, record_bytes: usize) -> Self {
        Self {
            id,
            lsn: Lsn(0),
            sent_ms,
            due_ms: 0,
            arrival: 0,
            first_received: 0,
            receives: 0,
            receives_elsewhere: 0,
            class: Class(0),
            blocks: u16::try_from(record_bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u16::MAX),
            priority: 0,
            state: State::Pending,
            admitted: false,
            receipt_void: false,
            guest: false,
        }
    }

    pub(in crate::queue) fn receives_here(&self) -> u32 {
        self.receives.saturating_sub(self.receives_elsewhere)
    }

    pub(in crate::queue) fn arrival(&self) -> u64 {
        self.arrival
    }

    /// Ready messages of one lane differ in arrival alone.
    fn lane(&self) -> Lane {
        Lane { last_first: u8::MAX - self.priority, class: self.class }
    }
}

/// Highest priority first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Lane {
    last_first: u8,
    class: Class,
}

/// How many messages stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::queue) struct Counts {
    pub pending: usize,
    pub ready: usize,
    pub in_flight: usize,
    pub delayed: usize,
}

#[derive(Default)]
pub(in crate::queue) struct Shelf {
    slots: Vec<Slot>,
    vacant: Vec<Place>,
    by_id: HashTable<Place>,
    /// Arrival and place of each ready message, in one word.
    ready: BTreeMap<Lane, BTreeSet<u64>>,
    timers: BTreeSet<(u64, Place)>,
    counts: Counts,
    arrivals: u64,
    guests: usize,
    blocks: u64,
    /// Queues that the messages were dead-lettered from.
    sources: HashMap<MessageId, QueueId>,
}

impl Shelf {
    pub(in crate::queue) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(in crate::queue) fn is_full(&self) -> bool {
        self.len() >= MESSAGES_MAX
    }

    pub(in crate::queue) fn counts(&self) -> Counts {
        self.counts
    }

    /// Lays a message down, in the state it has. The shelf must not be full and the id must be new to it.
    pub(in crate::queue) fn insert(&mut self, mut slot: Slot) -> Place {
        debug_assert!(!self.is_full() && slot.state != State::Vacant);
        slot.arrival = self.arrivals;
        self.arrivals = (self.arrivals + 1).min(ARRIVAL_MAX);
        self.guests += usize::from(slot.guest);
        self.blocks += u64::from(slot.blocks);
        let state = slot.state;
        slot.state = State::Vacant;
        let place = if let Some(place) = self.vacant.pop() {
            self.slots[place as usize] = slot;
            place
        } else {
            self.slots.push(slot);
            Place::try_from(self.slots.len() - 1).unwrap_or(Place::MAX) // a shelf holds fewer than 2^24
        };
        let slots = &self.slots;
        self.by_id.insert_unique(hash(slot.id), place, |other| hash(slots[*other as usize].id));
        self.put(place, state, slot.due_ms);
        place
    }

    pub(in crate::queue) fn find(&self, id: MessageId) -> Option<Place> {
        self.by_id.find(hash(id), |place| self.slots[*place as usize].id == id).copied()
    }

    /// The message at `place`, which must come from this shelf and not have been removed since.
    pub(in crate::queue) fn slot(&self, place: Place) -> &Slot {
        &self.slots[place as usize]
    }

    /// For everything but `id`, `state`, `due_ms`, `priority`, `class` and `guest`, which order the shelf.
    pub(in crate::queue) fn slot_mut(&mut self, place: Place) -> &mut Slot {
        &mut self.slots[place as usize]
    }

    /// The message at `place` if the one that arrived as `arrival` still lies there.
    pub(in crate::queue) fn slot_of(&self, place: Place, arrival: u64) -> Option<&Slot> {
        self.slots.get(place as usize).filter(|slot| slot.state != State::Vacant && slot.arrival == arrival)
    }

    /// The message at `place`, if there is one: for a walk over all places.
    pub(in crate::queue) fn any(&self, place: Place) -> Option<&Slot> {
        self.slots.get(place as usize).filter(|slot| slot.state != State::Vacant)
    }

    /// One past the last place.
    pub(in crate::queue) fn places(&self) -> Place {
        Place::try_from(self.slots.len()).unwrap_or(Place::MAX)
    }

    /// Moves the message at `place` into `state`, with a timer until `due_ms` where the state has one.
    pub(in crate::queue) fn put(&mut self, place: Place, state: State, due_ms: u64) {
        let slot = &mut self.slots[place as usize];
        let key = slot.arrival << PLACE_BITS | u64::from(place);
        match slot.state {
            State::Vacant => {}
            State::Pending => self.counts.pending -= 1,
            State::Ready => {
                self.counts.ready -= 1;
                let lane = slot.lane();
                if let Some(keys) = self.ready.get_mut(&lane) {
                    keys.remove(&key);
                    if keys.is_empty() {
                        self.ready.remove(&lane);
                    }
                }
            }
            State::InFlight => {
                self.counts.in_flight -= 1;
                self.timers.remove(&(slot.due_ms, place));
            }
            State::Delayed => {
                self.counts.delayed -= 1;
                self.timers.remove(&(slot.due_ms, place));
            }
        }
        slot.state = state;
        slot.due_ms = due_ms;
        match state {
            State::Vacant => {}
            State::Pending => self.counts.pending += 1,
            State::Ready => {
                self.counts.ready += 1;
                self.ready.entry(slot.lane()).or_default().insert(key);
            }
            State::InFlight => {
                self.counts.in_flight += 1;
                self.timers.insert((due_ms, place));
            }
            State::Delayed => {
                self.counts.delayed += 1;
                self.timers.insert((due_ms, place));
            }
        }
    }

    /// Takes the message at `place` away, with the queue it was dead-lettered from.
    pub(in crate::queue) fn remove(&mut self, place: Place) -> (Slot, Option<QueueId>) {
        let slot = self.slots[place as usize];
        self.put(place, State::Vacant, 0);
        let slots = &self.slots;
        if let Ok(entry) = self.by_id.find_entry(hash(slot.id), |other| slots[*other as usize].id == slot.id) {
            entry.remove();
        }
        self.guests -= usize::from(slot.guest);
        self.blocks -= u64::from(slot.blocks);
        let source = self.sources.remove(&slot.id);
        if self.by_id.is_empty() {
            // An emptied shelf gives its memory back.
            *self = Self { arrivals: self.arrivals, ..Self::default() };
        } else {
            self.vacant.push(place);
        }
        (slot, source)
    }

    /// The ready message to be received next: the highest priority, then the earliest arrival, among the classes that fit.
    pub(in crate::queue) fn first_ready(&self, fits: impl Fn(Class) -> bool) -> Option<Place> {
        let mut best: Option<(u8, u64)> = None;
        for (lane, keys) in &self.ready {
            if best.is_some_and(|(last_first, _)| last_first < lane.last_first) {
                break;
            }
            if let Some(key) = keys.first().filter(|_| fits(lane.class))
                && best.is_none_or(|(_, earliest)| *key < earliest)
            {
                best = Some((lane.last_first, *key));
            }
        }
        best.map(|(_, key)| place_of(key))
    }

    /// The classes of which a message is ready, once for every priority.
    pub(in crate::queue) fn ready_classes(&self) -> impl Iterator<Item = Class> {
        self.ready.keys().map(|lane| lane.class)
    }

    /// Age basis of the oldest ready message.
    pub(in crate::queue) fn oldest_ready_sent_ms(&self) -> Option<i64> {
        let firsts = self.ready.values().filter_map(|keys| keys.first());
        firsts.min().map(|key| self.slot(place_of(*key)).sent_ms)
    }

    /// When the next timer ends.
    pub(in crate::queue) fn next_due_ms(&self) -> Option<u64> {
        self.timers.first().map(|(due_ms, _)| *due_ms)
    }

    /// A message whose timer has ended by `mono_ms`.
    pub(in crate::queue) fn due(&self, mono_ms: u64) -> Option<Place> {
        self.timers.first().filter(|(due_ms, _)| *due_ms <= mono_ms).map(|(_, place)| *place)
    }

    pub(in crate::queue) fn source(&self, id: MessageId) -> Option<QueueId> {
        self.sources.get(&id).copied()
    }

    pub(in crate::queue) fn set_source(&mut self, id: MessageId, source: QueueId) {
        self.sources.insert(id, source);
    }

    pub(in crate::queue) fn next_arrival(&self) -> u64 {
        self.arrivals
    }

    /// Whether a message lies here whose send record names another queue.
    pub(in crate::queue) fn has_guests(&self) -> bool {
        self.guests > 0
    }

    /// Bytes of the send records of all messages, rounded up.
    pub(in crate::queue) fn record_bytes(&self) -> u64 {
        self.blocks * BLOCK_BYTES as u64
    }

    /// Empties the shelf. What it held is given back, to be dropped where nobody waits.
    pub(in crate::queue) fn take(&mut self) -> Self {
        let emptied = std::mem::take(self);
        self.arrivals = emptied.arrivals;
        emptied
    }

    /// All messages, earliest first, leaving the shelf empty.
    pub(in crate::queue) fn drain(&mut self) -> Vec<(Slot, Option<QueueId>)> {
        let mut emptied = self.take();
        let mut all: Vec<_> = std::mem::take(&mut emptied.slots);
        all.retain(|slot| slot.state != State::Vacant);
        all.sort_unstable_by_key(|slot| slot.arrival);
        all.into_iter().map(|slot| (slot, emptied.sources.remove(&slot.id))).collect()
    }
}

fn place_of(key: u64) -> Place {
    Place::try_from(key & ((1 << PLACE_BITS) - 1)).unwrap_or(Place::MAX) // masked to 24 bits
}

/// Ids are random already.
fn hash(id: MessageId) -> u64 {
    let MessageId([a, b, c, d, e, f, _, g, _, h, ..]) = id;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
