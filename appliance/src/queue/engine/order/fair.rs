//! Fair shares between the message groups of a standard queue: start-time fair queueing with equal weights.
//!
//! A lane that is served moves one step on in virtual time, and the lane that is least far on is next. A lane that becomes
//! non-empty begins at the present step, so a quiet group's message waits for one message of each other group at most, however
//! long their backlogs are. Messages without a group are one lane, and a queue without groups is served by arrival.

use std::collections::BTreeSet;

use super::super::shelf::Place;
use super::{LaneNo, Spot, place_of};

#[derive(Default)]
pub(super) struct Fair {
    lanes: Vec<Lane>,
    /// Non-empty lanes by step, then by their first message.
    turns: BTreeSet<(u64, u64, LaneNo)>,
    /// The first messages of all lanes, by arrival.
    firsts: BTreeSet<u64>,
    /// The step of the lane that was served last.
    step: u64,
}

#[derive(Default)]
struct Lane {
    ready: BTreeSet<u64>,
    step: u64,
}

impl Fair {
    pub(super) fn open(&mut self, number: LaneNo) {
        let at = number as usize;
        if at == self.lanes.len() {
            self.lanes.push(Lane::default());
        } else {
            self.lanes[at] = Lane::default();
        }
    }

    pub(super) fn ready(&mut self, spot: Spot) {
        let lane = &mut self.lanes[spot.lane as usize];
        match lane.ready.first() {
            None => lane.step = lane.step.max(self.step),
            Some(first) if *first < spot.key => {
                lane.ready.insert(spot.key);
                return;
            }
            Some(first) => {
                self.turns.remove(&(lane.step, *first, spot.lane));
                self.firsts.remove(first);
            }
        }
        lane.ready.insert(spot.key);
        self.turns.insert((lane.step, spot.key, spot.lane));
        self.firsts.insert(spot.key);
    }

    pub(super) fn unready(&mut self, spot: Spot, taken: bool) {
        let lane = &mut self.lanes[spot.lane as usize];
        let first = lane.ready.first().copied();
        lane.ready.remove(&spot.key);
        if first != Some(spot.key) && !taken {
            return;
        }
        if let Some(first) = first {
            self.turns.remove(&(lane.step, first, spot.lane));
            self.firsts.remove(&first);
        }
        if taken {
            self.step = self.step.max(lane.step);
            lane.step += 1;
        }
        if let Some(next) = lane.ready.first() {
            self.turns.insert((lane.step, *next, spot.lane));
            self.firsts.insert(*next);
        }
    }

    pub(super) fn next(&self) -> Option<Place> {
        self.turns.first().map(|(_, key, _)| place_of(*key))
    }

    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.turns.iter().flat_map(|(.., number)| &self.lanes[*number as usize].ready).map(|key| place_of(*key))
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.firsts.first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(lane: LaneNo, arrival: u64) -> Spot {
        let place = Place::try_from(arrival).unwrap();
        Spot { lane, place, key: arrival << super::super::super::shelf::PLACE_BITS | arrival }
    }

    fn take(fair: &mut Fair, lane_of: impl Fn(Place) -> LaneNo) -> Option<Place> {
        let place = fair.next()?;
        fair.unready(spot(lane_of(place), u64::from(place)), true);
        Some(place)
    }

    #[test]
    fn a_quiet_group_waits_for_one_message_of_a_noisy_one_and_a_lane_alone_goes_by_arrival() {
        let mut fair = Fair::default();
        fair.open(0);
        fair.open(1);
        (0..1_000).for_each(|arrival| fair.ready(spot(0, arrival)));
        let lane_of = |place: Place| LaneNo::from(place >= 1_000);
        for expected in 0..500 {
            assert_eq!(take(&mut fair, lane_of), Some(expected));
        }
        fair.ready(spot(1, 1_000));
        fair.ready(spot(1, 1_001));
        let next: Vec<_> = std::iter::from_fn(|| take(&mut fair, lane_of)).take(5).collect();
        assert_eq!(next, [1_000, 500, 1_001, 501, 502]);
    }

    #[test]
    fn what_comes_back_is_first_in_its_lane_again() {
        let mut fair = Fair::default();
        fair.open(0);
        (0..3).for_each(|arrival| fair.ready(spot(0, arrival)));
        assert_eq!(take(&mut fair, |_| 0), Some(0));
        fair.ready(spot(0, 0));
        assert_eq!(fair.oldest().map(place_of), Some(0));
        fair.unready(spot(0, 1), false); // dropped
        assert_eq!(take(&mut fair, |_| 0), Some(0));
        assert_eq!(take(&mut fair, |_| 0), Some(2));
        assert_eq!(take(&mut fair, |_| 0), None);
        assert!(fair.turns.is_empty() && fair.firsts.is_empty());
    }
}
