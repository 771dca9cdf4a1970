//! The query language for people: Lucene's style, as Kibana and Quickwit write it.
//!
//! ```text
//! level:error service:agent "out of memory" gpu.index:[1 TO 3] -host:gpu-7 job:(a OR b*)
//! ```
//!
//! Words side by side must all be there. `AND OR NOT` (also `&& || !`, and `+ -` in front), parentheses, `name:value`,
//! `name:"phrase"`, `name:begin*`, `name:*` (there is a value), `name:[a TO b]`, `name:{a TO b}`, `name:>5`. A bare word is
//! looked for in the body. A backslash takes the next character as it is.
//!
//! What is absent on purpose, and answered with an error that points at it: `?` and `*` within a word, `~`, `^`, regular
//! expressions.

use std::ops::Bound;

use backlot_windows::{Query, word_key, words};

use super::model::severity_named;
use super::schema::{BODY, KEYWORDS, RESERVED, SEVERITY};

/// Longest query.
const BYTES_MAX: usize = 4096;
/// Deepest nesting of parentheses and NOT.
const DEPTH_MAX: usize = 32;
/// Most terms.
const TERMS_MAX: usize = 256;

/// What is wrong, and where: characters from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}, at character {}", at + 1)]
pub struct QueryError {
    pub at: usize,
    pub message: String,
}

/// Reads a query. An empty one, and `*`, ask for everything.
///
/// # Errors
/// [`QueryError`] points at the character.
pub fn parse(text: &str) -> Result<Query, QueryError> {
    if text.len() > BYTES_MAX {
        return Err(QueryError { at: 0, message: format!("the query is longer than {BYTES_MAX} bytes") });
    }
    let mut parser = Parser { chars: text.chars().collect(), at: 0, terms: 0 };
    parser.space();
    if parser.is_at_end() {
        return Ok(Query::All);
    }
    let query = parser.any_of(None, 0)?;
    if parser.is_at_end() { Ok(query) } else { Err(parser.error("there is no `(` for this `)`")) }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    terms: usize,
}

/// A word as it was written: escapes are resolved, and a `*` at its end is remembered.
struct Word {
    text: String,
    begins: bool,
    at: usize,
}

impl Parser {
    fn error(&self, message: impl Into<String>) -> QueryError {
        QueryError { at: self.at, message: message.into() }
    }

    fn error_at(at: usize, message: impl Into<String>) -> QueryError {
        QueryError { at, message: message.into() }
    }

    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.chars.len()
    }

    fn space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn take(&mut self, wanted: char) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    /// Takes an operator written as a word or as signs, if it stands here.
    fn take_operator(&mut self, word: &str, signs: &str) -> bool {
        for (text, is_word) in [(word, true), (signs, false)] {
            let end = self.at + text.chars().count();
            let here = self.chars.get(self.at..end).is_some_and(|here| here.iter().copied().eq(text.chars()));
            let ends =
                !is_word || self.chars.get(end).is_none_or(|next| next.is_whitespace() || matches!(next, '(' | ')'));
            if !text.is_empty() && here && ends {
                self.at = end;
                self.space();
                return true;
            }
        }
        false
    }

    /// `a OR b`. `name` is that of the field in front of a parenthesis.
    fn any_of(&mut self, name: Option<&str>, depth: usize) -> Result<Query, QueryError> {
        if depth > DEPTH_MAX {
            return Err(self.error(format!("more than {DEPTH_MAX} levels of nesting")));
        }
        let mut some = vec![self.all_of(name, depth)?];
        while self.take_operator("OR", "||") {
            some.push(self.all_of(name, depth)?);
        }
        Ok(if some.len() == 1 { some.remove(0) } else { Query::Or(some) })
    }

    /// `a b AND c`.
    fn all_of(&mut self, name: Option<&str>, depth: usize) -> Result<Query, QueryError> {
        let mut all = Vec::new();
        loop {
            self.space();
            let at = self.at;
            if self.take_operator("AND", "&&") {
                if all.is_empty() {
                    return Err(Self::error_at(at, "something must stand before AND"));
                }
                self.space();
                if self.is_at_end() || self.peek() == Some(')') {
                    return Err(Self::error_at(at, "something must stand after AND"));
                }
                continue;
            }
            let ends = self.is_at_end() || self.peek() == Some(')');
            if ends || self.stands_or() {
                if all.is_empty() {
                    return Err(self.error("a term is expected here"));
                }
                return Ok(if all.len() == 1 { all.remove(0) } else { Query::And(all) });
            }
            all.push(self.not(name, depth)?);
        }
    }

    fn stands_or(&mut self) -> bool {
        let before = self.at;
        let found = self.take_operator("OR", "||");
        self.at = before;
        found
    }

    fn not(&mut self, name: Option<&str>, depth: usize) -> Result<Query, QueryError> {
        if depth > DEPTH_MAX {
            return Err(self.error(format!("more than {DEPTH_MAX} levels of nesting")));
        }
        if self.take_operator("NOT", "!") || self.take('-') {
            self.space();
            return Ok(Query::Not(Box::new(self.not(name, depth + 1)?)));
        }
        let _ = self.take('+'); // all terms must be there anyway
        self.term(name, depth)
    }

    fn term(&mut self, name: Option<&str>, depth: usize) -> Result<Query, QueryError> {
        self.terms += 1;
        if self.terms > TERMS_MAX {
            return Err(self.error(format!("more than {TERMS_MAX} terms")));
        }
        let at = self.at;
        match self.peek() {
            Some('(') => {
                self.at += 1;
                let inner = self.any_of(name, depth + 1)?;
                self.space();
                if self.take(')') { Ok(inner) } else { Err(Self::error_at(at, "this `(` is not closed")) }
            }
            Some('"') => {
                let phrase = self.phrase()?;
                self.value_query(name.unwrap_or(BODY), &phrase, at)
            }
            Some('[' | '{') => match name {
                Some(name) => self.range(name),
                None => Err(self.error("a range needs a name in front: `name:[1 TO 3]`")),
            },
            Some('<' | '>') => match name {
                Some(name) => self.comparison(name),
                None => Err(self.error("a comparison needs a name in front: `name:>5`")),
            },
            Some('/') if name.is_some() => Err(self.error("regular expressions are not supported")),
            _ => {
                let word = self.word()?;
                if name.is_none() && self.peek() == Some(':') && !word.begins {
                    self.at += 1;
                    return self.field(&word, depth);
                }
                self.word_query(name, &word)
            }
        }
    }

    /// What follows `name:`.
    fn field(&mut self, name: &Word, depth: usize) -> Result<Query, QueryError> {
        if name.text == "_exists_" {
            let word = self.word()?;
            return Ok(Query::Exists { name: field_name(&word.text) });
        }
        if self.is_at_end() || self.peek().is_some_and(char::is_whitespace) {
            return Err(self.error(format!("`{}:` needs a value", name.text)));
        }
        let name = field_name(&name.text);
        self.term(Some(&name), depth)
    }

    fn word_query(&self, name: Option<&str>, word: &Word) -> Result<Query, QueryError> {
        if word.begins && word.text.is_empty() {
            return Ok(name.map_or(Query::All, |name| Query::Exists { name: name.to_owned() }));
        }
        let name = name.unwrap_or(BODY);
        if !word.begins {
            return self.value_query(name, &word.text, word.at);
        }
        if KEYWORDS.contains(&name) {
            let prefix = if name == "level" { word.text.to_lowercase() } else { word.text.clone() };
            return Ok(Query::KeywordPrefix { name: name.to_owned(), prefix });
        }
        let mut parts: Vec<_> = words(&word.text).map(|part| word_key(part).into_owned()).collect();
        let ends_in_word = word.text.chars().next_back().is_some_and(char::is_alphanumeric);
        let Some(prefix) = parts.pop().filter(|_| ends_in_word) else {
            return Err(Self::error_at(word.at, "a letter or a digit must stand before `*`"));
        };
        let begins = Query::WordPrefix { name: name.to_owned(), prefix };
        if parts.is_empty() {
            return Ok(begins);
        }
        Ok(Query::And(vec![Query::Words { name: name.to_owned(), words: parts }, begins]))
    }

    /// A whole value: a keyword, a number, or words side by side.
    fn value_query(&self, name: &str, value: &str, at: usize) -> Result<Query, QueryError> {
        if name == SEVERITY {
            let number = value.parse().map_err(|_| Self::error_at(at, "the severity is a number from 1 to 24"))?;
            return Ok(equals(name, number));
        }
        if name == "level" {
            let level = value.to_lowercase();
            let level = if level == "warning" { "warn".to_owned() } else { level };
            return Ok(Query::keyword(name, &level));
        }
        if KEYWORDS.contains(&name) {
            return Ok(Query::keyword(name, value));
        }
        let text = Query::text(name, value);
        if name == BODY {
            return match text {
                Query::Nothing => Err(Self::error_at(at, "there is no letter or digit in this")),
                text => Ok(text),
            };
        }
        Ok(match value.parse::<f64>() {
            // From 2^53 on a number is found exactly by its digits.
            Ok(number) if number.abs() < 9_007_199_254_740_992.0 => Query::Or(vec![equals(name, number), text]),
            _ => text,
        })
    }

    /// `[a TO b]`, `{a TO b}` and mixtures.
    fn range(&mut self, name: &str) -> Result<Query, QueryError> {
        let at = self.at;
        let includes_from = self.peek() == Some('[');
        self.at += 1;
        self.space();
        let from = self.bound(name)?;
        self.space();
        if !self.take_operator("TO", "") {
            return Err(self.error("`TO` is expected here"));
        }
        let to = self.bound(name)?;
        self.space();
        let includes_to = match self.peek() {
            Some(']') => true,
            Some('}') => false,
            _ => return Err(Self::error_at(at, "this range is not closed")),
        };
        self.at += 1;
        let edge = |value: Option<f64>, included: bool| match value {
            None => Bound::Unbounded,
            Some(value) if included => Bound::Included(value),
            Some(value) => Bound::Excluded(value),
        };
        Ok(number_query(name, edge(from, includes_from), edge(to, includes_to)))
    }

    fn comparison(&mut self, name: &str) -> Result<Query, QueryError> {
        let greater = self.take('>');
        self.at += usize::from(!greater);
        let included = self.take('=');
        let value = self.bound(name)?;
        let bound = match value {
            None => Bound::Unbounded,
            Some(value) if included => Bound::Included(value),
            Some(value) => Bound::Excluded(value),
        };
        Ok(if greater {
            number_query(name, bound, Bound::Unbounded)
        } else {
            number_query(name, Bound::Unbounded, bound)
        })
    }

    /// One end of a range: a number, a level's name, or `*`.
    fn bound(&mut self, name: &str) -> Result<Option<f64>, QueryError> {
        let at = self.at;
        let text: String = self
            .chars
            .iter()
            .skip(at)
            .take_while(|c| !c.is_whitespace() && !matches!(c, ']' | '}' | ')' | '('))
            .collect();
        self.at += text.chars().count();
        if text == "*" {
            return Ok(None);
        }
        if name == "level" {
            let severity = severity_named(&text).map(f64::from);
            return severity.map(Some).ok_or_else(|| Self::error_at(at, "this is no level"));
        }
        if KEYWORDS.contains(&name) || name == BODY {
            return Err(Self::error_at(at, format!("`{name}` has no order; ranges are for numbers")));
        }
        match text.parse::<f64>() {
            Ok(number) if !number.is_nan() => Ok(Some(number)),
            _ => Err(Self::error_at(at, "a number is expected here")),
        }
    }

    fn phrase(&mut self) -> Result<String, QueryError> {
        let at = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            match self.peek() {
                None => return Err(Self::error_at(at, "this quotation mark is not closed")),
                Some('"') => break,
                Some('\\') => {
                    self.at += 1;
                    text.push(self.peek().ok_or_else(|| Self::error_at(at, "this quotation mark is not closed"))?);
                }
                Some(c) => text.push(c),
            }
            self.at += 1;
        }
        self.at += 1;
        if matches!(self.peek(), Some('~' | '^')) {
            return Err(self.error("`~` and `^` are not supported"));
        }
        Ok(text)
    }

    fn word(&mut self) -> Result<Word, QueryError> {
        let at = self.at;
        let mut word = Word { text: String::new(), begins: false, at };
        while let Some(c) = self.peek() {
            if c.is_whitespace() || matches!(c, '(' | ')' | ':' | '"' | '[' | ']' | '{' | '}') {
                break;
            }
            if word.begins {
                return Err(Self::error_at(self.at - 1, "`*` can only stand at the end of a word"));
            }
            match c {
                '\\' => {
                    self.at += 1;
                    word.text.push(self.peek().ok_or_else(|| Self::error_at(at, "a character must follow `\\`"))?);
                }
                '*' => word.begins = true,
                '?' => return Err(self.error("`?` is not supported; escape it as `\\?`")),
                '~' | '^' => return Err(self.error("`~` and `^` are not supported")),
                c => word.text.push(c),
            }
            self.at += 1;
        }
        if word.text.is_empty() && !word.begins {
            return Err(self.error(match self.peek() {
                Some(c) => format!("`{c}` is not expected here"),
                None => "a term is expected here".to_owned(),
            }));
        }
        Ok(word)
    }
}

fn equals(name: &str, number: f64) -> Query {
    number_query(name, Bound::Included(number), Bound::Included(number))
}

/// A range of levels is one of severities.
fn number_query(name: &str, from: Bound<f64>, to: Bound<f64>) -> Query {
    if name != "level" {
        return Query::Number { name: name.to_owned(), from, to };
    }
    // A level covers four severities: up to and with error means up to 20.
    let first = |severity: f64| ((severity - 1.0) / 4.0).floor() * 4.0 + 1.0;
    let from = match from {
        Bound::Included(severity) => Bound::Included(first(severity)),
        Bound::Excluded(severity) => Bound::Included(first(severity) + 4.0),
        Bound::Unbounded => Bound::Unbounded,
    };
    let to = match to {
        Bound::Included(severity) => Bound::Excluded(first(severity) + 4.0),
        Bound::Excluded(severity) => Bound::Excluded(first(severity)),
        Bound::Unbounded => Bound::Unbounded,
    };
    Query::Number { name: SEVERITY.to_owned(), from, to }
}

/// The name as documents have it: people may write `trace_id`, and `attributes.` in front of an attribute.
fn field_name(written: &str) -> String {
    let name = match written {
        "trace_id" => "trace",
        "span_id" => "span",
        "job_id" => "job",
        "message" | "msg" => BODY,
        "service.name" => "service",
        "host.name" => "host",
        other => other,
    };
    match name.strip_prefix("attributes.") {
        Some(rest) if !RESERVED.contains(&rest) => rest.to_owned(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words_of(name: &str, text: &str) -> Query {
        Query::text(name, text)
    }

    fn keyword(name: &str, value: &str) -> Query {
        Query::keyword(name, value)
    }

    #[test]
    fn the_language_is_what_its_page_says() {
        let number = |name: &str, from, to| Query::Number { name: name.into(), from, to };
        let cases = [
            ("", Query::All),
            ("*", Query::All),
            ("memory", words_of("body", "memory")),
            (r#""Out of memory""#, words_of("body", "out of memory")),
            ("a b", Query::And(vec![words_of("body", "a"), words_of("body", "b")])),
            ("a AND b", Query::And(vec![words_of("body", "a"), words_of("body", "b")])),
            (
                "a b OR c",
                Query::Or(vec![Query::And(vec![words_of("body", "a"), words_of("body", "b")]), words_of("body", "c")]),
            ),
            ("a || b", Query::Or(vec![words_of("body", "a"), words_of("body", "b")])),
            (
                "a (b OR c)",
                Query::And(vec![words_of("body", "a"), Query::Or(vec![words_of("body", "b"), words_of("body", "c")])]),
            ),
            ("NOT a", Query::Not(Box::new(words_of("body", "a")))),
            ("-host:gpu-7", Query::Not(Box::new(keyword("host", "gpu-7")))),
            ("+a !b", Query::And(vec![words_of("body", "a"), Query::Not(Box::new(words_of("body", "b")))])),
            ("level:ERROR", keyword("level", "error")),
            ("level:Warning", keyword("level", "warn")),
            ("level:>=warn", number("severity", Bound::Included(13.0), Bound::Unbounded)),
            ("level:[warn TO error]", number("severity", Bound::Included(13.0), Bound::Excluded(21.0))),
            ("service:back*", Query::KeywordPrefix { name: "service".into(), prefix: "back".into() }),
            (
                "job:(a OR b*)",
                Query::Or(vec![keyword("job", "a"), Query::KeywordPrefix { name: "job".into(), prefix: "b".into() }]),
            ),
            ("trace_id:0af7", keyword("trace", "0af7")),
            ("gpu.index:[1 TO 3]", number("gpu.index", Bound::Included(1.0), Bound::Included(3.0))),
            ("gpu.index:{1 TO *}", number("gpu.index", Bound::Excluded(1.0), Bound::Unbounded)),
            ("x:<-2.5", number("x", Bound::Unbounded, Bound::Excluded(-2.5))),
            ("attributes.x:yes", words_of("x", "yes")),
            ("attributes.level:yes", words_of("attributes.level", "yes")),
            ("x:*", Query::Exists { name: "x".into() }),
            ("_exists_:x.y", Query::Exists { name: "x.y".into() }),
            ("x:3", Query::Or(vec![equals("x", 3.0), words_of("x", "3")])),
            ("id:9007199254740993", words_of("id", "9007199254740993")),
            (r"a\:b", words_of("body", "a b")),
            ("OR\u{301}", words_of("body", "OR\u{301}")),
            (
                "frame_0*",
                Query::And(vec![
                    words_of("body", "frame"),
                    Query::WordPrefix { name: "body".into(), prefix: "0".into() },
                ]),
            ),
            ("ORDER", words_of("body", "order")),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn errors_point_at_the_character() {
        let long = "(".repeat(40);
        let many = "a ".repeat(300);
        for (text, at) in [
            ("a)", 1),
            ("(a", 0),
            (r#"ä "open"#, 2),
            ("a AND", 2),
            ("AND a", 0),
            ("a OR", 4),
            ("x:", 2),
            ("x: 3", 2),
            ("a*b", 1),
            ("a?", 1),
            ("a~2", 1),
            (r#""a b"~2"#, 5),
            ("[1 TO 2]", 0),
            ("x:[1 2]", 5),
            ("x:[1 TO z]", 8),
            ("x:[1 TO 2", 2),
            ("host:[a TO b]", 6),
            (">3", 0),
            ("x:/re/", 2),
            ("severity:high", 9),
            ("level:>=loud", 8),
            ("---", 3),
            ("a ::", 2),
            (long.as_str(), 33),
            (many.as_str(), 512),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.at, at, "{text}: {error}");
        }
        assert!(parse(&"x".repeat(5000)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_point_outside(text in "[a-z:()\\[\\]{}\"*?~^/\\\\<>=+! ANDORTé0-9._-]{0,60}") {
            if let Err(error) = parse(&text) {
                prop_assert!(error.at <= text.chars().count());
            }
        }
    }
}
