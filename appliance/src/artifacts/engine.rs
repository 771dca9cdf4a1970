//! Objects: what each call does, in the order that makes it safe.

use backlot_journal::Class;
use uuid::Uuid;

use super::blobs::blocking;
use super::checksums::Checksum;
use super::conditions::{ReadConditions, WriteConditions, WriteVerdict};
use super::error::ArtifactError;
use super::health::Named;
use super::intake::{Expected, Received};
use super::label::What;
use super::listing::{self, Page, Query};
use super::lock::Lock;
use super::model::{
    Body, Description, ETag, Extent, ObjectRow, PARTS_MAX, PartChunk, Place, RangeAsked, Tier, Versioning, check_key,
    decode, keys,
};
use super::read::{ObjectStream, Opening, pieces};
use super::record::Change;
use super::seal_keys::CustomerKey;
use super::tags::Tag;
use super::versions::{Version, VersionName};
use super::work::Work;
use super::{Artifacts, new_id};
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
    /// As [`super::tags::checked`] gives them.
    pub tags: Vec<Tag>,
    /// What was asked for; the bucket's default comes where no retention was.
    pub lock: Lock,
}

/// A delete.
#[derive(Clone, Debug, Default)]
pub struct Delete {
    /// Without one, what is current goes, or is hidden behind a delete marker.
    pub version: Option<VersionName>,
    pub conditions: WriteConditions,
    /// Only if the version that `version` names has this id still. Clients cannot ask for it.
    pub only: Option<Uuid>,
    /// Whether a retention in GOVERNANCE mode is bypassed, by somebody who may.
    pub bypass: bool,
}

/// What a delete has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Whether anything was there to go or to be hidden.
    pub existed: bool,
    /// A delete marker that was made, or that has gone.
    pub marker: Option<VersionName>,
}

/// What a put has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub etag: ETag,
    pub checksum: Checksum,
    pub modified_ms: u64,
    pub size: u64,
    /// Its id, where the bucket keeps versions.
    pub version: Option<VersionName>,
    pub tags: Vec<Tag>,
}

impl Stored {
    pub(super) fn of(row: &ObjectRow, tags: &[Tag]) -> Self {
        Self {
            etag: row.etag.clone(),
            checksum: row.checksum.clone(),
            modified_ms: row.modified_ms,
            size: row.size,
            version: row.named.then(|| row.name()),
            tags: tags.to_vec(),
        }
    }
}

/// An object that is being read.
pub struct Got {
    pub row: ObjectRow,
    /// First byte and length of what the stream gives, where that was asked for and is one range.
    pub range: Option<(u64, u64)>,
    /// The same of several, whose bytes the stream gives one after the other; empty otherwise.
    pub several: Vec<(u64, u64)>,
    pub stream: ObjectStream,
}

/// The bytes asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    All,
    Range(RangeAsked),
    /// Several ranges in one answer.
    Ranges(Vec<RangeAsked>),
    /// One part, by number. Part 1 of an object that was put in one piece is all of it.
    Part(u16),
}

impl Artifacts {
    /// Puts an object over whatever has its key. When this answers, the object is durable and everybody sees it.
    ///
    /// # Errors
    /// The bytes are not what was expected, a condition does not hold, the bucket is not there, the disk is full.
    pub async fn put(&self, put: Put, received: Received) -> Result<Stored, ArtifactError> {
        let Put { bucket, key, description, conditions, expected, tags, lock: asked } = put;
        check_key(&key)?;
        description.check()?;
        self.bucket(&bucket)?;
        expected.verify(received.digests())?;
        let digests = received.digests().clone();
        let meant = new_id(self.now());
        let (seal, etag) = (received.seal(), received.etag().clone());
        let settled = self.settle(received, &bucket, &key, What::Object, &description, Some(meant)).await?;
        let lock = self.lock(&bucket, &key).await;
        let held = self.held(&bucket, &key)?;
        judge(&conditions, held.current.as_ref(), &bucket, &key)?;
        let now_ms = self.now().wall_ms;
        let row = ObjectRow {
            version: held.next_id(meant),
            named: held.versioning == Versioning::Enabled,
            modified_ms: now_ms,
            size: digests.size,
            etag,
            body: Body::One(settled.extent.clone()),
            checksum: digests.checksum(),
            description,
            tags: u16::try_from(tags.len()).unwrap_or(u16::MAX),
            lock: self.locked(&bucket, asked, now_ms)?.boxed(),
            seal,
            tier: Tier::Here,
        };
        let stored = Stored::of(&row, &tags);
        let work = Work::of(held.put(&bucket, &key, row, tags));
        self.carry_out(lock, Class::Growing, work, || settled.keep()).await?;
        Ok(stored)
    }

    /// Deletes a version for good; without one, what is current: for good, or behind a delete marker.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`]; a condition does not hold; [`ArtifactError::Locked`].
    pub async fn delete(&self, bucket: &str, key: &str, delete: &Delete) -> Result<Deleted, ArtifactError> {
        check_key(key)?;
        self.bucket(bucket)?;
        let lock = self.lock(bucket, key).await;
        let held = self.held(bucket, key)?;
        let now = self.now();
        let Some(name) = delete.version else {
            if held.newest.is_some() && delete.conditions.if_match.is_some() {
                return Err(ArtifactError::PreconditionFailed("If-Match")); // a delete marker is there, and is no object (S3)
            }
            judge(&delete.conditions, held.current.as_ref(), bucket, key)?;
            let existed = held.current.is_some();
            let version = held.next_id(new_id(now));
            let marker = match held.versioning {
                Versioning::Never => None,
                Versioning::Enabled => Some(VersionName::Id(version)),
                Versioning::Suspended => Some(VersionName::Null),
            };
            if let Some(plan) = held.mark(bucket, key, version, now.wall_ms) {
                // A marker adds a row and frees nothing; the journal's reserve is for what does.
                let class = if marker.is_some() { Class::Growing } else { Class::Shrinking };
                self.carry_out(lock, class, Work::of(plan), || ()).await?;
            }
            return Ok(Deleted { existed, marker });
        };
        let target = self.version(bucket, key, Some(name))?;
        judge(&delete.conditions, target.as_ref().and_then(Version::object), bucket, key)?;
        let is_meant = |target: &Version| delete.only.is_none_or(|only| only == target.id());
        let Some(target) = target.filter(is_meant) else { return Ok(Deleted::default()) };
        if let Some(lock) = target.object().and_then(|row| row.lock.as_deref()) {
            lock.allows_delete(now.wall_ms, delete.bypass)?;
        }
        let next = match held.versioning {
            Versioning::Never => None,
            _ => self.after(bucket, key, Some(target.id()))?,
        };
        let marker = matches!(target, Version::Marker(_)).then_some(name);
        let plan = held.remove(bucket, key, target, next);
        self.carry_out(lock, Class::Shrinking, Work::of(plan), || ()).await?;
        Ok(Deleted { existed: true, marker })
    }

    /// Changes what is kept of a version beside its bytes: its lock, its tags, where its bytes lie. `change` sees the row as it is,
    /// under the key's lock; `tags`, where given, are all that it has from then on.
    ///
    /// # Errors
    /// As [`Artifacts::find`]; what `change` refuses with.
    pub(super) async fn amend(
        &self,
        bucket: &str,
        key: &str,
        which: Option<VersionName>,
        tags: Option<Vec<Tag>>,
        change: impl FnOnce(&mut ObjectRow) -> Result<(), ArtifactError>,
    ) -> Result<ObjectRow, ArtifactError> {
        let lock = self.lock(bucket, key).await;
        let row = self.find(bucket, key, which)?;
        let mut now = row.clone();
        change(&mut now)?;
        if let Some(tags) = &tags {
            now.tags = u16::try_from(tags.len()).unwrap_or(u16::MAX);
        }
        let mut plan = self.held(bucket, key)?.amend(bucket, key, &row, now.clone());
        plan.change.tags.extend(tags.map(|tags| (now.version, tags)));
        self.carry_out(lock, Class::Growing, Work::of(plan), || ()).await?;
        Ok(now)
    }

    /// What is known of an object.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`], [`ArtifactError::NoSuchKey`].
    pub fn head(&self, bucket: &str, key: &str) -> Result<ObjectRow, ArtifactError> {
        self.find(bucket, key, None)
    }

    /// Reads what is current, or a part of it. A delete or another put meanwhile changes nothing for this reader.
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
        self.get_version(bucket, key, None, wanted, conditions, None).await
    }

    /// The same of any version. `customer` is the key of an object that was encrypted with one.
    ///
    /// # Errors
    /// As [`Artifacts::get`] and [`Artifacts::find`].
    pub async fn get_version(
        &self,
        bucket: &str,
        key: &str,
        which: Option<VersionName>,
        wanted: Wanted,
        conditions: &ReadConditions,
        customer: Option<&CustomerKey>,
    ) -> Result<Got, ArtifactError> {
        let find = || match self.find(bucket, key, which) {
            Ok(row) => Ok(Some(row)),
            Err(ArtifactError::NoSuchKey { .. } | ArtifactError::Deleted { .. } | ArtifactError::NoSuchVersion(_)) => {
                Ok(None)
            }
            Err(error) => Err(error),
        };
        for _ in 0..LOOKS_MAX {
            let row = self.find(bucket, key, which)?;
            let named = Named::of(bucket, key, &row);
            let data_key = self.data_key(bucket, key, row.seal.as_ref(), customer).inspect_err(|error| {
                if let ArtifactError::Damaged { problem, .. } = error {
                    self.0.stores.health.damaged(named.clone(), problem.clone());
                }
            })?;
            conditions.check(&row.etag, row.modified_ms)?;
            let opening = data_key.map(|key| Opening { key, parts: matches!(row.body, Body::Parts(_)) });
            let (parts, pin) = match &row.body {
                Body::One(extent) if let Place::Cold(blob, _) = extent.place => {
                    // Stays in the cold tier until it is read, also when the object is deleted or comes back meanwhile.
                    let pin = self.0.pins.pin(blob);
                    if find()?.is_none_or(|now| now.body != row.body) {
                        continue;
                    }
                    (vec![(1, extent.clone())], Some(pin))
                }
                Body::One(extent) => (vec![(1, extent.clone())], None),
                Body::Parts(body) => {
                    // Pinned first: if the row is still the same afterwards, its chunks were whole and its blobs stay.
                    let pin = self.0.pins.pin(*body);
                    let parts: Vec<_> = self.completed_parts(*body)?;
                    if find()?.is_none_or(|now| now.body != row.body) {
                        continue;
                    }
                    (parts, Some(pin))
                }
            };
            let mut several = ranges_of(&wanted, row.size, &parts)?;
            let whole = [(0, row.size)];
            let given = if several.is_empty() { whole.as_slice() } else { &several };
            let extents = || parts.iter().map(|(_, extent)| extent.clone());
            let pieces = given.iter().flat_map(|(first, length)| pieces(extents(), *first, *length)).collect();
            let range = if several.len() == 1 { several.pop() } else { None };
            let (stores, object) = (self.0.stores.clone(), named.clone());
            let opened = blocking(move || Ok(ObjectStream::open(stores, object, pieces, opening, pin)));
            if let Some(mut stream) = opened.await.map_err(ArtifactError::io("open a blob"))??
                && stream.prime().await?
            {
                return Ok(Got { row, range, several, stream });
            }
            if find()?.is_some_and(|now| now.body == row.body) {
                let problem = "its blob is missing".to_owned();
                self.0.stores.health.damaged(named, problem.clone());
                let (bucket, key) = (bucket.to_owned(), key.to_owned());
                return Err(ArtifactError::Damaged { bucket, key, problem });
            }
        }
        Err(ArtifactError::fault("read an object")(format!("it was replaced {LOOKS_MAX} times while it was opened")))
    }

    /// First byte and length of what is wanted of an object; `None` for all of it, and for several ranges.
    ///
    /// # Errors
    /// [`ArtifactError::InvalidRange`], [`ArtifactError::InvalidPart`].
    pub fn locate(&self, row: &ObjectRow, wanted: &Wanted) -> Result<Option<(u64, u64)>, ArtifactError> {
        let parts = match (&row.body, wanted) {
            (Body::Parts(body), Wanted::Part(_)) => self.completed_parts(*body)?,
            (Body::One(extent), _) => vec![(1, extent.clone())],
            (Body::Parts(_), _) => Vec::new(),
        };
        let mut ranges = ranges_of(wanted, row.size, &parts)?;
        Ok(if ranges.len() == 1 { ranges.pop() } else { None })
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

    pub(super) fn completed_parts(&self, body: Uuid) -> Result<Vec<(u16, Extent)>, ArtifactError> {
        let chunks = self.chunks(body)?;
        let parts = chunks.into_iter().flat_map(|(_, chunk)| chunk.parts);
        Ok(parts.map(|part| (part.number, part.extent)).collect())
    }
}

/// The file that holds an extent, if it has one of its own.
pub(super) fn file(extent: &Extent) -> Option<Uuid> {
    match extent.place {
        Place::File(id) => Some(id),
        Place::Pack(..) | Place::Cold(..) => None,
    }
}

fn listed(key: &[u8], value: &[u8]) -> Result<(String, ObjectRow), ArtifactError> {
    let read = || Ok((String::from_utf8(key.to_vec()).map_err(|error| error.to_string())?, decode(value)?));
    read().map_err(ArtifactError::fault("read an object's row"))
}

/// First byte and length of each range that is wanted; none for all.
fn ranges_of(wanted: &Wanted, size: u64, parts: &[(u16, Extent)]) -> Result<Vec<(u64, u64)>, ArtifactError> {
    match wanted {
        Wanted::All => Ok(Vec::new()),
        Wanted::Range(asked) => asked.resolve(size).map(|range| vec![range]),
        Wanted::Ranges(asked) => RangeAsked::resolve_all(asked, size),
        Wanted::Part(number) => part_range(parts, *number).map(|range| vec![range]),
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
    match conditions.judge(current) {
        WriteVerdict::Proceed => Ok(()),
        WriteVerdict::Missing => Err(ArtifactError::NoSuchKey { bucket: bucket.to_owned(), key: key.to_owned() }),
        WriteVerdict::Failed(condition) => Err(ArtifactError::PreconditionFailed(condition)),
    }
}

pub(super) fn records(changes: &[Change]) -> Result<Vec<Record>, ArtifactError> {
    let records = changes.iter().map(Change::record).collect::<Result<_, _>>();
    records.map_err(ArtifactError::fault("write a record"))
}
