//! Tags of objects and buckets: what S3 takes as one, how they are written in a header, and their rows.
//!
//! A version's tags lie beside its row, which has only their number: up to ten of up to 128 and 256 letters, a row each.
//! They belong to the version's id and stay where they are when it is no longer current.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::error::ArtifactError;
use super::model::{decode, encode};
use super::{Artifacts, DocumentKind};
use crate::catalogue::{Batch, Table};

/// Most tags of an object (S3).
pub(super) const TAGS_MAX: usize = 10;
/// Most tags of a bucket (S3).
pub(super) const BUCKET_TAGS_MAX: usize = 50;
/// Longest key and value, in letters (S3).
const KEY_LETTERS_MAX: usize = 128;
const VALUE_LETTERS_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tag {
    #[serde(rename = "k")]
    pub key: String,
    #[serde(rename = "v")]
    pub value: String,
}

/// Checks tags and puts them in the order of their keys.
///
/// # Errors
/// [`ArtifactError::InvalidTag`].
pub(super) fn checked(mut tags: Vec<Tag>, most: usize) -> Result<Vec<Tag>, ArtifactError> {
    let wrong = |problem: String| Err(ArtifactError::InvalidTag(problem));
    if tags.len() > most {
        return wrong(format!("there are at most {most} tags"));
    }
    // What AWS takes: letters, digits and spaces of any language, and these.
    let is_taken = |letter: char| letter.is_alphanumeric() || letter.is_whitespace() || "_.:/=+-@".contains(letter);
    for Tag { key, value } in &tags {
        if key.is_empty() || key.chars().count() > KEY_LETTERS_MAX {
            return wrong(format!("a tag's key has 1 to {KEY_LETTERS_MAX} letters"));
        }
        if value.chars().count() > VALUE_LETTERS_MAX {
            return wrong(format!("a tag's value has at most {VALUE_LETTERS_MAX} letters"));
        }
        if key.starts_with("aws:") || !key.chars().chain(value.chars()).all(is_taken) {
            return wrong(format!("the tag `{key}` has a prefix or a letter that is not taken"));
        }
    }
    let keys: BTreeSet<&str> = tags.iter().map(|tag| tag.key.as_str()).collect();
    if keys.len() < tags.len() {
        return wrong("a tag's key is there twice".into());
    }
    tags.sort_unstable();
    Ok(tags)
}

/// Reads the header `x-amz-tagging`: tags as a URL's query.
///
/// # Errors
/// [`ArtifactError::InvalidArgument`] when it is none, [`ArtifactError::InvalidTag`] when its tags are not taken.
pub(super) fn parse_header(header: &str) -> Result<Vec<Tag>, ArtifactError> {
    let decode = |text: &str| {
        let text = text.replace('+', " ");
        let decoded = percent_encoding::percent_decode_str(&text).decode_utf8().map(std::borrow::Cow::into_owned);
        decoded.map_err(|_| ArtifactError::InvalidArgument("the tags are not those of a URL's query, in UTF-8".into()))
    };
    let mut tags = Vec::new();
    for pair in header.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        tags.push(Tag { key: decode(key)?, value: decode(value)? });
    }
    checked(tags, TAGS_MAX)
}

fn row(owner: Uuid, number: usize) -> Vec<u8> {
    let mut key = owner.as_bytes().to_vec();
    key.push(u8::try_from(number).unwrap_or(u8::MAX)); // there are ten
    key
}

/// Writes all tags of a version or an upload.
pub(super) fn project(owner: Uuid, tags: &[Tag], batch: &mut Batch) -> Result<(), String> {
    for number in 0..TAGS_MAX {
        match tags.get(number) {
            Some(tag) => batch.put(Table::Tags, row(owner, number), encode(tag)?),
            None => batch.delete(Table::Tags, row(owner, number)),
        }
    }
    Ok(())
}

/// Deletes all tags of a version or an upload.
pub(super) fn delete(owner: Uuid, batch: &mut Batch) {
    for number in 0..TAGS_MAX {
        batch.delete(Table::Tags, row(owner, number));
    }
}

impl Artifacts {
    /// The tags of a version or of an upload, by their keys.
    ///
    /// # Errors
    /// The catalogue cannot be read.
    pub(super) fn tags(&self, owner: Uuid) -> Result<Vec<Tag>, ArtifactError> {
        let rows = self.catalogue().range(Table::Tags, owner.as_bytes(), &[], TAGS_MAX)?;
        let tags = rows.iter().map(|(_, row)| decode(row)).collect::<Result<_, _>>();
        tags.map_err(ArtifactError::fault("read tags"))
    }

    /// A bucket's tags, if it was given any.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub fn bucket_tags(&self, bucket: &str) -> Result<Option<Vec<Tag>>, ArtifactError> {
        let Some(document) = self.document(bucket, DocumentKind::Tagging)? else { return Ok(None) };
        document.read(decode::<Vec<Tag>>).cloned().map(Some)
    }

    /// Puts tags over those of a bucket; `None` takes them away. They are as [`checked`] gives them.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub async fn set_bucket_tags(&self, bucket: &str, tags: Option<&[Tag]>) -> Result<(), ArtifactError> {
        let bytes = tags.map(|tags| encode(&tags)).transpose().map_err(ArtifactError::fault("write tags"))?;
        self.set_document(bucket, DocumentKind::Tagging, bytes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::VALUE_BYTES_MAX;

    fn tag(key: &str, value: &str) -> Tag {
        Tag { key: key.into(), value: value.into() }
    }

    #[test]
    fn a_header_is_read_as_a_query_and_its_tags_are_in_order() {
        let read = |header: &str| parse_header(header).unwrap();
        assert_eq!(read("foo=bar&bar"), [tag("bar", ""), tag("foo", "bar")]);
        assert_eq!(read("a%20b=c+d%C3%A9&"), [tag("a b", "c dé")]);
        assert!(read("").is_empty());
        for bad in ["=x", "a=%FF", "a=1&a=2", "a=%00", "aws:x=1", "a=<b>"] {
            assert!(parse_header(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_have_bounds_in_letters_and_fit_into_their_rows() {
        let longest = tag(&"é".repeat(KEY_LETTERS_MAX), &"字".repeat(VALUE_LETTERS_MAX));
        assert!(encode(&longest).unwrap().len() <= VALUE_BYTES_MAX);
        assert!(checked(vec![longest.clone()], TAGS_MAX).is_ok());
        assert!(checked(vec![tag(&format!("{}x", longest.key), "")], TAGS_MAX).is_err());
        assert!(checked(vec![tag("k", &format!("{}x", longest.value))], TAGS_MAX).is_err());
        let many = |count: usize| (0..count).map(|number| tag(&number.to_string(), "")).collect::<Vec<_>>();
        assert!(checked(many(TAGS_MAX), TAGS_MAX).is_ok());
        assert!(matches!(checked(many(TAGS_MAX + 1), TAGS_MAX), Err(ArtifactError::InvalidTag(_))));
    }

    #[test]
    fn writing_fewer_tags_takes_the_others_away() {
        let mut batch = Batch::default();
        project(Uuid::nil(), &[tag("a", "b")], &mut batch).unwrap();
        assert_eq!(batch.changes.iter().filter(|change| change.2.is_none()).count(), TAGS_MAX - 1);
    }
}
