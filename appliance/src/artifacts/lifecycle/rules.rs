//! Rules, and when they are due. Pure.

use serde::{Deserialize, Serialize};

use crate::artifacts::tags::Tag;

pub(in super::super) const DAY_MS: u64 = 24 * 3600 * 1000;

/// All rules of a bucket, in the order in which they were put.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Rules(pub Vec<Rule>);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Rule {
    #[serde(rename = "i")]
    pub id: String,
    #[serde(rename = "e")]
    pub is_enabled: bool,
    #[serde(rename = "f")]
    pub filter: Filter,
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expiration: Option<Expiration>,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub noncurrent: Option<Noncurrent>,
    /// Days after which an upload is aborted.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub abort_days: Option<u32>,
    #[serde(rename = "t", default, skip_serializing_if = "Vec::is_empty")]
    pub transitions: Vec<(When, String)>,
    #[serde(rename = "u", default, skip_serializing_if = "Vec::is_empty")]
    pub noncurrent_transitions: Vec<(Noncurrent, String)>,
}

/// Which objects a rule is about: all for which everything that is given holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Filter {
    #[serde(rename = "o", default)]
    pub form: Form,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    #[serde(rename = "t", default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<Tag>,
    /// Bytes.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub larger_than: Option<u64>,
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub smaller_than: Option<u64>,
}

/// How a filter was written, to be given back so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) enum Form {
    /// `Prefix` in the rule, as before there were filters.
    #[serde(rename = "p")]
    Prefix,
    #[default]
    #[serde(rename = "f")]
    Filter,
    #[serde(rename = "a")]
    And,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) enum When {
    #[serde(rename = "d")]
    Days(u32),
    /// Unix milliseconds of a midnight.
    #[serde(rename = "t")]
    Date(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) enum Expiration {
    #[serde(rename = "w")]
    At(When),
    /// Only delete markers behind which nothing is left; or, if false, nothing.
    #[serde(rename = "m")]
    Markers(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Noncurrent {
    /// Since a newer version came.
    #[serde(rename = "d")]
    pub days: u32,
    /// How many of the newest that are not current stay nevertheless.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub keeps: Option<u32>,
}

/// The midnight that ends `days` after a moment.
fn after(moment_ms: u64, days: u32) -> u64 {
    moment_ms.saturating_add(u64::from(days) * DAY_MS).div_ceil(DAY_MS).saturating_mul(DAY_MS)
}

impl When {
    pub(super) fn due_ms(self, since_ms: u64) -> u64 {
        match self {
            Self::Days(days) => after(since_ms, days),
            Self::Date(date) => date,
        }
    }
}

impl Noncurrent {
    /// Whether a version goes that a newer one replaced at `since_ms`, and before which `newer` that are not current come.
    pub(super) fn is_due(self, since_ms: u64, newer: u32, now_ms: u64) -> bool {
        after(since_ms, self.days) <= now_ms && newer >= self.keeps.unwrap_or(0)
    }
}

impl Filter {
    pub(super) fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default()
    }

    /// Whether the rule is about an object. `tags` is asked where nothing else decides.
    pub(super) fn takes(&self, key: &str, size: u64, tags: impl FnOnce() -> Vec<Tag>) -> bool {
        let by_size =
            self.larger_than.is_none_or(|bytes| size > bytes) && self.smaller_than.is_none_or(|bytes| size < bytes);
        key.starts_with(self.prefix()) && by_size && (self.tags.is_empty() || has_all(&tags(), &self.tags))
    }

    /// Whether it asks for no more than a prefix.
    pub(super) fn is_plain(&self) -> bool {
        self.tags.is_empty() && self.larger_than.is_none() && self.smaller_than.is_none()
    }
}

fn has_all(tags: &[Tag], wanted: &[Tag]) -> bool {
    wanted.iter().all(|tag| tags.contains(tag))
}

impl Rule {
    /// Whether a delete marker that is all that is left of a key goes.
    pub(super) fn takes_marker(&self, key: &str, modified_ms: u64, now_ms: u64) -> bool {
        let is_due = match self.expiration {
            Some(Expiration::Markers(goes)) => goes,
            Some(Expiration::At(when)) => when.due_ms(modified_ms) <= now_ms,
            None => false,
        };
        is_due && self.filter.is_plain() && key.starts_with(self.filter.prefix())
    }
}

impl Rules {
    pub(super) fn enabled(&self) -> impl Iterator<Item = &Rule> {
        self.0.iter().filter(|rule| rule.is_enabled)
    }

    /// When the first rule that is about a current object is due, and its id.
    pub(super) fn expiry(
        &self,
        key: &str,
        size: u64,
        modified_ms: u64,
        tags: impl FnOnce() -> Vec<Tag>,
    ) -> Option<(u64, &str)> {
        let (mut unread, mut read) = (Some(tags), Vec::new());
        let expiry = |rule: &'_ Rule| match rule.expiration {
            Some(Expiration::At(when)) => Some(when.due_ms(modified_ms)),
            _ => None,
        };
        let mut first: Option<(u64, &str)> = None;
        for rule in self.enabled() {
            let Some(due_ms) = expiry(rule) else { continue };
            let tags = || {
                if let Some(tags) = unread.take() {
                    read = tags();
                }
                read.clone()
            };
            if rule.filter.takes(key, size, tags) && first.is_none_or(|(first_ms, _)| due_ms < first_ms) {
                first = Some((due_ms, &rule.id));
            }
        }
        first
    }

    /// When the first rule that is about an upload aborts it, and its id.
    pub(super) fn abort(&self, key: &str, initiated_ms: u64) -> Option<(u64, &str)> {
        let about = self.enabled().filter(|rule| key.starts_with(rule.filter.prefix()));
        about
            .filter_map(|rule| Some((When::Days(rule.abort_days?).due_ms(initiated_ms), rule.id.as_str())))
            .min_by_key(|(due_ms, _)| *due_ms)
    }

    /// Prefixes under which is all that `rules` of these are about, none within another.
    pub(super) fn prefixes(&self, concerns: impl Fn(&Rule) -> bool) -> Vec<String> {
        let mut prefixes: Vec<&str> =
            self.enabled().filter(|rule| concerns(rule)).map(|rule| rule.filter.prefix()).collect();
        prefixes.sort_unstable();
        let mut apart: Vec<String> = Vec::new();
        for prefix in prefixes {
            if apart.last().is_none_or(|last| !prefix.starts_with(last.as_str())) {
                apart.push(prefix.to_owned());
            }
        }
        apart
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(key: &str) -> Tag {
        Tag { key: key.into(), value: "1".into() }
    }

    fn rule(id: &str, prefix: &str, days: u32) -> Rule {
        Rule {
            id: id.into(),
            is_enabled: true,
            filter: Filter { prefix: Some(prefix.into()), ..Filter::default() },
            expiration: Some(Expiration::At(When::Days(days))),
            ..Rule::default()
        }
    }

    #[test]
    fn days_end_at_the_next_midnight() {
        let noon = DAY_MS * 100 + DAY_MS / 2;
        assert_eq!(When::Days(1).due_ms(noon), DAY_MS * 102);
        assert_eq!(When::Days(1).due_ms(DAY_MS * 100), DAY_MS * 101);
        assert_eq!(When::Days(u32::MAX).due_ms(u64::MAX) % DAY_MS, u64::MAX % DAY_MS, "far, and no overflow");
        let kept = Noncurrent { days: 1, keeps: Some(2) };
        assert!(!kept.is_due(noon, 1, DAY_MS * 200));
        assert!(!kept.is_due(noon, 2, DAY_MS * 102 - 1));
        assert!(kept.is_due(noon, 2, DAY_MS * 102));
    }

    #[test]
    fn the_earliest_rule_that_is_about_an_object_tells_when_it_expires() {
        let mut small = rule("small", "", 1);
        small.filter.smaller_than = Some(10);
        let mut tagged = rule("tagged", "a/", 2);
        tagged.filter.tags = vec![tag("x"), tag("y")];
        let mut off = rule("off", "", 1);
        off.is_enabled = false;
        let markers = Rule { expiration: Some(Expiration::Markers(true)), ..rule("markers", "", 0) };
        let rules = Rules(vec![off, markers, rule("late", "a/", 9), tagged, small]);
        let expiry = |key, size, tags: Vec<Tag>| rules.expiry(key, size, 0, || tags).map(|(_, id)| id);
        assert_eq!(expiry("a/b", 5, vec![]), Some("small"));
        assert_eq!(expiry("a/b", 10, vec![]), Some("late"));
        assert_eq!(expiry("a/b", 10, vec![tag("x")]), Some("late"));
        assert_eq!(expiry("a/b", 10, vec![tag("x"), tag("y"), tag("z")]), Some("tagged"));
        assert_eq!(expiry("b", 10, vec![]), None);
    }

    #[test]
    fn prefixes_to_visit_are_apart() {
        let rules = Rules(vec![rule("1", "a/b/", 1), rule("2", "b", 1), rule("3", "a/", 1), rule("4", "b", 2)]);
        assert_eq!(rules.prefixes(|_| true), ["a/", "b"]);
        assert_eq!(rules.prefixes(|rule| rule.id == "1"), ["a/b/"]);
        assert!(rules.prefixes(|_| false).is_empty());
    }

    #[test]
    fn the_earliest_rule_that_is_about_an_upload_tells_when_it_is_aborted() {
        let abort =
            |id: &str, prefix: &str, days| Rule { abort_days: Some(days), expiration: None, ..rule(id, prefix, 0) };
        let rules = Rules(vec![abort("all", "", 7), abort("up", "up/", 2), rule("other", "up/", 1)]);
        assert_eq!(rules.abort("up/a", 5), Some((DAY_MS * 3, "up")));
        assert_eq!(rules.abort("a", 0), Some((DAY_MS * 7, "all")));
        assert_eq!(Rules::default().abort("a", 0), None);
    }

    #[test]
    fn a_marker_goes_by_a_rule_for_markers_or_when_it_is_old_enough() {
        let markers = Rule { expiration: Some(Expiration::Markers(true)), ..rule("m", "a", 0) };
        assert!(markers.takes_marker("a", 5, 5) && !markers.takes_marker("b", 5, 5));
        assert!(rule("d", "", 1).takes_marker("a", 0, DAY_MS) && !rule("d", "", 1).takes_marker("a", 0, DAY_MS - 1));
    }
}
