//! Each operation over random shapes against the CPU executor, in every precision and with each library.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use backlot_agent::infer::cpu::Cpu;
use backlot_agent::infer::cuda::driver::Driver;
use backlot_agent::infer::cuda::{Cuda, Precision};
use backlot_agent::infer::executor::{Executor, Input};
use half::f16;

use crate::ops::{self, Case, Kind, Tensor};
use crate::{Check, Figures, check, figures, millis, now};

/// Random cases of each operation.
const SEEDS: u64 = 40;
const CPU_BYTES_MAX: usize = 64 << 30;

pub(crate) fn all() -> Vec<Check> {
    let mut all = vec![check("host", crate::host)];
    for kind in ops::ALL {
        all.push(check(format!("operation {kind:?} f16"), move || operation(kind, Precision::Half, true)));
        all.push(check(format!("operation {kind:?} f32"), move || operation(kind, Precision::Single, true)));
    }
    for kind in [Kind::Conv, Kind::ConvEnd] {
        all.push(check(format!("operation {kind:?} f16 own kernel"), move || operation(kind, Precision::Half, false)));
    }
    all
}

pub(crate) fn cpu() -> Result<Cpu, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Cpu::new(threads, CPU_BYTES_MAX).map_err(|error| error.to_string())
}

pub(crate) fn cuda(precision: Precision, cudnn: bool) -> Result<Cuda, String> {
    let driver = Driver::open(0).map_err(|error| error.to_string())?;
    if !cudnn {
        driver.without_cudnn();
    }
    Ok(Cuda::on(Arc::new(driver), precision))
}

/// What a half keeps of a case's inputs: their own rounding is no part of a difference.
pub(crate) fn rounded(mut case: Case) -> Case {
    for input in &mut case.inputs {
        input.data.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32());
    }
    case
}

/// Largest difference to the CPU over all seeds; each case runs three times, the third as a recorded graph.
fn operation(kind: Kind, precision: Precision, cudnn: bool) -> Result<Figures, String> {
    let (cpu, cuda) = (cpu()?, cuda(precision, cudnn)?);
    let tolerance = tolerance(kind, precision);
    let mut worst = (0.0_f32, 0);
    for seed in 0..SEEDS {
        let case = rounded(ops::case(kind, seed));
        let off = compare(&cuda, &case, &ops::run(&cpu, &case)).map_err(|error| format!("seed {seed}: {error}"))?;
        if off > worst.0 {
            worst = (off, seed);
        }
    }
    if worst.0 > tolerance {
        return Err(format!("off by {} with seed {}, {tolerance} is allowed", worst.0, worst.1));
    }
    Ok(figures([("error_max", f64::from(worst.0).into()), ("cases", SEEDS.into())]))
}

/// As in the tests without a GPU, where these limits were met.
fn tolerance(kind: Kind, precision: Precision) -> f32 {
    match (precision, kind) {
        (Precision::Half, _) => 3e-3,
        (Precision::Single, Kind::TimeEmbedding | Kind::Conv) => 4e-4,
        (Precision::Single, _) => 3e-5,
    }
}

/// Runs a case three times and gives the largest difference to what is wanted.
pub(crate) fn compare(cuda: &Cuda, case: &Case, wanted: &[Tensor]) -> Result<f32, String> {
    let mut program = cuda.load(case.graph.clone(), &case.weights).map_err(|error| error.to_string())?;
    let inputs: Vec<_> = case.inputs.iter().map(|input| Input { shape: &input.shape, data: &input.data }).collect();
    let mut worst = 0.0_f32;
    for _ in 0..3 {
        let made = program.run(&inputs, &AtomicBool::new(false), &mut |_, _| {}).map_err(|error| error.to_string())?;
        for (made, wanted) in made.iter().zip(wanted) {
            let made = Tensor { shape: made.shape.clone(), data: made.data.to_vec() };
            worst = worst.max(ops::off(&made, wanted));
        }
    }
    Ok(worst)
}

/// Mean milliseconds of a run once it is recorded.
pub(crate) fn time(cuda: &Cuda, case: &Case, runs: u32) -> Result<f64, String> {
    let mut program = cuda.load(case.graph.clone(), &case.weights).map_err(|error| error.to_string())?;
    let inputs: Vec<_> = case.inputs.iter().map(|input| Input { shape: &input.shape, data: &input.data }).collect();
    let mut run = || -> Result<(), String> {
        program.run(&inputs, &AtomicBool::new(false), &mut |_, _| {}).map(|_| ()).map_err(|error| error.to_string())
    };
    for _ in 0..3 {
        run()?;
    }
    let begin = now();
    for _ in 0..runs {
        run()?;
    }
    Ok(millis(begin.elapsed()) / f64::from(runs))
}
