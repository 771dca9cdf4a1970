//! The bucket of models over S3: which keys there are and in which order they come and go.

use std::collections::BTreeSet;

use backlot_wire::model::{
    Manifest, ModelFile, ModelRef, file_key, is_model_name, manifest::MANIFEST_BYTES_MAX, manifest_key, version_key,
};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use hyper::body::Incoming;
use sha2::{Digest, Sha256};

use super::super::artifact::{Uri, encode};
use super::super::client::{full, read_all};
use super::super::{CliError, Client};
use super::brief;
use crate::artifacts::api_http::ObjectsJson;

/// A bucket that holds models.
pub(super) struct ModelBucket<'a> {
    client: &'a Client,
    bucket: &'a str,
}

impl<'a> ModelBucket<'a> {
    pub(super) fn new(client: &'a Client, bucket: &'a str) -> Result<Self, CliError> {
        if bucket.is_empty() || bucket.contains('/') {
            return Err(CliError::Usage(format!("`{bucket}` is no bucket's name")));
        }
        Ok(Self { client, bucket })
    }

    pub(super) fn name(&self) -> &str {
        self.bucket
    }

    pub(super) fn uri(&self, key: &str) -> Uri {
        Uri::new(self.bucket, key)
    }

    /// An object, as it comes; `None`: there is none.
    pub(super) async fn open(&self, key: &str) -> Result<Option<http::Response<Incoming>>, CliError> {
        found(self.client.s3(Method::GET, &self.uri(key).path(), &[], full(Bytes::new())).await)
    }

    /// Length of an object in bytes; `None`: there is none.
    pub(super) async fn size(&self, key: &str) -> Result<Option<u64>, CliError> {
        let head = found(self.client.s3(Method::HEAD, &self.uri(key).path(), &[], full(Bytes::new())).await)?;
        Ok(head.map(|head| length(&head)))
    }

    pub(super) async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), CliError> {
        let length = bytes.len().to_string();
        let headers = [("content-type", "application/json"), ("content-length", length.as_str())];
        self.client.s3(Method::PUT, &self.uri(key).path(), &headers, full(bytes)).await.map(drop)
    }

    /// Takes away what was put and turned out to be wrong.
    pub(super) async fn discard(&self, key: &str) -> Result<(), CliError> {
        self.delete(key).await
    }

    async fn delete(&self, key: &str) -> Result<(), CliError> {
        found(self.client.s3(Method::DELETE, &self.uri(key).path(), &[], full(Bytes::new())).await).map(drop)
    }

    /// Keys under `prefix`, or with `by_folder` the folders right under it.
    async fn list(&self, prefix: &str, by_folder: bool) -> Result<Vec<String>, CliError> {
        let (mut found, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut path = format!("/v1/artifacts/{}?prefix={}", encode(self.bucket), encode(prefix));
            if by_folder {
                path.push_str("&delimiter=/");
            }
            if let Some(cursor) = &cursor {
                path.push_str(&format!("&cursor={}", encode(cursor)));
            }
            let page: ObjectsJson = self.client.get(&path).await?;
            found.extend(if by_folder {
                page.prefixes
            } else {
                page.objects.into_iter().map(|object| object.key).collect()
            });
            cursor = page.cursor;
            if cursor.is_none() {
                return Ok(found);
            }
        }
    }

    /// Folders of models, whether or not they have a manifest.
    pub(super) async fn names(&self) -> Result<Vec<String>, CliError> {
        let folders = self.list("", true).await?;
        let names = folders.iter().filter_map(|folder| folder.strip_suffix('/')).filter(|name| is_model_name(name));
        Ok(names.map(str::to_owned).collect())
    }

    /// Digests of a model's versions that begin with `digest`.
    pub(super) async fn versions(&self, name: &str, digest: &str) -> Result<Vec<String>, CliError> {
        let folder = version_key(name, "");
        let keys = self.list(&format!("{folder}{digest}"), false).await?;
        let digests = keys.iter().filter_map(|key| key.strip_prefix(&folder)?.strip_suffix(".json"));
        Ok(digests.map(str::to_owned).collect())
    }

    /// The manifest under `key` with its digest.
    async fn manifest(&self, key: &str) -> Result<Option<(String, Manifest)>, CliError> {
        let Some(response) = self.open(key).await? else { return Ok(None) };
        let bytes = length(&response);
        if bytes > MANIFEST_BYTES_MAX as u64 {
            return Err(CliError::Fault(format!("{} has {bytes} bytes and is no manifest", self.uri(key))));
        }
        let bytes = read_all(response).await?;
        let manifest =
            Manifest::parse(&bytes).map_err(|error| CliError::Fault(format!("{}: {error}", self.uri(key))))?;
        Ok(Some((digest_of(&bytes), manifest)))
    }

    /// The version that the bare name means.
    pub(super) async fn current(&self, name: &str) -> Result<Option<(String, Manifest)>, CliError> {
        self.manifest(&manifest_key(name)).await
    }

    /// The version that is asked for.
    pub(super) async fn find(&self, asked: ModelRef<'_>) -> Result<(String, Manifest), CliError> {
        let none = || {
            CliError::Fault(format!(
                "there is no model `{}` in s3://{}; `backlot model list` says which there are",
                asked.name, self.bucket
            ))
        };
        let Some(digest) = asked.digest else { return self.current(asked.name).await?.ok_or_else(none) };
        let versions = self.versions(asked.name, digest).await?;
        match versions.as_slice() {
            [] => Err(CliError::Fault(format!(
                "`{}` has no version that begins with {digest}; `backlot model show {}` lists them",
                asked.name, asked.name
            ))),
            [one] => self.manifest(&version_key(asked.name, one)).await?.ok_or_else(none),
            many => Err(CliError::Usage(format!(
                "{} versions of `{}` begin with {digest}; give more digits",
                many.len(),
                asked.name
            ))),
        }
    }

    /// Makes a model the current version, and gives its digest. One that was imported before keeps its version. Its own key comes first, so
    /// that every version that was ever current is listed.
    pub(super) async fn publish(&self, manifest: &Manifest) -> Result<String, CliError> {
        let name = &manifest.name;
        let mut version = manifest.clone();
        for digest in self.versions(name, "").await? {
            if let Some((_, known)) = self.manifest(&version_key(name, &digest)).await?
                && known.is_like(manifest)
            {
                version = known;
                break;
            }
        }
        let bytes =
            serde_json::to_vec_pretty(&version).map_err(|error| CliError::fault("write the manifest", error))?;
        let digest = digest_of(&bytes);
        self.put(&version_key(name, &digest), bytes.clone()).await?;
        self.put(&manifest_key(name), bytes).await?;
        Ok(digest)
    }

    /// Removes a model: its manifest first, from then on there is none. Gives the number of its files.
    pub(super) async fn remove(&self, name: &str) -> Result<usize, CliError> {
        let keys = self.list(&format!("{name}/"), false).await?;
        if keys.is_empty() {
            return Err(CliError::Fault(format!("there is no model `{name}` in s3://{}", self.bucket)));
        }
        self.delete(&manifest_key(name)).await?;
        let (files, manifests): (Vec<_>, Vec<_>) = keys.iter().partition(|key| key.starts_with(&file_key(name, "")));
        for key in manifests.iter().chain(&files) {
            self.delete(key).await?;
        }
        Ok(files.len())
    }

    /// Removes a version that is not the current one, and the files that no other version has.
    pub(super) async fn remove_version(&self, asked: ModelRef<'_>) -> Result<usize, CliError> {
        let (digest, manifest) = self.find(asked).await?;
        let name = asked.name;
        if self.current(name).await?.is_some_and(|(current, _)| current == digest) {
            return Err(CliError::Usage(format!(
                "{name}@{} is the current version; import another one first, or remove `{name}` with all its versions",
                brief(&digest)
            )));
        }
        let mut kept = BTreeSet::new();
        for other in self.versions(name, "").await?.into_iter().filter(|other| *other != digest) {
            if let Some((_, other)) = self.manifest(&version_key(name, &other)).await? {
                kept.extend(other.files.into_iter().map(|file| file.sha256));
            }
        }
        self.delete(&version_key(name, &digest)).await?;
        let gone: BTreeSet<&str> = manifest
            .files
            .iter()
            .map(|file: &ModelFile| file.sha256.as_str())
            .filter(|sum| !kept.contains(*sum))
            .collect();
        for sum in &gone {
            self.delete(&file_key(name, sum)).await?;
        }
        Ok(gone.len())
    }
}

fn digest_of(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

pub(super) fn length(response: &http::Response<Incoming>) -> u64 {
    let text = response.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

/// What was asked for, unless it is not there. A bucket that is not there is an error all the same.
fn found(answer: Result<http::Response<Incoming>, CliError>) -> Result<Option<http::Response<Incoming>>, CliError> {
    match answer {
        Err(CliError::Refused { status, code, .. })
            if status == StatusCode::NOT_FOUND.as_u16() && code != "NoSuchBucket" =>
        {
            Ok(None)
        }
        answer => answer.map(Some),
    }
}
