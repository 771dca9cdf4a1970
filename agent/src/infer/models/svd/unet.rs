//! The UNet of Stable Video Diffusion as a graph: noisy latents of a clip beside those of its picture in, the velocity out.

use super::Mixes;
use super::blocks::{Clips, Condition, GROUPS};
use super::config::{TIME_IDS, VideoUnet};
use crate::infer::graph::{Activation, Graph, Op, Side, ValueId};
use crate::infer::models::config::Level;
use crate::infer::models::layers::{Net, Norm};
use crate::infer::models::unet::{Blocks, walk};
use crate::infer::weights::WeightError;

/// The graph of `config`. Inputs: latents `[clips · frames, h, w, in]`, frame after frame; time `[clips]`; the picture as CLIP sees
/// it `[clips, context]`; frame rate, motion and noise `[clips · 3]`; the frames' numbers `[clips · frames]`, from 0 on in each clip; a value for each
/// frame `[clips, frames]`, of which only the sides are read. Output:
/// `[clips · frames, h, w, out]`. `h` and `w` are multiples of [`VideoUnet::side_multiple`].
///
/// # Errors
/// [`WeightError`] names the block that `mixes` lacks.
pub fn graph(config: &VideoUnet, mixes: &Mixes) -> Result<Graph, WeightError> {
    let mut net = Net::default();
    let [latents, time, picture, ids, numbers, frames] = std::array::from_fn(|_| net.graph.input());
    let first = config.levels[0].channels;
    let time = time_embedding(&mut net, config, time, ids);
    let time = (net.activate("time", Activation::Silu, time), 4 * first);
    let condition = Condition { value: picture, width: config.context, numbers };
    let mut unet = Builder { clips: Clips::new(net, mixes, frames), config, condition, time };
    let sides = [config.out_channels, config.in_channels];
    let norm = Norm { groups: GROUPS, epsilon: 1e-5 };
    let made = walk(&mut unet, latents, &config.levels, config.layers, sides, norm);
    unet.clips.finish(made)
}

/// The moment, and what is told of the clip.
fn time_embedding(net: &mut Net, config: &VideoUnet, time: ValueId, ids: ValueId) -> ValueId {
    let first = config.levels[0].channels;
    let waves = |channels| Op::TimeEmbedding { channels, flip: true, shift: 0.0 };
    let x = net.graph.push("time_proj", waves(first), &[time]);
    let x = net.perceptron("time_embedding", x, [4 * first, 4 * first, first]);
    let all = TIME_IDS * config.time_channels;
    let ids = net.graph.push("add_time_proj", waves(config.time_channels), &[ids]);
    let ids = net.graph.push("add_time_proj row", Op::Reshape { shape: vec![Side::Left, Side::Is(all)] }, &[ids]);
    let ids = net.perceptron("add_embedding", ids, [4 * first, 4 * first, all]);
    net.add("emb", x, ids)
}

struct Builder<'a> {
    clips: Clips<'a>,
    config: &'a VideoUnet,
    condition: Condition,
    /// The activated embedding and its channels.
    time: (ValueId, usize),
}

impl Builder<'_> {
    fn residual(&mut self, name: &str, x: ValueId, sides: [usize; 2], epsilon: f32) -> ValueId {
        let norm = Norm { groups: GROUPS, epsilon };
        self.clips.residual(name, x, sides, Some(self.time), [norm; 2], false)
    }
}

impl Blocks for Builder<'_> {
    fn net(&mut self) -> &mut Net {
        &mut self.clips.net
    }

    fn block(&mut self, name: &str, j: usize, x: ValueId, inputs: usize, level: &Level) -> ValueId {
        let Level { channels, heads, depth } = *level;
        // They were trained with another epsilon where there is no attention on the way down.
        let epsilon = if depth == 0 && name.starts_with("down") { 1e-5 } else { 1e-6 };
        let x = self.residual(&format!("{name}.resnets.{j}"), x, [channels, inputs], epsilon);
        match depth {
            0 => x,
            _ => {
                let name = format!("{name}.attentions.{j}");
                self.clips.transformer(&name, x, channels, [heads, depth], self.condition)
            }
        }
    }

    fn middle(&mut self, x: ValueId, channels: usize) -> ValueId {
        let heads = self.config.levels.last().map_or(1, |level| level.heads);
        let x = self.residual("mid_block.resnets.0", x, [channels; 2], 1e-5);
        let sides = [heads, self.config.mid_depth];
        let x = self.clips.transformer("mid_block.attentions.0", x, channels, sides, self.condition);
        self.residual("mid_block.resnets.1", x, [channels; 2], 1e-5)
    }
}
