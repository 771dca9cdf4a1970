//! `backlot job webhook`: who is told what happens to jobs.

use clap::Subcommand;
use http::Method;
use serde_json::{Value, json};

use crate::cli::client::escaped;
use crate::cli::output::{printable, say};
use crate::cli::{CliError, Client, to_json};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum WebhookCommand {
    /// All webhooks.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Define one, or change it. A secret that is made is shown now and never again.
    Set {
        name: String,
        /// http:// or https://. Userinfo is sent as HTTP Basic.
        #[arg(long)]
        url: String,
        /// queued, started, succeeded, failed, cancelled, progress; several with commas. Without it, all but progress.
        #[arg(long, value_delimiter = ',')]
        events: Vec<String>,
        /// Only of jobs that this finds.
        #[arg(long, default_value = "")]
        query: String,
        /// File with the secret, `whsec_` and base64. Without it, the one that it had, or a new one.
        #[arg(long, value_name = "FILE")]
        secret_file: Option<std::path::PathBuf>,
        #[arg(long)]
        json: bool,
    },
    /// One of them, and what became of its deliveries.
    Show {
        name: String,
        #[arg(long)]
        json: bool,
    },
    /// Take one away.
    Delete {
        name: String,
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: WebhookCommand, client: &Client) -> Result<(), CliError> {
    match command {
        WebhookCommand::List { json } => {
            let webhooks: Value = client.get("/v1/webhooks").await?;
            for webhook in webhooks["webhooks"].as_array().into_iter().flatten() {
                describe(webhook, json)?;
            }
            Ok(())
        }
        WebhookCommand::Set { name, url, events, query, secret_file, json } => {
            let mut wanted = json!({"url": url, "query": query});
            if !events.is_empty() {
                wanted["events"] = json!(events);
            }
            if let Some(file) = secret_file {
                let secret = std::fs::read_to_string(&file)
                    .map_err(|error| CliError::Usage(format!("--secret-file {}: {error}", file.display())))?;
                wanted["secret"] = json!(secret.trim());
            }
            let set: Value = client.send(Method::PUT, &path(&name), Some(&wanted)).await?;
            describe(&set, json)?;
            if let Some(secret) = set["secret"].as_str().filter(|_| !json) {
                say!("secret  {secret}\nkeep it: it is not shown again")?;
            }
            Ok(())
        }
        WebhookCommand::Show { name, json } => describe(&client.get(&path(&name)).await?, json),
        WebhookCommand::Delete { name, json } => {
            let _: Value = client.send(Method::DELETE, &path(&name), None::<&Value>).await?;
            say!(
                "{}",
                if json { json!({"name": name, "deleted": true}).to_string() } else { format!("{name} is gone") }
            )?;
            Ok(())
        }
    }
}

fn path(name: &str) -> String {
    format!("/v1/webhooks/{}", escaped(name))
}

fn describe(webhook: &Value, json: bool) -> Result<(), CliError> {
    if json {
        say!("{}", to_json(webhook)?)?;
        return Ok(());
    }
    let word = |name: &str| printable(webhook[name].as_str().unwrap_or_default());
    let events: Vec<_> = webhook["events"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let deliveries = &webhook["deliveries"];
    say!("{}  {}  {}  {}", word("name"), word("target"), events.join(","), word("query"))?;
    say!(
        "    {} delivered, {} waiting, {} retried, {} given up since the start",
        deliveries["delivered"],
        deliveries["waiting"],
        deliveries["retried"],
        deliveries["dead"]
    )?;
    if let Some(problem) = deliveries["problem"].as_str() {
        say!("    {}", printable(problem))?;
    }
    Ok(())
}
