//! Jobs in words.

use backlot_wire::{Job, Timestamp};

use crate::cli::output::printable;

pub(super) const HEADING: &str =
    "ID                                    STATUS     TYPE                  CREATED                   ERROR";

/// A job in a list.
pub(super) fn line(job: &Job) -> String {
    let error = job.error.as_ref().map_or("", |error| error.message.as_str());
    let first_line: String = printable(error.lines().next().unwrap_or_default()).chars().take(80).collect();
    let line = format!(
        "{:36}  {:9}  {:20}  {:24}  {first_line}",
        job.id,
        job.status.as_str(),
        job.spec.kind,
        job.created_at.to_rfc3339()
    );
    line.trim_end().to_owned()
}

/// A job with its attempts.
pub(super) fn job(job: &Job) -> String {
    let mut text = format!("{}  {}  {}  on {}", job.id, job.status.as_str(), job.spec.kind, job.queue);
    if job.cancel_requested && !job.status.is_final() {
        text.push_str("  (asked to end)");
    }
    text.push_str(&format!("\ncreated {}", job.created_at));
    if let Some(ended_at) = job.ended_at {
        text.push_str(&format!(", ended {ended_at}, {} in all", took(job.created_at, ended_at)));
    }
    if let Some(at) = job.runs_after {
        text.push_str(&format!("\nnot before {at}"));
    }
    for after in &job.spec.after {
        text.push_str(&format!("\nafter   {}", after.job));
    }
    for input in &job.spec.inputs {
        let job = input.job.as_ref().map(|job| format!("of job {job}"));
        text.push_str(&format!("\ninput   {}", printable(&job.unwrap_or_else(|| input.uri.clone()))));
    }
    for attempt in &job.attempts {
        let outcome = attempt.outcome.and_then(|outcome| serde_json::to_value(outcome).ok());
        let outcome = outcome.as_ref().and_then(|value| value.as_str()).unwrap_or("under way");
        text.push_str(&format!("\nattempt {}  {outcome}", attempt.number));
        if let Some(agent) = &attempt.agent {
            text.push_str(&format!("  by {agent}"));
        }
        let phases: Vec<_> = attempt
            .phases
            .iter()
            .map(|phase| match phase.ended_at {
                Some(ended_at) => format!("{} {}", printable(&phase.name), took(phase.started_at, ended_at)),
                None => format!("{} …", printable(&phase.name)),
            })
            .collect();
        text.push_str(&format!("  {}", phases.join(", ")));
        if let Some(reason) = &attempt.reason {
            text.push_str(&format!("\n          {}", printable(reason)));
        }
    }
    for output in &job.partial {
        text.push_str(&format!("\nso far  {}", printable(&output.uri)));
    }
    for output in &job.outputs {
        text.push_str(&format!("\noutput  {}", printable(&output.uri)));
    }
    if let Some(error) = &job.error {
        text.push_str(&format!("\nerror   {}", printable(&error.message)));
    }
    text
}

fn took(from: Timestamp, until: Timestamp) -> String {
    let ms = until.unix_ms().saturating_sub(from.unix_ms());
    if ms < 60_000 {
        format!("{}.{} s", ms / 1_000, ms % 1_000 / 100)
    } else {
        format!("{} min {} s", ms / 60_000, ms / 1_000 % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_that_a_job_says() {
        assert_eq!(printable("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb\nc");
    }

    #[test]
    fn durations_read_well() {
        let took = |ms: u64| took(Timestamp(1_000), Timestamp(1_000 + ms));
        assert_eq!(
            (took(0), took(1_250), took(59_999), took(3_661_000)),
            ("0.0 s".into(), "1.2 s".into(), "59.9 s".into(), "61 min 1 s".into())
        );
    }
}
