//! What is held in memory: buckets with their counts, packs with what is live in them.
//!
//! Changed under one lock, in the order in which the records are submitted; each record takes the absolute counts with it.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::documents::{DocumentKind, Documents};
use super::error::ArtifactError;
use super::model::{Body, BucketRow, Counts, ObjectRow, PackRow, Place, decode, keys};
use super::record::After;
use crate::catalogue::{Catalogue, CatalogueError, Table};

/// Rows read from the catalogue at once.
const FETCH: usize = 1000;

#[derive(Clone, Debug)]
pub(super) struct Bucket {
    pub(super) row: BucketRow,
    pub(super) counts: Counts,
    pub(super) documents: Documents,
}

impl Bucket {
    /// An empty one.
    pub(super) fn new(row: BucketRow) -> Self {
        Self { row, counts: Counts::default(), documents: Documents::default() }
    }
}

#[derive(Default)]
pub(super) struct State {
    pub(super) buckets: BTreeMap<String, Bucket>,
    pub(super) packs: HashMap<Uuid, PackRow>,
}

/// What a change adds and takes.
#[derive(Default)]
pub(super) struct Delta<'a> {
    pub(super) added: Option<&'a ObjectRow>,
    pub(super) removed: Option<&'a ObjectRow>,
    pub(super) uploads_begun: u64,
    pub(super) uploads_ended: u64,
}

impl State {
    /// Reads everything from the catalogue.
    pub(super) fn load(catalogue: &Catalogue) -> Result<Self, String> {
        let mut state = Self::default();
        each(catalogue, Table::Buckets, |key, value| {
            let key = std::str::from_utf8(key).map_err(|error| error.to_string())?;
            // A bucket's own row is the first of its rows.
            let Some((name, rest)) = key.split_once('\0') else {
                state.buckets.insert(key.to_owned(), Bucket::new(decode(value)?));
                return Ok(());
            };
            let Some(bucket) = state.buckets.get_mut(name) else { return Ok(()) };
            if rest == "counts" {
                bucket.counts = decode(value)?;
                return Ok(());
            }
            // Skipping a document might open what a policy closes.
            let kind = keys::read_document(rest).and_then(DocumentKind::named);
            bucket.documents.load(kind.ok_or("a bucket has a document of a later Backlot")?, value)
        })?;
        each(catalogue, Table::Packs, |key, value| {
            let pack = Uuid::from_slice(key).map_err(|error| error.to_string())?;
            state.packs.insert(pack, decode(value)?);
            Ok(())
        })?;
        Ok(state)
    }

    pub(super) fn bucket(&self, name: &str) -> Result<&Bucket, ArtifactError> {
        self.buckets.get(name).ok_or_else(|| ArtifactError::NoSuchBucket(name.to_owned()))
    }

    pub(super) fn bucket_mut(&mut self, name: &str) -> Result<&mut Bucket, ArtifactError> {
        self.buckets.get_mut(name).ok_or_else(|| ArtifactError::NoSuchBucket(name.to_owned()))
    }

    /// Counts `delta` and gives what its record takes with it. The record must be submitted under the same lock.
    pub(super) fn count(&mut self, bucket: &str, delta: &Delta<'_>) -> Result<After, ArtifactError> {
        let counts = &mut self.bucket_mut(bucket)?.counts;
        let size = |row: Option<&ObjectRow>| row.map_or(0, |row| row.size);
        counts.objects =
            (counts.objects + u64::from(delta.added.is_some())).saturating_sub(u64::from(delta.removed.is_some()));
        counts.bytes = (counts.bytes + size(delta.added)).saturating_sub(size(delta.removed));
        counts.uploads = (counts.uploads + delta.uploads_begun).saturating_sub(delta.uploads_ended);
        let mut after = After { counts: *counts, packs: Vec::new() };
        let (added, removed) = (delta.added.and_then(packed), delta.removed.and_then(packed));
        if let Some((pack, bytes)) = added {
            let row = self.packs.entry(pack).or_default();
            *row = PackRow { entries: row.entries + 1, bytes: row.bytes + bytes };
            after.packs.push((pack, *row));
        }
        if let Some((pack, bytes)) = removed {
            let row = self.packs.entry(pack).or_default();
            *row = PackRow { entries: row.entries.saturating_sub(1), bytes: row.bytes.saturating_sub(bytes) };
            let now = *row;
            if now.entries == 0 {
                self.packs.remove(&pack);
            }
            after.packs.retain(|(other, _)| *other != pack);
            after.packs.push((pack, now));
        }
        Ok(after)
    }
}

/// The pack that holds an object's bytes, and how many.
fn packed(row: &ObjectRow) -> Option<(Uuid, u64)> {
    match &row.body {
        Body::One(extent) => match extent.place {
            Place::Pack(pack, _) => Some((pack, extent.size)),
            Place::File(_) => None,
        },
        Body::Parts(_) => None,
    }
}

/// Visits all rows of a table in order.
fn each(
    catalogue: &Catalogue,
    table: Table,
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let mut from = Vec::new();
    loop {
        let rows = catalogue.range(table, b"", &from, FETCH).map_err(|error: CatalogueError| error.to_string())?;
        for (key, value) in &rows {
            visit(key, value)?;
        }
        match rows.last() {
            Some((key, _)) if rows.len() == FETCH => from = [key.as_slice(), b"\0"].concat(),
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::checksums::{Digest, crc64};
    use crate::artifacts::model::{Description, ETag, Extent};

    fn row(pack: u128, size: u64) -> ObjectRow {
        ObjectRow {
            version: Uuid::nil(),
            modified_ms: 0,
            size,
            etag: ETag { md5: Digest(vec![0; 16]), parts: 0 },
            body: Body::One(Extent { place: Place::Pack(Uuid::from_u128(pack), 0), size, crc: 0 }),
            checksum: crc64(0),
            description: Description::default(),
        }
    }

    #[test]
    fn counts_follow_puts_overwrites_and_deletes_and_name_each_pack_once() {
        let mut state = State::default();
        assert!(matches!(state.count("b", &Delta::default()), Err(ArtifactError::NoSuchBucket(_))));
        state.buckets.insert("b".into(), Bucket::new(BucketRow { created_ms: 0, region: String::new() }));
        let (first, second, elsewhere) = (row(1, 10), row(1, 4), row(2, 1));
        let put = Delta { added: Some(&first), ..Delta::default() };
        assert_eq!(state.count("b", &put).unwrap().counts, Counts { objects: 1, bytes: 10, uploads: 0 });
        let after =
            state.count("b", &Delta { added: Some(&second), removed: Some(&first), ..Delta::default() }).unwrap();
        assert_eq!(after.counts, Counts { objects: 1, bytes: 4, uploads: 0 });
        assert_eq!(after.packs, [(Uuid::from_u128(1), PackRow { entries: 1, bytes: 4 })]);
        let after =
            state.count("b", &Delta { added: Some(&elsewhere), removed: Some(&second), ..Delta::default() }).unwrap();
        assert_eq!(after.packs.len(), 2);
        assert_eq!(after.packs[1], (Uuid::from_u128(1), PackRow::default()));
        assert_eq!(state.packs.keys().collect::<Vec<_>>(), [&Uuid::from_u128(2)]);
    }
}
