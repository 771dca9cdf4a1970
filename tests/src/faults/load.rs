//! The clients of a round: who sends, who receives, and what they do with what they got.
//!
//! Each is a task with a connection and dice of its own. It writes down every call that was on its way when it has ended, and
//! ends by itself when it is told to: a call that was cut off would be missing in the history.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::client::{Client, Port, Reply};
use super::content::{Content, LARGE};
use super::history::{Call, Got, Micros, Number, Operation, Outcome, Take};

/// The queues of a round, by their place in the history.
pub(super) const WORK: usize = 0;
pub(super) const DEAD: usize = 1;
pub(super) const PLAIN: usize = 2;
pub(super) const LINE: usize = 3;
pub(super) const NAMES: [&str; 4] = ["work", "work-dead", "plain", "line.fifo"];
/// A message of `work` moves to `work-dead` after so many receives.
pub(super) const RECEIVES_MAX: u32 = 3;

/// Bytes of all bodies of a batch: a journal group has to fit into a small segment.
const BATCH_BYTES_MAX: usize = 128 * 1024;

/// What the clients of a round share.
pub(super) struct Shared {
    pub(super) seed: u64,
    pub(super) port: Port,
    began: Instant,
    stopping: AtomicBool,
    numbers: AtomicU64,
    takes: AtomicU64,
    operations: Mutex<Vec<Operation>>,
    /// Whether a send that was not answered may be tried again under its deduplication id: not where the clock may end its window.
    pub(super) retries: bool,
}

impl Shared {
    #[allow(clippy::disallowed_methods, reason = "the checker's own clock")]
    pub(super) fn new(seed: u64, port: Port, retries: bool) -> Arc<Self> {
        Arc::new(Self {
            seed,
            port,
            began: Instant::now(),
            stopping: AtomicBool::new(false),
            numbers: AtomicU64::new(1),
            takes: AtomicU64::new(1),
            operations: Mutex::default(),
            retries,
        })
    }

    pub(super) fn now(&self) -> Micros {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    pub(super) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    fn goes_on(&self) -> bool {
        !self.stopping.load(Ordering::Acquire)
    }

    pub(super) fn operations(&self) -> Vec<Operation> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A message in a client's hands.
struct Held {
    take: Take,
    receipt: String,
}

/// One client: it calls, and writes down what became of it.
pub(super) struct Caller {
    shared: Arc<Shared>,
    client: Client,
    dice: ChaCha8Rng,
}

impl Caller {
    /// The client `index` of a round.
    pub(super) fn new(shared: &Arc<Shared>, index: u64) -> Self {
        let dice = ChaCha8Rng::seed_from_u64(shared.seed.wrapping_add(index << 32));
        Self { shared: Arc::clone(shared), client: Client::new(shared.port.clone()), dice }
    }

    /// A call that the promises say nothing about.
    pub(super) async fn ask(&mut self, operation: &str, request: &Value) -> Reply {
        self.client.call(operation, request).await
    }

    async fn timed(&mut self, operation: &str, request: &Value) -> (Micros, Reply) {
        let begun = self.shared.now();
        (begun, self.client.call(operation, request).await)
    }

    fn record(&self, begun: Micros, queue: usize, calls: impl IntoIterator<Item = (Call, Outcome)>) {
        let ended = self.shared.now();
        let operation = |(call, outcome)| Operation { begun, ended, queue, call, outcome };
        let mut operations = self.shared.operations.lock().unwrap_or_else(PoisonError::into_inner);
        operations.extend(calls.into_iter().map(operation));
    }

    fn number(&self) -> Number {
        self.shared.numbers.fetch_add(1, Ordering::Relaxed)
    }

    async fn think(&mut self, up_to_ms: u64) {
        let pause = self.dice.random_range(0..=up_to_ms);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Sends one message. `None`: nobody was there.
    pub(super) async fn send(
        &mut self,
        queue: usize,
        number: Number,
        delay_s: u32,
        group: Option<u32>,
    ) -> Option<Outcome> {
        let content = Content::of(self.shared.seed, number);
        let mut request = entry(&content, delay_s);
        request["QueueUrl"] = url(queue).into();
        if let Some(group) = group {
            request["MessageGroupId"] = format!("group-{group}").into();
            request["MessageDeduplicationId"] = number.to_string().into();
        }
        let (begun, reply) = self.timed("SendMessage", &request).await;
        let (id, outcome) = match reply {
            Reply::NotSent => return None,
            Reply::Done(answer) => (answer["MessageId"].as_str().map(str::to_owned), Outcome::Done),
            Reply::Refused { code } => (None, Outcome::Refused(code)),
            Reply::Lost => (None, Outcome::Unknown),
        };
        self.record(begun, queue, [(Call::Send { number, delay_s, id, group }, outcome.clone())]);
        Some(outcome)
    }

    /// Sends a large message that nobody else knows of.
    pub(super) async fn send_large(&mut self, queue: usize) -> Option<Outcome> {
        let number = LARGE + self.number();
        self.send(queue, number, 0, None).await
    }

    async fn send_batch(&mut self, queue: usize) {
        let (mut numbers, mut entries, mut bytes) = (Vec::new(), Vec::new(), 0);
        for _ in 0..self.dice.random_range(2..=10) {
            let number = self.number();
            let content = Content::of(self.shared.seed, number);
            bytes += content.body.len();
            if bytes > BATCH_BYTES_MAX {
                break;
            }
            let delay_s = self.delay();
            let mut entry = entry(&content, delay_s);
            entry["Id"] = number.to_string().into();
            entries.push(entry);
            numbers.push((number, delay_s));
        }
        let (begun, reply) = self.timed("SendMessageBatch", &json!({"QueueUrl": url(queue), "Entries": entries})).await;
        let Some(mut outcomes) = batch(&reply, "MessageId") else { return };
        let calls = numbers.into_iter().map(|(number, delay_s)| {
            let (outcome, id) = outcomes(&number.to_string());
            (Call::Send { number, delay_s, id, group: None }, outcome)
        });
        self.record(begun, queue, calls.collect::<Vec<_>>());
    }

    fn delay(&mut self) -> u32 {
        if self.dice.random_ratio(1, 12) { self.dice.random_range(1..=2) } else { 0 }
    }

    /// Receives up to `count` messages. Empty where nothing was there, or nobody.
    async fn receive(
        &mut self,
        queue: usize,
        count: u32,
        visibility_s: u32,
        wait_s: u32,
    ) -> Result<Vec<Held>, Outcome> {
        let request = json!({
            "QueueUrl": url(queue), "MaxNumberOfMessages": count, "VisibilityTimeout": visibility_s,
            "WaitTimeSeconds": wait_s, "AttributeNames": ["ApproximateReceiveCount"], "MessageAttributeNames": ["All"],
        });
        let (begun, reply) = self.timed("ReceiveMessage", &request).await;
        let (mut held, mut got) = (Vec::new(), Vec::new());
        let outcome = match reply {
            Reply::NotSent => return Ok(held),
            Reply::Done(answer) => {
                for message in answer["Messages"].as_array().into_iter().flatten() {
                    let take = self.shared.takes.fetch_add(1, Ordering::Relaxed);
                    let (number, intact) = Content::recognise(self.shared.seed, message);
                    let count = message["Attributes"]["ApproximateReceiveCount"].as_str();
                    let id = message["MessageId"].as_str().unwrap_or_default().to_owned();
                    let receive_count = count.and_then(|count| count.parse().ok()).unwrap_or(0);
                    got.push(Got { take, number, intact, id, receive_count });
                    let receipt = message["ReceiptHandle"].as_str().unwrap_or_default().to_owned();
                    held.push(Held { take, receipt });
                }
                Outcome::Done
            }
            Reply::Refused { code } => Outcome::Refused(code),
            Reply::Lost => Outcome::Unknown,
        };
        self.record(begun, queue, [(Call::Receive { visibility_s, got }, outcome.clone())]);
        if outcome == Outcome::Done { Ok(held) } else { Err(outcome) }
    }

    async fn delete(&mut self, queue: usize, held: &Held) {
        let request = json!({"QueueUrl": url(queue), "ReceiptHandle": held.receipt});
        let (begun, reply) = self.timed("DeleteMessage", &request).await;
        if let Some(outcome) = outcome(&reply) {
            self.record(begun, queue, [(Call::Delete { take: held.take }, outcome)]);
        }
    }

    async fn delete_batch(&mut self, queue: usize, held: &[Held]) {
        let entry = |held: &Held| json!({"Id": held.take.to_string(), "ReceiptHandle": held.receipt});
        let entries: Vec<Value> = held.iter().map(entry).collect();
        if entries.is_empty() {
            return;
        }
        let (begun, reply) =
            self.timed("DeleteMessageBatch", &json!({"QueueUrl": url(queue), "Entries": entries})).await;
        let Some(mut outcomes) = batch(&reply, "MessageId") else { return };
        let calls = held.iter().map(|held| (Call::Delete { take: held.take }, outcomes(&held.take.to_string()).0));
        self.record(begun, queue, calls.collect::<Vec<_>>());
    }

    /// True when it was acknowledged.
    async fn hide(&mut self, queue: usize, held: &Held, visibility_s: u32) -> bool {
        let request = json!({"QueueUrl": url(queue), "ReceiptHandle": held.receipt, "VisibilityTimeout": visibility_s});
        let (begun, reply) = self.timed("ChangeMessageVisibility", &request).await;
        let Some(outcome) = outcome(&reply) else { return false };
        let done = outcome == Outcome::Done;
        self.record(begun, queue, [(Call::Hide { take: held.take, visibility_s }, outcome)]);
        done
    }

    pub(super) async fn purge(&mut self, queue: usize) {
        let (begun, reply) = self.timed("PurgeQueue", &json!({"QueueUrl": url(queue)})).await;
        if let Some(outcome) = outcome(&reply) {
            self.record(begun, queue, [(Call::Purge, outcome)]);
        }
    }

    /// Receives and deletes once; how many messages that were, or what was said instead.
    pub(super) async fn consume(&mut self, queue: usize, visibility_s: u32) -> Result<usize, Outcome> {
        let held = self.receive(queue, 10, visibility_s, 0).await?;
        self.delete_batch(queue, &held).await;
        Ok(held.len())
    }

    /// What the queue says that it holds, in whatever state.
    pub(super) async fn holds(&mut self, queue: usize) -> Option<u64> {
        let names = ["", "NotVisible", "Delayed"].map(|state| format!("ApproximateNumberOfMessages{state}"));
        let request = json!({"QueueUrl": url(queue), "AttributeNames": names});
        let Reply::Done(answer) = self.ask("GetQueueAttributes", &request).await else { return None };
        names.iter().map(|name| answer["Attributes"][name].as_str()?.parse::<u64>().ok()).sum()
    }
}

/// Sends to a standard queue, singly and in batches, until the round stops.
pub(super) async fn produce(mut caller: Caller, queue: usize) {
    while caller.shared.goes_on() {
        if caller.dice.random_ratio(1, 3) {
            caller.send_batch(queue).await;
        } else {
            let (number, delay_s) = (caller.number(), caller.delay());
            caller.send(queue, number, delay_s, None).await;
        }
        caller.think(15).await;
    }
}

/// Sends to groups of the FIFO queue that nobody else sends to, each message after the one before it was answered. What was
/// not answered is sent again under its deduplication id, as an SDK would.
pub(super) async fn produce_in_order(mut caller: Caller, groups: std::ops::Range<u32>) {
    while caller.shared.goes_on() {
        let group = caller.dice.random_range(groups.clone());
        let number = caller.number();
        while caller.shared.goes_on() {
            match caller.send(LINE, number, 0, Some(group)).await {
                Some(Outcome::Unknown) | None if caller.shared.retries => {}
                _ => break,
            }
        }
        caller.think(15).await;
    }
}

/// Receives, and does with each message one of the things that consumers do.
pub(super) async fn consume(mut caller: Caller, queue: usize) {
    // What is to be deleted later, perhaps too late.
    let mut later: Vec<(Micros, Held)> = Vec::new();
    while caller.shared.goes_on() {
        let now = caller.shared.now();
        let (due, rest): (Vec<_>, Vec<_>) = later.into_iter().partition(|(at, _)| *at <= now);
        later = rest;
        for (_, held) in due {
            caller.delete(queue, &held).await;
        }
        let (count, visibility_s) = (caller.dice.random_range(1..=10), caller.dice.random_range(1..=3));
        let wait_s = u32::from(caller.dice.random_ratio(1, 3));
        let held = caller.receive(queue, count, visibility_s, wait_s).await.unwrap_or_default();
        let now = caller.shared.now();
        let after = |ms: u64| now + ms * 1000;
        let mut done = Vec::new();
        for held in held {
            match caller.dice.random_range(0..100) {
                0..60 => done.push(held),
                60..70 => {
                    let late_ms = u64::from(visibility_s) * 1000 + caller.dice.random_range(0..600);
                    later.push((after(late_ms), held));
                }
                70..82 => {
                    let visibility_s = caller.dice.random_range(1..=3);
                    if caller.hide(queue, &held, visibility_s).await {
                        later.push((after(caller.dice.random_range(0..900)), held));
                    }
                }
                82..90 => drop(caller.hide(queue, &held, 0).await),
                _ => {} // it has crashed, as far as the queue can see
            }
        }
        if caller.dice.random_bool(0.5) {
            caller.delete_batch(queue, &done).await;
        } else {
            for held in &done {
                caller.delete(queue, held).await;
            }
        }
        caller.think(20).await;
    }
}

fn url(queue: usize) -> String {
    format!("http://127.0.0.1/000000000000/{}", NAMES[queue])
}

fn entry(content: &Content, delay_s: u32) -> Value {
    let mut entry = json!({"MessageBody": content.body});
    if delay_s > 0 {
        entry["DelaySeconds"] = delay_s.into();
    }
    if !content.attributes.is_null() {
        entry["MessageAttributes"] = content.attributes.clone();
    }
    entry
}

fn outcome(reply: &Reply) -> Option<Outcome> {
    Some(match reply {
        Reply::NotSent => return None,
        Reply::Done(_) => Outcome::Done,
        Reply::Refused { code } => Outcome::Refused(code.clone()),
        Reply::Lost => Outcome::Unknown,
    })
}

/// What became of each entry of a batch, by its id, and the text `field` of its answer.
fn batch<'a>(reply: &'a Reply, field: &'a str) -> Option<impl FnMut(&str) -> (Outcome, Option<String>) + use<'a>> {
    let whole = outcome(reply)?;
    let mut entries: HashMap<&str, (Outcome, Option<String>)> = HashMap::new();
    if let Reply::Done(answer) = reply {
        for entry in answer["Successful"].as_array().into_iter().flatten() {
            let id = entry["Id"].as_str().unwrap_or_default();
            entries.insert(id, (Outcome::Done, entry[field].as_str().map(str::to_owned)));
        }
        for entry in answer["Failed"].as_array().into_iter().flatten() {
            let code = entry["Code"].as_str().unwrap_or_default();
            let refused = if code == "InternalError" { Outcome::Unknown } else { Outcome::Refused(code.to_owned()) };
            entries.insert(entry["Id"].as_str().unwrap_or_default(), (refused, None));
        }
    }
    let rest = if whole == Outcome::Done { Outcome::Unknown } else { whole };
    Some(move |id: &str| entries.remove(id).unwrap_or_else(|| (rest.clone(), None)))
}
