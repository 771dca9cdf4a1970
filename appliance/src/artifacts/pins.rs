//! Bodies of many blobs that are being read: their blobs stay until the last reader has gone.
//!
//! A reader of a single file holds its descriptor and needs none of this; the 10,000 parts of a large object are
//! opened one after the other.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use uuid::Uuid;

use super::blobs::Blobs;

#[derive(Default)]
struct Entry {
    readers: usize,
    /// Blobs to remove with the last reader.
    doomed: Vec<Uuid>,
}

/// Which bodies are being read. Cheap to clone.
#[derive(Clone)]
pub(super) struct Pins {
    blobs: Blobs,
    entries: Arc<Mutex<HashMap<Uuid, Entry>>>,
}

/// A body that is being read.
pub(super) struct Pin {
    pins: Pins,
    body: Uuid,
}

impl Pins {
    pub(super) fn new(blobs: Blobs) -> Self {
        Self { blobs, entries: Arc::default() }
    }

    pub(super) fn pin(&self, body: Uuid) -> Pin {
        self.entries.lock().entry(body).or_default().readers += 1;
        Pin { pins: self.clone(), body }
    }

    pub(super) fn is_pinned(&self, body: Uuid) -> bool {
        self.entries.lock().contains_key(&body)
    }

    /// Removes the blobs of a body that no row refers to any more: now, or when its last reader has gone. Blocks.
    pub(super) fn remove(&self, body: Uuid, blobs: Vec<Uuid>) {
        let now = match self.entries.lock().get_mut(&body) {
            Some(entry) => {
                entry.doomed.extend(blobs);
                Vec::new()
            }
            None => blobs,
        };
        self.remove_now(&now);
    }

    /// Blobs that lie here for readers alone are somebody's again.
    pub(super) fn spare(&self, body: Uuid, blobs: &[Uuid]) {
        if let Some(entry) = self.entries.lock().get_mut(&body) {
            entry.doomed.retain(|doomed| !blobs.contains(doomed));
        }
    }

    fn remove_now(&self, blobs: &[Uuid]) {
        for blob in blobs {
            if let Err(error) = self.blobs.remove(*blob) {
                tracing::warn!(%blob, %error, "could not remove a blob that is not needed; the sweeper will");
            }
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let doomed = {
            let mut entries = self.pins.entries.lock();
            let Some(entry) = entries.get_mut(&self.body) else { return };
            entry.readers -= 1;
            if entry.readers > 0 {
                return;
            }
            entries.remove(&self.body).map(|entry| entry.doomed).unwrap_or_default()
        };
        self.pins.remove_now(&doomed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_read_goes_with_its_last_reader() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path().to_owned()).unwrap();
        let (body, blob) = (Uuid::from_u128(1), Uuid::from_u128(2));
        std::fs::write(blobs.path(blob), b"x").unwrap();
        let pins = Pins::new(blobs.clone());
        let (first, second) = (pins.pin(body), pins.pin(body));
        pins.remove(body, vec![blob]);
        drop(first);
        assert!(blobs.path(blob).exists());
        drop(second);
        assert!(!blobs.path(blob).exists() && !pins.is_pinned(body));
        std::fs::write(blobs.path(blob), b"x").unwrap();
        pins.remove(body, vec![blob]);
        assert!(!blobs.path(blob).exists());
        std::fs::write(blobs.path(blob), b"x").unwrap();
        let reader = pins.pin(body);
        pins.remove(body, vec![blob]);
        pins.spare(body, &[blob]);
        drop(reader);
        assert!(blobs.path(blob).exists(), "it came back meanwhile");
    }
}
