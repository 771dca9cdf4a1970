//! A loaded graph: weights on the GPU, and for the shape at hand an arena and everything bound.
//!
//! What does not change between runs of one shape is made once: plan, pipelines, bind groups, numbers. Commands are
//! recorded anew in each run, since wgpu takes each recording once. They are handed in in parts that a GPU ends within a fraction
//! of a second, two ahead at most: so a cancel takes effect, no driver's watchdog barks, and the GPU does not wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;
use parking_lot::Mutex;

use super::device::{Gpu, GpuError};
use super::kernels::Pipelines;
use super::lower::{self, Target};
use super::pack;
use super::ready::{Maker, Ready};
use super::store::Store;
use crate::infer::cpu::time_embedding;
use crate::infer::executor::{ExecError, Input, Output, Program};
use crate::infer::graph::{Element, Graph, GraphError, Op, Plan, TensorType, ValueId};
use crate::infer::weights::Weights;

/// Parts that are handed in before the first of them has ended.
const AHEAD: usize = 2;
/// What all programs of an executor share.
pub(crate) struct Shared {
    pub(crate) gpu: Gpu,
    pub(crate) pipelines: Mutex<Pipelines>,
    pub(crate) target: Target,
    pub(crate) arena_bytes_max: usize,
    /// Multiplications of one part.
    pub(crate) part_cost_max: u64,
}

pub(crate) struct Loaded {
    shared: Arc<Shared>,
    graph: Graph,
    store: Store,
    /// The executor's, in f32 where the graph needs it.
    target: Target,
    ready: Option<Ready>,
    made: Vec<f32>,
}

impl Loaded {
    pub(crate) fn load(shared: Arc<Shared>, graph: Graph, weights: &Weights) -> Result<Self, ExecError> {
        lower::exact(&graph)?;
        let target = Target { f16: shared.target.f16 && !graph.needs_f32(), ..shared.target };
        let store = Store::load(&shared.gpu, &graph, weights, target.f16)?;
        Ok(Self { shared, graph, store, target, ready: None, made: Vec::new() })
    }

    /// Makes everything for inputs of these types, unless it is what the last run had.
    fn prepare(&mut self, types: Vec<TensorType>) -> Result<(), ExecError> {
        if self.ready.as_ref().is_some_and(|ready| ready.types == types) {
            return Ok(());
        }
        let old = self.ready.take(); // so that a failure leaves none behind, and the arena is not there twice
        let plan = self.check(&types)?;
        let maker = Maker { shared: &self.shared, target: self.target, graph: &self.graph, store: &self.store };
        self.ready = Some(maker.make(types, plan, old.map(|old| old.memory.arena))?);
        Ok(())
    }
}

/// Bytes of an element, whatever the graph calls it.
fn width(target: Target) -> usize {
    if target.f16 { 2 } else { 4 }
}

impl Program for Loaded {
    fn plan(&self, inputs: &[TensorType]) -> Result<Plan, GraphError> {
        let width = width(self.target);
        Plan::new(&self.graph, inputs, |_: Element| width)
    }

    fn check(&self, inputs: &[TensorType]) -> Result<Plan, ExecError> {
        let plan = self.plan(inputs)?;
        let limits = &self.shared.gpu.limits;
        let arena_bytes_max = (self.shared.arena_bytes_max as u64).min(limits.max_buffer_size);
        let values = self.graph.nodes().iter().flat_map(|node| node.inputs.iter().chain(&node.outputs));
        let largest = values.map(|value| plan.place(*value).1 as u64).max().unwrap_or(0);
        // Kernels count elements in 32 bits.
        let value_bytes_max = self.shared.gpu.binding_bytes_max().min(u64::from(u32::MAX));
        for (needed, allowed) in [(plan.peak_bytes() as u64, arena_bytes_max), (largest, value_bytes_max)] {
            if needed > allowed {
                let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                return Err(ExecError::Memory { needed_bytes: bytes(needed), allowed_bytes: bytes(allowed) });
            }
        }
        Ok(plan)
    }

    fn run(
        &mut self,
        inputs: &[Input<'_>],
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Output<'_>>, ExecError> {
        self.shared.gpu.check()?;
        self.prepare(inputs.iter().map(|input| TensorType::f32(input.shape)).collect())?;
        let Self { shared, graph, target, ready: Some(ready), made, .. } = self else {
            return Ok(Vec::new()); // it was put there a line ago
        };
        let (gpu, f16) = (&shared.gpu, target.f16);
        for (value, input) in graph.inputs().iter().zip(inputs) {
            if input.data.len() != ready.plan.of(*value).len() {
                let problem = format!("{} values given for shape {:?}", input.data.len(), input.shape);
                return Err(GraphError { node: "inputs".to_owned(), problem }.into());
            }
            let mut data = pack::bytes(input.data, f16);
            data.resize(data.len().next_multiple_of(4), 0);
            gpu.write(&ready.memory.arena, ready.plan.place(*value).0 as u64, &data)?;
        }
        write_exact(gpu, graph, ready, inputs)?;
        let nodes = graph.nodes().len();
        let mut under_way = VecDeque::with_capacity(AHEAD);
        for part in &ready.parts {
            if under_way.len() >= AHEAD
                && let Some((submission, done)) = under_way.pop_front()
            {
                gpu.wait(submission)?;
                progress(done, nodes);
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(ExecError::Cancelled);
            }
            let submission = gpu.submit("nodes", |encoder| {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                for step in &part.steps {
                    pass.set_pipeline(&step.pipeline);
                    pass.set_bind_group(0, &step.bindings, &[]);
                    pass.dispatch_workgroups(step.groups[0], step.groups[1], 1);
                }
            })?;
            under_way.push_back((submission, part.nodes_done));
        }
        for (submission, done) in under_way {
            gpu.wait(submission)?;
            progress(done, nodes);
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(ExecError::Cancelled);
        }
        let plan = &ready.plan;
        let places: Vec<(u64, u64)> = graph
            .outputs()
            .iter()
            .map(|value| plan.place(*value))
            .map(|(at, bytes)| (at as u64, bytes as u64))
            .collect();
        let lengths: Vec<(ValueId, usize)> =
            graph.outputs().iter().map(|value| (*value, plan.of(*value).len())).collect();
        made.clear();
        gpu.read(&ready.memory.arena, &places, &ready.staging, |bytes| {
            let mut at = 0;
            for ((_, length), (_, padded)) in lengths.iter().zip(&places) {
                unpack(&bytes[at..], *length, f16, made);
                at += usize::try_from(*padded).unwrap_or(0);
            }
        })?;
        let mut rest = made.as_slice();
        let outputs = lengths.iter().map(|(value, length)| {
            let (data, after) = rest.split_at(*length);
            rest = after;
            Output { shape: plan.of(*value).shape.clone(), data }
        });
        Ok(outputs.collect())
    }
}

/// Writes what embeddings read, and the sinusoids of moments in time.
fn write_exact(gpu: &Gpu, graph: &Graph, ready: &Ready, inputs: &[Input<'_>]) -> Result<(), ExecError> {
    for (node, value) in lower::exact(graph)? {
        let fault = |problem| ExecError::Compute { node: node.name.clone(), problem };
        let at = graph.inputs().iter().position(|input| node.inputs.first() == Some(input));
        let Some(input) = at.and_then(|at| inputs.get(at)) else { return Err(fault("has no input".to_owned())) };
        let made = match node.op {
            Op::Embedding { weight } => {
                let rows = graph.weight_decl(weight).shape.first().copied().unwrap_or(0);
                let fits = |number: &f32| number.fract() == 0.0 && (0.0..rows as f32).contains(number);
                if let Some(number) = input.data.iter().find(|number| !fits(number)) {
                    return Err(fault(format!("{number} is no row of an embedding of {rows}")));
                }
                input.data.to_vec()
            }
            Op::TimeEmbedding { channels, flip, shift } => {
                let mut made = vec![0.0; input.data.len() * channels];
                time_embedding(input.data, channels, flip, shift, &mut made);
                made
            }
            _ => continue,
        };
        if let Some(offset) = ready.exact.get(&value) {
            gpu.write(&ready.memory.exact, *offset, &pack::bytes(&made, false))?;
        }
    }
    Ok(())
}

fn unpack(bytes: &[u8], length: usize, is_f16: bool, to: &mut Vec<f32>) {
    if is_f16 {
        let values = bytes.chunks_exact(2).take(length);
        to.extend(values.map(|value| f16::from_le_bytes([value[0], value[1]]).to_f32()));
    } else {
        let values = bytes.chunks_exact(4).take(length);
        to.extend(values.map(|value| f32::from_le_bytes([value[0], value[1], value[2], value[3]])));
    }
}

impl From<GpuError> for ExecError {
    fn from(error: GpuError) -> Self {
        match error {
            GpuError::Memory { needed_bytes, problem } => {
                let needed_bytes = usize::try_from(needed_bytes).unwrap_or(usize::MAX);
                Self::DeviceMemory { needed_bytes, free: None, problem }
            }
            other => Self::Device(other.to_string()),
        }
    }
}
