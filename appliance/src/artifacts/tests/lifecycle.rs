//! Rules against a bucket with a past, day by day.

use futures::future::BoxFuture;

use super::*;
use crate::artifacts::lifecycle::Transition;
use crate::artifacts::lifecycle::rules::{DAY_MS, Expiration, Filter, Noncurrent, Rule, Rules, When};
use crate::artifacts::lock::{Lock, Mode, Retention};
use crate::artifacts::tags::Tag;
use crate::artifacts::versions::listing::VersionQuery;

fn rule(prefix: &str) -> Rule {
    let filter = Filter { prefix: Some(prefix.into()), ..Filter::default() };
    Rule { id: prefix.into(), is_enabled: true, filter, ..Rule::default() }
}

fn expire(prefix: &str, days: u32) -> Rule {
    Rule { expiration: Some(Expiration::At(When::Days(days))), ..rule(prefix) }
}

async fn store_with(rules: Vec<Rule>) -> Store {
    let store = Store::new().await;
    store.artifacts.set_rules(BUCKET, Some(&Rules(rules))).await.unwrap();
    store
}

async fn current(store: &Store) -> Vec<String> {
    store.keys(Query { max: 1000, ..Query::default() }).await.0
}

/// Each version as `key:bytes`, and each marker as `key:-`.
async fn history(store: &Store) -> Vec<String> {
    let query = VersionQuery { max: 1000, ..VersionQuery::default() };
    let page = store.artifacts.list_versions(BUCKET, query).await.unwrap();
    let told = |row: &ObjectRow| row.size.to_string();
    page.entries
        .iter()
        .map(|entry| format!("{}:{}", entry.key, entry.version.object().map_or("-".into(), told)))
        .collect()
}

#[tokio::test]
async fn objects_expire_at_the_midnight_after_their_days_by_prefix_tag_and_size() {
    let mut tagged = expire("", 2);
    tagged.filter.tags = vec![Tag { key: "keep".into(), value: "no".into() }];
    let mut large = expire("", 3);
    large.filter.larger_than = Some(9);
    let mut off = expire("", 1);
    off.is_enabled = false;
    let store = store_with(vec![expire("tmp/", 1), tagged.clone(), large, off]).await;
    for key in ["a", "tmp/b", "z"] {
        store.put(key, b"123").await;
    }
    store.put("large", b"1234567890").await;
    let received = store.receive(b"1").await;
    let put = Put { bucket: BUCKET.into(), key: "tagged".into(), tags: tagged.filter.tags, ..Put::default() };
    let stored = store.artifacts.put(put, received).await.unwrap();
    let told = store.artifacts.expiration_of_stored(BUCKET, "tagged", &stored).unwrap();
    assert_eq!((told.0 % DAY_MS, told.0 / DAY_MS - BEGINS_MS / DAY_MS), (0, 3));
    let row = store.artifacts.head(BUCKET, "tagged").unwrap();
    assert_eq!(store.artifacts.expiration(BUCKET, "tagged", &row), Some(told));

    let mut days = Vec::new();
    for _ in 0..5 {
        store.artifacts.visit(BUCKET).await.unwrap();
        days.push(current(&store).await.len());
        store.wait_ms(DAY_MS);
    }
    // Days end at midnights, and the clock began in the middle of a day.
    assert_eq!(days, [5, 5, 4, 3, 2]);
    assert_eq!(current(&store).await, ["a", "z"]);
    assert_eq!(store.artifacts.visit(BUCKET).await.unwrap(), super::super::lifecycle::Visited::default());
    store.artifacts.set_rules(BUCKET, None).await.unwrap();
    assert_eq!(store.artifacts.rules(BUCKET).unwrap(), None);
}

#[tokio::test]
async fn what_is_no_longer_current_goes_in_time_but_for_the_newest_that_are_kept() {
    let noncurrent = Some(Noncurrent { days: 1, keeps: Some(2) });
    let store = store_with(vec![Rule { noncurrent, ..rule("k") }]).await;
    store.artifacts.set_versioning(BUCKET, true).await.unwrap();
    for size in 1..=5 {
        store.put("k", &vec![0; size]).await;
        store.put("other", &vec![0; size]).await;
        store.wait_ms(1);
    }
    let visit = || async {
        store.artifacts.visit(BUCKET).await.unwrap();
        history(&store).await.into_iter().filter(|told| told.starts_with("k:")).collect::<Vec<_>>()
    };
    assert_eq!(visit().await, ["k:5", "k:4", "k:3", "k:2", "k:1"]);
    store.wait_ms(2 * DAY_MS);
    assert_eq!(visit().await, ["k:5", "k:4", "k:3"]);
    store.delete("k").await;
    assert_eq!(visit().await, ["k:-", "k:5", "k:4"], "two stay, and the third is old");
    store.wait_ms(2 * DAY_MS);
    assert_eq!(visit().await, ["k:-", "k:5", "k:4"]);
    assert_eq!(history(&store).await.iter().filter(|told| told.starts_with("other:")).count(), 5);
}

#[tokio::test]
async fn an_expired_object_leaves_a_marker_that_goes_when_nothing_is_behind_it() {
    let noncurrent = Some(Noncurrent { days: 1, keeps: None });
    let markers = Rule { expiration: Some(Expiration::Markers(true)), ..rule("") };
    let store = store_with(vec![Rule { noncurrent, ..expire("a", 1) }, markers]).await;
    store.artifacts.set_versioning(BUCKET, true).await.unwrap();
    store.put("a", b"1").await;
    store.put("b", b"12").await;
    store.delete("b").await;
    let mut days = Vec::new();
    for _ in 0..5 {
        store.artifacts.visit(BUCKET).await.unwrap();
        days.push(history(&store).await.join(" "));
        store.wait_ms(DAY_MS);
    }
    let both = "b:- b:2";
    let expected = [format!("a:1 {both}"), format!("a:1 {both}"), format!("a:- a:1 {both}"), format!("a:- a:1 {both}")];
    assert_eq!(days[..4], expected);
    // What was hidden went, and the marker with it, at the next visit at the latest.
    store.artifacts.visit(BUCKET).await.unwrap();
    assert_eq!(history(&store).await.join(" "), both);
    assert!(current(&store).await.is_empty());
}

#[tokio::test]
async fn what_is_locked_stays_whatever_a_rule_says() {
    let store = Store::new().await;
    store.artifacts.create_bucket_with("locked", "us-east-1", true, Account::house()).await.unwrap();
    let noncurrent = Some(Noncurrent { days: 1, keeps: None });
    store.artifacts.set_rules("locked", Some(&Rules(vec![Rule { noncurrent, ..rule("") }]))).await.unwrap();
    let retention = Retention { mode: Mode::Compliance, until_ms: BEGINS_MS + 5 * DAY_MS };
    for _ in 0..2 {
        let lock = Lock { retention: Some(retention), hold: None };
        let put = Put { bucket: "locked".into(), key: "k".into(), lock, ..Put::default() };
        store.artifacts.put(put, store.receive(b"1").await).await.unwrap();
    }
    for (days, left) in [(3, 1), (3, 0)] {
        store.wait_ms(days * DAY_MS);
        store.artifacts.visit("locked").await.unwrap();
        assert_eq!(store.artifacts.bucket("locked").unwrap().noncurrent, left);
    }
}

#[tokio::test]
async fn uploads_are_aborted_in_time() {
    let store = store_with(vec![Rule { abort_days: Some(2), ..rule("up/") }]).await;
    for key in ["up/a", "up/b", "elsewhere"] {
        store.upload(key, &[(1, vec![1; 200])]).await;
    }
    for (expected, left) in [(0, 3), (0, 3), (0, 3), (2, 1)] {
        assert_eq!(store.artifacts.visit(BUCKET).await.unwrap().uploads, expected);
        assert_eq!(store.artifacts.uploads(BUCKET, "", None, 10).unwrap().len(), left);
        store.wait_ms(DAY_MS);
    }
    store.blobs_are(1).await;
}

/// Writes down what it is to move.
#[derive(Default)]
struct Moved(Mutex<Vec<String>>);

impl Transition for Moved {
    fn takes(&self, storage_class: &str) -> bool {
        storage_class == "GLACIER"
    }

    fn carry(
        &self,
        _: String,
        key: String,
        row: ObjectRow,
        class: String,
    ) -> BoxFuture<'static, Result<bool, ArtifactError>> {
        self.0.lock().push(format!("{key}:{} {class}", row.size));
        Box::pin(async { Ok(true) })
    }
}

#[tokio::test]
async fn objects_are_offered_to_another_tier_when_their_time_has_come() {
    let cold = || "GLACIER".to_owned();
    let current = Rule { transitions: vec![(When::Days(1), cold())], ..rule("a") };
    let due = Noncurrent { days: 0, keeps: None };
    let older = Rule { noncurrent_transitions: vec![(due, cold())], ..rule("a") };
    let store = store_with(vec![current, older]).await;
    let moved = Arc::new(Moved::default());
    store.artifacts.offer_transition(moved.clone());
    assert!(store.artifacts.takes_class("GLACIER") && !store.artifacts.takes_class("STANDARD_IA"));
    store.artifacts.set_versioning(BUCKET, true).await.unwrap();
    store.put("a", b"1").await;
    store.put("a", b"12").await;
    store.put("b", b"123").await;
    store.artifacts.visit(BUCKET).await.unwrap();
    assert!(moved.0.lock().is_empty());
    store.wait_ms(2 * DAY_MS);
    assert_eq!(store.artifacts.visit(BUCKET).await.unwrap().to_move, 2);
    assert_eq!(*moved.0.lock(), ["a:2 GLACIER", "a:1 GLACIER"]);

    // What has come back is offered when the rule's days have passed once more.
    let now_ms = store.clock.now().wall_ms;
    let back = |row: &mut ObjectRow| {
        row.tier = Tier::Back(now_ms);
        Ok(())
    };
    store.artifacts.amend(BUCKET, "a", None, None, back).await.unwrap();
    let offered = async || {
        moved.0.lock().clear();
        store.artifacts.visit(BUCKET).await.unwrap();
        moved.0.lock().join(" ")
    };
    assert_eq!(offered().await, "a:1 GLACIER");
    store.wait_ms(2 * DAY_MS);
    assert_eq!(offered().await, "a:2 GLACIER a:1 GLACIER");
    let date = |ms: u64| Rule { transitions: vec![(When::Date(ms / DAY_MS * DAY_MS), cold())], ..rule("a") };
    store.artifacts.set_rules(BUCKET, Some(&Rules(vec![date(now_ms)]))).await.unwrap();
    assert_eq!(offered().await, "", "a date moves a version once");
    store.artifacts.set_rules(BUCKET, Some(&Rules(vec![date(now_ms + DAY_MS)]))).await.unwrap();
    assert_eq!(offered().await, "a:2 GLACIER");
}
