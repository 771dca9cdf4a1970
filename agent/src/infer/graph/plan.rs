//! The memory plan: where each value lies in one arena, and how large the arena is.
//!
//! A value lives from the node that makes it to the last one that reads it; inputs live from the start, outputs to
//! the end. Values that live at the same time do not overlap. The largest are placed first, each at the lowest
//! place that is free for its whole life: not the optimum (that is NP-hard), within a few percent of the lower
//! bound on these models.

use super::{Element, Graph, GraphError, TensorType, ValueId};

/// Every value begins at a multiple of this: what GPUs ask for where a kernel's view of memory begins.
const ALIGN_BYTES: usize = 256;

/// Shapes and places of all values for inputs of given types.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    types: Vec<Option<TensorType>>,
    /// Begin of each value in the arena; values that nothing reads have their place too.
    offsets: Vec<usize>,
    bytes: Vec<usize>,
    peak_bytes: usize,
    /// The most that lives at one moment: no plan can be smaller.
    floor_bytes: usize,
}

impl Plan {
    /// Plans `graph` for inputs of these types. `width` says how many bytes an executor keeps an element in.
    ///
    /// # Errors
    /// [`GraphError`] when the inputs do not suit the graph.
    pub fn new(graph: &Graph, inputs: &[TensorType], width: impl Fn(Element) -> usize) -> Result<Self, GraphError> {
        Self::with(graph, inputs, |_, made| width(made.element))
    }

    /// As [`Self::new`], for an executor that keeps some values in another width than others of their type.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(
        graph: &Graph,
        inputs: &[TensorType],
        width: impl Fn(ValueId, &TensorType) -> usize,
    ) -> Result<Self, GraphError> {
        let types = graph.infer(inputs)?;
        let lives = lives(graph, types.len());
        let bytes: Vec<usize> = types
            .iter()
            .enumerate()
            .map(|(value, made)| {
                let bytes = made.as_ref().map_or(0, |made| made.len() * width(ValueId(value), made));
                bytes.next_multiple_of(ALIGN_BYTES)
            })
            .collect();
        let offsets = place(&lives, &bytes);
        let peak_bytes = offsets.iter().zip(&bytes).map(|(offset, bytes)| offset + bytes).max().unwrap_or(0);
        let floor_bytes = (0..=graph.nodes().len())
            .map(|at| lives.iter().zip(&bytes).filter(|(life, _)| life.0 <= at && at <= life.1).map(|(_, b)| b).sum())
            .max()
            .unwrap_or(0);
        Ok(Self { types, offsets, bytes, peak_bytes, floor_bytes })
    }

    /// Bytes of the arena: all that values take while the graph runs. Weights and scratch are not in it.
    #[must_use]
    pub fn peak_bytes(&self) -> usize {
        self.peak_bytes
    }

    #[must_use]
    pub fn floor_bytes(&self) -> usize {
        self.floor_bytes
    }

    /// Where a value lies: begin and length in bytes.
    #[must_use]
    pub fn place(&self, value: ValueId) -> (usize, usize) {
        (self.offsets[value.0], self.bytes[value.0])
    }

    /// The type of a value that the graph makes or takes.
    ///
    /// # Panics
    /// For a value of another graph.
    #[must_use]
    #[allow(clippy::expect_used, reason = "inference has visited every node, so every value of this graph has a type")]
    pub fn of(&self, value: ValueId) -> &TensorType {
        self.types[value.0].as_ref().expect("a value of the planned graph")
    }
}

/// First and last step at which each value exists. Step `i` is node `i`; inputs exist from step 0.
fn lives(graph: &Graph, values: usize) -> Vec<(usize, usize)> {
    let end = graph.nodes().len();
    let mut lives = vec![(0, 0); values];
    for (step, node) in graph.nodes().iter().enumerate() {
        for value in &node.outputs {
            lives[value.0] = (step, step);
        }
        for value in &node.inputs {
            lives[value.0].1 = step;
        }
    }
    for value in graph.outputs() {
        lives[value.0].1 = end;
    }
    lives
}

fn place(lives: &[(usize, usize)], bytes: &[usize]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..bytes.len()).filter(|i| bytes[*i] > 0).collect();
    order.sort_by_key(|i| std::cmp::Reverse(bytes[*i]));
    let mut offsets = vec![0; bytes.len()];
    let mut placed: Vec<usize> = Vec::with_capacity(order.len()); // by offset
    for value in order {
        let mut offset = 0;
        for other in &placed {
            let together = lives[*other].0 <= lives[value].1 && lives[value].0 <= lives[*other].1;
            if together {
                if offset + bytes[value] <= offsets[*other] {
                    break;
                }
                offset = offset.max(offsets[*other] + bytes[*other]);
            }
        }
        offsets[value] = offset;
        let at = placed.partition_point(|other| offsets[*other] <= offset);
        placed.insert(at, value);
    }
    offsets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::infer::graph::{Activation, Op};

    fn chain(length: usize) -> Graph {
        let mut graph = Graph::new();
        let mut value = graph.input();
        for i in 0..length {
            value = graph.push(format!("relu {i}"), Op::Activate(Activation::Relu), &[value]);
        }
        graph.output(value);
        graph
    }

    #[test]
    fn a_chain_of_any_length_needs_two_values() {
        for length in [1, 2, 50] {
            let plan = Plan::new(&chain(length), &[TensorType::f32(&[1, 1024])], Element::bytes).unwrap();
            assert_eq!(plan.peak_bytes(), 2 * 4096);
        }
    }

    proptest! {
        #[test]
        fn values_that_live_together_never_overlap(
            lives in prop::collection::vec((0usize..20, 0usize..8, 1usize..5000), 1..60),
        ) {
            let bytes: Vec<usize> = lives.iter().map(|(_, _, bytes)| *bytes).collect();
            let lives: Vec<(usize, usize)> = lives.iter().map(|(from, more, _)| (*from, from + more)).collect();
            let offsets = place(&lives, &bytes);
            for a in 0..bytes.len() {
                for b in 0..a {
                    let together = lives[a].0 <= lives[b].1 && lives[b].0 <= lives[a].1;
                    let apart = offsets[a] + bytes[a] <= offsets[b] || offsets[b] + bytes[b] <= offsets[a];
                    prop_assert!(!together || apart, "{a} and {b}");
                }
            }
        }
    }
}
