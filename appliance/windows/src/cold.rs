//! Cold windows: those that rest and are old may lie in a store far away and be searched there.
//!
//! What moves is one *image*: all files of the window's index behind one another, under a name that is never written twice. Here stay
//! `meta.json` (what it holds, from when to when), the [`Manifest`] (what lies where in the image, and a checksum of each block), the
//! *head* (what opening the index reads), the tables of its rows (`rows.rs`) and a filter (which terms are not in it: `filter.rs`). So most searches rule a cold window out without a
//! request, and opening one takes none. What is read lies in a [`Cache`] on the disk, block by block, each compared with its checksum.
//!
//! The manifest is the one thing that says where a window lies: it is written when the image is there and whole, and from then on the
//! local files are only leftovers. A name that no manifest has is *loose*: it is written down before the first byte goes away, and again
//! before a window's folder goes, and deleted there until that succeeds. So no crash loses a window, keeps one twice, or forgets an image.
//!
//! When the store does not answer, a search says which windows it could not reach and answers with the rest.
//!
//! What is absent on purpose: bringing windows back (the cache does, for as long as somebody asks); listing what is there, so that nothing is
//! ever deleted that this folder has not written down; retries and timeouts, which are the [`Far`] store's.

mod cache;
mod directory;
mod image;
mod loose;
mod opened;
pub(crate) mod waiting;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub use cache::{Cache, CacheStats};
pub use image::Image;
pub(crate) use image::{Manifest, Packed};
pub(crate) use loose::{Loose, write_whole};

use crate::Cancel;
use crate::index::{IndexFault, Purpose, Window};

/// Why the store far away did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FarError {
    #[error("it is missing there")]
    Missing,
    /// Passes, or is a matter of settings.
    #[error("{0}")]
    Away(String),
    /// What came is not what was put.
    #[error("{0}")]
    Wrong(String),
    #[error("nobody waits any more")]
    Cancelled,
}

/// A store far away. Calls block, give up after a time of their own, and end early when `cancel` says so.
pub trait Far: Send + Sync + 'static {
    /// Which store it is, such as a bucket: an image is looked for only where it was put.
    fn place(&self) -> &str;

    /// The whole name there of what is called `name` here.
    fn key(&self, name: &str) -> String;

    /// Puts an image whole; when this answers, it is durable.
    ///
    /// # Errors
    /// [`FarError`]; nothing can be read under the name then, but something may take room there until it is deleted.
    fn put(&self, key: &str, image: &Image<'_>, cancel: &Cancel) -> Result<(), FarError>;

    /// Reads a part of an image that has `total` bytes.
    ///
    /// # Errors
    /// [`FarError`].
    fn read(&self, key: &str, range: Range<u64>, total: u64, cancel: &Cancel) -> Result<Vec<u8>, FarError>;

    /// Deletes an image, and whatever was begun under its name. One that is gone is no error.
    ///
    /// # Errors
    /// [`FarError`].
    fn delete(&self, key: &str, cancel: &Cancel) -> Result<(), FarError>;
}

/// The store far away, and what was read from it of late. Cheap to clone.
#[derive(Clone)]
pub struct Cold {
    pub(crate) far: Arc<dyn Far>,
    pub(crate) cache: Cache,
}

impl Cold {
    #[must_use]
    pub fn new(far: Arc<dyn Far>, cache: Cache) -> Self {
        Self { far, cache }
    }
}

impl std::fmt::Debug for Cold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cold").field(&self.far.place()).finish()
    }
}

/// A window whose image is far away, as its folder knows it.
pub(crate) struct Moved {
    pub(crate) manifest: Arc<Manifest>,
    /// `None`: there is no such store by the configuration.
    cold: Option<Cold>,
}

impl Moved {
    pub(crate) fn new(manifest: Manifest, cold: Option<Cold>) -> Self {
        Self { manifest: Arc::new(manifest), cold }
    }

    /// Opens the index; reads what the head does not have.
    pub(crate) fn open(&self, dir: &Path) -> Result<Window, IndexFault> {
        let place = &self.manifest.place;
        let away = |why: String| {
            let _ = waiting::failed(FarError::Away(why.clone()));
            IndexFault { problem: why, is_damage: false }
        };
        let Some(cold) = &self.cold else {
            return Err(away(format!("it lies in {place}, and no place for cold windows is configured")));
        };
        if cold.far.place() != place {
            return Err(away(format!("it lies in {place}, and the place for cold windows is {}", cold.far.place())));
        }
        let directory =
            directory::FarDirectory::open(dir, Arc::clone(&self.manifest), cold.clone()).map_err(IndexFault::damage)?;
        Window::open_in(Box::new(directory), dir, Purpose::Window)
    }

    /// Nobody asks for it any more.
    pub(crate) fn forget(&self) {
        if let Some(cold) = &self.cold {
            cold.cache.forget(&self.manifest.key);
        }
    }
}

/// What an image is read by.
pub(crate) fn block_bytes() -> u64 {
    image::BLOCK_BYTES
}
