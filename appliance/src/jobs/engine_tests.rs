//! The jobs' state machine against a tiny queue, in virtual time.
//!
//! The queue here does what the real one promises: one change at a time, the overseer's answer done at once, receipts
//! that grow stale. After each step the invariants are checked, and that what was journalled gives the same jobs.

use std::collections::HashMap;

use backlot_wire::{
    After, AttemptEvent, CauseRetry, EventKind, FailureClass, JobSpec, JobStatus, On, Outcome, Output, Retry,
    Timestamp, cause,
};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, json};

use super::herald::Herald;
use super::model::{ATTEMPTS_KEPT_MAX, PARTIAL_OUTPUTS_MAX, Tracked, attempt_id};
use super::record::{self, Entry};
use super::report::{Reported, Weight};
use super::table::Table;
use crate::clock::Now;
use crate::queue::{Action, CHANGE_RECORDS_BYTES_MAX};

const LEASE_MS: u64 = 30_000;
const RECEIVES_MAX: u32 = 10;
const OOM_MAX: u32 = 2;
const EPOCH_MS: u64 = 1_763_812_800_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Ready { from_ms: u64 },
    InFlight { until_ms: u64 },
    Dead,
    Gone,
}

struct Message {
    id: String,
    place: Place,
    receives: u32,
    job: usize,
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        delay_s: u32,
        failures: u32,
        waits: bool,
    },
    /// What the job waited for is there, or will not come.
    Settle {
        job: usize,
        good: bool,
    },
    /// The appliance finds that an attempt has taken too long.
    Limit {
        job: usize,
    },
    Receive {
        job: usize,
        agent: bool,
    },
    Pass {
        ms: u64,
    },
    Delete {
        job: usize,
    },
    Release {
        job: usize,
    },
    Drop {
        job: usize,
    },
    Report {
        job: usize,
        back: usize,
        seq: u64,
        skew_ms: i64,
        kind: u8,
    },
    Cancel {
        job: usize,
    },
    Retry {
        job: usize,
    },
    WriteBehind,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let job = 0..3_usize;
    prop_oneof![
        2 => (prop_oneof![Just(0), 1..60_u32], 1..4_u32, any::<bool>())
            .prop_map(|(delay_s, failures, waits)| Step::Send { delay_s, failures, waits }),
        2 => (job.clone(), any::<bool>()).prop_map(|(job, good)| Step::Settle { job, good }),
        1 => job.clone().prop_map(|job| Step::Limit { job }),
        6 => (job.clone(), any::<bool>()).prop_map(|(job, agent)| Step::Receive { job, agent }),
        3 => (1..40_000_u64).prop_map(|ms| Step::Pass { ms }),
        2 => job.clone().prop_map(|job| Step::Delete { job }),
        1 => job.clone().prop_map(|job| Step::Release { job }),
        1 => job.clone().prop_map(|job| Step::Drop { job }),
        9 => (job.clone(), 0..3_usize, 1..9_u64, -60_000..60_000_i64, 0..11_u8)
            .prop_map(|(job, back, seq, skew_ms, kind)| Step::Report { job, back, seq, skew_ms, kind }),
        2 => job.clone().prop_map(|job| Step::Cancel { job }),
        2 => job.prop_map(|job| Step::Retry { job }),
        1 => Just(Step::WriteBehind),
        1 => Just(Step::Restart),
    ]
}

struct World {
    now_ms: u64,
    table: Table,
    /// What the journal gives back.
    replica: HashMap<String, Tracked>,
    messages: Vec<Message>,
    sends: usize,
    /// Failures of each job since it was queued last, counted here.
    failures: HashMap<String, u32>,
    /// How a job ended, until it is queued again.
    ended: HashMap<String, (JobStatus, Option<Timestamp>)>,
}

fn job_id(job: usize) -> String {
    format!("job-{job}")
}

impl World {
    fn new() -> Self {
        Self {
            now_ms: 1_000,
            table: Table::new(ChaCha8Rng::seed_from_u64(7), Herald::new()),
            replica: HashMap::new(),
            messages: Vec::new(),
            sends: 0,
            failures: HashMap::new(),
            ended: HashMap::new(),
        }
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: EPOCH_MS + self.now_ms }
    }

    fn journal(&mut self, entry: Option<Entry>, bytes_max: usize) {
        let Some(entry) = entry else { return };
        let record = entry.encode();
        assert!(record.payload.len() <= bytes_max, "a record of {} bytes", record.payload.len());
        match Entry::decode(&record.payload).unwrap() {
            Entry::Whole { spec, head, attempts, outputs, error } => {
                let id = head.id.clone();
                self.replica.insert(id, record::tracked(*spec, *head, attempts, outputs, error));
            }
            Entry::Patch(patch) => {
                let known = self.replica.get_mut(&patch.head.id).unwrap();
                let again = patch.clone();
                patch.apply(known);
                let once = known.clone();
                again.apply(known);
                assert_eq!(*known, once, "twice is once");
            }
            Entry::Flow(_) | Entry::Schedule(_) => unreachable!("only jobs change here"),
        }
    }

    /// A change that the queue tells of.
    fn observe(&mut self, job: usize, change: impl FnOnce(&mut Tracked, Now) -> Option<Action>) {
        let now = self.now();
        let changed = self.table.change(&job_id(job), |tracked, _| change(tracked, now)).unwrap();
        self.journal(changed.entry, CHANGE_RECORDS_BYTES_MAX);
        if let Some(action) = changed.answer {
            self.act(job, action);
        }
    }

    fn message(&mut self, job: usize) -> Option<&mut Message> {
        self.messages.iter_mut().rfind(|message| message.job == job)
    }

    fn act(&mut self, job: usize, action: Action) {
        let now_ms = self.now_ms;
        let message = self.message(job).unwrap();
        if matches!(message.place, Place::Gone | Place::Dead) {
            return;
        }
        message.place = match action {
            Action::Delete => Place::Gone,
            Action::DeadLetter => Place::Dead,
            Action::Release { delay_s } => Place::Ready { from_ms: now_ms + u64::from(delay_s) * 1_000 },
            Action::Return => Place::Ready { from_ms: now_ms },
        };
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        for job in 0..3 {
            let now_ms = self.now_ms;
            let Some(message) = self.message(job) else { continue };
            if matches!(message.place, Place::InFlight { until_ms } if until_ms <= now_ms) {
                message.place = Place::Ready { from_ms: now_ms };
                let counted = self.live_is_plain(job);
                self.observe(job, |tracked, now| tracked.timed_out(now));
                if counted {
                    *self.failures.entry(job_id(job)).or_default() += 1;
                }
            }
        }
        let now = self.now();
        self.table.queue_due(now);
    }

    fn live_is_plain(&self, job: usize) -> bool {
        self.table.get(&job_id(job)).and_then(Tracked::live).is_some_and(|attempt| attempt.agent.is_none())
    }

    fn send(&mut self, delay_s: u32, failures: u32, waits: bool) {
        let job = self.sends;
        if job >= 3 {
            return;
        }
        self.sends += 1;
        let mut spec = JobSpec::new("x");
        let twice_the_memory = CauseRetry { failures: Some(OOM_MAX), vram_factor: Some(2.0), ..CauseRetry::default() };
        let causes = [(cause::OUT_OF_MEMORY.to_owned(), twice_the_memory)].into();
        spec.retry = Retry { failures, backoff_s: 4, causes };
        spec.requirements.vram_gb = Some(8.0);
        spec.limits.hard_s = Some(20);
        if waits {
            spec.after.push(After { job: "scene".into(), on: On::Success });
        }
        let (now, message_id) = (self.now(), format!("m{}", self.messages.len()));
        let entry = self.table.add(Tracked::sent(now, "jobs", &message_id, job_id(job), spec, delay_s));
        self.journal(Some(entry), CHANGE_RECORDS_BYTES_MAX);
        let from_ms = if waits { u64::MAX } else { self.now_ms + u64::from(delay_s) * 1_000 };
        self.messages.push(Message { id: message_id, place: Place::Ready { from_ms }, receives: 0, job });
    }

    fn receive(&mut self, job: usize, agent: bool) {
        let now_ms = self.now_ms;
        let Some(message) = self.message(job) else { return };
        if !matches!(message.place, Place::Ready { from_ms } if from_ms <= now_ms) {
            return;
        }
        if message.receives >= RECEIVES_MAX {
            message.place = Place::Dead;
            return self.observe(job, |tracked, now| {
                tracked.dead_lettered(now, "jobs-dlq");
                None
            });
        }
        message.receives += 1;
        message.place = Place::InFlight { until_ms: now_ms + LEASE_MS };
        self.observe(job, |tracked, now| {
            tracked.received(now, agent.then_some("a1"));
            None
        });
    }

    fn report(&mut self, job: usize, back: usize, seq: u64, skew_ms: i64, kind: u8) {
        let Some(tracked) = self.table.get(&job_id(job)) else { return };
        let Some(number) = tracked.attempts.iter().rev().nth(back).map(|attempt| attempt.number) else { return };
        let at = Timestamp(self.now().wall_ms.saturating_add_signed(skew_ms));
        let uri = format!("s3://studio/{job}/{number}");
        let kind = match kind {
            0 => EventKind::Phase { phase: "fetch".into() },
            1 => EventKind::Phase { phase: "infer".into() },
            2 => EventKind::Percent { percent: seq as f32 * 10.0 },
            3 => EventKind::Usage { gpu_s: seq as f64, cost_usd: f64::NAN },
            4 => EventKind::Result { outputs: vec![Output { uri, ..Output::default() }] },
            5 => EventKind::Failure {
                class: FailureClass::Transient,
                message: "network".into(),
                details: Map::from_iter([("code".to_owned(), json!(7))]),
            },
            6 => EventKind::Failure { class: FailureClass::Permanent, message: "no clip".into(), details: Map::new() },
            7 => EventKind::GivenBack { reason: "drain".into() },
            8 => EventKind::Partial { outputs: vec![Output { uri: format!("{uri}-part-{seq}"), ..Output::default() }] },
            9 => EventKind::Failure {
                class: FailureClass::Transient,
                message: "CUDA out of memory".into(),
                details: Map::from_iter([(cause::KEY.to_owned(), json!(cause::OUT_OF_MEMORY))]),
            },
            _ => EventKind::Cancelled,
        };
        let failure = matches!(kind, EventKind::Failure { .. });
        let events = [AttemptEvent { seq, at, kind }];
        let now = self.now();
        let before = tracked.clone();
        let counts = failure && before.live().is_some_and(|live| live.number == number && seq > live.last_seq);
        // As the desk does: look at what it comes to, and only then have it decided.
        let mut probe = before.clone();
        let probed = probe.report(now, number, &events, &mut self.table.chance).unwrap();
        let reported: Reported = if probed.weight <= Weight::Light {
            self.table.change_lightly(probe);
            probed
        } else {
            let changed =
                self.table.change(&job_id(job), |t, chance| t.report(now, number, &events, chance).unwrap()).unwrap();
            self.journal(changed.entry, 64 * 1024);
            changed.answer
        };
        if counts {
            *self.failures.entry(job_id(job)).or_default() += 1;
        }
        let after = self.table.get(&job_id(job)).unwrap();
        let attempt = after.attempts.iter().find(|attempt| attempt.number == number).unwrap();
        assert!(reported.accepted_seq >= seq);
        assert!(reported.directive.superseded || back == 0, "an older attempt is told so");
        if attempt.outcome.is_none() {
            assert_eq!(reported.directive.cancel, after.head.cancel_requested);
        }
        // A second time it changes nothing.
        let mut again = after.clone();
        let repeated = again.report(now, number, &events, &mut ChaCha8Rng::seed_from_u64(1)).unwrap();
        assert_eq!((&again, repeated.weight, repeated.action), (after, Weight::Nothing, None));
        if let Some(action) = reported.action {
            self.act(job, action);
        }
    }

    fn retry(&mut self, job: usize) {
        let id = job_id(job);
        let Some(tracked) = self.table.get(&id) else { return };
        if !matches!(tracked.head.status, JobStatus::Failed | JobStatus::Cancelled) {
            return;
        }
        let (now, now_ms, count) = (self.now(), self.now_ms, self.messages.len());
        let message = self.message(job).unwrap();
        let message_id = if message.place == Place::Dead {
            message.place = Place::Ready { from_ms: now_ms };
            message.receives = 0;
            message.id.clone()
        } else {
            let id = format!("m{count}");
            let held = self.table.get(&job_id(job)).is_some_and(Tracked::must_wait);
            let from_ms = if held { u64::MAX } else { now_ms };
            self.messages.push(Message { id: id.clone(), place: Place::Ready { from_ms }, receives: 0, job });
            id
        };
        let changed = self.table.change(&id, |tracked, _| tracked.sent_again(now, &message_id, 0)).unwrap();
        self.journal(changed.entry, CHANGE_RECORDS_BYTES_MAX);
        self.failures.remove(&id);
        self.ended.remove(&id);
    }

    fn settle(&mut self, job: usize, good: bool) {
        let waits = self.table.get(&job_id(job)).is_some_and(|tracked| tracked.head.status == JobStatus::Waiting);
        if !waits {
            return;
        }
        let now = self.now();
        let changed = self
            .table
            .change(&job_id(job), |tracked, _| {
                if good { tracked.let_go(now) } else { tracked.lost_hope(now, JobStatus::Failed, "no scene") }
            })
            .unwrap();
        self.journal(changed.entry, 64 * 1024);
        self.act(job, changed.answer);
    }

    fn limit(&mut self, job: usize) {
        let Some(number) = self.table.get(&job_id(job)).and_then(Tracked::live).map(|live| live.number) else { return };
        let (now, plain) = (self.now(), self.live_is_plain(job));
        let changed =
            self.table.change(&job_id(job), |tracked, chance| tracked.over_limit(now, number, chance)).unwrap();
        assert_eq!(changed.answer.is_some(), plain, "an agent ends its attempts itself");
        self.journal(changed.entry, 64 * 1024);
        if let Some(action) = changed.answer {
            *self.failures.entry(job_id(job)).or_default() += 1;
            self.act(job, action);
        }
    }

    fn write_behind(&mut self) {
        for id in self.table.behind(10) {
            let changed = self.table.change(&id, |_, _| ()).unwrap();
            self.journal(changed.entry, 64 * 1024);
        }
        assert!(self.table.behind(10).is_empty());
    }

    fn restart(&mut self) {
        let mut table = Table::new(ChaCha8Rng::seed_from_u64(8), Herald::new());
        for tracked in self.replica.values() {
            table.load(tracked.clone());
        }
        let now = self.now();
        table.queue_due(now);
        self.table = table;
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Send { delay_s, failures, waits } => self.send(delay_s, failures, waits),
            Step::Settle { job, good } => self.settle(job, good),
            Step::Limit { job } => self.limit(job),
            Step::Receive { job, agent } => self.receive(job, agent),
            Step::Pass { ms } => self.pass(ms),
            Step::Delete { job } => {
                let Some(message) = self.message(job) else { return };
                let held =
                    message.receives > 0 && matches!(message.place, Place::InFlight { .. } | Place::Ready { .. });
                if held && !self.table.get(&job_id(job)).unwrap().attempts.is_empty() {
                    self.message(job).unwrap().place = Place::Gone;
                    self.observe(job, |tracked, now| {
                        tracked.deleted(now);
                        None
                    });
                }
            }
            Step::Release { job } => {
                let now_ms = self.now_ms;
                let Some(message) = self.message(job) else { return };
                if matches!(message.place, Place::InFlight { .. }) {
                    message.place = Place::Ready { from_ms: now_ms };
                    self.observe(job, Tracked::released);
                }
            }
            Step::Drop { job } => {
                let Some(message) = self.message(job) else { return };
                if matches!(message.place, Place::InFlight { .. } | Place::Ready { .. }) {
                    message.place = Place::Gone;
                    self.observe(job, |tracked, now| {
                        tracked.dropped(now, "its retention has ended");
                        None
                    });
                }
            }
            Step::Report { job, back, seq, skew_ms, kind } => self.report(job, back, seq, skew_ms, kind),
            Step::Cancel { job } => {
                let Some(tracked) = self.table.get(&job_id(job)) else { return };
                let (was_final, was_live) = (tracked.is_final(), tracked.live().is_some());
                let now = self.now();
                let changed = self.table.change(&job_id(job), |tracked, _| tracked.cancel(now)).unwrap();
                self.journal(changed.entry, 64 * 1024);
                assert_eq!(changed.answer.is_err(), was_final);
                if let Ok(action) = changed.answer {
                    assert_eq!(action, (!was_live).then_some(Action::Delete));
                    if let Some(action) = action {
                        self.act(job, action);
                    }
                }
            }
            Step::Retry { job } => self.retry(job),
            Step::WriteBehind => self.write_behind(),
            Step::Restart => self.restart(),
        }
    }

    fn check(&mut self) {
        let now = self.now().timestamp();
        let mut unfinished = 0;
        for job in 0..self.sends {
            let id = job_id(job);
            let tracked = self.table.get(&id).unwrap().clone();
            let status = tracked.head.status;
            unfinished += usize::from(!status.is_final());

            // The message is on the queue exactly while the job has not ended.
            let place = self.message(job).unwrap().place;
            let on_queue = matches!(place, Place::Ready { .. } | Place::InFlight { .. });
            assert_eq!(on_queue, !status.is_final(), "{id} is {status:?}, its message {place:?}");
            let message_id = self.message(job).unwrap().id.clone();
            assert_eq!(self.table.of_message(&message_id).map(|t| &t.head.id), Some(&id));

            // Attempts.
            assert_eq!(status == JobStatus::Running, tracked.live().is_some());
            assert_eq!(status == JobStatus::Running, matches!(place, Place::InFlight { .. }));
            assert!(tracked.attempts.len() <= ATTEMPTS_KEPT_MAX);
            let newest = tracked.newest().map_or(0, |attempt| attempt.number);
            for (index, attempt) in tracked.attempts.iter().enumerate() {
                assert_eq!(attempt.id, attempt_id(&id, attempt.number));
                assert!(index == 0 || tracked.attempts[index - 1].number < attempt.number);
                assert!(attempt.number == newest || attempt.outcome.is_some());
                assert_eq!(attempt.outcome.is_some(), attempt.ended_at.is_some());
                assert_eq!(attempt.phases[0].name, "queued");
                let mut from = attempt.phases[0].started_at;
                for (at, phase) in attempt.phases.iter().enumerate() {
                    assert!(from <= phase.started_at && phase.started_at <= now, "{:?}", attempt.phases);
                    assert!(phase.ended_at.is_some() || (at + 1 == attempt.phases.len() && attempt.outcome.is_none()));
                    from = phase.ended_at.unwrap_or(phase.started_at);
                    assert!(phase.started_at <= from);
                }
                for output in &attempt.superseded_outputs {
                    assert_eq!(output.uri, format!("s3://studio/{job}/{}", attempt.number));
                }
            }

            // Failures, and only they, are counted.
            assert_eq!(tracked.head.failures, self.failures.get(&id).copied().unwrap_or(0));
            let apart = tracked.head.causes.get(cause::OUT_OF_MEMORY).copied().unwrap_or(0);
            let used_up = tracked.head.failures - apart >= tracked.spec.retry.failures || apart >= OOM_MAX;
            assert!(!used_up || status.is_final(), "{id} goes on after its last failure");
            let vram_gb = tracked.spec.requirements.vram_gb.unwrap();
            assert!(vram_gb >= 8.0 && (vram_gb / 8.0).log2().fract() == 0.0, "{vram_gb}");
            assert!(apart == 0 || status.is_final() || vram_gb > 8.0, "the next attempt requires more");
            assert_eq!(tracked.head.amended.is_some(), vram_gb > 8.0);

            // A job that waits for others is held, and no other is for ever.
            let held = matches!(place, Place::Ready { from_ms: u64::MAX });
            assert_eq!(status == JobStatus::Waiting, held, "{id} is {status:?}, its message {place:?}");
            assert!(tracked.partial.len() <= PARTIAL_OUTPUTS_MAX);
            assert!(tracked.partial.is_empty() || !tracked.attempts.is_empty());

            // A result is the newest attempt's.
            for output in &tracked.outputs {
                assert_eq!(
                    (status, output.uri.as_str()),
                    (JobStatus::Succeeded, &*format!("s3://studio/{job}/{newest}"))
                );
            }
            if status == JobStatus::Succeeded {
                assert_eq!(tracked.newest().unwrap().outcome, Some(Outcome::Succeeded));
            }
            assert_eq!(tracked.error.is_some(), status == JobStatus::Failed || tracked.error.is_some());
            assert!(status != JobStatus::Failed || tracked.error.is_some(), "a failed job says why");

            // What has ended stays as it is.
            if status.is_final() {
                let end = (status, tracked.head.ended_at);
                assert_eq!(*self.ended.entry(id.clone()).or_insert(end), end);
            }

            // The journal knows all that matters.
            let known = &self.replica[&id];
            let due = |status| if status == JobStatus::Scheduled { JobStatus::Queued } else { status };
            assert_eq!(due(known.head.status), due(status));
            assert_eq!(
                (&known.outputs, &known.error, known.head.failures),
                (&tracked.outputs, &tracked.error, tracked.head.failures)
            );
            assert_eq!(known.head.cancel_requested, tracked.head.cancel_requested);
            let gist =
                |t: &Tracked| t.attempts.iter().map(|a| (a.number, a.outcome, a.phases.clone())).collect::<Vec<_>>();
            assert_eq!(gist(known), gist(&tracked));
            if !self.table.behind(10).contains(&id) && known.head.status == status {
                assert_eq!(*known, tracked);
            }
        }
        assert_eq!(self.table.unfinished(), unfinished);
        assert_eq!(self.table.counts().map(|(_, _, count)| count).sum::<usize>(), unfinished);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_a_job_and_its_message_agree(steps in proptest::collection::vec(step(), 1..80)) {
        let mut world = World::new();
        world.step(Step::Send { delay_s: 0, failures: 3, waits: false });
        for step in steps {
            world.step(step);
            world.check();
        }
    }
}
