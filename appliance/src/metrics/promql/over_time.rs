//! Functions over ranges: rates, differences, regressions, `*_over_time`.

use promql_parser::parser::Expr;

use super::eval::Evaluator;
use super::{ABSENT, Column, Kahan, Mean, QueryError, quantile};
use crate::metrics::model::{METRIC_NAME, Sample};

/// A window: its samples and where it ends.
struct Window<'a> {
    samples: &'a [Sample],
    /// Moment of the step, in milliseconds.
    now_ms: i64,
    start_ms: i64,
    end_ms: i64,
}

/// One or two numbers that a function takes beside its range, for the step at hand.
type Numbers = [f64; 2];

type Function = fn(&Window<'_>, Numbers) -> Option<f64>;

/// Functions whose answer is still the metric it was asked about keep its name.
fn function(name: &str) -> Option<(Function, bool)> {
    let drops = |f: Function| Some((f, true));
    match name {
        "rate" => drops(|window, _| extrapolated(window, true, true)),
        "increase" => drops(|window, _| extrapolated(window, true, false)),
        "delta" => drops(|window, _| extrapolated(window, false, false)),
        "irate" => drops(|window, _| last_two(window, true)),
        "idelta" => drops(|window, _| last_two(window, false)),
        "changes" => drops(|window, _| pairs(window, |a, b| a != b && !(a.is_nan() && b.is_nan()))),
        "resets" => drops(|window, _| pairs(window, |a, b| b < a)),
        "deriv" => drops(|window, _| {
            let first = window.samples.first()?.t_ms;
            (window.samples.len() >= 2).then(|| regression(window.samples, first).0)
        }),
        "predict_linear" => drops(|window, [ahead_s, _]| {
            let (slope, intercept) = regression(window.samples, window.now_ms);
            (window.samples.len() >= 2).then_some(slope * ahead_s + intercept)
        }),
        "double_exponential_smoothing" => drops(|window, [level, trend]| smoothed(window.samples, level, trend)),
        "avg_over_time" => {
            drops(|window, _| fold(window, Mean::default(), |mean, value| mean.add(value)).map(Mean::total))
        }
        "sum_over_time" => {
            drops(|window, _| fold(window, Kahan::default(), |sum, value| sum.add(value)).map(Kahan::total))
        }
        "min_over_time" => drops(|window, _| extreme(window, |new, old| new < old).map(|sample| sample.value)),
        "max_over_time" => drops(|window, _| extreme(window, |new, old| new > old).map(|sample| sample.value)),
        "count_over_time" => drops(|window, _| nonempty(window).map(|samples| samples.len() as f64)),
        "present_over_time" => drops(|window, _| nonempty(window).map(|_| 1.0)),
        "quantile_over_time" => drops(|window, [phi, _]| {
            nonempty(window)
                .map(|samples| quantile(phi, &mut samples.iter().map(|sample| sample.value).collect::<Vec<_>>()))
        }),
        "mad_over_time" => drops(|window, _| nonempty(window).map(median_deviation)),
        "stdvar_over_time" => drops(|window, _| nonempty(window).map(variance)),
        "stddev_over_time" => drops(|window, _| nonempty(window).map(|samples| variance(samples).sqrt())),
        "first_over_time" => Some((|window, _| window.samples.first().map(|sample| sample.value), false)),
        "last_over_time" => Some((|window, _| window.samples.last().map(|sample| sample.value), false)),
        "ts_of_first_over_time" => drops(|window, _| window.samples.first().map(seconds)),
        "ts_of_last_over_time" => drops(|window, _| window.samples.last().map(seconds)),
        "ts_of_min_over_time" => drops(|window, _| extreme(window, |new, old| new <= old).as_ref().map(seconds)),
        "ts_of_max_over_time" => drops(|window, _| extreme(window, |new, old| new >= old).as_ref().map(seconds)),
        _ => None,
    }
}

/// Whether `name` is one of these.
pub(super) fn is(name: &str) -> bool {
    function(name).is_some()
}

pub(super) fn call(at: &Evaluator<'_>, name: &str, args: &[&Expr]) -> Result<Vec<Column>, QueryError> {
    let Some((f, drops_name)) = function(name) else { return Ok(Vec::new()) };
    let range_at = usize::from(name == "quantile_over_time");
    let mut numbers: Vec<Vec<f64>> = Vec::new();
    for (index, arg) in args.iter().enumerate() {
        if index != range_at {
            numbers.push(at.scalar_of(arg)?);
        }
    }
    let number = |index: usize, step: usize| numbers.get(index).map_or(0.0, |values| values[step]);
    check_numbers(at, name, &number)?;
    let windows = at.windows(args[range_at])?;
    let mut columns = Vec::with_capacity(windows.series.len());
    for series in &windows.series {
        at.budget.charge(at.steps())?;
        let mut values = vec![ABSENT; at.steps()];
        let mut any = false;
        windows.each(&series.samples, |step, end_ms, samples| {
            let window = Window { samples, now_ms: at.times_ms[step], start_ms: end_ms - windows.range_ms, end_ms };
            if let Some(value) = f(&window, [number(0, step), number(1, step)]) {
                values[step] = value;
                any = true;
            }
        });
        if any {
            note(at, name, series.labels.get(METRIC_NAME));
            let drop_name = series.drop_name || drops_name;
            columns.push(Column { labels: series.labels.clone(), drop_name, values });
        }
    }
    let held: usize = windows.series.iter().map(|series| series.samples.len()).sum();
    at.budget.refund(held);
    Ok(columns)
}

fn check_numbers(at: &Evaluator<'_>, name: &str, number: &impl Fn(usize, usize) -> f64) -> Result<(), QueryError> {
    for step in 0..at.steps() {
        match name {
            "quantile_over_time" if !(0.0..=1.0).contains(&number(0, step)) => {
                at.budget.warn(format!("quantile value should be between 0 and 1, got {}", number(0, step)));
            }
            "double_exponential_smoothing" => {
                for (index, what) in ["smoothing", "trend"].into_iter().enumerate() {
                    let factor = number(index, step);
                    if factor <= 0.0 || factor >= 1.0 {
                        return Err(QueryError::execution(format!(
                            "invalid {what} factor. Expected: 0 < {} < 1, got: {factor}",
                            if index == 0 { "sf" } else { "tf" }
                        )));
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn note(at: &Evaluator<'_>, name: &str, metric: &str) {
    let counter = ["_total", "_sum", "_count", "_bucket"].iter().any(|suffix| metric.ends_with(suffix));
    if matches!(name, "rate" | "increase") && !metric.is_empty() && !counter {
        at.budget.info(format!(
            "metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {metric:?}"
        ));
    }
}

fn nonempty<'a>(window: &Window<'a>) -> Option<&'a [Sample]> {
    (!window.samples.is_empty()).then_some(window.samples)
}

fn seconds(sample: &Sample) -> f64 {
    sample.t_ms as f64 / 1000.0
}

fn fold<A>(window: &Window<'_>, mut into: A, add: impl Fn(&mut A, f64)) -> Option<A> {
    let samples = nonempty(window)?;
    samples.iter().for_each(|sample| add(&mut into, sample.value));
    Some(into)
}

fn extreme(window: &Window<'_>, wins: impl Fn(f64, f64) -> bool) -> Option<Sample> {
    let mut best = *window.samples.first()?;
    for sample in window.samples {
        if wins(sample.value, best.value) || best.value.is_nan() {
            best = *sample;
        }
    }
    Some(best)
}

fn pairs(window: &Window<'_>, counts: impl Fn(f64, f64) -> bool) -> Option<f64> {
    let samples = nonempty(window)?;
    Some(samples.windows(2).filter(|pair| counts(pair[0].value, pair[1].value)).count() as f64)
}

/// Change over the window, extended to its edges where the samples come close to them, as Prometheus does it.
///
/// A counter's falls are resets. It is never extended to before it would have been zero.
fn extrapolated(window: &Window<'_>, is_counter: bool, is_rate: bool) -> Option<f64> {
    let samples = window.samples;
    let (first, last) = (samples.first()?, samples.last()?);
    if samples.len() < 2 {
        return None;
    }
    let mut change = last.value - first.value;
    if is_counter {
        change +=
            samples.windows(2).filter(|pair| pair[1].value < pair[0].value).map(|pair| pair[0].value).sum::<f64>();
    }
    let mut to_start_s = (first.t_ms - window.start_ms) as f64 / 1000.0;
    let mut to_end_s = (window.end_ms - last.t_ms) as f64 / 1000.0;
    let sampled_s = (last.t_ms - first.t_ms) as f64 / 1000.0;
    let between_s = sampled_s / (samples.len() - 1) as f64;
    let near_s = between_s * 1.1;
    if to_start_s >= near_s {
        to_start_s = between_s / 2.0;
    }
    if is_counter && change > 0.0 && first.value >= 0.0 {
        to_start_s = to_start_s.min(sampled_s * (first.value / change));
    }
    if to_end_s >= near_s {
        to_end_s = between_s / 2.0;
    }
    let mut factor = (sampled_s + to_start_s + to_end_s) / sampled_s;
    if is_rate {
        factor /= (window.end_ms - window.start_ms) as f64 / 1000.0;
    }
    Some(change * factor)
}

fn last_two(window: &Window<'_>, is_rate: bool) -> Option<f64> {
    let [.., before, last] = window.samples else { return None };
    let span_ms = last.t_ms - before.t_ms;
    if span_ms == 0 {
        return None;
    }
    if !is_rate {
        return Some(last.value - before.value);
    }
    let change = if last.value < before.value { last.value } else { last.value - before.value };
    Some(change / (span_ms as f64 / 1000.0))
}

/// Least squares: slope a second, and the value at `at_ms`.
fn regression(samples: &[Sample], at_ms: i64) -> (f64, f64) {
    let Some(first) = samples.first() else { return (f64::NAN, f64::NAN) };
    if samples.iter().all(|sample| sample.value == first.value) {
        return if first.value.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first.value) };
    }
    let (mut x, mut y, mut xy, mut xx) = (Kahan::default(), Kahan::default(), Kahan::default(), Kahan::default());
    for sample in samples {
        let from_s = (sample.t_ms - at_ms) as f64 / 1000.0;
        x.add(from_s);
        y.add(sample.value);
        xy.add(from_s * sample.value);
        xx.add(from_s * from_s);
    }
    let n = samples.len() as f64;
    let [x, y, xy, xx] = [x, y, xy, xx].map(|sum| sum.sum + sum.lost);
    let slope = (xy - x * y / n) / (xx - x * x / n);
    (slope, y / n - slope * x / n)
}

fn smoothed(samples: &[Sample], level: f64, trend: f64) -> Option<f64> {
    let [first, second, ..] = samples else { return None };
    let (mut before, mut now) = (0.0, first.value);
    let mut slope = second.value - first.value;
    for (at, sample) in samples.iter().enumerate().skip(1) {
        if at > 1 {
            slope = trend * (now - before) + (1.0 - trend) * slope;
        }
        let next = level * sample.value + (1.0 - level) * (now + slope);
        (before, now) = (now, next);
    }
    Some(now)
}

fn variance(samples: &[Sample]) -> f64 {
    let (mut mean, mut sum) = (Kahan::default(), Kahan::default());
    for (at, sample) in samples.iter().enumerate() {
        let delta = sample.value - (mean.sum + mean.lost);
        mean.add(delta / (at + 1) as f64);
        sum.add(delta * (sample.value - (mean.sum + mean.lost)));
    }
    (sum.sum + sum.lost) / samples.len() as f64
}

fn median_deviation(samples: &[Sample]) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(|sample| sample.value).collect();
    let median = quantile(0.5, &mut values);
    values.iter_mut().for_each(|value| *value = (*value - median).abs());
    quantile(0.5, &mut values)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(samples: &[Sample]) -> Window<'_> {
        Window { samples, now_ms: 60_000, start_ms: 0, end_ms: 60_000 }
    }

    fn samples(pairs: &[(i64, f64)]) -> Vec<Sample> {
        pairs.iter().map(|&(t_s, value)| Sample { t_ms: t_s * 1000, value }).collect()
    }

    #[test]
    fn a_rate_reaches_to_the_edges_of_its_window_and_over_resets() {
        let steady = samples(&[(15, 100.0), (30, 115.0), (45, 130.0), (60, 145.0)]);
        let rate = extrapolated(&window(&steady), true, true).unwrap();
        assert!((rate - 1.0).abs() < 1e-12, "{rate}");
        let restarted = samples(&[(15, 100.0), (30, 115.0), (45, 5.0), (60, 20.0)]);
        assert_eq!(extrapolated(&window(&restarted), true, false), Some((20.0 - 100.0 + 115.0) * 60.0 / 45.0));
        assert_eq!(extrapolated(&window(&steady[..1]), true, true), None);
    }

    #[test]
    fn a_young_counter_is_not_extended_to_before_it_was_zero() {
        let young = samples(&[(15, 0.0), (30, 15.0), (45, 30.0), (60, 45.0)]);
        assert_eq!(extrapolated(&window(&young), true, false), Some(45.0));
        assert_eq!(extrapolated(&window(&young), false, false), Some(60.0));
    }

    #[test]
    fn a_line_is_found_and_followed() {
        let line = samples(&[(0, 10.0), (30, 40.0), (60, 70.0)]);
        let (slope, at_end) = regression(&line, 60_000);
        assert!((slope - 1.0).abs() < 1e-12 && (at_end - 70.0).abs() < 1e-9);
    }
}
