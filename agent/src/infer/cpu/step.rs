//! What a node's weights become when a program is loaded.

use backlot_kernels::{Conv, Pad as Zeros};
use candle_core::{Device, Tensor};

use super::fault;
use crate::infer::executor::ExecError;
use crate::infer::graph::{Activation, Graph, Node, Op, Pad, WeightId};
use crate::infer::weights::Weights;

/// What a node needs beyond its operation: its weights, packed.
pub(super) enum Step {
    Plain,
    Conv(Conv),
    Linear { weight: Tensor, bias: Option<Vec<f32>> },
    Slopes(Vec<f32>),
    Norm { weight: Vec<f32>, bias: Vec<f32> },
    Rows(Vec<f32>),
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
    let maybe = |id: Option<WeightId>| id.map(values).transpose();
    Ok(match &node.op {
        Op::Conv2d { weight, bias, stride, pad, activation } => {
            let &[outputs, inputs, kernel, kernel_x] = graph.weight_decl(*weight).shape.as_slice() else {
                return Err(fault(node, "weight is not [out, in, k, k]"));
            };
            let padded = *pad == Pad::Same || (kernel, *stride) == (3, 2);
            if kernel != kernel_x || !matches!(kernel, 1 | 3) || !matches!(stride, 1 | 2) || !padded {
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
            let dims = [outputs, inputs, kernel];
            Step::Conv(Conv::new(&values(*weight)?, bias.as_deref(), slopes.as_deref(), dims, *stride, zeros))
        }
        Op::Linear { weight, bias } => {
            let decl = graph.weight_decl(*weight);
            let transposed = Tensor::from_vec(values(*weight)?, decl.shape.as_slice(), &Device::Cpu)
                .and_then(|tensor| tensor.t()?.contiguous())
                .map_err(|error| fault(node, error))?;
            Step::Linear { weight: transposed, bias: maybe(*bias)? }
        }
        Op::Activate(Activation::Prelu { slopes }) => Step::Slopes(values(*slopes)?),
        Op::Activate(Activation::Relu) => Step::Slopes(vec![0.0]),
        Op::Activate(Activation::LeakyRelu { slope }) => Step::Slopes(vec![*slope]),
        Op::GroupNorm { weight, bias, .. } | Op::LayerNorm { weight, bias, .. } => {
            Step::Norm { weight: values(*weight)?, bias: values(*bias)? }
        }
        Op::Embedding { weight } => Step::Rows(values(*weight)?),
        _ => Step::Plain,
    })
}
