//! The dashboard's build: npm, esbuild, into `dashboards/web/dist`. Skipped when no source is newer than the last build.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use crate::process::{root, run};

/// Builds the dashboard if something changed since the last time.
pub(crate) fn build() -> Result<(), String> {
    let web = root().join("dashboards/web");
    let built = modified(&web.join("dist/index.html"));
    let newest = newest_source(&web);
    if built.is_some() && built >= newest {
        return Ok(());
    }
    let lock = modified(&web.join("package-lock.json"));
    if modified(&web.join("node_modules/.package-lock.json")).is_none_or(|installed| Some(installed) < lock) {
        run(Command::new("npm").args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]).current_dir(&web))?;
    }
    run(Command::new("npm").args(["run", "--silent", "build"]).current_dir(&web))
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn newest_source(folder: &Path) -> Option<SystemTime> {
    let entries = std::fs::read_dir(folder).ok()?;
    let newest = entries.flatten().filter_map(|entry| {
        let name = entry.file_name();
        if name == "node_modules" || name == "dist" {
            return None;
        }
        let path = entry.path();
        if path.is_dir() { newest_source(&path) } else { modified(&path) }
    });
    newest.max()
}
