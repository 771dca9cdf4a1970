//! FIFO queues over a real control journal.

use std::collections::BTreeMap;

use super::*;

async fn line(queues: &Queues, more: &[(&str, &str)]) {
    let attributes = [&[("FifoQueue", "true"), ("ContentBasedDeduplication", "true")][..], more].concat();
    make(queues, "line.fifo", &attributes).await;
}

fn of_group(group: &str, body: &str) -> SendRequest {
    SendRequest { group_id: Some(group.to_owned()), ..message(body) }
}

fn all() -> ReceiveRequest {
    ReceiveRequest { messages_max: 10, ..poll(0) }
}

fn bodies(got: &[Delivery]) -> Vec<&str> {
    got.iter().map(|delivery| delivery.body.as_str()).collect()
}

#[tokio::test]
async fn a_group_comes_in_order_one_receive_at_a_time_and_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    line(&house.queues, &[]).await;
    let sent = (0..8).map(|n| of_group(if n % 2 == 0 { "even" } else { "odd" }, &n.to_string())).collect();
    let sent = house.queues.send_batch("line.fifo", sent).await.unwrap();
    let numbers: Vec<_> = sent.into_iter().map(|sent| sent.unwrap().sequence_number.unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.iter().all(|number| number.len() == 20), "{numbers:?}");
    let two = ReceiveRequest { messages_max: 2, ..poll(0) };
    let first = house.queues.receive("line.fifo", two.clone()).await.unwrap();
    assert_eq!(bodies(&first), ["0", "2"], "as much as possible of one group");
    assert_eq!(first[1].sequence_number.as_ref(), Some(&numbers[2]));
    assert_eq!((first[0].group_id.as_deref(), first[0].deduplication_id.as_ref().unwrap().len()), (Some("even"), 64));
    let second = house.queues.receive("line.fifo", all()).await.unwrap();
    assert_eq!(bodies(&second), ["1", "3", "5", "7"], "the other group: the first is locked");
    house.close().await;

    let house = House::open(dir.path()).await;
    assert!(house.queues.receive("line.fifo", all()).await.unwrap().is_empty());
    house.queues.delete("line.fifo", &[first[0].receipt.clone()]).await.unwrap();
    assert!(house.queues.receive("line.fifo", all()).await.unwrap().is_empty(), "2 is in flight");
    house.queues.change_visibility("line.fifo", &[(first[1].receipt.clone(), 0)]).await.unwrap();
    let late = house.queues.delete("line.fifo", &[first[1].receipt.clone()]).await.unwrap();
    assert!(matches!(late[0], Err(QueueError::ReceiptExpired)));
    let third = house.queues.receive("line.fifo", all()).await.unwrap();
    assert_eq!(bodies(&third), ["2", "4", "6"]);
    assert_eq!(third[0].receive_count, 2);
    house.close().await;
}

#[tokio::test]
async fn what_is_sent_twice_is_one_message_also_after_its_deletion_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    line(&house.queues, &[]).await;
    let twice = vec![of_group("a", "same"), of_group("b", "same"), of_group("a", "other")];
    let sent = house.queues.send_batch("line.fifo", twice).await.unwrap();
    let [first, again, other] = [0, 1, 2].map(|at| sent[at].as_ref().unwrap());
    assert_eq!((&first.message_id, &first.sequence_number), (&again.message_id, &again.sequence_number));
    assert_ne!(first.message_id, other.message_id);
    let named = SendRequest { deduplication_id: Some("own".into()), ..of_group("a", "same") };
    let named = house.queues.send("line.fifo", named).await.unwrap();
    assert_ne!(named.message_id, first.message_id, "an id of its own wins over the body's");
    let got = house.queues.receive("line.fifo", all()).await.unwrap();
    assert_eq!(bodies(&got), ["same", "other", "same"]);
    let receipts: Vec<_> = got.into_iter().map(|delivery| delivery.receipt).collect();
    assert!(house.queues.delete("line.fifo", &receipts).await.unwrap().iter().all(Result::is_ok));
    let (message_id, sequence_number) = (first.message_id.clone(), first.sequence_number.clone());
    house.close().await;

    let house = House::open(dir.path()).await;
    let late = house.queues.send("line.fifo", of_group("c", "same")).await.unwrap();
    assert_eq!((late.message_id, late.sequence_number.clone()), (message_id, sequence_number));
    assert!(house.queues.receive("line.fifo", all()).await.unwrap().is_empty());
    let new = house.queues.send("line.fifo", of_group("c", "new")).await.unwrap();
    assert!(new.sequence_number > late.sequence_number);
    house.close().await;
}

#[tokio::test]
async fn a_receive_that_is_tried_again_gets_the_same_messages() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    line(&house.queues, &[]).await;
    for n in 0..3 {
        house.queues.send("line.fifo", of_group("a", &n.to_string())).await.unwrap();
    }
    let named = ReceiveRequest { attempt_id: Some("try-1".into()), messages_max: 2, ..poll(0) };
    let first = house.queues.receive("line.fifo", named.clone()).await.unwrap();
    let again = house.queues.receive("line.fifo", named.clone()).await.unwrap();
    assert_eq!((bodies(&first), &first), (vec!["0", "1"], &again));
    house.queues.delete("line.fifo", &[first[0].receipt.clone()]).await.unwrap();
    let touched = house.queues.receive("line.fifo", named).await.unwrap();
    assert!(touched.is_empty(), "one of them was touched, and the group is locked");
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_locked_group_is_woken_when_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    line(&house.queues, &[]).await;
    let sent = (0..2).map(|n| of_group("a", &n.to_string())).collect();
    house.queues.send_batch("line.fifo", sent).await.unwrap();
    let held = house.queues.receive("line.fifo", poll(0)).await.unwrap().pop().unwrap();
    let waits = {
        let queues = house.queues.clone();
        tokio::spawn(async move { queues.receive("line.fifo", poll(20)).await })
    };
    while house.queues.shared.state.lock().waiting.line_lengths() != 1 {
        tokio::task::yield_now().await;
    }
    house.queues.delete("line.fifo", &[held.receipt]).await.unwrap();
    let got = tokio::time::timeout(PATIENCE, waits).await.unwrap().unwrap().unwrap();
    assert_eq!(bodies(&got), ["1"]);
    house.close().await;
}

#[tokio::test]
async fn what_a_fifo_queue_does_not_take_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let house = House::open(dir.path()).await;
    make(&house.queues, "line.fifo", &[("FifoQueue", "true"), ("DelaySeconds", "1")]).await;
    let whole = SendRequest { deduplication_id: Some("d".into()), ..of_group("a", "x") };
    for (problem, request) in [
        ("MessageGroupId", SendRequest { group_id: None, ..whole.clone() }),
        ("ContentBasedDeduplication", SendRequest { deduplication_id: None, ..whole.clone() }),
        ("DelaySeconds", SendRequest { delay_s: Some(5), ..whole.clone() }),
        ("MessageGroupId", SendRequest { group_id: Some("x".repeat(129)), ..whole.clone() }),
        ("MessageDeduplicationId", SendRequest { deduplication_id: Some("ä".into()), ..whole.clone() }),
    ] {
        let refused = house.queues.send("line.fifo", request).await.unwrap_err();
        assert!(refused.to_string().contains(problem), "{refused}");
    }
    house.queues.send("line.fifo", whole).await.unwrap();
    assert!(house.queues.receive("line.fifo", poll(0)).await.unwrap().is_empty(), "the queue delays it");
    assert_eq!(house.queues.receive("line.fifo", poll(20)).await.unwrap().len(), 1);
    make(&house.queues, "dead", &[]).await;
    let policy = BTreeMap::from([("RedrivePolicy".to_owned(), redrive("dead", 2))]);
    assert!(house.queues.set_attributes("line.fifo", &policy).await.is_err(), "it is no FIFO queue");
    house.close().await;
}
