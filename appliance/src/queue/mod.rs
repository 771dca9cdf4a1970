//! Message queues: at-least-once delivery under visibility timeouts, SQS semantics.
//!
//! [`engine`] decides where every message is, from a `now` that it is handed; what it decides is submitted to the control
//! journal under the same lock and answered when it is durable. Memory holds about 100 bytes a message; a body is read back
//! from the journal when its message is received.
//!
//! Invariants: a message is received only after its send is durable, and a receive is durable before it is answered; only the newest
//! receipt deletes, an older one is answered 200, as SQS documents for `DeleteMessage`, and counted.
//!
//! What is absent on purpose: nothing here knows what a job is, [`Overseer`] is asked; and no policy decides who may do what.

mod admin;
mod api_http;
mod api_sqs;
mod encryption;
mod engine;
mod keeper;
mod model;
mod move_task;
mod mover;
mod overseer;
mod policy;
mod recent;
mod record;
mod redrive;
mod sending;
mod settings;
mod store;
mod tags;
mod traffic;
mod waiting;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use backlot_journal::Lsn;
use parking_lot::Mutex;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use self::engine::{Context, Engine, Group, Queue};
use self::model::QueueId;
use self::recent::Recent;
use self::waiting::{Ticket, Waiting};
use crate::clock::{Clock, Now};
use crate::control::{Commit, Control, ControlError, Permit};
use crate::tasks::Stage;

pub use api_http::routes;
pub use api_sqs::{Sqs, fuzz_parse};
pub use model::{
    AttributeValue, Decision, Delivery, MessageAttribute, QueueError, QueueOverview, ReceiveRequest, SendRequest, Sent,
    Standing, fuzz_receipt,
};
pub use overseer::{
    Action, Admission, Admitted, CHANGE_RECORDS_BYTES_MAX, Change, Class, Nearness, Overseer, Tenant, Turn,
};
pub use record::fuzz_journal;

/// The queues. Cheap to clone.
#[derive(Clone)]
pub struct Queues {
    shared: Arc<Shared>,
}

struct Shared {
    control: Control,
    clock: Arc<dyn Clock>,
    overseer: Option<Arc<dyn Overseer>>,
    state: Mutex<State>,
    /// Position up to which sends have been let out. Set while `state` is locked.
    published: AtomicU64,
    /// Where message ids come from.
    ids: Mutex<ChaCha8Rng>,
    /// Wakes the keeper before its time.
    keeper: Notify,
    /// Wakes the mover: a task has begun.
    mover: Notify,
    /// Receives stop waiting when it is cancelled.
    closing: OnceLock<CancellationToken>,
}

struct State {
    engine: Engine,
    waiting: Waiting,
    recent: Recent,
    /// When the keeper wakes next, on the monotonic clock.
    keeper_wakes_ms: u64,
}

/// Longest time that a durable send may stay invisible when its sender has gone before the answer.
const PUBLISH_MS: u64 = 20;

impl Queues {
    /// Queues that write through `control`. They know nothing until its replay has handed them their records, as a
    /// [`crate::control::Follower`]. `seed` is where message ids come from.
    #[must_use]
    pub fn build(control: Control, clock: Arc<dyn Clock>, seed: u64, overseer: Option<Arc<dyn Overseer>>) -> Self {
        let state = State {
            engine: Engine::default(),
            waiting: Waiting::default(),
            recent: Recent::default(),
            keeper_wakes_ms: 0,
        };
        Self {
            shared: Arc::new(Shared {
                control,
                clock,
                overseer,
                state: Mutex::new(state),
                published: AtomicU64::new(0),
                ids: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
                keeper: Notify::new(),
                mover: Notify::new(),
                closing: OnceLock::new(),
            }),
        }
    }

    /// Looks again whether somebody who waits for a job may have one: what the overseer answers to
    /// [`Overseer::fits`] or [`Overseer::turn`] has changed.
    pub fn reconsider(&self) {
        let group = Group::of_freed_limits();
        let mut state = self.shared.state.lock();
        let now = self.shared.clock.now();
        self.shared.settle(&mut state, now, &group);
    }

    /// Starts the timers (visibility, delay, retention), the move tasks and the gauges in `stage`. Receives end empty when `closing` is
    /// cancelled: hand in the doors' token, so that they need not wait for long polls.
    pub fn start(&self, stage: &Stage, closing: CancellationToken) {
        let _ = self.shared.closing.set(closing);
        stage.spawn("queue keeper", keeper::run(Arc::clone(&self.shared), stage.stopping()));
        stage.spawn("queue mover", mover::run(Arc::clone(&self.shared), stage.stopping()));
        stage.spawn("queue gauges", keeper::gauge(Arc::clone(&self.shared), stage.stopping()));
    }
}

impl Shared {
    fn overseer(&self) -> Option<&dyn Overseer> {
        self.overseer.as_deref()
    }

    /// Decides under the lock and submits what was decided before letting go of it. `None`: nothing was to be written.
    fn decide<T>(&self, permit: Permit, decide: impl FnOnce(&mut State, &mut Context<'_>) -> T) -> (T, Option<Commit>) {
        let mut group = Group::default();
        let mut state = self.state.lock();
        let now = self.clock.now();
        self.let_out(&mut state, now, &mut group);
        let answer = decide(&mut state, &mut Context { now, overseer: self.overseer(), group: &mut group });
        let commit = (!group.records.is_empty()).then(|| {
            let commit = permit.submit(&group.records);
            state.engine.placed(&group, &commit.lsns);
            commit
        });
        self.settle(&mut state, now, &group);
        drop(state);
        (answer, commit)
    }

    /// Lets out what has become durable.
    fn publish(&self) {
        let mut group = Group::default();
        let mut state = self.state.lock();
        let now = self.clock.now();
        self.let_out(&mut state, now, &mut group);
        self.settle(&mut state, now, &group);
    }

    fn let_out(&self, state: &mut State, now: Now, group: &mut Group) {
        let durable = self.control.journal().durable();
        state.engine.publish(now, durable, group);
        self.published.store(durable.0, Ordering::Release);
    }

    /// Whether somebody has let out the send at `lsn`: of all who wait for one sync the first does it for the others.
    fn is_published(&self, lsn: Lsn) -> bool {
        lsn.0 < self.published.load(Ordering::Acquire)
    }

    /// What follows from a group: waiters are woken, and the keeper where a timer ends before it would wake.
    fn settle(&self, state: &mut State, now: Now, group: &Group) {
        for (queue, offer) in &group.ready {
            if state.engine.offers(*queue) == 0 {
                continue; // it is paused
            }
            match self.overseer().filter(|_| state.engine.is_overseen(*queue)) {
                None => {
                    state.waiting.wake(*queue, |_| true);
                }
                Some(overseer) => match state.engine.is_open(now, *queue, *offer, overseer) {
                    Ok(()) => {
                        state.waiting.wake_nearest(*queue, |agent| {
                            overseer.fits(agent, offer.class).then(|| overseer.nearness(agent, offer.class))
                        });
                    }
                    Err(not_before_ms) => self.remind(state, not_before_ms),
                },
            }
        }
        if group.freed {
            for queue in state.waiting.queues() {
                if state.engine.is_overseen(queue) {
                    self.pass_on(state, queue);
                }
            }
        }
        let publish_ms = state.engine.has_pending().then_some(now.mono_ms + PUBLISH_MS);
        self.remind(state, [group.due_ms, publish_ms].into_iter().flatten().min());
    }

    /// Lets the keeper wake at `wanted_ms` at the latest.
    fn remind(&self, state: &mut State, wanted_ms: Option<u64>) {
        if let Some(wanted_ms) = wanted_ms.filter(|wanted_ms| *wanted_ms < state.keeper_wakes_ms) {
            state.keeper_wakes_ms = wanted_ms;
            self.keeper.notify_one();
        }
    }

    /// A waiter has come back or gone, or limits may be free: where more can be received than waiters were promised, the next one
    /// that fits is woken. That one passes it on in turn.
    fn pass_on(&self, state: &mut State, queue: QueueId) {
        if !state.waiting.is_slept_for(queue) || state.engine.offers(queue) <= state.waiting.woken(queue) {
            return;
        }
        let overseer = self.overseer().filter(|_| state.engine.is_overseen(queue));
        let (classes, not_before_ms) = state.engine.open_classes(self.clock.now(), queue, overseer);
        self.remind(state, not_before_ms);
        for class in classes {
            let nearness = |agent: Option<&str>| match overseer {
                None => Some(Nearness::Elsewhere),
                Some(overseer) => overseer.fits(agent, class).then(|| overseer.nearness(agent, class)),
            };
            if state.waiting.wake_nearest(queue, nearness) {
                return;
            }
        }
    }

    /// The queue `name` as it is now.
    fn find(&self, name: &str) -> Result<Queue, QueueError> {
        let state = self.state.lock();
        state.engine.queue(name).cloned().ok_or_else(|| QueueError::NoSuchQueue(name.to_owned()))
    }
}

/// Waits until what was decided is durable.
async fn acknowledged(queue: &str, commit: Option<Commit>) -> Result<(), QueueError> {
    match commit {
        Some(commit) => commit.acknowledged().await.map_err(store_error(queue)),
        None => Ok(()),
    }
}

fn store_error(queue: &str) -> impl FnOnce(ControlError) -> QueueError {
    |source| QueueError::Store { queue: queue.to_owned(), source }
}

#[cfg(test)]
mod tests;
