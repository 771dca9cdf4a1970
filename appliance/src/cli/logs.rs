//! `backlot logs`: search and follow.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use bytes::Bytes;
use clap::{Args, Subcommand};
use http::Method;
use http_body_util::BodyExt as _;
use serde_json::Value;

use super::client::path;
use super::output::{left_out, line, printable, say, show};
use super::{CliError, Client, full};

/// Longest line of the stream that is put together: a record with its largest body, escaped.
const LINE_BYTES_MAX: usize = 16 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum LogsCommand {
    /// Find records. The query language is described in docs/logs.md: `level:error job:ID "out of memory"`.
    Search(SearchArguments),
    /// Show records as they arrive, until interrupted.
    Tail {
        #[arg(default_value = "")]
        query: String,
        #[arg(long)]
        json: bool,
    },
    /// Show the windows of logs and traces and where each is, those first that go first when there is no room.
    #[command(alias = "windows")]
    Kept {
        #[arg(long)]
        json: bool,
    },
    /// Move windows that rest to the place of cold windows now, before their time.
    Move {
        /// Those of this class alone.
        #[arg(long)]
        class: Option<String>,
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct SearchArguments {
    #[arg(default_value = "")]
    query: String,
    /// RFC 3339, or how long ago: 15m, 2h, 7d.
    #[arg(long)]
    from: Option<String>,
    #[arg(long)]
    to: Option<String>,
    /// Most records.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Oldest first; otherwise the newest are found and printed in the order in which they happened.
    #[arg(long)]
    oldest: bool,
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: LogsCommand, client: &Client) -> Result<ExitCode, CliError> {
    match command {
        LogsCommand::Search(arguments) => search(&arguments, client).await,
        LogsCommand::Tail { query, json } => tail(&query, json, client).await,
        LogsCommand::Kept { json } => kept(json, client).await,
        LogsCommand::Move { class, json } => move_now(class, json, client).await,
    }
}

async fn search(arguments: &SearchArguments, client: &Client) -> Result<ExitCode, CliError> {
    let mut found: Vec<Value> = Vec::new();
    let mut cursor = String::new();
    while found.len() < arguments.limit {
        let order = if arguments.oldest { "oldest" } else { "newest" };
        let limit = (arguments.limit - found.len()).min(1000).to_string();
        let given = [
            ("query", Some(arguments.query.as_str())),
            ("from", arguments.from.as_deref()),
            ("to", arguments.to.as_deref()),
            ("order", Some(order)),
            ("limit", Some(limit.as_str())),
            ("cursor", Some(cursor.as_str()).filter(|cursor| !cursor.is_empty())),
        ];
        let mut page: Value = client.get(&path("/v1/logs", &given)).await?;
        if let Value::Array(records) = page["records"].take() {
            found.extend(records);
        }
        left_out(&page);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    if !arguments.oldest {
        found.reverse();
    }
    for record in &found {
        print(record, arguments.json)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn kept(json: bool, client: &Client) -> Result<ExitCode, CliError> {
    let told: Value = client.get("/v1/retention").await?;
    if json {
        line(&told)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mib = |bytes: &Value| bytes.as_f64().unwrap_or_default() / f64::from(1 << 20);
    let of = told["disk_bytes_max"].as_f64().map(|_| format!(" of {:.0}", mib(&told["disk_bytes_max"])));
    say!(
        "{:.1}{} MiB; closed windows go from the top when there is no room",
        mib(&told["disk_bytes"]),
        of.unwrap_or_default()
    )?;
    if let Some(to) = told["cold"]["to"].as_str() {
        let problem = [&told["cold"]["away"], &told["cold"]["problem"]].into_iter().find_map(Value::as_str);
        let problem = problem.map(|problem| format!("; {problem}")).unwrap_or_default();
        say!("{:.1} MiB more in {to}{problem}", mib(&told["cold_bytes"]))?;
    }
    for window in told["windows"].as_array().into_iter().flatten() {
        let text = |name: &str| window[name].as_str().unwrap_or_default();
        let day = |name: &'static str| text(name).get(..16).unwrap_or_default().replace('T', " ");
        let goes = if window["closed"] == true { day("goes") } else { "open".to_owned() };
        let place = match window["cold"] == true {
            true => format!(", {:.1} MiB cold", mib(&window["cold_bytes"])),
            false => String::new(),
        };
        say!(
            "{:6} {:16} {:>10.1} MiB {:>12} records, last {}, goes {goes}{place}",
            text("signal"),
            text("class"),
            mib(&window["disk_bytes"]),
            window["records"],
            day("last_arrival")
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn move_now(class: Option<String>, json: bool, client: &Client) -> Result<ExitCode, CliError> {
    let asked = serde_json::json!({ "class": class });
    let ordered: Value = client.send(Method::POST, "/v1/retention/move", Some(&asked)).await?;
    let text = match json {
        true => ordered.to_string(),
        false => format!(
            "{} windows move, or will when they rest; `backlot logs kept` shows which are cold",
            ordered["windows"]
        ),
    };
    line(text)?;
    Ok(ExitCode::SUCCESS)
}

async fn tail(query: &str, json: bool, client: &Client) -> Result<ExitCode, CliError> {
    let answer =
        client.open(Method::GET, &path("/v1/logs/tail", &[("query", Some(query))]), full(Bytes::new())).await?;
    let mut body = answer.into_body();
    let (mut line, mut event) = (Vec::new(), String::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| CliError::fault("read the stream", error))?;
        let Ok(data) = frame.into_data() else { continue };
        for byte in data {
            if byte != b'\n' {
                line.push(byte);
                if line.len() > LINE_BYTES_MAX {
                    return Err(CliError::Fault("a line of the stream is too long".to_owned()));
                }
                continue;
            }
            let text = String::from_utf8_lossy(&line).into_owned();
            line.clear();
            match text.split_once(": ") {
                Some(("event", name)) => event = name.to_owned(),
                Some(("data", data)) => arrived(&event, data, json)?,
                _ => {}
            }
        }
    }
    Err(CliError::Fault("the appliance ended the stream".to_owned()))
}

fn arrived(event: &str, data: &str, json: bool) -> Result<(), CliError> {
    let value: Value = serde_json::from_str(data).map_err(|error| CliError::fault("read the stream", error))?;
    if event == "dropped" {
        eprintln!("backlot: {} records went by too fast and were not looked at", value["count"]);
        return Ok(());
    }
    print(&value, json)
}

fn print(record: &Value, json: bool) -> Result<(), CliError> {
    show(record, json, |record| people(record, std::io::stdout().is_terminal()))
}

/// Time, level, service, body, and what else identifies it.
fn people(record: &Value, in_colour: bool) -> String {
    let text = |name: &str| record[name].as_str().unwrap_or_default();
    let level = text("level");
    let colour = match level {
        "error" | "fatal" => "31",
        "warn" => "33",
        _ => "2",
    };
    let level = if in_colour { format!("\x1b[{colour}m{level:5}\x1b[0m") } else { format!("{level:5}") };
    let time = text("time").get(..23).unwrap_or_else(|| text("time"));
    let mut line = format!("{time} {level} {}: {}", text("service"), printable(text("body")));
    for name in ["job", "attempt"] {
        if !text(name).is_empty() {
            line.push_str(&format!(" {name}={}", printable(text(name))));
        }
    }
    for (name, value) in record["attributes"].as_object().into_iter().flatten() {
        if !name.starts_with("code.") && !name.starts_with("job") {
            line.push_str(&format!(" {name}={}", printable(&value.to_string())));
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_for_people_cannot_speak_to_the_terminal() {
        let record = serde_json::json!({
            "time": "2026-11-22T12:00:00.123456789Z", "level": "warn", "service": "agent",
            "body": "red \u{1b}[31malert", "job": "j-1", "attributes": {"gpu.index": 3, "code.line.number": 7}
        });
        assert_eq!(
            people(&record, false),
            "2026-11-22T12:00:00.123 warn  agent: red \u{fffd}[31malert job=j-1 gpu.index=3"
        );
    }
}
