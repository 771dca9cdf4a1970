//! One request to the other S3: connected, signed, sent and answered, within bounds.
//!
//! A request takes one of so many places for as long as its answer's body lives. Nothing is tried again but what found its kept connection
//! closed before a byte was sent; the caller's SDK knows better than we what may be repeated. Time is bounded by silence, not by size: a
//! request that nothing happens to for [`SILENCE_MAX`] is given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use backlot_wire::metrics::{UPSTREAM_DURATION, UPSTREAM_REQUESTS};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use opentelemetry::KeyValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::bodies::{Coming, Going, Watch};
use super::keyring::{Keyring, Payload};
use super::place::{Named, Place};
use crate::clock::Clock;
use crate::edge::Paced;
use crate::outgoing::chain;
use crate::telemetry;

/// Longest time for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time in which nothing happens to a request.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Longest wait for a place.
const PLACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for the leave to send a body; then it is sent without.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that are kept for later.
const IDLE_MAX: usize = 64;
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Most of an error's XML that is read, to see whom it is about.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Errors that are about this appliance's signature, and never about the caller's.
const ABOUT_US: [&str; 9] = [
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidSecurity",
    "InvalidToken",
    "NotSignedUp",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
];

/// Why there is no answer to hand on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("the other S3 at {place} cannot be reached: {problem}")]
    Away { place: String, problem: String },
    #[error("the other S3 at {place} was silent for {} s", SILENCE_MAX.as_secs())]
    Silent { place: String },
    #[error("as many requests to the other S3 are under way as upstream.connections_max allows")]
    Busy,
    #[error("there are no credentials for the other S3 ({problem}); see upstream.credentials")]
    NoCredentials { problem: String },
    #[error("the other S3 does not take this appliance's signature ({code}: {message}); {hint}")]
    Unsigned { code: String, message: String, hint: &'static str },
    #[error("the other S3 keeps this bucket elsewhere{}; upstream.endpoint and upstream.region say where this appliance asks",
        .region.as_ref().map(|region| format!(", in the region {region}")).unwrap_or_default())]
    Elsewhere { region: Option<String> },
    /// The caller's body, by the text of its fault.
    #[error("{0}")]
    Body(String),
    /// The request cannot be made as it is.
    #[error("{0}")]
    Request(String),
}

impl Trouble {
    /// Label of the counter.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Away { .. } => "away",
            Self::Silent { .. } => "silent",
            Self::Busy => "busy",
            Self::NoCredentials { .. } | Self::Unsigned { .. } => "credentials",
            Self::Elsewhere { .. } => "elsewhere",
            Self::Body(_) | Self::Request(_) => "request",
        }
    }

    /// Whether it says something of the other S3, and not of one request.
    pub(super) fn is_general(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Silent { .. } | Self::NoCredentials { .. } | Self::Unsigned { .. })
    }
}

/// A request, without what transport and signature add.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) named: Named,
    /// As it is signed.
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    /// Absent for a preflight, which nobody signs.
    pub(super) payload: Option<Payload>,
    /// With its length.
    pub(super) body: Option<(Body, u64)>,
    /// Whether the caller waits for leave to send it.
    pub(super) expects: bool,
}

impl Call {
    pub(super) fn read(method: Method, named: Named, query: String) -> Self {
        let (headers, payload) = (HeaderMap::new(), Some(Payload::empty()));
        Self { method, named, query, headers, payload, body: None, expects: false }
    }
}

/// How far a request has come whose body waits for leave.
#[derive(Clone, Default)]
struct Stages {
    given: CancellationToken,
    answered: CancellationToken,
    over: CancellationToken,
}

type Http = Client<HttpsConnector<HttpConnector>, Body>;

pub(super) struct Sender {
    http: Http,
    pub(super) place: Place,
    keyring: Keyring,
    clock: Arc<dyn Clock>,
    places: Arc<Semaphore>,
    /// Whether the other S3 is known to give leave. One that never does would make each put wait.
    gives_leave: Arc<AtomicBool>,
}

impl Sender {
    /// # Errors
    /// When this machine's certificates cannot be read.
    pub(super) fn new(
        place: Place,
        keyring: Keyring,
        clock: Arc<dyn Clock>,
        connections_max: usize,
    ) -> Result<Self, String> {
        let mut plain = HttpConnector::new();
        plain.enforce_http(false);
        plain.set_connect_timeout(Some(CONNECT_TIMEOUT));
        plain.set_nodelay(true);
        plain.set_keepalive(Some(SILENCE_MAX));
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| format!("read this machine's certificates: {error}"))?
            .https_or_http()
            .enable_http1()
            .wrap_connector(plain);
        let http = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_MAX)
            .build(connector);
        let places = Arc::new(Semaphore::new(connections_max));
        Ok(Self { http, place, keyring, clock, places, gives_leave: Arc::new(AtomicBool::new(true)) })
    }

    /// Sends `call` and gives the answer, whatever its status, unless that is about us.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn send(&self, call: Call) -> Result<Response<Body>, Trouble> {
        let began_ms = self.clock.now().mono_ms;
        let answer = self.try_send(call).await;
        let outcome = match &answer {
            Ok(answer) if answer.status().is_server_error() => "error",
            Ok(_) => "answered",
            Err(trouble) => trouble.outcome(),
        };
        let took_s = self.clock.now().mono_ms.saturating_sub(began_ms) as f64 / 1000.0;
        telemetry::counter(&UPSTREAM_REQUESTS).add(1, &[KeyValue::new("outcome", outcome)]);
        telemetry::histogram(&UPSTREAM_DURATION).record(took_s, &[]);
        answer
    }

    async fn try_send(&self, call: Call) -> Result<Response<Body>, Trouble> {
        let permit = match tokio::time::timeout(PLACE_TIMEOUT, Arc::clone(&self.places).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            _ => return Err(Trouble::Busy),
        };
        let (method, watch, stages) = (call.method.clone(), Watch::new(Arc::clone(&self.clock)), Stages::default());
        let request = self.request(call, &watch, &stages).await?;
        let answer = tokio::select! {
            answer = self.http.request(request) => answer.map_err(|error| self.failed(&error, &watch))?,
            () = silence(&watch) => return Err(Trouble::Silent { place: self.place.shown() }),
        };
        stages.answered.cancel();
        let over = stages.over.drop_guard();
        self.judge(&method, answer.map(|body| coming(body, (permit, over)))).await
    }

    async fn request(&self, call: Call, watch: &Watch, stages: &Stages) -> Result<http::Request<Body>, Trouble> {
        let Call { method, named, query, mut headers, payload, body, expects } = call;
        let (host, uri) = self.place.address(&named, &query).map_err(Trouble::Request)?;
        headers.insert(header::HOST, HeaderValue::try_from(host).map_err(|error| Trouble::Request(error.to_string()))?);
        if let Some(payload) = payload {
            let now = self.clock.now();
            let credentials = self.keyring.credentials(now).await;
            let credentials = credentials.map_err(|problem| Trouble::NoCredentials { problem })?;
            let signed = self.keyring.sign(credentials, (&method, &uri), &mut headers, &payload, now);
            signed.map_err(Trouble::Request)?;
        }
        let asks = expects && body.is_some() && self.gives_leave.load(Ordering::Relaxed);
        let body = match body {
            Some((body, length)) => {
                headers.insert(header::CONTENT_LENGTH, length.into());
                let leave = asks.then(|| self.leave(stages.clone()));
                Body::new(Going::new(body, length, leave, watch.clone()))
            }
            None => Body::empty(),
        };
        if asks {
            headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        }
        let mut request = http::Request::new(body);
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (method, uri, headers);
        if asks {
            let given = stages.given.clone();
            hyper::ext::on_informational(&mut request, move |told| {
                if told.status() == StatusCode::CONTINUE {
                    given.cancel();
                }
            });
        }
        Ok(request)
    }

    /// Whether the body may go: when the other S3 has given leave, or is found not to. Not when it has answered before: then the
    /// connection is of no more use when that answer is over.
    fn leave(&self, stages: Stages) -> BoxFuture<'static, bool> {
        let gives_leave = Arc::clone(&self.gives_leave);
        Box::pin(async move {
            tokio::select! {
                () = stages.given.cancelled() => true,
                () = stages.answered.cancelled() => {
                    stages.over.cancelled().await;
                    false
                }
                () = tokio::time::sleep(LEAVE_TIMEOUT) => {
                    gives_leave.store(false, Ordering::Relaxed);
                    true
                }
            }
        })
    }

    fn failed(&self, error: &hyper_util::client::legacy::Error, watch: &Watch) -> Trouble {
        match watch.fault() {
            Some(fault) => Trouble::Body(fault.0),
            None => Trouble::Away { place: self.place.shown(), problem: chain(error) },
        }
    }

    /// Answers that are about this appliance are told as such: the caller would look for the fault in their own key.
    async fn judge(&self, method: &Method, answer: Response<Body>) -> Result<Response<Body>, Trouble> {
        let text = |name: &str| Some(answer.headers().get(name)?.to_str().ok()?.to_owned());
        match answer.status() {
            StatusCode::MOVED_PERMANENTLY | StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => {
                Err(Trouble::Elsewhere { region: text("x-amz-bucket-region") })
            }
            StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN if method != Method::HEAD => {
                let (head, body) = answer.into_parts();
                let read = Limited::new(body, ERROR_BYTES_MAX).collect().await;
                let read = read.map_err(|error| Trouble::Away {
                    place: self.place.shown(),
                    problem: format!("an error of {} broke off: {error}", head.status),
                })?;
                let bytes = read.to_bytes();
                match about_us(&bytes) {
                    Some(trouble) => Err(trouble),
                    None => Ok(Response::from_parts(head, Body::from(bytes))),
                }
            }
            _ => Ok(answer),
        }
    }
}

fn coming(body: Incoming, held: (OwnedSemaphorePermit, DropGuard)) -> Body {
    let inner = Body::new(Paced::new(Body::new(body), SILENCE_MAX));
    Body::new(Coming { inner, _held: held })
}

/// Ends when nothing has happened for too long.
async fn silence(watch: &Watch) {
    loop {
        let left = SILENCE_MAX.saturating_sub(Duration::from_millis(watch.idle_ms()));
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left).await;
    }
}

/// The trouble that an error in XML tells of, where it is ours.
fn about_us(xml: &Bytes) -> Option<Trouble> {
    let text = std::str::from_utf8(xml).ok()?;
    let inside = |name: &str| Some(text.split_once(&format!("<{name}>"))?.1.split_once('<')?.0.to_owned());
    let code = inside("Code").filter(|code| ABOUT_US.contains(&code.as_str()))?;
    let hint = match code.as_str() {
        "RequestTimeTooSkewed" => "the clock of this machine or of the other S3 is wrong",
        "AuthorizationHeaderMalformed" => "upstream.region is another region than the store's",
        _ => "see upstream.credentials",
    };
    Some(Trouble::Unsigned { code, message: inside("Message").unwrap_or_default(), hint })
}

/// For fuzzing.
pub(super) fn fuzz(text: &str) {
    let _ = about_us(&Bytes::copy_from_slice(text.as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_about_our_signature_is_told_apart_from_one_about_the_caller() {
        let error = |code: &str| {
            let xml = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>so</Message></Error>");
            about_us(&Bytes::from(xml))
        };
        assert_eq!(error("AccessDenied"), None);
        assert_eq!(error("NoSuchBucket"), None);
        let told = error("RequestTimeTooSkewed").unwrap();
        assert!(told.is_general() && told.to_string().contains("clock"), "{told}");
        assert!(error("InvalidAccessKeyId").unwrap().to_string().contains("upstream.credentials"));
        assert_eq!(about_us(&Bytes::from_static(b"\xff<Code>InvalidAccessKeyId</Code>")), None);
        let elsewhere = Trouble::Elsewhere { region: Some("eu-west-1".into()) };
        assert!(elsewhere.to_string().contains("in the region eu-west-1; upstream.endpoint"), "{elsewhere}");
    }
}
