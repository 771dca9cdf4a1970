//! The IR: a model as operations over typed tensors, before anybody computes.
//!
//! A [`Graph`] is made once for a model and says nothing of sizes; [`Plan`] infers every shape for the inputs at
//! hand and lays all values out in one arena, so that what a (model, shape) needs is known before anything is
//! loaded. Values are channels-last: a picture is `[batch, height, width, channels]`. Weights keep the layout that
//! model files have (`[out, in, k, k]`, `[out, in]`); each executor packs them as it likes.
//!
//! Absent on purpose: operations that nothing runs yet. Attention, norms and embeddings come with the models that
//! need them. Broadcasting and control flow never come.

mod plan;
mod shapes;

pub use plan::Plan;

/// Most axes a tensor has.
pub const RANK_MAX: usize = 6;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F32,
    F16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorType {
    pub element: Element,
    pub shape: Vec<usize>,
}

impl TensorType {
    #[must_use]
    pub fn f32(shape: &[usize]) -> Self {
        Self { element: Element::F32, shape: shape.to_vec() }
    }

    /// Elements of the tensor; inference has made sure that the product fits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A value that flows between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) usize);

/// A weight that the graph names; see [`Graph::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub(crate) usize);

/// What is done to each element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    Relu,
    LeakyRelu {
        slope: f32,
    },
    /// One slope for each channel (the last axis).
    Prelu {
        slopes: WeightId,
    },
    Silu,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Square kernel of side 1 or 3, padded with zeros to keep the size, stride 1 or 2. The activation comes from
    /// [`Graph::fuse`].
    Conv2d {
        weight: WeightId,
        bias: Option<WeightId>,
        stride: usize,
        activation: Option<Activation>,
    },
    /// `x · Wᵀ + b` over the last axis.
    Linear {
        weight: WeightId,
        bias: Option<WeightId>,
    },
    Activate(Activation),
    /// Two or more tensors of one type.
    Add,
    Mul,
    Scale {
        factor: f32,
    },
    Concat {
        axis: usize,
    },
    /// Parts of the given lengths along `axis`, one output each.
    Split {
        axis: usize,
        lengths: Vec<usize>,
    },
    /// One `None` takes what is left.
    Reshape {
        shape: Vec<Option<usize>>,
    },
    /// Axis `i` of the result is axis `order[i]`.
    Transpose {
        order: Vec<usize>,
    },
    UpsampleNearest {
        factor: usize,
    },
    PixelShuffle {
        factor: usize,
    },
    /// Sides times `numerator / denominator`, rounded down.
    ResizeBicubic {
        numerator: usize,
        denominator: usize,
    },
    Cast {
        to: Element,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// As the model file calls it; errors name it.
    pub name: String,
    pub op: Op,
    pub inputs: Vec<ValueId>,
    pub outputs: Vec<ValueId>,
}

/// A weight's name in the model's files and the shape it must have there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightDecl {
    pub name: String,
    pub shape: Vec<usize>,
}

/// Why a graph and its inputs do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node `{node}`: {problem}")]
pub struct GraphError {
    pub node: String,
    pub problem: String,
}

/// Nodes in an order in which they can run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
    weights: Vec<WeightDecl>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    values: usize,
}

impl Graph {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub fn input(&mut self) -> ValueId {
        let value = self.value();
        self.inputs.push(value);
        value
    }

    pub fn weight(&mut self, name: impl Into<String>, shape: &[usize]) -> WeightId {
        self.weights.push(WeightDecl { name: name.into(), shape: shape.to_vec() });
        WeightId(self.weights.len() - 1)
    }

    /// Adds an operation with one output. Values can only come from this graph, so the order is right by itself.
    pub fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[ValueId]) -> ValueId {
        let output = self.value();
        self.nodes.push(Node { name: name.into(), op, inputs: inputs.to_vec(), outputs: vec![output] });
        output
    }

    pub fn split(&mut self, name: impl Into<String>, input: ValueId, axis: usize, lengths: &[usize]) -> Vec<ValueId> {
        let outputs: Vec<_> = lengths.iter().map(|_| self.value()).collect();
        let op = Op::Split { axis, lengths: lengths.to_vec() };
        self.nodes.push(Node { name: name.into(), op, inputs: vec![input], outputs: outputs.clone() });
        outputs
    }

    pub fn output(&mut self, value: ValueId) {
        self.outputs.push(value);
    }

    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    #[must_use]
    pub fn weights(&self) -> &[WeightDecl] {
        &self.weights
    }

    #[must_use]
    pub fn weight_decl(&self, id: WeightId) -> &WeightDecl {
        &self.weights[id.0]
    }

    #[must_use]
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    #[must_use]
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    fn value(&mut self) -> ValueId {
        self.values += 1;
        ValueId(self.values - 1)
    }

    /// Moves each activation into the convolution before it, where nobody else reads that convolution. The values
    /// stay what they are; one pass over memory less for each.
    #[must_use]
    pub fn fuse(mut self) -> Self {
        let mut readers = vec![0_usize; self.values];
        for value in self.nodes.iter().flat_map(|node| &node.inputs).chain(&self.outputs) {
            readers[value.0] += 1;
        }
        let mut made_by = vec![None; self.values];
        let mut kept: Vec<Node> = Vec::with_capacity(self.nodes.len());
        for node in std::mem::take(&mut self.nodes) {
            // SiLU is no bend at zero, which is all a convolution's end can do.
            if let Op::Activate(
                activation @ (Activation::Relu | Activation::LeakyRelu { .. } | Activation::Prelu { .. }),
            ) = node.op
                && let &[input] = node.inputs.as_slice()
                && readers[input.0] == 1
                && let Some(before) = made_by[input.0]
                && let Node { op: Op::Conv2d { activation: slot @ None, .. }, outputs, .. } = &mut kept[before]
            {
                *slot = Some(activation);
                outputs.clone_from(&node.outputs);
                made_by[node.outputs[0].0] = Some(before);
                continue;
            }
            for output in &node.outputs {
                made_by[output.0] = Some(kept.len());
            }
            kept.push(node);
        }
        self.nodes = kept;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv(graph: &mut Graph, from: ValueId, outputs: usize, inputs: usize) -> ValueId {
        let weight = graph.weight("w", &[outputs, inputs, 3, 3]);
        graph.push("conv", Op::Conv2d { weight, bias: None, stride: 1, activation: None }, &[from])
    }

    #[test]
    fn an_activation_moves_into_the_convolution_before_it() {
        let mut graph = Graph::new();
        let input = graph.input();
        let middle = conv(&mut graph, input, 8, 3);
        let end = graph.push("relu", Op::Activate(Activation::Relu), &[middle]);
        graph.output(end);
        let fused = graph.fuse();
        let [Node { op: Op::Conv2d { activation: Some(Activation::Relu), .. }, outputs, .. }] = fused.nodes() else {
            panic!("{:?}", fused.nodes())
        };
        assert_eq!(outputs, &[end]);
    }

    #[test]
    fn a_convolution_that_others_read_keeps_its_result() {
        let mut graph = Graph::new();
        let input = graph.input();
        let middle = conv(&mut graph, input, 3, 3);
        let bent = graph.push("relu", Op::Activate(Activation::Relu), &[middle]);
        let sum = graph.push("add", Op::Add, &[middle, bent]);
        graph.output(sum);
        assert_eq!(graph.clone().fuse(), graph);
    }
}
