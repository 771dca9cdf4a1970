//! The parsers of lines: JSON, logfmt, regular expressions.

use std::collections::BTreeMap;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{JsonPath, Kind, Line, sanitize};

/// Deepest nesting that is taken apart.
const DEPTH_MAX: usize = 16;
/// Most memory of a compiled expression.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Longest expression.
const REGEX_TEXT_MAX: usize = 1024;

/// Adds the leaves of a JSON object under their names, joined with `_`.
///
/// A record whose sender wrote JSON was taken apart when it arrived: its line is the message, its fields are the record's own labels. So
/// where the line is no JSON and the record has labels of its own, those are what the parser gives.
pub(super) fn json(fields: &[(String, JsonPath)], line: &mut Line) {
    let document = match serde_json::from_str::<Value>(&line.text) {
        Ok(document) if document.is_object() => document,
        other => {
            if line.labels.has_metadata() {
                taken_apart_before(fields, line);
            } else {
                let details =
                    other.err().map_or_else(|| "the line is no JSON object".to_owned(), |error| error.to_string());
                line.labels.fail("JSONParserErr", &details);
            }
            return;
        }
    };
    if fields.is_empty() {
        flatten(&document, "", DEPTH_MAX, line);
    }
    for (label, path) in fields {
        let value = path.find(&document).map(text_of).unwrap_or_default();
        line.labels.extract(label, &value);
    }
}

fn taken_apart_before(fields: &[(String, JsonPath)], line: &mut Line) {
    if fields.is_empty() {
        line.labels.extract_metadata();
    }
    for (label, path) in fields {
        let value = line.labels.get(&path.flat_name()).unwrap_or_default().to_owned();
        line.labels.extract(label, &value);
    }
}

fn flatten(value: &Value, prefix: &str, depth: usize, line: &mut Line) {
    let Value::Object(entries) = value else { return };
    for (key, value) in entries {
        let name = if prefix.is_empty() { sanitize(key) } else { format!("{prefix}_{}", inner(key)) };
        match value {
            Value::Object(_) if depth > 0 => flatten(value, &name, depth - 1, line),
            Value::Object(_) | Value::Array(_) | Value::Null => {}
            leaf => line.labels.extract(&name, &text_of(leaf)),
        }
    }
}

/// A part of a name that is not its beginning.
fn inner(key: &str) -> String {
    sanitize(key)
        .strip_prefix('_')
        .filter(|_| key.starts_with(|c: char| c.is_ascii_digit()))
        .map_or_else(|| sanitize(key), str::to_owned)
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Adds `key=value` pairs.
pub(super) fn logfmt(strict: bool, keep_empty: bool, fields: &[(String, String)], line: &mut Line) {
    let text = line.text.clone();
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c == '"' || c.is_whitespace()).unwrap_or(rest.len());
        let key = &rest[..end];
        let after = &rest[end..];
        let (value, next) = match after.strip_prefix('=') {
            Some(after) if after.starts_with('"') => match quoted(after) {
                Some((value, length)) => (value, &after[length..]),
                None if strict => return failed(line, "unterminated quoted value"),
                None => break,
            },
            Some(after) => {
                let end = after.find(char::is_whitespace).unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            }
            None if after.starts_with('"') => {
                if strict {
                    return failed(line, "unexpected '\"'");
                }
                (String::new(), &after[1..])
            }
            None => (String::new(), after),
        };
        if key.is_empty() && strict && rest.starts_with('=') {
            return failed(line, "unexpected '='");
        }
        if !key.is_empty() && (keep_empty || !value.is_empty()) {
            found.push((key, value));
        }
        rest = next.trim_start();
    }
    if fields.is_empty() {
        for (key, value) in found {
            line.labels.extract(&sanitize(key), &value);
        }
        return;
    }
    let found: BTreeMap<_, _> = found.into_iter().collect();
    for (label, key) in fields {
        line.labels.extract(label, found.get(key.as_str()).map_or("", String::as_str));
    }
}

fn failed(line: &mut Line, details: &str) {
    line.labels.fail("LogfmtParserErr", &format!("logfmt syntax error: {details}"));
}

/// A value in quotation marks, and how many bytes it has with them.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut made = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => {
                made.push(match c {
                    'n' => '\n',
                    't' => '\t',
                    'r' => '\r',
                    other => other,
                });
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((made, at + 1)),
            c => made.push(c),
        }
    }
    None
}

/// Compiles the expression of `| regexp`, which must name something.
///
/// # Errors
/// A sentence that says what is wrong.
pub(in crate::logs::loki) fn named_groups(text: &str) -> Result<Regex, String> {
    if text.len() > REGEX_TEXT_MAX {
        return Err(format!("a regular expression has at most {REGEX_TEXT_MAX} bytes"));
    }
    let regex = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).build();
    let regex = regex.map_err(|error| {
        let message = error.to_string();
        format!("error parsing regexp: {}", message.lines().last().unwrap_or_default().trim_start_matches("error: "))
    })?;
    if regex.capture_names().flatten().next().is_none() {
        return Err("at least one named capture must be supplied".to_owned());
    }
    Ok(regex)
}

pub(super) fn regexp(regex: &Regex, line: &mut Line) {
    let text = line.text.clone();
    let Some(captures) = regex.captures(&text) else { return };
    for name in regex.capture_names().flatten() {
        if let Some(value) = captures.name(name) {
            line.labels.extract(&sanitize(name), value.as_str());
        }
    }
}

/// Takes what Promtail's `pack` has put together apart again: labels, and the line as `_entry`.
pub(super) fn unpack(line: &mut Line) {
    let Ok(Value::Object(entries)) = serde_json::from_str::<Value>(&line.text) else {
        line.labels.fail("JSONParserErr", "the line is no JSON object");
        return;
    };
    for (key, value) in &entries {
        if let Value::String(text) = value {
            if key == "_entry" {
                line.text = text.as_str().into();
            } else {
                line.labels.set(Kind::Parsed, &sanitize(key), text.as_str().into());
            }
        }
    }
}
