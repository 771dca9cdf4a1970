//! One node of a graph over slices of the arena.

use backlot_kernels::{
    Affine, Heads, Pictures, Size, Source, add, add_channels, attention, concat_rows, geglu, gelu, group_norm,
    layer_norm, mul, pixel_shuffle, prelu, quick_gelu, resize_bicubic, scale, silu, split_rows, upsample_nearest,
};
use half::f16;

use super::fault;
use super::step::Step;
use crate::infer::executor::ExecError;
use crate::infer::graph::{Activation, Element, Node, Op, Plan, ValueId};
use crate::infer::weights::Lazy;

/// A loop over one picture: from, its size, its channels, to.
type Loop<'a> = dyn Fn(&[f32], Size, usize, &mut [f32]) + 'a;

/// Computes output `index` of a node into `to`.
///
/// # Errors
/// [`ExecError::Compute`] for what only the values show, such as a number that no row of an embedding has.
pub(super) fn output<'a>(
    plan: &Plan,
    node: &Node,
    step: &Step,
    index: usize,
    read: impl Fn(ValueId) -> &'a [f32],
    to: &mut [f32],
    scratch: &mut Vec<f32>,
) -> Result<(), ExecError> {
    let (&first, rest) = node.inputs.split_first().ok_or_else(|| fault(node, "has no input"))?;
    let (from, shape) = (read(first), plan.of(first).shape.as_slice());
    // What is added to the result of a convolution or a linear layer.
    let plus = |rest: &[ValueId]| rest.first().map(|value| read(*value));
    // Runs a loop over the pictures of a batch.
    let each = |to: &mut [f32], run: &Loop<'_>| {
        if let &[batch, height, width, channels] = shape {
            let (size, part) = (Size { height, width }, to.len() / batch);
            for (from, to) in from.chunks_exact(from.len() / batch).zip(to.chunks_exact_mut(part)) {
                run(from, size, channels, to);
            }
        }
    };
    match (&node.op, step) {
        (Op::Conv2d { .. }, Step::Conv(conv)) => {
            let &[_, height, width, _] = shape else { return Err(fault(node, "takes a picture")) };
            let pictures = Pictures { input: from, size: Size { height, width }, plus: plus(rest) };
            conv.run(pictures, to, scratch);
        }
        (Op::Linear { .. }, Step::Conv(conv)) => conv.rows(from, plus(rest), to, scratch),
        (Op::Activate(_), Step::Slopes(slopes)) => prelu(from, slopes, to),
        (Op::Activate(Activation::Gelu), _) => gelu(from, to),
        (Op::Activate(Activation::QuickGelu), _) => quick_gelu(from, to),
        (Op::Activate(_), _) => silu(from, to),
        (Op::GroupNorm { groups, epsilon, silu, .. }, Step::Norm { weight, bias }) => {
            let picture = to.len() / shape[0];
            for (from, to) in from.chunks_exact(picture).zip(to.chunks_exact_mut(picture)) {
                group_norm(from, *groups, Affine { weight, bias, epsilon: *epsilon }, *silu, to);
            }
        }
        (Op::LayerNorm { epsilon, .. }, Step::Norm { weight, bias }) => {
            layer_norm(from, Affine { weight, bias, epsilon: *epsilon }, to);
        }
        (Op::Geglu, _) => geglu(from, shape[shape.len() - 1] / 2, to),
        (Op::Attention { heads, causal }, _) => {
            let &[key, value] = rest else { return Err(fault(node, "has no key and value")) };
            let (batch, width) = (shape[0], shape[shape.len() - 1]);
            let (queries, keys) = (from.len() / batch / width, plan.of(key).len() / batch / width);
            let heads = Heads { batch, queries, keys, heads: *heads, size: width / heads, causal: *causal };
            attention(from, read(key), read(value), heads, to);
        }
        (Op::Embedding { .. }, Step::Rows(rows)) => {
            embed(from, rows, to.len() / from.len(), to).map_err(|problem| fault(node, problem))?;
        }
        (Op::TimeEmbedding { channels, flip, shift }, _) => time_embedding(from, *channels, *flip, *shift, to),
        (Op::AddChannels, _) => {
            let &[second] = rest else { return Err(fault(node, "has one input")) };
            add_channels(from, read(second), shape[shape.len() - 1], to);
        }
        (Op::Add | Op::Mul, _) => {
            let combine = if node.op == Op::Add { add } else { mul };
            let (&second, more) = rest.split_first().ok_or_else(|| fault(node, "has one input"))?;
            combine(from, read(second), to);
            for value in more {
                let so_far = to.to_vec(); // three or more are rare
                combine(&so_far, read(*value), to);
            }
        }
        (Op::Scale { factor }, _) => scale(from, *factor, to),
        (Op::Concat { axis }, _) => {
            let parts: Vec<(&[f32], usize)> = node
                .inputs
                .iter()
                .map(|value| (read(*value), plan.of(*value).shape[*axis..].iter().product()))
                .collect();
            concat_rows(&parts, to);
        }
        (Op::Split { axis, lengths }, _) => {
            let unit: usize = shape[axis + 1..].iter().product();
            let start: usize = lengths[..index].iter().sum();
            split_rows(from, shape[*axis] * unit, start * unit, lengths[index] * unit, to);
        }
        (Op::Reshape { .. }, _) => to.copy_from_slice(from),
        (Op::Transpose { order }, _) => transpose(from, shape, order, to),
        (Op::UpsampleNearest { factor }, _) => {
            each(to, &|from, size, channels, to| upsample_nearest(from, size, channels, *factor, to));
        }
        (Op::PixelShuffle { factor }, _) => each(to, &|from, size, channels, to| {
            pixel_shuffle(from, size, channels / (factor * factor), *factor, to);
        }),
        (Op::ResizeBicubic { numerator, denominator }, _) => each(to, &|from, size, channels, to| {
            let side = |n: usize| n * numerator / denominator;
            let target = Size { height: side(size.height), width: side(size.width) };
            resize_bicubic(from, size, channels, target, to);
        }),
        (Op::Cast { to: element }, _) => match element {
            Element::F32 => to.copy_from_slice(from),
            Element::F16 => {
                for (to, from) in to.iter_mut().zip(from) {
                    *to = f16::from_f32(*from).to_f32();
                }
            }
        },
        (
            Op::Conv2d { .. } | Op::Linear { .. } | Op::GroupNorm { .. } | Op::LayerNorm { .. } | Op::Embedding { .. },
            _,
        ) => return Err(fault(node, "was loaded as something else")),
    }
    Ok(())
}

fn transpose(from: &[f32], shape: &[usize], order: &[usize], to: &mut [f32]) {
    let mut strides = vec![1; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis] * shape[axis];
    }
    let axes: Vec<(usize, usize)> = order.iter().map(|axis| (shape[*axis], strides[*axis])).collect();
    let mut at = vec![0; axes.len()];
    let mut offset = 0;
    for to in to {
        *to = from[offset];
        for (position, (length, stride)) in at.iter_mut().zip(&axes).rev() {
            *position += 1;
            offset += stride;
            if *position < *length {
                break;
            }
            offset -= *position * stride;
            *position = 0;
        }
    }
}

/// Copies the rows that `numbers` name.
fn embed(numbers: &[f32], rows: &Lazy, width: usize, to: &mut [f32]) -> Result<(), String> {
    let count = rows.len() / width;
    for (number, to) in numbers.iter().zip(to.chunks_exact_mut(width)) {
        if number.fract() != 0.0 || !(0.0..count as f32).contains(number) {
            return Err(format!("{number} is no row of an embedding of {count}"));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and within the rows")]
        rows.read(*number as usize * width, to);
    }
    Ok(())
}

pub(in crate::infer) fn time_embedding(moments: &[f32], channels: usize, flip: bool, shift: f32, to: &mut [f32]) {
    let half = channels / 2;
    for (moment, to) in moments.iter().zip(to.chunks_exact_mut(channels)) {
        let (first, second) = to.split_at_mut(half);
        let (sines, cosines) = if flip { (second, first) } else { (first, second) };
        for (i, (sine, cosine)) in sines.iter_mut().zip(cosines).enumerate() {
            let frequency = (-(10_000.0_f32.ln()) * i as f32 / (half as f32 - shift)).exp();
            (*sine, *cosine) = (moment * frequency).sin_cos();
        }
    }
}
