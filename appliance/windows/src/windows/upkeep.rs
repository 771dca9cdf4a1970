//! What is done to windows now and then: closing, letting go, merging, setting aside.

use std::sync::Arc;

use super::Windows;
use crate::WindowsError;
use crate::chain::{self, Chain, Folder, lock};
use crate::index::{self, IndexFault};

impl Windows {
    /// Closes windows whose span is over, lets old ones go, merges one that is closed. To be called every minute or so.
    ///
    /// # Errors
    /// When a step fails; the next call tries again.
    pub fn housekeep(&self, now_ms: u64) -> Result<(), WindowsError> {
        for chain in Chain::ALL {
            let mut writing = lock(&self.shared.writing);
            if writing.slot(chain).open.is_none()
                && self.left_open(chain).is_some_and(|entry| self.is_full(&entry.summary, now_ms))
            {
                writing.slot(chain).open = Some(self.open_window(chain, now_ms, 0)?); // left open by an earlier run
            }
            if writing.slot(chain).open.as_ref().is_some_and(|open| self.is_full(&open.summary, now_ms)) {
                self.commit_locked(&mut writing, Some(chain))?;
            }
        }
        self.retain(now_ms)?;
        self.merge_one()
    }

    fn retain(&self, now_ms: u64) -> Result<(), WindowsError> {
        let options = &self.shared.options;
        let mut closed: Vec<_> = {
            let state = lock(&self.shared.state);
            state.entries.iter().filter(|entry| entry.summary.closed).cloned().collect()
        };
        closed.sort_by_key(|entry| entry.summary.last_arrival_ms);
        let mut disk_bytes: u64 = closed.iter().map(|entry| entry.folder.disk_bytes()).sum();
        for entry in closed {
            let old = entry.summary.last_arrival_ms.saturating_add(options.retention_ms) < now_ms;
            if !old && disk_bytes <= options.disk_bytes_max {
                continue;
            }
            disk_bytes = disk_bytes.saturating_sub(entry.folder.disk_bytes());
            lock(&self.shared.state).entries.retain(|other| !Arc::ptr_eq(&other.folder, &entry.folder));
            chain::remove(&entry.folder.path)?;
            let (window, documents) = (&entry.folder.name, entry.summary.documents);
            tracing::info!(window, documents, old, "dropped a window: retention or disk budget");
        }
        Ok(())
    }

    fn merge_one(&self) -> Result<(), WindowsError> {
        let next = {
            let state = lock(&self.shared.state);
            state.entries.iter().find(|entry| entry.summary.closed && !entry.rests).cloned()
        };
        let Some(entry) = next else { return Ok(()) };
        let folder = &entry.folder;
        match folder.meta() {
            Ok(meta) if meta.rests => {}
            Ok(_) => {
                let window = folder.window().map_err(|fault| folder.error("open", fault))?;
                window.merge(self.shared.options.writer_bytes).map_err(|error| folder.error("merge", error))?;
                folder.shut(); // the next search opens the merged segment; the old files can go
            }
            Err(reason) => return self.set_aside(folder, reason),
        }
        let mut state = lock(&self.shared.state);
        if let Some(entry) = state.entries.iter_mut().find(|entry| Arc::ptr_eq(&entry.folder, folder)) {
            entry.rests = true;
        }
        Ok(())
    }

    /// Sets a window aside when its files are at fault; a fault of another kind, such as too many open files, is the caller's to see.
    pub(super) fn judge(&self, folder: &Arc<Folder>, fault: IndexFault) -> Result<(), WindowsError> {
        let broken = index::broken_files(&folder.path);
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
        let aside = chain::set_aside(&self.shared.options.dir, folder, Some(entry.summary), reason)?;
        state.asides.push(aside);
        Ok(())
    }
}
