//! Several tasks at once, where their model and shape allow it.
//!
//! A task hears its own words and has its own end, whoever else is computed with it.

use std::sync::atomic::AtomicBool;

use super::{Context, Engine, Failure, Made, Report, Task, generate, run};

/// One of several tasks.
#[derive(Clone, Copy)]
pub struct Member<'a> {
    pub task: &'a Task,
    /// Set by anybody to end this one; it takes effect within one step of the whole.
    pub cancel: &'a AtomicBool,
}

/// What is told of one of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Word {
    Report(Report),
    /// Once, and nothing after it.
    Ended(Result<Vec<Made>, Failure>),
}

/// Told of each task by its number. The flag: the engine is of no more use, as [`Engine::is_spent`] says.
pub type Tell<'a> = dyn FnMut(usize, Word, bool) + Send + 'a;

/// Runs the tasks to their ends: pictures and clips of one model and shape together, all else one after the other. `abandoned` is set
/// when none of them is wanted any more, so that not even the step under way is finished.
pub fn run_together(members: &[Member<'_>], abandoned: &AtomicBool, engine: &mut Engine, tell: &mut Tell<'_>) {
    if members.len() > 1 && members.iter().all(|member| generate::KINDS.contains(&member.task.kind.as_str())) {
        return generate::run(members, abandoned, engine, tell);
    }
    for (number, Member { task, cancel }) in members.iter().enumerate() {
        let ended = {
            let mut report = |report| tell(number, Word::Report(report), false);
            run(task, &mut Context { engine, cancel, report: &mut report })
        };
        tell(number, Word::Ended(ended), engine.is_spent());
    }
}
