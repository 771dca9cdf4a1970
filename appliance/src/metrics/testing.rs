//! What tests of this room share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::promql::{Budget, Limits};
use crate::clock::{Clock, Now};

/// A clock that stands still until it is set.
#[derive(Default)]
pub(super) struct StillClock(pub(super) AtomicU64);

impl Clock for StillClock {
    fn now(&self) -> Now {
        let ms = self.0.load(Ordering::Relaxed);
        Now { mono_ms: ms, wall_ms: ms }
    }
}

pub(super) fn budget() -> Budget {
    let limits = Limits { samples_max: 10_000_000, timeout_ms: 60_000 };
    Budget::new(&limits, Arc::new(StillClock::default()), Arc::new(AtomicBool::new(false)))
}
