//! The compiled kernels, as `cargo xtask kernels` has made them, for each architecture.

use std::io::Read;

use flate2::read::GzDecoder;

/// A file of kernels: its name, and its PTX for compute_75, 80 and 90.
struct Module {
    name: &'static str,
    packed: [&'static [u8]; 3],
}

const ARCHITECTURES: [u32; 3] = [75, 80, 90];

macro_rules! module {
    ($name:literal) => {
        Module {
            name: $name,
            packed: [
                include_bytes!(concat!("ptx/", $name, ".75.ptx.gz")),
                include_bytes!(concat!("ptx/", $name, ".80.ptx.gz")),
                include_bytes!(concat!("ptx/", $name, ".90.ptx.gz")),
            ],
        }
    };
}

const MODULES: [Module; 5] =
    [module!("pointwise"), module!("moves"), module!("norms"), module!("attention"), module!("conv")];

/// Lowest architecture that there are kernels for: Turing.
pub const LOWEST: u32 = ARCHITECTURES[0];

/// The module that holds a kernel.
#[must_use]
pub fn module_of(kernel: &str) -> &'static str {
    match kernel.split('_').next().unwrap_or_default() {
        "attention" => "attention",
        "conv" => "conv",
        "group" | "layer" | "softmax" => "norms",
        "copy" | "transpose" | "upsample" | "pixel" | "resize" | "embedding" | "time" => "moves",
        _ => "pointwise",
    }
}

/// PTX of a module that suits a GPU of this architecture (75, 80, 86, 90 and so on).
#[must_use]
pub fn text(module: &str, architecture: u32) -> Option<String> {
    let index = ARCHITECTURES.iter().rposition(|known| *known <= architecture)?;
    let module = MODULES.iter().find(|known| known.name == module)?;
    let mut text = String::new();
    GzDecoder::new(module.packed[index]).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    const SOURCES: [&str; 6] = [
        include_str!("kernels/device.cuh"),
        include_str!("kernels/pointwise.cu"),
        include_str!("kernels/moves.cu"),
        include_str!("kernels/norms.cu"),
        include_str!("kernels/attention.cu"),
        include_str!("kernels/conv.cu"),
    ];

    #[test]
    fn the_ptx_is_what_the_sources_were_compiled_to() {
        let sum = SOURCES.iter().fold(Sha256::new(), |sum, source| sum.chain_update(source));
        let wanted = include_str!("ptx/sources.sha256").trim();
        assert_eq!(hex::encode(sum.finalize()), wanted, "run `cargo xtask kernels` and commit what it makes");
    }

    #[test]
    fn each_kernel_is_found_in_the_module_that_its_name_says() {
        for architecture in [75, 86, 120] {
            for module in MODULES {
                let text = text(module.name, architecture).unwrap();
                let kernels: Vec<&str> =
                    text.lines().filter_map(|line| line.strip_prefix(".visible .entry ")?.split('(').next()).collect();
                assert!(!kernels.is_empty());
                for kernel in kernels {
                    assert_eq!(module_of(kernel), module.name, "{kernel}");
                }
            }
        }
        assert!(text("conv", 61).is_none(), "Pascal has no tensor cores");
    }
}
