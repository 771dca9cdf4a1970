//! Convolutions: our own kernels by the shape at hand, or what a library makes of it.

use super::{Arg, Command, ExecError, Form, Scope, THREADS, ValueId, WeightId};
use crate::infer::cuda::Precision;
use crate::infer::cuda::device::Convolution;
use crate::infer::cuda::pack::taps_layout;
use crate::infer::graph::{Activation, Pad};

/// A kernel, its tile (pixels by outputs), and its threads.
type Tile = (&'static str, usize, usize, usize);

impl Scope<'_> {
    pub(super) fn convolve(
        &mut self,
        input: ValueId,
        weight: WeightId,
        bias: Option<WeightId>,
        stride: usize,
        pad: Pad,
        activation: Option<Activation>,
    ) -> Result<(), ExecError> {
        let precision = self.all.precision;
        let (from, made) = (self.picture(input)?, self.picture(self.output())?);
        let [lines, columns] = self.all.graph.kernel(weight);
        let [_, height, width, channels] = from;
        let [pictures, to_height, to_width, outputs] = made;
        let [pad, pad_x] = if pad == Pad::Same { [lines / 2, columns / 2] } else { [0, 0] };
        let (padded, depth) = taps_layout(channels, lines * columns, precision);
        let rows = pictures * to_height * to_width;
        let weights = self.weight(weight, Form::Taps)?;
        let (slope, slopes) = match activation {
            None => (1.0, 0),
            Some(Activation::Relu) => (0.0, 0),
            Some(Activation::LeakyRelu { slope }) => (slope, 0),
            Some(Activation::Prelu { slopes }) => (0.0, self.weight(slopes, Form::Floats)?),
            Some(other) => return Err(self.wrong(format!("{other:?} does not join a convolution"))),
        };
        let plus = self.node.inputs.get(1).map(|plus| self.address(*plus));
        let own_bias = bias.map(|bias| self.weight(bias, Form::Floats)).transpose()?;
        let mut args = vec![
            self.pointer(input),
            Arg::Pointer(weights),
            Arg::Pointer(own_bias.unwrap_or(0)),
            Arg::Pointer(slopes),
            Arg::Pointer(plus.unwrap_or(0)),
            self.pointer(self.output()),
        ];
        let sides = [rows, height, width, channels, padded, to_height, to_width, outputs];
        for number in sides.into_iter().chain([lines, columns, stride, pad, pad_x, depth]) {
            args.push(self.int(number)?);
        }
        args.push(Arg::Float(slope));
        let (name, tile_rows, tile_columns, threads) =
            tile(precision, rows, channels, outputs, self.all.multiprocessors);
        let grid = [rows.div_ceil(tile_rows) * outputs.div_ceil(tile_columns), 1, 1];
        let own = self.launch_of(name, grid, threads, 0, args)?;
        // A library takes the weights without holes between their rows, zeros on all sides, and bends at zero or not at all.
        let dense = depth == channels * lines * columns && outputs.is_multiple_of(8) && pad == lines / 2;
        let bends = matches!(activation, None | Some(Activation::Relu));
        if dense && bends {
            self.push(Command::Convolution(Box::new(Convolution {
                element: precision.element(),
                input: self.address(input),
                input_shape: from,
                weights,
                kernel: [lines, columns],
                stride,
                pad: [pad, pad_x],
                bias: bias.map(|bias| self.weight(bias, Form::Plain)).transpose()?,
                relu: activation.is_some(),
                plus,
                to: self.address(self.output()),
                to_shape: made,
                own,
            })));
        } else {
            self.push(Command::Launch(own));
        }
        Ok(())
    }
}

/// The largest tile of which there are enough to keep the device busy.
fn tile(precision: Precision, rows: usize, channels: usize, outputs: usize, multiprocessors: usize) -> Tile {
    let tiles = |down: usize, across: usize| rows.div_ceil(down) * outputs.div_ceil(across);
    if precision == Precision::Single {
        ("conv_f32", 64, 64, THREADS)
    } else if !channels.is_multiple_of(8) {
        ("conv_any", 128, 64, THREADS)
    } else if (1..=64).contains(&(outputs % 128)) || tiles(128, 128) < 2 * multiprocessors {
        if tiles(128, 64) >= 2 * multiprocessors {
            ("conv_128x64", 128, 64, THREADS)
        } else {
            ("conv_64x64", 64, 64, 128)
        }
    } else {
        ("conv_128x128", 128, 128, THREADS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_shrink_until_there_are_enough() {
        let name = |rows, channels, outputs| tile(Precision::Half, rows, channels, outputs, 100).0;
        assert_eq!(name(1 << 20, 64, 64), "conv_128x64");
        assert_eq!(name(1 << 20, 64, 256), "conv_128x128");
        assert_eq!(name(1 << 20, 3, 64), "conv_any");
        assert_eq!(name(128, 1280, 1280), "conv_64x64");
        assert_eq!(tile(Precision::Single, 1, 1, 1, 1).0, "conv_f32");
    }
}
