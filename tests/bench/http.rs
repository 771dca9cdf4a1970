//! The queue over its AWS door, with signatures, as the studio's programs use it; beside BullMQ on a Redis that syncs each
//! command, on the same disk in the same run.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Settings;
use crate::appliance::Appliance;
use crate::client::{Client, Failure};
use crate::peers;

const CONNECTIONS: usize = 16;
const BODY_BYTES: usize = 1024;
const WAITING: usize = 10_000;

pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    let time = Duration::from_secs(settings.seconds);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{CONNECTIONS} connections, signed calls, bodies of {BODY_BYTES} bytes, each answer durable");

    let dir = tempfile::tempdir_in(&settings.dir)?;
    let appliance = Appliance::start(&dir.path().join("data"), &dir.path().join("log"))?;
    let url = runtime.block_on(create(&appliance.aws, "bench"))?;
    let sends = runtime.block_on(measure(&appliance.aws, &url, time, send))?;
    println!("{sends:>12.0} SendMessage/s");
    let batched = runtime.block_on(measure(&appliance.aws, &url, time, send_batch))?;
    println!("{batched:>12.0} messages/s by SendMessageBatch of 10");
    let taken = runtime.block_on(measure(&appliance.aws, &url, time, take))?;
    println!("{taken:>12.0} messages/s by ReceiveMessage and DeleteMessageBatch of 10");
    drop(appliance);

    match peers::bullmq(&settings.dir, CONNECTIONS, BODY_BYTES, settings.seconds) {
        Ok(peer) => {
            println!("{:>12.0} jobs/s added by BullMQ, Redis with appendfsync always ({})", peer.added, peer.versions);
            println!("{:>12.0} jobs/s added by BullMQ in bulks of 10", peer.added_bulk);
            println!("{:>12.0} jobs/s taken by a BullMQ worker", peer.taken);
            println!(
                "{:>12.2} x BullMQ for sends, {:.2} x for receive and delete",
                sends / peer.added,
                taken / peer.taken
            );
        }
        Err(problem) => println!("BullMQ was not measured: {problem}"),
    }
    Ok(())
}

/// What waiting costs: memory of ten thousand long polls, and how soon a send reaches one of them.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn waiting(settings: &Settings) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dir = tempfile::tempdir_in(&settings.dir)?;
    let appliance = Appliance::start(&dir.path().join("data"), &dir.path().join("log"))?;
    let aws = appliance.aws.clone();
    let mut reached = runtime.block_on(async {
        let url = create(&aws, "bench").await?;
        let mut reached = Vec::new();
        let (mut sender, mut receiver) = (Client::connect(&aws).await?, Client::connect(&aws).await?);
        for _ in 0..200 {
            let wait = json!({"QueueUrl": url, "WaitTimeSeconds": 20});
            let got = async {
                let answer = receiver.sqs("ReceiveMessage", &wait).await?;
                Ok::<_, Failure>((Instant::now(), answer))
            };
            let sent = async {
                tokio::time::sleep(Duration::from_millis(15)).await; // the poll is waiting by then
                let began = Instant::now();
                sender.sqs("SendMessage", &json!({"QueueUrl": url, "MessageBody": "x"})).await?;
                Ok::<_, Failure>((began, Instant::now()))
            };
            let (got, sent) = tokio::join!(got, sent);
            let ((at, answer), (began, _)) = (got?, sent?);
            reached.push(at.duration_since(began));
            let receipt = &answer["Messages"][0]["ReceiptHandle"];
            receiver.sqs("DeleteMessage", &json!({"QueueUrl": url, "ReceiptHandle": receipt})).await?;
        }
        Ok::<_, Failure>(reached)
    })?;
    reached.sort_unstable();
    println!(
        "{:>12.2} ms from the call of a send to its message in a waiting receive (p50), {:.2} ms (p99)",
        reached[reached.len() / 2].as_secs_f64() * 1000.0,
        reached[reached.len() * 99 / 100].as_secs_f64() * 1000.0
    );
    let before = appliance.resident_mib()?;
    let during = runtime.block_on(async {
        let url = create(&aws, "empty").await?;
        let mut polls = tokio::task::JoinSet::new();
        for _ in 0..WAITING {
            let (aws, url) = (aws.clone(), url.clone());
            polls.spawn(async move {
                let mut client = Client::connect(&aws).await?;
                client.sqs("ReceiveMessage", &json!({"QueueUrl": url, "WaitTimeSeconds": 20})).await
            });
        }
        tokio::time::sleep(Duration::from_secs(12)).await;
        let during = appliance.resident_mib()?;
        let (mut ended, mut refused) = (0, 0);
        while let Some(poll) = polls.join_next().await {
            match poll? {
                Ok(_) => ended += 1,
                Err(_) => refused += 1,
            }
        }
        println!("{ended:>12} of {WAITING} waiting receives ended empty, {refused} were refused");
        Ok::<_, Failure>(during)
    })?;
    println!("{:>12.0} MiB more while {WAITING} receives waited ({before:.0} MiB before)", during - before);
    Ok(())
}

pub(crate) async fn create(aws: &str, name: &str) -> Result<String, Failure> {
    let mut client = Client::connect(aws).await?;
    let made = client.sqs("CreateQueue", &json!({"QueueName": name})).await?;
    Ok(made["QueueUrl"].as_str().unwrap_or_default().to_owned())
}

/// One round of calls; how many messages they moved.
type Round<'a> = Pin<Box<dyn Future<Output = Result<usize, Failure>> + Send + 'a>>;

fn send<'a>(client: &'a mut Client, url: &'a str) -> Round<'a> {
    Box::pin(async move {
        client.sqs("SendMessage", &json!({"QueueUrl": url, "MessageBody": "x".repeat(BODY_BYTES)})).await?;
        Ok(1)
    })
}

fn send_batch<'a>(client: &'a mut Client, url: &'a str) -> Round<'a> {
    Box::pin(async move {
        let body = "x".repeat(BODY_BYTES);
        let entries: Vec<Value> = (0..10).map(|n| json!({"Id": n.to_string(), "MessageBody": body})).collect();
        client.sqs("SendMessageBatch", &json!({"QueueUrl": url, "Entries": entries})).await?;
        Ok(10)
    })
}

fn take<'a>(client: &'a mut Client, url: &'a str) -> Round<'a> {
    Box::pin(async move {
        let got = client.sqs("ReceiveMessage", &json!({"QueueUrl": url, "MaxNumberOfMessages": 10})).await?;
        let messages = got["Messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        if messages.is_empty() {
            return Err("the queue ran dry: fill it for longer".into());
        }
        let receipts = messages.iter().enumerate();
        let entries: Vec<Value> =
            receipts.map(|(n, m)| json!({"Id": n.to_string(), "ReceiptHandle": m["ReceiptHandle"]})).collect();
        client.sqs("DeleteMessageBatch", &json!({"QueueUrl": url, "Entries": entries})).await?;
        Ok(messages.len())
    })
}

/// Messages a second that `CONNECTIONS` clients move.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
async fn measure(
    aws: &str,
    url: &str,
    time: Duration,
    round: for<'a> fn(&'a mut Client, &'a str) -> Round<'a>,
) -> Result<f64, Failure> {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (aws, url) = (aws.to_owned(), url.to_owned());
        tasks.spawn(async move {
            let mut client = Client::connect(&aws).await?;
            let mut moved = 0;
            while began.elapsed() < time {
                moved += round(&mut client, &url).await?;
            }
            Ok::<_, Failure>(moved)
        });
    }
    let mut moved = 0;
    while let Some(ended) = tasks.join_next().await {
        moved += ended??;
    }
    Ok(moved as f64 / began.elapsed().as_secs_f64())
}
