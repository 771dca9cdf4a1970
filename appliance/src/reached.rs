//! How far one that follows a journal has come, and the wait of those who ask for what it has found.
//!
//! What was acknowledged before a question is to be part of its answer, however busy the host: who asks waits while following goes on. It
//! is not waited for where it fails (a full disk), and hardly where a flood has run far ahead of it: whoever looks into an incident wants an
//! answer now. Then it is as fresh as it can be.

use std::time::Duration;

use tokio::sync::watch;

/// Longest wait, below the half minute after which clients of dashboards give up.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Longest wait behind a flood.
const WAIT_IN_FLOOD_MAX: Duration = Duration::from_secs(2);
/// Bytes of the journal that are a flood: four seconds of a core that has nothing else to do.
const FLOOD_BYTES: u64 = 64 << 20;

/// Positions of the journal, in bytes.
pub(crate) struct Reached {
    standing: watch::Sender<Standing>,
}

#[derive(Clone, Copy)]
struct Standing {
    position: u64,
    fails: bool,
}

impl Reached {
    pub(crate) fn new(position: u64) -> Self {
        Self { standing: watch::Sender::new(Standing { position, fails: false }) }
    }

    /// Everything before `position` can be found.
    pub(crate) fn reach(&self, position: u64) {
        self.standing.send_replace(Standing { position, fails: false });
    }

    /// The last step went wrong: nobody is to wait until one goes well again.
    pub(crate) fn fail(&self) {
        self.standing.send_modify(|standing| standing.fails = true);
    }

    /// Whether everything before `position` can be found.
    pub(crate) fn has(&self, position: u64) -> bool {
        self.standing.borrow().position >= position
    }

    /// Waits until everything before `position` can be found, as long as that is to be expected.
    pub(crate) async fn wait_for(&self, position: u64) {
        let mut standing = self.standing.subscribe();
        let behind_bytes = position.saturating_sub(standing.borrow().position);
        let is_there = standing.wait_for(|standing| standing.position >= position || standing.fails);
        let _ = tokio::time::timeout(wait_max(behind_bytes), is_there).await;
    }
}

/// How long so many bytes are waited for.
fn wait_max(behind_bytes: u64) -> Duration {
    if behind_bytes > FLOOD_BYTES { WAIT_IN_FLOOD_MAX } else { WAIT_MAX }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn what_comes_late_is_waited_for_and_what_fails_is_not() {
        let reached = Reached::new(5);
        reached.wait_for(5).now_or_never().expect("it is there");
        let mut wait = Box::pin(reached.wait_for(9));
        assert!(wait.as_mut().now_or_never().is_none());
        reached.reach(8);
        assert!(wait.as_mut().now_or_never().is_none());
        reached.reach(9);
        wait.await;
        assert!(reached.has(9) && !reached.has(10));

        let mut wait = Box::pin(reached.wait_for(12));
        assert!(wait.as_mut().now_or_never().is_none());
        reached.fail();
        wait.await;
        reached.wait_for(12).now_or_never().expect("nor does the next one wait");
        reached.reach(10);
        assert!(reached.wait_for(12).now_or_never().is_none(), "it goes on again");
    }

    #[test]
    fn a_flood_is_hardly_waited_for() {
        assert_eq!([1, FLOOD_BYTES, FLOOD_BYTES + 1].map(wait_max), [WAIT_MAX, WAIT_MAX, WAIT_IN_FLOOD_MAX]);
    }
}
