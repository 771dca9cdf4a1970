//! Why the store refuses or fails. Each dialect says it in its own words.

use super::versions::VersionName;
use crate::catalogue::CatalogueError;
use crate::control::ControlError;

#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("bucket `{0}` does not exist")]
    NoSuchBucket(String),
    #[error("`{key}` is not in bucket `{bucket}`")]
    NoSuchKey { bucket: String, key: String },
    #[error("`{key}` is not in bucket `{bucket}`: its newest version is a delete marker")]
    Deleted { bucket: String, key: String, version: VersionName },
    #[error("the version `{0}` does not exist")]
    NoSuchVersion(VersionName),
    #[error("the version is a delete marker")]
    IsMarker { version: VersionName, modified_ms: u64 },
    #[error("the version is locked: {0}")]
    Locked(&'static str),
    #[error("{0}")]
    InvalidTag(String),
    #[error("{0}")]
    InvalidBucketState(&'static str),
    #[error("the upload does not exist; it may have been completed or aborted")]
    NoSuchUpload,
    #[error("bucket `{0}` exists")]
    BucketExists(String),
    #[error("bucket `{0}` is not empty")]
    BucketNotEmpty(String),
    #[error("the store has its most buckets, {}", super::model::BUCKETS_MAX)]
    TooManyBuckets,
    #[error("`{0}` is no bucket name: 3 to 63 of a-z, 0-9, `.` and `-`")]
    InvalidBucketName(String),
    #[error("{0}")]
    InvalidArgument(String),
    #[error("{0}")]
    InvalidRequest(String),
    #[error("a key has at most 1024 bytes")]
    KeyTooLong,
    #[error("user metadata has at most 2048 bytes, content headers and the ACL 1024 together")]
    MetadataTooLarge,
    #[error("at most {max} bytes are taken here")]
    EntityTooLarge { max: u64 },
    #[error("part {number} has {bytes} bytes; every part but the last has at least 5 MiB")]
    EntityTooSmall { number: u16, bytes: u64 },
    #[error("part {0} was not uploaded, or has another ETag or checksum")]
    InvalidPart(u16),
    #[error("parts must be listed by rising number")]
    InvalidPartOrder,
    #[error("the range has no byte of the object's {size}")]
    InvalidRange { size: u64 },
    #[error("the bucket's quota of {most} {what} would be exceeded")]
    QuotaExceeded { most: u64, what: &'static str },
    #[error("Access Denied")]
    AccessDenied,
    #[error("{0} does not hold")]
    PreconditionFailed(&'static str),
    #[error("not modified")]
    NotModified,
    #[error("the {0} sent does not match the bytes received")]
    BadDigest(&'static str),
    #[error("the body ended before its announced length")]
    IncompleteBody,
    #[error("body: {0}")]
    Body(String),
    #[error("the disk is full")]
    Full,
    #[error("the disk takes no writes: its file system is read-only. Reads go on")]
    ReadOnly,
    #[error("`{key}` in bucket `{bucket}` is damaged: {problem}")]
    Damaged { bucket: String, key: String, problem: String },
    #[error("the cold tier cannot be reached: {0}")]
    ColdAway(String),
    #[error("too many objects are being read from the cold tier; try again in a moment")]
    ColdBusy,
    #[error("{verb}: {source}")]
    Io { verb: &'static str, source: std::io::Error },
    #[error("{verb}: {problem}")]
    Fault { verb: &'static str, problem: String },
    #[error(transparent)]
    Control(ControlError),
}

impl ArtifactError {
    /// An I/O error of ours. A full disk is told apart, because the caller can do something about it.
    pub(super) fn io(verb: &'static str) -> impl Fn(std::io::Error) -> Self {
        move |source| match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Full,
            std::io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly,
            _ => Self::Io { verb, source },
        }
    }

    /// The same of writing an object's bytes, which is counted.
    pub(super) fn write(verb: &'static str) -> impl Fn(std::io::Error) -> Self {
        let io = Self::io(verb);
        move |source| {
            super::health::write_failed(&source);
            io(source)
        }
    }

    pub(super) fn fault(verb: &'static str) -> impl Fn(String) -> Self {
        move |problem| Self::Fault { verb, problem }
    }
}

impl From<ControlError> for ArtifactError {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Journal(backlot_journal::JournalError::Full) => Self::Full,
            other => Self::Control(other),
        }
    }
}

impl From<CatalogueError> for ArtifactError {
    fn from(error: CatalogueError) -> Self {
        Self::Control(error.into())
    }
}
