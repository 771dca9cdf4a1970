//! What the [query language](crate::parse) means by its names, which differs between logs, spans and jobs.

use std::ops::Bound;

use crate::Query;

/// What names mean where the language is spoken.
pub trait Dialect {
    /// The name as documents have it: people may write another.
    fn field(&self, written: &str) -> String;

    /// Where a word without a name is looked for.
    fn text(&self) -> &str;

    /// Whether values of `name` are found as a whole, or by their beginning.
    fn is_keyword(&self, name: &str) -> bool;

    /// Whether values of `name` are ids, found as keywords are.
    fn is_id(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Whether regular expressions may be asked for: they need sources that can be read back.
    fn takes_patterns(&self) -> bool {
        false
    }

    /// A keyword as documents have it.
    fn keyword(&self, name: &str, value: &str) -> String {
        let _ = name;
        value.to_owned()
    }

    /// The beginning of a keyword as documents have it.
    fn keyword_prefix(&self, name: &str, prefix: &str) -> String {
        let _ = name;
        prefix.to_owned()
    }

    /// What `name:value` asks for, where values of this name are written in a way of their own. `None`: words or a number.
    fn value(&self, name: &str, value: &str) -> Option<Result<Query, String>> {
        let _ = (name, value);
        None
    }

    /// What `name:begin*` asks for, where values of this name are looked up in a way of their own; `name:*` with an empty `begin`. `None`:
    /// the beginning of a keyword or of a word.
    fn beginning(&self, name: &str, begin: &str) -> Option<Result<Query, String>> {
        let _ = (name, begin);
        None
    }

    /// The moment that `text` names, in nanoseconds since 1970, where `name` is that of the documents' own time: the first one, or with
    /// `end` the last one, of the day or second that it names. `None`: `name` is another.
    fn moment(&self, name: &str, text: &str, end: bool) -> Option<Result<i64, String>> {
        let _ = (name, text, end);
        None
    }

    /// One end of a range, where numbers of this name are written in a way of their own. Where the text names a span (a day),
    /// `end` asks for its end. `None`: a plain number.
    fn edge(&self, name: &str, text: &str, end: bool) -> Option<Result<f64, String>> {
        let _ = (name, text, end);
        None
    }

    /// A range of numbers.
    fn range(&self, name: &str, from: Bound<f64>, to: Bound<f64>) -> Query {
        Query::Number { name: name.to_owned(), from, to }
    }
}
