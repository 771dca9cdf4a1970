//! One connection to an S3 server: signs each call, leaves the payload unsigned, and throws away what it reads. Thin, because the load and what
//! it measures share the machine's cores.

use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningSettings, UriPathNormalizationMode,
    sign,
};
use aws_sigv4::sign::v4;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::Failure;

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;

/// Where a server is, and with which key.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) key: (&'static str, &'static str),
}

pub(crate) struct S3 {
    stream: TcpStream,
    host: String,
    credentials: Credentials,
    buffer: Vec<u8>,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    /// The beginning of the body.
    pub(crate) text: String,
}

impl S3 {
    pub(crate) async fn connect(place: &Place) -> Result<Self, Failure> {
        let host = place.url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let stream = TcpStream::connect(&host).await?;
        stream.set_nodelay(true)?;
        let credentials = Credentials::new(place.key.0, place.key.1, None, None, "bench");
        Ok(Self { stream, host, credentials, buffer: Vec::with_capacity(READ_BYTES) })
    }

    /// A call that must succeed.
    pub(crate) async fn call(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer, Failure> {
        self.begin(method, path, body.len() as u64).await?;
        self.stream.write_all(body).await?;
        let answer = self.read().await?;
        if answer.status >= 300 {
            return Err(format!("{method} {path}: {} {}", answer.status, answer.text).into());
        }
        Ok(answer)
    }

    /// Sends the head of a request with a body of `length` bytes.
    pub(crate) async fn begin(&mut self, method: &str, path: &str, length: u64) -> Result<(), Failure> {
        let signed = self.signature(method, path)?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: {length}\r\n", self.host);
        for (name, value) in signed {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes()).await?;
        Ok(())
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.stream.write_all(bytes).await?)
    }

    #[allow(clippy::disallowed_methods, reason = "a signature carries the time")]
    fn signature(&self, method: &str, path: &str) -> Result<Vec<(String, String)>, Failure> {
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("s3")
            .time(SystemTime::now())
            .settings(settings)
            .build()?
            .into();
        let url = format!("http://{}{path}", self.host);
        let headers = [("host", self.host.as_str())];
        let request = SignableRequest::new(method, &url, headers.into_iter(), SignableBody::UnsignedPayload)?;
        let (instructions, _) = sign(request, &params)?.into_parts();
        Ok(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    async fn read(&mut self) -> Result<Answer, Failure> {
        self.buffer.clear();
        let end = loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server closed the connection".into());
            }
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break end;
            }
        };
        let head = std::str::from_utf8(&self.buffer[..end])?.to_owned();
        let status: u16 = head.get(9..12).unwrap_or_default().parse()?;
        let header = |wanted: &str| {
            head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
            })
        };
        let length = header("content-length").and_then(|length| length.parse::<u64>().ok());
        let chunked = header("transfer-encoding").is_some();
        let body = self.buffer.split_off(end + 4);
        let mut text = body.iter().copied().take(READ_BYTES).collect::<Vec<u8>>();
        let mut bytes = body.len() as u64;
        let done = |bytes: u64, text: &[u8]| match length {
            Some(length) => bytes >= length,
            None => !chunked || text.ends_with(b"0\r\n\r\n"),
        };
        while !done(bytes, &text) {
            self.buffer.clear();
            let read = self.stream.read_buf(&mut self.buffer).await?;
            if read == 0 {
                return Err("the server closed the connection within an answer".into());
            }
            bytes += read as u64;
            if length.is_none() || text.len() < READ_BYTES {
                text.extend_from_slice(&self.buffer);
            }
        }
        Ok(Answer { status, bytes, text: String::from_utf8_lossy(&text).into_owned() })
    }
}
