//! Names of buckets that are others there than here (`upstream.bucket_prefix`): in what goes, and in what comes back.
//!
//! Paths and sources of copies are mapped, and in answers the list of buckets and the name that a list or an upload begins with. What
//! a configuration of a bucket says of other buckets (logging, replication) is not, nor are the names in errors.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};

use super::place::Place;
use super::reader::{ReadError, gather};

/// Most of an answer in which a name is looked for: a list of 1,000 keys of 1,024 bytes, each of which may be written as six.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Operations whose answers name their bucket, and the element that does.
const NAMING: [(&str, &str); 8] = [
    ("ListObjects", "Name"),
    ("ListObjectsV2", "Name"),
    ("ListObjectVersions", "Name"),
    ("ListMultipartUploads", "Bucket"),
    ("ListParts", "Bucket"),
    ("CreateMultipartUpload", "Bucket"),
    ("CompleteMultipartUpload", "Bucket"),
    ("ListBuckets", ""),
];

/// Maps where a copy comes from.
///
/// # Errors
/// A source that is no bucket and key.
pub(super) fn sources(place: &Place, headers: &mut HeaderMap) -> Result<(), String> {
    for name in ["x-amz-copy-source", "x-amz-rename-source"] {
        let Some(value) = headers.get(name).filter(|_| place.maps_buckets()) else { continue };
        let text = value.to_str().map_err(|_| format!("{name} is no text"))?;
        let plain = text.strip_prefix('/').unwrap_or(text);
        if plain.starts_with("arn:") || !plain.contains('/') {
            return Err(format!("{name} is BUCKET/KEY where upstream.bucket_prefix is set"));
        }
        let mapped = HeaderValue::try_from(place.bucket_there(plain)).map_err(|error| error.to_string())?;
        headers.insert(name, mapped);
    }
    Ok(())
}

/// Maps names in an answer to `operation`.
pub(super) async fn answer(
    place: &Place,
    operation: &str,
    answer: Response<Body>,
) -> Result<Response<Body>, ReadError> {
    let found = NAMING.into_iter().find(|(name, _)| *name == operation);
    let Some((_, element)) = found.filter(|_| place.maps_buckets() && answer.status().is_success()) else {
        return Ok(answer);
    };
    let (mut head, body) = answer.into_parts();
    let xml = gather(Response::new(body), ANSWER_BYTES_MAX).await?;
    let text = std::str::from_utf8(&xml).map_err(|error| ReadError::Unreadable(error.to_string()))?;
    let mapped = if element.is_empty() { list(place, text) } else { name(place, element, text) };
    head.headers.insert(header::CONTENT_LENGTH, mapped.len().into());
    Ok(Response::from_parts(head, Body::from(Bytes::from(mapped))))
}

/// The first element of this name, which is of the answer itself: what is inside keys is escaped.
fn name(place: &Place, element: &str, text: &str) -> String {
    let open = format!("<{element}>");
    let there = format!("{open}{}", place.bucket_there(""));
    text.replacen(&there, &open, 1)
}

/// Leaves only our own buckets, by their names here.
fn list(place: &Place, text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("<Bucket>") {
        kept.push_str(before);
        let Some((bucket, after)) = behind.split_once("</Bucket>") else { break };
        let called = bucket.split_once("<Name>").and_then(|(_, name)| name.split_once("</Name>")).map(|(name, _)| name);
        if let Some((there, here)) = called.and_then(|there| Some((there, place.bucket_here(there)?))) {
            kept.push_str("<Bucket>");
            kept.push_str(&bucket.replacen(there, here, 1));
            kept.push_str("</Bucket>");
        }
        rest = after;
    }
    kept.push_str(rest);
    kept
}

/// For fuzzing.
pub(super) fn fuzz(place: &Place, text: &str) {
    let _ = (list(place, text), name(place, "Name", text));
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert("x-amz-copy-source", value);
    }
    let _ = sources(place, &mut headers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::UpstreamConfig;

    fn place(prefix: &str) -> Place {
        let (endpoint, bucket_prefix) = ("http://127.0.0.1".into(), prefix.into());
        Place::new(&UpstreamConfig { endpoint, bucket_prefix, ..UpstreamConfig::default() }).unwrap()
    }

    fn copied(place: &Place, source: &'static str) -> Result<String, String> {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-copy-source", HeaderValue::from_static(source));
        sources(place, &mut headers).map(|()| headers["x-amz-copy-source"].to_str().unwrap().to_owned())
    }

    #[test]
    fn a_copy_comes_from_our_bucket_however_it_is_written() {
        let mapped = place("acme-");
        for source in ["/studio/a%20b?versionId=1", "studio/a%20b?versionId=1"] {
            assert_eq!(copied(&mapped, source).as_deref(), Ok("acme-studio/a%20b?versionId=1"));
        }
        for other in ["arn:aws:s3:us-east-1:1:accesspoint/x/object/y", "studio", "%2Fstudio%2Fk"] {
            assert!(copied(&mapped, other).is_err(), "{other}");
        }
        assert_eq!(copied(&place(""), "/studio/k").as_deref(), Ok("/studio/k"));
    }

    #[tokio::test]
    async fn answers_name_buckets_as_they_are_called_here_and_only_ours() {
        let mapped = place("acme-");
        let said = async |operation: &str, xml: &'static str| {
            let answered = answer(&mapped, operation, Response::new(Body::from(xml))).await.unwrap();
            let length =
                answered.headers().get(header::CONTENT_LENGTH).map(|length| length.to_str().unwrap().to_owned());
            let bytes = gather(answered, ANSWER_BYTES_MAX).await.unwrap();
            assert!(length.is_none_or(|length| length == bytes.len().to_string()));
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        let buckets =
            "<Buckets><Bucket><Name>acme-studio</Name></Bucket><Bucket><Name>payroll</Name></Bucket></Buckets>";
        assert_eq!(said("ListBuckets", buckets).await, "<Buckets><Bucket><Name>studio</Name></Bucket></Buckets>");
        let keys = "<L><Name>acme-studio</Name><Contents><Key>acme-studio</Key></Contents></L>";
        assert_eq!(said("ListObjectsV2", keys).await, keys.replacen("acme-", "", 1));
        assert_eq!(said("GetObject", keys).await, keys, "an object's own bytes stay");
    }
}
