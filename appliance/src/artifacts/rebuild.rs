//! The store from nothing but its blobs and packs: for the day on which journal, catalogue and snapshot are gone.
//!
//! Each run of bytes says in its header whose it is; an object of parts has a manifest. The versions that are found are put again in the order of their
//! ids, through the same plans and records as any put, into an empty store.
//!
//! What headers cannot know: what was deleted and still lies in a pack or waited for the sweeper comes back; delete markers, tags, locks set later,
//! settings of buckets, empty buckets and uploads that were not completed are lost. What is in the cold tier is found where that is configured; its
//! class is what the other S3 says, and what nothing refers to there is counted and left. Puts of one key within a millisecond may be in another order.

mod there;

use std::collections::BTreeSet;

use backlot_journal::Class;
use serde::Serialize;
use uuid::Uuid;

use super::Artifacts;
use super::blobs::{Blobs, blocking};
use super::checksums::crc64;
use super::error::ArtifactError;
use super::label::{Found, What};
use super::manifest;
use super::model::{Body, CompletedPart, ETag, Extent, ObjectRow, Place, Tier, Versioning};
use super::multipart::chunk;
use super::record::Change;
use super::seal::plain_bytes;
use super::work::Work;
use there::There;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Recovered {
    pub buckets: usize,
    pub versions: u64,
    pub bytes: u64,
    /// Files and entries whose header cannot be read or makes no sense.
    pub unreadable: u64,
    /// Objects of parts that lack a part.
    pub incomplete: u64,
    /// Parts of uploads that were not completed.
    pub loose_parts: u64,
    /// Versions with bytes in the cold tier, and blobs there that are no version's.
    pub cold: u64,
    pub cold_unused: u64,
}

/// What a candidate turned out to be; not `whole` where a part of it is missing.
struct Adopted {
    bucket: String,
    key: String,
    whole: Option<(ObjectRow, Vec<CompletedPart>)>,
}

/// Where a version was found.
struct Candidate {
    version: Uuid,
    bucket: String,
    place: Place,
    is_manifest: bool,
}

/// Fills an empty store from what lies in its folders.
///
/// # Errors
/// The folders cannot be read; a change is not taken.
pub async fn from_blobs(artifacts: &Artifacts) -> Result<Recovered, ArtifactError> {
    let mut recovered = Recovered::default();
    let there = There::list(artifacts).await?;
    let (mut candidates, versioned, parts) = scan(artifacts, &there, &mut recovered).await?;
    candidates.sort_by_key(|candidate| candidate.version);
    let mut used = Used::default();
    for candidate in candidates {
        if artifacts.bucket(&candidate.bucket).is_err() {
            match artifacts.create_bucket(&candidate.bucket, "us-east-1").await {
                Ok(()) => recovered.buckets += 1,
                Err(ArtifactError::InvalidBucketName(_) | ArtifactError::TooManyBuckets) => {
                    recovered.unreadable += 1;
                    continue;
                }
                Err(error) => return Err(error),
            }
            if versioned.contains(&candidate.bucket) {
                let keep = |row: &mut super::model::BucketRow| {
                    row.versioning = Versioning::Suspended; // so that `null` versions are met too
                    Ok(())
                };
                artifacts.set_bucket(&candidate.bucket, keep).await?;
            }
        }
        artifacts.adopt(candidate, &there, &mut used, &mut recovered).await?;
    }
    for bucket in versioned {
        if artifacts.bucket(&bucket).is_ok() {
            let enable = |row: &mut super::model::BucketRow| {
                row.versioning = Versioning::Enabled;
                Ok(())
            };
            artifacts.set_bucket(&bucket, enable).await?;
        }
    }
    recovered.loose_parts = parts.saturating_sub(used.parts);
    recovered.cold_unused = there.unused(used.cold);
    Ok(recovered)
}

/// What versions refer to.
#[derive(Default)]
struct Used {
    parts: u64,
    /// Blobs in the cold tier, manifests included.
    cold: u64,
}

/// Every version in the folders, the buckets that kept versions, and the number of parts.
async fn scan(
    artifacts: &Artifacts,
    there: &There,
    recovered: &mut Recovered,
) -> Result<(Vec<Candidate>, BTreeSet<String>, u64), ArtifactError> {
    let (mut candidates, mut versioned, mut parts) = (Vec::new(), BTreeSet::new(), 0);
    let mut take = |found: Found, place: Place| match found.label.what {
        What::Part { .. } => parts += 1,
        what => {
            if found.label.named {
                versioned.insert(found.label.bucket.clone());
            }
            let version = found.label.version.unwrap_or(found.label.id);
            let is_manifest = what == What::Manifest;
            candidates.push(Candidate { version, bucket: found.label.bucket, place, is_manifest });
        }
    };
    let failed = ArtifactError::io("read what is stored");
    for folder in 0..=u8::MAX {
        let blobs = artifacts.0.stores.blobs.clone();
        let labels = blocking(move || {
            let ids = blobs.folder(folder)?;
            ids.into_iter().map(|id| Ok((id, Blobs::read_label(&blobs.path(id))?))).collect::<std::io::Result<Vec<_>>>()
        });
        for (id, label) in labels.await.map_err(&failed)? {
            match label {
                Ok(found) => take(found, Place::File(id)),
                Err(_) => recovered.unreadable += 1,
            }
        }
    }
    for pack in artifacts.0.stores.packs.all().map_err(&failed)? {
        let packs = artifacts.0.stores.packs.clone();
        for (offset, found) in blocking(move || packs.entries(pack)).await.map_err(&failed)? {
            take(found, Place::Pack(pack, offset));
        }
    }
    for (found, place) in there.scan(artifacts, &mut recovered.unreadable).await? {
        take(found, place);
    }
    Ok((candidates, versioned, parts))
}

impl Artifacts {
    /// Puts one version again.
    async fn adopt(
        &self,
        candidate: Candidate,
        there: &There,
        used: &mut Used,
        recovered: &mut Recovered,
    ) -> Result<(), ArtifactError> {
        let adopted = match candidate.place {
            Place::Cold(..) => there.adopt(&self.0.stores.blobs, &candidate).await?,
            Place::File(_) | Place::Pack(..) => self.read_here(candidate, there).await?,
        };
        let Some(Adopted { bucket, key, whole }) = adopted else {
            recovered.unreadable += 1;
            return Ok(());
        };
        let Some((mut row, parts)) = whole else {
            recovered.incomplete += 1;
            return Ok(());
        };
        row.tags = 0; // they are gone
        let lock = self.lock(&bucket, &key).await;
        let mut held = self.held(&bucket, &key)?;
        let is_there = held.current.as_ref().is_some_and(|current| current.version == row.version);
        if is_there || self.kept(&bucket, &key, row.version)?.is_some() {
            return Ok(()); // a pack's entry that was moved and not yet removed
        }
        if row.named {
            held.versioning = Versioning::Enabled;
            held.null = None;
        }
        let before: Vec<Change> = match &row.body {
            Body::Parts(body) => chunk(*body, &parts),
            Body::One(_) => Vec::new(),
        };
        let extents: Vec<&Extent> = match &row.body {
            Body::One(extent) => vec![extent],
            Body::Parts(_) => parts.iter().map(|part| &part.extent).collect(),
        };
        let cold = extents.iter().filter(|extent| matches!(extent.place, Place::Cold(..))).count() as u64;
        let manifest = u64::from(cold > 0 && matches!(row.body, Body::Parts(_)));
        recovered.versions += 1;
        recovered.bytes += row.size;
        recovered.cold += u64::from(cold > 0);
        let plan = held.put(&bucket, &key, row, Vec::new());
        let work = Work { before, ..Work::of(plan) };
        self.carry_out(lock, Class::Growing, work, || ()).await?;
        used.parts += parts.len() as u64;
        used.cold += cold + manifest;
        Ok(())
    }

    async fn read_here(&self, candidate: Candidate, there: &There) -> Result<Option<Adopted>, ArtifactError> {
        let stores = self.0.stores.clone();
        let read = blocking(move || {
            let place = candidate.place;
            let found = match &place {
                Place::File(id) => Blobs::read_label(&stores.blobs.path(*id))?,
                Place::Pack(pack, offset) => stores.packs.label_before(*pack, *offset)?,
                Place::Cold(..) => Err("it is in the cold tier".into()),
            };
            let Ok(found) = found else { return Ok(None) };
            let (bucket, key) = (found.label.bucket.clone(), found.label.key.clone());
            if let (true, Place::File(id)) = (candidate.is_manifest, &place) {
                let read = manifest::read(&stores.blobs, *id, &found.label, found.data_bytes)?;
                return Ok(Some((bucket, key, Err(read.ok()))));
            }
            Ok(row_of(found, place).map(|row| (bucket, key, Ok(row))))
        });
        let Some((bucket, key, found)) = read.await.map_err(ArtifactError::io("read what is stored"))? else {
            return Ok(None);
        };
        let whole = match found {
            Ok(row) => Some((row, Vec::new())),
            Err(manifest) => {
                let whole = manifest.and_then(|manifest| there.whole(&self.0.stores.blobs, manifest));
                whole.map(|manifest| (manifest.row, manifest.parts))
            }
        };
        Ok(Some(Adopted { bucket, key, whole }))
    }
}

/// The row of an object in one piece.
fn row_of(found: Found, place: Place) -> Option<ObjectRow> {
    let Found { label, data_bytes, .. } = found;
    let size = if label.seal.is_some() { plain_bytes(data_bytes)? } else { data_bytes };
    Some(ObjectRow {
        version: label.version.unwrap_or(label.id),
        named: label.named,
        modified_ms: label.written_ms,
        size,
        etag: ETag { md5: label.md5, parts: label.parts },
        body: Body::One(Extent { place, size, crc: label.crc }),
        checksum: label.checksum.unwrap_or_else(|| crc64(label.crc)),
        description: label.description,
        tags: 0,
        lock: None,
        seal: label.seal,
        tier: Tier::Here,
    })
}
