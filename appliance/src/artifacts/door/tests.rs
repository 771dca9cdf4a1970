//! The door against an S3 that a test plays byte by byte: what a well-behaved one never shows.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::keyring::Payload;
use super::place::Named;
use super::send::{Call, Trouble};
use super::{Upstream, bodies};
use crate::clock::SystemClock;
use crate::config::UpstreamConfig;

struct Played {
    upstream: Upstream,
    listener: TcpListener,
    _dir: tempfile::TempDir,
}

impl Played {
    async fn new(change: impl FnOnce(&mut UpstreamConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "aws_access_key_id = AKIA\naws_secret_access_key = secret\n").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = UpstreamConfig {
            endpoint: format!("http://{}", listener.local_addr().unwrap()),
            credentials: format!("file:{}", key.display()),
            ..UpstreamConfig::default()
        };
        change(&mut config);
        let upstream = Upstream::build(&config, Arc::new(SystemClock::new())).await.unwrap();
        Self { upstream, listener, _dir: dir }
    }

    /// Sends `call`, while a connection is answered by `play`.
    async fn play<T>(
        &self,
        call: Call,
        play: impl AsyncFnOnce(TcpStream, String) -> T,
    ) -> (Result<http::Response<Body>, Trouble>, T) {
        let played = async {
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let head = head(&mut stream).await;
            play(stream, head).await
        };
        tokio::join!(self.upstream.0.sender.send(call), played)
    }
}

async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

fn get() -> Call {
    Call::read(Method::GET, Named::object("studio", "a b"), String::new())
}

fn put(body: &'static str, expects: bool) -> Call {
    let mut call = Call::read(Method::PUT, Named::object("studio", "k"), String::new());
    call.payload = Some(Payload::Unsigned);
    call.body = Some((Body::from(body), body.len() as u64));
    call.expects = expects;
    call
}

async fn answer(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn what_goes_on_is_signed_anew_and_its_answer_comes_back() {
    let played = Played::new(|config| config.bucket_prefix = "acme-".into()).await;
    let (came, head) = played
        .play(get(), async |mut stream, head| {
            answer(&mut stream, "HTTP/1.1 206 Partial Content\r\ncontent-length: 2\r\netag: \"a\"\r\n\r\nok").await;
            head
        })
        .await;
    let came = came.unwrap();
    assert_eq!((came.status(), came.headers()["etag"].to_str().unwrap()), (StatusCode::PARTIAL_CONTENT, "\"a\""));
    assert_eq!(came.into_body().collect().await.unwrap().to_bytes(), "ok");
    assert!(head.starts_with("GET /acme-studio/a%20b HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Credential=AKIA/") && head.contains("/us-east-1/s3/aws4_request"), "{head}");
}

#[tokio::test]
async fn a_redirect_is_no_answer_but_the_name_of_a_setting() {
    let played = Played::new(|_| ()).await;
    let (came, ()) = played
        .play(get(), async |mut stream, _| {
            let text = "HTTP/1.1 301 Moved\r\nx-amz-bucket-region: eu-west-1\r\ncontent-length: 0\r\n\r\n";
            answer(&mut stream, text).await;
        })
        .await;
    assert_eq!(came.unwrap_err(), Trouble::Elsewhere { region: Some("eu-west-1".into()) });
}

#[tokio::test]
async fn an_error_of_the_callers_comes_back_whole_and_one_of_ours_does_not() {
    for (code, ours) in [("AccessDenied", false), ("InvalidAccessKeyId", true)] {
        let played = Played::new(|_| ()).await;
        let xml = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        let said = xml.clone();
        let (came, ()) = played
            .play(get(), async |mut stream, _| {
                let text = format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n{said}", said.len());
                answer(&mut stream, &text).await;
            })
            .await;
        match came {
            Ok(came) => {
                assert!(!ours && came.status() == StatusCode::FORBIDDEN);
                assert_eq!(came.into_body().collect().await.unwrap().to_bytes(), xml);
            }
            Err(trouble) => assert!(ours && trouble.to_string().contains("upstream.credentials"), "{trouble}"),
        }
    }
}

#[tokio::test]
async fn a_body_goes_when_the_other_s3_gives_leave_and_never_when_it_refuses_first() {
    let played = Played::new(|_| ()).await;
    let (came, ()) = played
        .play(put("hello", true), async |mut stream, head| {
            assert!(head.contains("expect: 100-continue") && head.contains("content-length: 5"), "{head}");
            let early = tokio::time::timeout(std::time::Duration::from_millis(50), stream.read_u8()).await;
            assert!(early.is_err(), "nothing goes before its leave");
            answer(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n").await;
            let mut body = [0; 5];
            stream.read_exact(&mut body).await.unwrap();
            assert_eq!(&body, b"hello");
            answer(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        })
        .await;
    assert_eq!(came.unwrap().status(), StatusCode::OK);

    let refusing = Played::new(|_| ()).await;
    let (came, mut stream) = refusing
        .play(put("hello", true), async |mut stream, _| {
            answer(&mut stream, "HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nno s").await;
            stream
        })
        .await;
    let came = came.unwrap();
    assert_eq!(came.status(), StatusCode::NOT_FOUND);
    assert_eq!(came.into_body().collect().await.unwrap().to_bytes(), "no s");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "nothing went, and the connection ended: {rest:?}");
}

#[tokio::test]
async fn a_store_that_gives_no_leave_is_sent_to_after_a_moment_and_not_asked_again() {
    let played = Played::new(|_| ()).await;
    for asked in [true, false] {
        let (came, head) = played
            .play(put("hello", true), async |mut stream, head| {
                let mut body = [0; 5];
                stream.read_exact(&mut body).await.unwrap();
                answer(&mut stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
                head
            })
            .await;
        assert_eq!(came.unwrap().status(), StatusCode::OK);
        assert_eq!(head.contains("expect:"), asked);
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_breaks_the_request_and_is_the_callers_fault() {
    let played = Played::new(|_| ()).await;
    let mut call = put("", false);
    let pieces = [Ok(Bytes::from("hel")), Err(bodies::Fault("AwsChunkedStreamError: SignatureMismatch".into()))];
    call.body = Some((Body::from_stream(futures::stream::iter(pieces)), 5));
    let everything = async {
        let (mut stream, _) = played.listener.accept().await.unwrap();
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all).await;
        all
    };
    let (came, all) = tokio::join!(played.upstream.0.sender.send(call), everything);
    let Err(Trouble::Body(fault)) = came else { panic!("{came:?}") };
    assert!(fault.contains("SignatureMismatch"), "{fault}");
    assert!(!String::from_utf8_lossy(&all).contains("\r\n\r\nhel"), "the last good piece is held back");
}

#[tokio::test]
async fn a_caller_that_goes_takes_its_request_with_it_and_frees_its_place() {
    let played = Played::new(|config| config.connections_max = 1).await;
    let stalled = Body::from_stream(futures::stream::pending::<Result<Bytes, bodies::Fault>>());
    let mut call = put("", false);
    call.body = Some((stalled, 5));
    let upstream = played.upstream.clone();
    let caller = tokio::spawn(async move { upstream.0.sender.send(call).await });
    let (mut stream, _) = played.listener.accept().await.unwrap();
    head(&mut stream).await;
    caller.abort();
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await; // it ends
    let (came, ()) = played
        .play(get(), async |mut stream, _| answer(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await)
        .await;
    assert_eq!(came.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn nobody_at_the_address_is_told_by_its_name() {
    let played = Played::new(|config| config.endpoint = "http://127.0.0.1:9".into()).await;
    let trouble = played.upstream.ask().await.unwrap_err();
    assert!(matches!(trouble, Trouble::Away { .. }), "{trouble}");
    assert!(played.upstream.trouble().unwrap().contains("http://127.0.0.1:9"));
}

#[tokio::test]
async fn a_list_that_is_none_is_an_error_and_not_an_empty_list() {
    let played = Played::new(|_| ()).await;
    let played_list = async {
        let (mut stream, _) = played.listener.accept().await.unwrap();
        let head = head(&mut stream).await;
        assert!(head.contains("GET /studio?list-type=2&encoding-type=url&max-keys=10&prefix=a%2Fb"), "{head}");
        answer(&mut stream, "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>").await;
    };
    let (page, ()) = tokio::join!(played.upstream.list("studio", "a/b", None, None, 10), played_list);
    assert!(matches!(page, Err(super::ReadError::Unreadable(_))));
}
