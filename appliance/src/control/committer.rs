//! The one thread that writes the catalogue: applies records in journal order, once they are durable.
//!
//! Each record is applied on its own, because the projection of the next one reads what this one wrote.
//! When a record cannot be applied, the catalogue would be wrong from there on: the committer stops, every later
//! acknowledgement fails, and [`Committer::ended`] resolves, which ends the process.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use backlot_journal::{JournalError, Lsn, Submitted};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use super::{Commit, ControlError, Ending, Kind, Record, Routes};
use crate::catalogue::{Batch, Catalogue};

/// Bytes that may wait to be applied; further permits wait.
const BACKLOG_BYTES_MAX: usize = 32 * 1024 * 1024;

pub(super) struct Committer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    /// Too much waits.
    full: AtomicBool,
    drained: Notify,
    ended: Notify,
}

#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    bytes: usize,
    closing: bool,
    ended: bool,
}

enum Item {
    Commit {
        submitted: Submitted,
        records: Vec<(Lsn, Kind, Vec<u8>)>,
        answer: oneshot::Sender<Result<(), ControlError>>,
    },
    /// Nothing before this position is left to apply.
    Note(Lsn, oneshot::Sender<Result<(), ControlError>>),
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Commit { records, .. } => records.iter().map(|(_, _, payload)| payload.len()).sum(),
            Self::Note(..) => 0,
        }
    }
}

impl Committer {
    pub(super) fn new() -> Self {
        Self { shared: Arc::default(), thread: Mutex::new(None) }
    }

    /// Begins to apply. Called once, when the followers are known.
    pub(super) fn start(&self, catalogue: Catalogue, routes: Arc<Routes>) -> std::io::Result<()> {
        let ends = Ends(Arc::clone(&self.shared));
        let run = move || {
            while let Some(item) = ends.0.next() {
                if !take(&catalogue, &routes, item) {
                    break;
                }
            }
        };
        let thread = std::thread::Builder::new().name("catalogue-commit".into()).spawn(run)?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Submits with `submit` and queues the records, in one order for both.
    pub(super) fn submit(&self, submit: impl FnOnce() -> Submitted, records: &[Record]) -> Commit {
        let copies: Vec<_> = records.iter().map(|record| (record.kind, record.payload.clone())).collect();
        let (answer, applied) = oneshot::channel();
        let mut queue = self.shared.queue.lock();
        let mut submitted = submit();
        let lsns = std::mem::take(&mut submitted.lsns);
        let records = lsns.iter().zip(copies).map(|(lsn, (kind, payload))| (*lsn, kind, payload)).collect();
        self.shared.push(&mut queue, Item::Commit { submitted, records, answer });
        Commit { lsns, end: Ending::Applied(applied) }
    }

    /// Has the catalogue note that it has applied everything before what `durable` answers.
    pub(super) async fn note(&self, durable: impl FnOnce() -> Lsn) -> Result<(), ControlError> {
        let (answer, noted) = oneshot::channel();
        {
            let mut queue = self.shared.queue.lock(); // what is durable now was queued before
            let durable = durable();
            self.shared.push(&mut queue, Item::Note(durable, answer));
        }
        noted.await.unwrap_or(Err(JournalError::Closed.into()))
    }

    /// Resolves when no more waits than may.
    pub(super) async fn has_room(&self) {
        while self.shared.full.load(Ordering::Acquire) {
            let drained = self.shared.drained.notified();
            tokio::pin!(drained);
            {
                let queue = self.shared.queue.lock();
                if queue.bytes <= BACKLOG_BYTES_MAX {
                    return;
                }
                drained.as_mut().enable();
            }
            drained.await;
        }
    }

    /// Resolves when the thread has ended, for whatever reason.
    pub(super) async fn ended(&self) {
        loop {
            let ended = self.shared.ended.notified();
            tokio::pin!(ended);
            {
                let queue = self.shared.queue.lock();
                if queue.ended {
                    return;
                }
                ended.as_mut().enable();
            }
            ended.await;
        }
    }

    /// Applies what is queued and ends. Blocks.
    pub(super) fn close(&self) {
        self.shared.queue.lock().closing = true;
        self.shared.filled.notify_all();
        if let Some(thread) = self.thread.lock().take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join(); // a panic has been reported by the thread itself
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.close();
    }
}

/// Held by the thread, so that nobody waits for it when it has ended, a panic included.
struct Ends(Arc<Shared>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Shared {
    fn push(&self, queue: &mut Queue, item: Item) {
        if !queue.ended {
            queue.bytes += item.bytes();
            self.full.store(queue.bytes > BACKLOG_BYTES_MAX, Ordering::Release);
            queue.items.push_back(item); // dropped otherwise, which answers that the journal is closed
            self.filled.notify_one();
        }
    }

    fn next(&self) -> Option<Item> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(item) = queue.items.pop_front() {
                queue.bytes -= item.bytes();
                if queue.bytes <= BACKLOG_BYTES_MAX && self.full.swap(false, Ordering::AcqRel) {
                    self.drained.notify_waiters();
                }
                return Some(item);
            }
            if queue.closing {
                return None;
            }
            self.filled.wait(&mut queue);
        }
    }

    fn end(&self) {
        let mut queue = self.queue.lock();
        queue.ended = true;
        queue.items.clear();
        queue.bytes = 0;
        self.full.store(false, Ordering::Release);
        drop(queue);
        self.drained.notify_waiters();
        self.ended.notify_waiters();
    }
}

/// Does one item; false when the catalogue can no longer follow.
fn take(catalogue: &Catalogue, routes: &Routes, item: Item) -> bool {
    let (done, answer) = match item {
        Item::Note(lsn, answer) => {
            let noted = if lsn > catalogue.applied() { catalogue.apply(Batch::default(), lsn) } else { Ok(()) };
            (noted.map_err(ControlError::from), answer)
        }
        Item::Commit { submitted, records, answer } => {
            if let Err(error) = submitted.durable_blocking() {
                let _ = answer.send(Err(error.into())); // whoever waited may have gone
                return false;
            }
            let apply = |(lsn, kind, payload): &(Lsn, Kind, Vec<u8>)| apply(catalogue, routes, *kind, *lsn, payload);
            (records.iter().try_for_each(apply), answer)
        }
    };
    let follows = done.is_ok();
    if let Err(error) = &done {
        tracing::error!(%error, "the catalogue cannot follow the journal");
    }
    let _ = answer.send(done); // whoever waited may have gone
    follows
}

/// Applies one durable record, where its kind has a projection.
pub(super) fn apply(
    catalogue: &Catalogue,
    routes: &Routes,
    kind: Kind,
    lsn: Lsn,
    payload: &[u8],
) -> Result<(), ControlError> {
    let Some(route) = routes.of(kind).filter(|route| route.projects) else { return Ok(()) };
    let mut batch = Batch::default();
    let problem = |problem| ControlError::Record { lsn, kind: kind as u8, problem };
    route.follower.project(kind, lsn, payload, catalogue, &mut batch).map_err(problem)?;
    if !batch.is_empty() {
        catalogue.apply(batch, Lsn(lsn.0 + 1))?;
    }
    Ok(())
}
