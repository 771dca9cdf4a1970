//! The CPU executor: f32, channels-last, one arena.
//!
//! All loops are `backlot-kernels`; candle, which has them all too, stands in the tests as the second opinion. Its own
//! convolution has no Winograd form, so it multiplies four times as much, and it allocates what it returns; its matrix
//! products want the weights as floats, where these take them from the file, and round by the number of rows. Values
//! that the graph calls f16 are kept as f32 rounded to f16. Besides the arena a run takes some hundred KiB of scratch a
//! thread, for large weights a part of them as floats (up to 64 MiB), for attention a copy of its keys and values.

mod compute;
mod step;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backlot_wire::cause;
use rayon::ThreadPool;
use rayon::prelude::*;

use super::executor::{ExecError, Executor, Input, Output, Program};
use super::graph::{Element, Graph, GraphError, Node, Plan, TensorType, ValueId};
use super::weights::{WeightError, Weights};
pub(super) use compute::time_embedding;
use step::Step;

/// Bytes that this executor keeps an element in, whatever the graph calls it.
fn width(_: Element) -> usize {
    size_of::<f32>()
}

/// Runs graphs on a pool of threads.
pub struct Cpu {
    pool: Arc<ThreadPool>,
    arena_bytes_max: usize,
}

impl Cpu {
    /// A program of it uses `threads` threads and refuses shapes whose values take more than `arena_bytes_max`.
    ///
    /// # Errors
    /// When the operating system gives no threads.
    pub fn new(threads: usize, arena_bytes_max: usize) -> Result<Self, rayon::ThreadPoolBuildError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|i| format!("infer-{i}"))
            .build()?;
        Ok(Self { pool: Arc::new(pool), arena_bytes_max })
    }
}

impl Executor for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn load(&self, graph: Graph, weights: &Weights) -> Result<Box<dyn Program>, ExecError> {
        let graph = graph.fuse_sums();
        // Packing what a large model has takes longer than reading it.
        let pack = || graph.nodes().par_iter().map(|node| step::pack(&graph, node, weights)).collect();
        let steps: Vec<Step> = self.pool.install::<_, Result<_, ExecError>>(pack)?;
        Ok(Box::new(Loaded {
            pool: Arc::clone(&self.pool),
            arena_bytes_max: self.arena_bytes_max,
            graph,
            steps,
            planned: None,
            arena: Vec::new(),
            scratch: Vec::new(),
        }))
    }
}

struct Loaded {
    pool: Arc<ThreadPool>,
    arena_bytes_max: usize,
    graph: Graph,
    steps: Vec<Step>,
    planned: Option<(Vec<TensorType>, Plan)>,
    arena: Vec<f32>,
    /// For weights that are packed while their node runs.
    scratch: Vec<f32>,
}

impl Program for Loaded {
    fn plan(&self, inputs: &[TensorType]) -> Result<Plan, GraphError> {
        Plan::new(&self.graph, inputs, width)
    }

    fn check(&self, inputs: &[TensorType]) -> Result<Plan, ExecError> {
        let plan = self.plan(inputs)?;
        let (needed_bytes, allowed_bytes) = (plan.peak_bytes(), self.arena_bytes_max);
        if needed_bytes > allowed_bytes {
            return Err(ExecError::Memory { needed_bytes, allowed_bytes });
        }
        Ok(plan)
    }

    fn run(
        &mut self,
        inputs: &[Input<'_>],
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Output<'_>>, ExecError> {
        let types: Vec<TensorType> = inputs.iter().map(|input| TensorType::f32(input.shape)).collect();
        if self.planned.as_ref().is_none_or(|(planned, _)| *planned != types) {
            self.planned = None; // so that a failed plan leaves none behind
            let plan = self.check(&types)?;
            self.arena.resize(self.arena.len().max(plan.peak_bytes() / size_of::<f32>()), 0.0);
            self.planned = Some((types, plan));
        }
        let Self { pool, graph, steps, planned: Some((_, plan)), arena, scratch, .. } = self else {
            return Ok(Vec::new()); // the plan was put there a line ago
        };
        for (value, input) in graph.inputs().iter().zip(inputs) {
            let place = place(plan, *value);
            if input.data.len() != plan.of(*value).len() {
                let problem = format!("{} values given for shape {:?}", input.data.len(), input.shape);
                return Err(GraphError { node: "inputs".to_owned(), problem }.into());
            }
            arena[place].copy_from_slice(input.data);
        }
        let nodes = graph.nodes().len();
        for (at, (node, step)) in graph.nodes().iter().zip(&*steps).enumerate() {
            if cancel.load(Ordering::Relaxed) {
                return Err(ExecError::Cancelled);
            }
            pool.install(|| run_node(plan, node, step, arena, scratch))?;
            progress(at + 1, nodes);
        }
        let outputs = graph.outputs().iter().map(|value| {
            let made = plan.of(*value);
            let place = place(plan, *value);
            Output { shape: made.shape.clone(), data: &arena[place.start..place.start + made.len()] }
        });
        Ok(outputs.collect())
    }
}

/// Where a value lies in the arena, in elements.
fn place(plan: &Plan, value: ValueId) -> std::ops::Range<usize> {
    let start = plan.place(value).0 / size_of::<f32>();
    start..start + plan.of(value).len()
}

fn fault(node: &Node, problem: impl std::fmt::Display) -> ExecError {
    ExecError::Compute { node: node.name.clone(), problem: problem.to_string() }
}

fn run_node(plan: &Plan, node: &Node, step: &Step, arena: &mut [f32], scratch: &mut Vec<f32>) -> Result<(), ExecError> {
    for (index, output) in node.outputs.iter().enumerate() {
        // The plan keeps a node's output apart from its inputs, so each input lies wholly before or after it.
        let write = place(plan, *output);
        let (before, rest) = arena.split_at_mut(write.start);
        let (to, after) = rest.split_at_mut(write.len());
        let (before, after) = (&*before, &*after);
        let read = |value: ValueId| {
            let range = place(plan, value);
            if range.start < write.start {
                &before[range]
            } else {
                &after[range.start - write.end..range.end - write.end]
            }
        };
        compute::output(plan, node, step, index, read, to, scratch)?;
    }
    Ok(())
}

impl From<ExecError> for super::Failure {
    fn from(error: ExecError) -> Self {
        let message = error.to_string();
        match error {
            ExecError::Cancelled => Self::cancelled(),
            ExecError::Memory { needed_bytes, allowed_bytes } => {
                Self::permanent(message).with("needed_bytes", needed_bytes).with("allowed_bytes", allowed_bytes)
            }
            ExecError::DeviceMemory { needed_bytes, free, .. } => {
                let failure = Self::transient(message).with(cause::KEY, cause::OUT_OF_MEMORY);
                let failure = failure.with("needed_bytes", needed_bytes);
                match free {
                    Some(free) => {
                        failure.with("free_bytes", free.bytes).with("largest_piece_bytes", free.largest_bytes)
                    }
                    None => failure,
                }
            }
            ExecError::Device(_) => Self::transient(message).with(cause::KEY, super::DEVICE),
            ExecError::Weights(WeightError::Open { .. }) => Self::permanent(format!("model missing: {message}")),
            ExecError::Weights(_) => Self::permanent(format!("model unusable: {message}")),
            ExecError::Graph(_) | ExecError::Compute { .. } => Self::permanent(message),
        }
    }
}
