//! Searching one window: documents are sorted by time, so a walk begins where the range does and ends when it has enough.

use std::ops::Bound;
use std::sync::Arc;

use tantivy::columnar::ColumnValues;
use tantivy::query::{
    AllQuery, BooleanQuery, EmptyQuery, EnableScoring, InvertedIndexRangeQuery, Occur, PhraseQuery, TermQuery, Weight,
};
use tantivy::schema::{Field, IndexRecordOption, Value as _};
use tantivy::{DocAddress, DocSet as _, Searcher, SegmentReader, TERMINATED, TantivyDocument, Term};

use crate::document::{keyword_key, word_key};
use crate::excluded::Excluded;
use crate::index::{Fields, IndexFault, SEQ, TIME, keyword_term, number_term, text_term};
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

/// Offers each matching document within `range` to `top`, as long as `top` could still take it.
pub(crate) fn walk<T>(
    searcher: &Searcher,
    fields: Fields,
    query: &Query,
    range: Range,
    top: &mut Top<T>,
    entry: &dyn Fn(DocAddress) -> T,
    cancel: &Cancel,
) -> Result<(), Fault> {
    let weight = translate(fields, query).weight(EnableScoring::disabled_from_searcher(searcher))?;
    for (ordinal, reader) in searcher.segment_readers().iter().enumerate() {
        if reader.max_doc() == 0 {
            continue;
        }
        let columns = reader.fast_fields();
        let time = columns.i64(TIME)?.first_or_default_col(0);
        let seq = columns.u64(SEQ)?.first_or_default_col(0);
        let begin = first_at_or_before(&*time, reader.max_doc(), range.to_ns);
        let end = match range.from_ns.checked_sub(1) {
            Some(before) => first_at_or_before(&*time, reader.max_doc(), before),
            None => reader.max_doc(),
        };
        let ordinal = u32::try_from(ordinal).map_err(|_| Fault::Index(IndexFault::damage("has too many segments")))?;
        let segment = Segment { reader, weight: &*weight, time, seq, ordinal };
        match top.order {
            Order::Newest => segment.walk_down(begin, end, top, entry, cancel)?,
            Order::Oldest => segment.walk_up(begin, end, top, entry, cancel)?,
        }
    }
    Ok(())
}

/// How many documents within `range` match.
pub(crate) fn count(
    searcher: &Searcher,
    fields: Fields,
    query: &Query,
    range: Range,
    cancel: &Cancel,
) -> Result<u64, Fault> {
    let weight = translate(fields, query).weight(EnableScoring::disabled_from_searcher(searcher))?;
    let mut count = 0_u64;
    for reader in searcher.segment_readers().iter().filter(|reader| reader.max_doc() > 0) {
        let everything = range.from_ns == i64::MIN && range.to_ns == i64::MAX;
        if everything {
            count += u64::from(weight.count(reader)?);
        } else {
            let time = reader.fast_fields().i64(TIME)?.first_or_default_col(0);
            let begin = first_at_or_before(&*time, reader.max_doc(), range.to_ns);
            let end = match range.from_ns.checked_sub(1) {
                Some(before) => first_at_or_before(&*time, reader.max_doc(), before),
                None => reader.max_doc(),
            };
            let mut scorer = weight.scorer(reader, 1.0)?;
            let mut document = if scorer.doc() < begin { scorer.seek(begin) } else { scorer.doc() };
            while document < end && document != TERMINATED {
                count += u64::from(!reader.is_deleted(document));
                document = scorer.advance();
            }
        }
        if cancel.is_cancelled() {
            return Err(Fault::Cancelled);
        }
    }
    Ok(count)
}

/// Values of the keyword `name`, by their text, up to `limit` of each segment; those of deleted documents may be among them.
pub(crate) fn keywords(
    searcher: &Searcher,
    fields: Fields,
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
    reader: &'a SegmentReader,
    weight: &'a dyn Weight,
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
        let mut scorer = self.weight.scorer(self.reader, 1.0)?;
        let mut document = if scorer.doc() < begin { scorer.seek(begin) } else { scorer.doc() };
        let mut seen = 0_usize;
        while document < end && document != TERMINATED {
            let time_ns = self.time.get_val(document);
            if top.closed_to(top.order.time_rank(time_ns)) {
                break;
            }
            if !self.reader.is_deleted(document) {
                let position = Position { time_ns, seq: self.seq.get_val(document) };
                top.offer(position, || entry(DocAddress::new(self.ordinal, document)));
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
            let mut scorer = self.weight.scorer(self.reader, 1.0)?;
            let mut document = if scorer.doc() < start { scorer.seek(start) } else { scorer.doc() };
            while document < end && document != TERMINATED {
                if !self.reader.is_deleted(document) {
                    let position = Position { time_ns: self.time.get_val(document), seq: self.seq.get_val(document) };
                    top.offer(position, || entry(DocAddress::new(self.ordinal, document)));
                }
                document = scorer.advance();
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
pub(crate) fn source(searcher: &Searcher, fields: Fields, address: DocAddress) -> Result<Vec<u8>, Fault> {
    let document: TantivyDocument = searcher.doc(address)?;
    let bytes = document.get_first(fields.source).and_then(|value| value.as_bytes().map(<[u8]>::to_vec));
    bytes.ok_or_else(|| Fault::Index(IndexFault::damage("a document has no source")))
}

fn translate(fields: Fields, query: &Query) -> Box<dyn tantivy::query::Query> {
    let Fields { term, word, .. } = fields;
    let one = |field: Field, text: &str| -> Box<dyn tantivy::query::Query> {
        Box::new(TermQuery::new(Term::from_field_text(field, text), IndexRecordOption::Basic))
    };
    match query {
        Query::All => Box::new(AllQuery),
        Query::Nothing => Box::new(EmptyQuery),
        Query::Keyword { name, value } => one(term, &keyword_term(name, value)),
        Query::KeywordPrefix { name, prefix } => beginning(term, &format!("{name}\0k{}", keyword_key(prefix))),
        Query::Words { name, words } => match words.as_slice() {
            [] => Box::new(EmptyQuery),
            [only] => one(word, &format!("{name}\0{only}")),
            _ => {
                let terms = words.iter().map(|key| Term::from_field_text(word, &format!("{name}\0{key}"))).collect();
                Box::new(PhraseQuery::new(terms))
            }
        },
        Query::WordPrefix { name, prefix } => beginning(word, &format!("{name}\0{}", word_key(prefix))),
        Query::Number { name, from, to } => {
            let at = |number: &f64| Term::from_field_text(term, &number_term(name, *number));
            let edge = |text: String| Term::from_field_text(term, &text);
            let lower = match from {
                Bound::Included(number) => Bound::Included(at(number)),
                Bound::Excluded(number) => Bound::Excluded(at(number)),
                Bound::Unbounded => Bound::Included(edge(format!("{name}\0n"))),
            };
            let upper = match to {
                Bound::Included(number) => Bound::Included(at(number)),
                Bound::Excluded(number) => Bound::Excluded(at(number)),
                Bound::Unbounded => Bound::Excluded(edge(format!("{name}\0o"))), // `o` follows `n`
            };
            Box::new(InvertedIndexRangeQuery::new(lower, upper))
        }
        Query::Exists { name } => {
            any([beginning(term, &format!("{name}\0k")), beginning(term, &format!("{name}\0n")), {
                one(term, &text_term(name))
            }])
        }
        Query::And(all) => {
            let mut clauses: Vec<_> = Vec::with_capacity(all.len() + 1);
            for query in all {
                match query {
                    Query::Not(query) => clauses.push((Occur::MustNot, excluded(fields, query))),
                    query => clauses.push((Occur::Must, translate(fields, query))),
                }
            }
            if clauses.iter().all(|(occur, _)| *occur == Occur::MustNot) {
                clauses.push((Occur::Must, Box::new(AllQuery))); // nothing but exclusions would match nothing
            }
            Box::new(BooleanQuery::new(clauses))
        }
        Query::Or(some) => any(some.iter().map(|query| translate(fields, query))),
        Query::Not(query) => Box::new(BooleanQuery::new(vec![
            (Occur::Must, Box::new(AllQuery)),
            (Occur::MustNot, excluded(fields, query)),
        ])),
    }
}

fn excluded(fields: Fields, query: &Query) -> Box<dyn tantivy::query::Query> {
    Box::new(Excluded(translate(fields, query)))
}

fn any(queries: impl IntoIterator<Item = Box<dyn tantivy::query::Query>>) -> Box<dyn tantivy::query::Query> {
    let clauses: Vec<_> = queries.into_iter().map(|query| (Occur::Should, query)).collect();
    if clauses.is_empty() { Box::new(EmptyQuery) } else { Box::new(BooleanQuery::new(clauses)) }
}

/// All terms that begin with `prefix`, which is not empty.
fn beginning(field: Field, prefix: &str) -> Box<dyn tantivy::query::Query> {
    let mut after = prefix.as_bytes().to_vec();
    if let Some(last) = after.last_mut() {
        *last += 1; // UTF-8 has no byte 0xFF, so the next greater string of bytes ends with the last one plus one
    }
    let bound = |bytes: &[u8]| Term::from_field_bytes(field, bytes);
    let (lower, upper) = (Bound::Included(bound(prefix.as_bytes())), Bound::Excluded(bound(&after)));
    Box::new(InvertedIndexRangeQuery::new(lower, upper))
}
