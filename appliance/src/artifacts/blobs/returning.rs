//! A blob that comes back to the disk as it was: header and all, under its id, with the checksums of its blocks behind it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;

use uuid::Uuid;

use super::{Blobs, Settling, sync_folder};

/// Dropped before it is settled, it leaves nothing. Everything here blocks.
pub(in super::super) struct Returning {
    blobs: Blobs,
    id: Uuid,
    file: File,
    temporary: Option<PathBuf>,
}

impl Blobs {
    pub(in super::super) fn take_back(&self, id: Uuid) -> io::Result<Returning> {
        let path = self.temporary(id);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        Ok(Returning { blobs: self.clone(), id, file, temporary: Some(path) })
    }
}

impl Returning {
    pub(in super::super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Makes it durable under its final name, over the same bytes if they still lie there for a reader.
    pub(in super::super) fn settle(mut self) -> io::Result<Settling> {
        let Some(temporary) = self.temporary.take() else { return Err(io::Error::other("blob failed before")) };
        let target = self.blobs.path(self.id);
        // Before the rename: see `Written::settle`.
        self.blobs.settling.lock().insert(self.id);
        let settling = Settling { blobs: self.blobs.clone(), id: self.id };
        let moved = self.file.sync_data().and_then(|()| std::fs::rename(&temporary, &target));
        moved.and_then(|()| sync_folder(target.parent().unwrap_or(&target))).inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary); // the sweeper has the last word
        })?;
        Ok(settling)
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        if let Some(path) = self.temporary.take()
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::warn!(path = %path.display(), %error, "could not remove an unfinished blob; the next start does");
        }
    }
}
