//! The `config.json` files of a diffusers folder: read within bounds, and refused by name where they ask for what the
//! graphs here do not have.
//!
//! Fields that only matter for training are not looked at. A field that would change the arithmetic is either understood
//! or must have the value that the graphs assume.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::infer::weights::WeightError;

/// Longest configuration that is read. The longest of the published ones has 2 KB.
const BYTES_MAX: u64 = 1 << 20;
/// Most channels, features or words that a configuration may name.
pub(super) const SIDE_MAX: usize = 1 << 18;
pub(super) const LEVELS_MAX: usize = 8;
pub(super) const LAYERS_MAX: usize = 128;

/// Reads a JSON file of the model.
///
/// # Errors
/// [`WeightError::Open`] when it is not there, [`WeightError::Config`] when it is too long or says something else.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, WeightError> {
    let open = |source| WeightError::Open { file: path.display().to_string(), source };
    let mut text = String::new();
    File::open(path).map_err(open)?.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(open)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(wrong(path, "is longer than 1 MiB"));
    }
    serde_json::from_str(&text).map_err(|error| wrong(path, error))
}

/// A fault of the configuration at `path`.
pub fn wrong(path: &Path, problem: impl std::fmt::Display) -> WeightError {
    WeightError::Config { file: path.display().to_string(), problem: problem.to_string() }
}

/// A number for all levels or one for each.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Each {
    All(usize),
    One(Vec<usize>),
}

impl Each {
    pub(super) fn over(&self, levels: usize, name: &str) -> Result<Vec<usize>, String> {
        match self {
            Self::All(value) => Ok(vec![*value; levels]),
            Self::One(values) if values.len() == levels => Ok(values.clone()),
            Self::One(values) => Err(format!("`{name}` has {} entries for {levels} levels", values.len())),
        }
    }
}

/// One resolution of a UNet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    pub channels: usize,
    pub heads: usize,
    /// Transformer blocks after each residual block; 0: none.
    pub depth: usize,
}

/// A UNet2DConditionModel.
#[derive(Clone, Debug, PartialEq)]
pub struct Unet {
    pub in_channels: usize,
    pub out_channels: usize,
    pub levels: Vec<Level>,
    /// Transformer blocks in the middle.
    pub mid_depth: usize,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub layers: usize,
    pub context: usize,
    pub linear_projection: bool,
    pub groups: usize,
    pub epsilon: f32,
    pub flip: bool,
    pub shift: f32,
    pub added: Option<Added>,
    /// Features of the guidance, where the UNet was taught to follow it by itself (latent consistency models).
    pub guidance: Option<usize>,
    /// Side of the latents that it was trained with.
    pub sample_size: Option<usize>,
}

/// SDXL's second conditioning: sizes as sinusoids, and a text's pooled vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    pub time_channels: usize,
    pub pooled: usize,
}

/// Numbers of the `time_ids`: size, place and target size, two each.
pub const TIME_IDS: usize = 6;

#[derive(Deserialize)]
#[serde(default)]
struct RawUnet {
    in_channels: usize,
    out_channels: usize,
    block_out_channels: Vec<usize>,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    mid_block_type: Option<String>,
    layers_per_block: usize,
    cross_attention_dim: usize,
    attention_head_dim: Each,
    num_attention_heads: Option<Each>,
    use_linear_projection: bool,
    transformer_layers_per_block: Each,
    norm_num_groups: usize,
    norm_eps: f32,
    flip_sin_to_cos: bool,
    freq_shift: f32,
    act_fn: String,
    downsample_padding: usize,
    mid_block_scale_factor: f32,
    addition_embed_type: Option<String>,
    addition_time_embed_dim: Option<usize>,
    projection_class_embeddings_input_dim: Option<usize>,
    class_embed_type: Option<String>,
    encoder_hid_dim_type: Option<String>,
    time_cond_proj_dim: Option<usize>,
    resnet_time_scale_shift: String,
    dual_cross_attention: bool,
    time_embedding_type: String,
    conv_in_kernel: usize,
    conv_out_kernel: usize,
    sample_size: Option<usize>,
}

impl Default for RawUnet {
    fn default() -> Self {
        Self {
            in_channels: 4,
            out_channels: 4,
            block_out_channels: Vec::new(),
            down_block_types: Vec::new(),
            up_block_types: Vec::new(),
            mid_block_type: Some("UNetMidBlock2DCrossAttn".into()),
            layers_per_block: 2,
            cross_attention_dim: 1280,
            attention_head_dim: Each::All(8),
            num_attention_heads: None,
            use_linear_projection: false,
            transformer_layers_per_block: Each::All(1),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            act_fn: "silu".into(),
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
            class_embed_type: None,
            encoder_hid_dim_type: None,
            time_cond_proj_dim: None,
            resnet_time_scale_shift: "default".into(),
            dual_cross_attention: false,
            time_embedding_type: "positional".into(),
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            sample_size: None,
        }
    }
}

impl Unet {
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

/// An error unless the field has the only value that is understood.
pub(super) fn only<T: PartialEq + std::fmt::Debug>(name: &str, value: &T, understood: &T) -> Result<(), String> {
    if value == understood { Ok(()) } else { Err(format!("`{name}` is {value:?}; only {understood:?} is understood")) }
}

pub(super) fn within(name: &str, value: usize, max: usize) -> Result<usize, String> {
    if (1..=max).contains(&value) { Ok(value) } else { Err(format!("`{name}` is {value}, not 1 to {max}")) }
}

/// Half sines and half cosines, and more than one of each.
fn guidance_within(features: usize) -> Result<usize, String> {
    if features >= 4 && features.is_multiple_of(2) {
        return within("time_cond_proj_dim", features, SIDE_MAX);
    }
    Err(format!("`time_cond_proj_dim` is {features}, not an even number from 4 on"))
}

impl RawUnet {
    fn checked(self) -> Result<Unet, String> {
        let count = within("block_out_channels", self.block_out_channels.len(), LEVELS_MAX)?;
        only("act_fn", &self.act_fn.as_str(), &"silu")?;
        only("downsample_padding", &self.downsample_padding, &1)?;
        only("mid_block_type", &self.mid_block_type.as_deref(), &Some("UNetMidBlock2DCrossAttn"))?;
        only("mid_block_scale_factor", &self.mid_block_scale_factor, &1.0)?;
        only("class_embed_type", &self.class_embed_type, &None)?;
        only("encoder_hid_dim_type", &self.encoder_hid_dim_type, &None)?;
        only("resnet_time_scale_shift", &self.resnet_time_scale_shift.as_str(), &"default")?;
        only("time_embedding_type", &self.time_embedding_type.as_str(), &"positional")?;
        only("dual_cross_attention", &self.dual_cross_attention, &false)?;
        only("conv_in_kernel", &self.conv_in_kernel, &3)?;
        only("conv_out_kernel", &self.conv_out_kernel, &3)?;
        only("down_block_types' length", &self.down_block_types.len(), &count)?;
        only("up_block_types' length", &self.up_block_types.len(), &count)?;
        // What diffusers calls `attention_head_dim` here is the number of heads, by an old mistake of theirs.
        let heads = self.num_attention_heads.unwrap_or(self.attention_head_dim).over(count, "attention_head_dim")?;
        let depths = self.transformer_layers_per_block.over(count, "transformer_layers_per_block")?;
        let mut levels = Vec::with_capacity(count);
        for i in 0..count {
            let channels = within("block_out_channels", self.block_out_channels[i], SIDE_MAX)?;
            let depth = within("transformer_layers_per_block", depths[i], LAYERS_MAX)?;
            let heads = within("attention_head_dim", heads[i], channels)?;
            let depth = match (self.down_block_types[i].as_str(), self.up_block_types[count - 1 - i].as_str()) {
                ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D") => depth,
                ("DownBlock2D", "UpBlock2D") => 0,
                (down, up) => return Err(format!("blocks `{down}` and `{up}` are not understood as a pair")),
            };
            levels.push(Level { channels, heads, depth });
        }
        let added = match self.addition_embed_type.as_deref() {
            None => None,
            Some("text_time") => {
                let time_channels =
                    within("addition_time_embed_dim", self.addition_time_embed_dim.unwrap_or(0), SIDE_MAX)?;
                let all = self.projection_class_embeddings_input_dim.unwrap_or(0);
                let pooled = all.saturating_sub(TIME_IDS * time_channels);
                Some(Added {
                    time_channels,
                    pooled: within("projection_class_embeddings_input_dim", pooled, SIDE_MAX)?,
                })
            }
            Some(other) => return Err(format!("`addition_embed_type` is {other:?}; only \"text_time\" is understood")),
        };
        Ok(Unet {
            in_channels: within("in_channels", self.in_channels, 64)?,
            out_channels: within("out_channels", self.out_channels, 64)?,
            levels,
            mid_depth: within("transformer_layers_per_block", depths[count - 1], LAYERS_MAX)?,
            layers: within("layers_per_block", self.layers_per_block, LAYERS_MAX)?,
            context: within("cross_attention_dim", self.cross_attention_dim, SIDE_MAX)?,
            linear_projection: self.use_linear_projection,
            groups: within("norm_num_groups", self.norm_num_groups, SIDE_MAX)?,
            epsilon: self.norm_eps,
            flip: self.flip_sin_to_cos,
            shift: self.freq_shift,
            added,
            guidance: self.time_cond_proj_dim.map(guidance_within).transpose()?,
            sample_size: self.sample_size.map(|side| within("sample_size", side, 1024)).transpose()?,
        })
    }
}

/// An AutoencoderKL.
#[derive(Clone, Debug, PartialEq)]
pub struct Vae {
    pub latent_channels: usize,
    pub channels: Vec<usize>,
    pub layers: usize,
    pub groups: usize,
    /// Latents are the encoder's values times this.
    pub scaling: f32,
    /// Its values overflow f16, as those of SDXL do.
    pub needs_f32: bool,
}

#[derive(Deserialize)]
struct RawVae {
    #[serde(default = "three")]
    in_channels: usize,
    #[serde(default = "three")]
    out_channels: usize,
    latent_channels: usize,
    block_out_channels: Vec<usize>,
    layers_per_block: usize,
    norm_num_groups: usize,
    act_fn: String,
    down_block_types: Vec<String>,
    up_block_types: Vec<String>,
    #[serde(default = "sd_scaling")]
    scaling_factor: f32,
    shift_factor: Option<f32>,
    /// Absent from files that are older than SDXL, which do not need it.
    #[serde(default)]
    force_upcast: bool,
}

fn three() -> usize {
    3
}

fn sd_scaling() -> f32 {
    0.18215
}

impl Vae {
    /// # Errors
    /// [`WeightError`] names the field that the graph does not have.
    pub fn read(path: &Path) -> Result<Self, WeightError> {
        read::<RawVae>(path)?.checked().map_err(|problem| wrong(path, problem))
    }

    /// Pixels of a picture's side for one of the latents'.
    #[must_use]
    pub fn factor(&self) -> usize {
        1 << (self.channels.len() - 1)
    }
}

impl RawVae {
    fn checked(self) -> Result<Vae, String> {
        let levels = within("block_out_channels", self.block_out_channels.len(), LEVELS_MAX)?;
        only("in_channels", &self.in_channels, &3)?;
        only("out_channels", &self.out_channels, &3)?;
        only("act_fn", &self.act_fn.as_str(), &"silu")?;
        only("shift_factor", &self.shift_factor.unwrap_or(0.0), &0.0)?;
        only("down_block_types", &self.down_block_types, &vec!["DownEncoderBlock2D".to_owned(); levels])?;
        only("up_block_types", &self.up_block_types, &vec!["UpDecoderBlock2D".to_owned(); levels])?;
        for channels in &self.block_out_channels {
            within("block_out_channels", *channels, SIDE_MAX)?;
        }
        if !self.scaling_factor.is_finite() || self.scaling_factor <= 0.0 {
            return Err(format!("`scaling_factor` is {}", self.scaling_factor));
        }
        Ok(Vae {
            latent_channels: within("latent_channels", self.latent_channels, 64)?,
            channels: self.block_out_channels,
            layers: within("layers_per_block", self.layers_per_block, LAYERS_MAX)?,
            groups: within("norm_num_groups", self.norm_num_groups, SIDE_MAX)?,
            scaling: self.scaling_factor,
            needs_f32: self.force_upcast,
        })
    }
}

/// A CLIP text encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    pub words: usize,
    /// Longest text in tokens, with its start and end.
    pub length: usize,
    pub width: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub quick_gelu: bool,
    pub epsilon: f32,
    /// Features of the projection, where the encoder has one.
    pub projection: Option<usize>,
}

#[derive(Deserialize)]
struct RawClip {
    #[serde(default)]
    architectures: Vec<String>,
    vocab_size: usize,
    #[serde(default = "seventy_seven")]
    max_position_embeddings: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_act: String,
    #[serde(default = "clip_epsilon")]
    layer_norm_eps: f32,
    #[serde(default)]
    projection_dim: usize,
}

fn seventy_seven() -> usize {
    77
}

fn clip_epsilon() -> f32 {
    1e-5
}

impl Clip {
    /// # Errors
    /// [`WeightError`] names the field that the graph does not have.
    pub fn read(path: &Path) -> Result<Self, WeightError> {
        read::<RawClip>(path)?.checked().map_err(|problem| wrong(path, problem))
    }
}

impl RawClip {
    fn checked(self) -> Result<Clip, String> {
        let projected = self.architectures.iter().any(|name| name == "CLIPTextModelWithProjection");
        Ok(Clip {
            words: within("vocab_size", self.vocab_size, SIDE_MAX)?,
            length: within("max_position_embeddings", self.max_position_embeddings, 1024)?,
            width: within("hidden_size", self.hidden_size, SIDE_MAX)?,
            inner: within("intermediate_size", self.intermediate_size, SIDE_MAX)?,
            layers: within("num_hidden_layers", self.num_hidden_layers, LAYERS_MAX)?,
            heads: within("num_attention_heads", self.num_attention_heads, self.hidden_size.max(1))?,
            quick_gelu: match self.hidden_act.as_str() {
                "quick_gelu" => true,
                "gelu" => false,
                other => return Err(format!("`hidden_act` is {other:?}; \"quick_gelu\" and \"gelu\" are understood")),
            },
            epsilon: self.layer_norm_eps,
            projection: projected.then(|| within("projection_dim", self.projection_dim, SIDE_MAX)).transpose()?,
        })
    }
}
