//! Deletes of objects and versions, one by one and in batches.

use futures::StreamExt;
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::access::Refused;
use super::convert::{self, error, version};
use super::lock::bypass;
use crate::artifacts::conditions::{Tags, WriteConditions};
use crate::artifacts::engine::Delete;
use crate::artifacts::{Artifacts, Versioning};

/// Most keys in one batch delete (S3).
const DELETES_MAX: usize = 1000;
/// Deletes of one batch that are under way at once, so that they share groups.
const DELETES_AT_ONCE: usize = 64;
pub(super) async fn delete(
    artifacts: &Artifacts,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let S3Request { input, headers, extensions, .. } = request;
    let mut conditions = convert::write_conditions(&headers);
    conditions.if_size = input.if_match_size.map(|size| u64::try_from(size).unwrap_or(u64::MAX));
    conditions.if_modified_s = convert::seconds(input.if_match_last_modified_time);
    let which = version(input.version_id.as_deref())?;
    let bypass = bypass(&extensions, input.bypass_governance_retention)?;
    let delete = Delete { version: which, conditions, only: None, bypass };
    let deleted = artifacts.delete(&input.bucket, &input.key, &delete).await.map_err(error)?;
    let version = which.filter(|_| keeps_versions(artifacts, &input.bucket)).or(deleted.marker);
    Ok(S3Response::new(DeleteObjectOutput {
        delete_marker: deleted.marker.map(|_| true),
        version_id: version.map(|version| version.to_string()),
        ..Default::default()
    }))
}

fn keeps_versions(artifacts: &Artifacts, bucket: &str) -> bool {
    artifacts.versioning(bucket).is_ok_and(|versioning| versioning != Versioning::Never)
}

/// One of a batch, with the id that it names.
async fn delete_one(
    artifacts: &Artifacts,
    bucket: &str,
    object: &ObjectIdentifier,
    bypass: bool,
) -> S3Result<DeletedObject> {
    let conditions = WriteConditions {
        if_match: object.e_tag.as_ref().map(|tag| Tags::parse(tag.value())),
        if_size: object.size.map(|size| u64::try_from(size).unwrap_or(u64::MAX)),
        if_modified_s: convert::seconds(object.last_modified_time.clone()),
        ..WriteConditions::default()
    };
    let delete = Delete { version: version(object.version_id.as_deref())?, conditions, only: None, bypass };
    let deleted = artifacts.delete(bucket, &object.key, &delete).await.map_err(error)?;
    Ok(DeletedObject {
        key: Some(object.key.clone()),
        version_id: object.version_id.clone(),
        delete_marker: deleted.marker.map(|_| true),
        delete_marker_version_id: deleted.marker.map(|marker| marker.to_string()),
    })
}

pub(super) async fn delete_many(
    artifacts: &Artifacts,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let S3Request { input, extensions, .. } = request;
    if input.delete.objects.is_empty() || input.delete.objects.len() > DELETES_MAX {
        return Err(s3_error!(MalformedXML, "a batch names 1 to {DELETES_MAX} objects"));
    }
    artifacts.bucket(&input.bucket).map_err(error)?;
    let bypass = bypass(&extensions, input.bypass_governance_retention)?;
    let bucket = input.bucket.as_str();
    let refused = &extensions.get::<Refused>().cloned().unwrap_or_default();
    let one = |object: ObjectIdentifier| async move {
        if refused.has(&object) {
            return (object, Err(s3_error!(AccessDenied, "Access Denied")));
        }
        let done = delete_one(artifacts, bucket, &object, bypass).await;
        (object, done)
    };
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    let mut running = futures::stream::iter(input.delete.objects).map(one).buffered(DELETES_AT_ONCE);
    while let Some((object, done)) = running.next().await {
        match done {
            Ok(done) => deleted.push(done),
            Err(problem) => errors.push(Error {
                code: Some(problem.code().as_str().to_owned()),
                message: problem.message().map(str::to_owned),
                key: Some(object.key),
                version_id: object.version_id,
            }),
        }
    }
    let deleted = if input.delete.quiet == Some(true) { None } else { Some(deleted) };
    Ok(S3Response::new(DeleteObjectsOutput { deleted, errors: Some(errors), ..Default::default() }))
}
