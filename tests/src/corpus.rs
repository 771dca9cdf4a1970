//! A studio's log lines, made up: agents, ffmpeg, models and HTTP servers on a few GPU hosts. The same seed gives the same
//! lines, any number of them.
//!
//! Jobs come and go, so that ids repeat for a while and then never again; most lines are of a few dozen shapes with numbers in
//! them, some have words of their own (prompts), one in some thousands carries a stack trace.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// Jobs that are under way at once.
const JOBS: usize = 48;
const HOSTS: usize = 12;
/// Mean time from one line to the next.
const STEP_NS: u64 = 2_000_000;

/// One line.
#[derive(Clone, Debug)]
pub struct Line {
    pub time_ns: u64,
    /// OTLP's number.
    pub severity: u8,
    pub service: &'static str,
    pub host: String,
    pub scope: &'static str,
    pub job: Option<String>,
    pub attempt: Option<String>,
    /// Hex.
    pub trace_id: Option<String>,
    pub span_id: Option<String>,
    pub body: String,
    pub attributes: Map<String, Value>,
}

impl Line {
    #[must_use]
    pub fn level(&self) -> &'static str {
        match self.severity {
            0..=8 => "debug",
            9..=12 => "info",
            13..=16 => "warn",
            _ => "error",
        }
    }

    /// As a JSON logger would write it, without the line's end.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut all = Map::new();
        let mut put = |name: &str, value: &str| {
            all.insert(name.to_owned(), value.into());
        };
        put("time", &time(self.time_ns));
        put("level", self.level());
        put("service", self.service);
        put("host", &self.host);
        put("scope", self.scope);
        let ids =
            [("job", &self.job), ("attempt", &self.attempt), ("trace_id", &self.trace_id), ("span_id", &self.span_id)];
        for (name, id) in ids {
            if let Some(id) = id {
                put(name, id);
            }
        }
        put("message", &self.body);
        all.extend(self.attributes.clone());
        Value::Object(all).to_string()
    }
}

/// Lines as one request of OTLP in JSON, each service of a host its own resource.
#[must_use]
pub fn to_otlp(lines: &[Line]) -> Value {
    let text = |name: &str, value: &str| json!({"key": name, "value": {"stringValue": value}});
    let value = |value: &Value| match value {
        Value::String(text) => json!({"stringValue": text}),
        Value::Number(number) if number.is_f64() => json!({"doubleValue": number}),
        other => json!({"intValue": other.to_string()}),
    };
    let mut resources = std::collections::BTreeMap::<_, Vec<Value>>::new();
    for line in lines {
        let mut attributes: Vec<_> =
            line.attributes.iter().map(|(name, of)| json!({"key": name, "value": value(of)})).collect();
        let ids = [("job.id", &line.job), ("job.attempt", &line.attempt)];
        attributes.extend(ids.iter().filter_map(|(name, id)| Some(text(name, id.as_deref()?))));
        resources.entry((line.service, line.host.as_str(), line.scope)).or_default().push(json!({
            "timeUnixNano": line.time_ns.to_string(), "severityNumber": line.severity, "body": {"stringValue": line.body},
            "traceId": line.trace_id, "spanId": line.span_id, "attributes": attributes,
        }));
    }
    let resources: Vec<_> = resources
        .into_iter()
        .map(|((service, host, scope), records)| {
            json!({
                "resource": {"attributes": [text("service.name", service), text("host.name", host)]},
                "scopeLogs": [{"scope": {"name": scope}, "logRecords": records}],
            })
        })
        .collect();
    json!({"resourceLogs": resources})
}

fn time(time_ns: u64) -> String {
    let seconds = backlot_wire::Timestamp(time_ns / 1_000_000).to_rfc3339();
    format!("{}.{:09}Z", seconds.split('.').next().unwrap_or_default(), time_ns % 1_000_000_000)
}

struct Job {
    id: String,
    attempt: String,
    trace_id: String,
    host: usize,
    gpu: u8,
    step: u32,
    steps: u32,
    lines_left: u32,
}

/// Lines without an end.
pub struct Corpus {
    random: ChaCha8Rng,
    now_ns: u64,
    jobs: Vec<Job>,
}

impl Corpus {
    /// Lines from `begin_ns` on, 500 a second.
    #[must_use]
    pub fn new(seed: u64, begin_ns: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let jobs = (0..JOBS).map(|_| job(&mut random)).collect();
        Self { random, now_ns: begin_ns, jobs }
    }
}

impl Iterator for Corpus {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        let random = &mut self.random;
        self.now_ns += random.random_range(0..2 * STEP_NS);
        let at = random.random_range(0..self.jobs.len());
        if self.jobs[at].lines_left == 0 {
            self.jobs[at] = job(random);
        }
        let job = &mut self.jobs[at];
        job.lines_left -= 1;
        Some(match random.random_range(0..100) {
            0..35 => request(random, self.now_ns, job),
            35..65 => agent(random, self.now_ns, job),
            65..85 => ffmpeg(random, self.now_ns, job),
            _ => model(random, self.now_ns, job),
        })
    }
}

fn job(random: &mut ChaCha8Rng) -> Job {
    let steps = [20, 25, 30, 50][random.random_range(0..4)];
    Job {
        id: format!("01K{:023X}", random.random::<u128>() >> 36),
        attempt: format!("{:032x}", random.random::<u128>()),
        trace_id: format!("{:032x}", random.random::<u128>()),
        host: random.random_range(0..HOSTS),
        gpu: random.random_range(0..8),
        step: 0,
        steps,
        lines_left: random.random_range(40..2000),
    }
}

fn of_job(random: &mut ChaCha8Rng, time_ns: u64, job: &Job, service: &'static str, scope: &'static str) -> Line {
    Line {
        time_ns,
        severity: 9,
        service,
        host: format!("gpu-{:02}", job.host),
        scope,
        job: Some(job.id.clone()),
        attempt: Some(job.attempt.clone()),
        trace_id: Some(job.trace_id.clone()),
        span_id: Some(format!("{:016x}", random.random::<u64>() | 1)),
        body: String::new(),
        attributes: Map::new(),
    }
}

fn pick<'a>(random: &mut ChaCha8Rng, words: &[&'a str]) -> &'a str {
    words[random.random_range(0..words.len())]
}

fn request(random: &mut ChaCha8Rng, time_ns: u64, job: &Job) -> Line {
    let mut line = of_job(random, time_ns, job, "studio-api", "http.server");
    line.host = format!("api-{}", random.random_range(0..3));
    let status = [200, 200, 200, 200, 200, 200, 204, 206, 304, 404, 409, 500][random.random_range(0..12)];
    if status == 500 {
        line.severity = 17;
    } else if status >= 400 {
        line.severity = 13;
    }
    let method = pick(random, &["GET", "GET", "GET", "POST", "PUT", "DELETE"]);
    let path = match random.random_range(0..4) {
        0 => format!("/projects/{}/shots/{}", random.random_range(1..40), random.random_range(1..900)),
        1 => format!("/v1/jobs/{}", job.id),
        2 => format!("/artifacts/users/u{}/generated/{:08x}.png", random.random_range(1..30), random.random::<u32>()),
        _ => "/healthz".to_owned(),
    };
    let took_ms = f64::from(random.random_range(2..40_000_u32)) / 100.0;
    let bytes = random.random_range(80..2_000_000_u64);
    line.body = format!("{method} {path} {status} {took_ms} ms");
    line.attributes = as_map(json!({
        "http.request.method": method, "url.path": path, "http.response.status_code": status,
        "duration_ms": took_ms, "http.response.body.size": bytes,
        "client.address": format!("10.0.{}.{}", random.random_range(0..4), random.random_range(1..250)),
    }));
    if random.random_ratio(2, 3) {
        (line.job, line.attempt) = (None, None);
    }
    line
}

fn agent(random: &mut ChaCha8Rng, time_ns: u64, job: &Job) -> Line {
    let mut line = of_job(random, time_ns, job, "backlot-agent", "backlot_agent::attempt");
    let bytes = random.random_range(10_000..800_000_000_u64);
    let took_s = f64::from(random.random_range(1..90_000_u32)) / 1000.0;
    line.body = match random.random_range(0..8) {
        0 => format!("fetched input {} of 3", random.random_range(1..4)),
        1 => format!("lease renewed, {} s left", random.random_range(20..600)),
        2 => "received a job".to_owned(),
        3 => format!(
            "uploaded users/u{}/projects/p{}/generated/{:08x}.mp4",
            random.random_range(1..30),
            random.random_range(1..40),
            random.random::<u32>()
        ),
        4 => format!("phase infer took {took_s} s"),
        5 => "heartbeat".to_owned(),
        6 => format!("gpu {} at {} C, {} W", job.gpu, random.random_range(40..88), random.random_range(60..400)),
        _ => "spot interruption check: none announced".to_owned(),
    };
    line.severity = if random.random_ratio(1, 6) { 5 } else { 9 };
    line.attributes = as_map(
        json!({"gpu.index": job.gpu, "bytes": bytes, "took_s": took_s, "phase": pick(random, &["fetch", "load", "infer", "post", "upload"])}),
    );
    if random.random_ratio(1, 900) {
        line.severity = 17;
        line.body = format!(
            "CUDA error: out of memory: needed {} MiB, free {} MiB, largest block {} MiB",
            random.random_range(2000..24_000),
            random.random_range(100..2000),
            random.random_range(10..100)
        );
        line.attributes.insert("exception.type".to_owned(), "OutOfMemory".into());
    }
    line
}

fn ffmpeg(random: &mut ChaCha8Rng, time_ns: u64, job: &Job) -> Line {
    let mut line = of_job(random, time_ns, job, "ffmpeg", "stderr");
    let frame = random.random_range(1..5000);
    line.body = match random.random_range(0..10) {
        0..7 => format!(
            "frame={frame:5} fps={:3} q={}.0 size={:8}kB time=00:{:02}:{:02}.{:02} bitrate={}.{}kbits/s speed={}.{:02}x",
            random.random_range(8..240),
            random.random_range(18..32),
            random.random_range(100..900_000),
            random.random_range(0..20),
            random.random_range(0..60),
            random.random_range(0..100),
            random.random_range(800..20_000),
            random.random_range(0..10),
            random.random_range(0..9),
            random.random_range(0..100)
        ),
        7 => format!(
            "[libx264 @ 0x{:012x}] mb I  I16..4: {}.{}% 35.3% 23.1%",
            random.random::<u64>() >> 16,
            random.random_range(10..60),
            random.random_range(0..10)
        ),
        8 => "Press [q] to stop, [?] for help".to_owned(),
        _ => format!(
            "[mp4 @ 0x{:012x}] Non-monotonous DTS in output stream 0:0; previous: {}, current: {}",
            random.random::<u64>() >> 16,
            frame * 512,
            frame * 512 - 1
        ),
    };
    if line.body.starts_with("[mp4") {
        line.severity = 13;
    }
    line.attributes = as_map(json!({"process.pid": random.random_range(1000..60_000), "gpu.index": job.gpu}));
    line
}

const WORDS: &[&str] = &[
    "a",
    "the",
    "wide",
    "shot",
    "of",
    "an",
    "old",
    "lighthouse",
    "at",
    "dusk",
    "storm",
    "over",
    "sea",
    "cinematic",
    "grain",
    "portrait",
    "neon",
    "rain",
    "street",
    "forest",
    "fog",
    "close",
    "up",
    "hands",
    "dancer",
    "golden",
    "hour",
    "anamorphic",
    "lens",
    "drone",
    "flight",
    "castle",
    "ruins",
    "snow",
    "train",
    "station",
    "crowd",
    "red",
    "umbrella",
    "mirror",
    "desert",
    "caravan",
    "silhouette",
    "moon",
];

fn model(random: &mut ChaCha8Rng, time_ns: u64, job: &mut Job) -> Line {
    let mut line = of_job(random, time_ns, job, "inference", "backlot_agent::infer");
    match random.random_range(0..400) {
        0 => {
            line.severity = 17;
            line.body = format!(
                "Traceback (most recent call last):\n  File \"/opt/studio/worker.py\", line {}, in run\n    image = pipe(prompt, num_inference_steps={})\n  \
                 File \"/opt/studio/pipeline.py\", line {}, in __call__\n    raise RuntimeError(\"latents hold NaN\")\nRuntimeError: latents hold NaN",
                random.random_range(10..400),
                job.steps,
                random.random_range(10..900)
            );
            line.attributes.insert("exception.type".to_owned(), "RuntimeError".into());
        }
        1..8 => {
            let words: Vec<_> = (0..random.random_range(6..24)).map(|_| pick(random, WORDS)).collect();
            line.body = format!("prompt: {}", words.join(" "));
            line.attributes = as_map(
                json!({"seed": random.random::<u32>(), "guidance": 7.5, "model": pick(random, &["sd15", "sdxl", "svd"])}),
            );
        }
        _ => {
            job.step = job.step % job.steps + 1;
            let took_ms = f64::from(random.random_range(1500..90_000_u32)) / 100.0;
            line.body = format!("step {} of {} took {took_ms} ms", job.step, job.steps);
            line.attributes = as_map(json!({
                "gpu.index": job.gpu, "duration_ms": took_ms, "gpu.memory": random.random_range(4_000_000_000_u64..23_000_000_000),
                "model": pick(random, &["sd15", "sdxl", "svd"]),
            }));
        }
    }
    line
}

fn as_map(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
