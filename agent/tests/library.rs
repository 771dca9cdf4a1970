//! The cache of models against a small S3 of its own: what is fetched, how often, what a crash leaves, what is refused, what goes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test panics with what went wrong; that is its report")]

mod tiny;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use backlot_agent::config::Config;
use backlot_agent::infer::models::{folder, svd};
use backlot_agent::infer::plan;
use backlot_agent::library::{Library, Meters};
use backlot_agent::store::{Store, StoreError};
use backlot_wire::FailureClass;
use backlot_wire::Timestamp;
use backlot_wire::model::{Manifest, ModelFile, ModelKind, file_key, manifest_key, version_key};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Objects by their path, and how they are asked for.
#[derive(Default)]
struct Shop {
    objects: Mutex<BTreeMap<String, Vec<u8>>>,
    asked: AtomicUsize,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    /// Parts of files are answered no more, until told.
    holds_back: AtomicBool,
    /// Parts that are answered before it holds back.
    gives: AtomicUsize,
    /// The first part is answered when another one is asked for as well: as soon as that, where they come side by side.
    wants_two: AtomicBool,
}

impl Shop {
    fn open() -> (Arc<Self>, String) {
        let shop = Arc::new(Self::default());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let serving = Arc::clone(&shop);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shop = Arc::clone(&serving);
                std::thread::spawn(move || shop.serve(stream));
            }
        });
        (shop, address)
    }

    fn serve(&self, stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut stream = stream;
        loop {
            let (mut first, mut range) = (String::new(), None);
            if reader.read_line(&mut first).unwrap_or(0) == 0 {
                return;
            }
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
                    break;
                }
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                    let (from, to) = value.trim().split_once('-').unwrap();
                    range = Some((from.parse::<usize>().unwrap(), to.parse::<usize>().unwrap()));
                }
            }
            let target = first.split(' ').nth(1).unwrap().to_owned();
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            if range.is_some() {
                while self.holds_back.load(Ordering::SeqCst) && self.gives.load(Ordering::SeqCst) == 0 {
                    std::thread::sleep(Duration::from_millis(5));
                }
                let _ = self.gives.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
                self.asked.fetch_add(1, Ordering::SeqCst);
                let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
                self.most_at_once.fetch_max(now, Ordering::SeqCst);
                for _ in 0..60_000 {
                    if !self.wants_two.load(Ordering::SeqCst) || self.most_at_once.load(Ordering::SeqCst) > 1 {
                        break;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            let answer = self.answer(path, query, range);
            if range.is_some() {
                self.at_once.fetch_sub(1, Ordering::SeqCst);
            }
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }

    fn answer(&self, path: &str, query: &str, range: Option<(usize, usize)>) -> Vec<u8> {
        let objects = self.objects.lock();
        let said = |status: &str, body: &[u8]| {
            let head =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\ncontent-type: application/xml\r\n\r\n", body.len());
            [head.as_bytes(), body].concat()
        };
        if query.contains("list-type=2") {
            let prefix = query.split('&').find_map(|part| part.strip_prefix("prefix=")).unwrap_or_default();
            let prefix = prefix.replace("%2F", "/");
            let keys =
                objects.keys().filter_map(|key| key.strip_prefix("/models/")).filter(|key| key.starts_with(&prefix));
            let keys: String = keys.map(|key| format!("<Contents><Key>{key}</Key></Contents>")).collect();
            return said("200 OK", format!("<ListBucketResult>{keys}</ListBucketResult>").as_bytes());
        }
        match (objects.get(path), range) {
            (None, _) => said("404 Not Found", b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>"),
            (Some(bytes), None) => said("200 OK", bytes),
            (Some(bytes), Some((from, to))) => {
                said("206 Partial Content", &bytes[from.min(bytes.len())..(to + 1).min(bytes.len())])
            }
        }
    }

    fn put(&self, key: &str, bytes: &[u8]) {
        self.objects.lock().insert(format!("/models/{key}"), bytes.to_vec());
    }

    /// Puts a model with one file of these weights. Gives its digest.
    fn model(&self, name: &str, kind: ModelKind, weights: &[u8]) -> String {
        self.model_of(name, kind, &[("model.safetensors".to_owned(), weights.to_vec())])
    }

    fn model_of(&self, name: &str, kind: ModelKind, content: &[(String, Vec<u8>)]) -> String {
        let file = |(path, bytes): &(String, Vec<u8>)| {
            let sha256 = hex::encode(Sha256::digest(bytes));
            self.put(&file_key(name, &sha256), bytes);
            ModelFile { path: path.clone(), bytes: bytes.len() as u64, sha256 }
        };
        let manifest = Manifest {
            version: 1,
            name: name.into(),
            kind,
            licence: "MIT".into(),
            source: None,
            imported_at: Timestamp(0),
            files: content.iter().map(file).collect(),
            vram: Vec::new(),
        };
        let bytes = serde_json::to_vec(&manifest).unwrap();
        let digest = hex::encode(Sha256::digest(&bytes));
        self.put(&version_key(name, &digest), &bytes);
        self.put(&manifest_key(name), &bytes);
        digest
    }
}

fn library(dir: &Path, address: &str, cache_bytes: u64) -> Arc<Library> {
    try_library(dir, address, cache_bytes).unwrap()
}

fn try_library(dir: &Path, address: &str, cache_bytes: u64) -> Result<Arc<Library>, String> {
    let config = Config {
        models: dir.join("own"),
        models_cache: dir.join("cache"),
        models_cache_bytes: cache_bytes,
        models_parallel: 4,
        ..Config::default()
    };
    let http = aws_smithy_http_client::Builder::new().build_http();
    let shared = aws_config::SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::new("us-east-1"))
        .endpoint_url(address)
        .credentials_provider(aws_credential_types::provider::SharedCredentialsProvider::new(Credentials::new(
            "k", "s", None, None, "test",
        )))
        .build();
    let meter = opentelemetry::global::meter("test");
    let meters = Meters {
        wanted: meter.u64_counter("wanted").build(),
        fetched_bytes: meter.u64_counter("bytes").build(),
        fetch_seconds: meter.f64_counter("seconds").build(),
        evictions: meter.u64_counter("evictions").build(),
    };
    Library::open(&config, dir, Arc::new(Store::new(&shared, Duration::ZERO)), meters)
}

fn loras(names: &[&str]) -> Map<String, Value> {
    Map::from_iter([("loras".to_owned(), json!(names))])
}

async fn provide(library: &Arc<Library>, names: &[&str]) -> Result<backlot_agent::library::Provided, StoreError> {
    library.provide("image.generate", &loras(names), &mut |_, _| {}).await
}

fn refused(result: Result<backlot_agent::library::Provided, StoreError>) -> StoreError {
    result.err().expect("refused")
}

fn weights(bytes: usize, salt: usize) -> Vec<u8> {
    (0..bytes).map(|at| (((at + salt) * 31) >> 4) as u8).collect()
}

const RANGE: usize = 16 << 20;

#[tokio::test]
async fn a_model_comes_in_ranges_side_by_side_once_for_all_who_want_it() {
    let dir = tempfile::tempdir().unwrap();
    let (shop, address) = Shop::open();
    let content = weights(RANGE * 6 + 77, 0);
    let digest = shop.model("style", ModelKind::Lora, &content);
    shop.wants_two.store(true, Ordering::SeqCst);
    let library = library(dir.path(), &address, 1 << 40);
    let mut told = Vec::new();
    let parameters = loras(&["style"]);
    let mut tell = |bytes, all| told.push((bytes, all));
    let (one, two) =
        tokio::join!(library.provide("image.generate", &parameters, &mut tell), provide(&library, &["style"]));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.names.clone(), one.folder.clone()), (vec![format!("style@{digest}")], two.folder.clone()));
    let file = one.folder.as_ref().unwrap().join("loras/style.safetensors");
    assert!(std::fs::read(file).unwrap() == content);
    assert_eq!(shop.asked.load(Ordering::SeqCst), 7, "each range once");
    let most = shop.most_at_once.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} at once");
    let all = content.len() as u64;
    assert!(told.last() == Some(&(all, all)) && told.iter().any(|(bytes, _)| (1..all).contains(bytes)), "{told:?}");
    provide(&library, &[&format!("style@{}", &digest[..8])]).await.unwrap();
    assert_eq!(shop.asked.load(Ordering::SeqCst), 7, "what is there is not fetched");
    assert_eq!(library.names(), [format!("style@{digest}")]);
}

#[tokio::test]
async fn a_fetch_that_is_broken_off_goes_on_where_it_was_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (shop, address) = Shop::open();
    let content = weights(RANGE * 5, 0);
    shop.model("style", ModelKind::Lora, &content);
    shop.holds_back.store(true, Ordering::SeqCst);
    shop.gives.store(2, Ordering::SeqCst);
    let first = library(dir.path(), &address, 1 << 40);
    {
        let mut reached = 0;
        let parameters = loras(&["style"]);
        let (enough, two_there) = tokio::sync::oneshot::channel();
        let mut enough = Some(enough);
        let mut tell = |bytes: u64, _| {
            reached = bytes;
            if bytes >= 2 * RANGE as u64
                && let Some(enough) = enough.take()
            {
                let _ = enough.send(());
            }
        };
        tokio::select! {
            _ = first.provide("image.generate", &parameters, &mut tell) => panic!("it cannot have come"),
            _ = two_there => {}
        }
        assert_eq!(reached, 2 * RANGE as u64);
    }
    assert!(first.names().is_empty());
    let in_use = try_library(dir.path(), &address, 1 << 40).err().expect("two agents share a cache");
    assert!(in_use.contains("another agent"), "{in_use}");
    // The task that fetches holds it until it has heard that it is not wanted any more.
    let weak = Arc::downgrade(&first);
    drop(first);
    while weak.strong_count() > 0 {
        tokio::task::yield_now().await;
    }
    shop.holds_back.store(false, Ordering::SeqCst);
    let asked = shop.asked.load(Ordering::SeqCst);
    let second = library(dir.path(), &address, 1 << 40);
    let provided = provide(&second, &["style"]).await.unwrap();
    assert!(std::fs::read(provided.folder.as_ref().unwrap().join("loras/style.safetensors")).unwrap() == content);
    // Those that were under way when it was broken off may have been answered as well.
    assert!(shop.asked.load(Ordering::SeqCst) - asked <= 3 + 4);
    drop(provided);
    drop(second);
    let third = library(dir.path(), &address, 1 << 40);
    assert_eq!(third.names().len(), 1);
    let asked = shop.asked.load(Ordering::SeqCst);
    provide(&third, &["style"]).await.unwrap();
    assert_eq!(shop.asked.load(Ordering::SeqCst), asked);
}

#[tokio::test]
async fn what_is_nowhere_damaged_or_of_another_kind_is_refused_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (shop, address) = Shop::open();
    let library = library(dir.path(), &address, 1 << 40);
    let nowhere = refused(provide(&library, &["style"]).await);
    assert!(nowhere.class == FailureClass::Permanent && nowhere.message.contains("backlot model import"), "{nowhere}");
    let digest = shop.model("style", ModelKind::Lora, &weights(1_000, 0));
    let sum = hex::encode(Sha256::digest(weights(1_000, 0)));
    shop.put(&file_key("style", &sum), &weights(1_000, 5));
    let damaged = refused(provide(&library, &["style"]).await);
    assert!(damaged.class == FailureClass::Permanent && damaged.message.contains("damaged in the store"), "{damaged}");
    shop.put(&file_key("style", &sum), &weights(900, 0));
    let short = refused(provide(&library, &["style"]).await);
    assert!(short.class == FailureClass::Permanent && short.message.contains("shorter"), "{short}");
    shop.put(&file_key("style", &sum), &weights(1_000, 0));
    provide(&library, &["style"]).await.expect("mended in the store, it comes");
    let absent = refused(provide(&library, &["style@00000000"]).await);
    assert!(absent.class == FailureClass::Permanent && absent.message.contains("version 00000000"), "{absent}");
    shop.put(&version_key("style", &format!("{}{}", &digest[..8], "0".repeat(56))), b"{}");
    let other = library_with(&dir, &address);
    let several = refused(provide(&other, &[&format!("style@{}", &digest[..8])]).await);
    assert!(several.message.contains("more digits"), "{several}");
    shop.model("words", ModelKind::TextualInversion, &weights(10, 0));
    let kind = refused(provide(&library, &["words"]).await);
    assert!(kind.class == FailureClass::Permanent && kind.message.contains("textual-inversion"), "{kind}");
    shop.put(&manifest_key("odd"), b"{\"version\": 7}");
    let later = refused(provide(&library, &["odd"]).await);
    assert!(later.class == FailureClass::Permanent && later.message.contains("version 7"), "{later}");
}

/// Another agent, with a cache of its own.
fn library_with(dir: &tempfile::TempDir, address: &str) -> Arc<Library> {
    library(&dir.path().join("other"), address, 1 << 40)
}

#[tokio::test]
async fn the_longest_unused_goes_and_what_a_job_uses_stays() {
    let dir = tempfile::tempdir().unwrap();
    let (shop, address) = Shop::open();
    for (salt, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        shop.model(name, ModelKind::Lora, &weights(1_000, salt * 7));
    }
    shop.model("large", ModelKind::Lora, &weights(2_501, 0));
    let library = library(dir.path(), &address, 2_500);
    let names = || library.names().iter().map(|name| name[..1].to_owned()).collect::<Vec<_>>();
    let a = provide(&library, &["a"]).await.unwrap();
    drop(provide(&library, &["b"]).await.unwrap());
    drop(provide(&library, &["c"]).await.unwrap());
    assert_eq!(names(), ["c", "a"], "b was not in use");
    assert!(a.folder.as_ref().unwrap().join("loras/a.safetensors").is_file());
    let c = provide(&library, &["c"]).await.unwrap();
    let full = refused(provide(&library, &["d"]).await);
    assert!(full.class == FailureClass::Transient && full.message.contains("models_cache_bytes"), "{full}");
    let large = refused(provide(&library, &["large"]).await);
    assert!(large.class == FailureClass::Permanent && large.message.contains("2501"), "{large}");
    drop((a, c));
    drop(provide(&library, &["d"]).await.unwrap());
    assert_eq!(names(), ["d", "c"]);
    assert!(library.bytes() <= 2_500);
    // What somebody removes from under it is fetched again.
    let files = dir.path().join("cache/entries").join(&library.names()[0][2..]).join("files/model.safetensors");
    std::fs::remove_file(files).unwrap();
    let asked = shop.asked.load(Ordering::SeqCst);
    provide(&library, &["d"]).await.unwrap();
    assert_eq!(shop.asked.load(Ordering::SeqCst), asked + 1);
}

#[tokio::test]
async fn what_the_host_has_itself_is_taken_from_there() {
    let dir = tempfile::tempdir().unwrap();
    let (shop, address) = Shop::open();
    std::fs::create_dir_all(dir.path().join("own/loras")).unwrap();
    std::fs::write(dir.path().join("own/loras/mine.safetensors"), b"mine").unwrap();
    let library = library(dir.path(), &address, 1 << 40);
    let provided = provide(&library, &["mine"]).await.unwrap();
    assert_eq!((provided.folder.clone(), provided.names.clone()), (None, vec!["mine".to_owned()]));
    shop.model("theirs", ModelKind::Lora, b"theirs");
    let both = provide(&library, &["mine", "theirs"]).await.unwrap();
    let folder = both.folder.as_ref().unwrap();
    assert_eq!(std::fs::read(folder.join("loras/mine.safetensors")).unwrap(), b"mine");
    assert_eq!(std::fs::read(folder.join("loras/theirs.safetensors")).unwrap(), b"theirs");
}

/// Every file below `folder`, by its path in there.
fn files_in(folder: &Path, above: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{above}{}", entry.file_name().to_str().unwrap());
        match entry.path().is_dir() {
            true => files.extend(files_in(&entry.path(), &format!("{name}/"))),
            false => files.push((name, std::fs::read(entry.path()).unwrap())),
        }
    }
    files
}

#[tokio::test]
async fn a_diffusers_folder_that_was_fetched_is_a_model_and_is_planned_like_one() {
    let dir = tempfile::tempdir().unwrap();
    let (shop, address) = Shop::open();
    let made = dir.path().join("made");
    tiny::write_folder("sd15", &made);
    shop.model_of("tiny", ModelKind::StableDiffusion1, &files_in(&made, ""));
    let library = library(dir.path(), &address, 1 << 40);
    let parameters = Map::from_iter([("model".to_owned(), json!("tiny"))]);
    let provided = library.provide("image.generate", &parameters, &mut |_, _| {}).await.unwrap();
    let models = provided.folder.clone().unwrap();
    assert_eq!(folder::list(&models), ["tiny"]);
    let place = folder::find(&models, "tiny").unwrap();
    folder::open(&place).unwrap();
    let needs = plan::vram(&place).unwrap();
    let of = |side: u32, precision: &str| {
        needs.iter().find(|need| need.width == side && need.precision == precision).unwrap()
    };
    let (small, large) = (of(64, "f16"), of(512, "f16"));
    assert!(small.values_bytes < large.values_bytes && small.weights_bytes == large.weights_bytes, "{needs:?}");
    // Twice as much, but for the VAE, which is kept in f32 in any case.
    let wide = of(64, "f32").weights_bytes;
    assert!(small.weights_bytes < wide && wide <= 2 * small.weights_bytes, "{needs:?}");
    assert!(plan::vram(&models.join("none")).is_err());
}

#[tokio::test]
async fn a_model_of_clips_that_was_fetched_is_one_for_jobs_that_name_no_modules() {
    let dir = tempfile::tempdir().unwrap();
    let (shop, address) = Shop::open();
    let made = dir.path().join("made");
    tiny::write_folder("svd", &made);
    shop.model_of("tiny", ModelKind::StableVideoDiffusion, &files_in(&made, ""));
    let library = library(dir.path(), &address, 1 << 40);
    let parameters = Map::from_iter([("model".to_owned(), json!("tiny")), ("motion".to_owned(), json!(null))]);
    let provided = library.provide("video.generate", &parameters, &mut |_, _| {}).await.unwrap();
    let place = folder::find(provided.folder.as_ref().unwrap(), "tiny").unwrap();
    assert!(svd::is_one(&place));
    assert_eq!(svd::Model::open(&place).unwrap().unet.frames, 3);
}
