//! The exporters' way to the own door: plain HTTP over loopback.
//!
//! The exporters have threads of their own that know no tokio, so each request runs on the runtime that was current when
//! the client was made. Nothing here logs but that exports fail, once.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::HttpError;
use parking_lot::Mutex;
use tokio::runtime::Handle;

/// Answers to exports are a few bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Loopback {
    client: Client<HttpConnector, Full<Bytes>>,
    runtime: Handle,
    timeout: Duration,
    /// Paths whose last export failed.
    failing: Mutex<BTreeSet<String>>,
    /// The doors close before the last exports: what fails then is no news.
    ending: AtomicBool,
}

impl Loopback {
    pub(super) fn new(timeout: Duration) -> Self {
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(3).build_http();
        let (failing, ending) = (Mutex::default(), AtomicBool::new(false));
        Self { client, runtime: Handle::current(), timeout, failing, ending }
    }

    /// Failures are expected from now on.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// One warning when exports begin to fail and one line when they arrive again, in place of what the SDK says each time.
    fn tell(&self, path: &str, problem: Option<String>) {
        if self.ending.load(Ordering::Relaxed) {
            return;
        }
        let mut failing = self.failing.lock();
        let failed_before = !failing.is_empty();
        match problem {
            Some(problem) => {
                failing.insert(path.to_owned());
                if !failed_before {
                    tracing::warn!(
                        problem,
                        "the appliance does not take its own logs, metrics and traces; some are lost"
                    );
                }
            }
            None => {
                failing.remove(path);
                if failed_before && failing.is_empty() {
                    tracing::info!("the appliance takes its own logs, metrics and traces again");
                }
            }
        }
    }
}

#[tonic::async_trait]
impl opentelemetry_http::HttpClient for Loopback {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, timeout) = (self.client.clone(), self.timeout);
        let path = request.uri().path().to_owned();
        let exchange = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let bytes = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, bytes))
        };
        let answer = self.runtime.spawn(async move { tokio::time::timeout(timeout, exchange).await }).await?;
        self.tell(
            &path,
            match &answer {
                Ok(Ok(answer)) if answer.status().is_success() => None,
                Ok(Ok(answer)) => Some(answer.status().to_string()),
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {timeout:?}")),
            },
        );
        answer?
    }
}
