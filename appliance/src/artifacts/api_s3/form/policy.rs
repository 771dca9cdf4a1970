//! Whether a form may be: its signature, and the policy that was signed.
//!
//! What is signed is the policy's text. A form without a policy and without a signature is nobody's; one with only some of what a
//! signed form has is refused. The policy is compared with the fields as they are after `${filename}` was filled in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::hmac;
use s3s::auth::S3Auth;
use s3s::post_policy::{PostPolicy, PostPolicyCondition as Condition};
use s3s::{S3Result, s3_error};
use subtle::ConstantTimeEq;

use super::reader::Fields;
use crate::edge::{Scope, parse_amz_date};

/// How far ahead a form's date may be, in seconds (S3).
const SKEW_S: u64 = 15 * 60;
/// How old it may be: a signing key is good for seven days (AWS).
const AGE_S: u64 = 7 * 24 * 3600;

/// What may be put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Admitted {
    /// Whose signature it is; `None`: nobody's.
    pub(super) key_id: Option<String>,
    pub(super) bytes: Bounds,
}

/// How long the file may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Bounds {
    pub(in super::super) min: u64,
    pub(in super::super) max: u64,
}

/// Checks a form for `bucket`, whose file has at most `bytes_max`.
pub(super) async fn admit(
    fields: &Fields,
    bucket: &str,
    secrets: &dyn S3Auth,
    now_ms: u64,
    bytes_max: u64,
) -> S3Result<Admitted> {
    let most = Bounds { min: 0, max: bytes_max };
    const SIGNED: [&str; 6] =
        ["policy", "signature", "awsaccesskeyid", "x-amz-signature", "x-amz-credential", "x-amz-algorithm"];
    if SIGNED.iter().all(|name| fields.get(name).is_none()) {
        return Ok(Admitted { key_id: None, bytes: most });
    }
    let policy = required(fields, "policy")?;
    let key_id = if fields.get("x-amz-signature").is_some() || fields.get("x-amz-credential").is_some() {
        fourth(fields, policy, secrets, now_ms / 1000).await?
    } else {
        second(fields, policy, secrets).await?
    };
    let policy = PostPolicy::from_base64(policy)
        .map_err(|problem| s3_error!(InvalidPolicyDocument, "Invalid Policy: {problem}"))?;
    let bytes = judge(&policy, fields, bucket, now_ms, most)?;
    Ok(Admitted { key_id: Some(key_id), bytes })
}

fn required<'a>(fields: &'a Fields, name: &str) -> S3Result<&'a str> {
    let missing = || s3_error!(InvalidArgument, "Bucket POST must contain a field named '{name}'.");
    fields.get(name).ok_or_else(missing)
}

fn mismatch() -> s3s::S3Error {
    s3_error!(SignatureDoesNotMatch, "the signature of the form is not that of its policy and its key")
}

/// SigV4.
async fn fourth(fields: &Fields, policy: &str, secrets: &dyn S3Auth, now_s: u64) -> S3Result<String> {
    if required(fields, "x-amz-algorithm")? != "AWS4-HMAC-SHA256" {
        return Err(s3_error!(InvalidArgument, "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\""));
    }
    let scope = Scope::parse(required(fields, "x-amz-credential")?).filter(|scope| scope.service == "s3");
    let scope =
        scope.ok_or_else(|| s3_error!(InvalidArgument, "the field `x-amz-credential` is no credential for s3"))?;
    let date = required(fields, "x-amz-date")?;
    let signed_s = parse_amz_date(date).filter(|_| date.get(..8) == Some(scope.date));
    let signed_s = signed_s.ok_or_else(|| {
        s3_error!(InvalidArgument, "the field `x-amz-date` is no date, or another than the credential's")
    })?;
    if signed_s > now_s.saturating_add(SKEW_S) {
        return Err(s3_error!(RequestTimeTooSkewed, "the form was signed later than now"));
    }
    if signed_s.saturating_add(AGE_S) < now_s {
        return Err(s3_error!(AccessDenied, "Request has expired"));
    }
    let secret = secrets.get_secret_key(scope.key_id).await?;
    let sign = |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
    let mut key = sign(format!("AWS4{}", secret.expose()).as_bytes(), scope.date);
    for part in [scope.region, scope.service, "aws4_request"] {
        key = sign(key.as_ref(), part);
    }
    let right = hex::encode(sign(key.as_ref(), policy).as_ref());
    let sent = required(fields, "x-amz-signature")?;
    if bool::from(right.as_bytes().ct_eq(sent.as_bytes())) { Ok(scope.key_id.to_owned()) } else { Err(mismatch()) }
}

/// SigV2.
async fn second(fields: &Fields, policy: &str, secrets: &dyn S3Auth) -> S3Result<String> {
    let (key_id, sent) = (required(fields, "awsaccesskeyid")?, required(fields, "signature")?);
    let secret = secrets.get_secret_key(key_id).await?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose().as_bytes());
    let right = BASE64.encode(hmac::sign(&key, policy.as_bytes()).as_ref());
    if bool::from(right.as_bytes().ct_eq(sent.as_bytes())) { Ok(key_id.to_owned()) } else { Err(mismatch()) }
}

/// Whether the policy lets these fields be put, and how long a file.
fn judge(policy: &PostPolicy, fields: &Fields, bucket: &str, now_ms: u64, most: Bounds) -> S3Result<Bounds> {
    let ends = time::OffsetDateTime::from(policy.expiration.clone()).unix_timestamp_nanos() / 1_000_000;
    if ends <= i128::from(now_ms) {
        return Err(s3_error!(AccessDenied, "Invalid according to Policy: Policy expired."));
    }
    let failed = |operator: &str, name: &str, wanted: &str| {
        let text = format!(
            "Invalid according to Policy: Policy Condition failed: [\"{operator}\", \"${name}\", \"{wanted}\"]"
        );
        s3s::S3Error::with_message(s3s::S3ErrorCode::AccessDenied, text)
    };
    if fields.get("bucket").is_some_and(|named| named != bucket) {
        return Err(failed("eq", "bucket", bucket));
    }
    let value = |name: &str| if name == "bucket" { bucket } else { fields.get(name).unwrap_or_default() };
    let mut bounds = most;
    for condition in &policy.conditions {
        match condition {
            Condition::Eq { field, value: wanted } if value(field) != wanted => {
                return Err(failed("eq", field, wanted));
            }
            Condition::StartsWith { field, prefix } if !value(field).starts_with(prefix.as_str()) => {
                return Err(failed("starts-with", field, prefix));
            }
            Condition::ContentLengthRange { min, max } => {
                bounds = Bounds { min: bounds.min.max(*min), max: bounds.max.min(*max) };
            }
            Condition::Eq { .. } | Condition::StartsWith { .. } => {}
        }
    }
    let names = |name: &str| {
        policy.conditions.iter().any(|condition| match condition {
            Condition::Eq { field, .. } | Condition::StartsWith { field, .. } => field == name,
            Condition::ContentLengthRange { .. } => false,
        })
    };
    match fields.iter().find(|(name, _)| !is_exempt(name) && !names(name)) {
        Some((extra, _)) => {
            let text = format!("Invalid according to Policy: Extra input fields: {extra}");
            Err(s3s::S3Error::with_message(s3s::S3ErrorCode::AccessDenied, text))
        }
        None => Ok(bounds),
    }
}

/// Fields that a policy need not name: the signature's own, and those by which a client only says how its bytes are checked and encrypted.
fn is_exempt(name: &str) -> bool {
    matches!(name, "x-amz-signature" | "signature" | "awsaccesskeyid" | "policy" | "submit")
        || ["x-ignore-", "x-amz-checksum-", "x-amz-server-side-encryption"].iter().any(|begin| name.starts_with(begin))
}

#[cfg(test)]
mod tests {
    use s3s::auth::SimpleAuth;

    use super::*;

    const NOW_MS: u64 = 1_440_938_160_000; // 2015-08-30T12:36:00Z
    const MOST: u64 = 1000;

    fn admitted(fields: &[(&str, &str)], now_ms: u64) -> Result<Admitted, (String, String)> {
        let keys = SimpleAuth::from_single("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let admitted = futures::executor::block_on(admit(&Fields::of(fields), "studio", &keys, now_ms, MOST));
        admitted.map_err(|error| (error.code().as_str().to_owned(), error.message().unwrap_or_default().to_owned()))
    }

    /// Fields signed with SigV2 over conditions in JSON.
    fn signed<'a>(policy: &'a str, signature: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [&[("AWSAccessKeyId", "AKIDEXAMPLE"), ("policy", policy), ("signature", signature)], more].concat()
    }

    fn judged(conditions: &str, more: &[(&str, &str)]) -> Result<Admitted, (String, String)> {
        let policy = format!("{{\"expiration\": \"2015-08-30T13:00:00Z\", \"conditions\": {conditions}}}");
        let policy = BASE64.encode(policy);
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY");
        let signature = BASE64.encode(hmac::sign(&key, policy.as_bytes()).as_ref());
        admitted(&signed(&policy, &signature, more), NOW_MS)
    }

    #[test]
    fn conditions_are_compared_with_fields_and_every_field_is_named() {
        let conditions = r#"[{"bucket": "studio"}, ["starts-with", "$key", "raw/"], {"ACL": "private"}, ["content-length-range", 5, 100]]"#;
        let fields = [("key", "raw/a"), ("acl", "private")];
        let bytes = Bounds { min: 5, max: 100 };
        assert_eq!(judged(conditions, &fields), Ok(Admitted { key_id: Some("AKIDEXAMPLE".into()), bytes }));
        let refused = |conditions: &str, fields: &[(&str, &str)], word: &str| {
            let (code, message) = judged(conditions, fields).unwrap_err();
            assert!(code == "AccessDenied" && message.contains(word), "{code} {message}");
        };
        refused(conditions, &[("key", "final/a"), ("acl", "private")], "starts-with");
        refused(conditions, &[("key", "raw/a")], "acl");
        refused(conditions, &[("key", "raw/a"), ("acl", "private"), ("x-amz-meta-a", "b")], "x-amz-meta-a");
        refused(conditions, &[("key", "raw/a"), ("acl", "private"), ("bucket", "other")], "bucket");
        refused(r#"[{"bucket": "other"}, ["starts-with", "$key", ""]]"#, &[("key", "a")], "bucket");
        let ignored = [("key", "raw/a"), ("acl", "private"), ("x-ignore-a", "b"), ("x-amz-checksum-crc32", "AAAAAA==")];
        assert!(judged(conditions, &ignored).is_ok());
        let wide = judged(r#"[["starts-with", "$key", ""], ["content-length-range", 0, 5000]]"#, &[("key", "a")]);
        assert_eq!(wide.unwrap().bytes, Bounds { min: 0, max: MOST });
        for bad in ["[[\"like\", \"$key\", \"a\"]]", "[[\"content-length-range\", 0]]", "[{}]", "{}"] {
            assert_eq!(judged(bad, &[("key", "a")]).unwrap_err().0, "InvalidPolicyDocument", "{bad}");
        }
    }

    #[test]
    fn a_form_is_signed_whole_or_is_nobodys() {
        assert_eq!(admitted(&[("key", "a")], NOW_MS).unwrap().key_id, None);
        for (missing, there) in [("policy", "signature"), ("signature", "policy"), ("awsaccesskeyid", "policy")] {
            let (code, message) = admitted(&[("key", "a"), (there, "x")], NOW_MS).unwrap_err();
            assert!(code == "InvalidArgument", "{missing}: {code} {message}");
        }
        let (policy, other) = (BASE64.encode("{}"), BASE64.encode([0; 20]));
        assert_eq!(admitted(&signed(&policy, &other, &[]), NOW_MS).unwrap_err().0, "SignatureDoesNotMatch");
    }

    /// Fields as boto3 makes them.
    fn fourth_fields(date: &str, policy: &str, signature: &str) -> Vec<(&'static str, String)> {
        let credential = format!("AKIDEXAMPLE/{}/us-east-1/s3/aws4_request", &date[..8]);
        vec![
            ("key", "a".into()),
            ("x-amz-algorithm", "AWS4-HMAC-SHA256".into()),
            ("x-amz-credential", credential),
            ("x-amz-date", date.into()),
            ("policy", policy.into()),
            ("x-amz-signature", signature.into()),
        ]
    }

    #[test]
    fn a_form_of_the_fourth_version_is_good_for_as_long_as_its_policy_says_and_a_week_at_most() {
        let policy = BASE64.encode(
            r#"{"expiration": "2015-09-30T00:00:00Z", "conditions": [["starts-with", "$key", ""], ["starts-with", "$x-amz-credential", ""], ["starts-with", "$x-amz-date", ""], {"x-amz-algorithm": "AWS4-HMAC-SHA256"}]}"#,
        );
        let mut key = b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_vec();
        for part in ["20150830", "us-east-1", "s3", "aws4_request", policy.as_str()] {
            key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
        }
        let signature = hex::encode(&key);
        let at = |date: &str, signature: &str, now_ms: u64| {
            let fields = fourth_fields(date, &policy, signature);
            let fields: Vec<_> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
            admitted(&fields, now_ms).map_err(|(code, _)| code)
        };
        let date = "20150830T123600Z";
        let day_ms = 24 * 3600 * 1000;
        assert!(at(date, &signature, NOW_MS).is_ok());
        assert!(at(date, &signature, NOW_MS + 6 * day_ms).is_ok(), "S3 does not ask for a fresh one");
        assert_eq!(at(date, &signature, NOW_MS + 8 * day_ms), Err("AccessDenied".into()));
        assert_eq!(at(date, &signature, NOW_MS - day_ms), Err("RequestTimeTooSkewed".into()));
        assert_eq!(at(date, &"0".repeat(64), NOW_MS), Err("SignatureDoesNotMatch".into()));
        assert_eq!(at("20150831T123600Z", &signature, NOW_MS + day_ms), Err("SignatureDoesNotMatch".into()));
        assert_eq!(at("20150830", &signature, NOW_MS), Err("InvalidArgument".into()));
    }
}
