//! The release binary beside this one, started on a folder of its own and killed at the end.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::client::Failure;

pub(crate) struct Appliance {
    child: Child,
    pub(crate) aws: String,
    pub(crate) http: String,
    pub(crate) otlp: String,
    /// From the start of the process to the line that says that all doors answer.
    pub(crate) ready: Duration,
}

impl Appliance {
    /// Starts `backlot serve --dev` on `data`, with its standard error in `log`.
    pub(crate) fn start(data: &Path, log: &Path) -> Result<Self, Failure> {
        Self::start_with(data, log, &[])
    }

    /// The same with configuration from the environment.
    #[allow(clippy::disallowed_methods, reason = "a measurement")]
    pub(crate) fn start_with(data: &Path, log: &Path, settings: &[(&str, &str)]) -> Result<Self, Failure> {
        let program = std::env::current_exe()?.with_file_name("backlot");
        if !program.exists() {
            return Err(format!("{} is not there: `cargo build --release` makes it", program.display()).into());
        }
        let mut command = Command::new(program);
        command.args(["serve", "--dev", "--print-addresses", "--data"]).arg(data);
        for door in ["AWS", "HTTP", "OTLP_GRPC", "OTLP_HTTP"] {
            command.env(format!("BACKLOT_EDGE_{door}"), "127.0.0.1:0");
        }
        command.envs(settings.iter().copied());
        let began = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(std::fs::File::create(log)?).spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("no standard output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let ready = began.elapsed();
        let said: Value =
            serde_json::from_str(&line).map_err(|_| format!("it did not start: see {}", log.display()))?;
        let address = |door: &str| said[door].as_str().unwrap_or_default().to_owned();
        Ok(Self { child, aws: address("aws"), http: address("http"), otlp: address("otlp_http"), ready })
    }

    /// Of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in MiB.
    pub(crate) fn resident_mib(&self) -> Result<f64, Failure> {
        resident_mib(&self.child.id().to_string())
    }

    /// What of it is its own: the rest is pages of files, which the kernel takes back when it needs them.
    pub(crate) fn anonymous_mib(&self) -> Result<f64, Failure> {
        status_mib(&self.child.id().to_string(), "RssAnon:")
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended by itself
        let _ = self.child.wait();
    }
}

/// Resident memory of process `id` in MiB; `self` is this one.
pub(crate) fn resident_mib(id: &str) -> Result<f64, Failure> {
    status_mib(id, "VmRSS:")
}

/// A line of what the kernel says of process `id`, which is in kB there.
fn status_mib(id: &str, name: &str) -> Result<f64, Failure> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
