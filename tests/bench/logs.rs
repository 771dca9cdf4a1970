//! Log search: lines of a made-up studio in over OTLP, their room on the disk, how soon questions are answered.
//!
//! Rates are of the raw lines as NDJSON, per second of CPU that the appliance used. A question is asked over HTTP, as the dashboard asks it.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use backlot::edge::otlp::ExportLogsServiceRequest;
use backlot_tests::corpus::{Corpus, to_otlp};
use backlot_tests::http;
use prost::Message as _;

use crate::Settings;
use crate::appliance::{Appliance, resident_mib};
use crate::client::Failure;
use crate::{logs_peers, logs_rest, logs_tail};

pub(crate) const LINES_A_REQUEST: usize = 1000;
/// How often each question is asked.
pub(crate) const TIMES: usize = 40;
pub(crate) const BYTES: usize = 256 << 20;
/// A word that ten lines have, whatever there are.
pub(crate) const RARE: &str = "zyzzyva";

#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    let raw_bytes = settings.bytes.unwrap_or(BYTES);
    let dir = tempfile::tempdir_in(&settings.dir)?;
    let data = dir.path().join("data");
    let appliance = Appliance::start(&data, &dir.path().join("log"))?;
    let now_ns = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    // The lines end about now: 400 bytes each, 500 a second.
    let begin_ns = u64::try_from(now_ns)? - raw_bytes as u64 / 400 * 2_000_000;
    let mut corpus = Corpus::new(7, begin_ns);
    let raw = dir.path().join("lines.ndjson");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&raw)?);
    let mut rare_at = 0;

    let (mut sent_bytes, mut lines_sent, mut took, mut peak_mib) = (0, 0_u64, Duration::ZERO, 0_f64);
    let before = cpu_s(&appliance)?;
    while sent_bytes < raw_bytes {
        let mut lines: Vec<_> = corpus.by_ref().take(LINES_A_REQUEST).collect();
        if sent_bytes >= rare_at {
            lines[0].body = format!("{} {RARE}", lines[0].body);
            rare_at += raw_bytes / 10;
        }
        for line in &lines {
            let text = line.to_json();
            sent_bytes += text.len() + 1;
            if !settings.alone {
                writeln!(file, "{text}")?;
            }
        }
        lines_sent += lines.len() as u64;
        took += send(&appliance, serde_json::from_value(to_otlp(&lines))?)?;
        peak_mib = peak_mib.max(appliance.resident_mib()?);
    }
    // Everything that was acknowledged can be found when this has its answer.
    let matched = ask(&appliance, "/v1/logs/values?name=level&query=-service%3Abacklot")?.0["matched"].as_u64();
    if matched != Some(lines_sent) {
        return Err(format!("{lines_sent} lines were sent and {matched:?} are found").into());
    }
    let used_s = cpu_s(&appliance)? - before;
    let mb = sent_bytes as f64 / 1e6;
    println!("{:>12.0} MB of lines, {lines_sent} of them", mb);
    println!("{:>12.1} MB/s for each core used, OTLP to searchable and durable", mb / used_s);
    println!("{:>12.1} MB/s while answers were waited for, one sender", mb / took.as_secs_f64());
    println!("{:>12.0} MiB resident at most", peak_mib);
    println!(
        "{:>12.3} of the raw lines on the disk while hot",
        folder_bytes(&data.join("logs"))? as f64 / sent_bytes as f64
    );

    questions(&appliance)?;
    logs_tail::run(&appliance)?;
    // None of the tail's records answers to it, and no index says so: each is read.
    let (p50, slowest) = ask_often(&appliance, &regular("from=24h"))?;
    println!(
        "{p50:>12.2} ms p50, {slowest:.2} ms the slowest of {TIMES}: the regular expression again, below the tail's records"
    );
    println!("{:>12.0} MiB resident afterwards", appliance.resident_mib()?);
    logs_rest::run(&appliance, &data.join("logs"), sent_bytes as f64 / lines_sent as f64)?;
    println!("{:>12.0} MiB resident is this bench", resident_mib("self")?);
    drop(appliance);
    file.flush()?;
    if settings.alone { Ok(()) } else { logs_peers::run(&raw, dir.path()) }
}

/// Asks each question often, and prints how long its answers took.
pub(crate) fn questions(appliance: &Appliance) -> Result<(), Failure> {
    for (what, path) in asked_of("from=24h") {
        let (p50, slowest) = ask_often(appliance, &path)?;
        println!("{p50:>12.2} ms p50, {slowest:.2} ms the slowest of {TIMES}: {what}");
    }
    Ok(())
}

/// What is asked, and how, of a stretch of time.
pub(crate) fn asked_of(range: &str) -> [(&'static str, String); 9] {
    [
        ("newest 100 of a level", format!("/v1/logs?limit=100&query=level%3Aerror&{range}")),
        ("newest 100 of a host and a level", format!("/v1/logs?limit=100&query=host%3Agpu-07%20level%3Aerror&{range}")),
        ("newest 100 with a phrase", format!("/v1/logs?limit=100&query=%22out%20of%20memory%22&{range}")),
        ("newest 100 of a regular expression", regular(range)),
        ("a rare word", format!("/v1/logs?limit=100&query={RARE}&{range}")),
        ("histogram of all by level", format!("/v1/logs/histogram?by=level&{range}")),
        ("top values of a host's jobs", format!("/v1/logs/values?name=job&query=host%3Agpu-07&{range}")),
        ("percentiles of a number", format!("/v1/logs/numbers?name=duration_ms&{range}")),
        ("patterns", format!("/v1/logs/patterns?{range}")),
    ]
}

fn regular(range: &str) -> String {
    format!("/v1/logs?limit=100&query=%2Fstep%201.%20of%2F&{range}")
}

/// Asks it [`TIMES`] times: milliseconds of the one in the middle, and of the slowest.
pub(crate) fn ask_often(appliance: &Appliance, path: &str) -> Result<(f64, f64), Failure> {
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        times.push(ask(appliance, path)?.1);
    }
    times.sort_unstable();
    let ms = |at: usize| times[at].as_secs_f64() * 1e3;
    Ok((ms(TIMES / 2), ms(TIMES - 1)))
}

/// Sends lines until they are taken; how long that took.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn send(appliance: &Appliance, lines: ExportLogsServiceRequest) -> Result<Duration, Failure> {
    let body = lines.encode_to_vec();
    let began = Instant::now();
    let headers = [("content-type", "application/x-protobuf")];
    loop {
        let (status, text) = http(&appliance.otlp, "POST", "/v1/logs", &headers, &body);
        match status {
            200 => return Ok(began.elapsed()),
            503 => std::thread::sleep(Duration::from_millis(50)), // it asks for a pause
            status => return Err(format!("{status}: {text}").into()),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn ask(appliance: &Appliance, path: &str) -> Result<(serde_json::Value, Duration), Failure> {
    let began = Instant::now();
    let headers = [("authorization", "Basic dGVzdDp0ZXN0")];
    let (status, text) = http(&appliance.http, "GET", path, &headers, b"");
    let took = began.elapsed();
    if status != 200 {
        return Err(format!("{path}: {status} {text}").into());
    }
    Ok((serde_json::from_str(&text)?, took))
}

/// Seconds of CPU that the appliance has used.
pub(crate) fn cpu_s(appliance: &Appliance) -> Result<f64, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", appliance.id()))?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    // User and system time are the 12th and 13th after the name, in hundredths of a second on Linux.
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(ticks / 100.0)
}

pub(crate) fn folder_bytes(dir: &Path) -> Result<u64, Failure> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { folder_bytes(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}
