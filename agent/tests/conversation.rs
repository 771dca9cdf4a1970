//! The agent's side of the conversation against an appliance that misbehaves: hangs, refuses, answers nonsense.
//! What a good appliance says is tested with the real one.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

use std::sync::Arc;
use std::time::Duration;

use backlot_agent::clock::Clock;
use backlot_agent::config::Config;
use backlot_agent::door::{Door, DoorError, basic};
use backlot_agent::events::{Outbox, Reporter, spool::Spool};
use backlot_agent::http_client::HttpClient;
use backlot_agent::queue::Queue;
use backlot_wire::EventKind;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What the fake answers to a request with this head and body: status and body, or `None` for silence.
type Answer = Box<dyn Fn(&str, &str) -> Option<(u16, String)> + Send + Sync>;

/// A server that answers as a test wants, and remembers what it was asked.
struct Fake {
    base: String,
    asked: Arc<Mutex<Vec<(String, String)>>>,
}

impl Fake {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&asked));
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                tokio::spawn(async move {
                    let mut bytes = Vec::new();
                    let (head, length) = loop {
                        let mut buffer = [0; 4096];
                        let read = stream.read(&mut buffer).await.unwrap_or(0);
                        if read == 0 {
                            return;
                        }
                        bytes.extend_from_slice(&buffer[..read]);
                        let text = String::from_utf8_lossy(&bytes).into_owned();
                        if let Some((head, _)) = text.split_once("\r\n\r\n") {
                            let head = head.to_ascii_lowercase();
                            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                            break (head.clone(), length.map_or(0, |length| length.trim().parse().unwrap()));
                        }
                    };
                    while bytes.len() < head.len() + 4 + length {
                        let mut buffer = [0; 4096];
                        let read = stream.read(&mut buffer).await.unwrap_or(0);
                        if read == 0 {
                            return;
                        }
                        bytes.extend_from_slice(&buffer[..read]);
                    }
                    let body = String::from_utf8_lossy(&bytes[head.len() + 4..]).into_owned();
                    log.lock().push((head.clone(), body.clone()));
                    match answer(&head, &body) {
                        Some((status, body)) => {
                            let answer = format!(
                                "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                                body.len()
                            );
                            let _ = stream.write_all(answer.as_bytes()).await;
                        }
                        None => std::future::pending().await,
                    }
                });
            }
        });
        Self { base, asked }
    }

    fn asked(&self) -> Vec<(String, String)> {
        self.asked.lock().clone()
    }

    fn door(&self) -> Door {
        Door::new(HttpClient::new().unwrap(), &self.base, basic("test", "test"))
    }
}

fn outbox(fake: &Fake, dir: &tempfile::TempDir) -> Arc<Outbox> {
    Outbox::new(Some(fake.door()), Spool::open(dir.path(), 1 << 20).unwrap(), Clock::new())
}

fn phase(name: &str) -> EventKind {
    EventKind::Phase { phase: name.into() }
}

#[tokio::test]
async fn the_agents_name_is_among_the_signed_headers_of_every_queue_call() {
    let fake = Fake::start(Box::new(|head, _| {
        let body = if head.contains("getqueueurl") { r#"{"QueueUrl":"http://localhost/0/jobs"}"# } else { "{}" };
        Some((200, body.into()))
    }))
    .await;
    let config = Config { aws: fake.base.clone(), name: "gpu-7".into(), poll_s: 0, ..Config::default() };
    let shared = aws_config::SdkConfig::builder()
        .behavior_version(aws_config::BehaviorVersion::latest())
        .region(aws_config::Region::new("us-east-1"))
        .endpoint_url(&fake.base)
        .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(
            aws_credential_types::Credentials::for_tests(),
        ))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    let queue = Queue::new(&shared, &config);
    assert!(queue.receive().await.unwrap().is_none());
    queue.extend("receipt").await.unwrap();
    queue.delete("receipt").await.unwrap();
    let asked = fake.asked();
    assert_eq!(asked.len(), 4, "{asked:?}");
    for (head, _) in asked {
        assert!(head.contains("x-backlot-agent: gpu-7"), "{head}");
        let signed = head.lines().find(|line| line.starts_with("authorization:")).unwrap();
        assert!(signed.split("signedheaders=").nth(1).unwrap().contains("x-backlot-agent"), "{signed}");
    }
}

#[tokio::test]
async fn events_are_kept_through_5xx_and_arrive_once_in_their_order() {
    let failures = Mutex::new(3);
    let fake = Fake::start(Box::new(move |_, body| {
        let mut failures = failures.lock();
        if *failures > 0 {
            *failures -= 1;
            return Some((503, "busy".into()));
        }
        let events = serde_json::from_str::<serde_json::Value>(body).unwrap()["events"].as_array().unwrap().clone();
        let last = events.last().map_or(0, |event| event["seq"].as_u64().unwrap());
        Some((200, format!(r#"{{"accepted_seq":{last},"directive":{{}}}}"#)))
    }))
    .await;
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&fake, &dir);
    let reporter = Reporter::new(Arc::clone(&outbox), Some("j.1".into()));
    reporter.report(phase("fetch"));
    assert!(matches!(reporter.post().await, Err(DoorError::Away(_))));
    assert!(outbox.spool().bytes() > 0, "what was not taken is on disk");
    reporter.report(phase("infer"));
    assert!(reporter.settle(Duration::from_secs(20)).await);
    assert_eq!(outbox.spool().bytes(), 0);
    let taken: Vec<u64> = serde_json::from_str::<serde_json::Value>(&fake.asked()[3].1).unwrap()["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(taken, [1, 2]);
}

#[tokio::test]
async fn what_an_attempt_leaves_behind_is_delivered_by_the_outbox() {
    let up = Arc::new(Mutex::new(false));
    let is_up = Arc::clone(&up);
    let fake = Fake::start(Box::new(move |_, _| {
        is_up.lock().then(|| (200, r#"{"accepted_seq":9,"directive":{}}"#.to_owned())).or(Some((500, String::new())))
    }))
    .await;
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&fake, &dir);
    let reporter = Reporter::new(Arc::clone(&outbox), Some("j.1".into()));
    reporter.report(EventKind::Result { outputs: Vec::new() });
    assert!(!reporter.settle(Duration::from_millis(100)).await);
    drop(reporter);
    *up.lock() = true;
    let running = tokio::spawn(Arc::clone(&outbox).run());
    for _ in 0..6_000 {
        if outbox.spool().bytes() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(outbox.spool().bytes(), 0);
    assert!(fake.asked().last().unwrap().1.contains(r#""event":"result""#));
    running.abort();
}

#[tokio::test]
async fn an_attempt_that_the_appliance_does_not_know_is_not_reported_for_ever() {
    let fake = Fake::start(Box::new(|_, _| Some((404, "no such attempt".into())))).await;
    let dir = tempfile::tempdir().unwrap();
    let outbox = outbox(&fake, &dir);
    let reporter = Reporter::new(Arc::clone(&outbox), Some("j.1".into()));
    reporter.report(phase("fetch"));
    assert!(matches!(reporter.post().await, Err(DoorError::Refused { status: 404, .. })));
    assert!(!reporter.settle(Duration::from_secs(5)).await);
    assert_eq!((fake.asked().len(), outbox.spool().bytes()), (2, 0));
}

#[tokio::test]
async fn an_appliance_that_hangs_or_answers_nonsense_is_away() {
    let silent = Fake::start(Box::new(|_, _| None)).await;
    let dir = tempfile::tempdir().unwrap();
    let hanging = outbox(&silent, &dir);
    let reporter = Reporter::new(hanging, Some("j.1".into()));
    reporter.report(phase("fetch"));
    let began = tokio::time::Instant::now();
    assert!(matches!(reporter.post().await, Err(DoorError::Away(_))));
    assert!(began.elapsed() < Duration::from_secs(30));

    let other_dir = tempfile::tempdir().unwrap();
    let strange = Fake::start(Box::new(|_, _| Some((200, "<html>a proxy's page</html>".into())))).await;
    let strange = outbox(&strange, &other_dir);
    let reporter = Reporter::new(Arc::clone(&strange), Some("j.1".into()));
    reporter.report(phase("fetch"));
    assert!(matches!(reporter.post().await, Err(DoorError::Away(_))));
    assert!(strange.spool().bytes() > 0);
}

#[tokio::test]
async fn percentages_that_nobody_has_seen_are_replaced_by_the_newest() {
    let fake =
        Fake::start(Box::new(|_, _| Some((200, r#"{"accepted_seq":99,"directive":{"cancel":true}}"#.into())))).await;
    let dir = tempfile::tempdir().unwrap();
    let reporter = Reporter::new(outbox(&fake, &dir), Some("j.1".into()));
    for percent in [1.0, 2.0, 3.0] {
        reporter.report(EventKind::Percent { percent });
    }
    assert!(reporter.post().await.unwrap().cancel);
    let body = &fake.asked()[0].1;
    assert!(body.contains(r#""percent":3.0"#) && !body.contains(r#""percent":2.0"#), "{body}");
}
