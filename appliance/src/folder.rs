//! The data folder: made at the first start, readable by nobody else, and of a known format.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// What `FORMAT` holds. A later version writes another one, and refuses or migrates this.
const FORMAT: &str = "backlot 1\n";

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("data folder {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "data folder {path} is of the format `{found}`; this version reads `backlot 1`. Use the version that wrote it"
    )]
    Format { path: PathBuf, found: String },
    #[error("data folder {0} holds other things and no FORMAT; name an empty folder or one that Backlot made")]
    Foreign(PathBuf),
}

/// Makes or checks the data folder.
///
/// # Errors
/// [`FolderError`]: nothing has been changed then.
pub fn prepare(path: &Path) -> Result<(), FolderError> {
    let io = |source| FolderError::Io { path: path.to_owned(), source };
    let format = path.join("FORMAT");
    match std::fs::read_to_string(&format) {
        Ok(found) if found == FORMAT => Ok(()),
        Ok(found) => Err(FolderError::Format { path: path.to_owned(), found: found.trim().chars().take(40).collect() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
            if std::fs::read_dir(path).map_err(io)?.any(|entry| entry.is_ok_and(|e| e.file_name() != "FORMAT.new")) {
                return Err(FolderError::Foreign(path.to_owned()));
            }
            let temporary = path.join("FORMAT.new");
            std::fs::write(&temporary, FORMAT).map_err(io)?;
            std::fs::File::open(&temporary).and_then(|file| file.sync_all()).map_err(io)?;
            std::fs::rename(&temporary, &format).map_err(io)?;
            std::fs::File::open(path).and_then(|folder| folder.sync_all()).map_err(io)
        }
        Err(error) => Err(io(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_once_and_a_foreign_or_later_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/data");
        prepare(&path).unwrap();
        prepare(&path).unwrap();
        std::fs::write(path.join("FORMAT"), "backlot 9\n").unwrap();
        assert!(matches!(prepare(&path), Err(FolderError::Format { .. })));
        let foreign = dir.path().join("home");
        std::fs::create_dir(&foreign).unwrap();
        std::fs::write(foreign.join("thesis.tex"), "").unwrap();
        assert!(matches!(prepare(&foreign), Err(FolderError::Foreign(_))));
    }
}
