//! Encryption in S3's words: what requests ask for, what answers tell, and a bucket's default.
//!
//! `aws:kms` is the master key under another name: the name of the KMS key is kept and given back. Encryption contexts and `aws:kms:dsse` are refused.
//! Headers that ask for encryption have no place in a read (as AWS has it): they are refused, so that nobody takes them for a check.

use http::{HeaderMap, HeaderValue};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::convert::error;
use crate::artifacts::multipart::UploadName;
use crate::artifacts::{Artifacts, CustomerKey, Kept, Seal, SealAsked};

const ALGORITHM: &str = "x-amz-server-side-encryption-customer-algorithm";
const KEY_MD5: &str = "x-amz-server-side-encryption-customer-key-md5";

/// The customer's key in a request, for what is put or read.
macro_rules! customer {
    ($input:expr) => {
        $crate::artifacts::api_s3::encryption::read_customer(
            $input.sse_customer_algorithm.as_deref(),
            $input.sse_customer_key.as_deref(),
            $input.sse_customer_key_md5.as_deref(),
        )
    };
}
pub(super) use customer;

/// The customer's key of a copy's source.
macro_rules! source_customer {
    ($input:expr) => {
        $crate::artifacts::api_s3::encryption::read_customer(
            $input.copy_source_sse_customer_algorithm.as_deref(),
            $input.copy_source_sse_customer_key.as_deref(),
            $input.copy_source_sse_customer_key_md5.as_deref(),
        )
    };
}
pub(super) use source_customer;

/// What a put, a copy or an upload asks for.
macro_rules! seal_asked {
    ($input:expr) => {
        $crate::artifacts::api_s3::encryption::read_customer(
            $input.sse_customer_algorithm.as_deref(),
            $input.sse_customer_key.as_deref(),
            $input.sse_customer_key_md5.as_deref(),
        )
        .and_then(|customer| {
            $crate::artifacts::api_s3::encryption::asked(
                customer,
                $input.server_side_encryption.as_ref(),
                $input.ssekms_key_id.as_deref(),
                $input.ssekms_encryption_context.is_some(),
                $input.bucket_key_enabled,
            )
        })
    };
}
pub(super) use seal_asked;

/// Sets the fields of an output that tell how an object is encrypted.
macro_rules! tell_seal {
    ($output:expr, $seal:expr) => {{
        let seal: Option<&$crate::artifacts::Seal> = $seal;
        if let Some(seal) = seal.filter(|seal| !seal.is_customers()) {
            $output.server_side_encryption = Some($crate::artifacts::api_s3::encryption::algorithm(seal));
            $output.ssekms_key_id = seal.kms_key.clone();
            $output.bucket_key_enabled = seal.bucket_key.then_some(true);
        }
    }};
}
pub(super) use tell_seal;

/// The same with the customer's key, which answers the request that brought it.
macro_rules! tell_customer {
    ($output:expr, $customer:expr) => {{
        let customer: Option<&$crate::artifacts::CustomerKey> = $customer;
        if let Some(customer) = customer {
            $output.sse_customer_algorithm = Some("AES256".into());
            $output.sse_customer_key_md5 = Some(customer.md5());
        }
    }};
}
pub(super) use tell_customer;

pub(super) fn read_customer(
    algorithm: Option<&str>,
    key: Option<&str>,
    md5: Option<&str>,
) -> S3Result<Option<CustomerKey>> {
    match (algorithm, key, md5) {
        (None, None, None) => Ok(None),
        (None, _, _) => Err(s3_error!(
            InvalidArgument,
            "Requests specifying Server Side Encryption with Customer provided keys must provide a valid encryption algorithm."
        )),
        (Some("AES256"), Some(key), Some(md5)) => CustomerKey::read(key, md5).map(Some).map_err(error),
        (Some("AES256"), None, _) => Err(s3_error!(
            InvalidArgument,
            "Requests specifying Server Side Encryption with Customer provided keys must provide an appropriate secret key."
        )),
        (Some("AES256"), Some(_), None) => Err(s3_error!(
            InvalidArgument,
            "Requests specifying Server Side Encryption with Customer provided keys must provide the client calculated MD5 of the secret key."
        )),
        (Some(_), _, _) => Err(s3_error!(
            InvalidEncryptionAlgorithmError,
            "The encryption request you specified is not valid. The valid value is AES256."
        )),
    }
}

pub(super) fn asked(
    customer: Option<CustomerKey>,
    kept: Option<&ServerSideEncryption>,
    kms_key: Option<&str>,
    has_context: bool,
    bucket_key: Option<bool>,
) -> S3Result<SealAsked> {
    if has_context {
        return Err(s3_error!(NotImplemented, "x-amz-server-side-encryption-context is not served"));
    }
    match (customer, kept.map(ServerSideEncryption::as_str)) {
        (Some(_), Some(_)) => Err(s3_error!(
            InvalidArgument,
            "Server Side Encryption with Customer provided key is incompatible with the encryption method specified"
        )),
        (_, None) if kms_key.is_some() => Err(s3_error!(
            InvalidArgument,
            "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms"
        )),
        (Some(customer), None) => Ok(SealAsked::Customer(customer)),
        (None, None) => Ok(SealAsked::Nothing),
        (None, Some(kept)) => read_kept(kept, kms_key, bucket_key).map(SealAsked::Kept),
    }
}

fn read_kept(algorithm: &str, kms_key: Option<&str>, bucket_key: Option<bool>) -> S3Result<Kept> {
    match algorithm {
        ServerSideEncryption::AES256 if kms_key.is_some() => {
            Err(s3_error!(InvalidArgument, "a KMS key needs the algorithm aws:kms"))
        }
        ServerSideEncryption::AES256 => Ok(Kept::default()),
        ServerSideEncryption::AWS_KMS => {
            Kept::kms(kms_key.map(str::to_owned), bucket_key.unwrap_or_default()).map_err(error)
        }
        ServerSideEncryption::AWS_KMS_DSSE => Err(s3_error!(NotImplemented, "aws:kms:dsse is not served")),
        _ => Err(s3_error!(InvalidArgument, "The encryption method specified is not supported")),
    }
}

pub(super) fn algorithm(seal: &Seal) -> ServerSideEncryption {
    ServerSideEncryption::from_static(match seal.kms_key {
        Some(_) => ServerSideEncryption::AWS_KMS,
        None => ServerSideEncryption::AES256,
    })
}

/// Refuses a read that asks for encryption.
pub(super) fn refuse_on_read(headers: &HeaderMap) -> S3Result<()> {
    if headers.contains_key("x-amz-server-side-encryption")
        || headers.contains_key("x-amz-server-side-encryption-aws-kms-key-id")
    {
        return Err(s3_error!(
            InvalidArgument,
            "x-amz-server-side-encryption header is not supported for this operation."
        ));
    }
    Ok(())
}

/// Checks that who asks about an object has its key, where it has one of a customer.
pub(super) fn check(
    artifacts: &Artifacts,
    bucket: &str,
    key: &str,
    seal: Option<&Seal>,
    customer: Option<&CustomerKey>,
) -> S3Result<()> {
    artifacts.data_key(bucket, key, seal, customer).map(drop).map_err(error)
}

/// The same for an upload's completion, whose output has no fields for it: gives the headers of the answer.
pub(super) fn check_upload(
    artifacts: &Artifacts,
    name: &UploadName,
    seal: Option<&Seal>,
    customer: Option<&CustomerKey>,
) -> S3Result<HeaderMap> {
    check(artifacts, &name.bucket, &name.key, seal, customer)?;
    let mut headers = HeaderMap::new();
    if let Some(md5) = customer.and_then(|customer| HeaderValue::from_str(&customer.md5()).ok()) {
        headers.insert(ALGORITHM, HeaderValue::from_static("AES256"));
        headers.insert(KEY_MD5, md5);
    }
    Ok(headers)
}

pub(super) async fn put_default(
    artifacts: &Artifacts,
    request: S3Request<PutBucketEncryptionInput>,
) -> S3Result<S3Response<PutBucketEncryptionOutput>> {
    let PutBucketEncryptionInput { bucket, server_side_encryption_configuration: mut configuration, .. } =
        request.input;
    let rule = configuration.rules.pop().filter(|_| configuration.rules.is_empty());
    let Some(rule) = rule else { return Err(s3_error!(MalformedXML, "a bucket has one rule of encryption")) };
    let Some(default) = rule.apply_server_side_encryption_by_default else {
        return Err(s3_error!(MalformedXML, "the rule has no ApplyServerSideEncryptionByDefault"));
    };
    let key = default.kms_master_key_id.as_deref();
    let kept = read_kept(default.sse_algorithm.as_str(), key, rule.bucket_key_enabled)?;
    artifacts.set_default_seal(&bucket, Some(&kept)).await.map_err(error)?;
    Ok(S3Response::new(PutBucketEncryptionOutput {}))
}

pub(super) async fn get_default(
    artifacts: &Artifacts,
    request: S3Request<GetBucketEncryptionInput>,
) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
    let Some(kept) = artifacts.default_seal(&request.input.bucket).map_err(error)? else {
        let mut none = s3_error!(
            ServerSideEncryptionConfigurationNotFoundError,
            "The server side encryption configuration was not found"
        );
        none.set_status_code(http::StatusCode::NOT_FOUND);
        return Err(none);
    };
    let algorithm = if kept.kms_key.is_some() { ServerSideEncryption::AWS_KMS } else { ServerSideEncryption::AES256 };
    let rule = ServerSideEncryptionRule {
        apply_server_side_encryption_by_default: Some(ServerSideEncryptionByDefault {
            kms_master_key_id: kept.kms_key,
            sse_algorithm: ServerSideEncryption::from_static(algorithm),
        }),
        bucket_key_enabled: Some(kept.bucket_key),
    };
    let configuration = ServerSideEncryptionConfiguration { rules: vec![rule] };
    Ok(S3Response::new(GetBucketEncryptionOutput { server_side_encryption_configuration: Some(configuration) }))
}

pub(super) async fn delete_default(
    artifacts: &Artifacts,
    request: S3Request<DeleteBucketEncryptionInput>,
) -> S3Result<S3Response<DeleteBucketEncryptionOutput>> {
    artifacts.set_default_seal(&request.input.bucket, None).await.map_err(error)?;
    Ok(S3Response::new(DeleteBucketEncryptionOutput {}))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs=";
    const MD5: &str = "DWygnHRtgiJ77HCm+1rvHw==";

    fn code<T>(refused: S3Result<T>) -> String {
        refused.err().unwrap().code().as_str().to_owned()
    }

    #[test]
    fn a_customers_key_comes_with_all_three_headers_or_none() {
        assert!(read_customer(None, None, None).unwrap().is_none());
        assert!(read_customer(Some("AES256"), Some(KEY), Some(MD5)).unwrap().is_some());
        for (algorithm, key, md5) in [
            (None, Some(KEY), Some(MD5)),
            (Some("AES256"), None, None),
            (Some("AES256"), Some(KEY), None),
            (Some("AES256"), Some(KEY), Some("AAAA")),
        ] {
            assert_eq!(code(read_customer(algorithm, key, md5)), "InvalidArgument");
        }
        assert_eq!(code(read_customer(Some("AES192"), Some(KEY), Some(MD5))), "InvalidEncryptionAlgorithmError");
    }

    #[test]
    fn of_the_kinds_of_encryption_a_request_asks_for_one() {
        let key = || read_customer(Some("AES256"), Some(KEY), Some(MD5)).unwrap();
        let named = |name: &'static str| ServerSideEncryption::from_static(name);
        let ask = |customer, kept: Option<&'static str>, kms: Option<&str>| {
            asked(customer, kept.map(named).as_ref(), kms, false, None)
        };
        assert!(matches!(ask(None, None, None).unwrap(), SealAsked::Nothing));
        assert!(matches!(ask(key(), None, None).unwrap(), SealAsked::Customer(_)));
        assert!(matches!(ask(None, Some("AES256"), None).unwrap(), SealAsked::Kept(Kept { kms_key: None, .. })));
        let SealAsked::Kept(kept) = ask(None, Some("aws:kms"), Some("k")).unwrap() else { panic!("kept") };
        assert_eq!(kept.kms_key.as_deref(), Some("k"));
        for refused in [
            ask(key(), Some("AES256"), None),
            ask(key(), Some("aws:kms"), Some("k")),
            ask(None, None, Some("k")),
            ask(None, Some("AES256"), Some("k")),
            ask(None, Some("aes:kms"), None),
        ] {
            assert_eq!(code(refused), "InvalidArgument");
        }
        assert_eq!(code(ask(None, Some("aws:kms:dsse"), None)), "NotImplemented");
        assert_eq!(code(asked(None, None, None, true, None)), "NotImplemented");
    }
}
