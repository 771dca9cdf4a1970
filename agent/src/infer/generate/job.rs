//! One job under way: its run, what is told of it after each step, and what is made of its last latents.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};
use tracing::info;

use super::denoise::{Run, Source, State};
use super::loaded::{Conditioning, Loaded, Moments, Sample, Shape};
use super::parameters::{Form, Wanted};
use super::{checkpoint, pictures};
use crate::frames::{clip, ffmpeg, image};
use crate::infer::executor::Executor;
use crate::infer::sampler::{Kind, Sampler};
use crate::infer::{Failure, Made, Report, Task, noise};

pub(super) struct Job<'a> {
    task: &'a Task,
    wanted: Wanted,
    scheduler: Kind,
    fingerprint: String,
    /// Of the pictures.
    size: [usize; 2],
    run: Run,
    state: State,
    /// The step that this attempt began with.
    start: usize,
    /// Tokens that did not fit.
    cut: usize,
    /// Most jobs that a step of it was taken with, itself included.
    batch: usize,
}

impl<'a> Job<'a> {
    /// Encodes texts and inputs, and takes up what an earlier attempt left.
    pub(super) fn begin(
        task: &'a Task,
        wanted: Wanted,
        size: [usize; 2],
        executor: &dyn Executor,
        model: &mut Loaded,
        cancel: &AtomicBool,
    ) -> Result<Self, Failure> {
        let fingerprint = checkpoint::fingerprint(task)?;
        let seed = wanted.seed.or_else(|| checkpoint::seed(&task.output_dir, &fingerprint)).unwrap_or_else(any_seed);
        let towards = [wanted.prompt.as_str(), wanted.prompt_2.as_deref().unwrap_or(&wanted.prompt)];
        let first = wanted.negative.as_deref().unwrap_or_default();
        let away = [first, wanted.negative_2.as_deref().unwrap_or(first)];
        // A UNet that follows the guidance by itself needs no second opinion.
        let guided = wanted.guidance > 1.0 && model.unet.guidance.is_none();
        let texts = [towards, away];
        let parts = model.parts(if guided { &texts } else { &texts[..1] })?;
        let prompt = model.encode_text(towards, parts, cancel)?;
        let negative = match guided {
            false => None,
            true if wanted.negative.is_none() && model.zero_negative => {
                let zeros = |values: &[f32]| vec![0.0; values.len()];
                Some(Conditioning { text: zeros(&prompt.text), pooled: zeros(&prompt.pooled), cut: 0, ..prompt })
            }
            true => Some(model.encode_text(away, parts, cancel)?),
        };
        let suited = if model.unet.guidance.is_some() { Kind::Lcm } else { Kind::DpmPlusPlus2mKarras };
        let scheduler = wanted.scheduler.unwrap_or(suited);
        let mut schedule = model.schedule.clone();
        schedule.prediction = wanted.prediction.unwrap_or(schedule.prediction);
        let sampler = Sampler::new(scheduler, &schedule, wanted.steps, wanted.spacing)
            .map_err(|problem| Failure::permanent(format!("the scheduler {problem}")))?;
        let (height, width) = (size[0] as f32, size[1] as f32);
        let cut = prompt.cut.max(negative.as_ref().map_or(0, |text| text.cut));
        let mut run = Run {
            sampler,
            pictures: wanted.form.pictures(),
            frames: wanted.form.frames(),
            size: size.map(|side| side / model.vae.factor()),
            channels: model.vae.latent_channels,
            seed,
            guidance: wanted.guidance,
            prompt,
            negative,
            sizes: [height, width, 0.0, 0.0, height, width],
            source: source(task, executor, model, &wanted, size, seed, cancel)?,
            strength: wanted.strength,
        };
        let mut state = run.begin()?;
        let values = wanted.form.pictures() * run.one();
        let left = checkpoint::read(&task.output_dir, &fingerprint, values, wanted.steps);
        if let Some((_, left)) = left.filter(|(of, left)| *of == seed && left.next > state.next) {
            info!(step = left.next, "an earlier attempt's work goes on");
            run.resume(&left);
            state = left;
        }
        Ok(Self { task, wanted, scheduler, fingerprint, size, start: state.next, run, state, cut, batch: 1 })
    }

    pub(super) fn is_done(&self) -> bool {
        self.run.is_done(&self.state)
    }

    pub(super) fn shape(&self) -> Shape {
        Shape { size: self.run.size, frames: self.run.frames, places: self.run.prompt.places }
    }

    /// How many questions a step asks.
    pub(super) fn questions(&self) -> usize {
        self.run.pictures * (1 + usize::from(self.run.negative.is_some()))
    }

    /// Values of the answer to one of them.
    pub(super) fn one(&self) -> usize {
        self.run.one()
    }

    /// The next step is taken by so many jobs together.
    pub(super) fn goes_with(&mut self, jobs: usize) {
        self.batch = self.batch.max(jobs);
    }

    pub(super) fn seen(&self) -> Vec<f32> {
        self.run.seen(&self.state)
    }

    pub(super) fn samples<'s>(&'s self, seen: &'s [f32]) -> Vec<Sample<'s>> {
        self.run.samples(&self.state, seen)
    }

    /// Takes a step with what the UNet answered to the samples, and tells of it.
    pub(super) fn step(
        &mut self,
        prediction: Vec<f32>,
        is_xl: bool,
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<(), Failure> {
        let state = std::mem::replace(&mut self.state, State { next: 0, latents: Vec::new(), memory: None });
        self.state = self.run.step(state, prediction)?;
        report(Report::Percent(self.percent(0.0)));
        let (wanted, next, folder) = (&self.wanted, self.state.next, &self.task.output_dir);
        if self.is_done() {
            return Ok(());
        }
        if wanted.preview_every > 0 && next.is_multiple_of(wanted.preview_every) {
            // Of the first picture, or of a clip's first frame.
            let first = &self.state.latents[..self.run.one() / self.run.frames];
            if let Some(preview) = pictures::preview(first, self.run.size, self.run.scale(&self.state), is_xl) {
                let file = folder.join(format!("preview-{next}.png"));
                image::encode(&file, &preview, None, None)?;
                report(Report::Preview(file));
            }
        }
        if wanted.checkpoint_every > 0 && next.is_multiple_of(wanted.checkpoint_every) {
            checkpoint::write(&self.task.output_dir, &self.fingerprint, self.run.seed, &self.state)?;
            report(Report::Checkpoint(folder.join(checkpoint::NAME)));
        }
        Ok(())
    }

    /// How far it is, when so many pictures or clips are decoded; decoding is about one step's work for each.
    fn percent(&self, decoded: f32) -> f32 {
        let all = self.wanted.steps - self.start + self.run.pictures;
        100.0 * ((self.state.next - self.start) as f32 + decoded) / all as f32
    }

    /// Decodes what the run has made, into files.
    pub(super) fn deliver(
        &self,
        model: &mut Loaded,
        cancel: &AtomicBool,
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<Vec<Made>, Failure> {
        match &self.wanted.form {
            Form::Pictures { count } => (0..*count)
                .map(|number| {
                    let rgb = self.picture(number, model, cancel)?;
                    let seed = self.run.seed.wrapping_add(number as u64);
                    let path = self.task.output_dir.join(format!("{}-{seed}.png", self.wanted.model));
                    image::encode(&path, &rgb, None, None)?;
                    report(Report::Percent(self.percent((number + 1) as f32)));
                    Ok(self.made(path, "image/png", self.about(seed, model.executor)))
                })
                .collect(),
            Form::Clip { motion, frames, rate } => {
                let path = self.task.output_dir.join(format!("{}-{}.mp4", self.wanted.model, self.run.seed));
                let [height, width] = self.size;
                let executor = model.executor;
                let mut make = |number: usize| {
                    let rgb = self.picture(number, model, cancel)?;
                    report(Report::Percent(self.percent((number + 1) as f32 / *frames as f32)));
                    Ok(rgb.data)
                };
                let tools = ffmpeg::Tools::default();
                clip::write(&tools, (width, height), *rate, *frames, &path, cancel, &mut make)?;
                let mut about = self.about(self.run.seed, executor);
                about.insert("motion".to_owned(), motion.clone().into());
                about.insert("frames".to_owned(), (*frames).into());
                about.insert("frame_rate".to_owned(), format!("{rate}/1").into());
                Ok(vec![self.made(path, "video/mp4", about)])
            }
        }
    }

    /// Picture `number`, or frame `number` of the clip.
    fn picture(&self, number: usize, model: &mut Loaded, cancel: &AtomicBool) -> Result<crate::frames::Rgb, Failure> {
        if cancel.load(Ordering::Relaxed) {
            return Err(Failure::cancelled());
        }
        let one = self.run.one() / self.run.frames;
        let latent = &self.state.latents[number * one..(number + 1) * one];
        Ok(pictures::to_rgb(&model.decode(latent, self.run.size, cancel)?, self.size))
    }

    fn made(&self, path: std::path::PathBuf, content_type: &'static str, extra: Map<String, Value>) -> Made {
        let [height, width] = self.size.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
        Made { path, content_type, width, height, model: self.wanted.model.clone(), scale: 1, extra }
    }

    /// What is worth knowing of a picture.
    fn about(&self, seed: u64, executor: &str) -> Map<String, Value> {
        let wanted = &self.wanted;
        let scheduler = Kind::ALL.iter().find(|(_, kind)| *kind == self.scheduler).map_or("", |(name, _)| *name);
        let mut extra = Map::from_iter([
            ("seed".to_owned(), Value::from(seed)),
            ("steps".to_owned(), wanted.steps.into()),
            ("guidance".to_owned(), f64::from(wanted.guidance).into()),
            ("scheduler".to_owned(), scheduler.into()),
            ("executor".to_owned(), executor.into()),
        ]);
        if self.batch > 1 {
            extra.insert("batch".to_owned(), self.batch.into());
        }
        if self.cut > 0 {
            extra.insert("prompt_tokens_cut".to_owned(), self.cut.into());
        }
        extra
    }
}

/// Chance enters here, where nobody gave a seed; the result tells which one it was.
pub(super) fn any_seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish() >> 32
}

/// Reads the inputs and makes latents of them.
fn source(
    task: &Task,
    executor: &dyn Executor,
    model: &mut Loaded,
    wanted: &Wanted,
    size: [usize; 2],
    seed: u64,
    cancel: &AtomicBool,
) -> Result<Source, Failure> {
    let sees_masks = model.unet.in_channels > model.unet.out_channels;
    let Some(first) = task.inputs.first() else {
        return if sees_masks {
            Err(Failure::permanent("this model inpaints: it takes a picture and its mask"))
        } else {
            Ok(Source::Noise)
        };
    };
    let (picture, _) = pictures::read(first, |_| Ok(size))?;
    let factor = model.vae.factor();
    let count = size[0] / factor * (size[1] / factor) * model.vae.latent_channels;
    let (pictures, frames) = (wanted.form.pictures(), wanted.form.frames());
    // Every frame of a clip begins as the same picture, with noise of its own.
    let pictures_of = |moments: &Moments, stream: u32| -> Vec<f32> {
        let numbers = noise::batch(seed, stream, pictures, frames * count);
        numbers.chunks_exact(count).flat_map(|noise| moments.draw(noise)).collect()
    };
    let clean = model.encode(executor, &picture, size, cancel)?;
    let clean = pictures_of(&clean, noise::PICTURE);
    let Some(second) = task.inputs.get(1) else {
        return if sees_masks {
            Err(Failure::permanent("this model inpaints: it takes a mask as well"))
        } else {
            Ok(Source::Picture(clean))
        };
    };
    let mask = pictures::read_mask(second, size)?;
    let small = pictures::shrink_mask(&mask, size, factor);
    if !sees_masks {
        return Ok(Source::Masked { clean, mask: small });
    }
    let left = model.encode(executor, &pictures::masked(&picture, &mask), size, cancel)?;
    Ok(Source::Seen { clean, mask: small, left: pictures_of(&left, noise::MASKED) })
}
