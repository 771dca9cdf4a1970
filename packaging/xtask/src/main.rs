//! `cargo xtask`: the commands that build, run and prove Backlot. Each installs what is missing first, and is quick when
//! nothing is.

mod gpu_bench;
mod gpu_test;
mod kernels;
mod models;
mod nvrtc;
mod process;
mod test;
mod tools;
mod ui;
mod up;
mod wheels;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND

  up [--no-demo]   set up, build and run the appliance and one agent, and show them at work; Ctrl-C ends all of it
  test [--no-lint] set up and pass every test, with rustfmt and clippy
  setup            only what `test` sets up: packages, Python, models, dashboard
  ui               build the dashboard
  models           fetch the model weights
  kernels [--check] compile the CUDA kernels to the PTX that is committed, or see whether that is what they give
  gpu-test [--bundle DIR | ...] prove the CUDA executor on this host's GPU, or make a folder that does it elsewhere
  gpu-bench [--python PROGRAM] measure the CUDA executor beside PyTorch, by a Python that has torch and diffusers

What is installed comes from Debian, crates.io, npm and PyPI, in pinned versions.";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["up"] => up::run(true),
        ["up", "--no-demo"] => up::run(false),
        ["test"] => test::run(true),
        ["test", "--no-lint"] => test::run(false),
        ["setup"] => test::set_up(),
        ["ui"] => tools::ensure(&[tools::NODE]).and_then(|()| ui::build()),
        ["models"] => {
            tools::ensure(&[tools::PYTHON]).and_then(|()| models::fetch().map(|path| println!("{}", path.display())))
        }
        ["gpu-bench"] => gpu_bench::measure("python3"),
        ["gpu-bench", "--python", python] => gpu_bench::measure(python),
        ["gpu-test", "--bundle", folder] => gpu_test::bundle(std::path::Path::new(folder)),
        ["gpu-test", arguments @ ..] => match gpu_test::here(arguments) {
            Ok(code) => return ExitCode::from(code),
            Err(problem) => Err(problem),
        },
        ["kernels"] => tools::ensure(&[tools::PYTHON]).and_then(|()| kernels::run(false)),
        ["kernels", "--check"] => tools::ensure(&[tools::PYTHON]).and_then(|()| kernels::run(true)),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("xtask: {problem}");
            ExitCode::FAILURE
        }
    }
}
