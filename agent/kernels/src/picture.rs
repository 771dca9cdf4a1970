//! Moves pixels: nearest and bicubic resize, pixel shuffle, joining and splitting of rows.

use rayon::prelude::*;

/// Sides of a picture in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub height: usize,
    pub width: usize,
}

impl Size {
    #[must_use]
    pub fn pixels(self) -> usize {
        self.height * self.width
    }
}

/// Each pixel becomes `factor × factor` pixels.
pub fn upsample_nearest(input: &[f32], size: Size, channels: usize, factor: usize, to: &mut [f32]) {
    assert_eq!(input.len(), size.pixels() * channels, "input of an upsampling");
    let row_len = size.width * factor * channels;
    to.par_chunks_mut(row_len).enumerate().for_each(|(y, row)| {
        let from = &input[y / factor * size.width * channels..][..size.width * channels];
        for (pixel, to) in from.chunks_exact(channels).zip(row.chunks_exact_mut(factor * channels)) {
            for to in to.chunks_exact_mut(channels) {
                to.copy_from_slice(pixel);
            }
        }
    });
}

/// `channels · factor²` channels become `factor × factor` pixels of `channels`: input channel
/// `(c · factor + dy) · factor + dx` is channel `c` of the pixel at `(dy, dx)`.
pub fn pixel_shuffle(input: &[f32], size: Size, channels: usize, factor: usize, to: &mut [f32]) {
    let deep = channels * factor * factor;
    assert_eq!(input.len(), size.pixels() * deep, "input of a pixel shuffle");
    to.par_chunks_mut(size.width * factor * channels).enumerate().for_each(|(y, row)| {
        let (from, dy) = (&input[y / factor * size.width * deep..][..size.width * deep], y % factor);
        for (pixel, to) in from.chunks_exact(deep).zip(row.chunks_exact_mut(factor * channels)) {
            for (dx, to) in to.chunks_exact_mut(channels).enumerate() {
                for (c, to) in to.iter_mut().enumerate() {
                    *to = pixel[(c * factor + dy) * factor + dx];
                }
            }
        }
    });
}

/// Cubic interpolation of four by four pixels (a = -0.75, edges repeated, no averaging when it shrinks), pixel
/// centres at one half: what ncnn and PyTorch call bicubic.
pub fn resize_bicubic(input: &[f32], size: Size, channels: usize, target: Size, to: &mut [f32]) {
    assert_eq!(input.len(), size.pixels() * channels, "input of a resize");
    assert_eq!(to.len(), target.pixels() * channels, "output of a resize");
    let columns = taps(size.width, target.width);
    let rows = taps(size.height, target.height);
    to.par_chunks_mut(target.width * channels).zip(&rows).for_each(|(to, row)| {
        let lines = row.at.map(|y| &input[y * size.width * channels..][..size.width * channels]);
        for (to, column) in to.chunks_exact_mut(channels).zip(&columns) {
            for (c, to) in to.iter_mut().enumerate() {
                let mut sum = 0.0;
                for (line, weight) in lines.iter().zip(row.weights) {
                    let mut across = 0.0;
                    for (x, weight) in column.at.into_iter().zip(column.weights) {
                        across += weight * line[x * channels + c];
                    }
                    sum += weight * across;
                }
                *to = sum;
            }
        }
    });
}

struct Taps {
    at: [usize; 4],
    weights: [f32; 4],
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "sides of pictures are far below 2^24"
)]
fn taps(from: usize, to: usize) -> Vec<Taps> {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    (0..to)
        .map(|i| {
            let centre = (i as f64 + 0.5) * from as f64 / to as f64 - 0.5;
            let (whole, part) = (centre.floor(), centre - centre.floor());
            let weights = [far(1.0 + part), near(part), near(1.0 - part), far(2.0 - part)];
            Taps {
                at: std::array::from_fn(|k| (whole as i64 - 1 + k as i64).clamp(0, from as i64 - 1) as usize),
                weights: weights.map(|w| w as f32),
            }
        })
        .collect()
}

/// Joins rows side by side: row `i` of `to` is row `i` of each part in turn. A part is its rows and their length.
pub fn concat_rows(parts: &[(&[f32], usize)], to: &mut [f32]) {
    let row_len: usize = parts.iter().map(|(_, len)| len).sum();
    to.par_chunks_mut(row_len).with_min_len(64).enumerate().for_each(|(i, to)| {
        let mut start = 0;
        for (part, len) in parts {
            to[start..start + len].copy_from_slice(&part[i * len..][..*len]);
            start += len;
        }
    });
}

/// Cuts `to`'s part out of each row: `row_len` long in `from`, the part begins at `start` and is `len` long.
pub fn split_rows(from: &[f32], row_len: usize, start: usize, len: usize, to: &mut [f32]) {
    to.par_chunks_mut(len).zip(from.par_chunks(row_len)).with_min_len(64).for_each(|(to, from)| {
        to.copy_from_slice(&from[start..start + len]);
    });
}
