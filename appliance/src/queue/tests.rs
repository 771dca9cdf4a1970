//! The handle over a real control journal in a temporary folder.

mod fifo;
mod moves;
mod turns;
mod upkeep;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::clock::SystemClock;
use crate::control::{Compaction, Follower, Record, Replay};
use crate::tasks::Stages;

const PATIENCE: Duration = Duration::from_secs(30);

struct House {
    queues: Queues,
    control: Control,
    stages: Stages,
}

impl House {
    async fn open(dir: &Path) -> Self {
        Self::open_with(dir, None).await
    }

    async fn open_with(dir: &Path, overseer: Option<Arc<dyn Overseer>>) -> Self {
        let (control, replay) = Control::open(dir, &crate::config::JournalConfig::default()).unwrap();
        Self::around(control, replay, overseer).await
    }

    /// Small segments, collected soon.
    async fn open_tidy(dir: &Path) -> Self {
        let options = backlot_journal::Options {
            segment_bytes: 256 * 1024,
            record_bytes_max: 16 * 1024,
            pending_bytes_max: 64 * 1024,
            reserve_bytes: 64 * 1024,
            ..backlot_journal::Options::new(dir.join("journal").join("control"))
        };
        let compaction = Compaction { slack_bytes: 512 * 1024, every: Duration::from_millis(20) };
        let (control, replay) = Control::open_with(dir, options, compaction).unwrap();
        let house = Self::around(control, replay, None).await;
        house.control.start(&house.stages.stage("stores"));
        house
    }

    async fn around(control: Control, replay: Replay, overseer: Option<Arc<dyn Overseer>>) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let queues = Queues::build(control.clone(), Arc::clone(&clock), 7, overseer);
        let follower: Arc<dyn Follower> = Arc::new(queues.clone());
        let jobs: Arc<dyn Follower> = Arc::new(Notes);
        replay.run(&[follower, jobs], clock.now()).unwrap();
        queues.prepare().await.unwrap();
        let stages = Stages::new(&[("stores", Duration::from_secs(5))]);
        queues.start(&stages.stage("stores"), CancellationToken::new());
        Self { queues, control, stages }
    }

    async fn close(self) {
        self.stages.stop().await;
        self.control.close();
    }
}

/// Takes the records that an overseer adds.
struct Notes;

impl Follower for Notes {
    fn kinds(&self) -> &'static [crate::control::Kind] {
        &[crate::control::Kind::Job]
    }
    fn replay(&self, _: crate::control::Kind, _: Lsn, _: &[u8]) -> Result<(), String> {
        Ok(())
    }
    fn replayed(&self, _: Now) {}
    fn relocate(&self, _: crate::control::Kind, _: Lsn, _: &[u8], _: Permit) -> Option<Commit> {
        None
    }
}

fn message(body: &str) -> SendRequest {
    SendRequest { body: body.to_owned(), sender_id: "AK".to_owned(), ..SendRequest::default() }
}

fn poll(wait_s: u32) -> ReceiveRequest {
    ReceiveRequest { messages_max: 1, wait_s: Some(wait_s), ..ReceiveRequest::default() }
}

async fn make(queues: &Queues, name: &str, attributes: &[(&str, &str)]) {
    let attributes = attributes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    queues.create(name, &attributes).await.unwrap();
}

fn redrive(to: &str, receives_max: u32) -> String {
    format!(r#"{{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:{to}","maxReceiveCount":{receives_max}}}"#)
}

#[tokio::test]
async fn a_message_survives_a_restart_with_everything_it_carried() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    make(&house.queues, "shots", &[("VisibilityTimeout", "0")]).await;
    let attributes = vec![
        MessageAttribute { name: "n".into(), data_type: "Number.int".into(), value: AttributeValue::Text("7".into()) },
        MessageAttribute { name: "b".into(), data_type: "Binary".into(), value: AttributeValue::Binary(vec![0, 255]) },
    ];
    let sent =
        SendRequest {
            attributes: attributes.clone(), trace_header: Some("Root=1-2-3".into()), ..message("take 7 ☃")
        };
    let sent = house.queues.send("shots", sent).await.unwrap();
    let first = house.queues.receive("shots", poll(5)).await.unwrap().pop().unwrap();
    assert_eq!(first.message_id, sent.message_id);
    house.close().await;

    let house = House::open(dir.path()).await;
    let again = house.queues.receive("shots", poll(5)).await.unwrap().pop().unwrap();
    assert_eq!((again.body.as_str(), again.receive_count), ("take 7 ☃", 2));
    assert_eq!((again.attributes, again.trace_header.as_deref()), (attributes, Some("Root=1-2-3")));
    assert_eq!((again.sent_at, again.first_received_at), (first.sent_at, first.first_received_at));
    assert_eq!(again.sender_id, "AK");
    let stale = house.queues.delete("shots", &[first.receipt]).await.unwrap();
    assert!(stale[0].is_ok(), "an old receipt is answered 200");
    assert!(!house.queues.receive("shots", poll(5)).await.unwrap().is_empty(), "and deletes nothing");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_poll_wakes_with_the_send_and_those_who_leave_pass_it_on() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    make(&house.queues, "shots", &[]).await;
    let gone = {
        let queues = house.queues.clone();
        tokio::spawn(async move { queues.receive("shots", poll(20)).await })
    };
    while house.queues.shared.state.lock().waiting.line_lengths() != 1 {
        tokio::task::yield_now().await;
    }
    let waits = {
        let queues = house.queues.clone();
        tokio::spawn(async move { queues.receive("shots", poll(20)).await })
    };
    while house.queues.shared.state.lock().waiting.line_lengths() != 2 {
        tokio::task::yield_now().await;
    }
    gone.abort();
    let _ = gone.await;
    house.queues.send("shots", message("wake")).await.unwrap();
    let got = tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap();
    assert_eq!(got[0].body, "wake");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_waiters_get_a_thousand_messages_each_once() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    make(&house.queues, "shots", &[]).await;
    let waiters: Vec<_> = (0..1_000)
        .map(|_| {
            let queues = house.queues.clone();
            tokio::spawn(async move { queues.receive("shots", poll(20)).await })
        })
        .collect();
    for batch in 0..100 {
        let messages = (0..10).map(|n| message(&format!("{}", batch * 10 + n))).collect();
        let sent = house.queues.send_batch("shots", messages).await.unwrap();
        assert!(sent.iter().all(Result::is_ok));
    }
    let mut bodies = std::collections::HashSet::new();
    for waiter in waiters {
        let got = tokio::time::timeout(PATIENCE, waiter).await.unwrap().unwrap().unwrap();
        assert!(bodies.insert(got[0].body.clone()), "{} came twice", got[0].body);
    }
    assert_eq!(bodies.len(), 1_000);
    house.close().await;
}

#[tokio::test]
async fn what_is_received_too_often_lies_on_the_dead_letter_queue_without_anybody_asking() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    make(&house.queues, "dead", &[]).await;
    make(&house.queues, "shots", &[("RedrivePolicy", &redrive("dead", 2)), ("VisibilityTimeout", "1")]).await;
    house.queues.send("shots", message("poison")).await.unwrap();
    for count in 1..=2 {
        let got = house.queues.receive("shots", poll(20)).await.unwrap().pop().unwrap();
        assert_eq!(got.receive_count, count);
    }
    let dead = house.queues.receive("dead", poll(20)).await.unwrap().pop().unwrap();
    assert_eq!((dead.body.as_str(), dead.receive_count, dead.source.as_deref()), ("poison", 3, Some("shots")));
    let overview = house.queues.overview("http://h:1/");
    let dlq = overview.iter().find(|queue| queue.name == "dead").unwrap();
    assert!(dlq.is_dlq && dlq.in_flight == 1);
    assert_eq!(dlq.url, "http://h:1/000000000000/dead");
    house.close().await;
}

/// Admits what begins with `{`; agents named `big` may have class 1.
#[derive(Default)]
struct Watcher {
    seen: Mutex<Vec<String>>,
    ends: AtomicBool,
    /// Nothing is wanted back.
    unwanted: AtomicBool,
}

impl Overseer for Watcher {
    fn admit(&self, _: Now, _: &str, request: &SendRequest) -> Result<Admission, String> {
        let body = &request.body;
        let class = Class(u32::from(body.contains("big")));
        let priority = if body.contains("urgent") { 9 } else { 5 };
        let admitted = Admitted { body: format!("{body}!"), priority, class, tenant: Tenant(0), delay_s: 0 };
        if body.starts_with('{') { Ok(Admission::Send(admitted)) } else { Err("it is no job".to_owned()) }
    }
    fn classify(&self, body: &str) -> (u8, Class, Tenant) {
        (if body.contains("urgent") { 9 } else { 5 }, Class(u32::from(body.contains("big"))), Tenant(0))
    }
    fn fits(&self, agent: Option<&str>, class: Class) -> bool {
        class == Class(0) || agent.is_none_or(|agent| agent == "big")
    }
    fn observe(&self, _: Now, _: &str, change: Change<'_>, records: &mut Vec<Record>) -> Option<Action> {
        let word = format!("{change:?}");
        self.seen.lock().push(word.split([' ', '{']).next().unwrap_or_default().to_owned());
        records.push(Record { kind: crate::control::Kind::Job, payload: vec![1; 100] });
        let ends = match change {
            Change::TimedOut { .. } => self.ends.load(Ordering::SeqCst),
            Change::Returned { .. } => self.unwanted.load(Ordering::SeqCst),
            _ => false,
        };
        ends.then_some(Action::Delete)
    }
    fn attributes(&self, _: &str, message_id: &str) -> Vec<(String, String)> {
        vec![("backlot.attempt".to_owned(), message_id.to_owned())]
    }
}

#[tokio::test]
async fn an_overseer_admits_orders_fits_and_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let watcher = Arc::new(Watcher::default());
    let house = House::open_with(dir.path(), Some(Arc::clone(&watcher) as Arc<dyn Overseer>)).await;
    let queues = &house.queues;
    assert!(queues.is_job_queue("jobs").unwrap() && !queues.is_job_queue("jobs-dlq").unwrap());
    let refused = queues.send("jobs", message("hello")).await.unwrap_err();
    assert!(matches!(refused, QueueError::NotAdmitted(sentence) if sentence == "it is no job"));
    for body in ["{big}", "{small}", "{big urgent}", "{small urgent}"] {
        queues.send("jobs", message(body)).await.unwrap();
    }
    let next = async |agent: Option<&str>| {
        let asked = ReceiveRequest { agent: agent.map(str::to_owned), ..poll(0) };
        queues.receive("jobs", asked).await.unwrap().pop()
    };
    assert_eq!(next(Some("small")).await.unwrap().body, "{small urgent}!");
    assert_eq!(next(None).await.unwrap().body, "{big urgent}!");
    let small = next(Some("small")).await.unwrap();
    assert_eq!((small.body.as_str(), small.attributes[0].name.as_str()), ("{small}!", "backlot.attempt"));
    assert!(next(Some("small")).await.is_none(), "what is left does not fit");
    assert!(next(Some("big")).await.is_some());

    // A decision under the lock ends the message together with its records.
    let note = Record { kind: crate::control::Kind::Job, payload: vec![2; 10] };
    queues.act("jobs", &small.message_id, Action::Delete, vec![note]).await.unwrap();
    let gone = queues.act("jobs", &small.message_id, Action::Delete, vec![]).await;
    assert!(matches!(gone, Err(QueueError::NoSuchMessage { .. })));

    // The overseer may end a message when its timeout does.
    watcher.ends.store(true, Ordering::SeqCst);
    queues.send("jobs", message("{last}")).await.unwrap();
    let last = ReceiveRequest { visibility_s: Some(1), ..poll(0) };
    let last = queues.receive("jobs", last).await.unwrap().pop().unwrap();
    let ended = || {
        queues.decide("jobs", &last.message_id, 0, |_, standing| Decision {
            action: None,
            records: vec![],
            answer: standing.is_none(),
        })
    };
    let until_ended = async {
        while !ended().await.unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, until_ended).await.unwrap();
    assert!(watcher.seen.lock().iter().any(|word| word == "TimedOut"));

    queues.purge("jobs").await.unwrap();
    assert!(watcher.seen.lock().iter().filter(|word| *word == "Dropped").count() >= 3);
    queues.delete_queue("jobs").await.unwrap();
    assert!(matches!(queues.send("jobs", message("{}")).await, Err(QueueError::NoSuchQueue(_))));
    house.close().await;
}

#[tokio::test]
async fn a_released_message_is_not_deleted_by_the_receipt_it_was_taken_from() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    make(&house.queues, "shots", &[]).await;
    house.queues.send("shots", message("again")).await.unwrap();
    let first = house.queues.receive("shots", poll(0)).await.unwrap().pop().unwrap();
    assert!(house.queues.extend("shots", &first.message_id, 600).await.unwrap());
    house.queues.act("shots", &first.message_id, Action::Release { delay_s: 0 }, vec![]).await.unwrap();
    house.queues.delete("shots", &[first.receipt]).await.unwrap();
    let second = house.queues.receive("shots", poll(0)).await.unwrap().pop().unwrap();
    assert_eq!((second.body.as_str(), second.receive_count), ("again", 2));
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_segments_go_and_what_lives_in_them_stays() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open_tidy(dir.path()).await;
    make(&house.queues, "kept", &[("VisibilityTimeout", "600")]).await;
    make(&house.queues, "churn", &[]).await;
    for n in 0..50 {
        house.queues.send("kept", message(&format!("keep {n}"))).await.unwrap();
    }
    let first = house.queues.receive("kept", poll(5)).await.unwrap().pop().unwrap();
    let last_lsn = house.control.journal().durable();
    let oldest = || house.control.journal().segments()[0].base;
    let rounds = async {
        while oldest() < last_lsn {
            let messages = (0..10).map(|_| message(&"x".repeat(1_000))).collect();
            house.queues.send_batch("churn", messages).await.unwrap();
            let all = ReceiveRequest { messages_max: 10, ..poll(5) };
            let got = house.queues.receive("churn", all).await.unwrap();
            let receipts: Vec<_> = got.into_iter().map(|delivery| delivery.receipt).collect();
            house.queues.delete("churn", &receipts).await.unwrap();
        }
    };
    tokio::time::timeout(2 * PATIENCE, rounds).await.expect("the segments that held the first messages go");
    let second = house.queues.receive("kept", poll(5)).await.unwrap().pop().unwrap();
    assert_eq!(second.body, "keep 1");
    house.close().await;

    let house = House::open_tidy(dir.path()).await;
    let overview = house.queues.overview("");
    let kept = overview.iter().find(|queue| queue.name == "kept").unwrap();
    assert_eq!((kept.ready, kept.in_flight), (48, 2));
    house.queues.change_visibility("kept", &[(first.receipt, 0)]).await.unwrap();
    let again = house.queues.receive("kept", poll(5)).await.unwrap().pop().unwrap();
    assert_eq!((again.body.as_str(), again.receive_count), ("keep 0", 2));
    house.close().await;
}
