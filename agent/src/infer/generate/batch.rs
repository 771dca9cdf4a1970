//! Jobs of one model on their way from noise to pictures: at each step those of one shape ask the UNet together.
//!
//! Jobs join when the first one begins and leave when they have ended: a step's shape changes as seldom as that. Every job keeps its own
//! sampler, steps, seed and guidance, for only the UNet's question is shared, and what comes out for one does not depend on the
//! others. More than there is memory for go one group after the other. What fails together is tried one at a time, so that a
//! fault has the one job that it is of.

use std::sync::atomic::{AtomicBool, Ordering};

use backlot_wire::cause;
use tracing::warn;

use super::begin;
use super::job::Job;
use super::loaded::{Loaded, Sample};
use super::parameters::Wanted;
use crate::infer::{Context, DEVICE, Engine, Failure, Made, Member, Report, Task, Tell, Word};

/// A growth of a job's GPU seconds that is told while it runs.
const TOLD_MS: f64 = 1_000.0;

/// Who is told, and who has not ended.
pub(super) struct Ears<'a, 'm, 't> {
    members: &'a [Member<'m>],
    tell: &'a mut Tell<'t>,
    open: Vec<bool>,
}

impl<'a, 'm, 't> Ears<'a, 'm, 't> {
    pub(super) fn new(members: &'a [Member<'m>], tell: &'a mut Tell<'t>) -> Self {
        Self { members, tell, open: vec![true; members.len()] }
    }

    fn report(&mut self, number: usize, report: Report) {
        if self.open[number] {
            (self.tell)(number, Word::Report(report), false);
        }
        // While one's picture is decoded, the others are not left without an answer.
        for other in (0..self.open.len()).filter(|other| *other != number) {
            self.answer(other);
        }
    }

    /// Ends one that is to be cancelled.
    fn answer(&mut self, number: usize) {
        if self.open[number] && self.members[number].cancel.load(Ordering::Relaxed) {
            self.open[number] = false;
            (self.tell)(number, Word::Ended(Err(Failure::cancelled())), false);
        }
    }

    /// Has one run by itself to its end.
    pub(super) fn hear(
        &mut self,
        number: usize,
        engine: &mut Engine,
        run: impl FnOnce(&Task, &mut Context<'_>) -> Result<Vec<Made>, Failure>,
    ) {
        self.answer(number);
        if !self.open[number] {
            return;
        }
        let Member { task, cancel } = self.members[number];
        let end = {
            let mut report = |report| self.report(number, report);
            run(task, &mut Context { engine: &mut *engine, cancel, report: &mut report })
        };
        self.end(number, end, engine);
    }

    pub(super) fn end(&mut self, number: usize, end: Result<Vec<Made>, Failure>, engine: &mut Engine) {
        if !std::mem::replace(&mut self.open[number], false) {
            return;
        }
        if let Err(failure) = &end
            && !failure.cancelled
        {
            engine.has_failed(failure);
        }
        (self.tell)(number, Word::Ended(end), engine.is_spent());
    }
}

/// A job under way.
struct Running<'t> {
    number: usize,
    job: Job<'t>,
    /// For how long it was computed, in milliseconds: of each step its share.
    spent_ms: f64,
    told_ms: f64,
}

impl Running<'_> {
    /// Counts what was computed for it; a CPU's time is none of a GPU.
    fn spend(&mut self, ms: f64, on_gpu: bool, ears: &mut Ears<'_, '_, '_>, is_last: bool) {
        self.spent_ms += ms;
        if on_gpu && (is_last || self.spent_ms - self.told_ms >= TOLD_MS) {
            self.told_ms = self.spent_ms;
            ears.report(self.number, Report::GpuSeconds(self.spent_ms / 1_000.0));
        }
    }
}

/// Runs jobs of one model, each to its end.
pub(super) fn run(
    asked: Vec<(usize, Wanted)>,
    ears: &mut Ears<'_, '_, '_>,
    abandoned: &AtomicBool,
    engine: &mut Engine,
) {
    let mut jobs = Vec::new();
    for (number, wanted) in asked {
        ears.answer(number);
        if !ears.open[number] {
            continue;
        }
        let Member { task, cancel } = ears.members[number];
        let begun = {
            let mut report = |report| ears.report(number, report);
            begin(task, wanted, &mut Context { engine: &mut *engine, cancel, report: &mut report })
        };
        match begun {
            Ok((job, ms)) => jobs.push(Running { number, job, spent_ms: ms as f64, told_ms: 0.0 }),
            Err(failure) => ears.end(number, Err(failure), engine),
        }
    }
    let mut alone = false;
    while !jobs.is_empty() {
        let Some(model) = &engine.generate else {
            // The device has failed since.
            let gone = || Err(Failure::transient("the model went with its device, which has failed for another job"));
            return jobs.iter().for_each(|job| ears.end(job.number, gone(), engine));
        };
        let group = group(&mut jobs, model, alone);
        let left = steps(group, ears, abandoned, engine);
        alone |= !left.is_empty();
        jobs.splice(..0, left);
    }
}

/// Takes out the first job, and what may take its steps with it.
fn group<'t>(jobs: &mut Vec<Running<'t>>, model: &Loaded, alone: bool) -> Vec<Running<'t>> {
    let mut group = vec![jobs.remove(0)];
    let (shape, mut questions) = (group[0].job.shape(), group[0].job.questions());
    let mut at = 0;
    while !alone && at < jobs.len() {
        let together = questions + jobs[at].job.questions();
        if jobs[at].job.shape() == shape && model.has_room(together, shape) {
            questions = together;
            group.push(jobs.remove(at));
        } else {
            at += 1;
        }
    }
    group
}

/// Takes the steps of a group until all of it have ended. What is left could not go on together.
fn steps<'t>(
    mut group: Vec<Running<'t>>,
    ears: &mut Ears<'_, '_, '_>,
    abandoned: &AtomicBool,
    engine: &mut Engine,
) -> Vec<Running<'t>> {
    let clock = engine.clock;
    loop {
        for running in group.iter_mut().filter(|running| running.job.is_done()) {
            deliver(running, ears, engine);
        }
        group.retain(|running| {
            ears.answer(running.number);
            ears.open[running.number]
        });
        let (Some(first), Some(model)) = (group.first(), &mut engine.generate) else { return group };
        let (shape, about) = (first.job.shape(), (is_on_gpu(model), model.is_xl()));
        let cancel = if group.len() > 1 { abandoned } else { ears.members[first.number].cancel };
        let began_ms = clock.now().mono_ms;
        let predicted = {
            let seen: Vec<Vec<f32>> = group.iter().map(|running| running.job.seen()).collect();
            let questions = group.iter().zip(&seen).flat_map(|(running, seen)| running.job.samples(seen));
            let samples: Vec<Sample<'_>> = questions.collect();
            model.predict(&samples, shape.size, shape.frames, cancel)
        };
        let ms = (clock.now().mono_ms - began_ms) as f64;
        match predicted {
            Ok(answers) => take(&mut group, &answers, ms, about, ears, engine),
            Err(failure) if group.len() > 1 && !failure.cancelled && !is_of_device(&failure) => {
                warn!(jobs = group.len(), "jobs go on one at a time; together: {failure}");
                return group;
            }
            Err(failure) => group.iter().for_each(|running| ears.end(running.number, Err(failure.clone()), engine)),
        }
    }
}

/// Each takes its step with its own part of the answers, and its own part of the time.
fn take(
    group: &mut [Running<'_>],
    answers: &[f32],
    ms: f64,
    (on_gpu, is_xl): (bool, bool),
    ears: &mut Ears<'_, '_, '_>,
    engine: &mut Engine,
) {
    let (jobs, all) = (group.len(), group.iter().map(|running| running.job.questions()).sum::<usize>());
    let mut rest = answers;
    for running in group {
        let number = running.number;
        running.job.goes_with(jobs);
        let questions = running.job.questions();
        let (own, others) = rest.split_at((questions * running.job.one()).min(rest.len()));
        rest = others;
        running.spend(ms * questions as f64 / all.max(1) as f64, on_gpu, ears, false);
        if let Err(failure) = running.job.step(own.to_vec(), is_xl, &mut |report| ears.report(number, report)) {
            ears.end(number, Err(failure), engine);
        }
    }
}

/// Makes the pictures of one that has taken all its steps.
fn deliver(running: &mut Running<'_>, ears: &mut Ears<'_, '_, '_>, engine: &mut Engine) {
    let number = running.number;
    let Some(model) = engine.generate.as_mut().filter(|_| ears.open[number]) else { return };
    let (clock, cancel, on_gpu) = (engine.clock, ears.members[number].cancel, is_on_gpu(model));
    let began_ms = clock.now().mono_ms;
    ears.report(number, Report::Phase("post"));
    let made = running.job.deliver(model, cancel, &mut |report| ears.report(number, report));
    running.spend((clock.now().mono_ms - began_ms) as f64, on_gpu, ears, true);
    ears.end(number, made, engine);
}

fn is_on_gpu(model: &Loaded) -> bool {
    model.executor != "cpu"
}

fn is_of_device(failure: &Failure) -> bool {
    failure.details.get(cause::KEY).is_some_and(|cause| cause == DEVICE)
}
