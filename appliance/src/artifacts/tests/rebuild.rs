//! The catalogue made again: from snapshot and journal as it was, from blobs as far as they know.

use super::*;
use crate::artifacts::versions::listing::VersionQuery;
use crate::control;

/// Everything that can be told of a store: each version's row, each page.
async fn told(store: &Store) -> String {
    let query = || VersionQuery { prefix: String::new(), delimiter: None, after: None, max: 1000 };
    let versions = store.artifacts.list_versions(BUCKET, query()).await.unwrap();
    let listed = store.artifacts.list(BUCKET, Query { max: 1000, ..Query::default() }).await.unwrap();
    format!("{:?}\n{versions:?}\n{listed:?}", store.artifacts.buckets())
}

impl Store {
    async fn keep_versions(&self) {
        let enable = |row: &mut model::BucketRow| {
            row.versioning = Versioning::Enabled;
            Ok(())
        };
        self.artifacts.set_bucket(BUCKET, enable).await.unwrap();
    }

    /// Closes it; the folder and what keeps it alive.
    fn close(self) -> (PathBuf, Option<tempfile::TempDir>) {
        let Self { control, artifacts, dir, temporary, .. } = self;
        control.close();
        drop((control, artifacts));
        (dir, temporary)
    }
}

async fn fill(store: &Store, round: u8) {
    for number in 0..20_u8 {
        let size = if number % 2 == 0 { 40 } else { 4000 };
        store.put(&format!("{number:02}"), &vec![number ^ round; size]).await;
    }
    for number in (round..20).step_by(3) {
        store.delete(&format!("{number:02}")).await;
    }
    let name = store.upload(&format!("parts-{round}"), &[(1, vec![round; 700])]).await;
    store.artifacts.complete(&name, &listed(&[1]), Completion::default()).await.unwrap();
    store.put_sealed("sealed", &[round; 3000], &SealAsked::Kept(Kept::default())).await;
}

#[tokio::test]
async fn from_snapshot_and_journal_the_listing_is_the_same_to_the_byte_and_nothing_deleted_is_back() {
    for snapshot in [false, true] {
        let store = Store::new().await;
        fill(&store, 0).await;
        if snapshot {
            store.control.catalogue().export(&store.dir.join("catalogue.snapshot")).unwrap();
        }
        store.keep_versions().await;
        fill(&store, 1).await;
        store.sweep().await;
        let before = told(&store).await;
        let (dir, temporary) = store.close();
        let rebuilt = control::rebuild(&dir).unwrap();
        assert_eq!(rebuilt.snapshot_pairs.is_some(), snapshot);
        let store = Store { temporary, ..Store::open(&dir) };
        assert_eq!(told(&store).await, before);
        assert!(store.read("19", Wanted::All).await.is_err(), "deleted is deleted");
        assert_eq!(store.read("sealed", Wanted::All).await.unwrap(), [1; 3000]);
        assert_eq!(store.sweep().await.orphans, 0);
    }
}

#[tokio::test]
async fn from_blobs_alone_everything_that_was_put_is_back_with_its_versions() {
    let store = Store::new().await;
    store.put("plain", &[1; 4000]).await;
    store.put("small", &[2; 40]).await;
    store.clock.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    store.put("small", &[3; 40]).await; // the first still lies in its pack
    let quick = store.put_quick("quick", &[9; 4000]).await.etag;
    store.put("deleted", &[4; 40]).await;
    store.delete("deleted").await;
    store.put_sealed("sealed", &[5; 200_000], &SealAsked::Kept(Kept::default())).await;
    let big = vec![6; usize::try_from(model::PART_BYTES_MIN).unwrap()];
    let name = store.upload("parts", &[(1, big.clone()), (2, vec![7; 9])]).await;
    let stored = store.artifacts.complete(&name, &listed(&[1, 2]), Completion::default()).await.unwrap();
    store.upload("unfinished", &[(1, vec![8; 100])]).await;
    store.artifacts.ensure_bucket("versions").await.unwrap();
    let enable = |row: &mut model::BucketRow| {
        row.versioning = Versioning::Enabled;
        Ok(())
    };
    store.artifacts.set_bucket("versions", enable).await.unwrap();
    for byte in 0..3 {
        store.clock.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let received = store.receive(&[byte; 500]).await;
        let put = Put { bucket: "versions".into(), key: "k".into(), ..Put::default() };
        store.artifacts.put(put, received).await.unwrap();
    }
    let query = || VersionQuery { prefix: String::new(), delimiter: None, after: None, max: 10 };
    let names = |page: crate::artifacts::versions::listing::VersionPage| {
        page.entries.into_iter().map(|listed| (listed.version.name().to_string(), listed.is_latest)).collect::<Vec<_>>()
    };
    let versions = names(store.artifacts.list_versions("versions", query()).await.unwrap());
    let etag = store.artifacts.head(BUCKET, "sealed").unwrap().etag;
    let (dir, temporary) = store.close();
    std::fs::remove_dir_all(control::journal_dir(&dir)).unwrap();
    std::fs::remove_dir_all(dir.join("catalogue")).unwrap();

    let store = Store { temporary, ..Store::open(&dir) };
    let recovered = from_blobs(&store.artifacts).await.unwrap();
    assert_eq!((recovered.buckets, recovered.unreadable, recovered.incomplete), (2, 0, 0), "{recovered:?}");
    assert_eq!(recovered.loose_parts, 1, "{recovered:?}");
    let store = store.reopen();
    assert_eq!(store.read("plain", Wanted::All).await.unwrap(), [1; 4000]);
    assert_eq!(store.read("small", Wanted::All).await.unwrap(), [3; 40], "the newest");
    assert_eq!(store.read("deleted", Wanted::All).await.unwrap(), [4; 40], "what headers cannot know");
    assert_eq!(store.read("sealed", Wanted::All).await.unwrap(), [5; 200_000]);
    assert_eq!(store.artifacts.head(BUCKET, "sealed").unwrap().etag, etag);
    assert_eq!(store.artifacts.head(BUCKET, "quick").unwrap().etag, quick);
    assert!(store.read("parts", Wanted::All).await.unwrap() == [big.as_slice(), &[7; 9]].concat());
    assert_eq!(store.artifacts.head(BUCKET, "parts").unwrap().etag, stored.etag);
    assert_eq!(names(store.artifacts.list_versions("versions", query()).await.unwrap()), versions);
    assert_eq!(store.artifacts.bucket("versions").unwrap().versioning, Versioning::Enabled);
    assert_eq!(store.sweep().await.orphans, 1, "the part of the unfinished upload");
    store.artifacts.begin_round();
    store.artifacts.scrub_round().await.unwrap();
    assert!(store.artifacts.scrub_status().damaged.is_empty());
}

#[tokio::test]
async fn an_object_of_parts_that_lacks_one_is_not_put_together() {
    let store = Store::new().await;
    let big = vec![6; usize::try_from(model::PART_BYTES_MIN).unwrap()];
    let name = store.upload("parts", &[(1, big), (2, vec![7; 9])]).await;
    store.artifacts.complete(&name, &listed(&[1, 2]), Completion::default()).await.unwrap();
    let (_, extent) = store.artifacts.completed_parts(name.id).unwrap().remove(1);
    let model::Place::File(id) = extent.place else { panic!("parts are files") };
    std::fs::remove_file(store.artifacts.0.stores.blobs.path(id)).unwrap();
    let (dir, temporary) = store.close();
    std::fs::remove_dir_all(control::journal_dir(&dir)).unwrap();
    std::fs::remove_dir_all(dir.join("catalogue")).unwrap();
    let store = Store { temporary, ..Store::open(&dir) };
    let recovered = from_blobs(&store.artifacts).await.unwrap();
    assert_eq!((recovered.versions, recovered.incomplete, recovered.loose_parts), (0, 1, 1), "{recovered:?}");
}
