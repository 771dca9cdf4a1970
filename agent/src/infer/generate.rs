//! The job types `image.generate` and `video.generate`: Stable Diffusion 1, 2 and XL from text, from a picture, and under a
//! mask; with motion modules (AnimateDiff), clips from text or from a picture. Clips without them are of Stable Video Diffusion,
//! which [`animate`] runs.
//!
//! No input: text to image. One: image to image. Two: the second is the mask, and where it is bright the picture is
//! painted anew; a clip takes no mask. What a seed makes does not depend on the batch that it was in: picture `i` of a job
//! is what `seed + i` makes alone, whatever other jobs are computed with it.
//!
//! A prompt that is longer than the encoder's places is encoded in parts, as users of the common programs expect; what is more
//! than eight of them is cut and counted in the result.
//!
//! Absent on purpose: a safety checker, and weights of single words.

mod animate;
mod batch;
mod checkpoint;
mod denoise;
mod job;
mod loaded;
mod parameters;
mod pictures;
pub mod plan;
mod tiles;

use std::sync::atomic::AtomicBool;

pub(super) use self::animate::Loaded as Animator;
use self::batch::Ears;
use self::job::Job;
use self::loaded::Key;
pub(super) use self::loaded::Loaded;
use self::parameters::{Form, Wanted};
use super::models::folder::Model;
use super::{Context, Engine, Failure, Made, Member, Report, Task, Tell, Word};
use crate::frames::{clip, ffmpeg};

pub(super) const PICTURES: &str = "image.generate";
pub(super) const CLIP: &str = "video.generate";
pub(super) const KINDS: [&str; 2] = [PICTURES, CLIP];
/// Latents' side where a configuration does not say which one the model was trained with.
const SAMPLE_SIZE: usize = 64;
/// Longest answer of ffmpeg to the question what it is.
const VERSION_BYTES_MAX: usize = 64 << 10;

/// One task alone.
pub(super) fn run_one(task: &Task, ctx: &mut Context<'_>) -> Result<Vec<Made>, Failure> {
    let mut ended = None;
    let report = &mut *ctx.report;
    let mut tell = |_: usize, word: Word, _: bool| match word {
        Word::Report(said) => report(said),
        Word::Ended(end) => ended = Some(end),
    };
    run(&[Member { task, cancel: ctx.cancel }], ctx.cancel, ctx.engine, &mut tell);
    ended.unwrap_or_else(|| Err(Failure::transient("the task has no end")))
}

/// Tasks of these types: those of one model together, as far as shape and memory allow.
pub(super) fn run(members: &[Member<'_>], abandoned: &AtomicBool, engine: &mut Engine, tell: &mut Tell<'_>) {
    let mut ears = Ears::new(members, tell);
    let mut asked = Vec::new();
    let animates = |task: &Task| task.kind == CLIP && animate::is_wanted(&task.parameters);
    for (number, member) in members.iter().enumerate().filter(|(_, member)| !animates(member.task)) {
        match read(member.task) {
            Ok(wanted) => asked.push((number, wanted)),
            Err(failure) => ears.end(number, Err(failure), engine),
        }
    }
    while let Some((_, first)) = asked.first() {
        let key = Key::of(first);
        let (now, later): (Vec<_>, Vec<_>) = asked.into_iter().partition(|(_, wanted)| Key::of(wanted) == key);
        asked = later;
        batch::run(now, &mut ears, abandoned, engine);
    }
    // All frames of such a clip go through its UNet at once: there is nothing to gain by several.
    for number in (0..members.len()).filter(|number| animates(members[*number].task)) {
        ears.hear(number, engine, animate::run);
    }
}

fn read(task: &Task) -> Result<Wanted, Failure> {
    let is_clip = task.kind == CLIP;
    let wanted = Wanted::read(is_clip, &task.parameters)?;
    if is_clip && task.inputs.len() > 1 {
        return Err(Failure::permanent("`video.generate` takes at most one input: the picture to begin with"));
    }
    if task.inputs.len() > 2 {
        return Err(Failure::permanent("`image.generate` takes at most two inputs: a picture and its mask"));
    }
    Ok(wanted)
}

/// Loads the model where it is another one, and brings a task to its first step. With it: for how long that was computed,
/// loading apart, in milliseconds.
fn begin<'t>(task: &'t Task, wanted: Wanted, ctx: &mut Context<'_>) -> Result<(Job<'t>, u64), Failure> {
    ctx.check_cancel()?;
    ctx.phase("load");
    if task.kind == CLIP {
        find_encoder(ctx)?;
    }
    let size = prepare(task, ctx, &wanted)?;
    ctx.check_cancel()?;
    ctx.phase("infer");
    (ctx.report)(Report::Percent(0.0));
    let clock = ctx.engine.clock;
    let began_ms = clock.now().mono_ms;
    let (executor, slot) = ctx.engine.generator()?;
    let Some(model) = slot else { return Err(Failure::transient("the model is gone")) };
    let job = Job::begin(task, wanted, size, executor, model, ctx.cancel)?;
    Ok((job, clock.now().mono_ms - began_ms))
}

/// A host that could not write a clip is not to compute it first.
fn find_encoder(ctx: &Context<'_>) -> Result<(), Failure> {
    let tools = ffmpeg::Tools::default();
    ffmpeg::output(&tools.ffmpeg, &["-version".to_owned()], VERSION_BYTES_MAX, tools.stall, ctx.cancel).map(|_| ())
}

/// Makes sure that a run fits into the memory there is. `needed`: its bytes, of so many for a value.
fn fits(
    ctx: &mut Context<'_>,
    what: &str,
    [height, width]: [usize; 2],
    needed: impl FnOnce(usize) -> Result<usize, Failure>,
) -> Result<(), Failure> {
    // GPUs keep values in two bytes at the least; what they really take is known when they have the graph.
    let element = if ctx.engine.generator()?.0.name() == "cpu" { size_of::<f32>() } else { 2 };
    let (needed, allowed) = (needed(element)?, super::generator_bytes_max());
    if needed <= allowed {
        return Ok(());
    }
    let message = format!("a {what} of {width}x{height} needs {needed} bytes of memory, {allowed} are allowed");
    Err(Failure::permanent(message).with("needed_bytes", needed).with("allowed_bytes", allowed))
}

/// Makes sure that the engine holds the wanted model, and says which size the pictures have. The files' configurations
/// are checked before any weight is read.
fn prepare(task: &Task, ctx: &mut Context<'_>, wanted: &Wanted) -> Result<[usize; 2], Failure> {
    let key = Key::of(wanted);
    if let Some(held) = ctx.engine.generate.as_ref().filter(|held| held.key == key) {
        frames_within(wanted, held.frames_max)?;
        return size(
            task,
            wanted,
            held.vae.factor() * held.unet.side_multiple(),
            held.unet.sample_size,
            held.vae.factor(),
        );
    }
    let model = loaded::open(ctx.engine.models_dir(), &key)?;
    frames_within(wanted, model.motion.as_ref().map(|motion| motion.frames_max))?;
    let size = size_for(task, wanted, &model)?;
    let what = if model.motion.is_some() { "clip" } else { "picture" };
    fits(ctx, what, size, |element| loaded::needed_bytes(&model, size, wanted.form.frames(), element))?;
    ctx.check_cancel()?;
    // Another model makes room first.
    (ctx.engine.loaded, ctx.engine.animate) = (None, None);
    let (executor, slot) = ctx.engine.generator()?;
    *slot = None;
    *slot = Some(Loaded::load(executor, model, key)?);
    Ok(size)
}

/// A clip has as many frames as its motion modules have places for.
fn frames_within(wanted: &Wanted, most: Option<usize>) -> Result<(), Failure> {
    match most {
        Some(most) if wanted.form.frames() > most => Err(Failure::permanent(format!(
            "parameter `frames` is {}; these motion modules have places for {most}",
            wanted.form.frames()
        ))),
        _ => Ok(()),
    }
}

fn size_for(task: &Task, wanted: &Wanted, model: &Model) -> Result<[usize; 2], Failure> {
    let factor = model.vae.factor();
    size(task, wanted, factor * model.unet.side_multiple(), model.unet.sample_size, factor)
}

/// Height and width: as asked for, else the input's rounded down to what the model can, else what it was trained with.
fn size(
    task: &Task,
    wanted: &Wanted,
    multiple: usize,
    sample: Option<usize>,
    factor: usize,
) -> Result<[usize; 2], Failure> {
    let trained = (sample.unwrap_or(SAMPLE_SIZE) * factor).next_multiple_of(multiple);
    let mut size = [trained; 2];
    if let Some(first) = task.inputs.first() {
        let (_, given) = pictures::read(first, Ok)?;
        size = given.map(|side| (side / multiple * multiple).max(multiple));
    }
    for (side, (name, asked)) in size.iter_mut().zip([("height", wanted.height), ("width", wanted.width)]) {
        let Some(asked) = asked else { continue };
        if !asked.is_multiple_of(multiple) {
            return Err(Failure::permanent(format!(
                "parameter `{name}` is {asked}; this model takes multiples of {multiple}"
            )));
        }
        *side = asked;
    }
    if matches!(wanted.form, Form::Clip { .. }) {
        clip::encodable(size[1], size[0])?;
    }
    Ok(size)
}
