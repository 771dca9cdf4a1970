#![allow(clippy::unwrap_used, reason = "a test panics with what went wrong")]

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::{Cancel, Image};

/// An image that is its own checksum table, and counts.
struct Shelf {
    bytes: Vec<u8>,
    requests: AtomicUsize,
    /// How many of the next answers have a wrong byte.
    wrong: AtomicUsize,
}

impl Far for Shelf {
    fn place(&self) -> &str {
        "shelf"
    }

    fn key(&self, name: &str) -> String {
        name.to_owned()
    }

    fn put(&self, _: &str, _: &Image<'_>, _: &Cancel) -> Result<(), FarError> {
        Err(FarError::Away("only read".into()))
    }

    fn read(&self, _: &str, range: Range<u64>, _: u64, _: &Cancel) -> Result<Vec<u8>, FarError> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let at = |at: u64| usize::try_from(at).unwrap();
        let mut bytes = self.bytes[at(range.start)..at(range.end)].to_vec();
        if self.wrong.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            bytes[0] ^= 1;
        }
        Ok(bytes)
    }

    fn delete(&self, _: &str, _: &Cancel) -> Result<(), FarError> {
        Ok(())
    }
}

const BLOCK: u64 = 1000;

fn shelf(bytes: usize) -> (Shelf, Manifest) {
    let bytes: Vec<u8> = (0..bytes).map(|at| (at * 7 % 251) as u8).collect();
    let crcs: Vec<u32> = bytes.chunks(BLOCK as usize).map(crc32c::crc32c).collect();
    let text = serde_json::json!({
        "version": 1, "place": "shelf", "key": "image", "name": "image", "moved_ms": 0, "bytes": bytes.len(), "block_bytes": BLOCK,
        "crcs": crcs, "files": [], "head": {"stretches": [], "crc": 0}, "filter": null,
    });
    let manifest = Manifest::parse(text.to_string().as_bytes()).unwrap();
    (Shelf { bytes, requests: AtomicUsize::new(0), wrong: AtomicUsize::new(0) }, manifest)
}

fn read(cache: &Cache, shelf: &Shelf, image: &Manifest, range: Range<u64>) {
    let got = cache.read(shelf, image, range.clone()).unwrap();
    assert_eq!(&*got, &shelf.bytes[range.start as usize..range.end as usize], "{range:?}");
}

#[test]
fn what_was_read_once_is_here_and_reading_on_fetches_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path().join("cache"), 1 << 20).unwrap();
    let (shelf, image) = shelf(100_500);
    read(&cache, &shelf, &image, 4990..5010);
    read(&cache, &shelf, &image, 4000..6000);
    assert_eq!((cache.stats().requests, cache.stats().hits, cache.stats().bytes), (1, 1, 2000));
    read(&cache, &shelf, &image, 0..100_500);
    assert_eq!(cache.stats().requests, 3, "two stretches were missing");
    assert_eq!(cache.stats().bytes, 100_500);
    let (on, image) = self::shelf(100_500);
    let image =
        Manifest::parse(serde_json::to_string(&image).unwrap().replace("\"image\"", "\"other\"").as_bytes()).unwrap();
    for at in 0..100 {
        read(&cache, &on, &image, at * 1000..at * 1000 + 500);
    }
    let requests = on.requests.load(Ordering::Relaxed);
    assert!(requests < 15, "{requests} requests for a hundred blocks in a row");
}

#[test]
fn the_cache_keeps_to_its_bytes_and_readers_keep_what_they_have() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path().join("cache"), 5000).unwrap();
    let (shelf, image) = shelf(50_000);
    let other = serde_json::to_string(&image).unwrap().replace("\"image\"", "\"other\"");
    let other = Manifest::parse(other.as_bytes()).unwrap();
    let early = cache.read(&shelf, &image, 0..3000).unwrap();
    read(&cache, &shelf, &other, 0..3000);
    assert_eq!(cache.stats().bytes, 3000, "the one that was used longer ago has gone");
    assert_eq!(&*early, &shelf.bytes[..3000]);
    read(&cache, &shelf, &other, 0..50_000);
    assert_eq!(cache.stats().bytes, 0, "one that is too large by itself does not stay");
    assert_eq!(std::fs::read_dir(dir.path().join("cache")).unwrap().count(), 0);
    read(&cache, &shelf, &image, 100..200);
    cache.forget("image");
    assert_eq!(cache.stats().bytes, 0);
}

#[test]
fn a_wrong_byte_on_the_way_is_fetched_again_and_one_that_stays_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(dir.path().join("cache"), 1 << 20).unwrap();
    let (shelf, image) = shelf(10_000);
    shelf.wrong.store(1, Ordering::Relaxed);
    read(&cache, &shelf, &image, 0..10);
    shelf.wrong.store(9, Ordering::Relaxed);
    let wrong = cache.read(&shelf, &image, 5000..5010).unwrap_err();
    assert!(matches!(&wrong, FarError::Wrong(problem) if problem.contains("block 5")), "{wrong:?}");
}
