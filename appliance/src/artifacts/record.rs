//! Changes as the journal keeps them, and what each makes of the catalogue.
//!
//! A record carries everything that its projection writes, counts included as absolute numbers: projecting reads nothing,
//! so that doing it twice, or many records in one batch, is the same as doing each once.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::cold::{ColdRun, Name, loose};
use super::documents::{self, DocumentKind};
use super::model::{BucketRow, Bytes, Counts, ObjectRow, PackRow, PartChunk, PartRow, UploadRow, decode, encode, keys};
use super::tags::{self, Tag};
use super::versions::{self, Version};
use crate::catalogue::{Batch, Table};
use crate::control::{Kind, Record};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Change {
    BucketMade {
        bucket: String,
        row: BucketRow,
    },
    /// Its state is another from here on.
    BucketSet {
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
    /// Comes before the [`Change::Key`] whose body it is, in the same commit.
    Chunk {
        body: Uuid,
        first: u16,
        chunk: PartChunk,
    },
    Key(Box<KeyChange>),
    /// Written before there were versions; still read.
    ObjectPut {
        bucket: String,
        key: String,
        row: ObjectRow,
        #[serde(default)]
        dropped: Vec<Dropped>,
        after: After,
    },
    /// Written before there were versions; still read.
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
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tags: Vec<Tag>,
        after: After,
    },
    /// Its key is wrapped by another master key.
    UploadSet {
        bucket: String,
        key: String,
        upload: Uuid,
        row: UploadRow,
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
    /// Blobs are about to be put into the cold tier: until a [`Change::Key`] refers to them, they are to be deleted there.
    ColdBegun(ColdRun),
    /// Names are gone from the cold tier.
    ColdGone {
        names: Vec<Name>,
    },
}

/// What becomes of a key, as one: a put, a delete, a delete marker, another lock, other tags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyChange {
    #[serde(rename = "b")]
    pub(super) bucket: String,
    #[serde(rename = "k")]
    pub(super) key: String,
    #[serde(rename = "c", default, skip_serializing_if = "Current::stays")]
    pub(super) current: Current,
    /// Whether the row that becomes current is written among the versions too.
    #[serde(rename = "w", default)]
    pub(super) is_kept: bool,
    /// Rows that are written among the versions.
    #[serde(rename = "v", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) versions: Vec<Version>,
    /// Versions whose rows go.
    #[serde(rename = "g", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) gone: Vec<Uuid>,
    #[serde(rename = "n", default, skip_serializing_if = "Null::stays")]
    pub(super) null: Null,
    /// All tags that a version has from here on.
    #[serde(rename = "t", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) tags: Vec<(Uuid, Vec<Tag>)>,
    #[serde(rename = "d", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) dropped: Vec<Dropped>,
    /// What the cold tier has of it from here on.
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) bound: Vec<ColdRun>,
    /// What the cold tier has and nothing refers to any more.
    #[serde(rename = "l", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) loose: Vec<ColdRun>,
    #[serde(rename = "a")]
    pub(super) after: After,
}

/// The row of what is current.
#[allow(clippy::large_enum_variant, reason = "nearly all are puts, and the change that holds it is boxed")]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Current {
    #[default]
    Stays,
    Gone,
    Put(ObjectRow),
}

impl Current {
    fn stays(&self) -> bool {
        *self == Self::Stays
    }
}

/// Which of a key's rows among the versions is its `null` version.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Null {
    #[default]
    Stays,
    Gone,
    Is(Uuid),
}

impl Null {
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn stays(&self) -> bool {
        *self == Self::Stays
    }
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
            Self::BucketSet { bucket, row } => batch.put(Table::Buckets, bucket, encode(&row)?),
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
            Self::Key(change) => change.project(batch)?,
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
            Self::UploadMade { bucket, key, upload, row, tags, after } => {
                batch.put(Table::Uploads, keys::upload(&bucket, &key, upload), encode(&row)?);
                if !tags.is_empty() {
                    tags::project(upload, &tags, batch)?;
                }
                after.project(&bucket, batch)?;
            }
            Self::UploadSet { bucket, key, upload, row } => {
                batch.put(Table::Uploads, keys::upload(&bucket, &key, upload), encode(&row)?);
            }
            Self::UploadGone { bucket, dropped, after } => {
                drop_rows(dropped, batch);
                after.project(&bucket, batch)?;
            }
            Self::PartPut { upload, number, row } => {
                batch.put(Table::Parts, keys::part(upload, number), encode(&row)?);
            }
            Self::ColdBegun(run) => loose::put(&run, true, batch)?,
            Self::ColdGone { names } => names.into_iter().for_each(|name| batch.delete(Table::Cold, loose::key(name))),
        }
        Ok(())
    }
}

impl KeyChange {
    fn project(self, batch: &mut Batch) -> Result<(), String> {
        let Self { bucket, key, current, is_kept, versions, gone, null, tags, dropped, bound, loose, after } = self;
        drop_rows(dropped, batch);
        for run in &bound {
            run.names().for_each(|name| batch.delete(Table::Cold, loose::key(name)));
        }
        for run in &loose {
            loose::put(run, false, batch)?;
        }
        for version in gone {
            batch.delete(Table::Versions, versions::keys::version(&bucket, &key, version));
        }
        for version in versions {
            batch.put(Table::Versions, versions::keys::version(&bucket, &key, version.id()), encode(&version)?);
        }
        let row_key = keys::object(&bucket, &key);
        match current {
            Current::Stays => {}
            Current::Gone => batch.delete(Table::Objects, row_key.as_slice()),
            Current::Put(row) => {
                batch.put(Table::Objects, row_key.as_slice(), encode(&row)?);
                if is_kept {
                    let among = versions::keys::version(&bucket, &key, row.version);
                    batch.put(Table::Versions, among, encode(&Version::Object(row))?);
                }
            }
        }
        match null {
            Null::Stays => {}
            Null::Gone => batch.delete(Table::Nulls, row_key),
            Null::Is(version) => batch.put(Table::Nulls, row_key, version.as_bytes()),
        }
        for (owner, tags) in tags {
            tags::project(owner, &tags, batch)?;
        }
        after.project(&bucket, batch)
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
                tags::delete(upload, batch);
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
        let rows = batch.changes.iter().filter(|change| change.2.is_none() && change.0 != Table::Tags);
        let deleted: Vec<_> = rows.map(|change| change.1.clone()).collect();
        assert_eq!(deleted, [keys::upload("b", "k", upload), keys::part(upload, 1), keys::part(upload, 10_000)]);
    }
}
