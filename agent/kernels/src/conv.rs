//! Convolution with a square kernel of side 1 or 3, padded with zeros, stride 1 or 2; the matrix product that one of
//! side 1 is; and a kernel of three lines and one column, whose lines may be the frames of a clip.
//!
//! Two ways to the same sums: [`winograd`](crate::winograd) where it applies (side 3, stride 1, enough channels),
//! and the direct way here for the rest. The direct way copies the rows it needs into a bordered strip, so that
//! its inner loop knows no edges. What comes out for a pixel does not depend on the others that are computed with it,
//! so a picture of a batch is the same as alone, to the bit.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::lanes::{BLOCK, accumulate, bend, load, padded, store};
use crate::source::{Source, Weights};
use crate::{Size, winograd::Winograd};

/// Pixels of one register tile.
const ROWS: usize = 6;
/// Floats of a product's rows that a thread works on together: they stay in the second-level cache.
const TOGETHER: usize = 128 << 10;
/// Weights of an output that are packed together: those of sixteen outputs stay in the first-level cache.
const PACKED_TOGETHER: usize = 256;

/// Where the zeros around a picture are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pad {
    /// On all sides, so that the size is kept.
    Same,
    /// One line below and one at the right: side 3 with stride 2, an odd last line is lost.
    End,
}

/// A convolution whose weights are packed for the loops, or will be when it runs.
pub struct Conv {
    shape: Shape,
    bias: Vec<f32>,
    slopes: Option<Vec<f32>>,
    way: Way,
}

enum Way {
    /// `[block of outputs][dy][dx][input][output in block]`
    Direct(Weights),
    Winograd(Winograd),
}

/// What a convolution reads.
#[derive(Clone, Copy)]
pub struct Pictures<'a> {
    /// One picture or more, one after the other.
    pub input: &'a [f32],
    /// Of each.
    pub size: Size,
    /// What is added to the result, as large as that.
    pub plus: Option<&'a [f32]>,
}

/// What comes after the products of a convolution.
#[derive(Clone, Copy)]
pub(crate) struct Ending<'a> {
    pub(crate) bias: &'a [f32],
    pub(crate) slopes: Option<&'a [f32]>,
}

#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Of the kernel.
    lines: usize,
    columns: usize,
    stride: usize,
    /// Lines of zeros above, and as many columns at the left where the kernel is square.
    lead: usize,
}

impl Conv {
    /// `weight` is `[outputs][inputs][lines][columns]` as model files have it. With `slopes` (one for each output
    /// channel) the result is bent at zero: 0 is ReLU, a constant is leaky ReLU, any is PReLU.
    ///
    /// # Panics
    /// When the slices' lengths do not agree with the numbers, the kernel is not 1x1, 3x3 or 3x1, the stride not 1 or 2 (1
    /// for the last), or the padding is not for them.
    #[must_use]
    pub fn new(
        weight: Box<dyn Source>,
        bias: Option<&[f32]>,
        slopes: Option<&[f32]>,
        [outputs, inputs, lines, columns]: [usize; 4],
        stride: usize,
        pad: Pad,
    ) -> Self {
        let known = matches!((lines, columns, stride), (1, 1, 1 | 2) | (3, 3, 1 | 2) | (3, 1, 1));
        assert!(known, "kernel {lines}x{columns}, stride {stride}");
        assert!(bias.is_none_or(|b| b.len() == outputs) && slopes.is_none_or(|s| s.len() == outputs));
        assert!(pad == Pad::Same || (lines, stride) == (3, 2), "padding at the end");
        let lead = if pad == Pad::Same { lines / 2 } else { 0 };
        let shape = Shape { inputs, outputs, lines, columns, stride, lead };
        let way = if columns == 3 && stride == 1 && Winograd::suits(inputs, outputs) {
            Way::Winograd(Winograd::new(weight, inputs, outputs))
        } else {
            Way::Direct(Weights::new(weight, shape.packed_len(), |source, to| pack(source, shape, to)))
        };
        Self {
            shape,
            bias: padded(bias.unwrap_or_default(), outputs),
            slopes: slopes.map(|slopes| padded(slopes, outputs)),
            way,
        }
    }

    #[must_use]
    pub fn output_size(&self, size: Size) -> Size {
        let Shape { lines, stride, lead, .. } = self.shape;
        let side = |n: usize| if lead == lines / 2 { n.div_ceil(stride) } else { n / stride };
        Size { height: side(size.height), width: side(size.width) }
    }

    /// Bytes that it holds beside what its weights come from.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let weights = match &self.way {
            Way::Direct(weights) => weights.held(),
            Way::Winograd(winograd) => winograd.held(),
        };
        (weights + self.bias.len()) * size_of::<f32>()
    }

    /// Convolves pictures. `scratch` grows to what the largest weights of those that share it take.
    ///
    /// # Panics
    /// When a slice is not as large as `size` and the channels say.
    pub fn run(&self, from: Pictures<'_>, output: &mut [f32], scratch: &mut Vec<f32>) {
        let Pictures { input, size, plus } = from;
        let Shape { inputs, outputs, .. } = self.shape;
        let (one, to) = (size.pixels() * inputs, self.output_size(size));
        assert!(one > 0 && input.len().is_multiple_of(one), "input of a convolution");
        assert_eq!(output.len(), input.len() / one * to.pixels() * outputs, "output of a convolution");
        assert!(plus.is_none_or(|plus| plus.len() == output.len()), "what is added to a convolution");
        let ending = Ending { bias: &self.bias, slopes: self.slopes.as_deref() };
        match &self.way {
            Way::Winograd(winograd) => winograd.run(from, ending, output, scratch),
            Way::Direct(Weights::Packed(packed)) => self.direct(from, packed, ending, output),
            Way::Direct(Weights::Source(source)) => {
                let len = self.shape.packed_len();
                scratch.resize(scratch.len().max(len), 0.0);
                pack(source.as_ref(), self.shape, &mut scratch[..len]);
                self.direct(from, &scratch[..len], ending, output);
            }
        }
    }

    /// Multiplies rows: a convolution of side 1 over pixels that form no picture. `plus` is added to the result.
    ///
    /// # Panics
    /// When the kernel is larger, or a slice is not as large as the others and the channels say.
    pub fn rows(&self, input: &[f32], plus: Option<&[f32]>, output: &mut [f32], scratch: &mut Vec<f32>) {
        assert_eq!((self.shape.lines, self.shape.stride), (1, 1), "rows are multiplied by a kernel of side 1");
        let size = Size { height: input.len() / self.shape.inputs, width: 1 };
        self.run(Pictures { input, size, plus }, output, scratch);
    }

    /// A kernel of side 1 sees the pixels as they lie.
    fn product(&self, from: Pictures<'_>, packed: &[f32], ending: Ending<'_>, output: &mut [f32]) {
        let Shape { inputs, outputs, .. } = self.shape;
        let rows = from.input.len() / inputs;
        let fair = rows.div_ceil(rayon::current_num_threads());
        let together = (TOGETHER / inputs).clamp(4 * ROWS, 32 * ROWS).min(fair).next_multiple_of(ROWS);
        output.par_chunks_mut(together * outputs).enumerate().for_each(|(part, row)| {
            let (first, count) = (part * together, row.len() / outputs);
            Arch::new().dispatch(Row {
                strip: &from.input[first * inputs..][..count * inputs],
                strip_width: count,
                shape: self.shape,
                packed,
                ending,
                plus: from.plus.map(|plus| &plus[first * outputs..][..count * outputs]),
                row,
            });
        });
    }

    fn direct(&self, from: Pictures<'_>, packed: &[f32], ending: Ending<'_>, output: &mut [f32]) {
        let Shape { inputs, outputs, lines, columns, stride, .. } = self.shape;
        match (lines, columns, stride) {
            (1, 1, 1) => return self.product(from, packed, ending, output),
            (3, 1, _) => return self.tall(from, packed, ending, output),
            _ => {}
        }
        let (size, to) = (from.size, self.output_size(from.size));
        let (border, row_len) = (columns / 2, to.width * outputs);
        let strip_len = lines * (size.width + 2 * border) * inputs;
        output.par_chunks_mut(row_len).enumerate().for_each_init(
            || vec![0.0; strip_len],
            |strip, (at, row)| {
                let picture = &from.input[at / to.height * size.pixels() * inputs..][..size.pixels() * inputs];
                fill_strip(strip, picture, size, self.shape, at % to.height);
                Arch::new().dispatch(Row {
                    strip,
                    strip_width: size.width + 2 * border,
                    shape: self.shape,
                    packed,
                    ending,
                    plus: from.plus.map(|plus| &plus[at * row_len..][..row_len]),
                    row,
                });
            },
        );
    }
}

impl Conv {
    /// A kernel of one column: each part of a line is computed from those above and below it, so that a line may be a whole
    /// picture and no thread holds more of it than a strip.
    fn tall(&self, from: Pictures<'_>, packed: &[f32], ending: Ending<'_>, output: &mut [f32]) {
        let Shape { inputs, outputs, lines, lead, .. } = self.shape;
        let Size { height, width } = from.size;
        let together = (TOGETHER / (lines * inputs)).clamp(4 * ROWS, 32 * ROWS).next_multiple_of(ROWS).min(width);
        // Parts of lines, none of which goes on in the next line.
        let mut parts: Vec<(usize, usize, &mut [f32])> = Vec::new();
        for (line, row) in output.chunks_exact_mut(width * outputs).enumerate() {
            let part = |(part, row)| (line, part * together, row);
            parts.extend(row.chunks_mut(together * outputs).enumerate().map(part));
        }
        parts.into_par_iter().for_each_init(
            || vec![0.0; lines * together * inputs],
            |strip, (line, first, row)| {
                let count = row.len() / outputs;
                let (picture, y) = (line / height * height, line % height);
                for (dy, to) in strip.chunks_exact_mut(count * inputs).take(lines).enumerate() {
                    match (y + dy).checked_sub(lead).filter(|from| *from < height) {
                        Some(y) => {
                            let start = ((picture + y) * width + first) * inputs;
                            to.copy_from_slice(&from.input[start..][..count * inputs]);
                        }
                        None => to.fill(0.0),
                    }
                }
                Arch::new().dispatch(Row {
                    strip,
                    strip_width: count,
                    shape: self.shape,
                    packed,
                    ending,
                    plus: from.plus.map(|plus| &plus[(line * width + first) * outputs..][..row.len()]),
                    row,
                });
            },
        );
    }
}

impl Shape {
    fn packed_len(self) -> usize {
        self.outputs.next_multiple_of(BLOCK) * self.inputs * self.taps()
    }

    fn taps(self) -> usize {
        self.lines * self.columns
    }
}

/// Packs all weights, block by block.
fn pack(source: &dyn Source, shape: Shape, packed: &mut [f32]) {
    let Shape { inputs, outputs, .. } = shape;
    let taps = shape.taps();
    let together = PACKED_TOGETHER / taps;
    packed.par_chunks_mut(inputs * taps * BLOCK).enumerate().for_each(|(block, packed)| {
        let mut line = [0.0; PACKED_TOGETHER];
        for from in (0..inputs).step_by(together) {
            let line = &mut line[..together.min(inputs - from) * taps];
            for lane in 0..BLOCK {
                let o = block * BLOCK + lane;
                if o < outputs {
                    source.read((o * inputs + from) * taps, line);
                } else {
                    line.fill(0.0);
                }
                for (i, weights) in line.chunks_exact(taps).enumerate() {
                    for (tap, weight) in weights.iter().enumerate() {
                        packed[(tap * inputs + from + i) * BLOCK + lane] = *weight;
                    }
                }
            }
        }
    });
}

/// Copies the input rows under output row `y` into `strip`, with zeros where the picture ends. The left and
/// right borders are zero from the start and are never written.
fn fill_strip(strip: &mut [f32], input: &[f32], size: Size, shape: Shape, y: usize) {
    let border = shape.columns / 2;
    let row_len = size.width * shape.inputs;
    let edge = shape.lead * shape.inputs;
    for (dy, to) in strip.chunks_exact_mut(row_len + 2 * border * shape.inputs).enumerate() {
        let to = &mut to[edge..edge + row_len];
        match (y * shape.stride + dy).checked_sub(shape.lead).filter(|from| *from < size.height) {
            Some(from) => to.copy_from_slice(&input[from * row_len..][..row_len]),
            None => to.fill(0.0),
        }
    }
}

/// One row of output.
struct Row<'a> {
    strip: &'a [f32],
    strip_width: usize,
    shape: Shape,
    packed: &'a [f32],
    ending: Ending<'a>,
    plus: Option<&'a [f32]>,
    row: &'a mut [f32],
}

impl WithSimd for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        if 2 * S::F32_LANES <= BLOCK { self.run::<S, 2>(simd) } else { self.run::<S, 1>(simd) }
    }
}

impl Row<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(&mut self, simd: S) {
        let Shape { inputs, outputs, .. } = self.shape;
        let width = self.row.len() / outputs;
        let block_len = self.shape.taps() * inputs * BLOCK;
        for (block, packed) in self.packed.chunks_exact(block_len).enumerate() {
            for first in (0..BLOCK / S::F32_LANES).step_by(V) {
                if block * BLOCK + first * S::F32_LANES >= outputs {
                    continue; // nothing but padding in these vectors
                }
                let mut x = 0;
                while x + ROWS <= width {
                    self.tile::<S, ROWS, V>(simd, packed, block, first, x);
                    x += ROWS;
                }
                while x + 2 <= width {
                    self.tile::<S, 2, V>(simd, packed, block, first, x);
                    x += 2;
                }
                while x < width {
                    self.tile::<S, 1, V>(simd, packed, block, first, x);
                    x += 1;
                }
            }
        }
    }

    /// `R` pixels from `x` on, `V` vectors of output channels.
    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        packed: &[f32],
        block: usize,
        first: usize,
        x: usize,
    ) {
        let Shape { inputs, outputs, lines, columns, stride, .. } = self.shape;
        let channel = block * BLOCK + first * S::F32_LANES;
        let mut bias = [simd.splat_f32s(0.0); V];
        for (v, bias) in bias.iter_mut().enumerate() {
            *bias = load(simd, &self.ending.bias[channel + v * S::F32_LANES..]);
        }
        let mut acc = [bias; R];
        for dy in 0..lines {
            // The pixels under a row of the kernel lie side by side: one long row for the product.
            let line = &self.strip[dy * self.strip_width * inputs..][..self.strip_width * inputs];
            let mut a = [line; R];
            for (r, row) in a.iter_mut().enumerate() {
                *row = &line[(x + r) * stride * inputs..][..columns * inputs];
            }
            let b = &packed[dy * columns * inputs * BLOCK..][..columns * inputs * BLOCK];
            accumulate::<S, R, V>(simd, &mut acc, a, b, first);
        }
        for (r, values) in acc.into_iter().enumerate() {
            for (v, value) in values.into_iter().enumerate() {
                let channel = channel + v * S::F32_LANES;
                if channel >= outputs {
                    break;
                }
                let value = match self.ending.slopes {
                    Some(slopes) => bend(simd, value, load(simd, &slopes[channel..])),
                    None => value,
                };
                let end = (channel + S::F32_LANES).min(outputs);
                let value = match self.plus {
                    Some(plus) => simd.add_f32s(value, load(simd, &plus[(x + r) * outputs..][channel..end])),
                    None => value,
                };
                let pixel = &mut self.row[(x + r) * outputs..][..outputs];
                store(simd, &mut pixel[channel..end], value);
            }
        }
    }
}
