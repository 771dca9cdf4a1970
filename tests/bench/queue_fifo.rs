//! A FIFO queue with 200,000 messages in 10,000 groups beside a standard queue with as many: filled and drained in batches of ten,
//! each call durable.
//!
//! A receive takes ten messages at once; on the FIFO queue those are of one group as far as it has as many, and the group is locked until
//! they are deleted.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use backlot::queue::{QueueError, Queues, ReceiveRequest, SendRequest};

use crate::Settings;
use crate::appliance::resident_mib;
use crate::queue::open;

const CALLERS: usize = 128;
const BODY_BYTES: usize = 1024;
const MESSAGES: u64 = 200_000;
const GROUPS: u64 = 10_000;
const BATCH: u64 = 10;
const STANDARD: &str = "bench";
const FIFO: &str = "bench.fifo";

pub(crate) fn run(settings: &Settings) -> Result<(), Box<dyn Error>> {
    println!("{CALLERS} callers, batches of {BATCH} messages of {BODY_BYTES} bytes, {MESSAGES} messages");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut rates = Vec::new();
    for queue in [STANDARD, FIFO] {
        let dir = tempfile::tempdir_in(&settings.dir)?;
        let measured = runtime.block_on(async {
            let (queues, _control) = open(dir.path()).await?;
            if queue == FIFO {
                let attributes = BTreeMap::from([("FifoQueue".to_owned(), "true".to_owned())]);
                queues.create(FIFO, &attributes).await?;
            }
            let before = resident_mib("self").map_err(crate::plain)?;
            let filled = shared_out(&queues, queue, fill).await?;
            let resident = resident_mib("self").map_err(crate::plain)?;
            let drained = shared_out(&queues, queue, drain).await?;
            Ok::<_, Box<dyn Error>>((filled, drained, resident - before))
        })?;
        let (filled, drained, mib) = measured;
        println!("{filled:>12.0} messages/s sent to {queue}");
        println!("{drained:>12.0} messages/s received from it and deleted");
        println!("{mib:>12.0} MiB more resident with all of them queued");
        rates.push((filled, drained));
    }
    if let [(sent, drained), (fifo_sent, fifo_drained)] = rates[..] {
        println!("{:>12.2} times as long to send to FIFO as to standard", sent / fifo_sent);
        println!("{:>12.2} times as long to drain", drained / fifo_drained);
    }
    Ok(())
}

/// Messages a second, where the callers share [`MESSAGES`] among them.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
async fn shared_out<F>(
    queues: &Queues,
    queue: &'static str,
    act: fn(Queues, &'static str, Arc<AtomicU64>) -> F,
) -> Result<f64, Box<dyn Error>>
where
    F: Future<Output = Result<(), QueueError>> + Send + 'static,
{
    let done = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        tasks.spawn(act(queues.clone(), queue, Arc::clone(&done)));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(MESSAGES as f64 / began.elapsed().as_secs_f64())
}

async fn fill(queues: Queues, queue: &'static str, sent: Arc<AtomicU64>) -> Result<(), QueueError> {
    loop {
        let from = sent.fetch_add(BATCH, Ordering::Relaxed);
        if from >= MESSAGES {
            return Ok(());
        }
        let message = |number: u64| SendRequest {
            body: "x".repeat(BODY_BYTES),
            sender_id: "bench".to_owned(),
            group_id: (queue == FIFO).then(|| (number % GROUPS).to_string()),
            deduplication_id: (queue == FIFO).then(|| number.to_string()),
            ..SendRequest::default()
        };
        let batch = (from..from + BATCH).map(message).collect();
        queues.send_batch(queue, batch).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
    }
}

async fn drain(queues: Queues, queue: &'static str, deleted: Arc<AtomicU64>) -> Result<(), QueueError> {
    while deleted.load(Ordering::Relaxed) < MESSAGES {
        let asked = ReceiveRequest { messages_max: BATCH as usize, wait_s: Some(0), ..ReceiveRequest::default() };
        let got = queues.receive(queue, asked).await?;
        if got.is_empty() {
            tokio::task::yield_now().await; // the rest is in others' hands
            continue;
        }
        let receipts: Vec<_> = got.into_iter().map(|delivery| delivery.receipt).collect();
        queues.delete(queue, &receipts).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
        deleted.fetch_add(receipts.len() as u64, Ordering::Relaxed);
    }
    Ok(())
}
