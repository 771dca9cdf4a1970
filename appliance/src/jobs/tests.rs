//! The handle over real queues, a real journal and a real catalogue in a temporary folder.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backlot_wire::{
    ATTEMPT_ATTRIBUTE, AgentRegistration, AttemptEvent, EventKind, FailureClass, Job, JobSpec, JobStatus, Outcome,
    Output, Timestamp,
};
use serde_json::{Map, json};
use tokio_util::sync::CancellationToken;

use super::list::Filter;
use super::*;
use crate::clock::{Clock, SystemClock};
use crate::control::{Control, Follower};
use crate::queue::{AttributeValue, Delivery, Overseer, ReceiveRequest, SendRequest};
use crate::tasks::Stages;

const PATIENCE: Duration = Duration::from_secs(60);

pub(in crate::jobs) struct House {
    pub jobs: Jobs,
    pub queues: Queues,
    control: Control,
    stages: Stages,
}

impl House {
    pub(in crate::jobs) async fn open(dir: &Path) -> Self {
        Self::open_with(dir, crate::config::Jobs::default()).await
    }

    async fn open_with(dir: &Path, config: crate::config::Jobs) -> Self {
        let (control, replay) = Control::open(dir, &crate::config::JournalConfig::default()).unwrap();
        Self::open_at(control, replay, config, Arc::new(SystemClock::new())).await
    }

    /// At the time of `clock`.
    pub(in crate::jobs) async fn open_later(dir: &Path, clock: Arc<dyn Clock>) -> Self {
        let (control, replay) = Control::open(dir, &crate::config::JournalConfig::default()).unwrap();
        Self::open_at(control, replay, crate::config::Jobs::default(), clock).await
    }

    async fn open_at(
        control: Control,
        replay: crate::control::Replay,
        config: crate::config::Jobs,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let book = Book::build(control.clone(), Arc::clone(&clock), 7, config);
        let overseer = Arc::clone(&book) as Arc<dyn Overseer>;
        let queues = Queues::build(control.clone(), Arc::clone(&clock), rand::random(), Some(overseer));
        let jobs = Jobs::build(Arc::clone(&book), queues.clone());
        let followers: Vec<Arc<dyn Follower>> = vec![book, Arc::new(queues.clone())];
        replay.run(&followers, clock.now()).unwrap();
        queues.prepare().await.unwrap();
        let stages = Stages::new(&[("workers", Duration::from_secs(5))]);
        queues.start(&stages.stage("workers"), CancellationToken::new());
        jobs.start(&stages.stage("workers"), CancellationToken::new());
        Self { jobs, queues, control, stages }
    }

    /// An orderly end.
    pub(in crate::jobs) async fn close(self) {
        self.stages.stop().await;
        self.control.close();
    }

    pub(in crate::jobs) async fn submit(&self, body: &str) -> Job {
        self.jobs.submit("jobs", JobSpec::parse(body).unwrap(), None, "AK").await.unwrap().0
    }

    pub(in crate::jobs) async fn receive(&self, agent: Option<&str>, visibility_s: u32) -> Option<Delivery> {
        let request = ReceiveRequest {
            messages_max: 1,
            visibility_s: Some(visibility_s),
            wait_s: Some(0),
            agent: agent.map(str::to_owned),
            ..ReceiveRequest::default()
        };
        self.queues.receive("jobs", request).await.unwrap().pop()
    }

    /// Receives as soon as there is something.
    pub(in crate::jobs) async fn delivery(&self, agent: Option<&str>, visibility_s: u32) -> Delivery {
        let receive = async {
            loop {
                if let Some(delivery) = self.receive(agent, visibility_s).await {
                    return delivery;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, receive).await.unwrap()
    }

    pub(in crate::jobs) async fn report(
        &self,
        attempt: &str,
        kinds: Vec<(u64, EventKind)>,
    ) -> backlot_wire::EventsAnswer {
        let events: Vec<_> =
            kinds.into_iter().map(|(seq, kind)| AttemptEvent { seq, at: Timestamp(0), kind }).collect();
        self.jobs.report(attempt, &events, 4_096).await.unwrap()
    }

    pub(in crate::jobs) async fn becomes(&self, id: &str, status: JobStatus) -> Job {
        let change = async {
            loop {
                let job = self.jobs.get(id).unwrap();
                if job.status == status {
                    return job;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let job = tokio::time::timeout(PATIENCE, change).await;
        job.unwrap_or_else(|_| panic!("not {status:?}: {:?}", self.jobs.get(id)))
    }

    fn list(&self, parameters: &[(&str, &str)]) -> Page {
        let owned: Vec<_> = parameters.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.jobs.list(&Filter::parse(&owned).unwrap()).unwrap()
    }
}

pub(in crate::jobs) fn attempt_of(delivery: &Delivery) -> String {
    let attribute = delivery.attributes.iter().find(|attribute| attribute.name == ATTEMPT_ATTRIBUTE).unwrap();
    match &attribute.value {
        AttributeValue::Text(text) => text.clone(),
        AttributeValue::Binary(_) => unreachable!(),
    }
}

pub(in crate::jobs) fn outputs(uri: &str) -> EventKind {
    EventKind::Result { outputs: vec![Output { uri: uri.into(), ..Output::default() }] }
}

pub(in crate::jobs) fn failure(class: FailureClass, message: &str) -> EventKind {
    EventKind::Failure { class, message: message.into(), details: Map::new() }
}

fn ids(page: &Page) -> Vec<&str> {
    page.jobs.iter().map(|job| job.id.as_str()).collect()
}

#[tokio::test]
async fn a_plain_consumer_receives_heartbeats_and_deletes_and_the_job_has_succeeded() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let sent = SendRequest { body: r#"{"type":"image.upscale","user_id":"u"}"#.into(), ..SendRequest::default() };
    let sent = house.queues.send("jobs", sent).await.unwrap();
    let spec = JobSpec::parse(&sent.body).unwrap();
    let id = spec.job_id.unwrap();
    assert_eq!(house.jobs.get(&id).unwrap().status, JobStatus::Queued);
    let delivery = house.delivery(None, 30).await;
    assert_eq!((delivery.body.as_str(), attempt_of(&delivery)), (sent.body.as_str(), format!("{id}.1")));
    assert!(delivery.attributes.iter().any(|attribute| attribute.name == "traceparent"));
    house.queues.change_visibility("jobs", &[(delivery.receipt.clone(), 60)]).await.unwrap().remove(0).unwrap();
    assert_eq!(house.jobs.get(&id).unwrap().status, JobStatus::Running);
    house.queues.delete("jobs", &[delivery.receipt]).await.unwrap().remove(0).unwrap();
    let job = house.jobs.get(&id).unwrap();
    assert_eq!((job.status, job.attempts[0].outcome), (JobStatus::Succeeded, Some(Outcome::Succeeded)));
    house.close().await;
}

#[tokio::test]
async fn a_body_that_is_no_job_is_refused_on_a_job_queue() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    for body in ["hello", "{}", r#"{"type":"x","priority":"urgent"}"#] {
        let sent = house.queues.send("jobs", SendRequest { body: body.into(), ..SendRequest::default() }).await;
        assert!(matches!(sent, Err(QueueError::NotAdmitted(_))), "{body}");
    }
    house.close().await;
}

#[tokio::test]
async fn an_agents_result_deletes_the_message_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    assert!(house.receive(Some("a"), 30).await.is_none());
    let id = house.submit(r#"{"type":"x"}"#).await.id;
    assert!(house.receive(Some("a"), 30).await.is_none(), "a stranger gets nothing");
    let runs = |kind: &str| AgentRegistration { types: vec![kind.into()], ..AgentRegistration::default() };
    house.jobs.register("b", runs("y")).await.unwrap();
    assert!(house.receive(Some("b"), 30).await.is_none(), "it cannot run this type");
    house.jobs.register("a", runs("x")).await.unwrap();
    let delivery = house.delivery(Some("a"), 30).await;
    let attempt = attempt_of(&delivery);
    let phases = vec![
        (1, EventKind::Phase { phase: "fetch".into() }),
        (2, EventKind::Phase { phase: "infer".into() }),
        (3, EventKind::Percent { percent: 50.0 }),
    ];
    assert_eq!(house.report(&attempt, phases).await.accepted_seq, 3);
    assert_eq!(house.jobs.get(&id).unwrap().percent, Some(50.0));
    assert!(!house.report(&attempt, vec![]).await.directive.cancel);
    let done = house.report(&attempt, vec![(4, outputs("s3://studio/out.png"))]).await;
    assert_eq!((done.accepted_seq, done.directive), (4, Default::default()));
    let job = house.jobs.get(&id).unwrap();
    assert_eq!((job.status, job.outputs[0].uri.as_str()), (JobStatus::Succeeded, "s3://studio/out.png"));
    let names: Vec<_> = job.attempts[0].phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!((names, job.attempts[0].agent.as_deref()), (vec!["queued", "fetch", "infer"], Some("a")));
    let queue = house.queues.overview("").into_iter().find(|queue| queue.name == "jobs").unwrap();
    assert_eq!((queue.ready, queue.in_flight), (0, 0));
    // The agent deletes as well; by now there is nothing to delete.
    house.queues.delete("jobs", &[delivery.receipt]).await.unwrap().remove(0).unwrap();
    let again = house.report(&attempt, vec![(4, outputs("s3://studio/other.png"))]).await;
    assert_eq!((again.accepted_seq, house.jobs.get(&id).unwrap()), (4, job));
    assert!(matches!(house.jobs.report("nobody.1", &[], 0).await, Err(JobsError::NoSuchAttempt(_))));
    house.close().await;
}

#[tokio::test]
async fn a_permanent_failure_goes_to_the_dlq_and_a_retry_by_hand_brings_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    house.jobs.register("a", AgentRegistration { types: vec!["x".into()], ..Default::default() }).await.unwrap();
    let id = house.submit(r#"{"type":"x"}"#).await.id;
    let attempt = attempt_of(&house.delivery(Some("a"), 30).await);
    house.report(&attempt, vec![(1, failure(FailureClass::Permanent, "no such model"))]).await;
    let job = house.jobs.get(&id).unwrap();
    assert_eq!((job.status, job.error.unwrap().message.as_str()), (JobStatus::Failed, "no such model"));
    let dlq =
        |house: &House| house.queues.overview("").into_iter().find(|queue| queue.name == "jobs-dlq").unwrap().ready;
    assert_eq!(dlq(&house), 1);
    let retried = house.jobs.retry(&id, None).await.unwrap();
    assert_eq!(
        (retried.status, retried.error, retried.failures, retried.attempts.len()),
        (JobStatus::Queued, None, 0, 1)
    );
    assert_eq!(dlq(&house), 0);
    assert!(matches!(house.jobs.retry(&id, None).await, Err(JobsError::NotRetryable { .. })));
    let second = house.delivery(Some("a"), 30).await;
    assert_eq!(attempt_of(&second), format!("{id}.2"));
    house.report(&format!("{id}.2"), vec![(1, outputs("s3://studio/x"))]).await;
    let late = house.report(&attempt, vec![(2, outputs("s3://studio/late"))]).await;
    assert!(late.directive.superseded);
    let job = house.jobs.get(&id).unwrap();
    assert_eq!((job.status, job.outputs[0].uri.as_str()), (JobStatus::Succeeded, "s3://studio/x"));
    assert_eq!(job.attempts[0].superseded_outputs[0].uri, "s3://studio/late");
    house.close().await;
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once_and_can_be_queued_again() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let id = house.submit(r#"{"type":"x"}"#).await.id;
    assert_eq!(house.jobs.cancel(&id).await.unwrap().status, JobStatus::Cancelled);
    assert!(house.receive(None, 30).await.is_none());
    let conflict = house.jobs.cancel(&id).await.unwrap_err();
    assert!(conflict.to_string().contains("cancelled already"), "{conflict}");
    assert_eq!(house.jobs.retry(&id, None).await.unwrap().status, JobStatus::Queued);
    let delivery = house.delivery(None, 30).await;
    assert_eq!(attempt_of(&delivery), format!("{id}.1"));
    // A running one ends when its worker hears of it.
    assert_eq!(house.jobs.cancel(&id).await.unwrap().status, JobStatus::Running);
    assert!(house.report(&attempt_of(&delivery), vec![]).await.directive.cancel);
    house.report(&attempt_of(&delivery), vec![(1, EventKind::Cancelled)]).await;
    assert_eq!(house.jobs.get(&id).unwrap().status, JobStatus::Cancelled);
    house.close().await;
}

#[tokio::test]
async fn timeouts_of_a_plain_consumer_fail_the_job_for_good_and_no_further_receive_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let id = house.submit(r#"{"type":"x","retry":{"failures":2}}"#).await.id;
    house.delivery(None, 1).await;
    house.delivery(None, 1).await;
    let job = house.becomes(&id, JobStatus::Failed).await;
    assert_eq!((job.failures, job.attempts.len()), (2, 2));
    assert!(house.receive(None, 1).await.is_none());
    house.close().await;
}

#[tokio::test]
async fn a_transient_failure_rests_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    house.jobs.register("a", AgentRegistration { types: vec!["x".into()], ..Default::default() }).await.unwrap();
    let id = house.submit(r#"{"type":"x","retry":{"backoff_s":1}}"#).await.id;
    let attempt = attempt_of(&house.delivery(Some("a"), 30).await);
    house.report(&attempt, vec![(1, failure(FailureClass::Transient, "network"))]).await;
    assert_eq!(house.jobs.get(&id).unwrap().status, JobStatus::Scheduled);
    assert_eq!(attempt_of(&house.delivery(Some("a"), 30).await), format!("{id}.2"));
    house.report(&format!("{id}.2"), vec![(1, EventKind::GivenBack { reason: "drain".into() })]).await;
    assert_eq!(attempt_of(&house.delivery(Some("a"), 30).await), format!("{id}.3"));
    let outcomes: Vec<_> = house.jobs.get(&id).unwrap().attempts.iter().map(|attempt| attempt.outcome).collect();
    assert_eq!(outcomes, [Some(Outcome::Failed), Some(Outcome::GivenBack), None]);
    assert_eq!(house.jobs.get(&id).unwrap().failures, 1);
    house.close().await;
}

#[tokio::test]
async fn heartbeats_keep_an_agents_lease_and_a_lost_one_does_not_count() {
    let dir = tempfile::tempdir().unwrap();
    let config = crate::config::Jobs { lease_s: 600, ..crate::config::Jobs::default() };
    let house = House::open_with(dir.path(), config).await;
    house.jobs.register("a", AgentRegistration { types: vec!["x".into()], ..Default::default() }).await.unwrap();
    let lost = house.submit(r#"{"type":"x","job_id":"lost"}"#).await.id;
    let first = attempt_of(&house.delivery(Some("a"), 1).await);
    assert_eq!(first, "lost.1");
    let job = house.becomes(&lost, JobStatus::Queued).await;
    assert_eq!((job.failures, job.attempts[0].outcome), (0, Some(Outcome::Lost)));
    let second = attempt_of(&house.delivery(Some("a"), 2).await);
    house.report(&second, vec![]).await; // ten minutes from now
    let kept = house.submit(r#"{"type":"x","job_id":"other"}"#).await.id;
    house.delivery(Some("a"), 3).await;
    house.becomes(&kept, JobStatus::Queued).await; // so more than two seconds have passed
    assert_eq!(house.jobs.get(&lost).unwrap().status, JobStatus::Running);
    house.close().await;
}

#[tokio::test]
async fn everything_is_there_again_after_an_end_without_warning() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let agent = AgentRegistration { types: vec!["x".into()], host: "h".into(), ..Default::default() };
    house.jobs.register("a", agent).await.unwrap();
    // Far larger than a value of the catalogue, or what a change of the queue may record.
    let long = "é".repeat(60_000);
    let spec = json!({"type": "x", "job_id": "large", "parameters": {"prompt": long}}).to_string();
    house.submit(&spec).await;
    let attempt = attempt_of(&house.delivery(Some("a"), 60).await);
    house.report(&attempt, vec![(1, EventKind::Phase { phase: "infer".into() })]).await;
    house.submit(r#"{"type":"x","job_id":"waits"}"#).await;
    house.submit(r#"{"type":"x","job_id":"gone"}"#).await;
    house.jobs.cancel("gone").await.unwrap();
    let before: Vec<_> = ["large", "waits", "gone"].map(|id| house.jobs.get(id).unwrap()).into();
    let House { stages, control, queues, jobs } = house;
    stages.stop().await; // a process cannot open its journal twice; nothing but tasks and the lock ends here
    drop((queues, jobs));
    control.close();
    drop(control);

    let house = House::open(dir.path()).await;
    for job in &before {
        assert_eq!(house.jobs.get(&job.id).unwrap(), *job);
    }
    assert_eq!(house.jobs.agents()[0].name, "a");
    assert_eq!(ids(&house.list(&[("status", "running")])), ["large"]);
    house.report(&attempt, vec![(2, outputs("s3://studio/x"))]).await;
    assert_eq!(house.jobs.get("large").unwrap().status, JobStatus::Succeeded);
    assert_eq!(attempt_of(&house.delivery(Some("a"), 60).await), "waits.1");
    assert!(house.receive(None, 30).await.is_none());
    house.close().await;
}

#[tokio::test]
async fn ended_jobs_leave_memory_and_are_found_in_the_history() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open_with(dir.path(), crate::config::Jobs { recent_max: 2, ..Default::default() }).await;
    for n in 0..6 {
        let id = house.submit(&json!({"type": "x", "job_id": format!("j{n}")}).to_string()).await.id;
        let delivery = house.delivery(None, 30).await;
        assert_eq!(attempt_of(&delivery), format!("{id}.1"));
        house.queues.delete("jobs", &[delivery.receipt]).await.unwrap().remove(0).unwrap();
    }
    let forget = async {
        while house.jobs.book.table.lock().get("j3").is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, forget).await.unwrap();
    assert!(house.jobs.book.table.lock().get("j5").is_some(), "the last ones stay");
    assert_eq!(house.jobs.get("j0").unwrap().status, JobStatus::Succeeded);
    // The history knows its attempts, and that its ids are taken.
    house.report("j0.1", vec![(1, outputs("s3://studio/x"))]).await;
    assert_eq!(house.jobs.get("j0").unwrap().outputs[0].uri, "s3://studio/x");
    let again = house.jobs.submit("jobs", JobSpec::parse(r#"{"type":"y","job_id":"j1"}"#).unwrap(), None, "AK").await;
    assert!(matches!(again, Err(JobsError::Exists(_))));
    let by_queue = SendRequest { body: r#"{"type":"y","job_id":"j1"}"#.into(), ..SendRequest::default() };
    assert!(matches!(house.queues.send("jobs", by_queue).await, Err(QueueError::NotAdmitted(_))));
    house.close().await;
}

#[tokio::test]
async fn the_same_submit_twice_is_one_job_and_another_with_its_id_is_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let spec = JobSpec::parse(r#"{"type":"x","job_id":"j","parameters":{"a":1}}"#).unwrap();
    let (first, made) = house.jobs.submit("jobs", spec.clone(), None, "AK").await.unwrap();
    let (second, again) = house.jobs.submit("jobs", spec.clone(), None, "AK").await.unwrap();
    assert_eq!((made, again, &first), (true, false, &second));
    let other = JobSpec { priority: 9, ..spec };
    assert!(matches!(house.jobs.submit("jobs", other, None, "AK").await, Err(JobsError::Exists(_))));
    let nowhere = house.jobs.submit("nowhere", JobSpec::new("x"), None, "AK").await;
    assert!(matches!(nowhere, Err(JobsError::Queue(QueueError::NoSuchQueue(_)))));
    let no_jobs = house.jobs.submit("jobs-dlq", JobSpec::new("x"), None, "AK").await;
    assert!(matches!(no_jobs, Err(JobsError::NotAJobQueue(_))));
    house.close().await;
}

#[tokio::test]
async fn lists_are_newest_first_filtered_and_paged() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    for n in 0..7 {
        let user = if n % 2 == 0 { "even" } else { "odd" };
        let spec = json!({"type": "x", "job_id": format!("j{n}"), "user_id": user, "labels": {"n": n.to_string()}});
        house.submit(&spec.to_string()).await;
        let created = house.jobs.get(&format!("j{n}")).unwrap().created_at;
        // The list is ordered by time of creation: let the clock go on.
        while house.jobs.book.clock.now().timestamp() <= created {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    house.jobs.cancel("j4").await.unwrap();
    assert_eq!(ids(&house.list(&[("user", "even")])), ["j6", "j4", "j2", "j0"]);
    assert_eq!(ids(&house.list(&[("status", "cancelled")])), ["j4"]);
    assert_eq!(ids(&house.list(&[("label.n", "3")])), ["j3"]);
    assert_eq!(ids(&house.list(&[("q", "J5")])), ["j5"]);
    let since = house.jobs.get("j5").unwrap().created_at.to_rfc3339();
    assert_eq!(ids(&house.list(&[("since", &since)])), ["j6", "j5"]);
    let until = house.jobs.get("j2").unwrap().created_at.to_rfc3339();
    assert_eq!(ids(&house.list(&[("until", &until)])), ["j1", "j0"]);
    let first = house.list(&[("limit", "3")]);
    assert_eq!(ids(&first), ["j6", "j5", "j4"]);
    let second = house.list(&[("limit", "3"), ("cursor", first.cursor.as_deref().unwrap())]);
    assert_eq!(ids(&second), ["j3", "j2", "j1"]);
    let last = house.list(&[("limit", "3"), ("cursor", second.cursor.as_deref().unwrap())]);
    assert_eq!((ids(&last), last.cursor.as_ref()), (vec!["j0"], None));
    house.close().await;
}

#[tokio::test]
async fn a_message_received_too_often_ends_its_job_as_failed() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let id = house.submit(r#"{"type":"x"}"#).await.id;
    for _ in 0..10 {
        let delivery = house.delivery(None, 30).await;
        house.queues.change_visibility("jobs", &[(delivery.receipt, 0)]).await.unwrap().remove(0).unwrap();
    }
    assert!(house.receive(None, 30).await.is_none());
    let job = house.jobs.get(&id).unwrap();
    assert_eq!((job.status, job.failures), (JobStatus::Failed, 0));
    assert!(job.error.unwrap().message.contains("10 times"));
    assert_eq!(house.jobs.retry(&id, None).await.unwrap().status, JobStatus::Queued);
    assert_eq!(attempt_of(&house.delivery(None, 30).await), format!("{id}.11"));
    house.close().await;
}

#[tokio::test]
async fn a_purge_cancels_what_waited() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let id = house.submit(r#"{"type":"x"}"#).await.id;
    house.queues.purge("jobs").await.unwrap();
    let job = house.becomes(&id, JobStatus::Cancelled).await;
    assert!(job.error.unwrap().message.contains("purge"));
    house.close().await;
}

#[tokio::test]
async fn more_jobs_than_allowed_are_refused_by_both_doors() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open_with(dir.path(), crate::config::Jobs { unfinished_max: 1, ..Default::default() }).await;
    let id = house.submit(r#"{"type":"x"}"#).await.id;
    assert!(matches!(house.jobs.submit("jobs", JobSpec::new("x"), None, "AK").await, Err(JobsError::Full(_))));
    let by_queue = SendRequest { body: r#"{"type":"x"}"#.into(), ..SendRequest::default() };
    assert!(matches!(house.queues.send("jobs", by_queue).await, Err(QueueError::NotAdmitted(_))));
    house.jobs.cancel(&id).await.unwrap();
    house.submit(r#"{"type":"x"}"#).await;
    house.close().await;
}

#[tokio::test]
async fn progress_is_in_the_journal_within_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let id = house.submit(r#"{"type":"x"}"#).await.id;
    let attempt = attempt_of(&house.delivery(None, 60).await);
    house.report(&attempt, vec![(1, EventKind::Percent { percent: 25.0 })]).await;
    let written = async {
        while store::read(house.jobs.book.catalogue(), &id).unwrap().unwrap().head.percent != Some(25.0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, written).await.unwrap();
    house.close().await;
}

#[tokio::test]
async fn news_reach_a_listener_and_a_slow_one_is_told_that_it_lags() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let stopping = CancellationToken::new();
    let all = house.jobs.streams().listen(None, stopping.clone()).unwrap();
    let id = house.submit(r#"{"type":"x"}"#).await.id;
    let body = |sse: axum::response::Response| {
        let mut stream = sse.into_body().into_data_stream();
        async move {
            use futures::StreamExt;
            let bytes = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
            String::from_utf8(bytes.to_vec()).unwrap()
        }
    };
    let text = body(axum::response::IntoResponse::into_response(all.stream(None))).await;
    assert!(text.starts_with("event: job\ndata: {") && text.contains(&id), "{text}");
    let slow = house.jobs.streams().listen(None, stopping.clone()).unwrap();
    let job = house.jobs.find(&id).unwrap().unwrap();
    let news = house.jobs.book.table.lock().news();
    for _ in 0..2_000 {
        let _ = news.send(herald::News { job_id: job.head.id.clone(), json: "{}".into() });
    }
    let text = body(axum::response::IntoResponse::into_response(slow.stream(None))).await;
    assert!(text.starts_with("event: lagged"), "{text}");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_consumers_at_once_end_every_job_exactly_once() {
    let dir = tempfile::tempdir().unwrap();
    let house = Arc::new(House::open(dir.path()).await);
    let mut submitted = Vec::new();
    for n in 0..60 {
        submitted.push(house.submit(&json!({"type": "x", "job_id": format!("j{n}")}).to_string()).await.id);
    }
    let consumers = (0..6).map(|_| {
        let house = Arc::clone(&house);
        tokio::spawn(async move {
            let mut done = Vec::new();
            while let Some(delivery) = house.receive(None, 60).await {
                let attempt = attempt_of(&delivery);
                // The report and the delete race: whichever comes first ends the job, the other completes it.
                let uri = format!("s3://studio/{attempt}");
                let receipts = [delivery.receipt];
                let (answer, deleted) = tokio::join!(
                    house.report(&attempt, vec![(1, outputs(&uri))]),
                    house.queues.delete("jobs", &receipts)
                );
                deleted.unwrap().remove(0).unwrap();
                assert!(!answer.directive.superseded);
                done.push(attempt);
            }
            done
        })
    });
    let done: Vec<String> = futures::future::join_all(consumers).await.into_iter().flat_map(Result::unwrap).collect();
    assert_eq!(done.len(), submitted.len());
    for id in submitted {
        let job = house.jobs.get(&id).unwrap();
        assert_eq!((job.status, job.attempts.len()), (JobStatus::Succeeded, 1));
        assert_eq!(job.outputs[0].uri, format!("s3://studio/{id}.1"));
    }
}

#[tokio::test]
async fn who_asks_for_jobs_like_its_own_gets_those_alone_at_once_and_none_that_somebody_waits_for() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let agent = AgentRegistration { types: vec!["image.generate".into()], ..Default::default() };
    for name in ["a", "b"] {
        house.jobs.register(name, agent.clone()).await.unwrap();
    }
    let picture = |id: &str, model: &str, width: u32, priority: u8| {
        json!({"job_id": id, "type": "image.generate", "priority": priority, "parameters": {"model": model, "width": width, "prompt": id}})
            .to_string()
    };
    for (id, model, width, priority) in [
        ("first", "m", 512, 9),
        ("wide", "m", 768, 8),
        ("other", "n", 512, 8),
        ("second", "m", 512, 5),
        ("third", "m", 512, 6),
    ] {
        house.submit(&picture(id, model, width, priority)).await;
    }
    let alike = async |agent: &str, job: &str| {
        let asked = ReceiveRequest {
            messages_max: 3,
            wait_s: Some(20),
            agent: Some(agent.to_owned()),
            alike: Some(job.to_owned()),
            ..ReceiveRequest::default()
        };
        let received = house.queues.receive("jobs", asked).await.unwrap();
        received.iter().map(attempt_of).collect::<Vec<_>>()
    };
    assert_eq!(attempt_of(&house.delivery(Some("a"), 30).await), "first.1");
    assert_eq!(alike("stranger", "first").await, Vec::<String>::new());
    assert_eq!(alike("a", "first").await, ["third.1", "second.1"]);
    // It waits for nothing, whatever it says; and of a job that nobody knows there is no like.
    assert_eq!(alike("a", "first").await, Vec::<String>::new());
    assert_eq!(alike("a", "absent").await, Vec::<String>::new());

    // A job that comes while another agent waits is that one's, also where it is asked for as alike.
    let idle = async { house.queues.receive("jobs", waiting("b")).await.unwrap() };
    let submitted = async {
        for id in ["fourth", "fifth", "sixth"] {
            house.submit(&picture(id, "m", 512, 9)).await;
        }
        alike("a", "first").await
    };
    for id in ["wide", "other"] {
        house.jobs.cancel(id).await.unwrap();
    }
    let (got, alike) = tokio::join!(idle, submitted);
    assert_eq!(got.iter().map(attempt_of).collect::<Vec<_>>(), ["fourth.1"]);
    assert_eq!(alike, ["fifth.1", "sixth.1"]);
    house.close().await;
}

fn waiting(agent: &str) -> ReceiveRequest {
    ReceiveRequest { messages_max: 1, wait_s: Some(20), agent: Some(agent.to_owned()), ..ReceiveRequest::default() }
}
