//! The region that a signature names. Any is taken, since all are this machine; but one that is not written as regions are
//! (`US`, with which s3cmd begins) is answered as AWS answers a wrong one: with the right one, with which the client goes on.

use axum::body::Body;
use http::{HeaderMap, StatusCode, header};

use crate::edge::{Response, Scope};

/// What a client is told to sign for.
const REGION: &str = "us-east-1";

/// The answer to a signature for what cannot be a region.
pub(in crate::artifacts) fn refusal(headers: &HeaderMap) -> Option<Response> {
    let authorization = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    if is_region(signed_for(authorization)?) {
        return None;
    }
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>AuthorizationHeaderMalformed</Code><Message>The \
         authorization header is malformed; the region is wrong; expecting '{REGION}'</Message><Region>{REGION}</Region></Error>"
    );
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/xml"));
    response.headers_mut().insert("x-amz-bucket-region", header::HeaderValue::from_static(REGION));
    Some(response)
}

/// `Credential=KEY/DATE/REGION/SERVICE/aws4_request`.
fn signed_for(authorization: &str) -> Option<&str> {
    let (_, credential) = authorization.strip_prefix("AWS4-HMAC-SHA256")?.split_once("Credential=")?;
    Scope::parse(credential.split(',').next()?.trim()).map(|scope| scope.region)
}

fn is_region(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_region_is_answered_with_the_right_one_and_any_other_header_is_not_judged() {
        let refused = |authorization: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, authorization.parse().unwrap());
            refusal(&headers).map(|answer| answer.status())
        };
        let signed = |region: &str| {
            format!("AWS4-HMAC-SHA256 Credential=k/20261122/{region}/s3/aws4_request,SignedHeaders=host,Signature=0")
        };
        assert_eq!(refused(&signed("US")), Some(StatusCode::BAD_REQUEST));
        assert_eq!(refused(&signed("")), Some(StatusCode::BAD_REQUEST));
        assert_eq!(refused(&signed("eu-central-1")), None);
        for other in ["AWS key:signature", "AWS4-HMAC-SHA256 nonsense", "AWS4-HMAC-SHA256 Credential=k", "Basic eA=="] {
            assert_eq!(refused(other), None, "{other}");
        }
        assert!(refusal(&HeaderMap::new()).is_none());
    }
}
