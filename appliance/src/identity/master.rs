//! The master key, which wraps the secrets: AES-256-GCM, the key's id as associated data.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::IdentityError;

pub(super) struct MasterKey {
    key: LessSafeKey,
}

impl MasterKey {
    /// Reads the key at `path`, or makes it at the first start.
    pub(super) fn open(path: &Path) -> Result<Self, IdentityError> {
        let problem = |problem: String| IdentityError::File { path: path.display().to_string(), problem };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut bytes = vec![0; 32];
                SystemRandom::new().fill(&mut bytes).map_err(|_| IdentityError::Random)?;
                write_private(path, &bytes)?;
                bytes
            }
            Err(error) => return Err(problem(error.to_string())),
        };
        let key = UnboundKey::new(&AES_256_GCM, &bytes).map_err(|_| {
            problem(format!("holds {} bytes, but a master key has 32; put the right file back", bytes.len()))
        })?;
        Ok(Self { key: LessSafeKey::new(key) })
    }

    pub(super) fn wrap(&self, key_id: &str, secret: &[u8]) -> Result<String, IdentityError> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).map_err(|_| IdentityError::Random)?;
        let mut bytes = secret.to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key_id), &mut bytes)
            .map_err(|_| IdentityError::Random)?;
        Ok(BASE64.encode([&nonce[..], &bytes].concat()))
    }

    /// `None` when the secret was wrapped by another master key or for another id.
    pub(super) fn unwrap(&self, key_id: &str, wrapped: &str) -> Option<Vec<u8>> {
        let bytes = BASE64.decode(wrapped).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        self.key.open_in_place(nonce, Aad::from(key_id), &mut sealed).ok().map(|secret| secret.to_vec())
    }
}

/// Writes a file that nobody else may read, whole or not at all: temporary name, fsync, rename, fsync of the folder.
pub(super) fn write_private(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let write = || -> std::io::Result<()> {
        let temporary = path.with_extension("new");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |folder| std::fs::File::open(folder)?.sync_all())
    };
    write().map_err(|error| IdentityError::File { path: path.display().to_string(), problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_with_its_own_key_and_id_only() {
        let folder = tempfile::tempdir().unwrap();
        let master = MasterKey::open(&folder.path().join("master.key")).unwrap();
        let wrapped = master.wrap("BLK1", b"secret").unwrap();
        assert_eq!(master.unwrap("BLK1", &wrapped).as_deref(), Some(&b"secret"[..]));
        assert_eq!(master.unwrap("BLK2", &wrapped), None);
        let again = MasterKey::open(&folder.path().join("master.key")).unwrap();
        assert_eq!(again.unwrap("BLK1", &wrapped).as_deref(), Some(&b"secret"[..]));
        let other = MasterKey::open(&folder.path().join("other.key")).unwrap();
        assert_eq!(other.unwrap("BLK1", &wrapped), None);
        assert_eq!(other.unwrap("BLK1", "@@"), None);
    }

    #[test]
    fn a_damaged_master_key_stops_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        std::fs::write(&path, b"short").unwrap();
        assert!(MasterKey::open(&path).err().unwrap().to_string().contains("32"));
    }
}
