//! The job type `image.generate`: Stable Diffusion 1, 2 and XL from text, from a picture, and under a mask.
//!
//! No input: text to image. One: image to image. Two: the second is the mask, and where it is bright the picture is
//! painted anew. What a seed makes does not depend on the batch that it was in: picture `i` of a job is what
//! `seed + i` makes alone.
//!
//! Absent on purpose: a safety checker, and long prompts in parts; what does not fit into the encoder's places is cut
//! and counted in the result.

mod checkpoint;
mod denoise;
mod loaded;
mod parameters;
mod pictures;
mod tiles;

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value};
use tracing::info;

use self::denoise::{Run, Source};
pub(super) use self::loaded::Loaded;
use self::loaded::{Conditioning, Key};
use self::parameters::Wanted;
use super::executor::Executor;
use super::models::folder::Model;
use super::sampler::{Kind, Sampler};
use super::{Context, Failure, Made, Report, Task, noise};
use crate::frames::image;

/// Latents' side where a configuration does not say which one the model was trained with.
const SAMPLE_SIZE: usize = 64;

pub(super) fn run(task: &Task, ctx: &mut Context<'_>) -> Result<Vec<Made>, Failure> {
    let wanted = Wanted::read(&task.parameters)?;
    if task.inputs.len() > 2 {
        return Err(Failure::permanent("`image.generate` takes at most two inputs: a picture and its mask"));
    }
    ctx.phase("load");
    let size = prepare(task, ctx, &wanted)?;
    ctx.check_cancel()?;
    ctx.phase("infer");
    (ctx.report)(Report::Percent(0.0));
    let (executor, slot) = ctx.engine.generator()?;
    let Some(model) = slot else { return Err(Failure::transient("the model is gone")) };
    let fingerprint = checkpoint::fingerprint(task)?;
    let seed = wanted.seed.or_else(|| checkpoint::seed(&task.output_dir, &fingerprint)).unwrap_or_else(any_seed);
    let cancel = ctx.cancel;
    let prompt = texts(model, [&wanted.prompt, wanted.prompt_2.as_deref().unwrap_or(&wanted.prompt)], cancel)?;
    let negative = (wanted.guidance > 1.0).then(|| negative(model, &wanted, &prompt, cancel)).transpose()?;
    let mut schedule = model.schedule.clone();
    schedule.prediction = wanted.prediction.unwrap_or(schedule.prediction);
    let sampler = Sampler::new(wanted.scheduler, &schedule, wanted.steps, wanted.spacing)
        .map_err(|problem| Failure::permanent(format!("the scheduler {problem}")))?;
    let source = source(task, executor, model, &wanted, size, seed, cancel)?;
    let factor = model.vae.factor();
    let latent = [size[0] / factor, size[1] / factor];
    let cut = prompt.cut.max(negative.as_ref().map_or(0, |text| text.cut));
    let (xl, channels, name) = (model.is_xl(), model.vae.latent_channels, model.executor);
    let (height, width) = (size[0] as f32, size[1] as f32);
    let mut run = Run {
        model,
        sampler,
        pictures: wanted.count,
        size: latent,
        seed,
        guidance: wanted.guidance,
        prompt,
        negative,
        sizes: [height, width, 0.0, 0.0, height, width],
        source,
        strength: wanted.strength,
    };
    let one = latent[0] * latent[1] * channels;
    let mut begin = run.begin()?;
    let left = checkpoint::read(&task.output_dir, &fingerprint, wanted.count * one, wanted.steps);
    if let Some((_, state)) = left.filter(|(of, state)| *of == seed && state.next > begin.next) {
        info!(step = state.next, "an earlier attempt's work goes on");
        begin = state;
    }
    let report = &mut *ctx.report;
    // Decoding is about one step's work for each picture.
    let total = (wanted.steps - begin.next + wanted.count) as f32;
    let start = begin.next;
    let latents = run.go(begin, cancel, &mut |state, steps, scale| {
        report(Report::Percent(100.0 * (state.next - start) as f32 / total));
        let due = wanted.preview_every > 0 && state.next % wanted.preview_every == 0 && state.next < steps;
        if due && let Some(preview) = pictures::preview(&state.latents[..one], latent, scale, xl) {
            let file = task.output_dir.join(format!("preview-{}.png", state.next));
            image::encode(&file, &preview, None, None)?;
            report(Report::Preview(file));
        }
        let due = wanted.checkpoint_every > 0 && state.next % wanted.checkpoint_every == 0 && state.next < steps;
        if due {
            checkpoint::write(&task.output_dir, &fingerprint, seed, state)?;
            report(Report::Checkpoint(task.output_dir.join(checkpoint::NAME)));
        }
        Ok(())
    })?;
    (ctx.report)(Report::Phase("post"));
    let model = run.model;
    let mut made = Vec::with_capacity(wanted.count);
    for (i, latent_values) in latents.chunks_exact(one).enumerate() {
        if cancel.load(Ordering::Relaxed) {
            return Err(Failure::cancelled());
        }
        let rgb = pictures::to_rgb(&model.decode(latent_values, latent, cancel)?, size);
        let seed = seed.wrapping_add(i as u64);
        let path = task.output_dir.join(format!("{}-{seed}.png", wanted.model));
        image::encode(&path, &rgb, None, None)?;
        let done = wanted.steps - start + i + 1;
        (ctx.report)(Report::Percent(100.0 * done as f32 / total));
        made.push(Made {
            path,
            content_type: "image/png",
            width: u32::try_from(rgb.width).unwrap_or(u32::MAX),
            height: u32::try_from(rgb.height).unwrap_or(u32::MAX),
            model: wanted.model.clone(),
            scale: 1,
            extra: about(&wanted, seed, name, cut),
        });
    }
    Ok(made)
}

/// What is worth knowing of a picture.
fn about(wanted: &Wanted, seed: u64, executor: &str, cut: usize) -> Map<String, Value> {
    let scheduler = Kind::ALL.iter().find(|(_, kind)| *kind == wanted.scheduler).map_or("", |(name, _)| *name);
    let mut extra = Map::from_iter([
        ("seed".to_owned(), Value::from(seed)),
        ("steps".to_owned(), wanted.steps.into()),
        ("guidance".to_owned(), f64::from(wanted.guidance).into()),
        ("scheduler".to_owned(), scheduler.into()),
        ("executor".to_owned(), executor.into()),
    ]);
    if cut > 0 {
        extra.insert("prompt_tokens_cut".to_owned(), cut.into());
    }
    extra
}

/// Chance enters here, where nobody gave a seed; the result tells which one it was.
fn any_seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish() >> 32
}

/// Makes sure that the engine holds the wanted model, and says which size the pictures have. The files' configurations
/// are checked before any weight is read.
fn prepare(task: &Task, ctx: &mut Context<'_>, wanted: &Wanted) -> Result<[usize; 2], Failure> {
    let key = Key { model: wanted.model.clone(), loras: wanted.loras.clone(), embeddings: wanted.embeddings.clone() };
    if let Some(held) = ctx.engine.generate.as_ref().filter(|held| held.key == key) {
        return size(
            task,
            wanted,
            held.vae.factor() * held.unet.side_multiple(),
            held.unet.sample_size,
            held.vae.factor(),
        );
    }
    let model = loaded::open(ctx.engine.models_dir(), &key)?;
    let size = size_for(task, wanted, &model)?;
    // GPUs keep values in two bytes at the least; what they really take is known when they have the graph.
    let width = if ctx.engine.generator()?.0.name() == "cpu" { size_of::<f32>() } else { 2 };
    let (needed, allowed) = (loaded::needed_bytes(&model, size, width)?, super::generator_bytes_max());
    if needed > allowed {
        let [height, width] = size;
        let message = format!("a picture of {width}x{height} needs {needed} bytes of memory, {allowed} are allowed");
        return Err(Failure::permanent(message).with("needed_bytes", needed).with("allowed_bytes", allowed));
    }
    ctx.check_cancel()?;
    // Another model makes room first.
    ctx.engine.loaded = None;
    let (executor, slot) = ctx.engine.generator()?;
    *slot = None;
    *slot = Some(Loaded::load(executor, model, key)?);
    Ok(size)
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
    Ok(size)
}

fn texts(model: &mut Loaded, texts: [&str; 2], cancel: &AtomicBool) -> Result<Conditioning, Failure> {
    model.encode_text(texts, cancel)
}

/// What is guided away from.
fn negative(
    model: &mut Loaded,
    wanted: &Wanted,
    prompt: &Conditioning,
    cancel: &AtomicBool,
) -> Result<Conditioning, Failure> {
    if wanted.negative.is_none() && model.zero_negative {
        let zeros = |values: &[f32]| vec![0.0; values.len()];
        return Ok(Conditioning { text: zeros(&prompt.text), pooled: zeros(&prompt.pooled), cut: 0, ..*prompt });
    }
    let first = wanted.negative.as_deref().unwrap_or_default();
    texts(model, [first, wanted.negative_2.as_deref().unwrap_or(first)], cancel)
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
    let pictures_of = |moments: &loaded::Moments, stream: u32| -> Vec<f32> {
        let one = |i: u64| moments.draw(&noise::normal(seed.wrapping_add(i), stream, count));
        (0..wanted.count as u64).flat_map(one).collect()
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
