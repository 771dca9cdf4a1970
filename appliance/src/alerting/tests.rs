//! Alerting over a real journal and a real socket, on a clock that is set by hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use axum::Router;
use axum::extract::State as With;
use axum::routing::post;
use http::{HeaderMap, StatusCode};
use serde_json::Value;

use super::*;
use crate::config::JournalConfig;

/// What the metrics say, settable.
#[derive(Default)]
struct Said(Mutex<Vec<Element>>);

impl MetricsReader for Said {
    fn check(&self, expression: &str) -> Result<(), String> {
        if expression == "broken(" { Err("parse error".into()) } else { Ok(()) }
    }

    fn query<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<Element>, String>> {
        Box::pin(async { Ok(self.0.lock().clone()) })
    }
}

/// Seconds since the story began, and at which of them this run of the process began.
struct StoryClock {
    story_s: Arc<AtomicU64>,
    began_s: u64,
}

impl Clock for StoryClock {
    fn now(&self) -> Now {
        let story_s = self.story_s.load(Ordering::SeqCst);
        Now { mono_ms: (story_s - self.began_s) * 1000, wall_ms: 1_700_000_000_000 + story_s * 1000 }
    }
}

struct Story {
    dir: tempfile::TempDir,
    said: Arc<Said>,
    story_s: Arc<AtomicU64>,
    url: String,
}

/// One run of the process.
struct Run {
    control: Control,
    alerting: Alerting,
}

impl Story {
    fn new(url: String) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let rules = "groups:\n- name: g\n  rules:\n  - alert: Bad\n    expr: x\n    for: 30s\n    annotations: {summary: '{{ $labels.queue }} is bad'}\n";
        std::fs::write(dir.path().join("rules.yml"), rules).expect("rules");
        Self { dir, said: Arc::default(), story_s: Arc::default(), url }
    }

    fn begin(&self) -> Run {
        let data = self.dir.path();
        let (control, replay) = Control::open(data, &JournalConfig::default()).expect("the journal opens");
        let config = AlertingConfig {
            default_rules: false,
            rules_files: vec![data.join("rules.yml").display().to_string()],
            webhook_urls: vec![self.url.clone()],
            group_wait_s: 0,
            group_interval_s: 0,
            ..AlertingConfig::default()
        };
        let clock =
            Arc::new(StoryClock { story_s: self.story_s.clone(), began_s: self.story_s.load(Ordering::SeqCst) });
        let alerting =
            Alerting::build(control.clone(), clock.clone(), &config, self.said.clone()).expect("a configuration");
        replay.run(&[Arc::new(alerting.clone())], clock.now()).expect("the replay");
        Run { control, alerting }
    }

    /// Lets the metrics say `bad` queues at `story_s`, and alerting have a turn.
    async fn at(&self, run: &Run, story_s: u64, bad: &[&str]) -> Vec<backlot_alerts::State> {
        self.story_s.store(story_s, Ordering::SeqCst);
        let element =
            |queue: &&str| Element { labels: BTreeMap::from([("queue".into(), (*queue).into())]), value: 1.0 };
        *self.said.0.lock() = bad.iter().map(element).collect();
        run.alerting.shared.state.lock().due_mono_ms.fill(0);
        run.alerting.shared.turn().await;
        run.alerting.shared.state.lock().engine.alerts().map(|alert| alert.state).collect()
    }
}

impl Run {
    async fn end(self) {
        let control = self.control.clone();
        drop(self);
        tokio::task::spawn_blocking(move || control.close()).await.expect("closes");
    }
}

type Received = (HeaderMap, Value);

/// A webhook that fails `failures` times before it takes what it is given.
async fn webhook(failures: u64) -> (String, mpsc::Receiver<Received>) {
    let (sender, receiver) = mpsc::channel();
    let left = Arc::new(AtomicU64::new(failures));
    let take = |With((sender, left)): With<(mpsc::Sender<Received>, Arc<AtomicU64>)>,
                headers: HeaderMap,
                body: String| async move {
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        let _ = sender.send((headers, serde_json::from_str(&body).expect("an envelope")));
        StatusCode::OK
    };
    let app = Router::new().route("/hook", post(take)).with_state((sender, left));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://user:secret@{}/hook", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, receiver)
}

/// Delivers until the webhook has one; the story's clock goes on while a retry is waited for.
async fn delivered(story: &Story, run: &Run, receiver: &mpsc::Receiver<Received>) -> Received {
    let shared = run.alerting.shared.clone();
    let delivery = tokio::spawn(async move { shared.deliver(0).await });
    let received = loop {
        if let Ok(received) = receiver.try_recv() {
            break received;
        }
        story.story_s.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    while run.alerting.shared.state.lock().outbox.of_receiver(&run.alerting.shared.receivers[0].name).0 > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The end of the delivery is written down before the next one is looked for.
    let _written = run.alerting.shared.writing.lock().await;
    delivery.abort();
    received
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_forget_neither_the_wait_nor_the_alert_nor_the_notification() {
    use backlot_alerts::State::{Firing, Pending, Resolved};
    let (url, receiver) = webhook(2).await;
    let story = Story::new(url);

    let run = story.begin();
    assert_eq!(story.at(&run, 0, &[]).await, []);
    assert_eq!(story.at(&run, 5, &["jobs-dlq"]).await, [Pending]);
    run.end().await;

    story.story_s.store(25, Ordering::SeqCst);
    let run = story.begin();
    assert_eq!(story.at(&run, 26, &[]).await, [Pending], "the metrics are not back yet");
    assert_eq!(story.at(&run, 34, &["jobs-dlq"]).await, [Pending]);
    assert_eq!(story.at(&run, 35, &["jobs-dlq"]).await, [Firing], "30 s, of which 20 were before the restart");
    let first_id =
        run.alerting.shared.ledger.all().iter().find_map(|(key, _)| key.strip_prefix("out/").map(str::to_owned));
    run.end().await; // before anything was delivered

    let run = story.begin();
    let (headers, envelope) = delivered(&story, &run, &receiver).await;
    assert_eq!(headers["x-amz-sns-message-type"], "Notification");
    assert_eq!(headers["authorization"], "Basic dXNlcjpzZWNyZXQ=");
    assert_eq!(envelope["Type"], "Notification");
    assert_eq!(envelope["MessageId"].as_str(), first_id.as_deref());
    assert_eq!(headers["x-amz-sns-message-id"].to_str().ok(), first_id.as_deref());
    assert_eq!(envelope["Subject"], "[FIRING] jobs-dlq is bad");
    let message: Value = serde_json::from_str(envelope["Message"].as_str().expect("a text")).expect("JSON in a text");
    assert_eq!((&message["status"], &message["alerts"][0]["labels"]["queue"]), (&"firing".into(), &"jobs-dlq".into()));
    let now_s = story.story_s.load(Ordering::SeqCst);
    assert_eq!(story.at(&run, now_s + 1, &["jobs-dlq"]).await, [Firing]);
    run.end().await;

    let run = story.begin();
    assert_eq!(story.at(&run, now_s + 2, &["jobs-dlq"]).await, [Firing]);
    assert!(matches!(
        run.alerting.shared.state.lock().outbox.of_receiver(&run.alerting.shared.receivers[0].name),
        (0, None)
    ));
    assert_eq!(story.at(&run, now_s + 3, &[]).await, [Resolved], "it was seen again, so the grace is over");
    let (_, envelope) = delivered(&story, &run, &receiver).await;
    assert_eq!(envelope["Subject"], "[RESOLVED] jobs-dlq is bad");
    assert_ne!(envelope["MessageId"].as_str(), first_id.as_deref());
    assert_eq!(story.at(&run, now_s + 1000, &[]).await, []);
    assert_eq!(
        run.alerting.shared.ledger.all().len(),
        0,
        "nothing is left behind: {:?}",
        run.alerting.shared.ledger.all()
    );
    run.end().await;
    assert!(receiver.try_recv().is_err(), "nothing was said twice");
}

#[test]
fn mistakes_in_rules_and_receivers_are_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let control = |name: &str| Control::open(&dir.path().join(name), &JournalConfig::default()).expect("opens").0;
    let build = |name: &str, config: AlertingConfig| {
        let clock = Arc::new(StoryClock { story_s: Arc::default(), began_s: 0 });
        Alerting::build(control(name), clock, &config, Arc::new(Said::default())).err().map(|error| error.to_string())
    };
    let rules = |text: &str| {
        let path = dir.path().join("r.yml");
        std::fs::write(&path, text).expect("a file");
        AlertingConfig { rules_files: vec![path.display().to_string()], ..AlertingConfig::default() }
    };
    let says = |problem: Option<String>, what: &str| {
        assert!(problem.as_deref().is_some_and(|problem| problem.contains(what)), "{problem:?}");
    };
    says(build("a", rules("groups: [{name: g, rules: [{alert: A, expr: 'broken('}]}]")), "rule `A`: parse error");
    says(build("b", rules("groups: [{name: g, rulez: []}]")), "rulez");
    says(build("c", rules("groups: [{name: backlot}]")), "`backlot` is there twice");
    says(
        build("d", AlertingConfig { webhook_urls: vec!["ftp://u:hunter2@x".into()], ..AlertingConfig::default() }),
        "webhook_urls",
    );
    let secret =
        build("e", AlertingConfig { webhook_urls: vec!["ftp://u:hunter2@x".into()], ..AlertingConfig::default() });
    assert!(!secret.unwrap_or_default().contains("hunter2"));
    says(build("f", AlertingConfig { sns_topic_arn: "alerts".into(), ..AlertingConfig::default() }), "is no ARN");
}

#[test]
fn the_default_rules_ask_only_for_metrics_of_the_catalogue() {
    let groups = rules::parse(backlot_alerts::DEFAULT_RULES).expect("rules");
    let mut named = 0;
    for rule in groups.iter().flat_map(|group| &group.rules) {
        for word in rule.expr.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            if word.starts_with("backlot_") {
                named += 1;
                assert!(backlot_wire::metrics::ALL.iter().any(|metric| metric.name == word), "{word}");
            }
        }
    }
    assert_eq!(named, 12);
}
