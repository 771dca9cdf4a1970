//! The model store: how a model is named, what its manifest says, and the heads of weight files.
//!
//! In the bucket a model is a folder:
//!
//! | key | what |
//! | --- | --- |
//! | `NAME/manifest.json` | the version that the bare name means. Put last and removed first: without it there is no model |
//! | `NAME/versions/DIGEST.json` | each version, the same bytes. The digest is the SHA-256 of these bytes |
//! | `NAME/files/SHA256` | the files of all versions, by their content, so that nothing is ever overwritten |
//!
//! Absent on purpose: reading. Bytes are handed in, so that the appliance's command line and the agent check a file
//! by the same rules without sharing anything else.

pub mod head;
pub mod kind;
pub mod manifest;
pub mod ncnn;

pub use kind::ModelKind;
pub use manifest::{Manifest, ManifestError, ModelFile, VramNeed};

use crate::job::is_name;

/// The bucket that models lie in when nobody says otherwise.
pub const BUCKET: &str = "models";
/// Fewest digits by which a version is named.
pub const DIGEST_DIGITS_MIN: usize = 8;

/// Whether `text` is a model's name: 1 to 128 letters, digits, `.`, `_`, `-`, the first a letter or digit.
#[must_use]
pub fn is_model_name(text: &str) -> bool {
    is_name(text) && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
}

/// Whether `text` is a whole SHA-256 in lower-case hex.
#[must_use]
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Key of the manifest of the version that the bare name means.
#[must_use]
pub fn manifest_key(name: &str) -> String {
    format!("{name}/manifest.json")
}

/// Key of the manifest of one version; with part of a digest, the beginning of such keys.
#[must_use]
pub fn version_key(name: &str, digest: &str) -> String {
    if digest.len() == 64 { format!("{name}/versions/{digest}.json") } else { format!("{name}/versions/{digest}") }
}

/// Key of a file by its content.
#[must_use]
pub fn file_key(name: &str, sha256: &str) -> String {
    format!("{name}/files/{sha256}")
}

/// A model as a job names it: `name`, or `name@digest` for one version of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelRef<'a> {
    pub name: &'a str,
    /// 8 to 64 digits of the version's digest.
    pub digest: Option<&'a str>,
}

impl<'a> ModelRef<'a> {
    /// `None`: the text is neither.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        let fits = |digest: &str| (DIGEST_DIGITS_MIN..=64).contains(&digest.len()) && is_hex(digest);
        (is_model_name(name) && digest.is_none_or(fits)).then_some(Self { name, digest })
    }

    /// Whether what an agent says that it holds (`name`, or `name@digest`) is what is asked for here. A model without a
    /// digest is one that the host has from elsewhere: nobody knows which version it is.
    #[must_use]
    pub fn is_met_by(&self, held: &str) -> bool {
        let (name, digest) = held.split_once('@').unwrap_or((held, ""));
        name == self.name && self.digest.is_none_or(|asked| digest.starts_with(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_named_with_or_without_a_version() {
        assert_eq!(ModelRef::parse("sdxl"), Some(ModelRef { name: "sdxl", digest: None }));
        let pinned = ModelRef::parse("sdxl@0123abcd").unwrap();
        assert_eq!(pinned, ModelRef { name: "sdxl", digest: Some("0123abcd") });
        let long = format!("a@{}", "0".repeat(65));
        for bad in ["", "../x", ".hidden", "a/b", "a@", "a@0123abc", "a@0123ABCD", "a@b@01234567", "-x", &long] {
            assert_eq!(ModelRef::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_agent_meets_a_version_only_with_that_version() {
        let (any, pinned) = (ModelRef::parse("m").unwrap(), ModelRef::parse("m@0123abcd").unwrap());
        let version = format!("m@0123abcd{}", "f".repeat(56));
        assert!(any.is_met_by("m") && any.is_met_by(&version) && !any.is_met_by("mm") && !any.is_met_by("n"));
        assert!(pinned.is_met_by(&version) && !pinned.is_met_by("m") && !pinned.is_met_by("m@0123abce"));
    }
}
