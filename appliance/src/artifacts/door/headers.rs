//! Which headers go on, and which come back.
//!
//! What goes is what S3 knows: a browser's cookies for the dashboard, the signature that was made for us and what belongs to one
//! connection stay here. What comes back is all but what belongs to the connection, or would bind browsers to a host that is not ours.

use http::{HeaderMap, HeaderName, header};

use crate::artifacts::api_s3::OF_SIGNATURES;

/// Beside `x-amz-…`.
const GOING: [HeaderName; 20] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCESS_CONTROL_REQUEST_HEADERS,
    header::ACCESS_CONTROL_REQUEST_METHOD,
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_TYPE,
    header::EXPIRES,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::ORIGIN,
    header::RANGE,
    header::REFERER,
    header::USER_AGENT,
    HeaderName::from_static("content-md5"),
];

const STAYING: [HeaderName; 11] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::SET_COOKIE,
    header::STRICT_TRANSPORT_SECURITY,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("alt-svc"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Of a request. `content-encoding: aws-chunked` is how the body came, and not of the object.
pub(super) fn going(from: &HeaderMap) -> HeaderMap {
    let mut to = HeaderMap::with_capacity(from.len());
    for (name, value) in from {
        let amazons = name.as_str().starts_with("x-amz-") && !OF_SIGNATURES.contains(&name.as_str());
        if amazons || GOING.contains(name) {
            to.append(name.clone(), value.clone());
        }
    }
    if let Some(coding) = from.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()) {
        let kept: Vec<&str> = coding.split(',').map(str::trim).filter(|one| *one != "aws-chunked").collect();
        to.remove(header::CONTENT_ENCODING);
        if let (false, Ok(value)) = (kept.is_empty(), kept.join(",").parse()) {
            to.insert(header::CONTENT_ENCODING, value);
        }
    }
    to
}

/// Of an answer, in place.
pub(super) fn coming(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(',').filter_map(|name| name.trim().parse().ok()))
        .collect();
    for name in STAYING.into_iter().chain(named) {
        headers.remove(name);
    }
}

/// Whether a customer's key (SSE-C) is among them, of the object or of what it is copied from.
pub(super) fn has_customers_key(headers: &HeaderMap) -> bool {
    let is_key = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("x-amz-server-side-encryption-customer-")
            || name.starts_with("x-amz-copy-source-server-side-encryption-customer-")
    };
    headers.keys().any(is_key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_s3_knows_goes_on_and_nothing_of_ours() {
        let sent = map(&[
            ("authorization", "AWS4"),
            ("cookie", "backlot_session=x"),
            ("content-encoding", "aws-chunked,gzip"),
            ("content-type", "video/mp4"),
            ("connection", "close"),
            ("x-amz-date", "d"),
            ("x-amz-meta-a", "b"),
            ("x-amz-trailer", "x-amz-checksum-crc32"),
            ("x-backlot-agent", "a"),
            ("x-forwarded-for", "10.0.0.1"),
        ]);
        let went = going(&sent);
        assert_eq!(went, map(&[("content-encoding", "gzip"), ("content-type", "video/mp4"), ("x-amz-meta-a", "b")]));
        assert!(going(&map(&[("content-encoding", "aws-chunked")])).is_empty());
    }

    #[test]
    fn what_belongs_to_the_connection_does_not_come_back() {
        let mut came = map(&[("connection", "close, x-hop"), ("x-hop", "1"), ("etag", "\"a\""), ("set-cookie", "a=b")]);
        coming(&mut came);
        assert_eq!(came, map(&[("etag", "\"a\"")]));
    }

    #[test]
    fn a_customers_key_is_told_from_what_only_sounds_like_one() {
        assert!(has_customers_key(&map(&[("x-amz-server-side-encryption-customer-key", "k")])));
        assert!(has_customers_key(&map(&[("x-amz-copy-source-server-side-encryption-customer-algorithm", "AES256")])));
        assert!(!has_customers_key(&map(&[
            ("x-amz-meta-customer-id", "7"),
            ("x-amz-server-side-encryption", "AES256")
        ])));
    }
}
