//! What is asked of jobs by hand or by their workers: submit, cancel, report, look up.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backlot_journal::Class as Space;
use backlot_wire::{
    AgentInfo, AgentRegistration, AttemptEvent, Directive, EventsAnswer, Job, JobSpec, RegistrationAnswer,
};
use tokio::sync::MutexGuard;
use tokio_util::sync::CancellationToken;

use super::agents::AgentError;
use super::amend::same_order;
use super::book::Book;
use super::model::{Tracked, split_attempt_id};
use super::record::Entry;
use super::report::{Reported, Weight};
use super::stream::Streams;
use super::table::{Changed, unique_key};
use super::{Jobs, JobsError, store};
use crate::clock::Now;
use crate::control::Record;
use crate::queue::{Action, Decision, QueueError, Queues, SendRequest, Standing};
use crate::tasks::Stage;

/// Room for the record of a change beside what a caller brings along.
pub(super) const CHANGE_BYTES: usize = 64 * 1024;
/// How often numbers that were not journalled at once are.
const WRITE_BEHIND: Duration = Duration::from_secs(3);
const WRITE_BEHIND_AT_ONCE: usize = 256;
/// Attempts over their limit that are ended at once.
const OVER_LIMIT_AT_ONCE: usize = 64;
/// How often scheduled jobs come due and ended ones are let go of.
const TICK: Duration = Duration::from_millis(500);

/// What a decision about one job came to: an answer, or why there was none.
type Decided<T> = Result<(T, Option<Action>), JobsError>;

impl Jobs {
    /// The handle over `book`, which is the overseer of `queues`.
    #[must_use]
    pub fn build(book: Arc<Book>, queues: Queues) -> Self {
        let streams = Streams::new(book.table.lock().news(), book.config.streams_max);
        Self { book, queues, streams }
    }

    /// Starts what runs beside: scheduled jobs come due, light changes are journalled, ended jobs leave memory.
    /// Streams of news end when `doors` is cancelled.
    pub fn start(&self, stage: &Stage, doors: CancellationToken) {
        let _ = self.book.stopping.set(doors);
        if let Some(index) = self.book.index.get() {
            index.start(stage);
        }
        self.start_bulk(stage);
        self.start_webhooks(stage);
        let (jobs, stopping) = (self.clone(), stage.stopping());
        stage.spawn("jobs tick", async move {
            while !stopped_within(&stopping, TICK).await {
                jobs.tick();
                jobs.end_over_limit().await;
                jobs.run_schedules().await;
            }
        });
        stage.spawn("jobs waits", self.clone().run_waits(stage.stopping()));
        let (jobs, stopping) = (self.clone(), stage.stopping());
        stage.spawn("jobs write behind", async move {
            while !stopped_within(&stopping, WRITE_BEHIND).await {
                jobs.write_behind().await;
            }
            jobs.write_behind().await;
        });
    }

    /// Queues a job. The second value is false when the very same job (by its id) was there already.
    ///
    /// # Errors
    /// [`JobsError::Exists`]: another job has the id. [`JobsError::NotAJobQueue`]. [`JobsError::Queue`]: nothing was queued.
    pub async fn submit(
        &self,
        queue: &str,
        spec: JobSpec,
        delay_s: Option<u32>,
        sender_id: &str,
    ) -> Result<(Job, bool), JobsError> {
        spec.check()?;
        if let Some(id) = &spec.job_id
            && let Some(known) = self.find(id)?
        {
            if !same_order(&spec, &known) {
                return Err(JobsError::Exists(id.clone()));
            }
            self.confirm(&known).await?;
            return Ok((known.job(), false));
        }
        let overview = self.queues.overview("");
        match overview.iter().find(|known| known.name == queue) {
            Some(known) if known.is_job_queue => {}
            Some(_) => return Err(JobsError::NotAJobQueue(queue.to_owned())),
            None => return Err(QueueError::NoSuchQueue(queue.to_owned()).into()),
        }
        let unfinished = self.book.table.lock().unfinished();
        if unfinished >= self.book.config.unfinished_max {
            return Err(JobsError::Full(format!("{unfinished} jobs wait already, which is jobs.unfinished_max")));
        }
        let body = serde_json::to_string(&spec).map_err(|error| JobsError::Invalid(error.to_string()))?;
        let request = SendRequest { body, delay_s, sender_id: sender_id.to_owned(), ..SendRequest::default() };
        let sent = match self.queues.send(queue, request).await {
            Ok(sent) => sent,
            Err(QueueError::NotAdmitted(sentence)) => return Err(JobsError::Invalid(sentence)),
            Err(error) => {
                // It was admitted and not stored: the same id may be sent again at once.
                let mut table = self.book.table.lock();
                if let Some(id) = &spec.job_id {
                    table.take_reservation(id);
                }
                table.give_up_key(unique_key(queue, &spec).as_deref());
                drop(table);
                return Err(error.into());
            }
        };
        let filled = JobSpec::parse(&sent.body)?;
        let id = filled.job_id.unwrap_or_default();
        let job = self.find(&id)?.ok_or(JobsError::NoSuchJob(id))?;
        Ok((job.job(), !sent.repeated))
    }

    /// Waits until what is known of a job is durable: a repeated submit promises what the first one does.
    async fn confirm(&self, known: &Tracked) -> Result<(), JobsError> {
        let record = Entry::patch(known, known).encode();
        let bytes = record.payload.len();
        let nothing_new = |_, _| Decision { action: None, records: vec![record], answer: () };
        match self.queues.decide(&known.head.queue, &known.head.message_id, bytes, nothing_new).await {
            Err(QueueError::NoSuchQueue(_)) => Ok(()), // deleting a queue has taken its time
            other => Ok(other?),
        }
    }

    /// Job `id`, from memory or from the history.
    ///
    /// # Errors
    /// [`JobsError::NoSuchJob`]; [`JobsError::Store`] when the catalogue cannot be read.
    pub fn get(&self, id: &str) -> Result<Job, JobsError> {
        self.find(id)?.map(|tracked| tracked.job()).ok_or_else(|| JobsError::NoSuchJob(id.to_owned()))
    }

    /// Asks job `id` to end. A waiting one has ended when this returns; a running one ends when its worker
    /// hears of it, with its next event or heartbeat, or when its lease ends.
    ///
    /// # Errors
    /// [`JobsError::Ended`]: it had ended before and stays as it is.
    pub async fn cancel(&self, id: &str) -> Result<Job, JobsError> {
        self.decide(id, 0, |now, job, _| {
            job.cancel(now).map_err(|status| JobsError::Ended { id: id.to_owned(), status }).map(|action| ((), action))
        })
        .await?;
        self.get(id)
    }

    /// Takes what a worker says of an attempt; no events are a heartbeat, which extends the lease of an agent's attempt.
    /// `bytes` is how long the events were as they arrived.
    ///
    /// # Errors
    /// [`JobsError::NoSuchAttempt`]; [`JobsError::Queue`]: nothing was taken that has to be durable.
    pub async fn report(
        &self,
        attempt_id: &str,
        events: &[AttemptEvent],
        bytes: usize,
    ) -> Result<EventsAnswer, JobsError> {
        let unknown = || JobsError::NoSuchAttempt(attempt_id.to_owned());
        let (id, number) = split_attempt_id(attempt_id).ok_or_else(unknown)?;
        // One report of a job at a time: a second one may not be answered before what it repeats is durable.
        let _turn = self.turn(id).await;
        let mut probe = self.find(id)?.ok_or_else(unknown)?;
        let now = self.book.clock.now();
        let mut room = bytes.saturating_mul(2);
        let probed = {
            let mut table = self.book.table.lock();
            table.load(probe.clone());
            // What was read above may be behind what happened since.
            if let Some(current) = table.get(id) {
                probe = current.clone();
            }
            let spec = Arc::clone(&probe.spec);
            let reported = probe.report(now, number, events, &mut table.chance).ok_or_else(unknown)?;
            if reported.weight <= Weight::Light {
                table.change_lightly(probe.clone());
            }
            // A retry may require more than the job did.
            if probe.spec != spec {
                room += 2 * serde_json::to_vec(&*probe.spec).map_or(0, |json| json.len());
            }
            reported
        };
        let reported = if probed.weight <= Weight::Light {
            probed
        } else {
            self.decide(id, room, |now, job, chance| {
                let reported: Reported = job.report(now, number, events, chance).ok_or_else(unknown)?;
                let action = reported.action;
                Ok((reported, action))
            })
            .await?
        };
        let agent = probe.attempts.iter().rfind(|attempt| attempt.number == number).and_then(|a| a.agent.clone());
        let mut directive = reported.directive;
        if let Some(name) = agent {
            directive.drain = self.heard(now, &name);
            if probe.live().is_some_and(|live| live.number == number) {
                self.extend(now, &probe).await?;
            }
        }
        Ok(EventsAnswer { accepted_seq: reported.accepted_seq, directive })
    }

    /// A heartbeat of an agent: its lease goes on. Not at each one, because it costs a record.
    async fn extend(&self, now: Now, tracked: &Tracked) -> Result<(), JobsError> {
        let lease_s = self.book.config.lease_s;
        let due = self.book.table.lock().extends(now, &tracked.head.id, u64::from(lease_s) * 1_000 / 6);
        if due {
            match self.queues.extend(&tracked.head.queue, &tracked.head.message_id, lease_s).await {
                Ok(_) | Err(QueueError::NoSuchQueue(_) | QueueError::NoSuchMessage { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn heard(&self, now: Now, agent: &str) -> bool {
        let mut agents = self.book.agents.lock();
        agents.seen(now, agent);
        agents.drains(agent)
    }

    /// Takes an agent's registration, which is its heartbeat as well.
    ///
    /// # Errors
    /// [`JobsError::Invalid`] says what is out of bounds; [`JobsError::Full`]: too many agents.
    pub async fn register(&self, name: &str, registration: AgentRegistration) -> Result<RegistrationAnswer, JobsError> {
        let now = self.book.clock.now();
        let (agent, records) =
            self.book.agents.lock().register(now, name, registration).map_err(|error| match error {
                AgentError::Invalid(sentence) => JobsError::Invalid(sentence),
                AgentError::Full => JobsError::Full(error.to_string()),
            })?;
        self.write(records).await?;
        let drain = self.book.agents.lock().drains(name);
        Ok(RegistrationAnswer { agent, directive: Directive { drain, ..Directive::default() } })
    }

    /// Asks an agent to take nothing more, or takes that back.
    ///
    /// # Errors
    /// [`JobsError::NoSuchAgent`].
    pub async fn drain(&self, name: &str, drain: bool) -> Result<AgentInfo, JobsError> {
        let drained = self.book.agents.lock().drain(name, drain);
        let (agent, record) = drained.ok_or_else(|| JobsError::NoSuchAgent(name.to_owned()))?;
        self.write(vec![record]).await?;
        Ok(agent)
    }

    /// Forgets an agent that will not come back, so that nobody waits to hear of it.
    ///
    /// # Errors
    /// [`JobsError::NoSuchAgent`].
    pub async fn forget(&self, name: &str) -> Result<(), JobsError> {
        let forgotten = self.book.agents.lock().forget(name);
        self.write(vec![forgotten.ok_or_else(|| JobsError::NoSuchAgent(name.to_owned()))?]).await
    }

    /// Every registered agent, by name.
    #[must_use]
    pub fn agents(&self) -> Vec<AgentInfo> {
        self.book.agents.lock().all()
    }

    pub(super) fn streams(&self) -> &Streams {
        &self.streams
    }

    pub(super) fn stopping(&self) -> CancellationToken {
        self.book.stopping.get().cloned().unwrap_or_default()
    }

    /// Job `id` in memory or in the history.
    pub(super) fn find(&self, id: &str) -> Result<Option<Tracked>, JobsError> {
        if let Some(tracked) = self.book.table.lock().get(id) {
            return Ok(Some(tracked.clone()));
        }
        Ok(store::read(self.book.catalogue(), id)?)
    }

    /// Changes job `id` under the lock of its queue; what `decide` wants done with the message and the job's record are one
    /// journal group. Where the queue is gone, the record stands alone.
    pub(super) async fn decide<T: Send>(
        &self,
        id: &str,
        bytes: usize,
        decide: impl FnOnce(Now, &mut Tracked, &mut rand_chacha::ChaCha8Rng) -> Decided<T> + Send,
    ) -> Result<T, JobsError> {
        let known = self.find(id)?.ok_or_else(|| JobsError::NoSuchJob(id.to_owned()))?;
        let room = bytes + CHANGE_BYTES;
        let book = self.book.clone();
        book.table.lock().load(known.clone());
        let mut decide = Some(decide);
        let mut change = |now: Now| {
            let mut table = book.table.lock();
            let decide = decide.take();
            let changed = table.change(id, |job, chance| match decide {
                Some(decide) => decide(now, job, chance),
                None => Err(JobsError::Busy("decided twice".into())),
            });
            match changed {
                Some(Changed { answer: Ok((answer, action)), entry }) => {
                    (Ok(answer), action, entry.as_ref().map(Entry::encode))
                }
                Some(Changed { answer: Err(error), entry }) => (Err(error), None, entry.as_ref().map(Entry::encode)),
                None => (Err(JobsError::NoSuchJob(id.to_owned())), None, None),
            }
        };
        let under_lock = |now: Now, _: Option<Standing>| {
            let (answer, action, record) = change(now);
            Decision { action, records: record.into_iter().collect(), answer }
        };
        let decided = self.queues.decide(&known.head.queue, &known.head.message_id, room, under_lock).await;
        match decided {
            Err(QueueError::NoSuchQueue(_)) => {
                let permit = self.book.control.reserve(room, Space::Growing).await?;
                let (answer, _, record) = change(self.book.clock.now());
                if let Some(record) = record {
                    permit.submit(&[record]).acknowledged().await?;
                }
                answer
            }
            other => other?,
        }
    }

    pub(super) async fn write(&self, records: Vec<Record>) -> Result<(), JobsError> {
        if records.is_empty() {
            return Ok(());
        }
        let bytes = records.iter().map(|record| record.payload.len()).sum();
        let permit = self.book.control.reserve(bytes, Space::Growing).await?;
        Ok(permit.submit(&records).acknowledged().await?)
    }

    pub(super) fn turn(&self, id: &str) -> impl Future<Output = MutexGuard<'_, ()>> {
        let hash = id.bytes().fold(0_usize, |hash, byte| hash.wrapping_mul(31).wrapping_add(usize::from(byte)));
        self.book.turns[hash % self.book.turns.len()].lock()
    }

    fn tick(&self) {
        let catalogue = self.book.catalogue();
        let mut table = self.book.table.lock();
        table.queue_due(self.book.clock.now());
        table.forget_ended(self.book.config.recent_max, &|tracked| {
            store::revision(catalogue, &tracked.head.id).is_ok_and(|known| known == Some(tracked.head.revision))
        });
    }

    /// Ends attempts of plain consumers that are over their hard limit.
    async fn end_over_limit(&self) {
        let over = self.book.table.lock().over_limit(self.book.clock.now(), OVER_LIMIT_AT_ONCE);
        let ends = over.iter().map(|(id, number)| {
            let spec_bytes = self
                .find(id)
                .ok()
                .flatten()
                .map_or(0, |job| serde_json::to_vec(&*job.spec).map_or(0, |json| json.len()));
            self.decide(id, 2 * spec_bytes, |now, job, chance| Ok(((), job.over_limit(now, *number, chance))))
        });
        for result in futures::future::join_all(ends).await {
            if let Err(error) = result {
                tracing::warn!(%error, "an attempt over its limit was not ended; it is tried again");
            }
        }
    }

    async fn write_behind(&self) {
        let behind = self.book.table.lock().behind(WRITE_BEHIND_AT_ONCE);
        let writes = behind.iter().map(|id| self.decide(id, 0, |_, _, _| Ok(((), None))));
        for result in futures::future::join_all(writes).await {
            if let Err(error) = result {
                tracing::warn!(%error, "progress of a job was not written; it is tried again");
            }
        }
    }
}

async fn stopped_within(stopping: &CancellationToken, pause: Duration) -> bool {
    tokio::time::timeout(pause, stopping.cancelled()).await.is_ok()
}
