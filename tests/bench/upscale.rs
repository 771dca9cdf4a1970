//! The CPU upscaler beside ncnn: the same weights, the same picture sizes, the same threads, turn by turn.
//!
//! Each turn is a process of ours and one of theirs, each with a first run that is not counted. Times are of the clock and
//! of the CPUs: on a machine that others use the second says more, except that ncnn's threads spin while they wait for
//! each other, so that with two threads only the first can be compared.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;

use crate::client::Failure;
use crate::s3_peers::python_with;

const PACKAGES: [&str; 2] = ["ncnn==1.0.20261020", "numpy==2.4.6"];
const TURNS: usize = 5;
/// Model, its scale, name of its files, width and height.
const CASES: [(&str, u32, &str, [u32; 2]); 3] = [
    ("realesr-animevideov3", 2, "realesr-animevideov3-x2", [320, 180]),
    ("realesrgan-x4plus-anime", 4, "realesrgan-x4plus-anime", [128, 96]),
    ("realesrgan-x4plus", 4, "realesrgan-x4plus", [96, 64]),
];

#[derive(Clone, Copy, Debug, Deserialize)]
struct Times {
    wall_ms: f64,
    cpu_ms: f64,
}

#[derive(Debug, Deserialize)]
struct Peer {
    version: String,
    ways: BTreeMap<String, Times>,
}

pub(crate) fn run() -> Result<(), Failure> {
    let agent = std::env::current_exe()?.with_file_name("backlot-agent");
    if !agent.exists() {
        return Err(
            format!("{} is not there: `cargo build --release -p backlot-agent` makes it", agent.display()).into()
        );
    }
    let python = python_with("backlot-bench-ncnn", &PACKAGES)?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers/upscale.py");
    for (model, scale, files, [width, height]) in CASES {
        for threads in [1, 2] {
            let mut all: BTreeMap<String, Vec<Times>> = BTreeMap::new();
            for _ in 0..TURNS {
                all.entry("ours".to_owned()).or_default().push(ours(&agent, model, scale, [width, height], threads)?);
                let said = output(Command::new(&python).arg(&script).args([
                    files,
                    &width.to_string(),
                    &height.to_string(),
                    &threads.to_string(),
                ]))?;
                let peer: Peer = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
                for (way, times) in peer.ways {
                    all.entry(format!("ncnn {} {way}", peer.version)).or_default().push(times);
                }
            }
            println!("{model} x{scale}, {width}x{height}, {threads} threads: medians of {TURNS} turns");
            let medians = |times: &[Times]| Times {
                wall_ms: median(times.iter().map(|times| times.wall_ms)),
                cpu_ms: median(times.iter().map(|times| times.cpu_ms)),
            };
            let own = all.get("ours").map_or(Times { wall_ms: 0.0, cpu_ms: 0.0 }, |times| medians(times));
            for (name, times) in &all {
                let Times { wall_ms, cpu_ms } = medians(times);
                println!(
                    "{wall_ms:>10.0} ms, {cpu_ms:.0} ms of CPU: {name}; ours takes {:.2} of it by the clock, {:.2} of the CPU",
                    own.wall_ms / wall_ms,
                    own.cpu_ms / cpu_ms
                );
            }
        }
    }
    Ok(())
}

fn ours(agent: &Path, model: &str, scale: u32, [width, height]: [u32; 2], threads: u32) -> Result<Times, Failure> {
    let said = output(
        Command::new(agent)
            .args(["bench", "--executor", "cpu", "--threads", &threads.to_string(), "upscale", "--runs", "1"])
            .args(["--model", model, "--scale", &scale.to_string()])
            .args(["--width", &width.to_string(), "--height", &height.to_string()]),
    )?;
    let said: Value = serde_json::from_str(&said)?;
    let of = |name: &str| said[name][0].as_f64().ok_or(format!("no {name} in {said}"));
    Ok(Times { wall_ms: of("run_ms")?, cpu_ms: of("run_cpu_ms")? })
}

/// The last line that a program writes.
fn output(command: &mut Command) -> Result<String, Failure> {
    let made = command.stderr(Stdio::inherit()).output().map_err(|error| format!("start {command:?}: {error}"))?;
    if !made.status.success() {
        return Err(format!("{command:?} ended with {}", made.status).into());
    }
    Ok(String::from_utf8(made.stdout)?.lines().last().unwrap_or_default().to_owned())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
