//! Alerting: feeds the rules' engine with what the metrics say, keeps its state over restarts, and delivers.
//!
//! A turn evaluates what is due, writes down in one journal group what changed (alerts, what receivers were told, notifications
//! on their way), and only then lets a notification be sent. So a restart neither forgets a firing alert or a notification, nor begins
//! a rule's `for` again. Delivery is at least once, in order for each receiver, with a message id that stays the same.
//!
//! Absent on purpose, until an issue needs them: silences, inhibition, routing by label, mail.

mod api;
mod ledger;
mod outbox;
mod receiver;
mod sns;
#[cfg(test)]
mod tests;
mod webhook;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use backlot_alerts::{
    Alert, Element, Engine, GroupState, Moment, Notifier, Timing,
    rules::{self, RuleError},
};
use backlot_journal::Lsn;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

pub use api::routes;

use crate::clock::{Clock, Now};
use crate::config::AlertingConfig;
use crate::control::{Commit, Control, Follower, Kind, Permit};
use crate::tasks::Stage;
use ledger::Ledger;
pub use ledger::fuzz_journal;
use outbox::{Entry, Outbox};
use receiver::Receiver;

/// How long a turn waits at most when nothing is due, so that a clock that was changed cannot stop it.
const TURN_WAIT_MAX: Duration = Duration::from_secs(15);

/// What alerting needs of the metrics.
pub trait MetricsReader: Send + Sync + 'static {
    /// Whether `expression` can be read.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it.
    fn check(&self, expression: &str) -> Result<(), String>;

    /// The instant vector that `expression` gives now; a scalar is one element without labels.
    fn query<'a>(&'a self, expression: &'a str) -> BoxFuture<'a, Result<Vec<Element>, String>>;
}

/// Why alerting is not configured well.
#[derive(Debug, thiserror::Error)]
pub enum AlertingError {
    #[error("alerting.rules_files: {path}: {problem}")]
    RulesFile { path: String, problem: String },
    #[error("alerting.rules_files: {path}: {source}")]
    Rules { path: String, source: RuleError },
    #[error("alerting.rules_files: {path}: rule `{rule}`: {problem}")]
    Expression { path: String, rule: String, problem: String },
    #[error("alerting.rules_files: the group `{0}` is there twice")]
    GroupTwice(String),
    #[error("alerting.{key}: {problem}")]
    Receiver { key: &'static str, problem: String },
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct Alerting {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    config: AlertingConfig,
    reader: Arc<dyn MetricsReader>,
    ledger: Ledger,
    receivers: Vec<Receiver>,
    state: Mutex<State>,
    /// One turn or delivery result is written at a time, so that the journal's order is that of the decisions.
    writing: tokio::sync::Mutex<()>,
    /// There is something to deliver.
    outgoing: Notify,
}

struct State {
    engine: Engine,
    notifier: Notifier,
    outbox: Outbox,
    /// Rules whose alerts are not yet written down as they are.
    unsaved: BTreeSet<(usize, usize)>,
    /// When each group is due, on the monotonic clock.
    due_mono_ms: Vec<u64>,
}

fn moment(now: Now) -> Moment {
    Moment { mono_ms: now.mono_ms, wall_ms: now.wall_ms }
}

impl Alerting {
    /// Reads the rules and prepares the receivers. Hand the handle to the replay as a [`Follower`] before [`Alerting::start`].
    ///
    /// # Errors
    /// [`AlertingError`] names the configuration key, and for a rule the file, group and rule.
    pub fn build(
        control: Control,
        clock: Arc<dyn Clock>,
        config: &AlertingConfig,
        reader: Arc<dyn MetricsReader>,
    ) -> Result<Self, AlertingError> {
        let groups = read_rules(config, reader.as_ref())?;
        let receivers = receiver::all(config)?;
        let timing = Timing {
            group_wait_ms: config.group_wait_s.saturating_mul(1000),
            group_interval_ms: config.group_interval_s.saturating_mul(1000),
            repeat_ms: config.repeat_interval_s.saturating_mul(1000),
        };
        let names = receivers.iter().map(|receiver| receiver.name.clone()).collect();
        let state = State {
            due_mono_ms: vec![0; groups.len()],
            engine: Engine::new(groups),
            notifier: Notifier::new(timing, names),
            outbox: Outbox::default(),
            unsaved: BTreeSet::new(),
        };
        let shared = Shared {
            clock,
            config: config.clone(),
            reader,
            ledger: Ledger::new(control),
            receivers,
            state: Mutex::new(state),
            writing: tokio::sync::Mutex::new(()),
            outgoing: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Starts evaluation and delivery.
    pub fn start(&self, stage: &Stage) {
        let (shared, stop) = (Arc::clone(&self.shared), stage.stopping());
        stage.spawn("alert evaluation", async move {
            loop {
                let wait = tokio::select! {
                    () = stop.cancelled() => return,
                    wait = shared.turn() => wait,
                };
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        });
        for index in 0..self.shared.receivers.len() {
            let (shared, stop) = (Arc::clone(&self.shared), stage.stopping());
            stage.spawn("alert delivery", async move {
                tokio::select! {
                    () = stop.cancelled() => {} // an attempt that is cut off counts as not made: it comes again
                    () = shared.deliver(index) => {}
                }
            });
        }
    }
}

impl Follower for Alerting {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Alert]
    }

    fn replay(&self, _: Kind, lsn: Lsn, payload: &[u8]) -> Result<(), String> {
        self.shared.ledger.replay(lsn, payload)
    }

    fn replayed(&self, now: Now) {
        self.shared.restore(now);
    }

    fn relocate(&self, _: Kind, lsn: Lsn, payload: &[u8], permit: Permit) -> Option<Commit> {
        self.shared.ledger.relocate(lsn, payload, permit)
    }

    fn live_bytes(&self) -> u64 {
        self.shared.ledger.live_bytes()
    }
}

impl Shared {
    /// Puts together again what the journal said.
    fn restore(&self, now: Now) {
        let grace_ms = self.config.restart_grace_s.saturating_mul(1000);
        let mut state = self.state.lock();
        let mut unreadable = 0;
        for (key, value) in self.ledger.all() {
            let read = match key.split_once('/') {
                Some(("rule", rule)) => serde_json::from_str::<Vec<Alert>>(&value)
                    .map(|alerts| state.engine.restore(rule, alerts, moment(now), grace_ms)),
                Some(("group", of)) => serde_json::from_str::<GroupState>(&value).map(|group| {
                    let (receiver, alert) = of.split_once('/').unwrap_or((of, ""));
                    state.notifier.restore(receiver, alert, group, moment(now));
                }),
                Some(("out", id)) => serde_json::from_str(&value).map(|entry| state.outbox.restore(id, entry, now)),
                Some(("try", id)) => {
                    serde_json::from_str(&value).map(|tries| state.outbox.restore_tries(id, tries, now))
                }
                _ => Ok(()),
            };
            unreadable += usize::from(read.is_err());
        }
        if unreadable > 0 {
            tracing::error!(unreadable, "some of the stored alert state could not be read and begins anew");
        }
        let known: BTreeSet<&str> = self.receivers.iter().map(|receiver| receiver.name.as_str()).collect();
        state.outbox.keep_receivers(&known);
    }

    /// One turn: evaluates the groups that are due, decides what is said, writes it down. Returns how long to wait.
    async fn turn(&self) -> Duration {
        for (group, rules) in self.due() {
            for (rule, expression) in rules.into_iter().enumerate() {
                let began = moment(self.clock.now());
                let result = self.reader.query(&expression).await;
                if let Err(problem) = &result {
                    tracing::warn!(expression, problem, "an alert rule could not be evaluated");
                }
                let now = moment(self.clock.now());
                let mut state = self.state.lock();
                state.engine.timed(group, rule, began, now);
                if state.engine.evaluated(group, rule, result, now) {
                    state.unsaved.insert((group, rule));
                }
            }
        }
        {
            let now = self.clock.now();
            let mut state = self.state.lock();
            let State { engine, notifier, outbox, .. } = &mut *state;
            for notification in notifier.decide(engine.alerts(), moment(now)) {
                tracing::info!(
                    receiver = notification.receiver,
                    alert = notification.alert,
                    alerts = notification.alerts.len(),
                    firing = notification.is_firing(),
                    "notifies"
                );
                outbox.push(Entry { id: Uuid::new_v4().to_string(), notification }, now);
            }
        }
        self.write().await;
        let now_ms = self.clock.now().mono_ms;
        let next_ms = self.state.lock().due_mono_ms.iter().copied().min().unwrap_or(u64::MAX);
        // Groups of notifications become due between evaluations too.
        Duration::from_millis(next_ms.saturating_sub(now_ms)).min(TURN_WAIT_MAX).min(self.shortest())
    }

    fn shortest(&self) -> Duration {
        let config = &self.config;
        Duration::from_secs(config.group_wait_s.min(config.group_interval_s).min(config.interval_s).clamp(1, 15))
    }

    /// The groups that are due, with their expressions; each is due again an interval later.
    fn due(&self) -> Vec<(usize, Vec<String>)> {
        let now_ms = self.clock.now().mono_ms;
        let mut state = self.state.lock();
        let State { engine, due_mono_ms, .. } = &mut *state;
        let mut due = Vec::new();
        for (index, group) in engine.groups().enumerate() {
            if due_mono_ms[index] <= now_ms {
                let interval_ms = group.interval_ms.unwrap_or(self.config.interval_s.max(1).saturating_mul(1000));
                due_mono_ms[index] = now_ms.saturating_add(interval_ms);
                due.push((index, group.rules.iter().map(|rule| rule.expr.clone()).collect()));
            }
        }
        due
    }

    /// Writes down what is not yet; what cannot be written now is tried again at the next turn.
    async fn write(&self) {
        let _one = self.writing.lock().await;
        let (wanted, rules) = {
            let state = self.state.lock();
            let mut wanted: BTreeMap<String, Option<String>> = BTreeMap::new();
            for &(group, rule) in &state.unsaved {
                let alerts = state.engine.stored(group, rule);
                let key = format!("rule/{}", state.engine.key(group, rule));
                wanted.insert(key, if alerts.is_empty() { None } else { serde_json::to_string(&alerts).ok() });
            }
            for ((receiver, alert), group) in state.notifier.stored() {
                wanted.insert(format!("group/{receiver}/{alert}"), serde_json::to_string(group).ok());
            }
            wanted.extend(state.outbox.stored());
            (wanted, state.unsaved.clone())
        };
        match self.ledger.make_equal(wanted, &["group/", "out/", "try/"]).await {
            Ok(()) => {
                let mut state = self.state.lock();
                state.unsaved.retain(|rule| !rules.contains(rule));
                state.outbox.saved(|id| self.ledger.holds(&format!("out/{id}")));
                drop(state);
                self.outgoing.notify_waiters();
            }
            Err(error) => tracing::error!(%error, "could not write down the alerts' state; it is tried again"),
        }
    }

    /// Delivers to one receiver, oldest first, for ever.
    async fn deliver(&self, index: usize) {
        let receiver = &self.receivers[index];
        let age_max_ms = self.config.delivery_age_s_max.saturating_mul(1000);
        loop {
            let outgoing = self.outgoing.notified();
            let now = self.clock.now();
            let next = self.state.lock().outbox.next(&receiver.name, now);
            let entry = match next {
                outbox::Next::Now(entry) => entry,
                outbox::Next::After(wait) => {
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = outgoing => {}
                    }
                    continue;
                }
            };
            let result = receiver.send(&entry, &self.config.external_url).await;
            let now = self.clock.now();
            let outcome = {
                let mut state = self.state.lock();
                match &result {
                    Ok(()) => state.outbox.delivered(&entry.id),
                    Err(problem) => state.outbox.failed(&entry.id, problem, now, age_max_ms, rand::random::<f64>()),
                }
            };
            receiver.count(outcome);
            match (&result, outcome) {
                (Ok(()), _) => tracing::info!(receiver = receiver.name, id = entry.id, "delivered a notification"),
                (Err(problem), outbox::Outcome::GivenUp) => {
                    tracing::error!(
                        receiver = receiver.name,
                        target = receiver.target,
                        id = entry.id,
                        problem,
                        "gave up a notification"
                    );
                }
                (Err(problem), _) => {
                    tracing::warn!(
                        receiver = receiver.name,
                        target = receiver.target,
                        id = entry.id,
                        problem,
                        "could not deliver a notification"
                    );
                }
            }
            self.write().await;
        }
    }
}

/// The default rules, if wanted, and those of the files; each expression is checked.
fn read_rules(config: &AlertingConfig, reader: &dyn MetricsReader) -> Result<Vec<rules::Group>, AlertingError> {
    let mut texts = Vec::new();
    if config.default_rules {
        texts.push(("the default rules".to_owned(), backlot_alerts::DEFAULT_RULES.to_owned()));
    }
    for path in &config.rules_files {
        let text = std::fs::read_to_string(path)
            .map_err(|error| AlertingError::RulesFile { path: path.clone(), problem: error.to_string() })?;
        texts.push((path.clone(), text));
    }
    let mut names = BTreeSet::new();
    let mut groups = Vec::new();
    for (path, text) in texts {
        for group in rules::parse(&text).map_err(|source| AlertingError::Rules { path: path.clone(), source })? {
            for rule in &group.rules {
                reader.check(&rule.expr).map_err(|problem| AlertingError::Expression {
                    path: path.clone(),
                    rule: rule.alert.clone(),
                    problem,
                })?;
            }
            if !names.insert(group.name.clone()) {
                return Err(AlertingError::GroupTwice(group.name));
            }
            groups.push(group);
        }
    }
    Ok(groups)
}
