//! `audio.denoise`: each input becomes the same file with less noise in its sound.

use std::path::Path;

use serde_json::Value;

use super::parameters::Denoise;
use super::{Context, Failure, Made, Task, made, sounds};
use crate::frames::ffmpeg::Tools;
use crate::infer::Report;
use crate::infer::progress::Progress;
use crate::sound::denoise::{Denoiser, NoSound};
use crate::sound::encode::Target;
use crate::sound::pipe::{Decoder, Encoder};
use crate::sound::probe::Sound;

const MODEL: &str = "rnnoise";

impl From<NoSound> for Failure {
    fn from(error: NoSound) -> Self {
        Self::permanent(error.to_string())
    }
}

pub(super) fn run(task: &Task, ctx: &mut Context<'_>) -> Result<Vec<Made>, Failure> {
    let wanted = Denoise::read(&task.parameters)?;
    ctx.phase("load");
    let tools = Tools::default();
    let sounds = sounds(task, &tools, wanted.stream, ctx)?;
    ctx.phase("infer");
    let mut progress = Progress::new(task.inputs.len());
    let mut all = Vec::new();
    for (index, (path, sound)) in task.inputs.iter().zip(&sounds).enumerate() {
        let base = index as f32 * progress.share;
        let target = Target::of(sound);
        let to = task.output_dir.join(progress.name(path, "denoised", target.container.ending));
        let mut sums = one(&tools, (path, &to), sound, &target, wanted.strength, ctx, &mut |share, ctx| {
            progress.percent(base, share, ctx.report);
        })?;
        progress.percent(base, 1.0, ctx.report);
        sums.extra.insert("strength".to_owned(), wanted.strength.into());
        all.push(sums);
    }
    (ctx.report)(Report::Phase("post"));
    progress.percent(1.0, 0.0, ctx.report);
    Ok(all)
}

fn one(
    tools: &Tools,
    (from, to): (&Path, &Path),
    sound: &Sound,
    target: &Target,
    strength: f64,
    ctx: &mut Context<'_>,
    progress: &mut dyn FnMut(f32, &mut Context<'_>),
) -> Result<Made, Failure> {
    let mut decoder = Decoder::start(tools, from, sound)?;
    let mut encoder = Encoder::start(tools, &target.arguments(sound, from, to))?;
    let mut denoiser = Denoiser::new(sound.rate_hz, sound.channels, strength);
    let expected = sound.duration_s.map(|seconds| seconds * f64::from(sound.rate_hz) * sound.channels as f64);
    let mut taken = 0;
    while let Some(samples) = decoder.next(ctx.cancel)? {
        taken += samples.len();
        let mut clean = Vec::with_capacity(samples.len() + 4_096);
        denoiser.push(&samples, &mut clean)?;
        if !clean.is_empty() {
            encoder.push(clean, ctx.cancel)?;
        }
        if let Some(expected) = expected {
            progress((taken as f64 / expected).min(1.0) as f32, ctx);
        }
    }
    if taken == 0 {
        return Err(Failure::permanent("the sound has no samples"));
    }
    let mut clean = Vec::new();
    denoiser.finish(&mut clean);
    encoder.push(clean, ctx.cancel)?;
    encoder.finish(ctx.cancel)?;
    let (before, after) = denoiser.loudness.dbfs();
    let mut made = made(to, target.container.content_type);
    made.model = MODEL.to_owned();
    let samples = taken / sound.channels;
    let facts: [(&str, Value); 6] = [
        ("samples", samples.into()),
        ("sample_rate", sound.rate_hz.into()),
        ("channels", sound.channels.into()),
        ("duration_s", (samples as f64 / f64::from(sound.rate_hz)).into()),
        ("rms_before_dbfs", before.into()),
        ("rms_after_dbfs", after.into()),
    ];
    made.extra.extend(facts.map(|(name, value)| (name.to_owned(), value)));
    Ok(made)
}
