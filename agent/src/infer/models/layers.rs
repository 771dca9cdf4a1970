//! The layers that CLIP, UNet and VAE are built of, named as diffusers names them.
//!
//! The last node of a block has the block's name, so that an error and a test can point at it.

use crate::infer::graph::{Activation, Graph, Op, Pad, ValueId, WeightId};

/// A graph under construction.
#[derive(Default)]
pub(super) struct Net {
    pub(super) graph: Graph,
}

/// Group norms of one network.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    pub(super) groups: usize,
    pub(super) epsilon: f32,
}

impl Net {
    fn affine(&mut self, name: &str, shape: &[usize]) -> (WeightId, WeightId) {
        let weight = self.graph.weight(format!("{name}.weight"), shape);
        (weight, self.graph.weight(format!("{name}.bias"), &shape[..1]))
    }

    /// Side 3, stride 1.
    pub(super) fn conv(&mut self, name: &str, x: ValueId, [outputs, inputs]: [usize; 2]) -> ValueId {
        self.convolution(name, x, [outputs, inputs, 3, 3], 1, Pad::Same)
    }

    /// Side 1: a linear layer over the channels.
    pub(super) fn pointwise(&mut self, name: &str, x: ValueId, [outputs, inputs]: [usize; 2]) -> ValueId {
        self.convolution(name, x, [outputs, inputs, 1, 1], 1, Pad::Same)
    }

    /// Three lines and one column, stride 1: where lines are frames, a look at the one before and the one after.
    pub(super) fn conv_lines(&mut self, name: &str, x: ValueId, [outputs, inputs]: [usize; 2]) -> ValueId {
        self.convolution(name, x, [outputs, inputs, 3, 1], 1, Pad::Same)
    }

    /// Side 3, stride 2.
    pub(super) fn halve(&mut self, name: &str, x: ValueId, channels: usize, pad: Pad) -> ValueId {
        self.convolution(name, x, [channels, channels, 3, 3], 2, pad)
    }

    fn convolution(&mut self, name: &str, x: ValueId, shape: [usize; 4], stride: usize, pad: Pad) -> ValueId {
        let (weight, bias) = self.affine(name, &shape);
        self.graph.push(name, Op::Conv2d { weight, bias: Some(bias), stride, pad, activation: None }, &[x])
    }

    pub(super) fn linear(&mut self, name: &str, x: ValueId, [outputs, inputs]: [usize; 2]) -> ValueId {
        let (weight, bias) = self.affine(name, &[outputs, inputs]);
        self.graph.push(name, Op::Linear { weight, bias: Some(bias) }, &[x])
    }

    pub(super) fn linear_without_bias(&mut self, name: &str, x: ValueId, [outputs, inputs]: [usize; 2]) -> ValueId {
        let weight = self.graph.weight(format!("{name}.weight"), &[outputs, inputs]);
        self.graph.push(name, Op::Linear { weight, bias: None }, &[x])
    }

    pub(super) fn group_norm(&mut self, name: &str, x: ValueId, channels: usize, norm: Norm) -> ValueId {
        let (weight, bias) = self.affine(name, &[channels]);
        let Norm { groups, epsilon } = norm;
        self.graph.push(name, Op::GroupNorm { groups, weight, bias, epsilon, silu: false }, &[x])
    }

    pub(super) fn layer_norm(&mut self, name: &str, x: ValueId, width: usize, epsilon: f32) -> ValueId {
        let (weight, bias) = self.affine(name, &[width]);
        self.graph.push(name, Op::LayerNorm { weight, bias, epsilon }, &[x])
    }

    pub(super) fn activate(&mut self, name: &str, activation: Activation, x: ValueId) -> ValueId {
        self.graph.push(format!("{name} activation"), Op::Activate(activation), &[x])
    }

    pub(super) fn add(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        self.graph.push(name, Op::Add, &[a, b])
    }

    /// Norm, SiLU, convolution, twice, and what came in. `time` is added between, where there is one: an activated
    /// time embedding and its channels.
    pub(super) fn residual(
        &mut self,
        name: &str,
        x: ValueId,
        [outputs, inputs]: [usize; 2],
        time: Option<(ValueId, usize)>,
        norm: Norm,
    ) -> ValueId {
        let part = |part: &str| format!("{name}.{part}");
        let h = self.group_norm(&part("norm1"), x, inputs, norm);
        let h = self.activate(&part("norm1"), Activation::Silu, h);
        let mut h = self.conv(&part("conv1"), h, [outputs, inputs]);
        if let Some((time, channels)) = time {
            let time = self.linear(&part("time_emb_proj"), time, [outputs, channels]);
            h = self.graph.push(part("time"), Op::AddChannels, &[h, time]);
        }
        let h = self.group_norm(&part("norm2"), h, outputs, norm);
        let h = self.activate(&part("norm2"), Activation::Silu, h);
        let h = self.conv(&part("conv2"), h, [outputs, outputs]);
        let x = if inputs == outputs { x } else { self.pointwise(&part("conv_shortcut"), x, [outputs, inputs]) };
        self.add(name, x, h)
    }

    /// Twice the size by repetition, then a convolution.
    pub(super) fn double(&mut self, name: &str, x: ValueId, channels: usize) -> ValueId {
        let x = self.graph.push(name, Op::UpsampleNearest { factor: 2 }, &[x]);
        self.conv(&format!("{name}.conv"), x, [channels, channels])
    }

    /// The end of a transformer's block: norm, gated layer, and what came in.
    pub(super) fn feed_forward(&mut self, block: &str, h: ValueId, channels: usize, epsilon: f32) -> ValueId {
        let inner = self.gated([&format!("{block}.norm3"), &format!("{block}.ff")], h, channels, epsilon);
        self.add(block, h, inner)
    }

    /// A norm and a gated layer of these names.
    pub(super) fn gated(&mut self, [norm, layer]: [&str; 2], h: ValueId, channels: usize, epsilon: f32) -> ValueId {
        let normed = self.layer_norm(norm, h, channels, epsilon);
        let inner = self.linear(&format!("{layer}.net.0.proj"), normed, [8 * channels, channels]);
        let inner = self.graph.push(format!("{layer}.net.0"), Op::Geglu, &[inner]);
        self.linear(&format!("{layer}.net.2"), inner, [channels, 4 * channels])
    }

    /// What every row of a sequence sees in the others of it, where query, key and value have no bias.
    pub(super) fn self_attention(&mut self, name: &str, normed: ValueId, channels: usize, heads: usize) -> ValueId {
        let square = [channels, channels];
        let qkv =
            ["to_q", "to_k", "to_v"].map(|which| self.linear_without_bias(&format!("{name}.{which}"), normed, square));
        let seen = self.attention(name, qkv, heads, false);
        self.linear(&format!("{name}.to_out.0"), seen, square)
    }

    /// Two layers with SiLU between them, as moments go through.
    pub(super) fn perceptron(&mut self, name: &str, x: ValueId, [outputs, inner, inputs]: [usize; 3]) -> ValueId {
        let x = self.linear(&format!("{name}.linear_1"), x, [inner, inputs]);
        let x = self.activate(&format!("{name}.linear_1"), Activation::Silu, x);
        self.linear(&format!("{name}.linear_2"), x, [outputs, inner])
    }

    pub(super) fn attention(
        &mut self,
        name: &str,
        [query, key, value]: [ValueId; 3],
        heads: usize,
        causal: bool,
    ) -> ValueId {
        self.graph.push(name, Op::Attention { heads, causal }, &[query, key, value])
    }
}
