//! Listing versions and delete markers in the order of keys, newest first, page by page.
//!
//! Two tables are merged: `Versions`, and of `Objects` those rows that are their key's only version. A row of `Objects` may turn
//! up in `Versions` but never goes the other way, so that reading `Objects` first sees every version that is there all the while.

use uuid::Uuid;

use super::{FETCH, Version, keys};
use crate::artifacts::Artifacts;
use crate::artifacts::blobs::blocking;
use crate::artifacts::error::ArtifactError;
use crate::artifacts::listing::{behind, rolled};
use crate::artifacts::model::{ObjectRow, Versioning, decode, keys as row_keys};
use crate::catalogue::{Pair, Table};

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct VersionQuery {
    pub prefix: String,
    pub delimiter: Option<String>,
    /// Only what comes behind this version of this key; without an id, behind all versions of it, or behind a common prefix.
    pub after: Option<(String, Option<Uuid>)>,
    /// Most versions, markers and common prefixes together.
    pub max: usize,
}

/// One version in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub version: Version,
    pub is_latest: bool,
}

/// One page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VersionPage {
    pub entries: Vec<Listed>,
    pub common_prefixes: Vec<String>,
    /// Where the next page begins, behind this; `None` when this is the last.
    pub next: Option<(String, Option<Uuid>)>,
}

/// Where to go on: at the first key that is no less, or behind a version of the very key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Position {
    key: Vec<u8>,
    behind: Option<Uuid>,
}

/// Some consecutive versions, and where to go on if there may be more.
struct Fetched {
    entries: Vec<Listed>,
    next: Option<Position>,
}

impl Artifacts {
    /// One page of a bucket's versions and delete markers.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub async fn list_versions(&self, bucket: &str, query: VersionQuery) -> Result<VersionPage, ArtifactError> {
        self.bucket(bucket)?;
        let (artifacts, bucket) = (self.clone(), bucket.to_owned());
        let listed = blocking(move || {
            Ok(list(&query, |position, limit| artifacts.fetch_versions(&bucket, &query.prefix, position, limit)))
        });
        listed.await.map_err(ArtifactError::io("list versions"))?
    }

    fn fetch_versions(
        &self,
        bucket: &str,
        prefix: &str,
        position: &Position,
        limit: usize,
    ) -> Result<Fetched, ArtifactError> {
        let within = row_keys::bucket(bucket);
        let from = [within.as_slice(), &position.key].concat();
        let objects = self.catalogue().range(Table::Objects, &row_keys::object(bucket, prefix), &from, limit)?;
        let versions = if self.versioning(bucket)? == Versioning::Never {
            Vec::new()
        } else {
            let mut from = keys::prefix(bucket, &position.key);
            if let Some(id) = position.behind {
                from.push(0);
                from.extend_from_slice(&(!id.as_u128()).to_be_bytes());
                from.push(0); // behind it
            }
            self.catalogue().range(Table::Versions, &keys::prefix(bucket, prefix.as_bytes()), &from, limit)?
        };
        let (more_objects, more_versions) = (objects.len() == limit, versions.len() == limit);
        let read = || {
            let objects = objects.iter().map(|row| read_object(row, within.len())).collect::<Result<_, _>>()?;
            let versions = versions.iter().map(|row| read_version(row, bucket)).collect::<Result<_, _>>()?;
            Ok((objects, versions))
        };
        let (objects, versions) = read().map_err(ArtifactError::fault("read a version's row"))?;
        let mut fetched = merge(position, (objects, more_objects), (versions, more_versions));
        // What is behind a version of the very key is its newest only where all before it have gone meanwhile.
        if position.behind.is_some()
            && let Some(first) = fetched.entries.first_mut()
            && first.key.as_bytes() == position.key
        {
            let newest = self.after(bucket, &first.key, None)?;
            first.is_latest = newest.is_none_or(|newest| newest.id() == first.version.id());
        }
        Ok(fetched)
    }
}

fn read_object((key, value): &Pair, skip: usize) -> Result<(String, ObjectRow), String> {
    let key = key.get(skip..).unwrap_or_default().to_vec();
    Ok((String::from_utf8(key).map_err(|error| error.to_string())?, decode(value)?))
}

fn read_version((key, value): &Pair, bucket: &str) -> Result<(String, Version), String> {
    let (key, _) = keys::read(key, bucket).ok_or("a version's key is not understood")?;
    Ok((key, decode(value)?))
}

/// Puts both tables' rows together, as far as both were read.
fn merge(
    position: &Position,
    (objects, more_objects): (Vec<(String, ObjectRow)>, bool),
    (versions, more_versions): (Vec<(String, Version)>, bool),
) -> Fetched {
    let object_end = objects.last().filter(|_| more_objects).map(|(key, _)| key.clone());
    let version_end = versions.last().filter(|_| more_versions).map(|(key, version)| (key.clone(), version.id()));
    let next = match (&object_end, version_end) {
        (Some(end), Some((key, _))) if *end < key => Some(Position { key: past(end), behind: None }),
        (_, Some((key, id))) => Some(Position { key: key.into_bytes(), behind: Some(id) }),
        (Some(end), None) => Some(Position { key: past(end), behind: None }),
        (None, None) => None,
    };
    let is_read = |key: &str| match &next {
        None => true,
        Some(Position { key: end, behind: None }) => key.as_bytes() < end.as_slice(),
        Some(Position { key: end, behind: Some(_) }) => key.as_bytes() <= end.as_slice(),
    };
    let mut entries = Vec::with_capacity(versions.len());
    let mut alone = objects.into_iter().filter(|(key, _)| is_read(key)).peekable();
    let mut before: Option<String> = None;
    for (key, version) in versions.into_iter().filter(|(key, _)| is_read(key)) {
        while let Some((other, row)) = alone.next_if(|(other, _)| *other < key) {
            entries.push(Listed { key: other, version: Version::Object(row), is_latest: true });
        }
        while alone.next_if(|(other, _)| *other == key).is_some() {} // it is among the versions
        let is_latest = before.as_ref() != Some(&key);
        before = Some(key.clone());
        entries.push(Listed { key, version, is_latest });
    }
    for (key, row) in alone {
        entries.push(Listed { key, version: Version::Object(row), is_latest: true });
    }
    if let Some(id) = position.behind {
        // Of the very key, what was told before.
        entries.retain(|entry| entry.key.as_bytes() != position.key || entry.version.id() < id);
    }
    Fetched { entries, next }
}

/// The first bytes that sort behind a key.
fn past(key: &str) -> Vec<u8> {
    [key.as_bytes(), b"\0"].concat()
}

/// Lists one page. `fetch(position, limit)` gives some versions from `position` on, in order, all of them within
/// `query.prefix`, and where to go on.
fn list<E>(
    query: &VersionQuery,
    mut fetch: impl FnMut(&Position, usize) -> Result<Fetched, E>,
) -> Result<VersionPage, E> {
    let mut page = VersionPage::default();
    if query.max == 0 {
        return Ok(page);
    }
    let rolled = |key: &str| rolled(key, &query.prefix, query.delimiter.as_deref());
    let mut position = match &query.after {
        None => Position { key: query.prefix.clone().into_bytes(), behind: None },
        Some((after, _)) if rolled(after).as_ref() == Some(after) => Position { key: behind(after), behind: None },
        Some((key, None)) => Position { key: past(key), behind: None },
        Some((key, id)) => Position { key: key.clone().into_bytes(), behind: *id },
    };
    let mut skip = Vec::new();
    let mut last = None;
    loop {
        let Fetched { entries, next } = fetch(&position, FETCH.min(query.max + 1))?;
        for entry in entries {
            if entry.key.as_bytes() < skip.as_slice() {
                continue; // under a prefix that was rolled up
            }
            if page.entries.len() + page.common_prefixes.len() == query.max {
                page.next = last;
                return Ok(page);
            }
            match rolled(&entry.key) {
                Some(prefix) => {
                    skip = behind(&prefix);
                    last = Some((prefix.clone(), None));
                    page.common_prefixes.push(prefix);
                }
                None => {
                    last = Some((entry.key.clone(), Some(entry.version.id())));
                    page.entries.push(entry);
                }
            }
        }
        match next {
            None => return Ok(page),
            Some(next) if next.key < skip => position = Position { key: skip.clone(), behind: None },
            Some(next) => position = next,
        }
    }
}
