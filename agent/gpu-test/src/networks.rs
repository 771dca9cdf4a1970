//! Layers in the sizes that studios run, with random weights, and the upscaler with its real ones.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use backlot_agent::infer::cuda::Precision;
use backlot_agent::infer::executor::{Executor, Input};
use backlot_agent::infer::graph::{Activation, Graph, Op, Pad, ValueId, WeightId};
use backlot_agent::infer::models::{default_folder, upscale};
use backlot_agent::infer::weights::{Weights, map};

use crate::checks::{compare, cpu, cuda, rounded, time};
use crate::ops::{self, Case, Random, Tensor};
use crate::pipelines::{
    Form, Size, clip_case, decoder_case, frames_case, text_case, unet_case, video_case, vision_case,
};
use crate::{Check, Figures, check, figures, millis, now};

pub(crate) fn all() -> Vec<Check> {
    let mut all = Vec::new();
    // Channels, side, heads: the stages of SD 1.5 at 512² and of SDXL at 1024², the latter at a quarter of the pixels,
    // since the CPU has to compute them too.
    for (name, channels, side, heads) in [
        ("unet block 320 at 64", 320, 64, 8),
        ("unet block 640 at 32", 640, 32, 8),
        ("unet block 1280 at 8", 1280, 8, 8),
        ("unet block 640 at 32, heads of 64", 640, 32, 10),
    ] {
        for precision in [Precision::Half, Precision::Single] {
            all.push(check(format!("{name} {precision:?}"), move || block(channels, side, heads, precision, true)));
        }
        all.push(check(format!("{name} without cuDNN"), move || block(channels, side, heads, Precision::Half, false)));
    }
    all.push(check("decoder attention of 512 at 64", decoder_attention));
    for precision in [Precision::Half, Precision::Single] {
        let of = move |case: fn() -> Result<Case, String>| move || pipeline(&case()?, precision);
        let mut add = |name: &str, case| all.push(check(format!("{name} {precision:?}"), of(case)));
        add("tiny text encoder", text_case);
        add("tiny unet of SD 1.5", || unet_case(Form::Sd15, Size::Tiny, [8, 8]));
        add("tiny unet of SDXL", || unet_case(Form::Sdxl, Size::Tiny, [16, 8]));
        add("tiny unet with motion modules", || clip_case(Size::Tiny, [8, 8]));
        add("unet with motion modules at 256x256", || clip_case(Size::Real, [32, 32]));
        add("tiny picture encoder", vision_case);
        add("tiny unet of Stable Video Diffusion", || video_case(Size::Tiny, [8, 8]));
        add("unet of Stable Video Diffusion at 256x128", || video_case(Size::Real, [16, 32]));
        add("tiny decoder of frames", || frames_case(Size::Tiny, [4, 6]));
        add("decoder of frames at 128x128", || frames_case(Size::Real, [16, 16]));
        add("tiny decoder", || decoder_case(Size::Tiny, [8, 12]));
        add("unet of SD 1.5 at 512x512", || unet_case(Form::Sd15, Size::Real, [64, 64]));
        add("unet of SDXL at 256x256", || unet_case(Form::Sdxl, Size::Real, [32, 32]));
        add("decoder at 256x256", || decoder_case(Size::Real, [32, 32]));
    }
    for model in ["realesr-animevideov3-x2", "realesr-animevideov3-x4", "realesrgan-x4plus-anime", "realesrgan-x4plus"]
    {
        all.push(check(format!("upscale {model} 128x96"), move || upscaled(model, [96, 128], false)));
    }
    all.push(check("upscale realesr-animevideov3-x4 1280x720", || {
        upscaled("realesr-animevideov3-x4", [720, 1280], true)
    }));
    all
}

/// A graph in the making, with random weights that keep values about one.
pub(crate) struct Maker {
    graph: Graph,
    tensors: Vec<(String, Tensor)>,
    inputs: Vec<Tensor>,
    random: Random,
}

impl Maker {
    pub(crate) fn new(seed: u64) -> Self {
        Self { graph: Graph::new(), tensors: Vec::new(), inputs: Vec::new(), random: Random::new(seed) }
    }

    pub(crate) fn input(&mut self, shape: &[usize]) -> ValueId {
        self.inputs.push(self.random.tensor(shape));
        self.graph.input()
    }

    fn weight(&mut self, shape: &[usize], about: f32) -> WeightId {
        let mut tensor = self.random.tensor(shape);
        let inner: usize = shape[1..].iter().product();
        // Uniform in -1..1 has a deviation of 0.58.
        let factor = 1.7 / (inner as f32).sqrt();
        tensor.data.iter_mut().for_each(|value| *value = *value * factor + about);
        let name = format!("w{}", self.tensors.len());
        self.tensors.push((name.clone(), tensor));
        self.graph.weight(name, shape)
    }

    fn vector(&mut self, length: usize, about: f32) -> WeightId {
        let mut tensor = self.random.tensor(&[length]);
        tensor.data.iter_mut().for_each(|value| *value = *value * 0.1 + about);
        let name = format!("w{}", self.tensors.len());
        self.tensors.push((name.clone(), tensor));
        self.graph.weight(name, &[length])
    }

    pub(crate) fn push(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        self.graph.push("node", op, inputs)
    }

    pub(crate) fn conv(&mut self, from: ValueId, channels: usize, outputs: usize, kernel: usize) -> ValueId {
        let weight = self.weight(&[outputs, channels, kernel, kernel], 0.0);
        let bias = Some(self.vector(outputs, 0.0));
        self.push(Op::Conv2d { weight, bias, stride: 1, pad: Pad::Same, activation: None }, &[from])
    }

    pub(crate) fn linear(&mut self, from: ValueId, channels: usize, outputs: usize) -> ValueId {
        let weight = self.weight(&[outputs, channels], 0.0);
        let bias = Some(self.vector(outputs, 0.0));
        self.push(Op::Linear { weight, bias }, &[from])
    }

    fn group_norm(&mut self, from: ValueId, channels: usize) -> ValueId {
        let (weight, bias) = (self.vector(channels, 1.0), self.vector(channels, 0.0));
        self.push(Op::GroupNorm { groups: 32, weight, bias, epsilon: 1e-5, silu: false }, &[from])
    }

    fn layer_norm(&mut self, from: ValueId, channels: usize) -> ValueId {
        let (weight, bias) = (self.vector(channels, 1.0), self.vector(channels, 0.0));
        self.push(Op::LayerNorm { weight, bias, epsilon: 1e-5 }, &[from])
    }

    /// A residual block with a moment in time, and a transformer block with self attention, cross attention and a
    /// gated layer: what a UNet is made of.
    fn block(&mut self, channels: usize, side: usize, heads: usize) -> ValueId {
        let picture = self.input(&[2, side, side, channels]);
        let text = self.input(&[2, 77, 768]);
        let time = self.input(&[2]);
        self.inputs[2].data = vec![981.0, 21.0];
        let moment = self.push(Op::TimeEmbedding { channels: 320, flip: true, shift: 0.0 }, &[time]);
        let moment = self.linear(moment, 320, channels);
        let normed = self.group_norm(picture, channels);
        let bent = self.push(Op::Activate(Activation::Silu), &[normed]);
        let made = self.conv(bent, channels, channels, 3);
        let made = self.push(Op::AddChannels, &[made, moment]);
        let normed = self.group_norm(made, channels);
        let bent = self.push(Op::Activate(Activation::Silu), &[normed]);
        let made = self.conv(bent, channels, channels, 3);
        let mut value = self.push(Op::Add, &[made, picture]);
        for keys in [None, Some((text, 768))] {
            let normed = self.layer_norm(value, channels);
            let (from, width) = keys.unwrap_or((normed, channels));
            let query = self.linear(normed, channels, channels);
            let (key, of_value) = (self.linear(from, width, channels), self.linear(from, width, channels));
            let mixed = self.push(Op::Attention { heads, causal: false }, &[query, key, of_value]);
            let made = self.linear(mixed, channels, channels);
            value = self.push(Op::Add, &[made, value]);
        }
        let normed = self.layer_norm(value, channels);
        let wide = self.linear(normed, channels, 8 * channels);
        let gated = self.push(Op::Geglu, &[wide]);
        let made = self.linear(gated, 4 * channels, channels);
        self.push(Op::Add, &[made, value])
    }

    pub(crate) fn finish(mut self, end: ValueId) -> Case {
        self.graph.output(end);
        let tensors: Vec<(&str, &Tensor)> = self.tensors.iter().map(|(name, made)| (name.as_str(), made)).collect();
        let weights = ops::weights(&tensors);
        rounded(Case { graph: self.graph.fuse(), weights, inputs: self.inputs })
    }
}

pub(crate) fn block_case(channels: usize, side: usize, heads: usize) -> Case {
    let mut maker = Maker::new(channels as u64);
    let end = maker.block(channels, side, heads);
    maker.finish(end)
}

fn block(channels: usize, side: usize, heads: usize, precision: Precision, cudnn: bool) -> Result<Figures, String> {
    let case = block_case(channels, side, heads);
    let wanted = ops::run(&cpu()?, &case);
    let cuda = cuda(precision, cudnn)?;
    let off = compare(&cuda, &case, &wanted)?;
    let allowed = if precision == Precision::Half { 1e-2 } else { 5e-4 };
    if off > allowed {
        return Err(format!("off by {off}, {allowed} is allowed"));
    }
    Ok(figures([("error_max", f64::from(off).into()), ("run_ms", time(&cuda, &case, 20)?.into())]))
}

/// A whole network against the CPU's.
fn pipeline(case: &Case, precision: Precision) -> Result<Figures, String> {
    let wanted = ops::run(&cpu()?, case);
    let off = compare(&cuda(precision, true)?, case, &wanted)?;
    let allowed = if precision == Precision::Half { 2e-2 } else { 2e-3 };
    if off > allowed {
        return Err(format!("off by {off}, {allowed} is allowed"));
    }
    Ok(figures([("error_max", f64::from(off).into())]))
}

fn decoder_attention() -> Result<Figures, String> {
    let mut maker = Maker::new(1);
    let inputs = [0, 1, 2].map(|_| maker.input(&[1, 64, 64, 512]));
    let end = maker.push(Op::Attention { heads: 1, causal: false }, &inputs);
    let case = maker.finish(end);
    let wanted = ops::run(&cpu()?, &case);
    let (half, single) = (cuda(Precision::Half, true)?, cuda(Precision::Single, true)?);
    let (of_half, of_single) = (compare(&half, &case, &wanted)?, compare(&single, &case, &wanted)?);
    if of_half > 3e-3 || of_single > 5e-5 {
        return Err(format!("off by {of_half} in halves, {of_single} in floats"));
    }
    Ok(figures([("error_max", f64::from(of_half).into()), ("error_max_f32", f64::from(of_single).into())]))
}

/// A network of Real-ESRGAN with its real weights.
pub(crate) fn network(model: &str) -> Result<(Graph, Weights), String> {
    let folder = default_folder();
    let read = |ending: &str| {
        let path = folder.join(format!("{model}.{ending}"));
        map(Path::new(&path)).map_err(|error| error.to_string())
    };
    let scale = if model.ends_with("x2") { 2 } else { 4 };
    upscale::read(&read("param")?, &read("bin")?, scale).map_err(|error| error.to_string())
}

/// A picture that moves smoothly with some noise in it.
pub(crate) fn picture([height, width]: [usize; 2]) -> Vec<f32> {
    let mut random = Random::new(17);
    let value = |at: usize| {
        let (pixel, channel) = (at / 3, at % 3);
        let (x, y) = ((pixel % width) as f32, (pixel / width) as f32);
        let wave = (x * 0.11 + channel as f32).sin() * (y * 0.07).cos();
        (0.5 + 0.4 * wave + 0.05 * random.unit()).clamp(0.0, 1.0)
    };
    (0..height * width * 3).map(value).collect()
}

/// Compares a whole upscaling; of a large picture the CPU computes a part, away from whose edges the two agree.
fn upscaled(model: &str, sides: [usize; 2], is_part: bool) -> Result<Figures, String> {
    const PART: [usize; 2] = [96, 96];
    const EDGE: usize = 24;
    let (graph, weights) = network(model)?;
    let cuda = cuda(Precision::Half, true)?;
    let mut program = cuda.load(graph.clone(), &weights).map_err(|error| error.to_string())?;
    let data = picture(sides);
    let input = [Input { shape: &[1, sides[0], sides[1], 3], data: &data }];
    let never = AtomicBool::new(false);
    let begin = now();
    program.run(&input, &never, &mut |_, _| {}).map_err(|error| error.to_string())?;
    let first_ms = millis(begin.elapsed());
    let made = program.run(&input, &never, &mut |_, _| {}).map_err(|error| error.to_string())?;
    let (shape, made) = (made[0].shape.clone(), made[0].data.to_vec());
    let scale = shape[1] / sides[0];
    let part = if is_part { PART } else { sides };
    let cut: Vec<f32> =
        data.chunks_exact(sides[1] * 3).take(part[0]).flat_map(|row| row[..part[1] * 3].to_vec()).collect();
    let mut on_cpu = cpu()?.load(graph, &weights).map_err(|error| error.to_string())?;
    let of_part = [Input { shape: &[1, part[0], part[1], 3], data: &cut }];
    let wanted = on_cpu.run(&of_part, &never, &mut |_, _| {}).map_err(|error| error.to_string())?;
    let edge = if is_part { EDGE } else { 0 };
    let (mut squares, mut count, mut worst) = (0.0_f64, 0_u32, 0.0_f32);
    for y in 0..(part[0] - edge) * scale {
        for x in 0..(part[1] - edge) * scale * 3 {
            let off = made[y * sides[1] * scale * 3 + x] - wanted[0].data[y * part[1] * scale * 3 + x];
            worst = if off.is_nan() { f32::INFINITY } else { worst.max(off.abs()) };
            squares += f64::from(off * off);
            count += 1;
        }
    }
    let psnr = -10.0 * (squares / f64::from(count)).max(1e-20).log10();
    if psnr < 40.0 || worst.is_infinite() {
        return Err(format!("PSNR is {psnr:.1} dB (40 wanted), off by {worst}"));
    }
    Ok(figures([("psnr_db", psnr.into()), ("error_max", f64::from(worst).into()), ("first_run_ms", first_ms.into())]))
}
