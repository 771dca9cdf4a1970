//! Whether the body of a call that s3s reads whole is the one that was signed for.
//!
//! s3s notices when it is not, and answers with a fault of its own: `InternalError`. It is the caller's. Objects' bytes are left
//! to s3s alone, which tells the store why their stream broke off.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use sha2::{Digest, Sha256};

use super::access::reads_xml;
use super::chunks::Chunks;
use crate::edge::OperationCell;

/// A body beside what its sender has signed.
pub(super) struct Signed {
    inner: Chunks,
    claim: Option<String>,
    operation: OperationCell,
    digest: Sha256,
    differs: Arc<AtomicBool>,
}

/// Tells afterwards. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Verdict(Arc<AtomicBool>);

impl Verdict {
    /// The body, as far as it was read, is another than was signed.
    pub(super) fn differs(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Signed {
    pub(super) fn of(request: http::Request<Chunks>) -> (http::Request<Self>, Verdict) {
        let verdict = Verdict::default();
        let claim = request.headers().get("x-amz-content-sha256").and_then(|value| value.to_str().ok());
        let claim = claim.filter(|claim| claim.len() == 64).map(str::to_ascii_lowercase); // the others are words
        let operation = request.extensions().get::<OperationCell>().cloned().unwrap_or_default();
        let differs = Arc::clone(&verdict.0);
        (request.map(|inner| Self { inner, claim, operation, digest: Sha256::new(), differs }), verdict)
    }
}

impl http_body::Body for Signed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        // Which operation it is was found out before its body is read.
        if let (Some(Ok(frame)), Some(claim)) = (&frame, &self.claim)
            && let Some(data) = frame.data_ref()
            && reads_xml(&self.operation.get())
        {
            let claim = claim.clone();
            self.digest.update(data);
            // Judged after each piece: the reader may stop at the announced length and never ask for the end.
            let differs = hex::encode(self.digest.clone().finalize()) != claim;
            self.differs.store(differs, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
