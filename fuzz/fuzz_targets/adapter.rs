//! What is added to a model: a right LoRA of each style or a right textual inversion with what the input changes in it.
#![no_main]

#[path = "../../agent/tests/tiny/mod.rs"]
mod tiny;

use std::path::PathBuf;
use std::sync::LazyLock;

use backlot_agent::infer::models::{folder, inversion, lora};
use libfuzzer_sys::fuzz_target;

static RIGHT: LazyLock<(PathBuf, [tiny::Tensors; 3])> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("backlot-fuzz-adapter-{}", std::process::id()));
    tiny::write_folder("sd15", &dir.join("sd15"));
    let word = tiny::Tensors::from([("emb_params".to_owned(), (vec![2, 32], vec![0.5; 64]))]);
    let [kohya, diffusers] = ["kohya", "diffusers"].map(tiny::files::lora_tensors);
    (dir, [kohya, diffusers, word])
});

fuzz_target!(|data: &[u8]| {
    let Some((which, edits)) = data.split_first() else { return };
    let (dir, files) = &*RIGHT;
    let which = usize::from(*which) % files.len();
    let file = dir.join("adapter.safetensors");
    let Ok(mut model) = folder::open(&dir.join("sd15")) else { return };
    if std::fs::write(&file, tiny::files::damaged(&files[which], edits)).is_ok() {
        let _ = if which < 2 { lora::merge(&file, 0.5, &mut model) } else { inversion::add(&file, "word", &mut model) };
    }
});
