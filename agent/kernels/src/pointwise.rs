//! Element by element.

use rayon::prelude::*;

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
    map(a, to, |a| a / (1.0 + (-a).exp()));
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
        for (to, a) in to.iter_mut().zip(a) {
            *to = f(*a);
        }
    });
}
