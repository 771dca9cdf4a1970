//! The IR: a model as operations over typed tensors, before anybody computes.
//!
//! A [`Graph`] is made once for a model and says nothing of sizes; [`Plan`] infers every shape for the inputs at
//! hand and lays all values out in one arena, so that what a (model, shape) needs is known before anything is
//! loaded. Values are channels-last: a picture is `[batch, height, width, channels]`. Weights keep the layout that
//! model files have (`[out, in, k, k]`, `[out, in]`); each executor packs them as it likes.
//!
//! Absent on purpose: operations that nothing runs yet, broadcasting, control flow.

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
    /// By the error function.
    Gelu,
    /// `a / (1 + e^(−1.702 a))`, which CLIP was trained with.
    QuickGelu,
}

/// Where a convolution puts the zeros around its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pad {
    /// On all sides, so that the size is kept (rounded up after a stride).
    #[default]
    Same,
    /// One line below and one at the right; only for side 3 with stride 2. An odd last line is lost.
    End,
}

/// One side of what a reshape makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Is(usize),
    /// What is left; for one side of them at most.
    Left,
    /// As long as this axis of one of the inputs, which the graph does not know.
    Of {
        input: usize,
        axis: usize,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Square kernel of side 1 or 3, stride 1 or 2; or one of 3 lines and 1 column (the lines may be frames), stride 1. The
    /// activation comes from [`Graph::fuse`]. A second input, which comes from [`Graph::fuse_sums`], is added at the end.
    Conv2d {
        weight: WeightId,
        bias: Option<WeightId>,
        stride: usize,
        pad: Pad,
        activation: Option<Activation>,
    },
    /// `x · Wᵀ + b` over the last axis, and a second input like a convolution's.
    Linear {
        weight: WeightId,
        bias: Option<WeightId>,
    },
    Activate(Activation),
    /// `[n, …, c]`: mean and variance of each (n, group of channels) over all else, then weight and bias of each
    /// channel. With `silu` that activation after it, which comes from [`Graph::fuse`].
    GroupNorm {
        groups: usize,
        weight: WeightId,
        bias: WeightId,
        epsilon: f32,
        silu: bool,
    },
    /// Over the last axis.
    LayerNorm {
        weight: WeightId,
        bias: WeightId,
        epsilon: f32,
    },
    /// Last axis `2c → c`: the first half times the GELU of the second.
    Geglu,
    /// Query `[n, …, heads·d]`, key and value `[n, …, heads·d]` of one shape → as the query, scaled by `1/√d`. What
    /// stands in the middle is one sequence, so that the pixels of a picture `[n, h, w, c]` need no reshape. Causal:
    /// a query sees the keys up to its own place, and there are as many of both.
    Attention {
        heads: usize,
        causal: bool,
    },
    /// Rows of the weight `[rows, c]` by number: `[n, l]` → `[n, l, c]`. The numbers are whole and below `rows`;
    /// others are a fault of the run.
    Embedding {
        weight: WeightId,
    },
    /// Sinusoids of moments in time: `[n]` → `[n, channels]`. Half of the channels are sines and half cosines (the
    /// cosines first with `flip`), of frequencies from 1 down to `10000^(−1 + …)` in `channels/2 − shift` steps.
    TimeEmbedding {
        channels: usize,
        flip: bool,
        shift: f32,
    },
    /// `[…, c]` plus `[m, c]`: the former are m parts of equally many rows (pictures, clips), and each part gets a row.
    AddChannels,
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
    /// The first input in another shape. Others only lend their sides: see [`Side::Of`].
    Reshape {
        shape: Vec<Side>,
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
    needs_f32: bool,
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

    /// Says that values between the layers leave the range of f16, so that no executor may keep them in it.
    #[must_use]
    pub fn with_f32(mut self, needs_f32: bool) -> Self {
        self.needs_f32 = needs_f32;
        self
    }

    #[must_use]
    pub fn needs_f32(&self) -> bool {
        self.needs_f32
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

    /// Lines and columns of a convolution's kernel, `[out, in, lines, columns]`; one of each for what has none.
    #[must_use]
    pub fn kernel(&self, weight: WeightId) -> [usize; 2] {
        match *self.weights[weight.0].shape.as_slice() {
            [_, _, lines, columns] => [lines, columns],
            _ => [1, 1],
        }
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

    /// Moves each activation into the convolution or norm before it, where nobody else reads what stands between.
    /// The values stay what they are; one pass over memory less for each.
    #[must_use]
    pub fn fuse(self) -> Self {
        self.join(|node, made| match (&node.op, node.inputs.as_slice()) {
            (Op::Activate(activation), &[input]) if made.is_read_once(input) => {
                made.by[input.0].filter(|maker| join(&mut made.kept[*maker], *activation))
            }
            _ => None,
        })
    }

    /// Moves each sum of two into the convolution or linear layer that makes the later of them, where nobody else reads
    /// that: for executors that can add where they store. The values stay what they are, but for the order of a sum.
    #[must_use]
    pub fn fuse_sums(self) -> Self {
        self.join(|node, made| match (&node.op, node.inputs.as_slice()) {
            (Op::Add, &[a, b]) if a != b => {
                let (earlier, later) = if made.by[a.0] < made.by[b.0] { (a, b) } else { (b, a) };
                // Two parts of one split have one maker, which is no product.
                let maker = made.by[later.0].filter(|_| made.is_read_once(later))?;
                let is_product = ends_with_products(&made.kept[maker]);
                is_product.then(|| made.kept[maker].inputs.push(earlier)).map(|()| maker)
            }
            _ => None,
        })
    }

    /// Goes through the nodes in their order and leaves out those that `into` has moved into one before, whose number it tells.
    fn join(mut self, into: impl Fn(&Node, &mut Made) -> Option<usize>) -> Self {
        let nodes = std::mem::take(&mut self.nodes);
        let mut readers = vec![0_usize; self.values];
        for value in nodes.iter().flat_map(|node| &node.inputs).chain(&self.outputs) {
            readers[value.0] += 1;
        }
        let mut made = Made { readers, by: vec![None; self.values], kept: Vec::with_capacity(nodes.len()) };
        for node in nodes {
            let (maker, outputs) = match into(&node, &mut made) {
                Some(maker) => {
                    made.kept[maker].outputs.clone_from(&node.outputs);
                    (maker, node.outputs)
                }
                None => {
                    let outputs = node.outputs.clone();
                    made.kept.push(node);
                    (made.kept.len() - 1, outputs)
                }
            };
            for output in outputs {
                made.by[output.0] = Some(maker);
            }
        }
        self.nodes = made.kept;
        self
    }
}

/// A graph while it is rewritten.
struct Made {
    /// How often each value is read.
    readers: Vec<usize>,
    /// Which of `kept` makes a value; inputs are made by none, and come before all.
    by: Vec<Option<usize>>,
    kept: Vec<Node>,
}

impl Made {
    fn is_read_once(&self, value: ValueId) -> bool {
        self.readers[value.0] == 1
    }
}

/// Whether a node's sums are stored as they are, so that one thing more can be added.
fn ends_with_products(node: &Node) -> bool {
    node.inputs.len() == 1 && matches!(node.op, Op::Conv2d { activation: None, .. } | Op::Linear { .. })
}

/// Makes `node` end with `activation`, where it can: a convolution bends at zero, a group norm knows SiLU.
fn join(node: &mut Node, activation: Activation) -> bool {
    match (&mut node.op, activation) {
        (
            Op::Conv2d { activation: slot @ None, .. },
            Activation::Relu | Activation::LeakyRelu { .. } | Activation::Prelu { .. },
        ) => {
            *slot = Some(activation);
            true
        }
        (Op::GroupNorm { silu, .. }, Activation::Silu) if !*silu => {
            *silu = true;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conv(graph: &mut Graph, from: ValueId, outputs: usize, inputs: usize) -> ValueId {
        let weight = graph.weight("w", &[outputs, inputs, 3, 3]);
        graph.push("conv", Op::Conv2d { weight, bias: None, stride: 1, pad: Pad::Same, activation: None }, &[from])
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
    fn silu_moves_into_a_group_norm_and_not_into_a_convolution() {
        let mut graph = Graph::new();
        let input = graph.input();
        let (weight, bias) = (graph.weight("g", &[4]), graph.weight("b", &[4]));
        let norm = Op::GroupNorm { groups: 2, weight, bias, epsilon: 1e-5, silu: false };
        let normed = graph.push("norm", norm, &[input]);
        let bent = graph.push("silu", Op::Activate(Activation::Silu), &[normed]);
        let convolved = conv(&mut graph, bent, 4, 4);
        let end = graph.push("silu", Op::Activate(Activation::Silu), &[convolved]);
        graph.output(end);
        let fused = graph.fuse();
        let names: Vec<&str> = fused.nodes().iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["norm", "conv", "silu"]);
        assert!(matches!(fused.nodes()[0].op, Op::GroupNorm { silu: true, .. }));
        assert_eq!(fused.nodes()[0].outputs, [bent]);
    }

    #[test]
    fn a_sum_moves_into_the_later_of_the_two_layers_that_make_it() {
        let mut graph = Graph::new();
        let input = graph.input();
        let first = conv(&mut graph, input, 4, 4);
        let weight = graph.weight("v", &[4, 4]);
        let second = graph.push("linear", Op::Linear { weight, bias: None }, &[input]);
        let sum = graph.push("sum", Op::Add, &[second, first]);
        let end = graph.push("end", Op::Add, &[input, sum]);
        graph.output(end);
        let fused = graph.fuse_sums();
        // The second sum finds its layer taken.
        let names: Vec<&str> = fused.nodes().iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["conv", "linear", "end"]);
        assert_eq!(
            (fused.nodes()[1].inputs.as_slice(), fused.nodes()[1].outputs.as_slice()),
            (&[input, first][..], &[sum][..])
        );
        assert!(fused.infer(&[TensorType::f32(&[1, 5, 5, 4])]).is_ok());
        let wrong = fused.infer(&[TensorType::f32(&[1, 5, 5, 3])]).unwrap_err();
        assert!(wrong.to_string().contains("takes 4"), "{wrong}");
    }

    #[test]
    fn a_sum_stays_where_its_layer_bends_or_has_other_readers_or_adds_itself() {
        let mut bent = Graph::new();
        let input = bent.input();
        let made = conv(&mut bent, input, 4, 4);
        let made = bent.push("relu", Op::Activate(Activation::Relu), &[made]);
        let end = bent.push("sum", Op::Add, &[input, made]);
        bent.output(end);
        let mut read = Graph::new();
        let input = read.input();
        let made = conv(&mut read, input, 4, 4);
        let end = read.push("sum", Op::Add, &[input, made]);
        read.output(end);
        read.output(made);
        let mut twice = Graph::new();
        let input = twice.input();
        let made = conv(&mut twice, input, 4, 4);
        let end = twice.push("sum", Op::Add, &[made, made]);
        twice.output(end);
        for graph in [bent.fuse(), read, twice] {
            assert_eq!(graph.clone().fuse_sums(), graph);
        }
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
