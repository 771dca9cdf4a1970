//! The cache on disk: a folder for each version of a model, by its digest.
//!
//! | name in it | what |
//! | --- | --- |
//! | `manifest.json` | as it lies in the store; written first |
//! | `parts/` | files that have not come whole |
//! | `files/` | files that were compared with their checksums |
//! | `complete` | all of them were |
//! | `used` | its time of change is when the version was used last |

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use backlot_wire::model::{Manifest, is_sha256};
use sha2::{Digest, Sha256};
use tracing::warn;

/// One version's folder.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    folder: PathBuf,
}

/// A version that an earlier run has left.
pub(super) struct Left {
    pub(super) digest: String,
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) whole: bool,
    used: Option<SystemTime>,
}

impl Entry {
    pub(super) fn new(entries: &Path, digest: &str) -> Self {
        Self { folder: entries.join(digest) }
    }

    pub(super) fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    pub(super) fn file(&self, path: &str) -> PathBuf {
        self.files().join(path)
    }

    pub(super) fn part(&self, sha256: &str) -> PathBuf {
        self.folder.join("parts").join(format!("{sha256}.part"))
    }

    /// Makes the folder, with the manifest as it lies in the store.
    pub(super) fn begin(&self, manifest: &[u8]) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let (new, name) = (self.folder.join("manifest.new"), self.folder.join("manifest.json"));
        std::fs::write(&new, manifest)?;
        std::fs::rename(new, name)?;
        self.touch()
    }

    pub(super) fn complete(&self) -> std::io::Result<()> {
        let _ = std::fs::remove_dir_all(self.folder.join("parts"));
        std::fs::write(self.folder.join("complete"), b"")
    }

    /// It is used now.
    pub(super) fn touch(&self) -> std::io::Result<()> {
        std::fs::write(self.folder.join("used"), b".")
    }

    /// The manifest, read and as it lies in the store.
    pub(super) fn manifest(&self) -> Option<(Manifest, Vec<u8>)> {
        let bytes = std::fs::read(self.folder.join("manifest.json")).ok()?;
        Some((Manifest::parse(&bytes).ok()?, bytes))
    }

    /// Whether all files of the manifest are there, as long as they should be.
    pub(super) fn has_all(&self, manifest: &Manifest) -> bool {
        let has = |path: &str, bytes: u64| std::fs::metadata(self.file(path)).is_ok_and(|there| there.len() == bytes);
        self.folder.join("complete").is_file() && manifest.files.iter().all(|file| has(&file.path, file.bytes))
    }

    /// Takes it away at once for whoever looks; what it leaves may take a while to be removed.
    pub(super) fn remove(&self) {
        let going = self.folder.with_extension("going");
        let _ = std::fs::remove_dir_all(&going);
        match std::fs::rename(&self.folder, &going) {
            Ok(()) => drop(std::thread::spawn(move || std::fs::remove_dir_all(going))),
            Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => {}
            Err(problem) => warn!(%problem, folder = %self.folder.display(), "remove a model from the cache"),
        }
    }

    /// The version in here, if it is one that this program has put there.
    fn look(&self, digest: &str) -> Option<Left> {
        let bytes = std::fs::read(self.folder.join("manifest.json")).ok()?;
        if hex::encode(Sha256::digest(&bytes)) != digest {
            return None;
        }
        let manifest = Manifest::parse(&bytes).ok()?;
        let whole = self.has_all(&manifest);
        let used = std::fs::metadata(self.folder.join("used")).and_then(|used| used.modified()).ok();
        Some(Left { digest: digest.to_owned(), bytes: manifest.bytes(), name: manifest.name, whole, used })
    }
}

/// What is in the cache, in the order in which it was used. What is none of its folders, or is damaged, is removed.
pub(super) fn load(entries: &Path) -> std::io::Result<Vec<Left>> {
    std::fs::create_dir_all(entries)?;
    let mut left = Vec::new();
    for entry in std::fs::read_dir(entries)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let folder = Entry::new(entries, &name);
        match is_sha256(&name).then(|| folder.look(&name)).flatten() {
            Some(found) => left.push(found),
            None => folder.remove(),
        }
    }
    left.sort_by(|one, other| (one.used, &one.digest).cmp(&(other.used, &other.digest)));
    Ok(left)
}
