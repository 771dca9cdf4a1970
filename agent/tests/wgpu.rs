//! The wgpu executor against the CPU executor: each operation over random shapes, in f32 and in f16.
//!
//! They run on any software Vulkan driver (Mesa's lavapipe). Where there is no adapter at all they say so by name.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

mod models;
mod ops;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use backlot_agent::infer::choice::{Precision, Wish};
use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::executor::{ExecError, Executor, Input};
use backlot_agent::infer::graph::{Activation, Graph, Op, Pad, TensorType};
use backlot_agent::infer::models::{Table, upscale};
use backlot_agent::infer::weights::Weights;
use backlot_agent::infer::wgpu::device::Wanted;
use backlot_agent::infer::wgpu::{Options, Wgpu};
use backlot_agent::infer::{Context, Engine, EngineOptions, Report, Task};
use ops::{Case, Kind, Random, Tensor};

const ARENA_BYTES_MAX: usize = 64 << 20;

fn cpu() -> Cpu {
    Cpu::new(2, ARENA_BYTES_MAX).unwrap()
}

fn open(precision: Precision) -> Result<Wgpu, String> {
    let open = |adapter| Wgpu::new(Options { adapter, gpu: 0, precision, arena_bytes_max: ARENA_BYTES_MAX });
    open(Wanted::Software).or_else(|_| open(Wanted::Gpu)).map_err(|error| error.to_string())
}

/// The executors that this host can have: f32, and f16 where the adapter has it. Empty: there is no adapter.
fn executors(test: &str) -> &'static [Wgpu] {
    static OPENED: OnceLock<Vec<Wgpu>> = OnceLock::new();
    let opened = OPENED.get_or_init(|| {
        [Precision::F32, Precision::F16].into_iter().filter_map(|precision| open(precision).ok()).collect()
    });
    if opened.is_empty() {
        println!("SKIPPED {test}: no Vulkan adapter");
    }
    opened
}

/// Runs the case on the CPU and on each executor. `allowed` is for f32; f16 keeps three digits of each value. What
/// f16 cannot hold of the inputs is taken from them first: it is not the operation's fault.
fn agree(test: &str, case: &Case, allowed: f32) {
    for executor in executors(test) {
        let (f16, mut case) = (executor.is_f16(), case.clone());
        let by_number = matches!(case.graph.nodes()[0].op, Op::Embedding { .. } | Op::TimeEmbedding { .. });
        if f16 && !by_number {
            let values = case.inputs.iter_mut().flat_map(|input| &mut input.data);
            values.for_each(|value| *value = half::f16::from_f32(*value).to_f32());
        }
        let (ours, theirs) = (ops::run(executor, &case), ops::run(&cpu(), &case));
        // A deep network rounds many times.
        let of_f16 = if case.graph.nodes().len() > 2 { 2e-2 } else { 5e-3 };
        let allowed = if f16 { of_f16 } else { allowed };
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let off = ops::off(ours, theirs);
            let node = &case.graph.nodes()[0];
            assert!(off <= allowed, "{test}, f16 {f16}: off by {off} in {node:?} of {:?}", case.inputs[0].shape);
        }
    }
}

#[test]
fn every_operation_agrees_with_the_cpu_over_random_shapes() {
    for kind in ops::ALL {
        for seed in 0..6 {
            let allowed = match kind {
                // What only moves values changes none of them.
                Kind::Concat | Kind::Split | Kind::Reshape | Kind::Transpose | Kind::Upsample | Kind::Shuffle => 0.0,
                Kind::Cast | Kind::Embedding | Kind::TimeEmbedding => 0.0,
                // Winograd's form on the CPU costs two digits.
                Kind::Conv => 4e-4,
                _ => 2e-5,
            };
            agree(&format!("{kind:?} with seed {seed}"), &ops::case(kind, seed), allowed);
        }
    }
}

/// A convolution or a linear layer of these sizes with an activation.
fn product(random: &mut Random, shape: &[usize], outputs: usize, side: usize, activation: usize) -> Case {
    let channels = *shape.last().unwrap();
    let mut graph = Graph::new();
    let input = graph.input();
    let (w_shape, op);
    if let [_, _, _, _] = shape {
        w_shape = vec![outputs, channels, side, side];
        let (weight, bias) = (graph.weight("w", &w_shape), Some(graph.weight("b", &[outputs])));
        op = Op::Conv2d { weight, bias, stride: 1, pad: Pad::Same, activation: None };
    } else {
        w_shape = vec![outputs, channels];
        op = Op::Linear { weight: graph.weight("w", &w_shape), bias: Some(graph.weight("b", &[outputs])) };
    }
    let slopes = graph.weight("slopes", &[outputs]);
    let activation =
        [Activation::Relu, Activation::LeakyRelu { slope: 0.2 }, Activation::Prelu { slopes }, Activation::Silu]
            [activation % 4];
    let end = graph.push("product", op, &[input]);
    let end = graph.push("bend", Op::Activate(activation), &[end]);
    graph.output(end);
    let (w, b, s) = (random.tensor(&w_shape), random.tensor(&[outputs]), random.tensor(&[outputs]));
    let weights = ops::weights(&[("w", &w), ("b", &b), ("slopes", &s)]);
    Case { graph: graph.fuse(), weights, inputs: vec![random.tensor(shape)] }
}

#[test]
fn products_agree_in_tiles_of_every_form() {
    let mut random = Random::new(7);
    for (at, (shape, outputs, side)) in [
        (vec![1, 13, 17, 5], 12, 3),   // narrow
        (vec![2, 12, 11, 8], 23, 3),   // slim
        (vec![1, 9, 30, 36], 70, 3),   // square, and columns left over
        (vec![1, 200, 171, 4], 64, 1), // large: many rows
        (vec![1, 4, 4, 4], 16_388, 1), // many columns
        (vec![1, 77, 70], 66, 1),
        (vec![3, 130, 33], 130, 1),
    ]
    .into_iter()
    .enumerate()
    {
        agree("products_agree_in_tiles_of_every_form", &product(&mut random, &shape, outputs, side, at), 4e-4);
    }
}

/// Enough work for several parts: `length` convolutions in a row.
fn deep(length: usize) -> (Graph, Weights) {
    let mut graph = Graph::new();
    let mut value = graph.input();
    for i in 0..length {
        let weight = graph.weight("w", &[32, 32, 3, 3]);
        let op = Op::Conv2d { weight, bias: None, stride: 1, pad: Pad::Same, activation: None };
        value = graph.push(format!("conv {i}"), op, &[value]);
    }
    graph.output(value);
    let mut w = Random::new(5).tensor(&[32, 32, 3, 3]);
    w.data.iter_mut().for_each(|value| *value *= 0.1);
    (graph, ops::weights(&[("w", &w)]))
}

#[test]
fn a_cancelled_run_stops_between_parts_and_can_run_again() {
    let Some(executor) = executors("a_cancelled_run_stops_between_parts_and_can_run_again").first() else { return };
    let (graph, weights) = deep(6);
    let mut program = executor.load(graph, &weights).unwrap();
    let shape = [1, 128, 128, 32]; // 150 million multiplications each
    let x = Random::new(1).tensor(&shape).data;
    let (cancel, mut steps) = (AtomicBool::new(false), 0);
    let input = [Input { shape: &shape, data: &x }];
    let ended = program.run(&input, &cancel, &mut |done, _| {
        steps = done;
        cancel.store(true, Ordering::Relaxed);
    });
    assert!(matches!(ended, Err(ExecError::Cancelled)));
    assert!((1..6).contains(&steps), "{steps}");
    cancel.store(false, Ordering::Relaxed);
    let made = program.run(&input, &cancel, &mut |_, _| {}).unwrap().remove(0).data.to_vec();
    let again = program.run(&input, &cancel, &mut |_, _| {}).unwrap();
    assert_eq!(made, again[0].data);
}

#[test]
fn one_program_takes_one_shape_after_the_other() {
    let test = "one_program_takes_one_shape_after_the_other";
    let (graph, weights) = deep(2);
    let mut oracle = cpu().load(graph.clone(), &weights).unwrap();
    for executor in executors(test) {
        let mut program = executor.load(graph.clone(), &weights).unwrap();
        for side in [9, 3, 12, 3] {
            let shape = [1, side, side, 32];
            let x = Random::new(side as u64).tensor(&shape).data;
            let input = [Input { shape: &shape, data: &x }];
            let ours = program.run(&input, &AtomicBool::new(false), &mut |_, _| {}).unwrap().remove(0).data.to_vec();
            let theirs = oracle.run(&input, &AtomicBool::new(false), &mut |_, _| {}).unwrap();
            let off = ours.iter().zip(theirs[0].data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(off < 5e-2, "{off}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers_before_it_is_taken() {
    let Some(executor) = executors("what_does_not_fit_is_refused").first() else { return };
    let (graph, weights) = deep(1);
    let program = executor.load(graph, &weights).unwrap();
    let types = [TensorType::f32(&[1, 8192, 8192, 32])];
    match program.check(&types) {
        Err(ExecError::Memory { needed_bytes, allowed_bytes }) => {
            assert!(needed_bytes == program.plan(&types).unwrap().peak_bytes() && allowed_bytes <= ARENA_BYTES_MAX);
        }
        other => panic!("{other:?}"),
    }
    assert!(program.check(&[TensorType::f32(&[1, 64, 64, 32])]).is_ok());
}

#[test]
fn a_number_that_no_row_of_an_embedding_has_is_a_fault_with_the_number() {
    let Some(executor) = executors("a_number_that_no_row_of_an_embedding_has").first() else { return };
    let case = ops::case(Kind::Embedding, 1);
    let mut program = executor.load(case.graph, &case.weights).unwrap();
    for number in [-1.0, 0.5, 1e9, f32::NAN, f32::INFINITY] {
        let input = [Input { shape: &[1, 1], data: &[number] }];
        let ended = program.run(&input, &AtomicBool::new(false), &mut |_, _| {});
        let Err(ExecError::Compute { problem, .. }) = ended else { panic!("{number} was taken") };
        assert!(problem.contains(&number.to_string()), "{problem}");
    }
}

#[test]
fn a_weight_that_f16_cannot_hold_is_refused_by_its_name() {
    let Some(executor) = executors("a_weight_that_f16_cannot_hold").iter().find(|executor| executor.is_f16()) else {
        println!("SKIPPED a_weight_that_f16_cannot_hold_is_refused_by_its_name: no adapter with f16");
        return;
    };
    let mut graph = Graph::new();
    let input = graph.input();
    let weight = graph.weight("huge", &[1, 1]);
    let end = graph.push("linear", Op::Linear { weight, bias: None }, &[input]);
    graph.output(end);
    let weights = ops::weights(&[("huge", &Tensor { shape: vec![1, 1], data: vec![70_000.0] })]);
    let error = executor.load(graph, &weights).err().unwrap().to_string();
    assert!(error.contains("`huge`") && error.contains("70000"), "{error}");
}

#[test]
fn a_graph_that_overflows_f16_is_kept_in_f32() {
    for executor in executors("a_graph_that_overflows_f16_is_kept_in_f32") {
        let mut graph = Graph::new();
        let input = graph.input();
        let large = graph.push("large", Op::Scale { factor: 1e5 }, &[input]);
        let back = graph.push("back", Op::Scale { factor: 1e-5 }, &[large]);
        graph.output(back);
        let inputs = vec![Tensor { shape: vec![1, 3], data: vec![1.0, -2.0, 3.0] }];
        let case = Case { graph: graph.with_f32(true), weights: Weights::default(), inputs };
        let made = ops::run(executor, &case).remove(0);
        assert!(ops::off(&made, &case.inputs[0]) < 1e-5, "{made:?}");
    }
}

#[test]
fn the_upscaler_s_networks_agree() {
    let test = "the_upscaler_s_networks_agree";
    let Some(folder) = models::folder(test) else { return };
    let table = Table::of_this_build().unwrap();
    // One of each kind: with a shuffle, with a bicubic step, with residual blocks.
    for files in ["realesr-animevideov3-x2", "realesr-animevideov3-x3", "realesrgan-x4plus-anime"] {
        let scale = table.models.iter().flat_map(|model| &model.scales).find(|scale| scale.files == files).unwrap();
        let map = |ending: &str| table.map(&folder, &format!("{}.{ending}", scale.files)).unwrap();
        let (graph, weights) = upscale::read(&map("param"), &map("bin"), scale.scale).unwrap();
        let mut x = Random::new(4).tensor(&[1, 12, 10, 3]);
        x.data.iter_mut().for_each(|value| *value = *value * 0.5 + 0.5);
        agree(test, &Case { graph, weights, inputs: vec![x] }, 1e-4);
    }
}

/// From file to file through the door that jobs use, on the executor that the configuration names.
#[test]
fn an_image_is_upscaled_from_file_to_file() {
    let test = "an_image_is_upscaled_from_file_to_file";
    let Some(folder) = models::folder(test) else { return };
    let Some(opened) = executors(test).first() else { return };
    let on_gpu = if opened.adapter().is_gpu() { Wish::Wgpu } else { Wish::WgpuSoftware };
    let desk = tempfile::tempdir().unwrap();
    let input = desk.path().join("in.png");
    let picture =
        image::RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * 6) as u8, (y * 8) as u8, (x * y % 256) as u8]));
    picture.save(&input).unwrap();
    let upscaled = |executor: Wish| {
        let options = EngineOptions { models_dir: folder.clone(), threads: 2, executor, ..Default::default() };
        let output_dir = desk.path().join(format!("{executor:?}"));
        std::fs::create_dir(&output_dir).unwrap();
        let parameters = serde_json::Map::from_iter([("scale".to_owned(), 2.into())]);
        let task = Task { kind: "image.upscale".into(), parameters, inputs: vec![input.clone()], output_dir };
        let mut percents = Vec::new();
        let mut report = |report| {
            if let Report::Percent(percent) = report {
                percents.push(percent)
            }
        };
        let mut engine = Engine::new(options);
        let mut context = Context { engine: &mut engine, cancel: &AtomicBool::new(false), report: &mut report };
        let made = backlot_agent::infer::run(&task, &mut context).unwrap().remove(0);
        assert_eq!(percents.last(), Some(&100.0));
        (made.extra["executor"].clone(), image::open(&made.path).unwrap().into_rgb8())
    };
    let (name, ours) = upscaled(on_gpu);
    let (_, theirs) = upscaled(Wish::Cpu);
    assert_eq!((name, ours.dimensions()), ("wgpu".into(), (80, 60)));
    let worst = ours.iter().zip(theirs.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(worst <= 2, "a difference of {worst}/255");
}
