//! Ranges and parts of objects: which one a read asks for, and what its answer says of it.
//!
//! S3 gives one range at a time. Browsers, players and viewers ask plain URLs for several at once, and get them; s3s reads one and
//! refuses the rest, so that a list is taken off a request before s3s sees it. Where the header was signed it has to stay, and is refused.

use s3s::dto::{GetObjectOutput, Range, StreamingBlob};
use s3s::{S3Result, s3_error};

use http::{HeaderMap, Method, header};

use super::convert::{self, error, size};
use crate::artifacts::access::parameter;
use crate::artifacts::byteranges::ByteRanges;
use crate::artifacts::checksums::{Checksum, crc64};
use crate::artifacts::engine::Wanted;
use crate::artifacts::model::{Body, ObjectRow};
use crate::artifacts::{Artifacts, ObjectStream, RangeAsked};
use crate::edge::Request;

/// A list of ranges that was taken off a request.
#[derive(Clone)]
struct Several(Vec<RangeAsked>);

/// Among the extensions of an answer: it is a 206, which s3s does not know of several ranges and of a HEAD.
#[derive(Clone, Copy)]
pub(super) struct Partial;

/// Takes a `Range` off a request that s3s would not read, where the caller has not signed it. What is no list of ranges is as if it
/// were not there (RFC 9110 §14.2); so is a list in a HEAD.
pub(super) fn take_several(request: &mut Request) {
    let Some(range) = request.headers().get(header::RANGE).and_then(|range| range.to_str().ok()) else { return };
    if Range::parse(range).is_ok() || is_signed(request.headers(), request.uri().query().unwrap_or_default()) {
        return;
    }
    let ranges = RangeAsked::parse(range).filter(|_| request.method() == Method::GET);
    request.headers_mut().remove(header::RANGE);
    if let Some(ranges) = ranges {
        request.extensions_mut().insert(Several(ranges));
    }
}

/// Whether a signature covers the header `range`.
fn is_signed(headers: &HeaderMap, query: &str) -> bool {
    let covers = |list: &str| list.split(';').any(|name| name.trim().eq_ignore_ascii_case("range"));
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let in_header = authorization.and_then(|value| value.split_once("SignedHeaders="));
    in_header.is_some_and(|(_, rest)| covers(rest.split(',').next().unwrap_or_default()))
        || parameter(query, "X-Amz-SignedHeaders").is_some_and(|list| covers(&list))
}

/// What a read asks for.
pub(super) fn wanted(extensions: &http::Extensions, range: Option<Range>, part: Option<i32>) -> S3Result<Wanted> {
    let several = extensions.get::<Several>().map(|Several(ranges)| ranges.clone());
    match (range, part) {
        (None, None) => Ok(match several {
            Some(ranges) if ranges.len() == 1 => Wanted::Range(ranges[0]),
            Some(ranges) => Wanted::Ranges(ranges),
            None => Wanted::All,
        }),
        (Some(range), None) => Ok(Wanted::Range(convert::range(range))),
        (None, Some(part)) if several.is_none() => match u16::try_from(part) {
            Ok(part @ 1..) => Ok(Wanted::Part(part)),
            _ => Err(s3_error!(InvalidArgument, "part numbers are 1 to 10000")),
        },
        (_, Some(_)) => {
            Err(s3_error!(InvalidRequest, "Cannot specify both Range header and partNumber query parameter"))
        }
    }
}

pub(super) fn content_range(range: Option<(u64, u64)>, size: u64) -> Option<String> {
    range
        .filter(|(_, length)| *length > 0)
        .map(|(first, length)| format!("bytes {first}-{}/{size}", first + length - 1))
}

/// Told with a part alone, of an object that has parts.
pub(super) fn parts_count(row: &ObjectRow, part: Option<i32>) -> Option<i32> {
    part.filter(|_| row.etag.parts > 0).map(|_| i32::from(row.etag.parts))
}

/// The checksum of what is given: of the whole object, or of a part where the range is exactly that; of any other range there is none.
pub(super) fn checksum(
    artifacts: &Artifacts,
    row: &ObjectRow,
    range: Option<(u64, u64)>,
) -> S3Result<Option<Checksum>> {
    let (Some((first, length)), Body::Parts(body)) = (range, &row.body) else {
        let whole = range.is_none_or(|range| range == (0, row.size));
        return Ok(whole.then(|| row.checksum.clone()));
    };
    let mut begins = 0;
    for part in artifacts.chunks(*body).map_err(error)?.into_iter().flat_map(|(_, chunk)| chunk.parts) {
        if begins == first && part.extent.size == length {
            // Without one of its own a part has S3's default, which is that of the bytes on the disk where these are not encrypted.
            return Ok(part.checksum.or_else(|| row.seal.is_none().then(|| crc64(part.extent.crc))));
        }
        begins += part.extent.size;
    }
    Ok(None)
}

/// Makes an answer one of several ranges. Gives the mark that makes it a 206.
pub(super) fn give_several(
    output: &mut GetObjectOutput,
    stream: ObjectStream,
    ranges: &[(u64, u64)],
    whole: u64,
) -> Partial {
    let kind = output.content_type.as_deref().and_then(|kind| kind.parse().ok());
    let body = ByteRanges::new(stream, ranges, whole, kind.as_ref(), uuid::Uuid::new_v4());
    output.content_type = Some(body.content_type());
    output.content_length = Some(size(body.remaining()));
    output.body = Some(StreamingBlob::wrap(body));
    Partial
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request {
        let mut builder = http::Request::builder().uri(uri);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(axum::body::Body::empty()).unwrap()
    }

    #[test]
    fn a_list_is_taken_off_unless_it_was_signed_and_one_range_is_left_to_s3s() {
        let list = ("range", "bytes=0-1,5-6");
        let taken = |mut request: Request| {
            take_several(&mut request);
            let stays = request.headers().contains_key("range");
            (stays, wanted(request.extensions(), None, None).unwrap())
        };
        let ranges = Wanted::Ranges(RangeAsked::parse("bytes=0-1,5-6").unwrap());
        assert_eq!(taken(request("/b/k", &[list])), (false, ranges.clone()));
        assert_eq!(taken(request("/b/k?X-Amz-SignedHeaders=host&X-Amz-Signature=0", &[list])), (false, ranges.clone()));
        assert_eq!(taken(request("/b/k?Signature=0", &[list])), (false, ranges));
        assert_eq!(taken(request("/b/k?X-Amz-SignedHeaders=host%3Brange", &[list])), (true, Wanted::All));
        let signed =
            "AWS4-HMAC-SHA256 Credential=k/d/r/s3/aws4_request, SignedHeaders=host;range;x-amz-date, Signature=0";
        assert_eq!(taken(request("/b/k", &[list, ("authorization", signed)])), (true, Wanted::All));
        assert_eq!(taken(request("/b/k", &[("range", "bytes=0-1")])), (true, Wanted::All));
        assert_eq!(taken(request("/b/k", &[("range", "bytes=x")])), (false, Wanted::All));
        let one = Wanted::Range(RangeAsked::From { first: 0, last: Some(1) });
        assert_eq!(taken(request("/b/k", &[("range", "bytes=0-1,")])), (false, one));
        let mut head = request("/b/k", &[list]);
        *head.method_mut() = Method::HEAD;
        assert_eq!(taken(head), (false, Wanted::All));
    }
}
