//! `audio.speech-segments`: where somebody speaks in each input, as JSON, WebVTT or CSV.

use std::fmt::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::parameters::{Format, Segments};
use super::{Context, Failure, Made, Task, made, sounds};
use crate::frames::{disk, ffmpeg::Tools};
use crate::infer::Report;
use crate::infer::cpu::Cpu;
use crate::infer::executor::ExecError;
use crate::infer::models::Table;
use crate::infer::models::speech::{BATCH, FILE, NAME, Vad};
use crate::infer::progress::Progress;
use crate::infer::weights::Weights;
use crate::sound::SAMPLE_MAX;
use crate::sound::denoise::NoSound;
use crate::sound::pipe::Decoder;
use crate::sound::probe::Sound;
use crate::sound::resample::Resampler;
use crate::sound::speech::{self, RATE_HZ, Segment, WINDOW};

/// Longest sound whose probabilities are kept: two days are 21 MB.
const WINDOWS_MAX: usize = 48 * 3600 * RATE_HZ as usize / WINDOW;
/// Bytes of values between the layers for a batch; it needs a tenth.
const ARENA_BYTES_MAX: usize = 64 << 20;

pub(super) fn run(task: &Task, ctx: &mut Context<'_>) -> Result<Vec<Made>, Failure> {
    let wanted = Segments::read(&task.parameters)?;
    ctx.phase("load");
    let tools = Tools::default();
    let sounds = sounds(task, &tools, wanted.stream, ctx)?;
    let mut vad = match ctx.engine.speech.take() {
        Some(loaded) => loaded,
        None => load(ctx)?,
    };
    ctx.phase("infer");
    let made = all(&tools, task, &wanted, &sounds, &mut vad, ctx);
    ctx.engine.speech = Some(vad);
    made
}

fn load(ctx: &Context<'_>) -> Result<Vad, Failure> {
    let table = Table::of_this_build().map_err(|error| Failure::permanent(format!("table of models: {error}")))?;
    let file = table.map(ctx.engine.models_dir(), FILE).map_err(ExecError::from)?;
    let weights = Weights::safetensors(&file).map_err(ExecError::from)?;
    let cpu = Cpu::new(ctx.engine.options.threads, ARENA_BYTES_MAX);
    let cpu = cpu.map_err(|error| Failure::transient(format!("start threads: {error}")))?;
    Ok(Vad::load(&weights, &cpu)?)
}

fn all(
    tools: &Tools,
    task: &Task,
    wanted: &Segments,
    sounds: &[Sound],
    vad: &mut Vad,
    ctx: &mut Context<'_>,
) -> Result<Vec<Made>, Failure> {
    let mut progress = Progress::new(task.inputs.len());
    let mut files = Vec::new();
    for (index, (path, sound)) in task.inputs.iter().zip(sounds).enumerate() {
        let base = index as f32 * progress.share;
        let heard = listen(tools, path, sound, vad, ctx, &mut |share, ctx| progress.percent(base, share, ctx.report))?;
        let found = speech::segments(&heard.probabilities, heard.samples, &wanted.rules);
        for format in &wanted.formats {
            let to = task.output_dir.join(progress.name(path, "speech", format.name()));
            let (text, content_type) = write(*format, &found, &heard, sound);
            std::fs::write(&to, text).map_err(|error| disk("write", &to, &error))?;
            let mut file = made(&to, content_type);
            file.model = NAME.to_owned();
            file.extra.insert("segments".to_owned(), found.len().into());
            file.extra.insert("speech_s".to_owned(), seconds(found.iter().map(|one| one.end - one.start).sum()).into());
            file.extra.insert("duration_s".to_owned(), seconds(heard.samples).into());
            files.push(file);
        }
        progress.percent(base, 1.0, ctx.report);
    }
    (ctx.report)(Report::Phase("post"));
    progress.percent(1.0, 0.0, ctx.report);
    Ok(files)
}

/// A sound that was listened to.
struct Heard {
    probabilities: Vec<f32>,
    /// At [`RATE_HZ`].
    samples: u64,
}

fn listen(
    tools: &Tools,
    from: &Path,
    sound: &Sound,
    vad: &mut Vad,
    ctx: &mut Context<'_>,
    progress: &mut dyn FnMut(f32, &mut Context<'_>),
) -> Result<Heard, Failure> {
    let mut decoder = Decoder::start(tools, from, sound)?;
    let mut resampler = (sound.rate_hz != RATE_HZ).then(|| Resampler::new(sound.rate_hz, RATE_HZ));
    let expected = sound.duration_s.map(|seconds| seconds * f64::from(sound.rate_hz));
    let (mut taken, mut samples) = (0_u64, 0_u64);
    let (mut mono, mut probabilities) = (Vec::new(), Vec::new());
    vad.begin();
    while let Some(piece) = decoder.next(ctx.cancel)? {
        check(&piece, taken, sound.channels)?;
        let mixed: Vec<f32> =
            piece.chunks_exact(sound.channels).map(|all| (all.iter().sum::<f64>() / all.len() as f64) as f32).collect();
        taken += mixed.len() as u64;
        let before = mono.len();
        match &mut resampler {
            Some(resampler) => resampler.push(&mixed, &mut mono),
            None => mono.extend(mixed),
        }
        samples += (mono.len() - before) as u64;
        let whole = mono.len() / (BATCH * WINDOW) * BATCH * WINDOW;
        vad.push(&mono[..whole], ctx.cancel, &mut probabilities)?;
        mono.drain(..whole);
        if probabilities.len() > WINDOWS_MAX {
            return Err(Failure::permanent("the sound is longer than 48 hours"));
        }
        if let Some(expected) = expected {
            progress((taken as f64 / expected).min(1.0) as f32, ctx);
        }
    }
    if taken == 0 {
        return Err(Failure::permanent("the sound has no samples"));
    }
    let before = mono.len();
    if let Some(resampler) = &mut resampler {
        resampler.finish(&mut mono);
    }
    samples += (mono.len() - before) as u64;
    mono.resize(mono.len().next_multiple_of(WINDOW), 0.0);
    vad.push(&mono, ctx.cancel, &mut probabilities)?;
    Ok(Heard { probabilities, samples })
}

fn check(piece: &[f64], taken: u64, channels: usize) -> Result<(), NoSound> {
    match piece.iter().position(|value| !value.is_finite() || value.abs() > SAMPLE_MAX) {
        Some(at) => Err(NoSound { sample: taken + (at / channels) as u64, channel: at % channels, value: piece[at] }),
        None => Ok(()),
    }
}

fn seconds(samples: u64) -> f64 {
    samples as f64 / f64::from(RATE_HZ)
}

/// The file's text and content type. Times are those of the file: the sound of a clip may begin later than the clip.
fn write(format: Format, found: &[Segment], heard: &Heard, sound: &Sound) -> (String, &'static str) {
    // A ten-thousandth of a second is more than a window of 32 ms can tell.
    let round = |value: f64| (value * 10_000.0).round() / 10_000.0;
    let at = |sample: u64| round(seconds(sample) + sound.delay_s).max(0.0);
    let likely = |segment: &Segment| round(f64::from(segment.probability));
    match format {
        Format::Json => {
            let list: Vec<Value> = found
                .iter()
                .map(|one| json!({"start_s": at(one.start), "end_s": at(one.end), "probability": likely(one)}))
                .collect();
            let whole = json!({"model": NAME, "duration_s": round(seconds(heard.samples)), "segments": list});
            (format!("{whole:#}\n"), "application/json")
        }
        Format::Vtt => {
            let mut text = "WEBVTT\n".to_owned();
            for one in found {
                let _ = write!(text, "\n{} --> {}\nspeech\n", stamp(at(one.start)), stamp(at(one.end)));
            }
            (text, "text/vtt")
        }
        Format::Csv => {
            let mut text = "start_s,end_s,probability\n".to_owned();
            for one in found {
                let _ = writeln!(text, "{:.4},{:.4},{:.4}", at(one.start), at(one.end), likely(one));
            }
            (text, "text/csv")
        }
    }
}

/// `01:02:03.450`.
fn stamp(at_s: f64) -> String {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to some days")]
    let ms = (at_s * 1_000.0).round() as u64;
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_as_webvtt_wants_it() {
        assert_eq!(stamp(3_723.45), "01:02:03.450");
        assert_eq!(stamp(0.0), "00:00:00.000");
        assert_eq!(stamp(59.9999), "00:01:00.000");
    }
}
