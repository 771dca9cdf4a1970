//! What there is to know of a window before it moves: its files, and what opening its index reads.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    Directory, DirectoryLock, FileHandle, Lock, MmapDirectory, OwnedBytes, WatchCallback, WatchHandle, WritePtr,
};
use tantivy::{HasLen, Index};

use crate::chain::lock;
use crate::index::{Purpose, TIME, Window};

/// The files of the index in `dir`, the small ones first. A file that only some crash has left is none of them.
pub(super) fn files(dir: &Path) -> Result<Vec<(String, u64)>, String> {
    let index = Index::open_in_dir(dir).map_err(|error| error.to_string())?;
    let segments = index.searchable_segment_metas().map_err(|error| error.to_string())?;
    let ids: Vec<_> = segments.iter().map(|segment| segment.id().uuid_string()).collect();
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|error| error.to_string())? {
        let entry = entry.map_err(|error| error.to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if ids.iter().any(|id| name.strip_prefix(id.as_str()).is_some_and(|rest| rest.starts_with('.'))) {
            files.push((name, entry.metadata().map_err(|error| error.to_string())?.len()));
        }
    }
    files.sort_by(|(a, a_bytes), (b, b_bytes)| (a_bytes, a).cmp(&(b_bytes, b)));
    Ok(files)
}

/// A window, and the ranges of its files that were read to open it.
pub(super) struct Opened {
    pub(super) window: Window,
    pub(super) ranges: Vec<(String, Range<u64>)>,
}

/// Opens the index in `dir` as a search does.
pub(super) fn open(dir: &Path) -> Result<Opened, String> {
    let local = MmapDirectory::open(dir).map_err(|error| error.to_string())?;
    let recorder = Recorder { local, ranges: Arc::default() };
    let ranges = Arc::clone(&recorder.ranges);
    let window = Window::open_in(Box::new(recorder), dir, Purpose::Window).map_err(|error| error.to_string())?;
    for reader in window.searcher().segment_readers() {
        // The names of the columns come along.
        reader.fast_fields().i64(TIME).map_err(|error| error.to_string())?;
    }
    let read = std::mem::take(&mut *lock(&ranges));
    Ok(Opened { window, ranges: read })
}

type Ranges = Arc<Mutex<Vec<(String, Range<u64>)>>>;

/// A folder that notes what is read of its files.
#[derive(Clone, Debug)]
struct Recorder {
    local: MmapDirectory,
    ranges: Ranges,
}

#[derive(Debug)]
struct RecordedFile {
    name: String,
    local: Arc<dyn FileHandle>,
    ranges: Ranges,
}

impl HasLen for RecordedFile {
    fn len(&self) -> usize {
        self.local.len()
    }
}

impl FileHandle for RecordedFile {
    fn read_bytes(&self, range: Range<usize>) -> std::io::Result<OwnedBytes> {
        lock(&self.ranges).push((self.name.clone(), range.start as u64..range.end as u64));
        self.local.read_bytes(range)
    }
}

impl Directory for Recorder {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let local = self.local.get_file_handle(path)?;
        let name = path.to_string_lossy().into_owned();
        Ok(Arc::new(RecordedFile { name, local, ranges: Arc::clone(&self.ranges) }))
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.local.exists(path)
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        self.local.atomic_read(path)
    }

    fn acquire_lock(&self, of: &Lock) -> Result<DirectoryLock, LockError> {
        self.local.acquire_lock(of)
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        Err(DeleteError::IoError { io_error: Arc::new(only_read()), filepath: path.to_owned() })
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        Err(OpenWriteError::IoError { io_error: Arc::new(only_read()), filepath: path.to_owned() })
    }

    fn atomic_write(&self, _: &Path, _: &[u8]) -> std::io::Result<()> {
        Err(only_read())
    }

    fn sync_directory(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn watch(&self, _: WatchCallback) -> tantivy::Result<WatchHandle> {
        Ok(WatchHandle::empty())
    }
}

pub(super) fn only_read() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::ReadOnlyFilesystem, "this window is only read")
}
