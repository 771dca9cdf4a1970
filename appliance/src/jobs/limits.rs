//! What may run at once and how fast, as an operator says it: shares of projects, limits of running jobs, rates.
//!
//! One entry is about one name in one scope; the name `*` is everybody who has no entry of his own, and of keys one that ends in
//! `*` is those that begin so. What the configuration says (`jobs.limits`) holds until the appliance is told otherwise over the API;
//! what it is told is journalled and wins over the configuration, entry by entry.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Most entries that one can set.
pub(super) const ENTRIES_MAX: usize = 2_000;
const NAME_BYTES_MAX: usize = 256;
const RUNNING_MAX: u32 = 1_000_000;
const SHARE_MIN: f64 = 0.01;
const SHARE_MAX: f64 = 1_000.0;
const RATE_MIN: f64 = 0.001;
const RATE_MAX: f64 = 10_000.0;
const BURST_MAX: u32 = 100_000;

/// What an entry is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    Project,
    User,
    Type,
    /// A rate of starts on one queue.
    Queue,
    /// A rate of starts for each value of `rate.key`.
    Key,
}

impl Scope {
    pub(super) const ALL: [Self; 5] = [Self::Project, Self::User, Self::Type, Self::Queue, Self::Key];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::User => "user",
            Self::Type => "type",
            Self::Queue => "queue",
            Self::Key => "key",
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

/// What is set for one name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Setting {
    /// Of projects: how much a project gets beside the others; 1 where nobody says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Of projects, users and types: most jobs that run at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_max: Option<u32>,
    /// Of queues and keys: attempts that may begin each second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_per_s: Option<f64>,
    /// Of queues and keys: most attempts that may begin at once after a rest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

impl Setting {
    pub(super) fn check(&self, scope: Scope, name: &str) -> Result<(), String> {
        let Self { share, running_max, rate_per_s, burst } = self;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(format!("a name is 1 to {NAME_BYTES_MAX} bytes without control characters"));
        }
        let rated = matches!(scope, Scope::Queue | Scope::Key);
        if share.is_some() && scope != Scope::Project {
            return Err(format!("`share` is for projects, not for a {}", scope.as_str()));
        }
        if rated && running_max.is_some() {
            return Err(format!("`running_max` is for projects, users and types, not for a {}", scope.as_str()));
        }
        if !rated && (rate_per_s.is_some() || burst.is_some()) {
            return Err(format!("`rate_per_s` and `burst` are for queues and keys, not for a {}", scope.as_str()));
        }
        if share.is_some_and(|share| !(SHARE_MIN..=SHARE_MAX).contains(&share)) {
            return Err(format!("`share` is {SHARE_MIN} to {SHARE_MAX}"));
        }
        if running_max.is_some_and(|most| most == 0 || most > RUNNING_MAX) {
            return Err(format!("`running_max` is 1 to {RUNNING_MAX}; to hold a queue back, pause it"));
        }
        if rate_per_s.is_some_and(|rate| !(RATE_MIN..=RATE_MAX).contains(&rate)) {
            return Err(format!("`rate_per_s` is {RATE_MIN} to {RATE_MAX}"));
        }
        if burst.is_some_and(|burst| burst == 0 || burst > BURST_MAX) {
            return Err(format!("`burst` is 1 to {BURST_MAX}"));
        }
        if burst.is_some() && rate_per_s.is_none() {
            return Err("`burst` needs a `rate_per_s` beside it".into());
        }
        if *self == Self::default() {
            return Err("the entry says nothing; delete it instead".into());
        }
        Ok(())
    }
}

/// A rate as the buckets take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// Millionths of a token that come in each millisecond, 1 at least.
    pub micros_per_ms: u64,
    /// Most tokens.
    pub burst: u64,
}

/// All entries: those of the configuration, and over them those that were set.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Limits {
    configured: Entries,
    set: Entries,
}

/// By scope and name.
type Entries = BTreeMap<Scope, BTreeMap<String, Setting>>;

impl Limits {
    /// Reads the lines of `jobs.limits`, such as `project feature share=3 running=20`.
    ///
    /// # Errors
    /// A sentence that quotes the line.
    pub(super) fn configured(lines: &[String]) -> Result<Self, String> {
        let mut limits = Self::default();
        for line in lines {
            let (scope, name, setting) = parse_line(line).map_err(|problem| format!("`{line}`: {problem}"))?;
            if limits.configured.entry(scope).or_default().insert(name, setting).is_some() {
                return Err(format!("`{line}`: there is an entry for this name already"));
            }
        }
        Ok(limits)
    }

    /// Sets an entry, or with `None` takes away what was set.
    pub(super) fn set(&mut self, scope: Scope, name: &str, setting: Option<Setting>) {
        let entries = self.set.entry(scope).or_default();
        match setting {
            Some(setting) => drop(entries.insert(name.to_owned(), setting)),
            None => drop(entries.remove(name)),
        }
    }

    pub(super) fn is_set(&self, scope: Scope, name: &str) -> bool {
        self.set.get(&scope).is_some_and(|entries| entries.contains_key(name))
    }

    pub(super) fn set_len(&self) -> usize {
        self.set.values().map(BTreeMap::len).sum()
    }

    /// Every entry that holds; true: it was set, and not configured.
    pub(super) fn all(&self) -> impl Iterator<Item = (Scope, &str, &Setting, bool)> {
        let configured = flat(&self.configured).filter(|(scope, name, _)| !self.is_set(*scope, name));
        let configured = configured.map(|(scope, name, setting)| (scope, name, setting, false));
        configured.chain(flat(&self.set).map(|(scope, name, setting)| (scope, name, setting, true)))
    }

    fn get(&self, scope: Scope, name: &str) -> Option<&Setting> {
        let of = |entries: &'_ Entries| entries.get(&scope).is_some_and(|entries| entries.contains_key(name));
        let entries = if of(&self.set) { &self.set } else { &self.configured };
        entries.get(&scope)?.get(name)
    }

    /// The entry that holds for `name`: its own, else that of everybody.
    fn of(&self, scope: Scope, name: &str) -> Option<&Setting> {
        self.get(scope, name).or_else(|| self.get(scope, "*"))
    }

    pub(super) fn share(&self, project: &str) -> f64 {
        let own = self.of(Scope::Project, project).and_then(|setting| setting.share);
        own.or_else(|| self.of(Scope::Project, "*")?.share).unwrap_or(1.0)
    }

    pub(super) fn running_max(&self, scope: Scope, name: &str) -> Option<usize> {
        let own = self.of(scope, name).and_then(|setting| setting.running_max);
        own.or_else(|| self.of(scope, "*")?.running_max).map(|most| most as usize)
    }

    pub(super) fn queue_rate(&self, queue: &str) -> Option<Rate> {
        self.of(Scope::Queue, queue).and_then(rate)
    }

    /// The rate of a key: its own entry, else the longest `begin*` that it begins with.
    pub(super) fn key_rate(&self, key: &str) -> Option<Rate> {
        let is_any = [&self.set, &self.configured]
            .iter()
            .any(|entries| entries.get(&Scope::Key).is_some_and(|of| !of.is_empty()));
        if !is_any {
            return None;
        }
        if let Some(own) = self.get(Scope::Key, key) {
            return rate(own);
        }
        let borders = (0..=key.len()).rev().filter(|at| key.is_char_boundary(*at));
        borders.filter_map(|at| self.get(Scope::Key, &format!("{}*", &key[..at]))).find_map(rate)
    }
}

/// Checks the lines of `jobs.limits`.
///
/// # Errors
/// A sentence that quotes the line.
pub fn check_limits(lines: &[String]) -> Result<(), String> {
    Limits::configured(lines).map(drop)
}

fn flat(entries: &Entries) -> impl Iterator<Item = (Scope, &str, &Setting)> {
    entries.iter().flat_map(|(scope, of)| of.iter().map(|(name, setting)| (*scope, name.as_str(), setting)))
}

fn rate(setting: &Setting) -> Option<Rate> {
    let per_s = setting.rate_per_s?;
    // A token a second is a thousand millionths each millisecond.
    let micros_per_ms = ((per_s * 1_000.0).round() as u64).max(1);
    let burst = setting.burst.map_or_else(|| per_s.ceil().max(1.0) as u64, u64::from);
    Some(Rate { micros_per_ms, burst })
}

fn parse_line(line: &str) -> Result<(Scope, String, Setting), String> {
    let mut words = line.split_whitespace();
    let (Some(scope), Some(name)) = (words.next(), words.next()) else {
        return Err("an entry is a scope, a name and settings, such as `project feature share=3 running=20`".into());
    };
    let scope = Scope::parse(scope)
        .ok_or_else(|| format!("`{scope}` is no scope; there are project, user, type, queue and key"))?;
    let mut setting = Setting::default();
    for word in words {
        let (what, value) = word.split_once('=').ok_or_else(|| format!("`{word}` is not NAME=VALUE"))?;
        let number = |problem: &str| format!("`{word}` is no {problem}");
        match what {
            "share" => setting.share = Some(value.parse().map_err(|_| number("number"))?),
            "running" => setting.running_max = Some(value.parse().map_err(|_| number("whole number"))?),
            "rate" => setting.rate_per_s = Some(value.parse().map_err(|_| number("number a second"))?),
            "burst" => setting.burst = Some(value.parse().map_err(|_| number("whole number"))?),
            other => return Err(format!("`{other}` is none of share, running, rate, burst")),
        }
    }
    setting.check(scope, name)?;
    Ok((scope, name.to_owned(), setting))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configured(lines: &[&str]) -> Result<Limits, String> {
        Limits::configured(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_was_set_wins_over_the_configuration_and_a_name_over_everybody() {
        let mut limits =
            configured(&["project * share=2 running=5", "project film running=9", "type x running=1"]).unwrap();
        assert_eq!((limits.running_max(Scope::Project, "a"), limits.share("a")), (Some(5), 2.0));
        assert_eq!((limits.running_max(Scope::Project, "film"), limits.share("film")), (Some(9), 2.0));
        assert_eq!((limits.running_max(Scope::Type, "x"), limits.running_max(Scope::Type, "y")), (Some(1), None));
        limits.set(Scope::Project, "film", Some(Setting { share: Some(4.0), ..Setting::default() }));
        assert_eq!((limits.running_max(Scope::Project, "film"), limits.share("film")), (Some(5), 4.0));
        limits.set(Scope::Project, "film", None);
        assert_eq!(limits.running_max(Scope::Project, "film"), Some(9));
    }

    #[test]
    fn a_key_has_the_rate_of_its_longest_beginning() {
        let limits = configured(&["key * rate=1", "key api-* rate=2 burst=7", "key api-x rate=0.001"]).unwrap();
        let of = |key| limits.key_rate(key).map(|rate| (rate.micros_per_ms, rate.burst));
        assert_eq!(of("other"), Some((1_000, 1)));
        assert_eq!(of("api-y"), Some((2_000, 7)));
        assert_eq!(of("api-x"), Some((1, 1)));
        assert_eq!(of("äpi"), Some((1_000, 1)));
        assert_eq!(configured(&["queue jobs rate=2.5"]).unwrap().queue_rate("jobs").map(|rate| rate.burst), Some(3));
    }

    #[test]
    fn a_line_that_makes_no_sense_is_quoted() {
        for line in [
            "",
            "project",
            "planet x share=1",
            "project x",
            "project x share=0",
            "project x share=nan",
            "project x running=0",
            "project x rate=1",
            "user u share=1",
            "queue q running=1",
            "key k burst=3",
            "key k rate=x",
            "key k rate",
            "key k colour=1",
        ] {
            assert!(configured(&[line]).unwrap_err().contains(line), "{line}");
        }
        assert!(configured(&["type x running=1", "type x running=2"]).is_err());
    }
}
