//! Operations on buckets.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::access::Asking;
use super::convert::{error, owner, timestamp};
use super::{acl, settings};
use crate::artifacts::Artifacts;
use crate::artifacts::documents::DocumentKind;
use crate::artifacts::error::ArtifactError;

const DEFAULT_REGION: &str = "us-east-1";

pub(super) async fn create(
    artifacts: &Artifacts,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let S3Request { mut input, extensions, .. } = request;
    let owner = Asking::of(&extensions)?.account();
    let ownership = input.object_ownership.as_ref().map(settings::ownership).transpose()?;
    let acl = acl::of_new_bucket(&extensions, &acl::asked!(input, grant_write), ownership.unwrap_or_default())?;
    let constraint = input.create_bucket_configuration.and_then(|configuration| configuration.location_constraint);
    let region = match constraint.as_ref().map(BucketLocationConstraint::as_str) {
        None | Some("") => DEFAULT_REGION,
        Some(region) if is_region(region) => region,
        Some(region) => return Err(s3_error!(InvalidLocationConstraint, "`{region}` is no region")),
    };
    let lock = input.object_lock_enabled_for_bucket.unwrap_or(false);
    match artifacts.create_bucket_with(&input.bucket, region, lock, owner.clone()).await {
        Err(ArtifactError::BucketExists(name)) => match artifacts.bucket(&name) {
            Ok(bucket) if bucket.owner != owner => {
                return Err(s3_error!(
                    BucketAlreadyExists,
                    "The requested bucket name is not available. The bucket namespace is shared by all accounts."
                ));
            }
            // In us-east-1 S3 lets an owner make a bucket again.
            Ok(bucket) if region == DEFAULT_REGION && bucket.region == region => {}
            _ => return Err(error(ArtifactError::BucketExists(name))),
        },
        made => {
            made.map_err(error)?;
            if let Some(ownership) = ownership {
                let document = Some(settings::ownership_document(ownership)?);
                artifacts.set_document(&input.bucket, DocumentKind::Ownership, document).await.map_err(error)?;
            }
        }
    }
    // Making a bucket again changes its list, as S3 does.
    artifacts.set_document(&input.bucket, DocumentKind::Acl, acl).await.map_err(error)?;
    Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{}", input.bucket)) }))
}

/// Any region is taken and given back: they all are this machine.
fn is_region(region: &str) -> bool {
    region.len() <= 64 && region.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

pub(super) async fn head(
    artifacts: &Artifacts,
    request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    let bucket = artifacts.bucket(&request.input.bucket).map_err(error)?;
    Ok(S3Response::new(HeadBucketOutput { bucket_region: Some(bucket.region), ..Default::default() }))
}

pub(super) async fn list(
    artifacts: &Artifacts,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let S3Request { input, extensions, .. } = request;
    let asking = Asking::of(&extensions)?;
    let max = match input.max_buckets {
        None => usize::MAX,
        Some(max @ 1..=10_000) => usize::try_from(max).unwrap_or(usize::MAX),
        Some(_) => return Err(s3_error!(InvalidArgument, "max-buckets is 1 to 10000")),
    };
    let after = input.continuation_token.as_deref().map(super::convert::parse_token).transpose()?;
    let mut found: Vec<_> = artifacts
        .buckets()
        .into_iter()
        .filter(|bucket| asking.caller.owns(&bucket.owner))
        .filter(|bucket| input.prefix.as_ref().is_none_or(|prefix| bucket.name.starts_with(prefix)))
        .filter(|bucket| input.bucket_region.as_ref().is_none_or(|region| bucket.region == *region))
        .filter(|bucket| after.as_ref().is_none_or(|after| bucket.name > *after))
        .collect();
    let more = found.len() > max;
    found.truncate(max);
    let next = found.last().filter(|_| more).map(|bucket| super::convert::token(&bucket.name));
    let buckets = found.into_iter().map(|bucket| Bucket {
        bucket_region: Some(bucket.region),
        creation_date: Some(timestamp(bucket.created_ms)),
        name: Some(bucket.name),
    });
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets.collect()),
        continuation_token: next,
        owner: Some(owner(&asking.account())),
        prefix: input.prefix,
    }))
}

pub(super) async fn delete(
    artifacts: &Artifacts,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    artifacts.delete_bucket(&request.input.bucket).await.map_err(error)?;
    Ok(S3Response::new(DeleteBucketOutput::default()))
}

pub(super) async fn location(
    artifacts: &Artifacts,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    let region = artifacts.bucket(&request.input.bucket).map_err(error)?.region;
    // S3 says nothing for us-east-1.
    let constraint = (region != DEFAULT_REGION).then(|| BucketLocationConstraint::from(region));
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint: constraint }))
}
