//! The journal against a tiny model: a list of submits, of which a prefix may be released and an unsynced tail may be lost.
#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use std::os::unix::fs::FileExt;
use std::path::Path;

use backlot_journal::{Class, Journal, Lsn, Submitted};
use proptest::prelude::*;

use support::{all, check_whole, memory_dir, numbered, small, until};

#[derive(Clone, Debug)]
enum Step {
    /// Submits one after the other, each with records of these sizes, and waits for the last.
    Submit(Vec<Vec<usize>>),
    Roll,
    /// Releases up to this part of what is there.
    Release(f64),
    Reopen,
    /// The last group never reached the disk whole.
    Crash(Tear),
    /// After the end stands what nobody acknowledged.
    Garbage(Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
enum Tear {
    CutAt(f64),
    ZeroFrom(f64),
    FlipAt(f64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let submit = prop::collection::vec(prop::collection::vec(0_usize..900, 1..5), 1..6);
    let tear = prop_oneof![
        (0.0_f64..1.0).prop_map(Tear::CutAt),
        (0.0_f64..1.0).prop_map(Tear::ZeroFrom),
        (0.0_f64..1.0).prop_map(Tear::FlipAt),
    ];
    let step = prop_oneof![
        8 => submit.prop_map(Step::Submit),
        1 => Just(Step::Roll),
        1 => (0.0_f64..1.0).prop_map(Step::Release),
        1 => Just(Step::Reopen),
        1 => tear.prop_map(Step::Crash),
        1 => prop::collection::vec(any::<u8>(), 1..3000).prop_map(Step::Garbage),
    ];
    prop::collection::vec(step, 1..40)
}

/// What must be there.
#[derive(Default)]
struct Model {
    records: Vec<(Lsn, Vec<u8>)>,
    submits: u64,
    /// First record of each step that submitted.
    steps: Vec<Lsn>,
}

struct Rig {
    dir: tempfile::TempDir,
    journal: Option<Journal>,
    model: Model,
}

impl Rig {
    fn new() -> Self {
        let dir = memory_dir();
        let (journal, _) = Journal::open(small(dir.path())).unwrap();
        Self { dir, journal: Some(journal), model: Model::default() }
    }

    fn journal(&self) -> &Journal {
        self.journal.as_ref().unwrap()
    }

    fn submit(&mut self, submits: &[Vec<usize>]) {
        let mut last: Option<Submitted> = None;
        let first = self.model.records.len();
        for sizes in submits {
            let number = self.model.submits;
            self.model.submits += 1;
            let count = sizes.len() as u8;
            let records: Vec<_> =
                sizes.iter().enumerate().map(|(index, bytes)| numbered(number, index as u8, count, *bytes)).collect();
            let permit = self.journal().reserve_blocking(records.iter().map(Vec::len).sum(), Class::Growing).unwrap();
            let slices: Vec<_> = records.iter().map(Vec::as_slice).collect();
            let submitted = permit.submit(&slices);
            for (lsn, record) in submitted.lsns.iter().zip(records) {
                assert_eq!(self.journal().read(*lsn).unwrap(), record, "readable before it is durable");
                self.model.records.push((*lsn, record));
            }
            last = Some(submitted);
        }
        last.unwrap().durable_blocking().unwrap();
        self.model.steps.push(self.model.records[first].0);
    }

    fn check(&self) {
        let found = all(self.journal(), Lsn(0));
        let oldest = self.journal().segments()[0].base;
        let expected: Vec<_> = self.model.records.iter().filter(|(lsn, _)| *lsn >= oldest).cloned().collect();
        assert_eq!(found, expected);
        if let Some((lsn, record)) = expected.get(expected.len() / 2) {
            assert_eq!(&self.journal().read(*lsn).unwrap(), record);
            assert_eq!(all(self.journal(), *lsn), expected[expected.len() / 2..]);
        }
    }

    /// Closes, does something to the files, and opens again. Returns the torn bytes.
    fn restart(&mut self, between: impl FnOnce(&Path, u64, u64)) -> u64 {
        let segments = self.journal().segments();
        let last = segments.last().unwrap();
        let (base, end) = (last.base.0, last.end.0);
        self.journal = None;
        between(&self.dir.path().join(format!("{base:020}.seg")), base, end);
        let (journal, opened) = Journal::open(small(self.dir.path())).unwrap();
        self.journal = Some(journal);
        opened.torn_bytes
    }

    /// Tears the bytes from the last submit on. The submits of one group go together, so only what stood before is sure.
    fn crash(&mut self, tear: Tear) {
        let Some((from, _)) = self.model.records.iter().rev().find(|(_, record)| record[8] == 0).cloned() else {
            return;
        };
        let mut torn = false;
        self.restart(|path, base, end| {
            if from.0 < base || end <= from.0 {
                return; // the last segment holds no record
            }
            torn = true;
            let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
            let (from, end) = (from.0 - base, end - base);
            let at = |part: f64| from + ((end - from) as f64 * part) as u64;
            match tear {
                Tear::CutAt(part) => file.set_len(at(part)).unwrap(),
                Tear::ZeroFrom(part) => file.write_all_at(&vec![0; (end - at(part)) as usize], at(part)).unwrap(),
                Tear::FlipAt(part) => {
                    let mut byte = [0];
                    file.read_exact_at(&mut byte, at(part)).unwrap();
                    file.write_all_at(&[!byte[0]], at(part)).unwrap();
                }
            }
        });
        let found = all(self.journal(), Lsn(0));
        check_whole(&found);
        let oldest = self.journal().segments()[0].base;
        self.model.records.retain(|(lsn, _)| *lsn >= oldest); // the others were released
        let kept = found.last().map_or(Lsn(0), |(lsn, _)| *lsn);
        let sure = match torn {
            true => self.model.steps.last().copied(), // what an earlier step waited for stays
            false => None,
        };
        let lost = self.model.records.iter().filter(|(lsn, _)| *lsn > kept);
        assert!(
            lost.clone().all(|(lsn, _)| sure.is_some_and(|sure| *lsn >= sure)),
            "lost {:?}",
            lost.map(|l| l.0).collect::<Vec<_>>()
        );
        self.model.steps.retain(|first| *first <= kept);
        self.model.records.retain(|(lsn, _)| *lsn <= kept);
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Submit(submits) => self.submit(submits),
            Step::Roll => {
                let before = self.journal().segments().last().unwrap().clone();
                self.journal().roll();
                if before.end.0 > before.base.0 + 32 {
                    until("the roll", || self.journal().segments().last().unwrap().base > before.base);
                }
            }
            Step::Release(part) => {
                let (oldest, end) = (self.journal().segments()[0].base.0, self.journal().durable().0);
                let limit = Lsn(oldest + ((end - oldest) as f64 * part) as u64);
                let expected = self.journal().segments().iter().rev().skip(1).filter(|s| s.end <= limit).count();
                assert_eq!(self.journal().release_before(limit).unwrap(), expected);
            }
            Step::Reopen => assert_eq!(self.restart(|_, _, _| {}), 0),
            Step::Crash(tear) => self.crash(*tear),
            Step::Garbage(bytes) => {
                let torn = self.restart(|path, base, end| {
                    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
                    file.write_all_at(bytes, end - base).unwrap();
                });
                assert_eq!(torn > 0, bytes.iter().any(|byte| *byte != 0));
            }
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_journal_is_a_list_that_loses_only_what_was_never_acknowledged(steps in steps()) {
        let mut rig = Rig::new();
        for step in &steps {
            rig.take(step);
        }
    }
}
