//! What lines of a range say at each step: counts, rates, and what is computed of the numbers in them.

use std::collections::HashMap;
use std::sync::Arc;

use super::{EvaluateError, LabelSet, SERIES_MAX, Series, Steps, check, labels_text};
use crate::logs::loki::logql::{Grouping, RangeAggregate, RangeOp, Unit, Unwrap, bytes, duration_ns};
use crate::logs::loki::pipeline::{ERROR, Kind, Line};

/// Most samples that are looked at for all steps together.
const WORK_MAX: usize = 100_000_000;

/// Most bytes of the labels of all series of a range.
const LABELS_BYTES_MAX: usize = 32 << 20;

/// The labels of a series while lines are gathered, sorted.
type Key = Vec<(Arc<str>, Arc<str>)>;

/// The samples of one range, by series.
#[derive(Debug, Default)]
pub(in crate::logs::loki) struct Gathered {
    series: HashMap<Key, Vec<(i64, f64)>>,
    /// Of all labels.
    bytes: usize,
}

/// Which labels part the lines of a range into series.
#[derive(Clone, Debug, Default)]
pub(in crate::logs::loki) struct Parting {
    /// The aggregation's own grouping, or that of the sum around it.
    pub(in crate::logs::loki) grouping: Option<Grouping>,
    /// Labels of the records themselves that the query names. The others part nothing: a trace id would make a series of each record.
    pub(in crate::logs::loki) metadata: Vec<String>,
}

impl Parting {
    fn keeps(&self, name: &str, kind: Kind) -> bool {
        if kind == Kind::Metadata && !self.metadata.iter().any(|wanted| wanted == name) {
            return false;
        }
        let named = |grouping: &Grouping| grouping.names.iter().any(|wanted| wanted == name) != grouping.without;
        self.grouping.as_ref().is_none_or(named)
    }
}

impl Gathered {
    /// Takes a line that has passed the pipeline.
    ///
    /// # Errors
    /// When there are too many series, or the pipeline could not read the line and no filter lets it be.
    pub(in crate::logs::loki) fn take(
        &mut self,
        aggregate: &RangeAggregate,
        parting: &Parting,
        mut line: Line,
    ) -> Result<(), EvaluateError> {
        let sample = match &aggregate.unwrap {
            None if matches!(aggregate.op, RangeOp::BytesRate | RangeOp::BytesOverTime) => line.text.len() as f64,
            None => 1.0,
            Some(unwrap) => {
                let Some(sample) = number(unwrap, &mut line) else { return Ok(()) };
                sample
            }
        };
        if let Some(error) = line.labels.get(ERROR) {
            let error = error.to_owned();
            let labels = line.labels.iter().map(|(name, value, _)| (name.to_string(), value.to_string()));
            return Err(EvaluateError::Pipeline { error, series: labels_text(&labels.collect()) });
        }
        let is_unwrapped = |name: &str| aggregate.unwrap.as_ref().is_some_and(|unwrap| unwrap.label == name);
        let kept = line.labels.iter().filter(|(name, _, kind)| parting.keeps(name, *kind) && !is_unwrapped(name));
        let mut key: Key = kept.map(|(name, value, _)| (Arc::clone(name), Arc::clone(value))).collect();
        key.sort();
        if let Some(samples) = self.series.get_mut(&key) {
            samples.push((line.time_ns, sample));
            return Ok(());
        }
        self.bytes += key.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if self.series.len() >= SERIES_MAX || self.bytes > LABELS_BYTES_MAX {
            return Err(EvaluateError::TooManySeries);
        }
        self.series.insert(key, vec![(line.time_ns, sample)]);
        Ok(())
    }

    /// The series at each step. Lines were taken newest first.
    pub(in crate::logs::loki) fn at(
        self,
        aggregate: &RangeAggregate,
        steps: Steps,
    ) -> Result<Vec<Series>, EvaluateError> {
        if aggregate.op == RangeOp::AbsentOverTime {
            let mut all: Vec<_> = self.series.into_values().flatten().collect();
            all.sort_by_key(|(time_ns, _)| *time_ns);
            let there = windows(&all, aggregate, steps, &mut 0, |samples| (!samples.is_empty()).then_some(1.0))?;
            return Ok(absent(aggregate, &there));
        }
        check(self.series.len(), steps)?;
        let mut work = 0;
        let mut made = Vec::with_capacity(self.series.len());
        for (key, mut samples) in self.series {
            samples.reverse();
            samples.sort_by_key(|(time_ns, _)| *time_ns); // stable: at one moment, in the order of arrival
            let seconds = aggregate.range_ns as f64 / 1e9;
            let (op, parameter) = (aggregate.op, aggregate.parameter);
            let values =
                windows(&samples, aggregate, steps, &mut work, |samples| computed(op, parameter, seconds, samples))?;
            let labels = key.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
            if values.iter().any(Option::is_some) {
                made.push(Series { labels, values });
            }
        }
        made.sort_by(|a, b| a.labels.cmp(&b.labels));
        Ok(made)
    }
}

/// The number that a line's label says; `None` when it has none. The label goes.
fn number(unwrap: &Unwrap, line: &mut Line) -> Option<f64> {
    let text = line.labels.get(&unwrap.label)?;
    let read = match unwrap.unit {
        Unit::Number => text.parse::<f64>().ok(),
        Unit::Duration => duration_ns(text).map(|ns| ns as f64 / 1e9),
        Unit::Bytes => bytes(text),
    };
    if read.is_none() {
        let details = format!("{:?} is no number that can be unwrapped", backlot_windows::clip(text, 80));
        line.labels.fail("SampleExtractionErr", &details);
    }
    let passes = unwrap.filters.iter().all(|filter| filter.holds(&mut line.labels));
    passes.then_some(read.unwrap_or(0.0))
}

/// Computes each step of the samples after `step - offset - range`, up to `step - offset`.
fn windows(
    samples: &[(i64, f64)],
    aggregate: &RangeAggregate,
    steps: Steps,
    work: &mut usize,
    compute: impl Fn(&[(i64, f64)]) -> Option<f64>,
) -> Result<Vec<Option<f64>>, EvaluateError> {
    let mut values = Vec::with_capacity(steps.count);
    for index in 0..steps.count {
        let to_ns = steps.at(index).saturating_sub(aggregate.offset_ns);
        let from_ns = to_ns.saturating_sub(aggregate.range_ns);
        let first = samples.partition_point(|(time_ns, _)| *time_ns <= from_ns);
        let end = samples.partition_point(|(time_ns, _)| *time_ns <= to_ns);
        let counts_only = matches!(aggregate.op, RangeOp::CountOverTime | RangeOp::AbsentOverTime)
            || (aggregate.op == RangeOp::Rate && aggregate.unwrap.is_none());
        if !counts_only {
            *work += end - first;
            if *work > WORK_MAX {
                return Err(EvaluateError::TooMuchWork);
            }
        }
        if counts_only && aggregate.op != RangeOp::AbsentOverTime {
            values.push(count_value(aggregate, (end - first) as u64));
        } else {
            values.push(compute(&samples[first..end]));
        }
    }
    Ok(values)
}

fn count_value(aggregate: &RangeAggregate, count: u64) -> Option<f64> {
    let divisor = if aggregate.op == RangeOp::Rate { aggregate.range_ns as f64 / 1e9 } else { 1.0 };
    (count > 0).then_some(count as f64 / divisor)
}

/// What an aggregation says of the samples of one window, which are in the order of time.
fn computed(op: RangeOp, parameter: f64, seconds: f64, samples: &[(i64, f64)]) -> Option<f64> {
    let (first, last) = (samples.first()?.1, samples.last()?.1);
    let numbers = || samples.iter().map(|(_, number)| *number);
    let sum = || numbers().sum::<f64>();
    let count = samples.len() as f64;
    Some(match op {
        RangeOp::CountOverTime => count,
        RangeOp::Rate | RangeOp::BytesRate => sum() / seconds,
        RangeOp::BytesOverTime | RangeOp::Sum => sum(),
        RangeOp::Avg => sum() / count,
        RangeOp::Min => numbers().fold(first, f64::min),
        RangeOp::Max => numbers().fold(first, f64::max),
        RangeOp::First => first,
        RangeOp::Last => last,
        RangeOp::Stddev => variance(&numbers().collect::<Vec<_>>()).sqrt(),
        RangeOp::Stdvar => variance(&numbers().collect::<Vec<_>>()),
        RangeOp::Quantile => quantile(parameter, numbers().collect()),
        RangeOp::RateCounter => {
            // A counter that falls has begun anew.
            let rises =
                samples.windows(2).map(|pair| if pair[1].1 < pair[0].1 { pair[1].1 } else { pair[1].1 - pair[0].1 });
            rises.sum::<f64>() / seconds
        }
        RangeOp::AbsentOverTime => return None,
    })
}

pub(super) fn variance(numbers: &[f64]) -> f64 {
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / count
}

/// Interpolated between the two nearest, as Loki and Prometheus do.
fn quantile(phi: f64, mut numbers: Vec<f64>) -> f64 {
    if phi < 0.0 {
        return f64::NEG_INFINITY;
    }
    if phi > 1.0 {
        return f64::INFINITY;
    }
    numbers.sort_by(f64::total_cmp);
    let last = numbers.len() - 1;
    let rank = phi * last as f64;
    let lower = (rank.floor() as usize).min(last);
    let upper = (lower + 1).min(last);
    let weight = rank - rank.floor();
    numbers[lower] * (1.0 - weight) + numbers[upper] * weight
}

/// One where there is nothing, with the labels that the selector names.
fn absent(aggregate: &RangeAggregate, there: &[Option<f64>]) -> Vec<Series> {
    let values: Vec<_> = there.iter().map(|there| there.is_none().then_some(1.0)).collect();
    if values.iter().all(Option::is_none) {
        return Vec::new();
    }
    let labels = aggregate.log.matchers.iter().filter_map(|matcher| match matcher {
        crate::logs::loki::logql::Matcher::Equal(name, value) => Some((name.clone(), value.clone())),
        _ => None,
    });
    vec![Series { labels: labels.collect(), values }]
}

/// Counts of records in stretches of `stretch_ns`, which divides the range and the step. The first stretch begins just after the first
/// step's range does.
pub(in crate::logs::loki) fn counted(
    aggregate: &RangeAggregate,
    steps: Steps,
    stretch_ns: i64,
    series: Vec<(LabelSet, Vec<u64>)>,
) -> Result<Vec<Series>, EvaluateError> {
    let stretches = |ns: i64| usize::try_from(ns / stretch_ns.max(1)).unwrap_or(0);
    let (length, apart) = (stretches(aggregate.range_ns), stretches(steps.step_ns));
    let at = |counts: &[u64]| -> Vec<u64> {
        let mut before = Vec::with_capacity(counts.len() + 1);
        before.push(0_u64);
        for count in counts {
            before.push(before.last().copied().unwrap_or(0) + count);
        }
        let until = |stretch: usize| before[stretch.min(before.len() - 1)];
        (0..steps.count).map(|index| until(index * apart + length) - until(index * apart)).collect()
    };
    if aggregate.op == RangeOp::AbsentOverTime {
        let mut there = vec![None; steps.count];
        for (_, counts) in &series {
            for (there, count) in there.iter_mut().zip(at(counts)) {
                if count > 0 {
                    *there = Some(1.0);
                }
            }
        }
        return Ok(absent(aggregate, &there));
    }
    check(series.len(), steps)?;
    let mut made = Vec::with_capacity(series.len());
    for (labels, counts) in series {
        let values: Vec<_> = at(&counts).into_iter().map(|count| count_value(aggregate, count)).collect();
        if values.iter().any(Option::is_some) {
            made.push(Series { labels, values });
        }
    }
    made.sort_by(|a, b| a.labels.cmp(&b.labels));
    Ok(made)
}
