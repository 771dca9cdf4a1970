//! Sockets: bind, accept, serve HTTP/1 and HTTP/2, end with the process.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tower::ServiceExt;

use super::expected::Came;
use super::{Door, Peer};
use crate::config;
use crate::tasks::Stage;

/// Why a door does not open.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("the {door} door's address `{address}` is no host:port")]
    Address { door: &'static str, address: String },
    #[error(
        "the {door} door's address {address} can be reached from other machines, and this version speaks no TLS; \
         use a loopback address behind a proxy, or set edge.insecure = true"
    )]
    Insecure { door: &'static str, address: SocketAddr },
    #[error("the {door} door cannot listen on {address}: {source}")]
    Bind { door: &'static str, address: SocketAddr, source: io::Error },
}

/// A bound address that does not answer yet.
pub struct Listener {
    door: Door,
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address`. Anything but loopback needs `edge.insecure`.
    ///
    /// # Errors
    /// [`ListenError`] with the door, the address and what to do.
    pub async fn bind(door: Door, address: &str, config: &config::Edge) -> Result<Self, ListenError> {
        let name = door.name();
        let bad = || ListenError::Address { door: name, address: address.to_owned() };
        let address = address.to_socket_addrs().map_err(|_| bad())?.next().ok_or_else(bad)?;
        if !address.ip().is_loopback() && !config.insecure {
            return Err(ListenError::Insecure { door: name, address });
        }
        let cannot = |source| ListenError::Bind { door: name, address, source };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        Ok(Self { door, listener, address })
    }

    #[must_use]
    pub fn door(&self) -> Door {
        self.door
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers with `routes` until the stage stops; connections then finish what they are answering.
    pub fn serve(self, stage: &Stage, config: &config::Edge, routes: Router) {
        let connections = Arc::new(Semaphore::new(config.connections_max));
        let head_timeout = Duration::from_secs(config.head_timeout_s);
        let (owner, stop) = (stage.clone(), stage.stopping());
        stage.spawn(self.door.name(), async move {
            loop {
                let accepted = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = self.listener.accept() => accepted,
                };
                match accepted {
                    Ok((stream, peer)) => {
                        // Over the limit: closing at once tells the caller more than silence would.
                        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else { continue };
                        let connection = connection(stream, peer, routes.clone(), head_timeout, stop.clone());
                        owner.spawn_short(async move {
                            connection.await;
                            drop(permit);
                        });
                    }
                    Err(error) => {
                        // Mostly EMFILE: wait for connections to end instead of spinning.
                        tracing::warn!(door = self.door.name(), %error, "accept");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        });
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    routes: Router,
    head_timeout: Duration,
    stop: tokio_util::sync::CancellationToken,
) {
    let _ = stream.set_nodelay(true); // an answer in two writes would wait 40 ms for the first one's ACK
    let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let (mut request, came) = Came::watch(request.map(Body::new));
        request.extensions_mut().insert(Peer(peer));
        let answer = routes.clone().oneshot(request);
        async move {
            let mut response = answer.await;
            if let (Some(came), Ok(response)) = (came, &mut response) {
                came.settle(response);
            }
            response
        }
    });
    // Looked at, not read: a detection that reads leaves each HTTP/1 connection with a buffer of twice the size.
    let greeted = tokio::select! {
        greeted = timeout(head_timeout, speaks_http2(&stream)) => greeted,
        () = stop.cancelled() => return,
    };
    let ended = match greeted {
        Ok(Ok(true)) => {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(256)
                .keep_alive_interval(Duration::from_secs(30))
                .max_header_list_size(64 * 1024);
            // In a box, because connections of HTTP/1 would keep its room as well.
            let mut serving = Box::pin(builder.serve_connection(TokioIo::new(stream), service));
            tokio::select! {
                ended = serving.as_mut() => ended,
                () = stop.cancelled() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        }
        Ok(Ok(false)) => {
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(head_timeout).max_headers(128);
            // A live tail may become a WebSocket.
            let serving = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
            tokio::pin!(serving);
            tokio::select! {
                ended = serving.as_mut() => ended,
                () = stop.cancelled() => {
                    serving.as_mut().graceful_shutdown();
                    serving.await
                }
            }
        }
        Ok(Err(_)) | Err(_) => return, // gone, or silent for too long
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Whether the client begins as HTTP/2 does. It is known at the latest when as many bytes are there as HTTP/2's greeting has,
/// which is fewer than any request of HTTP/1.
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut begin = [0; GREETING.len()];
    let mut known = 0;
    loop {
        stream.readable().await?;
        let filled = stream.peek(&mut begin).await?;
        if filled == 0 || begin[..filled] != GREETING[..filled] {
            return Ok(false); // an end without a word is HTTP/1's to see
        }
        if filled == GREETING.len() {
            return Ok(true);
        }
        if filled == known {
            // Part of a greeting, and no more yet: a peek would find the same again at once.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        known = filled;
    }
}
