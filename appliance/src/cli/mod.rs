//! What an operator types. Each command prints text for people, or with `--json` one JSON document (one a line where
//! there are many), and says with its exit code how it went: 0 asked, 1 fault, 64 usage, 78 configuration, 141 whoever read the output has closed it.

mod artifact;
mod bucket;
mod client;
mod doctor;
mod encryption;
mod flow;
mod job;
mod key;
mod logs;
mod model;
mod output;
mod queue;
mod schedule;
mod serve;
mod traces;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use client::{Client, SendBody, full, read_all};

use crate::config::{self, Config, ConfigError};
use output::say;

/// Backlot: job queue, artifact store, logs, metrics, traces, alerting and dashboard of an AI-film studio, in one binary.
#[derive(Debug, Parser)]
#[command(name = "backlot", version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the appliance.
    Serve(ServeArguments),
    /// Read the configuration, say what is wrong with it, and end.
    CheckConfig {
        #[command(flatten)]
        config: ConfigArguments,
        /// Also ask the other S3 of section `upstream`: whether it is there, takes the credentials, has the time and the buckets. Nothing is changed there.
        #[arg(long)]
        upstream: bool,
        #[arg(long)]
        json: bool,
    },
    /// About the configuration.
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Objects in the artifact store.
    Artifact {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: artifact::ArtifactCommand,
    },
    /// Models that agents fetch by themselves: import, list, show, remove, verify.
    Model {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: Box<model::ModelCommand>,
    },
    /// How much buckets may hold.
    Bucket {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: bucket::BucketCommand,
    },
    /// Master keys of encryption at rest.
    Encryption {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: encryption::EncryptionCommand,
    },
    /// Keys and their roles.
    Key {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: key::KeyCommand,
    },
    /// Jobs: submit, list, show, cancel, retry, watch.
    Job {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: Box<job::JobCommand>,
    },
    /// Flows: jobs that wait for each other.
    Flow {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: flow::FlowCommand,
    },
    /// Schedules: jobs that are queued again and again.
    Schedule {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: schedule::ScheduleCommand,
    },
    /// Search and follow the logs.
    Logs {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: logs::LogsCommand,
    },
    /// Find traces, and show one as a tree.
    Traces {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: traces::TracesCommand,
    },
    /// Queues: list, create, pause, resume, drain, purge, redrive.
    Queue {
        #[command(flatten)]
        connection: Connection,
        #[command(subcommand)]
        command: queue::QueueCommand,
    },
    /// Look at a data folder and say what is wrong with it, without changing it. The appliance must not be running.
    Doctor(doctor::DoctorArguments),
    /// Make the catalogue again from its snapshot and the journal. The appliance must not be running.
    Rebuild(doctor::RebuildArguments),
    /// The version of this binary.
    Version {
        #[arg(long)]
        json: bool,
    },
    /// A completion script for your shell, on standard output.
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Every key with its default and meaning, as Markdown.
    Reference {
        #[arg(long)]
        json: bool,
    },
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Args)]
pub struct ConfigArguments {
    /// TOML file. Without it, defaults and the environment.
    #[arg(long, env = "BACKLOT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Data folder; wins over the configuration's `data.dir`.
    #[arg(long, env = "BACKLOT_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
}

impl ConfigArguments {
    fn load(&self) -> Result<Config, CliError> {
        let mut config = Config::load(self.config.as_deref(), std::env::vars())?;
        if let Some(data) = &self.data {
            config.data.dir.clone_from(data);
        }
        config.check()?;
        Ok(config)
    }
}

#[derive(Debug, Args)]
struct ServeArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// For trying things: adds the key `test`/`test`, and OTLP from this machine needs none. Loopback addresses only.
    #[arg(long)]
    dev: bool,
    /// Write one JSON line with the four addresses to standard output when all doors answer.
    #[arg(long)]
    print_addresses: bool,
}

/// Which appliance a client command talks to, and as whom.
#[derive(Clone, Debug, Args)]
pub struct Connection {
    /// The http door.
    #[arg(long, global = true, env = "BACKLOT_ENDPOINT", value_name = "URL", default_value = "http://127.0.0.1:7070")]
    pub endpoint: String,
    /// File with the key, in the form of an AWS credentials file, such as `admin.key` in the data folder. Without it, `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`.
    #[arg(long, global = true, env = "BACKLOT_KEY_FILE", value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The command line asks for something that makes no sense.
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The appliance's own words, with its hint.
    #[error("{message}{}", .hint.as_ref().map(|hint| format!("\n{hint}")).unwrap_or_default())]
    Refused { status: u16, code: String, message: String, hint: Option<String> },
    #[error("{0}")]
    Fault(String),
    /// Whoever read the output has what they wanted. Nothing is said, and the exit code is a shell's for SIGPIPE: the rest was not done.
    #[error("the output was closed")]
    Closed,
}

impl CliError {
    /// A fault that names what was being done.
    pub fn fault(doing: &str, error: impl std::fmt::Display) -> Self {
        Self::Fault(format!("{doing}: {error}"))
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(64),
            Self::Config(_) => ExitCode::from(78),
            Self::Refused { .. } | Self::Fault(_) => ExitCode::FAILURE,
            Self::Closed => ExitCode::from(141),
        }
    }
}

/// Reads the arguments, does what they say, and returns how it went.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print(); // nowhere else to say it
            return if error.use_stderr() { ExitCode::from(64) } else { ExitCode::SUCCESS };
        }
    };
    match run(arguments.command) {
        Ok(code) => code,
        Err(error) => {
            if !matches!(error, CliError::Closed) {
                eprintln!("backlot: {error}");
            }
            error.exit_code()
        }
    }
}

fn run(command: Command) -> Result<ExitCode, CliError> {
    match command {
        Command::Serve(arguments) => return serve::run(&arguments),
        Command::CheckConfig { config, upstream: true, json } => {
            return block_on(doctor::upstream(&config.load()?, json));
        }
        Command::CheckConfig { config, upstream: false, json } => {
            let config = config.load()?;
            if json {
                say!("{}", to_json(&config)?)?;
            } else {
                say!("the configuration is good")?;
            }
        }
        Command::Config { command: ConfigCommand::Reference { json } } => {
            let text = if json { config::reference_json() } else { config::reference_markdown() };
            output::bytes(text.as_bytes())?;
        }
        Command::Artifact { connection, command } => {
            return block_on(artifact::run(command, &Client::connect(&connection)?));
        }
        Command::Model { connection, command } => {
            return block_on(model::run(*command, &Client::connect(&connection)?));
        }
        Command::Encryption { connection, command } => return block_on(encryption::run(command, &connection)),
        Command::Bucket { connection, command } => {
            return block_on(bucket::run(command, &Client::connect(&connection)?));
        }
        Command::Key { connection, command } => return block_on(key::run(command, &Client::connect(&connection)?)),
        Command::Job { connection, command } => return block_on(job::run(*command, &Client::connect(&connection)?)),
        Command::Flow { connection, command } => return block_on(flow::run(command, &Client::connect(&connection)?)),
        Command::Schedule { connection, command } => {
            return block_on(schedule::run(command, &Client::connect(&connection)?));
        }
        Command::Logs { connection, command } => return block_on(logs::run(command, &Client::connect(&connection)?)),
        Command::Traces { connection, command } => {
            return block_on(traces::run(command, &Client::connect(&connection)?));
        }
        Command::Queue { connection, command } => {
            return block_on(queue::run(command, &Client::connect(&connection)?));
        }
        Command::Doctor(arguments) => return doctor::run(&arguments),
        Command::Rebuild(arguments) => return doctor::rebuild(&arguments),
        Command::Version { json } => {
            let version = env!("CARGO_PKG_VERSION");
            if json {
                say!("{}", serde_json::json!({"name": "backlot", "version": version}))?;
            } else {
                say!("backlot {version}")?;
            }
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "backlot", &mut script);
            output::bytes(&script)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a client command: one thread is enough.
fn block_on<T>(command: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| CliError::fault("start the runtime", error))?.block_on(command)
}

/// One line of JSON.
pub(crate) fn to_json(value: &impl serde::Serialize) -> Result<String, CliError> {
    serde_json::to_string(value).map_err(|error| CliError::fault("write JSON", error))
}
