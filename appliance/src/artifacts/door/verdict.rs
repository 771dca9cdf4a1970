//! What trouble with the other S3 is called: in S3's words, and in those of the http door.

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use s3s::{S3Error, S3ErrorCode};

use super::send::Trouble;
use crate::artifacts::api_s3;
use crate::edge::ApiError;

/// When to come again, in seconds.
const AGAIN_S: u32 = 5;

impl Trouble {
    pub(super) fn to_s3(&self) -> S3Error {
        let text = self.to_string();
        match self {
            Self::Body(fault) => api_s3::body_error(fault),
            Self::Request(_) => S3Error::with_message(S3ErrorCode::InvalidRequest, text),
            // Not a redirect: a client that followed it would go round this door, with a key that is not known there.
            Self::Elsewhere { .. } => S3Error::with_message(S3ErrorCode::InvalidRequest, text),
            Self::Busy => later(S3ErrorCode::SlowDown, text),
            Self::Away { .. } | Self::Silent { .. } | Self::NoCredentials { .. } | Self::Unsigned { .. } => {
                later(S3ErrorCode::ServiceUnavailable, text)
            }
        }
    }

    pub(super) fn to_api(&self) -> ApiError {
        let text = self.to_string();
        match self {
            Self::Body(_) | Self::Request(_) => ApiError::bad_request(text),
            Self::Elsewhere { .. } => ApiError::new(StatusCode::BAD_GATEWAY, "upstream_elsewhere", text),
            Self::Busy => ApiError::unavailable("upstream_busy", text, AGAIN_S),
            Self::Away { .. } | Self::Silent { .. } => ApiError::unavailable("upstream_away", text, AGAIN_S)
                .hint("`backlot check-config --upstream` says what is wrong with it"),
            Self::NoCredentials { .. } | Self::Unsigned { .. } => {
                ApiError::unavailable("upstream_credentials", text, AGAIN_S)
                    .hint("`backlot check-config --upstream` says what is wrong with it")
            }
        }
    }
}

fn later(code: S3ErrorCode, text: String) -> S3Error {
    let mut error = S3Error::with_message(code, text);
    error.set_status_code(StatusCode::SERVICE_UNAVAILABLE);
    let mut headers = HeaderMap::new();
    headers.insert(RETRY_AFTER, AGAIN_S.into());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    error.set_headers(headers);
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_of_the_other_s3_asks_to_come_again_and_that_of_a_body_is_the_callers() {
        let away = Trouble::Away { place: "http://ceph:80".into(), problem: "refused".into() }.to_s3();
        assert_eq!(away.status_code(), Some(StatusCode::SERVICE_UNAVAILABLE));
        assert!(away.message().unwrap().contains("http://ceph:80"));
        let code = |text: &str| Trouble::Body(text.into()).to_s3().code().as_str().to_owned();
        assert_eq!(code("UploadStreamError: Sha256Mismatch"), "XAmzContentSHA256Mismatch");
        assert_eq!(code("AwsChunkedStreamError: SignatureMismatch"), "SignatureDoesNotMatch");
        assert_eq!(code("3 bytes did not come"), "IncompleteBody");
        assert_eq!(Trouble::Busy.to_api().retry_after_s, Some(AGAIN_S));
    }
}
