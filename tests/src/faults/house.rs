//! The appliance of a round: one data folder, one process after another, and when each of them lived.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::{Addresses, binary, http};

use super::history::Run;
use super::load::Shared;

/// How long a start or an end may take; only a failure waits for it.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct House {
    pub(super) data: PathBuf,
    /// Logs lie here, out of reach of the faults.
    logs: PathBuf,
    environment: Vec<(String, String)>,
    shared: Arc<Shared>,
    process: Option<Child>,
    http: String,
    pub(super) runs: Vec<Run>,
}

impl House {
    pub(super) fn new(data: PathBuf, logs: PathBuf, environment: Vec<(String, String)>, shared: Arc<Shared>) -> Self {
        Self { data, logs, environment, shared, process: None, http: String::new(), runs: Vec::new() }
    }

    /// Starts the next process; what it said where it does not become ready.
    pub(super) fn start(&mut self) -> Result<(), String> {
        let begun = self.shared.now();
        let log = std::fs::File::create(self.log_path(self.runs.len())).map_err(|error| format!("log: {error}"))?;
        let mut command = Command::new(binary("backlot"));
        command.args(["serve", "--dev", "--print-addresses", "--data"]).arg(&self.data);
        command.env_remove("BACKLOT_PYTHON").envs(self.environment.iter().map(|(name, value)| (name, value)));
        for door in ["AWS", "HTTP", "OTLP_GRPC", "OTLP_HTTP"] {
            command.env(format!("BACKLOT_EDGE_{door}"), "127.0.0.1:0");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut process = command.spawn().map_err(|error| format!("start backlot: {error}"))?;
        let stdout = process.stdout.take();
        self.process = Some(process);
        self.runs.push(Run { begun, silent: None, ended: u64::MAX });
        let (sender, first_line) = mpsc::channel();
        std::thread::spawn(move || {
            let Some(stdout) = stdout else { return };
            let (mut line, mut reader) = (String::new(), BufReader::new(stdout));
            let _ = reader.read_line(&mut line);
            let _ = sender.send(line);
            let _ = reader.read_to_end(&mut Vec::new());
        });
        let line = first_line.recv_timeout(PATIENCE).unwrap_or_default();
        let addresses = serde_json::from_str::<Addresses>(&line);
        let port = addresses.as_ref().ok().and_then(|addresses| addresses.aws.rsplit_once(':')?.1.parse().ok());
        let (Ok(addresses), Some(port)) = (addresses, port) else {
            self.kill();
            return Err(format!("run {} did not become ready: {}", self.runs.len() - 1, self.log_end()));
        };
        self.http = addresses.http;
        self.shared.port.set(port);
        Ok(())
    }

    /// kill -9.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill(); // it may have ended by itself
            let _ = process.wait();
            self.ended();
        }
    }

    /// Waits for the process to end by itself. `None`: it did not, and still runs.
    #[allow(clippy::disallowed_methods, reason = "a test waits on the real clock, with a deadline")]
    pub(super) fn wait(&mut self) -> Option<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(status) = self.has_ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }

    /// How the process ended, if it has.
    pub(super) fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.process.as_mut()?.try_wait().ok()??;
        self.process = None;
        self.ended();
        Some(status)
    }

    /// From now on nothing that the current process answers counts as heard.
    pub(super) fn falls_silent(&mut self) {
        let now = self.shared.now();
        if let Some(run) = self.runs.last_mut() {
            run.silent = Some(now);
        }
    }

    fn ended(&mut self) {
        self.shared.port.set(0);
        let now = self.shared.now();
        if let Some(run) = self.runs.last_mut() {
            run.ended = now;
        }
    }

    /// GET of the http door: status and body; 0 where nobody is there.
    pub(super) fn get(&self, path: &str) -> (u16, String) {
        if self.process.is_none() || TcpStream::connect(self.http.trim_start_matches("http://")).is_err() {
            return (0, String::new());
        }
        http(&self.http, "GET", path, &[("authorization", "Basic dGVzdDp0ZXN0")], b"")
    }

    fn log_path(&self, run: usize) -> PathBuf {
        self.logs.join(format!("run-{run}.log"))
    }

    fn log(&self, run: usize) -> String {
        std::fs::read_to_string(self.log_path(run)).unwrap_or_default()
    }

    /// The last lines of the current log.
    pub(super) fn log_end(&self) -> String {
        let log = self.log(self.runs.len().saturating_sub(1));
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Panics that the logs of all runs tell of, but for those whose disk was taken away.
    pub(super) fn panics(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (index, _) in self.runs.iter().enumerate().filter(|(_, run)| run.silent.is_none()) {
            let log = self.log(index);
            let lines: Vec<&str> = log.lines().collect();
            let panic = lines.iter().position(|line| line.contains("panicked at"));
            found.extend(panic.map(|at| format!("run {index}: {}", lines[at..lines.len().min(at + 3)].join(" "))));
        }
        found
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.kill();
    }
}
