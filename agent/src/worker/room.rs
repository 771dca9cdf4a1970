//! How much a worker has written into its output folder.

use std::path::Path;

/// Most files and folders that are looked at.
const ENTRIES_MAX: usize = 100_000;

/// Bytes of all files in `folder` and below, links not followed. Stops counting past `enough`.
#[must_use]
pub(super) fn bytes_in(folder: &Path, enough: u64) -> u64 {
    let (mut bytes, mut entries) = (0_u64, 0);
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(list) = std::fs::read_dir(&folder) else { continue };
        for entry in list.filter_map(Result::ok) {
            entries += 1;
            let Ok(data) = entry.metadata() else { continue };
            if data.is_dir() {
                folders.push(entry.path());
            } else {
                bytes = bytes.saturating_add(data.len());
            }
            if bytes > enough || entries >= ENTRIES_MAX {
                return bytes;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_folders_count_and_what_links_point_at_does_not() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/x"), [0; 1000]).unwrap();
        std::fs::write(dir.path().join("y"), [0; 10]).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let bytes = bytes_in(dir.path(), u64::MAX);
        assert!((1010..1100).contains(&bytes), "{bytes}");
        assert!(bytes_in(dir.path(), 5) > 5);
        assert_eq!(bytes_in(&dir.path().join("none"), 5), 0);
    }
}
