//! What a receiver is told, and when: alerts of one name are one group; a group waits a little for company, tells of changes, and
//! repeats itself while it fires.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::engine::{Alert, State};
use crate::{ALERT_NAME, Moment, Since};

/// Most alerts in one notification; how many were left out is said.
const ALERTS_MAX: usize = 100;

/// When groups speak, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// From a group's first alert to its first notification.
    pub group_wait_ms: u64,
    /// Between notifications of one group that tell of a change.
    pub group_interval_ms: u64,
    /// After which what still fires is said again.
    pub repeat_ms: u64,
}

/// One alert in a notification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NotifiedAlert {
    /// `firing` or `resolved`.
    pub state: State,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub starts_at_ms: u64,
    /// Only when resolved.
    pub ends_at_ms: Option<u64>,
}

/// What one receiver is to be told of one group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    pub receiver: String,
    /// The group: an alert's name.
    pub alert: String,
    pub alerts: Vec<NotifiedAlert>,
    /// Alerts that had no room.
    pub left_out: usize,
    pub made_at_ms: u64,
}

impl Notification {
    #[must_use]
    pub fn is_firing(&self) -> bool {
        self.alerts.iter().any(|alert| alert.state == State::Firing)
    }
}

/// What a receiver was last told of a group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupState {
    /// When its first alert came that nothing was said about.
    waiting: Option<Since>,
    told: Option<Since>,
    /// Fingerprints of alerts that the receiver believes to be firing.
    firing: Vec<String>,
}

impl GroupState {
    /// For a state that is read back after a restart.
    pub fn rebase(&mut self, now: Moment) {
        for since in [self.waiting.as_mut(), self.told.as_mut()] {
            since.into_iter().for_each(|since| since.rebase(now));
        }
    }
}

/// Groups alerts and decides what is said.
pub struct Notifier {
    timing: Timing,
    receivers: Vec<String>,
    /// Receiver and alert's name.
    groups: BTreeMap<(String, String), GroupState>,
}

impl Notifier {
    #[must_use]
    pub fn new(timing: Timing, receivers: Vec<String>) -> Self {
        Self { timing, receivers, groups: BTreeMap::new() }
    }

    /// What was said before a restart. A receiver that is no longer configured is forgotten.
    pub fn restore(&mut self, receiver: &str, alert: &str, mut state: GroupState, now: Moment) {
        if self.receivers.iter().any(|known| known == receiver) {
            state.rebase(now);
            self.groups.insert((receiver.to_owned(), alert.to_owned()), state);
        }
    }

    /// The state of each group that there is, to be stored.
    pub fn stored(&self) -> impl Iterator<Item = (&(String, String), &GroupState)> {
        self.groups.iter()
    }

    /// Decides about all alerts at `now`. What it returns counts as said: deliver it until it is.
    pub fn decide<'a>(&mut self, alerts: impl Iterator<Item = &'a Alert>, now: Moment) -> Vec<Notification> {
        let mut by_name: BTreeMap<&str, Vec<&Alert>> = BTreeMap::new();
        for alert in alerts.filter(|alert| alert.state != State::Pending) {
            by_name.entry(alert.labels.get(ALERT_NAME).map_or("", String::as_str)).or_default().push(alert);
        }
        let mut said = Vec::new();
        for receiver in self.receivers.clone() {
            let known = self.groups.keys().filter(|(of, _)| *of == receiver).map(|(_, name)| name.clone());
            let mut names: Vec<String> = known.collect();
            names.extend(by_name.keys().map(|name| (*name).to_owned()));
            names.sort();
            names.dedup();
            for name in names {
                let alerts = by_name.get(name.as_str()).map_or(&[][..], Vec::as_slice);
                said.extend(self.group(&receiver, &name, alerts, now));
            }
        }
        said
    }

    fn group(&mut self, receiver: &str, name: &str, alerts: &[&Alert], now: Moment) -> Option<Notification> {
        let key = (receiver.to_owned(), name.to_owned());
        let firing: Vec<String> = alerts
            .iter()
            .filter(|alert| alert.state == State::Firing)
            .map(|alert| fingerprint(&alert.labels))
            .collect();
        let mut state =
            self.groups.remove(&key).unwrap_or(GroupState { waiting: None, told: None, firing: Vec::new() });
        let ended = state.firing.iter().any(|was| !firing.contains(was));
        let begun = firing.iter().any(|is| !state.firing.contains(is));
        if firing.is_empty() && state.firing.is_empty() {
            return None; // nobody was told of anything, and nothing is left to tell: the group is gone
        }
        let due = match state.told {
            None => state.waiting.get_or_insert_with(|| Since::new(now)).elapsed_ms(now) >= self.timing.group_wait_ms,
            Some(told) if ended || begun => told.elapsed_ms(now) >= self.timing.group_interval_ms,
            Some(told) => told.elapsed_ms(now) >= self.timing.repeat_ms,
        };
        if !due {
            self.groups.insert(key, state);
            return None;
        }
        let tells =
            |alert: &&&Alert| alert.state == State::Firing || state.firing.contains(&fingerprint(&alert.labels));
        let told: Vec<NotifiedAlert> = alerts.iter().filter(tells).map(|alert| notified(alert)).collect();
        let left_out = told.len().saturating_sub(ALERTS_MAX);
        if !firing.is_empty() {
            self.groups.insert(key, GroupState { waiting: None, told: Some(Since::new(now)), firing });
        }
        if told.is_empty() {
            return None; // what had fired is gone without a trace, with its rule
        }
        Some(Notification {
            receiver: receiver.to_owned(),
            alert: name.to_owned(),
            alerts: told.into_iter().take(ALERTS_MAX).collect(),
            left_out,
            made_at_ms: now.wall_ms,
        })
    }
}

fn notified(alert: &Alert) -> NotifiedAlert {
    NotifiedAlert {
        state: alert.state,
        labels: alert.labels.clone(),
        annotations: alert.annotations.clone(),
        starts_at_ms: alert.fired.unwrap_or(alert.active).wall_ms,
        ends_at_ms: alert.resolved.map(|since| since.wall_ms),
    }
}

/// A stable name of a set of labels: FNV-1a in 16 hexadecimal digits.
pub(crate) fn fingerprint(labels: &BTreeMap<String, String>) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        for byte in text.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Element, Engine};

    const TIMING: Timing = Timing { group_wait_ms: 5_000, group_interval_ms: 60_000, repeat_ms: 3_600_000 };

    fn at(seconds: u64) -> Moment {
        Moment { mono_ms: seconds * 1000, wall_ms: 1_700_000_000_000 + seconds * 1000 }
    }

    struct Story {
        engine: Engine,
        notifier: Notifier,
    }

    impl Story {
        fn new() -> Self {
            let groups = crate::rules::parse("groups: [{name: g, rules: [{alert: A, expr: x}]}]").unwrap();
            Self { engine: Engine::new(groups), notifier: Notifier::new(TIMING, vec!["hook".into()]) }
        }

        /// What is said at a moment at which these queues are bad: queue and state of each alert.
        fn at(&mut self, seconds: u64, queues: &[&str]) -> Vec<Vec<String>> {
            let element =
                |queue: &&str| Element { labels: BTreeMap::from([("queue".into(), (*queue).into())]), value: 1.0 };
            self.engine.evaluated(0, 0, Ok(queues.iter().map(element).collect()), at(seconds));
            let said = self.notifier.decide(self.engine.alerts(), at(seconds));
            let shown = |alert: &NotifiedAlert| format!("{} {:?}", alert.labels["queue"], alert.state);
            said.iter().map(|one| one.alerts.iter().map(shown).collect()).collect()
        }
    }

    #[test]
    fn a_group_waits_for_company_tells_changes_and_repeats() {
        let mut story = Story::new();
        assert!(story.at(0, &["a"]).is_empty());
        assert!(story.at(4, &["a", "b"]).is_empty());
        assert_eq!(story.at(5, &["a", "b"]), [["a Firing", "b Firing"]]);
        assert!(story.at(6, &["a", "b", "c"]).is_empty(), "a change waits for the group's interval");
        assert_eq!(story.at(65, &["a", "c"]), [["a Firing", "b Resolved", "c Firing"]]);
        assert!(story.at(3000, &["a", "c"]).is_empty());
        assert_eq!(story.at(3665, &["a", "c"]), [["a Firing", "c Firing"]], "it still fires");
        assert_eq!(story.at(3800, &[]), [["a Resolved", "c Resolved"]]);
        assert!(story.at(3900, &[]).is_empty());
        assert_eq!(story.notifier.stored().count(), 0);
    }

    #[test]
    fn what_ends_before_it_was_said_is_never_said() {
        let mut story = Story::new();
        assert!(story.at(0, &["a"]).is_empty());
        assert!(story.at(3, &[]).is_empty());
        assert!(story.at(100, &[]).is_empty());
    }

    #[test]
    fn a_restart_neither_repeats_nor_forgets_what_was_said() {
        let mut story = Story::new();
        story.at(0, &["a"]);
        assert_eq!(story.at(5, &["a"]), [["a Firing"]]);
        let stored: Vec<_> =
            story.notifier.stored().map(|(key, state)| (key.clone(), serde_json::to_string(state).unwrap())).collect();
        story.notifier = Notifier::new(TIMING, vec!["hook".into()]);
        for ((receiver, alert), json) in stored {
            story.notifier.restore(&receiver, &alert, serde_json::from_str(&json).unwrap(), at(10));
        }
        assert!(story.at(20, &["a"]).is_empty());
        assert_eq!(story.at(70, &[]), [["a Resolved"]]);
    }
}
