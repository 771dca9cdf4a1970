//! A safetensors file, up to its values.
#![no_main]

use backlot_agent::infer::weights::Weights;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(weights) = Weights::safetensors(&bytes::Bytes::copy_from_slice(data)) {
        for name in ["a", "weight"] {
            let _ = weights.get(name).map(|tensor| tensor.to_f32());
        }
    }
});
