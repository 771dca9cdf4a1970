//! Filter patterns: which events `FilterLogEvents` and a live tail are asked for. Pure: a pattern is read once and then says
//! of each line whether it is meant.
//!
//! | written | meant |
//! | --- | --- |
//! | `a "b c"` | both stand in the line, letter for letter |
//! | `?a ?b` | one of them does |
//! | `a -b` | `a` and not `b` |
//! | `%a.b%` | the regular expression matches somewhere |
//! | `[ip, user, status = 4*, ...]` | words of the line, and what they are like |
//! | `{ $.level = "error" && $.took > 3 }` | values of the JSON object that the line is |
//!
//! Where it is friendlier than Amazon's: regular expressions may have groups, and unquoted terms any sign.

mod compare;
mod delimited;
mod json;
mod scan;
mod select;

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use self::delimited::Delimited;
use self::json::Condition;
use self::scan::Scanner;

/// Most bytes that a regular expression compiles to.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Most regular expressions of one pattern (AWS).
const REGEXES_MAX: usize = 2;
/// How deep conditions may be nested.
const DEPTH_MAX: usize = 32;

/// A pattern that was read.
#[derive(Clone, Debug)]
pub(super) struct Pattern(Kind);

#[derive(Clone, Debug)]
enum Kind {
    All,
    Terms(Terms),
    Delimited(Delimited),
    Json(Condition),
}

#[derive(Clone, Debug, Default)]
struct Terms {
    required: Vec<Term>,
    /// One of them must be there, where nothing is required or excluded.
    optional: Vec<Term>,
    excluded: Vec<Term>,
}

#[derive(Clone, Debug)]
enum Term {
    Text(String),
    Regex(Regex),
}

impl Term {
    fn is_in(&self, message: &str) -> bool {
        match self {
            Self::Text(text) => message.contains(text.as_str()),
            Self::Regex(regex) => regex.is_match(message),
        }
    }
}

impl Pattern {
    /// # Errors
    /// A sentence that says what is wrong.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let trimmed = text.trim();
        let kind = if trimmed.is_empty() {
            Kind::All
        } else if trimmed.starts_with('{') {
            Kind::Json(json::parse(trimmed)?)
        } else if trimmed.starts_with('[') {
            Kind::Delimited(delimited::parse(trimmed)?)
        } else {
            Kind::Terms(terms(trimmed)?)
        };
        Ok(Self(kind))
    }

    /// Whether a line is meant. `fields` gives the values that stand in it under names, and is asked only where that matters.
    pub(super) fn matches(&self, message: &str, fields: impl FnOnce() -> Value) -> bool {
        match &self.0 {
            Kind::All => true,
            Kind::Terms(terms) => terms.matches(message),
            Kind::Delimited(delimited) => delimited.matches(message),
            Kind::Json(condition) => condition.holds(&fields()),
        }
    }

    pub(super) fn is_all(&self) -> bool {
        matches!(self.0, Kind::All)
    }

    /// Texts that every line that is meant has in it.
    pub(super) fn required(&self) -> Vec<&str> {
        let Kind::Terms(terms) = &self.0 else { return Vec::new() };
        let texts = terms.required.iter().filter_map(|term| match term {
            Term::Text(text) => Some(text.as_str()),
            Term::Regex(_) => None,
        });
        texts.collect()
    }
}

impl Terms {
    fn matches(&self, message: &str) -> bool {
        let is_in = |term: &Term| term.is_in(message);
        if self.required.is_empty() && self.excluded.is_empty() {
            return self.optional.iter().any(is_in);
        }
        // Amazon says that optional terms have no effect beside others.
        self.required.iter().all(is_in) && !self.excluded.iter().any(is_in)
    }
}

fn terms(text: &str) -> Result<Terms, String> {
    let (mut terms, mut scanner) = (Terms::default(), Scanner::new(text));
    let mut regexes = 0;
    loop {
        scanner.skip_spaces();
        let Some(first) = scanner.peek() else { return Ok(terms) };
        let list = match first {
            '?' => &mut terms.optional,
            '-' => &mut terms.excluded,
            _ => &mut terms.required,
        };
        if matches!(first, '?' | '-') {
            scanner.next();
        }
        let term = match scanner.peek() {
            Some('"') => Term::Text(scanner.quoted()?),
            Some('%') => Term::Regex(regex(&scanner.regex()?, &mut regexes)?),
            _ => Term::Text(scanner.bare(|sign| sign.is_whitespace() || sign == '"').to_owned()),
        };
        if matches!(&term, Term::Text(text) if text.is_empty()) {
            return Err(format!("Invalid filter pattern: a term is empty after '{first}'"));
        }
        list.push(term);
    }
}

/// Compiles a regular expression, one of few.
fn regex(text: &str, regexes: &mut usize) -> Result<Regex, String> {
    *regexes += 1;
    if *regexes > REGEXES_MAX {
        return Err(format!("Invalid filter pattern: it has more than {REGEXES_MAX} regular expressions"));
    }
    let built = RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).dfa_size_limit(REGEX_BYTES_MAX).build();
    built.map_err(|_| format!("Invalid filter pattern: %{text}% is no regular expression, or too large a one"))
}

/// Reads `text` as a pattern, puts it to a line, and throws the outcome away: for fuzzing.
pub fn fuzz_filter(text: &str, line: &str) {
    if let Ok(pattern) = Pattern::parse(text) {
        pattern.matches(line, || super::event::object_of(line).map_or(Value::Null, Value::Object));
    }
}

#[cfg(test)]
mod tests;
