//! A whole model in one file: a right one of each form with what the input changes in it.
#![no_main]

#[path = "../../agent/tests/tiny/mod.rs"]
mod tiny;

use std::path::PathBuf;
use std::sync::LazyLock;

use backlot_agent::infer::models::folder;
use libfuzzer_sys::fuzz_target;

/// A folder with a vocabulary, and the tensors of each form.
static RIGHT: LazyLock<(PathBuf, [tiny::Tensors; 3])> = LazyLock::new(|| {
    let dir = std::env::temp_dir().join(format!("backlot-fuzz-model-{}", std::process::id()));
    tiny::write_folder("sd15", &dir.join("sd15"));
    let _ = std::fs::remove_dir_all(dir.join("clip-tokenizer"));
    std::fs::rename(dir.join("sd15/tokenizer"), dir.join("clip-tokenizer")).expect("a vocabulary");
    (dir, tiny::FORMS.map(tiny::files::single))
});

fuzz_target!(|data: &[u8]| {
    let Some((form, edits)) = data.split_first() else { return };
    let (dir, forms) = &*RIGHT;
    let file = dir.join("one.safetensors");
    let bytes = tiny::files::damaged(&forms[usize::from(*form) % forms.len()], edits);
    if std::fs::write(&file, bytes).is_ok() {
        let _ = folder::open(&file);
    }
});
