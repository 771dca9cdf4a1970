//! `cargo xtask up`: an appliance, an agent and a demo, in one terminal, ended by Ctrl-C.
//!
//! Each child is a process group of its own, so that Ctrl-C reaches only us and we stop them in order: the agent gives its
//! work back first, then the appliance closes its doors.

#![allow(clippy::disallowed_methods, reason = "this is a process of its own, and its waits are on the real clock")]

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::process::{self, cargo, root};
use crate::tools::{C_COMPILER, FFMPEG, NODE, PYTHON};
use crate::{models, tools, ui};

/// How long a child may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(40);
const READY: Duration = Duration::from_secs(60);

/// The line that `backlot serve --print-addresses` writes.
#[derive(Debug, Deserialize)]
struct Addresses {
    aws: String,
    http: String,
    otlp_http: String,
}

#[derive(Debug, Deserialize)]
struct Job {
    id: String,
    status: String,
    #[serde(default)]
    outputs: Vec<Output>,
}

#[derive(Debug, Deserialize)]
struct Output {
    uri: String,
}

pub(crate) fn run(demo: bool) -> Result<(), String> {
    tools::ensure(&[C_COMPILER, PYTHON, FFMPEG, NODE])?;
    let weights = models::fetch()?;
    ui::build()?;
    process::run(cargo().args(["build", "--release", "--package", "backlot", "--package", "backlot-agent"]))?;

    let (sender, interrupted) = channel();
    ctrlc::set_handler(move || {
        let _ = sender.send(()); // nobody listens only when we are ending already
    })
    .map_err(|error| format!("listen for Ctrl-C: {error}"))?;

    let folder = root().join("target/up");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let (appliance, addresses) = start_appliance(&folder)?;
    let agent = start_agent(&folder, &addresses, &weights)?;
    let mut children = [agent, appliance]; // in the order in which they stop
    println!("\nThe dashboard is at {}  (key `test`, secret `test`)", addresses.http);
    println!("AWS door {}   OTLP {}   logs in {}\n", addresses.aws, addresses.otlp_http, folder.display());

    let shown = if demo { show_demo(&folder, &addresses, &interrupted, &mut children) } else { Ok(true) };
    if matches!(shown, Ok(true)) {
        println!("\nCtrl-C stops everything; what was made stays in {}.", folder.join("data").display());
        wait_for_end(&interrupted, &mut children)?;
    }
    eprintln!("stopping");
    stop_all(children)?;
    shown.map(drop)
}

fn start_appliance(folder: &Path) -> Result<(Running, Addresses), String> {
    let mut command = Command::new(binary("backlot"));
    command.args(["serve", "--dev", "--print-addresses", "--data"]).arg(folder.join("data")).stdout(Stdio::piped());
    let mut running = Running::start("backlot", &mut command, folder)?;
    let stdout = running.child.stdout.take().ok_or("backlot has no standard output")?;
    let (sender, line) = channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stdout);
        let mut first = String::new();
        let _ = reader.read_line(&mut first);
        let _ = sender.send(first);
        let _ = reader.read_to_end(&mut Vec::new()); // keeps the pipe open
    });
    let line = line.recv_timeout(READY).unwrap_or_default();
    match serde_json::from_str(&line) {
        Ok(addresses) => Ok((running, addresses)),
        Err(_) => {
            let log = std::fs::read_to_string(&running.log).unwrap_or_default();
            let last = log.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n");
            let busy = TcpListener::bind("127.0.0.1:7070").is_err();
            let hint = if busy { "\nPort 7070 is taken: is another one running?" } else { "" };
            Err(format!("backlot did not start:\n{last}{hint}"))
        }
    }
}

fn start_agent(folder: &Path, addresses: &Addresses, weights: &Path) -> Result<Running, String> {
    let mut command = Command::new(binary("backlot-agent"));
    command
        .arg("run")
        .env("BACKLOT_AGENT_HTTP", &addresses.http)
        .env("BACKLOT_AGENT_AWS", &addresses.aws)
        .env("BACKLOT_AGENT_OTLP", &addresses.otlp_http)
        .env("BACKLOT_AGENT_SCRATCH", folder.join("scratch"))
        .env("BACKLOT_MODELS", weights)
        .envs(KEY)
        .stdout(Stdio::null());
    Running::start("backlot-agent", &mut command, folder)
}

const KEY: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test"), ("AWS_REGION", "us-east-1")];

/// Submits the two demo jobs and shows their progress. False when Ctrl-C came in between.
fn show_demo(
    folder: &Path,
    addresses: &Addresses,
    interrupted: &Receiver<()>,
    children: &mut [Running],
) -> Result<bool, String> {
    let clip = folder.join("demo.mp4");
    if !clip.exists() {
        // A pattern that moves, with a tone: two seconds that an upscaler has something to do with.
        process::run(
            Command::new("ffmpeg")
                .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"])
                .args(["-f", "lavfi", "-i", "testsrc2=size=160x90:rate=12:duration=2"])
                .args(["-f", "lavfi", "-i", "sine=frequency=440:duration=2"])
                .args(["-c:v", "libx264", "-pix_fmt", "yuv420p", "-c:a", "aac", "-shortest"])
                .arg(&clip),
        )?;
    }
    let picture = root().join("packaging/demo/frame.png");
    for (kind, input, scale) in [("video.upscale", &clip, "scale=2"), ("image.upscale", &picture, "scale=4")] {
        println!("{kind} {} ({scale})", input.display());
        let mut command = Command::new(binary("backlot"));
        command
            .args(["job", "submit", "--type", kind, "--param", scale, "--wait", "--json", "--input"])
            .arg(input)
            .env("BACKLOT_ENDPOINT", &addresses.http)
            .envs(KEY)
            .process_group(0)
            .stdout(Stdio::piped());
        let Some(said) = finish(&mut command, interrupted, children)? else { return Ok(false) };
        let job: Job = serde_json::from_str(said.lines().last().unwrap_or_default())
            .map_err(|error| format!("the demo's answer is no job: {error}\n{said}"))?;
        if job.status != "succeeded" {
            return Err(format!("the demo's {kind} ended as {}: {}/jobs/{}", job.status, addresses.http, job.id));
        }
        println!("  the job     {}/jobs/{}", addresses.http, job.id);
        for output in job.outputs {
            println!("  the result  {}/v1/artifacts/{}", addresses.http, output.uri.trim_start_matches("s3://"));
        }
    }
    Ok(true)
}

/// Waits for a client command; `None` when Ctrl-C came first.
fn finish(
    command: &mut Command,
    interrupted: &Receiver<()>,
    children: &mut [Running],
) -> Result<Option<String>, String> {
    let mut child = command.spawn().map_err(|error| format!("start the demo: {error}"))?;
    let mut stdout = child.stdout.take().ok_or("the demo has no standard output")?;
    let reader = std::thread::spawn(move || {
        let mut said = String::new();
        let _ = stdout.read_to_string(&mut said);
        said
    });
    loop {
        if child.try_wait().map_err(|error| error.to_string())?.is_some() {
            return Ok(Some(reader.join().unwrap_or_default()));
        }
        let asked = interrupted.recv_timeout(Duration::from_millis(100));
        let fallen = children.iter_mut().find_map(Running::ended);
        if asked != Err(RecvTimeoutError::Timeout) || fallen.is_some() {
            terminate(&child);
            let _ = child.wait();
            return fallen.map_or(Ok(None), Err);
        }
    }
}

fn wait_for_end(interrupted: &Receiver<()>, children: &mut [Running]) -> Result<(), String> {
    while interrupted.recv_timeout(Duration::from_millis(500)) == Err(RecvTimeoutError::Timeout) {
        if let Some(fallen) = children.iter_mut().find_map(Running::ended) {
            return Err(fallen);
        }
    }
    Ok(())
}

/// Asks each to end and waits for it; one that will not is killed, which is an error.
fn stop_all(children: impl IntoIterator<Item = Running>) -> Result<(), String> {
    let mut stubborn = Vec::new();
    for mut running in children {
        if running.ended().is_none() {
            terminate(&running.child);
            let deadline = Instant::now() + GRACE;
            while running.ended().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            if running.ended().is_none() {
                stubborn.push(running.name);
            }
        }
    }
    if stubborn.is_empty() {
        Ok(())
    } else {
        Err(format!("{} did not end within {} s and was killed", stubborn.join(", "), GRACE.as_secs()))
    }
}

fn terminate(child: &Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM); // it may have ended by itself just now
    }
}

fn binary(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join("release").join(name)
}

/// A child with its log. Dropped, it is killed: nothing stays behind whatever happens to us.
struct Running {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(name: &'static str, command: &mut Command, folder: &Path) -> Result<Self, String> {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
        let child = command.process_group(0).stdin(Stdio::null()).stderr(file).spawn();
        Ok(Self { name, child: child.map_err(|error| format!("start {name}: {error}"))?, log })
    }

    /// How it ended, if it has.
    fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok()??;
        Some(format!("{} ended with {status}; its log is {}", self.name, self.log.display()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
