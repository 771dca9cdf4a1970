//! What FIFO queues promise beyond that: order within a group, and one at a time.

use std::collections::BTreeMap;

use super::super::history::{Call, Micros, Number, Promise};
use super::standard::span;
use super::{Facts, Report, Story, Taken, contradict};

type Groups<'a> = BTreeMap<(usize, u32), Vec<(Number, &'a Story<'a>)>>;

fn groups<'a>(facts: &'a Facts<'_>) -> Groups<'a> {
    let mut groups = Groups::new();
    for (number, story) in &facts.stories {
        let Some(send) = story.sends.first() else { continue };
        if let Call::Send { group: Some(group), .. } = send.operation.call {
            groups.entry((send.operation.queue, group)).or_default().push((*number, story));
        }
    }
    groups
}

/// Whether `one` was surely laid on the queue before `other`.
fn before(one: &Story<'_>, other: &Story<'_>) -> bool {
    let there = one.sends.iter().filter(|send| send.done).map(|send| send.operation.ended).min();
    let begun = other.sends.iter().map(|send| send.operation.begun).min();
    there.zip(begun).is_some_and(|(there, begun)| there <= begun)
}

pub(super) fn ordered(facts: &Facts<'_>, report: Report<'_>) {
    for ((queue, group), stories) in groups(facts) {
        let name = facts.name(queue);
        let lost = facts.lost.iter().filter(|lost| lost.queue == queue).map(|lost| lost.begun).min();
        for (number, story) in &stories {
            if facts.purgeable(story) {
                continue;
            }
            let first = story.takes.iter().map(|taken| taken.begun).chain(lost).min().unwrap_or(Micros::MAX);
            for (later, other) in stories.iter().filter(|(_, other)| before(story, other)) {
                for taken in &other.takes {
                    if let Some(problem) = overtakes(story, taken, first) {
                        report(
                            Promise::Ordered,
                            format!(
                                "message {later} of group {group} in {name}, received {}, {problem} {number}, which is before it",
                                span(taken)
                            ),
                        );
                    }
                }
            }
        }
    }
}

/// What `taken` has against the order, being a take of a message behind that of `story`, which was received no earlier than `first`.
fn overtakes(story: &Story<'_>, taken: &Taken<'_>, first: Micros) -> Option<&'static str> {
    if taken.ended < first {
        return Some("came before");
    }
    match story.takes.iter().find(|earlier| earlier.receive == taken.receive) {
        Some(earlier) => (earlier.position > taken.position).then_some("stood in the same answer before"),
        // By itself it comes when the one before it has gone.
        None => story.takes.iter().any(|again| again.begun > taken.ended).then_some("came, and after it again"),
    }
}

/// Nobody receives from a group while a message of it is in flight.
pub(super) fn locked(facts: &Facts<'_>, report: Report<'_>) {
    for ((queue, group), stories) in groups(facts) {
        let name = facts.name(queue);
        let takes: Vec<(&Taken<'_>, Micros)> = stories
            .iter()
            .flat_map(|(_, story)| {
                let gone = story.deletes.iter().map(|(_, delete)| delete.operation.begun).min().unwrap_or(Micros::MAX);
                story.takes.iter().map(move |taken| (taken, gone))
            })
            .collect();
        for (index, (one, one_gone)) in takes.iter().enumerate() {
            for (other, other_gone) in &takes[index + 1..] {
                if one.number == other.number || one.receive == other.receive || !facts.same_time(one.run, other.run) {
                    continue;
                }
                let forbids = |first: &Taken<'_>, second: &Taken<'_>| {
                    let gone = if first.take == one.take { *one_gone } else { *other_gone };
                    first.hold.until(gone).covers(first.begun.max(second.begun), second.ended)
                };
                if contradict(one, other, forbids) {
                    report(
                        Promise::GroupLocked,
                        format!(
                            "group {group} in {name} gave out {} {} while {} was in flight {}",
                            other.number,
                            span(other),
                            one.number,
                            span(one)
                        ),
                    );
                }
            }
        }
    }
}
