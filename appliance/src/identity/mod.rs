//! Keys, roles and sessions: who may call, and as what.
//!
//! One access key serves all doors. Its secret is kept wrapped by the master key, not hashed, because SigV4
//! needs it in the clear for each verification; the tokens of sessions are random and kept hashed, in memory only,
//! so a restart signs everybody out. Comparisons of secrets take the same time whatever they compare.
//!
//! A key belongs to the house or to an [`Account`], which is an owner of buckets and nothing else.
//!
//! Absent on purpose: users and passwords. A studio's people sign in with a key of their own.

mod accounts;
mod keys;
mod sessions;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use backlot_journal::{Class, Lsn};
use parking_lot::RwLock;
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq;

use crate::catalogue::{Batch, Catalogue, Table};
use crate::clock::{Clock, Now};
use crate::control::{Commit, Control, ControlError, Follower, Kind, Permit, Record};
use crate::master::{self, MasterError, MasterKeys};
pub use accounts::Account;
use keys::{Change, StoredKey};
pub use keys::{KeyInfo, fuzz_journal};
pub use sessions::SESSION_LIFE_S;
use sessions::Sessions;

/// Most keys that may exist.
const KEYS_MAX: usize = 10_000;
/// The key that the appliance reports its own signals with. It exists in memory only.
const INTERNAL_KEY: &str = "backlot-internal";
/// The key of `--dev`.
const DEV_KEY: (&str, &str) = ("test", "test");

/// What a key may do. Admin may everything; operator acts on jobs, queues, artifacts and alerts; viewer reads; agent
/// takes jobs, reads and writes artifacts, reports attempts and ships signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Admin,
    Operator,
    Viewer,
    Agent,
}

impl Role {
    /// May change queues, jobs, artifacts, alerts.
    #[must_use]
    pub fn operates(self) -> bool {
        matches!(self, Self::Admin | Self::Operator)
    }

    /// May take jobs and report on them, write artifacts, ship signals.
    #[must_use]
    pub fn works(self) -> bool {
        self.operates() || self == Self::Agent
    }
}

/// Who calls: made by the edge from a verified signature, password or session, and put into the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub key_id: String,
    pub role: Role,
    pub account: Account,
}

/// An access key with its secret in the clear: what a new key is answered with, once.
#[derive(Clone)]
pub struct Credential {
    pub key_id: String,
    pub secret: String,
    pub role: Role,
}

impl Credential {
    /// A credential with which the appliance ships its own signals through its own doors. It lives as long as the process.
    ///
    /// # Errors
    /// [`IdentityError::Random`].
    pub fn internal() -> Result<Self, IdentityError> {
        Ok(Self { key_id: INTERNAL_KEY.into(), secret: random_text(40)?, role: Role::Agent })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(transparent)]
    Master(#[from] MasterError),
    #[error("key {0} does not exist")]
    NoSuchKey(String),
    #[error("key {0} is the last admin key; make another one before it is revoked")]
    LastAdmin(String),
    #[error("an account's keys are operator, viewer or agent; an admin's key is the house's")]
    AdminOfAccount,
    #[error("there are {KEYS_MAX} keys, which is the most; revoke some")]
    TooMany,
    #[error("the system gave no random bytes")]
    Random,
    #[error(transparent)]
    Control(#[from] ControlError),
}

/// The keys and sessions of this appliance. Cheap to clone.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

struct Inner {
    control: Control,
    clock: Arc<dyn Clock>,
    master: MasterKeys,
    keys: RwLock<HashMap<String, StoredKey>>,
    /// Keys of this process alone, in the clear: the internal one, and that of `--dev`.
    own: HashMap<String, Credential>,
    sessions: Sessions,
}

impl Identity {
    /// `master` wraps the secrets. `internal` is the process's own credential ([`Credential::internal`]); `dev` adds the key
    /// `test`/`test`.
    #[must_use]
    pub fn build(control: Control, clock: Arc<dyn Clock>, master: MasterKeys, internal: Credential, dev: bool) -> Self {
        let mut own = HashMap::new();
        own.insert(internal.key_id.clone(), internal);
        if dev {
            let (id, secret) = DEV_KEY;
            own.insert(id.into(), Credential { key_id: id.into(), secret: secret.into(), role: Role::Admin });
        }
        let inner = Inner { control, clock, master, keys: RwLock::default(), own, sessions: Sessions::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Checks that each secret opens, and wraps those again that are under an old master key. Called after the replay.
    ///
    /// # Errors
    /// [`MasterError::Wrong`]: one does not open; [`IdentityError::Control`] when a change was not made durable.
    pub async fn rewrap(&self) -> Result<(), IdentityError> {
        let keys: Vec<StoredKey> = self.inner.keys.read().values().cloned().collect();
        for key in keys {
            let id = key.info.key_id.clone();
            let Some((secret, is_current)) = self.inner.master.unwrap_text(&id, &key.wrapped) else {
                return Err(MasterError::Wrong { what: format!("the secret of the access key {id}") }.into());
            };
            if !is_current {
                let wrapped = self.inner.master.wrap_text(&id, &secret)?;
                self.commit(Change::Put(StoredKey { wrapped, ..key })).await?;
            }
        }
        Ok(())
    }

    /// Makes the first admin key when there is no key at all, and writes it to `admin.key` (mode 0600) in the form of an AWS
    /// credentials file. Returns true when it did. Called after the replay.
    ///
    /// # Errors
    /// [`IdentityError::Master`] when the file cannot be written.
    pub async fn ensure_admin(&self, data_dir: &Path) -> Result<bool, IdentityError> {
        if self.inner.keys.read().values().any(|key| key.info.role == Role::Admin) {
            return Ok(false);
        }
        let credential = self.create(Role::Admin, "made at the first start", Account::house()).await?;
        let path = data_dir.join("admin.key");
        let text = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\nregion = us-east-1\n",
            credential.key_id, credential.secret
        );
        master::write_private(&path, text.as_bytes())?;
        Ok(true)
    }

    /// Makes a key. Its secret is answered here and never again.
    ///
    /// # Errors
    /// [`IdentityError::TooMany`], [`IdentityError::AdminOfAccount`], [`IdentityError::Control`] when it was not made durable.
    pub async fn create(&self, role: Role, note: &str, account: Account) -> Result<Credential, IdentityError> {
        if role == Role::Admin && !account.is_house() {
            return Err(IdentityError::AdminOfAccount);
        }
        if self.inner.keys.read().len() >= KEYS_MAX {
            return Err(IdentityError::TooMany);
        }
        let credential =
            Credential { key_id: format!("BLK{}", random_text(17)?.to_uppercase()), secret: random_text(40)?, role };
        let wrapped = self.inner.master.wrap_text(&credential.key_id, credential.secret.as_bytes())?;
        let note: String = note.chars().filter(|c| !c.is_control()).take(200).collect();
        let created_at = self.inner.clock.now().timestamp();
        let info = KeyInfo { key_id: credential.key_id.clone(), role, note, created_at, account };
        self.commit(Change::Put(StoredKey { info, wrapped })).await?;
        Ok(credential)
    }

    /// Takes a key away, and signs its sessions out.
    ///
    /// # Errors
    /// [`IdentityError::NoSuchKey`], [`IdentityError::LastAdmin`].
    pub async fn revoke(&self, key_id: &str) -> Result<(), IdentityError> {
        {
            let keys = self.inner.keys.read();
            let key = keys.get(key_id).ok_or_else(|| IdentityError::NoSuchKey(key_id.into()))?;
            let admins = keys.values().filter(|other| other.info.role == Role::Admin).count();
            if key.info.role == Role::Admin && admins == 1 {
                return Err(IdentityError::LastAdmin(key_id.into()));
            }
        }
        self.commit(Change::Delete(key_id.into())).await?;
        self.inner.sessions.end_all(key_id);
        Ok(())
    }

    /// All keys without their secrets, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<KeyInfo> {
        let mut keys: Vec<_> = self.inner.keys.read().values().map(|key| key.info.clone()).collect();
        keys.sort_by(|a, b| (a.created_at, &a.key_id).cmp(&(b.created_at, &b.key_id)));
        keys
    }

    /// The secret of a key, for the recomputation of a signature, and who it stands for.
    #[must_use]
    pub fn secret(&self, key_id: &str) -> Option<(String, Principal)> {
        if let Some(own) = self.inner.own.get(key_id) {
            let principal = Principal { key_id: key_id.into(), role: own.role, account: Account::house() };
            return Some((own.secret.clone(), principal));
        }
        let key = self.inner.keys.read().get(key_id).cloned()?;
        let (secret, _) = self.inner.master.unwrap_text(key_id, &key.wrapped)?;
        let KeyInfo { role, account, .. } = key.info;
        Some((String::from_utf8(secret).ok()?, Principal { key_id: key_id.into(), role, account }))
    }

    /// Seals a secret of another part of the program under its name.
    ///
    /// # Errors
    /// [`IdentityError::Random`].
    pub fn seal(&self, name: &str, secret: &[u8]) -> Result<String, IdentityError> {
        Ok(self.inner.master.wrap_text(name, secret)?)
    }

    /// Opens what [`Identity::seal`] made. `None`: it was sealed for another name, or under another master key.
    #[must_use]
    pub fn unseal(&self, name: &str, sealed: &str) -> Option<Vec<u8>> {
        self.inner.master.unwrap_text(name, sealed).map(|(secret, _)| secret)
    }

    /// The role of a key.
    #[must_use]
    pub fn role(&self, key_id: &str) -> Option<Role> {
        self.inner
            .own
            .get(key_id)
            .map(|own| own.role)
            .or_else(|| self.inner.keys.read().get(key_id).map(|key| key.info.role))
    }

    /// The role and account of a key.
    #[must_use]
    pub fn holder(&self, key_id: &str) -> Option<(Role, Account)> {
        if let Some(own) = self.inner.own.get(key_id) {
            return Some((own.role, Account::house()));
        }
        self.inner.keys.read().get(key_id).map(|key| (key.info.role, key.info.account.clone()))
    }

    /// The account with this canonical id, if a key belongs to it.
    #[must_use]
    pub fn account_of(&self, canonical_id: &str) -> Option<Account> {
        let house = std::iter::once(Account::house());
        let named: std::collections::BTreeSet<_> =
            self.inner.keys.read().values().map(|key| key.info.account.clone()).collect();
        house.chain(named).find(|account| account.canonical_id() == canonical_id)
    }

    /// Who `key_id` with `secret` is, if that is right.
    #[must_use]
    pub fn check(&self, key_id: &str, secret: &str) -> Option<Principal> {
        let (right, principal) = self.secret(key_id)?;
        bool::from(right.as_bytes().ct_eq(secret.as_bytes())).then_some(principal)
    }

    /// Begins a session and returns its token.
    ///
    /// # Errors
    /// [`IdentityError::Random`].
    pub fn sign_in(&self, principal: &Principal) -> Result<String, IdentityError> {
        let token = random_text(43)?;
        self.inner.sessions.begin(&token, principal.clone(), self.inner.clock.now().mono_ms);
        Ok(token)
    }

    /// Who a session's token stands for, with the role that its key has now.
    #[must_use]
    pub fn session(&self, token: &str) -> Option<Principal> {
        let principal = self.inner.sessions.check(token, self.inner.clock.now().mono_ms)?;
        let role = self.role(&principal.key_id)?;
        Some(Principal { role, ..principal })
    }

    pub fn sign_out(&self, token: &str) {
        self.inner.sessions.end(token);
    }

    async fn commit(&self, change: Change) -> Result<(), IdentityError> {
        let payload = change.encode();
        let permit = self.inner.control.reserve(payload.len(), Class::Growing).await?;
        let commit = permit.submit(&[Record { kind: Kind::Key, payload }]);
        commit.acknowledged().await?;
        self.inner.apply(change);
        Ok(())
    }
}

impl Inner {
    fn apply(&self, change: Change) {
        let mut keys = self.keys.write();
        match change {
            Change::Put(key) => {
                keys.insert(key.info.key_id.clone(), key);
            }
            Change::Delete(key_id) => {
                keys.remove(&key_id);
            }
        }
    }
}

impl Follower for Identity {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Key]
    }

    fn replay(&self, _: Kind, _: Lsn, payload: &[u8]) -> Result<(), String> {
        Change::decode(payload).map(drop) // the catalogue holds them all by the time of `replayed`
    }

    fn replayed(&self, _: Now) {
        match self.inner.control.catalogue().range(Table::Keys, b"", b"", KEYS_MAX) {
            Ok(pairs) => {
                for (_, value) in pairs {
                    match Change::decode(&value) {
                        Ok(change) => self.inner.apply(change),
                        Err(problem) => {
                            tracing::error!(%problem, "a key in the catalogue cannot be read; it will not work")
                        }
                    }
                }
            }
            Err(error) => tracing::error!(%error, "the keys cannot be read from the catalogue"),
        }
    }

    fn projects(&self, _: Kind) -> bool {
        true
    }

    fn project(&self, _: Kind, _: Lsn, payload: &[u8], _: &Catalogue, batch: &mut Batch) -> Result<(), String> {
        match Change::decode(payload)? {
            Change::Put(key) => batch.put(Table::Keys, key.info.key_id.as_bytes(), payload),
            Change::Delete(key_id) => batch.delete(Table::Keys, key_id.as_bytes()),
        }
        Ok(())
    }

    fn relocate(&self, _: Kind, _: Lsn, _: &[u8], _: Permit) -> Option<Commit> {
        None // the catalogue's checkpoint covers them
    }
}

/// `length` random letters and digits: 5 bits and more each.
fn random_text(length: usize) -> Result<String, IdentityError> {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = vec![0; length];
    SystemRandom::new().fill(&mut bytes).map_err(|_| IdentityError::Random)?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect())
}
