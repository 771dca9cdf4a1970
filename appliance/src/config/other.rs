//! The sections that describe another S3.

use super::{ColdConfig, ColdWindowsConfig, ConfigError, UpstreamConfig};
use crate::other_s3::OtherS3;

macro_rules! describe_an_s3 {
    ($($section:literal $config:ident)*) => {$(
        impl $config {
            /// The S3 that it describes.
            #[must_use]
            pub fn other(&self) -> OtherS3 {
                OtherS3 {
                    endpoint: self.endpoint.clone(),
                    region: self.region.clone(),
                    path_style: self.path_style,
                    credentials: self.credentials.clone(),
                }
            }

            pub(super) fn check_other(&self) -> Result<(), ConfigError> {
                self.other().check().map_err(|(key, problem)| {
                    let keys = [
                        concat!($section, ".endpoint"),
                        concat!($section, ".region"),
                        concat!($section, ".credentials"),
                    ];
                    let key = keys.into_iter().find(|full| full.ends_with(key)).unwrap_or($section);
                    ConfigError::Value { key, problem }
                })
            }
        }
    )*};
}

describe_an_s3! { "cold" ColdConfig "cold_windows" ColdWindowsConfig "upstream" UpstreamConfig }
