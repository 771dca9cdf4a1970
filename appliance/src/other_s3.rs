//! Another S3, by Amazon's SDK: Amazon's own, Garage, Ceph, or another Backlot.
//!
//! A configuration names it and says where its key is to be found, never the key itself, so that it can be printed. Whoever uses
//! the client bounds the time of each call: what is right for a listing is wrong for a part of some gigabytes.

pub mod bucket;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

/// Longest time for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most tries of a call, by the SDK: errors of the server and of the network alone are tried again.
const ATTEMPTS_MAX: u32 = 3;
/// Most bytes of a credentials file.
const FILE_BYTES_MAX: u64 = 65_536;

/// Where another S3 is, and who we are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherS3 {
    /// `http://…` or `https://…`. Empty is Amazon's own, in `region`.
    pub endpoint: String,
    pub region: String,
    /// Whether the bucket stands in the path, and not in the host's name.
    pub path_style: bool,
    /// `file:PATH`, a file in the form of an AWS credentials file that nobody else may read. Empty: where Amazon's tools look, the environment,
    /// profiles, and the role of the machine or container.
    pub credentials: String,
}

impl OtherS3 {
    /// What can be said without asking anybody.
    ///
    /// # Errors
    /// The key of a section that is wrong, and what it should be.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let Self { endpoint, region, credentials, .. } = self;
        let host = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"));
        if !endpoint.is_empty() && host.is_none_or(|host| host.is_empty() || host.contains('@')) {
            return Err(("endpoint", "is an http:// or https:// URL without userinfo".into()));
        }
        if region.is_empty() {
            return Err(("region", "is the name of a region; a store that has none takes any".into()));
        }
        if !credentials.is_empty() && credentials.strip_prefix("file:").is_none_or(str::is_empty) {
            return Err(("credentials", "is file:PATH, or empty for the environment, profiles and roles".into()));
        }
        Ok(())
    }

    /// Who says who we are there. Nobody is asked yet.
    ///
    /// # Errors
    /// A file that cannot be read, is no credentials file, or can be read by others. No secret is in what is said.
    pub async fn credentials_provider(&self) -> Result<SharedCredentialsProvider, (&'static str, String)> {
        if let Some(path) = self.credentials.strip_prefix("file:") {
            let credentials = read(Path::new(path)).map_err(|why| ("credentials", format!("{path}: {why}")))?;
            return Ok(SharedCredentialsProvider::new(credentials));
        }
        let tls = Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let region = Region::new(self.region.clone());
        let shared = aws_config::defaults(BehaviorVersion::latest()).http_client(tls).region(region).load().await;
        let none = || ("credentials", "Amazon's tools have no place here where credentials could be".to_owned());
        shared.credentials_provider().ok_or_else(none)
    }

    /// A client. Nothing is sent yet, but for what finding the key of a role takes, at the first call.
    ///
    /// # Errors
    /// As [`OtherS3::check`]; a file that cannot be read, is no credentials file, or can be read by others. No secret is in what is said.
    pub async fn client(&self) -> Result<Client, (&'static str, String)> {
        self.check()?;
        let tls = || Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let http = if self.endpoint.starts_with("http://") { Builder::new().build_http() } else { tls() };
        let region = Region::new(self.region.clone());
        let mut config = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(region)
            .http_client(http)
            .force_path_style(self.path_style)
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS_MAX))
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_TIMEOUT).build())
            // Whoever reads slowly is no stalled server; callers time what they wait for.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            // Not every S3 knows the newer checksums; callers ask for those that they want.
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if !self.endpoint.is_empty() {
            config = config.endpoint_url(&self.endpoint);
        }
        config = config.credentials_provider(self.credentials_provider().await?);
        Ok(Client::from_conf(config.build()))
    }
}

/// The first key of a credentials file.
fn read(path: &Path) -> Result<Credentials, String> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err("can be read by others; run: chmod go= on it".into());
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(format!("has {} bytes and is no credentials file", metadata.len()));
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let value = |name: &str| {
        let line = |line: &str| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == name && !value.trim().is_empty()).then(|| value.trim().to_owned())
        };
        text.lines().find_map(line)
    };
    match (value("aws_access_key_id"), value("aws_secret_access_key")) {
        (Some(id), Some(secret)) => Ok(Credentials::new(id, secret, value("aws_session_token"), None, "file")),
        _ => Err("has no aws_access_key_id and aws_secret_access_key".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(endpoint: &str, credentials: &str) -> OtherS3 {
        let region = "us-east-1".to_owned();
        OtherS3 { endpoint: endpoint.into(), region, path_style: true, credentials: credentials.into() }
    }

    #[test]
    fn what_cannot_be_another_s3_is_refused_by_the_name_of_its_key() {
        assert_eq!(other("", "").check(), Ok(()));
        assert_eq!(other("https://s3.garage.example:3900", "file:/etc/backlot/cold.key").check(), Ok(()));
        for endpoint in ["garage", "ftp://x", "http://", "https://key:secret@x"] {
            assert_eq!(other(endpoint, "").check().unwrap_err().0, "endpoint", "{endpoint}");
        }
        for credentials in ["file:", "AKIA:secret"] {
            let (key, problem) = other("", credentials).check().unwrap_err();
            assert!(key == "credentials" && !problem.contains("secret"), "{problem}");
        }
    }

    #[tokio::test]
    async fn a_key_is_read_from_a_private_file_and_never_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::write(&path, "[default]\naws_access_key_id = AKIAX\naws_secret_access_key = s3cret/+=\n").unwrap();
        mode(0o600);
        let from = other("http://127.0.0.1:1", &format!("file:{}", path.display()));
        assert!(!format!("{:?}", from.client().await.unwrap().config()).contains("s3cret"));
        let read_back = read(&path).unwrap();
        assert_eq!((read_back.access_key_id(), read_back.secret_access_key()), ("AKIAX", "s3cret/+="));
        mode(0o644);
        assert!(from.client().await.unwrap_err().1.contains("by others"));
        mode(0o600);
        std::fs::write(&path, "aws_secret_access_key = s3cret\n").unwrap();
        let (key, problem) = from.client().await.unwrap_err();
        assert!(key == "credentials" && !problem.contains("s3cret"), "{problem}");
    }
}
