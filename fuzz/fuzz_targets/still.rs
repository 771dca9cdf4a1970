//! An image file of any kind, up to its pixels.
#![no_main]

use backlot_agent::frames::image::decode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let path = std::env::temp_dir().join(format!("backlot-fuzz-{}", std::process::id()));
    if std::fs::write(&path, data).is_ok() {
        let _ = decode(&path, 2);
    }
});
