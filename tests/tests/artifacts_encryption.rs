//! Encryption at rest through boto3 and the command line: every way of it, nothing readable on the disk, and no start without the key.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::path::Path;
use std::process::Command;

use backlot_tests::{Appliance, binary, eventually};

fn scenario(name: &str) {
    Appliance::start().python("artifacts_encryption.py", &[name]);
}

#[test]
fn boto3_puts_and_reads_objects_encrypted_in_every_way() {
    scenario("objects");
}

#[test]
fn boto3_copies_between_all_ways_of_encryption() {
    scenario("copies");
}

#[test]
fn boto3_transfers_large_files_encrypted_in_every_way() {
    scenario("transfer");
}

#[test]
fn a_buckets_default_encrypts_what_says_nothing() {
    scenario("defaults");
}

/// Whether any file under `folder` has `needle` in it.
fn holds(folder: &Path, needle: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| match path.is_dir() {
        true => holds(&path, needle),
        false => std::fs::read(&path).unwrap().windows(needle.len()).any(|window| window == needle),
    })
}

#[test]
fn what_is_encrypted_is_nowhere_on_the_disk_as_it_was_sent() {
    let mut appliance = Appliance::start_with(&[("BACKLOT_ENCRYPTION_ALL_OBJECTS", "true")]);
    let dir = tempfile::tempdir().unwrap();
    let secret = b"the murderer is the gardener ";
    for copies in [1, 20_000] {
        let file = dir.path().join(format!("script-{copies}"));
        std::fs::write(&file, secret.repeat(copies)).unwrap();
        assert!(appliance.cli(&["artifact", "put", file.to_str().unwrap(), "s3://studio/"]).status.success());
        let back = dir.path().join("back");
        let from = format!("s3://studio/script-{copies}");
        assert!(appliance.cli(&["artifact", "get", &from, back.to_str().unwrap()]).status.success());
        assert_eq!(std::fs::read(&back).unwrap(), secret.repeat(copies));
    }
    assert_eq!(appliance.stop(), Some(0));
    assert!(!holds(&appliance.data(), secret));
    assert!(holds(&appliance.data(), b"script-20000"), "names are not encrypted");
}

/// What a start on the folder says that does not succeed.
fn refused(data: &Path, settings: &[(&str, &str)]) -> String {
    let mut command = Command::new(binary("backlot"));
    command.args(["serve", "--dev", "--print-addresses", "--data"]).arg(data).env_remove("BACKLOT_PYTHON");
    for door in ["AWS", "HTTP", "OTLP_GRPC", "OTLP_HTTP"] {
        command.env(format!("BACKLOT_EDGE_{door}"), "127.0.0.1:0");
    }
    let output = command.envs(settings.iter().copied()).output().unwrap();
    assert!(!output.status.success(), "it started");
    assert!(output.stdout.is_empty(), "it served");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_the_master_key_nothing_starts_and_with_it_everything_is_there() {
    let mut appliance = Appliance::start();
    appliance.python("artifacts_encryption.py", &["put_known"]);
    assert_eq!(appliance.stop(), Some(0));
    let (key, aside) = (appliance.data().join("master.key"), appliance.data().join("aside"));
    std::fs::rename(&key, &aside).unwrap();
    let said = refused(&appliance.data(), &[]);
    assert!(said.contains("master.key") && said.contains("put it back"), "{said}");
    std::fs::write(&key, [7; 32]).unwrap();
    let said = refused(&appliance.data(), &[]);
    assert!(said.contains("old_master_keys"), "{said}");
    std::fs::rename(&aside, &key).unwrap();
    appliance.start_again();
    appliance.python("artifacts_encryption.py", &["get_known"]);
}

#[test]
fn a_new_master_key_takes_over_and_the_old_one_is_needed_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join("new.key");
    let made = Command::new(binary("backlot")).args(["encryption", "new-key", new.to_str().unwrap()]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut appliance = Appliance::start();
    appliance.python("artifacts_encryption.py", &["put_known"]);
    assert_eq!(appliance.stop(), Some(0));
    let old = appliance.data().join("master.key");
    let (old_setting, new_setting) = (format!("file:{}", old.display()), format!("file:{}", new.display()));
    appliance.set("BACKLOT_ENCRYPTION_MASTER_KEY", &new_setting);
    appliance.set("BACKLOT_ENCRYPTION_OLD_MASTER_KEYS", &old_setting);
    appliance.start_again();
    appliance.python("artifacts_encryption.py", &["get_known"]);
    let wrapped = appliance.cli(&["encryption", "rewrap", "--wait", "--json"]);
    assert!(wrapped.status.success(), "{wrapped:?}");
    eventually("the old key is not needed", || {
        let status = appliance.cli(&["encryption", "status", "--json"]);
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
        status["old_in_use"].as_array().unwrap().is_empty().then_some(())
    });
    assert_eq!(appliance.stop(), Some(0));
    std::fs::remove_file(&old).unwrap();
    appliance.set("BACKLOT_ENCRYPTION_OLD_MASTER_KEYS", "");
    appliance.start_again();
    appliance.python("artifacts_encryption.py", &["get_known"]);
}
