//! What a node's weights become when a program is loaded.
//!
//! Large matrices stay in their file, which is mapped, and become floats a part at a time when their node runs: a model
//! takes the memory that its file has, and loading it is reading it once.

use backlot_kernels::{Conv, Pad as Zeros};

use super::fault;
use crate::infer::executor::ExecError;
use crate::infer::graph::{Activation, Graph, Node, Op, Pad, WeightId};
use crate::infer::weights::{Lazy, Weights};

/// What a node needs beyond its operation: its weights, packed.
pub(super) enum Step {
    Plain,
    Conv(Conv),
    Slopes(Vec<f32>),
    Norm { weight: Vec<f32>, bias: Vec<f32> },
    Rows(Lazy),
}

/// Reads and packs the weights of one node.
///
/// # Errors
/// [`ExecError`] names the node or the weight.
pub(super) fn pack(graph: &Graph, node: &Node, weights: &Weights) -> Result<Step, ExecError> {
    let values = |id: WeightId| {
        let decl = graph.weight_decl(id);
        weights.values(&decl.name, &decl.shape)
    };
    let source = |id: WeightId| {
        let decl = graph.weight_decl(id);
        weights.source(&decl.name, &decl.shape)
    };
    let maybe = |id: Option<WeightId>| id.map(values).transpose();
    Ok(match &node.op {
        Op::Conv2d { weight, bias, stride, pad, activation } => {
            let &[outputs, inputs, lines, columns] = graph.weight_decl(*weight).shape.as_slice() else {
                return Err(fault(node, "weight is not [out, in, lines, columns]"));
            };
            let padded = *pad == Pad::Same || (lines, *stride) == (3, 2);
            if !matches!((lines, columns, *stride), (1, 1, 1 | 2) | (3, 3, 1 | 2) | (3, 1, 1)) || !padded {
                return Err(fault(node, "kernel or stride is not supported"));
            }
            let slopes = match activation {
                None => None,
                Some(Activation::Relu) => Some(vec![0.0; outputs]),
                Some(Activation::LeakyRelu { slope }) => Some(vec![*slope; outputs]),
                Some(Activation::Prelu { slopes }) => Some(values(*slopes)?),
                Some(Activation::Silu | Activation::Gelu | Activation::QuickGelu) => {
                    return Err(fault(node, "only what bends at zero joins a convolution"));
                }
            };
            let bias = maybe(*bias)?;
            let fits = |given: &Option<Vec<f32>>| given.as_ref().is_none_or(|given| given.len() == outputs);
            if !fits(&bias) || !fits(&slopes) {
                return Err(fault(node, "bias or slopes do not suit the weight"));
            }
            let zeros = if *pad == Pad::Same { Zeros::Same } else { Zeros::End };
            let dims = [outputs, inputs, lines, columns];
            Step::Conv(Conv::new(Box::new(source(*weight)?), bias.as_deref(), slopes.as_deref(), dims, *stride, zeros))
        }
        Op::Linear { weight, bias } => {
            let &[outputs, inputs] = graph.weight_decl(*weight).shape.as_slice() else {
                return Err(fault(node, "weight is not [out, in]"));
            };
            let bias = maybe(*bias)?;
            if bias.as_ref().is_some_and(|bias| bias.len() != outputs) {
                return Err(fault(node, "bias does not suit the weight"));
            }
            let dims = [outputs, inputs, 1, 1];
            Step::Conv(Conv::new(Box::new(source(*weight)?), bias.as_deref(), None, dims, 1, Zeros::Same))
        }
        Op::Activate(Activation::Prelu { slopes }) => Step::Slopes(values(*slopes)?),
        Op::Activate(Activation::Relu) => Step::Slopes(vec![0.0]),
        Op::Activate(Activation::LeakyRelu { slope }) => Step::Slopes(vec![*slope]),
        Op::GroupNorm { weight, bias, .. } | Op::LayerNorm { weight, bias, .. } => {
            Step::Norm { weight: values(*weight)?, bias: values(*bias)? }
        }
        Op::Embedding { weight } => Step::Rows(source(*weight)?),
        _ => Step::Plain,
    })
}
