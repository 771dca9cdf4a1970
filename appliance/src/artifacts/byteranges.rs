//! Several ranges of an object in one answer: `multipart/byteranges` (RFC 9110 §14.6).
//!
//! The bytes come from one stream, which gives the ranges one after the other; here the lines between them are put in. How long all
//! of it is, is known before the first byte.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use http::HeaderValue;
use uuid::Uuid;

use super::error::ArtifactError;
use super::read::ObjectStream;

/// The body of an answer with several ranges.
pub(super) struct ByteRanges<S = ObjectStream> {
    stream: S,
    boundary: String,
    /// The lines before each range that has not begun, and the range's length.
    parts: VecDeque<(Bytes, u64)>,
    /// Bytes of the range that has begun, which are still to come.
    left: u64,
    held: Bytes,
    end: Option<Bytes>,
    remaining: u64,
}

impl<S> ByteRanges<S> {
    /// `ranges`, offset and length, are those that `stream` gives; `boundary` is one that nobody could know before.
    pub(super) fn new(
        stream: S,
        ranges: &[(u64, u64)],
        size: u64,
        content_type: Option<&HeaderValue>,
        boundary: Uuid,
    ) -> Self {
        let boundary = boundary.simple().to_string();
        let lines = |(index, (first, length)): (usize, &(u64, u64))| {
            let mut lines = if index == 0 { Vec::new() } else { b"\r\n".to_vec() };
            lines.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
            if let Some(kind) = content_type {
                lines.extend_from_slice(&[b"Content-Type: ", kind.as_bytes(), b"\r\n"].concat());
            }
            let last = first + length.saturating_sub(1);
            lines.extend_from_slice(format!("Content-Range: bytes {first}-{last}/{size}\r\n\r\n").as_bytes());
            (Bytes::from(lines), *length)
        };
        let parts: VecDeque<_> = ranges.iter().enumerate().map(lines).collect();
        let end = Bytes::from(format!("\r\n--{boundary}--\r\n"));
        let remaining = parts.iter().map(|(lines, length)| lines.len() as u64 + length).sum::<u64>() + end.len() as u64;
        Self { stream, boundary, parts, left: 0, held: Bytes::new(), end: Some(end), remaining }
    }

    /// Bytes that are still to come.
    pub(super) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// What the answer says that it is.
    pub(super) fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    fn give(&mut self, bytes: Bytes) -> Poll<Option<Result<Bytes, ArtifactError>>> {
        self.remaining = self.remaining.saturating_sub(bytes.len() as u64);
        Poll::Ready(Some(Ok(bytes)))
    }

    fn fail(&mut self, error: ArtifactError) -> Poll<Option<Result<Bytes, ArtifactError>>> {
        (self.left, self.end) = (0, None);
        self.parts.clear();
        Poll::Ready(Some(Err(error)))
    }
}

impl<S: Stream<Item = Result<Bytes, ArtifactError>> + Unpin> Stream for ByteRanges<S> {
    type Item = Result<Bytes, ArtifactError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.left == 0 {
            return match this.parts.pop_front() {
                Some((lines, length)) => {
                    this.left = length;
                    this.give(lines)
                }
                None => match this.end.take() {
                    Some(end) => this.give(end),
                    None => Poll::Ready(None),
                },
            };
        }
        while this.held.is_empty() {
            match ready!(Pin::new(&mut this.stream).poll_next(context)) {
                Some(Ok(bytes)) => this.held = bytes,
                Some(Err(error)) => return this.fail(error),
                None => {
                    let problem = format!("{} bytes of a range did not come", this.left);
                    return this.fail(ArtifactError::fault("read several ranges")(problem));
                }
            }
        }
        let most = usize::try_from(this.left).unwrap_or(usize::MAX).min(this.held.len());
        let bytes = this.held.split_to(most);
        this.left -= bytes.len() as u64;
        this.give(bytes)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn body(pieces: &[&'static str], ranges: &[(u64, u64)]) -> (u64, Vec<Result<Bytes, ArtifactError>>) {
        let pieces: Vec<_> = pieces.iter().map(|piece| Ok(Bytes::from_static(piece.as_bytes()))).collect();
        let kind = HeaderValue::from_static("text/plain");
        let body = ByteRanges::new(futures::stream::iter(pieces), ranges, 100, Some(&kind), Uuid::nil());
        (body.remaining(), futures::executor::block_on(body.collect()))
    }

    #[test]
    fn each_range_stands_behind_its_lines_however_its_bytes_come_and_the_length_is_known_before() {
        let mark = "0".repeat(32);
        let expected = format!(
            "--{mark}\r\nContent-Type: text/plain\r\nContent-Range: bytes 5-7/100\r\n\r\nabc\r\n--{mark}\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/100\r\n\r\nde\r\n--{mark}--\r\n"
        );
        for pieces in [&["abc", "de"][..], &["abcde"], &["a", "", "bcd", "e"]] {
            let (length, given) = body(pieces, &[(5, 3), (0, 2)]);
            let given: Vec<u8> = given.into_iter().flat_map(Result::unwrap).collect();
            assert_eq!(String::from_utf8(given).unwrap(), expected);
            assert_eq!(length, expected.len() as u64);
        }
    }

    #[test]
    fn a_stream_that_ends_early_ends_in_an_error_and_not_in_a_whole_answer() {
        let (_, given) = body(&["ab"], &[(5, 3), (0, 2)]);
        assert!(given.last().unwrap().is_err());
        assert_eq!(given.iter().filter(|piece| piece.is_err()).count(), 1);
    }
}
