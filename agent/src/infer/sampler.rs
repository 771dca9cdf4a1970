//! Samplers: from a model's predictions to the next, less noisy latents. Pure arithmetic on the CPU.
//!
//! A [`Sampler`] is made for a number of steps and is then asked step by step. It keeps nothing but the last prediction
//! where the method is a multistep one; that and the latents are all that a checkpoint needs. Where a
//! step adds noise, the caller draws it ([`super::noise`]), so that this is a function of its inputs.
//!
//! Absent on purpose: clipping and thresholding of what is predicted, which latents never had.

mod schedule;

pub use schedule::{Prediction, Schedule, Spacing};

/// The methods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ddim,
    Euler,
    EulerAncestral,
    /// Second order, two steps, with Karras' sigmas.
    DpmPlusPlus2mKarras,
    Lcm,
}

impl Kind {
    pub const ALL: [(&'static str, Self); 5] = [
        ("ddim", Self::Ddim),
        ("euler", Self::Euler),
        ("euler-ancestral", Self::EulerAncestral),
        ("dpm++2m-karras", Self::DpmPlusPlus2mKarras),
        ("lcm", Self::Lcm),
    ];

    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
    }

    fn spacing(self) -> Spacing {
        match self {
            Self::Ddim | Self::Lcm => Spacing::Leading,
            _ => Spacing::Linspace,
        }
    }
}

/// Steps of the training that LCM models were distilled on.
const LCM_STEPS: usize = 50;
const LCM_TIME_SCALE: f64 = 10.0;
const LCM_SIGMA: f64 = 0.5;

/// One method over one number of steps.
#[derive(Clone, Debug)]
pub struct Sampler {
    kind: Kind,
    prediction: Prediction,
    /// What the model is told of each step's moment.
    moments: Vec<f64>,
    /// Noise at each step's begin and at the end: for the methods that compute in sigmas.
    sigmas: Vec<f64>,
    /// ᾱ at each step's begin and after it: for the others.
    alphas: Vec<(f64, f64)>,
    start: f64,
    /// The picture that the step before predicted.
    before: Option<Vec<f32>>,
}

impl Sampler {
    /// A sampler of `steps` steps; `spacing` overrules what the model's file says.
    ///
    /// # Errors
    /// A sentence: the schedule has not that many moments.
    pub fn new(kind: Kind, schedule: &Schedule, steps: usize, spacing: Option<Spacing>) -> Result<Self, String> {
        let all = schedule.alphas.len();
        let most = if kind == Kind::Lcm { LCM_STEPS.min(all) } else { all };
        if !(1..=most).contains(&steps) {
            return Err(format!("takes 1 to {most} steps, not {steps}"));
        }
        let spacing = spacing.or(schedule.spacing).unwrap_or(kind.spacing());
        let mut sampler = Self {
            kind,
            prediction: schedule.prediction,
            moments: Vec::new(),
            sigmas: Vec::new(),
            alphas: Vec::new(),
            start: 1.0,
            before: None,
        };
        match kind {
            Kind::Euler | Kind::EulerAncestral => {
                let sigmas = schedule.sigmas();
                sampler.moments = schedule.moments(steps, spacing, false);
                sampler.sigmas = sampler.moments.iter().map(|moment| schedule.sigma_at(&sigmas, *moment)).collect();
                let largest = sampler.sigmas.iter().copied().fold(0.0, f64::max);
                sampler.start = if spacing == Spacing::Leading { largest.hypot(1.0) } else { largest };
            }
            Kind::DpmPlusPlus2mKarras => (sampler.moments, sampler.sigmas) = schedule.karras(steps).into_iter().unzip(),
            Kind::Ddim => {
                sampler.moments = schedule.moments(steps, spacing, true);
                let stride = (all / steps) as f64;
                sampler.alphas = sampler
                    .moments
                    .iter()
                    .map(|moment| {
                        let next = moment - stride;
                        let after = if next < 0.0 { schedule.final_alpha } else { schedule.alphas[next as usize] };
                        (f64::from(schedule.alphas[*moment as usize]), f64::from(after))
                    })
                    .collect();
            }
            Kind::Lcm => {
                let stride = all / LCM_STEPS.min(all);
                let trained: Vec<usize> = (1..=LCM_STEPS.min(all)).rev().map(|i| i * stride - 1).collect();
                let picked = (0..steps).map(|i| trained[i * trained.len() / steps]);
                sampler.moments = picked.map(|moment| moment as f64).collect();
                let alpha = |at: usize| f64::from(schedule.alphas[sampler.moments[at] as usize]);
                sampler.alphas = (0..steps).map(|i| (alpha(i), alpha((i + 1).min(steps - 1)))).collect();
            }
        }
        sampler.sigmas.push(0.0);
        Ok(sampler)
    }

    /// Euler's method for a model that is told the noise, of `steps` steps from the largest to the least. A quarter of its
    /// logarithm is what it is told.
    ///
    /// # Errors
    /// A sentence: the schedule is of another kind, or no step is asked for.
    pub fn continuous(schedule: &Schedule, steps: usize) -> Result<Self, String> {
        let range = schedule.continuous.ok_or("is of a model that is told moments, not noise")?;
        if steps == 0 {
            return Err("takes 1 step at least".to_owned());
        }
        let mut sigmas = schedule::spread(range, steps);
        let moments = sigmas.iter().map(|sigma| 0.25 * sigma.ln()).collect();
        let largest = sigmas[0];
        let start = if schedule.spacing == Some(Spacing::Leading) { largest.hypot(1.0) } else { largest };
        sigmas.push(0.0);
        let prediction = Prediction::V;
        Ok(Self { kind: Kind::Euler, prediction, moments, sigmas, alphas: Vec::new(), start, before: None })
    }

    #[must_use]
    pub fn steps(&self) -> usize {
        self.moments.len()
    }

    /// What the model is told at step `index`.
    #[must_use]
    pub fn moment(&self, index: usize) -> f32 {
        self.moments[index] as f32
    }

    /// What the first noise is multiplied with.
    #[must_use]
    pub fn start(&self) -> f32 {
        self.start as f32
    }

    /// What latents are multiplied with before the model sees them.
    #[must_use]
    pub fn input_scale(&self, index: usize) -> f32 {
        match self.kind {
            Kind::Euler | Kind::EulerAncestral => (1.0 / self.sigmas[index].hypot(1.0)) as f32,
            _ => 1.0,
        }
    }

    /// Whether step `index` needs noise.
    #[must_use]
    pub fn wants_noise(&self, index: usize) -> bool {
        match self.kind {
            Kind::EulerAncestral => true,
            Kind::Lcm => index + 1 < self.steps(),
            _ => false,
        }
    }

    /// Latents as they are at the begin of step `index`: of the picture `clean` with `noise` on it.
    pub fn noisy(&self, index: usize, clean: &[f32], noise: &[f32]) -> Vec<f32> {
        let (signal, level) = match self.kind {
            Kind::Euler | Kind::EulerAncestral => (1.0, self.sigmas[index]),
            Kind::DpmPlusPlus2mKarras => of_sigma(self.sigmas[index]),
            Kind::Ddim | Kind::Lcm => of_alpha(self.alphas[index].0),
        };
        combine(&[(signal, clean), (level, noise)])
    }

    /// Takes step `index`: `latents` become those of the next moment. `noise` is read where [`Self::wants_noise`].
    pub fn step(&mut self, index: usize, prediction: &[f32], latents: &mut Vec<f32>, noise: &[f32]) {
        match self.kind {
            Kind::Ddim => {
                let (now, after) = self.alphas[index];
                let (signal, level) = of_alpha(now);
                let (next_signal, next_level) = of_alpha(after);
                let (clean, added) = self.split(signal, level);
                *latents = combine(&[
                    (next_signal * clean.0 + next_level * added.0, latents),
                    (next_signal * clean.1 + next_level * added.1, prediction),
                ]);
            }
            Kind::Lcm => {
                let (now, after) = self.alphas[index];
                let (signal, level) = of_alpha(now);
                let (clean, _) = self.split(signal, level);
                let time = self.moments[index] * LCM_TIME_SCALE;
                let size = time.hypot(LCM_SIGMA);
                let (skip, out) = ((LCM_SIGMA / size).powi(2), time / size);
                let (of_latents, of_prediction) = (skip + out * clean.0, out * clean.1);
                if index + 1 == self.steps() {
                    *latents = combine(&[(of_latents, latents), (of_prediction, prediction)]);
                } else {
                    let (s, l) = of_alpha(after);
                    *latents = combine(&[(s * of_latents, latents), (s * of_prediction, prediction), (l, noise)]);
                }
            }
            Kind::Euler | Kind::EulerAncestral => {
                let (sigma, next) = (self.sigmas[index], self.sigmas[index + 1]);
                let up = match self.kind {
                    Kind::Euler => 0.0,
                    _ => (next * next * (sigma * sigma - next * next) / (sigma * sigma)).max(0.0).sqrt(),
                };
                let down = (next * next - up * up).max(0.0).sqrt();
                // The slope is (latents − clean) / sigma.
                let clean = match self.prediction {
                    Prediction::Epsilon => (1.0, -sigma),
                    Prediction::V => (1.0 / (sigma * sigma + 1.0), -sigma / sigma.hypot(1.0)),
                };
                let step = (down - sigma) / sigma;
                let parts = [(1.0 + step * (1.0 - clean.0), &latents[..]), (-step * clean.1, prediction), (up, noise)];
                *latents = combine(if up > 0.0 { &parts } else { &parts[..2] });
            }
            Kind::DpmPlusPlus2mKarras => {
                let (signal, level) = of_sigma(self.sigmas[index]);
                let (clean, _) = self.split(signal, level);
                let clean = combine(&[(clean.0, latents), (clean.1, prediction)]);
                *latents = self.multistep(index, &clean, latents);
                self.before = Some(clean);
            }
        }
    }

    fn multistep(&self, index: usize, clean: &[f32], latents: &[f32]) -> Vec<f32> {
        let next = self.sigmas[index + 1];
        if next == 0.0 {
            return clean.to_vec();
        }
        let sigma = self.sigmas[index];
        let ((_, level), (next_signal, next_level)) = (of_sigma(sigma), of_sigma(next));
        // λ = ln(signal / level) = −ln sigma
        let h = (sigma / next).ln();
        let kept = next_level / level;
        let gained = -next_signal * (-h).exp_m1();
        match (&self.before, index.checked_sub(1)) {
            (Some(before), Some(last)) => {
                let ratio = (self.sigmas[last] / sigma).ln() / h;
                let more = 0.5 / ratio;
                combine(&[(kept, latents), (gained * (1.0 + more), clean), (-gained * more, before)])
            }
            _ => combine(&[(kept, latents), (gained, clean)]),
        }
    }

    /// The picture and the noise in latents of `signal` and `level`, each as factors of (latents, prediction).
    fn split(&self, signal: f64, level: f64) -> ((f64, f64), (f64, f64)) {
        match self.prediction {
            Prediction::Epsilon => ((1.0 / signal, -level / signal), (0.0, 1.0)),
            Prediction::V => ((signal, -level), (level, signal)),
        }
    }

    /// What a multistep method remembers, for a checkpoint.
    #[must_use]
    pub fn memory(&self) -> Option<&[f32]> {
        self.before.as_deref()
    }

    /// Goes on with what a checkpoint kept.
    pub fn remember(&mut self, before: Option<Vec<f32>>) {
        self.before = before;
    }
}

fn of_alpha(alpha: f64) -> (f64, f64) {
    (alpha.sqrt(), (1.0 - alpha).sqrt())
}

fn of_sigma(sigma: f64) -> (f64, f64) {
    let signal = 1.0 / sigma.hypot(1.0);
    (signal, sigma * signal)
}

/// Sum of vectors times factors.
fn combine(parts: &[(f64, &[f32])]) -> Vec<f32> {
    let count = parts.iter().map(|(_, part)| part.len()).min().unwrap_or(0);
    (0..count).map(|i| parts.iter().map(|(factor, part)| factor * f64::from(part[i])).sum::<f64>() as f32).collect()
}
