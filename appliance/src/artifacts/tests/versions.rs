//! Versions against a small model: a list of what each key has been, in the order of the puts.

use super::*;
use crate::artifacts::lock::{Lock, Mode, Retention};
use crate::artifacts::tags::Tag;
use crate::artifacts::versions::listing::VersionQuery;

#[derive(Clone, Debug)]
enum Change {
    Put {
        key: String,
        size: usize,
        byte: u8,
    },
    Delete(String),
    /// Deletes one of the versions that are there, counted through all keys.
    DeleteVersion(usize),
    DeleteNull(String),
    Tag(usize, u8),
    Enable,
    Suspend,
    Later,
    Reopen,
    Sweep,
}

fn change() -> impl Strategy<Value = Change> {
    let key = || prop_oneof!["[ab](/[ab]){0,1}", Just("a\0".to_owned())];
    prop_oneof![
        12 => (key(), prop_oneof![0..SMALL_BYTES, SMALL_BYTES..SMALL_BYTES * 5], any::<u8>())
            .prop_map(|(key, size, byte)| Change::Put { key, size, byte }),
        5 => key().prop_map(Change::Delete),
        6 => any::<usize>().prop_map(Change::DeleteVersion),
        2 => key().prop_map(Change::DeleteNull),
        3 => (any::<usize>(), any::<u8>()).prop_map(|(which, tag)| Change::Tag(which, tag)),
        2 => Just(Change::Enable),
        2 => Just(Change::Suspend),
        1 => Just(Change::Later),
        1 => Just(Change::Reopen),
        1 => Just(Change::Sweep),
    ]
}

/// A version in the model; a delete marker has no bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Was {
    name: VersionName,
    bytes: Option<Vec<u8>>,
    tags: Vec<Tag>,
}

/// Versions of each key, the oldest first.
#[derive(Debug, Default)]
struct Model {
    versioning: Versioning,
    keys: BTreeMap<String, Vec<Was>>,
}

impl Model {
    fn push(&mut self, key: &str, was: Was) {
        let versions = self.keys.entry(key.to_owned()).or_default();
        match self.versioning {
            Versioning::Never => versions.clear(),
            Versioning::Enabled => {}
            Versioning::Suspended => versions.retain(|was| was.name != VersionName::Null),
        }
        versions.push(was);
    }

    fn all(&self) -> Vec<(String, Was)> {
        let newest_first = |(key, versions): (&String, &Vec<Was>)| {
            versions.iter().rev().map(|was| (key.clone(), was.clone())).collect::<Vec<_>>()
        };
        self.keys.iter().flat_map(newest_first).collect()
    }

    fn current(&self) -> Vec<(String, Vec<u8>)> {
        let current = |(key, versions): (&String, &Vec<Was>)| Some((key.clone(), versions.last()?.bytes.clone()?));
        self.keys.iter().filter_map(current).collect()
    }

    fn remove(&mut self, key: &str, name: VersionName) {
        if let Some(versions) = self.keys.get_mut(key) {
            versions.retain(|was| was.name != name);
        }
        self.keys.retain(|_, versions| !versions.is_empty());
    }
}

async fn delete_version(store: &Store, key: &str, version: VersionName) -> Deleted {
    let delete = Delete { version: Some(version), ..Delete::default() };
    store.artifacts.delete(BUCKET, key, &delete).await.unwrap()
}

async fn set(store: &Store, model: &mut Model, is_enabled: bool) {
    store.artifacts.set_versioning(BUCKET, is_enabled).await.unwrap();
    model.versioning = if is_enabled { Versioning::Enabled } else { Versioning::Suspended };
}

async fn play(store: Store, model: &mut Model, change: Change) -> Store {
    match change {
        Change::Put { key, size, byte } => {
            let bytes = vec![byte; size];
            let stored = store.put(&key, &bytes).await;
            assert_eq!(stored.version.is_some(), model.versioning == Versioning::Enabled);
            let name = stored.version.unwrap_or(VersionName::Null);
            model.push(&key, Was { name, bytes: Some(bytes), tags: Vec::new() });
        }
        Change::Delete(key) => {
            let deleted = store.artifacts.delete(BUCKET, &key, &Delete::default()).await.unwrap();
            assert_eq!(deleted.existed, model.current().iter().any(|(current, _)| *current == key));
            match model.versioning {
                Versioning::Never => model.remove(&key, VersionName::Null),
                _ => {
                    let name = deleted.marker.unwrap();
                    assert_eq!(name == VersionName::Null, model.versioning == Versioning::Suspended);
                    model.push(&key, Was { name, bytes: None, tags: Vec::new() });
                }
            }
        }
        Change::DeleteVersion(which) => {
            let all = model.all();
            if let Some((key, was)) = all.get(which % all.len().max(1)) {
                let deleted = delete_version(&store, key, was.name).await;
                assert_eq!((deleted.existed, deleted.marker.is_some()), (true, was.bytes.is_none()));
                assert_eq!(delete_version(&store, key, was.name).await, Deleted::default(), "again");
                model.remove(key, was.name);
            }
        }
        Change::DeleteNull(key) => {
            delete_version(&store, &key, VersionName::Null).await;
            model.remove(&key, VersionName::Null);
        }
        Change::Tag(which, value) => {
            let all = model.all();
            if let Some((key, was)) = all.get(which % all.len().max(1)) {
                let tags = vec![Tag { key: "k".into(), value: value.to_string() }];
                let given = Some(tags.clone());
                let done = store.artifacts.amend(BUCKET, key, Some(was.name), given, |_| Ok(())).await;
                assert_eq!(done.is_ok(), was.bytes.is_some());
                let versions = model.keys.get_mut(key).unwrap();
                if let Some(was) = versions.iter_mut().find(|now| now.name == was.name && now.bytes.is_some()) {
                    was.tags = tags;
                }
            }
        }
        Change::Enable => set(&store, model, true).await,
        Change::Suspend => set(&store, model, false).await,
        Change::Later => store.wait_ms(1),
        Change::Reopen => return store.reopen(),
        Change::Sweep => {
            store.sweep().await;
        }
    }
    store
}

/// All versions, in pages of `max`.
async fn versions(
    store: &Store,
    prefix: &str,
    delimiter: Option<&str>,
    max: usize,
) -> (Vec<(String, VersionName, bool)>, Vec<String>) {
    let (mut entries, mut prefixes, mut after) = (Vec::new(), Vec::new(), None);
    loop {
        let query =
            VersionQuery { prefix: prefix.into(), delimiter: delimiter.map(str::to_owned), after: after.take(), max };
        let page = store.artifacts.list_versions(BUCKET, query).await.unwrap();
        let count = page.entries.len() + page.common_prefixes.len();
        assert!(count <= max && (page.next.is_none() || count == max), "{count} of {max}");
        entries.extend(page.entries.into_iter().map(|entry| (entry.key, entry.version.name(), entry.is_latest)));
        prefixes.extend(page.common_prefixes);
        match page.next {
            Some(next) => after = Some(next),
            None => return (entries, prefixes),
        }
    }
}

async fn check(store: &Store, model: &Model, max: usize) {
    let all = model.all();
    let mut before = None;
    let expected: Vec<_> = all
        .iter()
        .map(|(key, was)| (key.clone(), was.name, before.replace(key.clone()).as_ref() != Some(key)))
        .collect();
    assert_eq!(versions(store, "", None, max).await, (expected.clone(), vec![]));
    let rolled = |key: &str| key.find('/').map(|at| key[..=at].to_owned());
    let (entries, prefixes) = versions(store, "", Some("/"), max).await;
    assert_eq!(entries, expected.iter().filter(|(key, ..)| rolled(key).is_none()).cloned().collect::<Vec<_>>());
    let mut expected_prefixes: Vec<_> = expected.iter().filter_map(|(key, ..)| rolled(key)).collect();
    expected_prefixes.dedup();
    assert_eq!(prefixes, expected_prefixes);
    let (entries, _) = versions(store, "a/", None, max).await;
    assert_eq!(entries, expected.iter().filter(|(key, ..)| key.starts_with("a/")).cloned().collect::<Vec<_>>());

    for (key, was) in &all {
        let found = store.artifacts.find(BUCKET, key, Some(was.name));
        let Some(bytes) = &was.bytes else {
            assert!(matches!(found, Err(ArtifactError::IsMarker { .. })), "{key:?}");
            continue;
        };
        assert_eq!(store.artifacts.tags(found.unwrap().version).unwrap(), was.tags);
        let always = ReadConditions::default();
        let got = store.artifacts.get_version(BUCKET, key, Some(was.name), Wanted::All, &always, None).await.unwrap();
        assert_eq!(&super::all(got.stream).await.unwrap(), bytes);
    }
    let current = model.current();
    let (keys, _, _) = store.keys(Query { max: 1000, ..Query::default() }).await;
    assert_eq!(keys, current.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>());
    for (key, bytes) in &current {
        assert_eq!(&store.read(key, Wanted::All).await.unwrap(), bytes, "{key:?}");
    }
    for (key, versions) in &model.keys {
        if versions.last().is_some_and(|was| was.bytes.is_none()) {
            assert!(matches!(store.artifacts.head(BUCKET, key), Err(ArtifactError::Deleted { .. })), "{key:?}");
        }
    }
    let bucket = store.artifacts.bucket(BUCKET).unwrap();
    let objects = all.iter().filter_map(|(_, was)| was.bytes.as_ref());
    let (count, bytes) = objects.fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes.len() as u64));
    let current_bytes: usize = current.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!((bucket.objects, bucket.bytes), (current.len() as u64, current_bytes as u64));
    assert_eq!((bucket.noncurrent, bucket.noncurrent_bytes), (count - bucket.objects, bytes - bucket.bytes));
    assert_eq!(bucket.markers, all.len() as u64 - count);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn keys_have_the_versions_of_the_model_across_restarts_sweeps_and_pages(
        changes in proptest::collection::vec(change(), 1..60),
        max in 1_usize..6,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut store = Store::new().await;
            let mut model = Model::default();
            for change in changes {
                store = play(store, &mut model, change).await;
            }
            check(&store, &model, max).await;
            let large = model.all().iter().filter(|(_, was)| was.bytes.as_ref().is_some_and(|b| b.len() > SMALL_BYTES)).count();
            store.blobs_are(large).await;
            assert_eq!(store.sweep().await.orphans, 0);
            let store = store.reopen();
            check(&store, &model, 1000).await;
            // A bucket goes when its last version and its last marker have gone.
            for (key, was) in model.all() {
                assert!(store.artifacts.delete_bucket(BUCKET).await.is_err());
                delete_version(&store, &key, was.name).await;
            }
            assert_eq!(store.artifacts.bucket(BUCKET).unwrap().noncurrent, 0);
            for table in [crate::catalogue::Table::Versions, crate::catalogue::Table::Nulls, crate::catalogue::Table::Tags] {
                assert!(store.artifacts.catalogue().range(table, b"", b"", 10).unwrap().is_empty(), "{table:?}");
            }
            store.artifacts.delete_bucket(BUCKET).await.unwrap();
            store.blobs_are(0).await;
        });
    }
}

#[tokio::test]
async fn of_versions_put_in_the_same_millisecond_the_last_is_the_newest() {
    let store = Store::new().await;
    store.artifacts.set_versioning(BUCKET, true).await.unwrap();
    let mut names = Vec::new();
    for number in 0..50 {
        names.push(store.put("k", &[number; 3]).await.version.unwrap());
    }
    names.reverse();
    let (listed, _) = versions(&store, "", None, 7).await;
    assert_eq!(listed.into_iter().map(|(_, name, _)| name).collect::<Vec<_>>(), names);
}

#[tokio::test]
async fn an_upload_keeps_its_tags_and_its_lock_for_the_object() {
    let store = Store::new().await;
    store.artifacts.create_bucket_with("locked", "us-east-1", true, Account::house()).await.unwrap();
    let tags = vec![Tag { key: "a".into(), value: "b".into() }];
    let retention = Retention { mode: Mode::Governance, until_ms: BEGINS_MS + 1000 };
    let lock = Lock { retention: Some(retention), hold: Some(true) };
    let begin = Begin { tags: tags.clone(), lock, ..Begin::default() };
    let refused = store.artifacts.create_upload(BUCKET, "k", begin.clone()).await;
    assert!(matches!(refused, Err(ArtifactError::InvalidRequest(_))), "the bucket has no object lock");
    let id = store.artifacts.create_upload("locked", "k", begin).await.unwrap();
    let store = store.reopen();
    let name = UploadName { bucket: "locked".into(), key: "k".into(), id };
    let received = store.receive(b"part").await;
    store.artifacts.put_part(&name, 1, &Expected::default(), received).await.unwrap();
    store.artifacts.complete(&name, &listed(&[1]), Completion::default()).await.unwrap();
    let row = store.artifacts.head("locked", "k").unwrap();
    assert_eq!((row.tags, row.lock.as_deref()), (1, Some(&lock)));
    assert_eq!(store.artifacts.tags(row.version).unwrap(), tags);
    assert!(store.artifacts.tags(id).unwrap().is_empty());
    let mut delete = Delete { version: Some(row.name()), bypass: true, ..Delete::default() };
    assert!(matches!(store.artifacts.delete("locked", "k", &delete).await, Err(ArtifactError::Locked(_))));
    let lift = |lock: &mut Lock, _| {
        lock.hold = Some(false);
        Ok(())
    };
    store.artifacts.set_lock_of("locked", "k", None, lift).await.unwrap();
    delete.bypass = false;
    assert!(matches!(store.artifacts.delete("locked", "k", &delete).await, Err(ArtifactError::Locked(_))));
    store.wait_ms(1000);
    assert!(store.artifacts.delete("locked", "k", &delete).await.unwrap().existed);
    store.artifacts.delete_bucket("locked").await.unwrap();
    store.blobs_are(0).await;
}

#[tokio::test]
async fn listing_what_is_current_looks_at_nothing_behind_it() {
    let store = Store::new().await;
    store.artifacts.set_versioning(BUCKET, true).await.unwrap();
    for round in 0..5 {
        for number in 0..50 {
            store.put(&format!("{number:02}"), &[round]).await;
        }
    }
    for number in 1..49 {
        store.delete(&format!("{number:02}")).await;
    }
    let rows = store.artifacts.catalogue().range(crate::catalogue::Table::Objects, b"", b"", 1000).unwrap();
    assert_eq!(rows.len(), 2, "keys behind delete markers have no row that a listing would step over");
    assert_eq!(store.keys(Query { max: 10, ..Query::default() }).await.0, ["00", "49"]);
}

/// Rows and records that were written before there were versions.
#[tokio::test]
async fn what_was_put_before_there_were_versions_is_read_and_becomes_the_null_version() {
    let store = Store::new().await;
    store.put("k", b"first").await;
    let row = store.artifacts.head(BUCKET, "k").unwrap();
    let encoded = model::encode(&row).unwrap();
    for name in ["i", "g", "l"] {
        let field = [&[0x61], name.as_bytes()].concat(); // a CBOR text of one byte
        assert!(!encoded.windows(2).any(|window| window == field), "a plain row is written as it was: {name}");
    }
    store.artifacts.set_versioning(BUCKET, true).await.unwrap();
    store.put("k", b"second").await;
    let always = ReadConditions::default();
    let null = Some(VersionName::Null);
    let got = store.artifacts.get_version(BUCKET, "k", null, Wanted::All, &always, None).await.unwrap();
    assert_eq!(all(got.stream).await.unwrap(), b"first");
}

#[tokio::test]
async fn many_writers_of_one_key_each_make_a_version_and_the_newest_is_current() {
    let store = Store::new().await;
    store.artifacts.set_versioning(BUCKET, true).await.unwrap();
    let puts = (0..40_u8).map(|writer| {
        let store = &store;
        async move { (store.put("k", &[writer; 100]).await.version.unwrap(), writer) }
    });
    let put: BTreeMap<String, u8> =
        futures::future::join_all(puts).await.into_iter().map(|(name, writer)| (name.to_string(), writer)).collect();
    let (listed, _) = versions(&store, "", None, 9).await;
    assert_eq!(listed.len(), 40);
    let newest = listed[0].1;
    assert_eq!(store.read("k", Wanted::All).await.unwrap(), [put[&newest.to_string()]; 100]);
    assert_eq!(store.sweep().await.orphans, 0, "also those whose id is another than their header says");
    for (_, name, _) in &listed {
        let always = ReadConditions::default();
        let found = store.artifacts.get_version(BUCKET, "k", Some(*name), Wanted::All, &always, None);
        assert_eq!(all(found.await.unwrap().stream).await.unwrap(), [put[&name.to_string()]; 100]);
    }
}
