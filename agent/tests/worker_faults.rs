//! A built-in worker whose executor runs out of memory, panics, or loses its device for good: what becomes of its job, and how soon
//! there is another worker.
//!
//! This program is the worker too: the supervisor starts it as it would start the agent, and it serves with an executor that fails
//! as the job's prompt says. It has its own `main`, because libtest would talk on the worker's standard output.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

mod one;
mod tiny;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use backlot_agent::config::Config;
use backlot_agent::infer::choice::Wish;
use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::executor::{ExecError, Executor, Free, Input, Output, Program};
use backlot_agent::infer::graph::{Graph, GraphError, Plan, TensorType};
use backlot_agent::infer::weights::Weights;
use backlot_agent::infer::{Engine, EngineOptions};
use backlot_agent::worker::process::{Launch, Orders, Stop, Verdict};
use backlot_agent::worker::protocol::{Said, Task};
use backlot_agent::worker::{Slots, builtin, builtin_program};
use backlot_wire::{FailureClass, Limits, cause};
use one::run_one;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::Instant;

/// Runs of a network before the fault: the text is encoded, and some steps are done.
const RUNS_BEFORE: usize = 6;

/// The CPU, until the fault comes.
struct Faulty {
    cpu: Cpu,
    fault: String,
    runs: Arc<AtomicUsize>,
}

impl Executor for Faulty {
    fn name(&self) -> &'static str {
        if self.fault == "lost" { "cuda" } else { "cpu" }
    }

    fn load(&self, graph: Graph, weights: &Weights) -> Result<Box<dyn Program>, ExecError> {
        let whole = self.cpu.load(graph, weights)?;
        Ok(Box::new(FaultyProgram { whole, fault: self.fault.clone(), runs: Arc::clone(&self.runs) }))
    }
}

struct FaultyProgram {
    whole: Box<dyn Program>,
    fault: String,
    runs: Arc<AtomicUsize>,
}

impl Program for FaultyProgram {
    fn plan(&self, inputs: &[TensorType]) -> Result<Plan, GraphError> {
        self.whole.plan(inputs)
    }

    fn run(
        &mut self,
        inputs: &[Input<'_>],
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Output<'_>>, ExecError> {
        if self.runs.fetch_add(1, Ordering::Relaxed) == RUNS_BEFORE {
            match self.fault.as_str() {
                "memory" => {
                    let free = Some(Free { bytes: 3_000, largest_bytes: 1_000 });
                    let problem = "3000 bytes are free, the largest piece is 1000".to_owned();
                    return Err(ExecError::DeviceMemory { needed_bytes: 9_000, free, problem });
                }
                "panic" => panic!("index out of bounds in a kernel's parameters"),
                "lost" => return Err(ExecError::Device("an illegal memory access was encountered".to_owned())),
                _ => {}
            }
        }
        if self.fault == "slow" {
            std::thread::sleep(Duration::from_millis(100)); // what a step takes is the question's unit
        }
        self.whole.run(inputs, cancel, progress)
    }
}

/// The worker's side. The fault stands in a file beside the models: the agent keeps its variables from workers.
fn serve(arguments: &[String]) -> ExitCode {
    let models =
        arguments.iter().position(|word| word == "--models").map(|at| PathBuf::from(&arguments[at + 1])).unwrap();
    let fault = std::fs::read_to_string(models.join("fault")).unwrap_or_default();
    let executor = Faulty { cpu: Cpu::new(1, 1 << 30).unwrap(), fault, runs: Arc::default() };
    let options = EngineOptions { models_dir: models, threads: 1, executor: Wish::Cpu, ..Default::default() };
    builtin::serve(&mut Engine::with_executor(options, Box::new(executor)))
}

struct Bench {
    slots: Arc<Slots>,
    ends: Arc<AtomicUsize>,
    dir: tempfile::TempDir,
    orders: watch::Sender<Orders>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        tiny::write_folder("sd15", &dir.path().join("models/tiny"));
        let launch = Launch {
            agent: std::env::current_exe().unwrap(),
            line_bytes_max: 1 << 20,
            cancel_grace: Duration::from_secs(60),
            hard_limit_s: 600,
            output_bytes_max: 1 << 30,
            cgroup: None,
        };
        let ends = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&ends);
        let ended = Box::new(move |_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        Self { slots: Slots::new(Vec::new(), 1, launch, ended), ends, dir, orders: watch::Sender::default() }
    }

    /// A picture of so many steps by a worker with this fault; when it said its first word, and how many steps it has taken.
    async fn paint(&self, fault: &str, steps: u32) -> (Verdict, Duration, u32) {
        let models = self.dir.path().join("models");
        std::fs::write(models.join("fault"), fault).unwrap();
        let output_dir = self.dir.path().join("out");
        std::fs::create_dir_all(&output_dir).unwrap();
        let wish = serde_json::json!({"model": "tiny", "prompt": "the moon", "steps": steps, "seed": 7, "width": 64, "height": 64,
            "preview_every": 0, "checkpoint_every": 0});
        let task = Task {
            id: "job-1".into(),
            attempt: "job-1.1".into(),
            kind: "image.generate".into(),
            parameters: wish.as_object().unwrap().clone(),
            labels: Default::default(),
            inputs: Vec::new(),
            output_dir,
            soft_limit_s: None,
            traceparent: None,
            models_dir: None,
        };
        let program = builtin_program(&Config { models, threads: 1, executor: Wish::Cpu, ..Config::default() });
        let began = Instant::now();
        let (mut first, mut steps_seen) = (None, 0);
        let mut slot = self.slots.hold(&program.name, &[]).await.unwrap();
        let orders = self.orders.subscribe();
        let mut heard = |said: Said| {
            first.get_or_insert_with(|| began.elapsed());
            steps_seen += u32::from(matches!(said, Said::Percent(_)));
            if fault == "slow" && steps_seen == 3 {
                self.orders.send_replace(Orders { stop: Some(Stop::Cancelled), limits: None });
            }
        };
        let verdict = run_one(&mut slot, &program, &task, &Limits::default(), orders, &mut heard).await;
        (verdict, first.unwrap_or_default(), steps_seen)
    }
}

fn failed(verdict: Verdict) -> (String, Map<String, Value>) {
    let Verdict::Failed { class, message, details } = verdict else { panic!("no failure: {verdict:?}") };
    assert_eq!(class, FailureClass::Transient, "the job goes back: {message}");
    (message, details)
}

/// The next job finds a new worker. How soon is told; a host that is busy may take longer than the two seconds that it should be.
async fn goes_on(bench: &Bench, after: &str) {
    let (verdict, first_word, _) = bench.paint("none", 2).await;
    assert!(matches!(verdict, Verdict::Done(_)), "after {after}: {verdict:?}");
    println!("after {after} a new worker's first word came in {} ms", first_word.as_millis());
}

async fn memory_that_runs_out_is_told_in_numbers_and_the_worker_is_replaced() {
    let bench = Bench::new();
    let (message, details) = failed(bench.paint("memory", 20).await.0);
    assert!(message.contains("9000") && message.contains("3000") && message.contains("1000"), "{message}");
    assert_eq!(details[cause::KEY], cause::OUT_OF_MEMORY);
    for (name, bytes) in [("needed_bytes", 9_000), ("free_bytes", 3_000), ("largest_piece_bytes", 1_000)] {
        assert_eq!(details[name], bytes, "{name}");
    }
    goes_on(&bench, "a lack of memory").await;
    bench.slots.end().await;
}

async fn a_panic_ends_the_worker_alone_and_its_words_are_the_reason() {
    let bench = Bench::new();
    let (message, details) = failed(bench.paint("panic", 20).await.0);
    assert!(message.contains("ended with exit code 101"), "{message}");
    assert!(message.contains("panicked at") && message.contains("index out of bounds in a kernel's"), "{message}");
    assert_eq!(details[cause::KEY], cause::WORKER_CRASH);
    assert_eq!(bench.ends.load(Ordering::Relaxed), 1);
    goes_on(&bench, "a panic").await;
    bench.slots.end().await;
}

async fn a_device_that_is_lost_for_good_ends_the_worker_and_the_next_one_is_well() {
    let bench = Bench::new();
    let (message, details) = failed(bench.paint("lost", 20).await.0);
    assert!(message.contains("an illegal memory access"), "{message}");
    assert_eq!(details[cause::KEY], "device");
    goes_on(&bench, "a lost device").await;
    bench.slots.end().await;
}

async fn a_cancel_takes_effect_within_one_step_and_the_worker_stays() {
    let bench = Bench::new();
    let (verdict, _, steps) = bench.paint("slow", 150).await;
    assert_eq!(verdict, Verdict::Stopped(Stop::Cancelled));
    // Asked at the third of them; a step takes some 200 ms, and who asks may be on a busy host.
    println!("a cancel after the third step took effect at step {steps}");
    assert!(steps < 75, "{steps} of 150 steps");
    bench.slots.end().await;
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "worker") {
        return serve(&arguments);
    }
    if arguments.iter().any(|word| word == "--list") {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        memory_that_runs_out_is_told_in_numbers_and_the_worker_is_replaced().await;
        a_panic_ends_the_worker_alone_and_its_words_are_the_reason().await;
        a_device_that_is_lost_for_good_ends_the_worker_and_the_next_one_is_well().await;
        a_cancel_takes_effect_within_one_step_and_the_worker_stays().await;
    });
    println!("4 tests of worker faults passed");
    ExitCode::SUCCESS
}
