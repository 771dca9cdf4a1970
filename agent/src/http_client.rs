//! The HTTP client for the appliance's http door and for OTLP: rustls over *ring*, the host's root certificates, bounded answers.
//!
//! SQS and S3 go through the AWS SDK's own client. Nothing here opens spans, and nothing is logged but that exports fail, once:
//! the exporters of logs and spans go through it, and would feed themselves.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 4 << 20;

#[derive(Clone, Debug, thiserror::Error)]
pub enum HttpError {
    #[error("connect or send: {0}")]
    Send(String),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("an answer of more than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
}

/// Cheap to clone; connections are shared.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl HttpClient {
    /// # Errors
    /// The host's root certificates cannot be read.
    pub fn new() -> std::io::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(Duration::from_secs(5)));
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .pool_max_idle_per_host(8)
            .pool_timer(TokioTimer::new())
            .build(https);
        Ok(Self { client })
    }

    /// Sends one request and reads its whole answer within `timeout`. Any status is an answer.
    ///
    /// # Errors
    /// [`HttpError`]: there was no answer.
    pub async fn send(&self, request: Request<Bytes>, timeout: Duration) -> Result<Response<Bytes>, HttpError> {
        let exchange = async {
            let answer = self.client.request(request.map(Full::new)).await.map_err(|error| reason(&error))?;
            let (head, mut body) = answer.into_parts();
            let mut bytes = BytesMut::new();
            while let Some(frame) = body.frame().await {
                let frame = frame.map_err(|error| reason(&error))?;
                let data = frame.into_data().unwrap_or_default();
                if bytes.len() + data.len() > ANSWER_BYTES_MAX {
                    return Err(HttpError::TooLarge);
                }
                bytes.extend_from_slice(&data);
            }
            Ok(Response::from_parts(head, bytes.freeze()))
        };
        tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(HttpError::Timeout(timeout)))
    }
}

/// The innermost cause: hyper's own words say only that the client failed.
fn reason(error: &dyn std::error::Error) -> HttpError {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    HttpError::Send(cause.to_string())
}

/// The same client for the exporters, whose threads know no runtime.
#[derive(Debug)]
pub struct ExporterClient {
    client: HttpClient,
    runtime: Handle,
    timeout: Duration,
    /// Paths whose last export failed.
    failing: Mutex<BTreeSet<String>>,
}

impl ExporterClient {
    /// Sends on the runtime that is current now.
    #[must_use]
    pub fn new(client: HttpClient, timeout: Duration) -> Self {
        Self { client, runtime: Handle::current(), timeout, failing: Mutex::default() }
    }

    /// One warning when exports begin to fail and one line when they arrive again, in place of what the SDK says each time.
    fn tell(&self, path: &str, problem: Option<String>) {
        let mut failing = self.failing.lock();
        let failed_before = !failing.is_empty();
        match problem {
            Some(problem) => {
                failing.insert(path.to_owned());
                if !failed_before {
                    tracing::warn!(
                        problem,
                        "logs, metrics and traces do not arrive; what does not fit the queues is lost"
                    );
                }
            }
            None => {
                failing.remove(path);
                if failed_before && failing.is_empty() {
                    tracing::info!("logs, metrics and traces arrive again");
                }
            }
        }
    }
}

#[async_trait::async_trait]
impl opentelemetry_http::HttpClient for ExporterClient {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, opentelemetry_http::HttpError> {
        let (client, timeout) = (self.client.clone(), self.timeout);
        let path = request.uri().path().to_owned();
        let answer = self.runtime.spawn(async move { client.send(request, timeout).await }).await?;
        self.tell(
            &path,
            match &answer {
                Ok(answer) if answer.status().is_success() => None,
                Ok(answer) => Some(answer.status().to_string()),
                Err(error) => Some(error.to_string()),
            },
        );
        Ok(answer?)
    }
}
