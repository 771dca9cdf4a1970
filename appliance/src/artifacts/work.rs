//! Carrying a plan out: rows that go with it, its record, the blobs that nobody refers to afterwards.

use backlot_journal::Class;
use uuid::Uuid;

use super::cold::ColdRun;
use super::engine::{RECORD_SLACK_BYTES, file, records};
use super::error::ArtifactError;
use super::model::{Body, Extent, ObjectRow, Place};
use super::record::{Change, Dropped};
use super::state::{Delta, State};
use super::versions::plan::Plan;
use super::{Artifacts, KeyLock};

/// A plan, and what else belongs to its commit.
pub(super) struct Work {
    pub(super) plan: Plan,
    /// Records that come before it.
    pub(super) before: Vec<Change>,
    pub(super) uploads_ended: u64,
    pub(super) garbage: Garbage,
}

impl Work {
    pub(super) fn of(plan: Plan) -> Self {
        Self { plan, before: Vec::new(), uploads_ended: 0, garbage: Garbage::default() }
    }
}

/// Rows and blobs that go when an object goes.
#[derive(Default)]
pub(super) struct Leftover {
    pub(super) dropped: Vec<Dropped>,
    /// What the cold tier has of it.
    pub(super) loose: Vec<ColdRun>,
    pub(super) garbage: Garbage,
}

/// Blobs that no row refers to once a change is applied.
#[derive(Default)]
pub(super) struct Garbage {
    pub(super) files: Vec<Uuid>,
    /// The blobs of a body that may be being read.
    pub(super) body: Option<(Uuid, Vec<Uuid>)>,
}

impl Artifacts {
    /// Does what was planned, under the key's `lock`. `kept` is called when the records are certain to be written.
    pub(super) async fn carry_out<T: Send + 'static>(
        &self,
        lock: KeyLock,
        class: Class,
        work: Work,
        kept: impl FnOnce() -> T,
    ) -> Result<T, ArtifactError> {
        let Work { plan, before, uploads_ended, mut garbage } = work;
        let Plan { mut change, came, went, removed } = plan;
        if let Some(row) = removed {
            let leftover = self.leftover(&row)?;
            change.dropped.extend(leftover.dropped);
            change.loose.extend(leftover.loose);
            garbage.files.extend(leftover.garbage.files);
            garbage.body = leftover.garbage.body;
        }
        let bucket = change.bucket.clone();
        let mut changes = before;
        changes.push(Change::Key(Box::new(change)));
        let mut room = RECORD_SLACK_BYTES; // for the counts, which are not known yet
        for change in &changes {
            room += change.record().map_err(ArtifactError::fault("write a record"))?.payload.len();
        }
        let is_loose = matches!(changes.last(), Some(Change::Key(change)) if !change.loose.is_empty());
        let decide = |state: &mut State| {
            let after = state.count(&bucket, &Delta { came: &came, went: &went, uploads_ended, ..Delta::default() })?;
            if let Some(Change::Key(change)) = changes.last_mut() {
                change.after = after;
            }
            Ok((records(&changes)?, kept()))
        };
        let artifacts = self.clone();
        let then = move || {
            artifacts.remove(garbage);
            if is_loose {
                artifacts.0.cold.clean_soon();
            }
        };
        self.commit(Some(lock), room, class, decide, then).await
    }

    /// What goes when `row` goes. Call it under the key's lock.
    pub(super) fn leftover(&self, row: &ObjectRow) -> Result<Leftover, ArtifactError> {
        let mut leftover = Leftover::default();
        match &row.body {
            Body::One(Extent { place: Place::File(file), .. }) => leftover.garbage.files.push(*file),
            Body::One(Extent { place: Place::Cold(blob, copy), .. }) => {
                leftover.loose.push(ColdRun { body: *blob, copy: *copy, blobs: vec![*blob] });
            }
            Body::Parts(body) => {
                let chunks = self.chunks(*body)?;
                let firsts = chunks.iter().map(|(first, _)| *first).collect();
                leftover.dropped.push(Dropped::Chunks { body: *body, firsts });
                let parts: Vec<_> = chunks.into_iter().flat_map(|(_, chunk)| chunk.parts).collect();
                leftover.loose.extend(ColdRun::of_parts(*body, parts.iter().map(|part| &part.extent)));
                // The manifest has the id of the upload.
                let blobs = parts.iter().filter_map(|part| file(&part.extent)).chain([*body]).collect();
                leftover.garbage.body = Some((*body, blobs));
            }
            // Packed bytes stay where they are until their pack is compacted.
            Body::One(Extent { place: Place::Pack(..), .. }) => {}
        }
        Ok(leftover)
    }

    /// Removes blobs that no row refers to any more. Blocks.
    pub(super) fn remove(&self, garbage: Garbage) {
        for blob in garbage.files {
            if let Err(error) = self.0.stores.blobs.remove(blob) {
                tracing::warn!(%blob, %error, "could not remove a blob that is not needed; the sweeper will");
            }
        }
        if let Some((body, blobs)) = garbage.body {
            self.0.pins.remove(body, blobs);
        }
    }
}
