//! A graph on the device: its weights, its memory for one shape, its commands, and their recording.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::executor::{ExecError, Free, Input, Output, Program};
use super::super::graph::{Graph, GraphError, Op, Plan, TensorType, ValueId};
use super::super::weights::Weights;
use super::device::{Allocation, Arg, Command, Device, HostMemory, Launch, Recorded};
use super::lower::{Bases, Lowered, Lowering};
use super::pack::Places;
use super::{Precision, fault};

/// Left for the libraries' own needs when a shape is checked against the free memory.
const RESERVE_BYTES: usize = 64 << 20;
const ALIGN_BYTES: usize = 256;

pub(super) struct Loaded {
    device: Arc<dyn Device>,
    precision: Precision,
    graph: Graph,
    wide: Vec<bool>,
    /// Rows of the table whose numbers each graph input holds, if it does.
    tables: Vec<Option<usize>>,
    places: Places,
    weights: Allocation,
    memory: Option<Allocation>,
    shape: Option<Shape>,
}

/// All that belongs to inputs of one shape.
struct Shape {
    types: Vec<TensorType>,
    plan: Plan,
    /// Each with the node that it belongs to.
    commands: Vec<(usize, Command)>,
    /// Where the floats of each input go.
    inputs: Vec<u64>,
    /// Where the floats of each output are, and where they come to.
    outputs: Vec<(u64, Box<dyn HostMemory>)>,
    progress: Recording,
}

enum Recording {
    /// Runs before the commands are recorded: libraries load and choose in the first.
    Untried,
    Warm,
    Done(Box<dyn Recorded>),
    /// The device cannot, or it went wrong once.
    Never,
}

/// How a shape's memory is laid out.
struct Layout {
    scratch: usize,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    bytes: usize,
}

impl Loaded {
    pub(super) fn new(
        device: &Arc<dyn Device>,
        precision: Precision,
        graph: Graph,
        weights: &Weights,
    ) -> Result<Self, ExecError> {
        let (wide, tables) = numbers(&graph)?;
        let places = Places::new(&graph, precision);
        let needed_bytes = places.bytes.max(ALIGN_BYTES);
        let room = reserve(device, needed_bytes)?;
        places.pack(&graph, weights, precision, |bytes, place| {
            device.upload(bytes, room.at + place as u64).map_err(|error| fault("weights", &error, needed_bytes))
        })?;
        device.finish().map_err(|error| fault("weights", &error, needed_bytes))?;
        let device = Arc::clone(device);
        Ok(Self { device, precision, graph, wide, tables, places, weights: room, memory: None, shape: None })
    }

    fn lowering<'a>(&'a self, plan: &'a Plan, bases: Bases) -> Lowering<'a> {
        Lowering {
            graph: &self.graph,
            plan,
            places: &self.places,
            precision: self.precision,
            wide: &self.wide,
            bases,
            multiprocessors: self.device.multiprocessors(),
        }
    }

    /// Whether a value is cast on its way in or out.
    fn is_cast(&self, value: ValueId) -> bool {
        self.precision == Precision::Half && !self.wide[value.0]
    }

    fn layout(&self, plan: &Plan) -> Result<Layout, ExecError> {
        let Lowered { scratch_bytes, .. } = self.lowering(plan, Bases::default()).run()?;
        let mut bytes = plan.peak_bytes().next_multiple_of(ALIGN_BYTES);
        let mut take = |more: usize| {
            let at = bytes;
            bytes += more.next_multiple_of(ALIGN_BYTES);
            at
        };
        let scratch = take(scratch_bytes);
        let mut floats = |values: &[ValueId]| -> Vec<usize> {
            values.iter().map(|value| take(if self.is_cast(*value) { plan.of(*value).len() * 4 } else { 0 })).collect()
        };
        let (inputs, outputs) = (floats(self.graph.inputs()), floats(self.graph.outputs()));
        Ok(Layout { scratch, inputs, outputs, bytes })
    }

    fn prepare(&mut self, types: Vec<TensorType>) -> Result<(), ExecError> {
        self.shape = None;
        let plan = self.plan(&types)?;
        let layout = self.layout(&plan)?;
        if self.memory.as_ref().is_none_or(|held| held.bytes < layout.bytes) {
            self.memory = None;
            self.memory = Some(reserve(&self.device, layout.bytes)?);
        }
        let base = self.memory.as_ref().map_or(0, |memory| memory.at);
        let bases = Bases { weights: self.weights.at, arena: base, scratch: base + layout.scratch as u64 };
        let lowering = self.lowering(&plan, bases);
        let mut commands = Vec::new();
        let mut inputs = Vec::new();
        for (value, at) in self.graph.inputs().iter().zip(&layout.inputs) {
            let staged = base + *at as u64;
            if self.is_cast(*value) {
                commands.push((0, cast("cast_f32_f16", staged, lowering.value(*value), plan.of(*value).len())));
            }
            inputs.push(if self.is_cast(*value) { staged } else { lowering.value(*value) });
        }
        commands.extend(lowering.run()?.commands);
        let mut outputs = Vec::new();
        let last = self.graph.nodes().len().saturating_sub(1);
        for (value, at) in self.graph.outputs().iter().zip(&layout.outputs) {
            let (staged, length) = (base + *at as u64, plan.of(*value).len());
            if self.is_cast(*value) {
                commands.push((last, cast("cast_f16_f32", lowering.value(*value), staged, length)));
            }
            let from = if self.is_cast(*value) { staged } else { lowering.value(*value) };
            let host = self.device.host_memory(length).map_err(|error| fault("outputs", &error, length * 4))?;
            outputs.push((from, host));
        }
        self.shape = Some(Shape { types, plan, commands, inputs, outputs, progress: Recording::Untried });
        Ok(())
    }

    /// Numbers of table rows are looked at before they leave the host: on the device there is nobody to complain to.
    fn check_numbers(&self, inputs: &[Input<'_>]) -> Result<(), ExecError> {
        for (rows, input) in self.tables.iter().zip(inputs) {
            let Some(rows) = rows else { continue };
            let fits = |number: &&f32| !(number.fract() == 0.0 && **number >= 0.0 && **number < *rows as f32);
            if let Some(number) = input.data.iter().find(fits) {
                let problem = format!("{number} is no row of a table of {rows}");
                return Err(ExecError::Compute { node: "embedding".to_owned(), problem });
            }
        }
        Ok(())
    }
}

impl Program for Loaded {
    fn plan(&self, inputs: &[TensorType]) -> Result<Plan, GraphError> {
        let width = |value: ValueId, _: &TensorType| if self.wide[value.0] { 4 } else { self.precision.bytes() };
        Plan::with(&self.graph, inputs, width)
    }

    fn check(&self, inputs: &[TensorType]) -> Result<Plan, ExecError> {
        let plan = self.plan(inputs)?;
        let needed_bytes = self.layout(&plan)?.bytes;
        let held = self.memory.as_ref().map_or(0, |memory| memory.bytes);
        if held < needed_bytes {
            let free = self.device.memory().map_err(|error| fault("memory", &error, needed_bytes))?.free_bytes;
            // What is held for another shape goes first.
            let allowed_bytes = (free + held).saturating_sub(RESERVE_BYTES);
            if needed_bytes > allowed_bytes {
                return Err(ExecError::Memory { needed_bytes, allowed_bytes });
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
        if cancel.load(Ordering::Relaxed) {
            return Err(ExecError::Cancelled);
        }
        let types: Vec<TensorType> = inputs.iter().map(|input| TensorType::f32(input.shape)).collect();
        for (made, input) in types.iter().zip(inputs) {
            if made.shape.iter().try_fold(1_usize, |all, side| all.checked_mul(*side)) != Some(input.data.len()) {
                let problem = format!("{} values given for shape {:?}", input.data.len(), input.shape);
                return Err(GraphError { node: "inputs".to_owned(), problem }.into());
            }
        }
        self.check_numbers(inputs)?;
        if self.shape.as_ref().is_none_or(|shape| shape.types != types) {
            self.prepare(types)?;
        }
        let (device, graph) = (Arc::clone(&self.device), &self.graph);
        let Some(shape) = self.shape.as_mut() else { return Ok(Vec::new()) }; // it was put there a line ago
        for (input, to) in inputs.iter().zip(&shape.inputs) {
            device.upload(bytes_of(input.data), *to).map_err(|error| fault("inputs", &error, input.data.len() * 4))?;
        }
        let nodes = graph.nodes().len();
        shape.record(&*device, graph)?;
        let ended = match &shape.progress {
            Recording::Done(recorded) => recorded.run().map_err(|error| fault("the recorded run", &error, 0)),
            _ => shape.submit(&*device, graph, cancel, progress),
        };
        if let Err(error) = ended {
            // What was asked for before still runs, in memory that the next run takes.
            let _ = device.finish();
            return Err(error);
        }
        for (from, to) in &mut shape.outputs {
            device.download(*from, to.as_mut()).map_err(|error| fault("outputs", &error, 0))?;
        }
        shape.progress = match std::mem::replace(&mut shape.progress, Recording::Never) {
            Recording::Untried => Recording::Warm,
            other => other,
        };
        progress(nodes, nodes);
        let outputs = graph.outputs().iter().zip(&shape.outputs);
        Ok(outputs
            .map(|(value, (_, host))| {
                let made = shape.plan.of(*value);
                Output { shape: made.shape.clone(), data: &host.values()[..made.len()] }
            })
            .collect())
    }
}

impl Shape {
    /// Records the commands when they have run once. Where that goes wrong, they go on one by one.
    fn record(&mut self, device: &dyn Device, graph: &Graph) -> Result<(), ExecError> {
        if !matches!(self.progress, Recording::Warm) {
            return Ok(());
        }
        self.progress = match device.record(&mut self.commands.iter().map(|(_, command)| command)) {
            Ok(Some(recorded)) => Recording::Done(recorded),
            Ok(None) => Recording::Never,
            Err(error) if error.kind == super::Fault::Lost => return Err(fault("recording", &error, 0)),
            Err(error) => {
                let nodes = graph.nodes().len();
                tracing::warn!(nodes, "a graph's run was not recorded and goes on step by step: {error}");
                Recording::Never
            }
        };
        Ok(())
    }

    fn submit(
        &self,
        device: &dyn Device,
        graph: &Graph,
        cancel: &AtomicBool,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<(), ExecError> {
        let nodes = graph.nodes().len();
        let mut done = 0;
        for (node, command) in &self.commands {
            if *node != done {
                done = *node;
                progress(done, nodes);
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(ExecError::Cancelled);
            }
            let name = graph.nodes().get(*node).map_or("inputs", |node| node.name.as_str());
            device.submit(command).map_err(|error| fault(name, &error, 0))?;
        }
        Ok(())
    }
}

/// Memory for so many bytes, or why not: what is needed, what is free, and the largest piece of that.
fn reserve(device: &Arc<dyn Device>, needed_bytes: usize) -> Result<Allocation, ExecError> {
    let free = device.memory().map_err(|error| fault("memory", &error, needed_bytes))?.free_bytes;
    let refused = || {
        let largest = device.largest_piece_bytes();
        let problem = format!("{free} bytes are free, the largest piece is {largest}");
        let free = Some(Free { bytes: free, largest_bytes: largest });
        ExecError::DeviceMemory { needed_bytes, free, problem }
    };
    if needed_bytes > free {
        return Err(refused());
    }
    Allocation::new(device, needed_bytes).map_err(|error| match error.kind {
        super::Fault::Memory => refused(),
        _ => fault("memory", &error, needed_bytes),
    })
}

fn cast(kernel: &'static str, from: u64, to: u64, length: usize) -> Command {
    // Eight elements a thread, as the kernel takes them.
    let blocks = u32::try_from(length.div_ceil(8 * 256)).unwrap_or(u32::MAX).clamp(1, 1 << 20);
    let args = vec![Arg::Pointer(from), Arg::Pointer(to), Arg::Long(length as u64)];
    Command::Launch(Launch { kernel, grid: [blocks, 1, 1], threads: 256, shared_bytes: 0, args })
}

/// Which values are numbers of rows and moments in time, so that they stay floats; and for each graph input the
/// shortest table whose rows it counts.
fn numbers(graph: &Graph) -> Result<(Vec<bool>, Vec<Option<usize>>), ExecError> {
    let values = graph.nodes().iter().flat_map(|node| node.inputs.iter().chain(&node.outputs));
    let count = values.chain(graph.inputs()).chain(graph.outputs()).map(|value| value.0 + 1).max().unwrap_or(0);
    let (mut wide, mut narrow, mut rows) = (vec![false; count], vec![false; count], vec![None; count]);
    for value in graph.outputs() {
        narrow[value.0] = true;
    }
    // Backwards, so that what a reshape reads is what its result is read as.
    for node in graph.nodes().iter().rev() {
        let output = node.outputs[0].0;
        // Of what a reshape is given beside its first input it reads the shapes alone.
        let read = if matches!(node.op, Op::Reshape { .. }) { 1 } else { node.inputs.len() };
        for input in node.inputs.iter().take(read) {
            match &node.op {
                Op::Embedding { weight } => {
                    let table = graph.weight_decl(*weight).shape[0];
                    wide[input.0] = true;
                    rows[input.0] = Some(rows[input.0].map_or(table, |other: usize| other.min(table)));
                }
                Op::TimeEmbedding { .. } => wide[input.0] = true,
                Op::Reshape { .. } if wide[output] => {
                    wide[input.0] = true;
                    rows[input.0] = rows[output];
                }
                _ => narrow[input.0] = true,
            }
        }
    }
    let made = |value: usize| graph.nodes().iter().find(|node| node.outputs.iter().any(|output| output.0 == value));
    for value in (0..count).filter(|value| wide[*value]) {
        let from = made(value);
        let problem = match from {
            _ if narrow[value] => "is read as a number and as a value",
            Some(node) if !matches!(node.op, Op::Reshape { .. }) => "makes numbers, which must come from outside",
            _ => continue,
        };
        let node = from.map_or_else(|| "inputs".to_owned(), |node| node.name.clone());
        return Err(ExecError::Compute { node, problem: problem.to_owned() });
    }
    let tables = graph.inputs().iter().map(|value| rows.get(value.0).copied().flatten()).collect();
    Ok((wide, tables))
}

#[allow(unsafe_code, reason = "floats as the bytes that they are; no crate of the tree does it")]
fn bytes_of(values: &[f32]) -> &[u8] {
    // SAFETY: the bytes are those of the slice, which lives as long; every f32 is four bytes of any content, and
    // bytes have no alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}
