//! Documents by their numbers: found in the column of numbers, of which no dictionary exists.
//!
//! The column knows its least and its greatest number, so that of all windows one or two are read. Those that were closed before the first number
//! that is wanted are not opened (see `windows/search.rs`).

use tantivy::query::{EnableScoring, Explanation, Query, Scorer, Weight};
use tantivy::{DocId, DocSet, Score, SegmentReader, TERMINATED, TantivyError};

use crate::index::SEQ;

/// Numbers, rising.
#[derive(Clone, Debug)]
pub(crate) struct OfSeqs(pub(crate) Vec<u64>);

impl Query for OfSeqs {
    fn weight(&self, _: EnableScoring<'_>) -> tantivy::Result<Box<dyn Weight>> {
        Ok(Box::new(self.clone()))
    }
}

impl Weight for OfSeqs {
    fn scorer(&self, reader: &SegmentReader, _: Score) -> tantivy::Result<Box<dyn Scorer>> {
        let column = reader.fast_fields().u64(SEQ)?.first_or_default_col(0);
        let (Some(first), Some(last)) = (self.0.first(), self.0.last()) else {
            return Ok(Box::new(Listed { documents: Vec::new(), at: 0 }));
        };
        if *last < column.min_value() || *first > column.max_value() {
            return Ok(Box::new(Listed { documents: Vec::new(), at: 0 }));
        }
        let is_wanted = |seq: u64| (*first..=*last).contains(&seq) && self.0.binary_search(&seq).is_ok();
        let documents = (0..reader.max_doc()).filter(|document| is_wanted(column.get_val(*document))).collect();
        Ok(Box::new(Listed { documents, at: 0 }))
    }

    fn explain(&self, _: &SegmentReader, document: DocId) -> tantivy::Result<Explanation> {
        Err(TantivyError::InvalidArgument(format!("document {document} has no score")))
    }
}

/// Documents of a segment, rising.
struct Listed {
    documents: Vec<DocId>,
    at: usize,
}

impl DocSet for Listed {
    fn advance(&mut self) -> DocId {
        self.at += 1;
        self.doc()
    }

    fn doc(&self) -> DocId {
        self.documents.get(self.at).copied().unwrap_or(TERMINATED)
    }

    fn size_hint(&self) -> u32 {
        u32::try_from(self.documents.len()).unwrap_or(u32::MAX)
    }
}

impl Scorer for Listed {
    fn score(&mut self) -> Score {
        1.0
    }
}
