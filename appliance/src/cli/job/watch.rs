//! Following jobs: the stream of news, and asking again where it breaks off.

use std::io::IsTerminal;
use std::time::Duration;

use backlot_wire::{Job, JobStatus};
use bytes::Bytes;
use http::{Method, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::timeout;

use super::super::client::full;
use super::{path, text};
use crate::cli::output::say;
use crate::cli::{CliError, Client, to_json};

/// Pause before the stream is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// A stream that is silent for longer than three of its signs of life is dead.
const SILENCE_MAX: Duration = Duration::from_secs(35);
/// How often in a row an appliance may not answer (it restarts, or is updated) before we give up: two minutes.
const FAILURES_MAX: u32 = 120;
/// Largest event that is read.
const EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Follows job `id` until it has ended, with a progress bar if asked for. `seen` is called with each change.
pub(super) async fn until_final(
    client: &Client,
    id: &str,
    mut seen: impl FnMut(&Job) -> Result<(), CliError>,
    bar: bool,
) -> Result<Job, CliError> {
    let bar = if bar && std::io::stderr().is_terminal() { progress_bar() } else { ProgressBar::hidden() };
    let (mut failures, mut last) = (0, None);
    loop {
        // The stream begins with the job as it is, so that nothing is missed between two streams.
        let ended = match client.open(Method::GET, &path(id, "/events"), full(Bytes::new())).await {
            Ok(response) => {
                let mut news = News::new(response);
                loop {
                    match news.next().await {
                        Some(Event { name, data }) if name == "job" => {
                            failures = 0;
                            let job: Job =
                                serde_json::from_str(&data).map_err(|error| CliError::fault("read a job", error))?;
                            if last.as_ref() != Some(&job) {
                                show(&bar, &job);
                                seen(&job)?;
                            }
                            let ended = job.status.is_final();
                            last = Some(job);
                            if ended {
                                break true;
                            }
                        }
                        Some(Event { name, .. }) if name == "lagged" => break false,
                        Some(_) => {}
                        None => break false,
                    }
                }
            }
            Err(error @ CliError::Refused { status: 400..=499, .. }) => return Err(error),
            Err(error) => {
                failures += 1;
                if failures > FAILURES_MAX {
                    return Err(error);
                }
                false
            }
        };
        if ended && let Some(job) = last {
            bar.finish_and_clear();
            return Ok(job);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Every change of every job, until interrupted.
pub(super) async fn all(client: &Client, json: bool) -> Result<(), CliError> {
    let mut failures = 0;
    loop {
        match client.open(Method::GET, "/v1/jobs/events", full(Bytes::new())).await {
            Ok(response) => {
                failures = 0;
                let mut news = News::new(response);
                while let Some(Event { name, data }) = news.next().await {
                    match name.as_str() {
                        "job" => {
                            let job: Job =
                                serde_json::from_str(&data).map_err(|error| CliError::fault("read a job", error))?;
                            if json {
                                json_line(&job)?;
                            } else {
                                say!("{}", text::line(&job))?;
                            }
                        }
                        "lagged" => eprintln!("some changes were missed: {data}"),
                        _ => {}
                    }
                }
            }
            Err(error @ CliError::Refused { status: 400..=499, .. }) => return Err(error),
            Err(error) => {
                failures += 1;
                if failures > FAILURES_MAX {
                    return Err(error);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

pub(super) fn json_line(job: &Job) -> Result<(), CliError> {
    say!("{}", to_json(job)?)?;
    Ok(())
}

fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(100);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {bar:30} {pos:>3} %  {elapsed}  {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn show(bar: &ProgressBar, job: &Job) {
    bar.set_position(job.percent.unwrap_or(0.0).clamp(0.0, 100.0) as u64);
    let phase = job.attempts.last().filter(|attempt| attempt.outcome.is_none()).and_then(|attempt| {
        let phase = attempt.phases.last().filter(|phase| phase.ended_at.is_none())?;
        Some(format!("{}, attempt {}", phase.name, attempt.number))
    });
    let words = match (job.status, phase) {
        (JobStatus::Running, Some(phase)) => phase,
        (status, _) => status.as_str().to_owned(),
    };
    bar.set_message(words.chars().filter(|c| !c.is_control()).collect::<String>());
}

/// One server-sent event.
#[derive(Debug, PartialEq)]
struct Event {
    name: String,
    data: String,
}

/// Reads server-sent events as they come.
struct News {
    body: Incoming,
    lines: Lines,
}

impl News {
    fn new(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), lines: Lines::default() }
    }

    /// `None`: the stream has ended, broken off, or been silent for too long.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.lines.event() {
                return Some(event);
            }
            let frame = timeout(SILENCE_MAX, self.body.frame()).await.ok()??.ok()?;
            if let Some(bytes) = frame.data_ref()
                && !self.lines.take(bytes)
            {
                return None;
            }
        }
    }
}

/// Bytes of a stream, put together to events.
#[derive(Default)]
struct Lines {
    bytes: Vec<u8>,
}

impl Lines {
    /// False: an event is too large.
    fn take(&mut self, bytes: &[u8]) -> bool {
        self.bytes.extend_from_slice(bytes);
        self.bytes.len() <= EVENT_BYTES_MAX
    }

    /// The next whole event, if it has come.
    fn event(&mut self) -> Option<Event> {
        loop {
            let end = self.bytes.windows(2).position(|pair| pair == b"\n\n")?;
            let block: Vec<u8> = self.bytes.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&block);
            let field = |wanted: &str| {
                let values: Vec<_> = text
                    .lines()
                    .filter_map(|line| line.split_once(':').filter(|(name, _)| *name == wanted))
                    .map(|(_, value)| value.strip_prefix(' ').unwrap_or(value))
                    .collect();
                (!values.is_empty()).then(|| values.join("\n"))
            };
            // A block without data is a sign of life.
            if let Some(data) = field("data") {
                return Some(Event { name: field("event").unwrap_or_else(|| "message".into()), data });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_put_together_from_any_pieces() {
        let stream = b": here\n\nevent: job\ndata: {\"a\":1}\n\nevent:lagged\ndata: x\ndata: y\n\n";
        for size in 1..stream.len() {
            let (mut lines, mut events) = (Lines::default(), Vec::new());
            for piece in stream.chunks(size) {
                assert!(lines.take(piece));
                while let Some(event) = lines.event() {
                    events.push(event);
                }
            }
            let event = |name: &str, data: &str| Event { name: name.into(), data: data.into() };
            assert_eq!(events, [event("job", "{\"a\":1}"), event("lagged", "x\ny")]);
        }
    }
}
