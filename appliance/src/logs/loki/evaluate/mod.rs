//! Evaluates a query over the series that its ranges gave: pure arithmetic, all steps at once.
//!
//! A node's series have one value, or none, for each step. What a range of lines gives is computed by [`Gathered`] from the lines, or
//! by [`counted`] from counts of records.

mod aggregate;
mod binary;
mod over_time;

use std::collections::BTreeMap;

pub(super) use binary::calculate;
pub(super) use over_time::{Gathered, Parting, counted};

use super::logql::{Grouping, LabelReplace, Metric};

/// Most series of any part of a query.
pub(super) const SERIES_MAX: usize = 500;
/// Most values of one part of a query: series times steps.
const VALUES_MAX: usize = 2_000_000;

/// The labels of a series.
pub(super) type LabelSet = BTreeMap<String, String>;

/// When a query is evaluated: `count` times, `step_ns` apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Steps {
    pub(super) start_ns: i64,
    pub(super) step_ns: i64,
    pub(super) count: usize,
}

impl Steps {
    pub(super) fn at(&self, index: usize) -> i64 {
        let ahead = i64::try_from(index).unwrap_or(i64::MAX).saturating_mul(self.step_ns);
        self.start_ns.saturating_add(ahead)
    }

    pub(super) fn end_ns(&self) -> i64 {
        self.at(self.count.saturating_sub(1))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    pub(super) labels: LabelSet,
    /// Of each step.
    pub(super) values: Vec<Option<f64>>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Scalar(f64),
    /// In the order of the answer, where the query says one.
    Vector(Vec<Series>),
}

/// Why a query has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum EvaluateError {
    #[error(
        "maximum of series ({SERIES_MAX}) reached for a single query; consider reducing query cardinality by adding more specific stream selectors, reducing the time range, or aggregating results with functions like sum, count or topk"
    )]
    TooManySeries,
    #[error("the query would compute more than {VALUES_MAX} values; consider a longer step or a shorter time range")]
    TooManyValues,
    #[error(
        "the ranges of the query overlap so much that it would look at too many samples; consider a longer step or a shorter range"
    )]
    TooMuchWork,
    #[error(
        "pipeline error: '{error}' for series: '{series}'.\nUse a label filter to intentionally skip this error. (e.g | __error__!=\"{error}\").\n\
         To skip all potential errors you can match empty errors.(e.g __error__=\"\")\n\
         The label filter can also be specified after unwrap. (e.g | unwrap latency | __error__=\"\" )\n"
    )]
    Pipeline { error: String, series: String },
    #[error("{0}")]
    Matching(String),
}

/// Evaluates `metric`; `ranges` are the series of its aggregations over ranges, by their number.
pub(super) fn evaluate(metric: &Metric, steps: Steps, ranges: &[Vec<Series>]) -> Result<Value, EvaluateError> {
    let value = match metric {
        Metric::Number(number) => Value::Scalar(*number),
        Metric::Vector(number) => {
            Value::Vector(vec![Series { labels: LabelSet::new(), values: vec![Some(*number); steps.count] }])
        }
        Metric::Range(range) => Value::Vector(ranges.get(range.id).cloned().unwrap_or_default()),
        Metric::Aggregate(aggregate) => {
            let of = vector(evaluate(&aggregate.of, steps, ranges)?, steps);
            Value::Vector(aggregate::aggregate(aggregate, of, steps)?)
        }
        Metric::Binary(binary) => {
            let left = evaluate(&binary.left, steps, ranges)?;
            binary::evaluate(binary, left, evaluate(&binary.right, steps, ranges)?, steps)?
        }
        Metric::LabelReplace(replace) => {
            let of = vector(evaluate(&replace.of, steps, ranges)?, steps);
            Value::Vector(label_replace(replace, of)?)
        }
    };
    if let Value::Vector(series) = &value {
        check(series.len(), steps)?;
    }
    Ok(value)
}

/// Refuses what would be too large.
pub(super) fn check(series: usize, steps: Steps) -> Result<(), EvaluateError> {
    if series > SERIES_MAX {
        return Err(EvaluateError::TooManySeries);
    }
    if series.saturating_mul(steps.count) > VALUES_MAX {
        return Err(EvaluateError::TooManyValues);
    }
    Ok(())
}

/// A number where series are meant is one series without labels.
fn vector(value: Value, steps: Steps) -> Vec<Series> {
    match value {
        Value::Scalar(number) => vec![Series { labels: LabelSet::new(), values: vec![Some(number); steps.count] }],
        Value::Vector(series) => series,
    }
}

/// The labels that a grouping leaves.
pub(super) fn grouped(labels: &LabelSet, grouping: &Grouping) -> LabelSet {
    let keeps = |name: &String| grouping.names.contains(name) != grouping.without;
    labels.iter().filter(|(name, _)| keeps(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// As Loki writes labels.
pub(super) fn labels_text(labels: &LabelSet) -> String {
    let pairs = labels.iter().map(|(name, value)| format!("{name}={value:?}"));
    format!("{{{}}}", pairs.collect::<Vec<_>>().join(", "))
}

fn label_replace(replace: &LabelReplace, of: Vec<Series>) -> Result<Vec<Series>, EvaluateError> {
    let mut made: Vec<Series> = Vec::with_capacity(of.len());
    let mut seen = std::collections::BTreeSet::new();
    for mut series in of {
        let from = series.labels.get(&replace.from).map_or("", String::as_str);
        if let Some(captures) = replace.regex.captures(from) {
            let mut value = String::new();
            captures.expand(&replace.replacement, &mut value);
            let value = backlot_windows::clip(&value, 1024).to_owned();
            if value.is_empty() {
                series.labels.remove(&replace.to);
            } else {
                series.labels.insert(replace.to.clone(), value);
            }
        }
        if !seen.insert(series.labels.clone()) {
            return Err(EvaluateError::Matching("vector cannot contain metrics with the same labelset".to_owned()));
        }
        made.push(series);
    }
    Ok(made)
}

#[cfg(test)]
mod tests;
