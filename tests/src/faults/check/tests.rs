//! Histories that keep every promise, and the same with one violation planted in each.

use super::super::history::{Call, Got, History, Micros, Operation, Outcome, Promise, Queue, Run};
use super::check;

const MS: Micros = 1000;
const STANDARD: usize = 0;
const DLQ: usize = 1;
const FIFO: usize = 2;

/// A history that is written down operation by operation; each takes a millisecond from the moment it is given.
struct Tale {
    history: History,
    takes: u64,
}

impl Tale {
    fn new() -> Self {
        let queue = |name: &str, fifo, redrive| Queue { name: name.into(), fifo, redrive, emptied: true };
        let queues =
            vec![queue("work", false, Some((2, DLQ))), queue("dead", false, None), queue("line.fifo", true, None)];
        let run = Run { begun: 0, silent: None, ended: 1_000_000 * MS };
        Self { history: History { queues, runs: vec![run], ..History::default() }, takes: 0 }
    }

    /// The appliance is killed at `at_ms` and runs again 100 ms later.
    fn killed(mut self, at_ms: Micros) -> Self {
        let last = self.history.runs.len() - 1;
        let ended = std::mem::replace(&mut self.history.runs[last].ended, at_ms * MS);
        self.history.runs.push(Run { begun: (at_ms + 100) * MS, silent: None, ended });
        self
    }

    fn put(&mut self, from_ms: Micros, to_ms: Micros, queue: usize, call: Call, outcome: Outcome) -> &mut Operation {
        let (begun, ended) = (from_ms * MS, to_ms * MS);
        self.history.operations.push(Operation { begun, ended, queue, call, outcome });
        self.history.operations.last_mut().unwrap()
    }

    fn sends(mut self, at_ms: Micros, queue: usize, number: u64) -> Self {
        let group = (queue == FIFO).then_some(1);
        self.put(at_ms, at_ms + 1, queue, Call::Send { number, delay_s: 0, id: None, group }, Outcome::Done);
        self
    }

    /// One receive with a visibility timeout of 2 s; the takes are numbered from 1 on, over the whole tale.
    fn receives(self, at_ms: Micros, queue: usize, numbers: &[u64]) -> Self {
        self.receives_during(at_ms, at_ms + 1, queue, numbers)
    }

    fn receives_during(mut self, from_ms: Micros, to_ms: Micros, queue: usize, numbers: &[u64]) -> Self {
        let mut got = Vec::new();
        for number in numbers {
            self.takes += 1;
            let earlier = self.history.operations.iter().filter_map(|operation| match &operation.call {
                Call::Receive { got, .. } => Some(got.iter().filter(|got| got.number == Some(*number)).count()),
                _ => None,
            });
            let receive_count = earlier.sum::<usize>() as u32 + 1;
            got.push(Got {
                take: self.takes,
                number: Some(*number),
                intact: true,
                id: number.to_string(),
                receive_count,
            });
        }
        self.put(from_ms, to_ms, queue, Call::Receive { visibility_s: 2, got }, Outcome::Done);
        self
    }

    fn deletes(mut self, at_ms: Micros, queue: usize, take: u64) -> Self {
        self.put(at_ms, at_ms + 1, queue, Call::Delete { take }, Outcome::Done);
        self
    }

    fn hides(mut self, at_ms: Micros, take: u64, visibility_s: u32) -> Self {
        self.put(at_ms, at_ms + 1, STANDARD, Call::Hide { take, visibility_s }, Outcome::Done);
        self
    }

    /// The answer to the last operation never came.
    fn unanswered(mut self) -> Self {
        self.last().outcome = Outcome::Unknown;
        self
    }

    fn refused(mut self, code: &str) -> Self {
        self.last().outcome = Outcome::Refused(code.into());
        self
    }

    fn last(&mut self) -> &mut Operation {
        self.history.operations.last_mut().unwrap()
    }

    fn got(&mut self) -> &mut Got {
        match &mut self.last().call {
            Call::Receive { got, .. } => &mut got[0],
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn keeps_every_promise(self) {
        let found = check(&self.history);
        assert!(found.is_empty(), "{found:?}");
    }

    #[track_caller]
    fn breaks(self, promise: Promise) {
        let found = check(&self.history);
        assert!(!found.is_empty(), "nothing was found");
        assert!(found.iter().all(|violation| violation.promise == promise), "{found:?}");
    }
}

#[test]
fn a_message_that_is_sent_received_and_deleted_is_in_order() {
    Tale::new().sends(0, STANDARD, 1).receives(5, STANDARD, &[1]).deletes(10, STANDARD, 1).keeps_every_promise();
}

#[test]
fn an_acknowledged_message_that_never_comes_is_found() {
    Tale::new().sends(0, STANDARD, 1).breaks(Promise::NothingIsLost);
    Tale::new().sends(0, STANDARD, 1).unanswered().keeps_every_promise();
}

#[test]
fn a_message_that_vanishes_after_a_receive_is_found() {
    let tale = || Tale::new().sends(0, STANDARD, 1).receives(5, STANDARD, &[1]);
    tale().breaks(Promise::NothingIsLost);
    tale().deletes(9, STANDARD, 1).unanswered().keeps_every_promise();
    // Somebody else has the newer receipt, so the old one deletes nothing.
    let stale = || tale().receives(3000, STANDARD, &[1]).deletes(3100, STANDARD, 1);
    stale().breaks(Promise::NothingIsLost);
    stale().deletes(3200, STANDARD, 2).keeps_every_promise();
}

#[test]
fn a_queue_that_keeps_messages_to_itself_is_found() {
    let mut tale = Tale::new().sends(0, STANDARD, 1);
    tale.history.queues[STANDARD].emptied = false;
    tale.breaks(Promise::NothingIsLost);
}

#[test]
fn a_purge_may_have_taken_what_was_sent_before_its_end_and_nothing_else() {
    let purged = |at_ms| {
        let mut tale = Tale::new();
        tale.put(100, 101, STANDARD, Call::Purge, Outcome::Done);
        tale.sends(at_ms, STANDARD, 1)
    };
    purged(50).keeps_every_promise();
    purged(102).breaks(Promise::NothingIsLost);
}

#[test]
fn a_second_receive_within_the_visibility_timeout_is_found() {
    let tale = |again_ms| {
        let tale = Tale::new().sends(0, STANDARD, 1).receives(5, STANDARD, &[1]);
        tale.receives(again_ms, STANDARD, &[1]).deletes(again_ms + 2, STANDARD, 2)
    };
    tale(1900).breaks(Promise::Hidden);
    tale(2006).keeps_every_promise();
}

#[test]
fn two_receives_at_once_cannot_both_have_a_message() {
    let tale = |to_ms| {
        let tale = Tale::new().sends(0, STANDARD, 1).receives_during(5, 100, STANDARD, &[1]);
        tale.receives_during(6, to_ms, STANDARD, &[1]).deletes(to_ms + 2, STANDARD, 2)
    };
    tale(99).breaks(Promise::Hidden);
    tale(2500).keeps_every_promise(); // a long poll: the second may have had it after the first
}

#[test]
fn a_timeout_that_was_made_longer_or_shorter_counts_as_it_is_then() {
    let tale = |visibility_s, again_ms| {
        let tale = Tale::new().sends(0, STANDARD, 1).receives(5, STANDARD, &[1]).hides(1000, 1, visibility_s);
        tale.receives(again_ms, STANDARD, &[1]).deletes(again_ms + 2, STANDARD, 2)
    };
    tale(5, 3000).breaks(Promise::Hidden);
    tale(5, 6002).keeps_every_promise();
    tale(0, 1002).keeps_every_promise();
    tale(1, 1500).breaks(Promise::Hidden);
    tale(1, 2003).keeps_every_promise();
}

#[test]
fn after_a_restart_only_a_steady_clock_tells_how_long_a_message_is_hidden() {
    let tale = |swing_s| {
        let tale = Tale::new().sends(0, STANDARD, 1).receives(5, STANDARD, &[1]).killed(500);
        let mut tale = tale.receives(1000, STANDARD, &[1]).deletes(1100, STANDARD, 2);
        tale.history.clock_swing_s = swing_s;
        tale
    };
    tale(0).breaks(Promise::Hidden);
    tale(60).keeps_every_promise();
}

#[test]
fn a_message_that_comes_back_after_its_delete_is_found() {
    let tale = || Tale::new().sends(0, STANDARD, 1).receives(5, STANDARD, &[1]).deletes(10, STANDARD, 1);
    tale().receives(5000, STANDARD, &[1]).deletes(5010, STANDARD, 2).breaks(Promise::StaysDeleted);
    tale().killed(100).receives(5000, STANDARD, &[1]).deletes(5010, STANDARD, 2).breaks(Promise::StaysDeleted);
}

#[test]
fn a_delete_that_came_too_late_promises_nothing_where_somebody_else_may_have_the_message() {
    let late = |lost_answer: bool| {
        let mut tale = Tale::new().sends(0, STANDARD, 1).receives(5, STANDARD, &[1]);
        if lost_answer {
            tale = tale.receives(2500, STANDARD, &[]).unanswered().killed(2600);
        }
        tale.deletes(3000, STANDARD, 1).receives(9000, STANDARD, &[1]).deletes(9010, STANDARD, 2)
    };
    late(false).breaks(Promise::StaysDeleted);
    late(true).keeps_every_promise();
}

#[test]
fn what_was_heard_while_the_power_went_is_not_counted() {
    let tale = |silent_ms: Option<Micros>| {
        let mut tale = Tale::new().sends(10, STANDARD, 1).killed(20);
        tale.history.runs[0].silent = silent_ms.map(|ms| ms * MS);
        tale
    };
    tale(Some(9)).keeps_every_promise();
    tale(Some(15)).breaks(Promise::NothingIsLost);
    tale(None).breaks(Promise::NothingIsLost);
}

#[test]
fn a_receipt_that_came_while_the_power_went_deletes_all_the_same() {
    let received = || {
        let mut tale = Tale::new().sends(0, STANDARD, 1).receives(10, STANDARD, &[1]).killed(20);
        tale.history.runs[0].silent = Some(5 * MS);
        tale
    };
    received().deletes(200, STANDARD, 1).keeps_every_promise();
    received().breaks(Promise::NothingIsLost);
}

#[test]
fn foreign_changed_and_doubled_messages_are_found() {
    let tale = || Tale::new().sends(0, STANDARD, 1).receives(5, STANDARD, &[1]);
    let mut changed = tale();
    changed.got().intact = false;
    changed.deletes(10, STANDARD, 1).breaks(Promise::Intact);
    let mut foreign = tale().deletes(10, STANDARD, 1).receives(20, STANDARD, &[7]);
    foreign.got().number = None;
    foreign.breaks(Promise::Intact);
    tale().deletes(10, STANDARD, 1).receives(20, FIFO, &[9]).deletes(25, FIFO, 2).breaks(Promise::Intact);
    let refused = Tale::new().sends(0, STANDARD, 1).refused("ServiceUnavailable");
    let mut refused = refused.receives(5, STANDARD, &[1]).deletes(10, STANDARD, 1);
    refused.history.full.push((0, 2 * MS));
    refused.breaks(Promise::Intact);
    let mut twice = tale().deletes(10, STANDARD, 1).receives(20, STANDARD, &[1]);
    twice.got().id = "another".into();
    let found = check(&twice.deletes(30, STANDARD, 2).history);
    assert!(found.iter().any(|violation| violation.promise == Promise::Once), "{found:?}");
}

#[test]
fn a_delayed_message_that_comes_early_is_found() {
    let tale = |at_ms| {
        let mut tale = Tale::new().sends(0, STANDARD, 1);
        tale.last().call = Call::Send { number: 1, delay_s: 2, id: None, group: None };
        tale.receives(at_ms, STANDARD, &[1]).deletes(at_ms + 5, STANDARD, 1)
    };
    tale(1500).breaks(Promise::Delayed);
    tale(2001).keeps_every_promise();
}

#[test]
fn a_message_moves_on_when_it_was_received_often_enough_and_stays_there() {
    let twice = || Tale::new().sends(0, STANDARD, 1).receives(5, STANDARD, &[1]).receives(2010, STANDARD, &[1]);
    twice().receives(4020, DLQ, &[1]).deletes(4030, DLQ, 3).keeps_every_promise();
    twice().receives(4020, STANDARD, &[1]).deletes(4030, STANDARD, 3).breaks(Promise::DeadLettered);
    let early = Tale::new().sends(0, STANDARD, 1).receives(5, STANDARD, &[1]).receives(2010, DLQ, &[1]);
    early.deletes(2020, DLQ, 2).breaks(Promise::DeadLettered);
    let back = Tale::new().sends(0, STANDARD, 1).receives(5, STANDARD, &[1]);
    let mut back = back.receives(2010, DLQ, &[1]);
    back.got().receive_count = 3;
    back.receives(4020, STANDARD, &[1]).deletes(4030, STANDARD, 3).breaks(Promise::DeadLettered);
}

#[test]
fn a_refusal_without_a_full_disk_is_found() {
    let tale = || Tale::new().sends(10, STANDARD, 1).refused("ServiceUnavailable");
    tale().breaks(Promise::Served);
    let mut full = tale();
    full.history.full.push((5 * MS, 20 * MS));
    full.keeps_every_promise();
    let mut wrong = Tale::new().sends(10, STANDARD, 1).refused("InternalError");
    wrong.history.full.push((5 * MS, 20 * MS));
    wrong.breaks(Promise::Served);
    let held = Tale::new().sends(0, STANDARD, 1).receives(5, STANDARD, &[1]).deletes(10, STANDARD, 1);
    held.refused("ServiceUnavailable").deletes(20, STANDARD, 1).breaks(Promise::Served);
}

#[test]
fn a_group_that_is_reordered_is_found() {
    let sent = || Tale::new().sends(0, FIFO, 1).sends(2, FIFO, 2);
    let fine = sent().receives(5, FIFO, &[1]).deletes(7, FIFO, 1).receives(10, FIFO, &[2]).deletes(12, FIFO, 2);
    fine.keeps_every_promise();
    sent().receives(5, FIFO, &[1, 2]).deletes(7, FIFO, 1).deletes(9, FIFO, 2).keeps_every_promise();
    let swapped = sent().receives(5, FIFO, &[2]).deletes(7, FIFO, 1).receives(10, FIFO, &[1]).deletes(12, FIFO, 2);
    swapped.breaks(Promise::Ordered);
    sent().receives(5, FIFO, &[2, 1]).deletes(7, FIFO, 1).deletes(9, FIFO, 2).breaks(Promise::Ordered);
    // The first came back after the second was given out by itself.
    let back = sent().receives(5, FIFO, &[1]).receives(2010, FIFO, &[2]).deletes(2015, FIFO, 2);
    back.receives(4020, FIFO, &[1]).deletes(4030, FIFO, 3).breaks(Promise::Ordered);
}

#[test]
fn a_group_that_is_given_out_while_one_of_it_is_in_flight_is_found() {
    let sent = || Tale::new().sends(0, FIFO, 1).sends(2, FIFO, 2).receives(5, FIFO, &[1]);
    sent().receives(1000, FIFO, &[2]).deletes(1500, FIFO, 1).deletes(1502, FIFO, 2).breaks(Promise::GroupLocked);
    sent().deletes(900, FIFO, 1).receives(1000, FIFO, &[2]).deletes(1502, FIFO, 2).keeps_every_promise();
}

#[test]
fn a_send_that_was_tried_again_under_its_deduplication_id_is_there_once() {
    let again = || Tale::new().sends(0, FIFO, 1).unanswered().sends(500, FIFO, 1).receives(900, FIFO, &[1]);
    again().deletes(950, FIFO, 1).keeps_every_promise();
    let mut twice = again().deletes(950, FIFO, 1).receives(1000, FIFO, &[1]);
    twice.got().id = "another".into();
    let found = check(&twice.deletes(1010, FIFO, 2).history);
    assert!(found.iter().any(|violation| violation.promise == Promise::Once), "{found:?}");
}
