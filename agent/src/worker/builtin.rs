//! The child's side: `backlot-agent worker`.
//!
//! With a program behind `--` it ties itself to its parent and becomes that program. Without one it is the built-in
//! worker: it takes jobs on standard input, runs them through [`crate::infer`], and says what happens on standard
//! output. A panic or a GPU fault in here ends this process and nothing else; the supervisor starts another.

use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use backlot_wire::FailureClass;
use parking_lot::Mutex;
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};
use serde_json::{Value, json};

use super::protocol::{Announced, Request, Task};
use crate::infer::{self, Context, Engine, Report, Setup};

/// What holds for a worker from its first moment on.
#[derive(Clone, Debug, clap::Args)]
pub struct Ties {
    /// Process id of the agent; the worker ends with it.
    #[arg(long)]
    pub parent: i32,
    /// Cgroup to join.
    #[arg(long)]
    pub cgroup: Option<PathBuf>,
    /// Memory of each of its processes, where no cgroup bounds them together.
    #[arg(long)]
    pub memory_bytes: Option<u64>,
    /// Longest file that it may write.
    #[arg(long)]
    pub file_bytes: Option<u64>,
}

/// Takes on what holds for a worker. False: it must not go on, and has said why.
fn bind(ties: &Ties) -> bool {
    if let Some(Err(problem)) = ties.cgroup.as_deref().map(super::cgroup::join) {
        eprintln!("ERROR: join the worker's cgroup: {problem}");
        return false;
    }
    // A core of a program with a model loaded fills the disk.
    let bounds = [(Resource::Core, Some(0)), (Resource::Data, ties.memory_bytes), (Resource::Fsize, ties.file_bytes)];
    for (resource, most) in bounds {
        let Some(most) = most else { continue };
        // What is lower already stays.
        let most = getrlimit(resource).maximum.map_or(most, |own| own.min(most));
        if let Err(error) = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }) {
            eprintln!("ERROR: limit the worker's {resource:?} to {most}: {error}");
            return false;
        }
    }
    prefer_as_victim();
    tie_to(ties.parent)
}

/// Dies with `parent` from now on. False: the parent is gone already.
fn tie_to(parent: i32) -> bool {
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        eprintln!("ERROR: tie the worker to its parent: {error}");
        return false;
    }
    getppid() == Pid::from_raw(parent)
}

/// Ties this process to its parent and becomes `argv`. Returns only when that failed.
#[must_use]
pub fn become_program(ties: &Ties, argv: &[OsString]) -> ExitCode {
    if !bind(ties) {
        return ExitCode::FAILURE;
    }
    let Some((program, arguments)) = argv.split_first() else { return ExitCode::FAILURE };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("ERROR: start {}: {error}", program.to_string_lossy());
    ExitCode::from(127)
}

/// When memory runs out, the kernel takes the worker rather than the agent. Lowering one's own standing needs no right.
fn prefer_as_victim() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
}

/// The job under way and the flag that ends it.
#[derive(Default)]
struct Current {
    id: Mutex<Option<String>>,
    cancel: AtomicBool,
}

/// Takes jobs until its input ends.
#[must_use]
pub fn run(ties: &Ties, setup: &Setup) -> ExitCode {
    if !bind(ties) {
        return ExitCode::FAILURE;
    }
    // The agent counts GPUs as NVML does, in the order of their addresses.
    let gpu = std::env::var("CUDA_VISIBLE_DEVICES").ok().and_then(|gpu| gpu.parse().ok()).unwrap_or(0);
    serve(&mut setup.engine(gpu))
}

/// Takes jobs from standard input until that ends, or until `engine` is of no more use.
#[must_use]
pub fn serve(engine: &mut Engine) -> ExitCode {
    // The last line is what the supervisor gives as the reason; a backtrace would push a panic's own words away.
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        usual(panic);
        eprintln!("ERROR: the worker {}", panic.to_string().replace('\n', " "));
    }));
    let current = Arc::new(Current::default());
    let (jobs, waiting) = mpsc::sync_channel::<Box<Task>>(1);
    let reader = Arc::clone(&current);
    std::thread::spawn(move || read_requests(&reader, &jobs));
    while let Ok(task) = waiting.recv() {
        let last_words = work(engine, &task, &current);
        *current.id.lock() = None;
        if !say(&last_words) || engine.is_spent() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn read_requests(current: &Current, jobs: &mpsc::SyncSender<Box<Task>>) {
    for line in std::io::stdin().lock().lines() {
        match line.map(|line| serde_json::from_str(&line)) {
            Ok(Ok(Request::Job { job })) => {
                current.cancel.store(false, Ordering::Relaxed);
                *current.id.lock() = Some(job.id.clone());
                if jobs.send(job).is_err() {
                    return;
                }
            }
            Ok(Ok(Request::Cancel { cancel, .. })) => {
                if current.id.lock().as_deref() == Some(cancel.as_str()) {
                    current.cancel.store(true, Ordering::Relaxed);
                }
            }
            // A request of a later version.
            Ok(Err(_)) => {}
            Err(_) => break,
        }
    }
    current.cancel.store(true, Ordering::Relaxed);
}

fn work(engine: &mut Engine, task: &Task, current: &Current) -> Value {
    let mut report = |report: Report| {
        say(&match report {
            Report::Phase(phase) => json!({ "phase": phase }),
            Report::Percent(percent) => json!({ "percent": percent }),
            Report::Preview(file) => json!({ "preview": file.to_string_lossy() }),
            Report::Checkpoint(file) => json!({ "checkpoint": file.to_string_lossy() }),
        });
    };
    let work = infer::Task {
        kind: task.kind.clone(),
        parameters: task.parameters.clone(),
        inputs: task.inputs.iter().map(|input| input.path.clone()).collect(),
        output_dir: task.output_dir.clone(),
    };
    engine.use_models(&task.kind, task.models_dir.clone());
    let mut context = Context { engine, cancel: &current.cancel, report: &mut report };
    match infer::run(&work, &mut context) {
        Ok(made) => {
            for output in made {
                let mut extra = output.extra;
                if !output.model.is_empty() {
                    extra.insert("model".into(), output.model.into());
                    extra.insert("scale".into(), output.scale.into());
                }
                let announced = Announced {
                    name: output.path.to_string_lossy().into_owned(),
                    content_type: Some(output.content_type.to_owned()),
                    // A sound has no sides.
                    width: Some(output.width).filter(|pixels| *pixels > 0),
                    height: Some(output.height).filter(|pixels| *pixels > 0),
                    extra,
                };
                say(&announced.to_line());
            }
            json!({ "done": true })
        }
        Err(failure) => json!({
            "error": failure.message,
            "permanent": failure.class == FailureClass::Permanent && !failure.cancelled,
            // A device that is lost to this process is not to the next one.
            "ends": engine.is_spent(),
            "details": failure.details,
        }),
    }
}

/// Writes one line. False: nobody listens any more.
fn say(line: &Value) -> bool {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).is_ok()
}
