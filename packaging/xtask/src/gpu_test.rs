//! `cargo xtask gpu-test`: what of the CUDA executor is right on a GPU, check by check; here, or in a folder to carry.
//!
//! `--bundle` makes one folder that runs on a GPU host without Rust, without this repository and without a network: the
//! program, the weights of the upscalers, and `run.sh`. It stays under [`BUNDLE_BYTES_MAX`].

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{cargo, root, run};
use crate::{models, tools};

const BUNDLE_BYTES_MAX: u64 = 60 << 20;
const PROGRAM: &str = "backlot-gpu-test";
/// Networks that the checks want, each a pair of files.
const NETWORKS: [&str; 4] =
    ["realesr-animevideov3-x2", "realesr-animevideov3-x4", "realesrgan-x4plus-anime", "realesrgan-x4plus"];

/// Finds NVIDIA's libraries where CUDA, its packages or Python's wheels put them, then runs everything.
const RUN: &str = r#"#!/bin/sh
# Runs every check of the CUDA executor on this host's first GPU: one JSON line a check, also in results.jsonl.
# Ends with 0 when all passed, 1 when some failed, 69 when there is no GPU and nothing was proven.
cd "$(dirname "$0")" || exit 1
folders=$(ls -d /usr/local/cuda*/lib64 /usr/local/cuda*/targets/x86_64-linux/lib 2>/dev/null)
if command -v python3 >/dev/null; then
    sites=$(python3 -c 'import site, sys; print("\n".join(site.getsitepackages() + sys.path))' 2>/dev/null)
    for site in $sites; do
        folders="$folders $(ls -d "$site"/nvidia/*/lib 2>/dev/null)"
    done
fi
for folder in $folders; do
    LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$folder"
done
export LD_LIBRARY_PATH BACKLOT_MODELS="$PWD/models"
{ ./backlot-gpu-test "$@"; echo $? >.code; } | tee results.jsonl
code=$(cat .code)
rm -f .code
exit "$code"
"#;

/// Runs the checks here, with these further arguments. The exit code is theirs.
///
/// # Errors
/// When it cannot be built or started.
pub(crate) fn here(arguments: &[&str]) -> Result<u8, String> {
    let (program, weights) = build()?;
    let status = Command::new(&program)
        .args(arguments)
        .env("BACKLOT_MODELS", weights)
        .status()
        .map_err(|error| format!("start {}: {error}", program.display()))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Makes the folder.
///
/// # Errors
/// When something cannot be built or copied, or it all is larger than it may be.
pub(crate) fn bundle(folder: &Path) -> Result<(), String> {
    let (program, weights) = build()?;
    let bytes = assemble(folder, &program, &weights)?;
    println!("{}: {} MiB; on a GPU host, run `run.sh` in it", folder.display(), bytes.div_ceil(1 << 20));
    Ok(())
}

fn build() -> Result<(PathBuf, PathBuf), String> {
    tools::ensure(&[tools::PYTHON])?;
    let weights = models::fetch()?;
    run(cargo().args(["build", "--release", "--package", PROGRAM]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok((target.join("release").join(PROGRAM), weights))
}

fn assemble(folder: &Path, program: &Path, weights: &Path) -> Result<u64, String> {
    let models = folder.join("models");
    fs::create_dir_all(&models).map_err(|error| format!("create {}: {error}", models.display()))?;
    let mut bytes = RUN.len() as u64;
    let mut copy = |from: &Path, to: &Path| -> Result<(), String> {
        bytes += fs::copy(from, to).map_err(|error| format!("copy {}: {error}", from.display()))?;
        Ok(())
    };
    copy(program, &folder.join(PROGRAM))?;
    for network in NETWORKS {
        for ending in ["param", "bin"] {
            let name = format!("{network}.{ending}");
            copy(&weights.join(&name), &models.join(&name))?;
        }
    }
    let script = folder.join("run.sh");
    fs::write(&script, RUN)
        .and_then(|()| fs::set_permissions(&script, fs::Permissions::from_mode(0o755)))
        .map_err(|error| format!("{}: {error}", script.display()))?;
    if bytes > BUNDLE_BYTES_MAX {
        return Err(format!("{} is {bytes} bytes, {BUNDLE_BYTES_MAX} are allowed", folder.display()));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The script with a program that says what it was given.
    #[test]
    fn the_script_of_a_bundle_passes_arguments_in_and_the_exit_code_out() {
        let folder = std::env::temp_dir().join(format!("backlot-bundle-{}", std::process::id()));
        let weights = folder.join("weights");
        fs::create_dir_all(&weights).unwrap();
        for network in NETWORKS {
            for ending in ["param", "bin"] {
                fs::write(weights.join(format!("{network}.{ending}")), "x").unwrap();
            }
        }
        let program = folder.join("program");
        fs::write(&program, "#!/bin/sh\necho \"$1 $(ls \"$BACKLOT_MODELS\" | wc -l)\"\nexit 69\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let bundle = folder.join("bundle");
        assemble(&bundle, &program, &weights).unwrap();
        let made = Command::new(bundle.join("run.sh")).arg("--no-bench").output().unwrap();
        assert_eq!(made.status.code(), Some(69));
        assert_eq!(String::from_utf8_lossy(&made.stdout).trim(), "--no-bench 8");
        assert_eq!(fs::read_to_string(bundle.join("results.jsonl")).unwrap().trim(), "--no-bench 8");
        fs::remove_dir_all(&folder).unwrap();
    }
}
