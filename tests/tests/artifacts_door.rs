//! The artifact store as a door to another S3: in front of a second Backlot, which verifies every signature, and of moto, which is
//! another's idea of S3.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use backlot_tests::{Appliance, Process, binary, eventually, http, python, repository};
use serde_json::{Value, json};

/// A file with a key, as `upstream.credentials` wants it.
fn key_file(dir: &Path, id: &str, secret: &str) -> PathBuf {
    let path = dir.join("upstream.key");
    std::fs::write(&path, format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// A Backlot whose artifacts lie in another Backlot.
struct Pair {
    door: Appliance,
    behind: Appliance,
    key: (String, String),
    dir: tempfile::TempDir,
}

impl Pair {
    fn start() -> Self {
        Self::with(&[], &[])
    }

    fn with(front: &[(&str, &str)], behind: &[(&str, &str)]) -> Self {
        let behind = Appliance::start_with(behind);
        let made = behind.json("POST", "/v1/keys", Some(r#"{"role":"operator"}"#));
        let text = |name: &str| made[name].as_str().unwrap().to_owned();
        let (key, dir) = ((text("key_id"), text("secret")), tempfile::tempdir().unwrap());
        let credentials = format!("file:{}", key_file(dir.path(), &key.0, &key.1).display());
        let mut settings = vec![
            ("BACKLOT_ARTIFACTS_ENGINE", "s3"),
            ("BACKLOT_UPSTREAM_ENDPOINT", behind.addresses.aws.as_str()),
            ("BACKLOT_UPSTREAM_CREDENTIALS", credentials.as_str()),
        ];
        settings.extend(front);
        let door = Appliance::start_with(&settings);
        Self { door, behind, key, dir }
    }

    /// A scenario of this suite's own.
    fn scenario(&self, name: &str) {
        let mut command = Command::new(python());
        command
            .arg(repository().join("tests/python/artifacts_door.py"))
            .arg(name)
            .envs(self.door.environment())
            .env("UPSTREAM_URL", &self.behind.addresses.aws)
            .env("UPSTREAM_HTTP", &self.behind.addresses.http)
            .env("UPSTREAM_KEY", &self.key.0)
            .env("UPSTREAM_SECRET", &self.key.1);
        let done = command.output().unwrap();
        let said = format!("{}\n{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{name}: {said}\n--- behind ---\n{}", self.behind.log());
    }
}

#[test]
fn a_studio_works_through_the_door_onto_another_backlot() {
    let pair = Pair::start();
    pair.scenario("everything");
    pair.scenario("cli");
    for own in ["blobs", "packs"] {
        assert!(!pair.door.data().join(own).exists(), "{own} is for what lies on this machine");
    }
}

#[test]
fn the_scenarios_of_our_own_store_pass_unchanged() {
    let pair = Pair::start();
    for name in ["buckets", "objects", "conditions", "listing", "checksums", "copies", "multipart", "presigned"] {
        pair.door.python("artifacts.py", &[name]);
    }
    for name in ["versioning", "batches", "paging", "tags"] {
        pair.door.python("artifacts_versions.py", &[name]);
    }
}

#[test]
fn checksums_behind_a_body_arrive_and_chunks_that_do_not_match_leave_nothing() {
    Pair::start().scenario("trailers");
}

#[test]
fn roles_and_signatures_are_this_appliances_and_what_they_refuse_does_not_go_on() {
    Pair::start().scenario("refusals");
}

#[test]
fn buckets_are_found_in_hosts_names_and_may_be_called_otherwise_there() {
    Pair::start().scenario("hosts");
    let pair = Pair::with(&[("BACKLOT_UPSTREAM_BUCKET_PREFIX", "acme-")], &[]);
    pair.scenario("mapped");
    for name in ["copies", "multipart"] {
        pair.door.python("artifacts.py", &[name]);
    }
}

#[test]
fn who_it_was_is_found_in_log_search() {
    Pair::start().scenario("logged");
}

#[test]
fn the_http_door_the_command_line_and_previews_show_what_lies_in_the_other_s3() {
    let pair = Pair::start();
    pair.scenario("pages");
    let file = pair.dir.path().join("clip.bin");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    std::fs::write(&file, &bytes).unwrap();
    let put = pair.door.cli(&["artifact", "put", file.to_str().unwrap(), "s3://studio/cli/", "--json"]);
    assert!(put.status.success(), "{put:?}");
    let back = pair.dir.path().join("back");
    let get = pair.behind.cli(&["artifact", "get", "s3://studio/cli/clip.bin", back.to_str().unwrap()]);
    assert!(get.status.success(), "{get:?}");
    assert_eq!(std::fs::read(&back).unwrap(), bytes);
    let ls = pair.door.cli(&["artifact", "ls", "s3://studio/cli/", "--json"]);
    let line: Value = serde_json::from_slice(&ls.stdout).unwrap();
    assert_eq!((&line["key"], &line["size"]), (&"cli/clip.bin".into(), &3_000_000.into()));
    let buckets = pair.door.cli(&["artifact", "ls"]);
    assert!(String::from_utf8_lossy(&buckets.stdout).contains("? objects"), "{buckets:?}");

    let picture = png(pair.dir.path());
    let put = pair.door.cli(&["artifact", "put", picture.to_str().unwrap(), "s3://studio/shot.png"]);
    assert!(put.status.success(), "{put:?}");
    let facts = pair.door.json("GET", "/v1/facts/studio/shot.png", None);
    assert_eq!((facts["width"].as_u64(), facts["height"].as_u64()), (Some(2), Some(1)), "{facts}");
    let (status, _) = pair.door.http("GET", "/v1/previews/studio/shot.png?side=160", None);
    assert_eq!(status, 200);
    let (status, answer) = pair.door.http("GET", "/v1/previews/studio/none.png", None);
    assert_eq!(status, 404, "{answer}");
}

/// A picture of two pixels.
fn png(dir: &Path) -> PathBuf {
    let path = dir.join("shot.png");
    let hex = "89504e470d0a1a0a0000000d494844520000000200000001080200000\
               07b40e8dd0000000d49444154789c63f8cf0004ff01070001ffe2239e590000000049454e44ae426082";
    let bytes: Vec<u8> = (0..hex.len() / 2).map(|n| u8::from_str_radix(&hex[2 * n..2 * n + 2], 16).unwrap()).collect();
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn another_s3_that_goes_away_is_told_by_all_and_used_again_when_it_is_back() {
    let mut pair = Pair::start();
    pair.scenario("put");
    let up = |door: &Appliance, value: &str| {
        let (_, text) = http(&door.addresses.http, "GET", "/metrics", &[], b"");
        text.lines().any(|line| line.starts_with("backlot_upstream_up") && line.ends_with(value)).then_some(())
    };
    eventually("the metric says that it is there", || up(&pair.door, " 1"));
    pair.behind.kill();
    pair.scenario("away");
    eventually("the metric says that it is away", || up(&pair.door, " 0"));
    let (status, ready) = http(&pair.door.addresses.http, "GET", "/readyz", &[], b"");
    assert_eq!(status, 200);
    assert!(ready.contains("the other S3 at http://127.0.0.1"), "{ready}");
    let examined = examine(&pair);
    assert!(
        examined
            .iter()
            .any(|found| found["ok"] == false && found["found"].as_str().unwrap().contains("upstream.endpoint"))
    );

    // It starts without the other S3, too.
    assert_eq!(pair.door.stop(), Some(0));
    pair.door.start_again();
    pair.scenario("away");
    pair.behind.start_again();
    pair.scenario("get");
    eventually("the metric says that it is back", || up(&pair.door, " 1"));
    let (_, ready) = http(&pair.door.addresses.http, "GET", "/readyz", &[], b"");
    assert_eq!(ready.trim(), "ok");
    let examined = examine(&pair);
    assert!(examined.len() >= 4 && examined.iter().all(|found| found["ok"] == true), "{examined:?}");
}

/// What `check-config --upstream` says.
fn examine(pair: &Pair) -> Vec<Value> {
    let done = Command::new(binary("backlot"))
        .args(["check-config", "--upstream", "--json"])
        .env_remove("BACKLOT_PYTHON")
        .env("BACKLOT_ARTIFACTS_ENGINE", "s3")
        .env("BACKLOT_UPSTREAM_ENDPOINT", &pair.behind.addresses.aws)
        .env("BACKLOT_UPSTREAM_CREDENTIALS", format!("file:{}", pair.dir.path().join("upstream.key").display()))
        .output()
        .unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn credentials_that_the_other_s3_does_not_take_are_told_as_ours_and_not_as_the_callers() {
    let pair = Pair::start();
    key_file(pair.dir.path(), &pair.key.0, "another");
    let examined = examine(&pair);
    let found = examined[0]["found"].as_str().unwrap();
    assert!(found.contains("SignatureDoesNotMatch") && found.contains("upstream.credentials"), "{found}");
    let mut door = pair.door;
    assert_eq!(door.stop(), Some(0));
    door.start_again();
    let (status, answer) = door.http("GET", "/v1/artifacts", None);
    assert_eq!(status, 503, "{answer}");
    assert!(answer.contains("upstream_credentials"), "{answer}");
    eventually("it is ready and says what is wrong", || {
        let (_, ready) = http(&door.addresses.http, "GET", "/readyz", &[], b"");
        ready.contains("upstream.credentials").then_some(())
    });
}

#[test]
fn a_job_reads_and_writes_through_the_door_and_its_links_lead_there() {
    let pair = Pair::with(&[("BACKLOT_JOBS_LEASE_S", "5")], &[]);
    let manifests = pair.dir.path().join("manifests");
    std::fs::create_dir_all(&manifests).unwrap();
    for name in ["textstats.toml", "textstats.py"] {
        std::fs::copy(repository().join("agent/samples").join(name), manifests.join(name)).unwrap();
    }
    pair.door.python("agent.py", &["put", "studio", "inputs/poem.txt", "the quick brown fox"]);
    let mut command = Command::new(binary("backlot-agent"));
    command
        .arg("run")
        .current_dir(pair.dir.path())
        .envs(pair.door.environment())
        .env("BACKLOT_AGENT_NAME", "door")
        .env("BACKLOT_AGENT_SCRATCH", pair.dir.path().join("scratch"))
        .env("BACKLOT_AGENT_MANIFESTS", &manifests)
        .env("BACKLOT_AGENT_VISIBILITY_S", "5")
        .env("BACKLOT_AGENT_REGISTER_S", "1");
    let agent = Process::start(&mut command, pair.dir.path(), "agent");
    let job = json!({
        "type": "sample.textstats", "inputs": [{"uri": "s3://studio/inputs/poem.txt"}],
        "output": {"prefix": "s3://studio/generated/"}
    });
    let submitted = pair.door.json("POST", "/v1/jobs", Some(&job.to_string()));
    let id = submitted["id"].as_str().unwrap();
    let job = pair.door.job_ended(id);
    assert_eq!(job["status"], "succeeded", "{job}\n{}", agent.log());
    let uri = job["outputs"][0]["uri"].as_str().unwrap();
    assert_eq!(uri, format!("s3://studio/generated/{id}/1/poem-upper.txt"));
    // The job's link leads to the http door, and the object knows its job: behind the door, too.
    let (status, text) = pair.door.http("GET", &format!("/v1/artifacts/{}", uri.trim_start_matches("s3://")), None);
    assert_eq!((status, text.as_str()), (200, "THE QUICK BROWN FOX"));
    for side in [&pair.door, &pair.behind] {
        let found: Value = serde_json::from_str(&side.python("agent.py", &["get", uri])).unwrap();
        assert_eq!(found["text"], "THE QUICK BROWN FOX");
        assert_eq!(found["metadata"]["backlot-job"], id, "{found}");
    }
}

/// moto on a free port, which it says in its log.
fn moto(dir: &Path) -> (Process, String) {
    let mut command = Command::new(python().with_file_name("moto_server"));
    let moto = Process::start(command.args(["-H", "127.0.0.1", "-p", "0"]).env("PYTHONUNBUFFERED", "1"), dir, "moto");
    let url = eventually("moto is at an address", || {
        let log = moto.log();
        let at = log.split("Running on ").nth(1)?.split_whitespace().next()?;
        Some(at.to_owned())
    });
    (moto, url)
}

#[test]
fn a_studio_works_through_the_door_onto_moto() {
    let dir = tempfile::tempdir().unwrap();
    let (_moto, url) = moto(dir.path());
    let door = Appliance::start_with(&[
        ("BACKLOT_ARTIFACTS_ENGINE", "s3"),
        ("BACKLOT_UPSTREAM_ENDPOINT", &url),
        ("AWS_ACCESS_KEY_ID", "operator"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ]);
    let mut command = Command::new(python());
    command
        .arg(repository().join("tests/python/artifacts_door.py"))
        .arg("everything")
        .envs(door.environment())
        .env("UPSTREAM_URL", &url)
        .env("UPSTREAM_KEY", "operator")
        .env("UPSTREAM_SECRET", "secret");
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}\n{}", String::from_utf8_lossy(&done.stderr), door.log());
}
