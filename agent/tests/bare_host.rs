//! The agent on hosts that have nothing, or something broken, of what computes on GPUs.
#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong; that is its report")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// What `probe` says when libraries are looked for in `libraries` first.
fn probe(libraries: &Path) -> Value {
    let home = tempfile::tempdir().unwrap();
    let said = Command::new(env!("CARGO_BIN_EXE_backlot-agent"))
        .args(["probe", "--json"])
        .env("LD_LIBRARY_PATH", libraries)
        .env("HOME", home.path())
        .env("VK_DRIVER_FILES", libraries.join("none.json"))
        .output()
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

#[test]
fn the_binary_is_linked_with_nothing_but_what_every_linux_has() {
    // The loader lists what it would load, and starts nothing.
    let said = Command::new(env!("CARGO_BIN_EXE_backlot-agent")).env("LD_TRACE_LOADED_OBJECTS", "1").output().unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    let names: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.iter().any(|name| name.starts_with("libc.so")), "{text}");
    let usual = ["linux-vdso", "libc.so", "libm.so", "libgcc_s.so", "libpthread.so", "libdl.so", "librt.so"];
    for name in names {
        let is_usual = usual.iter().any(|usual| name.starts_with(usual)) || name.contains("/ld-linux");
        assert!(is_usual, "{name}: a host without it could not start the agent");
    }
}

#[test]
fn without_a_driver_the_cpu_computes_and_the_probe_says_why() {
    let nothing = tempfile::tempdir().unwrap();
    let probe = probe(nothing.path());
    if !probe["gpus"].as_array().unwrap().is_empty() {
        eprintln!("skipped without_a_driver_the_cpu_computes_and_the_probe_says_why: this host has a GPU");
        return;
    }
    assert_eq!(probe["vulkan"], serde_json::json!([]));
    assert_eq!(probe["executor"]["executor"], "cpu", "{probe}");
    assert!(!probe["executor"]["why"].as_str().unwrap().is_empty(), "{probe}");
}

#[test]
fn libraries_that_are_cut_off_are_as_good_as_none() {
    let broken = tempfile::tempdir().unwrap();
    for name in [
        "libcuda.so",
        "libcuda.so.1",
        "libcublas.so",
        "libcublas.so.12",
        "libcublasLt.so",
        "libcublasLt.so.12",
        "libcudnn.so",
        "libcudnn.so.9",
        "libnvrtc.so",
        "libnvrtc.so.12",
        "libnvidia-ml.so",
        "libnvidia-ml.so.1",
        "libvulkan.so",
        "libvulkan.so.1",
    ] {
        std::fs::write(broken.path().join(name), b"\x7fELF, or so it says").unwrap();
    }
    let probe = probe(broken.path());
    assert_eq!((&probe["gpus"], &probe["vulkan"]), (&serde_json::json!([]), &serde_json::json!([])), "{probe}");
    assert_eq!(probe["cuda"]["driver"], false, "{probe}");
    assert_eq!(probe["executor"]["executor"], "cpu", "{probe}");
}
