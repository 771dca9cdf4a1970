//! Where the real models are, for the tests that need them.

use std::path::PathBuf;

use backlot_agent::infer::models::default_folder;

/// The folder with the model files. Without them the test that asks says so by name and passes: they are fetched by
/// `cargo xtask`, never by a test.
pub(crate) fn folder(test: &str) -> Option<PathBuf> {
    let folder = default_folder();
    if folder.join("realesr-animevideov3-x2.bin").is_file() {
        return Some(folder);
    }
    println!("SKIPPED {test}: no models in {}", folder.display());
    None
}
