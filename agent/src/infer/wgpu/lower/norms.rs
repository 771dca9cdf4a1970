//! Norms, GEGLU and embeddings.

use super::super::kernels::Source;
use super::super::template::Definitions;
use super::pointwise::GELU;
use super::{Bind, Dispatch, Lowering, number};
use crate::infer::executor::ExecError;
use crate::infer::graph::{Op, ValueId};

const SUMS: Source = Source { name: "norm_sums", text: include_str!("../shaders/norm_sums.wgsl") };
const JOIN: Source = Source { name: "norm_join", text: include_str!("../shaders/norm_join.wgsl") };
const APPLY: Source = Source { name: "norm_apply", text: include_str!("../shaders/norm_apply.wgsl") };
const LAYER: Source = Source { name: "layer_norm", text: include_str!("../shaders/layer_norm.wgsl") };
const GEGLU: Source = Source { name: "geglu", text: include_str!("../shaders/geglu.wgsl") };
const EMBEDDING: Source = Source { name: "embedding", text: include_str!("../shaders/embedding.wgsl") };
const FROM_EXACT: Source = Source { name: "from_exact", text: include_str!("../shaders/from_exact.wgsl") };
const COST: u64 = 32;

/// Values that one workgroup sums up, and the most parts of one group.
const PART: usize = 16 * 1024;
const PARTS_MAX: usize = 64;
/// A mean and a sum, or a mean and a deviation.
const PAIR_BYTES: usize = 8;
const ALIGN_BYTES: usize = 256;

impl Lowering<'_> {
    pub(super) fn group_norm(&self, input: ValueId, output: ValueId) -> Result<Vec<Dispatch>, ExecError> {
        let Op::GroupNorm { groups, epsilon, silu, .. } = self.node.op else { return Err(self.wrong("is no norm")) };
        let shape = self.shape(input);
        let (&batch, &channels) = match (shape.first(), shape.last()) {
            (Some(batch), Some(channels)) => (batch, channels),
            _ => return Err(self.wrong("has no axis")),
        };
        let picture = self.len(input) / batch;
        let (pixels, in_group) = (picture / channels, channels / groups);
        let parts = (pixels * in_group).div_ceil(PART).clamp(1, PARTS_MAX).min(pixels);
        let part_pixels = pixels.div_ceil(parts);
        let parts = pixels.div_ceil(part_pixels); // the last one is not empty
        let count = batch * groups;
        let sums_bytes = (count * parts * PAIR_BYTES).next_multiple_of(ALIGN_BYTES);
        let (sums, joined) = (Bind::Scratch(0, sums_bytes), Bind::Scratch(sums_bytes, count * PAIR_BYTES));
        let definitions = Definitions::default().flag("subgroups", self.target.subgroups);
        let binds = vec![Bind::Value(input), sums];
        let sizes = [pixels, channels, in_group, groups, parts, part_pixels];
        let first = Dispatch {
            kernel: self.kernel(SUMS, definitions, &binds),
            binds,
            numbers: sizes.map(number).to_vec(),
            groups: count * parts,
            cost: self.len(input) as u64 * COST,
        };
        let mut numbers = [count, pixels, in_group, parts, part_pixels].map(number).to_vec();
        numbers.push(epsilon.to_bits());
        let second = self.each(JOIN, Definitions::default(), vec![sums, joined], count, numbers, COST);
        let vectors = self.len(output).div_ceil(4);
        let numbers = [vectors, picture, channels, in_group, groups].map(number).to_vec();
        let binds = vec![Bind::Value(output), Bind::Value(input), joined, Bind::Weight(0), Bind::Weight(1)];
        let definitions = Definitions::default().flag("silu", silu);
        let third = self.each(APPLY, definitions, binds, vectors, numbers, 4 * COST);
        Ok(vec![first, second, third])
    }

    pub(super) fn layer_norm(&self, epsilon: f32, input: ValueId, output: ValueId) -> Dispatch {
        let width = self.shape(input).last().copied().unwrap_or(1);
        let binds = vec![Bind::Value(output), Bind::Value(input), Bind::Weight(0), Bind::Weight(1)];
        let definitions = Definitions::default().flag("subgroups", self.target.subgroups);
        Dispatch {
            kernel: self.kernel(LAYER, definitions, &binds),
            binds,
            numbers: vec![number(width), epsilon.to_bits()],
            groups: self.len(input) / width,
            cost: self.len(input) as u64 * COST,
        }
    }

    pub(super) fn geglu(&self, input: ValueId, output: ValueId) -> Dispatch {
        let half = self.shape(output).last().copied().unwrap_or(1);
        let four = half.is_multiple_of(4);
        let unit = if four { 4 } else { 1 };
        let count = self.len(output) / unit;
        let numbers = [count, half / unit].map(number).to_vec();
        let definitions = Definitions::default().flag("four", four).set("functions", GELU);
        self.each(GEGLU, definitions, vec![Bind::Value(output), Bind::Value(input)], count, numbers, 2 * COST)
    }

    pub(super) fn embedding(&self, input: ValueId, output: ValueId) -> Dispatch {
        let width = self.shape(output).last().copied().unwrap_or(1);
        let four = width.is_multiple_of(4);
        let unit = if four { 4 } else { 1 };
        let count = self.len(output) / unit;
        let numbers = [count, width / unit].map(number).to_vec();
        let definitions = Definitions::default().flag("four", four);
        let binds = vec![Bind::Value(output), Bind::Exact(input), Bind::Weight(0)];
        self.each(EMBEDDING, definitions, binds, count, numbers, COST)
    }

    /// The sinusoids themselves are made on the CPU: a few hundred of them, exact to the last digit.
    pub(super) fn time_embedding(&self, output: ValueId) -> Dispatch {
        let count = self.len(output).div_ceil(4);
        let binds = vec![Bind::Value(output), Bind::Exact(output)];
        self.each(FROM_EXACT, Definitions::default(), binds, count, vec![number(count)], COST)
    }
}
