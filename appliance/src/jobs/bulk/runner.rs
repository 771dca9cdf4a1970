//! Carries bulk actions out, one after the other.

use std::time::Duration;

use backlot_windows::Position;
use futures::StreamExt;

use super::super::{Jobs, JobsError};
use super::stored;
use super::task::{Action, Task, TaskStatus};
use crate::clock::Now;
use crate::tasks::Stage;

/// Jobs found at once.
const PAGE: usize = 100;
/// Actions under way at once: each waits for the disk.
const AT_ONCE: usize = 16;
/// How often a task's progress is made durable.
const WRITTEN_EVERY_MS: u64 = 2_000;
/// Pause after a search that failed; so many in a row fail the task.
const RETRY_AFTER: Duration = Duration::from_secs(2);
const TRIES: u32 = 30;

impl Jobs {
    /// Starts carrying out bulk actions, those of earlier runs first.
    pub(in crate::jobs) fn start_bulk(&self, stage: &Stage) {
        let (jobs, stop) = (self.clone(), stage.stopping());
        stage.spawn("jobs bulk", async move {
            loop {
                let Some(task) = jobs.next_task() else {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = jobs.book.bulk.wake.notified() => {}
                    }
                    continue;
                };
                let id = task.id.clone();
                tokio::select! {
                    () = stop.cancelled() => {
                        // What is under way may be done or not; doing it again does nothing.
                        let _ = jobs.write_task(&id).await;
                        return;
                    }
                    () = jobs.carry_out(task) => {}
                }
            }
        });
    }

    /// The oldest task that has not ended.
    fn next_task(&self) -> Option<Task> {
        let tasks = self.book.bulk.tasks.lock();
        let open = tasks.values().filter(|task| !task.status.is_final());
        open.min_by_key(|task| (task.created_at, task.id.clone())).cloned()
    }

    async fn carry_out(&self, task: Task) {
        let began = Now { mono_ms: 0, wall_ms: task.created_at.unix_ms() };
        let id = task.id.clone();
        tracing::info!(task = id, action = ?task.action, query = task.query, matched = task.matched, "bulk action runs");
        let asked = match self.asked_of(task.action, &task.query, began) {
            Ok(asked) => asked,
            Err(error) => return self.ended(&id, TaskStatus::Failed, Some(&error.to_string())).await,
        };
        let (mut failures, mut written_ms) = (0, self.book.clock.now().mono_ms);
        loop {
            let Some(after) =
                self.update(&id, |task| (task.status == TaskStatus::Running).then_some(task.position)).flatten()
            else {
                return; // stopped by hand
            };
            let after = after.map(|(time_ns, seq)| Position { time_ns, seq });
            if let Some(index) = self.book.index.get() {
                index.caught_up().await;
            }
            let (page, more) = match self.found(asked.clone(), after, PAGE).await {
                Ok(found) => found,
                Err(error) if failures >= TRIES => {
                    return self.ended(&id, TaskStatus::Failed, Some(&error.to_string())).await;
                }
                Err(_) => {
                    failures += 1;
                    tokio::time::sleep(RETRY_AFTER).await;
                    continue;
                }
            };
            failures = 0;
            // A piece of a quarter of a second, so that the rate is kept and a stop is heard.
            let piece = (task.rate_per_s / 4).max(1) as usize;
            for jobs in page.chunks(piece) {
                if self.update(&id, |task| task.status == TaskStatus::Running) != Some(true) {
                    return;
                }
                let began_ms = self.book.clock.now().mono_ms;
                self.act(&id, task.action, jobs).await;
                let now = self.book.clock.now();
                let due_ms = began_ms + jobs.len() as u64 * 1_000 / u64::from(task.rate_per_s.max(1));
                if now.mono_ms.saturating_sub(written_ms) >= WRITTEN_EVERY_MS {
                    written_ms = now.mono_ms;
                    if let Err(error) = self.write_task(&id).await {
                        tracing::warn!(task = id, %error, "progress of a bulk action was not written");
                    }
                }
                tokio::time::sleep(Duration::from_millis(due_ms.saturating_sub(now.mono_ms))).await;
            }
            if !more {
                return self.ended(&id, TaskStatus::Done, None).await;
            }
        }
    }

    /// Takes the action on some jobs, and notes the last of them.
    async fn act(&self, id: &str, action: Action, jobs: &[(String, Position)]) {
        let act = |(job, _): &(String, Position)| {
            let (jobs, job) = (self.clone(), job.clone());
            async move {
                let result = match action {
                    Action::Cancel => jobs.cancel(&job).await.map(drop),
                    Action::Retry => jobs.retry(&job, None).await.map(drop),
                    Action::Redrive => jobs.redrive(&job).await,
                };
                (job, result)
            }
        };
        let results: Vec<(String, Result<(), JobsError>)> =
            futures::stream::iter(jobs.iter().map(act)).buffer_unordered(AT_ONCE).collect().await;
        let now = self.book.clock.now();
        self.update(id, |task| {
            for (job, result) in results {
                task.count(&job, result);
            }
            task.position = jobs.last().map(|(_, position)| stored(*position)).or(task.position);
            task.updated_at = now.timestamp();
        });
    }

    /// Moves the message of a failed job back from the dead-letter queue of its queue.
    async fn redrive(&self, id: &str) -> Result<(), JobsError> {
        let known = self.find(id)?.ok_or_else(|| JobsError::NoSuchJob(id.to_owned()))?;
        let not_there = || JobsError::NotDeadLettered(id.to_owned());
        let of_queue = || self.dead_letter_queues().remove(&known.head.queue);
        let dlq = known.head.dlq.clone().or_else(of_queue).ok_or_else(not_there)?;
        let bytes = serde_json::to_vec(&*known.spec).map_or(0, |body| body.len());
        if self.return_from(&dlq, &known, &known.spec, bytes).await? { Ok(()) } else { Err(not_there()) }
    }

    async fn ended(&self, id: &str, status: TaskStatus, problem: Option<&str>) {
        let now = self.book.clock.now();
        self.update(id, |task| {
            if let Some(problem) = problem {
                task.problem(problem);
            }
            task.end(now, status);
            tracing::info!(
                task = task.id,
                ?status,
                done = task.done,
                skipped = task.skipped,
                failed = task.failed,
                "bulk action ended"
            );
        });
        while let Err(error) = self.write_task(id).await {
            tracing::warn!(task = id, %error, "the end of a bulk action was not written; it is tried again");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    fn update<T>(&self, id: &str, change: impl FnOnce(&mut Task) -> T) -> Option<T> {
        self.book.bulk.tasks.lock().get_mut(id).map(change)
    }
}
