//! A model between two jobs: its programs, its tokenizers and its numbers.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use crate::infer::Failure;
use crate::infer::executor::{ExecError, Executor, Input, Program};
use crate::infer::graph::{Element, Plan, TensorType};
use crate::infer::models::config::{Clip, Unet, Vae};
use crate::infer::models::folder::{self, Model};
use crate::infer::models::tokenizer::{Tokenizer, Tokens};
use crate::infer::models::{clip, inversion, lora, motion, unet, vae};
use crate::infer::sampler::Schedule;
use crate::infer::weights::Weights;

use super::parameters::{Form, Lora, Wanted};
use super::tiles;

/// What was asked for when it was loaded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub(super) model: String,
    /// The motion modules of a clip.
    pub(super) motion: Option<String>,
    pub(super) loras: Vec<Lora>,
    pub(super) embeddings: Vec<String>,
}

impl Key {
    pub(super) fn of(wanted: &Wanted) -> Self {
        let motion = if let Form::Clip { motion, .. } = &wanted.form { Some(motion.clone()) } else { None };
        let Wanted { model, loras, embeddings, .. } = wanted;
        Self { model: model.clone(), motion, loras: loras.clone(), embeddings: embeddings.clone() }
    }
}

/// What the questions of one step must have the same of to be one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Of the latents: height and width.
    pub(super) size: [usize; 2],
    /// Of each picture or clip.
    pub(super) frames: usize,
    /// Of the text.
    pub(super) places: usize,
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
    /// Most frames of a clip; `None`: it makes pictures.
    pub(super) frames_max: Option<usize>,
    pub(super) vae: Vae,
    pub(super) schedule: Schedule,
    pub(super) zero_negative: bool,
    pub(super) executor: &'static str,
}

/// Most parts that a text is encoded in.
const PARTS_MAX: usize = 8;

struct TextProgram {
    config: Clip,
    tokenizer: Tokenizer,
    program: Box<dyn Program>,
}

impl TextProgram {
    fn parts(&self, text: &str) -> Result<(Vec<Tokens>, usize), Failure> {
        let parts = self.tokenizer.parts(text, self.config.length, PARTS_MAX);
        parts.map_err(|problem| Failure::permanent(format!("the prompt {problem}")))
    }
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

/// Where the model `name` lies in the folder of models.
pub(super) fn find(models: &Path, name: &str) -> Result<PathBuf, Failure> {
    folder::find(models, name).ok_or_else(|| {
        let name: String = name.chars().take(80).collect();
        let known = folder::list(models);
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Failure::permanent(format!("parameter `model` is {name:?}; this host has {known}"))
    })
}

/// Opens the model that `key` names in the folder of models, with its LoRAs merged and its words added.
pub(super) fn open(models: &Path, key: &Key) -> Result<Model, Failure> {
    let mut model = folder::open(&find(models, &key.model)?).map_err(ExecError::from)?;
    if let Some(name) = &key.motion {
        let Some(place) = motion::find(models, name) else {
            let name: String = name.chars().take(80).collect();
            let known = motion::list(models);
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Failure::permanent(format!("parameter `motion` is {name:?}; this host has {known}")));
        };
        motion::add(&place, &mut model).map_err(ExecError::from)?;
    }
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

/// What a run takes at its worst with `element` bytes for a value: a step with one picture or clip, or decoding one picture.
pub(super) fn needed_bytes(
    model: &Model,
    [height, width]: [usize; 2],
    frames: usize,
    element: usize,
) -> Result<usize, Failure> {
    let factor = model.vae.factor();
    let (h, w) = (height / factor, width / factor);
    let places = model.texts.first().map_or(1, |text| text.config.length);
    let inputs = questions(&model.unet, model.motion.is_some(), 1, Shape { size: [h, w], frames, places });
    // What is larger is decoded in tiles.
    let latents = [TensorType::f32(&[1, h.min(tiles::TILE), w.min(tiles::TILE), model.vae.latent_channels])];
    let bytes = |_: Element| element;
    let step = Plan::new(&model.unet_graph().fuse(), &inputs, bytes).map_err(ExecError::from)?;
    let decoder = vae::decoder(&model.vae).fuse();
    let wide = if decoder.needs_f32() { size_of::<f32>() } else { element };
    let decode = Plan::new(&decoder, &latents, |_: Element| wide).map_err(ExecError::from)?;
    Ok(step.peak_bytes().max(decode.peak_bytes()))
}

/// What a UNet, with motion modules or without, is given for so many questions at once.
fn questions(unet: &Unet, moves: bool, count: usize, shape: Shape) -> Vec<TensorType> {
    let Shape { size: [h, w], frames, places } = shape;
    // To the UNet each frame is a picture.
    let n = count * frames;
    let mut inputs = vec![
        TensorType::f32(&[n, h, w, unet.in_channels]),
        TensorType::f32(&[n]),
        TensorType::f32(&[n, places, unet.context]),
    ];
    if unet.guidance.is_some() {
        inputs.push(TensorType::f32(&[n]));
    }
    if let Some(added) = unet.added {
        inputs.extend([TensorType::f32(&[n, added.pooled]), TensorType::f32(&[6 * n])]);
    }
    if moves {
        inputs.push(TensorType::f32(&[frames]));
    }
    inputs
}

impl Loaded {
    pub(super) fn load(executor: &dyn Executor, model: Model, key: Key) -> Result<Self, Failure> {
        let xl = model.unet.added.is_some();
        let last = model.texts.len().saturating_sub(1);
        let unet_graph = model.unet_graph().fuse();
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
            unet_program: executor.load(unet_graph, &model.unet_weights)?,
            decoder: executor.load(vae::decoder(&model.vae).fuse(), &model.vae_weights)?,
            encoder: None,
            vae_weights: model.vae_weights,
            unet: model.unet,
            frames_max: model.motion.map(|motion| motion.frames_max),
            vae: model.vae,
            schedule: model.schedule,
            zero_negative: model.zero_negative,
            executor: executor.name(),
        })
    }

    pub(super) fn is_xl(&self) -> bool {
        self.unet.added.is_some()
    }

    /// How many parts the longest of these texts, for each encoder its own, is encoded in.
    pub(super) fn parts(&self, texts: &[[&str; 2]]) -> Result<usize, Failure> {
        let mut most = 1;
        for (encoder, text) in texts.iter().flat_map(|texts| self.texts.iter().zip(texts)) {
            most = most.max(encoder.parts(text)?.0.len());
        }
        Ok(most)
    }

    /// Encodes a text, for each encoder its own, in so many parts one after the other. Empty ones fill it up: what is guided away
    /// from is as long as what is guided towards.
    pub(super) fn encode_text(
        &mut self,
        texts: [&str; 2],
        count: usize,
        cancel: &AtomicBool,
    ) -> Result<Conditioning, Failure> {
        let mut encoded: Vec<(Vec<f32>, usize)> = Vec::new();
        let mut made = Conditioning { text: Vec::new(), places: 0, pooled: Vec::new(), cut: 0 };
        for (encoder, text) in self.texts.iter_mut().zip(texts) {
            let length = encoder.config.length;
            let (mut parts, cut) = encoder.parts(text)?;
            let (empty, _) = encoder.parts("")?;
            parts.extend(empty.into_iter().cycle().take(count.saturating_sub(parts.len())));
            let places: Vec<f32> = (0..length).map(|place| place as f32).collect();
            let mut values = Vec::new();
            for (number, tokens) in parts.iter().enumerate() {
                let ids: Vec<f32> = tokens.ids.iter().map(|id| *id as f32).collect();
                let shape = [1, length];
                let inputs = [Input { shape: &shape, data: &ids }, Input { shape: &shape, data: &places }];
                let outputs = encoder.program.run(&inputs, cancel, &mut |_, _| {})?;
                if let ([_, projected], 0) = (outputs.as_slice(), number) {
                    let features = projected.data.len() / length;
                    made.pooled = projected.data[tokens.end * features..][..features].to_vec();
                }
                values.extend_from_slice(outputs[0].data);
            }
            encoded.push((values, encoder.config.width));
            made.cut = made.cut.max(cut);
            made.places = length * parts.len();
        }
        for place in 0..made.places {
            for (values, width) in &encoded {
                made.text.extend_from_slice(&values[place * width..][..*width]);
            }
        }
        Ok(made)
    }

    /// Whether a step with so many questions at once is not refused for its size.
    pub(super) fn has_room(&self, samples: usize, shape: Shape) -> bool {
        let inputs = questions(&self.unet, self.frames_max.is_some(), samples, shape);
        self.unet_program.check(&inputs).is_ok()
    }

    /// The UNet's predictions for the samples, one after the other; each is one picture, or the `frames` of one clip. What
    /// takes more memory together than there is goes in parts.
    pub(super) fn predict(
        &mut self,
        samples: &[Sample<'_>],
        size: [usize; 2],
        frames: usize,
        cancel: &AtomicBool,
    ) -> Result<Vec<f32>, Failure> {
        let mut most = samples.len();
        let mut made = Vec::new();
        let mut rest = samples;
        while let Some(first) = rest.first() {
            // Texts of one length alone are one tensor.
            let alike = rest.iter().take_while(|sample| sample.text.places == first.text.places).count();
            let now = most.min(alike);
            match self.predict_part(&rest[..now], size, frames, cancel) {
                Ok(mut part) => {
                    made.append(&mut part);
                    rest = &rest[now..];
                }
                Err(ExecError::Memory { .. }) if now > 1 => most = now / 2,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(made)
    }

    fn predict_part(
        &mut self,
        samples: &[Sample<'_>],
        [h, w]: [usize; 2],
        frames: usize,
        cancel: &AtomicBool,
    ) -> Result<Vec<f32>, ExecError> {
        // To the UNet each frame is a picture, with a text of its own.
        let pictures = || samples.iter().flat_map(|sample| std::iter::repeat_n(sample, frames));
        let n = samples.len() * frames;
        let Some(text) = samples.first().map(|sample| sample.text) else { return Ok(Vec::new()) };
        let latents: Vec<f32> = samples.iter().flat_map(|sample| sample.latents).copied().collect();
        let times: Vec<f32> = pictures().map(|sample| sample.time).collect();
        let guidances: Vec<f32> = pictures().map(|sample| unet::guidance_input(sample.guidance)).collect();
        let texts: Vec<f32> = pictures().flat_map(|sample| &sample.text.text).copied().collect();
        let pooled: Vec<f32> = pictures().flat_map(|sample| &sample.text.pooled).copied().collect();
        let sizes: Vec<f32> = pictures().flat_map(|sample| sample.sizes).collect();
        let numbers: Vec<f32> = (0..frames).map(|frame| frame as f32).collect();
        let (latents_shape, text_shape) = ([n, h, w, self.unet.in_channels], [n, text.places, self.unet.context]);
        let (pooled_shape, times_shape) = ([n, text.pooled.len()], [n]);
        let (sizes_shape, numbers_shape) = ([sizes.len()], [frames]);
        let mut inputs = vec![
            Input { shape: &latents_shape, data: &latents },
            Input { shape: &times_shape, data: &times },
            Input { shape: &text_shape, data: &texts },
        ];
        if self.unet.guidance.is_some() {
            inputs.push(Input { shape: &times_shape, data: &guidances });
        }
        if self.unet.added.is_some() {
            inputs.push(Input { shape: &pooled_shape, data: &pooled });
            inputs.push(Input { shape: &sizes_shape, data: &sizes });
        }
        if self.frames_max.is_some() {
            inputs.push(Input { shape: &numbers_shape, data: &numbers });
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
            Err(ExecError::Memory { .. }) if h.max(w) > tiles::TILE => {
                tiles::decode(&scaled, [h, w], factor, 3, whole)?
            }
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

/// One question to the UNet: a picture, or a clip.
#[derive(Clone, Copy)]
pub(super) struct Sample<'a> {
    /// `[frames, h, w, c]`
    pub(super) latents: &'a [f32],
    pub(super) time: f32,
    pub(super) text: &'a Conditioning,
    /// SDXL's six numbers.
    pub(super) sizes: [f32; 6],
    /// For a UNet that follows it by itself.
    pub(super) guidance: f32,
}
