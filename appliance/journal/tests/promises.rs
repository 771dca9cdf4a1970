//! What the journal promises while nothing goes wrong.
#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod support;

use backlot_journal::{Class, Journal, JournalError, Lsn, Options};

use support::{all, append, small, until};

#[test]
fn what_was_appended_is_read_scanned_and_there_after_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, opened) = Journal::open(small(dir.path())).unwrap();
    assert_eq!((opened.segments, opened.torn_bytes, opened.oldest), (1, 0, Lsn(0)));
    let mut written = Vec::new();
    for number in 0..200_usize {
        let record = vec![number as u8; number * 7 % 1500];
        written.push((append(&journal, &record), record));
    }
    assert!(journal.segments().len() > 3);
    for (lsn, record) in &written {
        assert_eq!(&journal.read(*lsn).unwrap(), record);
    }
    assert_eq!(all(&journal, Lsn(0)), written);
    assert_eq!(all(&journal, written[77].0), written[77..]);
    let end = journal.durable();
    drop(journal);

    let (journal, opened) = Journal::open(small(dir.path())).unwrap();
    assert_eq!((opened.torn_bytes, opened.end), (0, end));
    assert_eq!(all(&journal, Lsn(0)), written);
    let next = append(&journal, b"next");
    assert!(next >= end);
    assert_eq!(journal.read(next).unwrap(), b"next");
}

#[test]
fn a_scan_stops_when_told_and_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(dir.path())).unwrap();
    for number in 0..50_u8 {
        append(&journal, &[number; 600]);
    }
    let mut seen = Vec::new();
    let mut from = Lsn(0);
    for _ in 0..50 {
        from = journal
            .scan(from, &mut |_, record| {
                seen.push(record[0]);
                false
            })
            .unwrap();
    }
    assert_eq!(seen, (0..50).collect::<Vec<_>>());
    assert_eq!(journal.scan(from, &mut |_, _| panic!("there is nothing more")).unwrap(), journal.durable());
}

#[test]
fn a_record_can_be_read_before_it_is_durable_and_a_wrong_position_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(dir.path())).unwrap();
    for _ in 0..100 {
        let permit = journal.reserve_blocking(10, Class::Growing).unwrap();
        let submitted = permit.submit(&[b"first", b"other"]);
        assert_eq!(journal.read(submitted.lsns[0]).unwrap(), b"first");
        assert_eq!(journal.read(submitted.lsns[1]).unwrap(), b"other");
        assert!(journal.read(Lsn(submitted.lsns[1].0 + 1)).is_err());
    }
    append(&journal, b"last");
    assert!(matches!(journal.read(Lsn(journal.durable().0 + 4096)), Err(JournalError::NoRecord(_))));
    assert!(journal.read(Lsn(3)).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_share_groups_and_every_one_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(Options::new(dir.path())).unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..128_u32 {
        let journal = journal.clone();
        callers.spawn(async move {
            for number in 0..20_u32 {
                let record = [caller.to_le_bytes(), number.to_le_bytes()].concat();
                let permit = journal.reserve(record.len(), Class::Growing).await.unwrap();
                let submitted = permit.submit(&[&record]);
                submitted.durable().await.unwrap();
                assert!(journal.durable() >= submitted.end);
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    assert_eq!(all(&journal, Lsn(0)).len(), 128 * 20);
    let stats = journal.stats();
    assert_eq!(stats.records, 128 * 20);
    assert!(stats.groups < stats.records, "{} groups", stats.groups);
}

#[tokio::test]
async fn a_permit_waits_for_room_and_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(dir.path())).unwrap();
    let held = journal.reserve(5000, Class::Growing).await.unwrap();
    let mut second = Box::pin(journal.reserve(5000, Class::Growing));
    assert!(poll_once(&mut second).await.is_none(), "there is no room for both");
    drop(held);
    let permit = second.await.unwrap();
    permit.submit(&[&[1; 1000]]).durable().await.unwrap();
    let error = journal.reserve(1 << 20, Class::Shrinking).await.err().unwrap();
    assert!(matches!(error, JournalError::TooLarge { .. }), "{error}");
}

async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| {
        std::task::Poll::Ready(match std::pin::Pin::new(&mut *future).poll(context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}

#[test]
fn old_segments_go_and_their_records_with_them() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(dir.path())).unwrap();
    let first = append(&journal, &[1; 1000]);
    assert_eq!(journal.release_before(Lsn(u64::MAX)).unwrap(), 0, "the last segment is being written");
    journal.roll();
    until("a second segment", || journal.segments().len() == 2);
    let second = append(&journal, &[2; 1000]);
    assert_eq!(journal.release_before(first).unwrap(), 0);
    assert_eq!(journal.release_before(second).unwrap(), 1);
    assert!(matches!(journal.read(first), Err(JournalError::NoRecord(_))));
    assert_eq!(journal.read(second).unwrap(), [2; 1000]);
    drop(journal);
    let (journal, opened) = Journal::open(small(dir.path())).unwrap();
    assert!(opened.oldest > first);
    assert_eq!(all(&journal, Lsn(0)), [(second, vec![2; 1000])]);
}

#[test]
fn a_full_budget_refuses_what_grows_lets_shrink_and_recovers_after_a_release() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { disk_bytes_max: 64 * 1024, ..small(dir.path()) };
    let (journal, _) = Journal::open(options).unwrap();
    let mut grown = 0;
    let refused = loop {
        match journal.reserve_blocking(1000, Class::Growing) {
            Ok(permit) => permit.submit(&[&[7; 1000]]).durable_blocking().unwrap(),
            Err(error) => break error,
        }
        grown += 1;
        assert!(grown < 80, "the budget holds no more than 64 KiB");
    };
    assert!(matches!(refused, JournalError::Full), "{refused}");
    assert!(grown > 40, "{grown}");
    let mut shrunk = 0;
    while let Ok(permit) = journal.reserve_blocking(100, Class::Shrinking) {
        permit.submit(&[&[8; 100]]).durable_blocking().unwrap();
        shrunk += 1;
    }
    assert!(shrunk > 40, "{shrunk}");
    assert!(journal.release_before(journal.segments()[2].base).unwrap() == 2);
    until("room again", || journal.reserve_blocking(1000, Class::Growing).is_ok());
    until("the reserve again", || dir.path().join("reserve").exists());
}

#[test]
fn a_journal_has_one_owner_and_a_closed_one_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(dir.path())).unwrap();
    assert!(matches!(Journal::open(small(dir.path())), Err(backlot_journal::OpenError::Locked(_))));
    let kept = journal.reserve_blocking(10, Class::Growing).unwrap();
    let last = journal.reserve_blocking(10, Class::Growing).unwrap().submit(&[b"last"]);
    journal.close();
    assert!(last.durable_blocking().is_ok(), "closing makes durable what was submitted");
    assert!(kept.submit(&[b"late"]).durable_blocking().is_err());
    assert!(matches!(journal.reserve_blocking(1, Class::Growing), Err(JournalError::Closed)));
    drop(journal);
    let (journal, _) = Journal::open(small(dir.path())).unwrap();
    assert_eq!(all(&journal, Lsn(0)).len(), 1);
}

#[test]
fn a_torn_tail_is_cut_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(small(dir.path())).unwrap();
    let kept = append(&journal, b"kept");
    let end = journal.durable();
    drop(journal);
    let file = std::fs::OpenOptions::new().write(true).open(dir.path().join(format!("{:020}.seg", 0))).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"half a group", end.0).unwrap();
    let (journal, opened) = Journal::open(small(dir.path())).unwrap();
    assert!(opened.torn_bytes > 0);
    assert_eq!(opened.end, end);
    let next = append(&journal, b"next");
    assert_eq!(all(&journal, Lsn(0)), [(kept, b"kept".to_vec()), (next, b"next".to_vec())]);
}

#[test]
fn a_scan_goes_on_with_the_oldest_when_its_segment_is_recycled_under_it() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        segment_bytes: 4 << 20,
        record_bytes_max: 64 << 10,
        pending_bytes_max: 1 << 20,
        reserve_bytes: 1 << 20,
        disk_bytes_max: 16 << 20,
        ..Options::new(dir.path())
    };
    let (journal, _) = Journal::open(options).unwrap();
    for (bytes, class) in [(60_000, Class::Growing), (20_000, Class::Shrinking)] {
        while let Ok(permit) = journal.reserve_blocking(bytes, class) {
            permit.submit(&[&vec![7; bytes]]).durable_blocking().unwrap();
        }
    }
    let second = journal.segments()[1].base;
    let mut visited = Vec::new();
    journal
        .scan(Lsn(0), &mut |lsn, _| {
            if visited.is_empty() {
                assert_eq!(journal.release_before(second).unwrap(), 1);
                assert!(dir.path().join("reserve").exists(), "its room was kept");
                assert!(matches!(journal.read(lsn), Err(JournalError::NoRecord(_))));
            }
            visited.push(lsn);
            true
        })
        .unwrap();
    let left = visited.iter().filter(|lsn| **lsn < second).count();
    assert!((1..60).contains(&left), "it had read ahead by {left} of 70 records");
    assert!(visited.is_sorted() && visited.len() > left + 100, "{left} of {}", visited.len());
}
