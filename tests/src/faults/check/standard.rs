//! The rules that hold for every queue.

use std::collections::BTreeSet;

use super::super::history::{Call, Outcome, Promise};
use super::{Attempt, Facts, GRAIN, Micros, Report, SECOND, Story, Taken, contradict};

pub(super) fn intact(facts: &Facts<'_>, report: Report<'_>) {
    for receive in &facts.strangers {
        let queue = facts.name(facts.history.operations[*receive].queue);
        report(Promise::Intact, format!("receive {receive} on {queue} brought a message that nobody sent"));
    }
    for (number, story) in &facts.stories {
        let first_send = story.sends.iter().map(|send| send.operation.begun).min();
        for taken in &story.takes {
            let queue = facts.name(taken.queue);
            if !taken.intact {
                report(Promise::Intact, format!("message {number} came from {queue} with other bytes than were sent"));
            }
            if first_send.is_none_or(|begun| begun > taken.ended) {
                report(Promise::Intact, format!("message {number} came from {queue} before anybody sent it"));
            } else if story.sends.iter().all(Attempt::refused) {
                report(Promise::Intact, format!("message {number} came from {queue} although its send was refused"));
            }
            if story.sent_to().is_some_and(|to| facts.line(to).all(|queue| queue != taken.queue)) {
                report(Promise::Intact, format!("message {number} came from {queue}, which it was not sent to"));
            }
        }
    }
}

/// Every body is sent once; on a FIFO queue perhaps again under the same deduplication id, well within its window.
pub(super) fn once(facts: &Facts<'_>, report: Report<'_>) {
    for (number, story) in &facts.stories {
        let fifo = story.sent_to().is_some_and(|queue| facts.is_fifo(queue));
        let told = story.sends.iter().filter_map(|send| match &send.operation.call {
            Call::Send { id: Some(id), .. } if !fifo => Some(id.as_str()),
            _ => None,
        });
        let ids: BTreeSet<&str> = story.takes.iter().map(|taken| taken.id).chain(told).collect();
        if ids.len() > 1 {
            report(Promise::Once, format!("message {number} exists {} times: {ids:?}", ids.len()));
        }
    }
}

pub(super) fn hidden(facts: &Facts<'_>, report: Report<'_>) {
    for (number, story) in &facts.stories {
        for (index, one) in story.takes.iter().enumerate() {
            for other in &story.takes[index + 1..] {
                let twice = one.receive == other.receive;
                let forbids = |first: &Taken<'_>, second: &Taken<'_>| {
                    first.hold.covers(first.begun.max(second.begun), second.ended)
                };
                if twice || facts.same_time(one.run, other.run) && contradict(one, other, forbids) {
                    report(
                        Promise::Hidden,
                        format!(
                            "message {number} was received {} and again {} while it was hidden",
                            span(one),
                            span(other)
                        ),
                    );
                }
            }
        }
    }
}

/// Taken for granted of a delete that was acknowledged: it had the newest receipt where nobody else can have received the
/// message before it.
pub(super) fn stays_deleted(facts: &Facts<'_>, report: Report<'_>) {
    for (number, story) in &facts.stories {
        let deleted = story.deletes.iter().filter(|(take, delete)| {
            delete.done && story.take(*take).is_some_and(|taken| surely_newest(facts, story, taken, delete))
        });
        let Some(at) = deleted.map(|(_, delete)| delete.operation.ended).min() else { continue };
        for taken in story.takes.iter().filter(|taken| taken.begun >= at) {
            report(
                Promise::StaysDeleted,
                format!("message {number} was deleted by {at} µs and received again {}", span(taken)),
            );
        }
    }
}

fn surely_newest(facts: &Facts<'_>, story: &Story<'_>, taken: &Taken<'_>, delete: &Attempt<'_>) -> bool {
    let (begun, ended) = (delete.operation.begun, delete.operation.ended);
    let same_time = facts.same_time(taken.run, delete.run);
    if same_time && taken.hold.covers(begun, ended) {
        return true;
    }
    // A message that was received often enough moves on when its timeout ends, and its receipt with it.
    if facts.redrive_of(taken.queue).is_some_and(|(receives_max, _)| taken.receive_count >= receives_max) {
        return false;
    }
    let free_from = if same_time { taken.hold.first_end().max(taken.begun) } else { taken.begun };
    let known =
        story.takes.iter().any(|other| other.take != taken.take && other.ended > taken.begun && other.begun < ended);
    let unknown = facts.lost.iter().any(|lost| {
        facts.line(taken.queue).any(|queue| queue == lost.queue) && lost.begun < ended && lost.until > free_from
    });
    !known && !unknown
}

/// Taken for granted: a queue that says so at the end is empty.
pub(super) fn nothing_is_lost(facts: &Facts<'_>, report: Report<'_>) {
    for queue in facts.history.queues.iter().filter(|queue| !queue.emptied) {
        report(Promise::NothingIsLost, format!("{} keeps messages that do not come back", queue.name));
    }
    for (number, story) in &facts.stories {
        let Some(queue) = story.sent_to() else { continue };
        let emptied = facts.line(queue).all(|queue| facts.history.queues[queue].emptied);
        // A receipt from an answer that does not count as heard deletes all the same.
        let deletable = story.deletes.iter().any(|(take, delete)| may_delete(story, *take, delete));
        if !emptied || deletable || facts.purgeable(story) {
            continue;
        }
        if story.takes.is_empty() {
            if story.acknowledged() {
                let name = facts.name(queue);
                report(Promise::NothingIsLost, format!("message {number} was acknowledged by {name} and never came"));
            }
        } else {
            let last = story.takes.last().map(span).unwrap_or_default();
            report(
                Promise::NothingIsLost,
                format!("message {number} was received last {last}, deleted by nobody, and is gone"),
            );
        }
    }
}

/// Whether a delete may have had the newest receipt.
fn may_delete(story: &Story<'_>, take: super::Take, delete: &Attempt<'_>) -> bool {
    if delete.refused() {
        return false;
    }
    let Some(taken) = story.take(take) else { return true };
    !story.takes.iter().any(|newer| newer.begun >= taken.ended && newer.ended <= delete.operation.begun)
}

pub(super) fn delayed(facts: &Facts<'_>, report: Report<'_>) {
    for (number, story) in &facts.stories {
        let [send] = story.sends.as_slice() else { continue };
        let Call::Send { delay_s, .. } = send.operation.call else { continue };
        let due = (send.operation.begun + Micros::from(delay_s) * SECOND).saturating_sub(GRAIN);
        for taken in story.takes.iter().filter(|taken| delay_s > 0 && taken.ended < due) {
            if facts.same_time(send.run, taken.run) {
                report(
                    Promise::Delayed,
                    format!("message {number} was delayed until {due} µs and received {}", span(taken)),
                );
            }
        }
    }
}

pub(super) fn dead_lettered(facts: &Facts<'_>, report: Report<'_>) {
    for (number, story) in &facts.stories {
        let Some(queue) = story.sent_to() else { continue };
        let Some((receives_max, dlq)) = facts.redrive_of(queue) else { continue };
        let here = story.takes.iter().filter(|taken| taken.queue == queue);
        let receives = here.clone().count();
        if receives > receives_max as usize {
            report(Promise::DeadLettered, format!("message {number} was received {receives} times of {receives_max}"));
        }
        for dead in story.takes.iter().filter(|taken| taken.queue == dlq) {
            if dead.receive_count <= receives_max {
                let count = dead.receive_count;
                report(
                    Promise::DeadLettered,
                    format!("message {number} moved on although it had been received {} times only", count - 1),
                );
            }
            for taken in here.clone().filter(|taken| taken.begun > dead.ended) {
                report(
                    Promise::DeadLettered,
                    format!(
                        "message {number} was in the dead-letter queue {} and came from its queue {}",
                        span(dead),
                        span(taken)
                    ),
                );
            }
        }
    }
}

/// Only a full disk refuses, and only sends; what a client may not do with an old receipt is another matter.
pub(super) fn served(facts: &Facts<'_>, report: Report<'_>) {
    for operation in &facts.history.operations {
        let Outcome::Refused(code) = &operation.outcome else { continue };
        let full = facts.history.full.iter().any(|(from, to)| operation.begun <= *to && *from <= operation.ended);
        let what = match operation.call {
            Call::Send { .. } if full && code == "ServiceUnavailable" => continue,
            Call::Send { .. } => "send",
            Call::Receive { .. } => "receive",
            Call::Purge => continue, // once a minute is enough
            // Of a receipt that may be old already.
            Call::Delete { take } | Call::Hide { take, .. } if !held(facts, take, operation) => continue,
            Call::Delete { .. } => "delete",
            Call::Hide { .. } => "change of visibility",
        };
        let (name, at) = (facts.name(operation.queue), operation.begun);
        report(Promise::Served, format!("a {what} on {name} at {at} µs was refused with {code}"));
    }
}

/// Whether the take's message was surely in its receiver's hands during the operation.
fn held(facts: &Facts<'_>, take: super::Take, operation: &super::Operation) -> bool {
    facts.stories.values().any(|story| {
        story.take(take).is_some_and(|taken| {
            let gone = story.deletes.iter().any(|(_, delete)| {
                !std::ptr::eq(delete.operation, operation) && delete.operation.begun < operation.ended
            });
            facts.same_time(taken.run, facts.run_of(operation))
                && taken.hold.covers(operation.begun, operation.ended)
                && !gone
                && !facts.purgeable(story)
        })
    })
}

pub(super) fn span(taken: &Taken<'_>) -> String {
    let run = taken.run.map_or_else(|| "between two runs".to_owned(), |run| format!("in run {run}"));
    format!("at {}–{} µs {run}", taken.begun, taken.ended)
}
