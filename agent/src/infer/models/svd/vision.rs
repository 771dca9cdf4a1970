//! CLIP's encoder of pictures as a graph: a picture in patches in, what it shows out; and how a picture becomes patches.

use super::config::Vision;
use crate::infer::graph::{Graph, Op};
use crate::infer::models::clip::{Layer, layer};
use crate::infer::models::layers::Net;

/// Mean and deviation of the colours that CLIP was trained with.
const MEAN: [f64; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const DEVIATION: [f64; 3] = [0.268_629_54, 0.261_302_58, 0.275_777_11];
const COLOURS: usize = 3;
/// Of the bicubic curve.
const STEEPNESS: f64 = -0.75;

/// The graph of `config`. Inputs: patches `[1, p, 3 · side²]` as [`patches`] makes them; the number 0, `[1, 1]`, of the row that stands for
/// the whole picture; and the places `[1, p + 1]`, from 0 on.
/// Output: `[1, 1, projection]`.
#[must_use]
pub fn graph(config: &Vision) -> Graph {
    let mut net = Net::default();
    let [patches, first, places] = std::array::from_fn(|_| net.graph.input());
    let (width, count) = (config.width, config.patches());
    let root = "vision_model.embeddings";
    let inputs = COLOURS * config.patch * config.patch;
    let patches = net.linear_without_bias(&format!("{root}.patch_embedding"), patches, [width, inputs]);
    let weight = net.graph.weight(format!("{root}.class_embedding"), &[1, width]);
    let class = net.graph.push("class_embedding", Op::Embedding { weight }, &[first]);
    let weight = net.graph.weight(format!("{root}.position_embedding.weight"), &[count + 1, width]);
    let places = net.graph.push("position_embedding", Op::Embedding { weight }, &[places]);
    let rows = net.graph.push("rows", Op::Concat { axis: 1 }, &[class, patches]);
    let x = net.add("embeddings", rows, places);
    let mut x = net.layer_norm("vision_model.pre_layrnorm", x, width, config.epsilon);
    let Vision { inner, heads, quick_gelu, epsilon, .. } = *config;
    let of = Layer { width, inner, heads, quick_gelu, epsilon, causal: false };
    for i in 0..config.layers {
        x = layer(&mut net, of, &format!("vision_model.encoder.layers.{i}"), x);
    }
    let class = net.graph.split("class", x, 1, &[1, count])[0];
    let class = net.layer_norm("vision_model.post_layernorm", class, width, epsilon);
    let made = net.linear_without_bias("visual_projection", class, [config.projection, width]);
    net.graph.output(made);
    net.graph
}

/// A picture `[side, side, 3]` with values from −1 to 1 as patches `[p, 3 · patch²]`, whose values are a colour's pixels line by line,
/// then the next colour's; normed as CLIP was trained.
#[must_use]
pub fn patches(config: &Vision, picture: &[f32]) -> Vec<f32> {
    let Vision { side, patch, .. } = *config;
    let across = side / patch;
    let mut made = Vec::with_capacity(picture.len());
    for (top, left) in (0..across).flat_map(|y| (0..across).map(move |x| (y * patch, x * patch))) {
        for colour in 0..COLOURS {
            for (y, x) in (top..top + patch).flat_map(|y| (left..left + patch).map(move |x| (y, x))) {
                let value = (f64::from(picture[(y * side + x) * COLOURS + colour]) + 1.0) / 2.0;
                made.push(((value - MEAN[colour]) / DEVIATION[colour]) as f32);
            }
        }
    }
    made
}

/// A picture `[h, w, 3]` brought to `[to.0, to.1, 3]`: blurred by as much as it shrinks, then taken where corners meet corners, by
/// bicubic curves. Both are sums along one axis after the other, so each axis is gone through once.
#[must_use]
pub fn resized(picture: &[f32], [height, width]: [usize; 2], to: [usize; 2]) -> Vec<f32> {
    let columns = sources(width, to[1]);
    let lines = sources(height, to[0]);
    let mut narrow: Vec<f64> = Vec::with_capacity(height * to[1] * COLOURS);
    for line in picture.chunks_exact(width * COLOURS) {
        for sources in &columns {
            let pixel = |colour: usize| -> f64 {
                sources.iter().map(|(x, share)| share * f64::from(line[x * COLOURS + colour])).sum()
            };
            narrow.extend([0, 1, 2].map(pixel));
        }
    }
    let row = to[1] * COLOURS;
    let mut made = Vec::with_capacity(to[0] * row);
    for sources in &lines {
        made.extend((0..row).map(|at| {
            let value: f64 = sources.iter().map(|(y, share)| share * narrow[y * row + at]).sum();
            value as f32
        }));
    }
    made
}

/// For each of `to` places along a side the pixels out of `from` that it is made of, with their shares.
fn sources(from: usize, to: usize) -> Vec<Vec<(usize, f64)>> {
    let factor = from as f64 / to as f64;
    let deviation = ((factor - 1.0) / 2.0).max(0.001);
    // Two deviations on both sides, and at least one pixel.
    let reach = ((4.0 * deviation) as usize).max(3) / 2;
    let curve: Vec<f64> = (0..=2 * reach).map(|at| -(at as f64 - reach as f64).powi(2)).collect();
    let curve: Vec<f64> = curve.into_iter().map(|square| (square / (2.0 * deviation * deviation)).exp()).collect();
    let all: f64 = curve.iter().sum();
    let last = from - 1;
    // Beyond an end the picture goes back the way it came.
    let mirrored = |at: usize, step: usize| {
        let at = (at + step).abs_diff(reach);
        if at > last { (2 * last).saturating_sub(at) } else { at }
    };
    let step = if to > 1 { last as f64 / (to - 1) as f64 } else { 0.0 };
    (0..to)
        .map(|at| {
            let place = at as f64 * step;
            let pixel = place.floor();
            let away = place - pixel;
            let mut shares = std::collections::BTreeMap::new();
            for (tap, distance) in [1.0 + away, away, 1.0 - away, 2.0 - away].into_iter().enumerate() {
                let near = (pixel as usize + tap).saturating_sub(1).min(last);
                for (blur, share) in curve.iter().enumerate() {
                    *shares.entry(mirrored(near, blur)).or_insert(0.0) += bicubic(distance) * share / all;
                }
            }
            shares.into_iter().filter(|(_, share)| *share != 0.0).collect()
        })
        .collect()
}

/// The bicubic curve at this distance, 0 to 2.
fn bicubic(x: f64) -> f64 {
    let a = STEEPNESS;
    if x <= 1.0 { ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0 } else { ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a }
}
