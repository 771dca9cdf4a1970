//! Accounts: whose key it is, which is whose buckets are.
//!
//! Every key belongs to the house, unless it was made for an account by name. An account is nothing but that name: its
//! numbers are made of it, so that they are the same after a restore and on every machine. Accounts part buckets and
//! objects; queues, jobs and signals are the house's, whoever's key works on them.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Longest name. It stands in every object's ACL that names the account.
const NAME_BYTES_MAX: usize = 32;
/// The house's canonical id and number.
const HOUSE: (&str, &str) = ("75aa57f09aa0c8caeab4f8c24e99d10f8e7faeebf76c078efc7c6caea54ba06a", "000000000000");

/// The house, or an account by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Account(String);

impl TryFrom<String> for Account {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match name.as_str() {
            "" => Ok(Self::house()),
            _ => Self::parse(&name).ok_or_else(|| format!("`{name}` is no account's name")),
        }
    }
}

impl From<Account> for String {
    fn from(account: Account) -> Self {
        account.0
    }
}

impl Account {
    #[must_use]
    pub fn house() -> Self {
        Self::default()
    }

    /// An account's name: 1 to 32 of `a-z`, `0-9` and `-`. `backlot` is the house.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        match name {
            "backlot" => Some(Self::house()),
            _ if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(plain) => Some(Self(name.to_owned())),
            _ => None,
        }
    }

    #[must_use]
    pub fn is_house(&self) -> bool {
        self.0.is_empty()
    }

    /// What S3 calls the display name.
    #[must_use]
    pub fn name(&self) -> &str {
        if self.is_house() { "backlot" } else { &self.0 }
    }

    /// 64 hex digits, which ACLs name the account by.
    #[must_use]
    pub fn canonical_id(&self) -> String {
        if self.is_house() { HOUSE.0.to_owned() } else { hex::encode(self.digest()) }
    }

    /// Twelve digits, which ARNs and policies name the account by.
    #[must_use]
    pub fn number(&self) -> String {
        if self.is_house() {
            return HOUSE.1.to_owned();
        }
        let digest = self.digest();
        let number = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        format!("{:012}", 100_000_000_000 + number % 900_000_000_000)
    }

    fn digest(&self) -> [u8; 32] {
        Sha256::digest(format!("backlot account {}", self.0)).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accounts_numbers_are_made_of_its_name_and_never_change() {
        let ada = Account::parse("ada").unwrap();
        assert_eq!(ada.canonical_id().len(), 64);
        assert_eq!(ada.number().len(), 12);
        assert_eq!((ada.canonical_id(), ada.number()), (Account::parse("ada").unwrap().canonical_id(), ada.number()));
        assert_ne!(ada.canonical_id(), Account::parse("bob").unwrap().canonical_id());
        assert_eq!(Account::parse("backlot"), Some(Account::house()));
        assert_eq!(Account::house().number(), "000000000000");
        for bad in ["", "Ada", "a b", "a/b", &"a".repeat(33)] {
            assert_eq!(Account::parse(bad), None, "{bad}");
        }
    }
}
