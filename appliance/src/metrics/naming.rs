//! Names: how OpenTelemetry's become Prometheus's (underscores, units spelt out, `_total`, `_ratio`).
//!
//! The rules are those of the OpenTelemetry specification's "Prometheus compatibility" with suffixes on, as Prometheus's own OTLP
//! receiver has them by default. A name that carries its unit already does not get it twice.

use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};

/// Deepest nesting of an attribute that is written out.
const VALUE_DEPTH_MAX: usize = 8;
/// UCUM to words.
const UNITS: &[(&str, &str)] = &[
    ("d", "days"),
    ("h", "hours"),
    ("min", "minutes"),
    ("s", "seconds"),
    ("ms", "milliseconds"),
    ("us", "microseconds"),
    ("ns", "nanoseconds"),
    ("By", "bytes"),
    ("KiBy", "kibibytes"),
    ("MiBy", "mebibytes"),
    ("GiBy", "gibibytes"),
    ("TiBy", "tibibytes"),
    ("KBy", "kilobytes"),
    ("MBy", "megabytes"),
    ("GBy", "gigabytes"),
    ("TBy", "terabytes"),
    ("m", "meters"),
    ("V", "volts"),
    ("A", "amperes"),
    ("J", "joules"),
    ("W", "watts"),
    ("g", "grams"),
    ("Cel", "celsius"),
    ("Hz", "hertz"),
    ("1", ""),
    ("%", "percent"),
];

/// The same behind a slash.
const PER: &[(&str, &str)] =
    &[("s", "second"), ("m", "minute"), ("h", "hour"), ("d", "day"), ("w", "week"), ("mo", "month"), ("y", "year")];

/// What a metric is, as far as its name shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Counter,
    Gauge,
    Other,
}

/// A metric's name in Prometheus.
pub(super) fn metric(name: &str, unit: &str, shape: Shape) -> String {
    let mut words: Vec<String> = split(name);
    let (whole, per) = match unit.split_once('/') {
        Some((whole, per)) => (whole, Some(per)),
        None => (unit, None),
    };
    let word = |unit: &str, table: &[(&str, &str)]| -> Option<String> {
        let unit = unit.trim();
        if unit.is_empty() || unit.contains(['{', '}']) {
            return None; // an annotation, not a unit
        }
        let known = table.iter().find(|(short, _)| *short == unit).map_or(unit, |(_, long)| long);
        let word = split(known).join("_");
        (!word.is_empty()).then_some(word)
    };
    let ratio = shape == Shape::Gauge && unit.trim() == "1";
    if shape == Shape::Counter {
        words.retain(|word| word != "total");
    }
    if ratio {
        words.retain(|word| word != "ratio");
    }
    let mut append = |word: String| {
        if !words.contains(&word) {
            words.push(word);
        }
    };
    if let Some(word) = word(whole, UNITS) {
        append(word);
    }
    if let Some(per) = per.and_then(|per| word(per, PER))
        && !words.ends_with(&["per".to_owned(), per.clone()])
    {
        words.extend(["per".to_owned(), per]);
    }
    if shape == Shape::Counter {
        words.push("total".into());
    }
    if ratio {
        words.push("ratio".into());
    }
    let joined = words.join("_");
    if joined.starts_with(|c: char| c.is_ascii_digit()) { format!("_{joined}") } else { joined }
}

fn split(name: &str) -> Vec<String> {
    let words = name.split(|c: char| !(c.is_ascii_alphanumeric() || c == ':'));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// A label's name in Prometheus.
pub(super) fn label(name: &str) -> String {
    let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    let reserved = clean.starts_with('_') && !clean.starts_with("__");
    if clean.starts_with(|c: char| c.is_ascii_digit()) {
        format!("key_{clean}")
    } else if reserved {
        format!("key{clean}")
    } else {
        clean
    }
}

/// An attribute's value as a label has it.
pub(super) fn value_text(attribute: &KeyValue) -> String {
    attribute.value.as_ref().map_or_else(String::new, |value| any_text(value, VALUE_DEPTH_MAX))
}

fn any_text(value: &AnyValue, depth_left: usize) -> String {
    let Some(value) = &value.value else { return String::new() };
    match value {
        any_value::Value::StringValue(text) => text.clone(),
        any_value::Value::BoolValue(flag) => flag.to_string(),
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::DoubleValue(number) => number.to_string(),
        other => json(other, depth_left).to_string(),
    }
}

fn json(value: &any_value::Value, depth_left: usize) -> serde_json::Value {
    use base64::Engine as _;
    let inner = |value: &AnyValue| match (&value.value, depth_left) {
        (None, _) | (_, 0) => serde_json::Value::Null,
        (Some(value), _) => json(value, depth_left - 1),
    };
    match value {
        any_value::Value::StringValue(text) => text.as_str().into(),
        any_value::Value::BoolValue(flag) => (*flag).into(),
        any_value::Value::IntValue(number) => (*number).into(),
        any_value::Value::DoubleValue(number) => (*number).into(),
        any_value::Value::BytesValue(bytes) => base64::engine::general_purpose::STANDARD.encode(bytes).into(),
        any_value::Value::ArrayValue(array) => array.values.iter().map(inner).collect(),
        any_value::Value::KvlistValue(list) => list
            .values
            .iter()
            .map(|pair| (pair.key.clone(), pair.value.as_ref().map_or(serde_json::Value::Null, inner)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        _ => serde_json::Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use backlot_wire::metrics::{ALL, Kind};

    use super::*;

    #[test]
    fn names_get_their_unit_and_kind_once() {
        for (name, unit, shape, expected) in [
            ("http.server.request.duration", "s", Shape::Other, "http_server_request_duration_seconds"),
            ("http.requests", "{request}", Shape::Counter, "http_requests_total"),
            ("http.requests_total", "1", Shape::Counter, "http_requests_total"),
            ("system.memory.usage", "By", Shape::Gauge, "system_memory_usage_bytes"),
            ("system.memory.bytes.used", "By", Shape::Gauge, "system_memory_bytes_used"),
            ("cpu.utilization", "1", Shape::Gauge, "cpu_utilization_ratio"),
            ("io.speed", "By/s", Shape::Gauge, "io_speed_bytes_per_second"),
            ("km", "m/h", Shape::Gauge, "km_meters_per_hour"),
            ("2nd..try", "", Shape::Gauge, "_2nd_try"),
            ("weird", "fur longs", Shape::Gauge, "weird_fur_longs"),
        ] {
            assert_eq!(metric(name, unit, shape), expected);
        }
        assert_eq!(label("http.status-code"), "http_status_code");
        assert_eq!(label("0day"), "key_0day");
        assert_eq!(label("_hidden"), "key_hidden");
        assert_eq!(label("__name__"), "__name__");
    }

    #[test]
    fn the_names_of_our_own_catalogue_stay_as_they_are() {
        for declared in ALL {
            let shape = match declared.kind {
                Kind::Counter => Shape::Counter,
                Kind::Gauge => Shape::Gauge,
                Kind::Histogram(_) => Shape::Other,
            };
            assert_eq!(metric(declared.name, declared.unit, shape), declared.name);
        }
    }
}
