//! Connections: read as fast as what they send becomes durable.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::{BATCH_MAX, Intake};
use crate::tasks::Stage;

/// Bytes that are read in one go.
const READ_BYTES: usize = 64 * 1024;
/// Longest time of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

pub(super) fn serve(
    stage: &Stage,
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    intake: Intake,
    connections_max: usize,
    idle: Duration,
) {
    let transport = if acceptor.is_some() { "tls" } else { "tcp" };
    let connections = Arc::new(Semaphore::new(connections_max));
    let (owner, stop) = (stage.clone(), stage.stopping());
    stage.spawn("syslog over TCP", async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Mostly EMFILE: wait for connections to end instead of spinning.
                    tracing::warn!(transport, %error, "accept syslog");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
                tracing::warn!(transport, %peer, "closed a connection: syslog.connections_max are there already");
                continue;
            };
            let reading = Reading { transport, intake: intake.clone(), peer, idle, stop: stop.clone() };
            let acceptor = acceptor.clone();
            owner.spawn_short(async move {
                match acceptor {
                    None => reading.read(stream).await,
                    Some(acceptor) => match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => reading.read(stream).await,
                        Ok(Err(error)) => tracing::info!(%peer, %error, "a syslog sender's TLS handshake failed"),
                        Err(_) => tracing::info!(%peer, "a syslog sender's TLS handshake took too long"),
                    },
                }
                drop(permit);
            });
        }
    });
}

struct Reading {
    transport: &'static str,
    intake: Intake,
    peer: SocketAddr,
    idle: Duration,
    stop: CancellationToken,
}

impl Reading {
    async fn read(self, mut stream: impl AsyncRead + Unpin) {
        let Self { transport, intake, peer, idle, stop } = self;
        let mut framer = intake.framer();
        loop {
            framer.buffer().reserve(READ_BYTES);
            let read = tokio::select! {
                () = stop.cancelled() => break, // what is whole was kept
                read = timeout(idle, stream.read_buf(framer.buffer())) => read,
            };
            match read {
                Ok(Ok(0)) => break,
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%peer, %error, "a syslog connection ended");
                    break;
                }
                Err(_) => {
                    tracing::info!(%peer, "closed a syslog connection that said nothing for syslog.idle_s");
                    break;
                }
            }
            loop {
                let frames: Vec<_> = std::iter::from_fn(|| framer.next()).take(BATCH_MAX).collect();
                if frames.is_empty() {
                    break;
                }
                let frames = frames.into_iter().map(|frame| (frame, peer.ip())).collect();
                intake.keep(transport, frames, &stop).await;
            }
        }
        if let Some(rest) = framer.end() {
            intake.keep(transport, vec![(rest, peer.ip())], &stop).await;
        }
    }
}
