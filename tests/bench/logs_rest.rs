//! What is left of the lines when their windows have come to rest: room on the disk, memory, and the same questions again.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::appliance::Appliance;
use crate::client::Failure;
use crate::logs::{folder_bytes, questions};

/// Windows are merged in rounds of some, a minute apart.
const PATIENCE: Duration = Duration::from_secs(1800);
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Windows that nobody searches are let go in the second round after: rounds are a minute apart.
const LET_GO: Duration = Duration::from_secs(130);

/// Waits until what is closed rests, if anything is closed (a gigabyte of records closes a window), and prints what it takes. `line_bytes`: of a raw
/// line, on average.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn run(appliance: &Appliance, logs: &Path, line_bytes: f64) -> Result<(), Failure> {
    let began = Instant::now();
    loop {
        let closed = closed(logs)?;
        if closed.is_empty() {
            println!("{:>12} no window is closed: so few lines do not come to rest", "");
            return Ok(());
        }
        if closed.iter().all(|window| window.rests) {
            let (mut bytes, mut documents) = (0, 0);
            for window in &closed {
                bytes += folder_bytes(&window.path)?;
                documents += window.documents;
            }
            let raw_bytes = documents as f64 * line_bytes;
            println!("{:>12} windows at rest after {:.0} s", closed.len(), began.elapsed().as_secs_f64());
            println!("{:>12.3} of the raw lines on the disk at rest", bytes as f64 / raw_bytes);
            resident(appliance, "then")?;
            questions(appliance)?;
            resident(appliance, "after these questions")?;
            std::thread::sleep(LET_GO);
            return resident(appliance, "when nobody has asked for two rounds");
        }
        if began.elapsed() > PATIENCE {
            return Err("windows did not come to rest".into());
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn resident(appliance: &Appliance, when: &str) -> Result<(), Failure> {
    let (all, own) = (appliance.resident_mib()?, appliance.anonymous_mib()?);
    println!("{all:>12.0} MiB resident {when}, {own:.0} of it its own");
    Ok(())
}

struct Closed {
    path: PathBuf,
    documents: u64,
    rests: bool,
}

fn closed(logs: &Path) -> Result<Vec<Closed>, Failure> {
    let mut closed = Vec::new();
    for entry in std::fs::read_dir(logs)? {
        let path = entry?.path();
        let Ok(text) = std::fs::read_to_string(path.join("meta.json")) else { continue };
        let meta: serde_json::Value = serde_json::from_str(&text)?;
        let said: serde_json::Value = serde_json::from_str(meta["payload"].as_str().unwrap_or("{}"))?;
        if said["closed"] == true {
            let is_one = meta["segments"].as_array().is_some_and(|segments| segments.len() == 1);
            let rests = is_one && meta["index_settings"]["docstore_blocksize"] == 65_536 && is_filtered(&path);
            closed.push(Closed { documents: said["documents"].as_u64().unwrap_or(0), rests, path });
        }
    }
    Ok(closed)
}

/// The filter is made last.
fn is_filtered(window: &Path) -> bool {
    window.join("terms.filter").exists()
}
