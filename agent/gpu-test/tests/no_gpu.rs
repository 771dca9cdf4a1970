//! The program itself, on whatever host the tests run.

#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

use std::process::Command;

fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let made = Command::new(env!("CARGO_BIN_EXE_backlot-gpu-test")).args(arguments).output().unwrap();
    (made.status.code(), String::from_utf8_lossy(&made.stdout).into_owned())
}

#[test]
fn a_host_without_a_gpu_is_told_that_nothing_was_proven() {
    let (code, said) = run(&["--only", "host"]);
    let line: serde_json::Value = serde_json::from_str(said.lines().next().unwrap()).unwrap();
    assert_eq!(line["check"], "host");
    if code == Some(0) {
        // There is a GPU, and it was opened.
        assert!(line["figures"]["device"].is_string(), "{said}");
    } else {
        assert_eq!(code, Some(69), "{said}");
        assert_eq!(line["verdict"], "no GPU: nothing was proven");
        assert!(!line["problem"].as_str().unwrap().is_empty(), "{said}");
    }
}

#[test]
fn each_check_has_a_name_of_its_own_and_each_operation_a_check() {
    let (code, said) = run(&["--list"]);
    assert_eq!(code, Some(0));
    let mut names: Vec<&str> = said.lines().collect();
    for word in [
        "operation GroupNorm f16",
        "operation Attention f32",
        "out of memory",
        "bench upscale realesrgan-x4plus 1280x720",
    ] {
        assert!(names.iter().any(|name| name.starts_with(word)), "{word}");
    }
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[test]
fn arguments_that_make_no_sense_end_with_64() {
    for arguments in [&["--what"][..], &["--check", "no such check"], &["--only", "nothing has this word"]] {
        assert_eq!(run(arguments).0, Some(64), "{arguments:?}");
    }
}
