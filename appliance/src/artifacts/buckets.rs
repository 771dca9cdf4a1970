//! Buckets: made, changed, deleted when they are empty.

use backlot_journal::Class;

use super::engine::{RECORD_SLACK_BYTES, records};
use super::error::ArtifactError;
use super::model::{BUCKETS_MAX, BucketRow, Versioning, check_bucket_name};
use super::record::Change;
use super::state::{Bucket, State};
use super::{Artifacts, BucketInfo};
use crate::identity::Account;

impl Artifacts {
    /// # Errors
    /// [`ArtifactError::BucketExists`], [`ArtifactError::InvalidBucketName`], [`ArtifactError::TooManyBuckets`].
    pub async fn create_bucket(&self, name: &str, region: &str) -> Result<(), ArtifactError> {
        self.create_bucket_with(name, region, false, Account::house()).await
    }

    /// The same for another owner, where `lock` says whether its objects may be locked; such a bucket keeps versions from the start.
    ///
    /// # Errors
    /// As [`Artifacts::create_bucket`].
    pub async fn create_bucket_with(
        &self,
        name: &str,
        region: &str,
        lock: bool,
        owner: Account,
    ) -> Result<(), ArtifactError> {
        check_bucket_name(name)?;
        let row = BucketRow {
            created_ms: self.now().wall_ms,
            region: region.chars().take(64).collect(),
            versioning: if lock { Versioning::Enabled } else { Versioning::Never },
            lock,
            default_retention: None,
            owner,
        };
        let lock = self.lock(name, "").await;
        let bucket = name.to_owned();
        let decide = |state: &mut State| {
            if state.buckets.contains_key(&bucket) {
                return Err(ArtifactError::BucketExists(bucket));
            }
            if state.buckets.len() >= BUCKETS_MAX {
                return Err(ArtifactError::TooManyBuckets);
            }
            let records = records(&[Change::BucketMade { bucket: bucket.clone(), row: row.clone() }])?;
            state.buckets.insert(bucket, Bucket::new(row));
            Ok((records, ()))
        };
        self.commit(Some(lock), RECORD_SLACK_BYTES, Class::Growing, decide, || {}).await
    }

    /// Makes the bucket unless it is there.
    ///
    /// # Errors
    /// As [`Artifacts::create_bucket`], except that it exists.
    pub async fn ensure_bucket(&self, name: &str) -> Result<(), ArtifactError> {
        // Asked first: a full disk has no room for a bucket, and must not keep the appliance from starting.
        if self.0.state.lock().buckets.contains_key(name) {
            return Ok(());
        }
        match self.create_bucket(name, "us-east-1").await {
            Err(ArtifactError::BucketExists(_)) => Ok(()),
            other => other,
        }
    }

    /// Changes whether a bucket keeps versions, and whether its objects may be locked. `change` sees what is set.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`]; what `change` refuses with.
    pub(super) async fn set_bucket(
        &self,
        name: &str,
        change: impl FnOnce(&mut BucketRow) -> Result<(), ArtifactError>,
    ) -> Result<(), ArtifactError> {
        let lock = self.lock(name, "").await;
        let bucket = name.to_owned();
        let decide = |state: &mut State| {
            let mut row = state.bucket(&bucket)?.row.clone();
            change(&mut row)?;
            let records = records(&[Change::BucketSet { bucket: bucket.clone(), row: row.clone() }])?;
            if let Some(bucket) = state.buckets.get_mut(&bucket) {
                bucket.row = row;
            }
            Ok((records, ()))
        };
        self.commit(Some(lock), RECORD_SLACK_BYTES, Class::Growing, decide, || {}).await
    }

    /// Deletes an empty bucket, and aborts what uploads it has.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`], [`ArtifactError::BucketNotEmpty`].
    pub async fn delete_bucket(&self, name: &str) -> Result<(), ArtifactError> {
        loop {
            let counts = self.0.state.lock().bucket(name)?.counts;
            if !counts.is_empty() {
                return Err(ArtifactError::BucketNotEmpty(name.to_owned()));
            }
            if counts.uploads == 0 {
                break;
            }
            self.abort_all(name).await?;
        }
        let lock = self.lock(name, "").await;
        let bucket = name.to_owned();
        let decide = |state: &mut State| {
            let counts = state.bucket(&bucket)?.counts;
            if !counts.is_empty() || counts.uploads > 0 {
                return Err(ArtifactError::BucketNotEmpty(bucket));
            }
            let documents = state.buckets.remove(&bucket).map(|bucket| bucket.documents.all()).unwrap_or_default();
            Ok((records(&[Change::BucketGone { bucket, documents }])?, ()))
        };
        self.commit(Some(lock), RECORD_SLACK_BYTES, Class::Shrinking, decide, || {}).await
    }

    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub fn bucket(&self, name: &str) -> Result<BucketInfo, ArtifactError> {
        let state = self.0.state.lock();
        state.bucket(name).map(|bucket| info(name, bucket))
    }

    /// All buckets, by name.
    #[must_use]
    pub fn buckets(&self) -> Vec<BucketInfo> {
        self.0.state.lock().buckets.iter().map(|(name, bucket)| info(name, bucket)).collect()
    }
}

fn info(name: &str, bucket: &Bucket) -> BucketInfo {
    BucketInfo {
        name: name.to_owned(),
        created_ms: bucket.row.created_ms,
        region: bucket.row.region.clone(),
        owner: bucket.row.owner.clone(),
        objects: bucket.counts.objects,
        bytes: bucket.counts.bytes,
        noncurrent: bucket.counts.noncurrent,
        noncurrent_bytes: bucket.counts.noncurrent_bytes,
        markers: bucket.counts.markers,
        cold: bucket.counts.cold,
        cold_bytes: bucket.counts.cold_bytes,
        versioning: bucket.row.versioning,
        lock: bucket.row.lock,
    }
}
