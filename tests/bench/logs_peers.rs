//! What else finds log lines on this machine: ClickHouse as chDB (PyPI), SQLite's FTS5, ripgrep (Debian). What cannot be started is said.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::client::Failure;
use crate::s3_peers::python_with;

/// The version that the figures are of.
const PACKAGES: [&str; 1] = ["chdb==4.4.0"];

/// What a peer did with the same lines.
#[derive(Debug, Deserialize)]
struct Peer {
    name: String,
    /// MB of lines for each second of CPU.
    mb_s_core: Option<f64>,
    /// Room on the disk for each byte of the lines.
    disk: Option<f64>,
    #[serde(default)]
    p50_ms: BTreeMap<String, f64>,
    #[serde(default)]
    missing: bool,
}

/// Measures them one after the other with the lines in `lines`, and prints what they did.
pub(crate) fn run(lines: &Path, dir: &Path) -> Result<(), Failure> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/peers/logs.py");
    let folder = tempfile::tempdir_in(dir)?;
    let output = Command::new(python_with("backlot-bench-log-peers", &PACKAGES)?)
        .arg(script)
        .args([lines, folder.path()])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("start python: {error}"))?;
    let said = String::from_utf8(output.stdout)?;
    let peers: Vec<Peer> =
        serde_json::from_str(said.lines().last().unwrap_or_default()).map_err(|error| format!("{error}: {said}"))?;
    for peer in peers {
        println!("{}{}", peer.name, if peer.missing { ": not here" } else { "" });
        if let Some(rate) = peer.mb_s_core {
            println!("{rate:>12.1} MB/s for each core used");
        }
        if let Some(disk) = peer.disk {
            println!("{disk:>12.3} of the raw lines on the disk");
        }
        for (what, ms) in peer.p50_ms {
            println!("{ms:>12.2} ms p50: {what}");
        }
    }
    Ok(())
}
