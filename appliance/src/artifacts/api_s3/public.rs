//! What nobody in particular may read: for websites, and for the public door that a CDN takes its objects from.
//!
//! A request is taken apart and made anew without whatever names a caller: it is answered like an unsigned GET, and an object that
//! everybody may not read is not there for it.

use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};

use super::access_log::Logged;
use super::hosts::Named;
use super::{Service, convert, faulty, written};
use crate::artifacts::access::{Action, Ask, Caller};
use crate::edge::{OperationCell, Peer, Request, Response, S3Door};

/// Headers of a read that are passed on.
const PASSED: [header::HeaderName; 7] = [
    header::RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::USER_AGENT,
    header::REFERER,
];

impl Service {
    /// Reads an object as nobody.
    pub(super) async fn as_nobody(&self, head: &Parts, bucket: &str, key: &str) -> Response {
        let path = format!("/{bucket}/{}", convert::plain_path(key));
        let Ok(mut request) =
            http::Request::builder().method(head.method.clone()).uri(path).body(axum::body::Body::empty())
        else {
            return faulty();
        };
        for name in PASSED {
            if let Some(value) = head.headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        // A range of other bytes than the caller has begun with would be half of each.
        if let Some(tag) = head.headers.get(header::IF_RANGE) {
            let current = self.artifacts.head(bucket, key).map(|row| format!("\"{}\"", row.etag));
            if !current.is_ok_and(|current| tag == current.as_str()) {
                request.headers_mut().remove(header::RANGE);
            }
        }
        // A host that is no bucket's: the path has it.
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("127.0.0.1"));
        if let Some(peer) = head.extensions.get::<Peer>() {
            request.extensions_mut().insert(*peer);
        }
        if let Some(cell) = head.extensions.get::<OperationCell>() {
            request.extensions_mut().insert(cell.clone());
        }
        self.operate(request).await
    }

    /// Whether everybody may read an object that is there.
    pub(super) fn is_open(&self, bucket: &str, key: &str) -> bool {
        let Some(action) = Action::of("GetObject") else { return false };
        let (caller, values) = (Caller::default(), |_: &str| Vec::new());
        let ask = Ask { caller: &caller, action, bucket, key: Some(key), version: None, values: &values };
        self.artifacts.head(bucket, key).is_ok() && self.artifacts.permit(&ask).is_ok()
    }
}

/// The public door: objects that everybody may read, and websites.
pub(super) struct PublicDoor(pub(super) Service);

impl S3Door for PublicDoor {
    fn call(&self, mut request: Request) -> BoxFuture<'static, Response> {
        let service = self.0.clone();
        Box::pin(async move {
            let (host, path) = (super::host_of(&request), request.uri().path().to_owned());
            let named = service.hosts.named(&host);
            if let Named::Website(bucket) = &named {
                return service.page(bucket, request).await;
            }
            let decoded =
                percent_encoding::percent_decode_str(path.trim_start_matches('/')).decode_utf8_lossy().into_owned();
            let (bucket, key) = match named {
                Named::Bucket(bucket) => (bucket, decoded),
                _ => {
                    let (bucket, key) = decoded.split_once('/').unwrap_or((&decoded, ""));
                    (bucket.to_owned(), key.to_owned())
                }
            };
            if request.method() == Method::OPTIONS {
                return service.preflight(Some(&bucket), &request);
            }
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                let text = "this door reads objects, and nothing else";
                return written(Err(convert::custom("MethodNotAllowed", StatusCode::METHOD_NOT_ALLOWED, text.into())));
            }
            if key.is_empty() {
                return written(Err(convert::custom("AccessDenied", StatusCode::FORBIDDEN, "Access Denied".into())));
            }
            let logged = Logged::of(&service.artifacts, Some(&bucket), Some(&key), &mut request);
            let head = request.into_parts().0;
            let page = super::CrossOrigin::of(Some(&bucket), &head.method, &head.headers);
            let mut response = service.as_nobody(&head, &bucket, &key).await;
            if let Some(page) = page {
                page.answer(&service.artifacts, response.headers_mut());
            }
            service.log(logged, response)
        })
    }
}
