//! The own metrics as Prometheus's text exposition, version 0.0.4.
//!
//! Names in the catalogue are Prometheus's already, so nothing is appended or translated.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::{Arc, Weak};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, Temporality};

/// A reader that both the meter provider and `/metrics` hold.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedReader(Arc<ManualReader>);

impl MetricReader for SharedReader {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, into: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(into)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

impl SharedReader {
    /// Collects and writes everything. Empty after the shutdown.
    pub(super) fn text(&self) -> String {
        let mut collected = ResourceMetrics::default();
        if self.collect(&mut collected).is_err() {
            return String::new();
        }
        let mut page = BTreeMap::new();
        for metric in collected.scope_metrics().flat_map(|scope| scope.metrics()) {
            let mut family = Family::new(metric.name());
            match metric.data() {
                AggregatedMetrics::F64(data) => family.data(data),
                AggregatedMetrics::U64(data) => family.data(data),
                AggregatedMetrics::I64(data) => family.data(data),
            }
            page.entry(metric.name().to_owned()).or_insert_with(|| family.text(metric.description()));
        }
        page.into_values().collect()
    }
}

struct Family<'a> {
    name: &'a str,
    kind: &'static str,
    /// Sorted, so that two scrapes can be compared by eye.
    lines: Vec<String>,
}

impl<'a> Family<'a> {
    fn new(name: &'a str) -> Self {
        Self { name, kind: "untyped", lines: Vec::new() }
    }

    fn data<T: Display + Copy>(&mut self, data: &MetricData<T>) {
        match data {
            MetricData::Gauge(gauge) => {
                self.kind = "gauge";
                for point in gauge.data_points() {
                    self.line("", point.attributes(), None, &point.value());
                }
            }
            MetricData::Sum(sum) => {
                self.kind = if sum.is_monotonic() { "counter" } else { "gauge" };
                for point in sum.data_points() {
                    self.line("", point.attributes(), None, &point.value());
                }
            }
            MetricData::Histogram(histogram) => {
                self.kind = "histogram";
                for point in histogram.data_points() {
                    let mut below = 0;
                    let bounds = point.bounds().map(|bound| bound.to_string()).chain(["+Inf".to_owned()]);
                    for (bound, count) in bounds.zip(point.bucket_counts()) {
                        below += count;
                        self.line("_bucket", point.attributes(), Some(&bound), &below);
                    }
                    self.line("_sum", point.attributes(), None, &point.sum());
                    self.line("_count", point.attributes(), None, &point.count());
                }
            }
            // No instrument of the catalogue is one, and the text format has no word for it.
            MetricData::ExponentialHistogram(_) => {}
        }
    }

    fn line<'k>(
        &mut self,
        suffix: &str,
        attributes: impl Iterator<Item = &'k KeyValue>,
        bound: Option<&str>,
        value: &dyn Display,
    ) {
        let mut labels: Vec<_> = attributes
            .map(|attribute| {
                format!(
                    "{}=\"{}\"",
                    label_name(attribute.key.as_str()),
                    escape(attribute.value.as_str().as_ref(), true)
                )
            })
            .collect();
        labels.sort();
        labels.extend(bound.map(|bound| format!("le=\"{bound}\"")));
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        self.lines.push(format!("{}{suffix}{labels} {value}\n", self.name));
    }

    fn text(self, help: &str) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "# HELP {} {}\n# TYPE {} {}", self.name, escape(help, false), self.name, self.kind);
        text.extend(self.lines);
        text
    }
}

fn label_name(key: &str) -> String {
    key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

fn escape(text: &str, quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::SdkMeterProvider;

    #[test]
    fn the_page_is_what_prometheus_reads() {
        let reader = SharedReader::default();
        let provider = SdkMeterProvider::builder().with_reader(reader.clone()).build();
        let meter = provider.meter("test");
        let counter = meter.u64_counter("backlot_x_total").with_description("Lines\nand \\ more.").build();
        counter.add(3, &[KeyValue::new("door", "a\"b\n"), KeyValue::new("code", 200)]);
        meter.f64_gauge("backlot_g").build().record(1.5, &[]);
        let histogram = meter.f64_histogram("backlot_h_seconds").with_boundaries(vec![0.1, 1.0]).build();
        [0.05, 0.5, 0.6, 7.0].iter().for_each(|value| histogram.record(*value, &[]));
        assert_eq!(
            reader.text(),
            concat!(
                "# HELP backlot_g \n# TYPE backlot_g gauge\nbacklot_g 1.5\n",
                "# HELP backlot_h_seconds \n# TYPE backlot_h_seconds histogram\n",
                "backlot_h_seconds_bucket{le=\"0.1\"} 1\nbacklot_h_seconds_bucket{le=\"1\"} 3\n",
                "backlot_h_seconds_bucket{le=\"+Inf\"} 4\nbacklot_h_seconds_sum 8.15\nbacklot_h_seconds_count 4\n",
                "# HELP backlot_x_total Lines\\nand \\\\ more.\n# TYPE backlot_x_total counter\n",
                "backlot_x_total{code=\"200\",door=\"a\\\"b\\n\"} 3\n",
            )
        );
        provider.shutdown().unwrap();
        assert_eq!(reader.text(), "");
    }
}
