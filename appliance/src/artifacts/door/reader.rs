//! What the http door and the maker of previews read of the other S3, and the little they write.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use super::Upstream;
use super::keyring::Payload;
use super::place::{self, Named};
use super::send::{Call, Trouble};
use backlot_wire::Timestamp;

/// Most of a list that is read: 1,000 keys of 1,024 bytes, each of which may be written as six.
const LIST_BYTES_MAX: usize = 16 << 20;
/// Most of an error.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Why something could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Trouble(#[from] Trouble),
    /// The other S3 says no, or not so.
    #[error("the other S3 answered {status}{}", .code.as_ref().map(|code| format!(" ({code})")).unwrap_or_default())]
    Refused { status: StatusCode, code: Option<String>, headers: Box<HeaderMap> },
    #[error("the other S3's answer cannot be read: {0}")]
    Unreadable(String),
}

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) size: u64,
    /// Without its quotes.
    pub(super) etag: String,
    pub(super) modified: Timestamp,
    pub(super) storage_class: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Page {
    pub(super) entries: Vec<Entry>,
    pub(super) prefixes: Vec<String>,
    /// Asks for the next page.
    pub(super) next: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    /// In whatever order they come.
    #[serde(rename = "$value", default)]
    parts: Vec<ListedPart>,
}

#[derive(Deserialize)]
enum ListedPart {
    Contents(ListedObject),
    CommonPrefixes(ListedPrefix),
    IsTruncated(bool),
    NextContinuationToken(String),
    EncodingType(String),
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedObject {
    key: String,
    #[serde(default)]
    size: u64,
    #[serde(rename = "ETag", default)]
    etag: String,
    #[serde(default)]
    last_modified: String,
    storage_class: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedPrefix {
    #[serde(default)]
    prefix: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Buckets {
    #[serde(default)]
    buckets: BucketList,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BucketList {
    #[serde(default)]
    bucket: Vec<ListedBucket>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListedBucket {
    name: String,
    #[serde(default)]
    creation_date: String,
}

impl Upstream {
    /// Reads an object or its head: any status that is no error.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(in crate::artifacts) async fn object(
        &self,
        method: Method,
        bucket: &str,
        key: &str,
        headers: HeaderMap,
    ) -> Result<Response<Body>, ReadError> {
        let mut call = Call::read(method, Named::object(bucket, key), String::new());
        call.headers = headers;
        self.good(call).await
    }

    /// Buckets that are this appliance's to show, by the names that they have here.
    pub(super) async fn buckets(&self) -> Result<Vec<(String, Timestamp)>, ReadError> {
        let answer = self.good(Call::read(Method::GET, Named::default(), String::new())).await?;
        let buckets = read_buckets(&gather(answer, LIST_BYTES_MAX).await?)?;
        let place = &self.0.sender.place;
        let here = |(name, made): (String, Timestamp)| Some((place.bucket_here(&name)?.to_owned(), made));
        Ok(buckets.into_iter().filter_map(here).collect())
    }

    /// A page of a bucket's objects.
    pub(super) async fn list(
        &self,
        bucket: &str,
        prefix: &str,
        delimiter: Option<&str>,
        after: Option<&str>,
        max: usize,
    ) -> Result<Page, ReadError> {
        let max = max.to_string();
        let asked = [
            ("list-type", Some("2")),
            ("encoding-type", Some("url")),
            ("max-keys", Some(max.as_str())),
            ("prefix", Some(prefix)),
            ("delimiter", delimiter),
            ("continuation-token", after),
        ];
        let pair = |(name, value): (&str, Option<&str>)| Some(format!("{name}={}", place::encode(value?)));
        let query = asked.into_iter().filter_map(pair).collect::<Vec<_>>().join("&");
        let answer = self.good(Call::read(Method::GET, Named::bucket(bucket), query)).await?;
        read_page(&gather(answer, LIST_BYTES_MAX).await?)
    }

    /// Puts a small object.
    ///
    /// # Errors
    /// [`ReadError`].
    pub(in crate::artifacts) async fn put_small(
        &self,
        bucket: &str,
        key: &str,
        headers: HeaderMap,
        bytes: Bytes,
    ) -> Result<(), ReadError> {
        let mut call = Call::read(Method::PUT, Named::object(bucket, key), String::new());
        call.headers = headers;
        call.payload = Some(Payload::of(&bytes));
        let length = bytes.len() as u64;
        call.body = Some((Body::from(bytes), length));
        self.good(call).await.map(drop)
    }

    async fn good(&self, call: Call) -> Result<Response<Body>, ReadError> {
        let answer = self.0.sender.send(call).await.inspect_err(|trouble| {
            if trouble.is_general() {
                self.learn(Some(trouble));
            }
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let headers = Box::new(answer.headers().clone());
        let xml = gather(answer, ERROR_BYTES_MAX).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&xml);
        let code =
            text.split_once("<Code>").and_then(|(_, rest)| rest.split_once('<')).map(|(code, _)| code.to_owned());
        Err(ReadError::Refused { status, code, headers })
    }
}

/// All of an answer that is known to be small.
pub(in crate::artifacts) async fn gather(answer: Response<Body>, bytes_max: usize) -> Result<Bytes, ReadError> {
    let read = Limited::new(answer.into_body(), bytes_max).collect().await;
    Ok(read.map_err(|error| ReadError::Unreadable(error.to_string()))?.to_bytes())
}

fn xml<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, ReadError> {
    quick_xml::de::from_reader(bytes).map_err(|error| ReadError::Unreadable(error.to_string()))
}

fn read_buckets(bytes: &[u8]) -> Result<Vec<(String, Timestamp)>, ReadError> {
    let read: Buckets = xml(bytes)?;
    let bucket = |bucket: ListedBucket| (bucket.name, moment(&bucket.creation_date));
    Ok(read.buckets.bucket.into_iter().map(bucket).collect())
}

fn read_page(bytes: &[u8]) -> Result<Page, ReadError> {
    let read: Listed = xml(bytes)?;
    let encoding =
        |part: &ListedPart| matches!(part, ListedPart::EncodingType(kind) if kind.eq_ignore_ascii_case("url"));
    let is_url = read.parts.iter().any(encoding);
    let name = |name: String| match is_url {
        true => percent_decode_str(&name.replace('+', " ")).decode_utf8_lossy().into_owned(),
        false => name,
    };
    let (mut page, mut is_truncated) = (Page::default(), false);
    for part in read.parts {
        match part {
            ListedPart::Contents(object) => page.entries.push(Entry {
                key: name(object.key),
                size: object.size,
                etag: object.etag.trim_matches('"').to_owned(),
                modified: moment(&object.last_modified),
                storage_class: object.storage_class.unwrap_or_else(|| "STANDARD".to_owned()),
            }),
            ListedPart::CommonPrefixes(common) => page.prefixes.push(name(common.prefix)),
            ListedPart::IsTruncated(truncated) => is_truncated = truncated,
            ListedPart::NextContinuationToken(token) => page.next = Some(token),
            ListedPart::EncodingType(_) | ListedPart::Other => {}
        }
    }
    page.next = page.next.filter(|_| is_truncated);
    Ok(page)
}

/// `2026-11-22T12:00:00.000Z`; the beginning of time for what is none.
fn moment(text: &str) -> Timestamp {
    let read = time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
    let unix_ms = read.map(|moment| moment.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    Timestamp(u64::try_from(unix_ms).unwrap_or_default())
}

/// For fuzzing.
pub(super) fn fuzz(bytes: &[u8]) {
    let _ = (read_page(bytes), read_buckets(bytes));
}

/// A header as text.
pub(in crate::artifacts) fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_with_whatever_its_keys_hold() {
        let page = br#"<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
            <Name>b</Name><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
            <NextContinuationToken>abc=</NextContinuationToken>
            <Contents><Key>a+b%2Bc%01%C3%A9</Key><LastModified>2026-11-22T12:00:01.500Z</LastModified>
              <ETag>&quot;ab&quot;</ETag><Size>7</Size><StorageClass>GLACIER</StorageClass></Contents>
            <CommonPrefixes><Prefix>x%2Fy/</Prefix></CommonPrefixes>
            <Contents><Key>z</Key></Contents></ListBucketResult>"#;
        let read = read_page(page).unwrap();
        assert_eq!(read.entries[0].key, "a b+c\u{1}é");
        assert_eq!((read.entries[0].size, read.entries[0].etag.as_str()), (7, "ab"));
        assert_eq!(
            (read.entries[0].storage_class.as_str(), read.entries[1].storage_class.as_str()),
            ("GLACIER", "STANDARD")
        );
        assert_eq!(read.entries[0].modified, Timestamp(1_795_348_801_500));
        assert_eq!((read.entries.len(), read.prefixes.as_slice()), (2, &["x/y/".to_owned()][..]));
        assert_eq!(read.next.as_deref(), Some("abc="));
        assert!(read_page(b"<html>").is_err());
        let empty = read_page(b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>").unwrap();
        assert_eq!(empty, Page::default());
    }

    #[test]
    fn a_list_of_buckets_is_read() {
        let list = b"<ListAllMyBucketsResult><Owner><ID>x</ID></Owner><Buckets><Bucket><Name>a</Name>\
            <CreationDate>2026-11-22T12:00:01Z</CreationDate></Bucket></Buckets></ListAllMyBucketsResult>";
        assert_eq!(read_buckets(list).unwrap(), [("a".to_owned(), Timestamp(1_795_348_801_000))]);
        assert!(read_buckets(b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>").unwrap().is_empty());
    }
}
