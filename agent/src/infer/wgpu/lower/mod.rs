//! From nodes to dispatches: which kernel, what it binds, its numbers.
//!
//! One node becomes one dispatch, or a few. Nothing here touches the GPU, so that a plan can be made and judged
//! without one.

mod attention;
mod gemm;
mod moves;
mod norms;
mod pointwise;

use super::kernels::{Kernel, Source};
use super::template::Definitions;
use crate::infer::executor::ExecError;
use crate::infer::graph::{Graph, Node, Op, Plan, ValueId};

/// Invocations of a workgroup in all kernels that have no tiles.
const LANES: usize = 256;

/// What is computed for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Values and weights are kept in f16.
    pub(crate) f16: bool,
    pub(crate) subgroups: bool,
    pub(crate) workgroup_bytes: usize,
}

/// What a kernel sees at one binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bind {
    Value(ValueId),
    /// One of the node's weights, as [`super::pack::of_node`] lists them.
    Weight(usize),
    /// In f32, whatever values are kept in: what an embedding reads. See [`exact`].
    Exact(ValueId),
    /// What only the node's own dispatches know of: begin and length in bytes.
    Scratch(usize, usize),
}

/// One kernel over all of its workgroups. They are numbered along one axis and may be run in parts.
#[derive(Clone, Debug)]
pub(crate) struct Dispatch {
    pub(crate) kernel: Kernel,
    pub(crate) binds: Vec<Bind>,
    /// What the kernel's `Params` say after `base` and `groups`.
    pub(crate) numbers: Vec<u32>,
    pub(crate) groups: usize,
    /// Rough number of multiplications that take as long.
    pub(crate) cost: u64,
}

/// A node with all that lowering it takes.
pub(crate) struct Lowering<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) plan: &'a Plan,
    pub(crate) target: Target,
    pub(crate) node: &'a Node,
}

/// The values that nodes of `graph` read or make in f32: numbers of rows, of which f16 cannot name the upper ones, and
/// sinusoids, whose moments it cannot tell apart. Both come from the graph's inputs, and are written before a run.
///
/// # Errors
/// [`ExecError::Compute`] for an embedding of what another node has made.
pub(crate) fn exact(graph: &Graph) -> Result<Vec<(&Node, ValueId)>, ExecError> {
    let mut found = Vec::new();
    for node in graph.nodes() {
        let (Some(input), Some(output)) = (node.inputs.first(), node.outputs.first()) else { continue };
        let value = match node.op {
            Op::Embedding { .. } => input,
            Op::TimeEmbedding { .. } => output,
            _ => continue,
        };
        if !graph.inputs().contains(input) {
            let problem = "takes its numbers from another node, not from an input".to_owned();
            return Err(ExecError::Compute { node: node.name.clone(), problem });
        }
        found.push((node, *value));
    }
    Ok(found)
}

/// A number for a kernel. Values have fewer than 2^32 elements, which [`super::program`] has made sure of.
fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Lowering<'_> {
    /// The dispatches of the node, in their order.
    ///
    /// # Errors
    /// [`ExecError::Compute`] for a node that was inferred as something else.
    pub(crate) fn dispatches(&self) -> Result<Vec<Dispatch>, ExecError> {
        let node = self.node;
        let first = *node.inputs.first().ok_or_else(|| self.wrong("has no input"))?;
        let output = *node.outputs.first().ok_or_else(|| self.wrong("has no output"))?;
        match &node.op {
            Op::Conv2d { .. } | Op::Linear { .. } => self.gemm(first, output).map(|made| vec![made]),
            Op::Activate(_) | Op::Scale { .. } | Op::Cast { .. } | Op::Add | Op::Mul | Op::AddChannels => {
                self.pointwise(first, output)
            }
            Op::GroupNorm { .. } => self.group_norm(first, output),
            Op::LayerNorm { epsilon, .. } => Ok(vec![self.layer_norm(*epsilon, first, output)]),
            Op::Geglu => Ok(vec![self.geglu(first, output)]),
            Op::Attention { .. } => self.attention(output).map(|made| vec![made]),
            Op::Embedding { .. } => Ok(vec![self.embedding(first, output)]),
            Op::TimeEmbedding { .. } => Ok(vec![self.time_embedding(output)]),
            Op::Concat { axis } => Ok(self.concat(*axis, output)),
            Op::Split { axis, lengths } => Ok(self.split(*axis, lengths, first)),
            Op::Reshape { .. } => Ok(vec![self.copy(first, output)]),
            Op::Transpose { order } => Ok(vec![self.transpose(order, first, output)]),
            Op::UpsampleNearest { .. } | Op::PixelShuffle { .. } | Op::ResizeBicubic { .. } => {
                self.picture(first, output).map(|made| vec![made])
            }
        }
    }

    fn wrong(&self, problem: impl std::fmt::Display) -> ExecError {
        ExecError::Compute { node: self.node.name.clone(), problem: problem.to_string() }
    }

    fn shape(&self, value: ValueId) -> &[usize] {
        &self.plan.of(value).shape
    }

    fn len(&self, value: ValueId) -> usize {
        self.plan.of(value).len()
    }

    fn kernel(&self, source: Source, definitions: Definitions, binds: &[Bind]) -> Kernel {
        let definitions = definitions.flag("f16", self.target.f16);
        Kernel { source, definitions, bindings: binds.iter().map(|bind| matches!(bind, Bind::Weight(_))).collect() }
    }

    /// A kernel of which each invocation makes one of `count` units of some `cost`.
    fn each(
        &self,
        source: Source,
        definitions: Definitions,
        binds: Vec<Bind>,
        count: usize,
        numbers: Vec<u32>,
        cost: u64,
    ) -> Dispatch {
        let kernel = self.kernel(source, definitions, &binds);
        Dispatch { kernel, binds, numbers, groups: count.div_ceil(LANES), cost: count as u64 * cost }
    }
}
