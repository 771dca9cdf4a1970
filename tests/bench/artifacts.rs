//! The artifact store over its S3 door, beside JuiceFS's gateway, rclone, nginx and `dd` on the same disk in the same run.
//!
//! What is compared takes turns, round by round, so that a disk or a neighbour that changes its mind does so for both. Medians.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::RngCore;

use crate::Settings;
use crate::appliance::Appliance;
use crate::client::Failure;
use crate::s3::{Place, S3};
use crate::s3_peers::{self, BUCKET, Peer};

const LARGE_BYTES: usize = 64 << 20;
const SMALL_BYTES: usize = 4 << 10;
const CONNECTIONS: usize = 16;
/// Keys that large puts go round, so that the disk does not fill.
const KEYS: usize = 4;
/// Small objects that are read, and put before.
const SMALL_KEYS: usize = 2_000;
const UPLOADS: usize = 10;
const UPLOAD_BYTES: u64 = 5 << 30;

pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dir = tempfile::tempdir_in(&settings.dir)?;
    let appliance = Appliance::start(&dir.path().join("data"), &dir.path().join("log"))?;
    let own = own(&appliance);
    runtime.block_on(async { S3::connect(&own).await?.call("PUT", &format!("/{BUCKET}"), b"").await.map(drop) })?;
    let large = settings.bytes.unwrap_or(LARGE_BYTES);
    let mut body = vec![0; large];
    rand::rng().fill_bytes(&mut body);
    println!("objects of {} MiB, one connection", large >> 20);
    runtime.block_on(puts(settings, dir.path(), &own, &body))?;
    runtime.block_on(gets(settings, dir.path(), &own, &body))?;
    println!("objects of {SMALL_BYTES} bytes, {CONNECTIONS} connections");
    runtime.block_on(small(settings, dir.path(), &own))?;
    runtime.block_on(uploads(settings, &appliance, &own))
}

fn own(appliance: &Appliance) -> Place {
    Place { url: appliance.aws.clone(), key: ("test", "test") }
}

fn median(mut took: Vec<Duration>) -> Duration {
    took.sort_unstable();
    took.get(took.len() / 2).copied().unwrap_or_default()
}

fn mib_s(bytes: usize, took: Duration) -> f64 {
    bytes as f64 / (1 << 20) as f64 / took.as_secs_f64()
}

fn started(peer: Result<Peer, Failure>, name: &str) -> Option<Peer> {
    peer.map_err(|problem| println!("{name} was not measured: {problem}")).ok()
}

#[allow(clippy::disallowed_methods, reason = "a measurement")]
async fn timed(client: &mut S3, method: &str, path: &str, body: &[u8]) -> Result<Duration, Failure> {
    let began = Instant::now();
    client.call(method, path, body).await?;
    Ok(began.elapsed())
}

#[allow(clippy::disallowed_methods, reason = "a measurement")]
async fn puts(settings: &Settings, dir: &Path, own: &Place, body: &[u8]) -> Result<(), Failure> {
    let source = dir.join("source");
    std::fs::write(&source, body)?;
    let mut client = S3::connect(own).await?;
    let (mut ours, mut copied, mut round) = (Vec::new(), Vec::new(), 0);
    let began = Instant::now();
    while round < 5 || began.elapsed() < Duration::from_secs(settings.seconds * 3) {
        let key = format!("/{BUCKET}/large-{}", round % KEYS);
        ours.push(timed(&mut client, "PUT", &key, body).await?);
        copied.push(s3_peers::dd(&source, &dir.join("copy"))?);
        round += 1;
    }
    let (ours, copied) = (mib_s(body.len(), median(ours)), mib_s(body.len(), median(copied)));
    println!("{ours:>12.0} MiB/s PUT, durable, {round} rounds");
    println!("{copied:>12.0} MiB/s dd conv=fsync of the same bytes: {:.2} x", ours / copied);
    Ok(())
}

#[allow(clippy::disallowed_methods, reason = "a measurement")]
async fn gets(settings: &Settings, dir: &Path, own: &Place, body: &[u8]) -> Result<(), Failure> {
    let juicefs = started(s3_peers::juicefs(dir), "JuiceFS");
    let nginx = match s3_peers::nginx(dir) {
        Ok((nginx, files)) => {
            std::fs::write(files.join("large-0"), body)?;
            Some(nginx)
        }
        Err(problem) => started(Err(problem), "nginx"),
    };
    let path = format!("/{BUCKET}/large-0");
    let mut servers = vec![("Backlot", S3::connect(own).await?, Vec::new())];
    if let Some(juicefs) = &juicefs {
        let mut client = S3::connect(&juicefs.place).await?;
        client.call("PUT", &path, body).await?;
        servers.push(("JuiceFS gateway", client, Vec::new()));
    }
    if let Some(nginx) = &nginx {
        servers.push(("nginx, static file", S3::connect(&nginx.place).await?, Vec::new()));
    }
    let (began, mut round) = (Instant::now(), 0);
    while round < 5 || began.elapsed() < Duration::from_secs(settings.seconds * 3) {
        for (name, client, took) in &mut servers {
            let began = Instant::now();
            let answer = client.call("GET", &path, b"").await?;
            took.push(began.elapsed());
            if answer.bytes != body.len() as u64 {
                return Err(format!("{name} gave {} bytes", answer.bytes).into());
            }
        }
        round += 1;
    }
    let mut ours = None;
    for (name, _, took) in servers {
        let rate = mib_s(body.len(), median(took));
        let ours = *ours.get_or_insert(rate);
        println!("{rate:>12.0} MiB/s GET from {name}; Backlot is {:.2} x", ours / rate);
    }
    Ok(())
}

async fn small(settings: &Settings, dir: &Path, own: &Place) -> Result<(), Failure> {
    let time = Duration::from_secs(settings.seconds);
    let puts = calls(own, time, "PUT", usize::MAX).await?;
    println!("{puts:>12.0} PUT/s, durable");
    let ours = calls(own, time, "GET", SMALL_KEYS.min(puts as usize * settings.seconds as usize / 2).max(1)).await?;
    println!("{ours:>12.0} GET/s");
    if let Some(rclone) = started(s3_peers::rclone(dir), "rclone") {
        let body = vec![7; SMALL_BYTES];
        let mut client = S3::connect(&rclone.place).await?;
        for number in 0..CONNECTIONS {
            client.call("PUT", &format!("/{BUCKET}/small-{number}-0"), &body).await?;
        }
        let theirs = calls(&rclone.place, time, "GET", 1).await?;
        println!("{theirs:>12.0} GET/s from rclone's `serve s3`; Backlot is {:.2} x", ours / theirs);
    }
    Ok(())
}

/// Calls a second by [`CONNECTIONS`] clients, each over `keys` keys of its own, of 4 KiB objects.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
async fn calls(place: &Place, time: Duration, method: &'static str, keys: usize) -> Result<f64, Failure> {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for connection in 0..CONNECTIONS {
        let place = place.clone();
        tasks.spawn(async move {
            let mut client = S3::connect(&place).await?;
            let body = if method == "PUT" { vec![7; SMALL_BYTES] } else { Vec::new() };
            let mut done = 0;
            while began.elapsed() < time {
                let number = if method == "PUT" { done } else { done % (keys / CONNECTIONS).max(1) };
                client.call(method, &format!("/{BUCKET}/small-{connection}-{number}"), &body).await?;
                done += 1;
            }
            Ok::<_, Failure>(done)
        });
    }
    let mut done = 0;
    while let Some(ended) = tasks.join_next().await {
        done += ended??;
    }
    Ok(done as f64 / began.elapsed().as_secs_f64())
}

/// Resident memory while ten large uploads run, for as long as the settings say; they end unfinished.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
async fn uploads(settings: &Settings, appliance: &Appliance, own: &Place) -> Result<(), Failure> {
    let before = appliance.resident_mib()?;
    let time = Duration::from_secs(settings.seconds * 3);
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..UPLOADS {
        let own = own.clone();
        tasks.spawn(async move {
            let mut client = S3::connect(&own).await?;
            client.begin("PUT", &format!("/{BUCKET}/upload-{number}"), UPLOAD_BYTES).await?;
            let (piece, mut sent) = (vec![7; 256 << 10], 0_u64);
            while began.elapsed() < time && sent + (piece.len() as u64) < UPLOAD_BYTES {
                client.send(&piece).await?;
                sent += piece.len() as u64;
            }
            Ok::<_, Failure>(sent)
        });
    }
    let mut most = before;
    while began.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(50)).await;
        most = most.max(appliance.resident_mib()?);
    }
    let mut sent = 0;
    while let Some(ended) = tasks.join_next().await {
        sent += ended??;
    }
    println!(
        "{:>12.0} MiB more resident while {UPLOADS} uploads of 5 GiB ran ({before:.0} MiB before, {} MiB taken in)",
        most - before,
        sent >> 20
    );
    Ok(())
}

/// A bucket with many objects: putting them, starting again, listing pages, memory.
#[allow(clippy::disallowed_methods, reason = "a measurement")]
pub(crate) fn many(settings: &Settings) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dir = tempfile::tempdir_in(&settings.dir)?;
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    let appliance = Appliance::start(&data, &log)?;
    let place = own(&appliance);
    let objects = settings.objects;
    let began = Instant::now();
    runtime.block_on(fill(&place, objects))?;
    println!(
        "{:>12.0} PUT/s of 16 bytes by 128 connections, {objects} objects",
        objects as f64 / began.elapsed().as_secs_f64()
    );
    println!("{:>12.0} MiB resident then", appliance.resident_mib()?);
    drop(appliance); // kill -9
    let appliance = Appliance::start(&data, &log)?;
    println!("{:>12.0} ms from the start to ready, after kill -9", appliance.ready.as_secs_f64() * 1000.0);
    let place = own(&appliance);
    let took = runtime.block_on(async {
        let mut client = S3::connect(&place).await?;
        let mut took = Vec::new();
        for _ in 0..200 {
            let from = rand::random::<u32>() as usize % objects;
            let path = format!("/{BUCKET}?list-type=2&max-keys=1000&start-after=many-{from:09}");
            took.push(timed(&mut client, "GET", &path, b"").await?);
        }
        Ok::<_, Failure>(took)
    })?;
    println!(
        "{:>12.1} ms for a page of 1,000 keys from anywhere (p50), cold catalogue",
        median(took).as_secs_f64() * 1000.0
    );
    println!("{:>12.0} MiB resident after it", appliance.resident_mib()?);
    Ok(())
}

async fn fill(place: &Place, objects: usize) -> Result<(), Failure> {
    const FILLERS: usize = 128;
    S3::connect(place).await?.call("PUT", &format!("/{BUCKET}"), b"").await?;
    let mut tasks = tokio::task::JoinSet::new();
    for filler in 0..FILLERS {
        let place = place.clone();
        tasks.spawn(async move {
            let mut client = S3::connect(&place).await?;
            for number in (filler..objects).step_by(FILLERS) {
                client.call("PUT", &format!("/{BUCKET}/many-{number:09}"), b"sixteen bytes...").await?;
            }
            Ok::<_, Failure>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
