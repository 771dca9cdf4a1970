//! Windows in another S3: the same questions of windows that rest here, and of the same windows when they lie in a second appliance.
//!
//! There, each question is asked first with an empty cache (the appliance is started anew for it), with the bytes and requests that it took, and then
//! again and again, when what it reads is here.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use backlot_tests::corpus::{Corpus, to_otlp};
use backlot_tests::http;
use serde_json::{Value, json};

use crate::Settings;
use crate::appliance::Appliance;
use crate::client::Failure;
use crate::logs::{BYTES, LINES_A_REQUEST, RARE, TIMES, ask, ask_often, asked_of, send};

const CLASS: &str = "bench";
/// The lines end so long ago: they have windows of their own, whenever they arrive.
const AGO_NS: u64 = 3 * 3_600_000_000_000;
/// How long windows may take to be closed, to rest, or to move.
const WAIT: Duration = Duration::from_secs(3_600);
/// Just below the longest body that is kept whole.
const FILLER_BYTES: usize = (1 << 20) - 1024;
/// More of them than any window takes.
const FILLERS_MAX: usize = 1_100;

/// What is started, and how.
struct Lot<'a> {
    dir: &'a Path,
    settings: Vec<(&'static str, String)>,
}

impl Lot<'_> {
    fn start(&self) -> Result<Appliance, Failure> {
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Appliance::start_with(&self.dir.join("data"), &self.dir.join("log"), &settings)
    }
}

pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    let raw_bytes = settings.bytes.unwrap_or(BYTES);
    let dir = tempfile::tempdir_in(&settings.dir)?;
    let other = Appliance::start(&dir.path().join("other"), &dir.path().join("other.log"))?;
    let lot = Lot { dir: dir.path(), settings: configure(dir.path(), raw_bytes, &other)? };
    let appliance = lot.start()?;
    let (range, lines) = fill(&appliance, raw_bytes)?;
    println!("{:>12.0} MB of lines, {lines} of them", raw_bytes as f64 / 1e6);
    drop(appliance);

    let appliance = lot.start()?; // closed windows are merged at a start
    let rests = |window: &Value| window["closed"] != true || window["rests"] == true;
    let resting = until(&appliance, "closed windows rest", rests)?;
    let here_bytes = sum(&resting, "disk_bytes");
    let (windows, part) = (resting.len(), here_bytes / raw_bytes as f64);
    println!("{:>12.0} MB on the disk in {windows} windows that rest, {part:.3} of the raw lines", here_bytes / 1e6);
    whole(&appliance, &range, lines)?;
    let here = asked_of(&range).map(|(_, path)| ask_often(&appliance, &path));

    let (cold, took) = move_all(&appliance)?;
    let there_bytes = sum(&cold, "cold_bytes");
    let speed = there_bytes / 1e6 / took.as_secs_f64();
    println!("{speed:>12.0} MB/s moved, {:.0} MB in the other S3", there_bytes / 1e6);
    println!("{:>12.4} of them stays here", sum(&cold, "disk_bytes") / there_bytes);
    whole(&appliance, &range, lines)?;
    drop(appliance);

    println!("ms; p50 of {TIMES} but the first question there:");
    println!("{:>10} {:>12} {:>11} {:>9} {:>10}", "here", "there, first", "MB fetched", "requests", "then");
    for ((what, path), here) in asked_of(&range).into_iter().zip(here) {
        let (here_ms, _) = here?;
        let appliance = lot.start()?; // the cache is empty
        let first_ms = ask(&appliance, &path)?.1.as_secs_f64() * 1e3;
        let (fetched, requests) = fetched(&appliance)?;
        let (then_ms, _) = ask_often(&appliance, &path)?;
        let fetched_mb = fetched / 1e6;
        println!("{here_ms:>10.2} {first_ms:>12.1} {fetched_mb:>11.2} {requests:>9} {then_ms:>10.2}  {what}");
    }
    Ok(())
}

/// The settings of an appliance whose windows of [`CLASS`] have a quarter of all lines each, or a gigabyte, and move to `other` when they are told to.
fn configure(dir: &Path, raw_bytes: usize, other: &Appliance) -> Result<Vec<(&'static str, String)>, Failure> {
    let (key, file) = (dir.join("cold.key"), dir.join("backlot.toml"));
    std::fs::write(&key, "[default]\naws_access_key_id = test\naws_secret_access_key = test\n")?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    let class =
        format!("name = \"{CLASS}\"\nmatch = \"-service:backlot\"\ndays = 30\nbytes = {raw_bytes}\ncold_days = 1\n");
    std::fs::write(&file, format!("[[logs.class]]\n{class}"))?;
    Ok(vec![
        ("BACKLOT_CONFIG", file.display().to_string()),
        ("BACKLOT_COLD_WINDOWS_BUCKET", "studio".to_owned()),
        ("BACKLOT_COLD_WINDOWS_ENDPOINT", other.aws.clone()),
        ("BACKLOT_COLD_WINDOWS_CREDENTIALS", format!("file:{}", key.display())),
        ("BACKLOT_COLD_WINDOWS_BYTES_S_MAX", "10000000000".to_owned()),
    ])
}

/// Sends all lines, and then others until the windows of these are closed; the lines' time as parameters, and how many they are.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn fill(appliance: &Appliance, raw_bytes: usize) -> Result<(String, u64), Failure> {
    let now_ns = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let begin_ns = u64::try_from(now_ns)? - AGO_NS - raw_bytes as u64 / 400 * 2_000_000;
    let mut corpus = Corpus::new(7, begin_ns);
    let (mut sent_bytes, mut lines_sent, mut rare_at, mut last_ns) = (0, 0_u64, 0, begin_ns);
    while sent_bytes < raw_bytes {
        let mut lines: Vec<_> = corpus.by_ref().take(LINES_A_REQUEST).collect();
        if sent_bytes >= rare_at {
            lines[0].body = format!("{} {RARE}", lines[0].body);
            rare_at += raw_bytes / 10;
        }
        sent_bytes += lines.iter().map(|line| line.to_json().len() + 1).sum::<usize>();
        lines_sent += lines.len() as u64;
        last_ns = lines.iter().map(|line| line.time_ns).fold(last_ns, u64::max);
        send(appliance, serde_json::from_value(to_otlp(&lines))?)?;
    }
    // Both ends are whole milliseconds, and the later one is included.
    let range = format!("from={}&to={}", begin_ns / 1_000_000, last_ns / 1_000_000 + 1);
    whole(appliance, &range, lines_sent)?;
    let closed = || -> Result<usize, Failure> {
        Ok(windows(appliance)?.iter().filter(|window| window["closed"] == true).count())
    };
    let before = closed()?;
    let filler = json!({
        "timeUnixNano": (last_ns + 60_000_000_000).to_string(),
        "body": {"stringValue": "x".repeat(FILLER_BYTES)},
    });
    let resource = json!({"attributes": [{"key": "service.name", "value": {"stringValue": "filler"}}]});
    let request = json!({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [filler]}]}]});
    for _ in 0..FILLERS_MAX {
        send(appliance, serde_json::from_value(request.clone())?)?;
        whole(appliance, &range, lines_sent)?; // an answer tells that everything before it is indexed
        if closed()? > before {
            return Ok((range, lines_sent));
        }
    }
    Err("the last window of the lines was not closed".into())
}

/// Whether all lines are found.
fn whole(appliance: &Appliance, range: &str, lines: u64) -> Result<(), Failure> {
    let told = ask(appliance, &format!("/v1/logs/values?name=level&query=-service%3Abacklot&{range}"))?.0;
    match told["matched"].as_u64() == Some(lines) {
        true => Ok(()),
        false => Err(format!("{lines} lines were sent and {} are found", told["matched"]).into()),
    }
}

/// What is told of the windows of the class.
fn windows(appliance: &Appliance) -> Result<Vec<Value>, Failure> {
    let told = ask(appliance, "/v1/retention")?.0;
    let windows = told["windows"].as_array().ok_or("no windows are told")?;
    Ok(windows.iter().filter(|window| window["class"] == CLASS).cloned().collect())
}

/// Waits until all windows are so; gives those that are closed.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn until(appliance: &Appliance, what: &str, test: impl Fn(&Value) -> bool) -> Result<Vec<Value>, Failure> {
    let began = Instant::now();
    while began.elapsed() < WAIT {
        let windows = windows(appliance)?;
        if windows.iter().all(&test) {
            return Ok(windows.into_iter().filter(|window| window["closed"] == true).collect());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(format!("in vain: {what}").into())
}

/// Moves all windows that rest; what is told of them then, and how long that took.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
fn move_all(appliance: &Appliance) -> Result<(Vec<Value>, Duration), Failure> {
    let began = Instant::now();
    let headers = [("authorization", "Basic dGVzdDp0ZXN0"), ("content-type", "application/json")];
    let body = json!({"class": CLASS}).to_string();
    let (status, text) = http(&appliance.http, "POST", "/v1/retention/move", &headers, body.as_bytes());
    if status != 202 {
        return Err(format!("move: {status} {text}").into());
    }
    let is_cold = |window: &Value| window["closed"] != true || window["cold"] == true;
    Ok((until(appliance, "all windows are cold", is_cold)?, began.elapsed()))
}

fn sum(windows: &[Value], name: &str) -> f64 {
    windows.iter().filter_map(|window| window[name].as_f64()).sum()
}

/// Bytes and requests that searches have taken from the other S3 since the start.
fn fetched(appliance: &Appliance) -> Result<(f64, u64), Failure> {
    let (status, text) = http(&appliance.http, "GET", "/metrics", &[("authorization", "Basic dGVzdDp0ZXN0")], b"");
    if status != 200 {
        return Err(format!("/metrics: {status} {text}").into());
    }
    let sum = |begin: &str| {
        let of = text.lines().filter(|line| line.starts_with(begin));
        of.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum::<f64>()
    };
    Ok((sum("backlot_windows_cold_read_bytes_total"), sum("backlot_windows_cold_reads_total") as u64))
}
