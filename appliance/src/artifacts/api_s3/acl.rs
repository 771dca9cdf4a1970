//! Access control lists as S3 writes them: canned, in headers, in XML.

use s3s::dto::*;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::access::Asking;
use super::convert::{self, error, owner};
use crate::artifacts::Artifacts;
use crate::artifacts::access::{Acl, AclProblem, GRANTEES_MAX, Grantee as Own, Ownership, Permissions, Rules};
use crate::artifacts::documents::DocumentKind;
use crate::artifacts::model::encode;
use crate::identity::Account;

const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const SIGNED_IN: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";

/// What a request's headers, or a form's fields, ask for.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) canned: Option<String>,
    /// By the permission that they grant.
    pub(super) grants: Vec<(Permissions, String)>,
}

/// [`Asked`] of an input that has the fields of a list; `write` is there for buckets and for lists alone.
macro_rules! asked {
    ($input:expr $(, $write:ident)?) => {{
        use $crate::artifacts::access::Permissions;
        let grants = [
            (Permissions::FULL, $input.grant_full_control.take()),
            (Permissions::READ, $input.grant_read.take()),
            $((Permissions::WRITE, $input.$write.take()),)?
            (Permissions::READ_ACP, $input.grant_read_acp.take()),
            (Permissions::WRITE_ACP, $input.grant_write_acp.take()),
        ];
        let grants = grants.into_iter().filter_map(|(permission, header)| Some((permission, header?)));
        $crate::artifacts::api_s3::acl::Asked {
            canned: $input.acl.take().map(|acl| acl.as_str().to_owned()),
            grants: grants.collect(),
        }
    }};
}
pub(super) use asked;

fn problem(problem: AclProblem) -> s3s::S3Error {
    match problem {
        AclProblem::UnknownCanned => s3_error!(InvalidArgument, "the canned ACL is not known"),
        AclProblem::TooLong => s3_error!(InvalidRequest, "an ACL has at most {GRANTEES_MAX} grantees here"),
    }
}

fn not_supported() -> s3s::S3Error {
    let text = "The bucket does not allow ACLs";
    convert::custom("AccessControlListNotSupported", http::StatusCode::BAD_REQUEST, text.into())
}

impl Asked {
    fn is_empty(&self) -> bool {
        self.canned.is_none() && self.grants.is_empty()
    }

    /// The list asked for; private where nothing was.
    fn read(&self, asking: &Asking, bucket_owner: &Account) -> S3Result<Acl> {
        if self.canned.is_some() && !self.grants.is_empty() {
            return Err(s3_error!(InvalidRequest, "Specifying both Canned ACLs and Header Grants is not allowed"));
        }
        if let Some(name) = &self.canned {
            return Acl::canned(name).map_err(problem);
        }
        let mut acl = if self.grants.is_empty() { Acl::default() } else { Acl::empty() };
        for (permission, header) in &self.grants {
            for grantee in header.split(',') {
                let (kind, name) = grantee.trim().split_once('=').unwrap_or_default();
                let name = name.trim().trim_matches('"');
                let grantee = match kind.trim().to_ascii_lowercase().as_str() {
                    "id" => by_id(asking, bucket_owner, name)?,
                    "uri" => by_uri(name)?,
                    "emailaddress" => return Err(no_such_mail()),
                    _ => return Err(s3_error!(InvalidArgument, "Argument format not recognized")),
                };
                acl.grant(grantee, *permission).map_err(problem)?;
            }
        }
        Ok(acl)
    }
}

fn by_id(asking: &Asking, bucket_owner: &Account, id: &str) -> S3Result<Own> {
    match asking.keys.account(id) {
        Some(account) if account == *bucket_owner => Ok(Own::Owner),
        Some(account) => Ok(Own::Account(account)),
        None => Err(s3_error!(InvalidArgument, "Invalid id")),
    }
}

fn by_uri(uri: &str) -> S3Result<Own> {
    match uri {
        ALL_USERS => Ok(Own::Everyone),
        SIGNED_IN => Ok(Own::SignedIn),
        _ => Err(s3_error!(InvalidArgument, "Invalid group uri")),
    }
}

fn no_such_mail() -> s3s::S3Error {
    s3_error!(UnresolvableGrantByEmailAddress, "accounts have no mail addresses here; name them by their canonical id")
}

fn of_xml(asking: &Asking, bucket_owner: &Account, policy: AccessControlPolicy) -> S3Result<Acl> {
    let malformed = || {
        s3_error!(
            MalformedACLError,
            "The XML you provided was not well-formed or did not validate against our published schema"
        )
    };
    let named = policy.owner.and_then(|owner| owner.id).ok_or_else(malformed)?;
    if named != bucket_owner.canonical_id() {
        return Err(s3_error!(AccessDenied, "Access Denied"));
    }
    let mut acl = Acl::empty();
    for grant in policy.grants.unwrap_or_default() {
        let (Some(grantee), Some(permission)) = (grant.grantee, grant.permission) else { return Err(malformed()) };
        let permission = Permissions::named(permission.as_str()).ok_or_else(malformed)?;
        let grantee = match grantee.type_.as_str() {
            Type::CANONICAL_USER => by_id(asking, bucket_owner, grantee.id.as_deref().ok_or_else(malformed)?)?,
            Type::GROUP => by_uri(grantee.uri.as_deref().ok_or_else(malformed)?)?,
            Type::AMAZON_CUSTOMER_BY_EMAIL => return Err(no_such_mail()),
            _ => return Err(malformed()),
        };
        acl.grant(grantee, permission).map_err(problem)?;
    }
    Ok(acl)
}

fn grants(acl: &Acl, bucket_owner: &Account) -> Grants {
    let account = |account: &Account| {
        let owner = owner(account);
        let type_ = Type::from_static(Type::CANONICAL_USER);
        Grantee { display_name: owner.display_name, email_address: None, id: owner.id, type_, uri: None }
    };
    let group = |uri: &str| {
        let type_ = Type::from_static(Type::GROUP);
        Grantee { display_name: None, email_address: None, id: None, type_, uri: Some(uri.to_owned()) }
    };
    let mut all = Vec::new();
    for (grantee, permissions) in acl.grants() {
        let grantee = match grantee {
            Own::Owner => account(bucket_owner),
            Own::Account(named) => account(named),
            Own::SignedIn => group(SIGNED_IN),
            Own::Everyone => group(ALL_USERS),
        };
        let grant = |name: &'static str| Grant {
            grantee: Some(grantee.clone()),
            permission: Some(Permission::from_static(name)),
        };
        all.extend(permissions.names().into_iter().map(grant));
    }
    all
}

/// What the bucket's other settings have against a list.
fn judge(rules: &Rules, acl: &Acl) -> S3Result<()> {
    if acl.is_public() && rules.public().map_err(error)?.block_acls {
        return Err(s3_error!(AccessDenied, "the bucket's public access block refuses public ACLs"));
    }
    Ok(())
}

/// The list of an object that is put; `None` is private.
pub(super) fn of_object(
    artifacts: &Artifacts,
    extensions: &http::Extensions,
    bucket: &str,
    asked: &Asked,
) -> S3Result<Option<Acl>> {
    let asking = Asking::of(extensions)?;
    let rules = artifacts.access_of(bucket).map_err(error)?;
    if rules.ownership().map_err(error)? == Ownership::Enforced {
        let harmless =
            asked.grants.is_empty() && matches!(asked.canned.as_deref(), None | Some("bucket-owner-full-control"));
        return if harmless { Ok(None) } else { Err(not_supported()) };
    }
    let mut acl = asked.read(asking, &rules.owner)?;
    judge(&rules, &acl)?;
    if let Some(writer) = asking.caller.account().filter(|_| !asking.caller.owns(&rules.owner)) {
        acl.grant(Own::Account(writer.clone()), Permissions::FULL).map_err(problem)?;
    }
    Ok(Some(acl).filter(|acl| !acl.is_private()))
}

/// The list of a bucket that is made, for its document.
pub(super) fn of_new_bucket(
    extensions: &http::Extensions,
    asked: &Asked,
    ownership: Ownership,
) -> S3Result<Option<Vec<u8>>> {
    let asking = Asking::of(extensions)?;
    let acl = asked.read(asking, &asking.account())?;
    if acl.is_private() {
        return Ok(None);
    }
    if ownership == Ownership::Enforced {
        let text = "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting";
        return Err(convert::custom("InvalidBucketAclWithObjectOwnership", http::StatusCode::BAD_REQUEST, text.into()));
    }
    written(&acl).map(Some)
}

fn written(acl: &Acl) -> S3Result<Vec<u8>> {
    encode(acl).map_err(|problem| error(crate::artifacts::ArtifactError::fault("write an ACL")(problem)))
}

/// The list that a request to set one brings, in whichever way.
fn brought(asking: &Asking, rules: &Rules, asked: &Asked, policy: Option<AccessControlPolicy>) -> S3Result<Acl> {
    if rules.ownership().map_err(error)? == Ownership::Enforced {
        return Err(not_supported());
    }
    let acl = match (policy, asked.is_empty()) {
        (Some(policy), true) => of_xml(asking, &rules.owner, policy)?,
        (None, false) => asked.read(asking, &rules.owner)?,
        (Some(_), false) => return Err(s3_error!(UnexpectedContent, "This request does not support content")),
        (None, true) => return Err(s3_error!(MissingSecurityHeader, "Your request was missing a required header")),
    };
    judge(rules, &acl)?;
    Ok(acl)
}

pub(super) async fn put_bucket(
    artifacts: &Artifacts,
    request: S3Request<PutBucketAclInput>,
) -> S3Result<S3Response<PutBucketAclOutput>> {
    let S3Request { mut input, extensions, .. } = request;
    let rules = artifacts.access_of(&input.bucket).map_err(error)?;
    let asked = asked!(input, grant_write);
    let acl = brought(Asking::of(&extensions)?, &rules, &asked, input.access_control_policy)?;
    let document = if acl == Acl::default() { None } else { Some(written(&acl)?) };
    artifacts.set_document(&input.bucket, DocumentKind::Acl, document).await.map_err(error)?;
    Ok(S3Response::new(PutBucketAclOutput::default()))
}

pub(super) async fn get_bucket(
    artifacts: &Artifacts,
    request: S3Request<GetBucketAclInput>,
) -> S3Result<S3Response<GetBucketAclOutput>> {
    let rules = artifacts.access_of(&request.input.bucket).map_err(error)?;
    let acl = rules.acl().map_err(error)?;
    let grants = Some(grants(&acl, &rules.owner));
    Ok(S3Response::new(GetBucketAclOutput { grants, owner: Some(owner(&rules.owner)) }))
}

pub(super) async fn put_object(
    artifacts: &Artifacts,
    request: S3Request<PutObjectAclInput>,
) -> S3Result<S3Response<PutObjectAclOutput>> {
    let S3Request { mut input, extensions, .. } = request;
    let rules = artifacts.access_of(&input.bucket).map_err(error)?;
    let asked = asked!(input, grant_write);
    let acl = brought(Asking::of(&extensions)?, &rules, &asked, input.access_control_policy)?;
    let acl = Some(acl).filter(|acl| *acl != Acl::default());
    let which = convert::version(input.version_id.as_deref())?;
    artifacts.set_acl(&input.bucket, &input.key, which, acl).await.map_err(error)?;
    Ok(S3Response::new(PutObjectAclOutput::default()))
}

pub(super) async fn get_object(
    artifacts: &Artifacts,
    request: S3Request<GetObjectAclInput>,
) -> S3Result<S3Response<GetObjectAclOutput>> {
    let input = request.input;
    let rules = artifacts.access_of(&input.bucket).map_err(error)?;
    let which = convert::version(input.version_id.as_deref())?;
    let row = artifacts.find(&input.bucket, &input.key, which).map_err(error)?;
    let acl = row.description.acl.unwrap_or_default();
    let grants = Some(grants(&acl, &rules.owner));
    Ok(S3Response::new(GetObjectAclOutput { grants, owner: Some(owner(&rules.owner)), ..Default::default() }))
}
