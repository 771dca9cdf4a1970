//! One worker process: started, spoken to, asked to end, killed.
//!
//! Every program is started through `backlot-agent worker`, which ties it to its parent before it becomes the program
//! itself: when the agent dies, however it dies, its workers die. Each worker leads a process group of its own, so that
//! ending it ends what it has started. What a worker says is bounded in length and number, and what it means is decided
//! by whoever watches it ([`work`]): a worker can fail its jobs and nothing else.

mod work;

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backlot_wire::{FailureClass, Limits, cause};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Map, Value};
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::cgroup::{Cgroup, Group};
use super::lines::Lines;
use super::manifest::Program;
use super::protocol::{self, Announced, Request};
use super::stderr;

/// Requests to a worker that has not read them yet.
const REQUESTS_MAX: usize = 8;
/// Last lines of standard error that are kept to explain an early end.
pub(super) const TAIL_LINES: usize = 8;
/// How long output is read on after a worker has exited: something it has started may hold the pipe open.
const DRAIN: Duration = Duration::from_secs(1);

/// Why an attempt is to end before its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    Cancelled,
    /// A newer attempt is under way.
    Superseded,
    /// The agent ends and its grace is over.
    Drained,
    /// The queue has given the job to somebody else.
    LeaseLost,
}

/// What holds for an attempt at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    pub stop: Option<Stop>,
    /// Limits that replace those of the specification.
    pub limits: Option<Limits>,
}

/// How workers are started and bounded.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The agent's own binary.
    pub agent: PathBuf,
    pub line_bytes_max: usize,
    pub cancel_grace: Duration,
    pub hard_limit_s: u64,
    /// Most bytes that a job may leave in its output folder.
    pub output_bytes_max: u64,
    /// Where workers get cgroups of their own.
    pub cgroup: Option<Arc<Cgroup>>,
}

/// How a job ended in its worker.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Done(Vec<Announced>),
    Failed {
        class: FailureClass,
        message: String,
        details: Map<String, Value>,
    },
    Stopped(Stop),
    /// The worker has ended in the middle of several jobs, for this reason: whose fault it was, nobody knows.
    Returned(String),
}

impl Verdict {
    pub(super) fn failed(class: FailureClass, message: impl Into<String>) -> Self {
        Self::Failed { class, message: message.into(), details: Map::new() }
    }

    /// A transient failure whose cause is known.
    pub(super) fn failed_by(cause: &str, message: impl Into<String>) -> Self {
        let details = Map::from_iter([(cause::KEY.to_owned(), Value::from(cause))]);
        Self::Failed { class: FailureClass::Transient, message: message.into(), details }
    }
}

/// A running worker.
pub struct Process {
    program: String,
    keep_alive: bool,
    child: Child,
    group: Option<Pid>,
    cgroup: Option<Group>,
    memory_gb: Option<f64>,
    requests: mpsc::Sender<Request>,
    lines: Lines<ChildStdout>,
    said_on_stderr: Arc<Mutex<stderr::Relay>>,
    relaying: JoinHandle<()>,
    launch: Launch,
    /// It may take another job.
    usable: bool,
    has_worked: bool,
    /// Why it ended in the middle of a job; `None` for an end that was in order.
    early_end: Option<&'static str>,
}

impl Process {
    /// Starts `program`, with only GPU number `gpu` visible to it.
    ///
    /// # Errors
    /// That of the start of the process.
    pub fn start(program: &Program, gpu: Option<u32>, launch: &Launch) -> std::io::Result<Self> {
        let mut command = Command::new(&launch.agent);
        command.arg("worker").arg("--parent").arg(std::process::id().to_string());
        let cgroup = launch.cgroup.as_ref().map(|own| own.worker(&program.limits)).transpose();
        let cgroup = cgroup.map_err(std::io::Error::other)?;
        if let Some(cgroup) = &cgroup {
            command.arg("--cgroup").arg(cgroup.dir());
        }
        if !launch.cgroup.as_ref().is_some_and(|own| own.holds_memory())
            && let Some(bytes) = program.limits.memory_bytes()
        {
            command.arg("--memory-bytes").arg(bytes.to_string());
        }
        command.arg("--file-bytes").arg(launch.output_bytes_max.to_string());
        command.args(program.arguments.iter().map(OsString::as_os_str));
        if let Some(dir) = &program.dir {
            command.current_dir(dir);
        }
        // A program gets files, not keys: what it needs beyond that, its manifest says.
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            let secret = ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"].contains(&&*name_text);
            if secret || name_text.starts_with("BACKLOT_") {
                command.env_remove(&name);
            }
        }
        command.envs(&program.env);
        if let Some(gpu) = gpu {
            command.env("CUDA_VISIBLE_DEVICES", gpu.to_string());
            // Slots are counted by PCI address; CUDA would count the fastest first.
            command.env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let missing = || std::io::Error::other("a pipe of the worker is missing");
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr: ChildStderr = child.stderr.take().ok_or_else(missing)?;
        let (requests, waiting) = mpsc::channel(REQUESTS_MAX);
        tokio::spawn(write_requests(stdin, waiting));
        let relay = Arc::new(Mutex::new(stderr::Relay::default()));
        let relaying = tokio::spawn(stderr::relay(stderr, Arc::clone(&relay)));
        Ok(Self {
            program: program.name.clone(),
            keep_alive: program.keep_alive,
            group: child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw),
            child,
            cgroup,
            memory_gb: program.limits.memory_gb,
            requests,
            lines: Lines::new(stdout, launch.line_bytes_max),
            said_on_stderr: relay,
            relaying,
            launch: launch.clone(),
            usable: true,
            has_worked: false,
            early_end: None,
        })
    }

    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// Whether it lives and may take another job.
    pub fn is_usable(&mut self) -> bool {
        self.usable && matches!(self.child.try_wait(), Ok(None))
    }

    /// Whether it ended as its program ends: after its one job, or because it was asked to.
    #[must_use]
    pub fn ended_as_told(&self) -> bool {
        self.early_end.is_none()
    }

    /// `exit`, `signal`, `protocol` or `limit`.
    #[must_use]
    pub fn how_it_ended(&self) -> &'static str {
        self.early_end.unwrap_or("exit")
    }

    /// Kills it and everything that it has started.
    pub async fn kill(&mut self) {
        self.usable = false;
        self.kill_group();
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.start_kill();
            let _ = self.child.wait().await;
        }
    }

    /// Closes its input, waits shortly for its end, and then kills it.
    pub async fn end(mut self) {
        let (closed, _) = mpsc::channel(1);
        self.requests = closed;
        let _ = tokio::time::timeout(Duration::from_secs(2), self.child.wait()).await;
        self.kill().await;
    }

    /// Once: while one of the group lives, the kernel gives its number to nobody else; afterwards it may.
    fn kill_group(&mut self) {
        if let Some(group) = self.group.take() {
            let _ = kill_process_group(group, Signal::KILL);
        }
        if let Some(cgroup) = &self.cgroup {
            cgroup.kill();
        }
    }

    /// Of this worker alone where a cgroup counts them, else of the host.
    fn oom_kills(&self) -> Option<u64> {
        self.cgroup.as_ref().and_then(Group::oom_kills).or_else(crate::host::oom_kills)
    }

    /// It did what the protocol does not allow: the same program would do it again.
    fn broke(&mut self, problem: String) -> Verdict {
        self.early_end = Some("protocol");
        Verdict::failed(FailureClass::Permanent, format!("the program `{}` {problem}", self.program))
    }

    async fn died(&mut self, status: ExitStatus, oom_kills_before: Option<u64>) -> Verdict {
        self.early_end = Some(if status.signal().is_some() { "signal" } else { "exit" });
        let mut details = Map::new();
        let mut message = format!("the worker `{}` ", self.program);
        details.insert(cause::KEY.into(), cause::WORKER_CRASH.into());
        if let Some(signal) = status.signal() {
            message.push_str(&format!("was killed by signal {signal}"));
            details.insert("signal".into(), signal.into());
            if self.oom_kills() > oom_kills_before {
                match self.memory_gb.filter(|_| self.cgroup.is_some()) {
                    Some(gb) => message.push_str(&format!(": it was over its limit of {gb} GiB of memory")),
                    None => message.push_str(": the kernel was out of memory"),
                }
                details.insert(cause::KEY.into(), cause::OUT_OF_MEMORY.into());
            }
        } else {
            let code = status.code().unwrap_or(-1);
            message.push_str(&format!("ended with exit code {code} before the job did"));
            details.insert("exit_code".into(), code.into());
        }
        // Its last words may still be on their way.
        let _ = tokio::time::timeout(DRAIN, &mut self.relaying).await;
        let tail = self.said_on_stderr.lock().tail();
        if tail.iter().any(|line| is_out_of_memory(line)) {
            details.insert(cause::KEY.into(), cause::OUT_OF_MEMORY.into());
        }
        if let Some(last) = tail.last() {
            message.push_str(&format!(": {}", protocol::start_of(last)));
            details.insert("stderr".into(), Value::from(tail));
        }
        Verdict::Failed { class: FailureClass::Transient, message, details }
    }
}

/// What PyTorch, CUDA, JAX and Python say when memory has run out.
pub(super) fn is_out_of_memory(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["out of memory", "outofmemory", "out_of_memory", "resource_exhausted", "memoryerror"]
        .iter()
        .any(|word| text.contains(word))
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill_group();
    }
}

async fn write_requests(stdin: ChildStdin, mut waiting: mpsc::Receiver<Request>) {
    let mut stdin = BufWriter::new(stdin);
    while let Some(request) = waiting.recv().await {
        let Ok(mut line) = serde_json::to_vec(&request) else { continue };
        line.push(b'\n');
        // A worker that is gone is noticed by its exit.
        if stdin.write_all(&line).await.is_err() || stdin.flush().await.is_err() {
            return;
        }
    }
}
