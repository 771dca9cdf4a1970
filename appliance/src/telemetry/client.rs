//! The exporters' way to the own door: plain HTTP over loopback.
//!
//! The exporters have threads of their own that know no tokio, so each request runs on the runtime that was current when
//! the client was made. Nothing here logs.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_http::HttpError;
use tokio::runtime::Handle;

/// Answers to exports are a few bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug)]
pub(super) struct Loopback {
    client: Client<HttpConnector, Full<Bytes>>,
    runtime: Handle,
    timeout: Duration,
}

impl Loopback {
    pub(super) fn new(timeout: Duration) -> Self {
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(3).build_http();
        Self { client, runtime: Handle::current(), timeout }
    }
}

#[tonic::async_trait]
impl opentelemetry_http::HttpClient for Loopback {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (client, timeout) = (self.client.clone(), self.timeout);
        let exchange = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let bytes = Limited::new(body, ANSWER_BYTES_MAX).collect().await?.to_bytes();
            Ok::<_, HttpError>(Response::from_parts(head, bytes))
        };
        self.runtime.spawn(async move { tokio::time::timeout(timeout, exchange).await }).await??
    }
}
