//! Each loop against the plainest way to write it, over random shapes and values.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use backlot_kernels::{
    Conv, Pad, Pictures, Size, add, concat_rows, mul, pixel_shuffle, prelu, resize_bicubic, scale, silu, split_rows,
    upsample_nearest,
};
use proptest::prelude::*;

/// Reproducible values in -1..1 (a linear congruential generator: no test needs better).
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

struct Case {
    weight: Vec<f32>,
    bias: Vec<f32>,
    slopes: Vec<f32>,
    dims: [usize; 4],
    stride: usize,
}

/// One picture; `plus` is added at the end.
fn naive_conv(case: &Case, input: &[f32], plus: &[f32], size: Size) -> Vec<f32> {
    let [outputs, inputs, lines, columns] = case.dims;
    let (height, width) = (size.height.div_ceil(case.stride), size.width.div_ceil(case.stride));
    let mut result = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for o in 0..outputs {
                let mut sum = f64::from(case.bias[o]);
                for dy in 0..lines {
                    for dx in 0..columns {
                        let (Some(row), Some(column)) = (
                            (y * case.stride + dy).checked_sub(lines / 2).filter(|y| *y < size.height),
                            (x * case.stride + dx).checked_sub(columns / 2).filter(|x| *x < size.width),
                        ) else {
                            continue;
                        };
                        for i in 0..inputs {
                            sum += f64::from(input[(row * size.width + column) * inputs + i])
                                * f64::from(case.weight[((o * inputs + i) * lines + dy) * columns + dx]);
                        }
                    }
                }
                let sum = if sum < 0.0 { sum * f64::from(case.slopes[o]) } else { sum };
                result.push(sum as f32 + plus[result.len()]);
            }
        }
    }
    result
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// What f32 may lose in a sum of `terms` products of values up to 1, Winograd's transforms included.
fn rounding(terms: usize) -> f32 {
    3e-5 * (terms as f32).sqrt()
}

fn check_conv(dims: [usize; 4], stride: usize, size: Size, pictures: usize, seed: u64) -> f32 {
    let [outputs, inputs, lines, columns] = dims;
    let case = Case {
        weight: values(outputs * inputs * lines * columns, seed),
        bias: values(outputs, seed + 1),
        slopes: values(outputs, seed + 2),
        dims,
        stride,
    };
    let input = values(pictures * size.pixels() * inputs, seed + 3);
    let weight = Box::new(case.weight.clone());
    let conv = Conv::new(weight, Some(&case.bias), Some(&case.slopes), dims, stride, Pad::Same);
    let one = conv.output_size(size).pixels() * outputs;
    let plus = values(pictures * one, seed + 4);
    let added = (seed % 2 == 1).then_some(plus.as_slice());
    let mut output = vec![f32::NAN; plus.len()];
    conv.run(Pictures { input: &input, size, plus: added }, &mut output, &mut Vec::new());
    let nothing = vec![0.0; one];
    let each = input.chunks_exact(size.pixels() * inputs).zip(output.chunks_exact(one)).zip(plus.chunks_exact(one));
    each.map(|((input, output), plus)| {
        let plus = if added.is_some() { plus } else { &nothing };
        worst(output, &naive_conv(&case, input, plus, size))
    })
    .fold(0.0, f32::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_convolution_is_its_definition(
        outputs in prop_oneof![1usize..40, Just(16), Just(32), Just(64)],
        inputs in prop_oneof![1usize..20, Just(16), Just(32), Just(64)],
        (kernel, stride) in prop_oneof![Just(([1, 1], 1)), Just(([1, 1], 2)), Just(([3, 3], 1)), Just(([3, 3], 2)), Just(([3, 1], 1))],
        height in 1usize..20,
        width in 1usize..40,
        pictures in 1usize..4,
        seed in 0u64..1000,
    ) {
        let [lines, columns] = kernel;
        let off = check_conv([outputs, inputs, lines, columns], stride, Size { height, width }, pictures, seed);
        prop_assert!(off < rounding(inputs * lines * columns), "off by {off}");
    }

    #[test]
    fn moves_of_pixels_are_their_definitions(
        channels in 1usize..5, factor in 1usize..5, height in 1usize..9, width in 1usize..9, seed in 0u64..1000,
    ) {
        let size = Size { height, width };
        let (tall, wide) = (height * factor, width * factor);
        let deep = values(size.pixels() * channels * factor * factor, seed);
        let mut shuffled = vec![f32::NAN; deep.len()];
        pixel_shuffle(&deep, size, channels, factor, &mut shuffled);
        let flat = &deep[..size.pixels() * channels];
        let mut nearest = vec![f32::NAN; deep.len()];
        upsample_nearest(flat, size, channels, factor, &mut nearest);
        for y in 0..tall {
            for x in 0..wide {
                for c in 0..channels {
                    let (at, pixel) = ((y * wide + x) * channels + c, y / factor * width + x / factor);
                    let from = (c * factor + y % factor) * factor + x % factor;
                    prop_assert_eq!(shuffled[at], deep[pixel * channels * factor * factor + from]);
                    prop_assert_eq!(nearest[at], flat[pixel * channels + c]);
                }
            }
        }
    }

    #[test]
    fn rows_that_are_split_and_joined_are_themselves(rows in 1usize..200, a in 1usize..9, b in 1usize..9, seed in 0u64..9) {
        let from = values(rows * (a + b), seed);
        let (mut left, mut right, mut joined) = (vec![0.0; rows * a], vec![0.0; rows * b], vec![0.0; from.len()]);
        split_rows(&from, a + b, 0, a, &mut left);
        split_rows(&from, a + b, a, b, &mut right);
        prop_assert_eq!(left[0], from[0]);
        prop_assert_eq!(right[0], from[a]);
        concat_rows(&[(&left, a), (&right, b)], &mut joined);
        prop_assert_eq!(joined, from);
    }

    #[test]
    fn elementwise_loops_are_their_definitions(pixels in 1usize..9000, channels in 1usize..9, seed in 0u64..1000) {
        let (a, b, slopes) = (values(pixels * channels, seed), values(pixels * channels, seed + 1), values(channels, seed + 2));
        let mut to = vec![f32::NAN; a.len()];
        let check = |to: &[f32], f: &dyn Fn(usize) -> f32| (0..to.len()).all(|i| (to[i] - f(i)).abs() < 1e-6);
        add(&a, &b, &mut to);
        prop_assert!(check(&to, &|i| a[i] + b[i]));
        mul(&a, &b, &mut to);
        prop_assert!(check(&to, &|i| a[i] * b[i]));
        scale(&a, 0.2, &mut to);
        prop_assert!(check(&to, &|i| a[i] * 0.2));
        silu(&a, &mut to);
        prop_assert!(check(&to, &|i| a[i] / (1.0 + (-a[i]).exp())));
        prelu(&a, &slopes, &mut to);
        let bent = check(&to, &|i| if a[i] < 0.0 { a[i] * slopes[i % channels] } else { a[i] });
        prop_assert!(bent);
    }
}

#[test]
fn a_wide_picture_with_many_channels_stays_exact() {
    // More patches than are worked on together, and edges on every side.
    let off = check_conv([64, 64, 3, 3], 1, Size { height: 10, width: 131 }, 1, 5);
    assert!(off < rounding(64 * 9), "off by {off}");
    // The same of one column: lines longer than a strip.
    let off = check_conv([64, 64, 3, 1], 1, Size { height: 4, width: 500 }, 2, 5);
    assert!(off < rounding(64 * 3), "off by {off}");
}

/// The weights of these are packed while they run, in two parts and more, and those of one with a lone last block.
#[test]
fn weights_that_are_too_large_to_be_kept_are_packed_for_each_run() {
    for (dims, stride, pictures) in [
        ([656, 640, 3, 3], 1, 2),
        ([144, 1280, 3, 3], 1, 1),
        ([768, 720, 1, 1], 1, 2),
        ([240, 256, 3, 3], 2, 1),
        ([8, 9000, 3, 3], 1, 1),
        ([640, 400, 3, 1], 1, 2),
    ] {
        let [outputs, inputs, lines, columns] = dims;
        let weight = Box::new(vec![0.0; outputs * inputs * lines * columns]);
        let held = Conv::new(weight, None, None, dims, stride, Pad::Same).weight_bytes();
        assert!(held < 4096, "{dims:?} keeps {held} bytes");
        let off = check_conv(dims, stride, Size { height: 6, width: 9 }, pictures, 7);
        assert!(off < rounding(inputs * lines * columns), "{dims:?} is off by {off}");
    }
}

#[test]
fn halves_and_brain_floats_become_the_floats_they_are() {
    use backlot_kernels::{widen_bf16, widen_f16};
    let all: Vec<[u8; 2]> = (0..=u16::MAX).map(u16::to_le_bytes).collect();
    let mut made = vec![0.0; all.len()];
    widen_f16(&all, &mut made);
    for (bits, made) in (0..=u16::MAX).zip(&made) {
        let wanted = half::f16::from_bits(bits).to_f32();
        assert!(wanted.to_bits() == made.to_bits() || wanted.is_nan() && made.is_nan(), "{bits:#06x}: {made}");
    }
    widen_bf16(&all, &mut made);
    for (bits, made) in (0..=u16::MAX).zip(&made) {
        assert_eq!(u32::from(bits) << 16, made.to_bits());
    }
}

/// Figures from `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`'s definition, worked out by
/// hand for one row: halving takes the four pixels around the middle with weights (-3, 19, 19, -3) / 32.
#[test]
fn halving_by_bicubic_weighs_four_pixels_and_repeats_the_edge() {
    let input = [0.0, 1.0, 0.0, 0.0, 0.0, 0.0];
    let mut to = [f32::NAN; 3];
    resize_bicubic(&input, Size { height: 1, width: 6 }, 1, Size { height: 1, width: 3 }, &mut to);
    assert!(worst(&to, &[19.0 / 32.0, -3.0 / 32.0, 0.0]) < 1e-6, "{to:?}");
}

#[test]
fn a_bicubic_resize_keeps_a_flat_picture_flat() {
    let input = vec![0.75; 7 * 5 * 3];
    let target = Size { height: 21, width: 4 };
    let mut to = vec![f32::NAN; target.pixels() * 3];
    resize_bicubic(&input, Size { height: 7, width: 5 }, 3, target, &mut to);
    assert!(to.iter().all(|v| (v - 0.75).abs() < 1e-6));
}
