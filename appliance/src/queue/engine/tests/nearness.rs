//! Job queues whose agents are nearer to some jobs than to others.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use proptest::prelude::*;

use super::super::*;
use super::levels::{House, name_of};
use crate::queue::overseer::Nearness;

const AGEING_MS: u64 = 300_000;
const PATIENCE_MS: u64 = 30_000;

fn house() -> House {
    let house = House::of_jobs();
    house.rules.ageing_ms.store(AGEING_MS, Ordering::SeqCst);
    house.rules.patience_ms.store(PATIENCE_MS, Ordering::SeqCst);
    house
}

fn near(house: &House, agent: &str, class: u32, nearness: Nearness) {
    house.rules.near.lock().insert((agent.to_owned(), Class(class)), nearness);
}

fn one(house: &mut House, agent: Option<&str>) -> Option<u64> {
    house.receive(agent, 1).0.first().map(name_of)
}

#[test]
fn what_is_loaded_goes_first_then_what_is_on_disk_within_a_level() {
    let mut house = house();
    near(&house, "a", 2, Nearness::OnDisk);
    near(&house, "a", 3, Nearness::Loaded);
    for (name, priority, class) in [(1, 5, 1), (2, 5, 2), (3, 5, 3), (4, 5, 3), (5, 6, 1)] {
        house.send(name, Some((priority, Class(class), Tenant(0))), None);
    }
    let order: Vec<u64> = std::iter::from_fn(|| one(&mut house, Some("a"))).collect();
    assert_eq!(order, [5, 3, 4, 2, 1], "priority before nearness, nearness before arrival");
}

#[test]
fn who_is_near_to_nothing_gets_what_came_first() {
    let mut house = house();
    near(&house, "a", 2, Nearness::Loaded);
    for (name, class) in [(1, 1), (2, 2), (3, 1)] {
        house.send(name, Some((5, Class(class), Tenant(0))), None);
    }
    assert_eq!(one(&mut house, None), Some(1), "a plain consumer");
    assert_eq!(one(&mut house, Some("b")), Some(2));
}

#[test]
fn another_project_is_passed_over_for_a_loaded_model_no_longer_than_patience_lasts() {
    let mut house = house();
    near(&house, "a", 2, Nearness::Loaded);
    // The other project has had less: it would go first, were it not for the model.
    house.rules.turns.lock().insert(Tenant(1), Turn::May { rank: 9 });
    house.send(0, Some((5, Class(1), Tenant(2))), None);
    let mut got = Vec::new();
    for name in 1..40 {
        house.send(name, Some((5, Class(2), Tenant(1))), None);
        house.now_ms += 2_000;
        got.push(one(&mut house, Some("a")).unwrap());
    }
    let at = got.iter().position(|name| *name == 0).unwrap();
    assert_eq!((at + 1) as u64 * 2_000, PATIENCE_MS);
}

#[derive(Clone, Debug)]
enum Step {
    Send { priority: u8, class: u32, tenant: u32 },
    Receive { agent: u8 },
    Load { agent: u8, class: u32 },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (4..7_u8, 1..4_u32, 0..3_u32).prop_map(|(priority, class, tenant)| Step::Send { priority, class, tenant }),
        4 => (0..3_u8).prop_map(|agent| Step::Receive { agent }),
        1 => (0..2_u8, 1..4_u32).prop_map(|(agent, class)| Step::Load { agent, class }),
        2 => prop_oneof![1..20_000_u64, 100_000..700_000_u64].prop_map(Step::Wait),
    ]
}

/// The slow, obvious reference: lanes with the arrivals in them and since when each waits.
#[derive(Default)]
struct Reference(BTreeMap<(u8, u32, u32), (u64, Vec<u64>)>);

impl Reference {
    fn next(&mut self, now_ms: u64, nearness: impl Fn(u32) -> Nearness) -> Option<u64> {
        let level =
            |(priority, ..): &(u8, u32, u32), since_ms: u64| u64::from(*priority) + (now_ms - since_ms) / AGEING_MS;
        let highest = self.0.iter().map(|(lane, (since_ms, _))| level(lane, *since_ms)).max()?;
        let of_level: Vec<_> =
            self.0.iter().filter(|(lane, (since_ms, _))| level(lane, *since_ms) == highest).collect();
        let nearest = of_level.iter().map(|(lane, _)| nearness(lane.1)).min()?;
        let may = of_level
            .into_iter()
            .filter(|(lane, (since_ms, _))| nearness(lane.1) == nearest || now_ms - since_ms >= PATIENCE_MS);
        // The rank of a tenant is its number.
        let (lane, _) = may.min_by_key(|(lane, (_, names))| (lane.2, names[0]))?;
        let lane = *lane;
        let (since_ms, names) = self.0.get_mut(&lane)?;
        let name = names.remove(0);
        *since_ms = now_ms;
        if names.is_empty() {
            self.0.remove(&lane);
        }
        Some(name)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn whose_turn_it_is_agrees_with_a_plain_list_at_every_moment(steps in prop::collection::vec(step(), 1..80)) {
        let mut house = house();
        let mut reference = Reference::default();
        for tenant in 0..3 {
            house.rules.turns.lock().insert(Tenant(tenant), Turn::May { rank: u64::from(tenant) });
        }
        near(&house, "nobody", 1, Nearness::OnDisk);
        let mut sent = 0;
        for step in steps {
            match step {
                Step::Send { priority, class, tenant } => {
                    house.send(sent, Some((priority, Class(class), Tenant(tenant))), None);
                    let lane = reference.0.entry((priority, class, tenant)).or_insert((house.now_ms, Vec::new()));
                    lane.1.push(sent);
                    sent += 1;
                }
                Step::Receive { agent } => {
                    let agent = (agent < 2).then(|| format!("agent-{agent}"));
                    let nearness = {
                        let near = house.rules.near.lock().clone();
                        let agent = agent.clone();
                        move |class: u32| {
                            let of = agent.clone().map(|agent| (agent, Class(class)));
                            of.and_then(|of| near.get(&of).copied()).unwrap_or_default()
                        }
                    };
                    let expected = reference.next(house.now_ms, nearness);
                    prop_assert_eq!(one(&mut house, agent.as_deref()), expected);
                }
                Step::Load { agent, class } => {
                    let agent = format!("agent-{agent}");
                    for other in 1..4 {
                        let before = house.rules.near.lock().get(&(agent.clone(), Class(other))).copied();
                        if before == Some(Nearness::Loaded) {
                            near(&house, &agent, other, Nearness::OnDisk);
                        }
                    }
                    near(&house, &agent, class, Nearness::Loaded);
                }
                Step::Wait(ms) => house.now_ms += ms,
            }
        }
    }
}
