//! Searching: the ring and the windows, the best first, until there is enough.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use tantivy::{DocAddress, Searcher};

use super::{Batch, Windows};
use crate::WindowsError;
use crate::chain::{self, Entry, Folder, lock};
use crate::cold::{FarError, waiting};
use crate::filter;
use crate::index::{Fields, IndexFault};
use crate::query::Query;
use crate::summary::Summary;
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
    /// Windows that could hold more and lie where nobody answers.
    pub unreached: Vec<Unreached>,
}

/// A window that lies far away and could not be searched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreached {
    pub window: String,
    pub reason: String,
}

/// Tells a search that nobody waits for it any more, and whoever bounds searches that this one asks far away.
#[derive(Clone, Default)]
pub struct Cancel {
    flag: Arc<AtomicBool>,
    before_far: Option<Arc<dyn Fn() -> Result<(), String> + Send + Sync>>,
}

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cancel").field(&self.is_cancelled()).finish()
    }
}

impl Cancel {
    /// `before_far` is called before each request to the store far away, on the thread of the search: it may wait, and refuse with a reason.
    #[must_use]
    pub fn asking(before_far: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { before_far: Some(Arc::new(before_far)), ..Self::default() }
    }

    pub fn cancel(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    pub(crate) fn before_far(&self) -> Result<(), FarError> {
        if self.is_cancelled() {
            return Err(FarError::Cancelled);
        }
        self.before_far.as_ref().map_or(Ok(()), |ask| ask().map_err(FarError::Away))
    }
}

/// Where a candidate of a search stands.
pub(super) enum Origin {
    Ring(Arc<Batch>, usize),
    Window(usize, DocAddress),
}

impl Origin {
    /// What the record itself is. `searchers`: those that the search has opened, in their order.
    pub(super) fn source(
        self,
        searchers: &[(Searcher, Fields, Arc<Folder>)],
        cancel: &Cancel,
    ) -> Result<Vec<u8>, SearchFault> {
        match self {
            Self::Ring(batch, index) => Ok(batch.documents[index].source.clone()),
            Self::Window(at, address) => {
                let (searcher, fields, folder) = &searchers[at];
                guard(folder, cancel, || walk::source(searcher, fields, address))
            }
        }
    }
}

pub(super) enum SearchFault {
    Cancelled,
    Window(Arc<Folder>, IndexFault),
    /// It lies where nobody answers, and why.
    Away(Arc<Folder>, String),
}

/// The number of no search.
const NEVER: u64 = 0;
/// Rounds of one search after which everything that is far away is left out.
const ROUNDS_MAX: usize = 8;

/// The windows that one search leaves out because they lie far away, over all its rounds.
#[derive(Default)]
pub(super) struct LeftOut {
    unreached: BTreeMap<String, String>,
    rounds: usize,
    /// Those that are far away are not asked for.
    only_here: bool,
}

impl LeftOut {
    pub(super) fn new(only_here: bool) -> Self {
        Self { only_here, ..Self::default() }
    }

    /// Whether nothing is to be asked of this window.
    pub(super) fn has(&mut self, folder: &Folder) -> bool {
        if folder.moved.is_none() {
            return false;
        }
        if self.only_here || self.unreached.contains_key(&folder.name) {
            return true;
        }
        if self.rounds > ROUNDS_MAX {
            self.add(folder, "others did not answer".to_owned());
            return true;
        }
        false
    }

    fn add(&mut self, folder: &Folder, why: String) {
        self.unreached.insert(folder.name.clone(), why);
    }

    /// The search begins anew, without this window.
    pub(super) fn begin_without(&mut self, folder: &Folder, why: String) {
        self.rounds += 1;
        self.add(folder, why);
    }

    /// `None`: the window is out of reach, and nothing of it was taken, so that the search goes on without it.
    pub(super) fn unless_away<T>(
        &mut self,
        step: Result<T, SearchFault>,
        was_taken: bool,
    ) -> Result<Option<T>, SearchFault> {
        match step {
            Err(SearchFault::Away(folder, why)) if !was_taken => {
                self.add(&folder, why);
                Ok(None)
            }
            step => step.map(Some),
        }
    }

    pub(super) fn told(self) -> Vec<Unreached> {
        self.unreached.into_iter().map(|(window, reason)| Unreached { window, reason }).collect()
    }
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
        let attempt = |left_out: &mut LeftOut| self.try_search(search, left_out, cancel);
        let (found, left_out) = self.until_it_reads(LeftOut::default(), attempt)?;
        Ok(Found { unreached: left_out.told(), ..found })
    }

    /// Begins anew until everything that is asked reads: each round that fails sets one window aside, leaves one out, or ends, so the rounds end.
    pub(super) fn until_it_reads<T>(
        &self,
        mut left_out: LeftOut,
        mut attempt: impl FnMut(&mut LeftOut) -> Result<T, SearchFault>,
    ) -> Result<(T, LeftOut), WindowsError> {
        loop {
            match attempt(&mut left_out) {
                Ok(found) => return Ok((found, left_out)),
                Err(SearchFault::Cancelled) => return Err(WindowsError::Cancelled),
                Err(SearchFault::Window(folder, fault)) => self.judge(&folder, fault)?,
                Err(SearchFault::Away(folder, why)) => left_out.begin_without(&folder, why),
            }
        }
    }

    fn try_search(&self, search: &Search, left_out: &mut LeftOut, cancel: &Cancel) -> Result<Found, SearchFault> {
        let (query, mut range) = narrowed(&search.query, Range { from_ns: search.from_ns, to_ns: search.to_ns });
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
                if document.time_ns >= range.from_ns && document.time_ns <= range.to_ns && query.matches(document) {
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
            if (searcher.is_none() && self.rules_out(&entry, &query)) || left_out.has(&entry.folder) {
                continue;
            }
            let opened = searcher.map_or_else(|| open_searcher(&entry.folder, cancel), Ok);
            let Some((searcher, fields)) = left_out.unless_away(opened, false)? else { continue };
            chain::next_use(&entry.folder, number);
            let (at, was_taken) = (searchers.len(), Cell::new(false));
            let walked = guard(&entry.folder, cancel, || {
                let origin = |address| {
                    was_taken.set(true);
                    Origin::Window(at, address)
                };
                let asked = Asked::new(&searcher, &fields, &query, Some(self.shared.options.read), cancel)?;
                walk::walk(&asked, range, &mut top, &origin, cancel)
            });
            if left_out.unless_away(walked, was_taken.get())?.is_some() {
                searchers.push((searcher, fields, entry.folder));
            }
        }

        let mut found = Found { set_aside, ..Found::default() };
        let ranked = top.into_sorted();
        let (total, mut bytes) = (ranked.len(), 0);
        for (position, origin) in ranked.into_iter().take(limit) {
            let source = origin.source(&searchers, cancel)?;
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
            let searcher =
                if entry.summary.closed { None } else { Some(open_searcher(&entry.folder, &Cancel::default())?) };
            windows.push((entry.clone(), searcher));
        }
        let asides = state.asides.iter().filter(|aside| aside.summary.as_ref().is_none_or(meets));
        let set_aside = asides.map(|aside| aside.name.clone()).collect();
        Ok(Seen { ring: state.ring.clone(), windows, set_aside })
    }

    /// Whether a closed window has nothing that answers, as its last commit or its filter knows.
    pub(super) fn rules_out(&self, entry: &Entry, query: &Query) -> bool {
        let (folder, names) = (&entry.folder, self.shared.options.filtered);
        !query.may_be_before(entry.summary.applied)
            || filter::rules_out(&folder.path, names, folder.moved.is_some(), query)
    }

    pub(super) fn next_search(&self) -> u64 {
        self.shared.searches.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn opened(&self, closed: bool) -> Vec<Arc<Folder>> {
        let state = lock(&self.shared.state);
        let those = state.entries.iter().filter(|entry| entry.summary.closed == closed && entry.folder.is_opened());
        those.map(|entry| Arc::clone(&entry.folder)).collect()
    }

    /// Lets go of windows that no search has used since the last call: what they have mapped counts as memory. Those that are written stay open.
    pub(super) fn shut_idle(&self) {
        let before = self.shared.searches_before.swap(self.shared.searches.load(Ordering::Relaxed), Ordering::Relaxed);
        let is_idle = |folder: &Arc<Folder>| folder.used.load(Ordering::Relaxed) <= before;
        self.opened(true).into_iter().filter(is_idle).for_each(|folder| folder.shut());
        for folder in self.opened(false) {
            let used = folder.used.load(Ordering::Relaxed);
            let is_due = used != NEVER && used <= before;
            // A search that comes just now is for the next round.
            if !is_due || folder.used.compare_exchange(used, NEVER, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                continue;
            }
            let _no_commit = lock(&self.shared.writing);
            if let Err(fault) = folder.map_anew() {
                let problem = fault.problem;
                tracing::warn!(window = folder.name, problem, "what searches have read of it stays in memory");
            }
        }
    }

    /// Keeps the closed windows open that were searched last.
    pub(super) fn shut_unused(&self) {
        let mut opened = self.opened(true);
        opened.sort_by_key(|folder| std::cmp::Reverse(folder.used.load(Ordering::Relaxed)));
        for folder in opened.iter().skip(self.shared.options.readers_max) {
            folder.shut();
        }
    }
}

/// What is asked of documents within the range of time that the question itself leaves.
pub(super) fn narrowed(query: &Query, range: Range) -> (Cow<'_, Query>, Range) {
    let (from_ns, to_ns) = query.span();
    (query.within_span(), Range { from_ns: range.from_ns.max(from_ns), to_ns: range.to_ns.min(to_ns) })
}

pub(super) fn open_searcher(folder: &Arc<Folder>, cancel: &Cancel) -> Result<(Searcher, Fields), SearchFault> {
    guard(folder, cancel, || {
        let window = folder.window()?;
        Ok((window.searcher(), window.fields.clone()))
    })
}

/// Runs a step of a search in one window. tantivy trusts its files and panics on some damage.
/// What went wrong far away counts, whatever tantivy made of it.
pub(super) fn guard<T>(
    folder: &Arc<Folder>,
    cancel: &Cancel,
    step: impl FnOnce() -> Result<T, Fault>,
) -> Result<T, SearchFault> {
    let fault = |fault| SearchFault::Window(Arc::clone(folder), fault);
    let (done, far) = waiting::during(cancel, || catch_unwind(AssertUnwindSafe(step)));
    match far {
        None => {}
        Some(FarError::Cancelled) => return Err(SearchFault::Cancelled),
        Some(FarError::Wrong(problem)) => return Err(fault(IndexFault::damage(problem))),
        Some(why @ (FarError::Missing | FarError::Away(_))) => {
            return Err(SearchFault::Away(Arc::clone(folder), why.to_string()));
        }
    }
    match done {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Fault::Cancelled)) => Err(SearchFault::Cancelled),
        Ok(Err(Fault::Index(reason))) => Err(fault(reason)),
        Err(_) => Err(fault(IndexFault { problem: "reading it failed unexpectedly".to_owned(), is_damage: false })),
    }
}
