//! Time, which enters here once and is handed inwards.
//!
//! Deadlines use `mono_ms`, or tokio's timers where something sleeps; `wall_ms` is for timestamps alone.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use backlot_wire::Timestamp;

/// One moment on both clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the process began; never steps.
    pub mono_ms: u64,
    /// Milliseconds since 1970; steps with NTP.
    pub wall_ms: u64,
}

impl Now {
    #[must_use]
    pub fn timestamp(self) -> Timestamp {
        Timestamp(self.wall_ms)
    }
}

/// The machine's clocks. A copy is the same clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    began: Instant,
}

impl Clock {
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the edge at which time enters")]
    #[allow(clippy::new_without_default, reason = "beginning a clock is an act, not a default")]
    pub fn new() -> Self {
        Self { began: Instant::now() }
    }

    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "this is the edge at which time enters")]
    pub fn now(&self) -> Now {
        let mono_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { mono_ms, wall_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX) }
    }
}
