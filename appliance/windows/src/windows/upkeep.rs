//! What is done to windows now and then: closing, letting go, merging, setting aside.

use std::sync::Arc;

use super::kept::Dropped;
use super::writing::Slot;
use super::{IDLE_MS, Windows};
use crate::WindowsError;
use crate::chain::{self, Entry, Folder, lock};
use crate::filter;
use crate::index::{self, IndexFault};

/// Most windows that are merged in one round: others wait for the limits that are looked at between.
const MERGES_MAX: usize = 4;

impl Windows {
    /// Closes windows whose span is over, lets old ones go, merges some that are closed, and lets go of writers that nothing comes to and of readers
    /// that nobody uses. To be called
    /// every minute or so. Tells which windows went.
    ///
    /// # Errors
    /// When a window cannot be closed; the next call tries again.
    pub fn housekeep(&self, now_ms: u64) -> Result<Vec<Dropped>, WindowsError> {
        let slots = lock(&self.shared.writing).slots.len();
        for slot in 0..slots {
            let mut writing = lock(&self.shared.writing);
            if writing.slots.len() <= slot {
                break; // opened anew in between
            }
            let chain = writing.slots[slot].chain.clone();
            if writing.slots[slot].open.is_none()
                && self.left_open(&chain).is_some_and(|entry| self.is_full(&chain, &entry.summary, now_ms))
            {
                writing.slots[slot].open = Some(self.open_window(&chain, now_ms, 0)?); // left open by an earlier run
            }
            let Slot { open: Some(open), added_ms, .. } = &writing.slots[slot] else { continue };
            if self.is_full(&chain, &open.summary, now_ms) {
                self.commit_locked(&mut writing, &[slot])?;
            } else if !open.dirty && added_ms.saturating_add(IDLE_MS) < now_ms {
                self.rest(&mut writing, slot)?;
            }
        }
        let dropped = self.retain(now_ms);
        for _ in 0..MERGES_MAX {
            match self.merge_one() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "a window was not merged; the next round tries again");
                    break;
                }
            }
        }
        if let Err(error) = self.filter_one() {
            tracing::warn!(%error, "a window got no filter; the next round tries again");
        }
        self.shut_idle();
        Ok(dropped)
    }

    /// Whether there was one.
    fn merge_one(&self) -> Result<bool, WindowsError> {
        let next = {
            let state = lock(&self.shared.state);
            let is_next = |entry: &&Entry| entry.summary.closed && !entry.rests && entry.folder.moved.is_none();
            state.entries.iter().find(is_next).cloned()
        };
        let Some(entry) = next else { return Ok(false) };
        let folder = &entry.folder;
        match folder.meta() {
            Ok(meta) if meta.rests => {}
            Ok(_) => {
                let window = folder.window().map_err(|fault| folder.error("open", fault))?;
                window.merge(self.shared.options.writer_bytes).map_err(|error| folder.error("merge", error))?;
                folder.shut(); // the next search opens the merged segment; the old files can go
            }
            Err(reason) => return self.set_aside(folder, reason).map(|()| true),
        }
        let mut state = lock(&self.shared.state);
        if let Some(entry) = state.entries.iter_mut().find(|entry| Arc::ptr_eq(&entry.folder, folder)) {
            entry.rests = true;
        }
        Ok(true)
    }

    /// Makes the filter of a resting window that has none.
    fn filter_one(&self) -> Result<(), WindowsError> {
        let names = self.shared.options.filtered;
        if names.is_empty() {
            return Ok(());
        }
        let resting: Vec<_> = {
            let state = lock(&self.shared.state);
            let is_here = |entry: &&Entry| entry.rests && entry.folder.moved.is_none();
            state.entries.iter().filter(is_here).map(|entry| Arc::clone(&entry.folder)).collect()
        };
        let Some(folder) = resting.into_iter().find(|folder| !filter::is_there(&folder.path, names)) else {
            return Ok(());
        };
        let window = folder.window();
        let made = window.and_then(|window| filter::Made::of_names(&window.searcher(), &window.fields, names));
        self.shut_unused();
        match made {
            Ok(made) => made.write(&folder.path).map_err(|source| folder.unwritten(source)),
            Err(fault) => self.judge(&folder, fault),
        }
    }

    /// Sets a window aside when its files are at fault; a fault of another kind, such as too many open files, is the caller's to see.
    pub(super) fn judge(&self, folder: &Arc<Folder>, fault: IndexFault) -> Result<(), WindowsError> {
        let broken = if folder.moved.is_some() { Vec::new() } else { index::broken_files(&folder.path) };
        let gone = !lock(&self.shared.state).entries.iter().any(|entry| Arc::ptr_eq(&entry.folder, folder));
        if gone {
            return Ok(()); // retention dropped it, or another search has judged
        }
        if broken.is_empty() && !fault.is_damage {
            return Err(folder.error("search", fault));
        }
        let names: Vec<_> = broken.iter().map(|path| path.display().to_string()).collect();
        let reason = match names.as_slice() {
            [] => fault.problem,
            names => format!("{}; bytes differ from what was written in {}", fault.problem, names.join(", ")),
        };
        self.set_aside(folder, reason)
    }

    pub(super) fn set_aside(&self, folder: &Arc<Folder>, reason: String) -> Result<(), WindowsError> {
        let mut state = lock(&self.shared.state);
        let Some(at) = state.entries.iter().position(|entry| Arc::ptr_eq(&entry.folder, folder)) else {
            return Ok(()); // somebody else did, or retention dropped it
        };
        let entry = state.entries.remove(at);
        folder.shut();
        if let Some(moved) = &folder.moved {
            moved.forget();
        }
        let aside = chain::set_aside(&self.shared.options.dir, folder, Some(entry.summary), reason)?;
        state.asides.push(aside);
        Ok(())
    }
}
