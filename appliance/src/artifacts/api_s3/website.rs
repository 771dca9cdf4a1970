//! Static websites: a bucket's pages for browsers, asked for at `bucket.s3-website.domain`.
//!
//! A page is read as nobody reads it: what the bucket does not let everybody read is no page. Keys that end with a slash, and the root,
//! are their index document; what is missing is the error document, or redirected by a rule. An object that was put with
//! `x-amz-website-redirect-location` is no page but leads there, for whom it is open.

use axum::body::Body;
use http::{HeaderValue, Method, StatusCode, header};
use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::Service;
use super::access_log::Logged;
use super::convert;
use super::stored::{self, Stored};
use crate::artifacts::Artifacts;
use crate::artifacts::documents::DocumentKind;
use crate::artifacts::model::KEY_BYTES_MAX;
use crate::edge::{Request, Response};

/// Most routing rules (S3).
const RULES_MAX: usize = 50;

pub(super) async fn put(
    artifacts: &Artifacts,
    request: S3Request<PutBucketWebsiteInput>,
) -> S3Result<S3Response<PutBucketWebsiteOutput>> {
    let input = request.input;
    check(&input.website_configuration)?;
    stored::keep(artifacts, &input.bucket, DocumentKind::Website, &input.website_configuration).await?;
    Ok(S3Response::new(PutBucketWebsiteOutput::default()))
}

pub(super) async fn get(
    artifacts: &Artifacts,
    request: S3Request<GetBucketWebsiteInput>,
) -> S3Result<S3Response<GetBucketWebsiteOutput>> {
    let none = ("NoSuchWebsiteConfiguration", "The specified bucket does not have a website configuration");
    let held: WebsiteConfiguration = stored::required(artifacts, &request.input.bucket, DocumentKind::Website, none)?;
    Ok(S3Response::new(GetBucketWebsiteOutput {
        error_document: held.error_document,
        index_document: held.index_document,
        redirect_all_requests_to: held.redirect_all_requests_to,
        routing_rules: held.routing_rules,
    }))
}

pub(super) async fn delete(
    artifacts: &Artifacts,
    request: S3Request<DeleteBucketWebsiteInput>,
) -> S3Result<S3Response<DeleteBucketWebsiteOutput>> {
    stored::forget(artifacts, &request.input.bucket, DocumentKind::Website).await?;
    Ok(S3Response::new(DeleteBucketWebsiteOutput::default()))
}

fn check(configuration: &WebsiteConfiguration) -> S3Result<()> {
    let rules = configuration.routing_rules.as_deref().unwrap_or_default();
    if configuration.redirect_all_requests_to.is_some() {
        if configuration.index_document.is_some() || configuration.error_document.is_some() || !rules.is_empty() {
            return Err(s3_error!(InvalidRequest, "RedirectAllRequestsTo stands alone"));
        }
        return Ok(());
    }
    let index = configuration.index_document.as_ref().map(|index| index.suffix.as_str());
    let Some(index) = index else {
        return Err(s3_error!(
            InvalidArgument,
            "A value for IndexDocument Suffix must be provided if RedirectAllRequestsTo is empty"
        ));
    };
    if index.is_empty() || index.contains('/') {
        return Err(s3_error!(InvalidArgument, "The IndexDocument Suffix is not well formed"));
    }
    let error_key = configuration.error_document.as_ref().map_or(1, |error| error.key.len());
    if !(1..=KEY_BYTES_MAX).contains(&error_key) || index.len() > KEY_BYTES_MAX {
        return Err(s3_error!(InvalidArgument, "a document's name has 1 to {KEY_BYTES_MAX} bytes"));
    }
    if rules.len() > RULES_MAX {
        return Err(s3_error!(
            InvalidRequest,
            "{} routing rules provided, the number of routing rules in a website configuration is limited to {RULES_MAX}.",
            rules.len()
        ));
    }
    for rule in rules {
        let redirect = &rule.redirect;
        if redirect.replace_key_with.is_some() && redirect.replace_key_prefix_with.is_some() {
            return Err(s3_error!(InvalidRequest, "You can only define ReplaceKeyPrefix or ReplaceKey but not both."));
        }
        let code = redirect.http_redirect_code.as_deref().unwrap_or("301");
        if !matches!(code, "301" | "302" | "303" | "304" | "305" | "307" | "308") {
            return Err(s3_error!(InvalidRequest, "The provided HTTP redirect code ({code}) is not valid."));
        }
        if redirect.protocol.as_ref().is_some_and(|protocol| !matches!(protocol.as_str(), "http" | "https")) {
            return Err(s3_error!(
                InvalidRequest,
                "Invalid protocol, protocol can be http or https. If not defined the protocol will be selected automatically."
            ));
        }
    }
    Ok(())
}

impl Service {
    /// Answers a request for a page.
    pub(super) async fn page(&self, bucket: &str, mut request: Request) -> Response {
        let path = request.uri().path().trim_start_matches('/');
        let key = percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned();
        let logged = Logged::of(&self.artifacts, Some(bucket), Some(&key), &mut request).map(Logged::website);
        let response = self.find_page(bucket, &key, request).await;
        self.log(logged, response)
    }

    async fn find_page(&self, bucket: &str, key: &str, request: Request) -> Response {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "pages are read with GET and HEAD");
        }
        let stored = match Stored::of(&self.artifacts, bucket, DocumentKind::Website) {
            Ok(Some(stored)) => stored,
            Ok(None) => {
                return plain(StatusCode::NOT_FOUND, "NoSuchWebsiteConfiguration", "the bucket has no website");
            }
            Err(_) => return plain(StatusCode::NOT_FOUND, "NoSuchBucket", "there is no such bucket"),
        };
        let Ok(website) = stored.value::<WebsiteConfiguration>() else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "the configuration cannot be read");
        };
        let host =
            request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default().to_owned();
        if let Some(all) = &website.redirect_all_requests_to {
            let protocol = all.protocol.as_ref().map_or("http", Protocol::as_str);
            return redirect(StatusCode::MOVED_PERMANENTLY, protocol, &all.host_name, key);
        }
        let index = website.index_document.as_ref().map_or("index.html", |index| index.suffix.as_str());
        let rules = website.routing_rules.as_deref().unwrap_or_default();
        if let Some(rule) = rules.iter().find(|rule| meets(rule, key, None)) {
            return by_rule(rule, &host, key);
        }
        let page = if key.is_empty() || key.ends_with('/') { format!("{key}{index}") } else { key.to_owned() };
        let head = request.into_parts().0;
        let mut response = self.as_nobody(&head, bucket, &page).await;
        if let Some(to) = response.headers().get("x-amz-website-redirect-location").and_then(|to| to.to_str().ok()) {
            return redirect_to(StatusCode::MOVED_PERMANENTLY, to);
        }
        let status = response.status();
        if !status.is_client_error() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return response;
        }
        if page == key && self.is_open(bucket, &format!("{key}/{index}")) {
            return redirect_to(StatusCode::FOUND, &format!("/{}/", convert::plain_path(key)));
        }
        if let Some(rule) = rules.iter().find(|rule| meets(rule, key, Some(status))) {
            return by_rule(rule, &host, key);
        }
        if let Some(document) = &website.error_document {
            response = self.as_nobody(&head, bucket, &document.key).await;
            if response.status() == StatusCode::OK {
                *response.status_mut() = status;
                return response;
            }
        }
        let (code, text) = match status {
            StatusCode::NOT_FOUND => ("NoSuchKey", "The specified key does not exist."),
            _ => ("AccessDenied", "Access Denied"),
        };
        plain(status, code, text)
    }
}

/// Whether a rule is for this key, before it was looked for or after it failed with `status`.
fn meets(rule: &RoutingRule, key: &str, status: Option<StatusCode>) -> bool {
    let condition = rule.condition.as_ref();
    let prefix = condition.and_then(|condition| condition.key_prefix_equals.as_deref()).unwrap_or_default();
    let code = condition.and_then(|condition| condition.http_error_code_returned_equals.as_deref());
    key.starts_with(prefix) && code == status.as_ref().map(StatusCode::as_str)
}

fn by_rule(rule: &RoutingRule, host: &str, key: &str) -> Response {
    let to = &rule.redirect;
    let prefix =
        rule.condition.as_ref().and_then(|condition| condition.key_prefix_equals.as_deref()).unwrap_or_default();
    let key = match (&to.replace_key_with, &to.replace_key_prefix_with) {
        (Some(whole), _) => whole.clone(),
        (None, Some(other)) => format!("{other}{}", key.strip_prefix(prefix).unwrap_or(key)),
        (None, None) => key.to_owned(),
    };
    let status = to.http_redirect_code.as_deref().and_then(|code| code.parse().ok());
    let protocol = to.protocol.as_ref().map_or("http", Protocol::as_str);
    redirect(status.unwrap_or(StatusCode::MOVED_PERMANENTLY), protocol, to.host_name.as_deref().unwrap_or(host), &key)
}

fn redirect(status: StatusCode, protocol: &str, host: &str, key: &str) -> Response {
    redirect_to(status, &format!("{protocol}://{host}/{}", convert::plain_path(key)))
}

fn redirect_to(status: StatusCode, to: &str) -> Response {
    let mut response = plain(status, "Moved", "the page is elsewhere");
    match HeaderValue::from_str(to) {
        Ok(to) => drop(response.headers_mut().insert(header::LOCATION, to)),
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

/// A page that says what there is no page of. Nothing of the request stands in it.
fn plain(status: StatusCode, code: &'static str, text: &'static str) -> Response {
    let title = status.to_string();
    let page = format!(
        "<!doctype html><html><head><title>{title}</title></head><body><h1>{title}</h1><ul><li>Code: {code}</li><li>Message: {text}</li></ul></body></html>\n"
    );
    let mut response = Response::new(Body::from(page));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(code) = HeaderValue::from_str(code) {
        headers.insert("x-amz-error-code", code);
    }
    response
}

/// For fuzzing.
pub(super) fn fuzz(website: &WebsiteConfiguration, text: &str) {
    let _ = check(website);
    for rule in website.routing_rules.iter().flatten() {
        let _ = (meets(rule, text, None), by_rule(rule, text, text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(prefix: Option<&str>, code: Option<&str>, redirect: Redirect) -> RoutingRule {
        let condition = Condition {
            key_prefix_equals: prefix.map(str::to_owned),
            http_error_code_returned_equals: code.map(str::to_owned),
        };
        RoutingRule { condition: Some(condition), redirect }
    }

    #[test]
    fn a_rule_redirects_by_prefix_or_after_an_error() {
        let old =
            rule(Some("old/"), None, Redirect { replace_key_prefix_with: Some("new/".into()), ..Redirect::default() });
        assert!(meets(&old, "old/a b", None) && !meets(&old, "other", None));
        assert!(!meets(&old, "old/a", Some(StatusCode::NOT_FOUND)));
        let response = by_rule(&old, "site.example", "old/a b");
        assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
        assert_eq!(response.headers()["location"], "http://site.example/new/a%20b");
        let lost = rule(
            None,
            Some("404"),
            Redirect {
                replace_key_with: Some("lost.html".into()),
                http_redirect_code: Some("302".into()),
                host_name: Some("else.example".into()),
                protocol: Some(Protocol::from_static(Protocol::HTTPS)),
                ..Redirect::default()
            },
        );
        assert!(meets(&lost, "x", Some(StatusCode::NOT_FOUND)) && !meets(&lost, "x", None));
        assert_eq!(by_rule(&lost, "site.example", "x").headers()["location"], "https://else.example/lost.html");
    }

    #[test]
    fn a_website_that_could_not_be_served_is_refused() {
        let index = |suffix: &str| WebsiteConfiguration {
            index_document: Some(IndexDocument { suffix: suffix.into() }),
            ..WebsiteConfiguration::default()
        };
        assert!(check(&index("index.html")).is_ok());
        assert!(check(&index("a/b")).is_err() && check(&index("")).is_err());
        assert!(check(&WebsiteConfiguration::default()).is_err());
        let bad = Redirect { http_redirect_code: Some("200".into()), ..Redirect::default() };
        assert!(
            check(&WebsiteConfiguration { routing_rules: Some(vec![rule(None, None, bad)]), ..index("i") }).is_err()
        );
    }
}
