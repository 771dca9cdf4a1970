//! Order on a job queue: priority with ageing, then nearness to who asks, then the overseer's rank, then arrival.
//!
//! A lane's level is its priority and one more for each ageing period since it was served last, or became non-empty; so low
//! priority waits long and is never starved. Among lanes of one level the nearest goes first, so that a model that is loaded is used
//! while there is work for it; a lane that has waited for the overseer's patience counts as near as the nearest, so that what another
//! project is owed comes late by that much and no more. Choosing looks at every lane with a ready message: there are as many as
//! combinations of priority, class and tenant that have work waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::super::shelf::Place;
use super::{Choice, Chooser, Class, Lane as Key, Nearness, Spot, Tenant, Turn, place_of};

#[derive(Default)]
pub(super) struct Levels {
    /// Lanes with a ready message.
    lanes: BTreeMap<(Class, Tenant, u8), Lane>,
}

#[derive(Default)]
struct Lane {
    ready: BTreeSet<u64>,
    /// When it was served last or became non-empty.
    since_ms: u64,
}

/// A message that nobody admitted is of priority 0, class 0, tenant 0.
fn parts(lane: &Key) -> (Class, Tenant, u8) {
    match lane {
        Key::Job { priority, class, tenant } => (*class, *tenant, *priority),
        Key::Plain | Key::Group(_) => Default::default(),
    }
}

impl Levels {
    pub(super) fn ready(&mut self, spot: Spot, lane: &Key, now_ms: u64) {
        let lane = self.lanes.entry(parts(lane)).or_insert_with(|| Lane { since_ms: now_ms, ..Lane::default() });
        lane.ready.insert(spot.key);
    }

    pub(super) fn unready(&mut self, spot: Spot, lane: &Key, taken: bool, now_ms: u64) {
        let parts = parts(lane);
        let Some(lane) = self.lanes.get_mut(&parts) else { return };
        lane.ready.remove(&spot.key);
        if taken {
            lane.since_ms = now_ms;
        }
        if lane.ready.is_empty() {
            self.lanes.remove(&parts);
        }
    }

    pub(super) fn next(&self, chooser: &Chooser<'_>) -> Choice {
        let mut choice = Choice::default();
        let mut best = Best::default();
        let mut turns: HashMap<Tenant, Turn> = HashMap::new();
        let mut fits: Option<(Class, Option<Nearness>)> = None; // lanes come class by class
        for ((class, tenant, priority), lane) in &self.lanes {
            let Some(first) = lane.ready.first() else { continue };
            let fit = match fits {
                Some((asked, fit)) if asked == *class => fit,
                _ => (chooser.fits)(*class).then(|| (chooser.nearness)(*class)),
            };
            fits = Some((*class, fit));
            let Some(nearness) = fit else { continue };
            match *turns.entry(*tenant).or_insert_with(|| (chooser.turn)(*tenant)) {
                Turn::May { rank } => {
                    let waited_ms = chooser.now_ms.saturating_sub(lane.since_ms);
                    let level = u64::from(*priority) + waited_ms.checked_div(chooser.ageing_ms).unwrap_or(0);
                    best.meet(level, nearness, waited_ms >= chooser.patience_ms, (rank, *first));
                }
                Turn::NotBefore { mono_ms } => choice.not_before_ms = earlier(choice.not_before_ms, mono_ms),
                Turn::AtLimit => {}
            }
        }
        choice.place = best.take().map(place_of);
        choice
    }

    pub(super) fn open_classes(&self, turn: &dyn Fn(Tenant) -> Turn) -> (BTreeSet<Class>, Option<u64>) {
        let (mut classes, mut not_before_ms) = (BTreeSet::new(), None);
        let mut turns: HashMap<Tenant, Turn> = HashMap::new();
        for (class, tenant, _) in self.lanes.keys() {
            match *turns.entry(*tenant).or_insert_with(|| turn(*tenant)) {
                Turn::May { .. } => {
                    classes.insert(*class);
                }
                Turn::NotBefore { mono_ms } => not_before_ms = earlier(not_before_ms, mono_ms),
                Turn::AtLimit => {}
            }
        }
        (classes, not_before_ms)
    }

    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.lanes.values().flat_map(|lane| &lane.ready).map(|key| place_of(*key))
    }

    pub(super) fn oldest(&self) -> Option<u64> {
        self.lanes.values().filter_map(|lane| lane.ready.first().copied()).min()
    }
}

/// The best lanes of the highest level seen so far, each by rank and arrival.
#[derive(Default)]
struct Best {
    level: u64,
    /// By nearness.
    near: [Option<(u64, u64)>; 3],
    /// Of those that have waited for long enough.
    patient: Option<(u64, u64)>,
}

impl Best {
    fn meet(&mut self, level: u64, nearness: Nearness, patient: bool, merit: (u64, u64)) {
        if level < self.level {
            return;
        }
        if level > self.level {
            *self = Self { level, ..Self::default() };
        }
        let better = |held: Option<(u64, u64)>| Some(held.map_or(merit, |held| held.min(merit)));
        let of_its_own = &mut self.near[nearness as usize];
        *of_its_own = better(*of_its_own);
        if patient {
            self.patient = better(self.patient);
        }
    }

    /// Of the nearest and those that have waited for long enough, whose turn it is.
    fn take(self) -> Option<u64> {
        let nearest = self.near.into_iter().flatten().next();
        nearest.into_iter().chain(self.patient).min().map(|(_, first)| first)
    }
}

fn earlier(one_ms: Option<u64>, other_ms: u64) -> Option<u64> {
    Some(one_ms.map_or(other_ms, |one_ms| one_ms.min(other_ms)))
}
