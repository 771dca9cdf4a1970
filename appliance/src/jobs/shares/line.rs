//! Who stands in line, in numbers: how many jobs wait, by queue, priority and class, and since when.
//!
//! It says how many stand before a job, without walking through all that wait.

use std::collections::BTreeMap;

use crate::queue::Class;

/// Whose line, and at which place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::jobs) struct Place {
    pub queue: String,
    pub priority: u8,
    pub class: Class,
    pub since_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Lines {
    queues: BTreeMap<String, Line>,
}

/// By priority and class: how many began to wait at which moment.
type Line = BTreeMap<(u8, Class), BTreeMap<u64, u32>>;

/// How many stand before a job on its queue, among those that need the same agents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::jobs) struct Ahead {
    pub of_higher_priority: u64,
    /// The highest priority among them.
    pub highest: u8,
    /// Of its own priority, and waiting longer.
    pub of_its_own: u64,
}

impl Lines {
    pub(super) fn enter(&mut self, place: &Place) {
        let line = self.queues.entry(place.queue.clone()).or_default();
        *line.entry((place.priority, place.class)).or_default().entry(place.since_ms).or_default() += 1;
    }

    pub(super) fn leave(&mut self, place: &Place) {
        let Some(line) = self.queues.get_mut(&place.queue) else { return };
        let key = (place.priority, place.class);
        if let Some(moments) = line.get_mut(&key) {
            if let Some(count) = moments.get_mut(&place.since_ms) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    moments.remove(&place.since_ms);
                }
            }
            if moments.is_empty() {
                line.remove(&key);
            }
        }
        if line.is_empty() {
            self.queues.remove(&place.queue);
        }
    }

    /// Who stands before `place`; `competes` says whether a class takes agents away from it.
    pub(super) fn ahead(&self, place: &Place, competes: impl Fn(Class) -> bool) -> Ahead {
        let mut ahead = Ahead::default();
        let Some(line) = self.queues.get(&place.queue) else { return ahead };
        for ((priority, class), moments) in line.range((place.priority, Class(0))..) {
            if !competes(*class) {
                continue;
            }
            if *priority > place.priority {
                ahead.of_higher_priority += moments.values().map(|count| u64::from(*count)).sum::<u64>();
                ahead.highest = ahead.highest.max(*priority);
            } else {
                ahead.of_its_own += moments.range(..place.since_ms).map(|(_, count)| u64::from(*count)).sum::<u64>();
            }
        }
        ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(priority: u8, class: u32, since_ms: u64) -> Place {
        Place { queue: "jobs".into(), priority, class: Class(class), since_ms }
    }

    #[test]
    fn those_before_a_job_are_counted_and_those_that_need_other_agents_are_not() {
        let mut lines = Lines::default();
        for standing in
            [place(9, 1, 50), place(7, 1, 60), place(5, 1, 10), place(5, 1, 10), place(5, 2, 5), place(1, 1, 0)]
        {
            lines.enter(&standing);
        }
        let own = place(5, 1, 20);
        lines.enter(&own);
        let all = lines.ahead(&own, |_| true);
        assert_eq!(all, Ahead { of_higher_priority: 2, highest: 9, of_its_own: 3 });
        assert_eq!(lines.ahead(&own, |class| class == Class(1)).of_its_own, 2);
        lines.leave(&place(9, 1, 50));
        lines.leave(&place(5, 1, 10));
        assert_eq!(
            lines.ahead(&own, |class| class == Class(1)),
            Ahead { of_higher_priority: 1, highest: 7, of_its_own: 1 }
        );
        for standing in [place(7, 1, 60), place(5, 1, 10), place(5, 2, 5), place(1, 1, 0), own] {
            lines.leave(&standing);
        }
        assert!(lines.queues.is_empty());
    }
}
