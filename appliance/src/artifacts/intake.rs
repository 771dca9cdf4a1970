//! Taking bytes in: received, verified, made durable, and not yet anybody's.
//!
//! A body streams through bounded buffers; what is small stays in memory until it goes into a pack, what is larger goes into a
//! blob at once. Until a row refers to the bytes, dropping them removes them.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use uuid::Uuid;

use super::blobs::{Blobs, Settling, Written};
use super::checksums::{Algorithm, Checksum, Digest, Digests, Hasher};
use super::error::ArtifactError;
use super::label::{Label, What};
use super::model::{Description, Extent, Place};
use super::packs::Packed;
use super::{Artifacts, new_id};

/// What the caller says the bytes must be.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    pub md5: Option<Digest>,
    pub checksum: Option<(Algorithm, Digest)>,
    pub size: Option<u64>,
}

impl Expected {
    pub(super) fn verify(&self, digests: &Digests) -> Result<(), ArtifactError> {
        if self.size.is_some_and(|size| size != digests.size) {
            return Err(ArtifactError::IncompleteBody);
        }
        if self.md5.as_ref().is_some_and(|md5| *md5 != digests.md5) {
            return Err(ArtifactError::BadDigest("Content-MD5"));
        }
        match &self.checksum {
            Some((algorithm, value)) if digests.value(*algorithm).as_ref() != Some(value) => {
                Err(ArtifactError::BadDigest(algorithm.name()))
            }
            _ => Ok(()),
        }
    }
}

/// Bytes that have arrived and are not durable yet. Dropped, they leave nothing.
pub struct Received {
    bytes: Arrived,
    digests: Digests,
}

enum Arrived {
    Small(Bytes),
    Large(Box<Written>),
}

impl Received {
    #[must_use]
    pub fn size(&self) -> u64 {
        self.digests.size
    }

    /// The checksum that was asked for, else S3's default.
    pub(super) fn checksum(&self) -> Checksum {
        self.digests.checksum()
    }

    pub(super) fn digests(&self) -> &Digests {
        &self.digests
    }
}

/// Durable bytes that no row refers to yet. Dropped before [`Settled::keep`], they are removed.
pub(super) struct Settled {
    pub(super) extent: Extent,
    blobs: Blobs,
    hold: Option<Hold>,
}

/// Keeps sweeper and compaction away until the row is there.
#[allow(dead_code, reason = "held for their drop")]
pub(super) enum Hold {
    File(Settling),
    Pack(Packed),
}

impl Settled {
    /// From here on the row decides.
    pub(super) fn keep(mut self) -> Option<Hold> {
        self.hold.take()
    }
}

impl Drop for Settled {
    fn drop(&mut self) {
        if let Some(Hold::File(file)) = &self.hold
            && let Err(error) = self.blobs.remove(file.id)
        {
            tracing::warn!(%error, "could not remove a blob that was not wanted; the sweeper will");
        }
    }
}

impl Artifacts {
    /// Takes a body in: a small one into memory, a large one into a blob. Nothing is durable or visible yet.
    ///
    /// `extra` is the checksum that the client wants beside MD5; a body over `bytes_max` is refused as soon as that is known.
    ///
    /// # Errors
    /// What the body fails with; [`ArtifactError::EntityTooLarge`]; a disk that does not take it.
    pub async fn receive(
        &self,
        mut body: impl Stream<Item = Result<Bytes, ArtifactError>> + Send + Unpin,
        extra: Option<Algorithm>,
        bytes_max: u64,
    ) -> Result<Received, ArtifactError> {
        let small_max = self.0.config.small_object_bytes_max;
        let mut small = BytesMut::new();
        let mut first = None;
        while let Some(bytes) = body.next().await {
            let bytes = bytes?;
            if (small.len() + bytes.len()) as u64 > bytes_max {
                return Err(ArtifactError::EntityTooLarge { max: bytes_max });
            }
            if small.len() + bytes.len() > small_max {
                first = Some(bytes);
                break;
            }
            small.extend_from_slice(&bytes);
        }
        let Some(first) = first else {
            let mut hasher = Hasher::new(extra);
            hasher.update(&small);
            return Ok(Received { bytes: Arrived::Small(small.freeze()), digests: hasher.finish() });
        };
        let failed = ArtifactError::io("write a blob");
        let mut writer = self.0.stores.blobs.create(new_id(self.now()), extra).await.map_err(&failed)?;
        let mut size = (small.len() + first.len()) as u64;
        writer.push(small.freeze()).await.map_err(&failed)?;
        writer.push(first).await.map_err(&failed)?;
        while let Some(bytes) = body.next().await {
            let bytes = bytes?;
            size += bytes.len() as u64;
            if size > bytes_max {
                return Err(ArtifactError::EntityTooLarge { max: bytes_max });
            }
            writer.push(bytes).await.map_err(&failed)?;
        }
        let written = writer.written().await.map_err(&failed)?;
        Ok(Received { digests: written.digests.clone(), bytes: Arrived::Large(Box::new(written)) })
    }

    /// Makes received bytes durable. A part always becomes a file, as its object is put together from files. `version` is the id
    /// that the object will have unless another put of its key comes in between.
    pub(super) async fn settle(
        &self,
        received: Received,
        bucket: &str,
        key: &str,
        what: What,
        description: &Description,
        version: Option<Uuid>,
    ) -> Result<Settled, ArtifactError> {
        let failed = ArtifactError::io("make a blob durable");
        let Received { bytes, digests } = received;
        let now = self.now();
        let label = |id| Label {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            what: what.clone(),
            id,
            written_ms: now.wall_ms,
            md5: digests.md5.clone(),
            crc: digests.crc,
            description: description.clone(),
            version,
        };
        let (place, hold) = match bytes {
            Arrived::Small(data) if what == What::Object => {
                let packed = self.0.stores.packs.put(label(new_id(now)), data).await.map_err(&failed)?;
                (Place::Pack(packed.pack, packed.offset), Hold::Pack(packed))
            }
            Arrived::Small(data) => {
                let mut writer = self.0.stores.blobs.create(new_id(now), None).await.map_err(&failed)?;
                writer.push(data).await.map_err(&failed)?;
                let written = writer.written().await.map_err(&failed)?;
                let label = label(written.id());
                let settling = written.settle(label).await.map_err(&failed)?;
                (Place::File(settling.id), Hold::File(settling))
            }
            Arrived::Large(written) => {
                let label = label(written.id());
                let settling = written.settle(label).await.map_err(&failed)?;
                (Place::File(settling.id), Hold::File(settling))
            }
        };
        let extent = Extent { place, size: digests.size, crc: digests.crc };
        Ok(Settled { extent, blobs: self.0.stores.blobs.clone(), hold: Some(hold) })
    }
}
