//! What was read from far away of late, on the disk: a sparse file for each image, of which those blocks are filled that were asked for.
//!
//! Its bytes are mapped, so that what is read takes no memory of its own and a large dictionary is fetched once and not copied. A block is written
//! before it is handed out and never again changed; what goes is whole files, the one that was used last the longest ago, and whoever still
//! reads in one keeps it until it is done.
//!
//! The cache is empty after a start: what is in it is nothing that could be lost.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tantivy::directory::{Directory as _, FileHandle, MmapDirectory, OwnedBytes};

use super::{Far, FarError, Manifest, waiting};
use crate::WindowsError;
use crate::chain::lock;

/// Most bytes of one request.
const REQUEST_BYTES_MAX: u64 = 8 << 20;
/// Most bytes that are fetched ahead of somebody who reads on and on.
const AHEAD_BYTES_MAX: u64 = 2 << 20;

/// How it went, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// On the disk now.
    pub bytes: u64,
    /// Reads that found everything here, and reads that did not.
    pub hits: u64,
    pub misses: u64,
    pub requests: u64,
    pub fetched_bytes: u64,
}

/// Cheap to clone; windows of all kinds share one.
#[derive(Clone)]
pub struct Cache(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    mapped: MmapDirectory,
    bytes_max: u64,
    files: Mutex<Files>,
    hits: AtomicU64,
    misses: AtomicU64,
    requests: AtomicU64,
    fetched_bytes: AtomicU64,
}

#[derive(Default)]
struct Files {
    by_key: HashMap<String, Arc<CacheFile>>,
    /// Numbers of files and of uses; no number is given twice.
    next: u64,
}

struct CacheFile {
    path: PathBuf,
    file: File,
    mapped: Arc<dyn FileHandle>,
    filled: Mutex<Filled>,
    used: AtomicU64,
}

struct Filled {
    blocks: Vec<u64>,
    bytes: u64,
    /// The block behind the last that was read, and how many are fetched when the next read begins there.
    next: u64,
    ahead: u64,
}

impl Filled {
    fn has(&self, block: u64) -> bool {
        let word = usize::try_from(block / 64).ok().and_then(|at| self.blocks.get(at));
        word.is_some_and(|word| word & 1 << (block % 64) != 0)
    }

    fn fill(&mut self, block: u64, bytes: u64) {
        if !self.has(block)
            && let Some(word) = usize::try_from(block / 64).ok().and_then(|at| self.blocks.get_mut(at))
        {
            *word |= 1 << (block % 64);
            self.bytes += bytes;
        }
    }

    /// The stretches of `blocks` that are not here.
    fn missing(&self, blocks: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::<Range<u64>>::new();
        for block in blocks.filter(|block| !self.has(*block)) {
            match missing.last_mut() {
                Some(last) if last.end == block => last.end += 1,
                _ => missing.push(block..block + 1),
            }
        }
        missing
    }
}

impl Cache {
    /// An empty cache in the folder `dir`; whatever is there goes.
    ///
    /// # Errors
    /// [`WindowsError::Io`] when the folder cannot be written.
    pub fn open(dir: impl Into<PathBuf>, bytes_max: u64) -> Result<Self, WindowsError> {
        let dir = dir.into();
        let failed = |verb| {
            let path = dir.clone();
            move |source| WindowsError::Io { verb, path, source }
        };
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("empty")(error)),
            _ => {}
        }
        std::fs::create_dir_all(&dir).map_err(failed("make"))?;
        let mapped = MmapDirectory::open(&dir).map_err(|error| failed("open")(std::io::Error::other(error)))?;
        let zero = AtomicU64::default;
        let (hits, misses, requests, fetched_bytes) = (zero(), zero(), zero(), zero());
        let files = Mutex::default();
        Ok(Self(Arc::new(Inner { dir, mapped, bytes_max, files, hits, misses, requests, fetched_bytes })))
    }

    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let files: Vec<_> = lock(&self.0.files).by_key.values().cloned().collect();
        let of = |number: &AtomicU64| number.load(Ordering::Relaxed);
        CacheStats {
            bytes: files.iter().map(|file| lock(&file.filled).bytes).sum(),
            hits: of(&self.0.hits),
            misses: of(&self.0.misses),
            requests: of(&self.0.requests),
            fetched_bytes: of(&self.0.fetched_bytes),
        }
    }

    /// The bytes of an image, fetched where they are not here.
    pub(super) fn read(&self, far: &dyn Far, image: &Manifest, range: Range<u64>) -> Result<OwnedBytes, FarError> {
        let file = self.file(image)?;
        let block = image.block_bytes;
        let wanted = range.start / block..range.end.div_ceil(block);
        let missing = {
            let mut filled = lock(&file.filled);
            // Reads are no multiples of blocks: the next one may begin within the last block of the one before.
            let is_next = filled.next == wanted.start || filled.next == wanted.start + 1;
            let most = (AHEAD_BYTES_MAX / block).max(1);
            filled.ahead = if is_next { (filled.ahead * 2).clamp(1, most) } else { 0 };
            filled.next = wanted.end;
            let mut missing = filled.missing(wanted.clone());
            if let Some(last) = missing.last_mut().filter(|last| last.end == wanted.end) {
                let all = image.bytes.div_ceil(block);
                let ahead = (last.end..all).take(usize::try_from(filled.ahead).unwrap_or_default());
                last.end += ahead.take_while(|block| !filled.has(*block)).count() as u64;
            }
            missing
        };
        let counter = if missing.is_empty() { &self.0.hits } else { &self.0.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        for stretch in missing {
            let mut from = stretch.start;
            while from < stretch.end {
                let to = stretch.end.min(from + (REQUEST_BYTES_MAX / block).max(1));
                self.fetch(far, image, &file, from..to)?;
                from = to;
            }
        }
        self.make_room(&image.key);
        let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let mapped = file.mapped.read_bytes(within(range.start)..within(range.end));
        mapped.map_err(|error| FarError::Away(format!("read the cache of cold windows: {error}")))
    }

    /// Fetches whole blocks, and compares them.
    fn fetch(&self, far: &dyn Far, image: &Manifest, file: &CacheFile, blocks: Range<u64>) -> Result<(), FarError> {
        let range = blocks.start * image.block_bytes..(blocks.end * image.block_bytes).min(image.bytes);
        let mut first_fault = None;
        // Other bytes than were put are asked for once more: what went wrong on the way is no damage.
        for _ in 0..2 {
            let cancel = waiting::begin()?;
            self.0.requests.fetch_add(1, Ordering::Relaxed);
            let fault = match far.read(&image.key, range.clone(), image.bytes, &cancel) {
                Ok(bytes) => {
                    self.0.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    match compare(image, &blocks, &range, &bytes) {
                        None => return keep(file, image.block_bytes, &blocks, &range, &bytes),
                        Some(block) => FarError::Wrong(format!("block {block} of {} has a wrong checksum", image.key)),
                    }
                }
                Err(fault @ FarError::Wrong(_)) => fault,
                Err(other) => return Err(other),
            };
            first_fault.get_or_insert(fault);
        }
        Err(first_fault.unwrap_or(FarError::Missing))
    }

    fn file(&self, image: &Manifest) -> Result<Arc<CacheFile>, FarError> {
        let mut files = lock(&self.0.files);
        files.next += 1;
        let number = files.next;
        if let Some(file) = files.by_key.get(&image.key) {
            file.used.store(number, Ordering::Relaxed);
            return Ok(Arc::clone(file));
        }
        // A name of its own each time: an earlier file of this image may still be mapped somewhere.
        let name = format!("{number:016x}");
        let made = self.make(&name, image);
        let file = Arc::new(made.map_err(|error| FarError::Away(format!("make the cache of cold windows: {error}")))?);
        file.used.store(number, Ordering::Relaxed);
        files.by_key.insert(image.key.clone(), Arc::clone(&file));
        Ok(file)
    }

    fn make(&self, name: &str, image: &Manifest) -> std::io::Result<CacheFile> {
        let path = self.0.dir.join(name);
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        file.set_len(image.bytes)?;
        let mapped = self.0.mapped.get_file_handle(Path::new(name)).map_err(std::io::Error::other)?;
        let words = image.crcs.len().div_ceil(64);
        let filled = Filled { blocks: vec![0; words], bytes: 0, next: u64::MAX, ahead: 0 };
        Ok(CacheFile { path, file, mapped, filled: Mutex::new(filled), used: AtomicU64::default() })
    }

    /// Lets files go until the rest fits. The one that is read now goes last: it begins anew.
    fn make_room(&self, key: &str) {
        let mut files = lock(&self.0.files);
        let bytes_of = |file: &CacheFile| lock(&file.filled).bytes;
        let mut bytes: u64 = files.by_key.values().map(|file| bytes_of(file)).sum();
        while bytes > self.0.bytes_max {
            let oldest = files.by_key.iter().min_by_key(|(of, file)| (*of == key, file.used.load(Ordering::Relaxed)));
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { break };
            if let Some(file) = files.by_key.remove(&oldest) {
                bytes = bytes.saturating_sub(bytes_of(&file));
                file.remove();
            }
        }
    }

    /// Nobody asks for this image any more.
    pub(super) fn forget(&self, key: &str) {
        if let Some(file) = lock(&self.0.files).by_key.remove(key) {
            file.remove();
        }
    }
}

impl CacheFile {
    fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove a file of the cache of cold windows");
        }
    }
}

/// The first block that is not what was put.
fn compare(image: &Manifest, blocks: &Range<u64>, range: &Range<u64>, bytes: &[u8]) -> Option<u64> {
    if bytes.len() as u64 != range.end - range.start {
        return Some(blocks.start);
    }
    let chunks = bytes.chunks(usize::try_from(image.block_bytes).unwrap_or(usize::MAX));
    let crc_of = |block: u64| usize::try_from(block).ok().and_then(|at| image.crcs.get(at));
    blocks.clone().zip(chunks).find(|(block, bytes)| crc_of(*block) != Some(&crc32c::crc32c(bytes))).map(|(at, _)| at)
}

/// Writes blocks, and then says that they are there.
fn keep(
    file: &CacheFile,
    block_bytes: u64,
    blocks: &Range<u64>,
    range: &Range<u64>,
    bytes: &[u8],
) -> Result<(), FarError> {
    let written = file.file.write_all_at(bytes, range.start);
    written.map_err(|error| FarError::Away(format!("write the cache of cold windows: {error}")))?;
    let mut filled = lock(&file.filled);
    for block in blocks.clone() {
        filled.fill(block, block_bytes.min(range.end - block * block_bytes));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
