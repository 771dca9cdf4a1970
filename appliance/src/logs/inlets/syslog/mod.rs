//! Syslog, RFC 5424 and 3164, over TCP, TLS and UDP.
//!
//! Syslog knows no answers. A connection is read only after what it sent before is durable, so that a full journal holds its senders up; what comes by
//! UDP then is dropped and counted. Whoever reaches the address may write: it is loopback's unless the operator says otherwise, and TLS may ask for a
//! certificate.

mod datagrams;
mod frame;
mod message;
mod stream;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;
use opentelemetry_proto::tonic::logs::v1::{ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Map, Value};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::frame::{Frame, Framer};
use crate::config;
use crate::edge::ListenError;
use crate::edge::otlp::{ExportLogsServiceRequest, OtlpError, Sink as _};
use crate::logs::Logs;
use crate::signals::attributes::pairs;
use crate::tasks::Stage;
use crate::telemetry;

/// Most messages that are made durable together.
const BATCH_MAX: usize = 5_000;
/// Longest pause before a journal that has no room is asked again.
const PAUSE_MAX_S: u32 = 5;

/// Why syslog is not taken.
#[derive(Debug, thiserror::Error)]
pub enum SyslogError {
    #[error(transparent)]
    Listen(#[from] ListenError),
    #[error("syslog.{0}: {1}")]
    Config(&'static str, String),
}

/// Bound sockets that are not read yet.
pub struct Sockets {
    tcp: Option<TcpListener>,
    tls: Option<(TcpListener, TlsAcceptor)>,
    udp: Option<UdpSocket>,
    config: config::Syslog,
    zone: TimeZone,
}

/// Checks what the types do not express.
///
/// # Errors
/// The key, and what it should be.
pub fn check(config: &config::Syslog) -> Result<(), (&'static str, String)> {
    zone(config).map_err(|problem| ("syslog.timezone", problem))?;
    if !(1024..=1 << 20).contains(&config.line_bytes_max) {
        return Err(("syslog.line_bytes_max", "is 1024 to 1048576".to_owned()));
    }
    if config.connections_max == 0 || config.idle_s == 0 {
        return Err(("syslog.connections_max", "must be at least 1, and so must idle_s".to_owned()));
    }
    if !config.tls.is_empty() && (config.certificate.is_empty() || config.private_key.is_empty()) {
        return Err(("syslog.tls", "needs certificate and private_key".to_owned()));
    }
    Ok(())
}

fn zone(config: &config::Syslog) -> Result<TimeZone, String> {
    TimeZone::get(&config.timezone).map_err(|error| error.to_string())
}

impl Sockets {
    /// Binds what is configured. Anything but loopback needs TLS or `edge.insecure`.
    ///
    /// # Errors
    /// [`SyslogError`] with the address or the file.
    pub async fn bind(config: &config::Syslog, edge: &config::Edge) -> Result<Self, SyslogError> {
        let zone = zone(config).map_err(|problem| SyslogError::Config("timezone", problem))?;
        let (mut tcp, mut tls, mut udp) = (None, None, None);
        if let Some(address) = address("syslog tcp", &config.tcp, edge.insecure)? {
            tcp = Some(listen("syslog tcp", address).await?);
        }
        if let Some(address) = address("syslog tls", &config.tls, true)? {
            let acceptor = acceptor(config)?;
            tls = Some((listen("syslog tls", address).await?, acceptor));
        }
        if let Some(address) = address("syslog udp", &config.udp, edge.insecure)? {
            let bound = UdpSocket::bind(address).await;
            udp = Some(bound.map_err(|source| ListenError::Bind { door: "syslog udp", address, source })?);
        }
        Ok(Self { tcp, tls, udp, config: config.clone(), zone })
    }

    /// Addresses of what there is: TCP, TLS, UDP.
    #[must_use]
    pub fn addresses(&self) -> [Option<SocketAddr>; 3] {
        let of = |listener: &TcpListener| listener.local_addr().ok();
        let udp = self.udp.as_ref().and_then(|socket| socket.local_addr().ok());
        [self.tcp.as_ref().and_then(of), self.tls.as_ref().and_then(|(listener, _)| of(listener)), udp]
    }

    /// Takes messages until the stage stops.
    pub fn serve(self, stage: &Stage, logs: Logs) {
        let Self { tcp, tls, udp, config, zone } = self;
        let counter = telemetry::counter(&backlot_wire::metrics::SYSLOG_MESSAGES);
        let intake = Intake { logs, zone, line_bytes_max: config.line_bytes_max, counter };
        let idle = Duration::from_secs(config.idle_s);
        if let Some(listener) = tcp {
            stream::serve(stage, listener, None, intake.clone(), config.connections_max, idle);
        }
        if let Some((listener, acceptor)) = tls {
            stream::serve(stage, listener, Some(acceptor), intake.clone(), config.connections_max, idle);
        }
        if let Some(socket) = udp {
            datagrams::serve(stage, socket, intake);
        }
    }
}

fn address(door: &'static str, address: &str, insecure: bool) -> Result<Option<SocketAddr>, ListenError> {
    if address.is_empty() {
        return Ok(None);
    }
    let bad = || ListenError::Address { door, address: address.to_owned() };
    let address = address.to_socket_addrs().map_err(|_| bad())?.next().ok_or_else(bad)?;
    if !address.ip().is_loopback() && !insecure {
        return Err(ListenError::Insecure { door, address });
    }
    Ok(Some(address))
}

async fn listen(door: &'static str, address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|source| ListenError::Bind { door, address, source })
}

fn acceptor(config: &config::Syslog) -> Result<TlsAcceptor, SyslogError> {
    let wrong = |key: &'static str| move |error: &dyn std::fmt::Display| SyslogError::Config(key, error.to_string());
    let certificates = |key: &'static str, path: &str| {
        let read = CertificateDer::pem_file_iter(Path::new(path)).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        read.map_err(|error| wrong(key)(&format!("{path}: {error}")))
    };
    let chain = certificates("certificate", &config.certificate)?;
    let key = PrivateKeyDer::from_pem_file(Path::new(&config.private_key))
        .map_err(|error| wrong("private_key")(&format!("{}: {error}", config.private_key)))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong("tls")(&error))?;
    let builder = if config.client_ca.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for certificate in certificates("client_ca", &config.client_ca)? {
            roots.add(certificate).map_err(|error| wrong("client_ca")(&error))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
        builder.with_client_cert_verifier(verifier.map_err(|error| wrong("client_ca")(&error))?)
    };
    let mut tls = builder.with_single_cert(chain, key).map_err(|error| wrong("certificate")(&error))?;
    tls.session_storage = Arc::new(NoServerSessionStorage {}); // connections last; nothing to remember
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

/// Where messages go. Cheap to clone.
#[derive(Clone)]
struct Intake {
    logs: Logs,
    zone: TimeZone,
    line_bytes_max: usize,
    counter: Counter<u64>,
}

impl Intake {
    fn framer(&self) -> Framer {
        Framer::new(self.line_bytes_max)
    }

    fn count(&self, transport: &'static str, outcome: &'static str, messages: usize) {
        if messages > 0 {
            let labels = [KeyValue::new("transport", transport), KeyValue::new("outcome", outcome)];
            self.counter.add(messages as u64, &labels);
        }
    }

    /// Makes messages durable; waits for as long as there is no room, until `stop`.
    async fn keep(&self, transport: &'static str, frames: Vec<(Frame, IpAddr)>, stop: &CancellationToken) {
        let (messages, cut) = (frames.len(), frames.iter().filter(|(frame, _)| frame.cut).count());
        let request = request(frames, self.logs.store().now().wall_ms, &self.zone);
        loop {
            match telemetry::unobserved(self.logs.export(request.clone())).await {
                Ok(_) => {
                    self.count(transport, "taken", messages);
                    self.count(transport, "cut", cut);
                    return;
                }
                Err(OtlpError::Busy { retry_after_s, .. }) => {
                    let pause = Duration::from_secs(u64::from(retry_after_s.min(PAUSE_MAX_S)));
                    tokio::select! {
                        () = stop.cancelled() => break,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
                Err(error) => {
                    tracing::error!(transport, messages, %error, "syslog messages were not taken");
                    break;
                }
            }
        }
        self.count(transport, "dropped", messages);
    }
}

/// Messages of the same host and program belong together.
fn request(frames: Vec<(Frame, IpAddr)>, now_ms: u64, zone: &TimeZone) -> ExportLogsServiceRequest {
    let mut groups: Vec<ResourceLogs> = Vec::new();
    let mut known = HashMap::<(String, Option<String>), usize>::new();
    for (frame, peer) in frames {
        let mut message = message::parse(&frame.bytes, now_ms, zone);
        let host = message.host.take().unwrap_or_else(|| peer.to_string());
        let app = message.app.take();
        let at = *known.entry((host.clone(), app.clone())).or_insert_with(|| {
            let mut resource = Map::from_iter([("host.name".to_owned(), Value::String(host))]);
            resource.extend(app.map(|app| ("service.name".to_owned(), Value::String(app))));
            groups.push(ResourceLogs {
                resource: Some(Resource { attributes: pairs(resource), ..Resource::default() }),
                scope_logs: vec![ScopeLogs::default()],
                ..ResourceLogs::default()
            });
            groups.len() - 1
        });
        if let Some(scope) = groups[at].scope_logs.first_mut() {
            scope.log_records.push(message::record(message, frame.cut));
        }
    }
    ExportLogsServiceRequest { resource_logs: groups }
}

/// Reads what comes on a connection, and as a datagram, and throws the outcome away: for fuzzing.
pub fn fuzz(bytes: &[u8]) {
    let mut framer = Framer::new(1024);
    let mut frames = Vec::new();
    for piece in bytes.chunks(100) {
        framer.buffer().extend_from_slice(piece);
        frames.extend(std::iter::from_fn(|| framer.next()));
    }
    frames.extend(framer.end());
    frames.push(Frame { bytes: bytes.to_vec(), cut: false });
    let frames = frames.into_iter().map(|frame| (frame, IpAddr::from([127, 0, 0, 1]))).collect();
    request(frames, 1_767_227_400_000, &TimeZone::UTC);
}
