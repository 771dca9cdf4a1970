//! A model between two jobs: its programs, its tokenizers and its numbers.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::infer::Failure;
use crate::infer::executor::{ExecError, Executor, Input, Program};
use crate::infer::graph::{Element, Plan, TensorType};
use crate::infer::models::config::{Clip, Unet, Vae};
use crate::infer::models::folder::{self, Model};
use crate::infer::models::tokenizer::Tokenizer;
use crate::infer::models::{clip, inversion, lora, unet, vae};
use crate::infer::sampler::Schedule;
use crate::infer::weights::Weights;

use super::parameters::Lora;
use super::tiles;

/// What was asked for when it was loaded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub(super) model: String,
    pub(super) loras: Vec<Lora>,
    pub(super) embeddings: Vec<String>,
}

pub(in crate::infer) struct Loaded {
    pub(super) key: Key,
    texts: Vec<TextProgram>,
    unet_program: Box<dyn Program>,
    decoder: Box<dyn Program>,
    /// Made when a picture comes in.
    encoder: Option<Box<dyn Program>>,
    vae_weights: Weights,
    pub(super) unet: Unet,
    pub(super) vae: Vae,
    pub(super) schedule: Schedule,
    pub(super) zero_negative: bool,
    pub(super) executor: &'static str,
}

struct TextProgram {
    config: Clip,
    tokenizer: Tokenizer,
    program: Box<dyn Program>,
}

/// What the UNet is told about the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Conditioning {
    /// `[places, features]`
    pub(super) text: Vec<f32>,
    pub(super) places: usize,
    /// SDXL's.
    pub(super) pooled: Vec<f32>,
    /// Tokens that did not fit.
    pub(super) cut: usize,
}

/// Opens the model that `key` names in the folder of models, with its LoRAs merged and its words added.
pub(super) fn open(models: &Path, key: &Key) -> Result<Model, Failure> {
    let Some(place) = folder::find(models, &key.model) else {
        let name: String = key.model.chars().take(80).collect();
        let known = folder::list(models);
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        return Err(Failure::permanent(format!("parameter `model` is {name:?}; this host has {known}")));
    };
    let mut model = folder::open(&place).map_err(ExecError::from)?;
    for lora in &key.loras {
        let file = models.join("loras").join(format!("{}.safetensors", lora.name));
        lora::merge(&file, lora.weight, &mut model).map_err(ExecError::from)?;
    }
    for name in &key.embeddings {
        let file = models.join("embeddings").join(format!("{name}.safetensors"));
        inversion::add(&file, name, &mut model).map_err(ExecError::from)?;
    }
    Ok(model)
}

/// What a run takes at its worst with `element` bytes for a value: a step with one picture, or decoding one.
pub(super) fn needed_bytes(model: &Model, [height, width]: [usize; 2], element: usize) -> Result<usize, Failure> {
    let factor = model.vae.factor();
    let (h, w) = (height / factor, width / factor);
    let length = model.texts.first().map_or(1, |text| text.config.length);
    let mut inputs = vec![
        TensorType::f32(&[1, h, w, model.unet.in_channels]),
        TensorType::f32(&[1]),
        TensorType::f32(&[1, length, model.unet.context]),
    ];
    if let Some(added) = model.unet.added {
        inputs.extend([TensorType::f32(&[1, added.pooled]), TensorType::f32(&[6])]);
    }
    // What is larger is decoded in tiles.
    let latents = [TensorType::f32(&[1, h.min(tiles::TILE), w.min(tiles::TILE), model.vae.latent_channels])];
    let bytes = |_: Element| element;
    let step = Plan::new(&unet::graph(&model.unet).fuse(), &inputs, bytes).map_err(ExecError::from)?;
    let decoder = vae::decoder(&model.vae).fuse();
    let wide = if decoder.needs_f32() { size_of::<f32>() } else { element };
    let decode = Plan::new(&decoder, &latents, |_: Element| wide).map_err(ExecError::from)?;
    Ok(step.peak_bytes().max(decode.peak_bytes()))
}

impl Loaded {
    pub(super) fn load(executor: &dyn Executor, model: Model, key: Key) -> Result<Self, Failure> {
        let xl = model.unet.added.is_some();
        let last = model.texts.len().saturating_sub(1);
        let mut texts = Vec::with_capacity(model.texts.len());
        for (i, text) in model.texts.into_iter().enumerate() {
            let wanted = match (xl, i == last) {
                (false, _) => clip::Wanted::Last,
                (true, false) => clip::Wanted::Penultimate,
                (true, true) => clip::Wanted::PenultimateAndProjected,
            };
            let program = executor.load(clip::graph(&text.config, wanted).fuse(), &text.weights)?;
            texts.push(TextProgram { config: text.config, tokenizer: text.tokenizer, program });
        }
        Ok(Self {
            key,
            texts,
            unet_program: executor.load(unet::graph(&model.unet).fuse(), &model.unet_weights)?,
            decoder: executor.load(vae::decoder(&model.vae).fuse(), &model.vae_weights)?,
            encoder: None,
            vae_weights: model.vae_weights,
            unet: model.unet,
            vae: model.vae,
            schedule: model.schedule,
            zero_negative: model.zero_negative,
            executor: executor.name(),
        })
    }

    pub(super) fn is_xl(&self) -> bool {
        self.unet.added.is_some()
    }

    /// Encodes a text, for each encoder its own.
    pub(super) fn encode_text(&mut self, texts: [&str; 2], cancel: &AtomicBool) -> Result<Conditioning, Failure> {
        let mut parts: Vec<(Vec<f32>, usize)> = Vec::new();
        let mut made = Conditioning { text: Vec::new(), places: 0, pooled: Vec::new(), cut: 0 };
        for (encoder, text) in self.texts.iter_mut().zip(texts) {
            let length = encoder.config.length;
            let tokens = encoder
                .tokenizer
                .encode(text, length)
                .map_err(|problem| Failure::permanent(format!("the prompt {problem}")))?;
            let ids: Vec<f32> = tokens.ids.iter().map(|id| *id as f32).collect();
            let places: Vec<f32> = (0..length).map(|place| place as f32).collect();
            let shape = [1, length];
            let inputs = [Input { shape: &shape, data: &ids }, Input { shape: &shape, data: &places }];
            let outputs = encoder.program.run(&inputs, cancel, &mut |_, _| {})?;
            if let [_, projected] = outputs.as_slice() {
                let features = projected.data.len() / length;
                made.pooled = projected.data[tokens.end * features..][..features].to_vec();
            }
            parts.push((outputs[0].data.to_vec(), encoder.config.width));
            made.cut = made.cut.max(tokens.cut);
            made.places = length;
        }
        for place in 0..made.places {
            for (values, width) in &parts {
                made.text.extend_from_slice(&values[place * width..][..*width]);
            }
        }
        Ok(made)
    }

    /// The UNet's prediction for latents `[n, h, w, c]` under one conditioning for each of them. Where a batch takes
    /// more memory than there is, it goes in parts.
    pub(super) fn predict(&mut self, step: &Step<'_>, cancel: &AtomicBool) -> Result<Vec<f32>, Failure> {
        let pictures = step.texts.len();
        let mut parts = pictures;
        let mut made = Vec::new();
        let mut done = 0;
        while done < pictures {
            let now = parts.min(pictures - done);
            match self.predict_part(step, done..done + now, cancel) {
                Ok(mut part) => {
                    made.append(&mut part);
                    done += now;
                }
                Err(ExecError::Memory { .. }) if now > 1 => parts = now / 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(made)
    }

    fn predict_part(
        &mut self,
        step: &Step<'_>,
        part: std::ops::Range<usize>,
        cancel: &AtomicBool,
    ) -> Result<Vec<f32>, ExecError> {
        let n = part.len();
        let [h, w] = step.size;
        let channels = self.unet.in_channels;
        let texts = &step.texts[part.clone()];
        let one = h * w * channels;
        let text: Vec<f32> = texts.iter().flat_map(|text| text.text.iter().copied()).collect();
        let pooled: Vec<f32> = texts.iter().flat_map(|text| text.pooled.iter().copied()).collect();
        let sizes: Vec<f32> = texts.iter().flat_map(|_| step.sizes).collect();
        let times = vec![step.time; n];
        let (latents_shape, text_shape) = ([n, h, w, channels], [n, texts[0].places, self.unet.context]);
        let pooled_shape = [n, texts[0].pooled.len()];
        let (times_shape, sizes_shape) = ([n], [sizes.len()]);
        let mut inputs = vec![
            Input { shape: &latents_shape, data: &step.latents[part.start * one..part.end * one] },
            Input { shape: &times_shape, data: &times },
            Input { shape: &text_shape, data: &text },
        ];
        if self.unet.added.is_some() {
            inputs.push(Input { shape: &pooled_shape, data: &pooled });
            inputs.push(Input { shape: &sizes_shape, data: &sizes });
        }
        let outputs = self.unet_program.run(&inputs, cancel, &mut |_, _| {})?;
        Ok(outputs[0].data.to_vec())
    }

    /// The picture of one latent `[h, w, c]` as the sampler has it, from −1 to 1; in tiles where the whole takes too much.
    pub(super) fn decode(
        &mut self,
        latent: &[f32],
        [h, w]: [usize; 2],
        cancel: &AtomicBool,
    ) -> Result<Vec<f32>, Failure> {
        let scaled: Vec<f32> = latent.iter().map(|value| value / self.vae.scaling).collect();
        let (channels, factor) = (self.vae.latent_channels, self.vae.factor());
        let mut whole = |values: &[f32], [h, w]: [usize; 2]| -> Result<Vec<f32>, ExecError> {
            let shape = [1, h, w, channels];
            let outputs = self.decoder.run(&[Input { shape: &shape, data: values }], cancel, &mut |_, _| {})?;
            Ok(outputs[0].data.to_vec())
        };
        let made = match whole(&scaled, [h, w]) {
            Err(ExecError::Memory { .. }) if h.max(w) > tiles::TILE => tiles::decode(&scaled, [h, w], factor, whole)?,
            made => made?,
        };
        match made.iter().find(|value| !value.is_finite()) {
            Some(wrong) => Err(Failure::permanent(format!(
                "decoding made {wrong}: the VAE's values are more than f16 holds; `precision = \"f32\"` takes it"
            ))),
            None => Ok(made),
        }
    }

    /// Mean and deviation of the latents of a picture `[h, w, 3]` from −1 to 1, as the sampler has them.
    pub(super) fn encode(
        &mut self,
        executor: &dyn Executor,
        picture: &[f32],
        [height, width]: [usize; 2],
        cancel: &AtomicBool,
    ) -> Result<Moments, Failure> {
        if self.encoder.is_none() {
            self.encoder = Some(executor.load(vae::encoder(&self.vae).fuse(), &self.vae_weights)?);
        }
        let Some(encoder) = &mut self.encoder else { return Err(Failure::transient("the encoder is gone")) };
        let shape = [1, height, width, 3];
        let outputs = encoder.run(&[Input { shape: &shape, data: picture }], cancel, &mut |_, _| {})?;
        let channels = self.vae.latent_channels;
        let (scaling, mut moments) = (self.vae.scaling, Moments::default());
        for pixel in outputs[0].data.chunks_exact(2 * channels) {
            let (mean, variance) = pixel.split_at(channels);
            moments.mean.extend(mean.iter().map(|value| value * scaling));
            moments.deviation.extend(variance.iter().map(|log| (0.5 * log.clamp(-30.0, 20.0)).exp() * scaling));
        }
        Ok(moments)
    }
}

/// A picture's latents before the noise between its mean and itself is drawn.
#[derive(Clone, Debug, Default)]
pub(super) struct Moments {
    mean: Vec<f32>,
    deviation: Vec<f32>,
}

impl Moments {
    pub(super) fn draw(&self, noise: &[f32]) -> Vec<f32> {
        self.mean
            .iter()
            .zip(&self.deviation)
            .zip(noise)
            .map(|((mean, deviation), noise)| mean + deviation * noise)
            .collect()
    }
}

/// One question to the UNet.
pub(super) struct Step<'a> {
    pub(super) latents: &'a [f32],
    /// Of the latents.
    pub(super) size: [usize; 2],
    pub(super) time: f32,
    /// One for each latent.
    pub(super) texts: &'a [&'a Conditioning],
    /// SDXL's six numbers.
    pub(super) sizes: [f32; 6],
}
