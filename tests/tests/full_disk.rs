//! The disk is full, and has room again: what the OTLP doors answered is kept, what they refused was refused so that its
//! sender tries again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

#[path = "../../appliance/journal/tests/support/disk.rs"]
#[allow(unreachable_pub, reason = "it is shared with the journal's tests")]
mod disk;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;

use backlot_tests::{Appliance, eventually, raw};
use serde_json::{Value, json};

/// Sends one record of 100 kB over OTLP HTTP, in JSON. Status, and seconds after which to come again.
fn send(appliance: &Appliance, number: usize) -> (u16, Option<u32>) {
    let record = json!({"body": {"stringValue": format!("frame {number} {}", "x".repeat(100_000))}});
    let body = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}).to_string();
    let door = &appliance.addresses.otlp_http;
    let head = format!(
        "POST /v1/logs HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let answer = raw(door, format!("{head}{body}").as_bytes());
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let retry = answer.lines().find_map(|line| line.strip_prefix("retry-after: ")?.trim().parse().ok());
    (status, retry)
}

/// Takes all the room that there is, and what is given back meanwhile.
fn fill(file: &mut File) {
    while file.write_all(&[7; 4096]).is_ok() {}
    while file.write_all(&[7]).is_ok() {}
}

/// Numbers of all frames that are found.
fn found(appliance: &Appliance) -> BTreeSet<usize> {
    let mut numbers = BTreeSet::new();
    let mut cursor = String::new();
    loop {
        let page = appliance.json("GET", &format!("/v1/logs?query=frame&limit=50&cursor={cursor}"), None);
        let bodies = page["records"].as_array().unwrap().iter().map(|record| record["body"].as_str().unwrap());
        numbers.extend(bodies.filter_map(|body| body.split(' ').nth(1)?.parse::<usize>().ok()));
        let Some(next) = page["next_cursor"].as_str() else { return numbers };
        next.clone_into(&mut cursor);
    }
}

#[test]
fn a_full_disk_is_told_to_senders_of_telemetry_and_nothing_acknowledged_is_lost() {
    let name = "a_full_disk_is_told_to_senders_of_telemetry_and_nothing_acknowledged_is_lost";
    let Some(disk) = disk::disk_or_skip(name, 192 << 20) else { return };
    let settings = [("BACKLOT_JOURNAL_SEGMENT_BYTES", "1048576"), ("BACKLOT_JOURNAL_RESERVE_BYTES", "1048576")];
    let mut appliance = Appliance::start_on(disk.path(), &settings);
    let mut acknowledged = BTreeSet::new();
    for number in 0..5 {
        assert_eq!(send(&appliance, number).0, 200);
        acknowledged.insert(number);
    }
    let filler = disk.path().join("filler");
    let mut file = File::create(&filler).unwrap();
    let mut number = 5;
    let retry = loop {
        fill(&mut file);
        match send(&appliance, number) {
            (200, _) => acknowledged.insert(number),
            (503, retry) => break retry,
            (other, _) => panic!("answered {other}"),
        };
        number += 1;
        assert!(number < 1_000, "the disk does not fill");
    };
    assert!(retry.is_some_and(|seconds| (1..=60).contains(&seconds)), "no time to come again: {retry:?}");
    fill(&mut file);
    // UNAVAILABLE is what tells an exporter over gRPC to try again.
    let said: Value = serde_json::from_str(appliance.python("otlp_refused.py", &[]).trim()).unwrap();
    assert_eq!(said["code"], "UNAVAILABLE", "{said}");
    assert_eq!(appliance.http("GET", "/healthz", None).0, 200);

    // Room again: it goes on by itself.
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    eventually("telemetry is taken again", || {
        number += 1;
        let taken = send(&appliance, number).0 == 200;
        taken.then(|| acknowledged.insert(number))
    });
    eventually("everything acknowledged is found", || acknowledged.is_subset(&found(&appliance)).then_some(()));
    appliance.kill();
    appliance.start_again();
    eventually("everything acknowledged is found", || acknowledged.is_subset(&found(&appliance)).then_some(()));
    assert!(appliance.stop() == Some(0));
}
