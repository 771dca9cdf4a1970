//! Two fields of a POST form that s3s does not read: `acl` and `tagging`.
//!
//! Fields come before the file, so that the beginning of the body has them. It is looked at on its way and goes on as it came; s3s still
//! checks every field against the form's policy. What is not written as browsers write it is not looked for: s3s refuses such a form.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::header;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use s3s::dto::Tagging;
use s3s::{S3Result, s3_error};

use super::{FORM_FIELDS_BYTES_MAX, stored};
use crate::edge::Request;

/// Most of a body that is looked at: fields, and the lines between them.
const HEAD_BYTES_MAX: usize = 2 * FORM_FIELDS_BYTES_MAX;

/// Bytes after which it is looked at first.
const LOOK_BYTES: usize = 4 << 10;

/// Longest piece that is handed on. s3s gives a form up when a piece that ends with a carriage return, which may begin the boundary, is
/// followed by one of more than 64 KiB.
const PIECE_BYTES_MAX: usize = 32 << 10;

/// What a form says beside what s3s reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) acl: Option<String>,
    /// As the header `x-amz-tagging` has it.
    pub(super) tagging: Option<String>,
}

/// A body of which the beginning was read, in small pieces.
struct Resumed {
    read: VecDeque<Bytes>,
    rest: Body,
}

impl http_body::Body for Resumed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.read.is_empty() {
            match ready!(Pin::new(&mut self.rest).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => self.read.push_back(bytes),
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let Some(mut bytes) = self.read.pop_front() else { return Poll::Ready(None) };
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES_MAX));
        if !bytes.is_empty() {
            self.read.push_front(bytes);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let read = self.read.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(read));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(read));
        }
        hint
    }
}

/// Reads a form's beginning, and gives the request back as it was, with [`Fields`] among its extensions.
pub(super) async fn look(request: Request) -> S3Result<Request> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let Some(boundary) = boundary(kind).map(str::to_owned) else { return Ok(request) };
    let (mut parts, mut rest) = request.into_parts();
    let (mut head, mut read, mut look_at) = (BytesMut::new(), VecDeque::new(), LOOK_BYTES);
    let fields = loop {
        let ended = match rest.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    head.extend_from_slice(&data);
                    read.push_back(data);
                }
                false
            }
            Some(Err(_)) | None => true,
        };
        // Looked at as it doubles, and not at each piece: those may be bytes.
        if ended || head.len() >= look_at {
            look_at = head.len() * 2;
            if let Some(fields) = fields(&head, &boundary) {
                break fields?;
            }
        }
        // A form without a file within its bounds is s3s's to refuse.
        if ended || head.len() > HEAD_BYTES_MAX {
            break Fields::default();
        }
    };
    parts.extensions.insert(fields);
    Ok(Request::from_parts(parts, Body::new(Resumed { read, rest })))
}

fn boundary(kind: &str) -> Option<&str> {
    let parameter = kind.split(';').map(str::trim).find_map(|part| part.strip_prefix("boundary="))?;
    Some(parameter.trim_matches('"')).filter(|boundary| !boundary.is_empty())
}

/// The fields before the file; `None` while the file's part has not begun.
fn fields(head: &[u8], boundary: &str) -> Option<S3Result<Fields>> {
    let mark = format!("--{boundary}\r\n");
    let mut rest = head.strip_prefix(mark.as_bytes())?;
    let mut found = Fields::default();
    loop {
        let (lines, behind) = split(rest, b"\r\n\r\n")?;
        let lines = String::from_utf8_lossy(lines).to_ascii_lowercase();
        let disposition = lines.split("\r\n").find_map(|line| line.strip_prefix("content-disposition:"))?;
        let name = disposition.split(';').map(str::trim).find_map(|part| part.strip_prefix("name="));
        let name = name.map(|name| name.trim_matches('"')).unwrap_or_default();
        if name == "file" || disposition.contains("filename=") {
            return Some(Ok(found));
        }
        let (value, behind) = split(behind, format!("\r\n{mark}").as_bytes())?;
        rest = behind;
        let value = String::from_utf8_lossy(value).into_owned();
        let place = match name {
            "acl" => &mut found.acl,
            "tagging" => &mut found.tagging,
            _ => continue,
        };
        // Which of two s3s held against the policy would be a guess.
        if place.is_some() {
            return Some(Err(s3_error!(InvalidArgument, "the field `{name}` stands in the form twice")));
        }
        *place = match name {
            "tagging" => match as_header(&value) {
                Ok(header) => Some(header),
                Err(refusal) => return Some(Err(refusal)),
            },
            _ => Some(value),
        };
    }
}

fn split<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(mark.len()).position(|window| window == mark)?;
    Some((&bytes[..at], &bytes[at + mark.len()..]))
}

/// Tags in XML as the header has them.
fn as_header(xml: &str) -> S3Result<String> {
    let tagging: Tagging =
        stored::read(xml.as_bytes()).map_err(|_| s3_error!(MalformedXML, "the field `tagging` is no XML of tags"))?;
    let write =
        |text: &str| percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string();
    let pair = |tag: &s3s::dto::Tag| {
        format!("{}={}", write(tag.key.as_deref().unwrap_or_default()), write(tag.value.as_deref().unwrap_or_default()))
    };
    Ok(tagging.tag_set.iter().map(pair).collect::<Vec<_>>().join("&"))
}

/// For fuzzing.
pub(super) fn fuzz(text: &str) {
    let _ = boundary(text);
    let _ = fields(text.as_bytes(), "b");
    let _ = as_header(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, value: &str) -> String {
        format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    }

    #[test]
    fn fields_are_those_before_the_file_and_each_stands_there_once() {
        let file = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"x\"\r\n\r\n";
        let tags = "<Tagging><TagSet><Tag><Key>a b</Key><Value>c&amp;d</Value></Tag></TagSet></Tagging>";
        let whole = [&part("key", "k"), &part("ACL", "public-read"), &part("tagging", tags), file].concat();
        let found = fields(whole.as_bytes(), "b").unwrap().unwrap();
        assert_eq!(found.acl.as_deref(), Some("public-read"));
        assert_eq!(found.tagging.as_deref(), Some("a%20b=c%26d"));
        for cut in 0..whole.len() {
            let early = fields(&whole.as_bytes()[..cut], "b");
            assert!(early.is_none(), "{cut}: {early:?}");
        }
        let behind = [&part("key", "k"), file, &part("acl", "public-read")].concat();
        assert_eq!(fields(behind.as_bytes(), "b").unwrap().unwrap(), Fields::default());
        let twice = [&part("acl", "private"), &part("acl", "public-read"), file].concat();
        assert!(fields(twice.as_bytes(), "b").unwrap().is_err());
        assert!(fields([&part("tagging", "<x"), file].concat().as_bytes(), "b").unwrap().is_err());
        assert_eq!(boundary("multipart/form-data; boundary=\"b\""), Some("b"));
        assert_eq!(boundary("multipart/form-data"), None);
    }

    #[tokio::test]
    async fn what_was_read_and_what_follows_comes_in_order_and_in_small_pieces() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
        let (read, rest) = bytes.split_at(90_000);
        let read = VecDeque::from([Bytes::copy_from_slice(&read[..70_000]), Bytes::copy_from_slice(&read[70_000..])]);
        let mut body = Resumed { read, rest: Body::from(rest.to_vec()) };
        let mut came = Vec::new();
        while let Some(frame) = body.frame().await {
            let piece = frame.unwrap().into_data().unwrap();
            assert!(!piece.is_empty() && piece.len() <= PIECE_BYTES_MAX);
            came.extend_from_slice(&piece);
        }
        assert!(came == bytes && http_body::Body::is_end_stream(&body));
    }
}
