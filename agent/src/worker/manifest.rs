//! Manifests: which programs this host can run beside the built-in types.
//!
//! One TOML file for each program, in the folder that the configuration names. A manifest that cannot be read stops
//! the agent's start: a host that silently offers less than its operator wrote down is worse than none.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use backlot_wire::{GpuInfo, Requirements};
use serde::Deserialize;

/// Most manifests that a folder may hold.
const MANIFESTS_MAX: usize = 256;

/// A manifest, as written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    /// Program and arguments. It runs in the manifest's folder.
    command: Vec<String>,
    /// Job types that it takes.
    types: Vec<String>,
    /// Models that it holds, for placement.
    #[serde(default)]
    models: Vec<String>,
    /// What the host must have for these types to be offered.
    #[serde(default)]
    requirements: Requirements,
    #[serde(default)]
    env: BTreeMap<String, String>,
    /// It takes one job after the other and says `done` after each. Otherwise it is started for each job.
    #[serde(default)]
    keep_alive: bool,
    #[serde(default)]
    limits: Bounds,
}

/// What a worker may take of its host.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bounds {
    /// GiB of memory.
    pub memory_gb: Option<f64>,
    /// Cores, in parts too.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub processes: Option<u32>,
}

impl Bounds {
    #[must_use]
    pub fn memory_bytes(&self) -> Option<u64> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be 0.01 to 100,000 GiB")]
        self.memory_gb.map(|gb| (gb * f64::from(1 << 30)) as u64)
    }

    fn check(&self) -> Result<(), String> {
        let within = |name: &str, value: Option<f64>, most: f64| match value {
            Some(value) if !(0.01..=most).contains(&value) => {
                Err(format!("`limits.{name}` is {value}, not 0.01 to {most}"))
            }
            _ => Ok(()),
        };
        within("memory_gb", self.memory_gb, 100_000.0)?;
        within("cpus", self.cpus, 4_096.0)?;
        within("processes", self.processes.map(f64::from), 4_194_304.0)
    }
}

/// A program that can be a worker: a studio's own, or the agent itself for the built-in types.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    pub name: String,
    /// What `backlot-agent worker` is given: `--` and the program's own arguments, or options of the built-in worker.
    pub arguments: Vec<OsString>,
    /// Where it runs; the agent's own folder where absent.
    pub dir: Option<PathBuf>,
    pub env: BTreeMap<String, String>,
    pub types: Vec<String>,
    pub models: Vec<String>,
    pub requirements: Requirements,
    pub keep_alive: bool,
    pub limits: Bounds,
}

/// Why a manifest is not taken.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct ManifestError {
    path: PathBuf,
    problem: String,
}

/// Reads each `*.toml` in `folder`, in the order of their names.
///
/// # Errors
/// [`ManifestError`] names the file and what is wrong with it.
pub fn read_all(folder: &Path) -> Result<Vec<Program>, ManifestError> {
    let fault = |path: &Path, problem: String| ManifestError { path: path.to_owned(), problem };
    let entries = std::fs::read_dir(folder).map_err(|error| fault(folder, error.to_string()))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    if paths.len() > MANIFESTS_MAX {
        return Err(fault(folder, format!("holds more than {MANIFESTS_MAX} manifests")));
    }
    let mut programs: Vec<Program> = Vec::new();
    for path in paths {
        let text = std::fs::read_to_string(&path).map_err(|error| fault(&path, error.to_string()))?;
        let manifest: Manifest = toml::from_str(&text).map_err(|error| fault(&path, error.to_string()))?;
        let program = checked(manifest, &path).map_err(|problem| fault(&path, problem))?;
        for other in &programs {
            if other.name == program.name {
                return Err(fault(&path, format!("has the name `{}` of another manifest", other.name)));
            }
            if let Some(kind) = program.types.iter().find(|kind| other.types.contains(kind)) {
                return Err(fault(&path, format!("offers `{kind}`, which `{}` offers already", other.name)));
            }
        }
        programs.push(program);
    }
    Ok(programs)
}

fn checked(manifest: Manifest, path: &Path) -> Result<Program, String> {
    let is_name = |text: &String| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        !text.is_empty() && text.len() <= backlot_wire::job::NAME_BYTES_MAX && text.bytes().all(allowed)
    };
    if !is_name(&manifest.name) {
        return Err(format!("`name` is `{}`, not 1 to 128 letters, digits, `.`, `_`, `-`", manifest.name));
    }
    if manifest.command.first().is_none_or(String::is_empty) {
        return Err("`command` names no program".into());
    }
    match manifest.types.iter().find(|kind| !is_name(kind)) {
        Some(kind) => return Err(format!("`types` holds `{kind}`, not 1 to 128 letters, digits, `.`, `_`, `-`")),
        None if manifest.types.is_empty() => return Err("`types` names no job type".into()),
        None => {}
    }
    if let Some(kind) = manifest.types.iter().find(|kind| crate::infer::KINDS.contains(&kind.as_str())) {
        return Err(format!("`types` holds `{kind}`, which is built in"));
    }
    if manifest.requirements.arch.as_ref().is_some_and(|arch| backlot_wire::job::parse_arch(arch).is_none()) {
        return Err("`requirements.arch` is not `sm_NN` or `sm_NN+`".into());
    }
    manifest.limits.check()?;
    let folder = path.parent().unwrap_or(Path::new("."));
    Ok(Program {
        name: manifest.name,
        arguments: std::iter::once("--".to_owned()).chain(manifest.command).map(OsString::from).collect(),
        dir: Some(std::path::absolute(folder).map_err(|error| error.to_string())?),
        env: manifest.env,
        types: manifest.types,
        models: manifest.models,
        requirements: manifest.requirements,
        keep_alive: manifest.keep_alive,
        limits: manifest.limits,
    })
}

/// What this host lacks for `requirements`, in words; `None` when it has everything.
#[must_use]
pub fn lacks(requirements: &Requirements, gpus: &[GpuInfo], labels: &BTreeMap<String, String>) -> Option<String> {
    if let Some(gb) = requirements.vram_gb
        && gb > 0.0
    {
        #[allow(clippy::cast_precision_loss, reason = "a size in GiB needs no more than f64 holds")]
        let most = gpus.iter().map(|gpu| gpu.vram_bytes as f64 / f64::from(1 << 30)).fold(0.0, f64::max);
        if most < gb {
            return Some(format!("needs {gb} GiB of GPU memory, the largest GPU has {most:.1}"));
        }
    }
    if let Some(arch) = &requirements.arch {
        let fits = |gpu: &GpuInfo| {
            backlot_wire::job::parse_arch(arch)
                .zip(gpu.sm)
                .is_some_and(|((sm, or_later), has)| has == sm || (or_later && has > sm))
        };
        if !gpus.iter().any(fits) {
            return Some(format!("needs a GPU of {arch}"));
        }
    }
    let missing = requirements.labels.iter().find(|(name, value)| labels.get(*name) != Some(value));
    missing.map(|(name, value)| format!("needs the label {name}={value}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn the_samples_of_the_repository_are_manifests() {
        let programs = read_all(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/samples"))).unwrap();
        let types: Vec<&str> = programs.iter().flat_map(|program| &program.types).map(String::as_str).collect();
        assert_eq!(types, ["sample.comfyui", "sample.diffusers", "sample.textstats"]);
    }

    #[test]
    fn a_manifest_that_is_wrong_is_named_with_its_problem() {
        for (text, word) in [
            ("name = \"a\"", "command"),
            ("name = \"a\"\ncommand = []\ntypes = [\"t\"]", "`command`"),
            ("name = \"a\"\ncommand = [\"x\"]\ntypes = []", "`types`"),
            ("name = \"a\"\ncommand = [\"x\"]\ntypes = [\"a b\"]", "`a b`"),
            ("name = \"a\"\ncommand = [\"x\"]\ntypes = [\"image.upscale\"]", "built in"),
            ("name = \"a\"\ncommand = [\"x\"]\ntypes = [\"t\"]\nkeepalive = true", "keepalive"),
            ("name = \"a\"\ncommand = [\"x\"]\ntypes = [\"t\"]\nlimits.memory = 1", "memory"),
            ("name = \"a\"\ncommand = [\"x\"]\ntypes = [\"t\"]\nlimits.cpus = nan", "`limits.cpus`"),
            ("name = \"a\"\ncommand = [\"x\"]\ntypes = [\"t\"]\nlimits.memory_gb = 0", "`limits.memory_gb`"),
            ("name = \"a\"\ncommand = [\"x\"]\ntypes = [\"t\"]\nrequirements.arch = \"volta\"", "arch"),
        ] {
            let dir = folder(&[("bad.toml", text)]);
            let problem = read_all(dir.path()).unwrap_err().to_string();
            assert!(problem.contains(word) && problem.contains("bad.toml"), "{text}: {problem}");
        }
        let one = "name = \"a\"\ncommand = [\"x\"]\ntypes = [\"t\"]";
        let dir = folder(&[("1.toml", one), ("2.toml", &one.replace("\"a\"", "\"b\""))]);
        assert!(read_all(dir.path()).unwrap_err().to_string().contains("already"));
    }

    #[test]
    fn a_program_is_offered_only_where_its_requirements_are_met() {
        let gpus = [GpuInfo { name: "A10".into(), vram_bytes: 24 << 30, sm: Some(86), executor: "cuda".into() }];
        let labels = BTreeMap::from([("rack".to_owned(), "1".to_owned())]);
        let needs = |text: &str| lacks(&toml::from_str::<Requirements>(text).unwrap(), &gpus, &labels);
        assert_eq!(needs(""), None);
        assert_eq!(needs("vram_gb = 16\narch = \"sm_80+\"\nlabels = { rack = \"1\" }"), None);
        assert!(needs("vram_gb = 40").unwrap().contains("40 GiB"));
        assert!(needs("arch = \"sm_90+\"").unwrap().contains("sm_90+"));
        assert!(needs("labels = { rack = \"2\" }").unwrap().contains("rack=2"));
    }
}
