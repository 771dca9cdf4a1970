//! Listing uploads in the order of key and id, and ending all of a bucket's.

use uuid::Uuid;

use super::UploadName;
use crate::artifacts::Artifacts;
use crate::artifacts::error::ArtifactError;
use crate::artifacts::model::{UploadRow, decode, keys};
use crate::catalogue::Table;

/// Rows of uploads read at once.
const FETCH: usize = 1000;

/// One page of uploads.
#[derive(Debug, Default)]
pub struct UploadPage {
    pub uploads: Vec<(String, Uuid, UploadRow)>,
    pub common_prefixes: Vec<String>,
    /// Key and id behind which the next page begins.
    pub next: Option<(String, Option<Uuid>)>,
    /// The last upload that is in this page, rolled up or not.
    last: Option<(String, Option<Uuid>)>,
}

impl Artifacts {
    /// Uploads of a bucket with keys that begin with `prefix`, in the order of key and id, from behind `after` on.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub fn uploads(
        &self,
        bucket: &str,
        prefix: &str,
        after: Option<(&str, Option<Uuid>)>,
        limit: usize,
    ) -> Result<Vec<(String, Uuid, UploadRow)>, ArtifactError> {
        self.bucket(bucket)?;
        let from = match after {
            None => Vec::new(),
            Some((key, Some(id))) => [keys::upload(bucket, key, id).as_slice(), b"\0"].concat(),
            Some((key, None)) => [keys::upload(bucket, key, Uuid::max()).as_slice(), b"\0"].concat(),
        };
        let rows = self.catalogue().range(Table::Uploads, &keys::object(bucket, prefix), &from, limit)?;
        let upload = |(key, value): (Vec<u8>, Vec<u8>)| {
            let (key, id) = keys::read_upload(&key, bucket).ok_or("an upload's key is not understood")?;
            Ok((key, id, decode(&value)?))
        };
        rows.into_iter().map(upload).collect::<Result<_, String>>().map_err(ArtifactError::fault("read uploads"))
    }

    /// One page of a bucket's uploads, with a delimiter rolled up.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub fn list_uploads(
        &self,
        bucket: &str,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<(&str, Option<Uuid>)>,
        max: usize,
    ) -> Result<UploadPage, ArtifactError> {
        let mut page = UploadPage::default();
        let mut position = after.map(|(key, id)| (key.to_owned(), id));
        if max == 0 {
            self.bucket(bucket)?;
            return Ok(page);
        }
        loop {
            let from = position.as_ref().map(|(key, id)| (key.as_str(), *id));
            let found = self.uploads(bucket, prefix, from, FETCH)?;
            let complete = found.len() < FETCH;
            for (key, id, row) in found {
                let rolled = delimiter.filter(|delimiter| !delimiter.is_empty()).and_then(|delimiter| {
                    let end = key[prefix.len()..].find(delimiter)? + delimiter.len();
                    Some(key[..prefix.len() + end].to_owned())
                });
                position = Some((key.clone(), Some(id)));
                if rolled.is_some() && rolled.as_ref() == page.common_prefixes.last() {
                    page.last = position.clone();
                    continue;
                }
                if page.uploads.len() + page.common_prefixes.len() == max {
                    page.next = page.last.take();
                    return Ok(page);
                }
                match rolled {
                    Some(prefix) => page.common_prefixes.push(prefix),
                    None => page.uploads.push((key, id, row)),
                }
                page.last = position.clone();
            }
            if complete {
                return Ok(page);
            }
        }
    }

    /// Aborts all uploads of a bucket.
    pub(in super::super) async fn abort_all(&self, bucket: &str) -> Result<(), ArtifactError> {
        for (key, id, _) in self.uploads(bucket, "", None, FETCH)? {
            match self.abort(&UploadName { bucket: bucket.to_owned(), key, id }).await {
                Err(ArtifactError::NoSuchUpload) => {}
                other => other?,
            }
        }
        Ok(())
    }
}
