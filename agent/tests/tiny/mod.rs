//! The tiny models of `fixtures/diffusion`: their weights from their names, their folders, and what diffusers made of them.

#![allow(dead_code, reason = "each test file that includes this uses a part of it")]

pub(crate) mod files;
mod folder;

use backlot_agent::infer::weights::{self, Weights};
pub(crate) use folder::*;

pub(crate) const FORMS: [&str; 3] = ["sd15", "sd21", "sdxl"];

/// The values of an input, which the script has channels-first, channels-last.
pub(crate) fn picture(name: &str, [n, c, h, w]: [usize; 4]) -> Vec<f32> {
    let from = values(name, &[n, c, h, w]);
    let at = |i: usize| {
        let (channel, x, y, picture) = (i % c, i / c % w, i / c / w % h, i / c / w / h);
        from[((picture * c + channel) * h + y) * w + x]
    };
    (0..from.len()).map(at).collect()
}

pub(crate) fn read(tensors: &Tensors) -> Weights {
    Weights::safetensors(&safetensors(tensors).into()).unwrap()
}

pub(crate) fn part(form: &str, part: &str) -> Weights {
    read(&tensors(form, part))
}

/// What diffusers made of a form.
pub(crate) struct Made(Weights);

pub(crate) fn made(form: &str) -> Made {
    Made(Weights::safetensors(&weights::map(&fixtures().join(form).join("made.safetensors")).unwrap()).unwrap())
}

impl Made {
    pub(crate) fn get(&self, name: &str) -> (Vec<usize>, Vec<f32>) {
        let tensor = self.0.get(name).unwrap_or_else(|| panic!("no {name} in the fixture"));
        (tensor.shape.clone(), tensor.to_f32())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.to_owned()).collect()
    }
}

/// Largest difference of any two values, relative to the largest of `theirs` where that is above one.
pub(crate) fn off(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len(), "lengths");
    let size = theirs.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    let each = ours.iter().zip(theirs).map(|(a, b)| (a - b).abs());
    each.fold(0.0, |most, off| if off.is_nan() { f32::INFINITY } else { most.max(off) }) / size
}

pub(crate) fn psnr(ours: &[f32], theirs: &[f32]) -> f64 {
    assert_eq!(ours.len(), theirs.len(), "lengths");
    let square: f64 = ours.iter().zip(theirs).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    10.0 * (ours.len() as f64 / square.max(1e-30)).log10()
}
