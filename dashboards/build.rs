//! Embeds `web/dist`: path, content type, ETag, plain and brotli bytes of each file.

#![allow(clippy::expect_used, reason = "a build script that cannot go on has nobody else to tell")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn main() {
    // Asked when it runs, not when it is compiled: a target folder may be taken along to another checkout.
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let dist = Path::new(&here).join("web/dist");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed={}", Path::new(&here).join("web").display());
    println!("cargo::rerun-if-changed={}", dist.display());
    let mut files = Vec::new();
    collect(&dist, &dist, &mut files);
    files.sort();
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    assert!(!is_release || !files.is_empty(), "the dashboard is not built: run `cargo xtask ui` first");
    let mut table = String::from("pub(crate) static ASSETS: &[Asset] = &[\n");
    for (number, path) in files.iter().enumerate() {
        let bytes = std::fs::read(dist.join(path)).expect("a file that was just listed");
        let mut packed = Vec::new();
        let mut writer = brotli::CompressorWriter::new(&mut packed, 64 * 1024, 9, 22);
        writer.write_all(&bytes).expect("memory takes bytes");
        drop(writer);
        std::fs::write(out.join(format!("{number}.plain")), &bytes).expect("OUT_DIR takes files");
        std::fs::write(out.join(format!("{number}.br")), &packed).expect("OUT_DIR takes files");
        let etag = Sha256::digest(&bytes).iter().take(8).fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        writeln!(
            table,
            "Asset {{ path: {path:?}, content_type: {:?}, etag: \"\\\"{etag}\\\"\", plain: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{number}.plain\")), brotli: include_bytes!(concat!(env!(\"OUT_DIR\"), \"/{number}.br\")) }},",
            content_type(path)
        )
        .expect("a String takes text");
    }
    table.push_str("];\n");
    std::fs::write(out.join("assets.rs"), table).expect("OUT_DIR takes files");
}

fn collect(root: &Path, folder: &Path, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if let Ok(relative) = path.strip_prefix(root) {
            files.push(relative.to_string_lossy().into_owned());
        }
    }
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        Some("json" | "map") => "application/json",
        _ => "application/octet-stream",
    }
}
