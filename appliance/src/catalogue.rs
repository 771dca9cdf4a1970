//! The catalogue: what can be looked up, and can be rebuilt. sled, behind one small type.
//!
//! It follows the control journal: each batch carries the position up to which the journal has been applied,
//! in the same atomic write. No acknowledgement waits for its flush, and it can be thrown away.
//! One tree, whose keys begin with a [`Table`] byte, because sled is atomic within a tree only.
//!
//! What is absent on purpose: no caller sees a type of sled, nobody but the control's committer writes.

use std::path::Path;

use backlot_journal::Lsn;

/// Largest value; larger ones belong in a blob. sled moves bigger values to files that it never syncs.
pub const VALUE_BYTES_MAX: usize = 4 * 1024;

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
}

#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("catalogue {verb}: {problem}. `backlot rebuild` makes it again from the journal")]
    Engine { verb: &'static str, problem: String },
    #[error("value of {bytes} bytes in {table:?} is over 4 KiB")]
    TooLarge { table: Table, bytes: usize },
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
}

/// Key and value, without the table's byte.
pub type Pair = (Vec<u8>, Vec<u8>);

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Catalogue {}

impl Catalogue {
    /// Opens or makes the catalogue in the folder `path`.
    ///
    /// # Errors
    /// [`CatalogueError::Engine`] when sled cannot read it.
    pub fn open(path: &Path) -> Result<Self, CatalogueError> {
        let _ = path;
        unimplemented!()
    }

    /// Position up to which the journal has been applied.
    #[must_use]
    pub fn applied(&self) -> Lsn {
        unimplemented!()
    }

    /// # Errors
    /// [`CatalogueError::Engine`].
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, CatalogueError> {
        let _ = (table, key);
        unimplemented!()
    }

    /// Up to `limit` pairs with `from <= key` that begin with `prefix`, in key order. An empty `from` begins at the prefix.
    ///
    /// # Errors
    /// [`CatalogueError::Engine`].
    pub fn range(&self, table: Table, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Pair>, CatalogueError> {
        let _ = (table, prefix, from, limit);
        unimplemented!()
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
        let _ = (table, prefix, before, limit);
        unimplemented!()
    }
}
