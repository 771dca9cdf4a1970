//! What is indexed: named values, and how text becomes words.
//!
//! The same functions make the terms of the index and judge the documents in the ring, so that both find the same.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use crate::index::Prepared;

/// Longest name of a value; a longer one is cut.
const NAME_BYTES_MAX: usize = 256;
/// A keyword is compared by this many of its first bytes.
const KEYWORD_BYTES_MAX: usize = 512;
/// So much of an id is indexed.
const ID_BYTES: usize = 4;
/// A word is compared by this many of its first bytes: a line of base64 is one word.
const WORD_BYTES_MAX: usize = 128;

/// Something that is searched for and answered as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Document {
    /// Nanoseconds since 1970.
    pub time_ns: i64,
    /// Position in the journal, unique and rising.
    pub seq: u64,
    fields: Vec<(Cow<'static, str>, Value)>,
    shared: Option<Arc<Shared>>,
    /// What the search answers with.
    pub source: Vec<u8>,
}

/// Values that many documents have alike, such as those of whoever wrote them: held once, and made into terms once.
#[derive(Debug, Default)]
pub struct Shared {
    fields: Vec<(Cow<'static, str>, Value)>,
    prepared: OnceLock<Prepared>,
}

impl PartialEq for Shared {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Shared {
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.fields.iter().map(|(name, value)| (name.as_ref(), value))
    }

    pub(crate) fn prepared(&self) -> &Prepared {
        self.prepared.get_or_init(|| Prepared::of(self))
    }
}

impl From<Document> for Shared {
    /// The values of a document that is made for nothing else.
    fn from(document: Document) -> Self {
        Self { fields: document.fields, prepared: OnceLock::new() }
    }
}

/// A value to be found by.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Found as a whole or by its beginning; upper and lower case differ.
    Keyword(String),
    /// As a keyword, where about every document has one of its own: only its first bytes are indexed, the rest is looked up.
    Id(String),
    /// Found by its words and phrases, whatever their case.
    Text(String),
    /// Found by range. Integers beyond 2^53 are rounded.
    Number(f64),
}

impl Document {
    #[must_use]
    pub fn new(time_ns: i64, seq: u64) -> Self {
        Self { time_ns, seq, ..Self::default() }
    }

    /// Adds a value; a name may have several. NaN is not found by anything and left out.
    pub fn add(&mut self, name: impl Into<Cow<'static, str>>, value: Value) {
        if matches!(value, Value::Number(number) if number.is_nan()) {
            return;
        }
        self.fields.push((name_key(name.into()), value));
    }

    /// Makes room for so many more values of its own.
    pub fn reserve(&mut self, values: usize) {
        self.fields.reserve(values);
    }

    /// Adds values that other documents have too.
    pub fn share(&mut self, shared: Arc<Shared>) {
        self.shared = Some(shared);
    }

    /// Keeps the values that pass; what the search answers with stays as it is. `passed` are shared values all of which have passed, and are not asked
    /// about again: the next document most likely has the same.
    pub fn retain(&mut self, passed: &mut Option<Arc<Shared>>, mut keep: impl FnMut(&str, &Value) -> bool) {
        self.fields.retain(|(name, value)| keep(name, value));
        let Some(shared) = self.shared.take() else { return };
        if passed.as_ref().is_some_and(|passed| Arc::ptr_eq(passed, &shared)) {
            self.shared = Some(shared);
            return;
        }
        let kept: Vec<bool> = shared.fields().map(|(name, value)| keep(name, value)).collect();
        if kept.iter().all(|kept| *kept) {
            *passed = Some(Arc::clone(&shared));
            self.shared = Some(shared);
        } else {
            let passed = shared.fields.iter().zip(kept).filter(|(_, kept)| *kept);
            self.fields.extend(passed.map(|(field, _)| field.clone()));
        }
    }

    /// Its own values, and those it shares.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.own_fields().chain(self.shared().into_iter().flat_map(Shared::fields))
    }

    pub(crate) fn own_fields(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.fields.iter().map(|(name, value)| (name.as_ref(), value))
    }

    pub(crate) fn shared(&self) -> Option<&Shared> {
        self.shared.as_deref()
    }

    /// What has this name.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        self.fields().filter(move |(of, _)| *of == name).map(|(_, value)| value)
    }
}

/// The part of `text` that fits into `bytes_max`, cut between characters.
#[must_use]
pub fn clip(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

/// A name as it stands in terms and columns. NUL separates name and value there, and the other control characters have meanings
/// in the names of columns, so none can be in a name.
pub(crate) fn name_key(name: Cow<'static, str>) -> Cow<'static, str> {
    let has_room = name.len() <= NAME_BYTES_MAX;
    if has_room && !name.bytes().any(|byte| byte < b' ') {
        return name;
    }
    clip(&name, NAME_BYTES_MAX).replace(|c: char| c < ' ', "\u{fffd}").into()
}

/// The part of an id that is indexed.
pub(crate) fn id_key(value: &str) -> &str {
    clip(value, ID_BYTES)
}

/// A keyword as it is compared.
pub(crate) fn keyword_key(value: &str) -> &str {
    clip(value, KEYWORD_BYTES_MAX)
}

/// The words of a text: runs of letters and digits, as they stand there.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// The part of a word that is compared.
pub(crate) fn clip_word(word: &str) -> &str {
    clip(word, WORD_BYTES_MAX)
}

/// A word as it is compared: its beginning, in lower case.
#[must_use]
pub fn word_key(word: &str) -> Cow<'_, str> {
    let word = clip_word(word);
    if word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(word.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_and_digits_in_lower_case() {
        let keys: Vec<_> = words("CUDA_error: out of memory (GPU-0) Ünïcode é").map(word_key).collect();
        assert_eq!(keys, ["cuda", "error", "out", "of", "memory", "gpu", "0", "ünïcode", "é"]);
    }

    #[test]
    fn long_words_names_and_nul_are_bounded() {
        let long = "ä".repeat(1000);
        assert_eq!(word_key(&long).chars().count(), 64);
        let mut document = Document::new(0, 0);
        document.add("a\0b", Value::Number(1.0));
        document.add("n".repeat(1000), Value::Number(f64::NAN));
        document.add("n".repeat(1000), Value::Number(2.0));
        let names: Vec<_> = document.fields().map(|(name, _)| name.len()).collect();
        assert_eq!(names, ["a\u{fffd}b".len(), 256]);
    }
}
