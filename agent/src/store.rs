//! Inputs come from S3 into files, outputs go from files to S3.
//!
//! What is fetched is checked against the checksum or the length that the store names, and against the budget of the
//! configuration while it arrives. A store that is away is tried again for a while; one that says no is believed.

mod pieces;

use std::path::Path;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{ChecksumMode, CompletedMultipartUpload, CompletedPart};
use backlot_wire::FailureClass;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use tracing::warn;

use crate::queue::short;

/// Above this an output goes up in parts of at least this size, in bytes.
const PART_BYTES: u64 = 64 << 20;
/// Most parts of an upload.
const PARTS_MAX: u64 = 10_000;
/// Longest pause of a store that sends nothing.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Why an input or output did not make its way.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    pub class: FailureClass,
    pub message: String,
}

impl StoreError {
    pub(crate) fn permanent(message: String) -> Self {
        Self { class: FailureClass::Permanent, message }
    }

    pub(crate) fn transient(message: String) -> Self {
        Self { class: FailureClass::Transient, message }
    }
}

/// An output to be stored.
#[derive(Debug)]
pub struct Upload<'a> {
    pub file: &'a Path,
    pub bucket: &'a str,
    pub key: &'a str,
    pub content_type: &'a str,
    pub metadata: &'a [(&'static str, String)],
}

/// What the store made of it.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    pub bytes: u64,
    pub version_id: Option<String>,
}

/// The artifact store.
pub struct Store {
    client: Client,
    patience: Duration,
}

impl Store {
    #[must_use]
    pub fn new(shared: &aws_config::SdkConfig, patience: Duration) -> Self {
        // An endpoint of one's own has no DNS name for each bucket.
        let settings = aws_sdk_s3::config::Builder::from(shared).force_path_style(true).build();
        Self { client: Client::from_conf(settings), patience }
    }

    /// Fetches an object of at most `bytes_max` bytes into `file`. Returns its length in bytes.
    ///
    /// # Errors
    /// [`StoreError`]: permanent when there is no such object or it is too large.
    pub async fn fetch(&self, bucket: &str, key: &str, file: &Path, bytes_max: u64) -> Result<u64, StoreError> {
        self.patiently(|| self.fetch_once(bucket, key, file, bytes_max)).await
    }

    async fn fetch_once(&self, bucket: &str, key: &str, file: &Path, bytes_max: u64) -> Result<u64, StoreError> {
        let uri = format!("s3://{bucket}/{key}");
        let request = self.client.get_object().bucket(bucket).key(key).checksum_mode(ChecksumMode::Enabled);
        let object = request.send().await.map_err(|error| refused("fetch", &uri, &error))?;
        let announced = object.content_length().and_then(|length| u64::try_from(length).ok());
        let too_large = || StoreError::permanent(format!("fetch {uri}: more than the {bytes_max} bytes that are left"));
        if announced.is_some_and(|length| length > bytes_max) {
            return Err(too_large());
        }
        let local = |error: std::io::Error| StoreError::transient(format!("write {}: {error}", file.display()));
        let mut target = tokio::fs::File::create(file).await.map_err(local)?;
        let mut body = object.body;
        let mut received = 0_u64;
        loop {
            let chunk = tokio::time::timeout(SILENCE_MAX, body.next())
                .await
                .map_err(|_| StoreError::transient(format!("fetch {uri}: nothing came for {SILENCE_MAX:?}")))?;
            let Some(chunk) = chunk else { break };
            // A checksum that does not fit is reported here, with the last piece.
            let chunk = chunk.map_err(|error| StoreError::transient(format!("fetch {uri}: {error}")))?;
            received += chunk.len() as u64;
            if received > bytes_max {
                return Err(too_large());
            }
            target.write_all(&chunk).await.map_err(local)?;
        }
        target.flush().await.map_err(local)?;
        if announced.is_some_and(|length| length != received) {
            return Err(StoreError::transient(format!(
                "fetch {uri}: {received} of {} bytes came",
                announced.unwrap_or(0)
            )));
        }
        Ok(received)
    }

    /// Stores a file as an object, in parts when it is large.
    ///
    /// # Errors
    /// [`StoreError`]: permanent when the store refuses it.
    pub async fn put(&self, upload: &Upload<'_>) -> Result<Stored, StoreError> {
        self.patiently(|| self.put_once(upload)).await
    }

    async fn put_once(&self, upload: &Upload<'_>) -> Result<Stored, StoreError> {
        let local =
            |error: &dyn std::fmt::Display| StoreError::transient(format!("read {}: {error}", upload.file.display()));
        let bytes = tokio::fs::metadata(upload.file).await.map_err(|error| local(&error))?.len();
        if bytes > PART_BYTES {
            return self.put_in_parts(upload, bytes).await;
        }
        let uri = format!("s3://{}/{}", upload.bucket, upload.key);
        let mut request = self
            .client
            .put_object()
            .bucket(upload.bucket)
            .key(upload.key)
            .content_type(upload.content_type)
            .body(ByteStream::from_path(upload.file).await.map_err(|error| local(&error))?);
        for (name, value) in upload.metadata {
            request = request.metadata(*name, value);
        }
        let answer = request.send().await.map_err(|error| refused("store", &uri, &error))?;
        Ok(Stored { bytes, version_id: answer.version_id })
    }

    async fn put_in_parts(&self, upload: &Upload<'_>, bytes: u64) -> Result<Stored, StoreError> {
        let uri = format!("s3://{}/{}", upload.bucket, upload.key);
        let mut request = self
            .client
            .create_multipart_upload()
            .bucket(upload.bucket)
            .key(upload.key)
            .content_type(upload.content_type);
        for (name, value) in upload.metadata {
            request = request.metadata(*name, value);
        }
        let begun = request.send().await.map_err(|error| refused("store", &uri, &error))?;
        let id =
            begun.upload_id.ok_or_else(|| StoreError::transient(format!("store {uri}: an upload without an id")))?;
        let mut open = OpenUpload {
            client: self.client.clone(),
            bucket: upload.bucket.to_owned(),
            key: upload.key.to_owned(),
            id: Some(id.clone()),
        };
        let part_bytes = PART_BYTES.max(bytes.div_ceil(PARTS_MAX));
        let mut parts = Vec::new();
        let mut offset = 0;
        while offset < bytes {
            let length = part_bytes.min(bytes - offset);
            let number = i32::try_from(parts.len() + 1).unwrap_or(i32::MAX);
            let body = ByteStream::read_from()
                .path(upload.file)
                .offset(offset)
                .length(Length::Exact(length))
                .build()
                .await
                .map_err(|error| StoreError::transient(format!("read {}: {error}", upload.file.display())))?;
            let part = self.client.upload_part().bucket(upload.bucket).key(upload.key).upload_id(&id);
            let part =
                part.part_number(number).body(body).send().await.map_err(|error| refused("store", &uri, &error))?;
            parts.push(
                CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(part.e_tag)
                    .set_checksum_crc32(part.checksum_crc32)
                    .build(),
            );
            offset += length;
        }
        let all = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = self.client.complete_multipart_upload().bucket(upload.bucket).key(upload.key);
        let answer = request
            .upload_id(&id)
            .multipart_upload(all)
            .send()
            .await
            .map_err(|error| refused("store", &uri, &error))?;
        open.id = None;
        Ok(Stored { bytes, version_id: answer.version_id })
    }

    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// [`StoreError`]: permanent when the store refuses it.
    pub async fn remove(&self, bucket: &str, key: &str) -> Result<(), StoreError> {
        let removed = self.client.delete_object().bucket(bucket).key(key).send().await;
        removed.map(drop).map_err(|error| refused("remove", &format!("s3://{bucket}/{key}"), &error))
    }

    /// Again and again, until it works, is refused, or patience is over.
    async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, StoreError> {
        let deadline = Instant::now() + self.patience;
        let mut pause = Duration::from_millis(500);
        loop {
            match attempt().await {
                Err(error) if error.class == FailureClass::Transient && Instant::now() + pause < deadline => {
                    warn!(%error, pause = ?pause, "the artifact store is tried again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                }
                end => return end,
            }
        }
    }
}

/// An upload in parts that is given up when it is dropped before its end, so that its parts do not stay for ever.
struct OpenUpload {
    client: Client,
    bucket: String,
    key: String,
    id: Option<String>,
}

impl Drop for OpenUpload {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(&self.key).upload_id(id);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = tokio::time::timeout(Duration::from_secs(10), abort.send()).await;
            });
        }
    }
}

/// What the store said, as the failure of a job: 4xx would be said again, all else may pass.
fn refused<E>(verb: &str, uri: &str, error: &SdkError<E, aws_sdk_s3::config::http::HttpResponse>) -> StoreError
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let message = format!("{verb} {uri}: {}", short(error));
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    // 408 and 429 ask for another try; 403 may be a key that is being changed, but most often is not.
    if (400..500).contains(&status) && !matches!(status, 408 | 429) {
        StoreError::permanent(message)
    } else {
        StoreError::transient(message)
    }
}
