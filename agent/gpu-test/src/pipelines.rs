//! The networks of Stable Diffusion with random weights: tiny, as the agent's fixtures have them, and in their real sizes.

use backlot_agent::infer::graph::Graph;
use backlot_agent::infer::models::config::{Clip, Unet, Vae};
use backlot_agent::infer::models::motion::Motion;
use backlot_agent::infer::models::svd::config::{VideoUnet, Vision};
use backlot_agent::infer::models::svd::{self, Mixes};
use backlot_agent::infer::models::{clip, unet, vae};
use serde_json::{Value, json};

use crate::ops::{self, Case, Random, Tensor};

/// What a configuration is called here and what it says. `agent/tests/fixtures/diffusion/make.py` has made the tiny ones.
macro_rules! configuration {
    ($form:literal, $part:literal) => {
        include_str!(concat!("../../tests/fixtures/diffusion/", $form, "/", $part, "/config.json"))
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Sd15,
    Sdxl,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Tiny,
    /// As published.
    Real,
}

/// A configuration as a file, which is what the agent reads.
fn read<T>(text: &str, changes: Value, of: impl Fn(&std::path::Path) -> Result<T, String>) -> Result<T, String> {
    let mut value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let (Some(fields), Value::Object(changes)) = (value.as_object_mut(), changes) {
        fields.extend(changes);
    }
    static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("backlot-gpu-test-{}-{number}.json", std::process::id()));
    std::fs::write(&path, value.to_string()).map_err(|error| error.to_string())?;
    let made = of(&path);
    let _ = std::fs::remove_file(&path);
    made
}

/// What a tiny UNet's configuration lacks of the published size.
pub(crate) fn real_unet(form: Form) -> Value {
    match form {
        Form::Sd15 => json!({ "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
            "cross_attention_dim": 768, "norm_num_groups": 32 }),
        Form::Sdxl => json!({ "attention_head_dim": [5, 10, 20], "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 2048, "norm_num_groups": 32, "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816, "transformer_layers_per_block": [1, 2, 10] }),
    }
}

/// What a tiny autoencoder's lacks.
pub(crate) fn real_vae() -> Value {
    json!({ "block_out_channels": [128, 256, 512, 512], "norm_num_groups": 32 })
}

/// A UNet on latents of these sides.
pub(crate) fn unet_case(form: Form, size: Size, [height, width]: [usize; 2]) -> Result<Case, String> {
    let text = match form {
        Form::Sd15 => configuration!("sd15", "unet"),
        Form::Sdxl => configuration!("sdxl", "unet"),
    };
    let changes = if size == Size::Real { real_unet(form) } else { json!({}) };
    let config = read(text, changes, |path| Unet::read(path).map_err(|error| error.to_string()))?;
    let mut random = Random::new(41);
    let mut inputs = vec![
        random.tensor(&[1, height, width, config.in_channels]),
        Tensor { shape: vec![1], data: vec![481.0] },
        random.tensor(&[1, 77, config.context]),
    ];
    if let Some(added) = &config.added {
        inputs.push(random.tensor(&[1, added.pooled]));
        inputs.push(Tensor { shape: vec![6], data: vec![1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0] });
    }
    Ok(with_weights(unet::graph(&config).fuse(), inputs, random))
}

/// The UNet of Stable Diffusion 1.5 with motion modules over two clips of four frames, of latents of these sides.
pub(crate) fn clip_case(size: Size, [height, width]: [usize; 2]) -> Result<Case, String> {
    let real = json!({ "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
        "cross_attention_dim": 768, "norm_num_groups": 32 });
    let (changes, heads, groups) = if size == Size::Real { (real, 8, 32) } else { (json!({}), 4, 8) };
    let config =
        read(configuration!("sd15", "unet"), changes, |path| Unet::read(path).map_err(|error| error.to_string()))?;
    let motion = Motion { heads, groups, middle: true, frames_max: 32 };
    let mut random = Random::new(53);
    let inputs = vec![
        random.tensor(&[8, height, width, config.in_channels]),
        Tensor { shape: vec![8], data: vec![481.0; 8] },
        random.tensor(&[8, 77, config.context]),
        Tensor { shape: vec![4], data: vec![0.0, 1.0, 2.0, 3.0] },
    ];
    Ok(with_weights(unet::clip_graph(&config, &motion).fuse(), inputs, random))
}

/// The UNet of Stable Video Diffusion over two clips of three frames, of latents of these sides.
pub(crate) fn video_case(size: Size, [height, width]: [usize; 2]) -> Result<Case, String> {
    let real = json!({ "block_out_channels": [320, 640, 1280, 1280], "num_attention_heads": [5, 10, 20, 20],
        "down_block_types": ["CrossAttnDownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal",
            "CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"],
        "up_block_types": ["UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal",
            "CrossAttnUpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"],
        "transformer_layers_per_block": 1, "cross_attention_dim": 1024, "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 768 });
    let changes = if size == Size::Real { real } else { json!({}) };
    let config =
        read(configuration!("svd", "unet"), changes, |path| VideoUnet::read(path).map_err(|error| error.to_string()))?;
    let mut random = Random::new(59);
    let inputs = vec![
        random.tensor(&[6, height, width, config.in_channels]),
        Tensor { shape: vec![2], data: vec![0.7; 2] },
        random.tensor(&[2, config.context]),
        Tensor { shape: vec![6], data: vec![6.0, 127.0, 0.02, 11.0, 30.0, 0.5] },
        Tensor { shape: vec![6], data: vec![0.0, 1.0, 2.0, 0.0, 1.0, 2.0] },
        Tensor { shape: vec![2, 3], data: vec![0.0, 1.0, 2.0, 0.0, 1.0, 2.0] },
    ];
    let graph = svd::unet::graph(&config, &Mixes::all(0.4)).map_err(|error| error.to_string())?;
    Ok(with_weights(graph.fuse(), inputs, random))
}

/// The decoder of Stable Video Diffusion over three frames, from latents of these sides.
pub(crate) fn frames_case(size: Size, [height, width]: [usize; 2]) -> Result<Case, String> {
    let changes = if size == Size::Real { json!({ "block_out_channels": [128, 256, 512, 512] }) } else { json!({}) };
    let config =
        read(configuration!("svd", "vae"), changes, |path| svd::config::vae(path).map_err(|error| error.to_string()))?;
    let mut random = Random::new(61);
    let inputs = vec![random.tensor(&[3, height, width, config.latent_channels]), random.tensor(&[1, 3])];
    let graph = svd::decoder::graph(&config, &Mixes::all(0.4)).map_err(|error| error.to_string())?;
    Ok(with_weights(graph.fuse(), inputs, random))
}

/// CLIP's encoder of pictures.
pub(crate) fn vision_case() -> Result<Case, String> {
    let text = configuration!("svd", "image_encoder");
    let config = read(text, json!({}), |path| Vision::read(path).map_err(|error| error.to_string()))?;
    let mut random = Random::new(67);
    let count = config.patches();
    let places = (0..=count).map(|place| place as f32).collect();
    let inputs = vec![
        random.tensor(&[1, count, 3 * config.patch * config.patch]),
        Tensor { shape: vec![1, 1], data: vec![0.0] },
        Tensor { shape: vec![1, count + 1], data: places },
    ];
    Ok(with_weights(svd::vision::graph(&config).fuse(), inputs, random))
}

/// A decoder from latents of these sides.
pub(crate) fn decoder_case(size: Size, [height, width]: [usize; 2]) -> Result<Case, String> {
    // Random weights overflow no half, and both precisions are wanted.
    let mut changes = if size == Size::Real { real_vae() } else { json!({}) };
    changes["force_upcast"] = false.into();
    let config =
        read(configuration!("sd15", "vae"), changes, |path| Vae::read(path).map_err(|error| error.to_string()))?;
    let mut random = Random::new(43);
    let inputs = vec![random.tensor(&[1, height, width, config.latent_channels])];
    Ok(with_weights(vae::decoder(&config).fuse(), inputs, random))
}

/// A text encoder.
pub(crate) fn text_case() -> Result<Case, String> {
    let text = configuration!("sd15", "text_encoder");
    let config = read(text, json!({}), |path| Clip::read(path).map_err(|error| error.to_string()))?;
    let mut random = Random::new(47);
    let ids: Vec<f32> = (0..77).map(|_| random.within(0..config.words) as f32).collect();
    let places: Vec<f32> = (0..77).map(|place| place as f32).collect();
    let inputs = [ids, places].map(|data| Tensor { shape: vec![1, 77], data }).to_vec();
    Ok(with_weights(clip::graph(&config, clip::Wanted::Last).fuse(), inputs, random))
}

/// Weights that keep values about one: matrices by what they sum over, norms about one, the rest small.
fn with_weights(graph: Graph, inputs: Vec<Tensor>, mut random: Random) -> Case {
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    for decl in graph.weights() {
        if tensors.iter().any(|(name, _)| *name == decl.name) {
            continue;
        }
        let mut tensor = random.tensor(&decl.shape);
        let inner: usize = decl.shape.iter().skip(1).product();
        let (factor, about) = match decl.shape.len() {
            1 if decl.name.ends_with("weight") => (0.1, 1.0),
            1 => (0.1, 0.0),
            _ => ((3.0 / inner as f32).sqrt(), 0.0),
        };
        tensor.data.iter_mut().for_each(|value| *value = *value * factor + about);
        tensors.push((decl.name.clone(), tensor));
    }
    let tensors: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    Case { weights: ops::weights(&tensors), graph, inputs }
}
