//! 3×3 convolution, stride 1, by Winograd's F(4×4, 3×3): 36 products where the direct way takes 144.
//!
//! A 6×6 patch of input and the 3×3 kernel are both transformed to 6×6; their products, summed over input channels,
//! transform back to a 4×4 patch of output. Over many patches the 36 sums are 36 matrix products. The transforms
//! run with one vector lane for each channel. The matrices are those for the points 0, ±1, ±2, ∞ (Lavin and Gray,
//! "Fast Algorithms for Convolutional Neural Networks", 2015). The larger F(6×6) would save a fifth more products and
//! round worse.

#![allow(
    clippy::needless_range_loop,
    clippy::manual_map,
    reason = "what is written out here keeps values in registers: `array::from_fn`'s closure is not inlined into a \
              function with other target features, and an array that is zeroed first is zeroed in memory; each halved \
              the speed"
)]

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::Size;
use crate::lanes::{BLOCK, accumulate, bend, load, store};

/// Side of a patch of output.
const OUT: usize = 4;
/// Side of a patch of input.
const IN: usize = 6;
/// Products of a patch and channel.
const POINTS: usize = IN * IN;
/// Patches that are worked on together: with 64 channels their transforms stay in the second-level cache.
const PATCHES: usize = 24;
/// Patches of one register tile.
const ROWS: usize = 6;

/// Values from one point to the next in the scratch. Without the extra line the 36 values of a patch would lie a
/// multiple of 2 KiB apart and fall into the same few sets of the first-level cache.
const fn point_pitch(channels: usize) -> usize {
    PATCHES * channels + BLOCK
}

pub(crate) struct Winograd {
    inputs: usize,
    outputs: usize,
    /// `[point][block of outputs][input][output in block]`
    packed: Vec<f32>,
}

impl Winograd {
    /// The lanes of the transforms are channels, so that these fill whole vectors.
    pub(crate) fn suits(inputs: usize, outputs: usize) -> bool {
        inputs > 0 && outputs > 0 && inputs.is_multiple_of(BLOCK) && outputs.is_multiple_of(BLOCK)
    }

    pub(crate) fn new(weight: &[f32], inputs: usize, outputs: usize) -> Self {
        let mut packed = vec![0.0; POINTS * inputs * outputs];
        for o in 0..outputs {
            for i in 0..inputs {
                let kernel = &weight[(o * inputs + i) * 9..][..9];
                for (point, value) in transform_kernel(kernel).into_iter().enumerate() {
                    let row = (point * (outputs / BLOCK) + o / BLOCK) * inputs + i;
                    packed[row * BLOCK + o % BLOCK] = value;
                }
            }
        }
        Self { inputs, outputs, packed }
    }

    pub(crate) fn weights(&self) -> usize {
        self.packed.len()
    }

    pub(crate) fn run(&self, input: &[f32], size: Size, bias: &[f32], slopes: Option<&[f32]>, output: &mut [f32]) {
        let scratch_len = POINTS * (point_pitch(self.inputs) + point_pitch(self.outputs) + self.inputs);
        output.par_chunks_mut(OUT * size.width * self.outputs).enumerate().for_each_init(
            || vec![0.0; scratch_len],
            |scratch, (strip, rows)| {
                Arch::new().dispatch(Strip {
                    conv: self,
                    input,
                    size,
                    bias,
                    slopes,
                    top: strip * OUT,
                    rows,
                    scratch: scratch.as_mut_slice(),
                });
            },
        );
    }
}

/// `G · kernel · Gᵀ`, in double precision because it is done once.
fn transform_kernel(kernel: &[f32]) -> [f32; POINTS] {
    const G: [[f64; 3]; IN] = [
        [1.0 / 4.0, 0.0, 0.0],
        [-1.0 / 6.0, -1.0 / 6.0, -1.0 / 6.0],
        [-1.0 / 6.0, 1.0 / 6.0, -1.0 / 6.0],
        [1.0 / 24.0, 1.0 / 12.0, 1.0 / 6.0],
        [1.0 / 24.0, -1.0 / 12.0, 1.0 / 6.0],
        [0.0, 0.0, 1.0],
    ];
    std::array::from_fn(|point| {
        let (row, column) = (G[point / IN], G[point % IN]);
        let mut sum = 0.0;
        for y in 0..3 {
            for x in 0..3 {
                sum += row[y] * column[x] * f64::from(kernel[y * 3 + x]);
            }
        }
        #[allow(clippy::cast_possible_truncation, reason = "the sums are done in f32")]
        let value = sum as f32;
        value
    })
}

/// Four rows of output, or fewer at the lower edge.
struct Strip<'a> {
    conv: &'a Winograd,
    input: &'a [f32],
    size: Size,
    bias: &'a [f32],
    slopes: Option<&'a [f32]>,
    top: usize,
    rows: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl WithSimd for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Winograd { inputs, outputs, .. } = *self.conv;
        let (transformed, scratch) = self.scratch.split_at_mut(POINTS * point_pitch(inputs));
        let (sums, patch) = scratch.split_at_mut(POINTS * point_pitch(outputs));
        let across = self.size.width.div_ceil(OUT);
        for first in (0..across).step_by(PATCHES) {
            let count = PATCHES.min(across - first);
            for at in 0..count {
                let (source, pitch) = patch_at(self.input, self.size, inputs, self.top, (first + at) * OUT, patch);
                transform_input(simd, source, pitch, inputs, transformed, at);
            }
            for point in 0..POINTS {
                let a = &transformed[point * point_pitch(inputs)..][..count * inputs];
                let b = &self.conv.packed[point * inputs * outputs..][..inputs * outputs];
                let c = &mut sums[point * point_pitch(outputs)..][..count * outputs];
                if 2 * S::F32_LANES <= BLOCK {
                    multiply::<S, 2>(simd, a, b, c, inputs, outputs);
                } else {
                    multiply::<S, 1>(simd, a, b, c, inputs, outputs);
                }
            }
            for at in 0..count {
                let end = Finish { bias: self.bias, slopes: self.slopes, outputs, width: self.size.width };
                end.patch(simd, sums, at, (first + at) * OUT, self.rows);
            }
        }
    }
}

/// The 6×6 patch of input around the output patch at `(top, left)`, and the distance of its rows. Where it lies
/// inside the picture it is the picture; at the edges it is a copy in `patch` with zeros outside.
#[inline(always)]
fn patch_at<'a>(
    input: &'a [f32],
    size: Size,
    channels: usize,
    top: usize,
    left: usize,
    patch: &'a mut [f32],
) -> (&'a [f32], usize) {
    let pitch = size.width * channels;
    if top > 0 && left > 0 && top + IN - 1 <= size.height && left + IN - 1 <= size.width {
        return (&input[(top - 1) * pitch + (left - 1) * channels..], pitch);
    }
    for y in 0..IN {
        for x in 0..IN {
            let to = &mut patch[(y * IN + x) * channels..][..channels];
            let (row, column) = (top + y, left + x); // one more than the pixel's
            if (1..=size.height).contains(&row) && (1..=size.width).contains(&column) {
                to.copy_from_slice(&input[(row - 1) * pitch + (column - 1) * channels..][..channels]);
            } else {
                to.fill(0.0);
            }
        }
    }
    (patch, IN * channels)
}

/// `Bᵀ · d · B` for all channels of one patch; `transformed` is `[point][patch][channel]`.
#[inline(always)]
fn transform_input<S: Simd>(
    simd: S,
    source: &[f32],
    pitch: usize,
    channels: usize,
    transformed: &mut [f32],
    at: usize,
) {
    for channel in (0..channels).step_by(S::F32_LANES) {
        let column = |x: usize| &source[x * channels + channel..];
        let half = [
            input_column(simd, column(0), pitch),
            input_column(simd, column(1), pitch),
            input_column(simd, column(2), pitch),
            input_column(simd, column(3), pitch),
            input_column(simd, column(4), pitch),
            input_column(simd, column(5), pitch),
        ];
        for y in 0..IN {
            let line = [half[0][y], half[1][y], half[2][y], half[3][y], half[4][y], half[5][y]];
            let line = input_line(simd, line);
            for x in 0..IN {
                let to = (y * IN + x) * point_pitch(channels) + at * channels + channel;
                store(simd, &mut transformed[to..to + S::F32_LANES], line[x]);
            }
        }
    }
}

#[inline(always)]
fn input_column<S: Simd>(simd: S, from: &[f32], pitch: usize) -> [S::f32s; IN] {
    let row = |y: usize| &from[y * pitch..][..S::F32_LANES];
    let d = [
        load(simd, row(0)),
        load(simd, row(1)),
        load(simd, row(2)),
        load(simd, row(3)),
        load(simd, row(4)),
        load(simd, row(5)),
    ];
    input_line(simd, d)
}

#[inline(always)]
fn input_line<S: Simd>(simd: S, d: [S::f32s; IN]) -> [S::f32s; IN] {
    let (two, four, five) = (simd.splat_f32s(2.0), simd.splat_f32s(4.0), simd.splat_f32s(5.0));
    let even = simd.negate_mul_add_e_f32s(four, d[2], d[4]);
    let odd = simd.negate_mul_add_e_f32s(four, d[1], d[3]);
    let even2 = simd.sub_f32s(d[4], d[2]);
    let odd2 = simd.mul_f32s(two, simd.sub_f32s(d[3], d[1]));
    [
        simd.mul_add_e_f32s(four, d[0], simd.negate_mul_add_e_f32s(five, d[2], d[4])),
        simd.add_f32s(even, odd),
        simd.sub_f32s(even, odd),
        simd.add_f32s(even2, odd2),
        simd.sub_f32s(even2, odd2),
        simd.mul_add_e_f32s(four, d[1], simd.negate_mul_add_e_f32s(five, d[3], d[5])),
    ]
}

/// `c = a · b` for one point: `a` is `[patch][input]`, `b` packed, `c` `[patch][output]`.
#[inline(always)]
fn multiply<S: Simd, const V: usize>(simd: S, a: &[f32], b: &[f32], c: &mut [f32], inputs: usize, outputs: usize) {
    let count = c.len() / outputs;
    for (block, b) in b.chunks_exact(inputs * BLOCK).enumerate() {
        for first in (0..BLOCK / S::F32_LANES).step_by(V) {
            let channel = block * BLOCK + first * S::F32_LANES;
            let mut at = 0;
            while at + ROWS <= count {
                multiply_rows::<S, ROWS, V>(simd, a, b, c, at, first, channel, inputs, outputs);
                at += ROWS;
            }
            while at + 2 <= count {
                multiply_rows::<S, 2, V>(simd, a, b, c, at, first, channel, inputs, outputs);
                at += 2;
            }
            if at < count {
                multiply_rows::<S, 1, V>(simd, a, b, c, at, first, channel, inputs, outputs);
            }
        }
    }
}

#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the loop's own variables; a struct would only name them twice")]
fn multiply_rows<S: Simd, const R: usize, const V: usize>(
    simd: S,
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    at: usize,
    first: usize,
    channel: usize,
    inputs: usize,
    outputs: usize,
) {
    let mut acc = [[simd.splat_f32s(0.0); V]; R];
    let mut rows = [a; R];
    for (r, row) in rows.iter_mut().enumerate() {
        *row = &a[(at + r) * inputs..][..inputs];
    }
    accumulate::<S, R, V>(simd, &mut acc, rows, b, first);
    for r in 0..R {
        for v in 0..V {
            let to = (at + r) * outputs + channel + v * S::F32_LANES;
            store(simd, &mut c[to..to + S::F32_LANES], acc[r][v]);
        }
    }
}

/// What comes after the products.
struct Finish<'a> {
    bias: &'a [f32],
    slopes: Option<&'a [f32]>,
    outputs: usize,
    width: usize,
}

impl Finish<'_> {
    /// `Aᵀ · sums · A`, bias and activation for patch `at`, written at column `left` of `rows`.
    #[inline(always)]
    fn patch<S: Simd>(&self, simd: S, sums: &[f32], at: usize, left: usize, rows: &mut [f32]) {
        let pitch = self.width * self.outputs;
        let columns = OUT.min(self.width - left);
        for channel in (0..self.outputs).step_by(S::F32_LANES) {
            let from = at * self.outputs + channel;
            let half = [
                self.column(simd, sums, 0, from),
                self.column(simd, sums, 1, from),
                self.column(simd, sums, 2, from),
                self.column(simd, sums, 3, from),
                self.column(simd, sums, 4, from),
                self.column(simd, sums, 5, from),
            ];
            let bias = load(simd, &self.bias[channel..]);
            let slope = match self.slopes {
                Some(slopes) => Some(load(simd, &slopes[channel..])),
                None => None,
            };
            for (y, row) in rows.chunks_exact_mut(pitch).enumerate() {
                let line = [half[0][y], half[1][y], half[2][y], half[3][y], half[4][y], half[5][y]];
                let line = output_line(simd, line);
                for x in 0..columns {
                    let value = simd.add_f32s(line[x], bias);
                    let value = match slope {
                        Some(slope) => bend(simd, value, slope),
                        None => value,
                    };
                    let to = (left + x) * self.outputs + channel;
                    store(simd, &mut row[to..to + S::F32_LANES], value);
                }
            }
        }
    }

    #[inline(always)]
    fn column<S: Simd>(&self, simd: S, sums: &[f32], x: usize, from: usize) -> [S::f32s; OUT] {
        let pitch = point_pitch(self.outputs);
        let row = |y: usize| &sums[(y * IN + x) * pitch + from..][..S::F32_LANES];
        let m = [
            load(simd, row(0)),
            load(simd, row(1)),
            load(simd, row(2)),
            load(simd, row(3)),
            load(simd, row(4)),
            load(simd, row(5)),
        ];
        output_line(simd, m)
    }
}

#[inline(always)]
fn output_line<S: Simd>(simd: S, m: [S::f32s; IN]) -> [S::f32s; OUT] {
    let (two, four, eight) = (simd.splat_f32s(2.0), simd.splat_f32s(4.0), simd.splat_f32s(8.0));
    let (sum1, difference1) = (simd.add_f32s(m[1], m[2]), simd.sub_f32s(m[1], m[2]));
    let (sum2, difference2) = (simd.add_f32s(m[3], m[4]), simd.sub_f32s(m[3], m[4]));
    [
        simd.add_f32s(m[0], simd.add_f32s(sum1, sum2)),
        simd.mul_add_e_f32s(two, difference2, difference1),
        simd.mul_add_e_f32s(four, sum2, sum1),
        simd.add_f32s(m[5], simd.mul_add_e_f32s(eight, difference2, difference1)),
    ]
}
