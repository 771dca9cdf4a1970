//! Flows: named jobs, some of which wait for others, made, shown and cancelled as one.
//!
//! A flow is one record, durable before its order is answered; its jobs are made from that record, each with an id that
//! follows from it. Whatever is to be done next follows from the record and from how the jobs stand, and doing it twice
//! is doing it once: [`Jobs::settle_flow`] needs no message to be right, only somebody who calls it.
//!
//! Absent on purpose: who waits for whom is not decided here. Each job carries what it waits for and is let go by itself;
//! a flow only makes jobs, cancels them, and knows when all have ended.

pub(super) mod api;
mod plan;
pub(super) mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use backlot_wire::{After, Flow, FlowJob, FlowOrder, FlowStatus, JobSpec, JobStatus, OnFailure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use self::plan::{Plan, is_short_name, job_id};
use self::record::Stored;
use super::model::Tracked;
use super::{Jobs, JobsError, store};
use crate::clock::Now;

/// Most flows that have not ended.
const OPEN_MAX: usize = 20_000;
/// Jobs of a flow that are made or cancelled at once.
const AT_ONCE: usize = 100;
/// Most flows of one page.
const PAGE_MAX: usize = 200;

/// A job in its flow: what of it the flow knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Member {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
}

/// The flows that have not ended.
#[derive(Default)]
pub(super) struct Open {
    flows: BTreeMap<String, Stored>,
}

/// What is to be done about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// Its jobs go on.
    Wait,
    /// Whatever has not ended is to.
    CancelRest,
    End(FlowStatus),
}

/// Decides from how the jobs stand.
fn course(flow: &Stored, statuses: &[JobStatus]) -> Course {
    let any = |status| statuses.contains(&status);
    if statuses.iter().all(|status| status.is_final()) {
        return Course::End(if flow.error.is_some() || any(JobStatus::Failed) {
            FlowStatus::Failed
        } else if any(JobStatus::Cancelled) {
            FlowStatus::Cancelled
        } else {
            FlowStatus::Succeeded
        });
    }
    // A flow whose job was queued again by hand has had its end: it is not cancelled once more for what failed before.
    let by_failure = flow.on_failure == OnFailure::Cancel && any(JobStatus::Failed) && !flow.had_ended;
    if flow.cancel_requested || by_failure || flow.error.is_some() { Course::CancelRest } else { Course::Wait }
}

impl Jobs {
    /// Begins a flow. The second value is false when the very same flow (by its id) was there already.
    ///
    /// # Errors
    /// [`JobsError::Invalid`] names the job that cannot be; [`JobsError::Exists`]: another flow has the id.
    pub async fn begin_flow(&self, order: &FlowOrder, sender_id: &str) -> Result<(Flow, bool), JobsError> {
        let id = order.flow_id.clone().unwrap_or_else(|| self.new_flow_id());
        if !is_short_name(&id) {
            return Err(JobsError::Invalid("`flow_id` is 1 to 63 letters, digits, `.`, `_`, `-`".into()));
        }
        let digest = digest_of(order)?;
        if let Some(known) = self.find_flow(&id)? {
            if known.digest != digest {
                return Err(JobsError::Exists(id));
            }
            self.revise_flow(&id, |_| {}).await?; // its record may still be on its way
            return Ok((self.show_flow(&known)?, false));
        }
        let Plan { members, specs } = plan::plan(&id, order).map_err(JobsError::Invalid)?;
        let queue = order.queue.clone().unwrap_or_else(|| "jobs".to_owned());
        if !self.queues.is_job_queue(&queue)? {
            return Err(JobsError::NotAJobQueue(queue));
        }
        let unfinished = self.book.table.lock().unfinished();
        if unfinished + specs.len() > self.book.config.unfinished_max {
            return Err(JobsError::Full(format!(
                "{unfinished} jobs wait already; with this flow there would be more than jobs.unfinished_max"
            )));
        }
        let flow = Stored {
            id: id.clone(),
            revision: 1,
            digest,
            name: order.name.clone(),
            queue,
            on_failure: order.on_failure,
            created_at: self.book.clock.now().timestamp(),
            ended_at: None,
            status: FlowStatus::Running,
            cancel_requested: false,
            had_ended: false,
            error: None,
            counts: BTreeMap::new(),
            sender_id: sender_id.to_owned(),
            members,
            to_make: specs,
        };
        let record = flow.encode();
        let permit = self.book.control.reserve(record.payload.len(), backlot_journal::Class::Growing).await?;
        let commit = {
            let mut open = self.book.flows.lock();
            if open.flows.contains_key(&id) {
                return Err(JobsError::Busy(format!("flow `{id}` is being made by another call")));
            }
            if open.flows.len() >= OPEN_MAX {
                return Err(JobsError::Full(format!("{OPEN_MAX} flows have not ended")));
            }
            open.flows.insert(id.clone(), flow);
            permit.submit(&[record])
        };
        commit.acknowledged().await?;
        // What cannot be done now is done by the reconciler: the flow is there.
        if let Err(error) = self.settle_flow(&id).await {
            tracing::warn!(flow = id, %error, "a new flow's jobs were not all made yet");
        }
        let flow = self.find_flow(&id)?.ok_or(JobsError::NoSuchFlow(id))?;
        Ok((self.show_flow(&flow)?, true))
    }

    /// Asks everything of a flow that has not ended to end.
    ///
    /// # Errors
    /// [`JobsError::NoSuchFlow`]; [`JobsError::FlowEnded`]: it stays as it is.
    pub async fn cancel_flow(&self, id: &str) -> Result<Flow, JobsError> {
        let known = self.find_flow(id)?.ok_or_else(|| JobsError::NoSuchFlow(id.to_owned()))?;
        if known.ended_at.is_some() {
            return Err(JobsError::FlowEnded { id: id.to_owned(), status: known.status });
        }
        self.revise_flow(id, |flow| flow.cancel_requested = true).await?;
        self.settle_flow(id).await?;
        self.flow(id)
    }

    /// Flow `id` with its jobs. Reads the catalogue: not for a thread that serves others.
    ///
    /// # Errors
    /// [`JobsError::NoSuchFlow`].
    pub fn flow(&self, id: &str) -> Result<Flow, JobsError> {
        let flow = self.find_flow(id)?.ok_or_else(|| JobsError::NoSuchFlow(id.to_owned()))?;
        self.show_flow(&flow)
    }

    /// A page of flows without their jobs, newest first, and the cursor of the next. Reads the catalogue.
    ///
    /// # Errors
    /// [`JobsError::Store`].
    pub fn flows(&self, before: &[u8], limit: usize) -> Result<(Vec<Flow>, Option<Vec<u8>>), JobsError> {
        let page = record::ids_back(self.book.catalogue(), before, limit.clamp(1, PAGE_MAX))?;
        let mut flows = Vec::with_capacity(page.len());
        for (_, id) in &page {
            if let Some(flow) = self.find_flow(id)? {
                let counts =
                    if flow.ended_at.is_some() { flow.counts.clone() } else { counted(&self.statuses(&flow)?) };
                flows.push(Flow { counts, ..flow.shown() });
            }
        }
        let next = page.last().map(|(key, _)| key.clone()).filter(|_| page.len() >= limit);
        Ok((flows, next))
    }

    /// Does what is to be done about a flow: makes its jobs, cancels them, notes its end or that it goes on after all.
    pub(super) async fn settle_flow(&self, id: &str) -> Result<(), JobsError> {
        let _turn = self.turn(&format!("flow {id}")).await;
        let Some(flow) = self.find_flow(id)? else { return Ok(()) };
        if !flow.to_make.is_empty() {
            self.make_jobs(&flow).await?;
        }
        let Some(flow) = self.find_flow(id)? else { return Ok(()) };
        let statuses = self.statuses(&flow)?;
        let course = course(&flow, &statuses);
        match (course, flow.ended_at) {
            (Course::End(status), None) => {
                let now = self.book.clock.now();
                self.revise_flow(id, |flow| flow.end(now, status, &statuses)).await?;
            }
            // A job was queued again by hand, or has ended otherwise since.
            (Course::End(status), Some(_)) if status != flow.status => {
                self.revise_flow(id, |flow| (flow.status, flow.counts) = (status, counted(&statuses))).await?;
            }
            (Course::End(_), Some(_)) | (Course::Wait, None) => {}
            (Course::Wait | Course::CancelRest, Some(_)) => self.revise_flow(id, Stored::reopen).await?,
            (Course::CancelRest, None) => {
                let left = flow.members.iter().zip(&statuses).filter(|(_, status)| !status.is_final());
                let ids: Vec<String> = left.map(|(member, _)| job_id(id, &member.name)).collect();
                for some in ids.chunks(AT_ONCE) {
                    for result in futures::future::join_all(some.iter().map(|id| self.cancel(id))).await {
                        match result {
                            Ok(_) | Err(JobsError::Ended { .. } | JobsError::NoSuchJob(_)) => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                let statuses = self.statuses(&flow)?;
                if let Course::End(status) = self::course(&flow, &statuses) {
                    let now = self.book.clock.now();
                    self.revise_flow(id, |flow| flow.end(now, status, &statuses)).await?;
                }
            }
        }
        Ok(())
    }

    /// Makes the jobs that are not made yet, those that are waited for first.
    async fn make_jobs(&self, flow: &Stored) -> Result<(), JobsError> {
        let mut left = if flow.cancel_requested { &[][..] } else { &flow.to_make[..] };
        let mut refused = None;
        while !left.is_empty() && refused.is_none() {
            let (batch, rest) = left.split_at(independent(left));
            left = rest;
            let made = batch.iter().map(|spec| self.submit(&flow.queue, spec.clone(), None, &flow.sender_id));
            for (spec, result) in batch.iter().zip(futures::future::join_all(made).await) {
                let name = spec.job_id.as_deref().unwrap_or_default();
                match result {
                    Ok(_) => {}
                    Err(
                        error @ (JobsError::Full(_) | JobsError::Control(_) | JobsError::Store(_) | JobsError::Busy(_)),
                    ) => {
                        return Err(error);
                    }
                    Err(JobsError::Queue(error @ crate::queue::QueueError::Store { .. })) => return Err(error.into()),
                    Err(error) => refused = Some(format!("job `{name}` cannot be made: {error}")),
                }
            }
        }
        self.revise_flow(&flow.id, |flow| {
            flow.to_make.clear();
            flow.error = refused.or(flow.error.take());
        })
        .await
    }

    /// How each member stands. One that was never made has been cancelled with its flow.
    fn statuses(&self, flow: &Stored) -> Result<Vec<JobStatus>, JobsError> {
        let status = |member: &Member| {
            let id = job_id(&flow.id, &member.name);
            if let Some(tracked) = self.book.table.lock().get(&id) {
                return Ok(tracked.head.status);
            }
            let stored = self.find(&id)?.map(|tracked| tracked.head.status);
            let unmade = if flow.to_make.is_empty() { JobStatus::Cancelled } else { JobStatus::Waiting };
            Ok(stored.unwrap_or(unmade))
        };
        flow.members.iter().map(status).collect()
    }

    fn show_flow(&self, flow: &Stored) -> Result<Flow, JobsError> {
        let mut jobs = Vec::with_capacity(flow.members.len());
        for member in &flow.members {
            let id = job_id(&flow.id, &member.name);
            let tracked = self.find(&id)?;
            let status = match &tracked {
                Some(tracked) => tracked.head.status,
                None if flow.to_make.is_empty() => JobStatus::Cancelled,
                None => JobStatus::Waiting,
            };
            let of = |pick: fn(&Tracked) -> Option<String>| tracked.as_ref().and_then(pick);
            jobs.push(FlowJob {
                name: member.name.clone(),
                job_id: id,
                kind: member.kind.clone(),
                status,
                after: member.after.clone(),
                percent: tracked.as_ref().and_then(|tracked| tracked.head.percent),
                error: of(|tracked| tracked.error.as_ref().map(|error| error.message.clone())),
                outputs: tracked.as_ref().map_or(0, |tracked| tracked.outputs.len()),
            });
        }
        let statuses: Vec<_> = jobs.iter().map(|job| job.status).collect();
        Ok(Flow { counts: counted(&statuses), jobs, ..flow.shown() })
    }

    /// Flow `id`, from memory or from the history.
    fn find_flow(&self, id: &str) -> Result<Option<Stored>, JobsError> {
        if let Some(flow) = self.book.flows.lock().flows.get(id) {
            return Ok(Some(flow.clone()));
        }
        Ok(record::read(self.book.catalogue(), id)?)
    }

    /// Changes a flow and makes that durable.
    async fn revise_flow(&self, id: &str, revise: impl FnOnce(&mut Stored)) -> Result<(), JobsError> {
        let Some(known) = self.find_flow(id)? else { return Err(JobsError::NoSuchFlow(id.to_owned())) };
        let room = known.encode().payload.len() + 8 * 1024;
        let permit = self.book.control.reserve(room, backlot_journal::Class::Shrinking).await?;
        let (commit, ended) = {
            let mut open = self.book.flows.lock();
            let flow = open.flows.entry(id.to_owned()).or_insert(known);
            revise(flow);
            flow.revision += 1;
            let record = flow.encode();
            let ended = flow.ended_at.is_some();
            (permit.submit(&[record]), ended.then_some(flow.revision))
        };
        commit.acknowledged().await?;
        // Not before the catalogue has it.
        let mut open = self.book.flows.lock();
        if ended.is_some() && open.flows.get(id).map(|flow| flow.revision) == ended {
            open.flows.remove(id);
        }
        Ok(())
    }

    /// Looks at the flows that something has happened to.
    pub(super) async fn settle_flows(&self) {
        let touched = self.book.table.lock().take_flows();
        for id in touched {
            if let Err(error) = self.settle_flow(&id).await {
                tracing::warn!(flow = id, %error, "a flow was not settled; it is tried again");
            }
        }
    }

    /// Has up to `limit` open flows after `after` looked at, whatever has happened. The last of them; `None` at the end.
    pub(super) fn touch_some_flows(&self, after: Option<&str>, limit: usize) -> Option<String> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let range = (from, std::ops::Bound::Unbounded);
        let some: Vec<String> =
            self.book.flows.lock().flows.range::<str, _>(range).take(limit).map(|(id, _)| id.clone()).collect();
        let mut table = self.book.table.lock();
        some.iter().for_each(|id| table.touch_flow(id));
        some.last().cloned().filter(|_| some.len() == limit)
    }

    fn new_flow_id(&self) -> String {
        use rand::RngCore;
        let mut random = [0; 10];
        self.book.table.lock().chance.fill_bytes(&mut random);
        let wall_ms = self.book.clock.now().wall_ms;
        uuid::Builder::from_unix_timestamp_millis(wall_ms, &random).into_uuid().to_string()
    }
}

impl Open {
    /// Reads what the catalogue holds.
    pub(super) fn load(catalogue: &crate::catalogue::Catalogue) -> Result<Self, store::StoreError> {
        let mut flows = BTreeMap::new();
        record::open(catalogue, &mut |flow| drop(flows.insert(flow.id.clone(), flow)))?;
        Ok(Self { flows })
    }
}

impl Stored {
    fn end(&mut self, now: Now, status: FlowStatus, statuses: &[JobStatus]) {
        (self.status, self.ended_at, self.had_ended) = (status, Some(now.timestamp()), true);
        self.counts = counted(statuses);
    }

    /// The flow without its jobs.
    fn shown(&self) -> Flow {
        Flow {
            id: self.id.clone(),
            name: self.name.clone(),
            queue: self.queue.clone(),
            status: self.status,
            on_failure: self.on_failure,
            created_at: self.created_at,
            ended_at: self.ended_at,
            cancel_requested: self.cancel_requested,
            error: self.error.clone(),
            counts: BTreeMap::new(),
            jobs: Vec::new(),
        }
    }

    fn reopen(&mut self) {
        (self.status, self.ended_at, self.cancel_requested) = (FlowStatus::Running, None, false);
        self.error = None;
    }
}

fn counted(statuses: &[JobStatus]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    statuses.iter().for_each(|status| *counts.entry(status.as_str().to_owned()).or_insert(0) += 1);
    counts
}

/// How many of the first specifications wait for none of each other.
fn independent(specs: &[JobSpec]) -> usize {
    let mut ids = std::collections::HashSet::new();
    let free = |spec: &&JobSpec| {
        let free = spec.waits_for().all(|(job, _)| !ids.contains(job));
        ids.extend(spec.job_id.clone());
        free
    };
    specs.iter().take(AT_ONCE).take_while(free).count().max(1)
}

fn digest_of(order: &FlowOrder) -> Result<String, JobsError> {
    let json = serde_json::to_vec(order).map_err(|error| JobsError::Invalid(error.to_string()))?;
    Ok(hex::encode(&Sha256::digest(&json)[..16]))
}
