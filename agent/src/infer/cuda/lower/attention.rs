//! Attention: the fused kernel where it has the head's size, else two products with a softmax between them.
//!
//! The second way writes its scores down, for as many queries at a time as fit into [`SCORES_BYTES_MAX`]; so the one
//! head of 512 of a decoder does not need the square of its pixels. Its products are batches over heads, or over pictures
//! where there are more of those: the frames of a clip are one short sequence for each pixel.

use super::{Arg, Command, ExecError, Gemm, Matrix, Scope, THREADS, named};
use crate::infer::cuda::Precision;
use crate::infer::graph::Element;

const SCORES_BYTES_MAX: usize = 64 << 20;

/// Kernels by the head size that they hold.
const FUSED: [(usize, &str); 5] =
    [(48, "attention_48"), (64, "attention_64"), (80, "attention_80"), (128, "attention_128"), (160, "attention_160")];

/// Most blocks along the last side of a grid.
const PICTURES_MAX: usize = 65_535;

/// What one batch of products is over.
#[derive(Clone, Copy)]
enum Part {
    /// All heads of one picture.
    Picture(usize),
    /// All pictures' heads of one number.
    Head(usize),
}

/// One attention's sizes.
#[derive(Clone, Copy)]
struct Sizes {
    pictures: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    size: usize,
}

impl Scope<'_> {
    pub(super) fn attention(&mut self, heads: usize, causal: bool) -> Result<(), ExecError> {
        let &[query, key, value] = self.node.inputs.as_slice() else { return Err(self.wrong("takes three inputs")) };
        let (of_query, of_key) = (self.shape(query), self.shape(key));
        let inner = |shape: &[usize]| shape[1..shape.len() - 1].iter().product();
        let sizes = Sizes {
            pictures: of_query[0],
            queries: inner(of_query),
            keys: inner(of_key),
            heads,
            size: of_query[of_query.len() - 1] / heads,
        };
        let fused = FUSED.iter().find(|(size, _)| sizes.size <= *size);
        let at = [self.address(query), self.address(key), self.address(value), self.address(self.output())];
        match fused {
            Some((_, kernel)) if self.all.precision == Precision::Half && sizes.size.is_multiple_of(8) => {
                self.fused(kernel, sizes, at, causal)
            }
            _ if sizes.pictures > heads => {
                (0..heads).try_for_each(|head| self.by_products(sizes, Part::Head(head), at, causal))
            }
            _ => {
                (0..sizes.pictures).try_for_each(|picture| self.by_products(sizes, Part::Picture(picture), at, causal))
            }
        }
    }

    fn fused(&mut self, kernel: &'static str, sizes: Sizes, at: [u64; 4], causal: bool) -> Result<(), ExecError> {
        let Sizes { pictures, queries, keys, heads, size } = sizes;
        let row = self.int(heads * size)?;
        // The kernel's exponentials are of base two.
        let factor = std::f32::consts::LOG2_E / (size as f32).sqrt();
        // Sixteen queries a warp; few queries leave no warp idle.
        let threads = if queries > 64 { 256 } else { 128 };
        let bytes = heads * size * self.all.precision.bytes();
        for first in (0..pictures).step_by(PICTURES_MAX) {
            let from = |at: u64, rows: usize| Arg::Pointer(at + (first * rows * bytes) as u64);
            let [query, key, value, to] = at;
            let mut args = vec![from(query, queries), from(key, keys), from(value, keys), from(to, queries)];
            args.extend([self.int(queries)?, self.int(keys)?, self.int(size)?, row, row, row, row]);
            args.extend([Arg::Float(factor), Arg::Int(i32::from(causal))]);
            let grid = [queries.div_ceil(threads / 2), heads, (pictures - first).min(PICTURES_MAX)];
            self.launch(kernel, grid, threads, 0, args)?;
        }
        Ok(())
    }

    fn by_products(
        &mut self,
        sizes: Sizes,
        part: Part,
        [query, key, value, to]: [u64; 4],
        causal: bool,
    ) -> Result<(), ExecError> {
        let Sizes { pictures, queries, keys, heads, size } = sizes;
        let precision = self.all.precision;
        let (element, bytes) = (precision.element(), precision.bytes());
        let row = heads * size;
        // How many there are, where the first one's rows begin, and how far it is to the next one's.
        let (batch, query_at, key_at, query_next, key_next) = match part {
            Part::Picture(number) => (heads, number * queries * row, number * keys * row, size, size),
            Part::Head(number) => (pictures, number * size, number * size, queries * row, keys * row),
        };
        let rows_max = (SCORES_BYTES_MAX / (batch * keys * size_of::<f32>())).clamp(1, queries);
        let scores_bytes = (batch * rows_max * keys * size_of::<f32>()).next_multiple_of(256);
        // In floats the shares take the scores' place.
        let shares_bytes = if precision == Precision::Half { batch * rows_max * keys * bytes } else { 0 };
        let scores = self.scratch(scores_bytes + shares_bytes);
        let shares = if precision == Precision::Half { scores + scores_bytes as u64 } else { scores };
        let begin = |at: u64, elements: usize| at + (elements * bytes) as u64;
        let (keys_at, values_at) = (begin(key, key_at), begin(value, key_at));
        for first in (0..queries).step_by(rows_max) {
            let rows = rows_max.min(queries - first);
            let here = |at: u64| Matrix { at: begin(at, query_at + first * row), row, batch: query_next };
            self.push(Command::Gemm(Gemm {
                element,
                to_element: Element::F32,
                batch,
                rows,
                columns: keys,
                depth: size,
                left: here(query),
                right: Matrix { at: keys_at, row, batch: key_next },
                by_columns: true,
                bias: None,
                plus: None,
                to: Matrix { at: scores, row: keys, batch: rows * keys },
            }));
            let args = vec![
                Arg::Pointer(scores),
                Arg::Pointer(shares),
                self.int(keys)?,
                self.int(rows)?,
                self.int(first)?,
                Arg::Float(1.0 / (size as f32).sqrt()),
                Arg::Int(i32::from(causal)),
            ];
            self.launch(named("softmax", precision), [batch * rows, 1, 1], THREADS, 0, args)?;
            self.push(Command::Gemm(Gemm {
                element,
                to_element: element,
                batch,
                rows,
                columns: size,
                depth: keys,
                left: Matrix { at: shares, row: keys, batch: rows * keys },
                right: Matrix { at: values_at, row, batch: key_next },
                by_columns: false,
                bias: None,
                plus: None,
                to: here(to),
            }));
        }
        Ok(())
    }
}
