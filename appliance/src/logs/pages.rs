//! Reading many records, page by page, for questions that only the records themselves answer; within bounds.

use backlot_windows::{Hit, Order, Position, Query, Search};

use super::Logs;
use crate::edge::ApiError;

/// Most records that one question reads.
pub(super) const RECORDS_MAX: u64 = 1_000_000;
/// Most bytes of stored records that one question reads.
const BYTES_MAX: u64 = 2 << 30;
/// Longest time that one question takes.
const TIME_MAX_MS: u64 = 60_000;
/// Records that are read at once, and their bytes.
const PAGE_RECORDS: usize = 5000;
const PAGE_BYTES: usize = 16 << 20;

/// What a question has cost so far.
pub(super) struct Cost {
    begun_mono_ms: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Cost {
    pub(super) fn new(logs: &Logs) -> Self {
        Self { begun_mono_ms: logs.store.now().mono_ms, records: 0, bytes: 0 }
    }

    pub(super) fn took_ms(&self, logs: &Logs) -> u64 {
        logs.store.now().mono_ms.saturating_sub(self.begun_mono_ms)
    }
}

/// Why a reading ended before its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PagesError {
    #[error("the query took longer than {} s; consider reducing the time range or asking for less", TIME_MAX_MS / 1000)]
    TooLong,
    #[error(
        "the query would read more than {RECORDS_MAX} records or {BYTES_MAX} bytes; consider reducing the time range or asking for less"
    )]
    TooMany,
    #[error("{}", .0.message)]
    Refused(ApiError),
}

/// Where a reading stands.
pub(super) struct Pages {
    query: Query,
    range: (i64, i64),
    order: Order,
    page: usize,
    after: Option<Position>,
    ended: bool,
}

impl Pages {
    /// Reads what answers to `query` from the first to the second moment, both included; about `wanted` records are needed.
    pub(super) fn new(query: Query, range: (i64, i64), order: Order, wanted: usize) -> Self {
        let page = wanted.clamp(1, PAGE_RECORDS);
        Self { query, range, order, page, after: None, ended: range.0 > range.1 }
    }

    /// Goes on after a record.
    pub(super) fn after(mut self, position: Position) -> Self {
        self.went_to(position);
        self
    }

    fn went_to(&mut self, position: Position) {
        self.after = Some(position);
        // What was read is not walked over again.
        match self.order {
            Order::Newest => self.range.1 = self.range.1.min(position.time_ns),
            Order::Oldest => self.range.0 = self.range.0.max(position.time_ns),
        }
    }

    /// The next page of records; `None` at the end.
    pub(super) async fn next(&mut self, logs: &Logs, cost: &mut Cost) -> Result<Option<Vec<Hit>>, PagesError> {
        if self.ended {
            return Ok(None);
        }
        if cost.took_ms(logs) > TIME_MAX_MS {
            return Err(PagesError::TooLong);
        }
        if cost.records >= RECORDS_MAX || cost.bytes >= BYTES_MAX {
            return Err(PagesError::TooMany);
        }
        let search = Search {
            query: self.query.clone(),
            from_ns: self.range.0,
            to_ns: self.range.1,
            order: self.order,
            limit: self.page,
            after: self.after,
            bytes_max: PAGE_BYTES,
        };
        let found = logs.search(search).await.map_err(PagesError::Refused)?;
        self.ended = !found.more;
        if let Some(last) = found.hits.last() {
            self.went_to(last.position);
        }
        cost.records += found.hits.len() as u64;
        cost.bytes += found.hits.iter().map(|hit| hit.source.len() as u64).sum::<u64>();
        Ok(Some(found.hits))
    }
}
