//! The shim itself: what it does to a program that is not ours.

use std::process::Command;

use super::shim::Shim;

/// Runs a line of Python under the shim and gives what it printed.
fn python(shim: &Shim, folder: &std::path::Path, program: &str) -> String {
    let mut command = Command::new("python3");
    command.args(["-c", program]).current_dir(folder).envs(shim.environment());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn shim_or_skip(test: &str) -> Option<(tempfile::TempDir, Shim)> {
    let folder = tempfile::tempdir().unwrap();
    match Shim::build(folder.path()) {
        Ok(shim) => Some((folder, shim)),
        Err(reason) => {
            eprintln!("skipped: {test}: it needs a C compiler ({reason})");
            None
        }
    }
}

#[test]
fn the_wall_clock_steps_and_the_monotonic_one_does_not() {
    let Some((folder, shim)) = shim_or_skip("the_wall_clock_steps_and_the_monotonic_one_does_not") else { return };
    let program = "import time; print(int(time.time()), int(time.monotonic()))";
    let clocks = || {
        let said = python(&shim, folder.path(), program);
        let (wall, monotonic) = said.split_once(' ').unwrap();
        (wall.parse::<i64>().unwrap(), monotonic.parse::<i64>().unwrap())
    };
    let before = clocks();
    shim.shift_clock(-600_000);
    let after = clocks();
    assert!((-600..-540).contains(&(after.0 - before.0)), "{before:?} {after:?}");
    assert!((0..60).contains(&(after.1 - before.1)), "{before:?} {after:?}");
}

#[test]
fn a_failed_sync_loses_what_was_written_since_the_last_good_one() {
    let Some((folder, shim)) = shim_or_skip("a_failed_sync_loses_what_was_written_since_the_last_good_one") else {
        return;
    };
    std::fs::create_dir_all(folder.path().join("journal/control")).unwrap();
    shim.keep_pictures(true);
    // The program turns the fault on itself, at the field's place in the control file.
    let program = r#"
import os, struct
file = os.open("journal/control/0", os.O_CREAT | os.O_RDWR)
os.ftruncate(file, 100)
os.pwrite(file, b"kept", 0)
os.fdatasync(file)
os.pwrite(file, b"lost", 4)
control = os.open(os.environ["FAULTS_CONTROL"], os.O_WRONLY)
os.pwrite(control, struct.pack("=I", 1), 20)
other = os.open("other", os.O_CREAT | os.O_RDWR)
os.fdatasync(other)
try:
    os.fdatasync(file)
    print("synced")
except OSError as error:
    print(error.errno)
"#;
    assert_eq!(python(&shim, folder.path(), program), libc::EIO.to_string());
    let bytes = std::fs::read(folder.path().join("journal/control/0")).unwrap();
    assert_eq!((&bytes[..8], bytes.len()), (&b"kept\0\0\0\0"[..], 100));
    assert_eq!((shim.syncs(), shim.failed()), (1, 1));
}
