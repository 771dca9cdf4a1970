//! What happens by itself: visibility timeouts, delays, retention.

use super::super::model::QueueId;
use super::super::overseer::Change;
use super::super::record::{Due, Entry};
use super::shelf::{Place, State};
use super::{Context, Engine, drop_message, expired, id_text, observe};

impl Engine {
    /// When the next timer ends, on the monotonic clock.
    pub(in crate::queue) fn next_due_ms(&self) -> Option<u64> {
        let next = |kept: &super::Kept| kept.shelf.next_due_ms().into_iter().chain(kept.not_before_ms).min();
        self.kept.values().filter_map(next).min()
    }

    /// Ends every timer that is due, as long as fewer than `changes_max` changes were made. True: ask again.
    pub(in crate::queue) fn tick(&mut self, ctx: &mut Context<'_>, changes_max: usize) -> bool {
        let mono_ms = ctx.now.mono_ms;
        for kept in self.kept.values_mut() {
            ctx.group.freed |= kept.not_before_ms.take_if(|at_ms| *at_ms <= mono_ms).is_some();
        }
        let due = |kept: &super::Kept| kept.shelf.next_due_ms().is_some_and(|due_ms| due_ms <= mono_ms);
        let queues: Vec<QueueId> = self.kept.iter().filter(|(_, kept)| due(kept)).map(|(id, _)| *id).collect();
        for queue in queues {
            while let Some((place, state)) = self.kept.get(&queue).and_then(|kept| {
                let place = kept.shelf.due(mono_ms)?;
                Some((place, kept.shelf.slot(place).state))
            }) {
                if ctx.group.changes >= changes_max {
                    return true;
                }
                match state {
                    State::InFlight => self.time_out(ctx, queue, place),
                    _ => self.come_back(ctx, queue, place),
                }
            }
        }
        false
    }

    fn time_out(&mut self, ctx: &mut Context<'_>, queue: QueueId, place: Place) {
        let Some(kept) = self.kept.get(&queue) else { return };
        let message = kept.shelf.slot(place).id;
        let overseen = super::overseer_of(kept, ctx.overseer).is_some();
        if overseen {
            // Said once: after a restart the message stands as ready, and the overseer is not told again.
            ctx.group.write(&Entry::Hidden { queue, message, due: Due::OVER });
        }
        let message_id = id_text(kept, ctx, message);
        match observe(kept, ctx, Change::TimedOut { message_id: &message_id }) {
            Some(action) => self.act(ctx, queue, message, action),
            None => self.come_back(ctx, queue, place),
        }
    }

    /// Looks at the next `places_max` places of every queue and drops what is past its retention, as long as fewer than
    /// `changes_max` changes were made. True when all queues have been walked to their end.
    pub(in crate::queue) fn sweep(&mut self, ctx: &mut Context<'_>, places_max: u32, changes_max: usize) -> bool {
        let mut ended = true;
        for kept in self.kept.values_mut() {
            let end = kept.shelf.places();
            let stop = kept.swept.saturating_add(places_max).min(end);
            while kept.swept < stop && ctx.group.changes < changes_max {
                let place = kept.swept;
                if kept.shelf.any(place).is_some_and(|slot| expired(kept, ctx.now, slot)) {
                    drop_message(kept, ctx, place, "retention");
                    kept.tally.expired += 1;
                    if kept.shelf.len() == 0 {
                        break; // an emptied shelf has no places left
                    }
                }
                kept.swept += 1;
            }
            ended &= kept.swept >= kept.shelf.places();
        }
        if ended {
            self.kept.values_mut().for_each(|kept| kept.swept = 0);
        }
        ended
    }
}
