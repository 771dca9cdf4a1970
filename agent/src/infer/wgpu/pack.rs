//! Weights as the kernels read them: padded with zeros, in the order of the inner loop, in f16 or f32.

use half::f16;

use crate::infer::executor::ExecError;
use crate::infer::graph::{Activation, Graph, Node, Op, WeightId};
use crate::infer::weights::{WeightError, Weights};

/// One tensor on the GPU.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Packing {
    /// `[tap][input][output]`, inputs and outputs padded to multiples of four.
    Matrix { weight: WeightId, outputs: usize, inputs: usize, taps: usize },
    /// Padded to a multiple of four; zeros where there is none.
    Vector { weight: Option<WeightId>, length: usize },
    /// As it is in the file.
    Plain { weight: WeightId, length: usize },
}

fn four(length: usize) -> usize {
    length.next_multiple_of(4)
}

impl Packing {
    /// Elements on the GPU.
    pub(crate) fn len(&self) -> usize {
        match *self {
            Self::Matrix { outputs, inputs, taps, .. } => taps * four(inputs) * four(outputs),
            Self::Vector { length, .. } | Self::Plain { length, .. } => four(length),
        }
    }

    pub(crate) fn values(&self, graph: &Graph, weights: &Weights) -> Result<Vec<f32>, WeightError> {
        let stored = |id: WeightId| {
            let decl = graph.weight_decl(id);
            weights.values(&decl.name, &decl.shape)
        };
        let mut made = vec![0.0; self.len()];
        match *self {
            Self::Matrix { weight, outputs, inputs, taps } => {
                let from = stored(weight)?;
                let wide = four(outputs);
                for (output, rows) in from.chunks_exact(inputs * taps).enumerate() {
                    for (input, row) in rows.chunks_exact(taps).enumerate() {
                        for (tap, value) in row.iter().enumerate() {
                            made[(tap * four(inputs) + input) * wide + output] = *value;
                        }
                    }
                }
            }
            Self::Vector { weight: Some(weight), length } | Self::Plain { weight, length } => {
                made[..length].copy_from_slice(&stored(weight)?);
            }
            Self::Vector { weight: None, .. } => {}
        }
        Ok(made)
    }

    /// For an error that names it.
    pub(crate) fn name<'a>(&self, graph: &'a Graph) -> &'a str {
        match *self {
            Self::Matrix { weight, .. } | Self::Vector { weight: Some(weight), .. } | Self::Plain { weight, .. } => {
                graph.weight_decl(weight).name.as_str()
            }
            Self::Vector { weight: None, .. } => "zeros",
        }
    }
}

/// Elements as bytes.
pub(crate) fn bytes(values: &[f32], has_f16: bool) -> Vec<u8> {
    if has_f16 {
        values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
    } else {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }
}

/// What the kernels of `node` bind, in this order.
///
/// # Errors
/// [`ExecError::Compute`] for a node that no kernel can run.
pub(crate) fn of_node(graph: &Graph, node: &Node) -> Result<Vec<Packing>, ExecError> {
    let wrong = |problem: &str| ExecError::Compute { node: node.name.clone(), problem: problem.to_owned() };
    Ok(match &node.op {
        Op::Conv2d { weight, bias, activation, .. } => {
            let &[outputs, inputs, lines, columns] = graph.weight_decl(*weight).shape.as_slice() else {
                return Err(wrong("weight is not [out, in, lines, columns]"));
            };
            let mut made = vec![
                Packing::Matrix { weight: *weight, outputs, inputs, taps: lines * columns },
                Packing::Vector { weight: *bias, length: outputs },
            ];
            made.extend(activation.and_then(|activation| slopes(graph, activation)));
            made
        }
        Op::Linear { weight, bias } => {
            let &[outputs, inputs] = graph.weight_decl(*weight).shape.as_slice() else {
                return Err(wrong("weight is not [out, in]"));
            };
            vec![
                Packing::Matrix { weight: *weight, outputs, inputs, taps: 1 },
                Packing::Vector { weight: *bias, length: outputs },
            ]
        }
        Op::GroupNorm { weight, bias, .. } | Op::LayerNorm { weight, bias, .. } => {
            vec![vector(graph, *weight), vector(graph, *bias)]
        }
        Op::Embedding { weight } => {
            vec![Packing::Plain { weight: *weight, length: graph.weight_decl(*weight).shape.iter().product() }]
        }
        Op::Activate(activation) => slopes(graph, *activation).into_iter().collect(),
        _ => Vec::new(),
    })
}

fn slopes(graph: &Graph, activation: Activation) -> Option<Packing> {
    let Activation::Prelu { slopes } = activation else { return None };
    Some(vector(graph, slopes))
}

fn vector(graph: &Graph, weight: WeightId) -> Packing {
    Packing::Vector { weight: Some(weight), length: graph.weight_decl(weight).shape.iter().product() }
}
