//! One line of the server access log, as S3 writes them: fields with spaces between, `-` where there is nothing to say.
//!
//! Nothing that a caller wrote breaks a line or ends a quoted field. What opens a presigned URL is left out of it.

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What a quoted field must not have.
const QUOTED: &AsciiSet = &CONTROLS.add(b'"');
/// The same of one without quotes.
const PLAIN: &AsciiSet = &QUOTED.add(b' ');
/// Longest text of a caller in a line, in characters.
const TEXT_MAX: usize = 1024;

/// Everything that a line tells.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) owner: String,
    pub(super) bucket: String,
    pub(super) wall_ms: u64,
    pub(super) address: String,
    pub(super) requester: String,
    pub(super) request_id: String,
    /// As the model of S3 calls it.
    pub(super) operation: String,
    pub(super) key: Option<String>,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) status: u16,
    pub(super) error: Option<String>,
    pub(super) sent_bytes: u64,
    pub(super) object_bytes: Option<u64>,
    pub(super) took_ms: u64,
    pub(super) turned_ms: u64,
    pub(super) referer: Option<String>,
    pub(super) agent: Option<String>,
    pub(super) version: Option<String>,
    pub(super) host: Option<String>,
    /// How it was signed: the version, and where.
    pub(super) signed: Option<(&'static str, &'static str)>,
    pub(super) is_website: bool,
}

fn cut(text: &str) -> String {
    text.chars().take(TEXT_MAX).collect()
}

fn plain(text: Option<&str>) -> String {
    match text {
        Some(text) if !text.is_empty() => utf8_percent_encode(&cut(text), PLAIN).to_string(),
        _ => "-".to_owned(),
    }
}

fn quoted(text: Option<&str>) -> String {
    format!("\"{}\"", text.map_or_else(|| "-".to_owned(), |text| utf8_percent_encode(&cut(text), QUOTED).to_string()))
}

fn number(number: Option<u64>) -> String {
    number.filter(|number| *number > 0).map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// A path and query without what lets its reader in.
pub(super) fn without_secrets(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    const SECRET: [&str; 3] = ["x-amz-signature", "signature", "x-amz-security-token"];
    let pair = |pair: &str| match pair.split_once('=') {
        Some((name, _)) if SECRET.contains(&name.to_ascii_lowercase().as_str()) => format!("{name}=-"),
        _ => pair.to_owned(),
    };
    format!("{path}?{}", query.split('&').map(pair).collect::<Vec<_>>().join("&"))
}

impl Line {
    pub(super) fn write(&self) -> String {
        let format =
            time::macros::format_description!("[day]/[month repr:short]/[year]:[hour]:[minute]:[second] +0000");
        let seconds = i64::try_from(self.wall_ms / 1000).unwrap_or_default();
        let moment = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
        let request = format!("{} {} HTTP/1.1", self.method, without_secrets(&self.target));
        let (version, place) = self.signed.unwrap_or(("-", "-"));
        let fields = [
            plain(Some(&self.owner)),
            plain(Some(&self.bucket)),
            format!("[{}]", moment.format(format).unwrap_or_default()),
            plain(Some(&self.address)),
            plain(Some(&self.requester)),
            plain(Some(&self.request_id)),
            named(&self.operation, &self.method, self.key.is_some(), self.is_website),
            plain(self.key.as_deref()),
            quoted(Some(&request)),
            self.status.to_string(),
            plain(self.error.as_deref()),
            number(Some(self.sent_bytes)),
            number(self.object_bytes),
            self.took_ms.to_string(),
            self.turned_ms.to_string(),
            quoted(self.referer.as_deref()),
            quoted(self.agent.as_deref()),
            plain(self.version.as_deref()),
            "-".to_owned(), // the host's extended id
            version.to_owned(),
            "-".to_owned(), // cipher: no door speaks TLS
            place.to_owned(),
            plain(self.host.as_deref()),
            "-".to_owned(), // TLS
            "-".to_owned(), // access point
            "-".to_owned(), // whether an ACL was needed
        ];
        fields.join(" ")
    }
}

/// What the log calls an operation: `REST.PUT.OBJECT`.
fn named(operation: &str, method: &str, has_key: bool, is_website: bool) -> String {
    let kind = if is_website { "WEBSITE" } else { "REST" };
    let whole = match operation {
        "CopyObject" => "COPY.OBJECT",
        "UploadPartCopy" => "COPY.PART",
        "DeleteObjects" => "POST.MULTI_OBJECT_DELETE",
        "CreateMultipartUpload" => "POST.UPLOADS",
        "CompleteMultipartUpload" => "POST.UPLOAD",
        "PreflightRequest" => "OPTIONS.PREFLIGHT",
        _ => "",
    };
    if !whole.is_empty() {
        return format!("{kind}.{whole}");
    }
    // What the verb is done to; the settings of a bucket all have names of their own.
    let thing = match operation.trim_start_matches("Get").trim_start_matches("Put").trim_start_matches("Delete") {
        "UploadPart" => "PART",
        "AbortMultipartUpload" | "ListParts" => "UPLOAD",
        "ListMultipartUploads" => "UPLOADS",
        "ListObjectVersions" => "BUCKETVERSIONS",
        "BucketAcl" | "ObjectAcl" => "ACL",
        "ObjectTagging" => "OBJECT_TAGGING",
        "BucketTagging" => "TAGGING",
        "BucketLocation" => "LOCATION",
        "BucketPolicy" => "BUCKETPOLICY",
        "BucketPolicyStatus" => "BUCKETPOLICYSTATUS",
        "BucketCors" => "CORS",
        "BucketLifecycle" | "BucketLifecycleConfiguration" => "LIFECYCLE",
        "BucketVersioning" => "VERSIONING",
        "BucketLogging" => "LOGGING_STATUS",
        "BucketNotificationConfiguration" => "NOTIFICATION",
        "BucketWebsite" => "WEBSITE",
        "BucketEncryption" => "ENCRYPTION",
        "BucketRequestPayment" => "REQUEST_PAYMENT",
        "BucketAccelerateConfiguration" => "ACCELERATE",
        "PublicAccessBlock" => "PUBLIC_ACCESS_BLOCK",
        "BucketOwnershipControls" => "OWNERSHIP_CONTROLS",
        "ObjectLockConfiguration" => "OBJECT_LOCK_CONFIGURATION",
        "ObjectRetention" => "OBJECT_LOCK_RETENTION",
        "ObjectLegalHold" => "OBJECT_LOCK_LEGALHOLD",
        "ObjectAttributes" => "OBJECT_ATTRIBUTES",
        _ if has_key || operation == "PostObject" => "OBJECT",
        _ => "BUCKET",
    };
    format!("{kind}.{method}.{thing}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_fields_of_s3_in_its_order() {
        let line = Line {
            owner: "79a5".into(),
            bucket: "dailies".into(),
            wall_ms: 1_549_411_238_000,
            address: "192.0.2.3".into(),
            requester: "arn:aws:iam::1:user/k".into(),
            request_id: "3E57".into(),
            operation: "GetObject".into(),
            key: Some("raw/shot 1\n.exr".into()),
            method: "GET".into(),
            target: "/dailies/raw/shot%201?X-Amz-Credential=k&X-Amz-Signature=secret&partNumber=1".into(),
            status: 200,
            sent_bytes: 2662992,
            object_bytes: Some(3462992),
            took_ms: 70,
            turned_ms: 10,
            agent: Some("say \"no\"\n".into()),
            host: Some("localhost:4566".into()),
            signed: Some(("SigV4", "QueryString")),
            ..Line::default()
        };
        assert_eq!(
            line.write(),
            "79a5 dailies [06/Feb/2019:00:00:38 +0000] 192.0.2.3 arn:aws:iam::1:user/k 3E57 REST.GET.OBJECT raw/shot%201%0A.exr \
             \"GET /dailies/raw/shot%201?X-Amz-Credential=k&X-Amz-Signature=-&partNumber=1 HTTP/1.1\" 200 - 2662992 3462992 70 10 \
             \"-\" \"say %22no%22%0A\" - - SigV4 - QueryString localhost:4566 - - -"
        );
    }

    #[test]
    fn operations_have_the_names_that_readers_of_such_logs_know() {
        for (operation, method, has_key, name) in [
            ("PutObject", "PUT", true, "REST.PUT.OBJECT"),
            ("HeadObject", "HEAD", true, "REST.HEAD.OBJECT"),
            ("ListObjectsV2", "GET", false, "REST.GET.BUCKET"),
            ("DeleteBucketCors", "DELETE", false, "REST.DELETE.CORS"),
            ("DeleteObjects", "POST", false, "REST.POST.MULTI_OBJECT_DELETE"),
            ("UploadPart", "PUT", true, "REST.PUT.PART"),
            ("PostObject", "POST", false, "REST.POST.OBJECT"),
            ("GetObjectTagging", "GET", true, "REST.GET.OBJECT_TAGGING"),
            ("", "GET", true, "REST.GET.OBJECT"),
        ] {
            assert_eq!(named(operation, method, has_key, false), name, "{operation}");
        }
        assert_eq!(named("GetObject", "GET", true, true), "WEBSITE.GET.OBJECT");
    }
}
