//! Classic histograms: `_bucket` series with `le`, joined per histogram, and what is read from them.

use std::collections::HashMap;

use super::eval::Evaluator;
use super::{ABSENT, Column, present};
use crate::metrics::model::Labels;

const LE: &str = "le";

/// Counts that differ by less than this share are equal: rates of buckets are not exact.
const TOLERANCE: f64 = 1e-12;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Bucket {
    upper: f64,
    count: f64,
}

struct Histogram {
    labels: Labels,
    /// Upper bound, column.
    buckets: Vec<(f64, Column)>,
}

fn grouped(columns: Vec<Column>) -> Vec<Histogram> {
    let mut at: HashMap<Labels, usize> = HashMap::new();
    let mut histograms: Vec<Histogram> = Vec::new();
    for column in columns {
        let Some(upper) = go_float(column.labels.get(LE)) else { continue };
        let labels = column.labels.filtered(|name| name != LE);
        let index = *at.entry(labels.clone()).or_insert(histograms.len());
        if index == histograms.len() {
            histograms.push(Histogram { labels, buckets: Vec::new() });
        }
        histograms[index].buckets.push((upper, column));
    }
    for histogram in &mut histograms {
        histogram.buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    histograms
}

/// Reads a float as Go does, of which only the spelling of infinity differs from Rust.
pub(super) fn go_float(text: &str) -> Option<f64> {
    text.parse().ok()
}

fn over(columns: Vec<Column>, mut read: impl FnMut(usize, Vec<Bucket>) -> f64) -> Vec<Column> {
    let each = grouped(columns).into_iter().map(|histogram| {
        let steps = histogram.buckets.first().map_or(0, |(_, column)| column.values.len());
        let value = |step: usize| {
            let there = histogram.buckets.iter().filter(|(_, column)| present(column.values[step]));
            let buckets: Vec<Bucket> =
                there.map(|(upper, column)| Bucket { upper: *upper, count: column.values[step] }).collect();
            if buckets.is_empty() { ABSENT } else { read(step, buckets) }
        };
        Column { labels: histogram.labels.clone(), drop_name: true, values: (0..steps).map(value).collect() }
    });
    each.collect()
}

/// `histogram_quantile`: one column a histogram.
pub(super) fn quantiles(at: &Evaluator<'_>, phi: &[f64], columns: Vec<Column>) -> Vec<Column> {
    if let Some(bad) = phi.iter().find(|phi| !(0.0..=1.0).contains(*phi)) {
        at.budget.warn(format!("quantile value should be between 0 and 1, got {bad}"));
    }
    over(columns, |step, buckets| bucket_quantile(phi[step], buckets))
}

/// `histogram_fraction`: the share of observations above `low` and not above `high`.
pub(super) fn fractions(low: &[f64], high: &[f64], columns: Vec<Column>) -> Vec<Column> {
    over(columns, |step, buckets| bucket_fraction(low[step], high[step], buckets))
}

/// Joins buckets of one bound and lets counts only rise. `None` where that is no histogram.
fn cleaned(buckets: Vec<Bucket>) -> Option<Vec<Bucket>> {
    if buckets.last().is_none_or(|last| last.upper != f64::INFINITY) {
        return None;
    }
    let mut joined: Vec<Bucket> = Vec::with_capacity(buckets.len());
    for bucket in buckets {
        match joined.last_mut() {
            Some(last) if last.upper == bucket.upper => last.count += bucket.count,
            _ => joined.push(bucket),
        }
    }
    for at in 1..joined.len() {
        let (before, count) = (joined[at - 1].count, joined[at].count);
        if count < before || (count - before).abs() <= TOLERANCE * count.abs().max(before.abs()) {
            joined[at].count = before;
        }
    }
    (joined.len() >= 2).then_some(joined)
}

fn bucket_quantile(phi: f64, buckets: Vec<Bucket>) -> f64 {
    if phi.is_nan() {
        return f64::NAN;
    }
    if phi < 0.0 {
        return f64::NEG_INFINITY;
    }
    if phi > 1.0 {
        return f64::INFINITY;
    }
    let Some(buckets) = cleaned(buckets) else { return f64::NAN };
    let last = buckets.len() - 1;
    let observations = buckets[last].count;
    if observations == 0.0 || observations.is_nan() {
        return f64::NAN;
    }
    let mut rank = phi * observations;
    let found = buckets[..last].partition_point(|bucket| bucket.count < rank);
    if found == last {
        return buckets[last - 1].upper;
    }
    if found == 0 && buckets[0].upper <= 0.0 {
        return buckets[0].upper;
    }
    let (mut start, mut count) = (0.0, buckets[found].count);
    if found > 0 {
        start = buckets[found - 1].upper;
        count -= buckets[found - 1].count;
        rank -= buckets[found - 1].count;
    }
    start + (buckets[found].upper - start) * (rank / count)
}

fn bucket_fraction(low: f64, high: f64, buckets: Vec<Bucket>) -> f64 {
    let Some(buckets) = cleaned(buckets) else { return f64::NAN };
    let count = buckets[buckets.len() - 1].count;
    if count == 0.0 || low.is_nan() || high.is_nan() || count.is_nan() {
        return f64::NAN;
    }
    if low >= high {
        return 0.0;
    }
    (rank(high, &buckets) - rank(low, &buckets)) / count
}

/// How many observations are not above `value`, spread evenly within a bucket.
fn rank(value: f64, buckets: &[Bucket]) -> f64 {
    let mut before = Bucket { upper: f64::NEG_INFINITY, count: 0.0 };
    for (at, &bucket) in buckets.iter().enumerate() {
        // The first bucket begins at zero when it ends above it.
        let lower = if at == 0 && bucket.upper > 0.0 { 0.0 } else { before.upper };
        if value <= lower {
            return before.count;
        }
        if value < bucket.upper {
            if lower.is_infinite() {
                return bucket.count;
            }
            if bucket.upper.is_infinite() {
                return before.count;
            }
            return before.count + (bucket.count - before.count) * (value - lower) / (bucket.upper - lower);
        }
        before = bucket;
    }
    before.count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buckets(pairs: &[(f64, f64)]) -> Vec<Bucket> {
        pairs.iter().map(|&(upper, count)| Bucket { upper, count }).collect()
    }

    #[test]
    fn a_quantile_is_interpolated_within_its_bucket() {
        let latencies = buckets(&[(0.1, 10.0), (0.5, 30.0), (1.0, 40.0), (f64::INFINITY, 40.0)]);
        assert_eq!(bucket_quantile(0.5, latencies.clone()), 0.1 + 0.4 * 0.5);
        assert_eq!(bucket_quantile(0.125, latencies.clone()), 0.05);
        assert_eq!(bucket_quantile(1.0, latencies.clone()), 1.0);
        assert_eq!(bucket_quantile(2.0, latencies.clone()), f64::INFINITY);
        assert!(bucket_quantile(0.5, latencies[..3].to_vec()).is_nan(), "no +Inf bucket");
        assert_eq!(bucket_quantile(0.9, buckets(&[(1.0, 1.0), (f64::INFINITY, 10.0)])), 1.0);
        assert!(bucket_quantile(0.9, buckets(&[(1.0, 0.0), (f64::INFINITY, 0.0)])).is_nan());
    }

    #[test]
    fn a_fraction_counts_what_lies_between() {
        let latencies = buckets(&[(0.1, 10.0), (0.5, 30.0), (1.0, 40.0), (f64::INFINITY, 40.0)]);
        assert_eq!(bucket_fraction(0.1, 0.5, latencies.clone()), 0.5);
        assert_eq!(bucket_fraction(0.0, f64::INFINITY, latencies.clone()), 1.0);
        assert_eq!(bucket_fraction(0.5, 0.1, latencies), 0.0);
    }
}
