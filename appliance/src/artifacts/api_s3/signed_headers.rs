//! Whether the headers that make a request what it is were signed, or somebody on the way has added them.
//!
//! A presigned URL is handed on: whoever holds one for a put must not make a copy of it with a header of their own.

use http::{HeaderMap, HeaderName};
use s3s::{S3Error, S3ErrorCode, S3Result};

use crate::artifacts::access::parameter;

/// Parts of the signature itself, and of how the body comes.
pub(in crate::artifacts) const OF_SIGNATURES: [&str; 9] = [
    "x-amz-algorithm",
    "x-amz-content-sha256",
    "x-amz-credential",
    "x-amz-date",
    "x-amz-decoded-content-length",
    "x-amz-security-token",
    "x-amz-signature",
    "x-amz-trailer",
    "x-amz-user-agent",
];

/// Refuses a header of Amazon's that is not in `signed`, a list of names with semicolons between.
pub(in crate::artifacts) fn check_signed(headers: &HeaderMap, signed: &str) -> S3Result<()> {
    let signed: Vec<String> = signed.split(';').map(|name| name.trim().to_ascii_lowercase()).collect();
    match unsigned(headers, &signed) {
        None => Ok(()),
        Some(name) => {
            let text = format!("There were headers present in the request which were not signed: {name}");
            Err(S3Error::with_message(S3ErrorCode::AccessDenied, text))
        }
    }
}

/// As [`check_signed`], of a presigned URL of version 4. One of version 2 covers all of Amazon's headers.
pub(super) fn check_presigned(headers: &HeaderMap, query: &str) -> S3Result<()> {
    match parameter(query, "X-Amz-SignedHeaders") {
        Some(signed) if parameter(query, "X-Amz-Signature").is_some() => check_signed(headers, &signed),
        _ => Ok(()),
    }
}

fn unsigned<'a>(headers: &'a HeaderMap, signed: &[String]) -> Option<&'a str> {
    let names = headers.keys().map(HeaderName::as_str);
    let mut amazons = names.filter(|name| name.starts_with("x-amz-") && !OF_SIGNATURES.contains(name));
    amazons.find(|name| !signed.iter().any(|signed| signed == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_header_that_was_added_on_the_way_is_found() {
        let signed = ["host".to_owned(), "x-amz-acl".to_owned()];
        assert_eq!(unsigned(&map(&[("x-amz-acl", "private"), ("x-amz-date", "d"), ("range", "r")]), &signed), None);
        assert_eq!(unsigned(&map(&[("x-amz-copy-source", "/b/k")]), &signed), Some("x-amz-copy-source"));
    }

    #[test]
    fn a_presigned_url_says_which_headers_are_its_own() {
        let copy = map(&[("x-amz-copy-source", "/b/k")]);
        let query = |headers: &str| format!("X-Amz-SignedHeaders={headers}&X-Amz-Signature=00");
        assert!(check_presigned(&copy, &query("host")).is_err());
        assert!(check_presigned(&copy, &query("host%3Bx-amz-copy-source")).is_ok());
        assert!(check_presigned(&copy, "").is_ok(), "signed in a header, or not at all");
    }
}
