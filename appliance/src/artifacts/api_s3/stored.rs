//! Bucket documents that are kept as the XML that S3 writes them in.

use std::any::Any;
use std::sync::Arc;

use s3s::S3Result;
use s3s::xml::{Deserialize, Deserializer, Serialize, Serializer};

use super::convert::{self, error};
use crate::artifacts::documents::{Document, DocumentKind};
use crate::artifacts::{ArtifactError, Artifacts};

/// A configuration as its document.
pub(super) fn write<T: Serialize>(value: &T) -> S3Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let written = value.serialize(&mut Serializer::new(&mut bytes));
    written.map_err(|problem| error(ArtifactError::fault("write a bucket's document")(problem.to_string())))?;
    Ok(bytes)
}

/// What [`write`] wrote.
pub(super) fn read<T: for<'xml> Deserialize<'xml>>(bytes: &[u8]) -> Result<T, String> {
    let mut deserializer = Deserializer::new(bytes);
    let value = T::deserialize(&mut deserializer).map_err(|problem| problem.to_string())?;
    deserializer.expect_eof().map_err(|problem| problem.to_string())?;
    Ok(value)
}

/// A bucket's document and how it is read.
pub(super) struct Stored(pub(super) Arc<Document>);

impl Stored {
    pub(super) fn of(artifacts: &Artifacts, bucket: &str, kind: DocumentKind) -> Result<Option<Self>, ArtifactError> {
        Ok(artifacts.document(bucket, kind)?.map(Self))
    }

    pub(super) fn value<T>(&self) -> Result<&T, ArtifactError>
    where
        T: for<'xml> Deserialize<'xml> + Any + Send + Sync,
    {
        self.0.read(read::<T>)
    }
}

/// A bucket's configuration of one kind, for giving it back.
pub(super) fn held<T>(artifacts: &Artifacts, bucket: &str, kind: DocumentKind) -> S3Result<Option<T>>
where
    T: for<'xml> Deserialize<'xml> + Any + Send + Sync + Clone,
{
    let stored = Stored::of(artifacts, bucket, kind).map_err(error)?;
    stored.map(|stored| stored.value::<T>().cloned().map_err(error)).transpose()
}

/// The same, or the error, by its code and text, that says that there is none.
pub(super) fn required<T>(
    artifacts: &Artifacts,
    bucket: &str,
    kind: DocumentKind,
    (code, text): (&'static str, &'static str),
) -> S3Result<T>
where
    T: for<'xml> Deserialize<'xml> + Any + Send + Sync + Clone,
{
    held(artifacts, bucket, kind)?.ok_or_else(|| convert::custom(code, http::StatusCode::NOT_FOUND, text.into()))
}

/// Keeps `value` as the bucket's configuration of its kind.
pub(super) async fn keep<T: Serialize>(
    artifacts: &Artifacts,
    bucket: &str,
    kind: DocumentKind,
    value: &T,
) -> S3Result<()> {
    artifacts.set_document(bucket, kind, Some(write(value)?)).await.map_err(error)
}

/// Takes the bucket's configuration of a kind away.
pub(super) async fn forget(artifacts: &Artifacts, bucket: &str, kind: DocumentKind) -> S3Result<()> {
    artifacts.set_document(bucket, kind, None).await.map_err(error)
}
