//! Lanczos with three lobes, across and then down. Where a picture shrinks the filter is as much wider, so that
//! nothing is skipped. Colours are weighed by their alpha, so that what is transparent does not bleed.

use rayon::prelude::*;

use super::Frame;

const LOBES: f64 = 3.0;

/// For each place of the result: the first of the source, and the weights from there.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Taps {
    pub(super) first: Vec<u32>,
    /// As many for each place.
    pub(super) count: usize,
    pub(super) weights: Vec<f32>,
}

impl Taps {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "sides are at most 2^14"
    )]
    pub(super) fn new(from: usize, to: usize) -> Self {
        let ratio = from as f64 / to as f64;
        let stretch = ratio.max(1.0);
        let reach = LOBES * stretch;
        let count = ((2.0 * reach).ceil() as usize + 1).min(from);
        let mut taps = Self { first: Vec::with_capacity(to), count, weights: Vec::with_capacity(to * count) };
        for place in 0..to {
            let centre = (place as f64 + 0.5) * ratio - 0.5;
            let first = ((centre - reach).ceil().max(0.0) as usize).min(from - count);
            let weights: Vec<f64> = (first..first + count).map(|at| lanczos((at as f64 - centre) / stretch)).collect();
            let sum: f64 = weights.iter().sum();
            taps.first.push(first as u32);
            taps.weights.extend(weights.iter().map(|weight| (weight / sum) as f32));
        }
        taps
    }

    fn at(&self, place: usize) -> (usize, &[f32]) {
        (self.first[place] as usize, &self.weights[place * self.count..][..self.count])
    }
}

fn lanczos(x: f64) -> f64 {
    if x.abs() < 1e-9 {
        return 1.0;
    }
    if x.abs() >= LOBES {
        return 0.0;
    }
    let turn = std::f64::consts::PI * x;
    LOBES * turn.sin() * (turn / LOBES).sin() / (turn * turn)
}

pub(super) struct Lanczos {
    columns: Taps,
    rows: Taps,
}

impl Lanczos {
    pub(super) fn new(from: &Frame, width: usize, height: usize) -> Self {
        Self { columns: Taps::new(from.width, width), rows: Taps::new(from.height, height) }
    }

    pub(super) fn apply(&self, from: &Frame) -> Frame {
        let (width, height) = (self.columns.first.len(), self.rows.first.len());
        let mut across = vec![[0.0_f32; 4]; width * from.height];
        across.par_chunks_mut(width).zip(from.data.par_chunks(from.width)).for_each(|(to, from)| {
            for (place, to) in to.iter_mut().enumerate() {
                let (first, weights) = self.columns.at(place);
                for (pixel, weight) in from[first..].iter().zip(weights) {
                    let by = weight * pixel[3];
                    *to = [to[0] + by * pixel[0], to[1] + by * pixel[1], to[2] + by * pixel[2], to[3] + by];
                }
            }
        });
        let mut data = vec![[0.0_f32; 4]; width * height];
        data.par_chunks_mut(width).enumerate().for_each(|(place, to)| {
            let (first, weights) = self.rows.at(place);
            for (row, weight) in across.chunks_exact(width).skip(first).zip(weights) {
                for (to, from) in to.iter_mut().zip(row) {
                    *to = std::array::from_fn(|c| to[c] + weight * from[c]);
                }
            }
            for pixel in to {
                let alpha = pixel[3];
                let by = if alpha > 1e-6 { 1.0 / alpha } else { 0.0 };
                *pixel = [pixel[0] * by, pixel[1] * by, pixel[2] * by, alpha.clamp(0.0, 1.0)];
            }
        });
        Frame { width, height, data }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plain_picture_stays_plain_in_every_size(
            width in 1usize..40, height in 1usize..40, to_width in 1usize..60, to_height in 1usize..60,
        ) {
            let frame = Frame { width, height, data: vec![[0.25, 0.5, 0.75, 0.5]; width * height] };
            let made = Lanczos::new(&frame, to_width, to_height).apply(&frame);
            prop_assert_eq!((made.width, made.height, made.data.len()), (to_width, to_height, to_width * to_height));
            for pixel in made.data {
                let off = pixel.iter().zip([0.25, 0.5, 0.75, 0.5]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                prop_assert!(off < 1e-4, "{pixel:?}");
            }
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture_and_transparent_colours_do_not_bleed() {
        let data: Vec<[f32; 4]> = (0..12).map(|i| [i as f32 / 12.0, 0.5, 1.0 - i as f32 / 12.0, 1.0]).collect();
        let frame = Frame { width: 4, height: 3, data };
        let made = Lanczos::new(&frame, 4, 3).apply(&frame);
        for (a, b) in made.data.iter().flatten().zip(frame.data.iter().flatten()) {
            assert!((a - b).abs() < 1e-5);
        }
        let half = Frame { width: 2, height: 1, data: vec![[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 1.0]] };
        let one = Lanczos::new(&half, 1, 1).apply(&half).data[0];
        assert!((one[0] - 1.0).abs() < 1e-5 && one[1].abs() < 1e-5 && (one[3] - 0.5).abs() < 1e-5, "{one:?}");
    }

    #[test]
    fn a_fine_pattern_becomes_its_mean_when_it_shrinks() {
        let data = (0..64 * 64).map(|i| if (i % 64 + i / 64) % 2 == 0 { [1.0; 4] } else { [0.0, 0.0, 0.0, 1.0] });
        let frame = Frame { width: 64, height: 64, data: data.collect() };
        for pixel in Lanczos::new(&frame, 8, 8).apply(&frame).data {
            assert!((pixel[0] - 0.5).abs() < 0.02, "{pixel:?}");
        }
    }
}
