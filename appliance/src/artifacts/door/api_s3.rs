//! The S3 dialect of the door: s3s reads and verifies, then everything is one route that goes on.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, header};
use s3s::auth::S3Auth;
use s3s::config::StaticConfigProvider;
use s3s::route::S3Route;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::validation::NameValidation;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};

use super::Upstream;
use super::bodies::Trailer;
use super::headers;
use super::keyring::Payload;
use super::mapping;
use super::operation::{On, Operation};
use super::place::{self, Named};
use super::send::Call;
use crate::artifacts::api_s3::{self, HostNamed, Hosts, Keys};
use crate::edge::{OperationCell, Peer, Request, Response, S3Door};
use crate::identity::Role;

/// Longest text of a caller in a record, in characters.
const TEXT_MAX: usize = 256;

/// The S3 service in front of `upstream`. `auth` gives the secret of a key, `keys` whose it is and what it may do.
pub fn service(upstream: Upstream, domains: &[String], auth: impl S3Auth, keys: impl Keys) -> impl S3Door {
    let hosts = Hosts::new(domains);
    let mut builder = S3ServiceBuilder::new(Nothing);
    builder.set_config(Arc::new(StaticConfigProvider::new(Arc::new(api_s3::config()))));
    builder.set_auth(auth);
    builder.set_host(hosts.clone());
    builder.set_validation(AnyName);
    builder.set_route(Route { upstream: upstream.clone(), hosts: hosts.clone(), keys: Arc::new(keys) });
    Service { s3: builder.build(), upstream, hosts }
}

/// The public door of an appliance whose store is another S3: nobody in particular reads anything through it.
pub struct Closed;

impl S3Door for Closed {
    fn call(&self, _: Request) -> BoxFuture<'static, Response> {
        let text = "what everybody may read is given by the other S3 itself; see artifacts.engine";
        Box::pin(std::future::ready(api_s3::written(Err(s3_error!(AccessDenied, "{text}")))))
    }
}

/// Every operation is the route's.
struct Nothing;

impl S3 for Nothing {}

/// What a bucket may be called is the other S3's to say.
struct AnyName;

impl NameValidation for AnyName {
    fn validate_bucket_name(&self, name: &str) -> bool {
        (1..=255).contains(&name.len()) && !name.chars().any(char::is_control) && !matches!(name, "." | "..")
    }
}

/// Where the check of a request writes who called.
#[derive(Clone, Default)]
struct Who(Arc<OnceLock<String>>);

#[derive(Clone)]
struct Service {
    s3: S3Service,
    upstream: Upstream,
    hosts: Hosts,
}

impl S3Door for Service {
    fn call(&self, mut request: Request) -> BoxFuture<'static, Response> {
        let service = self.clone();
        Box::pin(async move {
            let logged = service.upstream.0.config.access_log.then(|| Logged::of(&service.upstream, &mut request));
            let response = service.answer(request).await;
            if let Some(logged) = logged {
                logged.answered(&service.upstream, &response);
            }
            response
        })
    }
}

impl Service {
    async fn answer(&self, request: Request) -> Response {
        if let HostNamed::Website(_) = self.hosts.named(&api_s3::host_of(&request)) {
            return api_s3::written(Err(s3_error!(NotImplemented, "websites are given by the other S3 itself")));
        }
        if request.method() == Method::OPTIONS {
            return self.preflight(request).await;
        }
        if api_s3::is_form(request.method(), request.headers()) {
            let text = "forms are not taken where the store is another S3; use a presigned PUT";
            return api_s3::written(Err(s3_error!(NotImplemented, "{text}")));
        }
        if let Some(refusal) = api_s3::region_refusal(request.headers()) {
            return refusal;
        }
        let empty = api_s3::says_nothing_of_a_body(&request);
        let body = |body| if empty { s3s::Body::empty() } else { s3s::Body::http_body_unsync(body) };
        match self.s3.call(request.map(body)).await {
            Ok(response) => response.map(Body::new),
            Err(error) => {
                tracing::error!(?error, "S3 gave no answer");
                api_s3::faulty()
            }
        }
    }
}

impl Service {
    /// What a browser asks before it asks. Nobody signs it, also where the URL carries the signature of what follows, and it says
    /// nothing of any object: the other S3's rules answer it.
    async fn preflight(&self, request: Request) -> Response {
        let (head, _) = request.into_parts();
        if let Some(cell) = head.extensions.get::<OperationCell>() {
            cell.set("PreflightRequest");
        }
        if [header::ORIGIN, header::ACCESS_CONTROL_REQUEST_METHOD].iter().any(|name| !head.headers.contains_key(name)) {
            let text = "Insufficient information. Origin request header needed.";
            return api_s3::written(Err(api_s3::custom("BadRequest", http::StatusCode::BAD_REQUEST, text.into())));
        }
        let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or(head.uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default();
        let mut call = Call::read(head.method, named(&self.hosts, host, head.uri.path()), String::new());
        call.query = place::query(head.uri.query().unwrap_or_default());
        (call.headers, call.payload) = (headers::going(&head.headers), None);
        match self.upstream.0.sender.send(call).await {
            Ok(mut answer) => {
                headers::coming(answer.headers_mut());
                answer
            }
            Err(trouble) => api_s3::written(Err(trouble.to_s3())),
        }
    }
}

/// What a request is about.
fn named(hosts: &Hosts, host: &str, path: &str) -> Named {
    match hosts.named(host) {
        HostNamed::Bucket(bucket) => Named::read(Some(&bucket), path),
        HostNamed::Nothing | HostNamed::Website(_) => Named::read(None, path),
    }
}

struct Route {
    upstream: Upstream,
    hosts: Hosts,
    keys: Arc<dyn Keys>,
}

impl Route {
    fn named(&self, request: &S3Request<s3s::Body>) -> Named {
        let host = request.headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or(request.uri.authority().map(http::uri::Authority::as_str)).unwrap_or_default();
        named(&self.hosts, host, request.uri.path())
    }

    fn holder(&self, request: &S3Request<s3s::Body>) -> S3Result<(Role, String)> {
        let Some(credentials) = &request.credentials else {
            return Err(s3_error!(AccessDenied, "what goes on to the other S3 needs a signature"));
        };
        let key_id = &credentials.access_key;
        let Some((role, account)) = self.keys.holder(key_id) else {
            return Err(s3_error!(InvalidAccessKeyId, "the access key does not exist"));
        };
        if !account.is_house() {
            let text =
                "the key belongs to an account, and accounts own nothing in the other S3; use a key of the house";
            return Err(s3_error!(AccessDenied, "{text}"));
        }
        Ok((role, key_id.clone()))
    }
}

#[async_trait::async_trait]
impl S3Route for Route {
    fn is_match(&self, _: &Method, _: &http::Uri, _: &HeaderMap, _: &mut http::Extensions) -> bool {
        true
    }

    async fn check_access(&self, request: &mut S3Request<s3s::Body>) -> S3Result<()> {
        let named = self.named(request);
        let raw = request.uri.query().unwrap_or_default().to_owned();
        let names: Vec<String> = place::pairs(&place::query(&raw)).map(|(name, _)| name).collect();
        let on = match named.bucket {
            None => On::Root,
            Some(_) if named.has_key() => On::Object,
            Some(_) => On::Bucket,
        };
        let operation = Operation::of(&request.method, on, &names, &request.headers);
        if let Some(cell) = request.extensions.get::<OperationCell>() {
            cell.set(operation.name);
        }
        let authorization = request.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        api_s3::check_signature(authorization, &raw, self.upstream.0.clock.now().wall_ms / 1000)?;
        let (role, key_id) = self.holder(request)?;
        if let Some(who) = request.extensions.get::<Who>() {
            let _ = who.0.set(key_id); // a request is checked once
        }
        check_signed(operation, authorization, &raw, &request.headers)?;
        if let Some(lack) = operation.right.lacks(role) {
            let text = format!("the key has the role {role:?}; {} {lack}", operation.name);
            return Err(S3Error::with_message(S3ErrorCode::AccessDenied, text));
        }
        let bypasses = request.headers.get("x-amz-bypass-governance-retention").is_some_and(|value| value != "false");
        if bypasses && !role.operates() {
            return Err(s3_error!(AccessDenied, "bypassing a retention needs operator or admin"));
        }
        if !self.upstream.0.sender.place.is_private() && headers::has_customers_key(&request.headers) {
            let text = "a customer's key goes to the other S3 over TLS alone, and upstream.endpoint is http://";
            return Err(s3_error!(InvalidRequest, "{text}"));
        }
        request.extensions.insert(named);
        Ok(())
    }

    async fn call(&self, request: S3Request<s3s::Body>) -> S3Result<S3Response<s3s::Body>> {
        let cell = request.extensions.get::<OperationCell>().cloned().unwrap_or_default();
        let mut call = going(request)?;
        let sender = &self.upstream.0.sender;
        mapping::sources(&sender.place, &mut call.headers)
            .map_err(|problem| s3_error!(InvalidArgument, "{problem}"))?;
        let response = sender.send(call).await.map_err(|trouble| {
            if trouble.is_general() {
                self.upstream.learn(Some(&trouble));
            }
            trouble.to_s3()
        })?;
        let response = mapping::answer(&sender.place, &cell.get(), response).await;
        let mut response = response.map_err(|error| s3_error!(InternalError, "{error}"))?;
        headers::coming(response.headers_mut());
        let (head, body) = response.into_parts();
        let mut answer = S3Response::with_headers(s3s::Body::http_body_unsync(body), head.headers);
        answer.status = Some(head.status);
        Ok(answer)
    }
}

/// Whether what makes the request what it is was signed, and not added by somebody on the way.
fn check_signed(operation: Operation, authorization: Option<&str>, query: &str, headers: &HeaderMap) -> S3Result<()> {
    let parameter = |name: &str| place::pairs(query).find(|(found, _)| found == name).map(|(_, value)| value);
    // In the order in which s3s looks for a signature.
    let signed = if parameter("Signature").is_some() {
        None // version 2, which covers all of Amazon's headers
    } else if let Some(list) = parameter("X-Amz-SignedHeaders").filter(|_| parameter("X-Amz-Signature").is_some()) {
        list
    } else {
        let list = authorization.and_then(|header| header.split_once("SignedHeaders="));
        Some(list.and_then(|(_, rest)| rest.split(',').next()).unwrap_or_default().to_owned())
    };
    let Some(signed) = signed else {
        return match operation.is_signed_by_v2 {
            true => Ok(()),
            false => Err(s3_error!(AccessDenied, "a signature of version 2 does not cover what the query asks for")),
        };
    };
    api_s3::check_signed(headers, &signed)
}

/// The request as it goes on.
fn going(mut request: S3Request<s3s::Body>) -> S3Result<Call> {
    let named =
        request.extensions.remove::<Named>().ok_or_else(|| s3_error!(InternalError, "nobody has checked it"))?;
    let query = place::query(request.uri.query().unwrap_or_default());
    let text = |name: &str| request.headers.get(name).and_then(|value| value.to_str().ok());
    let headers = headers::going(&request.headers);
    let expects = text("expect").is_some_and(|expect| expect.eq_ignore_ascii_case("100-continue"));
    let method = request.method.clone();
    let mut call = Call { method, named, query, headers, payload: Some(Payload::empty()), body: None, expects };
    let length = http_body::Body::size_hint(&request.input).exact();
    let writes = matches!(request.method, Method::PUT | Method::POST);
    let Some(length) = length.filter(|length| writes || *length > 0) else {
        // Nobody knows how long it is, and S3 wants to know.
        return if writes { Err(s3_error!(MissingContentLength, "missing header: content-length")) } else { Ok(call) };
    };
    let declared = text("x-amz-content-sha256").unwrap_or_default();
    let (payload, trailer) = match declared {
        hash if hash.len() == 64 => (Payload::Hash(hash.to_owned()), None),
        trailing if trailing.ends_with("-TRAILER") => {
            let named = text("x-amz-trailer").and_then(Trailer::named);
            let named = named.ok_or_else(|| s3_error!(InvalidRequest, "x-amz-trailer names no checksum of S3's"))?;
            (Payload::Trailer, Some(named))
        }
        _ => (Payload::Unsigned, None),
    };
    let body = Body::new(std::mem::take(&mut request.input));
    call.payload = Some(payload);
    call.body = Some(match (trailer, request.trailing_headers) {
        (Some(trailer), Some(values)) => {
            let set = |name: &'static str, value: &str, headers: &mut HeaderMap| {
                if let Ok(value) = value.parse() {
                    headers.insert(name, value);
                }
            };
            set("x-amz-trailer", trailer.name(), &mut call.headers);
            set("x-amz-decoded-content-length", &length.to_string(), &mut call.headers);
            let coding = match call.headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()) {
                Some(coding) => format!("aws-chunked,{coding}"),
                None => "aws-chunked".to_owned(),
            };
            set("content-encoding", &coding, &mut call.headers);
            let encoded = trailer.encoded_bytes(length);
            (trailer.behind(body, length, values), encoded)
        }
        _ => (body, length),
    });
    Ok(call)
}

/// A record for log search: behind this door all are one, so that only here is known who it was.
struct Logged {
    method: Method,
    path: String,
    agent: String,
    address: Option<IpAddr>,
    operation: OperationCell,
    who: Who,
    began_ms: u64,
}

impl Logged {
    fn of(upstream: &Upstream, request: &mut Request) -> Self {
        let cut = |text: &str| text.chars().take(TEXT_MAX).collect::<String>();
        let agent = request.headers().get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("-");
        let logged = Self {
            method: request.method().clone(),
            path: cut(request.uri().path()), // not the query: a presigned URL's signature is in it
            agent: cut(agent),
            address: request.extensions().get::<Peer>().map(|peer| peer.0.ip()),
            operation: request.extensions().get::<OperationCell>().cloned().unwrap_or_default(),
            who: Who::default(),
            began_ms: upstream.0.clock.now().mono_ms,
        };
        request.extensions_mut().insert(logged.who.clone());
        logged
    }

    fn answered(&self, upstream: &Upstream, response: &Response) {
        let length = response.headers().get(header::CONTENT_LENGTH);
        let bytes = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
        tracing::info!(
            target: "backlot::s3_access",
            operation = self.operation.get(),
            method = self.method.as_str(),
            path = self.path,
            status = response.status().as_u16(),
            bytes,
            took_ms = upstream.0.clock.now().mono_ms.saturating_sub(self.began_ms),
            requester = self.who.0.get().map_or("-", String::as_str),
            address = self.address.map_or_else(|| "-".to_owned(), |address| address.to_string()),
            user_agent = self.agent,
            "{} {} {}",
            self.method,
            self.path,
            response.status().as_u16()
        );
    }
}
