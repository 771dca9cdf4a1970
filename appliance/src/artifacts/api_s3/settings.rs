//! Settings of buckets that decide about access, and those that clients ask for and that have one answer here.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::convert::{self, error};
use crate::artifacts::access::{Ownership, PublicAccess, check_policy};
use crate::artifacts::documents::DocumentKind;
use crate::artifacts::model::encode;
use crate::artifacts::{ArtifactError, Artifacts};

fn absent(code: &'static str, message: &'static str) -> s3s::S3Error {
    convert::custom(code, http::StatusCode::NOT_FOUND, message.into())
}

fn row<T: serde::Serialize>(value: &T) -> S3Result<Vec<u8>> {
    encode(value).map_err(|problem| error(ArtifactError::fault("write a bucket's document")(problem)))
}

pub(super) async fn put_policy(
    artifacts: &Artifacts,
    request: S3Request<PutBucketPolicyInput>,
) -> S3Result<S3Response<PutBucketPolicyOutput>> {
    let input = request.input;
    let rules = artifacts.access_of(&input.bucket).map_err(error)?;
    let policy = check_policy(&input.policy, &input.bucket)
        .map_err(|problem| convert::custom("MalformedPolicy", http::StatusCode::BAD_REQUEST, problem))?;
    if policy.is_public() && rules.public().map_err(error)?.block_policy {
        return Err(s3_error!(AccessDenied, "the bucket's public access block refuses public policies"));
    }
    let document = Some(input.policy.into_bytes());
    artifacts.set_document(&input.bucket, DocumentKind::Policy, document).await.map_err(error)?;
    Ok(S3Response::with_status(PutBucketPolicyOutput::default(), http::StatusCode::NO_CONTENT))
}

pub(super) async fn get_policy(
    artifacts: &Artifacts,
    request: S3Request<GetBucketPolicyInput>,
) -> S3Result<S3Response<GetBucketPolicyOutput>> {
    let document = artifacts.document(&request.input.bucket, DocumentKind::Policy).map_err(error)?;
    let document = document.ok_or_else(|| absent("NoSuchBucketPolicy", "The bucket policy does not exist"))?;
    let policy = String::from_utf8_lossy(document.bytes()).into_owned();
    Ok(S3Response::new(GetBucketPolicyOutput { policy: Some(policy) }))
}

pub(super) async fn delete_policy(
    artifacts: &Artifacts,
    request: S3Request<DeleteBucketPolicyInput>,
) -> S3Result<S3Response<DeleteBucketPolicyOutput>> {
    artifacts.set_document(&request.input.bucket, DocumentKind::Policy, None).await.map_err(error)?;
    Ok(S3Response::new(DeleteBucketPolicyOutput::default()))
}

pub(super) async fn policy_status(
    artifacts: &Artifacts,
    request: S3Request<GetBucketPolicyStatusInput>,
) -> S3Result<S3Response<GetBucketPolicyStatusOutput>> {
    let rules = artifacts.access_of(&request.input.bucket).map_err(error)?;
    let by_policy = rules.policy().map_err(error)?.is_some_and(crate::policy::Policy::is_public);
    let by_list = rules.ownership().map_err(error)? != Ownership::Enforced && rules.acl().map_err(error)?.is_public();
    let public = rules.public().map_err(error)?;
    let is_public = (by_policy && !public.restrict_buckets) || (by_list && !public.ignore_acls);
    let policy_status = Some(PolicyStatus { is_public: Some(is_public) });
    Ok(S3Response::new(GetBucketPolicyStatusOutput { policy_status }))
}

pub(super) async fn put_public_access(
    artifacts: &Artifacts,
    request: S3Request<PutPublicAccessBlockInput>,
) -> S3Result<S3Response<PutPublicAccessBlockOutput>> {
    let (bucket, asked) = (request.input.bucket, request.input.public_access_block_configuration);
    let public = PublicAccess {
        block_acls: asked.block_public_acls.unwrap_or(false),
        ignore_acls: asked.ignore_public_acls.unwrap_or(false),
        block_policy: asked.block_public_policy.unwrap_or(false),
        restrict_buckets: asked.restrict_public_buckets.unwrap_or(false),
    };
    artifacts.set_document(&bucket, DocumentKind::Public, Some(row(&public)?)).await.map_err(error)?;
    Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
}

pub(super) async fn get_public_access(
    artifacts: &Artifacts,
    request: S3Request<GetPublicAccessBlockInput>,
) -> S3Result<S3Response<GetPublicAccessBlockOutput>> {
    let bucket = request.input.bucket;
    if artifacts.document(&bucket, DocumentKind::Public).map_err(error)?.is_none() {
        let text = "The public access block configuration was not found";
        return Err(absent("NoSuchPublicAccessBlockConfiguration", text));
    }
    let public = artifacts.access_of(&bucket).and_then(|rules| rules.public()).map_err(error)?;
    let configuration = PublicAccessBlockConfiguration {
        block_public_acls: Some(public.block_acls),
        block_public_policy: Some(public.block_policy),
        ignore_public_acls: Some(public.ignore_acls),
        restrict_public_buckets: Some(public.restrict_buckets),
    };
    let output = GetPublicAccessBlockOutput { public_access_block_configuration: Some(configuration) };
    Ok(S3Response::new(output))
}

pub(super) async fn delete_public_access(
    artifacts: &Artifacts,
    request: S3Request<DeletePublicAccessBlockInput>,
) -> S3Result<S3Response<DeletePublicAccessBlockOutput>> {
    artifacts.set_document(&request.input.bucket, DocumentKind::Public, None).await.map_err(error)?;
    Ok(S3Response::new(DeletePublicAccessBlockOutput::default()))
}

/// The ownership that a name asks for.
pub(super) fn ownership(name: &ObjectOwnership) -> S3Result<Ownership> {
    Ownership::named(name.as_str()).ok_or_else(|| s3_error!(MalformedXML, "`{}` is no ownership", name.as_str()))
}

/// The document of an ownership.
pub(super) fn ownership_document(ownership: Ownership) -> S3Result<Vec<u8>> {
    row(&ownership)
}

pub(super) async fn put_ownership(
    artifacts: &Artifacts,
    request: S3Request<PutBucketOwnershipControlsInput>,
) -> S3Result<S3Response<PutBucketOwnershipControlsOutput>> {
    let (bucket, controls) = (request.input.bucket, request.input.ownership_controls);
    let [rule] = controls.rules.as_slice() else { return Err(s3_error!(MalformedXML, "there is one rule")) };
    let ownership = ownership(&rule.object_ownership)?;
    let rules = artifacts.access_of(&bucket).map_err(error)?;
    if ownership == Ownership::Enforced && !rules.acl().map_err(error)?.is_private() {
        let text = "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting";
        return Err(convert::custom("InvalidBucketAclWithObjectOwnership", http::StatusCode::BAD_REQUEST, text.into()));
    }
    let document = Some(ownership_document(ownership)?);
    artifacts.set_document(&bucket, DocumentKind::Ownership, document).await.map_err(error)?;
    Ok(S3Response::new(PutBucketOwnershipControlsOutput::default()))
}

pub(super) async fn get_ownership(
    artifacts: &Artifacts,
    request: S3Request<GetBucketOwnershipControlsInput>,
) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
    let bucket = request.input.bucket;
    if artifacts.document(&bucket, DocumentKind::Ownership).map_err(error)?.is_none() {
        return Err(absent("OwnershipControlsNotFoundError", "The bucket ownership controls were not found"));
    }
    let ownership = artifacts.access_of(&bucket).and_then(|rules| rules.ownership()).map_err(error)?;
    let rules = vec![OwnershipControlsRule { object_ownership: ObjectOwnership::from_static(ownership.name()) }];
    let output = GetBucketOwnershipControlsOutput { ownership_controls: Some(OwnershipControls { rules }) };
    Ok(S3Response::new(output))
}

pub(super) async fn delete_ownership(
    artifacts: &Artifacts,
    request: S3Request<DeleteBucketOwnershipControlsInput>,
) -> S3Result<S3Response<DeleteBucketOwnershipControlsOutput>> {
    artifacts.set_document(&request.input.bucket, DocumentKind::Ownership, None).await.map_err(error)?;
    Ok(S3Response::new(DeleteBucketOwnershipControlsOutput::default()))
}

/// Nobody pays for requests here: it is the owner's, as S3 says by default.
pub(super) async fn get_payment(
    artifacts: &Artifacts,
    request: S3Request<GetBucketRequestPaymentInput>,
) -> S3Result<S3Response<GetBucketRequestPaymentOutput>> {
    artifacts.bucket(&request.input.bucket).map_err(error)?;
    let payer = Some(Payer::from_static(Payer::BUCKET_OWNER));
    Ok(S3Response::new(GetBucketRequestPaymentOutput { payer }))
}

pub(super) async fn put_payment(
    artifacts: &Artifacts,
    request: S3Request<PutBucketRequestPaymentInput>,
) -> S3Result<S3Response<PutBucketRequestPaymentOutput>> {
    let input = request.input;
    artifacts.bucket(&input.bucket).map_err(error)?;
    match input.request_payment_configuration.payer.as_str() {
        Payer::BUCKET_OWNER => Ok(S3Response::new(PutBucketRequestPaymentOutput::default())),
        Payer::REQUESTER => Err(s3_error!(NotImplemented, "nobody pays for requests here")),
        _ => Err(s3_error!(MalformedXML, "the payer is BucketOwner or Requester")),
    }
}

/// There is nothing to accelerate: an empty answer, as from a bucket that never had it.
pub(super) async fn get_acceleration(
    artifacts: &Artifacts,
    request: S3Request<GetBucketAccelerateConfigurationInput>,
) -> S3Result<S3Response<GetBucketAccelerateConfigurationOutput>> {
    artifacts.bucket(&request.input.bucket).map_err(error)?;
    Ok(S3Response::new(GetBucketAccelerateConfigurationOutput::default()))
}
