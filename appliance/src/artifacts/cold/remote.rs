//! The calls of the other S3: each with a bound on its time, and with two kinds of bad news. *Missing* and *wrong* are about one
//! object; *away* is about the store, and passes.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ServerSideEncryption, StorageClass};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::future::BoxFuture;
use md5::{Digest as _, Md5};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::artifacts::model::ColdClass;
use crate::clock::Clock;
use crate::config::ColdConfig;
use crate::outgoing::chain;

/// Longest time of a call that moves few bytes, tries included.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time of a call that sends up to [`PART_BYTES`], tries included.
const SEND_TIMEOUT: Duration = Duration::from_secs(300);
/// What is sent in one call; a larger blob goes up in parts of this size. It is held in memory, once.
pub(in super::super) const PART_BYTES: u64 = 16 << 20;
/// Metadata with the CRC-64/NVME of a blob's data, as its row has it.
const CRC_METADATA: &str = "backlot-crc64";
/// Names of one page of a listing.
const PAGE: i32 = 1000;

/// The name of a blob in the cold tier. Each move has a number of its own, so that no name is ever written twice: a delete that comes
/// late, or is sent again, hits nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(in super::super) struct Name {
    #[serde(rename = "b")]
    pub(in super::super) blob: Uuid,
    #[serde(rename = "c")]
    pub(in super::super) copy: u64,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:016x}", self.blob.simple(), self.copy)
    }
}

impl Name {
    /// Reads what [`Name`] writes.
    pub(in super::super) fn parse(text: &str) -> Option<Self> {
        let (blob, copy) = text.split_once('.')?;
        let name = Self { blob: Uuid::parse_str(blob).ok()?, copy: u64::from_str_radix(copy, 16).ok()? };
        (name.to_string() == text).then_some(name)
    }
}

#[derive(Debug, thiserror::Error)]
pub(in super::super) enum RemoteError {
    #[error("it is missing in the cold tier")]
    Missing,
    /// It is there and is not what was put.
    #[error("{0}")]
    Wrong(String),
    /// The store does not answer, or says no to everybody.
    #[error("{0}")]
    Away(String),
    /// Too many are being read.
    #[error("too many objects are being read from the cold tier")]
    Busy,
}

/// What the other S3 says of a blob.
pub(in super::super) struct Told {
    pub(in super::super) bytes: u64,
    pub(in super::super) crc: Option<u64>,
}

/// A blob as a listing of the other S3 has it.
pub(in super::super) struct Listed {
    pub(in super::super) name: Name,
    pub(in super::super) bytes: u64,
    /// Where the store says one that is read at once.
    pub(in super::super) class: Option<ColdClass>,
}

/// Cheap to clone.
#[derive(Clone)]
pub(in super::super) struct Remote(Arc<Inner>);

struct Inner {
    client: Client,
    bucket: String,
    prefix: String,
    send_class: bool,
    /// One for each read that waits for bytes.
    reads: Semaphore,
    clock: Arc<dyn Clock>,
}

impl Remote {
    pub(super) fn new(client: Client, config: &ColdConfig, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner {
            client,
            bucket: config.bucket.clone(),
            prefix: config.prefix.clone(),
            send_class: config.send_class,
            reads: Semaphore::new(config.reads_max),
            clock,
        }))
    }

    fn key(&self, name: Name) -> String {
        format!("{}{name}", self.0.prefix)
    }

    pub(super) fn reads(&self) -> &Semaphore {
        &self.0.reads
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.0.clock.now().mono_ms
    }

    pub(in super::super) async fn head(&self, name: Name) -> Result<Told, RemoteError> {
        let request = self.0.client.head_object().bucket(&self.0.bucket).key(self.key(name));
        let told = match within(CALL_TIMEOUT, request.send()).await {
            // A HEAD does not say what is missing: it may be the bucket.
            Err(RemoteError::Missing) => return Err(self.why_missing(name).await),
            told => told?,
        };
        let crc = told.metadata().and_then(|metadata| metadata.get(CRC_METADATA));
        Ok(Told {
            bytes: told.content_length().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
            crc: crc.and_then(|crc| u64::from_str_radix(crc, 16).ok()),
        })
    }

    async fn why_missing(&self, name: Name) -> RemoteError {
        let request = self.0.client.get_object().bucket(&self.0.bucket).key(self.key(name)).range("bytes=0-0");
        match within(CALL_TIMEOUT, request.send()).await {
            Ok(_) => RemoteError::Away("it says that a blob is missing, and gives it".into()),
            Err(error) => error,
        }
    }

    /// Begins to read the bytes `from..end` of a blob that has `total`.
    pub(super) async fn open(&self, name: Name, from: u64, end: u64, total: u64) -> Result<ByteStream, RemoteError> {
        let range = format!("bytes={from}-{}", end.saturating_sub(1));
        let request = self.0.client.get_object().bucket(&self.0.bucket).key(self.key(name)).range(range);
        let got = within(CALL_TIMEOUT, request.send()).await?;
        match whole(&got) {
            Some(bytes) if bytes != total => {
                Err(RemoteError::Wrong(format!("a blob has {bytes} bytes in the cold tier instead of {total}")))
            }
            // A store that ignores the range would give other bytes than were asked for.
            None if from > 0 => Err(RemoteError::Wrong("the cold tier gives no ranges".into())),
            _ => Ok(got.body),
        }
    }

    /// Puts a blob of up to [`PART_BYTES`] in one call.
    pub(super) async fn put(&self, name: Name, class: ColdClass, crc: u64, data: Bytes) -> Result<(), RemoteError> {
        let md5 = md5(&data).await?;
        let request = self.0.client.put_object().bucket(&self.0.bucket).key(self.key(name));
        let request = request.metadata(CRC_METADATA, format!("{crc:016x}")).content_md5(BASE64.encode(md5));
        let request = request.set_storage_class(self.class(class)).content_type("application/octet-stream");
        let put = within(SEND_TIMEOUT, request.body(ByteStream::from(data)).send()).await?;
        same(put.e_tag(), put.server_side_encryption(), md5)
    }

    /// Begins to put a larger one.
    pub(super) async fn begin(&self, name: Name, class: ColdClass, crc: u64) -> Result<Upload, RemoteError> {
        let request = self.0.client.create_multipart_upload().bucket(&self.0.bucket).key(self.key(name));
        let request = request.metadata(CRC_METADATA, format!("{crc:016x}")).set_storage_class(self.class(class));
        let begun = within(CALL_TIMEOUT, request.content_type("application/octet-stream").send()).await?;
        let id = begun.upload_id().ok_or_else(|| RemoteError::Away("it began an upload and gave no id".into()))?;
        Ok(Upload { remote: self.clone(), name, id: id.to_owned(), parts: Vec::new() })
    }

    fn class(&self, class: ColdClass) -> Option<StorageClass> {
        self.0.send_class.then(|| StorageClass::from(class.name()))
    }

    /// Deletes a blob. One that is gone already is no error.
    pub(super) async fn delete(&self, name: Name) -> Result<(), RemoteError> {
        let request = self.0.client.delete_object().bucket(&self.0.bucket).key(self.key(name));
        match within(CALL_TIMEOUT, request.send()).await {
            Ok(_) | Err(RemoteError::Missing) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends the uploads of a blob that a crash has left.
    pub(super) async fn abort_all(&self, name: Name) -> Result<(), RemoteError> {
        let key = self.key(name);
        let request = self.0.client.list_multipart_uploads().bucket(&self.0.bucket).prefix(&key);
        for upload in within(CALL_TIMEOUT, request.send()).await?.uploads() {
            if let (Some(found), Some(id)) = (upload.key(), upload.upload_id())
                && found == key
            {
                self.abort(&key, id).await?;
            }
        }
        Ok(())
    }

    async fn abort(&self, key: &str, id: &str) -> Result<(), RemoteError> {
        let request = self.0.client.abort_multipart_upload().bucket(&self.0.bucket).key(key).upload_id(id);
        match within(CALL_TIMEOUT, request.send()).await {
            Ok(_) | Err(RemoteError::Missing) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The blobs that are there, a page at a time, and where to go on.
    pub(in super::super) async fn list(
        &self,
        after: Option<String>,
    ) -> Result<(Vec<Listed>, Option<String>), RemoteError> {
        let request = self.0.client.list_objects_v2().bucket(&self.0.bucket).prefix(&self.0.prefix).max_keys(PAGE);
        let page = within(CALL_TIMEOUT, request.set_continuation_token(after).send()).await?;
        let listed = page.contents().iter().filter_map(|object| {
            let name = Name::parse(object.key()?.strip_prefix(&self.0.prefix)?)?;
            let class = object.storage_class().and_then(|class| ColdClass::parse(class.as_str()));
            Some(Listed { name, bytes: u64::try_from(object.size()?).ok()?, class })
        });
        Ok((listed.collect(), page.next_continuation_token.clone()))
    }
}

/// A blob that is being put in parts.
pub(super) struct Upload {
    remote: Remote,
    name: Name,
    id: String,
    parts: Vec<CompletedPart>,
}

impl Upload {
    pub(super) async fn part(&mut self, data: Bytes) -> Result<(), RemoteError> {
        let (md5, number) = (md5(&data).await?, i32::try_from(self.parts.len() + 1).unwrap_or(i32::MAX));
        let Inner { client, bucket, .. } = &*self.remote.0;
        let request = client.upload_part().bucket(bucket).key(self.remote.key(self.name)).upload_id(&self.id);
        let request = request.part_number(number).content_md5(BASE64.encode(md5)).body(ByteStream::from(data));
        let put = within(SEND_TIMEOUT, request.send()).await?;
        same(put.e_tag(), put.server_side_encryption(), md5)?;
        self.parts.push(CompletedPart::builder().part_number(number).set_e_tag(put.e_tag).build());
        Ok(())
    }

    pub(super) async fn complete(self) -> Result<(), RemoteError> {
        let Self { remote, name, id, parts } = self;
        let Inner { client, bucket, .. } = &*remote.0;
        let request = client.complete_multipart_upload().bucket(bucket).key(remote.key(name)).upload_id(id);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        within(SEND_TIMEOUT, request.multipart_upload(parts).send()).await.map(drop)
    }

    /// Nothing of it stays. What fails here is tried again when the name is deleted.
    pub(super) async fn abort(self) {
        if let Err(error) = self.remote.abort(&self.remote.key(self.name), &self.id).await {
            tracing::debug!(%error, "could not end an upload to the cold tier; the clean-up does");
        }
    }
}

/// The size of the whole blob of which a range came.
fn whole(got: &GetObjectOutput) -> Option<u64> {
    got.content_range()?.rsplit_once('/')?.1.parse().ok()
}

async fn md5(data: &Bytes) -> Result<[u8; 16], RemoteError> {
    let data = data.clone();
    let hashed = tokio::task::spawn_blocking(move || Md5::digest(&data).into());
    hashed.await.map_err(|error| RemoteError::Away(format!("hash what is sent: {error}")))
}

/// Whether the store has what was sent: its ETag is the MD5, but where it encrypts with keys of its customer.
fn same(tag: Option<&str>, sealed: Option<&ServerSideEncryption>, md5: [u8; 16]) -> Result<(), RemoteError> {
    let tag = tag.unwrap_or_default().trim_matches('"');
    let says = tag.len() == 32 && sealed.is_none_or(|sealed| *sealed == ServerSideEncryption::Aes256);
    match says && !tag.eq_ignore_ascii_case(&hex::encode(md5)) {
        true => Err(RemoteError::Away("it answers a put with the ETag of other bytes".into())),
        false => Ok(()),
    }
}

/// One call within its time. Boxed at once: the SDK's futures are larger than everything around them.
fn within<'a, T: 'a, E>(
    most: Duration,
    call: impl Future<Output = Result<T, SdkError<E, aws_sdk_s3::config::http::HttpResponse>>> + Send + 'a,
) -> BoxFuture<'a, Result<T, RemoteError>>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let call = Box::pin(call);
    Box::pin(async move {
        match tokio::time::timeout(most, call).await {
            Ok(answered) => answered.map_err(refused),
            Err(_) => Err(RemoteError::Away(format!("no answer within {} s", most.as_secs()))),
        }
    })
}

fn refused<E>(error: SdkError<E, aws_sdk_s3::config::http::HttpResponse>) -> RemoteError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    match (status, code) {
        // A bucket that is not there is a setting that is wrong, and no object that is lost.
        (Some(404), "NoSuchBucket") => RemoteError::Away("its bucket does not exist".into()),
        (Some(404), _) => RemoteError::Missing,
        (Some(416), _) => RemoteError::Wrong("a blob in the cold tier is shorter than it was".into()),
        (Some(status), code) => RemoteError::Away(format!("it answers {status} {code}")),
        (None, _) => RemoteError::Away(chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_nothing_else_is() {
        let name = Name { blob: Uuid::from_u128(0xabc), copy: u64::MAX - 1 };
        assert_eq!(name.to_string(), "00000000000000000000000000000abc.fffffffffffffffe");
        assert_eq!(Name::parse(&name.to_string()), Some(name));
        for bad in ["", "x", "00000000000000000000000000000abc", "00000000000000000000000000000ABC.fffffffffffffffe"] {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_etag_of_other_bytes_is_noticed_and_one_that_says_nothing_is_none() {
        let md5 = [7; 16];
        let right = format!("\"{}\"", hex::encode(md5));
        assert!(same(Some(&right), None, md5).is_ok());
        assert!(same(Some(&right), None, [8; 16]).is_err());
        assert!(same(Some(&right), Some(&ServerSideEncryption::AwsKms), [8; 16]).is_ok());
        assert!(same(None, None, md5).is_ok() && same(Some("\"abc-2\""), None, md5).is_ok());
    }
}
