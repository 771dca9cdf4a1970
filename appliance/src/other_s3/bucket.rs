//! The calls of a bucket of the other S3: each with a bound on its time, and with two kinds of bad news. *Missing* and *wrong* are about one
//! object; *away* is about the store, and passes.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, ServerSideEncryption, StorageClass};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures::future::BoxFuture;
use md5::{Digest as _, Md5};

use crate::outgoing::chain;

/// Longest time of a call that moves few bytes, tries included.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest time of a call that sends [`PART_BYTES`], or a part as large as a configuration may say, tries included.
const SEND_TIMEOUT: Duration = Duration::from_secs(300);
/// What is sent in one call; a larger object goes up in parts of this size. It is held in memory, once.
pub const PART_BYTES: u64 = 16 << 20;
/// Names of one page of a listing.
const PAGE: i32 = 1000;

#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    #[error("it is missing there")]
    Missing,
    /// It is there and is not what was put.
    #[error("{0}")]
    Wrong(String),
    /// The store does not answer, or says no to everybody.
    #[error("{0}")]
    Away(String),
}

/// What an object is put with.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// One name and value of metadata.
    pub metadata: Option<(&'static str, String)>,
    pub class: Option<&'static str>,
}

/// A bucket there. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Bucket {
    client: Client,
    name: String,
}

impl Bucket {
    #[must_use]
    pub fn new(client: Client, name: &str) -> Self {
        Self { client, name: name.to_owned() }
    }

    /// What the store tells of an object.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn head(&self, key: &str) -> Result<HeadObjectOutput, BucketError> {
        let request = self.client.head_object().bucket(&self.name).key(key);
        match within(CALL_TIMEOUT, request.send()).await {
            // A HEAD does not say what is missing: it may be the bucket.
            Err(BucketError::Missing) => Err(self.why_missing(key).await),
            told => told,
        }
    }

    async fn why_missing(&self, key: &str) -> BucketError {
        let request = self.client.get_object().bucket(&self.name).key(key).range("bytes=0-0");
        match within(CALL_TIMEOUT, request.send()).await {
            Ok(_) => BucketError::Away("it says that an object is missing, and gives it".into()),
            Err(error) => error,
        }
    }

    /// Begins to read the bytes `from..end` of an object that has `total`.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn open(&self, key: &str, from: u64, end: u64, total: u64) -> Result<ByteStream, BucketError> {
        let range = format!("bytes={from}-{}", end.saturating_sub(1));
        let request = self.client.get_object().bucket(&self.name).key(key).range(range);
        let got = within(CALL_TIMEOUT, request.send()).await?;
        match whole(&got) {
            Some(bytes) if bytes != total => {
                Err(BucketError::Wrong(format!("an object has {bytes} bytes there instead of {total}")))
            }
            // A store that ignores the range would give other bytes than were asked for.
            None if from > 0 => Err(BucketError::Wrong("the store gives no ranges".into())),
            _ => Ok(got.body),
        }
    }

    /// Puts an object in one call.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn put(&self, key: &str, said: Said, data: Bytes) -> Result<(), BucketError> {
        let md5 = md5(&data).await?;
        let mut request = self.client.put_object().bucket(&self.name).key(key).content_md5(BASE64.encode(md5));
        if let Some((name, value)) = said.metadata {
            request = request.metadata(name, value);
        }
        let request = request.set_storage_class(said.class.map(StorageClass::from));
        let request = request.content_type("application/octet-stream");
        let put = within(SEND_TIMEOUT, request.body(ByteStream::from(data)).send()).await?;
        same(put.e_tag(), put.server_side_encryption(), md5)
    }

    /// Begins to put a larger one.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn begin(&self, key: &str, said: Said) -> Result<Upload, BucketError> {
        let mut request = self.client.create_multipart_upload().bucket(&self.name).key(key);
        if let Some((name, value)) = said.metadata {
            request = request.metadata(name, value);
        }
        let request = request.set_storage_class(said.class.map(StorageClass::from));
        let begun = within(CALL_TIMEOUT, request.content_type("application/octet-stream").send()).await?;
        let id = begun.upload_id().ok_or_else(|| BucketError::Away("it began an upload and gave no id".into()))?;
        Ok(Upload { bucket: self.clone(), key: key.to_owned(), id: id.to_owned(), parts: Vec::new() })
    }

    /// Deletes an object. One that is gone already is no error.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn delete(&self, key: &str) -> Result<(), BucketError> {
        let request = self.client.delete_object().bucket(&self.name).key(key);
        match within(CALL_TIMEOUT, request.send()).await {
            Ok(_) | Err(BucketError::Missing) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Ends the uploads of an object that a crash has left.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn abort_all(&self, key: &str) -> Result<(), BucketError> {
        let request = self.client.list_multipart_uploads().bucket(&self.name).prefix(key);
        for upload in within(CALL_TIMEOUT, request.send()).await?.uploads() {
            if let (Some(found), Some(id)) = (upload.key(), upload.upload_id())
                && found == key
            {
                self.abort(key, id).await?;
            }
        }
        Ok(())
    }

    async fn abort(&self, key: &str, id: &str) -> Result<(), BucketError> {
        let request = self.client.abort_multipart_upload().bucket(&self.name).key(key).upload_id(id);
        match within(CALL_TIMEOUT, request.send()).await {
            Ok(_) | Err(BucketError::Missing) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A page of the objects whose names begin with `prefix`.
    ///
    /// # Errors
    /// [`BucketError`].
    pub async fn list(&self, prefix: &str, after: Option<String>) -> Result<ListObjectsV2Output, BucketError> {
        let request = self.client.list_objects_v2().bucket(&self.name).prefix(prefix).max_keys(PAGE);
        within(CALL_TIMEOUT, request.set_continuation_token(after).send()).await
    }
}

/// An object that is being put in parts.
pub struct Upload {
    bucket: Bucket,
    key: String,
    id: String,
    parts: Vec<CompletedPart>,
}

impl Upload {
    /// # Errors
    /// [`BucketError`].
    pub async fn part(&mut self, data: Bytes) -> Result<(), BucketError> {
        let (md5, number) = (md5(&data).await?, i32::try_from(self.parts.len() + 1).unwrap_or(i32::MAX));
        let Bucket { client, name } = &self.bucket;
        let request = client.upload_part().bucket(name).key(&self.key).upload_id(&self.id);
        let request = request.part_number(number).content_md5(BASE64.encode(md5)).body(ByteStream::from(data));
        let put = within(SEND_TIMEOUT, request.send()).await?;
        same(put.e_tag(), put.server_side_encryption(), md5)?;
        self.parts.push(CompletedPart::builder().part_number(number).set_e_tag(put.e_tag).build());
        Ok(())
    }

    /// # Errors
    /// [`BucketError`].
    pub async fn complete(self) -> Result<(), BucketError> {
        let Self { bucket, key, id, parts } = self;
        let request = bucket.client.complete_multipart_upload().bucket(&bucket.name).key(key).upload_id(id);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        within(SEND_TIMEOUT, request.multipart_upload(parts).send()).await.map(drop)
    }

    /// Nothing of it stays. What fails here is tried again when the object is deleted.
    pub async fn abort(self) {
        if let Err(error) = self.bucket.abort(&self.key, &self.id).await {
            tracing::debug!(%error, "could not end an upload to another S3; the clean-up does");
        }
    }
}

/// The size of the whole object of which a range came.
fn whole(got: &GetObjectOutput) -> Option<u64> {
    got.content_range()?.rsplit_once('/')?.1.parse().ok()
}

async fn md5(data: &Bytes) -> Result<[u8; 16], BucketError> {
    let data = data.clone();
    let hashed = tokio::task::spawn_blocking(move || Md5::digest(&data).into());
    hashed.await.map_err(|error| BucketError::Away(format!("hash what is sent: {error}")))
}

/// Whether the store has what was sent: its ETag is the MD5, but where it encrypts with keys of its customer.
fn same(tag: Option<&str>, sealed: Option<&ServerSideEncryption>, md5: [u8; 16]) -> Result<(), BucketError> {
    let tag = tag.unwrap_or_default().trim_matches('"');
    let says = tag.len() == 32 && sealed.is_none_or(|sealed| *sealed == ServerSideEncryption::Aes256);
    match says && !tag.eq_ignore_ascii_case(&hex::encode(md5)) {
        true => Err(BucketError::Away("it answers a put with the ETag of other bytes".into())),
        false => Ok(()),
    }
}

/// One call within its time. Boxed at once: the SDK's futures are larger than everything around them.
fn within<'a, T: 'a, E>(
    most: Duration,
    call: impl Future<Output = Result<T, SdkError<E, aws_sdk_s3::config::http::HttpResponse>>> + Send + 'a,
) -> BoxFuture<'a, Result<T, BucketError>>
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let call = Box::pin(call);
    Box::pin(async move {
        match tokio::time::timeout(most, call).await {
            Ok(answered) => answered.map_err(refused),
            Err(_) => Err(BucketError::Away(format!("no answer within {} s", most.as_secs()))),
        }
    })
}

fn refused<E>(error: SdkError<E, aws_sdk_s3::config::http::HttpResponse>) -> BucketError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let code = error.as_service_error().and_then(ProvideErrorMetadata::code).unwrap_or_default();
    match (status, code) {
        // A bucket that is not there is a setting that is wrong, and no object that is lost.
        (Some(404), "NoSuchBucket") => BucketError::Away("its bucket does not exist".into()),
        (Some(404), _) => BucketError::Missing,
        (Some(416), _) => BucketError::Wrong("an object there is shorter than it was".into()),
        (Some(status), code) => BucketError::Away(format!("it answers {status} {code}")),
        (None, _) => BucketError::Away(chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
