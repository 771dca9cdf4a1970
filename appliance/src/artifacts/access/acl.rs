//! Access control lists: who beside its owner may do what with a bucket or an object.
//!
//! The owner of a bucket owns every object in it and may do everything with both, whatever a list says; another account
//! that put an object gets full control of that object by a grant. A list holds the owner's own grant only because clients
//! read it back.

use serde::{Deserialize, Serialize};

use crate::identity::Account;

/// Most grantees of one list (S3). An object's list lies in its row, which may be full before.
pub(crate) const GRANTEES_MAX: usize = 100;

/// What a grant permits, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Permissions(u8);

impl Permissions {
    pub const READ: Self = Self(1);
    pub const WRITE: Self = Self(2);
    pub const READ_ACP: Self = Self(4);
    pub const WRITE_ACP: Self = Self(8);
    pub const FULL: Self = Self(15);
    /// Those that are written one by one.
    const SINGLE: [(Self, &'static str); 4] =
        [(Self::READ, "READ"), (Self::WRITE, "WRITE"), (Self::READ_ACP, "READ_ACP"), (Self::WRITE_ACP, "WRITE_ACP")];

    /// By S3's name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "FULL_CONTROL" => Some(Self::FULL),
            _ => Self::SINGLE.into_iter().find(|(_, single)| *single == name).map(|(permission, _)| permission),
        }
    }

    /// S3's names for them: one, or several.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        if self.contains(Self::FULL) {
            return vec!["FULL_CONTROL"];
        }
        Self::SINGLE.into_iter().filter(|(single, _)| self.contains(*single)).map(|(_, name)| name).collect()
    }

    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grantee {
    /// Whoever owns the bucket.
    #[serde(rename = "o")]
    Owner,
    #[serde(rename = "a")]
    Account(Account),
    /// Whoever has a key.
    #[serde(rename = "s")]
    SignedIn,
    #[serde(rename = "e")]
    Everyone,
}

impl Grantee {
    #[must_use]
    pub fn is_public(&self) -> bool {
        matches!(self, Self::SignedIn | Self::Everyone)
    }
}

/// A list. Each grantee stands in it once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Acl(Vec<(Grantee, Permissions)>);

impl Default for Acl {
    /// Private.
    fn default() -> Self {
        Self(vec![(Grantee::Owner, Permissions::FULL)])
    }
}

/// A list that is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AclProblem {
    UnknownCanned,
    TooLong,
}

impl Acl {
    /// Nobody may anything, but the owner always.
    #[must_use]
    pub fn empty() -> Self {
        Self(Vec::new())
    }

    /// One of S3's ready-made lists.
    ///
    /// # Errors
    /// [`AclProblem::UnknownCanned`].
    pub fn canned(name: &str) -> Result<Self, AclProblem> {
        let mut acl = Self::default();
        let more = match name {
            "private" | "bucket-owner-read" | "bucket-owner-full-control" | "aws-exec-read" => return Ok(acl),
            "public-read" => (Grantee::Everyone, Permissions::READ),
            "public-read-write" => (Grantee::Everyone, Permissions::READ.with(Permissions::WRITE)),
            "authenticated-read" => (Grantee::SignedIn, Permissions::READ),
            _ => return Err(AclProblem::UnknownCanned),
        };
        acl.0.push(more);
        Ok(acl)
    }

    /// # Errors
    /// [`AclProblem::TooLong`].
    pub fn grant(&mut self, to: Grantee, permissions: Permissions) -> Result<(), AclProblem> {
        if let Some((_, held)) = self.0.iter_mut().find(|(grantee, _)| *grantee == to) {
            *held = held.with(permissions);
            return Ok(());
        }
        if self.0.len() >= GRANTEES_MAX {
            return Err(AclProblem::TooLong);
        }
        self.0.push((to, permissions));
        Ok(())
    }

    #[must_use]
    pub fn grants(&self) -> &[(Grantee, Permissions)] {
        &self.0
    }

    /// Whether strangers get anything by it.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.0.iter().any(|(grantee, _)| grantee.is_public())
    }

    /// Whether it says nothing beside what the owner may.
    #[must_use]
    pub fn is_private(&self) -> bool {
        self.0.iter().all(|(grantee, _)| *grantee == Grantee::Owner)
    }

    /// Whether `account`, or nobody in particular, has `permission`. Grants to strangers count only with `public`.
    #[must_use]
    pub fn permits(&self, account: Option<&Account>, permission: Permissions, public: bool) -> bool {
        self.0.iter().any(|(grantee, held)| {
            let meant = match grantee {
                Grantee::Owner => false,
                Grantee::Account(named) => account == Some(named),
                Grantee::SignedIn => public && account.is_some(),
                Grantee::Everyone => public,
            };
            meant && held.contains(permission)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canned_lists_permit_what_their_names_say() {
        let (ada, read, write) = (Account::parse("ada").unwrap(), Permissions::READ, Permissions::WRITE);
        let permits = |name: &str, account, permission| Acl::canned(name).unwrap().permits(account, permission, true);
        assert!(!permits("private", Some(&ada), read));
        assert!(permits("public-read", None, read) && !permits("public-read", None, write));
        assert!(permits("public-read-write", None, write));
        assert!(permits("authenticated-read", Some(&ada), read) && !permits("authenticated-read", None, read));
        assert!(!Acl::canned("public-read").unwrap().permits(None, read, false), "where public lists are ignored");
        assert_eq!(Acl::canned("world"), Err(AclProblem::UnknownCanned));
    }

    #[test]
    fn grants_of_one_grantee_are_one_and_the_list_has_an_end() {
        let mut acl = Acl::default();
        let ada = || Grantee::Account(Account::parse("ada").unwrap());
        acl.grant(ada(), Permissions::READ).unwrap();
        acl.grant(ada(), Permissions::WRITE_ACP).unwrap();
        assert_eq!(acl.grants()[1].1.names(), ["READ", "WRITE_ACP"]);
        acl.grant(ada(), Permissions::FULL).unwrap();
        assert_eq!(acl.grants()[1].1.names(), ["FULL_CONTROL"]);
        for n in 2..GRANTEES_MAX {
            acl.grant(Grantee::Account(Account::parse(&format!("a{n}")).unwrap()), Permissions::READ).unwrap();
        }
        assert_eq!(acl.grant(Grantee::Everyone, Permissions::READ), Err(AclProblem::TooLong));
    }
}
