//! Schedules over real queues, a real journal and a real catalogue, with the clock put forward.

use std::path::Path;
use std::sync::Arc;

use backlot_wire::JobStatus;
use proptest::prelude::*;
use serde_json::json;

use super::super::list::Filter;
use super::super::tests::House;
use super::super::tests_of_time::Forward;
use super::*;
use crate::clock::Clock;

const DAY_MS: u64 = 86_400_000;

fn order(value: Value) -> ScheduleOrder {
    serde_json::from_value(value).unwrap()
}

fn nightly(missed: &str) -> ScheduleOrder {
    order(json!({"cron": "0 3 * * *", "missed": missed, "job": {"type": "x", "labels": {"kind": "nightly"}}}))
}

fn runs(house: &House) -> Vec<String> {
    let filter = Filter::parse(&[("label.schedule".to_owned(), "nightly".to_owned())]).unwrap();
    let mut ids: Vec<_> = house.jobs.list(&filter).unwrap().jobs.into_iter().map(|job| job.id).collect();
    ids.sort();
    ids
}

async fn runs_are(house: &House, count: usize) -> Vec<String> {
    let found = tokio::time::timeout(std::time::Duration::from_secs(60), async {
        loop {
            let ids = runs(house);
            if ids.len() >= count {
                return ids;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    });
    let ids = found.await.unwrap_or_else(|_| panic!("{count} runs, not {:?}", runs(house)));
    assert_eq!(ids.len(), count, "{ids:?}");
    ids
}

/// Puts the clock to one second after the schedule's next time.
fn to_the_next(house: &House, clock: &Forward) {
    let next = house.jobs.schedule("nightly").unwrap().next[0];
    clock.pass(next.unix_ms() + 1_000 - clock.now().wall_ms);
}

async fn open(dir: &Path, clock: &Arc<Forward>) -> House {
    House::open_later(dir, clock.clone()).await
}

#[tokio::test]
async fn a_schedule_queues_its_job_at_each_time_once_over_restarts_pause_and_delete() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Forward::new();
    let house = open(dir.path(), &clock).await;
    let (made, is_new) = house.jobs.put_schedule("nightly", nightly("skip"), "AK").await.unwrap();
    assert!(is_new && made.next.len() == SHOWN);
    to_the_next(&house, &clock);
    let first = runs_are(&house, 1).await;
    let job = house.jobs.get(&first[0]).unwrap();
    assert_eq!((job.status, job.spec.labels["kind"].as_str()), (JobStatus::Queued, "nightly"));
    assert!(first[0].starts_with("nightly.2") && first[0].ends_with("T0300Z"), "{first:?}");
    house.close().await;
    let house = open(dir.path(), &clock).await;
    let shown = house.jobs.schedule("nightly").unwrap();
    assert_eq!(shown.last_job_id.as_ref(), Some(&first[0]));
    house.jobs.pause_schedule("nightly", true).await.unwrap();
    assert!(house.jobs.schedule("nightly").unwrap().next.is_empty());
    clock.pass(3 * DAY_MS);
    house.jobs.run_schedules().await;
    house.jobs.pause_schedule("nightly", false).await.unwrap();
    house.jobs.run_schedules().await;
    assert_eq!(runs(&house).len(), 1, "times of a pause are none");
    to_the_next(&house, &clock);
    runs_are(&house, 2).await;
    house.jobs.delete_schedule("nightly").await.unwrap();
    assert!(matches!(house.jobs.schedule("nightly"), Err(JobsError::NoSuchSchedule(_))));
    house.close().await;
    let house = open(dir.path(), &clock).await;
    clock.pass(2 * DAY_MS);
    house.jobs.run_schedules().await;
    assert_eq!((house.jobs.schedules().len(), runs(&house).len()), (0, 2));
    house.close().await;
}

#[tokio::test]
async fn times_that_were_missed_are_skipped_or_caught_up_with_as_told() {
    for (missed, count) in [("skip", 0), ("last", 1), ("all", 5)] {
        let dir = tempfile::tempdir().unwrap();
        let clock = Forward::new();
        let house = open(dir.path(), &clock).await;
        house.jobs.put_schedule("nightly", nightly(missed), "AK").await.unwrap();
        // Five nights and some hours pass in a moment in which nobody looks.
        let next = house.jobs.schedule("nightly").unwrap().next[4];
        house.close().await;
        clock.pass(next.unix_ms() + 3_600_000 - clock.now().wall_ms);
        let house = open(dir.path(), &clock).await;
        let ids = runs_are(&house, count).await;
        house.jobs.run_schedules().await;
        assert_eq!(runs(&house), ids, "{missed}");
        assert_eq!(house.jobs.schedule("nightly").unwrap().last_at, Some(next), "{missed}");
        house.close().await;
    }
}

#[tokio::test]
async fn a_run_that_was_queued_before_a_crash_is_not_queued_again() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Forward::new();
    let house = open(dir.path(), &clock).await;
    house.jobs.put_schedule("nightly", nightly("last"), "AK").await.unwrap();
    // The job was queued, and the crash came before that was noted.
    let known = house.jobs.book.schedules.lock().known["nightly"].clone();
    let at_ms = known.next_ms.unwrap();
    house.jobs.queue_run(&known.stored, at_ms).await.unwrap().unwrap();
    to_the_next(&house, &clock);
    let noted = async {
        while house.jobs.schedule("nightly").unwrap().last_at.is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), noted).await.unwrap();
    assert_eq!(runs(&house), [run_id("nightly", at_ms)]);
    house.close().await;
}

#[tokio::test]
async fn what_cannot_be_a_schedule_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    for (name, value, word) in [
        ("a b", json!({"cron": "@daily", "job": {"type": "x"}}), "name"),
        ("a", json!({"cron": "@reboot", "job": {"type": "x"}}), "five"),
        ("a", json!({"cron": "0 0 31 2 *", "job": {"type": "x"}}), "never"),
        ("a", json!({"cron": "@daily", "timezone": "Mars/Olympus", "job": {"type": "x"}}), "Mars/Olympus"),
        ("a", json!({"cron": "@daily", "job": {}}), "`job`"),
        ("a", json!({"cron": "@daily", "job": {"type": "x", "job_id": "j"}}), "`job_id`"),
        ("a", json!({"cron": "@daily", "colour": "red", "job": {"type": "x"}}), "`colour`"),
    ] {
        let refused = house.jobs.put_schedule(name, order(value.clone()), "AK").await;
        assert!(
            matches!(&refused, Err(JobsError::Invalid(sentence)) if sentence.contains(word)),
            "{value}: {refused:?}"
        );
    }
    let nowhere = order(json!({"cron": "@daily", "queue": "jobs-dlq", "job": {"type": "x"}}));
    assert!(matches!(house.jobs.put_schedule("a", nowhere, "AK").await, Err(JobsError::NotAJobQueue(_))));
    house.close().await;
}

proptest! {
    #[test]
    fn no_time_is_run_that_did_not_come_and_those_on_time_always_are(
        ages_s in proptest::collection::btree_set(0..10_000_i64, 0..150), policy in 0..3_usize,
    ) {
        let now_ms = 1_000_000_000;
        let times: Vec<i64> = ages_s.iter().rev().map(|age_s| now_ms - age_s * 1_000).collect();
        let missed = [Missed::Skip, Missed::Last, Missed::All][policy];
        let run = chosen(missed, &times, now_ms);
        prop_assert!(run.windows(2).all(|pair| pair[0] < pair[1]) && run.iter().all(|at_ms| times.contains(at_ms)));
        let on_time: Vec<_> = times.iter().copied().filter(|at_ms| now_ms - at_ms <= ON_TIME_MS).collect();
        prop_assert!(run.ends_with(&on_time));
        let late = run.len() - on_time.len();
        match missed {
            Missed::Skip => prop_assert_eq!(late, 0),
            Missed::Last => prop_assert_eq!(late, usize::from(on_time.is_empty() && !times.is_empty())),
            Missed::All => prop_assert_eq!(late, (times.len() - on_time.len()).min(CAUGHT_UP_MAX)),
        }
    }
}
