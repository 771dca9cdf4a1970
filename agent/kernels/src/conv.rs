//! Convolution with a square kernel of side 1 or 3, padded with zeros, stride 1 or 2.
//!
//! Two ways to the same sums: [`winograd`](crate::winograd) where it applies (side 3, stride 1, enough channels),
//! and the direct way here for the rest. The direct way copies the rows it needs into a bordered strip, so that
//! its inner loop knows no edges.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::lanes::{BLOCK, accumulate, bend, load, padded, store};
use crate::{Size, winograd::Winograd};

/// Pixels of one register tile.
const ROWS: usize = 6;

/// Where the zeros around a picture are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pad {
    /// On all sides, so that the size is kept.
    Same,
    /// One line below and one at the right: side 3 with stride 2, an odd last line is lost.
    End,
}

/// A convolution whose weights are packed for the loops.
pub struct Conv {
    shape: Shape,
    bias: Vec<f32>,
    slopes: Option<Vec<f32>>,
    way: Way,
}

enum Way {
    /// `[block of outputs][dy][dx][input][output in block]`
    Direct(Vec<f32>),
    Winograd(Winograd),
}

#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    kernel: usize,
    stride: usize,
    /// Lines of zeros above and at the left.
    lead: usize,
}

impl Conv {
    /// `weight` is `[outputs][inputs][kernel][kernel]` as model files have it. With `slopes` (one for each output
    /// channel) the result is bent at zero: 0 is ReLU, a constant is leaky ReLU, any is PReLU.
    ///
    /// # Panics
    /// When the slices' lengths do not agree with the numbers, the kernel is not 1 or 3, the stride not 1 or 2, or
    /// the padding is not for them.
    #[must_use]
    pub fn new(
        weight: &[f32],
        bias: Option<&[f32]>,
        slopes: Option<&[f32]>,
        [outputs, inputs, kernel]: [usize; 3],
        stride: usize,
        pad: Pad,
    ) -> Self {
        assert!(matches!(kernel, 1 | 3) && matches!(stride, 1 | 2), "kernel {kernel}, stride {stride}");
        assert_eq!(weight.len(), outputs * inputs * kernel * kernel, "weights of a convolution");
        assert!(bias.is_none_or(|b| b.len() == outputs) && slopes.is_none_or(|s| s.len() == outputs));
        assert!(pad == Pad::Same || (kernel, stride) == (3, 2), "padding at the end");
        let lead = if pad == Pad::Same { kernel / 2 } else { 0 };
        let shape = Shape { inputs, outputs, kernel, stride, lead };
        let way = if kernel == 3 && stride == 1 && Winograd::suits(inputs, outputs) {
            Way::Winograd(Winograd::new(weight, inputs, outputs))
        } else {
            Way::Direct(pack(weight, shape))
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
        let Shape { kernel, stride, lead, .. } = self.shape;
        let side = |n: usize| if lead == kernel / 2 { n.div_ceil(stride) } else { n / stride };
        Size { height: side(size.height), width: side(size.width) }
    }

    /// Bytes of packed weights.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        let weights = match &self.way {
            Way::Direct(packed) => packed.len(),
            Way::Winograd(winograd) => winograd.weights(),
        };
        (weights + self.bias.len()) * size_of::<f32>()
    }

    /// Convolves one picture.
    ///
    /// # Panics
    /// When `input` or `output` is not as large as `size` and the channels say.
    pub fn run(&self, input: &[f32], size: Size, output: &mut [f32]) {
        let Shape { inputs, outputs, .. } = self.shape;
        let to = self.output_size(size);
        assert_eq!(input.len(), size.pixels() * inputs, "input of a convolution");
        assert_eq!(output.len(), to.pixels() * outputs, "output of a convolution");
        let slopes = self.slopes.as_deref();
        match &self.way {
            Way::Winograd(winograd) => winograd.run(input, size, &self.bias, slopes, output),
            Way::Direct(packed) => {
                let border = self.shape.kernel / 2;
                let strip_len = self.shape.kernel * (size.width + 2 * border) * inputs;
                output.par_chunks_mut(to.width * outputs).enumerate().for_each_init(
                    || vec![0.0; strip_len],
                    |strip, (y, row)| {
                        fill_strip(strip, input, size, self.shape, y);
                        Arch::new().dispatch(Row {
                            strip,
                            strip_width: size.width + 2 * border,
                            shape: self.shape,
                            packed,
                            bias: &self.bias,
                            slopes,
                            row,
                        });
                    },
                );
            }
        }
    }
}

fn pack(weight: &[f32], shape: Shape) -> Vec<f32> {
    let Shape { inputs, outputs, kernel, .. } = shape;
    let taps = kernel * kernel;
    let mut packed = vec![0.0; outputs.next_multiple_of(BLOCK) * inputs * taps];
    for o in 0..outputs {
        for i in 0..inputs {
            for tap in 0..taps {
                let row = (o / BLOCK * taps + tap) * inputs + i;
                packed[row * BLOCK + o % BLOCK] = weight[(o * inputs + i) * taps + tap];
            }
        }
    }
    packed
}

/// Copies the input rows under output row `y` into `strip`, with zeros where the picture ends. The left and
/// right borders are zero from the start and are never written.
fn fill_strip(strip: &mut [f32], input: &[f32], size: Size, shape: Shape, y: usize) {
    let border = shape.kernel / 2;
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
    bias: &'a [f32],
    slopes: Option<&'a [f32]>,
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
        let Shape { inputs, outputs, kernel, .. } = self.shape;
        let width = self.row.len() / outputs;
        let block_len = kernel * kernel * inputs * BLOCK;
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
        let Shape { inputs, outputs, kernel, stride, .. } = self.shape;
        let channel = block * BLOCK + first * S::F32_LANES;
        let mut bias = [simd.splat_f32s(0.0); V];
        for (v, bias) in bias.iter_mut().enumerate() {
            *bias = load(simd, &self.bias[channel + v * S::F32_LANES..]);
        }
        let mut acc = [bias; R];
        for dy in 0..kernel {
            // The pixels under a row of the kernel lie side by side: one long row for the product.
            let line = &self.strip[dy * self.strip_width * inputs..][..self.strip_width * inputs];
            let mut a = [line; R];
            for (r, row) in a.iter_mut().enumerate() {
                *row = &line[(x + r) * stride * inputs..][..kernel * inputs];
            }
            let b = &packed[dy * kernel * inputs * BLOCK..][..kernel * inputs * BLOCK];
            accumulate::<S, R, V>(simd, &mut acc, a, b, first);
        }
        for (r, values) in acc.into_iter().enumerate() {
            for (v, value) in values.into_iter().enumerate() {
                let channel = channel + v * S::F32_LANES;
                if channel >= outputs {
                    break;
                }
                let value = match self.slopes {
                    Some(slopes) => bend(simd, value, load(simd, &slopes[channel..])),
                    None => value,
                };
                let end = (channel + S::F32_LANES).min(outputs);
                let pixel = &mut self.row[(x + r) * outputs..][..outputs];
                store(simd, &mut pixel[channel..end], value);
            }
        }
    }
}
