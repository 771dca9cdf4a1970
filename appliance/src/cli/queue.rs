//! `backlot queue`: list, create, pause, resume, drain, purge and redrive queues.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::escaped;
use super::output::say;
use super::{CliError, Client, to_json};

/// Everything but what a name is made of.
/// Pause between two looks at a redrive.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(super) enum QueueCommand {
    /// All queues with their counts.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Make a queue. One that exists with the same attributes is left as it is.
    Create {
        name: String,
        /// An attribute as SQS names it, such as VisibilityTimeout=60 or backlot.JobQueue=true.
        #[arg(long = "attribute", value_name = "K=V", value_parser = pair)]
        attributes: Vec<(String, String)>,
        #[arg(long = "tag", value_name = "K=V", value_parser = pair)]
        tags: Vec<(String, String)>,
        #[arg(long)]
        json: bool,
    },
    /// Give out no messages until it is resumed. Messages are still taken, and what is in flight may be finished.
    Pause(Named),
    /// Take and give out messages again.
    Resume(Named),
    /// Take no messages until it is resumed. What is there is still given out.
    Drain(Named),
    /// Take every message off the queue. Once a minute.
    Purge(Named),
    /// Move what is ready on a dead-letter queue back to where it came from, or to another queue.
    Redrive {
        /// The dead-letter queue.
        name: String,
        /// Where all of it goes.
        #[arg(long, value_name = "QUEUE")]
        to: Option<String>,
        /// Messages a second, 1 to 500. Without it, as fast as it goes.
        #[arg(long, value_name = "N")]
        rate: Option<u32>,
        /// Return when it has ended; with exit code 1 when it failed.
        #[arg(long)]
        wait: bool,
        #[arg(long)]
        json: bool,
    },
    /// The newest redrives of a dead-letter queue; with an id, end that one.
    Redrives {
        name: String,
        #[arg(long, value_name = "ID")]
        cancel: Option<String>,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Named {
    name: String,
    #[arg(long)]
    json: bool,
}

/// What is shown of a queue.
#[derive(Deserialize)]
struct Overview {
    name: String,
    ready: u64,
    in_flight: u64,
    delayed: u64,
    flow: String,
    #[serde(default)]
    dlq: Option<String>,
}

#[derive(Deserialize)]
struct Task {
    id: String,
    status: String,
    moved: u64,
    to_move: u64,
    #[serde(default)]
    failure: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn path(name: &str, rest: &str) -> String {
    format!("/v1/queues/{}{rest}", escaped(name))
}

pub(super) async fn run(command: QueueCommand, client: &Client) -> Result<ExitCode, CliError> {
    match command {
        QueueCommand::List { json } => {
            let answer: Value = client.get("/v1/queues").await?;
            for queue in answer["queues"].as_array().into_iter().flatten() {
                show(queue, json)?;
            }
        }
        QueueCommand::Create { name, attributes, tags, json } => {
            let map = |pairs: Vec<(String, String)>| -> serde_json::Map<String, Value> {
                pairs.into_iter().map(|(name, value)| (name, Value::String(value))).collect()
            };
            let body = json!({"name": name, "attributes": map(attributes), "tags": map(tags)});
            show(&client.send(Method::POST, "/v1/queues", Some(&body)).await?, json)?;
        }
        QueueCommand::Pause(named) => change(client, &named, "/pause").await?,
        QueueCommand::Resume(named) => change(client, &named, "/resume").await?,
        QueueCommand::Drain(named) => change(client, &named, "/drain").await?,
        QueueCommand::Purge(named) => change(client, &named, "/purge").await?,
        QueueCommand::Redrive { name, to, rate, wait, json } => {
            let body = json!({"destination": to, "per_second": rate});
            let begun: Value = client.send(Method::POST, &path(&name, "/redrive"), Some(&body)).await?;
            let ended = if wait { wait_for(client, &name, begun).await? } else { begun };
            show_task(&ended, json)?;
            if ended["status"] == "FAILED" {
                return Ok(ExitCode::FAILURE);
            }
        }
        QueueCommand::Redrives { name, cancel: Some(id), json } => {
            let at = path(&name, &format!("/redrive/{}", escaped(&id)));
            show_task(&client.send(Method::DELETE, &at, None::<&Value>).await?, json)?;
        }
        QueueCommand::Redrives { name, cancel: None, json } => {
            let answer: Value = client.get(&path(&name, "/redrive")).await?;
            for task in answer["tasks"].as_array().into_iter().flatten() {
                show_task(task, json)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn change(client: &Client, named: &Named, what: &str) -> Result<(), CliError> {
    show(&client.send(Method::POST, &path(&named.name, what), None::<&Value>).await?, named.json)
}

/// Looks until the redrive has ended. A connection that breaks ends the wait, not the redrive.
async fn wait_for(client: &Client, name: &str, mut task: Value) -> Result<Value, CliError> {
    let id = task["id"].clone();
    while task["status"] == "RUNNING" {
        tokio::time::sleep(LOOK_EVERY).await;
        let answer: Value = client.get(&path(name, "/redrive")).await?;
        let found = answer["tasks"].as_array().into_iter().flatten().find(|task| task["id"] == id);
        task = found.cloned().ok_or_else(|| CliError::Fault(format!("redrive {id} is not listed any more")))?;
    }
    Ok(task)
}

fn show(queue: &Value, json: bool) -> Result<(), CliError> {
    if json {
        say!("{}", to_json(queue)?)?;
        return Ok(());
    }
    let queue: Overview = read(queue)?;
    let flow = if queue.flow == "open" { String::new() } else { format!("  {}", queue.flow) };
    let dlq = queue.dlq.map(|dlq| format!("  dead letters to {dlq}")).unwrap_or_default();
    say!(
        "{:32}  {:>9} ready  {:>7} in flight  {:>7} delayed{flow}{dlq}",
        queue.name,
        queue.ready,
        queue.in_flight,
        queue.delayed
    )?;
    Ok(())
}

fn show_task(task: &Value, json: bool) -> Result<(), CliError> {
    if json {
        say!("{}", to_json(task)?)?;
        return Ok(());
    }
    let task: Task = read(task)?;
    let failure = task.failure.map(|reason| format!("  {reason}")).unwrap_or_default();
    say!("{}  {:9}  {} of {} moved{failure}", task.id, task.status.to_lowercase(), task.moved, task.to_move)?;
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(value: &Value) -> Result<T, CliError> {
    T::deserialize(value).map_err(|error| CliError::fault("read the answer", error))
}
