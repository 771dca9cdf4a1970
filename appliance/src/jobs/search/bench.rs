//! How fast a million jobs are searched. By hand, in release:
//!
//! `cargo test --release -p backlot --lib jobs::search::bench -- --ignored --nocapture`
//!
//! `JOBS` in the environment sets another number of jobs.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]

use std::time::Instant;

use backlot_windows::{Order, Search};
use backlot_wire::{JobError, JobSpec, JobStatus};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::json;

use super::*;
use crate::clock::Now;

const BEGAN_MS: u64 = 1_795_000_000_000;
const STATUSES: [JobStatus; 4] = [JobStatus::Succeeded, JobStatus::Failed, JobStatus::Cancelled, JobStatus::Queued];
const TYPES: [&str; 6] =
    ["image.upscale", "video.upscale", "image.generate", "video.generate", "audio.denoise", "command.render"];
const WORDS: [&str; 16] = [
    "fox",
    "snow",
    "night",
    "neon",
    "street",
    "portrait",
    "cinematic",
    "wide",
    "grain",
    "storm",
    "lantern",
    "harbour",
    "mirror",
    "crowd",
    "desert",
    "dawn",
];
const ERRORS: [&str; 4] = [
    "CUDA out of memory: tried to allocate 2.5 GiB",
    "no space left on device",
    "connection reset by peer",
    "bad input",
];

fn job(n: u64, chance: &mut ChaCha8Rng) -> Tracked {
    let now = |ms: u64| Now { mono_ms: 0, wall_ms: BEGAN_MS + n * 2_500 + ms };
    let prompt: Vec<&str> = (0..12).map(|_| WORDS[chance.random_range(0..WORDS.len())]).collect();
    let spec = JobSpec::parse(
        &json!({
            "type": TYPES[chance.random_range(0..TYPES.len())],
            "user_id": format!("user-{}", chance.random_range(0..200)),
            "project_id": format!("project-{}", chance.random_range(0..40)),
            "labels": {"scene": chance.random_range(0..80).to_string(), "shot": chance.random_range(0..900).to_string()},
            "parameters": {"prompt": prompt.join(" "), "steps": chance.random_range(10..60),
                           "seed": chance.random_range(0..4_000_000_000_u64), "cfg": 7.5},
        })
        .to_string(),
    )
    .unwrap();
    let mut tracked = Tracked::sent(now(0), "jobs", "m", format!("job-{n:08}"), spec, 0);
    let status = STATUSES[[0, 0, 0, 0, 0, 0, 1, 1, 2, 3][chance.random_range(0..10)]];
    if status != JobStatus::Queued {
        tracked.received(now(1_000), Some(&format!("gpu-{}", chance.random_range(0..64))));
        let error = (status == JobStatus::Failed).then(|| JobError {
            message: ERRORS[chance.random_range(0..4)].into(),
            permanent: false,
            cause: None,
        });
        tracked.finish(now(1_000 + chance.random_range(500..900_000)), status, error);
    }
    tracked
}

#[test]
#[ignore = "a measurement by hand, in release; it takes minutes"]
fn a_million_jobs_are_searched_fast() {
    let jobs: u64 = std::env::var("JOBS").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let dir = tempfile::tempdir().unwrap();
    let (current, _) = Current::open(dir.path().join("index"), WRITER_BYTES).unwrap();
    let mut chance = ChaCha8Rng::seed_from_u64(7);
    let began = Instant::now();
    for n in 0..jobs {
        let tracked = job(n, &mut chance);
        current.put(&tracked.head.id, document(&tracked)).unwrap();
        if n % 20_000 == 19_999 {
            current.commit("bench").unwrap();
        }
    }
    // Some have changed since: their older documents are deleted, as they are in real life.
    for _ in 0..jobs / 20 {
        let n = chance.random_range(0..jobs);
        let tracked = job(n, &mut chance);
        current.put(&tracked.head.id, document(&tracked)).unwrap();
    }
    current.commit("bench").unwrap();
    let took = began.elapsed();
    println!(
        "{} jobs indexed in {took:.1?}, {:.0} a second, {} MB on disk",
        current.documents(),
        jobs as f64 * 1.05 / took.as_secs_f64(),
        current.disk_bytes() / 1_000_000
    );

    let now = Now { mono_ms: 0, wall_ms: BEGAN_MS + jobs * 2_500 };
    println!("{:<72} {:>9} {:>9} {:>9}", "query", "hits", "p50 ms", "p99 ms");
    for text in [
        "",
        "status:failed",
        "status:failed user:user-17 \"out of memory\" parameters.steps:[20 TO 50] created:>7d",
        "user:user-17",
        "\"neon street\"",
        "fox lantern harbour",
        "id:job-00499999",
        "type:video.generate project:project-3 -status:succeeded",
        "parameters.seed:>3999990000",
        "duration:>10m status:succeeded",
        "ended:[2026-11-25 TO 2026-11-26]",
        "labels.shot:42 labels.scene:7",
        "lan* OR mirr*",
        "nothingofthekind",
    ] {
        let asked = parse(text, now).unwrap();
        let hits = current.count(&asked.query, asked.from_ns, asked.to_ns, &Cancel::default()).unwrap();
        let mut times = Vec::new();
        for _ in 0..100 {
            let search = Search {
                query: asked.query.clone(),
                from_ns: asked.from_ns,
                to_ns: asked.to_ns,
                order: Order::Newest,
                limit: 100,
                after: None,
                bytes_max: usize::MAX,
            };
            let began = Instant::now();
            let found = current.search(&search, &Cancel::default()).unwrap();
            times.push(began.elapsed().as_secs_f64() * 1_000.0);
            assert_eq!(found.hits.len() as u64, hits.min(100), "{text}");
        }
        times.sort_by(f64::total_cmp);
        println!("{text:<72} {hits:>9} {:>9.2} {:>9.2}", times[49], times[98]);
    }
    let mut times = Vec::new();
    for _ in 0..20 {
        let began = Instant::now();
        let asked = parse("", now).unwrap();
        assert_eq!(count(&current, &asked, &Cancel::default()).unwrap().total, current.documents());
        times.push(began.elapsed().as_secs_f64() * 1_000.0);
    }
    times.sort_by(f64::total_cmp);
    println!(
        "{:<72} {:>9} {:>9.2} {:>9.2}",
        "counts by status, type and project",
        current.documents(),
        times[9],
        times[19]
    );
}
