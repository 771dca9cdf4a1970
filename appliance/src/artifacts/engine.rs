//! Buckets and objects: what each call does, in the order that makes it safe.

use backlot_journal::Class;
use uuid::Uuid;

use super::blobs::blocking;
use super::checksums::Checksum;
use super::conditions::{ReadConditions, WriteConditions, WriteVerdict};
use super::error::ArtifactError;
use super::intake::{Expected, Received};
use super::label::What;
use super::listing::{self, Page, Query};
use super::model::{
    BUCKETS_MAX, Body, BucketRow, Description, ETag, Extent, ObjectRow, PARTS_MAX, PartChunk, Place, RangeAsked,
    check_bucket_name, check_key, decode, keys,
};
use super::read::{ObjectStream, pieces};
use super::record::{Change, Dropped};
use super::state::{Bucket, Delta, State};
use super::{Artifacts, BucketInfo, new_id};
use crate::catalogue::Table;
use crate::control::Record;

/// How often a read looks again when the object was replaced between finding its row and opening its bytes.
const LOOKS_MAX: usize = 8;
/// Most bytes that a record has beside what the caller gave: counts, packs, CBOR.
pub(super) const RECORD_SLACK_BYTES: usize = 2048;

/// A put, beside its bytes.
#[derive(Clone, Debug, Default)]
pub struct Put {
    pub bucket: String,
    pub key: String,
    pub description: Description,
    pub conditions: WriteConditions,
    pub expected: Expected,
}

/// What a put has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub etag: ETag,
    pub checksum: Checksum,
    pub modified_ms: u64,
    pub size: u64,
}

impl Stored {
    pub(super) fn of(row: &ObjectRow) -> Self {
        Self { etag: row.etag.clone(), checksum: row.checksum.clone(), modified_ms: row.modified_ms, size: row.size }
    }
}

/// An object that is being read.
pub struct Got {
    pub row: ObjectRow,
    /// First byte and length of what the stream gives, where that was asked for.
    pub range: Option<(u64, u64)>,
    pub stream: ObjectStream,
}

/// The bytes asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    All,
    Range(RangeAsked),
    /// One part, by number. Part 1 of an object that was put in one piece is all of it.
    Part(u16),
}

/// Rows and blobs that go when an object goes.
#[derive(Default)]
pub(super) struct Leftover {
    pub(super) dropped: Vec<Dropped>,
    pub(super) garbage: Garbage,
}

/// Blobs that no row refers to once a change is applied.
#[derive(Default)]
pub(super) struct Garbage {
    pub(super) files: Vec<Uuid>,
    /// The blobs of a body that may be being read.
    pub(super) body: Option<(Uuid, Vec<Uuid>)>,
}

impl Artifacts {
    /// # Errors
    /// [`ArtifactError::BucketExists`], [`ArtifactError::InvalidBucketName`], [`ArtifactError::TooManyBuckets`].
    pub async fn create_bucket(&self, name: &str, region: &str) -> Result<(), ArtifactError> {
        check_bucket_name(name)?;
        let row = BucketRow { created_ms: self.now().wall_ms, region: region.chars().take(64).collect() };
        let lock = self.lock(name, "").await;
        let bucket = name.to_owned();
        let decide = |state: &mut State| {
            if state.buckets.contains_key(&bucket) {
                return Err(ArtifactError::BucketExists(bucket));
            }
            if state.buckets.len() >= BUCKETS_MAX {
                return Err(ArtifactError::TooManyBuckets);
            }
            let records = records(&[Change::BucketMade { bucket: bucket.clone(), row: row.clone() }])?;
            state.buckets.insert(bucket, Bucket::new(row));
            Ok((records, ()))
        };
        self.commit(Some(lock), RECORD_SLACK_BYTES, Class::Growing, decide, || {}).await
    }

    /// Makes the bucket unless it is there.
    ///
    /// # Errors
    /// As [`Artifacts::create_bucket`], except that it exists.
    pub async fn ensure_bucket(&self, name: &str) -> Result<(), ArtifactError> {
        // Asked first: a full disk has no room for a bucket, and must not keep the appliance from starting.
        if self.0.state.lock().buckets.contains_key(name) {
            return Ok(());
        }
        match self.create_bucket(name, "us-east-1").await {
            Err(ArtifactError::BucketExists(_)) => Ok(()),
            other => other,
        }
    }

    /// Deletes an empty bucket, and aborts what uploads it has.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`], [`ArtifactError::BucketNotEmpty`].
    pub async fn delete_bucket(&self, name: &str) -> Result<(), ArtifactError> {
        loop {
            let counts = self.0.state.lock().bucket(name)?.counts;
            if counts.objects > 0 {
                return Err(ArtifactError::BucketNotEmpty(name.to_owned()));
            }
            if counts.uploads == 0 {
                break;
            }
            self.abort_all(name).await?;
        }
        let lock = self.lock(name, "").await;
        let bucket = name.to_owned();
        let decide = |state: &mut State| {
            let counts = state.bucket(&bucket)?.counts;
            if counts.objects > 0 || counts.uploads > 0 {
                return Err(ArtifactError::BucketNotEmpty(bucket));
            }
            let documents = state.buckets.remove(&bucket).map(|bucket| bucket.documents.all()).unwrap_or_default();
            Ok((records(&[Change::BucketGone { bucket, documents }])?, ()))
        };
        self.commit(Some(lock), RECORD_SLACK_BYTES, Class::Shrinking, decide, || {}).await
    }

    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub fn bucket(&self, name: &str) -> Result<BucketInfo, ArtifactError> {
        let state = self.0.state.lock();
        state.bucket(name).map(|bucket| info(name, bucket))
    }

    /// All buckets, by name.
    #[must_use]
    pub fn buckets(&self) -> Vec<BucketInfo> {
        self.0.state.lock().buckets.iter().map(|(name, bucket)| info(name, bucket)).collect()
    }

    /// Puts an object over whatever has its key. When this answers, the object is durable and everybody sees it.
    ///
    /// # Errors
    /// The bytes are not what was expected, a condition does not hold, the bucket is not there, the disk is full.
    pub async fn put(&self, put: Put, received: Received) -> Result<Stored, ArtifactError> {
        let Put { bucket, key, description, conditions, expected } = put;
        check_key(&key)?;
        description.check()?;
        self.bucket(&bucket)?;
        expected.verify(received.digests())?;
        let digests = received.digests().clone();
        let settled = self.settle(received, &bucket, &key, What::Object, &description).await?;
        let lock = self.lock(&bucket, &key).await;
        let current = self.row(&bucket, &key)?;
        judge(&conditions, current.as_ref(), &bucket, &key)?;
        let Leftover { dropped, garbage } = self.leftover(current.as_ref())?;
        let now = self.now();
        let row = ObjectRow {
            version: new_id(now),
            modified_ms: now.wall_ms,
            size: digests.size,
            etag: ETag { md5: digests.md5.clone(), parts: 0 },
            body: Body::One(settled.extent.clone()),
            checksum: digests.checksum(),
            description,
        };
        let room = room(&row, &dropped)?;
        let decide = |state: &mut State| {
            let after =
                state.count(&bucket, &Delta { added: Some(&row), removed: current.as_ref(), ..Delta::default() })?;
            let stored = Stored::of(&row);
            let records = records(&[Change::ObjectPut { bucket, key, row, dropped, after }])?;
            Ok((records, (stored, settled.keep())))
        };
        let artifacts = self.clone();
        let (stored, _) =
            self.commit(Some(lock), room, Class::Growing, decide, move || artifacts.remove(garbage)).await?;
        Ok(stored)
    }

    /// Deletes an object; false when there was none.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`]; a condition does not hold.
    pub async fn delete(&self, bucket: &str, key: &str, conditions: &WriteConditions) -> Result<bool, ArtifactError> {
        check_key(key)?;
        self.bucket(bucket)?;
        let lock = self.lock(bucket, key).await;
        let current = self.row(bucket, key)?;
        judge(conditions, current.as_ref(), bucket, key)?;
        let Some(current) = current else { return Ok(false) };
        let Leftover { dropped, garbage } = self.leftover(Some(&current))?;
        let room = room(&current, &dropped)?;
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let decide = |state: &mut State| {
            let after = state.count(&bucket, &Delta { removed: Some(&current), ..Delta::default() })?;
            Ok((records(&[Change::ObjectGone { bucket, key, dropped, after }])?, ()))
        };
        let artifacts = self.clone();
        self.commit(Some(lock), room, Class::Shrinking, decide, move || artifacts.remove(garbage)).await?;
        Ok(true)
    }

    /// What is known of an object.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`], [`ArtifactError::NoSuchKey`].
    pub fn head(&self, bucket: &str, key: &str) -> Result<ObjectRow, ArtifactError> {
        self.bucket(bucket)?;
        check_key(key)?;
        self.row(bucket, key)?
            .ok_or_else(|| ArtifactError::NoSuchKey { bucket: bucket.to_owned(), key: key.to_owned() })
    }

    /// Reads an object or a part of it. A delete or another put meanwhile changes nothing for this reader.
    ///
    /// # Errors
    /// It is not there, a condition does not hold, the range has none of its bytes, it is damaged.
    pub async fn get(
        &self,
        bucket: &str,
        key: &str,
        wanted: Wanted,
        conditions: &ReadConditions,
    ) -> Result<Got, ArtifactError> {
        let name = (bucket.to_owned(), key.to_owned());
        for _ in 0..LOOKS_MAX {
            let row = self.head(bucket, key)?;
            conditions.check(&row.etag, row.modified_ms)?;
            let (parts, pin) = match &row.body {
                Body::One(extent) => (vec![(1, extent.clone())], None),
                Body::Parts(body) => {
                    // Pinned first: if the row is still the same afterwards, its chunks were whole and its blobs stay.
                    let pin = self.0.pins.pin(*body);
                    let parts: Vec<_> = self.completed_parts(*body)?;
                    if self.row(bucket, key)?.is_none_or(|now| now.body != row.body) {
                        continue;
                    }
                    (parts, Some(pin))
                }
            };
            let range = range_of(wanted, row.size, &parts)?;
            let (first, length) = range.unwrap_or((0, row.size));
            let pieces = pieces(parts.into_iter().map(|(_, extent)| extent), first, length);
            let (stores, named) = (self.0.stores.clone(), name.clone());
            let opened = blocking(move || Ok(ObjectStream::open(stores, named, pieces, pin)));
            if let Some(stream) = opened.await.map_err(ArtifactError::io("open a blob"))?? {
                return Ok(Got { row, range, stream });
            }
            if self.row(bucket, key)?.as_ref() == Some(&row) {
                tracing::error!(bucket, key, "an object's blob is missing");
                let (bucket, key) = name;
                return Err(ArtifactError::Damaged { bucket, key, problem: "its blob is missing".into() });
            }
        }
        Err(ArtifactError::fault("read an object")(format!("it was replaced {LOOKS_MAX} times while it was opened")))
    }

    /// First byte and length of what is wanted of an object; `None` for all of it.
    ///
    /// # Errors
    /// [`ArtifactError::InvalidRange`], [`ArtifactError::InvalidPart`].
    pub fn locate(&self, row: &ObjectRow, wanted: Wanted) -> Result<Option<(u64, u64)>, ArtifactError> {
        let parts = match (&row.body, wanted) {
            (Body::Parts(body), Wanted::Part(_)) => self.completed_parts(*body)?,
            (Body::One(extent), _) => vec![(1, extent.clone())],
            (Body::Parts(_), _) => Vec::new(),
        };
        range_of(wanted, row.size, &parts)
    }

    /// One page of a bucket's objects.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub async fn list(&self, bucket: &str, query: Query) -> Result<Page<ObjectRow>, ArtifactError> {
        self.bucket(bucket)?;
        let (artifacts, bucket) = (self.clone(), bucket.to_owned());
        let listed = blocking(move || {
            let within = keys::bucket(&bucket);
            let prefix = keys::object(&bucket, &query.prefix);
            Ok(listing::list(&query, |from, limit| {
                let from = [within.as_slice(), from].concat();
                let rows = artifacts.catalogue().range(Table::Objects, &prefix, &from, limit)?;
                rows.into_iter().map(|(key, value)| listed(&key[within.len()..], &value)).collect()
            }))
        });
        listed.await.map_err(ArtifactError::io("list a bucket"))?
    }

    pub(super) fn row(&self, bucket: &str, key: &str) -> Result<Option<ObjectRow>, ArtifactError> {
        let found = self.catalogue().get(Table::Objects, &keys::object(bucket, key))?;
        found.map(|row| decode(&row)).transpose().map_err(ArtifactError::fault("read an object's row"))
    }

    /// The chunks of a completed object, by first part.
    pub(super) fn chunks(&self, body: Uuid) -> Result<Vec<(u16, PartChunk)>, ArtifactError> {
        let limit = usize::from(PARTS_MAX);
        let rows = self.catalogue().range(Table::Parts, &keys::chunks(body), &[], limit)?;
        let chunk = |(key, value): (Vec<u8>, Vec<u8>)| {
            Ok((keys::number(&key).ok_or("a chunk's key has no number")?, decode(&value)?))
        };
        rows.into_iter()
            .map(chunk)
            .collect::<Result<_, String>>()
            .map_err(ArtifactError::fault("read an object's parts"))
    }

    fn completed_parts(&self, body: Uuid) -> Result<Vec<(u16, Extent)>, ArtifactError> {
        let chunks = self.chunks(body)?;
        let parts = chunks.into_iter().flat_map(|(_, chunk)| chunk.parts);
        Ok(parts.map(|part| (part.number, part.extent)).collect())
    }

    /// What goes when `row` goes. Call it under the key's lock.
    pub(super) fn leftover(&self, row: Option<&ObjectRow>) -> Result<Leftover, ArtifactError> {
        let mut leftover = Leftover::default();
        match row.map(|row| &row.body) {
            Some(Body::One(Extent { place: Place::File(file), .. })) => leftover.garbage.files.push(*file),
            Some(Body::Parts(body)) => {
                let chunks = self.chunks(*body)?;
                let firsts = chunks.iter().map(|(first, _)| *first).collect();
                leftover.dropped.push(Dropped::Chunks { body: *body, firsts });
                let parts = chunks.into_iter().flat_map(|(_, chunk)| chunk.parts);
                leftover.garbage.body = Some((*body, parts.filter_map(|part| file(&part.extent)).collect()));
            }
            // Packed bytes stay where they are until their pack is compacted.
            Some(Body::One(_)) | None => {}
        }
        Ok(leftover)
    }

    /// Removes blobs that no row refers to any more. Blocks.
    pub(super) fn remove(&self, garbage: Garbage) {
        for blob in garbage.files {
            if let Err(error) = self.0.stores.blobs.remove(blob) {
                tracing::warn!(%blob, %error, "could not remove a blob that is not needed; the sweeper will");
            }
        }
        if let Some((body, blobs)) = garbage.body {
            self.0.pins.remove(body, blobs);
        }
    }
}

/// The file that holds an extent, if it has one of its own.
pub(super) fn file(extent: &Extent) -> Option<Uuid> {
    match extent.place {
        Place::File(id) => Some(id),
        Place::Pack(..) => None,
    }
}

fn info(name: &str, bucket: &Bucket) -> BucketInfo {
    BucketInfo {
        name: name.to_owned(),
        created_ms: bucket.row.created_ms,
        region: bucket.row.region.clone(),
        objects: bucket.counts.objects,
        bytes: bucket.counts.bytes,
    }
}

fn listed(key: &[u8], value: &[u8]) -> Result<(String, ObjectRow), ArtifactError> {
    let read = || Ok((String::from_utf8(key.to_vec()).map_err(|error| error.to_string())?, decode(value)?));
    read().map_err(ArtifactError::fault("read an object's row"))
}

fn range_of(wanted: Wanted, size: u64, parts: &[(u16, Extent)]) -> Result<Option<(u64, u64)>, ArtifactError> {
    match wanted {
        Wanted::All => Ok(None),
        Wanted::Range(asked) => asked.resolve(size).map(Some),
        Wanted::Part(number) => part_range(parts, number).map(Some),
    }
}

fn part_range(parts: &[(u16, Extent)], number: u16) -> Result<(u64, u64), ArtifactError> {
    let mut first = 0;
    for (part, extent) in parts {
        if *part == number {
            return Ok((first, extent.size));
        }
        first += extent.size;
    }
    Err(ArtifactError::InvalidPart(number))
}

pub(super) fn judge(
    conditions: &WriteConditions,
    current: Option<&ObjectRow>,
    bucket: &str,
    key: &str,
) -> Result<(), ArtifactError> {
    match conditions.judge(current.map(|row| &row.etag)) {
        WriteVerdict::Proceed => Ok(()),
        WriteVerdict::Missing => Err(ArtifactError::NoSuchKey { bucket: bucket.to_owned(), key: key.to_owned() }),
        WriteVerdict::Failed(condition) => Err(ArtifactError::PreconditionFailed(condition)),
    }
}

pub(super) fn records(changes: &[Change]) -> Result<Vec<Record>, ArtifactError> {
    let records = changes.iter().map(Change::record).collect::<Result<_, _>>();
    records.map_err(ArtifactError::fault("write a record"))
}

/// Room for a record with `row` and `dropped`, and with the longest names.
pub(super) fn room(row: &ObjectRow, dropped: &[Dropped]) -> Result<usize, ArtifactError> {
    let encoded = super::model::encode(row).map_err(ArtifactError::fault("write a record"))?.len();
    let numbers = |dropped: &Dropped| match dropped {
        Dropped::Chunks { firsts, .. } => firsts.len(),
        Dropped::Upload { parts, .. } => parts.len(),
    };
    let dropped: usize = dropped.iter().map(|dropped| numbers(dropped) * 3 + RECORD_SLACK_BYTES).sum();
    Ok(encoded + dropped + 2 * RECORD_SLACK_BYTES)
}
