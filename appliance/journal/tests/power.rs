//! The power is cut, and the disk is full: on a file system of our own, where root and loop mounts allow it.
#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use backlot_journal::{Class, Journal, JournalError, Lsn, Options};
use parking_lot::Mutex;

use support::disk::disk_or_skip;
use support::{Dice, all, append, check_whole, number_of, numbered, until};

const ROUNDS: u64 = 12;
const CALLERS: u64 = 4;

#[test]
fn whatever_was_acknowledged_survives_a_power_cut() {
    let name = "whatever_was_acknowledged_survives_a_power_cut";
    let Some(disk) = disk_or_skip(name, 96 << 20) else { return };
    let dir = disk.path().join("journal");
    let fatal = Arc::new(AtomicUsize::new(0));
    let options = || Options {
        segment_bytes: 512 * 1024,
        record_bytes_max: 16 * 1024,
        pending_bytes_max: 128 * 1024,
        reserve_bytes: 128 * 1024,
        on_fatal: {
            let fatal = Arc::clone(&fatal);
            Arc::new(move |_| _ = fatal.fetch_add(1, Ordering::Relaxed))
        },
        ..Options::new(&dir)
    };
    let mut dice = Dice(42);
    let acknowledged = Mutex::new(Vec::<(u64, Lsn)>::new());
    for round in 0..ROUNDS {
        let (journal, _) = Journal::open(options()).unwrap();
        let before = acknowledged.lock().len();
        let heard = std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                let (journal, acknowledged) = (&journal, &acknowledged);
                scope.spawn(move || send(journal, acknowledged, (round << 32) + caller));
            }
            until("some acknowledgements", || acknowledged.lock().len() > before + 8);
            std::thread::sleep(Duration::from_millis(dice.below(60))); // the moment is what is tried
            // What is answered while the power goes, nobody would have heard: the kernel may then answer a sync whose
            // metadata its stopped journal never took.
            let heard = acknowledged.lock().len();
            disk.cut_power();
            heard
        });
        drop(journal);
        acknowledged.lock().truncate(heard);
        disk.power_on();

        let (journal, _) = Journal::open(options()).unwrap();
        let found = all(&journal, Lsn(0));
        check_whole(&found);
        let there: std::collections::HashMap<_, _> = found
            .iter()
            .filter_map(|(lsn, record)| Some((number_of(record).filter(|of| of.1 == 0)?.0, *lsn)))
            .collect();
        for (number, lsn) in acknowledged.lock().iter() {
            assert_eq!(there.get(number), Some(lsn), "round {round} lost {number}");
        }
    }
    assert!(fatal.load(Ordering::Relaxed) > 0, "a sync that fails is fatal");
}

/// Submits and notes what is acknowledged, until the journal ends.
fn send(journal: &Journal, acknowledged: &Mutex<Vec<(u64, Lsn)>>, first: u64) {
    let mut dice = Dice(first + 1);
    for number in (first..).step_by(CALLERS as usize) {
        let count = 1 + dice.below(4) as u8;
        let records: Vec<_> =
            (0..count).map(|index| numbered(number, index, count, dice.below(6000) as usize)).collect();
        let bytes = records.iter().map(Vec::len).sum();
        let Ok(permit) = journal.reserve_blocking(bytes, Class::Growing) else { return };
        let slices: Vec<_> = records.iter().map(Vec::as_slice).collect();
        let submitted = permit.submit(&slices);
        if submitted.durable_blocking().is_err() {
            return;
        }
        acknowledged.lock().push((number, submitted.lsns[0]));
    }
}

#[test]
fn a_full_disk_refuses_growth_cleanly_lets_deletes_through_and_recovers() {
    let name = "a_full_disk_refuses_growth_cleanly_lets_deletes_through_and_recovers";
    let Some(disk) = disk_or_skip(name, 24 << 20) else { return };
    let died = Arc::new(AtomicBool::new(false));
    let options = || Options {
        segment_bytes: 1 << 20,
        record_bytes_max: 64 * 1024,
        pending_bytes_max: 256 * 1024,
        reserve_bytes: 512 * 1024,
        on_fatal: {
            let died = Arc::clone(&died);
            Arc::new(move |_| died.store(true, Ordering::Relaxed))
        },
        ..Options::new(disk.path().join("journal"))
    };
    let (journal, _) = Journal::open(options()).unwrap();
    let filler = disk.path().join("filler");
    let mut lsns = vec![append(&journal, &[1; 1000])];
    // Somebody else takes the rest of the disk.
    until("every file that is prepared", || {
        ["spare", "reserve", "collect"].iter().all(|name| disk.path().join("journal").join(name).exists())
    });
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
    drop(file);

    let refused = loop {
        match journal.reserve_blocking(50_000, Class::Growing) {
            Ok(permit) => {
                let submitted = permit.submit(&[&[2; 50_000]]);
                submitted.durable_blocking().unwrap();
                lsns.push(submitted.lsns[0]);
            }
            Err(error) => break error,
        }
        assert!(lsns.len() < 1000);
    };
    assert!(matches!(refused, JournalError::Full), "{refused}");
    assert!(lsns.len() > 20, "the current segment and the spare were filled: {}", lsns.len());
    assert!(journal.stats().full);
    let mut deletes = 0;
    while deletes < 200 {
        let permit = journal.reserve_blocking(1000, Class::Shrinking).unwrap();
        let submitted = permit.submit(&[&[3; 1000]]);
        submitted.durable_blocking().unwrap();
        lsns.push(submitted.lsns[0]);
        deletes += 1;
    }
    drop(journal);

    // Still full, it opens, has everything, and still lets deletes through.
    let (journal, opened) = Journal::open(options()).unwrap();
    assert_eq!(opened.torn_bytes, 0);
    assert_eq!(all(&journal, Lsn(0)).iter().map(|(lsn, _)| *lsn).collect::<Vec<_>>(), lsns);
    append_shrinking(&journal);
    std::fs::remove_file(&filler).unwrap();
    until("room again", || journal.reserve_blocking(50_000, Class::Growing).is_ok());
    until("the reserve again", || disk.path().join("journal").join("reserve").exists());
    assert!(!died.load(Ordering::Relaxed), "a full disk ends nothing");
}

fn append_shrinking(journal: &Journal) {
    let permit = journal.reserve_blocking(100, Class::Shrinking).unwrap();
    permit.submit(&[&[4; 100]]).durable_blocking().unwrap();
}

#[test]
fn on_a_full_disk_collection_goes_on_when_deletes_have_used_up_the_reserve() {
    let name = "on_a_full_disk_collection_goes_on_when_deletes_have_used_up_the_reserve";
    let Some(disk) = disk_or_skip(name, 24 << 20) else { return };
    let options = Options {
        segment_bytes: 1 << 20,
        record_bytes_max: 64 * 1024,
        pending_bytes_max: 256 * 1024,
        reserve_bytes: 512 * 1024,
        ..Options::new(disk.path().join("journal"))
    };
    let (journal, _) = Journal::open(options.clone()).unwrap();
    let submit = |bytes: usize, class| -> Result<(), JournalError> {
        let record = vec![5; bytes];
        journal.reserve_blocking(bytes, class)?.submit(&[&record]).durable_blocking()
    };
    for _ in 0..300 {
        submit(20_000, Class::Growing).unwrap();
    }
    until("every file that is prepared", || {
        ["spare", "reserve", "collect"].iter().all(|name| disk.path().join("journal").join(name).exists())
    });
    let filler = disk.path().join("filler");
    let fill = || {
        let mut file = std::fs::File::options().create(true).append(true).open(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &[7; 4096]).is_ok() {}
    };
    fill();
    while submit(20_000, Class::Growing).is_ok() {}
    let mut deletes = 0;
    while submit(1000, Class::Shrinking).is_ok() {
        deletes += 1;
    }
    assert!(deletes > 400, "the reserve was theirs: {deletes}");

    // Nothing is won by the first, in which everything lives; nor may it go wrong. Whatever room is let go, somebody else takes.
    let mut collected = 0;
    for _ in 0..6 {
        while submit(1000, Class::Shrinking).is_err() {
            let oldest = journal.segments()[0].clone();
            let mut live = Vec::new();
            journal
                .scan(oldest.base, &mut |lsn, record| {
                    live.extend((lsn < oldest.end && record.len() > 1000).then_some(record.len()));
                    lsn < oldest.end
                })
                .unwrap();
            for bytes in live.into_iter().step_by(if collected == 0 { 1 } else { 2 }) {
                submit(bytes, Class::Collecting)
                    .unwrap_or_else(|error| panic!("{error} after {collected} segments: {:?}", journal.stats()));
            }
            assert_eq!(journal.release_before(oldest.end).unwrap(), 1);
            fill();
            collected += 1;
            assert!(collected < 60, "what is dead makes room");
        }
        while submit(1000, Class::Shrinking).is_ok() {}
    }
    assert!(collected >= 6, "each time the reserve has to come back: {collected}");
    assert!(submit(20_000, Class::Growing).is_err(), "the disk is as full as before");
    drop(journal);
    let (journal, opened) = Journal::open(options.clone()).unwrap();
    assert_eq!(opened.torn_bytes, 0);
    std::fs::remove_file(&filler).unwrap();
    until("room again", || {
        journal
            .reserve_blocking(20_000, Class::Growing)
            .is_ok_and(|permit| permit.submit(&[&[6; 20_000]]).durable_blocking().is_ok())
    });
    drop(journal);
    let (_journal, opened) = Journal::open(options).unwrap();
    assert_eq!(opened.torn_bytes, 0);
}
