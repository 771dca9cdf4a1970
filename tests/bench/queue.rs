//! The queues over a real control journal: sends, whole cycles, and what a million queued messages take.
//!
//! The million are queued by one child process, which is then killed, and opened again by another: so the memory is that of a
//! process which has done nothing else, and the start is one after kill -9.

use std::error::Error;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use backlot::clock::{Clock, SystemClock};
use backlot::config::JournalConfig;
use backlot::control::{Control, Follower};
use backlot::queue::{Queues, ReceiveRequest, SendRequest};

use crate::Settings;
use crate::appliance::resident_mib;

const CALLERS: usize = 128;
const BODY_BYTES: usize = 1024;
const MILLION: u64 = 1_000_000;
const QUEUE: &str = "bench";
/// What was freed has been given back to the system by then.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) fn run(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let time = Duration::from_secs(settings.seconds);
    println!("{CALLERS} callers, bodies of {BODY_BYTES} bytes, each call answered when it is durable");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;

    let dir = tempfile::tempdir_in(&settings.dir)?;
    let sends = runtime.block_on(async {
        let (queues, control) = open(dir.path()).await?;
        let sends = measure(&queues, time, send).await?;
        let stats = control.journal().stats();
        Ok::<_, Box<dyn Error>>((sends, stats.records as f64 / stats.groups as f64))
    })?;
    println!("{:>12.0} sends/s, {:.1} in a group", sends.0, sends.1);

    let dir = tempfile::tempdir_in(&settings.dir)?;
    let cycles = runtime.block_on(async {
        let (queues, _control) = open(dir.path()).await?;
        measure(&queues, time, cycle).await
    })?;
    println!("{cycles:>12.0} send-receive-delete cycles/s");

    let dir = tempfile::tempdir_in(&settings.dir)?;
    for subject in ["queue-fill", "queue-reopen"] {
        let program = std::env::current_exe()?;
        let mut child = Command::new(program);
        let output = child.arg(subject).arg("--dir").arg(dir.path()).stdout(Stdio::piped()).output()?;
        print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Queues a million messages in `settings.dir`, says how much memory that takes, and dies without an end.
pub(crate) fn fill(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let (queues, _control) = open(&settings.dir).await?;
        let before = resident_mib("self").map_err(crate::plain)?;
        let left = Arc::new(AtomicU64::new(MILLION / 10));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..CALLERS {
            let (queues, left) = (queues.clone(), Arc::clone(&left));
            tasks.spawn(async move {
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    let batch = (0..10).map(|_| message()).collect();
                    queues.send_batch(QUEUE, batch).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
                }
                Ok::<_, backlot::queue::QueueError>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        tokio::time::sleep(SETTLE).await;
        println!(
            "{:>12.0} MiB resident with {MILLION} messages queued, {before:.0} MiB before",
            resident_mib("self").map_err(crate::plain)?
        );
        backlot_tests::signal(std::process::id(), 9);
        Ok(())
    })
}

/// Opens what [`fill`] left.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn reopen(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let began = Instant::now();
        let (queues, _control) = open(&settings.dir).await?;
        let took = began.elapsed();
        let ready: u64 = queues.overview("").iter().map(|queue| queue.ready).sum();
        println!("{:>12.2} s to open {ready} messages after kill -9", took.as_secs_f64());
        tokio::time::sleep(SETTLE).await;
        println!("{:>12.0} MiB resident after that", resident_mib("self").map_err(crate::plain)?);
        crate::backlog::latency(&queues, QUEUE).await
    })
}

pub(crate) async fn open(dir: &Path) -> Result<(Queues, Control), Box<dyn Error>> {
    let (control, replay) = Control::open(dir, &JournalConfig::default())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let queues = Queues::build(control.clone(), Arc::clone(&clock), 1, None);
    let follower: Arc<dyn Follower> = Arc::new(queues.clone());
    replay.run(&[follower], clock.now())?;
    queues.prepare().await?;
    queues.create(QUEUE, &std::collections::BTreeMap::new()).await?;
    Ok((queues, control))
}

fn message() -> SendRequest {
    SendRequest { body: "x".repeat(BODY_BYTES), sender_id: "bench".to_owned(), ..SendRequest::default() }
}

async fn send(queues: Queues) -> Result<(), backlot::queue::QueueError> {
    queues.send(QUEUE, message()).await.map(|_| ())
}

async fn cycle(queues: Queues) -> Result<(), backlot::queue::QueueError> {
    queues.send(QUEUE, message()).await?;
    let asked = ReceiveRequest { messages_max: 1, wait_s: Some(5), ..ReceiveRequest::default() };
    let got = queues.receive(QUEUE, asked).await?;
    let receipts: Vec<_> = got.into_iter().map(|delivery| delivery.receipt).collect();
    queues.delete(QUEUE, &receipts).await?.into_iter().collect()
}

/// How often `act` was done in a second.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
async fn measure<F>(queues: &Queues, time: Duration, act: fn(Queues) -> F) -> Result<f64, Box<dyn Error>>
where
    F: Future<Output = Result<(), backlot::queue::QueueError>> + Send + 'static,
{
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..CALLERS {
        let queues = queues.clone();
        tasks.spawn(async move {
            let mut count = 0_u64;
            while began.elapsed() < time {
                act(queues.clone()).await?;
                count += 1;
            }
            Ok::<_, backlot::queue::QueueError>(count)
        });
    }
    let mut done = 0;
    while let Some(ended) = tasks.join_next().await {
        done += ended??;
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}
