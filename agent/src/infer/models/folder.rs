//! A diffusion model on disk: a folder in the layout of diffusers, or one file, every file mapped and none trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::{self, Clip, Unet, Vae};
use super::motion::Motion;
use super::tokenizer::Tokenizer;
use super::{single, svd, unet};
use crate::infer::graph::Graph;
use crate::infer::sampler::Schedule;
use crate::infer::weights::{self, WeightError, Weights};

/// Most files that the weights of one part are cut into.
const SHARDS_MAX: usize = 256;

/// A text encoder with its tokenizer.
pub struct Text {
    pub config: Clip,
    pub weights: Weights,
    pub tokenizer: Tokenizer,
}

/// A Stable Diffusion model of any of the three forms, read and checked, not yet loaded.
pub struct Model {
    /// One encoder, or SDXL's two.
    pub texts: Vec<Text>,
    pub unet: Unet,
    /// Modules that were put into the UNet, so that it makes clips.
    pub motion: Option<Motion>,
    pub unet_weights: Weights,
    pub vae: Vae,
    pub vae_weights: Weights,
    pub schedule: Schedule,
    /// Without a negative prompt, SDXL is guided away from zeros rather than from an empty text.
    pub zero_negative: bool,
}

#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name")]
    class: String,
    force_zeros_for_empty_prompt: Option<bool>,
}

/// Whether `folder` looks like a model that [`Model::open`] takes.
#[must_use]
pub fn is_model(folder: &Path) -> bool {
    folder.join("model_index.json").is_file() && folder.join("unet/config.json").is_file()
}

impl Model {
    /// Opens a folder.
    ///
    /// # Errors
    /// [`WeightError`] names the file and what is wrong with it.
    pub fn open(folder: &Path) -> Result<Self, WeightError> {
        let index_file = folder.join("model_index.json");
        let index: Index = config::read(&index_file)?;
        if index.class.starts_with(svd::CLASS) {
            let use_it = "makes clips of a picture: it is for `video.generate`, without a `motion`";
            return Err(config::wrong(&index_file, format!("`{}` {use_it}", index.class)));
        }
        if !index.class.starts_with("StableDiffusion") && !index.class.starts_with("LatentConsistencyModel") {
            return Err(config::wrong(
                &index_file,
                format!("`{}` is not a pipeline that this agent runs", index.class),
            ));
        }
        let unet = Unet::read(&folder.join("unet/config.json"))?;
        let names: &[(&str, &str)] = if unet.added.is_some() {
            &[("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")]
        } else {
            &[("text_encoder", "tokenizer")]
        };
        let text = |(encoder, tokenizer): &(&str, &str)| {
            Ok(Text {
                config: Clip::read(&folder.join(encoder).join("config.json"))?,
                weights: part(&folder.join(encoder), "model")?,
                tokenizer: Tokenizer::read(&folder.join(tokenizer))?,
            })
        };
        let model = Self {
            texts: names.iter().map(text).collect::<Result<_, WeightError>>()?,
            unet_weights: part(&folder.join("unet"), "diffusion_pytorch_model")?,
            vae: Vae::read(&folder.join("vae/config.json"))?,
            vae_weights: modern(part(&folder.join("vae"), "diffusion_pytorch_model")?),
            schedule: Schedule::read(&folder.join("scheduler/scheduler_config.json"))?,
            zero_negative: unet.added.is_some() && index.force_zeros_for_empty_prompt.unwrap_or(true),
            unet,
            motion: None,
        };
        model.checked().map_err(|problem| config::wrong(folder, problem))
    }

    /// Makes sure that the parts fit together.
    pub(super) fn checked(self) -> Result<Self, String> {
        let width: usize = self.texts.iter().map(|text| text.config.width).sum();
        if width != self.unet.context {
            return Err(format!("the texts have {width} features, the UNet takes {}", self.unet.context));
        }
        let pooled = self.texts.last().and_then(|text| text.config.projection);
        if let Some(added) = self.unet.added
            && pooled != Some(added.pooled)
        {
            return Err(format!("the pooled text has {pooled:?} features, the UNet takes {}", added.pooled));
        }
        let length = self.texts.first().map_or(0, |text| text.config.length);
        if self.texts.iter().any(|text| text.config.length != length || text.config.layers < 2) {
            return Err("the text encoders have different lengths, or one layer".to_owned());
        }
        let latent = self.vae.latent_channels;
        if self.unet.out_channels != latent || ![latent, 2 * latent + 1].contains(&self.unet.in_channels) {
            return Err(format!(
                "the UNet takes {} channels and gives {}, latents have {latent}",
                self.unet.in_channels, self.unet.out_channels
            ));
        }
        Ok(self)
    }

    /// The UNet's graph, with the motion modules that are in it.
    #[must_use]
    pub fn unet_graph(&self) -> Graph {
        self.motion.as_ref().map_or_else(|| unet::graph(&self.unet), |motion| unet::clip_graph(&self.unet, motion))
    }

    /// Whether the UNet was trained for inpainting: it sees the mask and what is left of the picture.
    #[must_use]
    pub fn sees_masks(&self) -> bool {
        self.unet.in_channels > self.unet.out_channels
    }
}

#[derive(Deserialize)]
struct Shards {
    weight_map: BTreeMap<String, String>,
}

/// The weights of one part: one file, of half precision where that is all there is, or the shards of an index.
pub(super) fn part(folder: &Path, stem: &str) -> Result<Weights, WeightError> {
    let candidates = [format!("{stem}.safetensors"), format!("{stem}.fp16.safetensors")];
    if let Some(file) = candidates.iter().map(|name| folder.join(name)).find(|file| file.is_file()) {
        return read(&file);
    }
    let index = [format!("{stem}.safetensors.index.json"), format!("{stem}.safetensors.index.fp16.json")];
    let Some(index) = index.iter().map(|name| folder.join(name)).find(|file| file.is_file()) else {
        return read(&folder.join(&candidates[0])); // says that it is not there
    };
    let files: BTreeSet<String> = config::read::<Shards>(&index)?.weight_map.into_values().collect();
    if files.len() > SHARDS_MAX || files.iter().any(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        return Err(config::wrong(&index, "names files outside of its folder, or too many"));
    }
    let mut all = Weights::default();
    for file in files {
        all.join(read(&folder.join(file))?)?;
    }
    Ok(all)
}

/// Reads one safetensors file; errors name it.
///
/// # Errors
/// [`WeightError`].
pub fn read(file: &Path) -> Result<Weights, WeightError> {
    Weights::safetensors(&weights::map(file)?).map_err(|error| config::wrong(file, error))
}

/// The VAE's attention had other names before diffusers 0.18.
pub(super) fn modern(weights: Weights) -> Weights {
    let pairs = [(".query.", ".to_q."), (".key.", ".to_k."), (".value.", ".to_v."), (".proj_attn.", ".to_out.0.")];
    let mut renamed = Weights::default();
    for (name, tensor) in weights.iter() {
        let mut name = name.to_owned();
        if name.contains(".attentions.") {
            pairs.iter().for_each(|(old, new)| name = name.replace(old, new));
        }
        // Those that were converted from a 1x1 convolution kept its shape.
        let linear = match tensor.shape.as_slice() {
            [o, i, 1, 1] if name.contains(".attentions.") => tensor.reshaped(&[*o, *i]),
            _ => None,
        };
        renamed.put(name, linear.unwrap_or_else(|| tensor.clone()));
    }
    renamed
}

/// The folder with CLIP's vocabulary beside single-file models, which have none.
const VOCABULARY: &str = "clip-tokenizer";
const ENDING: &str = ".safetensors";

/// Opens what [`find`] has found.
///
/// # Errors
/// [`WeightError`] names the file and what is wrong with it.
pub fn open(place: &Path) -> Result<Model, WeightError> {
    if place.is_dir() {
        return Model::open(place);
    }
    single::open(place, &place.with_file_name(VOCABULARY))
}

/// The diffusion models in a folder of models, by name.
#[must_use]
pub fn list(models: &Path) -> Vec<String> {
    names_in(models, |name| find(models, name).is_some())
}

/// The names of what lies in `folder`, without the ending of safetensors files, of which `is_one` says yes: each once, in order.
pub(super) fn names_in(folder: &Path, is_one: impl Fn(&str) -> bool) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .map(|name| name.strip_suffix(ENDING).map_or(name.clone(), str::to_owned))
        .filter(|name| is_one(name))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether a name is one part of a path and begins with no dot.
pub(super) fn is_plain(name: &str) -> bool {
    Path::new(name).file_name() == Some(name.as_ref()) && !name.starts_with('.') && name.len() <= 200
}

/// Where the model `name` lies, if it is there: a folder of that name, or a safetensors file without its ending. A name
/// is one part of a path and begins with no dot.
#[must_use]
pub fn find(models: &Path, name: &str) -> Option<PathBuf> {
    if !is_plain(name) {
        return None;
    }
    let (folder, file) = (models.join(name), models.join(format!("{name}{ENDING}")));
    if is_model(&folder) { Some(folder) } else { file.is_file().then_some(file) }
}
