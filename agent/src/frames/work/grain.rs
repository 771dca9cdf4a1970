//! Film grain: noise from a seed, strongest in the middle greys, as film has it.
//!
//! The noise is a hash of seed, frame number and place, in whole numbers: the same picture on every machine, and
//! another one in each frame. Grain larger than a pixel is that noise on a coarser lattice, interpolated.

use rayon::prelude::*;

use super::Frame;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grain {
    /// Deviation of the noise in middle grey, 0 to 1.
    pub strength: f32,
    /// Size of a grain in pixels, 1 to 16.
    pub size: f32,
    pub seed: u32,
    /// One noise for all three channels, as in black and white film.
    pub is_grey: bool,
}

impl Grain {
    pub(super) fn problem(&self) -> Option<String> {
        if !(0.0..=1.0).contains(&self.strength) {
            return Some(format!("a strength of {} is not 0 to 1", self.strength));
        }
        if !(1.0..=16.0).contains(&self.size) {
            return Some(format!("a size of {} pixels is not 1 to 16", self.size));
        }
        None
    }

    pub(super) fn apply(&self, frame: &mut Frame, number: u32) {
        let width = frame.width;
        frame.data.par_chunks_mut(width).enumerate().for_each(|(y, row)| {
            for (x, pixel) in row.iter_mut().enumerate() {
                let luma = (0.2126 * pixel[0] + 0.7152 * pixel[1] + 0.0722 * pixel[2]).clamp(0.0, 1.0);
                let strength = self.strength * 4.0 * luma * (1.0 - luma);
                for (c, value) in pixel.iter_mut().take(3).enumerate() {
                    let channel = if self.is_grey { 0 } else { c };
                    *value += strength * self.noise(x, y, channel, number);
                }
            }
        });
    }

    /// About normal, deviation one.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "sides are at most 2^14"
    )]
    fn noise(&self, x: usize, y: usize, channel: usize, number: u32) -> f32 {
        let (across, down) = (x as f32 / self.size, y as f32 / self.size);
        let (left, top) = (across.floor(), down.floor());
        let (right, below) = (across - left, down - top);
        let at = |dx: u32, dy: u32| {
            let place = hash(hash(left as u32 + dx).wrapping_add(top as u32 + dy));
            unit(hash(place.wrapping_add(hash(self.seed)).wrapping_add(hash(number * 4 + channel as u32))))
        };
        let weights = [(1.0 - right) * (1.0 - below), right * (1.0 - below), (1.0 - right) * below, right * below];
        let sum = weights[0] * at(0, 0) + weights[1] * at(1, 0) + weights[2] * at(0, 1) + weights[3] * at(1, 1);
        // What interpolation takes from the deviation is given back.
        sum / weights.iter().map(|weight| weight * weight).sum::<f32>().sqrt()
    }
}

/// A permutation of all u32 (PCG's output step).
fn hash(value: u32) -> u32 {
    let state = value.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

/// The four bytes of a hash as a sum: near enough to a normal distribution, deviation one, at most 3.5.
fn unit(hash: u32) -> f32 {
    let sum: u32 = hash.to_le_bytes().iter().map(|byte| u32::from(*byte)).sum();
    #[allow(clippy::cast_precision_loss, reason = "at most 1020")]
    let sum = sum as f32;
    (sum - 510.0) / 147.8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(grain: Grain, number: u32) -> Vec<f32> {
        let mut frame = Frame { width: 64, height: 64, data: vec![[0.5; 4]; 64 * 64] };
        grain.apply(&mut frame, number);
        frame.data.iter().map(|pixel| pixel[1] - 0.5).collect()
    }

    const FINE: Grain = Grain { strength: 0.05, size: 1.0, seed: 7, is_grey: false };

    #[test]
    fn grain_has_the_strength_that_it_says_and_no_mean() {
        for grain in [FINE, Grain { size: 2.5, ..FINE }] {
            let noise = noise(grain, 3);
            let mean = noise.iter().sum::<f32>() / 4096.0;
            let deviation = (noise.iter().map(|n| n * n).sum::<f32>() / 4096.0).sqrt();
            assert!(mean.abs() < 0.005 && (deviation - 0.05).abs() < 0.006, "{grain:?}: {mean} {deviation}");
        }
    }

    #[test]
    fn a_seed_gives_the_same_grain_and_another_frame_another_one() {
        assert_eq!(noise(FINE, 1), noise(FINE, 1));
        assert_ne!(noise(FINE, 1), noise(FINE, 2));
        assert_ne!(noise(FINE, 1), noise(Grain { seed: 8, ..FINE }, 1));
        let black = &mut Frame { width: 1, height: 1, data: vec![[0.0, 0.0, 0.0, 1.0]] };
        FINE.apply(black, 1);
        assert_eq!(black.data[0], [0.0, 0.0, 0.0, 1.0]);
    }
}
