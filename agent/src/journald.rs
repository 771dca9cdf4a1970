//! The host's journal, of the units that are configured, shipped to the appliance as log records.
//!
//! `journalctl` is followed from a cursor that lies on disk and moves when the appliance has said that records are durable: over
//! restarts of either side nothing is lost, and what was under way may come twice. While the appliance is away nothing is read, and the
//! journal, which has its own limits, keeps what is written.
//!
//! What is absent on purpose: no library of systemd, and nothing of the journal from before the first start.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::http_client::HttpClient;

/// Longest entry that is read. Bytes that are no text are written as numbers, four letters each.
const LINE_BYTES_MAX: usize = 6 << 20;
/// What one request holds, and how long it waits for more.
const BATCH_MAX: usize = 1000;
const BATCH_BYTES_MAX: usize = 1 << 20;
const BATCH_WAIT: Duration = Duration::from_millis(300);
const SEND_TIMEOUT: Duration = Duration::from_secs(15);
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Runs of `journalctl` that end without a word before its cursor is taken for one that the journal does not know any more.
const SILENT_RUNS_MAX: u32 = 3;
/// Longest value of a field that a program has added.
const VALUE_BYTES_MAX: usize = 16 * 1024;
const FIELDS_MAX: usize = 64;

/// Where the appliance has everything up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    cursor: String,
    /// When its entry was written, in microseconds since 1970: for a journal that does not know the cursor.
    time_us: u64,
}

/// An entry as it is shipped.
#[derive(Debug, PartialEq)]
struct Entry {
    place: Place,
    /// Who wrote it, as attributes of a resource.
    resource: BTreeMap<&'static str, String>,
    record: Value,
    bytes: usize,
}

/// What is followed, and where it goes.
pub struct Journald {
    units: Vec<String>,
    client: HttpClient,
    /// Of the OTLP HTTP door.
    url: String,
    authorization: String,
    cursor_file: PathBuf,
}

impl Journald {
    /// Follows `units`, `*` being all; `otlp` is the base address of the door. The cursor is kept in `dir`.
    #[must_use]
    pub fn new(units: &[String], client: HttpClient, otlp: &str, authorization: String, dir: &Path) -> Self {
        let url = format!("{}/v1/logs", otlp.trim_end_matches('/'));
        Self { units: units.to_vec(), client, url, authorization, cursor_file: dir.join("journald.cursor") }
    }

    /// Follows until it is dropped.
    pub async fn run(self) {
        let (mut pause, mut silent_runs) = (PAUSE_MIN, 0);
        loop {
            let place = read_place(&self.cursor_file);
            match self.follow(place, silent_runs >= SILENT_RUNS_MAX).await {
                Ok(true) => (pause, silent_runs) = (PAUSE_MIN, 0),
                Ok(false) => silent_runs += 1,
                Err(problem) => warn!(%problem, "the host's journal is not read"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One run of `journalctl`. False: it has said nothing.
    async fn follow(&self, place: Option<Place>, by_time: bool) -> std::io::Result<bool> {
        let mut child = start(&self.units, place.as_ref(), by_time)?;
        let Some(stdout) = child.stdout.take() else { return Ok(false) };
        let mut lines = BufReader::with_capacity(64 * 1024, stdout);
        let mut has_spoken = false;
        loop {
            let mut batch = Vec::new();
            let is_over = self.gather(&mut lines, &mut batch).await?;
            has_spoken |= !batch.is_empty();
            if let Some(last) = batch.last().map(|entry: &Entry| entry.place.clone()) {
                self.ship(batch).await;
                if let Err(error) = write_place(&self.cursor_file, &last) {
                    warn!(%error, file = %self.cursor_file.display(), "the place in the host's journal is not written down");
                }
            }
            if is_over {
                let ended = child.wait().await?;
                info!(%ended, "journalctl has ended; it is started again");
                return Ok(has_spoken);
            }
        }
    }

    /// Waits for an entry and takes what comes soon after it. True: there is no more.
    async fn gather(&self, lines: &mut (impl AsyncBufRead + Unpin), batch: &mut Vec<Entry>) -> std::io::Result<bool> {
        let mut bytes = 0;
        while batch.len() < BATCH_MAX && bytes < BATCH_BYTES_MAX {
            // A wait that is given up must not lose what it had read, so it is for the first bytes alone.
            if !batch.is_empty() {
                match timeout(BATCH_WAIT, lines.fill_buf()).await {
                    Ok(filled) => drop(filled?),
                    Err(_) => return Ok(false),
                }
            }
            match next_line(lines).await? {
                Line::End => return Ok(true),
                Line::TooLong => warn!("an entry of the host's journal is too long to be shipped"),
                Line::Whole(line) => match entry(&line) {
                    Some(entry) => {
                        bytes += entry.bytes;
                        batch.push(entry);
                    }
                    None => warn!("journalctl has written what is no entry"),
                },
            }
        }
        Ok(false)
    }

    /// Sends until the appliance has answered that it has them, or that it never will.
    async fn ship(&self, batch: Vec<Entry>) {
        let count = batch.len();
        let body = Bytes::from(request(batch).to_string());
        let (mut pause, mut is_away) = (PAUSE_MIN, false);
        loop {
            let asked = Request::builder()
                .method(Method::POST)
                .uri(&self.url)
                .header(http::header::CONTENT_TYPE, "application/json")
                .header(http::header::AUTHORIZATION, &self.authorization)
                .body(body.clone());
            let problem = match asked {
                Err(error) => error.to_string(),
                Ok(asked) => match self.client.send(asked, SEND_TIMEOUT).await {
                    Ok(answer) if answer.status().is_success() => return,
                    Ok(answer)
                        if matches!(answer.status(), StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE) =>
                    {
                        warn!(count, status = %answer.status(), "the appliance does not take entries of the host's journal; they are left out");
                        return;
                    }
                    Ok(answer) => answer.status().to_string(),
                    Err(error) => error.to_string(),
                },
            };
            if !std::mem::replace(&mut is_away, true) {
                warn!(problem, "the host's journal waits for the appliance");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

fn start(units: &[String], place: Option<&Place>, by_time: bool) -> std::io::Result<Child> {
    let mut command = Command::new("journalctl");
    // Long fields whole, and of what there is behind the cursor all.
    command.args(["--output=json", "--follow", "--all", "--no-pager", "--quiet"]);
    match place {
        Some(place) if by_time => {
            warn!("the journal does not know where it was read up to; it is read from that time on");
            command.args(["--no-tail".to_owned(), format!("--since=@{}", place.time_us / 1_000_000)]);
        }
        Some(place) => {
            command.args(["--no-tail".to_owned(), format!("--after-cursor={}", place.cursor)]);
        }
        None => {
            command.arg("--lines=0");
        }
    }
    if !units.iter().any(|unit| unit == "*") {
        command.args(units.iter().map(|unit| format!("--unit={unit}")));
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn()
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

async fn next_line(lines: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Line> {
    let (mut line, mut is_long) = (Vec::new(), false);
    loop {
        let filled = lines.fill_buf().await?;
        if filled.is_empty() {
            return Ok(Line::End); // half a line comes again
        }
        let end = filled.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(filled.len());
        if line.len() + taken > LINE_BYTES_MAX {
            is_long = true;
            line = Vec::new();
        }
        if !is_long {
            line.extend_from_slice(&filled[..taken]);
        }
        lines.consume(taken + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(if is_long { Line::TooLong } else { Line::Whole(line) });
        }
    }
}

/// What `journalctl -o json` writes of one entry. A field is a text, bytes that are no text as a list of numbers, or several of these.
fn entry(line: &[u8]) -> Option<Entry> {
    let mut fields: Map<String, Value> = serde_json::from_slice(line).ok()?;
    let mut take = |name: &str| fields.remove(name).as_ref().and_then(text);
    let time_us = take("__REALTIME_TIMESTAMP")?.parse().ok()?;
    let place = Place { cursor: take("__CURSOR")?, time_us };
    let said_us = take("_SOURCE_REALTIME_TIMESTAMP").and_then(|text| text.parse::<u64>().ok());
    let message = take("MESSAGE").unwrap_or_default();
    let priority = take("PRIORITY").and_then(|text| text.parse::<usize>().ok());
    let unit = take("_SYSTEMD_UNIT").or_else(|| take("UNIT"));
    let identifier = take("SYSLOG_IDENTIFIER");
    let service = unit.as_deref().map(|unit| unit.strip_suffix(".service").unwrap_or(unit).to_owned());
    let mut resource = BTreeMap::new();
    resource.extend(take("_HOSTNAME").map(|host| ("host.name", host)));
    resource.extend(service.or_else(|| identifier.clone()).map(|service| ("service.name", service)));
    resource.extend(unit.map(|unit| ("systemd.unit", unit)));
    let pid = take("_PID").or_else(|| take("SYSLOG_PID")).and_then(|text| text.parse::<i64>().ok());
    let mut attributes = Vec::new();
    let mut attribute = |name: &str, value: Value| attributes.push(json!({"key": name, "value": value}));
    if let Some(pid) = pid {
        attribute("process.pid", json!({"intValue": pid.to_string()}));
    }
    if let Some(priority) = priority {
        attribute("syslog.priority", json!({"intValue": priority.to_string()}));
    }
    if let Some(identifier) = identifier {
        attribute("syslog.identifier", json!({"stringValue": identifier}));
    }
    // What the journal says of itself begins with `_`; the rest was said by the program.
    let others = fields.iter().filter(|(name, _)| !name.starts_with('_') && !name.starts_with("SYSLOG_"));
    for (name, value) in others.take(FIELDS_MAX) {
        if let Some(value) = text(value) {
            let value = &value[..value.floor_char_boundary(VALUE_BYTES_MAX)];
            attribute(&name.to_ascii_lowercase(), json!({"stringValue": value}));
        }
    }
    let time_ns = said_us.unwrap_or(time_us).saturating_mul(1000);
    // OTLP's numbers of syslog's eight severities.
    let severity = priority.and_then(|priority| [21, 19, 18, 17, 13, 10, 9, 5].get(priority).copied()).unwrap_or(0);
    let record = json!({
        "timeUnixNano": time_ns.to_string(),
        "severityNumber": severity,
        "body": {"stringValue": message},
        "attributes": attributes,
    });
    Some(Entry { place, resource, record, bytes: line.len() })
}

/// A field as text. Of several, the last.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(bytes) if bytes.iter().all(Value::is_number) => {
            let bytes: Option<Vec<u8>> = bytes.iter().map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        }
        Value::Array(several) => several.last().and_then(text),
        _ => None,
    }
}

/// Entries of the same unit and host belong together.
fn request(batch: Vec<Entry>) -> Value {
    let mut groups: Vec<(BTreeMap<&'static str, String>, Vec<Value>)> = Vec::new();
    for Entry { resource, record, .. } in batch {
        match groups.iter_mut().rev().find(|(of, _)| *of == resource) {
            Some((_, records)) => records.push(record),
            None => groups.push((resource, vec![record])),
        }
    }
    let group = |(resource, records): (BTreeMap<&'static str, String>, Vec<Value>)| {
        let pair = |(name, value): (&'static str, String)| json!({"key": name, "value": {"stringValue": value}});
        let attributes: Vec<_> = resource.into_iter().map(pair).collect();
        let scope = json!({"scope": {"name": "journald"}, "logRecords": records});
        json!({"resource": {"attributes": attributes}, "scopeLogs": [scope]})
    };
    json!({"resourceLogs": groups.into_iter().map(group).collect::<Vec<_>>()})
}

fn read_place(path: &Path) -> Option<Place> {
    let bytes = std::fs::read(path).ok()?;
    serde_json::from_slice(&bytes)
        .map_err(|error| warn!(%error, file = %path.display(), "begins with what is written now"))
        .ok()
}

/// Synced before it takes the other's place: an empty file would mean to begin with what is written now.
fn write_place(path: &Path, place: &Place) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(&serde_json::to_vec(place)?)?;
    file.sync_data()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_is_a_record_with_unit_process_priority_and_host() {
        let line = json!({
            "__CURSOR": "s=1;i=2", "__REALTIME_TIMESTAMP": "1763812800000001", "_SOURCE_REALTIME_TIMESTAMP": "1763812800000000",
            "MESSAGE": "first\nsecond", "PRIORITY": "3", "_SYSTEMD_UNIT": "render.service", "SYSLOG_IDENTIFIER": "python3",
            "_PID": "71", "_HOSTNAME": "gpu-7", "_EXE": "/usr/bin/python3", "SHOT": ["a", "b"], "CODE_LINE": "7", "GONE": null,
        });
        let made = entry(line.to_string().as_bytes()).unwrap();
        assert_eq!(made.place, Place { cursor: "s=1;i=2".into(), time_us: 1_763_812_800_000_001 });
        let resource = [("host.name", "gpu-7"), ("service.name", "render"), ("systemd.unit", "render.service")];
        assert_eq!(made.resource, resource.map(|(name, value)| (name, value.to_owned())).into());
        let said = |name: &str, value: &str| json!({"key": name, "value": {"stringValue": value}});
        let expected = json!({
            "timeUnixNano": "1763812800000000000", "severityNumber": 17, "body": {"stringValue": "first\nsecond"},
            "attributes": [
                {"key": "process.pid", "value": {"intValue": "71"}}, {"key": "syslog.priority", "value": {"intValue": "3"}},
                said("syslog.identifier", "python3"), said("code_line", "7"), said("shot", "b"),
            ],
        });
        assert_eq!(made.record, expected);
        let bytes = json!({"__CURSOR": "c", "__REALTIME_TIMESTAMP": "1", "MESSAGE": [104, 105, 255], "SYSLOG_IDENTIFIER": "kernel"});
        let made = entry(bytes.to_string().as_bytes()).unwrap();
        assert_eq!(made.record["body"]["stringValue"], "hi\u{fffd}");
        assert_eq!(made.resource["service.name"], "kernel");
        for wrong in ["", "[]", "{}", r#"{"__CURSOR": 1}"#, r#"{"__CURSOR":"c","__REALTIME_TIMESTAMP":"x"}"#] {
            assert_eq!(entry(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn lines_are_bounded_and_half_a_line_is_none() {
        let mut bytes = b"one\n".to_vec();
        bytes.extend(vec![b'x'; LINE_BYTES_MAX + 1]);
        bytes.extend(b"\ntwo\nhalf");
        let mut lines = BufReader::with_capacity(1000, bytes.as_slice());
        let mut told = Vec::new();
        loop {
            match next_line(&mut lines).await.unwrap() {
                Line::Whole(line) => told.push(String::from_utf8(line).unwrap()),
                Line::TooLong => told.push("too long".to_owned()),
                Line::End => break,
            }
        }
        assert_eq!(told, ["one", "too long", "two"]);
    }

    #[test]
    fn the_place_survives_and_one_that_does_not_read_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cursor");
        assert_eq!(read_place(&path), None);
        let place = Place { cursor: "s=ä;i=1".into(), time_us: 7 };
        write_place(&path, &place).unwrap();
        assert_eq!(read_place(&path), Some(place));
        std::fs::write(&path, "").unwrap();
        assert_eq!(read_place(&path), None);
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in r#"\{("(MESSAGE|PRIORITY|_PID|__CURSOR|a)":("[^"]{0,5}"|[0-9]{1,4}|null|\[[0-9,]{0,6}\]|\{\}),?){0,5}\}"#) {
            entry(line.as_bytes());
        }
    }
}
