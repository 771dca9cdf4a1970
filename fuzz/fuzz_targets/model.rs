//! What lies in the bucket of models: a manifest, the head of a safetensors file, the text of an ncnn pair.
#![no_main]

use backlot_wire::model::{Manifest, ModelKind, head, ncnn};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(manifest) = Manifest::parse(data) {
        let again = serde_json::to_vec(&manifest).expect("a manifest is JSON");
        assert_eq!(Manifest::parse(&again).as_ref(), Ok(&manifest), "what is taken can be written and read again");
    }
    let _ = ncnn::check_param(data);
    let _ = head::pickle(data);
    let Some((prefix, rest)) = data.split_first_chunk::<8>() else { return };
    let Ok(bytes) = head::head_bytes(*prefix, data.len() as u64) else { return };
    let (head, behind) = rest.split_at(bytes as usize);
    if let Ok(header) = head::Header::read(head, behind.len() as u64) {
        let _ = ModelKind::of(&header);
    }
});
