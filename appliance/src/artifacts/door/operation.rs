//! What a request asks for, by S3's own name, and which role may ask for it.
//!
//! Reading is for every key. What changes objects needs a role that works; what changes a bucket, or makes one, an operator's: agents
//! run on rented machines, and behind this door lies the operator's own account. An operation that is not known by name goes on all the
//! same, under the right that its method and place have.

use http::{HeaderMap, Method};

use crate::identity::Role;

/// What a role must be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    Read,
    /// Of objects.
    Write,
    /// Of buckets.
    Operate,
    /// Nobody: the reason.
    Never(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    /// One of a fixed set: it is a label of metrics.
    pub(super) name: &'static str,
    pub(super) right: Right,
    /// Whether the signature of a URL of version 2 covers what makes it this operation.
    pub(super) is_signed_by_v2: bool,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    Root,
    Bucket,
    Object,
}

/// A part of a bucket or object that a query names: names of its GET, PUT, DELETE and POST.
struct Part {
    query: &'static str,
    on: On,
    names: [&'static str; 4],
    v2: bool,
}

const fn part(query: &'static str, on: On, v2: bool, names: [&'static str; 4]) -> Part {
    Part { query, on, names, v2 }
}

/// Earlier ones win, as in S3.
#[rustfmt::skip]
const PARTS: &[Part] = &[
    part("session", On::Bucket, false, ["CreateSession", "", "", ""]),
    part("accelerate", On::Bucket, true, ["GetBucketAccelerateConfiguration", "PutBucketAccelerateConfiguration", "", ""]),
    part("acl", On::Bucket, true, ["GetBucketAcl", "PutBucketAcl", "", ""]),
    part("analytics", On::Bucket, true, ["GetBucketAnalyticsConfiguration", "PutBucketAnalyticsConfiguration", "DeleteBucketAnalyticsConfiguration", ""]),
    part("cors", On::Bucket, true, ["GetBucketCors", "PutBucketCors", "DeleteBucketCors", ""]),
    part("encryption", On::Bucket, false, ["GetBucketEncryption", "PutBucketEncryption", "DeleteBucketEncryption", ""]),
    part("intelligent-tiering", On::Bucket, false, ["GetBucketIntelligentTieringConfiguration", "PutBucketIntelligentTieringConfiguration", "DeleteBucketIntelligentTieringConfiguration", ""]),
    part("inventory", On::Bucket, true, ["GetBucketInventoryConfiguration", "PutBucketInventoryConfiguration", "DeleteBucketInventoryConfiguration", ""]),
    part("lifecycle", On::Bucket, true, ["GetBucketLifecycleConfiguration", "PutBucketLifecycleConfiguration", "DeleteBucketLifecycle", ""]),
    part("location", On::Bucket, true, ["GetBucketLocation", "", "", ""]),
    part("logging", On::Bucket, true, ["GetBucketLogging", "PutBucketLogging", "", ""]),
    part("metadataTable", On::Bucket, false, ["GetBucketMetadataTableConfiguration", "", "DeleteBucketMetadataTableConfiguration", "CreateBucketMetadataTableConfiguration"]),
    part("metrics", On::Bucket, true, ["GetBucketMetricsConfiguration", "PutBucketMetricsConfiguration", "DeleteBucketMetricsConfiguration", ""]),
    part("notification", On::Bucket, true, ["GetBucketNotificationConfiguration", "PutBucketNotificationConfiguration", "", ""]),
    part("object-lock", On::Bucket, true, ["GetObjectLockConfiguration", "PutObjectLockConfiguration", "", ""]),
    part("ownershipControls", On::Bucket, false, ["GetBucketOwnershipControls", "PutBucketOwnershipControls", "DeleteBucketOwnershipControls", ""]),
    part("policy", On::Bucket, true, ["GetBucketPolicy", "PutBucketPolicy", "DeleteBucketPolicy", ""]),
    part("policyStatus", On::Bucket, false, ["GetBucketPolicyStatus", "", "", ""]),
    part("publicAccessBlock", On::Bucket, false, ["GetPublicAccessBlock", "PutPublicAccessBlock", "DeletePublicAccessBlock", ""]),
    part("replication", On::Bucket, true, ["GetBucketReplication", "PutBucketReplication", "DeleteBucketReplication", ""]),
    part("requestPayment", On::Bucket, true, ["GetBucketRequestPayment", "PutBucketRequestPayment", "", ""]),
    part("tagging", On::Bucket, true, ["GetBucketTagging", "PutBucketTagging", "DeleteBucketTagging", ""]),
    part("versioning", On::Bucket, true, ["GetBucketVersioning", "PutBucketVersioning", "", ""]),
    part("website", On::Bucket, true, ["GetBucketWebsite", "PutBucketWebsite", "DeleteBucketWebsite", ""]),
    part("delete", On::Bucket, true, ["", "", "", "DeleteObjects"]),
    part("uploads", On::Bucket, true, ["ListMultipartUploads", "", "", ""]),
    part("versions", On::Bucket, true, ["ListObjectVersions", "", "", ""]),
    part("list-type", On::Bucket, true, ["ListObjectsV2", "", "", ""]), // not covered, and the same keys as without it
    part("acl", On::Object, true, ["GetObjectAcl", "PutObjectAcl", "", ""]),
    part("attributes", On::Object, false, ["GetObjectAttributes", "", "", ""]),
    part("legal-hold", On::Object, false, ["GetObjectLegalHold", "PutObjectLegalHold", "", ""]),
    part("renameObject", On::Object, false, ["", "RenameObject", "", ""]),
    part("restore", On::Object, true, ["", "", "", "RestoreObject"]),
    part("retention", On::Object, false, ["GetObjectRetention", "PutObjectRetention", "", ""]),
    part("select", On::Object, true, ["", "", "", "SelectObjectContent"]),
    part("tagging", On::Object, true, ["GetObjectTagging", "PutObjectTagging", "DeleteObjectTagging", ""]),
    part("torrent", On::Object, true, ["GetObjectTorrent", "", "", ""]),
    part("uploads", On::Object, true, ["", "", "", "CreateMultipartUpload"]),
    part("uploadId", On::Object, true, ["ListParts", "UploadPart", "AbortMultipartUpload", "CompleteMultipartUpload"]),
];

/// What a URL of version 2 may say beside what it signs: how to list, and what names the call again.
const HARMLESS: [&str; 17] = [
    "x-id",
    "list-type",
    "prefix",
    "delimiter",
    "marker",
    "max-keys",
    "start-after",
    "continuation-token",
    "fetch-owner",
    "encoding-type",
    "key-marker",
    "version-id-marker",
    "upload-id-marker",
    "max-uploads",
    "max-parts",
    "part-number-marker",
    "max-buckets",
];

impl Operation {
    /// `query` holds the decoded names, without those of a signature.
    pub(super) fn of(method: &Method, on: On, query: &[String], headers: &HeaderMap) -> Self {
        let has = |name: &str| query.iter().any(|found| found == name);
        let which = match *method {
            Method::GET | Method::HEAD => 0,
            Method::PUT => 1,
            Method::DELETE => 2,
            Method::POST => 3,
            _ => {
                let right = Right::Never("the method is none of S3's");
                return Self { name: "unknown", right, is_signed_by_v2: false };
            }
        };
        let named = PARTS.iter().find(|part| part.on == on && !part.names[which].is_empty() && has(part.query));
        let copies = headers.contains_key("x-amz-copy-source");
        let (name, covered) = match named {
            Some(part) if part.names[which] == "UploadPart" && copies => ("UploadPartCopy", part.v2),
            Some(part) => (part.names[which], part.v2),
            None => (Self::plain(method, on, copies), true),
        };
        // A name that an older signature does not cover may have been added by somebody on the way.
        let unknown = |name: &String| !HARMLESS.contains(&name.as_str()) && !covered_by_v2(name);
        let is_signed_by_v2 = covered && !query.iter().any(unknown);
        Self { name, right: Self::right(name, which, on), is_signed_by_v2 }
    }

    /// Without anything in the query that names a part.
    fn plain(method: &Method, on: On, copies: bool) -> &'static str {
        match (method, on) {
            (&Method::GET, On::Root) => "ListBuckets",
            (&Method::GET, On::Bucket) => "ListObjects",
            (&Method::GET, On::Object) => "GetObject",
            (&Method::HEAD, On::Bucket) => "HeadBucket",
            (&Method::HEAD, On::Object) => "HeadObject",
            (&Method::PUT, On::Bucket) => "CreateBucket",
            (&Method::PUT, On::Object) if copies => "CopyObject",
            (&Method::PUT, On::Object) => "PutObject",
            (&Method::DELETE, On::Bucket) => "DeleteBucket",
            (&Method::DELETE, On::Object) => "DeleteObject",
            _ => "unknown",
        }
    }

    fn right(name: &str, which: usize, on: On) -> Right {
        match (name, on) {
            ("CreateSession", _) => Right::Never("a session would hand out keys of the other S3"),
            ("DeleteObjects", _) => Right::Write,
            ("SelectObjectContent", _) => Right::Read,
            _ if which == 0 => Right::Read,
            (_, On::Object) => Right::Write,
            (_, On::Root | On::Bucket) => Right::Operate,
        }
    }
}

impl Right {
    /// What a role lacks, as a sentence's end; `None` when it lacks nothing.
    pub(super) fn lacks(self, role: Role) -> Option<&'static str> {
        match self {
            Self::Read => None,
            Self::Write => (!role.works()).then_some("needs agent, operator or admin"),
            Self::Operate => (!role.operates()).then_some("needs operator or admin"),
            Self::Never(why) => Some(why),
        }
    }
}

/// Parts of a query that the signature of a URL of version 2 covers, beside those of [`PARTS`].
fn covered_by_v2(name: &str) -> bool {
    matches!(name, "partNumber" | "versionId" | "select-type")
        || name.starts_with("response-")
        || PARTS.iter().any(|part| part.v2 && part.query == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: &str, on: On, query: &[&str]) -> Operation {
        let query: Vec<String> = query.iter().map(|name| (*name).to_owned()).collect();
        Operation::of(&method.parse().unwrap(), on, &query, &HeaderMap::new())
    }

    #[test]
    fn operations_have_s3s_names_and_the_rights_of_their_kind() {
        for (method, on, query, name, right) in [
            ("GET", On::Root, &[][..], "ListBuckets", Right::Read),
            ("GET", On::Bucket, &["list-type", "prefix"], "ListObjectsV2", Right::Read),
            ("HEAD", On::Object, &["versionId"], "HeadObject", Right::Read),
            ("PUT", On::Object, &["x-id"], "PutObject", Right::Write),
            ("PUT", On::Object, &["partNumber", "uploadId"], "UploadPart", Right::Write),
            ("POST", On::Object, &["uploads"], "CreateMultipartUpload", Right::Write),
            ("POST", On::Object, &["uploadId"], "CompleteMultipartUpload", Right::Write),
            ("POST", On::Object, &["select", "select-type"], "SelectObjectContent", Right::Read),
            ("POST", On::Bucket, &["delete"], "DeleteObjects", Right::Write),
            ("PUT", On::Bucket, &["policy"], "PutBucketPolicy", Right::Operate),
            ("DELETE", On::Bucket, &[], "DeleteBucket", Right::Operate),
            ("PUT", On::Bucket, &["what-comes-next-year"], "CreateBucket", Right::Operate),
            ("POST", On::Bucket, &["what-comes-next-year"], "unknown", Right::Operate),
        ] {
            let found = of(method, on, query);
            assert_eq!((found.name, found.right), (name, right), "{method} {on:?} {query:?}");
        }
        let mut copy = HeaderMap::new();
        copy.insert("x-amz-copy-source", "/b/k".parse().unwrap());
        assert_eq!(Operation::of(&Method::PUT, On::Object, &[], &copy).name, "CopyObject");
        assert!(matches!(of("GET", On::Bucket, &["session"]).right, Right::Never(_)));
        assert!(matches!(of("PATCH", On::Object, &[]).right, Right::Never(_)));
    }

    #[test]
    fn roles_bound_what_goes_on() {
        let may = |right: Right| {
            [Role::Viewer, Role::Agent, Role::Operator, Role::Admin].map(|role| right.lacks(role).is_none())
        };
        assert_eq!(may(Right::Read), [true; 4]);
        assert_eq!(may(Right::Write), [false, true, true, true]);
        assert_eq!(may(Right::Operate), [false, false, true, true]);
        assert_eq!(may(Right::Never("")), [false; 4]);
    }

    #[test]
    fn an_old_signature_carries_only_what_it_covers() {
        assert!(of("GET", On::Object, &["versionId", "response-content-type"]).is_signed_by_v2);
        assert!(of("PUT", On::Object, &["partNumber", "uploadId"]).is_signed_by_v2);
        assert!(of("GET", On::Bucket, &["prefix", "list-type"]).is_signed_by_v2);
        for added in ["retention", "legal-hold", "renameObject", "publicAccessBlock", "what-comes-next-year"] {
            let on = if added == "publicAccessBlock" { On::Bucket } else { On::Object };
            assert!(!of("PUT", on, &[added]).is_signed_by_v2, "{added}");
        }
    }
}
