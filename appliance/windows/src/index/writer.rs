//! How documents get into a window: what of their values is indexed, and how.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use tantivy::schema::OwnedValue;
use tantivy::{IndexWriter, TantivyDocument, TantivyError, Term};

use super::{Fields, ID, KEYWORD, NUMBERED, Source, TEXT, column, keyword_term};
use crate::document::{Document, Shared, Value, id_key, keyword_key};
use crate::rows::Packer;
use crate::summary::Summary;
use crate::tokens::{put_section, put_term};

/// Integers up to here are exact as floats.
const EXACT_MAX: f64 = (1_u64 << 53) as f64;

/// Takes documents into a window.
pub(crate) struct Writer {
    writer: IndexWriter,
    fields: Fields,
    /// Where sources stand as rows.
    packer: Option<Packer>,
}

/// What values are in the index. tantivy takes each text that it is handed as a value of its own, with a tokenizer of its own, so all terms are one
/// text here, and all words another.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prepared {
    terms: String,
    words: String,
    numbers: Vec<(String, f64)>,
}

impl Prepared {
    pub(crate) fn of(shared: &Shared) -> Self {
        let mut made = Self::default();
        shared.fields().for_each(|(name, value)| made.put(name, value));
        made
    }

    fn put(&mut self, name: &str, value: &Value) {
        let (kind, key) = match value {
            Value::Keyword(value) => (KEYWORD, keyword_key(value)),
            Value::Id(value) => (ID, id_key(value)),
            Value::Number(value) => {
                self.numbers.push((column(name), *value));
                (NUMBERED, "")
            }
            Value::Text(value) => {
                put_section(&mut self.words, name, value);
                (TEXT, "")
            }
        };
        put_term(&mut self.terms, [name, kind, key]);
    }
}

impl Writer {
    pub(super) fn new(writer: IndexWriter, fields: Fields, packer: Option<Packer>) -> Self {
        Self { writer, fields, packer }
    }

    pub(crate) fn add(&mut self, document: &Document) -> tantivy::Result<()> {
        let Fields { time, seq, term, word, number, source: Source { field: source, .. }, .. } = self.fields;
        let mut made = document.shared().map_or_else(Prepared::default, |shared| shared.prepared().clone());
        document.own_fields().for_each(|(name, value)| made.put(name, value));
        let row = self.packer.as_mut().map(|packer| packer.pack(&document.source));
        let stored = row.as_ref().unwrap_or(&document.source);
        let bytes = made.terms.len() + made.words.len() + stored.len();
        let mut to = TantivyDocument::with_capacity(bytes + 64 * (1 + made.numbers.len()));
        to.add_i64(time, document.time_ns);
        to.add_u64(seq, document.seq);
        to.add_text(term, &made.terms);
        if !made.words.is_empty() {
            to.add_text(word, &made.words);
        }
        if !made.numbers.is_empty() {
            let mut numbers = BTreeMap::new();
            made.numbers.into_iter().for_each(|(column, value)| put_number(&mut numbers, column, value));
            to.add_object(number, numbers);
        }
        to.add_bytes(source, stored);
        self.writer.add_document(to).map(drop)
    }

    /// Takes away the documents that were added with the keyword `value` under `name`, up to now.
    pub(crate) fn delete(&self, name: &str, value: &str) {
        self.writer.delete_term(Term::from_field_text(self.fields.term, &keyword_term(name, value)));
    }

    pub(crate) fn commit_with(&mut self, payload: &str) -> tantivy::Result<()> {
        let mut prepared = self.writer.prepare_commit()?;
        prepared.set_payload(payload);
        prepared.commit().map(drop)
    }

    pub(crate) fn commit(&mut self, summary: &mut Summary) -> tantivy::Result<()> {
        if let Some(packer) = &mut self.packer {
            summary.tables_bytes = packer.save()?;
        }
        let payload = serde_json::to_string(summary)
            .map_err(|error| TantivyError::InternalError(format!("write summary: {error}")))?;
        self.commit_with(&payload)
    }

    /// Ends the writer after the merges under way.
    pub(crate) fn finish(self) -> tantivy::Result<()> {
        self.writer.wait_merging_threads()
    }
}

fn put_number(numbers: &mut BTreeMap<String, OwnedValue>, column: String, value: f64) {
    match numbers.entry(column) {
        Entry::Vacant(vacant) => drop(vacant.insert(numeric(value))),
        Entry::Occupied(mut taken) => {
            let before = taken.insert(OwnedValue::Null);
            taken.insert(match before {
                OwnedValue::Array(mut several) => {
                    several.push(numeric(value));
                    OwnedValue::Array(several)
                }
                one => OwnedValue::Array(vec![one, numeric(value)]),
            });
        }
    }
}

/// As an integer where it is one: columns of integers take less room.
fn numeric(value: f64) -> OwnedValue {
    #[allow(clippy::cast_possible_truncation, reason = "it is a whole number in the range of i64")]
    if value.fract() == 0.0 && value.abs() < EXACT_MAX { OwnedValue::I64(value as i64) } else { OwnedValue::F64(value) }
}
