//! Values of fields: a text that is a number counts as that number, wherever a number is wanted.

use std::cmp::Ordering;

use serde_json::Value;

use crate::clock::Now;

/// Integers from here on are not exact as numbers.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Val {
    /// The record has no such field.
    Missing,
    Number(f64),
    Text(String),
    Bool(bool),
    /// Milliseconds since 1970.
    Time(i64),
}

impl Val {
    pub(super) fn of_json(value: &Value) -> Self {
        match value {
            Value::Null => Self::Missing,
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Number(number) => match number.as_f64() {
                Some(exact) if exact.abs() < EXACT_MAX => Self::Number(exact),
                _ => Self::Text(number.to_string()),
            },
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(_) | Value::Object(_) => Self::Text(value.to_string()),
        }
    }

    pub(super) fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }

    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            Self::Time(ms) => Some(*ms as f64),
            Self::Bool(_) | Self::Missing => None,
        }
    }

    /// As it is answered; `None` when it is missing.
    pub(super) fn text(&self) -> Option<String> {
        match self {
            Self::Missing => None,
            Self::Number(number) => Some(number_text(*number)),
            Self::Text(text) => Some(text.clone()),
            Self::Bool(flag) => Some(u8::from(*flag).to_string()),
            Self::Time(ms) => Some(time_text(*ms)),
        }
    }

    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Bool(flag) => *flag,
            Self::Number(number) => *number != 0.0,
            Self::Text(text) => text == "true" || text == "1",
            Self::Time(_) => true,
            Self::Missing => false,
        }
    }

    /// Whether both are the same: as numbers, where both are.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Missing, Self::Missing) => true,
            (Self::Missing, _) | (_, Self::Missing) => false,
            (Self::Bool(flag), Self::Text(text)) | (Self::Text(text), Self::Bool(flag)) => {
                text == if *flag { "true" } else { "false" } || text == if *flag { "1" } else { "0" }
            }
            (Self::Bool(flag), Self::Number(number)) | (Self::Number(number), Self::Bool(flag)) => {
                *number == f64::from(u8::from(*flag))
            }
            (Self::Bool(one), Self::Bool(other)) => one == other,
            _ => match (self.number(), other.number()) {
                (Some(one), Some(other)) => one == other,
                _ => self.text() == other.text(),
            },
        }
    }

    /// Which of them is less; `None` when one is missing, or one alone is a number.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self.number(), other.number()) {
            (Some(one), Some(other)) => one.partial_cmp(&other),
            (None, None) => Some(self.text()?.cmp(&other.text()?)),
            _ => None,
        }
    }

    /// An order of all values: what is missing comes first, then numbers, then texts.
    pub(super) fn rank(&self, other: &Self) -> Ordering {
        let kind = |value: &Self| match value {
            Self::Missing => 0,
            value if value.number().is_some() => 1,
            _ => 2,
        };
        kind(self).cmp(&kind(other)).then_with(|| self.compare(other).unwrap_or(Ordering::Equal))
    }
}

pub(super) fn number_text(number: f64) -> String {
    let whole = number + 0.0; // -0 is 0
    if whole.fract() == 0.0 && whole.abs() < EXACT_MAX { format!("{whole:.0}") } else { whole.to_string() }
}

/// `2026-11-23 06:15:00.000`, as Insights writes moments.
pub(super) fn time_text(ms: i64) -> String {
    let wall_ms = u64::try_from(ms.max(0)).unwrap_or_default();
    let text = Now { mono_ms: 0, wall_ms }.timestamp().to_rfc3339();
    text.trim_end_matches('Z').replacen('T', " ", 1)
}
