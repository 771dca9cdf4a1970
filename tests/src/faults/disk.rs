//! Where a round's data lies: in a plain folder, or on an ext4 image whose power can be cut and that can be filled.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

#[allow(unreachable_pub, reason = "the journal's own tests have it from the same file")]
#[path = "../../../appliance/journal/tests/support/disk.rs"]
mod image;

use self::image::Disk;

pub(super) enum Ground {
    Folder(TempDir),
    Image(Disk),
}

impl Ground {
    pub(super) fn folder() -> Result<Self, String> {
        tempfile::tempdir().map(Self::Folder).map_err(|error| format!("a temporary folder: {error}"))
    }

    /// The reason where this machine does not allow it.
    pub(super) fn image(bytes: u64) -> Result<Self, String> {
        let disk = Disk::new(bytes);
        disk.map(Self::Image).map_err(|reason| format!("it needs root, mkfs.ext4 and loop mounts ({reason})"))
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Folder(dir) => dir.path(),
            Self::Image(disk) => disk.path(),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Takes all that is left, to the last block.
    pub(super) fn fill(&self) -> Result<(), String> {
        let mut file =
            File::options().create(true).append(true).open(self.ballast()).map_err(|error| error.to_string())?;
        for bytes in [1 << 20, 64 << 10, 4 << 10] {
            let piece = vec![7_u8; bytes];
            while file.write_all(&piece).is_ok() {}
        }
        Ok(())
    }

    pub(super) fn empty(&self) -> Result<(), String> {
        std::fs::remove_file(self.ballast()).map_err(|error| format!("remove the ballast: {error}"))
    }

    pub(super) fn cut_power(&self) {
        if let Self::Image(disk) = self {
            disk.cut_power();
        }
    }

    /// Nothing may have files open in it.
    pub(super) fn power_on(&self) {
        if let Self::Image(disk) = self {
            disk.power_on();
        }
    }
}
