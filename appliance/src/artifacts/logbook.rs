//! Lines of the server access log on their way into their target buckets.
//!
//! Whoever answers a request to a logged bucket writes a line here; every few minutes, or when many have come, the lines of each
//! destination become one object of its bucket. As S3 says of its own: most lines arrive, and within a while. What waits is in memory, within a bound;
//! what finds no room, or has no bucket to go to any more, is dropped and counted. A crash loses what waited.
//!
//! Objects are put past the doors, so that a bucket that is its own target makes no lines by being written to.

use std::collections::BTreeMap;
use std::time::Duration;

use backlot_wire::metrics::ARTIFACT_ACCESS_LINES;
use bytes::Bytes;
use opentelemetry::KeyValue;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::engine::Put;
use super::error::ArtifactError;
use super::model::{ContentHeaders, Description};
use super::seal_keys::SealAsked;
use super::{Artifacts, Taking};
use crate::identity::Account;
use crate::telemetry::counter;

/// Bytes of one destination after which they are delivered at once.
const PAGE_BYTES: usize = 1 << 20;
/// Most bytes that wait, of all destinations.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Shortest time between two deliveries, however much comes.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Destination {
    pub(super) bucket: String,
    /// What stands before the time in the names of its objects.
    pub(super) prefix: String,
    /// Who must own the bucket still, by number.
    pub(super) owner: String,
}

impl Destination {
    pub(super) fn new(bucket: String, prefix: String, owner: &Account) -> Self {
        Self { bucket, prefix, owner: owner.number() }
    }
}

/// Lines that wait, newest last.
#[derive(Default)]
struct Page {
    text: Vec<u8>,
    lines: u64,
}

#[derive(Default)]
struct Pages {
    waiting: BTreeMap<Destination, Page>,
    bytes: usize,
}

/// What waits to be delivered.
#[derive(Default)]
pub(super) struct Logbook {
    pages: Mutex<Pages>,
    full: Notify,
}

fn count(lines: u64, outcome: &'static str) {
    if lines > 0 {
        counter(&ARTIFACT_ACCESS_LINES).add(lines, &[KeyValue::new("outcome", outcome)]);
    }
}

impl Logbook {
    /// Writes one line, without its end.
    pub(super) fn write(&self, to: Destination, line: &str) {
        let mut pages = self.pages.lock();
        if pages.bytes + line.len() + 1 > WAITING_BYTES_MAX {
            drop(pages);
            return count(1, "dropped");
        }
        pages.bytes += line.len() + 1;
        let page = pages.waiting.entry(to).or_default();
        page.text.extend_from_slice(line.as_bytes());
        page.text.push(b'\n');
        page.lines += 1;
        if page.text.len() >= PAGE_BYTES {
            self.full.notify_one();
        }
    }

    fn take(&self) -> BTreeMap<Destination, Page> {
        let mut pages = self.pages.lock();
        pages.bytes = 0;
        std::mem::take(&mut pages.waiting)
    }

    /// Puts lines back that were not taken, before those that have come since.
    fn put_back(&self, to: Destination, mut page: Page) {
        let mut pages = self.pages.lock();
        if pages.bytes + page.text.len() > WAITING_BYTES_MAX {
            drop(pages);
            return count(page.lines, "dropped");
        }
        pages.bytes += page.text.len();
        let since = pages.waiting.entry(to).or_default();
        page.text.append(&mut since.text);
        page.lines += since.lines;
        *since = page;
    }
}

/// Delivers until `stop`, and then what waits still.
pub(super) async fn run(artifacts: Artifacts, stop: CancellationToken) {
    let every = Duration::from_secs(artifacts.0.config.access_log_deliver_s.max(1));
    loop {
        let is_last = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(every) => false,
            () = artifacts.0.logbook.full.notified() => false,
        };
        artifacts.deliver_lines().await;
        if is_last {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(PAUSE_MIN) => {}
        }
    }
}

impl Artifacts {
    /// Puts what waits into its buckets.
    pub(super) async fn deliver_lines(&self) {
        for (to, page) in self.0.logbook.take() {
            match self.deliver(&to, &page).await {
                Ok(()) => count(page.lines, "delivered"),
                Err(error) => {
                    let (bucket, lines) = (to.bucket.clone(), page.lines);
                    let is_gone = matches!(
                        error,
                        ArtifactError::NoSuchBucket(_) | ArtifactError::AccessDenied | ArtifactError::KeyTooLong
                    );
                    tracing::warn!(bucket, lines, %error, is_gone, "lines of the access log were not delivered");
                    match is_gone {
                        true => count(lines, "dropped"),
                        false => self.0.logbook.put_back(to, page),
                    }
                }
            }
        }
    }

    async fn deliver(&self, to: &Destination, page: &Page) -> Result<(), ArtifactError> {
        // A name may be another's by now.
        if self.bucket(&to.bucket)?.owner.number() != to.owner {
            return Err(ArtifactError::AccessDenied);
        }
        let key = format!("{}{}", to.prefix, object_name(self.now().wall_ms));
        let sealer = self.sealer(&to.bucket, &key, &SealAsked::Nothing)?;
        let body = futures::stream::iter([Ok(Bytes::copy_from_slice(&page.text))]);
        let received = self.receive(body, None, WAITING_BYTES_MAX as u64, Taking::object(sealer)).await?;
        let headers = ContentHeaders { content_type: Some("text/plain".to_owned()), ..ContentHeaders::default() };
        let description = Description { headers, ..Description::default() };
        self.put(Put { bucket: to.bucket.clone(), key, description, ..Put::default() }, received).await.map(drop)
    }
}

/// `2026-11-22-14-03-59-` and something that no other object has, as S3 names them.
fn object_name(wall_ms: u64) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day]-[hour]-[minute]-[second]");
    let seconds = i64::try_from(wall_ms / 1000).unwrap_or_default();
    let moment = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let unique = uuid::Uuid::new_v4().as_u128() as u64;
    format!("{}-{unique:016X}", moment.format(format).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(bucket: &str) -> Destination {
        Destination { bucket: bucket.into(), prefix: "log/".into(), owner: String::new() }
    }

    #[test]
    fn what_waits_has_a_bound_and_lines_that_come_back_stand_before_newer_ones() {
        let book = Logbook::default();
        book.write(to("a"), "one");
        let mut taken = book.take();
        book.write(to("a"), "two");
        let page = taken.remove(&to("a")).unwrap();
        book.put_back(to("a"), page);
        let page = book.take().remove(&to("a")).unwrap();
        assert_eq!((page.text.as_slice(), page.lines), (&b"one\ntwo\n"[..], 2));
        let line = "x".repeat((1 << 20) - 1);
        for bucket in 0..40 {
            book.write(to(&bucket.to_string()), &line);
        }
        assert_eq!(book.pages.lock().bytes, WAITING_BYTES_MAX);
        book.put_back(to("a"), Page { text: vec![b'x'], lines: 1 });
        assert_eq!(book.take().values().map(|page| page.lines).sum::<u64>(), 16);
        assert_eq!(book.pages.lock().bytes, 0);
    }

    #[test]
    fn an_object_is_named_by_its_time() {
        let name = object_name(1_795_348_801_000);
        assert!(name.starts_with("2026-11-22-12-00-01-") && name.len() == 36, "{name}");
    }
}
