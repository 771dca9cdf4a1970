//! Order within the message groups of a FIFO queue: the messages of a group are a chain, and the group can be received from while
//! its first message is ready and none of it is in flight.
//!
//! A chain is two places beside each message, so that a queue of a million groups costs no tree for each of them.

use std::collections::BTreeSet;

use super::super::shelf::Place;
use super::{LaneNo, Spot, place_of};

const NOBODY: Place = Place::MAX;

#[derive(Default)]
pub(super) struct Groups {
    groups: Vec<Group>,
    /// By place.
    links: Vec<Link>,
    /// The first messages of the groups that can be received from, by arrival.
    available: BTreeSet<(u64, LaneNo)>,
}

struct Group {
    first: Place,
    last: Place,
    in_flight: u32,
    /// What stands in `available`.
    offered: Option<u64>,
}

#[derive(Clone, Copy)]
struct Link {
    key: u64,
    before: Place,
    after: Place,
    ready: bool,
}

const UNLINKED: Link = Link { key: 0, before: NOBODY, after: NOBODY, ready: false };

impl Groups {
    pub(super) fn open(&mut self, number: LaneNo) {
        let at = number as usize;
        let group = Group { first: NOBODY, last: NOBODY, in_flight: 0, offered: None };
        if at == self.groups.len() {
            self.groups.push(group);
        } else {
            self.groups[at] = group;
        }
    }

    /// Puts a message at the end of its group's chain.
    pub(super) fn join(&mut self, spot: Spot) {
        let at = spot.place as usize;
        if at >= self.links.len() {
            self.links.resize(at + 1, UNLINKED);
        }
        let group = &mut self.groups[spot.lane as usize];
        self.links[at] = Link { key: spot.key, before: group.last, after: NOBODY, ready: false };
        match group.last {
            NOBODY => group.first = spot.place,
            last => self.links[last as usize].after = spot.place,
        }
        group.last = spot.place;
    }

    pub(super) fn leave(&mut self, spot: Spot) -> bool {
        let Link { before, after, .. } = self.links[spot.place as usize];
        let group = &mut self.groups[spot.lane as usize];
        match before {
            NOBODY => group.first = after,
            before => self.links[before as usize].after = after,
        }
        match after {
            NOBODY => group.last = before,
            after => self.links[after as usize].before = before,
        }
        self.settle(spot.lane)
    }

    pub(super) fn ready(&mut self, spot: Spot, is: bool) -> bool {
        self.links[spot.place as usize].ready = is;
        self.settle(spot.lane)
    }

    pub(super) fn in_flight(&mut self, spot: Spot, is: bool) -> bool {
        let group = &mut self.groups[spot.lane as usize];
        if is {
            group.in_flight += 1;
        } else {
            group.in_flight -= 1;
        }
        self.settle(spot.lane)
    }

    /// Brings `available` up to date for one group. True: it can be received from, and could not be before.
    fn settle(&mut self, number: LaneNo) -> bool {
        let group = &mut self.groups[number as usize];
        let first = (group.first != NOBODY && group.in_flight == 0).then(|| self.links[group.first as usize]);
        let wanted = first.filter(|first| first.ready).map(|first| first.key);
        if wanted == group.offered {
            return false;
        }
        let before = std::mem::replace(&mut group.offered, wanted);
        if let Some(key) = before {
            self.available.remove(&(key, number));
        }
        if let Some(key) = wanted {
            self.available.insert((key, number));
        }
        before.is_none()
    }

    /// The message behind `last`, which the asker holds, where it is ready; else the earliest of the groups that can be received from.
    pub(super) fn next(&self, last: Option<Place>) -> Option<Place> {
        let after = last.map(|last| self.links[last as usize].after).filter(|after| *after != NOBODY);
        let same_group = after.filter(|after| self.links[*after as usize].ready);
        same_group.or_else(|| self.available.first().map(|(key, _)| place_of(*key)))
    }

    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        let ready = |place: &Place| *place != NOBODY && self.links[*place as usize].ready;
        self.available.iter().flat_map(move |(key, _)| {
            std::iter::successors(Some(place_of(*key)), |place| Some(self.links[*place as usize].after))
                .take_while(ready)
        })
    }

    pub(super) fn available(&self) -> usize {
        self.available.len()
    }

    /// Among those that can be received.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.available.first().map(|(key, _)| *key)
    }
}
