//! Searching one window: documents are sorted by time, so a walk begins where the range does and ends when it has enough.

use std::sync::Arc;

use tantivy::columnar::ColumnValues;
use tantivy::query::{EnableScoring, Weight};
use tantivy::{DocAddress, DocSet as _, Searcher, SegmentReader, TERMINATED};

use crate::document::Document;
use crate::index::{Fields, IndexFault, SEQ, TIME, keyword_term};
use crate::plan::Plan;
use crate::query::Query;
use crate::top::{Order, Position, Top};
use crate::windows::Cancel;

/// How many documents are looked at between two looks at the cancel flag.
const CANCEL_EVERY: usize = 2048;
/// Size of the first block when a segment is walked from its end.
const BLOCK_DOCUMENTS: u32 = 2048;

/// The moments that are asked for, both ends included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) from_ns: i64,
    pub(crate) to_ns: i64,
}

pub(crate) enum Fault {
    Cancelled,
    Index(IndexFault),
}

impl From<tantivy::TantivyError> for Fault {
    fn from(error: tantivy::TantivyError) -> Self {
        Self::Index(error.into())
    }
}

impl From<IndexFault> for Fault {
    fn from(fault: IndexFault) -> Self {
        Self::Index(fault)
    }
}

/// Reads a source back into what the document is found by.
pub type Read = fn(source: &[u8]) -> Document;

/// A question to one searcher: what its index answers, and how the rest is judged.
pub(crate) struct Asked<'a> {
    pub(crate) searcher: &'a Searcher,
    pub(crate) fields: &'a Fields,
    query: &'a Query,
    weight: Box<dyn Weight>,
    /// Set where the index finds more than what answers to the query.
    read: Option<Read>,
}

impl<'a> Asked<'a> {
    pub(crate) fn new(
        searcher: &'a Searcher,
        fields: &'a Fields,
        query: &'a Query,
        read: Option<Read>,
        cancel: &Cancel,
    ) -> Result<Self, Fault> {
        let plan = Plan::of(searcher, fields, query, cancel)?;
        let weight = plan.query.weight(EnableScoring::disabled_from_searcher(searcher))?;
        let read = read.filter(|_| !plan.exact);
        Ok(Self { searcher, fields, query, weight, read })
    }

    /// Whether the index has the last word.
    pub(crate) fn is_exact(&self) -> bool {
        self.read.is_none()
    }

    /// Whether a document that the index has found answers to the query.
    pub(crate) fn holds(&self, address: DocAddress) -> Result<bool, Fault> {
        match self.read {
            None => Ok(true),
            Some(read) => {
                let mut document = read(&source(self.searcher, self.fields, address)?);
                // Its time and its number are not in its source.
                let columns = self.searcher.segment_reader(address.segment_ord).fast_fields();
                document.time_ns = columns.i64(TIME)?.first(address.doc_id).unwrap_or_default();
                document.seq = columns.u64(SEQ)?.first(address.doc_id).unwrap_or_default();
                Ok(self.query.matches(&document))
            }
        }
    }

    pub(crate) fn weight(&self) -> &dyn Weight {
        &*self.weight
    }
}

/// The documents of a segment whose moments are within `range`: from the first to before the second.
pub(crate) fn span(time: &dyn ColumnValues<i64>, documents: u32, range: Range) -> (u32, u32) {
    let begin = first_at_or_before(time, documents, range.to_ns);
    let end = match range.from_ns.checked_sub(1) {
        Some(before) => first_at_or_before(time, documents, before),
        None => documents,
    };
    (begin, end)
}

/// Offers each matching document within `range` to `top`, as long as `top` could still take it.
pub(crate) fn walk<T>(
    asked: &Asked<'_>,
    range: Range,
    top: &mut Top<T>,
    entry: &dyn Fn(DocAddress) -> T,
    cancel: &Cancel,
) -> Result<(), Fault> {
    let mut segments = Vec::new();
    for (ordinal, reader) in asked.searcher.segment_readers().iter().enumerate() {
        if reader.max_doc() == 0 {
            continue;
        }
        let columns = reader.fast_fields();
        let time = columns.i64(TIME)?.first_or_default_col(0);
        let seq = columns.u64(SEQ)?.first_or_default_col(0);
        let (begin, end) = span(&*time, reader.max_doc(), range);
        if begin >= end {
            continue;
        }
        let best_ns = time.get_val(if top.order == Order::Newest { begin } else { end - 1 });
        let segment = Segment { asked, reader, time, seq, ordinal: segment_number(ordinal)? };
        segments.push((top.order.time_rank(best_ns), segment, begin, end));
    }
    // The one with the best first, whatever order the index names them in: what it gives closes the others, of which each document would
    // be read for nothing.
    segments.sort_by_key(|(best, ..)| *best);
    for (best, segment, begin, end) in segments {
        if top.closed_to(best) {
            break;
        }
        match top.order {
            Order::Newest => segment.walk_down(begin, end, top, entry, cancel)?,
            Order::Oldest => segment.walk_up(begin, end, top, entry, cancel)?,
        }
    }
    Ok(())
}

/// How many documents within `range` match.
pub(crate) fn count(asked: &Asked<'_>, range: Range, cancel: &Cancel) -> Result<u64, Fault> {
    let mut count = 0_u64;
    for (ordinal, reader) in asked.searcher.segment_readers().iter().enumerate() {
        if reader.max_doc() == 0 {
            continue;
        }
        let everything = range.from_ns == i64::MIN && range.to_ns == i64::MAX;
        if everything && asked.is_exact() {
            count += u64::from(asked.weight().count(reader)?);
        } else {
            matching(asked, ordinal, reader, range, cancel, &mut |_| count += 1)?;
        }
        if cancel.is_cancelled() {
            return Err(Fault::Cancelled);
        }
    }
    Ok(count)
}

/// Hands each document of a segment that matches within `range` to `take`, newest first.
pub(crate) fn matching(
    asked: &Asked<'_>,
    ordinal: usize,
    reader: &SegmentReader,
    range: Range,
    cancel: &Cancel,
    take: &mut dyn FnMut(u32),
) -> Result<(), Fault> {
    let time = reader.fast_fields().i64(TIME)?.first_or_default_col(0);
    let (begin, end) = span(&*time, reader.max_doc(), range);
    let ordinal = segment_number(ordinal)?;
    let mut scorer = asked.weight().scorer(reader, 1.0)?;
    let mut document = if scorer.doc() < begin { scorer.seek(begin) } else { scorer.doc() };
    let mut seen = 0_usize;
    while document < end && document != TERMINATED {
        if !reader.is_deleted(document) && asked.holds(DocAddress::new(ordinal, document))? {
            take(document);
        }
        seen += 1;
        if seen.is_multiple_of(CANCEL_EVERY) && cancel.is_cancelled() {
            return Err(Fault::Cancelled);
        }
        document = scorer.advance();
    }
    Ok(())
}

fn segment_number(ordinal: usize) -> Result<u32, Fault> {
    u32::try_from(ordinal).map_err(|_| Fault::Index(IndexFault::damage("has too many segments")))
}

/// Values of the keyword `name`, by their text, up to `limit` of each segment; those of deleted documents may be among them.
pub(crate) fn keywords(
    searcher: &Searcher,
    fields: &Fields,
    name: &str,
    limit: usize,
) -> Result<std::collections::BTreeSet<String>, Fault> {
    let mut found = std::collections::BTreeSet::new();
    let begin = keyword_term(name, "");
    let mut end = begin.clone().into_bytes();
    if let Some(last) = end.last_mut() {
        *last += 1; // `k` is followed by `l`
    }
    for reader in searcher.segment_readers() {
        let inverted = reader.inverted_index(fields.term)?;
        let range = inverted.terms().range().ge(begin.as_bytes()).lt(&end);
        let mut terms =
            range.into_stream().map_err(|error| IndexFault { problem: error.to_string(), is_damage: false })?;
        let mut taken = 0;
        while taken < limit && terms.advance() {
            let value = terms.key().get(begin.len()..).unwrap_or_default();
            found.insert(String::from_utf8_lossy(value).into_owned());
            taken += 1;
        }
    }
    Ok(found)
}

struct Segment<'a> {
    asked: &'a Asked<'a>,
    reader: &'a SegmentReader,
    time: Arc<dyn ColumnValues<i64>>,
    seq: Arc<dyn ColumnValues<u64>>,
    ordinal: u32,
}

impl Segment<'_> {
    /// From the newest of `begin..end` on.
    fn walk_down<T>(
        &self,
        begin: u32,
        end: u32,
        top: &mut Top<T>,
        entry: &dyn Fn(DocAddress) -> T,
        cancel: &Cancel,
    ) -> Result<(), Fault> {
        if begin >= end {
            return Ok(());
        }
        let mut scorer = self.asked.weight().scorer(self.reader, 1.0)?;
        let mut document = if scorer.doc() < begin { scorer.seek(begin) } else { scorer.doc() };
        let mut seen = 0_usize;
        while document < end && document != TERMINATED {
            let time_ns = self.time.get_val(document);
            if top.closed_to(top.order.time_rank(time_ns)) {
                break;
            }
            let address = DocAddress::new(self.ordinal, document);
            if !self.reader.is_deleted(document) && self.asked.holds(address)? {
                let position = Position { time_ns, seq: self.seq.get_val(document) };
                top.offer(position, || entry(address));
            }
            seen += 1;
            if seen.is_multiple_of(CANCEL_EVERY) && cancel.is_cancelled() {
                return Err(Fault::Cancelled);
            }
            document = scorer.advance();
        }
        Ok(())
    }

    /// From the oldest of `begin..end` on: block by block from the end, each larger than the one before.
    fn walk_up<T>(
        &self,
        begin: u32,
        end: u32,
        top: &mut Top<T>,
        entry: &dyn Fn(DocAddress) -> T,
        cancel: &Cancel,
    ) -> Result<(), Fault> {
        let (mut end, mut block) = (end, BLOCK_DOCUMENTS);
        while end > begin {
            let start = end.saturating_sub(block).max(begin);
            let oldest_ns = self.time.get_val(end - 1);
            if top.closed_to(top.order.time_rank(oldest_ns)) {
                break;
            }
            let mut scorer = self.asked.weight().scorer(self.reader, 1.0)?;
            let mut document = if scorer.doc() < start { scorer.seek(start) } else { scorer.doc() };
            let mut found = Vec::new();
            while document < end && document != TERMINATED {
                found.push(document);
                document = scorer.advance();
            }
            // Those that are looked up need not all be judged: the last of the block are the oldest.
            for (seen, document) in found.into_iter().rev().enumerate() {
                let (time_ns, address) = (self.time.get_val(document), DocAddress::new(self.ordinal, document));
                if top.closed_to(top.order.time_rank(time_ns)) {
                    break;
                }
                if !self.reader.is_deleted(document) && self.asked.holds(address)? {
                    let position = Position { time_ns, seq: self.seq.get_val(document) };
                    top.offer(position, || entry(address));
                }
                if seen.is_multiple_of(CANCEL_EVERY) && cancel.is_cancelled() {
                    return Err(Fault::Cancelled);
                }
            }
            if cancel.is_cancelled() {
                return Err(Fault::Cancelled);
            }
            end = start;
            block = block.saturating_mul(4);
        }
        Ok(())
    }
}

/// The first document whose moment is not after `time_ns`; moments fall with the document's number.
fn first_at_or_before(time: &dyn ColumnValues<i64>, documents: u32, time_ns: i64) -> u32 {
    let (mut low, mut high) = (0, documents);
    while low < high {
        let middle = low + (high - low) / 2;
        if time.get_val(middle) > time_ns { low = middle + 1 } else { high = middle }
    }
    low
}

/// The answer bytes of one document.
pub(crate) fn source(searcher: &Searcher, fields: &Fields, address: DocAddress) -> Result<Vec<u8>, Fault> {
    fields.source.read(searcher, address).map_err(Fault::Index)
}
