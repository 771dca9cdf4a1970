//! Attention, in tiles that suit the size of a head.

use super::super::kernels::Source;
use super::super::template::Definitions;
use super::{Bind, Dispatch, Lowering, number};
use crate::infer::executor::ExecError;
use crate::infer::graph::{Op, ValueId};

const ATTENTION: Source = Source { name: "attention", text: include_str!("../shaders/attention.wgsl") };
/// Invocations of a workgroup, each with four rows.
const INVOCATIONS: usize = 256;
/// Of the inner axis, at a time.
const DEPTH: usize = 8;
/// Heads above this size take few queries and many lanes, so that the sums still lie in registers.
const WIDE: usize = 192;

impl Lowering<'_> {
    pub(super) fn attention(&self, output: ValueId) -> Result<Dispatch, ExecError> {
        let Op::Attention { heads, causal } = self.node.op else { return Err(self.wrong("is no attention")) };
        let &[query, key, value] = self.node.inputs.as_slice() else { return Err(self.wrong("takes three inputs")) };
        let &[batch, .., width] = self.shape(query) else { return Err(self.wrong("has no [batch, …, width]")) };
        let (queries, keys) = (self.len(query) / batch / width, self.len(key) / batch / width);
        let size = width / heads;
        let size4 = size.div_ceil(4);
        let lanes = if size > WIDE { 64 } else { 16 };
        let (query_tile, key_tile) = (INVOCATIONS / lanes * 4, lanes * 4);
        let (query_stride, key_stride, score_stride) = (query_tile + 1, key_tile + 1, key_tile + 1);
        let lengths = [query_tile * score_stride, DEPTH * query_stride, DEPTH * key_stride];
        let needed_bytes = (lengths.iter().sum::<usize>() + INVOCATIONS + 3 * query_tile) * size_of::<f32>();
        if needed_bytes > self.target.workgroup_bytes {
            let problem =
                format!("takes {needed_bytes} bytes of workgroup memory, the GPU has {}", self.target.workgroup_bytes);
            return Err(self.wrong(problem));
        }
        let query_tiles = queries.div_ceil(query_tile);
        let mut numbers = [queries, keys, heads, size, size4, query_tiles].map(number).to_vec();
        numbers.push((1.0 / (size as f32).sqrt()).to_bits());
        let definitions = Definitions::default()
            .set("QUERIES", query_tile)
            .set("KEYS", key_tile)
            .set("LANES", lanes)
            .set("SHARERS", INVOCATIONS / query_tile)
            .set("VECTORS", size4.div_ceil(lanes))
            .set("QUERY_STRIDE", query_stride)
            .set("KEY_STRIDE", key_stride)
            .set("SCORE_STRIDE", score_stride)
            .set("SCORES_LENGTH", lengths[0])
            .set("QUERY_LENGTH", lengths[1])
            .set("KEY_LENGTH", lengths[2])
            .flag("four", size.is_multiple_of(4))
            .flag("causal", causal);
        let binds = vec![Bind::Value(output), Bind::Value(query), Bind::Value(key), Bind::Value(value)];
        let groups = batch * heads * query_tiles;
        let cost = (groups * query_tile) as u64 * keys as u64 * (size4 * 8) as u64;
        Ok(Dispatch { kernel: self.kernel(ATTENTION, definitions, &binds), binds, numbers, groups, cost })
    }
}
