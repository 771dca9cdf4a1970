//! AnimateDiff's motion modules: what makes a Stable Diffusion UNet's pictures the frames of one clip.
//!
//! After each block of the UNet, every pixel looks at itself in the other frames. A module is a transformer like
//! those of the UNet, twice self attention, whose sequences are the frames; sinusoids tell it a frame's place, so
//! that there are as many frames as it was trained with at most. Its files are a folder of diffusers (`MotionAdapter`), or
//! one file in the names of the original code.
//!
//! Absent on purpose: pickled modules, and the forms for SDXL and for pictures as a condition (PIA).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::{self, Unet};
use super::folder::{self, Model};
use super::layers::{Net, Norm};
use crate::infer::graph::{Op, Side, ValueId};
use crate::infer::weights::{WeightError, Weights};

/// Where they lie in the folder of models.
const FOLDER: &str = "motion";
const ENDING: &str = ".safetensors";
/// Most frames of any module: its positions are not learned, but nothing longer was ever trained.
pub const FRAMES_MAX: usize = 32;
const NORM_EPSILON: f32 = 1e-6;
const LAYER_NORM_EPSILON: f32 = 1e-5;
/// What every published module has, and single files do not say.
const HEADS: usize = 8;
const GROUPS: usize = 32;

/// What the modules of one adapter have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Motion {
    pub heads: usize,
    pub groups: usize,
    /// Whether there is one in the middle of the UNet: not every version has it.
    pub middle: bool,
    pub frames_max: usize,
}

#[derive(Deserialize)]
struct Raw {
    block_out_channels: Vec<usize>,
    #[serde(default = "two")]
    motion_layers_per_block: usize,
    #[serde(default = "one")]
    motion_mid_block_layers_per_block: usize,
    #[serde(default = "eight")]
    motion_num_attention_heads: usize,
    #[serde(default = "thirty_two")]
    motion_norm_num_groups: usize,
    #[serde(default = "thirty_two")]
    motion_max_seq_length: usize,
    #[serde(default = "yes")]
    use_motion_mid_block: bool,
    conv_in_channels: Option<usize>,
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

fn eight() -> usize {
    HEADS
}

fn thirty_two() -> usize {
    FRAMES_MAX
}

fn yes() -> bool {
    true
}

impl Raw {
    fn checked(self, unet: &Unet) -> Result<Motion, String> {
        let channels: Vec<usize> = unet.levels.iter().map(|level| level.channels).collect();
        if self.block_out_channels != channels || self.motion_layers_per_block != unet.layers {
            return Err(format!(
                "has {} modules a level for {:?} channels, the UNet has {} for {channels:?}",
                self.motion_layers_per_block, self.block_out_channels, unet.layers
            ));
        }
        if self.conv_in_channels.is_some() || (self.use_motion_mid_block && self.motion_mid_block_layers_per_block != 1)
        {
            return Err("`conv_in_channels` and more than one module in the middle are not understood".to_owned());
        }
        Ok(Motion {
            heads: self.motion_num_attention_heads,
            groups: self.motion_norm_num_groups,
            middle: self.use_motion_mid_block,
            frames_max: self.motion_max_seq_length,
        })
    }
}

impl Motion {
    /// Makes sure that it divides the UNet's channels, so that a graph can be made of both.
    fn suits(self, unet: &Unet) -> Result<Self, String> {
        if unet.added.is_some() {
            return Err("is for Stable Diffusion 1 and 2; there are none here for SDXL".to_owned());
        }
        let divides = |by: usize| by > 0 && unet.levels.iter().all(|level| level.channels.is_multiple_of(by));
        let frames = (1..=FRAMES_MAX).contains(&self.frames_max);
        if !divides(self.heads) || !divides(self.groups) || !divides(2) || !frames {
            let Self { heads, groups, frames_max, .. } = self;
            return Err(format!("has {heads} heads, {groups} groups and places for {frames_max} frames"));
        }
        Ok(self)
    }
}

/// The motion modules in a folder of models, by name.
#[must_use]
pub fn list(models: &Path) -> Vec<String> {
    folder::names_in(&models.join(FOLDER), |name| find(models, name).is_some())
}

/// Where the motion module `name` lies, if it is there: a folder with a `config.json`, or a safetensors file.
#[must_use]
pub fn find(models: &Path, name: &str) -> Option<PathBuf> {
    let (dir, file) = (models.join(FOLDER).join(name), models.join(FOLDER).join(format!("{name}{ENDING}")));
    match folder::is_plain(name) {
        true if dir.join("config.json").is_file() => Some(dir),
        true if file.is_file() => Some(file),
        _ => None,
    }
}

/// Puts the motion module at `place` into the model's UNet.
///
/// # Errors
/// [`WeightError`]: it is damaged, or made for another UNet.
pub fn add(place: &Path, model: &mut Model) -> Result<(), WeightError> {
    let wrong = |problem: String| config::wrong(place, problem);
    let (motion, weights) = if place.is_dir() {
        let raw: Raw = config::read(&place.join("config.json"))?;
        (raw.checked(&model.unet).map_err(wrong)?, folder::part(place, "diffusion_pytorch_model")?)
    } else {
        single(place)?
    };
    model.motion = Some(motion.suits(&model.unet).map_err(wrong)?);
    model.unet_weights.join(weights)
}

/// Reads a file in the names of the original code.
///
/// # Errors
/// [`WeightError`]: it is damaged, or no motion module.
pub fn single(file: &Path) -> Result<(Motion, Weights), WeightError> {
    let weights = folder::read(file)?;
    let motion = of_names(&weights).map_err(|problem| config::wrong(file, problem))?;
    Ok((motion, renamed(&weights)))
}

/// What a single file says of itself by its names and shapes.
fn of_names(weights: &Weights) -> Result<Motion, String> {
    let ends_with = |name: &str, end: &str| name.ends_with(end);
    let place = weights.iter().find(|(name, _)| ends_with(name, "pos_encoder.pe"));
    let (_, table) = place.ok_or("is no motion module: it has no `pos_encoder.pe`")?;
    let frames_max = match *table.shape.as_slice() {
        [1, frames, _] => frames.min(FRAMES_MAX),
        _ => return Err(format!("has positions of shape {:?}", table.shape)),
    };
    let middle = weights.iter().any(|(name, _)| name.contains("mid_block."));
    Ok(Motion { heads: HEADS, groups: GROUPS, middle, frames_max })
}

/// The names that diffusers gives to what the original code calls otherwise.
fn renamed(weights: &Weights) -> Weights {
    let pairs = [
        (".temporal_transformer", ""),
        (".attention_blocks.0.", ".attn1."),
        (".attention_blocks.1.", ".attn2."),
        (".norms.0.", ".norm1."),
        (".norms.1.", ".norm2."),
        (".ff_norm.", ".norm3."),
    ];
    let mut made = Weights::default();
    for (name, tensor) in weights.iter() {
        let name = name.strip_prefix("module.").unwrap_or(name);
        made.put(pairs.iter().fold(name.to_owned(), |name, (old, new)| name.replace(old, new)), tensor.clone());
    }
    made
}

/// The frames of the clips that flow through a graph under construction.
pub(super) struct Frames<'a> {
    motion: &'a Motion,
    /// The numbers of the frames, `[frames]`.
    numbers: ValueId,
    /// Their places as sinusoids, `[1, frames · channels]`, by channels.
    places: BTreeMap<usize, ValueId>,
}

impl<'a> Frames<'a> {
    pub(super) fn new(motion: &'a Motion, numbers: ValueId) -> Self {
        Self { motion, numbers, places: BTreeMap::new() }
    }

    pub(super) fn has_middle(&self) -> bool {
        self.motion.middle
    }

    fn places(&mut self, net: &mut Net, channels: usize) -> ValueId {
        let numbers = self.numbers;
        *self.places.entry(channels).or_insert_with(|| {
            let name = format!("frames {channels}");
            let op = Op::TimeEmbedding { channels, flip: false, shift: 0.0 };
            let waves = net.graph.push(name.as_str(), op, &[numbers]);
            // Here a sine and its cosine are neighbours.
            let halves = vec![Side::Of { input: 0, axis: 0 }, Side::Is(2), Side::Is(channels / 2)];
            let waves = net.graph.push(name.as_str(), Op::Reshape { shape: halves }, &[waves]);
            let waves = net.graph.push(name.as_str(), Op::Transpose { order: vec![0, 2, 1] }, &[waves]);
            net.graph.push(name.as_str(), Op::Reshape { shape: vec![Side::Is(1), Side::Left] }, &[waves])
        })
    }

    /// The module `name` over `x`, `[clips · frames, h, w, channels]`.
    pub(super) fn module(&mut self, net: &mut Net, name: &str, x: ValueId, channels: usize) -> ValueId {
        let Motion { heads, groups, .. } = *self.motion;
        let (frames, places) = (self.numbers, self.places(net, channels));
        let of = |input, axis| Side::Of { input, axis };
        let square = [channels, channels];
        let reshape = |net: &mut Net, part: &str, shape: &[Side], inputs: &[ValueId]| {
            net.graph.push(format!("{name} {part}"), Op::Reshape { shape: shape.to_vec() }, inputs)
        };
        // The norm is one over all frames of a clip.
        let clip = [Side::Left, of(1, 0), of(0, 1), of(0, 2), Side::Is(channels)];
        let h = reshape(net, "clip", &clip, &[x, frames]);
        let h = net.group_norm(&format!("{name}.norm"), h, channels, Norm { groups, epsilon: NORM_EPSILON });
        // A pixel's way through time is a sequence.
        let h = net.graph.push(format!("{name} turned"), Op::Transpose { order: vec![0, 2, 3, 1, 4] }, &[h]);
        let h = reshape(net, "pixels", &[Side::Left, of(1, 0), Side::Is(channels)], &[h, frames]);
        let mut h = net.linear(&format!("{name}.proj_in"), h, square);
        let block = format!("{name}.transformer_blocks.0");
        for which in [1, 2] {
            let attn = format!("{block}.attn{which}");
            let normed = net.layer_norm(&format!("{block}.norm{which}"), h, channels, LAYER_NORM_EPSILON);
            // A sequence as one row has its places as one row of channels.
            let row = reshape(net, "row", &[Side::Is(1), of(0, 0), Side::Left], &[normed]);
            let row = net.graph.push(format!("{attn} places"), Op::AddChannels, &[row, places]);
            let placed = reshape(net, "placed", &[of(1, 0), of(1, 1), Side::Is(channels)], &[row, h]);
            let seen = net.self_attention(&attn, placed, channels, heads);
            h = net.add(&format!("{attn}.sum"), h, seen);
        }
        let h = net.feed_forward(&block, h, channels, LAYER_NORM_EPSILON);
        let h = net.linear(&format!("{name}.proj_out"), h, square);
        let turned = [Side::Left, of(1, 1), of(1, 2), of(2, 0), Side::Is(channels)];
        let h = reshape(net, "turned back", &turned, &[h, x, frames]);
        let h = net.graph.push(format!("{name} frames"), Op::Transpose { order: vec![0, 3, 1, 2, 4] }, &[h]);
        let h = reshape(net, "pictures", &[of(1, 0), of(1, 1), of(1, 2), Side::Is(channels)], &[h, x]);
        net.add(name, x, h)
    }
}
