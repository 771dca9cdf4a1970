//! Where artifacts are, and what has to fit together when that is another S3.

use serde::{Deserialize, Serialize};

use super::{Config, ConfigError, UpstreamConfig};

/// Where artifacts are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// On this machine's disks.
    #[default]
    Own,
    /// In the other S3 of section `upstream`.
    S3,
}

/// What the ETag of a large object is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EtagKind {
    /// The MD5 of its bytes.
    #[default]
    Md5,
    /// Something random, where the client does not ask for the MD5 itself.
    Quick,
}

impl UpstreamConfig {
    fn check(&self) -> Result<(), ConfigError> {
        self.check_other()?;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
        if self.bucket_prefix.len() > 40 || !self.bucket_prefix.bytes().all(plain) {
            let problem = "is at most 40 of a-z, 0-9, `-` and `.`".into();
            return Err(ConfigError::Value { key: "upstream.bucket_prefix", problem });
        }
        if !(1..=16_384).contains(&self.connections_max) {
            return Err(ConfigError::Value { key: "upstream.connections_max", problem: "is 1 to 16384".into() });
        }
        Ok(())
    }
}

impl Config {
    /// Checks section `upstream` and what makes no sense beside it, where artifacts are in another S3.
    pub(super) fn check_engine(&self) -> Result<(), ConfigError> {
        if self.artifacts.engine == Engine::Own {
            return Ok(());
        }
        self.upstream.check()?;
        let beside = [
            (self.edge.public.is_empty(), "edge.public", "a CDN asks the other S3 itself"),
            (self.cold.bucket.is_empty(), "cold.bucket", "the other S3 has tiers of its own"),
            (!self.encryption.all_objects, "encryption.all_objects", "the other S3 encrypts what it keeps"),
        ];
        for (fits, key, instead) in beside {
            if !fits {
                let problem = format!("is about what lies on this machine; with artifacts.engine = \"s3\", {instead}");
                return Err(ConfigError::Value { key, problem });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_with_another_s3_is_refused_and_is_nobodys_concern_without_one() {
        for (text, key) in [
            ("[upstream]\nendpoint = \"ceph\"\n", "upstream.endpoint"),
            ("[upstream]\nregion = \"\"\n", "upstream.region"),
            ("[upstream]\nbucket_prefix = \"A_\"\n", "upstream.bucket_prefix"),
            ("[upstream]\nconnections_max = 0\n", "upstream.connections_max"),
            ("[edge]\npublic = \"127.0.0.1:0\"\n", "edge.public"),
            ("[cold]\nbucket = \"old\"\n", "cold.bucket"),
            ("[encryption]\nall_objects = true\n", "encryption.all_objects"),
        ] {
            let with: Config = toml::from_str(&format!("[artifacts]\nengine = \"s3\"\n{text}")).unwrap();
            assert!(with.check().unwrap_err().to_string().contains(key), "{key}");
            let without: Config = toml::from_str(text).unwrap();
            assert!(without.check().is_ok(), "{key}");
        }
        assert!(toml::from_str::<Config>("[artifacts]\nengine = \"tape\"\n").is_err());
    }
}
