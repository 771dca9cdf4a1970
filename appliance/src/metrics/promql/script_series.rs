//! How Prometheus's test scripts write series: `name{label="x"} 1 2+3x4 _ stale`.

use crate::metrics::model::{Labels, METRIC_NAME, stale_marker};

/// Reads `name{labels} values`. Values are `None` where there is a gap. An error where the line needs native histograms.
pub(super) fn line(text: &str) -> Result<(Labels, Vec<Option<f64>>), String> {
    let (labels, rest) = labels(text.trim())?;
    Ok((labels, values(rest)?))
}

/// Reads labels from the front of `text` and gives the rest.
pub(super) fn labels(text: &str) -> Result<(Labels, &str), String> {
    let name_bytes = text.find(|c: char| c == '{' || c.is_whitespace()).unwrap_or(text.len());
    let (name, mut rest) = text.split_at(name_bytes);
    let mut pairs = vec![(METRIC_NAME.to_owned(), name.to_owned())];
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside.trim_start();
        while !rest.starts_with('}') {
            let (key, after) = quoted_or_word(rest)?;
            let after = after.trim_start();
            if let Some(value) = after.strip_prefix('=') {
                let (value, after) = quoted_or_word(value.trim_start())?;
                pairs.push((key, value));
                rest = after.trim_start();
            } else {
                pairs.push((METRIC_NAME.to_owned(), key));
                rest = after;
            }
            rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
            if rest.is_empty() {
                return Err(format!("unfinished labels: {text}"));
            }
        }
        rest = &rest[1..];
    }
    let pairs: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    Ok((Labels::from_texts(&pairs), rest))
}

fn quoted_or_word(text: &str) -> Result<(String, &str), String> {
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'' | '`')) else {
        let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
        return Ok((text[..end].to_owned(), &text[end..]));
    };
    let mut out = String::new();
    let mut chars = text[1..].char_indices();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok((out, &text[1 + at + c.len_utf8()..]));
        }
        if c == '\\' && quote != '`' {
            match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some(c @ ('"' | '\'' | '\\')) => out.push(c),
                _ => return Err(format!("escape in {text}")),
            }
        } else {
            out.push(c);
        }
    }
    Err(format!("unfinished text: {text}"))
}

/// `1`, `_`, `stale`, `1x3` (1, 1, 1, 1), `1+2x3` (1, 3, 5, 7), `_x3`.
pub(super) fn values(text: &str) -> Result<Vec<Option<f64>>, String> {
    if text.contains("{{") {
        return Err("native histogram".into());
    }
    let mut out = Vec::new();
    for word in text.split_whitespace() {
        let (body, times) = match word.rsplit_once('x') {
            Some((body, times)) => (body, times.parse::<usize>().map_err(|_| format!("times in {word}"))?),
            None => (word, 0),
        };
        if body == "_" {
            out.extend(std::iter::repeat_n(None, times.max(1)));
            continue;
        }
        if body == "stale" {
            out.push(Some(stale_marker()));
            continue;
        }
        let step_at = body
            .char_indices()
            .skip(1)
            .find(|&(at, c)| matches!(c, '+' | '-') && !matches!(body.as_bytes()[at - 1], b'e' | b'E'));
        let (start, step) = match step_at {
            Some((at, _)) => (number(&body[..at])?, number(&body[at..])?),
            None => (number(body)?, 0.0),
        };
        let mut value = start;
        for _ in 0..=times {
            out.push(Some(value));
            value += step;
        }
    }
    Ok(out)
}

pub(super) fn number(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}
