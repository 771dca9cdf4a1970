//! What must go wrong in the right way: too little memory, a kernel that writes where nothing is, a cancelled run; and
//! NVIDIA's own checker over the operations, where it is installed.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use backlot_agent::infer::cuda::Precision;
use backlot_agent::infer::cuda::device::{Arg, Command as Order, Device, Fault, Launch};
use backlot_agent::infer::cuda::driver::Driver;
use backlot_agent::infer::executor::{ExecError, Executor, Input};
use backlot_agent::infer::graph::TensorType;

use crate::checks::{compare, cpu, cuda};
use crate::networks::block_case;
use crate::ops::{self, Kind};
use crate::{Check, Figures, check, figures};

pub(crate) fn all() -> Vec<Check> {
    vec![
        check("out of memory is refused with the numbers, and the device goes on", out_of_memory),
        check("a run that is cancelled runs again", cancelled),
        Check {
            dies: true,
            ..check("a kernel that writes out of bounds loses the device of its process", out_of_bounds)
        },
        check("after that another process finds the device well", || {
            let case = ops::case(Kind::Add, 1);
            let off = compare(&cuda(Precision::Half, true)?, &case, &ops::run(&cpu()?, &case))?;
            Ok(figures([("error_max", f64::from(off).into())]))
        }),
        check("compute-sanitizer finds nothing", sanitized),
    ]
}

fn out_of_memory() -> Result<Figures, String> {
    let cuda = cuda(Precision::Half, true)?;
    let free = cuda.device().memory().map_err(|error| error.to_string())?.free_bytes;
    let case = block_case(320, 8, 8);
    let program = cuda.load(case.graph.clone(), &case.weights).map_err(|error| error.to_string())?;
    // Two values of 320 halves for each pixel are more than there is.
    let side = ((free / (2 * 320 * 2)) as f64).sqrt() as usize + 64;
    let shapes = [vec![2, side, side, 320], vec![2, 77, 768], vec![2]];
    let types: Vec<TensorType> = shapes.iter().map(|shape| TensorType::f32(shape)).collect();
    let (needed, allowed) = match program.check(&types) {
        Err(ExecError::Memory { needed_bytes, allowed_bytes }) => (needed_bytes, allowed_bytes),
        Err(other) => return Err(format!("the check says `{other}`")),
        Ok(plan) => return Err(format!("{} bytes were allowed, {free} are free", plan.peak_bytes())),
    };
    let piece = cuda.device().largest_piece_bytes();
    let Err(asked) = cuda.device().allocate(needed) else { return Err("so much memory was given".to_owned()) };
    if asked.kind != Fault::Memory {
        return Err(format!("asking for it says `{asked}`"));
    }
    let off = compare(&cuda, &case, &ops::run(&cpu()?, &case))?;
    if off > 1e-2 {
        return Err(format!("afterwards the device is off by {off}"));
    }
    Ok(figures([
        ("needed_bytes", needed.into()),
        ("allowed_bytes", allowed.into()),
        ("free_bytes", free.into()),
        ("largest_piece_bytes", piece.into()),
    ]))
}

fn cancelled() -> Result<Figures, String> {
    let cuda = cuda(Precision::Half, true)?;
    let case = block_case(320, 16, 8);
    let wanted = ops::run(&cpu()?, &case);
    let mut program = cuda.load(case.graph.clone(), &case.weights).map_err(|error| error.to_string())?;
    let inputs: Vec<_> = case.inputs.iter().map(|input| Input { shape: &input.shape, data: &input.data }).collect();
    let (cancel, mut last) = (AtomicBool::new(false), 0);
    let ended = program.run(&inputs, &cancel, &mut |done, _| {
        last = done;
        cancel.store(done >= 5, Ordering::Relaxed);
    });
    if !matches!(ended, Err(ExecError::Cancelled)) {
        return Err(format!("it was not cancelled after {last} nodes"));
    }
    drop(program);
    let off = compare(&cuda, &case, &wanted)?;
    if off > 1e-2 {
        Err(format!("afterwards it is off by {off}"))
    } else {
        Ok(figures([("stopped_after", last.into())]))
    }
}

fn out_of_bounds() -> Result<Figures, String> {
    let driver = Driver::open(0).map_err(|error| error.to_string())?;
    let args = vec![Arg::Pointer(64), Arg::Pointer(1 << 46), Arg::Long(1 << 20)];
    let launch = Launch { kernel: "cast_f32_f16", grid: [512, 1, 1], threads: 256, shared_bytes: 0, args };
    let ended = driver.submit(&Order::Launch(launch)).and_then(|()| driver.finish());
    let Err(error) = ended else { return Err("a write to nowhere went well".to_owned()) };
    if error.kind != Fault::Lost {
        return Err(format!("a write to nowhere is not known as what it is: {error}"));
    }
    let Err(after) = driver.memory().and_then(|_| driver.finish()) else {
        return Err("the device goes on after it".to_owned());
    };
    Ok(figures([
        ("lost", (after.kind == Fault::Lost).into()),
        ("said", error.to_string().into()),
        ("said_after", after.to_string().into()),
    ]))
}

/// Runs some operations again under `compute-sanitizer`, which ends with a code of its own when it finds something.
fn sanitized() -> Result<Figures, String> {
    const FOUND: i32 = 77;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let there = Command::new("compute-sanitizer").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        return Ok(figures([("skipped", "compute-sanitizer is not installed".into())]));
    }
    let names =
        ["operation Conv f16 own kernel", "operation Attention f16", "operation GroupNorm f16", "operation Concat f16"];
    for tool in ["memcheck", "racecheck"] {
        for name in names {
            let made = Command::new("compute-sanitizer")
                .args(["--tool", tool, "--error-exitcode", &FOUND.to_string()])
                .arg(&program)
                .args(["--check", name])
                .output()
                .map_err(|error| error.to_string())?;
            if made.status.code() == Some(FOUND) {
                let said: String = String::from_utf8_lossy(&made.stdout).chars().take(1500).collect();
                return Err(format!("{tool}, {name}: {said}"));
            }
        }
    }
    Ok(figures([("checks", names.len().into())]))
}
