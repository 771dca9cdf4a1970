//! Says on a GPU host what of the CUDA executor is right and what is not, one JSON line a check.
//!
//! Each check runs in a child process of its own: a fault that leaves a CUDA context unusable ends that child and nothing
//! else, and the next check begins afresh. A check compares with the CPU executor on the same values, or measures.
//!
//! Exit codes: 0 all passed, 1 some failed, 64 the arguments make no sense, 69 there is no GPU: nothing was proven.

#![allow(clippy::print_stdout, reason = "its lines are what it is for")]

mod bench;
mod checks;
mod faults;
mod models;
mod networks;
#[path = "../../tests/ops/mod.rs"]
#[allow(clippy::unwrap_used, reason = "made for tests: a check that panics fails with that as its reason")]
mod ops;
mod pipelines;

use std::io::Write;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use backlot_agent::infer::cuda::driver::Driver;
use serde_json::{Map, Value, json};

const FAILED: u8 = 1;
const USAGE: u8 = 64;
const NO_GPU: u8 = 69;
/// A check that takes longer is stopped and has failed.
const CHECK_S_MAX: u64 = 300;

const USAGE_TEXT: &str =
    "usage: backlot-gpu-test [--list | --only WORD | --check NAME | --write-model FORM FOLDER] [--no-bench]

  --only WORD   checks whose name holds WORD
  --list        the names of all checks
  --check NAME  one check, in this process
  --no-bench    leave out what only measures
  --write-model sd15|sdxl FOLDER
                a model of that size with random weights, as a folder of diffusers
Real-ESRGAN's weights are read from $BACKLOT_MODELS.";

/// What a check found: figures by name.
type Figures = Map<String, Value>;

/// A check by its name.
struct Check {
    name: String,
    /// It only measures.
    is_bench: bool,
    /// How its child has to end; `None`: in order, with figures.
    dies: bool,
    run: Box<dyn Fn() -> Result<Figures, String>>,
}

fn all() -> Vec<Check> {
    let mut all = checks::all();
    all.extend(networks::all());
    all.extend(faults::all());
    all.extend(bench::all());
    all
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => run(&all(), true),
        ["--no-bench"] => run(&all(), false),
        ["--only", word] => {
            let wanted: Vec<Check> = all().into_iter().filter(|check| check.name.contains(word)).collect();
            if wanted.is_empty() { usage() } else { run(&wanted, true) }
        }
        ["--list"] => {
            all().iter().for_each(|check| println!("{}", check.name));
            ExitCode::SUCCESS
        }
        ["--check", name] => match all().iter().find(|check| check.name == *name) {
            Some(check) => alone(check),
            None => usage(),
        },
        ["--write-model", form, folder] => {
            let form = match *form {
                "sd15" => pipelines::Form::Sd15,
                "sdxl" => pipelines::Form::Sdxl,
                _ => return usage(),
            };
            match models::write(form, std::path::Path::new(folder)) {
                Ok(()) => ExitCode::SUCCESS,
                Err(problem) => {
                    eprintln!("backlot-gpu-test: {problem}");
                    ExitCode::from(FAILED)
                }
            }
        }
        _ => usage(),
    }
}

fn usage() -> ExitCode {
    eprintln!("{USAGE_TEXT}");
    ExitCode::from(USAGE)
}

/// Runs one check in this process and says its figures or its problem.
fn alone(check: &Check) -> ExitCode {
    match (check.run)() {
        Ok(figures) => {
            println!("{}", json!({ "figures": figures }));
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("{}", json!({ "problem": problem }));
            ExitCode::from(FAILED)
        }
    }
}

/// Runs checks, each in a child, and ends with a line that counts them.
fn run(wanted: &[Check], bench: bool) -> ExitCode {
    // In a child too: a driver that crashes at its first call must not take this with it.
    let host = in_child("host");
    if host.problem.is_some() {
        println!("{}", json!({ "check": "host", "problem": host.problem, "verdict": "no GPU: nothing was proven" }));
        return ExitCode::from(NO_GPU);
    }
    let (mut passed, mut failed) = (0, Vec::new());
    for check in wanted.iter().filter(|check| bench || !check.is_bench) {
        let begin = now();
        let child = in_child(&check.name);
        let pass = if check.dies { child.died_as_told() } else { child.problem.is_none() };
        let mut line = json!({
            "check": check.name, "pass": pass, "wall_ms": millis(begin.elapsed()), "figures": child.figures,
        });
        if !pass && let Some(object) = line.as_object_mut() {
            object.insert("problem".to_owned(), child.problem.clone().into());
        }
        println!("{line}");
        let _ = std::io::stdout().flush();
        if pass { passed += 1 } else { failed.push(check.name.clone()) }
    }
    println!("{}", json!({ "passed": passed, "failed": failed }));
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FAILED) }
}

/// How a child ended.
struct Child {
    figures: Value,
    problem: Option<String>,
}

impl Child {
    /// Whether a check whose device has to be lost says that it was.
    fn died_as_told(&self) -> bool {
        self.problem.is_none() && self.figures.get("lost").is_some_and(|lost| lost == true)
    }
}

fn in_child(name: &str) -> Child {
    let failed = |problem: String| Child { figures: Value::Null, problem: Some(problem) };
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return failed(format!("find this program: {error}")),
    };
    // `timeout` of coreutils, so that a kernel that never ends holds nobody up.
    let mut command = Command::new("timeout");
    command.args(["--signal=KILL", &CHECK_S_MAX.to_string()]).arg(program).args(["--check", name]);
    let made = match command.stdin(Stdio::null()).output() {
        Ok(made) => made,
        Err(error) => return failed(format!("start a child: {error}")),
    };
    let said = String::from_utf8_lossy(&made.stdout);
    let last = said.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok()).unwrap_or_default();
    let mut words = String::from_utf8_lossy(&made.stderr).into_owned();
    if let Some(problem) = last.get("problem").and_then(Value::as_str) {
        return failed(problem.to_owned());
    }
    if made.status.success() {
        return Child { figures: last.get("figures").cloned().unwrap_or_default(), problem: None };
    }
    let cut = words.char_indices().rev().nth(600).map_or(0, |(at, _)| at);
    words.drain(..cut);
    failed(format!("its process ended with {}: {}", made.status, words.trim()))
}

/// The first check: whether there is a GPU at all, and which.
fn host() -> Result<Figures, String> {
    use backlot_agent::infer::cuda::device::Device;
    let driver = Driver::open(0).map_err(|error| error.to_string())?;
    let memory = driver.memory().map_err(|error| error.to_string())?;
    Ok(figures([
        ("device", driver.describe().into()),
        ("multiprocessors", driver.multiprocessors().into()),
        ("free_bytes", memory.free_bytes.into()),
        ("total_bytes", memory.total_bytes.into()),
    ]))
}

fn figures<const N: usize>(pairs: [(&str, Value); N]) -> Figures {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn check(name: impl Into<String>, run: impl Fn() -> Result<Figures, String> + 'static) -> Check {
    Check { name: name.into(), is_bench: false, dies: false, run: Box::new(run) }
}

#[allow(clippy::disallowed_methods, reason = "measures; there is nothing here that a clock could be handed to")]
fn now() -> Instant {
    Instant::now()
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
