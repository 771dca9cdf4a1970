//! `backlot schedule`: jobs that are queued again and again.

use std::path::PathBuf;
use std::process::ExitCode;

use backlot_wire::{Missed, Schedule, ScheduleOrder};
use clap::Subcommand;
use http::Method;
use serde_json::{Map, Value, json};

use super::client::escaped;
use super::flow::read_json;
use super::output::{say, show};
use super::{CliError, Client};

#[derive(Debug, Subcommand)]
pub(super) enum ScheduleCommand {
    /// Make a schedule, or put another in its place.
    Put {
        name: String,
        /// Five fields, such as `0 3 * * mon-fri`, or @hourly, @daily, @weekly, @monthly, @yearly.
        #[arg(long)]
        cron: String,
        /// Such as Europe/Berlin.
        #[arg(long, default_value = "UTC")]
        timezone: String,
        /// What becomes of times at which the appliance was not running: skip, last, all.
        #[arg(long, default_value = "skip", value_parser = missed)]
        missed: Missed,
        #[arg(long, default_value = "jobs")]
        queue: String,
        /// JSON file with the job's specification; `-` is standard input.
        #[arg(long, value_name = "FILE")]
        job: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// All schedules, with their next time.
    List {
        #[arg(long)]
        json: bool,
    },
    /// One schedule with its next times.
    Show {
        name: String,
        #[arg(long)]
        json: bool,
    },
    /// Let its times pass.
    Pause {
        name: String,
        #[arg(long)]
        json: bool,
    },
    /// Have it go on. Times of the pause are not caught up with.
    Resume {
        name: String,
        #[arg(long)]
        json: bool,
    },
    /// Forget a schedule. Jobs that it has queued stay.
    Delete {
        name: String,
        #[arg(long)]
        json: bool,
    },
}

fn missed(text: &str) -> Result<Missed, String> {
    serde_json::from_value(Value::String(text.into())).map_err(|_| "one of skip, last, all".into())
}

pub(super) async fn run(command: ScheduleCommand, client: &Client) -> Result<ExitCode, CliError> {
    match command {
        ScheduleCommand::Put { name, cron, timezone, missed, queue, job, json } => {
            let job: Map<String, Value> = read_json(&job)?;
            let order = ScheduleOrder { cron, timezone, queue, missed, paused: false, job, extra: Map::new() };
            let schedule: Schedule = client.send(Method::PUT, &path(&name, ""), Some(&order)).await?;
            show(&schedule, json, text)?;
        }
        ScheduleCommand::List { json } => {
            let mut answer: Value = client.get("/v1/schedules").await?;
            let schedules: Vec<Schedule> = serde_json::from_value(answer["schedules"].take())
                .map_err(|error| CliError::fault("read the schedules", error))?;
            for schedule in schedules {
                show(&schedule, json, line)?;
            }
        }
        ScheduleCommand::Show { name, json } => show(&client.get(&path(&name, "")).await?, json, text)?,
        ScheduleCommand::Pause { name, json } => {
            show(&client.send(Method::POST, &path(&name, "/pause"), None::<&Value>).await?, json, line)?;
        }
        ScheduleCommand::Resume { name, json } => {
            show(&client.send(Method::POST, &path(&name, "/resume"), None::<&Value>).await?, json, line)?;
        }
        ScheduleCommand::Delete { name, json } => {
            let _: Value = client.send(Method::DELETE, &path(&name, ""), None::<&Value>).await?;
            say!("{}", if json { json!({"deleted": name}).to_string() } else { format!("{name} is deleted") })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn line(schedule: &Schedule) -> String {
    let next = schedule.next.first().map_or("paused".to_owned(), |next| format!("next {next}"));
    let order = &schedule.order;
    format!("{:24}  {:20}  {:16}  {next}", schedule.name, order.cron, order.timezone)
}

fn text(schedule: &Schedule) -> String {
    let mut text = line(schedule);
    for next in schedule.next.iter().skip(1) {
        text.push_str(&format!("\n{:66}{next}", ""));
    }
    if let Some((at, id)) = schedule.last_at.zip(schedule.last_job_id.as_ref()) {
        text.push_str(&format!("\nlast   {at}  {id}"));
    }
    if let Some(error) = &schedule.last_error {
        text.push_str(&format!("\nerror  {error}"));
    }
    text
}

fn path(name: &str, rest: &str) -> String {
    format!("/v1/schedules/{}{rest}", escaped(name))
}
