//! The decoder of Stable Video Diffusion as a graph: latents of frames that follow each other in, the frames out.

use super::Mixes;
use super::blocks::{Clips, GROUPS};
use crate::infer::graph::{Graph, ValueId};
use crate::infer::models::config::Vae;
use crate::infer::models::layers::{Net, Norm};
use crate::infer::models::vae;
use crate::infer::weights::WeightError;

const COLOURS: usize = 3;

/// Inputs: latents `[clips · frames, h, w, c]`, and a value for each frame `[clips, frames]`, of which only the sides are read.
/// Output: `[clips · frames, factor·h, factor·w, 3]` from −1 to 1.
///
/// Unlike the encoder it stays within f16, as its makers run it, whatever `force_upcast` says.
///
/// # Errors
/// [`WeightError`] names the block that `mixes` lacks.
pub fn graph(config: &Vae, mixes: &Mixes) -> Result<Graph, WeightError> {
    let mut net = Net::default();
    let (latents, frames) = (net.graph.input(), net.graph.input());
    let norm = Norm { groups: GROUPS, epsilon: vae::EPSILON };
    let norms = [norm, Norm { epsilon: 1e-5, ..norm }];
    let mut clips = Clips::new(net, mixes, frames);
    let residual = |clips: &mut Clips, name: &str, x: ValueId, sides: [usize; 2]| {
        clips.residual(name, x, sides, None, norms, true)
    };
    let mut width = config.channels[config.channels.len() - 1];
    let x = clips.net.conv("decoder.conv_in", latents, [width, config.latent_channels]);
    let x = residual(&mut clips, "decoder.mid_block.resnets.0", x, [width; 2]);
    let x = vae::attention(&mut clips.net, "decoder.mid_block.attentions.0", x, width, norm);
    let mut x = residual(&mut clips, "decoder.mid_block.resnets.1", x, [width; 2]);
    for (i, channels) in config.channels.iter().rev().enumerate() {
        for j in 0..=config.layers {
            x = residual(&mut clips, &format!("decoder.up_blocks.{i}.resnets.{j}"), x, [*channels, width]);
            width = *channels;
        }
        if i + 1 < config.channels.len() {
            x = clips.net.double(&format!("decoder.up_blocks.{i}.upsamplers.0"), x, width);
        }
    }
    let pictures = vae::end(&mut clips.net, "decoder", x, [COLOURS, width], norm);
    let x = clips.along("decoder.time_conv_out", pictures, COLOURS);
    let x = clips.net.conv_lines("decoder.time_conv_out", x, [COLOURS; 2]);
    let x = clips.apart("decoder", x, pictures, COLOURS);
    clips.finish(x)
}
