//! Keeps windows up with the telemetry journal.
//!
//! The same way live and after a restart: scan from where the windows stand, add, commit now and then, tell the journal
//! what is no longer needed. A window that cannot be written (a full disk) is tried again from its last commit; meanwhile
//! the journal keeps what arrives.

use std::sync::Arc;
use std::time::Duration;

use backlot_journal::Lsn;
use backlot_windows::{Document, Windows, WindowsError};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::budget::tell;
use super::names::Names;
use crate::clock::Clock;
use crate::reached::Reached;
use crate::tasks::Stage;
use crate::telemetry_journal::{Kind, TelemetryJournal};

/// Bytes that are taken from the journal in one go.
const STEP_BYTES: usize = 4 << 20;
const HOUSEKEEP_EVERY: Duration = Duration::from_secs(60);
/// Pause before a failed step is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// Makes documents of one payload of the journal. The position of each lies within the record: `first_seq` and the numbers after it,
/// one for each byte of the payload.
pub(super) type Convert = fn(payload: &[u8], first_seq: u64, arrived_ms: u64) -> Vec<Document>;

/// A payload as these followers keep it: when it arrived, then the request as protobuf.
#[must_use]
pub(super) fn encode(arrived_ms: u64, request: &impl prost::Message) -> Vec<u8> {
    let mut payload = Vec::with_capacity(8 + request.encoded_len());
    payload.extend(arrived_ms.to_le_bytes());
    if let Err(error) = request.encode(&mut payload) {
        unreachable!("a vector grows as it must: {error}");
    }
    payload
}

/// Takes a payload apart again.
#[must_use]
pub(super) fn arrived(payload: &[u8]) -> Option<(u64, &[u8])> {
    let (arrived_ms, request) = payload.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*arrived_ms), request))
}

/// Follows one kind of record. Cheap to clone.
#[derive(Clone)]
pub(super) struct Follower {
    journal: TelemetryJournal,
    kind: Kind,
    windows: Windows,
    clock: Arc<dyn Clock>,
    convert: Convert,
    names: Arc<Mutex<Names>>,
    reached: Arc<Reached>,
}

impl Follower {
    #[must_use]
    pub(super) fn new(
        journal: TelemetryJournal,
        kind: Kind,
        windows: Windows,
        clock: Arc<dyn Clock>,
        convert: Convert,
        names: Names,
    ) -> Self {
        let (names, reached) = (Arc::new(Mutex::new(names)), Arc::new(Reached::new(0)));
        Self { journal, kind, windows, clock, convert, names, reached }
    }

    /// Starts following. Commits at the stop.
    pub(super) fn start(&self, stage: &Stage) {
        let (follower, stop) = (self.clone(), stage.stopping());
        stage.spawn(self.kind.as_str(), async move {
            let mut more = follower.journal.subscribe();
            let mut housekeep = tokio::time::interval(HOUSEKEEP_EVERY);
            // Beside the indexing: merging a large window takes half a minute, and what arrives meanwhile is to be found.
            let mut upkeep = None;
            let mut next = follower.begin();
            loop {
                more.borrow_and_update();
                let is_waiting;
                match follower.step(next).await {
                    Ok(done) => (next, is_waiting) = done,
                    Err(problem) => {
                        follower.reached.fail();
                        tracing::error!(
                            kind = follower.kind.as_str(),
                            problem,
                            "indexing fails; the journal keeps what arrives"
                        );
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = tokio::time::sleep(RETRY_AFTER) => {}
                        }
                        ended(&mut upkeep).await; // it may be at work in what is opened anew
                        follower.recover().await;
                        next = follower.begin();
                        continue;
                    }
                }
                if next < *more.borrow() {
                    continue;
                }
                let commit_in = if is_waiting { Duration::from_millis(250) } else { HOUSEKEEP_EVERY };
                tokio::select! {
                    () = stop.cancelled() => break,
                    changed = more.changed() => if changed.is_err() { break },
                    _ = housekeep.tick(), if upkeep.is_none() => upkeep = Some(follower.housekeep()),
                    () = ended(&mut upkeep), if upkeep.is_some() => {}
                    () = tokio::time::sleep(commit_in) => {}
                }
            }
            ended(&mut upkeep).await;
            let (windows, names) = (follower.windows.clone(), Arc::clone(&follower.names));
            let wall_ms = follower.clock.now().wall_ms;
            let last = move || {
                names.lock().keep(wall_ms);
                windows.commit()
            };
            if let Ok(Err(error)) = tokio::task::spawn_blocking(last).await {
                tracing::warn!(%error, "last commit failed; the journal has what it lacks");
            }
        });
    }

    /// Waits until everything that was acknowledged before the call can be found, as [`Reached`] does.
    pub(super) async fn caught_up(&self) {
        let wanted = *self.journal.subscribe().borrow();
        self.reached.wait_for(wanted.0).await;
    }

    /// Where the windows stand. A journal that is younger than they are was made anew, and is read from its beginning.
    fn begin(&self) -> Lsn {
        let applied = Lsn(self.windows.applied());
        if applied > self.journal.durable() {
            tracing::error!(
                kind = self.kind.as_str(),
                applied = applied.0,
                durable = self.journal.durable().0,
                "the telemetry journal ends before what was indexed from it, so it is a new one; reading it from its beginning"
            );
            self.windows.rewind();
            return Lsn::default();
        }
        applied
    }

    /// Up to where it came, and whether anything waits for a commit.
    async fn step(&self, from: Lsn) -> Result<(Lsn, bool), String> {
        let follower = self.clone();
        let done = tokio::task::spawn_blocking(move || follower.step_blocking(from)).await;
        done.map_err(|error| error.to_string())?
    }

    fn step_blocking(&self, from: Lsn) -> Result<(Lsn, bool), String> {
        let mut failed: Option<WindowsError> = None;
        let mut bytes = 0;
        let next = self.journal.scan(self.kind, from, &mut |lsn, payload| {
            let Some((arrived_ms, request)) = arrived(payload) else {
                tracing::error!(kind = self.kind.as_str(), lsn = lsn.0, "skipped a record without a head");
                return true;
            };
            let mut documents = (self.convert)(request, lsn.0, arrived_ms);
            self.names.lock().bound(&mut documents, arrived_ms);
            let end = lsn.0 + payload.len() as u64; // after the position of each of its documents
            let now_ms = self.clock.now().mono_ms;
            if let Err(error) = self.windows.add(documents, arrived_ms, end, now_ms) {
                failed = Some(error);
                return false;
            }
            bytes += payload.len();
            bytes < STEP_BYTES
        });
        let next = next.map_err(|error| error.to_string())?;
        if let Some(error) = failed {
            return Err(error.to_string());
        }
        let now = self.clock.now();
        self.windows.add(Vec::new(), now.wall_ms, next.0, now.mono_ms).map_err(|error| error.to_string())?;
        self.reached.reach(next.0); // a search finds it before its commit, which a slow disk may take long for
        if self.windows.commit_is_due(now.mono_ms) {
            self.windows.commit().map_err(|error| error.to_string())?;
        }
        let is_waiting = self.windows.is_waiting();
        if !is_waiting {
            self.journal.checkpoint(self.kind, next);
        } else if self.windows.applied() > 0 {
            self.journal.checkpoint(self.kind, Lsn(self.windows.applied()));
        }
        Ok((next, is_waiting))
    }

    async fn recover(&self) {
        let windows = self.windows.clone();
        let recovered = tokio::task::spawn_blocking(move || windows.recover()).await;
        match recovered {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "could not open the windows again"),
            Err(error) => tracing::error!(%error, "could not open the windows again"),
        }
    }

    /// Begins a round of it, and tells what it did when it is waited for.
    fn housekeep(&self) -> BoxFuture<'static, ()> {
        let (windows, names, wall_ms) = (self.windows.clone(), Arc::clone(&self.names), self.clock.now().wall_ms);
        let work = tokio::task::spawn_blocking(move || {
            names.lock().keep(wall_ms);
            windows.housekeep(wall_ms)
        });
        let kind = self.kind.as_str();
        async move {
            match work.await {
                Ok(Ok(dropped)) => tell(kind, &dropped),
                Ok(Err(error)) => tracing::warn!(%error, "housekeeping of windows; the next round tries again"),
                Err(error) => tracing::error!(%error, "housekeeping of windows"),
            }
        }
        .boxed()
    }
}

/// Waits until the work under way is done, if there is any.
async fn ended(work: &mut Option<BoxFuture<'static, ()>>) {
    if let Some(under_way) = work {
        under_way.await;
        *work = None;
    }
}
