//! A body that the client only sends when it is asked to (`Expect: 100-continue`).
//!
//! When a request is answered without its body having been read, the client may keep the body back and send its next
//! request, or may have sent the body already: the server cannot tell the one from the other, and hyper takes what comes
//! next for the body (a body of one byte makes a `UT` of the next `PUT`). So such an answer ends the connection.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, header};
use http_body::{Frame, SizeHint};

use super::{Request, Response};

/// Whether any of the body came in, which it does once the client was told to go on.
#[derive(Clone, Debug)]
pub(super) struct Came(Arc<AtomicBool>);

impl Came {
    /// Watches the body of `request`, where it is one that waits to be asked for.
    pub(super) fn watch(request: Request) -> (Request, Option<Self>) {
        let expected = request
            .headers()
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        if !expected || http_body::Body::is_end_stream(request.body()) {
            return (request, None);
        }
        let came = Self(Arc::default());
        let request = request.map(|inner| Body::new(Watched { inner, came: came.clone() }));
        (request, Some(came))
    }

    /// Ends the connection after `response`, unless the body came.
    pub(super) fn settle(&self, response: &mut Response) {
        if !self.0.load(Ordering::Relaxed) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

struct Watched {
    inner: Body,
    came: Came,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(_)) | None) = &polled {
            self.came.0.store(true, Ordering::Relaxed);
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
