//! The query language for people: Lucene's style, as Kibana and Quickwit write it.
//!
//! ```text
//! level:error service:agent "out of memory" gpu.index:[1 TO 3] -host:gpu-7 job:(a OR b*)
//! ```
//!
//! Words side by side must all be there. `AND OR NOT` (also `&& || !`, and `+ -` in front), parentheses, `name:value`,
//! `name:"phrase"`, `name:begin*`, `name:*` (there is a value), `name:[a TO b]`, `name:{a TO b}`, `name:>5`, `name:/expression/`. A
//! bare word is looked for in the text. `*` and `*:*` ask for everything. A backslash takes the next character as it is.
//!
//! What names mean is a [`Dialect`]'s business: logs have levels, jobs have moments.
//!
//! What is absent on purpose, and answered with an error that points at it: `?` and `*` within a word, `~`, `^`; regular
//! expressions where a dialect has no sources to look them up in.

use std::ops::Bound;

use crate::{Dialect, Pattern, Query, word_key, words};

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
pub fn parse(text: &str, dialect: &dyn Dialect) -> Result<Query, QueryError> {
    if text.len() > BYTES_MAX {
        return Err(QueryError { at: 0, message: format!("the query is longer than {BYTES_MAX} bytes") });
    }
    let mut parser = Parser { dialect, chars: text.chars().collect(), at: 0, terms: 0 };
    parser.space();
    if parser.is_at_end() {
        return Ok(Query::All);
    }
    let query = parser.any_of(None, 0)?;
    if parser.is_at_end() { Ok(query) } else { Err(parser.error("there is no `(` for this `)`")) }
}

/// Documents from a moment to a moment, each with whether it is included.
fn time(from: Option<(i64, bool)>, to: Option<(i64, bool)>) -> Query {
    let from_ns = from.map_or(i64::MIN, |(ns, included)| if included { ns } else { ns.saturating_add(1) });
    let to_ns = to.map_or(i64::MAX, |(ns, included)| if included { ns } else { ns.saturating_sub(1) });
    Query::Time { from_ns, to_ns }
}

struct Parser<'a> {
    dialect: &'a dyn Dialect,
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

impl Parser<'_> {
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
                self.value_query(name.unwrap_or(self.dialect.text()), &phrase, at)
            }
            Some('[' | '{') => match name {
                Some(name) => self.range(name),
                None => Err(self.error("a range needs a name in front: `name:[1 TO 3]`")),
            },
            Some('<' | '>') => match name {
                Some(name) => self.comparison(name),
                None => Err(self.error("a comparison needs a name in front: `name:>5`")),
            },
            Some('/') if name.is_some() || self.closes_pattern() => self.pattern(name.unwrap_or(self.dialect.text())),
            _ => {
                let word = self.word()?;
                if name.is_none()
                    && word.begins
                    && word.text.is_empty()
                    && self.chars[self.at..].starts_with(&[':', '*'])
                {
                    self.at += 2;
                    return Ok(Query::All);
                }
                if name.is_none() && self.peek() == Some(':') && !word.begins {
                    self.at += 1;
                    return self.field(&word, depth);
                }
                self.word_query(name, &word)
            }
        }
    }

    /// Whether what begins here with a slash is an expression and not the path of a file: it ends with a slash, and then with a
    /// space.
    fn closes_pattern(&self) -> bool {
        let mut chars = self.chars[self.at + 1..].iter().peekable();
        let mut before = '/';
        while let Some(c) = chars.next() {
            if *c == '/' && before != '\\' {
                return before != '/' && chars.peek().is_none_or(|next| next.is_whitespace() || **next == ')');
            }
            before = if before == '\\' { ' ' } else { *c };
        }
        false
    }

    /// `/expression/`, in which `\/` is a slash.
    fn pattern(&mut self, name: &str) -> Result<Query, QueryError> {
        let at = self.at;
        if !self.dialect.takes_patterns() {
            return Err(self.error("regular expressions are not supported"));
        }
        self.at += 1;
        let mut text = String::new();
        let mut places = Vec::new(); // where each character of the text stands in the query
        loop {
            let place = self.at;
            match self.peek() {
                None => return Err(Self::error_at(at, "this regular expression is not closed with `/`")),
                Some('/') => break,
                Some('\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some('/') => text.push('/'),
                        Some(c) => {
                            text.extend(['\\', c]);
                            places.push(place);
                        }
                        None => return Err(Self::error_at(at, "this regular expression is not closed with `/`")),
                    }
                }
                Some(c) => text.push(c),
            }
            places.push(self.at);
            self.at += 1;
        }
        self.at += 1;
        let whole = self.dialect.is_keyword(name) || self.dialect.is_id(name);
        let pattern = Pattern::new(&text, whole).map_err(|problem| {
            let wrong = Pattern::wrong_at(&text).and_then(|wrong| places.get(wrong).copied());
            Self::error_at(wrong.unwrap_or(at), problem)
        })?;
        Ok(Query::Matches { name: name.to_owned(), pattern })
    }

    /// What follows `name:`.
    fn field(&mut self, name: &Word, depth: usize) -> Result<Query, QueryError> {
        if name.text == "_exists_" {
            let word = self.word()?;
            return Ok(Query::Exists { name: self.dialect.field(&word.text) });
        }
        if self.is_at_end() || self.peek().is_some_and(char::is_whitespace) {
            return Err(self.error(format!("`{}:` needs a value", name.text)));
        }
        let name = self.dialect.field(&name.text);
        self.term(Some(&name), depth)
    }

    fn word_query(&self, name: Option<&str>, word: &Word) -> Result<Query, QueryError> {
        if word.begins
            && let Some(query) = name.and_then(|name| self.dialect.beginning(name, &word.text))
        {
            return query.map_err(|problem| Self::error_at(word.at, problem));
        }
        if word.begins && word.text.is_empty() {
            return Ok(name.map_or(Query::All, |name| Query::Exists { name: name.to_owned() }));
        }
        let name = name.unwrap_or(self.dialect.text());
        if !word.begins {
            return self.value_query(name, &word.text, word.at);
        }
        if self.dialect.is_id(name) {
            return Ok(Query::Id { name: name.to_owned(), begin: word.text.clone(), whole: false });
        }
        if self.dialect.is_keyword(name) {
            let prefix = self.dialect.keyword_prefix(name, &word.text);
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
        if let Some((from_ns, to_ns)) =
            self.dialect.moment(name, value, false).zip(self.dialect.moment(name, value, true))
        {
            let of = |moment: Result<i64, String>| moment.map_err(|problem| Self::error_at(at, problem));
            return Ok(Query::Time { from_ns: of(from_ns)?, to_ns: of(to_ns)? });
        }
        if let Some(query) = self.dialect.value(name, value) {
            return query.map_err(|problem| Self::error_at(at, problem));
        }
        if self.dialect.is_id(name) {
            return Ok(Query::Id { name: name.to_owned(), begin: value.to_owned(), whole: true });
        }
        if self.dialect.is_keyword(name) {
            return Ok(Query::keyword(name, &self.dialect.keyword(name, value)));
        }
        let text = Query::text(name, value);
        if name == self.dialect.text() {
            return match text {
                Query::Nothing => Err(Self::error_at(at, "there is no letter or digit in this")),
                text => Ok(text),
            };
        }
        Ok(match value.parse::<f64>() {
            // From 2^53 on a number is found exactly by its digits.
            Ok(number) if number.abs() < 9_007_199_254_740_992.0 => {
                Query::Or(vec![self.dialect.range(name, Bound::Included(number), Bound::Included(number)), text])
            }
            _ => text,
        })
    }

    /// `[a TO b]`, `{a TO b}` and mixtures.
    fn range(&mut self, name: &str) -> Result<Query, QueryError> {
        let at = self.at;
        let includes_from = self.peek() == Some('[');
        self.at += 1;
        self.space();
        let from = self.edge_text();
        self.space();
        if !self.take_operator("TO", "") {
            return Err(self.error("`TO` is expected here"));
        }
        let to = self.edge_text();
        self.space();
        let includes_to = match self.peek() {
            Some(']') => true,
            Some('}') => false,
            _ => return Err(Self::error_at(at, "this range is not closed")),
        };
        self.at += 1;
        let moments = (self.moment(name, &from, !includes_from), self.moment(name, &to, includes_to));
        if let (Some(from), Some(to)) = moments {
            return Ok(time(from?.map(|ns| (ns, includes_from)), to?.map(|ns| (ns, includes_to))));
        }
        let edge = |value: Option<f64>, included: bool| match value {
            None => Bound::Unbounded,
            Some(value) if included => Bound::Included(value),
            Some(value) => Bound::Excluded(value),
        };
        let (from, to) = (self.edge(name, &from, !includes_from)?, self.edge(name, &to, includes_to)?);
        Ok(self.dialect.range(name, edge(from, includes_from), edge(to, includes_to)))
    }

    fn comparison(&mut self, name: &str) -> Result<Query, QueryError> {
        let greater = self.take('>');
        self.at += usize::from(!greater);
        let included = self.take('=');
        let text = self.edge_text();
        if let Some(moment) = self.moment(name, &text, greater != included) {
            let end = moment?.map(|ns| (ns, included));
            return Ok(if greater { time(end, None) } else { time(None, end) });
        }
        let value = self.edge(name, &text, greater != included)?;
        let bound = match value {
            None => Bound::Unbounded,
            Some(value) if included => Bound::Included(value),
            Some(value) => Bound::Excluded(value),
        };
        Ok(if greater {
            self.dialect.range(name, bound, Bound::Unbounded)
        } else {
            self.dialect.range(name, Bound::Unbounded, bound)
        })
    }

    /// The text of one end of a range, and where it stands.
    fn edge_text(&mut self) -> (usize, String) {
        let at = self.at;
        let ends = |c: &char| c.is_whitespace() || matches!(c, ']' | '}' | ')' | '(');
        let text: String = self.chars.iter().skip(at).take_while(|c| !ends(c)).collect();
        self.at += text.chars().count();
        (at, text)
    }

    /// What it means where `name` is that of the documents' own time: a moment, or nothing for `*`. It may stand in quotation marks.
    fn moment(&self, name: &str, (at, text): &(usize, String), end: bool) -> Option<Result<Option<i64>, QueryError>> {
        let bare = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
        let moment = self.dialect.moment(name, bare, end)?;
        Some(if bare == "*" { Ok(None) } else { moment.map(Some).map_err(|problem| Self::error_at(*at, problem)) })
    }

    /// What it means: a number, or nothing for `*`.
    fn edge(&self, name: &str, (at, text): &(usize, String), end: bool) -> Result<Option<f64>, QueryError> {
        if text == "*" {
            return Ok(None);
        }
        if let Some(number) = self.dialect.edge(name, text, end) {
            return number.map(Some).map_err(|problem| Self::error_at(*at, problem));
        }
        if self.dialect.is_keyword(name) || self.dialect.is_id(name) || name == self.dialect.text() {
            return Err(Self::error_at(*at, format!("`{name}` has no order; ranges are for numbers")));
        }
        match text.parse::<f64>() {
            Ok(number) if !number.is_nan() => Ok(Some(number)),
            _ => Err(Self::error_at(*at, "a number is expected here")),
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
