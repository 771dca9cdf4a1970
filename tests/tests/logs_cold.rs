//! Old windows of logs and traces in another S3, which is another Backlot behind a wire that can be cut.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use backlot_tests::wire::Wire;
use backlot_tests::{Appliance, eventually, http};
use serde_json::{Value, json};
use tempfile::TempDir;

/// So small a class has windows of five megabytes.
const CONFIGURATION: &str = r#"
[[logs.class]]
name = "bulk"
match = "service:bulk"
days = 30
bytes = 20_000_000
cold_days = 1
"#;
const PREFIX: &str = "windows/lot/";
const LINES: usize = 20_000;
const BATCH: usize = 2_000;
const BEGIN_S: usize = 1_763_812_800;

fn line(number: usize) -> Value {
    let level = if number.is_multiple_of(10) { "error" } else { "info" };
    let message = format!("frame {number} of shot s{} {}", number % 97, "x".repeat(300 + number % 100));
    let time = format!("{}.{:03}", BEGIN_S + number / 1000, number % 1000);
    json!({"time": time.parse::<f64>().unwrap(), "level": level, "message": message, "take": number % 13})
}

/// How many lines a scan of them finds.
fn scanned(test: impl Fn(usize) -> bool) -> usize {
    (0..LINES).filter(|number| test(*number)).count()
}

struct Lot {
    appliance: Appliance,
    other: Appliance,
    wire: Wire,
    _dir: TempDir,
}

impl Lot {
    fn new() -> Self {
        Self::with(CONFIGURATION, &[])
    }

    fn with(configuration: &str, settings: &[(&str, &str)]) -> Self {
        let (other, dir) = (Appliance::start(), tempfile::tempdir().unwrap());
        let wire = Wire::to(other.addresses.aws.rsplit_once(':').unwrap().1.parse().unwrap());
        let (key, file) = (dir.path().join("cold.key"), dir.path().join("backlot.toml"));
        std::fs::write(&key, "[default]\naws_access_key_id = test\naws_secret_access_key = test\n").unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::write(&file, configuration).unwrap();
        let credentials = format!("file:{}", key.display());
        let mut all = vec![
            ("BACKLOT_CONFIG", file.to_str().unwrap()),
            ("BACKLOT_COLD_WINDOWS_BUCKET", "studio"),
            ("BACKLOT_COLD_WINDOWS_PREFIX", PREFIX),
            ("BACKLOT_COLD_WINDOWS_ENDPOINT", &wire.endpoint),
            ("BACKLOT_COLD_WINDOWS_CREDENTIALS", &credentials),
        ];
        all.extend(settings);
        let appliance = Appliance::start_with(&all);
        Self { appliance, other, wire, _dir: dir }
    }

    fn feed(&self) {
        for first in (0..LINES).step_by(BATCH) {
            self.send((first..first + BATCH).map(line));
        }
    }

    fn send(&self, lines: impl Iterator<Item = Value>) {
        let headers = [("content-type", "application/x-ndjson"), ("authorization", "Basic dGVzdDp0ZXN0")];
        let lines: Vec<_> = lines.map(|line| line.to_string()).collect();
        let (base, body) = (&self.appliance.addresses.http, lines.join("\n"));
        let (status, answer) = http(base, "POST", "/v1/logs?service.name=bulk", &headers, body.as_bytes());
        assert!((200..300).contains(&status), "{status} {answer}");
    }

    /// Starts again: closed windows are merged then.
    fn let_rest(&mut self, least: usize) {
        self.appliance.kill();
        self.appliance.start_again();
        eventually("closed windows rest", || {
            let windows = self.windows();
            let closed = windows.iter().filter(|window| window["closed"] == true);
            let rests = closed.clone().filter(|window| window["rests"] == true).count();
            (rests >= least && rests == closed.count()).then_some(())
        });
    }

    /// What is told of the windows of the class.
    fn windows(&self) -> Vec<Value> {
        let output = self.appliance.cli(&["logs", "kept", "--json"]);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        told["windows"].as_array().unwrap().iter().filter(|window| window["class"] == "bulk").cloned().collect()
    }

    fn cold(&self) -> usize {
        self.windows().iter().filter(|window| window["cold"] == true).count()
    }

    fn closed(&self) -> usize {
        self.windows().iter().filter(|window| window["closed"] == true).count()
    }

    fn move_now(&self) {
        let output = self.appliance.cli(&["logs", "move", "--class", "bulk"]);
        assert!(output.status.success(), "{output:?}");
    }

    /// Names in the other S3.
    fn there(&self) -> Vec<String> {
        let output = self.other.cli(&["artifact", "ls", &format!("s3://studio/{PREFIX}"), "--recursive", "--json"]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn get(&self, path: &str, given: &[(&str, &str)]) -> Value {
        let (status, body) = self.try_get(path, given);
        assert_eq!(status, 200, "{path} {given:?}: {body}");
        serde_json::from_str(&body).unwrap()
    }

    fn try_get(&self, path: &str, given: &[(&str, &str)]) -> (u16, String) {
        let escaped = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
        let given: Vec<_> = given.iter().map(|(name, text)| format!("{name}={}", escaped(text))).collect();
        self.appliance.http("GET", &format!("{path}?{}", given.join("&")), None)
    }

    fn count(&self, query: &str) -> Value {
        self.get("/v1/logs/histogram", &[("query", query), ("stretches", "1")])
    }

    /// Answers of all kinds to questions of all kinds.
    fn answers(&self) -> Vec<Value> {
        let mut answers = Vec::new();
        for query in
            ["service:bulk", "service:bulk level:error", "s13", "\"shot s13\"", "frame_777*", "take:[3 TO 5]", "19999"]
        {
            answers.push(self.count(query)["matched"].clone());
            let mut page = self.get("/v1/logs", &[("query", query), ("limit", "50"), ("order", "oldest")]);
            answers.push(page["records"].take());
            let mut page = self.get("/v1/logs", &[("query", query), ("limit", "50")]);
            answers.push(page["records"].take());
        }
        answers.push(self.get("/v1/logs/values", &[("query", "service:bulk"), ("name", "level")])["values"].clone());
        answers.push(self.get("/v1/logs/numbers", &[("query", "service:bulk"), ("name", "take")])["mean"].clone());
        answers.push(json!(self.export().1.lines().count()));
        answers
    }

    fn export(&self) -> (u16, String) {
        self.try_get("/v1/logs/export", &[("query", "service:bulk level:error")])
    }

    fn metric(&self, begin: &str) -> f64 {
        let metrics = self.appliance.http("GET", "/metrics", None).1;
        let of = metrics.lines().filter(|line| line.starts_with(begin));
        of.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }
}

#[test]
fn windows_move_through_kills_and_answer_as_before_and_say_when_they_cannot() {
    let mut lot = Lot::new();
    lot.feed();
    lot.let_rest(2);
    assert_eq!(lot.count("service:bulk")["matched"], LINES);
    assert_eq!(lot.count("\"shot s13\"")["matched"], scanned(|number| number % 97 == 13));
    assert_eq!(lot.count("service:bulk level:error")["matched"], scanned(|number| number % 10 == 0));
    let before = lot.answers();
    let closed = lot.closed();

    // Killed at whatever moment of a move.
    for pause_ms in [0, 150, 400, 900] {
        lot.move_now();
        std::thread::sleep(Duration::from_millis(pause_ms)); // the moment is what is tried
        lot.appliance.kill();
        lot.appliance.start_again();
        assert_eq!(lot.count("service:bulk")["matched"], LINES, "after {pause_ms} ms");
    }
    lot.move_now();
    eventually("all closed windows are cold", || {
        lot.move_now(); // those that rest only now
        (lot.cold() == closed).then_some(())
    });
    eventually("nothing is there of moves that ended early", || (lot.there().len() == closed).then_some(()));
    let windows = lot.windows();
    let bytes =
        |name: &str| windows.iter().filter(|of| of["cold"] == true).map(|of| of[name].as_u64().unwrap()).sum::<u64>();
    // So small a window has as much in its head and its filter as in its lines.
    assert!(bytes("disk_bytes") < bytes("cold_bytes"), "{windows:?}");
    assert_eq!(lot.answers(), before);

    // With nothing in the cache, and nobody there.
    lot.appliance.kill();
    lot.appliance.start_again();
    lot.wire.cut();
    let lacking = lot.count("service:bulk");
    assert_eq!(lacking["unreached"].as_array().unwrap().len(), closed, "{lacking}");
    assert!(lacking["matched"].as_u64().unwrap() < LINES as u64);
    let page = lot.get("/v1/logs", &[("query", "service:bulk"), ("order", "oldest")]);
    assert!(page["unreached"][0]["window"].as_str().unwrap().starts_with("s.bulk-"), "{}", page["unreached"]);
    let (status, body) = lot.export();
    assert!(status == 503 && body.contains("cold_windows_away"), "{status} {body}");
    let (status, body) = lot.appliance.http(
        "GET",
        "/loki/api/v1/query_range?query=%7Bservice%3D%22bulk%22%7D&start=1763812800&end=1763813800",
        None,
    );
    assert!(status >= 500 && body.contains("other S3"), "{status} {body}");
    assert_eq!(lot.count("nowhere-to-be-found")["unreached"], Value::Null, "the filters rule it out");
    assert!(lot.metric("backlot_windows_cold_unreached_total") > 0.0);
    assert!(lot.metric("backlot_windows_cold_reads_total{outcome=\"away\"") > 0.0);

    // Nobody says anything: searches end, and those of what is here are not held up.
    lot.wire.mute();
    eventually("it is asked again", || {
        lot.count("service:bulk")["unreached"][0]["reason"].as_str()?.contains("within").then_some(())
    });
    let newest = lot.get("/v1/logs", &[("query", "-service:bulk"), ("limit", "1"), ("from", "1m")]);
    assert_eq!(newest["unreached"], Value::Null);

    lot.wire.mend();
    eventually("it is whole again", || (lot.count("service:bulk")["matched"] == LINES).then_some(()));
    assert_eq!(lot.answers(), before);
    assert_eq!(lot.appliance.stop(), Some(0));
}

/// Windows of four megabytes of such lines, which take twice as much on the disk.
const LARGE_CONFIGURATION: &str = r#"
[[logs.class]]
name = "bulk"
match = "service:bulk"
days = 30
bytes = 16_000_000
cold_days = 1
"#;
const LARGE_LINES: usize = 1_400;
const LARGE_BATCH: usize = 350;

/// Four kilobytes that nothing packs well, and a word of its own.
fn large_line(number: usize) -> Value {
    let mut state = number as u64 + 1;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-+"[(state >> 58) as usize])
    };
    let message = format!("dump only{number} {}", (0..4000).map(|_| letter()).collect::<String>());
    let time = format!("{}.{:03}", BEGIN_S + number / 1000, number % 1000);
    json!({"time": time.parse::<f64>().unwrap(), "message": message})
}

/// Uploads in parts that are under way in the other S3: their keys, and how many parts of each are there.
fn uploads(other: &Appliance) -> Vec<(String, u64)> {
    let told = other.python("logs_cold.py", &["uploads", "studio", PREFIX]);
    let told: Value = serde_json::from_str(&told).unwrap();
    let upload = |upload: &Value| (upload["key"].as_str().unwrap().to_owned(), upload["parts"].as_u64().unwrap());
    told.as_array().unwrap().iter().map(upload).collect()
}

/// Waits until some parts of a window are there and others are not, and gives the key.
fn between_parts(lot: &Lot) -> String {
    eventually("some parts are there", || uploads(&lot.other).into_iter().find(|(_, parts)| *parts > 0)).0
}

#[test]
fn a_window_goes_in_parts_and_no_end_between_two_of_them_leaves_parts_behind() {
    // Between two parts pass twenty seconds: who looks is slow on a busy machine.
    let slowly = [("BACKLOT_COLD_WINDOWS_PART_BYTES", "5242880"), ("BACKLOT_COLD_WINDOWS_BYTES_S_MAX", "262144")];
    let mut lot = Lot::with(LARGE_CONFIGURATION, &slowly);
    for first in (0..LARGE_LINES).step_by(LARGE_BATCH) {
        lot.send((first..first + LARGE_BATCH).map(large_line));
        // One after the other: a window is closed when what comes next finds it full.
        eventually("they are indexed", || (lot.count("service:bulk")["matched"] == first + LARGE_BATCH).then_some(()));
    }
    lot.let_rest(1);
    let closed = lot.closed();
    assert_eq!(lot.count("service:bulk")["matched"], LARGE_LINES);

    // The appliance is killed: the parts are still there, and the name is written down here.
    lot.move_now();
    between_parts(&lot);
    lot.appliance.kill();
    assert_eq!(uploads(&lot.other).len(), 1);
    let noted = std::fs::read_dir(lot.appliance.data().join("logs/loose")).unwrap().count();
    assert_eq!(noted, 1);
    lot.appliance.start_again();
    eventually("the parts of the killed move are gone", || uploads(&lot.other).is_empty().then_some(()));

    // The other S3 goes: neither the next part nor the end of the upload arrives.
    lot.move_now();
    let left = between_parts(&lot);
    lot.wire.cut();
    eventually("the move is given up", || {
        lot.appliance.json("GET", "/v1/retention", None)["cold"]["failed"].as_u64().filter(|failed| *failed > 0)
    });
    assert_eq!(uploads(&lot.other).len(), 1);
    lot.wire.mend();
    eventually("its parts go before others are put", || {
        let now = uploads(&lot.other);
        assert!(now.len() <= 1, "{now:?}");
        (now.iter().any(|(key, parts)| *key != left && *parts > 0)).then_some(())
    });

    // The appliance is stopped in order.
    assert_eq!(lot.appliance.stop(), Some(0));
    assert_eq!(lot.there().len(), 0, "no window has moved yet");
    lot.appliance.set("BACKLOT_COLD_WINDOWS_BYTES_S_MAX", "1000000000");
    lot.appliance.start_again();
    eventually("all closed windows are cold", || {
        lot.move_now();
        (lot.cold() == closed).then_some(())
    });
    eventually("nothing is there but these windows", || {
        (lot.there().len() == closed && uploads(&lot.other).is_empty()).then_some(())
    });
    for window in lot.windows().iter().filter(|window| window["cold"] == true) {
        assert!(window["cold_bytes"].as_u64().unwrap() > 5_242_880, "one part would do: {window}");
    }
    assert_eq!(lot.count("service:bulk")["matched"], LARGE_LINES);
    for number in [0, LARGE_LINES / 3, LARGE_LINES / 2] {
        let page = lot.get("/v1/logs", &[("query", &format!("only{number}"))]);
        let records = page["records"].as_array().unwrap();
        assert_eq!(records.len(), 1, "{number}");
        assert_eq!(records[0]["body"], large_line(number)["message"]);
    }
    // Every byte of every part, in its place.
    let lines = lot.try_get("/v1/logs/export", &[("query", "service:bulk"), ("order", "oldest")]).1;
    let bodies = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["body"].clone());
    assert!(bodies.eq((0..LARGE_LINES).map(|number| large_line(number)["message"].clone())));
}
