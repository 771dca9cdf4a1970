//! Several jobs at once in the built-in worker: each has the picture, the words and the end that it would have alone.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

mod host;
mod tiny;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::executor::{ExecError, Executor, Input, Output, Program};
use backlot_agent::infer::graph::{Graph, GraphError, Plan, TensorType};
use backlot_agent::infer::weights::Weights;
use backlot_agent::infer::{
    Engine, EngineOptions, Failure, FailureClass, Made, Member, Report, Task, Word, run_together,
};
use host::{Host, pixels};
use serde_json::{Value, json};

/// What was told of one job.
#[derive(Default)]
struct Heard {
    phases: Vec<&'static str>,
    percents: Vec<f32>,
    /// Previews and checkpoints.
    files: usize,
    gpu_s: f64,
    end: Option<Result<Vec<Made>, Failure>>,
}

impl Heard {
    fn made(&self) -> &[Made] {
        self.end.as_ref().unwrap().as_ref().unwrap()
    }

    fn failure(&self) -> &Failure {
        self.end.as_ref().unwrap().as_ref().unwrap_err()
    }

    fn batch(&self) -> Option<u64> {
        self.made()[0].extra.get("batch").and_then(Value::as_u64)
    }
}

fn ask(more: Value) -> Value {
    let mut all = json!({"model": "sd15", "prompt": "the moon", "width": 64, "height": 64, "steps": 6, "preview_every": 2,
        "checkpoint_every": 2});
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

/// Runs the jobs together; `hear` may cancel some by their flags.
fn together(host: &mut Host, jobs: &[Value], hear: &mut (dyn FnMut(usize, &Word, &[AtomicBool]) + Send)) -> Vec<Heard> {
    let tasks: Vec<Task> = jobs
        .iter()
        .map(|parameters| {
            host.runs += 1;
            let output_dir = host.dir.path().join(format!("out-{}", host.runs));
            std::fs::create_dir(&output_dir).unwrap();
            Task {
                kind: host.kind.into(),
                parameters: parameters.as_object().unwrap().clone(),
                inputs: Vec::new(),
                output_dir,
            }
        })
        .collect();
    let flags: Vec<AtomicBool> = jobs.iter().map(|_| AtomicBool::new(false)).collect();
    let members: Vec<_> = tasks.iter().zip(&flags).map(|(task, cancel)| Member { task, cancel }).collect();
    let mut heard: Vec<Heard> = jobs.iter().map(|_| Heard::default()).collect();
    run_together(&members, &AtomicBool::new(false), &mut host.engine, &mut |number, word, _| {
        hear(number, &word, &flags);
        let one = &mut heard[number];
        assert!(one.end.is_none(), "{word:?} came after the end");
        match word {
            Word::Report(Report::Phase(phase)) => one.phases.push(phase),
            Word::Report(Report::Percent(percent)) => one.percents.push(percent),
            Word::Report(Report::GpuSeconds(gpu_s)) => one.gpu_s = gpu_s,
            Word::Report(Report::Preview(file) | Report::Checkpoint(file)) => {
                assert!(file.starts_with(&tasks[number].output_dir) && file.is_file());
                one.files += 1;
            }
            Word::Ended(end) => one.end = Some(end),
        }
    });
    assert!(heard.iter().all(|one| one.end.is_some()));
    heard
}

/// A job's pictures are those that it makes alone.
fn are_those_made_alone(host: &mut Host, heard: &Heard, parameters: &Value) {
    let alone = host.run(parameters.clone(), &[]).unwrap();
    assert_eq!(heard.made().len(), alone.len());
    for (made, alone) in heard.made().iter().zip(&alone) {
        assert!(!alone.extra.contains_key("batch"));
        assert_eq!((&made.extra["seed"], &made.extra["scheduler"]), (&alone.extra["seed"], &alone.extra["scheduler"]));
        assert_eq!(pixels(&made.path), pixels(&alone.path), "{parameters}");
    }
}

#[test]
fn jobs_of_different_seeds_steps_schedulers_and_guidance_share_steps_and_keep_their_pictures() {
    for form in ["sd15", "sdxl"] {
        let mut host = Host::new(&[form]);
        let jobs = [
            ask(json!({"model": form, "seed": 1, "scheduler": "ddim", "negative_prompt": "blurry"})),
            ask(
                json!({"model": form, "seed": 2, "scheduler": "euler-ancestral", "steps": 9, "count": 2, "prompt": "a cat"}),
            ),
            ask(json!({"model": form, "seed": 3, "guidance": 0, "steps": 3})),
        ];
        let heard = together(&mut host, &jobs, &mut |_, _, _| {});
        for (one, parameters) in heard.iter().zip(&jobs) {
            assert_eq!((one.batch(), &*one.phases), (Some(3), &["load", "infer", "post"][..]));
            assert!(one.percents.is_sorted() && one.percents.last() == Some(&100.0), "{:?}", one.percents);
            assert_eq!(one.gpu_s, 0.0, "a CPU is no GPU");
            // After every second step but the last.
            let steps = parameters["steps"].as_u64().unwrap() as usize;
            assert_eq!(one.files, 2 * ((steps - 1) / 2), "previews and checkpoints");
            are_those_made_alone(&mut host, one, parameters);
        }
    }
}

#[test]
fn what_is_wrong_with_one_job_is_its_alone() {
    let mut host = Host::new(&["sd15"]);
    let jobs = [
        ask(json!({"seed": 1, "guidance": 99})),
        ask(json!({"seed": 2})),
        ask(json!({"model": "absent"})),
        ask(json!({"seed": 4, "steps": 2})),
    ];
    let heard = together(&mut host, &jobs, &mut |_, _, _| {});
    for (number, word) in [(0, "guidance"), (2, "absent")] {
        let failure = heard[number].failure();
        assert!(failure.class == FailureClass::Permanent && failure.message.contains(word), "{failure}");
    }
    for number in [1, 3] {
        assert_eq!(heard[number].batch(), Some(2));
        are_those_made_alone(&mut host, &heard[number], &jobs[number]);
    }
}

#[test]
fn a_cancelled_job_leaves_within_one_step_and_the_others_go_on() {
    let mut host = Host::new(&["sd15"]);
    let jobs = [ask(json!({"seed": 1})), ask(json!({"seed": 2, "steps": 50})), ask(json!({"seed": 3}))];
    let heard = together(&mut host, &jobs, &mut |number, word, flags| {
        if let Word::Report(Report::Percent(percent)) = word
            && (number, *percent > 0.0) == (1, true)
        {
            flags[1].store(true, Ordering::Relaxed);
        }
    });
    assert!(heard[1].failure().cancelled);
    assert_eq!(heard[1].percents.iter().filter(|percent| **percent > 0.0).count(), 1, "a step more was taken");
    for number in [0, 2] {
        assert_eq!(heard[number].batch(), Some(3));
        are_those_made_alone(&mut host, &heard[number], &jobs[number]);
    }
}

#[test]
fn other_sizes_and_longer_texts_are_computed_after_the_rest() {
    let mut host = Host::new(&["sd15", "sd21"]);
    let long = "moon ".repeat(80);
    let jobs = [
        ask(json!({"seed": 1})),
        ask(json!({"seed": 2, "width": 128})),
        ask(json!({"seed": 3, "prompt": long})),
        ask(json!({"seed": 4})),
        ask(json!({"seed": 5, "model": "sd21"})),
    ];
    let heard = together(&mut host, &jobs, &mut |_, _, _| {});
    let batches: Vec<_> = heard.iter().map(Heard::batch).collect();
    assert_eq!(batches, [Some(2), None, None, Some(2), None]);
    for (one, parameters) in heard.iter().zip(&jobs) {
        are_those_made_alone(&mut host, one, parameters);
    }
}

#[test]
fn clips_of_one_kind_go_together_too() {
    if std::process::Command::new("ffmpeg").arg("-version").output().is_err() {
        println!("skipped: clips need ffmpeg");
        return;
    }
    let mut host = Host::new(&["sd15"]);
    host.kind = "video.generate";
    tiny::write_motion(&host.models().join("motion/tiny"));
    let clip = |seed: u64, steps: u64| {
        let mut clip = ask(json!({"seed": seed, "steps": steps}));
        (clip["motion"], clip["frames"]) = ("tiny".into(), 4.into());
        clip
    };
    let jobs = [clip(1, 3), clip(2, 5)];
    let heard = together(&mut host, &jobs, &mut |_, _, _| {});
    for (one, parameters) in heard.iter().zip(&jobs) {
        assert_eq!(one.batch(), Some(2));
        let alone = host.run(parameters.clone(), &[]).unwrap();
        let [ours, theirs] = [&one.made()[0], &alone[0]].map(|made| std::fs::read(&made.path).unwrap());
        assert!(ours == theirs, "in company it is another clip");
    }
}

/// The CPU, whose memory runs out where more than so many pictures are asked of the UNet at once.
struct Small {
    cpu: Cpu,
    name: &'static str,
    most: usize,
    /// It is known before the run, as where a plan says so; else it comes as a surprise.
    is_planned: bool,
    most_seen: Arc<AtomicUsize>,
}

struct SmallProgram {
    whole: Box<dyn Program>,
    most: usize,
    is_planned: bool,
    most_seen: Arc<AtomicUsize>,
}

impl Executor for Small {
    fn name(&self) -> &'static str {
        self.name
    }

    fn load(&self, graph: Graph, weights: &Weights) -> Result<Box<dyn Program>, ExecError> {
        // Texts and pictures are one input; a UNet has more.
        let most = if graph.inputs().len() > 2 { self.most } else { usize::MAX };
        let whole = self.cpu.load(graph, weights)?;
        Ok(Box::new(SmallProgram { whole, most, is_planned: self.is_planned, most_seen: Arc::clone(&self.most_seen) }))
    }
}

impl Program for SmallProgram {
    fn plan(&self, inputs: &[TensorType]) -> Result<Plan, GraphError> {
        self.whole.plan(inputs)
    }

    fn check(&self, inputs: &[TensorType]) -> Result<Plan, ExecError> {
        match inputs[0].shape[0] > self.most && self.is_planned {
            true => Err(ExecError::Memory { needed_bytes: 2, allowed_bytes: 1 }),
            false => self.whole.check(inputs),
        }
    }

    fn run(
        &mut self,
        inputs: &[Input<'_>],
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Output<'_>>, ExecError> {
        if inputs[0].shape[0] > self.most {
            let problem = "others have taken it".to_owned();
            return Err(match self.is_planned {
                true => ExecError::Memory { needed_bytes: 2, allowed_bytes: 1 },
                false => ExecError::DeviceMemory { needed_bytes: 2, free: None, problem },
            });
        }
        if inputs.len() > 2 {
            self.most_seen.fetch_max(inputs[0].shape[0], Ordering::Relaxed);
        }
        self.whole.run(inputs, cancel, progress)
    }
}

fn small(name: &'static str, most: usize, is_planned: bool) -> (Host, Arc<AtomicUsize>) {
    let mut host = Host::new(&["sd15"]);
    let most_seen = Arc::new(AtomicUsize::new(0));
    let cpu = Cpu::new(2, 1 << 30).unwrap();
    let executor = Small { cpu, name, most, is_planned, most_seen: Arc::clone(&most_seen) };
    let options = EngineOptions { models_dir: host.models(), threads: 2, ..Default::default() };
    host.engine = Engine::with_executor(options, Box::new(executor));
    (host, most_seen)
}

#[test]
fn no_more_jobs_go_together_than_the_plan_has_room_for() {
    // Guided, each job asks two questions a step.
    let (mut host, most_seen) = small("cpu", 5, true);
    let jobs: Vec<Value> = (1..=5).map(|seed| ask(json!({"seed": seed, "steps": 2}))).collect();
    let heard = together(&mut host, &jobs, &mut |_, _, _| {});
    let batches: Vec<_> = heard.iter().map(Heard::batch).collect();
    assert_eq!(batches, [Some(2), Some(2), Some(2), Some(2), None]);
    assert_eq!(most_seen.load(Ordering::Relaxed), 4);
    for (one, parameters) in heard.iter().zip(&jobs) {
        are_those_made_alone(&mut host, one, parameters);
    }
}

#[test]
fn memory_that_runs_out_for_all_together_is_enough_for_one_at_a_time() {
    let (mut host, most_seen) = small("cpu", 3, false);
    let jobs: Vec<Value> = (1..=3).map(|seed| ask(json!({"seed": seed, "steps": 3}))).collect();
    let heard = together(&mut host, &jobs, &mut |_, _, _| {});
    assert_eq!(most_seen.load(Ordering::Relaxed), 2);
    assert!(!host.engine.is_spent());
    for (one, parameters) in heard.iter().zip(&jobs) {
        assert_eq!(one.batch(), None, "no step was taken together");
        are_those_made_alone(&mut host, one, parameters);
    }
}

#[test]
fn the_seconds_of_a_gpu_are_divided_among_those_who_shared_them() {
    let (mut host, _) = small("cuda", 64, true);
    let jobs: Vec<Value> = [1, 4, 1].iter().map(|count| ask(json!({"seed": 1, "steps": 12, "count": count}))).collect();
    let clock = backlot_agent::clock::Clock::new();
    let heard = together(&mut host, &jobs, &mut |_, _, _| {});
    let took_s = clock.now().mono_ms as f64 / 1_000.0;
    let spent: Vec<f64> = heard.iter().map(|one| one.gpu_s).collect();
    let all: f64 = spent.iter().sum();
    assert!(spent.iter().all(|gpu_s| *gpu_s > 0.0) && all <= took_s + 0.001, "{spent:?} of {took_s} s");
    assert!(spent[1] > spent[0], "four pictures cost more than one: {spent:?}");
    // Each step is counted, and once.
    assert!(all > 0.1 * took_s, "{spent:?} of {took_s} s");
}
