//! Multipart uploads: parts are files from the start, and completing an upload moves no bytes.
//!
//! A completed object refers to its parts' blobs through chunk rows. Its ETag is the MD5 of the parts' MD5s with their
//! number; its checksum is composite, or, for CRCs where asked for, combined from the parts' own.

mod listing;

use backlot_journal::Class;
use uuid::Uuid;

use super::checksums::{Algorithm, Checksum, Digest, combine, composite, crc64, md5_of, parse_value};
use super::conditions::WriteConditions;
use super::engine::{RECORD_SLACK_BYTES, Stored, file, judge, records};
use super::error::ArtifactError;
use super::intake::{Expected, Received};
use super::label::What;
use super::lock::Lock;
use super::model::{
    Body, CompletedPart, Description, ETag, OBJECT_BYTES_MAX, ObjectRow, PART_BYTES_MIN, PARTS_MAX, PARTS_PER_CHUNK,
    PartChunk, PartRow, Tier, UploadRow, Versioning, check_key, decode, keys,
};
use super::record::{After, Change, Dropped};
use super::seal_keys::Seal;
use super::state::{Delta, State};
use super::tags::Tag;
use super::work::{Garbage, Work};
use super::{Artifacts, new_id};
use crate::catalogue::Table;

/// Which upload: the id alone names it, bucket and key must agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadName {
    pub bucket: String,
    pub key: String,
    pub id: Uuid,
}

/// What an upload is begun with, beside its key.
#[derive(Clone, Debug, Default)]
pub struct Begin {
    pub description: Description,
    pub algorithm: Option<Algorithm>,
    pub full_object: bool,
    /// As [`super::tags::checked`] gives them.
    pub tags: Vec<Tag>,
    pub lock: Lock,
    /// How its parts are encrypted.
    pub seal: Option<Seal>,
}

/// A part as the client lists it to complete an upload.
#[derive(Clone, Debug, Default)]
pub struct ListedPart {
    pub number: u16,
    /// Without quotes.
    pub etag: Option<String>,
    pub checksum: Option<(Algorithm, String)>,
}

/// A completion, beside its parts.
#[derive(Clone, Debug, Default)]
pub struct Completion {
    pub conditions: WriteConditions,
    /// Of the whole object, as the client computed it.
    pub checksum: Option<(Algorithm, String)>,
    pub size: Option<u64>,
}

impl Artifacts {
    /// Begins an upload.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`]; metadata or key over their limits; a checksum type that the algorithm does not have.
    pub async fn create_upload(&self, bucket: &str, key: &str, begin: Begin) -> Result<Uuid, ArtifactError> {
        let Begin { description, algorithm, full_object, tags, lock, seal } = begin;
        check_key(key)?;
        description.check()?;
        if lock != Lock::default() {
            self.locked(bucket, lock, self.now().wall_ms)?; // refused now, and not when all parts are here
        }
        let composes = !matches!(algorithm, Some(Algorithm::Crc64Nvme));
        if algorithm.is_some_and(|algorithm| full_object && !algorithm.is_crc()) {
            let problem = "a FULL_OBJECT checksum of parts is possible with CRC32, CRC32C and CRC64NVME";
            return Err(ArtifactError::InvalidRequest(problem.into()));
        }
        let now = self.now();
        let upload = new_id(now);
        let full_object = full_object || !composes || algorithm.is_none();
        let row =
            UploadRow { initiated_ms: now.wall_ms, description, algorithm, full_object, lock: lock.boxed(), seal };
        let (bucket, key) = (bucket.to_owned(), key.to_owned());
        let after = After::default();
        let mut made = Change::UploadMade { bucket: bucket.clone(), key, upload, row, tags, after };
        let record = made.record().map_err(ArtifactError::fault("write a record"))?;
        let room = record.payload.len() + RECORD_SLACK_BYTES; // for the counts, which are not known yet
        let decide = |state: &mut State| {
            let counted = state.count(&bucket, &Delta { uploads_begun: 1, ..Delta::default() })?;
            if let Change::UploadMade { after, .. } = &mut made {
                *after = counted;
            }
            Ok((records(&[made])?, upload))
        };
        self.commit(None, room, Class::Growing, decide, || {}).await
    }

    /// # Errors
    /// [`ArtifactError::NoSuchUpload`], also when bucket or key are another's.
    pub fn upload(&self, name: &UploadName) -> Result<UploadRow, ArtifactError> {
        self.bucket(&name.bucket)?;
        let row = self.catalogue().get(Table::Uploads, &keys::upload(&name.bucket, &name.key, name.id))?;
        let row = row.ok_or(ArtifactError::NoSuchUpload)?;
        decode(&row).map_err(ArtifactError::fault("read an upload's row"))
    }

    /// Puts one part, over an earlier one of its number.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchUpload`]; the bytes are not what was expected.
    pub async fn put_part(
        &self,
        name: &UploadName,
        number: u16,
        expected: &Expected,
        received: Received,
    ) -> Result<PartRow, ArtifactError> {
        check_number(number)?;
        let upload = self.upload(name)?;
        expected.verify(received.digests())?;
        let digests = received.digests().clone();
        if upload.algorithm.is_some_and(|algorithm| digests.value(algorithm).is_none()) {
            let wanted = upload.algorithm.map_or("", Algorithm::name);
            return Err(ArtifactError::InvalidRequest(format!("the upload was begun with {wanted} checksums")));
        }
        let (is_sealed, md5) = (received.seal().is_some(), received.etag().md5.clone());
        if is_sealed != upload.seal.is_some() {
            return Err(ArtifactError::InvalidRequest("a part is encrypted as its upload is".into()));
        }
        let what = What::Part { upload: name.id, number };
        let settled = self.settle(received, &name.bucket, &name.key, what, &Description::default(), None).await?;
        let lock = self.lock(&name.bucket, &name.key).await;
        self.upload(name)?; // it may have ended while the bytes came
        let key = keys::part(name.id, number);
        let earlier = self.catalogue().get(Table::Parts, &key)?.map(|row| decode::<PartRow>(&row));
        let earlier = earlier.transpose().map_err(ArtifactError::fault("read a part's row"))?;
        let garbage = Garbage { files: earlier.iter().filter_map(|row| file(&row.extent)).collect(), body: None };
        let row = PartRow {
            modified_ms: self.now().wall_ms,
            md5,
            extent: settled.extent.clone(),
            // The extent's own checksum is that of the bytes only where these are not encrypted.
            checksum: upload.algorithm.map(|_| digests.checksum()).or(is_sealed.then(|| crc64(digests.crc))),
        };
        let id = name.id;
        let decide = |_: &mut State| {
            let records = records(&[Change::PartPut { upload: id, number, row: row.clone() }])?;
            Ok((records, (row, settled.keep())))
        };
        let artifacts = self.clone();
        let then = move || artifacts.remove(garbage);
        let (row, _) = self.commit(Some(lock), RECORD_SLACK_BYTES, Class::Growing, decide, then).await?;
        Ok(row)
    }

    /// Parts of an upload with numbers above `after`, at most `limit`.
    ///
    /// # Errors
    /// The catalogue cannot be read.
    pub fn parts(&self, upload: Uuid, after: u16, limit: usize) -> Result<Vec<(u16, PartRow)>, ArtifactError> {
        let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
        let rows = self.catalogue().range(Table::Parts, &keys::parts(upload), &keys::part(upload, from), limit)?;
        let part = |(key, value): (Vec<u8>, Vec<u8>)| {
            Ok((keys::number(&key).ok_or("a part's key has no number")?, decode(&value)?))
        };
        rows.into_iter().map(part).collect::<Result<_, String>>().map_err(ArtifactError::fault("read parts"))
    }

    /// Puts an object together from parts of an upload, which ends. Asked again with the same parts, it answers the same.
    ///
    /// # Errors
    /// [`ArtifactError::InvalidPart`], [`ArtifactError::InvalidPartOrder`], [`ArtifactError::EntityTooSmall`],
    /// [`ArtifactError::NoSuchUpload`]; a condition does not hold.
    pub async fn complete(
        &self,
        name: &UploadName,
        listed: &[ListedPart],
        completion: Completion,
    ) -> Result<Stored, ArtifactError> {
        let lock = self.lock(&name.bucket, &name.key).await;
        let upload = match self.upload(name) {
            Err(ArtifactError::NoSuchUpload) => return self.completed_before(name, listed),
            other => other?,
        };
        let all = self.parts(name.id, 0, usize::from(PARTS_MAX))?;
        let chosen = choose(&all, listed)?;
        let size: u64 = chosen.iter().map(|(_, part)| part.extent.size).sum();
        if size > OBJECT_BYTES_MAX {
            return Err(ArtifactError::EntityTooLarge { max: OBJECT_BYTES_MAX });
        }
        if completion.size.is_some_and(|expected| expected != size) {
            return Err(ArtifactError::InvalidRequest(format!("the parts have {size} bytes together")));
        }
        let checksum = checksum_of(&upload, &chosen)?;
        verify_whole(completion.checksum.as_ref(), &checksum)?;
        let held = self.held(&name.bucket, &name.key)?;
        judge(&completion.conditions, held.current.as_ref(), &name.bucket, &name.key)?;

        let is_chosen = |number: &u16| chosen.binary_search_by_key(number, |(chosen, _)| *chosen).is_ok();
        let unused = all.iter().filter(|(number, _)| !is_chosen(number));
        let garbage = Garbage { files: unused.filter_map(|(_, part)| file(&part.extent)).collect(), body: None };
        let ended = Dropped::Upload {
            bucket: name.bucket.clone(),
            key: name.key.clone(),
            upload: name.id,
            parts: all.iter().map(|(number, _)| *number).collect(),
        };
        let md5s: Vec<Digest> = chosen.iter().map(|(_, part)| part.md5.clone()).collect();
        let (now, tags) = (self.now(), self.tags(name.id)?);
        let row = ObjectRow {
            version: held.next_id(new_id(now)),
            named: held.versioning == Versioning::Enabled,
            modified_ms: now.wall_ms,
            size,
            etag: ETag { md5: md5_of(&md5s), parts: u16::try_from(md5s.len()).unwrap_or(u16::MAX) },
            body: Body::Parts(name.id),
            checksum,
            description: upload.description,
            tags: u16::try_from(tags.len()).unwrap_or(u16::MAX),
            lock: self.locked(&name.bucket, upload.lock.map(|lock| *lock).unwrap_or_default(), now.wall_ms)?.boxed(),
            seal: upload.seal,
            tier: Tier::Here,
        };
        let stored = Stored::of(&row, &tags);
        let parts = completed(&chosen);
        let before = chunk(name.id, &parts);
        let manifest = self.write_manifest(&name.bucket, &name.key, &row, parts).await?;
        let mut plan = held.put(&name.bucket, &name.key, row, tags);
        plan.change.dropped.push(ended);
        let work = Work { plan, before, uploads_ended: 1, garbage };
        self.carry_out(lock, Class::Growing, work, || manifest).await?;
        Ok(stored)
    }

    /// A client that has not heard the answer asks again.
    fn completed_before(&self, name: &UploadName, listed: &[ListedPart]) -> Result<Stored, ArtifactError> {
        let row = self.row(&name.bucket, &name.key)?.ok_or(ArtifactError::NoSuchUpload)?;
        let md5s: Option<Vec<Digest>> =
            listed.iter().map(|part| hex::decode(part.etag.as_deref()?).ok().map(Digest)).collect();
        match md5s {
            Some(md5s) if row.body == Body::Parts(name.id) && row.etag.md5 == md5_of(&md5s) => {
                Ok(Stored::of(&row, &self.tags(row.version)?))
            }
            _ => Err(ArtifactError::NoSuchUpload),
        }
    }

    /// Ends an upload and removes its parts.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchUpload`].
    pub async fn abort(&self, name: &UploadName) -> Result<(), ArtifactError> {
        let lock = self.lock(&name.bucket, &name.key).await;
        self.upload(name)?;
        let parts = self.parts(name.id, 0, usize::from(PARTS_MAX))?;
        let garbage = Garbage { files: parts.iter().filter_map(|(_, part)| file(&part.extent)).collect(), body: None };
        let dropped = vec![Dropped::Upload {
            bucket: name.bucket.clone(),
            key: name.key.clone(),
            upload: name.id,
            parts: parts.iter().map(|(number, _)| *number).collect(),
        }];
        let room = parts.len() * 3 + 2 * RECORD_SLACK_BYTES;
        let bucket = name.bucket.clone();
        let decide = |state: &mut State| {
            let after = state.count(&bucket, &Delta { uploads_ended: 1, ..Delta::default() })?;
            Ok((records(&[Change::UploadGone { bucket, dropped, after }])?, ()))
        };
        let artifacts = self.clone();
        self.commit(Some(lock), room, Class::Shrinking, decide, move || artifacts.remove(garbage)).await
    }
}

/// S3 numbers parts from 1 to 10,000.
pub(super) fn check_number(number: u16) -> Result<(), ArtifactError> {
    if (1..=PARTS_MAX).contains(&number) {
        return Ok(());
    }
    Err(ArtifactError::InvalidArgument(format!("part numbers are 1 to {PARTS_MAX}")))
}

/// The uploaded parts that the client lists, checked.
fn choose(all: &[(u16, PartRow)], listed: &[ListedPart]) -> Result<Vec<(u16, PartRow)>, ArtifactError> {
    if listed.is_empty() {
        return Err(ArtifactError::InvalidRequest("an upload is completed with at least one part".into()));
    }
    if listed.windows(2).any(|pair| pair[0].number >= pair[1].number) {
        return Err(ArtifactError::InvalidPartOrder);
    }
    let mut chosen = Vec::with_capacity(listed.len());
    for part in listed {
        let wrong = || ArtifactError::InvalidPart(part.number);
        let found = all.binary_search_by_key(&part.number, |(number, _)| *number).map_err(|_| wrong())?;
        let row = all.get(found).map(|(_, row)| row).ok_or_else(wrong)?;
        if part.etag.as_ref().is_some_and(|etag| *etag != hex::encode(&row.md5.0)) {
            return Err(wrong());
        }
        if let (Some((algorithm, text)), Some(checksum)) = (&part.checksum, &row.checksum)
            && (*algorithm != checksum.algorithm || *text != checksum.text())
        {
            return Err(wrong());
        }
        chosen.push((part.number, row.clone()));
    }
    let short = chosen
        .split_last()
        .and_then(|(_, but_last)| but_last.iter().find(|(_, part)| part.extent.size < PART_BYTES_MIN));
    match short {
        Some((number, part)) => Err(ArtifactError::EntityTooSmall { number: *number, bytes: part.extent.size }),
        None => Ok(chosen),
    }
}

/// The checksum that the completed object has.
fn checksum_of(upload: &UploadRow, parts: &[(u16, PartRow)]) -> Result<Checksum, ArtifactError> {
    let algorithm = upload.algorithm.unwrap_or(Algorithm::Crc64Nvme);
    let value = |(number, part): &(u16, PartRow)| match &part.checksum {
        Some(checksum) if checksum.algorithm == algorithm => Ok(checksum.value.clone()),
        _ if algorithm == Algorithm::Crc64Nvme => Ok(crc64(part.extent.crc).value),
        _ => Err(ArtifactError::InvalidPart(*number)),
    };
    let values = parts.iter().map(value).collect::<Result<Vec<_>, _>>()?;
    if !upload.full_object {
        return Ok(composite(algorithm, &values));
    }
    let mut whole: Option<Digest> = None;
    for ((_, part), value) in parts.iter().zip(values) {
        whole = match whole {
            None => Some(value),
            Some(before) => combine(algorithm, &before, &value, part.extent.size),
        };
    }
    match whole {
        Some(value) => Ok(Checksum { algorithm, parts: 0, value }),
        None => Err(ArtifactError::fault("combine checksums")(format!("{} does not combine", algorithm.name()))),
    }
}

/// Compares the checksum that the client sent with the one that the object will have.
fn verify_whole(sent: Option<&(Algorithm, String)>, checksum: &Checksum) -> Result<(), ArtifactError> {
    let Some((algorithm, text)) = sent else { return Ok(()) };
    if *algorithm != checksum.algorithm {
        return Err(ArtifactError::InvalidRequest(format!(
            "the upload's checksums are {}, not {}",
            checksum.algorithm.name(),
            algorithm.name()
        )));
    }
    // A composite value may be sent with or without its number of parts.
    let value = text.split_once('-').map_or(text.as_str(), |(value, _)| value);
    if parse_value(*algorithm, value).as_ref() == Some(&checksum.value) {
        Ok(())
    } else {
        Err(ArtifactError::BadDigest(algorithm.name()))
    }
}

/// Parts as their object keeps them.
fn completed(parts: &[(u16, PartRow)]) -> Vec<CompletedPart> {
    let part = |(number, part): &(u16, PartRow)| CompletedPart {
        number: *number,
        extent: part.extent.clone(),
        checksum: part.checksum.clone(),
    };
    parts.iter().map(part).collect()
}

/// The rows of a completed object's parts.
pub(super) fn chunk(body: Uuid, parts: &[CompletedPart]) -> Vec<Change> {
    let mut offset = 0;
    let mut changes = Vec::with_capacity(parts.len() / PARTS_PER_CHUNK + 1);
    for parts in parts.chunks(PARTS_PER_CHUNK) {
        let chunk = PartChunk { offset, parts: parts.to_vec() };
        offset += parts.iter().map(|part| part.extent.size).sum::<u64>();
        let first = parts.first().map_or(0, |part| part.number);
        changes.push(Change::Chunk { body, first, chunk });
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::checksums::Hasher;
    use crate::artifacts::model::{Extent, Place};

    fn part(number: u16, bytes: &[u8], algorithm: Option<Algorithm>) -> (u16, PartRow) {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        let digests = hasher.finish();
        let extent =
            Extent { place: Place::File(Uuid::from_u128(number.into())), size: digests.size, crc: digests.crc };
        let checksum = algorithm.and(Some(digests.checksum()));
        (number, PartRow { modified_ms: 0, md5: digests.md5, extent, checksum })
    }

    fn upload(algorithm: Option<Algorithm>, full_object: bool) -> UploadRow {
        let description = Description::default();
        UploadRow { initiated_ms: 0, description, algorithm, full_object, lock: None, seal: None }
    }

    #[test]
    fn a_full_object_checksum_is_that_of_the_bytes_put_together() {
        for algorithm in [None, Some(Algorithm::Crc32), Some(Algorithm::Crc32c), Some(Algorithm::Crc64Nvme)] {
            let parts = [part(1, b"all the", algorithm), part(3, b"", algorithm), part(4, b" world's", algorithm)];
            let mut whole = Hasher::new(algorithm);
            whole.update(b"all the world's");
            assert_eq!(checksum_of(&upload(algorithm, true), &parts).unwrap(), whole.finish().checksum());
        }
        let parts = [part(1, b"a", Some(Algorithm::Sha1)), part(2, b"b", Some(Algorithm::Sha1))];
        assert_eq!(checksum_of(&upload(Some(Algorithm::Sha1), false), &parts).unwrap().parts, 2);
        assert!(checksum_of(&upload(Some(Algorithm::Crc32), false), &parts).is_err());
    }

    #[test]
    fn the_list_of_parts_is_checked() {
        let big = vec![7; usize::try_from(PART_BYTES_MIN).unwrap()];
        let all = [part(1, &big, None), part(2, b"short", None), part(5, b"last", None)];
        let listed = |numbers: &[u16]| {
            numbers.iter().map(|&number| ListedPart { number, ..ListedPart::default() }).collect::<Vec<_>>()
        };
        assert_eq!(choose(&all, &listed(&[1, 5])).unwrap().len(), 2);
        assert!(matches!(choose(&all, &[]), Err(ArtifactError::InvalidRequest(_))));
        assert!(matches!(choose(&all, &listed(&[5, 1])), Err(ArtifactError::InvalidPartOrder)));
        assert!(matches!(choose(&all, &listed(&[1, 1])), Err(ArtifactError::InvalidPartOrder)));
        assert!(matches!(choose(&all, &listed(&[1, 3])), Err(ArtifactError::InvalidPart(3))));
        assert!(matches!(choose(&all, &listed(&[1, 2, 5])), Err(ArtifactError::EntityTooSmall { number: 2, .. })));
        let mut wrong = listed(&[1]);
        wrong[0].etag = Some("00".repeat(16));
        assert!(matches!(choose(&all, &wrong), Err(ArtifactError::InvalidPart(1))));
    }
}
