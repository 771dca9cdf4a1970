//! Templates of `line_format` and `label_format`: Go's, as far as lines need them.
//!
//! `{{.label}}`, `{{ __line__ }}`, `{{ __timestamp__ }}`, texts, numbers, calls such as `{{ replace "a" "b" .x }}`, and pipes, which hand
//! what is before them to the next call as its last argument. There are no conditions, loops or variables.

use std::borrow::Cow;

use super::Line;
use crate::signals::rfc3339_ns;

/// Longest text that a template makes.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Most parts, and most arguments and calls of one part.
const PARTS_MAX: usize = 100;
const DEPTH_MAX: usize = 16;

#[derive(Debug, PartialEq)]
pub(in crate::logs::loki) struct Template(Vec<Node>);

#[derive(Clone, Debug, PartialEq)]
enum Node {
    Text(String),
    Label(String),
    Line,
    Timestamp,
    Call(Function, Vec<Node>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Lower,
    Upper,
    Trim,
    TrimPrefix,
    TrimSuffix,
    Replace,
    Trunc,
    Default,
    AlignLeft,
    AlignRight,
}

impl Function {
    fn named(word: &str) -> Option<(Self, usize)> {
        Some(match word {
            "lower" | "ToLower" => (Self::Lower, 1),
            "upper" | "ToUpper" => (Self::Upper, 1),
            "trim" | "TrimSpace" => (Self::Trim, 1),
            "trimPrefix" => (Self::TrimPrefix, 2),
            "trimSuffix" => (Self::TrimSuffix, 2),
            "replace" => (Self::Replace, 3),
            "trunc" => (Self::Trunc, 2),
            "default" => (Self::Default, 2),
            "alignLeft" => (Self::AlignLeft, 2),
            "alignRight" => (Self::AlignRight, 2),
            _ => return None,
        })
    }
}

impl Template {
    /// # Errors
    /// A sentence that says what is wrong.
    pub(in crate::logs::loki) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        let mut trims = false;
        while let Some((before, after)) = rest.split_once("{{") {
            if parts.len() >= PARTS_MAX {
                return Err(format!("invalid template: more than {PARTS_MAX} parts"));
            }
            let (inner, next) = after.split_once("}}").ok_or("invalid template: unclosed action")?;
            let before = if trims { before.trim_start() } else { before };
            let (before, inner) = match inner.strip_prefix("- ") {
                Some(inner) => (before.trim_end(), inner),
                None => (before, inner),
            };
            let inner = inner.strip_suffix(" -").inspect(|_| trims = true).unwrap_or_else(|| {
                trims = false;
                inner
            });
            if !before.is_empty() {
                parts.push(Node::Text(before.to_owned()));
            }
            parts.push(Reader { text: inner, rest: inner, depth: 0 }.pipeline(false)?);
            rest = next;
        }
        let rest = if trims { rest.trim_start() } else { rest };
        if !rest.is_empty() {
            parts.push(Node::Text(rest.to_owned()));
        }
        Ok(Self(parts))
    }

    pub(super) fn render(&self, line: &Line) -> String {
        let mut made = String::new();
        for part in &self.0 {
            made.push_str(&part.value(line));
            if made.len() > TEXT_BYTES_MAX {
                return backlot_windows::clip(&made, TEXT_BYTES_MAX).to_owned();
            }
        }
        made
    }
}

impl Node {
    fn value<'a>(&'a self, line: &'a Line) -> Cow<'a, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Label(name) => Cow::Borrowed(line.labels.get(name).unwrap_or_default()),
            Self::Line => Cow::Borrowed(&line.text),
            Self::Timestamp => Cow::Owned(rfc3339_ns(line.time_ns)),
            Self::Call(function, arguments) => {
                let values: Vec<_> = arguments.iter().map(|argument| argument.value(line)).collect();
                Cow::Owned(function.call(&values))
            }
        }
    }
}

impl Function {
    /// `values` are as many as it takes: that was checked when the template was read.
    fn call(self, values: &[Cow<'_, str>]) -> String {
        let Some(last) = values.last() else { return String::new() };
        let first = values[0].as_ref();
        let number = || first.parse::<i64>().unwrap_or(0);
        match self {
            Self::Lower => last.to_lowercase(),
            Self::Upper => last.to_uppercase(),
            Self::Trim => last.trim().to_owned(),
            Self::TrimPrefix => last.strip_prefix(first).unwrap_or(last).to_owned(),
            Self::TrimSuffix => last.strip_suffix(first).unwrap_or(last).to_owned(),
            Self::Replace => replaced(last, first, &values[1]),
            Self::Trunc => truncated(last, number()),
            Self::Default => if last.is_empty() { first } else { last }.to_owned(),
            Self::AlignLeft => aligned(last, number(), true),
            Self::AlignRight => aligned(last, number(), false),
        }
    }
}

/// With every `old` written as `new`, as long as there is room.
fn replaced(text: &str, old: &str, new: &str) -> String {
    if old.is_empty() {
        return text.to_owned();
    }
    let mut made = String::new();
    for (at, part) in text.split(old).enumerate() {
        if at > 0 {
            made.push_str(new);
        }
        made.push_str(part);
        if made.len() > TEXT_BYTES_MAX {
            break;
        }
    }
    made
}

/// The first characters, or the last when `count` is negative.
fn truncated(text: &str, count: i64) -> String {
    let wanted = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if count >= 0 {
        return text.chars().take(wanted).collect();
    }
    text.chars().skip(text.chars().count().saturating_sub(wanted)).collect()
}

/// Cut or filled with spaces to `width` characters.
fn aligned(text: &str, width: i64, left: bool) -> String {
    let width = usize::try_from(width).unwrap_or(0).min(1000);
    let length = text.chars().count();
    match (left, length >= width) {
        (true, true) => text.chars().take(width).collect(),
        (false, true) => text.chars().skip(length - width).collect(),
        (true, false) => format!("{text:<width$}"),
        (false, false) => format!("{text:>width$}"),
    }
}

/// What stands between the braces.
struct Reader<'a> {
    text: &'a str,
    rest: &'a str,
    depth: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, problem: &str) -> String {
        format!("invalid template: {problem} in {{{{{}}}}}", backlot_windows::clip(self.text, 80))
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start();
    }

    /// Calls with `|` between them, up to the end or to a parenthesis.
    fn pipeline(&mut self, inner: bool) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(self.wrong("too deep a nesting"));
        }
        let mut made: Option<Node> = None;
        for _ in 0..PARTS_MAX {
            let before = made.take();
            let node = self.call(before)?;
            self.space();
            if let Some(rest) = self.rest.strip_prefix('|') {
                self.rest = rest;
                made = Some(node);
            } else if let Some(rest) = self.rest.strip_prefix(')').filter(|_| inner) {
                self.rest = rest;
                self.depth -= 1;
                return Ok(node);
            } else if self.rest.is_empty() && !inner {
                self.depth -= 1;
                return Ok(node);
            } else {
                return Err(self.wrong("unexpected text"));
            }
        }
        Err(self.wrong("too many calls"))
    }

    /// A value, or a function with its arguments; `piped` is the last of these.
    fn call(&mut self, piped: Option<Node>) -> Result<Node, String> {
        self.space();
        let end = self.rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(self.rest.len());
        let word = &self.rest[..end];
        let Some((function, count)) = Function::named(word) else {
            if piped.is_some() {
                return Err(self.wrong(&format!("the function `{}` is not known", backlot_windows::clip(word, 40))));
            }
            return self.value();
        };
        self.rest = &self.rest[end..];
        let mut arguments = Vec::new();
        loop {
            self.space();
            if self.rest.is_empty() || self.rest.starts_with(['|', ')']) {
                break;
            }
            if arguments.len() >= count {
                return Err(self.wrong(&format!("too many arguments of {word}")));
            }
            arguments.push(self.value()?);
        }
        arguments.extend(piped);
        if arguments.len() != count {
            return Err(self.wrong(&format!("{word} takes {count} arguments")));
        }
        Ok(Node::Call(function, arguments))
    }

    fn value(&mut self) -> Result<Node, String> {
        self.space();
        let rest = self.rest;
        let name_end = |text: &str| text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
        if let Some(label) = rest.strip_prefix('.') {
            let end = name_end(label);
            if end == 0 {
                return Err(self.wrong("a label must follow the dot"));
            }
            self.rest = &label[end..];
            return Ok(Node::Label(label[..end].to_owned()));
        }
        if let Some(inner) = rest.strip_prefix('(') {
            self.rest = inner;
            return self.pipeline(true);
        }
        for mark in ['"', '`'] {
            if let Some(text) = rest.strip_prefix(mark) {
                return self.text_in(text, mark);
            }
        }
        let number = rest.strip_prefix('-').unwrap_or(rest);
        let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        if digits > 0 {
            let length = rest.len() - number.len() + digits;
            self.rest = &rest[length..];
            return Ok(Node::Text(rest[..length].to_owned()));
        }
        let word = &rest[..name_end(rest)];
        let node = match word {
            "__line__" => Node::Line,
            "__timestamp__" => Node::Timestamp,
            "" => return Err(self.wrong("a value is missing")),
            _ => return Err(self.wrong(&format!("function \"{word}\" is not known"))),
        };
        self.rest = &rest[word.len()..];
        Ok(node)
    }

    fn text_in(&mut self, text: &'a str, mark: char) -> Result<Node, String> {
        let mut made = String::new();
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            if c == mark {
                self.rest = &text[at + 1..];
                return Ok(Node::Text(made));
            }
            if c == '\\' && mark == '"' {
                match chars.next() {
                    Some((_, 'n')) => made.push('\n'),
                    Some((_, 't')) => made.push('\t'),
                    Some((_, other)) => made.push(other),
                    None => break,
                }
            } else {
                made.push(c);
            }
        }
        Err(self.wrong("unterminated string"))
    }
}
