//! `backlot job search`, `count` and `why`.

use clap::Args;
use serde_json::Value;

use super::{Page, path, text};
use crate::cli::client::escaped;
use crate::cli::output::{printable, say, show};
use crate::cli::{CliError, Client, to_json};

#[derive(Debug, Args)]
pub(in crate::cli) struct SearchArguments {
    /// Such as `status:failed user:anna "out of memory" created:>2h`; docs/operating-jobs.md describes the language.
    query: String,
    /// Most jobs to list.
    #[arg(long, default_value_t = 50)]
    limit: usize,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct CountArguments {
    /// Only jobs that this finds.
    #[arg(default_value = "*")]
    query: String,
    #[arg(long)]
    json: bool,
}

pub(super) async fn search(arguments: SearchArguments, client: &Client) -> Result<(), CliError> {
    let SearchArguments { query, limit, json } = arguments;
    let encoded = escaped(&query);
    let (mut cursor, mut left) = (None::<String>, limit);
    if !json {
        say!("{}", text::HEADING)?;
    }
    while left > 0 {
        let after = cursor.as_ref().map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let page: Page = client.get(&format!("/v1/jobs?query={encoded}&limit={}{after}", left.min(500))).await?;
        for job in page.jobs.iter().take(left) {
            show(job, json, text::line)?;
        }
        left = left.saturating_sub(page.jobs.len());
        cursor = page.cursor;
        if cursor.is_none() {
            if let Some(remaking) = page.remaking {
                eprintln!(
                    "backlot: the index is being made again; {} of the newest jobs are in it so far",
                    remaking["jobs"]
                );
            }
            break;
        }
    }
    Ok(())
}

pub(super) async fn count(arguments: CountArguments, client: &Client) -> Result<(), CliError> {
    let encoded = escaped(&arguments.query);
    let counts: Value = client.get(&format!("/v1/jobs/counts?query={encoded}")).await?;
    if arguments.json {
        say!("{}", to_json(&counts)?)?;
        return Ok(());
    }
    say!("{} jobs", counts["total"])?;
    for name in ["status", "type", "project"] {
        let mut counted: Vec<(&String, u64)> =
            counts[name].as_object().into_iter().flatten().map(|(value, n)| (value, n.as_u64().unwrap_or(0))).collect();
        counted.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        if !counted.is_empty() {
            say!("\nby {name}")?;
        }
        for (value, n) in counted {
            say!("{n:>10}  {}", printable(value))?;
        }
    }
    Ok(())
}

pub(super) async fn why(id: &str, json: bool, client: &Client) -> Result<(), CliError> {
    let why: Value = client.get(&path(id, "/why-waiting")).await?;
    if json {
        say!("{}", to_json(&why)?)?;
        return Ok(());
    }
    let reasons = why["reasons"].as_array().map(Vec::as_slice).unwrap_or_default();
    let status = why["status"].as_str().unwrap_or_default();
    if reasons.is_empty() {
        say!("{} is {status}: it does not wait", printable(id))?;
    } else {
        say!("{} is {status}", printable(id))?;
    }
    for reason in reasons {
        say!(
            "  {}  ({})",
            printable(reason["sentence"].as_str().unwrap_or_default()),
            reason["code"].as_str().unwrap_or_default()
        )?;
    }
    Ok(())
}

pub(super) async fn phases(id: &str, attempt: Option<u32>, json: bool, client: &Client) -> Result<(), CliError> {
    let rest = attempt.map_or_else(|| "/phases".to_owned(), |number| format!("/phases?attempt={number}"));
    let told: Value = client.get(&path(id, &rest)).await?;
    if json {
        say!("{}", to_json(&told)?)?;
        return Ok(());
    }
    say!(
        "{} attempt {} of type {}, beside {} others",
        printable(id),
        told["attempt"],
        printable(told["type"].as_str().unwrap_or_default()),
        told["compared"]
    )?;
    say!("{:<12} {:>10} {:>10} {:>10} {:>7}", "phase", "seconds", "median", "p90", "ratio")?;
    let phases = told["phases"].as_array().map(Vec::as_slice).unwrap_or_default();
    for phase in phases.iter().chain([&told["whole"]]) {
        let number = |name: &str| phase[name].as_f64().map_or_else(|| "-".to_owned(), |number| format!("{number:.1}"));
        let running = if phase["running"] == true { " so far" } else { "" };
        say!(
            "{:<12} {:>10} {:>10} {:>10} {:>7}{running}",
            printable(phase["phase"].as_str().unwrap_or_default()),
            number("seconds"),
            number("median_s"),
            number("p90_s"),
            number("ratio")
        )?;
    }
    Ok(())
}
