//! Aggregations over series: one value for each group and step.

use std::collections::BTreeMap;

use super::over_time::variance;
use super::{EvaluateError, LabelSet, Series, Steps, check, grouped};
use crate::logs::loki::logql::{Aggregate, AggregateOp};

pub(super) fn aggregate(aggregate: &Aggregate, of: Vec<Series>, steps: Steps) -> Result<Vec<Series>, EvaluateError> {
    match aggregate.op {
        AggregateOp::Topk => Ok(top(aggregate, of, steps, true)),
        AggregateOp::Bottomk => Ok(top(aggregate, of, steps, false)),
        AggregateOp::Sort => Ok(sorted(of, false)),
        AggregateOp::SortDesc => Ok(sorted(of, true)),
        _ => folded(aggregate, of, steps),
    }
}

fn groups(aggregate: &Aggregate, of: &[Series]) -> BTreeMap<LabelSet, Vec<usize>> {
    let mut groups = BTreeMap::<_, Vec<usize>>::new();
    for (at, series) in of.iter().enumerate() {
        groups.entry(grouped(&series.labels, &aggregate.grouping)).or_default().push(at);
    }
    groups
}

fn folded(aggregate: &Aggregate, of: Vec<Series>, steps: Steps) -> Result<Vec<Series>, EvaluateError> {
    let groups = groups(aggregate, &of);
    check(groups.len(), steps)?;
    let fold = |members: &[usize], step: usize| {
        let numbers: Vec<f64> = members.iter().filter_map(|at| of[*at].values[step]).collect();
        let first = *numbers.first()?;
        let (count, sum) = (numbers.len() as f64, numbers.iter().sum::<f64>());
        Some(match aggregate.op {
            AggregateOp::Sum => sum,
            AggregateOp::Avg => sum / count,
            AggregateOp::Min => numbers.iter().copied().fold(first, f64::min),
            AggregateOp::Max => numbers.iter().copied().fold(first, f64::max),
            AggregateOp::Stddev => variance(&numbers).sqrt(),
            AggregateOp::Stdvar => variance(&numbers),
            // The others do not come here.
            AggregateOp::Count
            | AggregateOp::Topk
            | AggregateOp::Bottomk
            | AggregateOp::Sort
            | AggregateOp::SortDesc => count,
        })
    };
    let made = groups.into_iter().map(|(labels, members)| {
        let values = (0..steps.count).map(|step| fold(&members, step)).collect();
        Series { labels, values }
    });
    Ok(made.collect())
}

/// The `count` largest or smallest of each group at each step, in that order where there is one step.
fn top(aggregate: &Aggregate, mut of: Vec<Series>, steps: Steps, largest: bool) -> Vec<Series> {
    let groups = groups(aggregate, &of);
    for step in 0..steps.count {
        for members in groups.values() {
            let mut there: Vec<_> = members.iter().filter_map(|at| Some((*at, of[*at].values[step]?))).collect();
            there.sort_by(|a, b| ordered(a.1, b.1, largest));
            for (at, _) in there.iter().skip(aggregate.count) {
                of[*at].values[step] = None;
            }
        }
    }
    of.retain(|series| series.values.iter().any(Option::is_some));
    if steps.count == 1 { sorted(of, largest) } else { of }
}

fn sorted(mut of: Vec<Series>, descending: bool) -> Vec<Series> {
    let first = |series: &Series| series.values.first().copied().flatten().unwrap_or(f64::NAN);
    of.sort_by(|a, b| ordered(first(a), first(b), descending));
    of
}

/// NaN comes last either way.
fn ordered(a: f64, b: f64, descending: bool) -> std::cmp::Ordering {
    a.is_nan().cmp(&b.is_nan()).then_with(|| if descending { b.total_cmp(&a) } else { a.total_cmp(&b) })
}
