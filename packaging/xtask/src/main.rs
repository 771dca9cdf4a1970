//! What a developer types: `cargo xtask <command>`.

mod models;

use std::process::ExitCode;

fn main() -> ExitCode {
    let command = std::env::args().nth(1);
    let done = match command.as_deref() {
        Some("models") => models::fetch().map(|folder| println!("models are in {}", folder.display())),
        _ => {
            eprintln!("usage: cargo xtask models");
            return ExitCode::from(64);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
