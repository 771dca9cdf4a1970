//! Everything that a graph needs for inputs of one shape: arena, pipelines, bind groups, and the parts of a run.

use std::collections::HashMap;

use wgpu::{BindGroup, Buffer, BufferUsages, ComputePipeline};

use super::device::ALIGN_BYTES;
use super::lower::{self, Bind, Dispatch, Lowering, Target};
use super::program::Shared;
use super::store::Store;
use crate::infer::executor::ExecError;
use crate::infer::graph::{Graph, Plan, TensorType, ValueId};

/// Bytes of a dispatch's numbers; a kernel sees them at a boundary of as many.
const NUMBERS_BYTES: usize = 256;

pub(crate) struct Ready {
    pub(crate) types: Vec<TensorType>,
    pub(crate) plan: Plan,
    pub(crate) memory: Memory,
    pub(crate) staging: Buffer,
    /// Where each value of [`lower::exact`] begins.
    pub(crate) exact: HashMap<ValueId, u64>,
    pub(crate) parts: Vec<Part>,
}

/// What kernels bind besides weights.
pub(crate) struct Memory {
    pub(crate) arena: Buffer,
    scratch: Buffer,
    pub(crate) exact: Buffer,
}

/// What is handed in at once.
#[derive(Default)]
pub(crate) struct Part {
    pub(crate) steps: Vec<Step>,
    cost: u64,
    /// Nodes that are done when it has ended.
    pub(crate) nodes_done: usize,
}

pub(crate) struct Step {
    pub(crate) pipeline: ComputePipeline,
    pub(crate) bindings: BindGroup,
    pub(crate) groups: [u32; 2],
}

/// What is made ready.
pub(crate) struct Maker<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) target: Target,
    pub(crate) graph: &'a Graph,
    pub(crate) store: &'a Store,
}

impl Maker<'_> {
    /// Makes everything for inputs of these types. `arena` is one of before, which may be large enough.
    pub(crate) fn make(&self, types: Vec<TensorType>, plan: Plan, arena: Option<Buffer>) -> Result<Ready, ExecError> {
        let needed = plan.peak_bytes() as u64;
        let gpu = &self.shared.gpu;
        let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
        let arena = match arena {
            Some(arena) if arena.size() >= needed => arena,
            _ => gpu.buffer("arena", needed, usage)?,
        };
        let dispatches = self.dispatches(&plan)?;
        let binds = dispatches.iter().flat_map(|(_, dispatch)| &dispatch.binds);
        let ends = binds.map(|bind| if let Bind::Scratch(start, bytes) = bind { start + bytes } else { 0 });
        let scratch = gpu.buffer("scratch", ends.max().unwrap_or(0) as u64, usage)?;
        let (mut exact, mut exact_bytes) = (HashMap::new(), 0);
        for (_, value) in lower::exact(self.graph)? {
            exact.entry(value).or_insert_with(|| {
                let start = exact_bytes;
                exact_bytes += ((plan.of(value).len() * size_of::<f32>()) as u64).next_multiple_of(ALIGN_BYTES);
                start
            });
        }
        let memory = Memory { arena, scratch, exact: gpu.buffer("exact", exact_bytes, usage)? };
        let outputs: usize = self.graph.outputs().iter().map(|value| plan.place(*value).1).sum();
        let staging = gpu.buffer("staging", outputs as u64, BufferUsages::MAP_READ | BufferUsages::COPY_DST)?;
        let parts = self.parts(&plan, &memory, &exact, &dispatches)?;
        Ok(Ready { types, plan, memory, staging, exact, parts })
    }

    /// Of each node in turn.
    fn dispatches(&self, plan: &Plan) -> Result<Vec<(usize, Dispatch)>, ExecError> {
        let mut made = Vec::new();
        for (at, node) in self.graph.nodes().iter().enumerate() {
            let lowering = Lowering { graph: self.graph, plan, target: self.target, node };
            made.extend(lowering.dispatches()?.into_iter().map(|dispatch| (at, dispatch)));
        }
        Ok(made)
    }

    fn parts(
        &self,
        plan: &Plan,
        memory: &Memory,
        exact: &HashMap<ValueId, u64>,
        dispatches: &[(usize, Dispatch)],
    ) -> Result<Vec<Part>, ExecError> {
        let cost_max = self.shared.part_cost_max;
        // Each dispatch in pieces that are short enough, with the numbers of each.
        let mut pieces: Vec<(usize, &Dispatch, usize, usize)> = Vec::new();
        for (at, dispatch) in dispatches {
            let count = usize::try_from(dispatch.cost.div_ceil(cost_max)).unwrap_or(usize::MAX).max(1);
            let length = dispatch.groups.div_ceil(count).max(1);
            for base in (0..dispatch.groups).step_by(length) {
                pieces.push((*at, dispatch, base, length.min(dispatch.groups - base)));
            }
        }
        let gpu = &self.shared.gpu;
        let mut data = Vec::with_capacity(pieces.len() * NUMBERS_BYTES);
        for (_, dispatch, base, groups) in &pieces {
            let start = data.len();
            let first = [base, groups].map(|n| u32::try_from(*n).unwrap_or(u32::MAX));
            data.extend(first.iter().chain(&dispatch.numbers).flat_map(|number| number.to_le_bytes()));
            data.resize(start + NUMBERS_BYTES, 0);
        }
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let numbers = gpu.buffer("numbers", data.len() as u64, usage)?;
        gpu.write(&numbers, 0, &data)?;
        let mut parts = vec![Part::default()];
        for (index, (node, dispatch, _, groups)) in pieces.iter().enumerate() {
            let cost = dispatch.cost * *groups as u64 / dispatch.groups as u64;
            if parts.last().is_some_and(|part| !part.steps.is_empty() && part.cost + cost > cost_max) {
                let nodes_done = parts.last().map_or(0, |part| part.nodes_done);
                parts.push(Part { nodes_done, ..Part::default() });
            }
            let bound = self.bind(plan, memory, exact, *node, dispatch)?;
            let step = self.step(&bound, &numbers, index, dispatch, *groups)?;
            let last_of_node = pieces.get(index + 1).is_none_or(|next| next.0 != *node);
            if let Some(part) = parts.last_mut() {
                part.steps.push(step);
                part.cost += cost;
                part.nodes_done = if last_of_node { node + 1 } else { *node };
            }
        }
        Ok(parts)
    }

    /// What the kernel sees, after its numbers.
    fn bind<'a>(
        &'a self,
        plan: &Plan,
        memory: &'a Memory,
        exact: &HashMap<ValueId, u64>,
        node: usize,
        dispatch: &Dispatch,
    ) -> Result<Vec<wgpu::BufferBinding<'a>>, ExecError> {
        let gone = || ExecError::Device("a kernel binds what was never made".to_owned());
        let resource = |bind: &Bind| {
            Ok(match *bind {
                Bind::Value(value) => {
                    let (offset, bytes) = plan.place(value);
                    part(&memory.arena, offset as u64, bytes as u64)
                }
                Bind::Weight(slot) => self.store.binding(node, slot).ok_or_else(gone)?,
                Bind::Exact(value) => {
                    let bytes = (plan.of(value).len() * size_of::<f32>()) as u64;
                    part(&memory.exact, *exact.get(&value).ok_or_else(gone)?, bytes.next_multiple_of(ALIGN_BYTES))
                }
                Bind::Scratch(start, bytes) => part(&memory.scratch, start as u64, bytes as u64),
            })
        };
        dispatch.binds.iter().map(resource).collect()
    }

    fn step(
        &self,
        bound: &[wgpu::BufferBinding<'_>],
        numbers: &Buffer,
        index: usize,
        dispatch: &Dispatch,
        groups: usize,
    ) -> Result<Step, ExecError> {
        let gpu = &self.shared.gpu;
        let mut pipelines = self.shared.pipelines.lock();
        let made = pipelines.get(gpu, &dispatch.kernel)?;
        let first = part(numbers, (index * NUMBERS_BYTES) as u64, NUMBERS_BYTES as u64);
        let entries: Vec<wgpu::BindGroupEntry<'_>> = std::iter::once(first)
            .chain(bound.iter().cloned())
            .zip(0..)
            .map(|(buffer, binding)| wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(buffer) })
            .collect();
        let bindings = gpu.guarded(0, || {
            gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(dispatch.kernel.source.name),
                layout: &made.layout,
                entries: &entries,
            })
        })?;
        Ok(Step { pipeline: made.pipeline.clone(), bindings, groups: gpu.grid(groups) })
    }
}

fn part(buffer: &Buffer, offset: u64, bytes: u64) -> wgpu::BufferBinding<'_> {
    wgpu::BufferBinding { buffer, offset, size: wgpu::BufferSize::new(bytes) }
}
