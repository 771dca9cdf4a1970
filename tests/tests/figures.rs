//! A hundredth of what `docs/benchmarks.md` measures by hand, in the build of the tests: it runs to its end, and what does not
//! depend on a clock holds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::process::Command;

/// What the benchmark prints.
fn bench(arguments: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_bench")).args(arguments).arg("--dir").arg(dir.path()).output().unwrap();
    let (said, problem) = (String::from_utf8(made.stdout).unwrap(), String::from_utf8(made.stderr).unwrap());
    assert!(made.status.success(), "{said}{problem}");
    said
}

/// The number in front of these words.
fn figure(said: &str, words: &str) -> f64 {
    let line = said.lines().find(|line| line.contains(words)).unwrap_or_else(|| panic!("no {words} in {said}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_hundredth_of_the_log_lines() {
    let said = bench(&["logs", "--alone", "--bytes", "100000000"]);
    assert!(figure(&said, "of the raw lines on the disk while hot") <= 0.4, "{said}");
    assert!(figure(&said, "MiB resident at most") <= 400e6 / f64::from(1 << 20), "{said}");
}

#[test]
fn a_hundredth_of_the_spans() {
    let said = bench(&["traces", "--spans", "100000"]);
    assert!(figure(&said, "bytes a span on the disk") <= 200.0, "{said}");
    assert!(figure(&said, "MiB resident at most") <= 400e6 / f64::from(1 << 20), "{said}");
}
