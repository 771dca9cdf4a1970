//! What the store knows of buckets, objects, uploads and parts: plain data, parsed once.
//!
//! Rows are CBOR with one-letter names behind a version byte, and stay under the catalogue's 4 KiB: that is why
//! user metadata and content headers have limits here, and why the parts of one object are spread over rows.

mod bucket;
pub(super) mod keys;
mod range;
mod tier;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

pub use bucket::Versioning;
pub(super) use bucket::{BucketRow, Counts};
pub use range::RangeAsked;
pub use tier::{ColdClass, Tier};

use super::access::Acl;
use super::checksums::{Checksum, Digest};
use super::error::ArtifactError;
use super::lock::Lock;
use super::seal_keys::Seal;

/// Longest key, in bytes of UTF-8 (S3).
pub(super) const KEY_BYTES_MAX: usize = 1024;
/// Most bytes of all user metadata, names and values (S3).
pub(super) const METADATA_BYTES_MAX: usize = 2048;
/// Most pairs of user metadata; a request has fewer headers than this.
pub(super) const METADATA_PAIRS_MAX: usize = 128;
/// Most bytes of all content headers together; the row must fit into the catalogue.
pub(super) const CONTENT_HEADERS_BYTES_MAX: usize = 1024;
/// Largest single put and largest part (S3).
pub(super) const PUT_BYTES_MAX: u64 = 5 << 30;
/// Smallest part except the last (S3).
pub(super) const PART_BYTES_MIN: u64 = 5 << 20;
/// Largest object (S3).
pub(super) const OBJECT_BYTES_MAX: u64 = 5 << 40;
/// Highest part number (S3).
pub(super) const PARTS_MAX: u16 = 10_000;
/// Most buckets. Each is held in memory.
pub(super) const BUCKETS_MAX: usize = 1000;

/// Version byte of rows and of journal records.
const FORMAT: u8 = 1;

/// `value` behind its version byte.
///
/// # Errors
/// A sentence when serde refuses, which no type here does.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let mut bytes = vec![FORMAT];
    ciborium::into_writer(value, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// A sentence when the bytes are of another version or are damaged.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => ciborium::from_reader(rest).map_err(|error| error.to_string()),
        Some((version, _)) => Err(format!("version {version} of an artifact row is not known")),
        None => Err("empty artifact row".into()),
    }
}

/// Whether `name` may be a bucket's: labels of `a-z0-9-` with dots between, 3–63 bytes in all, no address.
pub(super) fn check_bucket_name(name: &str) -> Result<(), ArtifactError> {
    if s3s::path::check_bucket_name(name) && !name.contains(".-") && !name.contains("-.") {
        return Ok(());
    }
    Err(ArtifactError::InvalidBucketName(name.to_owned()))
}

/// Any UTF-8 of 1 to 1,024 bytes is a key: keys never become file names.
pub(super) fn check_key(key: &str) -> Result<(), ArtifactError> {
    match key.len() {
        0 => Err(ArtifactError::InvalidArgument("a key has at least one byte".into())),
        1..=KEY_BYTES_MAX => Ok(()),
        _ => Err(ArtifactError::KeyTooLong),
    }
}

/// An entity tag: MD5 of the bytes, or MD5 of the parts' MD5s and their number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ETag {
    #[serde(rename = "m")]
    pub md5: Digest,
    /// 0 for an object that was put in one piece.
    #[serde(rename = "n", default, skip_serializing_if = "is_zero")]
    pub parts: u16,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(parts: &u16) -> bool {
    *parts == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

impl std::fmt::Display for ETag {
    /// Without quotes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.md5.0))?;
        if self.parts > 0 {
            write!(f, "-{}", self.parts)?;
        }
        Ok(())
    }
}

/// Headers that are kept with an object and given back with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentHeaders {
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub disposition: Option<String>,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<String>,
    /// As the client wrote it, an HTTP date.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Where a website sends who asks for the object: a path, or an address.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<String>,
}

/// User metadata (`x-amz-meta-…` without the prefix), in the order of the names.
pub(super) type Metadata = Vec<(String, String)>;

/// What a client says about an object beside its bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    #[serde(rename = "h", default)]
    pub headers: ContentHeaders,
    #[serde(rename = "m", default, skip_serializing_if = "Vec::is_empty")]
    pub metadata: Metadata,
    /// Who beside the owner may do what; nobody anything where there is none. A blob's header leaves it out.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub acl: Option<Acl>,
}

/// Bytes of a list in a row.
fn acl_bytes(acl: &Acl) -> usize {
    encode(acl).map_or(usize::MAX / 2, |bytes| bytes.len() + 2)
}

impl Description {
    /// # Errors
    /// [`ArtifactError::MetadataTooLarge`] over the limits of this module.
    pub fn check(&self) -> Result<(), ArtifactError> {
        let metadata: usize = self.metadata.iter().map(|(name, value)| name.len() + value.len()).sum();
        let headers = &self.headers;
        let fields = [
            &headers.content_type,
            &headers.disposition,
            &headers.encoding,
            &headers.language,
            &headers.cache_control,
            &headers.expires,
            &headers.redirect,
        ];
        let content: usize = fields.into_iter().flatten().map(String::len).sum();
        // A list takes its room from theirs: few objects have both at their longest.
        let content = content + self.acl.as_ref().map_or(0, acl_bytes);
        let pairs = self.metadata.len();
        if metadata > METADATA_BYTES_MAX || pairs > METADATA_PAIRS_MAX || content > CONTENT_HEADERS_BYTES_MAX {
            return Err(ArtifactError::MetadataTooLarge);
        }
        Ok(())
    }
}

/// Where a run of bytes lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// A file of its own.
    #[serde(rename = "f")]
    File(Uuid),
    /// In a pack, the data beginning at this byte.
    #[serde(rename = "p")]
    Pack(Uuid, u64),
    /// In the cold tier: the blob with this id, as it was here, under a name that no other move of it has had.
    #[serde(rename = "c")]
    Cold(Uuid, u64),
}

/// A run of bytes with the checksum that reading it verifies. Its size is that of what was put, encrypted or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    #[serde(rename = "p")]
    pub place: Place,
    #[serde(rename = "s")]
    pub size: u64,
    /// CRC-64/NVME of the bytes as they are on the disk.
    #[serde(rename = "c")]
    pub crc: u64,
}

/// The bytes of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    #[serde(rename = "o")]
    One(Extent),
    /// The parts of the completed upload with this id, in rows of [`PartChunk`].
    #[serde(rename = "u")]
    Parts(Uuid),
}

/// An object's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRow {
    /// Each put has its own, whether the bucket keeps versions or not.
    #[serde(rename = "v")]
    pub version: Uuid,
    /// Whether clients are told the version's id. If not, it is the key's `null` version.
    #[serde(rename = "i", default, skip_serializing_if = "is_false")]
    pub named: bool,
    #[serde(rename = "t")]
    pub modified_ms: u64,
    #[serde(rename = "s")]
    pub size: u64,
    #[serde(rename = "e")]
    pub etag: ETag,
    #[serde(rename = "b")]
    pub body: Body,
    #[serde(rename = "c")]
    pub checksum: Checksum,
    #[serde(rename = "d")]
    pub description: Description,
    /// How many tags it has; they are in rows of their own.
    #[serde(rename = "g", default, skip_serializing_if = "is_zero")]
    pub tags: u16,
    /// Boxed: few objects have one.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Box<Lock>>,
    /// Of an object that is encrypted.
    #[serde(rename = "z", default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
    #[serde(rename = "k", default, skip_serializing_if = "Tier::is_here")]
    pub tier: Tier,
}

/// One part of a completed object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CompletedPart {
    #[serde(rename = "n")]
    pub number: u16,
    #[serde(rename = "x")]
    pub extent: Extent,
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
}

/// Consecutive parts of a completed object, as many as fit into one row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartChunk {
    /// Byte of the object at which the first of them begins.
    #[serde(rename = "o")]
    pub offset: u64,
    #[serde(rename = "p")]
    pub parts: Vec<CompletedPart>,
}

/// Parts in one [`PartChunk`]: 24 of at most 130 bytes each.
pub(super) const PARTS_PER_CHUNK: usize = 24;

/// How much of a pack is still an object's. Absolute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PackRow {
    #[serde(rename = "e")]
    pub entries: u64,
    #[serde(rename = "b")]
    pub bytes: u64,
}

/// A multipart upload that is neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRow {
    #[serde(rename = "t")]
    pub initiated_ms: u64,
    #[serde(rename = "d")]
    pub description: Description,
    /// What the client asked for when it began.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<super::checksums::Algorithm>,
    /// Whether the object's checksum is of its bytes, and not of its parts' checksums.
    #[serde(rename = "f", default)]
    pub full_object: bool,
    /// What the object is to be locked with.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<Box<Lock>>,
    /// Of an upload whose parts are encrypted.
    #[serde(rename = "z", default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
}

/// One part of an upload in progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRow {
    #[serde(rename = "t")]
    pub modified_ms: u64,
    #[serde(rename = "m")]
    pub md5: Digest,
    #[serde(rename = "x")]
    pub extent: Extent,
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<Checksum>,
}

/// Bytes that CBOR keeps as bytes, and not as a list of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Visitor)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Bytes::deserialize(deserializer).map(|bytes| Self(bytes.0))
    }
}

#[cfg(test)]
impl ObjectRow {
    /// Some row, of which a test changes what it is about.
    pub(super) fn sample() -> Self {
        Self {
            version: Uuid::nil(),
            named: false,
            modified_ms: 0,
            size: 0,
            etag: ETag { md5: Digest(vec![1; 16]), parts: 0 },
            body: Body::Parts(Uuid::nil()),
            checksum: super::checksums::crc64(0),
            description: Description::default(),
            tags: 0,
            lock: None,
            seal: None,
            tier: Tier::Here,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::access::{Grantee, Permissions};
    use crate::artifacts::checksums::Algorithm;
    use crate::catalogue::VALUE_BYTES_MAX;
    use crate::identity::Account;

    fn longest_checksum() -> Checksum {
        Checksum { algorithm: Algorithm::Sha256, parts: u16::MAX, value: Digest(vec![0xff; 32]) }
    }

    /// As long as an object's list may be.
    fn longest_acl() -> Acl {
        let (mut acl, mut longer) = (Acl::default(), Acl::default());
        for n in 10.. {
            let account = Account::parse(&format!("{n}{}", "a".repeat(30))).unwrap();
            longer.grant(Grantee::Account(account), Permissions::FULL).unwrap();
            if acl_bytes(&longer) > CONTENT_HEADERS_BYTES_MAX {
                break;
            }
            acl = longer.clone();
        }
        let description = Description { acl: Some(longer), ..Description::default() };
        assert!(matches!(description.check(), Err(ArtifactError::MetadataTooLarge)));
        assert!(acl.grants().len() > 20);
        acl
    }

    #[test]
    fn the_largest_rows_fit_into_the_catalogue() {
        let extent = Extent { place: Place::Pack(Uuid::max(), u64::MAX), size: u64::MAX, crc: u64::MAX };
        for acl in [None, Some(longest_acl())] {
            let list = acl.as_ref().map_or(0, acl_bytes);
            let description = Description {
                headers: ContentHeaders {
                    disposition: Some("d".repeat(CONTENT_HEADERS_BYTES_MAX - list)),
                    ..ContentHeaders::default()
                },
                metadata: vec![("n".repeat(8), "v".repeat(8)); METADATA_PAIRS_MAX],
                acl,
            };
            description.check().unwrap();
            let row = ObjectRow {
                version: Uuid::max(),
                named: true,
                modified_ms: u64::MAX,
                size: u64::MAX,
                etag: ETag { md5: Digest(vec![0xff; 16]), parts: u16::MAX },
                body: Body::One(extent.clone()),
                checksum: longest_checksum(),
                description,
                tags: u16::MAX,
                lock: Some(Box::new(Lock::longest())),
                seal: Some(Seal::longest()),
                tier: Tier::Back(u64::MAX),
            };
            assert!(encode(&row).unwrap().len() <= VALUE_BYTES_MAX);
            assert_eq!(decode::<ObjectRow>(&encode(&row).unwrap()).unwrap(), row);
        }
        let part = CompletedPart { number: u16::MAX, extent, checksum: Some(longest_checksum()) };
        let chunk = PartChunk { offset: u64::MAX, parts: vec![part; PARTS_PER_CHUNK] };
        assert!(encode(&chunk).unwrap().len() <= VALUE_BYTES_MAX);
    }
}
