//! The `config.json` files of Stable Video Diffusion's parts, read and refused as [`super::super::config`] does.

use std::path::Path;

use serde::Deserialize;

use super::blocks::GROUPS;
use crate::infer::models::config::{Each, LAYERS_MAX, LEVELS_MAX, Level, SIDE_MAX, Vae, only, read, within, wrong};
use crate::infer::weights::WeightError;

/// What a UNet is told of a clip: its frame rate less one, how much moves, how much noise is on its picture.
pub const TIME_IDS: usize = 3;
/// Most frames of a clip: twice what the longest of these models was trained with, and then some.
pub const FRAMES_MAX: usize = 64;
/// Of the encoder's pictures. Their pipeline knows no other.
const VISION_SIDE: usize = 224;
const COLOURS: usize = 3;

/// A UNetSpatioTemporalConditionModel.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoUnet {
    pub in_channels: usize,
    pub out_channels: usize,
    pub levels: Vec<Level>,
    /// Transformer blocks in the middle.
    pub mid_depth: usize,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub layers: usize,
    /// Features of the picture.
    pub context: usize,
    /// Sinusoids of each of [`TIME_IDS`].
    pub time_channels: usize,
    /// Frames that it was trained with.
    pub frames: usize,
    /// Side of the latents that it was trained with, if they were a square.
    pub sample_size: Option<usize>,
}

#[derive(Deserialize)]
struct RawUnet {
    #[serde(default = "eight")]
    in_channels: usize,
    #[serde(default = "four")]
    out_channels: usize,
    block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    #[serde(default = "two")]
    layers_per_block: usize,
    #[serde(default = "one_each")]
    transformer_layers_per_block: Each,
    num_attention_heads: Each,
    cross_attention_dim: usize,
    addition_time_embed_dim: usize,
    projection_class_embeddings_input_dim: usize,
    #[serde(default = "twenty_five")]
    num_frames: usize,
    sample_size: Option<usize>,
}

fn eight() -> usize {
    8
}

fn four() -> usize {
    4
}

fn two() -> usize {
    2
}

fn twenty_five() -> usize {
    25
}

fn one_each() -> Each {
    Each::All(1)
}

impl VideoUnet {
    /// # Errors
    /// [`WeightError`] names the field that the graph does not have.
    pub fn read(path: &Path) -> Result<Self, WeightError> {
        read::<RawUnet>(path)?.checked().map_err(|problem| wrong(path, problem))
    }

    /// A latent's sides are multiples of this.
    #[must_use]
    pub fn side_multiple(&self) -> usize {
        1 << (self.levels.len() - 1)
    }
}

/// Channels that the norms divide.
fn grouped(name: &str, channels: usize) -> Result<usize, String> {
    match within(name, channels, SIDE_MAX)? {
        channels if channels.is_multiple_of(GROUPS) => Ok(channels),
        _ => Err(format!("`{name}` is {channels}, which {GROUPS} groups do not divide")),
    }
}

impl RawUnet {
    fn checked(self) -> Result<VideoUnet, String> {
        let count = within("block_out_channels", self.block_out_channels.len(), LEVELS_MAX)?;
        only("down_block_types' length", &self.down_block_types.len(), &count)?;
        only("up_block_types' length", &self.up_block_types.len(), &count)?;
        let heads = self.num_attention_heads.over(count, "num_attention_heads")?;
        let depths = self.transformer_layers_per_block.over(count, "transformer_layers_per_block")?;
        let mut levels = Vec::with_capacity(count);
        for i in 0..count {
            let channels = grouped("block_out_channels", self.block_out_channels[i])?;
            let depth = within("transformer_layers_per_block", depths[i], LAYERS_MAX)?;
            let heads = within("num_attention_heads", heads[i], channels)?;
            if !channels.is_multiple_of(heads) {
                return Err(format!("`num_attention_heads` is {heads}, which does not divide {channels} channels"));
            }
            let depth = match (self.down_block_types[i].as_str(), self.up_block_types[count - 1 - i].as_str()) {
                ("CrossAttnDownBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal") => depth,
                ("DownBlockSpatioTemporal", "UpBlockSpatioTemporal") => 0,
                (down, up) => return Err(format!("blocks `{down}` and `{up}` are not understood as a pair")),
            };
            levels.push(Level { channels, heads, depth });
        }
        let time_channels = within("addition_time_embed_dim", self.addition_time_embed_dim, SIDE_MAX)?;
        let all = &(TIME_IDS * time_channels);
        only("projection_class_embeddings_input_dim", &self.projection_class_embeddings_input_dim, all)?;
        Ok(VideoUnet {
            in_channels: within("in_channels", self.in_channels, 64)?,
            out_channels: within("out_channels", self.out_channels, 64)?,
            levels,
            mid_depth: depths[count - 1],
            layers: within("layers_per_block", self.layers_per_block, LAYERS_MAX)?,
            context: within("cross_attention_dim", self.cross_attention_dim, SIDE_MAX)?,
            time_channels,
            frames: within("num_frames", self.num_frames, FRAMES_MAX)?,
            sample_size: self.sample_size.map(|side| within("sample_size", side, 1024)).transpose()?,
        })
    }
}

#[derive(Deserialize)]
struct RawVae {
    #[serde(default = "colours")]
    in_channels: usize,
    #[serde(default = "colours")]
    out_channels: usize,
    #[serde(default = "four")]
    latent_channels: usize,
    block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    layers_per_block: usize,
    #[serde(default = "scaling")]
    scaling_factor: f32,
    #[serde(default = "yes")]
    force_upcast: bool,
}

fn colours() -> usize {
    COLOURS
}

fn scaling() -> f32 {
    0.18215
}

fn yes() -> bool {
    true
}

/// Reads the configuration of an AutoencoderKLTemporalDecoder, whose encoder is any VAE's.
///
/// # Errors
/// [`WeightError`] names the field that the graphs do not have.
pub fn vae(path: &Path) -> Result<Vae, WeightError> {
    read::<RawVae>(path)?.checked().map_err(|problem| wrong(path, problem))
}

impl RawVae {
    fn checked(self) -> Result<Vae, String> {
        let levels = within("block_out_channels", self.block_out_channels.len(), LEVELS_MAX)?;
        only("in_channels", &self.in_channels, &COLOURS)?;
        only("out_channels", &self.out_channels, &COLOURS)?;
        only("down_block_types", &self.down_block_types, &vec!["DownEncoderBlock2D".to_owned(); levels])?;
        for channels in &self.block_out_channels {
            grouped("block_out_channels", *channels)?;
        }
        if !self.scaling_factor.is_finite() || self.scaling_factor <= 0.0 {
            return Err(format!("`scaling_factor` is {}", self.scaling_factor));
        }
        // The decoder's middle has as many blocks as a level has: with another number it would be another network.
        only("layers_per_block", &self.layers_per_block, &2)?;
        Ok(Vae {
            latent_channels: within("latent_channels", self.latent_channels, 64)?,
            channels: self.block_out_channels,
            layers: self.layers_per_block,
            groups: GROUPS,
            scaling: self.scaling_factor,
            needs_f32: self.force_upcast,
        })
    }
}

/// A CLIPVisionModelWithProjection.
#[derive(Clone, Debug, PartialEq)]
pub struct Vision {
    /// Of the pictures that it sees.
    pub side: usize,
    pub patch: usize,
    pub width: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub quick_gelu: bool,
    pub epsilon: f32,
    /// Features of a picture.
    pub projection: usize,
}

/// What is left out of the file is CLIP's.
#[derive(Deserialize)]
#[serde(default)]
struct RawVision {
    image_size: usize,
    patch_size: usize,
    num_channels: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_act: String,
    layer_norm_eps: f32,
    projection_dim: usize,
}

impl Default for RawVision {
    fn default() -> Self {
        Self {
            image_size: VISION_SIDE,
            patch_size: 32,
            num_channels: COLOURS,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            hidden_act: "quick_gelu".into(),
            layer_norm_eps: 1e-5,
            projection_dim: 512,
        }
    }
}

impl Vision {
    /// # Errors
    /// [`WeightError`] names the field that the graph does not have.
    pub fn read(path: &Path) -> Result<Self, WeightError> {
        read::<RawVision>(path)?.checked().map_err(|problem| wrong(path, problem))
    }

    /// Patches of a picture.
    #[must_use]
    pub fn patches(&self) -> usize {
        (self.side / self.patch).pow(2)
    }
}

impl RawVision {
    fn checked(self) -> Result<Vision, String> {
        only("image_size", &self.image_size, &VISION_SIDE)?;
        only("num_channels", &self.num_channels, &COLOURS)?;
        let patch = within("patch_size", self.patch_size, VISION_SIDE)?;
        if !VISION_SIDE.is_multiple_of(patch) {
            return Err(format!("`patch_size` is {patch}, which does not divide {VISION_SIDE}"));
        }
        let width = within("hidden_size", self.hidden_size, SIDE_MAX)?;
        let heads = within("num_attention_heads", self.num_attention_heads, width)?;
        Ok(Vision {
            side: self.image_size,
            patch,
            width,
            inner: within("intermediate_size", self.intermediate_size, SIDE_MAX)?,
            layers: within("num_hidden_layers", self.num_hidden_layers, LAYERS_MAX)?,
            heads,
            quick_gelu: match self.hidden_act.as_str() {
                "quick_gelu" => true,
                "gelu" => false,
                other => return Err(format!("`hidden_act` is {other:?}; \"quick_gelu\" and \"gelu\" are understood")),
            },
            epsilon: self.layer_norm_eps,
            projection: within("projection_dim", self.projection_dim, SIDE_MAX)?,
        })
    }
}
