//! Group norm in two launches, layer norm in one.

use super::{Arg, ExecError, Form, Scope, THREADS, ValueId, WeightId, named};

/// Most parts that a picture's sums are gathered in.
const CHUNKS_MAX: usize = 128;
/// Elements that are worth a block.
const BLOCK_ELEMENTS: usize = 16 << 10;

impl Scope<'_> {
    pub(super) fn group_norm(
        &mut self,
        input: ValueId,
        groups: usize,
        weight: WeightId,
        bias: WeightId,
        epsilon: f32,
        silu: bool,
    ) -> Result<(), ExecError> {
        let shape = self.shape(input);
        let (pictures, channels) = (shape[0], shape[shape.len() - 1]);
        let rows: usize = shape[1..shape.len() - 1].iter().product();
        let shared_bytes = channels * 2 * size_of::<f32>();
        let rows_each = rows.div_ceil(CHUNKS_MAX).max(BLOCK_ELEMENTS.div_ceil(channels)).min(rows);
        let chunks = rows.div_ceil(rows_each);
        let parts = self.scratch(pictures * groups * chunks * 3 * size_of::<f32>());
        let precision = self.all.precision;
        let args = vec![
            self.pointer(input),
            Arg::Pointer(parts),
            self.int(rows)?,
            self.int(rows_each)?,
            self.int(channels)?,
            self.int(groups)?,
        ];
        self.launch(named("group_parts", precision), [chunks, pictures, 1], THREADS, shared_bytes, args)?;
        // The second pass has no parts to keep few, so its blocks may be smaller.
        let apply_each = (BLOCK_ELEMENTS / 2).div_ceil(channels).min(rows);
        let args = vec![
            self.pointer(input),
            self.pointer(self.output()),
            Arg::Pointer(parts),
            Arg::Pointer(self.weight(weight, Form::Floats)?),
            Arg::Pointer(self.weight(bias, Form::Floats)?),
            self.int(rows)?,
            self.int(apply_each)?,
            self.int(channels)?,
            self.int(groups)?,
            self.int(chunks)?,
            Arg::Float(epsilon),
            Arg::Int(i32::from(silu)),
        ];
        let grid = [rows.div_ceil(apply_each), pictures, 1];
        self.launch(named("group_apply", precision), grid, THREADS, shared_bytes, args)
    }

    pub(super) fn layer_norm(
        &mut self,
        input: ValueId,
        weight: WeightId,
        bias: WeightId,
        epsilon: f32,
    ) -> Result<(), ExecError> {
        let channels = self.shape(input).last().copied().unwrap_or(1);
        let rows = self.all.plan.of(input).len() / channels;
        let args = vec![
            self.pointer(input),
            self.pointer(self.output()),
            Arg::Pointer(self.weight(weight, Form::Floats)?),
            Arg::Pointer(self.weight(bias, Form::Floats)?),
            self.int(rows)?,
            self.int(channels)?,
            Arg::Float(epsilon),
        ];
        // A warp a row.
        let grid = [rows.div_ceil(THREADS / 32), 1, 1];
        self.launch(named("layer_norm", self.all.precision), grid, THREADS, 0, args)
    }
}
