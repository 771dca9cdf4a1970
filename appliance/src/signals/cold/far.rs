//! How windows ask the other S3: from threads that may block, with an end to each wait.
//!
//! A store that did not answer is not asked again for a while, so that a search over a hundred windows waits for it once and not a hundred
//! times, and other searches not at all.

use std::ops::Range;
use std::time::Duration;

use backlot_windows::{Cancel, Far, FarError, Image};
use backlot_wire::metrics::{WINDOWS_COLD_READ, WINDOWS_COLD_READ_DURATION, WINDOWS_COLD_READS};
use bytes::Bytes;
use opentelemetry::KeyValue;
use tokio::time::timeout;

use super::ColdWindows;
use crate::other_s3::bucket::{BucketError, Said, Upload};
use crate::telemetry::{counter, histogram};

/// Longest wait for the head of an answer, tries included, and between two pieces of its body.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// How long nobody asks after it did not answer.
const AWAY_MS: u64 = 10_000;
/// How often it is looked whether anybody waits still.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Metadata that says how many bytes an image has.
const BYTES_METADATA: &str = "backlot-window-bytes";

/// The images of one signal.
pub(super) struct Shelf {
    cold: ColdWindows,
    signal: &'static str,
    place: String,
}

impl From<BucketError> for FarError {
    fn from(error: BucketError) -> Self {
        match error {
            BucketError::Missing => Self::Missing,
            BucketError::Wrong(problem) => Self::Wrong(problem),
            BucketError::Away(problem) => Self::Away(problem),
        }
    }
}

impl Shelf {
    pub(super) fn new(cold: ColdWindows, signal: &'static str) -> Self {
        let place = format!("s3://{}", cold.0.config.bucket);
        Self { cold, signal, place }
    }

    /// Waits for a call on this thread, as long as somebody waits for it.
    fn wait<T>(&self, cancel: &Cancel, call: impl Future<Output = Result<T, FarError>>) -> Result<T, FarError> {
        self.cold.0.runtime.block_on(async {
            tokio::select! {
                done = call => done,
                () = cancelled(cancel) => Err(FarError::Cancelled),
            }
        })
    }

    async fn fetch(&self, key: &str, range: Range<u64>, total: u64) -> Result<Vec<u8>, FarError> {
        let silent = |_| FarError::Away(format!("no answer within {} s", ANSWER_MAX.as_secs()));
        let bucket = &self.cold.0.bucket;
        let opened = timeout(ANSWER_MAX, bucket.open(key, range.start, range.end, total)).await;
        let mut body = opened.map_err(silent)??;
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(wanted);
        while bytes.len() < wanted {
            match timeout(ANSWER_MAX, body.next()).await.map_err(silent)? {
                Some(Ok(piece)) => bytes.extend_from_slice(&piece[..piece.len().min(wanted - bytes.len())]),
                Some(Err(error)) => return Err(FarError::Away(format!("a read broke off: {error}"))),
                None => return Err(FarError::Away("a read ended early".to_owned())),
            }
        }
        Ok(bytes)
    }

    /// Notes how a read ended.
    fn counted(&self, done: &Result<Vec<u8>, FarError>, begun_ms: u64) {
        let outcome = match done {
            Ok(bytes) => {
                counter(&WINDOWS_COLD_READ).add(bytes.len() as u64, &[]);
                "read"
            }
            Err(FarError::Cancelled) => return,
            Err(FarError::Missing) => "missing",
            Err(FarError::Wrong(_)) => "damaged",
            Err(FarError::Away(_)) => "away",
        };
        let now_ms = self.cold.0.clock.now().mono_ms;
        #[allow(clippy::cast_precision_loss, reason = "a duration is a float")]
        histogram(&WINDOWS_COLD_READ_DURATION).record(now_ms.saturating_sub(begun_ms) as f64 / 1000.0, &[]);
        self.count(outcome);
        let mut away = self.cold.0.away.lock();
        match done {
            Err(FarError::Away(why)) => {
                tracing::warn!(to = self.place, why, "cold windows do not answer; searches say which they lack");
                *away = Some((now_ms + AWAY_MS, why.clone()));
            }
            Ok(_) if away.is_some() => {
                tracing::info!(to = self.place, "cold windows answer again");
                *away = None;
            }
            _ => {}
        }
    }

    fn count(&self, outcome: &'static str) {
        let labels = [KeyValue::new("signal", self.signal), KeyValue::new("outcome", outcome)];
        counter(&WINDOWS_COLD_READS).add(1, &labels);
    }

    async fn put_parts(&self, upload: &mut Upload, image: &Image<'_>) -> Result<(), FarError> {
        let (mut from, part_bytes) = (0, self.part_bytes());
        while from < image.bytes() {
            let to = image.bytes().min(from + part_bytes);
            let part = image.read(from..to).map_err(FarError::Away)?;
            upload.part(Bytes::from(part)).await?;
            self.pause(to - from).await;
            from = to;
        }
        Ok(())
    }

    async fn put_whole(&self, key: &str, image: &Image<'_>) -> Result<(), FarError> {
        let bucket = &self.cold.0.bucket;
        let said = Said { metadata: Some((BYTES_METADATA, image.bytes().to_string())), class: None };
        if image.bytes() <= self.part_bytes() {
            let bytes = image.read(0..image.bytes()).map_err(FarError::Away)?;
            bucket.put(key, said, Bytes::from(bytes)).await?;
            self.pause(image.bytes()).await;
        } else {
            let mut upload = bucket.begin(key, said).await?;
            match self.put_parts(&mut upload, image).await {
                Ok(()) => upload.complete().await?,
                Err(error) => {
                    upload.abort().await;
                    return Err(error);
                }
            }
        }
        let told = bucket.head(key).await?.content_length().and_then(|bytes| u64::try_from(bytes).ok());
        match told == Some(image.bytes()) {
            true => Ok(()),
            false => Err(FarError::Away(format!("it says that {key} has other bytes than were put"))),
        }
    }

    /// Whole blocks, as an image is read.
    fn part_bytes(&self) -> u64 {
        let (bytes, block) = (self.cold.0.config.part_bytes, Image::BLOCK_BYTES);
        (bytes / block).max(1) * block
    }

    /// As long as these bytes may take.
    async fn pause(&self, bytes: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.cold.0.config.bytes_s_max.max(1));
        tokio::time::sleep(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))).await;
    }
}

impl Far for Shelf {
    fn place(&self) -> &str {
        &self.place
    }

    fn key(&self, name: &str) -> String {
        format!("{}{}/{name}", self.cold.0.config.prefix, self.signal)
    }

    fn put(&self, key: &str, image: &Image<'_>, cancel: &Cancel) -> Result<(), FarError> {
        self.wait(cancel, Box::pin(self.put_whole(key, image)))
    }

    fn read(&self, key: &str, range: Range<u64>, total: u64, cancel: &Cancel) -> Result<Vec<u8>, FarError> {
        if let Some(why) = self.cold.away() {
            return Err(FarError::Away(format!("it did not answer a moment ago: {why}")));
        }
        let begun_ms = self.cold.0.clock.now().mono_ms;
        let done = self.wait(cancel, Box::pin(self.fetch(key, range, total)));
        self.counted(&done, begun_ms);
        done
    }

    fn delete(&self, key: &str, cancel: &Cancel) -> Result<(), FarError> {
        let bucket = &self.cold.0.bucket;
        let call = async {
            bucket.abort_all(key).await?;
            Ok(bucket.delete(key).await?)
        };
        self.wait(cancel, Box::pin(call))
    }
}

async fn cancelled(cancel: &Cancel) {
    while !cancel.is_cancelled() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
