//! Changes as the journal keeps them, and what each makes of the catalogue.
//!
//! A record carries everything that its projection writes, counts included as absolute numbers: projecting reads nothing,
//! so that doing it twice, or many records in one batch, is the same as doing each once.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::documents::{self, DocumentKind};
use super::model::{BucketRow, Bytes, Counts, ObjectRow, PackRow, PartChunk, PartRow, UploadRow, decode, encode, keys};
use crate::catalogue::{Batch, Table};
use crate::control::{Kind, Record};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    BucketMade {
        bucket: String,
        row: BucketRow,
    },
    BucketGone {
        bucket: String,
        /// Its documents and how many pieces each has.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        documents: Vec<(DocumentKind, u16)>,
    },
    BucketDocument {
        bucket: String,
        kind: DocumentKind,
        /// `None` takes it away.
        document: Option<Bytes>,
        /// Pieces of the one that was there.
        before: u16,
    },
    /// Comes before the [`Change::ObjectPut`] whose body it is, in the same commit.
    Chunk {
        body: Uuid,
        first: u16,
        chunk: PartChunk,
    },
    ObjectPut {
        bucket: String,
        key: String,
        row: ObjectRow,
        #[serde(default)]
        dropped: Vec<Dropped>,
        after: After,
    },
    ObjectGone {
        bucket: String,
        key: String,
        #[serde(default)]
        dropped: Vec<Dropped>,
        after: After,
    },
    UploadMade {
        bucket: String,
        key: String,
        upload: Uuid,
        row: UploadRow,
        after: After,
    },
    UploadGone {
        bucket: String,
        dropped: Vec<Dropped>,
        after: After,
    },
    PartPut {
        upload: Uuid,
        number: u16,
        row: PartRow,
    },
}

/// Rows that go with a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Dropped {
    /// The chunks of an object that was put over or deleted, by first part.
    Chunks { body: Uuid, firsts: Vec<u16> },
    /// An upload that was completed or aborted, and all its parts.
    Upload { bucket: String, key: String, upload: Uuid, parts: Vec<u16> },
}

/// Counts as they are after the change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct After {
    pub(super) counts: Counts,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) packs: Vec<(Uuid, PackRow)>,
}

impl Change {
    /// # Errors
    /// A sentence when serde refuses, which no type here does.
    pub(super) fn record(&self) -> Result<Record, String> {
        Ok(Record { kind: Kind::Object, payload: encode(self)? })
    }

    /// What the record changes in the catalogue.
    ///
    /// # Errors
    /// A sentence when the record is not understood.
    pub(super) fn project(payload: &[u8], batch: &mut Batch) -> Result<(), String> {
        match decode::<Self>(payload)? {
            Self::BucketMade { bucket, row } => {
                batch.put(Table::Buckets, keys::counts(&bucket), encode(&Counts::default())?);
                batch.put(Table::Buckets, bucket, encode(&row)?);
            }
            Self::BucketGone { bucket, documents } => {
                for (kind, pieces) in documents {
                    documents::project(&bucket, kind, None, pieces, batch);
                }
                batch.delete(Table::Buckets, keys::counts(&bucket));
                batch.delete(Table::Buckets, bucket);
            }
            Self::BucketDocument { bucket, kind, document, before } => {
                let bytes = document.as_ref().map(|bytes| bytes.0.as_slice());
                documents::project(&bucket, kind, bytes, before, batch);
            }
            Self::Chunk { body, first, chunk } => {
                batch.put(Table::Parts, keys::chunk(body, first), encode(&chunk)?);
            }
            Self::ObjectPut { bucket, key, row, dropped, after } => {
                drop_rows(dropped, batch);
                batch.put(Table::Objects, keys::object(&bucket, &key), encode(&row)?);
                after.project(&bucket, batch)?;
            }
            Self::ObjectGone { bucket, key, dropped, after } => {
                drop_rows(dropped, batch);
                batch.delete(Table::Objects, keys::object(&bucket, &key));
                after.project(&bucket, batch)?;
            }
            Self::UploadMade { bucket, key, upload, row, after } => {
                batch.put(Table::Uploads, keys::upload(&bucket, &key, upload), encode(&row)?);
                after.project(&bucket, batch)?;
            }
            Self::UploadGone { bucket, dropped, after } => {
                drop_rows(dropped, batch);
                after.project(&bucket, batch)?;
            }
            Self::PartPut { upload, number, row } => {
                batch.put(Table::Parts, keys::part(upload, number), encode(&row)?);
            }
        }
        Ok(())
    }
}

impl After {
    fn project(&self, bucket: &str, batch: &mut Batch) -> Result<(), String> {
        batch.put(Table::Buckets, keys::counts(bucket), encode(&self.counts)?);
        for (pack, row) in &self.packs {
            if row.entries == 0 {
                batch.delete(Table::Packs, pack.as_bytes());
            } else {
                batch.put(Table::Packs, pack.as_bytes(), encode(row)?);
            }
        }
        Ok(())
    }
}

fn drop_rows(dropped: Vec<Dropped>, batch: &mut Batch) {
    for rows in dropped {
        match rows {
            Dropped::Chunks { body, firsts } => {
                for first in firsts {
                    batch.delete(Table::Parts, keys::chunk(body, first));
                }
            }
            Dropped::Upload { bucket, key, upload, parts } => {
                batch.delete(Table::Uploads, keys::upload(&bucket, &key, upload));
                for number in parts {
                    batch.delete(Table::Parts, keys::part(upload, number));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_is_not_understood_is_refused_with_a_sentence() {
        let mut batch = Batch::default();
        for bad in [&b""[..], b"\x02\xa0", b"\x01", b"\x01\xa0", b"\x01\xff\xff"] {
            assert!(Change::project(bad, &mut batch).is_err(), "{bad:?}");
        }
        assert!(batch.is_empty());
    }

    #[test]
    fn an_aborted_upload_takes_its_parts_with_it() {
        let (bucket, key, upload) = ("b".to_owned(), "k".to_owned(), Uuid::from_u128(5));
        let dropped = vec![Dropped::Upload { bucket: bucket.clone(), key, upload, parts: vec![1, 10_000] }];
        let record = Change::UploadGone { bucket, dropped, after: After::default() }.record().unwrap();
        let mut batch = Batch::default();
        Change::project(&record.payload, &mut batch).unwrap();
        let deleted: Vec<_> =
            batch.changes.iter().filter(|change| change.2.is_none()).map(|change| change.1.clone()).collect();
        assert_eq!(deleted, [keys::upload("b", "k", upload), keys::part(upload, 1), keys::part(upload, 10_000)]);
    }
}
