//! The jobs in memory: all that have not ended, and those that ended a moment ago.
//!
//! One lock holds the table; whoever changes a job holds it and, outside of it, the lock of the job's queue, so that the journal
//! has the changes of a job in the order in which they were decided. Every change goes through [`Table::change`]
//! (to be journalled now) or [`Table::change_lightly`] (journalled within seconds), which keep the indexes right.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use backlot_wire::{JobSpec, JobStatus};
use rand_chacha::ChaCha8Rng;
use tokio::sync::Notify;

use super::herald::Herald;
use super::model::{Mark, Tracked};
use super::record::Entry;
use crate::clock::Now;

/// How long an id is kept for a send that was admitted and has not been seen. One that takes longer than this
/// is taken all the same; it only loses the memory of its submitter's span.
const RESERVED_MS: u64 = 10_000;
/// Past so many the expired ones are looked for.
const RESERVED_SWEEP: usize = 1_024;

/// An id that is about to be used.
#[derive(Clone, Debug, Default)]
pub(super) struct Reserved {
    pub until_mono_ms: u64,
    pub parent_span: Option<String>,
    /// For an ended job that is queued again.
    pub again: bool,
}

struct Slot {
    tracked: Tracked,
    /// The job as the journal knows it, where that is behind.
    journalled: Option<Box<Tracked>>,
    /// When its lease was last extended for a heartbeat.
    extended_at_mono_ms: u64,
    /// When the attempt of this number is over its limit.
    limit: Option<(u64, u32)>,
}

/// What a change came to.
pub(super) struct Changed<T> {
    pub answer: T,
    /// For the journal. `None`: nothing has changed.
    pub entry: Option<Entry>,
}

/// The table. Its owner's lock makes it safe to share.
pub(super) struct Table {
    slots: HashMap<String, Slot>,
    by_message: HashMap<String, String>,
    reserved: HashMap<String, Reserved>,
    /// Ended jobs in memory, the longest ended first.
    ended: VecDeque<String>,
    scheduled: BTreeSet<(u64, String)>,
    /// Attempts of plain consumers that the appliance ends, by when.
    limits: BTreeSet<(u64, String)>,
    /// The newest job of each key, by queue and key, as long as it is in memory.
    keys: HashMap<String, String>,
    /// Keys that a send under way may take, until when.
    reserved_keys: HashMap<String, u64>,
    /// Jobs that wait for others.
    waiting: BTreeSet<String>,
    /// Who waits for a job.
    waiters: HashMap<String, BTreeSet<String>>,
    /// Waiting jobs to look at: something that they wait for has changed.
    checks: BTreeSet<String>,
    /// Flows to look at.
    flows: BTreeSet<String>,
    /// Wakes whoever looks at those.
    changed: Arc<Notify>,
    /// Jobs that the journal is behind of.
    behind: BTreeSet<String>,
    counts: HashMap<(String, JobStatus), usize>,
    unfinished: usize,
    herald: Herald,
    pub chance: ChaCha8Rng,
}

impl Table {
    pub(super) fn new(chance: ChaCha8Rng, herald: Herald) -> Self {
        Self {
            slots: HashMap::new(),
            by_message: HashMap::new(),
            reserved: HashMap::new(),
            ended: VecDeque::new(),
            scheduled: BTreeSet::new(),
            limits: BTreeSet::new(),
            keys: HashMap::new(),
            reserved_keys: HashMap::new(),
            waiting: BTreeSet::new(),
            waiters: HashMap::new(),
            checks: BTreeSet::new(),
            flows: BTreeSet::new(),
            changed: Arc::default(),
            behind: BTreeSet::new(),
            counts: HashMap::new(),
            unfinished: 0,
            herald,
            chance,
        }
    }

    pub(super) fn news(&self) -> tokio::sync::broadcast::Sender<super::herald::News> {
        self.herald.news()
    }

    pub(super) fn get(&self, id: &str) -> Option<&Tracked> {
        self.slots.get(id).map(|slot| &slot.tracked)
    }

    pub(super) fn of_message(&self, message_id: &str) -> Option<&Tracked> {
        self.get(self.by_message.get(message_id)?)
    }

    pub(super) fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Jobs that have not ended, by type and status.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&str, JobStatus, usize)> {
        self.counts.iter().map(|((kind, status), count)| (kind.as_str(), *status, *count))
    }

    /// Takes a job that has just been made. The record is to be journalled.
    pub(super) fn add(&mut self, mut tracked: Tracked) -> Entry {
        tracked.head.revision = 1;
        let entry = Entry::whole(&tracked);
        self.herald.tell(None, &tracked);
        self.load(tracked);
        entry
    }

    /// Takes a job as the catalogue has it.
    pub(super) fn load(&mut self, tracked: Tracked) {
        let id = tracked.head.id.clone();
        if self.slots.contains_key(&id) {
            return;
        }
        self.enter(&tracked);
        self.herald.loaded(&tracked);
        self.slots.insert(id, Slot { tracked, journalled: None, extended_at_mono_ms: 0, limit: None });
    }

    /// Changes job `id` by `decide`. `None`: it is not here.
    pub(super) fn change<T>(
        &mut self,
        id: &str,
        decide: impl FnOnce(&mut Tracked, &mut ChaCha8Rng) -> T,
    ) -> Option<Changed<T>> {
        let slot = self.slots.get_mut(id)?;
        let before = slot.tracked.clone();
        let answer = decide(&mut slot.tracked, &mut self.chance);
        if slot.tracked == before && slot.journalled.is_none() {
            return Some(Changed { answer, entry: None });
        }
        slot.tracked.head.revision += 1;
        let base = slot.journalled.take();
        let entry = Entry::patch(base.as_deref().unwrap_or(&before), &slot.tracked);
        self.behind.remove(id);
        self.settle(&before);
        Some(Changed { answer, entry: Some(entry) })
    }

    /// Puts `after`, a job with new numbers, in the place of what is known; the journal gets it within seconds.
    pub(super) fn change_lightly(&mut self, after: Tracked) {
        let Some(slot) = self.slots.get_mut(&after.head.id) else { return };
        if slot.tracked == after {
            return;
        }
        let before = std::mem::replace(&mut slot.tracked, after);
        self.behind.insert(before.head.id.clone());
        let _ = slot.journalled.get_or_insert_with(|| Box::new(before.clone()));
        self.settle(&before);
    }

    /// Up to `limit` jobs that the journal is behind of.
    pub(super) fn behind(&self, limit: usize) -> Vec<String> {
        self.behind.iter().take(limit).cloned().collect()
    }

    /// Queues the scheduled jobs whose time has come.
    pub(super) fn queue_due(&mut self, now: Now) {
        while let Some((_, id)) = self.scheduled.first().filter(|(at_ms, _)| *at_ms <= now.wall_ms).cloned() {
            let Some(slot) = self.slots.get_mut(&id) else { return };
            let before = slot.tracked.clone();
            if !slot.tracked.due(now) {
                return;
            }
            self.settle(&before);
        }
    }

    /// Lets go of the longest ended jobs beyond `keep`, those that `stored` finds in the catalogue.
    pub(super) fn forget_ended(&mut self, keep: usize, stored: &dyn Fn(&Tracked) -> bool) {
        while self.ended.len() > keep {
            let Some(id) = self.ended.front() else { return };
            if let Some(slot) = self.slots.get(id).filter(|slot| slot.tracked.is_final()) {
                if slot.journalled.is_some() || !stored(&slot.tracked) {
                    return;
                }
                let head = &slot.tracked.head;
                if self.by_message.get(&head.message_id) == Some(&head.id) {
                    self.by_message.remove(&head.message_id);
                }
                if let Some(key) = unique_key(&head.queue, &slot.tracked.spec)
                    && self.keys.get(&key) == Some(&head.id)
                {
                    self.keys.remove(&key);
                }
                let id = id.clone();
                self.slots.remove(&id);
            }
            self.ended.pop_front();
        }
    }

    /// Whether it is time to extend the lease of job `id` again, which it then is not for `pause_ms`.
    pub(super) fn extends(&mut self, now: Now, id: &str, pause_ms: u64) -> bool {
        let Some(slot) = self.slots.get_mut(id).filter(|slot| slot.tracked.live().is_some()) else { return false };
        let due = slot.extended_at_mono_ms == 0 || now.mono_ms >= slot.extended_at_mono_ms.saturating_add(pause_ms);
        if due {
            slot.extended_at_mono_ms = now.mono_ms.max(1);
        }
        due
    }

    /// Keeps `id` for a send that is under way. False: another one has it.
    pub(super) fn reserve(&mut self, now: Now, id: &str, parent_span: Option<String>, again: bool) -> bool {
        if self.reserved.len() >= RESERVED_SWEEP {
            self.reserved.retain(|_, reserved| reserved.until_mono_ms > now.mono_ms);
        }
        if self.reservation(now, id).is_some() {
            return false;
        }
        let until_mono_ms = now.mono_ms.saturating_add(RESERVED_MS);
        self.reserved.insert(id.to_owned(), Reserved { until_mono_ms, parent_span, again });
        true
    }

    pub(super) fn reservation(&self, now: Now, id: &str) -> Option<&Reserved> {
        self.reserved.get(id).filter(|reserved| reserved.until_mono_ms > now.mono_ms)
    }

    /// Keeps `key` for a send that is under way. False: another one has it.
    pub(super) fn reserve_key(&mut self, now: Now, key: &str) -> bool {
        if self.reserved_keys.len() >= RESERVED_SWEEP {
            self.reserved_keys.retain(|_, until_mono_ms| *until_mono_ms > now.mono_ms);
        }
        if self.reserved_keys.get(key).is_some_and(|until_mono_ms| *until_mono_ms > now.mono_ms) {
            return false;
        }
        self.reserved_keys.insert(key.to_owned(), now.mono_ms.saturating_add(RESERVED_MS));
        true
    }

    /// Ends the reservation of a key.
    pub(super) fn give_up_key(&mut self, key: Option<&str>) {
        if let Some(key) = key {
            self.reserved_keys.remove(key);
        }
    }

    /// The newest job in memory that has `key`.
    pub(super) fn of_key(&self, key: &str) -> Option<&Tracked> {
        self.get(self.keys.get(key)?)
    }

    /// Woken when there is something for [`Table::take_checks`] or [`Table::take_flows`].
    pub(super) fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.changed)
    }

    /// Up to `limit` waiting jobs to look at, which then need not be looked at again before something changes.
    pub(super) fn take_checks(&mut self, limit: usize) -> Vec<String> {
        let taken: Vec<String> = self.checks.iter().take(limit).cloned().collect();
        for id in &taken {
            self.checks.remove(id);
        }
        taken
    }

    /// Has up to `limit` waiting jobs after `after` looked at, whatever has changed. The last of them; `None` at the end.
    pub(super) fn check_some(&mut self, after: Option<&str>, limit: usize) -> Option<String> {
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let some: Vec<String> =
            self.waiting.range::<str, _>((from, std::ops::Bound::Unbounded)).take(limit).cloned().collect();
        let last = some.last().cloned().filter(|_| some.len() == limit);
        self.checks.extend(some);
        last
    }

    /// The flows to look at.
    pub(super) fn take_flows(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.flows)
    }

    /// Has a flow looked at.
    pub(super) fn touch_flow(&mut self, id: &str) {
        self.flows.insert(id.to_owned());
        self.changed.notify_one();
    }

    /// Sets the clock for the attempt under way of job `id`, where the appliance is the one to end it.
    pub(super) fn watch_limit(&mut self, now: Now, id: &str) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        let live = slot.tracked.live().filter(|live| live.agent.is_none());
        let limit = live.zip(slot.tracked.spec.limits.hard_s).map(|(live, hard_s)| {
            let spent_ms = now.wall_ms.saturating_sub(live.started_at.unix_ms());
            (now.mono_ms.saturating_add((hard_s * 1_000).saturating_sub(spent_ms)), live.number)
        });
        if slot.limit.map(|(_, number)| number) == limit.map(|(_, number)| number) {
            return;
        }
        if let Some((at_ms, _)) = slot.limit {
            self.limits.remove(&(at_ms, id.to_owned()));
        }
        slot.limit = limit;
        if let Some((at_ms, _)) = limit {
            self.limits.insert((at_ms, id.to_owned()));
        }
    }

    /// Sets the clock for every attempt under way: after a start.
    pub(super) fn watch_limits(&mut self, now: Now) {
        let bounded = |slot: &&Slot| slot.tracked.live().is_some() && slot.tracked.spec.limits.hard_s.is_some();
        let ids: Vec<String> = self.slots.values().filter(bounded).map(|slot| slot.tracked.head.id.clone()).collect();
        ids.iter().for_each(|id| self.watch_limit(now, id));
    }

    /// Up to `limit` attempts that are over their limit, with their jobs.
    pub(super) fn over_limit(&self, now: Now, limit: usize) -> Vec<(String, u32)> {
        let due = self.limits.iter().take_while(|(at_ms, _)| *at_ms <= now.mono_ms).take(limit);
        due.filter_map(|(_, id)| Some((id.clone(), self.slots.get(id)?.limit?.1))).collect()
    }

    /// Ends the reservation of `id`.
    pub(super) fn take_reservation(&mut self, id: &str) -> Option<Reserved> {
        self.reserved.remove(id)
    }

    /// Takes a job's entries out of the indexes and puts them in anew.
    fn settle(&mut self, before: &Tracked) {
        let id = &before.head.id;
        let Some(slot) = self.slots.get_mut(id) else { return };
        let after = slot.tracked.clone();
        if let Some((at_ms, number)) = slot.limit
            && after.live().map(|live| live.number) != Some(number)
        {
            self.limits.remove(&(at_ms, id.clone()));
            slot.limit = None;
        }
        self.leave(before);
        self.enter(&after);
        self.herald.moved(before, &after);
        if before.is_final() != after.is_final()
            && let Some(flow) = &after.spec.flow_id
        {
            self.touch_flow(flow);
        }
        self.herald.tell(Some(before.mark()), &after);
    }

    fn leave(&mut self, tracked: &Tracked) {
        let head = &tracked.head;
        if self.by_message.get(&head.message_id) == Some(&head.id) {
            self.by_message.remove(&head.message_id);
        }
        if let Some(at) = head.runs_after {
            self.scheduled.remove(&(at.unix_ms(), head.id.clone()));
        }
        if head.status == JobStatus::Waiting {
            self.waiting.remove(&head.id);
            for (job, _) in tracked.spec.waits_for() {
                if let Some(waiters) = self.waiters.get_mut(job) {
                    waiters.remove(&head.id);
                    if waiters.is_empty() {
                        self.waiters.remove(job);
                    }
                }
            }
        }
        if !tracked.is_final() {
            self.unfinished = self.unfinished.saturating_sub(1);
            let key = (tracked.spec.kind.clone(), head.status);
            if let Some(count) = self.counts.get_mut(&key) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.counts.remove(&key);
                }
            }
        } else if self.ended.back() == Some(&head.id) {
            self.ended.pop_back();
        }
    }

    fn enter(&mut self, tracked: &Tracked) {
        let head = &tracked.head;
        self.by_message.insert(head.message_id.clone(), head.id.clone());
        if let Some(at) = head.runs_after {
            self.scheduled.insert((at.unix_ms(), head.id.clone()));
        }
        if let Some(key) = unique_key(&head.queue, &tracked.spec)
            && (!tracked.is_final() || !self.keys.contains_key(&key))
        {
            self.keys.insert(key, head.id.clone());
        }
        if head.status == JobStatus::Waiting {
            self.waiting.insert(head.id.clone());
            for (job, _) in tracked.spec.waits_for() {
                self.waiters.entry(job.to_owned()).or_default().insert(head.id.clone());
            }
            self.checks.insert(head.id.clone());
            self.changed.notify_one();
        }
        if tracked.is_final()
            && let Some(waiters) = self.waiters.get(&head.id)
        {
            self.checks.extend(waiters.iter().cloned());
            self.changed.notify_one();
        }
        if tracked.is_final() {
            self.ended.push_back(head.id.clone());
        } else {
            self.unfinished += 1;
            *self.counts.entry((tracked.spec.kind.clone(), head.status)).or_default() += 1;
        }
    }
}

/// What a job's key is known by: unique within its queue. Names of queues have no control characters.
pub(super) fn unique_key(queue: &str, spec: &JobSpec) -> Option<String> {
    spec.unique.as_ref().map(|unique| format!("{queue}\0{}", unique.key))
}

/// Whether a change has ended what was under way.
pub(super) fn ended(before: Option<Mark>, after: &Tracked) -> (Option<u32>, bool) {
    let attempt =
        before.and_then(|mark| mark.live).filter(|number| after.live().map(|live| live.number) != Some(*number));
    let job = after.is_final() && before.is_none_or(|mark| !mark.status.is_final());
    (attempt, job)
}
