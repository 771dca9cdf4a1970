//! The book of jobs: what the queue tells of its messages, and what the journal brings back at a start.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use backlot_journal::Lsn;
use backlot_windows::WindowsError;
use backlot_wire::{ATTEMPT_ATTRIBUTE, JobSpec, JobStatus, metrics};
use opentelemetry::KeyValue;
use parking_lot::{Mutex, RwLock};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;

use super::admission::{fill_in, take_attributes};
use super::agents::{self, Agents};
use super::amend::same_order;
use super::bulk::Bulk;
use super::classes::{CLASSES_MAX, Classes};
use super::engine::until_s;
use super::herald::{Herald, label};
use super::model::Tracked;
use super::record::Entry;
use super::search::Index;
use super::table::{Reserved, Table, unique_key};
use super::turns::Turns;
use super::webhooks::{Seal, Webhooks};
use super::{flows, schedules, settings, spans, store};
use crate::catalogue::{Batch, Catalogue};
use crate::clock::{Clock, Now};
use crate::config;
use crate::control::{Commit, Control, Follower, Kind, Permit, Record};
use crate::queue::{
    Action, Admission, Admitted, CHANGE_RECORDS_BYTES_MAX, Change, Class, Nearness, Overseer, SendRequest, Tenant, Turn,
};

/// Longest that a message is put off, by its time or by other jobs; the queue's own bound.
const DELAY_S_MAX: u32 = 366 * 86_400;
/// Jobs share so many turns.
const TURNS: usize = 64;

/// The jobs' state, and the overseer of the job queues.
pub struct Book {
    pub(super) control: Control,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: config::Jobs,
    /// Taken under a queue's lock, never the other way round. The two below are taken under neither or under both.
    pub(super) table: Mutex<Table>,
    pub(super) agents: Mutex<Agents>,
    pub(super) classes: Arc<RwLock<Classes>>,
    /// Its own lock is the innermost of all.
    pub(super) shares: Arc<Turns>,
    /// Absent in an appliance without search, as tests build it.
    pub(super) index: OnceLock<Index>,
    pub(super) bulk: Bulk,
    pub(super) webhooks: Webhooks,
    /// Taken under neither of those.
    pub(super) flows: Mutex<flows::Open>,
    pub(super) schedules: Mutex<schedules::Schedules>,
    /// One report of a job at a time.
    pub(super) turns: [tokio::sync::Mutex<()>; TURNS],
    /// Cancelled when streams are to end.
    pub(super) stopping: OnceLock<CancellationToken>,
}

impl Book {
    /// An empty book. It knows nothing until `control` has replayed its records into it.
    #[must_use]
    pub fn build(control: Control, clock: Arc<dyn Clock>, seed: u64, config: config::Jobs) -> Arc<Self> {
        let classes = Arc::<RwLock<Classes>>::default();
        let shares = Arc::new(Turns::new(&config.limits, Arc::clone(&classes), Arc::clone(&clock)));
        let table = Table::new(ChaCha8Rng::seed_from_u64(seed), Herald::new().telling(Arc::clone(&shares)));
        let book = Arc::new(Self {
            control,
            clock,
            config,
            table: Mutex::new(table),
            agents: Mutex::default(),
            classes,
            shares,
            index: OnceLock::new(),
            bulk: Bulk::default(),
            webhooks: Webhooks::default(),
            flows: Mutex::default(),
            schedules: Mutex::default(),
            turns: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            stopping: OnceLock::new(),
        });
        book.watch();
        book
    }

    /// Opens the index of jobs below the folder `data`. To be called before the replay.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn open_index(&self, data: &Path) -> Result<(), WindowsError> {
        let _ = self.index.set(Index::open(data, self.catalogue().clone())?); // the first one stays
        Ok(())
    }

    /// Hands in what keeps the secrets of webhooks. Without it none can be defined.
    pub fn seal_with(&self, seal: Arc<dyn Seal>) {
        let _ = self.webhooks.seal.set(seal); // the first one stays
    }

    /// Gauges that are read when they are asked for.
    fn watch(self: &Arc<Self>) {
        let meter = opentelemetry::global::meter("backlot");
        let book = Arc::downgrade(self);
        let _ = meter
            .f64_observable_gauge(metrics::JOBS.name)
            .with_unit(metrics::JOBS.unit)
            .with_description(metrics::JOBS.help)
            .with_callback(move |gauge| {
                let Some(book) = book.upgrade() else { return };
                let (mut seen, mut sums) = (Vec::new(), std::collections::BTreeMap::new());
                for (kind, status, count) in book.table.lock().counts() {
                    *sums.entry((label(&mut seen, kind), status.as_str())).or_insert(0) += count;
                }
                for ((kind, status), count) in sums {
                    gauge.observe(count as f64, &[KeyValue::new("type", kind), KeyValue::new("status", status)]);
                }
            })
            .build();
        let turns = Arc::downgrade(&self.shares);
        let _ = meter
            .f64_observable_gauge(metrics::JOB_TENANTS_FOLDED.name)
            .with_unit(metrics::JOB_TENANTS_FOLDED.unit)
            .with_description(metrics::JOB_TENANTS_FOLDED.help)
            .with_callback(move |gauge| {
                if let Some(turns) = turns.upgrade() {
                    gauge.observe(turns.folded() as f64, &[]);
                }
            })
            .build();
        let book = Arc::downgrade(self);
        let _ = meter
            .f64_observable_gauge(metrics::AGENT_LAST_SEEN.name)
            .with_unit(metrics::AGENT_LAST_SEEN.unit)
            .with_description(metrics::AGENT_LAST_SEEN.help)
            .with_callback(move |gauge| {
                let Some(book) = book.upgrade() else { return };
                for (name, at, _) in book.agents.lock().last_seen() {
                    gauge.observe(at.unix_ms() as f64 / 1_000.0, &[KeyValue::new("agent", name.to_owned())]);
                }
            })
            .build();
        let book = Arc::downgrade(self);
        let _ = meter
            .f64_observable_gauge(metrics::AGENT_STOPPED.name)
            .with_unit(metrics::AGENT_STOPPED.unit)
            .with_description(metrics::AGENT_STOPPED.help)
            .with_callback(move |gauge| {
                let Some(book) = book.upgrade() else { return };
                for (name, _, stopped) in book.agents.lock().last_seen() {
                    gauge.observe(f64::from(u8::from(stopped)), &[KeyValue::new("agent", name.to_owned())]);
                }
            })
            .build();
    }

    pub(super) fn catalogue(&self) -> &Catalogue {
        self.control.catalogue()
    }

    /// Whether a job of this id is known, in memory or in the history.
    fn exists(&self, table: &Table, id: &str) -> Result<bool, store::StoreError> {
        Ok(table.get(id).is_some() || store::revision(self.catalogue(), id)?.is_some())
    }

    /// Job `id` in memory or in the history.
    fn find(&self, table: &Table, id: &str) -> Result<Option<Tracked>, String> {
        match table.get(id) {
            Some(tracked) => Ok(Some(tracked.clone())),
            None => store::read(self.catalogue(), id).map_err(|error| error.to_string()),
        }
    }

    /// The job that a further one with `key` would repeat.
    fn holder(&self, table: &Table, now: Now, key: &str) -> Result<Option<Tracked>, String> {
        if let Some(tracked) = table.of_key(key).filter(|tracked| tracked.holds_key(now)) {
            return Ok(Some(tracked.clone()));
        }
        let stored = store::of_key(self.catalogue(), key).map_err(|error| error.to_string())?;
        let tracked = stored.map_or(Ok(None), |id| self.find(table, &id))?;
        Ok(tracked.filter(|tracked| tracked.holds_key(now)))
    }

    fn admitted(&self, spec: &JobSpec, body: String, delay_s: u32) -> Result<Admitted, String> {
        let class = self.class(spec).ok_or_else(|| {
            format!("{CLASSES_MAX} different combinations of type and requirements are in use; a further one needs a restart")
        })?;
        Ok(Admitted { body, priority: spec.priority, class, tenant: self.shares.tenant(spec), delay_s })
    }

    fn class(&self, spec: &JobSpec) -> Option<Class> {
        self.classes.write().of(spec)
    }

    /// The message of a job arrived, be it new or one that is queued again.
    fn sent(&self, now: Now, queue: &str, message_id: &str, body: &str, delay_s: u32, records: &mut Vec<Record>) {
        let Some((id, spec)) = parse_admitted(body, message_id) else {
            tracing::error!(queue, message_id, "a message on a job queue is no job; nobody keeps account of it");
            return;
        };
        let mut table = self.table.lock();
        let reserved = table.take_reservation(&id);
        table.give_up_key(unique_key(queue, &spec).as_deref());
        if table.get(&id).is_none() && reserved.as_ref().is_none_or(|reserved| reserved.again) {
            // A redrive, or a send that took very long. The history may know the job.
            match store::read(self.catalogue(), &id) {
                Ok(Some(known)) => table.load(known),
                Ok(None) => {}
                Err(error) => tracing::error!(job = id, %error, "history is not readable"),
            }
        }
        let entry = match table.get(&id).map(Tracked::is_final) {
            Some(true) => {
                let spec = reserved.is_some_and(|reserved| reserved.again).then_some(spec);
                let changed = table.change(&id, |job, _| {
                    spec.into_iter().for_each(|spec| job.amend(spec));
                    job.sent_again(now, message_id, delay_s);
                });
                changed.and_then(|changed| changed.entry)
            }
            None => Some(add(&mut table, now, queue, message_id, id, spec, delay_s, reserved)),
            Some(false) => {
                // Two sends of one id at once, one of which took longer than its reservation.
                let other = format!("{id}.{message_id}");
                tracing::warn!(job = id, other, "a second message of a job that has not ended is a job of its own");
                Some(add(&mut table, now, queue, message_id, other, spec, delay_s, None))
            }
        };
        records.extend(entry.map(|entry| entry.encode()));
    }

    /// A dead letter comes back to its queue: its job is queued again. A message whose job lives on in another one, or did not
    /// end by failing, is not wanted back.
    fn returned(
        &self,
        now: Now,
        queue: &str,
        message_id: &str,
        body: &str,
        records: &mut Vec<Record>,
    ) -> Option<Action> {
        let (id, spec) = parse_admitted(body, message_id)?;
        let mut table = self.table.lock();
        if table.get(&id).is_none() {
            match store::read(self.catalogue(), &id) {
                Ok(Some(known)) => table.load(known),
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(job = id, %error, "history is not readable; its message goes back without it");
                    return None;
                }
            }
        }
        let entry = match table.get(&id) {
            // The history has forgotten it.
            None => Some(add(&mut table, now, queue, message_id, id, spec, 0, None)),
            Some(job) if job.head.message_id != message_id || job.head.status != JobStatus::Failed => {
                tracing::info!(job = id, message_id, "a dead letter of a job that has gone on without it is dropped");
                return Some(Action::Delete);
            }
            Some(_) => table.change(&id, |job, _| job.sent_again(now, message_id, 0)).and_then(|changed| changed.entry),
        };
        records.extend(entry.map(|entry| entry.encode()));
        None
    }
}

#[allow(clippy::too_many_arguments, reason = "the facts of one message, used in two places above")]
fn add(
    table: &mut Table,
    now: Now,
    queue: &str,
    message_id: &str,
    id: String,
    spec: JobSpec,
    delay_s: u32,
    reserved: Option<Reserved>,
) -> Entry {
    let mut tracked = Tracked::sent(now, queue, message_id, id, spec, delay_s);
    tracked.head.parent_span = reserved.and_then(|reserved| reserved.parent_span);
    table.add(tracked)
}

/// The answer to a send of what is there already.
fn repeated(known: &Tracked) -> Admission {
    Admission::Duplicate {
        message_id: known.head.message_id.clone(),
        body: serde_json::to_string(&*known.spec).unwrap_or_default(),
        record: Entry::patch(known, known).encode(),
    }
}

fn parse_admitted(body: &str, message_id: &str) -> Option<(String, JobSpec)> {
    let mut spec = JobSpec::parse(body).ok()?;
    let id = spec.job_id.get_or_insert_with(|| message_id.to_owned()).clone();
    Some((id, spec))
}

impl Overseer for Book {
    fn admit(&self, now: Now, queue: &str, request: &SendRequest) -> Result<Admission, String> {
        let mut spec = JobSpec::parse(&request.body).map_err(|error| error.to_string())?;
        let mut table = self.table.lock();
        if let Some(id) = &spec.job_id
            && table.reservation(now, id).is_some_and(|reserved| reserved.again)
        {
            let delay_s = if table.get(id).is_some_and(Tracked::must_wait) { DELAY_S_MAX } else { 0 };
            return Ok(Admission::Send(self.admitted(&spec, request.body.clone(), delay_s)?));
        }
        take_attributes(&mut spec, &request.attributes)?;
        if let Some(id) = &spec.job_id
            && let Some(known) = self.find(&table, id)?
        {
            if same_order(&spec, &known) {
                return Ok(repeated(&known));
            }
            return Err(format!("job `{id}` exists already and is another one; leave job_id out to get a new id"));
        }
        let key = unique_key(queue, &spec);
        if let Some(key) = &key
            && let Some(holder) = self.holder(&table, now, key)?
        {
            return Ok(repeated(&holder));
        }
        for (job, _) in spec.waits_for() {
            if !self.exists(&table, job).map_err(|error| error.to_string())? {
                return Err(format!("job `{job}`, which this one is to wait for, does not exist"));
            }
        }
        if table.unfinished() >= self.config.unfinished_max {
            return Err(format!("{} jobs wait already, which is jobs.unfinished_max", table.unfinished()));
        }
        let (spec, parent_span) = fill_in(spec, now, &mut table.chance);
        let delay_s = spec.run_at.map_or(0, |at| until_s(now, at));
        if delay_s > DELAY_S_MAX {
            return Err("`run_at` is more than 366 days from now".to_owned());
        }
        let waits = spec.waits_for().next().is_some();
        let body = serde_json::to_string(&spec).map_err(|error| error.to_string())?;
        let admitted = self.admitted(&spec, body, if waits { DELAY_S_MAX } else { delay_s })?;
        let id = spec.job_id.clone().unwrap_or_default();
        if key.as_ref().is_some_and(|key| !table.reserve_key(now, key)) {
            return Ok(Admission::Busy);
        }
        if !table.reserve(now, &id, parent_span, false) {
            table.give_up_key(key.as_deref());
            return Ok(Admission::Busy);
        }
        Ok(Admission::Send(admitted))
    }

    fn classify(&self, body: &str) -> (u8, Class, Tenant) {
        let Ok(spec) = JobSpec::parse(body) else { return (0, Class(0), Tenant(0)) };
        (spec.priority, self.class(&spec).unwrap_or(Class(0)), self.shares.tenant(&spec))
    }

    fn fits(&self, agent: Option<&str>, class: Class) -> bool {
        let Some(name) = agent else { return true };
        let mut agents = self.agents.lock();
        agents.taking(name).is_some_and(|registration| self.classes.read().fits(registration, class))
    }

    fn alike(&self, job: &str) -> Option<Class> {
        let spec = Arc::clone(&self.table.lock().get(job)?.spec);
        self.classes.read().of_batch(&spec)
    }

    fn nearness(&self, agent: Option<&str>, class: Class) -> Nearness {
        let Some(name) = agent else { return Nearness::Elsewhere };
        let mut agents = self.agents.lock();
        let taking = agents.taking(name);
        taking.map_or(Nearness::Elsewhere, |registration| self.classes.read().nearness(registration, class))
    }

    fn patience_ms(&self) -> u64 {
        u64::from(self.config.locality_s) * 1_000
    }

    fn ageing_ms(&self) -> u64 {
        u64::from(self.config.ageing_s) * 1_000
    }

    fn turn(&self, now: Now, queue: &str, tenant: Tenant) -> Turn {
        self.shares.turn(now, queue, tenant)
    }

    fn amended(&self, message_id: &str) -> Option<(u8, Class, Tenant)> {
        let spec = {
            let table = self.table.lock();
            let tracked = table.of_message(message_id).filter(|tracked| tracked.head.amended.is_some())?;
            Arc::clone(&tracked.spec)
        };
        let Some(class) = self.class(&spec) else {
            tracing::warn!(message_id, "there are too many classes of jobs: this one stays in that of its first order");
            return None;
        };
        Some((spec.priority, class, self.shares.tenant(&spec)))
    }

    fn body(&self, message_id: &str) -> Option<String> {
        let table = self.table.lock();
        let tracked = table.of_message(message_id).filter(|tracked| tracked.head.amended.is_some())?;
        serde_json::to_string(&*tracked.spec).ok()
    }

    fn observe(&self, now: Now, queue: &str, change: Change<'_>, records: &mut Vec<Record>) -> Option<Action> {
        let message_id = match &change {
            Change::Sent { message_id, body, delay_s } => {
                self.sent(now, queue, message_id, body, *delay_s, records);
                return None;
            }
            Change::Returned { message_id, body } => return self.returned(now, queue, message_id, body, records),
            Change::Received { message_id, agent, .. } => {
                if let Some(name) = agent {
                    self.agents.lock().seen(now, name);
                }
                *message_id
            }
            Change::Deleted { message_id }
            | Change::TimedOut { message_id }
            | Change::Released { message_id }
            | Change::DeadLettered { message_id, .. }
            | Change::Dropped { message_id, .. } => *message_id,
        };
        let mut table = self.table.lock();
        let id = table.of_message(message_id).map(|tracked| tracked.head.id.clone())?;
        let changed = table.change(&id, |job, _| match change {
            Change::Sent { .. } | Change::Returned { .. } => None,
            Change::Received { agent, .. } => {
                job.received(now, agent);
                None
            }
            Change::Deleted { .. } => {
                job.deleted(now);
                None
            }
            Change::TimedOut { .. } => job.timed_out(now),
            Change::Released { .. } => job.released(now),
            Change::DeadLettered { dlq, .. } => {
                job.dead_lettered(now, dlq);
                None
            }
            Change::Dropped { reason, .. } => {
                job.dropped(now, reason);
                None
            }
        })?;
        table.watch_limit(now, &id);
        if let Some(entry) = changed.entry {
            let record = entry.encode();
            debug_assert!(record.payload.len() <= CHANGE_RECORDS_BYTES_MAX, "{} bytes", record.payload.len());
            records.push(record);
        }
        changed.answer
    }

    fn attributes(&self, _queue: &str, message_id: &str) -> Vec<(String, String)> {
        let table = self.table.lock();
        let Some((tracked, id)) =
            table.of_message(message_id).and_then(|tracked| Some((tracked, tracked.newest()?.id.clone())))
        else {
            return Vec::new();
        };
        let traceparent = spans::attempt_traceparent(tracked, &id).map(|text| ("traceparent".to_owned(), text));
        [(ATTEMPT_ATTRIBUTE.to_owned(), id)].into_iter().chain(traceparent).collect()
    }
}

impl Follower for Book {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Job, Kind::Agent, Kind::Setting]
    }

    /// What a job is stands in the catalogue, which has applied the records before [`Follower::replayed`]. The index may lack some.
    fn replay(&self, kind: Kind, lsn: Lsn, payload: &[u8]) -> Result<(), String> {
        if let Some(index) = self.index.get().filter(|_| kind == Kind::Job) {
            index.replayed(lsn, payload);
        }
        Ok(())
    }

    fn replayed(&self, now: Now) {
        if let Some(index) = self.index.get() {
            let journal = self.control.journal();
            let oldest = journal.segments().first().map_or(Lsn(0), |segment| segment.base);
            index.replay_done(oldest, journal.durable());
        }
        if let Err(error) = self.shares.load(self.catalogue()) {
            tracing::error!(%error, "limits that were set are not readable; those of the configuration hold");
        }
        if let Err(error) = self.webhooks.load(self.catalogue()) {
            tracing::error!(%error, "webhooks are not readable; none is told");
        }
        if let Err(error) = self.bulk.load(self.catalogue()) {
            tracing::error!(%error, "bulk actions are not readable; none goes on");
        }
        let mut table = self.table.lock();
        if let Err(error) = store::unfinished(self.catalogue(), &mut |tracked| table.load(tracked)) {
            tracing::error!(%error, "jobs that have not ended are not readable");
        }
        table.queue_due(now);
        table.watch_limits(now);
        match flows::Open::load(self.catalogue()) {
            Ok(open) => *self.flows.lock() = open,
            Err(error) => tracing::error!(%error, "flows that have not ended are not readable"),
        }
        match schedules::Schedules::load(now, self.catalogue()) {
            Ok(loaded) => *self.schedules.lock() = loaded,
            Err(error) => tracing::error!(%error, "schedules are not readable"),
        }
        match Agents::load(self.catalogue()) {
            Ok(agents) => *self.agents.lock() = agents,
            Err(error) => tracing::error!(%error, "registered agents are not readable"),
        }
        tracing::info!(unfinished = table.unfinished(), "jobs are back");
    }

    fn projects(&self, _: Kind) -> bool {
        true
    }

    fn project(
        &self,
        kind: Kind,
        lsn: Lsn,
        payload: &[u8],
        catalogue: &Catalogue,
        batch: &mut Batch,
    ) -> Result<(), String> {
        match kind {
            Kind::Agent => agents::project(payload, batch),
            Kind::Setting => {
                settings::project(payload, batch)?;
                self.webhooks.set(payload, catalogue, batch)
            }
            _ => {
                if let Some(applied) = store::project(payload, catalogue, batch)? {
                    self.webhooks.applied(lsn.0, &applied, catalogue, batch)?;
                    if let Some(index) = self.index.get() {
                        index.touched(lsn, &applied.after.head.id);
                    }
                }
                Ok(())
            }
        }
    }

    fn relocate(&self, _: Kind, _: Lsn, _: &[u8], _: Permit) -> Option<Commit> {
        None
    }
}
