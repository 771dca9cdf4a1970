//! The control plane with two small followers: a set that lives in memory and in the journal, as the queue does, and
//! a table that lives in the catalogue.

mod crash;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::*;
use crate::catalogue::Table;

/// Members of a set by name, with the position of the record that put each in. Payload: `+name…` or `-name…`.
#[derive(Default)]
struct Members {
    held: Mutex<BTreeMap<Vec<u8>, Lsn>>,
    replayed: AtomicUsize,
}

impl Members {
    async fn add(&self, control: &Control, name: &str) {
        let payload = [b"+", name.as_bytes()].concat();
        let permit = control.reserve(payload.len(), Class::Growing).await.unwrap();
        let commit = {
            let mut held = self.held.lock();
            let commit = permit.submit(&[Record { kind: Kind::Queue, payload }]);
            held.insert(name.into(), commit.lsns[0]);
            commit
        };
        commit.acknowledged().await.unwrap();
    }

    async fn remove(&self, control: &Control, name: &str) {
        let payload = [b"-", name.as_bytes()].concat();
        let permit = control.reserve(payload.len(), Class::Shrinking).await.unwrap();
        let commit = {
            self.held.lock().remove(name.as_bytes());
            permit.submit(&[Record { kind: Kind::Queue, payload }])
        };
        commit.acknowledged().await.unwrap();
    }
}

impl Follower for Members {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Queue]
    }

    fn replay(&self, _: Kind, lsn: Lsn, payload: &[u8]) -> Result<(), String> {
        match payload.split_first() {
            Some((b'+', name)) => drop(self.held.lock().insert(name.to_vec(), lsn)),
            Some((b'-', name)) => drop(self.held.lock().remove(name)),
            _ => return Err("neither in nor out".into()),
        }
        Ok(())
    }

    fn replayed(&self, _: Now) {
        self.replayed.fetch_add(1, Ordering::Relaxed);
    }

    fn relocate(&self, kind: Kind, lsn: Lsn, payload: &[u8], permit: Permit) -> Option<Commit> {
        let name = payload.strip_prefix(b"+")?;
        let mut held = self.held.lock();
        let position = held.get_mut(name).filter(|position| **position == lsn)?;
        let commit = permit.submit(&[Record { kind, payload: payload.to_vec() }]);
        *position = commit.lsns[0];
        Some(commit)
    }
}

/// `key=value` rows; a row's old value is kept behind the new one, so that the order of projections shows.
struct Rows;

impl Rows {
    async fn put(control: &Control, row: &str) -> Result<(), ControlError> {
        let permit = control.reserve(row.len(), Class::Growing).await?;
        permit.submit(&[Record { kind: Kind::Key, payload: row.into() }]).acknowledged().await
    }
}

impl Follower for Rows {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Key]
    }

    fn replay(&self, _: Kind, _: Lsn, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn replayed(&self, _: Now) {}

    fn projects(&self, _: Kind) -> bool {
        true
    }

    fn project(&self, _: Kind, _: Lsn, payload: &[u8], catalogue: &Catalogue, batch: &mut Batch) -> Result<(), String> {
        let row = std::str::from_utf8(payload).map_err(|error| error.to_string())?;
        let (key, value) = row.split_once('=').ok_or("no `=`")?;
        let old = catalogue.get(Table::Keys, key.as_bytes()).map_err(|error| error.to_string())?.unwrap_or_default();
        let mut value = value.as_bytes().to_vec();
        value.extend_from_slice(&old);
        value.truncate(100);
        batch.put(Table::Keys, key, value);
        Ok(())
    }

    fn relocate(&self, _: Kind, _: Lsn, _: &[u8], _: Permit) -> Option<Commit> {
        None
    }
}

struct House {
    control: Control,
    members: Arc<Members>,
    replayed: Replayed,
}

fn options(data: &Path) -> Options {
    Options {
        segment_bytes: 32 * 1024,
        record_bytes_max: 4096,
        pending_bytes_max: 16 * 1024,
        reserve_bytes: 16 * 1024,
        ..Options::new(journal_dir(data))
    }
}

fn try_open(data: &Path, options: Options) -> Result<House, StartError> {
    let compaction = Compaction { slack_bytes: 128 * 1024, every: Duration::from_millis(20) };
    let (control, replay) = Control::open_with(data, options, compaction)?;
    let members = Arc::new(Members::default());
    let replayed = replay.run(&[Arc::clone(&members) as Arc<dyn Follower>, Arc::new(Rows)], Now::default())?;
    Ok(House { control, members, replayed })
}

fn open(data: &Path) -> House {
    try_open(data, options(data)).unwrap()
}

impl House {
    fn row(&self, key: &str) -> Option<String> {
        let value = self.control.catalogue().get(Table::Keys, key.as_bytes()).unwrap();
        value.map(|value| String::from_utf8(value).unwrap())
    }
}

#[tokio::test]
async fn an_acknowledged_projection_can_be_read_and_is_there_after_a_restart() {
    let data = tempfile::tempdir().unwrap();
    let house = open(data.path());
    assert_eq!(house.members.replayed.load(Ordering::Relaxed), 1);
    for number in 0..20 {
        Rows::put(&house.control, &format!("k={number},")).await.unwrap();
        assert!(house.row("k").unwrap().starts_with(&format!("{number},")));
        house.members.add(&house.control, &format!("m{number}")).await;
    }
    house.members.remove(&house.control, "m3").await;
    let lsn = house.members.held.lock()[&b"m4"[..]];
    assert_eq!(house.control.read(lsn).unwrap(), b"+m4");
    let before = house.row("k");
    house.control.close();
    drop(house);

    let house = open(data.path());
    assert_eq!(house.row("k"), before);
    assert_eq!(house.members.held.lock().len(), 19);
    assert_eq!(house.replayed.records, 41);
}

#[tokio::test]
async fn a_catalogue_that_was_thrown_away_is_replayed_from_the_whole_journal() {
    let data = tempfile::tempdir().unwrap();
    let house = open(data.path());
    for number in 0..20 {
        Rows::put(&house.control, &format!("k{}={number},", number % 3)).await.unwrap();
    }
    let before = house.row("k1");
    house.control.close();
    drop(house);
    std::fs::remove_dir_all(data.path().join("catalogue")).unwrap();
    let house = open(data.path());
    assert_eq!((house.row("k1"), house.replayed.applied), (before, 20));
}

#[tokio::test]
async fn old_segments_go_and_neither_living_members_nor_rows_are_lost() {
    let data = tempfile::tempdir().unwrap();
    let house = open(data.path());
    let mut survivors = compaction::Survivors::default();
    house.members.add(&house.control, "forever").await;
    Rows::put(&house.control, "first=row").await.unwrap();
    let mut largest = 0;
    for number in 0..300 {
        let name = format!("{number}-{}", "x".repeat(3000));
        house.members.add(&house.control, &name).await;
        if number % 50 != 7 {
            house.members.remove(&house.control, &name).await;
        }
        if number % 10 == 0 {
            house.control.look_after(&mut survivors).await.unwrap();
            largest = largest.max(house.control.journal().stats().disk_bytes);
        }
    }
    // 1.8 MB went through; 7 members of 3 KB live.
    assert!(largest < 2 * 7 * 3100 + 128 * 1024 + 5 * 32 * 1024, "{largest}");
    assert!(house.control.journal().segments()[0].base > Lsn(500_000));
    let members = house.members.held.lock().clone();
    assert_eq!(members.len(), 7);
    for (name, lsn) in &members {
        assert_eq!(house.control.read(*lsn).unwrap()[1..], name[..]);
    }
    house.control.close();
    drop(house);

    let house = open(data.path());
    assert_eq!(*house.members.held.lock(), members);
    assert_eq!(house.row("first").as_deref(), Some("row"));
    house.control.close();
    drop(house);

    // The catalogue is lost, and so are the journal's first segments: the start refuses, the rebuild helps.
    std::fs::remove_dir_all(data.path().join("catalogue")).unwrap();
    let refused = try_open(data.path(), options(data.path())).err().unwrap();
    assert!(matches!(refused, StartError::CatalogueBehind { .. }), "{refused}");
    assert!(refused.to_string().contains("backlot rebuild"), "{refused}");
    drop(refused);
    std::fs::remove_dir_all(data.path().join("catalogue")).unwrap();
    std::fs::write(data.path().join("catalogue.snapshot.new"), "an export that a crash cut short").unwrap();
    let rebuilt = rebuild(data.path()).unwrap();
    assert_eq!(rebuilt.snapshot_pairs, Some(1));
    let house = open(data.path());
    assert_eq!(house.row("first").as_deref(), Some("row"));
    assert_eq!(*house.members.held.lock(), members);
}

#[tokio::test]
async fn a_rebuild_without_enough_to_rebuild_from_says_so_and_touches_nothing() {
    let data = tempfile::tempdir().unwrap();
    assert!(matches!(rebuild(data.path()), Err(RebuildError::Io { .. })));
    let house = open(data.path());
    assert!(matches!(rebuild(data.path()), Err(RebuildError::Journal(OpenError::Locked(_)))));
    Rows::put(&house.control, "k=1").await.unwrap();
    for number in 0..30 {
        let name = format!("{number}-{}", "x".repeat(3000));
        house.members.add(&house.control, &name).await;
    }
    let second = house.control.journal().segments()[1].base;
    house.control.journal().release_before(second).unwrap();
    house.control.close();
    drop(house);
    let lost = rebuild(data.path()).unwrap_err();
    assert!(matches!(lost, RebuildError::Lost { .. }), "{lost}");
    assert!(data.path().join("catalogue").is_dir());
}

#[tokio::test]
async fn what_cannot_be_projected_stops_the_committer_and_the_next_start() {
    let data = tempfile::tempdir().unwrap();
    let house = open(data.path());
    Rows::put(&house.control, "fine=1").await.unwrap();
    let error = Rows::put(&house.control, "not a row").await.unwrap_err();
    assert!(matches!(error, ControlError::Record { kind: 4, .. }), "{error}");
    house.control.shared.committer.ended().await;
    assert!(Rows::put(&house.control, "late=1").await.is_err());
    assert_eq!(house.row("late"), None);
    house.control.close();
    drop(house);
    let error = try_open(data.path(), options(data.path())).err().unwrap();
    assert!(error.to_string().contains("no `=`"), "{error}");
}

#[tokio::test]
async fn a_journal_that_lost_its_end_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let house = open(data.path());
    Rows::put(&house.control, "k=1").await.unwrap();
    house.control.close();
    drop(house);
    std::fs::remove_dir_all(journal_dir(data.path())).unwrap();
    let error = try_open(data.path(), options(data.path())).err().unwrap();
    assert!(matches!(error, StartError::JournalBehind { .. }), "{error}");
}

#[tokio::test]
async fn a_full_journal_still_deletes_and_collection_makes_room_again() {
    let data = tempfile::tempdir().unwrap();
    let house = try_open(data.path(), Options { disk_bytes_max: 256 * 1024, ..options(data.path()) }).unwrap();
    let mut names = Vec::new();
    let error = loop {
        let name = format!("{}-{}", names.len(), "x".repeat(3000));
        match house.control.reserve(name.len() + 1, Class::Growing).await {
            Ok(permit) => drop(permit),
            Err(error) => break error,
        }
        house.members.add(&house.control, &name).await;
        names.push(name);
        assert!(names.len() < 100);
    };
    assert!(matches!(error, ControlError::Journal(JournalError::Full)), "{error}");
    // Deleting is short of nothing: its records are small here, as the queue's are.
    for name in &names {
        let permit = house.control.reserve(8, Class::Shrinking).await.unwrap();
        let payload = [b"-", name.as_bytes()].concat();
        house.members.held.lock().remove(name.as_bytes());
        permit.submit(&[Record { kind: Kind::Queue, payload: payload[..8].to_vec() }]).acknowledged().await.unwrap();
    }
    let mut survivors = compaction::Survivors::default();
    let collected = house.control.look_after(&mut survivors).await.unwrap();
    assert!(collected.segments > 3, "{collected:?}");
    house.members.add(&house.control, "again").await;
}
