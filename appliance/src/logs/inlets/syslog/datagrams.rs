//! Datagrams: taken while there is room, dropped and counted when there is none.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::frame::Frame;
use super::{BATCH_MAX, Intake};
use crate::tasks::Stage;

/// The largest datagram there is.
const DATAGRAM_BYTES: usize = 65_536;
/// Messages and bytes that wait until those before them are durable.
const WAITING_MAX: usize = 20_000;
const WAITING_BYTES_MAX: usize = 16 << 20;

/// A message, where it came from, and its share of the room.
type Waiting = (Frame, IpAddr, OwnedSemaphorePermit);

pub(super) fn serve(stage: &Stage, socket: UdpSocket, intake: Intake) {
    let (sender, receiver) = mpsc::channel::<Waiting>(WAITING_MAX);
    let stop = stage.stopping();
    let (reader, stopped) = (intake.clone(), stop.clone());
    stage.spawn("syslog over UDP", async move {
        tokio::select! {
            () = stopped.cancelled() => {}
            () = receive(socket, &reader, &sender) => {}
        }
    });
    stage.spawn("syslog over UDP, to the journal", async move { take(receiver, &intake, &stop).await });
}

async fn receive(socket: UdpSocket, intake: &Intake, sender: &mpsc::Sender<Waiting>) {
    let room = Arc::new(Semaphore::new(WAITING_BYTES_MAX));
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let mut is_full = false;
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "receive syslog");
                tokio::task::yield_now().await;
                continue;
            }
        };
        let bytes = buffer[..length].trim_ascii_end();
        let kept = bytes.len().min(intake.line_bytes_max);
        let frame = Frame { bytes: bytes[..kept].to_vec(), cut: kept < bytes.len() };
        if frame.bytes.is_empty() {
            continue;
        }
        let permit = Arc::clone(&room).try_acquire_many_owned(u32::try_from(kept).unwrap_or(u32::MAX)).ok();
        let sent = permit.is_some_and(|permit| sender.try_send((frame, peer.ip(), permit)).is_ok());
        if !sent {
            intake.count("udp", "dropped", 1);
            if !is_full {
                tracing::warn!("syslog datagrams are dropped: more comes than becomes durable");
            }
        }
        is_full = !sent;
    }
}

/// Makes durable what waits, until the reader has gone.
async fn take(mut receiver: mpsc::Receiver<Waiting>, intake: &Intake, stop: &tokio_util::sync::CancellationToken) {
    let mut batch = Vec::new();
    while receiver.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let mut permits = Vec::with_capacity(batch.len());
        let mut frames = Vec::with_capacity(batch.len());
        for (frame, peer, permit) in batch.drain(..) {
            permits.push(permit);
            frames.push((frame, peer));
        }
        intake.keep("udp", frames, stop).await;
        drop(permits); // their room is free only now
    }
}
