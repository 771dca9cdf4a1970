//! CLIP's text encoder as a graph: numbers of words in, what each place of the text means out.

use crate::infer::graph::{Activation, Graph, Op, ValueId};

use super::config::Clip;
use super::layers::Net;

/// Which of the encoder's values a pipeline reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// After the last layer and its norm: Stable Diffusion 1 and 2.
    Last,
    /// Before the last layer, without a norm: SDXL.
    Penultimate,
    /// That, and the last layer normed and projected, of which the place of the text's end is the pooled text.
    PenultimateAndProjected,
}

/// The graph of `config`. Inputs: the words' numbers `[n, l]` and the places' `[n, l]`. Outputs: as [`Wanted`], each
/// `[n, l, c]`. An encoder without a projection projects nothing.
#[must_use]
pub fn graph(config: &Clip, wanted: Wanted) -> Graph {
    let mut net = Net::default();
    let (words, places) = (net.graph.input(), net.graph.input());
    let root = "text_model.embeddings";
    let weight = net.graph.weight(format!("{root}.token_embedding.weight"), &[config.words, config.width]);
    let words = net.graph.push("token_embedding", Op::Embedding { weight }, &[words]);
    let weight = net.graph.weight(format!("{root}.position_embedding.weight"), &[config.length, config.width]);
    let places = net.graph.push("position_embedding", Op::Embedding { weight }, &[places]);
    let mut x = net.add("embeddings", words, places);
    let Clip { width, inner, heads, quick_gelu, epsilon, .. } = *config;
    let of = Layer { width, inner, heads, quick_gelu, epsilon, causal: true };
    let layers = if wanted == Wanted::Penultimate { config.layers - 1 } else { config.layers };
    for i in 0..layers {
        if wanted == Wanted::PenultimateAndProjected && i == config.layers - 1 {
            net.graph.output(x);
        }
        x = layer(&mut net, of, &format!("text_model.encoder.layers.{i}"), x);
    }
    if wanted != Wanted::Penultimate {
        x = net.layer_norm("text_model.final_layer_norm", x, config.width, config.epsilon);
    }
    if let (Wanted::PenultimateAndProjected, Some(features)) = (wanted, config.projection) {
        x = net.linear_without_bias("text_projection", x, [features, config.width]);
    }
    net.graph.output(x);
    net.graph
}

/// What the layers of an encoder of texts or of pictures have in common.
#[derive(Clone, Copy)]
pub(super) struct Layer {
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) heads: usize,
    pub(super) quick_gelu: bool,
    pub(super) epsilon: f32,
    pub(super) causal: bool,
}

pub(super) fn layer(net: &mut Net, config: Layer, name: &str, x: ValueId) -> ValueId {
    let part = |part: &str| format!("{name}.{part}");
    let square = [config.width, config.width];
    let h = net.layer_norm(&part("layer_norm1"), x, config.width, config.epsilon);
    let qkv = ["q", "k", "v"].map(|which| net.linear(&part(&format!("self_attn.{which}_proj")), h, square));
    let h = net.attention(&part("self_attn"), qkv, config.heads, config.causal);
    let h = net.linear(&part("self_attn.out_proj"), h, square);
    let x = net.add(&part("self_attn.sum"), x, h);
    let h = net.layer_norm(&part("layer_norm2"), x, config.width, config.epsilon);
    let h = net.linear(&part("mlp.fc1"), h, [config.inner, config.width]);
    let activation = if config.quick_gelu { Activation::QuickGelu } else { Activation::Gelu };
    let h = net.activate(&part("mlp.fc1"), activation, h);
    let h = net.linear(&part("mlp.fc2"), h, [config.width, config.inner]);
    net.add(name, x, h)
}
