//! Pipeline aggregations: computed over the buckets of the aggregation that they stand in, when those are there.
//!
//! Read: `derivative`, `serial_diff`, `cumulative_sum`, `moving_fn` and `bucket_script`, as Grafana's source sends them. A path names a metric or a
//! pipeline beside it, one of its values (`1[95.0]`, `1.max`), or `_count`; paths into inner buckets are absent on purpose. `moving_avg` is gone from
//! Elasticsearch 8, and from here.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::Aggregation;
use super::script::Script;
use crate::logs::elastic::Refused;
use crate::logs::elastic::question::{check, object};
use crate::logs::moments::Interval;

/// Longest window, and most variables of a script.
const WINDOW_MAX: usize = 10_000;
const VARIABLES_MAX: usize = 20;

/// What is computed, and from what.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::logs::elastic) struct Pipeline {
    what: What,
    gaps: Gaps,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    /// Of how many milliseconds the change is told as well.
    Derivative {
        path: Path,
        unit_ms: Option<f64>,
    },
    SerialDiff {
        path: Path,
        lag: usize,
    },
    CumulativeSum {
        path: Path,
    },
    Moving {
        path: Path,
        window: usize,
        shift: i64,
        function: Function,
    },
    Script {
        paths: BTreeMap<String, Path>,
        script: Script,
    },
}

/// What a bucket without records or without the value stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gaps {
    Skip,
    Zeros,
    Keep,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Function {
    Max,
    Min,
    Sum,
    Mean,
    Deviation,
    Linear,
}

/// Where a value stands in a bucket.
#[derive(Clone, Debug, PartialEq)]
enum Path {
    Count,
    Value { name: String, of: Option<String> },
}

impl Path {
    fn read(text: &str) -> Result<Self, Refused> {
        if text == "_count" {
            return Ok(Self::Count);
        }
        if text.contains('>') {
            return Err(Refused::illegal("a [buckets_path] into inner buckets is not supported"));
        }
        let (name, of) = match text.split_once('[') {
            Some((name, of)) => (name, Some(of.trim_end_matches(']').trim_matches(['\'', '"']))),
            None => match text.split_once('.') {
                Some((name, of)) => (name, Some(of)),
                None => (text, None),
            },
        };
        Ok(Self::Value { name: name.to_owned(), of: of.filter(|of| *of != "value").map(str::to_owned) })
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Count => None,
            Self::Value { name, .. } => Some(name),
        }
    }

    /// Not a number where the bucket has none.
    fn of(&self, bucket: &Json, gaps: Gaps) -> f64 {
        let count = bucket["doc_count"].as_u64().unwrap_or(0);
        let value = match self {
            Self::Count => return count as f64,
            Self::Value { name, of: None } => bucket[name]["value"].as_f64(),
            Self::Value { name, of: Some(of) } => {
                let told = &bucket[name];
                let percent = of.parse::<f64>().map_or_else(|_| of.clone(), |percent| format!("{percent:?}"));
                told["values"][&percent].as_f64().or_else(|| told[of].as_f64())
            }
        };
        match (value.filter(|_| count > 0 || gaps == Gaps::Keep), gaps) {
            (Some(value), _) => value,
            (None, Gaps::Zeros) => 0.0,
            (None, Gaps::Skip | Gaps::Keep) => f64::NAN,
        }
    }
}

impl Pipeline {
    /// Reads one of `kind`; `None` when there is none of this kind.
    pub(super) fn read(kind: &str, options: &Map<String, Json>) -> Result<Option<Self>, Refused> {
        let names: &[&str] = match kind {
            "derivative" => &["unit"],
            "serial_diff" => &["lag"],
            "cumulative_sum" => &[],
            "moving_fn" => &["window", "shift", "script"],
            "bucket_script" => &["script"],
            _ => return Ok(None),
        };
        check(options, kind, &[&["buckets_path", "gap_policy", "format"], names].concat())?;
        let gaps = match options.get("gap_policy").and_then(Json::as_str) {
            None | Some("skip") => Gaps::Skip,
            Some("insert_zeros") => Gaps::Zeros,
            Some("keep_values") => Gaps::Keep,
            Some(_) => return Err(Refused::illegal("[gap_policy] is skip, insert_zeros or keep_values")),
        };
        let paths = options.get("buckets_path").unwrap_or(&Json::Null);
        let needed = || Refused::parsing(format!("Required [buckets_path] of [{kind}]"));
        let path = || Path::read(paths.as_str().or_else(|| paths[0].as_str()).ok_or_else(needed)?);
        let whole = |name: &str, default: i64| match options.get(name) {
            None => Ok(default),
            Some(value) => {
                let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
                number.ok_or_else(|| Refused::illegal(format!("[{name}] of [{kind}] is a whole number")))
            }
        };
        let size = |name: &str, default| {
            let size = usize::try_from(whole(name, default)?).ok().filter(|size| (1..=WINDOW_MAX).contains(size));
            size.ok_or_else(|| Refused::illegal(format!("[{name}] must be a positive integer, {WINDOW_MAX} at most")))
        };
        let what = match kind {
            "derivative" => What::Derivative { path: path()?, unit_ms: unit_ms(options.get("unit"))? },
            "serial_diff" => What::SerialDiff { path: path()?, lag: size("lag", 1)? },
            "cumulative_sum" => What::CumulativeSum { path: path()? },
            "moving_fn" => {
                let function = Function::read(source(options)?)?;
                What::Moving { path: path()?, window: size("window", 0)?, shift: whole("shift", 0)?, function }
            }
            _ => {
                let named = object(paths, "buckets_path")?;
                if named.len() > VARIABLES_MAX {
                    return Err(Refused::illegal(format!("a script has at most {VARIABLES_MAX} variables")));
                }
                let named =
                    named.iter().map(|(name, path)| Ok((name.clone(), Path::read(path.as_str().ok_or_else(needed)?)?)));
                let paths = named.collect::<Result<BTreeMap<_, _>, Refused>>()?;
                let script =
                    Script::read(source(options)?).map_err(|problem| Refused::new("script_exception", problem))?;
                if let Some(name) = script.variables().find(|name| !paths.contains_key(*name)) {
                    let problem = format!("the script's [params.{name}] is not in its [buckets_path]");
                    return Err(Refused::new("script_exception", problem));
                }
                What::Script { paths, script }
            }
        };
        Ok(Some(Self { what, gaps }))
    }

    /// Whether it looks at the buckets before: they must be in an order.
    fn is_serial(&self) -> bool {
        !matches!(self.what, What::Script { .. })
    }

    /// What its answer is called where clients want to know.
    pub(in crate::logs::elastic) fn answered_as(&self) -> &'static str {
        match self.what {
            What::Derivative { .. } => "derivative",
            _ => "simple_value",
        }
    }

    fn paths(&self) -> Vec<&Path> {
        match &self.what {
            What::Derivative { path, .. }
            | What::SerialDiff { path, .. }
            | What::CumulativeSum { path }
            | What::Moving { path, .. } => vec![path],
            What::Script { paths, .. } => paths.values().collect(),
        }
    }

    /// Adds its values to `buckets`, whose metrics are there.
    fn apply(&self, name: &str, buckets: &mut [&mut Json]) {
        let values = |path: &Path| -> Vec<f64> { buckets.iter().map(|bucket| path.of(bucket, self.gaps)).collect() };
        let keys: Vec<f64> = buckets.iter().map(|bucket| bucket["key"].as_f64().unwrap_or(0.0)).collect();
        let told: Vec<Option<Json>> = match &self.what {
            What::Derivative { path, unit_ms } => {
                let values = values(path);
                let change = |at: usize| {
                    let before = at.checked_sub(1)?;
                    let change = Some(values[at] - values[before]).filter(|change| change.is_finite())?;
                    let mut told = json!({"value": change});
                    if let Some(unit_ms) = unit_ms {
                        told["normalized_value"] = json!(change / ((keys[at] - keys[before]) / unit_ms));
                    }
                    Some(told)
                };
                (0..values.len()).map(change).collect()
            }
            What::SerialDiff { path, lag } => {
                let values = values(path);
                let change = |at: usize| Some(values[at] - values[at.checked_sub(*lag)?]);
                (0..values.len()).map(|at| change(at).filter(|change| change.is_finite()).map(value)).collect()
            }
            What::CumulativeSum { path } => {
                let sums = values(path).into_iter().scan(0.0, |sum, value| {
                    *sum += if value.is_finite() { value } else { 0.0 };
                    Some(*sum)
                });
                sums.map(|sum| Some(value(sum))).collect()
            }
            What::Moving { path, window, shift, function } => {
                let values = values(path);
                let at = |place: i64| usize::try_from(place.max(0)).unwrap_or(0).min(values.len());
                let moved = |place: usize| {
                    let end = i64::try_from(place).unwrap_or(i64::MAX).saturating_add(*shift);
                    let begin = end.saturating_sub(i64::try_from(*window).unwrap_or(i64::MAX));
                    let within: Vec<f64> =
                        values[at(begin)..at(end)].iter().copied().filter(|it| it.is_finite()).collect();
                    value(function.of(&within))
                };
                (0..values.len()).map(|place| Some(moved(place))).collect()
            }
            What::Script { paths, script } => {
                let made = |bucket: &Json| {
                    let of = |name: &str| paths.get(name).map_or(f64::NAN, |path| path.of(bucket, self.gaps));
                    let all: Vec<_> = paths.keys().map(|name| of(name)).collect();
                    all.iter().all(|value| value.is_finite()).then(|| value(script.run(&of)))
                };
                buckets.iter().map(|bucket| made(bucket)).collect()
            }
        };
        for (bucket, told) in buckets.iter_mut().zip(told) {
            if let (Json::Object(bucket), Some(told)) = (&mut **bucket, told) {
                bucket.insert(name.to_owned(), told);
            }
        }
    }
}

/// What is no number is told as nothing.
fn value(number: f64) -> Json {
    if number.is_finite() { json!({"value": number}) } else { json!({"value": null}) }
}

fn unit_ms(unit: Option<&Json>) -> Result<Option<f64>, Refused> {
    let Some(unit) = unit else { return Ok(None) };
    match unit.as_str().and_then(Interval::fixed) {
        Some(Interval::Fixed { length_ns, .. }) => Ok(Some(length_ns as f64 / 1e6)),
        _ => Err(Refused::illegal("[unit] is a length of time such as 1s, 1m or 1h")),
    }
}

/// The text of a script.
fn source(options: &Map<String, Json>) -> Result<&str, Refused> {
    let script = options.get("script").unwrap_or(&Json::Null);
    let text = script.as_str().or_else(|| script["source"].as_str()).or_else(|| script["inline"].as_str());
    text.ok_or_else(|| Refused::parsing("Required [script]"))
}

impl Function {
    /// `MovingFunctions.max(values)` and its like.
    fn read(text: &str) -> Result<Self, Refused> {
        let unknown = || {
            Refused::new(
                "script_exception",
                "the script is one of MovingFunctions.max, min, sum, unweightedAvg, linearWeightedAvg and stdDev here",
            )
        };
        let call = text.trim().trim_end_matches(';').strip_prefix("MovingFunctions.").ok_or_else(unknown)?;
        let (name, arguments) = call.split_once('(').ok_or_else(unknown)?;
        let arguments: String = arguments.chars().filter(|c| !c.is_whitespace()).collect();
        match (name, arguments.as_str()) {
            ("max", "values)") => Ok(Self::Max),
            ("min", "values)") => Ok(Self::Min),
            ("sum", "values)") => Ok(Self::Sum),
            ("unweightedAvg", "values)") => Ok(Self::Mean),
            ("linearWeightedAvg", "values)") => Ok(Self::Linear),
            ("stdDev", "values,MovingFunctions.unweightedAvg(values))") => Ok(Self::Deviation),
            _ => Err(unknown()),
        }
    }

    /// Of none: no number, and the sum of none is zero.
    fn of(self, values: &[f64]) -> f64 {
        let count = values.len() as f64;
        let sum = values.iter().sum::<f64>();
        match self {
            Self::Max => values.iter().copied().fold(f64::NAN, f64::max),
            Self::Min => values.iter().copied().fold(f64::NAN, f64::min),
            Self::Sum => sum,
            Self::Mean => sum / count,
            Self::Deviation => {
                let mean = sum / count;
                (values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>() / count).sqrt()
            }
            Self::Linear => {
                let weighted: f64 = values.iter().zip(1..).map(|(value, weight)| value * f64::from(weight)).sum();
                weighted / (count * (count + 1.0) / 2.0)
            }
        }
    }
}

/// Puts the pipelines among `inner` behind what they are computed from.
pub(super) fn in_order(parent: &str, has_order: bool, inner: Vec<Aggregation>) -> Result<Vec<Aggregation>, Refused> {
    let (mut waiting, mut done): (Vec<_>, Vec<_>) =
        inner.into_iter().partition(|aggregation| aggregation.pipeline().is_some());
    while !waiting.is_empty() {
        let is_known = |path: &&Path| path.name().is_none_or(|name| done.iter().any(|done| done.name == name));
        let ready = waiting.iter().position(|next| next.pipeline().is_some_and(|it| it.paths().iter().all(is_known)));
        let Some(ready) = ready else {
            let name = &waiting[0].name;
            let problem = format!("No aggregation found for path of [{name}], or it leads back to itself");
            return Err(Refused::new("action_request_validation_exception", problem));
        };
        let next = waiting.remove(ready);
        if !has_order && next.pipeline().is_some_and(Pipeline::is_serial) {
            let problem = format!(
                "Validation Failed: 1: aggregation [{}] must have a histogram or date_histogram as parent, not [{parent}];",
                next.name
            );
            return Err(Refused::new("action_request_validation_exception", problem));
        }
        done.push(next);
    }
    Ok(done)
}

/// Adds what pipelines among `inner` make of `buckets`.
pub(super) fn apply<'a>(inner: &[Aggregation], buckets: impl Iterator<Item = &'a mut Json>) {
    let mut buckets: Vec<&mut Json> = buckets.collect();
    for aggregation in inner {
        if let Some(pipeline) = aggregation.pipeline() {
            pipeline.apply(&aggregation.name, &mut buckets);
        }
    }
}
