//! What the convolutions share: a register tile of a matrix product, and stores with bias and activation.

use pulp::Simd;

/// Output channels that are packed together. A multiple of every vector width that `pulp` has.
pub(crate) const BLOCK: usize = 16;

/// Adds `a[r] · b` to `acc[r]`: `a[r]` is a row of K values, `b` is K rows of [`BLOCK`] values, of which the
/// vectors from `first` on are used.
#[inline(always)]
pub(crate) fn accumulate<S: Simd, const R: usize, const V: usize>(
    simd: S,
    acc: &mut [[S::f32s; V]; R],
    a: [&[f32]; R],
    b: &[f32],
    first: usize,
) {
    let vectors = BLOCK / S::F32_LANES;
    let (b, _) = S::as_simd_f32s(b);
    let depth = b.len() / vectors;
    let mut rows = a;
    for row in &mut rows {
        *row = &row[..depth];
    }
    for (k, row) in b.chunks_exact(vectors).enumerate() {
        let row = &row[first..first + V];
        for r in 0..R {
            let value = simd.splat_f32s(rows[r][k]);
            for v in 0..V {
                acc[r][v] = simd.mul_add_e_f32s(value, row[v], acc[r][v]);
            }
        }
    }
}

/// `value` where it is positive, `slope · value` elsewhere.
#[inline(always)]
pub(crate) fn bend<S: Simd>(simd: S, value: S::f32s, slope: S::f32s) -> S::f32s {
    let zero = simd.splat_f32s(0.0);
    simd.mul_add_e_f32s(slope, simd.min_f32s(value, zero), simd.max_f32s(value, zero))
}

#[inline(always)]
pub(crate) fn load<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
    match S::as_simd_f32s(from).0.first() {
        Some(whole) => *whole,
        None => simd.partial_load_f32s(from),
    }
}

/// Stores one vector, or as much of it as `to` takes.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, to: &mut [f32], value: S::f32s) {
    match S::as_mut_simd_f32s(to).0.first_mut() {
        Some(whole) => *whole = value,
        None => simd.partial_store_f32s(to, value),
    }
}

/// `values` with zeros up to a multiple of [`BLOCK`].
pub(crate) fn padded(values: &[f32], channels: usize) -> Vec<f32> {
    let mut padded = values.to_vec();
    padded.resize(channels.next_multiple_of(BLOCK), 0.0);
    padded
}
