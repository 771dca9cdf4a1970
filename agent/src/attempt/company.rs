//! From ready to computed: alone, or in the company of jobs that wait at the same moment.
//!
//! An attempt with all that it needs stands in the [`Line`] until it has a slot, or until one that has a slot takes it along. That one
//! asks the queue for more of its kind first, unless another slot of this host is idle. What the queue has ready then is what no
//! idle host has asked for, so no GPU waits for a job that is held here. Jobs that this host holds and that are still on their
//! way (inputs, models) are waited for, `batch_wait_ms` at the most; those that come later take the next slot.
//!
//! Only a job's first attempt has company: what has ended a batch once is not to end another.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backlot_wire::{FailureClass, JobSpec, Limits, job::is_name};
use futures::FutureExt;
use futures::future::BoxFuture;
use opentelemetry::metrics::Counter;
use parking_lot::Mutex;
use serde_json::Map;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tracing::{Span, info};

use super::{Attempt, End, lead};
use crate::library::Provided;
use crate::service::{Agent, Drain};
use crate::worker::charge::Member;
use crate::worker::manifest::Program;
use crate::worker::process::{Orders, Verdict};
use crate::worker::protocol::{Said, Task};
use crate::worker::{BUILTIN, Held};

/// What jobs of one batch have the same of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Alike {
    key: String,
    models_dir: Option<PathBuf>,
    /// Of the models, with their versions.
    names: Vec<String>,
}

/// A job with all that it needs to be computed.
pub(super) struct Ready {
    pub(super) task: Task,
    pub(super) limits: Limits,
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) heard: Box<dyn FnMut(Said) + Send>,
    /// `None`: it is computed alone.
    pub(super) alike: Option<Alike>,
}

/// How a job has ended, and its part in the slot: that is free when all of them are gone.
pub(super) struct Ended {
    pub(super) verdict: Verdict,
    pub(super) part: mpsc::Sender<Infallible>,
}

/// One that stands in line.
struct Standing {
    place: u64,
    ready: Ready,
    span: Span,
    ended: oneshot::Sender<Ended>,
    taken: oneshot::Sender<()>,
}

/// The jobs of this host that wait for a slot.
pub struct Line {
    standing: Mutex<(u64, Vec<Standing>)>,
    /// Those on their way, by their keys.
    coming: watch::Sender<BTreeMap<String, usize>>,
    /// Rights to hold jobs beside those that are held ahead.
    seats: Arc<Semaphore>,
    batch: usize,
    wait: Duration,
    /// Jobs that were computed together with others.
    together: Counter<u64>,
}

/// An attempt on its way to the line.
pub(super) struct Coming {
    agent: Arc<Agent>,
    key: String,
}

impl Coming {
    /// `None`: it will be computed alone.
    pub(super) fn announce(agent: &Arc<Agent>, spec: &JobSpec, attempt: u32) -> Option<Self> {
        let key = spec.batch_key().filter(|_| attempt == 1 && agent.line.batch > 1)?;
        agent.line.coming.send_modify(|coming| *coming.entry(key.clone()).or_default() += 1);
        Some(Self { agent: Arc::clone(agent), key })
    }

    pub(super) fn alike(&self, program: &Program, provided: &Provided) -> Option<Alike> {
        let alike =
            || Alike { key: self.key.clone(), models_dir: provided.folder.clone(), names: provided.names.clone() };
        (program.name == BUILTIN).then(alike)
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        self.agent.line.coming.send_modify(|coming| {
            if let Some(count) = coming.get_mut(&self.key) {
                *count -= 1;
            }
            coming.retain(|_, count| *count > 0);
        });
    }
}

impl Line {
    /// For `slots` slots, each with at most `batch` jobs at once. `together` counts those that had company.
    pub fn new(slots: usize, batch: usize, wait: Duration, together: Counter<u64>) -> Self {
        let seats = Arc::new(Semaphore::new(slots * batch.saturating_sub(1)));
        Self { standing: Mutex::default(), coming: watch::Sender::default(), seats, batch, wait, together }
    }

    fn stand(&self, ready: Ready) -> (u64, oneshot::Receiver<Ended>, oneshot::Receiver<()>) {
        let ((ended, end), (taken, company)) = (oneshot::channel(), oneshot::channel());
        let mut standing = self.standing.lock();
        standing.0 += 1;
        let place = standing.0;
        standing.1.push(Standing { place, ready, span: Span::current(), ended, taken });
        (place, end, company)
    }

    /// `None`: somebody has taken it along.
    fn leave(&self, place: u64) -> Option<Standing> {
        let mut standing = self.standing.lock();
        let at = standing.1.iter().position(|one| one.place == place)?;
        Some(standing.1.remove(at))
    }

    /// Leaves with the slot that it has got. `None`: somebody has taken it along meanwhile, and the slot is the next one's.
    fn leave_with(&self, place: u64, slot: Option<Held>) -> Option<(Standing, Option<Held>)> {
        Some((self.leave(place)?, slot))
    }

    /// Takes along up to `most` that are alike, those that came first.
    fn take(&self, alike: &Alike, most: usize) -> Vec<Standing> {
        let mut standing = self.standing.lock();
        let mut left = most;
        let is_taken = |one: &mut Standing| {
            let is = left > 0 && one.ready.alike.as_ref() == Some(alike);
            left -= usize::from(is);
            is
        };
        standing.1.extract_if(.., is_taken).collect()
    }

    /// Seats for as many jobs as a batch has room for beside those that are here and on their way.
    fn seats(&self, alike: &Alike) -> Vec<OwnedSemaphorePermit> {
        let here = self.standing.lock().1.iter().filter(|one| one.ready.alike.as_ref() == Some(alike)).count();
        let coming = self.coming.borrow().get(&alike.key).copied().unwrap_or_default();
        let room = (self.batch - 1).saturating_sub(here + coming);
        std::iter::from_fn(|| Arc::clone(&self.seats).try_acquire_owned().ok()).take(room).collect()
    }
}

impl Attempt {
    /// Waits for a slot or for company, and has the job computed.
    pub(super) async fn have_computed(&self, program: &Program, models: &[String], ready: Ready) -> Result<Ended, End> {
        let agent = &self.agent;
        let mut orders = ready.orders.clone();
        let (place, end, mut company) = agent.line.stand(ready);
        // It has come.
        drop(self.coming.lock().take());
        let end = end.map(|ended| {
            ended.map_err(|_| End::Failed {
                class: FailureClass::Transient,
                message: "nobody watches the worker any more".to_owned(),
                details: Map::new(),
            })
        });
        let slot = tokio::select! {
            biased;
            _ = &mut company => return end.await,
            slot = agent.slots.hold(&program.name, models) => slot,
            stopped = self.unstarted(&mut orders) => match agent.line.leave(place) {
                Some(_) => return Err(stopped),
                None => return end.await,
            },
        };
        let Some((own, slot)) = agent.line.leave_with(place, slot) else { return end.await };
        let Some(slot) = slot else { return Err(End::GivenBack("the agent is ending".into())) };
        let alike = own.ready.alike.clone();
        if let Some(alike) = &alike {
            tokio::select! {
                () = self.gather(alike) => {}
                stopped = self.unstarted(&mut orders) => return Err(stopped),
            }
        }
        // One that is in line while a slot is idle is just about to have that.
        let alike = alike.filter(|_| agent.slots.are_taken());
        let others = alike.map_or_else(Vec::new, |alike| agent.line.take(&alike, agent.line.batch - 1));
        let members = std::iter::once(own).chain(others).collect();
        tokio::spawn(drive(Arc::clone(agent), program.clone(), models.to_vec(), slot, members));
        end.await
    }

    /// Asks for more of the kind, and waits for those that this host has or is given.
    async fn gather(&self, alike: &Alike) {
        let agent = &self.agent;
        if !agent.slots.are_taken() {
            return;
        }
        let deadline = Instant::now() + agent.line.wait;
        // On a plain SQS a job could not be asked for by its kind.
        let asks = self.delivery.attempt.is_some() && is_name(&self.job) && *agent.drain.borrow() == Drain::Working;
        let seats = if asks { agent.line.seats(alike) } else { Vec::new() };
        if !seats.is_empty() {
            let (received, heard) = oneshot::channel();
            let more = tokio::spawn(lead_more(Arc::clone(agent), self.job.clone(), seats, received));
            *self.more.lock() = Some(more);
            let _ = timeout_at(deadline, heard).await;
        }
        let mut coming = agent.line.coming.subscribe();
        let _ = timeout_at(deadline, coming.wait_for(|coming| !coming.contains_key(&alike.key))).await;
    }
}

/// Receives jobs like `job`, one for each seat, and leads them to their ends. Boxed, for a lead may come here again.
fn lead_more(
    agent: Arc<Agent>,
    job: String,
    seats: Vec<OwnedSemaphorePermit>,
    received: oneshot::Sender<()>,
) -> BoxFuture<'static, ()> {
    async move {
        let deliveries = agent.queue.receive_alike(&job, seats.len()).await.unwrap_or_else(|error| {
            info!(%error, job, "no more of its kind can be received");
            Vec::new()
        });
        let pairs = deliveries.into_iter().zip(seats);
        let attempts: Vec<_> =
            pairs.map(|(delivery, seat)| tokio::spawn(lead(Arc::clone(&agent), delivery, seat))).collect();
        let _ = received.send(());
        for ended in attempts {
            crate::service::log_end(ended.await);
        }
    }
    .boxed()
}

/// Has the jobs computed in the slot, which is free when nobody needs it any more.
async fn drive(agent: Arc<Agent>, program: Program, models: Vec<String>, mut slot: Held, members: Vec<Standing>) {
    let jobs = members.len();
    if jobs > 1 {
        agent.line.together.add(jobs as u64, &[opentelemetry::KeyValue::new("agent", agent.config.name.clone())]);
    }
    let (part, mut parts) = mpsc::channel(1);
    let mut members: Vec<_> = members
        .into_iter()
        .map(|Standing { ready, span, ended, taken, .. }| {
            if jobs > 1 {
                span.in_scope(|| info!(jobs, "is computed together with other jobs"));
            }
            let _ = taken.send(());
            let mut ended = Some((ended, part.clone()));
            let tell = move |verdict| {
                if let Some((ended, part)) = ended.take() {
                    let _ = ended.send(Ended { verdict, part });
                }
            };
            (ready, span, tell)
        })
        .collect();
    drop(part);
    let borrowed = members.iter_mut().map(|(ready, span, ended)| Member {
        task: &ready.task,
        limits: &ready.limits,
        orders: ready.orders.clone(),
        span: span.clone(),
        heard: &mut *ready.heard,
        ended,
    });
    slot.run(&program, &models, borrowed.collect()).await;
    drop(members);
    let _ = parts.recv().await; // nothing is ever sent: it ends with the last part
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::worker::Slots;
    use crate::worker::process::Launch;

    fn alike(kind: u8) -> Alike {
        Alike { key: kind.to_string(), models_dir: None, names: Vec::new() }
    }

    fn line(batch: usize) -> Line {
        let together = opentelemetry::global::meter("test").u64_counter("together").build();
        Line::new(1, batch, Duration::ZERO, together)
    }

    fn stand(line: &Line, kind: Option<u8>) -> u64 {
        let task = r#"{"id":"j","attempt":"j.1","type":"x","inputs":[],"output_dir":"/"}"#;
        let (task, orders) = (serde_json::from_str(task).unwrap(), watch::Sender::default().subscribe());
        let limits = Limits::default();
        let ready = Ready { task, limits, orders, heard: Box::new(|_| {}), alike: kind.map(alike) };
        line.stand(ready).0
    }

    #[test]
    fn there_are_seats_for_what_a_batch_lacks_and_for_one_batch_a_slot() {
        let line = line(4);
        assert_eq!(line.seats(&alike(1)).len(), 3);
        stand(&line, Some(1));
        line.coming.send_modify(|coming| *coming = BTreeMap::from([("1".to_owned(), 1)]));
        let first = line.seats(&alike(1));
        assert_eq!(first.len(), 1, "one is here and one on its way");
        assert_eq!(line.seats(&alike(2)).len(), 2, "of another kind, what is left for this slot");
    }

    #[tokio::test]
    async fn the_slot_of_one_that_was_taken_along_is_free_for_the_next() {
        let launch = Launch {
            agent: PathBuf::new(),
            line_bytes_max: 0,
            cancel_grace: Duration::ZERO,
            hard_limit_s: 0,
            output_bytes_max: 0,
            cgroup: None,
        };
        let (line, slots) = (line(2), Slots::new(Vec::new(), 2, launch, Box::new(|_| {})));
        let [other, own] = [stand(&line, Some(1)), stand(&line, Some(1))];
        let slot = slots.hold("x", &[]).await;
        assert!(matches!(line.leave_with(other, slot), Some((_, Some(_)))));
        let _others = slots.hold("x", &[]).await;
        let slot = slots.hold("x", &[]).await;
        assert!(slots.are_taken());
        assert_eq!(line.take(&alike(1), 1).len(), 1, "before it has looked at its slot");
        assert!(line.leave_with(own, slot).is_none());
        assert!(!slots.are_taken());
    }

    #[derive(Clone, Debug)]
    enum Act {
        Stand(Option<u8>),
        Leave(usize),
        Take(u8, usize),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            3 => prop::option::of(0..2_u8).prop_map(Act::Stand),
            1 => (0..20_usize).prop_map(Act::Leave),
            2 => ((0..2_u8), (0..4_usize)).prop_map(|(kind, most)| Act::Take(kind, most)),
        ]
    }

    proptest! {
        /// Against a list: who stands is taken along or leaves, once; of a kind the first come first.
        #[test]
        fn each_is_taken_along_or_leaves_once_and_in_order(acts in prop::collection::vec(act(), 0..40)) {
            let line = line(4);
            let mut all = Vec::new();
            let mut standing: Vec<(u64, Option<u8>)> = Vec::new();
            for act in acts {
                match act {
                    Act::Stand(kind) => {
                        let place = stand(&line, kind);
                        all.push(place);
                        standing.push((place, kind));
                    }
                    Act::Leave(which) => {
                        let Some(place) = all.get(which) else { continue };
                        let stood = standing.iter().any(|(other, _)| other == place);
                        prop_assert_eq!(line.leave(*place).is_some(), stood);
                        standing.retain(|(other, _)| other != place);
                    }
                    Act::Take(kind, most) => {
                        let taken: Vec<u64> = line.take(&alike(kind), most).iter().map(|one| one.place).collect();
                        let expected = standing.iter().filter(|(_, of)| *of == Some(kind)).take(most);
                        let expected: Vec<u64> = expected.map(|(place, _)| *place).collect();
                        standing.retain(|(place, _)| !expected.contains(place));
                        prop_assert_eq!(taken, expected);
                    }
                }
            }
            prop_assert_eq!(line.standing.lock().1.len(), standing.len());
        }
    }
}
