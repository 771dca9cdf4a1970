//! Disks that lie: bit flips, cut and missing files, full and read-only file systems. Each is told in words, shown until it is mended, and has a way back.

use std::process::Command;

use super::*;
use crate::artifacts::model::{Body, Place};
use crate::catalogue::tests::disk::disk_or_skip;

impl Store {
    /// The file of an object's first bytes, and where they begin in it.
    fn place(&self, key: &str) -> (PathBuf, usize) {
        let row = self.artifacts.head(BUCKET, key).unwrap();
        let extent = match row.body {
            Body::One(extent) => extent,
            Body::Parts(body) => self.artifacts.completed_parts(body).unwrap().remove(0).1,
        };
        let stores = &self.artifacts.0.stores;
        match extent.place {
            Place::File(id) => (stores.blobs.path(id), usize::try_from(blobs::HEADER_BYTES).unwrap()),
            Place::Pack(pack, offset) => (stores.packs.path(pack), usize::try_from(offset).unwrap()),
            Place::Cold(..) => panic!("it is in the cold tier"),
        }
    }

    fn damaged(&self) -> Vec<(String, String)> {
        let damaged = self.artifacts.scrub_status().damaged;
        damaged.into_iter().map(|damage| (damage.object.key, damage.problem)).collect()
    }

    async fn scrub(&self) -> Vec<(String, String)> {
        self.artifacts.begin_round();
        self.artifacts.scrub_round().await.unwrap();
        self.damaged()
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 4;
    std::fs::write(path, bytes).unwrap();
}

fn cut(path: &Path, length: usize) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(length as u64).unwrap();
}

#[tokio::test]
async fn the_scrubber_finds_each_kind_of_damage_and_forgets_it_when_it_is_mended() {
    let store = Store::new().await;
    let big = vec![5; usize::try_from(model::PART_BYTES_MIN).unwrap()];
    let name = store.upload("parts", &[(1, big.clone()), (2, vec![6; 9])]).await;
    store.artifacts.complete(&name, &listed(&[1, 2]), Completion::default()).await.unwrap();
    store.put("packed", &[1; 50]).await;
    for key in ["well", "flipped", "header", "cut", "missing"] {
        store.put(key, &[2; 5000]).await;
    }
    store.put_sealed("sealed", &[3; 5000], &SealAsked::Kept(Kept::default())).await;
    assert_eq!(store.scrub().await, []);
    let status = store.artifacts.scrub_status();
    let round = status.last.unwrap();
    assert_eq!((round.versions, round.damaged, status.current), (8, 0, None));
    assert!(round.bytes > 5 * 5000 + 50 + big.len() as u64, "{round:?}");

    for key in ["parts", "packed", "flipped", "sealed"] {
        let (path, offset) = store.place(key);
        flip(&path, offset + 7);
    }
    flip(&store.place("header").0, 40);
    let (path, offset) = store.place("cut");
    cut(&path, offset + 100);
    let (path, _) = store.place("missing");
    let kept = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let found: BTreeMap<_, _> = store.scrub().await.into_iter().collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["cut", "flipped", "header", "missing", "packed", "parts", "sealed"]);
    for (key, words) in [
        ("flipped", "checksum"),
        ("packed", "checksum"),
        ("sealed", "checksum"),
        ("parts", "checksum"),
        ("header", "header"),
        ("cut", "4900 bytes early"),
        ("missing", "missing"),
    ] {
        assert!(found[key].contains(words), "{key}: {}", found[key]);
    }
    for key in ["cut", "flipped", "missing", "packed", "parts", "sealed"] {
        assert!(matches!(store.read(key, Wanted::All).await, Err(ArtifactError::Damaged { .. })), "{key}");
    }
    // What is known stays known over a restart.
    let store = store.reopen();
    assert_eq!(store.damaged().len(), 7);
    // The ways back: the file from a copy, put again, copied over itself, deleted.
    std::fs::write(&path, kept).unwrap();
    store.put("flipped", &[2; 5000]).await;
    store.put("packed", &[1; 50]).await;
    let bytes = store.read("header", Wanted::All).await.unwrap();
    store.put("header", &bytes).await;
    for key in ["cut", "parts", "sealed"] {
        store.delete(key).await;
    }
    store.artifacts.look_at_damages().unwrap();
    assert_eq!(store.damaged().len(), 1, "what was put again or deleted is seen at once");
    assert_eq!(store.scrub().await, []);
}

#[tokio::test]
async fn a_range_is_checked_by_the_blocks_it_touches_and_one_of_an_older_blob_is_given_as_it_lies() {
    let store = Store::new().await;
    let block = usize::try_from(blocks::BLOCK_BYTES).unwrap();
    let bytes: Vec<u8> = (0..40 * block + 77).map(|at| (at % 253) as u8).collect();
    store.put("k", &bytes).await;
    let part = vec![9; usize::try_from(model::PART_BYTES_MIN).unwrap()];
    let name = store.upload("parts", &[(1, part), (2, bytes.clone())]).await;
    store.artifacts.complete(&name, &listed(&[1, 2]), Completion::default()).await.unwrap();
    let range =
        |first: usize, last: usize| Wanted::Range(RangeAsked::From { first: first as u64, last: Some(last as u64) });
    for (first, last) in
        [(0, 0), (5, block - 1), (block - 1, block), (3 * block, 30 * block), (39 * block, bytes.len() - 1)]
    {
        assert!(store.read("k", range(first, last)).await.unwrap() == bytes[first..=last], "{first}-{last}");
    }
    let several = RangeAsked::parse(&format!("bytes=-5,{}-{},7-9", 2 * block, 4 * block)).unwrap();
    let expected = [&bytes[bytes.len() - 5..], &bytes[2 * block..=4 * block], &bytes[7..=9]].concat();
    assert!(store.read("k", Wanted::Ranges(several)).await.unwrap() == expected);

    let (path, offset) = store.place("k");
    flip(&path, offset + 2 * block + 9);
    assert_eq!(store.read("k", range(0, 2 * block - 1)).await.unwrap().len(), 2 * block);
    let touched = store.read("k", range(3 * block - 1, 3 * block)).await;
    assert!(
        matches!(&touched, Err(ArtifactError::Damaged { problem, .. }) if problem.contains("block 2")),
        "{touched:?}"
    );
    assert_eq!(store.damaged().len(), 1);
    // As an earlier version left it: nothing behind its bytes.
    let whole = std::fs::read(&path).unwrap();
    cut(&path, offset + bytes.len());
    assert_eq!(store.read("k", range(3 * block - 1, 3 * block)).await.unwrap().len(), 2);
    assert!(store.read("k", Wanted::All).await.is_err());
    cut(&path, offset + bytes.len() - 1);
    assert!(store.read("k", range(0, 1)).await.is_err(), "its length is no blob's");
    // Its bytes are well and their checksums are not: ranges are not given, and the scrubber finds it.
    std::fs::write(&path, &whole).unwrap();
    flip(&path, offset + 2 * block + 9);
    assert_eq!(store.scrub().await, []);
    flip(&path, offset + bytes.len() + 20);
    assert!(store.read("k", Wanted::All).await.unwrap() == bytes);
    assert!(store.read("k", range(0, 1)).await.is_err());
    let found = store.scrub().await;
    assert!(found.len() == 1 && found[0].1.contains("checksums"), "{found:?}");
}

#[tokio::test]
async fn a_reader_tells_damage_and_the_scrubber_goes_on_where_it_was() {
    let store = Store::new().await;
    for number in 0..600 {
        store.put(&format!("{number:03}"), &[7; 30]).await;
    }
    store.put("large", &[2; 5000]).await;
    let (path, offset) = store.place("large");
    flip(&path, offset);
    assert!(store.read("large", Wanted::All).await.is_err());
    assert_eq!(store.damaged().len(), 1);
    store.artifacts.begin_round();
    let (met, next) = store.artifacts.walk(&walk::Position::default()).await.unwrap().unwrap();
    assert_eq!(met.len(), 500);
    let (rest, end) = store.artifacts.walk(&next).await.unwrap().unwrap();
    assert_eq!((rest.len(), rest[0].object.key.as_str()), (101, "500"));
    assert!(store.artifacts.walk(&end).await.unwrap().is_none());
    // A place that an earlier run has kept.
    let kept = serde_json::json!({
        "format": 1, "position": next, "current": {"begun_at": 5, "versions": 500, "bytes": 1, "damaged": 0},
        "damages": store.artifacts.scrub_status().damaged,
    });
    std::fs::write(store.dir.join("scrub.json"), kept.to_string()).unwrap();
    let Store { control, artifacts, dir, temporary, .. } = store;
    control.close();
    drop((control, artifacts));
    let store = Store { temporary, ..Store::open(&dir) };
    store.artifacts.scrub_round().await.unwrap();
    let round = store.artifacts.scrub_status().last.unwrap();
    assert_eq!((round.versions, round.damaged), (601, 1));
    assert_eq!(store.damaged().len(), 1);
}

#[tokio::test]
async fn a_full_disk_refuses_puts_and_a_read_only_one_too_and_both_go_on_afterwards() {
    let test = "a_full_disk_refuses_puts_and_a_read_only_one_too_and_both_go_on_afterwards";
    let Some(disk) = disk_or_skip(test, 64 << 20) else { return };
    let store = Store::new().await;
    store.put("before-small", &[1; 50]).await;
    store.put("before-large", &[2; 5000]).await;
    // The bytes of objects move to a disk of their own; journal and catalogue stay.
    let Store { control, artifacts, dir, temporary, .. } = store;
    control.close();
    drop((control, artifacts));
    for folder in ["blobs", "packs"] {
        let moved = Command::new("mv").arg(dir.join(folder)).arg(disk.path()).status().unwrap();
        assert!(moved.success());
    }
    // Blobs over a mount of their own, which can be made read-only while a pack is open.
    let bound = disk.path().join("bound");
    std::fs::create_dir(&bound).unwrap();
    let blobs = disk.path().join("blobs");
    assert!(mount(&["--bind", blobs.to_str().unwrap()], &bound));
    std::os::unix::fs::symlink(&bound, dir.join("blobs")).unwrap();
    std::os::unix::fs::symlink(disk.path().join("packs"), dir.join("packs")).unwrap();
    let store = Store { temporary, ..Store::open(&dir) };
    store.put("large", &[3; 5000]).await;

    let filler = disk.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[7; 65_536]).is_ok() {}
    while std::io::Write::write_all(&mut file, &[7; 512]).is_ok() {}
    for size in [50, 500_000] {
        // The last block of a pack may have room for some small ones.
        let mut tries = 0;
        let refused = loop {
            match store.put_now("full", &vec![1; size]).await {
                Ok(_) if tries < 100 => tries += 1,
                answer => break answer,
            }
        };
        assert!(matches!(refused, Err(ArtifactError::Full)), "{size}: {refused:?}");
    }
    assert_eq!(store.read("before-large", Wanted::All).await.unwrap(), [2; 5000]);
    assert!(store.delete("large").await, "deletes go on");
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    for size in [50, 500_000] {
        assert!(store.put_now("full", &vec![1; size]).await.is_ok());
    }

    assert!(mount(&["-o", "remount,ro,bind"], &bound), "the folder of blobs is read-only now");
    let refused = store.put_now("read-only", &[1; 5000]).await;
    assert!(matches!(refused, Err(ArtifactError::ReadOnly)), "{refused:?}");
    assert_eq!(store.read("before-large", Wanted::All).await.unwrap(), [2; 5000]);
    assert!(mount(&["-o", "remount,rw,bind"], &bound));
    store.put("read-only", &[1; 5000]).await;
    drop(store);
    assert!(Command::new("umount").arg(&bound).status().unwrap().success());
}

fn mount(how: &[&str], at: &Path) -> bool {
    Command::new("mount").args(how).arg(at).status().unwrap().success()
}

impl Store {
    /// A put that may be refused at any point.
    async fn put_now(&self, key: &str, bytes: &[u8]) -> Result<Stored, ArtifactError> {
        let pieces: Vec<_> = bytes.chunks(50_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let received = self.artifacts.receive(futures::stream::iter(pieces), None, 1 << 30, Taking::Plain).await?;
        self.artifacts.put(Put { bucket: BUCKET.into(), key: key.into(), ..Put::default() }, received).await
    }
}
