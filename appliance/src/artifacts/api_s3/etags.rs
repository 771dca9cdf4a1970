//! The one answer whose `ETag` has no quotes: GetObjectAttributes says it so in its XML, where s3s writes quotes everywhere.

use axum::body::Body;
use http::{HeaderValue, header};

use crate::edge::Response;

/// Largest answer that is looked at: a thousand parts with a checksum each are under 300 KiB.
const BYTES_MAX: usize = 1 << 20;

/// The operation whose answers this is for.
pub(super) const OPERATION: &str = "GetObjectAttributes";

/// Takes the quotes away. What is no XML with an ETag stays as it is.
pub(super) async fn without_quotes(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    let bytes = match axum::body::to_bytes(body, BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(error) => {
            tracing::warn!(%error, "could not read an answer that s3s has written");
            return Response::new(Body::empty());
        }
    };
    let text = String::from_utf8_lossy(&bytes);
    let plain = ["&quot;", "\""].into_iter().fold(text.into_owned(), |text, quote| {
        text.replace(&format!("<ETag>{quote}"), "<ETag>").replace(&format!("{quote}</ETag>"), "</ETag>")
    });
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(plain.len()));
    }
    Response::from_parts(parts, Body::from(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_etag_alone_loses_its_quotes() {
        for quote in ["\"", "&quot;"] {
            let body = format!("<A><ETag>{quote}ab-2{quote}</ETag><Other>{quote}</Other></A>");
            let length = HeaderValue::from(body.len());
            let mut response = Response::new(Body::from(body));
            response.headers_mut().insert(header::CONTENT_LENGTH, length);
            let response = without_quotes(response).await;
            let length = response.headers()[header::CONTENT_LENGTH].clone();
            let bytes = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
            assert_eq!(bytes, format!("<A><ETag>ab-2</ETag><Other>{quote}</Other></A>"));
            assert_eq!(length, HeaderValue::from(bytes.len()));
        }
    }
}
