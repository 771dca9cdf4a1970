//! Rule files: Prometheus's format, read strictly. An unknown key, an unknown template function or a recording rule is an error
//! that says where.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::ALERT_NAME;
use crate::duration::parse_ms;
use crate::template::Template;

/// Largest rule file, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Most rules in one file.
const RULES_MAX: usize = 1000;

/// Why a rule file is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("{0}")]
    Yaml(String),
    #[error("file of {0} bytes is larger than {FILE_BYTES_MAX}")]
    TooLarge(usize),
    #[error("group `{group}`: {problem}")]
    Group { group: String, problem: String },
    #[error("group `{group}`, rule `{rule}`: {problem}")]
    Rule { group: String, rule: String, problem: String },
}

/// Rules that are evaluated one after the other at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    pub name: String,
    /// `None`: as often as everything else.
    pub interval_ms: Option<u64>,
    pub rules: Vec<Rule>,
}

/// One alerting rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub alert: String,
    /// PromQL; whoever evaluates it checks it.
    pub expr: String,
    /// How long it must hold before it fires.
    pub for_ms: u64,
    /// How long it goes on firing when it no longer holds.
    pub keep_firing_for_ms: u64,
    pub labels: BTreeMap<String, Template>,
    pub annotations: BTreeMap<String, Template>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileYaml {
    #[serde(default)]
    groups: Vec<GroupYaml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupYaml {
    name: String,
    interval: Option<String>,
    #[serde(default)]
    rules: Vec<RuleYaml>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleYaml {
    alert: Option<String>,
    record: Option<String>,
    expr: String,
    #[serde(rename = "for")]
    hold: Option<String>,
    keep_firing_for: Option<String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Reads a rule file.
///
/// # Errors
/// [`RuleError`] names the place: line and column for what is no such YAML, group and rule for the rest.
pub fn parse(text: &str) -> Result<Vec<Group>, RuleError> {
    if text.len() > FILE_BYTES_MAX {
        return Err(RuleError::TooLarge(text.len()));
    }
    let file: FileYaml = serde_yaml_ng::from_str(text).map_err(|error| RuleError::Yaml(error.to_string()))?;
    let mut names = BTreeSet::new();
    let mut count = 0;
    let mut groups = Vec::with_capacity(file.groups.len());
    for group in file.groups {
        let name = group.name;
        let refuse = |problem: &str| RuleError::Group { group: name.clone(), problem: problem.to_owned() };
        if name.is_empty() || !names.insert(name.clone()) {
            return Err(refuse("a group needs a name that no other group has"));
        }
        count += group.rules.len();
        if count > RULES_MAX {
            return Err(refuse("the file has more than 1000 rules"));
        }
        let interval_ms = group.interval.map(|text| parse_ms(&text)).transpose().map_err(|problem| refuse(&problem))?;
        if interval_ms == Some(0) {
            return Err(refuse("an interval of nothing would never end"));
        }
        let rules = group.rules.into_iter().map(|rule| read_rule(&name, rule)).collect::<Result<Vec<_>, _>>()?;
        groups.push(Group { name, interval_ms, rules });
    }
    Ok(groups)
}

fn read_rule(group: &str, rule: RuleYaml) -> Result<Rule, RuleError> {
    let called = rule.alert.clone().or(rule.record.clone()).unwrap_or_default();
    let refuse = |problem: String| RuleError::Rule { group: group.to_owned(), rule: called.clone(), problem };
    if rule.record.is_some() {
        return Err(refuse("recording rules are not evaluated here; only `alert` rules are".into()));
    }
    let Some(alert) = rule.alert.filter(|alert| !alert.is_empty()) else {
        return Err(refuse("a rule needs the key `alert`".into()));
    };
    if rule.expr.trim().is_empty() {
        return Err(refuse("`expr` is empty".into()));
    }
    let time = |text: Option<String>| text.map_or(Ok(0), |text| parse_ms(&text)).map_err(&refuse);
    let templates = |texts: BTreeMap<String, String>, are_labels: bool| {
        let read = |(name, text): (String, String)| {
            if are_labels && (name == ALERT_NAME || name == "__name__" || !is_label(&name)) {
                return Err(refuse(format!("`{name}` cannot be a label here")));
            }
            let template = Template::parse(&text).map_err(|error| refuse(format!("`{name}`: {error}")))?;
            Ok((name, template))
        };
        texts.into_iter().map(read).collect::<Result<BTreeMap<_, _>, _>>()
    };
    Ok(Rule {
        expr: rule.expr.trim().to_owned(),
        for_ms: time(rule.hold)?,
        keep_firing_for_ms: time(rule.keep_firing_for)?,
        labels: templates(rule.labels, true)?,
        annotations: templates(rule.annotations, false)?,
        alert,
    })
}

fn is_label(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_rules_are_rules() {
        let groups = parse(crate::DEFAULT_RULES).unwrap();
        let alerts: Vec<&str> = groups.iter().flat_map(|group| &group.rules).map(|rule| rule.alert.as_str()).collect();
        assert_eq!(
            alerts,
            [
                "DLQNotEmpty",
                "DiskFull",
                "ArtifactDamaged",
                "ColdTierAway",
                "ColdWindowsAway",
                "ArtifactWritesFail",
                "OtherS3Away",
                "AgentSilent"
            ]
        );
    }

    #[test]
    fn a_mistake_is_named_with_its_place() {
        let file = |rule: &str| format!("groups:\n- name: g\n  rules:\n  - {rule}\n");
        for (rule, says) in [
            ("{alert: A, expr: up, colour: red}", "unknown field `colour`"),
            ("{alert: A, expr: up, for: soon}", "group `g`, rule `A`: `soon` is no duration"),
            ("{record: r, expr: up}", "recording rules"),
            ("{expr: up}", "needs the key `alert`"),
            ("{alert: A, expr: ' '}", "`expr` is empty"),
            ("{alert: A, expr: up, labels: {alertname: x}}", "`alertname` cannot be a label"),
            ("{alert: A, expr: up, annotations: {s: '{{ reverse $value }}'}}", "`s`: "),
        ] {
            let error = parse(&file(rule)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        assert!(parse("groups: [{name: a}, {name: a}]").is_err());
        assert!(parse("groups: [{name: a, interval: 0s}]").is_err());
    }

    proptest! {
        #[test]
        fn garbage_is_an_error_and_no_panic(text in "\\PC*", tail in "[a-z{}$|: \n\\-]{0,80}") {
            let _ = parse(&text);
            let _ = parse(&format!("groups:\n- name: g\n  rules:\n  - alert: A\n    expr: up\n    annotations:\n      s: \"{tail}\""));
        }
    }
}
