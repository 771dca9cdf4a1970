//! `backlot-agent run`: registers, receives, drains.
//!
//! A seat is the right to hold a job that has not left its slot: one for each slot and `ahead` more, so that the next job's
//! inputs are fetched while one computes; jobs that are received to be computed with another one have seats of their own. On SIGTERM nothing more is received; jobs that have not begun go back at once,
//! those under way have the grace, and then go back too. A second signal ends everything where it stands: the queue
//! knows what to do with jobs whose host is gone.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backlot_wire::{AgentRegistration, GpuInfo, metrics};
use opentelemetry::KeyValue;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::attempt::company::Line;
use crate::clock::Clock;
use crate::config::Config;
use crate::door::{Door, basic};
use crate::events::{Outbox, spool::Spool};
use crate::host::Gpus;
use crate::http_client::HttpClient;
use crate::infer::choice::Wish;
use crate::journald::Journald;
use crate::library::{Library, Meters};
use crate::queue::Queue;
use crate::signals::Signals;
use crate::store::Store;
use crate::worker::cgroup::Cgroup;
use crate::worker::manifest::Program;
use crate::worker::process::Launch;
use crate::worker::{Slots, builtin_program};
use crate::{attempt, aws, probe};

/// Jobs that a GPU computes together where the configuration does not say.
const BATCH: usize = 4;
/// Most models that a registration names.
const MODELS_MAX: usize = 512;
/// Shortest time between two registrations that say which models are loaded.
const LOADED_PAUSE: Duration = Duration::from_millis(500);
/// How long the first receive waits for the first registration.
const REGISTRATION_PATIENCE: Duration = Duration::from_secs(10);

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    Working,
    /// Nothing new; what computes may finish.
    Finishing,
    /// The grace is over: everything goes back.
    GiveBack,
}

/// What all attempts share.
pub struct Agent {
    pub config: Config,
    pub scratch: PathBuf,
    pub programs: Vec<Program>,
    pub queue: Arc<Queue>,
    pub store: Arc<Store>,
    pub library: Arc<Library>,
    pub outbox: Arc<Outbox>,
    pub slots: Arc<Slots>,
    /// Attempts that wait for a slot.
    pub line: Line,
    /// Uploads at once.
    pub uploads: Semaphore,
    pub drain: watch::Receiver<Drain>,
    /// The appliance has asked this agent to take nothing more.
    pub drain_asked: Arc<watch::Sender<bool>>,
    /// The appliance has answered a registration: it gives no job to a name that it does not know.
    pub registered: watch::Sender<bool>,
    /// Notified at the beginning and the end of each attempt, so that the host is looked at.
    pub sample: Arc<Notify>,
}

/// Why the agent did not start, or ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Configuration(String),
    #[error("{0}")]
    Fault(String),
}

/// Runs until it is told to end.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: Config, programs: Vec<Program>, clock: Clock) -> Result<(), RunError> {
    let shared = aws::load(&config).await;
    let credentials = aws::credentials(&shared).await.map_err(RunError::Configuration)?;
    let authorization = basic(credentials.access_key_id(), credentials.secret_access_key());
    let http = HttpClient::new().map_err(|error| RunError::Fault(format!("read the root certificates: {error}")))?;
    let signals = Signals::start(&config, &http, &authorization).map_err(RunError::Configuration)?;
    let result = serve(config, programs, clock, &shared, http, authorization, &signals).await;
    // The exporters' threads wait for this runtime, so they are waited for outside of it.
    let _ = tokio::task::spawn_blocking(move || signals.end()).await;
    result
}

async fn serve(
    config: Config,
    programs: Vec<Program>,
    clock: Clock,
    shared: &aws_config::SdkConfig,
    http: HttpClient,
    authorization: String,
    signals: &Signals,
) -> Result<(), RunError> {
    let fault = |what: &str, error: &dyn std::fmt::Display| RunError::Fault(format!("{what}: {error}"));
    let scratch = std::path::absolute(&config.scratch).map_err(|error| fault("scratch folder", &error))?;
    // Whatever lies here is of attempts that ended with their agent.
    let _ = std::fs::remove_dir_all(scratch.join("jobs"));
    std::fs::create_dir_all(scratch.join("jobs"))
        .map_err(|error| RunError::Configuration(format!("`scratch` {}: {error}", scratch.display())))?;
    let spool =
        Spool::open(&scratch.join("spool"), config.spool_bytes_max).map_err(|error| fault("event spool", &error))?;
    let follows = !config.otlp.is_empty() && !config.journald_units.is_empty();
    let journald = follows
        .then(|| Journald::new(&config.journald_units, http.clone(), &config.otlp, authorization.clone(), &scratch));
    let door = (!config.http.is_empty()).then(|| Door::new(http, &config.http, authorization));
    let outbox = Outbox::new(door.clone(), spool, clock);

    let gpus = Gpus::open();
    let (types, models, not_offered) = probe::offer(&config, &programs, &gpus.list("cpu"));
    for (what, lack) in &not_offered {
        warn!(what, lack, "not offered");
    }
    if types.is_empty() {
        return Err(RunError::Configuration(
            "this host can run no job type: no model files in `models`, no programs in `manifests`".into(),
        ));
    }
    let mut programs: Vec<Program> =
        programs.into_iter().filter(|program| program.types.iter().all(|kind| types.contains(kind))).collect();
    programs.push(Program {
        types: types.iter().filter(|kind| crate::infer::KINDS.contains(&kind.as_str())).cloned().collect(),
        ..builtin_program(&config)
    });

    let gpu_list = gpus.list("cpu");
    let gpu_count = u32::try_from(gpu_list.len()).unwrap_or(0);
    let wanted = if config.slots == 0 { gpu_count.max(1) } else { u32::try_from(config.slots).unwrap_or(64) };
    let slot_gpus: Vec<u32> =
        if gpu_count == 0 { Vec::new() } else { (0..wanted).map(|slot| slot % gpu_count).collect() };
    let slot_count = usize::try_from(wanted).unwrap_or(1);
    let cgroup = (!config.cgroup.is_empty()).then(|| Cgroup::open(&config.cgroup)).transpose();
    let cgroup = cgroup.map_err(|problem| RunError::Configuration(format!("`cgroup`: {problem}")))?;
    for program in &programs {
        let not_held = Cgroup::not_held(cgroup.as_deref(), &program.limits);
        if !not_held.is_empty() {
            warn!(program = program.name, limits = ?not_held, "limits are not held: they need a cgroup (`cgroup`)");
        }
    }
    let launch = Launch {
        // The image that runs, also after an upgrade has put another file in its place.
        agent: PathBuf::from("/proc/self/exe"),
        line_bytes_max: config.line_bytes_max,
        cancel_grace: Duration::from_secs(config.cancel_grace_s),
        hard_limit_s: config.hard_limit_s,
        output_bytes_max: config.output_bytes_max,
        cgroup,
    };
    let restarts = signals.counter(&metrics::AGENT_WORKER_RESTARTS);
    let name = config.name.clone();
    let restarted = Box::new(move |reason: &'static str| {
        restarts.add(1, &[KeyValue::new("agent", name.clone()), KeyValue::new("reason", reason)]);
    });
    signals.observe_host(&config.name, gpus.clone(), Arc::clone(&outbox));

    let store = Arc::new(Store::new(shared, Duration::from_secs(config.patience_s)));
    let meters = Meters {
        wanted: signals.counter(&metrics::AGENT_MODELS_WANTED),
        fetched_bytes: signals.counter(&metrics::AGENT_MODEL_FETCHED_BYTES),
        fetch_seconds: signals.counter_of_seconds(&metrics::AGENT_MODEL_FETCH_SECONDS),
        evictions: signals.counter(&metrics::AGENT_MODEL_EVICTIONS),
    };
    let library = Library::open(&config, &scratch, Arc::clone(&store), meters).map_err(RunError::Configuration)?;
    signals.observe_library(&config.name, Arc::clone(&library));

    // A CPU computes no two pictures faster than one after the other.
    let on_gpu = gpu_count > 0 && matches!(config.executor, Wish::Auto | Wish::Cuda);
    let batch = match config.batch {
        0 if on_gpu => BATCH,
        0 => 1,
        set => set,
    };
    let together = signals.counter(&metrics::AGENT_JOBS_TOGETHER);

    let mut background = JoinSet::new();
    let sample = signals.sampler(&mut background);
    let (drain, drain_state) = watch::channel(Drain::Working);
    let agent = Arc::new(Agent {
        queue: Arc::new(Queue::new(shared, &config)),
        store,
        library,
        outbox: Arc::clone(&outbox),
        slots: Slots::new(slot_gpus, slot_count, launch, restarted),
        line: Line::new(slot_count, batch, Duration::from_millis(config.batch_wait_ms), together),
        uploads: Semaphore::new(slot_count * batch.max(2)),
        drain: drain_state,
        drain_asked: Arc::new(watch::Sender::new(false)),
        registered: watch::Sender::new(door.is_none()),
        sample,
        scratch,
        programs,
        config,
    });
    let registration = registration(&agent.config, types, models, gpu_list);
    info!(name = agent.config.name, queue = agent.config.queue, slots = slot_count, types = ?registration.types, "the agent takes jobs");

    background.spawn(outbox.run());
    if let Some(journald) = journald {
        background.spawn(journald.run());
    }
    if let Some(door) = door.clone() {
        background.spawn(register(Arc::clone(&agent), door, registration.clone()));
    }
    let seats = Arc::new(Semaphore::new(slot_count * (1 + agent.config.ahead)));
    let work = tokio::spawn(receive(Arc::clone(&agent), seats));
    let forced = end_in_order(&agent, &drain, work).await?;
    background.shutdown().await;
    if forced {
        return Err(RunError::Fault("ended by a second signal; jobs under way come back from the queue".into()));
    }
    agent.slots.end().await;
    if let Some(door) = door {
        let last = AgentRegistration { draining: true, stopped: true, ..registration };
        if let Err(problem) = door.register(&agent.config.name, &last).await {
            warn!(%problem, "could not say that this agent ends; it will be missed");
        }
    }
    info!("the agent has ended");
    Ok(())
}

/// Waits for signals, and then for the jobs. True: a second signal has cut it short.
async fn end_in_order(
    agent: &Agent,
    drain: &watch::Sender<Drain>,
    mut work: tokio::task::JoinHandle<()>,
) -> Result<bool, RunError> {
    let fault = |error: std::io::Error| RunError::Fault(format!("listen for signals: {error}"));
    let mut term = signal(SignalKind::terminate()).map_err(fault)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(fault)?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut work => return Err(RunError::Fault(format!("the receive loop ended: {ended:?}"))),
    }
    let grace = Duration::from_secs(agent.config.grace_s);
    info!(grace_s = agent.config.grace_s, "draining: nothing more is received");
    drain.send_replace(Drain::Finishing);
    // Giving back takes a moment too, and is part of the grace.
    let giving_back = (Duration::from_secs(agent.config.cancel_grace_s + 2)).min(grace / 2);
    let mut deadline = Box::pin(tokio::time::sleep(grace - giving_back));
    loop {
        tokio::select! {
            _ = term.recv() => return Ok(true),
            _ = interrupt.recv() => return Ok(true),
            _ = &mut work => return Ok(false),
            () = &mut deadline => {
                if *drain.borrow() == Drain::GiveBack {
                    warn!("jobs could not be given back in time; they come back from the queue");
                    return Ok(false);
                }
                info!("the grace is over: jobs under way are given back");
                drain.send_replace(Drain::GiveBack);
                deadline = Box::pin(tokio::time::sleep(giving_back + Duration::from_secs(5)));
            }
        }
    }
}

/// Receives until it drains, and then waits for the attempts under way.
async fn receive(agent: Arc<Agent>, seats: Arc<Semaphore>) {
    let mut attempts = JoinSet::new();
    let mut drain = agent.drain.clone();
    let mut asked = agent.drain_asked.subscribe();
    let mut registered = agent.registered.subscribe();
    tokio::select! {
        // A queue may answer while the http door is away; then it knows us from before, or it is a plain one.
        _ = tokio::time::timeout(REGISTRATION_PATIENCE, registered.wait_for(|registered| *registered)) => {}
        _ = drain.changed() => {}
    }
    let mut pause = Duration::from_millis(500);
    while *drain.borrow_and_update() == Drain::Working {
        while let Some(ended) = attempts.try_join_next() {
            log_end(ended);
        }
        let taken = tokio::select! {
            _ = drain.changed() => continue,
            taken = take_one(&agent, &seats, &mut asked) => taken,
        };
        match taken {
            Ok(Some((delivery, seat))) => {
                pause = Duration::from_millis(500);
                attempts.spawn(attempt::lead(Arc::clone(&agent), delivery, seat));
            }
            Ok(None) => pause = Duration::from_millis(500),
            Err(problem) => {
                warn!(problem, pause = ?pause, "no job can be received");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = drain.changed() => {}
                }
                pause = (pause * 2).min(Duration::from_secs(5));
            }
        }
    }
    while let Some(ended) = attempts.join_next().await {
        log_end(ended);
    }
}

type Taken = (crate::queue::Delivery, tokio::sync::OwnedSemaphorePermit);

async fn take_one(
    agent: &Agent,
    seats: &Arc<Semaphore>,
    asked: &mut watch::Receiver<bool>,
) -> Result<Option<Taken>, String> {
    let seat = Arc::clone(seats).acquire_owned().await.map_err(|error| error.to_string())?;
    // The appliance may have asked to drain; its next registration answer may take that back.
    asked.wait_for(|asked| !asked).await.map_err(|error| error.to_string())?;
    let delivery = agent.queue.receive().await.map_err(|error| error.to_string())?;
    Ok(delivery.map(|delivery| (delivery, seat)))
}

pub(crate) fn log_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(problem) = ended {
        error!(%problem, "an attempt ended with a fault of the agent; its job comes back from the queue");
    }
}

fn registration(config: &Config, types: Vec<String>, models: Vec<String>, gpus: Vec<GpuInfo>) -> AgentRegistration {
    let cpu = GpuInfo { name: "CPU".into(), vram_bytes: 0, sm: None, executor: "cpu".into() };
    AgentRegistration {
        version: env!("CARGO_PKG_VERSION").into(),
        host: crate::config::host_name(),
        types,
        models,
        loaded: Vec::new(),
        gpus: if gpus.is_empty() { vec![cpu] } else { gpus },
        labels: config.label_map(),
        instance_type: Some(config.instance_type.clone()).filter(|kind| !kind.is_empty()),
        spot: config.spot,
        draining: false,
        stopped: false,
        attempts: Vec::new(),
    }
}

/// Registers at the start, every `register_s`, and at once when the drain begins.
async fn register(agent: Arc<Agent>, door: Door, mut registration: AgentRegistration) {
    let mut drain = agent.drain.clone();
    let mut loaded = agent.slots.loaded();
    let own = std::mem::take(&mut registration.models);
    let mut away = false;
    let mut draining_told = false;
    loop {
        registration.models = own.iter().cloned().chain(agent.library.names()).take(MODELS_MAX).collect();
        let in_memory: BTreeSet<String> = loaded.borrow_and_update().values().flatten().cloned().collect();
        registration.loaded = in_memory.into_iter().take(MODELS_MAX).collect();
        registration.draining = *drain.borrow_and_update() != Drain::Working;
        registration.attempts = agent.outbox.live_attempts();
        draining_told |= registration.draining;
        let mut pause = Duration::from_secs(agent.config.register_s);
        match door.register(&agent.config.name, &registration).await {
            Ok(directive) => {
                agent.registered.send_replace(true);
                if std::mem::take(&mut away) {
                    info!("registered again");
                }
                if agent.drain_asked.send_replace(directive.drain) != directive.drain {
                    info!(drain = directive.drain, "the appliance decides whether this agent takes jobs");
                }
            }
            Err(problem) => {
                if !std::mem::replace(&mut away, true) {
                    warn!(%problem, "the agent is not registered");
                }
                pause = pause.min(Duration::from_secs(2));
            }
        }
        // Other models are told at once, so that the next job can be one for them, but not more often than this.
        let other_models = async {
            tokio::time::sleep(pause.min(LOADED_PAUSE)).await;
            let _ = loaded.changed().await;
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = other_models => {}
            _ = drain.changed(), if !draining_told => {}
        }
    }
}
