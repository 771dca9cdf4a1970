//! The folder of a cold window as tantivy sees it: files are stretches of the image, what the head has is in memory, the rest comes
//! through the cache.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tantivy::HasLen;
use tantivy::directory::error::{DeleteError, LockError, OpenReadError, OpenWriteError};
use tantivy::directory::{
    Directory, DirectoryLock, FileHandle, Lock, OwnedBytes, WatchCallback, WatchHandle, WritePtr,
};

use super::image::HEAD_FILE;
use super::opened::only_read;
use super::{Cold, Manifest, waiting};
use crate::summary::META_FILE;

#[derive(Clone)]
pub(super) struct FarDirectory {
    /// Where `meta.json` is.
    dir: PathBuf,
    image: Arc<Opened>,
}

struct Opened {
    manifest: Arc<Manifest>,
    cold: Cold,
    /// Stretches of the image, rising: where each begins, and its bytes.
    head: Vec<(u64, OwnedBytes)>,
}

impl std::fmt::Debug for FarDirectory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FarDirectory").field(&self.image.manifest.key).finish()
    }
}

impl FarDirectory {
    /// # Errors
    /// What stays here does not read.
    pub(super) fn open(dir: &Path, manifest: Arc<Manifest>, cold: Cold) -> Result<Self, String> {
        let bytes = std::fs::read(dir.join(HEAD_FILE)).map_err(|error| format!("{HEAD_FILE}: {error}"))?;
        let length: u64 = manifest.head.stretches.iter().map(|(_, bytes)| bytes).sum();
        if bytes.len() as u64 != length || crc32c::crc32c(&bytes) != manifest.head.crc {
            return Err(format!("{HEAD_FILE} is not what was written"));
        }
        let bytes = OwnedBytes::new(bytes);
        let mut from = 0;
        let mut head = Vec::with_capacity(manifest.head.stretches.len());
        for (at, length) in &manifest.head.stretches {
            let to = from + usize::try_from(*length).unwrap_or_default();
            head.push((*at, bytes.slice(from..to)));
            from = to;
        }
        Ok(Self { dir: dir.to_owned(), image: Arc::new(Opened { manifest, cold, head }) })
    }
}

/// A file within the image.
struct FarFile {
    image: Arc<Opened>,
    at: u64,
    bytes: u64,
}

impl std::fmt::Debug for FarFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("FarFile").field(&self.image.manifest.key).field(&self.at).field(&self.bytes).finish()
    }
}

impl HasLen for FarFile {
    fn len(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }
}

impl FileHandle for FarFile {
    fn read_bytes(&self, range: Range<usize>) -> std::io::Result<OwnedBytes> {
        if range.is_empty() {
            return Ok(OwnedBytes::empty());
        }
        let (from, to) = (self.at + range.start as u64, self.at + range.end as u64);
        if range.end > self.len() {
            return Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "behind the end of a file"));
        }
        let Opened { manifest, cold, head } = &*self.image;
        let before = head.partition_point(|(at, _)| *at <= from);
        if let Some((at, bytes)) = before.checked_sub(1).and_then(|number| head.get(number))
            && to <= at + bytes.len() as u64
        {
            let offset = |of: u64| usize::try_from(of - at).unwrap_or_default();
            return Ok(bytes.slice(offset(from)..offset(to)));
        }
        cold.cache.read(&*cold.far, manifest, from..to).map_err(waiting::failed)
    }
}

impl Directory for FarDirectory {
    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        let part = self.image.manifest.files.iter().find(|part| Path::new(&part.name) == path);
        let part = part.ok_or_else(|| OpenReadError::FileDoesNotExist(path.to_owned()))?;
        Ok(Arc::new(FarFile { image: Arc::clone(&self.image), at: part.at, bytes: part.bytes }))
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        let is_meta = path == Path::new(META_FILE);
        Ok(is_meta || self.image.manifest.files.iter().any(|part| Path::new(&part.name) == path))
    }

    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        if path != Path::new(META_FILE) {
            return Err(OpenReadError::FileDoesNotExist(path.to_owned()));
        }
        std::fs::read(self.dir.join(path)).map_err(|error| OpenReadError::wrap_io_error(error, path.to_owned()))
    }

    /// Nobody changes it.
    fn acquire_lock(&self, _: &Lock) -> Result<DirectoryLock, LockError> {
        Ok(DirectoryLock::from(Box::new(())))
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
