//! The S3 dialect, through s3s: it verifies signatures and reads and writes HTTP and XML; here calls become the store's.
//!
//! Operations that are not served answer `NotImplemented`, and so do headers that ask for something that is not done: never a silent success. `docs/s3.md` has the list.

mod access;
mod access_log;
mod acl;
mod buckets;
mod chunks;
mod convert;
mod cors;
mod deletes;
mod encryption;
mod etags;
mod form;
mod hosts;
mod lifecycle;
mod listing;
mod lock;
mod multipart;
mod notification;
mod objects;
mod public;
mod ranges;
mod region;
mod settings;
mod signed;
mod signed_headers;
mod stored;
mod tagging;
mod versions;
mod website;

use std::sync::Arc;

use futures::future::BoxFuture;
use http::header;
use s3s::auth::S3Auth;
use s3s::config::{S3Config, StaticConfigProvider};
use s3s::dto::*;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result};

pub use access::Keys;
pub(in crate::artifacts) use access::check_signature;
pub(in crate::artifacts) use convert::{body_error, custom};
pub(in crate::artifacts) use hosts::{Hosts, Named as HostNamed};
pub(in crate::artifacts) use region::refusal as region_refusal;
pub(in crate::artifacts) use signed_headers::{OF_SIGNATURES, check_signed};

/// Tells what a lifecycle rule has done, as S3 tells it.
pub const TELL_RULE: super::TellRule = notification::tell_rule;

use super::Artifacts;
use crate::edge::{OperationCell, Request, Response, S3Door};
use access_log::Logged;
use cors::CrossOrigin;
use hosts::Named;

/// Largest XML body: a completion with 10,000 parts and a SHA-256 each is under 3 MB.
const XML_BYTES_MAX: usize = 4 << 20;
/// How far a signature's time may be from ours, in seconds (S3).
const SKEW_MAX_S: u32 = 900;

/// The S3 service over the store. `auth` gives the secret of a key, `keys` whose it is and what it may do.
///
/// The second answers the public door: reads of what everybody may read.
pub fn service(artifacts: Artifacts, auth: impl S3Auth, keys: impl Keys) -> (impl S3Door, impl S3Door) {
    let hosts = Hosts::new(&artifacts.0.config.domains);
    let mut builder = S3ServiceBuilder::new(Door { artifacts: artifacts.clone() });
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(config()))));
    let secrets: Arc<dyn S3Auth> = Arc::new(auth);
    builder.set_auth(Secrets(Arc::clone(&secrets)));
    builder.set_host(hosts.clone());
    let access = access::Access::new(artifacts.clone(), keys);
    builder.set_access(access.clone());
    let service = Service { s3: builder.build(), artifacts, hosts, access, secrets };
    (service.clone(), public::PublicDoor(service))
}

/// What bounds what s3s reads.
pub(in crate::artifacts) fn config() -> S3Config {
    let mut config = S3Config::default();
    config.xml_max_body_size = XML_BYTES_MAX;
    // Forms are read before s3s, which would hold them in memory.
    config.post_object_max_file_size = 0;
    config.form_max_fields_size = 0;
    config.form_max_parts = 0;
    config.presigned_url_max_skew_time_secs = SKEW_MAX_S;
    config
}

/// Reads `text` as each value of a request that is read here and not by s3s, and throws the outcome away: for fuzzing.
pub fn fuzz_values(text: &str) {
    use super::checksums::{Algorithm, parse_value};
    for size in [0, 1, u64::MAX] {
        let _ = Range::parse(text).map(|range| convert::range(range).resolve(size));
        let _ = multipart::copy_range(text, size);
        let _ = super::RangeAsked::parse(text).map(|ranges| super::RangeAsked::resolve_all(&ranges, size));
    }
    let _ = convert::parse_token(text);
    let _ = convert::parse_upload_id(text);
    let _ = convert::parse_expires(Some(text));
    let _ = parse_value(Algorithm::Sha256, text);
    let _ = super::Tags::parse(text);
    access::fuzz_signature(text);
}

/// Reads `text` as each configuration of a bucket that is XML, and as a host's name, and throws the outcome away: for fuzzing.
pub fn fuzz_configurations(text: &str) {
    let bytes = text.as_bytes();
    if let Ok(rules) = stored::read::<CORSConfiguration>(bytes) {
        cors::fuzz(&rules, text);
    }
    let _ = stored::read::<AccessControlPolicy>(bytes);
    let _ = stored::read::<BucketLoggingStatus>(bytes);
    if let Ok(configuration) = stored::read::<NotificationConfiguration>(bytes) {
        notification::fuzz(&configuration, text);
    }
    let _ = stored::read::<WebsiteConfiguration>(bytes).map(|website| website::fuzz(&website, text));
    let hosts = Hosts::new(&["studio.example".to_owned()]);
    let _ = (hosts.named(text), hosts.bucket(text, text));
    let _ = super::access::check_policy(text, "bucket");
}

/// Reads `bytes` as a form that a browser posts: for fuzzing.
pub fn fuzz_form(bytes: &[u8]) {
    form::fuzz(bytes);
}

struct Door {
    artifacts: Artifacts,
}

/// The keys as s3s and forms ask for them.
struct Secrets(Arc<dyn S3Auth>);

#[async_trait::async_trait]
impl S3Auth for Secrets {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<s3s::auth::SecretKey> {
        self.0.get_secret_key(access_key).await
    }
}

/// What stands around s3s: what browsers ask, and what it says wrongly.
#[derive(Clone)]
struct Service {
    s3: S3Service,
    artifacts: Artifacts,
    hosts: Hosts,
    access: access::Access,
    secrets: Arc<dyn S3Auth>,
}

impl S3Door for Service {
    fn call(&self, mut request: Request) -> BoxFuture<'static, Response> {
        let service = self.clone();
        Box::pin(async move {
            let host = host_of(&request);
            if let Named::Website(bucket) = service.hosts.named(&host) {
                return service.page(&bucket, request).await;
            }
            let path = request.uri().path().to_owned();
            let bucket = service.hosts.bucket(&host, &path);
            let key = service.hosts.key(&host, &path);
            let logged = Logged::of(&service.artifacts, bucket.as_deref(), key.as_deref(), &mut request);
            if request.method() == http::Method::OPTIONS {
                let response = service.preflight(bucket.as_deref(), &request);
                return service.log(logged, response);
            }
            let page = CrossOrigin::of(bucket.as_deref(), request.method(), request.headers());
            let mut response = match is_form(request.method(), request.headers()) {
                true => service.form(request).await,
                false => service.operate(request).await,
            };
            if let Some(page) = page {
                page.answer(&service.artifacts, response.headers_mut());
            }
            service.log(logged, response)
        })
    }
}

/// The host's name as the caller wrote it.
pub(in crate::artifacts) fn host_of(request: &Request) -> String {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    host.or(request.uri().authority().map(http::uri::Authority::as_str)).unwrap_or_default().to_owned()
}

pub(in crate::artifacts) fn is_form(method: &http::Method, headers: &http::HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map_or(&b""[..], http::HeaderValue::as_bytes);
    method == http::Method::POST && kind.to_ascii_lowercase().starts_with(b"multipart/form-data")
}

/// A GET has no body and says so by saying nothing; the layers around us may have lost that it is empty.
pub(in crate::artifacts) fn says_nothing_of_a_body(request: &Request) -> bool {
    request.version() <= http::Version::HTTP_11
        && !request.headers().contains_key(header::CONTENT_LENGTH)
        && !request.headers().contains_key(header::TRANSFER_ENCODING)
}

impl Service {
    /// Writes an answer into the access log, if its bucket has one.
    fn log(&self, logged: Option<Logged>, response: Response) -> Response {
        match logged {
            Some(logged) => logged.answered(&self.artifacts, response),
            None => response,
        }
    }

    fn preflight(&self, bucket: Option<&str>, request: &Request) -> Response {
        if let Some(cell) = request.extensions().get::<OperationCell>() {
            cell.set("PreflightRequest");
        }
        written(cors::preflight(&self.artifacts, bucket, request.headers()))
    }

    /// Any operation but a preflight.
    async fn operate(&self, mut request: Request) -> Response {
        ranges::take_several(&mut request);
        if let Some(refusal) = region::refusal(request.headers()) {
            return refusal;
        }
        let empty = says_nothing_of_a_body(&request);
        let operation = request.extensions().get::<OperationCell>().cloned().unwrap_or_default();
        let (request, verdict) = signed::Signed::of(chunks::Chunks::of(request));
        let body = |body| if empty { s3s::Body::empty() } else { s3s::Body::http_body_unsync(body) };
        let mut answer = self.s3.call(request.map(body)).await;
        let is_fault =
            |response: &http::Response<s3s::Body>| response.status() == http::StatusCode::INTERNAL_SERVER_ERROR;
        if verdict.differs() && answer.as_ref().is_ok_and(is_fault) {
            let told = convert::other_bytes_than_signed().to_http_response();
            answer = told.map_err(|error| s3s::HttpError::new(error.into()));
        }
        match answer {
            Ok(response) => {
                if is_fault(&response) {
                    tracing::warn!(operation = operation.get(), "an S3 call was answered with InternalError");
                }
                let mut response = response.map(axum::body::Body::new);
                if response.extensions().get::<ranges::Partial>().is_some() {
                    *response.status_mut() = http::StatusCode::PARTIAL_CONTENT;
                }
                match operation.get() == etags::OPERATION && response.status() == http::StatusCode::OK {
                    true => etags::without_quotes(response).await,
                    false => response,
                }
            }
            Err(error) => {
                tracing::error!(?error, "S3 gave no answer");
                faulty()
            }
        }
    }
}

pub(in crate::artifacts) fn faulty() -> Response {
    let mut response = Response::default();
    *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// An answer of headers alone, or an error, without an operation.
pub(in crate::artifacts) fn written(answer: S3Result<http::HeaderMap>) -> Response {
    match answer {
        Ok(headers) => {
            let mut response = Response::default();
            *response.headers_mut() = headers;
            response
        }
        Err(error) => match error.to_http_response() {
            Ok(response) => response.map(axum::body::Body::new),
            Err(error) => {
                tracing::error!(?error, "S3 could not write an error");
                faulty()
            }
        },
    }
}

/// Each served operation, and the function that does it.
macro_rules! operations {
    ($($operation:ident($input:ty) -> $output:ty = $module:ident::$function:ident;)*) => {
        #[async_trait::async_trait]
        impl S3 for Door {
            $(async fn $operation(&self, request: S3Request<$input>) -> S3Result<S3Response<$output>> {
                convert::refuse_unserved(&request.headers)?;
                $module::$function(&self.artifacts, request).await
            })*
        }
    };
}

operations! {
    create_bucket(CreateBucketInput) -> CreateBucketOutput = buckets::create;
    head_bucket(HeadBucketInput) -> HeadBucketOutput = buckets::head;
    list_buckets(ListBucketsInput) -> ListBucketsOutput = buckets::list;
    delete_bucket(DeleteBucketInput) -> DeleteBucketOutput = buckets::delete;
    get_bucket_location(GetBucketLocationInput) -> GetBucketLocationOutput = buckets::location;
    get_bucket_versioning(GetBucketVersioningInput) -> GetBucketVersioningOutput = versions::get;
    put_bucket_versioning(PutBucketVersioningInput) -> PutBucketVersioningOutput = versions::put;
    get_bucket_acl(GetBucketAclInput) -> GetBucketAclOutput = acl::get_bucket;
    put_bucket_acl(PutBucketAclInput) -> PutBucketAclOutput = acl::put_bucket;
    get_bucket_policy(GetBucketPolicyInput) -> GetBucketPolicyOutput = settings::get_policy;
    put_bucket_policy(PutBucketPolicyInput) -> PutBucketPolicyOutput = settings::put_policy;
    delete_bucket_policy(DeleteBucketPolicyInput) -> DeleteBucketPolicyOutput = settings::delete_policy;
    get_bucket_policy_status(GetBucketPolicyStatusInput) -> GetBucketPolicyStatusOutput = settings::policy_status;
    get_public_access_block(GetPublicAccessBlockInput) -> GetPublicAccessBlockOutput = settings::get_public_access;
    put_public_access_block(PutPublicAccessBlockInput) -> PutPublicAccessBlockOutput = settings::put_public_access;
    delete_public_access_block(DeletePublicAccessBlockInput) -> DeletePublicAccessBlockOutput = settings::delete_public_access;
    get_bucket_ownership_controls(GetBucketOwnershipControlsInput) -> GetBucketOwnershipControlsOutput = settings::get_ownership;
    put_bucket_ownership_controls(PutBucketOwnershipControlsInput) -> PutBucketOwnershipControlsOutput = settings::put_ownership;
    delete_bucket_ownership_controls(DeleteBucketOwnershipControlsInput) -> DeleteBucketOwnershipControlsOutput = settings::delete_ownership;
    get_bucket_cors(GetBucketCorsInput) -> GetBucketCorsOutput = cors::get;
    put_bucket_cors(PutBucketCorsInput) -> PutBucketCorsOutput = cors::put;
    delete_bucket_cors(DeleteBucketCorsInput) -> DeleteBucketCorsOutput = cors::delete;
    get_bucket_website(GetBucketWebsiteInput) -> GetBucketWebsiteOutput = website::get;
    put_bucket_website(PutBucketWebsiteInput) -> PutBucketWebsiteOutput = website::put;
    delete_bucket_website(DeleteBucketWebsiteInput) -> DeleteBucketWebsiteOutput = website::delete;
    get_bucket_notification_configuration(GetBucketNotificationConfigurationInput) -> GetBucketNotificationConfigurationOutput = notification::get;
    put_bucket_notification_configuration(PutBucketNotificationConfigurationInput) -> PutBucketNotificationConfigurationOutput = notification::put;
    get_bucket_logging(GetBucketLoggingInput) -> GetBucketLoggingOutput = access_log::get;
    put_bucket_logging(PutBucketLoggingInput) -> PutBucketLoggingOutput = access_log::put;
    get_bucket_request_payment(GetBucketRequestPaymentInput) -> GetBucketRequestPaymentOutput = settings::get_payment;
    put_bucket_request_payment(PutBucketRequestPaymentInput) -> PutBucketRequestPaymentOutput = settings::put_payment;
    get_bucket_accelerate_configuration(GetBucketAccelerateConfigurationInput) -> GetBucketAccelerateConfigurationOutput = settings::get_acceleration;
    put_bucket_encryption(PutBucketEncryptionInput) -> PutBucketEncryptionOutput = encryption::put_default;
    get_bucket_encryption(GetBucketEncryptionInput) -> GetBucketEncryptionOutput = encryption::get_default;
    delete_bucket_encryption(DeleteBucketEncryptionInput) -> DeleteBucketEncryptionOutput = encryption::delete_default;

    put_object(PutObjectInput) -> PutObjectOutput = notification::put_object;
    get_object(GetObjectInput) -> GetObjectOutput = objects::get;
    head_object(HeadObjectInput) -> HeadObjectOutput = objects::head;
    get_object_attributes(GetObjectAttributesInput) -> GetObjectAttributesOutput = objects::attributes;
    get_object_acl(GetObjectAclInput) -> GetObjectAclOutput = acl::get_object;
    put_object_acl(PutObjectAclInput) -> PutObjectAclOutput = notification::put_acl;
    delete_object(DeleteObjectInput) -> DeleteObjectOutput = notification::delete_object;
    delete_objects(DeleteObjectsInput) -> DeleteObjectsOutput = notification::delete_objects;
    copy_object(CopyObjectInput) -> CopyObjectOutput = notification::copy_object;

    list_objects(ListObjectsInput) -> ListObjectsOutput = listing::first;
    list_objects_v2(ListObjectsV2Input) -> ListObjectsV2Output = listing::second;
    list_object_versions(ListObjectVersionsInput) -> ListObjectVersionsOutput = versions::list;

    get_object_tagging(GetObjectTaggingInput) -> GetObjectTaggingOutput = tagging::get;
    put_object_tagging(PutObjectTaggingInput) -> PutObjectTaggingOutput = notification::put_tags;
    delete_object_tagging(DeleteObjectTaggingInput) -> DeleteObjectTaggingOutput = notification::delete_tags;
    get_bucket_tagging(GetBucketTaggingInput) -> GetBucketTaggingOutput = tagging::get_bucket;
    put_bucket_tagging(PutBucketTaggingInput) -> PutBucketTaggingOutput = tagging::put_bucket;
    delete_bucket_tagging(DeleteBucketTaggingInput) -> DeleteBucketTaggingOutput = tagging::delete_bucket;

    get_object_lock_configuration(GetObjectLockConfigurationInput) -> GetObjectLockConfigurationOutput = lock::get;
    put_object_lock_configuration(PutObjectLockConfigurationInput) -> PutObjectLockConfigurationOutput = lock::put;
    get_object_retention(GetObjectRetentionInput) -> GetObjectRetentionOutput = lock::get_retention;
    put_object_retention(PutObjectRetentionInput) -> PutObjectRetentionOutput = lock::put_retention;
    get_object_legal_hold(GetObjectLegalHoldInput) -> GetObjectLegalHoldOutput = lock::get_hold;
    put_object_legal_hold(PutObjectLegalHoldInput) -> PutObjectLegalHoldOutput = lock::put_hold;

    get_bucket_lifecycle_configuration(GetBucketLifecycleConfigurationInput) -> GetBucketLifecycleConfigurationOutput = lifecycle::get;
    put_bucket_lifecycle_configuration(PutBucketLifecycleConfigurationInput) -> PutBucketLifecycleConfigurationOutput = lifecycle::put;
    delete_bucket_lifecycle(DeleteBucketLifecycleInput) -> DeleteBucketLifecycleOutput = lifecycle::delete;

    create_multipart_upload(CreateMultipartUploadInput) -> CreateMultipartUploadOutput = multipart::create;
    upload_part(UploadPartInput) -> UploadPartOutput = multipart::put;
    upload_part_copy(UploadPartCopyInput) -> UploadPartCopyOutput = multipart::copy;
    list_parts(ListPartsInput) -> ListPartsOutput = multipart::parts;
    list_multipart_uploads(ListMultipartUploadsInput) -> ListMultipartUploadsOutput = multipart::uploads;
    complete_multipart_upload(CompleteMultipartUploadInput) -> CompleteMultipartUploadOutput = notification::complete;
    abort_multipart_upload(AbortMultipartUploadInput) -> AbortMultipartUploadOutput = multipart::abort;
}
