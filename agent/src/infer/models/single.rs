//! A whole model in one safetensors file, with the names of the original code.
//!
//! Such a file has no configuration: numbers are read from the shapes of its weights, and what shapes do not tell (heads,
//! groups, activations) is as in every published model of the three forms. It has no vocabulary either; CLIP's lies in
//! `clip-tokenizer` beside the models. Stable Diffusion 2 is taken to predict velocities, as its 768-pixel
//! models do; the parameter `prediction` says otherwise for its base models.
//!
//! Absent on purpose: pickled checkpoints. They are programs.

use std::path::Path;

use super::config::{self, Added, Clip, Level, TIME_IDS, Unet, Vae};
use super::folder::{self, Model, Text};
use super::tokenizer::Tokenizer;
use super::{clip, ldm, unet, vae};
use crate::infer::graph::Graph;
use crate::infer::sampler::{Prediction, Schedule};
use crate::infer::weights::{Tensor, WeightError, Weights};

const UNET: &str = "model.diffusion_model.";
const VAE: &str = "first_stage_model.";
/// Features of one head in CLIP, in SD 2 and in SDXL.
const HEAD: usize = 64;
/// Heads everywhere in SD 1.
const HEADS: usize = 8;
const GROUPS: usize = 32;

/// Opens the file; `vocabulary` is the folder with CLIP's.
///
/// # Errors
/// [`WeightError`] names the file and what is missing.
pub fn open(file: &Path, vocabulary: &Path) -> Result<Model, WeightError> {
    let all = folder::read(file)?;
    let file_has = File { all: &all };
    let model = file_has.model(vocabulary).map_err(|problem| match problem {
        Problem::Weights(error) => error,
        Problem::Here(problem) => config::wrong(file, problem),
    })?;
    model.checked().map_err(|problem| config::wrong(file, problem))
}

enum Problem {
    Weights(WeightError),
    Here(String),
}

impl From<String> for Problem {
    fn from(problem: String) -> Self {
        Self::Here(problem)
    }
}

impl From<WeightError> for Problem {
    fn from(error: WeightError) -> Self {
        Self::Weights(error)
    }
}

struct File<'a> {
    all: &'a Weights,
}

impl File<'_> {
    fn model(&self, vocabulary: &Path) -> Result<Model, Problem> {
        // Where the text encoders lie, and whether OpenCLIP made them.
        let sd1 = ("cond_stage_model.transformer.", false);
        let sd2 = ("cond_stage_model.model.", true);
        let xl = [("conditioner.embedders.0.transformer.", false), ("conditioner.embedders.1.model.", true)];
        let encoders: &[(&str, bool)] = if self.has(&format!("{}ln_final.weight", xl[1].0)) {
            &xl
        } else if self.has(&format!("{}ln_final.weight", sd2.0)) {
            &[sd2]
        } else if self.has(&format!("{}text_model.final_layer_norm.weight", sd1.0)) {
            &[sd1]
        } else {
            return Err("has no text encoder of Stable Diffusion 1, 2 or XL".to_owned().into());
        };
        let is_xl = encoders.len() == 2;
        let mut texts = Vec::new();
        for (prefix, open_clip) in encoders {
            let (config, weights) = self.text(prefix, *open_clip, is_xl)?;
            let mut tokenizer = Tokenizer::read(vocabulary)?;
            if *open_clip {
                tokenizer.pad_with(0);
            }
            texts.push(Text { config, weights, tokenizer });
        }
        let pooled = texts.last().and_then(|text| text.config.projection);
        let unet = self.unet_config(if encoders == [sd1] { Some(HEADS) } else { None }, pooled)?;
        let vae = self.vae_config(is_xl)?;
        let name = |name: &str| ldm::unet(&unet, name).map(|name| format!("{UNET}{name}"));
        let unet_weights = self.renamed(&[unet::graph(&unet)], name)?;
        let name = |name: &str| ldm::vae(vae.channels.len(), name).map(|name| format!("{VAE}{name}"));
        let vae_weights = folder::modern(self.renamed(&[vae::encoder(&vae), vae::decoder(&vae)], name)?);
        let prediction = if encoders == [sd2] { Prediction::V } else { Prediction::Epsilon };
        let schedule = Schedule::stable_diffusion(prediction);
        Ok(Model { texts, unet, motion: None, unet_weights, vae, vae_weights, schedule, zero_negative: is_xl })
    }

    fn has(&self, name: &str) -> bool {
        self.all.get(name).is_some()
    }

    fn shape(&self, name: &str) -> Result<&[usize], String> {
        self.all.get(name).map(|tensor| tensor.shape.as_slice()).ok_or_else(|| format!("has no `{name}`"))
    }

    /// Side `at` of a weight's shape.
    fn side(&self, name: &str, at: usize) -> Result<usize, String> {
        let shape = self.shape(name)?;
        shape.get(at).copied().filter(|side| *side > 0).ok_or_else(|| format!("`{name}` has shape {shape:?}"))
    }

    /// How many of `name(0)`, `name(1)`, … there are.
    fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..256).take_while(|i| self.has(&name(*i))).count()
    }

    /// The weights that the graphs read, under the names that they have there.
    fn renamed(&self, graphs: &[Graph], name: impl Fn(&str) -> Option<String>) -> Result<Weights, String> {
        let mut weights = Weights::default();
        for decl in graphs.iter().flat_map(Graph::weights) {
            let original = name(&decl.name).ok_or_else(|| format!("`{}` has no name in such a file", decl.name))?;
            let tensor = self.all.get(&original).ok_or_else(|| format!("has no `{original}`"))?;
            weights.put(decl.name.clone(), tensor.clone());
        }
        Ok(weights)
    }

    fn unet_config(&self, heads: Option<usize>, pooled: Option<usize>) -> Result<Unet, String> {
        let depth = |block: &str| self.count(|k| format!("{UNET}{block}.1.transformer_blocks.{k}.attn1.to_q.weight"));
        let mut levels: Vec<Level> = Vec::new();
        let (mut layers, mut index) = (0, 1);
        // Residual blocks up to a convolution of stride 2 are one level.
        loop {
            let mut in_level = 0;
            let (mut channels, mut level_depth) = (0, 0);
            while self.has(&format!("{UNET}input_blocks.{index}.0.in_layers.2.weight")) && in_level < 16 {
                channels = self.side(&format!("{UNET}input_blocks.{index}.0.in_layers.2.weight"), 0)?;
                level_depth = depth(&format!("input_blocks.{index}"));
                (in_level, index) = (in_level + 1, index + 1);
            }
            if in_level == 0 || (layers != 0 && in_level != layers) || levels.len() == 8 {
                return Err(format!("has no UNet that is understood: {in_level} blocks before `input_blocks.{index}`"));
            }
            layers = in_level;
            levels.push(Level { channels, heads: heads.unwrap_or((channels / HEAD).max(1)), depth: level_depth });
            if !self.has(&format!("{UNET}input_blocks.{index}.0.op.weight")) {
                break;
            }
            index += 1;
        }
        if self.has(&format!("{UNET}time_embed.cond_proj.weight")) {
            return Err("has a guidance embedding, which is understood in folders of diffusers alone".to_owned());
        }
        let context = format!("{UNET}middle_block.1.transformer_blocks.0.attn2.to_k.weight");
        let added = match (self.shape(&format!("{UNET}label_emb.0.0.weight")), pooled) {
            (Ok(_), Some(pooled)) => {
                let all = self.side(&format!("{UNET}label_emb.0.0.weight"), 1)?;
                Some(Added { time_channels: all.saturating_sub(pooled) / TIME_IDS, pooled })
            }
            _ => None,
        };
        Ok(Unet {
            in_channels: self.side(&format!("{UNET}input_blocks.0.0.weight"), 1)?,
            out_channels: self.side(&format!("{UNET}out.2.weight"), 0)?,
            levels,
            mid_depth: depth("middle_block"),
            layers,
            context: self.side(&context, 1)?,
            linear_projection: self.shape(&format!("{UNET}middle_block.1.proj_in.weight"))?.len() == 2,
            groups: GROUPS,
            epsilon: 1e-5,
            flip: true,
            shift: 0.0,
            sample_size: Some(if added.is_some() {
                128
            } else if heads.is_some() {
                64
            } else {
                96
            }),
            added,
            guidance: None,
        })
    }

    /// The factor of XL's latents is another, and its VAE overflows f16.
    fn vae_config(&self, is_xl: bool) -> Result<Vae, String> {
        let scaling = if is_xl { 0.13025 } else { 0.18215 };
        let block = |level: usize, place: usize| format!("{VAE}encoder.down.{level}.block.{place}.conv1.weight");
        let levels = self.count(|level| block(level, 0));
        let channels: Vec<usize> = (0..levels).map(|level| self.side(&block(level, 0), 0)).collect::<Result<_, _>>()?;
        let (layers, latent) = (self.count(|place| block(0, place)), format!("{VAE}post_quant_conv.weight"));
        if levels == 0 || levels > 8 {
            return Err(format!("has a VAE of {levels} levels"));
        }
        let latent_channels = self.side(&latent, 0)?;
        Ok(Vae { latent_channels, channels, layers, groups: GROUPS, scaling, needs_f32: is_xl })
    }

    fn text(&self, prefix: &str, open_clip: bool, xl: bool) -> Result<(Clip, Weights), String> {
        let original = |name: &str| {
            let (name, third) = if open_clip { ldm::open_clip(name)? } else { (name.to_owned(), None) };
            Some((format!("{prefix}{name}"), third))
        };
        let named = |name: &str| original(name).map(|(name, _)| name).unwrap_or_default();
        let embedding = named("text_model.embeddings.token_embedding.weight");
        let width = self.side(&embedding, 1)?;
        let layers = self.count(|i| named(&format!("text_model.encoder.layers.{i}.layer_norm1.weight")));
        let projection = named("text_projection.weight");
        let config = Clip {
            words: self.side(&embedding, 0)?,
            length: self.side(&named("text_model.embeddings.position_embedding.weight"), 0)?,
            width,
            inner: self.side(&named("text_model.encoder.layers.0.mlp.fc1.weight"), 0)?,
            // SD 2 reads the last but one layer, normed: the last one is left out.
            layers: if open_clip && !xl { layers.saturating_sub(1) } else { layers },
            heads: (width / HEAD).max(1),
            quick_gelu: !open_clip,
            epsilon: 1e-5,
            projection: (open_clip && xl).then(|| self.side(&projection, 1)).transpose()?,
        };
        if config.layers < 2 {
            return Err(format!("has a text encoder of {layers} layers at `{prefix}`"));
        }
        let wanted =
            if config.projection.is_some() { clip::Wanted::PenultimateAndProjected } else { clip::Wanted::Last };
        let mut weights = Weights::default();
        for decl in clip::graph(&config, wanted).weights() {
            let (name, third) =
                original(&decl.name).ok_or_else(|| format!("`{}` has no name in such a file", decl.name))?;
            let whole = self.all.get(&name).ok_or_else(|| format!("has no `{name}`"))?;
            let tensor = match third {
                Some(third) => whole.part(third, 3).ok_or_else(|| format!("`{name}` has shape {:?}", whole.shape))?,
                None if decl.name == "text_projection.weight" => transposed(whole)?,
                None => whole.clone(),
            };
            weights.put(decl.name.clone(), tensor);
        }
        Ok((config, weights))
    }
}

/// OpenCLIP multiplies with its projection from the other side.
fn transposed(tensor: &Tensor) -> Result<Tensor, String> {
    let &[rows, columns] = tensor.shape.as_slice() else {
        return Err(format!("`text_projection` has shape {:?}", tensor.shape));
    };
    let from = tensor.to_f32();
    let values: Vec<f32> = (0..rows * columns).map(|at| from[at % rows * columns + at / rows]).collect();
    Ok(Tensor::stored_as(tensor.stored, &[columns, rows], &values))
}
