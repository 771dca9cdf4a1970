//! What each S3 operation is called in policies, and which grant of an ACL permits it.

use super::acl::Permissions;

/// An operation as policies and ACLs see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Action {
    /// With `s3:`. Where the operation names a version, [`Action::of_version`] has another.
    pub(crate) name: &'static str,
    pub(crate) on: On,
}

/// What an action is done to, and the permission in that thing's ACL that allows it; without one the owner must or a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// No bucket yet, or all.
    Account,
    Bucket(Option<Permissions>),
    /// An object; the permission is in the list of the object itself.
    Object(Option<Permissions>),
    /// An object; the permission is in its bucket's list.
    ObjectOfBucket(Permissions),
}

const READ: Option<Permissions> = Some(Permissions::READ);

const ACTIONS: &[(&str, &str, On)] = &[
    ("AbortMultipartUpload", "s3:AbortMultipartUpload", On::ObjectOfBucket(Permissions::WRITE)),
    ("CompleteMultipartUpload", "s3:PutObject", On::ObjectOfBucket(Permissions::WRITE)),
    ("CopyObject", "s3:PutObject", On::ObjectOfBucket(Permissions::WRITE)),
    ("CreateBucket", "s3:CreateBucket", On::Account),
    ("CreateMultipartUpload", "s3:PutObject", On::ObjectOfBucket(Permissions::WRITE)),
    ("DeleteBucket", "s3:DeleteBucket", On::Bucket(None)),
    ("DeleteBucketCors", "s3:PutBucketCORS", On::Bucket(None)),
    ("DeleteBucketEncryption", "s3:PutEncryptionConfiguration", On::Bucket(None)),
    ("DeleteBucketLifecycle", "s3:PutLifecycleConfiguration", On::Bucket(None)),
    ("DeleteBucketOwnershipControls", "s3:PutBucketOwnershipControls", On::Bucket(None)),
    ("DeleteBucketPolicy", "s3:DeleteBucketPolicy", On::Bucket(None)),
    ("DeleteBucketTagging", "s3:PutBucketTagging", On::Bucket(None)),
    ("DeleteBucketWebsite", "s3:DeleteBucketWebsite", On::Bucket(None)),
    ("DeleteObject", "s3:DeleteObject", On::ObjectOfBucket(Permissions::WRITE)),
    ("DeleteObjectTagging", "s3:DeleteObjectTagging", On::Object(None)),
    ("DeletePublicAccessBlock", "s3:PutBucketPublicAccessBlock", On::Bucket(None)),
    ("GetBucketAccelerateConfiguration", "s3:GetAccelerateConfiguration", On::Bucket(None)),
    ("GetBucketAcl", "s3:GetBucketAcl", On::Bucket(Some(Permissions::READ_ACP))),
    ("GetBucketCors", "s3:GetBucketCORS", On::Bucket(None)),
    ("GetBucketEncryption", "s3:GetEncryptionConfiguration", On::Bucket(None)),
    ("GetBucketLifecycleConfiguration", "s3:GetLifecycleConfiguration", On::Bucket(None)),
    ("GetBucketLocation", "s3:GetBucketLocation", On::Bucket(None)),
    ("GetBucketLogging", "s3:GetBucketLogging", On::Bucket(None)),
    ("GetBucketNotificationConfiguration", "s3:GetBucketNotification", On::Bucket(None)),
    ("GetBucketOwnershipControls", "s3:GetBucketOwnershipControls", On::Bucket(None)),
    ("GetBucketPolicy", "s3:GetBucketPolicy", On::Bucket(None)),
    ("GetBucketPolicyStatus", "s3:GetBucketPolicyStatus", On::Bucket(None)),
    ("GetBucketRequestPayment", "s3:GetBucketRequestPayment", On::Bucket(None)),
    ("GetBucketTagging", "s3:GetBucketTagging", On::Bucket(None)),
    ("GetBucketVersioning", "s3:GetBucketVersioning", On::Bucket(None)),
    ("GetBucketWebsite", "s3:GetBucketWebsite", On::Bucket(None)),
    ("GetObject", "s3:GetObject", On::Object(READ)),
    ("GetObjectAcl", "s3:GetObjectAcl", On::Object(Some(Permissions::READ_ACP))),
    ("GetObjectAttributes", "s3:GetObject", On::Object(READ)),
    ("GetObjectLegalHold", "s3:GetObjectLegalHold", On::Object(None)),
    ("GetObjectLockConfiguration", "s3:GetBucketObjectLockConfiguration", On::Bucket(None)),
    ("GetObjectRetention", "s3:GetObjectRetention", On::Object(None)),
    ("GetObjectTagging", "s3:GetObjectTagging", On::Object(None)),
    ("GetPublicAccessBlock", "s3:GetBucketPublicAccessBlock", On::Bucket(None)),
    ("HeadBucket", "s3:ListBucket", On::Bucket(READ)),
    ("HeadObject", "s3:GetObject", On::Object(READ)),
    ("ListBuckets", "s3:ListAllMyBuckets", On::Account),
    ("ListMultipartUploads", "s3:ListBucketMultipartUploads", On::Bucket(READ)),
    ("ListObjectVersions", "s3:ListBucketVersions", On::Bucket(READ)),
    ("ListObjects", "s3:ListBucket", On::Bucket(READ)),
    ("ListObjectsV2", "s3:ListBucket", On::Bucket(READ)),
    ("ListParts", "s3:ListMultipartUploadParts", On::ObjectOfBucket(Permissions::WRITE)),
    ("PostObject", "s3:PutObject", On::ObjectOfBucket(Permissions::WRITE)),
    ("PutBucketAccelerateConfiguration", "s3:PutAccelerateConfiguration", On::Bucket(None)),
    ("PutBucketAcl", "s3:PutBucketAcl", On::Bucket(Some(Permissions::WRITE_ACP))),
    ("PutBucketCors", "s3:PutBucketCORS", On::Bucket(None)),
    ("PutBucketEncryption", "s3:PutEncryptionConfiguration", On::Bucket(None)),
    ("PutBucketLifecycleConfiguration", "s3:PutLifecycleConfiguration", On::Bucket(None)),
    ("PutBucketLogging", "s3:PutBucketLogging", On::Bucket(None)),
    ("PutBucketNotificationConfiguration", "s3:PutBucketNotification", On::Bucket(None)),
    ("PutBucketOwnershipControls", "s3:PutBucketOwnershipControls", On::Bucket(None)),
    ("PutBucketPolicy", "s3:PutBucketPolicy", On::Bucket(None)),
    ("PutBucketRequestPayment", "s3:PutBucketRequestPayment", On::Bucket(None)),
    ("PutBucketTagging", "s3:PutBucketTagging", On::Bucket(None)),
    ("PutBucketVersioning", "s3:PutBucketVersioning", On::Bucket(None)),
    ("PutBucketWebsite", "s3:PutBucketWebsite", On::Bucket(None)),
    ("PutObject", "s3:PutObject", On::ObjectOfBucket(Permissions::WRITE)),
    ("PutObjectAcl", "s3:PutObjectAcl", On::Object(Some(Permissions::WRITE_ACP))),
    ("PutObjectLegalHold", "s3:PutObjectLegalHold", On::Object(None)),
    ("PutObjectLockConfiguration", "s3:PutBucketObjectLockConfiguration", On::Bucket(None)),
    ("PutObjectRetention", "s3:PutObjectRetention", On::Object(None)),
    ("PutObjectTagging", "s3:PutObjectTagging", On::Object(None)),
    ("PutPublicAccessBlock", "s3:PutBucketPublicAccessBlock", On::Bucket(None)),
    ("RestoreObject", "s3:RestoreObject", On::Object(None)),
    ("UploadPart", "s3:PutObject", On::ObjectOfBucket(Permissions::WRITE)),
    ("UploadPartCopy", "s3:PutObject", On::ObjectOfBucket(Permissions::WRITE)),
];

/// Actions that have a name of their own where a version is named.
const OF_VERSIONS: &[(&str, &str)] = &[
    ("s3:DeleteObject", "s3:DeleteObjectVersion"),
    ("s3:DeleteObjectTagging", "s3:DeleteObjectVersionTagging"),
    ("s3:GetObject", "s3:GetObjectVersion"),
    ("s3:GetObjectAcl", "s3:GetObjectVersionAcl"),
    ("s3:GetObjectTagging", "s3:GetObjectVersionTagging"),
    ("s3:PutObjectAcl", "s3:PutObjectVersionAcl"),
    ("s3:PutObjectTagging", "s3:PutObjectVersionTagging"),
];

/// Actions that policies may name beside those of operations.
const OTHERS: &[&str] = &[
    "s3:BypassGovernanceRetention",
    "s3:GetObjectAttributes",
    "s3:GetObjectTorrent",
    "s3:GetObjectVersionAttributes",
    "s3:GetReplicationConfiguration",
    "s3:PutReplicationConfiguration",
    "s3:ReplicateDelete",
    "s3:ReplicateObject",
    "s3:ReplicateTags",
];

impl Action {
    /// Of an operation of the S3 model. `None`: nobody but an owner may do it, under no name that policies know.
    #[must_use]
    pub(crate) fn of(operation: &str) -> Option<Self> {
        ACTIONS.iter().find(|(known, ..)| *known == operation).map(|(_, name, on)| Self { name, on: *on })
    }

    /// The same done to a version by its id.
    #[must_use]
    pub(crate) fn of_version(self) -> Self {
        let versioned = OF_VERSIONS.iter().find(|(plain, _)| *plain == self.name);
        Self { name: versioned.map_or(self.name, |(_, name)| name), ..self }
    }

    /// Every action that a policy can name.
    pub(crate) fn all() -> impl Iterator<Item = &'static str> {
        let of_operations = ACTIONS.iter().map(|(_, name, _)| *name);
        of_operations.chain(OF_VERSIONS.iter().map(|(_, name)| *name)).chain(OTHERS.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_found_by_name_and_versions_have_actions_of_their_own() {
        let get = Action::of("GetObject").unwrap();
        assert_eq!((get.name, get.of_version().name), ("s3:GetObject", "s3:GetObjectVersion"));
        assert_eq!(Action::of("PutObject").unwrap().of_version().name, "s3:PutObject");
        assert_eq!(Action::of("SelectObjectContent"), None);
        assert!(Action::all().all(|name| name.starts_with("s3:")));
    }
}
