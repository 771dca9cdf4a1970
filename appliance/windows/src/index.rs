//! One window: a tantivy index whose terms carry the names of the values.
//!
//! | field | holds |
//! | --- | --- |
//! | `time`, `seq` | columns; documents are sorted by time, newest first |
//! | `term` | `name NUL k value` for a keyword, `name NUL i begin` for an id, `name NUL n` where a number is, `name NUL t` where a text is |
//! | `word` | `name NUL word`; with positions where phrases cannot be looked up in the source |
//! | `number` | columns, one for each name that has numbers |
//! | `row` | the answer, as `rows.rs` stores it, compressed |
//! | `source` | instead of `row`, the answer as it is: in what replaces its documents, and in windows of before there were rows |
//!
//! What each commit says of its window is in `summary.rs`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tantivy::directory::error::OpenReadError;
use tantivy::directory::{Directory, MmapDirectory};
use tantivy::indexer::{IndexWriterOptions, LogMergePolicy};
use tantivy::schema::{
    BytesOptions, Field, IndexRecordOption, JsonObjectOptions, NumericOptions, Schema, TextFieldIndexing, TextOptions,
    Value as _,
};
use tantivy::store::{Compressor, ZstdCompressor};
use tantivy::tokenizer::TextAnalyzer;
use tantivy::{
    DocAddress, Index, IndexReader, IndexSettings, IndexSortByField, IndexWriter, Order, ReloadPolicy, Searcher,
    TantivyDocument, TantivyError,
};

use crate::document::{id_key, keyword_key};
use crate::rows::{self, Packer, Tables};
use crate::summary::{self, read_meta};
use crate::tokens::{Terms, Words};

mod unmapped;
mod writer;

use unmapped::Unmapped;
pub(crate) use writer::{Prepared, Writer};

const WORDS: &str = "backlot_words";
/// What the schema calls the way of terms. Windows of before terms came framed say so too, and read as they did.
const TERMS: &str = "raw";
/// Rows that are compressed together while they come in, and once for good when their window rests: neighbours in time say much
/// the same, so the more, the smaller, and the longer it takes to unpack a single one.
const HOT_BLOCK_BYTES: usize = 32 * 1024;
const REST_BLOCK_BYTES: usize = 64 * 1024;
/// Of sources as they are, which are ten times as long.
const HOT_BLOCK_BYTES_PLAIN: usize = 128 * 1024;
const REST_BLOCK_BYTES_PLAIN: usize = 256 * 1024;
/// Blocks of sources that a reader keeps unpacked.
const STORE_CACHE_BLOCKS: usize = 4;
/// How hard they are compressed.
const HOT_LEVEL: i32 = 1;
const REST_LEVEL: i32 = 12;

/// A segment with a larger part of deleted documents is written anew.
const DELETED_RATIO_MAX: f32 = 0.3;

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

/// What an index is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Documents that are never changed: sources stand as rows, and phrases are looked up in them.
    Window,
    /// Documents that take each other's place: words have positions, and sources stand as they are.
    Current,
}

/// Whether it is the windows at rest whose sources stand in blocks of this many bytes.
pub(crate) fn are_of_rest(block_bytes: usize) -> bool {
    matches!(block_bytes, REST_BLOCK_BYTES | REST_BLOCK_BYTES_PLAIN)
}

#[derive(Clone, Debug)]
pub(crate) struct Fields {
    pub(crate) time: Field,
    pub(crate) seq: Field,
    pub(crate) term: Field,
    pub(crate) word: Field,
    pub(crate) number: Field,
    pub(crate) source: Source,
    /// Words have positions.
    pub(crate) positions: bool,
}

/// Where the answers are.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    field: Field,
    /// What rows are unpacked with; `None`: they stand as they are.
    tables: Option<Arc<Tables>>,
}

impl Source {
    pub(crate) fn read(&self, searcher: &Searcher, address: DocAddress) -> Result<Vec<u8>, IndexFault> {
        let document: TantivyDocument = searcher.doc(address)?;
        let stored = document.get_first(self.field).and_then(|value| value.as_bytes());
        let stored = stored.ok_or_else(|| IndexFault::damage("a document has no source"))?;
        match &self.tables {
            None => Ok(stored.to_vec()),
            Some(tables) => rows::unpack(stored, tables)
                .ok_or_else(|| IndexFault::damage(format!("a document is no row of {}", rows::FILE))),
        }
    }
}

pub(crate) const TIME: &str = "time";
pub(crate) const SEQ: &str = "seq";
const NUMBER: &str = "number";
const ROW: &str = "row";
const SOURCE: &str = "source";

/// With the name of the field where the answers are.
fn schema(purpose: Purpose, source: &str) -> (Schema, Fields) {
    let text = |tokenizer: &str, record| {
        TextOptions::default().set_indexing_options(
            TextFieldIndexing::default().set_tokenizer(tokenizer).set_index_option(record).set_fieldnorms(false),
        )
    };
    let positions = purpose == Purpose::Current;
    let words = if positions { IndexRecordOption::WithFreqsAndPositions } else { IndexRecordOption::Basic };
    let mut builder = Schema::builder();
    let fields = Fields {
        time: builder.add_i64_field(TIME, NumericOptions::default().set_fast()),
        seq: builder.add_u64_field(SEQ, NumericOptions::default().set_fast()),
        term: builder.add_text_field("term", text(TERMS, IndexRecordOption::Basic)),
        word: builder.add_text_field("word", text(WORDS, words)),
        number: builder.add_json_field(NUMBER, JsonObjectOptions::default().set_fast("raw")),
        source: Source { field: builder.add_bytes_field(source, BytesOptions::default().set_stored()), tables: None },
        positions,
    };
    (builder.build(), fields)
}

/// A window that can be searched, and written while it has a writer.
#[derive(Clone)]
pub(crate) struct Window {
    dir: PathBuf,
    index: Index,
    reader: IndexReader,
    pub(crate) fields: Fields,
}

impl Window {
    pub(crate) fn create(dir: &Path, purpose: Purpose) -> tantivy::Result<Self> {
        let (source, block_bytes) = match purpose {
            Purpose::Window => (ROW, HOT_BLOCK_BYTES),
            Purpose::Current => (SOURCE, HOT_BLOCK_BYTES_PLAIN),
        };
        let (schema, mut fields) = schema(purpose, source);
        if purpose == Purpose::Window {
            fields.source.tables = Some(Arc::new(Tables::create(dir)?));
        }
        let settings = IndexSettings {
            sort_by_field: Some(IndexSortByField { field: TIME.to_owned(), order: Order::Desc }),
            docstore_compression: zstd(HOT_LEVEL),
            docstore_compress_dedicated_thread: false,
            docstore_blocksize: block_bytes,
            ..IndexSettings::default()
        };
        let directory = MmapDirectory::open(dir)?;
        Self::with(dir, Index::create(directory, schema, settings)?, fields)
    }

    pub(crate) fn open(dir: &Path, purpose: Purpose) -> Result<Self, IndexFault> {
        let directory = MmapDirectory::open(dir).map_err(TantivyError::from)?;
        Self::open_in(Box::new(directory), dir, purpose)
    }

    /// Opens the window whose folder is `dir` and whose index is in `directory`.
    pub(crate) fn open_in(directory: Box<dyn Directory>, dir: &Path, purpose: Purpose) -> Result<Self, IndexFault> {
        let index = Index::open(directory)?;
        let (wanted, mut fields) = schema(purpose, SOURCE);
        if index.schema() == wanted {
            return Ok(Self::with(dir, index, fields)?);
        }
        let (wanted, packed) = schema(purpose, ROW);
        if index.schema() != wanted {
            return Err(IndexFault::damage("not the schema of this version"));
        }
        let summary = summary::parse_payload(index.load_metas()?.payload.as_deref()).map_err(IndexFault::damage)?;
        let tables = Tables::read(dir, summary.tables_bytes);
        let tables = tables.map_err(|(problem, is_damage)| IndexFault { problem, is_damage })?;
        fields = packed;
        fields.source.tables = Some(Arc::new(tables));
        Ok(Self::with(dir, index, fields)?)
    }

    fn with(dir: &Path, index: Index, fields: Fields) -> tantivy::Result<Self> {
        register(&index);
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .doc_store_cache_num_blocks(STORE_CACHE_BLOCKS)
            .try_into()?;
        Ok(Self { dir: dir.to_owned(), index, reader, fields })
    }

    /// The same window with its files mapped anew: what searches have touched of them counts as memory no more.
    pub(crate) fn anew(&self) -> Result<Self, IndexFault> {
        let directory = MmapDirectory::open(&self.dir).map_err(TantivyError::from)?;
        // Not the tables: the writer adds to those that it shares with searches.
        Ok(Self::with(&self.dir, Index::open(directory)?, self.fields.clone())?)
    }

    /// As of the last [`Window::refresh`].
    pub(crate) fn searcher(&self) -> Searcher {
        self.reader.searcher()
    }

    pub(crate) fn refresh(&self) -> tantivy::Result<()> {
        self.reader.reload()
    }

    pub(crate) fn writer(&self, bytes: usize) -> tantivy::Result<Writer> {
        let writer = index_writer(&self.unmapped()?, bytes)?; // holds the folder's lock
        let packer = self.fields.source.tables.as_ref().map(|tables| Packer::new(Arc::clone(tables)));
        Ok(Writer::new(writer, self.fields.clone(), packer.transpose()?))
    }

    /// The same index, as it is written. What it deletes stays readable for searches, which hold its files open.
    fn unmapped(&self) -> tantivy::Result<Index> {
        let index = Index::open(Unmapped::open(&self.dir)?)?;
        register(&index);
        Ok(index)
    }

    /// What was handed to the last commit.
    pub(crate) fn payload(&self) -> tantivy::Result<Option<String>> {
        self.index.load_metas().map(|metas| metas.payload)
    }

    /// Merges all segments into one and compresses the sources harder, so that the window can rest.
    pub(crate) fn merge(&self, bytes: usize) -> tantivy::Result<()> {
        let is_packed = self.fields.source.tables.is_some();
        let block_bytes = if is_packed { REST_BLOCK_BYTES } else { REST_BLOCK_BYTES_PLAIN };
        // Blocks of the same compressor are copied as they are; what was LZ4 in between is compressed anew.
        self.merge_with(bytes, Compressor::Lz4, HOT_BLOCK_BYTES)?;
        self.merge_with(bytes, zstd(REST_LEVEL), block_bytes)
    }

    fn merge_with(&self, bytes: usize, compressor: Compressor, block_bytes: usize) -> tantivy::Result<()> {
        let mut merged = self.unmapped()?;
        let settings = merged.settings_mut();
        (settings.docstore_compression, settings.docstore_blocksize) = (compressor, block_bytes);
        let mut writer = index_writer(&merged, bytes)?;
        let segments = merged.searchable_segment_ids()?;
        if !segments.is_empty() {
            writer.merge(&segments).wait()?;
        }
        writer.garbage_collect_files().wait()?;
        writer.wait_merging_threads()
    }
}

fn register(index: &Index) {
    index.tokenizers().register(WORDS, TextAnalyzer::from(Words::default()));
    index.tokenizers().register(TERMS, TextAnalyzer::from(Terms::default()));
}

fn index_writer(index: &Index, bytes: usize) -> tantivy::Result<IndexWriter> {
    let options = IndexWriterOptions::builder()
        .memory_budget_per_thread(bytes)
        .num_worker_threads(1)
        .num_merge_threads(1)
        .build();
    let writer: IndexWriter = index.writer_with_options(options)?;
    let mut policy = LogMergePolicy::default();
    policy.set_del_docs_ratio_before_merge(DELETED_RATIO_MAX); // windows have none
    writer.set_merge_policy(Box::new(policy));
    Ok(writer)
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
    let needed_bytes = read_meta(dir).ok().flatten().map_or(0, |meta| meta.summary.tables_bytes);
    if needed_bytes > 0 && matches!(Tables::read(dir, needed_bytes), Err((_, true))) {
        broken.push(rows::FILE.into());
    }
    broken.sort();
    broken
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Document;
    use crate::summary::Summary;

    /// As windows were before their sources became rows.
    fn plain(dir: &Path) -> Window {
        let (schema, fields) = schema(Purpose::Window, SOURCE);
        let settings = IndexSettings {
            sort_by_field: Some(IndexSortByField { field: TIME.to_owned(), order: Order::Desc }),
            docstore_compression: zstd(HOT_LEVEL),
            docstore_blocksize: HOT_BLOCK_BYTES_PLAIN,
            ..IndexSettings::default()
        };
        let index = Index::create(MmapDirectory::open(dir).unwrap(), schema, settings).unwrap();
        Window::with(dir, index, fields).unwrap()
    }

    fn add(window: &Window, texts: &[&str]) {
        let mut writer = window.writer(15_000_000).unwrap();
        let mut summary = Summary::empty();
        for (seq, text) in texts.iter().enumerate() {
            let mut document = Document::new(seq as i64, seq as u64);
            document.source = (*text).to_owned().into_bytes();
            writer.add(&document).unwrap();
        }
        writer.commit(&mut summary).unwrap();
        writer.finish().unwrap();
        window.refresh().unwrap();
    }

    fn sources(window: &Window) -> Vec<String> {
        let searcher = window.searcher();
        let addresses = searcher.segment_readers().iter().enumerate().flat_map(|(segment, reader)| {
            (0..reader.max_doc()).map(move |document| DocAddress::new(segment as u32, document))
        });
        let read = |address| String::from_utf8(window.fields.source.read(&searcher, address).unwrap()).unwrap();
        let mut sources: Vec<_> = addresses.map(read).collect();
        sources.sort();
        sources
    }

    #[test]
    fn a_window_of_before_there_were_rows_reads_is_written_and_rests() {
        for is_old in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let window = if is_old { plain(dir.path()) } else { Window::create(dir.path(), Purpose::Window).unwrap() };
            add(&window, &["frame 1", "frame 2", "frame 3"]);
            let window = Window::open(dir.path(), Purpose::Window).unwrap();
            assert_eq!(window.fields.source.tables.is_none(), is_old);
            add(&window, &["frame 4"]);
            let rests = || read_meta(dir.path()).unwrap().unwrap().rests;
            assert!(!rests());
            window.merge(15_000_000).unwrap();
            assert!(rests());
            let window = Window::open(dir.path(), Purpose::Window).unwrap();
            assert_eq!(sources(&window), ["frame 1", "frame 2", "frame 3", "frame 4"]);
            assert!(broken_files(dir.path()).is_empty());
        }
    }

    #[test]
    fn a_window_whose_tables_are_cut_short_is_damaged_and_says_what_of_it() {
        let dir = tempfile::tempdir().unwrap();
        add(&Window::create(dir.path(), Purpose::Window).unwrap(), &["frame 1", "frame 2", "frame 3"]);
        let path = dir.path().join(rows::FILE);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let fault = Window::open(dir.path(), Purpose::Window).err().unwrap();
        assert!(fault.is_damage && fault.problem.contains(rows::FILE), "{fault}");
        assert_eq!(broken_files(dir.path()), [PathBuf::from(rows::FILE)]);
    }
}
