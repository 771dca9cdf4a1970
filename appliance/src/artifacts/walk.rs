//! Going through every stored version, a page at a time, from wherever an earlier run stopped.
//!
//! What is put behind the position while it goes on is not met; what is put before it is.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Artifacts;
use super::error::ArtifactError;
use super::health::Named;
use super::model::ObjectRow;
use super::versions::Version;
use super::versions::listing::VersionQuery;

/// Versions of one page.
const PAGE: usize = 500;

/// Behind this version of a bucket comes what is next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    bucket: String,
    after: Option<(String, Option<Uuid>)>,
}

/// A stored version.
pub(super) struct Met {
    pub(super) object: Named,
    pub(super) row: ObjectRow,
}

impl Artifacts {
    /// The next versions behind `position`, and where to go on; `None` at the end of everything.
    pub(super) async fn walk(&self, position: &Position) -> Result<Option<(Vec<Met>, Position)>, ArtifactError> {
        let found = {
            let state = self.0.state.lock();
            state.buckets.range(position.bucket.clone()..).next().map(|(name, _)| name.clone())
        };
        let Some(bucket) = found else { return Ok(None) };
        let after = position.after.clone().filter(|_| bucket == position.bucket);
        let query = VersionQuery { prefix: String::new(), delimiter: None, after, max: PAGE };
        let page = match self.list_versions(&bucket, query).await {
            Ok(page) => page,
            Err(ArtifactError::NoSuchBucket(_)) => return Ok(Some((Vec::new(), Position::behind(bucket)))),
            Err(error) => return Err(error),
        };
        let met = page.entries.into_iter().filter_map(|listed| match listed.version {
            Version::Object(row) => Some(Met { object: Named::of(&bucket, &listed.key, &row), row }),
            Version::Marker(_) => None,
        });
        let met = met.collect();
        let next = match page.next {
            Some(after) => Position { bucket: bucket.clone(), after: Some(after) },
            None => Position::behind(bucket.clone()),
        };
        Ok(Some((met, next)))
    }
}

impl Position {
    /// Behind a whole bucket. No bucket's name has a NUL.
    fn behind(mut bucket: String) -> Self {
        bucket.push('\0');
        Self { bucket, after: None }
    }
}
