//! What can be asked of documents, and whether one answers to it.

use std::borrow::Cow;
use std::ops::Bound;

use crate::document::{Document, Value, keyword_key, word_key, words};
use crate::pattern::Pattern;

/// Words as long as this may have been cut.
pub(crate) const CUT_BYTES: usize = 120;

/// A question, independent of any query language. Names and values are compared as [`Document::add`] describes.
#[derive(Clone, Debug, PartialEq)]
pub enum Query {
    All,
    Nothing,
    /// A keyword with this value.
    Keyword {
        name: String,
        value: String,
    },
    /// A keyword that begins so.
    KeywordPrefix {
        name: String,
        prefix: String,
    },
    /// An id that is this or, unless it is asked for as a `whole`, begins so.
    Id {
        name: String,
        begin: String,
        whole: bool,
    },
    /// A text or keyword with this in it, letter for letter.
    Contains {
        name: String,
        text: String,
    },
    /// A text or keyword that the expression matches.
    Matches {
        name: String,
        pattern: Pattern,
    },
    /// These words in this order, side by side, in one text. Made by [`Query::text`].
    Words {
        name: String,
        words: Vec<String>,
    },
    /// A word that begins so.
    WordPrefix {
        name: String,
        prefix: String,
    },
    /// A word that has this in it, whatever its case, or one so long that the index does not know all of it.
    WordInfix {
        name: String,
        part: String,
    },
    /// A number within both bounds.
    Number {
        name: String,
        from: Bound<f64>,
        to: Bound<f64>,
    },
    /// A moment from `from_ns` to `to_ns`, both included, in nanoseconds since 1970.
    Time {
        from_ns: i64,
        to_ns: i64,
    },
    /// Any value of this name.
    Exists {
        name: String,
    },
    /// Documents of these numbers ([`Document::seq`]). Made by [`Query::seqs`].
    Seqs(Vec<u64>),
    /// All of them; of none, everything.
    And(Vec<Query>),
    /// At least one of them; of none, nothing.
    Or(Vec<Query>),
    Not(Box<Query>),
}

impl Query {
    /// The words of `text` side by side; nothing when there is no word in it.
    #[must_use]
    pub fn text(name: &str, text: &str) -> Self {
        let words: Vec<_> = words(text).map(|word| word_key(word).into_owned()).collect();
        if words.is_empty() { Self::Nothing } else { Self::Words { name: name.to_owned(), words } }
    }

    /// The documents of these numbers; of none, nothing.
    #[must_use]
    pub fn seqs(seqs: impl IntoIterator<Item = u64>) -> Self {
        let mut seqs: Vec<_> = seqs.into_iter().collect();
        seqs.sort_unstable();
        seqs.dedup();
        if seqs.is_empty() { Self::Nothing } else { Self::Seqs(seqs) }
    }

    /// The first and the last moment that a document which answers can have, both included, in nanoseconds since 1970.
    #[must_use]
    pub fn span(&self) -> (i64, i64) {
        const ALL: (i64, i64) = (i64::MIN, i64::MAX);
        match self {
            Self::Time { from_ns, to_ns } => (*from_ns, *to_ns),
            Self::And(all) => {
                all.iter().map(Self::span).fold(ALL, |(from, to), span| (from.max(span.0), to.min(span.1)))
            }
            Self::Or(some) => some.iter().map(Self::span).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or(ALL),
            _ => ALL,
        }
    }

    /// The same question of documents within [`span`](Self::span) alone: a range of time that holds for all that answers is left out of it,
    /// since a walk over documents in the order of time begins and ends with it.
    pub(crate) fn within_span(&self) -> Cow<'_, Self> {
        let is_time = |query: &Self| matches!(query, Self::Time { .. });
        match self {
            Self::Time { .. } => Cow::Owned(Self::All),
            Self::And(all) if all.iter().any(is_time) => {
                let mut rest: Vec<_> = all.iter().filter(|query| !is_time(query)).cloned().collect();
                Cow::Owned(if rest.len() == 1 { rest.remove(0) } else { Self::And(rest) })
            }
            _ => Cow::Borrowed(self),
        }
    }

    /// Whether a document that answers may have a number before `end`.
    pub(crate) fn may_be_before(&self, end: u64) -> bool {
        match self {
            Self::Seqs(seqs) => seqs.first().is_some_and(|first| *first < end),
            Self::And(all) => all.iter().all(|query| query.may_be_before(end)),
            Self::Or(some) => some.iter().any(|query| query.may_be_before(end)),
            _ => true,
        }
    }

    #[must_use]
    pub fn keyword(name: &str, value: &str) -> Self {
        Self::Keyword { name: name.to_owned(), value: value.to_owned() }
    }

    /// Whether `document` answers to it.
    #[must_use]
    pub fn matches(&self, document: &Document) -> bool {
        match self {
            Self::All => true,
            Self::Nothing => false,
            Self::Keyword { name, value } => {
                any_keyword(document, name, |keyword| keyword_key(keyword) == keyword_key(value))
            }
            Self::KeywordPrefix { name, prefix } => {
                any_keyword(document, name, |keyword| keyword_key(keyword).starts_with(keyword_key(prefix)))
            }
            Self::Id { name, begin, whole } => document.values(name).any(|value| match value {
                Value::Id(id) if *whole => keyword_key(id) == keyword_key(begin),
                Value::Id(id) => id.starts_with(begin.as_str()),
                _ => false,
            }),
            Self::Contains { name, text } => any_string(document, name, |value| value.contains(text.as_str())),
            Self::Matches { name, pattern } => any_string(document, name, |value| pattern.is_match(value)),
            Self::Words { name, words: wanted } => any_text(document, name, |text| has_phrase(text, wanted)),
            Self::WordPrefix { name, prefix } => any_text(document, name, |text| {
                words(text).any(|word| word_key(word).starts_with(word_key(prefix).as_ref()))
            }),
            Self::WordInfix { name, part } => {
                any_text(document, name, |text| words(text).any(|word| has_within(&word_key(word), &word_key(part))))
            }
            Self::Number { name, from, to } => document
                .values(name)
                .any(|value| matches!(value, Value::Number(number) if in_bounds(*number, *from, *to))),
            Self::Time { from_ns, to_ns } => (*from_ns..=*to_ns).contains(&document.time_ns),
            Self::Exists { name } => document.values(name).next().is_some(),
            Self::Seqs(seqs) => seqs.binary_search(&document.seq).is_ok(),
            Self::And(all) => all.iter().all(|query| query.matches(document)),
            Self::Or(some) => some.iter().any(|query| query.matches(document)),
            Self::Not(query) => !query.matches(document),
        }
    }
}

fn any_keyword(document: &Document, name: &str, test: impl Fn(&str) -> bool) -> bool {
    document.values(name).any(|value| matches!(value, Value::Keyword(keyword) if test(keyword)))
}

fn any_text(document: &Document, name: &str, test: impl Fn(&str) -> bool) -> bool {
    document.values(name).any(|value| matches!(value, Value::Text(text) if test(text)))
}

fn any_string(document: &Document, name: &str, test: impl Fn(&str) -> bool) -> bool {
    document.values(name).any(|value| match value {
        Value::Keyword(text) | Value::Id(text) | Value::Text(text) => test(text),
        Value::Number(_) => false,
    })
}

fn has_phrase(text: &str, wanted: &[String]) -> bool {
    let is = |word: &str, key: &String| word_key(word) == key.as_str();
    match wanted {
        [] => false,
        [one] => words(text).any(|word| is(word, one)),
        _ => {
            let words: Vec<_> = words(text).collect();
            words.windows(wanted.len()).any(|run| run.iter().zip(wanted).all(|(word, key)| is(word, key)))
        }
    }
}

/// Whether a word, as it is compared, has `part` in it, or may have it where it was cut.
pub(crate) fn has_within(word: &str, part: &str) -> bool {
    word.len() >= CUT_BYTES || word.contains(part)
}

fn in_bounds(number: f64, from: Bound<f64>, to: Bound<f64>) -> bool {
    let above = match from {
        Bound::Included(from) => number >= from,
        Bound::Excluded(from) => number > from,
        Bound::Unbounded => true,
    };
    let below = match to {
        Bound::Included(to) => number <= to,
        Bound::Excluded(to) => number < to,
        Bound::Unbounded => true,
    };
    above && below
}
