//! Attributes of OTLP as plain JSON values under dotted names, within bounds.

use backlot_windows::{Document, Value as Indexed, clip};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue, KeyValueList};
use opentelemetry_proto::tonic::resource::v1::Resource;
use serde_json::{Map, Number, Value};

/// Most attributes of one record or span; further ones are dropped and counted.
pub const ATTRIBUTES_MAX: usize = 128;
/// Longest name.
const NAME_BYTES_MAX: usize = 256;
/// Longest text of one attribute: a long stack trace fits.
const VALUE_BYTES_MAX: usize = 64 * 1024;
/// All texts of one record's attributes together.
const TOTAL_BYTES_MAX: usize = 256 * 1024;
/// Most elements of an array that are kept.
const ELEMENTS_MAX: usize = 128;
/// Maps within maps become dotted names down to here; what is deeper is left out.
const DEPTH_MAX: usize = 16;
/// Integers from this on are not exact as numbers, so they are found as words too.
const EXACT_MAX: u64 = 1 << 53;

/// Flattened attributes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes {
    pub values: Map<String, Value>,
    /// How many were left out or cut, those that the sender says it dropped included.
    pub dropped: u32,
    bytes: usize,
}

impl Attributes {
    #[must_use]
    pub fn of(attributes: &[KeyValue], dropped_before: u32) -> Self {
        let mut made = Self { dropped: dropped_before, ..Self::default() };
        made.extend("", attributes, DEPTH_MAX);
        made
    }

    /// Those of a resource, if there is one.
    #[must_use]
    pub fn of_resource(resource: Option<&Resource>) -> Self {
        resource.map(|of| Self::of(&of.attributes, of.dropped_attributes_count)).unwrap_or_default()
    }

    /// Adds the entries of a map under `prefix`, which is empty or ends with a dot.
    pub fn extend(&mut self, prefix: &str, attributes: &[KeyValue], depth: usize) {
        for attribute in attributes {
            let name = [prefix, clip(&attribute.key, NAME_BYTES_MAX)].concat();
            match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
                Some(Any::KvlistValue(map)) if depth > 0 && name.len() <= NAME_BYTES_MAX => {
                    self.extend(&format!("{name}."), &map.values, depth - 1);
                }
                Some(value) => self.put(name, value),
                None => self.put(name, &Any::StringValue(String::new())),
            }
        }
    }

    fn put(&mut self, name: String, value: &Any) {
        let has_room = self.values.len() < ATTRIBUTES_MAX || self.values.contains_key(&name);
        if name.len() > NAME_BYTES_MAX || !has_room {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        let value = self.plain(value, DEPTH_MAX);
        self.values.insert(name, value);
    }

    fn plain(&mut self, value: &Any, depth: usize) -> Value {
        match value {
            Any::StringValue(text) => self.text(text),
            Any::BoolValue(value) => Value::Bool(*value),
            Any::IntValue(value) => Value::from(*value),
            Any::DoubleValue(value) => {
                Number::from_f64(*value).map_or_else(|| Value::String(value.to_string()), Value::Number)
            }
            Any::BytesValue(bytes) => {
                let text = STANDARD.encode(&bytes[..bytes.len().min(VALUE_BYTES_MAX)]);
                self.text(&text)
            }
            Any::ArrayValue(array) if depth > 0 => {
                if array.values.len() > ELEMENTS_MAX {
                    self.dropped = self.dropped.saturating_add(1);
                }
                let elements = array.values.iter().take(ELEMENTS_MAX);
                elements.map(|element| self.any(element, depth - 1)).collect()
            }
            Any::KvlistValue(map) if depth > 0 => {
                let entries = map.values.iter().take(ELEMENTS_MAX);
                let entries = entries.map(|entry| {
                    let value = entry.value.as_ref().map_or(Value::Null, |value| self.any(value, depth - 1));
                    (clip(&entry.key, NAME_BYTES_MAX).to_owned(), value)
                });
                Value::Object(entries.collect())
            }
            Any::ArrayValue(_) | Any::KvlistValue(_) | Any::StringValueStrindex(_) => {
                self.dropped = self.dropped.saturating_add(1);
                Value::Null
            }
        }
    }

    fn any(&mut self, value: &AnyValue, depth: usize) -> Value {
        value.value.as_ref().map_or(Value::Null, |value| self.plain(value, depth))
    }

    fn text(&mut self, text: &str) -> Value {
        let room = VALUE_BYTES_MAX.min(TOTAL_BYTES_MAX.saturating_sub(self.bytes));
        let kept = clip(text, room);
        if kept.len() < text.len() {
            self.dropped = self.dropped.saturating_add(1);
        }
        self.bytes += kept.len();
        Value::String(kept.to_owned())
    }

    /// The first of `names` that has a value, as text.
    #[must_use]
    pub fn named(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| text_of(self.values.get(*name)?))
    }
}

/// A value that says something, as text.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Lets `document` be found by all of `values`. A name in `reserved` means something of its own there, so that an
/// attribute of that name is found as `attributes.NAME`.
pub fn index_all(values: &Map<String, Value>, document: &mut Document, reserved: &[&str]) {
    values.iter().for_each(|(name, value)| index_one(name, value, document, reserved));
}

/// As [`index_all`], one value.
pub fn index_one(name: &str, value: &Value, document: &mut Document, reserved: &[&str]) {
    if reserved.contains(&name) {
        index(document, &format!("attributes.{name}"), value);
    } else {
        index(document, name, value);
    }
}

fn index(document: &mut Document, name: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::Bool(value) => document.add(name.to_owned(), Indexed::Text(value.to_string())),
        Value::String(text) => document.add(name.to_owned(), Indexed::Text(text.clone())),
        Value::Number(number) => {
            if let Some(value) = number.as_f64() {
                document.add(name.to_owned(), Indexed::Number(value));
            }
            if number.as_i64().is_some_and(|value| value.unsigned_abs() >= EXACT_MAX) {
                document.add(name.to_owned(), Indexed::Text(number.to_string()));
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| index(document, name, element)),
        Value::Object(entries) => {
            for (key, value) in entries {
                index(document, &format!("{name}.{key}"), value);
            }
        }
    }
}

/// The entries of a JSON object as OTLP has them.
#[must_use]
pub fn pairs(values: Map<String, Value>) -> Vec<KeyValue> {
    pairs_to(values, DEPTH_MAX)
}

fn pairs_to(values: Map<String, Value>, depth: usize) -> Vec<KeyValue> {
    let pair = |(key, value): (String, Value)| KeyValue {
        key,
        value: Some(AnyValue { value: any_of(value, depth) }),
        ..KeyValue::default()
    };
    values.into_iter().filter(|(_, value)| !value.is_null()).map(pair).collect()
}

/// A value of JSON as OTLP has it; what lies deeper than `depth` as text.
fn any_of(value: Value, depth: usize) -> Option<Any> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(value) => Any::BoolValue(value),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Any::IntValue(number),
            None => Any::DoubleValue(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Any::StringValue(text),
        Value::Array(_) | Value::Object(_) if depth == 0 => Any::StringValue(value.to_string()),
        Value::Array(values) => {
            let values = values.into_iter().map(|value| AnyValue { value: any_of(value, depth - 1) }).collect();
            Any::ArrayValue(ArrayValue { values })
        }
        Value::Object(entries) => Any::KvlistValue(KeyValueList { values: pairs_to(entries, depth - 1) }),
    })
}

/// Who and what a record is of, as its sender or the resource's says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    pub service: Option<String>,
    pub host: Option<String>,
    pub job: Option<String>,
    pub attempt: Option<String>,
    pub queue: Option<String>,
}

impl Origin {
    /// The record's own attributes win over those of its resource.
    #[must_use]
    pub fn of(own: &Attributes, resource: &Attributes) -> Self {
        Self::said_by(own).or(&Self::said_by(resource))
    }

    /// What it says under the name of one of its fields.
    #[must_use]
    pub fn said(&self, field: &str) -> Option<&str> {
        let Self { service, host, job, attempt, queue } = self;
        let said = match field {
            "service" => service,
            "host" => host,
            "job" => job,
            "attempt" => attempt,
            "queue" => queue,
            _ => return None,
        };
        said.as_deref()
    }

    /// What is known of it already fills in what it does not say.
    #[must_use]
    pub fn or(self, known: &Self) -> Self {
        let either = |own: Option<String>, known: &Option<String>| own.or_else(|| known.clone());
        Self {
            service: either(self.service, &known.service),
            host: either(self.host, &known.host),
            job: either(self.job, &known.job),
            attempt: either(self.attempt, &known.attempt),
            queue: either(self.queue, &known.queue),
        }
    }

    /// Which of the five an attribute of this name says, and how many names go before it.
    fn place(name: &str) -> Option<(usize, usize)> {
        Some(match name {
            "service.name" => (0, 0),
            "service" => (0, 1),
            "service_name" => (0, 2),
            "app" => (0, 3),
            "host.name" => (1, 0),
            "host.id" => (1, 1),
            "host" => (1, 2),
            "hostname" => (1, 3),
            "host_name" => (1, 4),
            "agent" => (1, 5),
            "job" => (2, 0),
            "job.id" => (2, 1),
            "job_id" => (2, 2),
            "backlot.job" => (2, 3),
            "attempt" => (3, 0),
            "attempt.id" => (3, 1),
            "attempt_id" => (3, 2),
            "job.attempt" => (3, 3),
            "backlot.attempt" => (3, 4),
            "queue" => (4, 0),
            "messaging.destination.name" => (4, 1),
            "backlot.queue" => (4, 2),
            _ => return None,
        })
    }

    #[must_use]
    pub fn said_by(attributes: &Attributes) -> Self {
        if attributes.values.is_empty() {
            return Self::default();
        }
        // A record has a few attributes, and there are many names: so each attribute is asked what it is.
        let mut ranks = [usize::MAX; 5];
        let mut made = Self::default();
        for (name, value) in &attributes.values {
            let Some((at, rank)) = Self::place(name) else { continue };
            if rank < ranks[at]
                && let Some(text) = text_of(value)
            {
                ranks[at] = rank;
                *[&mut made.service, &mut made.host, &mut made.job, &mut made.attempt, &mut made.queue][at] =
                    Some(text);
            }
        }
        made
    }
}

/// An id of OTLP as hex digits; one of a wrong length or of zeroes is none.
#[must_use]
pub fn id(bytes: &[u8], length: usize) -> Option<String> {
    (bytes.len() == length && bytes.iter().any(|byte| *byte != 0)).then(|| hex::encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: Any) -> KeyValue {
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    #[test]
    fn maps_become_dotted_names_and_later_values_win() {
        let gpu = KeyValueList { values: vec![pair("index", Any::IntValue(2))] };
        let attributes = Attributes::of(
            &[
                pair("gpu", Any::KvlistValue(gpu)),
                pair("a", Any::IntValue(1)),
                pair("a", Any::StringValue("one".into())),
                pair("nan", Any::DoubleValue(f64::NAN)),
            ],
            3,
        );
        let expected = serde_json::json!({"gpu.index": 2, "a": "one", "nan": "NaN"});
        assert_eq!((Value::Object(attributes.values), attributes.dropped), (expected, 3));
    }

    #[test]
    fn ten_thousand_attributes_deep_values_and_long_texts_are_bounded() {
        let mut deep = Any::IntValue(1);
        for _ in 0..90 {
            deep = Any::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(deep) }] });
        }
        let mut many = vec![pair("long", Any::StringValue("é".repeat(1 << 20))), pair("deep", deep)];
        many.extend((0..10_000).map(|i| pair(&format!("name.{i}"), Any::StringValue("x".repeat(10_000)))));
        let attributes = Attributes::of(&many, 0);
        assert_eq!(attributes.values.len(), ATTRIBUTES_MAX);
        assert!(attributes.dropped > 9_800);
        assert!(Value::Object(attributes.values).to_string().len() < 300_000);
    }
}
