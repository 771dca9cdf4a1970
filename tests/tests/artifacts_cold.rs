//! The cold tier of the artifact store: against moto's S3, and against another Backlot, which looks closer at what it is sent.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;

use backlot_tests::wire::Wire;
use backlot_tests::{Appliance, Port, Process, binary, eventually, python};
use serde_json::Value;
use tempfile::TempDir;

const SCRIPT: &str = "artifacts_cold.py";

/// Another S3 behind a wire that can be cut.
struct Other {
    endpoint: String,
    wire: Wire,
    key: PathBuf,
    _server: Server,
    _dir: TempDir,
}

#[allow(dead_code, reason = "held for their drop")]
enum Server {
    Moto(Process, Port),
    Backlot(Box<Appliance>),
}

impl Other {
    fn moto() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = Port::hold();
        let mut command = Command::new(python().with_file_name("moto_server"));
        let server =
            Process::start(command.args(["-H", "127.0.0.1", "-p", &port.number.to_string()]), dir.path(), "moto");
        eventually("moto answers", || TcpStream::connect(port.address()).ok());
        let number = port.number;
        Self::new(Server::Moto(server, port), number, dir)
    }

    fn backlot() -> Self {
        let server = Box::new(Appliance::start());
        let port = server.addresses.aws.rsplit_once(':').unwrap().1.parse().unwrap();
        Self::new(Server::Backlot(server), port, tempfile::tempdir().unwrap())
    }

    fn new(server: Server, port: u16, dir: TempDir) -> Self {
        let key = dir.path().join("cold.key");
        std::fs::write(&key, "[default]\naws_access_key_id = test\naws_secret_access_key = test\n").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let wire = Wire::to(port);
        Self { endpoint: format!("http://127.0.0.1:{port}"), wire, key, _server: server, _dir: dir }
    }

    fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("BACKLOT_COLD_BUCKET", "old-renders".to_owned()),
            ("BACKLOT_COLD_PREFIX", "lot/".to_owned()),
            ("BACKLOT_COLD_ENDPOINT", self.wire.endpoint.clone()),
            ("BACKLOT_COLD_CREDENTIALS", format!("file:{}", self.key.display())),
            ("BACKLOT_ARTIFACTS_SCRUB_BYTES_S", "1000000000".to_owned()),
        ]
    }

    /// An appliance that has it as its cold tier.
    fn tier_of(&self, more: &[(&str, &str)]) -> Appliance {
        let settings = self.settings();
        let mut all: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        all.extend(more);
        Appliance::start_with(&all)
    }

    fn run(&self, appliance: &Appliance, scenario: &str) {
        appliance.python(SCRIPT, &[scenario, &self.endpoint]);
    }
}

fn status(appliance: &Appliance) -> Value {
    appliance.json("GET", "/v1/cold", None)
}

fn scrub(appliance: &Appliance) -> Value {
    let before = appliance.json("GET", "/v1/scrub", None)["last"]["ended_at"].clone();
    let _ = appliance.json("POST", "/v1/scrub", None);
    eventually("the scrubber is done", || {
        let status = appliance.json("GET", "/v1/scrub", None);
        (status["current"].is_null() && status["last"]["ended_at"] != before).then_some(status)
    })
}

/// Keys that the scrubber or a reader has found damaged.
fn damaged(status: &Value) -> Vec<String> {
    let damaged = status["damaged"].as_array().unwrap().iter();
    damaged.map(|damage| damage["key"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn objects_of_every_kind_move_by_a_rule_and_are_read_as_before() {
    let other = Other::moto();
    let appliance = other.tier_of(&[]);
    other.run(&appliance, "story");
    let status = status(&appliance);
    assert_eq!((status["objects"].as_u64(), status["moved"].as_u64()), (Some(0), Some(5)), "{status}");
}

#[test]
fn another_backlot_that_knows_no_classes_and_checks_every_digest_is_a_cold_tier_too() {
    let other = Other::backlot();
    let appliance = other.tier_of(&[("BACKLOT_COLD_SEND_CLASS", "false")]);
    appliance.python(SCRIPT, &["story", &other.endpoint, "plain"]);
}

#[test]
fn old_versions_are_read_from_there_and_locks_hold() {
    let other = Other::moto();
    other.run(&other.tier_of(&[]), "versions");
}

#[test]
fn a_rule_that_cannot_be_carried_out_is_refused_with_what_would_help() {
    Appliance::start().python(SCRIPT, &["refusals", "", "cold.bucket"]);
    let other = Other::moto();
    other.tier_of(&[]).python(SCRIPT, &["refusals", &other.endpoint, "GLACIER_IR"]);
}

#[test]
fn a_kill_in_the_middle_of_a_move_leaves_every_object_readable_and_nothing_forgotten() {
    let other = Other::moto();
    // A part of the film takes a minute and a half.
    let mut appliance = other.tier_of(&[("BACKLOT_COLD_BYTES_S_MAX", "65536")]);
    other.run(&appliance, "fill");
    other.run(&appliance, "begin");
    eventually("a blob has arrived and its move goes on", || status(&appliance)["moving"].as_str().map(str::to_owned));
    for _ in 0..2 {
        appliance.kill();
        appliance.start_again();
        eventually("a move goes on", || status(&appliance)["moving"].as_str().map(str::to_owned));
    }
    appliance.kill();
    appliance.set("BACKLOT_COLD_BYTES_S_MAX", "1000000000");
    appliance.start_again();
    other.run(&appliance, "moved");
    other.run(&appliance, "check");
    appliance.kill();
    appliance.start_again();
    other.run(&appliance, "check");
    assert_eq!(damaged(&scrub(&appliance)), [""; 0]);
}

#[test]
fn while_the_other_s3_is_away_a_read_is_answered_503_and_the_rest_goes_on() {
    let other = Other::moto();
    let mut appliance = other.tier_of(&[]);
    other.run(&appliance, "fill");
    other.run(&appliance, "begin");
    other.run(&appliance, "moved");
    let doctor = || {
        let mut command = Command::new(binary("backlot"));
        let empty = tempfile::tempdir().unwrap();
        std::fs::write(empty.path().join("FORMAT"), "backlot 1\n").unwrap();
        command.args(["doctor", "--json", "--data"]).arg(empty.path()).envs(other.settings());
        let said = command.env_remove("BACKLOT_PYTHON").output().unwrap();
        let lines = String::from_utf8(said.stdout).unwrap();
        let findings = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        findings.into_iter().find(|finding| finding["check"] == "cold tier").unwrap()["ok"].as_bool().unwrap()
    };
    assert!(doctor());
    other.wire.cut();
    assert!(!doctor());
    other.run(&appliance, "away");
    let scrubbed = scrub(&appliance);
    assert_eq!(damaged(&scrubbed), [""; 0], "what is away is not damaged");
    assert_eq!(scrubbed["last"]["unreached"], 3, "{scrubbed}");
    other.wire.mute();
    other.run(&appliance, "mute");
    other.wire.break_off();
    other.wire.mend();
    other.run(&appliance, "back");
    other.run(&appliance, "http_door");

    // A bucket that is not there is a mistake in the configuration, and no damage.
    assert_eq!(appliance.stop(), Some(0));
    appliance.set("BACKLOT_COLD_BUCKET", "nowhere");
    appliance.start_again();
    other.run(&appliance, "mute");
    let scrubbed = scrub(&appliance);
    assert_eq!((damaged(&scrubbed), &scrubbed["last"]["unreached"]), (Vec::new(), &3.into()), "{scrubbed}");
}

#[test]
fn a_read_goes_on_over_connections_that_break_and_over_the_delete_of_what_it_reads() {
    let other = Other::moto();
    let appliance = other.tier_of(&[]);
    other.run(&appliance, "long");
    let wire = &other.wire;
    let before = wire.passed.load(Ordering::SeqCst);
    wire.break_after(8 << 20); // of 40 MiB
    other.run(&appliance, "read_slowly");
    let connections = wire.passed.load(Ordering::SeqCst) - before;
    assert!(connections >= 5, "the read was taken up again: {connections}");
}

#[test]
fn wrong_cut_and_missing_blobs_there_are_damage_and_never_given_as_whole() {
    let other = Other::moto();
    let appliance = other.tier_of(&[]);
    other.run(&appliance, "fill");
    other.run(&appliance, "begin");
    other.run(&appliance, "moved");
    other.run(&appliance, "damage");
    let known = damaged(&appliance.json("GET", "/v1/scrub", None));
    assert_eq!(known, ["clip-0", "clip-1", "clip-2"]);
    // What was found by reading is read again, although size and checksum are told as they should be.
    assert_eq!(damaged(&scrub(&appliance)), ["clip-0", "clip-1", "clip-2"]);
    other.run(&appliance, "mend");
    assert_eq!(damaged(&scrub(&appliance)), [""; 0]);
}

#[test]
fn a_rebuild_keeps_what_is_in_the_cold_tier_and_from_headers_finds_it_there() {
    let other = Other::moto();
    let mut appliance = other.tier_of(&[]);
    other.run(&appliance, "fill");
    other.run(&appliance, "begin");
    other.run(&appliance, "moved");
    assert_eq!(appliance.stop(), Some(0));
    let data = appliance.data();
    let rebuild = |arguments: &[&str]| {
        let mut command = Command::new(binary("backlot"));
        command.args(["rebuild", "--json"]).args(arguments).arg("--data").arg(&data).envs(other.settings());
        let said = command.env_remove("BACKLOT_PYTHON").output().unwrap();
        assert!(said.status.success(), "{said:?}");
        serde_json::from_slice::<Value>(&said.stdout).unwrap()
    };
    rebuild(&[]);
    appliance.start_again();
    other.run(&appliance, "moved");
    other.run(&appliance, "check");
    assert_eq!(appliance.stop(), Some(0));
    // First the manifest of the film is here, then nothing is.
    for disk in ["kept", "lost"] {
        if disk == "lost" {
            std::fs::remove_dir_all(appliance.data().join("blobs")).unwrap();
            std::fs::create_dir(appliance.data().join("blobs")).unwrap();
        }
        let recovered = rebuild(&["--from-blobs"])["recovered"].clone();
        let counts = ["versions", "cold", "cold_unused", "unreadable", "incomplete", "loose_parts"];
        let counts = counts.map(|name| recovered[name].as_u64().unwrap());
        assert_eq!(counts, [4, 4, 0, 0, 0, 0], "{disk}: {recovered}");
        appliance.start_again();
        other.run(&appliance, "moved");
        other.run(&appliance, "check");
        assert_eq!(damaged(&scrub(&appliance)), [""; 0]);
        assert_eq!(appliance.stop(), Some(0));
    }
}

#[test]
fn objects_come_back_by_the_command_line_and_the_tier_can_be_left() {
    let other = Other::moto();
    let appliance = other.tier_of(&[]);
    other.run(&appliance, "fill");
    other.run(&appliance, "begin");
    other.run(&appliance, "moved");
    let told = status(&appliance);
    assert_eq!((told["objects"].as_u64(), told["waiting"].as_u64()), (Some(4), Some(0)), "{told}");
    let warm = |uri: &str| {
        let said = appliance.cli(&["artifact", "warm", uri, "--wait", "--json"]);
        assert!(said.status.success(), "{said:?}");
        let said: Value = serde_json::from_slice(&said.stdout).unwrap();
        said["objects"].as_u64().unwrap()
    };
    assert_eq!(warm("s3://dailies/clip-"), 4, "a key that is none");
    assert_eq!(warm("s3://dailies/clip-1"), 3);
    assert_eq!(warm("s3://dailies/"), 0);
    other.run(&appliance, "all_here");
    assert_eq!(damaged(&scrub(&appliance)), [""; 0], "what lies behind their bytes is right, too");
    let text = appliance.cli(&["artifact", "cold"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("s3://old-renders/lot/") && text.contains("4 brought back"), "{text}");
    let unknown = appliance.cli(&["artifact", "warm", "s3://nowhere/x"]);
    assert!(!unknown.status.success());
    assert!(!appliance.log().contains("aws_secret"), "nothing of the key");
}
