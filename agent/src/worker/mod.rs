//! Workers: the child processes that compute, one at a time in each slot.
//!
//! A slot is a GPU, or the CPU where there is none. It holds at most one worker, which may stay for the next job of the
//! same program; GPU memory is not shared between programs. The built-in types run in a worker like any program of
//! the studio's: there is one mechanism.
//!
//! The kernel's out-of-memory killer is pointed at workers, and the agent outlives them.

pub mod builtin;
pub mod cgroup;
pub mod lines;
pub mod manifest;
pub mod process;
pub mod protocol;
mod room;
mod stderr;

use std::collections::BTreeMap;
use std::time::Duration;

use backlot_wire::{FailureClass, Limits};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;
use tracing::{Span, warn};

use crate::config::Config;
use manifest::Program;
use process::{Launch, Orders, Process, Stop, Verdict};
use protocol::{Said, Task};

/// Longest pause before a worker that keeps ending early is started again.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Name of the program of the built-in types.
pub const BUILTIN: &str = "built-in";

/// The program of the built-in types: this binary itself.
#[must_use]
pub fn builtin_program(config: &Config) -> Program {
    Program {
        name: BUILTIN.into(),
        arguments: vec![
            "--models".into(),
            std::path::absolute(&config.models).unwrap_or_else(|_| config.models.clone()).into(),
            "--threads".into(),
            config.threads.to_string().into(),
            "--executor".into(),
            name_of(config.executor).into(),
            "--precision".into(),
            name_of(config.precision).into(),
        ],
        dir: None,
        env: Default::default(),
        types: crate::infer::KINDS.iter().map(|kind| (*kind).to_owned()).collect(),
        models: Vec::new(),
        requirements: Default::default(),
        keep_alive: true,
        limits: Default::default(),
    }
}

/// A choice as the command line takes it.
fn name_of(value: impl clap::ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// A place to compute.
struct Slot {
    number: usize,
    gpu: Option<u32>,
    process: Option<Process>,
    early_ends: u32,
    /// A worker that ended early is not started again before this.
    rest_until: Option<Instant>,
}

/// All slots of this host.
pub struct Slots {
    idle: Mutex<Vec<Slot>>,
    free: Semaphore,
    launch: Launch,
    /// Told of each worker that ended early.
    restarted: Box<dyn Fn(&'static str) + Send + Sync>,
    /// The models that each slot's worker has loaded, or is loading, by the slot's number.
    loaded: watch::Sender<BTreeMap<usize, Vec<String>>>,
}

/// A slot in use.
pub struct Held<'a> {
    slots: &'a Slots,
    slot: Option<Slot>,
    _permit: SemaphorePermit<'a>,
}

impl Slots {
    /// One slot for each of `gpus`, or `count` without a GPU where that is empty.
    #[must_use]
    pub fn new(
        gpus: Vec<u32>,
        count: usize,
        launch: Launch,
        restarted: Box<dyn Fn(&'static str) + Send + Sync>,
    ) -> Self {
        let gpus: Vec<Option<u32>> =
            if gpus.is_empty() { vec![None; count.max(1)] } else { gpus.into_iter().map(Some).collect() };
        let slot = |(number, gpu)| Slot { number, gpu, process: None, early_ends: 0, rest_until: None };
        let idle: Vec<Slot> = gpus.into_iter().enumerate().map(slot).collect();
        let loaded = watch::Sender::new(BTreeMap::new());
        Self { free: Semaphore::new(idle.len()), idle: Mutex::new(idle), launch, restarted, loaded }
    }

    /// Waits for a slot, in the order of the calls; one that has `program` running is preferred, and of those one that has
    /// `models` loaded.
    pub async fn hold(&self, program: &str, models: &[String]) -> Option<Held<'_>> {
        let permit = self.free.acquire().await.ok()?;
        let mut idle = self.idle.lock();
        let runs = |slot: &Slot| slot.process.as_ref().is_some_and(|process| process.program() == program);
        let best = {
            let loaded = self.loaded.borrow();
            let has = |slot: &Slot| {
                loaded.get(&slot.number).is_some_and(|there| models.iter().all(|name| there.contains(name)))
            };
            let nearness = |slot: &Slot| (runs(slot), runs(slot) && !models.is_empty() && has(slot));
            // The last of equals, so that workers which have just ended a job are taken again.
            idle.iter().enumerate().max_by_key(|(_, slot)| nearness(slot)).map(|(at, _)| at)
        };
        let slot = best.map(|at| idle.swap_remove(at));
        Some(Held { slots: self, slot, _permit: permit })
    }

    /// The models that workers have loaded, or are loading; it changes with them.
    #[must_use]
    pub fn loaded(&self) -> watch::Receiver<BTreeMap<usize, Vec<String>>> {
        self.loaded.subscribe()
    }

    fn has_loaded(&self, slot: usize, models: Option<&[String]>) {
        self.loaded.send_if_modified(|loaded| match models {
            None => loaded.remove(&slot).is_some(),
            Some(models) => loaded.insert(slot, models.to_vec()).is_none_or(|before| before != models),
        });
    }

    /// Ends every idle worker in order.
    pub async fn end(&self) {
        self.free.close();
        let idle = std::mem::take(&mut *self.idle.lock());
        futures::future::join_all(idle.into_iter().filter_map(|slot| slot.process).map(Process::end)).await;
    }
}

impl Held<'_> {
    /// Runs one job in this slot, in the worker that is there or in a new one.
    pub async fn run(
        &mut self,
        program: &Program,
        task: &Task,
        models: &[String],
        limits: &Limits,
        orders: &mut watch::Receiver<Orders>,
        heard: &mut (dyn FnMut(Said) + Send),
    ) -> Verdict {
        let launch = &self.slots.launch;
        let Some(slot) = &mut self.slot else {
            return Verdict::failed(FailureClass::Transient, "there is no slot");
        };
        if let Some(mut old) = slot.process.take_if(|process| process.program() != program.name || !process.is_usable())
        {
            // One that died between two jobs has harmed nobody, but it is worth knowing.
            if program.keep_alive && old.program() == program.name {
                (self.slots.restarted)("idle");
            }
            old.kill().await;
            self.slots.has_loaded(slot.number, None);
        }
        let mut process = match slot.process.take() {
            Some(process) => process,
            None => {
                if let Some(stop) = rest(slot.rest_until, orders).await {
                    return Verdict::Stopped(stop);
                }
                match Process::start(program, slot.gpu, launch) {
                    Ok(process) => process,
                    Err(error) => {
                        let message = format!("start the worker `{}`: {error}", program.name);
                        return Verdict::failed(FailureClass::Transient, message);
                    }
                }
            }
        };
        // A job without a model leaves the one that is there.
        if !models.is_empty() {
            self.slots.has_loaded(slot.number, Some(models));
        }
        let verdict = process.run(task, limits, orders, Span::current(), heard).await;
        let usable = process.is_usable();
        if !usable || (matches!(verdict, Verdict::Failed { .. }) && !models.is_empty()) {
            self.slots.has_loaded(slot.number, None); // whether it was loaded, nobody knows
        }
        match &verdict {
            Verdict::Failed { message, .. } if !usable && !process.ended_as_told() => {
                slot.early_ends = slot.early_ends.saturating_add(1);
                let pause = Duration::from_millis(250 << slot.early_ends.min(8)).min(BACKOFF_MAX);
                slot.rest_until = Some(Instant::now() + pause);
                (self.slots.restarted)(process.how_it_ended());
                warn!(worker = program.name, pause = ?pause, message, "a worker ended early");
            }
            Verdict::Done(_) => {
                slot.early_ends = 0;
                slot.rest_until = None;
            }
            _ => {}
        }
        if usable {
            slot.process = Some(process);
        }
        verdict
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.slots.idle.lock().push(slot);
        }
    }
}

/// Waits for `until`, or for an order to stop.
async fn rest(until: Option<Instant>, orders: &mut watch::Receiver<Orders>) -> Option<Stop> {
    tokio::select! {
        () = tokio::time::sleep_until(until?) => None,
        stop = stopped(orders) => Some(stop),
    }
}

/// Resolves when the attempt is to stop.
pub async fn stopped(orders: &mut watch::Receiver<Orders>) -> Stop {
    loop {
        if let Some(stop) = orders.borrow_and_update().stop {
            return stop;
        }
        if orders.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
