//! Other queues, started on loopback beside ours and ended with the measurement. What cannot be started is said, not guessed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::client::Failure;

/// What BullMQ did, in jobs a second.
#[derive(Debug, Deserialize)]
pub(crate) struct BullMq {
    pub(crate) added: f64,
    pub(crate) added_bulk: f64,
    pub(crate) taken: f64,
    pub(crate) versions: String,
}

/// Runs BullMQ against a Redis of its own whose append-only file is synced with each command. Redis comes from Debian
/// (`redis-server`), BullMQ from npm, in the version that the lock file beside the script pins.
pub(crate) fn bullmq(dir: &Path, connections: usize, body_bytes: usize, seconds: u64) -> Result<BullMq, Failure> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bench/peers");
    if !folder.join("node_modules").exists() {
        // Not `ci`: npm 11 then wants the optional packages of other systems in the lock file.
        let installed = Command::new("npm")
            .args(["install", "--no-save", "--no-audit", "--no-fund", "--loglevel=error"])
            .current_dir(&folder)
            .status()
            .map_err(|error| format!("start npm: {error}"))?;
        if !installed.success() {
            return Err(format!("`npm install` in {} ended with {installed}", folder.display()).into());
        }
    }
    let data = tempfile::tempdir_in(dir)?;
    let (_redis, port) = redis(data.path())?;
    let output = Command::new("node")
        .arg("bullmq.mjs")
        .args([port.to_string(), connections.to_string(), body_bytes.to_string(), seconds.to_string()])
        .current_dir(&folder)
        .stderr(Stdio::piped())
        .output()
        .map_err(|error| format!("start node: {error}"))?;
    let said = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(said.lines().last().unwrap_or_default()).map_err(|error| format!("{error}: {said}"))?)
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself
        let _ = self.0.wait();
    }
}

#[allow(clippy::disallowed_methods, reason = "a wait on a program of others, on the real clock")]
fn redis(data: &Path) -> Result<(Ended, u16), Failure> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes"])
        .args(["--appendfsync", "always", "--maxmemory-policy", "noeviction", "--dir"])
        .arg(data)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| format!("start redis-server (`apt-get install redis-server`): {error}"))?;
    let child = Ended(child);
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        if Instant::now() > deadline {
            return Err("redis-server does not answer".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok((child, port))
}
