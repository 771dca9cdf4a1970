//! Posts to other people's servers: what alerts and webhooks share.
//!
//! A redirect is an answer that is no success, never followed: whoever may set a URL must not be able to have another one called.
//! Addresses of the studio's own network are allowed, because that is where receivers are. Userinfo in a URL is sent as HTTP
//! Basic; neither it nor path nor query, which may be secrets, stand in an error or a log.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::percent_decode_str;

/// Longest attempt.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most of an answer that is read, in bytes; it is only for the log.
const ANSWER_BYTES_MAX: usize = 4096;
/// Longest URL.
const URL_BYTES_MAX: usize = 2_000;

/// Where something is posted to.
#[derive(Clone, Debug)]
pub struct Target {
    uri: Uri,
    authorization: Option<HeaderValue>,
}

impl Target {
    /// # Errors
    /// A sentence, without the URL: it may hold a secret.
    pub fn parse(url: &str) -> Result<Self, String> {
        let refuse = || "a webhook is an http:// or https:// URL with a host".to_owned();
        if url.len() > URL_BYTES_MAX {
            return Err(format!("a webhook's URL is at most {URL_BYTES_MAX} bytes"));
        }
        let parsed: Uri = url.parse().map_err(|_| refuse())?;
        let (Some("http" | "https"), Some(authority)) = (parsed.scheme_str(), parsed.authority()) else {
            return Err(refuse());
        };
        let mut authorization = None;
        let mut host = authority.as_str();
        if let Some((userinfo, behind)) = authority.as_str().rsplit_once('@') {
            host = behind;
            let plain: Vec<u8> = percent_decode_str(userinfo).collect();
            let mut value = HeaderValue::try_from(format!("Basic {}", BASE64.encode(plain))).map_err(|_| refuse())?;
            value.set_sensitive(true);
            authorization = Some(value);
        }
        if host.is_empty() || host.starts_with(':') {
            return Err(refuse());
        }
        let path = parsed.path_and_query().map_or("/", |path| path.as_str());
        let builder = Uri::builder().scheme(parsed.scheme_str().unwrap_or("http")).authority(host).path_and_query(path);
        let uri = builder.build().map_err(|_| refuse())?;
        Ok(Self { uri, authorization })
    }

    /// Scheme and host alone.
    #[must_use]
    pub fn shown(&self) -> String {
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}/…", self.uri.scheme_str().unwrap_or("http"))
    }
}

/// Who posts. Cheap to clone; connections are kept for a while.
#[derive(Clone)]
pub struct Courier {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Courier {
    /// # Errors
    /// When this machine's certificates cannot be read.
    pub fn new(idle_connections_max: usize) -> Result<Self, String> {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| format!("read this machine's certificates: {error}"))?
            .https_or_http()
            .enable_http1()
            .build();
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(idle_connections_max).build(connector);
        Ok(Self { client })
    }

    /// One attempt, within its time; any answer of 2xx is success.
    ///
    /// # Errors
    /// What went wrong, for a log: it has no secrets in it.
    pub async fn post(&self, target: &Target, headers: &[(&'static str, String)], body: Bytes) -> Result<(), String> {
        match tokio::time::timeout(ATTEMPT_TIMEOUT, self.try_post(target, headers, body)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs())),
        }
    }

    async fn try_post(&self, target: &Target, headers: &[(&'static str, String)], body: Bytes) -> Result<(), String> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(target.uri.clone())
            .header(USER_AGENT, concat!("Backlot/", env!("CARGO_PKG_VERSION")));
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(authorization) = &target.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let request = request.body(Full::new(body)).map_err(|error| format!("make the request: {error}"))?;
        let answer = self.client.request(request).await.map_err(|error| chain(&error))?;
        let status = answer.status();
        let said = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        if status.is_success() {
            return Ok(());
        }
        let said = said.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
        let said: String = String::from_utf8_lossy(&said).chars().filter(|c| !c.is_control()).take(200).collect();
        Err(format!("answered {status}: {said}"))
    }
}

/// An error with its causes: the outermost of hyper's says little.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_the_url_is_sent_and_never_shown() {
        let target = Target::parse("https://bot:p%40ss@hooks.example.org:8443/T0/secret?token=x").expect("a URL");
        assert_eq!(target.shown(), "https://hooks.example.org:8443/…");
        assert_eq!(target.uri.to_string(), "https://hooks.example.org:8443/T0/secret?token=x");
        let sent = target.authorization.as_ref().expect("userinfo becomes Basic");
        assert_eq!(sent.to_str().ok(), Some(format!("Basic {}", BASE64.encode("bot:p@ss")).as_str()));
        assert!(!format!("{sent:?}").contains("Basic"), "a log does not show it either");
        for bad in ["", "hooks.example.org", "ftp://x/", "http://", "http://user@/", "http://:80/", "/path"] {
            let problem = Target::parse(bad).err().unwrap_or_default();
            assert!(problem.contains("http:// or https://"), "{bad}");
        }
        assert!(Target::parse(&format!("http://x/{}", "y".repeat(3_000))).is_err());
    }
}
