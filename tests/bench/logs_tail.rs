//! How soon a record that was sent is seen by who follows the log: records that say when they were sent, 5,000 of them a second.

use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::appliance::Appliance;
use crate::client::Failure;
use crate::logs::send;

const RECORDS_A_SECOND: u32 = 5_000;
const REQUESTS_A_SECOND: u32 = 20;
const SECONDS: u32 = 10;
/// The word of these records.
const MARK: &str = "followed";

/// Sends and follows, and prints how long it took from one to the other.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn run(appliance: &Appliance) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(appliance.http.trim_start_matches("http://"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    // By HTTP/1.0 the answer comes without chunks in between.
    write!(stream, "GET /v1/logs/tail?query={MARK} HTTP/1.0\r\nauthorization: Basic dGVzdDp0ZXN0\r\n\r\n")?;
    let mut lines = BufReader::new(stream).lines();
    for line in lines.by_ref() {
        if line?.contains("following") {
            break; // what is sent from now on is seen
        }
    }
    let began = Instant::now();
    let total = RECORDS_A_SECOND * SECONDS;
    let reader = std::thread::spawn(move || -> Result<(Vec<Duration>, u64), std::io::Error> {
        let (mut delays, mut dropped, mut event) = (Vec::new(), 0, String::new());
        for line in lines {
            let line = line?;
            if let Some(name) = line.strip_prefix("event: ") {
                name.clone_into(&mut event);
            }
            let Some(data) = line.strip_prefix("data: ") else { continue };
            let data: serde_json::Value = serde_json::from_str(data)?;
            if event == "dropped" {
                dropped += data["count"].as_u64().unwrap_or(0);
            } else if let Some(sent) = data["attributes"]["sent_us"].as_u64() {
                delays.push(began.elapsed().saturating_sub(Duration::from_micros(sent)));
            }
            if delays.len() as u64 + dropped >= u64::from(total) {
                break;
            }
        }
        Ok((delays, dropped))
    });
    for request in 0..REQUESTS_A_SECOND * SECONDS {
        let due = Duration::from_secs(1) * request / REQUESTS_A_SECOND;
        std::thread::sleep(due.saturating_sub(began.elapsed()));
        let sent_us = u64::try_from(began.elapsed().as_micros())?;
        let record = json!({
            "body": {"stringValue": format!("a record that is {MARK} from its sender to its reader")},
            "attributes": [{"key": "sent_us", "value": {"intValue": sent_us.to_string()}}],
        });
        let records = vec![record; (RECORDS_A_SECOND / REQUESTS_A_SECOND) as usize];
        let resource = json!({"attributes": [{"key": "service.name", "value": {"stringValue": "bench"}}]});
        let all = json!({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": records}]}]});
        send(appliance, serde_json::from_value(all)?)?;
    }
    let sending = began.elapsed();
    let (mut delays, dropped) = reader.join().map_err(|_| "the reader of the tail failed")??;
    delays.sort_unstable();
    let ms = |part: f64| {
        delays.get((delays.len() as f64 * part) as usize).map_or(f64::NAN, |delay| delay.as_secs_f64() * 1e3)
    };
    println!(
        "{:>12.0} ms p99, {:.0} ms p50, {:.0} ms the slowest: a record sent to the record seen in the tail, {:.0} a second, {dropped} dropped",
        ms(0.99),
        ms(0.5),
        delays.last().map_or(f64::NAN, |delay| delay.as_secs_f64() * 1e3),
        f64::from(total) / sending.as_secs_f64(),
    );
    Ok(())
}
