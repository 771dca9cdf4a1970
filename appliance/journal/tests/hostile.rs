//! The fuzz target's entry over a seeded corpus: whatever the bytes are, the reader neither panics nor reads beyond them.
#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use backlot_journal::{Journal, inspect};

use support::{Dice, append, memory_dir, small};

/// The bytes of a real segment.
fn segment() -> Vec<u8> {
    let dir = memory_dir();
    let (journal, _) = Journal::open(small(dir.path())).unwrap();
    for number in 0..12_u8 {
        append(&journal, &vec![number; usize::from(number) * 60]);
    }
    let end = journal.durable().0 as usize;
    drop(journal);
    let mut bytes = std::fs::read(dir.path().join(format!("{:020}.seg", 0))).unwrap();
    bytes.truncate(end + 500);
    bytes
}

#[test]
fn a_whole_segment_is_understood() {
    let bytes = segment();
    let found = inspect(&bytes);
    assert_eq!((found.groups, found.records, found.problem.as_deref(), found.damaged), (12, 12, None, false));
    assert_eq!(found.end_offset as usize, bytes.len() - 500);
}

#[test]
fn no_bytes_make_the_reader_panic() {
    let whole = segment();
    let mut dice = Dice(7);
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..=dice.below(4) {
            let at = dice.below(bytes.len() as u64) as usize;
            match dice.below(5) {
                0 => bytes[at] = dice.below(256) as u8,
                1 => bytes.truncate(at.max(1)),
                2 => bytes[at..].fill(0xff),
                3 => {
                    let from = dice.below(bytes.len() as u64) as usize;
                    let length = (bytes.len() - at.max(from)).min(200);
                    bytes.copy_within(from..from + length, at);
                }
                _ => bytes[at..].iter_mut().take(8).for_each(|byte| *byte = 0),
            }
        }
        let found = inspect(&bytes);
        assert!(found.end_offset <= bytes.len() as u64, "{found:?}");
        assert!(found.records <= 12, "{found:?}");
    }
    for length in 0..200 {
        let noise: Vec<_> = (0..length).map(|_| dice.below(256) as u8).collect();
        assert_eq!(inspect(&noise).groups, 0);
    }
}
