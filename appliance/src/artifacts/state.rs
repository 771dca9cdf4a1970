//! What is held in memory: buckets with their counts, packs with what is live in them.
//!
//! Changed under one lock, in the order in which the records are submitted; each record takes the absolute counts with it.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::documents::{DocumentKind, Documents};
use super::error::ArtifactError;
use super::model::{Body, BucketRow, Counts, ObjectRow, PackRow, Place, decode, keys};
use super::quota;
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

/// One version, as far as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Current(Stored),
    Noncurrent(Stored),
    Marker,
}

/// How much a version holds, and of which pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    bytes: u64,
    packed: Option<(Uuid, u64)>,
    is_cold: bool,
}

impl Stored {
    fn of(row: &ObjectRow) -> Self {
        Self { bytes: row.size, packed: packed(row), is_cold: row.cold_class().is_some() }
    }
}

impl Counted {
    pub(super) fn current(row: &ObjectRow) -> Self {
        Self::Current(Stored::of(row))
    }

    pub(super) fn noncurrent(row: &ObjectRow) -> Self {
        Self::Noncurrent(Stored::of(row))
    }

    fn packed(&self) -> Option<(Uuid, u64)> {
        match self {
            Self::Current(stored) | Self::Noncurrent(stored) => stored.packed,
            Self::Marker => None,
        }
    }

    /// How many bytes of it are in the cold tier.
    fn cold_bytes(&self) -> Option<u64> {
        match self {
            Self::Current(stored) | Self::Noncurrent(stored) => stored.is_cold.then_some(stored.bytes),
            Self::Marker => None,
        }
    }
}

/// What a change adds and takes. A version that is no longer current goes as one and comes as the other.
#[derive(Default)]
pub(super) struct Delta<'a> {
    pub(super) came: &'a [Counted],
    pub(super) went: &'a [Counted],
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
        let bucket = self.bucket_mut(bucket)?;
        let mut now = bucket.counts;
        let counts = &mut now;
        for counted in delta.came {
            let (number, bytes, added) = counts.of(counted);
            *number += 1;
            if let Some(bytes) = bytes {
                *bytes += added;
            }
        }
        for counted in delta.went {
            let (number, bytes, taken) = counts.of(counted);
            *number = number.saturating_sub(1);
            if let Some(bytes) = bytes {
                *bytes = bytes.saturating_sub(taken);
            }
        }
        for bytes in delta.came.iter().filter_map(Counted::cold_bytes) {
            (counts.cold, counts.cold_bytes) = (counts.cold + 1, counts.cold_bytes + bytes);
        }
        for bytes in delta.went.iter().filter_map(Counted::cold_bytes) {
            (counts.cold, counts.cold_bytes) = (counts.cold.saturating_sub(1), counts.cold_bytes.saturating_sub(bytes));
        }
        counts.uploads = (counts.uploads + delta.uploads_begun).saturating_sub(delta.uploads_ended);
        quota::check(&bucket.documents, &bucket.counts, &now)?;
        bucket.counts = now;
        let mut after = After { counts: now, packs: Vec::new() };
        for (pack, bytes) in delta.came.iter().filter_map(Counted::packed) {
            let row = self.packs.entry(pack).or_default();
            *row = PackRow { entries: row.entries + 1, bytes: row.bytes + bytes };
            after.packs.push((pack, *row));
        }
        for (pack, bytes) in delta.went.iter().filter_map(Counted::packed) {
            let row = self.packs.entry(pack).or_default();
            *row = PackRow { entries: row.entries.saturating_sub(1), bytes: row.bytes.saturating_sub(bytes) };
            after.packs.push((pack, *row));
        }
        // Each pack once, as it is now.
        after.packs.sort_by_key(|(pack, _)| *pack);
        after.packs.dedup_by_key(|(pack, _)| *pack);
        for (pack, row) in &mut after.packs {
            *row = self.packs.get(pack).copied().unwrap_or_default();
            if row.entries == 0 {
                self.packs.remove(pack);
            }
        }
        Ok(after)
    }
}

impl Counts {
    /// Where a version is counted, and what it adds there.
    fn of(&mut self, counted: &Counted) -> (&mut u64, Option<&mut u64>, u64) {
        match counted {
            Counted::Current(stored) => (&mut self.objects, Some(&mut self.bytes), stored.bytes),
            Counted::Noncurrent(stored) => (&mut self.noncurrent, Some(&mut self.noncurrent_bytes), stored.bytes),
            Counted::Marker => (&mut self.markers, None, 0),
        }
    }
}

/// The pack that holds an object's bytes, and how many.
fn packed(row: &ObjectRow) -> Option<(Uuid, u64)> {
    match &row.body {
        Body::One(extent) => match extent.place {
            Place::Pack(pack, _) => Some((pack, extent.size)),
            Place::File(_) | Place::Cold(..) => None,
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
    use crate::artifacts::model::Extent;

    fn row(pack: u128, size: u64) -> ObjectRow {
        ObjectRow {
            size,
            body: Body::One(Extent { place: Place::Pack(Uuid::from_u128(pack), 0), size, crc: 0 }),
            ..ObjectRow::sample()
        }
    }

    #[test]
    fn counts_follow_puts_overwrites_and_deletes_and_name_each_pack_once() {
        let mut state = State::default();
        assert!(matches!(state.count("b", &Delta::default()), Err(ArtifactError::NoSuchBucket(_))));
        state.buckets.insert("b".into(), Bucket::new(BucketRow::default()));
        let (first, second, elsewhere) = (row(1, 10), row(1, 4), row(2, 1));
        let [first_counted, second_counted, elsewhere_counted] = [&first, &second, &elsewhere].map(Counted::current);
        let mut count =
            |came: &[Counted], went: &[Counted]| state.count("b", &Delta { came, went, ..Delta::default() }).unwrap();
        let counts = |objects, bytes| Counts { objects, bytes, ..Counts::default() };
        assert_eq!(count(&[first_counted], &[]).counts, counts(1, 10));
        let after = count(&[second_counted], &[first_counted]);
        assert_eq!(after.counts, counts(1, 4));
        assert_eq!(after.packs, [(Uuid::from_u128(1), PackRow { entries: 1, bytes: 4 })]);
        let after = count(&[elsewhere_counted], &[second_counted]);
        assert_eq!(after.packs[0], (Uuid::from_u128(1), PackRow::default()));
        assert_eq!(after.packs.len(), 2);
        let after = count(&[Counted::noncurrent(&elsewhere), Counted::Marker], &[elsewhere_counted]);
        let kept = Counts { noncurrent: 1, noncurrent_bytes: 1, markers: 1, ..Counts::default() };
        assert_eq!((after.counts, after.counts.is_empty()), (kept, false));
        assert_eq!(after.packs, [(Uuid::from_u128(2), PackRow { entries: 1, bytes: 1 })]);
        assert!(count(&[], &[Counted::noncurrent(&elsewhere), Counted::Marker]).counts.is_empty());
        assert!(state.packs.is_empty());
    }
}
