//! One connection to the AWS door: signs each call as an SDK does, and reads the answer. Thin, because the load and what it
//! measures share the machine's cores.

use std::error::Error;
use std::time::SystemTime;

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{PayloadChecksumKind, SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

pub(crate) struct Client {
    stream: TcpStream,
    host: String,
    credentials: Credentials,
    answer: Vec<u8>,
}

impl Client {
    /// Connects to `url`, `http://host:port`, with the key of `serve --dev`.
    pub(crate) async fn connect(url: &str) -> Result<Self, Failure> {
        let host = url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let stream = TcpStream::connect(&host).await?;
        stream.set_nodelay(true)?;
        let credentials = Credentials::new("test", "test", None, None, "bench");
        Ok(Self { stream, host, credentials, answer: Vec::with_capacity(16 * 1024) })
    }

    /// Calls an SQS operation over AWS JSON 1.0. Anything but 200 is an error.
    pub(crate) async fn sqs(&mut self, operation: &str, input: &Value) -> Result<Value, Failure> {
        let body = serde_json::to_vec(input)?;
        let target = format!("AmazonSQS.{operation}");
        let headers = [("content-type", "application/x-amz-json-1.0"), ("host", &self.host), ("x-amz-target", &target)];
        let signed = self.signature(&headers, &body)?;
        let mut request = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in
            headers.into_iter().chain(signed.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        {
            request.push_str(name);
            request.push_str(": ");
            request.push_str(value);
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        let mut bytes = request.into_bytes();
        bytes.extend_from_slice(&body);
        self.stream.write_all(&bytes).await?;
        let (status, answer) = self.read().await?;
        if status != 200 {
            return Err(format!("{operation}: {status} {}", String::from_utf8_lossy(answer)).into());
        }
        Ok(if answer.is_empty() { Value::Null } else { serde_json::from_slice(answer)? })
    }

    #[allow(clippy::disallowed_methods, reason = "a signature carries the time")]
    fn signature(&self, headers: &[(&str, &str)], body: &[u8]) -> Result<Vec<(String, String)>, Failure> {
        let mut settings = SigningSettings::default();
        settings.payload_checksum_kind = PayloadChecksumKind::NoHeader;
        let identity = self.credentials.clone().into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region("us-east-1")
            .name("sqs")
            .time(SystemTime::now())
            .settings(settings)
            .build()?
            .into();
        let url = format!("http://{}/", self.host);
        let request = SignableRequest::new("POST", &url, headers.iter().copied(), SignableBody::Bytes(body))?;
        let (instructions, _) = sign(request, &params)?.into_parts();
        Ok(instructions.headers().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    async fn read(&mut self) -> Result<(u16, &[u8]), Failure> {
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err("the appliance closed the connection".into());
            }
            let Some(end) = self.answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.answer[..end])?;
            let status: u16 = head.get(9..12).unwrap_or_default().parse()?;
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok()).flatten()
            });
            let (from, length) = (end + 4, length.unwrap_or(0));
            while self.answer.len() < from + length {
                if self.stream.read_buf(&mut self.answer).await? == 0 {
                    return Err("the appliance closed the connection within an answer".into());
                }
            }
            return Ok((status, &self.answer[from..from + length]));
        }
    }
}
