//! `backlot job bulk`: one action on all jobs that a query finds. It counts first, and acts with `--yes` alone.

use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use crate::cli::client::escaped;
use crate::cli::output::{printable, say};
use crate::cli::{CliError, Client, to_json};

const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum BulkCommand {
    /// Cancel jobs that have not ended.
    Cancel(ActArguments),
    /// Queue failed and cancelled jobs again.
    Retry(ActArguments),
    /// Queue those failed jobs again whose message lies on a dead-letter queue.
    Redrive(ActArguments),
    /// Bulk actions, newest first.
    List {
        #[arg(long)]
        json: bool,
    },
    /// How far one is.
    Show {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// End one; what it has done stays done.
    Stop {
        id: String,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct ActArguments {
    /// Which jobs, such as `status:failed project:film created:>1d`; `*` is all.
    #[arg(long)]
    query: String,
    /// Do it. Without this the jobs are only counted.
    #[arg(long)]
    yes: bool,
    /// Jobs a second.
    #[arg(long)]
    rate: Option<u32>,
    /// Come back at once instead of waiting for the end.
    #[arg(long)]
    no_wait: bool,
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: BulkCommand, client: &Client) -> Result<(), CliError> {
    match command {
        BulkCommand::Cancel(arguments) => act("cancel", arguments, client).await,
        BulkCommand::Retry(arguments) => act("retry", arguments, client).await,
        BulkCommand::Redrive(arguments) => act("redrive", arguments, client).await,
        BulkCommand::List { json } => {
            let tasks: Value = client.get("/v1/bulk").await?;
            for task in tasks["tasks"].as_array().into_iter().flatten() {
                describe(task, json)?;
            }
            Ok(())
        }
        BulkCommand::Show { id, json } => describe(&client.get(&path(&id, "")).await?, json),
        BulkCommand::Stop { id, json } => {
            describe(&client.send(Method::POST, &path(&id, "/stop"), None::<&Value>).await?, json)
        }
    }
}

async fn act(action: &str, arguments: ActArguments, client: &Client) -> Result<(), CliError> {
    let ActArguments { query, yes, rate, no_wait, json } = arguments;
    let order = |dry_run: bool| json!({"action": action, "query": query, "dry_run": dry_run, "rate_per_s": rate});
    if !yes {
        let counted: Value = client.send(Method::POST, "/v1/jobs/bulk", Some(&order(true))).await?;
        if json {
            say!("{}", to_json(&counted)?)?;
            return Ok(());
        }
        say!("{action} would be taken on {} jobs, among them", counted["matched"])?;
        for job in counted["sample"].as_array().into_iter().flatten() {
            let word = |name: &str| printable(job[name].as_str().unwrap_or_default());
            say!("  {}  {}  {}  {}", word("id"), word("status"), word("type"), word("created_at"))?;
        }
        say!("nothing was done; --yes does it")?;
        return Ok(());
    }
    let mut task: Value = client.send(Method::POST, "/v1/jobs/bulk", Some(&order(false))).await?;
    let id = task["id"].as_str().unwrap_or_default().to_owned();
    if !json {
        say!("{action} on {} jobs runs as {id}", task["matched"])?;
    }
    while !no_wait && task["status"] == "running" {
        tokio::time::sleep(LOOK_EVERY).await;
        task = client.get(&path(&id, "")).await?;
    }
    if !no_wait || json {
        describe(&task, json)?;
    }
    if task["status"] == "failed" {
        return Err(CliError::Fault(format!("the bulk action {id} failed")));
    }
    Ok(())
}

fn path(id: &str, rest: &str) -> String {
    format!("/v1/bulk/{}{rest}", escaped(id))
}

fn describe(task: &Value, json: bool) -> Result<(), CliError> {
    if json {
        say!("{}", to_json(task)?)?;
        return Ok(());
    }
    let word = |name: &str| printable(task[name].as_str().unwrap_or_default());
    say!(
        "{}  {}  {}  {} of {} done, {} passed over, {} failed  `{}`",
        word("id"),
        word("action"),
        word("status"),
        task["done"],
        task["matched"],
        task["skipped"],
        task["failed"],
        word("query")
    )?;
    for problem in task["problems"].as_array().into_iter().flatten() {
        say!("    {}", printable(problem.as_str().unwrap_or_default()))?;
    }
    Ok(())
}
