//! Conditional requests: what RFC 9110 §13 and S3 make of the four headers, without any I/O.

use super::error::ArtifactError;
use super::model::{ETag, ObjectRow};

/// What `If-Match` or `If-None-Match` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tags {
    /// `*`
    Any,
    /// Opaque tags, without quotes and without the mark of weakness.
    These(Vec<String>),
}

impl Tags {
    fn matches(&self, etag: &ETag) -> bool {
        match self {
            Self::Any => true,
            Self::These(tags) => tags.contains(&etag.to_string()),
        }
    }

    /// Reads a header's list of tags.
    #[must_use]
    pub fn parse(header: &str) -> Self {
        if header.trim() == "*" {
            return Self::Any;
        }
        let tag = |tag: &str| tag.trim().trim_start_matches("W/").trim_matches('"').to_owned();
        Self::These(header.split(',').map(tag).collect())
    }
}

/// Conditions of a read. Times are seconds since 1970, the precision of an HTTP date.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadConditions {
    pub if_match: Option<Tags>,
    pub if_none_match: Option<Tags>,
    pub if_modified_since_s: Option<i64>,
    pub if_unmodified_since_s: Option<i64>,
}

impl ReadConditions {
    /// # Errors
    /// [`ArtifactError::PreconditionFailed`] or [`ArtifactError::NotModified`].
    pub fn check(&self, etag: &ETag, modified_ms: u64) -> Result<(), ArtifactError> {
        let modified_s = i64::try_from(modified_ms / 1000).unwrap_or(i64::MAX);
        match (&self.if_match, self.if_unmodified_since_s) {
            (Some(tags), _) if !tags.matches(etag) => return Err(ArtifactError::PreconditionFailed("If-Match")),
            (None, Some(since)) if modified_s > since => {
                return Err(ArtifactError::PreconditionFailed("If-Unmodified-Since"));
            }
            _ => {}
        }
        match (&self.if_none_match, self.if_modified_since_s) {
            (Some(tags), _) if tags.matches(etag) => Err(ArtifactError::NotModified),
            (None, Some(since)) if modified_s <= since => Err(ArtifactError::NotModified),
            _ => Ok(()),
        }
    }

    /// The same for the source of a copy, where nothing answers 304.
    ///
    /// # Errors
    /// [`ArtifactError::PreconditionFailed`].
    pub fn check_copy_source(&self, etag: &ETag, modified_ms: u64) -> Result<(), ArtifactError> {
        self.check(etag, modified_ms).map_err(|error| match error {
            ArtifactError::NotModified => ArtifactError::PreconditionFailed("x-amz-copy-source-if-…"),
            other => other,
        })
    }
}

/// Conditions of a write, decided under the key's lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteConditions {
    pub if_match: Option<Tags>,
    pub if_none_match: Option<Tags>,
    /// Of deletes alone: the size and the second of the last change that the object must have.
    pub if_size: Option<u64>,
    pub if_modified_s: Option<i64>,
    /// The version that must be there. Clients cannot ask for it.
    pub if_version: Option<uuid::Uuid>,
}

/// What a write's conditions make of the object that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteVerdict {
    Proceed,
    /// `If-Match` of an object that is not there.
    Missing,
    Failed(&'static str),
}

impl WriteConditions {
    #[must_use]
    pub fn judge(&self, current: Option<&ObjectRow>) -> WriteVerdict {
        match (&self.if_match, current) {
            (Some(_), None) => return WriteVerdict::Missing,
            (Some(tags), Some(row)) if !tags.matches(&row.etag) => return WriteVerdict::Failed("If-Match"),
            _ => {}
        }
        let Some(row) = current else {
            let asks = self.if_size.is_some() || self.if_modified_s.is_some() || self.if_version.is_some();
            return if asks { WriteVerdict::Missing } else { WriteVerdict::Proceed };
        };
        let modified_s = i64::try_from(row.modified_ms / 1000).unwrap_or(i64::MAX);
        if self.if_size.is_some_and(|size| size != row.size) {
            return WriteVerdict::Failed("x-amz-if-match-size");
        }
        if self.if_modified_s.is_some_and(|second| second != modified_s) {
            return WriteVerdict::Failed("x-amz-if-match-last-modified-time");
        }
        if self.if_version.is_some_and(|version| version != row.version) {
            return WriteVerdict::Failed("the version");
        }
        match &self.if_none_match {
            Some(tags) if tags.matches(&row.etag) => WriteVerdict::Failed("If-None-Match"),
            _ => WriteVerdict::Proceed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::checksums::Digest;

    fn etag() -> ETag {
        ETag { md5: Digest(vec![0xab; 16]), parts: 2 }
    }

    fn read(if_match: Option<&str>, if_none_match: Option<&str>, ims: Option<i64>, ius: Option<i64>) -> &'static str {
        let conditions = ReadConditions {
            if_match: if_match.map(Tags::parse),
            if_none_match: if_none_match.map(Tags::parse),
            if_modified_since_s: ims,
            if_unmodified_since_s: ius,
        };
        match conditions.check(&etag(), 100_999) {
            Ok(()) => "200",
            Err(ArtifactError::NotModified) => "304",
            Err(_) => "412",
        }
    }

    #[test]
    fn reads_are_judged_as_rfc_9110_says() {
        let same = format!("\"{}\"", etag());
        let weak = format!("\"x\", W/{same}");
        assert_eq!(read(None, None, None, None), "200");
        assert_eq!(read(Some(&same), None, None, None), "200");
        assert_eq!(read(Some("*"), None, None, None), "200");
        assert_eq!(read(Some("\"x\""), None, None, None), "412");
        assert_eq!(read(None, Some(&weak), None, None), "304");
        assert_eq!(read(None, Some("\"x\""), None, None), "200");
        assert_eq!(read(None, None, Some(100), None), "304", "same second");
        assert_eq!(read(None, None, Some(99), None), "200");
        assert_eq!(read(None, None, None, Some(100)), "200");
        assert_eq!(read(None, None, None, Some(99)), "412");
        assert_eq!(read(Some(&same), None, None, Some(99)), "200", "If-Match wins over the date");
        assert_eq!(read(None, Some("\"x\""), Some(100), None), "200", "If-None-Match wins over the date");
    }

    #[test]
    fn writes_are_judged_against_what_is_there() {
        let row = ObjectRow { etag: etag(), size: 7, modified_ms: 3_999, ..ObjectRow::sample() };
        let judge = |if_match: Option<&str>, if_none_match: Option<&str>, there: bool| {
            let (if_match, if_none_match) = (if_match.map(Tags::parse), if_none_match.map(Tags::parse));
            let conditions = WriteConditions { if_match, if_none_match, ..WriteConditions::default() };
            conditions.judge(there.then_some(&row))
        };
        let same = etag().to_string();
        assert_eq!(judge(None, Some("*"), false), WriteVerdict::Proceed);
        assert_eq!(judge(None, Some("*"), true), WriteVerdict::Failed("If-None-Match"));
        assert_eq!(judge(Some(&same), None, true), WriteVerdict::Proceed);
        assert_eq!(judge(Some("other"), None, true), WriteVerdict::Failed("If-Match"));
        assert_eq!(judge(Some(&same), None, false), WriteVerdict::Missing);
        for (if_size, if_modified_s, holds) in
            [(Some(7), None, true), (Some(8), None, false), (None, Some(3), true), (None, Some(4), false)]
        {
            let conditions = WriteConditions { if_size, if_modified_s, ..WriteConditions::default() };
            assert_eq!(conditions.judge(Some(&row)) == WriteVerdict::Proceed, holds, "{conditions:?}");
            assert_eq!(conditions.judge(None), WriteVerdict::Missing);
        }
    }
}
