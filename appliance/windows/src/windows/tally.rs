//! Counting over the ring and the windows, the newest first.

use std::cell::Cell;

use super::search::{LeftOut, SearchFault, Seen, guard, narrowed, open_searcher};
use super::{Cancel, Unreached, Windows};
use crate::WindowsError;
use crate::chain::{self, lock};
use crate::query::Query;
use crate::tally::{Tally, Told, Want};
use crate::walk::{Asked, Range};

/// What was counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counts {
    /// Documents that answer.
    pub matched: u64,
    /// One for each [`Want`].
    pub told: Vec<Told>,
    /// Windows that could hold more and do not read.
    pub set_aside: Vec<String>,
    /// Windows that could hold more and lie where nobody answers.
    pub unreached: Vec<Unreached>,
}

/// Which windows are counted in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    #[default]
    Everywhere,
    /// Those that are here: for lists of names, which nobody wants to wait for.
    Here,
}

impl Windows {
    /// The moments of the earliest and the latest document between `from_ns` and `to_ns`, or a little outside of what is there.
    #[must_use]
    pub fn extent(&self, from_ns: i64, to_ns: i64) -> Option<(i64, i64)> {
        let state = lock(&self.shared.state);
        let windows = state.entries.iter().filter(|entry| entry.summary.documents > 0);
        let windows = windows.map(|entry| (entry.summary.min_ns, entry.summary.max_ns));
        let ring =
            state.ring.iter().flat_map(|batch| &batch.documents).map(|document| (document.time_ns, document.time_ns));
        let within = windows.chain(ring).filter(|(min, max)| *min <= to_ns && *max >= from_ns);
        within.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).map(|(min, max)| (min.max(from_ns), max.min(to_ns)))
    }

    /// Counts what answers to `query` between `from_ns` and `to_ns`, both included. Blocks.
    ///
    /// # Errors
    /// [`WindowsError::Wanted`] when a histogram would be too fine; otherwise as [`Windows::search`].
    pub fn tally(
        &self,
        query: &Query,
        (from_ns, to_ns): (i64, i64),
        wants: &[Want],
        reach: Reach,
        cancel: &Cancel,
    ) -> Result<Counts, WindowsError> {
        let asked = Range { from_ns, to_ns };
        let (query, range) = narrowed(query, asked);
        let mut left_out = LeftOut::new(reach == Reach::Here);
        loop {
            let tally = Tally::new(asked, wants).map_err(WindowsError::Wanted)?.within(range);
            match self.try_tally(&query, range, tally, &mut left_out, cancel) {
                Ok(counts) => return Ok(Counts { unreached: left_out.told(), ..counts }),
                Err(SearchFault::Cancelled) => return Err(WindowsError::Cancelled),
                // Each round sets one window aside, leaves one out, or ends, so the rounds end.
                Err(SearchFault::Window(folder, fault)) => self.judge(&folder, fault)?,
                Err(SearchFault::Away(folder, why)) => left_out.begin_without(&folder, why),
            }
        }
    }

    fn try_tally(
        &self,
        query: &Query,
        range: Range,
        mut tally: Tally,
        left_out: &mut LeftOut,
        cancel: &Cancel,
    ) -> Result<Counts, SearchFault> {
        let Seen { ring, mut windows, set_aside } = self.seen(range)?;
        let within = |time_ns: i64| time_ns >= range.from_ns && time_ns <= range.to_ns;
        for document in ring.iter().rev().flat_map(|batch| batch.documents.iter().rev()) {
            if within(document.time_ns) && query.matches(document) {
                tally.take(document);
            }
        }
        windows.sort_by_key(|(entry, _)| std::cmp::Reverse(entry.summary.max_ns));
        let number = self.next_search();
        let read = self.shared.options.read;
        for (entry, searcher) in windows {
            if cancel.is_cancelled() {
                return Err(SearchFault::Cancelled);
            }
            if (searcher.is_none() && self.rules_out(&entry, query)) || left_out.has(&entry.folder) {
                continue;
            }
            let opened = searcher.map_or_else(|| open_searcher(&entry.folder, cancel), Ok);
            let Some((searcher, fields)) = left_out.unless_away(opened, false)? else { continue };
            chain::next_use(&entry.folder, number);
            let was_taken = Cell::new(false);
            let walked = guard(&entry.folder, cancel, || {
                let asked = Asked::new(&searcher, &fields, query, Some(read), cancel)?;
                was_taken.set(true);
                tally.walk(&asked, *query == Query::All, read, cancel)
            });
            left_out.unless_away(walked, was_taken.get())?;
        }
        self.shut_unused();
        Ok(Counts { matched: tally.matched, told: tally.told(), set_aside, unreached: Vec::new() })
    }
}
