//! A body that counts its bytes and holds whatever must live as long as it does.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

/// Bytes are added to `counter` when the body ends or is dropped.
pub(super) struct Metered<H> {
    inner: Body,
    bytes: u64,
    counter: Counter<u64>,
    door: &'static str,
    _held: H,
}

impl<H: Send + Unpin + 'static> Metered<H> {
    pub(super) fn wrap(inner: Body, counter: Counter<u64>, door: &'static str, held: H) -> Body {
        Body::new(Self { inner, bytes: 0, counter, door, _held: held })
    }
}

impl<H> Drop for Metered<H> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.counter.add(self.bytes, &[KeyValue::new("door", self.door)]);
        }
    }
}

impl<H: Unpin> http_body::Body for Metered<H> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.bytes += data.len() as u64;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
