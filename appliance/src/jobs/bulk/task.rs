//! A bulk action and how far it is. Plain data; it says the same in the API and in the settings.

use backlot_wire::{JobStatus, Timestamp};
use serde::{Deserialize, Serialize};

use super::super::JobsError;
use super::super::model::cut;
use crate::clock::Now;

/// Errors that are kept as examples.
const PROBLEMS_MAX: usize = 5;
const PROBLEM_BYTES_MAX: usize = 160;

/// What is done to each job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Cancel,
    /// Queue failed and cancelled jobs again.
    Retry,
    /// Queue those failed jobs again whose message lies on a dead-letter queue.
    Redrive,
}

impl Action {
    /// The states in which it can be taken.
    pub(super) fn statuses(self) -> &'static [JobStatus] {
        match self {
            Self::Cancel => &[JobStatus::Scheduled, JobStatus::Waiting, JobStatus::Queued, JobStatus::Running],
            Self::Retry => &[JobStatus::Failed, JobStatus::Cancelled],
            Self::Redrive => &[JobStatus::Failed],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskStatus {
    Running,
    Done,
    /// By hand.
    Stopped,
    /// The jobs could not be found any more; `problems` says why.
    Failed,
}

impl TaskStatus {
    pub(super) fn is_final(self) -> bool {
        self != Self::Running
    }
}

/// One bulk action.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub id: String,
    pub action: Action,
    pub query: String,
    pub rate_per_s: u32,
    /// Key of who asked for it.
    pub by: String,
    pub status: TaskStatus,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Jobs that were found at its beginning.
    pub matched: u64,
    /// Jobs that the action was taken on.
    pub done: u64,
    /// Jobs that had changed meanwhile, so that it could not be taken.
    pub skipped: u64,
    pub failed: u64,
    /// Some of the reasons.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The last job that was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) position: Option<(i64, u64)>,
}

impl Task {
    pub(super) fn new(
        id: String,
        action: Action,
        query: &str,
        rate_per_s: u32,
        now: Now,
        matched: u64,
        by: &str,
    ) -> Self {
        Self {
            id,
            action,
            query: query.to_owned(),
            rate_per_s,
            by: by.to_owned(),
            status: TaskStatus::Running,
            created_at: now.timestamp(),
            updated_at: now.timestamp(),
            ended_at: None,
            matched,
            done: 0,
            skipped: 0,
            failed: 0,
            problems: Vec::new(),
            position: None,
        }
    }

    /// Counts what came of one job.
    pub(super) fn count(&mut self, id: &str, result: Result<(), JobsError>) {
        match result {
            Ok(()) => self.done += 1,
            Err(
                JobsError::Ended { .. } | JobsError::NotRetryable { .. } | JobsError::NoSuchJob(_) | JobsError::Busy(_),
            ) => self.skipped += 1,
            Err(error) => {
                self.failed += 1;
                self.problem(&format!("{id}: {error}"));
            }
        }
    }

    pub(super) fn problem(&mut self, problem: &str) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(cut(problem, PROBLEM_BYTES_MAX));
        }
    }

    pub(super) fn end(&mut self, now: Now, status: TaskStatus) {
        if !self.status.is_final() {
            self.status = status;
            self.ended_at = Some(now.timestamp());
            self.updated_at = now.timestamp();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now { mono_ms: 0, wall_ms: 1_000 };

    #[test]
    fn a_task_with_the_longest_query_and_all_its_problems_can_be_kept() {
        let mut task =
            Task::new("i".repeat(36), Action::Redrive, &"q".repeat(2_000), 100, NOW, u64::MAX, "BLKXXXXXXXXXXXXXXXXX");
        for n in 0..20 {
            task.count("job", Err(JobsError::Invalid(format!("{n} {}", "ä".repeat(1_000)))));
        }
        task.position = Some((i64::MAX, u64::MAX));
        task.end(NOW, TaskStatus::Done);
        assert!(super::super::settings::record("bulk/x", Some(&task)).is_ok());
        assert_eq!((task.failed, task.problems.len()), (20, PROBLEMS_MAX));
    }

    #[test]
    fn a_job_that_has_changed_meanwhile_is_passed_over() {
        let mut task = Task::new("t".into(), Action::Cancel, "*", 1, NOW, 2, "k");
        task.count("a", Ok(()));
        task.count("b", Err(JobsError::Ended { id: "b".into(), status: JobStatus::Succeeded }));
        assert_eq!((task.done, task.skipped, task.failed), (1, 1, 0));
        task.end(NOW, TaskStatus::Stopped);
        task.end(NOW, TaskStatus::Done);
        assert_eq!(task.status, TaskStatus::Stopped);
    }
}
