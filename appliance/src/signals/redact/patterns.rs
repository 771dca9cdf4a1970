//! Regular expressions whose matches are taken out of texts.

use regex::{Captures, Regex, RegexBuilder, RegexSet, RegexSetBuilder};
use serde_json::Value;

use crate::config::RedactionRule;

const NAME_BYTES_MAX: usize = 64;
const PATTERN_BYTES_MAX: usize = 1024;
/// What a pattern may compile to. All of them are compiled together once more.
const COMPILED_BYTES_MAX: usize = 1 << 20;
const TOGETHER_BYTES_MAX: usize = 32 << 20;
/// The group that is taken out alone.
const GROUP: &str = "secret";
/// A text may grow by so much when marks stand for what was shorter; what is behind that is left out.
const GROWTH_BYTES_MAX: usize = 64 * 1024;
/// Longest JSON that is looked into where it hides letters behind escapes.
const JSON_BYTES_MAX: usize = 1 << 20;

pub(super) struct Patterns {
    names: Vec<String>,
    each: Vec<Regex>,
    /// All at once: most texts end here.
    any: RegexSet,
}

impl Patterns {
    pub(super) fn new(rules: &[RedactionRule]) -> Result<Self, String> {
        let mut each = Vec::with_capacity(rules.len());
        for (at, RedactionRule { name, pattern }) in rules.iter().enumerate() {
            if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
                return Err(format!(
                    "rule {}: its name has 1 to {NAME_BYTES_MAX} bytes and no control characters",
                    at + 1
                ));
            }
            let wrong = |problem: &dyn std::fmt::Display| Err(format!("rule `{name}`: {problem}"));
            if rules[..at].iter().any(|other| other.name == *name) {
                return wrong(&"there is another one of this name");
            }
            if pattern.is_empty() || pattern.len() > PATTERN_BYTES_MAX {
                return wrong(&format!("its pattern has 1 to {PATTERN_BYTES_MAX} bytes"));
            }
            match RegexBuilder::new(pattern).size_limit(COMPILED_BYTES_MAX).build() {
                Ok(regex) if regex.is_match("") => return wrong(&"its pattern matches where there is nothing"),
                Ok(regex) => each.push(regex),
                Err(error) => return wrong(&error),
            }
        }
        let patterns = rules.iter().map(|rule| &rule.pattern);
        let any = RegexSetBuilder::new(patterns).size_limit(TOGETHER_BYTES_MAX).build();
        let any = any.map_err(|error| format!("all rules together: {error}"))?;
        Ok(Self { names: rules.iter().map(|rule| rule.name.clone()).collect(), each, any })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.each.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.each.len()
    }

    pub(super) fn name(&self, rule: usize) -> &str {
        &self.names[rule]
    }

    /// `text` without what the patterns match; `None` where that is `text` itself.
    pub(super) fn redacted(&self, text: &str, mark: &str, counts: &mut [u64]) -> Option<String> {
        if self.is_empty() || text.is_empty() {
            return None;
        }
        let plain = self.plain(text, mark, counts);
        let hidden = self.hidden(plain.as_deref().unwrap_or(text), mark, counts);
        hidden.or(plain)
    }

    fn plain(&self, text: &str, mark: &str, counts: &mut [u64]) -> Option<String> {
        let mut made: Option<String> = None;
        for rule in self.any.matches(text) {
            let now = made.as_deref().unwrap_or(text);
            if let Some(without) = replaced(&self.each[rule], now, mark, &mut counts[rule]) {
                made = Some(without);
            }
        }
        made
    }

    /// JSON may write any letter as an escape, and is read when its record is indexed.
    fn hidden(&self, text: &str, mark: &str, counts: &mut [u64]) -> Option<String> {
        let trimmed = text.trim_start();
        if !trimmed.starts_with(['{', '[']) || text.len() > JSON_BYTES_MAX || !text.contains('\\') {
            return None;
        }
        let mut value: Value = serde_json::from_str(trimmed).ok()?;
        self.within(&mut value, mark, counts).then(|| value.to_string())
    }

    fn within(&self, value: &mut Value, mark: &str, counts: &mut [u64]) -> bool {
        match value {
            Value::String(text) => {
                let without = self.plain(text, mark, counts);
                let changed = without.is_some();
                if let Some(without) = without {
                    *text = without;
                }
                changed
            }
            Value::Array(values) => {
                let mut changed = false;
                for value in values {
                    changed |= self.within(value, mark, counts);
                }
                changed
            }
            Value::Object(entries) => {
                let mut changed = false;
                for value in entries.values_mut() {
                    changed |= self.within(value, mark, counts);
                }
                changed
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
}

fn replaced(regex: &Regex, text: &str, mark: &str, count: &mut u64) -> Option<String> {
    let has_group = regex.capture_names().flatten().any(|name| name == GROUP);
    let mut made = String::new();
    let mut copied = 0;
    let mut take = |begin: usize, end: usize| {
        made.push_str(&text[copied..begin]);
        made.push_str(mark);
        copied = end;
        *count += 1;
        made.len() <= end + GROWTH_BYTES_MAX
    };
    let whole = |found: &Captures<'_>| found.name(GROUP).map(|group| (group.start(), group.end()));
    let fits = if has_group {
        regex.captures_iter(text).filter_map(|found| whole(&found)).all(|(begin, end)| begin >= end || take(begin, end))
    } else {
        regex.find_iter(text).all(|found| found.is_empty() || take(found.start(), found.end()))
    };
    if copied == 0 {
        return None;
    }
    if fits {
        made.push_str(&text[copied..]);
    }
    Some(made)
}
