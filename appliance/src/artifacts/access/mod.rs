//! Who may do what with buckets and objects: one decision for every door.
//!
//! In this order: what the bucket's policy denies is denied, to its owner too, who may always mend the policy itself. Then the owner
//! may, then whom the policy allows, then whom an ACL allows. A public access block takes strangers out of the last two, and
//! ownership `BucketOwnerEnforced` takes out ACLs. What a key's role forbids was refused before anybody asks here.
//!
//! The owner is the account whose key made the bucket. An admin's key of the house counts as the owner of every bucket:
//! the machine is the house's.

mod acl;
mod actions;
mod change;
mod facts;
mod reader;
mod settings;

use std::sync::Arc;

pub(crate) use acl::GRANTEES_MAX;
pub use acl::{Acl, AclProblem, Grantee, Permissions};
pub(crate) use actions::{Action, On};
pub(crate) use facts::{Facts, Named, parameter};
pub(crate) use reader::Reader;
pub(crate) use settings::{Ownership, PublicAccess, check_policy};

use super::documents::{Document, DocumentKind};
use super::error::ArtifactError;
use super::{Artifacts, VersionName, model};
use crate::identity::{Account, Role};
use crate::policy::{self, Policy, Question, Verdict};

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Caller {
    /// `None`: nobody who signed.
    pub(crate) holder: Option<Holder>,
}

/// Whose key signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) key_id: String,
    pub(crate) role: Role,
    pub(crate) account: Account,
}

impl Caller {
    #[must_use]
    pub(crate) fn account(&self) -> Option<&Account> {
        self.holder.as_ref().map(|holder| &holder.account)
    }

    /// Whether this is the owner, or as good as.
    #[must_use]
    pub(crate) fn owns(&self, owner: &Account) -> bool {
        self.holder
            .as_ref()
            .is_some_and(|holder| holder.account == *owner || (holder.account.is_house() && holder.role == Role::Admin))
    }

    /// `arn:aws:iam::account:user/key`, or nothing for nobody.
    #[must_use]
    pub(crate) fn arn(&self) -> Option<String> {
        let holder = self.holder.as_ref()?;
        Some(format!("arn:aws:iam::{}:user/{}", holder.account.number(), holder.key_id))
    }
}

/// One question.
pub(crate) struct Ask<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) action: Action,
    pub(crate) bucket: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) version: Option<&'a str>,
    /// The values of a policy's condition keys, named in lower case.
    pub(crate) values: &'a (dyn Fn(&str) -> Vec<String> + Sync),
}

/// What a bucket has to say about access.
pub(super) struct Rules {
    pub(super) owner: Account,
    policy: Option<Arc<Document>>,
    acl: Option<Arc<Document>>,
    ownership: Option<Arc<Document>>,
    public: Option<Arc<Document>>,
}

impl Rules {
    pub(super) fn policy(&self) -> Result<Option<&Policy>, ArtifactError> {
        let parse = |bytes: &[u8]| Policy::parse(std::str::from_utf8(bytes).map_err(|error| error.to_string())?);
        self.policy.as_ref().map(|document| document.read(parse)).transpose()
    }

    pub(super) fn acl(&self) -> Result<Acl, ArtifactError> {
        let read = self.acl.as_ref().map(|document| document.read(model::decode::<Acl>)).transpose()?;
        Ok(read.cloned().unwrap_or_default())
    }

    pub(super) fn ownership(&self) -> Result<Ownership, ArtifactError> {
        let read = self.ownership.as_ref().map(|document| document.read(model::decode::<Ownership>)).transpose()?;
        Ok(read.copied().unwrap_or_default())
    }

    pub(super) fn public(&self) -> Result<PublicAccess, ArtifactError> {
        let read = self.public.as_ref().map(|document| document.read(model::decode::<PublicAccess>)).transpose()?;
        Ok(read.copied().unwrap_or_default())
    }
}

impl Artifacts {
    /// Whose a bucket is, and its documents about access.
    pub(super) fn access_of(&self, bucket: &str) -> Result<Rules, ArtifactError> {
        let state = self.0.state.lock();
        let bucket = state.bucket(bucket)?;
        let document = |kind| bucket.documents.get(kind).cloned();
        Ok(Rules {
            owner: bucket.row.owner.clone(),
            policy: document(DocumentKind::Policy),
            acl: document(DocumentKind::Acl),
            ownership: document(DocumentKind::Ownership),
            public: document(DocumentKind::Public),
        })
    }

    /// Whether the caller may. A bucket that is not there is nobody's: whoever goes on finds that out.
    ///
    /// # Errors
    /// [`ArtifactError::AccessDenied`]; [`ArtifactError::Fault`] when a rule cannot be read, which denies too.
    pub(crate) fn permit(&self, ask: &Ask<'_>) -> Result<(), ArtifactError> {
        let rules = match self.access_of(ask.bucket) {
            Ok(rules) => rules,
            Err(ArtifactError::NoSuchBucket(_)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let is_owner = ask.caller.owns(&rules.owner);
        let policy = rules.policy()?;
        let verdict = policy.map_or(Verdict::Silent, |policy| judge(policy, ask));
        let mends = matches!(ask.action.name, "s3:GetBucketPolicy" | "s3:PutBucketPolicy" | "s3:DeleteBucketPolicy");
        if verdict == Verdict::Denied && !(is_owner && mends) {
            return Err(ArtifactError::AccessDenied);
        }
        if is_owner {
            return Ok(());
        }
        let public = rules.public()?;
        let restricted = public.restrict_buckets && policy.is_some_and(Policy::is_public);
        if verdict == Verdict::Allowed && !restricted {
            return Ok(());
        }
        if rules.ownership()? != Ownership::Enforced && self.acl_permits(ask, &rules, !public.ignore_acls)? {
            return Ok(());
        }
        Err(ArtifactError::AccessDenied)
    }

    fn acl_permits(&self, ask: &Ask<'_>, rules: &Rules, public: bool) -> Result<bool, ArtifactError> {
        let account = ask.caller.account();
        match (ask.action.on, ask.key) {
            (On::Bucket(Some(permission)), _) | (On::ObjectOfBucket(permission), Some(_)) => {
                Ok(rules.acl()?.permits(account, permission, public))
            }
            (On::Object(Some(permission)), Some(key)) => match self.find(ask.bucket, key, named(ask.version)?) {
                Ok(row) => Ok(row.description.acl.is_some_and(|acl| acl.permits(account, permission, public))),
                // That there is no such object is for those who may list.
                Err(
                    ArtifactError::NoSuchKey { .. }
                    | ArtifactError::Deleted { .. }
                    | ArtifactError::NoSuchVersion(_)
                    | ArtifactError::IsMarker { .. },
                ) => Ok(self.may_list(ask)),
                Err(error) => Err(error),
            },
            _ => Ok(false),
        }
    }

    fn may_list(&self, ask: &Ask<'_>) -> bool {
        let list = Action { name: "s3:ListBucket", on: On::Bucket(Some(Permissions::READ)) };
        self.permit(&Ask { action: list, key: None, version: None, ..*ask }).is_ok()
    }
}

/// The version that a request names. Text that names none is refused by whoever reads it.
pub(super) fn named(version: Option<&str>) -> Result<Option<VersionName>, ArtifactError> {
    let name = |text: &str| VersionName::parse(text).ok_or(ArtifactError::AccessDenied);
    version.filter(|text| !text.is_empty()).map(name).transpose()
}

fn judge(policy: &Policy, ask: &Ask<'_>) -> Verdict {
    let resource = match ask.key {
        Some(key) => format!("arn:aws:s3:::{}/{key}", ask.bucket),
        None => format!("arn:aws:s3:::{}", ask.bucket),
    };
    let names = ask.caller.holder.as_ref().map(|holder| {
        let account = &holder.account;
        (account.number(), account.name(), account.canonical_id(), holder.key_id.as_str())
    });
    let caller = names.as_ref().map(|(number, name, canonical, key_id)| policy::Caller {
        account_number: number,
        account_name: name,
        canonical_id: canonical,
        key_id,
    });
    policy.judge(&Question { caller, action: ask.action.name, resource: &resource, values: ask.values })
}
