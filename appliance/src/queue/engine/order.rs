//! Who is next: the lanes in which the messages of one queue stand, and which lane is served first.
//!
//! A lane is made with its first message and goes with its last, so there are never more of them than messages. Three rules
//! choose among lanes: [`Fair`] on standard queues, [`Levels`] on job queues, [`Groups`] on FIFO queues. In each
//! lane the earliest arrival is first.
//!
//! What is absent on purpose: states and timers. The shelf says when a message becomes ready, is taken or leaves.

mod fair;
mod groups;
mod levels;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use self::fair::Fair;
use self::groups::Groups;
use self::levels::Levels;
use super::super::overseer::{Class, Nearness, Tenant, Turn};
use super::super::settings::Settings;
use super::shelf::Place;

/// What messages have in common that are served in order of arrival.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::queue) enum Lane {
    /// No message group.
    #[default]
    Plain,
    /// A message group.
    Group(Arc<str>),
    /// What an overseer admitted: priority 0 (last) to 9 (first).
    Job { priority: u8, class: Class, tenant: Tenant },
}

/// A lane's number, given again when the lane has gone.
pub(in crate::queue) type LaneNo = u32;

/// One message, as far as order goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spot {
    pub lane: LaneNo,
    pub place: Place,
    /// Orders the messages of a queue by arrival.
    pub key: u64,
}

/// Who asks for a message, of job queues.
pub(in crate::queue) struct Chooser<'a> {
    pub now_ms: u64,
    /// A lane rises by one priority in this time; 0: it never does.
    pub ageing_ms: u64,
    pub fits: &'a dyn Fn(Class) -> bool,
    /// How near who asks is to what a class needs.
    pub nearness: &'a dyn Fn(Class) -> Nearness,
    /// A lane that has waited so long is passed over for no nearer one.
    pub patience_ms: u64,
    pub turn: &'a dyn Fn(Tenant) -> Turn,
}

/// Which message is next for somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::queue) struct Choice {
    pub place: Option<Place>,
    /// Where there is none: when one may be, by time alone.
    pub not_before_ms: Option<u64>,
}

/// A message that can be received as of now, for those who wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::queue) struct Offer {
    pub class: Class,
    pub tenant: Tenant,
}

pub(super) struct Order {
    numbers: HashMap<Lane, LaneNo>,
    lanes: Vec<Kept>,
    vacant: Vec<LaneNo>,
    rule: Rule,
}

struct Kept {
    lane: Lane,
    messages: u32,
}

/// What kind of order a queue has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::queue) enum Discipline {
    Fair,
    Levels,
    Groups,
}

impl Discipline {
    pub(in crate::queue) fn of(settings: &Settings) -> Self {
        match () {
            () if settings.fifo.is_some() => Self::Groups,
            () if settings.job_queue => Self::Levels,
            () => Self::Fair,
        }
    }
}

enum Rule {
    Fair(Fair),
    Levels(Levels),
    Groups(Groups),
}

impl Order {
    pub(super) fn new(discipline: Discipline) -> Self {
        let rule = match discipline {
            Discipline::Fair => Rule::Fair(Fair::default()),
            Discipline::Levels => Rule::Levels(Levels::default()),
            Discipline::Groups => Rule::Groups(Groups::default()),
        };
        Self { numbers: HashMap::new(), lanes: Vec::new(), vacant: Vec::new(), rule }
    }

    pub(super) fn discipline(&self) -> Discipline {
        match self.rule {
            Rule::Fair(_) => Discipline::Fair,
            Rule::Levels(_) => Discipline::Levels,
            Rule::Groups(_) => Discipline::Groups,
        }
    }

    /// The number of `lane` for one more message.
    pub(super) fn enter(&mut self, lane: &Lane) -> LaneNo {
        let number = match self.numbers.get(lane) {
            Some(number) => *number,
            None => {
                let kept = Kept { lane: lane.clone(), messages: 0 };
                let number = match self.vacant.pop() {
                    Some(number) => {
                        self.lanes[number as usize] = kept;
                        number
                    }
                    None => {
                        self.lanes.push(kept);
                        LaneNo::try_from(self.lanes.len() - 1).unwrap_or(LaneNo::MAX) // fewer than messages
                    }
                };
                self.numbers.insert(lane.clone(), number);
                match &mut self.rule {
                    Rule::Fair(fair) => fair.open(number),
                    Rule::Levels(_) => {}
                    Rule::Groups(groups) => groups.open(number),
                }
                number
            }
        };
        self.lanes[number as usize].messages += 1;
        number
    }

    /// A message, not ready yet, stands in the lane it entered, behind all others of its lane.
    pub(super) fn join(&mut self, spot: Spot) {
        if let Rule::Groups(groups) = &mut self.rule {
            groups.join(spot);
        }
    }

    /// A message that is neither ready nor in flight goes. True: another one of its lane can be received because of it.
    pub(super) fn leave(&mut self, spot: Spot) -> bool {
        let offered = match &mut self.rule {
            Rule::Groups(groups) => groups.leave(spot),
            _ => false,
        };
        let kept = &mut self.lanes[spot.lane as usize];
        kept.messages -= 1;
        if kept.messages == 0 {
            let lane = std::mem::take(&mut kept.lane);
            self.numbers.remove(&lane);
            self.vacant.push(spot.lane);
        }
        offered
    }

    pub(super) fn lane(&self, number: LaneNo) -> &Lane {
        &self.lanes[number as usize].lane
    }

    /// A message becomes ready. True: it can be received.
    pub(super) fn ready(&mut self, spot: Spot, now_ms: u64) -> bool {
        match &mut self.rule {
            Rule::Fair(fair) => fair.ready(spot),
            Rule::Levels(levels) => levels.ready(spot, &self.lanes[spot.lane as usize].lane, now_ms),
            Rule::Groups(groups) => return groups.ready(spot, true),
        }
        true
    }

    /// A message is ready no more; `taken`: somebody receives it. True: another one of its lane can be received because of it.
    pub(super) fn unready(&mut self, spot: Spot, taken: bool, now_ms: u64) -> bool {
        match &mut self.rule {
            Rule::Fair(fair) => fair.unready(spot, taken),
            Rule::Levels(levels) => levels.unready(spot, &self.lanes[spot.lane as usize].lane, taken, now_ms),
            Rule::Groups(groups) => return groups.ready(spot, false),
        }
        false
    }

    /// A message is in flight, or no more. True: one of its lane can be received because of it.
    pub(super) fn in_flight(&mut self, spot: Spot, is: bool) -> bool {
        match &mut self.rule {
            Rule::Groups(groups) => groups.in_flight(spot, is),
            _ => false,
        }
    }

    /// Who is next. `last` is what the same receive has taken before: of a FIFO queue it gets the rest of that group first.
    pub(super) fn next(&self, chooser: &Chooser<'_>, last: Option<Place>) -> Choice {
        match &self.rule {
            Rule::Fair(fair) => Choice { place: fair.next(), not_before_ms: None },
            Rule::Levels(levels) => levels.next(chooser),
            Rule::Groups(groups) => Choice { place: groups.next(last), not_before_ms: None },
        }
    }

    /// Groups of which a message can be received now; `None` where every ready message can.
    pub(super) fn open_groups(&self) -> Option<usize> {
        match &self.rule {
            Rule::Groups(groups) => Some(groups.available()),
            _ => None,
        }
    }

    /// The classes of which a message may be received now by somebody who fits, and when, by time alone, there are more of them.
    pub(super) fn open_classes(&self, turn: &dyn Fn(Tenant) -> Turn) -> (BTreeSet<Class>, Option<u64>) {
        match &self.rule {
            Rule::Levels(levels) => levels.open_classes(turn),
            _ => (BTreeSet::from([Class(0)]), None),
        }
    }

    /// Messages that are ready, each lane's in order; on FIFO queues those of groups that can be received from.
    pub(super) fn ready_places(&self) -> Box<dyn Iterator<Item = Place> + '_> {
        match &self.rule {
            Rule::Fair(fair) => Box::new(fair.places()),
            Rule::Levels(levels) => Box::new(levels.places()),
            Rule::Groups(groups) => Box::new(groups.places()),
        }
    }

    /// The earliest arrival among ready messages.
    pub(super) fn oldest_ready(&self) -> Option<u64> {
        match &self.rule {
            Rule::Fair(fair) => fair.oldest(),
            Rule::Levels(levels) => levels.oldest(),
            Rule::Groups(groups) => groups.oldest(),
        }
    }
}

impl Lane {
    /// What those who wait are told of a message of this lane.
    pub(super) fn offer(&self) -> Offer {
        match self {
            Self::Job { class, tenant, .. } => Offer { class: *class, tenant: *tenant },
            Self::Plain | Self::Group(_) => Offer::default(),
        }
    }
}

pub(super) fn place_of(key: u64) -> Place {
    Place::try_from(key & ((1 << super::shelf::PLACE_BITS) - 1)).unwrap_or(Place::MAX) // masked to 24 bits
}
