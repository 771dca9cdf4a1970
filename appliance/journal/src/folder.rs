//! The folder: names, the lock, preallocated files, and the order of syncs that makes a file exist.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::OpenError;

pub(crate) const SPARE: &str = "spare";
pub(crate) const RESERVE: &str = "reserve";
pub(crate) const COLLECT: &str = "collect";
/// A segment on its way to become one of the above.
const RECYCLED: &str = "recycled";
const SUFFIX: &str = ".seg";

/// The journal's folder, held for this process alone.
pub(crate) struct Folder {
    path: PathBuf,
    handle: File,
    lock: File,
}

impl Folder {
    /// Makes the folder where it is missing, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |source| OpenError::Io { path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(io)?;
        let handle = File::open(path).map_err(io)?;
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(io)?;
        }
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join("lock")).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {
                let _ = std::fs::remove_file(path.join(RECYCLED)); // there only after a crash at that moment
                Ok(Self { path: path.to_owned(), handle, lock })
            }
            Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::Locked(path.to_owned())),
            Err(std::fs::TryLockError::Error(source)) => Err(io(source)),
        }
    }

    pub(crate) fn segment(&self, base: u64) -> PathBuf {
        self.path.join(format!("{base:020}{SUFFIX}"))
    }

    /// Bases of all segments by their names, oldest first.
    pub(crate) fn bases(&self) -> io::Result<Vec<u64>> {
        let mut bases = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let base = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)).filter(|base| base.len() == 20);
            bases.extend(base.and_then(|base| base.parse::<u64>().ok()));
        }
        bases.sort_unstable();
        Ok(bases)
    }

    /// Makes a file whose room on disk is taken, durably: of the first of `sizes` (largest first) that fits, which it returns.
    ///
    /// What an earlier run, or an earlier attempt, has left of it is kept and made longer: on a full disk its room must not be let go.
    pub(crate) fn prepare(&self, name: &str, sizes: &[u64]) -> io::Result<(File, u64)> {
        let path = self.path.join(name);
        let made = || {
            let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path)?;
            let held = file.metadata()?;
            // Holes are room that was not taken.
            let held = if held.blocks() * 512 >= held.len() { held.len() } else { 0 };
            let mut full = io::ErrorKind::StorageFull.into();
            for &bytes in sizes {
                if held != bytes {
                    file.set_len(held.min(bytes))?;
                    if let Err(error) = allocate(&file, bytes) {
                        file.set_len(held.min(bytes))?; // it may have got half of it
                        full = error;
                        continue;
                    }
                }
                file.sync_all()?;
                return Ok((file, bytes));
            }
            Err(full)
        };
        made().inspect_err(|_| {
            let _ = std::fs::remove_file(&path); // it would hold what little room there is
        })
    }

    /// Gives a prepared file, whose header has been synced, its name as a segment.
    pub(crate) fn name_segment(&self, name: &str, base: u64) -> io::Result<()> {
        std::fs::rename(self.path.join(name), self.segment(base))?;
        self.handle.sync_all()
    }

    /// Deletes the oldest segment. Synced one by one: a gap between segments would look like damage.
    pub(crate) fn remove_segment(&self, base: u64) -> io::Result<()> {
        match std::fs::remove_file(self.segment(base)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        self.handle.sync_all()
    }

    /// Takes the oldest segment, which is no longer needed, out of the log and keeps its file, for [`Folder::recycle`].
    pub(crate) fn set_segment_aside(&self, base: u64) -> io::Result<()> {
        std::fs::rename(self.segment(base), self.path.join(RECYCLED))?;
        self.handle.sync_all()
    }

    /// Makes what was set aside the prepared file `name`: on a full disk, room that is let go may be taken by others.
    pub(crate) fn recycle(&self, name: &str) -> io::Result<(File, u64)> {
        let recycled = self.path.join(RECYCLED);
        let made = || {
            let file = OpenOptions::new().read(true).write(true).open(&recycled)?;
            let bytes = file.metadata()?.len();
            // Old groups could be taken for a tail of the new one.
            write_zeros(&file, 0, bytes)?;
            file.sync_all()?;
            std::fs::rename(&recycled, self.path.join(name))?;
            self.handle.sync_all()?;
            Ok((file, bytes))
        };
        made().inspect_err(|_| {
            let _ = std::fs::remove_file(&recycled); // a file system that does not write in place has no room for zeros
        })
    }

    pub(crate) fn open_segment(&self, base: u64, write: bool) -> io::Result<File> {
        OpenOptions::new().read(true).write(write).open(self.segment(base))
    }
}

impl Drop for Folder {
    /// Said, not left to the closing of the file: a child that is just being forked holds a copy of the descriptor.
    fn drop(&mut self) {
        let _ = self.lock.unlock();
    }
}

/// Takes room on disk up to `bytes` from the file's beginning, which then reads as zeros.
pub(crate) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    loop {
        match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => break,
            Err(errno) => return Err(errno.into()),
        }
    }
    // A file system without preallocation: zeros take the room as well, unless it shares or compresses blocks.
    write_zeros(file, file.metadata()?.len(), bytes)
}

fn write_zeros(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; 1024 * 1024];
    let mut at = from;
    while at < to {
        let step = (to - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..step as usize], at)?;
        at += step;
    }
    Ok(())
}
