//! The appliance's own signals: instruments of the metric catalogue.

use backlot_wire::metrics::Metric;
use opentelemetry::metrics::{Counter, Gauge, Histogram};

/// The counter of `metric`. The meter must have been installed before the first call.
#[must_use]
pub fn counter(metric: &Metric) -> Counter<u64> {
    opentelemetry::global::meter("backlot")
        .u64_counter(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .build()
}

/// The gauge of `metric`.
#[must_use]
pub fn gauge(metric: &Metric) -> Gauge<f64> {
    opentelemetry::global::meter("backlot")
        .f64_gauge(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .build()
}

/// The histogram of `metric`, with its buckets.
#[must_use]
pub fn histogram(metric: &Metric) -> Histogram<f64> {
    let meter = opentelemetry::global::meter("backlot");
    let builder = meter.f64_histogram(metric.name).with_unit(metric.unit).with_description(metric.help);
    match metric.kind {
        backlot_wire::metrics::Kind::Histogram(bounds) => builder.with_boundaries(bounds.to_vec()).build(),
        _ => builder.build(),
    }
}
