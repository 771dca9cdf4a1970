//! The typed configuration tree: each key is declared here once, with its default and its meaning.
//!
//! A TOML file gives sections and keys; the environment gives the same as `BACKLOT_<SECTION>_<KEY>` and wins. A key that
//! nobody declared is an error that names file, line and key. `backlot config reference` prints what the doc comments
//! below say, and a test keeps `docs/configuration.md` equal to it.

mod check;
mod cold;
mod logs;
mod other;
mod redaction;
mod reference;
mod upstream;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::logs::LogClass;
pub use self::redaction::RedactionRule;
pub use self::reference::{reference_json, reference_markdown};
pub use self::upstream::{Engine, EtagKind};

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
        /// Address of the public door, which gives everybody the objects and websites that everybody may read, as the origin of a CDN.
        /// Empty: there is no such door.
        public: String = String::new();
        /// Allows addresses that are not loopback without TLS.
        insecure: bool = false;
        /// Most requests answered at once, all doors together; a further one is answered 503.
        in_flight_max: usize = 16_384;
        /// Most connections of a door; a further one is closed at once.
        connections_max: usize = 16_384;
        /// Longest time for a request's head to arrive, in seconds.
        head_timeout_s: u64 = 15;
        /// Longest pause between two pieces of a request's body, in seconds.
        body_timeout_s: u64 = 30;
        /// Most requests a second from one address, averaged over ten seconds. 0 sets no limit; loopback is never limited.
        requests_per_address_s: u32 = 0;
        /// Most requests a second with one key, averaged over ten seconds. 0 sets no limit.
        requests_per_key_s: u32 = 0;
        /// Largest body of the AWS door except S3, in bytes.
        aws_body_bytes_max: usize = 4_194_304;
        /// Largest body of the http door, in bytes.
        http_body_bytes_max: usize = 8_388_608;
        /// Largest body of the OTLP doors, compressed and uncompressed each, in bytes.
        otlp_body_bytes_max: usize = 16_777_216;
    }
    /// The artifact store.
    [artifacts] ArtifactConfig {
        /// Where artifacts are: `own`, on the disks of this machine, or `s3`, in another S3 (section `upstream`) to which this appliance is the door.
        engine: Engine = Engine::Own;
        /// Largest object that shares a pack file with others, in bytes; a larger one has a file of its own.
        small_object_bytes_max: usize = 65_536;
        /// Size at which a pack file is followed by a new one, in bytes.
        pack_bytes: u64 = 67_108_864;
        /// The ETag of an object over 8 MiB that is put in one piece: `md5` of its bytes, or `quick`: random, in the form `…-1` that clients
        /// do not take for an MD5. Reckoning the MD5 takes twice as long as writing the bytes to a good disk.
        etag: EtagKind = EtagKind::Md5;
        /// Domains below which a name is a bucket: `dailies.s3.studio.example` with `s3.studio.example`. `localhost` always is one.
        domains: Vec<String> = Vec::new();
        /// Largest clip or sound that is copied for ffmpeg to look at, in bytes.
        preview_source_bytes_max: u64 = 2_147_483_648;
        /// Seconds between two deliveries of the access log into its target buckets; much of it is delivered at once.
        access_log_deliver_s: u64 = 300;
        /// Largest file that a browser's form puts, in bytes; a form's own policy may say less. S3 takes 5 GiB.
        form_bytes_max: u64 = 1_073_741_824;
        /// The program that makes posters of clips.
        ffmpeg: String = "ffmpeg".to_owned();
        /// The program that says what clips and sounds are.
        ffprobe: String = "ffprobe".to_owned();
        /// Bytes a second that the scrubber reads, to compare everything that is stored with its checksums.
        scrub_bytes_s: u64 = 33_554_432;
        /// Days from one begin of the scrubber to the next; with 0 it works only when it is told to.
        scrub_days: u32 = 30;
    }
    /// The cold tier of the artifact store: another S3 that lifecycle rules move objects to, and that they are read from.
    [cold] ColdConfig {
        /// Bucket of the other S3. Empty: there is no cold tier.
        bucket: String = String::new();
        /// What the names of everything that is kept there begin with, such as `backlot/`.
        prefix: String = String::new();
        /// Endpoint of the other S3, as http:// or https:// URL. Empty is Amazon's own.
        endpoint: String = String::new();
        /// Region of the bucket.
        region: String = "us-east-1".into();
        /// Whether the bucket stands in the path, and not in the host's name.
        path_style: bool = true;
        /// Where the access key is: `file:PATH` in the form of an AWS credentials file that nobody else may read. Empty is where Amazon's tools look: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, profiles, the role of the machine.
        credentials: String = String::new();
        /// Whether the other S3 is asked for the storage class that a rule names. Stores that know STANDARD alone want false.
        send_class: bool = true;
        /// Most bytes a second that are moved, out and back.
        bytes_s_max: u64 = 134_217_728;
        /// Most objects that are being read from the other S3 at one moment; a further one waits a little and is then answered 503.
        reads_max: usize = 64;
        /// Whether the scrubber reads what is there whole. Without it, it compares sizes and checksums that the other S3 tells.
        scrub_reads: bool = false;
    }
    /// Where log and span windows go that are old: another S3, in which they are searched still. `logs.cold_days`, `traces.cold_days` and `cold_days` of a class say what moves.
    [cold_windows] ColdWindowsConfig {
        /// Bucket of the other S3. Empty: all windows stay here.
        bucket: String = String::new();
        /// What the names of everything that is kept there begin with, such as `windows/`.
        prefix: String = String::new();
        /// Endpoint of the other S3, as http:// or https:// URL. Empty is Amazon's own.
        endpoint: String = String::new();
        /// Region of the bucket.
        region: String = "us-east-1".into();
        /// Whether the bucket stands in the path, and not in the host's name.
        path_style: bool = true;
        /// Where the access key is: `file:PATH` in the form of an AWS credentials file that nobody else may read. Empty is where Amazon's tools look: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, profiles, the role of the machine.
        credentials: String = String::new();
        /// Most bytes a second that are moved.
        bytes_s_max: u64 = 67_108_864;
        /// A window that has more bytes goes in parts of this size, each held in memory once. S3 takes none below 5 MiB.
        part_bytes: u64 = 16_777_216;
        /// Most bytes on this disk of what searches have read there of late.
        cache_bytes_max: u64 = 4_294_967_296;
    }
    /// The other S3 that the whole artifact store is a door to, with `artifacts.engine = "s3"`.
    [upstream] UpstreamConfig {
        /// Endpoint of the other S3, as http:// or https:// URL without a path. Empty is Amazon's own.
        endpoint: String = String::new();
        /// Region of its buckets.
        region: String = "us-east-1".into();
        /// Whether the bucket stands in the path, and not in the host's name.
        path_style: bool = true;
        /// Where the access key is: `file:PATH` in the form of an AWS credentials file that nobody else may read. Empty is where Amazon's tools look: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, profiles, the role of the machine.
        credentials: String = String::new();
        /// What the names of the buckets begin with there, and not here: with `acme-`, `studio` is `acme-studio` there, and no other bucket is reached. Empty: they are called the same.
        bucket_prefix: String = String::new();
        /// Most requests to the other S3 under way at once; a further one waits for five seconds and is then answered 503.
        connections_max: usize = 512;
        /// Whether each request is a record in log search (target `backlot::s3_access`). The other S3 knows one key alone: only here is known who it was.
        access_log: bool = true;
    }
    /// Encryption at rest. The master key wraps the keys of encrypted objects and the secrets of access keys and webhooks.
    [encryption] EncryptionConfig {
        /// Where the master key comes from: `file:PATH`, `env:NAME`, or `command:PROGRAM ARGUMENTS`, which prints it. 32 bytes, as they are or as base64 or hex. Empty is `master.key` in the data folder, made at the first start.
        master_key: String = String::new();
        /// Master keys of before, in the same form: what they wrapped is read, and wrapped again with the master key.
        old_master_keys: Vec<String> = Vec::new();
        /// Most keys of objects wrapped again in a second, after the master key was changed.
        rewraps_s_max: u32 = 500;
        /// Encrypts each new object (SSE-S3) whose request and bucket say nothing.
        all_objects: bool = false;
    }
    /// Metrics.
    [metrics] MetricsConfig {
        /// Days after which samples go.
        retention_days: u32 = 30;
        /// Most bytes of blocks on disk; past it the oldest go early.
        disk_bytes_max: u64 = 10_737_418_240;
        /// Most series in memory; samples of a further one are refused and counted.
        series_max: usize = 200_000;
        /// How late a sample may come, in seconds. It also is how long a closed span of two hours waits before it becomes a block.
        late_s_max: u32 = 3600;
        /// Resource attributes that become labels of each series, beside `job` and `instance`.
        promote_resource_attributes: Vec<String> = Vec::new();
        /// Most samples that one query may hold at once.
        query_samples_max: usize = 10_000_000;
        /// Longest time of one query, in seconds.
        query_timeout_s: u32 = 60;
        /// Most queries evaluated at once; a further one waits for a few seconds.
        queries_max: usize = 4;
    }
    /// Alerts.
    [alerting] AlertingConfig {
        /// How often rules are evaluated, in seconds, unless their group says otherwise.
        interval_s: u64 = 15;
        /// Whether the rules that come with Backlot are evaluated.
        default_rules: bool = true;
        /// Rule files in Prometheus's format, beside the default rules.
        rules_files: Vec<String> = Vec::new();
        /// URLs that notifications are posted to, in the envelope of SNS. Userinfo in a URL is sent as HTTP Basic and never logged.
        webhook_urls: Vec<String> = Vec::new();
        /// ARN of an SNS topic that notifications are published to. The key comes from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
        sns_topic_arn: String = String::new();
        /// Endpoint of SNS. Empty is Amazon's own.
        sns_endpoint: String = String::new();
        /// Region of the topic.
        sns_region: String = "us-east-1".into();
        /// How long a group of alerts waits for company before it is first told, in seconds.
        group_wait_s: u64 = 10;
        /// Shortest time between two notifications of one group, in seconds.
        group_interval_s: u64 = 60;
        /// After how long what still fires is told again, in seconds.
        repeat_interval_s: u64 = 14_400;
        /// Age at which a notification that could not be delivered is given up, in seconds.
        delivery_age_s_max: u64 = 86_400;
        /// How long after a restart an active alert may be absent from the metrics before it counts as resolved, in seconds.
        restart_grace_s: u64 = 60;
        /// Address of the dashboard in notifications, such as https://backlot.example.org.
        external_url: String = String::new();
    }
    /// The journals.
    [journal] JournalConfig {
        /// Size at which a segment is closed, in bytes.
        segment_bytes: u64 = 67_108_864;
        /// Preallocated room for deletes when the disk is full, in bytes; another segment is kept for collection.
        reserve_bytes: u64 = 16_777_216;
        /// Bytes that the control journal may have beside twice what lives in it; past that, its oldest segments go.
        slack_bytes: u64 = 1_073_741_824;
        /// How often that is looked at, in seconds.
        collect_every_s: u64 = 10;
        /// Most bytes of the control journal on disk.
        control_disk_bytes_max: u64 = 68_719_476_736;
        /// Most bytes of the telemetry journal on disk.
        telemetry_disk_bytes_max: u64 = 8_589_934_592;
    }
    /// Jobs and their workers.
    [jobs] Jobs {
        /// Most jobs that have not ended; a further one is refused.
        unfinished_max: usize = 200_000;
        /// Jobs that have ended and are kept in memory; older ones are read from the catalogue.
        recent_max: usize = 1_000;
        /// How long an agent's lease goes on after each of its heartbeats, in seconds.
        lease_s: u32 = 90;
        /// A job that waits counts as one priority more after each of these periods, in seconds; with 0 it never does.
        ageing_s: u32 = 300;
        /// How long a job may be passed over for others of its level whose model the asking agent has loaded, or on its disk, in seconds. 0: models decide nothing.
        locality_s: u32 = 30;
        /// Most streams of news (server-sent events) at once.
        streams_max: usize = 256;
        /// Shares, limits of running jobs and rates, until they are set otherwise: `project film share=3 running=20`, `user * running=4`, `type video.generate running=2`, `queue jobs rate=50 burst=100`, `key api-* rate=1`.
        limits: Vec<String> = Vec::new();
        /// Days after which an event is given up that a webhook could not be told.
        webhook_days: u32 = 3;
    }
    /// Log search.
    [logs] Logs {
        /// Days after which log records go, whole windows at a time, unless they have a class of their own.
        retention_days: u64 = 14;
        /// Most bytes of log windows on disk, those of classes left out; past it, the oldest windows go first.
        disk_bytes_max: u64 = 68_719_476_736;
        /// Days after which windows of records without a class go to the bucket of `cold_windows`. 0: they stay here.
        cold_days: u64 = 0;
        /// `[[logs.class]]` with `name`, `match`, `days`, `bytes` and `cold_days`: what is kept for a time of its own, or within bytes of its own. A record belongs to the first class whose query it answers to.
        class: Vec<LogClass> = Vec::new();
    }
    /// Log lines by syslog, RFC 5424 and 3164. Whoever reaches these addresses may write, without a key.
    [syslog] Syslog {
        /// Address for syslog over TCP, such as 127.0.0.1:514. Empty: there is none.
        tcp: String = String::new();
        /// Address for syslog over UDP. Empty: there is none.
        udp: String = String::new();
        /// Address for syslog over TLS, such as 0.0.0.0:6514. Empty: there is none.
        tls: String = String::new();
        /// PEM file with the certificates that `tls` shows, its own first.
        certificate: String = String::new();
        /// PEM file with the private key of that certificate.
        private_key: String = String::new();
        /// PEM file with certificates, one of which must have signed that of whoever sends over TLS. Empty: nobody needs one.
        client_ca: String = String::new();
        /// Time zone of times that say none, such as Europe/Berlin.
        timezone: String = "UTC".into();
        /// Longest message, in bytes; a longer one is cut and marked.
        line_bytes_max: usize = 262_144;
        /// Most connections of TCP, and of TLS; a further one is closed at once.
        connections_max: usize = 512;
        /// After how long without a byte a connection is closed, in seconds. Senders may lose a message then.
        idle_s: u64 = 86_400;
    }
    /// Traces.
    [traces] Traces {
        /// Days after which spans go, whole windows at a time.
        retention_days: u64 = 7;
        /// Most bytes of span windows on disk; past it, the oldest windows go first.
        disk_bytes_max: u64 = 34_359_738_368;
        /// Days after which span windows go to the bucket of `cold_windows`. 0: they stay here.
        cold_days: u64 = 0;
    }
    /// Logs and traces together.
    [signals] SignalsConfig {
        /// Most bytes of log and span windows together on disk; past it, that window goes first that has had the largest part of its time. 0 sets no limit.
        disk_bytes_max: u64 = 103_079_215_104;
        /// Most services of logs, and of traces, that are found by their names; records of further ones are kept and not found by that.
        services_max: usize = 10_000;
        /// Most names of attributes in logs, and in traces, that are indexed; values of further ones are kept and shown.
        attribute_names_max: usize = 20_000;
    }
    /// What is taken out of logs and traces before they are written.
    [redaction] Redaction {
        /// Names whose values are taken out: attributes of records, spans and resources, entries of JSON within texts. Compared without case, `-` and `_`, by what follows the last dot as well.
        keys: Vec<String> = redaction::default_keys();
        /// What stands in place of what was taken out.
        mark: String = "[redacted]".into();
        /// `[[redaction.rule]]` with `name` and `pattern`: a regular expression whose matches are taken out of all texts, or its group `secret` alone, as in `https?://[^/:]*:(?<secret>[^@/]+)@`.
        rule: Vec<RedactionRule> = Vec::new();
    }
    /// The appliance's own signals.
    [telemetry] Telemetry {
        /// What is logged: `info`, or by module as in `warn,backlot::queue=debug`. `BACKLOT_LOG` wins.
        log: String = "info".into();
        /// How the log on standard error is written: `text` or `json`.
        log_format: String = "text".into();
        /// Whether the appliance keeps its own logs, traces and metrics in itself, through its own OTLP door.
        export: bool = true;
        /// How often its own metrics are kept, in seconds.
        metrics_every_s: u64 = 10;
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
const RESERVED: &[&str] = &[
    "BACKLOT_ENDPOINT",
    "BACKLOT_TESTDATA",
    "BACKLOT_TEST_OTLP_GRPC",
    "BACKLOT_PYTHON",
    "BACKLOT_CHROMIUM",
    "BACKLOT_SCREENSHOTS",
    "BACKLOT_MODELS",
    "BACKLOT_CONFIG",
    "BACKLOT_DATA",
    "BACKLOT_KEY_FILE",
    "BACKLOT_MASTER_KEY",
    "BACKLOT_OLD_MASTER_KEY",
    "BACKLOT_LOG",
];
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

/// Reads `text` as the file, and each of its lines as a variable, and throws the outcome away: for fuzzing.
pub fn fuzz_parse(text: &str) {
    let mut config = toml::from_str::<Config>(text).unwrap_or_default();
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        if let Ok(changed) = config.with_variable(name, name, value) {
            config = changed;
        }
    }
    let _ = config.check();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("backlot.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_defaults() {
        let config =
            load("[edge]\naws = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"\n", &[("BACKLOT_EDGE_HTTP", "127.0.0.1:3")])
                .unwrap();
        assert_eq!((config.edge.aws.as_str(), config.edge.http.as_str()), ("127.0.0.1:1", "127.0.0.1:3"));
        assert_eq!(config.edge.otlp_http, Config::default().edge.otlp_http);
    }

    #[test]
    fn every_key_can_be_set_by_the_environment() {
        for key in keys() {
            let name = format!("BACKLOT_{}_{}", key.section, key.key).to_uppercase();
            let text = match &key.default {
                toml::Value::String(text) => text.clone(),
                toml::Value::Array(_) => String::new(),
                other => other.to_string(),
            };
            assert!(load("", &[(&name, &text)]).is_ok(), "{name}");
        }
    }

    #[test]
    fn an_error_names_file_line_and_key() {
        let error = load("[edge]\nhttp = \"x\"\nhtpp = 1\n", &[]).unwrap_err().to_string();
        assert!(error.contains("backlot.toml") && error.contains("line 3") && error.contains("htpp"), "{error}");
        let error = load("[edge]\nin_flight_max = \"many\"\n", &[]).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("in_flight_max"), "{error}");
        let error = load("", &[("BACKLOT_EDGE_HTPP", "x")]).unwrap_err().to_string();
        assert!(error.contains("BACKLOT_EDGE_HTPP"), "{error}");
        let error = load("", &[("BACKLOT_EDGE_INSECURE", "perhaps")]).unwrap_err().to_string();
        assert!(error.contains("perhaps") && error.contains("boolean"), "{error}");
        assert!(load("", &[("BACKLOT_AGENT_NAME", "a"), ("BACKLOT_ENDPOINT", "b")]).is_ok());
    }
}
