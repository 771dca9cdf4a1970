//! A light SQS client: AWS JSON 1.0 over one connection, signed with SigV4, and never a retry of its own.
//!
//! An SDK sends again what was not answered, and then nobody knows how many messages there should be. Here each call
//! ends as one of three: it was never on its way, it was answered, or its answer is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Longer than any long poll and any pause of a disk that we make slow.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Where the AWS door is at the moment; 0 while there is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Port(Arc<AtomicU16>);

impl Port {
    pub(super) fn set(&self, port: u16) {
        self.0.store(port, Ordering::Release);
    }

    fn get(&self) -> Option<u16> {
        Some(self.0.load(Ordering::Acquire)).filter(|port| *port > 0)
    }
}

/// What became of a call.
#[derive(Debug)]
pub(super) enum Reply {
    /// Nobody was there to hear it.
    NotSent,
    Done(Value),
    /// An error, and nothing was done.
    Refused {
        code: String,
    },
    /// It may have been done.
    Lost,
}

pub(super) struct Client {
    port: Port,
    line: Option<(u16, SendRequest<Full<Bytes>>)>,
}

impl Client {
    pub(super) fn new(port: Port) -> Self {
        Self { port, line: None }
    }

    pub(super) async fn call(&mut self, operation: &str, request: &Value) -> Reply {
        let Some((port, mut line)) = self.line().await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            return Reply::NotSent;
        };
        let body = request.to_string();
        let Some(request) = signed(port, operation, body) else { return Reply::NotSent };
        let answer = tokio::time::timeout(ANSWER_MAX, async {
            let response = line.send_request(request).await.ok()?;
            let status = response.status();
            let bytes = response.into_body().collect().await.ok()?.to_bytes();
            Some((status, bytes))
        });
        let Ok(Some((status, bytes))) = answer.await else { return Reply::Lost };
        self.line = Some((port, line));
        let Ok(answer) = serde_json::from_slice::<Value>(&bytes) else { return Reply::Lost };
        if status.is_success() {
            return Reply::Done(answer);
        }
        let shape = answer["__type"].as_str().unwrap_or("without a name");
        let code = shape.rsplit('#').next().unwrap_or(shape).to_owned();
        // What failed within may have been written all the same, before the process knew.
        if code == "InternalError" { Reply::Lost } else { Reply::Refused { code } }
    }

    /// The connection, if the appliance is still where it leads to, or a new one.
    async fn line(&mut self) -> Option<(u16, SendRequest<Full<Bytes>>)> {
        let port = self.port.get()?;
        if let Some((at, mut line)) = self.line.take()
            && at == port
            && line.ready().await.is_ok()
        {
            return Some((at, line));
        }
        let stream = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(("127.0.0.1", port))).await.ok()?.ok()?;
        let _ = stream.set_nodelay(true);
        let (line, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some((port, line))
    }
}

/// A request with the key `test`/`test` that `--dev` gives. `None` for what no signer takes, which none of ours is.
#[allow(clippy::disallowed_methods, reason = "a signature carries the time")]
fn signed(port: u16, operation: &str, body: String) -> Option<hyper::Request<Full<Bytes>>> {
    let mut settings = SigningSettings::default();
    settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
    let identity = Credentials::new("test", "test", None, None, "faults").into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region("us-east-1")
        .name("sqs")
        .time(SystemTime::now())
        .settings(settings)
        .build()
        .ok()?
        .into();
    let host = format!("127.0.0.1:{port}");
    let url = format!("http://{host}/");
    let headers = [("host", host.as_str())];
    let request = SignableRequest::new("POST", url, headers.into_iter(), SignableBody::Bytes(body.as_bytes())).ok()?;
    let (instructions, _) = sign(request, &params).ok()?.into_parts();
    let mut request = hyper::Request::post("/")
        .header("host", &host)
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amz-target", format!("AmazonSQS.{operation}"));
    for (name, value) in instructions.headers() {
        request = request.header(name, value);
    }
    request.body(Full::new(Bytes::from(body))).ok()
}
