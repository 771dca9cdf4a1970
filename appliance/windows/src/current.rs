//! The newest document of each of many things that change: one index, in which a document replaces the one before it.
//!
//! For what has a name of its own and a state (a job), where [`crate::Windows`] is for what has happened once. A commit carries a note of
//! its owner's, such as the position in a journal up to which it is right; an index that does not read is made anew, and the
//! missing note says so. Documents are sorted by their moment, which should not change from one to the next.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use crate::chain::lock;
use crate::document::{Document, Value};
use crate::index::{IndexFault, Purpose, Window, Writer};
use crate::query::Query;
use crate::top::Top;
use crate::walk::{self, Asked, Fault, Range};
use crate::{Cancel, Found, Hit, Search, WindowsError};

/// The keyword by which a document is replaced.
const ID: &str = "id";

/// The index. Cheap to clone.
#[derive(Clone)]
pub struct Current {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    writer_bytes: usize,
    window: RwLock<Window>,
    /// Held over commits. Absent only while the index is being made anew.
    writer: Mutex<Option<Writer>>,
}

/// What was found at the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// What its owner wrote into the last commit; absent for a new index.
    pub note: Option<String>,
    /// Why the one that was there was thrown away.
    pub damage: Option<String>,
}

impl Current {
    /// Opens the index in the folder `dir`, or makes it.
    ///
    /// # Errors
    /// [`WindowsError`] when the folder cannot be written. Files that do not read are no error: they are thrown away.
    pub fn open(dir: impl Into<PathBuf>, writer_bytes: usize) -> Result<(Self, Opening), WindowsError> {
        let dir = dir.into();
        let mut damage = None;
        if dir.join("meta.json").exists() {
            match read(&dir) {
                Ok((window, note)) => {
                    let writer = window.writer(writer_bytes).map_err(|error| failed("open", error))?;
                    return Ok((Self::with(dir, writer_bytes, window, writer), Opening { note, damage }));
                }
                Err(problem) => damage = Some(problem),
            }
        }
        let (window, writer) = make(&dir, writer_bytes)?;
        Ok((Self::with(dir, writer_bytes, window, writer), Opening { note: None, damage }))
    }

    fn with(dir: PathBuf, writer_bytes: usize, window: Window, writer: Writer) -> Self {
        let (window, writer) = (RwLock::new(window), Mutex::new(Some(writer)));
        Self { shared: Arc::new(Shared { dir, writer_bytes, window, writer }) }
    }

    /// Throws everything away and begins with an empty index.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn make_anew(&self) -> Result<(), WindowsError> {
        let mut writer = lock(&self.shared.writer);
        drop(writer.take()); // lets go of the folder's lock
        let (window, new) = make(&self.shared.dir, self.shared.writer_bytes)?;
        *self.shared.window.write().unwrap_or_else(std::sync::PoisonError::into_inner) = window;
        *writer = Some(new);
        Ok(())
    }

    /// Puts `document` in the place of what `id` had. Its keyword `id`, if it has one, is the same. Seen after the next commit.
    ///
    /// # Errors
    /// When the disk is full, say; [`Current::reopen`] then.
    pub fn put(&self, id: &str, mut document: Document) -> Result<(), WindowsError> {
        if document.values(ID).next().is_none() {
            document.add(ID, Value::Keyword(id.to_owned()));
        }
        self.write("write", |writer| {
            writer.delete(ID, id);
            writer.add(&document)
        })
    }

    /// Takes away what `id` had.
    ///
    /// # Errors
    /// As [`Current::put`].
    pub fn remove(&self, id: &str) -> Result<(), WindowsError> {
        self.write("write", |writer| {
            writer.delete(ID, id);
            Ok(())
        })
    }

    /// Makes durable what was put and removed, with `note` beside it, and lets searches see it. Blocks.
    ///
    /// # Errors
    /// As [`Current::put`].
    pub fn commit(&self, note: &str) -> Result<(), WindowsError> {
        self.write("commit", |writer| writer.commit_with(note))?;
        self.window().refresh().map_err(|error| failed("refresh", error))
    }

    /// After an error: forgets what is not committed and opens the writer anew. Returns the last commit's note.
    ///
    /// # Errors
    /// When it does not read, or nothing can be written still.
    pub fn reopen(&self) -> Result<Option<String>, WindowsError> {
        let mut writer = lock(&self.shared.writer);
        drop(writer.take());
        let (window, note) = read(&self.shared.dir).map_err(|problem| failed("open", problem))?;
        let new = window.writer(self.shared.writer_bytes).map_err(|error| failed("open", error))?;
        *self.shared.window.write().unwrap_or_else(std::sync::PoisonError::into_inner) = window;
        *writer = Some(new);
        Ok(note)
    }

    fn write(
        &self,
        verb: &'static str,
        step: impl FnOnce(&mut Writer) -> tantivy::Result<()>,
    ) -> Result<(), WindowsError> {
        match &mut *lock(&self.shared.writer) {
            Some(writer) => step(writer).map_err(|error| failed(verb, error)),
            None => Err(failed(verb, "it is being opened")),
        }
    }

    fn window(&self) -> Window {
        self.shared.window.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Documents, as of the last commit.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.window().searcher().num_docs()
    }

    /// Bytes on disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(&self.shared.dir) else { return 0 };
        entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
    }

    /// Searches what is committed. Blocks. Questions that only a source can answer ([`Query::Contains`], [`Query::Matches`] of a text,
    /// [`Query::Id`]) find too much here.
    ///
    /// # Errors
    /// [`WindowsError::Cancelled`]; [`WindowsError::Index`] when it does not read: [`Current::make_anew`] then.
    pub fn search(&self, search: &Search, cancel: &Cancel) -> Result<Found, WindowsError> {
        let window = self.window();
        let (searcher, fields) = (window.searcher(), window.fields);
        let range = Range { from_ns: search.from_ns, to_ns: search.to_ns };
        let limit = search.limit.max(1);
        guard(|| {
            let mut top = Top::new(search.order, limit + 1, search.after);
            let asked = Asked::new(&searcher, &fields, &search.query, None, cancel)?;
            walk::walk(&asked, range, &mut top, &|address| address, cancel)?;
            let ranked = top.into_sorted();
            let (mut found, mut bytes) = (Found::default(), 0);
            let total = ranked.len();
            for (position, address) in ranked.into_iter().take(limit) {
                let source = walk::source(&searcher, &fields, address)?;
                bytes += source.len();
                if bytes > search.bytes_max && !found.hits.is_empty() {
                    break;
                }
                found.hits.push(Hit { position, source });
            }
            found.more = found.hits.len() < total;
            Ok(found)
        })
    }

    /// How many documents match, of those with a moment from `from_ns` to `to_ns`. Blocks.
    ///
    /// # Errors
    /// As [`Current::search`].
    pub fn count(&self, query: &Query, from_ns: i64, to_ns: i64, cancel: &Cancel) -> Result<u64, WindowsError> {
        let window = self.window();
        let searcher = window.searcher();
        guard(|| {
            let asked = Asked::new(&searcher, &window.fields, query, None, cancel)?;
            walk::count(&asked, Range { from_ns, to_ns }, cancel)
        })
    }

    /// Values of the keyword `name`, at least the first `limit` of them by their text; some may have no document any more.
    ///
    /// # Errors
    /// As [`Current::search`].
    pub fn keywords(&self, name: &str, limit: usize) -> Result<BTreeSet<String>, WindowsError> {
        let window = self.window();
        guard(|| walk::keywords(&window.searcher(), &window.fields, name, limit))
    }
}

fn read(dir: &Path) -> Result<(Window, Option<String>), String> {
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<_, IndexFault> {
        let window = Window::open(dir, Purpose::Current)?;
        let note = window.payload()?;
        Ok((window, note))
    }));
    match opened {
        Ok(opened) => opened.map_err(|error| error.to_string()),
        Err(_) => Err("reading it failed unexpectedly".into()),
    }
}

fn make(dir: &Path, writer_bytes: usize) -> Result<(Window, Writer), WindowsError> {
    let io = |source| WindowsError::Io { verb: "make", path: dir.to_owned(), source };
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    std::fs::create_dir_all(dir).map_err(io)?;
    let window = Window::create(dir, Purpose::Current).map_err(|error| failed("make", error))?;
    let writer = window.writer(writer_bytes).map_err(|error| failed("open", error))?;
    Ok((window, writer))
}

fn failed(verb: &'static str, problem: impl ToString) -> WindowsError {
    WindowsError::Index { verb, window: "index".to_owned(), problem: problem.to_string() }
}

/// Runs a step that reads the index. tantivy trusts its files and panics on some damage.
fn guard<T>(step: impl FnOnce() -> Result<T, Fault>) -> Result<T, WindowsError> {
    match catch_unwind(AssertUnwindSafe(step)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Fault::Cancelled)) => Err(WindowsError::Cancelled),
        Ok(Err(Fault::Index(IndexFault { problem, .. }))) => Err(failed("search", problem)),
        Err(_) => Err(failed("search", "reading it failed unexpectedly")),
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Bound;

    use proptest::prelude::*;

    use super::*;
    use crate::top::{Order, Position};

    fn document(time_ns: i64, seq: u64, status: &str, text: &str, steps: f64) -> Document {
        let mut document = Document::new(time_ns, seq);
        document.add("status", Value::Keyword(status.into()));
        document.add("text", Value::Text(text.into()));
        document.add("steps", Value::Number(steps));
        document.source = format!("{seq} {status}").into_bytes();
        document
    }

    fn search(current: &Current, query: Query, limit: usize, after: Option<Position>) -> Found {
        let search = Search {
            query,
            from_ns: i64::MIN,
            to_ns: i64::MAX,
            order: Order::Newest,
            limit,
            after,
            bytes_max: usize::MAX,
        };
        current.search(&search, &Cancel::default()).unwrap()
    }

    fn sources(found: &Found) -> Vec<String> {
        found.hits.iter().map(|hit| String::from_utf8_lossy(&hit.source).into_owned()).collect()
    }

    #[test]
    fn the_newest_document_of_each_is_found_and_the_note_survives() {
        let dir = tempfile::tempdir().unwrap();
        let (current, opening) = Current::open(dir.path().join("x"), 15_000_000).unwrap();
        assert_eq!(opening, Opening::default());
        for n in 0..10 {
            current.put(&format!("j{n}"), document(n, n as u64, "queued", "out of memory", n as f64)).unwrap();
        }
        current.put("j3", document(3, 3, "running", "well", 3.0)).unwrap();
        current.commit("one").unwrap();
        current.put("j4", document(4, 4, "failed", "out of memory", 4.0)).unwrap();
        current.remove("j5").unwrap();
        assert_eq!(current.documents(), 10, "not before its commit");
        current.commit("two").unwrap();
        let queued = Query::keyword("status", "queued");
        assert_eq!(sources(&search(&current, queued.clone(), 3, None)), ["9 queued", "8 queued", "7 queued"]);
        let first = search(&current, queued.clone(), 3, None);
        let second = search(&current, queued.clone(), 9, first.hits.last().map(|hit| hit.position));
        assert_eq!(sources(&second), ["6 queued", "2 queued", "1 queued", "0 queued"]);
        assert!(first.more && !second.more);
        let count = |query: &Query, from, to| current.count(query, from, to, &Cancel::default()).unwrap();
        assert_eq!(
            (count(&Query::All, i64::MIN, i64::MAX), count(&queued, i64::MIN, i64::MAX), count(&queued, 2, 6)),
            (9, 7, 2)
        );
        let oom = Query::And(vec![
            Query::text("text", "out of memory"),
            Query::Number { name: "steps".into(), from: Bound::Included(4.0), to: Bound::Unbounded },
        ]);
        assert_eq!(count(&oom, i64::MIN, i64::MAX), 5);
        assert!(current.keywords("status", 10).unwrap().contains("failed"));
        drop(current);
        let (again, opening) = Current::open(dir.path().join("x"), 15_000_000).unwrap();
        assert_eq!((opening.note.as_deref(), again.documents()), (Some("two"), 9));
        again.make_anew().unwrap();
        assert_eq!(again.documents(), 0);
        again.put("j", document(1, 1, "queued", "", 0.0)).unwrap();
        again.commit("three").unwrap();
        assert_eq!(sources(&search(&again, Query::All, 3, None)), ["1 queued"]);
    }

    #[test]
    fn what_is_not_committed_is_gone_after_a_reopen() {
        let dir = tempfile::tempdir().unwrap();
        let (current, _) = Current::open(dir.path(), 15_000_000).unwrap();
        current.put("a", document(1, 1, "queued", "", 0.0)).unwrap();
        current.commit("one").unwrap();
        current.put("b", document(2, 2, "queued", "", 0.0)).unwrap();
        assert_eq!(current.reopen().unwrap().as_deref(), Some("one"));
        current.put("c", document(3, 3, "queued", "", 0.0)).unwrap();
        current.commit("two").unwrap();
        assert_eq!(sources(&search(&current, Query::All, 9, None)), ["3 queued", "1 queued"]);
    }

    #[test]
    fn an_index_whose_files_are_damaged_is_thrown_away() {
        let dir = tempfile::tempdir().unwrap();
        let (current, _) = Current::open(dir.path(), 15_000_000).unwrap();
        current.put("a", document(1, 1, "queued", "memory", 0.0)).unwrap();
        current.commit("one").unwrap();
        drop(current);
        let files = || std::fs::read_dir(dir.path()).unwrap().flatten().map(|entry| entry.path());
        let terms = files().find(|path| path.extension().is_some_and(|e| e == "term")).unwrap();
        for damage in [terms, dir.path().join("meta.json")] {
            std::fs::write(&damage, b"{").unwrap();
            let (again, opening) = Current::open(dir.path(), 15_000_000).unwrap();
            assert!(opening.note.is_none() && opening.damage.is_some(), "{opening:?}");
            assert_eq!(again.documents(), 0);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]

        #[test]
        fn whatever_is_put_and_removed_it_answers_as_a_map_would(
            steps in prop::collection::vec((0..12_u64, 0..4_u8, prop::bool::weighted(0.2)), 1..80)
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (current, _) = Current::open(dir.path(), 15_000_000).unwrap();
            let mut model = std::collections::BTreeMap::new();
            for (id, what, commit) in steps {
                let name = format!("j{id}");
                if what == 0 {
                    current.remove(&name).unwrap();
                    model.remove(&id);
                } else {
                    let status = ["", "queued", "running", "failed"][usize::from(what)];
                    current.put(&name, document((id / 2) as i64, id, status, status, 0.0)).unwrap();
                    model.insert(id, status);
                }
                if commit {
                    current.commit("x").unwrap();
                    for status in ["queued", "running", "failed"] {
                        let expected: Vec<_> =
                            model.iter().rev().filter(|(_, s)| **s == status).map(|(id, s)| format!("{id} {s}")).collect();
                        let query = Query::keyword("status", status);
                        prop_assert_eq!(sources(&search(&current, query.clone(), 100, None)), expected.clone());
                        let oldest = Search {
                            query: query.clone(), from_ns: 1, to_ns: 4, order: Order::Oldest, limit: 100, after: None, bytes_max: 1_000,
                        };
                        let within: Vec<_> = model.iter()
                            .filter(|(id, s)| **s == status && (1..=4).contains(&(**id as i64 / 2))).map(|(id, s)| format!("{id} {s}")).collect();
                        prop_assert_eq!(sources(&current.search(&oldest, &Cancel::default()).unwrap()), within.clone());
                        prop_assert_eq!(current.count(&query, 1, 4, &Cancel::default()).unwrap(), within.len() as u64);
                    }
                }
            }
        }
    }
}
