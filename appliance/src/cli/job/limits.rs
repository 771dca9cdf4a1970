//! `backlot job limits`: shares of projects, limits of running jobs, rates.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use crate::cli::client::escaped;
use crate::cli::output::{printable, say};
use crate::cli::{CliError, Client, to_json};

#[derive(Debug, Args)]
pub(in crate::cli) struct LimitsArguments {
    #[command(subcommand)]
    command: Option<LimitsCommand>,
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum LimitsCommand {
    /// Set what holds for one name; `*` is everybody without an entry of his own.
    Set {
        /// project, user, type, queue or key.
        scope: String,
        name: String,
        /// Of a project: how much it gets beside the others.
        #[arg(long)]
        share: Option<f64>,
        /// Of a project, user or type: most jobs that run at once.
        #[arg(long)]
        running: Option<u32>,
        /// Of a queue or key: attempts that may begin each second.
        #[arg(long)]
        rate: Option<f64>,
        /// Of a queue or key: most attempts that may begin at once after a rest.
        #[arg(long)]
        burst: Option<u32>,
    },
    /// Take away what was set, so that the configuration holds again.
    Unset { scope: String, name: String },
}

pub(super) async fn run(arguments: LimitsArguments, client: &Client) -> Result<(), CliError> {
    let path = |scope: &str, name: &str| format!("/v1/limits/{}/{}", escaped(scope), escaped(name));
    match arguments.command {
        None => show(arguments.json, client).await,
        Some(LimitsCommand::Set { scope, name, share, running, rate, burst }) => {
            let mut setting = serde_json::Map::new();
            for (key, value) in [
                ("share", share.map(|value| json!(value))),
                ("running_max", running.map(|value| json!(value))),
                ("rate_per_s", rate.map(|value| json!(value))),
                ("burst", burst.map(|value| json!(value))),
            ] {
                setting.extend(value.map(|value| (key.to_owned(), value)));
            }
            let set: Value = client.send(Method::PUT, &path(&scope, &name), Some(&setting)).await?;
            say!("{}", if arguments.json { to_json(&set)? } else { format!("set for the {scope} {name}") })?;
            Ok(())
        }
        Some(LimitsCommand::Unset { scope, name }) => {
            let _: Value = client.send(Method::DELETE, &path(&scope, &name), None::<&Value>).await?;
            if arguments.json {
                say!("{}", json!({"scope": scope, "name": name, "unset": true}))?;
            } else {
                say!("nothing is set for the {scope} {name} any more")?;
            }
            Ok(())
        }
    }
}

async fn show(json: bool, client: &Client) -> Result<(), CliError> {
    let limits: Value = client.get("/v1/limits").await?;
    if json {
        say!("{}", to_json(&limits)?)?;
        return Ok(());
    }
    say!(
        "{:8} {:32} {:>8} {:>8} {:>8} {:>10} {:>8}  FROM",
        "SCOPE",
        "NAME",
        "SHARE",
        "RUNNING",
        "MOST",
        "RATE/S",
        "BURST"
    )?;
    let shown = |value: &Value| if value.is_null() { "-".to_owned() } else { value.to_string() };
    for entry in limits["limits"].as_array().into_iter().flatten() {
        say!(
            "{:8} {:32} {:>8} {:>8} {:>8} {:>10} {:>8}  {}",
            entry["scope"].as_str().unwrap_or_default(),
            printable(entry["name"].as_str().unwrap_or_default()),
            shown(&entry["share"]),
            shown(&entry["running"]),
            shown(&entry["running_max"]),
            shown(&entry["rate_per_s"]),
            shown(&entry["burst"]),
            entry["from"].as_str().unwrap_or_default(),
        )?;
    }
    for project in limits["projects"].as_array().into_iter().flatten() {
        let name = project["project"].as_str().filter(|name| !name.is_empty()).unwrap_or("(no project)");
        say!(
            "{}: {} run, {} wait, share {}",
            printable(name),
            project["running"],
            project["waiting"],
            project["share"]
        )?;
    }
    Ok(())
}
