//! From noise to latents, step by step: what one job's run asks the UNet, and what it does with the answer.

use crate::infer::Failure;
use crate::infer::noise;
use crate::infer::sampler::Sampler;

use super::loaded::{Conditioning, Sample};

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

/// A job's run over its steps. It knows no model: a step is a question and an answer, so that runs can ask together.
pub(super) struct Run {
    pub(super) sampler: Sampler,
    /// Pictures, or one clip: each begins with a noise of its own.
    pub(super) pictures: usize,
    /// Of each of them: 1 for a picture.
    pub(super) frames: usize,
    /// Of the latents: height, width and channels.
    pub(super) size: [usize; 2],
    pub(super) channels: usize,
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

impl Run {
    /// Values of one picture's latents, or of all frames of a clip.
    pub(super) fn one(&self) -> usize {
        self.frames * self.size[0] * self.size[1] * self.channels
    }

    fn noise(&self, stream: u32) -> Vec<f32> {
        noise::batch(self.seed, stream, self.pictures, self.one())
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

    /// Goes on from a state that an earlier attempt left.
    pub(super) fn resume(&mut self, state: &State) {
        self.sampler.remember(state.memory.clone());
    }

    /// What the UNet sees of the latents at the next step.
    pub(super) fn seen(&self, state: &State) -> Vec<f32> {
        let scale = self.sampler.input_scale(state.next);
        let seen: Vec<f32> = state.latents.iter().map(|value| value * scale).collect();
        let Source::Seen { mask, left, .. } = &self.source else { return seen };
        let channels = self.channels;
        let pixels = seen.chunks_exact(channels).zip(mask.iter().cycle()).zip(left.chunks_exact(channels));
        pixels.flat_map(|((latent, mask), left)| [latent, &[*mask], left].concat()).collect()
    }

    /// The questions of the next step: what is guided away from comes first.
    pub(super) fn samples<'a>(&'a self, state: &State, seen: &'a [f32]) -> Vec<Sample<'a>> {
        let time = self.sampler.moment(state.next);
        let texts = self.negative.iter().chain([&self.prompt]);
        let one = seen.len() / self.pictures.max(1);
        texts
            .flat_map(|text| {
                let sample = move |latents| Sample { latents, time, text, sizes: self.sizes, guidance: self.guidance };
                seen.chunks_exact(one.max(1)).map(sample)
            })
            .collect()
    }

    /// Takes the step with the UNet's prediction for those questions.
    ///
    /// # Errors
    /// Permanent: there are no numbers in it.
    pub(super) fn step(&mut self, state: State, mut prediction: Vec<f32>) -> Result<State, Failure> {
        let State { next: index, mut latents, .. } = state;
        let steps = self.sampler.steps();
        if self.negative.is_some() {
            let prompted = prediction.split_off(prediction.len() / 2);
            let guidance = self.guidance;
            prediction.iter_mut().zip(prompted).for_each(|(away, towards)| *away += guidance * (towards - *away));
        }
        let noise = if self.sampler.wants_noise(index) { self.noise(noise::of_step(index)) } else { Vec::new() };
        self.sampler.step(index, &prediction, &mut latents, &noise);
        if let Source::Masked { clean, mask } = &self.source {
            let around = match index + 1 {
                next if next < steps => &self.sampler.noisy(next, clean, &self.noise(noise::FIRST)),
                _ => clean,
            };
            self.keep_around(&mut latents, around, mask);
        }
        if let Some(wrong) = latents.iter().find(|value| !value.is_finite()) {
            return Err(Failure::permanent(format!("step {} of {steps} made {wrong}: the model overflows", index + 1)));
        }
        Ok(State { next: index + 1, latents, memory: self.sampler.memory().map(<[f32]>::to_vec) })
    }

    pub(super) fn is_done(&self, state: &State) -> bool {
        state.next >= self.sampler.steps()
    }

    /// What latents are to be multiplied with to be looked at.
    pub(super) fn scale(&self, state: &State) -> f32 {
        if self.is_done(state) { 1.0 } else { self.sampler.input_scale(state.next) }
    }

    /// What the mask does not show becomes what it was, with as much noise as the rest has.
    fn keep_around(&self, latents: &mut [f32], around: &[f32], mask: &[f32]) {
        let channels = self.channels;
        let pixels = latents.chunks_exact_mut(channels).zip(around.chunks_exact(channels)).zip(mask.iter().cycle());
        for ((latent, around), mask) in pixels {
            for (latent, around) in latent.iter_mut().zip(around) {
                *latent = (1.0 - mask) * around + mask * *latent;
            }
        }
    }
}
