//! Random cases of every operation, for whichever executor is under test.
//!
//! A [`Case`] is a graph of one operation with weights and inputs, all from a seed. The CPU executor is held against
//! [`reference`]; every other executor is held against the CPU executor with the same cases.

#![allow(dead_code, reason = "each test file that includes this uses a part of it")]

pub(crate) mod reference;

use std::sync::atomic::AtomicBool;

use backlot_agent::infer::executor::{Executor, Input};
use backlot_agent::infer::graph::{Activation, Element, Graph, Op, Pad, Side, ValueId, WeightId};
use backlot_agent::infer::weights::Weights;
use bytes::Bytes;

/// What a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Conv,
    ConvEnd,
    Linear,
    Activate,
    Add,
    Mul,
    Scale,
    Concat,
    Split,
    Reshape,
    Transpose,
    Upsample,
    Shuffle,
    Bicubic,
    Cast,
    GroupNorm,
    LayerNorm,
    Geglu,
    Attention,
    Embedding,
    TimeEmbedding,
    AddChannels,
}

pub(crate) const ALL: [Kind; 22] = [
    Kind::Conv,
    Kind::ConvEnd,
    Kind::Linear,
    Kind::Activate,
    Kind::Add,
    Kind::Mul,
    Kind::Scale,
    Kind::Concat,
    Kind::Split,
    Kind::Reshape,
    Kind::Transpose,
    Kind::Upsample,
    Kind::Shuffle,
    Kind::Bicubic,
    Kind::Cast,
    Kind::GroupNorm,
    Kind::LayerNorm,
    Kind::Geglu,
    Kind::Attention,
    Kind::Embedding,
    Kind::TimeEmbedding,
    Kind::AddChannels,
];

/// An f32 tensor.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Vec<f32>,
}

/// One operation with everything that it takes.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) graph: Graph,
    pub(crate) weights: Weights,
    pub(crate) inputs: Vec<Tensor>,
}

/// A linear congruential generator: no test needs better.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(2).wrapping_add(1));
        random.unit(); // seeds beside each other differ from the second number on
        random
    }

    /// -1 to 1.
    pub(crate) fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(crate) fn within(&mut self, range: std::ops::Range<usize>) -> usize {
        let share = (self.unit() + 1.0) / 2.0;
        (range.start + (share * range.len() as f32) as usize).min(range.end - 1)
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.within(0..from.len())]
    }

    pub(crate) fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let data = (0..shape.iter().product()).map(|_| self.unit()).collect();
        Tensor { shape: shape.to_vec(), data }
    }
}

/// Weights through a real safetensors file in memory.
pub(crate) fn weights(tensors: &[(&str, &Tensor)]) -> Weights {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, tensor) in tensors {
        let start = data.len();
        data.extend(tensor.data.iter().flat_map(|value| value.to_le_bytes()));
        let entry = serde_json::json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert((*name).to_owned(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    Weights::safetensors(&Bytes::from(file)).unwrap()
}

/// Runs a case; outputs in the graph's order.
pub(crate) fn run(executor: &dyn Executor, case: &Case) -> Vec<Tensor> {
    let mut program = executor.load(case.graph.clone(), &case.weights).unwrap();
    let inputs: Vec<_> = case.inputs.iter().map(|t| Input { shape: &t.shape, data: &t.data }).collect();
    let made = program.run(&inputs, &AtomicBool::new(false), &mut |_, _| {}).unwrap();
    made.into_iter().map(|output| Tensor { shape: output.shape, data: output.data.to_vec() }).collect()
}

/// Largest difference, relative to the largest value of `b` where that is above one.
pub(crate) fn off(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.shape, b.shape);
    let size = b.data.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    let worst = a.data.iter().zip(&b.data).map(|(a, b)| (a - b).abs());
    worst.fold(0.0, |most, off| if off.is_nan() { f32::INFINITY } else { most.max(off) }) / size
}

struct Builder {
    graph: Graph,
    tensors: Vec<(String, Tensor)>,
    inputs: Vec<Tensor>,
    random: Random,
}

impl Builder {
    fn input(&mut self, shape: &[usize]) -> ValueId {
        let tensor = self.random.tensor(shape);
        self.inputs.push(tensor);
        self.graph.input()
    }

    fn weight(&mut self, name: &str, shape: &[usize]) -> WeightId {
        let tensor = self.random.tensor(shape);
        self.tensors.push((name.to_owned(), tensor));
        self.graph.weight(name, shape)
    }

    /// A picture of up to 12 by 12.
    fn picture(&mut self, channels: usize) -> ValueId {
        let shape = [self.random.within(1..3), self.random.within(2..13), self.random.within(2..13), channels];
        self.input(&shape)
    }
}

/// The case of this kind that `seed` makes. Equal seeds make equal cases on every machine.
pub(crate) fn case(kind: Kind, seed: u64) -> Case {
    let mut b = Builder { graph: Graph::new(), tensors: Vec::new(), inputs: Vec::new(), random: Random::new(seed) };
    let channels = {
        let r = &mut b.random;
        r.pick(&[1, 3, 4, 8, 12, 16, 20, 32, 40])
    };
    let (op, inputs) = match kind {
        Kind::Conv | Kind::ConvEnd => {
            let end = kind == Kind::ConvEnd;
            let input = b.picture(channels);
            let outputs = b.random.pick(&[1, 3, 4, 16, 17, 32]);
            let [lines, columns] = if end { [3, 3] } else { b.random.pick(&[[1, 1], [3, 3], [3, 1]]) };
            let stride = match (end, lines == columns) {
                (true, _) => 2,
                (false, true) => b.random.pick(&[1, 2]),
                (false, false) => 1,
            };
            let pad = if end { Pad::End } else { Pad::Same };
            let weight = b.weight("w", &[outputs, channels, lines, columns]);
            let bias = b.random.pick(&[true, false]).then(|| b.weight("b", &[outputs]));
            let op = Op::Conv2d { weight, bias, stride, pad, activation: None };
            let [n, h, w] = [0, 1, 2].map(|axis| b.inputs[0].shape[axis]);
            let side = |side: usize| if end { side / 2 } else { side.div_ceil(stride) };
            return layer(b, op, input, &[n, side(h), side(w), outputs]);
        }
        Kind::Linear => {
            let (rows, outputs) = (b.random.within(1..40), b.random.within(1..70));
            let input = b.input(&[1, rows, channels]);
            let weight = b.weight("w", &[outputs, channels]);
            let bias = b.random.pick(&[true, false]).then(|| b.weight("b", &[outputs]));
            return layer(b, Op::Linear { weight, bias }, input, &[1, rows, outputs]);
        }
        Kind::Activate => {
            let input = b.picture(channels);
            let slopes = b.weight("slopes", &[channels]);
            let activation = b.random.pick(&[
                Activation::Relu,
                Activation::LeakyRelu { slope: 0.2 },
                Activation::Prelu { slopes },
                Activation::Silu,
                Activation::Gelu,
                Activation::QuickGelu,
            ]);
            b.inputs[0].data.iter_mut().for_each(|value| *value *= 8.0);
            (Op::Activate(activation), vec![input])
        }
        Kind::Add | Kind::Mul => {
            let first = b.picture(channels);
            let shape = b.inputs[0].shape.clone();
            let mut inputs = vec![first];
            for _ in 0..b.random.within(1..3) {
                inputs.push(b.input(&shape));
            }
            (if kind == Kind::Add { Op::Add } else { Op::Mul }, inputs)
        }
        Kind::Scale => (Op::Scale { factor: 0.37 }, vec![b.picture(channels)]),
        Kind::Concat => {
            let first = b.picture(channels);
            let axis = b.random.within(0..4);
            let mut shape = b.inputs[0].shape.clone();
            let mut inputs = vec![first];
            for _ in 0..b.random.within(1..3) {
                shape[axis] = b.random.within(1..9);
                inputs.push(b.input(&shape));
            }
            (Op::Concat { axis }, inputs)
        }
        Kind::Split => {
            let input = b.picture(channels);
            let axis = b.random.within(0..4);
            let along = b.inputs[0].shape[axis];
            let first = b.random.within(1..along.max(2)).min(along);
            let lengths = if first == along { vec![along] } else { vec![first, along - first] };
            let outputs = b.graph.split("case", input, axis, &lengths);
            outputs.into_iter().for_each(|output| b.graph.output(output));
            return finish(b);
        }
        Kind::Reshape => {
            let input = b.picture(channels);
            let batch = b.inputs[0].shape[0];
            // Shapes alone are read of what is lent.
            let lender = b.input(&[3, batch]);
            let first = b.random.pick(&[Side::Is(batch), Side::Of { input: 1, axis: 1 }]);
            let last = b.random.pick(&[Side::Is(channels), Side::Of { input: 0, axis: 3 }]);
            (Op::Reshape { shape: vec![first, Side::Left, last] }, vec![input, lender])
        }
        Kind::Transpose => {
            let input = b.picture(channels);
            let order = b.random.pick(&[[0, 3, 1, 2], [0, 2, 1, 3], [3, 2, 1, 0], [1, 0, 2, 3]]).to_vec();
            (Op::Transpose { order }, vec![input])
        }
        Kind::Upsample => (Op::UpsampleNearest { factor: b.random.within(1..5) }, vec![b.picture(channels)]),
        Kind::Shuffle => {
            let factor = b.random.within(1..4);
            let channels = channels.min(8) * factor * factor;
            (Op::PixelShuffle { factor }, vec![b.picture(channels)])
        }
        Kind::Bicubic => {
            let (numerator, denominator) = b.random.pick(&[(2, 1), (3, 4), (1, 2), (3, 2)]);
            (Op::ResizeBicubic { numerator, denominator }, vec![b.picture(channels)])
        }
        Kind::Cast => (Op::Cast { to: Element::F16 }, vec![b.picture(channels)]),
        Kind::GroupNorm => {
            let groups = b.random.pick(&[1, 2, 4, 8]);
            let channels = groups * b.random.within(1..9);
            let input = b.picture(channels);
            // A mean far from zero is what naive variances fail on.
            let mean = b.random.pick(&[0.0, 30.0]);
            b.inputs[0].data.iter_mut().for_each(|value| *value += mean);
            let (weight, bias) = (b.weight("w", &[channels]), b.weight("b", &[channels]));
            (Op::GroupNorm { groups, weight, bias, epsilon: 1e-5, silu: b.random.pick(&[true, false]) }, vec![input])
        }
        Kind::LayerNorm => {
            let (rows, channels) = (b.random.within(1..70), channels + b.random.within(1..9));
            let input = b.input(&[2, rows, channels]);
            let (weight, bias) = (b.weight("w", &[channels]), b.weight("b", &[channels]));
            (Op::LayerNorm { weight, bias, epsilon: 1e-5 }, vec![input])
        }
        Kind::Geglu => {
            let rows = b.random.within(1..50);
            let input = b.input(&[2, rows, 2 * channels]);
            b.inputs[0].data.iter_mut().for_each(|value| *value *= 4.0);
            (Op::Geglu, vec![input])
        }
        Kind::Attention => {
            let (heads, size) = (b.random.within(1..4), b.random.pick(&[1, 3, 8, 16, 40, 64, 80, 128, 160, 512]));
            let causal = b.random.pick(&[true, false]);
            let (n, l) = (b.random.within(1..3), b.random.within(1..40));
            let s = if causal { l } else { b.random.pick(&[1, 2, 15, 16, 17, 77, 255, 256, 257, 600]) };
            let shapes = [[n, l, heads * size], [n, s, heads * size], [n, s, heads * size]];
            let inputs = shapes.map(|shape| b.input(&shape)).to_vec();
            if l.is_multiple_of(2) && b.random.pick(&[true, false]) {
                // The pixels of a picture are a sequence as they stand.
                b.inputs[0].shape = vec![n, 2, l / 2, heads * size];
            }
            // Scores of some size: the softmax is neither flat nor one key alone.
            b.inputs[0].data.iter_mut().for_each(|value| *value *= 4.0);
            (Op::Attention { heads, causal }, inputs)
        }
        Kind::Embedding => {
            let (rows, n, l) = (b.random.within(1..50), b.random.within(1..3), b.random.within(1..20));
            let input = b.input(&[n, l]);
            let numbers: Vec<f32> = (0..n * l).map(|_| b.random.within(0..rows) as f32).collect();
            b.inputs[0].data = numbers;
            (Op::Embedding { weight: b.weight("w", &[rows, channels]) }, vec![input])
        }
        Kind::TimeEmbedding => {
            let n = b.random.within(1..5);
            let input = b.input(&[n]);
            b.inputs[0].data.iter_mut().for_each(|value| *value = (*value * 500.0 + 500.0).round());
            let (flip, shift) = b.random.pick(&[(true, 0.0), (false, 1.0)]);
            (Op::TimeEmbedding { channels: 2 * b.random.within(2..200), flip, shift }, vec![input])
        }
        Kind::AddChannels => {
            let input = b.picture(channels);
            // A row for each picture, for each line of one, or for all of them.
            let [n, h] = [0, 1].map(|axis| b.inputs[0].shape[axis]);
            let row = [b.random.pick(&[n, n * h, 1]), channels];
            (Op::AddChannels, vec![input, b.input(&row)])
        }
    };
    let end = b.graph.push("case", op, &inputs);
    b.graph.output(end);
    finish(b)
}

/// A layer alone, or with something of the shape `made` added to what it makes, which an executor may do in one.
fn layer(mut b: Builder, op: Op, input: ValueId, made: &[usize]) -> Case {
    let mut end = b.graph.push("case", op, &[input]);
    if b.random.pick(&[true, false]) {
        let plus = b.input(made);
        let both = b.random.pick(&[[plus, end], [end, plus]]);
        end = b.graph.push("sum", Op::Add, &both);
    }
    b.graph.output(end);
    finish(b)
}

fn finish(b: Builder) -> Case {
    let tensors: Vec<(&str, &Tensor)> = b.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    Case { weights: weights(&tensors), graph: b.graph, inputs: b.inputs }
}
