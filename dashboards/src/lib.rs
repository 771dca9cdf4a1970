//! The built dashboard, inside the binary.
//!
//! `web/dist` is made by `cargo xtask ui` and is not committed. A debug build without it serves a page that says how to build
//! it; a release build refuses. Absent on purpose: HTTP. Whoever serves the files decides on headers.

include!(concat!(env!("OUT_DIR"), "/assets.rs"));

/// One file of the dashboard.
#[derive(Clone, Copy, Debug)]
pub struct Asset {
    /// Relative to the root, without a slash in front: `index.html`.
    pub path: &'static str,
    pub content_type: &'static str,
    /// Strong, with its quotes.
    pub etag: &'static str,
    pub plain: &'static [u8],
    pub brotli: &'static [u8],
}

const NOT_BUILT: Asset = Asset {
    path: "index.html",
    content_type: "text/html; charset=utf-8",
    etag: "\"not-built\"",
    plain: b"<!doctype html><title>Backlot</title><h1>The dashboard is not built</h1>\
        <p>Run <code>cargo xtask ui</code> and build this binary again. Everything else works.</p>",
    brotli: b"",
};

/// The file at `path`, without a slash in front.
#[must_use]
pub fn asset(path: &str) -> Option<Asset> {
    ASSETS.iter().find(|asset| asset.path == path).copied()
}

/// The page that every address of the dashboard begins with.
#[must_use]
pub fn index() -> Asset {
    asset("index.html").unwrap_or(NOT_BUILT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_page() {
        assert!(index().content_type.starts_with("text/html"));
        assert!(asset("no/such/file").is_none());
        for asset in ASSETS {
            assert!(asset.etag.len() == 18 && !asset.brotli.is_empty(), "{}", asset.path);
        }
    }
}
