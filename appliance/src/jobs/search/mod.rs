//! Search over jobs: one index of all of them, each as it is now, kept up with the catalogue.
//!
//! Whoever applies a record of a job to the catalogue says so ([`Index::touched`]); about once a second, or at once when somebody searches, the
//! jobs that have changed are read from the catalogue and put into the index, whose commit says up to which position of the journal
//! it is right. A start goes on from there; an index that is missing, damaged, too old or of another journal is made again
//! from the catalogue, in the background, newest jobs first, and says how far it is.
//!
//! Invariant: with `applied` in the commit's note, the index has every change before `applied` of each job that has no later one.
//!
//! Absent on purpose: no ring of fresh jobs in memory as logs have. A search waits for the next commit instead.

#[cfg(test)]
mod bench;
mod document;
mod language;
mod page;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backlot_journal::Lsn;
use backlot_windows::{Cancel, Current, Found, Query, Search, WindowsError};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore};

pub(super) use self::document::document;
pub(super) use self::language::{Asked, parse};
use super::model::Tracked;
use super::store;
use crate::catalogue::Catalogue;
use crate::reached::Reached;
use crate::tasks::Stage;

/// Name of the index's folder in the data folder.
const FOLDER: &str = "jobs-index";
/// Of the index's writer.
const WRITER_BYTES: usize = 30_000_000;
/// Pause between two commits when nobody waits.
const PAUSE: Duration = Duration::from_secs(1);
/// Pause between two commits when somebody waits.
const PAUSE_HURRIED: Duration = Duration::from_millis(50);
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Most jobs that wait to be indexed; past it the whole index is made again.
const TOUCHED_MAX: usize = 500_000;
/// Jobs read in one step of making the index again.
const STEP_JOBS: usize = 5_000;
/// A commit says how far the journal was followed when nothing of its own has come for so many bytes.
const IDLE_COMMIT_BYTES: u64 = 16 << 20;
/// Searches at once, and the longest wait for a turn.
const SEARCHES_AT_ONCE: usize = 4;
const SEARCH_WAIT: Duration = Duration::from_secs(5);
/// Types, projects and so on that are counted one by one.
const COUNTED_MAX: usize = 50;
const NOTE_VERSION: u32 = 1;

/// What the index's commits say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: u32,
    /// Everything of the journal before this position is in.
    applied: u64,
    /// The index is being made again: jobs before this key of the list are missing. Empty: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    missing_before: Option<String>,
    /// Jobs put in since that began.
    #[serde(default)]
    remade: u64,
}

/// Throws the index below `data` away; the next start makes it again. The appliance must not be running.
///
/// # Errors
/// When it cannot be removed.
pub fn forget_index(data: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(data.join(FOLDER)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// How far an index is that is being made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaking {
    /// Jobs that are in.
    pub jobs: u64,
}

/// Why a search had no answer.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    #[error("the index of jobs is not open")]
    Closed,
    #[error("too many searches are under way")]
    TooMany,
    #[error(transparent)]
    Index(#[from] WindowsError),
}

/// Jobs by status, type and project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub total: u64,
    pub status: BTreeMap<String, u64>,
    /// At most 50 of each, those with most jobs.
    #[serde(rename = "type")]
    pub kind: BTreeMap<String, u64>,
    pub project: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaking: Option<Remaking>,
}

/// The index. Cheap to clone.
#[derive(Clone)]
pub(super) struct Index {
    shared: Arc<Shared>,
}

struct Shared {
    current: Current,
    catalogue: Catalogue,
    /// Jobs that have changed, with the position of their newest change.
    touched: Mutex<HashMap<String, Lsn>>,
    state: Mutex<State>,
    wake: Notify,
    hurry: Notify,
    reached: Reached,
    searches: Arc<Semaphore>,
}

#[derive(Default)]
struct State {
    note: Note,
    /// The index cannot be trusted: it is to be made again.
    doubtful: bool,
}

impl Index {
    /// Opens the index below `data`, or makes it. Nothing is indexed before [`Index::start`].
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub(super) fn open(data: &Path, catalogue: Catalogue) -> Result<Self, WindowsError> {
        let (current, opening) = Current::open(data.join(FOLDER), WRITER_BYTES)?;
        if let Some(damage) = &opening.damage {
            tracing::error!(damage, "the index of jobs is damaged; it is made again from the catalogue");
        }
        let note = opening.note.and_then(|note| serde_json::from_str::<Note>(&note).ok());
        let note = note.filter(|note| note.version == NOTE_VERSION);
        let state = State { doubtful: note.is_none(), note: note.unwrap_or_default() };
        let shared = Shared {
            current,
            catalogue,
            touched: Mutex::default(),
            reached: Reached::new(state.note.applied),
            state: Mutex::new(state),
            wake: Notify::new(),
            hurry: Notify::new(),
            searches: Arc::new(Semaphore::new(SEARCHES_AT_ONCE)),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// A record at `lsn` changes job `id` in the catalogue.
    pub(super) fn touched(&self, lsn: Lsn, id: &str) {
        let mut touched = self.shared.touched.lock();
        if touched.len() >= TOUCHED_MAX {
            touched.clear();
            self.shared.state.lock().doubtful = true;
            tracing::error!("too many jobs wait to be indexed; the index is made again");
        }
        // The newest position: what is read before it is applied would be an older state.
        touched.insert(id.to_owned(), lsn);
        drop(touched);
        self.shared.wake.notify_one();
    }

    /// A record that was found at the start. Those that the index has are passed over.
    pub(super) fn replayed(&self, lsn: Lsn, payload: &[u8]) {
        #[derive(Deserialize)]
        struct Entry {
            head: Head,
        }
        #[derive(Deserialize)]
        struct Head {
            id: String,
        }
        if lsn.0 < self.shared.state.lock().note.applied {
            return;
        }
        // First comes the version, which whoever projects the record has checked.
        if let Ok(entry) = serde_json::from_slice::<Entry>(payload.get(1..).unwrap_or_default()) {
            self.touched(lsn, &entry.head.id);
        }
    }

    /// The journal has been read from `oldest` to `end`: is the index one that goes on from there?
    pub(super) fn replay_done(&self, oldest: Lsn, end: Lsn) {
        let mut state = self.shared.state.lock();
        let applied = state.note.applied;
        if !state.doubtful && (applied < oldest.0 || applied > end.0) {
            tracing::warn!(applied, oldest = oldest.0, end = end.0, "the index of jobs does not fit the journal");
            state.doubtful = true;
        }
    }

    /// Starts following. Commits at the stop.
    pub(super) fn start(&self, stage: &Stage) {
        let (index, stop) = (self.clone(), stage.stopping());
        stage.spawn("jobs index", async move {
            loop {
                let worker = index.clone();
                let more = match tokio::task::spawn_blocking(move || worker.step()).await {
                    Ok(Ok(more)) => more,
                    Ok(Err(problem)) => {
                        index.shared.reached.fail();
                        tracing::error!(problem, "indexing jobs fails; it is tried again");
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(RETRY_AFTER) => {}
                        }
                        true
                    }
                    Err(error) => {
                        // A panic: what it left behind is thrown away.
                        index.shared.reached.fail();
                        tracing::error!(%error, "indexing jobs failed unexpectedly");
                        index.shared.state.lock().doubtful = true;
                        tokio::time::sleep(RETRY_AFTER).await;
                        true
                    }
                };
                if more && !stop.is_cancelled() {
                    continue;
                }
                // A pause between two commits, shorter when somebody waits; then until there is something.
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = index.shared.hurry.notified() => tokio::time::sleep(PAUSE_HURRIED).await,
                    () = tokio::time::sleep(PAUSE) => tokio::select! {
                        () = stop.cancelled() => break,
                        () = index.shared.wake.notified() => {}
                        () = index.shared.hurry.notified() => {}
                        () = tokio::time::sleep(Duration::from_secs(30)) => {}
                    },
                }
            }
            let last = tokio::task::spawn_blocking(move || index.step()).await;
            if let Ok(Err(problem)) = last {
                tracing::warn!(problem, "the last commit of the index of jobs failed; the next start catches up");
            }
        });
    }

    /// One step: what has changed, and a piece of what is missing. True: there is more to do at once.
    fn step(&self) -> Result<bool, String> {
        let stepped = self.try_step();
        if stepped.is_err()
            && let Err(error) = self.shared.current.reopen()
        {
            tracing::error!(%error, "the index of jobs does not open again");
            self.shared.state.lock().doubtful = true;
        }
        stepped
    }

    fn try_step(&self) -> Result<bool, String> {
        let shared = &self.shared;
        let mut note = self.begin()?;
        // What is applied now was touched before; what is touched later is later in the journal.
        let applied = shared.catalogue.applied();
        let due = self.take_due(applied);
        let mut changed = !due.is_empty();
        for (done, (id, _)) in due.iter().enumerate() {
            if let Err(problem) = self.put(id) {
                self.give_back(due[done..].to_vec());
                return Err(problem);
            }
        }
        let mut more = false;
        if let Some(before) = note.missing_before.clone() {
            let before = hex::decode(&before).unwrap_or_default();
            match self.put_page(&before) {
                Ok((jobs, next)) => {
                    note.remade += jobs;
                    more = next.is_some();
                    if next.is_none() {
                        tracing::info!(jobs = note.remade, "the index of jobs is whole again");
                    }
                    note.missing_before = next.map(hex::encode);
                    changed = true;
                }
                Err(problem) => {
                    self.give_back(due);
                    return Err(problem);
                }
            }
        }
        note.applied = applied.0;
        let known = shared.state.lock().note.applied;
        if changed || applied.0.saturating_sub(known) >= IDLE_COMMIT_BYTES {
            let text = serde_json::to_string(&note).map_err(|error| error.to_string())?;
            if let Err(error) = shared.current.commit(&text) {
                self.give_back(due);
                return Err(error.to_string());
            }
            shared.state.lock().note = note;
        }
        shared.reached.reach(applied.0);
        Ok(more)
    }

    /// The note to go on from; of an index that cannot be trusted, that of an empty one.
    fn begin(&self) -> Result<Note, String> {
        let mut state = self.shared.state.lock();
        if state.doubtful {
            self.shared.current.make_anew().map_err(|error| error.to_string())?;
            state.note = Note { version: NOTE_VERSION, applied: 0, missing_before: Some(String::new()), remade: 0 };
            state.doubtful = false;
            tracing::info!("making the index of jobs again");
        }
        Ok(state.note.clone())
    }

    fn take_due(&self, applied: Lsn) -> Vec<(String, Lsn)> {
        let mut touched = self.shared.touched.lock();
        touched.extract_if(|_, lsn| *lsn < applied).collect()
    }

    fn give_back(&self, due: Vec<(String, Lsn)>) {
        let mut touched = self.shared.touched.lock();
        for (id, lsn) in due {
            touched.entry(id).or_insert(lsn);
        }
    }

    fn put(&self, id: &str) -> Result<(), String> {
        match store::read(&self.shared.catalogue, id) {
            Ok(Some(tracked)) => self.put_job(&tracked),
            Ok(None) => self.shared.current.remove(id).map_err(|error| error.to_string()),
            Err(error) => {
                // One job that does not read must not keep all others from being found.
                tracing::error!(job = id, %error, "a job cannot be indexed");
                Ok(())
            }
        }
    }

    fn put_job(&self, tracked: &Tracked) -> Result<(), String> {
        self.shared.current.put(&tracked.head.id, document(tracked)).map_err(|error| error.to_string())
    }

    /// Puts a page of the list of all jobs: how many, and where to go on.
    fn put_page(&self, before: &[u8]) -> Result<(u64, Option<Vec<u8>>), String> {
        let page =
            store::summaries_back(&self.shared.catalogue, before, STEP_JOBS).map_err(|error| error.to_string())?;
        let Some((last, _)) = page.last() else { return Ok((0, None)) };
        let last = last.clone();
        for (_, summary) in &page {
            self.put(&summary.id)?;
        }
        Ok((page.len() as u64, Some(last)))
    }

    /// Waits until everything that was applied to the catalogue before the call can be found, as [`Reached`] does.
    pub(super) async fn caught_up(&self) {
        let wanted = self.shared.catalogue.applied().0;
        if !self.shared.reached.has(wanted) {
            self.shared.hurry.notify_one();
            self.shared.reached.wait_for(wanted).await;
        }
    }

    /// How far the index is, while it is being made again.
    pub(super) fn remaking(&self) -> Option<Remaking> {
        let state = self.shared.state.lock();
        (state.doubtful || state.note.missing_before.is_some()).then_some(Remaking { jobs: state.note.remade })
    }

    /// The ids of the jobs that `search` finds.
    pub(super) async fn search(&self, search: Search) -> Result<Found, SearchError> {
        self.run(move |current, cancel| current.search(&search, cancel)).await
    }

    /// How many jobs `asked` finds, in all and by what they are.
    pub(super) async fn counts(&self, asked: Asked) -> Result<Counts, SearchError> {
        let mut counts = self.run(move |current, cancel| count(current, &asked, cancel)).await?;
        counts.remaking = self.remaking();
        Ok(counts)
    }

    /// How many jobs `asked` finds.
    pub(super) async fn count(&self, asked: Asked) -> Result<u64, SearchError> {
        self.run(move |current, cancel| current.count(&asked.query, asked.from_ns, asked.to_ns, cancel)).await
    }

    /// Runs a search on a thread that may block; it ends when nobody waits for it any more.
    async fn run<T: Send + 'static>(
        &self,
        search: impl FnOnce(&Current, &Cancel) -> Result<T, WindowsError> + Send + 'static,
    ) -> Result<T, SearchError> {
        let turn = tokio::time::timeout(SEARCH_WAIT, Arc::clone(&self.shared.searches).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(SearchError::TooMany) };
        let cancel = CancelOnDrop(Cancel::default());
        let (current, flag) = (self.shared.current.clone(), cancel.0.clone());
        let searched = tokio::task::spawn_blocking(move || {
            let _turn = turn; // held until the search has really ended
            search(&current, &flag)
        });
        let searched = searched.await.unwrap_or(Err(WindowsError::Cancelled));
        if let Err(error @ WindowsError::Index { .. }) = &searched {
            tracing::error!(%error, "the index of jobs does not read; it is made again");
            self.shared.state.lock().doubtful = true;
            self.shared.wake.notify_one();
        }
        Ok(searched?)
    }
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

fn count(current: &Current, asked: &Asked, cancel: &Cancel) -> Result<Counts, WindowsError> {
    let count = |query: &Query| current.count(query, asked.from_ns, asked.to_ns, cancel);
    let with = |name: &str, value: &str| Query::And(vec![asked.query.clone(), Query::keyword(name, value)]);
    let by = |name: &str| -> Result<BTreeMap<String, u64>, WindowsError> {
        let mut counted = Vec::new();
        for value in current.keywords(name, COUNTED_MAX * 4)? {
            let found = count(&with(name, &value))?;
            if found > 0 {
                counted.push((found, value));
            }
        }
        counted.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        Ok(counted.into_iter().take(COUNTED_MAX).map(|(found, value)| (value, found)).collect())
    };
    Ok(Counts {
        total: count(&asked.query)?,
        status: by("status")?,
        kind: by("type")?,
        project: by("project")?,
        remaking: None,
    })
}
