//! A folder whose files are read instead of mapped: for the writer, whose merges pass over everything once.
//!
//! Searches map files, as they come back to few pages. A merge would leave all pages of what it merged counted as memory of this process for as
//! long as a search holds them, which is hundreds of MiB that nobody needs again. Here a file is read in stretches, as merges
//! go through it from its beginning to its end.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tantivy::HasLen;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    Directory, DirectoryLock, FileHandle, Lock, MmapDirectory, OwnedBytes, WatchCallback, WatchHandle, WritePtr,
};

use crate::chain::lock;

/// What is read ahead of a small read.
const AHEAD_BYTES: usize = 128 * 1024;

#[derive(Clone, Debug)]
pub(super) struct Unmapped {
    dir: PathBuf,
    /// For everything but reading.
    mapped: MmapDirectory,
}

impl Unmapped {
    pub(super) fn open(dir: &Path) -> tantivy::Result<Self> {
        Ok(Self { dir: dir.to_owned(), mapped: MmapDirectory::open(dir)? })
    }
}

#[derive(Debug)]
struct Stretches {
    file: File,
    bytes: usize,
    /// What was read last, and where it begins.
    last: Mutex<(usize, OwnedBytes)>,
}

impl HasLen for Stretches {
    fn len(&self) -> usize {
        self.bytes
    }
}

impl Stretches {
    fn read(&self, range: Range<usize>) -> std::io::Result<OwnedBytes> {
        let mut bytes = vec![0; range.len()];
        self.file.read_exact_at(&mut bytes, range.start as u64)?;
        Ok(OwnedBytes::new(bytes))
    }
}

impl FileHandle for Stretches {
    fn read_bytes(&self, range: Range<usize>) -> std::io::Result<OwnedBytes> {
        if range.is_empty() {
            return Ok(OwnedBytes::empty());
        }
        if range.len() >= AHEAD_BYTES / 2 {
            return self.read(range);
        }
        let (begin, bytes) = &mut *lock(&self.last);
        if range.start < *begin || range.end > *begin + bytes.len() {
            let end = (range.start + AHEAD_BYTES).min(self.bytes).max(range.end);
            (*begin, *bytes) = (range.start, self.read(range.start..end)?);
        }
        Ok(bytes.slice(range.start - *begin..range.end - *begin))
    }
}

impl Directory for Unmapped {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let wrap = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => OpenReadError::FileDoesNotExist(path.to_owned()),
            _ => OpenReadError::wrap_io_error(error, path.to_owned()),
        };
        let file = File::open(self.dir.join(path)).map_err(wrap)?;
        let bytes = usize::try_from(file.metadata().map_err(wrap)?.len()).unwrap_or(usize::MAX);
        Ok(Arc::new(Stretches { file, bytes, last: Mutex::new((0, OwnedBytes::empty())) }))
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.mapped.exists(path)
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.mapped.atomic_read(path)
    }

    fn acquire_lock(&self, of: &Lock) -> Result<DirectoryLock, LockError> {
        self.mapped.acquire_lock(of)
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.mapped.delete(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        self.mapped.open_write(path)
    }

    fn atomic_write(&self, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        self.mapped.atomic_write(path, bytes)
    }

    fn sync_directory(&self) -> std::io::Result<()> {
        self.mapped.sync_directory()
    }

    fn watch(&self, changed: WatchCallback) -> tantivy::Result<WatchHandle> {
        self.mapped.watch(changed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_part_of_a_file_reads_as_it_stands_there(reads in prop::collection::vec((0..400_000_usize, 0..200_000_usize), 1..20)) {
            let dir = tempfile::tempdir().unwrap();
            let whole: Vec<u8> = (0..400_000_u32).map(|at| ((at * 31) >> 3) as u8).collect();
            std::fs::write(dir.path().join("x"), &whole).unwrap();
            let folder = Unmapped::open(dir.path()).unwrap();
            let file = folder.get_file_handle(Path::new("x")).unwrap();
            prop_assert_eq!(file.len(), whole.len());
            for (from, bytes) in reads {
                let range = from..(from + bytes).min(whole.len());
                let read = file.read_bytes(range.clone()).unwrap();
                prop_assert_eq!(&*read, &whole[range]);
            }
            prop_assert!(file.read_bytes(399_999..400_001).is_err());
        }
    }
}
