//! What Elasticsearch's clients call the fields of a record, and of which types they are.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use backlot_windows::{Dialect as _, Document, Pattern, Query, Value, words};
use serde_json::{Map, Value as Json, json};

use super::Refused;
use crate::logs::model::seq_of;
use crate::logs::query::{Records, field};
use crate::logs::schema::{BODY, KEYWORDS, SEVERITY, SPAN};

pub(super) const TIME: &str = "@timestamp";
/// The name of a record's index, which [`indexes`](super::indexes) puts into streams.
pub(super) const INDEX: &str = "_index";
/// What the line itself is called.
const MESSAGE: &str = "message";
/// Fields of every record and their types; attributes come on top.
const KNOWN: [(&str, &str); 14] = [
    (TIME, "date"),
    (MESSAGE, "text"),
    ("level", "keyword"),
    (SEVERITY, "long"),
    ("service", "keyword"),
    ("host", "keyword"),
    ("job", "keyword"),
    ("attempt", "keyword"),
    ("queue", "keyword"),
    ("trace_id", "keyword"),
    ("span_id", "keyword"),
    ("scope", "keyword"),
    ("event", "keyword"),
    ("stream", "keyword"),
];
/// Integers from this on are found as words.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

/// A field as records have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Time,
    Id,
    Index,
    /// The line itself.
    Body,
    /// One of [`KEYWORDS`].
    Keyword(String),
    /// The span, of which only the beginning is indexed.
    Span,
    /// Anything else: an attribute, or the severity.
    Attribute(String),
}

impl Field {
    pub(super) fn named(name: &str) -> Self {
        match name {
            TIME => return Self::Time,
            "_id" => return Self::Id,
            INDEX => return Self::Index,
            _ => {}
        }
        let name = field(name.strip_suffix(".keyword").unwrap_or(name));
        match name.as_str() {
            BODY => Self::Body,
            SPAN => Self::Span,
            known if KEYWORDS.contains(&known) => Self::Keyword(name),
            _ => Self::Attribute(name),
        }
    }

    /// The name in the windows.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Time => TIME,
            Self::Id => "_id",
            Self::Index => INDEX,
            Self::Body => BODY,
            Self::Span => SPAN,
            Self::Keyword(name) | Self::Attribute(name) => name,
        }
    }

    /// Exactly this value.
    pub(super) fn term(&self, value: &Json) -> Result<Query, Refused> {
        let text = match value {
            Json::String(text) => text.clone(),
            Json::Number(_) | Json::Bool(_) => value.to_string(),
            _ => return Err(Refused::parsing("a term is a text, a number or true or false")),
        };
        let name = self.name().to_owned();
        Ok(match self {
            Self::Id => ids([text.as_str()]),
            Self::Time => return Err(self.unsupported("term")),
            Self::Index => Query::keyword(INDEX, &text),
            Self::Keyword(_) if name == "level" => {
                let level = Records { now: None }.value(&name, &text);
                level.and_then(Result::ok).unwrap_or_else(|| Query::keyword(&name, &text.to_lowercase()))
            }
            Self::Keyword(_) => Query::keyword(&name, &text),
            Self::Span => Query::Id { name, begin: text, whole: true },
            // A term of an analysed text is one of its words.
            Self::Body => Query::text(&name, &text),
            Self::Attribute(_) => {
                let mut some = vec![whole(&name, &text)?];
                if let Some(number) = text.parse::<f64>().ok().filter(|number| number.abs() < EXACT_MAX) {
                    some.push(Query::Number { name, from: Bound::Included(number), to: Bound::Included(number) });
                }
                Query::Or(some)
            }
        })
    }

    /// The words of a text, in any order: one of them, or all.
    pub(super) fn matching(&self, text: &str, all: bool) -> Result<Query, Refused> {
        if !matches!(self, Self::Body | Self::Attribute(_)) {
            return self.term(&Json::from(text));
        }
        let words: Vec<_> = words(text).map(|word| Query::text(self.name(), word)).collect();
        let words = if all && !words.is_empty() { Query::And(words) } else { Query::Or(words) };
        match text.trim().parse::<f64>() {
            Ok(_) => Ok(Query::Or(vec![words, self.term(&Json::from(text.trim()))?])),
            Err(_) => Ok(words),
        }
    }

    /// The words of a text side by side.
    pub(super) fn phrase(&self, text: &str) -> Result<Query, Refused> {
        match self {
            Self::Body | Self::Attribute(_) => Ok(Query::text(self.name(), text)),
            _ => self.term(&Json::from(text)),
        }
    }

    pub(super) fn prefix(&self, prefix: &str) -> Result<Query, Refused> {
        let name = self.name().to_owned();
        match self {
            Self::Keyword(_) | Self::Index => Ok(Query::KeywordPrefix { name, prefix: prefix.to_owned() }),
            Self::Span => Ok(Query::Id { name, begin: prefix.to_owned(), whole: false }),
            Self::Body if prefix.chars().all(char::is_alphanumeric) => {
                Ok(Query::WordPrefix { name, prefix: prefix.to_owned() })
            }
            Self::Body => self.expression(&format!("(?i)\\b{}", regex::escape(prefix)), false),
            Self::Attribute(_) => self.expression(&format!("(?s)^{}", regex::escape(prefix)), false),
            Self::Time | Self::Id => Err(self.unsupported("prefix")),
        }
    }

    /// `*` for anything, `?` for one character. In the line itself it is a word that is meant.
    pub(super) fn wildcard(&self, pattern: &str) -> Result<Query, Refused> {
        let plain = pattern.strip_suffix('*').filter(|begin| !begin.contains(['*', '?']));
        match plain {
            Some("") => return Ok(self.exists()),
            Some(begin) => return self.prefix(begin),
            None => {}
        }
        let mut text = String::new();
        let any = if *self == Self::Body { "\\w" } else { "." };
        for c in pattern.chars() {
            match c {
                '*' => text.extend([any, "*"]),
                '?' => text.push_str(any),
                c => text.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
            }
        }
        if *self == Self::Body {
            self.expression(&format!("(?i)\\b{text}\\b"), false)
        } else {
            self.expression(&text, true)
        }
    }

    /// A regular expression for the whole value; in the line itself, for a word.
    pub(super) fn regexp(&self, text: &str) -> Result<Query, Refused> {
        if *self == Self::Body {
            self.expression(&format!("(?i)\\b(?:{text})\\b"), false)
        } else {
            self.expression(text, true)
        }
    }

    fn expression(&self, text: &str, whole: bool) -> Result<Query, Refused> {
        if matches!(self, Self::Time | Self::Id) {
            return Err(self.unsupported("regexp"));
        }
        let pattern = Pattern::new(text, whole).map_err(Refused::illegal)?;
        Ok(Query::Matches { name: self.name().to_owned(), pattern })
    }

    pub(super) fn exists(&self) -> Query {
        match self {
            Self::Time | Self::Id | Self::Index => Query::All,
            _ => Query::Exists { name: self.name().to_owned() },
        }
    }

    fn unsupported(&self, kind: &str) -> Refused {
        Refused::illegal(format!("a [{kind}] query of [{}] is not supported here", self.name()))
    }

    /// Values of a record, as keys of buckets: texts, and numbers as they are written.
    pub(super) fn keys(&self, document: &Document) -> BTreeSet<Key> {
        let key = |value: &Value| match value {
            Value::Keyword(text) | Value::Id(text) | Value::Text(text) => Key::Text(text.clone()),
            Value::Number(number) => Key::Number(OrderedNumber(*number)),
        };
        document.values(self.name()).map(key).collect()
    }

    pub(super) fn numbers(&self, document: &Document) -> Vec<f64> {
        if *self == Self::Time {
            return vec![(document.time_ns / 1_000_000) as f64];
        }
        let number = |value: &Value| match value {
            Value::Number(number) => Some(*number),
            _ => None,
        };
        document.values(self.name()).filter_map(number).collect()
    }
}

/// The whole value of a text, exactly: found by its words, judged by the text itself.
fn whole(name: &str, text: &str) -> Result<Query, Refused> {
    let pattern = Pattern::new(&regex::escape(text), true).map_err(Refused::illegal)?;
    let exact = Query::Matches { name: name.to_owned(), pattern };
    let words = Query::text(name, text);
    Ok(if words == Query::Nothing { exact } else { Query::And(vec![words, exact]) })
}

/// The key of a bucket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Number(OrderedNumber),
    Text(String),
}

impl Key {
    pub(super) fn json(&self) -> Json {
        match self {
            Self::Text(text) => Json::from(text.as_str()),
            Self::Number(OrderedNumber(number)) => number_json(*number),
        }
    }
}

/// A number with an order among all.
#[derive(Clone, Copy, Debug)]
pub(super) struct OrderedNumber(pub(super) f64);

impl PartialEq for OrderedNumber {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for OrderedNumber {}
impl PartialOrd for OrderedNumber {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for OrderedNumber {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}
impl std::hash::Hash for OrderedNumber {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.to_bits().hash(state);
    }
}

/// Whole numbers are written without a fraction.
pub(super) fn number_json(number: f64) -> Json {
    if number.fract() == 0.0 && number.abs() < EXACT_MAX { Json::from(number as i64) } else { Json::from(number) }
}

/// The records of these ids. What is no id is that of none.
pub(super) fn ids<'a>(ids: impl IntoIterator<Item = &'a str>) -> Query {
    Query::seqs(ids.into_iter().filter_map(seq_of))
}

/// The types of all fields: those of every record, and what the attributes of `resources` and `records` are.
pub(super) fn types<'a>(attributes: impl Iterator<Item = &'a Map<String, Json>>) -> BTreeMap<String, &'static str> {
    let mut types: BTreeMap<String, &'static str> =
        KNOWN.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
    for (name, value) in attributes.flatten() {
        let kind = match value {
            Json::Number(number) if number.is_f64() => "double",
            Json::Number(_) => "long",
            Json::Bool(_) => "boolean",
            _ => "keyword",
        };
        let known = types.entry(name.clone()).or_insert(kind);
        // A number today and a text tomorrow is a text.
        if *known != kind && !KNOWN.iter().any(|(fixed, _)| fixed == name) {
            *known =
                if matches!((*known, kind), ("long", "double") | ("double", "long")) { "double" } else { "keyword" };
        }
    }
    types
}

/// The types as a mapping has them: what stands behind a dot is a property, or, where the name before it is a field itself, one of its
/// fields.
pub(super) fn mapping(types: &BTreeMap<String, &'static str>) -> Json {
    let mut root = json!({});
    for (name, kind) in types {
        let mut at = &mut root;
        let mut known = String::new();
        for part in name.split('.') {
            let inner = if known.is_empty() || !types.contains_key(&known) { "properties" } else { "fields" };
            if !known.is_empty() {
                known.push('.');
            }
            known.push_str(part);
            at = &mut at[inner][part];
            if !at.is_object() {
                *at = json!({});
            }
        }
        at["type"] = json!(kind);
    }
    root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_records() {
        for (name, field) in [
            ("@timestamp", Field::Time),
            ("message", Field::Body),
            ("message.keyword", Field::Body),
            ("trace_id", Field::Keyword("trace".into())),
            ("service.name", Field::Keyword("service".into())),
            ("level.keyword", Field::Keyword("level".into())),
            ("span_id", Field::Span),
            ("gpu.index", Field::Attribute("gpu.index".into())),
            ("severity", Field::Attribute("severity".into())),
            ("_id", Field::Id),
        ] {
            assert_eq!(Field::named(name), field, "{name}");
        }
    }

    #[test]
    fn a_mapping_nests_names_and_keeps_both_meanings_of_one() {
        let attributes = json!({"gpu.index": 1, "gpu.memory": 1.5, "host.name": "a", "ok": true, "x": 1});
        let (Json::Object(first), Json::Object(second)) = (attributes, json!({"x": "text"})) else { panic!() };
        let types = types([&first, &second].into_iter());
        assert_eq!(
            (types["gpu.index"], types["gpu.memory"], types["x"], types["ok"]),
            ("long", "double", "keyword", "boolean")
        );
        let mapping = mapping(&types);
        assert_eq!(mapping["properties"]["gpu"]["properties"]["index"]["type"], "long");
        assert_eq!(mapping["properties"]["@timestamp"]["type"], "date");
        assert_eq!(mapping["properties"]["host"]["type"], "keyword");
        assert_eq!(mapping["properties"]["host"]["fields"]["name"]["type"], "keyword");
    }
}
