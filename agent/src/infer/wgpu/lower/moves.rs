//! What only moves values: concat, split, reshape, transpose, pictures of another size.

use super::super::kernels::Source;
use super::super::template::Definitions;
use super::{Bind, Dispatch, Lowering, number};
use crate::infer::executor::ExecError;
use crate::infer::graph::{Op, RANK_MAX, ValueId};

const ROWS: Source = Source { name: "rows", text: include_str!("../shaders/rows.wgsl") };
const TRANSPOSE: Source = Source { name: "transpose", text: include_str!("../shaders/transpose.wgsl") };
const PICTURE: Source = Source { name: "picture", text: include_str!("../shaders/picture.wgsl") };
const COST: u64 = 32;

/// Rows of `row` elements each, of which the part that begins at `start` is meant.
#[derive(Clone, Copy)]
struct Part {
    value: ValueId,
    row: usize,
    start: usize,
}

impl Lowering<'_> {
    fn rows(&self, from: Part, to: Part, length: usize) -> Dispatch {
        let (rows, sizes) = (self.len(to.value) / to.row, [length, from.row, from.start, to.row, to.start]);
        let four = sizes.iter().all(|size| size.is_multiple_of(4));
        let unit = if four { 4 } else { 1 };
        let count = rows * length / unit;
        let mut numbers = vec![number(count)];
        numbers.extend(sizes.map(|size| number(size / unit)));
        let binds = vec![Bind::Value(to.value), Bind::Value(from.value)];
        self.each(ROWS, Definitions::default().flag("four", four), binds, count, numbers, COST)
    }

    pub(super) fn copy(&self, from: ValueId, to: ValueId) -> Dispatch {
        let length = self.len(to);
        let whole = |value| Part { value, row: length, start: 0 };
        self.rows(whole(from), whole(to), length)
    }

    pub(super) fn concat(&self, axis: usize, output: ValueId) -> Vec<Dispatch> {
        let row: usize = self.shape(output)[axis..].iter().product();
        let mut start = 0;
        let parts = self.node.inputs.iter().map(|value| {
            let length: usize = self.shape(*value)[axis..].iter().product();
            let to = Part { value: output, row, start };
            start += length;
            self.rows(Part { value: *value, row: length, start: 0 }, to, length)
        });
        parts.collect()
    }

    pub(super) fn split(&self, axis: usize, lengths: &[usize], input: ValueId) -> Vec<Dispatch> {
        let row: usize = self.shape(input)[axis..].iter().product();
        let unit: usize = self.shape(input)[axis + 1..].iter().product();
        let mut start = 0;
        let parts = self.node.outputs.iter().zip(lengths).map(|(output, length)| {
            let length = length * unit;
            let from = Part { value: input, row, start };
            start += length;
            self.rows(from, Part { value: *output, row: length, start: 0 }, length)
        });
        parts.collect()
    }

    pub(super) fn transpose(&self, order: &[usize], from: ValueId, to: ValueId) -> Dispatch {
        let shape = self.shape(from);
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        let (mut lengths, mut steps) = ([1_u32; RANK_MAX], [0_u32; RANK_MAX]);
        let first = RANK_MAX - order.len();
        for (at, axis) in order.iter().enumerate() {
            lengths[first + at] = number(shape[*axis]);
            steps[first + at] = number(strides[*axis]);
        }
        let count = self.len(to);
        let numbers = [&[number(count)][..], &lengths, &steps].concat();
        let binds = vec![Bind::Value(to), Bind::Value(from)];
        self.each(TRANSPOSE, Definitions::default(), binds, count, numbers, COST)
    }

    pub(super) fn picture(&self, from: ValueId, to: ValueId) -> Result<Dispatch, ExecError> {
        let (&[_, x_height, x_width, deep], &[_, y_height, y_width, channels]) = (self.shape(from), self.shape(to))
        else {
            return Err(self.wrong("is no picture"));
        };
        let (way, factor, cost) = match self.node.op {
            Op::UpsampleNearest { factor } => ("nearest", factor, COST),
            Op::PixelShuffle { factor } => ("shuffle", factor, COST),
            _ => ("bicubic", 1, 8 * COST),
        };
        // A pixel shuffle takes the channels apart.
        let four = deep == channels && channels.is_multiple_of(4);
        let unit = if four { 4 } else { 1 };
        let count = self.len(to) / unit;
        let sides = [count, channels / unit, x_height, x_width, y_height, y_width, factor];
        let definitions = Definitions::default().flag("four", four).flag(way, true);
        let binds = vec![Bind::Value(to), Bind::Value(from)];
        Ok(self.each(PICTURE, definitions, binds, count, sides.map(number).to_vec(), cost))
    }
}
