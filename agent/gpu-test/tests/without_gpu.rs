//! The CUDA executor without a GPU: its lowering, its memory and its kernels' logic, against the CPU executor.
//!
//! The kernels are the very sources that are compiled to PTX. What this cannot prove is said in the emulator.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

mod emulated;
#[path = "../../tests/ops/mod.rs"]
mod ops;
#[path = "../src/pipelines.rs"]
mod pipelines;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::cuda::{Cuda, Precision};
use backlot_agent::infer::executor::{ExecError, Executor, Input};
use backlot_agent::infer::graph::{Activation, Graph, Op, Pad, TensorType};
use backlot_agent::infer::weights::{self, Weights};
use emulated::Emulated;
use half::f16;
use ops::{Case, Kind, Random, Tensor};
use pipelines::{Form, Size};

const MEMORY_BYTES: usize = 256 << 20;

fn cpu() -> Cpu {
    Cpu::new(2, MEMORY_BYTES).unwrap()
}

fn cuda(architecture: u32, precision: Precision) -> Cuda {
    Cuda::on(Arc::new(Emulated::new(architecture, MEMORY_BYTES)), precision)
}

/// What a half keeps of it, so that the input's own rounding is no part of the difference.
fn rounded(mut case: Case) -> Case {
    for input in &mut case.inputs {
        input.data.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
    }
    case
}

fn compare(cuda: &Cuda, case: &Case, tolerance: f32, what: &str) {
    let wanted = ops::run(&cpu(), case);
    let made = ops::run(cuda, case);
    assert_eq!(made.len(), wanted.len());
    for (made, wanted) in made.iter().zip(&wanted) {
        let off = ops::off(made, wanted);
        assert!(off <= tolerance, "{what} is off by {off}: {:?}", case.graph.nodes());
    }
}

fn every_operation(architecture: u32, precision: Precision, seeds: std::ops::Range<u64>) {
    let cuda = cuda(architecture, precision);
    for seed in seeds {
        for kind in ops::ALL {
            let case = rounded(ops::case(kind, seed));
            let tolerance = match (precision, kind) {
                // Half a digit of a half for each sum of products; weights are rounded too.
                (Precision::Half, _) => 3e-3,
                (Precision::Single, Kind::TimeEmbedding) => 3e-4,
                (Precision::Single, Kind::Conv) => 4e-4, // Winograd's, on the other side
                (Precision::Single, _) => 3e-5,
            };
            compare(&cuda, &case, tolerance, &format!("{kind:?} of seed {seed}"));
        }
    }
}

#[test]
fn every_operation_in_halves_is_what_the_cpu_makes() {
    every_operation(800, Precision::Half, 0..12);
}

#[test]
fn every_operation_in_halves_on_turing_is_what_the_cpu_makes() {
    every_operation(750, Precision::Half, 100..106);
}

#[test]
fn every_operation_in_floats_is_what_the_cpu_makes() {
    every_operation(800, Precision::Single, 200..212);
}

fn convolution(
    random: &mut Random,
    sides: [usize; 2],
    channels: usize,
    outputs: usize,
    [lines, columns]: [usize; 2],
    stride: usize,
) -> Case {
    let mut graph = Graph::new();
    let input = graph.input();
    let weight = graph.weight("w", &[outputs, channels, lines, columns]);
    let bias = Some(graph.weight("b", &[outputs]));
    let slopes = graph.weight("s", &[outputs]);
    let activation = Some(Activation::Prelu { slopes });
    let op = Op::Conv2d { weight, bias, stride, pad: Pad::Same, activation };
    let end = graph.push("conv", op, &[input]);
    graph.output(end);
    let mut w = random.tensor(&[outputs, channels, lines, columns]);
    let scale = 1.0 / (channels as f32).sqrt();
    w.data.iter_mut().for_each(|value| *value *= scale);
    let (b, s) = (random.tensor(&[outputs]), random.tensor(&[outputs]));
    let weights = ops::weights(&[("w", &w), ("b", &b), ("s", &s)]);
    let inputs = vec![random.tensor(&[1, sides[0], sides[1], channels])];
    rounded(Case { graph, weights, inputs })
}

#[test]
fn every_tile_of_the_convolution_covers_its_edges() {
    // Pixels and outputs around each tile's sides, channels around the depth of a step, with each kind of kernel.
    let mut random = Random::new(7);
    for (architecture, multiprocessors) in [(750, 1), (800, 1), (750, 1000), (800, 1000)] {
        let device = Emulated::new(architecture, MEMORY_BYTES).with_multiprocessors(multiprocessors);
        let cuda = Cuda::on(Arc::new(device), Precision::Half);
        for (sides, channels, outputs, kernel, stride) in [
            ([9, 15], 8, 8, [3, 3], 1),     // 64x64: 135 pixels, one step is four taps
            ([5, 13], 40, 65, [3, 3], 2),   // a step is cut by a tap's end
            ([33, 17], 32, 64, [3, 3], 1),  // 128x64
            ([30, 31], 24, 130, [3, 3], 1), // 128x128, the last tile two outputs wide
            ([23, 23], 64, 256, [1, 1], 2), // 1x1 with stride
            ([20, 20], 3, 64, [3, 3], 1),   // a picture
            ([12, 11], 12, 5, [3, 3], 1),   // odd outputs
            ([1, 1], 16, 16, [3, 3], 1),    // nothing but edges
            ([7, 40], 32, 64, [3, 1], 1),   // lines alone: frames
            ([5, 90], 40, 130, [3, 1], 1),
            ([3, 33], 3, 3, [3, 1], 1),
        ] {
            let case = convolution(&mut random, sides, channels, outputs, kernel, stride);
            compare(&cuda, &case, 3e-3, &format!("{sides:?} {channels} to {outputs}"));
        }
    }
}

#[test]
fn attention_of_every_head_size_and_length_is_what_the_cpu_makes() {
    let mut random = Random::new(11);
    for architecture in [750, 800] {
        let cuda = cuda(architecture, Precision::Half);
        for (size, queries, keys, causal) in [
            (8, 1, 1, false),
            (40, 65, 77, false),
            (40, 129, 129, true),
            (64, 77, 77, true),
            (64, 200, 64, false),
            (80, 130, 65, false),
            (128, 70, 190, false),
            (160, 64, 128, true),
            (160, 150, 63, false),
            (512, 20, 20, false),
        ] {
            let queries = if causal { keys } else { queries };
            let mut graph = Graph::new();
            let inputs = [graph.input(), graph.input(), graph.input()];
            let end = graph.push("attention", Op::Attention { heads: 2, causal }, &inputs);
            graph.output(end);
            let mut query = random.tensor(&[2, queries, 2 * size]);
            query.data.iter_mut().for_each(|value| *value *= 4.0);
            let inputs = vec![query, random.tensor(&[2, keys, 2 * size]), random.tensor(&[2, keys, 2 * size])];
            let case = rounded(Case { graph, weights: Default::default(), inputs });
            compare(&cuda, &case, 3e-3, &format!("heads of {size}, {queries} to {keys}, causal {causal}"));
        }
    }
}

#[test]
fn group_norm_keeps_its_digits_far_from_zero_and_over_many_parts() {
    let mut random = Random::new(13);
    for (precision, tolerance) in [(Precision::Half, 3e-3), (Precision::Single, 2e-4)] {
        let cuda = cuda(800, precision);
        for (sides, channels, groups, mean) in
            [([40, 41], 320, 32, 0.0), ([64, 70], 20, 4, 100.0), ([3, 3], 2560, 32, 1.0)]
        {
            let mut graph = Graph::new();
            let input = graph.input();
            let (weight, bias) = (graph.weight("w", &[channels]), graph.weight("b", &[channels]));
            let op = Op::GroupNorm { groups, weight, bias, epsilon: 1e-5, silu: true };
            let end = graph.push("norm", op, &[input]);
            graph.output(end);
            let (w, b) = (random.tensor(&[channels]), random.tensor(&[channels]));
            let mut x = random.tensor(&[2, sides[0], sides[1], channels]);
            x.data.iter_mut().for_each(|value| *value = *value * 4.0 + mean);
            let weights = ops::weights(&[("w", &w), ("b", &b)]);
            let case = rounded(Case { graph, weights, inputs: vec![x] });
            compare(&cuda, &case, tolerance, &format!("{channels} channels about {mean}"));
        }
    }
}

/// A few layers as a UNet has them.
fn block() -> Case {
    let mut random = Random::new(3);
    let mut graph = Graph::new();
    let (picture, time) = (graph.input(), graph.input());
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    let mut weight = |graph: &mut Graph, name: &str, shape: &[usize]| {
        let mut tensor = random.tensor(shape);
        let inner: usize = shape[1..].iter().product();
        tensor.data.iter_mut().for_each(|value| *value /= (inner as f32).sqrt());
        tensors.push((name.to_owned(), tensor));
        graph.weight(name, shape)
    };
    let conv = |weight, bias| Op::Conv2d { weight, bias: Some(bias), stride: 1, pad: Pad::Same, activation: None };
    let (w, b) = (weight(&mut graph, "in.w", &[32, 4, 3, 3]), weight(&mut graph, "in.b", &[32]));
    let begin = graph.push("in", conv(w, b), &[picture]);
    let moment = graph.push("time", Op::TimeEmbedding { channels: 16, flip: true, shift: 0.0 }, &[time]);
    let (w, b) = (weight(&mut graph, "t.w", &[32, 16]), weight(&mut graph, "t.b", &[32]));
    let moment = graph.push("t", Op::Linear { weight: w, bias: Some(b) }, &[moment]);
    let (w, b) = (weight(&mut graph, "n.w", &[32]), weight(&mut graph, "n.b", &[32]));
    let normed = graph.push("n", Op::GroupNorm { groups: 8, weight: w, bias: b, epsilon: 1e-5, silu: false }, &[begin]);
    let bent = graph.push("s", Op::Activate(Activation::Silu), &[normed]);
    let (w, b) = (weight(&mut graph, "c.w", &[32, 32, 3, 3]), weight(&mut graph, "c.b", &[32]));
    let made = graph.push("c", conv(w, b), &[bent]);
    let made = graph.push("a", Op::AddChannels, &[made, moment]);
    let made = graph.push("r", Op::Add, &[made, begin]);
    let projections = ["q", "k", "v"].map(|name| {
        let weight = weight(&mut graph, name, &[32, 32]);
        graph.push(name, Op::Linear { weight, bias: None }, &[made])
    });
    let mixed = graph.push("attention", Op::Attention { heads: 4, causal: false }, &projections);
    let (w, b) = (weight(&mut graph, "g.w", &[128, 32]), weight(&mut graph, "g.b", &[128]));
    let wide = graph.push("g", Op::Linear { weight: w, bias: Some(b) }, &[mixed]);
    let gated = graph.push("geglu", Op::Geglu, &[wide]);
    graph.output(gated);
    graph.output(made);
    let tensors: Vec<(&str, &Tensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let inputs = vec![random_picture(), Tensor { shape: vec![2], data: vec![999.0, 0.25] }];
    rounded(Case { weights: ops::weights(&tensors), graph: graph.fuse(), inputs })
}

fn random_picture() -> Tensor {
    Random::new(5).tensor(&[2, 9, 7, 4])
}

#[test]
fn a_block_of_layers_comes_out_right_the_first_time_and_when_it_is_recorded() {
    let case = block();
    let wanted = ops::run(&cpu(), &case);
    let cuda = cuda(800, Precision::Half);
    let mut program = cuda.load(case.graph.clone(), &case.weights).unwrap();
    for run in 0..4 {
        let inputs: Vec<_> = case.inputs.iter().map(|t| Input { shape: &t.shape, data: &t.data }).collect();
        let made = program.run(&inputs, &AtomicBool::new(false), &mut |_, _| {}).unwrap();
        for (made, wanted) in made.iter().zip(&wanted) {
            let made = Tensor { shape: made.shape.clone(), data: made.data.to_vec() };
            let off = ops::off(&made, wanted);
            assert!(off < 5e-3, "run {run} is off by {off}");
        }
        if run == 2 {
            // Another shape between, and back.
            let other = Tensor { shape: vec![1, 4, 4, 4], data: vec![0.5; 64] };
            let inputs = [(&other.shape[..], &other.data[..]), (&[1], &[1.0])];
            let inputs = inputs.map(|(shape, data)| Input { shape, data });
            program.run(&inputs, &AtomicBool::new(false), &mut |_, _| {}).unwrap();
        }
    }
}

#[test]
fn the_networks_of_stable_diffusion_come_out_as_on_the_cpu() {
    let cases = [
        ("text encoder", pipelines::text_case().unwrap()),
        ("UNet", pipelines::unet_case(Form::Sd15, Size::Tiny, [8, 8]).unwrap()),
        ("UNet with motion modules", pipelines::clip_case(Size::Tiny, [8, 8]).unwrap()),
        ("UNet of SDXL", pipelines::unet_case(Form::Sdxl, Size::Tiny, [8, 4]).unwrap()),
        ("decoder", pipelines::decoder_case(Size::Tiny, [4, 6]).unwrap()),
        ("picture encoder", pipelines::vision_case().unwrap()),
        ("UNet of Stable Video Diffusion", pipelines::video_case(Size::Tiny, [8, 4]).unwrap()),
        ("decoder of frames", pipelines::frames_case(Size::Tiny, [4, 6]).unwrap()),
    ];
    for (name, case) in cases {
        compare(&cuda(800, Precision::Half), &case, 2e-2, name);
        compare(&cuda(800, Precision::Single), &case, 1e-3, name);
    }
}

#[test]
fn weights_that_a_file_keeps_in_halves_come_out_as_those_that_it_keeps_in_floats() {
    let mut random = Random::new(19);
    let mut halves = |shape: &[usize]| {
        let mut tensor = random.tensor(shape);
        tensor.data.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
        tensor
    };
    let (w, b) = (halves(&[24, 12, 3, 3]), halves(&[24]));
    let stored = |stored| {
        let mut weights = Weights::default();
        weights.put("w", weights::Tensor::stored_as(stored, &w.shape, &w.data));
        weights.put("b", weights::Tensor::stored_as(stored, &b.shape, &b.data));
        weights
    };
    let mut graph = Graph::new();
    let input = graph.input();
    let (weight, bias) = (graph.weight("w", &w.shape), Some(graph.weight("b", &b.shape)));
    let op = Op::Conv2d { weight, bias, stride: 1, pad: Pad::Same, activation: None };
    let end = graph.push("conv", op, &[input]);
    graph.output(end);
    let inputs = vec![random.tensor(&[1, 5, 6, 12])];
    let cuda = cuda(800, Precision::Half);
    let made = [weights::Stored::F16, weights::Stored::F32]
        .map(|kept| ops::run(&cuda, &Case { graph: graph.clone(), weights: stored(kept), inputs: inputs.clone() }));
    assert_eq!(made[0], made[1]);
}

#[test]
fn a_graph_whose_values_overflow_a_half_runs_in_floats() {
    let mut graph = Graph::new();
    let input = graph.input();
    let large = graph.push("up", Op::Scale { factor: 1e6 }, &[input]);
    let end = graph.push("down", Op::Scale { factor: 1e-6 }, &[large]);
    graph.output(end);
    let inputs = vec![Tensor { shape: vec![1, 3], data: vec![1.0, -2.0, 0.5] }];
    let case = Case { graph: graph.clone().with_f32(true), weights: Default::default(), inputs };
    compare(&cuda(800, Precision::Half), &case, 1e-6, "a graph that needs floats");
    let made = ops::run(&cuda(800, Precision::Half), &Case { graph, ..case });
    assert!(made[0].data.iter().all(|value| value.is_infinite()), "in halves it does overflow: {made:?}");
}

#[test]
fn networks_of_real_size_are_lowered_and_say_what_they_need() {
    // Nothing is computed: the plan and the commands are made for shapes that no test machine runs.
    let case = pipelines::decoder_case(Size::Tiny, [4, 6]).unwrap();
    let program = cuda(800, Precision::Half).load(case.graph, &case.weights).unwrap();
    let Err(ExecError::Memory { needed_bytes, .. }) = program.check(&[TensorType::f32(&[1, 512, 512, 4])]) else {
        panic!("a picture of 4096x4096 fits into 256 MiB")
    };
    assert!(needed_bytes > 1 << 30, "{needed_bytes}");
}

#[test]
fn a_run_that_is_cancelled_stops_between_commands_and_can_run_again() {
    let case = block();
    let mut program = cuda(800, Precision::Half).load(case.graph.clone(), &case.weights).unwrap();
    let inputs: Vec<_> = case.inputs.iter().map(|t| Input { shape: &t.shape, data: &t.data }).collect();
    let (cancel, mut last) = (AtomicBool::new(false), 0);
    let ended = program.run(&inputs, &cancel, &mut |done, _| {
        last = done;
        cancel.store(done == 3, Ordering::Relaxed);
    });
    assert!(matches!(ended, Err(ExecError::Cancelled)) && last == 3, "{last}");
    cancel.store(false, Ordering::Relaxed);
    program.run(&inputs, &cancel, &mut |done, all| assert!(done <= all)).unwrap();
}

#[test]
fn too_little_memory_is_refused_with_what_is_needed_and_what_is_there() {
    let device = Arc::new(Emulated::new(800, 4 << 20));
    let case = block();
    let mut program = Cuda::on(device.clone(), Precision::Half).load(case.graph.clone(), &case.weights).unwrap();
    let held = device.held_bytes();
    let large = [TensorType::f32(&[1, 512, 512, 4]), TensorType::f32(&[1])];
    let Err(ExecError::Memory { needed_bytes, allowed_bytes }) = program.check(&large) else { panic!("has room") };
    assert!(needed_bytes > allowed_bytes && needed_bytes > 512 * 512 * 32 * 2);
    let data = vec![0.0; 512 * 512 * 4];
    let inputs = [Input { shape: &[1, 512, 512, 4], data: &data }, Input { shape: &[1], data: &[1.0] }];
    let ended = program.run(&inputs, &AtomicBool::new(false), &mut |_, _| {});
    let Err(ExecError::DeviceMemory { problem, .. }) = ended else { panic!("was taken") };
    assert!(problem.contains("bytes are free") && problem.contains("largest piece"), "{problem}");
    assert_eq!(device.held_bytes(), held, "what failed holds nothing");
    let inputs = [Input { shape: &[1, 4, 4, 4], data: &[0.1; 64] }, Input { shape: &[1], data: &[1.0] }];
    program.run(&inputs, &AtomicBool::new(false), &mut |_, _| {}).unwrap();
    drop(program);
    assert_eq!(device.held_bytes(), 0);
}

#[test]
fn numbers_of_rows_are_looked_at_before_the_device_sees_them() {
    let case = ops::case(Kind::Embedding, 1);
    let mut program = cuda(800, Precision::Half).load(case.graph, &case.weights).unwrap();
    for number in [-1.0, 0.5, 1e9, f32::NAN, f32::INFINITY] {
        let input = [Input { shape: &[1, 1], data: &[number] }];
        let ended = program.run(&input, &AtomicBool::new(false), &mut |_, _| {});
        let Err(ExecError::Compute { problem, .. }) = ended else { panic!("{number} was taken") };
        assert!(problem.contains(&number.to_string()), "{problem}");
    }
}

#[test]
fn rows_beyond_what_a_half_counts_are_found_all_the_same() {
    // 2049 and 65535 are no halves, or not those numbers.
    let mut graph = Graph::new();
    let input = graph.input();
    let weight = graph.weight("w", &[70_000, 2]);
    let end = graph.push("embedding", Op::Embedding { weight }, &[input]);
    graph.output(end);
    let table: Vec<f32> = (0..140_000).map(|i| (i % 2000) as f32).collect();
    let table = Tensor { shape: vec![70_000, 2], data: table };
    let inputs = vec![Tensor { shape: vec![1, 3], data: vec![2049.0, 65_535.0, 69_999.0] }];
    let case = Case { graph, weights: ops::weights(&[("w", &table)]), inputs };
    compare(&cuda(800, Precision::Half), &case, 0.0, "an embedding");
}

#[test]
fn a_weight_that_no_half_holds_is_refused_by_its_name() {
    let mut graph = Graph::new();
    let input = graph.input();
    let weight = graph.weight("too.large", &[1, 1]);
    let end = graph.push("linear", Op::Linear { weight, bias: None }, &[input]);
    graph.output(end);
    let weights = ops::weights(&[("too.large", &Tensor { shape: vec![1, 1], data: vec![1e6] })]);
    let Err(error) = cuda(800, Precision::Half).load(graph.clone(), &weights) else { panic!("was taken") };
    assert!(error.to_string().contains("too.large") && error.to_string().contains("1000000"), "{error}");
    assert!(cuda(800, Precision::Single).load(graph, &weights).is_ok());
}
