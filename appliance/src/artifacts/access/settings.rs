//! Ownership controls, public access blocks, and what a policy must be before it is stored.

use serde::{Deserialize, Serialize};

use super::Action;
use crate::policy::{Effect, Pattern, Policy};

/// Longest policy (S3).
pub(crate) const POLICY_BYTES_MAX: usize = 20 << 10;

/// Condition keys that a request can be asked for; those that end with `/` or `-` go on with a name.
const CONDITION_KEYS: &[&str] = &[
    "aws:currenttime",
    "aws:epochtime",
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principaltype",
    "aws:referer",
    "aws:securetransport",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:sourceip",
    "aws:useragent",
    "aws:userid",
    "aws:username",
    "s3:authtype",
    "s3:delimiter",
    "s3:existingobjecttag/",
    "s3:max-keys",
    "s3:prefix",
    "s3:requestobjecttag/",
    "s3:requestobjecttagkeys",
    "s3:signatureversion",
    "s3:versionid",
    "s3:x-amz-",
];

/// Whether ACLs count. The owner of the bucket owns all its objects in each of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Ownership {
    #[default]
    #[serde(rename = "w")]
    Writer,
    #[serde(rename = "p")]
    Preferred,
    /// ACLs are off.
    #[serde(rename = "e")]
    Enforced,
}

impl Ownership {
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Writer => "ObjectWriter",
            Self::Preferred => "BucketOwnerPreferred",
            Self::Enforced => "BucketOwnerEnforced",
        }
    }

    #[must_use]
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Writer, Self::Preferred, Self::Enforced].into_iter().find(|ownership| ownership.name() == name)
    }
}

/// A public access block. Nothing is blocked where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "the four switches are S3's")]
pub(crate) struct PublicAccess {
    /// Refuses public ACLs.
    #[serde(rename = "a")]
    pub(crate) block_acls: bool,
    /// Public ACLs that are there do not count.
    #[serde(rename = "i")]
    pub(crate) ignore_acls: bool,
    /// Refuses public policies.
    #[serde(rename = "p")]
    pub(crate) block_policy: bool,
    /// What a public policy allows is for the owner's account alone.
    #[serde(rename = "r")]
    pub(crate) restrict_buckets: bool,
}

/// Whether `text` is a policy that can be judged for `bucket`.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub(crate) fn check_policy(text: &str, bucket: &str) -> Result<Policy, String> {
    if text.len() > POLICY_BYTES_MAX {
        return Err(format!("a policy has at most {POLICY_BYTES_MAX} bytes"));
    }
    let policy = Policy::parse(text).map_err(|problem| format!("a policy {problem}"))?;
    let knows = |key: &&str| {
        CONDITION_KEYS.iter().any(|known| match known.strip_suffix(['/', '-']) {
            Some(_) => key.len() > known.len() && key.starts_with(known),
            None => key == known,
        })
    };
    if let Some(unknown) = policy.condition_keys().find(|key| !knows(key)) {
        return Err(format!("Policy has an invalid condition key: `{unknown}` is not known here"));
    }
    for statement in policy.statements() {
        if statement.effect == Effect::Allow && statement.principals.inverted {
            return Err("Allow with NotPrincipal is not allowed".into());
        }
        let exists = |pattern: &Pattern| {
            let lower = Pattern::new(pattern.text().to_ascii_lowercase());
            Action::all().any(|action| lower.matches(&action.to_ascii_lowercase()))
        };
        if let Some(unknown) = statement.actions.items.iter().find(|pattern| !exists(pattern)) {
            return Err(format!("Policy has invalid action: `{}`", unknown.text()));
        }
        let resources = statement.resources.as_ref().ok_or("Missing required field Resource")?;
        if let Some(foreign) = resources.items.iter().find(|pattern| !names(pattern.text(), bucket)) {
            return Err(format!("Policy has invalid resource: `{}`", foreign.text()));
        }
    }
    Ok(policy)
}

/// Whether a resource's pattern can be of this bucket.
fn names(resource: &str, bucket: &str) -> bool {
    if resource == "*" {
        return true;
    }
    let Some(path) = resource.strip_prefix("arn:aws:s3:::") else { return false };
    let of = path.split_once('/').map_or(path, |(of, _)| of);
    Pattern::new(of.to_owned()).matches(bucket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(field: &str, value: &serde_json::Value) -> Result<Policy, String> {
        let mut statement = serde_json::json!({"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject",
            "Resource": "arn:aws:s3:::b/*"});
        statement[field] = value.clone();
        check_policy(&serde_json::json!({"Statement": statement}).to_string(), "b")
    }

    #[test]
    fn a_policy_that_could_not_be_judged_is_not_stored() {
        use serde_json::json;
        for (field, value) in [
            ("Resource", json!("arn:aws:s3:::*")),
            ("Resource", json!(["arn:aws:s3:::b", "arn:aws:s3:::b/x/${aws:username}/*"])),
            ("Action", json!("*")),
            ("Action", json!(["s3:get*", "s3:GetObjectVersion"])),
            ("Condition", json!({"StringEquals": {"s3:ExistingObjectTag/team": "vfx", "s3:x-amz-acl": "private"}})),
        ] {
            assert!(policy(field, &value).is_ok(), "{value}: {:?}", policy(field, &value).err());
        }
        for (field, value) in [
            ("Resource", json!("arn:aws:s3:::c/*")),
            ("Resource", json!("arn:aws:sqs:::b")),
            ("Action", json!("s3:DoSomething")),
            ("Action", json!("sqs:SendMessage")),
            ("Condition", json!({"StringEquals": {"aws:PrincipalOrgID": "o-1"}})),
            ("Condition", json!({"StringEquals": {"s3:ExistingObjectTag/": "x"}})),
        ] {
            assert!(policy(field, &value).is_err(), "{value}");
        }
        assert!(check_policy(&" ".repeat(POLICY_BYTES_MAX + 1), "b").is_err());
    }
}
