//! Queries under way, and what they have answered: a bounded number of them, for a bounded time.
//!
//! A query runs on its own, a few at once; who asked comes back for the rows. They are in memory: after a restart a query is
//! unknown, as one is at Amazon after a week.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use backlot_windows::Order;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::event::Event;
use super::fields::token;
use super::insights::{Input, Query, Run, Stopped};
use super::source::{Asked, Selection, Source};
use crate::tasks::Stage;

/// Queries that are scheduled or running (AWS), and those that really run.
const UNDER_WAY_MAX: usize = 30;
const AT_ONCE: usize = 2;
/// Queries that are remembered, for how long, and bytes of all their rows.
const KEPT_MAX: usize = 200;
const KEPT_MS: u64 = 3_600_000;
const KEPT_BYTES_MAX: usize = 64 << 20;
/// Longest time that a query runs.
const TIME_MAX: Duration = Duration::from_secs(300);

pub(super) type Rows = Vec<Vec<(String, String)>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Scheduled,
    Running,
    Complete,
    Failed,
    Cancelled,
    Timeout,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "Scheduled",
            Self::Running => "Running",
            Self::Complete => "Complete",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
            Self::Timeout => "Timeout",
        }
    }

    pub(super) fn is_under_way(self) -> bool {
        matches!(self, Self::Scheduled | Self::Running)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Statistics {
    pub(super) matched: u64,
    pub(super) scanned: u64,
    pub(super) bytes: u64,
}

/// What is known of a query.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) id: String,
    pub(super) text: String,
    pub(super) groups: Vec<String>,
    pub(super) created_ms: u64,
    pub(super) took_ms: u64,
    pub(super) status: Status,
    pub(super) statistics: Statistics,
    pub(super) rows: Arc<Rows>,
}

struct Entry {
    told: Told,
    cancel: CancellationToken,
    began_mono_ms: u64,
    bytes: usize,
}

/// What is asked for.
pub(super) struct Job {
    pub(super) text: String,
    pub(super) query: Query,
    pub(super) groups: Vec<String>,
    pub(super) selection: Selection,
    pub(super) from_ns: i64,
    pub(super) to_ns: i64,
    pub(super) limit: usize,
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Queries {
    source: Source,
    stage: Stage,
    turns: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    entries: HashMap<String, Entry>,
    /// Their ids, the oldest first.
    order: VecDeque<String>,
}

impl Queries {
    pub(super) fn new(source: Source, stage: Stage) -> Self {
        Self { source, stage, turns: Arc::new(Semaphore::new(AT_ONCE)), state: Arc::default() }
    }

    /// Begins a query; `None` when too many are under way.
    pub(super) fn start(&self, job: Job) -> Option<String> {
        let now = self.source.logs.store.now();
        let cancel = CancellationToken::new();
        let told = Told {
            id: Uuid::new_v4().to_string(),
            text: job.text.clone(),
            groups: job.groups.clone(),
            created_ms: now.wall_ms,
            took_ms: 0,
            status: Status::Scheduled,
            statistics: Statistics::default(),
            rows: Arc::default(),
        };
        let id = told.id.clone();
        {
            let mut state = self.state.lock();
            state.forget(now.mono_ms);
            if state.entries.values().filter(|entry| entry.told.status.is_under_way()).count() >= UNDER_WAY_MAX {
                return None;
            }
            let entry = Entry { told, cancel: cancel.clone(), began_mono_ms: now.mono_ms, bytes: 0 };
            state.entries.insert(id.clone(), entry);
            state.order.push_back(id.clone());
        }
        let (queries, of, stopping) = (self.clone(), id.clone(), self.stage.stopping());
        self.stage.spawn_short(async move {
            let outcome = tokio::select! {
                () = cancel.cancelled() => (Status::Cancelled, Rows::new()),
                () = stopping.cancelled() => (Status::Cancelled, Rows::new()),
                outcome = tokio::time::timeout(TIME_MAX, queries.run(&of, job)) => {
                    outcome.unwrap_or((Status::Timeout, Rows::new()))
                }
            };
            queries.end(&of, outcome);
        });
        Some(id)
    }

    /// What is known of a query; `None` when it is unknown.
    pub(super) fn told(&self, id: &str) -> Option<Told> {
        let mut state = self.state.lock();
        state.forget(self.source.logs.store.now().mono_ms);
        state.entries.get(id).map(|entry| entry.told.clone())
    }

    /// All that are remembered, the newest first.
    pub(super) fn all(&self) -> Vec<Told> {
        let state = self.state.lock();
        state.order.iter().rev().filter_map(|id| state.entries.get(id)).map(|entry| entry.told.clone()).collect()
    }

    /// Ends a query. Answers how it stood.
    pub(super) fn stop(&self, id: &str) -> Option<Status> {
        let mut state = self.state.lock();
        let entry = state.entries.get_mut(id)?;
        let before = entry.told.status;
        if before.is_under_way() {
            entry.told.status = Status::Cancelled;
            entry.cancel.cancel();
        }
        Some(before)
    }

    async fn run(&self, id: &str, job: Job) -> (Status, Rows) {
        let Ok(_turn) = self.turns.acquire().await else { return (Status::Cancelled, Rows::new()) };
        self.note(id, |told| told.status = Status::Running);
        let order = if job.query.oldest_first() { Order::Oldest } else { Order::Newest };
        let mut run = job.query.run(job.limit);
        let mut statistics = Statistics::default();
        let mut after = None;
        loop {
            let asked = Asked { after, ..Asked::all(job.from_ns, job.to_ns, order) };
            let page = match self.source.page(&job.selection, asked).await {
                Ok(page) => page,
                // Others search; the query has time.
                Err(error) if error.shape == "ThrottlingException" => continue,
                Err(error) => {
                    tracing::warn!(id, problem = error.message, "a query failed");
                    return (Status::Failed, Rows::new());
                }
            };
            statistics.scanned += page.looked as u64;
            statistics.bytes += page.bytes as u64;
            let (more, last) = (page.more, page.last);
            let fed = tokio::task::spawn_blocking(move || {
                let outcome = feed(&mut run, page.events);
                (run, outcome)
            });
            let wanted = match fed.await {
                Ok((back, Ok(wanted))) => {
                    run = back;
                    wanted
                }
                Ok((_, Err(stopped))) => return failed(id, &stopped),
                Err(error) => {
                    tracing::error!(id, %error, "a query failed");
                    return (Status::Failed, Rows::new());
                }
            };
            statistics.matched = run.matched;
            self.note(id, |told| told.statistics = statistics);
            after = last.or(after);
            if !more || !wanted {
                break;
            }
        }
        match tokio::task::spawn_blocking(move || run.finish()).await {
            Ok(Ok(rows)) => (Status::Complete, rows),
            Ok(Err(stopped)) => failed(id, &stopped),
            Err(error) => {
                tracing::error!(id, %error, "a query failed");
                (Status::Failed, Rows::new())
            }
        }
    }

    fn note(&self, id: &str, change: impl FnOnce(&mut Told)) {
        let mut state = self.state.lock();
        if let Some(entry) = state.entries.get_mut(id).filter(|entry| entry.told.status.is_under_way()) {
            change(&mut entry.told);
        }
    }

    fn end(&self, id: &str, (status, rows): (Status, Rows)) {
        let now = self.source.logs.store.now();
        let mut state = self.state.lock();
        if let Some(entry) = state.entries.get_mut(id) {
            entry.told.status = status;
            entry.told.took_ms = now.mono_ms.saturating_sub(entry.began_mono_ms);
            entry.bytes = rows.iter().flatten().map(|(name, value)| name.len() + value.len() + 64).sum();
            entry.told.rows = Arc::new(rows);
        }
        state.forget(now.mono_ms);
    }
}

fn failed(id: &str, stopped: &Stopped) -> (Status, Rows) {
    tracing::warn!(id, problem = %stopped, "a query failed");
    (Status::Failed, Rows::new())
}

/// Puts events into a query; answers whether more are wanted.
fn feed(run: &mut Run, events: Vec<Event>) -> Result<bool, Stopped> {
    for event in events {
        if !run.add(&input(event))? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn input(event: Event) -> Input {
    // What is no object of JSON has what the store knows of it.
    let fields = (!event.message.trim_start().starts_with('{')).then(|| event.fields());
    Input {
        time_ms: event.time_ms(),
        ingested_ms: event.ingested_ms(),
        log: format!("000000000000:{}", event.group),
        ptr: token(event.position),
        stream: event.stream,
        message: event.message,
        fields,
    }
}

impl State {
    /// Forgets the oldest that have ended: those that are too old, too many or too large.
    fn forget(&mut self, mono_ms: u64) {
        let mut bytes: usize = self.entries.values().map(|entry| entry.bytes).sum();
        let mut count = self.entries.len();
        let entries = &mut self.entries;
        self.order.retain(|id| {
            let Some(entry) = entries.get(id) else { return false };
            let old = mono_ms.saturating_sub(entry.began_mono_ms) > KEPT_MS;
            let goes = !entry.told.status.is_under_way() && (old || count > KEPT_MAX || bytes > KEPT_BYTES_MAX);
            if goes {
                bytes -= entry.bytes;
                count -= 1;
                entries.remove(id);
            }
            !goes
        });
    }
}
