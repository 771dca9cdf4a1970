//! `backlot-agent bench`: how fast this host runs a model, as one JSON object.
//!
//! What is timed is what a job waits for, without its way here: from pixels to pixels for the upscalers, from a prompt to a
//! PNG for the diffusion models, with the executor that a worker would open. The first run plans and warms up and is
//! told apart. Nothing is compared here: peers are the business of `tests/bench`.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::frames::Rgb;
use crate::infer::{self, Context, Failure, Report, Setup, Task};

/// Which pictures are made larger.
#[derive(Clone, Debug)]
pub struct Upscale {
    pub model: String,
    pub scale: u32,
    pub width: usize,
    pub height: usize,
    pub runs: usize,
}

/// Which pictures are made.
#[derive(Clone, Debug)]
pub struct Generate {
    /// The parameters of `image.generate`.
    pub parameters: Map<String, Value>,
    pub runs: usize,
    /// An existing folder. Each run makes one in it for its pictures.
    pub to: PathBuf,
}

/// Upscales a made-up picture `runs` times after a first one.
///
/// # Errors
/// [`Failure`], as a job with these parameters would have it.
pub fn upscale(setup: &Setup, wanted: &Upscale) -> Result<Value, Failure> {
    let mut engine = setup.engine(0);
    let from = picture(wanted.width, wanted.height);
    let mut to = Rgb::default();
    let begin = now();
    let mut upscaler = infer::upscaler(&mut engine, &wanted.model, wanted.scale)?;
    let load_ms = millis(begin.elapsed());
    let mut run = || -> Result<(f64, Option<f64>), Failure> {
        let (begin, cpu_begin_ms) = (now(), cpu_ms());
        upscaler.run(&from, &mut to, &AtomicBool::new(false), &mut |_| {})?;
        let wall_ms = millis(begin.elapsed());
        Ok((wall_ms, cpu_ms().zip(cpu_begin_ms).map(|(end, begin)| end - begin)))
    };
    let (first_run_ms, _) = run()?;
    let runs = (0..wanted.runs).map(|_| run()).collect::<Result<Vec<_>, _>>()?;
    let (run_ms, run_cpu_ms): (Vec<f64>, Vec<Option<f64>>) = runs.into_iter().unzip();
    Ok(json!({
        "bench": "upscale", "model": wanted.model, "scale": wanted.scale, "width": wanted.width,
        "height": wanted.height, "executor": engine.executor_name(), "threads": setup.threads,
        "load_ms": load_ms, "first_run_ms": first_run_ms, "run_ms": run_ms, "run_cpu_ms": run_cpu_ms,
        "resident_max_bytes": resident_max_bytes(),
    }))
}

/// Makes pictures `runs` times; the first time the model is loaded.
///
/// # Errors
/// [`Failure`], as a job with these parameters would have it.
pub fn generate(setup: &Setup, wanted: &Generate) -> Result<Value, Failure> {
    let mut engine = setup.engine(0);
    let begin = now();
    let mut runs = Vec::new();
    for run in 0..wanted.runs.max(1) {
        // No two runs write the same file, nor do two processes.
        let output_dir = wanted.to.join(format!("bench-{}-{run}", std::process::id()));
        std::fs::create_dir(&output_dir)
            .map_err(|error| Failure::transient(format!("create {}: {error}", output_dir.display())))?;
        let task = Task {
            kind: "image.generate".to_owned(),
            parameters: wanted.parameters.clone(),
            inputs: Vec::new(),
            output_dir,
        };
        let (started, cpu_begin_ms) = (now(), cpu_ms());
        let mut moments: Vec<(&'static str, f64)> = Vec::new();
        let mut report = |said: Report| {
            let at_ms = millis(started.elapsed());
            match said {
                Report::Phase(phase) => moments.push((phase, at_ms)),
                Report::Percent(_) => moments.push(("percent", at_ms)),
                Report::Preview(_) | Report::Checkpoint(_) | Report::GpuSeconds(_) => {}
            }
        };
        let cancel = AtomicBool::new(false);
        infer::run(&task, &mut Context { engine: &mut engine, cancel: &cancel, report: &mut report })?;
        let all_ms = millis(started.elapsed());
        let at = |phase: &str| moments.iter().find(|(name, _)| *name == phase).map_or(0.0, |(_, at_ms)| *at_ms);
        let (infer_ms, post_ms) = (at("infer"), at("post"));
        let steps: Vec<f64> = moments
            .iter()
            .filter(|(name, at_ms)| *name == "percent" && *at_ms <= post_ms)
            .map(|(_, at_ms)| *at_ms)
            .collect();
        let step_ms: Vec<f64> = steps.windows(2).map(|pair| pair[1] - pair[0]).collect();
        runs.push(json!({
            "load_ms": infer_ms, "step_ms": step_ms, "decode_ms": all_ms - post_ms, "all_ms": all_ms,
            "cpu_ms": cpu_ms().zip(cpu_begin_ms).map(|(end, begin)| end - begin),
        }));
    }
    Ok(json!({
        "bench": "generate", "parameters": wanted.parameters, "executor": setup.executor, "threads": setup.threads,
        "runs": runs, "all_ms": millis(begin.elapsed()), "resident_max_bytes": resident_max_bytes(),
        "anonymous_bytes": anonymous_bytes(),
    }))
}

/// Waves with edges in them and some noise, the same each time.
fn picture(width: usize, height: usize) -> Rgb {
    let mut made = Rgb::black(width, height);
    let mut noise = 1_u32;
    for (at, value) in made.data.iter_mut().enumerate() {
        let (pixel, channel) = (at / 3, at % 3);
        let (x, y) = (pixel % width, pixel / width);
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let stripes = if (x / 16 + y / 16 + channel).is_multiple_of(2) { 60 } else { 0 };
        let slope = (x * 2 + y * 3 + channel * 40) % 160;
        *value = u8::try_from(stripes + slope + (noise >> 28) as usize).unwrap_or(u8::MAX);
    }
    made
}

/// What this process has had of the CPUs until now, in steps of ten milliseconds.
fn cpu_ms() -> Option<f64> {
    let stat = std::fs::read_to_string(Path::new("/proc/self/stat")).ok()?;
    // The second field is a name in parentheses, with anything in it; user and system time are fields 14 and 15.
    let ticks: u32 =
        stat.rsplit_once(')')?.1.split_whitespace().skip(11).take(2).map_while(|n| n.parse::<u32>().ok()).sum();
    Some(f64::from(ticks) * 10.0)
}

/// The most memory that this process has had, its mapped files included.
fn resident_max_bytes() -> Option<u64> {
    of_status("VmHWM")
}

/// What of its memory now is no file's: what cannot be dropped and read again.
fn anonymous_bytes() -> Option<u64> {
    of_status("RssAnon")
}

fn of_status(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

#[allow(clippy::disallowed_methods, reason = "measures; there is nothing here that a clock could be handed to")]
fn now() -> Instant {
    Instant::now()
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}
