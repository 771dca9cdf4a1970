//! Bucket documents: the settings of a bucket that are texts of their own (policy, CORS, lifecycle and so on).
//!
//! A document is bytes to this file; who owns a kind decides how they are written. They lie in the catalogue in pieces
//! that fit into its rows, and all of them are held in memory, where each is parsed at most once: every request of a bucket
//! asks for some. That is why one document, and all of them together, have limits. A bucket's documents go with it.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use backlot_journal::Class;
use serde::{Deserialize, Serialize};

use super::Artifacts;
use super::engine::{RECORD_SLACK_BYTES, records};
use super::error::ArtifactError;
use super::model::{Bytes, keys};
use super::record::Change;
use super::state::State;
use crate::catalogue::{Batch, Table};

/// Largest document (S3: 64 KiB for CORS, 20 KiB for a policy).
pub const DOCUMENT_BYTES_MAX: usize = 64 << 10;
/// Most bytes of all documents of all buckets: they are in memory.
const ALL_BYTES_MAX: usize = 64 << 20;
/// Bytes of a document in one row, beside its version byte.
const PIECE_BYTES: usize = 4_000;
/// Version byte of a piece.
const FORMAT: u8 = 1;

/// What a document is about. The names are those of rows and records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DocumentKind {
    Acl,
    Cors,
    Encryption,
    Lifecycle,
    /// Default retention of object lock.
    Lock,
    Logging,
    Notification,
    Ownership,
    Payment,
    Policy,
    /// Public access block.
    Public,
    Quota,
    Tagging,
    Website,
}

impl DocumentKind {
    const ALL: [Self; 14] = [
        Self::Acl,
        Self::Cors,
        Self::Encryption,
        Self::Lifecycle,
        Self::Lock,
        Self::Logging,
        Self::Notification,
        Self::Ownership,
        Self::Payment,
        Self::Policy,
        Self::Public,
        Self::Quota,
        Self::Tagging,
        Self::Website,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Acl => "acl",
            Self::Cors => "cors",
            Self::Encryption => "encryption",
            Self::Lifecycle => "lifecycle",
            Self::Lock => "lock",
            Self::Logging => "logging",
            Self::Notification => "notification",
            Self::Ownership => "ownership",
            Self::Payment => "payment",
            Self::Policy => "policy",
            Self::Public => "public",
            Self::Quota => "quota",
            Self::Tagging => "tagging",
            Self::Website => "website",
        }
    }

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A document, and what was read from it.
#[derive(Default)]
pub struct Document {
    bytes: Vec<u8>,
    parsed: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Document {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, parsed: OnceLock::new() }
    }

    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn pieces(&self) -> u16 {
        u16::try_from(self.bytes.len().div_ceil(PIECE_BYTES).max(1)).unwrap_or(u16::MAX)
    }

    /// The document as a `T`, parsed at the first call. One kind of document is read as one type.
    ///
    /// # Errors
    /// [`ArtifactError::Fault`]: what was stored is not what `parse` understands. Callers that decide about access refuse then.
    pub fn read<T: Any + Send + Sync>(
        &self,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<&T, ArtifactError> {
        let fault = ArtifactError::fault("read a bucket's document");
        if self.parsed.get().is_none() {
            let _ = self.parsed.set(Box::new(parse(&self.bytes).map_err(&fault)?)); // another reader may have been first
        }
        let parsed = self.parsed.get().and_then(|parsed| parsed.downcast_ref());
        parsed.ok_or_else(|| fault("it was read as something else before".into()))
    }
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Document({} bytes)", self.bytes.len())
    }
}

/// The documents of one bucket.
#[derive(Clone, Debug, Default)]
pub(super) struct Documents(BTreeMap<DocumentKind, Arc<Document>>);

impl Documents {
    pub(super) fn get(&self, kind: DocumentKind) -> Option<&Arc<Document>> {
        self.0.get(&kind)
    }

    /// Adds the next piece of a document that is being loaded.
    pub(super) fn load(&mut self, kind: DocumentKind, piece: &[u8]) -> Result<(), String> {
        let Some((&FORMAT, piece)) = piece.split_first() else {
            return Err("a piece of a bucket's document is empty or of a later Backlot".into());
        };
        let document = Arc::get_mut(self.0.entry(kind).or_default()).ok_or("a document in use is being loaded")?;
        document.bytes.extend_from_slice(piece);
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.0.values().map(|document| document.bytes.len()).sum()
    }

    /// Each document and the number of its pieces.
    pub(super) fn all(&self) -> Vec<(DocumentKind, u16)> {
        self.0.iter().map(|(kind, document)| (*kind, document.pieces())).collect()
    }
}

/// Writes a document over one that had `before` pieces; `None` takes it away.
pub(super) fn project(bucket: &str, kind: DocumentKind, bytes: Option<&[u8]>, before: u16, batch: &mut Batch) {
    let mut written = 0;
    if let Some(bytes) = bytes {
        let mut put = |piece: &[u8]| {
            batch.put(Table::Buckets, keys::document(bucket, kind.name(), written), [&[FORMAT], piece].concat());
            written += 1;
        };
        if bytes.is_empty() {
            put(bytes); // there, and empty
        }
        bytes.chunks(PIECE_BYTES).for_each(put);
    }
    for piece in written..before {
        batch.delete(Table::Buckets, keys::document(bucket, kind.name(), piece));
    }
}

impl Artifacts {
    /// A document of a bucket, if it has one of this kind.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub fn document(&self, bucket: &str, kind: DocumentKind) -> Result<Option<Arc<Document>>, ArtifactError> {
        Ok(self.0.state.lock().bucket(bucket)?.documents.get(kind).cloned())
    }

    /// Puts a document over the one of its kind, or takes it away. When this answers it is durable.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`]; [`ArtifactError::InvalidRequest`]: it is too large, or all documents together are.
    pub async fn set_document(
        &self,
        bucket: &str,
        kind: DocumentKind,
        bytes: Option<Vec<u8>>,
    ) -> Result<(), ArtifactError> {
        let size = bytes.as_ref().map_or(0, Vec::len);
        if size > DOCUMENT_BYTES_MAX {
            return Err(ArtifactError::InvalidRequest(format!(
                "a bucket's {} configuration has at most {DOCUMENT_BYTES_MAX} bytes",
                kind.name()
            )));
        }
        let lock = self.lock(bucket, "").await;
        if bytes.is_none() && self.document(bucket, kind)?.is_none() {
            return Ok(());
        }
        let class = if bytes.is_some() { Class::Growing } else { Class::Shrinking };
        let bucket = bucket.to_owned();
        let decide = |state: &mut State| {
            let all: usize = state.buckets.values().map(|bucket| bucket.documents.bytes()).sum();
            if bytes.is_some() && all + size > ALL_BYTES_MAX {
                let text = format!("the configurations of all buckets have at most {ALL_BYTES_MAX} bytes together");
                return Err(ArtifactError::InvalidRequest(text));
            }
            let documents = &mut state.bucket_mut(&bucket)?.documents.0;
            let before = match &bytes {
                Some(bytes) => documents.insert(kind, Arc::new(Document::new(bytes.clone()))),
                None => documents.remove(&kind),
            };
            let before = before.map_or(0, |before| before.pieces());
            let document = bytes.map(Bytes);
            Ok((records(&[Change::BucketDocument { bucket, kind, document, before }])?, ()))
        };
        self.commit(Some(lock), size + RECORD_SLACK_BYTES, class, decide, || {}).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_in_pieces_is_read_back_and_a_shorter_one_leaves_nothing_of_it() {
        let long = vec![7; PIECE_BYTES * 2 + 1];
        let mut batch = Batch::default();
        project("b", DocumentKind::Policy, Some(&long), 0, &mut batch);
        assert_eq!(batch.changes.len(), 3);
        let mut documents = Documents::default();
        for (_, _, piece) in &batch.changes {
            let piece = piece.as_deref().unwrap();
            assert!(piece.len() <= crate::catalogue::VALUE_BYTES_MAX);
            documents.load(DocumentKind::Policy, piece).unwrap();
        }
        let document = documents.get(DocumentKind::Policy).unwrap();
        assert_eq!(document.bytes(), long);
        assert_eq!(document.pieces(), 3);
        let mut batch = Batch::default();
        project("b", DocumentKind::Policy, Some(b"short"), 3, &mut batch);
        let kept: Vec<bool> = batch.changes.iter().map(|(_, _, piece)| piece.is_some()).collect();
        assert_eq!(kept, [true, false, false]);
        assert!(
            documents.load(DocumentKind::Acl, b"").is_err() && documents.load(DocumentKind::Acl, b"\x02x").is_err()
        );
    }

    #[test]
    fn a_document_is_parsed_once_and_what_does_not_parse_is_a_fault() {
        let document = Document::new(b"12".to_vec());
        let parse =
            |bytes: &[u8]| std::str::from_utf8(bytes).unwrap().parse::<u32>().map_err(|error| error.to_string());
        assert_eq!(document.read(parse).unwrap(), &12);
        assert_eq!(document.read(|_| Err::<u32, _>("read again".into())).unwrap(), &12);
        assert!(document.read(|_| Ok(String::new())).is_err());
        assert!(Document::new(b"x".to_vec()).read(parse).is_err());
    }

    #[test]
    fn kinds_keep_the_names_that_rows_have() {
        for kind in DocumentKind::ALL {
            assert_eq!(DocumentKind::named(kind.name()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
        assert_eq!(DocumentKind::named("later"), None);
    }
}
