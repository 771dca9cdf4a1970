//! Element by element.

use pulp::Arch;
use rayon::prelude::*;

use crate::math;

/// Elements a thread takes at a time: enough that handing them out costs nothing.
const CHUNK: usize = 16 * 1024;

/// `to = a + b`
pub fn add(a: &[f32], b: &[f32], to: &mut [f32]) {
    zip(a, b, to, |a, b| a + b);
}

/// `to = a · b`
pub fn mul(a: &[f32], b: &[f32], to: &mut [f32]) {
    zip(a, b, to, |a, b| a * b);
}

/// `to = a · factor`
pub fn scale(a: &[f32], factor: f32, to: &mut [f32]) {
    map(a, to, |a| a * factor);
}

/// `to = a / (1 + e⁻ᵃ)`
pub fn silu(a: &[f32], to: &mut [f32]) {
    map(a, to, |a| a * math::sigmoid(a));
}

/// `to = a · Φ(a)`, by the error function.
pub fn gelu(a: &[f32], to: &mut [f32]) {
    map(a, to, math::gelu);
}

/// `to = a / (1 + e^(−1.702 a))`
pub fn quick_gelu(a: &[f32], to: &mut [f32]) {
    map(a, to, |a| a * math::sigmoid(1.702 * a));
}

/// Rows of `2 · width` to rows of `width`: the first half times the GELU of the second.
pub fn geglu(a: &[f32], width: usize, to: &mut [f32]) {
    assert!(a.len() == 2 * to.len() && to.len().is_multiple_of(width), "rows of {width}");
    let chunk = CHUNK.next_multiple_of(width);
    to.par_chunks_mut(chunk).zip(a.par_chunks(2 * chunk)).for_each(|(to, a)| {
        Arch::new().dispatch(|| {
            for (to, a) in to.chunks_exact_mut(width).zip(a.chunks_exact(2 * width)) {
                let (value, gate) = a.split_at(width);
                for ((to, value), gate) in to.iter_mut().zip(value).zip(gate) {
                    *to = value * math::gelu(*gate);
                }
            }
        });
    });
}

/// Adds one row of `b` to every row of its picture: `a` is as many pictures as `b` has rows of `channels`.
pub fn add_channels(a: &[f32], b: &[f32], channels: usize, to: &mut [f32]) {
    assert!(a.len() == to.len() && b.len().is_multiple_of(channels), "channels of {channels}");
    let picture = a.len() / (b.len() / channels);
    assert!(picture.is_multiple_of(channels), "pictures of {picture}");
    let chunk = CHUNK.next_multiple_of(channels);
    for ((to, a), b) in to.chunks_exact_mut(picture).zip(a.chunks_exact(picture)).zip(b.chunks_exact(channels)) {
        to.par_chunks_mut(chunk).zip(a.par_chunks(chunk)).for_each(|(to, a)| {
            for (to, a) in to.chunks_exact_mut(channels).zip(a.chunks_exact(channels)) {
                for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
                    *to = a + b;
                }
            }
        });
    }
}

/// `to = a` where positive, `slope · a` elsewhere; `slopes` repeat along the last axis.
pub fn prelu(a: &[f32], slopes: &[f32], to: &mut [f32]) {
    let channels = slopes.len();
    let chunk = CHUNK.next_multiple_of(channels);
    to.par_chunks_mut(chunk).zip(a.par_chunks(chunk)).for_each(|(to, a)| {
        for (to, a) in to.chunks_exact_mut(channels).zip(a.chunks_exact(channels)) {
            for ((to, a), slope) in to.iter_mut().zip(a).zip(slopes) {
                *to = a.max(0.0) + slope * a.min(0.0);
            }
        }
    });
}

fn zip(a: &[f32], b: &[f32], to: &mut [f32], f: impl Fn(f32, f32) -> f32 + Sync) {
    assert!(a.len() == to.len() && b.len() == to.len(), "lengths differ");
    to.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).zip(b.par_chunks(CHUNK)).for_each(|((to, a), b)| {
        for ((to, a), b) in to.iter_mut().zip(a).zip(b) {
            *to = f(*a, *b);
        }
    });
}

fn map(a: &[f32], to: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    assert_eq!(a.len(), to.len(), "lengths differ");
    to.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK)).for_each(|(to, a)| {
        Arch::new().dispatch(|| {
            for (to, a) in to.iter_mut().zip(a) {
                *to = f(*a);
            }
        });
    });
}
