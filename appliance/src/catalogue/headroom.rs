//! Room that is the catalogue's own, so that a full disk neither stops it nor keeps it from opening.
//!
//! sled knows no answer to a write that finds no room: from then on it fails, and the process has to end. So blocks behind the
//! end of its file are allocated ahead, where nobody else can take them, and a file beside its folder is given up when it
//! does not open for want of room. Both are made again whenever the disk has room: at each flush.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// What sled writes between two flushes is far less.
const AHEAD_BYTES: u64 = 8 << 20;
/// What sled writes when it opens: where each of its pages is.
const SPARE_BYTES: u64 = 4 << 20;

pub(super) struct Headroom {
    folder: PathBuf,
}

impl Headroom {
    pub(super) fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn spare(&self) -> PathBuf {
        self.folder.with_extension("headroom")
    }

    /// Allocates what is missing. A disk that is full is no error here: what was allocated before is there for that.
    pub(super) fn make(&self) {
        let made = self.ahead().and_then(|()| self.spare_file());
        if let Err(error) = made.as_ref().map_err(io::Error::kind)
            && !matches!(error, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::Unsupported)
        {
            tracing::warn!(folder = %self.folder.display(), %error, "allocate the catalogue's headroom");
        }
    }

    fn ahead(&self) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(self.folder.join("db"))?;
        allocate(&file, file.metadata()?.len(), AHEAD_BYTES)
    }

    fn spare_file(&self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(self.spare())?;
        allocate(&file, 0, SPARE_BYTES)
    }

    /// Gives the spare room up. False: there was none.
    pub(super) fn give_up(&self) -> bool {
        std::fs::remove_file(self.spare()).is_ok()
    }
}

/// sled takes the file of a snapshot that it could not finish, for want of room or of life, for its newest snapshot, and refuses
/// to open. It needs none of them: the one before goes only when the next has its name.
pub(super) fn remove_unfinished_snapshots(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let unfinished = name.to_str().is_some_and(|name| name.starts_with("snap.") && name.ends_with(".generating"));
        if unfinished && let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(?name, %error, "remove an unfinished snapshot of the catalogue");
        }
    }
}

/// Without changing the file's length.
fn allocate(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::KEEP_SIZE, from, bytes)?)
}

/// Whether sled found no room.
pub(super) fn is_full(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.kind() == ErrorKind::StorageFull)
}
