//! Standard error of a worker becomes log records of the job that it runs.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::process::ChildStderr;
use tracing::{Level, Span};

use super::lines::{Line, Lines};
use super::process::TAIL_LINES;

/// Longest line that becomes one record, in bytes.
const LINE_BYTES_MAX: usize = 8 << 10;
/// Most records of one job; what comes after them is counted.
const RECORDS_MAX: u64 = 20_000;

macro_rules! emit {
    ($level:expr, $message:expr, $($fields:tt)*) => {
        match $level {
            Level::ERROR => tracing::error!(target: "backlot_agent::worker", { $($fields)* }, "{}", $message),
            Level::WARN => tracing::warn!(target: "backlot_agent::worker", { $($fields)* }, "{}", $message),
            Level::INFO => tracing::info!(target: "backlot_agent::worker", { $($fields)* }, "{}", $message),
            _ => tracing::debug!(target: "backlot_agent::worker", { $($fields)* }, "{}", $message),
        }
    };
}

/// To which job a line belongs; of jobs that are computed together, to each.
#[derive(Default)]
pub(super) struct Relay {
    owners: Vec<Owner>,
    records: u64,
    tail: VecDeque<String>,
}

struct Owner {
    job: String,
    attempt: String,
    /// Open while the job runs, so that records carry its trace; let go with it, so that the span can end.
    span: Option<Span>,
}

impl Relay {
    pub(super) fn begin<'o>(&mut self, owners: impl Iterator<Item = (&'o str, &'o str, Span)>) {
        let owner = |(job, attempt, span): (&str, &str, _)| Owner {
            job: job.into(),
            attempt: attempt.into(),
            span: Some(span),
        };
        *self = Self { owners: owners.map(owner).collect(), ..Self::default() };
    }

    /// The jobs are over. A line that comes late is still theirs.
    pub(super) fn end(&mut self) {
        let left_out = self.records.saturating_sub(RECORDS_MAX);
        for Owner { job, attempt, span } in &mut self.owners {
            *span = None;
            if left_out > 0 {
                tracing::warn!(job.id = *job, job.attempt = *attempt, left_out, "lines of the worker were left out");
            }
        }
    }

    pub(super) fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }

    fn line(&mut self, line: &str) {
        self.records += 1;
        if self.records > RECORDS_MAX {
            return;
        }
        let (level, message) = read(line);
        if self.tail.len() >= TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(message.chars().take(500).collect());
        for Owner { job, attempt, span } in &self.owners {
            match span {
                // The span's own fields name job and attempt.
                Some(span) => span.in_scope(|| emit!(level, message,)),
                None => emit!(level, message, job.id = *job, job.attempt = *attempt),
            }
        }
    }
}

pub(super) async fn relay(stderr: ChildStderr, relay: Arc<Mutex<Relay>>) {
    let mut lines = Lines::new(stderr, LINE_BYTES_MAX);
    while let Ok(Some(line)) = lines.next().await {
        let (Line::Whole(text) | Line::Cut(text)) = line;
        relay.lock().line(&text);
    }
}

/// Level and message of a line: of JSON with `level` and a message, as many loggers write it, else the line itself.
fn read(line: &str) -> (Level, String) {
    #[derive(Deserialize)]
    struct Record {
        level: String,
        #[serde(alias = "msg")]
        message: Option<String>,
        #[serde(default)]
        fields: Map<String, Value>,
    }
    let record = line.starts_with('{').then(|| serde_json::from_str::<Record>(line).ok()).flatten();
    let Some(mut record) = record else {
        return (level_of(line.split([':', ' ']).next().unwrap_or("")), line.to_owned());
    };
    let inner = record.fields.remove("message").and_then(|message| message.as_str().map(str::to_owned));
    let Some(mut message) = record.message.or(inner) else { return (level_of(&record.level), line.to_owned()) };
    for (name, value) in &record.fields {
        message.push_str(&format!(" {name}={value}"));
    }
    (level_of(&record.level), message)
}

fn level_of(word: &str) -> Level {
    match word.trim_matches(['[', ']']).to_ascii_uppercase().as_str() {
        "ERROR" | "CRITICAL" | "FATAL" => Level::ERROR,
        "WARN" | "WARNING" => Level::WARN,
        "DEBUG" | "TRACE" => Level::DEBUG,
        _ => Level::INFO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_the_level_that_it_names() {
        assert_eq!(read("step 3 of 20"), (Level::INFO, "step 3 of 20".into()));
        assert_eq!(read("WARNING: low memory").0, Level::WARN);
        assert_eq!(read("[ERROR] no such file").0, Level::ERROR);
        assert_eq!(read(r#"{"level":"error","msg":"boom"}"#), (Level::ERROR, "boom".into()));
        let tracing_line = r#"{"level":"WARN","fields":{"message":"slow","ms":5},"target":"x"}"#;
        assert_eq!(read(tracing_line), (Level::WARN, "slow ms=5".into()));
        assert_eq!(read(r#"{"level":7}"#).0, Level::INFO);
    }
}
