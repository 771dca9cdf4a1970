//! Traces: spans of a made-up studio in over OTLP, their room on the disk, how soon a trace is there and how soon lists are.
//!
//! Each question is asked over HTTP, as the dashboard and Grafana ask it. A trace is asked for by an id that was not asked for before.

use std::path::Path;
use std::time::{Duration, Instant};

use backlot::edge::otlp::ExportTraceServiceRequest;
use backlot_tests::http;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Any};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::Settings;
use crate::appliance::{Appliance, resident_mib};
use crate::client::Failure;

const TRACES_A_REQUEST: usize = 100;
/// How often each question is asked.
const TIMES: usize = 100;
/// How long the index may lag behind what was sent.
const CATCH_UP_WAIT: Duration = Duration::from_secs(600);
/// Mean time from one trace to the next: ten million spans are an hour and a half.
const STEP_NS: u64 = 5_000_000;
const HOSTS: u64 = 12;
/// One trace in so many is remembered, to be asked for.
const REMEMBERED: u64 = 19;

#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    let wanted = settings.spans as u64;
    let dir = tempfile::tempdir_in(&settings.dir)?;
    let data = dir.path().join("data");
    let appliance = Appliance::start(&data, &dir.path().join("log"))?;
    let now_ns = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
    let begin_ns = u64::try_from(now_ns)? - wanted / SPANS_A_TRACE * STEP_NS;
    let mut studio =
        Studio { chance: ChaCha8Rng::seed_from_u64(11), now_ns: begin_ns, traces: 0, remembered: Vec::new() };

    let (mut sent, mut sent_bytes, mut took, mut peak_mib) = (0_u64, 0_usize, Duration::ZERO, 0_f64);
    let before = super::logs::cpu_s(&appliance)?;
    while sent < wanted {
        let (request, spans) = studio.request();
        let body = request.encode_to_vec();
        sent += spans;
        sent_bytes += body.len();
        let began = Instant::now();
        let headers = [("content-type", "application/x-protobuf")];
        loop {
            let (status, text) = http(&appliance.otlp, "POST", "/v1/traces", &headers, &body);
            match status {
                200 => break,
                503 => std::thread::sleep(Duration::from_millis(50)), // it asks for a pause
                status => return Err(format!("{status}: {text}").into()),
            }
        }
        took += began.elapsed();
        peak_mib = peak_mib.max(appliance.resident_mib()?);
    }
    // Everything that was acknowledged before it can be found when this has its answer; a question waits two seconds at most.
    let last = format!("/v1/traces/{}", studio.remembered.last().ok_or("no trace was made")?);
    let deadline = Instant::now() + CATCH_UP_WAIT;
    while let Err(error) = super::logs::ask(&appliance, &last) {
        if Instant::now() > deadline {
            return Err(error);
        }
    }
    let used_s = super::logs::cpu_s(&appliance)? - before;
    println!("{sent:>12} spans in {} traces, {:.0} MB as OTLP", studio.traces, sent_bytes as f64 / 1e6);
    println!("{:>12.0} spans/s for each core used, OTLP to searchable and durable", sent as f64 / used_s);
    println!("{:>12.0} spans/s while answers were waited for, one sender", sent as f64 / took.as_secs_f64());
    println!("{peak_mib:>12.0} MiB resident at most");
    println!(
        "{:>12.0} bytes a span on the disk",
        super::logs::folder_bytes(&data.join("traces"))? as f64 / sent as f64
    );

    let mut chosen = studio.chosen();
    let mut by_id = |rest: &str| -> Vec<String> {
        (0..TIMES).filter_map(|_| chosen.next()).map(|id| format!("/v1/traces/{id}{rest}")).collect()
    };
    let again = |path: &str| vec![path.to_owned(); TIMES / 4];
    for (what, paths) in [
        ("a trace by its id", by_id("")),
        ("the critical path of a trace", by_id("/critical-path")),
        ("newest 20 of a service", again("/v1/traces?service=agent&limit=20")),
        ("newest 20 that failed, of an operation", again("/v1/traces?operation=infer&status=error&limit=20")),
        ("newest 20 with an attribute", again("/v1/traces?query=shot%3A777&limit=20")),
        ("newest 20 with a slow upload", again("/v1/traces?operation=upload&min_duration=900ms&limit=20")),
        ("the longest 20 of an operation", again("/v1/traces?operation=infer&order=longest&limit=20")),
        ("Jaeger's services", again("/jaeger/api/services")),
        ("Jaeger's operations of a service", again("/jaeger/api/services/agent/operations")),
        ("Jaeger's search, 20 traces", again("/jaeger/api/traces?service=agent&operation=infer&limit=20")),
    ] {
        let mut times = Vec::with_capacity(paths.len());
        for path in &paths {
            times.push(super::logs::ask(&appliance, path)?.1);
        }
        times.sort_unstable();
        let ms = |at: usize| times.get(at).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3);
        let (count, half) = (times.len(), times.len() / 2);
        println!("{:>12.2} ms p50, {:.2} ms the slowest of {count}: {what}", ms(half), ms(count.saturating_sub(1)));
    }
    let path = format!("/v1/traces/{:032x}", 7);
    let mut times = Vec::with_capacity(TIMES);
    for _ in 0..TIMES {
        let began = Instant::now();
        let headers = [("authorization", "Basic dGVzdDp0ZXN0")];
        let (status, text) = http(&appliance.http, "GET", &path, &headers, b"");
        times.push(began.elapsed());
        if status != 404 {
            return Err(format!("{path}: {status} {text}").into());
        }
    }
    times.sort_unstable();
    let ms = |at: usize| times[at].as_secs_f64() * 1e3;
    println!("{:>12.2} ms p50, {:.2} ms the slowest of {TIMES}: an id that is not there", ms(TIMES / 2), ms(TIMES - 1));
    println!("{:>12} windows", windows(&data.join("traces"))?);
    println!("{:>12.0} MiB resident afterwards", appliance.resident_mib()?);
    println!("{:>12.0} MiB resident is this bench", resident_mib("self")?);
    Ok(())
}

fn windows(dir: &Path) -> Result<usize, Failure> {
    Ok(std::fs::read_dir(dir)?.flatten().filter(|entry| entry.path().join("meta.json").exists()).count())
}

/// Spans of one trace on average.
const SPANS_A_TRACE: u64 = 10;

/// Makes traces: a submit at a desk, the job in the appliance, its attempts on a host, and the phases of each.
struct Studio {
    chance: ChaCha8Rng,
    now_ns: u64,
    traces: u64,
    /// Hex ids of some traces.
    remembered: Vec<String>,
}

impl Studio {
    /// The next traces as one request, and how many spans they have.
    fn request(&mut self) -> (ExportTraceServiceRequest, u64) {
        let mut by_origin: Vec<((&'static str, u64), Vec<Span>)> = Vec::new();
        let mut spans = 0;
        for _ in 0..TRACES_A_REQUEST {
            for (origin, span) in self.trace() {
                spans += 1;
                match by_origin.iter_mut().find(|(known, _)| *known == origin) {
                    Some((_, of_it)) => of_it.push(span),
                    None => by_origin.push((origin, vec![span])),
                }
            }
        }
        let group = |((service, host), spans): ((&'static str, u64), Vec<Span>)| ResourceSpans {
            resource: Some(Resource {
                attributes: vec![
                    text("service.name", service),
                    text("host.name", &format!("gpu-{host:02}")),
                    text("service.version", "4.2.1"),
                ],
                ..Resource::default()
            }),
            scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        };
        (ExportTraceServiceRequest { resource_spans: by_origin.into_iter().map(group).collect() }, spans)
    }

    fn trace(&mut self) -> Vec<((&'static str, u64), Span)> {
        let chance = &mut self.chance;
        let trace: [u8; 16] = chance.random();
        self.traces += 1;
        if self.traces.is_multiple_of(REMEMBERED) {
            self.remembered.push(trace.iter().map(|byte| format!("{byte:02x}")).collect());
        }
        self.now_ns += chance.random_range(0..2 * STEP_NS);
        let host = chance.random_range(0..HOSTS);
        let job = format!("01J{:022}", self.traces);
        let ms = 1_000_000_u64;
        let mut made = Vec::with_capacity(12);
        let mut add = |origin, parent: &[u8], name: &str, begin: u64, long: u64, chance: &mut ChaCha8Rng| -> Vec<u8> {
            let id: [u8; 8] = chance.random();
            let span = Span {
                trace_id: trace.to_vec(),
                span_id: id.to_vec(),
                parent_span_id: parent.to_vec(),
                name: name.to_owned(),
                kind: span::SpanKind::Internal as i32,
                start_time_unix_nano: begin,
                end_time_unix_nano: begin + long,
                attributes: vec![text("job.id", &job), number("shot", chance.random_range(0..2000))],
                ..Span::default()
            };
            made.push((origin, span));
            id.to_vec()
        };
        let (desk, house, agent) = (("desk", 99), ("backlot", 98), ("agent", host));
        let begin = self.now_ns;
        let root = add(desk, &[], "POST /v1/jobs", begin, 3 * ms, chance);
        let long = chance.random_range(800..5_000) * ms;
        let own = add(house, &root, "job", begin + ms, long, chance);
        add(house, &own, "queued", begin + ms, 200 * ms, chance);
        let attempt = add(agent, &own, "attempt", begin + 210 * ms, long - 250 * ms, chance);
        let mut at = begin + 215 * ms;
        let share = (long - 260 * ms) / 10;
        for (name, parts) in [("fetch", 1), ("load", 1), ("infer", 5), ("post", 1), ("upload", 1)] {
            add(agent, &attempt, name, at, parts * share, chance);
            at += parts * share;
        }
        for _ in 0..chance.random_range(0..3) {
            add(agent, &attempt, "GET /models", begin + 220 * ms, 5 * ms, chance);
        }
        if chance.random_range(0..50) == 0
            && let Some((_, infer)) = made.iter_mut().find(|(_, span)| span.name == "infer")
        {
            infer.status = Some(Status { message: "CUDA: out of memory".into(), code: StatusCode::Error as i32 });
        }
        made
    }

    /// The remembered ids, spread over all.
    fn chosen(&self) -> impl Iterator<Item = &String> {
        let step = (self.remembered.len() / (2 * TIMES)).max(1);
        self.remembered.iter().step_by(step)
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Any::StringValue(value.to_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    pair(key, Any::IntValue(value))
}

fn pair(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
