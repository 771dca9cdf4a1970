//! The operator's credentials in the other S3, and signatures made with them.
//!
//! Those of a role change every few hours: they are asked for again some minutes before they end, and the ones that still hold are
//! used when that fails.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use sha2::{Digest, Sha256};
use tokio::sync::Mutex;

use crate::clock::Now;
use crate::outgoing::chain;

/// How long before their end credentials are asked for anew.
const EARLY: Duration = Duration::from_secs(300);
/// Longest time that asking for them may take.
const PROVIDE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a signature says of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// Its SHA-256 in hexadecimal, which the other S3 compares.
    Hash(String),
    Unsigned,
    /// Unsigned chunks, with a checksum behind them.
    Trailer,
}

impl Payload {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::Hash(hex::encode(Sha256::digest(bytes)))
    }

    pub(super) fn empty() -> Self {
        Self::Hash("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".to_owned())
    }
}

pub(super) struct Keyring {
    provider: SharedCredentialsProvider,
    region: String,
    held: Mutex<Option<Credentials>>,
}

impl Keyring {
    pub(super) fn new(provider: SharedCredentialsProvider, region: String) -> Self {
        Self { provider, region, held: Mutex::default() }
    }

    /// # Errors
    /// Why there are none, without anything secret.
    pub(super) async fn credentials(&self, now: Now) -> Result<Credentials, String> {
        let mut held = self.held.lock().await;
        let left = |credentials: &Credentials| {
            let ends = credentials.expiry()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            Some(ends.saturating_sub(Duration::from_millis(now.wall_ms)))
        };
        if let Some(credentials) = held.as_ref().filter(|held| left(held).is_none_or(|left| left > EARLY)) {
            return Ok(credentials.clone());
        }
        let asked = tokio::time::timeout(PROVIDE_TIMEOUT, self.provider.provide_credentials()).await;
        let problem = match asked {
            Ok(Ok(credentials)) => return Ok(held.insert(credentials).clone()),
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("none came within {} s", PROVIDE_TIMEOUT.as_secs()),
        };
        match held.as_ref().filter(|held| left(held).is_some_and(|left| !left.is_zero())) {
            Some(credentials) => Ok(credentials.clone()),
            None => Err(problem),
        }
    }

    /// Adds what makes `headers` a signed request: `host` and each `x-amz-…` of them are signed.
    ///
    /// # Errors
    /// A header that is no text.
    pub(super) fn sign(
        &self,
        credentials: Credentials,
        (method, uri): (&Method, &Uri),
        headers: &mut HeaderMap,
        payload: &Payload,
        now: Now,
    ) -> Result<(), String> {
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name("s3")
            .time(UNIX_EPOCH + Duration::from_millis(now.wall_ms))
            .settings(settings)
            .build();
        let params = params.map_err(|error| error.to_string())?.into();
        let mut signed = Vec::new();
        for (name, value) in headers.iter() {
            if *name == header::HOST || *name == "content-md5" || name.as_str().starts_with("x-amz-") {
                let text =
                    std::str::from_utf8(value.as_bytes()).map_err(|_| format!("the header {name} is no UTF-8"))?;
                signed.push((name.as_str(), text));
            }
        }
        let body = match payload {
            Payload::Hash(hash) => SignableBody::Precomputed(hash.clone()),
            Payload::Unsigned => SignableBody::UnsignedPayload,
            Payload::Trailer => SignableBody::StreamingUnsignedPayloadTrailer,
        };
        let request = SignableRequest::new(method.as_str(), uri.to_string(), signed.into_iter(), body);
        let made = request.and_then(|request| sign(request, &params)).map_err(|error| chain(&error))?;
        let (made, _) = made.into_parts().0.into_parts();
        for part in made {
            let name = HeaderName::from_static(part.name());
            let mut value = HeaderValue::try_from(part.value()).map_err(|error| error.to_string())?;
            value.set_sensitive(part.sensitive() || name == header::AUTHORIZATION);
            headers.insert(name, value);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::SystemTime;

    use aws_credential_types::provider::future;

    use super::*;

    const fn at(seconds: u64) -> Now {
        Now { mono_ms: 0, wall_ms: seconds * 1000 }
    }

    /// Each time other credentials that hold for an hour; in vain after the second time.
    #[derive(Debug)]
    struct Role(Arc<AtomicU64>);

    impl ProvideCredentials for Role {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let asked = self.0.fetch_add(1, Ordering::Relaxed);
            let ends: SystemTime = UNIX_EPOCH + Duration::from_secs(3600 * (asked + 1));
            let made = Credentials::new(format!("key{asked}"), "secret", Some("token".into()), Some(ends), "test");
            future::ProvideCredentials::ready(match asked {
                0 | 1 => Ok(made),
                _ => Err(aws_credential_types::provider::error::CredentialsError::not_loaded("away")),
            })
        }
    }

    #[tokio::test]
    async fn credentials_are_renewed_before_they_end_and_used_until_then() {
        let asked = Arc::new(AtomicU64::new(0));
        let ring = Keyring::new(SharedCredentialsProvider::new(Role(Arc::clone(&asked))), "us-east-1".into());
        let id = async |second| ring.credentials(at(second)).await.map(|held| held.access_key_id().to_owned());
        assert_eq!(id(0).await.as_deref(), Ok("key0"));
        assert_eq!(id(3299).await.as_deref(), Ok("key0"));
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(id(3301).await.as_deref(), Ok("key1"));
        assert_eq!(id(7000).await.as_deref(), Ok("key1"), "the role is away, and these still hold");
        assert!(id(7201).await.unwrap_err().contains("away"));
    }

    #[test]
    fn what_the_caller_sent_as_amazons_headers_is_signed() {
        let fixed = Credentials::new("AKIA", "secret", Some("token".into()), None, "test");
        let ring = Keyring::new(SharedCredentialsProvider::new(fixed.clone()), "eu-west-1".into());
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("s3.example"));
        headers.insert("x-amz-meta-a", HeaderValue::from_bytes("\u{e9} b".as_bytes()).unwrap());
        headers.insert("range", HeaderValue::from_static("bytes=0-1"));
        let uri = Uri::from_static("http://s3.example/b/a%20b?acl");
        ring.sign(fixed.clone(), (&Method::GET, &uri), &mut headers, &Payload::empty(), at(1_795_348_801)).unwrap();
        let made = headers[header::AUTHORIZATION].to_str().unwrap();
        assert!(made.contains("AKIA/20261122/eu-west-1/s3/aws4_request"), "{made}");
        let signed = "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-meta-a;x-amz-security-token,";
        assert!(made.contains(signed), "{made}");
        assert!(headers[header::AUTHORIZATION].is_sensitive());
        assert_eq!(headers["x-amz-content-sha256"], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        headers.insert("x-amz-meta-a", HeaderValue::from_bytes(&[0xff]).unwrap());
        assert!(ring.sign(fixed, (&Method::GET, &uri), &mut headers, &Payload::Unsigned, at(0)).is_err());
    }
}
