//! How client commands talk to an appliance: the http door with HTTP Basic, the AWS door with SigV4.

use std::path::Path;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::{Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::{CliError, Connection};
use crate::edge::Endpoints;

/// Largest JSON answer that is read into memory.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Everything that means something in a URL.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const REGION: &str = "us-east-1";

/// A body that is sent as it comes.
pub type SendBody = http_body_util::combinators::UnsyncBoxBody<Bytes, std::io::Error>;

/// Bytes as a body.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> SendBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

type Http = hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, SendBody>;

/// A connection to one appliance with one key.
pub struct Client {
    http: Http,
    endpoint: String,
    key_id: String,
    secret: String,
    endpoints: OnceCell<Endpoints>,
}

impl Client {
    /// Finds the key. Nothing is sent yet.
    ///
    /// # Errors
    /// [`CliError::Usage`] when there is no key or the endpoint is no URL.
    pub fn connect(connection: &Connection) -> Result<Self, CliError> {
        let endpoint = connection.endpoint.trim_end_matches('/').to_owned();
        let uri: Result<Uri, _> = endpoint.parse();
        if !uri.is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()) {
            return Err(CliError::Usage(format!(
                "--endpoint `{endpoint}` is not http://host:port, the http door of an appliance"
            )));
        }
        let (key_id, secret) = match &connection.key_file {
            Some(path) => read_key_file(path)?,
            None => match (std::env::var("AWS_ACCESS_KEY_ID"), std::env::var("AWS_SECRET_ACCESS_KEY")) {
                (Ok(key_id), Ok(secret)) if !key_id.is_empty() => (key_id, secret),
                _ => {
                    return Err(CliError::Usage(
                        "no key: give --key-file FILE (the first one is admin.key in the data folder) \
                         or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                            .into(),
                    ));
                }
            },
        };
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_native_roots(rustls::crypto::ring::default_provider())
            .map_err(|error| CliError::fault("read this machine's certificates", error))?
            .https_or_http()
            .enable_http1()
            .build();
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, endpoint, key_id, secret, endpoints: OnceCell::new() })
    }

    /// GET of a path of the http door, answered as JSON.
    ///
    /// # Errors
    /// [`CliError::Refused`] with the appliance's words, [`CliError::Fault`] when it cannot be reached.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CliError> {
        self.call(Method::GET, path, full(Bytes::new())).await
    }

    /// A call with a JSON body. `None` sends none. An answer without a body is read as `null`.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, CliError> {
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| CliError::fault("write the request", error))?,
            None => Vec::new(),
        };
        self.call(method, path, full(bytes)).await
    }

    async fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: SendBody) -> Result<T, CliError> {
        let response = self.open(method, path, body).await?;
        let bytes = read_all(response).await?;
        let json = if bytes.is_empty() { &b"null"[..] } else { &bytes };
        serde_json::from_slice(json).map_err(|error| CliError::fault("read the answer", error))
    }

    /// A call whose answer is read as it comes, such as server-sent events. Errors are read and returned.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn open(&self, method: Method, path: &str, body: SendBody) -> Result<Response<Incoming>, CliError> {
        let basic = BASE64.encode(format!("{}:{}", self.key_id, self.secret));
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .header(header::AUTHORIZATION, format!("Basic {basic}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| CliError::Usage(format!("`{path}` cannot be asked for: {error}")))?;
        let response = self.http.request(request).await.map_err(|error| self.unreachable(&self.endpoint, &error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refused(response).await)
    }

    fn unreachable(&self, endpoint: &str, error: &hyper_util::client::legacy::Error) -> CliError {
        let cause = std::error::Error::source(error).map(|cause| format!(" ({cause})")).unwrap_or_default();
        CliError::Fault(format!(
            "no appliance answers at {endpoint}: {error}{cause}\nstart one with `backlot serve`, or name another with --endpoint"
        ))
    }

    /// Where the appliance's doors are. Asked once.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn endpoints(&self) -> Result<&Endpoints, CliError> {
        self.endpoints.get_or_try_init(|| self.get("/v1/endpoints")).await
    }

    /// A signed S3 request to the AWS door. `path` is percent-encoded and begins with `/bucket`; the body's hash is not signed.
    /// Errors of S3 are returned with their code and message.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn s3(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: SendBody,
    ) -> Result<Response<Incoming>, CliError> {
        let base = self.endpoints().await?.aws.clone();
        let uri = format!("{base}{path}");
        let mut settings = SigningSettings::default();
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let identity = Credentials::new(&self.key_id, &self.secret, None, None, "backlot").into();
        #[allow(clippy::disallowed_methods, reason = "a command line's signature is made at the edge of its process")]
        let now = SystemTime::now();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(REGION)
            .name("s3")
            .time(now)
            .settings(settings)
            .build();
        let params = params.map_err(|error| CliError::fault("sign", error))?.into();
        let signable =
            SignableRequest::new(method.as_str(), uri.as_str(), headers.iter().copied(), SignableBody::UnsignedPayload);
        let signed =
            signable.and_then(|signable| sign(signable, &params)).map_err(|error| CliError::fault("sign", error))?;
        let mut request = Request::builder().method(method).uri(&uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(body).map_err(|error| CliError::fault("write the request", error))?;
        signed.into_parts().0.apply_to_request_http1x(&mut request);
        let response = self.http.request(request).await.map_err(|error| self.unreachable(&base, &error))?;
        if response.status().is_success() || response.status() == http::StatusCode::NOT_MODIFIED {
            return Ok(response);
        }
        Err(refused(response).await)
    }
}

/// Reads a whole answer, bounded.
///
/// # Errors
/// [`CliError::Fault`] when it breaks off or is larger than 64 MiB.
pub async fn read_all(response: Response<Incoming>) -> Result<Bytes, CliError> {
    let collected = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    Ok(collected.map_err(|error| CliError::fault("read the answer", error))?.to_bytes())
}

/// The appliance's error, from its JSON or from S3's XML.
async fn refused(response: Response<Incoming>) -> CliError {
    let status = response.status();
    let bytes = match read_all(response).await {
        Ok(bytes) => bytes,
        Err(error) => return error,
    };
    let text = String::from_utf8_lossy(&bytes);
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let tag = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once("</")?.0.to_owned())
    };
    let of_json = |name: &str| json["error"][name].as_str().map(str::to_owned);
    let code = of_json("code").or_else(|| tag("Code")).unwrap_or_else(|| status.as_str().to_owned());
    let message =
        of_json("message").or_else(|| tag("Message")).unwrap_or_else(|| format!("the appliance answered {status}"));
    CliError::Refused { status: status.as_u16(), code, message, hint: of_json("hint") }
}

fn read_key_file(path: &Path) -> Result<(String, String), CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::Usage(format!("--key-file {}: {error}", path.display())))?;
    let value = |name: &str| {
        text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == name).then(|| value.trim().to_owned())
        })
    };
    match (value("aws_access_key_id"), value("aws_secret_access_key")) {
        (Some(key_id), Some(secret)) => Ok((key_id, secret)),
        _ => Err(CliError::Usage(format!(
            "--key-file {} has no aws_access_key_id and aws_secret_access_key",
            path.display()
        ))),
    }
}

/// A path of the http door with those parameters that have a value.
pub(super) fn path(base: &str, given: &[(&str, Option<&str>)]) -> String {
    let pairs = given.iter().filter_map(|(name, value)| value.map(|value| format!("{name}={}", escaped(value))));
    format!("{base}?{}", pairs.collect::<Vec<_>>().join("&"))
}

/// As a part of a path or a query.
pub(super) fn escaped(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}
