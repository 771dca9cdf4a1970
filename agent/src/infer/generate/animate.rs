//! `video.generate` without motion modules: Stable Video Diffusion, a clip of one picture and of no text.
//!
//! The picture is told twice: what CLIP sees in it, and its latents beside those of every frame, with a little noise on them.
//! Guidance goes from what the model makes without the picture to what it makes with it, more so with each frame.
//!
//! Absent on purpose: text, LoRAs, other samplers than the one that the model was trained for, and clips that are longer than one
//! run of the UNet.

pub(super) mod loaded;

mod job;
mod parameters;

use std::sync::atomic::Ordering;

use self::job::Job;
pub(in crate::infer) use self::loaded::Loaded;
use self::parameters::Wanted;
pub(super) use self::parameters::{CHUNK, is_wanted};
use super::parameters::SIDE_MAX;
use super::pictures;
use crate::frames::clip;
use crate::infer::executor::ExecError;
use crate::infer::models::svd::{self, Model};
use crate::infer::{Context, Failure, Made, Report, Task};

pub(super) fn run(task: &Task, ctx: &mut Context<'_>) -> Result<Vec<Made>, Failure> {
    let wanted = Wanted::read(&task.parameters)?;
    if task.inputs.len() != 1 {
        return Err(Failure::permanent("Stable Video Diffusion takes one input: the picture that the clip is made of"));
    }
    ctx.phase("load");
    super::find_encoder(ctx)?;
    let (size, frames) = prepare(task, ctx, &wanted)?;
    ctx.check_cancel()?;
    ctx.phase("infer");
    (ctx.report)(Report::Percent(0.0));
    let (_, slot) = ctx.engine.animator()?;
    let Some(model) = slot else { return Err(Failure::transient("the model is gone")) };
    let cancel = ctx.cancel;
    let mut job = Job::begin(task, wanted, size, frames, model, cancel)?;
    while !job.is_done() {
        if cancel.load(Ordering::Relaxed) {
            return Err(Failure::cancelled());
        }
        let (questions, step) = job.questions();
        let made = model.predict(&questions, step, cancel)?;
        job.step(made, ctx.report)?;
    }
    (ctx.report)(Report::Phase("post"));
    job.deliver(model, cancel, ctx.report)
}

/// Makes sure that the engine holds the wanted model, and says which size and how many frames the clip has. The files'
/// configurations are checked before any weight is read.
fn prepare(task: &Task, ctx: &mut Context<'_>, wanted: &Wanted) -> Result<([usize; 2], usize), Failure> {
    if let Some(held) = ctx.engine.animate.as_ref().filter(|held| held.name == wanted.model) {
        let multiple = held.vae.factor() * held.unet.side_multiple();
        let trained = held.unet.sample_size.unwrap_or(SAMPLE_SIZE) * held.vae.factor();
        return Ok((size(task, wanted, multiple, trained)?, wanted.frames.unwrap_or(held.unet.frames)));
    }
    let model = open(ctx.engine.models_dir(), &wanted.model)?;
    let multiple = model.vae.factor() * model.unet.side_multiple();
    let trained = model.unet.sample_size.unwrap_or(SAMPLE_SIZE) * model.vae.factor();
    let size = size(task, wanted, multiple, trained)?;
    let frames = wanted.frames.unwrap_or(model.unet.frames);
    super::fits(ctx, "clip", size, |element| loaded::needed_bytes(&model, size, frames, wanted.chunk, element))?;
    ctx.check_cancel()?;
    // Another model makes room first.
    (ctx.engine.loaded, ctx.engine.generate) = (None, None);
    let (executor, slot) = ctx.engine.animator()?;
    *slot = None;
    *slot = Some(Loaded::load(executor, model, wanted.model.clone())?);
    Ok((size, frames))
}

/// Opens the model of that name in the folder of models.
fn open(models: &std::path::Path, name: &str) -> Result<Model, Failure> {
    let place = super::loaded::find(models, name)?;
    if !place.is_dir() || !svd::is_one(&place) {
        let problem = "makes no clip of a picture alone; with motion modules it may make one of a prompt";
        return Err(Failure::permanent(format!("parameter `motion` is missing: `{name}` {problem}")));
    }
    Ok(Model::open(&place).map_err(ExecError::from)?)
}

/// Side of a square of latents that the model was trained with, as far as its size goes.
pub(super) const SAMPLE_SIZE: usize = 96;

/// Height and width: as asked for; a side that is not, so that the picture keeps its shape. Where neither is, as large in all as
/// what the model was trained with.
fn size(task: &Task, wanted: &Wanted, multiple: usize, trained: usize) -> Result<[usize; 2], Failure> {
    for (name, asked) in [("height", wanted.height), ("width", wanted.width)] {
        if let Some(asked) = asked.filter(|asked| !asked.is_multiple_of(multiple)) {
            let problem = format!("parameter `{name}` is {asked}; this model takes multiples of {multiple}");
            return Err(Failure::permanent(problem));
        }
    }
    let size = match (wanted.height, wanted.width) {
        (Some(height), Some(width)) => [height, width],
        (height, width) => shape_of(pictures::read(&task.inputs[0], Ok)?.1, [height, width], multiple, trained),
    };
    if let Some(side) = size.iter().find(|side| **side as u64 > SIDE_MAX) {
        let problem = format!("the picture's shape makes a side of {side} pixels, {SIDE_MAX} are the most");
        return Err(Failure::permanent(format!("{problem}; say `width` and `height`")));
    }
    clip::encodable(size[1], size[0])?;
    Ok(size)
}

fn shape_of(given: [usize; 2], asked: [Option<usize>; 2], multiple: usize, trained: usize) -> [usize; 2] {
    let [h, w] = given.map(|side| side as f64);
    let scale = match asked {
        [Some(height), _] => height as f64 / h,
        [_, Some(width)] => width as f64 / w,
        _ => trained as f64 / (h * w).sqrt(),
    };
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and a picture's side at most"
    )]
    let fitting = |side: f64| (((side * scale / multiple as f64).round() as usize).max(1)) * multiple;
    [asked[0].unwrap_or_else(|| fitting(h)), asked[1].unwrap_or_else(|| fitting(w))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clip_has_its_pictures_shape_and_the_size_that_the_model_was_trained_with() {
        for (given, asked, made) in [
            ([1080, 1920], [None, None], [576, 1024]),
            ([3000, 2000], [None, None], [960, 640]),
            ([100, 100], [None, None], [768, 768]),
            ([1080, 1920], [Some(320), None], [320, 576]),
            ([1080, 1920], [None, Some(512)], [320, 512]),
            ([1, 100_000], [None, None], [64, 242_880]),
        ] {
            assert_eq!(shape_of(given, asked, 64, 768), made, "{given:?} {asked:?}");
        }
    }
}
