//! What the rows, the counts and the sweeper make of the cold tier, with nobody there. The other S3 is in the black-box tests.

use super::*;
use crate::artifacts::cold::{ColdRun, loose};
use crate::artifacts::model::{Body, Extent, Place};
use crate::catalogue::Table;

impl Store {
    /// Says that an object is in the cold tier, as the end of a move does.
    async fn say_cold(&self, key: &str) {
        let cold = |row: &mut ObjectRow| {
            let Body::One(extent) = &row.body else { panic!("one extent") };
            let Place::File(id) = extent.place else { panic!("a file of its own") };
            row.body = Body::One(Extent { place: Place::Cold(id, 7), ..extent.clone() });
            row.tier = Tier::Cold(ColdClass::StandardIa);
            Ok(())
        };
        self.artifacts.amend(BUCKET, key, None, None, cold).await.unwrap();
    }

    fn loose(&self) -> usize {
        self.control.catalogue().range(Table::Cold, &[], &[], 100).unwrap().len()
    }

    fn cold_counts(&self) -> (u64, u64) {
        let bucket = self.artifacts.bucket(BUCKET).unwrap();
        (bucket.cold, bucket.cold_bytes)
    }
}

#[tokio::test]
async fn what_is_in_the_cold_tier_is_counted_and_its_name_is_deleted_there_when_it_goes() {
    let store = Store::new().await;
    store.artifacts.set_versioning(BUCKET, true).await.unwrap();
    store.put("k", &[1; 200]).await;
    let before = store.artifacts.bucket(BUCKET).unwrap();
    store.say_cold("k").await;
    assert_eq!(store.cold_counts(), (1, 200));
    store.sweep().await;
    store.blobs_are(0).await;
    assert!(matches!(store.read("k", Wanted::All).await, Err(ArtifactError::ColdAway(_))));
    assert!(store.damaged_is_nothing(), "what is away is not damaged");
    let row = store.artifacts.head(BUCKET, "k").unwrap();
    assert_eq!((row.size, row.class()), (200, "STANDARD_IA"));

    // An old version there, then none.
    store.put("k", &[2; 300]).await;
    assert_eq!(store.cold_counts(), (1, 200));
    let store = store.reopen();
    assert_eq!((store.cold_counts(), store.loose()), ((1, 200), 0));
    let delete = Delete { version: Some(row.name()), ..Delete::default() };
    store.artifacts.delete(BUCKET, "k", &delete).await.unwrap();
    assert_eq!((store.cold_counts(), store.loose()), ((0, 0), 1));
    let now = store.artifacts.bucket(BUCKET).unwrap();
    assert_eq!((now.objects, now.bytes), (before.objects, 300));
    // Nobody is there to delete it: it waits.
    assert_eq!(store.artifacts.clean_cold().await.unwrap(), 1);
    assert_eq!(store.reopen().loose(), 1);
}

#[tokio::test]
async fn a_name_is_loose_from_before_it_is_written_until_it_is_bound() {
    let store = Store::new().await;
    store.put("k", &[1; 200]).await;
    let row = store.artifacts.head(BUCKET, "k").unwrap();
    let Body::One(Extent { place: Place::File(id), .. }) = row.body else { panic!("a file of its own") };
    let run = ColdRun { body: id, copy: 7, blobs: vec![id] };
    store.artifacts.begin_cold(run.clone()).await.unwrap();
    let store = store.reopen();
    assert_eq!(store.loose(), 1);
    let mut batch = Batch::default();
    let change = record::KeyChange { bound: vec![run.clone()], ..record::KeyChange::default() };
    let record = record::Change::Key(Box::new(change)).record().unwrap();
    record::Change::project(&record.payload, &mut batch).unwrap();
    let bound = run.names().map(loose::key).collect::<Vec<_>>();
    let gone: Vec<_> =
        batch.changes.into_iter().filter(|(table, _, value)| *table == Table::Cold && value.is_none()).collect();
    assert_eq!(gone.into_iter().map(|(_, key, _)| key).collect::<Vec<_>>(), bound);
    assert!(matches!(
        store.artifacts.move_out(&named(&store, "k"), ColdClass::GlacierIr).await,
        Err(ArtifactError::ColdAway(_))
    ));
    let asked = WarmAsked { bucket: BUCKET.into(), key: String::new(), versions: false };
    assert!(matches!(store.artifacts.warm(asked), Err(ArtifactError::ColdAway(_))));
}

fn named(store: &Store, key: &str) -> health::Named {
    health::Named::of(BUCKET, key, &store.artifacts.head(BUCKET, key).unwrap())
}

impl Store {
    fn damaged_is_nothing(&self) -> bool {
        self.artifacts.scrub_status().damaged.is_empty()
    }
}
