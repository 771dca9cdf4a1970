//! Jobs that are put off, repeated, bounded in time or changed, over real queues, a real journal and a real catalogue.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use backlot_wire::{
    AgentRegistration, EventKind, FailureClass, GpuInfo, JobSpec, JobStatus, Outcome, Output, Timestamp, cause,
};
use serde_json::{Map, json};

use super::tests::{House, attempt_of, failure, outputs};
use super::*;
use crate::clock::{Clock, Now, SystemClock};
use crate::queue::{AttributeValue, MessageAttribute, SendRequest};

/// The machine's clocks, put forward.
pub(in crate::jobs) struct Forward {
    system: SystemClock,
    by_ms: AtomicU64,
}

impl Forward {
    pub(in crate::jobs) fn new() -> Arc<Self> {
        Arc::new(Self { system: SystemClock::new(), by_ms: AtomicU64::new(0) })
    }

    pub(in crate::jobs) fn pass(&self, ms: u64) {
        self.by_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Forward {
    fn now(&self) -> Now {
        let (now, by_ms) = (self.system.now(), self.by_ms.load(Ordering::SeqCst));
        Now { mono_ms: now.mono_ms + by_ms, wall_ms: now.wall_ms + by_ms }
    }
}

fn spec(json: serde_json::Value) -> JobSpec {
    JobSpec::parse(&json.to_string()).unwrap()
}

async fn submit(house: &House, json: serde_json::Value) -> Result<(backlot_wire::Job, bool), JobsError> {
    house.jobs.submit("jobs", spec(json), None, "AK").await
}

fn text(name: &str, value: &str) -> MessageAttribute {
    let value = AttributeValue::Text(value.into());
    MessageAttribute { name: name.into(), data_type: "String".into(), value }
}

fn with_gpu(vram_gb: u64) -> AgentRegistration {
    let gpu = GpuInfo { vram_bytes: vram_gb * 1_000_000_000, ..GpuInfo::default() };
    AgentRegistration { types: vec!["x".into()], gpus: vec![gpu], ..AgentRegistration::default() }
}

#[tokio::test]
async fn a_job_that_is_put_off_for_weeks_comes_at_its_time_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Forward::new();
    let house = House::open_later(dir.path(), clock.clone()).await;
    let weeks_ms = 30 * 86_400_000;
    let at = Timestamp(clock.now().wall_ms + weeks_ms);
    let job = submit(&house, json!({"type": "x", "run_at": at})).await.unwrap().0;
    assert_eq!(job.status, JobStatus::Scheduled);
    // The queue counts whole seconds.
    assert!((0..=1_000).contains(&(job.runs_after.unwrap().unix_ms() - at.unix_ms())));
    let later = submit(&house, json!({"type": "x", "delay_s": 40 * 86_400})).await.unwrap().0;
    assert_eq!(later.spec.run_at.map(|at| at.unix_ms() > clock.now().wall_ms + weeks_ms), Some(true));
    house.close().await;
    clock.pass(weeks_ms / 2);
    let house = House::open_later(dir.path(), clock.clone()).await;
    assert!(house.receive(None, 30).await.is_none());
    assert_eq!(house.jobs.get(&job.id).unwrap().status, JobStatus::Scheduled);
    clock.pass(weeks_ms / 2 + 2_000);
    let delivery = house.delivery(None, 30).await;
    assert!(attempt_of(&delivery).starts_with(&job.id));
    assert_eq!(house.jobs.get(&later.id).unwrap().status, JobStatus::Scheduled);
    let far = Timestamp(clock.now().wall_ms + 400 * 86_400_000);
    assert!(matches!(submit(&house, json!({"type": "x", "run_at": far})).await, Err(JobsError::Invalid(_))));
    house.close().await;
}

#[tokio::test]
async fn of_jobs_with_one_key_one_is_taken_and_the_others_are_answered_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Forward::new();
    let house = House::open_later(dir.path(), clock.clone()).await;
    let order = |seed: u32| json!({"type": "x", "parameters": {"seed": seed}, "unique": {"key": "shot-42"}});
    let (first, created) = submit(&house, order(1)).await.unwrap();
    assert!(created);
    let all = futures::future::join_all((2..20).map(|seed| submit(&house, order(seed)))).await;
    assert!(all.into_iter().all(|answer| answer.is_ok_and(|(job, created)| job.id == first.id && !created)));
    // By message attribute, in one batch, with another key first.
    let message = |key: &str| SendRequest {
        body: r#"{"type":"x"}"#.into(),
        attributes: vec![text("backlot.unique_key", key), text("backlot.unique_period_s", "60")],
        ..SendRequest::default()
    };
    let requests = ["other", "shot-42", "other"].map(message).to_vec();
    let sent: Vec<_> = house.queues.send_batch("jobs", requests).await.unwrap();
    let sent: Vec<_> = sent.into_iter().map(Result::unwrap).collect();
    assert_eq!(sent.iter().map(|sent| sent.repeated).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(sent[0].message_id, sent[2].message_id);
    let of_other = JobSpec::parse(&sent[0].body).unwrap().job_id.unwrap();
    assert!(!submit(&house, json!({"type": "y", "unique": {"key": "other"}})).await.unwrap().1);
    for _ in 0..2 {
        let delivery = house.delivery(None, 30).await;
        house.queues.delete("jobs", &[delivery.receipt]).await.unwrap().remove(0).unwrap();
    }
    house.close().await;

    // The first key was held until the job ended, the other is for its minute, over a restart.
    let house = House::open_later(dir.path(), clock.clone()).await;
    let (again, created) = submit(&house, order(3)).await.unwrap();
    assert!(created && again.id != first.id);
    let other = || submit(&house, json!({"type": "x", "unique": {"key": "other", "period_s": 60}}));
    assert_eq!(other().await.unwrap().0.id, of_other);
    clock.pass(61_000);
    let (newer, created) = other().await.unwrap();
    assert!(created);
    // Cancelled, it gives the key back.
    house.jobs.cancel(&newer.id).await.unwrap();
    assert!(other().await.unwrap().1);
    house.close().await;
}

#[tokio::test]
async fn a_send_of_the_same_job_is_answered_with_the_first_and_one_of_another_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let send = |body: &str| {
        let request = SendRequest { body: body.into(), ..SendRequest::default() };
        house.queues.send("jobs", request)
    };
    let first = send(r#"{"job_id":"j","type":"x","delay_s":100}"#).await.unwrap();
    let second = send(r#"{"job_id":"j","type":"x","delay_s":100}"#).await.unwrap();
    assert_eq!((second.message_id, second.repeated), (first.message_id, true));
    assert!(matches!(send(r#"{"job_id":"j","type":"y"}"#).await, Err(QueueError::NotAdmitted(_))));
    let queue = house.queues.overview("").into_iter().find(|queue| queue.name == "jobs").unwrap();
    assert_eq!(queue.ready + queue.delayed, 1);
    house.close().await;
}

#[tokio::test]
async fn out_of_memory_makes_the_next_attempt_go_to_a_larger_gpu_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    for (name, vram_gb) in [("small", 16), ("large", 24)] {
        house.jobs.register(name, with_gpu(vram_gb)).await.unwrap();
    }
    let rule = json!({"out_of_memory": {"failures": 2, "backoff_s": 0, "vram_factor": 1.5}});
    let order = json!({"job_id": "j", "type": "x", "requirements": {"vram_gb": 12}, "retry": {"causes": rule}});
    let id = submit(&house, order.clone()).await.unwrap().0.id;
    let attempt = attempt_of(&house.delivery(Some("small"), 30).await);
    let out_of_memory = EventKind::Failure {
        class: FailureClass::Transient,
        message: "CUDA out of memory".into(),
        details: Map::from_iter([(cause::KEY.to_owned(), json!(cause::OUT_OF_MEMORY))]),
    };
    house.report(&attempt, vec![(1, out_of_memory.clone())]).await;
    let job = house.jobs.get(&id).unwrap();
    assert_eq!((job.status, job.spec.requirements.vram_gb), (JobStatus::Queued, Some(18.0)));
    assert_eq!(job.attempts[0].cause.as_deref(), Some(cause::OUT_OF_MEMORY));
    assert!(house.receive(Some("small"), 30).await.is_none(), "16 GB are too few now");
    house.close().await;

    let house = House::open(dir.path()).await;
    assert!(house.receive(Some("small"), 30).await.is_none());
    let delivery = house.delivery(Some("large"), 30).await;
    assert_eq!(JobSpec::parse(&delivery.body).unwrap().requirements.vram_gb, Some(18.0), "as delivered");
    assert!(!submit(&house, order).await.unwrap().1, "the same order is still known");
    house.report(&attempt_of(&delivery), vec![(1, out_of_memory)]).await;
    let job = house.jobs.get(&id).unwrap();
    assert_eq!((job.status, job.error.unwrap().cause.as_deref()), (JobStatus::Failed, Some(cause::OUT_OF_MEMORY)));

    // By hand with less, and other parameters: from the dead-letter queue to the small one.
    let changes = json!({"requirements": {"vram_gb": 10}, "parameters": {"tile": 256}});
    let retried = house.jobs.retry(&id, changes.as_object()).await.unwrap();
    assert_eq!(retried.spec.requirements.vram_gb, Some(10.0));
    let delivery = house.delivery(Some("small"), 30).await;
    assert_eq!(JobSpec::parse(&delivery.body).unwrap().parameters["tile"], 256);
    let unknown = json!({"type": "y"});
    house.report(&attempt_of(&delivery), vec![(1, failure(FailureClass::Permanent, "no"))]).await;
    assert!(matches!(house.jobs.retry(&id, unknown.as_object()).await, Err(JobsError::Invalid(_))));
    house.close().await;
}

#[tokio::test]
async fn a_plain_consumers_attempt_ends_at_its_hard_limit_whatever_its_visibility_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Forward::new();
    let house = House::open_later(dir.path(), clock.clone()).await;
    let order = json!({"type": "x", "limits": {"hard_s": 600}, "retry": {"failures": 2, "backoff_s": 0}});
    let id = submit(&house, order).await.unwrap().0.id;
    let first = house.delivery(None, 43_200).await;
    clock.pass(599_000);
    assert_eq!(house.jobs.get(&id).unwrap().status, JobStatus::Running);
    clock.pass(2_000);
    let job = house.becomes(&id, JobStatus::Queued).await;
    let attempt = &job.attempts[0];
    assert_eq!((attempt.outcome, attempt.cause.as_deref()), (Some(Outcome::Failed), Some(cause::TIMEOUT)));
    // Its consumer's delete comes too late.
    house.queues.delete("jobs", &[first.receipt]).await.unwrap().remove(0).unwrap();
    assert_eq!(house.jobs.get(&id).unwrap().status, JobStatus::Queued);
    let _second = house.delivery(None, 43_200).await;
    house.close().await;

    // The limit is watched after a restart as well.
    let house = House::open_later(dir.path(), clock.clone()).await;
    clock.pass(601_000);
    let failed = house.becomes(&id, JobStatus::Failed).await;
    assert!(failed.error.unwrap().message.contains("hard limit of 600 s"));
    house.close().await;
}

#[tokio::test]
async fn partial_results_are_listed_while_the_attempt_runs_and_not_after_its_result() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    house.jobs.register("a", with_gpu(16)).await.unwrap();
    let id = submit(&house, json!({"type": "x"})).await.unwrap().0.id;
    let attempt = attempt_of(&house.delivery(Some("a"), 30).await);
    let partial = |name: &str| {
        let outputs = vec![Output { uri: format!("s3://studio/{name}"), ..Output::default() }];
        EventKind::Partial { outputs }
    };
    house.report(&attempt, vec![(1, partial("f1")), (2, partial("f2")), (3, partial("f1"))]).await;
    let partial: Vec<_> = house.jobs.get(&id).unwrap().partial.into_iter().map(|output| output.uri).collect();
    assert_eq!(partial, ["s3://studio/f1", "s3://studio/f2"]);
    house.close().await;
    let house = House::open(dir.path()).await;
    assert_eq!(house.jobs.get(&id).unwrap().partial.len(), 2, "they were durable before the answer");
    house.report(&attempt, vec![(4, outputs("s3://studio/all"))]).await;
    let job = house.jobs.get(&id).unwrap();
    assert_eq!((job.partial.len(), job.outputs.len()), (0, 1));
    house.close().await;
}

async fn restarted(house: House, dir: &Path) -> House {
    house.close().await;
    House::open(dir).await
}

#[tokio::test]
async fn a_job_waits_for_others_takes_their_results_and_is_held_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let unknown = submit(&house, json!({"type": "x", "after": ["nobody"]})).await;
    assert!(matches!(unknown, Err(JobsError::Invalid(sentence)) if sentence.contains("`nobody`")));
    for id in ["a", "b"] {
        submit(&house, json!({"job_id": id, "type": "x"})).await.unwrap();
    }
    let order = json!({"job_id": "clip", "type": "x", "inputs": [{"job": "a"}], "after": ["b"]});
    assert_eq!(submit(&house, order.clone()).await.unwrap().0.status, JobStatus::Waiting);
    // By SQS, for an end that need be no success.
    let request = SendRequest {
        body: r#"{"job_id":"report","type":"x","after":[{"job":"b","on":"end"}]}"#.into(),
        ..SendRequest::default()
    };
    house.queues.send("jobs", request).await.unwrap();
    let finish = async |house: &House, id: &str| {
        let delivery = house.delivery(None, 30).await;
        assert_eq!(attempt_of(&delivery), format!("{id}.1"));
        house.report(&format!("{id}.1"), vec![(1, outputs(&format!("s3://studio/{id}.png")))]).await;
        delivery
    };
    finish(&house, "a").await;
    let house = restarted(house, dir.path()).await;
    assert_eq!(house.jobs.get("clip").unwrap().status, JobStatus::Waiting);
    let why = house.jobs.why("clip").unwrap().reasons.remove(0);
    assert_eq!((why.code, &why.numbers), ("waits_for_jobs", &json!({"jobs": ["b"], "left": 1})), "{}", why.sentence);
    finish(&house, "b").await;
    house.becomes("clip", JobStatus::Queued).await;
    house.becomes("report", JobStatus::Queued).await;
    let house = restarted(house, dir.path()).await;
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let delivery = house.delivery(None, 30).await;
        bodies.push((attempt_of(&delivery), JobSpec::parse(&delivery.body).unwrap()));
        house.queues.delete("jobs", &[delivery.receipt]).await.unwrap().remove(0).unwrap();
    }
    bodies.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(bodies[0].0, "clip.1");
    assert_eq!(bodies[0].1.inputs[0].uri, "s3://studio/a.png");
    assert!(!submit(&house, order).await.unwrap().1, "the same order, though its inputs are other ones now");
    house.close().await;
}

#[tokio::test]
async fn a_job_whose_dependency_fails_fails_and_a_retry_waits_anew() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    submit(&house, json!({"job_id": "a", "type": "x", "retry": {"failures": 1}})).await.unwrap();
    submit(&house, json!({"job_id": "b", "type": "x", "after": ["a"]})).await.unwrap();
    submit(&house, json!({"job_id": "c", "type": "x", "after": ["b"]})).await.unwrap();
    house.delivery(None, 30).await;
    house.report("a.1", vec![(1, failure(FailureClass::Permanent, "no clip"))]).await;
    for id in ["b", "c"] {
        let failed = house.becomes(id, JobStatus::Failed).await;
        assert_eq!((failed.error.unwrap().cause.as_deref(), failed.attempts.len()), (Some(cause::DEPENDENCY), 0));
    }
    assert_eq!(house.jobs.retry("a", None).await.unwrap().status, JobStatus::Queued);
    assert_eq!(house.jobs.retry("b", None).await.unwrap().status, JobStatus::Waiting);
    house.delivery(None, 30).await;
    house.report("a.2", vec![(1, outputs("s3://studio/a"))]).await;
    house.becomes("b", JobStatus::Queued).await;
    // A cancelled dependency cancels.
    assert_eq!(house.jobs.retry("c", None).await.unwrap().status, JobStatus::Waiting);
    house.jobs.cancel("b").await.unwrap();
    house.becomes("c", JobStatus::Cancelled).await;
    house.close().await;
}
