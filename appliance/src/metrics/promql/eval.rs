//! Walks an expression: selectors, ranges, subqueries, and what becomes of the answer. The operators live beside it.

use std::collections::HashMap;
use std::time::UNIX_EPOCH;

use promql_parser::parser::value::ValueType;
use promql_parser::parser::{AtModifier, Expr, MatrixSelector, Offset, SubqueryExpr, VectorSelector};

use super::{
    ABSENT, Answer, Budget, Column, LOOKBACK_MS, QueryError, Range, SUBQUERY_STEP_MS, SeriesAnswer, Source, aggregate,
    binary, functions, present, read,
};
use crate::metrics::model::{Labels, Sample, is_stale};

/// What a node yields for all steps.
pub(crate) enum Value {
    Scalar(Vec<f64>),
    Vector(Vec<Column>),
    Text(String),
}

/// A series behind a range: all samples that any step's window may need, without staleness markers.
pub(crate) struct RangeSeries {
    pub(crate) labels: Labels,
    pub(crate) drop_name: bool,
    pub(crate) samples: Vec<Sample>,
}

/// A range vector: series, and for each step the end of its window. A window is open on the left.
pub(crate) struct Windows {
    pub(crate) series: Vec<RangeSeries>,
    pub(crate) range_ms: i64,
    pub(crate) ends_ms: Vec<i64>,
}

impl Windows {
    /// The samples of one series in the window of each step, handed to `visit` with the step's number.
    pub(crate) fn each(&self, samples: &[Sample], mut visit: impl FnMut(usize, i64, &[Sample])) {
        let (mut from, mut to) = (0, 0);
        let mut last_end_ms = i64::MIN;
        for (step, &end_ms) in self.ends_ms.iter().enumerate() {
            if end_ms < last_end_ms {
                (from, to) = (0, 0);
            }
            last_end_ms = end_ms;
            let start_ms = end_ms.saturating_sub(self.range_ms);
            while from < samples.len() && samples[from].t_ms <= start_ms {
                from += 1;
            }
            to = to.max(from);
            while to < samples.len() && samples[to].t_ms <= end_ms {
                to += 1;
            }
            visit(step, end_ms, &samples[from..to]);
        }
    }
}

/// Evaluates expressions at the steps of one range.
pub struct Evaluator<'a> {
    pub(super) source: &'a dyn Source,
    pub(super) budget: &'a Budget,
    /// The moments at which this (sub)query is evaluated.
    pub(super) times_ms: Vec<i64>,
    /// The outermost query's ends, for `@ start()` and `@ end()`.
    query: Range,
    /// Only then does `sort` mean something.
    pub(super) is_instant: bool,
}

impl<'a> Evaluator<'a> {
    #[must_use]
    pub fn new(source: &'a dyn Source, budget: &'a Budget, query: Range) -> Self {
        let steps = (query.end_ms - query.start_ms) / query.step_ms.max(1);
        let times_ms = (0..=steps).map(|step| query.start_ms + step * query.step_ms).collect();
        Self { source, budget, times_ms, query, is_instant: query.start_ms == query.end_ms }
    }

    pub(super) fn steps(&self) -> usize {
        self.times_ms.len()
    }

    pub(super) fn instant(&self, expr: &Expr) -> Result<Answer, QueryError> {
        let t_ms = self.query.start_ms;
        if expr.value_type() == ValueType::Matrix {
            let windows = self.windows(expr)?;
            let mut series = Vec::new();
            for one in &windows.series {
                windows.each(&one.samples, |_, _, samples| {
                    if !samples.is_empty() {
                        let labels = if one.drop_name { one.labels.without_name() } else { one.labels.clone() };
                        series.push(SeriesAnswer { labels, samples: samples.to_vec() });
                    }
                });
            }
            return Ok(Answer::Matrix(series));
        }
        Ok(match self.eval(expr)? {
            Value::Scalar(values) => Answer::Scalar(Sample { t_ms, value: values[0] }),
            Value::Text(text) => Answer::Text(text),
            Value::Vector(columns) => Answer::Vector(self.answer(columns)?),
        })
    }

    pub(super) fn range(&self, expr: &Expr) -> Result<Answer, QueryError> {
        let mut series = match self.eval(expr)? {
            Value::Scalar(values) => {
                let samples = self.times_ms.iter().zip(values).map(|(&t_ms, value)| Sample { t_ms, value }).collect();
                vec![SeriesAnswer { labels: Labels::default(), samples }]
            }
            Value::Vector(columns) => self.answer(columns)?,
            Value::Text(_) => {
                return Err(QueryError::Parse(
                    "invalid expression type \"string\" for range query, must be Scalar or instant Vector".into(),
                ));
            }
        };
        series.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(Answer::Matrix(series))
    }

    /// Drops the names that are to go and joins what has become one series.
    fn answer(&self, columns: Vec<Column>) -> Result<Vec<SeriesAnswer>, QueryError> {
        let mut at: HashMap<Labels, usize> = HashMap::new();
        let mut joined: Vec<(Labels, Vec<f64>)> = Vec::new();
        for column in columns {
            if !column.values.iter().any(|&value| present(value)) {
                continue;
            }
            let labels = if column.drop_name { column.labels.without_name() } else { column.labels };
            if let Some(&index) = at.get(&labels) {
                for (kept, new) in joined[index].1.iter_mut().zip(column.values) {
                    if present(*kept) && present(new) {
                        return Err(same_labelset());
                    }
                    if present(new) {
                        *kept = new;
                    }
                }
            } else {
                at.insert(labels.clone(), joined.len());
                joined.push((labels, column.values));
            }
        }
        let samples = |values: Vec<f64>| {
            let pairs = self.times_ms.iter().zip(values).filter(|(_, value)| present(*value));
            pairs.map(|(&t_ms, value)| Sample { t_ms, value }).collect()
        };
        Ok(joined.into_iter().map(|(labels, values)| SeriesAnswer { labels, samples: samples(values) }).collect())
    }

    pub(super) fn eval(&self, expr: &Expr) -> Result<Value, QueryError> {
        self.budget.check()?;
        match expr {
            Expr::NumberLiteral(number) => Ok(Value::Scalar(vec![number.val; self.steps()])),
            Expr::StringLiteral(text) => Ok(Value::Text(text.val.clone())),
            Expr::Paren(inner) => self.eval(&inner.expr),
            Expr::Unary(inner) => Ok(match self.eval(&inner.expr)? {
                Value::Scalar(values) => Value::Scalar(values.into_iter().map(|value| -value).collect()),
                Value::Vector(columns) => Value::Vector(functions::map(columns, |value| -value)),
                text @ Value::Text(_) => text,
            }),
            Expr::VectorSelector(selector) => Ok(Value::Vector(self.vector(selector, |sample| sample.value)?)),
            Expr::Binary(node) => binary::eval(self, node),
            Expr::Aggregate(node) => aggregate::eval(self, node).map(Value::Vector),
            Expr::Call(node) => functions::call(self, node),
            Expr::MatrixSelector(_) | Expr::Subquery(_) => Err(QueryError::Parse(
                "invalid expression type \"range vector\" for range query, must be Scalar or instant Vector".into(),
            )),
            Expr::Extension(_) => Err(QueryError::Parse("extensions are not expressions".into())),
        }
    }

    pub(super) fn vector_of(&self, expr: &Expr) -> Result<Vec<Column>, QueryError> {
        match self.eval(expr)? {
            Value::Vector(columns) => Ok(columns),
            _ => Err(QueryError::Parse("expected type instant vector".into())),
        }
    }

    pub(super) fn scalar_of(&self, expr: &Expr) -> Result<Vec<f64>, QueryError> {
        match self.eval(expr)? {
            Value::Scalar(values) => Ok(values),
            _ => Err(QueryError::Parse("expected type scalar".into())),
        }
    }

    pub(super) fn text_of(&self, expr: &Expr) -> Result<String, QueryError> {
        match self.eval(expr)? {
            Value::Text(text) => Ok(text),
            _ => Err(QueryError::Parse("expected type string".into())),
        }
    }

    /// The moment that each step looks at, after `@` and `offset`.
    fn moments(&self, at: Option<&AtModifier>, offset: Option<&Offset>) -> Vec<i64> {
        let back_ms = match offset {
            None => 0,
            Some(Offset::Pos(span)) => ms(span.as_millis()),
            Some(Offset::Neg(span)) => -ms(span.as_millis()),
        };
        let fixed = at.map(|at| match at {
            AtModifier::Start => self.query.start_ms,
            AtModifier::End => self.query.end_ms,
            AtModifier::At(moment) => match moment.duration_since(UNIX_EPOCH) {
                Ok(after) => ms(after.as_millis()),
                Err(before) => -ms(before.duration().as_millis()),
            },
        });
        self.times_ms.iter().map(|&t_ms| fixed.unwrap_or(t_ms).saturating_sub(back_ms)).collect()
    }

    /// An instant selector: the last sample in the five minutes before each step, unless the series has ended.
    pub(super) fn vector(
        &self,
        selector: &VectorSelector,
        value_of: impl Fn(Sample) -> f64,
    ) -> Result<Vec<Column>, QueryError> {
        let moments = self.moments(selector.at.as_ref(), selector.offset.as_ref());
        let (from_ms, to_ms) = bounds(&moments);
        let found = self.source.select(
            &read::selector(selector)?,
            from_ms.saturating_sub(LOOKBACK_MS - 1),
            to_ms,
            self.budget,
        )?;
        let mut columns = Vec::with_capacity(found.len());
        for series in found {
            self.budget.charge(moments.len())?;
            let mut next = 0;
            let pick = |&moment: &i64| {
                if next > 0 && series.samples[next - 1].t_ms > moment {
                    next = 0;
                }
                while next < series.samples.len() && series.samples[next].t_ms <= moment {
                    next += 1;
                }
                match next.checked_sub(1).map(|last| series.samples[last]) {
                    Some(last) if last.t_ms > moment.saturating_sub(LOOKBACK_MS) && !is_stale(last.value) => {
                        value_of(last)
                    }
                    _ => ABSENT,
                }
            };
            let values: Vec<f64> = moments.iter().map(pick).collect();
            self.budget.refund(series.samples.len());
            if values.iter().any(|&value| present(value)) {
                columns.push(Column { labels: series.labels, drop_name: false, values });
            }
        }
        Ok(columns)
    }

    /// A range selector or a subquery.
    pub(super) fn windows(&self, expr: &Expr) -> Result<Windows, QueryError> {
        match expr {
            Expr::Paren(inner) => self.windows(&inner.expr),
            Expr::MatrixSelector(selector) => self.matrix(selector),
            Expr::Subquery(subquery) => self.subquery(subquery),
            _ => Err(QueryError::Parse("expected type range vector".into())),
        }
    }

    fn matrix(&self, selector: &MatrixSelector) -> Result<Windows, QueryError> {
        let ends_ms = self.moments(selector.vs.at.as_ref(), selector.vs.offset.as_ref());
        let range_ms = ms(selector.range.as_millis());
        let (from_ms, to_ms) = bounds(&ends_ms);
        let from_ms = from_ms.saturating_sub(range_ms).saturating_add(1);
        let found = self.source.select(&read::selector(&selector.vs)?, from_ms, to_ms, self.budget)?;
        let series = found.into_iter().map(|mut one| {
            one.samples.retain(|sample| !is_stale(sample.value));
            RangeSeries { labels: one.labels, drop_name: false, samples: one.samples }
        });
        Ok(Windows { series: series.collect(), range_ms, ends_ms })
    }

    fn subquery(&self, subquery: &SubqueryExpr) -> Result<Windows, QueryError> {
        let ends_ms = self.moments(subquery.at.as_ref(), subquery.offset.as_ref());
        let range_ms = ms(subquery.range.as_millis());
        let step_ms = subquery.step.map_or(SUBQUERY_STEP_MS, |step| ms(step.as_millis())).max(1);
        let (from_ms, to_ms) = bounds(&ends_ms);
        // Steps stand at multiples of the step, wherever the range begins.
        let left_ms = from_ms.saturating_sub(range_ms);
        let mut start_ms = step_ms * (left_ms / step_ms);
        if start_ms <= left_ms {
            start_ms += step_ms;
        }
        let steps = usize::try_from((to_ms - start_ms) / step_ms + 1).unwrap_or(0);
        self.budget.charge(steps)?; // before so many moments are held
        let times_ms: Vec<i64> = (start_ms..=to_ms).step_by(usize::try_from(step_ms).unwrap_or(1)).collect();
        let inner =
            Evaluator { source: self.source, budget: self.budget, times_ms, query: self.query, is_instant: false };
        let columns = if inner.times_ms.is_empty() { Vec::new() } else { inner.vector_of(&subquery.expr)? };
        let mut series = Vec::with_capacity(columns.len());
        for column in columns {
            let pairs = inner.times_ms.iter().zip(column.values).filter(|(_, value)| present(*value));
            let samples: Vec<Sample> = pairs.map(|(&t_ms, value)| Sample { t_ms, value }).collect();
            self.budget.charge(samples.len())?;
            series.push(RangeSeries { labels: column.labels, drop_name: column.drop_name, samples });
        }
        self.budget.refund(steps);
        Ok(Windows { series, range_ms, ends_ms })
    }
}

pub(super) fn same_labelset() -> QueryError {
    QueryError::execution("vector cannot contain metrics with the same labelset")
}

/// Durations of the parser in the milliseconds that everything here counts in; far beyond any data they saturate.
fn ms(millis: u128) -> i64 {
    i64::try_from(millis).unwrap_or(i64::MAX / 4).min(i64::MAX / 4)
}

fn bounds(moments: &[i64]) -> (i64, i64) {
    moments.iter().fold((i64::MAX, i64::MIN), |(low, high), &moment| (low.min(moment), high.max(moment)))
}
