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
use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};
use serde_json::{Value, json};

use super::protocol::{Announced, Request, Task};
use crate::infer::{self, Engine, Member, Report, Setup, Word};

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

/// The jobs of one request, and the flags that end them. Each request has its own: the words that end a job bring the next request, which
/// is read while the last one is still being laid down.
struct Underway {
    jobs: Vec<Under>,
    /// Nobody wants any of them any more, or nobody is there: what is being computed may stop where it is.
    abandoned: AtomicBool,
}

/// One of them.
struct Under {
    id: String,
    /// It is to end, or has ended.
    is_over: AtomicBool,
}

impl Underway {
    fn of(tasks: &[Task]) -> Self {
        let under = |task: &Task| Under { id: task.id.clone(), is_over: AtomicBool::new(false) };
        Self { jobs: tasks.iter().map(under).collect(), abandoned: AtomicBool::new(false) }
    }

    /// Ends what is `over`, and what is being computed where that is all.
    fn end(&self, over: impl Fn(usize, &Under) -> bool) {
        let ending = self.jobs.iter().enumerate().filter(|(number, job)| over(*number, job));
        ending.for_each(|(_, job)| job.is_over.store(true, Ordering::SeqCst));
        // Two threads that end the last two of them at once both see that, or one does.
        if self.jobs.iter().all(|job| job.is_over.load(Ordering::SeqCst)) {
            self.abandoned.store(true, Ordering::Relaxed);
        }
    }
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
    let (jobs, waiting) = mpsc::sync_channel::<Work>(1);
    std::thread::spawn(move || read_requests(std::io::stdin().lock(), &jobs));
    while let Ok(work) = waiting.recv() {
        let heard = work.run(engine);
        if !heard || engine.is_spent() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn read_requests(input: impl BufRead, jobs: &mpsc::SyncSender<Work>) {
    let mut current = Arc::new(Underway::of(&[]));
    for line in input.lines() {
        let (tasks, is_batch) = match line.map(|line| serde_json::from_str(&line)) {
            Ok(Ok(Request::Job { job })) => (vec![*job], false),
            Ok(Ok(Request::Batch { batch })) => (batch, true),
            Ok(Ok(Request::Cancel { cancel, .. })) => {
                current.end(|_, job| job.id == cancel);
                continue;
            }
            // A request of a later version.
            Ok(Err(_)) => continue,
            Err(_) => break,
        };
        current = Arc::new(Underway::of(&tasks));
        if jobs.send(Work { tasks, is_batch, underway: Arc::clone(&current) }).is_err() {
            return;
        }
    }
    current.end(|_, _| true);
}

/// What one request asks for.
struct Work {
    tasks: Vec<Task>,
    is_batch: bool,
    underway: Arc<Underway>,
}

impl Work {
    /// Runs the jobs and says how they end. False: nobody listens any more.
    fn run(&self, engine: &mut Engine) -> bool {
        let tasks: Vec<infer::Task> = self.tasks.iter().map(task_of).collect();
        let flags = self.underway.jobs.iter().map(|job| &job.is_over);
        let members: Vec<Member<'_>> = tasks.iter().zip(flags).map(|(task, cancel)| Member { task, cancel }).collect();
        if let Some(first) = self.tasks.first() {
            engine.use_models(&first.kind, first.models_dir.clone());
        }
        let mut heard = true;
        let mut tell = |number: usize, word: Word, is_spent: bool| {
            let ends = matches!(word, Word::Ended(_));
            for mut line in lines_of(word, is_spent) {
                if let (true, Value::Object(fields)) = (self.is_batch, &mut line) {
                    fields.insert("of".to_owned(), self.tasks[number].attempt.clone().into());
                }
                heard &= say(&line);
            }
            if ends {
                self.underway.end(|ended, _| ended == number);
            }
        };
        infer::run_together(&members, &self.underway.abandoned, engine, &mut tell);
        if self.is_batch {
            heard &= say(&json!({ "rest": true }));
        }
        heard
    }
}

fn task_of(task: &Task) -> infer::Task {
    infer::Task {
        kind: task.kind.clone(),
        parameters: task.parameters.clone(),
        inputs: task.inputs.iter().map(|input| input.path.clone()).collect(),
        output_dir: task.output_dir.clone(),
    }
}

/// How the protocol says it. `is_spent`: a device that is lost to this process is not to the next one.
fn lines_of(word: Word, is_spent: bool) -> Vec<Value> {
    let made = match word {
        Word::Report(report) => {
            return vec![match report {
                Report::Phase(phase) => json!({ "phase": phase }),
                Report::Percent(percent) => json!({ "percent": percent }),
                Report::Preview(file) => json!({ "preview": file.to_string_lossy() }),
                Report::Checkpoint(file) => json!({ "checkpoint": file.to_string_lossy() }),
                Report::GpuSeconds(gpu_s) => json!({ "gpu_s": gpu_s }),
            }];
        }
        Word::Ended(Ok(made)) => made,
        Word::Ended(Err(failure)) => {
            return vec![json!({
                "error": failure.message,
                "permanent": failure.class == FailureClass::Permanent && !failure.cancelled,
                "ends": is_spent,
                "details": failure.details,
            })];
        }
    };
    let outputs = made.into_iter().map(|output| {
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
        announced.to_line()
    });
    outputs.chain([json!({ "done": true })]).collect()
}

/// Writes one line. False: nobody listens any more.
fn say(line: &Value) -> bool {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{line}").and_then(|()| stdout.flush()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_one_request_does_not_touch_the_next_one_which_is_read_already() {
        let task =
            |id: &str| json!({"id": id, "attempt": format!("{id}.1"), "type": "x", "inputs": [], "output_dir": "/"});
        let lines = [
            json!({"job": task("a")}),
            json!({"cancel": "a", "reason": "cancelled"}),
            json!({"batch": [task("b"), task("c")]}),
            json!({"cancel": "c", "reason": "cancelled"}),
            json!({"job": task("d")}),
        ];
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let (jobs, waiting) = mpsc::sync_channel(3);
        read_requests(text.as_bytes(), &jobs);
        let works: Vec<Work> = waiting.try_iter().collect();
        works[0].underway.end(|number, _| number == 0);
        let over = |work: &Work| -> Vec<bool> {
            work.underway.jobs.iter().map(|job| job.is_over.load(Ordering::Relaxed)).collect()
        };
        assert_eq!(works.iter().map(over).collect::<Vec<_>>(), [vec![true], vec![false, true], vec![true]]);
        let abandoned = works.iter().map(|work| work.underway.abandoned.load(Ordering::Relaxed));
        assert_eq!(abandoned.collect::<Vec<_>>(), [true, false, true], "the input has ended with the last one");
    }
}
