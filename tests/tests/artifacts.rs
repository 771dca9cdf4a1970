//! The artifact store through boto3, the AWS CLI, the command line, browsers' requests, and bytes that no client would send.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::io::{Read, Write};
use std::process::Command;

use backlot_tests::{Appliance, Process, binary, eventually, http, python, raw, repository};

fn scenario(name: &str) {
    Appliance::start().python("artifacts.py", &[name]);
}

#[test]
fn boto3_makes_lists_and_deletes_buckets() {
    scenario("buckets");
}

#[test]
fn boto3_puts_gets_heads_and_deletes_objects() {
    scenario("objects");
}

#[test]
fn boto3_reads_and_writes_under_conditions() {
    scenario("conditions");
}

#[test]
fn boto3_lists_pages_with_prefixes_and_delimiters_and_deletes_batches() {
    scenario("listing");
}

#[test]
fn boto3_checksums_are_verified_and_given_back() {
    scenario("checksums");
}

#[test]
fn boto3_copies_objects() {
    scenario("copies");
}

#[test]
fn boto3_uploads_in_parts() {
    scenario("multipart");
    scenario("transfer");
}

#[test]
fn presigned_urls_of_both_signatures_work_for_plain_http() {
    scenario("presigned");
}

#[test]
fn the_aws_cli_copies_syncs_lists_and_removes() {
    scenario("cli");
}

#[test]
fn terraform_keeps_its_state_and_locks_it() {
    Appliance::start().python("artifacts_clients.py", &["terraform"]);
}

#[test]
fn rclone_syncs_checks_and_purges() {
    Appliance::start().python("artifacts_clients.py", &["rclone"]);
}

#[test]
fn s3cmd_syncs_copies_and_removes() {
    Appliance::start().python("artifacts_clients.py", &["s3cmd"]);
}

#[test]
fn restic_backs_up_checks_restores_and_prunes() {
    Appliance::start().python("artifacts_clients.py", &["restic"]);
}

#[test]
fn what_was_answered_before_a_kill_is_there_afterwards_and_what_was_not_is_whole_or_absent() {
    let mut appliance = Appliance::start();
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let state = dir.path().join(format!("answered-{round}"));
        let mut writer = Command::new(python());
        writer.arg(repository().join("tests/python/artifacts.py")).arg("write_forever").arg(&state);
        let mut writer = Process::start(writer.envs(appliance.environment()), dir.path(), "writer");
        eventually("the writer has written", || {
            let lines = std::fs::read_to_string(&state).unwrap_or_default().lines().count();
            (lines > 20 + round * 7).then_some(())
        });
        appliance.kill();
        writer.wait();
        appliance.start_again();
        appliance.python("artifacts.py", &["check_written", state.to_str().unwrap()]);
        let left = std::fs::read_dir(appliance.data().join("blobs/tmp")).unwrap().count();
        assert_eq!(left, 0, "an interrupted put is swept at the start");
    }
}

/// Reads the object and its headers from the http door.
fn browse(appliance: &Appliance, path: &str, headers: &str) -> (String, String) {
    let host = appliance.addresses.http.trim_start_matches("http://");
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Basic dGVzdDp0ZXN0\r\nconnection: close\r\n{headers}\r\n"
    );
    let answer = String::from_utf8_lossy(&raw(&appliance.addresses.http, request.as_bytes())).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[test]
fn the_command_line_and_the_http_door_give_what_was_put_and_run_none_of_it() {
    let appliance = Appliance::start();
    let dir = tempfile::tempdir().unwrap();
    let (page, clip) = (dir.path().join("page.html"), dir.path().join("clip.mp4"));
    std::fs::write(&page, "<script>alert(1)</script>").unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    std::fs::write(&clip, &bytes).unwrap();
    for file in [&page, &clip] {
        let put = appliance.cli(&["artifact", "put", file.to_str().unwrap(), "s3://studio/a b/", "--json"]);
        assert!(put.status.success(), "{put:?}");
    }
    let back = dir.path().join("back");
    let get = appliance.cli(&["artifact", "get", "s3://studio/a b/clip.mp4", back.to_str().unwrap()]);
    assert!(get.status.success(), "{get:?}");
    assert_eq!(std::fs::read(&back).unwrap(), bytes);
    let missing = appliance.cli(&["artifact", "get", "s3://studio/none", back.to_str().unwrap()]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    let ls = appliance.cli(&["artifact", "ls", "s3://studio/a b/", "--json"]);
    let lines: Vec<serde_json::Value> =
        String::from_utf8_lossy(&ls.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!((&lines[0]["key"], &lines[0]["size"]), (&"a b/clip.mp4".into(), &3_000_000.into()));

    let listed = appliance.json("GET", "/v1/artifacts/studio?delimiter=/", None);
    assert_eq!(listed["prefixes"][0], "a b/");
    let buckets = appliance.json("GET", "/v1/artifacts", None);
    let studio = buckets["buckets"].as_array().unwrap().iter().find(|bucket| bucket["name"] == "studio").unwrap();
    assert_eq!(studio["objects"], 2);

    let (head, body) = browse(&appliance, "/v1/artifacts/studio/a%20b/page.html", "");
    assert!(head.starts_with("http/1.1 200") && body == "<script>alert(1)</script>", "{head}");
    for line in
        ["x-content-type-options: nosniff", "content-type: application/octet-stream", "content-disposition: attachment"]
    {
        assert!(head.contains(line), "{line} in {head}");
    }
    assert!(head.contains("content-security-policy: sandbox"), "{head}");
    let (head, body) = browse(&appliance, "/v1/artifacts/studio/a%20b/clip.mp4", "range: bytes=5-9\r\n");
    assert!(head.starts_with("http/1.1 206") && head.contains("content-range: bytes 5-9/3000000"), "{head}");
    assert!(head.contains("content-type: video/mp4") && !head.contains("content-disposition"), "{head}");
    assert_eq!(body.as_bytes(), &bytes[5..10]);
    let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let (head, _) = browse(&appliance, "/v1/artifacts/studio/a%20b/clip.mp4", &format!("if-none-match: {etag}\r\n"));
    assert!(head.starts_with("http/1.1 304"), "{head}");
    let (head, _) = browse(&appliance, "/v1/artifacts/studio/a%20b/clip.mp4", "range: bytes=3000000-\r\n");
    assert!(head.starts_with("http/1.1 416") && head.contains("content-range: bytes */3000000"), "{head}");
    assert_eq!(appliance.http("GET", "/v1/artifacts/none", None).0, 404);
    assert_eq!(appliance.http("GET", "/v1/artifacts/studio?limit=0", None).0, 400);
    let (status, _) = http(&appliance.addresses.http, "GET", "/v1/artifacts", &[], b"");
    assert_eq!(status, 401);
}

#[test]
fn hostile_requests_are_refused_in_s3s_words_and_leave_nothing() {
    let appliance = Appliance::start();
    let aws = &appliance.addresses.aws;
    let (status, body) = http(aws, "GET", "/studio/k", &[], b"");
    assert_eq!(status, 403, "{body}");
    let (status, body) =
        http(aws, "PUT", "/studio/..%2f..%2fetc%2fpasswd", &[("authorization", "AWS4-HMAC-SHA256 nonsense")], b"x");
    assert!((400..500).contains(&status) && body.contains("<Code>"), "{status} {body}");
    let scope = "test/20261122/us-east-1/s3/aws4_request";
    let header = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={}", "0".repeat(64));
    let stale = [
        ("authorization", header.as_str()),
        ("x-amz-date", "20261122T000000Z"),
        ("x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
    ];
    let (status, body) = http(aws, "PUT", "/studio/k", &stale, b"x");
    assert_eq!(status, 403, "{body}");
    let form = b"--b\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\nk\r\n--b\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\nx\r\n--b--\r\n";
    let (status, body) = http(aws, "POST", "/studio", &[("content-type", "multipart/form-data; boundary=b")], form);
    assert!((400..500).contains(&status), "{status} {body}");
    appliance.python("artifacts_hostile.py", &[]);

    // A body that is announced and never comes: the connection is let go, and nothing is there.
    let host = aws.trim_start_matches("http://");
    let mut slow = std::net::TcpStream::connect(host).unwrap();
    slow.write_all(
        format!("PUT /studio/slow HTTP/1.1\r\nhost: {host}\r\ncontent-length: 2000000000\r\n\r\nabc").as_bytes(),
    )
    .unwrap();
    slow.set_read_timeout(Some(backlot_tests::PATIENCE)).unwrap();
    let mut answer = [0; 12];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");

    let outside = appliance.json("GET", "/v1/artifacts/studio", None);
    let keys: Vec<_> = outside["objects"].as_array().unwrap().iter().map(|object| object["key"].clone()).collect();
    assert_eq!(
        keys,
        ["../../../../tmp/evil", "/../x", "a\u{0}b", "\u{ffff}é"].map(serde_json::Value::from),
        "they are keys, nothing else"
    );
    let log = appliance.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(binary("backlot").exists());
}

#[test]
fn a_clip_has_a_poster_and_facts_and_a_sound_has_facts() {
    let appliance = Appliance::start();
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, arguments: &[&str]| {
        let path = dir.path().join(name);
        let made =
            Command::new("ffmpeg").args(["-v", "error", "-f", "lavfi"]).args(arguments).arg(&path).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let put = appliance.cli(&["artifact", "put", path.to_str().unwrap(), "s3://studio/users/u/projects/p/raw/"]);
        assert!(put.status.success(), "{put:?}");
    };
    make("clip.mp4", &["-i", "color=c=blue:s=640x360:r=25:d=2", "-pix_fmt", "yuv420p"]);
    make("tone.wav", &["-i", "sine=d=1"]);
    // A playlist that calls itself a clip reads nothing on this machine.
    let list = dir.path().join("list.mp4");
    std::fs::write(&list, "#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n").unwrap();
    let put = appliance.cli(&["artifact", "put", list.to_str().unwrap(), "s3://studio/users/u/projects/p/raw/"]);
    assert!(put.status.success(), "{put:?}");

    let of = |what: &str, name: &str| format!("/v1/{what}/studio/users/u/projects/p/raw/{name}");
    let facts = appliance.json("GET", &of("facts", "clip.mp4"), None);
    assert_eq!((&facts["width"], &facts["height"]), (&640.into(), &360.into()), "{facts}");
    assert_eq!((&facts["duration_s"], &facts["fps"]), (&2.0.into(), &25.0.into()), "{facts}");
    let sound = appliance.json("GET", &of("facts", "tone.wav"), None);
    assert_eq!((&sound["kind"], &sound["duration_s"]), (&"audio".into(), &1.0.into()), "{sound}");

    let host = appliance.addresses.http.trim_start_matches("http://");
    let request = format!(
        "GET {}?side=300 HTTP/1.1\r\nhost: {host}\r\nauthorization: Basic dGVzdDp0ZXN0\r\nconnection: close\r\n\r\n",
        of("previews", "clip.mp4")
    );
    let answer = raw(&appliance.addresses.http, request.as_bytes());
    let begins = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    let head = String::from_utf8_lossy(&answer[..begins]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: image/jpeg"), "{head}");
    assert!(answer[begins..].starts_with(&[0xff, 0xd8, 0xff]), "a JPEG");
    let poster = dir.path().join("poster.jpg");
    std::fs::write(&poster, &answer[begins..]).unwrap();
    let put = appliance.cli(&["artifact", "put", poster.to_str().unwrap(), "s3://studio/users/u/projects/p/raw/"]);
    assert!(put.status.success(), "{put:?}");
    let poster = appliance.json("GET", &of("facts", "poster.jpg"), None);
    assert_eq!((&poster["width"], &poster["height"]), (&320.into(), &180.into()), "{poster}");

    assert_eq!(appliance.http("GET", &of("previews", "tone.wav"), None).0, 404);
    let (status, said) = appliance.http("GET", &of("facts", "list.mp4"), None);
    assert_eq!(status, 422, "{said}");
    assert!(!said.contains("root:") && !said.contains(appliance.data().to_str().unwrap()), "{said}");
    assert_eq!(appliance.http("GET", &of("facts", "none.mp4"), None).0, 404);
    let kept = appliance.json("GET", "/v1/artifacts/backlot-previews", None);
    assert_eq!(kept["objects"].as_array().unwrap().len(), 4, "{kept}");
}
