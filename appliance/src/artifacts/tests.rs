//! The store over the real journal and catalogue, in a temporary folder, against a map in memory.

mod cold;
mod damage;
mod documents;
mod lifecycle;
mod media;
mod power;
mod rebuild;
mod sealed;
mod versions;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use backlot_journal::OpenError;
use bytes::Bytes;
use futures::StreamExt;
use proptest::prelude::*;

use super::checksums::Sums;
use super::engine::Wanted;
use super::label::What;
use super::listing::Query;
use super::multipart::{Begin, Completion, ListedPart, UploadName};
use super::*;
use crate::config::{EtagKind, JournalConfig};
use crate::control;

/// Objects over this have a file of their own, so that small tests have both kinds.
const SMALL_BYTES: usize = 64;
const BUCKET: &str = "studio";

/// Stands still until a test moves it.
struct SetClock(std::sync::atomic::AtomicU64);

impl Clock for SetClock {
    fn now(&self) -> Now {
        Now { mono_ms: 0, wall_ms: self.0.load(std::sync::atomic::Ordering::Relaxed) }
    }
}

const BEGINS_MS: u64 = 1_763_800_000_123;

struct Store {
    control: Control,
    artifacts: Artifacts,
    clock: Arc<SetClock>,
    dir: PathBuf,
    /// The folder's end, where it is ours.
    temporary: Option<tempfile::TempDir>,
}

impl Store {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Self::open(dir.path());
        store.temporary = Some(dir);
        store.artifacts.ensure_bucket(BUCKET).await.unwrap();
        store
    }

    fn open(dir: &Path) -> Self {
        Self::open_with(dir, EncryptionConfig::default())
    }

    fn open_with(dir: &Path, encryption: EncryptionConfig) -> Self {
        let journal = JournalConfig { segment_bytes: 4 << 20, ..JournalConfig::default() };
        // A child that another test is just starting holds a copy of the journal's lock for a moment.
        let opened = (0..250).find_map(|_| match Control::open(dir, &journal) {
            Err(control::StartError::Journal(OpenError::Locked(_))) => {
                std::thread::sleep(Duration::from_millis(20));
                None
            }
            opened => Some(opened.unwrap()),
        });
        let (control, replay) = opened.expect("the journal is let go");
        let config =
            ArtifactConfig { small_object_bytes_max: SMALL_BYTES, pack_bytes: 2048, ..ArtifactConfig::default() };
        let clock = Arc::new(SetClock(BEGINS_MS.into()));
        let keys = (MasterKeys::open(dir, &encryption).unwrap(), encryption);
        let artifacts = Artifacts::build(control.clone(), clock.clone(), dir, config, keys).unwrap();
        replay.run(&[Arc::new(artifacts.clone())], Now::default()).unwrap();
        Self { control, artifacts, clock, dir: dir.to_owned(), temporary: None }
    }

    fn reopen(self) -> Self {
        let Self { control, artifacts, clock, dir, temporary } = self;
        control.close();
        drop((control, artifacts));
        let store = Self { temporary, ..Self::open(&dir) };
        store.wait_ms(clock.now().wall_ms - BEGINS_MS);
        store
    }

    fn wait_ms(&self, ms: u64) {
        self.clock.0.fetch_add(ms, std::sync::atomic::Ordering::Relaxed);
    }

    async fn receive(&self, bytes: &[u8]) -> Received {
        let pieces: Vec<_> = bytes.chunks(50).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        self.artifacts.receive(futures::stream::iter(pieces), None, 1 << 30, Taking::Plain).await.unwrap()
    }

    async fn put_if(&self, key: &str, bytes: &[u8], conditions: WriteConditions) -> Result<Stored, ArtifactError> {
        let received = self.receive(bytes).await;
        let put = Put { bucket: BUCKET.into(), key: key.into(), conditions, ..Put::default() };
        self.artifacts.put(put, received).await
    }

    async fn put(&self, key: &str, bytes: &[u8]) -> Stored {
        self.put_if(key, bytes, WriteConditions::default()).await.unwrap()
    }

    /// Without reckoning an MD5.
    async fn put_quick(&self, key: &str, bytes: &[u8]) -> Stored {
        let sums = Sums { extra: None, md5: false };
        let body = futures::stream::iter([Ok(Bytes::copy_from_slice(bytes))]);
        let received = self.artifacts.receive(body, sums, 1 << 30, Taking::Plain).await.unwrap();
        let put = Put { bucket: BUCKET.into(), key: key.into(), ..Put::default() };
        self.artifacts.put(put, received).await.unwrap()
    }

    async fn delete(&self, key: &str) -> bool {
        self.artifacts.delete(BUCKET, key, &Delete::default()).await.unwrap().existed
    }

    async fn read(&self, key: &str, wanted: Wanted) -> Result<Vec<u8>, ArtifactError> {
        let got = self.artifacts.get(BUCKET, key, wanted, &ReadConditions::default()).await?;
        all(got.stream).await
    }

    async fn keys(&self, query: Query) -> (Vec<String>, Vec<String>, Option<String>) {
        let page = self.artifacts.list(BUCKET, query).await.unwrap();
        (page.entries.into_iter().map(|(key, _)| key).collect(), page.common_prefixes, page.next)
    }

    async fn sweep(&self) -> sweep::Swept {
        self.artifacts.sweep(Duration::ZERO).await.unwrap()
    }

    fn blobs(&self) -> usize {
        (0..=u8::MAX).map(|folder| self.artifacts.0.stores.blobs.folder(folder).unwrap().len()).sum()
    }

    /// Removal of files follows the answer; this waits for it.
    async fn blobs_are(&self, expected: usize) {
        for _ in 0..1000 {
            if self.blobs() == expected {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{} blobs instead of {expected}", self.blobs());
    }

    async fn upload(&self, key: &str, parts: &[(u16, Vec<u8>)]) -> UploadName {
        let id = self.artifacts.create_upload(BUCKET, key, Begin::default()).await.unwrap();
        let name = UploadName { bucket: BUCKET.into(), key: key.into(), id };
        for (number, bytes) in parts {
            let received = self.receive(bytes).await;
            self.artifacts.put_part(&name, *number, &Expected::default(), received).await.unwrap();
        }
        name
    }
}

async fn all(mut stream: ObjectStream) -> Result<Vec<u8>, ArtifactError> {
    let mut bytes = Vec::new();
    while let Some(batch) = stream.next().await {
        bytes.extend_from_slice(&batch?);
    }
    Ok(bytes)
}

fn listed(numbers: &[u16]) -> Vec<ListedPart> {
    numbers.iter().map(|&number| ListedPart { number, ..ListedPart::default() }).collect()
}

#[derive(Clone, Debug)]
enum Step {
    Put(String, usize, u8),
    Delete(String),
    Copy(String, String),
    Reopen,
    Sweep,
}

fn key() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]{1,2}(/[ab]{1,2}){0,2}",
        Just("../../etc/passwd".to_owned()),
        Just("a\0b".to_owned()),
        Just("\u{1}\n".to_owned()),
        Just("é".repeat(512)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (key(), prop_oneof![0..SMALL_BYTES, 0..SMALL_BYTES * 20], any::<u8>()).prop_map(|(k, n, b)| Step::Put(k, n, b)),
        4 => key().prop_map(Step::Delete),
        2 => (key(), key()).prop_map(|(from, to)| Step::Copy(from, to)),
        1 => Just(Step::Reopen),
        1 => Just(Step::Sweep),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_of_keys_to_bytes_across_restarts_and_sweeps(steps in proptest::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut store = Store::new().await;
            let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Put(key, size, byte) => {
                        store.put(&key, &vec![byte; size]).await;
                        model.insert(key, vec![byte; size]);
                    }
                    Step::Delete(key) => assert_eq!(store.delete(&key).await, model.remove(&key).is_some()),
                    Step::Copy(from, to) => {
                        if let Some(bytes) = model.get(&from).cloned() {
                            let always = ReadConditions::default();
                            let stream = store.artifacts.get(BUCKET, &from, Wanted::All, &always).await.unwrap().stream;
                            let received = store.artifacts.receive(stream, None, 1 << 30, Taking::Plain).await.unwrap();
                            let put = Put { bucket: BUCKET.into(), key: to.clone(), ..Put::default() };
                            store.artifacts.put(put, received).await.unwrap();
                            model.insert(to, bytes);
                        }
                    }
                    Step::Reopen => store = store.reopen(),
                    Step::Sweep => drop(store.sweep().await),
                }
            }
            for (key, bytes) in &model {
                assert_eq!(&store.read(key, Wanted::All).await.unwrap(), bytes, "{key:?}");
            }
            let (keys, _, _) = store.keys(Query { max: 1000, ..Query::default() }).await;
            assert_eq!(keys, model.keys().cloned().collect::<Vec<_>>());
            let bucket = store.artifacts.bucket(BUCKET).unwrap();
            let bytes: usize = model.values().map(Vec::len).sum();
            assert_eq!((bucket.objects, bucket.bytes), (model.len() as u64, bytes as u64));
            let large = model.values().filter(|bytes| bytes.len() > SMALL_BYTES).count();
            store.blobs_are(large).await;
            assert_eq!(store.sweep().await.orphans, 0);
        });
    }
}

#[tokio::test]
async fn of_many_writers_who_all_want_to_be_first_one_is() {
    let store = Store::new().await;
    let first = WriteConditions { if_none_match: Some(Tags::Any), ..WriteConditions::default() };
    let puts = (0..20_u8).map(|writer| {
        let (store, first) = (&store, first.clone());
        async move { store.put_if("lock", &[writer; 10], first).await.map(|_| writer) }
    });
    let done = futures::future::join_all(puts).await;
    let winners: Vec<u8> = done.iter().filter_map(|result| result.as_ref().ok().copied()).collect();
    assert_eq!(winners.len(), 1);
    assert!(
        done.iter()
            .filter_map(|result| result.as_ref().err())
            .all(|error| matches!(error, ArtifactError::PreconditionFailed(_)))
    );
    assert_eq!(store.read("lock", Wanted::All).await.unwrap(), [winners[0]; 10]);
}

#[tokio::test]
async fn bytes_that_are_not_what_was_announced_leave_nothing() {
    let store = Store::new().await;
    for size in [10, SMALL_BYTES * 30] {
        let received = store.receive(&vec![1; size]).await;
        let expected = Expected { size: Some(size as u64 + 1), ..Expected::default() };
        let put = Put { bucket: BUCKET.into(), key: "k".into(), expected, ..Put::default() };
        assert!(matches!(store.artifacts.put(put, received).await, Err(ArtifactError::IncompleteBody)));
        // A client that goes away in the middle.
        let broken = vec![Ok(Bytes::from(vec![1; size])), Err(ArtifactError::Body("gone".into()))];
        assert!(store.artifacts.receive(futures::stream::iter(broken), None, 1 << 30, Taking::Plain).await.is_err());
        let long = futures::stream::iter([Ok(Bytes::from(vec![1; size]))]);
        assert!(matches!(
            store.artifacts.receive(long, None, 5, Taking::Plain).await,
            Err(ArtifactError::EntityTooLarge { max: 5 })
        ));
    }
    assert!(matches!(store.read("k", Wanted::All).await, Err(ArtifactError::NoSuchKey { .. })));
    assert_eq!(std::fs::read_dir(store.dir.join("blobs/tmp")).unwrap().count(), 0);
    store.blobs_are(0).await;
}

#[tokio::test]
async fn an_object_of_parts_is_read_whole_and_by_range_and_by_part_and_its_parts_go_with_it() {
    let store = Store::new().await;
    let big = vec![1_u8; usize::try_from(model::PART_BYTES_MIN).unwrap()];
    let name = store.upload("clip", &[(2, big.clone()), (7, vec![2; 300]), (9, vec![3; 5])]).await;
    let stored = store.artifacts.complete(&name, &listed(&[2, 7]), Completion::default()).await.unwrap();
    assert_eq!(stored.etag.parts, 2);
    store.blobs_are(3).await; // two parts and their manifest; part 9 was not listed
    let store = store.reopen();
    let whole = [big.as_slice(), &[2; 300]].concat();
    assert_eq!(store.read("clip", Wanted::All).await.unwrap(), whole);
    assert_eq!(store.read("clip", Wanted::Part(7)).await.unwrap(), [2; 300]);
    assert!(store.read("clip", Wanted::Part(9)).await.is_err());
    let range = RangeAsked::From { first: big.len() as u64 - 3, last: Some(big.len() as u64 + 1) };
    assert_eq!(store.read("clip", Wanted::Range(range)).await.unwrap(), [1, 1, 1, 2, 2]);
    assert_eq!(store.sweep().await.orphans, 0);

    // The client that did not hear the answer.
    let md5 = |bytes: &[u8]| {
        let mut hasher = checksums::Hasher::new(None);
        hasher.update(bytes);
        Some(hex::encode(hasher.finish().md5.0))
    };
    let mut again = listed(&[2, 7]);
    (again[0].etag, again[1].etag) = (md5(&big), md5(&[2; 300]));
    assert_eq!(store.artifacts.complete(&name, &again, Completion::default()).await.unwrap().etag, stored.etag);

    let reading = store.artifacts.get(BUCKET, "clip", Wanted::All, &ReadConditions::default()).await.unwrap();
    assert!(store.delete("clip").await);
    assert_eq!(store.sweep().await.orphans, 0, "a reader still has it");
    assert_eq!(all(reading.stream).await.unwrap(), whole, "a delete changes nothing for who reads already");
    store.blobs_are(0).await;
    assert!(store.artifacts.chunks(name.id).unwrap().is_empty());
}

#[tokio::test]
async fn an_aborted_upload_and_a_deleted_bucket_leave_no_blobs() {
    let store = Store::new().await;
    let name = store.upload("a", &[(1, vec![1; 200]), (1, vec![2; 300])]).await;
    store.blobs_are(1).await; // the second part 1 is put over the first
    store.artifacts.abort(&name).await.unwrap();
    assert!(matches!(store.artifacts.abort(&name).await, Err(ArtifactError::NoSuchUpload)));
    store.blobs_are(0).await;
    store.upload("b", &[(1, vec![1; 200])]).await;
    store.put("c", b"1").await;
    assert!(matches!(store.artifacts.delete_bucket(BUCKET).await, Err(ArtifactError::BucketNotEmpty(_))));
    store.delete("c").await;
    store.artifacts.delete_bucket(BUCKET).await.unwrap();
    store.blobs_are(0).await;
    assert!(matches!(store.put_if("d", b"1", WriteConditions::default()).await, Err(ArtifactError::NoSuchBucket(_))));
    let store = store.reopen();
    assert!(store.artifacts.buckets().is_empty());
}

#[tokio::test]
async fn a_crash_between_bytes_and_record_leaves_an_orphan_that_the_sweeper_removes() {
    let store = Store::new().await;
    store.put("kept", &[1; 500]).await;
    let received = store.receive(&[2; 500]).await;
    let settled =
        store.artifacts.settle(received, BUCKET, "lost", What::Object, &Description::default(), None).await.unwrap();
    assert_eq!(store.blobs(), 2);
    assert_eq!(store.sweep().await.orphans, 0, "it may yet get its record");
    drop(settled.keep()); // kill -9: nobody removes it
    let store = store.reopen();
    assert_eq!(store.sweep().await.orphans, 1);
    assert_eq!(store.read("kept", Wanted::All).await.unwrap(), [1; 500]);
    assert!(store.artifacts.head(BUCKET, "lost").is_err());
}

#[tokio::test]
async fn a_pack_with_little_life_in_it_is_compacted_and_goes() {
    let store = Store::new().await;
    for number in 0..40 {
        store.put(&format!("{number:02}"), &[number; 40]).await;
    }
    let packs = || std::fs::read_dir(store.dir.join("packs")).unwrap().count();
    let before = packs();
    assert!(before > 5, "{before}");
    for number in 0..40 {
        if number % 8 != 0 {
            store.delete(&format!("{number:02}")).await;
        }
    }
    store.sweep().await;
    assert!(packs() < before / 2, "{} of {before}", packs());
    for number in (0..40).step_by(8) {
        assert_eq!(store.read(&format!("{number:02}"), Wanted::All).await.unwrap(), [number; 40]);
    }
}

#[tokio::test]
async fn a_flipped_bit_or_a_missing_blob_is_an_error_and_never_wrong_bytes() {
    let store = Store::new().await;
    store.put("small", &[1; 60]).await;
    store.put("large", &[2; 1000]).await;
    for (key, flipped_at) in [("small", 0), ("large", 500)] {
        let row = store.artifacts.head(BUCKET, key).unwrap();
        let model::Body::One(extent) = row.body else { panic!("one extent") };
        let (path, offset) = match extent.place {
            model::Place::File(id) => (store.artifacts.0.stores.blobs.path(id), blobs::HEADER_BYTES + flipped_at),
            model::Place::Pack(pack, offset) => (store.artifacts.0.stores.packs.path(pack), offset + flipped_at),
            model::Place::Cold(..) => panic!("it is in the cold tier"),
        };
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[usize::try_from(offset).unwrap()] ^= 0x80;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(store.read(key, Wanted::All).await, Err(ArtifactError::Damaged { .. })), "{key}");
        bytes.truncate(usize::try_from(offset).unwrap());
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(store.read(key, Wanted::All).await, Err(ArtifactError::Damaged { .. })), "{key}");
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(store.read(key, Wanted::All).await, Err(ArtifactError::Damaged { .. })), "{key}");
    }
}

#[tokio::test]
async fn an_etag_without_an_md5_cannot_be_taken_for_one() {
    let store = Store::new().await;
    let bytes = vec![7; 4000];
    let (first, second) = (store.put_quick("a", &bytes).await, store.put_quick("b", &bytes).await);
    assert!(first.etag.to_string().ends_with("-1") && first.etag.to_string().len() == 34, "{}", first.etag);
    assert_ne!(first.etag, second.etag);
    assert_eq!(store.read("a", Wanted::Part(1)).await.unwrap(), bytes);
    let small = store.put_quick("small", &[1; 10]).await; // its MD5 costs nothing
    assert_eq!(small.etag, store.put("same", &[1; 10]).await.etag);

    let expected = |size, md5: Option<&str>| Expected {
        size: Some(size),
        md5: md5.map(|_| checksums::Digest(vec![0; 16])),
        ..Expected::default()
    };
    let is_reckoned = |kind, expected: Expected| intake::sums(kind, None, &expected).md5;
    assert!(!is_reckoned(EtagKind::Quick, expected(8 << 20, None)));
    assert!(is_reckoned(EtagKind::Quick, expected(8 << 20, Some("asked for"))));
    assert!(is_reckoned(EtagKind::Quick, expected(1 << 20, None)));
    assert!(is_reckoned(EtagKind::Md5, expected(8 << 20, None)));
}
