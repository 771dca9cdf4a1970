//! One action on all jobs that a query finds: cancel, retry, redrive.
//!
//! A dry run counts. The real one runs in the background, newest jobs first, at a bounded rate; how far it is stands in the settings every
//! few seconds, so that a restart goes on where it was. What it does to a job twice does nothing the second time: a job that is cancelled
//! already is passed over.
//!
//! It looks at the jobs that there were when it began: moments of the query are those of its beginning, and a job that is created
//! later is left alone. One runs at a time, the others wait.

mod runner;
mod task;

use std::collections::BTreeMap;

use backlot_windows::{Position, Query};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Notify;

pub(super) use self::task::Task;
pub use self::task::{Action, TaskStatus};
use super::search::{Asked, parse};
use super::{Jobs, JobsError, settings};
use crate::catalogue::{Catalogue, CatalogueError};
use crate::clock::Now;

/// Where the tasks stand among the settings.
const PREFIX: &str = "bulk/";
/// Tasks that are kept; the oldest that have ended go first.
const TASKS_MAX: usize = 100;
/// Tasks that have not ended.
const UNFINISHED_MAX: usize = 10;
const RATE_DEFAULT: u32 = 100;
const RATE_MAX: u32 = 1_000;
const QUERY_BYTES_MAX: usize = 2_000;
/// Jobs of a dry run's sample.
const SAMPLE: usize = 10;

/// What is asked for.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Order {
    pub action: Action,
    /// In the query language; an empty one is refused, `*` is all.
    pub query: String,
    #[serde(default)]
    pub dry_run: bool,
    /// Jobs a second.
    #[serde(default)]
    pub rate_per_s: Option<u32>,
}

/// What a dry run says.
#[derive(Clone, Debug, Serialize)]
pub struct DryRun {
    pub action: Action,
    pub query: String,
    pub dry_run: bool,
    /// Jobs that the action would be taken on.
    pub matched: u64,
    /// Some of them, newest first.
    pub sample: Vec<Value>,
}

/// The tasks.
#[derive(Default)]
pub(super) struct Bulk {
    tasks: Mutex<BTreeMap<String, Task>>,
    wake: Notify,
    /// One record of a task at a time, so that the newest is the last.
    writing: tokio::sync::Mutex<()>,
}

impl Bulk {
    /// Takes the tasks of earlier runs; those that had not ended go on.
    pub(super) fn load(&self, catalogue: &Catalogue) -> Result<(), CatalogueError> {
        self.tasks.lock().extend(settings::load::<Task>(catalogue, PREFIX)?);
        Ok(())
    }
}

impl Jobs {
    /// The jobs that `action` can be taken on, among those that the query finds; those created up to `now`.
    fn asked_of(&self, action: Action, query: &str, now: Now) -> Result<Asked, JobsError> {
        let mut asked = parse(query, now).map_err(|error| JobsError::Query {
            text: query.to_owned(),
            at: error.at,
            problem: error.to_string(),
        })?;
        let statuses = action.statuses().iter().map(|status| Query::keyword("status", status.as_str())).collect();
        let mut all = vec![Query::Or(statuses), asked.query];
        if action == Action::Redrive {
            let queues = self.dead_letter_queues().into_keys();
            all.push(Query::Or(queues.map(|queue| Query::keyword("queue", &queue)).collect()));
        }
        asked.query = Query::And(all);
        asked.to_ns = asked.to_ns.min(i64::try_from(now.wall_ms).unwrap_or(i64::MAX).saturating_mul(1_000_000));
        Ok(asked)
    }

    /// The queues that have a dead-letter queue, with its name.
    fn dead_letter_queues(&self) -> BTreeMap<String, String> {
        let overview = self.queues.overview("");
        overview.into_iter().filter_map(|queue| Some((queue.name, queue.dlq?))).collect()
    }

    /// Counts the jobs that an action would be taken on.
    ///
    /// # Errors
    /// [`JobsError::Query`] points at the character; [`JobsError::Search`].
    pub async fn bulk_dry_run(&self, order: &Order) -> Result<DryRun, JobsError> {
        check(order)?;
        let asked = self.asked_of(order.action, &order.query, self.book.clock.now())?;
        let matched = self.count_found(asked.clone()).await?;
        let (found, _) = self.found(asked, None, SAMPLE).await?;
        let mut sample = Vec::new();
        for (id, _) in found {
            if let Some(tracked) = self.find(&id)? {
                let error = tracked.error.as_ref().map(|error| super::model::cut(&error.message, 200));
                sample.push(json!({
                    "id": id, "status": tracked.head.status, "type": tracked.spec.kind, "user": tracked.spec.user_id,
                    "project": tracked.spec.project_id, "created_at": tracked.head.created_at, "error": error,
                }));
            }
        }
        Ok(DryRun { action: order.action, query: order.query.clone(), dry_run: true, matched, sample })
    }

    /// Begins an action on all jobs that a query finds. It is durable when this returns, and goes on in the background.
    ///
    /// # Errors
    /// As [`Jobs::bulk_dry_run`]; [`JobsError::Full`]: too many have not ended.
    pub async fn bulk(&self, order: &Order, by: &str) -> Result<Task, JobsError> {
        check(order)?;
        let now = self.book.clock.now();
        let asked = self.asked_of(order.action, &order.query, now)?;
        let matched = self.count_found(asked).await?;
        let id = uuid::Uuid::now_v7().to_string();
        let rate = order.rate_per_s.unwrap_or(RATE_DEFAULT);
        let task = Task::new(id.clone(), order.action, &order.query, rate, now, matched, by);
        let gone = {
            let mut tasks = self.book.bulk.tasks.lock();
            if tasks.values().filter(|task| !task.status.is_final()).count() >= UNFINISHED_MAX {
                return Err(JobsError::Full(format!(
                    "{UNFINISHED_MAX} bulk actions have not ended; wait, or stop one"
                )));
            }
            tasks.insert(id.clone(), task.clone());
            let ended = tasks.values().filter(|task| task.status.is_final());
            let oldest = ended.min_by_key(|task| task.created_at).map(|task| task.id.clone());
            oldest.filter(|_| tasks.len() > TASKS_MAX).inspect(|id| drop(tasks.remove(id)))
        };
        if let Err(error) = self.write_task(&id).await {
            self.book.bulk.tasks.lock().remove(&id);
            return Err(error);
        }
        if let Some(gone) = gone {
            self.write_task(&gone).await?;
        }
        self.book.bulk.wake.notify_one();
        Ok(task)
    }

    /// All tasks that are kept, newest first.
    #[must_use]
    pub fn bulk_tasks(&self) -> Vec<Task> {
        let mut tasks: Vec<Task> = self.book.bulk.tasks.lock().values().cloned().collect();
        tasks.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| b.id.cmp(&a.id)));
        tasks
    }

    /// # Errors
    /// [`JobsError::NoSuchTask`].
    pub fn bulk_task(&self, id: &str) -> Result<Task, JobsError> {
        self.book.bulk.tasks.lock().get(id).cloned().ok_or_else(|| JobsError::NoSuchTask(id.to_owned()))
    }

    /// Ends a task; what it has done stays done. One that has ended stays as it is.
    ///
    /// # Errors
    /// [`JobsError::NoSuchTask`].
    pub async fn bulk_stop(&self, id: &str) -> Result<Task, JobsError> {
        let now = self.book.clock.now();
        {
            let mut tasks = self.book.bulk.tasks.lock();
            let task = tasks.get_mut(id).ok_or_else(|| JobsError::NoSuchTask(id.to_owned()))?;
            task.end(now, TaskStatus::Stopped);
        }
        self.write_task(id).await?;
        self.bulk_task(id)
    }

    /// Makes durable how a task stands now, or that it is gone.
    async fn write_task(&self, id: &str) -> Result<(), JobsError> {
        let _one = self.book.bulk.writing.lock().await;
        let task = self.book.bulk.tasks.lock().get(id).cloned();
        let record = settings::record(&format!("{PREFIX}{id}"), task.as_ref()).map_err(JobsError::Invalid)?;
        let permit = self.book.control.reserve(record.payload.len(), backlot_journal::Class::Growing).await?;
        Ok(permit.submit(&[record]).acknowledged().await?)
    }
}

fn check(order: &Order) -> Result<(), JobsError> {
    if order.query.trim().is_empty() {
        return Err(JobsError::Invalid("`query` is empty; `*` stands for every job".into()));
    }
    if order.query.len() > QUERY_BYTES_MAX {
        return Err(JobsError::Invalid(format!("`query` is longer than {QUERY_BYTES_MAX} bytes")));
    }
    match order.rate_per_s {
        Some(rate) if rate == 0 || rate > RATE_MAX => {
            Err(JobsError::Invalid(format!("`rate_per_s` is 1 to {RATE_MAX}")))
        }
        _ => Ok(()),
    }
}

/// A position as the settings keep it.
fn stored(position: Position) -> (i64, u64) {
    (position.time_ns, position.seq)
}
