//! Export requests of OTLP, in protobuf and in JSON, and what is made of them.

#![no_main]

use backlot::edge::otlp::{Encoding, decode};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for encoding in [Encoding::Protobuf, Encoding::Json] {
        let _ = decode(bytes, encoding).map(|request| backlot::logs::fuzz_export(&request));
        let _ = decode(bytes, encoding).map(|request| backlot::traces::fuzz_export(&request));
        let _ = decode(bytes, encoding).map(|request| backlot::metrics::fuzz_export(&request));
    }
});
