//! Damage, the scrubber and the worst day, as an operator meets them: the command line, the alerts, the HTTP door.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::path::{Path, PathBuf};
use std::process::Command;

use backlot_tests::{Appliance, binary, eventually};
use serde_json::Value;

fn put(appliance: &Appliance, dir: &Path, name: &str, bytes: &[u8]) {
    let file = dir.join(name);
    std::fs::write(&file, bytes).unwrap();
    let put = appliance.cli(&["artifact", "put", file.to_str().unwrap(), "s3://studio/"]);
    assert!(put.status.success(), "{put:?}");
}

fn get(appliance: &Appliance, dir: &Path, name: &str) -> Option<Vec<u8>> {
    let file = dir.join("back");
    let from = format!("s3://studio/{name}");
    let got = appliance.cli(&["artifact", "get", &from, file.to_str().unwrap()]);
    got.status.success().then(|| std::fs::read(&file).unwrap())
}

fn scrub(appliance: &Appliance, arguments: &[&str]) -> Value {
    let said = appliance.cli(&[&["artifact", "scrub", "--json"], arguments].concat());
    assert!(said.status.success(), "{said:?}");
    serde_json::from_slice(&said.stdout).unwrap()
}

/// The one blob there is.
fn blob(data: &Path) -> PathBuf {
    let folders = std::fs::read_dir(data.join("blobs")).unwrap().map(|folder| folder.unwrap().path());
    let mut files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|file| file.unwrap().path());
    files.next().unwrap()
}

#[test]
fn damage_is_found_told_alerted_and_gone_when_the_object_is_put_again() {
    let settings = [
        ("BACKLOT_ARTIFACTS_SCRUB_BYTES_S", "1000000000"),
        ("BACKLOT_ALERTING_INTERVAL_S", "1"),
        ("BACKLOT_TELEMETRY_METRICS_EVERY_S", "1"),
    ];
    let appliance = Appliance::start_with(&settings);
    let dir = tempfile::tempdir().unwrap();
    let clip = vec![7; 300_000];
    put(&appliance, dir.path(), "clip", &clip);
    let path = blob(&appliance.data());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[200_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    scrub(&appliance, &["--now"]);
    let found = eventually("the scrubber finds it", || {
        let status = scrub(&appliance, &[]);
        status["damaged"].as_array().unwrap().first().cloned()
    });
    assert_eq!((found["bucket"].as_str(), found["key"].as_str()), (Some("studio"), Some("clip")));
    assert!(found["problem"].as_str().unwrap().contains("checksum"), "{found}");
    let firing = || appliance.json("GET", "/api/v1/alerts", None).to_string().contains("ArtifactDamaged");
    eventually("an alert fires", || firing().then_some(()));
    assert!(get(&appliance, dir.path(), "clip").is_none(), "no wrong bytes are given");
    let words = appliance.cli(&["artifact", "scrub"]);
    assert!(String::from_utf8_lossy(&words.stdout).contains("DAMAGED s3://studio/clip"), "{words:?}");

    put(&appliance, dir.path(), "clip", &clip);
    assert_eq!(get(&appliance, dir.path(), "clip"), Some(clip));
    eventually("it is mended", || scrub(&appliance, &[])["damaged"].as_array().unwrap().is_empty().then_some(()));
    eventually("the alert is resolved", || (!firing()).then_some(()));
    let missing = appliance.http("POST", "/v1/scrub", Some("")).0;
    assert_eq!(missing, 202);
}

#[test]
fn the_command_line_makes_the_store_again_from_its_blobs() {
    let mut appliance = Appliance::start();
    let dir = tempfile::tempdir().unwrap();
    put(&appliance, dir.path(), "small", &[1; 100]);
    put(&appliance, dir.path(), "large", &[2; 300_000]);
    let rebuild = |data: &Path| {
        let mut command = Command::new(binary("backlot"));
        command.args(["rebuild", "--from-blobs", "--json", "--data"]).arg(data).env_remove("BACKLOT_PYTHON");
        command.output().unwrap()
    };
    let running = rebuild(&appliance.data());
    assert!(!running.status.success(), "the appliance is running");
    assert_eq!(appliance.stop(), Some(0));
    std::fs::remove_dir_all(appliance.data().join("catalogue")).unwrap();
    std::fs::write(appliance.data().join("journal/control").read_dir().unwrap().next().unwrap().unwrap().path(), b"x")
        .unwrap();
    let rebuilt = rebuild(&appliance.data());
    assert!(rebuilt.status.success(), "{rebuilt:?}");
    let said: Value = serde_json::from_slice(&rebuilt.stdout).unwrap();
    assert_eq!(said["recovered"]["versions"], 2, "{said}");
    assert_eq!(said["set_aside"].as_array().unwrap().len(), 1, "{said}");
    assert!(said["not_known"].as_str().unwrap().contains("deleted"));
    appliance.start_again();
    assert_eq!(get(&appliance, dir.path(), "small"), Some(vec![1; 100]));
    assert_eq!(get(&appliance, dir.path(), "large"), Some(vec![2; 300_000]));
}
