//! The UNet of Stable Diffusion 1, 2 and XL as a graph: noisy latents in, the model's prediction out.

use crate::infer::graph::{Activation, Graph, Op, Pad, Side, ValueId};

use super::config::{Level, TIME_IDS, Unet};
use super::layers::{Net, Norm};
use super::motion::{Frames, Motion};

/// Norms before transformers have an epsilon of their own.
const TRANSFORMER_EPSILON: f32 = 1e-6;
const LAYER_NORM_EPSILON: f32 = 1e-5;
const CHANNELS: usize = 3;

/// The graph of `config`. Inputs: latents `[n, h, w, in]`, time `[n]`, text `[n, l, context]`; where `config.guidance` is
/// there, the guidance `[n]` (see [`guidance_input`]); and, where `config.added` is there, the pooled text `[n, pooled]` and the six sizes of each picture `[n · 6]`. Output: `[n, h, w, out]`.
/// `h` and `w` are multiples of [`Unet::side_multiple`].
#[must_use]
pub fn graph(config: &Unet) -> Graph {
    build(config, None)
}

/// The same with motion modules. The batch is clips, frame after frame; the last input are the frames' numbers `[frames]`,
/// from 0 on.
#[must_use]
pub fn clip_graph(config: &Unet, motion: &Motion) -> Graph {
    build(config, Some(motion))
}

fn build(config: &Unet, motion: Option<&Motion>) -> Graph {
    let mut net = Net::default();
    let (latents, time, text) = (net.graph.input(), net.graph.input(), net.graph.input());
    let first = config.levels[0].channels;
    let channels = 4 * first;
    let time = time_embedding(&mut net, config, time);
    let frames = motion.map(|motion| Frames::new(motion, net.graph.input()));
    let unet = &mut Builder {
        time: (net.activate("time", Activation::Silu, time), channels),
        norm: Norm { groups: config.groups, epsilon: config.epsilon },
        net,
        config,
        text,
        frames,
    };
    let norm = unet.norm;
    let sides = [config.out_channels, config.in_channels];
    let made = walk(unet, latents, &config.levels, config.layers, sides, norm);
    let mut graph = std::mem::take(&mut unet.net.graph);
    graph.output(made);
    graph
}

/// What the levels of a UNet are made of; the way through them is the same for all.
pub(super) trait Blocks {
    fn net(&mut self) -> &mut Net;

    /// Block `j` of the level that is called `name`. `x` has `inputs` channels.
    fn block(&mut self, name: &str, j: usize, x: ValueId, inputs: usize, level: &Level) -> ValueId;

    fn middle(&mut self, x: ValueId, channels: usize) -> ValueId;
}

/// From latents down through the levels, each half the size of the one before, and up again, where each block sees what
/// its counterpart on the way down has made. `sides`: channels out and in. `norm`: the last one.
pub(super) fn walk(
    blocks: &mut impl Blocks,
    latents: ValueId,
    levels: &[Level],
    layers: usize,
    [outputs, inputs]: [usize; 2],
    norm: Norm,
) -> ValueId {
    let first = levels[0].channels;
    let mut x = blocks.net().conv("conv_in", latents, [first, inputs]);
    let mut width = first;
    let mut skips = vec![(x, first)];
    for (i, level) in levels.iter().enumerate() {
        for j in 0..layers {
            x = blocks.block(&format!("down_blocks.{i}"), j, x, width, level);
            width = level.channels;
            skips.push((x, width));
        }
        if i + 1 < levels.len() {
            x = blocks.net().halve(&format!("down_blocks.{i}.downsamplers.0.conv"), x, width, Pad::Same);
            skips.push((x, width));
        }
    }
    x = blocks.middle(x, width);
    for (i, level) in levels.iter().rev().enumerate() {
        for j in 0..=layers {
            // There are as many as are needed: `layers` and one more for each level.
            let (skip, skipped) = skips.pop().unwrap_or((x, width));
            let name = format!("up_blocks.{i}.skip.{j}");
            x = blocks.net().graph.push(name, Op::Concat { axis: CHANNELS }, &[x, skip]);
            x = blocks.block(&format!("up_blocks.{i}"), j, x, width + skipped, level);
            width = level.channels;
        }
        if i + 1 < levels.len() {
            x = blocks.net().double(&format!("up_blocks.{i}.upsamplers.0"), x, width);
        }
    }
    let net = blocks.net();
    x = net.group_norm("conv_norm_out", x, width, norm);
    x = net.activate("conv_norm_out", Activation::Silu, x);
    net.conv("conv_out", x, [outputs, width])
}

/// What such a UNet is told of a guidance: it was taught with one less, in thousandths.
#[must_use]
pub fn guidance_input(guidance: f32) -> f32 {
    (guidance - 1.0) * 1000.0
}

/// The moment's sinusoids through two layers; with SDXL's second conditioning added.
fn time_embedding(net: &mut Net, config: &Unet, time: ValueId) -> ValueId {
    let first = config.levels[0].channels;
    let (flip, shift) = (config.flip, config.shift);
    let x = net.graph.push("time_proj", Op::TimeEmbedding { channels: first, flip, shift }, &[time]);
    let x = match config.guidance {
        None => x,
        Some(channels) => {
            let guidance = net.graph.input();
            let op = Op::TimeEmbedding { channels, flip: false, shift: 1.0 };
            let guidance = net.graph.push("guidance", op, &[guidance]);
            let guidance = net.linear_without_bias("time_embedding.cond_proj", guidance, [first, channels]);
            net.add("time_proj guided", x, guidance)
        }
    };
    let x = net.perceptron("time_embedding", x, [4 * first, 4 * first, first]);
    let Some(added) = config.added else { return x };
    let (pooled, sizes) = (net.graph.input(), net.graph.input());
    let all = TIME_IDS * added.time_channels;
    let op = Op::TimeEmbedding { channels: added.time_channels, flip, shift };
    let sizes = net.graph.push("add_time_proj", op, &[sizes]);
    let sizes = net.graph.push("add_time_proj row", Op::Reshape { shape: vec![Side::Left, Side::Is(all)] }, &[sizes]);
    let both = net.graph.push("add_embedding inputs", Op::Concat { axis: 1 }, &[pooled, sizes]);
    let both = net.perceptron("add_embedding", both, [4 * first, 4 * first, added.pooled + all]);
    net.add("emb", x, both)
}

struct Builder<'a> {
    net: Net,
    config: &'a Unet,
    text: ValueId,
    frames: Option<Frames<'a>>,
    /// The activated time embedding and its channels.
    time: (ValueId, usize),
    norm: Norm,
}

impl Blocks for Builder<'_> {
    fn net(&mut self) -> &mut Net {
        &mut self.net
    }

    /// A residual block with its transformer.
    fn block(&mut self, name: &str, j: usize, x: ValueId, inputs: usize, level: &Level) -> ValueId {
        let outputs = level.channels;
        let x = self.net.residual(&format!("{name}.resnets.{j}"), x, [outputs, inputs], Some(self.time), self.norm);
        let x = match level.depth {
            0 => x,
            depth => self.transformer(&format!("{name}.attentions.{j}"), x, outputs, level.heads, depth),
        };
        self.moved(&format!("{name}.motion_modules.{j}"), x, outputs)
    }

    fn middle(&mut self, x: ValueId, channels: usize) -> ValueId {
        let heads = self.config.levels.last().map_or(1, |level| level.heads);
        let square = [channels, channels];
        let x = self.net.residual("mid_block.resnets.0", x, square, Some(self.time), self.norm);
        let mut x = self.transformer("mid_block.attentions.0", x, channels, heads, self.config.mid_depth);
        if self.frames.as_ref().is_some_and(Frames::has_middle) {
            x = self.moved("mid_block.motion_modules.0", x, channels);
        }
        self.net.residual("mid_block.resnets.1", x, square, Some(self.time), self.norm)
    }
}

impl Builder<'_> {
    /// `x` through a motion module, where there are any.
    fn moved(&mut self, name: &str, x: ValueId, channels: usize) -> ValueId {
        match &mut self.frames {
            Some(frames) => frames.module(&mut self.net, name, x, channels),
            None => x,
        }
    }

    /// Pixels as a sequence: attention to each other and to the text, `depth` times.
    fn transformer(&mut self, name: &str, x: ValueId, channels: usize, heads: usize, depth: usize) -> ValueId {
        let net = &mut self.net;
        let square = [channels, channels];
        let norm = Norm { epsilon: TRANSFORMER_EPSILON, ..self.norm };
        let project = if self.config.linear_projection { Net::linear } else { Net::pointwise };
        let h = net.group_norm(&format!("{name}.norm"), x, channels, norm);
        let mut h = project(net, &format!("{name}.proj_in"), h, square);
        for k in 0..depth {
            let block = format!("{name}.transformer_blocks.{k}");
            let part = |part: &str| format!("{block}.{part}");
            for (which, source, width) in [(1, None, channels), (2, Some(self.text), self.config.context)] {
                let attn = part(&format!("attn{which}"));
                let normed = net.layer_norm(&part(&format!("norm{which}")), h, channels, LAYER_NORM_EPSILON);
                let source = source.unwrap_or(normed);
                let query = net.linear_without_bias(&format!("{attn}.to_q"), normed, square);
                let key = net.linear_without_bias(&format!("{attn}.to_k"), source, [channels, width]);
                let value = net.linear_without_bias(&format!("{attn}.to_v"), source, [channels, width]);
                let seen = net.attention(&attn, [query, key, value], heads, false);
                let seen = net.linear(&format!("{attn}.to_out.0"), seen, square);
                h = net.add(&format!("{attn}.sum"), h, seen);
            }
            h = net.feed_forward(&block, h, channels, LAYER_NORM_EPSILON);
        }
        let h = project(net, &format!("{name}.proj_out"), h, square);
        net.add(name, x, h)
    }
}
