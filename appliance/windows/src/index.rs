//! One window: a tantivy index whose terms carry the names of the values.
//!
//! | field | holds |
//! | --- | --- |
//! | `time`, `seq` | columns; documents are sorted by time, newest first |
//! | `term` | `name NUL k value` for a keyword, `name NUL i begin` for an id, `name NUL n` where a number is, `name NUL t` where a text is |
//! | `word` | `name NUL word`; with positions where phrases cannot be looked up in the source |
//! | `number` | columns, one for each name that has numbers |
//! | `source` | the answer, compressed |
//!
//! The payload of each commit is a [`Summary`]. It is read from `meta.json` without opening the index.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tantivy::directory::error::OpenReadError;
use tantivy::directory::{Directory, MmapDirectory};
use tantivy::indexer::{IndexWriterOptions, LogMergePolicy};
use tantivy::schema::{
    BytesOptions, Field, IndexRecordOption, JsonObjectOptions, NumericOptions, OwnedValue, Schema, TextFieldIndexing,
    TextOptions,
};
use tantivy::store::{Compressor, ZstdCompressor};
use tantivy::tokenizer::TextAnalyzer;
use tantivy::{
    Index, IndexReader, IndexSettings, IndexSortByField, IndexWriter, Order, ReloadPolicy, Searcher, TantivyDocument,
    TantivyError, Term,
};

use crate::document::{Document, Shared, Value, id_key, keyword_key};
use crate::tokens::{Terms, Words, put_section, put_term};

pub(crate) const META_FILE: &str = "meta.json";
const WORDS: &str = "backlot_words";
/// What the schema calls the way of terms. Windows of before terms came framed say so too, and read as they did.
const TERMS: &str = "raw";
const SUMMARY_VERSION: u32 = 1;
/// Sources that are compressed together while they come in, and once for good when their window rests: neighbours in time say much
/// the same, so the more, the smaller, and the longer it takes to unpack a single one.
const HOT_BLOCK_BYTES: usize = 128 * 1024;
const REST_BLOCK_BYTES: usize = 256 * 1024;
/// Blocks of sources that a reader keeps unpacked.
const STORE_CACHE_BLOCKS: usize = 4;
/// How hard they are compressed.
const HOT_LEVEL: i32 = 1;
const REST_LEVEL: i32 = 12;
/// Integers up to here are exact as floats.
const EXACT_MAX: f64 = (1_u64 << 53) as f64;

/// A segment with a larger part of deleted documents is written anew.
const DELETED_RATIO_MAX: f32 = 0.3;

/// What a window holds, as of its last commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) version: u32,
    /// Everything of the journal before this position that belongs here is in.
    pub(crate) applied: u64,
    pub(crate) min_ns: i64,
    pub(crate) max_ns: i64,
    pub(crate) documents: u64,
    /// Of the sources, before compression.
    pub(crate) bytes: u64,
    pub(crate) first_arrival_ms: u64,
    pub(crate) last_arrival_ms: u64,
    /// Nothing more comes in.
    pub(crate) closed: bool,
    /// Which journal `applied` is a position of: one that was made anew has the next number.
    #[serde(default)]
    pub(crate) journal: u32,
    /// Everything of the journal before this position is in, of all chains. Windows of before there were classes do not say.
    #[serde(default)]
    pub(crate) whole: Option<u64>,
    /// Which classes there were: see `Options::classes_mark`.
    #[serde(default)]
    pub(crate) classes: u64,
    /// How long its class keeps its windows.
    #[serde(default)]
    pub(crate) retention_ms: Option<u64>,
}

impl Summary {
    pub(crate) fn empty() -> Self {
        Self {
            version: SUMMARY_VERSION,
            applied: 0,
            min_ns: i64::MAX,
            max_ns: i64::MIN,
            documents: 0,
            bytes: 0,
            first_arrival_ms: 0,
            last_arrival_ms: 0,
            closed: false,
            journal: 0,
            whole: None,
            classes: 0,
            retention_ms: None,
        }
    }

    pub(crate) fn count(&mut self, document: &Document, arrived_ms: u64) {
        if self.documents == 0 {
            self.first_arrival_ms = arrived_ms;
        }
        self.last_arrival_ms = self.last_arrival_ms.max(arrived_ms);
        self.min_ns = self.min_ns.min(document.time_ns);
        self.max_ns = self.max_ns.max(document.time_ns);
        self.documents += 1;
        self.bytes += document.source.len() as u64;
    }
}

/// What `meta.json` says of a window.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) summary: Summary,
    /// It is one segment, and its sources are packed for good.
    pub(crate) rests: bool,
}

/// Why a window could not be read.
#[derive(Clone, Debug)]
pub(crate) struct IndexFault {
    pub(crate) problem: String,
    /// The files are at fault for certain. Otherwise it may be want of memory or of file handles.
    pub(crate) is_damage: bool,
}

impl IndexFault {
    pub(crate) fn damage(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), is_damage: true }
    }
}

impl std::fmt::Display for IndexFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.problem)
    }
}

impl From<TantivyError> for IndexFault {
    fn from(error: TantivyError) -> Self {
        let is_damage = match &error {
            TantivyError::OpenReadError(OpenReadError::IoError { .. }) => false,
            TantivyError::OpenReadError(_) | TantivyError::DataCorruption(_) | TantivyError::SchemaError(_) => true,
            _ => false,
        };
        Self { problem: error.to_string(), is_damage }
    }
}

/// Reads the meta file of the window in `dir`; `None` when there is none.
pub(crate) fn read_meta(dir: &Path) -> Result<Option<Meta>, String> {
    match std::fs::read_to_string(dir.join(META_FILE)) {
        Ok(text) => parse_meta(&text).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn parse_meta(text: &str) -> Result<Meta, String> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Settings {
        docstore_blocksize: usize,
    }
    #[derive(Deserialize)]
    struct File {
        index_settings: Settings,
        segments: Vec<serde::de::IgnoredAny>,
        payload: Option<String>,
    }
    let file: File = serde_json::from_str(text).map_err(|error| format!("{META_FILE}: {error}"))?;
    let summary = match file.payload {
        Some(payload) => serde_json::from_str(&payload).map_err(|error| format!("payload of the commit: {error}"))?,
        None => Summary::empty(),
    };
    if summary.version > SUMMARY_VERSION {
        return Err(format!("was written by a later version ({})", summary.version));
    }
    let rests = file.segments.len() <= 1 && file.index_settings.docstore_blocksize == REST_BLOCK_BYTES;
    Ok(Meta { summary, rests })
}

/// Reads `text` as a window's `meta.json` and as the payload in one, and throws the outcome away: for fuzzing.
pub fn fuzz_meta(text: &str) {
    let _ = parse_meta(text);
    let _ = parse_meta(&serde_json::json!({"index_settings": {}, "segments": [], "payload": text}).to_string());
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields {
    pub(crate) time: Field,
    pub(crate) seq: Field,
    pub(crate) term: Field,
    pub(crate) word: Field,
    pub(crate) number: Field,
    pub(crate) source: Field,
    /// Words have positions.
    pub(crate) positions: bool,
}

pub(crate) const TIME: &str = "time";
pub(crate) const SEQ: &str = "seq";
const NUMBER: &str = "number";

fn schema(positions: bool) -> (Schema, Fields) {
    let text = |tokenizer: &str, record| {
        TextOptions::default().set_indexing_options(
            TextFieldIndexing::default().set_tokenizer(tokenizer).set_index_option(record).set_fieldnorms(false),
        )
    };
    let words = if positions { IndexRecordOption::WithFreqsAndPositions } else { IndexRecordOption::Basic };
    let mut builder = Schema::builder();
    let fields = Fields {
        time: builder.add_i64_field(TIME, NumericOptions::default().set_fast()),
        seq: builder.add_u64_field(SEQ, NumericOptions::default().set_fast()),
        term: builder.add_text_field("term", text(TERMS, IndexRecordOption::Basic)),
        word: builder.add_text_field("word", text(WORDS, words)),
        number: builder.add_json_field(NUMBER, JsonObjectOptions::default().set_fast("raw")),
        source: builder.add_bytes_field("source", BytesOptions::default().set_stored()),
        positions,
    };
    (builder.build(), fields)
}

/// A window that can be searched, and written while it has a writer.
#[derive(Clone)]
pub(crate) struct Window {
    index: Index,
    reader: IndexReader,
    pub(crate) fields: Fields,
}

impl Window {
    /// `positions`: whether words have them. Phrases are looked up in the sources otherwise.
    pub(crate) fn create(dir: &Path, positions: bool) -> tantivy::Result<Self> {
        let (schema, fields) = schema(positions);
        let settings = IndexSettings {
            sort_by_field: Some(IndexSortByField { field: TIME.to_owned(), order: Order::Desc }),
            docstore_compression: zstd(HOT_LEVEL),
            docstore_compress_dedicated_thread: false,
            docstore_blocksize: HOT_BLOCK_BYTES,
            ..IndexSettings::default()
        };
        let directory = MmapDirectory::open(dir)?;
        Self::with(Index::create(directory, schema, settings)?, fields)
    }

    pub(crate) fn open(dir: &Path, positions: bool) -> tantivy::Result<Self> {
        Self::open_in(Box::new(MmapDirectory::open(dir)?), positions)
    }

    pub(crate) fn open_in(directory: Box<dyn Directory>, positions: bool) -> tantivy::Result<Self> {
        let (wanted, fields) = schema(positions);
        let index = Index::open(directory)?;
        if index.schema() != wanted {
            return Err(TantivyError::SchemaError("not the schema of this version".into()));
        }
        Self::with(index, fields)
    }

    fn with(index: Index, fields: Fields) -> tantivy::Result<Self> {
        index.tokenizers().register(WORDS, TextAnalyzer::from(Words::default()));
        index.tokenizers().register(TERMS, TextAnalyzer::from(Terms::default()));
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .doc_store_cache_num_blocks(STORE_CACHE_BLOCKS)
            .try_into()?;
        Ok(Self { index, reader, fields })
    }

    /// As of the last [`Window::refresh`].
    pub(crate) fn searcher(&self) -> Searcher {
        self.reader.searcher()
    }

    pub(crate) fn refresh(&self) -> tantivy::Result<()> {
        self.reader.reload()
    }

    pub(crate) fn writer(&self, bytes: usize) -> tantivy::Result<Writer> {
        let options = IndexWriterOptions::builder()
            .memory_budget_per_thread(bytes)
            .num_worker_threads(1)
            .num_merge_threads(1)
            .build();
        let writer: IndexWriter = self.index.writer_with_options(options)?;
        let mut policy = LogMergePolicy::default();
        policy.set_del_docs_ratio_before_merge(DELETED_RATIO_MAX); // windows have none
        writer.set_merge_policy(Box::new(policy));
        Ok(Writer { writer, fields: self.fields })
    }

    /// What was handed to the last commit.
    pub(crate) fn payload(&self) -> tantivy::Result<Option<String>> {
        self.index.load_metas().map(|metas| metas.payload)
    }

    /// Merges all segments into one and compresses the sources harder, so that the window can rest.
    pub(crate) fn merge(&self, bytes: usize) -> tantivy::Result<()> {
        // Blocks of the same compressor are copied as they are; what was LZ4 in between is compressed anew.
        self.merge_with(bytes, Compressor::Lz4, HOT_BLOCK_BYTES)?;
        self.merge_with(bytes, zstd(REST_LEVEL), REST_BLOCK_BYTES)
    }

    fn merge_with(&self, bytes: usize, compressor: Compressor, block_bytes: usize) -> tantivy::Result<()> {
        let mut merged = self.clone();
        let settings = merged.index.settings_mut();
        (settings.docstore_compression, settings.docstore_blocksize) = (compressor, block_bytes);
        let mut writer = merged.writer(bytes)?.writer;
        let segments = merged.index.searchable_segment_ids()?;
        if !segments.is_empty() {
            writer.merge(&segments).wait()?;
        }
        writer.garbage_collect_files().wait()?;
        writer.wait_merging_threads()
    }
}

fn zstd(level: i32) -> Compressor {
    Compressor::Zstd(ZstdCompressor { compression_level: Some(level) })
}

/// Adds the positions from `begin` on of all documents.
pub(crate) fn seqs_from(searcher: &Searcher, begin: u64, seqs: &mut Vec<u64>) -> tantivy::Result<()> {
    for reader in searcher.segment_readers() {
        let column = reader.fast_fields().u64(SEQ)?.first_or_default_col(0);
        seqs.extend((0..reader.max_doc()).map(|document| column.get_val(document)).filter(|seq| *seq >= begin));
    }
    Ok(())
}

/// The files of the window in `dir` whose bytes are not what was written. Reads all of them.
pub(crate) fn broken_files(dir: &Path) -> Vec<PathBuf> {
    let checked = Index::open_in_dir(dir).and_then(|index| index.validate_checksum());
    let mut broken: Vec<_> = checked.unwrap_or_default().into_iter().collect();
    broken.sort();
    broken
}

/// Takes documents into a window.
pub(crate) struct Writer {
    writer: IndexWriter,
    fields: Fields,
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
    pub(crate) fn add(&self, document: &Document) -> tantivy::Result<()> {
        let Fields { time, seq, term, word, number, source, .. } = self.fields;
        let mut made = document.shared().map_or_else(Prepared::default, |shared| shared.prepared().clone());
        document.own_fields().for_each(|(name, value)| made.put(name, value));
        let bytes = made.terms.len() + made.words.len() + document.source.len();
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
        to.add_bytes(source, &document.source);
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

    pub(crate) fn commit(&mut self, summary: &Summary) -> tantivy::Result<()> {
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

/// What stands between name and value in a term.
const KEYWORD: &str = "\0k";
const ID: &str = "\0i";
const NUMBERED: &str = "\0n";
const TEXT: &str = "\0t";

pub(crate) fn keyword_term(name: &str, value: &str) -> String {
    [name, KEYWORD, keyword_key(value)].concat()
}

/// That there is a text of this name.
pub(crate) fn text_term(name: &str) -> String {
    [name, TEXT].concat()
}

pub(crate) fn id_term(name: &str, value: &str) -> String {
    [name, ID, id_key(value)].concat()
}

/// Where a number of this name is.
pub(crate) fn number_term(name: &str) -> String {
    [name, NUMBERED].concat()
}

/// The column of a name. Dots and backslashes have a meaning in the paths of columns, control characters are in no name.
pub(crate) fn column(name: &str) -> String {
    if !name.contains(['.', '\\']) {
        return name.to_owned();
    }
    name.chars()
        .map(|c| {
            if c == '.' {
                '\u{2}'
            } else if c == '\\' {
                '\u{3}'
            } else {
                c
            }
        })
        .collect()
}

/// The column of a name as a segment's reader knows it.
pub(crate) fn column_path(name: &str) -> String {
    format!("{NUMBER}.{}", column(name))
}

/// As an integer where it is one: columns of integers take less room.
fn numeric(value: f64) -> OwnedValue {
    #[allow(clippy::cast_possible_truncation, reason = "it is a whole number in the range of i64")]
    if value.fract() == 0.0 && value.abs() < EXACT_MAX { OwnedValue::I64(value as i64) } else { OwnedValue::F64(value) }
}
