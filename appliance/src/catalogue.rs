//! The catalogue: what can be looked up, and can be rebuilt. sled, behind one small type.
//!
//! It follows the control journal: each batch carries the position up to which the journal has been applied,
//! in the same atomic write. No acknowledgement waits for its flush, and it can be thrown away.
//! One tree, whose keys begin with a [`Table`] byte, because sled is atomic within a tree only.
//!
//! What is absent on purpose: no caller sees a type of sled, nobody but the control's committer writes,
//! and sled's own flush thread, because a flush is decided together with the journal's segments.

mod headroom;
mod snapshot;
mod syncs;

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backlot_journal::Lsn;
use parking_lot::Mutex;

use self::headroom::Headroom;
use self::snapshot::Export;
pub use self::snapshot::fuzz_snapshot;

/// Largest value; larger ones belong in a blob. sled moves bigger values to files that it never syncs.
pub const VALUE_BYTES_MAX: usize = 4 * 1024;
/// Largest key. S3 keys have up to 1 KiB and a bucket before them.
pub const KEY_BYTES_MAX: usize = 2 * 1024;

/// Of sled's page cache.
const CACHE_BYTES: u64 = 32 * 1024 * 1024;
const LOCK_TRIES: usize = 50;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
const TREE: &str = "catalogue";
const FORMAT: u8 = 1;
const FORMAT_KEY: &[u8] = b"format";
const APPLIED_KEY: &[u8] = b"applied";

/// First byte of each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// The catalogue's own: format, applied LSN.
    Own = 0,
    Buckets = 1,
    Objects = 2,
    Uploads = 3,
    Parts = 4,
    Jobs = 5,
    JobsByTime = 6,
    Keys = 7,
    Agents = 8,
    Alerts = 9,
    Packs = 10,
    Settings = 11,
    /// Events of jobs that a webhook has not taken yet.
    Outbox = 12,
    /// Versions and delete markers of objects, newest first.
    Versions = 20,
    /// Which version of a key is its `null` version.
    Nulls = 21,
    /// Tags of objects' versions and of uploads.
    Tags = 22,
    /// Names in the cold tier that no row refers to: about to be written, or to be deleted.
    Cold = 23,
}

#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("catalogue {verb}: {problem}. `backlot rebuild` makes it again from the journal")]
    Engine { verb: &'static str, problem: String },
    #[error("value of {bytes} bytes in {table:?} is over 4 KiB")]
    TooLarge { table: Table, bytes: usize },
    #[error("key of {bytes} bytes in {table:?} is over 2 KiB")]
    KeyTooLarge { table: Table, bytes: usize },
    #[error("the catalogue was written by a later version (format {0})")]
    LaterVersion(u8),
    #[error("the catalogue's snapshot {path}: {problem}")]
    Snapshot { path: PathBuf, problem: String },
}

impl CatalogueError {
    fn engine(verb: &'static str) -> impl FnOnce(sled::Error) -> Self {
        move |error| Self::Engine { verb, problem: error.to_string() }
    }
}

/// Changes that are applied as one.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub(crate) changes: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
}

impl Batch {
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), Some(value.into())));
    }

    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push((table, key.into(), None));
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn check(&self) -> Result<(), CatalogueError> {
        for (table, key, value) in &self.changes {
            let bytes = value.as_ref().map_or(0, Vec::len);
            if bytes > VALUE_BYTES_MAX {
                return Err(CatalogueError::TooLarge { table: *table, bytes });
            }
            if key.len() > KEY_BYTES_MAX {
                return Err(CatalogueError::KeyTooLarge { table: *table, bytes: key.len() });
            }
        }
        Ok(())
    }
}

/// Key and value, without the table's byte.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Catalogue {
    inner: Arc<Inner>,
}

struct Inner {
    tree: sled::Tree,
    db: sled::Db,
    headroom: Headroom,
    applied: AtomicU64,
    /// Position up to which the last flush has made it durable.
    flushed: AtomicU64,
    /// Held while a batch is applied, and by an export between its chunks.
    export: Mutex<Option<Export>>,
}

impl Catalogue {
    /// Opens or makes the catalogue in the folder `path`.
    ///
    /// # Errors
    /// [`CatalogueError::Engine`] when sled cannot read it.
    pub fn open(path: &Path) -> Result<Self, CatalogueError> {
        if !syncs::flush_reaches_the_disk() {
            let problem =
                "this program was linked without its durability treatment; a flush would not be durable".into();
            return Err(CatalogueError::Engine { verb: "open", problem });
        }
        let config = sled::Config::new().path(path).flush_every_ms(None).cache_capacity(CACHE_BYTES);
        let room = Headroom::of(path);
        // sled asserts on some damage where it could answer an error.
        let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
            headroom::remove_unfinished_snapshots(path);
            let db = match open_unlocked(&config) {
                Err(error) if headroom::is_full(&error) && room.give_up() => {
                    headroom::remove_unfinished_snapshots(path);
                    open_unlocked(&config)?
                }
                opened => opened?,
            };
            let tree = db.open_tree(TREE)?;
            Ok((db, tree))
        }));
        let (db, tree) = match opened {
            Ok(opened) => opened.map_err(CatalogueError::engine("open"))?,
            Err(_) => {
                return Err(CatalogueError::Engine { verb: "open", problem: "its files are damaged".into() });
            }
        };
        let own = |key: &[u8]| tree.get(own_key(key)).map_err(CatalogueError::engine("open"));
        match own(FORMAT_KEY)?.as_deref() {
            Some([FORMAT]) => {}
            Some([later, ..]) => return Err(CatalogueError::LaterVersion(*later)),
            Some([]) | None => {
                tree.insert(own_key(FORMAT_KEY), &[FORMAT]).map_err(CatalogueError::engine("open"))?;
            }
        }
        let applied = match own(APPLIED_KEY)? {
            None => 0,
            Some(bytes) => match bytes.first_chunk() {
                Some(bytes) => u64::from_be_bytes(*bytes),
                None => {
                    return Err(CatalogueError::Engine { verb: "open", problem: "its position is damaged".into() });
                }
            },
        };
        room.make();
        let inner = Inner {
            tree,
            db,
            headroom: room,
            applied: AtomicU64::new(applied),
            flushed: AtomicU64::new(applied),
            export: Mutex::new(None),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Position up to which the journal has been applied.
    #[must_use]
    pub fn applied(&self) -> Lsn {
        Lsn(self.inner.applied.load(Ordering::Acquire))
    }

    /// Position up to which it has been applied and a crash will not undo it.
    #[must_use]
    pub(crate) fn flushed(&self) -> Lsn {
        Lsn(self.inner.flushed.load(Ordering::Acquire))
    }

    /// # Errors
    /// [`CatalogueError::Engine`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, CatalogueError> {
        let value = self.inner.tree.get(full_key(table, key)).map_err(CatalogueError::engine("read"))?;
        Ok(value.map(|value| value.to_vec()))
    }

    /// Up to `limit` pairs with `from <= key` that begin with `prefix`, in key order. An empty `from` begins at the prefix.
    ///
    /// # Errors
    /// [`CatalogueError::Engine`].
    pub fn range(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Pair>, CatalogueError> {
        let begins = full_key(table, prefix);
        let from = full_key(table, from.max(prefix));
        collect(self.inner.tree.range(from..), &begins, limit)
    }

    /// The same from the greatest key downwards, `key < before`; an empty `before` begins at the end of the prefix.
    ///
    /// # Errors
    /// [`CatalogueError::Engine`].
    pub fn range_back(
        &self,
        table: Table,
        prefix: &[u8],
        before: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, CatalogueError> {
        let begins = full_key(table, prefix);
        let mut end = after_prefix(begins.clone());
        if !before.is_empty() {
            end = end.min(full_key(table, before));
        }
        collect(self.inner.tree.range(..end).rev(), &begins, limit)
    }

    /// Applies `batch` and notes that the journal has been applied up to `applied`, as one.
    pub(crate) fn apply(&self, batch: Batch, applied: Lsn) -> Result<(), CatalogueError> {
        batch.check()?;
        let mut changes = sled::Batch::default();
        let mut export = self.inner.export.lock();
        for (table, key, value) in batch.changes {
            let key = full_key(table, &key);
            if let Some(export) = export.as_mut() {
                export.keep_old(&self.inner.tree, &key)?;
            }
            match value {
                Some(value) => changes.insert(key, value),
                None => changes.remove(key),
            }
        }
        changes.insert(own_key(APPLIED_KEY), &applied.0.to_be_bytes());
        self.inner.tree.apply_batch(changes).map_err(CatalogueError::engine("write"))?;
        self.inner.applied.store(applied.0, Ordering::Release);
        Ok(())
    }

    /// Makes durable what has been applied so far, and says up to where. Blocks.
    pub(crate) fn flush(&self) -> Result<Lsn, CatalogueError> {
        let applied = self.applied();
        self.inner.headroom.make();
        self.inner.db.flush().map_err(CatalogueError::engine("flush"))?;
        self.inner.flushed.fetch_max(applied.0, Ordering::AcqRel);
        Ok(applied)
    }
}

/// Waits a moment for the lock on sled's file. Its last owner in this process lets go of it by closing the file, and a child
/// that is just being forked holds a copy.
fn open_unlocked(config: &sled::Config) -> sled::Result<sled::Db> {
    for _ in 0..LOCK_TRIES {
        match config.open() {
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
    config.open()
}

fn collect(
    pairs: impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>>,
    begins: &[u8],
    limit: usize,
) -> Result<Vec<Pair>, CatalogueError> {
    let mut found = Vec::new();
    for pair in pairs.take(limit) {
        let (key, value) = pair.map_err(CatalogueError::engine("read"))?;
        if !key.starts_with(begins) {
            break;
        }
        found.push((key[1..].to_vec(), value.to_vec()));
    }
    Ok(found)
}

fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(key.len() + 1);
    full.push(table as u8);
    full.extend_from_slice(key);
    full
}

fn own_key(key: &[u8]) -> Vec<u8> {
    full_key(Table::Own, key)
}

/// The smallest key after all that begin with `prefix`, whose first byte is a table's and so below 255.
fn after_prefix(mut prefix: Vec<u8>) -> Vec<u8> {
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            break;
        }
    }
    prefix
}

#[cfg(test)]
pub(crate) mod tests;
