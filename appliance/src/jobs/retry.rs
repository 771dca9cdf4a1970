//! Queueing an ended job again by hand, as it was or with other requirements and parameters.

use backlot_wire::{Job, JobSpec, JobStatus};
use serde_json::{Map, Value};

use super::amend::changed;
use super::desk::CHANGE_BYTES;
use super::model::Tracked;
use super::{Jobs, JobsError};
use crate::clock::Now;
use crate::queue::{Action, Decision, QueueError, SendRequest, Standing};

impl Jobs {
    /// Queues a failed or cancelled job again: the same job, with its attempts kept and its failures forgotten. `changes`
    /// are laid over its specification first.
    ///
    /// # Errors
    /// [`JobsError::NotRetryable`]; [`JobsError::Invalid`] where `changes` say what cannot be.
    pub async fn retry(&self, id: &str, changes: Option<&Map<String, Value>>) -> Result<Job, JobsError> {
        let known = self.find(id)?.ok_or_else(|| JobsError::NoSuchJob(id.to_owned()))?;
        retryable(&known)?;
        let spec = match changes {
            Some(changes) => changed(&known.spec, changes).map_err(JobsError::Invalid)?,
            None => JobSpec::clone(&known.spec),
        };
        let body = serde_json::to_string(&spec).map_err(|error| JobsError::Invalid(error.to_string()))?;
        let overview = self.queues.overview("");
        let dlq_now = || overview.iter().find(|queue| queue.name == known.head.queue)?.dlq.clone();
        if let Some(dlq) = known.head.dlq.clone().or_else(dlq_now)
            && self.return_from(&dlq, &known, &spec, body.len()).await?
        {
            return self.get(id);
        }
        {
            let mut table = self.book.table.lock();
            if !table.reserve(self.book.clock.now(), id, None, true) {
                return Err(JobsError::Busy(format!("job `{id}` is being queued by another call")));
            }
            table.load(known.clone());
        }
        let request = SendRequest { body, ..SendRequest::default() };
        let sent = self.queues.send(&known.head.queue, request).await;
        self.book.table.lock().take_reservation(id);
        sent?;
        self.get(id)
    }

    /// Moves the message of a failed job back from its dead-letter queue. False: it is not there any more.
    pub(super) async fn return_from(
        &self,
        dlq: &str,
        known: &Tracked,
        spec: &JobSpec,
        bytes: usize,
    ) -> Result<bool, JobsError> {
        let (book, id, spec) = (self.book.clone(), known.head.id.clone(), spec.clone());
        let message_id = known.head.message_id.clone();
        book.table.lock().load(known.clone());
        let decide = move |now: Now, standing: Option<Standing>| {
            let mut table = book.table.lock();
            let there = standing.is_some()
                && table.get(&id).is_some_and(|job| job.head.message_id == message_id && retryable(job).is_ok());
            if !there {
                return Decision { action: None, records: Vec::new(), answer: false };
            }
            let message_id = message_id.clone();
            let changed = table.change(&id, |job, _| {
                job.amend(spec);
                job.sent_again(now, &message_id, 0);
            });
            let records = changed.and_then(|changed| changed.entry).map(|entry| entry.encode());
            Decision { action: Some(Action::Return), records: records.into_iter().collect(), answer: true }
        };
        match self.queues.decide(dlq, &known.head.message_id, CHANGE_BYTES + 2 * bytes, decide).await {
            Err(QueueError::NoSuchQueue(_)) => Ok(false),
            other => Ok(other?),
        }
    }
}

fn retryable(tracked: &Tracked) -> Result<(), JobsError> {
    match tracked.head.status {
        JobStatus::Failed | JobStatus::Cancelled => Ok(()),
        status => Err(JobsError::NotRetryable { id: tracked.head.id.clone(), status }),
    }
}
