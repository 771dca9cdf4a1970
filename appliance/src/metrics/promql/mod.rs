//! PromQL: reads an expression (`promql-parser`'s AST) and evaluates it over any [`Source`] of samples.
//!
//! Semantics are those of Prometheus 3: ranges are open on the left, an instant looks back five minutes, a staleness marker
//! ends a series, `rate` extrapolates, and a metric's name is dropped when the whole expression has been evaluated
//! (Prometheus's `promql-delayed-name-removal`, which its own test scripts run with).
//!
//! A node is evaluated for all steps of a query at once; the value of a series at step *n* is number *n* of its
//! column, and the staleness marker's bits stand for "no value here", because no expression can yield them.
//!
//! Absent on purpose: native histograms (functions over them answer nothing, as they do in Prometheus over float samples), `info`,
//! `@`-less durations as expressions. A function we lack is a parse error, as in Prometheus.

mod aggregate;
mod binary;
mod budget;
mod calendar;
mod eval;
mod functions;
mod histogram;
mod labelling;
mod over_time;
mod read;
#[cfg(test)]
mod rule_tests;
#[cfg(test)]
mod script;
#[cfg(test)]
mod script_series;

pub use budget::{Budget, Limits, Notes};
pub use eval::Evaluator;
pub use read::{duration_ms, parse, selector, selectors};

use super::model::{Labels, Sample, Selector, SeriesSamples, is_stale};

/// How far an instant looks back, in milliseconds.
pub const LOOKBACK_MS: i64 = 5 * 60 * 1000;

/// Step of a subquery that names none, in milliseconds; Prometheus's default evaluation interval.
pub const SUBQUERY_STEP_MS: i64 = 60 * 1000;

/// Most steps of a range query, as in Prometheus.
pub const STEPS_MAX: i64 = 11_000;

/// Why a query has no answer. The text of each is Prometheus's where it has one.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum QueryError {
    #[error("{0}")]
    Parse(String),
    #[error("{0}")]
    Execution(String),
    #[error("query processing would load too many samples into memory in query execution")]
    TooManySamples,
    #[error("query timed out in expression evaluation")]
    Timeout,
    #[error("query was canceled in expression evaluation")]
    Cancelled,
    #[error("read samples: {0}")]
    Storage(String),
}

impl QueryError {
    pub(crate) fn execution(problem: impl Into<String>) -> Self {
        Self::Execution(problem.into())
    }
}

/// Where samples come from.
pub trait Source: Send + Sync {
    /// The series that `selector` matches, with their samples from `from_ms` to `to_ms`, both included, in time order
    /// with staleness markers. Charges `budget` for each sample before it is held.
    ///
    /// # Errors
    /// What `budget` says, or [`QueryError::Storage`].
    fn select(
        &self,
        selector: &Selector,
        from_ms: i64,
        to_ms: i64,
        budget: &Budget,
    ) -> Result<Vec<SeriesSamples>, QueryError>;
}

/// One series of an answer.
#[derive(Clone, Debug)]
pub struct SeriesAnswer {
    pub labels: Labels,
    pub samples: Vec<Sample>,
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    Scalar(Sample),
    Text(String),
    /// One sample a series, in the expression's order.
    Vector(Vec<SeriesAnswer>),
    /// Sorted by labels.
    Matrix(Vec<SeriesAnswer>),
}

/// When an expression is evaluated. Both ends included; `step_ms` is above 0 unless the ends are equal.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    pub start_ms: i64,
    pub end_ms: i64,
    pub step_ms: i64,
}

impl Range {
    #[must_use]
    pub fn instant(t_ms: i64) -> Self {
        Self { start_ms: t_ms, end_ms: t_ms, step_ms: 1 }
    }
}

/// Evaluates `expr` at one moment.
///
/// # Errors
/// [`QueryError`].
pub fn instant(
    source: &dyn Source,
    expr: &promql_parser::parser::Expr,
    t_ms: i64,
    budget: &Budget,
) -> Result<Answer, QueryError> {
    Evaluator::new(source, budget, Range::instant(t_ms)).instant(expr)
}

/// Evaluates `expr` at each step of `range`.
///
/// # Errors
/// [`QueryError`].
pub fn range(
    source: &dyn Source,
    expr: &promql_parser::parser::Expr,
    range: Range,
    budget: &Budget,
) -> Result<Answer, QueryError> {
    Evaluator::new(source, budget, range).range(expr)
}

/// A series while it is being computed: one value for each step.
#[derive(Clone, Debug)]
pub(crate) struct Column {
    pub(crate) labels: Labels,
    /// The name goes when the whole expression has been evaluated.
    pub(crate) drop_name: bool,
    pub(crate) values: Vec<f64>,
}

/// Whether a column has a value here.
pub(crate) fn present(value: f64) -> bool {
    !is_stale(value)
}

/// The bits that say "no value here".
pub(crate) const ABSENT: f64 = f64::from_bits(super::model::STALE_BITS);

/// The sum of many floats with the error of few (Kahan, Neumaier): `sum` and what was lost beside it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kahan {
    pub(crate) sum: f64,
    pub(crate) lost: f64,
}

impl Kahan {
    pub(crate) fn add(&mut self, value: f64) {
        let total = self.sum + value;
        self.lost = if total.is_infinite() {
            0.0
        } else if self.sum.abs() >= value.abs() {
            self.lost + ((self.sum - total) + value)
        } else {
            self.lost + ((value - total) + self.sum)
        };
        self.sum = total;
    }

    pub(crate) fn total(self) -> f64 {
        if self.sum.is_infinite() { self.sum } else { self.sum + self.lost }
    }
}

/// The mean as Prometheus computes it: one division at the end, and a running mean only where the sum would overflow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    sum: Kahan,
    count: f64,
    running: bool,
}

impl Mean {
    pub(crate) fn add(&mut self, value: f64) {
        self.count += 1.0;
        if !self.running {
            let mut sum = self.sum;
            sum.add(value);
            if self.count == 1.0 || !sum.sum.is_infinite() {
                self.sum = sum;
                return;
            }
            self.running = true;
            self.sum = Kahan { sum: self.sum.sum / (self.count - 1.0), lost: self.sum.lost / (self.count - 1.0) };
        }
        let share = (self.count - 1.0) / self.count;
        self.sum = Kahan { sum: self.sum.sum * share, lost: self.sum.lost * share };
        self.sum.add(value / self.count);
    }

    pub(crate) fn total(self) -> f64 {
        if self.running { self.sum.sum + self.sum.lost } else { self.sum.sum / self.count + self.sum.lost / self.count }
    }
}

/// The φ-quantile of `values` (sorted here), as Prometheus interpolates it.
pub(crate) fn quantile(phi: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || phi.is_nan() {
        return f64::NAN;
    }
    if phi < 0.0 {
        return f64::NEG_INFINITY;
    }
    if phi > 1.0 {
        return f64::INFINITY;
    }
    // NaN counts as the smallest value.
    values.sort_by(|a, b| b.is_nan().cmp(&a.is_nan()).then(a.total_cmp(b)));
    let last = values.len() - 1;
    let rank = phi * last as f64;
    let lower = (rank.floor() as usize).min(last);
    let upper = (lower + 1).min(last);
    let weight = rank - rank.floor();
    values[lower] * (1.0 - weight) + values[upper] * weight
}
