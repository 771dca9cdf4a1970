//! Does to the appliance what may happen to it, and watches how it takes that.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::Fault;
use super::disk::Ground;
use super::history::{History, Micros, Outcome, Promise, Violation};
use super::house::{House, PATIENCE};
use super::load::{Caller, PLAIN, Shared, WORK};
use super::shim::Shim;

/// The client that looks after a full disk.
const PROBE: u64 = 1 << 20;

pub(super) struct Injector {
    house: House,
    ground: Ground,
    shim: Option<Shim>,
    shared: Arc<Shared>,
    step_s_max: i64,
    offset_s: i64,
    offsets_s: (i64, i64),
    full: Vec<(Micros, Micros)>,
    injected: Vec<String>,
    violations: Vec<Violation>,
    gave_up: bool,
}

impl Injector {
    pub(super) fn new(house: House, ground: Ground, shim: Option<Shim>, shared: Arc<Shared>, step_s_max: i64) -> Self {
        Self {
            house,
            ground,
            shim,
            shared,
            step_s_max,
            offset_s: 0,
            offsets_s: (0, 0),
            full: Vec::new(),
            injected: Vec::new(),
            violations: Vec::new(),
            gave_up: false,
        }
    }

    pub(super) fn has_shim(&self) -> bool {
        self.shim.is_some()
    }

    pub(super) fn clock_swing_s(&self) -> u64 {
        self.offsets_s.0.abs_diff(self.offsets_s.1)
    }

    /// What was broken beside the history.
    pub(super) fn violations(&self) -> Vec<Violation> {
        self.violations.clone()
    }

    pub(super) fn begin(&mut self) {
        self.start("at first");
    }

    /// It does not start any more.
    pub(super) fn gave_up(&self) -> bool {
        self.gave_up
    }

    pub(super) fn act(&mut self, fault: Fault, runtime: &Runtime, dice: &mut ChaCha8Rng) {
        if self.gave_up {
            return;
        }
        if let Some(status) = self.house.has_ended() {
            let what = format!("ended by itself with {status}: {}", self.house.log_end());
            self.broke(what);
            self.start("after it had ended by itself");
        }
        let at_ms = self.shared.now() / 1000;
        let how = match fault {
            Fault::Kill => self.kill(),
            Fault::PowerCut => self.cut_power(dice),
            Fault::FullDisk => self.fill_disk(runtime, dice),
            Fault::SlowDisk => self.slow_down(dice),
            Fault::FailedSync => self.fail_sync(dice),
            Fault::ClockStep => self.step_clock(dice),
        };
        self.injected.push(format!("{at_ms} ms: {how}"));
    }

    /// Nothing is at fault any more; perhaps one last start, so that what is drained comes from the disk.
    pub(super) fn calm_down(&mut self, dice: &mut ChaCha8Rng) {
        if dice.random_bool(0.5) {
            let how = self.kill();
            self.injected.push(format!("{} ms: at last, {how}", self.shared.now() / 1000));
        }
    }

    /// Ends the appliance, and lays what happened into the history.
    pub(super) fn finish(&mut self, history: &mut History) -> Vec<String> {
        self.house.kill();
        for panic in self.house.panics() {
            self.broke(panic);
        }
        history.runs = self.house.runs.clone();
        history.full = self.full.clone();
        self.injected.clone()
    }

    fn kill(&mut self) -> String {
        self.house.kill();
        self.start("after kill -9");
        "kill -9".into()
    }

    fn cut_power(&mut self, dice: &mut ChaCha8Rng) -> String {
        let survives = dice.random_bool(0.5);
        self.house.falls_silent();
        self.ground.cut_power();
        let mut how = "power cut";
        if survives {
            // The process is there a little longer than its disk, and must not answer as if nothing were.
            if self.house.wait().is_none() {
                self.broke("goes on without its disk".into());
            }
            how = "power cut, seen by the process";
        }
        self.house.kill();
        self.ground.power_on();
        self.start("after a power cut");
        how.into()
    }

    fn fail_sync(&mut self, dice: &mut ChaCha8Rng) -> String {
        let Some(shim) = &self.shim else { return "nothing".into() };
        shim.keep_pictures(true);
        let before = shim.syncs();
        let seen = within(PATIENCE, || (shim.syncs() > before + 8).then_some(()));
        std::thread::sleep(Duration::from_millis(dice.random_range(0..400)));
        shim.fail_syncs(true);
        let status = self.house.wait();
        let Some(shim) = &self.shim else { return "nothing".into() };
        let failed = shim.failed();
        shim.fail_syncs(false);
        shim.keep_pictures(false);
        match status {
            _ if seen.is_none() => self.broke("synced nothing, with clients at work".into()),
            None => self.broke("goes on after a failed sync".into()),
            Some(status) if status.success() || failed == 0 => {
                self.broke(format!("ended with {status} after {failed} failed syncs"));
            }
            Some(_) => {}
        }
        self.house.kill();
        self.start("after a failed sync");
        format!("{failed} failed sync")
    }

    fn slow_down(&mut self, dice: &mut ChaCha8Rng) -> String {
        let delay_ms = dice.random_range(20..250);
        let pause = Duration::from_millis(dice.random_range(500..1500));
        let killed = dice.random_bool(0.3);
        if let Some(shim) = &self.shim {
            shim.slow_down(delay_ms * 1000);
        }
        std::thread::sleep(pause);
        if killed {
            self.house.kill();
        }
        if let Some(shim) = &self.shim {
            shim.slow_down(0);
        }
        if killed {
            self.start("after kill -9 on a slow disk");
        }
        format!("syncs took {delay_ms} ms more{}", if killed { ", then kill -9" } else { "" })
    }

    fn step_clock(&mut self, dice: &mut ChaCha8Rng) -> String {
        self.offset_s = dice.random_range(-self.step_s_max..=self.step_s_max);
        self.offsets_s = (self.offsets_s.0.min(self.offset_s), self.offsets_s.1.max(self.offset_s));
        let restarts = dice.random_bool(0.5);
        if let Some(shim) = &self.shim {
            shim.shift_clock(self.offset_s * 1000);
        }
        if restarts {
            std::thread::sleep(Duration::from_millis(dice.random_range(0..500)));
            self.kill();
        }
        format!("wall clock at {:+} s{}", self.offset_s, if restarts { ", then kill -9" } else { "" })
    }

    fn fill_disk(&mut self, runtime: &Runtime, dice: &mut ChaCha8Rng) -> String {
        let from = self.shared.now();
        // What is refused from here on has a cause, until a send has been taken again.
        self.full.push((from, Micros::MAX));
        let shared = Arc::clone(&self.shared);
        let mut probe = Caller::new(&shared, PROBE);
        // What is deleted and collected makes room again, so the ballast grows until each has told it, at whatever moment.
        let (ground, house) = (&self.ground, &self.house);
        let mut heard = [false; 3];
        let told = within(PATIENCE * 2, || {
            let filled = ground.fill();
            let refusal = |outcome: &Outcome| matches!(outcome, Outcome::Refused(_));
            let refused = filled.is_ok() && runtime.block_on(send_until(&shared, &mut probe, refusal));
            for (heard, says) in heard.iter_mut().zip(says_full(house)) {
                *heard |= says;
            }
            (refused && heard == [true; 3]).then_some(())
        });
        if told.is_none() {
            self.broke(format!("does not refuse sends on a full disk, or does not tell: {}", standing(&self.house)));
        }
        if dice.random_bool(0.4) {
            self.house.kill();
            self.start("on a full disk");
        }
        if self.gave_up {
            return "disk full, and no start".into();
        }
        let went_on = runtime.block_on(async {
            for _ in 0..10 {
                for queue in [WORK, PLAIN] {
                    if let Err(Outcome::Refused(code)) = probe.consume(queue, 30).await {
                        return Err(code);
                    }
                }
            }
            Ok(())
        });
        if let Err(code) = went_on {
            self.broke(format!("refuses receives with {code} on a full disk"));
        }
        if let Err(problem) = self.ground.empty() {
            self.broke(problem);
        }
        let took = runtime.block_on(send_until(&shared, &mut probe, |outcome| *outcome == Outcome::Done));
        if !took {
            self.broke("refuses sends although the disk has had room for a minute".into());
        }
        // Meanwhile the last refusals reach their clients.
        if within(PATIENCE * 2, || (says_full(&self.house) == [false; 3]).then_some(())).is_none() {
            self.broke(format!("says that the disk is full when it is not: {}", standing(&self.house)));
        }
        let to = self.shared.now();
        if let Some(span) = self.full.last_mut() {
            span.1 = to;
        }
        format!("disk full for {} ms", (to - from) / 1000)
    }

    fn start(&mut self, when: &str) {
        if !self.gave_up
            && let Err(problem) = self.house.start()
        {
            self.broke(format!("does not start {when}: {problem}"));
            self.gave_up = true;
        }
    }

    fn broke(&mut self, what: String) {
        self.violations.push(Violation { promise: Promise::Conduct, what: format!("the appliance {what}") });
    }
}

/// Whether `/readyz`, the metric and the alert say that the disk is full.
fn says_full(house: &House) -> [bool; 3] {
    let (ready, metrics) = (house.get("/readyz").1, house.get("/metrics").1);
    let fires = serde_json::from_str::<Value>(&house.get("/v1/alerts").1).is_ok_and(|alerts| {
        let of_disk = |alert: &&Value| alert["name"] == "DiskFull";
        alerts["alerts"].as_array().into_iter().flatten().filter(of_disk).any(|alert| alert["state"] == "firing")
    });
    let full = |line: &str| line == "backlot_journal_full{journal=\"control\"} 1";
    [ready.contains("disk is full"), metrics.lines().any(full), fires]
}

/// What it says instead.
fn standing(house: &House) -> String {
    let (ready, metrics) = (house.get("/readyz"), house.get("/metrics"));
    let metrics: Vec<&str> = metrics.1.lines().filter(|line| line.starts_with("backlot_journal_full")).collect();
    format!("readyz {ready:?}, metrics {metrics:?}, alerts {:?}", house.get("/v1/alerts"))
}

/// Sends until the outcome is as wanted. False: it was not within the patience.
async fn send_until(shared: &Shared, probe: &mut Caller, wanted: impl Fn(&Outcome) -> bool) -> bool {
    let deadline = shared.now() + u64::try_from(PATIENCE.as_micros()).unwrap_or(Micros::MAX);
    while shared.now() < deadline {
        if probe.send_large(PLAIN).await.as_ref().is_some_and(&wanted) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

#[allow(clippy::disallowed_methods, reason = "a test waits on the real clock, with a deadline")]
fn within<T>(patience: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
