//! The host's journal through the agent, over kills of the appliance and of the agent: nothing that was written is lost.
//!
//! The journal is a file and `journalctl` a program of the test that reads it as the real one would; systemd itself runs in no container.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use backlot_tests::{Appliance, Process, binary, eventually, python, repository};
use serde_json::{Value, json};

/// Entries are lines of a file, and a cursor is the number of one.
const JOURNALCTL: &str = r#"
import os, sys, time
folder = os.environ["TEST_JOURNAL"]
arguments = sys.argv[1:]
assert "--output=json" in arguments and "--follow" in arguments and "--unit=render.service" in arguments, arguments
journal = open(os.path.join(folder, "journal"))
cursor = [argument.split("=", 1)[1] for argument in arguments if argument.startswith("--after-cursor=")]
if cursor:
    assert "--no-tail" in arguments
    for _ in range(int(cursor[0]) + 1):
        journal.readline()
else:
    assert "--lines=0" in arguments
    journal.seek(0, 2)
with open(os.path.join(folder, "runs"), "a") as runs:
    runs.write((cursor[0] if cursor else "end") + "\n")
line = ""
while os.getppid() != 1:
    line += journal.readline()
    if line.endswith("\n"):
        sys.stdout.write(line)
        line = ""
    else:
        sys.stdout.flush()
        time.sleep(0.02)
"#;

struct Stage {
    appliance: Appliance,
    dir: tempfile::TempDir,
    written: usize,
}

impl Stage {
    fn new() -> Self {
        let stage = Self { appliance: Appliance::start(), dir: tempfile::tempdir().unwrap(), written: 0 };
        for folder in ["bin", "manifests"] {
            std::fs::create_dir(stage.path(folder)).unwrap();
        }
        for name in ["textstats.toml", "textstats.py"] {
            let sample = repository().join("agent/samples").join(name);
            std::fs::copy(sample, stage.path("manifests").join(name)).unwrap();
        }
        let program = stage.path("bin/journalctl");
        std::fs::write(&program, format!("#!{}{JOURNALCTL}", python().display())).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(stage.path("journal"), "").unwrap();
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn agent(&self) -> Process {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(binary("backlot-agent"));
        command
            .arg("run")
            .current_dir(self.dir.path())
            .envs(self.appliance.environment())
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("TEST_JOURNAL", self.dir.path())
            .env("BACKLOT_AGENT_SCRATCH", self.path("scratch"))
            .env("BACKLOT_AGENT_MANIFESTS", self.path("manifests"))
            .env("BACKLOT_AGENT_JOURNALD_UNITS", "render.service");
        Process::start(&mut command, self.dir.path(), "agent")
    }

    /// The runs of `journalctl`: where each began.
    fn runs(&self) -> Vec<String> {
        let runs = std::fs::read_to_string(self.path("runs")).unwrap_or_default();
        runs.lines().map(str::to_owned).collect()
    }

    fn write(&mut self, count: usize) {
        let mut journal = std::fs::OpenOptions::new().append(true).open(self.path("journal")).unwrap();
        for number in self.written..self.written + count {
            let message = match number % 3 {
                0 => json!(format!("frame {number}\nsecond line")),
                1 => json!(format!("frame {number}\u{fffd}").into_bytes()),
                _ => json!(format!("frame {number}")),
            };
            let entry = json!({
                "__CURSOR": number.to_string(), "__REALTIME_TIMESTAMP": (1_763_812_800_000_000_u64 + number as u64).to_string(),
                "MESSAGE": message, "PRIORITY": "4", "_PID": "71", "_HOSTNAME": "gpu-7", "_SYSTEMD_UNIT": "render.service",
                "SYSLOG_IDENTIFIER": "python3", "SHOT": "42",
            });
            writeln!(journal, "{entry}").unwrap();
        }
        self.written += count;
    }

    fn found(&self) -> Vec<Value> {
        let page = self.appliance.json("GET", "/v1/logs?limit=1000&query=service%3Arender", None);
        page["records"].as_array().unwrap().clone()
    }

    /// Waits until everything that was written is found, and returns what is.
    fn all(&self) -> Vec<Value> {
        eventually("all of the journal is found", || {
            let found = self.found();
            let numbers: BTreeSet<usize> = found.iter().filter_map(|record| number(record["body"].as_str()?)).collect();
            (numbers == (0..self.written).collect()).then_some(found)
        })
    }
}

fn number(body: &str) -> Option<usize> {
    body.strip_prefix("frame ")?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn cursor(path: &Path) -> Option<String> {
    let place: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    place["cursor"].as_str().map(str::to_owned)
}

#[test]
fn the_hosts_journal_is_found_whoever_was_killed_in_between() {
    let mut stage = Stage::new();
    let agent = stage.agent();
    eventually("journalctl is followed", || (stage.runs() == ["end"]).then_some(()));
    stage.write(60);
    let found = stage.all();
    assert_eq!(found.len(), 60, "once while nobody is killed");
    let first = found.iter().find(|record| record["body"] == "frame 0\nsecond line").unwrap();
    assert_eq!(
        (&first["host"], &first["level"], &first["scope"]),
        (&json!("gpu-7"), &json!("warn"), &json!("journald"))
    );
    assert_eq!(first["resource"]["systemd.unit"], "render.service");
    assert_eq!((&first["attributes"]["process.pid"], &first["attributes"]["shot"]), (&json!(71), &json!("42")));
    assert_eq!(first["time"], "2025-11-22T12:00:00.000000000Z");
    eventually("the cursor is written down", || {
        (cursor(&stage.path("scratch/journald.cursor"))? == "59").then_some(())
    });

    // The appliance is gone while something is written; the agent waits for it.
    stage.appliance.kill();
    stage.write(60);
    eventually("the agent says that it waits", || agent.log().contains("waits for the appliance").then_some(()));
    stage.appliance.start_again();
    stage.all();

    // Both are gone; the agent goes on at its cursor.
    stage.appliance.kill();
    stage.write(30);
    drop(agent); // kill -9
    stage.write(30);
    stage.appliance.start_again();
    let _agent = stage.agent();
    stage.all();
    let last: usize = stage.runs().last().unwrap().parse().unwrap();
    assert!((59..120).contains(&last), "began at its cursor: {last}");
}
