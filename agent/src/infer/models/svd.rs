//! Stable Video Diffusion: a model that makes the frames of a clip out of one picture.
//!
//! Four parts: CLIP's encoder of pictures ([`vision`]), the encoder of a VAE that is Stable Diffusion's, a UNet whose blocks
//! look at each frame and then along the frames ([`unet`]), and a decoder that does the same ([`decoder`]). How much of both
//! looks is taken is a number of each block, read from the weights ([`Mixes`]) and part of the graph.
//!
//! Absent on purpose: single files, whose names are the original code's, and the sampling of latents between the VAE's mean and
//! itself: this model was trained with the mean.

mod blocks;
pub mod config;
pub mod decoder;
pub mod unet;
pub mod vision;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use self::config::{VideoUnet, Vision};
use super::config::{Vae, read, wrong};
use super::folder::part;
use crate::infer::graph::Graph;
use crate::infer::sampler::Schedule;
use crate::infer::weights::{WeightError, Weights};

/// How the pipeline is called in `model_index.json`.
pub(super) const CLASS: &str = "StableVideoDiffusion";
const MIX: &str = "time_mixer.mix_factor";

/// A model, read and checked, not yet loaded.
pub struct Model {
    pub vision: Vision,
    pub vision_weights: Weights,
    pub unet: VideoUnet,
    pub unet_weights: Weights,
    pub vae: Vae,
    pub vae_weights: Weights,
    pub schedule: Schedule,
}

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class: String,
}

/// Whether `folder` says that it holds such a model.
#[must_use]
pub fn is_one(folder: &Path) -> bool {
    read::<Index>(&folder.join("model_index.json")).is_ok_and(|index| index.class.starts_with(CLASS))
}

impl Model {
    /// Opens a folder in the layout of diffusers.
    ///
    /// # Errors
    /// [`WeightError`] names the file and what is wrong with it.
    pub fn open(folder: &Path) -> Result<Self, WeightError> {
        let model = Self {
            vision: Vision::read(&folder.join("image_encoder/config.json"))?,
            unet: VideoUnet::read(&folder.join("unet/config.json"))?,
            vae: config::vae(&folder.join("vae/config.json"))?,
            schedule: Schedule::read(&folder.join("scheduler/scheduler_config.json"))?,
            vision_weights: flat(part(&folder.join("image_encoder"), "model")?),
            unet_weights: flat(part(&folder.join("unet"), "diffusion_pytorch_model")?),
            vae_weights: flat(part(&folder.join("vae"), "diffusion_pytorch_model")?),
        };
        model.checked().map_err(|problem| wrong(folder, problem))
    }

    /// Makes sure that the parts fit together.
    fn checked(self) -> Result<Self, String> {
        if self.vision.projection != self.unet.context {
            let Self { vision, unet, .. } = &self;
            return Err(format!("pictures have {} features, the UNet takes {}", vision.projection, unet.context));
        }
        let latent = self.vae.latent_channels;
        if self.unet.out_channels != latent || self.unet.in_channels != 2 * latent {
            return Err(format!(
                "the UNet takes {} channels and gives {}, latents have {latent}",
                self.unet.in_channels, self.unet.out_channels
            ));
        }
        if self.schedule.continuous.is_none() {
            return Err(
                "the scheduler is not the one that such models are trained for: v-prediction, `timestep_type` \
                 \"continuous\", `use_karras_sigmas`, `sigma_min` and `sigma_max`"
                    .to_owned(),
            );
        }
        Ok(self)
    }

    /// The graph of [`unet`].
    ///
    /// # Errors
    /// [`WeightError`]: a block's mix is missing, or no number.
    pub fn unet_graph(&self) -> Result<Graph, WeightError> {
        unet::graph(&self.unet, &Mixes::read(&self.unet_weights)?)
    }

    /// The graph of [`decoder`].
    ///
    /// # Errors
    /// As [`Self::unet_graph`].
    pub fn decoder_graph(&self) -> Result<Graph, WeightError> {
        decoder::graph(&self.vae, &Mixes::read(&self.vae_weights)?)
    }
}

/// The weights under the shapes that the graphs have: kernels over frames have two sides of 1 where one is enough, the grid of
/// patches is a product, and the class of a picture is a row.
fn flat(weights: Weights) -> Weights {
    let mut made = Weights::default();
    for (name, tensor) in weights.iter() {
        let shape = match *tensor.shape.as_slice() {
            [o, i, lines, 1, 1] => Some(vec![o, i, lines, 1]),
            [o, i, h, w] if name.ends_with("patch_embedding.weight") => {
                h.checked_mul(w).and_then(|pixels| pixels.checked_mul(i)).map(|all| vec![o, all])
            }
            [width] if name.ends_with("class_embedding") => Some(vec![1, width]),
            _ => None,
        };
        let reshaped = shape.and_then(|shape| tensor.reshaped(&shape));
        made.put(name, reshaped.unwrap_or_else(|| tensor.clone()));
    }
    made
}

/// How much of what each block makes of single frames, and how much of what it makes along them, goes on: the logistic
/// function of its `mix_factor`.
#[derive(Clone, Debug, Default)]
pub struct Mixes {
    read: BTreeMap<String, f32>,
    otherwise: Option<f32>,
}

impl Mixes {
    /// Those of a part's weights.
    ///
    /// # Errors
    /// [`WeightError::Tensor`]: one has another shape, or is no number.
    pub fn read(weights: &Weights) -> Result<Self, WeightError> {
        let of_block = |(name, _): (&str, _)| {
            let block = name.strip_suffix(MIX)?.strip_suffix('.')?.to_owned();
            Some(weights.values(name, &[1]).map(|mix| (block, 1.0 / (1.0 + (-mix[0]).exp()))))
        };
        let read = weights.iter().filter_map(of_block).collect::<Result<_, WeightError>>()?;
        Ok(Self { read, otherwise: None })
    }

    /// The same share for every block: for measurements with random weights.
    #[must_use]
    pub fn all(share: f32) -> Self {
        Self { read: BTreeMap::new(), otherwise: Some(share) }
    }

    fn of(&self, block: &str) -> Option<f32> {
        self.read.get(block).copied().or(self.otherwise)
    }
}
