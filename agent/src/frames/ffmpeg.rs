//! `ffmpeg` and `ffprobe` as child processes that cannot hang us and do not outlive us.
//!
//! Every wait has an end: a child that makes no progress for [`Tools::stall`] is killed. Standard error is read all
//! the while, so that it never blocks the child, and its last line is kept as the reason. A child is killed by its
//! own handle when its [`Process`] is dropped, and awaited, so that none is left as a zombie. Files are named as
//! `file:` and other protocols are forbidden; demuxers are those of plain containers, so that a playlist or a
//! script that calls itself a clip reads nothing else.
//!
//! Waits are counted in ticks of [`TICK`]; no clock is read.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::infer::Failure;

/// How long one look at the cancel flag is from the next.
pub const TICK: Duration = Duration::from_millis(50);
/// Longest line of standard error that is kept, in bytes.
const LINE_BYTES_MAX: usize = 500;

/// Containers that are read.
const DEMUXERS: &str =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,mxf,ivf,ogg,wav,w64,flac,mp3,aac,aiff,caf,au,ac3,eac3";

/// The programs, and how patient we are with them.
#[derive(Clone, Debug)]
pub struct Tools {
    pub ffmpeg: PathBuf,
    pub ffprobe: PathBuf,
    /// Without any progress for this long, a program is taken for dead.
    pub stall: Duration,
}

impl Default for Tools {
    /// Those of the search path, and a minute.
    fn default() -> Self {
        Self { ffmpeg: "ffmpeg".into(), ffprobe: "ffprobe".into(), stall: Duration::from_secs(60) }
    }
}

/// Options that stand before the input `path`.
pub(crate) fn input(path: &Path) -> Vec<String> {
    let mut file = String::from("file:");
    file.push_str(&path.to_string_lossy());
    ["-protocol_whitelist", "file", "-format_whitelist", DEMUXERS, "-i", &file].map(str::to_owned).to_vec()
}

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    /// Gives the last line of standard error when the child has closed it.
    drain: Option<JoinHandle<String>>,
}

impl Process {
    /// Starts `program`. `with_stdin` gives it a pipe to read from, otherwise it reads nothing.
    ///
    /// # Errors
    /// Transient: a program that is missing here may be on another host.
    pub fn start(program: &Path, arguments: &[String], with_stdin: bool) -> Result<Self, Failure> {
        let name = program.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(if with_stdin { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::transient(format!("start {name}: {error}")))?;
        let drain = child.stderr.take().map(|stderr| std::thread::spawn(move || last_line(stderr)));
        Ok(Self { name, child, drain })
    }

    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Waits until it ends, and gives its last words if it failed.
    ///
    /// # Errors
    /// Cancelled, or transient when it does not end within `patience` or is ended by a signal.
    pub fn wait(&mut self, patience: Duration, cancel: &AtomicBool) -> Result<Result<(), String>, Failure> {
        let mut waited = Duration::ZERO;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return self.judge(status),
                Ok(None) => {}
                Err(error) => return Err(Failure::transient(format!("wait for {}: {error}", self.name))),
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(Failure::cancelled());
            }
            if waited >= patience {
                return Err(self.stalled(patience));
            }
            std::thread::sleep(TICK);
            waited += TICK;
        }
    }

    fn judge(&mut self, status: ExitStatus) -> Result<Result<(), String>, Failure> {
        let said = self.drain.take().and_then(|drain| drain.join().ok()).unwrap_or_default();
        match status.code() {
            Some(0) => Ok(Ok(())),
            Some(_) => Ok(Err(said)),
            None => Err(Failure::transient(format!("{} was killed ({status})", self.name))),
        }
    }

    pub(crate) fn stalled(&self, patience: Duration) -> Failure {
        Failure::transient(format!("{} made no progress for {} s", self.name, patience.as_secs_f32()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill, and wait only fetches its status again.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads to the end, in bounded memory, and gives the last line that says something.
fn last_line(stderr: ChildStderr) -> String {
    let (mut reader, mut last) = (BufReader::new(stderr), Vec::new());
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) if line.trim_ascii().is_empty() => {}
            Ok(_) => std::mem::swap(&mut last, &mut line),
        }
    }
    String::from_utf8_lossy(last.trim_ascii()).into_owned()
}

/// Runs a program to its end and gives what it wrote, at most `bytes_max`.
///
/// # Errors
/// The inner error is its last line when it failed. The outer one: cancelled, stalled, killed, too much output.
pub fn output(
    program: &Path,
    arguments: &[String],
    bytes_max: usize,
    stall: Duration,
    cancel: &AtomicBool,
) -> Result<Result<Vec<u8>, String>, Failure> {
    let mut process = Process::start(program, arguments, false)?;
    let mut stdout = process.stdout();
    let (send, pieces) = channel();
    // The channel is bounded by `bytes_max`: the thread ends there.
    std::thread::spawn(move || {
        let mut left = bytes_max + 1;
        while let Some(stdout) = stdout.as_mut() {
            let mut piece = vec![0; left.min(64 << 10)];
            match stdout.read(&mut piece) {
                Ok(n) if n > 0 => {
                    piece.truncate(n);
                    left -= n;
                    if send.send(piece).is_err() || left == 0 {
                        break;
                    }
                }
                _ => break,
            }
        }
    });
    let mut whole = Vec::new();
    while let Some(piece) = next(&pieces, stall, cancel, || process.stalled(stall))? {
        whole.extend(piece);
        if whole.len() > bytes_max {
            return Err(Failure::permanent(format!("{} says more than {bytes_max} bytes of the input", process.name)));
        }
    }
    Ok(process.wait(stall, cancel)?.map(|()| whole))
}

/// The next thing from `from`; `None` when its sender has gone.
///
/// # Errors
/// Cancelled, or `stalled()` when nothing came for `stall`.
pub(crate) fn next<T>(
    from: &Receiver<T>,
    stall: Duration,
    cancel: &AtomicBool,
    stalled: impl Fn() -> Failure,
) -> Result<Option<T>, Failure> {
    let mut waited = Duration::ZERO;
    loop {
        match from.recv_timeout(TICK) {
            Ok(thing) => return Ok(Some(thing)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => waited += TICK,
        }
        if cancel.load(Ordering::Relaxed) {
            return Err(Failure::cancelled());
        }
        if waited >= stall {
            return Err(stalled());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> (PathBuf, Vec<String>) {
        (PathBuf::from("/bin/sh"), vec!["-c".to_owned(), script.to_owned()])
    }

    #[test]
    fn a_program_that_says_nothing_is_ended_and_none_is_left() {
        let (program, arguments) = sh("echo $$; exec sleep 600");
        let stop = AtomicBool::new(false);
        let error = output(&program, &arguments, 100, Duration::from_millis(200), &stop).unwrap_err();
        assert!(error.message.contains("sh made no progress for 0.2 s"), "{error}");
        assert!(!error.cancelled);
    }

    #[test]
    fn a_cancelled_wait_ends_the_program() {
        let (program, arguments) = sh("exec sleep 600");
        let mut process = Process::start(&program, &arguments, false).unwrap();
        let id = process.child.id();
        let error = process.wait(Duration::from_secs(60), &AtomicBool::new(true)).unwrap_err();
        assert!(error.cancelled);
        drop(process);
        assert!(!Path::new(&format!("/proc/{id}")).exists() || cfg!(not(target_os = "linux")));
    }

    #[test]
    fn the_last_line_of_standard_error_is_the_reason() {
        let stop = AtomicBool::new(false);
        let (program, arguments) = sh("echo first >&2; echo 'moov atom not found' >&2; echo >&2; exit 3");
        let said = output(&program, &arguments, 100, Duration::from_secs(30), &stop).unwrap().unwrap_err();
        assert_eq!(said, "moov atom not found");
        let (program, arguments) = sh("head -c 100000 /dev/zero >&2; exit 1");
        assert!(output(&program, &arguments, 100, Duration::from_secs(30), &stop).unwrap().unwrap_err().len() <= 500);
    }

    #[test]
    fn more_output_than_expected_is_an_error() {
        let (program, arguments) = sh("exec cat /dev/zero");
        let error = output(&program, &arguments, 1000, Duration::from_secs(30), &AtomicBool::new(false)).unwrap_err();
        assert!(error.message.contains("more than 1000 bytes"), "{error}");
    }

    #[test]
    fn a_program_that_is_missing_may_be_there_on_another_host() {
        let error = Process::start(Path::new("/nowhere/ffmpeg"), &[], false).err().unwrap();
        assert_eq!(error.class, crate::infer::FailureClass::Transient);
        assert!(error.message.starts_with("start ffmpeg:"), "{error}");
    }
}
