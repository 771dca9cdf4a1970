//! Weights as the kernels want them: halves or floats, each at a multiple of 256 bytes, in one piece of memory.
//!
//! A weight that several nodes read in one form is packed once. A value that a half cannot hold is refused here: on
//! the device it would be an infinity and the result noise.

use std::collections::HashMap;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::super::executor::ExecError;
use super::super::graph::{Activation, Graph, Op, Pad, WeightId};
use super::super::weights::{WeightError, Weights};
use super::Precision;

const ALIGN_BYTES: usize = 256;

/// In which form a weight is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    /// As it stands, in the executor's format.
    Plain,
    /// As it stands, in floats.
    Floats,
    /// `[out, in, lines, columns]` as `[out, depth]`: see `kernels/conv.cu`.
    Taps,
}

/// Where each weight lies, as a distance from the begin.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    places: HashMap<(WeightId, Form), usize>,
    order: Vec<(WeightId, Form)>,
    pub(super) bytes: usize,
}

/// Channels of a tap and columns of a row in [`Form::Taps`].
pub(super) fn taps_layout(channels: usize, taps: usize, precision: Precision) -> (usize, usize) {
    match precision {
        Precision::Half => {
            let padded = channels.next_multiple_of(8);
            (padded, (padded * taps).next_multiple_of(32))
        }
        Precision::Single => (channels, (channels * taps).next_multiple_of(16)),
    }
}

/// Whether a convolution is a matrix product over the pixels as they stand.
pub(super) fn is_product(kernel: [usize; 2], stride: usize, pad: Pad, activation: Option<Activation>) -> bool {
    kernel == [1, 1] && stride == 1 && pad == Pad::Same && activation.is_none()
}

impl Places {
    /// Lays out all weights that `graph` reads.
    pub(super) fn new(graph: &Graph, precision: Precision) -> Self {
        let mut made = Self::default();
        for node in graph.nodes() {
            for (weight, form) in forms(graph, &node.op) {
                made.add(graph, weight, form, precision);
            }
        }
        made
    }

    fn add(&mut self, graph: &Graph, weight: WeightId, form: Form, precision: Precision) {
        if self.places.contains_key(&(weight, form)) {
            return;
        }
        let shape = &graph.weight_decl(weight).shape;
        let values: usize = match (form, shape.as_slice()) {
            (Form::Taps, &[outputs, channels, lines, columns]) => {
                outputs * taps_layout(channels, lines * columns, precision).1
            }
            (_, shape) => shape.iter().product(),
        };
        let bytes = values * if form == Form::Floats { 4 } else { precision.bytes() };
        self.places.insert((weight, form), self.bytes);
        self.order.push((weight, form));
        self.bytes += bytes.next_multiple_of(ALIGN_BYTES);
    }

    pub(super) fn of(&self, weight: WeightId, form: Form) -> Option<usize> {
        self.places.get(&(weight, form)).copied()
    }

    /// Hands each weight's bytes and place to `put`, one after another.
    pub(super) fn pack(
        &self,
        graph: &Graph,
        weights: &Weights,
        precision: Precision,
        mut put: impl FnMut(&[u8], usize) -> Result<(), ExecError>,
    ) -> Result<(), ExecError> {
        for (weight, form) in &self.order {
            let decl = graph.weight_decl(*weight);
            let place = self.places[&(*weight, *form)];
            let sides = match (form, decl.shape.as_slice()) {
                (Form::Taps, &[outputs, channels, lines, columns]) => Some([outputs, channels, lines * columns]),
                _ => None,
            };
            let in_halves = *form != Form::Floats && precision == Precision::Half;
            if in_halves && let Some(halves) = weights.halves(&decl.name, &decl.shape)? {
                // From the file to the device as it lies there, or moved about; half of a model's load is this.
                match sides {
                    Some(sides) => put(taps(halves, sides, precision).as_flattened(), place)?,
                    None => put(halves.as_flattened(), place)?,
                }
                continue;
            }
            let values = weights.values(&decl.name, &decl.shape)?;
            let values = sides.map(|sides| taps(&values, sides, precision)).unwrap_or(values);
            if !in_halves {
                let mut bytes = vec![0; values.len() * 4];
                bytes.as_chunks_mut().0.iter_mut().zip(&values).for_each(|(to, value)| *to = value.to_le_bytes());
                put(&bytes, place)?;
                continue;
            }
            if let Some(at) = values.iter().position(|value| value.abs() > f16::MAX.to_f32()) {
                let problem = format!("holds {}, which half precision cannot hold", values[at]);
                return Err(WeightError::Tensor { name: decl.name.clone(), problem }.into());
            }
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(&values);
            let mut bytes = vec![0; values.len() * 2];
            bytes.as_chunks_mut().0.iter_mut().zip(&halves).for_each(|(to, half)| *to = half.to_le_bytes());
            put(&bytes, place)?;
        }
        Ok(())
    }
}

/// Which weights an operation reads, in which form.
fn forms(graph: &Graph, op: &Op) -> Vec<(WeightId, Form)> {
    match op {
        Op::Conv2d { weight, bias, stride, pad, activation } => {
            let product = is_product(graph.kernel(*weight), *stride, *pad, *activation);
            let mut forms = vec![(*weight, if product { Form::Plain } else { Form::Taps })];
            if let Some(bias) = bias {
                // Libraries want the bias as they want the weights, our own kernel wants floats.
                forms.push((*bias, Form::Plain));
                if !product {
                    forms.push((*bias, Form::Floats));
                }
            }
            if let Some(Activation::Prelu { slopes }) = activation {
                forms.push((*slopes, Form::Floats));
            }
            forms
        }
        Op::Linear { weight, bias } => {
            let bias = bias.map(|bias| (bias, Form::Plain));
            std::iter::once((*weight, Form::Plain)).chain(bias).collect()
        }
        Op::Activate(Activation::Prelu { slopes }) => vec![(*slopes, Form::Floats)],
        Op::GroupNorm { weight, bias, .. } | Op::LayerNorm { weight, bias, .. } => {
            vec![(*weight, Form::Floats), (*bias, Form::Floats)]
        }
        Op::Embedding { weight } => vec![(*weight, Form::Plain)],
        _ => Vec::new(),
    }
}

fn taps<T: Copy + Default>(values: &[T], [outputs, channels, taps]: [usize; 3], precision: Precision) -> Vec<T> {
    let (padded, depth) = taps_layout(channels, taps, precision);
    let mut made = vec![T::default(); outputs * depth];
    for (row, from) in made.chunks_exact_mut(depth).zip(values.chunks_exact(channels * taps)) {
        for (channel, from) in from.chunks_exact(taps).enumerate() {
            for (tap, value) in from.iter().enumerate() {
                row[tap * padded + channel] = *value;
            }
        }
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_come_one_after_another_with_their_channels_together() {
        // One output, three channels: value = channel * 10 + tap.
        let values: Vec<f32> = (0..3).flat_map(|c| (0..9).map(move |t| (c * 10 + t) as f32)).collect();
        let made = taps(&values, [1, 3, 9], Precision::Half);
        assert_eq!(made.len(), 96);
        assert_eq!(made[..11], [0.0, 10.0, 20.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 11.0, 21.0]);
        assert!(made[72..].iter().all(|value| *value == 0.0));
        assert_eq!(taps(&values, [1, 3, 9], Precision::Single)[..4], [0.0, 10.0, 20.0, 1.0]);
    }

    #[test]
    fn a_weight_in_two_forms_lies_there_twice_and_in_one_form_once() {
        let mut graph = Graph::new();
        let input = graph.input();
        let (weight, bias) = (graph.weight("w", &[8, 8, 3, 3]), graph.weight("b", &[8]));
        let op = Op::Conv2d { weight, bias: Some(bias), stride: 1, pad: Pad::Same, activation: None };
        let middle = graph.push("a", op.clone(), &[input]);
        graph.push("b", op, &[middle]);
        let places = Places::new(&graph, Precision::Half);
        assert_eq!(places.order.len(), 3);
        assert_eq!(places.bytes, (8 * 96 * 2) + 256 + 256);
    }
}
