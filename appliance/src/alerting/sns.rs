//! A real SNS topic, by Amazon's SDK: on AWS, or at any endpoint that speaks SNS.
//!
//! The key comes from the environment's usual variables (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`), which a
//! service manager sets from a file that only it reads. Profiles and instance roles are absent on purpose until an issue needs them.

use aws_sdk_sns::Client;
use aws_sdk_sns::config::retry::RetryConfig;
use aws_sdk_sns::config::timeout::TimeoutConfig;
use aws_sdk_sns::config::{BehaviorVersion, Credentials, Region};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};

use super::receiver::{ATTEMPT_TIMEOUT, Message};
use crate::config::AlertingConfig;
use crate::outgoing::chain;

pub(super) struct Sns {
    client: Client,
    topic: String,
}

impl Sns {
    pub(super) fn new(config: &AlertingConfig) -> Result<Self, (&'static str, String)> {
        let topic = &config.sns_topic_arn;
        if !topic.starts_with("arn:") || topic.split(':').count() != 6 {
            let problem = format!("`{topic}` is no ARN such as arn:aws:sns:us-east-1:123456789012:alerts");
            return Err(("sns_topic_arn", problem));
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (Some(key), Some(secret)) = (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) else {
            let problem = "needs a key: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for `backlot serve`";
            return Err(("sns_topic_arn", problem.to_owned()));
        };
        let credentials = Credentials::new(key, secret, variable("AWS_SESSION_TOKEN"), None, "environment");
        let endpoint = &config.sns_endpoint;
        if !endpoint.is_empty() && !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(("sns_endpoint", "is an http:// or https:// URL".to_owned()));
        }
        let http = if endpoint.starts_with("http://") {
            Builder::new().build_http()
        } else {
            Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
        };
        let mut sdk = aws_sdk_sns::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(config.sns_region.clone()))
            .credentials_provider(credentials)
            .http_client(http)
            // The outbox retries, and remembers over a restart that it does.
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().operation_timeout(ATTEMPT_TIMEOUT).build());
        if !endpoint.is_empty() {
            sdk = sdk.endpoint_url(endpoint);
        }
        Ok(Self { client: Client::from_conf(sdk.build()), topic: topic.clone() })
    }

    /// One attempt.
    pub(super) async fn send(&self, message: &Message) -> Result<(), String> {
        let publish = self.client.publish().topic_arn(&self.topic).subject(&message.subject).message(&message.text);
        publish.send().await.map(drop).map_err(|error| chain(&error))
    }
}
