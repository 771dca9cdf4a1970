//! The jobs' state machine, story by story.

use backlot_wire::{AttemptEvent, EventKind, FailureClass, JobSpec, JobStatus, Outcome, Output, Timestamp};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Map;

use super::engine::backoff_s;
use super::herald::Herald;
use super::model::{ATTEMPTS_KEPT_MAX, Tracked};
use super::report::Reported;
use super::table::Table;
use crate::clock::Now;
use crate::queue::{Action, CHANGE_RECORDS_BYTES_MAX};

const EPOCH_MS: u64 = 1_763_812_800_000;

fn at(s: u64) -> Now {
    Now { mono_ms: s * 1_000, wall_ms: EPOCH_MS + s * 1_000 }
}

fn running(agent: Option<&str>) -> Tracked {
    let mut job = Tracked::sent(at(0), "jobs", "m", "j".into(), JobSpec::new("x"), 0);
    job.received(at(5), agent);
    job
}

fn event(seq: u64, s: u64, kind: EventKind) -> AttemptEvent {
    AttemptEvent { seq, at: at(s).timestamp(), kind }
}

fn result(seq: u64, s: u64, uri: &str) -> AttemptEvent {
    event(seq, s, EventKind::Result { outputs: vec![Output { uri: uri.into(), ..Output::default() }] })
}

fn report(job: &mut Tracked, s: u64, number: u32, events: &[AttemptEvent]) -> Reported {
    job.report(at(s), number, events, &mut ChaCha8Rng::seed_from_u64(3)).unwrap()
}

#[test]
fn a_plain_consumer_fails_three_times_and_the_job_goes_to_the_dlq_with_its_reason() {
    let mut job = running(None);
    assert_eq!(job.timed_out(at(10)), None);
    job.received(at(11), None);
    assert_eq!(job.timed_out(at(20)), None);
    job.received(at(21), None);
    assert_eq!(job.timed_out(at(30)), Some(Action::DeadLetter));
    assert_eq!((job.head.status, job.head.failures), (JobStatus::Failed, 3));
    assert!(job.error.unwrap().message.contains("without a word"));
}

#[test]
fn an_agent_that_is_lost_does_not_count() {
    let mut job = running(Some("a"));
    for n in 0..20 {
        assert_eq!(job.timed_out(at(10 + n)), None);
        job.received(at(10 + n), Some("a"));
    }
    assert_eq!((job.head.status, job.head.failures, job.attempts.len()), (JobStatus::Running, 0, 21));
}

#[test]
fn a_late_result_of_an_older_attempt_is_kept_and_changes_nothing() {
    let mut job = running(Some("a"));
    assert_eq!(job.timed_out(at(100)), None);
    job.received(at(101), Some("b"));
    let late = report(&mut job, 102, 1, &[result(1, 102, "s3://studio/late")]);
    assert!(late.directive.superseded && late.action.is_none());
    assert_eq!(job.attempts[0].superseded_outputs[0].uri, "s3://studio/late");
    assert_eq!((job.head.status, job.outputs.len()), (JobStatus::Running, 0));
    let now = report(&mut job, 110, 2, &[result(1, 110, "s3://studio/right")]);
    assert_eq!((now.action, now.directive.superseded), (Some(Action::Delete), false));
    assert_eq!((job.head.status, job.outputs[0].uri.as_str()), (JobStatus::Succeeded, "s3://studio/right"));
    let later = report(&mut job, 111, 1, &[result(2, 111, "s3://studio/later")]);
    assert!(later.directive.superseded);
    assert_eq!(job.outputs[0].uri, "s3://studio/right");
}

#[test]
fn a_lost_attempt_that_comes_back_before_anybody_else_began_still_counts() {
    let mut job = running(Some("a"));
    assert_eq!(job.timed_out(at(100)), None);
    let heartbeat = report(&mut job, 101, 1, &[]);
    assert!(!heartbeat.directive.superseded, "nobody has taken over");
    let done = report(&mut job, 102, 1, &[result(1, 102, "s3://studio/x")]);
    assert_eq!((done.action, job.head.status), (Some(Action::Delete), JobStatus::Succeeded));
}

#[test]
fn a_consumer_that_deletes_first_may_name_its_outputs_afterwards() {
    let mut job = running(None);
    job.deleted(at(9));
    assert_eq!((job.head.status, job.outputs.len()), (JobStatus::Succeeded, 0));
    report(&mut job, 10, 1, &[result(1, 10, "s3://studio/x")]);
    report(&mut job, 11, 1, &[result(2, 11, "s3://studio/y")]);
    assert_eq!(job.outputs[0].uri, "s3://studio/x");
}

#[test]
fn a_transient_failure_rests_longer_each_time_and_a_permanent_one_ends_the_job() {
    let transient = |seq| {
        event(seq, 6, EventKind::Failure { class: FailureClass::Transient, message: "net".into(), details: Map::new() })
    };
    let mut job = running(Some("a"));
    let Some(Action::Release { delay_s }) = report(&mut job, 6, 1, &[transient(1)]).action else { panic!() };
    assert!((5..=10).contains(&delay_s));
    assert_eq!(
        (job.head.status, job.head.runs_after),
        (JobStatus::Scheduled, Some(Timestamp(EPOCH_MS + (6 + u64::from(delay_s)) * 1_000)))
    );
    assert!(!job.due(at(6)) && job.due(at(6 + u64::from(delay_s))));
    job.received(at(20), Some("a"));
    let permanent =
        EventKind::Failure { class: FailureClass::Permanent, message: "no such model".into(), details: Map::new() };
    assert_eq!(report(&mut job, 21, 2, &[event(1, 21, permanent)]).action, Some(Action::DeadLetter));
    assert_eq!(job.head.status, JobStatus::Failed);
    let error = job.error.unwrap();
    assert!(error.permanent && error.message == "no such model");
}

#[test]
fn back_off_doubles_up_to_an_hour_with_jitter_below() {
    let mut chance = ChaCha8Rng::seed_from_u64(1);
    for (first_s, failures, low, high) in [
        (10, 1, 5, 10),
        (10, 2, 10, 20),
        (10, 4, 40, 80),
        (10, 30, 1_800, 3_600),
        (0, 5, 0, 0),
        (1, 1, 1, 1),
        (86_400, 9, 21_600, 43_200),
    ] {
        for _ in 0..50 {
            let pause = backoff_s(first_s, failures, &mut chance);
            assert!((low..=high).contains(&pause), "{first_s} {failures}: {pause}");
        }
    }
}

#[test]
fn a_cancel_reaches_a_running_job_by_its_next_heartbeat_and_ends_it_when_the_worker_says_so() {
    let mut job = running(Some("a"));
    assert_eq!(job.cancel(at(6)), Ok(None));
    assert_eq!(job.head.status, JobStatus::Running);
    assert!(report(&mut job, 7, 1, &[]).directive.cancel);
    let stopped = report(&mut job, 8, 1, &[event(1, 8, EventKind::Cancelled)]);
    assert_eq!((stopped.action, job.head.status), (Some(Action::Delete), JobStatus::Cancelled));
    assert_eq!(job.newest().unwrap().outcome, Some(Outcome::Cancelled));
    assert_eq!(job.cancel(at(9)), Err(JobStatus::Cancelled));
}

#[test]
fn a_cancelled_job_whose_worker_is_silent_ends_with_its_lease() {
    let mut job = running(Some("a"));
    assert_eq!(job.cancel(at(6)), Ok(None));
    assert_eq!(job.timed_out(at(100)), Some(Action::Delete));
    assert_eq!(job.head.status, JobStatus::Cancelled);
}

#[test]
fn a_message_of_an_ended_job_is_sent_away_again() {
    let mut job = running(None);
    job.deleted(at(6));
    job.received(at(50), None);
    assert_eq!(job.newest().unwrap().outcome, Some(Outcome::Superseded));
    assert_eq!((job.head.status, job.timed_out(at(90))), (JobStatus::Succeeded, Some(Action::Delete)));
}

#[test]
fn a_workers_clock_cannot_put_phases_out_of_order() {
    let mut job = running(Some("a"));
    let phase = |seq, s, name: &str| event(seq, s, EventKind::Phase { phase: name.into() });
    report(&mut job, 10, 1, &[phase(1, 1, "fetch"), phase(2, 900, "load"), phase(3, 2, "infer")]);
    let phases: Vec<_> = job.attempts[0].phases.iter().map(|p| (p.name.as_str(), p.started_at, p.ended_at)).collect();
    let t = |s| at(s).timestamp();
    assert_eq!(
        phases,
        [
            ("queued", t(0), Some(t(5))),
            ("fetch", t(5), Some(t(10))),
            ("load", t(10), Some(t(10))),
            ("infer", t(10), None),
        ]
    );
}

#[test]
fn poison_is_left_out_and_the_rest_is_taken() {
    let mut job = running(Some("a"));
    let events = [
        event(1, 6, EventKind::Percent { percent: f32::NAN }),
        event(2, 6, EventKind::Preview { uri: "file:///etc/passwd".into() }),
        event(3, 6, EventKind::Phase { phase: "x".repeat(5_000) }),
        event(4, 6, EventKind::Usage { gpu_s: -1.0, cost_usd: f64::INFINITY }),
        event(5, 6, EventKind::Unknown),
        event(6, 6, EventKind::Percent { percent: 250.0 }),
    ];
    assert_eq!(report(&mut job, 7, 1, &events).accepted_seq, 6);
    let attempt = job.live().unwrap();
    assert_eq!(
        (attempt.percent, attempt.preview.as_deref(), attempt.gpu_s, attempt.cost_usd),
        (Some(100.0), None, None, None)
    );
    assert_eq!(attempt.phases[1].name.len(), 32);
}

#[test]
fn attempts_and_phases_are_bounded_and_a_change_of_the_queue_stays_small() {
    let mut table = Table::new(ChaCha8Rng::seed_from_u64(1), Herald::new());
    let id = "i".repeat(128);
    table.add(Tracked::sent(at(0), "jobs", "m", id.clone(), JobSpec::new("x"), 0));
    for n in 0..200 {
        let entry = table.change(&id, |job, chance| {
            job.received(at(n), Some(&"a".repeat(128)));
            let number = job.newest().unwrap().number;
            let preview = EventKind::Preview { uri: format!("s3://studio/{}", "\"".repeat(1_024)) };
            let mut events = vec![event(1, n, preview)];
            events.extend((2..400).map(|seq| event(seq, n, EventKind::Phase { phase: "\"".repeat(90) })));
            job.report(at(n), number, &events, chance);
        });
        assert!(entry.is_some());
        let entry = table.change(&id, |job, _| job.timed_out(at(n))).unwrap().entry.unwrap();
        let bytes = entry.encode().payload.len();
        assert!(bytes <= CHANGE_RECORDS_BYTES_MAX, "{bytes} bytes");
    }
    let job = table.get(&id).unwrap();
    assert_eq!((job.attempts.len(), job.newest().unwrap().number), (ATTEMPTS_KEPT_MAX, 200));
}
