//! Where artifacts are read, and what was made of them is kept: in this machine's own store, or in the other S3 that it is a door to.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use sha2::{Digest, Sha256};

use super::{BUCKET, MediaError, OF, PICTURE_BYTES_MAX};
use crate::artifacts::conditions::ReadConditions;
use crate::artifacts::door::{ReadError, gather, text};
use crate::artifacts::engine::{Put, Wanted};
use crate::artifacts::error::ArtifactError;
use crate::artifacts::model::{ContentHeaders, Description};
use crate::artifacts::seal_keys::{Kept, Seal, SealAsked};
use crate::artifacts::{Artifacts, Taking, Upstream};

/// Bytes of an artifact, as they come.
pub(super) type Pieces = BoxStream<'static, Result<Bytes, MediaError>>;

#[derive(Clone)]
pub enum Library {
    Own(Artifacts),
    Other(Upstream),
}

/// What is asked of an artifact before it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) content_type: Option<String>,
    pub(super) size: u64,
    /// Of these bytes: another put under the same name is another. Hexadecimal.
    pub(super) version: String,
    /// Whether what shows it is to be encrypted, too. The other S3 knows that by itself.
    pub(super) sealed: bool,
    pub(super) customers_key: bool,
}

impl Library {
    pub(super) async fn head(&self, bucket: &str, key: &str) -> Result<Head, MediaError> {
        match self {
            Self::Own(artifacts) => {
                let row = artifacts.head(bucket, key)?;
                Ok(Head {
                    version: row.version.simple().to_string(),
                    size: row.size,
                    sealed: row.seal.is_some(),
                    customers_key: row.seal.as_ref().is_some_and(Seal::is_customers),
                    content_type: row.description.headers.content_type,
                })
            }
            Self::Other(upstream) => match upstream.object(Method::HEAD, bucket, key, HeaderMap::new()).await {
                Ok(answer) => Ok(head_of(bucket, key, answer.headers())),
                Err(ReadError::Refused { status: StatusCode::NOT_FOUND, .. }) => {
                    Err(ArtifactError::NoSuchKey { bucket: bucket.to_owned(), key: key.to_owned() }.into())
                }
                // What a HEAD without the customer's key is answered with.
                Err(ReadError::Refused { status: StatusCode::BAD_REQUEST, .. }) => Err(MediaError::CustomersKey),
                Err(error) => Err(error.into()),
            },
        }
    }

    pub(super) async fn get(&self, bucket: &str, key: &str) -> Result<Pieces, MediaError> {
        match self {
            Self::Own(artifacts) => {
                let got = artifacts.get(bucket, key, Wanted::All, &ReadConditions::default()).await?;
                Ok(got.stream.map_err(MediaError::from).boxed())
            }
            Self::Other(upstream) => {
                let answer = upstream.object(Method::GET, bucket, key, HeaderMap::new()).await?;
                let pieces = answer.into_body().into_data_stream();
                Ok(pieces.map_err(|error| ReadError::Unreadable(error.to_string()).into()).boxed())
            }
        }
    }

    /// What is kept as `name`.
    pub(super) async fn kept(&self, name: &str) -> Result<Option<Bytes>, MediaError> {
        match self {
            Self::Own(artifacts) => match artifacts.get(BUCKET, name, Wanted::All, &ReadConditions::default()).await {
                Ok(got) => {
                    let length = usize::try_from(got.stream.remaining()).unwrap_or_default();
                    Ok(Some(super::gather(got.stream.map_err(MediaError::from).boxed(), length).await?))
                }
                Err(ArtifactError::NoSuchKey { .. } | ArtifactError::NoSuchBucket(_)) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Self::Other(upstream) => match upstream.object(Method::GET, BUCKET, name, HeaderMap::new()).await {
                Ok(answer) => Ok(Some(gather(answer, usize::try_from(PICTURE_BYTES_MAX).unwrap_or(usize::MAX)).await?)),
                // A store that lets nobody know what is not there says 403.
                Err(ReadError::Refused { status: StatusCode::NOT_FOUND | StatusCode::FORBIDDEN, .. }) => Ok(None),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Keeps `bytes` as `name`; `key` is what they show. In the other S3, only where its bucket is there: it is not ours to make.
    pub(super) async fn keep(
        &self,
        name: String,
        content_type: &'static str,
        (key, shown): (&str, &Head),
        bytes: Bytes,
    ) -> Result<(), MediaError> {
        let of = URL_SAFE_NO_PAD.encode(key);
        match self {
            Self::Own(artifacts) => {
                artifacts.ensure_bucket(BUCKET).await?;
                // What shows an encrypted artifact is encrypted too.
                let asked = if shown.sealed { SealAsked::Kept(Kept::default()) } else { SealAsked::Nothing };
                let body = futures::stream::iter([Ok(bytes)]);
                let sealer = artifacts.sealer(BUCKET, &name, &asked)?;
                let received = artifacts.receive(body, None, PICTURE_BYTES_MAX, Taking::object(sealer)).await?;
                let put = Put {
                    bucket: BUCKET.to_owned(),
                    key: name,
                    description: Description {
                        headers: ContentHeaders {
                            content_type: Some(content_type.to_owned()),
                            ..ContentHeaders::default()
                        },
                        metadata: vec![(OF.to_owned(), of)],
                        ..Description::default()
                    },
                    ..Put::default()
                };
                artifacts.put(put, received).await?;
                Ok(())
            }
            Self::Other(upstream) => {
                let mut headers = HeaderMap::new();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
                if let Ok(of) = HeaderValue::try_from(of) {
                    headers.insert("x-amz-meta-of", of);
                }
                if let Err(error) = upstream.put_small(BUCKET, &name, headers, bytes).await {
                    tracing::warn!(%error, bucket = BUCKET, "a preview was made and could not be kept in the other S3");
                }
                Ok(())
            }
        }
    }
}

fn head_of(bucket: &str, key: &str, headers: &HeaderMap) -> Head {
    let told = |name| text(headers, name).unwrap_or_default();
    let mut hash = Sha256::new();
    for part in [bucket, key, told(header::ETAG), told(header::LAST_MODIFIED), told(header::CONTENT_LENGTH)] {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    }
    Head {
        content_type: text(headers, header::CONTENT_TYPE).map(str::to_owned),
        size: told(header::CONTENT_LENGTH).parse().unwrap_or_default(),
        version: hex::encode(&hash.finalize()[..16]),
        sealed: false,
        customers_key: false,
    }
}
