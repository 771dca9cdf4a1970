//! Clients of SQS and S3: the AWS SDK over rustls with *ring*, against the appliance or against Amazon.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_types::timeout::TimeoutConfig;

use crate::config::Config;

/// What both clients share. Credentials are looked for in the environment, profiles and roles.
pub async fn load(config: &Config) -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let mut loader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::new(config.region.clone()))
        .timeout_config(TimeoutConfig::builder().connect_timeout(Duration::from_secs(5)).build());
    if !config.aws.is_empty() {
        loader = loader.endpoint_url(config.aws.clone());
    }
    loader.load().await
}

/// The access key, for the doors that take it as a password.
///
/// # Errors
/// A sentence that says where it was looked for.
pub async fn credentials(shared: &SdkConfig) -> Result<Credentials, String> {
    let provider =
        shared.credentials_provider().ok_or("no access key: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")?;
    provider.provide_credentials().await.map_err(|error| {
        format!(
            "no access key: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or a role ({})",
            aws_smithy_types::error::display::DisplayErrorContext(&error)
        )
    })
}
