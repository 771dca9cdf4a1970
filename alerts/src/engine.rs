//! The engine: results of rules' expressions in, alerts out. inactive → pending → firing → resolved.
//!
//! `for` is counted on the monotonic clock within a run and on the wall clock across a restart. After a restart an alert that was
//! active is held for a grace in which its absence means nothing: the metrics may not have come back yet.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::rules::{Group, Rule};
use crate::{ALERT_NAME, Moment, Since};

/// Most alerts of one rule. More is an error of the rule, as with Prometheus's `limit`.
const ALERTS_MAX: usize = 500;
/// How long a resolved alert is kept, so that its end is told.
const RESOLVED_KEPT_MS: u64 = 15 * 60 * 1000;

/// One element of the vector that an expression gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Element {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

/// Where an alert is. A rule without an active alert is inactive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Pending,
    Firing,
    Resolved,
}

/// One alert of one rule, for one set of labels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    pub state: State,
    /// The series', the rule's, and `alertname`.
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Last value of the expression.
    #[serde(with = "float")]
    pub value: f64,
    /// When the expression began to hold.
    pub active: Since,
    /// When it began to fire.
    pub fired: Option<Since>,
    /// When the expression ceased to hold while `keep_firing_for` goes on.
    pub keep_firing: Option<Since>,
    pub resolved: Option<Since>,
    /// Restored, and its absence means nothing before this moment of the monotonic clock.
    #[serde(skip)]
    held_until_mono_ms: Option<u64>,
}

/// NaN and infinity have no place in JSON; texts do.
mod float {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&value.to_string())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// How the last evaluation of a rule went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Not evaluated yet.
    #[default]
    Unknown,
    Ok,
    Error(String),
}

/// When a rule was evaluated last, and how long that took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evaluation {
    pub at: Moment,
    pub took_ms: u64,
}

/// What is known of one rule.
#[derive(Clone, Debug)]
pub struct RuleReport<'a> {
    pub group: &'a str,
    pub rule: &'a Rule,
    pub health: &'a Health,
    /// `None` before the first one of this run.
    pub last: Option<Evaluation>,
    pub alerts: Vec<&'a Alert>,
}

#[derive(Default)]
struct RuleState {
    health: Health,
    last: Option<Evaluation>,
    /// By labels, so that their order is always the same.
    alerts: BTreeMap<BTreeMap<String, String>, Alert>,
}

/// All rules with their alerts.
pub struct Engine {
    groups: Vec<(Group, Vec<RuleState>)>,
}

impl Engine {
    /// An engine in which nothing is active.
    #[must_use]
    pub fn new(groups: Vec<Group>) -> Self {
        let with_states = |group: Group| {
            let states = group.rules.iter().map(|_| RuleState::default()).collect();
            (group, states)
        };
        Self { groups: groups.into_iter().map(with_states).collect() }
    }

    #[must_use]
    pub fn groups(&self) -> impl ExactSizeIterator<Item = &Group> {
        self.groups.iter().map(|(group, _)| group)
    }

    /// A rule's name in stored state: group and alert, and a number where a group has an alert twice.
    #[must_use]
    pub fn key(&self, group: usize, rule: usize) -> String {
        let Some((group, _)) = self.groups.get(group) else { return String::new() };
        let alert = group.rules.get(rule).map_or("", |rule| rule.alert.as_str());
        let twin = group.rules.iter().take(rule).filter(|other| other.alert == alert).count();
        format!("{}/{alert}/{twin}", group.name)
    }

    /// The alerts of one rule, as they are stored.
    #[must_use]
    pub fn stored(&self, group: usize, rule: usize) -> Vec<&Alert> {
        self.groups
            .get(group)
            .and_then(|(_, rules)| rules.get(rule))
            .map_or_else(Vec::new, |rule| rule.alerts.values().collect())
    }

    /// Gives a rule back the alerts that it had before a restart. For `grace_ms` their absence means nothing.
    pub fn restore(&mut self, key: &str, alerts: Vec<Alert>, now: Moment, grace_ms: u64) {
        for group in 0..self.groups.len() {
            for rule in 0..self.groups[group].1.len() {
                if self.key(group, rule) != key {
                    continue;
                }
                for mut alert in alerts {
                    for since in [
                        Some(&mut alert.active),
                        alert.fired.as_mut(),
                        alert.keep_firing.as_mut(),
                        alert.resolved.as_mut(),
                    ] {
                        since.into_iter().for_each(|since| since.rebase(now));
                    }
                    alert.held_until_mono_ms = Some(now.mono_ms.saturating_add(grace_ms));
                    self.groups[group].1[rule].alerts.insert(alert.labels.clone(), alert);
                }
                return;
            }
        }
        // A rule that is gone takes its alerts with it.
    }

    /// What the expression of a rule gave at `now`. True when an alert appeared, changed its state or went.
    pub fn evaluated(&mut self, group: usize, rule: usize, result: Result<Vec<Element>, String>, now: Moment) -> bool {
        let Some((definition, states)) = self.groups.get_mut(group) else { return false };
        let (Some(rule), Some(state)) = (definition.rules.get(rule), states.get_mut(rule)) else { return false };
        let found = result.and_then(|elements| alerts_of(rule, &elements));
        match found {
            Ok(found) => {
                state.health = Health::Ok;
                state.turn(rule, found, now)
            }
            Err(problem) => {
                state.health = Health::Error(problem); // and nothing changes: not to know is not to be well
                false
            }
        }
    }

    /// The evaluation of a rule that gave its last result began at `began` and ended at `now`.
    pub fn timed(&mut self, group: usize, rule: usize, began: Moment, now: Moment) {
        if let Some(state) = self.groups.get_mut(group).and_then(|(_, rules)| rules.get_mut(rule)) {
            state.last = Some(Evaluation { at: began, took_ms: now.mono_ms.saturating_sub(began.mono_ms) });
        }
    }

    /// All alerts that are not inactive, in the order of the rules.
    pub fn alerts(&self) -> impl Iterator<Item = &Alert> {
        self.groups.iter().flat_map(|(_, rules)| rules).flat_map(|rule| rule.alerts.values())
    }

    /// Every rule with its health and its alerts, group by group.
    #[must_use]
    pub fn report(&self) -> Vec<RuleReport<'_>> {
        let mut report = Vec::new();
        for (group, states) in &self.groups {
            for (rule, state) in group.rules.iter().zip(states) {
                let alerts = state.alerts.values().collect();
                report.push(RuleReport { group: &group.name, rule, health: &state.health, last: state.last, alerts });
            }
        }
        report
    }
}

/// Labels and annotations of each element, as the rule makes them.
fn alerts_of(rule: &Rule, elements: &[Element]) -> Result<Vec<Instance>, String> {
    if elements.len() > ALERTS_MAX {
        return Err(format!("the expression gave {} series; a rule has at most {ALERTS_MAX} alerts", elements.len()));
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::with_capacity(elements.len());
    for element in elements {
        let mut labels = element.labels.clone();
        labels.remove("__name__");
        let of_series = labels.clone();
        for (name, template) in &rule.labels {
            labels.insert(name.clone(), template.render(element.value, &of_series));
        }
        labels.retain(|_, value| !value.is_empty());
        labels.insert(ALERT_NAME.into(), rule.alert.clone());
        let annotations = rule
            .annotations
            .iter()
            .map(|(name, template)| (name.clone(), template.render(element.value, &of_series)))
            .collect();
        if !seen.insert(labels.clone()) {
            return Err("vector contains metrics with the same labelset after applying alert labels".into());
        }
        found.push(Instance { labels, annotations, value: element.value });
    }
    Ok(found)
}

struct Instance {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    value: f64,
}

impl RuleState {
    fn turn(&mut self, rule: &Rule, found: Vec<Instance>, now: Moment) -> bool {
        let mut changed = false;
        let mut there = BTreeSet::new();
        for one in found {
            there.insert(one.labels.clone());
            let fresh = || Alert {
                state: State::Pending,
                labels: one.labels.clone(),
                annotations: BTreeMap::new(),
                value: one.value,
                active: Since::new(now),
                fired: None,
                keep_firing: None,
                resolved: None,
                held_until_mono_ms: None,
            };
            let alert = match self.alerts.get_mut(&one.labels) {
                Some(alert) if alert.state != State::Resolved => alert,
                _ => {
                    changed = true;
                    self.alerts.insert(one.labels.clone(), fresh());
                    match self.alerts.get_mut(&one.labels) {
                        Some(alert) => alert,
                        None => continue,
                    }
                }
            };
            alert.value = one.value;
            alert.annotations = one.annotations;
            changed |= alert.keep_firing.take().is_some();
            alert.held_until_mono_ms = None;
            if alert.state == State::Pending && alert.active.elapsed_ms(now) >= rule.for_ms {
                alert.state = State::Firing;
                alert.fired = Some(Since::new(now));
                changed = true;
            }
        }
        self.alerts.retain(|labels, alert| {
            if there.contains(labels) || alert.held_until_mono_ms.is_some_and(|until| now.mono_ms < until) {
                return true;
            }
            match alert.state {
                State::Pending => {
                    changed = true;
                    false
                }
                State::Firing => {
                    if rule.keep_firing_for_ms > 0 {
                        let since = *alert.keep_firing.get_or_insert_with(|| {
                            changed = true;
                            Since::new(now)
                        });
                        if since.elapsed_ms(now) < rule.keep_firing_for_ms {
                            return true;
                        }
                    }
                    alert.state = State::Resolved;
                    alert.resolved = Some(Since::new(now));
                    changed = true;
                    true
                }
                State::Resolved => {
                    let kept = alert.resolved.is_some_and(|since| since.elapsed_ms(now) < RESOLVED_KEPT_MS);
                    changed |= !kept;
                    kept
                }
            }
        });
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment { mono_ms: seconds * 1000, wall_ms: 1_700_000_000_000 + seconds * 1000 }
    }

    fn engine(rule: &str) -> Engine {
        Engine::new(crate::rules::parse(&format!("groups:\n- name: g\n  rules:\n  - {rule}\n")).unwrap())
    }

    fn up(queue: &str, value: f64) -> Element {
        let labels = [("__name__", "m"), ("queue", queue)];
        Element { labels: labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(), value }
    }

    fn states(engine: &Engine) -> Vec<State> {
        engine.alerts().map(|alert| alert.state).collect()
    }

    #[test]
    fn an_alert_is_pending_then_firing_then_resolved_then_gone() {
        let mut engine = engine(
            "{alert: A, expr: x, for: 10s, labels: {severity: page}, annotations: {s: 'q {{ $labels.queue }} {{ $value }}'}}",
        );
        assert!(!engine.evaluated(0, 0, Ok(vec![]), at(0)));
        assert!(engine.evaluated(0, 0, Ok(vec![up("a", 1.0)]), at(1)));
        assert_eq!(states(&engine), [State::Pending]);
        assert!(!engine.evaluated(0, 0, Ok(vec![up("a", 2.0)]), at(10)));
        assert_eq!(states(&engine), [State::Pending]);
        assert!(engine.evaluated(0, 0, Ok(vec![up("a", 3.0)]), at(11)));
        let alert = engine.alerts().next().unwrap();
        assert_eq!((alert.state, alert.annotations["s"].as_str()), (State::Firing, "q a 3"));
        let labels: Vec<_> = alert.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(labels, ["alertname=A", "queue=a", "severity=page"]);
        assert!(engine.evaluated(0, 0, Ok(vec![]), at(20)));
        assert_eq!(states(&engine), [State::Resolved]);
        assert!(engine.evaluated(0, 0, Ok(vec![]), at(20 + 900)));
        assert_eq!(states(&engine), []);
    }

    #[test]
    fn a_gap_while_pending_starts_again_and_a_failed_query_changes_nothing() {
        let mut engine = engine("{alert: A, expr: x, for: 10s}");
        engine.evaluated(0, 0, Ok(vec![up("a", 1.0)]), at(0));
        assert!(!engine.evaluated(0, 0, Err("timeout".into()), at(5)));
        assert_eq!(states(&engine), [State::Pending]);
        assert_eq!(engine.report()[0].health, &Health::Error("timeout".into()));
        engine.evaluated(0, 0, Ok(vec![]), at(6));
        engine.evaluated(0, 0, Ok(vec![up("a", 1.0)]), at(7));
        engine.evaluated(0, 0, Ok(vec![up("a", 1.0)]), at(16));
        assert_eq!(states(&engine), [State::Pending]);
        engine.evaluated(0, 0, Ok(vec![up("a", 1.0)]), at(17));
        assert_eq!(states(&engine), [State::Firing]);
    }

    #[test]
    fn keep_firing_for_outlasts_a_short_recovery() {
        let mut engine = engine("{alert: A, expr: x, keep_firing_for: 30s}");
        engine.evaluated(0, 0, Ok(vec![up("a", 1.0)]), at(0));
        assert_eq!(states(&engine), [State::Firing], "without `for` it fires at once");
        engine.evaluated(0, 0, Ok(vec![]), at(10));
        engine.evaluated(0, 0, Ok(vec![up("a", 1.0)]), at(20));
        engine.evaluated(0, 0, Ok(vec![]), at(30));
        engine.evaluated(0, 0, Ok(vec![]), at(59));
        assert_eq!(states(&engine), [State::Firing]);
        engine.evaluated(0, 0, Ok(vec![]), at(60));
        assert_eq!(states(&engine), [State::Resolved]);
    }

    #[test]
    fn a_restart_goes_on_with_the_wait_and_forgives_absence_for_a_while() {
        let rule = "{alert: A, expr: x, for: 60s}";
        let mut before = engine(rule);
        before.evaluated(0, 0, Ok(vec![up("a", 1.0), up("b", f64::INFINITY)]), at(100));
        let json = serde_json::to_string(&before.stored(0, 0)).unwrap();
        let key = before.key(0, 0);

        let boot = |seconds: u64| Moment { mono_ms: seconds * 1000, wall_ms: at(140).wall_ms + seconds * 1000 };
        let mut after = engine(rule);
        after.restore(&key, serde_json::from_str(&json).unwrap(), boot(0), 15_000);
        after.evaluated(0, 0, Ok(vec![]), boot(5));
        assert_eq!(states(&after), [State::Pending; 2], "metrics are not back yet");
        after.evaluated(0, 0, Ok(vec![up("a", 1.0)]), boot(19));
        assert_eq!(states(&after), [State::Pending], "b did not come back within the grace");
        after.evaluated(0, 0, Ok(vec![up("a", 1.0)]), boot(20));
        assert_eq!(states(&after), [State::Firing], "40 s before and 20 s after the restart");
    }

    #[test]
    fn a_step_of_the_wall_clock_neither_fires_nor_delays() {
        let mut engine = engine("{alert: A, expr: x, for: 10s}");
        engine.evaluated(0, 0, Ok(vec![up("a", 1.0)]), at(0));
        let stepped = Moment { mono_ms: 9_000, wall_ms: at(9).wall_ms + 3_600_000 };
        engine.evaluated(0, 0, Ok(vec![up("a", 1.0)]), stepped);
        assert_eq!(states(&engine), [State::Pending]);
        engine.evaluated(0, 0, Ok(vec![up("a", 1.0)]), Moment { mono_ms: 10_000, wall_ms: 5 });
        assert_eq!(states(&engine), [State::Firing]);
    }

    #[test]
    fn two_series_that_become_one_alert_and_too_many_are_errors() {
        let mut engine = engine("{alert: A, expr: x, labels: {queue: same}}");
        engine.evaluated(0, 0, Ok(vec![up("a", 1.0), up("b", 1.0)]), at(0));
        assert!(matches!(engine.report()[0].health, Health::Error(problem) if problem.contains("same labelset")));
        engine.evaluated(0, 0, Ok((0..501).map(|n| up(&n.to_string(), 1.0)).collect()), at(0));
        assert!(matches!(engine.report()[0].health, Health::Error(problem) if problem.contains("at most 500")));
    }
}
