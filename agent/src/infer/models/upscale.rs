//! Real-ESRGAN: from ncnn's files to a graph.
//!
//! Two networks share this: the small one for video (`animevideov3`: 18 convolutions with PReLU, a pixel shuffle to
//! four times the size, the picture itself added; ×2 and ×3 shrink that by a bicubic step) and the residual dense
//! one (`x4plus`, `x4plus-anime`). Both are what their `.param` files say: each line becomes at most a few nodes.
//! A picture goes in and comes out as `[1, height, width, 3]` with values from 0 to 1, unclamped.

use std::collections::HashMap;

use bytes::Bytes;

use crate::infer::graph::{Activation, Graph, Op, Pad, TensorType, ValueId};
use crate::infer::weights::{WeightError, Weights, ncnn};

/// Layers are channels-first in the file; this is where the channel axis lies in ours.
const CHANNELS: usize = 3;

/// Reads a pair of files as an upscaler by `scale`.
///
/// # Errors
/// [`WeightError`]: the files are damaged, or hold a network that is no such upscaler.
pub fn read(param: &[u8], bin: &Bytes, scale: u32) -> Result<(Graph, Weights), WeightError> {
    let (layers, weights) = ncnn::read(param, bin)?;
    let mut builder = Builder { graph: Graph::new(), values: HashMap::new() };
    for layer in &layers {
        builder.layer(layer)?;
    }
    let last = layers.last().and_then(|layer| layer.outputs.last().map(|name| (layer, name)));
    let Some((layer, output)) = last else {
        return Err(WeightError::Line { line: 2, problem: "the network has no output".to_owned() });
    };
    let end = builder.value(layer, output)?;
    builder.graph.output(end);
    let graph = builder.graph.fuse();
    let probe = [TensorType::f32(&[1, 12, 8, 3])];
    let types = graph.infer(&probe).map_err(|error| layer.wrong(error))?;
    let side = scale as usize;
    if types[end.0].as_ref() != Some(&TensorType::f32(&[1, 12 * side, 8 * side, 3])) {
        return Err(layer.wrong(format!("makes {:?} of {:?}, not {scale} times as large", types[end.0], probe)));
    }
    Ok((graph, weights))
}

struct Builder {
    graph: Graph,
    /// By the name that the file gives it.
    values: HashMap<String, ValueId>,
}

impl Builder {
    fn layer(&mut self, layer: &ncnn::Layer) -> Result<(), WeightError> {
        let inputs: Vec<ValueId> = layer.inputs.iter().map(|name| self.value(layer, name)).collect::<Result<_, _>>()?;
        if layer.kind == "Split" {
            // ncnn counts readers by copies; here a value may have many.
            let &[input] = inputs.as_slice() else { return Err(layer.wrong("takes one input")) };
            return layer.outputs.iter().try_for_each(|name| self.name(layer, name, input));
        }
        let [output] = layer.outputs.as_slice() else { return Err(layer.wrong("should have one output")) };
        let made = match layer.kind.as_str() {
            "Input" if inputs.is_empty() && self.graph.inputs().is_empty() => self.graph.input(),
            "Convolution" => self.convolution(layer, &inputs)?,
            "PReLU" => {
                let slopes = self.graph.weight(format!("{}.slopes", layer.name), &[layer.whole(0, 0)?]);
                self.graph.push(&layer.name, Op::Activate(Activation::Prelu { slopes }), &inputs)
            }
            "Concat" if layer.whole(0, 0)? == 0 => self.graph.push(&layer.name, Op::Concat { axis: CHANNELS }, &inputs),
            "PixelShuffle" if layer.whole(1, 0)? == 0 => {
                self.graph.push(&layer.name, Op::PixelShuffle { factor: layer.whole(0, 1)? }, &inputs)
            }
            "BinaryOp" if layer.whole(1, 0)? == 0 => {
                let op = match layer.whole(0, 0)? {
                    0 => Op::Add,
                    2 => Op::Mul,
                    other => return Err(layer.wrong(format!("has operation {other}; 0 (add) and 2 (mul) are read"))),
                };
                self.graph.push(&layer.name, op, &inputs)
            }
            "Eltwise" if layer.whole(0, 0)? == 1 => self.weighted_sum(layer, inputs)?,
            "Interp" => self.resize(layer, &inputs)?,
            _ => return Err(layer.wrong("is not part of an upscaler that this agent reads")),
        };
        self.name(layer, output, made)
    }

    fn convolution(&mut self, layer: &ncnn::Layer, inputs: &[ValueId]) -> Result<ValueId, WeightError> {
        let (shape, bias) = ncnn::convolution_shape(layer)?;
        let plain = layer.whole(2, 1)? == 1 && layer.whole(4, 0)? == shape[3] / 2;
        if !plain {
            return Err(layer.wrong("is dilated or does not keep the picture's size"));
        }
        let outputs = shape[0];
        let weight = self.graph.weight(format!("{}.weight", layer.name), &shape);
        let bias = bias.then(|| self.graph.weight(format!("{}.bias", layer.name), &[outputs]));
        let op = Op::Conv2d { weight, bias, stride: layer.whole(3, 1)?, pad: Pad::Same, activation: None };
        let made = self.graph.push(&layer.name, op, inputs);
        let activation = match layer.whole(9, 0)? {
            0 => return Ok(made),
            1 => Activation::Relu,
            2 => {
                #[allow(clippy::cast_possible_truncation, reason = "a slope is computed with in f32")]
                let slope = *layer.list(10).first().ok_or_else(|| layer.wrong("has no slope"))? as f32;
                Activation::LeakyRelu { slope }
            }
            other => return Err(layer.wrong(format!("has activation {other}; 0 to 2 are read"))),
        };
        Ok(self.graph.push(format!("{} activation", layer.name), Op::Activate(activation), &[made]))
    }

    fn weighted_sum(&mut self, layer: &ncnn::Layer, inputs: Vec<ValueId>) -> Result<ValueId, WeightError> {
        let factors = layer.list(1);
        if !factors.is_empty() && factors.len() != inputs.len() {
            return Err(layer.wrong(format!("has {} factors for {} inputs", factors.len(), inputs.len())));
        }
        let mut parts = inputs;
        for (part, factor) in parts.iter_mut().zip(factors) {
            #[allow(clippy::cast_possible_truncation, reason = "a factor is computed with in f32")]
            let factor = *factor as f32;
            if factor != 1.0 {
                *part = self.graph.push(format!("{} factor", layer.name), Op::Scale { factor }, &[*part]);
            }
        }
        Ok(self.graph.push(&layer.name, Op::Add, &parts))
    }

    fn resize(&mut self, layer: &ncnn::Layer, inputs: &[ValueId]) -> Result<ValueId, WeightError> {
        let (height, width) = (layer.number(1, 1.0)?, layer.number(2, 1.0)?);
        let fraction = (1..=8_u32).map(|d| (height * f64::from(d), d)).find(|(n, _)| n.fract() == 0.0);
        let (numerator, denominator) = match fraction {
            Some((n, d)) if height == width && (1.0..=16.0).contains(&n) => {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 16")]
                let n = n as usize;
                (n, d as usize)
            }
            _ => return Err(layer.wrong(format!("resizes by {height} and {width}"))),
        };
        let op = match (layer.whole(0, 0)?, denominator) {
            (1, 1) => Op::UpsampleNearest { factor: numerator },
            (3, _) if layer.whole(6, 0)? == 0 => Op::ResizeBicubic { numerator, denominator },
            (other, _) => return Err(layer.wrong(format!("resizes in way {other} by {numerator}/{denominator}"))),
        };
        Ok(self.graph.push(&layer.name, op, inputs))
    }

    fn value(&self, layer: &ncnn::Layer, name: &str) -> Result<ValueId, WeightError> {
        self.values.get(name).copied().ok_or_else(|| layer.wrong(format!("reads `{name}`, which nothing has made")))
    }

    fn name(&mut self, layer: &ncnn::Layer, name: &str, value: ValueId) -> Result<(), WeightError> {
        match self.values.insert(name.to_owned(), value) {
            None => Ok(()),
            Some(_) => Err(layer.wrong(format!("makes `{name}` a second time"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_that_is_no_upscaler_is_refused_with_its_line() {
        for (text, words) in [
            ("7767517\n1 1\nSoftmax s 0 1 data\n", "line 3: Softmax `s` is not part"),
            (
                "7767517\n2 2\nInput in 0 1 data\nPixelShuffle p 1 1 other out 0=2\n",
                "line 4: PixelShuffle `p` reads `other`",
            ),
            ("7767517\n2 1\nInput in 0 1 data\nInput in2 0 1 more\n", "line 4"),
            ("7767517\n2 2\nInput in 0 1 data\nInterp i 1 1 data out 0=1 1=3.0 2=3.0\n", "not 2 times"),
            ("7767517\n2 2\nInput in 0 1 data\nInterp i 1 1 data out 0=1 1=0.3333 2=0.3333\n", "resizes by"),
            ("7767517\n2 2\nInput in 0 1 data\nInterp i 1 1 data data 0=1 1=2 2=2\n", "a second time"),
            ("7767517\n0 0\n", "no output"),
        ] {
            let error = read(text.as_bytes(), &Bytes::new(), 2).unwrap_err().to_string();
            assert!(error.contains(words), "{text:?}: {error}");
        }
        let nearest = "7767517\n2 2\nInput in 0 1 data\nInterp i 1 1 data out 0=1 1=2.0 2=2.0\n";
        assert!(read(nearest.as_bytes(), &Bytes::new(), 2).is_ok());
    }
}
