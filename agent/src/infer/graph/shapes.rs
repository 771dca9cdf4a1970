//! What type each operation's outputs have, or why its inputs do not suit it.

use super::{Activation, Element, Graph, GraphError, Node, Op, Pad, RANK_MAX, Side, TensorType, WeightId};

/// Most elements of one tensor: 2^40, so that no product or byte count overflows.
const ELEMENTS_MAX: usize = 1 << 40;

/// Largest head of an attention: the VAE's only one.
const HEAD_MAX: usize = 512;

impl Graph {
    /// Types of all values, indexed by value; those that nothing makes are `None`.
    ///
    /// # Errors
    /// [`GraphError`] names the first node whose inputs do not suit it, and what it was given.
    pub fn infer(&self, inputs: &[TensorType]) -> Result<Vec<Option<TensorType>>, GraphError> {
        let of_graph = |problem: String| GraphError { node: "inputs".to_owned(), problem };
        if inputs.len() != self.inputs.len() {
            return Err(of_graph(format!("{} given, {} needed", inputs.len(), self.inputs.len())));
        }
        let mut types: Vec<Option<TensorType>> = vec![None; self.values];
        for (value, given) in self.inputs.iter().zip(inputs) {
            checked(given.clone()).map_err(of_graph)?;
            types[value.0] = Some(given.clone());
        }
        for node in &self.nodes {
            let problem = |problem| GraphError { node: node.name.clone(), problem };
            let given: Vec<&TensorType> = node
                .inputs
                .iter()
                .map(|value| types[value.0].as_ref().ok_or_else(|| problem(format!("value {} comes later", value.0))))
                .collect::<Result<_, _>>()?;
            let made = self.outputs_of(node, &given).map_err(problem)?;
            for (value, made) in node.outputs.iter().zip(made) {
                types[value.0] = Some(checked(made).map_err(problem)?);
            }
        }
        if let Some(value) = self.outputs.iter().find(|value| types[value.0].is_none()) {
            return Err(GraphError { node: "outputs".to_owned(), problem: format!("nothing makes value {}", value.0) });
        }
        Ok(types)
    }

    fn outputs_of(&self, node: &Node, given: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let first = *given.first().ok_or("has no input")?;
        let takes = match node.op {
            Op::Add | Op::Mul | Op::Concat { .. } | Op::Reshape { .. } => given.len(), // checked with the operation
            Op::Attention { .. } => 3,
            Op::AddChannels => 2,
            Op::Conv2d { .. } | Op::Linear { .. } => given.len().clamp(1, 2), // the second is added to the result
            _ => 1,
        };
        if given.len() != takes {
            return Err(format!("takes {takes} inputs, not {}", given.len()));
        }
        let shape = first.shape.as_slice();
        let same = |shape: Vec<usize>| Ok(vec![TensorType { element: first.element, shape }]);
        let summed = |shape: Vec<usize>| {
            let made = TensorType { element: first.element, shape };
            match given.get(1) {
                Some(plus) if **plus != made => Err(format!("{plus:?} cannot be added to {made:?}")),
                _ => Ok(vec![made]),
            }
        };
        match &node.op {
            Op::Conv2d { weight, bias, stride, pad, activation } => {
                let [n, h, w, c] = picture(shape)?;
                let &[outputs, inputs, lines, columns] = self.weights[weight.0].shape.as_slice() else {
                    return Err(format!("weight has shape {:?}", self.weights[weight.0].shape));
                };
                if !matches!((lines, columns, stride), (1, 1, 1 | 2) | (3, 3, 1 | 2) | (3, 1, 1)) {
                    return Err(format!("kernel {lines}x{columns} with stride {stride} is not supported"));
                }
                if inputs != c {
                    return Err(format!("weight takes {inputs} channels, the input has {c}"));
                }
                self.vector(*bias, outputs, "bias")?;
                if let Some(activation) = activation {
                    self.activation(*activation, outputs)?;
                }
                match pad {
                    Pad::Same => summed(vec![n, h.div_ceil(*stride), w.div_ceil(*stride), outputs]),
                    Pad::End if lines == 3 && *stride == 2 => summed(vec![n, h / 2, w / 2, outputs]),
                    Pad::End => Err(format!("kernel {lines}x{columns} with stride {stride} is not padded at the end")),
                }
            }
            Op::Linear { weight, bias } => {
                let &[outputs, inputs] = self.weights[weight.0].shape.as_slice() else {
                    return Err(format!("weight has shape {:?}", self.weights[weight.0].shape));
                };
                let (last, rest) = shape.split_last().ok_or("input has no axis")?;
                if *last != inputs {
                    return Err(format!("weight takes {inputs} features, the input has {last}"));
                }
                self.vector(*bias, outputs, "bias")?;
                summed([rest, &[outputs]].concat())
            }
            Op::Activate(activation) => {
                self.activation(*activation, *shape.last().ok_or("input has no axis")?)?;
                same(shape.to_vec())
            }
            Op::GroupNorm { .. } | Op::LayerNorm { .. } | Op::Geglu | Op::AddChannels => self.normed(&node.op, given),
            Op::Attention { heads, causal } => attention(*heads, *causal, given).map(|made| vec![made]),
            Op::Embedding { .. } | Op::TimeEmbedding { .. } => self.embedded(&node.op, shape).and_then(same),
            Op::Add | Op::Mul => {
                if given.len() < 2 || given.iter().any(|other| *other != first) {
                    return Err(format!("takes two or more tensors of one type, not {given:?}"));
                }
                same(shape.to_vec())
            }
            Op::Scale { factor } => {
                if !factor.is_finite() {
                    return Err(format!("factor is {factor}"));
                }
                same(shape.to_vec())
            }
            Op::Concat { axis } => concat(*axis, given).map(|made| vec![made]),
            Op::Split { axis, lengths } => {
                let along = *shape.get(*axis).ok_or_else(|| format!("has no axis {axis} in {shape:?}"))?;
                if lengths.iter().sum::<usize>() != along || lengths.len() != node.outputs.len() {
                    return Err(format!("parts {lengths:?} do not add up to {along}"));
                }
                Ok(lengths
                    .iter()
                    .map(|length| {
                        let mut part = first.clone();
                        part.shape[*axis] = *length;
                        part
                    })
                    .collect())
            }
            Op::Reshape { shape: wanted } => same(reshape(given, wanted)?),
            Op::Transpose { order } => {
                let mut seen = order.clone();
                seen.sort_unstable();
                if !seen.iter().copied().eq(0..shape.len()) {
                    return Err(format!("order {order:?} does not suit {shape:?}"));
                }
                same(order.iter().map(|axis| shape[*axis]).collect())
            }
            Op::UpsampleNearest { factor } => {
                let [n, h, w, c] = picture(shape)?;
                let factor = factor_within(*factor)?;
                same(vec![n, h * factor, w * factor, c])
            }
            Op::PixelShuffle { factor } => {
                let [n, h, w, c] = picture(shape)?;
                let factor = factor_within(*factor)?;
                if !c.is_multiple_of(factor * factor) {
                    return Err(format!("{c} channels do not divide by {factor}²"));
                }
                same(vec![n, h * factor, w * factor, c / (factor * factor)])
            }
            Op::ResizeBicubic { numerator, denominator } => {
                let [n, h, w, c] = picture(shape)?;
                let (up, down) = (factor_within(*numerator)?, factor_within(*denominator)?);
                same(vec![n, h * up / down, w * up / down, c])
            }
            Op::Cast { to } => Ok(vec![TensorType { element: *to, shape: shape.to_vec() }]),
        }
    }

    /// What keeps a tensor's shape or halves its last axis.
    fn normed(&self, op: &Op, given: &[&TensorType]) -> Result<Vec<TensorType>, String> {
        let mut made = given[0].clone();
        let rank = made.shape.len();
        let last = made.shape.last_mut().ok_or("input has no axis")?;
        match op {
            Op::GroupNorm { groups, weight, bias, epsilon, .. } => {
                if rank < 2 || *groups == 0 || !last.is_multiple_of(*groups) {
                    return Err(format!("{:?} does not divide into {groups} groups", given[0].shape));
                }
                self.vector(Some(*weight), *last, "weight")?;
                self.vector(Some(*bias), *last, "bias")?;
                epsilon_within(*epsilon)?;
            }
            Op::LayerNorm { weight, bias, epsilon } => {
                self.vector(Some(*weight), *last, "weight")?;
                self.vector(Some(*bias), *last, "bias")?;
                epsilon_within(*epsilon)?;
            }
            Op::AddChannels => {
                let rows = given[0].shape[..rank - 1].iter().product::<usize>();
                let fits = matches!(*given[1].shape.as_slice(), [parts, c] if c == *last && rows.is_multiple_of(parts));
                if !fits || given[1].element != given[0].element {
                    return Err(format!("{:?} is not one value for each channel of {:?}", given[1], given[0]));
                }
            }
            _ => {
                if !last.is_multiple_of(2) {
                    return Err(format!("last axis of {:?} is odd", given[0].shape));
                }
                *last /= 2;
            }
        }
        Ok(vec![made])
    }

    fn embedded(&self, op: &Op, shape: &[usize]) -> Result<Vec<usize>, String> {
        match op {
            Op::Embedding { weight } => {
                let &[_, channels] = self.weights[weight.0].shape.as_slice() else {
                    return Err(format!("weight has shape {:?}", self.weights[weight.0].shape));
                };
                let &[n, l] = shape else { return Err(format!("takes [batch, length], not {shape:?}")) };
                Ok(vec![n, l, channels])
            }
            Op::TimeEmbedding { channels, shift, .. } => {
                let &[n] = shape else { return Err(format!("takes [batch], not {shape:?}")) };
                let half = *channels as f32 / 2.0;
                if *channels == 0 || !channels.is_multiple_of(2) || shift.is_nan() || *shift >= half {
                    return Err(format!("{channels} channels with shift {shift} make no sinusoids"));
                }
                Ok(vec![n, *channels])
            }
            _ => Err("embeds nothing".to_owned()),
        }
    }

    fn activation(&self, activation: Activation, channels: usize) -> Result<(), String> {
        match activation {
            Activation::Prelu { slopes } => self.vector(Some(slopes), channels, "slopes"),
            Activation::LeakyRelu { slope } if !slope.is_finite() => Err(format!("slope is {slope}")),
            Activation::Relu
            | Activation::LeakyRelu { .. }
            | Activation::Silu
            | Activation::Gelu
            | Activation::QuickGelu => Ok(()),
        }
    }

    fn vector(&self, weight: Option<WeightId>, length: usize, what: &str) -> Result<(), String> {
        match weight {
            Some(weight) if self.weights[weight.0].shape != [length] => {
                Err(format!("{what} has shape {:?}, not [{length}]", self.weights[weight.0].shape))
            }
            _ => Ok(()),
        }
    }
}

fn checked(made: TensorType) -> Result<TensorType, String> {
    if made.shape.len() > RANK_MAX || made.shape.contains(&0) {
        return Err(format!("shape {:?} has a side of 0 or more than {RANK_MAX} axes", made.shape));
    }
    let elements = made.shape.iter().try_fold(1_usize, |all, side| all.checked_mul(*side));
    if elements.is_none_or(|elements| elements > ELEMENTS_MAX) {
        return Err(format!("shape {:?} has more than 2^40 elements", made.shape));
    }
    Ok(made)
}

fn picture(shape: &[usize]) -> Result<[usize; 4], String> {
    shape.try_into().map_err(|_| format!("takes [batch, height, width, channels], not {shape:?}"))
}

fn factor_within(factor: usize) -> Result<usize, String> {
    if (1..=16).contains(&factor) { Ok(factor) } else { Err(format!("factor {factor} is not 1 to 16")) }
}

fn epsilon_within(epsilon: f32) -> Result<(), String> {
    if (0.0..1.0).contains(&epsilon) { Ok(()) } else { Err(format!("epsilon is {epsilon}")) }
}

fn attention(heads: usize, causal: bool, given: &[&TensorType]) -> Result<TensorType, String> {
    let wrong = || format!("{heads} heads do not suit {:?}", given.iter().map(|t| &t.shape).collect::<Vec<_>>());
    let [query, key, value] = given else { return Err(wrong()) };
    let ([n, l @ .., c], [key_n, s @ .., key_c]) = (query.shape.as_slice(), key.shape.as_slice()) else {
        return Err(wrong());
    };
    let sequences =
        !l.is_empty() && !s.is_empty() && (!causal || l.iter().product::<usize>() == s.iter().product::<usize>());
    let fits = key == value && query.element == key.element && n == key_n && c == key_c && sequences;
    if !fits || heads == 0 || !c.is_multiple_of(heads) || c / heads > HEAD_MAX {
        return Err(wrong());
    }
    Ok((*query).clone())
}

fn concat(axis: usize, given: &[&TensorType]) -> Result<TensorType, String> {
    let mut made = given[0].clone();
    if axis >= made.shape.len() {
        return Err(format!("has no axis {axis} in {:?}", made.shape));
    }
    for other in &given[1..] {
        let fits = other.element == made.element
            && other.shape.len() == made.shape.len()
            && other.shape.iter().zip(&made.shape).enumerate().all(|(i, (a, b))| i == axis || a == b);
        if !fits {
            return Err(format!("{:?} does not join {:?} along axis {axis}", other.shape, made.shape));
        }
        made.shape[axis] += other.shape[axis];
    }
    Ok(made)
}

fn reshape(given: &[&TensorType], wanted: &[Side]) -> Result<Vec<usize>, String> {
    let no = || format!("{:?} do not become {wanted:?}", given.iter().map(|one| &one.shape).collect::<Vec<_>>());
    let side = |side: &Side| match *side {
        Side::Is(length) => Ok(Some(length)),
        Side::Left => Ok(None),
        Side::Of { input, axis } => {
            given.get(input).and_then(|lender| lender.shape.get(axis)).map(|side| Some(*side)).ok_or_else(no)
        }
    };
    let sides: Vec<Option<usize>> = wanted.iter().map(side).collect::<Result<_, _>>()?;
    if sides.iter().filter(|side| side.is_none()).count() > 1 {
        return Err(no());
    }
    let known = sides.iter().flatten().try_fold(1_usize, |all, side| all.checked_mul(*side)).ok_or_else(no)?;
    let elements = given[0].len();
    let left = elements.checked_div(known).ok_or_else(no)?;
    let shape: Vec<usize> = sides.iter().map(|side| side.unwrap_or(left)).collect();
    let all = shape.iter().try_fold(1_usize, |all, side| all.checked_mul(*side));
    if all == Some(elements) { Ok(shape) } else { Err(no()) }
}

/// Bytes of one element when it is kept as what it is.
impl Element {
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(op: Op, shapes: &[&[usize]]) -> String {
        let mut graph = Graph::new();
        let inputs: Vec<_> = shapes.iter().map(|_| graph.input()).collect();
        graph.weight("odd", &[8, 5, 3, 3]);
        let end = graph.push("the node", op, &inputs);
        graph.output(end);
        let types: Vec<_> = shapes.iter().map(|shape| TensorType::f32(shape)).collect();
        graph.infer(&types).unwrap_err().to_string()
    }

    #[test]
    fn an_error_names_the_node_and_what_it_was_given() {
        let conv = || Op::Conv2d { weight: WeightId(0), bias: None, stride: 1, pad: Pad::Same, activation: None };
        for (op, shapes, words) in [
            (conv(), vec![&[1, 4, 4, 3][..]], "takes 5 channels, the input has 3"),
            (conv(), vec![&[4, 4, 5][..]], "[4, 4, 5]"),
            (Op::Add, vec![&[1, 2][..], &[2, 1]], "of one type"),
            (Op::Concat { axis: 2 }, vec![&[1, 2][..]], "no axis 2"),
            (Op::Concat { axis: 1 }, vec![&[1, 2][..], &[2, 2]], "does not join"),
            (Op::Reshape { shape: vec![Side::Is(3), Side::Left] }, vec![&[2, 2][..]], "do not become"),
            (Op::Reshape { shape: vec![Side::Is(0), Side::Left] }, vec![&[2, 2][..]], "do not become"),
            (Op::Reshape { shape: vec![Side::Left, Side::Left] }, vec![&[2, 2][..]], "do not become"),
            (
                Op::Reshape { shape: vec![Side::Of { input: 1, axis: 2 }, Side::Left] },
                vec![&[4][..], &[2, 2]],
                "do not become",
            ),
            (
                Op::Reshape { shape: vec![Side::Of { input: 1, axis: 0 }, Side::Left] },
                vec![&[4][..], &[3]],
                "do not become",
            ),
            (Op::Transpose { order: vec![0, 0] }, vec![&[2, 2][..]], "order"),
            (Op::PixelShuffle { factor: 4 }, vec![&[1, 2, 2, 8][..]], "do not divide"),
            (Op::UpsampleNearest { factor: usize::MAX }, vec![&[1, 2, 2, 8][..]], "factor"),
            (Op::ResizeBicubic { numerator: 1, denominator: 4 }, vec![&[1, 2, 2, 3][..]], "side of 0"),
            (Op::UpsampleNearest { factor: 4 }, vec![&[1, 1 << 19, 1 << 19, 3][..]], "2^40"),
            (Op::Geglu, vec![&[2, 3][..]], "odd"),
            (Op::AddChannels, vec![&[2, 5, 4][..], &[3, 4]], "one value for each channel"),
            (Op::AddChannels, vec![&[2, 5, 4][..], &[2, 2]], "one value for each channel"),
            (Op::AddChannels, vec![&[2, 5, 4][..]], "takes 2 inputs"),
            (Op::Attention { heads: 3, causal: false }, vec![&[1, 5, 8][..]; 3], "3 heads"),
            (Op::Attention { heads: 0, causal: false }, vec![&[1, 5, 8][..]; 3], "0 heads"),
            (Op::Attention { heads: 1, causal: false }, vec![&[1, 5, 513][..]; 3], "1 heads"),
            (Op::Attention { heads: 1, causal: true }, vec![&[1, 5, 8][..], &[1, 6, 8], &[1, 6, 8]], "1 heads"),
            (Op::Attention { heads: 1, causal: false }, vec![&[1, 8][..]; 3], "1 heads"),
            (Op::Embedding { weight: WeightId(0) }, vec![&[1, 5][..]], "[8, 5, 3, 3]"),
            (Op::TimeEmbedding { channels: 2, flip: true, shift: 1.0 }, vec![&[1][..]], "no sinusoids"),
            (
                Op::GroupNorm { groups: 2, weight: WeightId(0), bias: WeightId(0), epsilon: 1e-5, silu: false },
                vec![&[1, 4, 3][..]],
                "2 groups",
            ),
            (
                Op::LayerNorm { weight: WeightId(0), bias: WeightId(0), epsilon: 1e-5 },
                vec![&[1, 3][..]],
                "weight has shape [8, 5, 3, 3], not [3]",
            ),
            (
                Op::Conv2d { weight: WeightId(0), bias: None, stride: 1, pad: Pad::End, activation: None },
                vec![&[1, 4, 4, 5][..]],
                "at the end",
            ),
            (Op::Scale { factor: f32::NAN }, vec![&[1][..]], "NaN"),
        ] {
            let error = error(op, &shapes);
            assert!(error.contains(words), "{error}");
            assert!(error.starts_with("node `the node`"), "{error}");
        }
    }

    #[test]
    fn a_reshape_borrows_the_sides_that_the_graph_does_not_know() {
        let mut graph = Graph::new();
        let (rows, like) = (graph.input(), graph.input());
        let shape = vec![Side::Left, Side::Of { input: 1, axis: 0 }, Side::Of { input: 0, axis: 1 }];
        let end = graph.push("reshape", Op::Reshape { shape }, &[rows, like]);
        graph.output(end);
        for (clips, frames) in [(1, 4), (2, 4), (3, 1)] {
            let types = graph.infer(&[TensorType::f32(&[clips * frames, 5]), TensorType::f32(&[frames])]).unwrap();
            assert_eq!(types[end.0], Some(TensorType::f32(&[clips, frames, 5])));
        }
    }

    #[test]
    fn lengths_that_do_not_add_up_are_refused() {
        let mut graph = Graph::new();
        let input = graph.input();
        graph.split("cut", input, 1, &[2, 3]);
        assert!(graph.infer(&[TensorType::f32(&[1, 5])]).is_ok());
        assert!(graph.infer(&[TensorType::f32(&[1, 6])]).unwrap_err().to_string().contains("`cut`"));
    }
}
