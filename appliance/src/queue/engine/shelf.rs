//! The messages of one queue, in memory: about 100 bytes each. Bodies stay in the journal.
//!
//! A message is *pending* (its send is not durable yet), *ready*, *in flight* or *delayed*. Every
//! change goes through [`Shelf::put`], which keeps the order, the timers and the counts in step: there are no
//! stale entries to skip, and the order never offers what cannot be received.
//!
//! What is absent on purpose: wall time. Deadlines and ages are monotonic milliseconds; the moment a message was sent stands in its
//! record. Who is next is decided in [`super::order`].

use std::collections::{BTreeSet, HashMap};

use backlot_journal::Lsn;
use hashbrown::HashTable;

use super::super::model::{MESSAGES_MAX, MessageId, QueueId};
use super::order::{Choice, Chooser, Discipline, Lane, LaneNo, Offer, Order, Spot, place_of};

/// Where a message lies on its shelf. Given again when the message has gone.
pub(in crate::queue) type Place = u32;

pub(super) const PLACE_BITS: u32 = 24;
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
    /// What its retention counts from, on the monotonic clock: its send, or the end of a delay that is longer than SQS
    /// knows. Negative for an earlier run.
    pub aged_from_ms: i64,
    /// When its timer ends, while it is in flight or delayed.
    pub due_ms: u64,
    /// Rises with each message of the shelf, from 1 on. On a FIFO queue it is the sequence number, and stays.
    arrival: u64,
    /// Milliseconds from where it ages to its first receive, plus one; 0 before that.
    pub first_received: u32,
    /// Over all queues.
    pub receives: u32,
    /// Those of them on other queues.
    pub receives_elsewhere: u32,
    lane: LaneNo,
    /// Size of its send record in blocks of 64 bytes.
    blocks: u16,
    pub state: State,
    /// It was sent with a delay longer than SQS knows, and ages from the end of that.
    pub held: bool,
    /// The overseer admitted it.
    pub admitted: bool,
    /// It was taken from the consumer that holds the newest receipt.
    pub receipt_void: bool,
    /// It came by a move, so its send record may name another queue.
    pub guest: bool,
}

/// A million messages are to fit into 150 MB with all that orders them.
const _: () = assert!(size_of::<Slot>() <= 72);

impl Slot {
    pub(in crate::queue) fn new(id: MessageId, aged_from_ms: i64, record_bytes: usize) -> Self {
        Self {
            id,
            lsn: Lsn(0),
            aged_from_ms,
            due_ms: 0,
            arrival: 0,
            first_received: 0,
            receives: 0,
            receives_elsewhere: 0,
            lane: 0,
            blocks: u16::try_from(record_bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u16::MAX),
            state: State::Pending,
            held: false,
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
}

/// How many messages stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::queue) struct Counts {
    pub pending: usize,
    pub ready: usize,
    pub in_flight: usize,
    pub delayed: usize,
}

pub(in crate::queue) struct Shelf {
    slots: Vec<Slot>,
    vacant: Vec<Place>,
    by_id: HashTable<Place>,
    order: Order,
    /// When the timers end, and for which messages, by arrival.
    timers: BTreeSet<(u64, u64)>,
    counts: Counts,
    arrivals: u64,
    guests: usize,
    blocks: u64,
    /// Queues that the messages were dead-lettered from.
    sources: HashMap<MessageId, QueueId>,
}

/// A message that was taken off its shelf.
pub(in crate::queue) struct Removed {
    pub slot: Slot,
    pub lane: Lane,
    /// Another message can be received because of it.
    pub offer: Option<Offer>,
}

impl Shelf {
    pub(in crate::queue) fn new(discipline: Discipline) -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            by_id: HashTable::new(),
            order: Order::new(discipline),
            timers: BTreeSet::new(),
            counts: Counts::default(),
            arrivals: 1,
            guests: 0,
            blocks: 0,
            sources: HashMap::new(),
        }
    }

    pub(in crate::queue) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(in crate::queue) fn is_full(&self) -> bool {
        self.len() >= MESSAGES_MAX
    }

    pub(in crate::queue) fn counts(&self) -> Counts {
        self.counts
    }

    /// Lays a message down in `lane`, in the state it has, behind all others. The shelf must not be full and the id must be new
    /// to it.
    pub(in crate::queue) fn insert(&mut self, slot: Slot, lane: &Lane, now_ms: u64) -> (Place, Option<Offer>) {
        self.insert_at(slot, lane, self.arrivals, now_ms)
    }

    /// As [`Shelf::insert`], with an arrival that was given before. On a FIFO queue it must be above all others of its lane.
    pub(in crate::queue) fn insert_at(
        &mut self,
        mut slot: Slot,
        lane: &Lane,
        arrival: u64,
        now_ms: u64,
    ) -> (Place, Option<Offer>) {
        debug_assert!(!self.is_full() && slot.state != State::Vacant);
        slot.arrival = arrival.min(ARRIVAL_MAX);
        self.arrivals = self.arrivals.max(slot.arrival + 1).min(ARRIVAL_MAX);
        slot.lane = self.order.enter(lane);
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
        self.order.join(self.spot(place));
        (place, self.put(place, state, slot.due_ms, now_ms))
    }

    pub(in crate::queue) fn find(&self, id: MessageId) -> Option<Place> {
        self.by_id.find(hash(id), |place| self.slots[*place as usize].id == id).copied()
    }

    /// The message at `place`, which must come from this shelf and not have been removed since.
    pub(in crate::queue) fn slot(&self, place: Place) -> &Slot {
        &self.slots[place as usize]
    }

    /// For everything but `id`, `state`, `due_ms`, `lane` and `guest`, which order the shelf.
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

    fn spot(&self, place: Place) -> Spot {
        let slot = &self.slots[place as usize];
        Spot { lane: slot.lane, place, key: slot.arrival << PLACE_BITS | u64::from(place) }
    }

    /// Moves the message at `place` into `state`, with a timer until `due_ms` where the state has one. Answers with a message of
    /// its lane, perhaps itself, that can be received now and could not be before.
    pub(in crate::queue) fn put(&mut self, place: Place, state: State, due_ms: u64, now_ms: u64) -> Option<Offer> {
        let spot = self.spot(place);
        let slot = &mut self.slots[place as usize];
        let (before, before_due_ms) = (slot.state, slot.due_ms);
        (slot.state, slot.due_ms) = (state, due_ms);
        let mut offered = false;
        match before {
            State::Vacant => {}
            State::Pending => self.counts.pending -= 1,
            State::Ready => {
                self.counts.ready -= 1;
                offered |= self.order.unready(spot, state == State::InFlight, now_ms);
            }
            State::InFlight => {
                self.counts.in_flight -= 1;
                self.timers.remove(&(before_due_ms, spot.key));
            }
            State::Delayed => {
                self.counts.delayed -= 1;
                self.timers.remove(&(before_due_ms, spot.key));
            }
        }
        match state {
            State::Vacant => {}
            State::Pending => self.counts.pending += 1,
            State::Ready => {
                self.counts.ready += 1;
                offered |= self.order.ready(spot, now_ms);
            }
            State::InFlight => {
                self.counts.in_flight += 1;
                self.timers.insert((due_ms, spot.key));
            }
            State::Delayed => {
                self.counts.delayed += 1;
                self.timers.insert((due_ms, spot.key));
            }
        }
        if (before == State::InFlight) != (state == State::InFlight) {
            offered |= self.order.in_flight(spot, state == State::InFlight);
        }
        offered.then(|| self.order.lane(spot.lane).offer())
    }

    /// Takes the message at `place` away.
    pub(in crate::queue) fn remove(&mut self, place: Place, now_ms: u64) -> Removed {
        let slot = self.slots[place as usize];
        let mut offer = self.put(place, State::Vacant, 0, now_ms);
        let lane = self.order.lane(slot.lane).clone();
        if self.order.leave(self.spot(place)) {
            offer = Some(lane.offer());
        }
        let slots = &self.slots;
        if let Ok(entry) = self.by_id.find_entry(hash(slot.id), |other| slots[*other as usize].id == slot.id) {
            entry.remove();
        }
        self.guests -= usize::from(slot.guest);
        self.blocks -= u64::from(slot.blocks);
        self.sources.remove(&slot.id);
        if self.by_id.is_empty() {
            self.take(); // an emptied shelf gives its memory back
        } else {
            self.vacant.push(place);
        }
        Removed { slot, lane, offer }
    }

    /// Puts the message at `place`, on a queue that is no FIFO queue, into another lane.
    pub(in crate::queue) fn change_lane(&mut self, place: Place, lane: &Lane, now_ms: u64) -> Option<Offer> {
        let Slot { state, due_ms, .. } = self.slots[place as usize];
        self.put(place, State::Vacant, 0, now_ms);
        self.order.leave(self.spot(place));
        self.slots[place as usize].lane = self.order.enter(lane);
        self.order.join(self.spot(place));
        self.put(place, state, due_ms, now_ms)
    }

    /// See [`Order::ready_places`].
    pub(in crate::queue) fn ready_places(&self) -> impl Iterator<Item = Place> {
        self.order.ready_places()
    }

    /// Which message is next; see [`Order::next`].
    pub(in crate::queue) fn next(&self, chooser: &Chooser<'_>, last: Option<Place>) -> Choice {
        self.order.next(chooser, last)
    }

    pub(in crate::queue) fn order(&self) -> &Order {
        &self.order
    }

    /// What the oldest message ages from that can be received.
    pub(in crate::queue) fn oldest_ready_ms(&self) -> Option<i64> {
        self.order.oldest_ready().map(|key| self.slot(place_of(key)).aged_from_ms)
    }

    /// When the next timer ends.
    pub(in crate::queue) fn next_due_ms(&self) -> Option<u64> {
        self.timers.first().map(|(due_ms, _)| *due_ms)
    }

    /// A message whose timer has ended by `mono_ms`.
    pub(in crate::queue) fn due(&self, mono_ms: u64) -> Option<Place> {
        self.timers.first().filter(|(due_ms, _)| *due_ms <= mono_ms).map(|(_, key)| place_of(*key))
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

    /// No message arrives below `arrival` from now on.
    pub(in crate::queue) fn arrive_from(&mut self, arrival: u64) {
        self.arrivals = self.arrivals.max(arrival).min(ARRIVAL_MAX);
    }

    /// Whether a message lies here whose send record may name another queue.
    pub(in crate::queue) fn has_guests(&self) -> bool {
        self.guests > 0
    }

    /// Bytes of the send records of all messages, rounded up.
    pub(in crate::queue) fn record_bytes(&self) -> u64 {
        self.blocks * BLOCK_BYTES as u64
    }

    /// Empties the shelf. What it held is given back, to be dropped where nobody waits.
    pub(in crate::queue) fn take(&mut self) -> Self {
        let empty = Self { arrivals: self.arrivals, ..Self::new(self.order.discipline()) };
        std::mem::replace(self, empty)
    }

    /// All messages, earliest first, and an empty shelf of `discipline` in place of what was.
    pub(in crate::queue) fn drain(&mut self, discipline: Discipline) -> Vec<(Slot, Lane, Option<QueueId>)> {
        let empty = Self { arrivals: self.arrivals, ..Self::new(discipline) };
        let mut emptied = std::mem::replace(self, empty);
        let mut all: Vec<_> = std::mem::take(&mut emptied.slots);
        all.retain(|slot| slot.state != State::Vacant);
        all.sort_unstable_by_key(|slot| slot.arrival);
        let whole = |slot: Slot| (slot, emptied.order.lane(slot.lane).clone(), emptied.sources.remove(&slot.id));
        all.into_iter().map(whole).collect()
    }
}

/// Ids are random already.
fn hash(id: MessageId) -> u64 {
    let MessageId([a, b, c, d, e, f, _, g, _, h, ..]) = id;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
