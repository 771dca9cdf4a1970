//! Who holds the key of an object: the master key (SSE-S3 and, with a name, SSE-KMS), or the customer (SSE-C).
//!
//! An object's row has its data key wrapped. A customer's key is used and forgotten: that the wrapped key opens with it is
//! the only check that is kept. What a name of a KMS key means here is that it is given back: the master key wraps.
//!
//! Invariant: without the key there is an error, never bytes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest as _, Md5};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use super::Artifacts;
use super::checksums::Digest;
use super::documents::DocumentKind;
use super::error::ArtifactError;
use super::model::UploadRow;
use super::multipart::UploadName;
use super::seal::{DATA_KEY_BYTES, DataKey};
use crate::master::{KeyId, random};

/// Longest name of a KMS key.
pub(super) const KMS_KEY_BYTES_MAX: usize = 256;
/// The name that is told where a request asks for KMS and names no key.
const KMS_KEY_DEFAULT: &str = "alias/aws/s3";

/// How an object is encrypted, as its row says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Nonce, data key and tag.
    #[serde(rename = "w")]
    wrapped: Digest,
    /// Id of the master key that wraps; absent where the customer's does.
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    master: Option<u64>,
    /// Name of a KMS key, as the client gave it.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    #[serde(rename = "b", default, skip_serializing_if = "std::ops::Not::not")]
    pub bucket_key: bool,
}

impl Seal {
    /// Whether only the customer can open it.
    #[must_use]
    pub fn is_customers(&self) -> bool {
        self.master.is_none()
    }

    /// The master key that wraps its key.
    pub(super) fn master(&self) -> Option<KeyId> {
        self.master.map(|id| KeyId::of_bytes(id.to_be_bytes()))
    }

    /// Whether the ETag is the MD5 of the bytes, as AWS has it: under KMS and a customer's key it tells nothing of them.
    pub(super) fn shows_md5(&self) -> bool {
        self.master.is_some() && self.kms_key.is_none()
    }

    #[cfg(test)]
    pub(super) fn longest() -> Self {
        let kms_key = Some("k".repeat(KMS_KEY_BYTES_MAX));
        Self { wrapped: Digest(vec![0xff; 60]), master: Some(u64::MAX), kms_key, bucket_key: true }
    }
}

/// Encryption with a key that is kept here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// SSE-KMS: the name to give back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kms_key: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bucket_key: bool,
}

impl Kept {
    /// SSE-KMS with this key, or with the default one.
    ///
    /// # Errors
    /// [`ArtifactError::InvalidArgument`] for a name that is too long or no text.
    pub fn kms(key: Option<String>, bucket_key: bool) -> Result<Self, ArtifactError> {
        let key = key.filter(|key| !key.is_empty()).unwrap_or_else(|| KMS_KEY_DEFAULT.into());
        if key.len() > KMS_KEY_BYTES_MAX || key.chars().any(|c| !c.is_ascii_graphic()) {
            let problem = format!("the name of a KMS key is up to {KMS_KEY_BYTES_MAX} printable ASCII characters");
            return Err(ArtifactError::InvalidArgument(problem));
        }
        Ok(Self { kms_key: Some(key), bucket_key })
    }
}

/// A customer's key, for as long as the request lives.
#[derive(Clone)]
pub struct CustomerKey([u8; DATA_KEY_BYTES]);

impl std::fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CustomerKey")
    }
}

impl CustomerKey {
    /// Reads the key and its MD5 as the headers have them.
    ///
    /// # Errors
    /// [`ArtifactError::InvalidArgument`], in the words of AWS.
    pub fn read(key: &str, md5: &str) -> Result<Self, ArtifactError> {
        let refused = |problem: &str| ArtifactError::InvalidArgument(problem.into());
        let key = BASE64.decode(key.trim()).ok().and_then(|key| <[u8; DATA_KEY_BYTES]>::try_from(key).ok());
        let key = key.ok_or_else(|| refused("The secret key was invalid for the specified algorithm."))?;
        let md5 = BASE64.decode(md5.trim()).unwrap_or_default();
        if !bool::from(Md5::digest(key).as_slice().ct_eq(&md5)) {
            let problem = "The calculated MD5 hash of the key did not match the hash that was provided.";
            return Err(refused(problem));
        }
        Ok(Self(key))
    }

    /// As it is told in an answer.
    #[must_use]
    pub fn md5(&self) -> String {
        BASE64.encode(Md5::digest(self.0))
    }

    fn aead(&self) -> Result<LessSafeKey, ArtifactError> {
        let failed = |_| ArtifactError::fault("use a key")("its length is wrong".into());
        Ok(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.0).map_err(failed)?))
    }

    fn wrap(&self, context: &[u8], key: &DataKey) -> Result<Vec<u8>, ArtifactError> {
        let fault = |problem: String| ArtifactError::fault("wrap a key")(problem);
        let nonce: [u8; NONCE_LEN] = random().map_err(|error| fault(error.to_string()))?;
        let mut bytes = key.bytes().to_vec();
        let sealed =
            self.aead()?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut bytes);
        sealed.map_err(|_| fault("it was not encrypted".into()))?;
        Ok([&nonce[..], &bytes].concat())
    }

    fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = wrapped.split_at_checked(NONCE_LEN)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        self.aead().ok()?.open_in_place(nonce, Aad::from(context), &mut sealed).ok().map(|key| key.to_vec())
    }
}

/// What a request says of the encryption of what it puts.
#[derive(Clone, Debug, Default)]
pub enum SealAsked {
    /// The bucket decides.
    #[default]
    Nothing,
    Kept(Kept),
    Customer(CustomerKey),
}

/// The key under which bytes are taken in, and what their row says of it.
#[derive(Clone)]
pub struct Sealer {
    pub(super) seal: Seal,
    pub(super) key: DataKey,
}

/// What a wrapped key belongs to.
fn context(bucket: &str, key: &str) -> Vec<u8> {
    [b"object\0", bucket.as_bytes(), b"\0", key.as_bytes()].concat()
}

fn read_default(document: &[u8]) -> Result<Kept, String> {
    serde_json::from_slice(document).map_err(|error| error.to_string())
}

impl Artifacts {
    /// A fresh key for an object, if it is to be encrypted.
    ///
    /// # Errors
    /// No random bytes; the bucket's default cannot be read.
    pub fn sealer(&self, bucket: &str, key: &str, asked: &SealAsked) -> Result<Option<Sealer>, ArtifactError> {
        let default;
        let kept = match asked {
            SealAsked::Customer(customer) => {
                let data = DataKey::random()?;
                let wrapped = Digest(customer.wrap(&context(bucket, key), &data)?);
                let seal = Seal { wrapped, master: None, kms_key: None, bucket_key: false };
                return Ok(Some(Sealer { seal, key: data }));
            }
            SealAsked::Kept(kept) => kept,
            SealAsked::Nothing => match self.default_seal(bucket)? {
                Some(kept) => {
                    default = kept;
                    &default
                }
                None => return Ok(None),
            },
        };
        let data = DataKey::random()?;
        let (master, wrapped) = self.wrap(bucket, key, &data)?;
        let Kept { kms_key, bucket_key } = kept.clone();
        Ok(Some(Sealer { seal: Seal { wrapped, master: Some(master), kms_key, bucket_key }, key: data }))
    }

    /// How a bucket's objects are encrypted whose requests say nothing: as the bucket has it, else as the configuration has it.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`]; what is stored is not understood.
    pub fn default_seal(&self, bucket: &str) -> Result<Option<Kept>, ArtifactError> {
        match self.document(bucket, DocumentKind::Encryption)? {
            Some(document) => document.read(read_default).map(|kept| Some(kept.clone())),
            None => Ok(self.0.encryption.all_objects.then(Kept::default)),
        }
    }

    /// Sets or takes away a bucket's own.
    ///
    /// # Errors
    /// [`ArtifactError::NoSuchBucket`].
    pub async fn set_default_seal(&self, bucket: &str, kept: Option<&Kept>) -> Result<(), ArtifactError> {
        let failed = |error: serde_json::Error| ArtifactError::fault("write a document")(error.to_string());
        let document = kept.map(serde_json::to_vec).transpose().map_err(failed)?;
        self.set_document(bucket, DocumentKind::Encryption, document).await
    }

    fn wrap(&self, bucket: &str, key: &str, data: &DataKey) -> Result<(u64, Digest), ArtifactError> {
        let master = &self.0.master;
        let wrapped = master.wrap(&context(bucket, key), data.bytes());
        let wrapped = wrapped.map_err(|error| ArtifactError::fault("wrap a key")(error.to_string()))?;
        Ok((u64::from_be_bytes(master.current().bytes()), Digest(wrapped)))
    }

    /// The key of an object; `None` for one that is not encrypted.
    ///
    /// # Errors
    /// [`ArtifactError::InvalidRequest`]: the customer's key is missing, another one, or for an object that has none.
    /// [`ArtifactError::Damaged`]: the key does not open.
    pub(super) fn data_key(
        &self,
        bucket: &str,
        key: &str,
        seal: Option<&Seal>,
        customer: Option<&CustomerKey>,
    ) -> Result<Option<DataKey>, ArtifactError> {
        let refused = |problem: &str| Err(ArtifactError::InvalidRequest(problem.into()));
        let context = context(bucket, key);
        let opened = match (seal, customer) {
            (None, None) => return Ok(None),
            (Some(seal), Some(customer)) if seal.is_customers() => match customer.unwrap(&context, &seal.wrapped.0) {
                Some(opened) => Some(opened),
                None => return refused("the key is not the one that the object was encrypted with"),
            },
            (Some(seal), None) => match seal.master() {
                Some(master) => self.0.master.unwrap_with(master, &context, &seal.wrapped.0),
                None => {
                    return refused(
                        "The object was stored using a form of Server Side Encryption. The correct parameters must be provided to retrieve the object.",
                    );
                }
            },
            (_, Some(_)) => return refused("The encryption parameters are not applicable to this object."),
        };
        match opened.as_deref().and_then(DataKey::of) {
            Some(opened) => Ok(Some(opened)),
            None => {
                let master = seal.and_then(Seal::master).map_or_else(String::new, |id| id.to_string());
                let problem = format!("its key does not open with the master key {master}");
                Err(ArtifactError::Damaged { bucket: bucket.to_owned(), key: key.to_owned(), problem })
            }
        }
    }

    /// The key under which the parts of an upload are taken in.
    ///
    /// # Errors
    /// As those of reading an object that is encrypted like this.
    pub fn upload_sealer(
        &self,
        name: &UploadName,
        upload: &UploadRow,
        customer: Option<&CustomerKey>,
    ) -> Result<Option<Sealer>, ArtifactError> {
        let key = self.data_key(&name.bucket, &name.key, upload.seal.as_ref(), customer)?;
        Ok(upload.seal.clone().zip(key).map(|(seal, key)| Sealer { seal, key }))
    }

    /// The same seal under the current master key; `None` where it is already, or is a customer's.
    pub(super) fn rewrapped(&self, bucket: &str, key: &str, seal: &Seal) -> Result<Option<Seal>, ArtifactError> {
        let current = self.0.master.current();
        if seal.master().is_none_or(|master| master == current) {
            return Ok(None);
        }
        let Some(data) = self.data_key(bucket, key, Some(seal), None)? else { return Ok(None) };
        let (master, wrapped) = self.wrap(bucket, key, &data)?;
        Ok(Some(Seal { wrapped, master: Some(master), ..seal.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs=";
    const MD5: &str = "DWygnHRtgiJ77HCm+1rvHw==";

    #[test]
    fn a_customers_key_is_taken_with_its_own_md5_only_and_never_shown() {
        let key = CustomerKey::read(KEY, MD5).unwrap();
        assert_eq!((key.md5().as_str(), format!("{key:?}").as_str()), (MD5, "CustomerKey"));
        for (key, md5) in [(KEY, "AAAAAAAAAAAAAAAAAAAAAA=="), (KEY, ""), ("AAAA", MD5), ("", ""), (KEY, "?")] {
            assert!(CustomerKey::read(key, md5).is_err(), "{key} {md5}");
        }
    }

    #[test]
    fn a_wrapped_key_opens_for_its_own_object_only() {
        let (customer, data) = (CustomerKey([1; 32]), DataKey::random().unwrap());
        let wrapped = customer.wrap(&context("b", "k"), &data).unwrap();
        assert_eq!(customer.unwrap(&context("b", "k"), &wrapped).unwrap(), data.bytes());
        assert!(customer.unwrap(&context("b", "l"), &wrapped).is_none());
        assert!(CustomerKey([2; 32]).unwrap(&context("b", "k"), &wrapped).is_none());
        assert!(customer.unwrap(&context("b", "k"), &wrapped[..11]).is_none());
    }

    #[test]
    fn the_name_of_a_kms_key_is_kept_as_it_was_given() {
        assert_eq!(Kept::kms(None, false).unwrap().kms_key.as_deref(), Some(KMS_KEY_DEFAULT));
        assert_eq!(Kept::kms(Some("testkey-1".into()), true).unwrap().kms_key.as_deref(), Some("testkey-1"));
        assert!(Kept::kms(Some("a\nb".into()), false).is_err());
        assert!(Kept::kms(Some("k".repeat(257)), false).is_err());
    }
}
