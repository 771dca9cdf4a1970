//! Power cuts: a child puts and deletes, tells what was acknowledged, and its disk loses power at any moment. Afterwards each
//! object is there with the bytes that were acknowledged, or with those of a later put that had begun; in a bucket that keeps versions,
//! each version and each delete marker is there.

use std::io::Write;

use super::*;
use crate::catalogue::tests::disk::disk_or_skip;
use crate::crash_testing::{Said, Work};

/// Tells the child its folder and the first of its numbers.
const CHILD: &str = "BACKLOT_ARTIFACTS_POWER_CHILD";
const ROUNDS: u64 = 9;
const CALLERS: u64 = 4;
const KEYS_OF_A_CALLER: u64 = 7;
/// The bucket that keeps versions.
const KEPT: &str = "kept";

/// The bytes of put `number`: some go to packs, some to a file, some to a file in several batches.
fn bytes_of(number: u64) -> Vec<u8> {
    let size = match number % 3 {
        0 => 20 + number % 40,
        1 => 100 + number % 5_000,
        _ => 300_000 + number % 5_000,
    };
    number.to_le_bytes().into_iter().cycle().take(size as usize).collect()
}

fn number_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

/// The bytes of version `number`: few, as all of them stay.
fn version_of(number: u64) -> Vec<u8> {
    number.to_le_bytes().into_iter().cycle().take(10 + number as usize % 200).collect()
}

/// Versions that were acknowledged: the key, the id, and the number of a put or none of a delete marker.
fn take_versions(told: &mut Vec<(String, VersionName, Option<u64>)>, said: &Said) {
    for line in said.lines.iter().take(said.heard) {
        let (what, key, id, number) = match line.split(' ').collect::<Vec<_>>()[..] {
            [what @ ("kept" | "marked"), key, id, number] => (what, key, id, number),
            _ => continue,
        };
        let number = (what == "kept").then(|| number.parse().unwrap());
        told.push((key.to_owned(), VersionName::parse(id).unwrap(), number));
    }
}

async fn check_versions(store: &Store, told: &[(String, VersionName, Option<u64>)], round: u64) {
    let always = ReadConditions::default();
    for (key, version, number) in told {
        let got = store.artifacts.get_version(KEPT, key, Some(*version), Wanted::All, &always, None).await;
        match (got, number) {
            (Ok(got), Some(number)) => {
                assert!(all(got.stream).await.unwrap() == version_of(*number), "round {round}: {key} {version}");
            }
            (Err(ArtifactError::IsMarker { .. }), None) => {}
            (other, _) => panic!("round {round}: {key} {version} {number:?}: {:?}", other.err()),
        }
    }
}

/// What was acknowledged of a key, and what had begun.
#[derive(Debug, Default)]
struct Told {
    put: u64,
    gone: u64,
    leaving: u64,
}

fn take(told: &mut BTreeMap<String, Told>, said: &Said) {
    for (at, line) in said.lines.iter().enumerate() {
        let [what, key, number] = line.split(' ').collect::<Vec<_>>()[..] else { continue };
        let Ok(number) = number.parse() else { continue };
        let key = told.entry(key.to_owned()).or_default();
        match what {
            "put" if at < said.heard => key.put = number,
            "gone" if at < said.heard => key.gone = number,
            "leaving" => key.leaving = number,
            _ => {} // not heard, or the test harness's own
        }
    }
}

async fn check(store: &Store, told: &BTreeMap<String, Told>, round: u64) {
    for (key, told) in told {
        match store.read(key, Wanted::All).await {
            Ok(bytes) => {
                let number = number_of(&bytes);
                assert!(number >= told.put, "round {round}: {key} is at {number}, {told:?}");
                assert!(number > told.gone, "round {round}: {key} came back, {told:?}");
                assert!(bytes == bytes_of(number), "round {round}: {key} has other bytes than were put");
            }
            Err(ArtifactError::NoSuchKey { .. }) => {
                assert!(told.gone.max(told.leaving) > told.put, "round {round}: {key} is lost, {told:?}");
            }
            Err(error) => panic!("round {round}: {key}: {error}, {told:?}"),
        }
    }
}

#[tokio::test]
async fn whatever_was_put_survives_a_power_cut() {
    let name = "artifacts: whatever_was_put_survives_a_power_cut";
    let Some(disk) = disk_or_skip(name, 256 << 20) else { return };
    let data = disk.path().join("data");
    let (mut told, mut versions) = (BTreeMap::new(), Vec::new());
    let puts = |told: &BTreeMap<String, Told>| told.values().filter(|told| told.put > 0).count() as u64;
    let enough = |told: &_, versions: &Vec<_>| puts(told) == CALLERS * KEYS_OF_A_CALLER && versions.len() > 100;
    // A busy machine gets less done in a round and has more rounds.
    for round in 0..8 * ROUNDS {
        if round >= ROUNDS && enough(&told, &versions) {
            break;
        }
        let work = Work {
            test: "artifacts::tests::power::child",
            told: (CHILD, format!("{} {}", data.display(), round << 20)),
            begins_with: "put",
            pause: Duration::from_millis(20 + round * 7919 % 400),
            power: Some(&disk),
        };
        let said = work.until_the_end();
        take(&mut told, &said);
        take_versions(&mut versions, &said);
        disk.power_on();
        let store = Store::open(&data);
        for _ in 0..2 {
            check(&store, &told, round).await;
            check_versions(&store, &versions, round).await;
            store.sweep().await;
        }
        store.control.close();
        drop(store);
    }
    assert!(enough(&told, &versions), "the rounds did too little: {} versions, {told:?}", versions.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the test above, which starts it and ends it"]
async fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (data, first) = told.rsplit_once(' ').unwrap();
    let first: u64 = first.parse().unwrap();
    let data = PathBuf::from(data);
    std::fs::create_dir_all(&data).unwrap();
    let store = Arc::new(Store::open(&data));
    store.artifacts.ensure_bucket(BUCKET).await.unwrap();
    store.artifacts.ensure_bucket(KEPT).await.unwrap();
    store.artifacts.set_versioning(KEPT, true).await.unwrap();
    let say = |line: String| std::io::stdout().write_all(line.as_bytes()).unwrap();
    say("\n".to_owned()); // the test harness leaves a line open
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            for number in first + 1.. {
                let key = format!("{caller}-{}", number % KEYS_OF_A_CALLER);
                if number % 11 == 5 {
                    say(format!("leaving {key} {number}\n"));
                    store.delete(&key).await;
                    say(format!("gone {key} {number}\n"));
                } else if number % 8 == 3 {
                    let marker = store.artifacts.delete(KEPT, &key, &Delete::default()).await.unwrap().marker.unwrap();
                    say(format!("marked {key} {marker} {number}\n"));
                } else if number % 2 == 1 {
                    let put = Put { bucket: KEPT.into(), key: key.clone(), ..Put::default() };
                    let stored = store.artifacts.put(put, store.receive(&version_of(number)).await).await.unwrap();
                    say(format!("kept {key} {} {number}\n", stored.version.unwrap()));
                } else {
                    store.put(&key, &bytes_of(number)).await;
                    say(format!("put {key} {number}\n"));
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}
