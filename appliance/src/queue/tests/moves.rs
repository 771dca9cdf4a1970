//! Move tasks over a real control journal.

use super::*;
use crate::queue::move_task::{MoveTask, REMEMBERED_MAX, Status};
use crate::queue::settings::arn;

const DEAD: &str = "arn:aws:sqs:us-east-1:000000000000:graves";

async fn ended(queues: &Queues) -> MoveTask {
    let look = async {
        loop {
            let newest = queues.moves("graves", 1).unwrap().remove(0);
            if !newest.is_running() {
                return newest;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("a task that ends")
}

fn ready(queues: &Queues, name: &str) -> u64 {
    queues.overview("").into_iter().find(|queue| queue.name == name).unwrap().ready
}

async fn until_ready(queues: &Queues, name: &str, count: u64) {
    let look = async {
        while ready(queues, name) != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("{count} ready on {name}"));
}

/// `count` messages that `name` gave up.
async fn bury(queues: &Queues, name: &str, count: u64) {
    for n in 0..count {
        queues.send(name, message(&format!("{{{n}}}"))).await.unwrap();
    }
    let before = ready(queues, "graves");
    for _ in 0..count {
        let got = queues.receive(name, poll(5)).await.unwrap().pop().unwrap();
        queues.change_visibility(name, &[(got.receipt, 0)]).await.unwrap();
    }
    until_ready(queues, "graves", before + count).await;
}

#[tokio::test]
async fn what_tasks_did_is_remembered_over_compaction_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open_tidy(dir.path()).await;
    let queues = &house.queues;
    make(queues, "graves", &[]).await;
    make(queues, "shots", &[("RedrivePolicy", &redrive("graves", 1))]).await;
    for round in 0..REMEMBERED_MAX + 2 {
        bury(queues, "shots", 3).await;
        queues.begin_move(DEAD, None, None).await.unwrap();
        let task = ended(queues).await;
        assert_eq!((task.status, task.moved, task.to_move), (Status::Completed, 3, 3), "round {round}");
        assert_eq!((ready(queues, "shots"), ready(queues, "graves")), (3, 0));
        for _ in 0..3 {
            let got = queues.receive("shots", poll(5)).await.unwrap().pop().unwrap();
            assert_eq!((got.receive_count, got.source), (1, None), "as if it had never been received");
            queues.delete("shots", &[got.receipt]).await.unwrap();
        }
    }
    let before = queues.moves("graves", 100).unwrap();
    assert_eq!(before.len(), REMEMBERED_MAX);
    queues.purge("shots").await.unwrap();
    make(queues, "churn", &[]).await;
    let last_lsn = house.control.journal().durable();
    let rounds = async {
        while house.control.journal().segments()[0].base < last_lsn {
            let messages = (0..10).map(|_| message(&"x".repeat(1_000))).collect();
            queues.send_batch("churn", messages).await.unwrap();
            let got = queues.receive("churn", ReceiveRequest { messages_max: 10, ..poll(5) }).await.unwrap();
            let receipts: Vec<_> = got.into_iter().map(|delivery| delivery.receipt).collect();
            queues.delete("churn", &receipts).await.unwrap();
        }
    };
    tokio::time::timeout(2 * PATIENCE, rounds).await.expect("the segments that held the tasks go");
    house.close().await;

    let house = House::open_tidy(dir.path()).await;
    assert_eq!(house.queues.moves("graves", 100).unwrap(), before);
    house.close().await;
}

#[tokio::test]
async fn an_overseer_is_told_of_what_comes_back_and_gets_nothing_that_it_did_not_admit() {
    let dir = tempfile::tempdir().unwrap();
    let watcher = Arc::new(Watcher::default());
    let house = House::open_with(dir.path(), Some(Arc::clone(&watcher) as Arc<dyn Overseer>)).await;
    let queues = &house.queues;
    make(queues, "graves", &[]).await;
    make(queues, "work", &[("backlot.JobQueue", "true"), ("RedrivePolicy", &redrive("graves", 1))]).await;
    make(queues, "other", &[("backlot.JobQueue", "true")]).await;
    bury(queues, "work", 100).await;
    watcher.seen.lock().clear();
    queues.begin_move(DEAD, None, None).await.unwrap();
    let task = ended(queues).await;
    assert_eq!((task.status, task.moved), (Status::Completed, 100));
    assert_eq!(watcher.seen.lock().iter().filter(|word| *word == "Returned").count(), 100);
    assert_eq!(ready(queues, "work"), 100);

    // To another job queue goes nothing that it has not admitted itself, nor what nobody has.
    queues.purge("work").await.unwrap();
    bury(queues, "work", 1).await;
    queues.begin_move(DEAD, Some(&arn("eu-west-1", "other")), None).await.unwrap();
    let task = ended(queues).await;
    assert_eq!((task.status, task.failure.as_deref()), (Status::Failed, Some("InvalidMessageContents")));
    queues.send("graves", message("no job")).await.unwrap();
    until_ready(queues, "graves", 2).await;
    queues.begin_move(DEAD, Some(&arn("eu-west-1", "work")), None).await.unwrap();
    let task = ended(queues).await;
    assert_eq!((task.status, task.moved), (Status::Failed, 1), "the job went back, the other did not");
    assert_eq!((ready(queues, "work"), ready(queues, "graves")), (1, 1));

    // What the overseer does not want back goes away.
    watcher.unwanted.store(true, Ordering::SeqCst);
    queues.purge("graves").await.unwrap();
    bury(queues, "work", 1).await;
    queues.begin_move(DEAD, None, None).await.unwrap();
    let task = ended(queues).await;
    assert_eq!((task.status, ready(queues, "work"), ready(queues, "graves")), (Status::Completed, 1, 0));
    house.close().await;
}

#[tokio::test]
async fn a_task_that_was_cut_off_goes_on_and_moves_each_message_once() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    make(&house.queues, "graves", &[]).await;
    make(&house.queues, "shots", &[("RedrivePolicy", &redrive("graves", 1))]).await;
    bury(&house.queues, "shots", 30).await;
    house.queues.begin_move(DEAD, None, Some(20)).await.unwrap();
    until_ready(&house.queues, "shots", 4).await;
    house.close().await;

    let house = House::open(dir.path()).await;
    let task = ended(&house.queues).await;
    assert_eq!((task.status, task.moved, task.to_move), (Status::Completed, 30, 30));
    assert_eq!((ready(&house.queues, "shots"), ready(&house.queues, "graves")), (30, 0));
    house.close().await;
}
