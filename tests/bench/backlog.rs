//! What a backlog costs a consumer: how long a receive takes on a queue with a million messages, beside one that is almost empty.

use std::error::Error;
use std::time::{Duration, Instant};

use backlot::queue::{Queues, ReceiveRequest, SendRequest};

const RECEIVES: usize = 5_000;
/// Messages on the small queue at a time.
const FEW: usize = 10;

/// Receives one message after the other from `backlog`, which holds many, and from a new queue that never holds more than a few.
pub(crate) async fn latency(queues: &Queues, backlog: &str) -> Result<(), Box<dyn Error>> {
    queues.create("few", &std::collections::BTreeMap::new()).await?;
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for _ in 0..RECEIVES / FEW {
        for _ in 0..FEW {
            let message =
                SendRequest { body: "x".repeat(1024), sender_id: "bench".to_owned(), ..SendRequest::default() };
            queues.send("few", message).await?;
        }
        // Turn about, so that whatever else the machine does meets both.
        for _ in 0..FEW {
            few.push(receive(queues, "few").await?);
            many.push(receive(queues, backlog).await?);
        }
    }
    let (few, many) = (percentiles(few), percentiles(many));
    println!("{:>12.2} ms a receive on an almost empty queue (p50), {:.2} ms (p99)", few.0, few.1);
    println!("{:>12.2} ms a receive with the backlog (p50), {:.2} ms (p99)", many.0, many.1);
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a measurement")]
async fn receive(queues: &Queues, queue: &str) -> Result<Duration, Box<dyn Error>> {
    let asked = ReceiveRequest { messages_max: 1, wait_s: Some(5), ..ReceiveRequest::default() };
    let began = Instant::now();
    let got = queues.receive(queue, asked).await?;
    let took = began.elapsed();
    let receipts: Vec<_> = got.into_iter().map(|delivery| delivery.receipt).collect();
    if receipts.is_empty() {
        return Err(format!("nothing was received from `{queue}`").into());
    }
    queues.delete(queue, &receipts).await?;
    Ok(took)
}

/// p50 and p99 in milliseconds.
fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    (at(50), at(99))
}
