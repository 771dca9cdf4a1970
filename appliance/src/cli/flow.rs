//! `backlot flow`: begin, list, show and cancel flows.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use backlot_wire::{Flow, FlowOrder};
use clap::Subcommand;
use http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::client::escaped;
use super::output::{printable, show};
use super::{CliError, Client};

#[derive(Debug, Subcommand)]
pub(super) enum FlowCommand {
    /// Begin a flow from a JSON file: {"jobs": [{"name", "type", "after": [names], "inputs": [{"job": name}], …}], …}.
    Submit {
        /// `-` is standard input.
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Flows, newest first.
    List {
        /// Most flows to list.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[arg(long)]
        json: bool,
    },
    /// One flow with its jobs.
    Show {
        id: String,
        #[arg(long)]
        json: bool,
    },
    /// Ask all jobs of a flow to end.
    Cancel {
        id: String,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Deserialize)]
struct Page {
    flows: Vec<Flow>,
    cursor: Option<String>,
}

pub(super) async fn run(command: FlowCommand, client: &Client) -> Result<ExitCode, CliError> {
    match command {
        FlowCommand::Submit { file, json } => {
            let order: FlowOrder = read_json(&file)?;
            let flow: Flow = client.send(Method::POST, "/v1/flows", Some(&order)).await?;
            show(&flow, json, |flow| flow.id.clone())?;
        }
        FlowCommand::List { limit, json } => list(limit, json, client).await?,
        FlowCommand::Show { id, json } => {
            let flow: Flow = client.get(&path(&id, "")).await?;
            show(&flow, json, text)?;
        }
        FlowCommand::Cancel { id, json } => {
            let flow: Flow = client.send(Method::POST, &path(&id, "/cancel"), None::<&Value>).await?;
            show(&flow, json, |flow| format!("{} is {}", flow.id, line(flow)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(limit: usize, json: bool, client: &Client) -> Result<(), CliError> {
    let (mut left, mut cursor) = (limit, String::new());
    while left > 0 {
        let page: Page = client.get(&format!("/v1/flows?limit={}{cursor}", left.min(200))).await?;
        for flow in page.flows.iter().take(left) {
            show(flow, json, |flow| format!("{:36}  {}  {}", flow.id, flow.created_at, line(flow)))?;
        }
        left = left.saturating_sub(page.flows.len());
        match page.cursor {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    Ok(())
}

fn line(flow: &Flow) -> String {
    let counts: Vec<_> = flow.counts.iter().map(|(status, count)| format!("{count} {status}")).collect();
    let name = flow.name.as_deref().map(|name| format!("  {name}")).unwrap_or_default();
    format!("{}: {}{name}", flow.status.as_str(), counts.join(", "))
}

fn text(flow: &Flow) -> String {
    let mut text = format!("{}  {}", flow.id, line(flow));
    if let Some(error) = &flow.error {
        text.push_str(&format!("\nerror  {error}"));
    }
    for job in &flow.jobs {
        text.push_str(&format!("\n{:20}  {:9}  {:20}  {}", job.name, job.status.as_str(), job.kind, job.job_id));
        if !job.after.is_empty() {
            let names: Vec<_> = job.after.iter().map(|after| after.job.as_str()).collect();
            text.push_str(&format!("  after {}", names.join(", ")));
        }
        if let Some(error) = &job.error {
            text.push_str(&format!("\n{:22}{error}", ""));
        }
    }
    printable(&text)
}

fn path(id: &str, rest: &str) -> String {
    format!("/v1/flows/{}{rest}", escaped(id))
}

/// Reads a JSON document from a file, or, for `-`, from standard input.
pub(super) fn read_json<T: DeserializeOwned>(file: &Path) -> Result<T, CliError> {
    let shown = file.display();
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        std::fs::read(file)
    };
    let bytes = bytes.map_err(|error| CliError::Usage(format!("{shown}: {error}")))?;
    serde_json::from_slice(&bytes).map_err(|error| CliError::Usage(format!("{shown}: {error}")))
}
