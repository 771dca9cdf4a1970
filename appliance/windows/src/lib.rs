//! Windows of documents: what arrived in one span of time stands in one tantivy index, searched newest first.
//!
//! A [`Document`] has a moment, a position in the journal it came from ([`Document::seq`]), named values to be found by, and
//! the bytes it is answered with. There is no schema to agree on: a name is part of each term, so that any room may index
//! what it likes, and an attribute may be a number today and text tomorrow.
//!
//! [`Windows`] is fed by one follower of a journal, in journal order. It keeps what is not yet committed in a ring in memory, which is
//! searched beside the indexes and feeds the live tail, and commits now and then with the journal position in the commit
//! itself. After a crash the follower starts again at [`Windows::applied`]: nothing is lost, nothing is there twice.
//!
//! - A window is cut by arrival, so that retention can drop it whole, and knows the smallest and the largest moment in it,
//!   so that a search need not open it. Documents whose moment is far from their arrival go to windows of their own.
//! - What is to be kept for different times stands in different windows: see [`Class`]. Searches, counts and the tail see all as one.
//! - Within a window documents are sorted by moment, newest first: a search stops when it has enough.
//! - A window that does not read is set aside, by name, and the rest stays searchable.
//!
//! [`Current`] is for things that change: one index of the newest document of each, without windows and without a ring.
//! [`parse`] reads the language in which people ask for either.
//!
//! Windows that rest may lie far away, behind [`Far`], and are searched there: see `cold.rs`.
//!
//! What is absent on purpose: scoring, columns of texts (values are counted from the terms), a clock, and tokio, but for the tail's
//! channel. Calls block; types of tantivy stop in `index.rs`, `walk.rs`, the folders of `cold/` and the two handles.

mod chain;
mod class;
mod cold;
mod current;
mod dialect;
mod document;
mod examine;
mod excluded;
mod filter;
mod index;
mod language;
mod pattern;
mod plan;
mod query;
mod rows;
mod seqs;
mod summary;
mod tally;
mod tokens;
mod top;
mod walk;
mod windows;

use std::path::PathBuf;

pub use class::{Class, DEFAULT_CLASS};
pub use cold::{Cache, CacheStats, Cold, Far, FarError, Image};
pub use current::{Current, Opening};
pub use dialect::Dialect;
pub use document::{Document, Shared, Value, clip, word_key, words};
pub use examine::{Examined, examine};
pub use language::{QueryError, parse};
pub use pattern::Pattern;
pub use query::Query;
pub use rows::fuzz_rows;
pub use summary::fuzz_meta;
pub use tally::{Histogram, Numbers, STRETCHES_MAX, Told, Values, Want};
pub use top::{Order, Position};
pub use walk::Read;
pub use windows::{
    Batch, Cancel, ColdFault, Counts, Dropped, Found, FoundGreatest, Greatest, Hit, Kept, MovedWindow, Opened, Ranked,
    Reach, Reason, Search, Stats, Unreached, Windows,
};

/// How windows are cut and bounded.
#[derive(Clone, Debug)]
pub struct Options {
    pub dir: PathBuf,
    /// Span of arrival time of one window.
    pub span_ms: u64,
    /// A window is closed when the sources in it are more than this.
    pub window_bytes_max: u64,
    /// A document whose moment is further than this from its arrival goes to a window of strays.
    pub stray_ms: u64,
    /// Longest time a document waits in memory for a commit.
    pub commit_every_ms: u64,
    /// Most bytes of sources that wait for a commit.
    pub commit_bytes: u64,
    /// Windows whose last arrival is older than this go.
    pub retention_ms: u64,
    /// The oldest windows go when all together are more than this on disk.
    pub disk_bytes_max: u64,
    /// Windows that rest and whose last arrival is older than this move far away, if there is such a place; `None`: they stay.
    pub cold_after_ms: Option<u64>,
    /// What has windows and limits of its own; the above are for everything else.
    pub classes: Vec<Class>,
    /// Memory of an index writer before it writes a segment; tantivy wants 15 MB at least.
    pub writer_bytes: usize,
    /// Most closed windows that are kept open for searches.
    pub readers_max: usize,
    /// Names whose keywords and ids few windows have: a resting window that does not have the one that is asked for is passed by.
    pub filtered: &'static [&'static str],
    /// Where windows move to.
    pub cold: Option<Cold>,
    /// Reads a source back: what the index cannot tell (phrases, regular expressions) is judged by it.
    pub read: Read,
}

impl Options {
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>, read: Read) -> Self {
        Self {
            read,
            dir: dir.into(),
            span_ms: 6 * 3_600_000,
            window_bytes_max: 1 << 30,
            stray_ms: 2 * 3_600_000,
            commit_every_ms: 2_000,
            commit_bytes: 16 << 20,
            retention_ms: 14 * 86_400_000,
            disk_bytes_max: 64 << 30,
            cold_after_ms: None,
            classes: Vec::new(),
            cold: None,
            writer_bytes: 40_000_000,
            readers_max: 16,
            filtered: &[],
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum WindowsError {
    #[error("{verb} {path}: {source}")]
    Io { verb: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{verb} window {window}: {problem}")]
    Index { verb: &'static str, window: String, problem: String },
    #[error("the search was cancelled")]
    Cancelled,
    #[error("{0}")]
    Wanted(String),
}
