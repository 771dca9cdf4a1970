//! The blocks of Stable Video Diffusion: a look at each frame, a look along the frames, and a share of both.
//!
//! Values are `[clips · frames, h, w, c]`. Along the frames they are `[clips, frames, h · w, c]`, which is the same memory: what
//! is a line of a picture elsewhere is a whole frame here, so that a convolution of three lines sees three frames.

use super::Mixes;
use crate::infer::graph::{Activation, Graph, Op, Side, ValueId};
use crate::infer::models::layers::{Net, Norm};
use crate::infer::weights::WeightError;

pub(super) const GROUPS: usize = 32;
const LAYER_NORM_EPSILON: f32 = 1e-5;
const TRANSFORMER_EPSILON: f32 = 1e-6;

/// A graph of clips under construction.
pub(super) struct Clips<'a> {
    pub(super) net: Net,
    mixes: &'a Mixes,
    /// The first block without a mix.
    lacks: Option<String>,
    /// `[clips, frames]`: whoever does not know how many there are asks it for its sides.
    frames: ValueId,
}

/// What is told to all transformers.
#[derive(Clone, Copy)]
pub(super) struct Condition {
    /// `[clips, width]`
    pub(super) value: ValueId,
    pub(super) width: usize,
    /// The frames' numbers, `[clips · frames]`.
    pub(super) numbers: ValueId,
}

/// The side of an input of a reshape.
fn of(input: usize, axis: usize) -> Side {
    Side::Of { input, axis }
}

impl<'a> Clips<'a> {
    pub(super) fn new(net: Net, mixes: &'a Mixes, frames: ValueId) -> Self {
        Self { net, mixes, lacks: None, frames }
    }

    /// The graph, when every block had its mix.
    pub(super) fn finish(&mut self, output: ValueId) -> Result<Graph, WeightError> {
        if let Some(block) = self.lacks.take() {
            let problem = "is missing".to_owned();
            return Err(WeightError::Tensor { name: format!("{block}.{}", super::MIX), problem });
        }
        self.net.graph.output(output);
        Ok(std::mem::take(&mut self.net.graph))
    }

    fn mix(&mut self, block: &str) -> f32 {
        self.mixes.of(block).unwrap_or_else(|| {
            self.lacks.get_or_insert_with(|| block.to_owned());
            0.0
        })
    }

    fn reshape(&mut self, name: &str, shape: Vec<Side>, inputs: &[ValueId]) -> ValueId {
        self.net.graph.push(name, Op::Reshape { shape }, inputs)
    }

    fn scale(&mut self, name: &str, x: ValueId, factor: f32) -> ValueId {
        self.net.graph.push(name, Op::Scale { factor }, &[x])
    }

    /// Frames as the lines of one picture: `[clips, frames, h · w, c]`.
    pub(super) fn along(&mut self, name: &str, x: ValueId, channels: usize) -> ValueId {
        let shape = vec![of(1, 0), of(1, 1), Side::Left, Side::Is(channels)];
        self.reshape(&format!("{name} along"), shape, &[x, self.frames])
    }

    /// The way back, to the sides of `like`.
    pub(super) fn apart(&mut self, name: &str, x: ValueId, like: ValueId, channels: usize) -> ValueId {
        self.reshape(name, vec![of(1, 0), of(1, 1), of(1, 2), Side::Is(channels)], &[x, like])
    }

    /// A residual block over each frame and one along the frames. `norms`: of the one and of the other. Of what the latter
    /// adds, the block's mix is left out; or goes on, where `is_mix_of_time` says that it was trained so.
    pub(super) fn residual(
        &mut self,
        name: &str,
        x: ValueId,
        sides: [usize; 2],
        time: Option<(ValueId, usize)>,
        [of_frame, of_time]: [Norm; 2],
        is_mix_of_time: bool,
    ) -> ValueId {
        let channels = sides[0];
        let mix = self.mix(name);
        let share = if is_mix_of_time { mix } else { 1.0 - mix };
        let frames = self.net.residual(&format!("{name}.spatial_res_block"), x, sides, time, of_frame);
        let x = self.along(name, frames, channels);
        let part = |part: &str| format!("{name}.temporal_res_block.{part}");
        let net = &mut self.net;
        let h = net.group_norm(&part("norm1"), x, channels, of_time);
        let h = net.activate(&part("norm1"), Activation::Silu, h);
        let mut h = net.conv_lines(&part("conv1"), h, [channels, channels]);
        if let Some((time, inputs)) = time {
            let time = net.linear(&part("time_emb_proj"), time, [channels, inputs]);
            h = net.graph.push(part("time"), Op::AddChannels, &[h, time]);
        }
        let h = net.group_norm(&part("norm2"), h, channels, of_time);
        let h = net.activate(&part("norm2"), Activation::Silu, h);
        let h = net.conv_lines(&part("conv2"), h, [channels, channels]);
        // Both looks have `x` in them, so a share of the second is a share of what it adds.
        let h = self.scale(&format!("{name}.time_mixer"), h, share);
        let sum = self.net.add(&format!("{name}.sum"), x, h);
        self.apart(name, sum, frames, channels)
    }

    /// Attention of a frame's pixels to each other, then of a pixel to itself in the other frames, `depth` times.
    pub(super) fn transformer(
        &mut self,
        name: &str,
        x: ValueId,
        channels: usize,
        [heads, depth]: [usize; 2],
        condition: Condition,
    ) -> ValueId {
        let mix = self.mix(name);
        let square = [channels, channels];
        let net = &mut self.net;
        let waves = Op::TimeEmbedding { channels, flip: true, shift: 0.0 };
        let places = net.graph.push(format!("{name}.time_proj"), waves, &[condition.numbers]);
        let places = net.perceptron(&format!("{name}.time_pos_embed"), places, [channels, 4 * channels, channels]);
        let norm = Norm { groups: GROUPS, epsilon: TRANSFORMER_EPSILON };
        let h = net.group_norm(&format!("{name}.norm"), x, channels, norm);
        let mut h = net.linear(&format!("{name}.proj_in"), h, square);
        for k in 0..depth {
            let block = format!("{name}.transformer_blocks.{k}");
            let frames = self.attend(&block, h, channels, heads, condition);
            let frames = self.net.feed_forward(&block, frames, channels, LAYER_NORM_EPSILON);
            let block = format!("{name}.temporal_transformer_blocks.{k}");
            let placed = self.net.graph.push(format!("{block}.places"), Op::AddChannels, &[frames, places]);
            let time = self.in_time(&block, placed, channels, heads, condition);
            let frames = self.scale(&format!("{block}.of_frames"), frames, mix);
            let time = self.scale(&format!("{block}.of_time"), time, 1.0 - mix);
            h = self.net.add(&format!("{block}.mixed"), frames, time);
        }
        let h = self.net.linear(&format!("{name}.proj_out"), h, square);
        self.net.add(name, x, h)
    }

    /// A block along the frames: every pixel is a sequence.
    fn in_time(&mut self, block: &str, x: ValueId, channels: usize, heads: usize, condition: Condition) -> ValueId {
        let turn = |net: &mut Net, name: String, x: ValueId| {
            net.graph.push(name, Op::Transpose { order: vec![0, 2, 1, 3] }, &[x])
        };
        let h = self.along(block, x, channels);
        let h = turn(&mut self.net, format!("{block} turned"), h);
        let sequences = vec![Side::Left, of(1, 1), Side::Is(channels)];
        let h = self.reshape(&format!("{block} pixels"), sequences, &[h, self.frames]);
        let [norm, layer] = ["norm_in", "ff_in"].map(|part| format!("{block}.{part}"));
        let inner = self.net.gated([&norm, &layer], h, channels, LAYER_NORM_EPSILON);
        let h = self.net.add(&format!("{block}.ff_in.sum"), h, inner);
        let h = self.attend(block, h, channels, heads, condition);
        let h = self.net.feed_forward(block, h, channels, LAYER_NORM_EPSILON);
        let clips = vec![of(1, 0), Side::Left, of(1, 1), Side::Is(channels)];
        let h = self.reshape(&format!("{block} clips"), clips, &[h, self.frames]);
        let h = turn(&mut self.net, format!("{block} turned back"), h);
        self.apart(&format!("{block} apart"), h, x, channels)
    }

    /// What each row sees in its sequence and in the condition, added to it.
    ///
    /// The condition is one row, the picture as CLIP sees it. Attention to one row is that row, whatever asks: neither the query
    /// nor the norm before it matters, and what is left is added to all rows of a clip alike.
    fn attend(&mut self, block: &str, h: ValueId, channels: usize, heads: usize, condition: Condition) -> ValueId {
        let part = |part: &str| format!("{block}.{part}");
        let net = &mut self.net;
        let normed = net.layer_norm(&part("norm1"), h, channels, LAYER_NORM_EPSILON);
        let seen = net.self_attention(&part("attn1"), normed, channels, heads);
        let h = net.add(&part("attn1.sum"), h, seen);
        let value = net.linear_without_bias(&part("attn2.to_v"), condition.value, [channels, condition.width]);
        let value = net.linear(&part("attn2.to_out.0"), value, [channels, channels]);
        net.graph.push(part("attn2.sum"), Op::AddChannels, &[h, value])
    }
}
