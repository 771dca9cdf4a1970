//! From a graph and its plan to commands for a device: which kernel, over which grid, with which parameters.
//!
//! Nothing is computed or asked of a device here, so all of it is tested without one. Lowering runs twice for a shape:
//! once to learn how much scratch its operations want, once with the addresses that this led to.

mod attention;
mod convolve;
mod moves;
mod norms;

use super::super::executor::ExecError;
use super::super::graph::{Activation, Element, Graph, Node, Op, Plan, ValueId, WeightId};
use super::Precision;
use super::device::{Arg, Command, Gemm, Launch, Matrix};
use super::pack::{Form, Places, is_product};

/// Threads of a block, where a kernel does not care.
const THREADS: usize = 256;

/// Where things lie.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bases {
    pub(super) weights: u64,
    pub(super) arena: u64,
    pub(super) scratch: u64,
}

/// What is given to lowering.
pub(super) struct Lowering<'a> {
    pub(super) graph: &'a Graph,
    pub(super) plan: &'a Plan,
    pub(super) places: &'a Places,
    pub(super) precision: Precision,
    /// Values that are floats even where all else is halves.
    pub(super) wide: &'a [bool],
    pub(super) bases: Bases,
    pub(super) multiprocessors: usize,
}

/// Commands with the node that each belongs to, and the scratch that they share.
#[derive(Debug, Default)]
pub(super) struct Lowered {
    pub(super) commands: Vec<(usize, Command)>,
    pub(super) scratch_bytes: usize,
}

/// One node's part of it.
struct Scope<'a> {
    all: &'a Lowering<'a>,
    node: &'a Node,
    index: usize,
    made: &'a mut Lowered,
}

impl Lowering<'_> {
    /// Lowers every node.
    ///
    /// # Errors
    /// [`ExecError::Compute`] for what this executor cannot do, by the node's name.
    pub(super) fn run(&self) -> Result<Lowered, ExecError> {
        let mut made = Lowered::default();
        for (index, node) in self.graph.nodes().iter().enumerate() {
            Scope { all: self, node, index, made: &mut made }.lower()?;
        }
        Ok(made)
    }

    pub(super) fn value(&self, value: ValueId) -> u64 {
        self.bases.arena + self.plan.place(value).0 as u64
    }
}

impl Scope<'_> {
    fn lower(&mut self) -> Result<(), ExecError> {
        let node = self.node;
        let input = *node.inputs.first().ok_or_else(|| self.wrong("has no input"))?;
        match &node.op {
            Op::Conv2d { weight, bias, stride, pad, activation } => {
                if is_product(self.all.graph.kernel(*weight), *stride, *pad, *activation) {
                    self.product(input, *weight, *bias)
                } else {
                    self.convolve(input, *weight, *bias, *stride, *pad, *activation)
                }
            }
            Op::Linear { weight, bias } => self.product(input, *weight, *bias),
            Op::Activate(activation) => self.activate(input, *activation),
            Op::GroupNorm { groups, weight, bias, epsilon, silu } => {
                self.group_norm(input, *groups, *weight, *bias, *epsilon, *silu)
            }
            Op::LayerNorm { weight, bias, epsilon } => self.layer_norm(input, *weight, *bias, *epsilon),
            Op::Geglu => {
                let width = self.last_axis(self.output())?;
                let args = [self.pointer(input), self.pointer(self.output()), self.length(self.output()), width];
                self.over("geglu", self.output(), &args)
            }
            Op::Attention { heads, causal } => self.attention(*heads, *causal),
            Op::Embedding { weight } => self.embedding(input, *weight),
            Op::TimeEmbedding { channels, flip, shift } => self.time_embedding(input, *channels, *flip, *shift),
            Op::AddChannels => {
                let more = self.second()?;
                let parts = self.shape(more)[0];
                let per_picture = Arg::Long((self.all.plan.of(input).len() / parts) as u64);
                let args = [
                    self.pointer(input),
                    self.pointer(more),
                    self.pointer(self.output()),
                    self.length(input),
                    per_picture,
                    self.last_axis(input)?,
                ];
                self.over("add_channels", self.output(), &args)
            }
            Op::Add => self.combine("add"),
            Op::Mul => self.combine("mul"),
            Op::Scale { factor } => {
                let args = [self.pointer(input), self.pointer(self.output()), self.length(input), Arg::Float(*factor)];
                self.over("scale", self.output(), &args)
            }
            Op::Concat { axis } => self.concat(*axis),
            Op::Split { axis, lengths } => self.split(input, *axis, lengths),
            Op::Reshape { .. } => self.copy(input),
            Op::Transpose { order } => self.transpose(input, order),
            Op::UpsampleNearest { factor } => self.upsample(input, *factor),
            Op::PixelShuffle { factor } => self.pixel_shuffle(input, *factor),
            Op::ResizeBicubic { .. } => self.resize_bicubic(input),
            Op::Cast { to: Element::F16 } if self.all.precision == Precision::Single => {
                let args = [self.pointer(input), self.pointer(self.output()), self.length(input)];
                self.launch_over("round_f32", self.output(), &args)
            }
            Op::Cast { .. } => self.copy(input),
        }
    }

    /// `x · Wᵀ + b` over the last axis.
    fn product(&mut self, input: ValueId, weight: WeightId, bias: Option<WeightId>) -> Result<(), ExecError> {
        let shape = &self.all.graph.weight_decl(weight).shape;
        let (columns, depth) = (shape[0], shape[1]);
        let rows = self.all.plan.of(input).len() / depth;
        let element = self.all.precision.element();
        let gemm = Gemm {
            element,
            to_element: element,
            batch: 1,
            rows,
            columns,
            depth,
            left: Matrix { at: self.address(input), row: depth, batch: 0 },
            right: Matrix { at: self.weight(weight, Form::Plain)?, row: depth, batch: 0 },
            by_columns: true,
            bias: bias.map(|bias| self.weight(bias, Form::Plain)).transpose()?,
            plus: self.node.inputs.get(1).map(|plus| self.address(*plus)),
            to: Matrix { at: self.address(self.output()), row: columns, batch: 0 },
        };
        self.push(Command::Gemm(gemm));
        Ok(())
    }

    fn activate(&mut self, input: ValueId, activation: Activation) -> Result<(), ExecError> {
        let (kind, slope, slopes) = match activation {
            Activation::Relu => (1, 0.0, None),
            Activation::LeakyRelu { slope } => (2, slope, None),
            Activation::Prelu { slopes } => (3, 0.0, Some(slopes)),
            Activation::Silu => (4, 0.0, None),
            Activation::Gelu => (5, 0.0, None),
            Activation::QuickGelu => (6, 0.0, None),
        };
        let slopes = slopes.map(|slopes| self.weight(slopes, Form::Floats)).transpose()?;
        let args = [
            self.pointer(input),
            self.pointer(self.output()),
            Arg::Pointer(slopes.unwrap_or(0)),
            self.length(input),
            self.last_axis(input)?,
            Arg::Int(kind),
            Arg::Float(slope),
        ];
        self.over("activate", self.output(), &args)
    }

    /// Two or more inputs into one.
    fn combine(&mut self, kernel: &'static str) -> Result<(), ExecError> {
        let (first, more) = self.node.inputs.split_first().ok_or_else(|| self.wrong("has no input"))?;
        let to = self.pointer(self.output());
        let mut from = self.pointer(*first);
        for value in more {
            let args = [from, self.pointer(*value), to, self.length(*first)];
            self.over(kernel, self.output(), &args)?;
            from = to;
        }
        Ok(())
    }

    fn copy(&mut self, input: ValueId) -> Result<(), ExecError> {
        let bytes = self.all.plan.of(input).len() * self.bytes(input);
        self.push(Command::Copy { from: self.address(input), to: self.address(self.output()), bytes });
        Ok(())
    }

    /// Launches `<kernel>_f16` or `<kernel>_f32` with a thread for each sixteen bytes of `value`.
    fn over(&mut self, kernel: &'static str, value: ValueId, args: &[Arg]) -> Result<(), ExecError> {
        self.launch_over(named(kernel, self.all.precision), value, args)
    }

    fn launch_over(&mut self, kernel: &'static str, value: ValueId, args: &[Arg]) -> Result<(), ExecError> {
        let packs = (self.all.plan.of(value).len() * self.bytes(value)).div_ceil(16);
        self.launch(kernel, [packs.div_ceil(THREADS).min(1 << 20), 1, 1], THREADS, 0, args.to_vec())
    }

    fn launch(
        &mut self,
        kernel: &'static str,
        grid: [usize; 3],
        threads: usize,
        shared_bytes: usize,
        args: Vec<Arg>,
    ) -> Result<(), ExecError> {
        let launch = self.launch_of(kernel, grid, threads, shared_bytes, args)?;
        self.push(Command::Launch(launch));
        Ok(())
    }

    fn launch_of(
        &self,
        kernel: &'static str,
        grid: [usize; 3],
        threads: usize,
        shared_bytes: usize,
        args: Vec<Arg>,
    ) -> Result<Launch, ExecError> {
        let fits = grid[0] < 1 << 31 && grid[1] < 1 << 16 && grid[2] < 1 << 16 && shared_bytes <= 48 << 10;
        if !fits || grid.contains(&0) {
            return Err(self.wrong(format!("{kernel} over {grid:?} blocks is more than a GPU takes")));
        }
        #[allow(clippy::cast_possible_truncation, reason = "below 2^31, as was just seen; threads are 1024 at most")]
        let (grid, threads, shared_bytes) = (grid.map(|side| side as u32), threads as u32, shared_bytes as u32);
        Ok(Launch { kernel, grid, threads, shared_bytes, args })
    }

    /// Makes sure that so much scratch will be there, and gives its begin.
    fn scratch(&mut self, bytes: usize) -> u64 {
        self.made.scratch_bytes = self.made.scratch_bytes.max(bytes);
        self.all.bases.scratch
    }

    fn push(&mut self, command: Command) {
        self.made.commands.push((self.index, command));
    }

    fn output(&self) -> ValueId {
        self.node.outputs[0]
    }

    fn second(&self) -> Result<ValueId, ExecError> {
        self.node.inputs.get(1).copied().ok_or_else(|| self.wrong("has one input"))
    }

    fn shape(&self, value: ValueId) -> &[usize] {
        &self.all.plan.of(value).shape
    }

    fn picture(&self, value: ValueId) -> Result<[usize; 4], ExecError> {
        self.shape(value).try_into().map_err(|_| self.wrong("takes a picture"))
    }

    /// Of one element.
    fn bytes(&self, value: ValueId) -> usize {
        if self.all.wide[value.0] { 4 } else { self.all.precision.bytes() }
    }

    fn address(&self, value: ValueId) -> u64 {
        self.all.value(value)
    }

    fn pointer(&self, value: ValueId) -> Arg {
        Arg::Pointer(self.address(value))
    }

    fn length(&self, value: ValueId) -> Arg {
        Arg::Long(self.all.plan.of(value).len() as u64)
    }

    fn last_axis(&self, value: ValueId) -> Result<Arg, ExecError> {
        self.int(self.shape(value).last().copied().unwrap_or(1))
    }

    fn int(&self, number: usize) -> Result<Arg, ExecError> {
        i32::try_from(number).map(Arg::Int).map_err(|_| self.wrong(format!("{number} is more than a kernel counts")))
    }

    fn weight(&self, weight: WeightId, form: Form) -> Result<u64, ExecError> {
        let place = self.all.places.of(weight, form).ok_or_else(|| self.wrong("has a weight that was not packed"))?;
        Ok(self.all.bases.weights + place as u64)
    }

    fn wrong(&self, problem: impl std::fmt::Display) -> ExecError {
        ExecError::Compute { node: self.node.name.clone(), problem: problem.to_string() }
    }
}

/// The kernel for this format.
fn named(kernel: &'static str, precision: Precision) -> &'static str {
    macro_rules! both {
        ($($name:literal),*) => {
            match (kernel, precision) {
                $(($name, Precision::Half) => concat!($name, "_f16"), ($name, Precision::Single) => concat!($name, "_f32"),)*
                _ => kernel,
            }
        };
    }
    both!(
        "activate",
        "add",
        "mul",
        "scale",
        "add_channels",
        "geglu",
        "group_parts",
        "group_apply",
        "layer_norm",
        "softmax",
        "resize_bicubic",
        "embedding",
        "time_embedding"
    )
}
