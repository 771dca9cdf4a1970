//! What a window says of itself: the payload of its last commit, in `meta.json`, which is read without opening the index.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::index::are_of_rest;

pub(crate) const META_FILE: &str = "meta.json";
const SUMMARY_VERSION: u32 = 1;

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
    /// So many bytes of its [`Tables`] are needed.
    #[serde(default)]
    pub(crate) tables_bytes: u64,
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
            tables_bytes: 0,
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
    let summary = parse_payload(file.payload.as_deref())?;
    let rests = file.segments.len() <= 1 && are_of_rest(file.index_settings.docstore_blocksize);
    Ok(Meta { summary, rests })
}

pub(crate) fn parse_payload(payload: Option<&str>) -> Result<Summary, String> {
    let Some(payload) = payload else { return Ok(Summary::empty()) };
    let summary: Summary = serde_json::from_str(payload).map_err(|error| format!("payload of the commit: {error}"))?;
    if summary.version > SUMMARY_VERSION {
        return Err(format!("was written by a later version ({})", summary.version));
    }
    Ok(summary)
}

/// Reads `text` as a window's `meta.json` and as the payload in one, and throws the outcome away: for fuzzing.
pub fn fuzz_meta(text: &str) {
    let _ = parse_meta(text);
    let _ = parse_meta(&serde_json::json!({"index_settings": {}, "segments": [], "payload": text}).to_string());
}
