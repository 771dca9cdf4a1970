//! What is done with one line: stages that let it pass or not, take it apart, and write it anew.
//!
//! A stage that cannot read a line lets it pass with the label `__error__`, as Loki does; a query may filter by it.

mod filters;
mod labels;
mod parsers;
mod paths;
mod pieces;
mod template;

use std::sync::Arc;

use regex::Regex;

pub(super) use filters::{Compare, LabelFilter, LineFilter, LineTest, Quantity};
pub(super) use labels::{ERROR, Kind, Labels, sanitize};
pub(super) use parsers::named_groups;
pub(super) use paths::JsonPath;
pub(super) use pieces::Pieces;
pub(super) use template::Template;

use super::logql::Matcher;

/// One line on its way.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) time_ns: i64,
    /// Unique, as the record's.
    pub(super) seq: u64,
    pub(super) text: Arc<str>,
    pub(super) labels: Labels,
}

impl Line {
    /// How much it is, with its labels.
    pub(super) fn bytes(&self) -> usize {
        let labels = self.labels.iter().map(|(name, value, _)| name.len() + value.len());
        self.text.len() + labels.sum::<usize>()
    }
}

#[derive(Debug)]
pub(super) enum Stage {
    Line(LineFilter),
    /// Labels and where their values stand; every leaf when there are none.
    Json(Vec<(String, JsonPath)>),
    Logfmt {
        strict: bool,
        keep_empty: bool,
        /// Labels and the keys of their values; every key when there are none.
        fields: Vec<(String, String)>,
    },
    Pattern(Pieces),
    Regexp(Regex),
    Unpack,
    Labels(LabelFilter),
    LineFormat(Template),
    LabelFormat(Vec<(String, Format)>),
    Drop(Vec<LabelPick>),
    Keep(Vec<LabelPick>),
    Decolorize,
}

#[derive(Debug)]
pub(super) enum Format {
    /// Takes the value and the name away from another label.
    Rename(String),
    Template(Template),
}

/// Labels that are dropped or kept.
#[derive(Debug)]
pub(super) enum LabelPick {
    Named(String),
    If(Matcher),
}

impl LabelPick {
    fn holds(&self, name: &str, value: &str) -> bool {
        match self {
            Self::Named(named) => named == name,
            Self::If(matcher) => matcher.name() == name && matcher.holds(value),
        }
    }
}

/// Whether the line passes all stages, which may change it.
pub(super) fn apply(stages: &[Stage], line: &mut Line) -> bool {
    stages.iter().all(|stage| stage.apply(line))
}

impl Stage {
    fn apply(&self, line: &mut Line) -> bool {
        match self {
            Self::Line(filter) => return filter.holds(&line.text),
            Self::Labels(filter) => return filter.holds(&mut line.labels),
            Self::Json(fields) => parsers::json(fields, line),
            Self::Logfmt { strict, keep_empty, fields } => parsers::logfmt(*strict, *keep_empty, fields, line),
            Self::Pattern(pieces) => pieces.take_apart(line),
            Self::Regexp(regex) => parsers::regexp(regex, line),
            Self::Unpack => parsers::unpack(line),
            Self::LineFormat(template) => line.text = template.render(line).into(),
            Self::LabelFormat(formats) => {
                for (label, format) in formats {
                    match format {
                        Format::Rename(other) => {
                            if let Some(value) = line.labels.remove(other) {
                                line.labels.set(Kind::Parsed, label, value);
                            }
                        }
                        Format::Template(template) => {
                            let value = template.render(line);
                            line.labels.write(label, &value);
                        }
                    }
                }
            }
            Self::Drop(picks) => {
                line.labels.retain(|name, value| !picks.iter().any(|pick| pick.holds(name, value)));
            }
            Self::Keep(picks) => {
                line.labels
                    .retain(|name, value| name.starts_with("__") || picks.iter().any(|pick| pick.holds(name, value)));
            }
            Self::Decolorize => line.text = decolorized(&line.text).into(),
        }
        true
    }

    /// Whether it looks at nothing but the line, and changes nothing.
    pub(super) fn as_line_filter(&self) -> Option<&LineFilter> {
        match self {
            Self::Line(filter) => Some(filter),
            _ => None,
        }
    }
}

/// Text without the sequences that colour it on a terminal.
fn decolorized(text: &str) -> String {
    let mut made = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\u{1b}[") {
        made.push_str(&rest[..at]);
        let codes = &rest[at + 2..];
        let end = codes.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(codes.len());
        // A sequence ends with a letter.
        let ending = usize::from(codes[end..].starts_with(|c: char| c.is_ascii_alphabetic()));
        rest = &codes[end + ending..];
    }
    made.push_str(rest);
    made
}

#[cfg(test)]
mod tests;
