//! Changing the list of an object that is there.

use super::Acl;
use crate::artifacts::error::ArtifactError;
use crate::artifacts::{Artifacts, ObjectRow, VersionName};

impl Artifacts {
    /// Puts another list on a version. Its bytes, its id and its time stay.
    ///
    /// # Errors
    /// As [`Artifacts::find`].
    pub(crate) async fn set_acl(
        &self,
        bucket: &str,
        key: &str,
        which: Option<VersionName>,
        acl: Option<Acl>,
    ) -> Result<ObjectRow, ArtifactError> {
        self.amend(bucket, key, which, None, |row| {
            row.description.acl = acl;
            row.description.check()
        })
        .await
    }
}
