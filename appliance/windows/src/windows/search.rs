//! Searching: the ring and the windows, the best first, until there is enough.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tantivy::{DocAddress, Searcher};

use super::{Batch, Windows};
use crate::WindowsError;
use crate::chain::{self, Entry, Folder, lock};
use crate::filter;
use crate::index::{Fields, IndexFault, Summary};
use crate::query::Query;
use crate::top::{Order, Position, Top};
use crate::walk::{self, Asked, Fault, Range};

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Search {
    pub query: Query,
    /// Both ends included.
    pub from_ns: i64,
    pub to_ns: i64,
    pub order: Order,
    pub limit: usize,
    /// Where the page before ended.
    pub after: Option<Position>,
    /// The page ends early when its sources are more than this; it has one hit at least.
    pub bytes_max: usize,
}

/// One document of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    pub position: Position,
    pub source: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub hits: Vec<Hit>,
    /// There may be more after the last hit.
    pub more: bool,
    /// Windows that could hold more and do not read.
    pub set_aside: Vec<String>,
}

/// Tells a search that nobody waits for it any more.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Where a candidate of a search stands.
pub(super) enum Origin {
    Ring(Arc<Batch>, usize),
    Window(usize, DocAddress),
}

pub(super) enum SearchFault {
    Cancelled,
    Window(Arc<Folder>, IndexFault),
}

/// What a question is put to.
pub(super) struct Seen {
    pub(super) ring: Vec<Arc<Batch>>,
    /// Those that are closed are opened when it is their turn.
    pub(super) windows: Vec<(Entry, Option<(Searcher, Fields)>)>,
    /// Windows that could hold more and do not read.
    pub(super) set_aside: Vec<String>,
}

impl Windows {
    /// Searches what is in the ring and in the windows. Blocks.
    ///
    /// # Errors
    /// [`WindowsError::Cancelled`], or [`WindowsError::Index`] when the open window does not read.
    pub fn search(&self, search: &Search, cancel: &Cancel) -> Result<Found, WindowsError> {
        loop {
            match self.try_search(search, cancel) {
                Ok(found) => return Ok(found),
                Err(SearchFault::Cancelled) => return Err(WindowsError::Cancelled),
                // Each round sets one window aside or ends, so the rounds end.
                Err(SearchFault::Window(folder, fault)) => self.judge(&folder, fault)?,
            }
        }
    }

    fn try_search(&self, search: &Search, cancel: &Cancel) -> Result<Found, SearchFault> {
        let mut range = Range { from_ns: search.from_ns, to_ns: search.to_ns };
        // A page begins where the one before ended, instead of passing over all of those before.
        match (search.order, search.after) {
            (Order::Newest, Some(after)) => range.to_ns = range.to_ns.min(after.time_ns),
            (Order::Oldest, Some(after)) => range.from_ns = range.from_ns.max(after.time_ns),
            (_, None) => {}
        }
        let limit = search.limit.max(1);
        let number = self.next_search();
        let Seen { ring, mut windows, set_aside } = self.seen(range)?;

        let mut top = Top::new(search.order, limit + 1, search.after);
        for batch in &ring {
            for (index, document) in batch.documents.iter().enumerate() {
                if document.time_ns >= range.from_ns
                    && document.time_ns <= range.to_ns
                    && search.query.matches(document)
                {
                    let position = Position { time_ns: document.time_ns, seq: document.seq };
                    top.offer(position, || Origin::Ring(Arc::clone(batch), index));
                }
            }
        }
        let best = |summary: &Summary| match search.order {
            Order::Newest => search.order.time_rank(summary.max_ns),
            Order::Oldest => search.order.time_rank(summary.min_ns),
        };
        windows.sort_by_key(|(entry, _)| best(&entry.summary));
        let mut searchers: Vec<(Searcher, Fields, Arc<Folder>)> = Vec::new();
        for (entry, searcher) in windows {
            if cancel.is_cancelled() {
                return Err(SearchFault::Cancelled);
            }
            if top.closed_to(best(&entry.summary)) {
                break; // this window and those after it have nothing better
            }
            let (searcher, fields) = match searcher {
                Some(searcher) => searcher,
                None if self.rules_out(&entry, &search.query) => continue,
                None => open_searcher(&entry.folder)?,
            };
            chain::next_use(&entry.folder, number);
            let at = searchers.len();
            guard(&entry.folder, || {
                let origin = |address| Origin::Window(at, address);
                let asked = Asked::new(&searcher, fields, &search.query, Some(self.shared.options.read), cancel)?;
                walk::walk(&asked, range, &mut top, &origin, cancel)
            })?;
            searchers.push((searcher, fields, entry.folder));
        }

        let mut found = Found { set_aside, ..Found::default() };
        let ranked = top.into_sorted();
        let (total, mut bytes) = (ranked.len(), 0);
        for (position, origin) in ranked.into_iter().take(limit) {
            let source = match origin {
                Origin::Ring(batch, index) => batch.documents[index].source.clone(),
                Origin::Window(at, address) => {
                    let (searcher, fields, folder) = &searchers[at];
                    guard(folder, || walk::source(searcher, *fields, address))?
                }
            };
            bytes += source.len();
            if bytes > search.bytes_max && !found.hits.is_empty() {
                break;
            }
            found.hits.push(Hit { position, source });
        }
        found.more = found.hits.len() < total;
        self.shut_unused();
        Ok(found)
    }

    /// What may hold documents within `range`, all as of one moment.
    pub(super) fn seen(&self, range: Range) -> Result<Seen, SearchFault> {
        let meets = |summary: &Summary| summary.min_ns <= range.to_ns && summary.max_ns >= range.from_ns;
        let state = lock(&self.shared.state);
        let mut windows = Vec::new();
        for entry in state.entries.iter().filter(|entry| entry.summary.documents > 0 && meets(&entry.summary)) {
            // Searchers of windows that are written are taken here, together with the ring that goes with them.
            let searcher = if entry.summary.closed { None } else { Some(open_searcher(&entry.folder)?) };
            windows.push((entry.clone(), searcher));
        }
        let asides = state.asides.iter().filter(|aside| aside.summary.as_ref().is_none_or(meets));
        let set_aside = asides.map(|aside| aside.name.clone()).collect();
        Ok(Seen { ring: state.ring.clone(), windows, set_aside })
    }

    /// Whether a closed window has nothing that answers, as its filter knows.
    pub(super) fn rules_out(&self, entry: &Entry, query: &Query) -> bool {
        filter::rules_out(&entry.folder.path, self.shared.options.filtered, query)
    }

    pub(super) fn next_search(&self) -> u64 {
        self.shared.searches.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Keeps the closed windows open that were searched last.
    pub(super) fn shut_unused(&self) {
        let mut opened: Vec<_> = {
            let state = lock(&self.shared.state);
            let closed = state.entries.iter().filter(|entry| entry.summary.closed && entry.folder.is_opened());
            closed.map(|entry| Arc::clone(&entry.folder)).collect()
        };
        opened.sort_by_key(|folder| std::cmp::Reverse(folder.used.load(Ordering::Relaxed)));
        for folder in opened.iter().skip(self.shared.options.readers_max) {
            folder.shut();
        }
    }
}

pub(super) fn open_searcher(folder: &Arc<Folder>) -> Result<(Searcher, Fields), SearchFault> {
    guard(folder, || {
        let window = folder.window()?;
        Ok((window.searcher(), window.fields))
    })
}

/// Runs a step of a search in one window. tantivy trusts its files and panics on some damage.
pub(super) fn guard<T>(folder: &Arc<Folder>, step: impl FnOnce() -> Result<T, Fault>) -> Result<T, SearchFault> {
    let fault = |fault| SearchFault::Window(Arc::clone(folder), fault);
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Fault::Cancelled)) => Err(SearchFault::Cancelled),
        Ok(Err(Fault::Index(reason))) => Err(fault(reason)),
        Err(_) => Err(fault(IndexFault { problem: "reading it failed unexpectedly".to_owned(), is_damage: false })),
    }
}
