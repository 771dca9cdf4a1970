//! Bounds the chunks of an aws-chunked body before s3s, which holds each one whole.
//!
//! A chunk that is not signed is cut into as many as its bytes arrive in: some clients (those on Go's SDK) send an object as a single one. A
//! signed chunk cannot be cut, so it has a largest size; clients sign 64 KiB to 1 MiB at a time. What is not well-formed goes through
//! as it is, for s3s to refuse. No byte of data is copied or held here.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};

use crate::edge::Request;

/// Largest signed chunk.
const SIGNED_BYTES_MAX: u64 = 16 << 20;
/// A chunk up to here goes through as it is.
const WHOLE_BYTES_MAX: u64 = 1 << 20;
/// Longest line in front of a chunk: its size and a signature.
const HEAD_BYTES_MAX: usize = 1024;

/// What the caller is told, behind the word that `body_error` knows it by.
pub(super) const TOO_LARGE: &str = "ChunkOverLimit";

/// A body whose chunks have a bound.
pub(super) struct Chunks {
    inner: Body,
    /// `None` when the body is not aws-chunked.
    framing: Option<Framing>,
    ready: VecDeque<Bytes>,
}

impl Chunks {
    pub(super) fn of(request: Request) -> http::Request<Self> {
        let says = request.headers().get("x-amz-content-sha256").map(http::HeaderValue::as_bytes);
        let framing = says.is_some_and(|says| says.starts_with(b"STREAMING-")).then(Framing::default);
        request.map(|inner| Self { inner, framing, ready: VecDeque::new() })
    }
}

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(bytes) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
            let Some(framing) = &mut this.framing else { return Poll::Ready(frame) };
            let data = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                ended => return Poll::Ready(ended),
            };
            if let Err(TooLarge) = framing.push(data, &mut this.ready) {
                this.ready.clear();
                return Poll::Ready(Some(Err(axum::Error::new(TooLarge))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // Cut chunks have more heads than were announced.
        if self.framing.is_some() { SizeHint::default() } else { self.inner.size_hint() }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{TOO_LARGE}: a signed chunk has at most {SIGNED_BYTES_MAX} bytes")]
struct TooLarge;

/// Where in a body we are.
#[derive(Debug)]
enum Framing {
    /// In the line in front of a chunk.
    Head(Vec<u8>),
    /// In a chunk that has `left` more bytes, its line break included.
    Whole { left: u64 },
    /// In one that is cut.
    Cut { left: u64 },
    /// At the line break behind one that was cut, of which so much was seen.
    Behind(usize),
    /// Behind the last chunk, or lost.
    Through,
}

impl Default for Framing {
    fn default() -> Self {
        Self::Head(Vec::new())
    }
}

impl Framing {
    /// Takes the next bytes of a body and puts out what s3s is to see of them.
    fn push(&mut self, mut bytes: Bytes, out: &mut VecDeque<Bytes>) -> Result<(), TooLarge> {
        while !bytes.is_empty() {
            match self {
                Self::Through => out.push_back(std::mem::take(&mut bytes)),
                Self::Head(head) => {
                    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
                    head.extend_from_slice(&bytes.split_to(end));
                    if head.ends_with(b"\n") || head.len() > HEAD_BYTES_MAX {
                        let head = std::mem::take(head);
                        *self = Self::behind_head(head, out)?;
                    }
                }
                Self::Whole { left } => {
                    out.push_back(take(&mut bytes, left));
                    if *left == 0 {
                        *self = Self::default();
                    }
                }
                Self::Cut { left } => {
                    let piece = take(&mut bytes, left);
                    out.push_back(Bytes::from(format!("{:x}\r\n", piece.len())));
                    out.push_back(piece);
                    out.push_back(Bytes::from_static(b"\r\n"));
                    if *left == 0 {
                        *self = Self::Behind(0);
                    }
                }
                Self::Behind(seen) => {
                    if bytes[0] != b"\r\n"[*seen] {
                        *self = Self::Through; // no chunk begins so, which s3s says
                        continue;
                    }
                    bytes.advance(1);
                    *seen += 1;
                    if *seen == 2 {
                        *self = Self::default();
                    }
                }
            }
        }
        Ok(())
    }

    /// What follows a line in front of a chunk.
    fn behind_head(head: Vec<u8>, out: &mut VecDeque<Bytes>) -> Result<Self, TooLarge> {
        let line = head.strip_suffix(b"\r\n").unwrap_or_default();
        let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
        let size = std::str::from_utf8(&line[..digits]).ok().and_then(|size| u64::from_str_radix(size, 16).ok());
        let is_signed = digits < line.len();
        let next = match size {
            None | Some(0) => Self::Through,
            Some(size) if is_signed && size > SIGNED_BYTES_MAX => return Err(TooLarge),
            Some(left) if !is_signed && left > WHOLE_BYTES_MAX => return Ok(Self::Cut { left }),
            Some(size) => Self::Whole { left: size + 2 },
        };
        out.push_back(Bytes::from(head));
        Ok(next)
    }
}

/// As much of `bytes` as is left to take.
fn take(bytes: &mut Bytes, left: &mut u64) -> Bytes {
    let length = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *left -= length as u64;
    bytes.split_to(length)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pushed(body: &[u8], piece_bytes: usize) -> Result<Vec<u8>, TooLarge> {
        let (mut framing, mut out) = (Framing::default(), VecDeque::new());
        for piece in body.chunks(piece_bytes) {
            framing.push(Bytes::copy_from_slice(piece), &mut out)?;
        }
        Ok(out.iter().flatten().copied().collect())
    }

    /// The data of chunks, the largest of them, and what stands behind the last.
    fn data_of(mut body: &[u8]) -> (Vec<u8>, usize, Vec<u8>) {
        let (mut data, mut largest) = (Vec::new(), 0);
        loop {
            let end = body.iter().position(|byte| *byte == b'\n').unwrap() + 1;
            let head = std::str::from_utf8(&body[..end - 2]).unwrap();
            let size = usize::from_str_radix(head.split(';').next().unwrap(), 16).unwrap();
            body = &body[end..];
            if size == 0 {
                return (data, largest, body.to_vec());
            }
            data.extend_from_slice(&body[..size]);
            assert_eq!(&body[size..size + 2], b"\r\n");
            (body, largest) = (&body[size + 2..], largest.max(size));
        }
    }

    fn chunked(sizes: &[usize], extension: &str) -> Vec<u8> {
        let mut body = Vec::new();
        for (at, size) in sizes.iter().enumerate() {
            body.extend(format!("{size:x}{extension}\r\n").bytes());
            body.extend((0..*size).map(|i| (i * 7 + at) as u8));
            body.extend(b"\r\n");
        }
        body.extend(format!("0{extension}\r\nx-amz-checksum-crc32:AAAA\r\n\r\n").bytes());
        body
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn large_unsigned_chunks_are_cut_and_nothing_else_changes(
            sizes in proptest::collection::vec(prop_oneof![1..5_usize, 1_048_570..1_048_590_usize, 3_000_000..3_000_003_usize], 0..4),
            piece_bytes in prop_oneof![Just(4096_usize), 60_000..70_000_usize],
        ) {
            let body = chunked(&sizes, "");
            let seen = pushed(&body, piece_bytes).unwrap();
            let ((was, _, trailer), (is, largest, same_trailer)) = (data_of(&body), data_of(&seen));
            prop_assert!(was == is && trailer == same_trailer);
            prop_assert!(largest as u64 <= WHOLE_BYTES_MAX);
        }

        #[test]
        fn signed_chunks_and_garbage_go_through_byte_for_byte(
            sizes in proptest::collection::vec(1..2_000_000_usize, 0..3),
            garbage in proptest::collection::vec(any::<u8>(), 0..3000),
            piece_bytes in 1..70_000_usize,
        ) {
            let mut body = chunked(&sizes, &format!(";chunk-signature={}", "a".repeat(64)));
            body.extend(&garbage);
            prop_assert!(pushed(&body, piece_bytes.max(body.len() / 200)).unwrap() == body);
            if let Ok(seen) = pushed(&garbage, piece_bytes) {
                // A last line without an end is held back: it is no chunk yet.
                prop_assert!(garbage.starts_with(&seen) || seen.windows(2).any(|two| two == b"\r\n"));
            }
        }
    }

    #[test]
    fn a_signed_chunk_over_the_limit_is_refused_at_its_head() {
        let head = |size: u64| format!("{size:x};chunk-signature={}\r\n", "0".repeat(64));
        assert!(pushed(head(SIGNED_BYTES_MAX + 1).as_bytes(), 9).is_err());
        assert!(pushed(head(u64::MAX).as_bytes(), 9).is_err());
        assert_eq!(pushed(head(SIGNED_BYTES_MAX).as_bytes(), 9).unwrap(), head(SIGNED_BYTES_MAX).as_bytes());
        assert_eq!(pushed(&b"f".repeat(5000), 100).unwrap().len(), 5000, "a line without an end");
    }
}
