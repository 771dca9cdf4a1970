//! Cross-origin requests: a bucket's rules, preflights, and the headers of answers to browsers.
//!
//! A preflight is nobody's: it needs no signature and tells nothing of the bucket but its rules. An answer gets its headers after the
//! operation, errors too, so that a page can read why it was refused.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use s3s::dto::*;
use s3s::{S3Error, S3Request, S3Response, S3Result, s3_error};

use super::convert::{self, error};
use super::stored::{self, Stored};
use crate::artifacts::Artifacts;
use crate::artifacts::documents::DocumentKind;
use crate::policy::Pattern;

/// Most rules (S3).
const RULES_MAX: usize = 100;
const METHODS: [&str; 5] = ["GET", "PUT", "HEAD", "POST", "DELETE"];

pub(super) async fn put(
    artifacts: &Artifacts,
    request: S3Request<PutBucketCorsInput>,
) -> S3Result<S3Response<PutBucketCorsOutput>> {
    let input = request.input;
    check(&input.cors_configuration)?;
    stored::keep(artifacts, &input.bucket, DocumentKind::Cors, &input.cors_configuration).await?;
    Ok(S3Response::new(PutBucketCorsOutput::default()))
}

pub(super) async fn get(
    artifacts: &Artifacts,
    request: S3Request<GetBucketCorsInput>,
) -> S3Result<S3Response<GetBucketCorsOutput>> {
    let none = ("NoSuchCORSConfiguration", "The CORS configuration does not exist");
    let held: CORSConfiguration = stored::required(artifacts, &request.input.bucket, DocumentKind::Cors, none)?;
    Ok(S3Response::new(GetBucketCorsOutput { cors_rules: Some(held.cors_rules) }))
}

pub(super) async fn delete(
    artifacts: &Artifacts,
    request: S3Request<DeleteBucketCorsInput>,
) -> S3Result<S3Response<DeleteBucketCorsOutput>> {
    stored::forget(artifacts, &request.input.bucket, DocumentKind::Cors).await?;
    Ok(S3Response::new(DeleteBucketCorsOutput::default()))
}

fn check(configuration: &CORSConfiguration) -> S3Result<()> {
    let rules = &configuration.cors_rules;
    if rules.is_empty() || rules.len() > RULES_MAX {
        return Err(s3_error!(MalformedXML, "a CORS configuration has 1 to {RULES_MAX} rules"));
    }
    for rule in rules {
        if rule.allowed_methods.is_empty() || rule.allowed_origins.is_empty() {
            return Err(s3_error!(MalformedXML, "a CORS rule has a method and an origin at least"));
        }
        if let Some(method) = rule.allowed_methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
            return Err(s3_error!(
                InvalidRequest,
                "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
            ));
        }
        let headers = rule.allowed_headers.iter().flatten();
        let twice = |text: &&String| text.matches('*').count() > 1;
        if let Some(wild) = rule.allowed_origins.iter().chain(headers).find(twice) {
            return Err(s3_error!(InvalidRequest, "`{wild}` can not have more than one wildcard."));
        }
        if let Some(exposed) = rule.expose_headers.iter().flatten().find(|name| HeaderName::try_from(*name).is_err()) {
            return Err(s3_error!(InvalidRequest, "ExposeHeader `{exposed}` is no header's name"));
        }
        if rule.max_age_seconds.is_some_and(i32::is_negative) {
            return Err(s3_error!(MalformedXML, "MaxAgeSeconds is not negative"));
        }
    }
    Ok(())
}

/// What a browser asks before, or says with, a request.
struct Asked<'a> {
    origin: &'a str,
    method: &'a str,
    /// Headers that it wants to send; empty for a request itself.
    headers: Vec<&'a str>,
}

impl Asked<'_> {
    fn is_met_by(&self, rule: &CORSRule) -> bool {
        let like = |pattern: &str, text: &str| Pattern::new(pattern.to_owned()).matches(text);
        let allowed = |name: &&str| {
            let name = name.to_ascii_lowercase();
            rule.allowed_headers.iter().flatten().any(|pattern| like(&pattern.to_ascii_lowercase(), &name))
        };
        rule.allowed_origins.iter().any(|pattern| like(pattern, self.origin))
            && rule.allowed_methods.iter().any(|method| method == self.method)
            && self.headers.iter().all(allowed)
    }

    /// What an answer says by the first rule that it meets.
    fn answer(&self, rule: &CORSRule) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut set = |name: HeaderName, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        if rule.allowed_origins.iter().any(|origin| origin == "*") {
            set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
        } else {
            set(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.origin);
            set(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        }
        set(header::ACCESS_CONTROL_ALLOW_METHODS, &rule.allowed_methods.join(", "));
        if !self.headers.is_empty() {
            set(header::ACCESS_CONTROL_ALLOW_HEADERS, &self.headers.join(", ").to_ascii_lowercase());
        }
        if let Some(names) = rule.expose_headers.as_ref().filter(|names| !names.is_empty()) {
            set(header::ACCESS_CONTROL_EXPOSE_HEADERS, &names.join(", "));
        }
        if let Some(seconds) = rule.max_age_seconds {
            set(header::ACCESS_CONTROL_MAX_AGE, &seconds.to_string());
        }
        set(header::VARY, "Origin, Access-Control-Request-Headers, Access-Control-Request-Method");
        headers
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn meeting(artifacts: &Artifacts, bucket: &str, asked: &Asked<'_>) -> S3Result<Option<HeaderMap>> {
    let Some(stored) = Stored::of(artifacts, bucket, DocumentKind::Cors).map_err(error)? else { return Ok(None) };
    let configuration = stored.value::<CORSConfiguration>().map_err(error)?;
    let rule = configuration.cors_rules.iter().find(|rule| asked.is_met_by(rule));
    Ok(rule.map(|rule| asked.answer(rule)))
}

/// Answers an `OPTIONS`: the headers of a 200.
pub(super) fn preflight(artifacts: &Artifacts, bucket: Option<&str>, headers: &HeaderMap) -> S3Result<HeaderMap> {
    let Some(origin) = text(headers, header::ORIGIN) else {
        return Err(bad_request("Insufficient information. Origin request header needed."));
    };
    let method = text(headers, header::ACCESS_CONTROL_REQUEST_METHOD).filter(|method| METHODS.contains(method));
    let Some(method) = method else {
        return Err(bad_request("Invalid Access-Control-Request-Method"));
    };
    let wanted = text(headers, header::ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or_default();
    let wanted = wanted.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    let asked = Asked { origin, method, headers: wanted };
    let met = bucket.map_or(Ok(None), |bucket| meeting(artifacts, bucket, &asked))?;
    met.ok_or_else(|| {
        let text = "CORSResponse: This CORS request is not allowed. This is usually because the evalution of Origin, request method / Access-Control-Request-Method or Access-Control-Request-Headers are not whitelisted by the resource's CORS spec.";
        convert::custom("AccessForbidden", StatusCode::FORBIDDEN, text.into())
    })
}

fn bad_request(message: &str) -> S3Error {
    convert::custom("BadRequest", StatusCode::BAD_REQUEST, message.into())
}

/// A request whose answer a browser may be waiting for.
pub(super) struct CrossOrigin {
    bucket: String,
    origin: String,
    method: Method,
}

impl CrossOrigin {
    /// `None` where no page asks.
    pub(super) fn of(bucket: Option<&str>, method: &Method, headers: &HeaderMap) -> Option<Self> {
        let origin = text(headers, header::ORIGIN)?.to_owned();
        Some(Self { bucket: bucket?.to_owned(), origin, method: method.clone() })
    }

    /// Adds what the bucket's rules allow its page.
    pub(super) fn answer(&self, artifacts: &Artifacts, headers: &mut HeaderMap) {
        let asked = Asked { origin: &self.origin, method: self.method.as_str(), headers: Vec::new() };
        if let Ok(Some(allowed)) = meeting(artifacts, &self.bucket, &asked) {
            headers.extend(allowed);
        }
    }
}

/// For fuzzing.
pub(super) fn fuzz(configuration: &CORSConfiguration, text: &str) {
    let _ = check(configuration);
    let asked = Asked { origin: text, method: "GET", headers: text.split(',').collect() };
    for rule in &configuration.cors_rules {
        let _ = (asked.is_met_by(rule), asked.answer(rule));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(origins: &[&str], methods: &[&str], headers: &[&str]) -> CORSRule {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        CORSRule {
            allowed_headers: Some(owned(headers)),
            allowed_methods: owned(methods),
            allowed_origins: owned(origins),
            expose_headers: Some(owned(&["ETag"])),
            id: None,
            max_age_seconds: Some(60),
        }
    }

    #[test]
    fn a_rule_is_met_by_origin_method_and_every_header() {
        let rule =
            rule(&["https://*.studio.example", "http://localhost:3000"], &["GET", "PUT"], &["x-amz-*", "Content-Type"]);
        let asked = |origin, method, headers: &[&'static str]| Asked { origin, method, headers: headers.to_vec() };
        assert!(asked("https://a.studio.example", "GET", &[]).is_met_by(&rule));
        assert!(asked("http://localhost:3000", "PUT", &["X-Amz-Meta-Shot", "content-type"]).is_met_by(&rule));
        assert!(!asked("http://localhost:3000", "PUT", &["authorization"]).is_met_by(&rule));
        assert!(!asked("http://localhost:3000", "DELETE", &[]).is_met_by(&rule));
        assert!(!asked("https://studio.example", "GET", &[]).is_met_by(&rule));
        let headers = asked("http://localhost:3000", "GET", &[]).answer(&rule);
        assert_eq!(headers["access-control-allow-origin"], "http://localhost:3000");
        assert_eq!(headers["access-control-allow-methods"], "GET, PUT");
        assert_eq!(headers["access-control-expose-headers"], "ETag");
    }

    #[test]
    fn rules_that_browsers_could_not_use_are_refused() {
        let check = |rule| check(&CORSConfiguration { cors_rules: vec![rule] });
        assert!(check(rule(&["*"], &["GET"], &["*"])).is_ok());
        assert!(check(rule(&["*.*"], &["GET"], &[])).is_err());
        assert!(check(rule(&["*"], &["OPTIONS"], &[])).is_err());
        assert!(check(rule(&[], &["GET"], &[])).is_err());
        assert!(super::check(&CORSConfiguration { cors_rules: vec![rule(&["*"], &["GET"], &[]); 101] }).is_err());
    }
}
