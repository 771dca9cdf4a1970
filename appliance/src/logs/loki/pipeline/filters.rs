//! Conditions on lines and on labels.

use backlot_windows::Pattern;

use super::labels::{ERROR, Labels};
use crate::logs::loki::logql::{Matcher, bytes, duration_ns};

/// `|= "a" or "b"`, `!~ "c"`.
#[derive(Debug, PartialEq)]
pub(in crate::logs::loki) struct LineFilter {
    pub(in crate::logs::loki) negated: bool,
    /// One of them is enough.
    pub(in crate::logs::loki) any: Vec<LineTest>,
}

#[derive(Debug, PartialEq)]
pub(in crate::logs::loki) enum LineTest {
    Contains(String),
    Matches(Pattern),
}

impl LineFilter {
    pub(in crate::logs::loki) fn holds(&self, line: &str) -> bool {
        let passes = self.any.iter().any(|test| match test {
            LineTest::Contains(text) => line.contains(text.as_str()),
            LineTest::Matches(pattern) => pattern.is_match(line),
        });
        passes != self.negated
    }
}

/// `a="x" and (b>5 or c<1s)`.
#[derive(Debug)]
pub(in crate::logs::loki) enum LabelFilter {
    Text(Matcher),
    Number { label: String, compare: Compare, quantity: Quantity, than: f64 },
    All(Vec<LabelFilter>),
    Any(Vec<LabelFilter>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::logs::loki) enum Compare {
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
}

/// How the value of a label is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::logs::loki) enum Quantity {
    Number,
    /// In nanoseconds.
    Duration,
    Bytes,
}

impl Compare {
    fn holds(self, value: f64, than: f64) -> bool {
        match self {
            Self::Equal => value == than,
            Self::NotEqual => value != than,
            Self::Greater => value > than,
            Self::GreaterEqual => value >= than,
            Self::Less => value < than,
            Self::LessEqual => value <= than,
        }
    }
}

impl LabelFilter {
    pub(in crate::logs::loki) fn holds(&self, labels: &mut Labels) -> bool {
        match self {
            Self::Text(matcher) => matcher.holds(labels.get(matcher.name()).unwrap_or_default()),
            Self::All(all) => all.iter().all(|filter| filter.holds(labels)),
            Self::Any(some) => some.iter().any(|filter| filter.holds(labels)),
            Self::Number { label, compare, quantity, than } => {
                if labels.has_failed() {
                    return true; // what an earlier stage could not read is not judged
                }
                let Some(text) = labels.get(label) else { return false };
                let value = match quantity {
                    Quantity::Number => text.parse::<f64>().ok(),
                    Quantity::Duration => duration_ns(text).map(|ns| ns as f64),
                    Quantity::Bytes => bytes(text),
                };
                match value {
                    Some(value) => compare.holds(value, *than),
                    None => {
                        let details = format!("{} is no {quantity:?}", backlot_windows::clip(text, 80)).to_lowercase();
                        labels.fail("LabelFilterErr", &details);
                        true
                    }
                }
            }
        }
    }

    /// Texts that a label must be equal to for the filter to hold.
    pub(in crate::logs::loki) fn required(&self) -> Vec<(&str, &str)> {
        match self {
            Self::Text(Matcher::Equal(name, value)) if !value.is_empty() && name != ERROR => vec![(name, value)],
            Self::All(all) => all.iter().flat_map(Self::required).collect(),
            _ => Vec::new(),
        }
    }
}
