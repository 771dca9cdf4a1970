//! Texts of labels and annotations: a bounded part of Go's templates.
//!
//! Known: `{{ $value }}`, `{{ $labels.name }}` (also `.Value`, `.Labels.name`), and behind pipes or in front: `humanize`, `humanize1024`,
//! `humanizeDuration`, `humanizePercentage`, `humanizeTimestamp`, `toUpper`, `toLower`, `title`, `printf "%.2f"`. No loops, no
//! conditions, no queries: what is not known is refused when the rules are read, not when an alert fires.

use std::collections::BTreeMap;

use time::OffsetDateTime;

/// Longest text that comes out, in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// What is wrong with a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("template `{{{{{expression}}}}}`: {problem}")]
pub struct TemplateError {
    expression: String,
    problem: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Expression { source: Source, functions: Vec<Function> },
}

#[derive(Clone, Debug, PartialEq)]
enum Source {
    Value,
    Label(String),
}

#[derive(Clone, Debug, PartialEq)]
enum Function {
    Humanize,
    Humanize1024,
    HumanizeDuration,
    HumanizePercentage,
    HumanizeTimestamp,
    ToUpper,
    ToLower,
    Title,
    /// `%.Nf`, with what stands around it.
    Printf {
        before: String,
        digits: usize,
        after: String,
    },
}

/// A text with places for a value and labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    source: String,
    parts: Vec<Part>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`] quotes the expression that is not known.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let Some((inside, behind)) = after.split_once("}}") else {
                return Err(TemplateError { expression: after.chars().take(40).collect(), problem: "is never closed" });
            };
            parts.push(Part::Text(before.to_owned()));
            parts.push(expression(inside)?);
            rest = behind;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self { source: text.to_owned(), parts })
    }

    /// What it was read from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text for one alert; bounded in length.
    #[must_use]
    pub fn render(&self, value: f64, labels: &BTreeMap<String, String>) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Expression { source, functions } => {
                    let mut text = match source {
                        Source::Value => go_general(value),
                        Source::Label(name) => labels.get(name).cloned().unwrap_or_default(),
                    };
                    for function in functions {
                        text = function.apply(&text);
                    }
                    out.push_str(&text);
                }
            }
        }
        if out.len() > TEXT_BYTES_MAX {
            let end = (0..=TEXT_BYTES_MAX).rev().find(|&at| out.is_char_boundary(at)).unwrap_or(0);
            out.truncate(end);
        }
        out
    }
}

fn expression(inside: &str) -> Result<Part, TemplateError> {
    let refuse = |problem| TemplateError { expression: inside.to_owned(), problem };
    let trimmed = inside.trim_start_matches('-').trim_end_matches('-').trim();
    let mut stages = pipes(trimmed).into_iter();
    let first = stages.next().unwrap_or_default();
    let words = words(first).ok_or_else(|| refuse("has an unfinished text"))?;
    let mut functions = Vec::new();
    let source = match words.as_slice() {
        [one] => source(one),
        [called @ .., argument] => {
            functions.push(function(called).ok_or_else(|| refuse("is no function that is known here"))?);
            source(argument)
        }
        [] => None,
    };
    let source = source.ok_or_else(|| refuse("is neither $value nor $labels.name"))?;
    for stage in stages {
        let words = self::words(stage).ok_or_else(|| refuse("has an unfinished text"))?;
        functions.push(function(&words).ok_or_else(|| refuse("is no function that is known here"))?);
    }
    Ok(Part::Expression { source, functions })
}

/// Splits at `|` outside of texts.
fn pipes(text: &str) -> Vec<&str> {
    let (mut parts, mut from, mut quoted) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '|' if !quoted => {
                parts.push(text[from..at].trim());
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[from..].trim());
    parts
}

fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut rest) = (Vec::new(), text.trim());
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix('"') {
            let (word, after) = inside.split_once('"')?;
            words.push(format!("\"{word}"));
            rest = after.trim_start();
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            words.push(rest[..end].to_owned());
            rest = rest[end..].trim_start();
        }
    }
    Some(words)
}

fn source(word: &str) -> Option<Source> {
    if matches!(word, "$value" | ".Value") {
        return Some(Source::Value);
    }
    let name = word.strip_prefix("$labels.").or_else(|| word.strip_prefix(".Labels."))?;
    let valid = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    valid.then(|| Source::Label(name.to_owned()))
}

fn function(words: &[String]) -> Option<Function> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Some(match words.as_slice() {
        ["humanize"] => Function::Humanize,
        ["humanize1024"] => Function::Humanize1024,
        ["humanizeDuration"] => Function::HumanizeDuration,
        ["humanizePercentage"] => Function::HumanizePercentage,
        ["humanizeTimestamp"] => Function::HumanizeTimestamp,
        ["toUpper"] => Function::ToUpper,
        ["toLower"] => Function::ToLower,
        ["title"] => Function::Title,
        ["printf", format] => {
            let (before, after) = format.strip_prefix('"')?.split_once("%.")?;
            let digits = after.bytes().take_while(u8::is_ascii_digit).count();
            let after_digits = after[digits..].strip_prefix('f')?;
            let digits: usize = after[..digits].parse().ok().filter(|digits| *digits <= 20)?;
            if before.contains('%') || after_digits.contains('%') {
                return None;
            }
            Function::Printf { before: before.to_owned(), digits, after: after_digits.to_owned() }
        }
        _ => return None,
    })
}

impl Function {
    /// What is no number stays as it is where a number is needed.
    fn apply(&self, text: &str) -> String {
        let number = |f: &dyn Fn(f64) -> String| text.parse::<f64>().map_or_else(|_| text.to_owned(), f);
        match self {
            Self::Humanize => number(&|value| scaled(value, 1000.0, &["", "k", "M", "G", "T", "P", "E", "Z", "Y"])),
            Self::Humanize1024 => {
                number(&|value| scaled(value, 1024.0, &["", "ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"]))
            }
            Self::HumanizeDuration => number(&duration),
            Self::HumanizePercentage => number(&|value| format!("{}%", significant(value * 100.0))),
            Self::HumanizeTimestamp => number(&|value| moment(value)),
            Self::ToUpper => text.to_uppercase(),
            Self::ToLower => text.to_lowercase(),
            Self::Title => {
                let mut chars = text.chars();
                chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
            }
            Self::Printf { before, digits, after } => number(&|value| format!("{before}{value:.digits$}{after}")),
        }
    }
}

/// A float as Go prints it by default: an exponent for what is very large or very small.
fn go_general(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".into() } else { "-Inf".into() };
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e21).contains(&size) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    value.to_string()
}

/// Four significant digits, as Go's `%.4g` gives them.
fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return go_general(value);
    }
    let exponent =
        format!("{value:.3e}").split_once('e').and_then(|(_, exponent)| exponent.parse::<i32>().ok()).unwrap_or(0);
    if !(-4..4).contains(&exponent) {
        let text = format!("{value:.3e}");
        let (mantissa, _) = text.split_once('e').unwrap_or((&text, ""));
        let mantissa =
            if mantissa.contains('.') { mantissa.trim_end_matches('0').trim_end_matches('.') } else { mantissa };
        return format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    let digits = usize::try_from(3 - exponent).unwrap_or(0);
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn scaled(value: f64, base: f64, larger: &[&str]) -> String {
    if value == 0.0 || !value.is_finite() {
        return significant(value);
    }
    let mut scaled = value;
    if value.abs() >= 1.0 || base != 1000.0 {
        let mut unit = 0;
        while scaled.abs() >= base && unit + 1 < larger.len() {
            scaled /= base;
            unit += 1;
        }
        return format!("{}{}", significant(scaled), larger[unit]);
    }
    let smaller = ["", "m", "u", "n", "p", "f", "a", "z", "y"];
    let mut unit = 0;
    while scaled.abs() < 1.0 && unit + 1 < smaller.len() {
        scaled *= base;
        unit += 1;
    }
    format!("{}{}", significant(scaled), smaller[unit])
}

fn duration(seconds: f64) -> String {
    if !seconds.is_finite() {
        return go_general(seconds);
    }
    if seconds.abs() < 1.0 {
        return format!("{}s", scaled(seconds, 1000.0, &[""]));
    }
    let sign = if seconds < 0.0 { "-" } else { "" };
    let size = seconds.abs();
    if size < 60.0 {
        return format!("{sign}{}s", significant(size));
    }
    let whole = size as u64;
    let (days, hours, minutes, rest) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    if days > 0 {
        return format!("{sign}{days}d {hours}h {minutes}m {rest}s");
    }
    if hours > 0 { format!("{sign}{hours}h {minutes}m {rest}s") } else { format!("{sign}{minutes}m {rest}s") }
}

fn moment(seconds: f64) -> String {
    if !seconds.is_finite() {
        return go_general(seconds);
    }
    OffsetDateTime::from_unix_timestamp_nanos((seconds * 1e9) as i128).map_or_else(
        |_| go_general(seconds),
        |moment| {
            let (year, month, day) = moment.to_calendar_date();
            let (hour, minute, second) = moment.to_hms();
            format!("{year:04}-{:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC", u8::from(month))
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str, value: f64) -> String {
        let labels = BTreeMap::from([("queue".to_owned(), "jobs-dlq".to_owned())]);
        Template::parse(text).unwrap().render(value, &labels)
    }

    #[test]
    fn values_and_labels_are_put_in_and_made_readable() {
        for (text, value, expected) in [
            ("{{ $value }} in {{ $labels.queue }}{{$labels.none}}", 3.0, "3 in jobs-dlq"),
            ("{{ .Labels.queue | toUpper }} {{ .Value }}", 0.00001, "JOBS-DLQ 1e-05"),
            ("{{ $value | humanize }}", 1_234_567.0, "1.235M"),
            ("{{ humanize $value }}", 0.0123, "12.3m"),
            ("{{ $value | humanize1024 }}B", 1_048_576.0, "1MiB"),
            ("{{ $value | humanizeDuration }}", 93_784.0, "1d 2h 3m 4s"),
            ("{{ $value | humanizeDuration }}", 125.0, "2m 5s"),
            ("{{ $value | humanizeDuration }}", 0.25, "250ms"),
            ("{{ $value | humanizePercentage }}", 0.12345, "12.35%"),
            ("{{ $value | humanizeTimestamp }}", 1_700_000_000.0, "2023-11-14 22:13:20 UTC"),
            ("{{ $value | printf \"%.1f s\" }}", 2.25, "2.2 s"),
            ("{{ printf \"%.0f\" $value }}%", 41.7, "42%"),
            ("no template } at { all", 1.0, "no template } at { all"),
        ] {
            assert_eq!(render(text, value), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_known_is_refused_before_any_alert_fires() {
        for text in [
            "{{ $valu }}",
            "{{ query \"up\" }}",
            "{{ if $value }}",
            "{{ $value",
            "{{ }}",
            "{{ $value | printf \"%s\" }}",
            "{{ $value | }}",
        ] {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_text_is_bounded() {
        let labels = BTreeMap::from([("queue".to_owned(), "ö".repeat(5000))]);
        let text = Template::parse("x{{ $labels.queue }}").unwrap().render(1.0, &labels);
        assert!(text.len() <= TEXT_BYTES_MAX && text.ends_with('ö'));
    }
}
