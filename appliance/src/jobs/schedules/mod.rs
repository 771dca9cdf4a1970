//! Schedules: jobs that are queued at the times of a cron expression.
//!
//! A run's job id follows from the schedule's name and the time, so that a time is never queued twice, whatever happens
//! between queueing the job and noting that it was. What a schedule has done is one record; everything else follows from it
//! and from the clock.
//!
//! A time that is older than a minute when it is looked at has been *missed*: the appliance was not running. Times at
//! which a schedule is paused are no times of it.

pub(super) mod api;
mod cron;
pub(super) mod record;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use backlot_wire::job::{canonical_type, is_name};
use backlot_wire::{JobSpec, Missed, Schedule, ScheduleOrder, Timestamp};
use jiff::tz::TimeZone;
use serde_json::Value;

use self::cron::Cron;
use self::record::Stored;
use super::{Jobs, JobsError, store};
use crate::catalogue::Catalogue;
use crate::clock::Now;
use crate::queue::QueueError;

/// Most schedules.
const SCHEDULES_MAX: usize = 1_000;
/// Longest name, so that a run's id is none that is too long.
const NAME_BYTES_MAX: usize = 100;
/// Largest job of a schedule, in bytes of JSON.
const JOB_BYTES_MAX: usize = 64 * 1024;
/// A time that is older has been missed.
const ON_TIME_MS: i64 = 60_000;
/// Most missed times that are caught up with.
const CAUGHT_UP_MAX: usize = 100;
/// The pause before a run that could not be queued is tried again.
const AGAIN_MS: i64 = 5_000;
/// Times that are shown ahead.
const SHOWN: usize = 5;
/// How far back missed times are looked for, in steps: each holds enough of them, or few enough to count.
const LOOK_BACK_MS: [i64; 5] = [3_600_000, 86_400_000, 8 * 86_400_000, 40 * 86_400_000, 400 * 86_400_000];
const LABEL: &str = "schedule";

/// All schedules. The caller's lock makes it safe to share.
#[derive(Default)]
pub(super) struct Schedules {
    known: BTreeMap<String, Known>,
}

#[derive(Clone)]
struct Known {
    stored: Stored,
    timing: Timing,
    /// When it is looked at next, in wall milliseconds; `None`: it is paused, or never comes.
    next_ms: Option<i64>,
}

/// When a schedule comes.
#[derive(Clone)]
struct Timing {
    cron: Cron,
    zone: TimeZone,
}

impl Timing {
    fn of(order: &ScheduleOrder) -> Result<Self, String> {
        let zone = match order.timezone.as_str() {
            "UTC" => TimeZone::UTC,
            name => {
                TimeZone::get(name).map_err(|_| format!("`timezone`: `{name}` is no time zone that is known here"))?
            }
        };
        Ok(Self { cron: Cron::parse(&order.cron)?, zone })
    }

    fn next(&self, after_ms: i64) -> Option<i64> {
        self.cron.next(&self.zone, after_ms)
    }

    /// The times after `after_ms` up to `until_ms`, soonest first; of many, at least the last [`CAUGHT_UP_MAX`].
    fn between(&self, after_ms: i64, until_ms: i64) -> Vec<i64> {
        let walk = |from_ms: i64| {
            let mut at_ms = from_ms;
            std::iter::from_fn(move || {
                at_ms = self.next(at_ms).filter(|next_ms| *next_ms <= until_ms)?;
                Some(at_ms)
            })
            .collect::<Vec<_>>()
        };
        for back_ms in LOOK_BACK_MS {
            let from_ms = until_ms - back_ms;
            if from_ms <= after_ms {
                break;
            }
            let found = walk(from_ms);
            if found.len() >= CAUGHT_UP_MAX {
                return found;
            }
        }
        walk(after_ms)
    }
}

/// Which of the times that have come are to be run, soonest first.
fn chosen(missed: Missed, times: &[i64], now_ms: i64) -> Vec<i64> {
    let split = times.partition_point(|at_ms| now_ms - at_ms > ON_TIME_MS);
    let (late, on_time) = times.split_at(split);
    let caught_up = match missed {
        Missed::Skip => &[][..],
        Missed::Last if on_time.is_empty() => &late[late.len().saturating_sub(1)..],
        Missed::Last => &[],
        Missed::All => &late[late.len().saturating_sub(CAUGHT_UP_MAX)..],
    };
    [caught_up, on_time].concat()
}

/// Takes a stored schedule as [`Schedules::load`] does: for fuzzing.
pub(super) fn fuzz_stored(stored: Stored) {
    if let Ok(timing) = Timing::of(&stored.order) {
        Schedules::default().put(Now::default(), stored, timing);
    }
}

impl Schedules {
    /// Reads what the catalogue holds.
    pub(super) fn load(now: Now, catalogue: &Catalogue) -> Result<Self, store::StoreError> {
        let mut schedules = Self::default();
        for stored in record::all(catalogue, SCHEDULES_MAX)? {
            match Timing::of(&stored.order) {
                Ok(timing) => schedules.put(now, stored, timing),
                // A time zone of a later version's database. It is shown to nobody, and comes back with that version.
                Err(problem) => tracing::error!(schedule = stored.name, problem, "a schedule is not understood"),
            }
        }
        Ok(schedules)
    }

    fn put(&mut self, now: Now, stored: Stored, timing: Timing) {
        let next_ms = (!stored.order.paused).then(|| timing.next(from_ms(now, &stored))).flatten();
        self.known.insert(stored.name.clone(), Known { stored, timing, next_ms });
    }

    fn due(&self, now_ms: i64) -> Vec<Known> {
        self.known.values().filter(|known| known.next_ms.is_some_and(|next_ms| next_ms <= now_ms)).cloned().collect()
    }
}

impl Known {
    fn shown(&self, now: Now) -> Schedule {
        let mut at_ms = from_ms(now, &self.stored).max(signed(now.wall_ms));
        let ahead = || {
            at_ms = self.timing.next(at_ms)?;
            Some(Timestamp(u64::try_from(at_ms).unwrap_or(0)))
        };
        let Stored { name, order, created_at, updated_at, last_at, last_job_id, last_error, .. } = self.stored.clone();
        let next = if order.paused { Vec::new() } else { std::iter::from_fn(ahead).take(SHOWN).collect() };
        Schedule { name, order, created_at, updated_at, next, last_at, last_job_id, last_error }
    }
}

/// Times after this one have not been looked at.
fn from_ms(now: Now, stored: &Stored) -> i64 {
    signed(stored.seen_at.map_or(now.wall_ms, Timestamp::unix_ms))
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Id of the job that `name` queues at `at_ms`.
fn run_id(name: &str, at_ms: i64) -> String {
    let text = Timestamp(u64::try_from(at_ms).unwrap_or(0)).to_rfc3339();
    let digits: String = text.chars().take(16).filter(|c| *c != '-' && *c != ':').collect();
    format!("{name}.{digits}Z")
}

/// The job of one run.
fn run_spec(stored: &Stored, at_ms: i64) -> Result<JobSpec, String> {
    let mut spec: JobSpec =
        serde_json::from_value(Value::Object(stored.order.job.clone())).map_err(|error| error.to_string())?;
    spec.kind = canonical_type(&spec.kind).to_owned();
    spec.job_id = Some(run_id(&stored.name, at_ms));
    spec.labels.entry(LABEL.to_owned()).or_insert_with(|| stored.name.clone());
    spec.check().map_err(|error| error.to_string())?;
    Ok(spec)
}

fn check(name: &str, order: &ScheduleOrder) -> Result<(), String> {
    if name.len() > NAME_BYTES_MAX || !is_name(name) {
        return Err(format!("a schedule's name is 1 to {NAME_BYTES_MAX} letters, digits, `.`, `_`, `-`"));
    }
    if let Some(field) = order.extra.keys().next() {
        return Err(format!("`{field}` is no field of a schedule"));
    }
    if let Some(field) =
        ["job_id", "run_at", "delay_s", "created_at", "flow_id"].iter().find(|f| order.job.contains_key(**f))
    {
        return Err(format!("`job` cannot have `{field}`: it follows from the schedule"));
    }
    if serde_json::to_vec(&order.job).map_or(usize::MAX, |json| json.len()) > JOB_BYTES_MAX {
        return Err(format!("`job` is larger than {JOB_BYTES_MAX} bytes"));
    }
    Ok(())
}

impl Jobs {
    /// Makes a schedule, or puts another in its place. True: it is new.
    ///
    /// # Errors
    /// [`JobsError::Invalid`] says what is wrong with it; [`JobsError::NotAJobQueue`], [`JobsError::Full`].
    pub async fn put_schedule(
        &self,
        name: &str,
        order: ScheduleOrder,
        sender_id: &str,
    ) -> Result<(Schedule, bool), JobsError> {
        check(name, &order).map_err(JobsError::Invalid)?;
        let timing = Timing::of(&order).map_err(JobsError::Invalid)?;
        if !self.queues.is_job_queue(&order.queue)? {
            return Err(JobsError::NotAJobQueue(order.queue));
        }
        let now = self.book.clock.now();
        if timing.next(signed(now.wall_ms)).is_none() {
            return Err(JobsError::Invalid(format!("`{}` never comes", order.cron)));
        }
        let _turn = self.turn(SCHEDULES_TURN).await;
        let known = self.book.schedules.lock().known.get(name).map(|known| known.stored.clone());
        let same_times = known.as_ref().is_some_and(|known| {
            known.order.cron == order.cron && known.order.timezone == order.timezone && !known.order.paused
        });
        let at = now.timestamp();
        let is_new = known.is_none();
        let before = known.unwrap_or_else(|| Stored::new(name, order.clone(), at));
        let stored = Stored {
            order,
            updated_at: at,
            sender_id: sender_id.to_owned(),
            seen_at: if same_times { before.seen_at } else { Some(at) },
            ..before
        };
        run_spec(&stored, signed(now.wall_ms)).map_err(|problem| JobsError::Invalid(format!("`job`: {problem}")))?;
        if is_new && self.book.schedules.lock().known.len() >= SCHEDULES_MAX {
            return Err(JobsError::Full(format!("there are {SCHEDULES_MAX} schedules")));
        }
        self.write(vec![stored.encode()]).await?;
        let mut schedules = self.book.schedules.lock();
        schedules.put(now, stored, timing);
        let shown = schedules.known.get(name).map(|known| known.shown(now));
        Ok((shown.ok_or_else(|| JobsError::NoSuchSchedule(name.to_owned()))?, is_new))
    }

    /// Pauses a schedule, or has it go on.
    ///
    /// # Errors
    /// [`JobsError::NoSuchSchedule`].
    pub async fn pause_schedule(&self, name: &str, paused: bool) -> Result<Schedule, JobsError> {
        let known = self.book.schedules.lock().known.get(name).map(|known| known.stored.clone());
        let stored = known.ok_or_else(|| JobsError::NoSuchSchedule(name.to_owned()))?;
        let order = ScheduleOrder { paused, ..stored.order };
        Ok(self.put_schedule(name, order, &stored.sender_id).await?.0)
    }

    /// Forgets a schedule. The jobs that it has queued stay.
    ///
    /// # Errors
    /// [`JobsError::NoSuchSchedule`].
    pub async fn delete_schedule(&self, name: &str) -> Result<(), JobsError> {
        let _turn = self.turn(SCHEDULES_TURN).await;
        let known = self.book.schedules.lock().known.get(name).map(|known| known.stored.clone());
        let stored = known.ok_or_else(|| JobsError::NoSuchSchedule(name.to_owned()))?;
        self.write(vec![Stored { deleted: true, ..stored }.encode()]).await?;
        self.book.schedules.lock().known.remove(name);
        Ok(())
    }

    /// Schedule `name`.
    ///
    /// # Errors
    /// [`JobsError::NoSuchSchedule`].
    pub fn schedule(&self, name: &str) -> Result<Schedule, JobsError> {
        let now = self.book.clock.now();
        let schedules = self.book.schedules.lock();
        schedules
            .known
            .get(name)
            .map(|known| known.shown(now))
            .ok_or_else(|| JobsError::NoSuchSchedule(name.to_owned()))
    }

    /// All schedules, by name.
    #[must_use]
    pub fn schedules(&self) -> Vec<Schedule> {
        let now = self.book.clock.now();
        self.book.schedules.lock().known.values().map(|known| known.shown(now)).collect()
    }

    /// Queues what has come due.
    pub(super) async fn run_schedules(&self) {
        let now = self.book.clock.now();
        if self.book.schedules.lock().due(signed(now.wall_ms)).is_empty() {
            return;
        }
        let _turn = self.turn(SCHEDULES_TURN).await;
        let due = self.book.schedules.lock().due(signed(now.wall_ms));
        for known in due {
            if let Err(error) = self.run_schedule(now, &known).await {
                tracing::warn!(schedule = known.stored.name, %error, "a scheduled job was not queued; it is tried again");
                let mut schedules = self.book.schedules.lock();
                if let Some(known) = schedules.known.get_mut(&known.stored.name) {
                    known.next_ms = Some(signed(now.wall_ms) + AGAIN_MS);
                }
            }
        }
    }

    async fn run_schedule(&self, now: Now, known: &Known) -> Result<(), JobsError> {
        let now_ms = signed(now.wall_ms);
        let times = known.timing.between(from_ms(now, &known.stored), now_ms);
        let mut stored = known.stored.clone();
        for at_ms in chosen(stored.order.missed, &times, now_ms) {
            match self.queue_run(&stored, at_ms).await? {
                Ok(job_id) => (stored.last_job_id, stored.last_error) = (Some(job_id), None),
                Err(problem) => {
                    tracing::error!(schedule = stored.name, problem, "a scheduled job cannot be queued");
                    stored.last_error = Some(problem);
                }
            }
        }
        let seen = times.last().map(|at_ms| Timestamp(u64::try_from(*at_ms).unwrap_or(0)));
        (stored.last_at, stored.seen_at) = (seen.or(stored.last_at), seen.or(stored.seen_at));
        self.write(vec![stored.encode()]).await?;
        self.book.schedules.lock().put(now, stored, known.timing.clone());
        Ok(())
    }

    /// Queues one run. The outer error passes; the inner one would come again.
    async fn queue_run(&self, stored: &Stored, at_ms: i64) -> Result<Result<String, String>, JobsError> {
        let spec = match run_spec(stored, at_ms) {
            Ok(spec) => spec,
            Err(problem) => return Ok(Err(problem)),
        };
        let id = run_id(&stored.name, at_ms);
        match self.submit(&stored.order.queue, spec, None, &stored.sender_id).await {
            Ok((job, _)) => Ok(Ok(job.id)),
            // Queued before a crash, and the schedule's job was another one then.
            Err(JobsError::Exists(_)) => Ok(Ok(id)),
            Err(error @ (JobsError::Full(_) | JobsError::Control(_) | JobsError::Store(_) | JobsError::Busy(_))) => {
                Err(error)
            }
            Err(JobsError::Queue(error @ QueueError::Store { .. })) => Err(error.into()),
            Err(error) => Ok(Err(error.to_string())),
        }
    }
}

/// Schedules change one at a time.
const SCHEDULES_TURN: &str = "schedules";
