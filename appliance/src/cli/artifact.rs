//! `backlot artifact`: list, get and put objects.
//!
//! Bytes are streamed in both directions and their MD5 is compared with the ETag, so that what arrives is what was sent. A download
//! appears under its name only when it is whole.

mod cold;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bytes::Bytes;
use clap::Subcommand;
use futures::{StreamExt, TryStreamExt};
use http::{Method, header};
use http_body::Frame;
use http_body_util::{BodyExt, BodyStream, StreamBody};
use indicatif::{ProgressBar, ProgressStyle};
use md5::{Digest, Md5};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::client::{SendBody, full, read_all};
use super::output::{one_line, say};
use super::{CliError, Client};
use crate::artifacts::api_http::{BucketsJson, ObjectJson, ObjectsJson};
use crate::artifacts::{Round, ScrubStatus, WarmAsked};

/// Larger files are put in parts of this size.
const PART_BYTES: u64 = 1 << 30;
/// What stays as it is in a path: S3 signs the encoded path.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

#[derive(Debug, Subcommand)]
pub(super) enum ArtifactCommand {
    /// Buckets, or what is in one of them.
    Ls {
        /// `s3://bucket` or `s3://bucket/prefix`. Without it, all buckets.
        uri: Option<Uri>,
        /// Everything under the prefix, not only the next level.
        #[arg(long, short)]
        recursive: bool,
        /// One JSON document a line.
        #[arg(long)]
        json: bool,
    },
    /// Download an object.
    Get {
        /// `s3://bucket/key`.
        uri: Uri,
        /// Where to; `-` is standard output. Without it, the last part of the key, here.
        file: Option<PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// Upload a file.
    Put {
        file: PathBuf,
        /// `s3://bucket/key`; a key that ends with `/`, or none, is followed by the file's name.
        uri: Uri,
        /// Without it, from the file's extension.
        #[arg(long)]
        content_type: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// How much is in the cold tier, and what is on its way there.
    Cold {
        #[arg(long)]
        json: bool,
    },
    /// Bring objects back from the cold tier. Rules that move them count their days anew from then on.
    Warm {
        /// `s3://bucket/key`; with a `/` at its end, or no key, everything under it.
        uri: Uri,
        /// Versions that are not current too.
        #[arg(long)]
        versions: bool,
        /// Wait until it is done, or until the cold tier does not answer.
        #[arg(long)]
        wait: bool,
        #[arg(long)]
        json: bool,
    },
    /// What the scrubber has read and found damaged.
    Scrub {
        /// Read everything now.
        #[arg(long)]
        now: bool,
        #[arg(long)]
        json: bool,
    },
}

/// `s3://bucket/key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uri {
    bucket: String,
    key: String,
}

impl std::str::FromStr for Uri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("s3://").ok_or("it begins with s3://, as in s3://studio/clip.mp4")?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err("it has no bucket, as in s3://studio/clip.mp4".into());
        }
        Ok(Self { bucket: bucket.into(), key: key.into() })
    }
}

impl std::fmt::Display for Uri {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl Uri {
    pub(super) fn new(bucket: &str, key: &str) -> Self {
        Self { bucket: bucket.to_owned(), key: key.to_owned() }
    }

    pub(super) fn path(&self) -> String {
        format!("/{}/{}", encode(&self.bucket), encode(&self.key))
    }
}

pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, PLAIN).to_string()
}

pub(super) async fn run(command: ArtifactCommand, client: &Client) -> Result<ExitCode, CliError> {
    match command {
        ArtifactCommand::Ls { uri: None, json, .. } => buckets(client, json).await?,
        ArtifactCommand::Ls { uri: Some(uri), recursive, json } => objects(client, &uri, recursive, json).await?,
        ArtifactCommand::Get { uri, file, json } => get(client, &uri, file, json).await?,
        ArtifactCommand::Put { file, uri, content_type, json } => {
            put(client, &file, uri, content_type, json).await?;
        }
        ArtifactCommand::Cold { json } => cold::status(client, json).await?,
        ArtifactCommand::Warm { uri, versions, wait, json } => {
            let asked = WarmAsked { bucket: uri.bucket, key: uri.key, versions };
            return cold::warm(client, asked, wait, json).await;
        }
        ArtifactCommand::Scrub { now, json } => scrub(client, now, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn scrub(client: &Client, now: bool, json: bool) -> Result<(), CliError> {
    let status: ScrubStatus = match now {
        true => client.send(Method::POST, "/v1/scrub", None::<&serde_json::Value>).await?,
        false => client.get("/v1/scrub").await?,
    };
    if json {
        say!("{}", super::to_json(&status)?)?;
        return Ok(());
    }
    let told =
        |round: &Round| format!("{} versions, {}, {} damaged", round.versions, human(round.bytes), round.damaged);
    match (&status.current, now) {
        (Some(round), _) => say!("reading since {}: {} so far", round.begun_at, told(round))?,
        (None, true) => say!("reading begins")?,
        (None, false) => say!("not reading now")?,
    }
    let unreached = status.current.as_ref().or(status.last.as_ref()).map_or(0, |round| round.unreached);
    if unreached > 0 {
        say!("{unreached} versions in the cold tier could not be looked at: it did not answer")?;
    }
    if let Some((round, ended_at)) = status.last.as_ref().and_then(|last| Some((last, last.ended_at?))) {
        say!("read everything by {ended_at}: {}", told(round))?;
    }
    for damage in &status.damaged {
        let object = &damage.object;
        let key = one_line(&object.key);
        say!("DAMAGED s3://{}/{key} version {}: {}", object.bucket, object.version, damage.problem)?;
    }
    if status.more > 0 {
        say!("and {} more", status.more)?;
    }
    Ok(())
}

async fn buckets(client: &Client, json: bool) -> Result<(), CliError> {
    let answer: BucketsJson = client.get("/v1/artifacts").await?;
    for bucket in answer.buckets {
        if json {
            say!("{}", super::to_json(&bucket)?)?;
        } else {
            say!(
                "{}  {:>8} objects  {:>12}  s3://{}",
                bucket.created,
                bucket.objects.map_or_else(|| "?".to_owned(), |objects| objects.to_string()),
                bucket.bytes.map_or_else(|| "?".to_owned(), human),
                bucket.name
            )?;
        }
    }
    Ok(())
}

async fn objects(client: &Client, uri: &Uri, recursive: bool, json: bool) -> Result<(), CliError> {
    let mut cursor: Option<String> = None;
    loop {
        let mut path = format!("/v1/artifacts/{}?prefix={}", encode(&uri.bucket), encode(&uri.key));
        if !recursive {
            path.push_str("&delimiter=/");
        }
        if let Some(cursor) = &cursor {
            path.push_str(&format!("&cursor={}", encode(cursor)));
        }
        let page: ObjectsJson = client.get(&path).await?;
        for prefix in &page.prefixes {
            if json {
                say!("{}", json!({"prefix": prefix, "uri": format!("s3://{}/{prefix}", page.bucket)}))?;
            } else {
                say!("{:24}  {:>12}  {}", "", "", one_line(prefix))?;
            }
        }
        for object in &page.objects {
            if json {
                say!("{}", super::to_json(object)?)?;
            } else {
                print_object(object)?;
            }
        }
        cursor = page.cursor;
        if cursor.is_none() {
            return Ok(());
        }
    }
}

fn print_object(object: &ObjectJson) -> Result<(), CliError> {
    say!("{:24}  {:>12}  {}", object.modified.to_string(), human(object.size), one_line(&object.key))
}

async fn get(client: &Client, uri: &Uri, file: Option<PathBuf>, json: bool) -> Result<(), CliError> {
    let target = match file {
        Some(file) => file,
        None => match uri.key.rsplit('/').next() {
            Some(name) if !matches!(name, "" | "." | "..") && !name.contains('\0') => PathBuf::from(name),
            _ => return Err(CliError::Usage(format!("{uri} has no last part to name a file after; give FILE"))),
        },
    };
    let response = client.s3(Method::GET, &uri.path(), &[], full(Bytes::new())).await?;
    let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let (etag, size) = (text(header::ETAG), text(header::CONTENT_LENGTH).parse().unwrap_or(0));
    let kms = is_kms(response.headers());
    let bar = progress(size, json || target == Path::new("-"));
    let mut body = BodyStream::new(response.into_body());
    let mut md5 = Md5::new();
    let partial = partial_of(&target);
    let mut output: Box<dyn tokio::io::AsyncWrite + Unpin> = if target == Path::new("-") {
        Box::new(tokio::io::stdout())
    } else {
        let file = tokio::fs::File::create(&partial).await;
        Box::new(file.map_err(|error| CliError::fault(&format!("make {}", partial.display()), error))?)
    };
    let copied = async {
        while let Some(frame) = body.next().await {
            let frame = frame.map_err(|error| CliError::fault("read the object", error))?;
            if let Ok(bytes) = frame.into_data() {
                md5.update(&bytes);
                bar.inc(bytes.len() as u64);
                output.write_all(&bytes).await.map_err(|error| CliError::fault("write the file", error))?;
            }
        }
        output.flush().await.map_err(|error| CliError::fault("write the file", error))?;
        same(&etag, kms, &hex::encode(md5.finalize()))
    };
    let copied = copied.await;
    if target != Path::new("-") {
        let ended = match &copied {
            Ok(()) => tokio::fs::rename(&partial, &target).await,
            Err(_) => tokio::fs::remove_file(&partial).await,
        };
        copied?;
        ended.map_err(|error| CliError::fault(&format!("finish {}", target.display()), error))?;
        bar.finish_and_clear();
        if json {
            say!("{}", json!({"uri": uri.to_string(), "file": target, "size": size, "etag": etag.trim_matches('"')}))?;
        } else {
            say!("{uri} is in {} ({})", target.display(), human(size))?;
        }
        return Ok(());
    }
    copied
}

/// Whether an answer is about an object that is encrypted with a KMS key.
fn is_kms(headers: &http::HeaderMap) -> bool {
    headers.get("x-amz-server-side-encryption").is_some_and(|algorithm| algorithm == "aws:kms")
}

fn partial_of(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// The ETag of an object that was put in one piece is the MD5 of its bytes, unless the bucket encrypts with a KMS key.
fn same(etag: &str, kms: bool, md5: &str) -> Result<(), CliError> {
    let etag = etag.trim_matches('"');
    if kms || etag.contains('-') || etag == md5 {
        return Ok(());
    }
    Err(CliError::Fault(format!("the bytes have the MD5 {md5}, the object's ETag is {etag}")))
}

async fn put(
    client: &Client,
    file: &Path,
    mut uri: Uri,
    content_type: Option<String>,
    json: bool,
) -> Result<(), CliError> {
    let failed = |error| CliError::Usage(format!("{}: {error}", file.display()));
    let metadata = tokio::fs::metadata(file).await.map_err(failed)?;
    if !metadata.is_file() {
        return Err(CliError::Usage(format!("{} is not a file", file.display())));
    }
    if uri.key.is_empty() || uri.key.ends_with('/') {
        let name = file.file_name().and_then(|name| name.to_str());
        uri.key.push_str(name.ok_or_else(|| CliError::Usage("the file's name is not text; give a key".into()))?);
    }
    let size = metadata.len();
    let kind = content_type.unwrap_or_else(|| kind_of(file).to_owned());
    let etag = put_file(client, &uri, file, size, &kind, json).await?;
    if json {
        say!("{}", json!({"uri": uri.to_string(), "size": size, "etag": etag}))?;
    } else {
        say!("{} is at {uri} ({})", file.display(), human(size))?;
    }
    Ok(())
}

/// Puts a file of `size` bytes, in parts when it is large. Gives its ETag.
pub(super) async fn put_file(
    client: &Client,
    uri: &Uri,
    file: &Path,
    size: u64,
    kind: &str,
    quiet: bool,
) -> Result<String, CliError> {
    let bar = progress(size, quiet);
    let etag = if size <= PART_BYTES {
        send(client, &uri.path(), file, 0, size, Some(kind), &bar).await?
    } else {
        put_parts(client, uri, file, size, kind, &bar).await?
    };
    bar.finish_and_clear();
    Ok(etag)
}

async fn put_parts(
    client: &Client,
    uri: &Uri,
    file: &Path,
    size: u64,
    kind: &str,
    bar: &ProgressBar,
) -> Result<String, CliError> {
    let path = uri.path();
    let headers = [("content-type", kind)];
    let begun = client.s3(Method::POST, &format!("{path}?uploads="), &headers, full(Bytes::new())).await?;
    let upload = tag(&read_all(begun).await?, "UploadId")?;
    let sent = async {
        let mut list = String::from("<CompleteMultipartUpload>");
        for (number, from) in (1..).zip((0..size).step_by(usize::try_from(PART_BYTES).unwrap_or(usize::MAX))) {
            let length = PART_BYTES.min(size - from);
            let part = format!("{path}?partNumber={number}&uploadId={upload}");
            let etag = send(client, &part, file, from, length, None, bar).await?;
            list.push_str(&format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"));
        }
        list.push_str("</CompleteMultipartUpload>");
        let done = client.s3(Method::POST, &format!("{path}?uploadId={upload}"), &[], full(list)).await?;
        tag(&read_all(done).await?, "ETag")
    };
    let sent = sent.await;
    if sent.is_err() {
        // The first error is the one to tell; parts that stay are listed by `aws s3api list-multipart-uploads`.
        let _ = client.s3(Method::DELETE, &format!("{path}?uploadId={upload}"), &[], full(Bytes::new())).await;
    }
    sent
}

/// Puts `length` bytes of `file` and gives their ETag.
async fn send(
    client: &Client,
    path: &str,
    file: &Path,
    from: u64,
    length: u64,
    kind: Option<&str>,
    bar: &ProgressBar,
) -> Result<String, CliError> {
    let failed = |error| CliError::fault(&format!("read {}", file.display()), error);
    let mut opened = tokio::fs::File::open(file).await.map_err(failed)?;
    opened.seek(std::io::SeekFrom::Start(from)).await.map_err(failed)?;
    let md5 = Arc::new(Mutex::new(Md5::new()));
    let (hashing, counting) = (Arc::clone(&md5), bar.clone());
    let bytes = ReaderStream::with_capacity(opened.take(length), 256 * 1024).inspect_ok(move |bytes| {
        hashing.lock().update(bytes);
        counting.inc(bytes.len() as u64);
    });
    let body: SendBody = StreamBody::new(bytes.map_ok(Frame::data)).boxed_unsync();
    let length = length.to_string();
    let mut headers = vec![("content-length", length.as_str())];
    headers.extend(kind.map(|kind| ("content-type", kind)));
    let response = client.s3(Method::PUT, path, &headers, body).await?;
    let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok()).unwrap_or_default().to_owned();
    let md5 = hex::encode(md5.lock().clone().finalize());
    same(&etag, is_kms(response.headers()), &md5)?;
    Ok(etag.trim_matches('"').to_owned())
}

fn tag(xml: &[u8], name: &str) -> Result<String, CliError> {
    let text = String::from_utf8_lossy(xml);
    let inner = text.split_once(&format!("<{name}>")).and_then(|(_, rest)| rest.split_once("</"));
    let inner = inner.ok_or_else(|| CliError::Fault(format!("the answer has no {name}: {text}")))?.0;
    Ok(inner.replace("&quot;", "").trim_matches('"').to_owned())
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn progress(size: u64, quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() || std::io::stderr().flush().is_err() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(size);
    let template = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

pub(super) fn human(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

fn kind_of(file: &Path) -> &'static str {
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default().to_ascii_lowercase();
    match extension.as_str() {
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "mov" => "video/quicktime",
        "mkv" => "video/x-matroska",
        "mp3" => "audio/mpeg",
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "txt" | "md" | "log" => "text/plain",
        "json" => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_s3_uri_has_a_bucket_and_perhaps_a_key() {
        let read = |text: &str| text.parse::<Uri>().map(|uri| (uri.bucket, uri.key));
        assert_eq!(read("s3://b/a b/c"), Ok(("b".into(), "a b/c".into())));
        assert_eq!(read("s3://b"), Ok(("b".into(), String::new())));
        assert!(read("b/k").is_err() && read("s3:///k").is_err());
        assert_eq!("s3://b/a b/../é".parse::<Uri>().unwrap().path(), "/b/a%20b/../%C3%A9");
    }

    #[test]
    fn other_bytes_than_those_sent_are_noticed() {
        assert!(same("\"ab\"", false, "ab").is_ok());
        assert!(same("\"ab-2\"", false, "cd").is_ok(), "an ETag of parts is no MD5");
        assert!(same("\"ab\"", true, "cd").is_ok(), "nor is one under a KMS key");
        assert!(same("\"ab\"", false, "cd").is_err());
    }
}
