//! The documents with the greatest numbers: all that answer are looked at, the best are kept.
//!
//! There is no order by number on disk, so a walk ends only where the range does; it reads one column and no sources.

use std::cell::Cell;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use std::sync::Arc;

use tantivy::columnar::DynamicColumn;
use tantivy::{DocAddress, Searcher};

use super::search::{LeftOut, Origin, SearchFault, Seen, guard, narrowed, open_searcher};
use super::{Cancel, Hit, Unreached, Windows};
use crate::WindowsError;
use crate::chain::{self, Folder};
use crate::document::{Document, Value};
use crate::index::{Fields, IndexFault, SEQ, TIME, column_path};
use crate::query::Query;
use crate::top::Position;
use crate::walk::{self, Asked, Fault, Range};

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Greatest {
    pub query: Query,
    /// Both ends included.
    pub from_ns: i64,
    pub to_ns: i64,
    /// Whose numbers are compared; a document without one is not found. Of several of one name the greatest counts.
    pub name: String,
    pub limit: usize,
    /// Where the page before ended.
    pub after: Option<Ranked>,
    /// The page ends early when its sources are more than this; it has one hit at least.
    pub bytes_max: usize,
}

/// Where a document stands among others: by its number, greatest first, and among equals by its position, newest first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranked {
    pub number: f64,
    pub position: Position,
}

impl Ranked {
    /// Rises in the order of the answer.
    fn rank(self) -> Rank {
        Rank(Reverse(Total(self.number)), !self.position.time_ns, !self.position.seq)
    }

    /// Whether it comes before `other` in the answer.
    #[must_use]
    pub fn is_before(self, other: Self) -> bool {
        self.rank() < other.rank()
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank(Reverse<Total>, i64, u64);

#[derive(Clone, Copy)]
struct Total(f64);

impl PartialEq for Total {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Total {}
impl PartialOrd for Total {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Total {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct FoundGreatest {
    pub hits: Vec<(f64, Hit)>,
    /// There may be more after the last hit.
    pub more: bool,
    /// Windows that could hold more and do not read.
    pub set_aside: Vec<String>,
    /// Windows that could hold more and lie where nobody answers.
    pub unreached: Vec<Unreached>,
}

/// At most `capacity` candidates, those that come first in the answer.
struct Best {
    capacity: usize,
    after: Option<Rank>,
    heap: BinaryHeap<Candidate>,
}

struct Candidate(Rank, Ranked, Origin);

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for Candidate {}
impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl Best {
    fn offer(&mut self, ranked: Ranked, origin: impl FnOnce() -> Origin) {
        let rank = ranked.rank();
        if self.after.is_some_and(|after| rank <= after) {
            return;
        }
        if self.heap.len() < self.capacity {
            self.heap.push(Candidate(rank, ranked, origin()));
        } else if let Some(mut worst) = self.heap.peek_mut()
            && rank < worst.0
        {
            *worst = Candidate(rank, ranked, origin());
        }
    }
}

impl Windows {
    /// Finds the documents with the greatest numbers of a name. Blocks.
    ///
    /// # Errors
    /// As [`Windows::search`].
    pub fn greatest(&self, search: &Greatest, cancel: &Cancel) -> Result<FoundGreatest, WindowsError> {
        let attempt = |left_out: &mut LeftOut| self.try_greatest(search, left_out, cancel);
        let (found, left_out) = self.until_it_reads(LeftOut::default(), attempt)?;
        Ok(FoundGreatest { unreached: left_out.told(), ..found })
    }

    fn try_greatest(
        &self,
        search: &Greatest,
        left_out: &mut LeftOut,
        cancel: &Cancel,
    ) -> Result<FoundGreatest, SearchFault> {
        let (query, range) = narrowed(&search.query, Range { from_ns: search.from_ns, to_ns: search.to_ns });
        let limit = search.limit.max(1);
        let number = self.next_search();
        let Seen { ring, windows, set_aside } = self.seen(range)?;
        let mut best = Best { capacity: limit + 1, after: search.after.map(Ranked::rank), heap: BinaryHeap::new() };
        for batch in &ring {
            for (index, document) in batch.documents.iter().enumerate() {
                let within = document.time_ns >= range.from_ns && document.time_ns <= range.to_ns;
                if within
                    && let Some(number) = greatest_of(document, &search.name)
                    && query.matches(document)
                {
                    let position = Position { time_ns: document.time_ns, seq: document.seq };
                    best.offer(Ranked { number, position }, || Origin::Ring(Arc::clone(batch), index));
                }
            }
        }
        let mut searchers: Vec<(Searcher, Fields, Arc<Folder>)> = Vec::new();
        for (entry, searcher) in windows {
            if cancel.is_cancelled() {
                return Err(SearchFault::Cancelled);
            }
            if (searcher.is_none() && self.rules_out(&entry, &query)) || left_out.has(&entry.folder) {
                continue;
            }
            let opened = searcher.map_or_else(|| open_searcher(&entry.folder, cancel), Ok);
            let Some((searcher, fields)) = left_out.unless_away(opened, false)? else { continue };
            chain::next_use(&entry.folder, number);
            let (at, was_taken) = (searchers.len(), Cell::new(false));
            let walked = guard(&entry.folder, cancel, || {
                let asked = Asked::new(&searcher, &fields, &query, Some(self.shared.options.read), cancel)?;
                was_taken.set(true);
                walk(&asked, at, range, &search.name, &mut best, cancel)
            });
            if left_out.unless_away(walked, was_taken.get())?.is_some() {
                searchers.push((searcher, fields, entry.folder));
            }
        }
        let mut found = FoundGreatest { set_aside, ..FoundGreatest::default() };
        let ranked = best.heap.into_sorted_vec();
        let (total, mut bytes) = (ranked.len(), 0);
        for Candidate(_, Ranked { number, position }, origin) in ranked.into_iter().take(limit) {
            let source = origin.source(&searchers, cancel)?;
            bytes += source.len();
            if bytes > search.bytes_max && !found.hits.is_empty() {
                break;
            }
            found.hits.push((number, Hit { position, source }));
        }
        found.more = found.hits.len() < total;
        self.shut_unused();
        Ok(found)
    }
}

fn greatest_of(document: &Document, name: &str) -> Option<f64> {
    let number = |value: &Value| match value {
        Value::Number(number) => Some(*number),
        _ => None,
    };
    document.values(name).filter_map(number).max_by(f64::total_cmp).map(|number| number + 0.0) // no -0.0, as in columns
}

/// Offers what answers in one window.
fn walk(asked: &Asked<'_>, at: usize, range: Range, name: &str, best: &mut Best, cancel: &Cancel) -> Result<(), Fault> {
    let failed = |error: std::io::Error| IndexFault { problem: error.to_string(), is_damage: false };
    for (ordinal, reader) in asked.searcher.segment_readers().iter().enumerate() {
        if reader.max_doc() == 0 {
            continue;
        }
        let handles = reader.fast_fields().dynamic_column_handles(&column_path(name))?;
        let columns = handles.iter().map(|handle| handle.open().map_err(failed));
        let columns = columns.collect::<Result<Vec<DynamicColumn>, _>>()?;
        let time = reader.fast_fields().i64(TIME)?.first_or_default_col(0);
        let seq = reader.fast_fields().u64(SEQ)?.first_or_default_col(0);
        let segment = u32::try_from(ordinal).map_err(|_| IndexFault::damage("has too many segments"))?;
        walk::matching(asked, ordinal, reader, range, cancel, &mut |document| {
            let numbers = columns.iter().filter_map(|column| greatest_in(column, document));
            let Some(number) = numbers.max_by(f64::total_cmp) else { return };
            let position = Position { time_ns: time.get_val(document), seq: seq.get_val(document) };
            best.offer(Ranked { number, position }, || Origin::Window(at, DocAddress::new(segment, document)));
        })?;
    }
    Ok(())
}

fn greatest_in(column: &DynamicColumn, document: u32) -> Option<f64> {
    match column {
        DynamicColumn::I64(column) => column.values_for_doc(document).max().map(|number| number as f64),
        DynamicColumn::U64(column) => column.values_for_doc(document).max().map(|number| number as f64),
        DynamicColumn::F64(column) => column.values_for_doc(document).max_by(f64::total_cmp).map(|number| number + 0.0),
        _ => None, // only numbers were put there
    }
}
