#[path = "../../journal/tests/support/disk.rs"]
#[allow(unreachable_pub, reason = "it is shared with the journal's tests")]
pub(crate) mod disk;

use self::disk::disk_or_skip;
use super::*;

fn pair(key: &str, value: &str) -> Pair {
    (key.into(), value.into())
}

fn with(pairs: &[(Table, &str, &str)]) -> (tempfile::TempDir, Catalogue) {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::open(&dir.path().join("catalogue")).unwrap();
    let mut batch = Batch::default();
    for (table, key, value) in pairs {
        batch.put(*table, *key, *value);
    }
    catalogue.apply(batch, Lsn(10)).unwrap();
    (dir, catalogue)
}

#[test]
fn ranges_stay_within_table_and_prefix_in_both_directions() {
    let (_dir, catalogue) = with(&[
        (Table::Buckets, "a/1", "other table"),
        (Table::Objects, "a/1", "1"),
        (Table::Objects, "a/2", "2"),
        (Table::Objects, "a/3", "3"),
        (Table::Objects, "b/1", "4"),
        (Table::Uploads, "a/9", "other table"),
    ]);
    let range = |prefix: &str, from: &str, limit| {
        catalogue.range(Table::Objects, prefix.as_bytes(), from.as_bytes(), limit).unwrap()
    };
    assert_eq!(range("a/", "", 10), [pair("a/1", "1"), pair("a/2", "2"), pair("a/3", "3")]);
    assert_eq!(range("a/", "a/2", 1), [pair("a/2", "2")]);
    assert_eq!(range("", "", 10).len(), 4);
    assert_eq!(range("c", "", 10), []);
    let back = |prefix: &str, before: &str, limit| {
        catalogue.range_back(Table::Objects, prefix.as_bytes(), before.as_bytes(), limit).unwrap()
    };
    assert_eq!(back("a/", "", 2), [pair("a/3", "3"), pair("a/2", "2")]);
    assert_eq!(back("a/", "a/3", 9), [pair("a/2", "2"), pair("a/1", "1")]);
    assert_eq!(back("a/", "b/1", 1), [pair("a/3", "3")]);
    assert_eq!(back("", "", 9).len(), 4);
}

#[test]
fn values_and_keys_over_their_limits_are_refused_and_nothing_of_their_batch_is_applied() {
    let (_dir, catalogue) = with(&[]);
    let mut batch = Batch::default();
    batch.put(Table::Jobs, "small", "fits");
    batch.put(Table::Jobs, "large", vec![0; VALUE_BYTES_MAX + 1]);
    assert!(matches!(catalogue.apply(batch, Lsn(20)), Err(CatalogueError::TooLarge { table: Table::Jobs, .. })));
    let mut batch = Batch::default();
    batch.put(Table::Jobs, vec![0; KEY_BYTES_MAX + 1], "fits");
    assert!(matches!(catalogue.apply(batch, Lsn(20)), Err(CatalogueError::KeyTooLarge { .. })));
    assert_eq!(catalogue.get(Table::Jobs, b"small").unwrap(), None);
    assert_eq!(catalogue.applied(), Lsn(10));
}

#[test]
fn what_was_flushed_and_its_position_are_there_after_a_reopening() {
    let (dir, catalogue) = with(&[(Table::Keys, "k", "v")]);
    catalogue.flush().unwrap();
    drop(catalogue);
    let catalogue = Catalogue::open(&dir.path().join("catalogue")).unwrap();
    assert_eq!(catalogue.get(Table::Keys, b"k").unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!((catalogue.applied(), catalogue.flushed()), (Lsn(10), Lsn(10)));
}

#[test]
fn a_snapshot_holds_the_moment_it_began_whatever_is_committed_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = Catalogue::open(&dir.path().join("catalogue")).unwrap();
    let mut batch = Batch::default();
    for number in 0..2_000_u32 {
        batch.put(Table::Objects, number.to_be_bytes(), "old");
    }
    catalogue.apply(batch, Lsn(7)).unwrap();
    let path = dir.path().join("snapshot");

    // Steps through the export by hand, with commits before, at and after the place it has reached.
    *catalogue.inner.export.lock() = Some(Export::beginning());
    let mut exported = Vec::new();
    let mut round = 0_u32;
    while let Some(chunk) = catalogue.next_chunk().unwrap() {
        exported.extend(chunk);
        let mut batch = Batch::default();
        for number in (round..2_300).step_by(3) {
            match number % 2 {
                0 => batch.put(Table::Objects, number.to_be_bytes(), "new"),
                _ => batch.delete(Table::Objects, number.to_be_bytes()),
            }
        }
        round += 1;
        catalogue.apply(batch, Lsn(8)).unwrap();
    }
    let expected: Vec<_> =
        (0..2_000_u32).map(|n| (full_key(Table::Objects, &n.to_be_bytes()), b"old".to_vec())).collect();
    assert_eq!(exported, expected);

    let head = catalogue.export(&path).unwrap();
    let other = Catalogue::open(&dir.path().join("other")).unwrap();
    assert_eq!(other.import(&path).unwrap(), head);
    assert_eq!(other.applied(), Lsn(8));
    let all = |catalogue: &Catalogue| catalogue.range(Table::Objects, b"", b"", usize::MAX).unwrap();
    assert_eq!(all(&other), all(&catalogue));
}

#[test]
fn an_export_that_fails_leaves_the_old_snapshot_and_no_rest() {
    let (dir, catalogue) = with(&[(Table::Jobs, "a", "1")]);
    let path = dir.path().join("snapshot");
    let head = catalogue.export(&path).unwrap();
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    assert!(catalogue.export(&dir.path().join("folder")).is_err(), "a folder stands in its place");
    assert!(!dir.path().join("folder.new").exists());
    assert_eq!(snapshot::read_snapshot(&path, |_, _| Ok(())).unwrap(), head);
    assert!(catalogue.inner.export.lock().is_none(), "commits no longer keep old values");
}

#[test]
fn every_damaged_byte_of_a_snapshot_is_noticed() {
    let (dir, catalogue) = with(&[(Table::Jobs, "a", "1"), (Table::Jobs, "b", "2")]);
    let path = dir.path().join("snapshot");
    catalogue.export(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    assert!(snapshot::read_snapshot(&path, |_, _| Ok(())).is_ok());
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        std::fs::write(&path, &bytes).unwrap();
        assert!(snapshot::read_snapshot(&path, |_, _| Ok(())).is_err(), "byte {at}");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(snapshot::read_snapshot(&path, |_, _| Ok(())).is_err(), "cut at {at}");
    }
}

/// Nothing else syncs on this disk: what the flush answers is all that can have reached it.
#[test]
fn what_was_flushed_survives_a_power_cut() {
    let Some(disk) = disk_or_skip("catalogue: what_was_flushed_survives_a_power_cut", 64 << 20) else { return };
    let path = disk.path().join("catalogue");
    drop(Catalogue::open(&path).unwrap());
    disk.power_on(); // after a clean stop
    let mut number = 0_u64;
    for round in 0..9_u64 {
        let catalogue = Catalogue::open(&path).unwrap();
        let held = catalogue.range(Table::Jobs, b"", b"", usize::MAX).unwrap();
        assert_eq!(held.len() as u64, number, "round {round}");
        assert_eq!(catalogue.applied(), Lsn(number), "round {round}");
        for _ in 0..=round * 7 {
            let mut batch = Batch::default();
            batch.put(Table::Jobs, number.to_be_bytes(), vec![number as u8; 3000]);
            number += 1;
            catalogue.apply(batch, Lsn(number)).unwrap();
        }
        assert_eq!(catalogue.flush().unwrap(), Lsn(number));
        disk.cut_power();
        // sled syncs once more when it is dropped, and panics because the disk is gone.
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(catalogue)));
        disk.power_on();
    }
}

#[test]
fn a_full_disk_neither_stops_the_catalogue_nor_keeps_it_from_opening() {
    let name = "catalogue: a_full_disk_neither_stops_the_catalogue_nor_keeps_it_from_opening";
    let Some(disk) = disk_or_skip(name, 64 << 20) else { return };
    let path = disk.path().join("catalogue");
    let catalogue = Catalogue::open(&path).unwrap();
    let mut ballast = std::fs::File::create(disk.path().join("ballast")).unwrap();
    while std::io::Write::write_all(&mut ballast, &[7; 4096]).is_ok() {}
    let put = |catalogue: &Catalogue, number: u64| {
        let mut batch = Batch::default();
        batch.put(Table::Jobs, number.to_be_bytes(), vec![number as u8; 3000]);
        catalogue.apply(batch, Lsn(number)).unwrap();
    };
    for number in 1..=300 {
        put(&catalogue, number);
        if number % 50 == 0 {
            assert_eq!(catalogue.flush().unwrap(), Lsn(number));
        }
    }
    drop(catalogue);
    let catalogue = Catalogue::open(&path).unwrap();
    assert_eq!(catalogue.range(Table::Jobs, b"", b"", usize::MAX).unwrap().len(), 300);
    put(&catalogue, 301);
    catalogue.flush().unwrap();
    drop((catalogue, ballast)); // a file that is open keeps its room
    std::fs::remove_file(disk.path().join("ballast")).unwrap();
    let catalogue = Catalogue::open(&path).unwrap();
    assert_eq!(catalogue.applied(), Lsn(301));
    assert!(path.with_extension("headroom").exists(), "made again when there is room");
}

#[test]
fn a_snapshot_of_sled_that_was_not_finished_does_not_keep_the_catalogue_from_opening() {
    let (dir, catalogue) = with(&[(Table::Jobs, "kept", "1")]);
    catalogue.flush().unwrap();
    drop(catalogue);
    let path = dir.path().join("catalogue");
    std::fs::write(path.join("snap.FFFFFFFFFFFFFFFF.generating"), b"").unwrap();
    let catalogue = Catalogue::open(&path).unwrap();
    assert_eq!(catalogue.range(Table::Jobs, b"", b"", 9).unwrap(), [pair("kept", "1")]);
}
