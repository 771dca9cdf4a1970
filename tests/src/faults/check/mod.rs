//! Compares a history with the promises. Pure: it is told everything and asks nobody.
//!
//! It errs on one side only. An operation took effect at some moment between its begin and its end, so two of them
//! contradict a promise only where they do so for every choice of those moments; an operation whose answer was lost
//! may have happened at any time up to the end of its process, or not at all. So what is reported is wrong however the threads were scheduled.
//!
//! Each rule is a function of [`Facts`]; what it takes for granted stands beside it.

mod fifo;
mod holds;
mod standard;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use self::holds::Hold;
use super::history::{Call, History, Micros, Number, Operation, Outcome, Promise, Take, Violation};

/// Clocks are read in milliseconds on the other side, and a timer of its may be early by what was rounded.
pub(crate) const GRAIN: Micros = 20_000;
const SECOND: Micros = 1_000_000;

/// Every promise that the history shows broken.
#[must_use]
pub fn check(history: &History) -> Vec<Violation> {
    let facts = Facts::of(history);
    let mut violations = Vec::new();
    let mut report = |promise: Promise, what: String| violations.push(Violation { promise, what });
    standard::intact(&facts, &mut report);
    standard::once(&facts, &mut report);
    standard::hidden(&facts, &mut report);
    standard::stays_deleted(&facts, &mut report);
    standard::nothing_is_lost(&facts, &mut report);
    standard::delayed(&facts, &mut report);
    standard::dead_lettered(&facts, &mut report);
    standard::served(&facts, &mut report);
    fifo::ordered(&facts, &mut report);
    fifo::locked(&facts, &mut report);
    violations
}

type Report<'a> = &'a mut dyn FnMut(Promise, String);

/// An attempt to send, delete or hide.
struct Attempt<'a> {
    operation: &'a Operation,
    /// It was acknowledged, and the acknowledgement was heard.
    done: bool,
    run: Option<usize>,
}

impl Attempt<'_> {
    fn refused(&self) -> bool {
        matches!(self.operation.outcome, Outcome::Refused(_))
    }
}

/// A message in somebody's hands.
struct Taken<'a> {
    take: Take,
    number: Number,
    queue: usize,
    /// Which receive, and where in its answer.
    receive: usize,
    position: usize,
    begun: Micros,
    ended: Micros,
    run: Option<usize>,
    id: &'a str,
    receive_count: u32,
    intact: bool,
    /// When it is surely hidden from others.
    hold: Hold,
}

/// Everything about one message.
#[derive(Default)]
struct Story<'a> {
    sends: Vec<Attempt<'a>>,
    /// In the order in which they began.
    takes: Vec<Taken<'a>>,
    deletes: Vec<(Take, Attempt<'a>)>,
}

impl Story<'_> {
    fn acknowledged(&self) -> bool {
        self.sends.iter().any(|send| send.done)
    }

    fn sent_to(&self) -> Option<usize> {
        self.sends.first().map(|send| send.operation.queue)
    }

    fn take(&self, take: Take) -> Option<&Taken<'_>> {
        self.takes.iter().find(|taken| taken.take == take)
    }
}

/// A receive whose answer was lost: it may have taken anything in this span.
struct Lost {
    queue: usize,
    begun: Micros,
    until: Micros,
}

struct Facts<'a> {
    history: &'a History,
    stories: BTreeMap<Number, Story<'a>>,
    lost: Vec<Lost>,
    purges: Vec<Attempt<'a>>,
    /// Hides by take.
    hides: HashMap<Take, Vec<Attempt<'a>>>,
    /// Messages that came without a number of ours: receive's index.
    strangers: Vec<usize>,
}

impl<'a> Facts<'a> {
    fn of(history: &'a History) -> Self {
        let mut facts = Self {
            history,
            stories: BTreeMap::new(),
            lost: Vec::new(),
            purges: Vec::new(),
            hides: HashMap::new(),
            strangers: Vec::new(),
        };
        let numbers: HashMap<Take, Number> = history
            .operations
            .iter()
            .filter_map(|operation| match &operation.call {
                Call::Receive { got, .. } => Some(got),
                _ => None,
            })
            .flatten()
            .filter_map(|got| Some((got.take, got.number?)))
            .collect();
        for operation in &history.operations {
            let attempt = facts.attempt(operation);
            match &operation.call {
                Call::Send { number, .. } => facts.stories.entry(*number).or_default().sends.push(attempt),
                Call::Delete { take } => {
                    if let Some(number) = numbers.get(take) {
                        facts.stories.entry(*number).or_default().deletes.push((*take, attempt));
                    }
                }
                Call::Hide { take, .. } => facts.hides.entry(*take).or_default().push(attempt),
                Call::Purge => facts.purges.push(attempt),
                Call::Receive { .. } if !attempt.done && !attempt.refused() => {
                    let until = facts.latest_effect(operation);
                    facts.lost.push(Lost { queue: operation.queue, begun: operation.begun, until });
                }
                Call::Receive { .. } => {}
            }
        }
        for hides in facts.hides.values_mut() {
            hides.sort_by_key(|hide| hide.operation.begun);
        }
        facts.take_all();
        facts
    }

    fn take_all(&mut self) {
        for (receive, operation) in self.history.operations.iter().enumerate() {
            let Call::Receive { visibility_s, got } = &operation.call else { continue };
            let attempt = self.attempt(operation);
            if !attempt.done {
                continue;
            }
            for (position, got) in got.iter().enumerate() {
                let Some(number) = got.number else {
                    self.strangers.push(receive);
                    continue;
                };
                let none = Vec::new();
                let hides = self.hides.get(&got.take).unwrap_or(&none);
                let hold = Hold::of(operation.begun, *visibility_s, hides);
                self.stories.entry(number).or_default().takes.push(Taken {
                    take: got.take,
                    number,
                    queue: operation.queue,
                    receive,
                    position,
                    begun: operation.begun,
                    ended: operation.ended,
                    run: attempt.run,
                    id: &got.id,
                    receive_count: got.receive_count,
                    intact: got.intact,
                    hold,
                });
            }
        }
        for story in self.stories.values_mut() {
            story.takes.sort_by_key(|taken| taken.begun);
        }
    }

    fn attempt(&self, operation: &'a Operation) -> Attempt<'a> {
        let unheard = self
            .history
            .runs
            .iter()
            .any(|run| operation.begun < run.ended && run.silent.is_some_and(|silent| operation.ended > silent));
        Attempt { operation, done: operation.outcome == Outcome::Done && !unheard, run: self.run_of(operation) }
    }

    /// The run that must have served an operation; `None` where it may have been one of two.
    fn run_of(&self, operation: &Operation) -> Option<usize> {
        let mut may = self
            .history
            .runs
            .iter()
            .enumerate()
            .filter(|(_, run)| run.begun <= operation.ended && operation.begun <= run.ended);
        let (run, _) = may.next()?;
        may.next().is_none().then_some(run)
    }

    /// When an operation without an answer has surely happened or will never.
    fn latest_effect(&self, operation: &Operation) -> Micros {
        let may = self.history.runs.iter().filter(|run| run.begun <= operation.ended && operation.begun <= run.ended);
        may.map(|run| run.ended).max().unwrap_or(Micros::MAX)
    }

    /// Whether a timeout that began in one run counts in the other. Across runs only the wall clock tells the time.
    fn same_time(&self, one: Option<usize>, other: Option<usize>) -> bool {
        self.history.clock_swing_s == 0 || (one.is_some() && one == other)
    }

    fn name(&self, queue: usize) -> &str {
        self.history.queues.get(queue).map_or("?", |queue| &queue.name)
    }

    /// The queue and the one behind it.
    fn line(&self, queue: usize) -> impl Iterator<Item = usize> + '_ {
        let next = self.history.queues.get(queue).and_then(|queue| queue.redrive).map(|(_, next)| next);
        std::iter::once(queue).chain(next)
    }

    fn redrive_of(&self, queue: usize) -> Option<(u32, usize)> {
        self.history.queues.get(queue)?.redrive
    }

    fn is_fifo(&self, queue: usize) -> bool {
        self.history.queues.get(queue).is_some_and(|queue| queue.fifo)
    }

    /// Whether a purge may have taken the message.
    fn purgeable(&self, story: &Story<'_>) -> bool {
        let Some(begun) = story.sends.iter().map(|send| send.operation.begun).min() else { return false };
        self.purges.iter().any(|purge| {
            let until = if purge.done { purge.operation.ended } else { Micros::MAX };
            !purge.refused() && begun < until && story.sent_to() == Some(purge.operation.queue)
        })
    }
}

/// Whether two takes cannot both be right, whichever of them came first.
///
/// `forbids(first, second)`: `second` surely fell into a time at which `first` forbids it.
fn contradict(one: &Taken<'_>, other: &Taken<'_>, forbids: impl Fn(&Taken<'_>, &Taken<'_>) -> bool) -> bool {
    let possible = |first: &Taken<'_>, second: &Taken<'_>| first.begun <= second.ended;
    (!possible(one, other) || forbids(one, other)) && (!possible(other, one) || forbids(other, one))
}
