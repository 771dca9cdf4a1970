//! Quotas: how much a bucket may hold, what is kept behind current objects included.
//!
//! A change that would hold more is refused when it is counted, under the same lock that counts it; one that makes the bucket smaller, or leaves it
//! as it is, goes on over a quota that was set below what is there. Parts of uploads count when the upload is completed.

use axum::extract::rejection::JsonRejection;
use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::access::Reader;
use super::api_http::refused;
use super::documents::{DocumentKind, Documents};
use super::error::ArtifactError;
use super::model::{Counts, ObjectRow, Versioning, decode, encode};
use super::{Artifacts, BucketInfo};
use crate::edge::{ApiError, Operator};

/// Most of a bucket; absent is without end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    #[serde(default)]
    pub bytes: Option<u64>,
    #[serde(default)]
    pub objects: Option<u64>,
}

/// What a bucket holds beside its quota, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub struct QuotaJson {
    pub bucket: String,
    pub quota: Quota,
    pub bytes: u64,
    pub objects: u64,
}

fn of(documents: &Documents) -> Result<Quota, ArtifactError> {
    documents.get(DocumentKind::Quota).map_or(Ok(Quota::default()), |document| document.read(decode::<Quota>).copied())
}

/// Whether a bucket with these documents may go from `before` to `after`.
///
/// # Errors
/// [`ArtifactError::QuotaExceeded`].
pub(super) fn check(documents: &Documents, before: &Counts, after: &Counts) -> Result<(), ArtifactError> {
    let quota = of(documents)?;
    let over = |most: Option<u64>, before: u64, after: u64| most.is_some_and(|most| after > most && after > before);
    if over(quota.bytes, before.bytes + before.noncurrent_bytes, after.bytes + after.noncurrent_bytes) {
        return Err(ArtifactError::QuotaExceeded { most: quota.bytes.unwrap_or_default(), what: "bytes" });
    }
    if over(quota.objects, before.objects + before.noncurrent, after.objects + after.noncurrent) {
        return Err(ArtifactError::QuotaExceeded { most: quota.objects.unwrap_or_default(), what: "objects" });
    }
    Ok(())
}

impl Artifacts {
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub fn quota(&self, bucket: &str) -> Result<Quota, ArtifactError> {
        of(&self.0.state.lock().bucket(bucket)?.documents)
    }

    /// Whether a put of `bytes` would be refused when it is counted, as things are: asked before a body is read. What is counted decides.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`], [`ArtifactError::QuotaExceeded`].
    pub(super) fn check_room(&self, bucket: &str, key: &str, bytes: u64) -> Result<(), ArtifactError> {
        if self.quota(bucket)? == Quota::default() {
            return Ok(());
        }
        let versioning = self.versioning(bucket)?;
        let goes = |row: &ObjectRow| match versioning {
            Versioning::Never => true,
            Versioning::Enabled => false,
            Versioning::Suspended => !row.named,
        };
        let replaced = self.row(bucket, key)?.filter(goes);
        let state = self.0.state.lock();
        let bucket = state.bucket(bucket)?;
        let mut after = bucket.counts;
        let (went, objects) = replaced.map_or((0, 1), |row| (row.size, 0));
        after.bytes = after.bytes.saturating_add(bytes).saturating_sub(went);
        after.objects += objects;
        check(&bucket.documents, &bucket.counts, &after)
    }

    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub async fn set_quota(&self, bucket: &str, quota: Quota) -> Result<(), ArtifactError> {
        let bytes = encode(&quota).map_err(ArtifactError::fault("write a quota"))?;
        let document = (quota != Quota::default()).then_some(bytes);
        self.set_document(bucket, DocumentKind::Quota, document).await
    }
}

/// Routes of the http door.
pub fn routes(artifacts: Artifacts) -> Router {
    Router::new().route("/v1/buckets/{bucket}/quota", get(show).put(set).delete(remove)).with_state(artifacts)
}

fn shown(artifacts: &Artifacts, bucket: BucketInfo) -> Result<Json<QuotaJson>, ApiError> {
    Ok(Json(QuotaJson {
        quota: artifacts.quota(&bucket.name).map_err(refused)?,
        bytes: bucket.bytes + bucket.noncurrent_bytes,
        objects: bucket.objects + bucket.noncurrent,
        bucket: bucket.name,
    }))
}

async fn show(
    State(artifacts): State<Artifacts>,
    reader: Reader,
    Path(bucket): Path<String>,
) -> Result<Json<QuotaJson>, ApiError> {
    let bucket = artifacts.bucket(&bucket).map_err(refused)?;
    if !reader.owns(&bucket) {
        return Err(refused(ArtifactError::AccessDenied));
    }
    shown(&artifacts, bucket)
}

/// Quotas are the house's to set, also those of other accounts' buckets.
fn is_the_house(Operator(principal): &Operator) -> Result<(), ApiError> {
    if principal.account.is_house() {
        return Ok(());
    }
    Err(ApiError::new(StatusCode::FORBIDDEN, "forbidden", "quotas are set with a key of the house"))
}

async fn set(
    State(artifacts): State<Artifacts>,
    operator: Operator,
    Path(bucket): Path<String>,
    body: Result<Json<Quota>, JsonRejection>,
) -> Result<Json<QuotaJson>, ApiError> {
    is_the_house(&operator)?;
    let Json(quota) = body.map_err(|rejection| ApiError::bad_request(rejection.body_text()))?;
    artifacts.set_quota(&bucket, quota).await.map_err(refused)?;
    shown(&artifacts, artifacts.bucket(&bucket).map_err(refused)?)
}

async fn remove(
    State(artifacts): State<Artifacts>,
    operator: Operator,
    Path(bucket): Path<String>,
) -> Result<StatusCode, ApiError> {
    is_the_house(&operator)?;
    artifacts.set_quota(&bucket, Quota::default()).await.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_makes_a_full_bucket_fuller_is_refused() {
        let mut documents = Documents::default();
        let counts =
            |objects, bytes, noncurrent_bytes| Counts { objects, bytes, noncurrent_bytes, ..Counts::default() };
        assert!(check(&documents, &counts(0, 0, 0), &counts(u64::MAX, 1 << 60, 0)).is_ok());
        let quota = encode(&Quota { bytes: Some(100), objects: Some(3) }).unwrap();
        documents.load(DocumentKind::Quota, &[&[1][..], &quota].concat()).unwrap(); // as a row has it
        assert!(check(&documents, &counts(0, 0, 0), &counts(3, 60, 40)).is_ok());
        assert!(check(&documents, &counts(1, 50, 0), &counts(1, 50, 51)).is_err(), "old versions count");
        assert!(check(&documents, &counts(3, 0, 0), &counts(4, 0, 0)).is_err());
        assert!(check(&documents, &counts(9, 500, 0), &counts(8, 500, 0)).is_ok());
        assert!(check(&documents, &counts(9, 500, 0), &counts(9, 400, 0)).is_ok());
        assert!(check(&documents, &counts(9, 500, 0), &counts(9, 501, 0)).is_err());
    }
}
