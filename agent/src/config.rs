//! The agent's configuration: each key is declared here once, with its default and its meaning.
//!
//! A TOML file gives keys; the environment gives the same as `BACKLOT_AGENT_<KEY>` and wins, so that an agent can be
//! configured by the environment alone. A key that nobody declared is an error that names file, line and key.
//! Access keys are no part of it: they come from the AWS variables, profile or role, as for every AWS client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::infer::choice::{Precision, Wish};

/// One key, for the reference page.
#[derive(Clone, Debug)]
pub struct Key {
    pub key: &'static str,
    pub default: toml::Value,
    pub doc: String,
}

macro_rules! config {
    ($($(#[doc = $doc:literal])* $key:ident: $type:ty = $default:expr;)*) => {
        /// The whole configuration.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Config { $($(#[doc = $doc])* pub $key: $type,)* }

        impl Default for Config {
            fn default() -> Self { Self { $($key: $default,)* } }
        }

        /// Every key, in the order of the file.
        #[must_use]
        pub fn keys() -> Vec<Key> {
            let defaults = Config::default();
            vec![$(Key {
                key: stringify!($key),
                default: toml::Value::try_from(&defaults.$key).unwrap_or_else(|_| toml::Value::String(String::new())),
                doc: concat!($($doc, "\n"),*).lines().map(str::trim).collect::<Vec<_>>().join(" "),
            },)*]
        }
    };
}

config! {
    /// The appliance's http door. Empty: work by SQS and S3 alone, without registration and events.
    http: String = "http://127.0.0.1:7070".into();
    /// Endpoint of SQS and S3. Empty: Amazon's own endpoints of `region`.
    aws: String = "http://127.0.0.1:4566".into();
    /// OTLP HTTP base address for logs, metrics and traces. Empty: nothing is shipped.
    otlp: String = "http://127.0.0.1:4318".into();
    /// Name under which it registers. Empty: the host's name.
    name: String = String::new();
    /// Job queue to take work from.
    queue: String = "jobs".into();
    /// Region of the signatures.
    region: String = "us-east-1".into();
    /// Folder for inputs and outputs under way and for the spool. One agent per folder.
    scratch: PathBuf = PathBuf::from("backlot-agent-data");
    /// Folder with the model files. Empty: `$BACKLOT_MODELS`, else `backlot/models` in the user's cache folder.
    models: PathBuf = PathBuf::new();
    /// Bucket of the model store, from which models come that a job names and `models` does not have. Empty: none are fetched.
    models_bucket: String = backlot_wire::model::BUCKET.into();
    /// Folder of the cache of models from the store, on a fast disk; one agent per folder. Empty: `models` in `scratch`.
    models_cache: PathBuf = PathBuf::new();
    /// Most bytes of models in the cache; the longest unused go first.
    models_cache_bytes: u64 = 107_374_182_400;
    /// Parts of a model that are fetched at once.
    models_parallel: usize = 8;
    /// Folder with the manifests of `command` programs. Empty: none.
    manifests: PathBuf = PathBuf::new();
    /// Labels that jobs may require: `name=value`.
    labels: Vec<String> = Vec::new();
    /// Instance type that is reported, for prices. Empty: none.
    instance_type: String = String::new();
    /// The host may be taken away at short notice.
    spot: bool = false;
    /// Worker processes. 0: one for each NVIDIA GPU, or one where there is none.
    slots: usize = 0;
    /// What computes the built-in types: `auto` (CUDA, then wgpu on a real GPU, then the CPU), `cuda`, `wgpu`, `wgpu-software` (a software Vulkan driver, for tests) or `cpu`.
    executor: Wish = Wish::Auto;
    /// How a GPU keeps values and weights: `auto` (f16 where it can), `f16` or `f32`.
    precision: Precision = Precision::Auto;
    /// Threads with which the CPU executor computes. 0: all cores.
    threads: usize = 0;
    /// Jobs held ahead of each worker, their inputs being fetched while it computes.
    ahead: usize = 1;
    /// Most jobs of one model and shape that a worker computes together (1 to 10). 0: four on an NVIDIA GPU, else one.
    batch: usize = 0;
    /// How long a worker waits for jobs that are to be computed with the one it begins and whose inputs are still on their way, in milliseconds.
    batch_wait_ms: u64 = 40;
    /// How long a received job stays hidden without a heartbeat, in seconds; a heartbeat is sent at a third of it.
    visibility_s: u32 = 60;
    /// How long a receive waits for a job, in seconds (0 to 20).
    poll_s: u32 = 20;
    /// How often it registers, in seconds.
    register_s: u64 = 30;
    /// How long jobs may go on after SIGTERM before they are given back, in seconds.
    grace_s: u64 = 30;
    /// How long inputs and outputs are tried again while the store is away, in seconds.
    patience_s: u64 = 300;
    /// How long a worker may take to end a job when asked, in seconds; then it is killed.
    cancel_grace_s: u64 = 3;
    /// Folder of a cgroup (v2) of the agent's own, under which each worker gets one; `self` is the one that the agent runs in (systemd: `Delegate=yes`). Empty: limits of manifests hold for single processes.
    cgroup: String = String::new();
    /// Longest time a worker may compute on a job that sets no `limits.hard_s`, in seconds.
    hard_limit_s: u64 = 86_400;
    /// Most bytes of one job's inputs together.
    input_bytes_max: u64 = 68_719_476_736;
    /// Most bytes of one job's outputs together.
    output_bytes_max: u64 = 68_719_476_736;
    /// Where outputs go when the job does not say.
    output_prefix: String = "s3://studio/jobs/".into();
    /// Longest line a worker may write on standard output, in bytes.
    line_bytes_max: usize = 1_048_576;
    /// Most bytes of events kept while the appliance is away; the oldest progress ticks go first.
    spool_bytes_max: u64 = 16_777_216;
    /// How often metrics are shipped, in seconds.
    metrics_s: u64 = 10;
    /// Units of systemd whose journal is shipped to `otlp`, as `journalctl --unit` takes them, such as `docker.service`; `*` is all of the host. Empty: none.
    journald_units: Vec<String> = Vec::new();
    /// What is written to standard error, in the directives of `tracing`: `info`, `backlot_agent=debug`.
    log: String = "info".into();
}

/// The keys as a table in Markdown, the one that stands in `docs/agent.md`.
#[must_use]
pub fn reference() -> String {
    let rows = keys().into_iter().map(|key| format!("| `{}` | `{}` | {} |", key.key, key.default, key.doc));
    std::iter::once("| key | default | meaning |\n| --- | --- | --- |".to_owned())
        .chain(rows)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {problem}")]
    File { path: PathBuf, problem: String },
    #[error("environment {name}: {problem}")]
    Environment { name: String, problem: String },
    /// `place` is the file and line, or the variable, that set it.
    #[error("{place}: `{key}` {problem}")]
    Value { place: String, key: &'static str, problem: String },
}

const PREFIX: &str = "BACKLOT_AGENT_";
/// Begins like a key and is none: the option `--config`.
const CONFIG_VARIABLE: &str = "BACKLOT_AGENT_CONFIG";

impl Config {
    /// Reads `file`, if there is one, and then the environment's `BACKLOT_AGENT_<KEY>`, and checks every value.
    ///
    /// # Errors
    /// [`ConfigError`] names the file with its line, or the variable, and what it should be.
    pub fn load(file: Option<&Path>, environment: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut tree = toml::Table::new();
        let mut text = String::new();
        if let Some(path) = file {
            let problem = |problem: String| ConfigError::File { path: path.to_owned(), problem };
            text = std::fs::read_to_string(path).map_err(|error| problem(error.to_string()))?;
            toml::from_str::<Self>(&text).map_err(|error| problem(error.to_string()))?;
            tree = toml::from_str(&text).map_err(|error| problem(error.to_string()))?;
        }
        let mut from_environment = Vec::new();
        for (name, value) in environment {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            if name == CONFIG_VARIABLE {
                continue;
            }
            let problem = |problem: String| ConfigError::Environment { name: name.clone(), problem };
            let lower = rest.to_ascii_lowercase();
            let key = keys()
                .into_iter()
                .find(|key| key.key == lower)
                .ok_or_else(|| problem("is no configuration key; docs/agent.md lists them".into()))?;
            let parsed = parse_like(&key.default, &value)
                .ok_or_else(|| problem(format!("`{value}` is no {}", key.default.type_str())))?;
            tree.insert(key.key.to_owned(), parsed);
            from_environment.push(key.key);
        }
        let mut config: Self = tree.try_into().map_err(|error: toml::de::Error| ConfigError::Environment {
            name: format!("{PREFIX}…"),
            problem: error.message().to_owned(),
        })?;
        config.check().map_err(|(key, problem)| {
            let place = if from_environment.contains(&key) {
                format!("environment {PREFIX}{}", key.to_ascii_uppercase())
            } else {
                place_in_file(file, &text, key)
            };
            ConfigError::Value { place, key, problem }
        })?;
        if config.name.is_empty() {
            config.name = host_name();
        }
        if config.models.as_os_str().is_empty() {
            config.models = crate::infer::models::default_folder();
        }
        Ok(config)
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        for (key, text) in [("http", &self.http), ("aws", &self.aws), ("otlp", &self.otlp)] {
            let scheme = text.parse::<http::Uri>().ok().and_then(|uri| uri.scheme_str().map(str::to_owned));
            if !text.is_empty() && !matches!(scheme.as_deref(), Some("http" | "https")) {
                return Err((key, format!("`{text}` is not http://host:port or https://host:port")));
            }
        }
        let is_name = |text: &str| {
            text.len() <= 128 && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if !is_name(&self.name) {
            return Err(("name", "is at most 128 letters, digits, `.`, `_`, `-`".into()));
        }
        if self.queue.is_empty() || !is_name(&self.queue) {
            return Err(("queue", "is 1 to 128 letters, digits, `.`, `_`, `-`".into()));
        }
        if self.labels.iter().any(|label| label.split_once('=').is_none_or(|(name, _)| name.is_empty())) {
            return Err(("labels", "holds an entry that is not name=value".into()));
        }
        let prefix = backlot_wire::job::split_s3_uri(&self.output_prefix);
        if prefix.is_none() || !self.output_prefix.ends_with('/') {
            return Err(("output_prefix", format!("`{}` is not s3://bucket/prefix/", self.output_prefix)));
        }
        let is_unit = |unit: &String| !unit.is_empty() && unit.len() <= 256 && !unit.chars().any(char::is_control);
        if self.journald_units.len() > 256 || !self.journald_units.iter().all(is_unit) {
            return Err(("journald_units", "holds at most 256 names of units".into()));
        }
        let bounds: [(&'static str, u64, u64, u64); 15] = [
            ("slots", self.slots as u64, 0, 64),
            ("threads", self.threads as u64, 0, 1024),
            ("ahead", self.ahead as u64, 0, 8),
            ("batch", self.batch as u64, 0, 10),
            ("batch_wait_ms", self.batch_wait_ms, 0, 60_000),
            ("models_parallel", self.models_parallel as u64, 1, 64),
            ("visibility_s", self.visibility_s.into(), 3, 43_200),
            ("poll_s", self.poll_s.into(), 0, 20),
            ("register_s", self.register_s, 1, 3600),
            ("grace_s", self.grace_s, 0, 86_400),
            ("patience_s", self.patience_s, 0, 86_400),
            ("cancel_grace_s", self.cancel_grace_s, 0, 600),
            ("hard_limit_s", self.hard_limit_s, 1, 30 * 86_400),
            ("line_bytes_max", self.line_bytes_max as u64, 1024, 64 << 20),
            ("metrics_s", self.metrics_s, 1, 3600),
        ];
        match bounds.into_iter().find(|(_, value, min, max)| !(min..=max).contains(&value)) {
            Some((key, value, min, max)) => Err((key, format!("is {value}, which is not {min} to {max}"))),
            None => Ok(()),
        }
    }

    /// `labels` as a map.
    #[must_use]
    pub fn label_map(&self) -> BTreeMap<String, String> {
        self.labels
            .iter()
            .filter_map(|label| label.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }
}

/// The host's name, or `agent` where it has none that can be used.
#[must_use]
pub fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let usable = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if name.is_empty() || !usable { "agent".into() } else { name }
}

fn place_in_file(file: Option<&Path>, text: &str, key: &str) -> String {
    let path = file.map_or_else(|| "configuration".into(), |path| path.display().to_string());
    let line = text
        .lines()
        .position(|line| line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')));
    line.map_or(path.clone(), |line| format!("{path}:{}", line + 1))
}

fn parse_like(default: &toml::Value, text: &str) -> Option<toml::Value> {
    Some(match default {
        toml::Value::String(_) => toml::Value::String(text.to_owned()),
        toml::Value::Integer(_) => toml::Value::Integer(text.parse().ok()?),
        toml::Value::Boolean(_) => toml::Value::Boolean(text.parse().ok()?),
        toml::Value::Array(_) => toml::Value::Array(
            text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(|item| item.to_owned().into()).collect(),
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>().into_iter()
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn the_environment_alone_configures_and_wins_over_the_file() {
        let file = file("queue = \"a\"\nslots = 2\n");
        let pairs = [("BACKLOT_AGENT_QUEUE", "b"), ("BACKLOT_AGENT_LABELS", "rack=1, zone=x"), ("PATH", "/bin")];
        let config = Config::load(Some(file.path()), environment(&pairs)).unwrap();
        assert_eq!((config.queue.as_str(), config.slots), ("b", 2));
        assert_eq!(config.label_map().get("zone").map(String::as_str), Some("x"));
        assert!(!config.name.is_empty());
    }

    #[test]
    fn a_mistake_names_file_line_and_key() {
        for (text, words) in [
            ("queue = \"a\"\nqeue = \"b\"\n", ["line 2", "qeue"]),
            ("slots = \"two\"\n", ["line 1", "slots"]),
            ("queue = \"a\"\nvisibility_s = 1\n", [":2", "visibility_s"]),
            ("http = \"localhost\"\n", [":1", "http"]),
            ("labels = [\"gpu\"]\n", [":1", "name=value"]),
        ] {
            let file = file(text);
            let error = Config::load(Some(file.path()), environment(&[])).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{text:?}: {error}");
            }
            assert!(error.contains(&file.path().display().to_string()), "{error}");
        }
    }

    #[test]
    fn a_variable_that_is_no_key_or_no_number_is_named() {
        for (name, value) in
            [("BACKLOT_AGENT_QEUE", "x"), ("BACKLOT_AGENT_SLOTS", "two"), ("BACKLOT_AGENT_POLL_S", "99")]
        {
            let error = Config::load(None, environment(&[(name, value)])).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn the_reference_in_the_docs_is_the_one_that_the_program_prints() {
        let page = include_str!("../../docs/agent.md");
        assert!(page.contains(&reference()), "put this into docs/agent.md:\n{}", reference());
    }
}
