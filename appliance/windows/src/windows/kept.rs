//! What is kept and what goes: whole windows, by the limits of their class, or because somebody else asks for room.

use std::collections::HashMap;
use std::sync::Arc;

use super::Windows;
use crate::Options;
use crate::chain::{self, Entry, Folder, lock};
use crate::summary::Summary;

/// By which part a class may be over its bytes while its windows are on their way far away.
const OVER_PART: u64 = 4;

/// Why a window went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The time of its class was over.
    Age,
    /// Its class had more than its bytes.
    ClassBytes,
    /// All together had more than theirs.
    Total,
}

impl Reason {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::ClassBytes => "class_bytes",
            Self::Total => "total",
        }
    }
}

/// A window that went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    pub window: String,
    pub class: String,
    pub documents: u64,
    /// On disk.
    pub bytes: u64,
    pub reason: Reason,
}

/// A window that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub window: String,
    pub class: String,
    pub documents: u64,
    /// On disk.
    pub bytes: u64,
    /// Nothing more comes in. Others do not go.
    pub closed: bool,
    /// It is merged and packed as well.
    pub rests: bool,
    pub last_arrival_ms: u64,
    /// It goes when its last arrival is longer ago than this.
    pub retention_ms: u64,
    /// Where its index lies far away: its bytes there.
    pub cold_bytes: u64,
    /// Its index is here and may move: its class does, and it rests or will soon.
    pub may_move: bool,
}

impl Kept {
    pub(crate) fn of(Entry { folder, summary, rests }: &Entry, options: &Options) -> Self {
        Self {
            window: folder.name.clone(),
            class: folder.chain.class_name().to_owned(),
            documents: summary.documents,
            bytes: folder.disk_bytes(),
            closed: summary.closed,
            rests: *rests,
            last_arrival_ms: summary.last_arrival_ms,
            retention_ms: retention_ms(folder, summary, options),
            cold_bytes: folder.cold_bytes(),
            may_move: summary.closed && folder.moved.is_none() && options.cold_after_ms(&folder.chain).is_some(),
        }
    }
}

/// How long a window is kept: as its class says, or said when there was one.
fn retention_ms(folder: &Folder, summary: &Summary, options: &Options) -> u64 {
    match options.limits(&folder.chain) {
        Some((retention_ms, _)) => retention_ms,
        None => summary.retention_ms.unwrap_or(options.retention_ms),
    }
}

impl Windows {
    /// The windows that are there, by the order of their last arrivals.
    #[must_use]
    pub fn kept(&self) -> Vec<Kept> {
        let entries = lock(&self.shared.state).entries.clone();
        let mut kept: Vec<_> = entries.iter().map(|entry| Kept::of(entry, &self.shared.options)).collect();
        kept.sort_by_key(|kept| kept.last_arrival_ms);
        kept
    }

    /// Lets a closed window go to make room; `None` when there is none of this name.
    #[must_use]
    pub fn drop_window(&self, name: &str) -> Option<Dropped> {
        let state = lock(&self.shared.state);
        let entry = state.entries.iter().find(|entry| entry.folder.name == name && entry.summary.closed).cloned();
        drop(state);
        self.let_go(&entry?, Reason::Total)
    }

    /// Lets go what is past the limits of its class.
    pub(super) fn retain(&self, now_ms: u64) -> Vec<Dropped> {
        let mut entries = lock(&self.shared.state).entries.clone();
        entries.sort_by_key(|entry| entry.summary.last_arrival_ms);
        let mut bytes_of = HashMap::<Arc<str>, u64>::new();
        for entry in &entries {
            *bytes_of.entry(Arc::clone(&entry.folder.chain.class)).or_default() += entry.folder.disk_bytes();
        }
        let mut dropped = Vec::new();
        for entry in entries.iter().filter(|entry| entry.summary.closed) {
            let chain = &entry.folder.chain;
            let bytes_max = self.shared.options.limits(chain).map_or(u64::MAX, |(_, bytes)| bytes);
            let is_old = entry.summary.last_arrival_ms.saturating_add(retention_ms(
                &entry.folder,
                &entry.summary,
                &self.shared.options,
            )) < now_ms;
            let Some(bytes) = bytes_of.get_mut(&chain.class) else { continue };
            if !is_old && (*bytes <= bytes_max || entry.folder.moved.is_some()) {
                continue; // one that is far away takes no room here
            }
            // Moving makes room as well, and loses nothing; it is not waited for when it fails or does not keep up.
            let is_close = *bytes <= bytes_max.saturating_add(bytes_max / OVER_PART);
            if !is_old && is_close && !self.moves_fail() && self.shared.options.cold_after_ms(chain).is_some() {
                *bytes = bytes.saturating_sub(entry.folder.disk_bytes());
                self.move_early([entry.folder.name.clone()]);
                continue;
            }
            *bytes = bytes.saturating_sub(entry.folder.disk_bytes());
            dropped.extend(self.let_go(entry, if is_old { Reason::Age } else { Reason::ClassBytes }));
        }
        dropped
    }

    fn let_go(&self, entry: &Entry, reason: Reason) -> Option<Dropped> {
        let folder: &Arc<Folder> = &entry.folder;
        let bytes = folder.disk_bytes();
        {
            let mut state = lock(&self.shared.state);
            let before = state.entries.len();
            state.entries.retain(|other| !Arc::ptr_eq(&other.folder, folder));
            if state.entries.len() == before {
                return None; // set aside since, or gone
            }
        }
        let gone = self.note_loose(folder).and_then(|loose| chain::remove(&folder.path).map(|()| loose));
        match gone {
            Ok(loose) => lock(&self.shared.moves).loose.extend(loose),
            Err(error) => {
                tracing::error!(window = folder.name, %error, "a window that is to go does not; the next start tries again");
            }
        }
        let (window, class) = (folder.name.clone(), folder.chain.class_name().to_owned());
        Some(Dropped { window, class, documents: entry.summary.documents, bytes, reason })
    }
}
