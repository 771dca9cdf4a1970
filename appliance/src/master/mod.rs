//! The master keys: what wraps every other key and secret that lies on the disk.
//!
//! One key is *current* and wraps; old ones only unwrap, until nothing needs them. AES-256-GCM, random nonces, and the place
//! that a secret belongs to as associated data, so that none is taken for another. Which keys the data folder needs is
//! written in it ([`check`]): without one of them nothing starts.
//!
//! Absent on purpose: asking a key service for each object. A program may print the key at the start ([`source`]); a put never waits for one.

mod check;
mod source;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use parking_lot::Mutex;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

use self::check::Check;
pub use self::source::write_private;
use crate::config::EncryptionConfig;

/// Bytes of a master key.
pub const KEY_BYTES: usize = 32;
/// Most old keys. Unwrapping a text tries each.
const OLD_MAX: usize = 8;

/// Why the master keys cannot be used. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum MasterError {
    #[error("master key {from}: {problem}")]
    Source { from: String, problem: String },
    #[error("{path}: {problem}")]
    File { path: String, problem: String },
    #[error(
        "the data folder has secrets under the master key {id}, which none of the configured keys is. Put the right key back, or name it in encryption.old_master_keys"
    )]
    Missing { id: KeyId },
    #[error(
        "{what} cannot be opened with any of the configured master keys. Put the right key back, or name it in encryption.old_master_keys"
    )]
    Wrong { what: String },
    #[error("at most {OLD_MAX} old master keys are read")]
    TooMany,
    #[error("the system gave no random bytes")]
    Random,
}

/// Tells master keys apart without telling anything about them: a MAC under the key itself.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; 8]);

impl KeyId {
    #[must_use]
    pub fn bytes(self) -> [u8; 8] {
        self.0
    }

    #[must_use]
    pub fn of_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }
}

impl std::fmt::Display for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl std::fmt::Debug for KeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for KeyId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let bytes = hex::decode(&text).ok().and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        bytes.map(Self).ok_or_else(|| format!("`{text}` is no id of a master key"))
    }
}

struct Key {
    id: KeyId,
    aead: LessSafeKey,
    /// A longer MAC than the id, kept in the data folder.
    check: String,
}

impl Key {
    fn new(bytes: &[u8; KEY_BYTES]) -> Result<Self, MasterError> {
        let mac = |what: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, bytes), what.as_bytes());
        let mut id = [0; 8];
        id.copy_from_slice(&mac("backlot master key id").as_ref()[..8]);
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| MasterError::Random)?;
        let check = hex::encode(mac("backlot master key check"));
        Ok(Self { id: KeyId(id), aead: LessSafeKey::new(key), check })
    }

    fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = wrapped.split_at_checked(NONCE_LEN)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        self.aead.open_in_place(nonce, Aad::from(context), &mut sealed).ok().map(|secret| secret.to_vec())
    }
}

/// The keys. Cheap to clone.
#[derive(Clone)]
pub struct MasterKeys(Arc<Inner>);

struct Inner {
    current: Key,
    old: Vec<Key>,
    path: PathBuf,
    check: Mutex<Check>,
}

impl MasterKeys {
    /// Reads the keys that `config` names and compares them with what the data folder needs. Makes the default key at the
    /// first start.
    ///
    /// # Errors
    /// A key cannot be read, or one that the folder needs is not among them.
    pub fn open(data: &Path, config: &EncryptionConfig) -> Result<Self, MasterError> {
        let path = data.join("master.check");
        let known = Check::read(&path)?;
        if config.old_master_keys.len() > OLD_MAX {
            return Err(MasterError::TooMany);
        }
        let first = known.is_none();
        let current = Key::new(&source::read(&config.master_key, data, first)?)?;
        let old = config.old_master_keys.iter().map(|from| Key::new(&source::read(from, data, false)?));
        let old = old.collect::<Result<Vec<_>, _>>()?;
        let mut check = known.unwrap_or_default();
        for needed in check.ids() {
            let found = std::iter::once(&current).chain(&old).find(|key| key.id == needed);
            if found.is_none_or(|key| !check.agrees(key.id, &key.check)) {
                return Err(MasterError::Missing { id: needed });
            }
        }
        if check.add(current.id, &current.check) {
            check.write(&path)?; // before anything is wrapped with it
        }
        Ok(Self(Arc::new(Inner { current, old, path, check: Mutex::new(check) })))
    }

    /// Keys of a test, in memory but for the check.
    #[cfg(test)]
    pub fn in_folder(data: &Path) -> Self {
        Self::open(data, &EncryptionConfig::default()).unwrap()
    }

    /// The key that wraps.
    #[must_use]
    pub fn current(&self) -> KeyId {
        self.0.current.id
    }

    /// Old keys that something in the data folder may still need.
    #[must_use]
    pub fn old_in_use(&self) -> Vec<KeyId> {
        let current = self.current();
        self.0.check.lock().ids().into_iter().filter(|id| *id != current).collect()
    }

    /// Nothing in the data folder is wrapped with the old key `id` any more: it need not be configured from now on.
    ///
    /// # Errors
    /// The folder does not take the note.
    pub fn retire(&self, id: KeyId) -> Result<(), MasterError> {
        let mut check = self.0.check.lock();
        if id != self.current() && check.remove(id) {
            check.write(&self.0.path)?;
        }
        Ok(())
    }

    /// `secret` under the current key, for `context` alone.
    ///
    /// # Errors
    /// [`MasterError::Random`].
    pub fn wrap(&self, context: &[u8], secret: &[u8]) -> Result<Vec<u8>, MasterError> {
        let nonce: [u8; NONCE_LEN] = random()?;
        let mut bytes = secret.to_vec();
        self.0
            .current
            .aead
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut bytes)
            .map_err(|_| MasterError::Random)?;
        Ok([&nonce[..], &bytes].concat())
    }

    /// Opens what [`MasterKeys::wrap`] made under the key `id`. `None`: it is not that key, or not for that context.
    #[must_use]
    pub fn unwrap_with(&self, id: KeyId, context: &[u8], wrapped: &[u8]) -> Option<Vec<u8>> {
        self.keys().find(|key| key.id == id)?.unwrap(context, wrapped)
    }

    /// The same as text, for what does not keep the key's id beside it.
    ///
    /// # Errors
    /// [`MasterError::Random`].
    pub fn wrap_text(&self, name: &str, secret: &[u8]) -> Result<String, MasterError> {
        Ok(BASE64.encode(self.wrap(name.as_bytes(), secret)?))
    }

    /// Opens what [`MasterKeys::wrap_text`] made, under whichever key it was, and tells whether that is the current one.
    #[must_use]
    pub fn unwrap_text(&self, name: &str, wrapped: &str) -> Option<(Vec<u8>, bool)> {
        let bytes = BASE64.decode(wrapped).ok()?;
        let opened = self.keys().find_map(|key| Some((key.unwrap(name.as_bytes(), &bytes)?, key.id)));
        opened.map(|(secret, id)| (secret, id == self.current()))
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        std::iter::once(&self.0.current).chain(&self.0.old)
    }
}

/// Random bytes.
///
/// # Errors
/// [`MasterError::Random`].
pub fn random<const N: usize>() -> Result<[u8; N], MasterError> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| MasterError::Random)?;
    Ok(bytes)
}

/// Writes a new random key to `path`, which must not exist, for its owner alone.
///
/// # Errors
/// [`MasterError::File`].
pub fn new_key(path: &Path) -> Result<KeyId, MasterError> {
    if path.exists() {
        let problem = "exists; a key is never written over".into();
        return Err(MasterError::File { path: path.display().to_string(), problem });
    }
    let bytes: [u8; KEY_BYTES] = random()?;
    write_private(path, &bytes)?;
    Ok(Key::new(&bytes)?.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(current: &str, old: &[&str]) -> EncryptionConfig {
        let old_master_keys = old.iter().map(|&key| key.to_owned()).collect();
        EncryptionConfig { master_key: current.into(), old_master_keys, ..EncryptionConfig::default() }
    }

    #[test]
    fn a_secret_opens_with_its_own_key_and_context_only() {
        let folder = tempfile::tempdir().unwrap();
        let master = MasterKeys::in_folder(folder.path());
        let wrapped = master.wrap_text("BLK1", b"secret").unwrap();
        assert_eq!(master.unwrap_text("BLK1", &wrapped), Some((b"secret".to_vec(), true)));
        assert_eq!(master.unwrap_text("BLK2", &wrapped), None);
        assert_eq!(master.unwrap_text("BLK1", "@@"), None);
        let again = MasterKeys::in_folder(folder.path());
        assert_eq!(again.unwrap_text("BLK1", &wrapped), Some((b"secret".to_vec(), true)));
        let elsewhere = tempfile::tempdir().unwrap();
        assert_eq!(MasterKeys::in_folder(elsewhere.path()).unwrap_text("BLK1", &wrapped), None);
        let bytes = master.wrap(b"c", b"x").unwrap();
        assert_eq!(master.unwrap_with(master.current(), b"c", &bytes).unwrap(), b"x");
        assert_eq!(master.unwrap_with(KeyId([0; 8]), b"c", &bytes), None);
    }

    #[test]
    fn nothing_opens_without_a_key_that_the_folder_needs() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        MasterKeys::in_folder(data);
        // Another key in its place, and none at all: the folder knows that it had one.
        let kept = std::fs::read(data.join("master.key")).unwrap();
        std::fs::write(data.join("master.key"), [7; 32]).unwrap();
        let refused = |config: &EncryptionConfig| MasterKeys::open(data, config).err().unwrap().to_string();
        assert!(refused(&EncryptionConfig::default()).contains("old_master_keys"));
        std::fs::remove_file(data.join("master.key")).unwrap();
        assert!(refused(&EncryptionConfig::default()).contains("master.key"));
        assert!(!data.join("master.key").exists(), "no new key takes the place of a lost one");
        std::fs::write(data.join("master.key"), &kept[..31]).unwrap();
        assert!(refused(&EncryptionConfig::default()).contains("32"));
        std::fs::write(data.join("master.key"), &kept).unwrap();
        MasterKeys::in_folder(data);
    }

    #[test]
    fn an_old_key_is_needed_until_it_is_retired() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let first = MasterKeys::in_folder(data);
        let wrapped = first.wrap_text("a", b"secret").unwrap();
        let (new, old) = (data.join("new.key"), data.join("master.key"));
        new_key(&new).unwrap();
        assert!(new_key(&new).is_err(), "a key is never written over");
        let (new, old) = (format!("file:{}", new.display()), format!("file:{}", old.display()));
        assert!(MasterKeys::open(data, &config(&new, &[])).is_err());
        let both = MasterKeys::open(data, &config(&new, &[&old])).unwrap();
        assert_eq!(both.unwrap_text("a", &wrapped), Some((b"secret".to_vec(), false)));
        assert_eq!(both.old_in_use(), [first.current()]);
        assert!(MasterKeys::open(data, &config(&new, &[])).is_err());
        both.retire(both.current()).unwrap(); // never the current one
        both.retire(first.current()).unwrap();
        let alone = MasterKeys::open(data, &config(&new, &[])).unwrap();
        assert_eq!((alone.current(), alone.old_in_use().len()), (both.current(), 0));
    }
}
