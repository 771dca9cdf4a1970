//! The queues as a follower of the control journal.

use backlot_journal::Lsn;

use super::Queues;
use super::record::{Entry, content_of};
use crate::clock::Now;
use crate::control::{Commit, Follower, Kind, Permit};

impl Follower for Queues {
    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Queue]
    }

    fn replay(&self, _: Kind, lsn: Lsn, payload: &[u8]) -> Result<(), String> {
        let now = self.shared.clock.now();
        self.shared.state.lock().engine.replay(now, lsn, payload, self.shared.overseer())
    }

    fn replayed(&self, now: Now) {
        self.shared.state.lock().engine.replayed(now, self.shared.overseer());
    }

    fn live_bytes(&self) -> u64 {
        self.shared.state.lock().engine.live_bytes()
    }

    fn relocate(&self, _: Kind, lsn: Lsn, payload: &[u8], permit: Permit) -> Option<Commit> {
        let entry = Entry::decode(payload).ok()?; // it was understood when it was written or replayed
        let mut state = self.shared.state.lock();
        let group = state.engine.relocate(self.shared.clock.now(), lsn, &entry, content_of(payload))?;
        let commit = permit.submit(&group.records);
        state.engine.placed(&group, &commit.lsns);
        Some(commit)
    }
}
