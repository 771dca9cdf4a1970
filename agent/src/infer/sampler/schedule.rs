//! How much noise a moment has: betas as the model was trained, and the moments that a sampler visits.

use std::path::Path;

use serde::Deserialize;

use crate::infer::models::config;
use crate::infer::weights::WeightError;

/// What a model predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Prediction {
    /// The noise.
    #[serde(rename = "epsilon")]
    Epsilon,
    /// The velocity between noise and picture.
    #[serde(rename = "v_prediction")]
    V,
}

/// How the moments are spread over the training's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spacing {
    Linspace,
    Leading,
    Trailing,
}

/// A model's noise, as its `scheduler_config.json` has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// ᾱ of each moment of the training: the share of the picture that is left.
    pub alphas: Vec<f32>,
    pub prediction: Prediction,
    /// As the file has it; samplers differ in what they take otherwise.
    pub spacing: Option<Spacing>,
    pub offset: usize,
    /// ᾱ after the last step.
    pub final_alpha: f32,
    /// The least and the largest noise of a model that is told the noise itself instead of a moment of its training, and was
    /// taught to predict the velocity.
    pub continuous: Option<[f64; 2]>,
}

#[derive(Deserialize)]
#[serde(default)]
struct Raw {
    num_train_timesteps: usize,
    beta_start: f32,
    beta_end: f32,
    beta_schedule: String,
    trained_betas: Option<Vec<f32>>,
    prediction_type: Prediction,
    timestep_spacing: Option<Spacing>,
    steps_offset: usize,
    set_alpha_to_one: bool,
    rescale_betas_zero_snr: bool,
    timestep_type: Option<String>,
    use_karras_sigmas: Option<bool>,
    sigma_min: Option<f64>,
    sigma_max: Option<f64>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            num_train_timesteps: 1000,
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: "scaled_linear".into(),
            trained_betas: None,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            set_alpha_to_one: true,
            rescale_betas_zero_snr: false,
            timestep_type: None,
            use_karras_sigmas: None,
            sigma_min: None,
            sigma_max: None,
        }
    }
}

impl Schedule {
    /// # Errors
    /// [`WeightError`] names the field that is not understood.
    pub fn read(path: &Path) -> Result<Self, WeightError> {
        config::read::<Raw>(path)?.checked().map_err(|problem| config::wrong(path, problem))
    }

    /// That of every Stable Diffusion's training, for files that carry none.
    #[must_use]
    pub fn stable_diffusion(prediction: Prediction) -> Self {
        let (betas, offset) = (betas(0.00085_f32.sqrt(), 0.012_f32.sqrt(), 1000, true), 1);
        let alphas = cumulative(&betas);
        Self { final_alpha: alphas[0], alphas, prediction, spacing: None, offset, continuous: None }
    }
}

impl Raw {
    fn checked(self) -> Result<Schedule, String> {
        let moments = self.num_train_timesteps;
        let betas_fit = 0.0 < self.beta_start && self.beta_start <= self.beta_end && self.beta_end < 1.0;
        if !(1..=10_000).contains(&moments) || !betas_fit || self.steps_offset >= moments {
            return Err(format!(
                "`num_train_timesteps` {moments}, `beta_start` {}, `beta_end` {} and `steps_offset` {} are no schedule",
                self.beta_start, self.beta_end, self.steps_offset
            ));
        }
        if self.trained_betas.is_some() || self.rescale_betas_zero_snr {
            return Err("`trained_betas` and `rescale_betas_zero_snr` are not understood".to_owned());
        }
        let betas = match self.beta_schedule.as_str() {
            "scaled_linear" => betas(self.beta_start.sqrt(), self.beta_end.sqrt(), moments, true),
            "linear" => betas(self.beta_start, self.beta_end, moments, false),
            other => {
                return Err(format!("`beta_schedule` is {other:?}; \"scaled_linear\" and \"linear\" are understood"));
            }
        };
        let alphas = cumulative(&betas);
        let final_alpha = if self.set_alpha_to_one { 1.0 } else { alphas[0] };
        let (prediction, spacing) = (self.prediction_type, self.timestep_spacing);
        let told = self.timestep_type.as_deref() == Some("continuous") && self.use_karras_sigmas == Some(true);
        let range = self.sigma_min.zip(self.sigma_max).map(<[f64; 2]>::from);
        let fits = |[least, most]: &[f64; 2]| 0.0 < *least && least < most && most.is_finite();
        let continuous = range.filter(|range| told && prediction == Prediction::V && fits(range));
        Ok(Schedule { alphas, prediction, spacing, offset: self.steps_offset, final_alpha, continuous })
    }
}

/// Evenly from `start` to `end`, from both ends to the middle as PyTorch does; squared if so asked.
fn betas(start: f32, end: f32, count: usize, squared: bool) -> Vec<f32> {
    let step = (end - start) / (count.max(2) - 1) as f32;
    let at = |i: usize| if i < count / 2 { start + step * i as f32 } else { end - step * (count - 1 - i) as f32 };
    (0..count).map(|i| if squared { at(i) * at(i) } else { at(i) }).collect()
}

fn cumulative(betas: &[f32]) -> Vec<f32> {
    let mut left = 1.0_f64;
    let next = |beta: &f32| {
        left *= f64::from(1.0 - beta);
        left as f32
    };
    betas.iter().map(next).collect()
}

impl Schedule {
    /// Deviation of the noise over that of the picture, at each moment of the training.
    pub(super) fn sigmas(&self) -> Vec<f64> {
        self.alphas.iter().map(|alpha| f64::from(((1.0 - alpha) / alpha).sqrt())).collect()
    }

    /// `steps` moments from the noisiest on. Whole ones, but for `Linspace` where `whole` is not asked for.
    pub(super) fn moments(&self, steps: usize, spacing: Spacing, whole: bool) -> Vec<f64> {
        let all = self.alphas.len();
        let last = (all - 1) as f64;
        let moments: Vec<f64> = match spacing {
            Spacing::Linspace => {
                let step = if steps > 1 { last / (steps - 1) as f64 } else { 0.0 };
                let at = |i: usize| {
                    if whole { (i as f64 * step).round_ties_even() } else { f64::from((i as f64 * step) as f32) }
                };
                (0..steps).rev().map(at).collect()
            }
            Spacing::Leading => (0..steps).rev().map(|i| (i * (all / steps) + self.offset) as f64).collect(),
            Spacing::Trailing => {
                let step = all as f64 / steps as f64;
                (0..steps).map(|i| (all as f64 - i as f64 * step).round_ties_even() - 1.0).collect()
            }
        };
        moments.into_iter().map(|moment| moment.clamp(0.0, last)).collect()
    }

    /// Karras' spread of sigmas, and the whole moment nearest to each.
    pub(super) fn karras(&self, steps: usize) -> Vec<(f64, f64)> {
        let sigmas = self.sigmas();
        let logs: Vec<f64> = sigmas.iter().map(|sigma| f64::from((*sigma as f32).ln())).collect();
        let spread = spread([sigmas[0], sigmas[sigmas.len() - 1]], steps).into_iter();
        spread.map(|sigma| (moment_of(sigma.ln(), &logs).round_ties_even(), sigma)).collect()
    }

    pub(super) fn sigma_at(&self, sigmas: &[f64], moment: f64) -> f64 {
        let low = (moment.floor() as usize).min(sigmas.len() - 1);
        let high = (low + 1).min(sigmas.len() - 1);
        sigmas[low] + (moment - low as f64) * (sigmas[high] - sigmas[low])
    }
}

/// Karras' spread between the least and the largest of sigmas, the largest first.
pub(super) fn spread([least, most]: [f64; 2], steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let ends = [most, least].map(|sigma| sigma.powf(1.0 / RHO));
    let at = |i: usize| {
        let share = if steps > 1 { i as f64 / (steps - 1) as f64 } else { 0.0 };
        (ends[0] + share * (ends[1] - ends[0])).powf(RHO)
    };
    (0..steps).map(at).collect()
}

/// The moment, with a fraction, whose sigma has this logarithm.
fn moment_of(log: f64, logs: &[f64]) -> f64 {
    let low = logs.partition_point(|other| *other <= log).saturating_sub(1).min(logs.len().saturating_sub(2));
    let Some(high) = logs.get(low + 1) else { return 0.0 };
    low as f64 + ((logs[low] - log) / (logs[low] - high)).clamp(0.0, 1.0)
}
