//! OTLP metrics become samples of Prometheus's model.
//!
//! Gauges and sums become one series, explicit histograms `_bucket`, `_sum` and `_count`, summaries `quantile` series. Sums of delta
//! temporality are added up in the head. `service.namespace`/`service.name` become `job`, `service.instance.id` becomes `instance`,
//! the resource's other attributes stand in `target_info`. A point flagged "no recorded value" is a staleness marker.
//!
//! Exemplars that name a trace are kept: those of histograms with the bucket that they fell into.
//!
//! Refused, by name, in the answer's partial success: exponential histograms, because there are no native histograms here.

use std::collections::BTreeMap;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, DataPointFlags, Exemplar as OtlpExemplar, HistogramDataPoint, Metric, NumberDataPoint,
    SummaryDataPoint, metric, number_data_point,
};

use super::exemplars::{Exemplar, PER_SERIES_MAX};
use super::model::{Labels, METRIC_NAME, Pair, stale_marker};
use super::naming::{self, Shape};
use super::record::{Batch, Metadata, Point, Step};

/// Most labels of a series.
const LABELS_MAX: usize = 64;
/// Longest label name, in bytes.
const LABEL_NAME_BYTES_MAX: usize = 512;
/// Longest label value, in bytes.
const LABEL_VALUE_BYTES_MAX: usize = 4096;
/// Longest description that is kept, in bytes.
const HELP_BYTES_MAX: usize = 1024;

/// Why data points are not taken, with how many of them there were. Keyed by the counter's reason.
pub(super) type Rejected = BTreeMap<&'static str, (u64, &'static str)>;

/// What a request holds.
#[derive(Debug, Default)]
pub(super) struct Translated {
    pub(super) batch: Batch,
    pub(super) rejected: Rejected,
    /// Data points that are in `batch`.
    pub(super) points: u64,
}

/// Translates a request. `promoted` names resource attributes that become labels of each series.
pub(super) fn translate(request: &ExportMetricsServiceRequest, promoted: &[String]) -> Translated {
    let mut out = Translation::default();
    for resource_metrics in &request.resource_metrics {
        let attributes = resource_metrics.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
        out.resource = Resource::new(attributes, promoted);
        out.newest_ms = 0;
        for metric in resource_metrics.scope_metrics.iter().flat_map(|scope| &scope.metrics) {
            out.metric(metric);
        }
        out.target_info();
    }
    let Translation { mut done, series, exemplars, .. } = out;
    done.batch.series = series.into_iter().collect();
    for (series, mut few) in exemplars {
        few.sort_by_key(|exemplar| exemplar.t_ms);
        let newest = few.split_off(few.len().saturating_sub(PER_SERIES_MAX));
        done.batch.exemplars.extend(newest.into_iter().map(|exemplar| (series.clone(), exemplar)));
    }
    for (_, points) in &mut done.batch.series {
        points.sort_by_key(|point| point.t_ms);
    }
    done
}

/// Makes samples of a request, and reads them back as the journal gives them: for fuzzing.
pub fn fuzz_export(request: &ExportMetricsServiceRequest) {
    let batch = translate(request, &[]).batch;
    assert!(Batch::decode(&batch.encode()).is_ok(), "was taken and cannot be read");
}

#[derive(Default)]
struct Resource {
    /// `job`, `instance` and what is promoted.
    labels: Vec<Pair>,
    /// Everything else, for `target_info`.
    others: Vec<Pair>,
}

impl Resource {
    fn new(attributes: &[KeyValue], promoted: &[String]) -> Self {
        let find = |key: &str| attributes.iter().find(|attribute| attribute.key == key).map(naming::value_text);
        let mut of = Self::default();
        if let Some(name) = find("service.name") {
            let job = match find("service.namespace") {
                Some(namespace) if !namespace.is_empty() => format!("{namespace}/{name}"),
                _ => name,
            };
            of.labels.push(("job".into(), job.into()));
        }
        if let Some(instance) = find("service.instance.id") {
            of.labels.push(("instance".into(), instance.into()));
        }
        for attribute in attributes {
            if matches!(attribute.key.as_str(), "service.name" | "service.namespace" | "service.instance.id") {
                continue;
            }
            let pair: Pair = (naming::label(&attribute.key).into(), naming::value_text(attribute).into());
            if promoted.contains(&attribute.key) {
                of.labels.push(pair.clone());
            }
            of.others.push(pair);
        }
        of
    }
}

#[derive(Default)]
struct Translation {
    done: Translated,
    resource: Resource,
    /// Newest point of the resource at hand.
    newest_ms: i64,
    /// Points of one series may stand apart in a request.
    series: BTreeMap<Labels, Vec<Point>>,
    exemplars: BTreeMap<Labels, Vec<Exemplar>>,
}

impl Translation {
    fn reject(&mut self, points: usize, reason: &'static str, message: &'static str) {
        if points > 0 {
            self.done.rejected.entry(reason).or_insert((0, message)).0 += points as u64;
        }
    }

    fn metric(&mut self, metric: &Metric) {
        let Some(data) = &metric.data else { return };
        match data {
            metric::Data::Gauge(gauge) => {
                let name = self.name(metric, Shape::Gauge, "gauge");
                self.numbers(&name, &gauge.data_points, Step::Value);
            }
            metric::Data::Sum(sum) => {
                let Some(step) = self.step(sum.aggregation_temporality, sum.data_points.len()) else { return };
                let (shape, kind) =
                    if sum.is_monotonic { (Shape::Counter, "counter") } else { (Shape::Other, "gauge") };
                let name = self.name(metric, shape, kind);
                self.numbers(&name, &sum.data_points, step);
            }
            metric::Data::Histogram(histogram) => {
                let points = &histogram.data_points;
                let Some(step) = self.step(histogram.aggregation_temporality, points.len()) else { return };
                let name = self.name(metric, Shape::Other, "histogram");
                points.iter().for_each(|point| self.histogram(&name, point, step));
            }
            metric::Data::Summary(summary) => {
                let name = self.name(metric, Shape::Other, "summary");
                summary.data_points.iter().for_each(|point| self.summary(&name, point));
            }
            metric::Data::ExponentialHistogram(histogram) => self.reject(
                histogram.data_points.len(),
                "exponential_histogram",
                "exponential histograms are not stored; configure the exporter for explicit bucket histograms",
            ),
        }
    }

    fn step(&mut self, temporality: i32, points: usize) -> Option<Step> {
        match AggregationTemporality::try_from(temporality) {
            Ok(AggregationTemporality::Cumulative) => Some(Step::Value),
            Ok(AggregationTemporality::Delta) => Some(Step::Delta),
            _ => {
                self.reject(points, "temporality", "a sum or histogram without aggregation temporality has no meaning");
                None
            }
        }
    }

    fn name(&mut self, metric: &Metric, shape: Shape, kind: &str) -> Arc<str> {
        let name: Arc<str> = naming::metric(&metric.name, &metric.unit, shape).into();
        let help = metric.description.get(..HELP_BYTES_MAX).unwrap_or(&metric.description);
        let help = if help.len() > HELP_BYTES_MAX { "" } else { help };
        let unit = if metric.unit.len() > LABEL_NAME_BYTES_MAX { "" } else { &metric.unit };
        let metadata = Metadata { kind: kind.into(), unit: unit.into(), help: help.into() };
        if !name.is_empty() && name.len() <= LABEL_NAME_BYTES_MAX {
            self.done.batch.metadata.push((name.clone(), metadata));
        }
        name
    }

    /// The labels of a series, or nothing when a point breaks a limit.
    fn labels(&mut self, name: &str, attributes: &[KeyValue]) -> Option<Vec<Pair>> {
        if name.is_empty() || name.len() > LABEL_NAME_BYTES_MAX {
            self.reject(1, "name", "a metric's name is empty or longer than 512 bytes");
            return None;
        }
        let mut by_name: BTreeMap<String, String> = BTreeMap::new();
        let mut sorted: Vec<&KeyValue> = attributes.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        for attribute in sorted {
            let (key, value) = (naming::label(&attribute.key), naming::value_text(attribute));
            // Two attributes that become one label are joined, so that nothing is lost and nothing depends on order.
            by_name
                .entry(key)
                .and_modify(|joined| {
                    joined.push(';');
                    joined.push_str(&value);
                })
                .or_insert(value);
        }
        let mut pairs: Vec<Pair> = by_name.into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        pairs.extend(self.resource.labels.iter().cloned());
        pairs.push((METRIC_NAME.into(), name.into()));
        let fits = |(key, value): &Pair| {
            key.len() <= LABEL_NAME_BYTES_MAX && value.len() <= LABEL_VALUE_BYTES_MAX && !key.is_empty()
        };
        if pairs.len() > LABELS_MAX || !pairs.iter().all(fits) {
            self.reject(1, "label_limit", "a series has more than 64 labels, or one of more than 4096 bytes");
            return None;
        }
        Some(pairs)
    }

    fn push(
        &mut self,
        mut labels: Vec<Pair>,
        more: Option<Pair>,
        name: &str,
        t_ms: i64,
        value: f64,
        step: Step,
    ) -> Labels {
        labels.extend(more);
        labels.push((METRIC_NAME.into(), name.into())); // the last of one name wins
        let labels = Labels::new(labels);
        self.series.entry(labels.clone()).or_default().push(Point { t_ms, value, step });
        self.newest_ms = self.newest_ms.max(t_ms);
        labels
    }

    /// Keeps those of `exemplars` that are of this series and say in which trace they were taken.
    fn exemplars(&mut self, series: &Labels, exemplars: &[OtlpExemplar], is_of_it: impl Fn(f64) -> bool) {
        for given in exemplars {
            let Some(made) = Exemplar::of(given).filter(|made| is_of_it(made.value)) else { continue };
            let few = self.exemplars.entry(series.clone()).or_default();
            few.push(made);
            if few.len() > 8 * PER_SERIES_MAX {
                few.sort_by_key(|exemplar| exemplar.t_ms);
                few.drain(..few.len() - PER_SERIES_MAX);
            }
        }
    }

    fn numbers(&mut self, name: &str, points: &[NumberDataPoint], step: Step) {
        for point in points {
            let Some(labels) = self.labels(name, &point.attributes) else { continue };
            let value = match point.value {
                _ if no_value(point.flags) => stale_marker(),
                Some(number_data_point::Value::AsDouble(value)) => value,
                Some(number_data_point::Value::AsInt(value)) => value as f64,
                None => {
                    self.reject(1, "no_value", "a data point has no value");
                    continue;
                }
            };
            let step = if no_value(point.flags) { Step::Value } else { step };
            let series = self.push(labels, None, name, ms(point.time_unix_nano), value, step);
            self.exemplars(&series, &point.exemplars, |_| true);
            self.done.points += 1;
        }
    }

    fn histogram(&mut self, name: &str, point: &HistogramDataPoint, step: Step) {
        let (bounds, counts) = (&point.explicit_bounds, &point.bucket_counts);
        let whole = counts.is_empty() && bounds.is_empty() || counts.len() == bounds.len() + 1;
        if !whole || bounds.windows(2).any(|pair| pair[0] >= pair[1]) || bounds.iter().any(|bound| bound.is_nan()) {
            return self.reject(1, "malformed_histogram", "a histogram's bounds do not rise or do not fit its counts");
        }
        let Some(labels) = self.labels(name, &point.attributes) else { return };
        let t_ms = ms(point.time_unix_nano);
        let stale = no_value(point.flags);
        let step = if stale { Step::Value } else { step };
        let value = |value: f64| if stale { stale_marker() } else { value };
        let bucket = format!("{name}_bucket");
        let (mut below, mut above) = (0_u64, f64::NEG_INFINITY);
        for (bound, count) in bounds.iter().zip(counts) {
            below = below.saturating_add(*count);
            let le: Pair = ("le".into(), bound_text(*bound).into());
            let series = self.push(labels.clone(), Some(le), &bucket, t_ms, value(below as f64), step);
            self.exemplars(&series, &point.exemplars, |value| value > above && value <= *bound);
            above = *bound;
        }
        let le: Pair = ("le".into(), "+Inf".into());
        let series = self.push(labels.clone(), Some(le), &bucket, t_ms, value(point.count as f64), step);
        self.exemplars(&series, &point.exemplars, |value| value > above || value.is_nan());
        self.push(labels.clone(), None, &format!("{name}_count"), t_ms, value(point.count as f64), step);
        if let Some(sum) = point.sum {
            self.push(labels, None, &format!("{name}_sum"), t_ms, value(sum), step);
        }
        self.done.points += 1;
    }

    fn summary(&mut self, name: &str, point: &SummaryDataPoint) {
        let Some(labels) = self.labels(name, &point.attributes) else { return };
        let t_ms = ms(point.time_unix_nano);
        let value = |value: f64| if no_value(point.flags) { stale_marker() } else { value };
        for at in &point.quantile_values {
            let quantile: Pair = ("quantile".into(), bound_text(at.quantile).into());
            self.push(labels.clone(), Some(quantile), name, t_ms, value(at.value), Step::Value);
        }
        self.push(labels.clone(), None, &format!("{name}_count"), t_ms, value(point.count as f64), Step::Value);
        self.push(labels, None, &format!("{name}_sum"), t_ms, value(point.sum), Step::Value);
        self.done.points += 1;
    }

    /// Says once a request what else is known of the resource, where something identifies it.
    fn target_info(&mut self) {
        let resource = std::mem::take(&mut self.resource);
        if resource.labels.is_empty() || resource.others.is_empty() || self.newest_ms == 0 {
            return;
        }
        let fits = |(key, value): &&Pair| key.len() <= LABEL_NAME_BYTES_MAX && value.len() <= LABEL_VALUE_BYTES_MAX;
        let pairs: Vec<Pair> =
            resource.others.iter().filter(fits).take(LABELS_MAX - 4).chain(&resource.labels).cloned().collect();
        let t_ms = self.newest_ms;
        self.push(pairs, None, "target_info", t_ms, 1.0, Step::Value);
    }
}

fn no_value(flags: u32) -> bool {
    flags & DataPointFlags::NoRecordedValueMask as u32 != 0
}

pub(super) fn ms(nanos: u64) -> i64 {
    (nanos / 1_000_000) as i64 // below 2^63 / 10^6 by the division
}

/// A bound as Prometheus writes it: the shortest text that is this number.
fn bound_text(bound: f64) -> String {
    if bound.is_infinite() {
        return if bound > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let plain = bound.to_string();
    if plain.len() > 21 { format!("{bound:e}") } else { plain }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
    use opentelemetry_proto::tonic::metrics::v1::{
        ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, ResourceMetrics, ScopeMetrics, Sum,
        exemplar,
    };
    use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;

    use super::*;

    fn text(key: &str, value: &str) -> KeyValue {
        let value = AnyValue { value: Some(any_value::Value::StringValue(value.into())) };
        KeyValue { key: key.into(), value: Some(value), ..KeyValue::default() }
    }

    fn request(data: Vec<(&str, &str, metric::Data)>) -> ExportMetricsServiceRequest {
        let metrics = data.into_iter().map(|(name, unit, data)| Metric {
            name: name.into(),
            unit: unit.into(),
            data: Some(data),
            ..Metric::default()
        });
        let resource = ProtoResource {
            attributes: vec![
                text("service.name", "agent"),
                text("service.namespace", "lot"),
                text("service.instance.id", "i1"),
                text("host.name", "gpu-1"),
            ],
            ..ProtoResource::default()
        };
        let scope_metrics = vec![ScopeMetrics { metrics: metrics.collect(), ..ScopeMetrics::default() }];
        let resource_metrics =
            vec![ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() }];
        ExportMetricsServiceRequest { resource_metrics }
    }

    fn number(t_ms: u64, value: f64, attributes: Vec<KeyValue>) -> NumberDataPoint {
        let value = Some(number_data_point::Value::AsDouble(value));
        NumberDataPoint { time_unix_nano: t_ms * 1_000_000, value, attributes, ..NumberDataPoint::default() }
    }

    fn shown(translated: &Translated) -> Vec<String> {
        let each = translated.batch.series.iter().map(|(labels, points)| {
            let points: Vec<String> = points.iter().map(|point| format!("{}@{}", point.value, point.t_ms)).collect();
            format!("{labels} {}", points.join(" "))
        });
        each.collect()
    }

    #[test]
    fn a_gauge_and_a_counter_become_series_of_their_job() {
        let data_points = vec![number(2000, 3.0, vec![text("gpu.index", "0")])];
        let gauge = metric::Data::Gauge(Gauge { data_points: data_points.clone() });
        let sum = metric::Data::Sum(Sum { data_points, aggregation_temporality: 1, is_monotonic: true });
        let translated =
            translate(&request(vec![("gpu.memory", "By", gauge), ("frames", "{frame}", sum)]), &["host.name".into()]);
        let on = r#"host_name="gpu-1", instance="i1", job="lot/agent"}"#;
        assert_eq!(
            shown(&translated),
            [
                format!(r#"{{__name__="frames_total", gpu_index="0", {on} 3@2000"#),
                format!(r#"{{__name__="gpu_memory_bytes", gpu_index="0", {on} 3@2000"#),
                format!(r#"{{__name__="target_info", {on} 1@2000"#),
            ]
        );
        assert_eq!(translated.batch.series[0].1[0].step, Step::Delta);
        assert_eq!((translated.points, translated.rejected.len()), (2, 0));
    }

    #[test]
    fn a_histogram_becomes_buckets_that_only_rise() {
        let point = HistogramDataPoint {
            time_unix_nano: 5_000_000,
            count: 6,
            sum: Some(7.5),
            bucket_counts: vec![1, 2, 3],
            explicit_bounds: vec![0.5, 1.0],
            ..HistogramDataPoint::default()
        };
        let bad = HistogramDataPoint { explicit_bounds: vec![1.0, 0.5], ..point.clone() };
        let histogram =
            metric::Data::Histogram(Histogram { data_points: vec![point, bad], aggregation_temporality: 2 });
        let translated = translate(&request(vec![("latency", "s", histogram)]), &[]);
        let on = r#"instance="i1", job="lot/agent""#;
        assert_eq!(
            shown(&translated)[..5],
            [
                format!(r#"{{__name__="latency_seconds_bucket", {on}, le="+Inf"}} 6@5"#),
                format!(r#"{{__name__="latency_seconds_bucket", {on}, le="0.5"}} 1@5"#),
                format!(r#"{{__name__="latency_seconds_bucket", {on}, le="1"}} 3@5"#),
                format!(r#"{{__name__="latency_seconds_count", {on}}} 6@5"#),
                format!(r#"{{__name__="latency_seconds_sum", {on}}} 7.5@5"#),
            ]
        );
        assert_eq!(translated.rejected["malformed_histogram"].0, 1);
    }

    #[test]
    fn an_exemplar_goes_with_the_bucket_it_fell_into_and_one_without_a_trace_is_left_out() {
        let exemplar = |value: f64, trace: u8| OtlpExemplar {
            time_unix_nano: 4_000_000,
            value: Some(exemplar::Value::AsDouble(value)),
            trace_id: vec![trace; 16],
            span_id: vec![7; 8],
            filtered_attributes: vec![text("user", "anna"), text("long", &"x".repeat(200))],
        };
        let exemplars = vec![exemplar(0.5, 1), exemplar(0.7, 2), exemplar(9.0, 3), exemplar(0.1, 0)];
        let point = HistogramDataPoint {
            time_unix_nano: 5_000_000,
            count: 3,
            bucket_counts: vec![1, 1, 1],
            explicit_bounds: vec![0.5, 1.0],
            exemplars,
            ..HistogramDataPoint::default()
        };
        let histogram = metric::Data::Histogram(Histogram { data_points: vec![point], aggregation_temporality: 2 });
        let batch = translate(&request(vec![("latency", "s", histogram)]), &[]).batch;
        let found: Vec<_> = batch.exemplars.iter().map(|(series, made)| (series.get("le"), made.value)).collect();
        assert_eq!(found, [("+Inf", 9.0), ("0.5", 0.5), ("1", 0.7)]);
        let labels = &batch.exemplars[1].1.labels;
        assert_eq!((labels.get("trace_id"), labels.get("span_id")), (&*"01".repeat(16), &*"07".repeat(8)));
        assert_eq!((labels.get("user"), labels.get("long"), labels.len()), ("anna", "", 3));
    }

    #[test]
    fn what_cannot_be_stored_is_named() {
        let points = vec![ExponentialHistogramDataPoint::default(); 3];
        let exponential = metric::Data::ExponentialHistogram(ExponentialHistogram {
            data_points: points,
            aggregation_temporality: 2,
        });
        let unknown = metric::Data::Sum(Sum {
            data_points: vec![number(1, 1.0, vec![])],
            aggregation_temporality: 0,
            is_monotonic: true,
        });
        let long = metric::Data::Gauge(Gauge { data_points: vec![number(1, 1.0, vec![text("x", &"v".repeat(5000))])] });
        let translated = translate(&request(vec![("e", "", exponential), ("u", "", unknown), ("l", "", long)]), &[]);
        let counts: Vec<(&str, u64)> =
            translated.rejected.iter().map(|(reason, (count, _))| (*reason, *count)).collect();
        assert_eq!(counts, [("exponential_histogram", 3), ("label_limit", 1), ("temporality", 1)]);
        assert!(translated.batch.series.is_empty());
    }
}
