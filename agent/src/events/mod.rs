//! What the appliance is told of attempts: in order, numbered, again until it is taken.
//!
//! A [`Reporter`] belongs to one attempt that is under way; it alone numbers and posts its events, so that they arrive
//! in their order. What cannot be posted is put into the [`spool::Spool`] and stays with the reporter too. When the
//! attempt is over, what is left is the [`Outbox`]'s, which goes on trying, also after a restart.

pub mod spool;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backlot_wire::attempt::EVENTS_PER_POST_MAX;
use backlot_wire::{AttemptEvent, AttemptEvents, Directive, EventKind};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::clock::Clock;
use crate::door::{Door, DoorError};
use spool::Spool;

/// Most events of one attempt in memory. Past it progress ticks go.
const EVENTS_MAX: usize = 2_000;
/// Posts without progress after which a batch is given up: the appliance answers, and does not take it.
const STUCK_MAX: u32 = 10;

/// Where events go.
pub struct Outbox {
    door: Option<Door>,
    spool: Spool,
    clock: Clock,
    /// Attempts whose reporter posts for itself.
    live: Mutex<HashSet<String>>,
}

impl Outbox {
    /// Without a door nothing is reported: the appliance speaks SQS alone.
    #[must_use]
    pub fn new(door: Option<Door>, spool: Spool, clock: Clock) -> Arc<Self> {
        Arc::new(Self { door, spool, clock, live: Mutex::default() })
    }

    #[must_use]
    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// Attempts under way that the appliance knows, in the order of their names.
    #[must_use]
    pub fn live_attempts(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.live.lock().iter().cloned().collect();
        ids.sort();
        ids
    }

    /// Posts what attempts before have left, for as long as the process lives.
    pub async fn run(self: Arc<Self>) {
        let Some(door) = &self.door else { return };
        let mut pause = Duration::from_secs(1);
        loop {
            tokio::time::sleep(pause).await;
            pause = Duration::from_secs(1);
            while let Some((attempt, events)) = self.spool.oldest(|attempt| self.live.lock().contains(attempt)) {
                let last = events.last().map_or(0, |event| event.seq);
                match door.report(&attempt, &AttemptEvents { events }).await {
                    Ok(_) => {
                        info!(job.attempt = attempt, "events from the spool were taken");
                        self.spool.taken(&attempt, last).await;
                    }
                    Err(DoorError::Refused { status, message }) => {
                        warn!(
                            job.attempt = attempt,
                            status, message, "events from the spool were refused and are dropped"
                        );
                        self.spool.taken(&attempt, last).await;
                    }
                    Err(DoorError::Away(_)) => {
                        pause = Duration::from_secs(5);
                        break;
                    }
                }
            }
        }
    }
}

#[derive(Default)]
struct Pending {
    queue: VecDeque<AttemptEvent>,
    last_seq: u64,
    /// Events up to this number are in the spool.
    spooled_seq: u64,
    stuck: u32,
}

/// Reports one attempt.
pub struct Reporter {
    attempt: Option<String>,
    outbox: Arc<Outbox>,
    pending: Mutex<Pending>,
    /// One post at a time.
    posting: tokio::sync::Mutex<()>,
    wake: Notify,
    refused: AtomicBool,
}

impl Reporter {
    /// Of the attempt with this id; without one (a plain SQS queue) every report is for nobody.
    #[must_use]
    pub fn new(outbox: Arc<Outbox>, attempt: Option<String>) -> Self {
        let attempt = attempt.filter(|_| outbox.door.is_some());
        if let Some(id) = &attempt {
            outbox.live.lock().insert(id.clone());
        }
        Self {
            attempt,
            outbox,
            pending: Mutex::default(),
            posting: tokio::sync::Mutex::new(()),
            wake: Notify::new(),
            refused: AtomicBool::new(false),
        }
    }

    /// Whether anybody listens.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.attempt.is_some()
    }

    /// Notes that something happened. It is posted soon.
    pub fn report(&self, kind: EventKind) {
        if self.attempt.is_none() {
            return;
        }
        let is_percent = |event: &AttemptEvent| matches!(event.kind, EventKind::Percent { .. });
        let mut pending = self.pending.lock();
        pending.last_seq += 1;
        let event = AttemptEvent { seq: pending.last_seq, at: self.outbox.clock.now().timestamp(), kind };
        // A newer percentage says all that an unsent older one would.
        if is_percent(&event) && pending.queue.back().is_some_and(is_percent) {
            pending.queue.pop_back();
        }
        if pending.queue.len() >= EVENTS_MAX {
            let tick = pending.queue.iter().position(is_percent).unwrap_or(0);
            pending.queue.remove(tick);
        }
        pending.queue.push_back(event);
        drop(pending);
        self.wake.notify_one();
    }

    /// Resolves when there is something to post.
    pub async fn something_to_say(&self) {
        self.wake.notified().await;
    }

    /// Posts what is pending, or a heartbeat, and returns what the appliance asks for.
    ///
    /// # Errors
    /// [`DoorError::Away`]: everything is kept. [`DoorError::Refused`]: the appliance does not know this attempt.
    pub async fn post(&self) -> Result<Directive, DoorError> {
        let (Some(attempt), Some(door)) = (&self.attempt, &self.outbox.door) else { return Ok(Directive::default()) };
        let _turn = self.posting.lock().await;
        let events: Vec<_> = self.pending.lock().queue.iter().take(EVENTS_PER_POST_MAX).cloned().collect();
        let batch_end = events.last().map(|event| event.seq);
        match door.report(attempt, &AttemptEvents { events: events.clone() }).await {
            Ok(answer) => {
                let taken = self.taken(batch_end, answer.accepted_seq);
                if let Some(up_to) = taken {
                    self.outbox.spool.taken(attempt, up_to).await;
                }
                Ok(answer.directive)
            }
            Err(error @ DoorError::Away(_)) => {
                let unspooled: Vec<_> = {
                    let mut pending = self.pending.lock();
                    let from = pending.spooled_seq;
                    pending.spooled_seq = batch_end.unwrap_or(from).max(from);
                    events.into_iter().filter(|event| event.seq > from).collect()
                };
                self.outbox.spool.put(attempt, &unspooled).await;
                Err(error)
            }
            Err(error) => {
                self.pending.lock().queue.clear();
                if !self.refused.swap(true, Ordering::Relaxed) {
                    warn!(%error, "events of this attempt are not taken");
                }
                self.outbox.spool.taken(attempt, u64::MAX).await;
                Err(error)
            }
        }
    }

    /// Drops what was taken. Returns the number to release in the spool, if something of it is there.
    fn taken(&self, batch_end: Option<u64>, accepted_seq: u64) -> Option<u64> {
        let mut pending = self.pending.lock();
        let before = pending.queue.len();
        pending.queue.retain(|event| event.seq > accepted_seq);
        if batch_end.is_none() || pending.queue.len() < before {
            pending.stuck = 0;
        } else {
            pending.stuck += 1;
            if pending.stuck >= STUCK_MAX {
                warn!("the appliance answers and does not take these events: they are dropped");
                pending.stuck = 0;
                pending.queue.retain(|event| Some(event.seq) > batch_end);
            }
        }
        (pending.spooled_seq > 0).then_some(accepted_seq)
    }

    /// Posts until nothing is pending or `patience` is over. True: the appliance has everything.
    pub async fn settle(&self, patience: Duration) -> bool {
        let done = async {
            loop {
                let result = self.post().await;
                if self.pending.lock().queue.is_empty() {
                    return result.is_ok();
                }
                if result.is_err() {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        };
        let settled = tokio::time::timeout(patience, done).await.unwrap_or(false);
        if !settled && let Some(attempt) = &self.attempt {
            // What was never part of a failed post is not in the spool yet.
            let rest: Vec<_> = {
                let mut pending = self.pending.lock();
                let from = std::mem::replace(&mut pending.spooled_seq, u64::MAX);
                pending.queue.iter().filter(|event| event.seq > from).cloned().collect()
            };
            self.outbox.spool.put(attempt, &rest).await;
        }
        settled
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(attempt) = &self.attempt {
            self.outbox.live.lock().remove(attempt);
        }
    }
}
