//! Recipes on a GPU against recipes on the CPU: every step, every format, random frames.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

use std::sync::Arc;

use backlot_agent::frames::work::{
    Bench, Curve, Depth, Difference, Display, Format, Frame, Grain, Layout, Lut, Matrix, Over, Range, Recipe, Sampling,
    Step, ToneMap,
};
use backlot_agent::infer::wgpu::device::Wanted;

/// On software Vulkan, or on the GPU that is there.
fn bench(test: &str) -> Option<Bench> {
    let opened = [Wanted::Software, Wanted::Gpu].map(|wanted| Bench::on(wanted, 0).unwrap());
    let bench = opened.into_iter().find(|bench| bench.name() == "wgpu");
    if bench.is_none() {
        println!("SKIPPED {test}: no Vulkan adapter");
    }
    bench
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn unit(&mut self) -> f32 {
        (self.next() & 0xffff) as f32 / 65_535.0
    }

    /// A frame's bytes; samples of 10 bits stay below 1024.
    fn bytes(&mut self, format: Format) -> Vec<u8> {
        let ten = matches!(format.layout, Layout::Yuv { depth: Depth::Ten, .. });
        let byte = |(at, value): (usize, u32)| if ten && at % 2 == 1 { value as u8 & 3 } else { value as u8 };
        (0..format.bytes()).map(|at| byte((at, self.next()))).collect()
    }

    fn frame(&mut self, width: usize, height: usize) -> Arc<Frame> {
        let data = (0..width * height).map(|_| [self.unit(), self.unit(), self.unit(), self.unit()]).collect();
        Arc::new(Frame { width, height, data })
    }
}

/// Follows the recipe in both ways. Samples differ by `allowed` at most.
fn agree(bench: &Bench, recipe: &Recipe, random: &mut Random, allowed: i32) {
    let from = random.bytes(recipe.from);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    let mut on_gpu = bench.chain(recipe.clone()).unwrap();
    assert_eq!(on_gpu.name(), "wgpu");
    let mut on_cpu = Bench::cpu().chain(recipe.clone()).unwrap();
    for number in [0, 5] {
        on_gpu.run(&from, number, &mut ours).unwrap();
        on_cpu.run(&from, number, &mut theirs).unwrap();
        assert_eq!(ours.len(), theirs.len());
        let wide = matches!(recipe.to.layout, Layout::Rgba16 | Layout::Yuv { depth: Depth::Ten, .. });
        let samples = |bytes: &[u8]| -> Vec<i32> {
            let pair = |pair: &[u8]| i32::from(u16::from_le_bytes([pair[0], pair[1]]));
            if wide { bytes.chunks(2).map(pair).collect() } else { bytes.iter().map(|b| i32::from(*b)).collect() }
        };
        let pairs = samples(&ours).into_iter().zip(samples(&theirs));
        let (at, off) = pairs.enumerate().map(|(at, (a, b))| (at, (a - b).abs())).max_by_key(|(_, off)| *off).unwrap();
        assert!(off <= allowed, "sample {at} is off by {off} in {recipe:?}");
    }
}

#[test]
fn every_format_is_read_and_written_alike() {
    let Some(bench) = bench("every_format_is_read_and_written_alike") else { return };
    let mut random = Random(1);
    let mut layouts = vec![Layout::Rgba8, Layout::Rgba16];
    for matrix in [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020] {
        for range in [Range::Limited, Range::Full] {
            for sampling in [Sampling::Yuv420, Sampling::Yuv422, Sampling::Yuv444] {
                for depth in [Depth::Eight, Depth::Ten] {
                    layouts.push(Layout::Yuv { matrix, range, sampling, depth });
                }
            }
        }
    }
    for (at, layout) in layouts.iter().enumerate() {
        let (width, height) = (3 + at % 7, 2 + at % 5);
        let rgba = Format { width, height, layout: Layout::Rgba16 };
        let own = Format { layout: *layout, ..rgba };
        agree(&bench, &Recipe { from: own, steps: vec![], to: rgba }, &mut random, 1);
        let to = Format { width: width + 1, ..own };
        agree(&bench, &Recipe { from: rgba, steps: vec![], to }, &mut random, 1);
    }
}

#[test]
fn every_step_agrees() {
    let Some(bench) = bench("every_step_agrees") else { return };
    let mut random = Random(2);
    let (width, height) = (37, 23);
    let from = Format { width, height, layout: Layout::Rgba16 };
    let mut cube = String::from("LUT_3D_SIZE 5\nDOMAIN_MIN -0.1 0 0\nDOMAIN_MAX 1 1.2 1\n");
    for _ in 0..125 {
        cube.push_str(&format!("{} {} {}\n", random.unit(), random.unit(), random.unit()));
    }
    let lut = Arc::new(Lut::read(cube.as_bytes()).unwrap());
    let grain = Grain { strength: 0.1, size: 1.0, seed: 77, is_grey: false };
    let tone = ToneMap::default();
    let picture = random.frame(width, height);
    // Powers with large exponents lose a few of 16 bits on a GPU; all else keeps them.
    for (step, allowed) in [
        (Step::ToneMap(tone), 60),
        (Step::ToneMap(ToneMap { curve: Curve::Hlg, display: Display::Srgb, ..tone }), 60),
        (Step::ToneMap(ToneMap { peak_nits: 4000.0, white_nits: 100.0, ..tone }), 60),
        (Step::Lut(lut), 4),
        (Step::Resize { width: 80, height: 9 }, 8),
        (Step::Resize { width: 5, height: 60 }, 8),
        (Step::Grain(grain), 4),
        (Step::Grain(Grain { size: 2.7, is_grey: true, ..grain }), 4),
        (Step::Over(Over { picture: random.frame(20, 30), left: -4, top: 7, opacity: 0.7 }), 4),
        (Step::Difference(Difference { picture, gain: 2.0 }), 4),
    ] {
        let to = match step {
            Step::Resize { width, height } => Format { width, height, ..from },
            _ => from,
        };
        agree(&bench, &Recipe { from, steps: vec![step], to }, &mut random, allowed);
    }
}

#[test]
fn steps_work_one_after_the_other() {
    let Some(bench) = bench("steps_work_one_after_the_other") else { return };
    let mut random = Random(3);
    let yuv = |matrix, depth| Layout::Yuv { matrix, range: Range::Limited, sampling: Sampling::Yuv420, depth };
    let from = Format { width: 64, height: 36, layout: yuv(Matrix::Bt2020, Depth::Ten) };
    let to = Format { width: 34, height: 20, layout: yuv(Matrix::Bt709, Depth::Eight) };
    let steps = vec![
        Step::ToneMap(ToneMap::default()),
        Step::Resize { width: 33, height: 19 },
        Step::Over(Over { picture: random.frame(8, 8), left: 20, top: 2, opacity: 1.0 }),
        Step::Grain(Grain { strength: 0.05, size: 1.5, seed: 1, is_grey: true }),
    ];
    agree(&bench, &Recipe { from, steps, to }, &mut random, 2);
}

#[test]
fn a_frame_that_no_shader_could_see_is_worked_on_by_the_cpu() {
    let Some(bench) = bench("a_frame_that_no_shader_could_see_is_worked_on_by_the_cpu") else { return };
    // 35 million pixels are 566 MB between the steps: more than software Vulkan shows, and fine where it is not.
    let from = Format::rgba8(8192, 4320);
    assert!(bench.chain(Recipe { from, steps: vec![], to: from }).is_ok());
}

#[test]
fn a_recipe_that_makes_no_sense_is_refused_before_anything_is_made() {
    let from = Format::rgba8(10, 10);
    for (recipe, words) in [
        (Recipe { from: Format::rgba8(0, 10), steps: vec![], to: from }, "0 x 10"),
        (Recipe { from, steps: vec![], to: Format::rgba8(12, 10) }, "do not become 12 x 10"),
        (
            Recipe { from, steps: vec![Step::Resize { width: 100_000, height: 1 }], to: from },
            "operation 0: a size of 100000",
        ),
        (
            Recipe {
                from,
                steps: vec![Step::Grain(Grain { strength: f32::NAN, size: 1.0, seed: 0, is_grey: false })],
                to: from,
            },
            "a strength of NaN",
        ),
        (Recipe { from, steps: vec![Step::ToneMap(ToneMap::default()); 33], to: from }, "33 operations"),
    ] {
        let error = Bench::cpu().chain(recipe).err().unwrap().to_string();
        assert!(error.contains(words), "{error}");
    }
    let mut chain = Bench::cpu().chain(Recipe { from, steps: vec![], to: from }).unwrap();
    assert!(
        chain.run(&[0; 3], 0, &mut Vec::new()).unwrap_err().to_string().contains("3 bytes given for a frame of 400")
    );
}
