//! Names far away that no window has, each a small file: from before its image is put until a manifest says that it is a window's, and
//! from before a window goes until it is deleted there.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::WindowsError;
use crate::chain;

const DIR: &str = "loose";
const NEW_SUFFIX: &str = ".new";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Loose {
    /// The file's.
    pub(crate) name: String,
    pub(crate) place: String,
    pub(crate) key: String,
}

impl Loose {
    fn path(&self, dir: &Path) -> PathBuf {
        dir.join(DIR).join(&self.name)
    }

    /// Writes it down, durably.
    pub(crate) fn keep(&self, dir: &Path) -> Result<(), WindowsError> {
        let (path, folder) = (self.path(dir), dir.join(DIR));
        let failed = |source| WindowsError::Io { verb: "write", path: path.clone(), source };
        std::fs::create_dir_all(&folder).map_err(failed)?;
        chain::sync(dir)?;
        write_whole(&path, &serde_json::to_vec(self).unwrap_or_default()).map_err(failed)
    }

    /// It is a window's, or is gone.
    pub(crate) fn settle(&self, dir: &Path) -> Result<(), WindowsError> {
        let path = self.path(dir);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(WindowsError::Io { verb: "remove", path, source })
            }
            _ => Ok(()), // should it come back after a crash, a manifest or the store settles it again
        }
    }

    /// All that are written down. One that does not read was never acknowledged as written, so nothing was put under its name.
    pub(crate) fn list(dir: &Path) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(dir.join(DIR)) else { return Vec::new() };
        let read = |entry: std::fs::DirEntry| {
            let bytes = std::fs::read(entry.path()).ok()?;
            let loose: Self = serde_json::from_slice(&bytes).ok()?;
            (entry.file_name().to_str() == Some(&loose.name)).then_some(loose)
        };
        entries.flatten().filter_map(read).collect()
    }
}

/// Writes a file so that it is there whole or not at all, whatever happens; durable when this answers.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(NEW_SUFFIX);
    let mut file = std::fs::File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_back_until_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let loose = |name: &str| Loose { name: name.into(), place: "b".into(), key: format!("lot/{name}") };
        assert!(Loose::list(dir.path()).is_empty());
        loose("w-1.0a").keep(dir.path()).unwrap();
        loose("w-2.0b").keep(dir.path()).unwrap();
        loose("w-1.0a").settle(dir.path()).unwrap();
        loose("w-1.0a").settle(dir.path()).unwrap();
        std::fs::write(dir.path().join("loose/w-3.0c"), "{\"na").unwrap();
        std::fs::write(dir.path().join("loose/w-4.0d.new"), "{}").unwrap();
        assert_eq!(Loose::list(dir.path()), [loose("w-2.0b")]);
    }
}
