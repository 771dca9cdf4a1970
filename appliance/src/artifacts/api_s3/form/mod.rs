//! POST-object forms: what a browser sends without a client of S3.
//!
//! They are read here and not by s3s, which holds a whole file in memory. The fields come first, within limits; signature, policy and access
//! are checked when they are known, and then the file streams into the store like any put: it is refused as soon as it is longer
//! than the policy or `artifacts.form_bytes_max` lets it be, and stored only when its last boundary has come.
//!
//! A form's fields are what headers are elsewhere; the request's own headers say nothing about the object.

mod policy;
mod reader;

use futures::TryStreamExt;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use s3s::dto::*;
use s3s::xml::{Serialize, Serializer};
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::hosts::Named;
use super::{Service, convert, host_of, notification, stored, tagging, written};
use crate::artifacts::access::{Action, On, Permissions};
use crate::artifacts::model::check_key;
use crate::edge::{OperationCell, Request, Response};
pub(super) use policy::Bounds;
use reader::{Fields, Problem, Reader};

/// What a form's file is called in its other fields.
const FILENAME: &str = "${filename}";
/// What stays as it is in the query of a redirect.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Service {
    pub(super) async fn form(&self, request: Request) -> Response {
        // A put's whole state, which every other request would carry with it.
        match Box::pin(self.post(request)).await {
            Ok(response) => response,
            Err(refusal) => written(Err(refusal)),
        }
    }

    async fn post(&self, request: Request) -> S3Result<Response> {
        if let Some(cell) = request.extensions().get::<OperationCell>() {
            cell.set("PostObject");
        }
        let host = host_of(&request);
        let bucket = self.bucket_of_form(&host, request.uri().path())?;
        let (parts, body) = request.into_parts();
        let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let boundary = reader::boundary(kind).ok_or_else(|| refused(Problem::Malformed))?;
        let mut reader = Reader::new(body.into_data_stream(), boundary);
        let mut fields = reader.fields().await.map_err(refused)?;
        fill_in(&mut fields);

        let key = fields.get("key").unwrap_or_default().to_owned();
        if key.is_empty() {
            return Err(s3_error!(
                InvalidArgument,
                "Bucket POST must contain a field named 'key', of one byte at least."
            ));
        }
        check_key(&key).map_err(convert::error)?;
        let (now_ms, bytes_max) = (self.artifacts.now().wall_ms, self.artifacts.0.config.form_bytes_max);
        let admitted = policy::admit(&fields, &bucket, &*self.secrets, now_ms, bytes_max).await?;
        let mut extensions = parts.extensions;
        let asking = self.access.admit("PostObject", admitted.key_id.as_deref(), &mut extensions)?;
        let headers = headers(&fields, &parts.headers)?;
        convert::refuse_unserved(&headers)?;
        let facts = asking.facts(&headers, "");
        self.access.check_owner(&facts, &bucket)?;
        let put = Action { name: "s3:PutObject", on: On::ObjectOfBucket(Permissions::WRITE) };
        self.access.permit(&facts, put, &bucket, Some(&key), None)?;
        self.access.permit_also(&facts, &bucket, &key)?;
        extensions.insert(admitted.bytes);

        let file = reader.file().map_ok(Frame::data);
        let body = s3s::Body::http_body_unsync(StreamBody::new(Box::pin(file)));
        let input = input(&fields, &headers, &bucket, &key, StreamingBlob::from(body))?;
        let request = S3Request {
            input,
            method: parts.method,
            uri: parts.uri,
            headers,
            extensions,
            credentials: None,
            region: None,
            service: None,
            trailing_headers: None,
        };
        let stored = notification::put_object(&self.artifacts, request).await?;
        answer(&fields, &host, &bucket, &key, stored)
    }

    /// A form is posted to a bucket, whichever way that is named.
    fn bucket_of_form(&self, host: &str, path: &str) -> S3Result<String> {
        let path = percent_encoding::percent_decode_str(path.trim_matches('/')).decode_utf8_lossy().into_owned();
        match (self.hosts.named(host), path.as_str()) {
            (Named::Bucket(bucket), "") => Ok(bucket),
            (Named::Nothing, bucket) if !bucket.is_empty() && !bucket.contains('/') => Ok(bucket.to_owned()),
            _ => Err(s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource.")),
        }
    }
}

fn refused(problem: Problem) -> s3s::S3Error {
    let text = problem.to_string();
    match problem {
        Problem::Malformed | Problem::Ended => s3_error!(MalformedPOSTRequest, "{text}"),
        Problem::TooLong => convert::custom("MaxPostPreDataLengthExceeded", StatusCode::BAD_REQUEST, text),
        Problem::Twice(_) => s3_error!(InvalidArgument, "{text}"),
        Problem::Body(_) => s3_error!(IncompleteBody, "the body broke off: {text}"),
    }
}

/// Puts the file's name where fields ask for it; not into what is signed.
fn fill_in(fields: &mut Fields) {
    let filename = fields.filename.clone();
    for (name, value) in fields.iter_mut() {
        let is_signed = matches!(name, "policy" | "signature" | "awsaccesskeyid")
            || matches!(name, "x-amz-signature" | "x-amz-credential" | "x-amz-date" | "x-amz-algorithm");
        if !is_signed && value.contains(FILENAME) {
            *value = value.replace(FILENAME, &filename);
        }
    }
}

/// The headers that a put with these fields would have.
fn headers(fields: &Fields, sent: &HeaderMap) -> S3Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for name in [header::HOST, header::USER_AGENT, header::REFERER] {
        if let Some(value) = sent.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    let mut set = |name: &str, value: &str| {
        let wrong = || s3_error!(InvalidArgument, "the field `{name}` has characters that no header has");
        let value = HeaderValue::from_str(value).or_else(|_| HeaderValue::from_bytes(value.as_bytes()));
        let name = HeaderName::try_from(name).map_err(|_| wrong())?;
        headers.insert(name, value.map_err(|_| wrong())?);
        Ok::<_, s3s::S3Error>(())
    };
    for (name, value) in fields.iter() {
        match name {
            "acl" => set("x-amz-acl", value)?,
            "tagging" => {
                let tags = stored::read::<Tagging>(value.as_bytes());
                let tags = tags.map_err(|_| s3_error!(MalformedXML, "the field `tagging` is no XML of tags"))?;
                set("x-amz-tagging", &tagging::as_header(&tags))?;
            }
            "content-md5" | "if-match" | "if-none-match" => set(name, value)?,
            "x-amz-algorithm" | "x-amz-credential" | "x-amz-date" | "x-amz-signature" => {}
            _ if name.starts_with("x-amz-") => set(name, value)?,
            _ => {}
        }
    }
    Ok(headers)
}

fn input(
    fields: &Fields,
    headers: &HeaderMap,
    bucket: &str,
    key: &str,
    body: StreamingBlob,
) -> S3Result<PutObjectInput> {
    let field = |name: &str| fields.get(name).map(str::to_owned);
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let moment = |name: &str, format: TimestampFormat| match fields.get(name) {
        Some(text) => match Timestamp::parse(format, text) {
            Ok(moment) => Ok(Some(moment)),
            Err(_) => Err(s3_error!(InvalidArgument, "the field `{name}` is no date")),
        },
        None => Ok(None),
    };
    let metadata = fields
        .iter()
        .filter_map(|(name, value)| name.strip_prefix("x-amz-meta-").map(|name| (name.to_owned(), value.to_owned())));
    Ok(PutObjectInput {
        bucket: bucket.to_owned(),
        key: key.to_owned(),
        body: Some(body),
        acl: header("x-amz-acl").map(ObjectCannedACL::from),
        tagging: header("x-amz-tagging"),
        metadata: Some(metadata.collect()),
        cache_control: field("cache-control"),
        content_disposition: field("content-disposition"),
        content_encoding: field("content-encoding"),
        content_language: field("content-language"),
        content_md5: field("content-md5"),
        content_type: field("content-type"),
        expires: moment("expires", TimestampFormat::HttpDate)?,
        checksum_crc32: field("x-amz-checksum-crc32"),
        checksum_crc32c: field("x-amz-checksum-crc32c"),
        checksum_crc64nvme: field("x-amz-checksum-crc64nvme"),
        checksum_sha1: field("x-amz-checksum-sha1"),
        checksum_sha256: field("x-amz-checksum-sha256"),
        grant_full_control: field("x-amz-grant-full-control"),
        grant_read: field("x-amz-grant-read"),
        grant_read_acp: field("x-amz-grant-read-acp"),
        grant_write_acp: field("x-amz-grant-write-acp"),
        object_lock_legal_hold_status: field("x-amz-object-lock-legal-hold").map(ObjectLockLegalHoldStatus::from),
        object_lock_mode: field("x-amz-object-lock-mode").map(ObjectLockMode::from),
        object_lock_retain_until_date: moment("x-amz-object-lock-retain-until-date", TimestampFormat::DateTime)?,
        sse_customer_algorithm: field("x-amz-server-side-encryption-customer-algorithm"),
        sse_customer_key: field("x-amz-server-side-encryption-customer-key"),
        sse_customer_key_md5: field("x-amz-server-side-encryption-customer-key-md5"),
        ssekms_key_id: field("x-amz-server-side-encryption-aws-kms-key-id"),
        server_side_encryption: field("x-amz-server-side-encryption").map(ServerSideEncryption::from),
        storage_class: field("x-amz-storage-class").map(StorageClass::from),
        website_redirect_location: field("x-amz-website-redirect-location"),
        ..Default::default()
    })
}

/// What the form asked to be answered: another page, a document, or nothing.
fn answer(
    fields: &Fields,
    host: &str,
    bucket: &str,
    key: &str,
    stored: S3Response<PutObjectOutput>,
) -> S3Result<Response> {
    let S3Response { output, headers, .. } = stored;
    let mut response = Response::default();
    *response.headers_mut() = headers;
    let etag = output.e_tag.as_ref().map(|tag| format!("\"{}\"", tag.value())).unwrap_or_default();
    let location = format!("http://{host}/{bucket}/{}", convert::plain_path(key));
    let told = [
        (header::ETAG.as_str(), Some(etag.clone())),
        (header::LOCATION.as_str(), Some(location.clone())),
        ("x-amz-version-id", output.version_id),
        ("x-amz-expiration", output.expiration),
        ("x-amz-server-side-encryption", output.server_side_encryption.map(|kind| kind.as_str().to_owned())),
    ];
    for (name, value) in told {
        if let Some(Ok(value)) = value.map(HeaderValue::try_from) {
            response.headers_mut().insert(name, value);
        }
    }
    let redirect = fields.get("success_action_redirect").or(fields.get("redirect"));
    if let Some(to) = redirect.and_then(|to| redirected(to, bucket, key, &etag)) {
        *response.status_mut() = StatusCode::SEE_OTHER;
        response.headers_mut().insert(header::LOCATION, to);
        return Ok(response);
    }
    *response.status_mut() = match fields.get("success_action_status") {
        Some("200") => StatusCode::OK,
        Some("201") => StatusCode::CREATED,
        _ => StatusCode::NO_CONTENT,
    };
    if response.status() == StatusCode::CREATED {
        let told = PostResponse { location: &location, bucket, key, etag: &etag };
        let mut xml = Vec::new();
        let mut serializer = Serializer::new(&mut xml);
        let done = serializer.decl().and_then(|()| told.serialize(&mut serializer));
        done.map_err(|problem| s3_error!(InternalError, "could not write the answer: {problem}"))?;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        *response.body_mut() = xml.into();
    }
    Ok(response)
}

/// Where a browser goes from here, with what was stored in the query. What is no address is as if nothing had been asked for (S3).
fn redirected(to: &str, bucket: &str, key: &str, etag: &str) -> Option<HeaderValue> {
    let uri: http::Uri = to.parse().ok()?;
    uri.authority()?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return None;
    }
    let (to, fragment) = to.split_once('#').map_or((to, String::new()), |(to, rest)| (to, format!("#{rest}")));
    let written = |text: &str| utf8_percent_encode(text, KEPT).to_string();
    let between = if to.contains('?') { '&' } else { '?' };
    let query = format!("bucket={}&key={}&etag={}", written(bucket), written(key), written(etag));
    HeaderValue::try_from(format!("{to}{between}{query}{fragment}")).ok()
}

/// Reads `bytes` as a form in pieces of several sizes, which must not change what is read: for fuzzing.
pub(super) fn fuzz(bytes: &[u8]) {
    let (piece, body) = bytes.split_first().map_or((1, bytes), |(piece, body)| (usize::from(*piece), body));
    let (whole, cut) = (reader::read_all(body, "b", body.len()), reader::read_all(body, "b", piece));
    assert_eq!(whole, cut, "pieces of {piece} bytes change what is read");
    let _ = reader::boundary(&String::from_utf8_lossy(bytes));
    if let Ok((mut fields, _)) = whole {
        fill_in(&mut fields);
        let to = fields.get("success_action_redirect").and_then(|to| redirected(to, "b", "k", "e"));
        assert!(to.is_none_or(|to| to.to_str().is_ok()));
        let _ = headers(&fields, &HeaderMap::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_file_stands_where_it_was_asked_for_and_not_in_what_is_signed() {
        let mut fields = Fields::of(&[
            ("key", "raw/${filename}"),
            ("x-amz-meta-a", "${filename}${filename}"),
            ("policy", "${filename}"),
        ]);
        fill_in(&mut fields);
        assert_eq!(fields.get("key"), Some("raw/shot.png"));
        assert_eq!(fields.get("x-amz-meta-a"), Some("shot.pngshot.png"));
        assert_eq!(fields.get("policy"), Some("${filename}"));
    }

    #[test]
    fn a_redirect_has_what_was_stored_in_its_query_and_is_an_address() {
        let to = |to: &str| redirected(to, "b", "a b/é", "\"e\"").map(|to| to.to_str().unwrap().to_owned());
        let query = "bucket=b&key=a%20b%2F%C3%A9&etag=%22e%22";
        assert_eq!(to("http://x.example/done?a=b#c"), Some(format!("http://x.example/done?a=b&{query}#c")));
        assert_eq!(to("https://x.example"), Some(format!("https://x.example?{query}")));
        for none in ["", "/done", "javascript:alert(1)", "http://x\r\nset-cookie: y", "ftp://x.example/"] {
            assert_eq!(to(none), None, "{none}");
        }
    }

    #[test]
    fn pieces_change_nothing() {
        let form = b"\x03--b\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx\r\n-\r\n--b--\r\n";
        for cut in 0..form.len() {
            fuzz(&form[..cut]);
        }
    }
}
