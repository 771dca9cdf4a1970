//! A zoo of corruptions: what had been durable and is not whole stops the start with file and offset; what may be
//! a torn tail is cut; nothing panics, and nothing false is read.
#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use backlot_journal::{Journal, JournalError, Lsn, OpenError};
use proptest::prelude::*;

use support::{all, append, memory_dir, small, until};

const SEGMENT_HEADER: u64 = 32;
const GROUP_HEADER: u64 = 40;
const RECORD_HEADER: u64 = 8;

/// A closed journal of several segments, in which each record stands in a group of its own.
struct Specimen {
    dir: tempfile::TempDir,
    /// Position, and content, of each record.
    records: Vec<(Lsn, Vec<u8>)>,
    /// Base and end of each segment.
    segments: Vec<(u64, u64)>,
}

impl Specimen {
    fn new() -> Self {
        let dir = memory_dir();
        let (journal, _) = Journal::open(small(dir.path())).unwrap();
        let mut records = Vec::new();
        for number in 0..57_u8 {
            let record = vec![number + 1; 700 + usize::from(number)];
            records.push((append(&journal, &record), record));
        }
        let segments: Vec<_> = journal.segments().iter().map(|segment| (segment.base.0, segment.end.0)).collect();
        assert_eq!(segments.len(), 3);
        // Trimming goes on beside the appends; damage is done to a file at rest.
        for (base, end) in &segments[..2] {
            until("trimmed", || std::fs::metadata(path(dir.path(), *base)).unwrap().len() == end - base);
        }
        Self { dir, records, segments }
    }

    /// A copy to be damaged.
    fn copy(&self) -> tempfile::TempDir {
        let copy = memory_dir();
        for &(base, _) in &self.segments {
            std::fs::copy(path(self.dir.path(), base), path(copy.path(), base)).unwrap();
        }
        copy
    }

    fn base(&self, segment: usize) -> u64 {
        self.segments[segment].0
    }

    /// Records of a segment.
    fn of(&self, segment: usize) -> impl Iterator<Item = &(Lsn, Vec<u8>)> {
        let (base, end) = self.segments[segment];
        self.records.iter().filter(move |(lsn, _)| (base..end).contains(&lsn.0))
    }
}

fn path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.seg"))
}

fn flip(dir: &Path, base: u64, offset: u64, bits: u8) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path(dir, base)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ bits], offset).unwrap();
}

fn overwrite(dir: &Path, base: u64, offset: u64, bytes: &[u8]) {
    let file = std::fs::OpenOptions::new().write(true).open(path(dir, base)).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[track_caller]
fn damaged(dir: &Path, base: u64, offset: u64) -> String {
    match Journal::open(small(dir)).map(|(_, opened)| opened) {
        Err(OpenError::Damaged { segment, offset: at, problem }) => {
            assert_eq!((segment, at), (path(dir, base), offset), "{problem}");
            problem
        }
        Err(error) => panic!("another error: {error}"),
        Ok(opened) => panic!("it opened: {opened:?}"),
    }
}

/// Opens, expects the first `kept` records and a torn tail, and that the journal works on.
#[track_caller]
fn cut_after(specimen: &Specimen, dir: &Path, kept: usize) {
    let (journal, opened) = Journal::open(small(dir)).unwrap();
    assert!(opened.torn_bytes > 0);
    assert_eq!(all(&journal, Lsn(0)), specimen.records[..kept]);
    let next = append(&journal, b"next");
    drop(journal);
    let (journal, opened) = Journal::open(small(dir)).unwrap();
    assert_eq!(opened.torn_bytes, 0);
    assert_eq!(journal.read(next).unwrap(), b"next");
    assert_eq!(all(&journal, Lsn(0)).len(), kept + 1);
}

#[test]
fn every_byte_of_a_segment_header_counts() {
    let specimen = Specimen::new();
    for segment in 0..3 {
        for offset in 0..SEGMENT_HEADER {
            let dir = specimen.copy();
            flip(dir.path(), specimen.base(segment), offset, 1 << (offset % 8));
            damaged(dir.path(), specimen.base(segment), 0);
        }
    }
}

#[test]
fn every_field_of_a_group_counts_wherever_a_later_group_proves_it() {
    let specimen = Specimen::new();
    for segment in 0..3 {
        let base = specimen.base(segment);
        let (lsn, record) = specimen.of(segment).nth(3).unwrap();
        let group = lsn.0 - GROUP_HEADER - base;
        let body = GROUP_HEADER + RECORD_HEADER;
        let fields = (0..body).chain([body, body + record.len() as u64 / 2, body + record.len() as u64 - 1]);
        for field in fields {
            let dir = specimen.copy();
            flip(dir.path(), base, group + field, 0x10);
            damaged(dir.path(), base, group);
        }
    }
}

#[test]
fn the_last_group_may_be_torn_anywhere() {
    let specimen = Specimen::new();
    let (base, end) = specimen.segments[2];
    let (lsn, _) = specimen.records.last().unwrap();
    let (group, end) = (lsn.0 - GROUP_HEADER - base, end - base);
    let kept = specimen.records.len() - 1;
    for offset in (group..end).step_by(7).chain([end - 1]) {
        let dir = specimen.copy();
        flip(dir.path(), base, offset, 0x80);
        cut_after(&specimen, dir.path(), kept);
    }
    for length in (group + 1..end).step_by(11) {
        let dir = specimen.copy();
        let file = std::fs::OpenOptions::new().write(true).open(path(dir.path(), base)).unwrap();
        file.set_len(length).unwrap();
        cut_after(&specimen, dir.path(), kept);
    }
    // Its first page arrived and its last did not, or the other way round.
    for (from, to) in [(group, group + 300), (group + 300, end)] {
        let dir = specimen.copy();
        overwrite(dir.path(), base, from, &vec![0; (to - from) as usize]);
        cut_after(&specimen, dir.path(), kept);
    }
}

#[test]
fn a_page_of_zeros_before_the_end_is_damage() {
    let specimen = Specimen::new();
    for segment in 0..3 {
        let dir = specimen.copy();
        let base = specimen.base(segment);
        overwrite(dir.path(), base, 4096, &[0; 4096]);
        let hit = specimen.of(segment).find(|(lsn, record)| lsn.0 - base + record.len() as u64 > 4096).unwrap();
        damaged(dir.path(), base, hit.0.0 - GROUP_HEADER - base);
    }
}

#[test]
fn a_closed_segment_that_is_cut_short_missing_or_in_another_ones_place_is_damage() {
    let specimen = Specimen::new();
    let base = specimen.base(1);

    let dir = specimen.copy();
    let file = std::fs::OpenOptions::new().write(true).open(path(dir.path(), base)).unwrap();
    file.set_len(9_000).unwrap();
    let hit = specimen.of(1).find(|(lsn, record)| lsn.0 - base + record.len() as u64 > 9_000).unwrap();
    damaged(dir.path(), base, hit.0.0 - GROUP_HEADER - base);

    let dir = specimen.copy();
    std::fs::remove_file(path(dir.path(), base)).unwrap();
    let (first, first_end) = specimen.segments[0];
    let problem = damaged(dir.path(), first, first_end - first);
    assert!(problem.contains("next segment begins at"), "{problem}");

    let dir = specimen.copy();
    std::fs::rename(path(dir.path(), first), dir.path().join("a")).unwrap();
    std::fs::rename(path(dir.path(), base), path(dir.path(), first)).unwrap();
    std::fs::rename(dir.path().join("a"), path(dir.path(), base)).unwrap();
    damaged(dir.path(), first, 0);

    let dir = specimen.copy();
    std::fs::write(path(dir.path(), specimen.base(2)), b"").unwrap();
    damaged(dir.path(), specimen.base(2), 0);
}

#[test]
fn a_segment_of_another_journal_is_told_apart() {
    let (specimen, other) = (Specimen::new(), Specimen::new());
    assert_eq!(specimen.segments, other.segments);
    let dir = specimen.copy();
    let base = specimen.base(1);
    std::fs::copy(path(other.dir.path(), base), path(dir.path(), base)).unwrap();
    assert_eq!(damaged(dir.path(), base, 0), "it belongs to another journal");
}

#[test]
fn groups_that_were_copied_to_another_place_are_not_taken() {
    let specimen = Specimen::new();
    let (base, end) = specimen.segments[2];
    let bytes = std::fs::read(path(specimen.dir.path(), base)).unwrap();
    // The first group once more after the last: good bytes, wrong place.
    let (lsn, record) = specimen.of(2).next().unwrap();
    let from = (lsn.0 - GROUP_HEADER - base) as usize;
    let group = &bytes[from..from + (GROUP_HEADER + RECORD_HEADER) as usize + record.len()];
    let dir = specimen.copy();
    overwrite(dir.path(), base, end - base, group);
    cut_after(&specimen, dir.path(), specimen.records.len());
}

#[test]
fn a_payload_cannot_pass_for_a_later_group() {
    let dir = memory_dir();
    let (journal, _) = Journal::open(small(dir.path())).unwrap();
    append(&journal, b"first");
    let end = journal.durable().0;
    // A sender who knows the format, the position and everything but the journal's id.
    let mut payload = vec![0_u8; 600];
    for at in (0..500).step_by(40) {
        let lsn = end + GROUP_HEADER + RECORD_HEADER + at as u64;
        let header: Vec<u8> =
            [b"BkGr".as_slice(), &0_u64.to_le_bytes(), &lsn.to_le_bytes(), &lsn.to_le_bytes(), &[0; 8]].concat();
        payload[at..at + 36].copy_from_slice(&header);
        let sum = crc32c::crc32c(&header).to_le_bytes();
        payload[at + 36..at + 40].copy_from_slice(&sum);
    }
    append(&journal, &payload);
    drop(journal);
    flip(dir.path(), 0, end + 3, 1);
    let (journal, opened) = Journal::open(small(dir.path())).unwrap();
    assert!(opened.torn_bytes > 0);
    assert_eq!(all(&journal, Lsn(0)).len(), 1);
}

#[test]
fn a_later_version_is_refused_by_name() {
    let specimen = Specimen::new();
    let dir = specimen.copy();
    let base = specimen.base(2);
    let mut header = std::fs::read(path(dir.path(), base)).unwrap()[..SEGMENT_HEADER as usize].to_vec();
    header[8..12].copy_from_slice(&2_u32.to_le_bytes());
    let sum = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    header[12..16].copy_from_slice(&sum.to_le_bytes());
    overwrite(dir.path(), base, 0, &header);
    match Journal::open(small(dir.path())).err() {
        Some(OpenError::LaterVersion(named)) => assert_eq!(named, path(dir.path(), base)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_record_that_rots_while_the_journal_is_open_is_not_handed_out() {
    let specimen = Specimen::new();
    let dir = specimen.copy();
    let (journal, _) = Journal::open(small(dir.path())).unwrap();
    let (lsn, record) = &specimen.records[5];
    assert_eq!(&journal.read(*lsn).unwrap(), record);
    flip(dir.path(), 0, lsn.0 + RECORD_HEADER + 100, 4);
    assert!(matches!(journal.read(*lsn), Err(JournalError::Damaged(at)) if at == *lsn));
    let scanned = journal.scan(Lsn(0), &mut |_, _| true);
    assert!(matches!(scanned, Err(JournalError::Damaged(_))), "{scanned:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_is_overwritten_the_journal_opens_with_a_prefix_or_names_the_damage(
        segment in 0_usize..3,
        place in 0.0_f64..1.0,
        bytes in prop::collection::vec(any::<u8>(), 1..600),
    ) {
        thread_local!(static SPECIMEN: Specimen = Specimen::new());
        SPECIMEN.with(|specimen| {
            let dir = specimen.copy();
            let (base, end) = specimen.segments[segment];
            overwrite(dir.path(), base, ((end - base) as f64 * place) as u64, &bytes);
            match Journal::open(small(dir.path())) {
                Ok((journal, _)) => {
                    let found = all(&journal, Lsn(0));
                    assert!(specimen.records.starts_with(&found));
                    assert!(found.len() >= specimen.of(0).count() + specimen.of(1).count());
                }
                Err(OpenError::Damaged { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        });
    }
}
