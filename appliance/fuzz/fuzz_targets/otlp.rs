//! Export requests of OTLP, in protobuf and in JSON, and what is made of them.

#![no_main]

use backlot::edge::otlp::{Encoding, ExportLogsServiceRequest, ExportMetricsServiceRequest, ExportTraceServiceRequest, decode};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for encoding in [Encoding::Protobuf, Encoding::Json] {
        if let Ok(request) = decode::<ExportLogsServiceRequest>(bytes, encoding) {
            let _ = backlot::logs::records(&request, 0, 0);
        }
        let _ = decode::<ExportTraceServiceRequest>(bytes, encoding);
        let _ = decode::<ExportMetricsServiceRequest>(bytes, encoding);
    }
});
