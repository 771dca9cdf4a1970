//! What an import finds on disk: the files of a model, each looked at before a byte of it is stored.
//!
//! Only weights that are data are taken. A pickled checkpoint is a program that whoever loads it runs; none is ever
//! opened beyond its first bytes, whatever it is called.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use backlot_wire::model::head::{self, Header};
use backlot_wire::model::{ModelKind, ncnn};

use super::super::CliError;
use super::{ImportArguments, diffusers};

/// Longest configuration that is read.
const TEXT_BYTES_MAX: u64 = 16 << 20;
/// Most entries of a folder that are looked at.
const ENTRIES_MAX: usize = 10_000;

/// A file of the model and where it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) path: String,
    pub(super) file: PathBuf,
}

/// A model on disk that was found good.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: ModelKind,
    pub(super) name: String,
    pub(super) files: Vec<Candidate>,
    /// Files beside it that the model does not need.
    pub(super) left_out: Vec<String>,
}

impl Found {
    /// Looks at what is to be imported.
    pub(super) fn look(arguments: &ImportArguments) -> Result<Self, CliError> {
        let path = &arguments.path;
        let metadata = std::fs::metadata(path).map_err(|error| usage(path, error))?;
        let mut found = if metadata.is_file() {
            match ending(path).as_str() {
                "safetensors" => single(path, arguments)?,
                "param" => pairs(path, vec![path.clone()])?,
                "bin" if path.with_extension("param").is_file() => pairs(path, vec![path.with_extension("param")])?,
                other if is_pickle(other) => return Err(usage(path, PICKLE)),
                _ => {
                    return Err(usage(path, "is none of .safetensors, a .param of ncnn, or a folder of diffusers"));
                }
            }
        } else {
            let entries = entries(path)?;
            let params: Vec<PathBuf> = entries.iter().filter(|entry| ending(entry) == "param").cloned().collect();
            if path.join("model_index.json").is_file() {
                diffusers::pipeline(path, arguments.variant.as_deref())?
            } else if path.join("config.json").is_file() {
                diffusers::part(path, arguments)?
            } else if !params.is_empty() {
                pairs(path, params)?
            } else {
                return Err(usage(
                    path,
                    "has no model_index.json (diffusers) and no .param files (ncnn); for a single file, name the file",
                ));
            }
        };
        if let Some(kind) = &arguments.kind {
            found.kind = kind.clone();
        }
        if let Some(name) = &arguments.name {
            found.name.clone_from(name);
        }
        found.files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(found)
    }
}

const PICKLE: &str = "is a pickled checkpoint: a program that runs when it is loaded. Backlot never reads one. \
    Take the publisher's .safetensors file, or convert it on a machine that may be lost (torch.load with weights_only=True, then safetensors.torch.save_file)";

/// A path with what is wrong with it.
pub(super) fn usage(path: &Path, problem: impl std::fmt::Display) -> CliError {
    CliError::Usage(format!("{}: {problem}", path.display()))
}

pub(super) fn ending(path: &Path) -> String {
    path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// Whether files with this ending are pickled as a rule.
pub(super) fn is_pickle(ending: &str) -> bool {
    matches!(ending, "ckpt" | "pt" | "pth" | "bin" | "pkl" | "pickle")
}

/// What is in a folder, by name.
pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, CliError> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|error| usage(folder, error))? {
        entries.push(entry.map_err(|error| usage(folder, error))?.path());
        if entries.len() > ENTRIES_MAX {
            return Err(usage(folder, format!("has more than {ENTRIES_MAX} entries")));
        }
    }
    entries.sort();
    Ok(entries)
}

/// A file's name as text.
pub(super) fn name_of(path: &Path) -> Result<String, CliError> {
    path.file_name()
        .and_then(|name| name.to_str())
        .map(str::to_owned)
        .ok_or_else(|| usage(path, "has a name that is no text"))
}

pub(super) fn read_text(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| usage(path, error))?;
    file.take(TEXT_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| usage(path, error))?;
    if bytes.len() as u64 > TEXT_BYTES_MAX {
        return Err(usage(path, format!("has more than {TEXT_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// A JSON file of a model.
pub(super) fn read_json(path: &Path) -> Result<serde_json::Value, CliError> {
    serde_json::from_slice(&read_text(path)?).map_err(|error| usage(path, format!("is no JSON: {error}")))
}

/// Reads and checks the head of a safetensors file.
pub(super) fn header(path: &Path) -> Result<Header, CliError> {
    let failed = |error: std::io::Error| usage(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let file_bytes = file.metadata().map_err(failed)?.len();
    let mut prefix = [0; 8];
    let wrong = |problem: String| usage(path, format!("is no safetensors file: {problem}"));
    file.read_exact(&mut prefix).map_err(|_| wrong(format!("it has {file_bytes} bytes")))?;
    if let Some(what) = head::pickle(&prefix) {
        return Err(usage(path, format!("is {what}, and {}", PICKLE.trim_start_matches("is "))));
    }
    let head_bytes = head::head_bytes(prefix, file_bytes).map_err(|error| wrong(error.to_string()))?;
    let mut head = vec![0; usize::try_from(head_bytes).unwrap_or(usize::MAX)]; // bounded by what the file has
    file.read_exact(&mut head).map_err(failed)?;
    Header::read(&head, file_bytes - head::PREFIX_BYTES - head_bytes).map_err(|error| wrong(error.to_string()))
}

/// One safetensors file.
fn single(path: &Path, arguments: &ImportArguments) -> Result<Found, CliError> {
    let shown = ModelKind::of(&header(path)?);
    let kind = arguments.kind.clone().or(shown).ok_or_else(|| {
        usage(path, format!("does not show what it is; say it with --kind, one of {}", ModelKind::names().join(", ")))
    })?;
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
    // What agents look for by a name of its own keeps it.
    let own_name = matches!(kind, ModelKind::VoiceActivity | ModelKind::Denoise | ModelKind::Other(_));
    let name = if own_name { name_of(path)? } else { "model.safetensors".to_owned() };
    let mut files = vec![Candidate { path: name, file: path.to_owned() }];
    if kind.is_diffusion() {
        let folder = arguments.tokenizer.as_ref().ok_or_else(|| {
            usage(path, "has no vocabulary in it: give --tokenizer DIR with CLIP's vocab.json and merges.txt, such as the folder `tokenizer` of any Stable Diffusion in diffusers' layout")
        })?;
        for name in ["vocab.json", "merges.txt"] {
            let file = folder.join(name);
            if !file.is_file() {
                return Err(usage(&file, "is not there"));
            }
            files.push(Candidate { path: format!("clip-tokenizer/{name}"), file });
        }
    }
    Ok(Found { kind, name: stem, files, left_out: Vec::new() })
}

/// Pairs of ncnn files; a model has one for each scale.
fn pairs(path: &Path, params: Vec<PathBuf>) -> Result<Found, CliError> {
    let mut files = Vec::new();
    for param in &params {
        let wrong = |problem: String| usage(param, format!("is no text of an ncnn pair: {problem}"));
        let bin = param.with_extension("bin");
        ncnn::check_param(&read_text(param)?).map_err(wrong)?;
        let mut first = [0; 4];
        let read = File::open(&bin).and_then(|mut file| file.read_exact(&mut first));
        read.map_err(|error| usage(&bin, format!("{error}; a .param needs its .bin beside it")))?;
        if let Some(what) = head::pickle(&first) {
            return Err(usage(&bin, format!("is {what}, and {}", PICKLE.trim_start_matches("is "))));
        }
        for file in [param.clone(), bin] {
            files.push(Candidate { path: name_of(&file)?, file });
        }
    }
    let stem = |path: &Path| path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_owned();
    let name = match params.as_slice() {
        [one] => stem(one),
        _ => name_of(path)?,
    };
    Ok(Found { kind: ModelKind::Upscale, name: without_scale(&name).to_owned(), files, left_out: Vec::new() })
}

/// `name-x4` without its scale, as jobs name it.
fn without_scale(name: &str) -> &str {
    match name.rsplit_once("-x") {
        Some((name, "1" | "2" | "3" | "4" | "8")) => name,
        _ => name,
    }
}
