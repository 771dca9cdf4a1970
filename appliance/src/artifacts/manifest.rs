//! What an object of parts is made of, written beside its parts when it is completed: for the day on which nothing is left but blobs.
//!
//! A manifest is a blob whose id is that of the upload. It comes before the journal record and goes with the object;
//! nothing but a rebuild reads it. It stays when its parts move into the cold tier, and a copy of it goes with them. Its data is CBOR: the row, and each part with its blob.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Artifacts;
use super::blobs::{Blobs, HEADER_BYTES, read_up_to};
use super::checksums::Verifier;
use super::error::ArtifactError;
use super::intake::Hold;
use super::label::{Label, What};
use super::model::{Body, CompletedPart, Description, ObjectRow, decode, encode};

/// Most bytes of a manifest: 10,000 parts with a checksum each, and the largest row.
pub(super) const MANIFEST_BYTES_MAX: u64 = 4 << 20;

/// An object of parts.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    #[serde(rename = "r")]
    pub(super) row: ObjectRow,
    #[serde(rename = "p")]
    pub(super) parts: Vec<CompletedPart>,
}

impl Artifacts {
    /// Writes the manifest of an object that is about to be completed; it is durable when this answers.
    pub(super) async fn write_manifest(
        &self,
        bucket: &str,
        key: &str,
        row: &ObjectRow,
        parts: Vec<CompletedPart>,
    ) -> Result<Hold, ArtifactError> {
        let Body::Parts(upload) = row.body else {
            return Err(ArtifactError::fault("write a manifest")("the object is in one piece".into()));
        };
        let failed = ArtifactError::write("write a manifest");
        let manifest = Manifest { row: row.clone(), parts };
        let data = encode(&manifest).map_err(ArtifactError::fault("write a manifest"))?;
        let mut writer = self.0.stores.blobs.create(upload, None, None).await.map_err(&failed)?;
        writer.push(Bytes::from(data)).await.map_err(&failed)?;
        let written = writer.written().await.map_err(&failed)?;
        let label = Label {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            what: What::Manifest,
            id: upload,
            written_ms: self.now().wall_ms,
            md5: written.digests.md5.clone(),
            parts: 0,
            crc: written.digests.crc,
            description: Description::default(),
            seal: None,
            version: Some(row.version),
            named: row.named,
            checksum: None,
        };
        written.settle(label).await.map(Hold::File).map_err(&failed)
    }
}

/// Reads the manifest in a blob.
pub(super) fn read(
    blobs: &Blobs,
    id: Uuid,
    label: &Label,
    data_bytes: u64,
) -> std::io::Result<Result<Manifest, String>> {
    if data_bytes > MANIFEST_BYTES_MAX {
        return Ok(Err(format!("a manifest of {data_bytes} bytes is none")));
    }
    let file = blobs.open_data(id)?;
    let mut data = vec![0; usize::try_from(data_bytes).unwrap_or_default()];
    if read_up_to(&file, &mut data, HEADER_BYTES)? < data.len() {
        return Ok(Err("a manifest ends early".into()));
    }
    Ok(parse(&data, label))
}

/// The manifest that is `data`.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(data: &[u8], label: &Label) -> Result<Manifest, String> {
    let mut crc = Verifier::default();
    crc.update(data);
    if crc.finish() != label.crc {
        return Err("the checksum of a manifest does not match".into());
    }
    decode(data)
}
