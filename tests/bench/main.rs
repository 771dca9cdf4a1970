//! Figures: each subject measures one room beside what the machine itself can do. Run it from a release build:
//! `cargo run --release -p backlot-tests --bin bench -- journal`.

mod appliance;
mod artifacts;
mod backlog;
mod client;
mod http;
mod journal;
mod logs;
mod logs_cold;
mod logs_peers;
mod logs_rest;
mod logs_tail;
mod peers;
mod queue;
mod queue_fifo;
mod s3;
mod s3_peers;
mod start;
mod traces;
mod upscale;

use std::process::ExitCode;

/// The appliance's own: rooms are measured with what they live in.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const USAGE: &str =
    "usage: bench SUBJECT [--dir FOLDER] [--seconds N] [--fifo] [--alone] [--cold] [--bytes N] [--objects N] [--spans N]
subjects:
  journal   group commit of 1 KiB records by 1, 16 and 128 callers, beside raw write + fdatasync
  queue     sends, send-receive-delete cycles, a million queued messages and their reopening
            with --fifo: 200,000 messages in 10,000 groups through a FIFO queue, beside a standard queue
  http      the queue over its AWS door with signed calls, beside BullMQ on Redis
  waiting   long polls: how soon a send reaches one, and what ten thousand of them cost
  artifacts large and small puts and gets beside JuiceFS, rclone, nginx and dd; memory while uploads run
            with --bytes: the size of the large objects, 64 MiB unless given
  objects   a bucket of --objects objects, 1,000,000 unless given: starting again, pages of a listing, memory
  logs      --bytes of log lines (256 MiB unless given) in over OTLP: rate, room on the disk, questions,
            beside ClickHouse, SQLite and ripgrep; with --alone: without them;
            with --cold: questions of windows that rest, and of the same windows when they lie in another backlot
  traces    --spans of spans (1,000,000 unless given) in over OTLP: rate, room on the disk, a trace by its id, lists
  upscale   the agent's CPU upscaler beside ncnn, turn by turn
  start     size of the binary, time to ready, resident memory of an idle appliance";

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let subject = words.next();
    let mut settings = Settings {
        dir: std::env::temp_dir(),
        seconds: 3,
        fifo: false,
        alone: false,
        cold: false,
        bytes: None,
        objects: 1_000_000,
        spans: 1_000_000,
    };
    while let Some(word) = words.next() {
        if word == "--fifo" {
            settings.fifo = true;
            continue;
        }
        if word == "--alone" {
            settings.alone = true;
            continue;
        }
        if word == "--cold" {
            settings.cold = true;
            continue;
        }
        match (word.as_str(), words.next()) {
            ("--dir", Some(dir)) => settings.dir = dir.into(),
            ("--seconds", Some(number)) if number.parse::<u64>().is_ok_and(|seconds| seconds > 0) => {
                settings.seconds = number.parse().unwrap_or(settings.seconds);
            }
            ("--bytes", Some(number)) if number.parse::<usize>().is_ok_and(|bytes| bytes > 0) => {
                settings.bytes = number.parse().ok();
            }
            ("--objects", Some(number)) if number.parse::<usize>().is_ok_and(|objects| objects > 0) => {
                settings.objects = number.parse().unwrap_or(settings.objects);
            }
            ("--spans", Some(number)) if number.parse::<usize>().is_ok_and(|spans| spans > 0) => {
                settings.spans = number.parse().unwrap_or(settings.spans);
            }
            _ => return usage(),
        }
    }
    let measured = match subject.as_deref() {
        Some("http") => http::run(&settings).map_err(plain),
        Some("waiting") => http::waiting(&settings).map_err(plain),
        Some("artifacts") => artifacts::run(&settings).map_err(plain),
        Some("objects") => artifacts::many(&settings).map_err(plain),
        Some("logs") if settings.cold => logs_cold::run(&settings).map_err(plain),
        Some("logs") => logs::run(&settings).map_err(plain),
        Some("traces") => traces::run(&settings).map_err(plain),
        Some("upscale") => upscale::run().map_err(plain),
        Some("start") => start::run(&settings).map_err(plain),
        Some("journal") => journal::run(&settings),
        Some("queue") if settings.fifo => queue_fifo::run(&settings),
        Some("queue") => queue::run(&settings),
        Some("queue-fill") => queue::fill(&settings), // what `queue` starts for itself
        Some("queue-reopen") => queue::reopen(&settings),
        _ => return usage(),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The same error where nobody sends it to another thread.
pub(crate) fn plain(error: client::Failure) -> Box<dyn std::error::Error> {
    error
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(64)
}

/// What every subject is told.
pub(crate) struct Settings {
    /// A folder on the disk to be measured; subjects make a temporary folder in it.
    pub(crate) dir: std::path::PathBuf,
    /// How long each measurement lasts.
    pub(crate) seconds: u64,
    /// Order and deduplication instead of a standard queue's freedom.
    pub(crate) fifo: bool,
    /// Without peers.
    pub(crate) alone: bool,
    /// Of windows in another S3.
    pub(crate) cold: bool,
    /// Size of large objects, or of all log lines.
    pub(crate) bytes: Option<usize>,
    /// How many objects a bucket is filled with.
    pub(crate) objects: usize,
    /// How many spans are sent.
    pub(crate) spans: usize,
}
