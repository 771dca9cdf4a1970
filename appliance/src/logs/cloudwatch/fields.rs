//! The fields of a call, checked one by one against the bounds that AWS gives them.

use std::collections::BTreeMap;

use backlot_windows::Position;
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::fault;
use crate::edge::aws::AwsError;

/// Longest name of a group or a stream, and longest filter pattern, in characters (AWS).
const NAME_CHARS_MAX: usize = 512;
const PATTERN_CHARS_MAX: usize = 1024;
/// Most bytes of one event, and of the events of one call (AWS).
pub(super) const MESSAGE_BYTES: usize = 1 << 20;

pub(super) fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, AwsError> {
    let body = if body.is_empty() { b"{}".as_slice() } else { body };
    serde_json::from_slice(body).map_err(fault::malformed)
}

pub(super) fn required<T>(value: Option<T>, name: &str) -> Result<T, AwsError> {
    value.ok_or_else(|| fault::missing(name))
}

/// Name of a group, checked.
pub(super) fn group_name(value: Option<String>, field: &str) -> Result<String, AwsError> {
    let name = required(value, field)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_/#".contains(&byte);
    check_chars(&name, field, 1, NAME_CHARS_MAX)?;
    if !name.bytes().all(plain) {
        let pattern = "Member must satisfy regular expression pattern: [\\.\\-_/#A-Za-z0-9]+";
        return Err(fault::constraint(&name, field, pattern));
    }
    Ok(name)
}

/// Name of a stream, checked.
pub(super) fn stream_name(value: Option<String>, field: &str) -> Result<String, AwsError> {
    let name = required(value, field)?;
    check_chars(&name, field, 1, NAME_CHARS_MAX)?;
    if name.contains([':', '*']) {
        return Err(fault::constraint(&name, field, "Member must satisfy regular expression pattern: [^:*]*"));
    }
    Ok(name)
}

fn check_chars(text: &str, field: &str, least: usize, most: usize) -> Result<(), AwsError> {
    let chars = text.chars().count();
    if chars < least {
        return Err(fault::constraint(
            text,
            field,
            &format!("Member must have length greater than or equal to {least}"),
        ));
    }
    if chars > most {
        return Err(fault::constraint(text, field, &format!("Member must have length less than or equal to {most}")));
    }
    Ok(())
}

/// The group that a name or an ARN (with or without `:*` at its end) names.
pub(super) fn group_of(identifier: &str) -> Result<String, AwsError> {
    let name = match identifier.strip_prefix("arn:") {
        None => identifier,
        Some(_) => {
            let name = identifier.splitn(7, ':').nth(6).filter(|_| identifier.contains(":log-group:"));
            let name = name.ok_or_else(|| fault::invalid(format!("Invalid ARN: {}", shown(identifier))))?;
            name.strip_suffix(":*").unwrap_or(name)
        }
    };
    group_name(Some(name.to_owned()), "logGroupIdentifier")
}

/// One group, by its name or its identifier, but not both.
pub(super) fn one_group(name: Option<String>, identifier: Option<String>) -> Result<String, AwsError> {
    match (name, identifier) {
        (Some(_), Some(_)) => {
            Err(fault::invalid("LogGroup name and LogGroup identifier are mutually exclusive parameters."))
        }
        (Some(name), None) => group_name(Some(name), "logGroupName"),
        (None, Some(identifier)) => group_of(&identifier),
        (None, None) => Err(fault::missing("logGroupName")),
    }
}

pub(super) fn filter_pattern(value: Option<String>, field: &str) -> Result<String, AwsError> {
    let pattern = value.unwrap_or_default();
    check_chars(&pattern, field, 0, PATTERN_CHARS_MAX)?;
    Ok(pattern)
}

/// A number within bounds, or what holds without it.
pub(super) fn bounded(value: Option<i64>, field: &str, max: usize, default: usize) -> Result<usize, AwsError> {
    let Some(value) = value else { return Ok(default) };
    match usize::try_from(value) {
        Ok(0) | Err(_) => {
            Err(fault::constraint(&value.to_string(), field, "Member must have value greater than or equal to 1"))
        }
        Ok(number) if number > max => {
            let constraint = format!("Member must have value less than or equal to {max}");
            Err(fault::constraint(&value.to_string(), field, &constraint))
        }
        Ok(number) => Ok(number),
    }
}

/// Milliseconds since 1970.
pub(super) fn time_ms(value: Option<i64>, field: &str) -> Result<Option<i64>, AwsError> {
    match value {
        Some(ms) if ms < 0 => {
            Err(fault::constraint(&ms.to_string(), field, "Member must have value greater than or equal to 0"))
        }
        value => Ok(value),
    }
}

/// Keys and values of tags, checked.
pub(super) fn tags(value: Option<BTreeMap<String, String>>, field: &str) -> Result<BTreeMap<String, String>, AwsError> {
    let tags = value.unwrap_or_default();
    let plain = |character: char| character.is_alphanumeric() || " _.:/=+-@".contains(character);
    for (key, value) in &tags {
        check_chars(key, field, 1, 128)?;
        check_chars(value, field, 0, 256)?;
        if !key.chars().all(plain) || !value.chars().all(plain) {
            let pattern = "Member must satisfy regular expression pattern: ^([\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]+)$";
            return Err(fault::constraint(key, field, pattern));
        }
        if key.to_ascii_lowercase().starts_with("aws:") {
            return Err(fault::invalid(format!("Tag keys that begin with aws: are reserved: {key}")));
        }
    }
    Ok(tags)
}

/// What comes after it, as a token.
pub(super) fn token(position: Position) -> String {
    format!("{:016x}{:016x}", position.time_ns, position.seq)
}

pub(super) fn position(token: &str) -> Result<Position, AwsError> {
    let invalid = || fault::invalid("The specified nextToken is invalid.");
    if token.len() != 32 || !token.is_ascii() {
        return Err(invalid());
    }
    let (time_ns, seq) = token.split_at(16);
    let number = |text: &str| u64::from_str_radix(text, 16).map_err(|_| invalid());
    Ok(Position { time_ns: number(time_ns)?.cast_signed(), seq: number(seq)? })
}

pub(super) fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_arns_name_groups() {
        let arn = "arn:aws:logs:us-east-1:000000000000:log-group:/studio/render";
        for identifier in ["/studio/render", arn, &format!("{arn}:*")] {
            assert_eq!(group_of(identifier).unwrap(), "/studio/render");
        }
        for wrong in ["arn:aws:sqs:us-east-1:000000000000:queue", "a b", "", "arn:", "arn:aws:logs:r:0:log-group:"] {
            assert!(group_of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_survives_text_and_back() {
        for (time_ns, seq) in [(0, 0), (-1, 1), (i64::MIN, u64::MAX), (1_763_812_800_123_000_000, 42)] {
            let at = Position { time_ns, seq };
            assert_eq!(position(&token(at)).unwrap(), at);
        }
        for wrong in ["", "x", &"g".repeat(32), &"ä".repeat(16)] {
            assert!(position(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bounds_are_those_of_aws() {
        assert_eq!(bounded(None, "limit", 50, 50).unwrap(), 50);
        for wrong in [0, -1, 51, i64::MAX] {
            assert!(bounded(Some(wrong), "limit", 50, 50).is_err(), "{wrong}");
        }
        assert!(group_name(Some("a:b".into()), "logGroupName").is_err());
        assert!(stream_name(Some("2026/11/23/[$LATEST]ab\"c".into()), "logStreamName").is_ok());
        assert!(stream_name(Some("a*".into()), "logStreamName").is_err());
        assert!(stream_name(Some("x".repeat(513)), "logStreamName").is_err());
    }
}
