//! Where the time of an attempt went, beside what other attempts of its type took.
//!
//! The jobs' own record of phases is what is compared, not spans: it is there for every worker, traced or not, and for as long as
//! the job is. Compared are the attempts that succeeded of the newest jobs of the same type, [`COMPARED_MAX`] of them at
//! most, the job itself left out.

use std::collections::BTreeMap;

use backlot_windows::Query;
use backlot_wire::{Attempt, JobStatus, Outcome};
use serde::Serialize;

use super::search::Asked;
use super::{Jobs, JobsError};
use crate::clock::Now;

/// Most attempts that one is compared with.
const COMPARED_MAX: usize = 100;

/// An attempt and what others took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phases {
    pub job_id: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub attempt: u32,
    /// Absent while it is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// How many attempts it is compared with.
    pub compared: usize,
    /// From the wait before it to its end.
    pub whole: Phase,
    /// In the order in which they first began.
    pub phases: Vec<Phase>,
}

/// A phase by its name; one that came several times is taken together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Phase {
    pub phase: String,
    pub seconds: f64,
    /// It has not ended: so long until now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub running: bool,
    /// Of the others that had this phase; absent where none had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p90_s: Option<f64>,
    /// How many of the others had this phase.
    pub of: usize,
    /// Its seconds in medians; absent where the median is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

impl Jobs {
    /// The phases of an attempt of job `id`, the newest where no `number` is given, beside those of others.
    ///
    /// # Errors
    /// [`JobsError::NoSuchJob`], [`JobsError::NoSuchAttempt`]; [`JobsError::Search`] when the others cannot be found.
    pub async fn phases(&self, id: &str, number: Option<u32>) -> Result<Phases, JobsError> {
        let tracked = self.find(id)?.ok_or_else(|| JobsError::NoSuchJob(id.to_owned()))?;
        let wanted = |attempt: &&Attempt| number.is_none_or(|number| attempt.number == number);
        let no_such =
            || JobsError::NoSuchAttempt(number.map_or_else(|| id.to_owned(), |number| format!("{id}.{number}")));
        let attempt = tracked.attempts.iter().rev().find(wanted).cloned().ok_or_else(no_such)?;
        let kind = tracked.spec.kind.clone();
        let query = Query::And(vec![
            Query::keyword("type", &kind),
            Query::keyword("status", JobStatus::Succeeded.as_str()),
            Query::Not(Box::new(Query::keyword("id", id))),
        ]);
        let found = self.found_now(Asked { query, from_ns: i64::MIN, to_ns: i64::MAX }, COMPARED_MAX).await?;
        let (jobs, now) = (self.clone(), self.book.clock.now());
        let read = move || {
            let mut others = Vec::with_capacity(found.len());
            for id in found {
                // It may have been forgotten since it was found.
                let Some(other) = jobs.find(&id)? else { continue };
                let succeeded = |attempt: &&Attempt| attempt.outcome == Some(Outcome::Succeeded);
                others.extend(other.attempts.iter().rev().find(succeeded).cloned());
            }
            Ok(others)
        };
        let others: Result<Vec<Attempt>, JobsError> =
            tokio::task::spawn_blocking(read).await.map_err(|error| JobsError::Store(error.to_string()))?;
        Ok(compare(id, &kind, &attempt, &others?, now))
    }
}

/// Seconds of each phase, in the order in which they began, and whether it has not ended.
fn seconds(attempt: &Attempt, now: Now) -> Vec<(&str, f64, bool)> {
    let mut phases: Vec<(&str, f64, bool)> = Vec::new();
    for phase in &attempt.phases {
        let running = phase.ended_at.is_none() && attempt.ended_at.is_none();
        let end = phase.ended_at.or(attempt.ended_at).unwrap_or_else(|| now.timestamp());
        let took_s = end.unix_ms().saturating_sub(phase.started_at.unix_ms()) as f64 / 1_000.0;
        match phases.iter_mut().find(|(name, ..)| *name == phase.name) {
            Some((_, seconds, is_running)) => {
                *seconds += took_s;
                *is_running |= running;
            }
            None => phases.push((&phase.name, took_s, running)),
        }
    }
    phases
}

/// From the wait before it to its end.
fn whole_s(attempt: &Attempt, now: Now) -> f64 {
    let begin = attempt.phases.first().map_or(attempt.started_at, |phase| phase.started_at).min(attempt.started_at);
    let end = attempt.ended_at.unwrap_or_else(|| now.timestamp());
    end.unix_ms().saturating_sub(begin.unix_ms()) as f64 / 1_000.0
}

fn compare(id: &str, kind: &str, attempt: &Attempt, others: &[Attempt], now: Now) -> Phases {
    let mut by_name: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for other in others {
        for (name, seconds, _) in seconds(other, now) {
            by_name.entry(name).or_default().push(seconds);
        }
    }
    let beside = |name: &str, seconds: f64, running: bool, mut took_s: Vec<f64>| {
        took_s.sort_by(f64::total_cmp);
        let median_s = quantile(&took_s, 0.5);
        Phase {
            phase: name.to_owned(),
            seconds,
            running,
            median_s,
            p90_s: quantile(&took_s, 0.9),
            of: took_s.len(),
            ratio: median_s.filter(|median_s| *median_s > 0.0).map(|median_s| seconds / median_s),
        }
    };
    let phases = seconds(attempt, now).into_iter();
    let phases = phases
        .map(|(name, seconds, running)| beside(name, seconds, running, by_name.get(name).cloned().unwrap_or_default()));
    let wholes = others.iter().map(|other| whole_s(other, now)).collect();
    Phases {
        job_id: id.to_owned(),
        kind: kind.to_owned(),
        attempt: attempt.number,
        outcome: attempt.outcome,
        compared: others.len(),
        whole: beside("whole", whole_s(attempt, now), attempt.ended_at.is_none(), wholes),
        phases: phases.collect(),
    }
}

/// Between the two nearest of `sorted`, in proportion.
fn quantile(sorted: &[f64], share: f64) -> Option<f64> {
    let at = sorted.len().checked_sub(1)? as f64 * share;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "lies within the list")]
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (at - at.floor()))
}

#[cfg(test)]
mod tests {
    use backlot_wire::Timestamp;
    use backlot_wire::attempt::PhaseSpan;
    use proptest::prelude::*;

    use super::*;

    fn attempt(number: u32, outcome: Option<Outcome>, phases: &[(&str, u64, Option<u64>)]) -> Attempt {
        let at = |s: u64| Timestamp(s * 1_000);
        let phases: Vec<_> = phases
            .iter()
            .map(|(name, from, to)| PhaseSpan { name: (*name).to_owned(), started_at: at(*from), ended_at: to.map(at) })
            .collect();
        let ended = phases.last().and_then(|phase| phase.ended_at).filter(|_| outcome.is_some());
        let text = serde_json::json!({"id": "j.1", "number": number, "started_at": at(5)});
        Attempt { outcome, phases, ended_at: ended, ..serde_json::from_value(text).unwrap() }
    }

    #[test]
    fn each_phase_stands_beside_the_median_and_the_90th_percentile_of_the_others() {
        let others: Vec<_> = (1..=11)
            .map(|s| attempt(1, Some(Outcome::Succeeded), &[("queued", 0, Some(5)), ("infer", 5, Some(5 + s))]))
            .collect();
        let slow = attempt(
            2,
            None,
            &[("queued", 0, Some(5)), ("infer", 5, Some(10)), ("post", 10, Some(12)), ("infer", 12, None)],
        );
        let told = compare("j", "x", &slow, &others, Now { mono_ms: 0, wall_ms: 25_000 });
        let infer = Phase {
            phase: "infer".into(),
            seconds: 18.0,
            running: true,
            median_s: Some(6.0),
            p90_s: Some(10.0),
            of: 11,
            ratio: Some(3.0),
        };
        assert_eq!(
            told.phases.iter().map(|phase| phase.phase.as_str()).collect::<Vec<_>>(),
            ["queued", "infer", "post"]
        );
        assert_eq!((&told.phases[1], told.compared, told.attempt), (&infer, 11, 2));
        let post = &told.phases[2];
        assert_eq!((post.of, post.median_s, post.ratio, post.running), (0, None, None, false));
        assert_eq!((told.whole.seconds, told.whole.median_s), (25.0, Some(11.0)));
    }

    #[test]
    fn an_attempt_without_phases_and_one_without_others_are_told_too() {
        let told = compare("j", "x", &attempt(1, None, &[]), &[], Now { mono_ms: 0, wall_ms: 7_000 });
        assert_eq!((told.phases.len(), told.whole.seconds, told.whole.median_s), (0, 2.0, None));
        let none = attempt(1, Some(Outcome::Succeeded), &[("queued", 3, Some(3))]);
        let told = compare("j", "x", &none, std::slice::from_ref(&none), Now::default());
        assert_eq!((told.phases[0].median_s, told.phases[0].ratio), (Some(0.0), None));
    }

    proptest! {
        #[test]
        fn a_quantile_lies_among_the_numbers_and_rises(mut numbers in prop::collection::vec(0.0..1e6_f64, 1..40)) {
            numbers.sort_by(f64::total_cmp);
            let (median, p90) = (quantile(&numbers, 0.5).unwrap(), quantile(&numbers, 0.9).unwrap());
            prop_assert!(numbers[0] <= median && median <= p90 && p90 <= numbers[numbers.len() - 1]);
            let below = numbers.iter().filter(|number| **number <= median).count();
            prop_assert!(2 * below >= numbers.len());
        }
    }
}
