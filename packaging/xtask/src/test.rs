//! `cargo xtask test`: sets up, then passes everything: rustfmt, clippy, unit tests, black-box suites, browser.

use std::path::PathBuf;
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::process::{self, cargo, root};
use crate::tools::{AWS_CLI, C_COMPILER, CHROMIUM, FFMPEG, MKFS, NODE, PYTHON, RESTIC, RSYSLOG, VULKAN};
use crate::{kernels, models, tools, ui};

/// Installs what the tests need: programs, Python packages, model weights, the dashboard.
pub(crate) fn set_up() -> Result<(), String> {
    tools::ensure(&[C_COMPILER, PYTHON, FFMPEG, NODE, CHROMIUM, MKFS, RESTIC, RSYSLOG, AWS_CLI, VULKAN])?;
    python()?;
    models::fetch()?;
    ui::build()
}

/// Sets up and passes everything.
pub(crate) fn run(lint: bool) -> Result<(), String> {
    set_up()?;
    kernels::check_where_possible()?;
    if lint {
        process::run(cargo().args(["fmt", "--all", "--check"]))?;
        process::run(cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"]))?;
    }
    process::run(cargo().args(["build", "--workspace", "--bins"]))?;
    // The black-box suites start appliances, agents and browsers; two at a time is what two cores can carry.
    process::run(cargo().args(["test", "--workspace", "--no-fail-fast"]).env("RUST_TEST_THREADS", threads()))
}

fn threads() -> String {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8).to_string()
}

/// Makes the virtual environment of the tests, once for each state of the requirements.
fn python() -> Result<PathBuf, String> {
    let (root, folder) = (root(), root().join(".venv"));
    let requirements = root.join("tests/python/requirements.txt");
    let wanted = std::fs::read(&requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;
    let stamp = folder.join("requirements.sha256");
    let digest = hex::encode(Sha256::digest(&wanted));
    let python = folder.join("bin/python");
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == digest) && python.exists() {
        return Ok(python);
    }
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    process::run(
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"])
            .arg(&requirements),
    )?;
    std::fs::write(&stamp, digest).map_err(|error| format!("{}: {error}", stamp.display()))?;
    Ok(python)
}
