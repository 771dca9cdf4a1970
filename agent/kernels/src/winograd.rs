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

use std::ops::Range;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::Size;
use crate::conv::{Ending, Pictures};
use crate::lanes::{BLOCK, accumulate, bend, load, store};
use crate::source::{Source, Weights};

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

/// Floats of transformed weights that are made at once where they are not kept: what a third-level cache holds. The more
/// parts, the more often the input is transformed.
const PART: usize = 6 << 20;
/// Inputs whose kernels are transformed together: the sixteen outputs' kernels of these fit in the first-level cache.
const INPUTS: usize = 32;

pub(crate) struct Winograd {
    inputs: usize,
    outputs: usize,
    /// `[block of outputs][point][input][output in block]` when packed.
    weights: Weights,
}

impl Winograd {
    /// The lanes of the transforms are channels, so that these fill whole vectors.
    pub(crate) fn suits(inputs: usize, outputs: usize) -> bool {
        inputs > 0 && outputs > 0 && inputs.is_multiple_of(BLOCK) && outputs.is_multiple_of(BLOCK)
    }

    pub(crate) fn new(weight: Box<dyn Source>, inputs: usize, outputs: usize) -> Self {
        let pack = |source: &dyn Source, to: &mut [f32]| pack_blocks(source, inputs, 0, to);
        Self { inputs, outputs, weights: Weights::new(weight, POINTS * inputs * outputs, pack) }
    }

    /// Floats that are held.
    pub(crate) fn held(&self) -> usize {
        self.weights.held()
    }

    pub(crate) fn run(&self, from: Pictures<'_>, ending: Ending<'_>, output: &mut [f32], scratch: &mut Vec<f32>) {
        let source = match &self.weights {
            Weights::Packed(packed) => return self.blocks(from, ending, packed, 0, output),
            Weights::Source(source) => source.as_ref(),
        };
        let (block_len, blocks) = (POINTS * self.inputs * BLOCK, self.outputs / BLOCK);
        let at_once = (PART / block_len).clamp(1, blocks);
        scratch.resize(scratch.len().max(at_once * block_len), 0.0);
        for first in (0..blocks).step_by(at_once) {
            let packed = &mut scratch[..at_once.min(blocks - first) * block_len];
            pack_blocks(source, self.inputs, first, packed);
            self.blocks(from, ending, packed, first, output);
        }
    }

    /// Computes the output channels of the blocks from `first` on, whose weights these are.
    fn blocks(&self, from: Pictures<'_>, ending: Ending<'_>, packed: &[f32], first: usize, output: &mut [f32]) {
        let (size, row_len) = (from.size, from.size.width * self.outputs);
        let across = size.width.div_ceil(OUT);
        let blocks = packed.len() / (POINTS * self.inputs * BLOCK);
        let scratch_len = POINTS * (point_pitch(self.inputs) + point_pitch(blocks * BLOCK) + self.inputs);
        // Small pictures are worked on in several strips at once, so that a weight that was fetched serves more patches.
        let strips = from.input.len() / (size.pixels() * self.inputs) * size.height.div_ceil(OUT);
        let together = PATCHES.div_ceil(across).min(strips.div_ceil(rayon::current_num_threads())).max(1);
        let tasks: Vec<(usize, usize, &mut [f32])> = output
            .chunks_mut(size.height * row_len)
            .enumerate()
            .flat_map(|(picture, rows)| {
                let parts = rows.chunks_mut(together * OUT * row_len).enumerate();
                parts.map(move |(part, rows)| (picture, part * together * OUT, rows))
            })
            .collect();
        tasks.into_par_iter().for_each_init(
            || vec![0.0; scratch_len],
            |scratch, (picture, top, rows)| {
                let plus = from.plus.map(|plus| &plus[(picture * size.height + top) * row_len..][..rows.len()]);
                Arch::new().dispatch(Strips {
                    inputs: self.inputs,
                    outputs: self.outputs,
                    packed,
                    channels: first * BLOCK..(first + blocks) * BLOCK,
                    input: &from.input[picture * size.pixels() * self.inputs..][..size.pixels() * self.inputs],
                    size,
                    ending,
                    plus,
                    top,
                    rows,
                    scratch: scratch.as_mut_slice(),
                });
            },
        );
    }
}

/// `G · kernel · Gᵀ` for the blocks of outputs from `first` on, as many as `packed` takes.
fn pack_blocks(source: &dyn Source, inputs: usize, first: usize, packed: &mut [f32]) {
    packed.par_chunks_mut(POINTS * inputs * BLOCK).enumerate().for_each_init(
        || vec![0.0; BLOCK * INPUTS * 9],
        |kernels, (block, packed)| {
            for from in (0..inputs).step_by(INPUTS) {
                let count = INPUTS.min(inputs - from);
                for lane in 0..BLOCK {
                    let output = (first + block) * BLOCK + lane;
                    let to = &mut kernels[lane * INPUTS * 9..][..count * 9];
                    source.read((output * inputs + from) * 9, to);
                }
                Arch::new().dispatch(Kernels { kernels, inputs, from, count, packed });
            }
        },
    );
}

/// Kernels of one block of outputs and some inputs, to be transformed with one lane for each output.
struct Kernels<'a> {
    /// `[output in block][INPUTS][9]`
    kernels: &'a [f32],
    inputs: usize,
    from: usize,
    count: usize,
    packed: &'a mut [f32],
}

impl WithSimd for Kernels<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for at in 0..self.count {
            let mut taps = [[0.0_f32; BLOCK]; 9];
            for lane in 0..BLOCK {
                let kernel = &self.kernels[(lane * INPUTS + at) * 9..][..9];
                for tap in 0..9 {
                    taps[tap][lane] = kernel[tap];
                }
            }
            for first in (0..BLOCK).step_by(S::F32_LANES) {
                let tap = |tap: usize| load(simd, &taps[tap][first..]);
                let columns = [
                    kernel_line(simd, [tap(0), tap(3), tap(6)]),
                    kernel_line(simd, [tap(1), tap(4), tap(7)]),
                    kernel_line(simd, [tap(2), tap(5), tap(8)]),
                ];
                for y in 0..IN {
                    let line = kernel_line(simd, [columns[0][y], columns[1][y], columns[2][y]]);
                    for x in 0..IN {
                        let to = ((y * IN + x) * self.inputs + self.from + at) * BLOCK + first;
                        store(simd, &mut self.packed[to..to + S::F32_LANES], line[x]);
                    }
                }
            }
        }
    }
}

/// `G` on three values: a quarter of the first; minus a sixth of all with either sign of the middle; a 24th, a twelfth
/// and a sixth with either sign; the last.
#[inline(always)]
fn kernel_line<S: Simd>(simd: S, g: [S::f32s; 3]) -> [S::f32s; IN] {
    let by = |value: S::f32s, factor: f32| simd.mul_f32s(value, simd.splat_f32s(factor));
    let ends = by(simd.add_f32s(g[0], g[2]), -1.0 / 6.0);
    let middle = by(g[1], 1.0 / 6.0);
    let far = simd.mul_add_e_f32s(g[0], simd.splat_f32s(1.0 / 24.0), by(g[2], 1.0 / 6.0));
    let half = by(g[1], 1.0 / 12.0);
    [
        by(g[0], 0.25),
        simd.sub_f32s(ends, middle),
        simd.add_f32s(ends, middle),
        simd.add_f32s(far, half),
        simd.sub_f32s(far, half),
        g[2],
    ]
}

/// Some strips of four rows of output each, or fewer at the lower edge, and a range of their channels.
struct Strips<'a> {
    inputs: usize,
    outputs: usize,
    packed: &'a [f32],
    channels: Range<usize>,
    input: &'a [f32],
    size: Size,
    ending: Ending<'a>,
    plus: Option<&'a [f32]>,
    top: usize,
    rows: &'a mut [f32],
    scratch: &'a mut [f32],
}

impl WithSimd for Strips<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (inputs, made) = (self.inputs, self.channels.len());
        let (transformed, scratch) = self.scratch.split_at_mut(POINTS * point_pitch(inputs));
        let (sums, patch) = scratch.split_at_mut(POINTS * point_pitch(made));
        let across = self.size.width.div_ceil(OUT);
        let strips = (self.rows.len() / (self.size.width * self.outputs)).div_ceil(OUT);
        let place = |patch: usize| (patch / across * OUT, patch % across * OUT);
        for first in (0..strips * across).step_by(PATCHES) {
            let count = PATCHES.min(strips * across - first);
            for at in 0..count {
                let (down, left) = place(first + at);
                let (source, pitch) = patch_at(self.input, self.size, inputs, self.top + down, left, patch);
                transform_input(simd, source, pitch, inputs, transformed, at);
            }
            for (block, packed) in self.packed.chunks_exact(POINTS * inputs * BLOCK).enumerate() {
                for point in 0..POINTS {
                    let a = &transformed[point * point_pitch(inputs)..][..count * inputs];
                    let b = &packed[point * inputs * BLOCK..][..inputs * BLOCK];
                    let c = &mut sums[point * point_pitch(made)..][..count * made];
                    if 2 * S::F32_LANES <= BLOCK {
                        multiply::<S, 2>(simd, a, b, c, inputs, made, block);
                    } else {
                        multiply::<S, 1>(simd, a, b, c, inputs, made, block);
                    }
                }
            }
            for at in 0..count {
                let (down, left) = place(first + at);
                let end = Finish {
                    ending: self.ending,
                    plus: self.plus,
                    outputs: self.outputs,
                    width: self.size.width,
                    channels: self.channels.clone(),
                };
                end.patch(simd, sums, at, down, left, self.rows);
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

/// `c = a · b` for one point and block: `a` is `[patch][input]`, `b` packed, `c` `[patch][output]`.
#[inline(always)]
fn multiply<S: Simd, const V: usize>(
    simd: S,
    a: &[f32],
    b: &[f32],
    c: &mut [f32],
    inputs: usize,
    outputs: usize,
    block: usize,
) {
    let count = c.len() / outputs;
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
    ending: Ending<'a>,
    plus: Option<&'a [f32]>,
    outputs: usize,
    width: usize,
    /// Those whose sums these are.
    channels: Range<usize>,
}

impl Finish<'_> {
    /// `Aᵀ · sums · A`, bias, activation and what is added for patch `at`, written at row `down` and column `left` of
    /// `rows`.
    #[inline(always)]
    fn patch<S: Simd>(&self, simd: S, sums: &[f32], at: usize, down: usize, left: usize, rows: &mut [f32]) {
        let pitch = self.width * self.outputs;
        let (columns, made) = (OUT.min(self.width - left), self.channels.len());
        let lines = OUT.min(rows.len() / pitch - down);
        for channel in self.channels.clone().step_by(S::F32_LANES) {
            let from = at * made + channel - self.channels.start;
            let half = [
                self.column(simd, sums, 0, from),
                self.column(simd, sums, 1, from),
                self.column(simd, sums, 2, from),
                self.column(simd, sums, 3, from),
                self.column(simd, sums, 4, from),
                self.column(simd, sums, 5, from),
            ];
            let bias = load(simd, &self.ending.bias[channel..]);
            let slope = match self.ending.slopes {
                Some(slopes) => Some(load(simd, &slopes[channel..])),
                None => None,
            };
            for y in 0..lines {
                let line = [half[0][y], half[1][y], half[2][y], half[3][y], half[4][y], half[5][y]];
                let line = output_line(simd, line);
                for x in 0..columns {
                    let to = (down + y) * pitch + (left + x) * self.outputs + channel;
                    let value = simd.add_f32s(line[x], bias);
                    let value = match slope {
                        Some(slope) => bend(simd, value, slope),
                        None => value,
                    };
                    let value = match self.plus {
                        Some(plus) => simd.add_f32s(value, load(simd, &plus[to..to + S::F32_LANES])),
                        None => value,
                    };
                    store(simd, &mut rows[to..to + S::F32_LANES], value);
                }
            }
        }
    }

    #[inline(always)]
    fn column<S: Simd>(&self, simd: S, sums: &[f32], x: usize, from: usize) -> [S::f32s; OUT] {
        let pitch = point_pitch(self.channels.len());
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
