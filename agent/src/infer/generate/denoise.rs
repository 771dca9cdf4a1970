//! From noise to latents, step by step.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::infer::Failure;
use crate::infer::noise;
use crate::infer::sampler::Sampler;

use super::loaded::{Conditioning, Loaded, Step};

/// What a run does with the picture that it was given.
pub(super) enum Source {
    /// There is none.
    Noise,
    /// `[n, h, w, c]` latents of the picture: the run begins at a later step with noise on them.
    Picture(Vec<f32>),
    /// The same, of which only what the mask (`[h, w]`, 1: anew) shows is changed.
    Masked { clean: Vec<f32>, mask: Vec<f32> },
    /// For a model that was trained for it: the mask and the latents of what is left of the picture.
    Seen { clean: Vec<f32>, mask: Vec<f32>, left: Vec<f32> },
}

/// A run of a model over its steps.
pub(super) struct Run<'a> {
    pub(super) model: &'a mut Loaded,
    pub(super) sampler: Sampler,
    pub(super) pictures: usize,
    /// Of the latents.
    pub(super) size: [usize; 2],
    pub(super) seed: u64,
    pub(super) guidance: f32,
    pub(super) prompt: Conditioning,
    pub(super) negative: Option<Conditioning>,
    pub(super) sizes: [f32; 6],
    pub(super) source: Source,
    pub(super) strength: f64,
}

/// Where a run stands between two steps.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    /// The next step.
    pub(super) next: usize,
    pub(super) latents: Vec<f32>,
    /// What a multistep sampler remembers.
    pub(super) memory: Option<Vec<f32>>,
}

impl Run<'_> {
    fn noise(&self, stream: u32) -> Vec<f32> {
        let [h, w] = self.size;
        noise::batch(self.seed, stream, self.pictures, h * w * self.model.vae.latent_channels)
    }

    /// The state before the first step.
    ///
    /// # Errors
    /// Permanent: the strength leaves no step.
    pub(super) fn begin(&self) -> Result<State, Failure> {
        let noise = self.noise(noise::FIRST);
        let steps = self.sampler.steps();
        let pure = || noise.iter().map(|value| value * self.sampler.start()).collect();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to the number of steps")]
        let first = steps - ((steps as f64 * self.strength) as usize).min(steps);
        let (next, latents) = match &self.source {
            Source::Noise => (0, pure()),
            _ if first == steps => {
                let strength = self.strength;
                return Err(Failure::permanent(format!("`strength` {strength} leaves none of {steps} steps")));
            }
            Source::Picture(clean) => (first, self.sampler.noisy(first, clean, &noise)),
            Source::Masked { .. } | Source::Seen { .. } if self.strength >= 1.0 => (0, pure()),
            Source::Masked { clean, .. } | Source::Seen { clean, .. } => {
                (first, self.sampler.noisy(first, clean, &noise))
            }
        };
        Ok(State { next, latents, memory: None })
    }

    /// Takes steps from `state` on. `after` hears of each: the state behind it, the number of steps, and what latents are to be multiplied
    /// with to be looked at.
    ///
    /// # Errors
    /// [`Failure`]: cancelled, or the executor failed.
    pub(super) fn go(
        &mut self,
        state: State,
        cancel: &AtomicBool,
        after: &mut dyn FnMut(&State, usize, f32) -> Result<(), Failure>,
    ) -> Result<Vec<f32>, Failure> {
        let State { next, mut latents, memory } = state;
        self.sampler.remember(memory);
        let first = matches!(self.source, Source::Masked { .. }).then(|| self.noise(noise::FIRST));
        let steps = self.sampler.steps();
        for index in next..steps {
            if cancel.load(Ordering::Relaxed) {
                return Err(Failure::cancelled());
            }
            let prediction = self.predict(index, &latents, cancel)?;
            let noise = if self.sampler.wants_noise(index) { self.noise(noise::of_step(index)) } else { Vec::new() };
            self.sampler.step(index, &prediction, &mut latents, &noise);
            if let (Source::Masked { clean, mask }, Some(first)) = (&self.source, &first) {
                let around = match index + 1 {
                    next if next < steps => &self.sampler.noisy(next, clean, first),
                    _ => clean,
                };
                self.keep_around(&mut latents, around, mask);
            }
            if let Some(wrong) = latents.iter().find(|value| !value.is_finite()) {
                return Err(Failure::permanent(format!(
                    "step {} of {steps} made {wrong}: the model overflows",
                    index + 1
                )));
            }
            let scale = if index + 1 < steps { self.sampler.input_scale(index + 1) } else { 1.0 };
            let state = State { next: index + 1, latents, memory: self.sampler.memory().map(<[f32]>::to_vec) };
            after(&state, steps, scale)?;
            latents = state.latents;
        }
        Ok(latents)
    }

    /// What the mask does not show becomes what it was, with as much noise as the rest has.
    fn keep_around(&self, latents: &mut [f32], around: &[f32], mask: &[f32]) {
        let channels = self.model.vae.latent_channels;
        let pixels = latents.chunks_exact_mut(channels).zip(around.chunks_exact(channels)).zip(mask.iter().cycle());
        for ((latent, around), mask) in pixels {
            for (latent, around) in latent.iter_mut().zip(around) {
                *latent = (1.0 - mask) * around + mask * *latent;
            }
        }
    }

    fn predict(&mut self, index: usize, latents: &[f32], cancel: &AtomicBool) -> Result<Vec<f32>, Failure> {
        let scale = self.sampler.input_scale(index);
        let mut seen: Vec<f32> = latents.iter().map(|value| value * scale).collect();
        if let Source::Seen { mask, left, .. } = &self.source {
            let channels = self.model.vae.latent_channels;
            let pixels = seen.chunks_exact(channels).zip(mask.iter().cycle()).zip(left.chunks_exact(channels));
            seen = pixels.flat_map(|((latent, mask), left)| [latent, &[*mask], left].concat()).collect();
        }
        // What is guided away from comes first, as one batch with the rest.
        let mut texts: Vec<&Conditioning> = Vec::with_capacity(2 * self.pictures);
        if let Some(negative) = &self.negative {
            texts.extend(std::iter::repeat_n(negative, self.pictures));
            seen = seen.repeat(2);
        }
        texts.extend(std::iter::repeat_n(&self.prompt, self.pictures));
        let step = Step {
            latents: &seen,
            size: self.size,
            time: self.sampler.moment(index),
            texts: &texts,
            sizes: self.sizes,
        };
        let mut made = self.model.predict(&step, cancel)?;
        if self.negative.is_some() {
            let prompted = made.split_off(made.len() / 2);
            let guidance = self.guidance;
            made.iter_mut().zip(prompted).for_each(|(away, towards)| *away += guidance * (towards - *away));
        }
        Ok(made)
    }
}
