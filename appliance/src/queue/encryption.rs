//! What a queue's owner wants to be encrypted with. Kept and given back, so that code written for Amazon's queues passes;
//! nothing here encrypts. `docs/sqs.md` says so, and so does the log when somebody asks for it.

use serde::{Deserialize, Serialize};

/// How long a data key is used where nobody says otherwise, in seconds (AWS).
const KEY_REUSE_S_DEFAULT: u32 = 300;
/// Longest name of a key: an ARN of KMS.
const KEY_BYTES_MAX: usize = 2_048;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Encryption {
    /// `SqsManagedSseEnabled`.
    #[serde(default)]
    pub managed: bool,
    /// `KmsMasterKeyId`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// `KmsDataKeyReusePeriodSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_reuse_s: Option<u32>,
}

impl Encryption {
    pub(super) fn is_off(&self) -> bool {
        !self.managed && self.key.is_none() && self.key_reuse_s.is_none()
    }

    /// Names a key; the queue's own keys go. An empty name takes it away.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn set_key(&mut self, name: &str) -> Result<(), &'static str> {
        if name.len() > KEY_BYTES_MAX || name.chars().any(char::is_control) {
            return Err("it is the id, alias or ARN of a key");
        }
        *self = match name {
            "" => Self { managed: self.managed, ..Self::default() },
            name => Self { managed: false, key: Some(name.to_owned()), key_reuse_s: self.key_reuse_s },
        };
        Ok(())
    }

    /// Turns the queue's own keys on or off; with them no key of KMS is used.
    pub(super) fn set_managed(&mut self, managed: bool) {
        *self = match managed {
            true => Self { managed, ..Self::default() },
            false => Self { managed, ..std::mem::take(self) },
        };
    }

    /// `KmsDataKeyReusePeriodSeconds`, given where there is a key.
    pub(super) fn key_reuse_s(&self) -> Option<u32> {
        self.key.as_ref().map(|_| self.key_reuse_s.unwrap_or(KEY_REUSE_S_DEFAULT))
    }
}
