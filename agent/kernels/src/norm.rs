//! Group norm and layer norm: means and variances in two passes, so that a large mean costs no digits.

use pulp::Arch;
use rayon::prelude::*;

use crate::math::sigmoid;

/// Pixels that a thread sums up at a time. Sums of so few are exact enough in f32; the parts are added in f64.
const PIXELS: usize = 256;

/// The channels' weight and bias, and what keeps a variance of zero from dividing.
#[derive(Clone, Copy)]
pub struct Affine<'a> {
    pub weight: &'a [f32],
    pub bias: &'a [f32],
    pub epsilon: f32,
}

/// Normalises one picture of any number of pixels in groups of channels; with `silu` that comes after it.
///
/// # Panics
/// When the lengths do not agree or the channels do not divide into `groups`.
pub fn group_norm(from: &[f32], groups: usize, affine: Affine<'_>, silu: bool, to: &mut [f32]) {
    let channels = affine.weight.len();
    assert!(affine.bias.len() == channels && from.len() == to.len() && from.len().is_multiple_of(channels));
    assert!(channels.is_multiple_of(groups), "{channels} channels in {groups} groups");
    let in_group = channels / groups;
    let count = (from.len() / groups) as f64;
    let over_group = |sums: &[f64]| -> Vec<f64> {
        sums.chunks_exact(in_group).map(|group| group.iter().sum::<f64>() / count).collect()
    };
    let means = over_group(&sums(from, &vec![0.0; channels], false));
    let mean_of: Vec<f32> = (0..channels).map(|c| means[c / in_group] as f32).collect();
    let variances = over_group(&sums(from, &mean_of, true));
    let scale: Vec<f32> = (0..channels)
        .map(|c| (f64::from(affine.weight[c]) / (variances[c / in_group] + f64::from(affine.epsilon)).sqrt()) as f32)
        .collect();
    let chunk = PIXELS * channels;
    to.par_chunks_mut(chunk).zip(from.par_chunks(chunk)).for_each(|(to, from)| {
        Arch::new().dispatch(|| {
            for (to, from) in to.chunks_exact_mut(channels).zip(from.chunks_exact(channels)) {
                let row = to.iter_mut().zip(from).zip(&mean_of).zip(&scale).zip(affine.bias);
                for ((((to, from), mean), scale), bias) in row {
                    *to = (from - mean) * scale + bias;
                }
                if silu {
                    to.iter_mut().for_each(|value| *value *= sigmoid(*value));
                }
            }
        });
    });
}

/// Of each channel over all pixels: the sum of `x − mean`, or of its square.
fn sums(from: &[f32], mean: &[f32], squared: bool) -> Vec<f64> {
    let channels = mean.len();
    let parts = from.par_chunks(PIXELS * channels).map(|from| {
        let mut part = vec![0.0_f32; channels];
        Arch::new().dispatch(|| {
            for from in from.chunks_exact(channels) {
                for ((part, from), mean) in part.iter_mut().zip(from).zip(mean) {
                    let off = from - mean;
                    *part += if squared { off * off } else { off };
                }
            }
        });
        part
    });
    // Collected first: parts are added in their order, so that a run gives the same bits each time.
    let parts: Vec<Vec<f32>> = parts.collect();
    let mut all = vec![0.0; channels];
    for part in parts {
        for (all, part) in all.iter_mut().zip(part) {
            *all += f64::from(part);
        }
    }
    all
}

/// Normalises each row of as many values as `affine` has.
///
/// # Panics
/// When the lengths do not agree.
pub fn layer_norm(from: &[f32], affine: Affine<'_>, to: &mut [f32]) {
    let width = affine.weight.len();
    assert!(affine.bias.len() == width && from.len() == to.len() && from.len().is_multiple_of(width));
    let chunk = width * (PIXELS / 4);
    to.par_chunks_mut(chunk).zip(from.par_chunks(chunk)).for_each(|(to, from)| {
        Arch::new().dispatch(|| {
            for (to, from) in to.chunks_exact_mut(width).zip(from.chunks_exact(width)) {
                let mean = (sum(from, |x| x) / width as f64) as f32;
                let variance = sum(from, |x| (x - mean) * (x - mean)) / width as f64;
                let scale = (1.0 / (variance + f64::from(affine.epsilon)).sqrt()) as f32;
                for (((to, from), weight), bias) in to.iter_mut().zip(from).zip(affine.weight).zip(affine.bias) {
                    *to = (from - mean) * scale * weight + bias;
                }
            }
        });
    });
}

/// Sum of `f` over a row, in 16 lanes that become vectors.
#[inline(always)]
fn sum(row: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0.0_f32; 16];
    let (whole, rest) = row.as_chunks::<16>();
    for part in whole {
        for (lane, x) in lanes.iter_mut().zip(part) {
            *lane += f(*x);
        }
    }
    lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>() + rest.iter().map(|x| f64::from(f(*x))).sum::<f64>()
}
