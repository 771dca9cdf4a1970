//! Encrypted objects over the real journal and catalogue: read back, moved by compaction, under another master key.

use super::*;
use crate::master;

const CUSTOMER: (&str, &str) = ("pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs=", "DWygnHRtgiJ77HCm+1rvHw==");

fn kept() -> SealAsked {
    SealAsked::Kept(Kept::default())
}

fn customer() -> CustomerKey {
    CustomerKey::read(CUSTOMER.0, CUSTOMER.1).unwrap()
}

impl Store {
    pub(super) async fn put_sealed(&self, key: &str, bytes: &[u8], asked: &SealAsked) -> Stored {
        let sealer = self.artifacts.sealer(BUCKET, key, asked).unwrap();
        let pieces: Vec<_> = bytes.chunks(50_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let taking = Taking::object(sealer);
        let received = self.artifacts.receive(futures::stream::iter(pieces), None, 1 << 30, taking).await.unwrap();
        let put = Put { bucket: BUCKET.into(), key: key.into(), ..Put::default() };
        self.artifacts.put(put, received).await.unwrap()
    }

    async fn upload_sealed(&self, key: &str, parts: &[(u16, Vec<u8>)]) -> UploadName {
        let sealer = self.artifacts.sealer(BUCKET, key, &kept()).unwrap();
        let begin = Begin { seal: sealer.map(|sealer| sealer.seal), ..Begin::default() };
        let id = self.artifacts.create_upload(BUCKET, key, begin).await.unwrap();
        let name = UploadName { bucket: BUCKET.into(), key: key.into(), id };
        for (number, bytes) in parts {
            let upload = self.artifacts.upload(&name).unwrap();
            let taking = Taking::part(self.artifacts.upload_sealer(&name, &upload, None).unwrap());
            let body = futures::stream::iter([Ok(Bytes::from(bytes.clone()))]);
            let received = self.artifacts.receive(body, None, 1 << 30, taking).await.unwrap();
            self.artifacts.put_part(&name, *number, &Expected::default(), received).await.unwrap();
        }
        name
    }

    async fn read_with(&self, key: &str, wanted: Wanted, customer: &CustomerKey) -> Result<Vec<u8>, ArtifactError> {
        let always = ReadConditions::default();
        let got = self.artifacts.get_version(BUCKET, key, None, wanted, &always, Some(customer)).await?;
        all(got.stream).await
    }
}

fn bytes(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251) as u8).collect()
}

fn range(first: u64, last: u64) -> Wanted {
    Wanted::Range(RangeAsked::From { first, last: Some(last) })
}

#[tokio::test]
async fn encrypted_objects_are_read_whole_and_by_range_and_move_with_their_packs() {
    let store = Store::new().await;
    for number in 0..30 {
        store.put_sealed(&format!("small-{number:02}"), &bytes(40 + number), &kept()).await;
    }
    store.put_sealed("large", &bytes(300_000), &kept()).await;
    store.put_sealed("empty", b"", &kept()).await;
    let store = store.reopen();
    let large = bytes(300_000);
    assert_eq!(store.read("large", Wanted::All).await.unwrap(), large);
    for (first, last) in [(0, 0), (65_535, 65_536), (65_536, 65_536), (100_000, 299_999), (131_071, 196_608)] {
        let expected = &large[usize::try_from(first).unwrap()..=usize::try_from(last).unwrap()];
        assert!(store.read("large", range(first, last)).await.unwrap() == expected, "{first}-{last}");
    }
    assert_eq!(store.read("small-07", range(3, 9)).await.unwrap(), &bytes(47)[3..=9]);
    assert!(store.read("empty", Wanted::All).await.unwrap().is_empty());
    for number in 0..30 {
        if number % 8 != 0 {
            store.delete(&format!("small-{number:02}")).await;
        }
    }
    let swept = store.sweep().await;
    assert!(swept.packs > 0 && swept.orphans == 0, "{swept:?}");
    for number in (0..30).step_by(8) {
        assert_eq!(store.read(&format!("small-{number:02}"), Wanted::All).await.unwrap(), bytes(40 + number));
    }
}

#[tokio::test]
async fn a_customers_object_opens_with_its_key_alone_and_shows_nothing_of_its_bytes() {
    let store = Store::new().await;
    let asked = SealAsked::Customer(customer());
    for (key, size) in [("small", 50), ("large", 200_000)] {
        let stored = store.put_sealed(key, &bytes(size), &asked).await;
        let plain = store.put("plain", &bytes(size)).await;
        assert_ne!(stored.etag, plain.etag, "the MD5 would tell");
        assert_eq!(store.read_with(key, Wanted::All, &customer()).await.unwrap(), bytes(size));
        assert_eq!(store.read_with(key, range(5, 9), &customer()).await.unwrap(), &bytes(size)[5..=9]);
        assert!(matches!(store.read(key, Wanted::All).await, Err(ArtifactError::InvalidRequest(_))));
        assert!(store.read_with("plain", Wanted::All, &customer()).await.is_err());
    }
    assert!(store.artifacts.scrub_status().damaged.is_empty(), "a wrong key is nobody's damage");
}

#[tokio::test]
async fn an_object_whose_key_does_not_open_is_an_error_and_told_as_damage() {
    let store = Store::new().await;
    store.put_sealed("a", &bytes(500), &kept()).await;
    // Another object's key in its row, as somebody with an editor would have it.
    let row = store.artifacts.head(BUCKET, "a").unwrap();
    store.put_sealed("b", &bytes(500), &kept()).await;
    let other = store.artifacts.head(BUCKET, "b").unwrap();
    let lock = store.artifacts.lock(BUCKET, "a").await;
    let wrong = ObjectRow { seal: other.seal, ..row.clone() };
    let plan = store.artifacts.held(BUCKET, "a").unwrap().amend(BUCKET, "a", &row, wrong);
    store.artifacts.carry_out(lock, Class::Growing, work::Work::of(plan), || ()).await.unwrap();
    assert!(matches!(store.read("a", Wanted::All).await, Err(ArtifactError::Damaged { .. })));
    let damaged = store.artifacts.scrub_status().damaged;
    assert_eq!(damaged.len(), 1);
    assert!(damaged[0].problem.contains("master key"), "{damaged:?}");
}

#[tokio::test]
async fn under_a_new_master_key_everything_is_wrapped_again_and_no_byte_is_written() {
    let store = Store::new().await;
    let part = bytes(usize::try_from(model::PART_BYTES_MIN).unwrap());
    store.put_sealed("small", &bytes(50), &kept()).await;
    store.put_sealed("large", &bytes(100_000), &kept()).await;
    let done = store.upload_sealed("parts", &[(1, part.clone()), (2, bytes(10))]).await;
    store.artifacts.complete(&done, &listed(&[1, 2]), Completion::default()).await.unwrap();
    let open = store.upload_sealed("open", &[(1, bytes(77))]).await;
    store.put_sealed("customers", &bytes(50), &SealAsked::Customer(customer())).await;
    let Store { control, artifacts, dir, temporary, .. } = store;
    control.close();
    drop((control, artifacts));
    let blobs = |dir: &Path| -> BTreeMap<PathBuf, Vec<u8>> {
        let folders = (0..=u8::MAX).map(|byte| dir.join("blobs").join(hex::encode([byte])));
        let files = folders.flat_map(|folder| std::fs::read_dir(folder).unwrap());
        files.map(|file| file.unwrap().path()).map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    };
    let before = blobs(&dir);

    let new = dir.join("new.key");
    master::new_key(&new).unwrap();
    let setting = |path: PathBuf| format!("file:{}", path.display());
    let both = EncryptionConfig {
        master_key: setting(new.clone()),
        old_master_keys: vec![setting(dir.join("master.key"))],
        rewraps_s_max: 10_000,
        ..EncryptionConfig::default()
    };
    let store = Store::open_with(&dir, both);
    assert_eq!(store.read("large", Wanted::All).await.unwrap(), bytes(100_000), "old keys read");
    store.artifacts.rewrap().await.unwrap();
    let status = store.artifacts.rewrap_status();
    assert!(status.old_in_use.is_empty() && status.failed == 0, "{status:?}");
    assert_eq!(status.rewrapped, 4, "{status:?}");
    store.artifacts.rewrap().await.unwrap();
    assert_eq!(before, blobs(&dir), "no blob is rewritten");
    let Store { control, artifacts, .. } = store;
    control.close();
    drop((control, artifacts));

    let alone = EncryptionConfig { master_key: setting(new), ..EncryptionConfig::default() };
    std::fs::remove_file(dir.join("master.key")).unwrap();
    let store = Store::open_with(&dir, alone);
    assert_eq!(store.read("small", Wanted::All).await.unwrap(), bytes(50));
    assert_eq!(store.read("large", range(65_000, 66_000)).await.unwrap(), &bytes(100_000)[65_000..=66_000]);
    assert!(store.read("parts", Wanted::All).await.unwrap() == [part.as_slice(), &bytes(10)].concat());
    assert_eq!(store.read_with("customers", Wanted::All, &customer()).await.unwrap(), bytes(50));
    store.artifacts.complete(&open, &listed(&[1]), Completion::default()).await.unwrap();
    assert_eq!(store.read("open", Wanted::All).await.unwrap(), bytes(77));
    drop(temporary);
}
