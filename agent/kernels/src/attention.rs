//! Scaled dot-product attention that never holds more than a strip of the score matrix.
//!
//! Keys and values are packed once (a copy of them is all the memory it takes). Each thread then walks
//! over the keys for a few queries at a time and keeps, for each, the largest score, the sum and the weighted
//! values so far; where a larger score appears, what was summed is scaled down (Milakov and Gimelshein's online
//! softmax).

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::lanes::{BLOCK, accumulate};
use crate::math::exp;

/// Queries of one register tile.
const ROWS: usize = 6;
/// Keys whose scores are held at a time; a multiple of [`BLOCK`].
const STRIP: usize = 256;

/// What is attended with how many heads. Queries are `[batch, queries, heads·size]`, keys and values
/// `[batch, keys, heads·size]`.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub batch: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    /// Values of one head in one row.
    pub size: usize,
    /// A query sees no key after its own place.
    pub causal: bool,
}

impl Heads {
    fn width(&self) -> usize {
        self.heads * self.size
    }
}

/// `softmax(q · kᵀ / √size) · v` for every head.
///
/// # Panics
/// When the lengths do not agree, there is no key, or causal attention has not as many queries as keys.
pub fn attention(q: &[f32], k: &[f32], v: &[f32], heads: Heads, to: &mut [f32]) {
    let Heads { batch, queries, keys, size, causal, .. } = heads;
    assert!(keys > 0 && size > 0 && (!causal || queries == keys), "{heads:?}");
    assert!(q.len() == batch * queries * heads.width() && to.len() == q.len(), "queries of {heads:?}");
    assert!(k.len() == batch * keys * heads.width() && v.len() == k.len(), "keys of {heads:?}");
    let packed: Vec<Packed> = (0..batch * heads.heads)
        .into_par_iter()
        .map(|at| pack(k, v, heads, at / heads.heads, at % heads.heads))
        .collect();
    // One task: some rows of queries with all their heads, so that tasks write whole rows.
    to.par_chunks_mut(ROWS * heads.width()).enumerate().for_each_init(
        || Scratch::new(size),
        |scratch, (tile, to)| {
            // A tile may span two batches; their rows are taken one after the other.
            let mut row = tile * ROWS;
            let mut rest = to;
            while !rest.is_empty() {
                let (n, first) = (row / queries, row % queries);
                let rows = (rest.len() / heads.width()).min(queries - first);
                let (part, more) = rest.split_at_mut(rows * heads.width());
                for head in 0..heads.heads {
                    let packed = &packed[n * heads.heads + head];
                    let query = &q[row * heads.width()..][..rows * heads.width()];
                    Arch::new().dispatch(Tile { query, packed, heads, head, first, rows, scratch, to: part });
                }
                row += rows;
                rest = more;
            }
        },
    );
}

/// Keys and values of one head in the order in which the products read them.
struct Packed {
    /// `[block of keys][value of the head][key in block]`, scaled by `1/√size`.
    keys: Vec<f32>,
    /// `[block of the head's values][key][value in block]`
    values: Vec<f32>,
}

fn pack(k: &[f32], v: &[f32], heads: Heads, n: usize, head: usize) -> Packed {
    let Heads { keys, size, .. } = heads;
    let scale = 1.0 / (size as f32).sqrt();
    let mut packed = Packed {
        keys: vec![0.0; keys.next_multiple_of(BLOCK) * size],
        values: vec![0.0; size.next_multiple_of(BLOCK) * keys],
    };
    for key in 0..keys {
        let at = (n * keys + key) * heads.width() + head * size;
        for i in 0..size {
            packed.keys[(key / BLOCK * size + i) * BLOCK + key % BLOCK] = k[at + i] * scale;
            packed.values[(i / BLOCK * keys + key) * BLOCK + i % BLOCK] = v[at + i];
        }
    }
    packed
}

struct Scratch {
    /// The tile's rows of queries, one after the other.
    queries: Vec<f32>,
    /// `[row][key of the strip]`
    scores: Vec<f32>,
    /// `[row][value of the head]`, padded.
    sums: Vec<f32>,
}

impl Scratch {
    fn new(size: usize) -> Self {
        Self {
            queries: vec![0.0; ROWS * size],
            scores: vec![0.0; ROWS * STRIP],
            sums: vec![0.0; ROWS * size.next_multiple_of(BLOCK)],
        }
    }
}

/// Up to [`ROWS`] queries of one head against all keys.
struct Tile<'a> {
    query: &'a [f32],
    packed: &'a Packed,
    heads: Heads,
    head: usize,
    /// Place of the first query in its sequence.
    first: usize,
    rows: usize,
    scratch: &'a mut Scratch,
    to: &'a mut [f32],
}

impl WithSimd for Tile<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        if 2 * S::F32_LANES <= BLOCK { self.run::<S, 2>(simd) } else { self.run::<S, 1>(simd) }
    }
}

impl Tile<'_> {
    #[inline(always)]
    fn run<S: Simd, const V: usize>(self, simd: S) {
        let Heads { keys, size, causal, .. } = self.heads;
        let (width, offset) = (self.heads.width(), self.head * size);
        let padded = size.next_multiple_of(BLOCK);
        let Scratch { queries, scores, sums } = self.scratch;
        for row in 0..ROWS {
            // Rows that are not there repeat the last: they cost nothing more and are not written.
            let from = row.min(self.rows - 1) * width + offset;
            queries[row * size..][..size].copy_from_slice(&self.query[from..][..size]);
        }
        sums.fill(0.0);
        let (mut largest, mut total) = ([f32::NEG_INFINITY; ROWS], [0.0_f32; ROWS]);
        let seen = if causal { (self.first + self.rows).min(keys) } else { keys };
        for start in (0..seen).step_by(STRIP) {
            let strip = STRIP.min(seen - start);
            for block in 0..strip.div_ceil(BLOCK) {
                let b = &self.packed.keys[(start / BLOCK + block) * size * BLOCK..][..size * BLOCK];
                product::<S, V>(
                    simd,
                    |row| &queries[row * size..][..size],
                    b,
                    |row, lane, value| {
                        scores[row * STRIP + block * BLOCK + lane] = value;
                    },
                );
            }
            for row in 0..ROWS {
                // A row that repeats another sees what that one sees.
                let place = self.first + row.min(self.rows - 1);
                let visible = if causal { (place + 1).saturating_sub(start).min(strip) } else { strip };
                let (scores, hidden) = scores[row * STRIP..][..strip].split_at_mut(visible);
                hidden.fill(0.0);
                let most = scores.iter().copied().fold(largest[row], f32::max);
                if visible == 0 {
                    continue;
                }
                let shrink = if largest[row] == f32::NEG_INFINITY { 0.0 } else { exp(largest[row] - most) };
                scores.iter_mut().for_each(|score| *score = exp(*score - most));
                total[row] = total[row] * shrink + scores.iter().sum::<f32>();
                sums[row * padded..][..padded].iter_mut().for_each(|sum| *sum *= shrink);
                largest[row] = most;
            }
            for block in 0..padded / BLOCK {
                let b = &self.packed.values[(block * keys + start) * BLOCK..][..strip * BLOCK];
                product::<S, V>(
                    simd,
                    |row| &scores[row * STRIP..][..strip],
                    b,
                    |row, lane, value| {
                        sums[row * padded + block * BLOCK + lane] += value;
                    },
                );
            }
        }
        for row in 0..self.rows {
            let to = &mut self.to[row * width + offset..][..size];
            for (to, sum) in to.iter_mut().zip(&sums[row * padded..]) {
                *to = sum / total[row];
            }
        }
    }
}

/// [`ROWS`] rows times one packed block; `take` gets each element with its row and its place in the block.
#[inline(always)]
fn product<'a, S: Simd, const V: usize>(
    simd: S,
    a: impl Fn(usize) -> &'a [f32],
    b: &[f32],
    mut take: impl FnMut(usize, usize, f32),
) {
    for first in (0..BLOCK / S::F32_LANES).step_by(V) {
        let mut acc = [[simd.splat_f32s(0.0); V]; ROWS];
        accumulate::<S, ROWS, V>(simd, &mut acc, std::array::from_fn(&a), b, first);
        let mut lanes = [0.0_f32; BLOCK];
        for (row, vectors) in acc.into_iter().enumerate() {
            for (v, vector) in vectors.into_iter().enumerate() {
                crate::lanes::store(simd, &mut lanes[v * S::F32_LANES..], vector);
            }
            for (lane, value) in lanes[..V * S::F32_LANES].iter().enumerate() {
                take(row, first * S::F32_LANES + lane, *value);
            }
        }
    }
}
