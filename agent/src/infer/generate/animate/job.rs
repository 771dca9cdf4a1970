//! One clip under way: what the UNet is asked at each step, what is done with the answers, and the frames at the end.

use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};
use tracing::info;

use super::loaded::{Loaded, Question, Step};
use super::parameters::Wanted;
use crate::frames::{clip, ffmpeg, image};
use crate::infer::generate::checkpoint;
use crate::infer::generate::denoise::State;
use crate::infer::generate::job::any_seed;
use crate::infer::generate::pictures;
use crate::infer::sampler::Sampler;
use crate::infer::{Failure, Made, Report, Task, noise};

pub(super) struct Job<'a> {
    task: &'a Task,
    wanted: Wanted,
    frames: usize,
    seed: u64,
    fingerprint: String,
    /// Of the frames, and of their latents.
    size: [usize; 2],
    latent: [usize; 2],
    channels: usize,
    sampler: Sampler,
    /// What CLIP sees in the picture, and the picture's latents `[h, w, c]`.
    seen: Vec<f32>,
    clean: Vec<f32>,
    state: State,
    /// The step that this attempt began with.
    start: usize,
}

impl<'a> Job<'a> {
    /// Encodes the picture, and takes up what an earlier attempt left.
    pub(super) fn begin(
        task: &'a Task,
        wanted: Wanted,
        size: [usize; 2],
        frames: usize,
        model: &mut Loaded,
        cancel: &AtomicBool,
    ) -> Result<Self, Failure> {
        let fingerprint = checkpoint::fingerprint(task)?;
        let seed = wanted.seed.or_else(|| checkpoint::seed(&task.output_dir, &fingerprint)).unwrap_or_else(any_seed);
        let sampler = Sampler::continuous(&model.schedule, wanted.steps)
            .map_err(|problem| Failure::permanent(format!("the scheduler {problem}")))?;
        let path = &task.inputs[0];
        let (picture, as_given) = pictures::read(path, Ok)?;
        let seen = model.see(&picture, as_given, cancel)?;
        let (mut picture, _) = pictures::read(path, |_| Ok(size))?;
        let strength = wanted.noise as f32;
        let laid_on = noise::normal(seed, noise::PICTURE, picture.len());
        picture.iter_mut().zip(laid_on).for_each(|(value, noise)| *value += strength * noise);
        let clean = model.encode(&picture, size, cancel)?;
        let latent = size.map(|side| side / model.vae.factor());
        let values = frames * clean.len();
        let first = noise::normal(seed, noise::FIRST, values).into_iter().map(|value| value * sampler.start());
        let mut state = State { next: 0, latents: first.collect(), memory: None };
        let left = checkpoint::read(&task.output_dir, &fingerprint, values, wanted.steps);
        if let Some((_, left)) = left.filter(|(of, _)| *of == seed) {
            info!(step = left.next, "an earlier attempt's work goes on");
            state = left;
        }
        let (channels, start) = (model.vae.latent_channels, state.next);
        Ok(Self { task, wanted, frames, seed, fingerprint, size, latent, channels, sampler, seen, clean, state, start })
    }

    pub(super) fn is_done(&self) -> bool {
        self.state.next >= self.wanted.steps
    }

    /// Whether the picture's own say is asked for as well: the answers then go away from what is said without it.
    fn is_guided(&self) -> bool {
        self.wanted.guidance[1] > 1.0
    }

    /// The questions of the next step: what is guided away from comes first.
    pub(super) fn questions(&self) -> (Vec<Question>, Step) {
        let scale = self.sampler.input_scale(self.state.next);
        let question = |share: f32| {
            let pixels = self.state.latents.chunks_exact(self.channels);
            let pairs = pixels.zip(self.clean.chunks_exact(self.channels).cycle());
            let latents = pairs.flat_map(|(latent, clean)| {
                let latent = latent.iter().map(move |value| value * scale);
                latent.chain(clean.iter().map(move |value| value * share))
            });
            Question { latents: latents.collect(), picture: self.seen.iter().map(|value| value * share).collect() }
        };
        let shares = if self.is_guided() { &[0.0, 1.0][..] } else { &[1.0] };
        // It was taught with one frame a second less.
        let ids = [self.wanted.rate as f32 - 1.0, self.wanted.motion_bucket as f32, self.wanted.noise as f32];
        let time = self.sampler.moment(self.state.next);
        let step = Step { size: self.latent, frames: self.frames, time, ids };
        (shares.iter().map(|share| question(*share)).collect(), step)
    }

    /// How much frame `number` is guided: from the least at the first to the most at the last.
    fn guidance(&self, number: usize) -> f32 {
        let [least, most] = self.wanted.guidance.map(|guidance| guidance as f32);
        if self.frames > 1 { least + (most - least) * number as f32 / (self.frames - 1) as f32 } else { least }
    }

    /// Takes a step with what the UNet answered, and tells of it.
    pub(super) fn step(
        &mut self,
        mut prediction: Vec<f32>,
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<(), Failure> {
        let (index, steps) = (self.state.next, self.wanted.steps);
        if self.is_guided() {
            let seen = prediction.split_off(prediction.len() / 2);
            let one = self.clean.len();
            for (number, (away, towards)) in prediction.chunks_exact_mut(one).zip(seen.chunks_exact(one)).enumerate() {
                let guidance = self.guidance(number);
                away.iter_mut().zip(towards).for_each(|(away, towards)| *away += guidance * (towards - *away));
            }
        }
        self.sampler.step(index, &prediction, &mut self.state.latents, &[]);
        if let Some(wrong) = self.state.latents.iter().find(|value| !value.is_finite()) {
            return Err(Failure::permanent(format!("step {} of {steps} made {wrong}: the model overflows", index + 1)));
        }
        self.state.next = index + 1;
        report(Report::Percent(self.percent(0.0)));
        let (wanted, next, folder) = (&self.wanted, self.state.next, &self.task.output_dir);
        if self.is_done() {
            return Ok(());
        }
        if wanted.preview_every > 0 && next.is_multiple_of(wanted.preview_every) {
            let first = &self.state.latents[..self.clean.len()];
            let scale = self.sampler.input_scale(next);
            if let Some(preview) = pictures::preview(first, self.latent, scale, false) {
                let file = folder.join(format!("preview-{next}.png"));
                image::encode(&file, &preview, None, None)?;
                report(Report::Preview(file));
            }
        }
        if wanted.checkpoint_every > 0 && next.is_multiple_of(wanted.checkpoint_every) {
            checkpoint::write(folder, &self.fingerprint, self.seed, &self.state)?;
            report(Report::Checkpoint(folder.join(checkpoint::NAME)));
        }
        Ok(())
    }

    /// How far it is, when such a part of the frames is decoded, which is about one step's work.
    fn percent(&self, decoded: f32) -> f32 {
        let all = self.wanted.steps - self.start + 1;
        100.0 * ((self.state.next - self.start) as f32 + decoded) / all as f32
    }

    /// Decodes the frames, a few together, into a file.
    pub(super) fn deliver(
        &self,
        model: &mut Loaded,
        cancel: &AtomicBool,
        report: &mut (dyn FnMut(Report) + Send),
    ) -> Result<Vec<Made>, Failure> {
        let path = self.task.output_dir.join(format!("{}-{}.mp4", self.wanted.model, self.seed));
        let [height, width] = self.size;
        let (chunk, frames, executor) = (self.wanted.chunk, self.frames, model.executor);
        let (of_frame, of_latent) = (height * width * 3, self.clean.len());
        let mut decoded = Vec::new();
        let mut make = |number: usize| {
            if cancel.load(Ordering::Relaxed) {
                return Err(Failure::cancelled());
            }
            let at = number % chunk;
            if at == 0 {
                let end = (number + chunk).min(frames);
                decoded =
                    model.decode(&self.state.latents[number * of_latent..end * of_latent], self.latent, cancel)?;
                report(Report::Percent(self.percent(end as f32 / frames as f32)));
            }
            Ok(pictures::to_rgb(&decoded[at * of_frame..][..of_frame], self.size).data)
        };
        let tools = ffmpeg::Tools::default();
        clip::write(&tools, (width, height), self.wanted.rate, frames, &path, cancel, &mut make)?;
        let [height, width] = self.size.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
        let (model, extra) = (self.wanted.model.clone(), self.about(executor));
        Ok(vec![Made { path, content_type: "video/mp4", width, height, model, scale: 1, extra }])
    }

    /// What is worth knowing of the clip.
    fn about(&self, executor: &str) -> Map<String, Value> {
        let wanted = &self.wanted;
        let [least, most] = wanted.guidance;
        Map::from_iter([
            ("seed".to_owned(), Value::from(self.seed)),
            ("steps".to_owned(), wanted.steps.into()),
            ("guidance_min".to_owned(), least.into()),
            ("guidance_max".to_owned(), most.into()),
            ("motion_bucket_id".to_owned(), wanted.motion_bucket.into()),
            ("noise_aug_strength".to_owned(), wanted.noise.into()),
            ("scheduler".to_owned(), "euler".into()),
            ("executor".to_owned(), executor.into()),
            ("frames".to_owned(), self.frames.into()),
            ("frame_rate".to_owned(), format!("{}/1", wanted.rate).into()),
        ])
    }
}
