//! The autoencoder between pictures and latents, as two graphs.
//!
//! Pictures have values from −1 to 1. The latents here are the autoencoder's own: the caller multiplies and divides by
//! [`Vae::scaling`].

use crate::infer::graph::{Activation, Graph, Pad, ValueId};

use super::config::Vae;
use super::layers::{Net, Norm};

pub(super) const EPSILON: f32 = 1e-6;

/// Latents `[n, h, w, c]` to pictures `[n, factor·h, factor·w, 3]`.
#[must_use]
pub fn decoder(config: &Vae) -> Graph {
    let mut net = Net::default();
    let norm = Norm { groups: config.groups, epsilon: EPSILON };
    let latents = net.graph.input();
    let c = config.latent_channels;
    let x = net.pointwise("post_quant_conv", latents, [c, c]);
    let mut width = config.channels[config.channels.len() - 1];
    let x = net.conv("decoder.conv_in", x, [width, c]);
    let mut x = middle(&mut net, "decoder.mid_block", x, width, norm);
    for (i, channels) in config.channels.iter().rev().enumerate() {
        for j in 0..=config.layers {
            x = net.residual(&format!("decoder.up_blocks.{i}.resnets.{j}"), x, [*channels, width], None, norm);
            width = *channels;
        }
        if i + 1 < config.channels.len() {
            x = net.double(&format!("decoder.up_blocks.{i}.upsamplers.0"), x, width);
        }
    }
    let x = end(&mut net, "decoder", x, [3, width], norm);
    net.graph.output(x);
    net.graph.with_f32(config.needs_f32)
}

/// Pictures to the mean and the logarithm of the variance of their latents, one after the other in `2c` channels.
#[must_use]
pub fn encoder(config: &Vae) -> Graph {
    let mut net = Net::default();
    let norm = Norm { groups: config.groups, epsilon: EPSILON };
    let picture = net.graph.input();
    let mut width = config.channels[0];
    let mut x = net.conv("encoder.conv_in", picture, [width, 3]);
    for (i, channels) in config.channels.iter().enumerate() {
        for j in 0..config.layers {
            x = net.residual(&format!("encoder.down_blocks.{i}.resnets.{j}"), x, [*channels, width], None, norm);
            width = *channels;
        }
        if i + 1 < config.channels.len() {
            x = net.halve(&format!("encoder.down_blocks.{i}.downsamplers.0.conv"), x, width, Pad::End);
        }
    }
    let x = middle(&mut net, "encoder.mid_block", x, width, norm);
    let both = 2 * config.latent_channels;
    let x = end(&mut net, "encoder", x, [both, width], norm);
    let x = net.pointwise("quant_conv", x, [both, both]);
    net.graph.output(x);
    net.graph.with_f32(config.needs_f32)
}

fn middle(net: &mut Net, name: &str, x: ValueId, channels: usize, norm: Norm) -> ValueId {
    let square = [channels, channels];
    let x = net.residual(&format!("{name}.resnets.0"), x, square, None, norm);
    let x = attention(net, &format!("{name}.attentions.0"), x, channels, norm);
    net.residual(&format!("{name}.resnets.1"), x, square, None, norm)
}

/// What each pixel sees in all others, and the pixel.
pub(super) fn attention(net: &mut Net, attn: &str, x: ValueId, channels: usize, norm: Norm) -> ValueId {
    let square = [channels, channels];
    let h = net.group_norm(&format!("{attn}.group_norm"), x, channels, norm);
    let qkv = ["to_q", "to_k", "to_v"].map(|which| net.linear(&format!("{attn}.{which}"), h, square));
    let h = net.attention(&format!("{attn}.seen"), qkv, 1, false);
    let h = net.linear(&format!("{attn}.to_out.0"), h, square);
    net.add(attn, x, h)
}

pub(super) fn end(net: &mut Net, name: &str, x: ValueId, shape: [usize; 2], norm: Norm) -> ValueId {
    let x = net.group_norm(&format!("{name}.conv_norm_out"), x, shape[1], norm);
    let x = net.activate(&format!("{name}.conv_norm_out"), Activation::Silu, x);
    net.conv(&format!("{name}.conv_out"), x, shape)
}
