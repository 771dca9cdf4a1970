//! What the cold tier asks of the other S3, by the names of blobs.

use std::sync::Arc;

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::artifacts::model::ColdClass;
use crate::clock::Clock;
use crate::config::ColdConfig;
use crate::other_s3::bucket::{Bucket, BucketError, Said};

pub(super) use crate::other_s3::bucket::{PART_BYTES, Upload};

/// Metadata with the CRC-64/NVME of a blob's data, as its row has it.
const CRC_METADATA: &str = "backlot-crc64";

/// The name of a blob in the cold tier. Each move has a number of its own, so that no name is ever written twice: a delete that comes
/// late, or is sent again, hits nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(in super::super) struct Name {
    #[serde(rename = "b")]
    pub(in super::super) blob: Uuid,
    #[serde(rename = "c")]
    pub(in super::super) copy: u64,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:016x}", self.blob.simple(), self.copy)
    }
}

impl Name {
    /// Reads what [`Name`] writes.
    pub(in super::super) fn parse(text: &str) -> Option<Self> {
        let (blob, copy) = text.split_once('.')?;
        let name = Self { blob: Uuid::parse_str(blob).ok()?, copy: u64::from_str_radix(copy, 16).ok()? };
        (name.to_string() == text).then_some(name)
    }
}

#[derive(Debug, thiserror::Error)]
pub(in super::super) enum RemoteError {
    #[error("it is missing in the cold tier")]
    Missing,
    /// It is there and is not what was put.
    #[error("{0}")]
    Wrong(String),
    /// The store does not answer, or says no to everybody.
    #[error("{0}")]
    Away(String),
    /// Too many are being read.
    #[error("too many objects are being read from the cold tier")]
    Busy,
}

impl From<BucketError> for RemoteError {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::Missing => Self::Missing,
            BucketError::Wrong(problem) => Self::Wrong(format!("in the cold tier, {problem}")),
            BucketError::Away(problem) => Self::Away(problem),
        }
    }
}

/// What the other S3 says of a blob.
pub(in super::super) struct Told {
    pub(in super::super) bytes: u64,
    pub(in super::super) crc: Option<u64>,
}

/// A blob as a listing of the other S3 has it.
pub(in super::super) struct Listed {
    pub(in super::super) name: Name,
    pub(in super::super) bytes: u64,
    /// Where the store says one that is read at once.
    pub(in super::super) class: Option<ColdClass>,
}

/// Cheap to clone.
#[derive(Clone)]
pub(in super::super) struct Remote(Arc<Inner>);

struct Inner {
    bucket: Bucket,
    prefix: String,
    send_class: bool,
    /// One for each read that waits for bytes.
    reads: Semaphore,
    clock: Arc<dyn Clock>,
}

impl Remote {
    pub(super) fn new(client: Client, config: &ColdConfig, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            bucket: Bucket::new(client, &config.bucket),
            prefix: config.prefix.clone(),
            send_class: config.send_class,
            reads: Semaphore::new(config.reads_max),
            clock,
        }))
    }

    fn key(&self, name: Name) -> String {
        format!("{}{name}", self.0.prefix)
    }

    pub(super) fn reads(&self) -> &Semaphore {
        &self.0.reads
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.0.clock.now().mono_ms
    }

    pub(in super::super) async fn head(&self, name: Name) -> Result<Told, RemoteError> {
        let told = self.0.bucket.head(&self.key(name)).await?;
        let crc = told.metadata().and_then(|metadata| metadata.get(CRC_METADATA));
        Ok(Told {
            bytes: told.content_length().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
            crc: crc.and_then(|crc| u64::from_str_radix(crc, 16).ok()),
        })
    }

    /// Begins to read the bytes `from..end` of a blob that has `total`.
    pub(super) async fn open(&self, name: Name, from: u64, end: u64, total: u64) -> Result<ByteStream, RemoteError> {
        Ok(self.0.bucket.open(&self.key(name), from, end, total).await?)
    }

    /// Puts a blob of up to [`PART_BYTES`] in one call.
    pub(super) async fn put(&self, name: Name, class: ColdClass, crc: u64, data: Bytes) -> Result<(), RemoteError> {
        Ok(self.0.bucket.put(&self.key(name), self.said(class, crc), data).await?)
    }

    /// Begins to put a larger one.
    pub(super) async fn begin(&self, name: Name, class: ColdClass, crc: u64) -> Result<Upload, RemoteError> {
        Ok(self.0.bucket.begin(&self.key(name), self.said(class, crc)).await?)
    }

    fn said(&self, class: ColdClass, crc: u64) -> Said {
        let metadata = Some((CRC_METADATA, format!("{crc:016x}")));
        Said { metadata, class: self.0.send_class.then(|| class.name()) }
    }

    /// Deletes a blob. One that is gone already is no error.
    pub(super) async fn delete(&self, name: Name) -> Result<(), RemoteError> {
        Ok(self.0.bucket.delete(&self.key(name)).await?)
    }

    /// Ends the uploads of a blob that a crash has left.
    pub(super) async fn abort_all(&self, name: Name) -> Result<(), RemoteError> {
        Ok(self.0.bucket.abort_all(&self.key(name)).await?)
    }

    /// The blobs that are there, a page at a time, and where to go on.
    pub(in super::super) async fn list(
        &self,
        after: Option<String>,
    ) -> Result<(Vec<Listed>, Option<String>), RemoteError> {
        let page = self.0.bucket.list(&self.0.prefix, after).await?;
        let listed = page.contents().iter().filter_map(|object| {
            let name = Name::parse(object.key()?.strip_prefix(&self.0.prefix)?)?;
            let class = object.storage_class().and_then(|class| ColdClass::parse(class.as_str()));
            Some(Listed { name, bytes: u64::try_from(object.size()?).ok()?, class })
        });
        Ok((listed.collect(), page.next_continuation_token.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_nothing_else_is() {
        let name = Name { blob: Uuid::from_u128(0xabc), copy: u64::MAX - 1 };
        assert_eq!(name.to_string(), "00000000000000000000000000000abc.fffffffffffffffe");
        assert_eq!(Name::parse(&name.to_string()), Some(name));
        for bad in ["", "x", "00000000000000000000000000000abc", "00000000000000000000000000000ABC.fffffffffffffffe"] {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
    }
}
