//! The header in front of each run of stored bytes: what they are, for scrubbing and for the worst day.
//!
//! 32 bytes of fixed fields, then the label as CBOR. A CRC covers both, so that a header is told from whatever else
//! may lie there after a crash.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::checksums::{Checksum, Digest};
use super::model::Description;
use super::seal_keys::Seal;

const MAGIC: [u8; 8] = *b"BACKLOT\x01";
const VERSION: u16 = 1;
/// Magic, version, spare, label bytes, data bytes, CRC-32C, spare.
pub(super) const FIXED_BYTES: usize = 32;

/// What some stored bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Label {
    #[serde(rename = "b")]
    pub(super) bucket: String,
    #[serde(rename = "k")]
    pub(super) key: String,
    #[serde(rename = "w")]
    pub(super) what: What,
    /// Of the file, or of the pack entry.
    #[serde(rename = "i")]
    pub(super) id: Uuid,
    #[serde(rename = "t")]
    pub(super) written_ms: u64,
    /// What the ETag says: of the bytes, unless they are encrypted in a way that must not tell it.
    #[serde(rename = "m")]
    pub(super) md5: Digest,
    /// The number behind it in the ETag of an object that is no upload of parts: see [`super::intake`].
    #[serde(rename = "q", default, skip_serializing_if = "is_zero")]
    pub(super) parts: u16,
    /// Of the bytes on the disk.
    #[serde(rename = "c")]
    pub(super) crc: u64,
    /// Empty for a part: its upload has it.
    #[serde(rename = "d")]
    pub(super) description: Description,
    /// The id that the object was meant to have. Its row is right where they differ: another put came in between.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<Uuid>,
    /// Whether the bucket kept versions then.
    #[serde(rename = "n", default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) named: bool,
    /// What clients are told; absent for a part.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub(super) checksum: Option<Checksum>,
    /// Of bytes that are encrypted: the wrapped key.
    #[serde(rename = "z", default, skip_serializing_if = "Option::is_none")]
    pub(super) seal: Option<Seal>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(parts: &u16) -> bool {
    *parts == 0
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    #[serde(rename = "o")]
    Object,
    #[serde(rename = "p")]
    Part { upload: Uuid, number: u16 },
    /// Of an object of parts: see [`super::manifest`].
    #[serde(rename = "m")]
    Manifest,
}

/// A label as it is found in front of `data_bytes` bytes.
pub(super) struct Found {
    pub(super) label: Label,
    pub(super) data_bytes: u64,
    /// Bytes of the fixed fields and the label, without padding.
    pub(super) header_bytes: usize,
}

/// Fixed fields and label, without padding.
///
/// # Errors
/// A sentence when serde refuses, which no type here does.
pub(super) fn write(label: &Label, data_bytes: u64) -> Result<Vec<u8>, String> {
    let mut encoded = Vec::new();
    ciborium::into_writer(label, &mut encoded).map_err(|error| error.to_string())?;
    sealed(&encoded, data_bytes)
}

/// An encoded label behind its fixed fields.
pub(super) fn sealed(encoded: &[u8], data_bytes: u64) -> Result<Vec<u8>, String> {
    let label_bytes = u32::try_from(encoded.len()).map_err(|error| error.to_string())?;
    let mut header = [&[0; FIXED_BYTES], encoded].concat();
    header[..8].copy_from_slice(&MAGIC);
    header[8..10].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&label_bytes.to_le_bytes());
    header[16..24].copy_from_slice(&data_bytes.to_le_bytes());
    let crc = crc32c::crc32c(&header);
    header[24..28].copy_from_slice(&crc.to_le_bytes());
    Ok(header)
}

/// Reads the header at the beginning of `bytes`.
///
/// # Errors
/// A sentence when there is none, or it is not whole.
pub(super) fn read(bytes: &[u8]) -> Result<Found, String> {
    let fixed: &[u8; FIXED_BYTES] = bytes.first_chunk().ok_or("shorter than a header")?;
    if fixed[..8] != MAGIC {
        return Err("no header".into());
    }
    let number =
        |range: std::ops::Range<usize>| fixed[range].iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    if number(8..10) != u64::from(VERSION) {
        return Err(format!("header version {} is not known", number(8..10)));
    }
    let header_bytes = usize::try_from(number(12..16)).map_err(|error| error.to_string())? + FIXED_BYTES;
    let mut header = bytes.get(..header_bytes).ok_or("header is cut short")?.to_vec();
    header[24..28].fill(0);
    if u64::from(crc32c::crc32c(&header)) != number(24..28) {
        return Err("header is damaged".into());
    }
    let label = ciborium::from_reader(&header[FIXED_BYTES..]).map_err(|error| error.to_string())?;
    Ok(Found { label, data_bytes: number(16..24), header_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn label() -> Label {
        Label {
            bucket: "studio".into(),
            key: "../../etc/passwd\0".into(),
            what: What::Part { upload: Uuid::from_u128(3), number: 10_000 },
            id: Uuid::from_u128(9),
            written_ms: 5,
            md5: Digest(vec![1; 16]),
            parts: 0,
            crc: 77,
            description: Description::default(),
            version: Some(Uuid::from_u128(4)),
            named: true,
            checksum: None,
            seal: None,
        }
    }

    #[test]
    fn a_label_is_read_back_and_any_flipped_bit_of_it_is_noticed() {
        let header = write(&label(), 12).unwrap();
        let found = read(&header).unwrap();
        assert_eq!((found.label, found.data_bytes, found.header_bytes), (label(), 12, header.len()));
        for byte in 0..header.len() {
            let mut flipped = header.clone();
            flipped[byte] ^= 0x10;
            assert!(read(&flipped).is_err(), "byte {byte}");
        }
        for length in 0..header.len() {
            assert!(read(&header[..length]).is_err());
        }
    }
}
