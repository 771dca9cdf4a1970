//! What lies in the cold tier, for a rebuild from headers: blobs say there what they say here.

use std::collections::HashMap;

use futures::StreamExt;
use uuid::Uuid;

use super::{Adopted, Candidate, row_of};
use crate::artifacts::Artifacts;
use crate::artifacts::blobs::{Blobs, HEADER_BYTES};
use crate::artifacts::blocks::{Shape, shape};
use crate::artifacts::cold::{Fetch, Name, Remote, RemoteError};
use crate::artifacts::error::ArtifactError;
use crate::artifacts::label::{self, Found, What};
use crate::artifacts::manifest::{self, MANIFEST_BYTES_MAX, Manifest};
use crate::artifacts::model::{Body, ColdClass, Place, Tier};
use crate::artifacts::seal::stored_bytes;

/// Headers that are asked for at once.
const AT_ONCE: usize = 16;

struct Held {
    copy: u64,
    bytes: u64,
    class: ColdClass,
}

/// Everything that is there under the names that we give.
#[derive(Default)]
pub(super) struct There {
    remote: Option<Remote>,
    blobs: HashMap<Uuid, Held>,
    /// Blobs that are there more than once: a move was interrupted.
    twice: u64,
}

fn away(error: RemoteError) -> ArtifactError {
    ArtifactError::ColdAway(error.to_string())
}

impl There {
    /// Lists it; nothing where no cold tier is configured.
    pub(super) async fn list(artifacts: &Artifacts) -> Result<Self, ArtifactError> {
        let Ok(remote) = artifacts.0.cold.slot().remote() else { return Ok(Self::default()) };
        let (mut there, mut after) = (Self::default(), None);
        loop {
            let (listed, next) = remote.list(after).await.map_err(away)?;
            for blob in listed {
                let class = blob.class.unwrap_or(ColdClass::StandardIa);
                let held = Held { copy: blob.name.copy, bytes: blob.bytes, class };
                there.twice += u64::from(there.blobs.insert(blob.name.blob, held).is_some());
            }
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        there.remote = Some(remote);
        Ok(there)
    }

    /// The versions of which nothing lies here, and the number of parts.
    pub(super) async fn scan(
        &self,
        artifacts: &Artifacts,
        unreadable: &mut u64,
    ) -> Result<Vec<(Found, Place)>, ArtifactError> {
        let blobs = &artifacts.0.stores.blobs;
        let elsewhere = self.blobs.iter().filter(|(id, _)| !blobs.path(**id).exists());
        let read = |(id, held): (&Uuid, &Held)| {
            let (id, copy, bytes) = (*id, held.copy, held.bytes);
            async move { (Place::Cold(id, copy), self.header(Name { blob: id, copy }, bytes).await) }
        };
        let mut reading = futures::stream::iter(elsewhere.map(read).collect::<Vec<_>>()).buffer_unordered(AT_ONCE);
        let mut found = Vec::new();
        while let Some((place, header)) = reading.next().await {
            match header? {
                Ok(header) => found.push((header, place)),
                Err(_) => *unreadable += 1,
            }
        }
        Ok(found)
    }

    async fn header(&self, name: Name, bytes: u64) -> Result<Result<Found, String>, ArtifactError> {
        let page = self.read(name, (0, HEADER_BYTES.min(bytes)), bytes).await?;
        Ok(page.and_then(|page| label::read(&page)))
    }

    async fn read(
        &self,
        name: Name,
        (from, end): (u64, u64),
        total: u64,
    ) -> Result<Result<Vec<u8>, String>, ArtifactError> {
        let Some(remote) = self.remote.clone() else { return Ok(Err("there is no cold tier".into())) };
        let length = usize::try_from(end.saturating_sub(from)).unwrap_or_default();
        match Fetch::new(remote, name, (from, end), total).read(length).await {
            Ok(bytes) => Ok(Ok(bytes)),
            Err(error @ (RemoteError::Missing | RemoteError::Wrong(_))) => Ok(Err(error.to_string())),
            Err(error) => Err(away(error)),
        }
    }

    /// What one of [`There::scan`] is a version of.
    pub(super) async fn adopt(&self, blobs: &Blobs, candidate: &Candidate) -> Result<Option<Adopted>, ArtifactError> {
        let Place::Cold(blob, copy) = candidate.place else { return Ok(None) };
        let Some(held) = self.blobs.get(&blob) else { return Ok(None) };
        let name = Name { blob, copy };
        let Ok(found) = self.header(name, held.bytes).await? else { return Ok(None) };
        let (bucket, key) = (found.label.bucket.clone(), found.label.key.clone());
        if !candidate.is_manifest {
            let tier = Tier::Cold(held.class);
            let row = row_of(found, candidate.place.clone()).map(|row| super::ObjectRow { tier, ..row });
            return Ok(row.map(|row| Adopted { bucket, key, whole: Some((row, Vec::new())) }));
        }
        if found.label.what != What::Manifest || held.bytes > HEADER_BYTES + MANIFEST_BYTES_MAX {
            return Ok(None);
        }
        let data = self.read(name, (HEADER_BYTES, held.bytes), held.bytes).await?;
        let manifest = data.and_then(|data| manifest::parse(&data, &found.label)).ok();
        let whole = manifest.and_then(|manifest| self.whole(blobs, manifest));
        Ok(Some(Adopted { bucket, key, whole: whole.map(|manifest| (manifest.row, manifest.parts)) }))
    }

    /// A manifest with each part where its bytes are; `None` where a part is nowhere.
    pub(super) fn whole(&self, blobs: &Blobs, mut manifest: Manifest) -> Option<Manifest> {
        if !matches!(manifest.row.body, Body::Parts(_)) {
            return None;
        }
        let is_sealed = manifest.row.seal.is_some();
        for part in &mut manifest.parts {
            let (Place::File(id) | Place::Cold(id, _)) = part.extent.place else { return None };
            let stored = if is_sealed { stored_bytes(part.extent.size) } else { part.extent.size };
            let total = HEADER_BYTES + stored;
            let shape = |file: std::fs::Metadata| shape(file.len(), part.extent.size, is_sealed);
            part.extent.place =
                if std::fs::metadata(blobs.path(id)).is_ok_and(|file| !matches!(shape(file), Shape::Wrong(_))) {
                    Place::File(id)
                } else {
                    let held = self.blobs.get(&id).filter(|held| held.bytes == total)?;
                    manifest.row.tier = Tier::Cold(held.class);
                    Place::Cold(id, held.copy)
                };
        }
        Some(manifest)
    }

    /// Blobs there that no version of the new store refers to, where so many are referred to.
    pub(super) fn unused(&self, used: u64) -> u64 {
        (self.blobs.len() as u64 + self.twice).saturating_sub(used)
    }
}
