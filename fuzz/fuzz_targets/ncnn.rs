//! A pair of ncnn files, divided at the first zero byte, up to a graph.
#![no_main]

use backlot_agent::infer::models::upscale;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let cut = data.iter().position(|byte| *byte == 0).unwrap_or(data.len());
    let (param, bin) = data.split_at(cut);
    let _ = upscale::read(param, &bytes::Bytes::copy_from_slice(bin), 2);
});
