//! `video.process`: a clip through a recipe, frame by frame.
//!
//! ffmpeg decodes to planes of YUV as the clip has them, 8 or 10 bits, and encodes from planes of BT.709; matrix, range,
//! tone curve and everything between are ours.

use std::path::{Path, PathBuf};

use super::parameters::{CurveName, Operation};
use super::{Context, Failure, Loaded, Made, Report, made};
use crate::frames::clip::{self, Ends};
use crate::frames::ffmpeg;
use crate::frames::probe::{self, Dynamics};
use crate::frames::work::{Depth, Format, Layout, Matrix, Range, Recipe, Sampling, Step};
use crate::infer::progress::Progress;

pub(super) fn run(
    loaded: &Loaded,
    from: &Path,
    to: PathBuf,
    ctx: &mut Context<'_>,
    is_last: bool,
    progress: &mut Progress,
    base: f32,
) -> Result<Made, Failure> {
    let tools = ffmpeg::Tools::default();
    let tone_maps = matches!(loaded.operations.first(), Some(Operation::ToneMap { .. }));
    let dynamics = if tone_maps { Dynamics::Any } else { Dynamics::Standard };
    let clip = probe::probe(&tools, from, dynamics, ctx.cancel)?;
    let size = (clip.width as usize, clip.height as usize);
    let mut steps = loaded.steps(size)?;
    if let (Some(Step::ToneMap(tone)), Some(Operation::ToneMap { curve, .. })) =
        (steps.first_mut(), loaded.operations.first())
    {
        let of_file = match clip.transfer.as_deref() {
            Some("smpte2084") => Some(CurveName::Pq),
            Some("arib-std-b67") => Some(CurveName::Hlg),
            _ => None,
        };
        let curve = curve.or(of_file).ok_or_else(|| {
            Failure::permanent("operation 0: the clip says nothing of a high dynamic range; name its `curve`")
        })?;
        tone.curve =
            if curve == CurveName::Hlg { crate::frames::work::Curve::Hlg } else { crate::frames::work::Curve::Pq };
    }
    let (wide, high) = steps.iter().fold(size, |size, step| match step {
        Step::Resize { width, height } => (*width, *height),
        _ => size,
    });
    let matrix = matrix(clip.matrix.as_deref(), size);
    let depth = if clip.is_deep { Depth::Ten } else { Depth::Eight };
    let yuv = |(width, height), matrix, depth| Format {
        width,
        height,
        layout: Layout::Yuv { matrix, range: Range::Limited, sampling: Sampling::Yuv420, depth },
    };
    let source = yuv(size, matrix, depth);
    let target = yuv((wide.next_multiple_of(2), high.next_multiple_of(2)), Matrix::Bt709, Depth::Eight);
    clip::encodable(target.width, target.height)?;
    let mut chain = ctx.engine.bench()?.chain(Recipe { from: source, steps, to: target })?;
    let ends = Ends {
        decode: clip::yuv_arguments(from, &clip, matrix_word(matrix), depth == Depth::Ten),
        encode: clip::encode_arguments(from, &clip, (target.width, target.height), "yuv420p", &to),
        frame_bytes: source.bytes(),
        made_bytes: target.bytes(),
    };
    let (cancel, count, report) = (ctx.cancel, clip.frames as f32, &mut *ctx.report);
    let frames = clip::through(&tools, from, &ends, cancel, &mut |number, frame, to| {
        chain.run(frame, u32::try_from(number).unwrap_or(u32::MAX), to)?;
        progress.percent(base, ((number + 1) as f32 / count).min(1.0), report);
        Ok(())
    })?;
    if is_last {
        report(Report::Phase("post"));
    }
    let mut made = made(to, "video/mp4", (target.width, target.height), chain.name());
    made.extra.insert("frames".to_owned(), frames.into());
    made.extra.insert("frame_rate".to_owned(), clip.rate.clone().into());
    made.extra.insert("sound".to_owned(), clip.sound.is_some().into());
    Ok(made)
}

/// What the file says, or what players take where it says nothing.
fn matrix(said: Option<&str>, (width, height): (usize, usize)) -> Matrix {
    match said {
        Some("bt2020nc" | "bt2020_ncl" | "bt2020c") => Matrix::Bt2020,
        Some("bt709") => Matrix::Bt709,
        Some("smpte170m" | "bt470bg" | "fcc") => Matrix::Bt601,
        _ if width.min(height) >= 720 => Matrix::Bt709,
        _ => Matrix::Bt601,
    }
}

fn matrix_word(matrix: Matrix) -> &'static str {
    match matrix {
        Matrix::Bt601 => "bt601",
        Matrix::Bt709 => "bt709",
        Matrix::Bt2020 => "bt2020",
    }
}
