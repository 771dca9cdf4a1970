//! Versions of a key: where their rows live, and how one is found.
//!
//! `Objects` has one row for each key whose newest version is an object. Reading and listing what is current looks
//! there alone, however many versions and delete markers lie behind. `Versions` has a row for every version and delete
//! marker, newest first, of each key that was changed since its bucket first kept versions: the current one too, so that no
//! row ever moves away from under a reader. `Nulls` says which of a key's rows in `Versions` is its `null` version.
//! A row in `Objects` alone is a key's only version.
//!
//! The order of a key's versions is that of their ids, which [`Held::next_id`] makes rise even when the clock does not.

pub(super) mod listing;
pub(super) mod plan;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Artifacts;
use super::error::ArtifactError;
use super::model::{Body, ObjectRow, Place, Versioning, decode};
use crate::catalogue::Table;
use plan::Held;

/// How often a name is looked up again when what it named was replaced meanwhile.
const LOOKS_MAX: usize = 8;
/// Rows of versions read at once.
pub(super) const FETCH: usize = 1000;

/// What a key may have been at some time.
#[allow(clippy::large_enum_variant, reason = "nearly all are objects")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    #[serde(rename = "o")]
    Object(ObjectRow),
    #[serde(rename = "m")]
    Marker(Marker),
}

/// A delete marker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    #[serde(rename = "v")]
    pub version: Uuid,
    #[serde(rename = "i", default)]
    pub named: bool,
    #[serde(rename = "t")]
    pub modified_ms: u64,
}

/// A version as clients name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionName {
    Null,
    Id(Uuid),
}

impl VersionName {
    fn of(version: Uuid, named: bool) -> Self {
        if named { Self::Id(version) } else { Self::Null }
    }

    /// Reads what [`VersionName`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "null" => Some(Self::Null),
            _ if text.len() == 32 => Uuid::parse_str(text).ok().map(Self::Id),
            _ => None,
        }
    }
}

impl std::fmt::Display for VersionName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Id(id) => write!(f, "{}", id.simple()),
        }
    }
}

impl ObjectRow {
    #[must_use]
    pub fn name(&self) -> VersionName {
        VersionName::of(self.version, self.named)
    }
}

impl Version {
    #[must_use]
    pub fn id(&self) -> Uuid {
        match self {
            Self::Object(row) => row.version,
            Self::Marker(marker) => marker.version,
        }
    }

    #[must_use]
    pub fn named(&self) -> bool {
        match self {
            Self::Object(row) => row.named,
            Self::Marker(marker) => marker.named,
        }
    }

    #[must_use]
    pub fn name(&self) -> VersionName {
        VersionName::of(self.id(), self.named())
    }

    #[must_use]
    pub fn modified_ms(&self) -> u64 {
        match self {
            Self::Object(row) => row.modified_ms,
            Self::Marker(marker) => marker.modified_ms,
        }
    }

    #[must_use]
    pub fn object(&self) -> Option<&ObjectRow> {
        match self {
            Self::Object(row) => Some(row),
            Self::Marker(_) => None,
        }
    }
}

/// Table keys.
pub(super) mod keys {
    use super::Uuid;

    /// Prefix of a bucket's versions with keys that begin with `key_prefix`.
    ///
    /// A key's bytes are raised by one, which UTF-8 leaves room for, so that the NUL behind them sorts before any longer key.
    pub(crate) fn prefix(bucket: &str, key_prefix: &[u8]) -> Vec<u8> {
        let mut row = [bucket.as_bytes(), b"\0"].concat();
        row.extend(key_prefix.iter().map(|byte| byte.wrapping_add(1)));
        row
    }

    /// Prefix of one key's versions.
    pub(crate) fn all(bucket: &str, key: &str) -> Vec<u8> {
        let mut row = prefix(bucket, key.as_bytes());
        row.push(0);
        row
    }

    /// A version's row: the newest first.
    pub(crate) fn version(bucket: &str, key: &str, version: Uuid) -> Vec<u8> {
        let mut row = all(bucket, key);
        row.extend_from_slice(&(!version.as_u128()).to_be_bytes());
        row
    }

    /// Key and id of a version's row.
    pub(crate) fn read(row: &[u8], bucket: &str) -> Option<(String, Uuid)> {
        let rest = row.get(bucket.len() + 1..)?;
        let (key, order) = rest.split_at_checked(rest.len().checked_sub(16)?)?;
        let (0, key) = key.split_last()? else { return None };
        let key = key.iter().map(|byte| byte.wrapping_sub(1)).collect();
        Some((String::from_utf8(key).ok()?, Uuid::from_u128(!u128::from_be_bytes(order.try_into().ok()?))))
    }
}

impl Artifacts {
    /// A version of a key; the newest when none is named. `None` when there is none.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub(super) fn version(
        &self,
        bucket: &str,
        key: &str,
        which: Option<VersionName>,
    ) -> Result<Option<Version>, ArtifactError> {
        let versioning = self.versioning(bucket)?;
        for _ in 0..LOOKS_MAX {
            let current = self.row(bucket, key)?;
            match (which, current) {
                (None, Some(row)) => return Ok(Some(Version::Object(row))),
                (Some(name), Some(row)) if row.name() == name => return Ok(Some(Version::Object(row))),
                (_, _) if versioning == Versioning::Never => return Ok(None),
                // If it is an object, it has become one since.
                (None, None) => return self.after(bucket, key, None),
                (Some(VersionName::Id(id)), _) => return Ok(self.kept(bucket, key, id)?.filter(Version::named)),
                (Some(VersionName::Null), _) => {
                    let Some(id) = self.null(bucket, key)? else { return Ok(None) };
                    match self.kept(bucket, key, id)? {
                        Some(version) => return Ok(Some(version)),
                        None => continue, // another took its place since
                    }
                }
            }
        }
        Err(ArtifactError::fault("find a version")(format!("it was replaced {LOOKS_MAX} times while it was looked up")))
    }

    /// The object that a version is.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`], [`ArtifactError::NoSuchKey`], [`ArtifactError::NoSuchVersion`];
    /// [`ArtifactError::Deleted`] and [`ArtifactError::IsMarker`] when it is a delete marker.
    pub fn find(&self, bucket: &str, key: &str, which: Option<VersionName>) -> Result<ObjectRow, ArtifactError> {
        super::model::check_key(key)?;
        let name = || (bucket.to_owned(), key.to_owned());
        match (self.version(bucket, key, which)?, which) {
            (Some(Version::Object(row)), _) => Ok(row),
            (Some(Version::Marker(marker)), None) => {
                let ((bucket, key), version) = (name(), VersionName::of(marker.version, marker.named));
                Err(ArtifactError::Deleted { bucket, key, version })
            }
            (Some(Version::Marker(marker)), Some(version)) => {
                Err(ArtifactError::IsMarker { version, modified_ms: marker.modified_ms })
            }
            (None, None) => {
                let (bucket, key) = name();
                Err(ArtifactError::NoSuchKey { bucket, key })
            }
            (None, Some(version)) => Err(ArtifactError::NoSuchVersion(version)),
        }
    }

    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub fn versioning(&self, bucket: &str) -> Result<Versioning, ArtifactError> {
        self.0.state.lock().bucket(bucket).map(|bucket| bucket.row.versioning)
    }

    /// A row in `Versions`.
    pub(super) fn kept(&self, bucket: &str, key: &str, id: Uuid) -> Result<Option<Version>, ArtifactError> {
        let found = self.catalogue().get(Table::Versions, &keys::version(bucket, key, id))?;
        found.map(|row| decode(&row)).transpose().map_err(ArtifactError::fault("read a version's row"))
    }

    /// The version that comes after `id`, older than it; the newest when none is given.
    pub(super) fn after(&self, bucket: &str, key: &str, id: Option<Uuid>) -> Result<Option<Version>, ArtifactError> {
        let from = id.map(|id| [keys::version(bucket, key, id).as_slice(), b"\0"].concat()).unwrap_or_default();
        let found = self.catalogue().range(Table::Versions, &keys::all(bucket, key), &from, 1)?;
        let row = found.first().map(|(_, row)| decode(row)).transpose();
        row.map_err(ArtifactError::fault("read a version's row"))
    }

    /// The id of the `null` version, where it has a row in `Versions`.
    pub(super) fn null(&self, bucket: &str, key: &str) -> Result<Option<Uuid>, ArtifactError> {
        let Some(id) = self.catalogue().get(Table::Nulls, &super::model::keys::object(bucket, key))? else {
            return Ok(None);
        };
        let id = Uuid::from_slice(&id).map_err(|error| error.to_string());
        id.map(Some).map_err(ArtifactError::fault("read which version is null"))
    }

    /// What is there of a key. Call it under the key's lock.
    pub(super) fn held(&self, bucket: &str, key: &str) -> Result<Held, ArtifactError> {
        let versioning = self.versioning(bucket)?;
        let current = self.row(bucket, key)?;
        let mut held = Held { versioning, current, ..Held::default() };
        if versioning == Versioning::Never {
            return Ok(held);
        }
        match &held.current {
            Some(row) => held.is_kept = row.named || self.kept(bucket, key, row.version)?.is_some(),
            None => held.newest = self.after(bucket, key, None)?,
        }
        if versioning == Versioning::Suspended
            && held.current.as_ref().is_none_or(|row| row.named)
            && let Some(id) = self.null(bucket, key)?
        {
            held.null = self.kept(bucket, key, id)?;
        }
        Ok(held)
    }

    /// The version of a key whose bytes lie at `place`. `hint` is the id that it was meant to have when its bytes were written.
    pub(super) fn version_at(
        &self,
        bucket: &str,
        key: &str,
        place: &Place,
        hint: Option<Uuid>,
    ) -> Result<Option<ObjectRow>, ArtifactError> {
        let is = |row: &ObjectRow| matches!(&row.body, Body::One(extent) if extent.place == *place);
        if let Some(row) = self.row(bucket, key)?.filter(is) {
            return Ok(Some(row));
        }
        if let Some(hint) = hint
            && let Some(Version::Object(row)) = self.kept(bucket, key, hint)?
            && is(&row)
        {
            return Ok(Some(row));
        }
        // Another put of the key came in between, or nothing refers to the bytes.
        let mut last = None;
        loop {
            let from: Vec<u8> = last.map(|row: Vec<u8>| [row.as_slice(), b"\0"].concat()).unwrap_or_default();
            let rows = self.catalogue().range(Table::Versions, &keys::all(bucket, key), &from, FETCH)?;
            for (_, row) in &rows {
                let version = decode(row).map_err(ArtifactError::fault("read a version's row"))?;
                if let Version::Object(row) = version
                    && is(&row)
                {
                    return Ok(Some(row));
                }
            }
            match rows.into_iter().next_back() {
                Some((row, _)) => last = Some(row),
                // It may have become current while the others were read, of a bucket that keeps none.
                None => return Ok(self.row(bucket, key)?.filter(is)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_keys_and_then_newest_first() {
        let id = Uuid::from_u128;
        let ordered = [("a", id(9)), ("a", id(8)), ("a\0", id(9)), ("a\0b", id(7)), ("ab", id(9)), ("é", id(1))];
        let rows: Vec<_> = ordered.iter().map(|(key, version)| keys::version("bucket", key, *version)).collect();
        assert!(rows.is_sorted());
        for (row, (key, version)) in rows.iter().zip(ordered) {
            assert_eq!(keys::read(row, "bucket"), Some((key.to_owned(), version)));
            assert!(row.starts_with(&keys::all("bucket", key)));
            assert!(row.starts_with(&keys::prefix("bucket", b"a")) == key.starts_with('a'));
        }
        assert!(!rows[2].starts_with(&keys::all("bucket", "a")), "a longer key");
        assert_eq!(keys::read(b"bucket\0", "bucket"), None);
        let longest = keys::version(&"b".repeat(63), &"\u{10ffff}".repeat(256), id(1));
        assert!(longest.len() <= crate::catalogue::KEY_BYTES_MAX);
    }

    #[test]
    fn names_are_read_back_and_nothing_else_is() {
        for name in [VersionName::Null, VersionName::Id(Uuid::from_u128(u128::MAX / 3))] {
            assert_eq!(VersionName::parse(&name.to_string()), Some(name));
        }
        for bad in ["", "NULL", "x", "{00000000-0000-0000-0000-000000000000}", "../../../../../../etc/passwd/////"] {
            assert_eq!(VersionName::parse(bad), None, "{bad}");
        }
    }
}
