//! Aggregations record by record.

use std::collections::{BTreeMap, HashSet};

use backlot_windows::Document;
use serde_json::{Map, Value as Json, json};

use super::{Aggregation, BUCKETS_MAX, Kind, Metric, Order, OrderBy, pipelines};
use crate::logs::elastic::Refused;
use crate::logs::elastic::dates::written_as;
use crate::logs::elastic::fields::{Field, Key, OrderedNumber};
use crate::logs::moments::Interval;

/// Most values that are remembered for percentiles and cardinalities.
const VALUES_MAX: usize = 4_000_000;
/// Most bytes of all keys.
const KEYS_BYTES_MAX: usize = 64 << 20;

/// What was counted so far.
#[derive(Debug, Default)]
pub(in crate::logs::elastic) struct Collected {
    root: Bucket,
    taken: Taken,
}

/// How much is remembered.
#[derive(Debug, Default)]
struct Taken {
    buckets: usize,
    values: usize,
    keys_bytes: usize,
}

/// What one bucket holds, and how its aggregations stand, in their order.
#[derive(Debug, Default)]
struct Bucket {
    count: u64,
    inner: Vec<Node>,
}

#[derive(Debug)]
enum Node {
    Buckets(BTreeMap<BucketKey, Bucket>),
    Numbers { count: u64, sum: f64, squares: f64, min: f64, max: f64, values: Vec<f64> },
    Different(HashSet<Key>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BucketKey {
    /// Nanoseconds.
    Moment(i64),
    Value(Key),
    /// The number of a filter.
    Filter(usize),
}

impl Collected {
    /// Takes a record that answers.
    pub(in crate::logs::elastic) fn take(
        &mut self,
        aggregations: &[Aggregation],
        document: &Document,
    ) -> Result<(), Refused> {
        take(&mut self.root, aggregations, document, &mut self.taken)
    }

    /// Adds `count` records that were counted elsewhere to the bucket that `path` leads to.
    pub(super) fn add(&mut self, aggregations: &[Aggregation], path: &[BucketKey], count: u64) -> Result<(), Refused> {
        self.root.count += count;
        let (mut bucket, mut within) = (&mut self.root, aggregations);
        for key in path {
            let Some(aggregation) = within.first() else { return Ok(()) };
            bucket.prepare(within); // pipelines stand behind it
            let Some(Node::Buckets(buckets)) = bucket.inner.first_mut() else { return Ok(()) };
            bucket = self.taken.bucket(buckets, key.clone())?;
            bucket.count += count;
            within = &aggregation.inner;
        }
        Ok(())
    }

    /// The answer.
    pub(in crate::logs::elastic) fn answer(&self, aggregations: &[Aggregation]) -> Result<Json, Refused> {
        let mut buckets = 0;
        Ok(Json::Object(self.root.answer(aggregations, &mut buckets)?))
    }
}

fn too_many_buckets() -> Refused {
    Refused::new(
        "too_many_buckets_exception",
        format!(
            "Trying to create too many buckets. Must be less than or equal to: [{BUCKETS_MAX}] but this number of buckets was exceeded."
        ),
    )
}

impl Taken {
    fn bucket<'a>(
        &mut self,
        buckets: &'a mut BTreeMap<BucketKey, Bucket>,
        key: BucketKey,
    ) -> Result<&'a mut Bucket, Refused> {
        if !buckets.contains_key(&key) {
            self.buckets += 1;
            if self.buckets > BUCKETS_MAX {
                return Err(too_many_buckets());
            }
            if let BucketKey::Value(key) = &key {
                self.key(key)?;
            }
        }
        Ok(buckets.entry(key).or_default())
    }

    fn value(&mut self) -> Result<(), Refused> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(Refused::illegal(format!(
                "percentiles and cardinalities of more than {VALUES_MAX} values are not computed here"
            )));
        }
        Ok(())
    }

    fn key(&mut self, key: &Key) -> Result<(), Refused> {
        if let Key::Text(text) = key {
            self.keys_bytes += text.len();
        }
        if self.keys_bytes > KEYS_BYTES_MAX {
            return Err(Refused::illegal(format!(
                "the values of [terms] and [cardinality] have more than {KEYS_BYTES_MAX} bytes in all"
            )));
        }
        Ok(())
    }
}

impl Bucket {
    /// Makes the places of its aggregations.
    fn prepare(&mut self, aggregations: &[Aggregation]) {
        if self.inner.is_empty() {
            self.inner = aggregations.iter().map(|aggregation| Node::of(&aggregation.kind)).collect();
        }
    }
}

impl Node {
    fn of(kind: &Kind) -> Self {
        match kind {
            Kind::Metric { metric: Metric::Cardinality, .. } => Self::Different(HashSet::new()),
            Kind::Metric { .. } => {
                let (min, max) = (f64::INFINITY, f64::NEG_INFINITY);
                Self::Numbers { count: 0, sum: 0.0, squares: 0.0, min, max, values: Vec::new() }
            }
            _ => Self::Buckets(BTreeMap::new()),
        }
    }
}

fn take(
    bucket: &mut Bucket,
    aggregations: &[Aggregation],
    document: &Document,
    taken: &mut Taken,
) -> Result<(), Refused> {
    bucket.count += 1;
    bucket.prepare(aggregations);
    for (aggregation, node) in aggregations.iter().zip(&mut bucket.inner) {
        match node {
            Node::Buckets(buckets) => {
                for key in keys(&aggregation.kind, document) {
                    take(taken.bucket(buckets, key)?, &aggregation.inner, document, taken)?;
                }
            }
            Node::Different(different) => {
                if let Kind::Metric { field, .. } = &aggregation.kind {
                    for key in field.keys(document) {
                        if !different.contains(&key) {
                            taken.value()?;
                            taken.key(&key)?;
                            different.insert(key);
                        }
                    }
                }
            }
            Node::Numbers { count, sum, squares, min, max, values } => {
                let Kind::Metric { field, metric } = &aggregation.kind else { continue };
                if *metric == Metric::Count {
                    *count += if *field == Field::Time { 1 } else { document.values(field.name()).count() as u64 };
                    continue;
                }
                for number in field.numbers(document) {
                    *count += 1;
                    *sum += number;
                    *squares += number * number;
                    *min = min.min(number);
                    *max = max.max(number);
                    if matches!(metric, Metric::Percentiles(_)) {
                        taken.value()?;
                        values.push(number);
                    }
                }
            }
        }
    }
    Ok(())
}

/// The buckets of an aggregation that a record is in.
fn keys(kind: &Kind, document: &Document) -> Vec<BucketKey> {
    match kind {
        Kind::Dates { interval, zone_ns, .. } => vec![BucketKey::Moment(interval.floor(document.time_ns, *zone_ns))],
        Kind::Histogram { field, interval, .. } => {
            let floors =
                field.numbers(document).into_iter().map(|number| OrderedNumber((number / interval).floor() * interval));
            let floors: std::collections::BTreeSet<_> = floors.collect();
            floors.into_iter().map(|floor| BucketKey::Value(Key::Number(floor))).collect()
        }
        Kind::Terms { field, missing, .. } => {
            let keys = field.keys(document);
            match missing {
                Some(missing) if keys.is_empty() => vec![BucketKey::Value(Key::Text(missing.clone()))],
                _ => keys.into_iter().map(BucketKey::Value).collect(),
            }
        }
        Kind::Filters(filters) => {
            let holding = filters.iter().enumerate().filter(|(_, (_, query))| query.matches(document));
            holding.map(|(at, _)| BucketKey::Filter(at)).collect()
        }
        Kind::Metric { .. } | Kind::Pipeline(_) => Vec::new(),
    }
}

impl Bucket {
    fn answer(&self, aggregations: &[Aggregation], told: &mut usize) -> Result<Map<String, Json>, Refused> {
        let mut answer = Map::new();
        for (at, aggregation) in aggregations.iter().enumerate().filter(|(_, one)| one.pipeline().is_none()) {
            let empty = Node::of(&aggregation.kind);
            let node = self.inner.get(at).unwrap_or(&empty);
            answer.insert(aggregation.name.clone(), node.answer(aggregation, told)?);
        }
        Ok(answer)
    }

    /// As it stands in a list of buckets.
    fn told(&self, key: Map<String, Json>, aggregation: &Aggregation, told: &mut usize) -> Result<Json, Refused> {
        *told += 1;
        if *told > BUCKETS_MAX {
            return Err(too_many_buckets());
        }
        let mut bucket = key;
        bucket.insert("doc_count".to_owned(), Json::from(self.count));
        bucket.extend(self.answer(&aggregation.inner, told)?);
        Ok(Json::Object(bucket))
    }
}

impl Node {
    fn answer(&self, aggregation: &Aggregation, told: &mut usize) -> Result<Json, Refused> {
        match (self, &aggregation.kind) {
            (Self::Buckets(buckets), Kind::Dates { interval, zone_ns, min_count, bounds, format }) => {
                let dates = Dates { interval: *interval, zone_ns: *zone_ns, bounds: *bounds };
                let empty = Bucket::default();
                let mut answer = Vec::new();
                for begin_ns in dates.begins(buckets, *min_count)? {
                    let bucket = buckets.get(&BucketKey::Moment(begin_ns)).unwrap_or(&empty);
                    let mut key = Map::new();
                    key.insert("key_as_string".to_owned(), written_as(begin_ns, format.as_deref())?.into());
                    key.insert("key".to_owned(), Json::from(begin_ns.div_euclid(1_000_000)));
                    answer.push(bucket.told(key, aggregation, told)?);
                }
                pipelines::apply(&aggregation.inner, answer.iter_mut());
                Ok(json!({"buckets": answer}))
            }
            (Self::Buckets(buckets), Kind::Histogram { interval, min_count, .. }) => {
                let mut answer = Vec::new();
                let empty = Bucket::default();
                for floor in floors(buckets, *interval, *min_count)? {
                    let key = BucketKey::Value(Key::Number(OrderedNumber(floor)));
                    let key_json = Map::from_iter([("key".to_owned(), Json::from(floor))]);
                    answer.push(buckets.get(&key).unwrap_or(&empty).told(key_json, aggregation, told)?);
                }
                pipelines::apply(&aggregation.inner, answer.iter_mut());
                Ok(json!({"buckets": answer}))
            }
            (Self::Buckets(buckets), Kind::Terms { size, min_count, order, .. }) => {
                let mut all: Vec<_> = buckets
                    .iter()
                    .filter_map(|(key, bucket)| match key {
                        BucketKey::Value(key) if bucket.count >= *min_count => Some((key, bucket)),
                        _ => None,
                    })
                    .collect();
                sort(&mut all, order, aggregation);
                let others: u64 = all.iter().skip(*size).map(|(_, bucket)| bucket.count).sum();
                let mut answer = Vec::new();
                for (key, bucket) in all.into_iter().take(*size) {
                    let key = Map::from_iter([("key".to_owned(), key.json())]);
                    answer.push(bucket.told(key, aggregation, told)?);
                }
                pipelines::apply(&aggregation.inner, answer.iter_mut());
                Ok(json!({"doc_count_error_upper_bound": 0, "sum_other_doc_count": others, "buckets": answer}))
            }
            (Self::Buckets(buckets), Kind::Filters(filters)) => {
                let empty = Bucket::default();
                let mut answer = Map::new();
                for (at, (name, _)) in filters.iter().enumerate() {
                    let bucket = buckets.get(&BucketKey::Filter(at)).unwrap_or(&empty);
                    answer.insert(name.clone(), bucket.told(Map::new(), aggregation, told)?);
                }
                pipelines::apply(&aggregation.inner, answer.iter_mut().map(|(_, bucket)| bucket));
                Ok(json!({"buckets": answer}))
            }
            (Self::Different(different), _) => Ok(json!({"value": different.len()})),
            (Self::Numbers { .. }, Kind::Metric { metric, .. }) => Ok(self.numbers(metric)),
            (Self::Buckets(_), Kind::Metric { .. } | Kind::Pipeline(_)) | (Self::Numbers { .. }, _) => Ok(Json::Null), // a node is made of its kind
        }
    }

    fn numbers(&self, metric: &Metric) -> Json {
        let Self::Numbers { count, sum, squares, min, max, values } = self else { return Json::Null };
        let counted = *count as f64;
        let some = |number: f64| if *count == 0 { Json::Null } else { Json::from(number) };
        let mean = sum / counted;
        match metric {
            Metric::Avg => json!({"value": some(mean)}),
            Metric::Sum => json!({"value": sum}),
            Metric::Min => json!({"value": some(*min)}),
            Metric::Max => json!({"value": some(*max)}),
            Metric::Count | Metric::Cardinality => json!({"value": count}),
            Metric::Stats => {
                json!({"count": count, "min": some(*min), "max": some(*max), "avg": some(mean), "sum": sum})
            }
            Metric::ExtendedStats => {
                let variance = (squares / counted - mean * mean).max(0.0);
                json!({
                    "count": count, "min": some(*min), "max": some(*max), "avg": some(mean), "sum": sum, "sum_of_squares": some(*squares),
                    "variance": some(variance), "std_deviation": some(variance.sqrt()),
                    "std_deviation_bounds": {"upper": some(mean + 2.0 * variance.sqrt()), "lower": some(mean - 2.0 * variance.sqrt())},
                })
            }
            Metric::Percentiles(percents) => {
                let mut sorted = values.clone();
                sorted.sort_by(f64::total_cmp);
                let values =
                    percents.iter().map(|percent| (format!("{percent:?}"), some(percentile(&sorted, *percent))));
                json!({"values": values.collect::<Map<_, _>>()})
            }
        }
    }

    /// What a metric is ordered by.
    fn value(&self, metric: &Metric, of: Option<&str>) -> f64 {
        let told = match self {
            Self::Different(different) => json!({"value": different.len()}),
            other => other.numbers(metric),
        };
        let value = match (of, metric) {
            (Some(of), Metric::Percentiles(_)) => {
                let percent = of.parse::<f64>().map_or_else(|_| of.to_owned(), |percent| format!("{percent:?}"));
                told["values"][percent.as_str()].as_f64()
            }
            (Some(of), _) => told[of].as_f64(),
            (None, _) => told["value"].as_f64(),
        };
        value.unwrap_or(f64::NAN)
    }
}

/// Between the two nearest, in proportion. Zero of none.
fn percentile(sorted: &[f64], percent: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let rank = percent / 100.0 * last as f64;
    let lower = (rank.floor() as usize).min(last);
    let upper = (lower + 1).min(last);
    sorted[lower] + (sorted[upper] - sorted[lower]) * (rank - rank.floor())
}

fn sort(all: &mut [(&Key, &Bucket)], order: &Order, aggregation: &Aggregation) {
    let turned = |ordering: std::cmp::Ordering| if order.descending { ordering.reverse() } else { ordering };
    match &order.by {
        OrderBy::Count => all.sort_by(|a, b| turned(a.1.count.cmp(&b.1.count)).then_with(|| a.0.cmp(b.0))),
        OrderBy::Key => all.sort_by(|a, b| turned(a.0.cmp(b.0))),
        OrderBy::Metric(name, of) => {
            let Some(at) = aggregation.inner.iter().position(|inner| inner.name == *name) else { return };
            let Kind::Metric { metric, .. } = &aggregation.inner[at].kind else { return };
            let value =
                |bucket: &Bucket| bucket.inner.get(at).map_or(f64::NAN, |node| node.value(metric, of.as_deref()));
            all.sort_by_cached_key(|(key, bucket)| {
                let value = value(bucket);
                let ranked = if order.descending { -value } else { value };
                (value.is_nan(), OrderedNumber(ranked), (*key).clone())
            });
        }
    }
}

struct Dates {
    interval: Interval,
    zone_ns: i64,
    bounds: Option<(i64, i64)>,
}

impl Dates {
    /// Where the buckets of the answer begin: those that hold enough, or, when empty ones are wanted, all from the first to the last.
    fn begins(&self, buckets: &BTreeMap<BucketKey, Bucket>, min_count: u64) -> Result<Vec<i64>, Refused> {
        let moment = |key: &BucketKey| match key {
            BucketKey::Moment(ns) => Some(*ns),
            _ => None,
        };
        if min_count > 0 {
            let full = buckets.iter().filter(|(_, bucket)| bucket.count >= min_count);
            return Ok(full.filter_map(|(key, _)| moment(key)).collect());
        }
        let mut first = buckets.keys().next().and_then(moment);
        let mut last = buckets.keys().next_back().and_then(moment);
        if let Some((min, max)) = self.bounds.filter(|(min, max)| min <= max) {
            let (min, max) = (self.interval.floor(min, self.zone_ns), self.interval.floor(max, self.zone_ns));
            first = Some(first.map_or(min, |first| first.min(min)));
            last = Some(last.map_or(max, |last| last.max(max)));
        }
        let (Some(mut begin), Some(last)) = (first, last) else { return Ok(Vec::new()) };
        let mut begins = Vec::new();
        while begin <= last {
            if begins.len() >= BUCKETS_MAX {
                return Err(too_many_buckets());
            }
            begins.push(begin);
            let next = self.interval.next(begin, self.zone_ns);
            if next <= begin {
                break;
            }
            begin = next;
        }
        Ok(begins)
    }
}

/// Where the buckets of a histogram of numbers begin.
fn floors(buckets: &BTreeMap<BucketKey, Bucket>, interval: f64, min_count: u64) -> Result<Vec<f64>, Refused> {
    let number = |key: &BucketKey| match key {
        BucketKey::Value(Key::Number(OrderedNumber(number))) => Some(*number),
        _ => None,
    };
    if min_count > 0 {
        let full = buckets.iter().filter(|(_, bucket)| bucket.count >= min_count);
        return Ok(full.filter_map(|(key, _)| number(key)).collect());
    }
    let (Some(first), Some(last)) =
        (buckets.keys().next().and_then(number), buckets.keys().next_back().and_then(number))
    else {
        return Ok(Vec::new());
    };
    let (first, count) = ((first / interval).round(), (last - first) / interval);
    if count.is_nan() || count >= BUCKETS_MAX as f64 {
        return Err(too_many_buckets());
    }
    // As the records' own floors are computed, so that they are found.
    Ok((0..=count.round() as usize).map(|at| (first + at as f64) * interval).collect())
}
