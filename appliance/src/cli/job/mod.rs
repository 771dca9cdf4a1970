//! `backlot job`: submit, list, search, show, cancel, retry and watch jobs; their limits, webhooks and bulk actions.

mod bulk;
mod limits;
mod search;
mod submit;
mod text;
mod watch;
mod webhook;

use std::process::ExitCode;

use backlot_wire::{Job, JobStatus};
use clap::Subcommand;
use http::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{CliError, Client};
use crate::cli::client::escaped;
use crate::cli::output::{say, show};

/// Everything but what an id is made of.

#[derive(Debug, Subcommand)]
pub(super) enum JobCommand {
    /// Queue a job. Local files are uploaded to the artifact store first.
    Submit(submit::SubmitArguments),
    /// Jobs, newest first.
    List(ListArguments),
    /// One job with its attempts.
    Show {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Jobs that a query finds, newest first.
    Search(search::SearchArguments),
    /// How many jobs there are, by status, type and project.
    Count(search::CountArguments),
    /// Why a job waits, the decisive reason first.
    Why {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// How long each phase of an attempt took, beside the median of the last hundred jobs of its type.
    Phases {
        id: String,
        /// The newest when left out.
        #[arg(long)]
        attempt: Option<u32>,
        #[arg(long)]
        json: bool,
    },
    /// Shares of projects, limits of running jobs, rates.
    Limits(limits::LimitsArguments),
    /// One action on all jobs that a query finds: cancel, retry, redrive.
    Bulk {
        #[command(subcommand)]
        command: bulk::BulkCommand,
    },
    /// Who is told what happens to jobs.
    Webhook {
        #[command(subcommand)]
        command: webhook::WebhookCommand,
    },
    /// Ask a job to end. A waiting one ends at once, a running one when its worker hears of it.
    Cancel {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Queue a failed or cancelled job again, as it was or with more memory and other parameters.
    Retry {
        id: String,
        /// Require so much memory of a GPU, in GB.
        #[arg(long, value_name = "GB")]
        vram: Option<f64>,
        /// Another value of a parameter, read as for `submit`.
        #[arg(long = "param", value_name = "K=V", value_parser = pair)]
        parameters: Vec<(String, String)>,
        #[arg(long)]
        json: bool,
    },
    /// Follow one job to its end, or, without an id, every change of every job.
    Watch {
        id: Option<String>,
        /// One line of JSON for each change.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArguments {
    /// scheduled, waiting, queued, running, succeeded, failed, cancelled; several with commas.
    #[arg(long)]
    status: Option<String>,
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    #[arg(long)]
    user: Option<String>,
    #[arg(long)]
    project: Option<String>,
    #[arg(long)]
    queue: Option<String>,
    /// Only jobs with this label.
    #[arg(long = "label", value_name = "K=V", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// Created at or after, such as 2026-11-22T12:00:00Z.
    #[arg(long)]
    since: Option<String>,
    /// Created before.
    #[arg(long)]
    until: Option<String>,
    /// Part of the id or of the error.
    #[arg(short, long)]
    query: Option<String>,
    /// Most jobs to list.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
struct Page {
    jobs: Vec<Job>,
    cursor: Option<String>,
    #[serde(default)]
    remaking: Option<Value>,
}

pub(super) async fn run(command: JobCommand, client: &Client) -> Result<ExitCode, CliError> {
    match command {
        JobCommand::Submit(arguments) => return submit::run(arguments, client).await,
        JobCommand::List(arguments) => list(arguments, client).await?,
        JobCommand::Search(arguments) => search::search(arguments, client).await?,
        JobCommand::Count(arguments) => search::count(arguments, client).await?,
        JobCommand::Why { id, json } => search::why(&id, json, client).await?,
        JobCommand::Phases { id, attempt, json } => search::phases(&id, attempt, json, client).await?,
        JobCommand::Limits(arguments) => limits::run(arguments, client).await?,
        JobCommand::Bulk { command } => bulk::run(command, client).await?,
        JobCommand::Webhook { command } => webhook::run(command, client).await?,
        JobCommand::Show { id, json } => {
            let job: Job = client.get(&path(&id, "")).await?;
            show(&job, json, text::job)?;
        }
        JobCommand::Cancel { id, json } => {
            let job: Job = client.send(Method::POST, &path(&id, "/cancel"), None::<&Value>).await?;
            show(&job, json, |job| match job.status {
                JobStatus::Cancelled => format!("{} is cancelled", job.id),
                _ => format!("{} is asked to end; its worker has it", job.id),
            })?;
        }
        JobCommand::Retry { id, vram, parameters, json } => {
            let mut changes = Map::new();
            if let Some(vram_gb) = vram {
                changes.insert("requirements".into(), json!({"vram_gb": vram_gb}));
            }
            if !parameters.is_empty() {
                let values: Map<_, _> =
                    parameters.into_iter().map(|(name, text)| (name, submit::value(&text))).collect();
                changes.insert("parameters".into(), values.into());
            }
            let body = Some(&changes).filter(|changes| !changes.is_empty());
            let job: Job = client.send(Method::POST, &path(&id, "/retry"), body).await?;
            show(&job, json, |job| format!("{} is queued again", job.id))?;
        }
        JobCommand::Watch { id: Some(id), json } => {
            let job =
                watch::until_final(client, &id, |job| if json { watch::json_line(job) } else { Ok(()) }, !json).await?;
            if !json {
                say!("{}", text::job(&job))?;
            }
            return Ok(verdict(&job));
        }
        JobCommand::Watch { id: None, json } => watch::all(client, json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// 0 only for a job that has succeeded.
fn verdict(job: &Job) -> ExitCode {
    if job.status == JobStatus::Succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn path(id: &str, rest: &str) -> String {
    format!("/v1/jobs/{}{rest}", escaped(id))
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("is NAME=VALUE")?;
    if name.is_empty() {
        return Err("has no name before the `=`".into());
    }
    Ok((name.to_owned(), value.to_owned()))
}

async fn list(arguments: ListArguments, client: &Client) -> Result<(), CliError> {
    let ListArguments { status, kind, user, project, queue, labels, since, until, query, limit, json } = arguments;
    let named = [
        ("status", status),
        ("type", kind),
        ("user", user),
        ("project", project),
        ("queue", queue),
        ("since", since),
        ("until", until),
        ("q", query),
    ];
    let mut filters: Vec<(String, String)> =
        named.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    filters.extend(labels.into_iter().map(|(name, value)| (format!("label.{name}"), value)));
    let (mut cursor, mut left) = (None, limit);
    if !json {
        say!("{}", text::HEADING)?;
    }
    while left > 0 {
        let mut query = format!("limit={}", left.min(500));
        for (name, value) in filters
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .chain(cursor.as_deref().map(|c| ("cursor", c)))
        {
            query.push_str(&format!("&{}={}", escaped(name), escaped(value)));
        }
        let page: Page = client.get(&format!("/v1/jobs?{query}")).await?;
        for job in page.jobs.iter().take(left) {
            show(job, json, text::line)?;
        }
        left = left.saturating_sub(page.jobs.len());
        cursor = page.cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(())
}
