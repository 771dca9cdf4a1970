//! Versions: whether a bucket keeps them, and their listing.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::convert::{Names, checksum_type, error, etag, owner_of, size, timestamp};
use super::listing::limit;
use crate::artifacts::versions::listing::{Listed, VersionPage, VersionQuery};
use crate::artifacts::versions::{Marker, Version};
use crate::artifacts::{Artifacts, VersionName, Versioning};

pub(super) async fn get(
    artifacts: &Artifacts,
    request: S3Request<GetBucketVersioningInput>,
) -> S3Result<S3Response<GetBucketVersioningOutput>> {
    let status = match artifacts.versioning(&request.input.bucket).map_err(error)? {
        Versioning::Never => None,
        Versioning::Enabled => Some(BucketVersioningStatus::ENABLED),
        Versioning::Suspended => Some(BucketVersioningStatus::SUSPENDED),
    };
    let status = status.map(BucketVersioningStatus::from_static);
    Ok(S3Response::new(GetBucketVersioningOutput { status, ..Default::default() }))
}

pub(super) async fn put(
    artifacts: &Artifacts,
    request: S3Request<PutBucketVersioningInput>,
) -> S3Result<S3Response<PutBucketVersioningOutput>> {
    let configuration = request.input.versioning_configuration;
    if configuration.mfa_delete.as_ref().is_some_and(|mfa| mfa.as_str() != MFADelete::DISABLED) {
        return Err(s3_error!(NotImplemented, "deletes with a second factor are not served"));
    }
    let is_enabled = match configuration.status.as_ref().map(BucketVersioningStatus::as_str) {
        Some(BucketVersioningStatus::ENABLED) => true,
        Some(BucketVersioningStatus::SUSPENDED) => false,
        _ => {
            return Err(s3_error!(
                IllegalVersioningConfigurationException,
                "The Versioning element must be specified: Enabled or Suspended"
            ));
        }
    };
    artifacts.set_versioning(&request.input.bucket, is_enabled).await.map_err(error)?;
    Ok(S3Response::new(PutBucketVersioningOutput::default()))
}

/// Where a listing goes on.
fn after(
    artifacts: &Artifacts,
    bucket: &str,
    key: Option<&str>,
    version: Option<&str>,
) -> S3Result<Option<(String, Option<uuid::Uuid>)>> {
    let (key, version) = (key.filter(|key| !key.is_empty()), version.filter(|version| !version.is_empty()));
    let id = match (key, version) {
        (_, None) => None,
        (None, Some(_)) => {
            return Err(s3_error!(InvalidArgument, "A version-id marker cannot be specified without a key marker."));
        }
        (Some(key), Some(version)) => match super::convert::version(Some(version))? {
            // Pages name their end by its id even where clients know it as `null`: it may be deleted by then.
            Some(VersionName::Id(id)) => Some(id),
            Some(null @ VersionName::Null) => {
                let found = artifacts.version(bucket, key, Some(null)).map_err(error)?;
                Some(found.map_or(uuid::Uuid::max(), |version| version.id()))
            }
            None => None,
        },
    };
    Ok(key.map(|key| (key.to_owned(), id)))
}

pub(super) async fn list(
    artifacts: &Artifacts,
    request: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let input = request.input;
    let names = Names::read(input.encoding_type.as_ref())?;
    let (max_keys, max) = limit(input.max_keys)?;
    let after = after(artifacts, &input.bucket, input.key_marker.as_deref(), input.version_id_marker.as_deref())?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let query = VersionQuery { prefix, delimiter: input.delimiter.clone(), after, max };
    let VersionPage { entries, common_prefixes, next } =
        artifacts.list_versions(&input.bucket, query).await.map_err(error)?;
    let owner = owner_of(artifacts, &input.bucket);
    let (mut versions, mut markers) = (Vec::new(), Vec::new());
    for Listed { key, version, is_latest } in entries {
        let (name, key) = (Some(version.name().to_string()), Some(names.write(&key)));
        match version {
            Version::Marker(Marker { modified_ms, .. }) => markers.push(DeleteMarkerEntry {
                is_latest: Some(is_latest),
                key,
                last_modified: Some(timestamp(modified_ms)),
                owner: Some(owner.clone()),
                version_id: name,
            }),
            Version::Object(row) => versions.push(ObjectVersion {
                checksum_algorithm: Some(vec![ChecksumAlgorithm::from_static(row.checksum.algorithm.name())]),
                checksum_type: Some(checksum_type(&row.checksum)),
                e_tag: Some(etag(&row.etag)),
                is_latest: Some(is_latest),
                key,
                last_modified: Some(timestamp(row.modified_ms)),
                owner: Some(owner.clone()),
                restore_status: None,
                size: Some(size(row.size)),
                storage_class: Some(ObjectVersionStorageClass::from_static(row.class())),
                version_id: name,
            }),
        }
    }
    let prefixes = common_prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(names.write(prefix)) });
    let (next_key, next_id) = next.map_or((None, None), |(key, id)| (Some(key), id));
    Ok(S3Response::new(ListObjectVersionsOutput {
        common_prefixes: Some(prefixes.collect()),
        versions: Some(versions),
        delete_markers: Some(markers),
        is_truncated: Some(next_key.is_some()),
        next_key_marker: names.maybe(next_key.as_ref()),
        next_version_id_marker: next_id.map(|id| VersionName::Id(id).to_string()),
        name: Some(input.bucket),
        prefix: Some(names.write(input.prefix.as_deref().unwrap_or_default())),
        key_marker: Some(names.write(input.key_marker.as_deref().unwrap_or_default())),
        version_id_marker: Some(input.version_id_marker.unwrap_or_default()),
        max_keys: Some(max_keys),
        delimiter: names.maybe(input.delimiter.as_ref().filter(|delimiter| !delimiter.is_empty())),
        encoding_type: input.encoding_type,
        ..Default::default()
    }))
}
