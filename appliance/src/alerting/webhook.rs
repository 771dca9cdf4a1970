//! Webhook: a POST in the envelope in which SNS posts to HTTP subscribers, so that code written for SNS reads it.
//!
//! Nothing is signed: a signature that SNS's verifiers accept needs a certificate of Amazon's. `Signature` and `SigningCertURL` are
//! empty, and a receiver that must know who speaks uses HTTPS with userinfo in the URL, which is sent as HTTP Basic.

use backlot_wire::Timestamp;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::percent_decode_str;
use serde_json::json;

use super::receiver::Message;

/// Most of an answer that is read, in bytes; it is only for the log.
const ANSWER_BYTES_MAX: usize = 4096;

pub(super) struct Webhook {
    uri: Uri,
    authorization: Option<HeaderValue>,
    topic: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Webhook {
    pub(super) fn new(url: &str, topic: &str) -> Result<Self, String> {
        // The URL itself is not in the errors: it may hold a secret.
        let refuse = || "a webhook is an http:// or https:// URL with a host".to_owned();
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
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| format!("read this machine's certificates: {error}"))?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector);
        Ok(Self { uri, authorization, topic: topic.to_owned(), client })
    }

    /// Scheme and host alone.
    pub(super) fn target(&self) -> String {
        let authority = self.uri.authority().map_or("", |authority| authority.as_str());
        format!("{}://{authority}/…", self.uri.scheme_str().unwrap_or("http"))
    }

    fn envelope(&self, message: &Message) -> String {
        json!({
            "Type": "Notification",
            "MessageId": message.id,
            "TopicArn": self.topic,
            "Subject": message.subject,
            "Message": message.text,
            "Timestamp": Timestamp(message.made_at_ms).to_rfc3339(),
            "SignatureVersion": "1",
            "Signature": "",
            "SigningCertURL": "",
            "UnsubscribeURL": "",
        })
        .to_string()
    }

    /// One attempt; any answer of 2xx is success.
    pub(super) async fn send(&self, message: &Message) -> Result<(), String> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.uri.clone())
            .header(CONTENT_TYPE, "text/plain; charset=UTF-8")
            .header(USER_AGENT, concat!("Backlot/", env!("CARGO_PKG_VERSION")))
            .header("x-amz-sns-message-type", "Notification")
            .header("x-amz-sns-message-id", &message.id)
            .header("x-amz-sns-topic-arn", &self.topic)
            .header("x-amz-sns-subscription-arn", format!("{}:backlot", self.topic));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let body = Full::new(Bytes::from(self.envelope(message)));
        let request = request.body(body).map_err(|error| format!("make the request: {error}"))?;
        let answer = self.client.request(request).await.map_err(|error| chain(&error))?;
        let status = answer.status();
        let said = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        if status.is_success() {
            return Ok(());
        }
        let said = said.map_or_else(|_| Bytes::new(), http_body_util::Collected::to_bytes);
        let said: String = String::from_utf8_lossy(&said).chars().take(200).collect();
        Err(format!("answered {status}: {said}"))
    }
}

/// An error with its causes: the outermost of hyper's says little.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
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
        let webhook =
            Webhook::new("https://bot:p%40ss@hooks.example.org:8443/T0/secret?token=x", "arn:t").expect("a URL");
        assert_eq!(webhook.target(), "https://hooks.example.org:8443/…");
        assert_eq!(webhook.uri.to_string(), "https://hooks.example.org:8443/T0/secret?token=x");
        let sent = webhook.authorization.expect("userinfo becomes Basic");
        assert_eq!(sent.to_str().ok(), Some(format!("Basic {}", BASE64.encode("bot:p@ss")).as_str()));
        for bad in ["", "hooks.example.org", "ftp://x/", "http://", "http://user@/", "http://:80/", "/path"] {
            let problem = Webhook::new(bad, "arn:t").err().unwrap_or_default();
            assert!(problem.contains("http:// or https://"), "{bad}");
        }
    }
}
