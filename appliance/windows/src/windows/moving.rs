//! Moving windows that rest far away, one at a time, and letting go there of what no window has.
//!
//! In this order, so that a crash between any two steps leaves the window here or there, whole, and nothing forgotten: the name is
//! noted as loose; the image is put, and its end read back; the manifest is written, with which the window lies far away; searches are told; the note
//! goes; the local files go.

use std::collections::HashSet;
use std::sync::Arc;

use super::Windows;
use super::search::{SearchFault, guard};
use crate::chain::{Entry, Folder, lock};
use crate::cold::{Cold, FarError, Loose, Moved, Packed};
use crate::{Cancel, WindowsError, filter};

/// A window that lies far away now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MovedWindow {
    pub window: String,
    pub class: String,
    pub documents: u64,
    /// Of the image.
    pub bytes: u64,
}

/// Why nothing moves.
#[derive(Debug, thiserror::Error)]
pub enum ColdFault {
    /// The store far away did not do what it was asked.
    #[error("{0}")]
    Far(#[from] FarError),
    /// This machine did not.
    #[error(transparent)]
    Here(#[from] WindowsError),
}

/// Between which steps a test ends a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Noted,
    Put,
    Bound,
    Told,
    Settled,
}

impl Windows {
    /// Asks for windows to move before their time; those that do not rest, or whose class stays here, are left out.
    pub fn move_early(&self, names: impl IntoIterator<Item = String>) {
        lock(&self.shared.moves).early.extend(names);
    }

    /// Whether the last move went wrong. Who makes room then does not count on moves.
    #[must_use]
    pub fn moves_fail(&self) -> bool {
        lock(&self.shared.moves).fail
    }

    /// Moves the window whose turn it is, if there is one. `copy` is a number that was never given before, not to any other appliance either. Blocks.
    ///
    /// # Errors
    /// [`ColdFault`]; the window is here still, and what was put is noted as loose.
    pub fn move_next(&self, now_ms: u64, copy: u64, cancel: &Cancel) -> Result<Option<MovedWindow>, ColdFault> {
        let Some(cold) = self.shared.options.cold.clone() else { return Ok(None) };
        let Some(entry) = self.next_to_move(now_ms) else {
            lock(&self.shared.moves).fail = false;
            return Ok(None);
        };
        let moved = self.move_one(&entry, &cold, (now_ms, copy), cancel);
        lock(&self.shared.moves).fail = moved.is_err();
        moved
    }

    /// The oldest of those whose time has come, and of those that were asked for.
    fn next_to_move(&self, now_ms: u64) -> Option<Entry> {
        let options = &self.shared.options;
        let entries = lock(&self.shared.state).entries.clone();
        let mut moves = lock(&self.shared.moves);
        let there: HashSet<_> = entries.iter().map(|entry| entry.folder.name.as_str()).collect();
        moves.early.retain(|name| there.contains(name.as_str()));
        let is_due = |entry: &&Entry| {
            let after_ms = options.cold_after_ms(&entry.folder.chain);
            let is_early = moves.early.contains(&entry.folder.name);
            let is_old = |after_ms| entry.summary.last_arrival_ms.saturating_add(after_ms) <= now_ms;
            let may_move = entry.summary.closed && entry.rests && entry.folder.moved.is_none();
            may_move && entry.summary.documents > 0 && after_ms.is_some_and(|after_ms| is_early || is_old(after_ms))
        };
        entries.iter().filter(is_due).min_by_key(|entry| entry.summary.last_arrival_ms).cloned()
    }

    fn move_one(
        &self,
        entry: &Entry,
        cold: &Cold,
        (now_ms, copy): (u64, u64),
        cancel: &Cancel,
    ) -> Result<Option<MovedWindow>, ColdFault> {
        let (folder, dir, far) = (&entry.folder, &self.shared.options.dir, &cold.far);
        let name = format!("{}.{copy:016x}", folder.name);
        let broken = crate::index::broken_files(&folder.path);
        if let Some(path) = broken.first() {
            self.set_aside(folder, format!("bytes differ from what was written in {}", path.display()))?;
            return Ok(None);
        }
        let loose = Loose { place: far.place().to_owned(), key: far.key(&name), name };
        let packed = Packed::new(&folder.path, &loose, self.shared.options.filtered, now_ms);
        let packed = packed.map_err(|problem| folder.error("pack", problem))?;
        let (key, bytes) = (loose.key.clone(), packed.manifest.bytes);
        let image = packed.image();
        loose.keep(dir)?;
        self.reached(Step::Noted);
        let put = far.put(&key, &image, cancel).and_then(|()| {
            // The end, by a range: a store that gives no ranges is noticed before anything goes here.
            let block = crate::cold::block_bytes();
            let tail = (bytes - 1) / block * block..bytes;
            let here = image.read(tail.clone()).map_err(FarError::Away)?;
            match far.read(&key, tail, bytes, cancel)? == here {
                true => Ok(()),
                false => Err(FarError::Away("it gives other bytes than were put".to_owned())),
            }
        });
        if let Err(error) = put {
            lock(&self.shared.moves).loose.push(loose);
            return Err(error.into());
        }
        self.reached(Step::Put);
        let bound = packed.bind();
        if let Err(source) = bound {
            // It may be bound all the same: what the next start finds decides. Until then the image stays.
            return Err(folder.unwritten(source).into());
        }
        self.reached(Step::Bound);
        let moved = Moved::new(packed.manifest, self.shared.options.cold.clone());
        let new = Arc::new(Folder::moved(dir, folder.name.clone(), folder.chain.clone(), moved));
        if !self.exchange(&new) {
            // It went while it was put, or was set aside: nobody refers to the image.
            lock(&self.shared.moves).loose.push(loose);
            return Ok(None);
        }
        self.reached(Step::Told);
        loose.settle(dir)?;
        self.reached(Step::Settled);
        if let Some(moved) = &new.moved {
            moved.manifest.remove_local(&new.path);
        }
        lock(&self.shared.moves).early.remove(&new.name);
        let (window, class) = (new.name.clone(), new.chain.class_name().to_owned());
        Ok(Some(MovedWindow { window, class, documents: entry.summary.documents, bytes }))
    }

    /// Lets new searches see a window where it lies now; those under way end with the files they have.
    fn exchange(&self, new: &Arc<Folder>) -> bool {
        let mut state = lock(&self.shared.state);
        let Some(entry) = state.entries.iter_mut().find(|entry| entry.folder.name == new.name) else { return false };
        entry.folder.shut();
        entry.folder = Arc::clone(new);
        true
    }

    /// Deletes far away what no window has; tells how much is left. Blocks.
    ///
    /// # Errors
    /// [`FarError`]; what is left is tried again at the next call.
    pub fn clean_cold(&self, cancel: &Cancel) -> Result<usize, FarError> {
        let all = lock(&self.shared.moves).loose.clone();
        let Some(cold) = &self.shared.options.cold else { return Ok(all.len()) };
        for loose in all.iter().filter(|loose| loose.place == cold.far.place()) {
            cold.far.delete(&loose.key, cancel)?;
            if let Err(error) = loose.settle(&self.shared.options.dir) {
                tracing::warn!(name = loose.name, %error, "what was deleted far away is noted as loose still");
            }
            lock(&self.shared.moves).loose.retain(|other| other.name != loose.name);
        }
        Ok(lock(&self.shared.moves).loose.len())
    }

    /// Makes the filter of a window far away that has none which reads: its dictionary is read there. Whether there was one. Blocks.
    ///
    /// # Errors
    /// [`ColdFault`]; the window is searched without one.
    pub fn filter_cold(&self, cancel: &Cancel) -> Result<bool, ColdFault> {
        let names = self.shared.options.filtered;
        let mut cold: Vec<_> = lock(&self.shared.state).entries.iter().map(|entry| Arc::clone(&entry.folder)).collect();
        cold.retain(|folder| folder.moved.is_some());
        let Some(folder) = cold.into_iter().find(|folder| !filter::is_there(&folder.path, names)) else {
            return Ok(false);
        };
        let made = guard(&folder, cancel, || {
            let window = folder.window()?;
            Ok(filter::Made::of_all(&window.searcher(), &window.fields, folder.cold_bytes(), names)?)
        });
        self.shut_unused();
        match made {
            Ok(made) => made.write(&folder.path).map_err(|source| folder.unwritten(source))?,
            Err(SearchFault::Cancelled) => return Err(FarError::Cancelled.into()),
            Err(SearchFault::Away(_, why)) => return Err(FarError::Away(why).into()),
            Err(SearchFault::Window(folder, fault)) => self.judge(&folder, fault)?,
        }
        Ok(true)
    }

    /// Notes that the image of a window that is about to go will be nobody's. The note counts when the window has gone.
    pub(super) fn note_loose(&self, folder: &Folder) -> Result<Option<Loose>, WindowsError> {
        let Some(moved) = &folder.moved else { return Ok(None) };
        let manifest = &moved.manifest;
        let (name, place, key) = (manifest.name.clone(), manifest.place.clone(), manifest.key.clone());
        let loose = Loose { name, place, key };
        loose.keep(&self.shared.options.dir)?;
        moved.forget();
        Ok(Some(loose))
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "tests look at it")]
    fn reached(&self, _: Step) {}

    #[cfg(test)]
    fn reached(&self, step: Step) {
        let wanted = *lock(&self.shared.ends_at);
        assert!(wanted != Some(step), "the test ends the move at {step:?}");
    }
}

#[cfg(test)]
mod tests;
