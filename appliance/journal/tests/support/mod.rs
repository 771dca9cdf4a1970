//! What the journal's tests share.
#![allow(dead_code, reason = "each test takes what it needs")]
#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]
#![allow(unreachable_pub, reason = "a test is a crate of its own, and this is its module")]

pub mod disk;

use std::path::Path;
use std::time::Duration;

use backlot_journal::{Class, Journal, Lsn, Options};

/// Small segments, so that a test crosses many.
pub fn small(dir: &Path) -> Options {
    Options {
        segment_bytes: 16 * 1024,
        record_bytes_max: 2048,
        pending_bytes_max: 8 * 1024,
        reserve_bytes: 8 * 1024,
        ..Options::new(dir)
    }
}

/// A folder in memory where there is one: for tests that imagine their crashes and need no real sync.
pub fn memory_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub fn append(journal: &Journal, record: &[u8]) -> Lsn {
    let permit = journal.reserve_blocking(record.len(), Class::Growing).unwrap();
    let submitted = permit.submit(&[record]);
    submitted.durable_blocking().unwrap();
    submitted.lsns[0]
}

pub fn all(journal: &Journal, from: Lsn) -> Vec<(Lsn, Vec<u8>)> {
    let mut found = Vec::new();
    journal
        .scan(from, &mut |lsn, record| {
            found.push((lsn, record.to_vec()));
            true
        })
        .unwrap();
    found
}

/// Polls a condition; the deadline is only there for the day it never holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..4_000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never came: {what}");
}

/// A record that can be told from any other: its number, its place in a submit, and filler made of the number.
pub fn numbered(number: u64, index: u8, count: u8, bytes: usize) -> Vec<u8> {
    let mut record = number.to_le_bytes().to_vec();
    record.extend([index, count]);
    record.extend((0..bytes).map(|at| (number as usize * 31 + at * 7) as u8));
    record
}

/// Number, index and count of a record that is whole.
pub fn number_of(record: &[u8]) -> Option<(u64, u8, u8)> {
    let number = u64::from_le_bytes(*record.first_chunk()?);
    let (index, count) = (*record.get(8)?, *record.get(9)?);
    (numbered(number, index, count, record.len() - 10) == record).then_some((number, index, count))
}

/// Checks that each record found is whole and that each submit is there with all its records or with none.
pub fn check_whole(found: &[(Lsn, Vec<u8>)]) {
    let mut expected: Option<(u64, u8, u8)> = None;
    for (lsn, record) in found {
        let Some((number, index, count)) = number_of(record) else { panic!("the record at {lsn:?} is torn") };
        match expected {
            Some(expected) => assert_eq!((number, index, count), expected, "a submit has lost its records at {lsn:?}"),
            None => assert_eq!(index, 0, "a submit has lost its first records at {lsn:?}"),
        }
        expected = (index + 1 < count).then_some((number, index + 1, count));
    }
    assert_eq!(expected, None, "the last submit has lost its last records");
}

/// A small generator of numbers, for tests that only need variety.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
