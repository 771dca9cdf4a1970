//! The shares as they are used: a line of jobs, some places to run them, virtual time.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::queue::Class;

const QUEUE: &str = "jobs";

#[derive(Clone, Debug)]
struct Job {
    id: String,
    owner: Owner,
    lasts_ms: u64,
    since_ms: u64,
}

/// What a queue does: of those that may, the smallest rank, then who came first.
struct Queue {
    shares: Shares,
    now_ms: u64,
    waiting: Vec<Job>,
    /// By the end of the attempt.
    running: BTreeSet<(u64, String)>,
    jobs: BTreeMap<String, Job>,
    places: usize,
    served_ms: BTreeMap<String, u64>,
    order: Vec<String>,
}

impl Queue {
    fn new(limits: &[&str], places: usize) -> Self {
        let lines: Vec<_> = limits.iter().map(|line| (*line).to_owned()).collect();
        Self {
            shares: Shares::new(Limits::configured(&lines).unwrap()),
            now_ms: 1_000_000,
            waiting: Vec::new(),
            running: BTreeSet::new(),
            jobs: BTreeMap::new(),
            places,
            served_ms: BTreeMap::new(),
            order: Vec::new(),
        }
    }

    fn stand(job: &Job) -> Stand {
        Stand::InLine(Place { queue: QUEUE.into(), priority: 5, class: Class(1), since_ms: job.since_ms })
    }

    fn send(&mut self, project: &str, user: &str, kind: &str, key: Option<&str>, lasts_ms: u64) {
        let owner =
            Owner { project: project.into(), user: user.into(), kind: kind.into(), rate_key: key.map(str::to_owned) };
        let id = format!("{}", self.jobs.len());
        let job = Job { id: id.clone(), owner: owner.clone(), lasts_ms, since_ms: self.now_ms };
        self.shares.moved(self.now_ms, &id, &owner, QUEUE, (&Stand::Aside, &Self::stand(&job)), true);
        self.jobs.insert(id, job.clone());
        self.waiting.push(job);
    }

    /// Fills the free places. Returns when the next of those that are held back by a rate may begin.
    fn fill(&mut self) -> Option<u64> {
        loop {
            let mut later = None;
            let mut best: Option<(u64, usize)> = None;
            for at in 0..self.waiting.len() {
                let owner = self.waiting[at].owner.clone();
                let tenant = self.shares.tenant(&owner);
                match self.shares.turn(self.now_ms, QUEUE, tenant) {
                    Turn::May { rank } if best.is_none_or(|(least, _)| rank < least) => best = Some((rank, at)),
                    Turn::May { .. } | Turn::AtLimit => {}
                    Turn::NotBefore { mono_ms } => {
                        later = Some(later.map_or(mono_ms, |known: u64| known.min(mono_ms)));
                    }
                }
            }
            let Some((_, at)) = best.filter(|_| self.running.len() < self.places) else { return later };
            let job = self.waiting.remove(at);
            let running = Stand::Running { attempt: 1, agent: None };
            self.shares.moved(self.now_ms, &job.id, &job.owner, QUEUE, (&Self::stand(&job), &running), true);
            self.running.insert((self.now_ms + job.lasts_ms, job.id.clone()));
            *self.served_ms.entry(job.owner.project.clone()).or_default() += job.lasts_ms;
            self.order.push(job.owner.project.clone());
        }
    }

    /// Goes on to the next moment at which something happens. False: nothing will.
    fn step(&mut self) -> bool {
        let later = self.fill();
        let ends = self.running.first().map(|(at, _)| *at);
        let Some(next) = [later, ends].into_iter().flatten().min() else { return false };
        self.now_ms = self.now_ms.max(next);
        while let Some((_, id)) = self.running.first().filter(|(at, _)| *at <= self.now_ms).cloned() {
            self.running.pop_first();
            let job = self.jobs[&id].clone();
            let running = Stand::Running { attempt: 1, agent: None };
            self.shares.moved(self.now_ms, &id, &job.owner, QUEUE, (&running, &Stand::Aside), true);
        }
        true
    }

    fn running_of(&self, pick: impl Fn(&Owner) -> bool) -> usize {
        self.running.iter().filter(|(_, id)| pick(&self.jobs[id].owner)).count()
    }
}

#[test]
fn one_place_is_shared_out_by_the_shares() {
    let mut queue = Queue::new(&["project film share=3"], 1);
    for _ in 0..40 {
        queue.send("film", "u", "x", None, 10_000);
        queue.send("advert", "u", "x", None, 10_000);
    }
    while queue.order.len() < 40 && queue.step() {}
    let film = queue.order.iter().filter(|project| *project == "film").count();
    assert!((29..=31).contains(&film), "{film} of 40: {:?}", queue.order);
}

#[test]
fn long_attempts_count_for_what_they_take() {
    let mut queue = Queue::new(&[], 4);
    for _ in 0..200 {
        queue.send("long", "u", "render", None, 100_000);
        for _ in 0..10 {
            queue.send("short", "u", "upscale", None, 10_000);
        }
    }
    while queue.order.len() < 600 && queue.step() {}
    let (long, short) = (queue.served_ms["long"], queue.served_ms["short"]);
    assert!(long.abs_diff(short) <= 8 * 100_000, "{long} ms and {short} ms");
}

#[test]
fn who_comes_back_after_a_rest_begins_where_the_others_are() {
    let mut queue = Queue::new(&[], 1);
    for _ in 0..100 {
        queue.send("busy", "u", "x", None, 10_000);
    }
    while queue.order.len() < 50 && queue.step() {}
    for _ in 0..100 {
        queue.send("late", "u", "x", None, 10_000);
    }
    let before = queue.order.len();
    while queue.order.len() < before + 20 && queue.step() {}
    let late = queue.order[before..].iter().filter(|project| *project == "late").count();
    assert!((9..=11).contains(&late), "{late} of 20");
}

#[test]
fn a_limit_that_is_lowered_takes_nothing_away_and_running_jobs_count_after_a_restart() {
    let mut queue = Queue::new(&["project p running=2"], 10);
    for _ in 0..5 {
        queue.send("p", "u", "x", None, 10_000);
    }
    queue.fill();
    assert_eq!(queue.running.len(), 2);
    // The process begins again: those that run are found running, the others in line.
    let mut again = Queue::new(&["project p running=2"], 10);
    for job in queue.jobs.values() {
        let runs = queue.running.iter().any(|(_, id)| *id == job.id);
        let stand = if runs { Stand::Running { attempt: 1, agent: None } } else { Queue::stand(job) };
        again.shares.moved(0, &job.id, &job.owner, QUEUE, (&Stand::Aside, &stand), false);
    }
    let owner = queue.jobs["0"].owner.clone();
    let tenant = again.shares.tenant(&owner);
    assert_eq!(again.shares.turn(0, QUEUE, tenant), Turn::AtLimit);
    let hold = Hold::Limit { scope: Scope::Project, name: "p".into(), running: 2, most: 2 };
    assert_eq!(again.shares.holds(0, QUEUE, &owner), [hold]);
    again.shares.limits_mut().set(
        Scope::Project,
        "p",
        Some(crate::jobs::limits::Setting { running_max: Some(3), ..Default::default() }),
    );
    assert!(matches!(again.shares.turn(0, QUEUE, tenant), Turn::May { .. }));
    assert_eq!(again.shares.usage(Scope::Project, "p"), (2, Some(3)));
}

#[test]
fn tenants_are_bounded_and_the_rest_are_those_of_their_project_and_type() {
    let mut shares = Shares::default();
    let owner = |n: usize| Owner { project: "p".into(), user: format!("u{n}"), kind: "x".into(), rate_key: None };
    for n in 0..TENANTS_MAX - TENANTS_FOLDED {
        shares.tenant(&owner(n));
    }
    assert_eq!(shares.folded(), 0);
    let (first, second) = (shares.tenant(&owner(900_001)), shares.tenant(&owner(900_002)));
    assert_eq!(first, second);
    assert!(first != Tenant(0) && shares.folded() == 2);
    for n in 0..TENANTS_FOLDED + 10 {
        shares.tenant(&Owner { project: format!("q{n}"), ..owner(0) });
    }
    assert_eq!(shares.owners.len(), TENANTS_MAX);
    assert_eq!(shares.tenant(&Owner { project: "one more".into(), ..owner(0) }), Tenant(0));
}

#[derive(Clone, Debug)]
struct Sent {
    project: usize,
    user: usize,
    kind: usize,
    key: Option<usize>,
    lasts_ms: u64,
    wait_ms: u64,
}

fn sent() -> impl Strategy<Value = Sent> {
    (0..4_usize, 0..3_usize, 0..3_usize, prop::option::of(0..2_usize), 1_u64..30_000, 0_u64..5_000)
        .prop_map(|(project, user, kind, key, lasts_ms, wait_ms)| Sent { project, user, kind, key, lasts_ms, wait_ms })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn limits_hold_rates_hold_and_everything_is_reached(
        jobs in prop::collection::vec(sent(), 1..120), places in 1_usize..8,
        project in 1_usize..4, user in 1_usize..4, kind in 1_usize..4
    ) {
        let lines = [
            format!("project * running={project}"),
            format!("user u0 running={user}"),
            format!("type k0 running={kind}"),
            "queue jobs rate=2 burst=3".to_owned(),
            "key * rate=0.5 burst=2".to_owned(),
            "project p1 share=5".to_owned(),
        ];
        let mut queue = Queue::new(&lines.iter().map(String::as_str).collect::<Vec<_>>(), places);
        let (mut begun, mut to_send) = (Vec::new(), jobs.into_iter());
        let mut steps = 0;
        loop {
            let more = to_send.next();
            if let Some(job) = &more {
                queue.now_ms += job.wait_ms;
                // What has ended meanwhile has ended before.
                let at = queue.now_ms;
                while queue.running.first().is_some_and(|(ends, _)| *ends <= at) {
                    queue.now_ms = queue.running.first().map_or(at, |(ends, _)| *ends);
                    let before = queue.order.len();
                    queue.step();
                    begun.extend(std::iter::repeat_n(queue.now_ms, queue.order.len() - before));
                }
                queue.now_ms = queue.now_ms.max(at);
                queue.send(
                    &format!("p{}", job.project), &format!("u{}", job.user), &format!("k{}", job.kind),
                    job.key.map(|key| format!("key{key}")).as_deref(), job.lasts_ms,
                );
            }
            let before = queue.order.len();
            queue.fill();
            begun.extend(std::iter::repeat_n(queue.now_ms, queue.order.len() - before));
            // That of p1 says nothing of `running` and leaves that of everybody in force.
            for name in ["p0", "p1", "p2", "p3"] {
                prop_assert!(queue.running_of(|owner| owner.project == name) <= project);
            }
            prop_assert!(queue.running_of(|owner| owner.user == "u0") <= user);
            prop_assert!(queue.running_of(|owner| owner.kind == "k0") <= kind);
            if more.is_none() {
                let before = queue.order.len();
                let at = queue.now_ms;
                if !queue.step() {
                    break;
                }
                begun.extend(std::iter::repeat_n(at, queue.order.len() - before));
            }
            steps += 1;
            prop_assert!(steps < 100_000, "it goes on for ever");
        }
        prop_assert!(queue.waiting.is_empty(), "{} jobs were never reached", queue.waiting.len());
        for first in 0..begun.len() {
            for last in first..begun.len() {
                let span_ms = begun[last] - begun[first];
                prop_assert!((last - first + 1) as u64 * 1_000 <= 3_000 + span_ms * 2, "more than the queue's rate");
            }
        }
    }

    #[test]
    fn while_all_have_work_each_gets_its_share(
        shares in prop::collection::vec(1_u32..8, 2..5), places in 1_usize..6, lasts_ms in 1_000_u64..60_000
    ) {
        let lines: Vec<_> = shares.iter().enumerate().map(|(n, share)| format!("project p{n} share={share}")).collect();
        let mut queue = Queue::new(&lines.iter().map(String::as_str).collect::<Vec<_>>(), places);
        let total: u32 = shares.iter().sum();
        for n in 0..shares.len() {
            for _ in 0..200 {
                queue.send(&format!("p{n}"), "u", "x", None, lasts_ms);
            }
        }
        let served = 20 * total as usize;
        let served = served.min(200 * total as usize / shares.iter().copied().max().unwrap_or(1) as usize - places);
        while queue.order.len() < served && queue.step() {}
        queue.order.truncate(served);
        for (n, share) in shares.iter().enumerate() {
            let got = queue.order.iter().filter(|project| **project == format!("p{n}")).count() as f64;
            let fair = served as f64 * f64::from(*share) / f64::from(total);
            // The first attempts are reckoned by a guess; after that it is one turn and what runs at once.
            prop_assert!((got - fair).abs() <= 2.0 * places as f64 + f64::from(*share) + 4.0, "p{n}: {got} of {fair}, {shares:?}");
        }
    }
}
