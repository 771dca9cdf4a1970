//! Stories of job queues: priority with ageing, ranks, limits; and of message groups.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::super::*;
use crate::queue::SendRequest;
use crate::queue::overseer::{Admission, Nearness};
use crate::queue::record::Content;

/// Answers what the story tells it to.
#[derive(Default)]
pub(super) struct Rules {
    pub(super) turns: Mutex<HashMap<Tenant, Turn>>,
    pub(super) ageing_ms: AtomicU64,
    /// How near agents are to classes; with any of it, every class fits every agent.
    pub(super) near: Mutex<HashMap<(String, Class), Nearness>>,
    pub(super) patience_ms: AtomicU64,
}

impl Overseer for Rules {
    fn admit(&self, _: Now, _: &str, request: &SendRequest) -> Result<Admission, String> {
        Err(format!("{} is not sent through this door", request.body))
    }
    fn classify(&self, _: &str) -> (u8, Class, Tenant) {
        (0, Class(0), Tenant(0))
    }
    fn fits(&self, agent: Option<&str>, class: Class) -> bool {
        class == Class(0) || agent.is_none() || !self.near.lock().is_empty()
    }
    fn nearness(&self, agent: Option<&str>, class: Class) -> Nearness {
        let of = agent.map(|agent| (agent.to_owned(), class));
        of.and_then(|of| self.near.lock().get(&of).copied()).unwrap_or_default()
    }
    fn patience_ms(&self) -> u64 {
        self.patience_ms.load(Ordering::SeqCst)
    }
    fn turn(&self, _: Now, _: &str, tenant: Tenant) -> Turn {
        self.turns.lock().get(&tenant).copied().unwrap_or(Turn::May { rank: 0 })
    }
    fn ageing_ms(&self) -> u64 {
        self.ageing_ms.load(Ordering::SeqCst)
    }
    fn observe(&self, _: Now, _: &str, _: Change<'_>, _: &mut Vec<Record>) -> Option<Action> {
        None
    }
    fn attributes(&self, _: &str, _: &str) -> Vec<(String, String)> {
        Vec::new()
    }
}

pub(super) struct House {
    engine: Engine,
    queue: Queue,
    pub(super) rules: Rules,
    pub(super) now_ms: u64,
    end: u64,
}

impl House {
    fn new(settings: Settings) -> Self {
        let mut engine = Engine::default();
        let name = QueueName::parse(if settings.fifo.is_some() { "q.fifo" } else { "q" }).unwrap();
        let mut group = Group::default();
        let now = Now { mono_ms: 0, wall_ms: 0 };
        let ctx = &mut Context { now, overseer: None, group: &mut group };
        let queue = engine.create(ctx, &name, settings).unwrap();
        Self { engine, queue, rules: Rules::default(), now_ms: 0, end: 1 }
    }

    pub(super) fn of_jobs() -> Self {
        Self::new(Settings { job_queue: true, ..Settings::default() })
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: self.now_ms }
    }

    /// What `decide` decides, durable.
    fn decide<T>(&mut self, decide: impl FnOnce(&mut Engine, &mut Context<'_>, &Queue) -> T) -> (T, Group) {
        let mut group = Group::default();
        let now = self.now();
        let ctx = &mut Context { now, overseer: Some(&self.rules), group: &mut group };
        let answer = decide(&mut self.engine, ctx, &self.queue);
        let lsns: Vec<Lsn> = (0..group.records.len() as u64).map(|at| Lsn(self.end + at)).collect();
        self.end += group.records.len() as u64;
        self.engine.placed(&group, &lsns);
        self.engine.publish(now, Lsn(self.end), &mut group);
        (answer, group)
    }

    /// Sends the message called `name`.
    pub(super) fn send(&mut self, name: u64, admitted: Option<(u8, Class, Tenant)>, group_id: Option<&str>) {
        let id = MessageId::from_random((u128::from(name) << 32).to_le_bytes());
        let content = Content { body: name.to_string(), ..Content::default() }.encode();
        let (accepted, _) = self.decide(|engine, ctx, queue| {
            let incoming = Incoming {
                id,
                record: content.clone(),
                body: "",
                delay_s: 0,
                group_id,
                deduplication: None,
                per_group: false,
                admitted,
            };
            engine.send(ctx, queue, incoming)
        });
        accepted.unwrap();
    }

    fn job(&mut self, name: u64, priority: u8, tenant: u32) {
        self.send(name, Some((priority, Class(0), Tenant(tenant))), None);
    }

    pub(super) fn receive(&mut self, agent: Option<&str>, messages_max: usize) -> (Vec<Taken>, Group) {
        let asked = Asked { agent, class: None, messages_max, visibility_s: 600, changes_max: 1_000, attempt_id: None };
        let (taken, group) = self.decide(|engine, ctx, queue| engine.receive(ctx, queue, &asked));
        (taken.unwrap(), group)
    }

    /// The names of what one receive gets.
    fn names(&mut self, messages_max: usize) -> Vec<u64> {
        self.receive(None, messages_max).0.iter().map(name_of).collect()
    }
}

pub(super) fn name_of(taken: &Taken) -> u64 {
    (0..2_000)
        .find(|name| MessageId::from_random((u128::from(*name) << 32).to_le_bytes()) == taken.receipt.message)
        .expect("a message that was sent")
}

#[test]
fn priority_goes_first_then_rank_then_arrival() {
    let mut house = House::of_jobs();
    house.rules.turns.lock().insert(Tenant(2), Turn::May { rank: 7 });
    house.job(1, 5, 2);
    house.job(2, 5, 1);
    house.job(3, 9, 2);
    house.job(4, 5, 1);
    house.job(5, 0, 1);
    assert_eq!(house.names(10), [3, 2, 4, 1, 5]);
}

#[test]
fn low_priority_waits_longer_and_is_never_starved() {
    let mut house = House::of_jobs();
    house.rules.ageing_ms.store(300_000, Ordering::SeqCst);
    house.job(1, 5, 1);
    house.job(2, 5, 1);
    let mut low = Vec::new();
    for round in 0..40 {
        // Every minute two of priority 7 come and one job is done.
        house.job(100 + 2 * round, 7, 1);
        house.job(101 + 2 * round, 7, 1);
        let name = house.names(1)[0];
        if name < 100 {
            low.push((name, round));
        }
        house.now_ms += 60_000;
    }
    // It comes when it has waited as long as two priorities are worth, and again after as long.
    assert_eq!(low, [(1, 10), (2, 20)]);
    let mut house = House::of_jobs();
    house.job(1, 0, 1);
    house.now_ms = 10_000_000;
    house.job(2, 1, 1);
    assert_eq!(house.names(2), [2, 1], "with an ageing of 0 nothing rises");
}

#[test]
fn who_is_at_a_limit_or_too_early_is_passed_over_and_looked_at_again() {
    let mut house = House::of_jobs();
    house.rules.turns.lock().insert(Tenant(1), Turn::AtLimit);
    house.rules.turns.lock().insert(Tenant(2), Turn::NotBefore { mono_ms: 5_000 });
    house.job(1, 9, 1);
    house.job(2, 8, 2);
    house.job(3, 0, 3);
    assert_eq!(house.names(10), [3]);
    let (nothing, group) = house.receive(None, 1);
    assert_eq!((nothing.len(), group.due_ms), (0, Some(5_000)));
    assert_eq!(house.engine.next_due_ms(), Some(5_000), "the keeper looks again then");
    let queue = house.queue.id;
    let (classes, not_before_ms) = house.engine.open_classes(house.now(), queue, Some(&house.rules));
    assert_eq!((classes.len(), not_before_ms), (0, Some(5_000)));

    house.now_ms = 5_000;
    house.rules.turns.lock().remove(&Tenant(2));
    let (_, group) = house.decide(|engine, ctx, _| engine.tick(ctx, 100));
    assert!(group.freed, "those who wait are looked at again");
    let (taken, _) = house.receive(None, 10);
    assert_eq!(taken.iter().map(name_of).collect::<Vec<_>>(), [2]);

    let receipt = taken[0].receipt;
    let (_, group) = house.decide(|engine, ctx, queue| engine.delete(ctx, queue, &receipt));
    assert!(group.freed, "a message that leaves flight may free a limit");
    house.rules.turns.lock().clear();
    let (classes, _) = house.engine.open_classes(house.now(), queue, Some(&house.rules));
    assert_eq!(classes, BTreeSet::from([Class(0)]));
    assert_eq!(house.names(1), [1]);
}

#[test]
fn an_agent_gets_the_first_of_what_fits_it() {
    let mut house = House::of_jobs();
    house.send(1, Some((9, Class(1), Tenant(0))), None);
    house.send(2, Some((1, Class(0), Tenant(0))), None);
    let (taken, _) = house.receive(Some("small"), 10);
    assert_eq!(taken.iter().map(name_of).collect::<Vec<_>>(), [2]);
    assert_eq!(house.names(10), [1]);
}

#[test]
fn a_noisy_group_does_not_delay_quiet_ones() {
    let mut house = House::new(Settings::default());
    (0..1_000).for_each(|name| house.send(name, None, Some("noisy")));
    assert_eq!(house.names(10), (0..10).collect::<Vec<_>>());
    house.send(1_000, None, Some("quiet"));
    house.send(1_001, None, None);
    house.send(1_002, None, Some("quiet"));
    assert_eq!(house.names(6), [1_000, 1_001, 10, 1_002, 11, 12]);
}

#[test]
fn a_paused_queue_gives_nothing_and_a_draining_one_takes_nothing() {
    let mut house = House::new(Settings::default());
    house.send(1, None, None);
    let flow = |house: &mut House, flow| {
        let settings = Settings { flow, ..(*house.queue.settings).clone() };
        let (set, group) = house.decide(|engine, ctx, queue| engine.set(ctx, queue, settings));
        set.unwrap();
        group
    };
    flow(&mut house, Flow::Paused);
    let queue = house.queue.id;
    assert_eq!((house.names(1).len(), house.engine.offers(queue)), (0, 0));
    house.send(2, None, None);
    let group = flow(&mut house, Flow::Draining);
    assert!(group.ready.iter().any(|(ready, _)| *ready == queue), "those who wait are woken");
    assert_eq!(house.names(10), [1, 2]);
    let content = Content { body: "late".into(), ..Content::default() }.encode();
    let (refused, _) = house.decide(|engine, ctx, queue| {
        let incoming = Incoming {
            id: MessageId::from_random([7; 16]),
            record: content.clone(),
            body: "",
            delay_s: 0,
            group_id: None,
            deduplication: None,
            per_group: false,
            admitted: None,
        };
        engine.send(ctx, queue, incoming)
    });
    assert!(matches!(refused, Err(QueueError::Draining(_))));
}

#[test]
fn a_fifo_queue_at_its_limit_in_flight_gives_nothing_until_one_leaves() {
    let mut house = House::new(Settings { fifo: Some(Default::default()), ..Settings::default() });
    let groups = FIFO_IN_FLIGHT_MAX as u64 + 1;
    (0..groups).for_each(|name| house.send(name, None, Some(&name.to_string())));
    let queue = house.queue.id;
    let mut taken = Vec::new();
    while house.engine.offers(queue) > 0 {
        taken.extend(house.receive(None, 10).0);
    }
    assert_eq!(taken.len(), FIFO_IN_FLIGHT_MAX);
    assert!(house.receive(None, 10).0.is_empty());
    let receipt = taken[0].receipt;
    let (deleted, group) = house.decide(|engine, ctx, queue| engine.delete(ctx, queue, &receipt));
    assert_eq!(deleted.unwrap(), Deletion::Done);
    assert!(!group.ready.is_empty(), "those who wait are woken");
    assert_eq!((house.engine.offers(queue), house.receive(None, 10).0.len()), (1, 1));
}
