//! The typed configuration tree: each key is declared here once, with its default and its meaning.
//!
//! A TOML file gives sections and keys; the environment gives the same as `BACKLOT_<SECTION>_<KEY>` and wins. A key that
//! nobody declared is an error that names file, line and key. `backlot config reference` prints what the doc comments
//! below say, and a test keeps `docs/configuration.md` equal to it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One key, for the reference page.
#[derive(Clone, Debug)]
pub struct Key {
    pub section: &'static str,
    pub key: &'static str,
    pub default: toml::Value,
    pub doc: String,
}

macro_rules! config {
    ($($(#[doc = $section_doc:literal])* [$section:ident] $name:ident { $($(#[doc = $doc:literal])* $key:ident: $type:ty = $default:expr;)* })*) => {
        /// The whole configuration.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Config { $($(#[doc = $section_doc])* pub $section: $name,)* }

        $(
            $(#[doc = $section_doc])*
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            #[serde(default, deny_unknown_fields)]
            pub struct $name { $($(#[doc = $doc])* pub $key: $type,)* }

            impl Default for $name {
                fn default() -> Self { Self { $($key: $default,)* } }
            }
        )*

        /// Every key, in the order of the file.
        #[must_use]
        pub fn keys() -> Vec<Key> {
            let defaults = Config::default();
            vec![$($(Key {
                section: stringify!($section),
                key: stringify!($key),
                default: toml::Value::try_from(&defaults.$section.$key).unwrap_or_else(|_| toml::Value::String(String::new())),
                doc: concat!($($doc, "\n"),*).lines().map(str::trim).collect::<Vec<_>>().join(" "),
            },)*)*]
        }
    };
}

config! {
    /// Where everything is kept.
    [data] Data {
        /// The data folder. Made at the first start, with mode 0700. `--data` wins.
        dir: PathBuf = PathBuf::from("backlot-data");
    }
    /// The doors.
    [edge] Edge {
        /// Address of the AWS door: S3, SQS, SNS, CloudWatch. Port 0 takes any free port.
        aws: String = "127.0.0.1:4566".into();
        /// Address of the http door: dashboard, native API, Prometheus.
        http: String = "127.0.0.1:7070".into();
        /// Address of the OTLP gRPC door.
        otlp_grpc: String = "127.0.0.1:4317".into();
        /// Address of the OTLP HTTP door.
        otlp_http: String = "127.0.0.1:4318".into();
        /// Allows addresses that are not loopback without TLS.
        insecure: bool = false;
        /// Most requests answered at once, all doors together; a further one is answered 503.
        in_flight_max: usize = 4096;
        /// Most connections of a door; a further one is closed at once.
        connections_max: usize = 12_000;
        /// Longest time for a request's head to arrive, in seconds.
        head_timeout_s: u64 = 15;
        /// Longest pause between two pieces of a request's body, in seconds.
        body_timeout_s: u64 = 30;
        /// Most requests a second from one address, averaged over ten seconds. 0 sets no limit; loopback is never limited.
        requests_per_address_s: u32 = 0;
        /// Largest body of the AWS door except S3, in bytes.
        aws_body_bytes_max: usize = 2_097_152;
        /// Largest body of the http door, in bytes.
        http_body_bytes_max: usize = 8_388_608;
        /// Largest body of the OTLP doors, compressed and uncompressed each, in bytes.
        otlp_body_bytes_max: usize = 16_777_216;
    }
    /// The journals.
    [journal] JournalConfig {
        /// Size at which a segment is closed, in bytes.
        segment_bytes: u64 = 67_108_864;
        /// Preallocated room for deletes when the disk is full, in bytes.
        reserve_bytes: u64 = 16_777_216;
        /// Most bytes of the control journal on disk.
        control_disk_bytes_max: u64 = 68_719_476_736;
        /// Most bytes of the telemetry journal on disk.
        telemetry_disk_bytes_max: u64 = 8_589_934_592;
    }
}

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
    #[error("environment {name}: {problem}")]
    Environment { name: String, problem: String },
    #[error("{key}: {problem}")]
    Value { key: &'static str, problem: String },
}

/// Names that begin with `BACKLOT_` and are no configuration keys.
const RESERVED: &[&str] =
    &["BACKLOT_ENDPOINT", "BACKLOT_TESTDATA", "BACKLOT_CONFIG", "BACKLOT_DATA", "BACKLOT_KEY_FILE", "BACKLOT_LOG"];
const RESERVED_PREFIX: &str = "BACKLOT_AGENT_";

impl Config {
    /// Reads `file`, if there is one, and then the environment's `BACKLOT_<SECTION>_<KEY>`.
    ///
    /// # Errors
    /// [`ConfigError`] names the file with line and column, or the variable, and what it should be.
    pub fn load(file: Option<&Path>, environment: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(path) = file {
            let problem = |problem: String| ConfigError::File { path: path.to_owned(), problem };
            let text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
            config = toml::from_str(&text).map_err(|error| problem(error.to_string()))?;
        }
        for (name, text) in environment {
            let Some(rest) = name.strip_prefix("BACKLOT_") else { continue };
            if !RESERVED.contains(&name.as_str()) && !name.starts_with(RESERVED_PREFIX) {
                config = config.with_variable(&name, rest, &text)?;
            }
        }
        Ok(config)
    }

    fn with_variable(&self, name: &str, rest: &str, text: &str) -> Result<Self, ConfigError> {
        let problem = |problem: String| ConfigError::Environment { name: name.to_owned(), problem };
        let lower = rest.to_ascii_lowercase();
        let key = keys()
            .into_iter()
            .find(|key| lower == format!("{}_{}", key.section, key.key))
            .ok_or_else(|| problem("is no configuration key; `backlot config reference` lists them".into()))?;
        let value = parse_like(&key.default, text)
            .ok_or_else(|| problem(format!("`{text}` is no {}", key.default.type_str())))?;
        let mut tree = toml::Table::try_from(self).map_err(|error| problem(error.to_string()))?;
        if let Some(toml::Value::Table(section)) = tree.get_mut(key.section) {
            section.insert(key.key.to_owned(), value);
        }
        tree.try_into().map_err(|error: toml::de::Error| problem(error.message().to_owned()))
    }
}

fn parse_like(default: &toml::Value, text: &str) -> Option<toml::Value> {
    Some(match default {
        toml::Value::String(_) => toml::Value::String(text.to_owned()),
        toml::Value::Integer(_) => toml::Value::Integer(text.parse().ok()?),
        toml::Value::Float(_) => toml::Value::Float(text.parse().ok()?),
        toml::Value::Boolean(_) => toml::Value::Boolean(text.parse().ok()?),
        toml::Value::Array(_) => toml::Value::Array(
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(|item| item.to_owned().into()).collect(),
        ),
        _ => return None,
    })
}
