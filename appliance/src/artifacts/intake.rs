//! Taking bytes in: received, verified, made durable, and not yet anybody's.
//!
//! A body streams through bounded buffers; what is small stays in memory until it goes into a pack, what is larger goes into a
//! blob at once. Until a row refers to the bytes, dropping them removes them.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use uuid::Uuid;

use super::blobs::{Blobs, Settling, Written};
use super::checksums::{Algorithm, Checksum, Digest, Digests, Hasher, Sums, Verifier};
use super::error::ArtifactError;
use super::label::{Label, What};
use super::model::{Description, ETag, Extent, Place, Versioning};
use super::packs::Packed;
use super::seal::{RunKey, Sealing};
use super::seal_keys::{Seal, Sealer};
use super::{Artifacts, new_id};
use crate::config::EtagKind;
use crate::master::random;

/// Smaller objects have their MD5 whatever the configuration says: it takes little time.
const QUICK_FROM_BYTES: u64 = 8 << 20;

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

/// Whose bytes are taken in, where they are encrypted. A part has a key of its own, which belongs to its blob.
#[derive(Clone)]
pub enum Taking {
    Plain,
    Object(Sealer),
    Part(Sealer),
}

impl Taking {
    /// An object's bytes.
    #[must_use]
    pub fn object(sealer: Option<Sealer>) -> Self {
        sealer.map_or(Self::Plain, Self::Object)
    }

    /// A part's bytes.
    #[must_use]
    pub fn part(sealer: Option<Sealer>) -> Self {
        sealer.map_or(Self::Plain, Self::Part)
    }

    fn sealer(&self) -> Option<&Sealer> {
        match self {
            Self::Plain => None,
            Self::Object(sealer) | Self::Part(sealer) => Some(sealer),
        }
    }

    /// The key of a blob.
    fn run(&self, blob: Uuid) -> Result<Option<RunKey>, ArtifactError> {
        match self {
            Self::Plain => Ok(None),
            Self::Object(sealer) => sealer.key.run(None).map(Some),
            Self::Part(sealer) => sealer.key.run(Some(blob)).map(Some),
        }
    }
}

/// Bytes that have arrived and are not durable yet. Dropped, they leave nothing.
pub struct Received {
    bytes: Arrived,
    digests: Digests,
    taking: Taking,
    etag: ETag,
}

enum Arrived {
    Small(Bytes),
    Large(Box<Written>),
}

impl Received {
    fn new(bytes: Arrived, digests: Digests, taking: Taking) -> Result<Self, ArtifactError> {
        let hides = taking.sealer().is_some_and(|sealer| !sealer.seal.shows_md5());
        let quick = digests.md5.0.is_empty();
        let md5 = if hides || quick {
            let random = random::<16>().map_err(|error| ArtifactError::fault("make an ETag")(error.to_string()))?;
            Digest(random.to_vec())
        } else {
            digests.md5.clone()
        };
        // As that of an upload in one part, so that no client takes it for the MD5 of what it has sent.
        let etag = ETag { md5, parts: u16::from(quick && !hides) };
        Ok(Self { bytes, digests, taking, etag })
    }

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

    /// How the bytes are encrypted, for their row.
    pub(super) fn seal(&self) -> Option<Seal> {
        self.taking.sealer().map(|sealer| sealer.seal.clone())
    }

    /// The MD5 of the bytes, or something random where that would tell too much or take too long.
    pub(super) fn etag(&self) -> &ETag {
        &self.etag
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
    /// `sums` are what the client wants; a small body has its MD5 whatever they say. A body over `bytes_max` is refused as soon as that is known. What goes to
    /// the disk is encrypted as `taking` says.
    ///
    /// # Errors
    /// What the body fails with; [`ArtifactError::EntityTooLarge`]; a disk that does not take it.
    pub async fn receive(
        &self,
        mut body: impl Stream<Item = Result<Bytes, ArtifactError>> + Send + Unpin,
        sums: impl Into<Sums>,
        bytes_max: u64,
        taking: Taking,
    ) -> Result<Received, ArtifactError> {
        let sums = sums.into();
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
            let mut hasher = Hasher::new(sums.extra);
            hasher.update(&small);
            return Received::new(Arrived::Small(small.freeze()), hasher.finish(), taking);
        };
        let failed = ArtifactError::write("write a blob");
        let id = new_id(self.now());
        let mut writer = self.0.stores.blobs.create(id, sums, taking.run(id)?).await.map_err(&failed)?;
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
        let digests = written.digests.clone();
        Received::new(Arrived::Large(Box::new(written)), digests, taking)
    }

    /// What is computed of an object that is put: its MD5 too, unless the configuration spares it, it is large, and nobody asks.
    #[must_use]
    pub fn sums(&self, extra: Option<Algorithm>, expected: &Expected) -> Sums {
        sums(self.0.config.etag, extra, expected)
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
        let failed = ArtifactError::write("make a blob durable");
        let Received { bytes, digests, taking, etag } = received;
        let now = self.now();
        let named = version.is_some() && self.versioning(bucket)? == Versioning::Enabled;
        let checksum = version.map(|_| digests.checksum());
        let label = |id, crc| Label {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            what: what.clone(),
            id,
            written_ms: now.wall_ms,
            md5: etag.md5.clone(),
            parts: etag.parts,
            crc,
            // Who may read it can change; what is read back from headers is private.
            description: Description { acl: None, ..description.clone() },
            version,
            named,
            checksum: checksum.clone(),
            seal: taking.sealer().map(|sealer| sealer.seal.clone()),
        };
        let size = digests.size;
        let written = match bytes {
            Arrived::Small(data) if what == What::Object => {
                let id = new_id(now);
                let (data, crc) = match taking.run(id)? {
                    Some(key) => sealed(key, &data).map_err(&failed)?,
                    None => (data, digests.crc),
                };
                let packed = self.0.stores.packs.put(label(id, crc), data).await.map_err(&failed)?;
                let extent = Extent { place: Place::Pack(packed.pack, packed.offset), size, crc };
                let blobs = self.0.stores.blobs.clone();
                return Ok(Settled { extent, blobs, hold: Some(Hold::Pack(packed)) });
            }
            Arrived::Small(data) => {
                let id = new_id(now);
                let mut writer = self.0.stores.blobs.create(id, None, taking.run(id)?).await.map_err(&failed)?;
                writer.push(data).await.map_err(&failed)?;
                writer.written().await.map_err(&failed)?
            }
            Arrived::Large(written) => *written,
        };
        let crc = written.stored_crc;
        let label = label(written.id(), crc);
        let settling = written.settle(label).await.map_err(&failed)?;
        let extent = Extent { place: Place::File(settling.id), size, crc };
        Ok(Settled { extent, blobs: self.0.stores.blobs.clone(), hold: Some(Hold::File(settling)) })
    }
}

/// All of a small object, encrypted, and its checksum.
fn sealed(key: RunKey, data: &[u8]) -> std::io::Result<(Bytes, u64)> {
    let mut sealing = Sealing::new(key);
    let mut stored = BytesMut::new();
    let mut write = |chunk: &[u8]| {
        stored.extend_from_slice(chunk);
        Ok(())
    };
    sealing.push(data, &mut write)?;
    sealing.finish(&mut write)?;
    let mut crc = Verifier::default();
    crc.update(&stored);
    Ok((stored.freeze(), crc.finish()))
}

/// As [`Artifacts::sums`], where the configuration says `kind`.
pub(super) fn sums(kind: EtagKind, extra: Option<Algorithm>, expected: &Expected) -> Sums {
    let is_large = expected.size.is_some_and(|bytes| bytes >= QUICK_FROM_BYTES);
    let spared = kind == EtagKind::Quick && is_large && expected.md5.is_none();
    Sums { extra, md5: !spared }
}
