//! Arguments and exit codes of `backlot-agent`, nothing else.
//!
//! 0: what was asked happened. 1: a fault. 64: the arguments make no sense. 78: the configuration is not taken. 141: nobody read the output on.

// It panics when whoever reads has had enough.
#![warn(clippy::print_stdout)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use backlot_agent::bench;
use backlot_agent::clock::Clock;
use backlot_agent::config::Config;
use backlot_agent::infer::Setup;
use backlot_agent::service::{self, RunError};
use backlot_agent::worker::builtin;
use backlot_agent::worker::manifest::{self, Program};
use clap::{CommandFactory, Parser, Subcommand};

const FAULT: u8 = 1;
/// A shell's for SIGPIPE: nobody read on.
const CLOSED: u8 = 141;
const USAGE: u8 = 64;
const CONFIGURATION: u8 = 78;

/// Takes jobs for the GPUs of this host.
#[derive(Parser)]
#[command(name = "backlot-agent", version, about, max_term_width = 120)]
struct Arguments {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Subcommand)]
enum Subcommands {
    /// Takes jobs until SIGTERM or SIGINT.
    Run {
        /// Configuration file; without one, defaults and the environment's BACKLOT_AGENT_<KEY> hold.
        #[arg(long, env = "BACKLOT_AGENT_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Says what this host has: GPUs, drivers, libraries, models, and which executor is used.
    Probe {
        #[arg(long, env = "BACKLOT_AGENT_CONFIG")]
        config: Option<PathBuf>,
        /// As one JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Reads configuration and manifests, says what is wrong, and does nothing else.
    CheckConfig {
        #[arg(long, env = "BACKLOT_AGENT_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Says as JSON what GPU memory a diffusion model needs, shape by shape, for `backlot model import --plan`. Loads nothing.
    ModelPlan {
        /// A folder in the layout of diffusers, or a `.safetensors` file with CLIP's words in `clip-tokenizer` beside it.
        model: PathBuf,
    },
    /// A child of `run`: the built-in worker, or a program that is tied to its parent.
    #[command(hide = true)]
    Worker {
        #[command(flatten)]
        ties: builtin::Ties,
        #[command(flatten)]
        setup: Setup,
        /// Program to become.
        #[arg(last = true)]
        program: Vec<std::ffi::OsString>,
    },
    /// Measures a model on this host: one JSON object, times in milliseconds.
    Bench {
        #[command(flatten)]
        setup: Setup,
        #[command(subcommand)]
        what: Benches,
    },
    /// Prints every configuration key with its default and its meaning.
    ConfigReference,
    /// Prints the version.
    Version,
    /// Prints shell completions.
    Completions { shell: clap_complete::Shell },
}

#[derive(Subcommand)]
enum Benches {
    /// A made-up picture made larger.
    Upscale {
        #[arg(long, default_value = "realesr-animevideov3")]
        model: String,
        #[arg(long, default_value_t = 2)]
        scale: u32,
        #[arg(long, default_value_t = 1280, value_parser = clap::value_parser!(u16).range(1..=8192))]
        width: u16,
        #[arg(long, default_value_t = 720, value_parser = clap::value_parser!(u16).range(1..=8192))]
        height: u16,
        /// After a first one.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
    /// Pictures from a prompt.
    Generate {
        #[arg(long)]
        model: String,
        /// More parameters of `image.generate`, as a JSON object.
        #[arg(long, default_value = "{}")]
        parameters: String,
        #[arg(long, default_value_t = 1)]
        runs: usize,
        /// An existing folder. Each run makes one in it for its pictures.
        #[arg(long, default_value = ".")]
        to: PathBuf,
    },
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let asked = !error.use_stderr();
            let _ = error.print();
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    match arguments.command {
        Subcommands::Run { config } => with_config(config, run),
        Subcommands::Probe { config, json } => with_config(config, |config, programs| probe(&config, &programs, json)),
        Subcommands::CheckConfig { config } => with_config(config, |config, programs| {
            let (name, programs) = (config.name, programs.len());
            say(format_args!("the configuration of agent `{name}` is good; {programs} programs have manifests"))
        }),
        Subcommands::Worker { ties, setup, program } if program.is_empty() => builtin::run(&ties, &setup),
        Subcommands::Worker { ties, program, .. } => builtin::become_program(&ties, &program),
        Subcommands::Bench { setup, what } => bench(&setup, what),
        Subcommands::ModelPlan { model } => match backlot_agent::infer::plan::vram(&model) {
            Ok(needs) => say(serde_json::json!({ "vram": needs })),
            Err(failure) => {
                eprintln!("backlot-agent: {failure}");
                ExitCode::from(FAULT)
            }
        },
        Subcommands::ConfigReference => say(backlot_agent::config::reference()),
        Subcommands::Version => say(format_args!("backlot-agent {}", env!("CARGO_PKG_VERSION"))),
        Subcommands::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "backlot-agent", &mut script);
            say(String::from_utf8_lossy(&script).trim_end())
        }
    }
}

/// Prints what was asked for, and says how that went: whoever reads may have enough before the end, as `head` does.
fn say(text: impl std::fmt::Display) -> ExitCode {
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::from(CLOSED),
        Err(error) => {
            eprintln!("backlot-agent: write to standard output: {error}");
            ExitCode::from(FAULT)
        }
    }
}

fn with_config(file: Option<PathBuf>, then: impl FnOnce(Config, Vec<Program>) -> ExitCode) -> ExitCode {
    let config = match Config::load(file.as_deref(), std::env::vars()) {
        Ok(config) => config,
        Err(error) => return not_taken(&error),
    };
    let programs =
        if config.manifests.as_os_str().is_empty() { Ok(Vec::new()) } else { manifest::read_all(&config.manifests) };
    match programs {
        Ok(programs) => then(config, programs),
        Err(error) => not_taken(&error),
    }
}

fn bench(setup: &Setup, what: Benches) -> ExitCode {
    let made = match what {
        Benches::Upscale { model, scale, width, height, runs } => {
            let (width, height) = (usize::from(width), usize::from(height));
            bench::upscale(setup, &bench::Upscale { model, scale, width, height, runs })
        }
        Benches::Generate { model, parameters, runs, to } => {
            let mut parameters: serde_json::Map<String, serde_json::Value> = match serde_json::from_str(&parameters) {
                Ok(parameters) => parameters,
                Err(error) => {
                    eprintln!("backlot-agent: --parameters is no JSON object: {error}");
                    return ExitCode::from(USAGE);
                }
            };
            parameters.insert("model".to_owned(), model.into());
            parameters.entry("prompt").or_insert_with(|| "a lighthouse in the fog".into());
            bench::generate(setup, &bench::Generate { parameters, runs, to })
        }
    };
    match made {
        Ok(figures) => say(figures),
        Err(failure) => {
            eprintln!("backlot-agent: {failure}");
            ExitCode::from(FAULT)
        }
    }
}

fn run(config: Config, programs: Vec<Program>) -> ExitCode {
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| RunError::Fault(format!("start the runtime: {error}")))
        .and_then(|runtime| runtime.block_on(service::run(config, programs, Clock::new())));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("backlot-agent: {error}");
            ExitCode::from(if matches!(error, RunError::Configuration(_)) { CONFIGURATION } else { FAULT })
        }
    }
}

fn not_taken(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("backlot-agent: {error}");
    ExitCode::from(CONFIGURATION)
}

fn probe(config: &Config, programs: &[Program], json: bool) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("backlot-agent: {error}");
            return ExitCode::from(FAULT);
        }
    };
    let probe = runtime.block_on(backlot_agent::probe::look(config, programs));
    if json {
        match serde_json::to_string(&probe) {
            Ok(line) => say(line),
            Err(error) => not_taken(&error),
        }
    } else {
        say(probe)
    }
}
