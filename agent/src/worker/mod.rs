//! Workers: the child processes that compute, one in each slot, with one job or with several that are alike.
//!
//! A slot is a GPU, or the CPU where there is none. It holds at most one worker, which may stay for the next job of the
//! same program; GPU memory is not shared between programs. The built-in types run in a worker like any program of
//! the studio's: there is one mechanism.
//!
//! The kernel's out-of-memory killer is pointed at workers, and the agent outlives them.

pub mod builtin;
pub mod cgroup;
pub mod charge;
pub mod lines;
pub mod manifest;
pub mod process;
pub mod protocol;
mod room;
mod stderr;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backlot_wire::FailureClass;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tracing::warn;

use crate::config::Config;
use charge::{Account, Member, any_changes};
use manifest::Program;
use process::{Launch, Orders, Process, Stop, Verdict};

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
    free: Arc<Semaphore>,
    launch: Launch,
    /// Told of each worker that ended early.
    restarted: Box<dyn Fn(&'static str) + Send + Sync>,
    /// The models that each slot's worker has loaded, or is loading, by the slot's number.
    loaded: watch::Sender<BTreeMap<usize, Vec<String>>>,
}

/// A slot in use.
pub struct Held {
    slots: Arc<Slots>,
    slot: Option<Slot>,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    /// One slot for each of `gpus`, or `count` without a GPU where that is empty.
    #[must_use]
    pub fn new(
        gpus: Vec<u32>,
        count: usize,
        launch: Launch,
        restarted: Box<dyn Fn(&'static str) + Send + Sync>,
    ) -> Arc<Self> {
        let gpus: Vec<Option<u32>> =
            if gpus.is_empty() { vec![None; count.max(1)] } else { gpus.into_iter().map(Some).collect() };
        let slot = |(number, gpu)| Slot { number, gpu, process: None, early_ends: 0, rest_until: None };
        let idle: Vec<Slot> = gpus.into_iter().enumerate().map(slot).collect();
        let loaded = watch::Sender::new(BTreeMap::new());
        let free = Arc::new(Semaphore::new(idle.len()));
        Arc::new(Self { free, idle: Mutex::new(idle), launch, restarted, loaded })
    }

    /// Waits for a slot, in the order of the calls; one that has `program` running is preferred, and of those one that has
    /// `models` loaded.
    pub async fn hold(self: &Arc<Self>, program: &str, models: &[String]) -> Option<Held> {
        let permit = Arc::clone(&self.free).acquire_owned().await.ok()?;
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
        Some(Held { slots: Arc::clone(self), slot, _permit: permit })
    }

    /// Whether every slot has work: what comes now has to wait.
    #[must_use]
    pub fn are_taken(&self) -> bool {
        self.free.available_permits() == 0
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

impl Held {
    /// Runs one job in this slot, or several together, in the worker that is there or in a new one. Each hears of its own end,
    /// which may come before this returns. Several are for [`BUILTIN`] alone.
    pub async fn run(&mut self, program: &Program, models: &[String], mut members: Vec<Member<'_>>) {
        let launch = &self.slots.launch;
        let Some(slot) = &mut self.slot else {
            return end_all(members, &Verdict::failed(FailureClass::Transient, "there is no slot"));
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
                rest(slot.rest_until, &mut members).await;
                if members.is_empty() {
                    return;
                }
                match Process::start(program, slot.gpu, launch) {
                    Ok(process) => process,
                    Err(error) => {
                        let message = format!("start the worker `{}`: {error}", program.name);
                        return end_all(members, &Verdict::failed(FailureClass::Transient, message));
                    }
                }
            }
        };
        // A job without a model leaves the one that is there.
        if !models.is_empty() {
            self.slots.has_loaded(slot.number, Some(models));
        }
        let Account { done, failed, message } = process.run(members).await;
        let usable = process.is_usable();
        if !usable || (failed > 0 && done == 0 && !models.is_empty()) {
            self.slots.has_loaded(slot.number, None); // whether it was loaded, nobody knows
        }
        if failed > 0 && !usable && !process.ended_as_told() {
            slot.early_ends = slot.early_ends.saturating_add(1);
            let pause = Duration::from_millis(250 << slot.early_ends.min(8)).min(BACKOFF_MAX);
            slot.rest_until = Some(Instant::now() + pause);
            (self.slots.restarted)(process.how_it_ended());
            warn!(worker = program.name, pause = ?pause, message, "a worker ended early");
        } else if done > 0 {
            slot.early_ends = 0;
            slot.rest_until = None;
        }
        if usable {
            slot.process = Some(process);
        }
    }
}

fn end_all(members: Vec<Member<'_>>, verdict: &Verdict) {
    members.into_iter().for_each(|member| (member.ended)(verdict.clone()));
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.slots.idle.lock().push(slot);
        }
    }
}

/// Waits for `until`; those that are to stop before end at once.
async fn rest(until: Option<Instant>, members: &mut Vec<Member<'_>>) {
    let Some(until) = until else { return };
    let mut ordered = vec![true; members.len()];
    while Instant::now() < until && !members.is_empty() {
        let mut goes_on = ordered.into_iter();
        ordered = Vec::with_capacity(members.len());
        members.retain_mut(|member| {
            let can_change = goes_on.next().unwrap_or_default();
            let stop = member.orders.borrow_and_update().stop;
            match stop {
                Some(stop) => (member.ended)(Verdict::Stopped(stop)),
                None => ordered.push(can_change),
            }
            stop.is_none()
        });
        let all = members.iter_mut().map(|member| &mut member.orders).zip(&mut ordered);
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = any_changes(all) => {}
        }
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
