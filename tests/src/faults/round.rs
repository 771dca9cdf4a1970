//! One round: a fresh appliance, clients, faults, the drain, and the comparison.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use super::client::{Port, Reply};
use super::disk::Ground;
use super::history::{Call, History, Outcome, Promise, Queue, Violation};
use super::house::{House, PATIENCE};
use super::inject::Injector;
use super::load::{self, Caller, DEAD, LINE, NAMES, PLAIN, RECEIVES_MAX, Shared, WORK};
use super::shim::Shim;
use super::{Fault, check};

/// Violations of one round that are shown.
const SHOWN_MAX: usize = 10;
const IMAGE_BYTES: u64 = 128 << 20;
/// Largest step of the clock, in seconds: what deduplicates is kept well within its five minutes, and so are signatures in their fifteen.
const STEP_S_MAX: i64 = 110;
const STEP_S_MAX_WITHOUT_RETRIES: i64 = 700;

/// How a round went.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub fault: Fault,
    /// What was done, in order.
    pub injected: Vec<String>,
    pub runs: usize,
    pub acknowledged_sends: usize,
    pub received: usize,
    pub acknowledged_deletes: usize,
    /// Operations whose answer was lost.
    pub unanswered: usize,
    pub refused: usize,
    pub took: Duration,
    pub violations: Vec<Violation>,
    /// Where logs and history of a round with violations lie.
    pub kept: Option<PathBuf>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, fault, runs, acknowledged_sends, received, acknowledged_deletes, .. } = self;
        write!(
            f,
            "seed {seed} {fault:?}: {acknowledged_sends} sent, {received} received, {acknowledged_deletes} deleted, {} \
             unanswered, {} refused, {runs} runs, {:.1} s",
            self.unanswered,
            self.refused,
            self.took.as_secs_f64(),
        )?;
        if self.violations.is_empty() {
            return Ok(());
        }
        for violation in self.violations.iter().take(SHOWN_MAX) {
            write!(f, "\n  BROKEN {violation}")?;
        }
        write!(f, "\n  {} violations; faults: {:?}", self.violations.len(), self.injected)?;
        write!(f, "\n  logs and history: {}", self.kept.as_deref().unwrap_or(Path::new("-")).display())
    }
}

/// Plays the round of `seed` about `fault`.
///
/// # Errors
/// The reason why this machine cannot do that: no root, no loop devices, no C compiler.
#[allow(clippy::disallowed_methods, reason = "says how long the round took")]
pub fn round(seed: u64, fault: Fault) -> Result<Report, String> {
    let began = Instant::now();
    let mut dice = ChaCha8Rng::seed_from_u64(seed);
    let retries = dice.random_bool(0.5);
    let workshop = tempfile::tempdir().map_err(|error| format!("a temporary folder: {error}"))?;
    let ground = if fault.needs_disk() { Ground::image(IMAGE_BYTES)? } else { Ground::folder()? };
    let shim = match Shim::build(workshop.path()) {
        Ok(shim) => Some(shim),
        Err(reason) if fault.needs_shim() => return Err(format!("it needs a C compiler ({reason})")),
        Err(_) => None,
    };
    let shared = Shared::new(seed, Port::default(), retries);
    let mut environment: Vec<(String, String)> = SETTINGS.map(|(name, value)| (name.into(), value.into())).to_vec();
    // On a full disk the reserve has to last until somebody makes room.
    let segment_bytes = if fault == Fault::FullDisk { 4 << 20 } else { 1 << 20 };
    environment.push(("BACKLOT_JOURNAL_SEGMENT_BYTES".into(), segment_bytes.to_string()));
    environment.push(("BACKLOT_JOURNAL_RESERVE_BYTES".into(), segment_bytes.to_string()));
    environment.extend(shim.iter().flat_map(Shim::environment));
    let house = House::new(ground.path().join("data"), workshop.path().to_owned(), environment, Arc::clone(&shared));
    let runtime = runtime()?;
    let step_s_max = if retries { STEP_S_MAX } else { STEP_S_MAX_WITHOUT_RETRIES };
    // Fields go in this order: the process before the disk under it.
    let mut injector = Injector::new(house, ground, shim, Arc::clone(&shared), step_s_max);
    injector.begin();
    let fifo = runtime.block_on(prepare(&shared))?;
    let clients = spawn(&runtime, &shared, fifo, &mut dice);
    for act in acts(fault, injector.has_shim(), &mut dice) {
        std::thread::sleep(Duration::from_millis(dice.random_range(300..900)));
        injector.act(act, &runtime, &mut dice);
    }
    std::thread::sleep(Duration::from_millis(dice.random_range(300..900)));
    shared.stop();
    runtime.block_on(clients.join_all());
    injector.calm_down(&mut dice);
    let mut history = History {
        queues: NAMES.map(|name| Queue { name: name.into(), ..Queue::default() }).to_vec(),
        clock_swing_s: injector.clock_swing_s(),
        ..History::default()
    };
    history.queues[WORK].redrive = Some((RECEIVES_MAX, DEAD));
    history.queues[LINE].fifo = true;
    if !injector.gave_up() {
        runtime.block_on(drain(&shared, fifo, &mut history));
    }
    let injected = injector.finish(&mut history);
    history.operations = shared.operations();
    let mut violations = injector.violations();
    if !injector.gave_up() {
        violations.extend(check(&history));
    }
    drop(injector);
    let mut report = report(seed, fault, injected, &history, violations, began.elapsed());
    if !report.violations.is_empty() {
        report.kept = Some(keep(workshop, &history)?);
    }
    Ok(report)
}

/// Keeps the logs of the round, with the history beside them.
fn keep(workshop: TempDir, history: &History) -> Result<PathBuf, String> {
    let folder = workshop.keep();
    let mut text = format!("{:#?}\n{:#?}\n", history.runs, history.queues);
    let mut operations: Vec<_> = history.operations.iter().collect();
    operations.sort_by_key(|operation| operation.begun);
    operations.iter().for_each(|operation| text.push_str(&format!("{operation:?}\n")));
    std::fs::write(folder.join("history"), text).map_err(|error| format!("keep the history: {error}"))?;
    Ok(folder)
}

/// Beside small segments: a journal that is collected at every look, so that everything moves within a round.
const SETTINGS: [(&str, &str); 4] = [
    ("BACKLOT_JOURNAL_SLACK_BYTES", "0"),
    ("BACKLOT_JOURNAL_COLLECT_EVERY_S", "1"),
    ("BACKLOT_ALERTING_INTERVAL_S", "1"),
    ("BACKLOT_TELEMETRY_METRICS_EVERY_S", "1"),
];

fn runtime() -> Result<Runtime, String> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().map_err(|error| format!("a runtime: {error}"))
}

/// Makes the queues. True: FIFO queues are served.
async fn prepare(shared: &Arc<Shared>) -> Result<bool, String> {
    let mut caller = Caller::new(shared, 0);
    let redrive = json!({
        "deadLetterTargetArn": format!("arn:aws:sqs:us-east-1:000000000000:{}", NAMES[DEAD]),
        "maxReceiveCount": RECEIVES_MAX,
    });
    let attributes = [
        (DEAD, json!({})),
        (WORK, json!({"RedrivePolicy": redrive.to_string()})),
        (PLAIN, json!({})),
        (LINE, json!({"FifoQueue": "true"})),
    ];
    let mut fifo = false;
    for (queue, attributes) in attributes {
        let request = json!({"QueueName": NAMES[queue], "Attributes": attributes});
        match caller.ask("CreateQueue", &request).await {
            Reply::Done(_) => fifo = queue == LINE,
            Reply::Refused { .. } if queue == LINE => {}
            other => return Err(format!("make the queue {}: {other:?}", NAMES[queue])),
        }
    }
    Ok(fifo)
}

fn spawn(runtime: &Runtime, shared: &Arc<Shared>, fifo: bool, dice: &mut ChaCha8Rng) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    let mut index = 1;
    let mut caller = || {
        index += 1;
        Caller::new(shared, index)
    };
    let at = runtime.handle();
    for queue in [WORK, WORK, PLAIN] {
        clients.spawn_on(load::produce(caller(), queue), at);
    }
    for queue in [WORK, WORK, WORK, PLAIN, PLAIN] {
        clients.spawn_on(load::consume(caller(), queue), at);
    }
    if fifo {
        for groups in [0..3, 3..5] {
            clients.spawn_on(load::produce_in_order(caller(), groups), at);
        }
        for _ in 0..3 {
            clients.spawn_on(load::consume(caller(), LINE), at);
        }
    }
    if dice.random_bool(0.25) {
        let (mut caller, pause) = (caller(), Duration::from_millis(dice.random_range(500..2500)));
        let purge = async move {
            tokio::time::sleep(pause).await;
            caller.purge(PLAIN).await;
        };
        clients.spawn_on(purge, at);
    }
    clients
}

/// The round's own fault, among others that go with it.
fn acts(fault: Fault, has_shim: bool, dice: &mut ChaCha8Rng) -> Vec<Fault> {
    let mut company = vec![Fault::Kill];
    if has_shim {
        company.extend([Fault::SlowDisk, Fault::ClockStep]);
    }
    let mut acts = vec![fault];
    if matches!(fault, Fault::Kill | Fault::PowerCut | Fault::ClockStep) {
        acts.push(fault);
    }
    for _ in 0..dice.random_range(0..=1) {
        acts.extend(company.choose(dice));
    }
    acts.shuffle(dice);
    acts
}

/// Takes everything off the queues, each after those that feed it, until they say that nothing is left.
async fn drain(shared: &Arc<Shared>, fifo: bool, history: &mut History) {
    let mut caller = Caller::new(shared, u64::from(u16::MAX));
    for (queue, facts) in history.queues.iter_mut().enumerate() {
        let deadline = shared.now() + u64::try_from(PATIENCE.as_micros()).unwrap_or(u64::MAX);
        facts.emptied = queue == LINE && !fifo;
        while !facts.emptied && shared.now() < deadline {
            match caller.consume(queue, 30).await {
                Ok(1..) => {}
                _ => {
                    facts.emptied = caller.holds(queue).await == Some(0);
                    if !facts.emptied {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }
    }
}

fn report(
    seed: u64,
    fault: Fault,
    injected: Vec<String>,
    history: &History,
    mut violations: Vec<Violation>,
    took: Duration,
) -> Report {
    let count = |chosen: fn(&Call) -> bool, outcome: fn(&Outcome) -> bool| {
        let operations = history.operations.iter();
        operations.filter(|operation| chosen(&operation.call) && outcome(&operation.outcome)).count()
    };
    let done = |outcome: &Outcome| *outcome == Outcome::Done;
    let received = history.operations.iter().map(|operation| match &operation.call {
        Call::Receive { got, .. } => got.len(),
        _ => 0,
    });
    let (received, acknowledged_sends) = (received.sum(), count(|call| matches!(call, Call::Send { .. }), done));
    if acknowledged_sends == 0 || received == 0 {
        let what = "nothing was sent and received, so nothing was tried".to_owned();
        violations.push(Violation { promise: Promise::Served, what });
    }
    Report {
        seed,
        fault,
        injected,
        runs: history.runs.len(),
        acknowledged_sends,
        received,
        acknowledged_deletes: count(|call| matches!(call, Call::Delete { .. }), done),
        unanswered: count(|_| true, |outcome| *outcome == Outcome::Unknown),
        refused: count(|_| true, |outcome| matches!(outcome, Outcome::Refused(_))),
        took,
        violations,
        kept: None,
    }
}
