//! Power cuts: a child sends log records of two classes and of none, tells which were acknowledged, and its disk loses power at any moment, in
//! the middle of a window's commit and between those of two classes too. Afterwards each of them is found, once, whatever the classes are then.

use std::collections::BTreeSet;
use std::io::Write;

use super::*;
use crate::catalogue::tests::disk::disk_or_skip;
use crate::crash_testing::Work;

/// Tells the child its folder and the first of its numbers.
const CHILD: &str = "BACKLOT_LOGS_POWER_CHILD";
const ROUNDS: u64 = 7;
const CALLERS: u64 = 3;

/// Two classes in one round, and in the next what was told apart belongs together.
fn classes(round: u64) -> config::Logs {
    let class = |name: &str, query: &str| config::LogClass {
        name: name.into(),
        query: query.into(),
        days: Some(3),
        bytes: None,
        cold_days: None,
    };
    let class = if round.is_multiple_of(2) {
        vec![class("first", "kind:0"), class("second", "kind:1")]
    } else {
        vec![class("second", "kind:(0 OR 2)")]
    };
    config::Logs { class, ..config::Logs::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_was_acknowledged_is_found_and_survives_a_power_cut() {
    let name = "logs: whatever_was_acknowledged_is_found_and_survives_a_power_cut";
    let Some(disk) = disk_or_skip(name, 256 << 20) else { return };
    let data = disk.path().join("data");
    let mut acknowledged = BTreeSet::new();
    for round in 0..ROUNDS {
        let work = Work {
            test: "logs::tests::power::child",
            told: (CHILD, format!("{} {}", data.display(), round << 20)),
            begins_with: "log",
            // A window commits every two seconds.
            pause: Duration::from_millis(50 + round * 7919 % 3_000),
            power: Some(&disk),
        };
        let said = work.until_the_end();
        let heard = said.lines.iter().take(said.heard);
        acknowledged.extend(heard.filter_map(|line| line.strip_prefix("log ").map(str::to_owned)));
        disk.power_on();

        let Running { logs, stages, journal } = run_with(&data, &classes(round + 1));
        // A search waits for what is being indexed for two seconds, and a busy machine may need longer.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        let lost = loop {
            let seen = everything_there(&logs).await;
            let count = seen.len();
            let seen: BTreeSet<String> = seen.into_iter().collect();
            assert_eq!(seen.len(), count, "round {round}: some were found twice");
            let lost = acknowledged.iter().find(|body| !seen.contains(*body)).cloned();
            if lost.is_none() || tokio::time::Instant::now() > deadline {
                break lost;
            }
        };
        assert_eq!(lost, None, "round {round}");
        stages.stop().await;
        journal.close();
        drop((logs, journal));
    }
    assert!(acknowledged.len() > 20, "the rounds did too little");
}

async fn everything_there(logs: &Logs) -> Vec<String> {
    let mut search = everything(Query::All);
    let mut seen = Vec::new();
    loop {
        let found = logs.search(search.clone()).await.unwrap();
        assert!(found.set_aside.is_empty(), "{:?}", found.set_aside);
        let records = found.hits.iter().map(|hit| serde_json::from_slice::<LogRecord>(&hit.source).unwrap().body);
        seen.extend(records);
        search.after = found.hits.last().map(|hit| hit.position);
        if !found.more {
            return seen;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the child of the test above, which starts it and ends it"]
async fn child() {
    let Ok(told) = std::env::var(CHILD) else { return };
    let (data, first) = told.rsplit_once(' ').unwrap();
    let first: u64 = first.parse().unwrap();
    std::fs::create_dir_all(data).unwrap();
    let Running { logs, stages, .. } = run_with(data.as_ref(), &classes(first >> 20));
    let _stages = stages;
    let now_ns = SystemClock::new().now().wall_ms * 1_000_000;
    let mut tasks = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let logs = logs.clone();
        tasks.spawn(async move {
            for number in first.. {
                // Some are of long ago, and go to windows of their own.
                let time_ns = if number % 4 == 0 { number + 1 } else { now_ns + number };
                let body = format!("{caller} {number}");
                let mut sent = record(time_ns, &body);
                sent.attributes = vec![pair("kind", &(number % 3).to_string())];
                logs.export(request(vec![sent])).await.unwrap();
                std::io::stdout().write_all(format!("log {body}\n").as_bytes()).unwrap();
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}
