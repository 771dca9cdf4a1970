//! Message attributes: what SQS takes, and the MD5 sums that SDKs compute again and compare.

use md5::{Digest, Md5};

use super::super::model::{AttributeValue, MessageAttribute};
use super::fault::invalid_parameter;
use crate::edge::aws::AwsError;

/// Most attributes of a message (AWS).
const ATTRIBUTES_MAX: usize = 10;

/// Checks what a sender wrote.
///
/// # Errors
/// `InvalidParameterValue` that names the attribute.
pub(super) fn check(attributes: &[MessageAttribute]) -> Result<(), AwsError> {
    if attributes.len() > ATTRIBUTES_MAX {
        let count = attributes.len();
        return Err(invalid_parameter(format!(
            "Number of message attributes [{count}] exceeds the allowed maximum [{ATTRIBUTES_MAX}]."
        )));
    }
    for attribute in attributes {
        let name: String = attribute.name.chars().take(256).collect();
        let wrong = |problem: &str| Err(invalid_parameter(format!("The message attribute '{name}' {problem}.")));
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if attribute.name.is_empty() || attribute.name.len() > 256 || !attribute.name.bytes().all(plain) {
            return wrong("has a name that is not 1 to 256 letters, digits, '_', '-', '.'");
        }
        if attribute.name.starts_with('.') || attribute.name.ends_with('.') || attribute.name.contains("..") {
            return wrong("has a name that begins or ends with '.', or has two of them in a row");
        }
        let lower = attribute.name.to_ascii_lowercase();
        if lower.starts_with("aws.") || lower.starts_with("amazon.") {
            return wrong("has a reserved prefix");
        }
        if attribute.data_type.len() > 256 {
            return wrong("has a type longer than 256 bytes");
        }
        let base = attribute.data_type.split('.').next().unwrap_or_default();
        match (base, &attribute.value) {
            ("Number", AttributeValue::Text(text)) if text.trim().parse::<f64>().is_err() => {
                return wrong("is a Number and its value is none");
            }
            ("String" | "Number", AttributeValue::Text(_)) | ("Binary", AttributeValue::Binary(_)) => {}
            ("String" | "Number" | "Binary", _) => {
                return wrong("has a value that does not fit its type");
            }
            _ => return wrong("has an invalid type, must use one of String, Number, Binary"),
        }
        if attribute.value.bytes().is_empty() {
            return wrong(&format!("must contain a non-empty value of type '{base}'"));
        }
    }
    Ok(())
}

/// MD5 of a body, as hex.
pub(super) fn md5_of(text: &str) -> String {
    hex::encode(Md5::digest(text.as_bytes()))
}

/// MD5 of attributes as SQS documents it: sorted by name; each part after its length in four bytes, big end first;
/// one byte for text (1) or binary (2). `None` where there are none.
pub(super) fn md5_of_attributes<'a>(attributes: impl Iterator<Item = &'a MessageAttribute>) -> Option<String> {
    let mut sorted: Vec<_> = attributes.collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    let mut md5 = Md5::new();
    let part = |md5: &mut Md5, bytes: &[u8]| {
        md5.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()); // messages end at 1 MiB
        md5.update(bytes);
    };
    for attribute in &sorted {
        part(&mut md5, attribute.name.as_bytes());
        part(&mut md5, attribute.data_type.as_bytes());
        md5.update([if matches!(attribute.value, AttributeValue::Text(_)) { 1 } else { 2 }]);
        part(&mut md5, attribute.value.bytes());
    }
    (!sorted.is_empty()).then(|| hex::encode(md5.finalize()))
}

/// The only message system attribute a sender may set.
pub(super) const TRACE_HEADER: &str = "AWSTraceHeader";

/// MD5 over the system attributes of a send.
pub(super) fn md5_of_trace_header(trace_header: &str) -> Option<String> {
    let attribute = MessageAttribute {
        name: TRACE_HEADER.to_owned(),
        data_type: "String".to_owned(),
        value: AttributeValue::Text(trace_header.to_owned()),
    };
    md5_of_attributes(std::iter::once(&attribute))
}

/// Whether an attribute called `name` was asked for: by its name, by `prefix.*`, or by `All` or `.*`. The dot before the
/// asterisk is no part of the prefix: AWS answers `Hello` to `Hel.*`.
pub(super) fn is_asked_for(name: &str, asked: &[String]) -> bool {
    asked.iter().any(|pattern| match pattern.as_str() {
        "All" | ".*" => true,
        pattern => match pattern.strip_suffix(".*") {
            Some(prefix) => name.starts_with(prefix),
            None => pattern == name,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, data_type: &str, value: &str) -> MessageAttribute {
        MessageAttribute { name: name.into(), data_type: data_type.into(), value: AttributeValue::Text(value.into()) }
    }

    #[test]
    fn the_sum_of_attributes_is_the_one_sdks_compute() {
        // Computed with Python's hashlib from the documented layout.
        let attributes = [text("b", "Number", "7"), text("a", "String", "x")];
        let mut layout = Vec::new();
        for (name, kind, value) in [("a", "String", "x"), ("b", "Number", "7")] {
            layout.extend((name.len() as u32).to_be_bytes());
            layout.extend(name.as_bytes());
            layout.extend((kind.len() as u32).to_be_bytes());
            layout.extend(kind.as_bytes());
            layout.push(1);
            layout.extend((value.len() as u32).to_be_bytes());
            layout.extend(value.as_bytes());
        }
        assert_eq!(md5_of_attributes(attributes.iter()).unwrap(), hex::encode(Md5::digest(layout)));
        assert_eq!(md5_of_attributes([].into_iter()), None);
        assert_eq!(md5_of("hello"), "5d41402abc4b2a76b9719d911017c592");
    }

    #[test]
    fn attributes_that_sqs_refuses_are_refused() {
        for bad in [
            text("", "String", "x"),
            text("AWS.x", "String", "x"),
            text("a b", "String", "x"),
            text(".a", "String", "x"),
            text("a", "Strong", "x"),
            text("a", "String", ""),
            text("a", "Number", "seven"),
            text("a", "Binary", "x"),
        ] {
            assert!(check(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
        assert!(check(&vec![text("a", "String", "x"); 11]).is_err());
        assert!(check(&[text("a", "Number.float", "1e3"), text("shot.take-1", "String.custom", "x")]).is_ok());
    }

    #[test]
    fn names_are_asked_for_by_themselves_by_prefix_or_all() {
        let asked = |pattern: &str| is_asked_for("shot.take", &[pattern.to_owned()]);
        assert!(asked("All") && asked(".*") && asked("shot.*") && asked("sho.*") && asked("shot.take"));
        assert!(!asked("hot.*") && !asked("take") && !asked("shot"));
    }
}
