//! Jobs that wait for others: what becomes of them is decided from how the others stand, and from nothing else.
//!
//! Whoever ends a job names those that wait for it to be looked at; besides, all of them are looked at in turn. So no
//! word that got lost and no restart leaves a job waiting for what is there. Deciding twice is deciding once.
//!
//! A job that is let go takes the outputs of those that it waited for as they are at that moment; it does not change when one of
//! them is queued again later.

use std::collections::BTreeSet;
use std::time::Duration;

use backlot_wire::spec::INPUTS_MAX;
use backlot_wire::{Input, JobSpec, JobStatus, On, Output};
use tokio_util::sync::CancellationToken;

use super::model::Tracked;
use super::{Jobs, JobsError, spans};
use crate::clock::Now;

/// The pause between two looks at jobs that nobody has named.
const RECHECK: Duration = Duration::from_secs(5);
/// How many of them are looked at then.
const RECHECKED: usize = 500;
const AT_ONCE: usize = 64;
/// A message can be held for 366 days; a job gives up before.
const WAIT_MS_MAX: u64 = 365 * 86_400_000;
/// Largest specification that a message carries.
const SPEC_BYTES_MAX: usize = 1 << 20;

/// What becomes of a waiting job.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Wait,
    /// It is queued, with these inputs.
    Go(Vec<Input>),
    End(JobStatus, String),
}

/// Decides about a job with this specification. `status` is `None` for a job that does not exist (any more).
pub(super) fn verdict(
    spec: &JobSpec,
    status: &mut dyn FnMut(&str) -> Option<JobStatus>,
    outputs: &mut dyn FnMut(&str) -> Vec<Output>,
) -> Verdict {
    let mut waits = false;
    for (job, on) in spec.waits_for() {
        match (status(job), on) {
            (Some(status), _) if !status.is_final() => waits = true,
            (Some(JobStatus::Succeeded), _) | (_, On::End) => {}
            (Some(JobStatus::Cancelled), _) => {
                return Verdict::End(JobStatus::Cancelled, format!("it waited for `{job}`, which was cancelled"));
            }
            (Some(_), _) => {
                return Verdict::End(JobStatus::Failed, format!("it waited for `{job}`, which has failed"));
            }
            (None, _) => {
                return Verdict::End(
                    JobStatus::Failed,
                    format!("it waited for `{job}`, which does not exist any more"),
                );
            }
        }
    }
    if waits {
        return Verdict::Wait;
    }
    let mut inputs = Vec::with_capacity(spec.inputs.len());
    for input in &spec.inputs {
        let Some(job) = &input.job else {
            inputs.push(input.clone());
            continue;
        };
        let made = outputs(job);
        match input.output {
            None => inputs.extend(made.into_iter().map(|output| Input::artifact(output.uri))),
            Some(index) => match made.get(index) {
                Some(output) => inputs.push(Input::artifact(output.uri.clone())),
                None if input.on == On::End => {}
                None => {
                    let count = made.len();
                    let problem = format!("it asks for output {index} of `{job}`, which has made {count} of them");
                    return Verdict::End(JobStatus::Failed, problem);
                }
            },
        }
    }
    if inputs.len() > INPUTS_MAX {
        let count = inputs.len();
        return Verdict::End(
            JobStatus::Failed,
            format!("what it waited for has made {count} inputs; it takes {INPUTS_MAX}"),
        );
    }
    Verdict::Go(inputs)
}

impl Jobs {
    /// Looks at waiting jobs, and at flows, whenever something has changed, and at some of them all the time.
    pub(super) async fn run_waits(self, stopping: CancellationToken) {
        let changed = self.book.table.lock().changed();
        let (mut walked, mut walked_flows): (Option<String>, Option<String>) = (None, None);
        let mut recheck = tokio::time::interval(RECHECK);
        recheck.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = changed.notified() => {}
                // The first tick comes at once: a crash may have left something to do.
                _ = recheck.tick() => {
                    walked = self.book.table.lock().check_some(walked.as_deref(), RECHECKED);
                    walked_flows = self.touch_some_flows(walked_flows.as_deref(), RECHECKED / 10);
                }
            }
            self.settle_waits().await;
            self.settle_flows().await;
        }
    }

    /// Decides about each waiting job that is to be looked at.
    pub(super) async fn settle_waits(&self) {
        loop {
            let ids = self.book.table.lock().take_checks(AT_ONCE);
            if ids.is_empty() {
                return;
            }
            for result in futures::future::join_all(ids.iter().map(|id| self.settle_wait(id))).await {
                if let Err(error) = result {
                    tracing::warn!(%error, "a job that waits for others was not settled; it is tried again");
                }
            }
        }
    }

    async fn settle_wait(&self, id: &str) -> Result<(), JobsError> {
        let waits = |tracked: &Tracked| tracked.head.status == JobStatus::Waiting;
        let Some(tracked) = self.find(id)?.filter(waits) else { return Ok(()) };
        let mut unreadable = None;
        let verdict = {
            let mut found = |job: &str| {
                self.find(job).unwrap_or_else(|error| {
                    unreadable = Some(error);
                    None
                })
            };
            let mut status = |job: &str| {
                let known = self.book.table.lock().get(job).map(|tracked| tracked.head.status);
                known.or_else(|| found(job).map(|tracked| tracked.head.status))
            };
            let mut outputs =
                |job: &str| self.find(job).ok().flatten().map_or_else(Vec::new, |tracked| tracked.outputs);
            verdict(&tracked.spec, &mut status, &mut outputs)
        };
        if let Some(error) = unreadable {
            return Err(error);
        }
        let now = self.book.clock.now();
        self.apply(now, &tracked, verdict).await
    }

    async fn apply(&self, now: Now, tracked: &Tracked, verdict: Verdict) -> Result<(), JobsError> {
        let verdict = match verdict {
            Verdict::Wait if now.wall_ms.saturating_sub(tracked.head.waiting_since.unix_ms()) < WAIT_MS_MAX => {
                return Ok(());
            }
            Verdict::Wait => Verdict::End(JobStatus::Failed, "it has waited for other jobs for a year".to_owned()),
            Verdict::Go(inputs) => {
                let spec = JobSpec { inputs, ..JobSpec::clone(&tracked.spec) };
                let bytes = serde_json::to_vec(&spec).map_or(usize::MAX, |json| json.len());
                if bytes <= SPEC_BYTES_MAX {
                    let gone = self
                        .decide(&tracked.head.id, 2 * bytes, |now, job, _| {
                            let waits = job.head.status == JobStatus::Waiting;
                            let action = waits.then(|| {
                                job.amend(spec);
                                job.let_go(now)
                            });
                            Ok((waits, action))
                        })
                        .await?;
                    if gone {
                        self.tell_wait(tracked, now)?;
                    }
                    return Ok(());
                }
                Verdict::End(JobStatus::Failed, "with its inputs it is larger than the 1 MiB of a message".to_owned())
            }
            end @ Verdict::End(..) => end,
        };
        let Verdict::End(status, message) = verdict else { return Ok(()) };
        self.decide(&tracked.head.id, 0, |now, job, _| {
            let waits = job.head.status == JobStatus::Waiting;
            Ok(((), waits.then(|| job.lost_hope(now, status, &message))))
        })
        .await
    }

    /// The wait of a job that was let go, in its trace.
    fn tell_wait(&self, tracked: &Tracked, now: Now) -> Result<(), JobsError> {
        let jobs: BTreeSet<_> = tracked.spec.waits_for().map(|(job, _)| job).collect();
        let mut links = Vec::new();
        for job in jobs.into_iter().take(spans::LINKS_MAX) {
            links.extend(self.find(job)?.as_ref().and_then(spans::link_to));
        }
        spans::waited(tracked, links, now.timestamp());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(json: &str) -> JobSpec {
        JobSpec::parse(json).unwrap()
    }

    fn made(job: &str, count: usize) -> Vec<Output> {
        (0..count).map(|n| Output { uri: format!("s3://abc/{job}/{n}"), ..Output::default() }).collect()
    }

    fn judge(spec: &JobSpec, jobs: &[(&str, JobStatus, usize)]) -> Verdict {
        let find = |id: &str| jobs.iter().find(|(job, ..)| *job == id);
        verdict(spec, &mut |id| find(id).map(|(_, status, _)| *status), &mut |id| {
            find(id).map_or_else(Vec::new, |(job, _, count)| made(job, *count))
        })
    }

    fn uris(verdict: &Verdict) -> Vec<&str> {
        match verdict {
            Verdict::Go(inputs) => inputs.iter().map(|input| input.uri.as_str()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn results_become_inputs_in_the_order_in_which_they_were_asked_for() {
        let clip = spec(
            r#"{"type":"x","inputs":[{"job":"b","output":1},{"uri":"s3://abc/sound"},{"job":"a"}],"after":["c"]}"#,
        );
        use JobStatus::{Queued, Running, Succeeded};
        assert_eq!(judge(&clip, &[("a", Running, 0), ("b", Succeeded, 2), ("c", Succeeded, 0)]), Verdict::Wait);
        assert_eq!(judge(&clip, &[("a", Succeeded, 2), ("b", Succeeded, 2), ("c", Queued, 0)]), Verdict::Wait);
        let go = judge(&clip, &[("a", Succeeded, 2), ("b", Succeeded, 2), ("c", Succeeded, 0)]);
        assert_eq!(uris(&go), ["s3://abc/b/1", "s3://abc/sound", "s3://abc/a/0", "s3://abc/a/1"]);
        let few = judge(&clip, &[("a", Succeeded, 2), ("b", Succeeded, 1), ("c", Succeeded, 0)]);
        assert!(matches!(few, Verdict::End(JobStatus::Failed, problem) if problem.contains("output 1 of `b`")));
    }

    #[test]
    fn what_was_not_made_is_left_out_where_only_the_end_is_waited_for() {
        let any = spec(r#"{"type":"x","inputs":[{"job":"a","output":0,"on":"end"},{"job":"b","on":"end"}]}"#);
        let go = judge(&any, &[("a", JobStatus::Failed, 0), ("b", JobStatus::Succeeded, 1)]);
        assert_eq!(uris(&go), ["s3://abc/b/0"]);
        assert_eq!(uris(&judge(&any, &[])), Vec::<&str>::new());
    }

    proptest! {
        /// A failure is told at once, whatever else is still under way; otherwise the slowest decides.
        #[test]
        fn a_job_goes_when_all_have_ended_well_and_ends_as_soon_as_one_has_not(
            jobs in proptest::collection::vec((0..7_u8, any::<bool>()), 0..6),
        ) {
            let all = [
                JobStatus::Scheduled, JobStatus::Waiting, JobStatus::Queued, JobStatus::Running, JobStatus::Succeeded,
                JobStatus::Failed, JobStatus::Cancelled,
            ];
            let names: Vec<String> = (0..jobs.len()).map(|n| format!("j{n}")).collect();
            let known: Vec<_> =
                names.iter().zip(&jobs).map(|(name, (status, _))| (name.as_str(), all[usize::from(*status)], 0)).collect();
            let after: Vec<_> = names.iter().zip(&jobs)
                .map(|(name, (_, end))| serde_json::json!({"job": name, "on": if *end { "end" } else { "success" }}))
                .collect();
            let spec = spec(&serde_json::json!({"type": "x", "after": after}).to_string());
            let bad = known.iter().zip(&jobs)
                .any(|((_, status, _), (_, end))| !end && matches!(status, JobStatus::Failed | JobStatus::Cancelled));
            let open = known.iter().any(|(_, status, _)| !status.is_final());
            match judge(&spec, &known) {
                Verdict::End(..) => prop_assert!(bad),
                Verdict::Wait => prop_assert!(open && !bad),
                Verdict::Go(_) => prop_assert!(!open && !bad),
            }
        }
    }
}
