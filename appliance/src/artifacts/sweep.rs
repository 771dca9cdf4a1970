//! Reconciles what is on the disk with what the rows say. Idempotent, at a bounded rate, and never needed to be right.
//!
//! A blob that no row refers to is what a crash left between making bytes durable and journalling them, or between a
//! delete and the removal of its file. A pack with little life in it is compacted: its live entries are put again
//! through the current pack, under their keys' locks, and then the file goes.

use std::time::Duration;

use backlot_journal::Class;
use backlot_wire::metrics::{ARTIFACT_BYTES, ARTIFACT_NONCURRENT_BYTES, ARTIFACT_OBJECTS, ARTIFACT_QUOTA};
use opentelemetry::KeyValue;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::blobs::{Blobs, blocking};
use super::error::ArtifactError;
use super::label::{Found, Label, What};
use super::model::{Body, Extent, ObjectRow, PartChunk, PartRow, Place, decode, keys};
use super::work::Work;
use super::{Artifacts, new_id};
use crate::catalogue::Table;
use crate::telemetry::gauge;

/// Pause between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);
/// Pause between two of the 256 folders, so that a sweep leaves the disk to others.
const FOLDER_PAUSE: Duration = Duration::from_millis(50);
const GAUGES_EVERY: Duration = Duration::from_secs(10);
/// A pack is compacted when less than this share of its bytes is live.
const LIVE_SHARE_MIN: f64 = 0.5;

/// What one sweep has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    pub(super) orphans: usize,
    pub(super) packs: usize,
}

pub(super) async fn run(artifacts: Artifacts, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            swept = artifacts.sweep(FOLDER_PAUSE) => match swept {
                Ok(swept) if swept != Swept::default() => {
                    tracing::info!(orphans = swept.orphans, packs = swept.packs, "removed blobs and packs that nothing refers to");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "sweep ended early; the next one goes on"),
            },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
    }
}

pub(super) async fn gauges(artifacts: Artifacts, stop: CancellationToken) {
    let (objects, bytes) = (gauge(&ARTIFACT_OBJECTS), gauge(&ARTIFACT_BYTES));
    let quotas = gauge(&ARTIFACT_QUOTA);
    let noncurrent = gauge(&ARTIFACT_NONCURRENT_BYTES);
    loop {
        for bucket in artifacts.buckets() {
            let quota = artifacts.quota(&bucket.name).ok().and_then(|quota| quota.bytes);
            let label = [KeyValue::new("bucket", bucket.name)];
            #[allow(clippy::cast_precision_loss, reason = "a gauge is a float")]
            {
                objects.record(bucket.objects as f64, &label);
                bytes.record(bucket.bytes as f64, &label);
                if let Some(quota) = quota {
                    quotas.record(quota as f64, &label);
                }
                noncurrent.record(bucket.noncurrent_bytes as f64, &label);
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(GAUGES_EVERY) => {}
        }
    }
}

impl Artifacts {
    /// Looks at every blob and pack once.
    pub(super) async fn sweep(&self, pause: Duration) -> Result<Swept, ArtifactError> {
        let mut swept = Swept::default();
        for folder in 0..=u8::MAX {
            let artifacts = self.clone();
            let failed = ArtifactError::io("sweep blobs");
            swept.orphans += blocking(move || Ok(artifacts.sweep_folder(folder))).await.map_err(failed)??;
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        for (pack, file_bytes) in self.0.stores.packs.at_rest().map_err(ArtifactError::io("list packs"))? {
            let live = self.0.state.lock().packs.get(&pack).copied().unwrap_or_default();
            #[allow(clippy::cast_precision_loss, reason = "a share needs no last digit")]
            let share = live.bytes as f64 / file_bytes.max(1) as f64;
            if live.entries == 0 || (share < LIVE_SHARE_MIN && self.compact(pack).await?) {
                self.0.stores.packs.remove(pack).map_err(ArtifactError::io("remove a pack"))?;
                swept.packs += 1;
            }
        }
        Ok(swept)
    }

    fn sweep_folder(&self, folder: u8) -> Result<usize, ArtifactError> {
        let blobs = &self.0.stores.blobs;
        let failed = ArtifactError::io("sweep blobs");
        let mut orphans = 0;
        for id in blobs.folder(folder).map_err(&failed)? {
            // Asked before its row is looked for: what settles has its row before it stops settling.
            if blobs.is_settling(id) {
                continue;
            }
            match Blobs::read_label(&blobs.path(id)) {
                Ok(Ok(found)) => {
                    if !self.is_referred_to(&found.label, id)? {
                        blobs.remove(id).map_err(&failed)?;
                        orphans += 1;
                    }
                }
                // Its row, if any, names the object; without a label nobody can say. Kept: it may be somebody's only copy.
                Ok(Err(problem)) => tracing::error!(blob = %id, problem, "a blob has no readable header"),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(orphans)
    }

    fn is_referred_to(&self, label: &Label, id: Uuid) -> Result<bool, ArtifactError> {
        let is = |extent: &Extent| extent.place == Place::File(id);
        if label.what == What::Manifest {
            let chunks = self.catalogue().range(Table::Parts, &keys::chunks(id), &[], 1)?;
            return Ok(!chunks.is_empty() || self.0.pins.is_pinned(id));
        }
        let What::Part { upload, number } = label.what else {
            let found = self.version_at(&label.bucket, &label.key, &Place::File(id), label.version)?;
            return Ok(found.is_some());
        };
        if self.0.pins.is_pinned(upload) {
            return Ok(true); // by a reader, who removes it afterwards if it is to go
        }
        let part = self.catalogue().get(Table::Parts, &keys::part(upload, number))?;
        let part = part.map(|row| decode::<PartRow>(&row)).transpose();
        if part.map_err(ArtifactError::fault("read a part's row"))?.is_some_and(|part| is(&part.extent)) {
            return Ok(true);
        }
        // A completed object's parts are in chunks; the one with this number is the last that begins at or before it.
        let before = keys::chunk(upload, number.saturating_add(1));
        let chunk = self.catalogue().range_back(Table::Parts, &keys::chunks(upload), &before, 1)?;
        let Some((_, chunk)) = chunk.first() else { return Ok(false) };
        let chunk: PartChunk = decode(chunk).map_err(ArtifactError::fault("read an object's parts"))?;
        Ok(chunk.parts.iter().any(|part| is(&part.extent)))
    }

    /// Puts the live entries of a pack again; true when none is left in it.
    async fn compact(&self, pack: Uuid) -> Result<bool, ArtifactError> {
        let packs = self.0.stores.packs.clone();
        let entries = blocking(move || packs.entries(pack)).await.map_err(ArtifactError::io("read a pack"))?;
        for (offset, found) in entries {
            self.move_entry(pack, offset, found).await?;
        }
        Ok(!self.0.state.lock().packs.contains_key(&pack))
    }

    async fn move_entry(&self, pack: Uuid, offset: u64, found: Found) -> Result<(), ArtifactError> {
        let Label { bucket, key, version, .. } = found.label.clone();
        let here = Place::Pack(pack, offset);
        let Some(row) = self.version_at(&bucket, &key, &here, version)? else { return Ok(()) };
        let Body::One(extent) = row.body else { return Ok(()) };
        let packs = &self.0.stores.packs;
        let failed = ArtifactError::io("move an entry of a pack");
        // As it lies there, encrypted or not.
        let data = match packs.read(pack, offset, found.data_bytes, extent.crc).map_err(&failed)? {
            Ok(data) => data,
            Err(problem) => {
                tracing::error!(bucket, key, problem, "an object is damaged");
                return Ok(()); // stays where it is, and its pack with it
            }
        };
        let label = Label { id: new_id(self.now()), seal: row.seal, version: Some(row.version), ..found.label };
        let packed = packs.put(label, data).await.map_err(&failed)?;
        let lock = self.lock(&bucket, &key).await;
        let Some(current) = self.version_at(&bucket, &key, &here, version)? else { return Ok(()) };
        let place = Place::Pack(packed.pack, packed.offset);
        let moved = ObjectRow { body: Body::One(Extent { place, ..extent }), ..current.clone() };
        let plan = self.held(&bucket, &key)?.amend(&bucket, &key, &current, moved);
        self.carry_out(lock, Class::Shrinking, Work::of(plan), || packed).await?;
        Ok(())
    }
}
