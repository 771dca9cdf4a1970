//! Parts of objects, small objects, and keys: what fetching models takes beside whole inputs.

use std::io::SeekFrom;
use std::path::Path;

use aws_sdk_s3::types::ChecksumMode;
use bytes::Bytes;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::{SILENCE_MAX, Store, StoreError, refused};

impl Store {
    /// An object of at most `bytes_max` bytes; `None`: there is no such key.
    ///
    /// # Errors
    /// [`StoreError`]: permanent when it is refused or too large.
    pub async fn read(&self, bucket: &str, key: &str, bytes_max: usize) -> Result<Option<Bytes>, StoreError> {
        self.patiently(|| self.read_once(bucket, key, bytes_max)).await
    }

    async fn read_once(&self, bucket: &str, key: &str, bytes_max: usize) -> Result<Option<Bytes>, StoreError> {
        let uri = format!("s3://{bucket}/{key}");
        let request = self.client.get_object().bucket(bucket).key(key).checksum_mode(ChecksumMode::Enabled);
        let object = match request.send().await {
            Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => return Ok(None),
            object => object.map_err(|error| refused("fetch", &uri, &error))?,
        };
        let mut body = object.body;
        let mut bytes = Vec::new();
        while let Some(chunk) = silent_for(&uri, body.next()).await? {
            let chunk = chunk.map_err(|error| StoreError::transient(format!("fetch {uri}: {error}")))?;
            if bytes.len() + chunk.len() > bytes_max {
                return Err(StoreError::permanent(format!("fetch {uri}: it has more than {bytes_max} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes.into()))
    }

    /// Writes `length` bytes of an object from `offset` on to the same place of `file`, which is there.
    ///
    /// # Errors
    /// [`StoreError`]: permanent when there is no such object, or not so much of it.
    pub async fn fetch_part(
        &self,
        (bucket, key): (&str, &str),
        file: &Path,
        offset: u64,
        length: u64,
    ) -> Result<(), StoreError> {
        self.patiently(|| self.fetch_part_once((bucket, key), file, offset, length)).await
    }

    async fn fetch_part_once(
        &self,
        (bucket, key): (&str, &str),
        file: &Path,
        offset: u64,
        length: u64,
    ) -> Result<(), StoreError> {
        let uri = format!("s3://{bucket}/{key}");
        let range = format!("bytes={offset}-{}", offset + length - 1);
        let request = self.client.get_object().bucket(bucket).key(key).range(range);
        let object = request.send().await.map_err(|error| refused("fetch", &uri, &error))?;
        let announced = object.content_length().and_then(|length| u64::try_from(length).ok());
        if announced.is_some_and(|announced| announced != length) {
            let problem = format!(
                "fetch {uri}: {announced:?} bytes from {offset} on, not {length}: it is shorter than its manifest says"
            );
            return Err(StoreError::permanent(problem));
        }
        let local = |error: std::io::Error| StoreError::transient(format!("write {}: {error}", file.display()));
        let mut target = tokio::fs::OpenOptions::new().write(true).open(file).await.map_err(local)?;
        target.seek(SeekFrom::Start(offset)).await.map_err(local)?;
        let mut body = object.body;
        let mut received = 0_u64;
        while let Some(chunk) = silent_for(&uri, body.next()).await? {
            let chunk = chunk.map_err(|error| StoreError::transient(format!("fetch {uri}: {error}")))?;
            received += chunk.len() as u64;
            if received > length {
                return Err(StoreError::permanent(format!("fetch {uri}: more came than was asked for")));
            }
            target.write_all(&chunk).await.map_err(local)?;
        }
        target.flush().await.map_err(local)?;
        if received != length {
            return Err(StoreError::transient(format!("fetch {uri}: {received} of {length} bytes came")));
        }
        Ok(())
    }

    /// The first keys that begin with `prefix`, at most a thousand.
    ///
    /// # Errors
    /// [`StoreError`]: permanent when the store refuses it.
    pub async fn keys(&self, bucket: &str, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.patiently(|| async {
            let listed = self.client.list_objects_v2().bucket(bucket).prefix(prefix).send().await;
            let listed = listed.map_err(|error| refused("list", &format!("s3://{bucket}/{prefix}"), &error))?;
            Ok(listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect())
        })
        .await
    }
}

/// What comes next, unless the store is silent for too long.
async fn silent_for<T>(uri: &str, next: impl Future<Output = T>) -> Result<T, StoreError> {
    let late = |_| StoreError::transient(format!("fetch {uri}: nothing came for {SILENCE_MAX:?}"));
    tokio::time::timeout(SILENCE_MAX, next).await.map_err(late)
}
