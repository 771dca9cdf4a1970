//! What a queue carries beside messages, over a real control journal.

use std::collections::BTreeMap;

use super::*;

#[tokio::test]
async fn a_queue_that_carries_all_it_may_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    let sid = "s".repeat(7_900);
    let policy =
        format!(r#"{{"Statement":[{{"Sid":"{sid}","Effect":"Deny","Principal":"*","Action":"*","Resource":"*"}}]}}"#);
    let arns: Vec<_> = (0..10).map(|n| format!("arn:aws:sqs:us-east-1:000000000000:{n}{}", "x".repeat(79))).collect();
    let allow = serde_json::json!({"redrivePermission": "byQueue", "sourceQueueArns": arns}).to_string();
    make(&house.queues, "laden", &[("Policy", &policy), ("RedriveAllowPolicy", &allow)]).await;
    let tags: BTreeMap<String, String> =
        (0..50).map(|n| (format!("{n:02}{}", "ä".repeat(126)), "ß".repeat(256))).collect();
    house.queues.tag("laden", &tags).await.unwrap();
    let before = house.queues.attributes("laden", "us-east-1").unwrap();
    assert_eq!((&before["Policy"], &before["RedriveAllowPolicy"]), (&policy, &allow));
    house.close().await;

    let house = House::open(dir.path()).await;
    assert_eq!(house.queues.attributes("laden", "us-east-1").unwrap(), before);
    assert_eq!(house.queues.tags("laden").unwrap(), tags);
    house.close().await;
}

#[tokio::test]
async fn changes_at_the_same_time_all_stay() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    make(&house.queues, "shots", &[]).await;
    let changes = (0..40).map(|n| {
        let queues = house.queues.clone();
        tokio::spawn(async move {
            let tag = BTreeMap::from([(format!("k{n}"), String::new())]);
            queues.tag("shots", &tag).await.unwrap();
            if n % 2 == 0 {
                queues.untag("shots", &[format!("k{n}")]).await.unwrap();
            }
        })
    });
    for change in changes.collect::<Vec<_>>() {
        change.await.unwrap();
    }
    let tags = house.queues.tags("shots").unwrap();
    let odd: BTreeMap<_, _> = (0..40).filter(|n| n % 2 == 1).map(|n| (format!("k{n}"), String::new())).collect();
    assert_eq!(tags, odd);
    house.close().await;
}
