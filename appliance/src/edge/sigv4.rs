//! Verification of SigV4 by recomputation with `aws-sigv4`, for every AWS dialect but S3 (where s3s verifies).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use http::HeaderMap;
use http::request::Parts;
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Error, S3ErrorCode, S3Result};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::aws::AwsError;
use crate::identity::{Identity, Principal};

/// How far a signature's time may be from ours, in seconds (AWS: 15 minutes for most services).
const SKEW_S: u64 = 15 * 60;

/// What a signature is for: `KEY/DATE/REGION/SERVICE/aws4_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scope<'a> {
    pub(crate) key_id: &'a str,
    pub(crate) date: &'a str,
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
}

impl<'a> Scope<'a> {
    pub(crate) fn parse(credential: &'a str) -> Option<Self> {
        let mut parts = credential.split('/');
        let scope = Self { key_id: parts.next()?, date: parts.next()?, region: parts.next()?, service: parts.next()? };
        (parts.next()? == "aws4_request" && parts.next().is_none()).then_some(scope)
    }
}

/// What an `Authorization: AWS4-HMAC-SHA256` header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authorization<'a> {
    pub(super) key_id: &'a str,
    pub(super) region: &'a str,
    pub(super) service: &'a str,
    pub(super) signed_headers: Vec<&'a str>,
    signature: &'a str,
}

impl<'a> Authorization<'a> {
    /// `None` for a header of another scheme, or one that is not whole.
    pub(super) fn parse(header: &'a str) -> Option<Self> {
        let rest = header.strip_prefix("AWS4-HMAC-SHA256")?;
        let field = |name: &str| rest.split(',').find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='));
        let scope = Scope::parse(field("Credential")?)?;
        Some(Self {
            key_id: scope.key_id,
            region: scope.region,
            service: scope.service,
            signed_headers: field("SignedHeaders")?.split(';').collect(),
            signature: field("Signature")?,
        })
    }

    pub(super) fn of(headers: &'a HeaderMap) -> Option<Self> {
        Self::parse(headers.get(http::header::AUTHORIZATION)?.to_str().ok()?)
    }
}

/// Checks the signature of a request whose body has been collected.
///
/// # Errors
/// What AWS answers: an unknown key, a time out of the window, a signature that does not match.
pub(super) fn verify(
    identity: &Identity,
    parts: &Parts,
    authorization: &Authorization<'_>,
    body: &[u8],
    wall_ms: u64,
) -> Result<Principal, AwsError> {
    let refuse = |shape, message: &str| Err(AwsError::client(shape, message).with_status(http::StatusCode::FORBIDDEN));
    let incomplete = || AwsError::client("IncompleteSignature", "host and x-amz-date must be signed headers");
    let Some((secret, principal)) = identity.secret(authorization.key_id) else {
        return refuse("UnrecognizedClientException", "The security token included in the request is invalid.");
    };
    if !["host", "x-amz-date"].iter().all(|name| authorization.signed_headers.contains(name)) {
        return Err(incomplete());
    }
    let signed_at = header(&parts.headers, "x-amz-date").and_then(parse_amz_date).ok_or_else(incomplete)?;
    if signed_at.abs_diff(wall_ms / 1000) > SKEW_S {
        return refuse(
            "InvalidSignatureException",
            "Signature expired or not yet valid: the time of the request is more than 15 minutes from this machine's",
        );
    }
    if header(&parts.headers, "x-amz-content-sha256")
        .is_some_and(|given| given.len() == 64 && given != hex::encode(Sha256::digest(body)))
    {
        return refuse("InvalidSignatureException", "The body is not the one whose SHA-256 the request names.");
    }
    match recompute(&secret, parts, authorization, body, signed_at) {
        Some(right) if bool::from(right.as_bytes().ct_eq(authorization.signature.as_bytes())) => Ok(principal),
        _ => refuse(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method.",
        ),
    }
}

pub(super) fn recompute(
    secret: &str,
    parts: &Parts,
    authorization: &Authorization<'_>,
    body: &[u8],
    signed_at: u64,
) -> Option<String> {
    let mut settings = SigningSettings::default();
    settings.excluded_headers = Some(Vec::new()); // what the caller signed is what we sign
    settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
    settings.uri_path_normalization_mode = UriPathNormalizationMode::Enabled;
    let identity = Credentials::new(authorization.key_id, secret, None, None, "backlot").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(authorization.region)
        .name(authorization.service)
        .time(UNIX_EPOCH + Duration::from_secs(signed_at))
        .settings(settings)
        .build()
        .ok()?
        .into();
    let mut headers = Vec::with_capacity(authorization.signed_headers.len());
    for name in &authorization.signed_headers {
        if *name != "x-amz-date" {
            headers.push((*name, header(&parts.headers, name)?));
        }
    }
    let host = header(&parts.headers, "host")?;
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let uri = format!("http://{host}{path}");
    let request =
        SignableRequest::new(parts.method.as_str(), uri, headers.into_iter(), SignableBody::Bytes(body)).ok()?;
    Some(sign(request, &params).ok()?.into_parts().1)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `20261122T120000Z` as seconds since 1970.
pub(crate) fn parse_amz_date(text: &str) -> Option<u64> {
    let format = time::macros::format_description!("[year][month][day]T[hour][minute][second]Z");
    let moment = time::PrimitiveDateTime::parse(text, format).ok()?.assume_utc();
    Some(SystemTime::from(moment).duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// The keys as s3s asks for them.
pub struct S3Keys(pub Identity);

#[async_trait::async_trait]
impl S3Auth for S3Keys {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.secret(access_key) {
            Some((secret, _)) => Ok(SecretKey::from(secret)),
            None => Err(S3Error::with_message(
                S3ErrorCode::InvalidAccessKeyId,
                "The AWS Access Key Id you provided does not exist in our records.",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authorization_header_is_read_whole_or_not_at_all() {
        let header = "AWS4-HMAC-SHA256 Credential=AK/20261122/us-east-1/sqs/aws4_request, SignedHeaders=host;x-amz-date, Signature=ab";
        let read = Authorization::parse(header).unwrap();
        assert_eq!((read.key_id, read.region, read.service), ("AK", "us-east-1", "sqs"));
        assert_eq!(read.signed_headers, ["host", "x-amz-date"]);
        for cut in 0..header.len() - 2 {
            let cut = &header[..cut];
            assert!(Authorization::parse(cut).is_none_or(|read| read.signature.is_empty()), "{cut}");
        }
        assert_eq!(Authorization::parse("Basic abc"), None);
    }

    #[test]
    fn a_time_is_read_to_the_second() {
        assert_eq!(parse_amz_date("20261122T120001Z"), Some(1_795_348_801));
        assert_eq!(parse_amz_date("20261322T120001Z"), None);
        assert_eq!(parse_amz_date("19691231T235959Z"), None);
    }
}
