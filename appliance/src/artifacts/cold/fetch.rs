//! Reading a blob from the cold tier, in order: one request for all that is wanted, taken up again where a connection breaks.
//!
//! A reader that pauses pauses the connection; when the other S3 has given that up, the next read begins a new one. Held in memory is
//! what one step gives, and a piece of the network's.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use backlot_wire::metrics::{ARTIFACT_COLD_READ, ARTIFACT_COLD_READ_DURATION};
use bytes::{Buf as _, BytesMut};
use tokio::time::timeout;

use super::remote::{Name, Remote, RemoteError};
use crate::telemetry::{counter, histogram};

/// Longest pause of a store that sends nothing.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Longest wait for others to finish.
const TURN_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often in a row a read is taken up again without a byte in between.
const RESUMES_MAX: u32 = 3;
const RESUME_PAUSE: Duration = Duration::from_millis(200);

pub(in super::super) struct Fetch {
    remote: Remote,
    name: Name,
    /// Of the bytes that are to be given next.
    position: u64,
    end: u64,
    /// Of the whole blob, header included.
    total: u64,
    body: Option<ByteStream>,
    buffer: BytesMut,
}

impl Fetch {
    /// For the bytes `from..end` of a blob that has `total` with its header. Nothing is sent yet.
    pub(in super::super) fn new(remote: Remote, name: Name, (from, end): (u64, u64), total: u64) -> Self {
        Self { remote, name, position: from, end, total, body: None, buffer: BytesMut::new() }
    }

    /// The next `bytes` bytes.
    pub(in super::super) async fn read(&mut self, bytes: usize) -> Result<Vec<u8>, RemoteError> {
        let remote = self.remote.clone();
        let _turn = timeout(TURN_WAIT_MAX, remote.reads().acquire()).await.map_err(|_| RemoteError::Busy)?;
        let mut resumes = 0;
        while self.buffer.len() < bytes {
            let broken = match self.more().await {
                Ok(0) => "it ended early".to_owned(),
                Ok(_) => {
                    resumes = 0;
                    continue;
                }
                Err(More::Broken(problem)) => problem,
                Err(More::Refused(error)) => return Err(error),
            };
            self.body = None;
            resumes += 1;
            if resumes > RESUMES_MAX {
                return Err(RemoteError::Away(format!("a read broke off again and again: {broken}")));
            }
            tokio::time::sleep(RESUME_PAUSE * 2_u32.pow(resumes)).await;
        }
        let given = self.buffer.split_to(bytes).to_vec();
        self.position += bytes as u64;
        counter(&ARTIFACT_COLD_READ).add(bytes as u64, &[]);
        Ok(given)
    }

    /// Takes what comes next; gives how much.
    async fn more(&mut self) -> Result<usize, More> {
        let body = match &mut self.body {
            Some(body) => body,
            None => {
                let from = self.position + self.buffer.len() as u64;
                let begun_ms = self.remote.now_ms();
                let opened = self.remote.open(self.name, from, self.end, self.total).await;
                #[allow(clippy::cast_precision_loss, reason = "a duration is a float")]
                let took_s = self.remote.now_ms().saturating_sub(begun_ms) as f64 / 1000.0;
                histogram(&ARTIFACT_COLD_READ_DURATION).record(took_s, &[]);
                self.body.insert(opened.map_err(More::Refused)?)
            }
        };
        match timeout(SILENCE_MAX, body.next()).await {
            Err(_) => Err(More::Broken(format!("nothing came for {} s", SILENCE_MAX.as_secs()))),
            Ok(None) => Ok(0),
            Ok(Some(Err(error))) => Err(More::Broken(error.to_string())),
            Ok(Some(Ok(chunk))) => {
                // Not more than was asked for, whatever is sent.
                let room = self.end.saturating_sub(self.position + self.buffer.len() as u64);
                let chunk = chunk.take(usize::try_from(room).unwrap_or(usize::MAX));
                let bytes = chunk.remaining();
                self.buffer.extend_from_slice(chunk.chunk());
                Ok(bytes)
            }
        }
    }
}

enum More {
    /// Worth another connection.
    Broken(String),
    Refused(RemoteError),
}
