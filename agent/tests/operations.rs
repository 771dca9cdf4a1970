//! The CPU executor against the meaning of each operation, over random shapes.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

mod ops;

use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::executor::{ExecError, Executor, Input};
use backlot_agent::infer::graph::{Graph, Op};
use ops::{Kind, Tensor};
use proptest::prelude::*;

fn cpu() -> Cpu {
    Cpu::new(2, 256 << 20).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_operation_is_what_its_definition_says(seed in 0u64..1_000_000) {
        for kind in ops::ALL {
            let case = ops::case(kind, seed);
            let Some(wanted) = ops::reference::output(&case) else { continue };
            let made = ops::run(&cpu(), &case);
            // Winograd's form of a convolution costs two digits, and sinusoids of 1000 lose three to the angle.
            let tolerance = match kind {
                Kind::Conv => 4e-4,
                Kind::TimeEmbedding => 2e-4,
                Kind::GroupNorm | Kind::LayerNorm => 2e-5,
                _ => 4e-6,
            };
            let off = ops::off(&made[0], &wanted);
            prop_assert!(off <= tolerance, "{kind:?} is off by {off}: {:?}", case.graph.nodes());
        }
    }
}

#[test]
fn attention_to_more_keys_than_a_strip_forgets_none_of_them() {
    // Values of one and scores that fall or rise along the keys: the largest comes first, or last.
    for rising in [1.0, -1.0] {
        let mut graph = Graph::new();
        let inputs = [graph.input(), graph.input(), graph.input()];
        let end = graph.push("attention", Op::Attention { heads: 1, causal: false }, &inputs);
        graph.output(end);
        let keys = 5000;
        let scores: Vec<f32> = (0..keys).map(|key| rising * 30.0 * key as f32 / keys as f32).collect();
        let values: Vec<f32> = (0..keys).map(|key| key as f32).collect();
        let weight = |key: usize| f64::from(scores[key]).exp();
        let total: f64 = (0..keys).map(weight).sum();
        let wanted = (0..keys).map(|key| weight(key) / total * key as f64).sum::<f64>() as f32;
        let case = ops::Case {
            graph,
            weights: Default::default(),
            inputs: vec![
                Tensor { shape: vec![1, 1, 1], data: vec![1.0] },
                Tensor { shape: vec![1, keys, 1], data: scores.clone() },
                Tensor { shape: vec![1, keys, 1], data: values },
            ],
        };
        let made = ops::run(&cpu(), &case)[0].data[0];
        assert!((made / wanted - 1.0).abs() < 1e-5, "{made}, not {wanted}");
    }
}

#[test]
fn a_number_that_no_row_of_an_embedding_has_is_a_fault_with_the_number() {
    let case = ops::case(Kind::Embedding, 1);
    let mut program = cpu().load(case.graph, &case.weights).unwrap();
    for number in [-1.0, 0.5, 1e9, f32::NAN, f32::INFINITY] {
        let input = [Input { shape: &[1, 1], data: &[number] }];
        let ended = program.run(&input, &std::sync::atomic::AtomicBool::new(false), &mut |_, _| {});
        let Err(ExecError::Compute { problem, .. }) = ended else { panic!("{number} was taken") };
        assert!(problem.contains(&number.to_string()), "{problem}");
    }
}
