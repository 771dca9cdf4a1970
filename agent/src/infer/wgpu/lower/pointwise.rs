//! What is done to each element.

use super::super::kernels::Source;
use super::super::template::Definitions;
use super::{Bind, Dispatch, Lowering, number};
use crate::infer::executor::ExecError;
use crate::infer::graph::{Activation, Element, Op, ValueId};

const POINTWISE: Source = Source { name: "pointwise", text: include_str!("../shaders/pointwise.wgsl") };
pub(super) const GELU: &str = include_str!("../shaders/gelu.wgsl");
/// A vector in and a vector out, in multiplications.
const COST: u64 = 64;

/// An activation of `a` in WGSL, with the functions that it calls. Slopes by channel are called `s`.
pub(super) fn activation(activation: Activation) -> (String, &'static str) {
    let expression = match activation {
        Activation::Relu => "max(a, vec4<f32>(0.0))".to_owned(),
        Activation::LeakyRelu { slope } => format!("max(a, vec4<f32>(0.0)) + {slope:?}f * min(a, vec4<f32>(0.0))"),
        Activation::Prelu { .. } => "max(a, vec4<f32>(0.0)) + s * min(a, vec4<f32>(0.0))".to_owned(),
        // e^80 is far from where f32 ends, and one over it is nothing.
        Activation::Silu => "a / (1.0 + exp(min(-a, vec4<f32>(80.0))))".to_owned(),
        Activation::QuickGelu => "a / (1.0 + exp(min(-1.702 * a, vec4<f32>(80.0))))".to_owned(),
        Activation::Gelu => return ("gelu(a)".to_owned(), GELU),
    };
    (expression, "")
}

impl Lowering<'_> {
    pub(super) fn pointwise(&self, first: ValueId, output: ValueId) -> Result<Vec<Dispatch>, ExecError> {
        let (expression, functions, factor) = match &self.node.op {
            Op::Activate(kind) => {
                let (expression, functions) = activation(*kind);
                (expression, functions, 0.0)
            }
            Op::Scale { factor } => ("a * p.factor".to_owned(), "", *factor),
            Op::Cast { to: Element::F16 } => ("quantizeToF16(a)".to_owned(), "", 0.0),
            Op::Cast { to: Element::F32 } => ("a".to_owned(), "", 0.0),
            Op::Add | Op::AddChannels => ("a + b".to_owned(), "", 0.0),
            Op::Mul => ("a * b".to_owned(), "", 0.0),
            _ => return Err(self.wrong("is not done element by element")),
        };
        let channels = self.shape(first).last().copied().unwrap_or(1);
        let count = self.len(output).div_ceil(4);
        // Elements that get the same row, where rows are added.
        let parts = self.node.inputs.get(1).map_or(1, |second| (self.len(*second) / channels).max(1));
        let picture = self.len(first) / parts;
        let numbers = vec![number(count), number(channels), number(picture), factor.to_bits()];
        let slopes = matches!(self.node.op, Op::Activate(Activation::Prelu { .. }));
        let by_channel = self.node.op == Op::AddChannels;
        let two = matches!(self.node.op, Op::Add | Op::Mul | Op::AddChannels);
        let definitions = Definitions::default()
            .set("expression", expression)
            .set("functions", functions)
            .flag("slopes", slopes)
            .flag("by_channel", by_channel)
            .flag("second", two && !by_channel);
        let one = |mut binds: Vec<Bind>| {
            if slopes {
                binds.push(Bind::Weight(0));
            }
            self.each(POINTWISE, definitions.clone(), binds, count, numbers.clone(), COST)
        };
        if !two {
            return Ok(vec![one(vec![Bind::Value(output), Bind::Value(first)])]);
        }
        // Three or more are added to what the first two have made.
        let others = &self.node.inputs[1..];
        let made = others.iter().enumerate().map(|(at, other)| {
            let so_far = if at == 0 { first } else { output };
            one(vec![Bind::Value(output), Bind::Value(so_far), Bind::Value(*other)])
        });
        Ok(made.collect())
    }
}
