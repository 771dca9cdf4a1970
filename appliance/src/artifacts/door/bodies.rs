//! Bodies on their way: what goes to the other S3, and what comes back.
//!
//! The last piece of what goes is held back until all of it was verified: chunk signatures, the SHA-256 that was signed, the announced
//! length. So the other S3 never has the whole of a body that was not what its sender signed, and keeps nothing of it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use s3s::TrailingHeaders;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::DropGuard;

use crate::clock::Clock;

/// Bytes of each chunk of a body with a trailer.
const CHUNK_BYTES: u64 = 64 << 10;

/// Why a body was not what it should be. The text of s3s's own errors tells them apart.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Fault(pub(super) String);

/// What is known of a body while it goes.
#[derive(Clone)]
pub(super) struct Watch(Arc<Watched>);

struct Watched {
    clock: Arc<dyn Clock>,
    /// When something last happened.
    at_ms: AtomicU64,
    fault: Mutex<Option<Fault>>,
}

impl Watch {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let at_ms = AtomicU64::new(clock.now().mono_ms);
        Self(Arc::new(Watched { clock, at_ms, fault: Mutex::default() }))
    }

    fn touch(&self) {
        self.0.at_ms.store(self.0.clock.now().mono_ms, Ordering::Relaxed);
    }

    /// Milliseconds since something last happened.
    pub(super) fn idle_ms(&self) -> u64 {
        self.0.clock.now().mono_ms.saturating_sub(self.0.at_ms.load(Ordering::Relaxed))
    }

    /// What was wrong with the caller's body.
    pub(super) fn fault(&self) -> Option<Fault> {
        self.0.fault.lock().clone()
    }

    fn fail(&self, fault: Fault) -> axum::Error {
        *self.0.fault.lock() = Some(fault.clone());
        axum::Error::new(fault)
    }
}

/// A body that goes to the other S3.
pub(super) struct Going {
    inner: Body,
    /// Bytes that were announced and have not come.
    left: u64,
    held: Option<Bytes>,
    /// The other S3's leave to send, or not.
    leave: Option<BoxFuture<'static, bool>>,
    is_over: bool,
    watch: Watch,
}

impl Going {
    pub(super) fn new(inner: Body, length: u64, leave: Option<BoxFuture<'static, bool>>, watch: Watch) -> Self {
        Self { inner, left: length, held: None, leave, is_over: false, watch }
    }
}

impl http_body::Body for Going {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(leave) = &mut self.leave {
            let given = ready!(leave.as_mut().poll(cx));
            self.leave = None;
            self.watch.touch();
            if !given {
                self.is_over = true;
                return Poll::Ready(Some(Err(axum::Error::new(Fault("nobody wants it".into())))));
            }
        }
        loop {
            if self.is_over {
                return Poll::Ready(None);
            }
            let data = match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    self.is_over = true;
                    let fault = Fault(crate::outgoing::chain(&error));
                    return Poll::Ready(Some(Err(self.watch.fail(fault))));
                }
                None => {
                    self.is_over = true;
                    self.watch.touch();
                    if self.left > 0 {
                        let fault = Fault(format!("{} bytes did not come", self.left));
                        return Poll::Ready(Some(Err(self.watch.fail(fault))));
                    }
                    return Poll::Ready(self.held.take().map(|bytes| Ok(Frame::data(bytes))));
                }
            };
            if data.is_empty() {
                continue;
            }
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                self.is_over = true;
                let fault = Fault("more bytes came than were announced".into());
                return Poll::Ready(Some(Err(self.watch.fail(fault))));
            };
            self.left = left;
            self.watch.touch();
            if let Some(earlier) = self.held.replace(data) {
                return Poll::Ready(Some(Ok(Frame::data(earlier))));
            }
        }
    }
}

/// A checksum that comes behind a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    name: &'static str,
    /// Length of its value, in base64.
    value_bytes: u64,
}

impl Trailer {
    /// Of the header `x-amz-trailer`.
    pub(super) fn named(name: &str) -> Option<Self> {
        const KNOWN: [(&str, u64); 5] = [
            ("x-amz-checksum-crc32", 8),
            ("x-amz-checksum-crc32c", 8),
            ("x-amz-checksum-crc64nvme", 12),
            ("x-amz-checksum-sha1", 28),
            ("x-amz-checksum-sha256", 44),
        ];
        let found = KNOWN.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name.trim()));
        found.map(|(name, value_bytes)| Self { name, value_bytes })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Bytes of a body of `length` bytes in chunks, with this behind it.
    pub(super) fn encoded_bytes(&self, length: u64) -> u64 {
        let chunk = |bytes: u64| format!("{bytes:x}").len() as u64 + 2 + bytes + 2;
        let (whole, rest) = (length / CHUNK_BYTES, length % CHUNK_BYTES);
        let chunks = whole * chunk(CHUNK_BYTES) + if rest > 0 { chunk(rest) } else { 0 };
        let end = "0\r\n".len() + self.name.len() + ":\r\n\r\n".len();
        chunks + end as u64 + self.value_bytes
    }

    /// `body`, of `length` bytes, in chunks, with the checksum that is known when it has ended.
    pub(super) fn behind(self, body: Body, length: u64, values: TrailingHeaders) -> Body {
        let state =
            Chunks { trailer: self, body, left: length, in_chunk: 0, ready: VecDeque::new(), ended: false, values };
        Body::from_stream(futures::stream::try_unfold(state, |mut state| async move {
            Ok::<_, Fault>(state.next().await?.map(|bytes| (bytes, state)))
        }))
    }
}

struct Chunks {
    trailer: Trailer,
    body: Body,
    /// Bytes of the body that are to come.
    left: u64,
    /// Bytes of the chunk that has begun, which are to come.
    in_chunk: u64,
    ready: VecDeque<Bytes>,
    ended: bool,
    values: TrailingHeaders,
}

impl Chunks {
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Ok(Some(bytes));
            }
            if self.ended {
                return Ok(None);
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.cut(frame.into_data().unwrap_or_default())?,
                Some(Err(error)) => return Err(Fault(crate::outgoing::chain(&error))),
                None => self.end()?,
            }
        }
    }

    fn cut(&mut self, mut data: Bytes) -> Result<(), Fault> {
        while !data.is_empty() {
            if self.in_chunk == 0 {
                self.in_chunk = self.left.min(CHUNK_BYTES);
                if self.in_chunk == 0 {
                    return Err(Fault("more bytes came than were announced".into()));
                }
                self.ready.push_back(format!("{:x}\r\n", self.in_chunk).into());
            }
            let here = usize::try_from(self.in_chunk).unwrap_or(usize::MAX).min(data.len());
            self.ready.push_back(data.split_to(here));
            self.in_chunk -= here as u64;
            self.left -= here as u64;
            if self.in_chunk == 0 {
                self.ready.push_back(Bytes::from_static(b"\r\n"));
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.ended = true;
        if self.left > 0 {
            return Err(Fault(format!("{} bytes did not come", self.left)));
        }
        let name = self.trailer.name;
        let value = self.values.read(|headers| headers.get(name)?.to_str().ok().map(str::to_owned)).flatten();
        let value = value.filter(|value| value.len() as u64 == self.trailer.value_bytes);
        let value = value.ok_or_else(|| Fault(format!("FormatError: no {name} came behind the body")))?;
        self.ready.push_back(format!("0\r\n{name}:{value}\r\n\r\n").into());
        Ok(())
    }
}

/// What comes back, and what must live as long as it does.
pub(super) struct Coming {
    pub(super) inner: Body,
    pub(super) _held: (OwnedSemaphorePermit, DropGuard),
}

impl http_body::Body for Coming {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;

    fn watch() -> Watch {
        Watch::new(Arc::new(SystemClock::new()))
    }

    fn pieces(pieces: Vec<Result<&'static str, Fault>>) -> Body {
        Body::from_stream(futures::stream::iter(pieces.into_iter().map(|piece| piece.map(Bytes::from))))
    }

    #[tokio::test]
    async fn the_last_piece_waits_for_the_end_of_the_verification() {
        let watch = watch();
        let bad = pieces(vec![Ok("one"), Ok("two"), Err(Fault("SignatureMismatch".into()))]);
        let mut going = Going::new(Body::new(bad), 6, None, watch.clone());
        assert_eq!(going.frame().await.unwrap().unwrap().into_data().unwrap(), "one");
        assert!(going.frame().await.unwrap().is_err(), "not `two`: with it the whole would be there");
        assert!(going.frame().await.is_none());
        assert!(watch.fault().unwrap().0.contains("SignatureMismatch"));
        let good = Going::new(pieces(vec![Ok("one"), Ok(""), Ok("two")]), 6, None, watch);
        assert_eq!(good.collect().await.unwrap().to_bytes(), "onetwo");
    }

    #[tokio::test]
    async fn neither_fewer_nor_more_bytes_than_announced_go() {
        for (announced, word) in [(5, "more"), (7, "1 bytes did not come")] {
            let watch = watch();
            assert!(Going::new(pieces(vec![Ok("onetwo")]), announced, None, watch.clone()).collect().await.is_err());
            assert!(watch.fault().unwrap().0.contains(word));
        }
    }

    #[tokio::test]
    async fn nothing_goes_before_its_leave() {
        let (give, leave) = tokio::sync::oneshot::channel::<()>();
        let leave: BoxFuture<'static, bool> = Box::pin(async move { leave.await.is_ok() });
        let mut going = Going::new(Body::from("x"), 1, Some(leave), watch());
        assert!(futures::poll!(going.frame()).is_pending());
        give.send(()).unwrap();
        assert_eq!(going.frame().await.unwrap().unwrap().into_data().unwrap(), "x");
    }

    #[test]
    fn the_length_of_a_body_with_a_checksum_is_known_before_it_has_come() {
        assert_eq!(Trailer::named("X-Amz-Checksum-CRC32").unwrap().name, "x-amz-checksum-crc32");
        assert_eq!(Trailer::named("x-amz-meta-a"), None);
        let trailer = Trailer::named("x-amz-checksum-crc32c").unwrap();
        let end = "0\r\nx-amz-checksum-crc32c:AAAAAA==\r\n\r\n".len() as u64;
        assert_eq!(trailer.encoded_bytes(0), end);
        assert_eq!(trailer.encoded_bytes(5), "5\r\nhello\r\n".len() as u64 + end);
        let (whole, rest) = ("10000\r\n\r\n".len() as u64 + CHUNK_BYTES, "1\r\nx\r\n".len() as u64);
        assert_eq!(trailer.encoded_bytes(2 * CHUNK_BYTES + 1), 2 * whole + rest + end);
    }
}
