//! The CPU executor, operation by operation, against candle and against the plainest loops.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::sync::atomic::{AtomicBool, Ordering};

use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::executor::{ExecError, Executor, Input};
use backlot_agent::infer::graph::{Activation, Element, Graph, Op, Pad, Side, TensorType, ValueId};
use backlot_agent::infer::weights::Weights;
use bytes::Bytes;
use candle_core::{Device, Tensor};
use proptest::prelude::*;

const ARENA_BYTES_MAX: usize = 64 << 20;

/// Reproducible values in -1..1.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Weights through a real safetensors file in memory.
fn weights(tensors: &[(&str, &[usize], &[f32])]) -> Weights {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        let entry = serde_json::json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]});
        header.insert((*name).to_owned(), entry);
    }
    let header = serde_json::to_vec(&header).unwrap();
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    Weights::safetensors(&Bytes::from(file)).unwrap()
}

fn run(graph: Graph, weights: &Weights, inputs: &[(&[usize], &[f32])]) -> Vec<(Vec<usize>, Vec<f32>)> {
    let mut program = Cpu::new(2, ARENA_BYTES_MAX).unwrap().load(graph, weights).unwrap();
    let inputs: Vec<_> = inputs.iter().map(|(shape, data)| Input { shape, data }).collect();
    let mut seen = 0;
    let made = program.run(&inputs, &AtomicBool::new(false), &mut |done, all| {
        seen += 1;
        assert!(done == seen && done <= all);
    });
    made.unwrap().into_iter().map(|output| (output.shape, output.data.to_vec())).collect()
}

/// A graph of one operation on as many inputs as are given.
fn one(op: Op, inputs: &[(&[usize], &[f32])]) -> (Vec<usize>, Vec<f32>) {
    let mut graph = Graph::new();
    let ids: Vec<ValueId> = inputs.iter().map(|_| graph.input()).collect();
    let end = graph.push("one", op, &ids);
    graph.output(end);
    run(graph, &Weights::default(), inputs).remove(0)
}

fn worst(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn candle(values: &[f32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_convolution_agrees_with_candle(
        batch in 1usize..3, height in 1usize..12, width in 1usize..12, inputs in prop_oneof![1usize..9, Just(16)],
        outputs in prop_oneof![1usize..20, Just(32)], kernel in prop_oneof![Just(1usize), Just(3)],
        stride in 1usize..3, seed in 0u64..1000,
    ) {
        let shape = [batch, height, width, inputs];
        let x = values(shape.iter().product(), seed);
        let w = values(outputs * inputs * kernel * kernel, seed + 1);
        let b = values(outputs, seed + 2);
        let mut graph = Graph::new();
        let input = graph.input();
        let weight = graph.weight("w", &[outputs, inputs, kernel, kernel]);
        let bias = Some(graph.weight("b", &[outputs]));
        let end = graph.push("conv", Op::Conv2d { weight, bias, stride, pad: Pad::Same, activation: None }, &[input]);
        let end = graph.push("bend", Op::Activate(Activation::LeakyRelu { slope: 0.2 }), &[end]);
        graph.output(end);
        let weights = weights(&[("w", &[outputs, inputs, kernel, kernel], &w), ("b", &[outputs], &b)]);
        let fused = graph.clone().fuse();
        prop_assert_eq!(fused.nodes().len(), 1);
        let ours = run(fused, &weights, &[(&shape, &x)]).remove(0);
        let plain = run(graph, &weights, &[(&shape, &x)]).remove(0);
        prop_assert!(worst(&ours.1, &plain.1) < 1e-6);

        let theirs = candle(&x, &shape).permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()
            .conv2d(&candle(&w, &[outputs, inputs, kernel, kernel]), kernel / 2, stride, 1, 1).unwrap()
            .broadcast_add(&candle(&b, &[1, outputs, 1, 1])).unwrap()
            .permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
        prop_assert_eq!(ours.0.as_slice(), theirs.dims());
        let theirs: Vec<f32> = flat(&theirs).into_iter().map(|v| if v < 0.0 { 0.2 * v } else { v }).collect();
        let off = worst(&ours.1, &theirs);
        prop_assert!(off < 4e-4, "off by {off}");
    }

    #[test]
    fn a_linear_layer_is_its_definition(
        rows in 1usize..20, inputs in 1usize..40, outputs in 1usize..40, seed in 0u64..1000,
    ) {
        let (x, w, b) = (values(rows * inputs, seed), values(outputs * inputs, seed + 1), values(outputs, seed + 2));
        let mut graph = Graph::new();
        let input = graph.input();
        let (weight, bias) = (graph.weight("w", &[outputs, inputs]), Some(graph.weight("b", &[outputs])));
        let end = graph.push("linear", Op::Linear { weight, bias }, &[input]);
        graph.output(end);
        let weights = weights(&[("w", &[outputs, inputs], &w), ("b", &[outputs], &b)]);
        let (shape, ours) = run(graph, &weights, &[(&[1, rows, inputs], &x)]).remove(0);
        prop_assert_eq!(shape, vec![1, rows, outputs]);
        for r in 0..rows {
            for o in 0..outputs {
                let sum: f32 = (0..inputs).map(|i| x[r * inputs + i] * w[o * inputs + i]).sum();
                prop_assert!((ours[r * outputs + o] - sum - b[o]).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn moves_agree_with_candle(
        (shape, order) in prop::collection::vec(1usize..6, 1..5).prop_flat_map(|shape| {
            let order: Vec<usize> = (0..shape.len()).collect();
            (Just(shape), Just(order).prop_shuffle())
        }),
        seed in 0u64..1000,
    ) {
        let x = values(shape.iter().product(), seed);
        let theirs = candle(&x, &shape).permute(order.clone()).unwrap().contiguous().unwrap();
        let ours = one(Op::Transpose { order: order.clone() }, &[(&shape, &x)]);
        prop_assert_eq!((ours.0.as_slice(), &ours.1), (theirs.dims(), &flat(&theirs)));

        let axis = order[0];
        let theirs = Tensor::cat(&[candle(&x, &shape), candle(&x, &shape)], axis).unwrap();
        let joined = one(Op::Concat { axis }, &[(&shape, &x), (&shape, &x)]);
        prop_assert_eq!((joined.0.as_slice(), &joined.1), (theirs.dims(), &flat(&theirs)));

        let mut graph = Graph::new();
        let input = graph.input();
        for part in graph.split("cut", input, axis, &[shape[axis], shape[axis]]) {
            graph.output(part);
        }
        let parts = run(graph, &Weights::default(), &[(&joined.0, &joined.1)]);
        prop_assert!(parts.len() == 2 && parts.iter().all(|part| *part == (shape.clone(), x.clone())));

        let ours = one(Op::Reshape { shape: vec![Side::Is(1), Side::Left] }, &[(&shape, &x)]);
        prop_assert_eq!(ours, (vec![1, x.len()], x));
    }

    #[test]
    fn elementwise_operations_agree_with_candle(pixels in 1usize..400, channels in 1usize..5, seed in 0u64..1000) {
        let shape = [1, pixels, 1, channels];
        let (a, b) = (values(pixels * channels, seed), values(pixels * channels, seed + 1));
        let (ta, tb) = (candle(&a, &shape), candle(&b, &shape));
        let (a, b) = ((&shape[..], a.as_slice()), (&shape[..], b.as_slice()));
        let close = |ours: (Vec<usize>, Vec<f32>), theirs: Tensor| worst(&ours.1, &flat(&theirs)) < 1e-6;
        prop_assert!(close(one(Op::Add, &[a, b]), (&ta + &tb).unwrap()));
        prop_assert!(close(one(Op::Add, &[a, b, a]), ((&ta + &tb).unwrap() + &ta).unwrap()));
        prop_assert!(close(one(Op::Mul, &[a, b]), (&ta * &tb).unwrap()));
        let scaled = one(Op::Scale { factor: 0.2 }, &[a]);
        prop_assert!(close(scaled, (&ta * 0.2).unwrap()));
        prop_assert!(close(one(Op::Activate(Activation::Relu), &[a]), ta.relu().unwrap()));
        prop_assert!(close(one(Op::Activate(Activation::Silu), &[a]), ta.silu().unwrap()));
        let half = ta.to_dtype(candle_core::DType::F16).unwrap().to_dtype(candle_core::DType::F32).unwrap();
        let cast = one(Op::Cast { to: Element::F16 }, &[a]);
        prop_assert!(close(cast, half));
    }
}

#[test]
fn resizes_and_shuffles_run_over_every_picture_of_a_batch() {
    let shape = [2, 3, 5, 4];
    let x = values(2 * 3 * 5 * 4, 1);
    let first = &x[..60];
    for (op, made) in [
        (Op::UpsampleNearest { factor: 3 }, [2, 9, 15, 4]),
        (Op::PixelShuffle { factor: 2 }, [2, 6, 10, 1]),
        (Op::ResizeBicubic { numerator: 3, denominator: 2 }, [2, 4, 7, 4]),
    ] {
        let (both_shape, both) = one(op.clone(), &[(&shape, &x)]);
        assert_eq!(both_shape, made);
        let (_, alone) = one(op.clone(), &[(&[1, 3, 5, 4], first)]);
        assert_eq!(both[..both.len() / 2], alone[..], "{op:?}");
        let (_, second) = one(op.clone(), &[(&[1, 3, 5, 4], &x[60..])]);
        assert_eq!(both[both.len() / 2..], second[..], "{op:?}");
    }
    let nearest = one(Op::UpsampleNearest { factor: 3 }, &[(&shape, &x)]).1;
    let theirs = candle(&x, &shape).permute((0, 3, 1, 2)).unwrap().upsample_nearest2d(9, 15).unwrap();
    assert_eq!(nearest, flat(&theirs.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()));
}

fn deep(length: usize) -> Graph {
    let mut graph = Graph::new();
    let mut value = graph.input();
    for i in 0..length {
        value = graph.push(format!("scale {i}"), Op::Scale { factor: 1.0 }, &[value]);
    }
    graph.output(value);
    graph
}

#[test]
fn a_cancelled_run_stops_between_nodes_and_can_run_again() {
    let mut program = Cpu::new(1, ARENA_BYTES_MAX).unwrap().load(deep(10), &Weights::default()).unwrap();
    let (cancel, mut steps) = (AtomicBool::new(false), 0);
    let input = [Input { shape: &[1, 2], data: &[1.0, 2.0] }];
    let ended = program.run(&input, &cancel, &mut |done, _| {
        steps = done;
        cancel.store(done == 4, Ordering::Relaxed);
    });
    assert!(matches!(ended, Err(ExecError::Cancelled)) && steps == 4);
    cancel.store(false, Ordering::Relaxed);
    assert_eq!(program.run(&input, &cancel, &mut |_, _| {}).unwrap()[0].data, [1.0, 2.0]);
}

#[test]
fn more_memory_than_is_allowed_is_refused_with_the_numbers_before_it_is_taken() {
    let mut program = Cpu::new(1, 1 << 10).unwrap().load(deep(2), &Weights::default()).unwrap();
    let far_too_large = [1, 1 << 15, 1 << 15, 1 << 10];
    assert_eq!(program.plan(&[TensorType::f32(&far_too_large)]).unwrap().peak_bytes(), (2 * 4) << 40);
    let data = vec![0.0; 1000];
    let input = [Input { shape: &[1, 1000], data: &data }];
    let error = program.run(&input, &AtomicBool::new(false), &mut |_, _| {}).unwrap_err().to_string();
    assert!(error.contains("8192 bytes") && error.contains("1024 are allowed"), "{error}");
}

#[test]
fn an_input_that_is_not_as_long_as_its_shape_says_is_refused() {
    let mut program = Cpu::new(1, ARENA_BYTES_MAX).unwrap().load(deep(2), &Weights::default()).unwrap();
    let wrong = [Input { shape: &[1, 3], data: &[1.0] }];
    let error = program.run(&wrong, &AtomicBool::new(false), &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains("1 values given for shape [1, 3]"), "{error}");
}

#[test]
fn a_missing_weight_and_a_weight_of_another_shape_are_named() {
    let mut graph = Graph::new();
    let input = graph.input();
    let weight = graph.weight("up.weight", &[4, 3, 1, 1]);
    graph.push("up", Op::Conv2d { weight, bias: None, stride: 1, pad: Pad::Same, activation: None }, &[input]);
    let load = |weights: &Weights| match Cpu::new(1, ARENA_BYTES_MAX).unwrap().load(graph.clone(), weights) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    assert!(load(&Weights::default()).contains("`up.weight` is missing"));
    assert!(load(&weights(&[("up.weight", &[4, 3], &[0.0; 12])])).contains("shape [4, 3], not [4, 3, 1, 1]"));
}
