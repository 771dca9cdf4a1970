//! Convolutions and linear layers: one tiled product, in tiles that suit the shape.

use super::super::kernels::Source;
use super::super::template::Definitions;
use super::pointwise::activation;
use super::{Bind, Dispatch, Lowering, number};
use crate::infer::executor::ExecError;
use crate::infer::graph::{Activation, Op, Pad, ValueId};

const GEMM: Source = Source { name: "gemm", text: include_str!("../shaders/gemm.wgsl") };

/// How a workgroup works: `rows` × 4 `columns4` of the result, `depth` of the inner axis a step, `mine` rows of four
/// columns in each invocation's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tile {
    rows: usize,
    columns4: usize,
    depth: usize,
    mine: usize,
}

const NARROW: Tile = Tile { rows: 128, columns4: 4, depth: 16, mine: 4 };
const SLIM: Tile = Tile { rows: 128, columns4: 8, depth: 16, mine: 4 };
const SQUARE: Tile = Tile { rows: 64, columns4: 16, depth: 16, mine: 4 };
const LARGE: Tile = Tile { rows: 128, columns4: 16, depth: 16, mine: 8 };

impl Tile {
    fn threads(self) -> usize {
        self.rows / self.mine * self.columns4
    }

    /// One more than the rows, so that the four stores of a vector fall into different banks.
    fn stride(self) -> usize {
        self.rows + 1
    }

    fn of(rows: usize, outputs: usize) -> Self {
        match outputs {
            0..=16 => NARROW,
            17..=32 => SLIM,
            // Large tiles read least, once there are enough of them to keep a GPU busy.
            _ if rows.div_ceil(LARGE.rows) * outputs.div_ceil(64) >= 256 => LARGE,
            _ => SQUARE,
        }
    }

    fn definitions(self) -> Definitions {
        let (depth4, threads) = (self.depth / 4, self.threads());
        let slots = self.rows * depth4;
        Definitions::default()
            .set("ROWS", self.rows)
            .set("COLUMNS4", self.columns4)
            .set("DEPTH", self.depth)
            .set("DEPTH4", depth4)
            .set("MINE", self.mine)
            .set("THREADS", threads)
            .set("A_STRIDE", self.stride())
            .set("A_LENGTH", self.depth * self.stride())
            .set("B_LENGTH", self.depth * self.columns4)
            .set("A_LOADS", slots / threads)
    }
}

impl Lowering<'_> {
    pub(super) fn gemm(&self, input: ValueId, output: ValueId) -> Result<Dispatch, ExecError> {
        let (weight, (stride, pad), bend) = match &self.node.op {
            Op::Conv2d { weight, stride, activation, pad, .. } => (*weight, (*stride, *pad), *activation),
            Op::Linear { weight, .. } => (*weight, (1, Pad::Same), None),
            _ => return Err(self.wrong("is no product")),
        };
        let shape = &self.graph.weight_decl(weight).shape;
        let (&outputs, &channels) = match shape.as_slice() {
            [outputs, inputs, ..] => (outputs, inputs),
            _ => return Err(self.wrong("has a weight of another shape")),
        };
        let [lines, columns] = self.graph.kernel(weight);
        let rows = self.len(output) / outputs;
        let picture = |value: ValueId| match self.shape(value) {
            &[_, height, width, _] => (height, width),
            _ => (1, rows),
        };
        let ((x_height, x_width), (y_height, y_width)) = (picture(input), picture(output));
        let conv = lines > 1 || stride > 1;
        let tile = Tile::of(rows, outputs);
        let column_tiles = outputs.div_ceil(tile.columns4 * 4);
        let (channels4, outputs4) = (channels.div_ceil(4), outputs.div_ceil(4));
        let numbers =
            [rows, column_tiles, channels4, outputs4, channels, outputs, x_height, x_width, y_height, y_width];
        let (expression, functions) = bend.map_or_else(|| ("a".to_owned(), ""), activation);
        let slopes = matches!(bend, Some(Activation::Prelu { .. }));
        // What is added takes the place of slopes: nothing is added behind a bend.
        let plus = self.node.inputs.get(1).copied();
        if plus.is_some() && bend.is_some() {
            return Err(self.wrong("bends and adds in one"));
        }
        let definitions = tile
            .definitions()
            .set("TAPS", lines * columns)
            .set("SIDE", columns)
            .set("STRIDE", stride)
            .set("PAD_Y", if pad == Pad::Same { lines / 2 } else { 0 })
            .set("PAD_X", if pad == Pad::Same { columns / 2 } else { 0 })
            .set("expression", expression)
            .set("functions", functions)
            .flag("conv", conv)
            .flag("slopes", slopes)
            .flag("plus", plus.is_some())
            .flag("x_four", channels.is_multiple_of(4))
            .flag("y_four", outputs.is_multiple_of(4));
        let mut binds = vec![Bind::Value(output), Bind::Value(input), Bind::Weight(0), Bind::Weight(1)];
        if slopes {
            binds.push(Bind::Weight(2));
        }
        binds.extend(plus.map(Bind::Value));
        let kernel = self.kernel(GEMM, definitions, &binds);
        let groups = rows.div_ceil(tile.rows) * column_tiles;
        // Tiles are computed whole, whether they are filled or not.
        let whole = groups * tile.rows * tile.columns4 * 4;
        let cost = whole as u64 * (lines * columns * channels4 * 4) as u64;
        Ok(Dispatch { kernel, binds, numbers: numbers.map(number).to_vec(), groups, cost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_is_brought_in_whole_loads_of_all_invocations() {
        for tile in [NARROW, SLIM, SQUARE, LARGE] {
            assert!((tile.rows * tile.depth / 4).is_multiple_of(tile.threads()), "{tile:?}");
            assert!(tile.threads() <= 256 && tile.rows.is_multiple_of(tile.mine), "{tile:?}");
            let bytes = (tile.depth * tile.stride() + tile.depth * tile.columns4 * 4) * 4;
            assert!(bytes <= 16 << 10, "{tile:?}: what every GPU has is 16 KiB, this takes {bytes}");
        }
    }
}
