//! A disk of our own, whose power can be cut: an ext4 image behind a loop device.
#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
#![allow(unsafe_code, reason = "the power is cut by an ioctl that no crate offers")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `_IOR('X', 125, __u32)` of ext4: the file system stops at once.
const EXT4_IOC_SHUTDOWN: u64 = 0x8004_587d;
/// Not even the file system's own journal is written first.
static NO_LOG_FLUSH: u32 = 2;

/// An ext4 file system in a file.
pub struct Disk {
    _dir: tempfile::TempDir,
    image: PathBuf,
    mount_point: PathBuf,
}

impl Disk {
    /// Makes and mounts one of `bytes`; the reason where this machine does not allow it.
    pub fn new(bytes: u64) -> Result<Self, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (image, mount_point) = (dir.path().join("image"), dir.path().join("mnt"));
        std::fs::create_dir(&mount_point).map_err(|error| error.to_string())?;
        File::create(&image).and_then(|file| file.set_len(bytes)).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &[Path::new("-q"), Path::new("-F"), &image])?;
        let disk = Self { _dir: dir, image, mount_point };
        disk.mount()?;
        Ok(disk)
    }

    pub fn path(&self) -> &Path {
        &self.mount_point
    }

    fn mount(&self) -> Result<(), String> {
        run("mount", &[Path::new("-o"), Path::new("loop"), &self.image, &self.mount_point])
    }

    /// What is not on the disk now will never be.
    pub fn cut_power(&self) {
        let root = File::open(&self.mount_point).unwrap();
        // SAFETY: an open descriptor and a pointer to four bytes that live until the call returns.
        let answer = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const NO_LOG_FLUSH) };
        assert_eq!(answer, 0, "{}", std::io::Error::last_os_error());
    }

    /// Mounts again after a cut. Nothing may have files open in it.
    pub fn power_on(&self) {
        // A process that another test is just starting holds our files for a moment.
        let mut tries = 0;
        while let Err(problem) = run("umount", &[&self.mount_point]) {
            tries += 1;
            assert!(tries < 200, "{problem}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if run("umount", &[&self.mount_point]).is_err() {
            let _ = run("umount", &[Path::new("-l"), &self.mount_point]);
        }
    }
}

fn run(program: &str, arguments: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A disk, or `None` after the reason was printed with the test's name.
pub fn disk_or_skip(test: &str, bytes: u64) -> Option<Disk> {
    match Disk::new(bytes) {
        Ok(disk) => Some(disk),
        Err(reason) => {
            eprintln!("skipped: {test}: it needs root, mkfs.ext4 and loop mounts ({reason})");
            None
        }
    }
}
