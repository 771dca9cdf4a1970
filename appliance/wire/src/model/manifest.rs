//! A model's manifest: what it is, which files it has, and what each hashes to.
//!
//! It is read with suspicion: agents make files on their disks by what it says. Fields that are not known are passed over, since
//! nobody writes a manifest that he has read, and the digest is of the bytes as they lie in the bucket. Another `version` is
//! refused: it may mean something else by the same words.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{ModelKind, is_model_name, is_sha256};
use crate::Timestamp;

/// The version of the format.
pub const VERSION: u32 = 1;
/// Longest manifest, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;
/// Most files of a model.
pub const FILES_MAX: usize = 2_048;
/// Most bytes of a model.
pub const MODEL_BYTES_MAX: u64 = 1 << 42;
const PATH_BYTES_MAX: usize = 256;
const TEXT_BYTES_MAX: usize = 1_024;
const VRAM_MAX: usize = 64;

/// Why a manifest is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ManifestError(String);

/// One version of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    pub version: u32,
    pub name: String,
    pub kind: ModelKind,
    /// As its makers say it, for people: an SPDX name or a sentence.
    pub licence: String,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    pub imported_at: Timestamp,
    pub files: Vec<ModelFile>,
    /// What a job of a shape takes, as an agent planned it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub vram: Vec<VramNeed>,
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Relative, with `/` between its parts.
    pub path: String,
    pub bytes: u64,
    /// Lower-case hex.
    pub sha256: String,
}

/// GPU memory that one shape takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VramNeed {
    pub width: u32,
    pub height: u32,
    /// Weights as they are kept while a job runs.
    pub weights_bytes: u64,
    /// Values between layers, at their most.
    pub values_bytes: u64,
    /// `f16` or `f32`.
    pub precision: String,
}

impl Manifest {
    /// Reads and checks a manifest.
    ///
    /// # Errors
    /// [`ManifestError`] names what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError(format!("the manifest has {} bytes, more than 1 MiB", bytes.len())));
        }
        let unread = |error: serde_json::Error| ManifestError(format!("the manifest is not understood: {error}"));
        let Versioned { version } = serde_json::from_slice(bytes).map_err(unread)?;
        if version != VERSION {
            let problem = format!("the manifest is of version {version}; this program reads version {VERSION}");
            return Err(ManifestError(problem));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(unread)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks what a manifest says.
    ///
    /// # Errors
    /// [`ManifestError`] names what is wrong.
    pub fn check(&self) -> Result<(), ManifestError> {
        let wrong = |problem: String| Err(ManifestError(format!("the manifest {problem}")));
        if !is_model_name(&self.name) {
            return wrong("has a name that is not 1 to 128 letters, digits, `.`, `_`, `-`".into());
        }
        let texts = [Some(&self.licence), self.source.as_ref()];
        if texts.into_iter().flatten().any(|text| text.len() > TEXT_BYTES_MAX) || self.kind.as_str().len() > 64 {
            return wrong(format!("has a kind, licence or source of more than {TEXT_BYTES_MAX} bytes"));
        }
        if self.files.is_empty() || self.files.len() > FILES_MAX {
            return wrong(format!("has {} files, not 1 to {FILES_MAX}", self.files.len()));
        }
        if self.vram.len() > VRAM_MAX || self.vram.iter().any(|need| need.precision.len() > 16) {
            return wrong(format!("has more than {VRAM_MAX} shapes"));
        }
        let paths: Vec<&str> = self.files.iter().map(|file| file.path.as_str()).collect();
        if let Some(bad) = paths.iter().find(|path| !is_path(path)) {
            let bad: String = bad.chars().filter(|c| !c.is_control()).take(80).collect();
            return wrong(format!("names the file `{bad}`, which is no relative path of plain names"));
        }
        let known: BTreeSet<&str> = paths.iter().copied().collect();
        let is_inside = |path: &&str| path.match_indices('/').any(|(at, _)| known.contains(&path[..at]));
        if known.len() != paths.len() || paths.iter().any(is_inside) {
            return wrong("names a file twice, or one as the folder of another".into());
        }
        if let Some(bad) = self.files.iter().find(|file| !is_sha256(&file.sha256)) {
            return wrong(format!("has no SHA-256 in lower-case hex for `{}`", bad.path));
        }
        match self.files.iter().try_fold(0_u64, |all, file| all.checked_add(file.bytes)) {
            Some(bytes) if bytes <= MODEL_BYTES_MAX => Ok(()),
            _ => wrong(format!("has files of more than {MODEL_BYTES_MAX} bytes together")),
        }
    }

    /// Bytes of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().fold(0, |all, file| all.saturating_add(file.bytes))
    }

    /// Whether both are the same model, whenever they were imported.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        *self == Self { imported_at: self.imported_at, ..other.clone() }
    }
}

/// Whether a path stays inside of its folder on every system, and is shown as it is.
fn is_path(path: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.chars().any(|c| c.is_control() || matches!(c, '\\' | ':' | '\0'))
    };
    path.len() <= PATH_BYTES_MAX && path.split('/').all(plain)
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn manifest(paths: &[&str]) -> serde_json::Value {
        let files: Vec<_> =
            paths.iter().map(|path| json!({"path": path, "bytes": 4, "sha256": "0a".repeat(32)})).collect();
        json!({"version": 1, "name": "sdxl", "kind": "lora", "licence": "MIT", "imported_at": "2026-11-22T12:00:00Z",
            "files": files, "of_a_later_version": true})
    }

    fn parse(value: &serde_json::Value) -> Result<Manifest, ManifestError> {
        Manifest::parse(&serde_json::to_vec(value).unwrap())
    }

    #[test]
    fn a_manifest_is_read_and_what_it_is_not_about_is_passed_over() {
        let read = parse(&manifest(&["unet/a.safetensors", "unet.json"])).unwrap();
        assert_eq!((read.kind.clone(), read.bytes(), read.files.len()), (ModelKind::Lora, 8, 2));
        let later = Manifest { imported_at: Timestamp(1), ..read.clone() };
        assert!(read.is_like(&later) && !read.is_like(&Manifest { licence: "else".into(), ..read.clone() }));
        assert_eq!(Manifest::parse(&serde_json::to_vec(&read).unwrap()), Ok(read));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        for (paths, words) in [
            (&["../x"][..], "`../x`"),
            (&["a/../b"], "`a/../b`"),
            (&["/etc/passwd"], "relative"),
            (&["a//b"], "relative"),
            (&["a/.hidden"], "relative"),
            (&["c:x"], "relative"),
            (&["a\\b"], "relative"),
            (&["a", "a"], "twice"),
            (&["a", "a-b", "a/b"], "folder of another"),
            (&[], "0 files"),
        ] {
            let error = parse(&manifest(paths)).unwrap_err().to_string();
            assert!(error.contains(words), "{paths:?}: {error}");
        }
        for (field, value, words) in [
            ("version", json!(2), "version 2"),
            ("name", json!("../x"), "name"),
            ("licence", json!("x".repeat(2_000)), "licence"),
            ("files", json!([{"path": "a", "bytes": 1, "sha256": "0A".repeat(32)}]), "SHA-256"),
            ("files", json!([{"path": "a", "bytes": u64::MAX, "sha256": "00".repeat(32)}]), "more than"),
            ("files", json!([{"path": "a", "bytes": -1, "sha256": "00".repeat(32)}]), "not understood"),
            ("kind", json!(7), "not understood"),
        ] {
            let mut bad = manifest(&["a"]);
            bad[field] = value;
            let error = parse(&bad).unwrap_err().to_string();
            assert!(error.contains(words), "{field}: {error}");
        }
        assert!(Manifest::parse(&vec![b' '; MANIFEST_BYTES_MAX + 1]).unwrap_err().to_string().contains("1 MiB"));
    }

    proptest! {
        #[test]
        fn no_manifest_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Manifest::parse(&bytes);
        }

        /// Beside the standard library's own reading of paths: what is taken stays inside of its folder.
        #[test]
        fn a_path_that_is_taken_has_plain_parts_alone(path in "[a.~/ :\\\\-]{0,12}") {
            if parse(&manifest(&[&path])).is_ok() {
                let path = Path::new(&path);
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
                prop_assert!(path.components().count() > 0);
            }
        }
    }
}
