//! What moves elements: joins, splits, axes, pixels, table rows.

use super::{Arg, ExecError, Form, Scope, THREADS, ValueId, WeightId, named};
use crate::infer::graph::RANK_MAX;

/// Blocks of a kernel that goes on by itself when there are fewer than elements.
const BLOCKS_MAX: usize = 1 << 20;

impl Scope<'_> {
    pub(super) fn concat(&mut self, axis: usize) -> Result<(), ExecError> {
        let to = self.output();
        let to_row: usize = self.shape(to)[axis..].iter().product();
        let mut start = 0;
        for value in &self.node.inputs {
            let row: usize = self.shape(*value)[axis..].iter().product();
            self.copy_rows(*value, to, [row, 0], [to_row, start], row)?;
            start += row;
        }
        Ok(())
    }

    pub(super) fn split(&mut self, input: ValueId, axis: usize, lengths: &[usize]) -> Result<(), ExecError> {
        let unit: usize = self.shape(input)[axis + 1..].iter().product();
        let from_row = self.shape(input)[axis] * unit;
        let mut start = 0;
        for (to, length) in self.node.outputs.iter().zip(lengths) {
            self.copy_rows(input, *to, [from_row, start], [length * unit, 0], length * unit)?;
            start += length * unit;
        }
        Ok(())
    }

    /// `width` elements of each row; `from` and `to` are a row's length and the place in it.
    fn copy_rows(
        &mut self,
        source: ValueId,
        target: ValueId,
        from: [usize; 2],
        to: [usize; 2],
        width: usize,
    ) -> Result<(), ExecError> {
        let bytes = self.bytes(source);
        let rows = self.all.plan.of(source).len() / from[0];
        let numbers = [width, from[0], from[1], to[0], to[1]];
        let (kernel, unit) = match numbers {
            numbers if numbers.iter().all(|number| (number * bytes).is_multiple_of(16)) => ("copy_rows_16", 16),
            numbers if numbers.iter().all(|number| (number * bytes).is_multiple_of(4)) => ("copy_rows_4", 4),
            _ => ("copy_rows_2", 2),
        };
        let mut args = vec![self.pointer(source), self.pointer(target), Arg::Long(rows as u64)];
        for number in numbers {
            args.push(self.int(number * bytes / unit)?);
        }
        self.each(kernel, rows * width * bytes / unit, args)
    }

    pub(super) fn transpose(&mut self, input: ValueId, order: &[usize]) -> Result<(), ExecError> {
        let shape = self.shape(input);
        let mut strides = vec![1; shape.len()];
        for axis in (1..shape.len()).rev() {
            strides[axis - 1] = strides[axis] * shape[axis];
        }
        let unused = RANK_MAX - order.len();
        let (mut lengths_of, mut strides_of) = ([1; RANK_MAX], [0; RANK_MAX]);
        for (at, axis) in order.iter().enumerate() {
            lengths_of[unused + at] = shape[*axis];
            strides_of[unused + at] = strides[*axis];
        }
        let mut args = vec![self.pointer(input), self.pointer(self.output()), self.length(input)];
        // The first length follows from the rest.
        for number in lengths_of[1..].iter().chain(&strides_of) {
            args.push(self.int(*number)?);
        }
        let kernel = if self.bytes(input) == 4 { "transpose_4" } else { "transpose_2" };
        self.each(kernel, self.all.plan.of(input).len(), args)
    }

    pub(super) fn upsample(&mut self, input: ValueId, factor: usize) -> Result<(), ExecError> {
        let [pictures, height, width, channels] = self.picture(self.output())?;
        let (kernel, unit) = match channels * self.bytes(input) {
            bytes if bytes.is_multiple_of(16) => ("upsample_16", 16),
            bytes if bytes.is_multiple_of(4) => ("upsample_4", 4),
            _ => ("upsample_2", 2),
        };
        let units = channels * self.bytes(input) / unit;
        let mut args = vec![self.pointer(input), self.pointer(self.output())];
        for number in [pictures * height, width, units, factor] {
            args.push(self.int(number)?);
        }
        self.each(kernel, pictures * height * width * units, args)
    }

    pub(super) fn pixel_shuffle(&mut self, input: ValueId, factor: usize) -> Result<(), ExecError> {
        let [pictures, height, width, channels] = self.picture(self.output())?;
        let mut args = vec![self.pointer(input), self.pointer(self.output())];
        for number in [pictures * height, width, channels, factor] {
            args.push(self.int(number)?);
        }
        let kernel = if self.bytes(input) == 4 { "pixel_shuffle_4" } else { "pixel_shuffle_2" };
        self.each(kernel, pictures * height * width * channels, args)
    }

    pub(super) fn resize_bicubic(&mut self, input: ValueId) -> Result<(), ExecError> {
        let [pictures, height, width, channels] = self.picture(input)?;
        let [_, to_height, to_width, _] = self.picture(self.output())?;
        // The kernel finds its places in whole numbers.
        if [height * to_height, width * to_width].iter().any(|product| *product >= 1 << 29) {
            return Err(self.wrong("resizes more pixels than its kernel counts"));
        }
        let mut args = vec![self.pointer(input), self.pointer(self.output())];
        for number in [pictures, height, width, channels, to_height, to_width] {
            args.push(self.int(number)?);
        }
        let elements = self.all.plan.of(self.output()).len();
        self.each(named("resize_bicubic", self.all.precision), elements, args)
    }

    pub(super) fn embedding(&mut self, input: ValueId, weight: WeightId) -> Result<(), ExecError> {
        let shape = &self.all.graph.weight_decl(weight).shape;
        let (rows, channels) = (shape[0], shape[1]);
        let args = vec![
            self.pointer(input),
            Arg::Pointer(self.weight(weight, Form::Plain)?),
            self.pointer(self.output()),
            self.length(self.output()),
            self.int(channels)?,
            self.int(rows)?,
        ];
        let elements = self.all.plan.of(self.output()).len();
        self.each(named("embedding", self.all.precision), elements, args)
    }

    pub(super) fn time_embedding(
        &mut self,
        input: ValueId,
        channels: usize,
        flip: bool,
        shift: f32,
    ) -> Result<(), ExecError> {
        let times = self.all.plan.of(input).len();
        let args = vec![
            self.pointer(input),
            self.pointer(self.output()),
            self.int(times)?,
            self.int(channels)?,
            Arg::Int(i32::from(flip)),
            Arg::Float(shift),
        ];
        self.each(named("time_embedding", self.all.precision), times * channels, args)
    }

    /// A thread for each element, as far as there are blocks.
    fn each(&mut self, kernel: &'static str, elements: usize, args: Vec<Arg>) -> Result<(), ExecError> {
        self.launch(kernel, [elements.div_ceil(THREADS).min(BLOCKS_MAX), 1, 1], THREADS, 0, args)
    }
}
