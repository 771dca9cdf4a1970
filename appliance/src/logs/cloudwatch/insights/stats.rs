//! `stats`: rows by groups, and what is counted of each.

use std::collections::{HashMap, HashSet};

use super::ast::{Aggregate, AggregateKind, Expr, Named};
use super::eval::eval;
use super::row::Row;
use super::run::Stopped;
use super::value::Val;

/// Most groups of rows, and most values that are told apart for all `count_distinct` and percentiles together.
const GROUPS_MAX: usize = 100_000;
const VALUES_MAX: usize = 2_000_000;

pub(super) struct Grouping {
    aggregates: Vec<Named>,
    by: Vec<Named>,
    /// The aggregates of all expressions, in the order in which they stand there.
    kinds: Vec<Aggregate>,
    groups: Vec<(Vec<Val>, Vec<State>)>,
    places: HashMap<Vec<Option<String>>, usize>,
    values: usize,
}

enum State {
    Count(u64),
    Distinct(HashSet<String>),
    Sum {
        sum: f64,
        squares: f64,
        count: u64,
    },
    Extreme(Val),
    Percentile(Vec<f64>),
    /// A value, and the moment of its row.
    Moment(Option<(f64, Val)>),
}

impl Grouping {
    pub(super) fn new(aggregates: Vec<Named>, by: Vec<Named>) -> Self {
        let mut kinds = Vec::new();
        aggregates.iter().for_each(|named| collect(&named.expr, &mut kinds));
        Self { aggregates, by, kinds, groups: Vec::new(), places: HashMap::new(), values: 0 }
    }

    pub(super) fn add(&mut self, row: &Row<'_>) -> Result<(), Stopped> {
        let by: Vec<_> = self.by.iter().map(|named| eval(&named.expr, row)).collect();
        let key = by.iter().map(Val::text).collect();
        let (groups, kinds) = (&mut self.groups, &self.kinds);
        let at = *self.places.entry(key).or_insert_with(|| {
            groups.push((by, kinds.iter().map(|aggregate| State::new(aggregate.kind)).collect()));
            groups.len() - 1
        });
        for (state, aggregate) in self.groups[at].1.iter_mut().zip(&self.kinds) {
            self.values += state.add(aggregate, row);
        }
        if self.groups.len() > GROUPS_MAX {
            return Err(Stopped::TooMuch("groups of rows"));
        }
        if self.values > VALUES_MAX {
            return Err(Stopped::TooMuch("values to tell apart"));
        }
        Ok(())
    }

    /// The fields that it asks of a row.
    pub(super) fn fields(&self, names: &mut Vec<String>) {
        self.aggregates.iter().chain(&self.by).for_each(|named| super::run::fields_of(&named.expr, names));
    }

    pub(super) fn rows(mut self) -> Vec<Row<'static>> {
        if self.groups.is_empty() && self.by.is_empty() {
            // Of no rows, the count is 0.
            self.groups.push((Vec::new(), self.kinds.iter().map(|aggregate| State::new(aggregate.kind)).collect()));
        }
        let (aggregates, names) = (self.aggregates, self.by);
        let row = |(by, states): (Vec<Val>, Vec<State>)| {
            let mut told = states.into_iter().zip(&self.kinds).map(|(state, aggregate)| state.told(aggregate.kind));
            let mut made: Vec<_> = names.iter().map(|named| named.name.clone()).zip(by).collect();
            for named in &aggregates {
                let expr = filled(&named.expr, &mut told);
                made.push((named.name.clone(), eval(&expr, &Row::made_of(Vec::new()))));
            }
            Row::made_of(made)
        };
        self.groups.into_iter().map(row).collect()
    }
}

impl State {
    fn new(kind: AggregateKind) -> Self {
        match kind {
            AggregateKind::Count => Self::Count(0),
            AggregateKind::CountDistinct => Self::Distinct(HashSet::new()),
            AggregateKind::Sum | AggregateKind::Average | AggregateKind::Deviation => {
                Self::Sum { sum: 0.0, squares: 0.0, count: 0 }
            }
            AggregateKind::Percentile(_) => Self::Percentile(Vec::new()),
            AggregateKind::Earliest | AggregateKind::Latest => Self::Moment(None),
            AggregateKind::Least | AggregateKind::Greatest | AggregateKind::SortsFirst | AggregateKind::SortsLast => {
                Self::Extreme(Val::Missing)
            }
        }
    }

    /// Takes a row in; answers by how many values this has grown.
    fn add(&mut self, aggregate: &Aggregate, row: &Row<'_>) -> usize {
        let value = match &aggregate.of {
            Some(of) => eval(of, row),
            None => Val::Bool(true), // every row counts
        };
        if value.is_missing() {
            return 0;
        }
        match self {
            Self::Count(count) => *count += 1,
            Self::Distinct(values) => return usize::from(values.insert(value.text().unwrap_or_default())),
            Self::Sum { sum, squares, count } => {
                if let Some(number) = value.number() {
                    *sum += number;
                    *squares += number * number;
                    *count += 1;
                }
            }
            Self::Percentile(numbers) => {
                if let Some(number) = value.number() {
                    numbers.push(number);
                    return 1;
                }
            }
            Self::Extreme(best) => {
                let numbers = matches!(aggregate.kind, AggregateKind::Least | AggregateKind::Greatest);
                let least = matches!(aggregate.kind, AggregateKind::Least | AggregateKind::SortsFirst);
                if numbers && value.number().is_none() {
                    return 0;
                }
                let order = value.rank(best);
                if best.is_missing() || if least { order.is_lt() } else { order.is_gt() } {
                    *best = value;
                }
            }
            Self::Moment(best) => {
                let Some(at) = row.get("@timestamp").number() else { return 0 };
                let earliest = aggregate.kind == AggregateKind::Earliest;
                if best.as_ref().is_none_or(|(of, _)| if earliest { at < *of } else { at > *of }) {
                    *best = Some((at, value));
                }
            }
        }
        0
    }

    fn told(self, kind: AggregateKind) -> Val {
        let finite = |number: f64| if number.is_finite() { Val::Number(number) } else { Val::Missing };
        match self {
            Self::Count(count) => Val::Number(count as f64),
            Self::Distinct(values) => Val::Number(values.len() as f64),
            Self::Sum { count: 0, .. } => Val::Missing,
            Self::Sum { sum, squares, count } => match kind {
                AggregateKind::Average => finite(sum / count as f64),
                AggregateKind::Deviation => {
                    let mean = sum / count as f64;
                    finite((squares / count as f64 - mean * mean).max(0.0).sqrt())
                }
                _ => finite(sum),
            },
            Self::Extreme(value) => value,
            Self::Moment(value) => value.map_or(Val::Missing, |(_, value)| value),
            Self::Percentile(mut numbers) => {
                let AggregateKind::Percentile(percent) = kind else { return Val::Missing };
                numbers.sort_by(f64::total_cmp);
                percentile(&numbers, percent).map_or(Val::Missing, finite)
            }
        }
    }
}

/// The number that as many percent of the numbers are not above, between the two that are nearest.
fn percentile(sorted: &[f64], percent: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = percent / 100.0 * last as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "is between 0 and the last place")]
    let below = at.floor() as usize;
    let (low, high) = (sorted[below.min(last)], sorted[(below + 1).min(last)]);
    Some(low + (high - low) * (at - at.floor()))
}

fn collect(expr: &Expr, kinds: &mut Vec<Aggregate>) {
    match expr {
        Expr::Aggregate(aggregate) => kinds.push((**aggregate).clone()),
        Expr::Binary(_, left, right) => {
            collect(left, kinds);
            collect(right, kinds);
        }
        Expr::Negative(of) | Expr::Not(of) | Expr::Like(of, _) => collect(of, kinds),
        Expr::In(of, values) => {
            collect(of, kinds);
            values.iter().for_each(|value| collect(value, kinds));
        }
        Expr::Call(_, arguments) => arguments.iter().for_each(|argument| collect(argument, kinds)),
        Expr::Number(_) | Expr::Text(_) | Expr::Period(_) | Expr::Field(_) => {}
    }
}

/// The expression with the values of its aggregates in their places, in the order of [`collect`].
fn filled(expr: &Expr, told: &mut impl Iterator<Item = Val>) -> Expr {
    match expr {
        Expr::Aggregate(_) => match told.next() {
            Some(Val::Number(number)) => Expr::Number(number),
            Some(Val::Time(ms)) => Expr::Call(super::ast::Function::FromMillis, vec![Expr::Number(ms as f64)]),
            Some(value @ (Val::Text(_) | Val::Bool(_))) => Expr::Text(value.text().unwrap_or_default()),
            // A name that no column has.
            Some(Val::Missing) | None => Expr::Field(String::new()),
        },
        Expr::Binary(operator, left, right) => {
            let left = filled(left, told);
            Expr::Binary(*operator, Box::new(left), Box::new(filled(right, told)))
        }
        Expr::Negative(of) => Expr::Negative(Box::new(filled(of, told))),
        Expr::Not(of) => Expr::Not(Box::new(filled(of, told))),
        Expr::Like(of, likeness) => Expr::Like(Box::new(filled(of, told)), likeness.clone()),
        Expr::In(of, values) => {
            let of = filled(of, told);
            Expr::In(Box::new(of), values.iter().map(|value| filled(value, told)).collect())
        }
        Expr::Call(function, arguments) => {
            Expr::Call(*function, arguments.iter().map(|argument| filled(argument, told)).collect())
        }
        Expr::Number(_) | Expr::Text(_) | Expr::Period(_) | Expr::Field(_) => expr.clone(),
    }
}
