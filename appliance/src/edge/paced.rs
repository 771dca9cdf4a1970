//! A request body that may not pause for longer than a while.
//!
//! tower-http has one, but it hides the body's size, which S3 needs to know.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// The caller paused for too long.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the body did not go on within {0:?}")]
pub(super) struct Paused(Duration);

pub(crate) struct Paced {
    inner: Body,
    pause: Duration,
    /// Set while we wait for a frame.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub(crate) fn new(inner: Body, pause: Duration) -> Self {
        Self { inner, pause, waiting: None }
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.waiting = None;
            return Poll::Ready(frame);
        }
        let pause = self.pause;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(pause)));
        waiting.as_mut().poll(cx).map(|()| Some(Err(axum::Error::new(Paused(pause)))))
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
    use http_body::Body as _;
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_body_that_stops_is_an_error_after_what_came_before() {
        let frames = futures::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"x"))]);
        let body = Body::from_stream(futures::StreamExt::chain(frames, futures::stream::pending()));
        let mut paced = Paced::new(body, Duration::from_millis(5));
        assert!(paced.frame().await.unwrap().is_ok());
        assert!(paced.frame().await.unwrap().unwrap_err().to_string().contains("5ms"));
    }

    #[test]
    fn the_size_is_still_known() {
        assert_eq!(Paced::new(Body::from("four"), Duration::from_secs(1)).size_hint().exact(), Some(4));
        assert!(Paced::new(Body::empty(), Duration::from_secs(1)).is_end_stream());
    }
}
