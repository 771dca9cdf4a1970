//! The CPU executor: f32, channels-last, one arena.
//!
//! Convolutions, activations and moves are `backlot-kernels`; matrix products ([`Op::Linear`]) are candle's, which
//! also stands in the tests as the second opinion. candle's own convolution is not used: it has no Winograd form, so
//! it multiplies four times as much, and allocates what it returns. Values that the graph calls f16 are kept as f32
//! rounded to f16. Besides the arena a run takes some hundred KiB of scratch a thread, and for a matrix product
//! a copy of its input and output.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backlot_kernels::{
    Conv, Size, add, concat_rows, mul, pixel_shuffle, prelu, resize_bicubic, scale, silu, split_rows, upsample_nearest,
};
use candle_core::{Device, Tensor};
use half::f16;
use rayon::ThreadPool;

use super::executor::{ExecError, Executor, Input, Output, Program};
use super::graph::{Activation, Element, Graph, GraphError, Node, Op, Plan, TensorType, ValueId, WeightId};
use super::weights::{WeightError, Weights};

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
        let steps = graph.nodes().iter().map(|node| step(&graph, node, weights)).collect::<Result<_, _>>()?;
        Ok(Box::new(Loaded {
            pool: Arc::clone(&self.pool),
            arena_bytes_max: self.arena_bytes_max,
            graph,
            steps,
            planned: None,
            arena: Vec::new(),
        }))
    }
}

/// What a node needs beyond its operation: its weights, packed.
enum Step {
    Plain,
    Conv(Conv),
    Linear { weight: Tensor, bias: Option<Vec<f32>> },
    Slopes(Vec<f32>),
}

struct Loaded {
    pool: Arc<ThreadPool>,
    arena_bytes_max: usize,
    graph: Graph,
    steps: Vec<Step>,
    planned: Option<(Vec<TensorType>, Plan)>,
    arena: Vec<f32>,
}

fn step(graph: &Graph, node: &Node, weights: &Weights) -> Result<Step, ExecError> {
    let values = |id: WeightId| {
        let decl = graph.weight_decl(id);
        weights.values(&decl.name, &decl.shape)
    };
    let maybe = |id: Option<WeightId>| id.map(values).transpose();
    Ok(match &node.op {
        Op::Conv2d { weight, bias, stride, activation } => {
            let &[outputs, inputs, kernel, kernel_x] = graph.weight_decl(*weight).shape.as_slice() else {
                return Err(compute(node, "weight is not [out, in, k, k]"));
            };
            if kernel != kernel_x || !matches!(kernel, 1 | 3) || !matches!(stride, 1 | 2) {
                return Err(compute(node, "kernel or stride is not supported"));
            }
            let slopes = match activation {
                None => None,
                Some(Activation::Relu) => Some(vec![0.0; outputs]),
                Some(Activation::LeakyRelu { slope }) => Some(vec![*slope; outputs]),
                Some(Activation::Prelu { slopes }) => Some(values(*slopes)?),
                Some(Activation::Silu) => return Err(compute(node, "SiLU does not join a convolution")),
            };
            let bias = maybe(*bias)?;
            let fits = |given: &Option<Vec<f32>>| given.as_ref().is_none_or(|given| given.len() == outputs);
            if !fits(&bias) || !fits(&slopes) {
                return Err(compute(node, "bias or slopes do not suit the weight"));
            }
            let dims = [outputs, inputs, kernel];
            Step::Conv(Conv::new(&values(*weight)?, bias.as_deref(), slopes.as_deref(), dims, *stride))
        }
        Op::Linear { weight, bias } => {
            let decl = graph.weight_decl(*weight);
            let transposed = Tensor::from_vec(values(*weight)?, decl.shape.as_slice(), &Device::Cpu)
                .and_then(|tensor| tensor.t()?.contiguous())
                .map_err(|error| compute(node, error))?;
            Step::Linear { weight: transposed, bias: maybe(*bias)? }
        }
        Op::Activate(Activation::Prelu { slopes }) => Step::Slopes(values(*slopes)?),
        Op::Activate(Activation::Relu) => Step::Slopes(vec![0.0]),
        Op::Activate(Activation::LeakyRelu { slope }) => Step::Slopes(vec![*slope]),
        _ => Step::Plain,
    })
}

fn compute(node: &Node, problem: impl std::fmt::Display) -> ExecError {
    ExecError::Compute { node: node.name.clone(), problem: problem.to_string() }
}

impl Program for Loaded {
    fn plan(&self, inputs: &[TensorType]) -> Result<Plan, GraphError> {
        Plan::new(&self.graph, inputs, width)
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
            let plan = self.plan(&types)?;
            let needed_bytes = plan.peak_bytes();
            if needed_bytes > self.arena_bytes_max {
                return Err(ExecError::Memory { needed_bytes, allowed_bytes: self.arena_bytes_max });
            }
            self.arena.resize(self.arena.len().max(needed_bytes / size_of::<f32>()), 0.0);
            self.planned = Some((types, plan));
        }
        let Self { pool, graph, steps, planned: Some((_, plan)), arena, .. } = self else {
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
            pool.install(|| run_node(plan, node, step, arena))?;
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

fn run_node(plan: &Plan, node: &Node, step: &Step, arena: &mut [f32]) -> Result<(), ExecError> {
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
        compute_output(plan, node, step, index, read, to)?;
    }
    Ok(())
}

/// A loop over one picture: from, its size, its channels, to.
type Loop<'a> = dyn Fn(&[f32], Size, usize, &mut [f32]) + 'a;

/// Computes output `index` of a node into `to`.
fn compute_output<'a>(
    plan: &Plan,
    node: &Node,
    step: &Step,
    index: usize,
    read: impl Fn(ValueId) -> &'a [f32],
    to: &mut [f32],
) -> Result<(), ExecError> {
    let (&first, rest) = node.inputs.split_first().ok_or_else(|| compute(node, "has no input"))?;
    let (from, shape) = (read(first), plan.of(first).shape.as_slice());
    // Runs a loop over the pictures of a batch.
    let each = |to: &mut [f32], run: &Loop<'_>| {
        if let &[batch, height, width, channels] = shape {
            let (size, part) = (Size { height, width }, to.len() / batch);
            for (from, to) in from.chunks_exact(from.len() / batch).zip(to.chunks_exact_mut(part)) {
                run(from, size, channels, to);
            }
        }
    };
    match (&node.op, step) {
        (Op::Conv2d { .. }, Step::Conv(conv)) => each(to, &|from, size, _, to| conv.run(from, size, to)),
        (Op::Linear { .. }, Step::Linear { weight, bias }) => {
            product(from, weight, bias.as_deref(), to).map_err(|error| compute(node, error))?;
        }
        (Op::Activate(_), Step::Slopes(slopes)) => prelu(from, slopes, to),
        (Op::Activate(_), _) => silu(from, to),
        (Op::Add | Op::Mul, _) => {
            let combine = if node.op == Op::Add { add } else { mul };
            let (&second, more) = rest.split_first().ok_or_else(|| compute(node, "has one input"))?;
            combine(from, read(second), to);
            for value in more {
                let so_far = to.to_vec(); // three or more are rare
                combine(&so_far, read(*value), to);
            }
        }
        (Op::Scale { factor }, _) => scale(from, *factor, to),
        (Op::Concat { axis }, _) => {
            let parts: Vec<(&[f32], usize)> = node
                .inputs
                .iter()
                .map(|value| (read(*value), plan.of(*value).shape[*axis..].iter().product()))
                .collect();
            concat_rows(&parts, to);
        }
        (Op::Split { axis, lengths }, _) => {
            let unit: usize = shape[axis + 1..].iter().product();
            let start: usize = lengths[..index].iter().sum();
            split_rows(from, shape[*axis] * unit, start * unit, lengths[index] * unit, to);
        }
        (Op::Reshape { .. }, _) => to.copy_from_slice(from),
        (Op::Transpose { order }, _) => transpose(from, shape, order, to),
        (Op::UpsampleNearest { factor }, _) => {
            each(to, &|from, size, channels, to| upsample_nearest(from, size, channels, *factor, to));
        }
        (Op::PixelShuffle { factor }, _) => each(to, &|from, size, channels, to| {
            pixel_shuffle(from, size, channels / (factor * factor), *factor, to);
        }),
        (Op::ResizeBicubic { numerator, denominator }, _) => each(to, &|from, size, channels, to| {
            let side = |n: usize| n * numerator / denominator;
            let target = Size { height: side(size.height), width: side(size.width) };
            resize_bicubic(from, size, channels, target, to);
        }),
        (Op::Cast { to: element }, _) => match element {
            Element::F32 => to.copy_from_slice(from),
            Element::F16 => {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = f16::from_f32(*from).to_f32();
                }
            }
        },
        (Op::Conv2d { .. } | Op::Linear { .. }, _) => return Err(compute(node, "was loaded as something else")),
    }
    Ok(())
}

/// `from · weight + bias`, rows of `from` as long as `weight` is high.
fn product(from: &[f32], weight: &Tensor, bias: Option<&[f32]>, to: &mut [f32]) -> candle_core::Result<()> {
    let inputs = weight.dim(0)?;
    let rows = Tensor::from_slice(from, (from.len() / inputs, inputs), &Device::Cpu)?;
    let made = rows.matmul(weight)?.flatten_all()?.to_vec1::<f32>()?;
    to.copy_from_slice(&made);
    if let Some(bias) = bias {
        for row in to.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
        }
    }
    Ok(())
}

fn transpose(from: &[f32], shape: &[usize], order: &[usize], to: &mut [f32]) {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    let axes: Vec<(usize, usize)> = order.iter().map(|axis| (shape[*axis], strides[*axis])).collect();
    let mut at = vec![0; axes.len()];
    let mut offset = 0;
    for to in to {
        *to = from[offset];
        for (position, (length, stride)) in at.iter_mut().zip(&axes).rev() {
            *position += 1;
            offset += stride;
            if *position < *length {
                break;
            }
            offset -= *position * stride;
            *position = 0;
        }
    }
}

impl From<ExecError> for super::Failure {
    fn from(error: ExecError) -> Self {
        let message = error.to_string();
        match error {
            ExecError::Cancelled => Self::cancelled(),
            ExecError::Memory { needed_bytes, allowed_bytes } => {
                Self::permanent(message).with("needed_bytes", needed_bytes).with("allowed_bytes", allowed_bytes)
            }
            ExecError::Weights(WeightError::Open { .. }) => Self::permanent(format!("model missing: {message}")),
            ExecError::Weights(_) => Self::permanent(format!("model unusable: {message}")),
            ExecError::Graph(_) | ExecError::Compute { .. } => Self::permanent(message),
        }
    }
}
