//! Measures: products, convolutions, attention, blocks, and pictures a second.
//!
//! A time is that of a recorded run from the host's side: it has the transfers of inputs and outputs in it. Where that
//! would drown the work, the same work stands many times in one graph.

use std::sync::atomic::AtomicBool;

use backlot_agent::infer::cuda::Precision;
use backlot_agent::infer::executor::{Executor, Input};
use backlot_agent::infer::graph::Op;

use crate::checks::{cuda, time};
use crate::networks::{Maker, block_case, network, picture};
use crate::ops::Case;
use crate::pipelines::{Form, Size, decoder_case, unet_case};
use crate::{Check, Figures, check, figures, millis, now};

/// The same layer so often in one graph.
const LAYERS: usize = 16;

pub(crate) fn all() -> Vec<Check> {
    let mut all: Vec<Check> = Vec::new();
    for (rows, width) in [(4096, 320), (4096, 1280), (1024, 1280), (8192, 4096)] {
        all.push(check(format!("bench linear {rows}x{width}x{width}"), move || linear(rows, width)));
    }
    for (side, channels) in [(64, 320), (32, 640), (16, 1280), (8, 1280), (256, 128), (720, 64)] {
        for cudnn in [true, false] {
            let name = format!("bench conv 3x3 {channels} at {side}{}", if cudnn { "" } else { " own kernel" });
            all.push(check(name, move || conv(side, channels, cudnn)));
        }
    }
    for (length, heads, size) in
        [(4096, 8, 40), (4096, 10, 64), (1024, 8, 80), (1024, 20, 64), (4096, 8, 128), (256, 8, 160)]
    {
        all.push(check(format!("bench attention {length} heads {heads}x{size}"), move || {
            attention(length, heads, size)
        }));
    }
    for (channels, side, heads) in [(320, 64, 8), (640, 32, 8), (1280, 16, 8)] {
        all.push(check(format!("bench unet block {channels} at {side}"), move || {
            let run_ms = time(&cuda(Precision::Half, true)?, &block_case(channels, side, heads), 50)?;
            Ok(figures([("run_ms", run_ms.into())]))
        }));
    }
    let pipeline = |name: &str, case: fn() -> Result<Case, String>, precision| {
        check(format!("bench {name}"), move || {
            let run_ms = time(&cuda(precision, true)?, &case()?, 10)?;
            Ok(figures([("run_ms", run_ms.into()), ("runs_per_second", (1e3 / run_ms).into())]))
        })
    };
    let half = Precision::Half;
    all.push(pipeline("unet of SD 1.5 at 512x512", || unet_case(Form::Sd15, Size::Real, [64, 64]), half));
    all.push(pipeline("unet of SDXL at 1024x1024", || unet_case(Form::Sdxl, Size::Real, [128, 128]), half));
    all.push(pipeline("decoder at 512x512", || decoder_case(Size::Real, [64, 64]), half));
    all.push(pipeline("decoder at 1024x1024 f32", || decoder_case(Size::Real, [128, 128]), Precision::Single));
    for model in ["realesr-animevideov3-x2", "realesr-animevideov3-x4", "realesrgan-x4plus"] {
        for cudnn in [true, false] {
            let name = format!("bench upscale {model} 1280x720{}", if cudnn { "" } else { " own kernel" });
            all.push(check(name, move || upscale(model, cudnn)));
        }
    }
    all.into_iter().map(|check| Check { is_bench: true, ..check }).collect()
}

fn rate(operations: f64, run_ms: f64) -> Figures {
    // Operations for each millisecond, in 10^12 for each second.
    figures([("run_ms", run_ms.into()), ("tflops", (operations / run_ms / 1e9).into())])
}

fn linear(rows: usize, width: usize) -> Result<Figures, String> {
    let mut maker = Maker::new(1);
    let mut value = maker.input(&[1, rows, width]);
    for _ in 0..LAYERS {
        value = maker.linear(value, width, width);
    }
    let run_ms = time(&cuda(Precision::Half, true)?, &maker.finish(value), 20)?;
    Ok(rate((2 * rows * width * width * LAYERS) as f64, run_ms))
}

fn conv(side: usize, channels: usize, cudnn: bool) -> Result<Figures, String> {
    let mut maker = Maker::new(2);
    let pictures = if side < 128 { 2 } else { 1 };
    let mut value = maker.input(&[pictures, side, side, channels]);
    for _ in 0..LAYERS {
        value = maker.conv(value, channels, channels, 3);
    }
    let run_ms = time(&cuda(Precision::Half, cudnn)?, &maker.finish(value), 20)?;
    Ok(rate((2 * pictures * side * side * channels * channels * 9 * LAYERS) as f64, run_ms))
}

fn attention(length: usize, heads: usize, size: usize) -> Result<Figures, String> {
    let mut maker = Maker::new(3);
    let [mut query, key, value] = [0, 1, 2].map(|_| maker.input(&[2, length, heads * size]));
    for _ in 0..LAYERS {
        query = maker.push(Op::Attention { heads, causal: false }, &[query, key, value]);
    }
    let run_ms = time(&cuda(Precision::Half, true)?, &maker.finish(query), 20)?;
    Ok(rate((2 * 4 * heads * length * length * size * LAYERS) as f64, run_ms))
}

fn upscale(model: &str, cudnn: bool) -> Result<Figures, String> {
    const SIDES: [usize; 2] = [720, 1280];
    const RUNS: u32 = 5;
    let (graph, weights) = network(model)?;
    let cuda = cuda(Precision::Half, cudnn)?;
    let begin = now();
    let mut program = cuda.load(graph, &weights).map_err(|error| error.to_string())?;
    let load_ms = millis(begin.elapsed());
    let data = picture(SIDES);
    let input = [Input { shape: &[1, SIDES[0], SIDES[1], 3], data: &data }];
    let mut run = || -> Result<(), String> {
        program.run(&input, &AtomicBool::new(false), &mut |_, _| {}).map(|_| ()).map_err(|error| error.to_string())
    };
    let begin = now();
    run()?;
    let first_run_ms = millis(begin.elapsed());
    for _ in 0..2 {
        run()?;
    }
    let begin = now();
    for _ in 0..RUNS {
        run()?;
    }
    let run_ms = millis(begin.elapsed()) / f64::from(RUNS);
    Ok(figures([
        ("load_ms", load_ms.into()),
        ("first_run_ms", first_run_ms.into()),
        ("run_ms", run_ms.into()),
        ("frames_per_second", (1e3 / run_ms).into()),
    ]))
}
