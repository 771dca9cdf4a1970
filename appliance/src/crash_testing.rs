//! For tests of what survives: a child that works until it is killed or the power of its disk is cut.
//!
//! The child is an ignored test of this same program. It says a line for each thing that was acknowledged to it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::catalogue::tests::disk::Disk;

/// A child to be started.
pub(crate) struct Work<'a> {
    /// Full name of the ignored test.
    pub test: &'a str,
    /// Variable that tells it what to do; without it, it does nothing.
    pub told: (&'a str, String),
    /// How the line begins from which on it works.
    pub begins_with: &'a str,
    /// From that line to the end.
    pub pause: Duration,
    /// Cut before the child is killed.
    pub power: Option<&'a Disk>,
}

/// What a child has said.
pub(crate) struct Said {
    pub lines: Vec<String>,
    /// Those before this one were heard. What is acknowledged while the power goes, nobody would have heard.
    pub heard: usize,
}

impl Work<'_> {
    /// Starts the child, lets it work, and ends it.
    pub(crate) fn until_the_end(&self) -> Said {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", self.test, "--ignored", "--nocapture"])
            .env(self.told.0, &self.told.1)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let (mut line, mut before) = (String::new(), Vec::new());
        while !line.starts_with(self.begins_with) {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "{} ended: {:?}", self.told.1, child.wait());
            before.push(line.trim_end().to_owned());
        }
        let said = Arc::new(Mutex::new(before));
        let listener = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            loop {
                line.clear();
                match lines.read_line(&mut line) {
                    Ok(1..) if line.ends_with('\n') => listener.lock().push(line.trim_end().to_owned()),
                    _ => return, // the end, perhaps in the middle of a line
                }
            }
        });
        std::thread::sleep(self.pause); // the moment is what is tried
        let heard = self.power.map(|disk| {
            let heard = said.lock().len();
            disk.cut_power();
            heard
        });
        child.kill().unwrap();
        child.wait().unwrap();
        reader.join().unwrap();
        let lines = std::mem::take(&mut *said.lock());
        Said { heard: heard.unwrap_or(lines.len()), lines }
    }
}
