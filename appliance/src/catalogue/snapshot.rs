//! The exported snapshot: the whole catalogue in one checked file, as it was at one position of the journal.
//!
//! ```text
//! magic 8 | version 4 | applied LSN 8 | (key length 4 | value length 4 | key | value)* | ff ff ff ff | pairs 8 | CRC32C 4
//! ```
//!
//! Commits go on while it is written: before a commit changes a key that has not been exported yet, it keeps the key's
//! old value for the export.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use backlot_journal::Lsn;

use super::{APPLIED_KEY, Catalogue, CatalogueError, KEY_BYTES_MAX, Table, VALUE_BYTES_MAX, own_key};

const MAGIC: [u8; 8] = *b"BKLTSNAP";
const VERSION: u32 = 1;
const END: u32 = u32::MAX;
const CHUNK_PAIRS: usize = 256;

/// Pairs by their whole key.
type Chunk = BTreeMap<Vec<u8>, Vec<u8>>;

/// An export that is under way.
pub(super) struct Export {
    /// Everything below has been exported.
    next: Vec<u8>,
    /// Values as they were when the export began, of keys that were changed since.
    old: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl Export {
    pub(super) fn beginning() -> Self {
        Self { next: vec![Table::Own as u8 + 1], old: BTreeMap::new() }
    }

    /// Called before `key` is changed.
    pub(super) fn keep_old(&mut self, tree: &sled::Tree, key: &[u8]) -> Result<(), CatalogueError> {
        if key >= self.next.as_slice() && !self.old.contains_key(key) {
            let value = tree.get(key).map_err(CatalogueError::engine("read"))?;
            self.old.insert(key.to_vec(), value.map(|value| value.to_vec()));
        }
        Ok(())
    }
}

/// What a snapshot says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotHead {
    pub(crate) applied: Lsn,
    pub(crate) pairs: u64,
}

impl Catalogue {
    /// Writes the catalogue, as it is now, to `path`: to a file beside it first, which is synced and then renamed. Blocks.
    pub(crate) fn export(&self, path: &Path) -> Result<SnapshotHead, CatalogueError> {
        let applied = {
            let mut export = self.inner.export.lock();
            *export = Some(Export::beginning());
            Lsn(self.inner.applied.load(Ordering::Acquire))
        };
        let beside = beside(path);
        let written = self.write_snapshot(path, &beside, applied);
        *self.inner.export.lock() = None;
        if written.is_err() {
            let _ = std::fs::remove_file(&beside); // it may hold the last room there is
        }
        written
    }

    fn write_snapshot(&self, path: &Path, beside: &Path, applied: Lsn) -> Result<SnapshotHead, CatalogueError> {
        let io = |error: io::Error| CatalogueError::Snapshot { path: path.to_owned(), problem: error.to_string() };
        let mut file = Summed::new(BufWriter::new(File::create(beside).map_err(io)?));
        let mut put = |bytes: &[u8]| file.put(bytes).map_err(io);
        put(&MAGIC)?;
        put(&VERSION.to_le_bytes())?;
        put(&applied.0.to_le_bytes())?;
        let mut pairs = 0_u64;
        while let Some(chunk) = self.next_chunk()? {
            for (key, value) in chunk {
                put(&(key.len() as u32).to_le_bytes())?; // both were checked when they were applied
                put(&(value.len() as u32).to_le_bytes())?;
                put(&key)?;
                put(&value)?;
                pairs += 1;
            }
        }
        put(&END.to_le_bytes())?;
        put(&pairs.to_le_bytes())?;
        let sum = file.sum;
        file.put(&sum.to_le_bytes()).map_err(io)?;
        let file = file.inner.into_inner().map_err(|error| io(error.into_error()))?;
        file.sync_all().map_err(io)?;
        std::fs::rename(beside, path).map_err(io)?;
        sync_folder_of(path).map_err(io)?;
        Ok(SnapshotHead { applied, pairs })
    }

    /// The next pairs in key order, as they were when the export began.
    pub(super) fn next_chunk(&self) -> Result<Option<Chunk>, CatalogueError> {
        let mut guard = self.inner.export.lock(); // no commit in between
        let Some(export) = guard.as_mut().filter(|export| !export.next.is_empty()) else { return Ok(None) };
        let mut chunk = BTreeMap::new();
        for pair in self.inner.tree.range(export.next.clone()..).take(CHUNK_PAIRS) {
            let (key, value) = pair.map_err(CatalogueError::engine("read"))?;
            chunk.insert(key.to_vec(), value.to_vec());
        }
        let next = match chunk.last_key_value() {
            Some((last, _)) if chunk.len() == CHUNK_PAIRS => [last.as_slice(), &[0]].concat(),
            _ => Vec::new(), // the end
        };
        let later = if next.is_empty() { BTreeMap::new() } else { export.old.split_off(&next) };
        for (key, old) in std::mem::replace(&mut export.old, later) {
            match old {
                Some(value) => chunk.insert(key, value),
                None => chunk.remove(&key),
            };
        }
        export.next = next;
        if export.next.is_empty() {
            *guard = None;
        }
        Ok(Some(chunk))
    }

    /// Fills this catalogue, which must be empty, from the snapshot at `path`, and flushes it. Blocks.
    pub(crate) fn import(&self, path: &Path) -> Result<SnapshotHead, CatalogueError> {
        let mut batch = sled::Batch::default();
        let mut held = 0_usize;
        let head = read_snapshot(path, |key, value| {
            batch.insert(key, value);
            held += 1;
            if held.is_multiple_of(CHUNK_PAIRS) {
                let full = std::mem::take(&mut batch);
                self.inner.tree.apply_batch(full).map_err(CatalogueError::engine("write"))?;
            }
            Ok(())
        })?;
        batch.insert(own_key(APPLIED_KEY), &head.applied.0.to_be_bytes());
        self.inner.tree.apply_batch(batch).map_err(CatalogueError::engine("write"))?;
        self.inner.applied.store(head.applied.0, Ordering::Release);
        self.flush()?;
        Ok(head)
    }
}

/// Reads a snapshot and hands out its pairs. An error may come after some of them: the checksum stands at the end.
pub(crate) fn read_snapshot(
    path: &Path,
    visit: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), CatalogueError>,
) -> Result<SnapshotHead, CatalogueError> {
    let opened = File::open(path);
    let file = opened.map_err(|error| CatalogueError::Snapshot { path: path.into(), problem: error.to_string() })?;
    read_pairs(BufReader::new(file), path, visit)
}

/// Reads the snapshot in `bytes` and throws the outcome away: for fuzzing.
pub fn fuzz_snapshot(bytes: &[u8]) {
    let _ = read_pairs(bytes, Path::new("fuzz"), |_, _| Ok(()));
}

fn read_pairs(
    file: impl Read,
    path: &Path,
    mut visit: impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), CatalogueError>,
) -> Result<SnapshotHead, CatalogueError> {
    let problem = |problem: &str| CatalogueError::Snapshot { path: path.to_owned(), problem: problem.to_owned() };
    let io = |error: io::Error| problem(&error.to_string());
    let mut file = Summed::new(file);
    if file.take::<8>().map_err(io)? != MAGIC {
        return Err(problem("it does not begin like a snapshot"));
    }
    match u32::from_le_bytes(file.take().map_err(io)?) {
        VERSION => {}
        _ => return Err(problem("it was written by a later version, or is damaged")),
    }
    let applied = Lsn(u64::from_le_bytes(file.take().map_err(io)?));
    let mut pairs = 0_u64;
    loop {
        let key_bytes = u32::from_le_bytes(file.take().map_err(io)?);
        if key_bytes == END {
            break;
        }
        let value_bytes = u32::from_le_bytes(file.take().map_err(io)?);
        if key_bytes as usize > KEY_BYTES_MAX + 1 || value_bytes as usize > VALUE_BYTES_MAX || key_bytes == 0 {
            return Err(problem("it is damaged: a length is impossible"));
        }
        let key = file.take_vec(key_bytes as usize).map_err(io)?;
        let value = file.take_vec(value_bytes as usize).map_err(io)?;
        visit(key, value)?;
        pairs += 1;
    }
    let counted = u64::from_le_bytes(file.take().map_err(io)?);
    let sum = file.sum;
    if u32::from_le_bytes(file.take().map_err(io)?) != sum || counted != pairs {
        return Err(problem("it is damaged: its checksum does not match"));
    }
    Ok(SnapshotHead { applied, pairs })
}

/// Where a snapshot is written before it takes its name.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

/// Makes a rename in the folder of `path` durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(folder) => File::open(folder)?.sync_all(),
        None => File::open(".")?.sync_all(),
    }
}

/// A file with the checksum of all that went through.
struct Summed<T> {
    inner: T,
    sum: u32,
}

impl<T> Summed<T> {
    fn new(inner: T) -> Self {
        Self { inner, sum: 0 }
    }
}

impl<T: Write> Summed<T> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum = crc32c::crc32c_append(self.sum, bytes);
        self.inner.write_all(bytes)
    }
}

impl<T: Read> Summed<T> {
    fn take<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        self.sum = crc32c::crc32c_append(self.sum, &bytes);
        Ok(bytes)
    }

    fn take_vec(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.inner.read_exact(&mut bytes)?;
        self.sum = crc32c::crc32c_append(self.sum, &bytes);
        Ok(bytes)
    }
}
