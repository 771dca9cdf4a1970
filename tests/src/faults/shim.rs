//! The library between the appliance and libc, and the memory by which it is told what to do.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("shim.c");

/// Where the fields of `struct control` lie.
const CLOCK_OFFSET_MS: u64 = 0;
const SYNC_DELAY_US: u64 = 8;
const KEEP_PICTURES: u64 = 16;
const FAIL_SYNCS: u64 = 20;
const SYNCS: u64 = 24;
const FAILED: u64 = 32;
const ONLY_BELOW: u64 = 40;
const CONTROL_BYTES: u64 = ONLY_BELOW + 256;

/// Files whose syncs fail when syncs are to fail.
const CHOSEN: &str = "/journal/control/";

/// The compiled library with a control file of its own.
pub(super) struct Shim {
    library: PathBuf,
    path: PathBuf,
    control: File,
}

impl Shim {
    /// Compiles it into `folder`; the reason where there is no C compiler.
    pub(super) fn build(folder: &Path) -> Result<Self, String> {
        let (source, library) = (folder.join("shim.c"), folder.join("shim.so"));
        std::fs::write(&source, SOURCE).map_err(|error| format!("write {}: {error}", source.display()))?;
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .args(["-ldl", "-lpthread"])
            .output()
            .map_err(|error| format!("cc: {error}"))?;
        if !made.status.success() {
            return Err(format!("cc: {}", String::from_utf8_lossy(&made.stderr).trim()));
        }
        let path = folder.join("control");
        let open = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let control = open.map_err(|error| format!("make {}: {error}", path.display()))?;
        control.set_len(CONTROL_BYTES).map_err(|error| format!("make {}: {error}", path.display()))?;
        let shim = Self { library, path, control };
        shim.write(ONLY_BELOW, CHOSEN.as_bytes());
        Ok(shim)
    }

    /// What the program that it is put under has in its environment.
    pub(super) fn environment(&self) -> [(String, String); 2] {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        [("LD_PRELOAD".into(), text(&self.library)), ("FAULTS_CONTROL".into(), text(&self.path))]
    }

    /// Sets the wall clock so far off the true one. The monotonic one goes on as it does.
    pub(super) fn shift_clock(&self, offset_ms: i64) {
        self.write(CLOCK_OFFSET_MS, &offset_ms.to_ne_bytes());
    }

    /// Each sync takes so much longer.
    pub(super) fn slow_down(&self, sync_delay_us: u64) {
        self.write(SYNC_DELAY_US, &sync_delay_us.to_ne_bytes());
    }

    /// From now on a picture is kept of what each sync of the control journal made durable.
    pub(super) fn keep_pictures(&self, keep: bool) {
        self.write(KEEP_PICTURES, &u32::from(keep).to_ne_bytes());
    }

    /// Each sync of the control journal fails, and what it should have made durable is lost.
    pub(super) fn fail_syncs(&self, fail: bool) {
        self.write(FAIL_SYNCS, &u32::from(fail).to_ne_bytes());
    }

    pub(super) fn syncs(&self) -> u64 {
        self.read(SYNCS)
    }

    pub(super) fn failed(&self) -> u64 {
        self.read(FAILED)
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        self.control.write_all_at(bytes, at).expect("write the shim's control file");
    }

    fn read(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.control.read_exact_at(&mut bytes, at).expect("read the shim's control file");
        u64::from_ne_bytes(bytes)
    }
}
