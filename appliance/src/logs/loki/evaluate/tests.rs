//! Series against a reference that looks at every line for every step.

use proptest::prelude::*;

use super::*;
use crate::logs::loki::logql::{Expr, RangeAggregate, RangeOp, parse};
use crate::logs::loki::pipeline::{Kind, Labels, Line};

const SECOND: i64 = 1_000_000_000;

fn metric(text: &str) -> Metric {
    match parse(text) {
        Ok(Expr::Metric(metric)) => metric,
        other => panic!("{text}: {other:?}"),
    }
}

fn range(text: &str) -> RangeAggregate {
    match metric(text) {
        Metric::Range(range) => *range,
        other => panic!("{text}: {other:?}"),
    }
}

fn line(time_ns: i64, host: &str, value: f64) -> Line {
    let mut labels = Labels::default();
    labels.set(Kind::Stream, "host", host.into());
    labels.set(Kind::Parsed, "x", value.to_string().into());
    Line { time_ns, seq: 0, text: "0123456789".into(), labels }
}

/// What an aggregation says of the numbers of one window, the obvious way.
fn reference(op: RangeOp, numbers: &[f64], seconds: f64) -> Option<f64> {
    if numbers.is_empty() {
        return None;
    }
    let count = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / count;
    let deviation = numbers.iter().map(|number| (number - mean) * (number - mean)).sum::<f64>() / count;
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(match op {
        RangeOp::CountOverTime => count,
        RangeOp::Rate => count / seconds,
        RangeOp::BytesOverTime => 10.0 * count,
        RangeOp::Sum => mean * count,
        RangeOp::Avg => mean,
        RangeOp::Min => sorted[0],
        RangeOp::Max => sorted[sorted.len() - 1],
        RangeOp::First => numbers[0],
        RangeOp::Last => numbers[numbers.len() - 1],
        RangeOp::Stdvar => deviation,
        RangeOp::Quantile => {
            let rank = 0.5 * (count - 1.0);
            let (low, high) = (sorted[rank.floor() as usize], sorted[rank.ceil() as usize]);
            low + (high - low) * (rank - rank.floor())
        }
        other => panic!("{other:?} has no reference"),
    })
}

fn near(a: Option<f64>, b: Option<f64>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-6 * (1.0 + b.abs()),
        (a, b) => a == b,
    }
}

proptest! {
    #[test]
    fn ranges_say_what_a_scan_of_every_step_says(
        mut lines in prop::collection::vec((0_i64..200, 0_usize..3, -50_i32..50), 0..60),
        function in prop::sample::select(vec![
            "count_over_time({a=\"b\"}[R])", "rate({a=\"b\"}[R])", "bytes_over_time({a=\"b\"}[R])",
            "sum_over_time({a=\"b\"} | unwrap x [R])", "avg_over_time({a=\"b\"} | unwrap x [R])",
            "min_over_time({a=\"b\"} | unwrap x [R])", "max_over_time({a=\"b\"} | unwrap x [R])",
            "first_over_time({a=\"b\"} | unwrap x [R])", "last_over_time({a=\"b\"} | unwrap x [R])",
            "stdvar_over_time({a=\"b\"} | unwrap x [R])", "quantile_over_time(0.5, {a=\"b\"} | unwrap x [R])",
        ]),
        range_s in 1_i64..60, step_s in 1_i64..60, start_s in 0_i64..60, count in 1_usize..12, offset_s in 0_i64..20,
    ) {
        let aggregate = range(&function.replace("[R]", &format!("[{range_s}s] offset {offset_s}s")));
        let steps = Steps { start_ns: start_s * SECOND, step_ns: step_s * SECOND, count };
        lines.sort_by_key(|(time_s, ..)| *time_s);
        let parting = Parting { grouping: Some(Grouping { without: false, names: vec!["host".into()] }), metadata: Vec::new() };
        let mut gathered = Gathered::default();
        for (time_s, host, value) in lines.iter().rev() {
            gathered.take(&aggregate, &parting, line(time_s * SECOND, &format!("h{host}"), f64::from(*value))).unwrap();
        }
        let found = gathered.at(&aggregate, steps).unwrap();
        for host in 0..3_usize {
            let labels = LabelSet::from([("host".to_owned(), format!("h{host}"))]);
            let series = found.iter().find(|series| series.labels == labels);
            for step in 0..count {
                let to_s = start_s + step_s * i64::try_from(step).unwrap() - offset_s;
                let within = lines.iter().filter(|(at, of, _)| *of == host && *at > to_s - range_s && *at <= to_s);
                let numbers: Vec<f64> = within.map(|(.., value)| f64::from(*value)).collect();
                let expected = reference(aggregate.op, &numbers, range_s as f64);
                let value = series.and_then(|series| series.values[step]);
                prop_assert!(near(value, expected), "{:?} is not {:?}", value, expected);
            }
        }
        // Counts of stretches of a second say the same as the lines.
        if matches!(aggregate.op, RangeOp::CountOverTime | RangeOp::Rate) {
            let begin_s = start_s - offset_s - range_s; // the first stretch begins just after it
            let stretches = usize::try_from(step_s * i64::try_from(count).unwrap() + range_s).unwrap();
            let counts = (0..3_usize).map(|host| {
                let mut counts = vec![0; stretches];
                for (at, of, _) in &lines {
                    if let Ok(stretch) = usize::try_from(at - begin_s - 1) && *of == host && stretch < stretches {
                        counts[stretch] += 1;
                    }
                }
                (LabelSet::from([("host".to_owned(), format!("h{host}"))]), counts)
            });
            prop_assert_eq!(counted(&aggregate, steps, SECOND, counts.collect()).unwrap(), found);
        }
    }
}

fn steps(count: usize) -> Steps {
    Steps { start_ns: 0, step_ns: SECOND, count }
}

fn series(labels: &[(&str, &str)], values: &[Option<f64>]) -> Series {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Series { labels: labels.collect(), values: values.to_vec() }
}

/// Evaluates with `left` for the first range of the text and `right` for the second.
fn eval(text: &str, left: Vec<Series>, right: Vec<Series>) -> Result<Vec<Series>, EvaluateError> {
    let count = left.first().or(right.first()).map_or(1, |one| one.values.len());
    let text = text.replace('A', "rate({a=\"b\"}[1s])").replace('B', "rate({b=\"c\"}[1s])");
    match evaluate(&metric(&text), steps(count), &[left, right])? {
        Value::Vector(series) => Ok(series),
        Value::Scalar(number) => panic!("{text} is {number}"),
    }
}

#[test]
fn vectors_are_aggregated_and_matched() {
    let a = || {
        vec![
            series(&[("host", "1"), ("job", "x")], &[Some(1.0), Some(4.0)]),
            series(&[("host", "2"), ("job", "x")], &[Some(3.0), None]),
            series(&[("host", "3"), ("job", "y")], &[None, Some(7.0)]),
        ]
    };
    let b = || vec![series(&[("job", "x"), ("team", "t")], &[Some(2.0), Some(2.0)])];
    let x = |values: [Option<f64>; 2]| series(&[("job", "x")], &values);
    let y = |values: [Option<f64>; 2]| series(&[("job", "y")], &values);
    let all = |values: [Option<f64>; 2]| vec![series(&[], &values)];
    for (text, expected) in [
        ("sum by (job) (A)", vec![x([Some(4.0), Some(4.0)]), y([None, Some(7.0)])]),
        ("sum without (host) (A)", vec![x([Some(4.0), Some(4.0)]), y([None, Some(7.0)])]),
        ("avg(A)", all([Some(2.0), Some(5.5)])),
        ("count(A)", all([Some(2.0), Some(2.0)])),
        ("min(A) + max(B)", all([Some(3.0), Some(6.0)])),
        ("stddev(A)", all([Some(1.0), Some(1.5)])),
        ("sum(A) > 10", all([None, Some(11.0)])),
        ("sum(A) > bool 10", all([Some(0.0), Some(1.0)])),
        ("10 < sum(A)", all([None, Some(11.0)])),
        ("topk(1, sum by (job) (A))", vec![x([Some(4.0), None]), y([None, Some(7.0)])]),
        ("bottomk(1, sum by (job) (A))", vec![x([Some(4.0), Some(4.0)])]),
        ("sum by (job) (A) and on (job) B", vec![x([Some(4.0), Some(4.0)])]),
        ("sum by (job) (A) unless on (job) B", vec![y([None, Some(7.0)])]),
        ("sum by (job) (A) or sum by (job) (B)", vec![x([Some(4.0), Some(4.0)]), y([None, Some(7.0)])]),
        ("sum by (job) (A) / on (job) B", vec![x([Some(2.0), Some(2.0)])]),
        (
            "A * on (job) group_left (team) B",
            vec![
                series(&[("host", "1"), ("job", "x"), ("team", "t")], &[Some(2.0), Some(8.0)]),
                series(&[("host", "2"), ("job", "x"), ("team", "t")], &[Some(6.0), None]),
            ],
        ),
        (
            "label_replace(sum(A), \"to\", \"v\", \"gone\", \"\")",
            vec![series(&[("to", "v")], &[Some(4.0), Some(11.0)])],
        ),
        ("vector(1) + vector(1)", all([Some(2.0), Some(2.0)])),
    ] {
        assert_eq!(eval(text, a(), b()).unwrap(), expected, "{text}");
    }
    for text in ["B / on (job) A", "A / on (job) B", "label_replace(A, \"host\", \"z\", \"job\", \".*\")"] {
        assert!(matches!(eval(text, a(), b()), Err(EvaluateError::Matching(_))), "{text}");
    }
}

#[test]
fn one_moment_is_sorted_as_asked() {
    let a = || {
        vec![
            series(&[("h", "1")], &[Some(1.0)]),
            series(&[("h", "2")], &[Some(3.0)]),
            series(&[("h", "3")], &[Some(2.0)]),
        ]
    };
    let order = |text: &str| {
        let found = eval(text, a(), Vec::new()).unwrap();
        found.iter().map(|series| series.labels["h"].clone()).collect::<String>()
    };
    assert_eq!((order("topk(2, A)"), order("bottomk(2, A)")), ("23".to_owned(), "13".to_owned()));
    assert_eq!((order("sort(A)"), order("sort_desc(A)")), ("132".to_owned(), "231".to_owned()));
}

#[test]
fn what_cannot_be_unwrapped_is_an_error_unless_it_is_let_be() {
    let parting = Parting::default();
    let mut unreadable = line(SECOND, "h", 1.0);
    unreadable.labels.set(Kind::Parsed, "x", "much".into());
    let mut gathered = Gathered::default();
    let error = gathered.take(&range("sum_over_time({a=\"b\"} | unwrap x [1m])"), &parting, unreadable.clone());
    assert!(error.unwrap_err().to_string().starts_with("pipeline error: 'SampleExtractionErr' for series: '{"));
    let lets_be = range("sum_over_time({a=\"b\"} | unwrap x | __error__=\"\" [1m])");
    gathered.take(&lets_be, &parting, unreadable).unwrap();
    gathered.take(&lets_be, &parting, line(2 * SECOND, "h", 5.0)).unwrap();
    let found = gathered.at(&lets_be, Steps { start_ns: 10 * SECOND, step_ns: 1, count: 1 }).unwrap();
    assert_eq!(found, [series(&[("host", "h")], &[Some(5.0)])]);
}

#[test]
fn too_many_series_and_values_are_refused() {
    let mut gathered = Gathered::default();
    let counts = range("count_over_time({a=\"b\"}[1m])");
    let took: Result<(), _> = (0..=SERIES_MAX)
        .try_for_each(|host| gathered.take(&counts, &Parting::default(), line(0, &host.to_string(), 1.0)));
    assert_eq!(took, Err(EvaluateError::TooManySeries));
    assert_eq!(check(300, steps(10_000)), Err(EvaluateError::TooManyValues));
    assert_eq!(check(10, steps(10_000)), Ok(()));
}
