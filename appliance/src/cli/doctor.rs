//! `backlot doctor` and `backlot rebuild`: looking at a data folder, and making its catalogue again.
//!
//! The doctor changes nothing but what a start would change as well: a torn tail of a journal, which was never
//! acknowledged, is cut when the journal is opened.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use backlot_journal::{Journal, Lsn, Options};
use backlot_windows::{Examined, Options as WindowOptions, examine};
use clap::Args;
use serde::Serialize;

use super::output::say;
use super::{CliError, ConfigArguments, to_json};
use crate::artifacts::{self, Artifacts, Recovered};
use crate::catalogue::Catalogue;
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Engine};
use crate::control::Control;
use crate::master::MasterKeys;
use crate::signals::cold;
use crate::{control, folder, logs, telemetry_journal, traces};

/// Less free room than this is worth a warning, in bytes.
const FREE_BYTES_MIN: u64 = 1 << 30;

#[derive(Debug, Args)]
pub(super) struct DoctorArguments {
    #[command(flatten)]
    config: ConfigArguments,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct RebuildArguments {
    #[command(flatten)]
    config: ConfigArguments,
    /// For when journal and snapshot are gone: make the artifact store again from the headers of its blobs. Journal and catalogue are set aside, and with them queues, jobs, keys and everything else.
    #[arg(long)]
    from_blobs: bool,
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    ok: bool,
    /// What was found; for a problem, with what helps.
    found: String,
}

impl Finding {
    fn new(check: &'static str, found: Result<String, String>) -> Self {
        let ok = found.is_ok();
        Self { check, ok, found: found.unwrap_or_else(|problem| problem) }
    }
}

pub(super) fn run(arguments: &DoctorArguments) -> Result<ExitCode, CliError> {
    let config = arguments.config.load()?;
    let data = &config.data.dir;
    if !data.join("FORMAT").is_file() {
        return Err(CliError::Usage(format!("{} is no data folder of Backlot; name one with --data", data.display())));
    }
    let findings = [
        Finding::new(
            "format",
            folder::prepare(data).map(|()| "as this version writes it".into()).map_err(|error| error.to_string()),
        ),
        Finding::new("privacy", privacy(data)),
        Finding::new("room", room(data)),
        Finding::new("control journal", journal(&control::journal_dir(data)).map(|(found, ..)| found)),
        Finding::new("telemetry journal", journal(&data.join(telemetry_journal::FOLDER)).map(|(found, ..)| found)),
        Finding::new("catalogue", catalogue(data)),
        Finding::new("log windows", logs::options(data, &config.logs).and_then(|options| windows(&options))),
        Finding::new("span windows", windows(&traces::options(data, &config.traces))),
        Finding::new("cold windows", super::block_on(async { Ok(cold::probe(&config.cold_windows).await) })?),
        Finding::new("cold tier", super::block_on(async { Ok(artifacts::probe_cold(&config.cold).await) })?),
    ];
    tell(&findings, arguments.json)
}

/// Looks at the other S3 that the artifact store is a door to.
pub(super) async fn upstream(config: &Config, json: bool) -> Result<ExitCode, CliError> {
    if config.artifacts.engine != Engine::S3 {
        return Err(CliError::Usage("artifacts.engine is `own`: there is no other S3 to ask".into()));
    }
    let found = artifacts::door::examine(&config.upstream, &crate::BUCKETS).await;
    tell(&found.into_iter().map(|(check, found)| Finding::new(check, found)).collect::<Vec<_>>(), json)
}

fn tell(findings: &[Finding], json: bool) -> Result<ExitCode, CliError> {
    for finding in findings {
        if json {
            say!("{}", to_json(finding)?)?;
        } else {
            say!("{} {:18} {}", if finding.ok { "ok  " } else { "BAD " }, finding.check, finding.found)?;
        }
    }
    Ok(if findings.iter().all(|finding| finding.ok) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn privacy(data: &Path) -> Result<String, String> {
    for (path, name) in [
        (data.to_owned(), "the folder"),
        (data.join("master.key"), "master.key"),
        (data.join("admin.key"), "admin.key"),
    ] {
        let Ok(metadata) = std::fs::metadata(&path) else { continue }; // admin.key is meant to be moved away
        if metadata.permissions().mode() & 0o077 != 0 {
            return Err(format!("{name} can be read by others; run: chmod go= {}", path.display()));
        }
    }
    Ok("nobody else can read the folder and the keys".into())
}

fn room(data: &Path) -> Result<String, String> {
    let free = rustix::fs::statvfs(data).map_err(|error| error.to_string())?;
    let free_bytes = free.f_bavail.saturating_mul(free.f_frsize);
    let found = format!("{:.1} GiB free", free_bytes as f64 / (1u64 << 30) as f64);
    if free_bytes < FREE_BYTES_MIN {
        Err(format!("only {found}; sends and puts are refused when it is used up"))
    } else {
        Ok(found)
    }
}

/// Reads every record. Returns what to say, the oldest position and the end.
fn journal(dir: &Path) -> Result<(String, Lsn, Lsn), String> {
    if !dir.is_dir() {
        return Ok(("none yet".into(), Lsn(0), Lsn(0)));
    }
    let (journal, opened) = Journal::open(Options::new(dir)).map_err(|error| error.to_string())?;
    let mut records = 0_u64;
    let scanned = journal.scan(Lsn(0), &mut |_, _| {
        records += 1;
        true
    });
    journal.close();
    scanned.map_err(|error| error.to_string())?;
    let torn = if opened.torn_bytes > 0 {
        format!(", a torn tail of {} bytes was cut", opened.torn_bytes)
    } else {
        String::new()
    };
    Ok((format!("{records} records in {} segments, all whole{torn}", opened.segments), opened.oldest, opened.end))
}

/// Reads what each window says of itself.
fn windows(options: &WindowOptions) -> Result<String, String> {
    let Examined { kept, unreadable, set_aside } = examine(options).map_err(|error| error.to_string())?;
    let named = |of: &[(String, String)]| {
        let named: Vec<_> = of.iter().take(5).map(|(name, reason)| format!("{name} ({reason})")).collect();
        named.join(", ")
    };
    if !unreadable.is_empty() {
        return Err(format!("{} do not read and will be set aside: {}", unreadable.len(), named(&unreadable)));
    }
    if !set_aside.is_empty() {
        let aside = options.dir.join("aside");
        let count = set_aside.len();
        return Err(format!("{count} were set aside, and lie in {}: {}", aside.display(), named(&set_aside)));
    }
    let mut of_class = BTreeMap::<&str, (usize, u64, u64, u64)>::new();
    for window in &kept {
        let of = of_class.entry(&window.class).or_default();
        *of = (of.0 + 1, of.1 + window.documents, of.2 + window.bytes, of.3 + window.cold_bytes);
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let told = of_class.iter().map(|(class, (windows, documents, bytes, cold_bytes))| {
        let cold = match cold_bytes {
            0 => String::new(),
            bytes => format!(" here, {:.1} MiB in the other S3", mib(*bytes)),
        };
        format!("{class}: {windows} windows, {documents} records, {:.1} MiB{cold}", mib(*bytes))
    });
    let told: Vec<_> = told.collect();
    Ok(if told.is_empty() { "none yet".into() } else { told.join("; ") })
}

fn catalogue(data: &Path) -> Result<String, String> {
    let path = data.join("catalogue");
    if !path.is_dir() {
        return Ok("none yet".into());
    }
    let (_, oldest, end) = journal(&control::journal_dir(data))?;
    let applied = Catalogue::open(&path).map_err(|error| error.to_string())?.applied();
    if applied < oldest {
        return Err(format!(
            "has applied the journal up to {} of {}..{}; run `backlot rebuild`",
            applied.0, oldest.0, end.0
        ));
    }
    if applied > end {
        return Err(format!(
            "has applied the journal up to {}, which ends at {}: they are not of one folder",
            applied.0, end.0
        ));
    }
    Ok(format!("has applied the journal up to {} of {}", applied.0, end.0))
}

pub(super) fn rebuild(arguments: &RebuildArguments) -> Result<ExitCode, CliError> {
    let config = arguments.config.load()?;
    if arguments.from_blobs {
        return from_blobs(&config, arguments.json);
    }
    let rebuilt =
        control::rebuild(&config.data.dir).map_err(|error| CliError::fault("rebuild the catalogue", error))?;
    // It follows the catalogue, and is made again from it in the background of the next start.
    crate::jobs::forget_index(&config.data.dir).map_err(|error| CliError::fault("remove the index of jobs", error))?;
    let aside = rebuilt.set_aside.as_ref().map(|path| path.display().to_string());
    if arguments.json {
        say!(
            "{}",
            serde_json::json!({
                "snapshot_pairs": rebuilt.snapshot_pairs, "applied": rebuilt.applied.0,
                "journal_end": rebuilt.journal_end.0, "set_aside": aside,
            })
        )?;
    } else {
        match rebuilt.snapshot_pairs {
            Some(pairs) => say!("the catalogue begins with {pairs} entries of its snapshot")?,
            None => say!("there was no snapshot; the journal holds everything")?,
        }
        say!("the next start applies the journal from {} to {}", rebuilt.applied.0, rebuilt.journal_end.0)?;
        if let Some(aside) = aside {
            say!("the old catalogue lies in {aside} and can be deleted when all is well")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the headers of blobs cannot know.
const NOT_KNOWN: &str = "not known from blobs, and lost or back: deleted objects whose bytes were still there are back; delete markers, tags, \
                         retention and legal holds that were set later, settings of buckets, empty buckets and unfinished uploads are lost. \
                         Objects in the cold tier are found only where `cold` is configured";

fn from_blobs(config: &Config, json: bool) -> Result<ExitCode, CliError> {
    let data = &config.data.dir;
    let fault = |error: &dyn std::fmt::Display| CliError::fault("rebuild from blobs", error);
    if !data.join("blobs").is_dir() {
        return Err(CliError::Usage(format!("{} holds no blobs; name a data folder with --data", data.display())));
    }
    // Only a running appliance is in the way; what else is wrong with the journal is why we are here.
    if let Err(error @ backlot_journal::OpenError::Locked(_)) = open_and_close(&control::journal_dir(data)) {
        return Err(fault(&error));
    }
    let mut aside = Vec::new();
    for path in [control::journal_dir(data), data.join("catalogue"), data.join("catalogue.snapshot")] {
        if path.exists() {
            let free = |number: u32| std::path::PathBuf::from(format!("{}.lost-{number}", path.display()));
            let Some(target) = (1..).map(free).find(|target| !target.exists()) else {
                unreachable!("some number is free")
            };
            std::fs::rename(&path, &target).map_err(|error| fault(&error))?;
            aside.push(target.display().to_string());
        }
    }
    let recovered = super::block_on(recover(config.clone()))?;
    crate::jobs::forget_index(data).map_err(|error| fault(&error))?;
    if json {
        say!("{}", serde_json::json!({"recovered": recovered, "set_aside": aside, "not_known": NOT_KNOWN}))?;
        return Ok(ExitCode::SUCCESS);
    }
    let Recovered { buckets, versions, bytes, unreadable, incomplete, loose_parts, cold, cold_unused } = recovered;
    say!("{buckets} buckets, {versions} versions of objects, {bytes} bytes")?;
    if cold + cold_unused > 0 {
        say!("{cold} versions are in the cold tier; {cold_unused} blobs there are no version's, and are left")?;
    }
    say!(
        "{unreadable} headers that make no sense, {incomplete} objects that lack a part, {loose_parts} parts of unfinished uploads"
    )?;
    say!("{NOT_KNOWN}")?;
    for aside in aside {
        say!("set aside: {aside}")?;
    }
    say!(
        "the next start makes a new admin key; `backlot artifact scrub --now` then compares every byte with its checksum"
    )?;
    Ok(ExitCode::SUCCESS)
}

fn open_and_close(dir: &Path) -> Result<(), backlot_journal::OpenError> {
    if dir.is_dir() {
        let (journal, _) = Journal::open(Options::new(dir))?;
        journal.close();
    }
    Ok(())
}

async fn recover(config: Config) -> Result<Recovered, CliError> {
    let fault = |error: &dyn std::fmt::Display| CliError::fault("rebuild from blobs", error);
    let data = &config.data.dir;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (control, replay) = Control::open(data, &config.journal).map_err(|error| fault(&error))?;
    let master = MasterKeys::open(data, &config.encryption).map_err(|error| fault(&error))?;
    let keys = (master, config.encryption.clone());
    let artifacts = Artifacts::build(control.clone(), Arc::clone(&clock), data, config.artifacts.clone(), keys)
        .map_err(|error| fault(&error))?;
    replay.run(&[Arc::new(artifacts.clone())], clock.now()).map_err(|error| fault(&error))?;
    let opened = artifacts.open_cold(&config.cold).await;
    opened.map_err(|(key, problem)| fault(&format!("cold.{key}: {problem}")))?;
    let recovered = artifacts::from_blobs(&artifacts).await.map_err(|error| fault(&error));
    let closed = tokio::task::spawn_blocking(move || control.close()).await;
    closed.map_err(|error| fault(&error))?;
    recovered
}
