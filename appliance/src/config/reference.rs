//! The configuration as a page to read, and as a document.

use super::{Key, keys};

/// The reference page: each section with its keys, defaults and meanings.
#[must_use]
pub fn reference_markdown() -> String {
    let mut page = String::from(
        "# Configuration\n\nOne TOML file (`backlot serve --config FILE`); every key can also be set by the environment as \
         `BACKLOT_<SECTION>_<KEY>`, which wins. An unknown key is an error. This page is written by `backlot config reference`.\n",
    );
    let mut section = "";
    for key in keys() {
        if key.section != section {
            section = key.section;
            page.push_str(&format!("\n## [{section}]\n\n| key | default | meaning |\n| --- | --- | --- |\n"));
        }
        page.push_str(&format!("| `{}` | `{}` | {} |\n", key.key, key.default, key.doc));
    }
    page
}

/// The same as one JSON document, with a line break at its end.
#[must_use]
pub fn reference_json() -> String {
    let key = |key: Key| serde_json::json!({"section": key.section, "key": key.key, "default": key.default, "meaning": key.doc});
    let mut text = serde_json::Value::Array(keys().into_iter().map(key).collect()).to_string();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_page_is_current() {
        let page = include_str!("../../../docs/configuration.md");
        assert!(page == reference_markdown(), "run: cargo run -p backlot -- config reference > docs/configuration.md");
    }
}
