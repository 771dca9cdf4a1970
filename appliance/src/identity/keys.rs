//! A key as it is kept: a version byte, then JSON.

use backlot_wire::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Account, Role};

const VERSION: u8 = 1;

/// A key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyInfo {
    pub key_id: String,
    pub role: Role,
    /// What its maker said it is for.
    pub note: String,
    pub created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Account::is_house")]
    pub account: Account,
}

/// A key with its secret wrapped by the master key (base64).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredKey {
    #[serde(flatten)]
    pub(super) info: KeyInfo,
    pub(super) wrapped: String,
}

/// One journal record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Change {
    Put(StoredKey),
    Delete(String),
}

impl Change {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        if serde_json::to_writer(&mut bytes, self).is_err() {
            unreachable!("text, numbers and an enum always serialise");
        }
        bytes
    }

    pub(super) fn decode(payload: &[u8]) -> Result<Self, String> {
        match payload.split_first() {
            Some((&VERSION, json)) => serde_json::from_slice(json).map_err(|error| error.to_string()),
            Some((version, _)) => Err(format!("version {version} of a key record is of a later Backlot")),
            None => Err("an empty key record".into()),
        }
    }
}

/// Reads `payload` as a record of a key and throws the outcome away: for fuzzing.
pub fn fuzz_journal(payload: &[u8]) {
    let _ = Change::decode(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_encoding_and_garbage_is_an_error() {
        let account = Account::parse("ada").unwrap();
        let info = KeyInfo {
            key_id: "BLK1".into(),
            role: Role::Viewer,
            note: "for Ada".into(),
            created_at: Timestamp(7),
            account,
        };
        for change in [Change::Put(StoredKey { info, wrapped: "AA==".into() }), Change::Delete("BLK1".into())] {
            assert_eq!(Change::decode(&change.encode()), Ok(change));
        }
        for garbage in [&b""[..], b"\x02{}", b"\x01{", b"\x01\xff"] {
            assert!(Change::decode(garbage).is_err());
        }
    }
}
